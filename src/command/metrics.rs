//! `pystap export-metrics`: a session like that of `pystap stats`, whose sums are kept for tools that watch.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{stats, trace, traces};
use crate::analysis::pairing::PairingRules;
use crate::cli;
use crate::console::{Console, Exit};
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::metrics::{Push, Server, Shared, Watching};
use crate::script::Filters;
use crate::session::request::{Limits, Purpose, SessionRequest};
use crate::view::many;

/// Where it answers unless something else is said: where exporters of OpenTelemetry do.
const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// Counts until it is told to stop, and answers who asks.
pub(super) fn run(arguments: &cli::ExportMetrics, console: &Console) -> Result<u8, Failure> {
    let request = request(arguments);
    let most = usize::try_from(arguments.max_series).unwrap_or(usize::MAX);
    let shared = Shared::new(most);
    let make = |_: Output, rules: PairingRules| -> Box<dyn Sink> {
        let sums = request.totals && !rules.call_on_creation;
        let shared = shared.clone();
        Box::new(Watching::new(
            shared,
            &arguments.functions,
            most,
            sums,
            console,
        ))
    };
    let server = match request.purpose {
        Purpose::Trace => serve(arguments, shared.clone(), console)?,
        _ => None,
    };
    let push = match request.purpose {
        Purpose::Trace => push(arguments, shared.clone(), console)?,
        _ => None,
    };
    let ended = trace::run_into(&request, console, &make, None);
    drop(server);
    if let Some(push) = push {
        let account = push.end();
        let dropped = match account.dropped {
            0 => "nothing dropped".to_owned(),
            dropped => many(dropped, "batch dropped", "batches dropped"),
        };
        console.note(format_args!(
            "OTLP: {} taken, {dropped}",
            many(account.sent, "request", "requests")
        ));
    }
    ended
}

/// Pushes from now on, so that what stands in its way costs no trace.
fn push(
    arguments: &cli::ExportMetrics,
    shared: Shared,
    console: &Console,
) -> Result<Option<Push>, Failure> {
    let Some(receiver) = traces::receiver(&arguments.otlp, "metrics")? else {
        return Ok(None);
    };
    match Push::start(receiver, arguments.interval, shared, console) {
        Ok(push) => Ok(Some(push)),
        Err(error) => Err(traces::cannot_send(&error)),
    }
}

/// Answers at the address from now on, so that a bad one costs no trace.
fn serve(
    arguments: &cli::ExportMetrics,
    shared: Shared,
    console: &Console,
) -> Result<Option<Server>, Failure> {
    let address = match arguments.listen {
        Some(address) => address,
        None if arguments.otlp.url.is_some() => return Ok(None),
        None => USUAL,
    };
    let server = Server::start(address, shared).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!(
                "nobody can be answered at {address} ({error}), so nothing was traced; choose another address with --listen"
            ),
        )
    })?;
    if !address.ip().is_loopback() {
        console.warning(format_args!(
            "whoever reaches {address} can read names of functions and how often they are called"
        ));
    }
    console.note(format_args!(
        "metrics are at http://{}/metrics",
        server.address()
    ));
    Ok(Some(server))
}

/// The session behind it.
fn request(arguments: &cli::ExportMetrics) -> SessionRequest {
    let (functions, files) = stats::narrowed(&arguments.functions);
    let mut request = SessionRequest {
        events: ["call", "return", "gc"].map(str::to_owned).to_vec(),
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
        purpose: trace::purpose(arguments.dry_run, false, None),
        waits: arguments.waits,
        totals: !(arguments.exceptions || arguments.waits),
        ..trace::common(&arguments.targets, &arguments.engine)
    };
    if let Some(of) = &arguments.of {
        request.targets.service = Some(of.clone());
    }
    request
}
