//! What is shown: the last snapshot, sorted and filtered as the user wants it. Changes by snapshots and keys only.

use std::hash::BuildHasher;

use super::activity::Activity;
use super::help::Help;
use super::key::{Binding, bind, command};
use super::look::Look;
use super::{Key, Snapshot, Typed};
use crate::analysis::callers::Callers;
use crate::analysis::functions::Function;
use crate::analysis::keys::KeyBuilder;
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

/// What a key changes, or asks of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Do(Action),
    Help,
    Filter,
    Pause,
    Merge,
    Idle,
    Reverse,
    Faster,
    Slower,
    Sort,
    Next,
    Previous,
    Back,
    Relatives,
    Select(Step),
}

/// Where a selection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
}

impl Step {
    /// From a row of so many, some of which fit on a page, to this one. From none it is the first of those that can be `seen`.
    pub(crate) fn from(self, at: Option<usize>, seen: usize, page: usize, rows: usize) -> usize {
        let last = rows.saturating_sub(1);
        let to = match (self, at) {
            (Step::First, _) => 0,
            (Step::Last, _) => last,
            (_, None) => seen,
            (Step::Up, Some(at)) => at.saturating_sub(1),
            (Step::Down, Some(at)) => at + 1,
            (Step::PageUp, Some(at)) => at.saturating_sub(page),
            (Step::PageDown, Some(at)) => at + page,
        };
        to.min(last)
    }
}

/// The first line that is shown, so that a row is among those that fit.
pub(crate) fn in_sight(row: usize, first: usize, page: usize) -> usize {
    first.min(row).max((row + 1).saturating_sub(page))
}

/// Every key but Ctrl-C, which ends it whatever is typed.
pub(super) const KEYS: &[Binding<Command>] = {
    use Key::{Char, Down, End, Enter, Escape, Home, Left, PageDown, PageUp, Right, Up};
    const DIGITS: &[Key] = &[
        Char('1'),
        Char('2'),
        Char('3'),
        Char('4'),
        Char('5'),
        Char('6'),
        Char('7'),
        Char('8'),
        Char('9'),
    ];
    &[
        bind(
            &[Up, Char('k')],
            "up, k",
            "select the function above",
            Command::Select(Step::Up),
        ),
        bind(
            &[Down, Char('j')],
            "down, j",
            "the one below; it stays selected wherever it moves",
            Command::Select(Step::Down),
        ),
        bind(
            &[PageUp],
            "page up",
            "a page up",
            Command::Select(Step::PageUp),
        ),
        bind(
            &[PageDown],
            "page down",
            "a page down",
            Command::Select(Step::PageDown),
        ),
        bind(
            &[Home],
            "home",
            "the first function",
            Command::Select(Step::First),
        ),
        bind(
            &[End],
            "end",
            "the last function",
            Command::Select(Step::Last),
        ),
        bind(
            &[Enter],
            "enter",
            "who called the selected function, and whom it called; again: not",
            Command::Relatives,
        ),
        bind(DIGITS, "1 to 9", "sort by that column", Command::Sort),
        bind(
            &[Char('o'), Right],
            "o, right",
            "sort by the next column",
            Command::Next,
        ),
        bind(
            &[Left],
            "left",
            "sort by the previous column",
            Command::Previous,
        ),
        bind(&[Char('R')], "R", "the other way round", Command::Reverse),
        bind(
            &[Char('/'), Char('f')],
            "/, f",
            "filter: every word must be in the function or its file",
            Command::Filter,
        ),
        bind(
            &[Escape],
            "Esc",
            "no callers, else no filter, else no selection",
            Command::Back,
        ),
        bind(
            &[Char('m')],
            "m",
            "one row per function, or per function and process",
            Command::Merge,
        ),
        bind(
            &[Char('i')],
            "i",
            "with or without time in which threads wait for work",
            Command::Idle,
        ),
        bind(
            &[Char('s')],
            "s",
            "samples instead, and back",
            Command::Do(Action::Samples),
        ),
        bind(&[Char('p'), Char(' ')], "p, space", "pause", Command::Pause),
        bind(&[Char('r')], "r", "count anew", Command::Do(Action::Reset)),
        bind(&[Char('+')], "+", "faster", Command::Faster),
        bind(&[Char('-')], "-", "slower", Command::Slower),
        bind(
            &[Char('w')],
            "w",
            "write the table as it is to a file",
            Command::Do(Action::Export),
        ),
        bind(&[Char('q')], "q, Ctrl-C", "end", Command::Do(Action::Quit)),
        bind(&[Char('h'), Char('?')], "?, h", "this help", Command::Help),
    ]
};

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
    pub(super) help: Help,
    /// What the terminal can show.
    pub(crate) look: Look,
    pub(super) activity: Activity,
    /// The number of the row that is selected.
    pub(super) selected: Option<u64>,
    /// Whether its callers and callees are shown.
    pub(super) relatives: bool,
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
            help: Help::default(),
            look: Look::default(),
            activity: Activity::default(),
            selected: None,
            relatives: false,
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
            look: self.look,
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
            self.note_activity();
        }
    }

    fn note_activity(&mut self) {
        let mut activity = std::mem::take(&mut self.activity);
        let rows = self.all().iter().map(|row| (self.id(row), row.self_ns));
        activity.take(self.account().wall_ns, rows);
        self.activity = activity;
    }

    /// The number that a row keeps, whatever its place in the table.
    pub(super) fn id(&self, row: &Function) -> u64 {
        let pid = (!self.merged).then_some(row.pid);
        KeyBuilder.hash_one((row.key, pid.unwrap_or(0), &row.host, &row.context))
    }

    /// Where the selected row is among those that are shown; `None` when nothing is selected, or it is not shown.
    pub(super) fn selected_at(&self) -> Option<usize> {
        let selected = self.selected?;
        self.rows().position(|row| self.id(row) == selected)
    }

    /// Who called whom, where that is known.
    pub(super) fn callers(&self) -> Option<&Callers> {
        self.snapshot.callers.as_ref()
    }

    /// The functions of the table, whatever of them is shown.
    pub(super) fn functions(&self) -> &[Function] {
        self.snapshot.functions.rows()
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
        if self.help.is_open() {
            self.help.key(key);
            return Action::Draw;
        }
        match command(KEYS, key) {
            Some(command) => self.follow(command, key),
            None => Action::Draw,
        }
    }

    fn follow(&mut self, command: Command, key: Key) -> Action {
        match command {
            Command::Do(Action::Samples) if !self.has_samples => {
                self.say("a recording is over, so there is nothing to be sampled");
            }
            Command::Do(action) => return action,
            Command::Help => self.help.open(),
            Command::Filter => self.filter.typing = true,
            Command::Pause => self.paused = !self.paused,
            Command::Merge => {
                self.merged = !self.merged;
                // Rows are others now.
                self.activity.anew();
                self.selected = None;
                self.relatives = false;
                self.merge();
            }
            Command::Idle => {
                self.idle = !self.idle;
                self.snapshot.account.with_idle = self.idle;
                self.arrange();
            }
            Command::Reverse => {
                self.reversed = !self.reversed;
                self.arrange();
            }
            Command::Faster => {
                self.interval = self.interval.saturating_sub(1);
                return Action::Pace;
            }
            Command::Slower => {
                self.interval = (self.interval + 1).min(INTERVALS.len() - 1);
                return Action::Pace;
            }
            Command::Sort => {
                if let Key::Char(digit) = key
                    && let Some(index) = digit.to_digit(10).and_then(|it| it.checked_sub(1))
                    && let Some(column) = Column::of(self.account()).nth(index as usize)
                {
                    self.sort = column;
                    self.arrange();
                }
            }
            Command::Next => self.sort_by(1),
            Command::Previous => self.sort_by(Column::of(self.account()).count() - 1),
            Command::Back => {
                if self.relatives {
                    self.relatives = false;
                } else if self.filter.text.is_empty() {
                    self.selected = None;
                } else {
                    self.filter.text.clear();
                    self.arrange();
                }
            }
            Command::Relatives => {
                self.relatives = !self.relatives;
                if self.relatives && self.selected_at().is_none() {
                    self.select(Step::Down);
                }
            }
            Command::Select(step) => self.select(step),
        }
        Action::Draw
    }

    fn select(&mut self, step: Step) {
        let (seen, page, rows) = (self.scroll, self.page, self.order.len());
        let at = step.from(self.selected_at(), seen, page, rows);
        let selected = self.rows().nth(at).map(|row| self.id(row));
        self.selected = selected;
        self.show_selected();
    }

    /// Scrolls to what is selected.
    pub(super) fn show_selected(&mut self) {
        if let Some(at) = self.selected_at() {
            self.scroll = in_sight(at, self.scroll, self.page);
        }
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
        self.show_selected();
    }
}
