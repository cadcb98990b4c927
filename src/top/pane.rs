//! Who called the selected function and whom it called, below or instead of a table.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph};

use super::fitting;
use super::look::Look;

/// Lines of a table that are worth to be seen above it.
const TABLE: usize = 4;
/// Lines of a pane that are worth to be seen.
const LEAST: usize = 5;
/// With fewer lines, lists have no headings.
const HEADINGS: usize = 4;
/// Widths of its columns of numbers: count, time, share.
const WIDTHS: [usize; 3] = [9, 8, 5];

/// A caller or callee, in words.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Relative {
    /// Its name.
    pub(crate) function: String,
    /// Its file.
    pub(crate) file: String,
    /// Calls, or samples.
    pub(crate) count: String,
    /// Time of these calls.
    pub(crate) time: String,
    /// Of the function's own cumulative time, in percent.
    pub(crate) share: f64,
}

/// See the head of the module.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pane {
    /// The function, and its file.
    pub(crate) of: (String, String),
    /// What `count` is of relatives.
    pub(crate) counted: &'static str,
    /// Whether times are estimates.
    pub(crate) estimated: bool,
    /// Who called it, those with most time first, and whom it called; or why that is not known.
    pub(crate) relatives: Result<(Vec<Relative>, Vec<Relative>), &'static str>,
    /// What else is to be known of them.
    pub(crate) note: Option<String>,
}

/// How many lines a pane takes of so many that a table and its heading would have. All of them where there are few.
pub(crate) fn height(lines: usize) -> usize {
    let half = lines / 2;
    match half >= LEAST && lines - half >= TABLE {
        true => half,
        false => lines,
    }
}

impl Pane {
    /// Draws it into this part of the screen.
    pub(crate) fn draw(&self, frame: &mut Frame<'_>, area: Rect, look: Look) {
        let wide = usize::from(area.width);
        let mut lines = vec![self.title(wide)];
        let room = usize::from(area.height).saturating_sub(lines.len());
        match &self.relatives {
            Ok((callers, callees)) => {
                lines.extend(self.lists(callers, callees, (wide, room), look));
            }
            Err(why) => lines.extend(wrapped(why, wide).into_iter().map(Line::raw)),
        }
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(lines), area);
    }

    /// Both lists in so many columns and lines.
    fn lists(
        &self,
        callers: &[Relative],
        callees: &[Relative],
        (wide, room): (usize, usize),
        look: Look,
    ) -> Vec<Line<'static>> {
        let note = usize::from(self.note.is_some());
        let has_headings = room >= HEADINGS;
        let taken = match has_headings {
            true => 2 + note,
            false => 0,
        };
        let rows = room.saturating_sub(taken);
        let for_callers = share_out(rows, callers.len(), callees.len());
        let parts = [
            ("CALLED BY", "by ", callers, for_callers),
            ("CALLS", "calls ", callees, rows - for_callers),
        ];
        let mut lines = Vec::new();
        for (heading, word, relatives, room) in parts {
            let word = if has_headings { "" } else { word };
            if has_headings {
                lines.push(self.heading(heading, relatives.len(), room, wide));
            }
            let shown = relatives.iter().take(room);
            lines.extend(shown.map(|it| self.line(word, it, wide, look)));
        }
        if has_headings {
            lines.extend(self.note.iter().cloned().map(Line::raw));
        }
        lines
    }

    fn title(&self, wide: usize) -> Line<'static> {
        let (function, file) = fitting::names(&self.of.0, &self.of.1, wide.saturating_sub(1));
        let title = format!(" {function}  {file}");
        let reversed = Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD);
        Line::styled(format!("{title:<wide$}"), reversed)
    }

    fn heading(&self, what: &str, all: usize, shown: usize, wide: usize) -> Line<'static> {
        let (counted, time) = (self.counted, if self.estimated { "~TIME" } else { "TIME" });
        let missing = match all > shown {
            true => format!(" ({shown} of {all})"),
            false if all == 0 => " (nobody that was seen)".to_owned(),
            false => String::new(),
        };
        let titles = [counted, time, "%"];
        let mut line = String::new();
        for (title, width) in titles.into_iter().zip(WIDTHS).skip(left_out(wide)) {
            line.push_str(&format!("{title:>width$} "));
        }
        let line = format!("{line} {what}{missing}");
        Line::styled(line, Style::new().add_modifier(Modifier::UNDERLINED))
    }

    fn line(&self, word: &'static str, of: &Relative, wide: usize, look: Look) -> Line<'static> {
        let estimate = match self.estimated {
            true => look.estimate(),
            false => Style::new(),
        };
        let percent = format!("{:.1}", of.share);
        let cells = [
            (of.count.as_str(), Style::new()),
            (of.time.as_str(), estimate),
            (percent.as_str(), look.share(of.share)),
        ];
        let mut spans = Vec::new();
        for ((cell, style), width) in cells.into_iter().zip(WIDTHS).skip(left_out(wide)) {
            spans.push(Span::styled(format!("{cell:>width$}"), style));
            spans.push(Span::raw(" "));
        }
        spans.push(Span::raw(format!(" {word}")));
        let taken: usize = spans.iter().map(Span::width).sum();
        let room = wide.saturating_sub(taken);
        let (function, file) = fitting::names(&of.function, &of.file, room);
        let (bold, dim) = (Modifier::BOLD, Modifier::DIM);
        spans.push(Span::styled(function, Style::new().add_modifier(bold)));
        spans.push(Span::styled(
            format!("  {file}"),
            Style::new().add_modifier(dim),
        ));
        Line::from(spans)
    }
}

/// How many columns of numbers a terminal of this width goes without.
fn left_out(wide: usize) -> usize {
    match wide {
        60.. => 0,
        40.. => 1,
        30.. => 2,
        _ => 3,
    }
}

/// How many of these lines the first of two lists has: half of them, and what the other leaves.
fn share_out(lines: usize, first: usize, second: usize) -> usize {
    let half = lines.div_ceil(2);
    first.min(half.max(lines.saturating_sub(second)))
}

/// Lines of a text of whole words.
fn wrapped(text: &str, wide: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= wide => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pane_takes_half_of_a_screen_and_all_of_a_small_one() {
        assert_eq!([22, 10, 9, 3, 0].map(height), [11, 5, 9, 3, 0]);
    }

    #[test]
    fn each_list_has_half_of_the_lines_and_what_the_other_leaves() {
        assert_eq!(share_out(8, 20, 20), 4);
        assert_eq!(share_out(8, 20, 1), 7);
        assert_eq!(share_out(8, 1, 20), 1);
        assert_eq!(share_out(7, 20, 20), 4);
        assert_eq!(share_out(0, 3, 3), 0);
    }

    #[test]
    fn a_reason_is_shown_in_whole_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("", 7), Vec::<String>::new());
    }
}
