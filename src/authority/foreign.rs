//! Programs of others: the one place that starts what is not pystap's, SystemTap's or the user's own command. Such a
//! program is asked a question, and has little time and little room to answer.
//!
//! As root pystap runs with root's power only what root alone holds ([`Holder`]), without the directories of PATH and the
//! working directory that others can change. A program that one user holds is run as that user: through `pystap lower`,
//! which takes the ids and drops the rest before it executes the program. What several users hold is not run at all,
//! because each of them could use the others' power through it.

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

/// More than this is no answer.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Why a program of others gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Not for root to run.
    #[error("{0}, so root does not run it")]
    Held(String),
    /// It was started, or should have been.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// What a program said until it ended.
#[derive(Debug)]
pub struct Said {
    /// On standard output.
    pub output: Vec<u8>,
    /// On standard error.
    pub errors: Vec<u8>,
    /// How it ended.
    pub status: ExitStatus,
}

/// Runs a program with these arguments, as whoever holds it, and listens until it has ended. Whoever holds `with` as well
/// has a part in what it does. What it has started is ended with it, as far as it stayed in its process group.
///
/// # Errors
/// [`AskError`]; also when it takes longer than `patience` or says too much.
pub fn ask(
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
    Ok(listen_to(command, patience)?)
}

/// Has pystap itself do something as another user, in a process of its own: `pystap lower USER GROUP WHAT -- ARGUMENTS`.
///
/// # Errors
/// As [`ask`].
pub fn as_user<W: AsRef<OsStr>>(
    user: u32,
    what: &str,
    arguments: impl IntoIterator<Item = W>,
    patience: Duration,
) -> io::Result<Said> {
    listen_to(lowered(user, what, arguments), patience)
}

/// The command that does it. Nothing of root's environment goes along.
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

/// The part of `pystap lower` that comes first: descriptors that root had are closed, the ids are taken, and what is started
/// from here on is in a session of its own.
///
/// # Errors
/// [`IdentityError`]: the process must end then.
pub fn lower(identity: Identity) -> Result<(), IdentityError> {
    let failed = |reason| IdentityError {
        user: identity.user,
        reason,
    };
    close_all_but_standard().map_err(failed)?;
    // A session of its own has no terminal, whose input could be faked.
    setsid().map_err(|errno| failed(errno.into()))?;
    identity.assume()
}

/// Becomes a program, within bounds. Returns only on failure.
pub fn become_program(program: &OsStr, arguments: &[OsString]) -> io::Error {
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

/// Whatever the shell that started pystap had open is not for a program of another user.
fn close_all_but_standard() -> io::Result<()> {
    let entries: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in entries {
        // The one of the directory that was read is closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

fn listen_to(mut command: Command, patience: Duration) -> io::Result<Said> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // A group of its own, so that what it has started can be ended with it; one that is lowered makes a whole session.
    if command_is_direct(child) {
        child = child.process_group(0);
    }
    let mut child = child.spawn()?;
    let said = listen(&mut child, Instant::now() + patience);
    if said.is_err() {
        // It is not reaped yet, so its group cannot be somebody else's; it is gone if this fails.
        let _ = kill_process(Pid::from_child(&child), Signal::KILL);
    }
    // Also after an answer: what it has left behind in its group has no more business with us.
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

/// Listens until the process has closed its output and ended, but does not reap it.
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

/// Which of the files have something to read, waiting for it until the deadline.
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

/// Reads what is there; `false` at the end.
fn read_some(from: &mut File, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let length = from.read(&mut buffer)?;
    into.extend(buffer.iter().take(length));
    if into.len() > LONGEST_ANSWER {
        return Err(io::Error::other("it says too much"));
    }
    Ok(length > 0)
}

/// Finds a program that pystap is to run with its own power: one that is named, or one in PATH.
///
/// # Errors
/// [`ToolError`].
pub fn tool(name: &Path) -> Result<PathBuf, ToolError> {
    let path = which::which(name).map_err(|_| ToolError::Missing)?;
    match believed(&path) {
        Ok(()) => Ok(path),
        Err(reason) => Err(ToolError::Distrusted { path, reason }),
    }
}

/// Why a program cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum ToolError {
    /// There is none.
    Missing,
    /// It is there, and others can change it.
    Distrusted {
        /// Where.
        path: PathBuf,
        /// Who, a clause.
        reason: String,
    },
}

/// How a user is spoken of.
pub fn user(user: u32) -> String {
    named(user)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    #[ignore = "needs root: run by scripts/test-here"]
    fn what_several_hold_is_not_run_by_root() {
        let directory = tempfile::tempdir().expect("a directory");
        let (script, canary) = (
            directory.path().join("python"),
            directory.path().join("canary"),
        );
        fs::write(&script, format!("#!/bin/sh\ntouch {}\n", canary.display())).expect("written");
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
        fs::write(&script, text).expect("written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("set");
        let said = ask(&script, &[], None, Duration::from_secs(30)).expect("an answer");
        let left = String::from_utf8_lossy(&said.output).trim().to_owned();
        let end = Instant::now() + Duration::from_secs(10);
        // It is reaped by whoever inherits it; until then it is a zombie, which has no command line.
        while fs::read(format!("/proc/{left}/cmdline")).is_ok_and(|line| !line.is_empty()) {
            assert!(Instant::now() < end, "it goes on");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}
