//! `pystap export-metrics`: a session like that of `pystap stats`, whose sums are kept for tools that watch.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use super::{stats, trace};
use crate::analysis::pairing::PairingRules;
use crate::cli;
use crate::console::{Console, Exit};
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::files::reading;
use crate::metrics::{Push, Server, Shared, Watching};
use crate::otlp::Receiver;
use crate::script::Filters;
use crate::session::request::{Limits, Purpose, SessionRequest};
use crate::text::Foreign;
use crate::view::many;

/// Where it answers unless something else is said: where exporters of OpenTelemetry do.
const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// Bytes of a file of fields of HTTP.
const LONGEST_HEADERS: u64 = 64 * 1024;

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
    let push = match (&arguments.otlp, &request.purpose) {
        (Some(url), Purpose::Trace) => Some(push(arguments, url, shared.clone(), console)?),
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
    url: &str,
    shared: Shared,
    console: &Console,
) -> Result<Push, Failure> {
    let headers = match &arguments.otlp_headers {
        Some(path) => headers(path)?,
        None => Vec::new(),
    };
    let receiver = Receiver::of(url, "metrics", headers, arguments.otlp_timeout);
    Push::start(receiver, arguments.interval, shared, console).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("nothing can be sent by OTLP ({error}), so nothing was traced; install the package curl, or leave out --otlp"),
        )
    })
}

/// The fields of HTTP in a file.
fn headers(path: &Path) -> Result<Vec<String>, Failure> {
    let failed = |reason: String| {
        let path = Foreign::path(path);
        Failure::new(
            Exit::Usage,
            format!("fields of HTTP cannot be read from {path}: {reason}"),
        )
    };
    let text =
        reading::read_text(path, LONGEST_HEADERS).map_err(|error| failed(error.to_string()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| match line.split_once(':') {
            Some((name, _)) if !name.trim().is_empty() => Ok(line.to_owned()),
            _ => Err(failed("a line is not `Name: value`".to_owned())),
        })
        .collect()
}

/// Answers at the address from now on, so that a bad one costs no trace.
fn serve(
    arguments: &cli::ExportMetrics,
    shared: Shared,
    console: &Console,
) -> Result<Option<Server>, Failure> {
    let address = match arguments.listen {
        Some(address) => address,
        None if arguments.otlp.is_some() => return Ok(None),
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
