//! Streams of several hosts as one: recordings that are there ([`merge`]).

pub mod clocks;
pub mod merge;
pub mod names;
