//! `pystap request`: one request through recordings of several services, or the requests that are in them.

use std::io;
use std::path::{Path, PathBuf};

use super::opened::open;
use super::print;
use super::report::{Replayed, replay};
use crate::analysis::pairing::Step;
use crate::analysis::requests::{
    RequestCalls, RequestId, SeenRequest, SeenRequests, names_requests, nearest,
};
use crate::cli::Request;
use crate::console::{Console, Exit};
use crate::event::Session;
use crate::export::{End, Sink};
use crate::failure::Failure;
use crate::text::Foreign;
use crate::view::requests::{self, Choice, Recorded};

/// How a recording is made that has requests.
const HOW: &str = "record with a field that has the id of a request, such as `pystap record -o FILE --service NAME --function \
                   FUNCTION --field request=ctxt.request_id`";

/// What recordings are read into.
struct Collected<F>(F);

impl<F: FnMut(&Step<'_>)> Sink for Collected<F> {
    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        (self.0)(step);
        Ok(())
    }

    fn finish(self: Box<Self>, _end: &End<'_>) -> io::Result<Option<String>> {
        Ok(None)
    }
}

/// Shows a request, or lists them.
pub(super) fn run(arguments: &Request, console: &Console) -> Result<Exit, Failure> {
    let (id, files) = id_and_files(&arguments.id_and_files)?;
    let sessions = sessions(files)?;
    check_fields(files, &sessions, &arguments.field, id.is_none(), console)?;
    match id {
        Some(id) => show(id, files, arguments, console),
        None => list(files, arguments, console),
    }
}

/// What was typed first is an id, unless there is a file of that name.
fn id_and_files(typed: &[PathBuf]) -> Result<(Option<&str>, &[PathBuf]), Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, message);
    let Some((first, rest)) = typed.split_first() else {
        return Err(usage("no recording is named".to_owned()));
    };
    if first.exists() {
        return Ok((None, typed));
    }
    if rest.is_empty() {
        return Err(usage(format!(
            "there is no file {0}; to look for a request of that id, name recordings behind it: `pystap request ID RECORDING`",
            Foreign::path(first)
        )));
    }
    match first.to_str() {
        Some(id) if !id.trim().is_empty() => Ok((Some(id.trim()), rest)),
        _ => Err(usage(
            "the id of a request is text, and not empty".to_owned(),
        )),
    }
}

/// What was recorded where. A recording counts once.
fn sessions(files: &[PathBuf]) -> Result<Vec<Session>, Failure> {
    let mut known: Vec<PathBuf> = Vec::new();
    let mut sessions = Vec::new();
    for file in files {
        sessions.push(open(file)?.session().clone());
        if let Ok(whole) = file.canonicalize() {
            if known.contains(&whole) {
                return Err(Failure::new(
                    Exit::Usage,
                    format!(
                        "{} is named twice, so its calls would count twice; name it once",
                        Foreign::path(file)
                    ),
                ));
            }
            known.push(whole);
        }
    }
    Ok(sessions)
}

/// Says which recordings cannot name a request, and refuses where none can.
fn check_fields(
    files: &[PathBuf],
    sessions: &[Session],
    wanted: &[String],
    by_name: bool,
    console: &Console,
) -> Result<(), Failure> {
    let mut without = Vec::new();
    for (file, session) in files.iter().zip(sessions) {
        let mut fields = session.fields.iter();
        let has = match wanted.is_empty() {
            true if by_name => fields.any(|(name, path)| names_requests(name, path)),
            true => !session.fields.is_empty(),
            false => fields.any(|(name, _)| wanted.contains(name)),
        };
        if has {
            continue;
        }
        let name = Foreign::path(file);
        let names: Vec<&str> = session.fields.keys().map(String::as_str).collect();
        let names = names.join(", ");
        let names = Foreign::new(&names);
        let wanted = wanted.join(", ");
        without.push(match (session.fields.is_empty(), wanted.is_empty()) {
            (true, _) => format!(
                "{name} has no fields (none was asked for, or it is from before there were any), so nothing in it names a request; {HOW}"
            ),
            (false, false) => format!(
                "{name} has no field {}, its fields are {names}; name one of these, or record it anew",
                Foreign::new(&wanted)
            ),
            (false, true) => format!(
                "no field of {name} is called like one of requests, its fields are {names}; say which it is with --field NAME"
            ),
        });
    }
    if without.len() == files.len() {
        let said = without.into_iter().next().unwrap_or_default();
        return Err(Failure::new(Exit::Usage, said));
    }
    for said in without {
        console.warning(said);
    }
    Ok(())
}

/// Reads a recording, and answers what it is.
fn read(
    file: &Path,
    console: &Console,
    take: impl FnMut(&Step<'_>),
) -> Result<(Recorded, Replayed), Failure> {
    let replayed = replay(file, None, console, &mut Collected(take))?;
    let recorded = Recorded {
        name: file.to_string_lossy().into_owned(),
        session: replayed.session.clone(),
        lost: replayed.lost,
    };
    Ok((recorded, replayed))
}

fn exit(whole: bool) -> Exit {
    match whole {
        true => Exit::Done,
        false => Exit::Failed,
    }
}

fn show(
    id: &str,
    files: &[PathBuf],
    arguments: &Request,
    console: &Console,
) -> Result<Exit, Failure> {
    let mut calls = RequestCalls::new(RequestId::new(id, &arguments.field));
    let (mut recordings, mut whole) = (Vec::new(), true);
    for (number, file) in files.iter().enumerate() {
        calls.recording(number);
        let (recorded, replayed) = read(file, console, |step| calls.take(step))?;
        calls.finish();
        whole &= replayed.whole;
        recordings.push(recorded);
    }
    let Some(request) = calls.into_request() else {
        return Err(nothing(id, files, arguments, console));
    };
    let choice = Choice {
        limit: arguments.limit,
        min_ns: min_ns(arguments),
    };
    match arguments.json {
        true => print::json(&requests::json(&request, &recordings, choice))?,
        false => print::page(&requests::text(&request, &recordings, choice))?,
    }
    Ok(exit(whole))
}

fn min_ns(arguments: &Request) -> u64 {
    let min = arguments.min_duration.unwrap_or_default();
    u64::try_from(min.as_nanos()).unwrap_or(u64::MAX)
}

/// The requests of these recordings, in a reading that says nothing of its own.
fn seen(
    files: &[PathBuf],
    mut requests: SeenRequests,
    console: &Console,
) -> Result<(SeenRequests, Vec<Recorded>, bool), Failure> {
    let (mut recordings, mut whole) = (Vec::new(), true);
    for (number, file) in files.iter().enumerate() {
        requests.recording(number, open(file)?.session());
        let (recorded, replayed) = read(file, console, |step| requests.take(step))?;
        whole &= replayed.whole;
        recordings.push(recorded);
    }
    Ok((requests, recordings, whole))
}

/// What is said where no call has the id.
fn nothing(id: &str, files: &[PathBuf], arguments: &Request, console: &Console) -> Failure {
    let all = match arguments.field.is_empty() {
        true => SeenRequests::of_all_fields(),
        false => SeenRequests::new(&arguments.field),
    };
    let found = match seen(files, all, console) {
        Ok((found, ..)) => found,
        Err(failure) => return failure,
    };
    let known = found.requests();
    let near: Vec<String> = nearest(id, known.keys().copied())
        .into_iter()
        .map(|id| Foreign::new(id).to_string())
        .collect();
    let hint = match near.is_empty() {
        true => "`pystap request RECORDING` lists the requests that are".to_owned(),
        false => format!("did you mean {}?", near.join(" or ")),
    };
    let those = match files.len() {
        1 => "the recording",
        _ => "any of the recordings",
    };
    Failure::new(
        Exit::NoTarget,
        format!("no call in {those} has the id {}; {hint}", Foreign::new(id)),
    )
}

fn list(files: &[PathBuf], arguments: &Request, console: &Console) -> Result<Exit, Failure> {
    let requests = SeenRequests::new(&arguments.field);
    let (found, recordings, whole) = seen(files, requests, console)?;
    let known = found.requests();
    let took = |seen: &SeenRequest| seen.end.saturating_sub(seen.begin);
    let mut rows: Vec<(&str, &SeenRequest)> = known.into_iter().collect();
    let all = rows.len();
    rows.retain(|(_, seen)| took(seen) >= min_ns(arguments));
    rows.sort_by_key(|(_, seen)| {
        let first = if arguments.slowest {
            took(seen)
        } else {
            seen.begin
        };
        std::cmp::Reverse(first)
    });
    rows.truncate(arguments.limit);
    if found.left_out() > 0 {
        console.warning(format_args!(
            "{} calls are of further requests, for which there was no room (docs/limits.md)",
            found.left_out()
        ));
    }
    match arguments.json {
        true => print::json(&requests::list_json(&rows, all, &recordings))?,
        false => print::page(&requests::list_text(&rows, all, &recordings))?,
    }
    Ok(exit(whole))
}
