//! The one integration binary.

mod authority;
mod budgets;
mod cli;
mod command;
mod doctor;
mod dump;
mod ground_truth;
mod kernel_sums;
mod live;
mod live_doctor;
mod nova;
mod offcpu;
mod outputs;
mod placement;
mod prefill;
mod recordings;
mod ring_sums;
mod ring_timed;
mod scripts;
mod snapshots;
mod sums;
mod syscalls;
mod target;
mod terminal;
mod tools;
mod tracing;
