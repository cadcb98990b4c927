//! A function call inserted into another process at a point where it does no harm, which the process makes and finishes
//! by itself.
//!
//! One thread is stopped, for less than a millisecond. Below its stack (and below the 128 bytes that the ABI lets a
//! function use there) we write what the kernel writes when it delivers a signal: all registers, the floating-point and
//! vector state, the signal mask. The thread enters the function as it would a signal handler: on return it reaches the
//! C library's own `rt_sigreturn`, and the kernel restores everything. No byte of code is changed, and once the
//! registers are set we are no longer needed: one system call sets them, so a tracer that dies leaves the thread either
//! as it was or with the complete call.
//!
//! A point is harmless if the thread can hold no lock that the function (`dlopen`, `pthread_create`) takes, and is not
//! in the middle of changing anything that the function changes (the allocator, the list of libraries): if it waits in
//! a system call that neither of these makes, or runs in the interpreter's own loop and not in anything called from it.
//! Such a point is looked for without stopping anything, and checked again once the thread is stopped.

use std::fs;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

#[cfg(target_arch = "x86_64")]
use super::held::{Stopped, interrupt, seize, stopped};
#[cfg(target_arch = "x86_64")]
use super::memory::Memory;
#[cfg(target_arch = "x86_64")]
use super::state;
use super::target::threads;
#[cfg(target_arch = "x86_64")]
use super::watchdog::Watchdog;
use super::{Target, WindowError};

/// A function and its arguments.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::agent) struct Call {
    pub(in crate::agent) target: Target,
    /// Address of the function.
    pub(in crate::agent) function: u64,
    /// A string passed as the first argument, without its NUL.
    pub(in crate::agent) text: Vec<u8>,
    /// The second argument.
    pub(in crate::agent) number: u64,
    /// Address of the instructions that make the system call `rt_sigreturn`.
    pub(in crate::agent) restorer: u64,
    /// The code range in which a running thread can be diverted, as start and end.
    pub(in crate::agent) code: Option<(u64, u64)>,
    /// How many seconds to look for a point.
    pub(in crate::agent) seconds: u64,
}

/// Where a call was inserted.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::agent) struct Reached {
    pub(in crate::agent) thread: i32,
    /// Its stack pointer: while that is smaller, the call is in progress.
    pub(in crate::agent) stack: u64,
}

/// What a thread is doing, according to `/proc/PID/task/TID/syscall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) enum Place {
    /// It is running, or about to.
    Running,
    /// It waits in a system call.
    Call {
        /// The system call number.
        number: u64,
        /// Its first three arguments.
        arguments: [u64; 3],
        /// The stack pointer.
        stack: u64,
    },
    /// In the kernel, but not in a system call.
    Elsewhere,
}

impl Place {
    /// Where a thread is now; `None` when it is gone.
    pub(in crate::agent) fn of(pid: u32, thread: i32) -> Option<Place> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")).ok()?;
        Some(Place::parse(&text))
    }

    fn parse(text: &str) -> Place {
        let mut words = text.split_whitespace();
        let number = match words.next() {
            Some("running") => return Place::Running,
            Some(word) => word.parse::<u64>().ok(),
            None => None,
        };
        let hex = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
        let rest: Vec<u64> = words.map_while(hex).collect();
        match (number, rest.as_slice()) {
            (Some(number), [first, second, third, _, _, _, stack, _]) => Place::Call {
                number,
                arguments: [*first, *second, *third],
                stack: *stack,
            },
            _ => Place::Elsewhere,
        }
    }

    /// Whether a call can be inserted here.
    fn is_safe(&self, pid: u32) -> bool {
        match self {
            Place::Call {
                number, arguments, ..
            } => is_safe(pid, *number, arguments),
            Place::Running | Place::Elsewhere => false,
        }
    }
}

/// System calls of x86-64 in which threads wait, and which neither an allocator nor the dynamic loader makes.
const WAITS: [u64; 18] = [
    7,   // poll
    23,  // select
    34,  // pause
    35,  // nanosleep
    43,  // accept
    45,  // recvfrom
    47,  // recvmsg
    61,  // wait4
    230, // clock_nanosleep
    232, // epoll_wait
    247, // waitid
    270, // pselect6
    271, // ppoll
    281, // epoll_pwait
    288, // accept4
    299, // recvmmsg
    441, // epoll_pwait2
    128, // rt_sigtimedwait
];
const READ: u64 = 0;
const FUTEX: u64 = 202;
/// `FUTEX_CMD_MASK`, and `FUTEX_WAIT_BITSET`.
const COMMAND: u64 = 0x7f;
const WAIT_BITSET: u64 = 9;

fn is_safe(pid: u32, number: u64, [first, second, third]: &[u64; 3]) -> bool {
    match number {
        // The loader reads libraries. Nothing else that a thread waits on with `read` is a file.
        READ => fs::read_link(format!("/proc/{pid}/fd/{first}")).is_ok_and(|what| {
            let what = what.to_string_lossy();
            ["pipe:", "socket:", "anon_inode:", "/dev/pts/", "/dev/tty"]
                .iter()
                .any(|kind| what.starts_with(kind))
        }),
        // Waits for a semaphore or a condition variable of the C library look like this, with 0 as the expected value:
        // so threads wait for Python's locks. The locks of the allocator and of the loader use FUTEX_WAIT, and expect
        // 2.
        FUTEX => second & COMMAND == WAIT_BITSET && third & 0xffff_ffff == 0,
        number => WAITS.contains(&number),
    }
}

/// How long to wait between two searches for a point: at first, and later.
const FIRST: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_millis(10);
/// How many running threads are tried per round: each is stopped for that.
#[cfg(target_arch = "x86_64")]
const RUNNING: usize = 4;

impl Call {
    /// Looks for a place and puts the call in there.
    pub(super) fn place(&self) -> Result<Reached, WindowError> {
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let mut pause = FIRST;
        loop {
            if let Some(reached) = self.round()? {
                return Ok(reached);
            }
            if Instant::now() >= end {
                return Err(WindowError::NoSafePlace {
                    seconds: self.seconds,
                });
            }
            std::thread::park_timeout(pause);
            pause = (pause * 5 / 4).min(LATER);
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn round(&self) -> Result<Option<Reached>, WindowError> {
        Err(WindowError::Stop("it is no x86-64 machine".to_owned()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Call {
    /// Tries all threads once, the main thread first.
    fn round(&self) -> Result<Option<Reached>, WindowError> {
        let pid = self.target.pid;
        if !self.target.is_there() {
            return Err(WindowError::Gone);
        }
        let mut running = Vec::new();
        for thread in threads(pid)? {
            match Place::of(pid, thread.as_raw()) {
                Some(Place::Running) => running.push(thread),
                Some(place) if place.is_safe(pid) => {
                    if let Some(reached) = self.try_in(thread)? {
                        return Ok(Some(reached));
                    }
                }
                _ => {}
            }
        }
        if self.code.is_some() {
            for thread in running.into_iter().take(RUNNING) {
                if let Some(reached) = self.try_in(thread)? {
                    return Ok(Some(reached));
                }
            }
        }
        Ok(None)
    }

    /// Stops a thread, and inserts the call if the thread is at a suitable point.
    fn try_in(&self, thread: nix::unistd::Pid) -> Result<Option<Reached>, WindowError> {
        let memory = Memory::open(self.target.pid, true)
            .map_err(|reason| WindowError::Memory(reason.to_string()))?;
        // Dropped last, so that it watches until the thread continues.
        let watchdog = Watchdog::start()?;
        if !seize(thread)? || !interrupt(thread)? {
            return Ok(None);
        }
        let Some(held) = stopped(thread)? else {
            return Ok(None);
        };
        if held.before {
            return Err(WindowError::Stop(
                "it was stopped by a signal; continue it with `kill -CONT` first".to_owned(),
            ));
        }
        let reached = if held.signal.is_none() && self.target.is_there() {
            self.put_in(&memory, &held)
        } else {
            Ok(None)
        };
        drop(held);
        drop(watchdog);
        reached
    }

    fn put_in(&self, memory: &Memory, held: &Stopped) -> Result<Option<Reached>, WindowError> {
        let thread = held.thread;
        let state = state::State::of(thread)?;
        let Some(registers) = self.resumption(memory, &state.registers)? else {
            return Ok(None);
        };
        let stack = registers.rsp;
        if !has_room(
            memory,
            stack,
            i64::from(thread.as_raw()) == i64::from(self.target.pid),
        ) {
            return Ok(None);
        }
        let frame = state::frame(&registers, &state, self.restorer, &self.text);
        if memory.write(frame.at, &frame.bytes).is_err() {
            // The main thread's stack does not extend that far yet.
            return Ok(None);
        }
        let mut called = registers;
        called.rip = self.function;
        called.rsp = frame.at;
        called.rdi = frame.text;
        called.rsi = self.number;
        called.rax = 0;
        // No system call is to be restarted.
        called.orig_rax = u64::MAX;
        called.eflags &= !state::DIRECTION_AND_TRAP;
        nix::sys::ptrace::setregs(thread, called)
            .map_err(|errno| WindowError::Stop(errno.desc().to_owned()))?;
        Ok(Some(Reached {
            thread: thread.as_raw(),
            stack,
        }))
    }

    /// The registers with which the thread continues after the call; `None` when it is not at a suitable point.
    fn resumption(
        &self,
        memory: &Memory,
        registers: &state::Registers,
    ) -> Result<Option<state::Registers>, WindowError> {
        let mut after = *registers;
        after.orig_rax = u64::MAX;
        if registers.cs != state::CODE_64 {
            return Ok(None);
        }
        if registers.orig_rax == u64::MAX {
            let in_loop = self
                .code
                .is_some_and(|(from, to)| (from..to).contains(&registers.rip));
            return Ok(in_loop.then_some(after));
        }
        let arguments = [registers.rdi, registers.rsi, registers.rdx];
        if !is_safe(self.target.pid, registers.orig_rax, &arguments) {
            return Ok(None);
        }
        let instruction = registers.rip.wrapping_sub(2);
        let mut bytes = [0; 2];
        memory.read(instruction, &mut bytes)?;
        if bytes != state::SYSCALL {
            return Ok(None);
        }
        // What the kernel does when it has no signal to deliver (ERESTARTNOHAND, ERESTARTNOINTR, ERESTARTSYS), except
        // for the last (ERESTART_RESTARTBLOCK): by then it would have forgotten how to continue. Every such caller must
        // expect EINTR.
        match registers.rax.cast_signed() {
            -514..=-512 => {
                after.rip = instruction;
                after.rax = registers.orig_rax;
            }
            -516 => after.rax = (-i64::from(nix::libc::EINTR)).cast_unsigned(),
            _ => {}
        }
        Ok(Some(after))
    }
}

/// How much stack a call may use: `dlopen` needs less than half of it.
#[cfg(target_arch = "x86_64")]
const ROOM: u64 = 48 << 10;
#[cfg(target_arch = "x86_64")]
const PAGE: u64 = 4096;

/// Whether there is that much room below the stack pointer. The main thread's stack grows by itself.
#[cfg(target_arch = "x86_64")]
fn has_room(memory: &Memory, stack: u64, is_main: bool) -> bool {
    let pages: Vec<u64> = (1..=ROOM / PAGE)
        .map(|page| (stack & !7).saturating_sub(page * PAGE))
        .collect();
    is_main || memory.numbers(&pages).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_thread_is_comes_from_the_kernel() {
        let waits = Place::parse("232 0x4 0x7ffc 0x80 0xffffffff 0x0 0x8 0x7ffd10 0x7f10\n");
        assert_eq!(
            waits,
            Place::Call {
                number: 232,
                arguments: [4, 0x7ffc, 0x80],
                stack: 0x7ffd10
            }
        );
        assert_eq!(Place::parse("running\n"), Place::Running);
        assert_eq!(Place::parse("-1 0x7ffd10 0x7f10\n"), Place::Elsewhere);
        for damaged in [
            "",
            "232",
            "232 0x4 0x7ffc",
            "x 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0",
        ] {
            assert_eq!(Place::parse(damaged), Place::Elsewhere, "{damaged}");
        }
    }

    #[test]
    fn a_thread_that_waits_for_the_lock_of_an_allocator_is_at_no_safe_place() {
        let here = std::process::id();
        let waits = |operation, expected| is_safe(here, FUTEX, &[0x7f00, operation, expected]);
        // FUTEX_WAIT_BITSET, private, with the real-time clock: a semaphore, a condition variable.
        assert!(waits(0x89, 0));
        assert!(waits(0x189, 0));
        // FUTEX_WAIT, private, for a contended lock; and the same from other libraries' locks.
        assert!(!waits(0x80, 2));
        assert!(!waits(0x89, 2));
    }

    #[test]
    fn a_thread_that_reads_a_file_may_be_the_loader_and_is_at_no_safe_place() {
        use std::os::fd::AsRawFd;
        let here = std::process::id();
        let reads = |file: &dyn AsRawFd| {
            let number = file.as_raw_fd().cast_unsigned();
            is_safe(here, READ, &[u64::from(number), 0, 1])
        };
        let (pipe, _other) = std::io::pipe().expect("a pipe");
        assert!(reads(&pipe));
        assert!(!reads(&fs::File::open("/proc/self/exe").expect("there")));
    }

    #[test]
    fn memory_and_files_are_changed_by_nobody_who_waits_safely() {
        // mmap, mprotect, munmap, brk, pread64, madvise, open, openat, futex_waitv, clone, execve.
        for number in [9, 10, 11, 12, 17, 28, 2, 257, 449, 56, 59] {
            assert!(!is_safe(std::process::id(), number, &[0, 9, 0]), "{number}");
        }
    }
}
