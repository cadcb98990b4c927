//! What is shown: the last snapshot, sorted and filtered as the user wants it. Changes by snapshots and keys only.

use super::{Key, Snapshot, Typed};
use crate::analysis::functions::Function;
use crate::view::hot::{self, Column, TableAccount};

/// What a key asks of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing but to draw again.
    Draw,
    /// To end.
    Quit,
    /// To count anew.
    Reset,
    /// To take snapshots at the interval that the state has now.
    Pace,
    /// To write the table as it is shown to a file.
    Export,
    /// To go to samples.
    Samples,
}

/// Intervals between snapshots to choose from, in milliseconds.
const INTERVALS: [u64; 8] = [100, 250, 500, 1_000, 2_000, 5_000, 10_000, 60_000];

/// See the head of the module.
#[derive(Debug, Clone)]
pub struct State {
    /// What is traced, for the first line.
    pub title: String,
    /// Whether there are samples to go to.
    pub(crate) has_samples: bool,
    /// Which functions are traced, in words, where not all are.
    pub only: Option<String>,
    /// Idleness is shown.
    pub idle: bool,
    pub(super) sort: Column,
    pub(super) reversed: bool,
    pub(super) filter: Typed,
    pub(super) paused: bool,
    pub(super) merged: bool,
    pub(super) help: bool,
    /// The first line of the table that is shown.
    pub(super) scroll: usize,
    /// Lines of the table that fit, as drawn last.
    pub(super) page: usize,
    /// What to say once.
    pub(super) message: Option<String>,
    interval: usize,
    snapshot: Snapshot,
    /// The rows of the snapshot by function, when they are shown so and are not the same.
    by_function: Option<Vec<Function>>,
    /// Positions of the rows that are shown.
    order: Vec<usize>,
}

impl State {
    /// An empty table.
    pub fn new(title: impl Into<String>, sort: Column, interval_ms: u64) -> State {
        let nearest = INTERVALS
            .iter()
            .position(|&interval| interval >= interval_ms)
            .unwrap_or(INTERVALS.len() - 1);
        State {
            title: title.into(),
            has_samples: false,
            only: None,
            idle: false,
            sort,
            reversed: false,
            filter: Typed::default(),
            paused: false,
            merged: true,
            help: false,
            scroll: 0,
            page: 10,
            message: None,
            interval: nearest,
            snapshot: Snapshot::default(),
            by_function: None,
            order: Vec::new(),
        }
    }

    /// The same without anything to show yet.
    pub(crate) fn anew(&self) -> State {
        State {
            has_samples: self.has_samples,
            only: self.only.clone(),
            idle: self.idle,
            reversed: self.reversed,
            filter: Typed {
                typing: false,
                ..self.filter.clone()
            },
            merged: self.merged,
            ..State::new(self.title.clone(), self.sort, self.interval_ms())
        }
    }

    /// Shows a new snapshot, unless the table is paused.
    pub fn show(&mut self, snapshot: Snapshot) {
        if !self.paused {
            self.snapshot = snapshot;
            self.snapshot.account.with_idle = self.idle;
            self.merge();
        }
    }

    /// The rows in their order, those that the filter leaves.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &Function> {
        let all = self.all();
        self.order.iter().map(|&at| &all[at])
    }

    fn all(&self) -> &[Function] {
        match &self.by_function {
            Some(rows) => rows,
            None => self.snapshot.functions.rows(),
        }
    }

    /// What the table was measured over.
    pub fn account(&self) -> &TableAccount {
        &self.snapshot.account
    }

    /// Processes that are traced.
    pub fn processes(&self) -> usize {
        self.snapshot.processes
    }

    /// Whether rows of several processes are one.
    pub fn is_merged(&self) -> bool {
        self.merged
    }

    /// Milliseconds between snapshots.
    pub fn interval_ms(&self) -> u64 {
        INTERVALS.get(self.interval).copied().unwrap_or(1_000)
    }

    /// Says something in the last line until the next key.
    pub fn say(&mut self, message: impl Into<String>) {
        self.message = Some(message.into());
    }

    /// Follows a key.
    pub fn key(&mut self, key: Key) -> Action {
        self.message = None;
        if key == Key::Interrupt {
            return Action::Quit;
        }
        if self.filter.typing {
            return self.type_filter(key);
        }
        if self.help {
            self.help = false;
            return Action::Draw;
        }
        let last = self.order.len().saturating_sub(1);
        match key {
            Key::Char('q') => return Action::Quit,
            Key::Char('r') => return Action::Reset,
            Key::Char('w') => return Action::Export,
            Key::Char('h' | '?') => self.help = true,
            Key::Char('/' | 'f') => self.filter.typing = true,
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Char('m') => {
                self.merged = !self.merged;
                self.merge();
            }
            Key::Char('i') => {
                self.idle = !self.idle;
                self.snapshot.account.with_idle = self.idle;
                self.arrange();
            }
            Key::Char('R') => {
                self.reversed = !self.reversed;
                self.arrange();
            }
            Key::Char('+') => {
                self.interval = self.interval.saturating_sub(1);
                return Action::Pace;
            }
            Key::Char('-') => {
                self.interval = (self.interval + 1).min(INTERVALS.len() - 1);
                return Action::Pace;
            }
            Key::Char('s') if self.has_samples => return Action::Samples,
            Key::Char('s') => self.say("a recording is over, so there is nothing to be sampled"),
            Key::Char('o') | Key::Right => self.sort_by(1),
            Key::Left => self.sort_by(Column::of(self.account()).count() - 1),
            Key::Char(digit @ '1'..='9') => {
                let index = digit as usize - '1' as usize;
                if let Some(column) = Column::of(self.account()).nth(index) {
                    self.sort = column;
                    self.arrange();
                }
            }
            Key::Escape => {
                self.filter.text.clear();
                self.arrange();
            }
            Key::Up => self.scroll = self.scroll.saturating_sub(1),
            Key::Down => self.scroll = (self.scroll + 1).min(last),
            Key::PageUp => self.scroll = self.scroll.saturating_sub(self.page),
            Key::PageDown => self.scroll = (self.scroll + self.page).min(last),
            Key::Home => self.scroll = 0,
            Key::End => self.scroll = (last + 1).saturating_sub(self.page),
            _ => {}
        }
        Action::Draw
    }

    fn type_filter(&mut self, key: Key) -> Action {
        self.filter.key(key);
        self.scroll = 0;
        self.arrange();
        Action::Draw
    }

    fn sort_by(&mut self, steps: usize) {
        let columns = Column::of(self.account());
        let at = columns.clone().position(|it| it == self.sort);
        let next = (at.unwrap_or(0) + steps) % columns.clone().count();
        if let Some(column) = columns.clone().nth(next) {
            self.sort = column;
            self.arrange();
        }
    }

    fn merge(&mut self) {
        let functions = &self.snapshot.functions;
        let differ = self.merged && !functions.of_one_process();
        self.by_function = differ.then(|| functions.merged());
        self.arrange();
    }

    fn arrange(&mut self) {
        let wanted = |row: &Function| hot::matches(row, &self.filter.text);
        self.order = hot::order(self.all(), self.account(), self.sort, self.reversed, wanted);
        self.scroll = self.scroll.min(self.order.len().saturating_sub(1));
    }
}
