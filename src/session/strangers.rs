//! Processes of a session that run an interpreter which is not probed: another virtual environment with copies, one that was
//! upgraded since, a second instance of a packed program. Probes are on files, so nothing of these is seen.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::absence::Absence;
use crate::console::Console;
use crate::process::{Identity, Process};
use crate::python::FileId;
use crate::shell;
use crate::text::Foreign;

/// Files that are named; the others are only counted.
const MOST_FILES: usize = 20;

/// Those that were found so far.
#[derive(Debug)]
pub(crate) struct Strangers {
    files: BTreeMap<FileId, Stranger>,
    /// Processes that run others than these.
    others: u64,
    /// Those that are watched, because they would be targets.
    pids: HashSet<u32>,
    absence: Absence,
}

/// An interpreter that is not probed.
#[derive(Debug)]
struct Stranger {
    path: String,
    processes: u64,
}

impl Strangers {
    /// For a session that begins now.
    pub(crate) fn none() -> Strangers {
        Strangers {
            files: BTreeMap::new(),
            others: 0,
            pids: HashSet::new(),
            absence: Absence::beginning(),
        }
    }

    /// The session is live, and these of its targets are not seen.
    pub(crate) fn begin(&mut self, left_out: &[u32]) {
        self.absence = Absence::beginning();
        for process in left_out.iter().filter_map(|pid| Identity::of(*pid)) {
            self.absence.begin_with_session(process);
        }
    }

    /// Looks who has ended.
    pub(crate) fn look(&mut self) {
        self.absence.look();
    }

    /// How long they ran, all together.
    pub(crate) fn time(&self) -> Duration {
        self.absence.total()
    }

    /// Takes note of one, and says so the first time for each file.
    pub(crate) fn add(&mut self, process: &Process, console: &Console) {
        if let Some(sentence) = self.noted(process) {
            console.warning(sentence);
        }
    }

    /// Takes note of one. What is to be said of it.
    fn noted(&mut self, process: &Process) -> Option<String> {
        let interpreter = process.interpreters.first()?;
        let pid = process.pid;
        self.pids.insert(pid);
        self.absence.begin(Identity {
            pid,
            start_time: process.start_time,
        });
        if let Some(known) = self.files.get_mut(&interpreter.file) {
            known.processes += 1;
            return None;
        }
        if self.files.len() >= MOST_FILES {
            self.others += 1;
            return None;
        }
        let path = Foreign::path(&interpreter.path).to_string();
        let program = process.program();
        let next = match interpreter.replaced {
            false => format!(
                "trace it with `--python {}` or `-p {pid}` in another session",
                shell::path(&interpreter.path)
            ),
            true => format!("trace it with `-p {pid}` in another session"),
        };
        let sentence = format!(
            "{} {pid} is not traced: it runs {path}, a file whose probes are not armed, since this session began without it; {next}, or begin this one anew",
            Foreign::new(&program)
        );
        let processes = 1;
        self.files
            .insert(interpreter.file, Stranger { path, processes });
        Some(sentence)
    }

    /// Whether this process is one of them.
    pub(crate) fn knows(&self, pid: u32) -> bool {
        self.pids.contains(&pid)
    }

    /// Whether this process, which has ended, was one of them.
    pub(crate) fn forget(&mut self, pid: u32) -> bool {
        self.pids.remove(&pid)
    }

    /// Says how many there were of each file, where that is more than was said. How many in all.
    pub(crate) fn conclude(&self, console: &Console) -> u64 {
        for known in self.files.values().filter(|known| known.processes > 1) {
            console.warning(format_args!(
                "{} processes ran {}, whose probes were not armed, and were not traced",
                known.processes, known.path
            ));
        }
        if self.others > 0 {
            console.warning(format_args!(
                "{} more processes ran other interpreters, whose probes were not armed, and were not traced",
                self.others
            ));
        }
        self.total()
    }

    fn total(&self) -> u64 {
        let named = self.files.values().map(|known| known.processes);
        named.sum::<u64>() + self.others
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use super::*;
    use crate::process::{Family, Searched};
    use crate::python::waiting::{PYTHON, Waiting};

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_child_that_runs_a_copy_of_the_interpreter_is_named_once_and_counted() {
        let directory = tempfile::tempdir().expect("a directory");
        let copy = directory.path().join("python3.11");
        std::fs::copy(PYTHON, &copy).expect("copied");
        let traced = Waiting::python(Path::new(PYTHON), &["traced"]);
        let (one, two) = (
            Waiting::python(&copy, &["one"]),
            Waiting::python(&copy, &["two"]),
        );
        let family = Family {
            roots: vec![Identity::of(std::process::id()).expect("it runs")],
            descendants: true,
            files: HashSet::from([FileId::at(Path::new(PYTHON)).expect("a file")]),
        };
        let (mut searched, mut found) = (Searched::default(), Strangers::none());
        let (mut said, mut pids) = (Vec::new(), Vec::new());
        let end = Instant::now() + Duration::from_secs(60);
        // Other tests have children of their own.
        while ![one.pid(), two.pid()].iter().all(|pid| pids.contains(pid)) {
            assert!(Instant::now() < end, "found only {pids:?}");
            let strangers = family.strangers(&mut searched).expect("searched");
            for process in &strangers {
                let is_copy = process.interpreters.iter().any(|it| it.path == copy);
                if is_copy {
                    pids.push(process.pid);
                    said.extend(found.noted(process));
                }
            }
        }
        let again = family.strangers(&mut searched).expect("searched");
        let repeated = |pid: u32| again.iter().any(|it| it.pid == pid);
        assert!(!repeated(one.pid()) && !repeated(two.pid()), "{again:?}");
        assert!(!pids.contains(&traced.pid()), "its file is probed");
        assert_eq!(found.total(), 2);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].contains(&format!("`--python {}`", copy.display())),
            "{said:?}"
        );
    }
}
