//! The table on a terminal, live.

use std::io;
use std::time::Duration;

use clap::ValueEnum;
use crossbeam_channel::Receiver;
use ratatui::text::Line;

use super::session::Session;
use super::table::{heading, headline, line};
use super::tally::{By, Row, Snapshot};
use crate::console::Cover;
use crate::top::follow::{Paper, Table, follow};
use crate::top::help::Entry;
use crate::top::look::Look;
use crate::top::{Binding, Key, command};

struct Calls<'a> {
    session: &'a Session,
    by: By,
    snapshot: Snapshot,
    rows: Vec<Row>,
}

/// Shows a table until somebody has seen enough, the processes have ended, or something comes from `stop`.
///
/// # Errors
/// The terminal's.
pub(crate) fn show<T>(
    session: &Session,
    by: By,
    interval: Duration,
    cover: &Cover,
    stop: &Receiver<T>,
) -> io::Result<()> {
    let snapshot = session.snapshot();
    let mut calls = Calls {
        session,
        by,
        rows: snapshot.rows(by),
        snapshot,
    };
    follow(&mut calls, interval, cover, session.ended(), stop)
}

/// What comes after this when `b` is pressed.
fn next(by: By) -> By {
    match by {
        By::Function => By::Syscall,
        By::Syscall => By::Thread,
        By::Thread | By::Stack => By::Function,
    }
}

/// The key of this table.
const KEYS: &[Binding<()>] = &[Binding {
    keys: &[Key::Char('b')],
    shown: "b",
    does: "by function, system call or thread",
    command: (),
}];

impl Table for Calls<'_> {
    fn refresh(&mut self) {
        self.snapshot = self.session.snapshot();
        self.rows = self.snapshot.rows(self.by);
    }

    fn anew(&mut self) {
        self.session.anew();
    }

    fn key(&mut self, key: Key) {
        if command(KEYS, key).is_some() {
            self.by = next(self.by);
            self.rows = self.snapshot.rows(self.by);
        }
    }

    fn head(&self) -> (String, usize) {
        (headline(&self.snapshot), self.rows.len())
    }

    fn lines(
        &self,
        from: usize,
        most: usize,
        _selected: Option<u64>,
        _paper: Paper,
    ) -> (String, Vec<Line<'static>>) {
        let rows = self.rows.iter().skip(from).take(most);
        let lines = rows.map(|row| Line::raw(line(&self.snapshot, row, self.by)));
        (heading(), lines.collect())
    }

    fn keys(&self) -> String {
        let by = self.by.to_possible_value();
        let by = by.as_ref().map_or("", |it| it.get_name());
        format!("q end  ? help  b by ({by})  p pause  r count anew  ~ estimated in part")
    }

    fn help(&self, _look: Look) -> Vec<Entry> {
        Entry::of_keys(KEYS).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_through_the_groupings() {
        let mut by = By::Stack;
        let seen: Vec<By> = std::iter::repeat_with(|| {
            by = next(by);
            by
        })
        .take(4)
        .collect();
        assert_eq!(seen, [By::Function, By::Syscall, By::Thread, By::Function]);
    }
}
