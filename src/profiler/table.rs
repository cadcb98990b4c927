//! A table for people, as lines.

use std::fmt::Write as _;

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::parked::Extent;
use super::tally::{By, Counts, Row, Rows, Snapshot};
use crate::text::Foreign;
use crate::top::follow::Paper;
use crate::top::{Activity, BARS, fitting, selected};
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

/// The columns of numbers.
const NUMBERS: [(&str, usize); 6] = [
    ("SELF%", PERCENT),
    ("TOTAL%", PERCENT),
    ("~TIME", TIME),
    ("ON-CPU", SHARE),
    ("WAITING", SHARE),
    ("SAMPLES", SAMPLES),
];
/// The position behind them, where there are bars of recent activity.
const ACTIVITY: usize = NUMBERS.len();
/// Columns in the order in which a narrow terminal goes without them.
const DISPENSABLE: [usize; 7] = [5, 4, ACTIVITY, 3, 2, 1, 0];

/// The names of the columns that follow the numbers.
fn of_names(by: By) -> String {
    let pid = match by {
        By::Function { process: false, .. } => String::new(),
        By::Function { process: true, .. } | By::Thread => format!("{:>PID$} ", "PID"),
    };
    let of = match by {
        By::Thread => "THREAD  FUNCTION  FILE",
        By::Function { context: true, .. } => "FUNCTION [GREENLET OR TASK]  FILE",
        By::Function { .. } => "FUNCTION  FILE",
    };
    format!("{pid}{of}")
}

/// The names of the columns.
pub(super) fn heading(by: By) -> String {
    let mut line = String::new();
    for (title, width) in NUMBERS {
        let _ = write!(line, "{title:>width$} ");
    }
    format!("{line} {}", of_names(by))
}

/// The numbers of a row, of a table with so many samples.
fn cells(snapshot: &Snapshot, row: &Row, all: u64) -> [String; 6] {
    let percent = |counts: Counts| format!("{:.1}", share(counts.all(), all));
    let of_row = |part: u64| format!("{:.0}%", share(part, row.total.all()));
    [
        percent(row.own),
        percent(row.total),
        format!("~{}", time(snapshot.time_ns(row.own.all()))),
        of_row(row.total.on_cpu),
        of_row(row.total.waiting),
        count(row.total.all()),
    ]
}

/// What stands before the function, if anything; the function; its file.
pub(super) fn names(row: &Row) -> (String, String, String) {
    let mut before = String::new();
    if let Some(pid) = row.pid {
        let _ = write!(before, "{pid:>PID$} ");
    }
    if let Some((tid, name)) = &row.thread {
        let _ = match name.as_str() {
            "" => write!(before, "{tid}  "),
            name => write!(before, "{} ({tid})  ", Foreign::new(name)),
        };
    }
    let mut function = Foreign::new(row.function.name.as_str()).to_string();
    if let Some(context) = &row.context {
        let _ = write!(function, " [{}]", Foreign::new(&**context));
    }
    let mut file = Foreign::new(row.function.file.as_str()).to_string();
    if row.others > 0 {
        let _ = write!(file, " +{}", row.others);
    }
    (before, function, file)
}

/// A row, of a table with so many samples.
pub(super) fn line(snapshot: &Snapshot, row: &Row, all: u64) -> String {
    let mut line = String::new();
    for (cell, (_, width)) in cells(snapshot, row, all).iter().zip(NUMBERS) {
        let _ = write!(line, "{cell:>width$} ");
    }
    let (before, function, file) = names(row);
    format!("{line} {before}{function}  {file}")
}

/// What is on a screen: rows of a table, and what they did lately.
pub(super) struct OnScreen<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) rows: &'a [Row],
    /// Samples of the table.
    pub(super) all: u64,
    pub(super) by: By,
    /// What takes the number of a row, and what they did by that.
    pub(super) id: fn(&Row) -> u64,
    pub(super) activity: &'a Activity,
    pub(super) selected: Option<u64>,
}

impl OnScreen<'_> {
    /// The names of the columns and the rows, as much as there is room for.
    pub(super) fn lines(&self, paper: Paper) -> (String, Vec<Line<'static>>) {
        let columns = self.columns(paper);
        let mut heading = String::new();
        for (at, width) in &columns {
            let title = NUMBERS.get(*at).map_or("ACTIVITY", |(title, _)| title);
            let _ = write!(heading, "{title:>width$} ");
        }
        let heading = format!("{heading} {}", of_names(self.by));
        let rows = self.rows.iter();
        (
            heading,
            rows.map(|row| self.line(row, &columns, paper)).collect(),
        )
    }

    fn columns(&self, paper: Paper) -> Vec<(usize, usize)> {
        let numbers = NUMBERS.iter().enumerate();
        let numbers = numbers.map(|(at, (_, width))| (at, *width));
        let bars = paper.look.bars.then_some((ACTIVITY, BARS));
        let all: Vec<(usize, usize)> = numbers.chain(bars).collect();
        let before = self.rows.iter().map(|row| names(row).0.chars().count());
        let before = before.max().unwrap_or(0);
        let names = self.rows.iter().map(|row| {
            let (_, function, file) = names(row);
            (function, file)
        });
        let names = fitting::names_room(names, "FUNCTION  FILE");
        let room = paper.wide.saturating_sub(1 + before + names);
        fitting::columns(&all, &DISPENSABLE, |_| false, room)
    }

    fn line(&self, row: &Row, columns: &[(usize, usize)], paper: Paper) -> Line<'static> {
        let (id, look) = ((self.id)(row), paper.look);
        let cells = cells(self.snapshot, row, self.all);
        let mut spans = Vec::new();
        for &(at, width) in columns {
            let span = match (cells.get(at), at) {
                (None, _) => Span::styled(self.activity.bars(id), look.activity()),
                (Some(cell), 0) => {
                    let hot = look.share(share(row.own.all(), self.all));
                    Span::styled(format!("{cell:>width$}"), hot)
                }
                (Some(cell), 2) => Span::styled(format!("{cell:>width$}"), look.estimate()),
                (Some(cell), _) => Span::raw(format!("{cell:>width$}")),
            };
            spans.extend([span, Span::raw(" ")]);
        }
        let (before, function, file) = names(row);
        spans.push(Span::raw(format!(" {before}")));
        let taken: usize = spans.iter().map(Span::width).sum();
        let room = paper.wide.saturating_sub(taken);
        let (function, file) = fitting::names(&function, &file, room);
        let name = match (row.is_idle(), self.activity.is_newly_hot(id)) {
            (true, _) => look.idle(),
            (false, true) => look.newly_hot(),
            (false, false) => Style::new(),
        };
        spans.push(Span::styled(function, name.add_modifier(Modifier::BOLD)));
        let dim = Style::new().add_modifier(Modifier::DIM);
        spans.push(Span::styled(format!("  {file}"), dim));
        match self.selected == Some(id) {
            true => selected(spans, paper.wide),
            false => Line::from(spans),
        }
    }
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
