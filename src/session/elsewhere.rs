//! A session whose targets are on other hosts: the pystap of each has decided, armed and filtered, and what comes of them is paired
//! and written here as that of any engine.

use std::time::Duration;

use super::opening::{MakeSink, conclude, output};
use super::request::SessionRequest;
use super::running::Session;
use super::stop::StopSignals;
use crate::analysis::pairing::Pairing;
use crate::clock;
use crate::console::{Console, Exit};
use crate::engine::Weight;
use crate::failure::Failure;
use crate::hosts::live::Hosts;
use crate::hosts::remote::Reach;

/// Traces on these hosts until something ends it; the exit code of pystap, which is that of a failure when one of the hosts failed.
/// Of the request count its limits, its output and how functions are told apart: the rest is in the command of each host.
///
/// # Errors
/// When no host could be traced, and what fails before.
pub(crate) fn run(
    names: &[String],
    reach: Reach,
    hold: Duration,
    request: &SessionRequest,
    make_sink: &MakeSink<'_>,
    stops: &StopSignals,
    console: &Console,
) -> Result<u8, Failure> {
    let Some(output) = output(request, stops, console)? else {
        return Ok(Exit::Done.code());
    };
    let starting = console.spinner("waiting for the hosts");
    let mut hosts = Hosts::begin(names, reach, hold)?;
    let first_line = hosts.first_line();
    let hear = |weight: Weight, text: &str| match weight {
        Weight::Detail => console.detail(text),
        _ => console.warning(text),
    };
    let is_live = hosts.wait(stops.requests(), &hear);
    drop(starting);
    if !is_live {
        if first_line.failed() == 0 {
            console.note("stopped before any host was traced");
            return Ok(Exit::Done.code());
        }
        return Err(Failure::new(
            Exit::Unready,
            "nothing could be traced on any of the hosts; what stands in the way of each is said above",
        ));
    }
    let rules = hosts.rules().to_vec();
    let mut pairing = Pairing::with_rules(first_line.rules());
    for (pid, rules) in &rules {
        pairing.set_rules(*pid, *rules);
    }
    let sink = make_sink(output, first_line.rules());
    let pairing = match &request.group_by {
        Some(field) => pairing.grouped(field),
        None => pairing,
    };
    let mut session = Session::of_elsewhere(Box::new(hosts), sink, pairing, console)?;
    session.max_events = request.limits.max_events;
    let outcome = session.run(stops, |session| {
        let live = match first_line.live() {
            1 => "one host".to_owned(),
            count => format!("{count} hosts"),
        };
        console.note(format_args!("live, tracing {live}; Ctrl-C stops"));
        if let Some(duration) = request.limits.duration {
            stops.after(duration)?;
        }
        let mut opening = first_line.session();
        opening.ts = clock::now();
        let mut written = session.sink.session(&opening);
        for (pid, rules) in &rules {
            written = written.and_then(|()| session.sink.rules(*pid, *rules));
        }
        Ok(written)
    })?;
    let code = conclude(request, &outcome, console);
    Ok(match first_line.failed() {
        0 => code,
        _ => code.max(Exit::Failed.code()),
    })
}
