//! The sink of the live table: adds up, while a thread of its own shows tables. That thread asks for one when it wants one,
//! and gets it at the next tick of the session, which alone knows what is open; so sums and open calls are of one moment.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::requests::{Back, Requests, Table, end_session};
use super::{Batch, Snapshot, State, Tally, terminal};
use crate::analysis::overhead::Cost;
use crate::analysis::pairing::{Pairing, Step};
use crate::analysis::totals::Rows;
use crate::clock;
use crate::console::Console;
use crate::engine::Wish;
use crate::event::Session;
use crate::export::{End, Sink, is_closed};
use crate::threads;

/// How long a table waits for sums of the engine.
const PATIENCE: Duration = Duration::from_secs(3);

/// How the table is shown.
#[derive(Debug)]
pub enum Shown {
    /// On the terminal, which is covered meanwhile.
    OnScreen(State),
    /// As lines.
    AsLines(Batch),
}

/// See the head of the module.
#[derive(Debug)]
pub struct Live {
    tally: Tally,
    /// Whether an engine that can is to add up itself: in the kernel, or in the program.
    in_kernel: bool,
    requests: Arc<Requests>,
    /// Since when a table is waited for.
    asked: Option<Instant>,
    /// What the engine is to be asked for next.
    wants_anew: bool,
    wants_sums: bool,
    shown: Option<Shown>,
    back: Option<Back>,
    console: Console,
    worker: Option<(Sender<Table>, JoinHandle<io::Result<()>>)>,
}

impl Live {
    /// A table of these sums. Where it may be `in_kernel`, an engine that can adds up itself.
    pub fn new(tally: Tally, in_kernel: bool, shown: Shown, console: &Console) -> Live {
        Live {
            tally,
            in_kernel,
            requests: Arc::default(),
            asked: None,
            wants_anew: false,
            wants_sums: false,
            shown: Some(shown),
            back: None,
            console: console.clone(),
            worker: None,
        }
    }

    /// The same with a way to samples.
    pub(crate) fn with_way_back(mut self, back: Back) -> Live {
        self.back = Some(back);
        self
    }

    fn show(&mut self, snapshot: Snapshot, last: bool) {
        self.asked = None;
        if let Some((tables, _)) = &self.worker {
            // When it has ended, it has seen to the end of the session as well.
            let _ = tables.send(Table { snapshot, last });
        }
    }

    fn end(&mut self) -> io::Result<()> {
        let Some((tables, worker)) = self.worker.take() else {
            return Ok(());
        };
        drop(tables);
        worker.join().unwrap_or(Ok(()))
    }
}

impl Sink for Live {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.in_kernel &= ["stap", "direct"].contains(&session.engine.as_str());
        self.tally.begin(session);
        let (sender, tables) = unbounded();
        let requests = Arc::clone(&self.requests);
        let worker = match self.shown.take() {
            Some(Shown::AsLines(mut batch)) => {
                batch.filter.clone_from(&session.filter);
                threads::spawn(move || lines(batch, &tables, &requests))?
            }
            Some(Shown::OnScreen(mut state)) => {
                state.only.clone_from(&session.filter);
                let cover = self.console.cover();
                let back = self.back.take();
                state.has_samples = back.is_some();
                threads::spawn(move || {
                    let session = terminal::Session {
                        tables: &tables,
                        cover: &cover,
                        requests: &requests,
                        back: back.as_ref(),
                    };
                    let shown = terminal::show(state, Some(session));
                    if shown.is_err() {
                        end_session();
                    }
                    shown
                })?
            }
            None => return Ok(()),
        };
        self.worker = Some((sender, worker));
        Ok(())
    }

    fn event_cost(&mut self, cost: Cost) {
        self.tally.event_cost(cost);
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        self.tally.take(step);
        Ok(())
    }

    fn tick(&mut self, now: u64, pairing: &Pairing) -> io::Result<()> {
        if self.requests.take_anew() {
            self.tally.reset(now);
            self.wants_anew = self.in_kernel;
        }
        if self.requests.take_table() {
            self.asked.get_or_insert_with(Instant::now);
            self.wants_sums = self.in_kernel;
        }
        let patience = if self.in_kernel {
            PATIENCE
        } else {
            Duration::ZERO
        };
        if self.asked.is_some_and(|asked| asked.elapsed() >= patience) {
            self.show(self.tally.snapshot(pairing, now), false);
        }
        Ok(())
    }

    fn rows(&mut self, rows: Rows) {
        self.tally.take_rows(rows);
        if self.asked.is_some()
            && let Some(snapshot) = self.tally.snapshot_of_rows()
        {
            self.show(snapshot, false);
        }
    }

    fn wish(&mut self) -> Option<Wish> {
        if std::mem::take(&mut self.wants_anew) {
            return Some(Wish::Anew);
        }
        std::mem::take(&mut self.wants_sums).then_some(Wish::Sums)
    }

    fn finish(mut self: Box<Self>, end: &End<'_>) -> io::Result<Option<String>> {
        let snapshot = self.tally.snapshot(end.pairing, clock::now());
        self.show(snapshot, true);
        self.end()?;
        Ok(None)
    }
}

impl Drop for Live {
    /// However the session ended, the terminal is given back.
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Writes a table at every interval, and the last one at the end.
fn lines(mut batch: Batch, tables: &Receiver<Table>, requests: &Requests) -> io::Result<()> {
    let mut written = 0;
    let mut due = Instant::now() + batch.interval;
    loop {
        let table = match tables.recv_deadline(due) {
            Ok(table) => table,
            Err(RecvTimeoutError::Timeout) => {
                // From when it was due and not from when it came, so that no time adds up.
                due = (due + batch.interval).max(Instant::now());
                requests.table();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        if let Err(error) = batch.write(table.snapshot) {
            end_session();
            return if is_closed(&error) {
                Ok(())
            } else {
                Err(error)
            };
        }
        written += 1;
        if table.last {
            return Ok(());
        }
        if batch.count.is_some_and(|count| written >= count) {
            end_session();
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::analysis::testing::{call, returned};
    use crate::console::{ColorWhen, Verbosity};
    use crate::event::Summary;
    use crate::export::Output;
    use crate::view::hot;

    /// A sink that writes tables to a file of this path when they are asked for.
    fn live(path: &std::path::Path, interval: Duration, since: Option<Snapshot>) -> Box<Live> {
        let batch = Batch {
            output: Output::to_file(path),
            interval,
            count: None,
            limit: 5,
            sort: hot::Column::SelfTime,
            by_process: false,
            json: true,
            filter: None,
            idle: false,
            since,
        };
        let console = Console::stderr(Verbosity::Quiet, ColorWhen::Never);
        Box::new(Live::new(
            Tally::new(),
            false,
            Shown::AsLines(batch),
            &console,
        ))
    }

    fn tables(path: &std::path::Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).expect("written");
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().expect("JSON")
    }

    #[test]
    fn a_batch_ends_with_the_table_of_the_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out");
        let mut sink = live(&path, Duration::from_secs(3600), None);
        sink.session(&Session::default()).expect("a file");
        let mut pairing = Pairing::new();
        for mut event in [call(1_000, "f"), returned(6_000, "f")] {
            let step = pairing.follow(&mut event).expect("an event");
            sink.step(&step).expect("a file");
        }
        sink.finish(&End::new(&Summary::default(), &pairing))
            .expect("a file");
        let tables = tables(&path);
        assert_eq!(tables.len(), 1);
        assert_eq!(tables[0]["functions"][0]["function"], "f");
        assert_eq!(tables[0]["functions"][0]["durations"]["max_ns"], 5_000);
    }

    #[test]
    fn a_table_in_the_midst_has_the_calls_that_are_open_at_that_moment() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out");
        let mut sink = live(&path, Duration::from_millis(1), None);
        sink.session(&Session::default()).expect("a file");
        let mut pairing = Pairing::new();
        let mut event = call(1_000, "f");
        let step = pairing.follow(&mut event).expect("an event");
        sink.step(&step).expect("a file");
        let end = Instant::now() + Duration::from_secs(60);
        while std::fs::read(&path).is_ok_and(|written| written.is_empty()) {
            assert!(Instant::now() < end, "no table came");
            sink.tick(9_000, &pairing).expect("a file");
            std::thread::park_timeout(Duration::from_millis(1));
        }
        sink.finish(&End::new(&Summary::default(), &pairing))
            .expect("a file");
        let first = tables(&path).swap_remove(0);
        assert_eq!(first["functions"][0]["self_ns"], 8_000);
        assert_eq!(first["account"]["wall_ns"], 8_000);
    }

    #[test]
    fn tables_since_the_last_one_add_up_to_the_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out");
        let since = Some(Snapshot::default());
        let mut sink = live(&path, Duration::from_millis(1), since);
        sink.session(&Session::default()).expect("a file");
        let mut pairing = Pairing::new();
        let end = Instant::now() + Duration::from_secs(60);
        let mut events = [call(1_000, "f"), returned(6_000, "f"), call(8_000, "f")].into_iter();
        let mut written = 0;
        for now in [7_000, 9_000] {
            for mut event in events.by_ref().take(2) {
                let step = pairing.follow(&mut event).expect("an event");
                sink.step(&step).expect("a file");
            }
            let before = written;
            while written == before {
                assert!(Instant::now() < end, "no table came");
                sink.tick(now, &pairing).expect("a file");
                std::thread::park_timeout(Duration::from_millis(1));
                written = tables(&path).len();
            }
        }
        let tables = tables(&path);
        let rows: Vec<&Value> = tables
            .iter()
            .flat_map(|table| table["functions"].as_array().expect("rows"))
            .collect();
        let numbers = |name: &str| -> Vec<u64> {
            rows.iter()
                .map(|row| row[name].as_u64().expect("a number"))
                .collect()
        };
        assert_eq!(numbers("calls"), [1, 1]);
        assert_eq!(numbers("self_ns"), [5_000, 1_000]);
        let wall = tables
            .iter()
            .map(|table| table["account"]["wall_ns"].as_u64().expect("a number"));
        assert_eq!(wall.sum::<u64>(), 8_000);
        sink.finish(&End::new(&Summary::default(), &pairing))
            .expect("a file");
    }
}
