//! The direct engine: no probe at all. The agent that is in a process tells its events through shared memory, a ring for
//! each process (the crate `pystap-ring`), which pystap makes and reads. There is no trap and no system call per event, no
//! kernel that would have to allow anything, and no need to be root.
//!
//! # A session
//!
//! An agent that is to start is offered a ring, whose descriptor comes with the word to start ([`Children::ring`]). One
//! thread reads all rings every few milliseconds (`running`), makes events of what it finds (`decode`) and puts the events
//! of all processes in the order of their times ([`engine::reorder`](crate::engine::reorder)).
//!
//! # Sums
//!
//! Where only sums are wanted (`pystap top`), agents add up calls in a table behind the ring's data (the module `sums` of
//! `pystap-ring`), and tell nothing but names. Tables are read when the table that is shown wishes for it, when a process ends,
//! and at the end of the session (`sums`).
//!
//! # Times
//!
//! are what the processor counts, where the kernel itself takes its time from that counter, and are converted here
//! (`clock`); elsewhere the agent asks for the time.
//!
//! # What an event costs
//!
//! As it starts, an agent makes some calls that do nothing, told and not told, which no sink sees. What they differ by is what
//! telling costs in that interpreter in calm (`dry_run`). What it costs in the program as it runs is learned from how long agents take
//! over some of its events (`current_cost`).
//!
//! # Loss
//!
//! A ring that is full keeps nobody waiting: what has no room is counted in it, by the agent, and told here. As long as
//! nobody takes the events that were read, rings are left as they are.
//!
//! # Who is on the other side
//!
//! The memory belongs to a program that may write there what it likes. What is read is copied once and believed about its
//! own process only; what makes no sense ends the reading of that ring. The memory's size is sealed, so that nobody can
//! take it away.
//!
//! [`Children::ring`]: crate::engine::Children::ring

mod clock;
mod current_cost;
mod decode;
mod dry_run;
pub(crate) mod engine;
#[doc(hidden)]
pub mod fuzzing;
mod running;
mod sums;
mod threads;
