//! Requests for people and programs: one through all of its services, and lists of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{count, many, time};
use crate::analysis::requests::{Ending, Request, RequestCall, SeenRequest};
use crate::event::{Session, json as event_json};
use crate::text::{Foreign, both_ends};

/// Parts in the table of the slowest ones, where it stands above the calls.
const SLOWEST: usize = 10;
/// Characters of the value of a field, or of a command, in a line.
const SHOWN: usize = 60;
/// Deepest indentation, in calls.
const DEEPEST: usize = 40;

/// A recording that a request may be in.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its path, as it was typed.
    pub name: String,
    /// What ran.
    pub session: Session,
    /// Events that it lacks.
    pub lost: u64,
    /// What its fields lack, in sentences.
    pub field_notes: Vec<String>,
}

/// What of a request is shown.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// How many calls, the longest ones.
    pub limit: usize,
    /// No shorter ones.
    pub min_ns: u64,
}

impl Choice {
    /// The places of the calls that are shown, in their order.
    fn of(self, request: &Request) -> BTreeSet<usize> {
        let calls = request.calls.iter().enumerate();
        let mut long: Vec<(u64, usize, usize)> = calls
            .filter(|(_, (_, call))| call.duration_ns() >= self.min_ns)
            .map(|(at, (depth, call))| (u64::MAX - call.duration_ns(), *depth, at))
            .collect();
        long.sort_unstable();
        long.truncate(self.limit);
        long.into_iter().map(|(_, _, at)| at).collect()
    }
}

/// A moment, to the microsecond, in UTC.
fn clock(ts: u64) -> String {
    humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_nanos(ts)).to_string()
}

/// A text on one line of limited length.
fn short(text: &str) -> String {
    Foreign::new(&both_ends(text, SHOWN)).to_string()
}

fn command(recorded: Option<&Recorded>, pid: u32) -> Option<&str> {
    let mut targets = recorded?.session.targets.iter();
    let target = targets.find(|target| target.pid == pid)?;
    (!target.command.is_empty()).then_some(&*target.command)
}

/// A process, by its recording, its number and what was started.
fn service(recordings: &[Recorded], recording: usize, pid: u32) -> String {
    let recorded = recordings.get(recording);
    let name = recorded.map_or("", |it| &it.name);
    match command(recorded, pid) {
        Some(command) => format!("{} process {pid}: {}", Foreign::new(name), short(command)),
        None => format!("{} process {pid}", Foreign::new(name)),
    }
}

/// What a reader must know of what the request is made of.
pub fn notes(request: &Request, recordings: &[Recorded]) -> Vec<String> {
    let mut notes = Vec::new();
    let seen: BTreeSet<usize> = request.services.iter().map(|it| it.recording).collect();
    if let ([only], Some(recorded)) = (&request.services[..], recordings.first()) {
        let name = recordings.get(only.recording).unwrap_or(recorded);
        let name = Foreign::new(&name.name);
        let others = match recordings.len() {
            1 => "record other services as well, with a field that has its id there".to_owned(),
            _ => "others were not recorded at that time, or have its id in no field".to_owned(),
        };
        notes.push(format!(
            "it was seen in one process only, {} of {name}: {others}",
            only.pid
        ));
    }
    let those: Vec<&Recorded> = seen.iter().filter_map(|&at| recordings.get(at)).collect();
    let hosts: BTreeSet<&str> = those
        .iter()
        .filter_map(|it| it.session.host.as_deref())
        .collect();
    let boots: BTreeSet<&str> = those
        .iter()
        .filter_map(|it| it.session.boot.as_deref())
        .collect();
    let unknown = those.iter().any(|it| it.session.boot.is_none());
    if hosts.len() > 1 {
        let hosts: Vec<&str> = hosts.into_iter().collect();
        notes.push(format!(
            "the clocks of {} are compared as they are, so the order of their calls and gaps between them are as right as these agree",
            Foreign::new(&hosts.join(", "))
        ));
    } else if boots.len() > 1 {
        notes.push(
            "the recordings are of different boots, whose clocks are compared as they are: it may be that two requests have one id"
                .to_owned(),
        );
    } else if unknown && those.len() > 1 {
        notes.push(
            "a recording does not say on which host it was made: times are right between hosts as far as their clocks agree"
                .to_owned(),
        );
    }
    for recorded in those.iter().filter(|it| it.lost > 0) {
        notes.push(format!(
            "{} were lost in {}, so calls of it may be missing",
            many(recorded.lost, "event", "events"),
            Foreign::new(&recorded.name)
        ));
    }
    if request.left_out > 0 {
        notes.push(format!(
            "{} of it had no room and are not counted (docs/limits.md)",
            many(request.left_out, "call", "calls")
        ));
    }
    notes.extend(field_notes(recordings));
    notes
}

/// What the fields of recordings lack.
fn field_notes(recordings: &[Recorded]) -> impl Iterator<Item = String> {
    recordings.iter().flat_map(|it| it.field_notes.clone())
}

/// What is remarkable about a call.
fn remarks(call: &RequestCall) -> String {
    let mut out = String::new();
    let said = match call.ending {
        Ending::Returned => "",
        Ending::Exception => "  [exception]",
        Ending::Suspended => "  [gave way, and was not seen to go on]",
        Ending::Open => "  [had not returned when recording ended]",
        Ending::Unseen => "  [its return was not seen]",
    };
    out.push_str(said);
    if call.began_before {
        out.push_str("  [its beginning was not seen]");
    }
    // Writing to a String cannot fail.
    if call.resumptions > 0 {
        let times = many(call.resumptions, "time", "times");
        let _ = write!(out, "  [gave way {times}");
        if call.suspended_ns > 0 {
            let _ = write!(out, ", {} of its own", time(call.suspended_ns));
        }
        out.push(']');
    }
    let fields = call.fields.iter().flat_map(|fields| fields.present());
    for field in fields {
        let value = short(&field.value.to_string());
        let _ = write!(out, "  {}={value}", Foreign::new(&*field.name));
    }
    out
}

/// A request for people.
pub fn text(request: &Request, recordings: &[Recorded], choice: Choice) -> String {
    let mut out = String::new();
    let (begin, took) = (request.begin(), request.duration_ns());
    let gaps: u64 = request.gaps.iter().map(|gap| gap.duration_ns()).sum();
    let _ = writeln!(
        out,
        "request {}: {} in {}, {} from {}; {} of it in none of them",
        Foreign::new(&request.id),
        many(request.calls.len() as u64, "call", "calls"),
        many(request.services.len() as u64, "process", "processes"),
        time(took),
        clock(begin),
        time(gaps),
    );
    let _ = writeln!(
        out,
        "\n   BEGAN   ENDED      IN IT   CALLS  ERRORS  RECORDING AND PROCESS"
    );
    for it in &request.services {
        let _ = writeln!(
            out,
            "{:>8} {:>7} {:>10} {:>7} {:>7}  {}",
            format!("+{}", time(it.begin.saturating_sub(begin))),
            time(it.end.saturating_sub(begin)),
            time(it.busy_ns),
            count(it.calls),
            count(it.exceptions),
            service(recordings, it.recording, it.pid),
        );
    }
    let slowest = request.slowest();
    let shown = choice.limit.min(SLOWEST);
    let _ = writeln!(
        out,
        "\nslowest parts\n     OWN  SHARE  LONGEST   CALLS  FUNCTION"
    );
    for part in slowest.iter().take(shown) {
        let Some(of) = request.services.get(part.service) else {
            continue;
        };
        let _ = writeln!(
            out,
            "{:>8} {:>5.1}% {:>8} {:>7}  {} ({}), process {}",
            time(part.own_ns),
            part.own_ns as f64 * 100.0 / took.max(1) as f64,
            time(part.longest_ns),
            count(part.calls),
            part.place.name(),
            whereabouts(&part.place.file.to_string(), part.line),
            of.pid,
        );
    }
    if slowest.len() > shown {
        let _ = writeln!(out, "({shown} of {} functions)", slowest.len());
    }
    let _ = writeln!(out, "\n  OFFSET  DURATION  CALL");
    flow(request, recordings, choice, &mut out);
    for note in notes(request, recordings) {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn whereabouts(file: &str, line: i32) -> String {
    match line > 0 {
        true => format!("{file}:{line}"),
        false => file.to_owned(),
    }
}

/// Calls in time, with the gaps between them and a heading where another thread, greenlet or task goes on.
fn flow(request: &Request, recordings: &[Recorded], choice: Choice, out: &mut String) {
    let shown = choice.of(request);
    let begin = request.begin();
    let offset = |ts: u64| format!("+{}", time(ts.saturating_sub(begin)));
    let mut gaps = request.gaps.iter().peekable();
    let mut track = None;
    for (at, (depth, call)) in request.calls.iter().enumerate() {
        while let Some(gap) = gaps.next_if(|gap| *depth == 0 && gap.end <= call.begin) {
            if gap.duration_ns() >= choice.min_ns {
                let _ = writeln!(
                    out,
                    "{:>8} {:>9}  -- in no recorded call of it: on its way, in a queue, or elsewhere",
                    offset(gap.begin),
                    time(gap.duration_ns()),
                );
            }
        }
        if !shown.contains(&at) {
            continue;
        }
        if track != Some(call.track) {
            track = Some(call.track);
            let context = match (request.context_name(call), call.track.context) {
                (Some(name), _) => format!(", {name}"),
                (None, Some(context)) => format!(", context {context}"),
                (None, None) => String::new(),
            };
            let whose = service(recordings, call.track.recording, call.track.pid);
            let _ = writeln!(out, "{whose}, thread {}{context}", call.track.tid);
        }
        let _ = writeln!(
            out,
            "{:>8} {:>9}  {}{} ({}){}",
            offset(call.begin),
            time(call.duration_ns()),
            "  ".repeat((*depth).min(DEEPEST)),
            call.place.name(),
            whereabouts(&call.place.file.to_string(), call.line),
            remarks(call),
        );
    }
    let hidden = request.calls.len() - shown.len();
    if hidden > 0 {
        let _ = writeln!(
            out,
            "({} shorter left out; a higher --limit or lower --min-duration shows more)",
            many(hidden as u64, "call that was", "calls that were")
        );
    }
}

/// A request for programs.
pub fn json(request: &Request, recordings: &[Recorded], choice: Choice) -> Value {
    let shown = choice.of(request);
    let of_service = |recording: usize, pid: u32| {
        let recorded = recordings.get(recording);
        json!({
            "recording": recorded.map(|it| &it.name), "pid": pid, "command": command(recorded, pid),
        })
    };
    let services: Vec<Value> = (request.services.iter())
        .map(|it| {
            let mut row = of_service(it.recording, it.pid);
            row["begin_ts"] = it.begin.into();
            row["end_ts"] = it.end.into();
            row["busy_ns"] = it.busy_ns.into();
            row["calls"] = it.calls.into();
            row["exceptions"] = it.exceptions.into();
            row
        })
        .collect();
    let gaps: Vec<Value> = (request.gaps.iter())
        .map(|gap| {
            json!({
                "begin_ts": gap.begin, "end_ts": gap.end, "duration_ns": gap.duration_ns(), "after": gap.after,
                "before": gap.before,
            })
        })
        .collect();
    let slow = request.slowest();
    let slowest: Vec<Value> = (slow.iter().take(choice.limit))
        .map(|part| {
            json!({
                "service": part.service, "function": part.place.function.text,
                "qualname": part.place.qualname.as_ref().map(|it| &it.text), "file": part.place.file.text, "line": part.line,
                "calls": part.calls, "own_ns": part.own_ns, "longest_ns": part.longest_ns,
            })
        })
        .collect();
    let calls: Vec<Value> = (request.calls.iter().enumerate())
        .filter(|(at, _)| shown.contains(at))
        .map(|(_, (depth, call))| {
            json!({
                "service": request.service_of(call), "tid": call.track.tid, "context": call.track.context,
                "context_name": request.context_name(call).map(|it| &it.text), "depth": depth, "begin_ts": call.begin,
                "end_ts": call.end, "duration_ns": call.duration_ns(), "own_ns": call.own_ns(),
                "suspended_ns": call.suspended_ns, "resumptions": call.resumptions, "function": call.place.function.text,
                "qualname": call.place.qualname.as_ref().map(|it| &it.text), "file": call.place.file.text,
                "line": call.line, "ending": call.ending.word(), "began_before": call.began_before,
                "fields": call.fields.as_ref().map(|it| event_json::fields(it)),
                "field_notes": call.fields.as_ref().map(|it| event_json::field_notes(it)),
            })
        })
        .collect();
    json!({
        "request": request.id, "begin_ts": request.begin(), "duration_ns": request.duration_ns(), "services": services,
        "gaps": gaps, "slowest": slowest, "slowest_not_shown": slow.len() - slowest.len(),
        "calls": calls, "calls_not_shown": request.calls.len() - shown.len(), "calls_left_out": request.left_out,
        "notes": notes(request, recordings),
    })
}

/// Requests for people, in this order. `all` is how many there are.
pub fn list_text(rows: &[(&str, &SeenRequest)], all: usize, recordings: &[Recorded]) -> String {
    let mut out =
        "BEGAN                          DURATION   CALLS  ERRORS  REQUEST, SEEN IN\n".to_owned();
    for (id, seen) in rows {
        let names: BTreeSet<&str> = recordings_of(seen, recordings);
        let names: Vec<&str> = names.into_iter().collect();
        let _ = writeln!(
            out,
            "{:<29} {:>9} {:>7} {:>7}  {}  {}",
            clock(seen.begin),
            time(seen.end.saturating_sub(seen.begin)),
            count(seen.calls),
            count(seen.exceptions),
            Foreign::new(id),
            Foreign::new(&names.join(", ")),
        );
    }
    if rows.len() < all {
        let _ = writeln!(
            out,
            "({} of {all} requests; --limit shows more)",
            rows.len()
        );
    }
    for note in field_notes(recordings) {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn recordings_of<'a>(seen: &SeenRequest, recordings: &'a [Recorded]) -> BTreeSet<&'a str> {
    let all = seen.processes.iter();
    all.filter_map(|(recording, _)| Some(&*recordings.get(*recording)?.name))
        .collect()
}

/// Requests for programs.
pub fn list_json(rows: &[(&str, &SeenRequest)], all: usize, recordings: &[Recorded]) -> Value {
    let list: Vec<Value> = (rows.iter())
        .map(|(id, seen)| {
            let processes = seen.processes.iter().map(|(recording, pid)| {
                json!({ "recording": recordings.get(*recording).map(|it| &it.name), "pid": pid })
            });
            json!({
                "request": id, "begin_ts": seen.begin, "duration_ns": seen.end.saturating_sub(seen.begin),
                "calls": seen.calls, "exceptions": seen.exceptions, "processes": processes.collect::<Vec<_>>(),
            })
        })
        .collect();
    let notes: Vec<String> = field_notes(recordings).collect();
    json!({ "requests": list, "not_shown": all - rows.len(), "notes": notes })
}
