//! What every format can say of a stream beside its events: what was traced and how, and what is missing.

use std::time::{Duration, UNIX_EPOCH};

use super::End;
use super::profile::process_name;
use crate::event::allowance::shorten;
use crate::event::{Session, Summary};
use crate::text::Foreign;
use crate::view;

/// Processes and notes that are told one by one.
const MOST_TOLD: usize = 50;
/// Bytes of each.
const LONGEST: usize = 1_000;

/// A text from outside, harmless and not too long.
fn foreign(text: &str) -> String {
    short(Foreign::new(text).to_string())
}

fn short(mut text: String) -> String {
    if text.len() > LONGEST {
        shorten(&mut text, LONGEST);
    }
    text
}

/// What was traced, in some words.
pub(crate) fn title(session: &Session) -> String {
    short(match session.targets.as_slice() {
        [] => "a recording".to_owned(),
        [one] => process_name(session, one.pid),
        [one, others @ ..] => format!(
            "{} and {}",
            process_name(session, one.pid),
            view::many(others.len() as u64, "other process", "other processes")
        ),
    })
}

/// What was traced and how. Times are in nanoseconds, `start` since the Unix epoch.
pub(crate) fn about(
    session: &Session,
    summary: Option<&Summary>,
    start: u64,
    wall_ns: u64,
) -> Vec<(&'static str, String)> {
    let begun = if session.ts > 0 { session.ts } else { start };
    let mut about = vec![
        ("duration", view::time(wall_ns)),
        ("engine", foreign(&session.engine)),
        ("pystap", foreign(&session.pystap)),
    ];
    if begun > 0 {
        let begun = UNIX_EPOCH + Duration::from_nanos(begun);
        about.insert(
            0,
            ("begun", humantime::format_rfc3339_millis(begun).to_string()),
        );
    }
    about.extend(session.host.as_deref().map(|host| ("host", foreign(host))));
    about.push(("events", foreign(&session.events.join(", "))));
    about.extend(session.filter.as_deref().map(|it| ("only", foreign(it))));
    let fields = session.fields.iter().take(MOST_TOLD);
    about.extend(fields.map(|(name, path)| ("field", foreign(&format!("{name}={path}")))));
    for target in session.targets.iter().take(MOST_TOLD) {
        let python = target
            .python
            .as_deref()
            .map(|it| format!(", Python {}", foreign(it)));
        let name = short(process_name(session, target.pid));
        about.push(("target", format!("{name}{}", python.unwrap_or_default())));
    }
    let more = session.targets.len().saturating_sub(MOST_TOLD);
    if more > 0 {
        about.push(("target", format!("and {more} more")));
    }
    let notes = session.notes.iter().take(MOST_TOLD);
    about.extend(notes.map(|note| ("note", foreign(note))));
    if let Some(summary) = summary {
        about.push(("events written", summary.delivered.to_string()));
        about.push(("ended by", foreign(&summary.ended)));
    }
    about
}

/// What was lost, and how many calls found no row in a table, as sentences.
pub(crate) fn losses(end: &End<'_>, without_row: u64) -> Vec<String> {
    let mut said = Vec::new();
    let mut count = |number: u64, one: &str, several: &str| {
        if number > 0 {
            said.push(view::many(number, one, several));
        }
    };
    match end.summary {
        Some(summary) => {
            let lost = summary.lost.saturating_add(summary.unparsed);
            count(lost, "event was lost", "events were lost");
            count(
                summary.skipped,
                "probe hit was not handled",
                "probe hits were not handled",
            );
            count(
                summary.nameless,
                "event has no name",
                "events have no names",
            );
            count(
                summary.untimed,
                "call has no known duration",
                "calls have no known duration",
            );
            count(summary.unordered, "event came late", "events came late");
            count(
                summary.untraced_processes,
                "process ran untraced",
                "processes ran untraced",
            );
        }
        None => count(1, "recording was cut: what came later is missing", ""),
    }
    let unpaired = end.pairing.unpaired().total();
    count(
        unpaired,
        "call or return found no partner",
        "calls and returns found no partner",
    );
    count(
        without_row,
        "call is of a function that found no row in the table",
        "calls are of functions that found no row in the table",
    );
    if end.summary.is_some_and(|summary| summary.uncounted) {
        said.push("more may have been lost, which nobody could count".to_owned());
    }
    said
}
