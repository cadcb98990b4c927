//! Help that covers a live table: what keys do, what marks and colours mean. As many pages as the terminal needs; any key goes on, and
//! Escape closes it.

use std::borrow::Cow;

use ratatui::Frame;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph};

use super::fitting;
use super::key::{Binding, Key};

/// Columns for what is explained, and from how many on a terminal has them.
const NAMES: usize = 13;
const WIDE: usize = 50;

/// Something and what it means.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    name: Cow<'static, str>,
    means: Cow<'static, str>,
    style: Style,
}

impl Entry {
    /// An entry.
    pub(crate) fn new(
        name: impl Into<Cow<'static, str>>,
        means: impl Into<Cow<'static, str>>,
    ) -> Entry {
        Entry {
            name: name.into(),
            means: means.into(),
            style: Style::new(),
        }
    }

    /// Its name looks like this.
    pub(crate) fn styled(self, style: Style) -> Entry {
        Entry { style, ..self }
    }

    /// One for each of these keys.
    pub(crate) fn of_keys<C>(bindings: &'static [Binding<C>]) -> impl Iterator<Item = Entry> {
        bindings.iter().map(|it| Entry::new(it.shown, it.does))
    }

    /// The lines of it on a terminal of this width.
    fn lines(&self, wide: usize) -> Vec<Line<'static>> {
        let (name, indent) = match wide >= WIDE {
            true => (format!("{:<NAMES$}", self.name), NAMES),
            false => (format!("{}: ", self.name), 2),
        };
        let left = wide.saturating_sub(name.chars().count());
        let lines = fitting::wrapped(&self.means, left, wide.saturating_sub(indent));
        let mut lines = lines.into_iter();
        let first = lines.next().unwrap_or_default();
        let first = Line::from(vec![Span::styled(name, self.style), Span::raw(first)]);
        let lines = lines.map(|line| Line::raw(format!("{}{line}", " ".repeat(indent))));
        std::iter::once(first).chain(lines).collect()
    }
}

/// Whether help is shown, and which page of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Help {
    page: Option<usize>,
    pages: usize,
}

impl Help {
    /// Shows it.
    pub(crate) fn open(&mut self) {
        self.page = Some(0);
    }

    /// Whether it is shown.
    pub(crate) fn is_open(&self) -> bool {
        self.page.is_some()
    }

    /// Follows a key: Escape closes it, and any other goes to the next page, or to the end.
    pub(crate) fn key(&mut self, key: Key) {
        let next = self.page.map(|page| page + 1);
        self.page = next.filter(|next| *next < self.pages && key != Key::Escape);
    }

    /// Covers everything with it, if it is shown.
    pub(crate) fn draw(&mut self, frame: &mut Frame<'_>, entries: &[Entry]) {
        let Some(page) = self.page else {
            return;
        };
        let area = frame.area();
        // The last line says how it goes on; where there is but one, its text is all that fits.
        let room = usize::from(area.height).saturating_sub(1).max(1);
        let wide = usize::from(area.width);
        let all: Vec<Line<'_>> = entries.iter().flat_map(|it| it.lines(wide)).collect();
        self.pages = all.len().div_ceil(room);
        let page = page.min(self.pages.saturating_sub(1));
        self.page = Some(page);
        let shown = all.into_iter().skip(page * room).take(room);
        let mut lines: Vec<Line<'_>> = shown.collect();
        lines.push(Line::raw(match page + 1 < self.pages {
            true => format!("any key: more ({} of {}), Esc: close", page + 1, self.pages),
            false => "any key: close this help".to_owned(),
        }));
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(lines), area);
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn drawn(help: &mut Help, entries: &[Entry], width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
        let draw = terminal.draw(|frame| help.draw(frame, entries));
        draw.expect("memory");
        let buffer = terminal.backend().buffer();
        let cell = |x, y| buffer[(x, y)].symbol();
        let line = |y| (0..width).map(|x| cell(x, y)).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn what_does_not_fit_is_on_further_pages_and_every_key_goes_on() {
        let entries = [
            Entry::new("q, Ctrl-C", "end"),
            Entry::new("/", "filter: every word must be in the function"),
        ];
        let mut help = Help::default();
        help.open();
        assert_eq!(
            drawn(&mut help, &entries, 20, 4),
            [
                "q, Ctrl-C: end",
                "/: filter: every",
                "  word must be in",
                "any key: more (1 of"
            ]
        );
        help.key(Key::Char('x'));
        assert_eq!(
            drawn(&mut help, &entries, 20, 4),
            ["  the function", "any key: close this", "", ""]
        );
        help.key(Key::Char('x'));
        assert!(!help.is_open());
        help.open();
        drawn(&mut help, &entries, 20, 4);
        help.key(Key::Escape);
        assert!(!help.is_open(), "from any page");
        help.open();
        assert_eq!(
            drawn(&mut help, &entries, 80, 4),
            [
                "q, Ctrl-C    end",
                "/            filter: every word must be in the function",
                "any key: close this help",
                ""
            ]
        );
    }
}
