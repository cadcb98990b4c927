//! Adds waits up by thread, stack, reason and system call. Those whose stack was not read in time are shared out ([`crate::sampling`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::analysis::idle::Idle;
use crate::sampling::{self, Event, Place, Shares, share_of};
use crate::waits::{Account, Reason, Wait, Waker};

/// Most wakers of a row that are told apart.
const MOST_WAKERS: usize = 32;

/// By what is added up for a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// The innermost function, with reason and system call
    Function,
    /// The whole stack, with reason and system call
    Stack,
    /// The thread
    Thread,
    /// The reason
    Reason,
    /// Who ended the wait
    Waker,
}

/// Times and numbers of waits.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sum {
    pub(crate) waits: u64,
    pub(crate) blocked_ns: u64,
    pub(crate) runqueue_ns: u64,
    pub(crate) max_ns: u64,
    /// Who ended how many, and after how long together.
    wakers: HashMap<Option<Waker>, (u64, u64)>,
}

impl sampling::Sum for Sum {
    type Of = Wait;

    fn add(&mut self, wait: &Wait) {
        self.waits += 1;
        self.blocked_ns = self.blocked_ns.saturating_add(wait.blocked_ns);
        let queued = wait.runqueue_ns.unwrap_or_default();
        self.runqueue_ns = self.runqueue_ns.saturating_add(queued);
        self.max_ns = self.max_ns.max(wait.blocked_ns);
        let known = self.wakers.len();
        let waker = match self.wakers.contains_key(&wait.waker) || known < MOST_WAKERS {
            true => wait.waker,
            false => None,
        };
        let (waits, time) = self.wakers.entry(waker).or_default();
        *waits += 1;
        *time = time.saturating_add(wait.blocked_ns);
    }

    fn number(&self) -> u64 {
        self.waits
    }

    fn take_out(&mut self, time: f64, number: f64) -> Sum {
        let sum = Sum {
            waits: share_of(self.waits, number),
            blocked_ns: share_of(self.blocked_ns, time),
            runqueue_ns: share_of(self.runqueue_ns, time),
            max_ns: 0,
            wakers: HashMap::new(),
        };
        self.waits -= sum.waits;
        self.blocked_ns -= sum.blocked_ns;
        self.runqueue_ns -= sum.runqueue_ns;
        sum
    }

    fn take_rest(&mut self, rest: Sum) {
        self.waits += rest.waits;
        self.blocked_ns += rest.blocked_ns;
        self.runqueue_ns += rest.runqueue_ns;
        self.max_ns = rest.max_ns.min(self.blocked_ns);
        self.wakers = rest.wakers;
    }
}

/// What is exact of each wait.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pid: u32,
    tid: u32,
    reason: Reason,
    call: Option<Arc<str>>,
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
            call: None,
            ..self.of_process()
        }
    }
}

impl Event for Wait {
    type Kind = Kind;
    type Sum = Sum;

    fn kind(&self) -> Kind {
        Kind {
            pid: self.pid,
            tid: self.tid,
            reason: self.cause.reason,
            call: self.cause.call.clone(),
        }
    }

    fn took_ns(&self) -> u64 {
        let queued = self.runqueue_ns.unwrap_or_default();
        self.blocked_ns.saturating_add(queued)
    }
}

/// Adds waits up.
pub(super) type Tally = sampling::Tally<Wait>;
type Part = sampling::Part<Wait>;

/// A row of a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) sum: Sum,
    /// How much of the sum is an estimate.
    pub(crate) estimated_ns: u64,
    pub(crate) estimated_waits: u64,
    pub(crate) threads: Shares<(u32, u32)>,
    pub(crate) reasons: Shares<Reason>,
    pub(crate) calls: Shares<Option<Arc<str>>>,
    pub(crate) places: Shares<Place>,
    /// Who ended them, with how many.
    pub(crate) wakers: Shares<Option<Waker>>,
    pub(crate) idle: bool,
}

/// What a thread waited in all. Exact.
#[derive(Debug, Clone, Default)]
pub(crate) struct ThreadSum {
    pub(crate) waits: u64,
    pub(crate) blocked_ns: u64,
    pub(crate) runqueue_ns: u64,
}

/// Everything at one moment, for tables.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    parts: Vec<Part>,
    /// By process and thread.
    pub(crate) threads: BTreeMap<(u32, u32), ThreadSum>,
    /// How long it was watched.
    pub(crate) wall_ns: u64,
    /// How far looks at stacks were apart.
    pub(crate) gap_ns: u64,
    pub(crate) account: Account,
    /// Names of threads and of their wakers, by number.
    pub(crate) names: HashMap<u32, String>,
    pub(crate) processes: usize,
}

/// The rows of a table.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    /// The longest first.
    pub(crate) rows: Vec<Row>,
    /// The time of all of them.
    pub(crate) blocked_ns: u64,
    /// What was left out as idleness.
    pub(crate) idle_ns: u64,
}

/// Waits of a thread in one place that were added up elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Exact {
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) reason: Reason,
    pub(super) call: Option<Arc<str>>,
    pub(super) place: Place,
    pub(super) waits: u64,
    pub(super) blocked_ns: u64,
    pub(super) runqueue_ns: u64,
    pub(super) max_ns: u64,
}

impl From<Exact> for Part {
    fn from(sum: Exact) -> Part {
        Part {
            kind: Kind {
                pid: sum.pid,
                tid: sum.tid,
                reason: sum.reason,
                call: sum.call,
            },
            place: sum.place,
            estimated: false,
            sum: Sum {
                waits: sum.waits,
                blocked_ns: sum.blocked_ns,
                runqueue_ns: sum.runqueue_ns,
                max_ns: sum.max_ns,
                // Nobody told who.
                wakers: HashMap::from([(None, (sum.waits, sum.blocked_ns))]),
            },
        }
    }
}

impl Snapshot {
    /// Of what was added up, for this time.
    pub(super) fn of(tally: &Tally, wall_ns: u64, gap_ns: u64, account: Account) -> Snapshot {
        Snapshot::of_parts(tally.parts(), wall_ns, gap_ns, account)
    }

    /// Of what was added up elsewhere, with the place of each wait.
    pub(super) fn of_exact(
        sums: impl Iterator<Item = Exact>,
        wall_ns: u64,
        account: Account,
    ) -> Snapshot {
        Snapshot::of_parts(sums.map(Part::from).collect(), wall_ns, 0, account)
    }

    fn of_parts(parts: Vec<Part>, wall_ns: u64, gap_ns: u64, account: Account) -> Snapshot {
        let mut threads: BTreeMap<(u32, u32), ThreadSum> = BTreeMap::new();
        for part in &parts {
            let thread = threads.entry((part.kind.pid, part.kind.tid)).or_default();
            thread.waits += part.sum.waits;
            thread.blocked_ns = thread.blocked_ns.saturating_add(part.sum.blocked_ns);
            thread.runqueue_ns = thread.runqueue_ns.saturating_add(part.sum.runqueue_ns);
        }
        Snapshot {
            parts,
            threads,
            wall_ns,
            gap_ns,
            account,
            names: HashMap::new(),
            processes: 0,
        }
    }

    /// A table; what is idleness only where it is wanted.
    pub(crate) fn rows(&self, by: By, with_idle: bool) -> Rows {
        let (mut idle_ns, mut rows) = (0_u64, HashMap::<Key<'_>, Row>::new());
        for part in &self.parts {
            let idle = is_idleness(part);
            if idle && !with_idle {
                idle_ns = idle_ns.saturating_add(part.sum.blocked_ns);
                continue;
            }
            match by {
                By::Waker => {
                    for (waker, (waits, time)) in &part.sum.wakers {
                        let row = rows.entry(Key::Waker(*waker)).or_default();
                        let sum = Sum {
                            waits: *waits,
                            blocked_ns: *time,
                            max_ns: part.sum.max_ns.min(*time),
                            wakers: HashMap::from([(*waker, (*waits, *time))]),
                            ..Sum::default()
                        };
                        row.add(part, &sum, by, idle);
                    }
                }
                _ => rows
                    .entry(Key::of(part, by))
                    .or_default()
                    .add(part, &part.sum, by, idle),
            }
        }
        let mut rows: Vec<Row> = rows.into_values().collect();
        for row in &mut rows {
            row.threads.sort();
            row.reasons.sort();
            row.calls.sort();
            row.places.sort();
            row.wakers.sort();
        }
        rows.sort_by(|one, other| {
            let by_time = other.sum.blocked_ns.cmp(&one.sum.blocked_ns);
            // Equal ones always in the same order.
            by_time
                .then_with(|| other.sum.waits.cmp(&one.sum.waits))
                .then_with(|| one.threads.0.cmp(&other.threads.0))
        });
        Rows {
            blocked_ns: rows.iter().map(|row| row.sum.blocked_ns).sum(),
            rows,
            idle_ns,
        }
    }
}

/// Whether a part of the waits is not for what work needs.
fn is_idleness(part: &Part) -> bool {
    match &part.place {
        Place::Stack(frames) => {
            let names = frames.iter().map(|it| (&*it.function, &*it.file));
            Idle::of_stack(names).is_some_and(|idle| idle.covers(part.kind.reason))
        }
        Place::NoPython => true,
        Place::NotSeen | Place::Unreadable | Place::Older => false,
    }
}

/// What tells rows apart.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key<'a> {
    Function(Option<(&'a str, &'a str)>, Other, Reason, Option<&'a str>),
    Stack(&'a Place, Reason, Option<&'a str>),
    Thread(u32, u32),
    Reason(Reason),
    Waker(Option<Waker>),
}

/// Places without a function.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Other {
    None,
    NoPython,
    NotSeen,
    Unreadable,
    Older,
}

impl Key<'_> {
    fn of(part: &Part, by: By) -> Key<'_> {
        let (reason, call) = (part.kind.reason, part.kind.call.as_deref());
        match by {
            By::Function => {
                let (frame, other) = match &part.place {
                    Place::Stack(frames) => (frames.first(), Other::None),
                    Place::NoPython => (None, Other::NoPython),
                    Place::NotSeen => (None, Other::NotSeen),
                    Place::Unreadable => (None, Other::Unreadable),
                    Place::Older => (None, Other::Older),
                };
                let name = frame.map(|frame| (frame.function.as_str(), frame.file.as_str()));
                Key::Function(name, other, reason, call)
            }
            By::Stack => Key::Stack(&part.place, reason, call),
            By::Thread => Key::Thread(part.kind.pid, part.kind.tid),
            By::Reason => Key::Reason(reason),
            By::Waker => Key::Waker(None),
        }
    }
}

impl Row {
    fn add(&mut self, part: &Part, sum: &Sum, by: By, idle: bool) {
        let time = sum.blocked_ns;
        self.sum.waits += sum.waits;
        self.sum.blocked_ns = self.sum.blocked_ns.saturating_add(time);
        self.sum.runqueue_ns = self.sum.runqueue_ns.saturating_add(sum.runqueue_ns);
        self.sum.max_ns = self.sum.max_ns.max(sum.max_ns);
        if part.estimated {
            self.estimated_ns = self.estimated_ns.saturating_add(time);
            self.estimated_waits += sum.waits;
        }
        self.threads.add((part.kind.pid, part.kind.tid), time);
        self.reasons.add(part.kind.reason, time);
        self.calls.add(part.kind.call.clone(), time);
        self.places.add(part.place.clone(), time);
        // Of those that were not caught it is known who ended them, but not which of them.
        let are_its_own = !part.estimated || by == By::Waker;
        for (waker, (waits, _)) in sum.wakers.iter().filter(|_| are_its_own) {
            self.wakers.add(*waker, *waits);
        }
        self.idle |= idle;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::python::frames::Frame;
    use crate::sampling::MOST_ROWS;
    use crate::waits::Cause;

    const GAP: f64 = 5e6;

    #[test]
    fn threads_without_end_are_bounded_and_their_sums_stand() {
        let mut tally = Tally::default();
        for tid in 1..=4 * MOST_ROWS as u32 {
            let place = tally.place(frames(&format!("f{tid}")));
            tally.take(&wait(tid, 1_000), Some(place), 5e6);
            tally.take(&wait(tid, 3_000), None, 5e6);
        }
        // One more for the rest of the process.
        let (caught, pools, weights) = tally.sizes();
        assert!(caught <= MOST_ROWS + 1);
        assert!(pools <= MOST_ROWS + 1);
        assert!(weights <= MOST_ROWS);
        let parts = tally.parts();
        let waits: u64 = parts.iter().map(|part| part.sum.waits).sum();
        let blocked: u64 = parts.iter().map(|part| part.sum.blocked_ns).sum();
        let all = 4 * MOST_ROWS as u64;
        assert_eq!((waits, blocked), (2 * all, 4_000 * all));
    }

    fn wait(tid: u32, took: u64) -> Wait {
        Wait {
            pid: 1,
            tid,
            began: 0,
            blocked_ns: took,
            runqueue_ns: None,
            cause: Cause {
                reason: Reason::Pipe,
                call: Some("read".into()),
                argument: 0,
            },
            waker: None,
        }
    }

    fn frames(function: &str) -> Vec<Frame> {
        vec![Frame {
            function: function.to_owned(),
            file: "/srv/app.py".to_owned(),
            line: Some(1),
        }]
    }

    fn snapshot(tally: &Tally) -> Snapshot {
        Snapshot::of(tally, 0, 0, Account::default())
    }

    fn named<'a>(rows: &'a Rows, function: &str) -> &'a Row {
        let is = |row: &&Row| match row.places.first() {
            Some((Place::Stack(frames), _)) => frames[0].function == function,
            _ => function.is_empty(),
        };
        rows.rows.iter().find(is).expect("a row")
    }

    #[test]
    fn what_is_caught_is_exact_and_what_is_not_is_an_estimate() {
        let mut tally = Tally::default();
        let f = tally.place(frames("f"));
        tally.take(&wait(1, 20_000_000), Some(f.clone()), GAP);
        let rows = snapshot(&tally).rows(By::Function, false);
        assert_eq!(named(&rows, "f").estimated_ns, 0);
        assert_eq!(named(&rows, "f").sum.max_ns, 20_000_000);
        // One of a short kind is caught, of another thread nothing at all.
        tally.take(&wait(1, 1_000_000), Some(f), GAP);
        tally.take(&wait(1, 1_000_000), None, GAP);
        let rows = snapshot(&tally).rows(By::Function, false);
        let row = named(&rows, "f");
        assert_eq!((row.sum.waits, row.estimated_waits), (3, 1));
        assert_eq!(
            (row.sum.blocked_ns, row.estimated_ns),
            (22_000_000, 1_000_000)
        );
    }

    #[test]
    fn what_nothing_was_caught_of_is_shared_out_as_in_other_threads_or_named_so() {
        let mut tally = Tally::default();
        tally.take(&wait(2, 1_000), None, GAP);
        let rows = snapshot(&tally).rows(By::Function, false);
        assert_eq!(named(&rows, "").sum.waits, 1);
        assert_eq!(rows.rows[0].estimated_waits, 0);
        let f = tally.place(frames("f"));
        tally.take(&wait(1, 1_000), Some(f), GAP);
        let rows = snapshot(&tally).rows(By::Function, false);
        assert_eq!(rows.rows.len(), 1);
        assert_eq!(named(&rows, "f").estimated_waits, 1);
    }

    #[test]
    fn short_waits_are_shared_out_without_bias() {
        // Two functions wait in turns, one for 0.5 ms, the other for 4 ms. The chance to be caught is the share of the gap.
        let mut tally = Tally::default();
        let (short, long) = (tally.place(frames("short")), tally.place(frames("long")));
        for at in 0..10_000_u64 {
            let caught = |took: u64| (at % 10) * 500_000 < took;
            let place = |took, place: &Place| caught(took).then(|| place.clone());
            tally.take(&wait(1, 500_000), place(500_000, &short), GAP);
            tally.take(&wait(1, 4_000_000), place(4_000_000, &long), GAP);
        }
        let rows = snapshot(&tally).rows(By::Function, false);
        for (name, time) in [("short", 5e9), ("long", 40e9)] {
            let row = named(&rows, name);
            let off = row.sum.blocked_ns as f64 / time;
            assert!((0.98..1.02).contains(&off), "{name}: {off}");
            let waits = row.sum.waits as f64 / 1e4;
            assert!((0.98..1.02).contains(&waits), "{name}: {waits}");
        }
    }

    #[test]
    fn who_ended_waits_that_were_not_caught_is_told_of_no_function() {
        let mut tally = Tally::default();
        let f = tally.place(frames("f"));
        let ended_by = |tid| Wait {
            waker: Some(Waker::Thread { pid: 1, tid }),
            ..wait(1, 1_000_000)
        };
        tally.take(&ended_by(7), Some(f), GAP);
        tally.take(&ended_by(8), None, GAP);
        let snapshot = snapshot(&tally);
        let rows = snapshot.rows(By::Function, false);
        let caught = (Some(Waker::Thread { pid: 1, tid: 7 }), 1);
        assert_eq!(named(&rows, "f").wakers.0, [caught]);
        assert_eq!(snapshot.rows(By::Waker, false).rows.len(), 2);
    }

    #[test]
    fn idleness_is_left_out_and_told() {
        let mut tally = Tally::default();
        tally.take(&wait(1, 7_000_000), Some(Place::NoPython), GAP);
        let f = tally.place(frames("f"));
        tally.take(&wait(2, 9_000_000), Some(f), GAP);
        let snapshot = snapshot(&tally);
        let rows = snapshot.rows(By::Thread, false);
        assert_eq!(
            (rows.rows.len(), rows.blocked_ns, rows.idle_ns),
            (1, 9_000_000, 7_000_000)
        );
        let rows = snapshot.rows(By::Thread, true);
        assert_eq!((rows.rows.len(), rows.idle_ns), (2, 0));
    }

    #[test]
    fn by_waker_each_has_the_waits_that_it_ended() {
        let mut tally = Tally::default();
        let f = tally.place(frames("f"));
        for (tid, took) in [(7, 6_000_000), (7, 6_000_000), (8, 9_000_000)] {
            let waker = Some(Waker::Thread { pid: 1, tid });
            let wait = Wait {
                waker,
                ..wait(1, took)
            };
            tally.take(&wait, Some(f.clone()), GAP);
        }
        let rows = snapshot(&tally).rows(By::Waker, false);
        let told: Vec<(u64, u64)> = rows
            .rows
            .iter()
            .map(|row| (row.sum.waits, row.sum.blocked_ns))
            .collect();
        assert_eq!(told, [(2, 12_000_000), (1, 9_000_000)]);
    }

    proptest! {
        #[test]
        fn whatever_is_caught_the_sums_of_each_thread_are_exact(
            waits in proptest::collection::vec((1_u32..4, 1_u64..20_000_000, 0_usize..4), 1..200),
        ) {
            let mut tally = Tally::default();
            let places: Vec<Place> = ["f", "g", "h"].map(|name| tally.place(frames(name))).into();
            let mut truth: BTreeMap<(u32, u32), (u64, u64)> = BTreeMap::new();
            for (tid, took, place) in waits {
                tally.take(&wait(tid, took), places.get(place).cloned(), GAP);
                let sum = truth.entry((1, tid)).or_default();
                *sum = (sum.0 + 1, sum.1 + took);
            }
            let snapshot = snapshot(&tally);
            let threads = snapshot.threads.iter();
            let told: BTreeMap<(u32, u32), (u64, u64)> =
                threads.map(|(thread, sum)| (*thread, (sum.waits, sum.blocked_ns))).collect();
            prop_assert_eq!(&told, &truth);
            for by in [By::Function, By::Stack, By::Thread, By::Reason, By::Waker] {
                let rows = snapshot.rows(by, true);
                let all: u64 = truth.values().map(|it| it.1).sum();
                prop_assert_eq!(rows.blocked_ns, all);
            }
        }
    }
}
