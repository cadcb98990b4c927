//! The pystap that `ssh` starts on a host: says what it is, answers what time it is until it is told to go, then runs a command and
//! ends it when nobody is there any longer.
//!
//! ```text
//! host    pystap-on-host 1 VERSION
//! we      time                        as often as we like
//! host    NANOSECONDS                 since the Unix epoch
//! we      go
//! host    what the command writes
//! we      an empty line every few seconds, until we have enough
//! ```

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use crate::clock;
use crate::export::Output;
use crate::session::stop;
use crate::threads;

/// With what the first line begins, and the version of the conversation.
pub const GREETING: &str = "pystap-on-host 1 ";
/// Asks what time it is.
pub const TIME: &str = "time\n";
/// Has the command run.
pub const GO: &str = "go\n";
/// Says that we are there.
pub const BEAT: &str = "\n";
/// How often that is said.
pub const EVERY: Duration = Duration::from_secs(5);
/// For how long it may be missed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Talks on standard input and output until it is to go. `false` when nobody is there.
///
/// # Errors
/// The system's.
pub fn greet() -> io::Result<bool> {
    let (input, mut output) = (io::stdin(), Output::stdout(stop::give_up())?);
    writeln!(output, "{GREETING}{}", env!("CARGO_PKG_VERSION"))?;
    output.flush()?;
    let mut line = Vec::new();
    while wait(&input, PATIENCE)? {
        // A byte at a time, so that nothing is taken that is not ours.
        let mut byte = [0];
        match rustix::io::read(&input, &mut byte) {
            Ok(0) => return Ok(false),
            Ok(_) => line.push(byte[0]),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if line == GO.as_bytes() {
            return Ok(true);
        }
        if line == TIME.as_bytes() {
            writeln!(output, "{}", clock::now())?;
            output.flush()?;
        }
        if byte == *b"\n" || line.len() > 64 {
            line.clear();
        }
    }
    Ok(false)
}

/// From now on, standard input that ends or is silent ends us as Ctrl-C would.
///
/// # Errors
/// When no thread can be had.
pub fn end_when_left() -> io::Result<()> {
    threads::spawn(|| {
        let input = io::stdin();
        let mut some = [0; 256];
        while wait(&input, PATIENCE).unwrap_or(false) {
            match rustix::io::read(&input, &mut some) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        // Of ourselves: nothing else can have the number.
        let _ = kill_process(getpid(), Signal::INT);
    })?;
    Ok(())
}

/// Whether there is something to read, or the end, before so much time has passed.
fn wait(input: &impl AsFd, time: Duration) -> io::Result<bool> {
    let timeout = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    loop {
        let mut polled = [PollFd::new(input, PollFlags::IN)];
        match poll(&mut polled, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
