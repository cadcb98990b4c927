//! How long a program waits for a pystap that does not answer: as short as possible without losing one that is merely
//! busy. One that is stopped answers nobody; one that works shows it in the processor time that it has used.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io;

/// For one that works, in milliseconds.
const BUSY: i64 = 4000;
/// For one that does not. Longer than pystap itself waits for the kernel's records to confirm who asks.
const IDLE: i64 = 1000;
/// For one that cannot be looked at: it is in another pid namespace, or there is no /proc.
const UNSEEN: i64 = 1000;
/// How often it is looked at.
pub(crate) const LOOK: i64 = 50;
/// The most that the time between two looks counts for. Where one comes later, the host had no processor for us, and so
/// perhaps none for pystap.
const BETWEEN: i64 = 2 * LOOK;
/// Most threads that are looked at.
const MOST_THREADS: usize = 64;

/// The wait for an answer of a process.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    pid: i32,
    /// When it was last looked at.
    looked: i64,
    /// How long we have waited, and how long since it was last seen at work.
    waited: i64,
    idle: i64,
    /// The processor time that it had used by then.
    used: u64,
}

impl Patience {
    /// The wait begins.
    pub(crate) fn new(pid: i32, now: i64) -> Patience {
        Patience {
            pid,
            looked: now,
            waited: 0,
            idle: 0,
            used: 0,
        }
    }

    /// Whether to wait no longer.
    pub(crate) fn is_over(&mut self, now: i64) -> bool {
        let passed = now.wrapping_sub(self.looked).clamp(0, BETWEEN);
        self.looked = now;
        self.waited += passed;
        let Some((state, used)) = look(self.pid) else {
            return self.waited >= UNSEEN;
        };
        // Under a debugger it is `t` for moments only.
        if matches!(state, b'T' | b'Z' | b'X') {
            return true;
        }
        self.idle += passed;
        if used != self.used || is_at_work(state) || has_thread_at_work(self.pid) {
            self.idle = 0;
        }
        self.used = used;
        self.waited >= BUSY || self.idle >= IDLE
    }
}

/// Whether a thread in this state has a processor, waits for one, or for a disk.
fn is_at_work(state: u8) -> bool {
    matches!(state, b'R' | b'D')
}

/// Whether any thread of a process is at work. The state of the process is that of its first thread, which mostly sleeps
/// while the others answer.
fn has_thread_at_work(pid: i32) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = alloc::format!("/proc/{pid}/task");
    let Ok(directory) = rustix::fs::open(path.as_str(), flags, Mode::empty()) else {
        return false;
    };
    let mut buffer = [const { MaybeUninit::uninit() }; 2048];
    let mut entries = RawDir::new(&directory, &mut buffer);
    for _ in 0..MOST_THREADS {
        let Some(Ok(entry)) = entries.next() else {
            return false;
        };
        if number(entry.file_name())
            .and_then(|thread| look_at(&alloc::format!("{path}/{thread}/stat")))
            .is_some_and(|(state, _)| is_at_work(state))
        {
            return true;
        }
    }
    false
}

fn number(name: &CStr) -> Option<u32> {
    name.to_str().ok()?.parse().ok()
}

/// State and processor time of a process.
fn look(pid: i32) -> Option<(u8, u64)> {
    if pid <= 0 {
        return None;
    }
    look_at(&alloc::format!("/proc/{pid}/stat"))
}

/// What a file `stat` says.
fn look_at(path: &str) -> Option<(u8, u64)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let mut text = [0; 512];
    let length = io::read(&file, &mut text).ok()?;
    let text = core::str::from_utf8(text.get(..length)?).ok()?;
    // The name, in parentheses, may contain anything.
    let mut fields = text
        .get(text.rfind(')')?.checked_add(1)?..)?
        .split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // utime and stime are the 14th and the 15th field, and the state is the third.
    let mut times = fields
        .skip(10)
        .map(|field| field.parse::<u64>().unwrap_or(0));
    let used = times.next()?.wrapping_add(times.next()?);
    Some((state, used))
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use core::sync::atomic::{AtomicBool, Ordering};
    use std::process::{Child, Command, Stdio};
    use std::sync::Arc;

    use super::*;

    /// A process that reads a pipe that nobody writes to, once it does.
    fn idle() -> Child {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("cat");
        let pid = child.id().cast_signed();
        while look(pid).is_none_or(|(state, _)| state != b'S') {
            assert_eq!(child.try_wait().expect("its state"), None);
            std::thread::yield_now();
        }
        child
    }

    /// How often one that is looked at every so many milliseconds is waited for.
    fn looks(pid: i32, every: i64) -> i64 {
        let mut patience = Patience::new(pid, 0);
        (1..10_000)
            .find(|look| patience.is_over(look * every))
            .expect("an end")
    }

    #[test]
    fn one_that_does_nothing_is_waited_for_as_long_as_it_could_answer() {
        let mut child = idle();
        let pid = child.id().cast_signed();
        // The first look finds processor time that it used before.
        assert!((IDLE / LOOK..=IDLE / LOOK + 1).contains(&looks(pid, LOOK)));
        // On a host that lets us look every two seconds, it had no more chances to answer than looks were taken.
        let late = looks(pid, 2000);
        assert!(
            (IDLE / BETWEEN..=IDLE / BETWEEN + 1).contains(&late),
            "{late}"
        );
        child.kill().and_then(|()| child.wait()).expect("its end");
        assert_eq!(looks(pid, LOOK), UNSEEN / LOOK);
    }

    #[test]
    fn one_that_is_stopped_is_not_waited_for() {
        let mut child = idle();
        let process = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(process, rustix::process::Signal::STOP).expect("SIGSTOP");
        let pid = child.id().cast_signed();
        while look(pid).is_none_or(|(state, _)| state != b'T') {
            std::thread::yield_now();
        }
        assert_eq!(looks(pid, LOOK), 1);
        child.kill().and_then(|()| child.wait()).expect("its end");
    }

    #[test]
    fn one_of_whose_threads_one_works_is_at_work() {
        // The first thread of the process that runs the tests waits for the others.
        let pid = std::process::id().cast_signed();
        let ends = Arc::new(AtomicBool::new(false));
        let worker = std::thread::spawn({
            let ends = Arc::clone(&ends);
            move || {
                while !ends.load(Ordering::Relaxed) {
                    core::hint::spin_loop();
                }
            }
        });
        assert!(has_thread_at_work(pid));
        assert_eq!(looks(pid, LOOK), BUSY / LOOK);
        ends.store(true, Ordering::Relaxed);
        worker.join().expect("its end");
    }
}
