//! The one integration binary.

mod authority;
mod browser;
mod budgets;
mod cli;
mod command;
mod doctor;
mod dump;
#[path = "../../src/executable.rs"]
mod executable;
mod fields;
mod formats;
mod ground_truth;
mod kernel_sums;
mod live;
mod live_doctor;
mod nova;
mod offcpu;
mod outputs;
mod packaging;
mod page;
mod placement;
mod prefill;
mod recordings;
mod requests;
mod ring_sums;
mod ring_timed;
mod sampling;
mod scripts;
mod snapshots;
mod sums;
mod syscalls;
mod target;
mod terminal;
mod tools;
mod tracing;
