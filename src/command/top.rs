//! `pystap top`, `gc` and `stats`: a trace whose events are added up instead of written. Tables are taken from the sums
//! at intervals, on the terminal or as lines; summaries come at the end.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use ratatui::crossterm;
use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};

use super::{Failure, session, trace};
use crate::analysis::functions::Function;
use crate::analysis::latency::Latencies;
use crate::analysis::pairing::{Habits, Pairing};
use crate::analysis::totals::Rows;
use crate::cli;
use crate::console::{Console, Exit};
use crate::engine::Wish;
use crate::event::{Event, Place, Session, Summary};
use crate::export::{Output, Sink, is_closed};
use crate::script::filter::Glob;
use crate::top::{Action, Snapshot, State, Tally, input, view};
use crate::view::{hot, latencies, pauses};

/// How often keys are looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How long a table waits for sums of the kernel.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often everything is painted anew: a message on standard error may have been written across the table.
const REPAINT: Duration = Duration::from_secs(5);

/// A trace of these targets whose output is ours.
fn as_trace(
    targets: &cli::TargetArgs,
    of: Option<&String>,
    what: cli::WhatArgs,
    engine: &cli::EngineArgs,
    duration: Option<Duration>,
) -> cli::Trace {
    let mut targets = targets.clone();
    if let Some(of) = of {
        targets.service = Some(of.clone());
    }
    cli::Trace {
        targets,
        what,
        output: cli::OutputArgs {
            duration,
            max_events: None,
            format: None,
            output: None,
        },
        engine: engine.clone(),
        dry_run: false,
        compile_only: false,
        kernel: None,
        exit_with_command: false,
    }
}

/// What is traced, in a few words.
fn title(targets: &cli::TargetArgs, of: Option<&String>) -> String {
    if let Some(service) = of.or(targets.service.as_ref()) {
        return service.clone();
    }
    if !targets.command.is_empty() {
        let words: Vec<_> = targets
            .command
            .iter()
            .map(|it| it.to_string_lossy())
            .collect();
        return words.join(" ");
    }
    if let Some(pattern) = &targets.pattern {
        return pattern.to_string();
    }
    let pids: Vec<String> = targets.pids.iter().map(ToString::to_string).collect();
    pids.join(", ")
}

/// The trace behind a live table.
fn table_trace(arguments: &cli::Top) -> cli::Trace {
    let mut what = arguments.what.clone();
    // Single calls that are long enough are measured by another template.
    what.totals = !arguments.no_kernel_totals && what.min_duration.is_none();
    cli::Trace {
        dry_run: arguments.dry_run,
        compile_only: arguments.compile_only,
        kernel: arguments.kernel.clone(),
        ..as_trace(
            &arguments.targets,
            arguments.of.as_ref(),
            what,
            &arguments.engine,
            arguments.duration,
        )
    }
}

/// The script of the live table.
pub(super) fn script(arguments: &cli::Top) -> Result<Exit, Failure> {
    trace::script(&table_trace(arguments))
}

/// The live table.
pub(super) fn top(arguments: &cli::Top, console: &Console) -> Result<u8, Failure> {
    let shows = !(arguments.dry_run || arguments.compile_only);
    let on_screen = shows && !(arguments.batch || arguments.json);
    if on_screen && !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        return Err(Failure::new(
            Exit::Usage,
            "standard input or output is not a terminal, so the live table cannot be shown; use --batch for lines or --json for programs",
        ));
    }
    let trace_arguments = table_trace(arguments);
    let make = |output: Output, habits: Habits| -> Box<dyn Sink> {
        let interval = arguments
            .interval
            .as_millis()
            .try_into()
            .unwrap_or(u64::MAX);
        let title = title(&arguments.targets, arguments.of.as_ref());
        let state = State::new(title, arguments.sort, interval);
        Box::new(Live {
            tally: Arc::new(Mutex::new(Tally::new(habits))),
            in_kernel: trace_arguments.what.totals,
            asking: Arc::default(),
            batch: (!on_screen).then(|| Batch {
                output,
                interval: arguments.interval,
                count: arguments.count,
                limit: arguments.limit,
                sort: arguments.sort,
                by_process: arguments.by_process,
                json: arguments.json,
            }),
            state: Some(state),
            worker: None,
        })
    };
    trace::run_into(&trace_arguments, console, &make)
}

/// Garbage collections, at the end.
pub(super) fn gc(arguments: &cli::Gc, console: &Console) -> Result<u8, Failure> {
    let kinds: &[&str] = match arguments.functions {
        true => &["gc", "call", "return"],
        false => &["gc"],
    };
    let what = cli::WhatArgs {
        events: kinds.iter().map(ToString::to_string).collect(),
        ..cli::WhatArgs::default()
    };
    let trace_arguments = as_trace(
        &arguments.targets,
        arguments.of.as_ref(),
        what,
        &arguments.engine,
        arguments.duration,
    );
    let make = |output: Output, habits: Habits| -> Box<dyn Sink> {
        Box::new(Pauses {
            output,
            tally: Tally::new(habits),
            start: 0,
            limit: arguments.limit,
            json: arguments.json,
        })
    };
    trace::run_into(&trace_arguments, console, &make)
}

/// Latencies of single functions, at the end.
pub(super) fn stats(arguments: &cli::Stats, console: &Console) -> Result<u8, Failure> {
    let what = cli::WhatArgs {
        events: vec!["call".to_owned(), "return".to_owned()],
        // Who calls is seen only where everything is.
        functions: match arguments.callers {
            true => Vec::new(),
            false => arguments.functions.clone(),
        },
        ..cli::WhatArgs::default()
    };
    let trace_arguments = as_trace(
        &arguments.targets,
        None,
        what,
        &arguments.engine,
        arguments.duration,
    );
    let make = |output: Output, habits: Habits| -> Box<dyn Sink> {
        Box::new(Slow {
            output,
            pairing: Pairing::with_habits(habits),
            latencies: Latencies::new(arguments.limit),
            wanted: arguments.functions.clone(),
            start: 0,
            json: arguments.json,
        })
    };
    trace::run_into(&trace_arguments, console, &make)
}

/// How tables are written as lines.
struct Batch {
    output: Output,
    interval: Duration,
    count: Option<u64>,
    limit: usize,
    sort: hot::Column,
    by_process: bool,
    json: bool,
}

impl Batch {
    fn write(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let functions = &snapshot.functions;
        let rows = match self.by_process {
            true => functions.rows().to_vec(),
            false => functions.merged(),
        };
        let order = hot::order(&rows, self.sort, false, |_| true);
        let shown = order.iter().take(self.limit).filter_map(|&at| rows.get(at));
        let account = &snapshot.account;
        let mut text = String::new();
        if self.json {
            let rows: Vec<Value> = shown.map(hot::row_json).collect();
            let table = json!({ "account": hot::account_json(account), "functions": rows });
            text = format!("{table}\n");
        } else {
            table(shown, account, self.by_process, &mut text);
            text.push('\n');
        }
        self.output.write_all(text.as_bytes())?;
        self.output.flush()
    }
}

fn table<'a>(
    rows: impl Iterator<Item = &'a Function>,
    account: &hot::Account,
    by_process: bool,
    text: &mut String,
) {
    text.push_str(&format!(
        "{}\n{}\n",
        hot::account_line(account),
        hot::heading()
    ));
    for row in rows {
        text.push_str(&hot::line(row, account, by_process));
        text.push('\n');
    }
}

/// The sink of the live table: adds up, while a thread of its own shows the sums.
struct Live {
    tally: Arc<Mutex<Tally>>,
    /// Whether an engine that can is to add up itself.
    in_kernel: bool,
    asking: Arc<Asking>,
    batch: Option<Batch>,
    state: Option<State>,
    worker: Option<(Sender<()>, JoinHandle<io::Result<()>>)>,
}

/// What the thread that shows wants of the engine, where that adds up itself; whoever has the engine looks at it.
#[derive(Debug, Default)]
struct Asking {
    in_kernel: AtomicBool,
    sums: AtomicBool,
    anew: AtomicBool,
    /// How often sums have come.
    came: AtomicU64,
}

impl Asking {
    /// How often sums have come, where they come at all.
    fn came(&self) -> Option<u64> {
        let in_kernel = self.in_kernel.load(Ordering::Relaxed);
        in_kernel.then(|| self.came.load(Ordering::Relaxed))
    }

    /// Has the sums as they are now, unless they take too long or the session ends.
    fn fetch(&self, ended: &Receiver<()>) {
        let Some(before) = self.came() else { return };
        self.sums.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        while self.came() == Some(before) && Instant::now() < deadline {
            let wait = ended.recv_timeout(Duration::from_millis(10));
            if wait.is_err_and(|error| error.is_disconnected()) {
                return;
            }
        }
    }
}

/// A panic elsewhere has printed itself; what was counted is still good.
fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the session as Ctrl-C would.
fn end_session() {
    let _ = kill_process(getpid(), Signal::INT);
}

impl Sink for Live {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        let (sender, ended) = bounded(1);
        let tally = Arc::clone(&self.tally);
        let asking = Arc::clone(&self.asking);
        let in_kernel = self.in_kernel && session.engine == "stap";
        asking.in_kernel.store(in_kernel, Ordering::Relaxed);
        let worker = match (self.batch.take(), self.state.take()) {
            (Some(batch), _) => std::thread::spawn(move || lines(batch, &tally, &asking, &ended)),
            (None, Some(state)) => {
                std::thread::spawn(move || screen(state, &tally, &asking, &ended))
            }
            (None, None) => return Ok(()),
        };
        self.worker = Some((sender, worker));
        Ok(())
    }

    fn event(&mut self, event: &Event, _depth: usize) -> io::Result<()> {
        locked(&self.tally).take(event);
        Ok(())
    }

    fn rows(&mut self, rows: Rows) {
        locked(&self.tally).take_rows(rows);
        self.asking.came.fetch_add(1, Ordering::Relaxed);
    }

    fn wish(&mut self) -> Option<Wish> {
        if self.asking.anew.swap(false, Ordering::Relaxed) {
            return Some(Wish::Anew);
        }
        let sums = self.asking.sums.swap(false, Ordering::Relaxed);
        sums.then_some(Wish::Sums)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>, _summary: &Summary) -> io::Result<()> {
        self.end()
    }
}

impl Live {
    fn end(&mut self) -> io::Result<()> {
        let Some((sender, worker)) = self.worker.take() else {
            return Ok(());
        };
        drop(sender);
        worker.join().unwrap_or(Ok(()))
    }
}

impl Drop for Live {
    /// However the session ended, the terminal is given back.
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Writes a table at every interval, and the last one at the end.
fn lines(
    mut batch: Batch,
    tally: &Mutex<Tally>,
    asking: &Asking,
    ended: &Receiver<()>,
) -> io::Result<()> {
    let mut written = 0;
    loop {
        let running = ended
            .recv_timeout(batch.interval)
            .is_err_and(|error| error.is_timeout());
        if running {
            asking.fetch(ended);
        }
        let snapshot = locked(tally).snapshot(session::now());
        if let Err(error) = batch.write(&snapshot) {
            end_session();
            return if is_closed(&error) {
                Ok(())
            } else {
                Err(error)
            };
        }
        written += 1;
        if !running {
            return Ok(());
        }
        if batch.count.is_some_and(|count| written >= count) {
            end_session();
            return Ok(());
        }
    }
}

/// Shows the table until the session ends.
fn screen(
    mut state: State,
    tally: &Mutex<Tally>,
    asking: &Asking,
    ended: &Receiver<()>,
) -> io::Result<()> {
    let live = Some((asking, ended));
    let shown = on_terminal(&mut state, tally, live);
    if shown.is_err() {
        end_session();
    }
    shown
}

/// Shows the table of what is over, until somebody has seen enough.
pub(super) fn browse(title: &str, sort: hot::Column, tally: Tally) -> Result<(), Failure> {
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        return Err(Failure::new(
            Exit::Usage,
            "standard input or output is not a terminal, so the table cannot be browsed; leave out --browse",
        ));
    }
    let mut state = State::new(title, sort, 60_000);
    Ok(on_terminal(&mut state, &Mutex::new(tally), None)?)
}

fn on_terminal(
    state: &mut State,
    tally: &Mutex<Tally>,
    session: Option<(&Asking, &Receiver<()>)>,
) -> io::Result<()> {
    // Also restores the terminal when something panics.
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, state, tally, session);
    ratatui::restore();
    shown
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    state: &mut State,
    tally: &Mutex<Tally>,
    session: Option<(&Asking, &Receiver<()>)>,
) -> io::Result<()> {
    // What is over has no present: its last event is where its clock stands.
    let now = || session.map_or(0, |_| session::now());
    let mut due = Instant::now();
    let mut changed = true;
    let mut painted = Instant::now();
    let mut came = None;
    loop {
        let asking = session.and_then(|(asking, _)| Some((asking, asking.came()?)));
        let is_due = Instant::now() >= due;
        if is_due {
            due = Instant::now() + Duration::from_millis(state.interval_ms());
        }
        if let (true, Some((asking, _))) = (is_due, asking) {
            asking.sums.store(true, Ordering::Relaxed);
        }
        // Sums of the kernel are shown when they have come.
        let shows = match asking {
            Some((_, now)) => came.replace(now) != Some(now),
            None => is_due,
        };
        if shows {
            let snapshot = locked(tally).snapshot(now());
            state.show(snapshot);
            changed = true;
        }
        if changed {
            if painted.elapsed() >= REPAINT {
                painted = Instant::now();
                terminal.clear()?;
            }
            terminal.draw(|frame| view::draw(frame, state))?;
            changed = false;
        }
        if session.is_some_and(|(_, ended)| ended.try_recv().is_err_and(|it| it.is_disconnected()))
        {
            return Ok(());
        }
        let wait = due.saturating_duration_since(Instant::now()).min(LOOK);
        if !crossterm::event::poll(wait)? {
            continue;
        }
        changed = true;
        let Some(key) = input::key(&crossterm::event::read()?) else {
            continue;
        };
        match state.key(key) {
            Action::Draw => {}
            Action::Pace => due = Instant::now(),
            Action::Reset if session.is_none() => {
                state.say("a recording is over, so there is nothing to count anew")
            }
            Action::Reset => {
                locked(tally).reset(now());
                if let Some((asking, _)) = asking {
                    asking.anew.store(true, Ordering::Relaxed);
                }
                due = Instant::now();
            }
            // The table stays until the session has ended in good order.
            Action::Quit if session.is_some() => end_session(),
            Action::Quit => return Ok(()),
            Action::Export => match export(state) {
                Ok(path) => state.say(format!("written to {}", path.display())),
                Err(error) => state.say(format!(
                    "not written ({error}); start pystap in a directory that is writable"
                )),
            },
        }
    }
}

/// Writes the table as it is shown to a new file in the working directory.
fn export(state: &State) -> io::Result<PathBuf> {
    let path = PathBuf::from(format!("pystap-top-{}.txt", session::now() / 1_000_000_000));
    let mut text = String::new();
    table(state.rows(), state.account(), !state.is_merged(), &mut text);
    let mut file = File::create_new(&path)?;
    file.write_all(text.as_bytes())?;
    Ok(path)
}

/// The sink of `pystap gc`.
struct Pauses {
    output: Output,
    tally: Tally,
    start: u64,
    limit: usize,
    json: bool,
}

impl Sink for Pauses {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.start = session.ts;
        Ok(())
    }

    fn event(&mut self, event: &Event, _depth: usize) -> io::Result<()> {
        self.tally.take(event);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>, summary: &Summary) -> io::Result<()> {
        let collections = self.tally.collections();
        let wall = summary.wall_ns;
        let text = match self.json {
            true => format!("{}\n", pauses::json(collections, wall, self.limit)),
            false => pauses::text(collections, wall, self.start, self.limit),
        };
        self.output.write_all(text.as_bytes())?;
        self.output.flush()
    }
}

/// The sink of `pystap stats`.
struct Slow {
    output: Output,
    pairing: Pairing,
    latencies: Latencies,
    wanted: Vec<Glob>,
    start: u64,
    json: bool,
}

impl Sink for Slow {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.start = session.ts;
        Ok(())
    }

    fn event(&mut self, event: &Event, _depth: usize) -> io::Result<()> {
        let mut event = event.clone();
        if let Some(step) = self.pairing.follow(&mut event) {
            let asks = |place: &Place| {
                let name = place.function.text.as_bytes();
                self.wanted.iter().any(|glob| glob.matches(name))
            };
            self.latencies.take(&event, &step, asks);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>, _summary: &Summary) -> io::Result<()> {
        let text = match (self.json, self.latencies.is_empty()) {
            (true, _) => format!("{}\n", latencies::json(&self.latencies)),
            (false, true) => "none of these functions was called\n".to_owned(),
            (false, false) => latencies::text(&self.latencies, self.start),
        };
        self.output.write_all(text.as_bytes())?;
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{call, returned};
    use crate::export::Output;

    fn written(sink: impl FnOnce(Output) -> Box<dyn Sink>) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out");
        let output = Output::open(Some(&path), Arc::default()).expect("a file");
        let mut sink = sink(output);
        sink.session(&Session::default()).expect("a file");
        for event in [call(1_000, "f"), returned(6_000, "f")] {
            sink.event(&event, 0).expect("a file");
        }
        let summary = Summary {
            wall_ns: 10_000,
            ..Summary::default()
        };
        sink.finish(&summary).expect("a file");
        std::fs::read_to_string(path).expect("written")
    }

    #[test]
    fn a_batch_ends_with_the_table_of_the_whole() {
        let text = written(|output| {
            Box::new(Live {
                tally: Arc::new(Mutex::new(Tally::new(Habits::default()))),
                in_kernel: false,
                asking: Arc::default(),
                batch: Some(Batch {
                    output,
                    interval: Duration::from_secs(3600),
                    count: None,
                    limit: 5,
                    sort: hot::Column::SelfTime,
                    by_process: false,
                    json: true,
                }),
                state: None,
                worker: None,
            })
        });
        let table: Value = serde_json::from_str(&text).expect("one line");
        assert_eq!(table["functions"][0]["function"], "f");
        assert_eq!(table["functions"][0]["durations"]["max_ns"], 5_000);
    }

    #[test]
    fn stats_say_how_long_the_function_took() {
        let text = written(|output| {
            Box::new(Slow {
                output,
                pairing: Pairing::new(),
                latencies: Latencies::new(3),
                wanted: vec![Glob::new("f*").expect("a glob")],
                start: 0,
                json: false,
            })
        });
        assert!(
            text.starts_with("f  app.py  process 1\n  1 calls, mean 5.00us"),
            "{text}"
        );
    }

    #[test]
    fn a_session_without_collections_says_so() {
        let text = written(|output| {
            Box::new(Pauses {
                output,
                tally: Tally::default(),
                start: 0,
                limit: 3,
                json: false,
            })
        });
        assert_eq!(text, "no garbage collections\n");
    }
}
