//! `pystap why`: what the calls of a function took their time for.

use std::rc::Rc;

use super::{print, stats, trace};
use crate::analysis::pairing::PairingRules;
use crate::cli;
use crate::console::{Console, Exit};
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::script::Filters;
use crate::script::filter::Glob;
use crate::session::opening::Decided;
use crate::session::request::{AgentUsage, Limits, SessionRequest};
use crate::waits::Target;
use crate::why::{INTERNAL, Options, Watcher, Why};

/// Splits calls as they end, and tells what came of it.
pub(super) fn run(arguments: &cli::Why, console: &Console) -> Result<u8, Failure> {
    let request = request(arguments);
    let decided = Decided::new(&request)?;
    let targets: Vec<Target> = decided
        .processes()
        .map(|process| Target {
            pid: process.pid,
            started: process.start_time,
        })
        .collect();
    let keep = match (arguments.min_duration, arguments.each) {
        (Some(_), false) => arguments.limit,
        _ => 0,
    };
    let minimum = arguments.min_duration.unwrap_or_default();
    let with_agent = request.agent.usage != AgentUsage::Never;
    let watcher = Watcher::begin(&targets, minimum, keep, arguments.each, with_agent)
        .map_err(|error| Failure::new(Exit::of(error.exit_code()), error.to_string()))?;
    for note in &watcher.notes {
        console.warning(note);
    }
    let options = Options {
        wanted: arguments.functions.clone(),
        interval: arguments.interval,
        each: arguments.each,
        json: arguments.json,
    };
    let watcher = Rc::new(watcher);
    let make = |output: Output, _: PairingRules| -> Box<dyn Sink> {
        Box::new(Why::new(output, Rc::clone(&watcher), options.clone()))
    };
    decided.run(&make, print::listing, None, console)
}

/// The session behind it.
fn request(arguments: &cli::Why) -> SessionRequest {
    let (mut functions, mut files) = stats::narrowed(&arguments.functions);
    let mut common = trace::common(&arguments.targets, &arguments.engine);
    if common.agent.usage != AgentUsage::Never {
        // Through these greenlets give way.
        common.agent.switches = true;
        let narrows_files = !files.is_empty();
        for (function, file) in INTERNAL {
            functions.extend(Glob::new(function));
            if narrows_files {
                files.extend(Glob::new(&format!("*{file}")));
            }
        }
    }
    SessionRequest {
        events: ["call", "return"].map(str::to_owned).to_vec(),
        filters: Filters {
            functions,
            files,
            ..Filters::default()
        },
        limits: Limits {
            duration: arguments.duration,
            max_events: None,
        },
        sought: stats::sought(&arguments.functions),
        output: arguments.output.clone(),
        ..common
    }
}
