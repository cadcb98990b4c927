//! The sink that feeds a registry: single events where they come, and what an engine has added up itself where it does. Of the
//! latter it is told whole sums, of which it adds what is new.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::family::Family;
use super::registry::{Pushes, Registry, Sums};
use crate::analysis::functions::MOST_ROWS;
use crate::analysis::histogram::Histogram;
use crate::analysis::keys::{FunctionKey, KeyBuilder};
use crate::analysis::pairing::{Pairing, Step};
use crate::analysis::totals::{About, Row, Rows};
use crate::console::Console;
use crate::engine::Wish;
use crate::event::{Manner, Place, Session, What};
use crate::export::latencies::asked_for;
use crate::export::{End, Sink};
use crate::process;
use crate::script::filter::Glob;

/// How often an engine that adds up is asked for its sums, and processes are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How long the service of a process that has ended is known: the last that it did may still be on its way.
const KEPT: Duration = Duration::from_secs(60);
/// Functions of which it is remembered whether they are wanted.
const MOST_KNOWN: usize = 1 << 16;
/// Processes whose services are known at once.
const MOST_PROCESSES: usize = 1 << 14;

/// The registry, for those who feed it and those who ask.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<Registry>>);

impl Shared {
    /// A registry with room for this many functions.
    pub(crate) fn new(most: usize) -> Shared {
        Shared(Arc::new(Mutex::new(Registry::new(most))))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What somebody makes of all numbers who asked for them.
    pub(super) fn scraped<T>(&self, make: impl FnOnce(&[Family<'_>]) -> T) -> T {
        let mut registry = self.lock();
        registry.scraped();
        make(&registry.families())
    }

    /// How pushing goes by now.
    pub(crate) fn pushes(&self, pushes: Pushes) {
        self.lock().pushes = pushes;
    }
}

/// See the head of the module.
#[derive(Debug)]
pub(crate) struct Watching {
    shared: Shared,
    console: Console,
    /// How many functions have a series, for what is said.
    most: usize,
    /// Whether an engine that can is asked for sums.
    sums: bool,
    due: Instant,
    wishes: bool,
    /// Which service a process belongs to, and since when it has ended, if it has.
    services: BTreeMap<u32, (usize, Option<Instant>)>,
    /// The functions that are wanted, where an engine may tell others, too; and which of those that came are.
    wanted: Vec<Glob>,
    known: HashMap<FunctionKey, bool, KeyBuilder>,
    /// What an engine has told last of each function of each process.
    told: HashMap<(u32, u64), Row, KeyBuilder>,
    is_told: bool,
}

impl Watching {
    /// Feeds this registry with the functions that are wanted. Where it may have `sums`, an engine that can adds up itself.
    pub(crate) fn new(
        shared: Shared,
        wanted: &[Glob],
        most: usize,
        sums: bool,
        console: &Console,
    ) -> Watching {
        // A filter of names and one of files let every name through in every file.
        let is_exact = wanted.len() == 1 || wanted.iter().all(|glob| !glob.as_str().contains(':'));
        Watching {
            wanted: match is_exact {
                true => Vec::new(),
                false => wanted.to_vec(),
            },
            known: HashMap::default(),
            shared,
            console: console.clone(),
            most,
            sums,
            due: Instant::now(),
            wishes: false,
            services: BTreeMap::new(),
            told: HashMap::default(),
            is_told: false,
        }
    }

    /// The service of a process, looked up once while it runs.
    fn service(&mut self, pid: u32) -> usize {
        if let Some((service, _)) = self.services.get(&pid) {
            return *service;
        }
        let name = process::service_of(pid).unwrap_or_else(|| super::registry::OTHER.to_owned());
        let service = self.shared.lock().service(&name);
        if self.services.len() < MOST_PROCESSES {
            self.services.insert(pid, (service, None));
        }
        service
    }

    fn is_wanted(&mut self, place: &Place) -> bool {
        if self.wanted.is_empty() {
            return true;
        }
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        let wanted = &self.wanted;
        let known = self.known.entry(FunctionKey::of(place));
        *known.or_insert_with(|| asked_for(wanted, place))
    }

    fn add(&mut self, pid: u32, place: &Arc<Place>, more: &Sums) {
        if !self.is_wanted(place) {
            return;
        }
        let service = self.service(pid);
        let is_first = self.shared.lock().add(service, place, more);
        self.say_other(is_first);
    }

    fn say_other(&mut self, is_first: bool) {
        if is_first && !std::mem::replace(&mut self.is_told, true) {
            self.console.warning(format_args!(
                "more than {} functions are called: those that come from now on are counted together, as function=\"other\"; name fewer \
                 of them by --function, or allow more by --max-series",
                self.most
            ));
        }
    }

    fn say_no_room(&mut self, is_first: bool) {
        if is_first && !std::mem::replace(&mut self.is_told, true) {
            self.console.warning(format_args!(
                "the table that sums are made in is full: functions that it has no row of are counted together, as function=\"other\"; \
                 name fewer of them by --function, or use --engine direct, whose tables go with their processes"
            ));
        }
    }

    /// What a row says more than the last time.
    fn take(&mut self, row: Row) {
        let key = (row.pid, row.key);
        let before = self.told.get(&key);
        if before.is_none() && self.told.len() >= MOST_ROWS {
            // No engine has as many; one that says so is not believed.
            return;
        }
        // Fewer than before are of another process that has the number now, or counted anew.
        let before = before.filter(|it| it.calls <= row.calls && it.timed <= row.timed);
        let more = since(&row, before);
        match &row.about {
            About::Function(place) => {
                let place = Arc::clone(place);
                self.add(row.pid, &place, &more);
            }
            About::Collections => {
                let service = self.service(row.pid);
                // Those whose beginning was seen.
                let count = more.durations.count();
                let mut registry = self.shared.lock();
                registry.collected(service, None, count, &more.durations);
            }
            About::NoRoom => {
                self.shared.lock().add_other(&more);
                self.say_no_room(more.calls > 0);
            }
        }
        self.told.insert(key, row);
    }

    /// Forgets processes that have ended, and counts the others.
    fn look(&mut self) {
        self.services
            .retain(|pid, (_, ended)| match (process::runs(*pid), *ended) {
                // Something else has its number.
                (true, Some(_)) => false,
                (true, None) => true,
                (false, since) => ended.insert(since.unwrap_or_else(Instant::now)).elapsed() < KEPT,
            });
        let running = self.services.values().filter(|(_, ended)| ended.is_none());
        let mut registry = self.shared.lock();
        registry.processes(running.map(|(service, _)| *service));
    }
}

/// What a row says more than an earlier one of its function and process, if there was one.
fn since(row: &Row, before: Option<&Row>) -> Sums {
    let of = |count: fn(&Row) -> u64| count(row).saturating_sub(before.map_or(0, count));
    Sums {
        calls: of(|row| row.calls),
        exceptions: 0,
        self_ns: of(|row| row.self_ns),
        durations: match before {
            Some(before) => row.durations.since(&before.durations),
            None => row.durations.clone(),
        },
    }
}

impl Sink for Watching {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.sums &= ["stap", "direct"].contains(&session.engine.as_str());
        let mut registry = self.shared.lock();
        registry.begin(&session.engine, session.ts);
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        let pid = step.event.pid;
        match &step.event.what {
            What::Call { place, .. } => {
                let more = Sums {
                    calls: 1,
                    ..Sums::default()
                };
                self.add(pid, place, &more);
            }
            What::Return { place, frame, .. } => {
                let Some(finished) = &step.finished else {
                    return Ok(());
                };
                let left = frame.manner == Manner::Exception;
                let mut more = Sums {
                    calls: u64::from(finished.measured),
                    exceptions: u64::from(left),
                    self_ns: finished.self_ns,
                    durations: Histogram::new(),
                };
                if let Some(ns) = finished.inclusive_ns.filter(|_| finished.likely) {
                    more.durations.add(ns);
                }
                if left {
                    self.shared.lock().tells_exceptions();
                }
                self.add(pid, place, &more);
            }
            What::GcDone {
                generation,
                pause_ns,
                ..
            } => {
                let mut pauses = Histogram::new();
                pause_ns.iter().for_each(|ns| pauses.add(*ns));
                let service = self.service(pid);
                let mut registry = self.shared.lock();
                registry.collected(service, *generation, 1, &pauses);
            }
            What::Wait(wait) => {
                let ns = wait
                    .blocked_ns
                    .saturating_add(wait.runqueue_ns.unwrap_or_default());
                let service = self.service(pid);
                self.shared.lock().waited(service, wait.reason, ns);
            }
            What::Lost { count, stage, .. } => self.shared.lock().lost(*stage, *count),
            _ => {}
        }
        Ok(())
    }

    fn tick(&mut self, _now: u64, pairing: &Pairing) -> io::Result<()> {
        if self.due > Instant::now() {
            return Ok(());
        }
        self.due = Instant::now() + EVERY;
        self.wishes = self.sums;
        if !self.sums {
            self.shared.lock().unpaired(pairing.unpaired().total());
        }
        self.look();
        Ok(())
    }

    fn rows(&mut self, rows: Rows) {
        if rows.anew {
            self.told.clear();
        }
        self.shared.lock().unpaired(rows.unpaired);
        for row in rows.rows {
            self.take(row);
        }
        if !rows.left.is_empty() {
            self.told.retain(|(pid, _), _| !rows.left.contains(pid));
        }
    }

    fn wish(&mut self) -> Option<Wish> {
        std::mem::take(&mut self.wishes).then_some(Wish::LastSums)
    }

    fn finish(self: Box<Self>, _end: &End<'_>) -> io::Result<Option<String>> {
        self.shared.lock().end();
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{call, event, place, returned};
    use crate::console::{ColorWhen, Verbosity};
    use crate::event::{LossStage, Reason, Summary, Wait};
    use crate::metrics::exposition::{Format, text};

    fn watching(wanted: &[&str]) -> (Shared, Watching) {
        let wanted: Vec<Glob> = wanted
            .iter()
            .map(|it| Glob::new(it).expect("a glob"))
            .collect();
        let shared = Shared::new(10);
        let console = Console::stderr(Verbosity::Quiet, ColorWhen::Never);
        let watching = Watching::new(shared.clone(), &wanted, 10, true, &console);
        (shared, watching)
    }

    /// Lines of what there is now that begin so, without the labels of who and where.
    fn lines(shared: &Shared, begin: &str) -> Vec<String> {
        let text = text(&shared.lock().families(), Format::Text);
        let lines = text.lines().filter(|line| line.starts_with(begin));
        let without = |line: &str| match line.split_once("service=\"") {
            Some((before, rest)) => {
                let (_, after) = rest.split_once("\",").unwrap_or_default();
                format!("{before}{after}")
            }
            None => line.to_owned(),
        };
        lines.map(without).collect()
    }

    fn row(pid: u32, function: &str, calls: u64) -> Row {
        let durations = Histogram::of_buckets([(17, calls)], 70_000 * calls, 70_000, 70_000);
        Row {
            pid,
            key: FunctionKey::of(&place(function)).number(),
            about: About::Function(place(function)),
            line: 1,
            several_lines: false,
            calls,
            unmatched: 0,
            self_ns: 50_000 * calls,
            cumulative_ns: 70_000 * calls,
            timed: calls,
            timed_ns: 70_000 * calls,
            durations,
        }
    }

    /// Processes that nobody has.
    const WORKER: u32 = 0x7fff_fff0;
    const ANOTHER: u32 = 0x7fff_fff1;

    fn told(watching: &mut Watching, rows: Vec<Row>, left: &[u32]) {
        watching.rows(Rows {
            rows,
            left: left.to_vec(),
            ..Rows::default()
        });
    }

    #[test]
    fn counters_never_go_back_when_workers_end_and_their_numbers_are_used_again() {
        let (shared, mut watching) = watching(&["f"]);
        let calls = || lines(&shared, "pystap_calls_total");
        let f = |calls| format!("pystap_calls_total{{file=\"app.py\",function=\"f\"}} {calls}");
        told(
            &mut watching,
            vec![row(WORKER, "f", 5), row(ANOTHER, "f", 2)],
            &[],
        );
        assert_eq!(calls(), [f(7)]);
        told(
            &mut watching,
            vec![row(WORKER, "f", 6), row(ANOTHER, "f", 2)],
            &[WORKER],
        );
        assert_eq!(calls(), [f(8)]);
        // Another process has the number, and has done more than the first.
        told(
            &mut watching,
            vec![row(WORKER, "f", 9), row(ANOTHER, "f", 3)],
            &[],
        );
        assert_eq!(calls(), [f(18)]);
        // An engine that began anew without a word.
        told(&mut watching, vec![row(ANOTHER, "f", 1)], &[]);
        assert_eq!(calls(), [f(19)]);
        let count = lines(&shared, "pystap_call_duration_seconds_count");
        assert!(count[0].ends_with(" 19"), "{count:?}");
        let sum = lines(&shared, "pystap_call_duration_seconds_sum");
        assert!(sum[0].ends_with(" 0.00133"), "{sum:?}");
        assert!(watching.told.len() <= 2);
    }

    #[test]
    fn a_day_of_workers_takes_no_more_room_than_one_and_none_of_their_calls_is_missing() {
        let (shared, mut watching) = watching(&["f"]);
        // One a minute.
        for minute in 0..24 * 60 {
            let pid = WORKER + minute % 8;
            told(&mut watching, vec![row(pid, "f", 3)], &[]);
            told(&mut watching, vec![row(pid, "f", 5)], &[pid]);
            assert_eq!(watching.told.len(), 0);
        }
        let calls = lines(&shared, "pystap_calls_total");
        assert!(
            calls[0].ends_with(&format!(" {}", 5 * 24 * 60)),
            "{calls:?}"
        );
        assert!(watching.services.len() <= 8);
    }

    #[test]
    fn only_what_was_asked_for_is_counted_where_files_and_names_were_mixed() {
        let (shared, mut watching) = watching(&["app.py:f", "g", "other.py:h"]);
        let rows = ["f", "g", "h"].map(|name| row(WORKER, name, 1));
        told(&mut watching, rows.to_vec(), &[]);
        let calls = lines(&shared, "pystap_calls_total");
        let functions: Vec<bool> = ["f", "g", "h"]
            .iter()
            .map(|name| {
                calls
                    .iter()
                    .any(|line| line.contains(&format!("function=\"{name}\"")))
            })
            .collect();
        assert_eq!(functions, [true, true, false], "{calls:?}");
    }

    #[test]
    fn single_events_are_counted_with_exceptions_collections_waits_and_losses() {
        let (shared, watching) = watching(&["f"]);
        let mut sink: Box<dyn Sink> = Box::new(watching);
        sink.session(&Session::default()).expect("memory");
        let mut pairing = Pairing::new();
        let mut failed = returned(90_000, "f");
        if let What::Return { frame, .. } = &mut failed.what {
            frame.manner = Manner::Exception;
        }
        let wait = Wait {
            reason: Some(Reason::Lock),
            syscall: None,
            on: None,
            blocked_ns: 2_000_000_000,
            runqueue_ns: Some(500_000_000),
            waker: None,
        };
        let done = What::GcDone {
            generation: None,
            collected: 1,
            pause_ns: None,
        };
        let lost = What::Lost {
            count: 3,
            stage: LossStage::Kernel,
            message: String::new(),
        };
        let events = [
            call(1_000, "f"),
            returned(80_000, "f"),
            call(85_000, "f"),
            failed,
            event(91_000, What::GcStart { generation: 2 }),
            event(95_000, done),
            event(96_000, What::Wait(Box::new(wait))),
            event(97_000, lost),
        ];
        for mut event in events {
            let step = pairing.follow(&mut event).expect("an event");
            sink.step(&step).expect("memory");
        }
        let line = |begin: &str| lines(&shared, begin).join("\n");
        assert!(line("pystap_calls_total").ends_with(" 2"));
        assert!(line("pystap_exceptions_total").ends_with(" 1"));
        let bucket = "pystap_call_duration_seconds_bucket{file=\"app.py\",function=\"f\",le=\"0.000065536\"} 1";
        assert!(lines(&shared, "pystap_call").contains(&bucket.to_owned()));
        assert!(line("pystap_gc_collections_total").ends_with("generation=\"2\"} 1"));
        assert!(line("pystap_gc_pause_seconds_sum").ends_with(" 0.000004"));
        assert!(line("pystap_wait_seconds_total").ends_with("reason=\"lock\"} 2.5"));
        assert!(line("pystap_lost_events_total{stage=\"kernel\"}").ends_with(" 3"));
        assert!(line("pystap_up").ends_with(" 1"));
        sink.finish(&End::new(&Summary::default(), &pairing))
            .expect("memory");
        assert!(line("pystap_up").ends_with(" 0"));
    }
}
