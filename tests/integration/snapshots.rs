//! What people read, whole, as it was when somebody last looked at it: the help of every command, and dry runs.
//!
//! After a change that is meant, `INSTA_UPDATE=always cargo test snapshots` writes what is printed now, and the difference is
//! reviewed with the change (or `cargo insta review` goes through it). The flow format is in `src/export/flow_tests.rs`.

use clap::CommandFactory as _;
use pystap::cli::Cli;
use regex::Regex;

use crate::command::{PYTHON, command, run};

/// The visible commands below this one, each as it is typed.
fn commands(above: &[&str], command: &clap::Command) -> Vec<Vec<String>> {
    let mut all = vec![above.iter().map(|&word| word.to_owned()).collect()];
    for below in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        all.extend(commands(&[above, &[below.get_name()]].concat(), below));
    }
    all
}

#[test]
fn the_help_of_every_command() {
    let all = commands(&[], &Cli::command());
    assert!(all.len() > 20, "{all:?}");
    for words in all {
        let [short, long] = ["-h", "--help"].map(|option| {
            let ended = run(command(&words).arg(option).env("COLUMNS", "100"));
            assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{words:?}");
            ended.stdout
        });
        let name = match words.as_slice() {
            [] => "help".to_owned(),
            words => format!("help-{}", words.join("-")),
        };
        insta::assert_snapshot!(
            name,
            format!("{short}\n{}\n\n{long}", "-".repeat(100)),
            &format!("pystap {} -h, --help", words.join(" "))
        );
    }
}

/// A dry run that launches a program, so that it depends on no process which is there already; without what another machine,
/// another day or another build of the interpreter has differently.
fn dry_run(subcommand: &str, engine: &str, options: &[&str]) -> String {
    let home = tempfile::tempdir().expect("a directory");
    let ended = run(command([subcommand, "--dry-run", "--engine", engine])
        .args(options)
        .args(["--", PYTHON, "-c", "pass"])
        // Neither this machine's stap nor its caches.
        .env("PATH", "/nonexistent")
        .env("XDG_CACHE_HOME", home.path()));
    assert_eq!(ended.code, 0, "{ended:?}");
    let mut text = ended
        .stdout
        .replace(&*home.path().to_string_lossy(), "CACHE");
    for (varies, instead) in [
        (
            r"Python 3\.11\.\S+, build id [0-9a-f]+",
            "Python 3.11.N, build id ID",
        ),
        (r"tapsets-[0-9a-f]+", "tapsets-HASH"),
        (r" -r \S+ ", " -r RELEASE "),
        (r"/sys/kernel(/debug)?/tracing", "TRACEFS"),
        (r":0x[0-9a-f]+\(0x[0-9a-f]+\)", ":ADDRESS(SEMAPHORE)"),
        // Where the compiler has put an argument.
        (r"=[^\s\\]\S*:(s\d+|u\d+|ustring)", "=OPERAND:$1"),
    ] {
        let varies = Regex::new(varies).expect("a pattern");
        text = varies.replace_all(&text, instead).into_owned();
    }
    text
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn the_dry_run_of_a_trace_with_stap() {
    let text = dry_run("trace", "stap", &[]);
    insta::assert_snapshot!("dry-run-stap", text);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn the_dry_run_of_long_calls_of_some_functions_with_stap() {
    let text = dry_run(
        "trace",
        "stap",
        &[
            "--function",
            "h*",
            "--min-duration",
            "5ms",
            "--events",
            "return,import",
        ],
    );
    insta::assert_snapshot!("dry-run-stap-filters", text);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn the_dry_run_of_a_table_with_stap() {
    let text = dry_run("top", "stap", &[]);
    insta::assert_snapshot!("dry-run-stap-top", text);
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn the_dry_run_of_a_trace_with_uprobes() {
    let text = dry_run("trace", "uprobes", &[]);
    insta::assert_snapshot!("dry-run-uprobes", text);
}
