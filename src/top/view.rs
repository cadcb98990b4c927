//! How the state is drawn: a line about the whole, the table, callers and callees if wanted, a line of keys. As much of it as
//! fits.

use std::collections::HashMap;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::activity::BARS;
use super::fitting::{self, names_room};
use super::help::Entry;
use super::pane::{self, Pane, Relative};
use super::state::KEYS;
use super::{State, look};
use crate::analysis::callers;
use crate::analysis::functions::Function;
use crate::text::{Foreign, both_ends, harmless};
use crate::view::hot::{self, Column, Number};
use crate::view::{count, many, time};

/// What help says besides keys and colours.
const MARKS: [(&str, &str); 6] = [
    (
        "SELF*",
        "time not in other traced functions: a filter leaves some out",
    ),
    (
        "tracer's",
        "cost per event, taken out of times that are no sums; --raw-times keeps it",
    ),
    (
        "(columns)",
        "a narrow terminal leaves some out, not the one by which is sorted",
    ),
    (
        "(resumed)",
        "its durations are times on the stack, without waiting",
    ),
    (
        "(maybe several)",
        "functions of one name that nothing tells apart",
    ),
    (
        "-",
        "not known, because a return is in doubt or too many calls are open",
    ),
];

/// Longest title in the first line, in characters: a command that was launched can be longer.
const TITLE: usize = 30;

/// What stands in a table without rows.
const NOTHING: &str = "no call so far; a function that was called before this began, and does not return, is not here";

/// Draws everything, and notes in the state how many lines of the table fit.
pub fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let area = frame.area();
    // The last line is for what is typed and said; on a terminal of few lines the table goes first.
    let below = usize::from(area.height).saturating_sub(2);
    let pane = match state.relatives {
        true => pane::height(below),
        false => 0,
    };
    let table = below.saturating_sub(pane).saturating_sub(1);
    state.page = table.max(1);
    state.show_selected();
    let mut lines = vec![headline(state)];
    let shown = || state.rows().skip(state.scroll).take(table);
    let columns = columns(state, area.width, shown());
    if below > pane {
        lines.push(heading(state, &columns));
    }
    for row in shown() {
        lines.push(row_line(row, state, &columns, area.width));
    }
    if state.functions().is_empty() && state.account().wall_ns > 0 {
        let wide = usize::from(area.width);
        let nothing = fitting::wrapped(NOTHING, wide, wide);
        lines.extend(nothing.into_iter().map(Line::raw));
    }
    frame.render_widget(Paragraph::new(lines), area);
    if pane > 0
        && let Some(relatives) = relatives(state)
    {
        let lower = Rect {
            y: area.y + area.height.saturating_sub(1 + pane as u16),
            height: pane as u16,
            ..area
        };
        relatives.draw(frame, lower, state.look);
    }
    fitting::draw_at_bottom(frame, &footer(state), state.message.is_some());
    if state.help.is_open() {
        state.help.draw(frame, &help(state.look));
    }
}

/// What keys do, and what marks and colours mean.
fn help(look: look::Look) -> Vec<Entry> {
    let marks = MARKS.iter().map(|&(mark, means)| Entry::new(mark, means));
    let keys = Entry::of_keys(KEYS);
    keys.chain(look.legend()).chain(marks).collect()
}

/// The callers and callees of the selected function; `None` where none is selected.
fn relatives(state: &State) -> Option<Pane> {
    let row = state.rows().nth(state.selected_at()?)?;
    let account = state.account();
    let pid = (!state.is_merged()).then_some(row.pid);
    let known = state.callers();
    let of_row = known.map(|callers| callers.of(row.key, pid, account.overhead));
    // Wherever a function runs, it has one name.
    let rows = state.functions().iter();
    let named: HashMap<u64, &Function> = rows.map(|row| (row.key, row)).collect();
    let whole = row.net_cumulative_ns(account.overhead).unwrap_or(0);
    let relative = |of: &callers::Relative| {
        let (function, file) = match (of.key, of.key.and_then(|key| named.get(&key))) {
            (_, Some(row)) => hot::name_in(row, None),
            (None, None) => ("(nobody who is traced)".to_owned(), String::new()),
            (Some(_), None) => ("(a function without a row)".to_owned(), String::new()),
        };
        Relative {
            function,
            file,
            count: count(of.calls),
            time: time(of.cumulative_ns),
            share: of.cumulative_ns as f64 * 100.0 / whole.max(1) as f64,
        }
    };
    let without = known.map_or(0, |callers| callers.without_pair());
    let notes = [
        (without > 0).then(|| {
            format!(
                "no room for {} of further pairs",
                many(without, "call", "calls")
            )
        }),
        account
            .filtered
            .then(|| "a filter leaves functions out: the nearest traced ones".to_owned()),
        row.context
            .is_some()
            .then(|| "in all greenlets, tasks and threads together".to_owned()),
    ];
    let notes: Vec<String> = notes.into_iter().flatten().collect();
    Some(Pane {
        of: hot::name(row),
        counted: "CALLS",
        estimated: false,
        relatives: match of_row {
            Some(of) => {
                let words = |of: Vec<callers::Relative>| of.iter().map(relative).collect();
                Ok((words(of.callers), words(of.callees)))
            }
            None => Err(
                "Who called it is not known, because sums are made in the kernel or in the program, where only functions \
                 are counted; end this, and begin with --no-kernel-totals",
            ),
        },
        note: (!notes.is_empty()).then(|| notes.join("; ")),
    })
}

fn headline(state: &State) -> Line<'static> {
    let account = state.account();
    let share = account.gc_ns as f64 * 100.0 / account.wall_ns.max(1) as f64;
    let lost = match account.lost {
        0 => Span::raw("lost 0"),
        lost => Span::styled(
            format!("LOST {lost}"),
            Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD),
        ),
    };
    let full = match account.without_row {
        0 => Span::raw(""),
        calls => Span::styled(
            format!("  TABLE FULL, {calls} calls in no row"),
            Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD),
        ),
    };
    let idle = match account.net_idle_ns {
        0 => String::new(),
        _ if account.with_idle => "  with idleness".to_owned(),
        idle => format!("  idle {} not shown", time(idle)),
    };
    let tracer = match account.overhead.cost() {
        Some(_) => format!("  tracer's {:.0}% taken out", account.taken_out_percent()),
        None => String::new(),
    };
    let paused = if state.paused { "PAUSED  " } else { "" };
    let only = match &state.only {
        Some(only) => format!(", only {}", Foreign::new(only)),
        None => String::new(),
    };
    let title = both_ends(&state.title, TITLE);
    let title = Foreign::new(&title);
    // What must be seen comes first: a narrow terminal cuts the end.
    Line::from(vec![
        Span::raw(format!("{paused}gc {share:.1}%  ")),
        lost,
        full,
        Span::raw(format!(
            "  {:.0} s  {title}{only}{idle}{tracer}  {}  {}",
            account.wall_ns as f64 / 1e9,
            many(state.processes() as u64, "process", "processes"),
            many(state.rows().len() as u64, "function", "functions"),
        )),
    ])
}

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    /// A number, by its position in [`hot::numbers`].
    Number(usize),
    /// Bars of recent activity.
    Activity,
}

/// Columns in the order in which a narrow terminal goes without them.
const DISPENSABLE: [Cell; 12] = [
    Cell::Number(1),
    Cell::Number(7),
    Cell::Number(6),
    Cell::Activity,
    Cell::Number(5),
    Cell::Number(4),
    Cell::Number(3),
    Cell::Number(0),
    Cell::Number(10),
    Cell::Number(9),
    Cell::Number(8),
    Cell::Number(2),
];

/// The columns for which there is room beside the names of these rows. That by which rows are sorted is one of them.
fn columns<'a>(
    state: &State,
    width: u16,
    rows: impl Iterator<Item = &'a Function>,
) -> Vec<(Cell, usize)> {
    let numbers = hot::numbers(state.account());
    let cells = numbers.iter().enumerate();
    let cells = cells.map(|(at, number)| (Cell::Number(at), number.width));
    let bars = state.look.bars.then_some((Cell::Activity, BARS));
    let all: Vec<(Cell, usize)> = cells.chain(bars).collect();
    let process = match state.is_merged() {
        true => 0,
        false => hot::PROCESS + 1,
    };
    let names = names_room(rows.map(hot::name), "FUNCTION  FILE");
    let room = usize::from(width).saturating_sub(process + 1 + names);
    let sorts = |cell: Cell| match cell {
        Cell::Number(at) => numbers.get(at).is_some_and(|it| it.column == state.sort),
        Cell::Activity => false,
    };
    fitting::columns(&all, &DISPENSABLE, sorts, room)
}

fn heading(state: &State, columns: &[(Cell, usize)]) -> Line<'static> {
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    let chosen = reversed.add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
    let style = |column: Column| {
        if column == state.sort {
            chosen
        } else {
            reversed
        }
    };
    let numbers = hot::numbers(state.account());
    let mut spans = Vec::new();
    for &(cell, width) in columns {
        let (title, style) = match cell {
            Cell::Activity => ("ACTIVITY", reversed),
            Cell::Number(at) => match numbers.get(at) {
                Some(number) => (number.title(state.account()), style(number.column)),
                None => continue,
            },
        };
        spans.push(Span::styled(format!("{title:>width$}"), style));
        spans.push(Span::styled(" ", reversed));
    }
    if !state.is_merged() {
        let (title, width) = ("PID", hot::PROCESS);
        spans.push(Span::styled(format!("{title:>width$} "), reversed));
    }
    spans.push(Span::styled(" ", reversed));
    spans.push(Span::styled("FUNCTION", style(Column::Function)));
    spans.push(Span::styled("  FILE", reversed));
    spans.push(Span::styled(" ".repeat(200), reversed));
    Line::from(spans)
}

/// How a number of a row looks.
fn number_style(state: &State, number: &Number, row: &Function, cell: &str) -> Style {
    match number.column {
        Column::SelfTime => state.look.share(hot::share(row, state.account())),
        _ if cell.starts_with('≤') => state.look.estimate(),
        _ => Style::new(),
    }
}

fn row_line(row: &Function, state: &State, columns: &[(Cell, usize)], width: u16) -> Line<'static> {
    let id = state.id(row);
    let numbers = hot::numbers(state.account());
    let cells = hot::cells(row, state.account());
    let mut spans = Vec::new();
    for &(cell, wide) in columns {
        match cell {
            Cell::Activity => {
                let bars = state.activity.bars(id);
                spans.push(Span::styled(bars, state.look.activity()));
                spans.push(Span::raw(" "));
            }
            Cell::Number(at) => {
                if let (Some(cell), Some(number)) = (cells.get(at), numbers.get(at)) {
                    let style = number_style(state, number, row, cell);
                    spans.push(Span::styled(format!("{cell:>wide$}"), style));
                    spans.push(Span::raw(" "));
                }
            }
        }
    }
    if !state.is_merged() {
        let width = hot::PROCESS;
        spans.push(Span::raw(format!("{:>width$} ", hot::process(row))));
    }
    spans.push(Span::raw(" "));
    let taken: usize = spans.iter().map(Span::width).sum();
    let (function, place) = hot::name(row);
    let room = usize::from(width).saturating_sub(taken);
    let (function, place) = fitting::names(&function, &place, room);
    let name = match state.activity.is_newly_hot(id) {
        _ if hot::is_idle(row, state.account()) => state.look.idle(),
        true => state.look.newly_hot(),
        false => Style::new(),
    };
    spans.push(Span::styled(function, name.add_modifier(Modifier::BOLD)));
    spans.push(Span::styled(
        format!("  {place}"),
        Style::new().add_modifier(Modifier::DIM),
    ));
    match state.selected == Some(id) {
        true => selected(spans, usize::from(width)),
        false => Line::from(spans),
    }
}

/// The line of a row that is selected, to the end of the terminal.
pub(crate) fn selected(mut spans: Vec<Span<'static>>, width: usize) -> Line<'static> {
    let taken: usize = spans.iter().map(Span::width).sum();
    let rest = width.saturating_sub(taken);
    spans.push(Span::raw(" ".repeat(rest)));
    Line::from(spans).style(Style::new().add_modifier(Modifier::REVERSED))
}

fn footer(state: &State) -> String {
    if let Some(message) = &state.message {
        return harmless(message).replace('\n', "; ");
    }
    let filter = Foreign::new(&state.filter.text);
    if state.filter.typing {
        return format!("filter: {filter}_");
    }
    let every = state.interval_ms() as f64 / 1e3;
    let filter = match state.filter.text.is_empty() {
        true => String::new(),
        // Where it is seen on a narrow terminal, too.
        false => format!("only {filter} (Esc: all)  "),
    };
    let samples = match state.has_samples {
        true => "s samples  ",
        false => "",
    };
    format!(
        "{filter}q end  {samples}? help  enter callers  / filter  o sort  p pause  every {every} s"
    )
}
