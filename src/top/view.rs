//! How the state is drawn: a line about the whole, the table, a line of keys. As much of it as fits.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph};

use super::State;
use crate::analysis::functions::Function;
use crate::text::{Foreign, end_of, ending, harmless};
use crate::view::hot::{self, Column, Number};
use crate::view::{many, time};

const HELP: [&str; 21] = [
    "1 to 9       sort by that column",
    "o, arrows    sort by the next or the previous column",
    "R            the other way round",
    "s            back to samples, where pystap top --sample came from there",
    "/            filter: every word must be in the function or its file",
    "Esc          no filter",
    "m            one row per function, or per function and process",
    "p, space     pause",
    "i            with or without time in which threads wait for work",
    "r            count anew",
    "+ -          faster, slower",
    "w            write the table as it is to a file",
    "up, down     scroll (also pages, home, end)",
    "q, Ctrl-C    end",
    "SELF*        time not in other traced functions: a filter leaves some out",
    "tracer's     cost per event, taken out of the times; --raw-times keeps it",
    "(columns)    a narrow terminal leaves some out, not the one by which is sorted",
    "(resumed)    its durations are times on the stack, without waiting",
    "(maybe several) functions of one name that nothing tells apart",
    "-            not known, because a return is in doubt or too many calls are open",
    "any key      close this help",
];

/// Draws everything, and notes in the state how many lines of the table fit.
pub fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let area = frame.area();
    let mut lines = vec![headline(state)];
    // The last line is for what is typed and said; on a terminal of few lines the table goes first.
    let table = usize::from(area.height).saturating_sub(3);
    state.page = table.max(1);
    let shown = || state.rows().skip(state.scroll).take(table);
    let columns = columns(state, area.width, shown());
    if area.height > 2 {
        lines.push(heading(state, &columns));
    }
    for row in shown() {
        lines.push(row_line(row, state, &columns, area.width));
    }
    frame.render_widget(Paragraph::new(lines), area);
    if area.height > 1 {
        let last = Rect {
            y: area.y + area.height - 1,
            height: 1,
            ..area
        };
        frame.render_widget(Clear, last);
        frame.render_widget(Paragraph::new(footer(state)), last);
    }
    if state.help {
        let wide = HELP.iter().map(|line| line.len()).max().unwrap_or(0) as u16 + 2;
        let inner = Rect {
            x: area.x,
            y: area.y + 1.min(area.height),
            width: wide.min(area.width),
            height: (HELP.len() as u16).min(area.height.saturating_sub(1)),
        };
        frame.render_widget(Clear, inner);
        let help: Vec<Line<'_>> = HELP
            .iter()
            .map(|line| Line::from(format!(" {line}")))
            .collect();
        frame.render_widget(Paragraph::new(help), inner);
    }
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
    let tracer = match account.overhead.per_event() {
        Some(_) => format!("  tracer's {:.0}% taken out", account.taken_out_percent()),
        None => String::new(),
    };
    let paused = if state.paused { "PAUSED  " } else { "" };
    // What must be seen comes first: a narrow terminal cuts the title.
    Line::from(vec![
        Span::raw(format!("{paused}gc {share:.1}%  ")),
        lost,
        full,
        Span::raw(format!(
            "  {:.0} s{idle}{tracer}  {}  {}  ",
            account.wall_ns as f64 / 1e9,
            many(state.processes() as u64, "process", "processes"),
            many(state.rows().len() as u64, "function", "functions"),
        )),
        Span::raw(Foreign::new(&state.title).to_string()),
        Span::raw(match &state.only {
            Some(only) => format!(", only {}", Foreign::new(only)),
            None => String::new(),
        }),
    ])
}

/// Columns of numbers by their position in [`hot::numbers`], those first that a narrow terminal goes without.
const DISPENSABLE: [usize; 11] = [1, 7, 6, 5, 4, 3, 0, 10, 9, 8, 2];
/// Room that functions and files have if they need it, as long as there are numbers to go without:
/// `…ManagerClass.some_method  …/manager.py:123`.
const NAMES: usize = 46;
/// Room that files have at least, where functions would take it.
const FILES: usize = 16;

/// The columns of numbers for which there is room beside the names of these rows, with their positions. That by which rows are
/// sorted is one of them.
fn columns<'a>(
    state: &State,
    width: u16,
    rows: impl Iterator<Item = &'a Function>,
) -> Vec<(usize, &'static Number)> {
    let names = rows.map(|row| {
        let (function, place) = hot::name(row);
        function.chars().count() + 2 + place.chars().count()
    });
    let names = NAMES
        .min(names.max().unwrap_or(0))
        .max("FUNCTION  FILE".len());
    let mut columns: Vec<_> = hot::numbers(state.account()).iter().enumerate().collect();
    let process = match state.is_merged() {
        true => 0,
        false => hot::PROCESS + 1,
    };
    for dispensable in DISPENSABLE {
        let taken: usize = columns.iter().map(|(_, number)| number.width + 1).sum();
        if taken + process + 1 + names <= usize::from(width) {
            break;
        }
        columns.retain(|(at, number)| *at != dispensable || number.column == state.sort);
    }
    columns
}

fn heading(state: &State, columns: &[(usize, &'static Number)]) -> Line<'static> {
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    let chosen = reversed.add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
    let style = |column: Column| {
        if column == state.sort {
            chosen
        } else {
            reversed
        }
    };
    let mut spans = Vec::new();
    for (_, number) in columns {
        let (title, width) = (number.title(state.account()), number.width);
        spans.push(Span::styled(
            format!("{title:>width$}"),
            style(number.column),
        ));
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

fn row_line(
    row: &Function,
    state: &State,
    columns: &[(usize, &'static Number)],
    width: u16,
) -> Line<'static> {
    let mut numbers = String::new();
    let cells = hot::cells(row, state.account());
    for (at, Number { width, .. }) in columns {
        if let Some(cell) = cells.get(*at) {
            numbers.push_str(&format!("{cell:>width$} "));
        }
    }
    if !state.is_merged() {
        let width = hot::PROCESS;
        numbers.push_str(&format!("{:>width$} ", hot::process(row)));
    }
    let (function, place) = hot::name(row);
    let room = usize::from(width).saturating_sub(numbers.chars().count() + 1);
    let for_place = FILES.min(place.chars().count()) + 2;
    let function = end_of(&function, room.saturating_sub(for_place));
    let place = ending(&place, room.saturating_sub(function.chars().count() + 2));
    Line::from(vec![
        Span::raw(format!("{numbers} ")),
        Span::styled(function, Style::new().add_modifier(Modifier::BOLD)),
        Span::styled(
            format!("  {place}"),
            Style::new().add_modifier(Modifier::DIM),
        ),
    ])
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
        false => format!("  only {filter}"),
    };
    let samples = match state.has_samples {
        true => "s samples  ",
        false => "",
    };
    format!(
        "q end  {samples}h help  / filter  o sort  i idle  p pause  m pids  r reset  every {every} s{filter}"
    )
}
