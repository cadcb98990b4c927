//! Whether the interpreter of a process still prepares what it is to run.

use super::{Process, threads, threads_inside};
use crate::python::frames::{Stacks, StacksError};

/// The file of the functions that import what the interpreter itself asks for: site, and whatever site brings in.
const IMPORT: &str = "<frozen importlib._bootstrap>";

impl Process {
    /// Whether its interpreter has not come to the program: it has no thread state, or imports on its own account what it needs.
    /// `None` where its memory does not tell, as that of a free-threaded build.
    pub(crate) fn is_starting(&self) -> Option<bool> {
        let interpreter = self.interpreters.first()?;
        let tasks = threads(self.pid).ok()?;
        let tasks = threads_inside(self.pid, &tasks);
        let stacks = Stacks::of(self.pid, interpreter);
        let found = stacks.and_then(|it| it.threads(&tasks).map(|threads| (it, threads)));
        let (stacks, threads) = match found {
            Ok(found) => found,
            Err(StacksError::NoThreads) => return Some(true),
            Err(_) => return None,
        };
        let mut all = threads.threads.iter();
        // One that begins has a single thread.
        let (Some(first), None) = (all.next(), all.next()) else {
            return Some(false);
        };
        // What changes while it is read changes less at its outer end.
        let stack = stacks.stack(first)?;
        let outermost = stack.frames.last();
        Some(outermost.is_none_or(|frame| &*frame.file == IMPORT))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::python::waiting::{PROGRAM, PYTHON, Waiting};

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn an_interpreter_starts_until_the_program_begins() {
        let directory = tempfile::tempdir().expect("a directory");
        // It is imported on the interpreter's own account, says that it runs, and waits until it is told to go on.
        std::fs::write(directory.path().join("sitecustomize.py"), PROGRAM).expect("written");
        let mut slow = Waiting::start(
            Command::new(PYTHON)
                .args(["-c", "import sys, time; time.sleep(60)"])
                .env("PYTHONPATH", directory.path()),
        );
        let starts = |process: &Waiting| Process::of(process.pid()).expect("Python").is_starting();
        assert_eq!(starts(&slow), Some(true));
        let begun = Waiting::python(Path::new(PYTHON), &["x"]);
        assert_eq!(starts(&begun), Some(false));
        slow.go_on();
        let until = Instant::now() + Duration::from_secs(20);
        while starts(&slow) != Some(false) {
            assert!(Instant::now() < until, "it begins");
            std::thread::yield_now();
        }
    }
}
