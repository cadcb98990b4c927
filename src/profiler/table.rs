//! A table for people, as lines.

use std::fmt::Write as _;

use super::parked::Extent;
use super::tally::{By, Counts, Row, Rows, Snapshot};
use crate::text::Foreign;
use crate::view::{count, many, time};

/// Widths of the columns before the function.
const PERCENT: usize = 6;
const TIME: usize = 8;
const SAMPLES: usize = 8;
const SHARE: usize = 7;
const PID: usize = 8;

/// What stands above a table: how it came about, and what it was measured over.
pub(super) fn headlines(snapshot: &Snapshot, rows: &Rows) -> [String; 2] {
    let said = format!(
        "sampled {} per second: estimates, no probes, nothing in the process",
        many(u64::from(snapshot.rate), "time", "times")
    );
    let mut line = format!(
        "{:.1} s  {}  {}  {}",
        snapshot.wall_ns as f64 / 1e9,
        many(snapshot.processes as u64, "process", "processes"),
        many(snapshot.threads as u64, "thread", "threads"),
        many(rows.samples, "sample", "samples"),
    );
    if let Some(contexts) = snapshot.contexts {
        let _ = write!(line, "  {}", parked(contexts));
    }
    if rows.idle > 0 {
        let idle = time(snapshot.time_ns(rows.idle));
        let _ = write!(line, "  idle ~{idle} not shown");
    }
    if snapshot.torn() > 0 {
        let _ = write!(line, "  torn {} not told", count(snapshot.torn()));
    }
    if snapshot.missed > 0 {
        let _ = write!(line, "  MISSED {} for want of time", count(snapshot.missed));
    }
    [said, line]
}

/// How many greenlets and tasks there are.
fn parked(contexts: Extent) -> String {
    let Extent {
        found,
        read,
        partial,
        ..
    } = contexts;
    let all = many(found, "greenlet or task", "greenlets and tasks");
    let picked = match read < found {
        true => format!(", {} of them looked at, by chance", count(read)),
        false => String::new(),
    };
    let cut = match partial {
        true => " at least: for want of time not all objects are looked at",
        false => "",
    };
    format!("{all}{cut}{picked}")
}

/// The names of the columns.
pub(super) fn heading(by: By) -> String {
    let pid = match by {
        By::Function { process: false, .. } => String::new(),
        By::Function { process: true, .. } | By::Thread => format!("{:>PID$} ", "PID"),
    };
    let of = match by {
        By::Thread => "THREAD  FUNCTION  FILE",
        By::Function { context: true, .. } => "FUNCTION [GREENLET OR TASK]  FILE",
        By::Function { .. } => "FUNCTION  FILE",
    };
    format!(
        "{:>PERCENT$} {:>PERCENT$} {:>TIME$} {:>SHARE$} {:>SHARE$} {:>SAMPLES$}  {pid}{of}",
        "SELF%", "TOTAL%", "~TIME", "ON-CPU", "WAITING", "SAMPLES"
    )
}

/// A row, of a table with so many samples.
pub(super) fn line(snapshot: &Snapshot, row: &Row, all: u64) -> String {
    let percent = |counts: Counts| format!("{:.1}", share(counts.all(), all));
    let of_row = |part: u64| format!("{:.0}%", share(part, row.total.all()));
    let mut line = format!(
        "{:>PERCENT$} {:>PERCENT$} {:>TIME$} {:>SHARE$} {:>SHARE$} {:>SAMPLES$}  ",
        percent(row.own),
        percent(row.total),
        format!("~{}", time(snapshot.time_ns(row.own.all()))),
        of_row(row.total.on_cpu),
        of_row(row.total.waiting),
        count(row.total.all()),
    );
    if let Some(pid) = row.pid {
        let _ = write!(line, "{pid:>PID$} ");
    }
    if let Some((tid, name)) = &row.thread {
        let _ = match name.as_str() {
            "" => write!(line, "{tid}  "),
            name => write!(line, "{} ({tid})  ", Foreign::new(name)),
        };
    }
    let _ = write!(line, "{}", Foreign::new(row.function.name.as_str()));
    if let Some(context) = &row.context {
        let _ = write!(line, " [{}]", Foreign::new(&**context));
    }
    let _ = write!(line, "  {}", Foreign::new(row.function.file.as_str()));
    if row.others > 0 {
        let _ = write!(line, " +{}", row.others);
    }
    line
}

fn share(part: u64, all: u64) -> f64 {
    part as f64 * 100.0 / all.max(1) as f64
}

/// A table, with at most so many rows.
pub(crate) fn page(snapshot: &Snapshot, rows: &Rows, by: By, limit: usize) -> String {
    let mut page = headlines(snapshot, rows).join("\n");
    let _ = write!(page, "\n{}\n", heading(by));
    for row in rows.rows.iter().take(limit) {
        page.push_str(&line(snapshot, row, rows.samples));
        page.push('\n');
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::tally::Order;
    use super::super::tally::tests::snapshot;
    use super::*;

    #[test]
    fn a_table_says_that_it_is_an_estimate_and_what_it_leaves_out() {
        let mut snapshot = snapshot(&[
            (7, &["f\x1b[2J", "main"], true, false, 3),
            (7, &["g", "main"], false, false, 1),
            (8, &["select", "main"], false, true, 90),
        ]);
        snapshot.tally.take_torn(2);
        let rows = snapshot.rows(By::FUNCTION, false, Order::Own, false);
        let expected = "\
sampled 100 times per second: estimates, no probes, nothing in the process
1.0 s  1 process  2 threads  4 samples  idle ~900ms not shown  torn 2 not told
 SELF% TOTAL%    ~TIME  ON-CPU WAITING  SAMPLES  FUNCTION  FILE
  75.0   75.0  ~30.0ms    100%      0%        3  f\\u{1b}[2J  /srv/app.py
  25.0   25.0  ~10.0ms      0%    100%        1  g  /srv/app.py
   0.0  100.0     ~0ns     75%     25%        4  main  /srv/app.py
";
        assert_eq!(page(&snapshot, &rows, By::FUNCTION, 10), expected);
        let rows = snapshot.rows(By::Thread, true, Order::Own, false);
        let page = page(&snapshot, &rows, By::Thread, 10);
        assert!(
            page.contains("       1 worker (7)  f\\u{1b}[2J  /srv/app.py +1\n"),
            "{page}"
        );
    }
}
