//! What a recipe has added up, as text and as JSON.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::tally::{Group, Groups, Rows, Slow, Tally};
use super::{OTHERS, Recipe};
use crate::text::{Foreign, both_ends, ending};
use crate::view::{bars, count, histogram_json, many, quantile, time};

/// Callers of a group that are shown, and the characters of their paths.
const CALLERS: usize = 3;
const PATH: usize = 32;
/// Widest value in a row, in characters, and the least that is left of it on a terminal.
const WIDEST: usize = crate::event::Group::SHOWN;
const LEAST: usize = 12;
/// Columns of a terminal from where on it has all that a row can say.
const WIDE: usize = 120;
/// What lines begin with that go on about a row.
const INDENT: &str = "          ";

/// How wide lines may be, in characters; nothing where they are not for a terminal.
pub(crate) type Width = Option<usize>;

/// A number of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Calls,
    PerSecond,
    Errors,
    Rows,
    Mean,
    P50,
    P95,
    P99,
    Max,
}

impl Column {
    const ALL: [Column; 9] = [
        Column::Calls,
        Column::PerSecond,
        Column::Errors,
        Column::Rows,
        Column::Mean,
        Column::P50,
        Column::P95,
        Column::P99,
        Column::Max,
    ];

    /// Those for which there is room beside what the calls are counted by: on a narrow terminal, lines of intervals say the least.
    fn shown(recipe: &Recipe, is_live: bool, width: Width) -> impl Iterator<Item = Column> {
        let is_narrow = width.is_some_and(|width| width < WIDE);
        let (has_rows, all) = (recipe.rows.is_some(), Column::ALL);
        all.into_iter().filter(move |column| match column {
            Column::Calls | Column::Errors | Column::P95 => true,
            Column::Rows => has_rows,
            Column::P50 | Column::Max => !is_narrow || !is_live,
            Column::PerSecond | Column::Mean | Column::P99 => !is_narrow,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Column::Calls => "CALLS",
            Column::PerSecond => "CALLS/s",
            Column::Errors => "ERRORS",
            Column::Rows => "ROWS",
            Column::Mean => "MEAN",
            Column::P50 => "P50",
            Column::P95 => "P95",
            Column::P99 => "P99",
            Column::Max => "MAX",
        }
    }

    fn width(self) -> usize {
        match self {
            Column::Calls | Column::PerSecond => 9,
            _ => 8,
        }
    }

    fn of(self, group: &Group, length_ns: u64) -> String {
        let known = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), time);
        let durations = &group.durations;
        match self {
            Column::Calls => count(group.calls),
            Column::PerSecond => {
                let per_second = group.calls as f64 * 1e9 / length_ns.max(1) as f64;
                format!("{per_second:.1}")
            }
            Column::Errors => group.errors.to_string(),
            Column::Rows => match group.rows {
                Rows { calls: 0, .. } => "-".to_owned(),
                Rows { sum, .. } => count(sum),
            },
            Column::Mean => known(durations.mean()),
            Column::P50 => quantile(durations, 0.5),
            Column::P95 => quantile(durations, 0.95),
            Column::P99 => quantile(durations, 0.99),
            Column::Max => known(durations.max()),
        }
    }
}

/// Characters of a value that are shown behind so many others.
fn room(width: Width, before: usize) -> usize {
    width.map_or(WIDEST, |width| {
        width.saturating_sub(before).clamp(LEAST, WIDEST)
    })
}

/// The columns, with those of [`lines`] before them.
pub(super) fn heading(recipe: &Recipe, is_live: bool, width: Width) -> String {
    let mut line = if is_live { "      TIME " } else { "" }.to_owned();
    for column in Column::shown(recipe, is_live, width) {
        let _ = write!(line, "{:>1$} ", column.name(), column.width());
    }
    let names = recipe.group_by.iter().map(|name| name.to_uppercase());
    format!("{line} {}\n", names.collect::<Vec<_>>().join("  "))
}

/// What was called in an interval; `at_ns` is its end since the stream began.
pub(super) fn lines(
    recipe: &Recipe,
    groups: &Groups,
    limit: usize,
    at_ns: u64,
    length_ns: u64,
    width: Width,
) -> String {
    let mut out = String::new();
    let since = crate::view::since(at_ns);
    let sorted = groups.sorted();
    if sorted.is_empty() {
        return format!("{since:>10}  no calls\n");
    }
    let columns: Vec<Column> = Column::shown(recipe, true, width).collect();
    for group in sorted.into_iter().take(limit) {
        let line = numbers(format!("{since:>10} "), &columns, group, length_ns);
        let room = room(width, line.chars().count() + 1);
        let _ = writeln!(out, "{line} {}", shown(&group.values, room, width));
    }
    out
}

/// The numbers of a group, behind what is on the line already.
fn numbers(mut line: String, columns: &[Column], group: &Group, length_ns: u64) -> String {
    for column in columns {
        let _ = write!(line, "{:>1$} ", column.of(group, length_ns), column.width());
    }
    line
}

/// The most frequent callers of a group; none where they are not asked for.
fn callers(group: &Group) -> Vec<String> {
    let (mut shown, mut more) = (Vec::new(), 0);
    for (caller, calls) in group.callers.all() {
        if shown.len() < CALLERS || caller == OTHERS {
            shown.push(format!("{}: {}", site(caller), count(calls)));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        shown.insert(CALLERS, format!("{more} more"));
    }
    shown
}

/// Parts of what is said about a row, behind a word, on as many lines as it takes.
fn listed(word: &str, between: &str, parts: &[String], width: Width, out: &mut String) {
    let indent = format!("{INDENT}{:1$}", "", word.chars().count());
    let mut line = format!("{INDENT}{word}");
    for (at, part) in parts.iter().enumerate() {
        let after = if at + 1 < parts.len() { between } else { "" };
        let long = line.chars().count() + part.chars().count() + after.trim_end().len();
        if at > 0 && width.is_some_and(|width| long > width) {
            let _ = writeln!(out, "{}", line.trim_end());
            line.clone_from(&indent);
        }
        line.push_str(part);
        line.push_str(after);
    }
    if !parts.is_empty() {
        let _ = writeln!(out, "{line}");
    }
}

/// Who called, with as much of the end of the path as tells files apart.
fn site(caller: &str) -> String {
    let parts = caller.strip_suffix(')').and_then(|it| it.rsplit_once(" ("));
    let shown = match parts {
        Some((name, place)) => format!("{name} ({})", ending(place, PATH)),
        None => caller.to_owned(),
    };
    Foreign::new(&both_ends(&shown, WIDEST)).to_string()
}

/// Values, one behind the other, on one line; on a terminal all of them have that room, and elsewhere each.
fn shown(values: &[String], room: usize, width: Width) -> String {
    let values = values
        .iter()
        .map(|value| Foreign::new(&both_ends(value, room)).to_string());
    let line = values.collect::<Vec<_>>().join("  ");
    match width {
        Some(_) if line.chars().count() > room => both_ends(&line, room),
        _ => line,
    }
}

/// The whole: a row for each group, and the slowest calls.
pub(super) fn text(
    tally: &Tally,
    limit: usize,
    distribution: bool,
    wall_ns: u64,
    width: Width,
) -> String {
    let sorted = tally.all.sorted();
    let mut out = String::new();
    if sorted.is_empty() {
        out.push_str("none of the functions that the recipe names returned\n");
    } else {
        out.push_str(&heading(tally.recipe(), false, width));
    }
    let columns: Vec<Column> = Column::shown(tally.recipe(), false, width).collect();
    for group in sorted.iter().take(limit) {
        let line = numbers(String::new(), &columns, group, wall_ns);
        let values = shown(&group.values, WIDEST, None);
        match room(width, line.chars().count() + 1) < values.chars().count() {
            true => {
                let values = shown(&group.values, room(width, INDENT.len()), width);
                let _ = writeln!(out, "{}\n{INDENT}{values}", line.trim_end());
            }
            false => {
                let _ = writeln!(out, "{line} {values}");
            }
        }
        let statuses = group.statuses.iter();
        let statuses = statuses.map(|(status, calls)| format!("{status}: {}", count(*calls)));
        listed(
            "status ",
            ", ",
            &statuses.collect::<Vec<_>>(),
            width,
            &mut out,
        );
        listed("from ", ", ", &callers(group), width, &mut out);
        if distribution {
            bars(&group.durations, INDENT, &mut out);
        }
    }
    if sorted.len() > limit {
        let rest = (sorted.len() - limit) as u64;
        let _ = writeln!(out, "{} more (--limit)", many(rest, "row", "rows"));
    }
    if !tally.slowest.is_empty() {
        out.push_str("slowest calls\n");
    }
    for call in &tally.slowest {
        slow(call, width, &mut out);
    }
    for (calls, one, several) in notes(tally) {
        let what = if calls == 1 { one } else { several };
        let _ = writeln!(out, "{} {what}", many(calls, "call", "calls"));
    }
    out
}

/// A slow call, on one line where there is room for that.
fn slow(call: &Slow, width: Width, out: &mut String) {
    let request = call.request.as_ref().map_or_else(String::new, |request| {
        format!("  {}", shown(std::slice::from_ref(request), WIDEST, None))
    });
    let status = call.status.map_or_else(String::new, |it| format!("  {it}"));
    let error = if call.is_error { "  error" } else { "" };
    let rows = call.rows.map_or_else(String::new, |rows| {
        format!("  {}", many(rows, "row", "rows"))
    });
    let who = format!(
        "  {:>7}  {}  process {} thread {}",
        time(call.duration_ns),
        moment(call.ts),
        call.pid,
        call.tid,
    );
    let values = shown(&call.values, WIDEST, None);
    let caller = (call.caller.as_ref()).map_or_else(String::new, |it| format!("from {}", site(it)));
    let behind = if caller.is_empty() { "" } else { "  " };
    let line = format!("{who}{request}{status}{error}{rows}  {values}{behind}{caller}");
    let Some(width) = width.filter(|width| line.chars().count() > *width) else {
        let _ = writeln!(out, "{line}");
        return;
    };
    let _ = writeln!(out, "{who}{status}{error}{rows}");
    let room = room(Some(width), INDENT.len());
    let values = shown(&call.values, room, Some(width));
    let parts = [request.trim_start(), &values, &caller];
    let parts = parts.iter().filter(|part| !part.is_empty());
    let parts: Vec<String> = parts.map(|part| both_ends(part, room)).collect();
    listed("", "  ", &parts, Some(width), out);
}

/// Calls that are in no row, or not in their own, and why: of one, and of several.
fn notes(tally: &Tally) -> impl Iterator<Item = (u64, &'static str, &'static str)> {
    let notes = [
        (
            tally.under_way,
            "not counted, because it was under way before tracing began",
            "not counted, because they were under way before tracing began",
        ),
        (
            tally.fieldless,
            "not counted, because its fields had no room",
            "not counted, because their fields had no room",
        ),
        (
            tally.given_up,
            "not counted, given up while more calls were open than there is room for (docs/limits.md)",
            "not counted, given up while more calls were open than there is room for (docs/limits.md)",
        ),
        (
            tally.all.without_room,
            "in the row (others), because there were too many values (docs/limits.md)",
            "in the row (others), because there were too many values (docs/limits.md)",
        ),
    ];
    notes.into_iter().filter(|(calls, ..)| *calls > 0)
}

/// A time of day, in UTC.
fn moment(ts: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_nanos(ts);
    humantime::format_rfc3339_millis(time).to_string()
}

/// The same as JSON: what was added up in the `wall_ns` before `ts`. `kind` says whether that is an interval or the whole.
pub(super) fn json(kind: &str, ts: u64, tally: &Tally, groups: &Groups, wall_ns: u64) -> Value {
    let names = &tally.recipe().group_by;
    let named = |values: &[String]| -> Value {
        let pairs = names.iter().zip(values);
        let pairs = pairs.map(|(name, value)| (name.clone(), Value::from(value.as_str())));
        Value::Object(pairs.collect())
    };
    let rows = groups.sorted().into_iter().map(|group| {
        let statuses = group.statuses.iter();
        let statuses = statuses.map(|(status, calls)| (status.to_string(), Value::from(*calls)));
        let callers = group.callers.all();
        let callers = callers.map(|(caller, calls)| json!({ "caller": caller, "calls": calls }));
        json!({
            "group": named(&group.values),
            "calls": group.calls,
            "errors": group.errors,
            "durations": histogram_json(&group.durations),
            "statuses": Value::Object(statuses.collect()),
            "rows": (group.rows.calls > 0).then_some(group.rows.sum),
            "calls_with_rows": group.rows.calls,
            "callers": callers.collect::<Vec<_>>(),
        })
    });
    let slow = |slow: &Slow| {
        json!({
            "ts": slow.ts,
            "duration_ns": slow.duration_ns,
            "pid": slow.pid,
            "tid": slow.tid,
            "group": named(&slow.values),
            "request": slow.request,
            "status": slow.status,
            "error": slow.is_error,
            "rows": slow.rows,
            "caller": slow.caller.as_deref(),
        })
    };
    let mut json = json!({
        "kind": kind,
        "recipe": tally.recipe().name,
        "ts": ts,
        "wall_ns": wall_ns,
        "groups": rows.collect::<Vec<_>>(),
        "calls_without_room": groups.without_room,
    });
    if kind == "summary" {
        json["slowest"] = tally.slowest.iter().map(slow).collect();
        json["calls_without_fields"] = (tally.fieldless + tally.under_way).into();
        json["calls_passed_over"] = tally.passed_over.into();
        json["calls_given_up"] = tally.given_up.into();
    }
    json
}
