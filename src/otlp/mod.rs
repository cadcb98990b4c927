//! The OpenTelemetry protocol over HTTP: what its messages have in common ([`message`]), and the way to a receiver ([`Sender`]).
//!
//! The way is `curl`, run for each request: the host's own trust store, proxies and TLS, and none of it in a program with root's
//! power. The address and what authorises us are in no list of arguments, which everybody could read.

mod answer;
mod message;
mod sender;

pub(crate) use message::{Item, Resource, Value, attribute, request};
pub(crate) use sender::{Account, Receiver, Sender};
