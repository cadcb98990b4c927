//! `pystap request`: one request through recordings of several services, or the requests that are in them.

use std::io;
use std::path::{Path, PathBuf};

use super::opened::open;
use super::print;
use super::replay::{Replayed, replay};
use crate::analysis::found::FieldsFound;
use crate::analysis::pairing::Step;
use crate::analysis::requests::{
    RequestCalls, RequestId, SeenRequest, SeenRequests, names_requests, nearest,
};
use crate::cli::Request;
use crate::console::{Console, Exit};
use crate::event::{Session, What};
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
    let files = sessions(files)?;
    let naming = Naming {
        wanted: &arguments.field,
        by_name: id.is_none(),
    };
    check_fields(&files, naming)?;
    match id {
        Some(id) => show(id, &files, naming, arguments, console),
        None => list(&files, naming, arguments, console),
    }
}

/// A recording that was named.
struct Named<'a> {
    file: &'a Path,
    session: Session,
    /// Whether it is from before calls had fields.
    before_fields: bool,
}

/// Which fields name requests.
#[derive(Clone, Copy)]
struct Naming<'a> {
    /// These, if any are given.
    wanted: &'a [String],
    /// Else only those that are called so.
    by_name: bool,
}

impl Naming<'_> {
    fn is_one(self, name: &str, path: &str) -> bool {
        match self.wanted.is_empty() {
            true => !self.by_name || names_requests(name, path),
            false => self.wanted.iter().any(|it| it == name),
        }
    }

    /// Those of a recording.
    fn of(self, session: &Session) -> impl Iterator<Item = &String> {
        let fields = session.fields.iter();
        fields
            .filter(move |(name, path)| self.is_one(name, path))
            .map(|(name, _)| name)
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
fn sessions(files: &[PathBuf]) -> Result<Vec<Named<'_>>, Failure> {
    let mut known: Vec<PathBuf> = Vec::new();
    let mut sessions = Vec::new();
    for file in files {
        let reader = open(file)?;
        sessions.push(Named {
            file,
            session: reader.session().clone(),
            before_fields: reader.is_before_fields(),
        });
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

/// Why nothing in a recording names a request; `None` where it has a field that may.
fn without_field(recording: &Named<'_>, naming: Naming<'_>) -> Option<String> {
    let session = &recording.session;
    if naming.of(session).next().is_some() {
        return None;
    }
    let name = Foreign::path(recording.file);
    if recording.before_fields {
        return Some(format!(
            "{name} is from before recordings kept fields, so nothing in it names a request; {HOW}, with this pystap"
        ));
    }
    if session.fields.is_empty() {
        return Some(format!(
            "{name} has no fields, because none was asked for when it was recorded, so nothing in it names a request; {HOW}"
        ));
    }
    let names: Vec<&str> = session.fields.keys().map(String::as_str).collect();
    let names = names.join(", ");
    let names = Foreign::new(&names);
    let wanted = naming.wanted.join(", ");
    Some(match wanted.is_empty() {
        false => format!(
            "{name} has no field {}, its fields are {names}; name one of these, or record it anew",
            Foreign::new(&wanted)
        ),
        true => format!(
            "no field of {name} is called like one of requests, its fields are {names}; say which it is with --field NAME"
        ),
    })
}

/// Refuses recordings of which none can name a request.
fn check_fields(files: &[Named<'_>], naming: Naming<'_>) -> Result<(), Failure> {
    let why: Vec<Option<String>> = files.iter().map(|it| without_field(it, naming)).collect();
    match why.iter().all(Option::is_some) {
        true => Err(Failure::new(
            Exit::Usage,
            why.into_iter().flatten().next().unwrap_or_default(),
        )),
        false => Ok(()),
    }
}

/// Reads a recording, and answers what it is.
fn read(
    recording: &Named<'_>,
    naming: Naming<'_>,
    console: &Console,
    mut take: impl FnMut(&Step<'_>),
) -> Result<(Recorded, Replayed), Failure> {
    // A request is named when a call begins.
    let names = naming.of(&recording.session);
    let mut found = FieldsFound::new(names.map(|name| (name.clone(), false)), false);
    let mut collected = Collected(|step: &Step<'_>| {
        if let (What::Call { .. }, Some(fields)) = (&step.event.what, step.event.fields()) {
            found.take(fields, false);
        }
        take(step);
    });
    let replayed = replay(recording.file, None, console, &mut collected)?;
    let name = Foreign::path(recording.file);
    let lacks = found.sentences().map(|said| format!("{name}: {said}"));
    let recorded = Recorded {
        name: recording.file.to_string_lossy().into_owned(),
        session: replayed.session.clone(),
        lost: replayed.lost,
        field_notes: without_field(recording, naming)
            .into_iter()
            .chain(lacks)
            .collect(),
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
    files: &[Named<'_>],
    naming: Naming<'_>,
    arguments: &Request,
    console: &Console,
) -> Result<Exit, Failure> {
    let mut calls = RequestCalls::new(RequestId::new(id, &arguments.field));
    let (mut recordings, mut whole) = (Vec::new(), true);
    for (number, file) in files.iter().enumerate() {
        calls.recording(number);
        let (recorded, replayed) = read(file, naming, console, |step| calls.take(step))?;
        calls.finish();
        whole &= replayed.whole;
        recordings.push(recorded);
    }
    let Some(request) = calls.into_request() else {
        return Err(nothing(id, files, naming, console));
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
    files: &[Named<'_>],
    naming: Naming<'_>,
    mut requests: SeenRequests,
    console: &Console,
) -> Result<(SeenRequests, Vec<Recorded>, bool), Failure> {
    let (mut recordings, mut whole) = (Vec::new(), true);
    for (number, file) in files.iter().enumerate() {
        requests.recording(number, &file.session);
        let (recorded, replayed) = read(file, naming, console, |step| requests.take(step))?;
        whole &= replayed.whole;
        recordings.push(recorded);
    }
    Ok((requests, recordings, whole))
}

/// What is said where no call has the id.
fn nothing(id: &str, files: &[Named<'_>], naming: Naming<'_>, console: &Console) -> Failure {
    let all = match naming.wanted.is_empty() {
        true => SeenRequests::of_all_fields(),
        false => SeenRequests::new(naming.wanted),
    };
    let found = match seen(files, naming, all, console) {
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

fn list(
    files: &[Named<'_>],
    naming: Naming<'_>,
    arguments: &Request,
    console: &Console,
) -> Result<Exit, Failure> {
    let requests = SeenRequests::new(naming.wanted);
    let (found, recordings, whole) = seen(files, naming, requests, console)?;
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
