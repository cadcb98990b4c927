//! Spans of calls: `pystap trace --otlp` and `pystap export -f otlp`. And the receiver that was typed, for whoever sends.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::trace;
use crate::analysis::pairing::PairingRules;
use crate::cli::{self, LinkChoice, OtlpArgs};
use crate::console::{Console, Exit};
use crate::export::json::Json;
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::field::Field;
use crate::files::reading;
use crate::otlp::{Receiver, Sender};
use crate::process;
use crate::script::Filters;
use crate::script::filter::Glob;
use crate::session::request::{Purpose, SessionRequest};
use crate::text::Foreign;
use crate::traces::{Choice, Link, Post, Sent, Spans};
use crate::view::many;

/// Bytes of a file of fields of HTTP.
const LONGEST_HEADERS: u64 = 64 * 1024;
/// How many requests of a recording may take as long as they can before it is given up.
const TRIES: u32 = 6;

/// Where programs of OpenStack have the context of a request, as arguments of their functions.
const OSLO: [&str; 4] = ["context.", "ctxt.", "context['", "ctxt['"];
const OSLO_NAMES: [&str; 2] = ["request_id", "global_request_id"];
/// Where those that speak HTTP have what came with a request.
const OTEL: [&str; 6] = [
    "environ['HTTP_TRACEPARENT']",
    "req.environ['HTTP_TRACEPARENT']",
    "request.environ['HTTP_TRACEPARENT']",
    "headers['traceparent']",
    "carrier['traceparent']",
    "traceparent",
];

/// The receiver of a signal, where one was typed.
///
/// # Errors
/// When the file with fields of HTTP cannot be read.
pub(super) fn receiver(typed: &OtlpArgs, signal: &str) -> Result<Option<Receiver>, Failure> {
    let Some(url) = &typed.url else {
        return Ok(None);
    };
    let headers = match &typed.headers {
        Some(path) => headers(path)?,
        None => Vec::new(),
    };
    Ok(Some(Receiver::of(url, signal, headers, typed.timeout)))
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

/// Why nothing can be sent.
pub(super) fn cannot_send(error: &io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!(
            "nothing can be sent by OTLP ({error}), so nothing was traced; install the package curl, or leave out --otlp"
        ),
    )
}

fn link(typed: Option<LinkChoice>) -> Option<Link> {
    Some(match typed? {
        LinkChoice::Oslo => Link::Oslo,
        LinkChoice::Otel => Link::Otel,
    })
}

/// The paths on which the request of a call is looked for.
fn link_fields(link: Option<Link>) -> Vec<Field> {
    let paths: Vec<(&str, String)> = match link {
        None => Vec::new(),
        Some(Link::Oslo) => {
            let of = |name| OSLO.iter().map(move |path| (name, path));
            let all = OSLO_NAMES.iter().flat_map(|name| of(*name));
            all.map(|(name, path)| match path.ends_with('\'') {
                true => (name, format!("{path}{name}']")),
                false => (name, format!("{path}{name}")),
            })
            .collect()
        }
        Some(Link::Otel) => (OTEL.iter())
            .map(|path| ("traceparent", (*path).to_owned()))
            .collect(),
    };
    // What the program itself is in at the moment comes before what it was asked with.
    let current = (link == Some(Link::Otel)).then(|| Field::current_span("traceparent"));
    let named = paths.iter();
    let named = named.filter_map(|(name, path)| Field::named(name, path).ok());
    current.into_iter().chain(named).collect()
}

/// The session whose calls are spans, and which of them are.
fn session(arguments: &cli::Trace) -> (SessionRequest, Choice) {
    let mut request = trace::request(arguments);
    let link = link(arguments.link);
    let named = request.filters.clone();
    // Those that were typed are tried first.
    let mut typed = std::mem::take(&mut request.agent.fields);
    typed.extend(link_fields(link));
    // Where whatever these call is wanted, too, they are told apart here.
    let callees = request.min_duration.take();
    if callees.is_some() {
        request.filters = Filters {
            not_functions: named.not_functions.clone(),
            not_files: named.not_files.clone(),
            not_modules: named.not_modules.clone(),
            ..Filters::default()
        };
    }
    request.events = ["call", "return"].map(str::to_owned).to_vec();
    if callees.is_some() || named.is_empty() {
        let functions = match named.functions.is_empty() {
            true => Glob::new("*").into_iter().collect(),
            false => named.functions.clone(),
        };
        for field in typed.iter_mut().filter(|it| it.functions.is_empty()) {
            field.functions.clone_from(&functions);
        }
    }
    request.agent.fields = typed;
    request.goes_elsewhere = true;
    let choice = Choice {
        filters: named,
        callees: callees.map(|it| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX)),
        link,
    };
    (request, choice)
}

/// Traces, and sends spans.
pub(super) fn run(
    arguments: &cli::Trace,
    receiver: Receiver,
    console: &Console,
) -> Result<u8, Failure> {
    let others = [
        (!arguments.what.events.is_empty(), "--events"),
        (!arguments.capture.is_empty(), "--capture"),
        (arguments.waits, "--waits"),
    ];
    if let Some(option) = others
        .into_iter()
        .find_map(|(is, option)| is.then_some(option))
    {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "spans are calls with their fields, so nothing was traced; leave out {option}, or --otlp"
            ),
        ));
    }
    if arguments.output.output.is_some() || arguments.output.format.is_some() {
        return Err(Failure::new(
            Exit::Usage,
            "spans go to the receiver and nowhere else, so nothing was traced; leave out --output and --format, or record, and send \
             the recording with `pystap export -f otlp --otlp http://127.0.0.1:4318 FILE`",
        ));
    }
    let (request, choice) = session(arguments);
    let sender = match request.purpose {
        Purpose::Trace => {
            let sender = Sender::start(receiver, Post::MOST, console);
            Some(sender.map_err(|error| cannot_send(&error))?)
        }
        _ => None,
    };
    let told = Arc::new(OnceLock::new());
    let sender = Cell::new(sender);
    let make = |output: Output, _: PairingRules| -> Box<dyn Sink> {
        match sender.take() {
            Some(sender) => {
                let post = Post::new(sender, None, &told);
                Box::new(Spans::new(choice.clone(), Some(process::service_of), post))
            }
            // There is no session without a sender.
            None => Box::new(Json::new(output)),
        }
    };
    let ended = trace::run_into(&request, console, &make, None);
    if let Some(sent) = told.get() {
        say(*sent, console);
    }
    ended
}

fn say(sent: Sent, console: &Console) {
    let lost = match sent.lost {
        0 => "none lost".to_owned(),
        lost => format!("{lost} lost"),
    };
    console.note(format_args!(
        "OTLP: {} taken, {lost}",
        many(sent.taken, "span", "spans")
    ));
}

/// Which calls of a recording are spans.
pub(super) fn choice(arguments: &cli::Export) -> Choice {
    let nanoseconds = |it: Duration| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX);
    Choice {
        filters: Filters {
            functions: arguments.functions.clone(),
            ..Filters::default()
        },
        callees: arguments.min_duration.map(nanoseconds),
        link: link(arguments.link),
    }
}

/// Sends the spans of a recording, which `read` reads into a sink.
pub(super) fn send(
    arguments: &cli::Export,
    mut receiver: Receiver,
    console: &Console,
    read: impl FnOnce(Box<dyn Sink>) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    receiver.meanwhile = "it is tried again for a while";
    let patience = receiver.patience.saturating_mul(TRIES);
    let sender =
        Sender::start(receiver, Post::MOST, console).map_err(|error| cannot_send(&error))?;
    let told = Arc::new(OnceLock::new());
    let post = Post::new(sender, Some(patience), &told);
    let ended = read(Box::new(Spans::new(choice(arguments), None, post)));
    let sent: Sent = told.get().copied().unwrap_or_default();
    say(sent, console);
    match (ended, sent.lost) {
        (Ok(Exit::Done), lost) if lost > 0 => Ok(Exit::Failed),
        (ended, _) => ended,
    }
}
