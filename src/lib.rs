//! pystap traces Python programs from the outside, live, without changing or restarting them.
//!
//! The binary is a thin user of this library. ARCHITECTURE.md at the top of the repository is a map of the rooms;
//! in the order in which data flows: [`cli`] (what was typed), [`session`] (what was asked for, decided on this host),
//! [`engine`] (arms probes and yields [`event`]s), [`analysis`] (pairing), [`export`] (one sink per format).

// Written for those who work on pystap, who read it with what is private.
#![allow(rustdoc::private_intra_doc_links)]

pub mod agent;
pub mod analysis;
mod authority;
pub mod bundle;
pub mod cli;
mod clock;
pub mod command;
pub mod console;
mod doctor;
mod dump;
pub mod elf;
pub mod engine;
pub mod event;
#[cfg(test)]
mod executable;
pub mod export;
mod failure;
pub mod field;
pub mod files;
mod host;
pub mod hosts;
#[cfg(test)]
mod imports;
pub mod metrics;
mod offcpu;
mod otlp;
mod perf;
pub mod probe;
pub mod process;
mod profiler;
mod protobuf;
pub mod python;
mod recipe;
pub mod recording;
mod sampling;
pub mod script;
mod service;
pub mod session;
mod shell;
mod syscalls;
pub mod text;
mod threads;
pub mod top;
mod traces;
pub mod view;
pub mod waits;
mod why;
