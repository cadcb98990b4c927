//! `pystap export-metrics`: a session like that of `pystap stats`, whose sums are kept for tools that watch.

use super::{stats, trace};
use crate::analysis::pairing::PairingRules;
use crate::cli;
use crate::console::{Console, Exit};
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::metrics::{Server, Shared, Watching};
use crate::script::Filters;
use crate::session::request::{Limits, Purpose, SessionRequest};

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
        Purpose::Trace => Some(serve(arguments, shared.clone(), console)?),
        _ => None,
    };
    let ended = trace::run_into(&request, console, &make, None);
    drop(server);
    ended
}

/// Answers at the address from now on, so that a bad one costs no trace.
fn serve(
    arguments: &cli::ExportMetrics,
    shared: Shared,
    console: &Console,
) -> Result<Server, Failure> {
    let address = arguments.listen;
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
    Ok(server)
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
