//! The one integration binary.

mod cli;
mod command;
mod live;
mod prefill;
mod scripts;
mod target;
mod tools;
mod tracing;
