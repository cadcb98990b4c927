//! What was typed here, as what is typed on a host: the options that the command there has, too, without those that are about hosts,
//! the end of the session and where it is written to.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

/// A word that cannot be handed to every shell.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{} has characters that not every shell takes literally, so it cannot be handed to the pystap of another host; write it \
     without them",
    crate::text::Foreign::new(_0.as_str())
)]
pub struct Unquotable(String);

/// The options of `from` that were typed, as words for the command `onto`, without `own`.
pub fn words(from: &Command, matches: &ArgMatches, onto: &Command, own: &[&str]) -> Vec<OsString> {
    let mut words = Vec::new();
    for argument in from.get_arguments() {
        let id = argument.get_id().as_str();
        let is_typed = matches.value_source(id) == Some(ValueSource::CommandLine);
        if own.contains(&id) || !is_typed {
            continue;
        }
        let there = onto.get_arguments().find(|it| it.get_id() == id);
        let option = match (id, there.and_then(|it| it.get_long())) {
            (_, Some(long)) => format!("--{long}"),
            // The service that a command may name without an option.
            ("of", None) if there.is_none() => "--service".to_owned(),
            _ if there.is_some_and(|it| it.is_positional()) => String::new(),
            _ => continue,
        };
        if !argument.get_action().takes_values() {
            words.push(option.into());
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            if option.is_empty() {
                words.push(value.to_owned());
                continue;
            }
            let mut word = OsString::from(format!("{option}="));
            word.push(value);
            words.push(word);
        }
    }
    words
}

/// A command line for the shell of a host.
///
/// # Errors
/// When a word cannot be quoted for every shell.
pub fn for_shell(words: &[OsString]) -> Result<String, Unquotable> {
    let quoted = words.iter().map(|word| {
        let quoted = crate::shell::word(word);
        // What needs numbers is understood by few of them.
        match quoted.starts_with("$'") {
            true => Err(Unquotable(word.to_string_lossy().into_owned())),
            false => Ok(quoted),
        }
    });
    Ok(quoted.collect::<Result<Vec<_>, _>>()?.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;

    fn forwarded(typed: &str, onto: &str) -> Vec<String> {
        let all = Cli::whole_command();
        let words_typed = typed.split(' ');
        let matches = all
            .clone()
            .try_get_matches_from(words_typed)
            .expect("it can be typed");
        let (name, matches) = matches.subcommand().expect("a command");
        let find = |name: &str| all.find_subcommand(name).expect("a command").clone();
        let own = ["output", "duration", "color", "quiet", "verbose"];
        words(&find(name), matches, &find(onto), &own)
            .into_iter()
            .map(|word| word.into_string().expect("text"))
            .collect()
    }

    #[test]
    fn options_that_the_command_there_has_go_there_with_all_their_values() {
        assert_eq!(
            forwarded(
                "pystap top nova-compute --function a* --function b* -p 7 -p 8 --events call,gc --agent --sort calls -d 3s --limit 4",
                "trace"
            ),
            [
                "--service=nova-compute",
                "--pid=7",
                "--pid=8",
                "--events=call",
                "--events=gc",
                "--function=a*",
                "--function=b*",
                "--agent"
            ]
        );
        assert_eq!(
            forwarded("pystap dump nova --json --no-tasks", "dump"),
            ["nova", "--no-tasks", "--json"]
        );
    }

    #[test]
    fn what_a_shell_would_take_for_more_than_it_is_is_quoted_and_what_few_understand_is_refused() {
        let of = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(Into::into).collect();
            for_shell(&words)
        };
        assert_eq!(
            of(&["pystap", "--function=a*; rm -rf $HOME", "it's"]).as_deref(),
            Ok(r#"pystap '--function=a*; rm -rf $HOME' 'it'\''s'"#)
        );
        assert!(of(&["a\nb"]).is_err());
    }
}
