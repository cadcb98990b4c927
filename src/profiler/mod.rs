//! Where functions spend their time, by samples: the stacks of all threads, read from memory many times a second while the
//! processes run on. Nothing stops a process, nothing is put into it, no probe is armed; and so everything is an estimate.
//!
//! [`sampler`] reads the threads of a process. A thread that has slept since the last sample is where it was, and is not read
//! again. Of one that runs a stack of one moment is looked for, with the function innermost that it was in at first; where there is none,
//! the sample is *torn*, which is counted, and told of nobody. [`session`] does so for all processes at random moments, one in each period,
//! as [`punctual`]ly as it may. [`parked`] finds greenlets and tasks that wait, which are on no
//! thread, and [`contexts`] says of what kind they are. [`tally`] adds up, [`table`], [`json`] and [`live`] show it. [`recorded`] is
//! the way into a recording and out of it, and [`exported`] has the formats of other programs.

mod contexts;
mod exported;
mod json;
mod live;
mod parked;
mod punctual;
mod recorded;
mod sampler;
mod session;
mod stacks;
mod table;
mod tally;

pub(crate) use json::document;
pub(crate) use live::{View, show};
pub(crate) use recorded::{Recorded, Recorder};
pub(crate) use session::{Options, Session, Unsampled};
pub(crate) use stacks::Function;
pub(crate) use table::page;
pub(crate) use tally::{By, Order, Snapshot};
