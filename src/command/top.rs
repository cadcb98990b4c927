//! `pystap top`: a trace whose events are added up instead of written. Tables are taken from the sums at intervals, on the
//! terminal or as lines.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::terminal::{self, EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::crossterm::{self, execute};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use super::{print, trace};
use crate::analysis::functions::Function;
use crate::analysis::pairing::PairingRules;
use crate::analysis::totals::Rows;
use crate::cli;
use crate::clock;
use crate::console::{Console, Cover, Exit};
use crate::engine::Wish;
use crate::event::{Event, Session, Summary};
use crate::export::{Output, Sink, is_closed};
use crate::failure::Failure;
use crate::files::writing;
use crate::session::request::{Limits, SessionRequest};
use crate::session::stop;
use crate::text::{Foreign, harmless};
use crate::threads;
use crate::top::{Action, Snapshot, State, Tally, input, view};
use crate::view::hot;

/// How often keys are looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How long a table waits for sums of the kernel.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often everything is painted anew: what others write to the terminal goes across the table.
const REPAINT: Duration = Duration::from_secs(5);

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

/// The session behind a live table.
fn request(arguments: &cli::Top) -> SessionRequest {
    let kernel = arguments.kernel.as_deref();
    let mut request = SessionRequest {
        limits: Limits {
            duration: arguments.duration,
            max_events: None,
        },
        purpose: trace::purpose(arguments.dry_run, arguments.compile_only, kernel),
        output: arguments.output.clone(),
        ..trace::common(&arguments.targets, &arguments.engine)
    };
    trace::ask(&mut request, &arguments.what);
    if let Some(of) = &arguments.of {
        request.targets.service = Some(of.clone());
    }
    // Single calls that are long enough are measured by another template.
    // The kernel keeps a stack for each context, and one row for all.
    request.totals =
        !(arguments.no_kernel_totals || arguments.by_context) && request.min_duration.is_none();
    request
}

/// The script of the live table.
pub(super) fn script(arguments: &cli::Top) -> Result<Exit, Failure> {
    trace::script(request(arguments))
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
    let request = request(arguments);
    let make = |output: Output, rules: PairingRules| -> Box<dyn Sink> {
        let interval = arguments
            .interval
            .as_millis()
            .try_into()
            .unwrap_or(u64::MAX);
        let title = title(&arguments.targets, arguments.of.as_ref());
        let state = State::new(title, arguments.sort, interval);
        Box::new(Live {
            tally: Arc::new(Mutex::new(tally(rules, arguments.by_context))),
            in_kernel: request.totals,
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
            console: console.clone(),
            worker: None,
        })
    };
    if !on_screen {
        return trace::run_into(&request, console, &make, None);
    }
    // The screen is the table's; what the command says is shown when the screen is its own again.
    let aside = match arguments.targets.command.is_empty() {
        true => None,
        false => Some(aside(console)?),
    };
    let ended = trace::run_into(&request, console, &make, aside.as_ref());
    if let Some(aside) = aside {
        show_end(&aside, console)?;
    }
    ended
}

/// Sums of nothing yet.
pub(super) fn tally(rules: PairingRules, by_context: bool) -> Tally {
    let tally = Tally::new(rules);
    match by_context {
        true => tally.by_context(),
        false => tally,
    }
}

/// A file without a name for what the command says.
fn aside(console: &Console) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC;
    match rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(error) => {
            console.warning(format_args!(
                "no file can be made in {} ({error}), so what the command says is not shown",
                Foreign::path(&std::env::temp_dir())
            ));
            File::options().read(true).write(true).open("/dev/null")
        }
    }
}

/// What of the command's words is shown at the end, in lines and bytes.
const LAST_LINES: usize = 20;
const LAST_BYTES: u64 = 16 * 1024;

/// The last of what the command said, and whether that is all.
fn end_of(aside: &File) -> io::Result<(Vec<String>, bool)> {
    let length = aside.metadata()?.len();
    let from = length.saturating_sub(LAST_BYTES);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(0)];
    aside.read_exact_at(&mut bytes, from)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(LAST_LINES);
    let last = lines.iter().skip(skipped).map(ToString::to_string);
    Ok((last.collect(), from == 0 && skipped == 0))
}

/// Shows it.
fn show_end(aside: &File, console: &Console) -> io::Result<()> {
    let (lines, whole) = end_of(aside)?;
    if lines.is_empty() {
        return Ok(());
    }
    console.note(match whole {
        true => "the command said:",
        false => "the end of what the command said:",
    });
    // What it would have said to the terminal itself, had that not been covered; but its last lines alone may begin in the
    // midst of a sequence.
    print::page(
        &lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    )
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
        if self.json {
            hot::write_json(account, shown, &mut self.output)?;
        } else {
            let mut text = String::new();
            table(shown, account, self.by_process, &mut text);
            self.output.write_all((harmless(&text) + "\n").as_bytes())?;
        }
        self.output.flush()
    }
}

fn table<'a>(
    rows: impl Iterator<Item = &'a Function>,
    account: &hot::TableAccount,
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
    console: Console,
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
            (Some(batch), _) => threads::spawn(move || lines(batch, &tally, &asking, &ended))?,
            (None, Some(state)) => {
                let cover = self.console.cover();
                threads::spawn(move || {
                    let session = Shown {
                        ended: &ended,
                        cover: &cover,
                        asking: &asking,
                    };
                    screen(state, &tally, session)
                })?
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
        let snapshot = locked(tally).snapshot(clock::now());
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

/// The session that a table on the screen belongs to.
#[derive(Clone, Copy)]
struct Shown<'a> {
    /// Disconnected when it ends.
    ended: &'a Receiver<()>,
    /// What it says meanwhile.
    cover: &'a Cover,
    /// What is asked of its engine.
    asking: &'a Asking,
}

/// Shows the table until the session ends.
fn screen(mut state: State, tally: &Mutex<Tally>, session: Shown<'_>) -> io::Result<()> {
    let shown = on_terminal(&mut state, tally, Some(session));
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
    session: Option<Shown<'_>>,
) -> io::Result<()> {
    let mut terminal = cover()?;
    let shown = show(&mut terminal, state, tally, session);
    if hung_up().unwrap_or(true) {
        // A terminal that is gone takes nothing back, and ratatui would panic in its complaint about that.
        std::mem::forget(terminal);
        return Ok(());
    }
    let uncovered = uncover(&mut terminal);
    // Its own way to show the cursor again would wait for a terminal that takes nothing.
    std::mem::forget(terminal);
    shown.and(uncovered)
}

/// A terminal that is written to without waiting for one that takes nothing.
type Screen = ratatui::Terminal<CrosstermBackend<BufWriter<Output>>>;

/// Takes the terminal over.
fn cover() -> io::Result<Screen> {
    static RESTORED_ON_PANIC: Once = Once::new();
    RESTORED_ON_PANIC.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            ratatui::restore();
            before(panic);
        }));
    });
    terminal::enable_raw_mode()?;
    let mut output = BufWriter::new(Output::stdout(stop::give_up())?);
    let covered = execute!(output, EnterAlternateScreen)
        .and_then(|()| Screen::new(CrosstermBackend::new(output)));
    if covered.is_err() {
        let _ = terminal::disable_raw_mode();
    }
    covered
}

/// Gives it back.
fn uncover(screen: &mut Screen) -> io::Result<()> {
    terminal::disable_raw_mode()?;
    screen.show_cursor()?;
    execute!(screen.backend_mut(), LeaveAlternateScreen)
}

fn show(
    terminal: &mut Screen,
    state: &mut State,
    tally: &Mutex<Tally>,
    session: Option<Shown<'_>>,
) -> io::Result<()> {
    // What is over has no present: its last event is where its clock stands.
    let now = || session.map_or(0, |_| clock::now());
    let mut due = Instant::now();
    let mut changed = true;
    let mut painted = Instant::now();
    let mut came = None;
    loop {
        let asking = session.and_then(|it| Some((it.asking, it.asking.came()?)));
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
        // What is said meanwhile: who joined, who left.
        if let Some(message) = session.and_then(|it| it.cover.latest()) {
            state.say(message);
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
        if session.is_some_and(|it| it.ended.try_recv().is_err_and(|it| it.is_disconnected())) {
            return Ok(());
        }
        if hung_up()? {
            // Nobody is there to see the table.
            end_session();
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
                Ok(path) => state.say(format!("written to {}", Foreign::path(&path))),
                Err(error) => state.say(format!(
                    "not written ({error}); start pystap in a directory that is writable"
                )),
            },
        }
    }
}

/// Whether the terminal is gone.
fn hung_up() -> io::Result<bool> {
    let stdin = io::stdin();
    let mut watched = [PollFd::new(&stdin, PollFlags::empty())];
    match rustix::event::poll(&mut watched, Some(&Timespec::default())) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    Ok(watched.iter().any(|it| it.revents().intersects(gone)))
}

/// Writes the table as it is shown to a new file in the working directory.
fn export(state: &State) -> io::Result<PathBuf> {
    let path = PathBuf::from(format!("pystap-top-{}.txt", clock::now() / 1_000_000_000));
    let mut text = String::new();
    table(state.rows(), state.account(), !state.is_merged(), &mut text);
    writing::create_new(&path)?.write_all(harmless(&text).as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::analysis::testing::{call, returned};
    use crate::console::{ColorWhen, Verbosity};
    use crate::export::Output;

    fn written(sink: impl FnOnce(Output) -> Box<dyn Sink>) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out");
        let output = Output::to_file(&path);
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
    fn the_end_of_what_a_command_said_is_its_last_lines() {
        let mut aside = tempfile::tempfile().expect("a file");
        writeln!(aside, "hello").expect("written");
        assert_eq!(
            end_of(&aside).expect("read"),
            (vec!["hello".to_owned()], true)
        );
        for number in 0..10_000 {
            writeln!(aside, "line {number}").expect("written");
        }
        let (lines, whole) = end_of(&aside).expect("read");
        assert_eq!((lines.len(), whole), (LAST_LINES, false));
        assert_eq!(lines.last().map(String::as_str), Some("line 9999"));
    }

    #[test]
    fn a_batch_ends_with_the_table_of_the_whole() {
        let text = written(|output| {
            Box::new(Live {
                tally: Arc::new(Mutex::new(Tally::new(PairingRules::default()))),
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
                console: Console::stderr(Verbosity::Quiet, ColorWhen::Never),
                worker: None,
            })
        });
        let table: Value = serde_json::from_str(&text).expect("one line");
        assert_eq!(table["functions"][0]["function"], "f");
        assert_eq!(table["functions"][0]["durations"]["max_ns"], 5_000);
    }
}
