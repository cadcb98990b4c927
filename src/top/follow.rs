//! A table on a terminal that is brought up to date from time to time and listens to keys, whatever it is about.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use ratatui::Frame;
use ratatui::crossterm::event::{poll, read};
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use super::help::{Entry, Help};
use super::key::{Binding, bind, command};
use super::look::Look;
use super::pane::{self, Pane};
use super::state::{Step, in_sight};
use super::{Key, fitting, input, screen};
use crate::console::Cover;
use crate::text::harmless;

/// How often keys are looked for.
const LOOK: Duration = Duration::from_millis(50);

/// What there is to draw on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paper {
    /// Columns of the terminal.
    pub(crate) wide: usize,
    /// What it can show.
    pub(crate) look: Look,
}

/// What is shown.
pub(crate) trait Table {
    /// Brings it up to date.
    fn refresh(&mut self);

    /// Counts anew.
    fn anew(&mut self);

    /// A key that has no meaning for every table.
    fn key(&mut self, key: Key);

    /// Whether keys are text at the moment, whatever else they mean.
    fn takes_text(&self) -> bool {
        false
    }

    /// Whether something else is to be shown.
    fn is_left(&self) -> bool {
        false
    }

    /// The lines above it, and how many rows it has.
    fn head(&self) -> (String, usize);

    /// The names of its columns, and the rows from this one on, so many at most, as far as there are so many; the one of this
    /// number is selected.
    fn lines(
        &self,
        from: usize,
        most: usize,
        selected: Option<u64>,
        paper: Paper,
    ) -> (String, Vec<Line<'static>>);

    /// The number that a row keeps, wherever it moves; `None` where rows cannot be selected.
    fn id(&self, _row: usize) -> Option<u64> {
        None
    }

    /// Whether rows have callers and callees.
    fn has_relatives(&self) -> bool {
        false
    }

    /// Callers and callees of a row.
    fn relatives(&self, _row: usize) -> Option<Pane> {
        None
    }

    /// What its own keys do, for the last line.
    fn keys(&self) -> String;

    /// The same in full, and what marks and colours mean, for help.
    fn help(&self, look: Look) -> Vec<Entry>;
}

/// Where in a table somebody looks, as keys have changed it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct View {
    paused: bool,
    scroll: usize,
    /// Lines of the table that fit.
    page: usize,
    /// The number of the row that is selected.
    selected: Option<u64>,
    relatives: bool,
    help: Help,
}

/// What a key changes, or asks of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Quit,
    Anew,
    Pause,
    Help,
    Relatives,
    Select(Step),
}

/// The keys of every table. Those that move scroll where nothing can be selected.
const KEYS: &[Binding<Action>] = {
    use Key::{Char, Down, End, Home, Interrupt, PageDown, PageUp, Up};
    &[
        bind(
            &[Up, Char('k')],
            "up, k",
            "the row above",
            Action::Select(Step::Up),
        ),
        bind(
            &[Down, Char('j')],
            "down, j",
            "the one below",
            Action::Select(Step::Down),
        ),
        bind(
            &[PageUp],
            "page up",
            "a page up",
            Action::Select(Step::PageUp),
        ),
        bind(
            &[PageDown],
            "page down",
            "a page down",
            Action::Select(Step::PageDown),
        ),
        bind(
            &[Home],
            "home",
            "the first row",
            Action::Select(Step::First),
        ),
        bind(&[End], "end", "the last row", Action::Select(Step::Last)),
        bind(&[Char('p'), Char(' ')], "p, space", "pause", Action::Pause),
        bind(&[Char('r')], "r", "count anew", Action::Anew),
        bind(&[Char('q'), Interrupt], "q, Ctrl-C", "end", Action::Quit),
        bind(&[Char('?'), Char('h')], "?, h", "this help", Action::Help),
    ]
};
/// Those of tables whose rows have callers.
const WITH_CALLERS: &[Binding<Action>] = &[bind(
    &[Key::Enter],
    "enter",
    "who called the selected function, and whom it called; again, or Esc: not",
    Action::Relatives,
)];

/// Whether a key is no table's own.
#[cfg(test)]
pub(crate) fn is_shared(key: Key) -> bool {
    command(KEYS, key).or(command(WITH_CALLERS, key)).is_some()
}

impl View {
    /// What a key does that is none of the table's own.
    fn action(&self, key: Key, table: &impl Table) -> Option<Action> {
        command(KEYS, key).or_else(|| command(WITH_CALLERS, key).filter(|_| table.has_relatives()))
    }

    /// Where the selected row is.
    fn selected_at(&self, table: &impl Table) -> Option<usize> {
        let selected = self.selected?;
        let (_, rows) = table.head();
        (0..rows).find(|&row| table.id(row) == Some(selected))
    }

    /// Follows what moves.
    fn select(&mut self, step: Step, table: &impl Table) {
        let (_, rows) = table.head();
        if table.id(0).is_none() {
            self.scroll = step.from(Some(self.scroll), self.scroll, self.page, rows);
            return;
        }
        let at = step.from(self.selected_at(table), self.scroll, self.page, rows);
        self.selected = table.id(at);
        self.show_selected(rows, table);
    }

    /// Scrolls to what is selected.
    fn show_selected(&mut self, rows: usize, table: &impl Table) {
        self.scroll = self.scroll.min(rows.saturating_sub(1));
        if let Some(at) = self.selected_at(table) {
            self.scroll = in_sight(at, self.scroll, self.page);
        }
    }
}

/// Shows a table until somebody has seen enough, what is shown has ended, or something comes from `stop`.
///
/// # Errors
/// The terminal's.
pub(crate) fn follow<T>(
    table: &mut impl Table,
    interval: Duration,
    cover: &Cover,
    ended: &Receiver<()>,
    stop: &Receiver<T>,
) -> io::Result<()> {
    screen::covered(|terminal| {
        let mut view = View::default();
        let look = Look::of_terminal();
        let (mut due, mut changed) = (Instant::now() + interval, true);
        let mut message = None;
        loop {
            if stop.try_recv().is_ok() || ended.try_recv() == Err(TryRecvError::Disconnected) {
                return Ok(());
            }
            if Instant::now() >= due {
                due = Instant::now() + interval;
                if !view.paused {
                    table.refresh();
                    changed = true;
                }
            }
            if let Some(latest) = cover.latest() {
                message = Some(latest);
                changed = true;
            }
            if changed {
                terminal.draw(|frame| draw(frame, table, &mut view, look, message.as_deref()))?;
                changed = false;
            }
            if screen::hung_up()? {
                return Ok(());
            }
            if !poll(LOOK)? {
                continue;
            }
            changed = true;
            let Some(key) = input::key(&read()?) else {
                continue;
            };
            message = None;
            if view.help.is_open() && key != Key::Interrupt {
                view.help.key(key);
                continue;
            }
            let takes_text = table.takes_text() && key != Key::Interrupt;
            let action = match takes_text {
                true => None,
                false => view.action(key, table),
            };
            match action {
                Some(Action::Quit) => return Ok(()),
                Some(Action::Anew) => {
                    table.anew();
                    table.refresh();
                }
                Some(Action::Pause) => view.paused = !view.paused,
                Some(Action::Help) => view.help.open(),
                Some(Action::Select(step)) => view.select(step, table),
                Some(Action::Relatives) => {
                    view.relatives = !view.relatives;
                    if view.relatives && view.selected_at(table).is_none() {
                        view.select(Step::Down, table);
                    }
                }
                None if key == Key::Escape && view.relatives && !takes_text => {
                    view.relatives = false;
                }
                None => {
                    table.key(key);
                    if table.is_left() {
                        return Ok(());
                    }
                }
            }
        }
    })
}

/// The lines above a table, with what does not fit on them below.
fn above_a_table(headlines: &str, paused: bool, area: Rect) -> Vec<Line<'static>> {
    let paused = if paused { "PAUSED  " } else { "" };
    let headlines = format!("{paused}{headlines}");
    // A small terminal is the table's, as far as lines that need more than one are concerned.
    let most = headlines.lines().count().max(usize::from(area.height / 4));
    let mut lines = Vec::new();
    for line in headlines.lines() {
        lines.extend(fitting::parts(line, usize::from(area.width)));
    }
    lines.truncate(most);
    lines.into_iter().map(Line::raw).collect()
}

fn draw(
    frame: &mut Frame<'_>,
    table: &impl Table,
    view: &mut View,
    look: Look,
    message: Option<&str>,
) {
    let area = frame.area();
    let (headlines, rows) = table.head();
    let paper = Paper {
        wide: usize::from(area.width),
        look,
    };
    let mut lines = above_a_table(&headlines, view.paused, area);
    let above = lines.len();
    let below = usize::from(area.height).saturating_sub(above + 1);
    let relatives = match view.relatives {
        true => view.selected_at(table).and_then(|at| table.relatives(at)),
        false => None,
    };
    let pane = relatives.as_ref().map_or(0, |_| pane::height(below));
    let room = below.saturating_sub(pane).saturating_sub(1);
    view.page = room.max(1);
    view.show_selected(rows, table);
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    let (heading, shown) = table.lines(view.scroll, view.page, view.selected, paper);
    lines.push(Line::styled(
        format!("{heading:wide$}", wide = paper.wide),
        reversed,
    ));
    lines.extend(shown);
    frame.render_widget(Paragraph::new(lines), area);
    if let Some(relatives) = relatives {
        let lower = Rect {
            y: area.y + area.height.saturating_sub(1 + pane as u16),
            height: pane as u16,
            ..area
        };
        relatives.draw(frame, lower, look);
    }
    let footer = match message {
        Some(message) => harmless(message).replace('\n', "; "),
        None => table.keys(),
    };
    fitting::draw_at_bottom(frame, &footer, message.is_some());
    if view.help.is_open() {
        let mut entries: Vec<Entry> = Entry::of_keys(KEYS).collect();
        if table.has_relatives() {
            entries.extend(Entry::of_keys(WITH_CALLERS));
        }
        entries.extend(table.help(look));
        view.help.draw(frame, &entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows by their numbers.
    struct Numbers {
        rows: Vec<u64>,
        can_select: bool,
    }

    impl Table for Numbers {
        fn refresh(&mut self) {}

        fn anew(&mut self) {}

        fn key(&mut self, _key: Key) {}

        fn head(&self) -> (String, usize) {
            ("a line".to_owned(), self.rows.len())
        }

        fn lines(
            &self,
            from: usize,
            most: usize,
            _selected: Option<u64>,
            _paper: Paper,
        ) -> (String, Vec<Line<'static>>) {
            let rows = self.rows.iter().skip(from).take(most);
            let lines = rows.map(|row| Line::raw(row.to_string()));
            ("NUMBER".to_owned(), lines.collect())
        }

        fn id(&self, row: usize) -> Option<u64> {
            self.rows.get(row).copied().filter(|_| self.can_select)
        }

        fn keys(&self) -> String {
            "b by".to_owned()
        }

        fn help(&self, _look: Look) -> Vec<Entry> {
            vec![Entry::new("b", "by something else")]
        }
    }

    fn view() -> View {
        View {
            page: 5,
            ..View::default()
        }
    }

    #[test]
    fn each_key_does_one_thing_and_others_are_the_tables_own() {
        let table = Numbers {
            rows: Vec::new(),
            can_select: false,
        };
        for binding in KEYS {
            for key in binding.keys {
                assert_eq!(view().action(*key, &table), Some(binding.command));
            }
        }
        assert_eq!(view().action(Key::Char('b'), &table), None);
        assert_eq!(
            view().action(Key::Enter, &table),
            None,
            "nobody has callers"
        );
    }

    #[test]
    fn keys_scroll_where_nothing_can_be_selected() {
        let table = Numbers {
            rows: (0..9).collect(),
            can_select: false,
        };
        let mut view = view();
        view.select(Step::PageDown, &table);
        view.select(Step::Up, &table);
        assert_eq!((view.scroll, view.selected), (4, None));
        view.select(Step::Last, &table);
        view.select(Step::Down, &table);
        assert_eq!(view.scroll, 8);
    }

    #[test]
    fn a_selected_row_stays_so_and_in_sight_wherever_it_moves() {
        let mut table = Numbers {
            rows: (10..30).collect(),
            can_select: true,
        };
        let mut view = view();
        view.select(Step::Down, &table);
        assert_eq!(view.selected, Some(10));
        view.select(Step::Down, &table);
        assert_eq!(view.selected, Some(11));
        table.rows.reverse();
        view.show_selected(20, &table);
        assert_eq!(
            (view.selected, view.selected_at(&table)),
            (Some(11), Some(18))
        );
        assert_eq!(view.scroll, 14);
        table.rows.retain(|row| *row != 11);
        view.show_selected(19, &table);
        assert_eq!(view.selected_at(&table), None);
        view.select(Step::Down, &table);
        assert_eq!(view.selected, Some(15), "the first that is shown");
    }
}
