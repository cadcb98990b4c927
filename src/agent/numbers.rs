//! Process IDs that an agent names are those of its own pid namespace. Our users get ours, or none.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Where agents name processes: in sentences and in commands.
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?P<before>process |kill -INT )(?P<number>[0-9]{1,10})")
        .expect("a constant pattern")
});

/// An agent's text, with its IDs replaced by ours.
pub(super) fn ours(pid: u32, text: &str) -> String {
    let there = namespace(&pid.to_string());
    if there.is_some() && there == namespace("self") {
        return text.to_owned();
    }
    let translated = NAMED.replace_all(text, |named: &Captures<'_>| {
        let number = named.name("number").and_then(|it| it.as_str().parse().ok());
        let before = named.name("before").map_or("", |it| it.as_str());
        let outer = number
            .zip(there.as_ref())
            .and_then(|(number, there)| outer(there, number));
        match (before, outer) {
            (before, Some(outer)) => format!("{before}{outer}"),
            ("process ", None) => "a process of its container".to_owned(),
            (_, None) => "from inside its container".to_owned(),
        }
    });
    translated.into_owned()
}

/// The pid namespace of a process; `None` when we may not see it, or the process is gone.
fn namespace(process: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/pid")).ok()
}

/// Our ID of the process that has this ID in a namespace.
fn outer(namespace: &PathBuf, number: u32) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let ids = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))?;
        let innermost: u32 = ids.split_whitespace().last()?.parse().ok()?;
        let is_it =
            innermost == number && self::namespace(&pid.to_string()).as_ref() == Some(namespace);
        is_it.then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::python::waiting::Waiting;

    const REFUSAL: &str =
        "process 1 already traces it; end that session (kill -INT 1), then start again";

    #[test]
    fn ids_of_our_own_namespace_stay() {
        assert_eq!(ours(std::process::id(), REFUSAL), REFUSAL);
    }

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn ids_of_a_container_become_ours_and_unknown_ones_no_number() {
        let unshare = Waiting::start(Command::new("unshare").args([
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            "echo ready; read line",
        ]));
        let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
        let first: u32 = fs::read_to_string(children)
            .expect("readable")
            .trim()
            .parse()
            .expect("one child");
        assert_eq!(
            ours(first, REFUSAL),
            format!(
                "process {first} already traces it; end that session (kill -INT {first}), then start again"
            )
        );
        let unknown = ours(first, &REFUSAL.replace('1', "4711"));
        assert!(!unknown.contains("4711"), "{unknown}");
        assert!(
            unknown.starts_with("a process of its container already"),
            "{unknown}"
        );
    }

    #[test]
    fn of_a_process_that_is_gone_no_number_is_believed() {
        let said = ours(u32::MAX, REFUSAL);
        assert!(!said.contains('1'), "{said}");
    }
}
