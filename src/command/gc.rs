//! `pystap gc`: garbage collections, one line per interval while they happen, and a summary at the end.

use super::trace;
use crate::analysis::pairing::PairingRules;
use crate::cli;
use crate::console::Console;
use crate::export::pauses::Pauses;
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::session::request::{Limits, SessionRequest};

/// Garbage collections, as they happen and in sum.
pub(super) fn run(arguments: &cli::Gc, console: &Console) -> Result<u8, Failure> {
    let make = |output: Output, _: PairingRules| -> Box<dyn Sink> {
        Box::new(Pauses::new(
            output,
            arguments.interval,
            arguments.limit,
            arguments.json,
        ))
    };
    trace::run_into(&request(arguments), console, &make, None)
}

/// The session behind it.
fn request(arguments: &cli::Gc) -> SessionRequest {
    let kinds: &[&str] = match arguments.functions {
        true => &["gc", "call", "return"],
        false => &["gc"],
    };
    let mut request = SessionRequest {
        events: kinds.iter().map(ToString::to_string).collect(),
        limits: Limits {
            duration: arguments.duration,
            max_events: None,
        },
        output: arguments.output.clone(),
        ..trace::common(&arguments.targets, &arguments.engine)
    };
    if let Some(of) = &arguments.of {
        request.targets.service = Some(of.clone());
    }
    request
}
