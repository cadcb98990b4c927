//! A session: what was asked for, what is decided on this host, and the trace while it runs.

pub(crate) mod agents;
pub mod pipe;
pub mod plan;
pub(crate) mod running;
pub(crate) mod search;
pub(crate) mod stop;
