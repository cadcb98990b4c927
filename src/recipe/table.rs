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
/// Widest value in a row, in characters.
const WIDEST: usize = crate::event::Group::SHOWN;

/// The columns, with those of [`lines`] before them.
pub(super) fn heading(recipe: &Recipe, is_live: bool) -> String {
    let first = if is_live { "      TIME " } else { "" };
    let rows = if recipe.rows.is_some() {
        "     ROWS"
    } else {
        ""
    };
    let names: Vec<String> = recipe
        .group_by
        .iter()
        .map(|name| name.to_uppercase())
        .collect();
    format!(
        "{first}    CALLS   CALLS/s   ERRORS{rows}     MEAN      P50      P95      P99      MAX  {}\n",
        names.join("  ")
    )
}

/// What was called in an interval; `at_ns` is its end since the stream began.
pub(super) fn lines(
    recipe: &Recipe,
    groups: &Groups,
    limit: usize,
    at_ns: u64,
    length_ns: u64,
) -> String {
    let mut out = String::new();
    let since = crate::view::since(at_ns);
    let sorted = groups.sorted();
    if sorted.is_empty() {
        return format!("{since:>10}  no calls\n");
    }
    for group in sorted.into_iter().take(limit) {
        let _ = writeln!(out, "{since:>10} {}", row(recipe, group, length_ns));
    }
    out
}

fn row(recipe: &Recipe, group: &Group, length_ns: u64) -> String {
    let known = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), time);
    let durations = &group.durations;
    let quantile = |share| quantile(durations, share);
    let rows = match (recipe.rows.is_some(), group.rows) {
        (false, _) => String::new(),
        (true, Rows { calls: 0, .. }) => format!(" {:>8}", "-"),
        (true, Rows { sum, .. }) => format!(" {:>8}", count(sum)),
    };
    format!(
        "{:>9} {:>9.1} {:>8}{rows} {:>8} {:>8} {:>8} {:>8} {:>8}  {}",
        count(group.calls),
        group.calls as f64 * 1e9 / length_ns.max(1) as f64,
        count(group.errors),
        known(durations.mean()),
        quantile(0.5),
        quantile(0.95),
        quantile(0.99),
        known(durations.max()),
        shown(&group.values),
    )
}

/// The most frequent callers of a group; nothing where they are not asked for.
fn callers(group: &Group) -> Option<String> {
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
    (!shown.is_empty()).then(|| shown.join(", "))
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

/// Values, one behind the other, on one line.
fn shown(values: &[String]) -> String {
    let values = values
        .iter()
        .map(|value| Foreign::new(&both_ends(value, WIDEST)).to_string());
    values.collect::<Vec<_>>().join("  ")
}

/// The whole: a row for each group, and the slowest calls.
pub(super) fn text(tally: &Tally, limit: usize, distribution: bool, wall_ns: u64) -> String {
    let sorted = tally.all.sorted();
    let mut out = String::new();
    if sorted.is_empty() {
        out.push_str("none of the functions that the recipe names returned\n");
    } else {
        out.push_str(&heading(tally.recipe(), false));
    }
    for group in sorted.iter().take(limit) {
        let _ = writeln!(out, "{}", row(tally.recipe(), group, wall_ns));
        if !group.statuses.is_empty() {
            let statuses = group.statuses.iter();
            let statuses = statuses.map(|(status, calls)| format!("{status}: {}", count(*calls)));
            let statuses: Vec<String> = statuses.collect();
            let _ = writeln!(out, "{:>9} status {}", "", statuses.join(", "));
        }
        if let Some(callers) = callers(group) {
            let _ = writeln!(out, "{:>9} from {callers}", "");
        }
        if distribution {
            bars(&group.durations, "          ", &mut out);
        }
    }
    if sorted.len() > limit {
        let rest = (sorted.len() - limit) as u64;
        let _ = writeln!(out, "{} more (--limit)", many(rest, "row", "rows"));
    }
    if !tally.slowest.is_empty() {
        out.push_str("slowest calls\n");
    }
    for slow in &tally.slowest {
        let request = (slow.request.as_ref()).map_or_else(String::new, |request| {
            format!("  {}", shown(std::slice::from_ref(request)))
        });
        let status = slow.status.map_or_else(String::new, |it| format!("  {it}"));
        let error = if slow.is_error { "  error" } else { "" };
        let rows = slow.rows.map_or_else(String::new, |rows| {
            format!("  {}", many(rows, "row", "rows"))
        });
        let caller = (slow.caller.as_ref())
            .map_or_else(String::new, |caller| format!("  from {}", site(caller)));
        let _ = writeln!(
            out,
            "  {:>7}  {}  process {} thread {}{request}{status}{error}{rows}  {}{caller}",
            time(slow.duration_ns),
            moment(slow.ts),
            slow.pid,
            slow.tid,
            shown(&slow.values),
        );
    }
    for (calls, one, several) in notes(tally) {
        let what = if calls == 1 { one } else { several };
        let _ = writeln!(out, "{} {what}", many(calls, "call", "calls"));
    }
    out
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
