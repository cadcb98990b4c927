//! The table on a terminal, live.

use std::cell::Cell;
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use ratatui::text::Line;

use super::session::Session;
use super::stacks::Function;
use super::table::{OnScreen, headlines, names};
use super::tally::{By, Order, Relatives, Row, Rows, Snapshot};
use crate::analysis::keys::KeyBuilder;
use crate::console::Cover;
use crate::text::Foreign;
use crate::top::follow::{Paper, Table, follow};
use crate::top::help::Entry;
use crate::top::look::Look;
use crate::top::pane::{Pane, Relative};
use crate::top::{Activity, Binding, Key, Typed, bind, command};
use crate::view::hot::has_words;
use crate::view::{count, time};

/// Most functions that are measured exactly at once.
const MOST_EXACT: usize = 20;

/// What is shown, as keys have changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    by: By,
    idle: bool,
    order: Order,
    reversed: bool,
    filter: Typed,
    /// Whether exact numbers are wanted.
    exact: bool,
}

/// What a key changes, or asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Exact,
    Sort,
    Reverse,
    Filter,
    NoFilter,
    ByThread,
    ByProcess,
    ByContext,
    Idle,
}

/// The keys of this table.
const KEYS: &[Binding<Command>] = {
    use Key::{Char, Escape, Right};
    &[
        bind(
            &[Char('s')],
            "s",
            "exact numbers of the functions on the screen, and back",
            Command::Exact,
        ),
        bind(
            &[Char('o'), Right],
            "o, right",
            "sort by the next column",
            Command::Sort,
        ),
        bind(&[Char('R')], "R", "the other way round", Command::Reverse),
        bind(
            &[Char('/'), Char('f')],
            "/, f",
            "filter: every word must be in the function or its file",
            Command::Filter,
        ),
        bind(&[Escape], "Esc", "no filter", Command::NoFilter),
        bind(
            &[Char('b')],
            "b",
            "by thread, or by function",
            Command::ByThread,
        ),
        bind(
            &[Char('m')],
            "m",
            "a row per function and process, or per function",
            Command::ByProcess,
        ),
        bind(
            &[Char('c')],
            "c",
            "a row per function and kind of greenlet or task, or per function",
            Command::ByContext,
        ),
        bind(
            &[Char('i')],
            "i",
            "with or without threads that wait for work",
            Command::Idle,
        ),
    ]
};

/// What help says besides keys and colours.
const MARKS: [(&str, &str); 3] = [
    (
        "~TIME",
        "SELF% in time: everything here is an estimate, from samples",
    ),
    (
        "ON-CPU",
        "of the samples with the function on the stack, those in which the thread ran; WAITING: did not",
    ),
    (
        "torn",
        "samples that belong to no function, because the stack changed while it was read",
    ),
];

impl View {
    /// How a table begins.
    pub(crate) fn new(by: By, idle: bool, order: Order) -> View {
        View {
            by,
            idle,
            order,
            reversed: false,
            filter: Typed::default(),
            exact: false,
        }
    }

    fn key(&mut self, key: Key) {
        if self.filter.typing {
            self.filter.key(key);
            return;
        }
        match command(KEYS, key) {
            Some(Command::ByThread) => {
                self.by = match self.by {
                    By::Function { .. } => By::Thread,
                    By::Thread => By::FUNCTION,
                }
            }
            Some(Command::ByProcess) => self.toggle(|process, _| *process = !*process),
            Some(Command::ByContext) => self.toggle(|_, context| *context = !*context),
            Some(Command::Idle) => self.idle = !self.idle,
            Some(Command::Reverse) => self.reversed = !self.reversed,
            Some(Command::Exact) => self.exact = true,
            Some(Command::Sort) => self.order = next(self.order),
            Some(Command::Filter) => self.filter.typing = true,
            Some(Command::NoFilter) => self.filter.text.clear(),
            None => {}
        }
    }

    /// Changes what functions are told apart by.
    fn toggle(&mut self, change: impl FnOnce(&mut bool, &mut bool)) {
        let (mut process, mut context) = match self.by {
            By::Function { process, context } => (process, context),
            By::Thread => (false, false),
        };
        change(&mut process, &mut context);
        self.by = By::Function { process, context };
    }

    /// Whether greenlets and tasks are told apart.
    fn has_contexts(&self) -> bool {
        matches!(self.by, By::Function { context: true, .. })
    }

    fn has(&self, row: &Row) -> bool {
        has_words(&row.function.name, &row.function.file, &self.filter.text)
    }

    fn rows(&self, snapshot: &Snapshot) -> Rows {
        let mut rows = snapshot.rows(self.by, self.idle, self.order, self.reversed);
        rows.rows.retain(|row| self.has(row));
        rows
    }
}

/// What comes after this order.
fn next(order: Order) -> Order {
    match order {
        Order::Own => Order::Total,
        Order::Total => Order::OnCpu,
        Order::OnCpu => Order::Waiting,
        Order::Waiting => Order::Name,
        Order::Name => Order::Own,
    }
}

struct Functions<'a> {
    session: &'a Session,
    view: &'a mut View,
    snapshot: Snapshot,
    rows: Rows,
    /// What the rows did lately.
    activity: Activity,
    /// From which row on how many were shown last.
    on_screen: Cell<(usize, usize)>,
}

/// Shows a table until somebody has seen enough, the processes have ended, or something comes from `stop`; or until exact numbers
/// of the functions on the screen are wanted: these.
///
/// # Errors
/// The terminal's.
pub(crate) fn show<T>(
    session: &Session,
    view: &mut View,
    interval: Duration,
    cover: &Cover,
    stop: &Receiver<T>,
) -> io::Result<Option<Vec<Arc<Function>>>> {
    view.exact = false;
    let snapshot = session.snapshot();
    let mut functions = Functions {
        session,
        rows: view.rows(&snapshot),
        view,
        snapshot,
        activity: Activity::default(),
        on_screen: Cell::new((0, 0)),
    };
    functions.note_activity();
    follow(&mut functions, interval, cover, session.ended(), stop)?;
    Ok(functions.view.exact.then(|| functions.looked_at()))
}

/// The number that a row keeps, whatever its place in the table.
fn id(row: &Row) -> u64 {
    let thread = row.thread.as_ref().map(|(tid, _)| *tid);
    // By thread, the function is the one that it was seen in most.
    let function = row.thread.is_none().then_some(&row.function);
    KeyBuilder.hash_one((row.pid, thread, &row.context, function))
}

impl Functions<'_> {
    fn note_activity(&mut self) {
        let rows = self.rows.rows.iter();
        let spent = rows.map(|row| (id(row), self.snapshot.time_ns(row.own.all())));
        self.activity.take(self.snapshot.wall_ns, spent);
    }

    /// The functions on the screen, the first ones.
    fn looked_at(&self) -> Vec<Arc<Function>> {
        let (from, most) = self.on_screen.get();
        let rows = self.rows.rows.iter().skip(from).take(most);
        // What has no file stands for functions that nobody knows.
        let known = rows.filter(|row| !row.function.file.is_empty());
        known
            .map(|row| Arc::clone(&row.function))
            .take(MOST_EXACT)
            .collect()
    }
}

impl Table for Functions<'_> {
    fn refresh(&mut self) {
        self.snapshot = self.session.snapshot();
        self.rows = self.view.rows(&self.snapshot);
        self.note_activity();
    }

    fn anew(&mut self) {
        self.session.anew();
    }

    fn key(&mut self, key: Key) {
        let before = (self.view.by, self.view.idle, self.view.filter.text.clone());
        self.view.key(key);
        if before != (self.view.by, self.view.idle, self.view.filter.text.clone()) {
            // Rows are others now, and what is left out of a table has no past.
            self.activity.anew();
        }
        if self.view.has_contexts() {
            self.session.tell_contexts();
        }
        self.rows = self.view.rows(&self.snapshot);
    }

    fn takes_text(&self) -> bool {
        self.view.filter.typing
    }

    fn head(&self) -> (String, usize) {
        let headlines = headlines(&self.snapshot, &self.rows).join("\n");
        (headlines, self.rows.rows.len())
    }

    fn lines(
        &self,
        from: usize,
        most: usize,
        selected: Option<u64>,
        paper: Paper,
    ) -> (String, Vec<Line<'static>>) {
        self.on_screen.set((from, most));
        let until = from.saturating_add(most).min(self.rows.rows.len());
        let shown = OnScreen {
            snapshot: &self.snapshot,
            rows: self.rows.rows.get(from..until).unwrap_or_default(),
            all: self.rows.samples,
            by: self.view.by,
            id,
            activity: &self.activity,
            selected,
        };
        shown.lines(paper)
    }

    fn id(&self, row: usize) -> Option<u64> {
        self.rows.rows.get(row).map(id)
    }

    fn has_relatives(&self) -> bool {
        self.view.by != By::Thread
    }

    fn relatives(&self, row: usize) -> Option<Pane> {
        let row = self.rows.rows.get(row).filter(|_| self.has_relatives())?;
        let (by, idle) = (self.view.by, self.view.idle);
        let Relatives { callers, callees } = self.snapshot.relatives(row, by, idle);
        let words = |of: Vec<(Option<Arc<Function>>, u64)>| {
            let words = of.into_iter().map(|(function, samples)| Relative {
                function: match &function {
                    Some(it) => Foreign::new(it.name.as_str()).to_string(),
                    None => "(the thread itself)".to_owned(),
                },
                file: function
                    .map_or_else(String::new, |it| Foreign::new(it.file.as_str()).to_string()),
                count: count(samples),
                time: format!("~{}", time(self.snapshot.time_ns(samples))),
                share: samples as f64 * 100.0 / row.total.all().max(1) as f64,
            });
            words.collect()
        };
        let (_, function, file) = names(row);
        Some(Pane {
            of: (function, file),
            counted: "SAMPLES",
            estimated: true,
            relatives: Ok((words(callers), words(callees))),
            note: None,
        })
    }

    fn is_left(&self) -> bool {
        self.view.exact
    }

    fn keys(&self) -> String {
        self.view.keys()
    }

    fn help(&self, look: Look) -> Vec<Entry> {
        let marks = MARKS.iter().map(|&(mark, means)| Entry::new(mark, means));
        let keys = Entry::of_keys(KEYS);
        keys.chain(look.legend()).chain(marks).collect()
    }
}

impl View {
    /// What keys do.
    fn keys(&self) -> String {
        let order = match self.order {
            Order::Own => "self",
            Order::Total => "total",
            Order::OnCpu => "on-cpu",
            Order::Waiting => "waiting",
            Order::Name => "name",
        };
        match (self.filter.typing, self.filter.text.as_str()) {
            (true, filter) => format!("filter: {filter}_  Enter ends it, Esc clears it"),
            // Within 80 columns.
            (false, "") => format!(
                "q end  ? help  enter callers  s exact  o by {order}  / filter  b thread  c task"
            ),
            (false, filter) => {
                format!("filter: {filter}  Esc clears it  q end  s exact  o sort ({order})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::tests::snapshot;
    use super::*;
    use crate::top::follow::is_shared;

    #[test]
    fn keys_change_what_is_shown() {
        let snapshot = snapshot(&[(7, &["f", "main"], true, false, 3)]);
        let mut view = View::new(By::FUNCTION, false, Order::Own);
        let names = |view: &View| -> Vec<String> {
            let rows = view.rows(&snapshot).rows;
            rows.iter().map(|row| row.function.name.clone()).collect()
        };
        assert_eq!(names(&view), ["f", "main"]);
        view.key(Key::Char('R'));
        assert_eq!(names(&view), ["main", "f"]);
        for key in [Key::Char('/'), Key::Char('i'), Key::Char('n'), Key::Enter] {
            view.key(key);
        }
        assert_eq!((names(&view), view.idle), (vec!["main".to_owned()], false));
        view.key(Key::Escape);
        view.key(Key::Char('i'));
        view.key(Key::Char('o'));
        assert_eq!((view.order, view.idle), (Order::Total, true));
        view.key(Key::Char('b'));
        assert_eq!(view.by, By::Thread);
        view.key(Key::Char('c'));
        view.key(Key::Char('m'));
        let (process, context) = (true, true);
        assert_eq!(view.by, By::Function { process, context });
        assert!(view.has_contexts());
        view.key(Key::Char('c'));
        assert!(!view.has_contexts());
    }

    #[test]
    fn each_key_does_one_thing_and_none_that_all_tables_share() {
        let mut all: Vec<Key> = Vec::new();
        for binding in KEYS {
            for key in binding.keys {
                assert!(!all.contains(key), "{key:?} does two things");
                all.push(*key);
                assert!(!is_shared(*key), "{key:?} is every table's");
            }
        }
    }

    /// What a table of functions shows on a screen of this width after some tables.
    fn shown(seen: &[&[(&str, u64)]], wide: usize, look: Look) -> (String, Vec<Line<'static>>) {
        let mut activity = Activity::default();
        let mut last = None;
        for (at, seen) in seen.iter().enumerate() {
            let stacks: Vec<[&str; 2]> = seen.iter().map(|(name, _)| [*name, "main"]).collect();
            let samples = seen.iter().zip(&stacks);
            let samples: Vec<_> = samples
                .map(|((_, count), stack)| (7, stack.as_slice(), true, false, *count))
                .collect();
            let mut snapshot = snapshot(&samples);
            snapshot.wall_ns *= at as u64 + 1;
            snapshot.ticks *= at as u64 + 1;
            let view = View::new(By::FUNCTION, false, Order::Own);
            let rows = view.rows(&snapshot);
            let spent = rows.rows.iter();
            let spent = spent.map(|row| (id(row), snapshot.time_ns(row.own.all())));
            activity.take(snapshot.wall_ns, spent);
            last = Some((snapshot, rows));
        }
        let (snapshot, rows) = last.expect("a table");
        let shown = OnScreen {
            snapshot: &snapshot,
            rows: &rows.rows,
            all: rows.samples,
            by: By::FUNCTION,
            id,
            activity: &activity,
            selected: rows.rows.first().map(id),
        };
        shown.lines(Paper { wide, look })
    }

    #[test]
    fn functions_and_files_are_shown_on_any_terminal_with_bars_where_there_is_room() {
        let look = Look {
            bars: true,
            ..Look::default()
        };
        let name = "ConductorManager.object_class_action_versions";
        let seen: [&[(&str, u64)]; 3] = [&[(name, 0)], &[(name, 80)], &[(name, 120)]];
        let text = |(heading, lines): (String, Vec<Line<'static>>)| {
            (
                heading,
                lines.first().map_or(String::new(), Line::to_string),
            )
        };
        let (heading, line) = text(shown(&seen, 100, look));
        assert_eq!(
            heading,
            " SELF% TOTAL%    ~TIME  ON-CPU WAITING ACTIVITY  FUNCTION  FILE"
        );
        assert_eq!(
            line,
            " 100.0  100.0   ~1.20s    100%      0%       █▅  …rManager.object_class_action_versions  /srv/app.py"
        );
        let (heading, line) = text(shown(&seen, 80, look));
        assert_eq!(heading, " SELF% TOTAL%    ~TIME  ON-CPU  FUNCTION  FILE");
        assert!(
            line.trim_end().ends_with("action_versions  /srv/app.py"),
            "{line}"
        );
        let (heading, line) = text(shown(&seen, 20, Look::default()));
        assert_eq!(heading, " FUNCTION  FILE");
        assert_eq!(line.chars().count(), 20, "{line}");
    }

    #[test]
    fn what_keys_do_fits_on_a_terminal_of_80_columns() {
        let mut view = View::new(By::FUNCTION, false, Order::Own);
        for _ in 0..5 {
            assert!(view.keys().len() <= 80, "{}", view.keys());
            view.order = next(view.order);
        }
    }
}
