//! The one integration binary.

mod cli;
mod command;
mod doctor;
mod live;
mod live_doctor;
mod prefill;
mod scripts;
mod target;
mod tools;
mod tracing;
