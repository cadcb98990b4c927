//! The table on a terminal, live.

use std::io;
use std::time::Duration;

use clap::ValueEnum;
use crossbeam_channel::Receiver;

use super::session::Session;
use super::table::{heading, headline, line};
use super::tally::{By, Row, Snapshot};
use crate::console::Cover;
use crate::top::Key;
use crate::top::follow::{Table, follow};

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

impl Table for Calls<'_> {
    fn refresh(&mut self) {
        self.snapshot = self.session.snapshot();
        self.rows = self.snapshot.rows(self.by);
    }

    fn anew(&mut self) {
        self.session.anew();
    }

    fn key(&mut self, key: Key) {
        if key == Key::Char('b') {
            self.by = next(self.by);
            self.rows = self.snapshot.rows(self.by);
        }
    }

    fn head(&self) -> (String, String, usize) {
        (headline(&self.snapshot), heading(), self.rows.len())
    }

    fn lines(&self, from: usize, most: usize) -> Vec<String> {
        let rows = self.rows.iter().skip(from).take(most);
        rows.map(|row| line(&self.snapshot, row, self.by)).collect()
    }

    fn keys(&self) -> String {
        let by = self.by.to_possible_value();
        let by = by.as_ref().map_or("", |it| it.get_name());
        format!("q end  b by ({by})  p pause  r count anew  ~ estimated in part")
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
