//! Adds system calls up by thread, stack, call and error. Those whose stack was not read in time are shared out
//! ([`crate::sampling`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::sampling::{self, Event, Place, Shares, share_of};
use crate::waits::{Account, CallAccount, Called};

/// By what is added up for a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// The innermost function, with system call
    Function,
    /// The whole stack, with system call
    Stack,
    /// The system call
    Syscall,
    /// The thread
    Thread,
}

/// A call, with what it was about where that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(super) called: Called,
    pub(super) on: Option<Arc<str>>,
}

/// What is exact of each call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pid: u32,
    tid: u32,
    /// `None` for the rest.
    number: Option<u64>,
    error: Option<u16>,
    on: Option<Arc<str>>,
}

impl sampling::Kind for Kind {
    fn of_process(&self) -> Kind {
        Kind {
            tid: 0,
            ..self.clone()
        }
    }

    /// Those of all the process's threads and system calls.
    fn rest(&self) -> Kind {
        Kind {
            pid: self.pid,
            tid: 0,
            number: None,
            error: None,
            on: None,
        }
    }
}

/// Numbers and times of calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) calls: u64,
    pub(crate) errors: u64,
    pub(crate) total_ns: u64,
    /// In which the thread had no processor.
    pub(crate) off_ns: u64,
    pub(crate) longest_ns: u64,
}

impl Sum {
    fn add_all(&mut self, other: &Sum) {
        self.calls += other.calls;
        self.errors += other.errors;
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.off_ns = self.off_ns.saturating_add(other.off_ns);
        self.longest_ns = self.longest_ns.max(other.longest_ns);
    }
}

impl sampling::Sum for Sum {
    type Of = Call;

    fn add(&mut self, call: &Call) {
        let called = &call.called;
        self.add_all(&Sum {
            calls: 1,
            errors: u64::from(called.error().is_some()),
            total_ns: called.took_ns,
            off_ns: called.off_ns,
            longest_ns: called.took_ns,
        });
    }

    fn number(&self) -> u64 {
        self.calls
    }

    fn take_out(&mut self, time: f64, number: f64) -> Sum {
        let sum = Sum {
            calls: share_of(self.calls, number),
            errors: share_of(self.errors, number),
            total_ns: share_of(self.total_ns, time),
            off_ns: share_of(self.off_ns, time),
            longest_ns: 0,
        };
        self.calls -= sum.calls;
        self.errors -= sum.errors;
        self.total_ns -= sum.total_ns;
        self.off_ns -= sum.off_ns;
        sum
    }

    fn take_rest(&mut self, rest: Sum) {
        self.calls += rest.calls;
        self.errors += rest.errors;
        self.total_ns += rest.total_ns;
        self.off_ns += rest.off_ns;
        self.longest_ns = rest.longest_ns.min(self.total_ns);
    }
}

impl Event for Call {
    type Kind = Kind;
    type Sum = Sum;

    fn kind(&self) -> Kind {
        Kind {
            pid: self.called.pid,
            tid: self.called.tid,
            number: Some(self.called.number),
            error: self.called.error(),
            on: self.on.clone(),
        }
    }

    fn took_ns(&self) -> u64 {
        self.called.took_ns
    }
}

/// Adds calls up.
pub(super) type Tally = sampling::Tally<Call>;
type Part = sampling::Part<Call>;

/// A row of a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) sum: Sum,
    /// How many of the calls are an estimate.
    pub(crate) estimated_calls: u64,
    pub(crate) estimated_ns: u64,
    /// What follows by how much time it has, and errors by number.
    pub(crate) threads: Shares<(u32, u32)>,
    /// `None` for those that there was no room to tell apart.
    pub(crate) calls: Shares<Option<u64>>,
    pub(crate) places: Shares<Place>,
    pub(crate) on: Shares<Option<Arc<str>>>,
    pub(crate) errors: Shares<u16>,
}

/// Everything at one moment, for tables.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    parts: Vec<Part>,
    /// By process and thread. Exact.
    pub(crate) threads: BTreeMap<(u32, u32), Sum>,
    /// Of all.
    pub(crate) sum: Sum,
    /// How long it was watched.
    pub(crate) wall_ns: u64,
    /// How far looks at stacks were apart.
    pub(crate) gap_ns: u64,
    pub(crate) account: Account,
    pub(crate) calls: CallAccount,
    /// Names of threads, by number.
    pub(crate) names: HashMap<u32, String>,
    pub(crate) processes: usize,
}

/// What tells rows apart.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key<'a> {
    Function(Option<(&'a str, &'a str)>, Option<&'a Place>),
    Stack(&'a Place),
    Syscall,
    Thread(u32, u32),
}

impl Key<'_> {
    fn of(part: &Part, by: By) -> Key<'_> {
        match (by, &part.place) {
            (By::Function, Place::Stack(frames)) => {
                let frame = frames.first();
                Key::Function(
                    frame.map(|frame| (frame.function.as_str(), frame.file.as_str())),
                    None,
                )
            }
            (By::Function, place) => Key::Function(None, Some(place)),
            (By::Stack, place) => Key::Stack(place),
            (By::Syscall, _) => Key::Syscall,
            (By::Thread, _) => Key::Thread(part.kind.pid, part.kind.tid),
        }
    }
}

impl Snapshot {
    /// Of what was added up, for this time.
    pub(super) fn of(tally: &Tally, wall_ns: u64, gap_ns: u64) -> Snapshot {
        let parts = tally.parts();
        let (mut threads, mut sum) = (BTreeMap::new(), Sum::default());
        for part in &parts {
            let thread: &mut Sum = threads.entry((part.kind.pid, part.kind.tid)).or_default();
            thread.add_all(&part.sum);
            sum.add_all(&part.sum);
        }
        Snapshot {
            parts,
            threads,
            sum,
            wall_ns,
            gap_ns,
            account: Account::default(),
            calls: CallAccount::default(),
            names: HashMap::new(),
            processes: 0,
        }
    }

    /// A table, those that took longest first. Each thing that calls were about has rows of its own.
    pub(crate) fn rows(&self, by: By) -> Vec<Row> {
        let mut rows = HashMap::<_, Row>::new();
        for part in &self.parts {
            let number = (by != By::Thread).then_some(part.kind.number);
            let key = (Key::of(part, by), number, part.kind.on.as_deref());
            rows.entry(key).or_default().add(part);
        }
        let mut rows: Vec<Row> = rows.into_values().collect();
        for row in &mut rows {
            row.threads.sort();
            row.calls.sort();
            row.places.sort();
            row.on.sort();
            row.errors.sort();
        }
        rows.sort_by(|one, other| {
            let by_time = other.sum.total_ns.cmp(&one.sum.total_ns);
            // Equal ones always in the same order.
            by_time
                .then_with(|| other.sum.calls.cmp(&one.sum.calls))
                .then_with(|| one.calls.0.cmp(&other.calls.0))
                .then_with(|| one.threads.0.cmp(&other.threads.0))
        });
        rows
    }
}

impl Row {
    fn add(&mut self, part: &Part) {
        let time = part.sum.total_ns;
        self.sum.add_all(&part.sum);
        if part.estimated {
            self.estimated_calls += part.sum.calls;
            self.estimated_ns = self.estimated_ns.saturating_add(time);
        }
        self.threads.add((part.kind.pid, part.kind.tid), time);
        self.calls.add(part.kind.number, time);
        self.places.add(part.place.clone(), time);
        self.on.add(part.kind.on.clone(), time);
        if let Some(error) = part.kind.error {
            self.errors.add(error, part.sum.errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::python::frames::Frame;

    const GAP: f64 = 5e6;

    pub(in super::super) fn call(tid: u32, number: u64, took_ns: u64, result: i64) -> Call {
        Call {
            called: Called {
                pid: 1,
                tid,
                number,
                arguments: [0; 2],
                entered: 0,
                took_ns,
                off_ns: took_ns / 2,
                result,
            },
            on: None,
        }
    }

    fn frames(function: &str) -> Vec<Frame> {
        vec![Frame {
            function: function.to_owned(),
            file: "/srv/app.py".to_owned(),
            line: Some(1),
        }]
    }

    fn rows(tally: &Tally, by: By) -> Vec<Row> {
        Snapshot::of(tally, 0, 0).rows(by)
    }

    fn named<'a>(rows: &'a [Row], function: &str) -> &'a Row {
        let is = |row: &&Row| match row.places.first() {
            Some((Place::Stack(frames), _)) => frames[0].function == function,
            _ => function.is_empty(),
        };
        rows.iter().find(is).expect("a row")
    }

    #[test]
    fn errors_are_told_by_which_and_how_many() {
        let mut tally = Tally::default();
        let f = tally.place(frames("f"));
        for (result, many) in [(0, 5), (-2, 3), (-11, 4)] {
            for _ in 0..many {
                tally.take(&call(1, 2, 10_000_000, result), Some(f.clone()), GAP);
            }
        }
        let rows = rows(&tally, By::Function);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].sum.calls, rows[0].sum.errors), (12, 7));
        assert_eq!(rows[0].errors.0, [(11, 4), (2, 3)]);
        assert_eq!(rows[0].estimated_calls, 0);
        assert_eq!(rows[0].sum.off_ns, 60_000_000);
    }

    #[test]
    fn calls_that_are_too_short_to_be_caught_are_shared_out_without_bias_by_looks_that_saw_them_begin()
     {
        // f makes calls of 300 ns, one in 600 ns of its time, g one of 3 us in 6 us; both run as long. A look takes 30 us.
        let mut tally = Tally::default();
        let (f, g) = (tally.place(frames("f")), tally.place(frames("g")));
        let look = 30_000.0;
        for (place, took, every) in [(&f, 300_u64, 600_u64), (&g, 3_000, 6_000)] {
            for at in 0..1_000_000_000 / every {
                let moment = at * every % 5_000_000;
                let call = call(1, 2, took, 0);
                match (moment as f64) < look {
                    true => tally.take_near(&call, place, look, GAP),
                    false => tally.take(&call, None, GAP),
                }
            }
        }
        let rows = rows(&tally, By::Function);
        for (name, took, every) in [("f", 300.0, 600.0), ("g", 3_000.0, 6_000.0)] {
            let row = named(&rows, name);
            let calls = row.sum.calls as f64 / (1e9 / every);
            assert!((0.98..1.02).contains(&calls), "{name}: {calls}");
            let time = row.sum.total_ns as f64 / (1e9 / every * took);
            assert!((0.98..1.02).contains(&time), "{name}: {time}");
            assert_eq!(row.estimated_calls, row.sum.calls);
        }
    }

    #[test]
    fn what_was_never_seen_is_named_so_and_exact() {
        let mut tally = Tally::default();
        tally.take(&call(1, 2, 500, -2), None, GAP);
        let rows = rows(&tally, By::Function);
        assert_eq!(named(&rows, "").errors.0, [(2, 1)]);
        assert_eq!(rows[0].estimated_calls, 0);
    }

    proptest! {
        #[test]
        fn whatever_is_caught_the_sums_are_exact(
            calls in proptest::collection::vec(
                (1_u32..4, 0_u64..3, 1_u64..20_000_000, -2_i64..1, 0_usize..4, any::<bool>()), 1..200,
            ),
        ) {
            let mut tally = Tally::default();
            let places: Vec<Place> = ["f", "g", "h"].map(|name| tally.place(frames(name))).into();
            let mut truth: BTreeMap<(u32, u32), Sum> = BTreeMap::new();
            for (tid, number, took, result, place, near) in calls {
                let call = call(tid, number, took, result);
                match places.get(place) {
                    Some(place) if near => tally.take_near(&call, place, 30e3, GAP),
                    place => tally.take(&call, place.cloned(), GAP),
                }
                sampling::Sum::add(truth.entry((1, tid)).or_default(), &call);
            }
            let snapshot = Snapshot::of(&tally, 0, 0);
            for (thread, sum) in &mut truth {
                // The longest is not known where it is shared out.
                sum.longest_ns = snapshot.threads[thread].longest_ns;
            }
            prop_assert_eq!(&snapshot.threads, &truth);
            for by in [By::Function, By::Stack, By::Thread, By::Syscall] {
                let calls: u64 = snapshot.rows(by).iter().map(|row| row.sum.calls).sum();
                prop_assert_eq!(calls, snapshot.sum.calls);
            }
        }
    }
}
