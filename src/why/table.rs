//! What came of it, for people.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::part::{Doing, Part, Parts, Sum};
use super::results::{Call, Function, Results};
use crate::analysis::keys::FunctionKey;
use crate::text::Foreign;
use crate::view::{count, many, quantile, time};
use crate::waits::{Account, Waker};

/// Widths of the columns.
const TOTAL: usize = 8;
const SHARE: usize = 5;
const EACH: usize = 8;
const MAX: usize = 7;
const TIMES: usize = 8;
const REASON: usize = 10;
const CALL: usize = 16;
const ON: usize = 24;
/// Most rows of a function; the rest is added up.
const MOST_ROWS: usize = 30;
/// Most parts that the line of a call names.
const MOST_NAMED: usize = 8;

/// What there is to show.
pub(super) struct Page<'a> {
    pub(super) results: &'a Results,
    pub(super) names: &'a HashMap<u32, String>,
    pub(super) account: Account,
    /// Calls that go on.
    pub(super) open: &'a HashMap<FunctionKey, u64>,
    /// Sentences.
    pub(super) notes: &'a [String],
    /// Calls that were not written one by one.
    pub(super) untold: u64,
    /// When it began, in nanoseconds since the Unix epoch.
    pub(super) start: u64,
}

/// A block for each function.
pub(super) fn page(page: &Page<'_>) -> String {
    let mut out = String::new();
    let mut open = page.open.clone();
    for (key, function) in page.results.sorted() {
        if function.split == 0 && function.unsplit.is_empty() && function.given_up == 0 {
            // Its calls were all too short.
            continue;
        }
        if !out.is_empty() {
            out.push('\n');
        }
        block(
            &mut out,
            function,
            open.remove(&key).unwrap_or_default(),
            page,
        );
    }
    if out.is_empty() {
        out.push_str("none of these functions returned, or none took long enough\n");
    }
    let others: u64 = open.values().sum();
    if others > 0 {
        let _ = writeln!(
            out,
            "{} still open of others",
            many(others, "call", "calls")
        );
    }
    let account = &page.account;
    if account.lost > 0 || account.waits_lost > 0 || account.unreadable > 0 {
        let _ = writeln!(
            out,
            "LOST {} and {} of the scheduler; calls meanwhile are not split",
            many(account.lost + account.unreadable, "record", "records"),
            many(account.waits_lost, "wait", "waits"),
        );
    }
    if page.results.without_room > 0 {
        let calls = many(page.results.without_room, "call", "calls");
        let _ = writeln!(out, "{calls} of further functions not shown; name fewer");
    }
    if page.untold > 0 {
        let calls = many(page.untold, "call", "calls");
        let _ = writeln!(out, "{calls} came too fast to be written one by one");
    }
    for note in page.notes {
        let _ = writeln!(out, "{note}");
    }
    out
}

/// Name and whereabouts of a function.
fn title(function: &Function) -> String {
    let place = &function.place;
    let line = match function.line {
        line @ 1.. => format!(":{line}"),
        _ => String::new(),
    };
    format!("{}  {}{line}", place.name(), place.file)
}

fn block(out: &mut String, function: &Function, open: u64, page: &Page<'_>) {
    let durations = &function.durations;
    let quantile = |share| quantile(durations, share);
    let _ = writeln!(out, "{}", title(function));
    let unsplit: u64 = function.unsplit.values().sum();
    let _ = writeln!(
        out,
        "  {}, {} in all: p50 {}, p95 {}, p99 {}, longest {}",
        many(function.split + unsplit, "call", "calls"),
        time(durations.sum()),
        quantile(0.5),
        quantile(0.95),
        quantile(0.99),
        durations.max().map_or_else(|| "-".to_owned(), time),
    );
    let mut reasons: Vec<_> = function.unsplit.iter().collect();
    reasons.sort();
    for (why, calls) in reasons {
        let _ = writeln!(
            out,
            "  {} of these not split: {}",
            count(*calls),
            why.because()
        );
    }
    if function.recursive > 0 {
        let calls = many(function.recursive, "call", "calls");
        let _ = writeln!(out, "  {calls} more within calls of the same function");
    }
    if open > 0 {
        let _ = writeln!(out, "  {} still open", many(open, "call", "calls"));
    }
    if function.given_up > 0 {
        let _ = writeln!(
            out,
            "  {} more without an end: their process or thread ended first, or too many were open",
            many(function.given_up, "call", "calls")
        );
    }
    rows(out, &function.parts, function.split, page.names);
    for call in &function.slow {
        let _ = writeln!(out, "  {}", self::call(call, page.start, page.names));
    }
}

fn rows(out: &mut String, parts: &Parts, calls: u64, names: &HashMap<u32, String>) {
    if calls == 0 {
        return;
    }
    let all = parts.total_ns();
    let _ = writeln!(
        out,
        "{:>TOTAL$} {:>SHARE$} {:>EACH$} {:>MAX$} {:>TIMES$}  {:REASON$} {:CALL$} {:ON$} WOKEN BY",
        "TOTAL", "%", "PER CALL", "MAX", "TIMES", "REASON", "IN", "ON"
    );
    let sorted = parts.sorted();
    for (part, sum) in sorted.iter().take(MOST_ROWS) {
        let line = format!(
            "{:>TOTAL$} {:>SHARE$.1} {:>EACH$} {:>MAX$} {:>TIMES$}  {:REASON$} {:CALL$} {:ON$} {}",
            time(sum.total_ns),
            sum.total_ns as f64 * 100.0 / all.max(1) as f64,
            time(sum.total_ns / calls),
            time(sum.max_ns),
            count(sum.times),
            part.doing.word(),
            called(part),
            part.on
                .as_deref()
                .map_or_else(String::new, |on| Foreign::new(on).to_string()),
            woken_by(sum, names),
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let rest = sorted.iter().skip(MOST_ROWS);
    let rest: Vec<u64> = rest.map(|(_, sum)| sum.total_ns).collect();
    if !rest.is_empty() {
        let _ = writeln!(
            out,
            "{:>TOTAL$} in {} more parts",
            time(rest.iter().sum()),
            rest.len()
        );
    }
}

/// What stands under IN.
fn called(part: &Part) -> &str {
    match part.doing {
        Doing::Queued => "woken",
        Doing::Preempted => "preempted",
        _ => part.call.as_deref().unwrap_or_default(),
    }
}

/// Who ended most of the waits, and how many others there are.
fn woken_by(sum: &Sum, names: &HashMap<u32, String>) -> String {
    let mut wakers: Vec<_> = sum.wakers.iter().collect();
    wakers.sort_by(|left, right| right.1.cmp(left.1).then(left.0.cmp(right.0)));
    let Some((first, _)) = wakers.first() else {
        return String::new();
    };
    let first = match first {
        None => "-".to_owned(),
        Some(Waker::Interrupt) => "interrupt".to_owned(),
        Some(Waker::Thread { tid, .. }) => match names.get(tid).filter(|it| !it.is_empty()) {
            Some(name) => format!("{} ({tid})", Foreign::new(name.as_str())),
            None => tid.to_string(),
        },
    };
    match wakers.len() - 1 {
        0 => first,
        more => format!("{first} +{more}"),
    }
}

/// One call as a line, without its end.
pub(super) fn call(call: &Call, start: u64, names: &HashMap<u32, String>) -> String {
    let since = call.began.saturating_sub(start) as f64 / 1e9;
    let mut line = format!(
        "+{since:.6}s {:>7}  {}  thread {}  ",
        call.duration_ns.map_or_else(|| "-".to_owned(), time),
        call.place.name(),
        call.tid
    );
    let parts = match &call.parts {
        Ok(parts) => parts,
        Err(why) => {
            let _ = write!(line, "not split: {}", why.because());
            return line;
        }
    };
    let sorted = parts.sorted();
    let named: Vec<String> = sorted
        .iter()
        .take(MOST_NAMED)
        .map(|(part, sum)| in_words(part, sum, names))
        .collect();
    line.push_str(&named.join(", "));
    if sorted.len() > MOST_NAMED {
        let rest = sorted.iter().skip(MOST_NAMED);
        let rest: u64 = rest.map(|(_, sum)| sum.total_ns).sum();
        let more = sorted.len() - MOST_NAMED;
        let _ = write!(line, ", {} in {more} more", time(rest));
    }
    line
}

fn in_words(part: &Part, sum: &Sum, names: &HashMap<u32, String>) -> String {
    let mut words = format!("{} {}", part.doing.word(), time(sum.total_ns));
    let call = called(part);
    if !call.is_empty() {
        let _ = write!(words, " {call}");
    }
    if let Some(on) = &part.on {
        let _ = write!(words, " {}", Foreign::new(&**on));
    }
    if sum.times > 1 {
        let _ = write!(words, " x{}", sum.times);
    }
    let waker = woken_by(sum, names);
    if !matches!(waker.as_str(), "" | "-" | "interrupt") {
        let _ = write!(words, " by {waker}");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::results::Unsplit;
    use super::*;
    use crate::analysis::testing::place;
    use crate::waits::Reason;

    fn sample(parts: Result<Parts, Unsplit>, duration_ns: Option<u64>) -> Call {
        let place = place("get_all");
        Call {
            key: FunctionKey::of(&place),
            place,
            line: 12,
            pid: 1,
            tid: 2,
            began: 1_500_000_000,
            duration_ns,
            parts,
        }
    }

    fn parts() -> Parts {
        let mut parts = Parts::default();
        let network = Part {
            doing: Doing::Waiting(Reason::Network),
            call: Some("recvfrom".into()),
            on: Some("tcp 10.0.0.2:3306\x1b".into()),
        };
        let waker = Waker::Thread { pid: 9, tid: 99 };
        parts.add(network, 75_000_000, Some(Some(waker)));
        parts.add(Part::plain(Doing::Preempted), 5_000_000, None);
        parts.add(Part::plain(Doing::Running), 20_000_000, None);
        parts
    }

    #[test]
    fn a_function_has_its_distribution_its_parts_and_what_was_not_split() {
        let mut results = Results::new(0, 1);
        results.take(&sample(Err(Unsplit::Lost), Some(50_000_000)));
        results.take(&sample(Ok(parts()), Some(100_000_000)));
        let names = HashMap::from([(99, "mysqld".to_owned())]);
        let key = sample(Ok(parts()), None).key;
        let shown = page(&Page {
            results: &results,
            names: &names,
            account: Account::default(),
            open: &HashMap::from([(key, 1)]),
            notes: &["a note".to_owned()],
            untold: 0,
            start: 1_000_000_000,
        });
        let expected = "\
get_all  app.py:12
  2 calls, 150ms in all: p50 50.3ms, p95 100ms, p99 100ms, longest 100ms
  1 of these not split: something was lost meanwhile
  1 call still open
   TOTAL     % PER CALL     MAX    TIMES  REASON     IN               ON                       WOKEN BY
  75.0ms  75.0   75.0ms  75.0ms        1  network    recvfrom         tcp 10.0.0.2:3306\\u{1b}  mysqld (99)
  20.0ms  20.0   20.0ms  20.0ms        1  running
  5.00ms   5.0   5.00ms  5.00ms        1  run-queue  preempted
  +0.500000s   100ms  get_all  thread 2  network 75.0ms recvfrom tcp 10.0.0.2:3306\\u{1b} by mysqld (99), running 20.0ms, run-queue 5.00ms preempted
a note
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_function_of_which_no_call_ended_says_what_became_of_them() {
        let mut results = Results::new(5, 0);
        let call = sample(Ok(parts()), None);
        for lasted in [4, 5, 6] {
            results.gave_up(call.key, &call.place, 12, lasted);
        }
        let shown = page(&Page {
            results: &results,
            names: &HashMap::new(),
            account: Account::default(),
            open: &HashMap::new(),
            notes: &[],
            untold: 0,
            start: 0,
        });
        let line = "  2 calls more without an end: their process or thread ended first, or too many were open\n";
        assert!(
            shown.starts_with("get_all  app.py:12\n") && shown.contains(line),
            "{shown}"
        );
    }

    #[test]
    fn a_call_that_is_not_split_says_why() {
        let call = sample(Err(Unsplit::Greenlets), None);
        let line = super::call(&call, 1_000_000_000, &HashMap::new());
        assert!(
            line.starts_with("+0.500000s       -  get_all  thread 2  not split: of a greenlet"),
            "{line}"
        );
    }
}
