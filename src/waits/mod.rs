//! From events of the scheduler to waits: which thread waited in which system call, why, for how long, and who woke it. Nothing
//! is put into the processes, and none is stopped.
//!
//! [`Watch`] has the kernel tell the switches of the targets' threads and wakings, and gives [`Wait`]s. What it knows while a
//! thread still waits ([`Watch::waiting`]) lets others look at the thread meanwhile.
//!
//! # From record to wait
//!
//! A counter of each thread tells when it leaves a processor (`sched:sched_switch`, with the kernel's call chain) and when it
//! gets one (`PERF_RECORD_SWITCH`: the tracepoint is told to the outgoing side only). Wakings (`sched:sched_waking`) are told to
//! whoever wakes, so they are listened to on whole processors. `records` understands these records, `reason` says what a call
//! chain waits for, `order` puts records of several processors in the order of their times, and `threads` makes waits of them.
//!
//! # System calls
//!
//! Where they are wanted, counters of each thread tell their beginnings and ends (`raw_syscalls`), of which `calls` makes
//! [`Called`]s.
//!
//! # Descriptors of epolls
//!
//! A greenlet of eventlet that waits for a descriptor has an epoll watch it, right before it gives way. Where that is wanted,
//! counters of each thread tell it, and what closes descriptors (`raw_syscalls`, filtered).
//!
//! # What was lost
//!
//! A ring may be full. Between the last record that found room and the moment when there is room again, nothing is certain: a
//! thread may have run and waited anew. So what waits then is counted as lost and not told as one long wait.

mod calls;
pub mod fuzzing;
mod order;
mod reason;
mod records;
mod summed;
mod symbols;
mod threads;
mod watch;

pub(crate) use crate::perf::now;
pub(crate) use calls::{CallAccount, Called, Caller, Touch, Touched, WantedCalls};
pub(crate) use reason::Reason;
pub(crate) use summed::Meanings;
pub use summed::{Summed, SummedEnd, SummedKind, SummedPython, SummedStack, SummedWaits};
pub(crate) use threads::{Account, Cause, Preempted, Wait, Waker};
pub(crate) use watch::{Registered, Target, Waiting, Watch, WatchError, cause_of, found_waiting};
