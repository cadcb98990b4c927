//! The table on a terminal, live.

use std::io;
use std::time::Duration;

use clap::ValueEnum;
use crossbeam_channel::Receiver;

use super::source::Source;
use super::table::{heading, headline, line};
use super::tally::{By, Rows, Snapshot};
use crate::console::Cover;
use crate::top::Key;
use crate::top::follow::{Table, follow};

/// What is shown, as keys have changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct View {
    by: By,
    idle: bool,
}

impl View {
    fn key(&mut self, key: Key) {
        match key {
            Key::Char('b') => {
                self.by = match self.by {
                    By::Function => By::Thread,
                    By::Thread => By::Reason,
                    By::Reason => By::Waker,
                    By::Waker | By::Stack => By::Function,
                };
            }
            Key::Char('i') => self.idle = !self.idle,
            _ => {}
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

    fn head(&self) -> (String, String, usize) {
        let headline = headline(&self.snapshot, &self.rows);
        (headline, heading(), self.rows.rows.len())
    }

    fn lines(&self, from: usize, most: usize) -> Vec<String> {
        let rows = self.rows.rows.iter().skip(from).take(most);
        rows.map(|row| line(&self.snapshot, row, self.rows.blocked_ns, self.view.by))
            .collect()
    }

    fn keys(&self) -> String {
        let by = self.view.by.to_possible_value();
        let by = by.as_ref().map_or("", |it| it.get_name());
        // Without looks nothing is an estimate.
        let estimates = match self.snapshot.gap_ns {
            0 => "",
            _ => "  ~ estimated in part",
        };
        format!("q end  b by ({by})  i idleness  p pause  r count anew{estimates}")
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
