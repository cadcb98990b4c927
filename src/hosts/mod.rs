//! Streams of several hosts as one: recordings that are there ([`merge`]), and what the pystap of each host says while it runs
//! ([`live`]).
//!
//! A host is reached by the user's own `ssh` and nothing else: no agent of ours stays there, and nothing listens. One `ssh` for
//! each host ([`remote`]) starts [`serving`] there, which answers what its clock says, then runs the command, and ends it when its
//! standard input ends or is silent for too long: whatever becomes of us, of `ssh` or of the network, nothing goes on there.

pub mod clocks;
pub mod forwarded;
mod lanes;
pub mod live;
pub mod merge;
pub mod names;
pub mod remote;
pub mod serving;
