//! A table for people, as lines.

use std::fmt::Write as _;

use super::tally::{By, Row, Rows, Snapshot};
use crate::sampling::Place;
use crate::text::Foreign;
use crate::view::{count, many, time};
use crate::waits::Waker;

/// Widths of the columns before the function.
const OFF: usize = 8;
const SHARE: usize = 5;
const WAITS: usize = 9;
const MAX: usize = 7;
const REASON: usize = 12;
const CALL: usize = 17;

/// What stands above a table: what it was measured over, and what is missing.
pub(super) fn headline(snapshot: &Snapshot, rows: &Rows) -> String {
    let account = &snapshot.account;
    let queued: u64 = snapshot.threads.values().map(|it| it.runqueue_ns).sum();
    let mut line = format!(
        "{:.1} s  {}  {}  off-CPU {}  run queue {}",
        snapshot.wall_ns as f64 / 1e9,
        many(snapshot.processes as u64, "process", "processes"),
        many(snapshot.threads.len() as u64, "thread", "threads"),
        time(rows.blocked_ns),
        time(queued.saturating_add(account.preempted_ns)),
    );
    if rows.idle_ns > 0 {
        let _ = write!(line, "  idle {} not shown", time(rows.idle_ns));
    }
    if let Some(lost) = lost(snapshot) {
        let _ = write!(line, "  {lost}");
    }
    line
}

/// What was lost, if anything was.
pub(crate) fn lost(snapshot: &Snapshot) -> Option<String> {
    let account = &snapshot.account;
    let has_lost = account.lost > 0 || account.waits_lost > 0 || account.unreadable > 0;
    has_lost.then(|| {
        format!(
            "LOST {} and {}",
            many(account.lost + account.unreadable, "record", "records"),
            many(account.waits_lost, "wait", "waits"),
        )
    })
}

/// The names of the columns.
pub(super) fn heading() -> String {
    format!(
        "{:>OFF$} {:>SHARE$} {:>WAITS$} {:>MAX$}  {:REASON$} {:CALL$} {}",
        "OFF", "%", "WAITS", "MAX", "REASON", "IN", "FUNCTION  WOKEN BY"
    )
}

/// A row, of a table in which all have this time.
pub(super) fn line(snapshot: &Snapshot, row: &Row, all_ns: u64, by: By) -> String {
    let estimate = |text: String, estimated: u64| match estimated {
        0 => text,
        _ => format!("~{text}"),
    };
    let sum = &row.sum;
    let reason = row
        .reasons
        .first()
        .map_or_else(String::new, |(reason, more)| and_more(reason.word(), more));
    let call = row.calls.first().map_or_else(String::new, |(call, more)| {
        and_more(call.as_deref().unwrap_or("-"), more)
    });
    let mut line = format!(
        "{:>OFF$} {:>SHARE$.1} {:>WAITS$} {:>MAX$}  {reason:REASON$} {call:CALL$} ",
        estimate(time(sum.blocked_ns), row.estimated_ns),
        sum.blocked_ns as f64 * 100.0 / all_ns.max(1) as f64,
        estimate(count(sum.waits), row.estimated_waits),
        time(sum.max_ns),
    );
    if by == By::Thread
        && let Some(((_, tid), _)) = row.threads.first()
    {
        let _ = write!(line, "{}  ", thread(snapshot, *tid));
    }
    if let Some((place, more)) = row.places.first() {
        line.push_str(&place.to_string());
        if matches!(by, By::Reason | By::Thread | By::Waker) && more > 0 {
            let _ = write!(line, " +{more}");
        }
    }
    if let Some((waker, more)) = row.wakers.first() {
        let _ = write!(line, "  {}", and_more(&woken_by(snapshot, *waker), more));
    }
    line
}

fn and_more(text: &str, more: usize) -> String {
    match more {
        0 => text.to_owned(),
        more => format!("{text} +{more}"),
    }
}

/// A thread: its name and number.
fn thread(snapshot: &Snapshot, tid: u32) -> String {
    match snapshot.names.get(&tid).filter(|name| !name.is_empty()) {
        Some(name) => format!("{} ({tid})", Foreign::new(name.as_str())),
        None => tid.to_string(),
    }
}

/// Who ended waits.
fn woken_by(snapshot: &Snapshot, waker: Option<Waker>) -> String {
    match waker {
        None => "-".to_owned(),
        Some(Waker::Interrupt) => "interrupt".to_owned(),
        Some(Waker::Thread { tid, .. }) => thread(snapshot, tid),
    }
}

/// A table, with at most so many rows.
pub(crate) fn page(snapshot: &Snapshot, by: By, with_idle: bool, limit: usize) -> String {
    let rows = snapshot.rows(by, with_idle);
    let mut page = format!("{}\n{}\n", headline(snapshot, &rows), heading());
    let mut estimated = false;
    for row in rows.rows.iter().take(limit) {
        estimated |= row.estimated_waits > 0 || row.estimated_ns > 0;
        page.push_str(&line(snapshot, row, rows.blocked_ns, by));
        page.push('\n');
        if by == By::Stack
            && let Some((Place::Stack(frames), _)) = row.places.first()
        {
            for frame in frames.iter() {
                let at = frame
                    .line
                    .map_or_else(String::new, |line| format!(":{line}"));
                let _ = writeln!(
                    page,
                    "{:40}{}  {}{at}",
                    "",
                    Foreign::new(frame.function.as_str()),
                    Foreign::new(frame.file.as_str()),
                );
            }
        }
    }
    if estimated {
        page.push_str(
            "~ with a part that was too short to be looked at, shared out by what was seen\n",
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::tally::Tally;
    use super::*;
    use crate::python::frames::Frame;
    use crate::waits::{Account, Cause, Reason, Wait};

    #[test]
    fn a_table_has_estimates_marked_losses_told_and_stacks_below_their_rows() {
        let mut tally = Tally::default();
        let frame = |function: &str| Frame {
            function: function.to_owned(),
            file: "/srv/app.py".to_owned(),
            line: Some(7),
        };
        let place = tally.place(vec![frame("Db.read"), frame("main\x1b[2J")]);
        for (took, place) in [(1_000_000, Some(place)), (500_000, None)] {
            let wait = Wait {
                pid: 1,
                tid: 2,
                began: 0,
                blocked_ns: took,
                runqueue_ns: Some(1_000),
                cause: Cause {
                    reason: Reason::Network,
                    call: Some("recvfrom".into()),
                    argument: 0,
                },
                waker: Some(Waker::Thread { pid: 1, tid: 3 }),
            };
            tally.take(&wait, place, 5e6);
        }
        let account = Account {
            lost: 3,
            waits_lost: 1,
            ..Account::default()
        };
        let mut snapshot = Snapshot::of(&tally, 2_000_000_000, 0, account);
        snapshot.names = HashMap::from([(3, "server".to_owned())]);
        snapshot.processes = 1;
        let page = page(&snapshot, By::Stack, false, 10);
        let expected = "\
2.0 s  1 process  1 thread  off-CPU 1.50ms  run queue 2.00us  LOST 3 records and 1 wait
     OFF     %     WAITS     MAX  REASON       IN                FUNCTION  WOKEN BY
 ~1.50ms 100.0        ~2  1.00ms  network      recvfrom          Db.read  /srv/app.py  server (3)
                                        Db.read  /srv/app.py:7
                                        main\\u{1b}[2J  /srv/app.py:7
~ with a part that was too short to be looked at, shared out by what was seen
";
        assert_eq!(page, expected);
    }
}
