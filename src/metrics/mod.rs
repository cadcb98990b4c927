//! Metrics of a session for the tools that watch (docs/metrics.md): what is counted ([`Registry`]), how it is fed by a session
//! ([`Watching`]), how it is written ([`exposition`], [`otlp`], [`push`]) and asked for ([`Server`]).
//!
//! Nothing here knows a process for longer than it runs: series are of functions and services, so that workers may come and go,
//! and no counter goes back when one of them ends.

mod exposition;
mod family;
mod otlp;
mod push;
mod registry;
mod request;
mod server;
mod watching;

pub(crate) use push::Push;
pub use registry::Registry;
pub(crate) use server::Server;
pub(crate) use watching::{Shared, Watching};
