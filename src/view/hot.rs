//! The table of hot functions: its columns, their order, filters, and the table as text and as JSON.

use std::cmp::Ordering;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::{count, group_json, histogram_json, many, overhead_line, quantile, time};
use crate::analysis::functions::{Function, Functions};
use crate::analysis::overhead::Overhead;
use crate::event::hosts;
use crate::text::{Foreign, harmless_json};

/// The columns, in the order in which they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Column {
    /// Calls and resumptions
    Calls,
    /// Calls a second
    #[value(name = "rate")]
    Rate,
    /// Time in the function itself
    #[value(name = "self")]
    SelfTime,
    /// Time in the function and what it called
    #[value(name = "cum")]
    Cumulative,
    /// Mean duration of a call
    #[value(name = "avg")]
    Average,
    /// Duration that 95 % of the calls stay below
    P95,
    /// Longest call
    Max,
    /// Time blocked in the function itself (with waits)
    Off,
    /// Time waiting for a processor there (with waits)
    #[value(name = "runq")]
    RunQueue,
    /// Time waiting for the GIL there (with waits)
    Gil,
    /// Name of the function
    Function,
}

impl Column {
    /// Those of a table, in the order in which they stand.
    pub fn of(account: &TableAccount) -> impl Iterator<Item = Column> + Clone + use<> {
        let numbers = numbers(account).iter().enumerate();
        let numbers = numbers.filter(|(at, _)| *at != SHARE);
        numbers
            .map(|(_, number)| number.column)
            .chain([Column::Function])
    }

    /// Whether it needs waits.
    pub fn is_of_waits(self) -> bool {
        matches!(self, Column::Off | Column::RunQueue | Column::Gil)
    }

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Column::Calls => "CALLS",
            Column::Rate => "CALLS/s",
            Column::SelfTime => "SELF",
            Column::Cumulative => "CUM",
            Column::Average => "AVG",
            Column::P95 => "P95",
            Column::Max => "MAX",
            Column::Off => "OFF",
            Column::RunQueue => "RUNQ",
            Column::Gil => "GIL",
            Column::Function => "FUNCTION",
        }
    }
}

/// What a table was measured over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableAccount {
    /// Nanoseconds on the clock.
    pub wall_ns: u64,
    /// Own time of all functions together.
    pub self_ns: u64,
    /// Time in garbage collections.
    pub gc_ns: u64,
    /// Events lost, as far as counted.
    pub lost: u64,
    /// Processes that ran untraced, where the session is over and that is known.
    pub untraced: u64,
    /// Calls and returns that found no partner.
    pub unpaired: u64,
    /// Calls that are in no row, because the table had no room for their functions.
    pub without_row: u64,
    /// Their own time, which is part of `self_ns`.
    pub without_row_ns: u64,
    /// Whether waits are in the stream, so that rows tell how long their threads did not run.
    pub has_waits: bool,
    /// Whether some functions are not traced, so that own time has theirs in it.
    pub filtered: bool,
    /// Idleness in `self_ns`: hubs of event loops and workers of pools that wait for work.
    pub idle_ns: u64,
    /// Whether idleness is shown.
    pub with_idle: bool,
    /// What is taken out of times that are shown.
    pub overhead: Overhead,
    /// `self_ns` without that.
    pub net_self_ns: u64,
    /// `idle_ns` without that.
    pub net_idle_ns: u64,
}

impl TableAccount {
    /// What an account has from the functions of its table.
    pub fn of(functions: &Functions) -> TableAccount {
        let (rest, overhead) = (functions.without_row(), functions.bounded_overhead());
        TableAccount {
            self_ns: functions.total_self_ns(),
            idle_ns: functions.total_idle_ns(),
            without_row: rest.map_or(0, |rest| rest.calls),
            without_row_ns: rest.map_or(0, |rest| rest.self_ns),
            overhead,
            net_self_ns: functions.total_net_self_ns(overhead),
            net_idle_ns: functions.total_net_idle_ns(overhead),
            ..TableAccount::default()
        }
    }

    /// Own time of a function that is shown.
    fn own_ns(&self, row: &Function) -> u64 {
        let own = row.net_self_ns(self.overhead);
        match self.with_idle {
            true => own,
            false => own.saturating_sub(row.net_idle_ns(self.overhead)),
        }
    }

    /// Cumulative time of a function that is shown, where it is known.
    fn cumulative_ns(&self, row: &Function) -> Option<u64> {
        let whole = row.net_cumulative_ns(self.overhead)?;
        Some(match self.with_idle {
            true => whole,
            false => whole.saturating_sub(row.net_idle_cumulative_ns(self.overhead)),
        })
    }

    /// Own time of all functions that is shown.
    fn shown_ns(&self) -> u64 {
        match self.with_idle {
            true => self.net_self_ns,
            false => self.net_self_ns.saturating_sub(self.net_idle_ns),
        }
    }

    /// Percent of what was measured, as far as it is shown, that were taken out.
    pub fn taken_out_percent(&self) -> f64 {
        let measured = match self.with_idle {
            true => self.self_ns,
            false => self.self_ns.saturating_sub(self.idle_ns),
        };
        let taken = measured.saturating_sub(self.shown_ns());
        taken as f64 * 100.0 / measured.max(1) as f64
    }
}

/// Brings rows into the order of a column of their table, the largest first, names ascending; the other way round when `reversed`.
/// Rows that are equal there come by own time and then by name, so that a table does not flicker.
///
/// Answers the positions of the rows in that order, those that `keep` leaves and that ever ran.
pub fn order(
    rows: &[Function],
    account: &TableAccount,
    column: Column,
    reversed: bool,
    keep: impl Fn(&Function) -> bool,
) -> Vec<usize> {
    // Quantiles are worth computing once a row and not once a comparison.
    let number = |row: &Function| match column {
        // Of one table, the rate is the number of calls over one and the same time.
        Column::Calls | Column::Rate => Some(row.calls),
        Column::SelfTime => Some(account.own_ns(row)),
        Column::Cumulative => account.cumulative_ns(row),
        Column::Average => row.net_average_ns(account.overhead),
        Column::P95 => row.durations(account.overhead).quantile(0.95),
        Column::Max => row.durations(account.overhead).max(),
        Column::Off => Some(row.off.blocked_ns),
        Column::RunQueue => Some(row.off.runqueue_ns),
        Column::Gil => Some(row.off.gil_ns),
        Column::Function => None,
    };
    // One number, because to compare two halves of each takes twice as long: 0 is what is not known.
    let rank = |row: &Function| number(row).map_or(0, |it| it.saturating_add(1));
    let mut order: Vec<(u64, usize, &Function)> = rows
        .iter()
        .enumerate()
        .filter(|(_, row)| !row.never_ran() && keep(row))
        .map(|(index, row)| (rank(row), index, row))
        .collect();
    order.sort_unstable_by(|(a_number, a_index, a), (b_number, b_index, b)| {
        let first = match column {
            Column::Function => a.place.name().text.cmp(&b.place.name().text),
            _ => b_number.cmp(a_number),
        };
        let first = if reversed { first.reverse() } else { first };
        first
            .then_with(|| account.own_ns(b).cmp(&account.own_ns(a)))
            .then_with(|| by_name(a, b))
            .then_with(|| a_index.cmp(b_index))
    });
    order.into_iter().map(|(_, index, _)| index).collect()
}

fn by_name(a: &Function, b: &Function) -> Ordering {
    let files = a.place.file.text.cmp(&b.place.file.text);
    let names = a.place.name().text.cmp(&b.place.name().text);
    names
        .then(files)
        .then_with(|| a.host.cmp(&b.host))
        .then_with(|| a.pid.cmp(&b.pid))
        .then_with(|| a.context.cmp(&b.context))
}

/// Whether a row is wanted by what somebody types: every word is in the function's name or its file.
pub fn matches(row: &Function, typed: &str) -> bool {
    let name = &row.place.name().text;
    match row.host.as_deref() {
        Some(host) => has_words(&format!("{name} @{host}"), &row.place.file.text, typed),
        None => has_words(name, &row.place.file.text, typed),
    }
}

/// The same of a function's name and its file.
pub fn has_words(function: &str, file: &str, typed: &str) -> bool {
    typed.split_whitespace().all(|word| {
        let word = word.to_lowercase();
        [function, file]
            .iter()
            .any(|it| it.to_lowercase().contains(&word))
    })
}

/// Own time of a row among that of all rows, as far as it is shown, in percent.
pub fn share(row: &Function, account: &TableAccount) -> f64 {
    account.own_ns(row) as f64 * 100.0 / account.shown_ns().max(1) as f64
}

/// Whether most of the own time of a row that is shown is idleness.
pub fn is_idle(row: &Function, account: &TableAccount) -> bool {
    account.with_idle && row.idle_ns > row.self_ns / 2
}

/// The numbers of a row as they are shown, as many as [`numbers`].
pub fn cells(row: &Function, account: &TableAccount) -> Vec<String> {
    let known = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), time);
    let seconds = account.wall_ns as f64 / 1e9;
    let rate = if seconds > 0.0 {
        row.calls as f64 / seconds
    } else {
        0.0
    };
    let rate = if rate < 99.95 {
        format!("{rate:.1}")
    } else {
        count(rate as u64)
    };
    let own = account.own_ns(row);
    let share = share(row, account);
    let durations = row.durations(account.overhead);
    let mut cells = vec![
        count(row.calls),
        rate,
        time(own),
        format!("{share:.1}"),
        known(account.cumulative_ns(row)),
        known(row.net_average_ns(account.overhead)),
        quantile(durations, 0.95),
        match durations.max() {
            Some(max) if durations.max_is_bound() => format!("≤{}", time(max)),
            max => known(max),
        },
    ];
    if account.has_waits {
        let off = row.off;
        cells.extend([off.blocked_ns, off.runqueue_ns, off.gil_ns].map(time));
    }
    cells
}

/// `function [context] @host` and `file:line`.
pub fn name(row: &Function) -> (String, String) {
    name_in(row, row.context.as_deref())
}

/// The same in another context, or in none.
pub fn name_in(row: &Function, context: Option<&str>) -> (String, String) {
    let mut function = row.place.name().to_string();
    if let Some(context) = context {
        function = format!("{function} [{}]", Foreign::new(context));
    }
    if let Some(host) = row.host.as_deref() {
        function = format!("{function} @{}", Foreign::new(host));
    }
    if row.goes_on {
        function.push_str(" (resumed)");
    }
    if row.maybe_several {
        function.push_str(" (maybe several)");
    }
    let mut place = row.place.file.to_string();
    if row.line > 0 && row.line < i32::MAX {
        place = format!("{place}:{}", row.line);
    }
    (function, place)
}

/// A column of numbers.
#[derive(Debug, Clone, Copy)]
pub struct Number {
    /// By which its title sorts.
    pub column: Column,
    /// What stands above it.
    pub title: &'static str,
    /// Characters that it takes.
    pub width: usize,
}

const fn number(column: Column, title: &'static str, width: usize) -> Number {
    Number {
        column,
        title,
        width,
    }
}

/// All of them; own time is followed by its share.
const NUMBERS: [Number; 11] = [
    number(Column::Calls, "CALLS", 9),
    number(Column::Rate, "CALLS/s", 9),
    number(Column::SelfTime, "SELF", 7),
    number(Column::SelfTime, "%", 5),
    number(Column::Cumulative, "CUM", 7),
    number(Column::Average, "AVG", 7),
    number(Column::P95, "P95", 7),
    number(Column::Max, "MAX", 7),
    number(Column::Off, "OFF", 7),
    number(Column::RunQueue, "RUNQ", 7),
    number(Column::Gil, "GIL", 7),
];
/// Where the share of own time stands, which is no column to sort by.
pub const SHARE: usize = 3;
/// How many there are without waits.
const WITHOUT_WAITS: usize = 8;

/// The columns of numbers of a table.
pub fn numbers(account: &TableAccount) -> &'static [Number] {
    match account.has_waits {
        true => &NUMBERS,
        false => NUMBERS.get(..WITHOUT_WAITS).unwrap_or_default(),
    }
}

impl Number {
    /// What stands above it. Own time has a mark where that of functions which are not traced is in it.
    pub fn title(&self, account: &TableAccount) -> &'static str {
        match self.title {
            "SELF" if account.filtered => "SELF*",
            title => title,
        }
    }
}

/// What the mark at own time means.
pub const FILTERED: &str = "SELF*: time not in other traced functions; that of functions which a filter leaves out is in it";
/// Room for the number of a process.
pub const PROCESS: usize = 7;

/// The line above the numbers.
pub fn heading(account: &TableAccount, processes: bool) -> String {
    let mut line = String::new();
    for number in numbers(account) {
        let (title, width) = (number.title(account), number.width);
        line.push_str(&format!("{title:>width$} "));
    }
    if processes {
        line.push_str(&format!("{:>PROCESS$} ", "PID"));
    }
    line.push_str(" FUNCTION  FILE");
    line
}

/// One line.
pub fn line(row: &Function, account: &TableAccount, processes: bool) -> String {
    let mut line = String::new();
    for (cell, Number { width, .. }) in cells(row, account).iter().zip(numbers(account)) {
        line.push_str(&format!("{cell:>width$} "));
    }
    if processes {
        line.push_str(&format!("{:>PROCESS$} ", process(row)));
    }
    let (function, place) = name(row);
    format!("{line} {function}  {place}")
}

/// The number of the process of a row.
fn process_number(row: &Function) -> u32 {
    match row.host {
        Some(_) => hosts::number(row.pid),
        None => row.pid,
    }
}

/// The process of a row, or how many there are in it.
pub fn process(row: &Function) -> String {
    match row.processes {
        0 | 1 => process_number(row).to_string(),
        several => format!("{several} of"),
    }
}

/// What is said above or below a table: shares, losses, and which functions are in it if not all.
pub fn account_line(account: &TableAccount, filter: Option<&str>) -> String {
    let share = account.gc_ns as f64 * 100.0 / account.wall_ns.max(1) as f64;
    let lost = match account.lost {
        0 => None,
        1 => Some("one event lost".to_owned()),
        lost => Some(format!("{lost} events lost")),
    };
    let untraced = match account.untraced {
        0 => None,
        1 => Some("one process untraced".to_owned()),
        untraced => Some(format!("{untraced} processes untraced")),
    };
    let missing: Vec<String> = lost.into_iter().chain(untraced).collect();
    let lost = match missing.is_empty() {
        true => "nothing lost".to_owned(),
        false => missing.join(", "),
    };
    let without_row = match account.without_row {
        0 => String::new(),
        calls => format!(
            "; table full, {calls} calls ({}) in no row",
            time(account.without_row_ns)
        ),
    };
    let idle = match account.net_idle_ns {
        0 => String::new(),
        _ if account.with_idle => String::new(),
        idle => format!("; {} of idleness left out, which --idle shows", time(idle)),
    };
    let filter = filter.map_or_else(String::new, |it| format!("; only {}", Foreign::new(it)));
    format!(
        "{} on the clock, {} in functions, {} ({share:.1} %) in garbage collections; {lost}, {} unpaired{without_row}{idle}{filter}",
        time(account.wall_ns),
        time(account.shown_ns()),
        time(account.gc_ns),
        account.unpaired
    )
}

/// What marks and the words beside functions mean, a line for each that stands in these rows.
pub fn notes<'a>(rows: impl Iterator<Item = &'a Function>, account: &TableAccount) -> String {
    let (mut goes_on, mut several, mut given_up) = (false, false, 0);
    for row in rows {
        goes_on |= row.goes_on;
        several |= row.maybe_several;
        given_up += row.given_up;
    }
    let mut notes = overhead_line(account.overhead, Some(account.taken_out_percent()));
    if account.filtered {
        notes.push_str(FILTERED);
        notes.push('\n');
    }
    if goes_on {
        notes.push_str(
            "(resumed): AVG, P95 and MAX are the time on the stack each time that it goes on, without waiting; `stats --agent` \
             has the time from the first call to the end\n",
        );
    }
    if several {
        notes.push_str(
            "(maybe several): functions of this name in this file are one row, because nothing tells them apart; \
             --agent --engine uprobes does where they begin at different lines\n",
        );
    }
    if given_up > 0 {
        notes.push_str(&format!(
            "{} given up while more were open than there is room for (docs/limits.md), so CUM is not known where - is\n",
            many(given_up, "call was", "calls were")
        ));
    }
    notes
}

/// A row as JSON.
pub fn row_json(row: &Function, account: &TableAccount) -> Value {
    let mut json = json!({
        "function": row.place.function.text,
        "qualname": row.place.qualname.as_ref().map(|name| &name.text),
        "context": row.context.as_deref(),
        "file": row.place.file.text,
        "line": (row.line > 0 && row.line < i32::MAX).then_some(row.line),
        "pid": (row.processes == 1).then(|| process_number(row)),
        "processes": row.processes,
        "calls": row.calls,
        "resumed": row.goes_on,
        "maybe_several": row.maybe_several,
        "calls_given_up": row.given_up,
        "unmatched_returns": row.unmatched,
        "self_ns": row.self_ns,
        "idle_ns": row.idle_ns,
        "cumulative_ns": row.whole_cumulative_ns(),
        "idle_cumulative_ns": row.idle_cumulative_ns,
        "average_ns": row.average_ns(),
        "durations": histogram_json(&row.durations),
    });
    if let Some(host) = row.host.as_deref() {
        json["host"] = host.as_str().into();
    }
    if let Some(group) = group_json(&row.place) {
        json["group"] = group;
    }
    let overhead = account.overhead;
    if overhead.cost().is_some() {
        json["net_self_ns"] = row.net_self_ns(overhead).into();
        json["net_idle_ns"] = row.net_idle_ns(overhead).into();
        json["net_cumulative_ns"] = row.net_cumulative_ns(overhead).into();
        json["net_idle_cumulative_ns"] = row.net_idle_cumulative_ns(overhead).into();
        json["net_average_ns"] = row.net_average_ns(overhead).into();
        json["net_durations"] = histogram_json(&row.net_durations);
    }
    if account.has_waits {
        json["off_ns"] = row.off.blocked_ns.into();
        json["runqueue_ns"] = row.off.runqueue_ns.into();
        json["gil_ns"] = row.off.gil_ns.into();
    }
    json
}

/// A table as one line of JSON that is harmless on a terminal, a row at a time: all rows as one value would take several
/// times what they say. `not_shown` is how many there are beyond these.
///
/// # Errors
/// The output's.
pub fn write_json<'a>(
    account: &TableAccount,
    rows: impl Iterator<Item = &'a Function>,
    not_shown: usize,
    output: &mut dyn Write,
) -> io::Result<()> {
    let harmless = |value: Value| harmless_json(&value.to_string());
    let mut text = format!(
        "{{\"account\":{},\"functions\":[",
        harmless(account_json(account))
    );
    for (at, row) in rows.enumerate() {
        text.push_str(if at > 0 { "," } else { "" });
        text.push_str(&harmless(row_json(row, account)));
        if text.len() >= 1 << 16 {
            output.write_all(text.as_bytes())?;
            text.clear();
        }
    }
    text.push_str(&format!("],\"functions_not_shown\":{not_shown}}}\n"));
    output.write_all(text.as_bytes())
}

/// What a table was measured over, as JSON.
pub fn account_json(account: &TableAccount) -> Value {
    let mut json = json!({
        "wall_ns": account.wall_ns,
        "self_ns": account.self_ns,
        "idle_ns": account.idle_ns,
        "gc_ns": account.gc_ns,
        "lost": account.lost,
        "untraced_processes": account.untraced,
        "filtered": account.filtered,
        "unpaired": account.unpaired,
        "calls_without_row": account.without_row,
        "self_ns_without_row": account.without_row_ns,
    });
    if let Some(cost) = account.overhead.cost() {
        json["overhead_ns_per_event"] = cost.per_event().get().into();
        json["overhead_ns_within_call"] = cost.within_call().into();
        json["net_self_ns"] = account.net_self_ns.into();
        json["net_idle_ns"] = account.net_idle_ns.into();
    }
    json
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::analysis::functions::Functions;
    use crate::analysis::pairing::Pairing;
    use crate::analysis::testing::{call, event, returned};
    use crate::event::{Reason, Session, What};

    fn rows() -> Vec<Function> {
        let (mut pairing, mut functions) = (Pairing::new(), Functions::new());
        for mut event in [
            call(0, "slow"),
            call(10, "quick"),
            returned(15, "quick"),
            call(20, "quick"),
            returned(27, "quick"),
            returned(1_000, "slow"),
        ] {
            if let Some(step) = pairing.follow(&mut event) {
                functions.take(&step);
            }
        }
        functions.rows().to_vec()
    }

    fn ordered(column: Column, reversed: bool) -> Vec<String> {
        let rows = rows();
        order(&rows, &TableAccount::default(), column, reversed, |_| true)
            .into_iter()
            .map(|at| rows[at].place.function.text.clone())
            .collect()
    }

    #[test]
    fn every_column_sorts_and_can_be_reversed() {
        for column in Column::of(&TableAccount::default()) {
            let first = match column {
                Column::Calls | Column::Rate | Column::Function => "quick",
                _ => "slow",
            };
            assert_eq!(ordered(column, false)[0], first, "{column:?}");
            assert_eq!(ordered(column, true)[1], first, "{column:?}");
        }
    }

    #[test]
    fn every_word_of_a_filter_must_be_in_the_name_or_the_file() {
        let rows = rows();
        let left = |typed: &str| rows.iter().filter(|row| matches(row, typed)).count();
        assert_eq!(left(""), 2);
        assert_eq!(left("APP"), 2);
        assert_eq!(left("app low"), 1);
        assert_eq!(left("low quick"), 0);
    }

    #[test]
    fn nothing_is_said_to_be_lost_only_where_everything_was_seen() {
        let said = |lost, untraced| {
            let account = TableAccount {
                lost,
                untraced,
                ..TableAccount::default()
            };
            account_line(&account, None)
        };
        assert!(said(0, 0).contains("; nothing lost, "));
        assert!(said(3, 0).contains("; 3 events lost, "));
        assert!(said(0, 4).contains("; 4 processes untraced, "));
        assert!(said(1, 1).contains("; one event lost, one process untraced, "));
        assert!(said(3, 4).contains("; 3 events lost, 4 processes untraced, "));
    }

    #[test]
    fn a_line_stands_under_its_heading() {
        let account = TableAccount {
            wall_ns: 1_000,
            self_ns: 1_000,
            net_self_ns: 1_000,
            ..TableAccount::default()
        };
        let rows = rows();
        let line = line(&rows[0], &account, true);
        assert_eq!(
            line,
            "        1   1000000   988ns  98.8  1.00us  1.00us  1.00us  1.00us       1  slow  app.py:1"
        );
        let at = heading(&account, true).find("FUNCTION").expect("a column");
        assert_eq!(line.find("slow"), Some(at));
    }

    /// An account of times that are wanted as they were measured.
    fn raw() -> TableAccount {
        TableAccount {
            overhead: Overhead::Kept,
            ..TableAccount::default()
        }
    }

    #[test]
    fn what_is_shown_is_without_the_tracer_s_cost_and_json_has_both() {
        let session = Session {
            overhead_ns_per_event: NonZeroU64::new(2),
            ..Session::default()
        };
        let overhead = Overhead::of(&session, false);
        let (mut pairing, mut functions) = (Pairing::new(), Functions::new());
        functions.take_out(overhead);
        for mut event in [
            call(100, "slow"),
            call(110, "quick"),
            returned(115, "quick"),
            returned(132, "slow"),
        ] {
            if let Some(step) = pairing.follow(&mut event) {
                functions.take(&step);
            }
        }
        let account = TableAccount::of(&functions);
        let rows = functions.rows();
        let cells = |row| {
            let line = line(row, &account, false);
            let cells: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            cells[2..8].join(" ")
        };
        // Of 32 nanoseconds, three events took six.
        assert_eq!(cells(&rows[0]), "23ns 88.5 26ns 26ns 26ns 26ns");
        assert_eq!(cells(&rows[1]), "3ns 11.5 3ns 3ns 3ns 3ns");
        let said = super::notes(rows.iter(), &account);
        assert_eq!(
            said,
            "times without the tracer's own cost (2ns per event, 19 % of what was measured); --raw-times shows what was measured\n"
        );
        let json = row_json(&rows[0], &account);
        let numbers = [
            "self_ns",
            "net_self_ns",
            "cumulative_ns",
            "net_cumulative_ns",
        ];
        assert_eq!(
            numbers.map(|it| json[it].as_u64()),
            [27, 23, 32, 26].map(Some)
        );
        assert_eq!(json["durations"]["max_ns"], 32);
        assert_eq!(json["net_durations"]["max_ns"], 26);
        let json = account_json(&account);
        let numbers = ["self_ns", "net_self_ns", "overhead_ns_per_event"];
        assert_eq!(numbers.map(|it| json[it].as_u64()), [32, 26, 2].map(Some));
    }

    #[test]
    fn where_nobody_knows_what_an_event_costs_it_is_said_that_times_have_it_in_them() {
        let account = TableAccount::default();
        let said = super::notes(rows().iter(), &account);
        assert!(
            said.contains("have the tracer's own cost in them"),
            "{said}"
        );
        let json = row_json(&rows()[0], &account);
        assert!(json.get("net_self_ns").is_none());
    }

    #[test]
    fn what_was_given_up_has_no_cumulative_time_and_the_reason_is_said() {
        let mut row = rows().remove(0);
        row.given_up = 7;
        let line = line(&row, &TableAccount::default(), false);
        assert_eq!(line.split_whitespace().nth(4), Some("-"), "{line}");
        let notes = notes([&row].into_iter(), &raw());
        assert!(
            notes.starts_with("7 calls were given up while more were open than there is room for"),
            "{notes}"
        );
        let json = row_json(&row, &TableAccount::default());
        assert!(json.get("off_ns").is_none(), "there are no waits");
        assert!(json["cumulative_ns"].is_null(), "{json}");
        assert_eq!(json["calls_given_up"], 7);
        assert!(super::notes(rows().iter(), &raw()).is_empty());
    }

    #[test]
    fn words_behind_a_function_say_what_its_numbers_are_and_a_line_explains_them() {
        let mut row = rows().remove(0);
        (row.goes_on, row.maybe_several) = (true, true);
        let (function, _) = name(&row);
        assert_eq!(function, "slow (resumed) (maybe several)");
        let notes = notes([&row].into_iter(), &raw());
        let lines: Vec<&str> = notes.lines().collect();
        assert!(
            lines[0].starts_with("(resumed): AVG, P95 and MAX"),
            "{notes}"
        );
        assert!(lines[1].starts_with("(maybe several): "), "{notes}");
    }

    #[test]
    fn where_waits_are_known_a_row_tells_how_long_its_threads_did_not_run() {
        let wait = |ts, reason, blocked_ns, queued| {
            let wait = crate::event::Wait {
                reason,
                syscall: None,
                on: None,
                blocked_ns,
                runqueue_ns: queued,
                waker: None,
            };
            event(ts, What::Wait(Box::new(wait)))
        };
        let (mut pairing, mut functions) = (Pairing::new(), Functions::new());
        for mut event in [
            wait(5, Some(Reason::Sleep), 4, None),
            call(10, "slow"),
            wait(40, Some(Reason::Gil), 20, Some(3)),
            call(50, "quick"),
            returned(55, "quick"),
            wait(90, Some(Reason::Network), 30, None),
            wait(95, None, 0, Some(5)),
            returned(100, "slow"),
        ] {
            if let Some(step) = pairing.follow(&mut event) {
                functions.take(&step);
            }
        }
        let rows = functions.rows();
        assert_eq!(rows.len(), 2, "no call, no row");
        let account = TableAccount {
            has_waits: true,
            wall_ns: 100,
            self_ns: 90,
            net_self_ns: 90,
            ..TableAccount::default()
        };
        let slow = line(&rows[0], &account, false);
        let cells: Vec<&str> = slow.split_whitespace().collect();
        assert_eq!(cells[2], "85ns", "own time has waits in it");
        assert_eq!(cells[8..11], ["50ns", "8ns", "20ns"], "{slow}");
        let at = heading(&account, false).find("FUNCTION").expect("a column");
        assert_eq!(slow.find("slow"), Some(at));
        let json = row_json(&rows[0], &account);
        assert_eq!(
            (&json["off_ns"], &json["runqueue_ns"], &json["gil_ns"]),
            (&50.into(), &8.into(), &20.into())
        );
        assert_eq!(row_json(&rows[1], &account)["off_ns"], 0);
        for column in [Column::Off, Column::RunQueue, Column::Gil] {
            assert!(Column::of(&account).any(|it| it == column));
            assert!(!Column::of(&TableAccount::default()).any(|it| it == column));
            assert_eq!(order(rows, &account, column, false, |_| true), [0, 1]);
            assert_eq!(order(rows, &account, column, true, |_| true), [1, 0]);
        }
    }
}
