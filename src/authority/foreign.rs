//! Programs of others: the only place that starts anything other than pystap, SystemTap or the user's own command. Such
//! a program is asked a question, and has little time and little room to answer.
//!
//! With root's power, pystap runs only what root alone controls ([`Holder`]), without the directories of PATH and the
//! working directory that others can change. A program that one user controls is run as that user: through `pystap
//! lower`, which takes the user's IDs and drops everything else before it executes the program. A program that several
//! users control is not run at all, because each of them could use the others' power through it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, geteuid, kill_process, kill_process_group,
    pidfd_open, setrlimit, setsid,
};

use super::holder::{Holder, believed, named};
use super::{Identity, IdentityError, own};

/// A longer answer is not an answer.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Why a program of others gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Root must not run it.
    #[error("{0}, so root does not run it")]
    Held(String),
    /// Starting or running it failed.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// What a program wrote until it ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// On standard output.
    pub output: Vec<u8>,
    /// On standard error.
    pub errors: Vec<u8>,
    /// How it ended.
    pub status: ExitStatus,
}

/// Runs a program with these arguments, as the user who controls it, and reads its output until it has ended. The
/// holder of `with` counts too. Everything it started is killed along with it, as far as it stayed in its process
/// group.
///
/// # Errors
/// [`AskError`]; also when it takes longer than `patience` or writes too much.
pub(crate) fn ask(
    program: &Path,
    arguments: &[&str],
    with: Option<&Path>,
    patience: Duration,
) -> Result<Said, AskError> {
    let mut command = if geteuid().is_root() {
        let mut holder = Holder::of_program(program)?;
        if let Some(with) = with {
            holder = holder.and(Holder::of(with)?);
        }
        match holder {
            Holder::Root => {
                let mut command = Command::new(program);
                own::tame(&mut command);
                if std::env::current_dir().map_or(true, |here| believed(&here).is_err()) {
                    command.current_dir("/");
                }
                command
            }
            Holder::User(user) => lowered(user, "run", [program.as_os_str()]),
            Holder::Several(who) => return Err(AskError::Held(who)),
        }
    } else {
        Command::new(program)
    };
    command.args(arguments);
    Ok(listen_to(command, Stdio::null(), patience)?)
}

/// Runs a program with our own power, which reads a file as its standard input, and reads its output until it has ended.
///
/// # Errors
/// What starting or running it says; also when it takes longer than `patience` or writes too much.
pub(crate) fn feed(
    program: &Path,
    arguments: &[&str],
    input: File,
    patience: Duration,
) -> io::Result<Said> {
    let mut command = Command::new(program);
    own::tame(&mut command);
    command.args(arguments).current_dir("/");
    listen_to(command, input.into(), patience)
}

/// Has pystap itself do something as another user, in a process of its own: `pystap lower USER GROUP WHAT --
/// ARGUMENTS`.
///
/// # Errors
/// As [`ask`].
pub(crate) fn as_user<W: AsRef<OsStr>>(
    user: u32,
    what: &str,
    arguments: impl IntoIterator<Item = W>,
    patience: Duration,
) -> io::Result<Said> {
    listen_to(lowered(user, what, arguments), Stdio::null(), patience)
}

/// The command for that. Nothing of root's environment is passed on.
fn lowered<W: AsRef<OsStr>>(
    user: u32,
    what: &str,
    arguments: impl IntoIterator<Item = W>,
) -> Command {
    let identity = Identity::of_user(user);
    let account = Identity::account(user);
    let mut command = Command::new("/proc/self/exe");
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .current_dir("/")
        .arg("lower")
        .arg(identity.user.to_string())
        .arg(identity.group.to_string())
        .arg(what)
        .arg("--")
        .args(arguments);
    let home = account
        .as_ref()
        .map_or("/", |account| account.home.as_str());
    command.env("HOME", home);
    if let Some(account) = &account {
        command
            .env("USER", &account.name)
            .env("LOGNAME", &account.name);
    }
    command
}

/// The first part of `pystap lower`: closes descriptors that root had, takes the IDs, and puts everything started from
/// here on into a session of its own.
///
/// # Errors
/// [`IdentityError`]: the process must then end.
pub(crate) fn lower(identity: Identity) -> Result<(), IdentityError> {
    let failed = |reason| IdentityError {
        user: identity.user,
        reason,
    };
    close_all_but_standard().map_err(failed)?;
    // A session of its own has no terminal whose input could be faked.
    setsid().map_err(|errno| failed(errno.into()))?;
    identity.assume()
}

/// Executes a program, within resource limits. Returns only on failure.
pub(crate) fn become_program(program: &OsStr, arguments: &[OsString]) -> io::Error {
    let most = |resource, most| {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)
    };
    let limited = most(Resource::Cpu, 30)
        .and_then(|()| most(Resource::As, 2 << 30))
        .and_then(|()| most(Resource::Nofile, 256))
        .and_then(|()| most(Resource::Fsize, 1 << 20));
    match limited {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(errno) => errno.into(),
    }
}

/// A program of another user must not see what the shell that started pystap had open.
fn close_all_but_standard() -> io::Result<()> {
    let entries: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in entries {
        // The descriptor of the directory that was being read is already closed.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

fn listen_to(mut command: Command, input: Stdio, patience: Duration) -> io::Result<Said> {
    let mut child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Its own group, so that what it started can be killed with it; a lowered one makes a session of its own.
    if command_is_direct(child) {
        child = child.process_group(0);
    }
    let mut child = child.spawn()?;
    let said = listen(&mut child, Instant::now() + patience);
    if said.is_err() {
        // It has not been reaped yet, so its group cannot be another's; if this fails, it is gone.
        let _ = kill_process(Pid::from_child(&child), Signal::KILL);
    }
    // Also after an answer: whatever it left behind in its group has no further business with us.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    let status = child.wait()?;
    let (output, errors) = said?;
    Ok(Said {
        output,
        errors,
        status,
    })
}

fn command_is_direct(command: &Command) -> bool {
    command.get_program() != OsStr::new("/proc/self/exe")
}

/// Reads until the process has closed its output and ended, but does not reap it.
fn listen(child: &mut Child, deadline: Instant) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let mut output = child.stdout.take().map(OwnedFd::from).map(File::from);
    let mut errors = child.stderr.take().map(OwnedFd::from).map(File::from);
    while output.is_some() || errors.is_some() {
        let open: Vec<&File> = output.iter().chain(&errors).collect();
        let ready = readable(&open, deadline)?;
        let mut ready = ready.into_iter();
        for (stream, text) in [(&mut output, &mut said), (&mut errors, &mut complained)] {
            if let Some(file) = stream
                && ready.next() == Some(true)
                && !read_some(file, text)?
            {
                *stream = None;
            }
        }
    }
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    while readable(&[&ended], deadline)? == [false] {}
    Ok((said, complained))
}

/// Which of the files are readable, waiting until the deadline.
fn readable<F: AsFd>(files: &[&F], deadline: Instant) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> = files
        .iter()
        .map(|file| PollFd::new(*file, PollFlags::IN))
        .collect();
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&timeout)) {
        Ok(0) => Err(io::Error::other("it did not finish in time")),
        Ok(_) => Ok(polled
            .iter()
            .map(|polled| !polled.revents().is_empty())
            .collect()),
        Err(Errno::INTR) => Ok(vec![false; files.len()]),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads what is available; `false` at end of file.
fn read_some(from: &mut File, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let length = from.read(&mut buffer)?;
    into.extend(buffer.iter().take(length));
    if into.len() > LONGEST_ANSWER {
        return Err(io::Error::other("it says too much"));
    }
    Ok(length > 0)
}

/// Finds a program that pystap is to run with its own power: one given by path, or one in PATH.
///
/// # Errors
/// [`ToolError`].
pub(crate) fn tool(name: &Path) -> Result<PathBuf, ToolError> {
    let path = which::which(name).map_err(|_| ToolError::Missing)?;
    match believed(&path) {
        Ok(()) => Ok(path),
        Err(reason) => Err(ToolError::Distrusted { path, reason }),
    }
}

/// Why a program cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToolError {
    /// It does not exist.
    Missing,
    /// It exists, but others can change it.
    Distrusted {
        /// Its path.
        path: PathBuf,
        /// A clause saying who can change it.
        reason: String,
    },
}

/// A user, as messages name it.
pub(crate) fn user(user: u32) -> String {
    named(user)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;
    use crate::executable;

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn what_several_hold_is_not_run_by_root() {
        let directory = tempfile::tempdir().expect("a directory");
        let (script, canary) = (
            directory.path().join("python"),
            directory.path().join("canary"),
        );
        executable::script(&format!("#!/bin/sh\ntouch {}\n", canary.display()), &script);
        fs::set_permissions(&script, fs::Permissions::from_mode(0o777)).expect("set");
        let error = ask(&script, &[], None, Duration::from_secs(10)).expect_err("refused");
        assert!(matches!(error, AskError::Held(_)), "{error}");
        assert!(!canary.exists());
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("set");
        chown(directory.path(), Some(54321), None).expect("given away");
        chown(&script, Some(54322), None).expect("given away");
        let error = ask(&script, &[], None, Duration::from_secs(10)).expect_err("refused");
        assert!(error.to_string().contains("54321"), "{error}");
        assert!(!canary.exists());
    }

    #[test]
    fn what_root_holds_is_run_and_what_it_leaves_behind_is_ended() {
        let directory = tempfile::tempdir().expect("a directory");
        let script = directory.path().join("python");
        let text = "#!/bin/sh\nsleep 1000 >&- 2>&- &\necho $!\n";
        executable::script(text, &script);
        let said = ask(&script, &[], None, Duration::from_secs(30)).expect("an answer");
        let left = String::from_utf8_lossy(&said.output).trim().to_owned();
        let end = Instant::now() + Duration::from_secs(10);
        // It is reaped by whichever process inherits it; until then it is a zombie, which has no command line.
        while fs::read(format!("/proc/{left}/cmdline")).is_ok_and(|line| !line.is_empty()) {
            assert!(Instant::now() < end, "it goes on");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}
