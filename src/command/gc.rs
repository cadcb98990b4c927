//! `pystap gc`: garbage collections, a line an interval while they happen and a summary at the end.

use super::{top, trace};
use crate::analysis::pairing::PairingRules;
use crate::cli;
use crate::console::Console;
use crate::export::pauses::Pauses;
use crate::export::{Output, Sink};
use crate::failure::Failure;

/// Garbage collections, as they happen and in sum.
pub(super) fn run(arguments: &cli::Gc, console: &Console) -> Result<u8, Failure> {
    let kinds: &[&str] = match arguments.functions {
        true => &["gc", "call", "return"],
        false => &["gc"],
    };
    let what = cli::WhatArgs {
        events: kinds.iter().map(ToString::to_string).collect(),
        ..cli::WhatArgs::default()
    };
    let trace_arguments = top::as_trace(
        &arguments.targets,
        arguments.of.as_ref(),
        what,
        &arguments.engine,
        arguments.duration,
        arguments.output.as_ref(),
    );
    let make = |output: Output, _: PairingRules| -> Box<dyn Sink> {
        Box::new(Pauses::new(
            output,
            arguments.interval,
            arguments.limit,
            arguments.json,
        ))
    };
    trace::run_into(&trace_arguments, console, &make, None)
}
