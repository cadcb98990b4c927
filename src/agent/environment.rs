//! The way into a command that pystap launches: its environment. Our own `sitecustomize` comes first on PYTHONPATH (and is there
//! as `usercustomize`, too, which Python imports outside of virtual environments when a program has put another
//! `sitecustomize` before ours, as opentelemetry-instrument does), and the variable `PYSTAP_AGENT` names the socket that
//! the agent joins and what it says there; processes that the command starts inherit both.
//!
//! CPython's options -E and -I ignore the environment, -S ignores `sitecustomize`: then this way is closed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pystap_agent_protocol::Follow;

use super::socket;
use crate::files::reading;
use crate::python::beginning;

/// Our `sitecustomize`.
pub(super) const SITECUSTOMIZE: &str = include_str!("sitecustomize.py");

/// The variables for a launched command: names and values.
pub(super) fn variables(site: &Path, follow: &Follow) -> Vec<(OsString, OsString)> {
    let mut path = site.as_os_str().to_owned();
    // An empty variable means no entry, as an absent one does; an extra separator would mean the working directory.
    if let Some(present) = std::env::var_os("PYTHONPATH").filter(|present| !present.is_empty()) {
        path.push(":");
        path.push(present);
    }
    vec![
        ("PYTHONPATH".into(), path),
        ("PYSTAP_AGENT".into(), follow.to_string().into()),
    ]
}

/// The same for a whole command: its first word is the interpreter, or a script whose first line names one.
pub fn obstacle_of_command(command: &[OsString]) -> Option<String> {
    let (program, arguments) = command.split_first()?;
    let path = which::which(program).ok()?;
    let named = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("python"))
    };
    if named(&path) {
        return obstacle(arguments);
    }
    let words = first_line(&path)?;
    let mut words = words.split_whitespace();
    words.find(|word| named(Path::new(word)))?;
    let options: Vec<OsString> = words.map(OsString::from).collect();
    obstacle(&options)
}

/// What the first line of a script says after `#!`.
fn first_line(script: &Path) -> Option<String> {
    let mut head = [0; 256];
    let mut file = reading::open(script).ok()?;
    let length = std::io::Read::read(&mut file, &mut head).ok()?;
    let text = String::from_utf8_lossy(head.get(..length)?).into_owned();
    Some(text.strip_prefix("#!")?.lines().next()?.to_owned())
}

/// The interpreter that a command names, itself or in the first line of its script, where that has a path.
pub(super) fn interpreter_of_command(command: &[OsString]) -> Option<PathBuf> {
    let path = which::which(command.first()?).ok()?;
    let named = first_line(&path).and_then(|line| Some(line.split_whitespace().next()?.to_owned()));
    Some(named.map_or(path, PathBuf::from))
}

/// Why this environment, with this directory on PYTHONPATH, did not bring the agent into a process that was started below a launched
/// command, as far as its arguments and its own environment show it: a clause.
pub(super) fn obstacle_in(pid: u32, command: &[String], site: &Path) -> Option<String> {
    let arguments: Vec<OsString> = command.iter().skip(1).map(OsString::from).collect();
    if let Some(option) = obstacle(&arguments) {
        return Some(format!(
            "it was started with {option}, which leaves out the environment that brings pystap's agent in"
        ));
    }
    let environment = beginning(pid, "environ");
    let value = |name: &[u8]| {
        let mut variables = environment.split(|byte| *byte == 0);
        variables.find_map(|it| it.strip_prefix(name)?.strip_prefix(b"="))
    };
    if value(b"PYSTAP_AGENT").is_none() {
        return Some(
            "it was started without the environment that brings pystap's agent in (as by env -i or sudo)"
                .to_owned(),
        );
    }
    let network = |process: &str| socket::network_of(process).ok();
    if network(&pid.to_string()) != network("self") {
        return Some(
            "it runs in another network namespace than pystap (unshare -n, a container), where its agent finds nobody to join"
                .to_owned(),
        );
    }
    let path = value(b"PYTHONPATH").unwrap_or_default();
    let mut entries = path.split(|byte| *byte == b':');
    match entries.position(|entry| entry == site.as_os_str().as_bytes()) {
        None => Some("its PYTHONPATH was replaced by one without pystap's directory".to_owned()),
        Some(0) => None,
        Some(_) => Some(
            "another sitecustomize came before pystap's on its PYTHONPATH (as opentelemetry-instrument has one)"
                .to_owned(),
        ),
    }
}

/// The interpreter option that keeps our `sitecustomize` out, as the user typed it.
pub fn obstacle(arguments: &[OsString]) -> Option<String> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let bytes = argument.as_bytes();
        let Some(letters) = bytes
            .strip_prefix(b"-")
            .filter(|letters| !letters.is_empty())
        else {
            // The script; what follows belongs to it.
            return None;
        };
        if letters.starts_with(b"-") {
            // --check-hash-based-pycs takes a word.
            if argument == OsStr::new("--check-hash-based-pycs") {
                arguments.next();
            }
            continue;
        }
        for (at, letter) in letters.iter().enumerate() {
            match letter {
                b'I' | b'E' | b'S' => return Some(format!("-{}", char::from(*letter))),
                // What is to be run; the rest belongs to it.
                b'c' | b'm' => return None,
                // The rest of the word, or the next one, belongs to the option.
                b'W' | b'X' => {
                    if at + 1 == letters.len() {
                        arguments.next();
                    }
                    break;
                }
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Option<String> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        obstacle(&words)
    }

    #[test]
    fn options_that_leave_out_the_environment_are_found_where_they_are_options() {
        for (line, option) in [
            ("-I x.py", Some("-I")),
            ("-uE -m x", Some("-E")),
            ("-X dev -S -c pass", Some("-S")),
            ("-W error::I -B x.py", None),
            ("-Wignore x.py -I", None),
            ("-m pytest -S", None),
            ("-c pass -E", None),
            ("x.py -E", None),
            ("-bbs x.py", None),
            ("--check-hash-based-pycs always -I x.py", Some("-I")),
            ("- -I", None),
            ("", None),
        ] {
            assert_eq!(found(line).as_deref(), option, "{line}");
        }
    }
}
