//! The agent in real interpreters: what it reports against what the interpreter itself says, and what it leaves behind.
//! Needs root and a kernel with uprobe events for `marks`, and cargo for the library as shipped.

// Tests may panic.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod counts;
mod fields;
mod free_threaded;
mod hard;
mod interpreters;
mod lifecycle;
mod marks;
mod program;
mod refusals;
mod rings;
mod services;
mod standard;
mod within;
