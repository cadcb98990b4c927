//! What a thread does right now, as the kernel shows it: its state, the system call that it is in, and what it waits for
//! there. Looks only; whether the thread has moved on meanwhile, its number of switches says ([`switches`]).

mod descriptors;
mod since;
mod sockets;
mod syscalls;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Instant;

pub(crate) use descriptors::{Descriptor, Descriptors, Watched};
pub(crate) use since::Clocks;
pub(crate) use sockets::{End, Socket};

/// No system call has a number like this.
const MOST_SYSCALLS: u64 = 1024;
/// Most descriptors of a `poll` or `select` that are read.
const MOST_POLLED: u64 = 1 << 16;

/// A short file of a thread in /proc, in one read: a thousand threads are looked at several times each. A name in it may be any
/// bytes.
fn glance(pid: u32, thread: u32, file: &str) -> Option<String> {
    /// Of what is longer the beginning is enough.
    const LONGEST: usize = 4096;
    let mut bytes = [0; LONGEST];
    let mut file = File::open(format!("/proc/{pid}/task/{thread}/{file}")).ok()?;
    let length = file.read(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(bytes.get(..length)?).into_owned())
}

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs, or waits for a processor: the kernel does not tell these apart.
    Running,
    /// It waits and can be interrupted.
    Sleeping,
    /// It waits and cannot be interrupted, mostly for a disk.
    Disk,
    /// It is stopped, by a signal or a debugger.
    Stopped,
    /// It has ended, or is idle.
    Other(char),
}

impl State {
    fn of(letter: char) -> State {
        match letter {
            'R' => State::Running,
            'S' => State::Sleeping,
            'D' => State::Disk,
            'T' | 't' => State::Stopped,
            other => State::Other(other),
        }
    }

    /// In a word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Sleeping => "sleeping",
            State::Disk => "disk",
            State::Stopped => "stopped",
            State::Other('Z' | 'X' | 'x') => "ended",
            State::Other(_) => "other",
        }
    }
}

/// What the kernel says of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    /// Its name, at most 15 bytes; what of them is not UTF-8 becomes U+FFFD.
    pub(crate) name: String,
    /// Its state.
    pub(crate) state: State,
    /// The processor that it ran on last.
    pub(crate) processor: u32,
    /// When it was started, in clock ticks since boot.
    pub(crate) started: u64,
}

impl Status {
    /// That of a thread; `None` when there is none.
    pub(crate) fn of(pid: u32, thread: u32) -> Option<Status> {
        Status::parse(&glance(pid, thread, "stat")?)
    }

    fn parse(text: &str) -> Option<Status> {
        // A name may have anything in it, parentheses, too.
        let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        Some(Status {
            name: name.to_owned(),
            state: State::of(fields.next()?.chars().next()?),
            // Fields 22 and 39, of which the state is the third.
            started: fields.nth(18)?.parse().ok()?,
            processor: fields.nth(16)?.parse().ok()?,
        })
    }
}

/// How often a thread has begun to run, or how often it was switched where the kernel does not count that: as long as it stays
/// the same, a thread that sleeps has not moved.
pub(crate) fn switches(pid: u32, thread: u32) -> Option<u64> {
    let by_runs = || {
        let text = glance(pid, thread, "schedstat")?;
        let runs = text.split_ascii_whitespace().nth(2)?.parse().ok();
        runs.filter(|runs| *runs > 0)
    };
    by_runs().or_else(|| {
        let text = glance(pid, thread, "status")?;
        let counts = text.lines().filter_map(|line| {
            line.split_once("voluntary_ctxt_switches:")?
                .1
                .trim()
                .parse::<u64>()
                .ok()
        });
        counts.reduce(|all, count| all.wrapping_add(count))
    })
}

/// The same of a thread that is asked often: its file stays open, if it may.
#[derive(Debug)]
pub(crate) struct Runs {
    pid: u32,
    tid: u32,
    file: Option<File>,
}

impl Runs {
    /// Of this thread. Without `keeps` no file stays open.
    pub(crate) fn of(pid: u32, tid: u32, keeps: bool) -> Runs {
        let file = || File::open(format!("/proc/{pid}/task/{tid}/schedstat")).ok();
        let file = keeps.then(file).flatten();
        let mut runs = Runs { pid, tid, file };
        if runs.counted().is_none_or(|count| count == 0) {
            // The kernel does not count that.
            runs.file = None;
        }
        runs
    }

    /// Whether a file is open for it.
    pub(crate) fn keeps(&self) -> bool {
        self.file.is_some()
    }

    /// How often it has begun to run, as [`switches`]; `None` when it has ended.
    pub(crate) fn now(&self) -> Option<u64> {
        match &self.file {
            Some(_) => self.counted(),
            None => switches(self.pid, self.tid),
        }
    }

    fn counted(&self) -> Option<u64> {
        /// Three numbers.
        const LONGEST: usize = 80;
        let mut bytes = [0; LONGEST];
        let length = self.file.as_ref()?.read_at(&mut bytes, 0).ok()?;
        let text = str::from_utf8(bytes.get(..length)?).ok()?;
        text.split_ascii_whitespace().nth(2)?.parse().ok()
    }
}

/// When a thread ran last, by the clock of its processor, in milliseconds, and when that was read: for [`Clocks::asleep`].
pub(crate) fn last_run(pid: u32, thread: u32) -> Option<(f64, Instant)> {
    let text = glance(pid, thread, "sched")?;
    Some((since::last_run(&text)?, Instant::now()))
}

/// Where a thread is, as far as system calls go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// It runs: nobody can say.
    Running,
    /// It waits, but in no system call: for a page of memory.
    Outside,
    /// In this system call, with these arguments.
    In(u64, [u64; 6]),
    /// The kernel does not say: it was built without that, or we may not know.
    Unknown,
}

impl Call {
    /// That of a thread.
    pub(crate) fn of(pid: u32, thread: u32) -> Call {
        glance(pid, thread, "syscall")
            .and_then(|text| Call::parse(&text))
            .unwrap_or(Call::Unknown)
    }

    fn parse(text: &str) -> Option<Call> {
        let mut fields = text.split_ascii_whitespace();
        let number = match fields.next()? {
            "running" => return Some(Call::Running),
            "-1" => return Some(Call::Outside),
            number => number.parse().ok()?,
        };
        let mut arguments = [0; 6];
        for argument in &mut arguments {
            let text = fields.next()?;
            *argument = u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()?;
        }
        Some(Call::In(number, arguments))
    }

    /// Its name, or its number for one that is too new.
    pub(crate) fn name(&self) -> Option<String> {
        match self {
            Call::In(number, _) => Some(
                syscalls::name(*number).map_or_else(|| format!("syscall {number}"), str::to_owned),
            ),
            _ => None,
        }
    }
}

/// The name of a system call of this machine's own programs; `None` for one that is newer than our list.
pub(crate) fn syscall_name(number: u64) -> Option<&'static str> {
    syscalls::name(number)
}

/// The number of a system call by its name.
pub(crate) fn syscall_number(name: &str) -> Option<u64> {
    (0..MOST_SYSCALLS).find(|number| syscalls::name(*number) == Some(name))
}

/// Whether the first argument of a system call is the descriptor that it is about.
fn takes_descriptor(name: &str) -> bool {
    matches!(
        name,
        "read"
            | "pread64"
            | "readv"
            | "preadv"
            | "preadv2"
            | "write"
            | "pwrite64"
            | "writev"
            | "pwritev"
            | "pwritev2"
            | "recvfrom"
            | "recvmsg"
            | "recvmmsg"
            | "sendto"
            | "sendmsg"
            | "sendmmsg"
            | "accept"
            | "accept4"
            | "connect"
            | "fsync"
            | "fdatasync"
            | "syncfs"
            | "sync_file_range"
            | "flock"
            | "fcntl"
            | "ioctl"
            | "getdents"
            | "getdents64"
            | "fallocate"
            | "ftruncate"
            | "sendfile"
            | "splice"
            | "tee"
            | "close"
            | "fstat"
            | "lseek"
            | "shutdown"
            | "getsockopt"
            | "setsockopt"
            | "getsockname"
            | "getpeername"
            | "bind"
            | "listen"
            | "epoll_wait"
            | "epoll_pwait"
            | "epoll_pwait2"
            | "io_uring_enter"
    )
}

/// What a system call does with descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Nothing that is known.
    None,
    /// The first argument is what it is about.
    First,
    /// The same, and it is another one afterwards: it is connected.
    Connects,
    /// The first argument is closed.
    Closes,
    /// The second argument is closed, and opened anew.
    Replaces,
    /// Many are closed.
    ClosesMany,
    /// The result is a new one.
    Opens,
}

impl Use {
    /// That of a system call.
    pub(crate) fn of(number: u64) -> Use {
        match syscalls::name(number) {
            Some("connect") => Use::Connects,
            Some("close") => Use::Closes,
            Some("dup2" | "dup3") => Use::Replaces,
            Some("close_range" | "execve" | "execveat") => Use::ClosesMany,
            Some("open" | "openat" | "openat2" | "creat" | "accept" | "accept4") => Use::Opens,
            Some(name) if takes_descriptor(name) => Use::First,
            _ => Use::None,
        }
    }

    /// Of all system calls, by number.
    pub(crate) fn all() -> Vec<Use> {
        (0..MOST_SYSCALLS).map(Use::of).collect()
    }

    /// Whether it changes what a number means.
    pub(crate) fn changes(self) -> bool {
        matches!(
            self,
            Use::Connects | Use::Closes | Use::Replaces | Use::ClosesMany
        )
    }
}

/// Whether a system call has a new thread or process come out of it, too.
pub(crate) fn makes_threads(number: u64) -> bool {
    matches!(
        syscalls::name(number),
        Some("clone" | "clone3" | "fork" | "vfork")
    )
}

/// What a system call waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wait {
    /// A time.
    Sleep,
    /// A word in memory: a lock, a condition, a semaphore.
    Futex(u64),
    /// This descriptor.
    One(u32, Descriptor),
    /// Any of these descriptors.
    Any(Watched),
    /// A child.
    Child,
    /// A signal.
    Signal,
    /// A page of memory.
    Page,
    /// Something else.
    Other,
}

/// Looks up what the threads of a process wait for.
pub(crate) struct Waits {
    descriptors: Descriptors,
}

impl Waits {
    /// Of this process.
    pub(crate) fn of(pid: u32) -> Waits {
        Waits {
            descriptors: Descriptors::of(pid),
        }
    }

    /// What these descriptors of a thread are.
    pub(crate) fn several(&self, thread: u32, descriptors: &[u32]) -> Watched {
        self.descriptors
            .several(thread, descriptors.iter().copied())
    }

    /// What this descriptor of a thread is.
    pub(crate) fn one(&self, thread: u32, descriptor: u32) -> Wait {
        Wait::One(descriptor, self.descriptors.describe(thread, descriptor))
    }

    /// What a thread waits for in this call. `memory` reads the memory of the process.
    pub(crate) fn explain(
        &self,
        thread: u32,
        call: &Call,
        memory: &dyn Fn(u64, usize) -> Option<Vec<u8>>,
    ) -> Option<Wait> {
        let Call::In(number, [first, second, third, fourth, ..]) = *call else {
            return matches!(call, Call::Outside).then_some(Wait::Page);
        };
        let one = |descriptor: u64| match u32::try_from(descriptor & 0xffff_ffff) {
            Ok(descriptor) if descriptor < 1 << 31 => {
                Wait::One(descriptor, self.descriptors.describe(thread, descriptor))
            }
            _ => Wait::Other,
        };
        let any = |descriptors: Vec<u32>| match descriptors.as_slice() {
            [] => Wait::Sleep,
            [descriptor] => one(u64::from(*descriptor)),
            _ => Wait::Any(self.descriptors.several(thread, descriptors.into_iter())),
        };
        Some(match syscalls::name(number).unwrap_or_default() {
            "futex" | "futex_wait" => Wait::Futex(first),
            "nanosleep" | "clock_nanosleep" => Wait::Sleep,
            "wait4" | "waitid" | "vfork" => Wait::Child,
            "pause" | "rt_sigsuspend" | "rt_sigtimedwait" => Wait::Signal,
            "poll" | "ppoll" => any(polled(memory, first, second)),
            "select" | "pselect6" => any(selected(memory, first, [second, third, fourth])),
            name if takes_descriptor(name) => one(first),
            _ => Wait::Other,
        })
    }
}

/// The descriptors in an array of `struct pollfd`; those that are negative do not count.
fn polled(memory: &dyn Fn(u64, usize) -> Option<Vec<u8>>, array: u64, length: u64) -> Vec<u32> {
    /// Bytes of a `struct pollfd`, which begins with the descriptor.
    const ENTRY: usize = 8;
    let length = length.min(MOST_POLLED) as usize;
    if length == 0 {
        return Vec::new();
    }
    let bytes = memory(array, length * ENTRY).unwrap_or_default();
    bytes
        .chunks_exact(ENTRY)
        .filter_map(|entry| u32::try_from(i32::from_ne_bytes(*entry.first_chunk()?)).ok())
        .collect()
}

/// The descriptors whose bits are set in any of these sets.
fn selected(
    memory: &dyn Fn(u64, usize) -> Option<Vec<u8>>,
    highest: u64,
    sets: [u64; 3],
) -> Vec<u32> {
    let length = (highest.min(MOST_POLLED) as usize).div_ceil(64) * 8;
    let mut descriptors = Vec::new();
    for set in sets.into_iter().filter(|set| *set != 0 && length > 0) {
        for (at, byte) in (0..).zip(memory(set, length).unwrap_or_default()) {
            let bits = (0..8).filter(|bit| byte & (1 << bit) != 0);
            descriptors.extend(bits.map(|bit| at * 8 + bit));
        }
    }
    descriptors.sort_unstable();
    descriptors.dedup();
    descriptors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_what_follows() {
        let mut fields: Vec<String> = (3..=52).map(|number| number.to_string()).collect();
        fields[0] = "D".to_owned();
        let text = format!("17 (a) S (b) {}", fields.join(" "));
        let status = Status::parse(&text).expect("parsed");
        assert_eq!(status.name, "a) S (b");
        assert_eq!(status.state, State::Disk);
        assert_eq!((status.started, status.processor), (22, 39));
        assert_eq!(Status::parse("17 (a"), None);
    }

    #[test]
    fn a_system_call_is_read_with_its_arguments() {
        let text = "202 0x7f01 0x80 0x0 0x0 0x0 0xffffffff 0x7ffe 0x7f22\n";
        let call = Call::parse(text).expect("parsed");
        assert_eq!(call, Call::In(202, [0x7f01, 0x80, 0, 0, 0, 0xffff_ffff]));
        assert_eq!(Call::parse("running\n"), Some(Call::Running));
        assert_eq!(Call::parse("-1 0x7ffe 0x7f22\n"), Some(Call::Outside));
        for text in ["", "x", "1 0x1", "1 2 3 4 5 6 7"] {
            assert_eq!(Call::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn descriptors_of_poll_and_select_are_those_in_memory() {
        let array = [5_i32, 1, -1, 1, 9, 1].map(i32::to_ne_bytes).concat();
        let memory = |_: u64, length: usize| array.get(..length).map(<[u8]>::to_vec);
        assert_eq!(polled(&memory, 64, 3), [5, 9]);
        assert!(polled(&memory, 64, u64::MAX).is_empty());
        let set = [0b1000_1000_u64, 1].map(u64::to_le_bytes).concat();
        let memory = |_: u64, length: usize| set.get(..length).map(<[u8]>::to_vec);
        assert_eq!(selected(&memory, 65, [64, 0, 64]), [3, 7, 64]);
        assert!(selected(&memory, 0, [64, 0, 0]).is_empty());
    }
}
