//! The table on a terminal, live.

use std::io;
use std::time::Duration;

use clap::ValueEnum;
use crossbeam_channel::Receiver;
use ratatui::text::Line;

use super::source::Source;
use super::table::{heading, headline, line};
use super::tally::{By, Rows, Snapshot};
use crate::console::Cover;
use crate::top::follow::{Paper, Table, follow};
use crate::top::help::Entry;
use crate::top::look::Look;
use crate::top::{Binding, Key, command};

/// What is shown, as keys have changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct View {
    by: By,
    idle: bool,
}

/// What a key changes.
#[derive(Debug, Clone, Copy)]
enum Command {
    By,
    Idle,
}

/// The keys of this table.
const KEYS: &[Binding<Command>] = &[
    Binding {
        keys: &[Key::Char('b')],
        shown: "b",
        does: "by function, thread, reason, or who ended the wait",
        command: Command::By,
    },
    Binding {
        keys: &[Key::Char('i')],
        shown: "i",
        does: "with or without time in which threads wait for work",
        command: Command::Idle,
    },
];

impl View {
    fn key(&mut self, key: Key) {
        match command(KEYS, key) {
            Some(Command::By) => {
                self.by = match self.by {
                    By::Function => By::Thread,
                    By::Thread => By::Reason,
                    By::Reason => By::Waker,
                    By::Waker | By::Stack => By::Function,
                };
            }
            Some(Command::Idle) => self.idle = !self.idle,
            None => {}
        }
    }
}

struct Waits<'a> {
    session: &'a dyn Source,
    view: View,
    snapshot: Snapshot,
    rows: Rows,
}

/// Shows a table until somebody has seen enough, the processes have ended, or something comes from `stop`.
///
/// # Errors
/// The terminal's.
pub(crate) fn show<T>(
    session: &dyn Source,
    by: By,
    idle: bool,
    interval: Duration,
    cover: &Cover,
    stop: &Receiver<T>,
) -> io::Result<()> {
    let snapshot = session.snapshot();
    let mut waits = Waits {
        session,
        view: View { by, idle },
        rows: snapshot.rows(by, idle),
        snapshot,
    };
    follow(&mut waits, interval, cover, session.ended(), stop)
}

impl Table for Waits<'_> {
    fn refresh(&mut self) {
        self.snapshot = self.session.snapshot();
        self.rows = self.snapshot.rows(self.view.by, self.view.idle);
    }

    fn anew(&mut self) {
        self.session.anew();
    }

    fn key(&mut self, key: Key) {
        self.view.key(key);
        self.rows = self.snapshot.rows(self.view.by, self.view.idle);
    }

    fn head(&self) -> (String, usize) {
        let headline = headline(&self.snapshot, &self.rows);
        (headline, self.rows.rows.len())
    }

    fn lines(
        &self,
        from: usize,
        most: usize,
        _selected: Option<u64>,
        _paper: Paper,
    ) -> (String, Vec<Line<'static>>) {
        let (all, by) = (self.rows.blocked_ns, self.view.by);
        let rows = self.rows.rows.iter().skip(from).take(most);
        let lines = rows.map(|row| Line::raw(line(&self.snapshot, row, all, by)));
        (heading(), lines.collect())
    }

    fn keys(&self) -> String {
        let by = self.view.by.to_possible_value();
        let by = by.as_ref().map_or("", |it| it.get_name());
        // Without looks nothing is an estimate.
        let estimates = match self.snapshot.gap_ns {
            0 => "",
            _ => "  ~ estimated in part",
        };
        format!("q end  ? help  b by ({by})  i idleness  p pause  r count anew{estimates}")
    }

    fn help(&self, _look: Look) -> Vec<Entry> {
        Entry::of_keys(KEYS).collect()
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
        };
        let mut seen = Vec::new();
        for _ in 0..4 {
            view.key(Key::Char('b'));
            seen.push(view.by);
        }
        assert_eq!(seen, [By::Thread, By::Reason, By::Waker, By::Function]);
        view.key(Key::Char('i'));
        assert!(view.idle);
    }
}
