//! Pythons that begin anew while a session runs, so that nothing brings the agent in by itself. `tests/uprobes/run` runs these
//! in the tree, with Python 3.14; `live::installed` has those for interpreters that let nobody in.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::Service;
use super::agent::{PYTHON_3_14, leaves_nothing_at_all};
use crate::command::file;
use crate::tracing::{Traced, Tracing, Way, eventually};

/// A program that starts a Python anew, with the files by which it is told to, and that one to end.
pub(super) struct Anew {
    directory: tempfile::TempDir,
}

impl Anew {
    pub(super) fn new() -> Anew {
        let directory = tempfile::tempdir().expect("a directory");
        Anew { directory }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The arguments of the interpreter.
    pub(super) fn arguments(&self, way: &str) -> Vec<String> {
        let mut arguments = vec![file("tests/programs/anew.py"), way.to_owned()];
        let paths = ["go", "end", "site"].map(|name| self.path(name).display().to_string());
        arguments.extend(paths);
        arguments
    }

    pub(super) fn tell(&self, name: &str) {
        fs::write(self.path(name), "").expect("written");
    }

    /// Traces it attached, until this was said or, where that is nothing, the new Python's calls are seen.
    pub(super) fn attached(&self, python: &str, way: &str, said: Option<&str>) -> Traced {
        let mut command = Command::new(python);
        command.args(self.arguments(way));
        let service = Service::of(command);
        let pid = service.pid();
        let tracing = Tracing::start(&["--agent", "-s", "-p", &pid]).live();
        let traced = self.finish(tracing, said);
        drop(service);
        traced
    }

    /// The same for one that is launched.
    pub(super) fn launched(&self, python: &str, way: &str, said: Option<&str>) -> Traced {
        let arguments = self.arguments(way);
        let arguments = arguments.iter().map(String::as_str);
        let options: Vec<&str> = ["--agent", "--", python]
            .into_iter()
            .chain(arguments)
            .collect();
        self.finish(Tracing::start(&options).live(), said)
    }

    fn finish(&self, mut tracing: Tracing, said: Option<&str>) -> Traced {
        self.tell("go");
        match said {
            Some(said) => {
                tracing.wait_for(said);
            }
            None => eventually("its calls are seen", || {
                tracing.has_written("\"function\":\"work\"")
            }),
        }
        self.tell("end");
        tracing.finish().complete("targets_ended")
    }
}

/// The calls that the new Python made and that were seen.
pub(super) fn seen(traced: &Traced) -> usize {
    let program = file("tests/programs/anew.py");
    let frames = traced.frames(&program);
    let work = frames.filter(|(way, function, ..)| *way == Way::In && *function == "work");
    work.count()
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn children_that_begin_anew_are_entered_and_what_they_did_before_is_counted_as_time() {
    leaves_nothing_at_all(|| {
        for way in ["spawn", "forkserver", "exec"] {
            let traced = Anew::new().attached(PYTHON_3_14, way, None);
            assert!(seen(&traced) > 0, "{way}: {:#?}", traced.said);
            let said = traced.said.join("\n");
            assert!(
                said.contains("began without pystap's agent"),
                "{way}: {said}"
            );
            assert_eq!(traced.summary.untraced_processes, 0, "{way}: {said}");
            assert!(traced.summary.untraced_ns > 0, "{way}: {said}");
            assert!(!said.contains("nothing lost"), "{way}: {said}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn children_of_a_launched_command_that_its_environment_does_not_reach_are_entered() {
    leaves_nothing_at_all(|| {
        for (way, cause) in [
            ("isolated", "was started with -I"),
            ("bare", "without the environment"),
            ("network", "another network namespace"),
        ] {
            let traced = Anew::new().launched(PYTHON_3_14, way, None);
            assert!(seen(&traced) > 0, "{way}: {:#?}", traced.said);
            let said = traced.said.join("\n");
            assert_eq!(said.matches(cause).count(), 1, "{way}: {said}");
            assert_eq!(traced.summary.untraced_processes, 0, "{way}: {said}");
            assert!(traced.summary.untraced_ns > 0, "{way}: {said}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn another_sitecustomize_that_comes_first_does_not_keep_the_agent_out() {
    leaves_nothing_at_all(|| {
        let anew = Anew::new();
        fs::create_dir(anew.path("site")).expect("made");
        fs::write(anew.path("site/sitecustomize.py"), "").expect("written");
        let traced = anew.launched(PYTHON_3_14, "customized", None);
        assert!(seen(&traced) > 0, "{:#?}", traced.said);
        assert_eq!(traced.summary.untraced_ns, 0, "{:#?}", traced.said);
    });
}
