//! `perf_event_open`: counters that make a task run into tracepoints, and the rings that their records come through; for all
//! who ask the kernel in this way. One of the two files with `unsafe` in this crate: a system call without a safe binding, its
//! ioctls, and memory that the kernel writes to. [`tracepoints`] has what the kernel says of a tracepoint.
//!
//! A ring belongs to one processor. The counter that owns it counts nothing (`PERF_COUNT_SW_DUMMY`); the counters of
//! tasks are redirected to it, as many as there are.
//!
//! # Why our own ring
//!
//! `perf-event-open-sys` has the structures, constants and ioctls. The safe crates on top of it hand out one record at
//! a time, move the position for each, and cannot send many counters through the ring of another.

#![allow(unsafe_code)]

pub(crate) mod owners;
pub(crate) mod rings;
pub(crate) mod tasks;
pub(crate) mod tracepoints;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use perf_event_open_sys::bindings::{self, perf_event_attr, perf_event_mmap_page};
use perf_event_open_sys::{ioctls, perf_event_open};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::time::ClockId;

/// The clock of all records: the same on every processor, and never set back.
pub(crate) const CLOCK: ClockId = ClockId::Monotonic;

/// As in `linux/perf_event.h`.
const PERF_FORMAT_LOST: u64 = 1 << 4;
const EINVAL: i32 = Errno::INVAL.raw_os_error();

/// Which children of a task are counted with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inherit {
    /// None.
    Nothing,
    /// Its threads only.
    Threads,
    /// Its threads and the processes it makes.
    Processes,
}

/// What one counter is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counter {
    /// Number of the tracepoint, from its directory in tracefs.
    pub(crate) tracepoint: u64,
    /// The task, by thread id.
    pub(crate) task: u32,
    /// The processor; `None` for all, which no ring can serve.
    pub(crate) processor: Option<u32>,
    /// Which children are counted too.
    pub(crate) inherit: Inherit,
    /// Whether the task's forks, execs and exits are recorded as well.
    pub(crate) life: bool,
}

impl Counter {
    /// Makes the counter, silent until [`enable`].
    ///
    /// # Errors
    /// What `perf_event_open(2)` says: `ESRCH` when the task is gone, `EMFILE` when descriptors are used up, `EACCES`
    /// or `EPERM` without the privilege, `EINVAL` when a probe cannot be placed.
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        let mut attributes = attributes(bindings::PERF_TYPE_TRACEPOINT, self.tracepoint);
        attributes.sample_period = 1;
        attributes.set_disabled(1);
        attributes.set_inherit((self.inherit != Inherit::Nothing).into());
        attributes.set_inherit_thread((self.inherit == Inherit::Threads).into());
        if self.life {
            attributes.set_task(1);
            attributes.set_comm(1);
            attributes.set_comm_exec(1);
            // Which images a program consists of.
            attributes.set_mmap(1);
            attributes.set_mmap2(1);
        }
        let task =
            i32::try_from(self.task).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
        let processor = self
            .processor
            .map_or(Ok(-1), i32::try_from)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        open_counting_losses(&mut attributes, task, processor)
    }
}

/// Registers of a program that a switch is recorded with: the first and the second argument of the system call that it is in.
/// Numbers as in `asm/perf_regs.h`, in the order of their values in a record.
#[cfg(target_arch = "x86_64")]
pub(crate) const ARGUMENTS: Option<Arguments> = Some(Arguments {
    mask: 1 << 4 | 1 << 5,
    first: 1,
    second: 0,
});
/// See above.
#[cfg(target_arch = "aarch64")]
pub(crate) const ARGUMENTS: Option<Arguments> = Some(Arguments {
    mask: 1 << 0 | 1 << 1,
    first: 0,
    second: 1,
});
/// Not known.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) const ARGUMENTS: Option<Arguments> = None;

/// Where the arguments of a system call are among the registers of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arguments {
    mask: u64,
    /// Position of the first one.
    pub(crate) first: usize,
    /// Position of the second one.
    pub(crate) second: usize,
}

/// Most frames of the kernel that a switch is recorded with.
const MOST_FRAMES: u16 = 64;

/// The switches of a task and of its threads on one processor: `sched:sched_switch` as it leaves, with the kernel's call chain
/// and [`ARGUMENTS`], and `PERF_RECORD_SWITCH` as it comes and goes; their births and ends.
///
/// # Errors
/// As [`Counter::open`].
pub(crate) fn switches(tracepoint: u64, task: u32, processor: u32) -> io::Result<OwnedFd> {
    let mut attributes = attributes(bindings::PERF_TYPE_TRACEPOINT, tracepoint);
    attributes.sample_period = 1;
    attributes.sample_type |= u64::from(bindings::PERF_SAMPLE_CALLCHAIN);
    if let Some(arguments) = ARGUMENTS {
        attributes.sample_type |= u64::from(bindings::PERF_SAMPLE_REGS_USER);
        attributes.sample_regs_user = arguments.mask;
    }
    attributes.set_exclude_callchain_user(1);
    attributes.sample_max_stack = MOST_FRAMES;
    attributes.set_disabled(1);
    attributes.set_inherit(1);
    attributes.set_inherit_thread(1);
    attributes.set_context_switch(1);
    attributes.set_task(1);
    let task = i32::try_from(task).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    let processor =
        i32::try_from(processor).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    match open_counting_losses(&mut attributes, task, processor) {
        // Fewer are allowed here (kernel.perf_event_max_stack): as many as that.
        Err(error) if error.raw_os_error() == Some(Errno::OVERFLOW.raw_os_error()) => {
            attributes.sample_max_stack = 0;
            open_counting_losses(&mut attributes, task, processor)
        }
        opened => opened,
    }
}

/// What any task does on one processor at this tracepoint.
///
/// # Errors
/// As [`Counter::open`].
pub(crate) fn everybody(tracepoint: u64, processor: u32) -> io::Result<OwnedFd> {
    let mut attributes = attributes(bindings::PERF_TYPE_TRACEPOINT, tracepoint);
    attributes.sample_period = 1;
    attributes.set_disabled(1);
    let processor =
        i32::try_from(processor).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    open_counting_losses(&mut attributes, -1, processor)
}

/// Makes a counter, with what this kernel has of counting losses and of inheriting by threads only.
fn open_counting_losses(
    attributes: &mut perf_event_attr,
    task: i32,
    processor: i32,
) -> io::Result<OwnedFd> {
    // Since Linux 6.0 a counter says itself how many of its records were lost.
    attributes.read_format = PERF_FORMAT_LOST;
    match open(attributes, task, processor) {
        Err(error) if error.raw_os_error() == Some(EINVAL) => {}
        opened => return opened,
    }
    attributes.read_format = 0;
    match open(attributes, task, processor) {
        Err(error) if error.raw_os_error() == Some(EINVAL) => {}
        opened => return opened,
    }
    // Since Linux 5.13; before, children are sorted out when their records come.
    attributes.set_inherit_thread(0);
    open(attributes, task, processor)
}

/// Has the processes that a task makes keep their counters to themselves: a counter that counts nothing and is inherited
/// by threads only, see `engine/uprobes/arming.rs`.
///
/// # Errors
/// As [`Counter::open`].
pub(crate) fn keep_apart(task: u32) -> io::Result<OwnedFd> {
    let mut attributes = attributes(
        bindings::PERF_TYPE_SOFTWARE,
        bindings::PERF_COUNT_SW_DUMMY.into(),
    );
    attributes.set_inherit(1);
    attributes.set_inherit_thread(1);
    let task = i32::try_from(task).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    match open(&mut attributes, task, -1) {
        Err(error) if error.raw_os_error() == Some(EINVAL) => {}
        opened => return opened,
    }
    // Since Linux 5.13; before, only this task has it.
    attributes.set_inherit(0);
    attributes.set_inherit_thread(0);
    open(&mut attributes, task, -1)
}

/// Lets the counter and those of its children, if there are any by now, make records.
///
/// # Errors
/// None that is known.
pub(crate) fn enable(counter: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    checked(unsafe { ioctls::ENABLE(counter.as_raw_fd(), 0) })
}

/// Sends the records of a counter and of its children through the ring of this owner.
///
/// # Errors
/// `EINVAL` when they belong to different processors.
pub(crate) fn set_output(counter: BorrowedFd<'_>, owner: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open.
    checked(unsafe { ioctls::SET_OUTPUT(counter.as_raw_fd(), owner.as_raw_fd()) })
}

/// The number of the counter that stands in its records and in those of its children.
///
/// # Errors
/// None that is known.
pub(crate) fn id(counter: BorrowedFd<'_>) -> io::Result<u64> {
    let mut id = 0;
    // SAFETY: the descriptor is open, and the number lives through the call.
    checked(unsafe { ioctls::ID(counter.as_raw_fd(), &raw mut id) })?;
    Ok(id)
}

/// Records of the counter and of its children that found no room; `None` where the kernel does not say.
pub(crate) fn lost(counter: BorrowedFd<'_>) -> Option<u64> {
    // The value, and what was lost.
    let mut bytes = [0; 16];
    match rustix::io::read(counter, &mut bytes) {
        Ok(16) => bytes.last_chunk().map(|lost| u64::from_ne_bytes(*lost)),
        _ => None,
    }
}

/// Lets only records through that this expression of the ftrace filter grammar accepts.
///
/// # Errors
/// `EINVAL` when the kernel does not understand it.
pub(crate) fn set_filter(counter: BorrowedFd<'_>, filter: &CString) -> io::Result<()> {
    // SAFETY: the string lives through the call, and the kernel copies it.
    checked(unsafe { ioctls::SET_FILTER(counter.as_raw_fd(), filter.as_ptr().cast_mut()) })
}

fn attributes(kind: u32, config: u64) -> perf_event_attr {
    let mut attributes = perf_event_attr {
        type_: kind,
        size: size_of::<perf_event_attr>() as u32,
        config,
        sample_type: u64::from(bindings::PERF_SAMPLE_TID)
            | u64::from(bindings::PERF_SAMPLE_TIME)
            | u64::from(bindings::PERF_SAMPLE_ID)
            | u64::from(bindings::PERF_SAMPLE_RAW),
        clockid: CLOCK as i32,
        ..perf_event_attr::default()
    };
    attributes.set_use_clockid(1);
    attributes.set_sample_id_all(1);
    attributes.set_watermark(1);
    attributes
}

fn open(attributes: &mut perf_event_attr, task: i32, processor: i32) -> io::Result<OwnedFd> {
    let flags = bindings::PERF_FLAG_FD_CLOEXEC.into();
    // SAFETY: the attributes are initialised, and nothing they ask for touches memory of ours.
    let fd = unsafe { perf_event_open(attributes, task, processor, -1, flags) };
    checked(fd)?;
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn checked(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Code of ours to place a probe on: it does nothing, like the places of probes in interpreters, so that to run into a probe there
/// takes as long as there.
#[unsafe(naked)]
pub(crate) extern "C" fn nothing() {
    std::arch::naked_asm!("nop", "ret")
}

/// Whether a ring was refused for its size.
pub(crate) fn is_limit(reason: &io::Error) -> bool {
    let errno = reason.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::PERM | Errno::NOMEM))
}

/// What the clock of all records says, in nanoseconds.
pub(crate) fn now() -> u64 {
    let now = rustix::time::clock_gettime(CLOCK);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The kernel's setting, for messages.
pub(crate) fn paranoid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// What a ring is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Records of counters that are redirected to it. Whoever waits for it is woken when a quarter of it is full.
    Records,
    /// Forks and exits of all tasks on its processor. Whoever waits for it is woken by each.
    ForkWatcher,
}

/// The ring of one processor.
#[derive(Debug)]
pub(crate) struct Ring {
    owner: Arc<OwnedFd>,
    /// The kernel's page with both positions, and the data behind it.
    memory: NonNull<u8>,
    mapped: usize,
    page: usize,
    /// Bytes of data; a power of two.
    size: u64,
}

// SAFETY: the memory is this value's own until it is dropped; the kernel's side is synchronised by the positions.
unsafe impl Send for Ring {}

impl Ring {
    /// Makes the ring of a processor; `size` is a power of two and at least a page.
    ///
    /// # Errors
    /// `EPERM` or `EACCES` without the privilege; `EPERM` from the mapping when it is more than may be locked.
    pub(crate) fn new(processor: u32, size: usize, purpose: Purpose) -> io::Result<Ring> {
        let mut attributes = attributes(
            bindings::PERF_TYPE_SOFTWARE,
            bindings::PERF_COUNT_SW_DUMMY.into(),
        );
        attributes.wakeup_watermark = match purpose {
            Purpose::Records => u32::try_from(size / 4).unwrap_or(u32::MAX),
            Purpose::ForkWatcher => 1,
        };
        attributes.set_task((purpose == Purpose::ForkWatcher).into());
        let processor =
            i32::try_from(processor).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let owner = open(&mut attributes, -1, processor)?;
        let page = rustix::param::page_size();
        let mapped = page + size;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let memory = unsafe {
            mmap(
                ptr::null_mut(),
                mapped,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &owner,
                0,
            )
        }?;
        Ok(Ring {
            owner: Arc::new(owner),
            memory: NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            mapped,
            page,
            size: size as u64,
        })
    }

    /// The counter that owns it, for [`set_output`].
    pub(crate) fn owner(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.owner)
    }

    /// Appends what is there to `into`, whole records only, and gives the room back to the kernel. One position is
    /// written a batch, not one a record: the kernel reads it for every record that it writes on its processor.
    pub(crate) fn drain(&mut self, into: &mut Vec<u8>) {
        let (head, tail) = self.positions();
        // The kernel writes the head after the data it stands for.
        let end = head.load(Ordering::Acquire);
        let begin = tail.load(Ordering::Relaxed);
        let waiting = end.wrapping_sub(begin).min(self.size);
        let at = begin & (self.size - 1);
        let first = waiting.min(self.size - at);
        for (offset, length) in [(at, first), (0, waiting - first)] {
            // SAFETY: both stretches lie within the data, which the kernel does not touch between tail and head.
            let bytes = unsafe {
                std::slice::from_raw_parts(
                    self.memory.as_ptr().add(self.page + offset as usize),
                    length as usize,
                )
            };
            into.extend_from_slice(bytes);
        }
        let (_, tail) = self.positions();
        tail.store(end, Ordering::Release);
    }

    /// Bytes that it can hold.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    fn positions(&self) -> (&AtomicU64, &AtomicU64) {
        let page = self.memory.as_ptr().cast::<perf_event_mmap_page>();
        // SAFETY: the first page of the mapping is this structure; both fields are aligned, and shared with the kernel
        // as atomics are.
        unsafe {
            (
                AtomicU64::from_ptr(&raw mut (*page).data_head),
                AtomicU64::from_ptr(&raw mut (*page).data_tail),
            )
        }
    }
}

impl AsFd for Ring {
    /// Readable when there is enough in it, see [`Purpose`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.owner.as_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no slice of it is left.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), self.mapped) };
    }
}
