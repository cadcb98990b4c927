//! `pystap hold`, hidden: becomes the command that pystap was asked to launch, but not before it is told to.
//!
//! [`crate::process::Launched`] starts it and is its only user. Holding and executing in one process keeps the process
//! id: probes are armed for it while the command has not run an instruction. Writes nothing, catches nothing.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getpid, getppid, kill_process, set_parent_process_death_signal};
use thiserror::Error;

/// The exit status of a holder that could not become its command, after the convention of shells.
pub const CANNOT_EXECUTE: u8 = 126;

/// Why the holder did not become the command.
#[derive(Debug, Error)]
pub enum HoldError {
    /// Nothing to become.
    #[error(
        "`pystap hold` was started without a command, so there is nothing to launch: start commands with a tracing \
         subcommand, as `pystap trace -- COMMAND`"
    )]
    NoCommand,
    /// pystap is gone already; nobody would ever continue the process.
    #[error("pystap ended before {} was launched, so it was not started: start it again", command.display())]
    Abandoned {
        /// The command.
        command: OsString,
    },
    /// A system call that cannot fail on a supported kernel did.
    #[error(
        "{} cannot be held until tracing is ready, so it was not started: report this with the output of `uname -a`", command.display()
    )]
    Hold {
        /// The command.
        command: OsString,
        /// What the system said.
        reason: io::Error,
    },
    /// execve(2) failed.
    #[error(
        "{} cannot be executed ({reason}), so there is nothing to trace: check that it runs without pystap", command.display()
    )]
    Execute {
        /// The command.
        command: OsString,
        /// What the system said.
        reason: io::Error,
    },
}

/// Stops this process; when it is continued, executes `program` in its place with `command` as its arguments, the
/// first of which is the name it is called by. `parent` is the pystap that waits for the stop.
///
/// # Errors
///
/// Returns only on failure.
pub fn run(parent: u32, program: &OsString, command: &[OsString]) -> Result<Infallible, HoldError> {
    let (name, arguments) = command.split_first().ok_or(HoldError::NoCommand)?;
    let failed = |errno: rustix::io::Errno| HoldError::Hold {
        command: name.clone(),
        reason: errno.into(),
    };
    // A pystap that is killed must not leave a stopped process behind that nobody knows of.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed)?;
    // It may have been killed before the line above took effect.
    let still_there =
        getppid().is_some_and(|pid| i64::from(pid.as_raw_nonzero().get()) == i64::from(parent));
    if !still_there {
        return Err(HoldError::Abandoned {
            command: name.clone(),
        });
    }
    kill_process(getpid(), Signal::STOP).map_err(failed)?;
    // From here on the command is on its own and outlives pystap.
    set_parent_process_death_signal(None).map_err(failed)?;
    // The standard library empties the signal mask and restores SIGPIPE, which it had itself ignored, before execve;
    // handlers do not survive execve; what the user's shell had ignored stays ignored, as without pystap.
    let reason = Command::new(program).arg0(name).args(arguments).exec();
    Err(HoldError::Execute {
        command: name.clone(),
        reason,
    })
}
