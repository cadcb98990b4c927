//! Waits as lines of folded stacks, for flame graphs: the reason stands above the function that waits.

use super::tally::{By, Row, Snapshot};
use crate::export::profile::flames;
use crate::python::frames::Frame;
use crate::sampling::Place;
use crate::text::Foreign;

/// A line for each stack, reason and system call, with the nanoseconds that were waited there.
pub(crate) fn folded(snapshot: &Snapshot, with_idle: bool) -> Vec<String> {
    let rows = snapshot.rows(By::Stack, with_idle).rows;
    let took_time = rows.iter().filter(|row| row.sum.blocked_ns > 0);
    took_time.map(line).collect()
}

fn line(row: &Row) -> String {
    let mut frames = match row.places.first() {
        Some((Place::Stack(frames), _)) => frames.iter().rev().map(name).collect(),
        Some((Place::NoPython, _)) => vec!["(no Python)".to_owned()],
        Some((Place::Unreadable, _)) => vec!["(not readable)".to_owned()],
        Some((Place::Older, _)) => vec!["(older than the trace)".to_owned()],
        Some((Place::NotSeen, _)) | None => vec!["(not seen in time)".to_owned()],
    };
    let call = row.calls.first().and_then(|(call, _)| call.as_deref());
    let reason = row.reasons.first().map(|(reason, _)| reason.leaf(call));
    frames.extend(reason);
    flames::folded(frames.into_iter(), row.sum.blocked_ns)
}

/// Without its line: the calls of a function are one flame.
fn name(frame: &Frame) -> String {
    format!(
        "{} ({})",
        Foreign::new(frame.function.as_str()),
        Foreign::new(frame.file.as_str())
    )
}

#[cfg(test)]
mod tests {
    use super::super::tally::Tally;
    use super::*;
    use crate::waits::{Account, Cause, Reason, Wait};

    #[test]
    fn the_reason_is_the_leaf_of_the_stack_that_waits() {
        let mut tally = Tally::default();
        let frame = |function: &str| Frame {
            function: function.to_owned(),
            file: "/srv/a;b.py".to_owned(),
            line: Some(7),
        };
        let place = tally.place(vec![frame("Db.read"), frame("main")]);
        let wait = |reason, call: Option<&str>, blocked_ns| Wait {
            pid: 1,
            tid: 2,
            began: 0,
            blocked_ns,
            runqueue_ns: None,
            cause: Cause {
                reason,
                call: call.map(Into::into),
                argument: 0,
            },
            waker: None,
        };
        let read = wait(Reason::Network, Some("recvfrom"), 9_000_000);
        tally.take(&read, Some(place.clone()), 1.0);
        tally.take(&read, Some(place.clone()), 1.0);
        tally.take(&wait(Reason::PageFault, None, 5_000_000), Some(place), 1.0);
        tally.take(&wait(Reason::Lock, None, 7), Some(Place::NoPython), 1.0);
        let snapshot = Snapshot::of(&tally, 1, 0, Account::default());
        let mut lines = folded(&snapshot, true);
        lines.sort();
        let file = "(/srv/a\\u{3b}b.py)";
        assert_eq!(
            lines,
            [
                "(no Python);[lock] 7".to_owned(),
                format!("main {file};Db.read {file};[network: recvfrom] 18000000"),
                format!("main {file};Db.read {file};[page-fault] 5000000"),
            ]
        );
        assert_eq!(folded(&snapshot, false).len(), 2, "without idleness");
    }
}
