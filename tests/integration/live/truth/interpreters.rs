//! The interpreters within reach, and how a program is recorded in each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::path;
use crate::command::{Ended, command, file, run};
use crate::live::installed;
use crate::live::uprobes::tree;

/// Where calls come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// The interpreter's own probes.
    Probes,
    /// pystap's agent.
    Agent,
}

impl Way {
    pub(super) fn words(self) -> &'static str {
        match self {
            Way::Probes => "own probes",
            Way::Agent => "agent",
        }
    }

    pub(super) fn option(self) -> &'static str {
        match self {
            Way::Probes => "--no-agent",
            Way::Agent => "--agent",
        }
    }
}

/// Where an interpreter is, and pystap.
#[derive(Debug)]
enum Place {
    Here,
    /// Both are in a tree.
    Tree(PathBuf),
    /// The interpreter is in a tree, and pystap outside: its library of C is newer than the tree's.
    Outside(PathBuf),
}

#[derive(Debug)]
pub(super) struct Interpreter {
    from: &'static str,
    at: Place,
    python: String,
    ways: &'static [Way],
}

/// Where programs are in a tree, for who is in it.
const MOUNTED: &str = "/mnt";

/// What a tree lacks is mounted for one command only; `$1` is the tree and `$2` the directory with pystap and its programs.
const IN_A_TREE: &str = "mount -t proc proc \"$1/proc\"; mount --rbind /dev \"$1/dev\"; mount -t sysfs sysfs \"$1/sys\"; \
    mount -t tracefs tracefs \"$1/sys/kernel/tracing\"; mount --bind \"$2\" \"$1/mnt\"; root=$1; shift 2; \
    exec chroot \"$root\" \"$@\"";

impl Interpreter {
    pub(super) fn python(&self) -> &str {
        &self.python
    }

    pub(super) fn ways(&self) -> &'static [Way] {
        self.ways
    }

    /// Where it comes from, as the documents say it.
    pub(super) fn from(&self) -> &'static str {
        self.from
    }

    pub(super) fn name(&self, way: Way) -> String {
        format!("{}, {}, {}", self.from, self.python, way.words())
    }

    /// Whether this is a program that it has.
    pub(super) fn imports(&self, module: &str) -> bool {
        self.runs(&format!("import {module}"))
    }

    /// Whether it tells of calls through `sys.monitoring`.
    pub(super) fn has_monitoring(&self) -> bool {
        self.runs("import sys; sys.monitoring")
    }

    /// Whether it runs these lines without an exception.
    fn runs(&self, lines: &str) -> bool {
        let Place::Here = self.at else { return false };
        let tried = Command::new(&self.python).args(["-c", lines]).output();
        tried.is_ok_and(|tried| tried.status.success())
    }

    /// Records one of the programs of this test. The recording is in the directory, and what the program printed in what
    /// pystap did.
    pub(super) fn record(&self, way: Way, program: &str) -> (tempfile::TempDir, Ended) {
        self.record_kinds(way, program, "call,return,gc")
    }

    /// The same with these kinds of events.
    pub(super) fn record_kinds(
        &self,
        way: Way,
        program: &str,
        kinds: &str,
    ) -> (tempfile::TempDir, Ended) {
        let program = format!("tests/programs/truth/{program}");
        let options = [
            "--engine",
            "uprobes",
            "--events",
            kinds,
            way.option(),
            "--output",
        ];
        let recording = |directory: &Path| path(directory, "recording");
        match &self.at {
            Place::Here => {
                let directory = tempfile::tempdir().expect("a directory");
                let mut record = command(["record"]);
                record.args(options).arg(recording(directory.path()));
                record.args(["--", &self.python, &file(&program)]);
                (directory, run(&mut record))
            }
            Place::Outside(tree) => {
                let directory = tempfile::tempdir().expect("a directory");
                let inside = tempfile::tempdir_in(tree.join("tmp")).expect("a directory");
                let copy = inside
                    .path()
                    .join(Path::new(&program).file_name().expect("a name"));
                fs::copy(file(&program), &copy).expect("copied");
                let mut record = command(["record"]);
                record.args(options).arg(recording(directory.path()));
                let python = tree.join(self.python.trim_start_matches('/'));
                record
                    .arg("--python")
                    .arg(python)
                    .args(["--", "chroot"])
                    .arg(tree);
                let copy = copy.strip_prefix(tree).expect("it is there");
                record.arg(&self.python).arg(Path::new("/").join(copy));
                (directory, run(&mut record))
            }
            Place::Tree(tree) => {
                let directory = tempfile::tempdir_in(tree.join("tmp")).expect("a directory");
                let inside = directory.path().strip_prefix(tree).expect("it is there");
                let programs = std::env::var_os("PYSTAP_TEST_ROOT").expect("the script says it");
                let mut record = Command::new("unshare");
                record.args([
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-ec",
                    IN_A_TREE,
                    "sh",
                ]);
                record.arg(tree).arg(programs);
                record.args(["/usr/bin/env", "-i", "HOME=/root", "LC_ALL=C.UTF-8"]);
                record.arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
                record
                    .arg(format!("{MOUNTED}/pystap"))
                    .arg("record")
                    .args(options);
                record.arg(recording(&Path::new("/").join(inside)));
                record.args(["--", &self.python, &format!("{MOUNTED}/{program}")]);
                (directory, run(&mut record))
            }
        }
    }
}

/// The interpreter of the environment that `agent/tests/services/install` made of this one, with greenlets, gevent and
/// eventlet; without one the interpreter itself, in which greenlets are not tried.
fn with_greenlets(python: String) -> String {
    let named = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
    let services = match (named("PYSTAP_TEST_SERVICES"), named("PYSTAP_TEST_TREES")) {
        (Some(services), _) => PathBuf::from(services),
        (_, Some(trees)) => PathBuf::from(trees).join("services"),
        _ => PathBuf::from(named("HOME").unwrap_or_default()).join(".cache/pystap-guest/services"),
    };
    let environments = fs::read_dir(services).into_iter().flatten().flatten();
    let same = |environment: &PathBuf| {
        let ours = fs::canonicalize(environment.join("bin/python"));
        ours.is_ok_and(|ours| fs::canonicalize(&python).is_ok_and(|python| python == ours))
    };
    let mut environments = environments.map(|entry| entry.path());
    let found = environments.find(|path| path.join("gevent.there").exists() && same(path));
    found.map_or(python.clone(), |found| path(&found, "bin/python"))
}

/// Debian 12's own, both ways, and those that pyenv built.
pub(super) fn here() -> Vec<Interpreter> {
    let pythons = installed::pythons().into_iter().enumerate();
    pythons
        .map(|(at, python)| Interpreter {
            from: if at == 0 { "Debian 12" } else { "pyenv" },
            at: Place::Here,
            python: with_greenlets(python),
            ways: if at == 0 {
                &[Way::Probes, Way::Agent]
            } else {
                &[Way::Agent]
            },
        })
        .collect()
}

/// Those of other releases of Debian.
pub(super) fn in_trees() -> Vec<Interpreter> {
    let inside = |from, name: &str, minor: u8, ways| Interpreter {
        from,
        at: Place::Tree(tree(name)),
        python: format!("/usr/bin/python3.{minor}"),
        ways,
    };
    vec![
        Interpreter {
            from: "Debian 11",
            at: Place::Outside(tree("bullseye")),
            python: "/usr/bin/python3.9".to_owned(),
            ways: &[Way::Probes],
        },
        inside("Debian 13", "trixie", 13, &[Way::Agent]),
        inside("Debian testing", "guest", 13, &[Way::Agent]),
        inside("Debian testing", "guest", 14, &[Way::Agent]),
        inside("Debian testing", "guest", 15, &[Way::Probes, Way::Agent]),
    ]
}

/// Those that pyenv built and that have neither probes nor an agent.
pub(super) fn refused() -> Vec<String> {
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let pyenv = std::env::var_os("PYENV_ROOT").map_or_else(|| home.join(".pyenv"), PathBuf::from);
    let versions = fs::read_dir(pyenv.join("versions"))
        .into_iter()
        .flatten()
        .flatten();
    let old = |name: &str| {
        ["2.7.", "3.6.", "3.7.", "3.8."]
            .iter()
            .any(|old| name.starts_with(old))
    };
    versions
        .filter(|entry| entry.file_name().to_str().is_some_and(old))
        .map(|entry| path(&entry.path(), "bin/python"))
        .collect()
}
