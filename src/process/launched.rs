//! A command that pystap launches: held before its first instruction, released once probes are armed, waited for.
//!
//! The holder is pystap itself (see [`crate::command::hold`]), which stops and later becomes the command under the
//! same process id. Standard input, output and error are the user's own, unless a file is named for its output.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};

use super::command::executable;
use super::{Identity, Status, TargetError};

/// A launched command. Dropping it before [`Launched::release`] kills and reaps it; afterwards it is left alone.
#[derive(Debug)]
pub struct Launched {
    command: OsString,
    pid: Pid,
    start_time: u64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Held,
    Released,
    Ended(Status),
}

/// How a command is started, apart from its words.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conditions<'a> {
    /// Variables that are set in its environment.
    pub variables: &'a [(OsString, OsString)],
    /// Where its standard output and error go, with an empty standard input: for views that need the terminal for
    /// themselves. `None` leaves it all three.
    pub aside: Option<&'a File>,
}

impl Launched {
    /// Starts a command and holds it. The command is looked up in PATH; its first word stays argument 0.
    ///
    /// Call this on a thread that lives until [`Launched::release`]: the kernel kills the held process when the thread
    /// that started it ends, not when pystap as a whole does.
    ///
    /// # Errors
    ///
    /// `Nothing`, `CommandNotFound` and `NotExecutable` before anything is started; `Launch` and `NotHeld` afterwards,
    /// with nothing left behind. A command that gets past all of these and still cannot be executed (a damaged file)
    /// says so itself on standard error and ends with [`crate::command::hold::CANNOT_EXECUTE`].
    pub fn start(
        command: &[OsString],
        conditions: Conditions<'_>,
    ) -> Result<Launched, TargetError> {
        // The link and not the path, so that it is this very pystap even after an upgrade.
        Launched::start_through(Path::new("/proc/self/exe"), command, conditions)
    }

    /// The same with another executable as the holder, for programs that use this library but are not pystap.
    ///
    /// # Errors
    ///
    /// As [`Launched::start`].
    pub fn start_through(
        pystap: &Path,
        command: &[OsString],
        conditions: Conditions<'_>,
    ) -> Result<Launched, TargetError> {
        let name = command.first().ok_or(TargetError::Nothing)?;
        let program: PathBuf = executable(name)?;
        let failed = |reason| TargetError::Launch {
            command: name.clone(),
            reason,
        };
        let mut holder = Command::new(pystap);
        if let Some(aside) = conditions.aside {
            let copy = || aside.try_clone().map_err(failed);
            holder.stdin(Stdio::null()).stdout(copy()?).stderr(copy()?);
        }
        let child = holder
            .arg("hold")
            .arg(std::process::id().to_string())
            .arg(program)
            .arg("--")
            .args(command)
            .envs(
                conditions
                    .variables
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .spawn()
            .map_err(failed)?;
        let mut launched = Launched {
            command: name.clone(),
            pid: Pid::from_child(&child),
            start_time: 0,
            stage: Stage::Held,
        };
        launched.wait_until_held()?;
        let start_time = super::start_time(launched.pid());
        let start_time = start_time.map_err(|error| failed(io::Error::other(error)))?;
        launched.start_time = start_time.unwrap_or(0);
        Ok(launched)
    }

    fn wait_until_held(&mut self) -> Result<(), TargetError> {
        loop {
            let Some(status) = self.wait_status(WaitOptions::UNTRACED)? else {
                continue;
            };
            // Ctrl-Z in a terminal may stop the holder before it stops itself; that is not the stop we wait for.
            if status.stopping_signal() == Some(Signal::STOP.as_raw()) {
                return Ok(());
            }
            if let Some(status) = Status::of(status) {
                self.stage = Stage::Ended(status);
                return Err(TargetError::NotHeld {
                    command: self.command.clone(),
                    status,
                });
            }
        }
    }

    /// The process ID: the holder's now, the command's after the release.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Its start time, in clock ticks since boot; for [`super::Watch::add`].
    #[must_use]
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Both.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            pid: self.pid(),
            start_time: self.start_time,
        }
    }

    /// Lets the command run. Does nothing if it has already been released.
    ///
    /// # Errors
    ///
    /// `Launch` when the held process is gone: it was killed from outside.
    pub fn release(&mut self) -> Result<(), TargetError> {
        if self.stage == Stage::Held {
            kill_process(self.pid, Signal::CONT).map_err(|errno| self.failed(errno))?;
            self.stage = Stage::Released;
        }
        Ok(())
    }

    /// Waits until the command has ended. A command that was not released never ends, unless it is killed.
    ///
    /// # Errors
    ///
    /// `Launch` when another part of the process has reaped it.
    pub fn wait(&mut self) -> Result<Status, TargetError> {
        loop {
            if let Some(status) = self.ended(WaitOptions::empty())? {
                return Ok(status);
            }
        }
    }

    /// How the command ended; `None` while it runs.
    ///
    /// # Errors
    ///
    /// As [`Launched::wait`].
    pub fn try_wait(&mut self) -> Result<Option<Status>, TargetError> {
        self.ended(WaitOptions::NOHANG)
    }

    /// How it ended, as far as that was asked already.
    pub(crate) fn status(&self) -> Option<Status> {
        match self.stage {
            Stage::Ended(status) => Some(status),
            _ => None,
        }
    }

    fn ended(&mut self, options: WaitOptions) -> Result<Option<Status>, TargetError> {
        if let Stage::Ended(status) = self.stage {
            return Ok(Some(status));
        }
        let status = self.wait_status(options)?.and_then(Status::of);
        if let Some(status) = status {
            self.stage = Stage::Ended(status);
        }
        Ok(status)
    }

    /// `None` when there is nothing to report, or a signal to ourselves interrupted the wait.
    fn wait_status(&self, options: WaitOptions) -> Result<Option<WaitStatus>, TargetError> {
        match waitpid(Some(self.pid), options) {
            Ok(change) => Ok(change.map(|(_, status)| status)),
            Err(Errno::INTR) => Ok(None),
            Err(errno) => Err(self.failed(errno)),
        }
    }

    fn failed(&self, errno: Errno) -> TargetError {
        TargetError::Launch {
            command: self.command.clone(),
            reason: io::Error::from(errno),
        }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if self.stage == Stage::Held && kill_process(self.pid, Signal::KILL).is_ok() {
            // An error means that it has been reaped elsewhere, which is just as good.
            let _ = self.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_reported_as_shells_do() {
        assert_eq!(Status::Exited(3).exit_code(), 3);
        assert_eq!(Status::Killed(9).exit_code(), 137);
        assert_eq!(Status::Killed(9).to_string(), "killed by SIGKILL");
        assert_eq!(Status::Exited(3).to_string(), "exit status 3");
    }

    #[test]
    fn a_holder_that_ends_instead_of_stopping_is_an_error() {
        let error = Launched::start_through(
            Path::new("/bin/false"),
            &["true".into()],
            Conditions::default(),
        )
        .expect_err("nobody holds");
        assert!(
            matches!(
                &error,
                TargetError::NotHeld {
                    status: Status::Exited(1),
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn commands_that_cannot_be_started_are_refused_before_anything_is_started() {
        let directory = tempfile::tempdir().expect("a directory");
        let plain = directory.path().join("plain");
        std::fs::write(&plain, "print()").expect("written");
        let refused = |command: &[OsString]| {
            let error = Launched::start(command, Conditions::default()).expect_err("refused");
            assert_eq!(error.exit_code(), 2, "{error}");
            error
        };
        assert!(matches!(refused(&[]), TargetError::Nothing));
        assert!(matches!(
            refused(&["no-such-command".into()]),
            TargetError::CommandNotFound { .. }
        ));
        assert!(matches!(
            refused(&["/nonexistent/python3".into()]),
            TargetError::CommandNotFound { .. }
        ));
        assert!(matches!(
            refused(&[plain.into()]),
            TargetError::NotExecutable { .. }
        ));
        assert!(matches!(
            refused(&[directory.path().into()]),
            TargetError::NotExecutable { .. }
        ));
    }
}
