//! The one integration binary.

mod cli;
mod command;
mod ground_truth;
mod live;
mod prefill;
mod recordings;
mod scripts;
mod target;
mod terminal;
mod tools;
mod tracing;
