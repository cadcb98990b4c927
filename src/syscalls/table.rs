//! A table for people, as lines.

use std::fmt::Write as _;

use super::errors;
use super::tally::{By, Row, Snapshot};
use crate::process::activity::syscall_name;
use crate::sampling::Place;
use crate::text::Foreign;
use crate::view::{count, many, time};

/// Widths of the columns before the function.
const CALLS: usize = 9;
const ERRORS: usize = 8;
const TOTAL: usize = 8;
const AVERAGE: usize = 7;
const LONGEST: usize = 7;
const OFF: usize = 8;
const CALL: usize = 17;
/// Most errors of a row that are named.
const MOST_NAMED: usize = 4;

/// What stands above a table: what it was measured over, and what is missing.
pub(super) fn headline(snapshot: &Snapshot) -> String {
    let account = &snapshot.account;
    let mut line = format!(
        "{:.1} s  {}  {}  {}  {}  total {}  off-CPU {}",
        snapshot.wall_ns as f64 / 1e9,
        many(snapshot.processes as u64, "process", "processes"),
        many(snapshot.threads.len() as u64, "thread", "threads"),
        many(snapshot.sum.calls, "call", "calls"),
        many(snapshot.sum.errors, "error", "errors"),
        time(snapshot.sum.total_ns),
        time(snapshot.sum.off_ns),
    );
    if snapshot.calls.open > 0 {
        let _ = write!(line, "  {} open", count(snapshot.calls.open));
    }
    if account.lost > 0 || account.unreadable > 0 || snapshot.calls.lost > 0 {
        let _ = write!(
            line,
            "  LOST {} and {}",
            many(account.lost + account.unreadable, "record", "records"),
            many(snapshot.calls.lost, "call", "calls"),
        );
    }
    line
}

/// The names of the columns.
pub(super) fn heading() -> String {
    format!(
        "{:>CALLS$} {:>ERRORS$} {:>TOTAL$} {:>AVERAGE$} {:>LONGEST$} {:>OFF$}  {:CALL$} {}",
        "CALLS", "ERRORS", "TOTAL", "AVG", "LONGEST", "OFF-CPU", "SYSCALL", "FUNCTION  ON  ERRORS"
    )
}

/// A row.
pub(super) fn line(snapshot: &Snapshot, row: &Row, by: By) -> String {
    let estimate = |text: String, estimated: u64| match estimated {
        0 => text,
        _ => format!("~{text}"),
    };
    let sum = &row.sum;
    let call = row
        .calls
        .first()
        .map_or_else(String::new, |(call, more)| and_more(&name(*call), more));
    let exact = matches!(by, By::Syscall | By::Thread);
    let (calls, ns) = match exact {
        true => (0, 0),
        false => (row.estimated_calls, row.estimated_ns),
    };
    let mut line = format!(
        "{:>CALLS$} {:>ERRORS$} {:>TOTAL$} {:>AVERAGE$} {:>LONGEST$} {:>OFF$}  {call:CALL$} ",
        estimate(count(sum.calls), calls),
        count(sum.errors),
        estimate(time(sum.total_ns), ns),
        time(sum.total_ns / sum.calls.max(1)),
        time(sum.longest_ns),
        time(sum.off_ns),
    );
    if by == By::Thread
        && let Some(((_, tid), _)) = row.threads.first()
    {
        match snapshot.names.get(tid).filter(|name| !name.is_empty()) {
            Some(name) => {
                let _ = write!(line, "{} ({tid})  ", Foreign::new(name.as_str()));
            }
            None => {
                let _ = write!(line, "{tid}  ");
            }
        }
    }
    if let Some((place, more)) = row.places.first() {
        line.push_str(&place.to_string());
        if exact && more > 0 {
            let _ = write!(line, " +{more}");
        }
    }
    if let Some((Some(on), _)) = row.on.first() {
        let _ = write!(line, "  on {}", Foreign::new(&**on));
    }
    let named = row.errors.0.iter().take(MOST_NAMED);
    let named: Vec<String> = named
        .map(|(error, calls)| format!("{} {}", errors::name(*error), count(*calls)))
        .collect();
    if !named.is_empty() {
        let more = row.errors.0.len() - named.len();
        let _ = write!(line, "  {}", and_more(&named.join(", "), more));
    }
    line
}

fn and_more(text: &str, more: usize) -> String {
    match more {
        0 => text.to_owned(),
        more => format!("{text} +{more}"),
    }
}

/// The name of a system call.
pub(super) fn name(number: Option<u64>) -> String {
    match number {
        None => "-".to_owned(),
        Some(number) => {
            syscall_name(number).map_or_else(|| format!("syscall {number}"), str::to_owned)
        }
    }
}

/// A table, with at most so many rows.
pub(crate) fn page(snapshot: &Snapshot, by: By, limit: usize) -> String {
    let rows = snapshot.rows(by);
    let mut page = format!("{}\n{}\n", headline(snapshot), heading());
    let mut estimated = false;
    for row in rows.iter().take(limit) {
        estimated |= row.estimated_calls > 0 || row.estimated_ns > 0;
        page.push_str(&line(snapshot, row, by));
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
                    "{:52}{}  {}{at}",
                    "",
                    Foreign::new(frame.function.as_str()),
                    Foreign::new(frame.file.as_str()),
                );
            }
        }
    }
    if estimated && matches!(by, By::Function | By::Stack) {
        page.push_str(
            "~ with a part that was too short to be looked at, shared out by what was seen\n",
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::tally::{Call, Tally};
    use super::*;
    use crate::python::frames::Frame;
    use crate::waits::{Account, CallAccount, Called};

    #[test]
    fn a_table_has_errors_named_estimates_marked_and_losses_told() {
        let mut tally = Tally::default();
        let frame = |function: &str| Frame {
            function: function.to_owned(),
            file: "/srv/app.py".to_owned(),
            line: Some(7),
        };
        let place = tally.place(vec![frame("Db.open"), frame("main\x1b[2J")]);
        let read = crate::process::activity::syscall_number("read").expect("known");
        let call = |result, took_ns| Call {
            called: Called {
                pid: 1,
                tid: 2,
                number: read,
                arguments: [0; 2],
                entered: 0,
                took_ns,
                off_ns: 500,
                result,
            },
            on: None,
        };
        tally.take(&call(-2, 1_000_000), Some(place.clone()), 5e6);
        tally.take(&call(-11, 1_000_000), Some(place), 5e6);
        tally.take(&call(-2, 3_000), None, 5e6);
        let mut snapshot = Snapshot::of(&tally, 2_000_000_000, 0);
        snapshot.account = Account {
            lost: 3,
            ..Account::default()
        };
        snapshot.calls = CallAccount { lost: 1, open: 4 };
        snapshot.names = HashMap::from([(2, "python3".to_owned())]);
        snapshot.processes = 1;
        let expected = "\
2.0 s  1 process  1 thread  3 calls  3 errors  total 2.00ms  off-CPU 1.50us  4 open  LOST 3 records and 1 call
    CALLS   ERRORS    TOTAL     AVG LONGEST  OFF-CPU  SYSCALL           FUNCTION  ON  ERRORS
       ~3        3  ~2.00ms   668us  1.00ms   1.50us  read              Db.open  /srv/app.py  ENOENT 2, EAGAIN 1
                                                    Db.open  /srv/app.py:7
                                                    main\\u{1b}[2J  /srv/app.py:7
~ with a part that was too short to be looked at, shared out by what was seen
";
        assert_eq!(page(&snapshot, By::Stack, 10), expected);
        let by_thread = page(&snapshot, By::Thread, 10);
        assert!(by_thread.contains("  python3 (2)  Db.open"), "{by_thread}");
        assert!(!by_thread.contains('~'), "{by_thread}");
    }
}
