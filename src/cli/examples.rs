//! Examples of every command, for its help and its manual page; and what is shown to somebody who types `pystap` alone. Tests
//! take each through a shell and the parser.

use anstyle::Style;
use clap::Command;

/// What it is for, and what is typed.
pub(crate) type Example = (&'static str, &'static str);

/// What people want first.
const FIRST: [Example; 5] = [
    ("which functions take the time, live", "pystap top -p PID"),
    ("every call, as it happens", "pystap trace -p PID"),
    (
        "all of it into a file, for report and export",
        "pystap record -o FILE -p PID",
    ),
    ("what every thread does right now", "pystap dump -p PID"),
    (
        "what tracing lacks here, and how to mend it",
        "pystap doctor",
    ),
];

/// How pystap ends, in a few words.
const STATUS: &str = "Exit status: 0 done, 1 failed while running, 2 wrong usage, 3 the host or the interpreter lacks something, \
                      4 no such process or not Python.";

/// The examples of each command, in the order of its help.
const EXAMPLES: [(&str, [Example; 3]); 35] = [
    (
        "",
        [
            (
                "Which functions of a process take the time, live",
                "pystap top -p 4242",
            ),
            (
                "Every call of a program, from its beginning",
                "pystap trace -- python3 app.py",
            ),
            (
                "What every thread of a service does right now",
                "pystap dump nova-compute",
            ),
        ],
    ),
    (
        "trace",
        [
            (
                "Every call of a process, as an indented tree",
                "pystap trace -p 4242",
            ),
            (
                "Spans for OpenTelemetry: calls of a function, and what these call that takes at least 5 ms",
                "pystap trace -p 4242 --function handle --min-duration 5ms --otlp http://127.0.0.1:4318",
            ),
            (
                "A program from its beginning, as JSON into a file",
                "pystap trace -o trace.json -- python3 app.py",
            ),
        ],
    ),
    (
        "top",
        [
            ("Functions of a process, live", "pystap top -p 4242"),
            (
                "The same without probes and without the agent, by samples",
                "pystap top --sample -p 4242",
            ),
            (
                "Six tables as lines, one for every ten seconds",
                "pystap top -p 4242 --batch --since-last --interval 10s --count 6",
            ),
        ],
    ),
    (
        "gc",
        [
            (
                "Pauses of the garbage collector in one minute",
                "pystap gc -p 4242 -d 1m",
            ),
            (
                "With the functions that ran",
                "pystap gc -p 4242 --functions",
            ),
            (
                "Of a program, from its beginning",
                "pystap gc -- python3 app.py",
            ),
        ],
    ),
    (
        "stats",
        [
            (
                "How long calls of a function take",
                "pystap stats handle -p 4242",
            ),
            (
                "Of several functions, one of them by its file, too",
                "pystap stats '*/driver.py:spawn' 'fetch_*' --service nova-compute",
            ),
            (
                "Apart by the value of an argument",
                "pystap stats handle -p 4242 --field method=message.method --group-by method",
            ),
        ],
    ),
    (
        "export-metrics",
        [
            (
                "Calls of a service's functions, for Prometheus on this host",
                "pystap export-metrics nova-compute --function '*/driver.py:*'",
            ),
            (
                "Of a process, with exceptions, for whoever reaches this address",
                "pystap export-metrics -p 4242 --function 'handle*' --exceptions --listen 10.0.0.5:9464",
            ),
            (
                "To an OpenTelemetry collector, with what threads wait for",
                "pystap export-metrics -p 4242 --function handle --waits --otlp http://127.0.0.1:4318",
            ),
        ],
    ),
    (
        "dump",
        [
            (
                "Stacks and waits of all threads of a process",
                "pystap dump -p 4242",
            ),
            ("Of every process of a service", "pystap dump nova-compute"),
            (
                "As JSON, of a process and its children",
                "pystap dump --json --subprocesses -p 4242",
            ),
        ],
    ),
    (
        "offcpu",
        [
            ("Where threads wait, live", "pystap offcpu -p 4242"),
            (
                "Only waits for locks that took at least 1 ms, by who ended them",
                "pystap offcpu -p 4242 --reason lock --min 1ms --by waker",
            ),
            (
                "A flame graph of 30 seconds of waits",
                "pystap offcpu -p 4242 -d 30s --format flamegraph -o waits.svg",
            ),
        ],
    ),
    (
        "syscalls",
        [
            ("System calls by function, live", "pystap syscalls -p 4242"),
            (
                "Only those that failed, with their errors",
                "pystap syscalls --errors -p 4242",
            ),
            (
                "Files by their paths, one table after 30 seconds",
                "pystap syscalls --files --batch -d 30s -p 4242",
            ),
        ],
    ),
    (
        "why",
        [
            (
                "What calls of a function take their time for",
                "pystap why handle -p 4242",
            ),
            (
                "Only calls of at least 100 ms, the last of them one by one",
                "pystap why handle -p 4242 --min-duration 100ms",
            ),
            (
                "A line for each call, of a whole service",
                "pystap why --each get_all --service nova-api",
            ),
        ],
    ),
    (
        "rpc",
        [
            (
                "Remote procedure calls that a service answers",
                "pystap rpc nova-conductor",
            ),
            (
                "Of one process, with distributions",
                "pystap rpc --distribution -p 4242",
            ),
            (
                "As JSON, after a minute",
                "pystap rpc --json -d 1m nova-compute",
            ),
        ],
    ),
    (
        "sql",
        [
            ("SQL statements of a service", "pystap sql nova-conductor"),
            (
                "Of one process, with the 20 slowest",
                "pystap sql --slowest 20 -p 4242",
            ),
            (
                "Of a program, from its beginning",
                "pystap sql -- python3 app.py",
            ),
        ],
    ),
    (
        "http",
        [
            (
                "HTTP requests that a service answers",
                "pystap http nova-api",
            ),
            ("Of one process, in one minute", "pystap http -d 1m -p 4242"),
            (
                "Into a file, as JSON",
                "pystap http --json -o requests.json -p 4242",
            ),
        ],
    ),
    (
        "recipe",
        [
            ("A recipe by its name", "pystap recipe sql -p 4242"),
            ("One of your own", "pystap recipe ./jobs.toml -p 4242"),
            (
                "With the distribution of each row",
                "pystap recipe ./jobs.toml --distribution --service nova",
            ),
        ],
    ),
    (
        "record",
        [
            (
                "30 seconds of a process",
                "pystap record -o run.pystap -d 30s -p 4242",
            ),
            (
                "The last day of a service, in files of ten minutes",
                "pystap record -o /var/tmp/nova --rotate 10m --keep 144 --service nova",
            ),
            (
                "Samples only: nothing is put into the process",
                "pystap record -o run.pystap --sample -d 30s -p 4242",
            ),
        ],
    ),
    (
        "report",
        [
            ("Functions that took the time", "pystap report run.pystap"),
            (
                "Latencies of some functions",
                "pystap report run.pystap --stats handle 'fetch_*'",
            ),
            (
                "Everything as a page for a browser",
                "pystap report run.pystap --html run.html",
            ),
        ],
    ),
    (
        "merge",
        [
            (
                "One recording of those of three hosts",
                "pystap merge web1.rec web2.rec db1.rec -o all.rec",
            ),
            (
                "With names for the hosts, where their own are alike",
                "pystap merge web1=a/app.rec web2=b/app.rec -o all.rec",
            ),
            (
                "Of a host whose clock was three seconds ahead",
                "pystap merge web1.rec web2.rec --clock web2=3s -o all.rec",
            ),
        ],
    ),
    (
        "request",
        [
            (
                "The requests of some recordings",
                "pystap request api.pystap compute.pystap",
            ),
            (
                "One of them, through all of these",
                "pystap request req-7f3a api.pystap compute.pystap",
            ),
            (
                "The longest ten",
                "pystap request --slowest --limit 10 api.pystap",
            ),
        ],
    ),
    (
        "export",
        [
            (
                "A page for a browser",
                "pystap export run.pystap -f html -o run.html",
            ),
            (
                "A flame graph",
                "pystap export run.pystap -f flamegraph -o run.svg",
            ),
            (
                "A timeline for ui.perfetto.dev",
                "pystap export run.pystap -f perfetto -o run.perfetto",
            ),
        ],
    ),
    (
        "ps",
        [
            (
                "Python processes, and what can be traced of each",
                "pystap ps",
            ),
            (
                "Those of a service, and why they belong to it",
                "pystap ps nova",
            ),
            ("For programs", "pystap ps --json"),
        ],
    ),
    (
        "script",
        [
            (
                "What would be run for calls of a process",
                "pystap script trace -p 4242",
            ),
            (
                "Only calls of these functions",
                "pystap script trace --function 'handle*' --python /usr/bin/python3",
            ),
            ("What adds up for a table", "pystap script top -p 4242"),
        ],
    ),
    (
        "script trace",
        [
            (
                "What would be run for calls of a process",
                "pystap script trace -p 4242",
            ),
            (
                "For collections and imports only",
                "pystap script trace -e gc,import -p 4242",
            ),
            (
                "For an interpreter, whatever it runs",
                "pystap script trace --python /usr/bin/python3",
            ),
        ],
    ),
    (
        "script top",
        [
            (
                "What adds up for the table of a process",
                "pystap script top -p 4242",
            ),
            (
                "Of some modules only",
                "pystap script top --module 'nova.compute.*' -p 4242",
            ),
            (
                "For an interpreter, whatever it runs",
                "pystap script top --python /usr/bin/python3",
            ),
        ],
    ),
    (
        "bundle",
        [
            (
                "For calls of an interpreter on hosts with another kernel, whose headers are here",
                "pystap bundle --python /usr/bin/python3 --kernel 6.12.57+deb13-amd64 -o calls.bundle",
            ),
            (
                "For `pystap top --bundle`, with two interpreters: sums that are made in the kernel",
                "pystap bundle --totals --python /usr/bin/python3.11 --python /opt/app/bin/python -o top.bundle",
            ),
            (
                "What is in one, and whether it fits this host",
                "pystap bundle --list calls.bundle",
            ),
        ],
    ),
    (
        "cleanup",
        [
            (
                "What a killed pystap left, as far as you may remove it",
                "pystap cleanup",
            ),
            ("All of it", "sudo pystap cleanup"),
            ("And what was looked at", "sudo pystap cleanup --verbose"),
        ],
    ),
    (
        "marks",
        [
            (
                "The probes of an interpreter",
                "pystap marks /usr/bin/python3",
            ),
            (
                "Those of the interpreter of a process",
                "pystap marks -p 4242",
            ),
            ("For programs", "pystap marks --json /usr/bin/python3"),
        ],
    ),
    (
        "doctor",
        [
            (
                "What tracing lacks here, and how to mend it",
                "pystap doctor",
            ),
            (
                "Whether collections of a process can be traced, without a kernel module",
                "pystap doctor -p 4242 --events gc --engine uprobes",
            ),
            (
                "All fixes as a script, to be read before it is run",
                "pystap doctor --fix-script > fix.sh",
            ),
        ],
    ),
    (
        "list",
        [
            ("Recipes and templates", "pystap list"),
            (
                "With templates of your own",
                "pystap list --template-dir ./templates",
            ),
            ("For programs", "pystap list --json"),
        ],
    ),
    (
        "agent",
        [
            (
                "Have it wait in every Python of an environment",
                "pystap agent install --python .venv/bin/python",
            ),
            (
                "Take it out again",
                "pystap agent uninstall --python .venv/bin/python",
            ),
            ("In which processes it waits", "pystap agent status"),
        ],
    ),
    (
        "agent install",
        [
            (
                "Into an environment",
                "pystap agent install --python .venv/bin/python",
            ),
            (
                "Into two",
                "pystap agent install --python .venv/bin/python --python /srv/app/bin/python",
            ),
            (
                "For all users of an interpreter",
                "sudo pystap agent install --python /usr/bin/python3",
            ),
        ],
    ),
    (
        "agent uninstall",
        [
            (
                "Out of an environment",
                "pystap agent uninstall --python .venv/bin/python",
            ),
            (
                "Out of two",
                "pystap agent uninstall --python .venv/bin/python --python /srv/app/bin/python",
            ),
            (
                "For all users of an interpreter",
                "sudo pystap agent uninstall --python /usr/bin/python3",
            ),
        ],
    ),
    (
        "agent status",
        [
            ("In which processes it waits", "pystap agent status"),
            (
                "Whether it is in an environment, too",
                "pystap agent status --python .venv/bin/python",
            ),
            ("For programs", "pystap agent status --json"),
        ],
    ),
    (
        "schema",
        [
            (
                "The schema of the lines that trace -f json writes",
                "pystap schema",
            ),
            ("Into a file", "pystap schema > events.schema.json"),
            ("Its event kinds", "pystap schema | jq '.oneOf'"),
        ],
    ),
    (
        "completions",
        [
            (
                "For bash, from the next shell on",
                "pystap completions bash > ~/.local/share/bash-completion/completions/pystap",
            ),
            (
                "For zsh, into a directory of $fpath",
                "pystap completions zsh > ~/.zfunc/_pystap",
            ),
            (
                "For fish",
                "pystap completions fish > ~/.config/fish/completions/pystap.fish",
            ),
        ],
    ),
    (
        "man",
        [
            ("To read it", "pystap man | man -l -"),
            (
                "A page for each command, for yourself",
                "pystap man --directory ~/.local/share/man/man1",
            ),
            (
                "For all users",
                "sudo pystap man --directory /usr/local/share/man/man1",
            ),
        ],
    ),
];

/// The examples of the command that is typed with these words behind `pystap`; none for one that is hidden.
pub(crate) fn of(words: &str) -> &'static [Example] {
    let mut all = EXAMPLES.iter();
    all.find(|(command, _)| *command == words)
        .map_or(&[], |(_, examples)| examples)
}

/// A command and what is below it, with their examples at the end of their help.
pub(super) fn with_examples(command: Command, words: &str) -> Command {
    let examples = of(words);
    let command = match words {
        "" => command.after_help(format!("{}\n{STATUS}", shown(examples))),
        _ if examples.is_empty() => command,
        _ => command.after_help(shown(examples)),
    };
    command.mut_subcommands(|below| {
        let words = format!("{words} {}", below.get_name());
        with_examples(below, words.trim_start())
    })
}

/// Examples as they can be pasted, each below what it is for.
fn shown(examples: &[Example]) -> String {
    let mut text = heading("Examples:");
    for (what, typed) in examples {
        text.push_str(&format!("\n  # {what}\n  {typed}\n"));
    }
    text
}

/// A heading as clap writes its own.
fn heading(text: &str) -> String {
    let style = Style::new().bold().underline();
    format!("{style}{text}{style:#}")
}

/// What is shown to somebody who types `pystap` alone.
pub(super) fn start() -> String {
    let mut text = String::from(
        "pystap traces Python programs from the outside, live, without changing or restarting them.\n\n",
    );
    let widest = FIRST.iter().map(|(_, typed)| typed.len()).max();
    for (what, typed) in FIRST {
        let width = widest.unwrap_or(0);
        text.push_str(&format!("  {typed:width$}  {what}\n"));
    }
    text.push_str(
        "\n`pystap ps` lists processes; `-- COMMAND` in the place of -p PID launches one.\n\
         Processes of other users, and probes in the kernel, need root: put sudo in front.\n\n\
         All commands: pystap help. One of them, with examples: pystap help trace.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::ffi::OsStringExt;
    use std::path::Path;
    use std::process;

    use super::*;
    use crate::cli::{self, Cli, RunningTargets, TargetArgs};

    /// The visible commands, each as it is typed behind `pystap`.
    fn commands() -> BTreeSet<String> {
        fn below(command: &Command, words: &str, all: &mut BTreeSet<String>) {
            all.insert(words.to_owned());
            for it in command.get_subcommands().filter(|it| !it.is_hide_set()) {
                below(it, format!("{words} {}", it.get_name()).trim_start(), all);
            }
        }
        let mut all = BTreeSet::new();
        below(&Cli::whole_command(), "", &mut all);
        all
    }

    /// What a shell makes of a line: the words of its first command.
    fn words(line: &str) -> Vec<OsString> {
        let first = line.split(" | ").next().unwrap_or_default();
        let first = first.split(" > ").next().unwrap_or_default();
        let empty = tempfile::tempdir().expect("a directory");
        let read = process::Command::new("sh")
            .args(["-c", &format!("printf '%s\\0' {first}")])
            .current_dir(empty.path())
            .output()
            .expect("a shell");
        assert!(read.status.success(), "{line}");
        let words = read.stdout.split(|byte| *byte == 0);
        let mut words: Vec<OsString> = words
            .map(|word| OsString::from_vec(word.to_vec()))
            .collect();
        words.pop();
        words
            .into_iter()
            .skip_while(|word| word == "sudo")
            .collect()
    }

    /// Why pystap does not take a line, if it does not.
    fn refusal(line: &str) -> Option<String> {
        Cli::typed(words(line)).err().map(|error| error.to_string())
    }

    #[test]
    fn every_command_has_three_examples_which_a_shell_and_the_parser_take() {
        let commands = commands();
        assert!(commands.len() > 25, "{commands:?}");
        for command in &commands {
            assert_eq!(of(command).len(), 3, "pystap {command}");
            for (what, typed) in of(command) {
                assert!(what.len() + 4 <= 100 && typed.len() + 2 <= 100, "{typed}");
                assert_eq!(refusal(typed), None, "{typed}");
                let begin = format!("pystap {command}");
                let own = typed.trim_start_matches("sudo ");
                assert!(own.starts_with(begin.trim_end()), "{command}: {typed}");
            }
        }
        let named: BTreeSet<String> = EXAMPLES.iter().map(|it| it.0.to_owned()).collect();
        assert_eq!(named, commands, "examples of what is there");
    }

    #[test]
    fn what_is_shown_first_is_five_commands_that_work_and_where_the_rest_is() {
        for (_, typed) in FIRST {
            assert_eq!(refusal(&typed.replace("PID", "4242")), None, "{typed}");
            assert!(start().contains(typed), "{typed}");
        }
        for help in ["pystap help", "pystap help trace"] {
            let shown = refusal(help).expect("help");
            assert!(shown.contains("Examples:"), "{shown}");
            assert!(start().contains(help));
        }
        assert!(start().lines().all(|line| line.chars().count() <= 100));
        for nothing in ["pystap", "pystap --color never", "pystap -q"] {
            assert_eq!(refusal(nothing), Some(start()), "{nothing}");
        }
        assert_ne!(refusal("pystap agent"), Some(start()));
    }

    #[test]
    fn each_option_stands_below_one_heading_and_headings_come_in_the_same_order_everywhere() {
        fn check(command: &Command, headings: &[&str]) {
            let mut last = 0;
            let mut seen = BTreeSet::new();
            for option in command.get_arguments().filter(|it| !it.is_positional()) {
                let heading = option.get_help_heading().unwrap_or("none");
                let place = headings.iter().position(|it| *it == heading);
                let place = place.unwrap_or_else(|| {
                    panic!(
                        "{} --{} is below {heading}",
                        command.get_name(),
                        option.get_id()
                    )
                });
                if seen.insert(place) {
                    assert!(place >= last, "{}: {heading}", command.get_name());
                    last = place;
                }
            }
            command
                .get_subcommands()
                .filter(|it| !it.is_hide_set() && it.get_name() != "help")
                .for_each(|it| check(it, headings));
        }
        let mut command = Cli::whole_command();
        command.build();
        check(&command, &crate::cli::HEADINGS);
    }

    /// Every `pystap …` in backticks that is in a text of ours, where it stands, with something in the place of what is not known
    /// before.
    fn pasted(directory: &Path, all: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pasted(&path, all);
                continue;
            }
            if path.extension().is_none_or(|it| it != "rs") {
                continue;
            }
            let code = fs::read_to_string(&path).expect("text");
            let lines = code.lines().map(str::trim_start);
            let text = lines.filter(|line| !line.starts_with("//")).fold(
                String::new(),
                |mut text, line| {
                    // A string that goes on in the next line.
                    match text.strip_suffix('\\').map(str::len) {
                        Some(length) => text.truncate(length),
                        None => text.push('\n'),
                    }
                    text + line
                },
            );
            for part in text
                .split('\n')
                .flat_map(|line| line.split('`').skip(1).step_by(2))
            {
                if part.starts_with("pystap ") {
                    all.push((path.display().to_string(), filled_in(part)));
                }
            }
        }
    }

    /// A command with a value in the place of each name of one.
    fn filled_in(command: &str) -> String {
        let words = command.split(' ').map(|word| match word {
            "PID" | "{pid}" => "4242",
            "COMMAND" | "COMMAND…" => "python3 app.py",
            "TIME" => "5s",
            word if word.starts_with('{') => "4242",
            word => word,
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Whether a command that is about processes names none.
    fn lacks_targets(command: &cli::Command) -> bool {
        let traced = |it: &TargetArgs| {
            let named = it.service.is_some() || it.pattern.is_some() || it.python.is_some();
            it.pids.is_empty() && it.command.is_empty() && !named
        };
        let looked_at = |it: &RunningTargets| {
            let named = it.service.is_some() || it.pattern.is_some() || it.python.is_some();
            it.pids.is_empty() && !named
        };
        match command {
            cli::Command::Trace(it) | cli::Command::Record(it) => traced(&it.targets),
            cli::Command::Top(it) => it.of.is_none() && traced(&it.targets),
            cli::Command::Gc(it) => it.of.is_none() && traced(&it.targets),
            cli::Command::Stats(it) => traced(&it.targets),
            cli::Command::ExportMetrics(it) => traced(&it.targets),
            cli::Command::Why(it) => traced(&it.targets),
            cli::Command::Dump(it) => it.of.is_none() && looked_at(&it.targets),
            cli::Command::Offcpu(it) => it.of.is_none() && looked_at(&it.targets),
            cli::Command::Syscalls(it) => it.of.is_none() && looked_at(&it.targets),
            _ => false,
        }
    }

    #[test]
    fn what_errors_say_to_type_can_be_typed() {
        /// What they speak of and nobody types.
        const OF_OURS: [&str; 2] = ["pystap hold", "pystap visit"];
        let mut all = Vec::new();
        pasted(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
        assert!(all.len() > 40, "{all:?}");
        let wrong = all.into_iter().filter_map(|(place, typed)| {
            if OF_OURS.contains(&&*typed) || place.ends_with("examples.rs") {
                return None;
            }
            let why = match Cli::typed(words(&typed)) {
                Err(error) => error.to_string(),
                // Which targets it needs it says only when it looks for them.
                Ok(cli) if lacks_targets(&cli.command) => "it has no targets".to_owned(),
                Ok(_) => return None,
            };
            Some(format!(
                "{place}: {typed}: {}",
                why.lines().next().unwrap_or_default()
            ))
        });
        let wrong: Vec<String> = wrong.collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
