//! The table on a terminal, live.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::session::Session;
use super::stacks::Function;
use super::table::{heading, headlines, line};
use super::tally::{By, Order, Row, Rows, Snapshot};
use crate::console::Cover;
use crate::top::follow::{Table, follow};
use crate::top::{Key, Typed};
use crate::view::hot::has_words;

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
        match key {
            Key::Char('b') => {
                self.by = match self.by {
                    By::Function { .. } => By::Thread,
                    By::Thread => By::FUNCTION,
                }
            }
            Key::Char('m') => self.toggle(|process, _| *process = !*process),
            Key::Char('c') => self.toggle(|_, context| *context = !*context),
            Key::Char('i') => self.idle = !self.idle,
            Key::Char('R') => self.reversed = !self.reversed,
            Key::Char('s') => self.exact = true,
            Key::Char('o') | Key::Right => self.order = next(self.order),
            Key::Char('/' | 'f') => self.filter.typing = true,
            Key::Escape => self.filter.text.clear(),
            _ => {}
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
        on_screen: Cell::new((0, 0)),
    };
    follow(&mut functions, interval, cover, session.ended(), stop)?;
    Ok(functions.view.exact.then(|| functions.looked_at()))
}

impl Functions<'_> {
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
    }

    fn anew(&mut self) {
        self.session.anew();
    }

    fn key(&mut self, key: Key) {
        self.view.key(key);
        if self.view.has_contexts() {
            self.session.tell_contexts();
        }
        self.rows = self.view.rows(&self.snapshot);
    }

    fn takes_text(&self) -> bool {
        self.view.filter.typing
    }

    fn head(&self) -> (String, String, usize) {
        let headlines = headlines(&self.snapshot, &self.rows).join("\n");
        (headlines, heading(self.view.by), self.rows.rows.len())
    }

    fn lines(&self, from: usize, most: usize) -> Vec<String> {
        self.on_screen.set((from, most));
        let rows = self.rows.rows.iter().skip(from).take(most);
        rows.map(|row| line(&self.snapshot, row, self.rows.samples))
            .collect()
    }

    fn is_left(&self) -> bool {
        self.view.exact
    }

    fn keys(&self) -> String {
        self.view.keys()
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
                "q end  s exact  o by {order}  R turn  / filter  b thread  m pid  c task  i idle"
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
    fn what_keys_do_fits_on_a_terminal_of_80_columns() {
        let mut view = View::new(By::FUNCTION, false, Order::Own);
        for _ in 0..5 {
            assert!(view.keys().len() <= 80, "{}", view.keys());
            view.order = next(view.order);
        }
    }
}
