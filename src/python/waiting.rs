//! For tests: a program that is certainly running when [`Waiting::start`] returns and stays alive until it is dropped.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The program text; it announces itself on standard output and waits for the end of standard input.
pub(crate) const PROGRAM: &str = include_str!("../../tests/programs/waits.py");

/// The interpreter that tests may rely on.
pub(crate) const PYTHON: &str = "/usr/bin/python3.11";

/// The running program. Killed and reaped on drop.
pub(crate) struct Waiting {
    child: Child,
}

impl Waiting {
    /// Starts a command that prints a line as soon as it runs.
    pub(crate) fn start(command: &mut Command) -> Waiting {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let output = child.stdout.take().expect("a pipe");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert!(!line.is_empty(), "the program ended at once");
        Waiting { child }
    }

    /// Starts the waiting program under an interpreter, with arguments that it ignores.
    pub(crate) fn python<A: AsRef<OsStr>>(interpreter: &Path, arguments: &[A]) -> Waiting {
        Waiting::start(
            Command::new(interpreter)
                .arg("-c")
                .arg(PROGRAM)
                .args(arguments),
        )
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets what waits for the end of its input go on.
    pub(crate) fn go_on(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Ends the program and waits until nothing of it is left.
    pub(crate) fn end(&mut self) {
        self.go_on();
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be reaped");
    }

    /// Ends the program but leaves it as a zombie.
    pub(crate) fn leave_zombie(&mut self) {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        self.child.kill().expect("it can be killed");
        let pid = Pid::from_child(&self.child);
        waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )
        .expect("it ends");
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Fails only when the test has already ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
