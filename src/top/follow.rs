//! A table on a terminal that is brought up to date from time to time and listens to keys, whatever it is about.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use ratatui::Frame;
use ratatui::crossterm::event::{poll, read};
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Clear, Paragraph};

use super::{Key, input, screen};
use crate::console::Cover;
use crate::text::harmless;

/// How often keys are looked for.
const LOOK: Duration = Duration::from_millis(50);

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

    /// The lines above it, the names of its columns, and how many rows it has.
    fn head(&self) -> (String, String, usize);

    /// These rows, as far as there are so many.
    fn lines(&self, from: usize, most: usize) -> Vec<String>;

    /// What keys do, for the last line.
    fn keys(&self) -> String;
}

/// Where in a table somebody looks, as keys have changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    paused: bool,
    scroll: usize,
    /// Lines of the table that fit.
    page: usize,
}

/// What a key asks of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Draw,
    Quit,
    Anew,
    Other(Key),
}

impl View {
    fn key(&mut self, key: Key) -> Action {
        match key {
            Key::Char('q') | Key::Interrupt => return Action::Quit,
            Key::Char('r') => return Action::Anew,
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Up => self.scroll = self.scroll.saturating_sub(1),
            Key::Down => self.scroll += 1,
            Key::PageUp => self.scroll = self.scroll.saturating_sub(self.page),
            Key::PageDown => self.scroll += self.page,
            Key::Home => self.scroll = 0,
            other => return Action::Other(other),
        }
        Action::Draw
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
        let mut view = View {
            paused: false,
            scroll: 0,
            page: 1,
        };
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
                terminal.draw(|frame| draw(frame, table, &mut view, message.as_deref()))?;
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
            let action = match table.takes_text() && key != Key::Interrupt {
                true => Action::Other(key),
                false => view.key(key),
            };
            match action {
                Action::Draw => {}
                Action::Quit => return Ok(()),
                Action::Anew => {
                    table.anew();
                    table.refresh();
                }
                Action::Other(key) => {
                    table.key(key);
                    if table.is_left() {
                        return Ok(());
                    }
                    let (_, _, rows) = table.head();
                    view.scroll = view.scroll.min(rows.saturating_sub(1));
                }
            }
        }
    })
}

fn draw(frame: &mut Frame<'_>, table: &impl Table, view: &mut View, message: Option<&str>) {
    let area = frame.area();
    let (headlines, heading, rows) = table.head();
    let above = headlines.lines().count();
    view.page = usize::from(area.height).saturating_sub(above + 2).max(1);
    view.scroll = view.scroll.min(rows.saturating_sub(1));
    let paused = if view.paused { "PAUSED  " } else { "" };
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    let wide = usize::from(area.width);
    let headlines = format!("{paused}{headlines}");
    let mut lines: Vec<Line> = headlines.lines().map(Line::raw).collect();
    lines.push(Line::styled(format!("{heading:wide$}"), reversed));
    let shown = table.lines(view.scroll, view.page);
    lines.extend(shown.into_iter().map(Line::raw));
    frame.render_widget(Paragraph::new(lines), area);
    if area.height > 1 {
        let last = Rect {
            y: area.y + area.height - 1,
            height: 1,
            ..area
        };
        let footer = match message {
            Some(message) => harmless(message).replace('\n', "; "),
            None => table.keys(),
        };
        frame.render_widget(Clear, last);
        frame.render_widget(Paragraph::new(footer), last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_change_where_one_looks_and_others_are_handed_on() {
        let mut view = View {
            paused: false,
            scroll: 0,
            page: 5,
        };
        view.key(Key::PageDown);
        view.key(Key::Up);
        assert_eq!(view.scroll, 4);
        view.key(Key::Char(' '));
        assert!(view.paused);
        assert_eq!(view.key(Key::Char('q')), Action::Quit);
        assert_eq!(view.key(Key::Char('r')), Action::Anew);
        assert_eq!(view.key(Key::Char('b')), Action::Other(Key::Char('b')));
    }
}
