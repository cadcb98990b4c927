//! One host: `ssh`, the conversation with the pystap that it starts there, and what comes of it.
//!
//! Nothing that comes is believed: lines are bounded, what is shown is escaped, and the stream itself is read as a file that anybody
//! may have written is.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clocks::{Difference, ROUNDS, Round};
use super::serving::{BEAT, EVERY, GO, GREETING, TIME};
use crate::clock;
use crate::text::Foreign;
use crate::threads;

/// How long a host may take to be reached and to say what it is.
const REACHED: Duration = Duration::from_secs(30);
/// How long it may take to say what time it is.
const ANSWERED: Duration = Duration::from_secs(10);
/// What may come before the greeting: what a shell says when somebody logs in.
const MOST_BEFORE: usize = 64 << 10;
/// Longest line of what a host says beside its stream, and how many are passed on.
const LONGEST: u64 = 4096;
const MOST_LINES: usize = 50;
/// How long a host that was asked to end may take for it, before `ssh` is ended.
const END: Duration = Duration::from_secs(20);

/// How hosts are reached, and what is run there.
#[derive(Debug, Clone)]
pub struct Reach {
    /// `ssh` with options of the user's own.
    pub ssh: Vec<OsString>,
    /// The command line for the shell of a host.
    pub command: String,
    /// What the command does there, for messages: `pystap trace`.
    pub pystap: String,
    /// Whether it runs by `sudo`.
    pub sudo: bool,
}

/// What a host said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeted {
    /// The version of its pystap.
    pub version: String,
    /// Its clock, where that could be measured.
    pub clock: Option<Difference>,
}

/// What a host says beside its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// People should know.
    Warning(String),
    /// For those who look for it.
    Detail(String),
}

/// A host that is being talked to. Dropped, it is asked to end, and does.
#[derive(Debug)]
pub struct Remote {
    child: Arc<Mutex<Child>>,
    said: Arc<Mutex<String>>,
    reach: Reach,
}

/// What a host said, to be read on: the rest of what was read, and what comes.
pub type Stream = io::Chain<Cursor<Vec<u8>>, ChildStdout>;

/// Why nothing comes from a host, or not any longer: what happened, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble(pub String);

impl Remote {
    /// Reaches a host, learns what it is and what its clock says, and has the command run there. What comes is the stream of that
    /// command; `stop` ends it (a message, and at once another one), and `hear` is told what else the host says.
    ///
    /// # Errors
    /// Why that was not possible, with what to do.
    pub fn begin(
        host: &str,
        reach: &Reach,
        stop: Receiver<()>,
        stopping: &Arc<AtomicBool>,
        hear: impl Fn(Word) + Send + 'static,
    ) -> Result<(Remote, Greeted, Stream), Trouble> {
        let Some((program, options)) = reach.ssh.split_first() else {
            return Err(Trouble("no ssh is named; leave out --ssh".to_owned()));
        };
        let mut child = Command::new(program)
            .args(options)
            .args(["-T", "-oBatchMode=yes", "-oConnectTimeout=15"])
            .args(["-oServerAliveInterval=5", "-oServerAliveCountMax=6", "--"])
            .arg(host)
            .arg(&reach.command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C ends hosts in their order, not ssh at once.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                let program = Foreign::path(std::path::Path::new(program));
                Trouble(format!("{program} cannot be started ({error}); install it, or name another one with --ssh"))
            })?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let remote = Remote {
            child: Arc::new(Mutex::new(child)),
            said: Arc::default(),
            reach: reach.clone(),
        };
        let (Some(mut input), Some(mut output), Some(errors)) = pipes else {
            return Err(Trouble("ssh has no pipes".to_owned()));
        };
        let said = Arc::clone(&remote.said);
        let no_thread = |error: io::Error| Trouble(error.to_string());
        threads::spawn(move || listen(errors, &said, &hear)).map_err(no_thread)?;
        let mut talk = Talk {
            output: &mut output,
            rest: Vec::new(),
            stopping,
        };
        let greeted = talk
            .greet(&mut input)
            .map_err(|failed| remote.why(host, failed))?;
        input
            .write_all(GO.as_bytes())
            .map_err(|_| remote.why(host, Failed::Ended))?;
        let rest = std::mem::take(&mut talk.rest);
        let child = Arc::clone(&remote.child);
        threads::spawn(move || keep(input, &stop, &child)).map_err(no_thread)?;
        Ok((remote, greeted, Cursor::new(rest).chain(output)))
    }

    /// What the host said last, of what it says beside its stream, escaped.
    pub fn last_words(&self) -> String {
        lock(&self.said).clone()
    }

    /// Waits for its end, which has come or is near.
    pub fn end(&self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            let ended = lock(&self.child).try_wait();
            match ended {
                Ok(Some(status)) => return status.code(),
                Ok(None) if begun.elapsed() < END => {
                    std::thread::park_timeout(Duration::from_millis(10));
                }
                _ => {
                    let mut child = lock(&self.child);
                    let _ = child.kill();
                    return child.wait().ok().and_then(|status| status.code());
                }
            }
        }
    }

    /// Why it did not get as far as to run the command.
    fn why(&self, host: &str, failed: Failed) -> Trouble {
        if failed != Failed::Ended {
            let _ = lock(&self.child).kill();
        }
        let status = self.end();
        let words = self.last_words();
        let words = match words.is_empty() {
            true => String::new(),
            false => format!(" ({words})"),
        };
        let host = crate::shell::word(host);
        let version = env!("CARGO_PKG_VERSION");
        Trouble(match (failed, status) {
            (Failed::Stopped, _) => "stopped before it was reached".to_owned(),
            (Failed::Slow, _) => format!(
                "it does not say that it is there{words}; see what `ssh {host} pystap --version` does"
            ),
            (Failed::Strange(what), _) => format!(
                "it says something else than pystap: {what}; see what `ssh {host} true` prints, which should be nothing"
            ),
            (Failed::Ended, Some(255)) => {
                format!("it cannot be reached{words}; see what `ssh {host} true` says")
            }
            (Failed::Ended, Some(126 | 127)) => format!(
                "there is no {} there{words}; install pystap {version}, or say where it is with --remote-pystap",
                Foreign::new(self.reach.pystap.as_str())
            ),
            (Failed::Ended, Some(1)) if self.reach.sudo => format!(
                "sudo does not let it run without a password{words}; allow that, or leave out --remote-sudo"
            ),
            (Failed::Ended, Some(2)) => format!(
                "its pystap is another one than {version} and does not know hosts{words}; install {version} there"
            ),
            (Failed::Ended, Some(code)) => format!(
                "its pystap ended with {code}{words}; see what `ssh {host} pystap doctor` says"
            ),
            (Failed::Ended, None) => format!("ssh was ended{words}; try again"),
        })
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = lock(&self.child).kill();
        let _ = lock(&self.child).wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a conversation came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failed {
    /// The other side has gone.
    Ended,
    /// It says nothing.
    Slow,
    /// It says something else.
    Strange(String),
    /// Nobody wants to know any longer.
    Stopped,
}

/// The conversation before the stream.
struct Talk<'a> {
    output: &'a mut ChildStdout,
    /// What was read and not understood yet.
    rest: Vec<u8>,
    stopping: &'a AtomicBool,
}

impl Talk<'_> {
    fn greet(&mut self, input: &mut ChildStdin) -> Result<Greeted, Failed> {
        let version = self.greeting()?;
        let mut rounds = Vec::new();
        let end = Instant::now() + ANSWERED;
        for _ in 0..ROUNDS {
            let asked = clock::now();
            input
                .write_all(TIME.as_bytes())
                .map_err(|_| Failed::Ended)?;
            let line = self.line(end)?;
            let heard = clock::now();
            let Ok(said) = line.trim().parse() else {
                return Err(Failed::Strange(shown(&line)));
            };
            rounds.push(Round { asked, said, heard });
        }
        Ok(Greeted {
            version,
            clock: Difference::of(&rounds),
        })
    }

    /// The version of the pystap there. What a login says before is passed over.
    fn greeting(&mut self) -> Result<String, Failed> {
        let end = Instant::now() + REACHED;
        let (mut before, mut first) = (0, None);
        while before < MOST_BEFORE {
            let line = match self.line(end) {
                Err(failed) if first.is_none() || failed == Failed::Stopped => return Err(failed),
                Err(_) => break,
                Ok(line) => line,
            };
            if let Some(version) = line.trim_end().strip_prefix(GREETING) {
                return Ok(shown(version));
            }
            before += line.len();
            first.get_or_insert(line);
        }
        Err(Failed::Strange(shown(&first.unwrap_or_default())))
    }

    fn line(&mut self, end: Instant) -> Result<String, Failed> {
        loop {
            if let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.rest.len() > MOST_BEFORE {
                let line = String::from_utf8_lossy(&self.rest).into_owned();
                return Err(Failed::Strange(shown(&line)));
            }
            if self.stopping.load(Ordering::Relaxed) {
                return Err(Failed::Stopped);
            }
            if Instant::now() >= end {
                return Err(Failed::Slow);
            }
            let moment = Timespec {
                tv_sec: 0,
                tv_nsec: 100_000_000,
            };
            let fd = self.output.as_fd();
            let ready = poll(
                &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
                Some(&moment),
            );
            if ready.is_ok_and(|ready| ready > 0) {
                let mut bytes = [0; 4096];
                match self.output.read(&mut bytes) {
                    Ok(0) => return Err(Failed::Ended),
                    Ok(count) => self
                        .rest
                        .extend_from_slice(bytes.get(..count).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return Err(Failed::Ended),
                }
            }
        }
    }
}

/// The beginning of a line from outside.
fn shown(line: &str) -> String {
    let short: String = line.trim().chars().take(120).collect();
    Foreign::new(short.as_str()).to_string()
}

/// Passes on what a host says on standard error: what its pystap warns of, and the rest for those who look for it.
fn listen(errors: ChildStderr, said: &Mutex<String>, hear: &dyn Fn(Word)) {
    let mut reader = BufReader::new(errors);
    let mut heard = 0;
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(LONGEST).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim();
        // What pystap only tells in passing explains no end.
        let (is_ours, line) = match line.strip_prefix("pystap: ") {
            Some(line) => (true, line),
            None => (false, line),
        };
        if line.is_empty() {
            continue;
        }
        let error = line.strip_prefix("error: ");
        let words = Foreign::new(error.unwrap_or(line)).to_string();
        if error.is_some() || !is_ours {
            lock(said).clone_from(&words);
        }
        heard += 1;
        match line.strip_prefix("warning: ") {
            _ if heard > MOST_LINES => {}
            Some(warning) => hear(Word::Warning(Foreign::new(warning).to_string())),
            None => hear(Word::Detail(words)),
        }
    }
}

/// Says that we are there until somebody stops it; then standard input of the host ends, and with it what runs there.
fn keep(mut input: ChildStdin, stop: &Receiver<()>, child: &Mutex<Child>) {
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(EVERY) {
        if input.write_all(BEAT.as_bytes()).is_err() {
            return;
        }
    }
    drop(input);
    // Asked once more, or nobody waits any longer: without patience.
    let again = stop.recv_timeout(END);
    if !matches!(again, Err(RecvTimeoutError::Disconnected)) {
        let _ = lock(child).kill();
    }
}
