//! The table on a terminal, live.

use std::io;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use crossbeam_channel::{Receiver, TryRecvError};
use ratatui::Frame;
use ratatui::crossterm::event::{poll, read};
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Clear, Paragraph};

use super::session::Session;
use super::table::{heading, headline, line};
use super::tally::{By, Snapshot};
use crate::console::Cover;
use crate::text::harmless;
use crate::top::screen::{self, Screen};
use crate::top::{Key, input};

/// How often keys are looked for.
const LOOK: Duration = Duration::from_millis(50);

/// What is shown, as keys have changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    by: By,
    idle: bool,
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
}

impl View {
    fn key(&mut self, key: Key) -> Action {
        match key {
            Key::Char('q') | Key::Interrupt => return Action::Quit,
            Key::Char('r') => return Action::Anew,
            Key::Char('b') => {
                self.by = match self.by {
                    By::Function => By::Thread,
                    By::Thread => By::Reason,
                    By::Reason => By::Waker,
                    By::Waker | By::Stack => By::Function,
                };
                self.scroll = 0;
            }
            Key::Char('i') => self.idle = !self.idle,
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Up => self.scroll = self.scroll.saturating_sub(1),
            Key::Down => self.scroll += 1,
            Key::PageUp => self.scroll = self.scroll.saturating_sub(self.page),
            Key::PageDown => self.scroll += self.page,
            Key::Home => self.scroll = 0,
            _ => {}
        }
        Action::Draw
    }
}

/// Shows a table until somebody has seen enough, the processes have ended, or something comes from `stop`.
///
/// # Errors
/// The terminal's.
pub(crate) fn show<T>(
    session: &Session,
    by: By,
    idle: bool,
    interval: Duration,
    cover: &Cover,
    stop: &Receiver<T>,
) -> io::Result<()> {
    let view = View {
        by,
        idle,
        paused: false,
        scroll: 0,
        page: 1,
    };
    screen::covered(|terminal| follow(terminal, session, view, interval, cover, stop))
}

fn follow<T>(
    terminal: &mut Screen,
    session: &Session,
    mut view: View,
    interval: Duration,
    cover: &Cover,
    stop: &Receiver<T>,
) -> io::Result<()> {
    let mut snapshot = session.snapshot();
    let (mut due, mut changed) = (Instant::now() + interval, true);
    let mut message = None;
    loop {
        if stop.try_recv().is_ok() || session.ended().try_recv() == Err(TryRecvError::Disconnected)
        {
            return Ok(());
        }
        if Instant::now() >= due {
            due = Instant::now() + interval;
            if !view.paused {
                snapshot = session.snapshot();
                changed = true;
            }
        }
        if let Some(latest) = cover.latest() {
            message = Some(latest);
            changed = true;
        }
        if changed {
            terminal.draw(|frame| draw(frame, &snapshot, &mut view, message.as_deref()))?;
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
        match view.key(key) {
            Action::Draw => {}
            Action::Quit => return Ok(()),
            Action::Anew => {
                session.anew();
                snapshot = session.snapshot();
            }
        }
    }
}

fn draw(frame: &mut Frame<'_>, snapshot: &Snapshot, view: &mut View, message: Option<&str>) {
    let area = frame.area();
    let rows = snapshot.rows(view.by, view.idle);
    view.page = usize::from(area.height).saturating_sub(3).max(1);
    view.scroll = view.scroll.min(rows.rows.len().saturating_sub(1));
    let paused = if view.paused { "PAUSED  " } else { "" };
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    let wide = usize::from(area.width);
    let mut lines = vec![
        Line::raw(format!("{paused}{}", headline(snapshot, &rows))),
        Line::styled(format!("{:wide$}", heading()), reversed),
    ];
    let shown = rows.rows.iter().skip(view.scroll).take(view.page);
    lines.extend(shown.map(|row| Line::raw(line(snapshot, row, rows.blocked_ns, view.by))));
    frame.render_widget(Paragraph::new(lines), area);
    if area.height > 1 {
        let last = Rect {
            y: area.y + area.height - 1,
            height: 1,
            ..area
        };
        let footer = match message {
            Some(message) => harmless(message).replace('\n', "; "),
            None => {
                let by = view.by.to_possible_value();
                let by = by.as_ref().map_or("", |it| it.get_name());
                format!(
                    "q end  b by ({by})  i idleness  p pause  r count anew  ~ estimated in part"
                )
            }
        };
        frame.render_widget(Clear, last);
        frame.render_widget(Paragraph::new(footer), last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_change_what_is_shown() {
        let mut view = View {
            by: By::Function,
            idle: false,
            paused: false,
            scroll: 0,
            page: 5,
        };
        let mut seen = Vec::new();
        for _ in 0..4 {
            view.key(Key::Char('b'));
            seen.push(view.by);
        }
        assert_eq!(seen, [By::Thread, By::Reason, By::Waker, By::Function]);
        view.key(Key::Char('i'));
        view.key(Key::PageDown);
        view.key(Key::Up);
        assert!(view.idle);
        assert_eq!(view.scroll, 4);
        assert_eq!(view.key(Key::Char('q')), Action::Quit);
        assert_eq!(view.key(Key::Char('r')), Action::Anew);
    }
}
