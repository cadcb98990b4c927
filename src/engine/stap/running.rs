//! A loaded module: staprun as a child, its output decoded on a thread of its own, commands to the module, and the end.
//!
//! The probed images are held open while staprun starts, because the kernel knows the file of a probe by its inode.
//!
//! # Going live
//!
//! The module sends `V` when it begins and `Y` when its probes are armed. The reader answers with commands: who owns
//! the session, whether children are followed, the least duration, and one `+PID` per target. When the last target is
//! acknowledged, the reader waits until the semaphore of each running target is seen raised in `/proc/PID/mem`, and
//! only then says [`Message::Live`].
//!
//! # The end
//!
//! On a signal, stapio throws away what it has not read from the kernel yet, and says nothing about it: of a storm of
//! calls a third was missing in that way, and the totals with it. So the module is silenced first (`q`) and answers
//! with its last totals. When that answer has come through the same stream as the events, all of them have come. Then
//! staprun is interrupted and unloads the module.
//!
//! stap and staprun run in process groups of their own: Ctrl-C goes to the whole foreground group, and when they stop
//! is for pystap to say.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::diagnostics::{Diagnostic, DiagnosticKind, Diagnostics, Loss, Severity, explain};
use super::wire::{Acknowledgement, Decoded, Decoder, RowsEnd, Trouble};
use super::workspace::{self, Workspace};
use super::{Module, StapError, Toolchain};
use crate::agent::PlacedLibrary;
use crate::analysis::functions::MOST_ROWS;
use crate::analysis::totals::{Row, Rows};
use crate::authority::own;
use crate::engine::reorder::ReorderBuffer;
use crate::engine::uprobes::LineSemaphores;
use crate::engine::{AddTargetError, EventSender, Message, Running, Weight, Wish};
use crate::event::{LossStage, ProcessChange, What};
use crate::process::Lineage;
use crate::threads;
use crate::waits::{Summed, SummedEnd, SummedStack, SummedWaits};

/// Bytes read from the pipe at once.
const CHUNK: usize = 128 * 1024;
/// How long an event is held back for an earlier one of another processor.
const WINDOW_NS: u64 = 20_000_000;
/// How long nothing may arrive from a module that was told to be silent before its last word is given up. Data comes a
/// few times a second as long as there is any.
const SILENCE: Duration = Duration::from_secs(5);
/// How often a module is told again: its last word is lost while its buffer is full.
const REMINDER: Duration = Duration::from_millis(500);
/// After an interrupt: removing a module with many probes takes seconds on a slow host.
const PATIENCE: Duration = Duration::from_secs(60);
/// After harder ways.
const IMPATIENCE: Duration = Duration::from_secs(5);
/// How long marks of running processes may take to be switched on before a warning is due.
const ARMING: Duration = Duration::from_secs(5);

/// How to run a module.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Processes to trace from the start.
    pub targets: Vec<u32>,
    /// Let the kernel confine the probes to this process and its descendants.
    pub only: Option<u32>,
    /// Whether children to come are targets.
    pub follow: bool,
    /// Report calls of at least so many nanoseconds (for scripts that measure spans).
    pub min_duration: u64,
    /// Buffer a processor in megabytes; stap's own default otherwise.
    pub buffer: Option<u32>,
    /// Semaphores that show when a running process is being traced.
    pub armed: Vec<Armed>,
    /// Images that are probed. They are held open while the session lasts: the kernel knows a probe's file by its
    /// inode, and on some file systems (9p, some of FUSE) a file that nobody holds gets a new inode when it is next
    /// opened, so that a program started later would go unnoticed.
    pub images: Vec<PathBuf>,
    /// Told of the children of targets.
    pub lineage: Arc<Lineage>,
    /// Commands of the script's own that the module is to have before its targets.
    pub commands: Vec<String>,
    /// The agent's library, where it has to be there while the session lasts, and nobody else sees to it.
    pub agent: Option<Arc<PlacedLibrary>>,
}

/// Where a process can be seen to be traced: the semaphore of a mark in its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Armed {
    /// The process.
    pub pid: u32,
    /// Address in its memory.
    pub address: u64,
}

impl Armed {
    /// Whether a tracer raised the semaphore. A process that ended counts as armed: there is nothing to wait for.
    fn raised(&self) -> bool {
        let mut counter = [0_u8; 2];
        match File::open(format!("/proc/{}/mem", self.pid))
            .and_then(|memory| memory.read_exact_at(&mut counter, self.address))
        {
            Ok(()) => u16::from_ne_bytes(counter) > 0,
            Err(_) => true,
        }
    }
}

/// A running session of the stap engine. Dropped, it stops and takes the module away.
#[derive(Debug)]
pub struct StapRunning {
    messages: Receiver<Message>,
    stop: Sender<()>,
    control: Control,
    /// Not all rows of sums that were sent have come.
    incomplete: Arc<AtomicBool>,
    _workspace: Workspace,
    _images: Vec<File>,
    line: Option<LineSemaphores>,
    ended: Receiver<()>,
}

impl StapRunning {
    pub(super) fn start(
        toolchain: Toolchain,
        workspace: Workspace,
        module: &Module,
        start: Start,
        mut line: Option<LineSemaphores>,
    ) -> Result<Self, StapError> {
        // One that cannot be opened is for the kernel to complain about.
        let images = start
            .images
            .iter()
            .filter_map(|path| File::open(path).ok())
            .collect();
        if let Some(line) = &mut line {
            for pid in &start.targets {
                // One that is gone by now is for whoever watches it to find out.
                let _ = line.raise(*pid);
            }
        }
        let mut command = Command::new(&toolchain.staprun);
        own::tame(&mut command);
        command
            .args(super::arguments::run(
                &module.path,
                start.only,
                start.buffer,
            ))
            .env("LC_ALL", "C")
            .env("TMPDIR", workspace.path())
            .current_dir(workspace.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().map_err(|reason| StapError::Start {
            program: toolchain.staprun.clone(),
            reason,
        })?;
        let loader = child.id();
        if let Err(error) = workspace.note_loader(loader) {
            dismiss(loader);
            // It is waited for where nobody waits for us; without a thread, when we end.
            let _ = threads::spawn(move || child.wait());
            return Err(error);
        }
        let program = toolchain.staprun.clone();
        let no_thread = |reason| {
            dismiss(loader);
            StapError::Start {
                program: program.clone(),
                reason,
            }
        };
        let (stderr, stdout) = (child.stderr.take(), child.stdout.take());
        let (exited, exit) = bounded(1);
        let waiting = threads::spawn(move || {
            let _ = exited.send(child.wait().is_ok_and(|status| status.success()));
        })
        .map_err(no_thread)?;
        let (sender, messages) = unbounded();
        let (stop, stop_requests) = unbounded();
        let (ended_sender, ended) = bounded(1);
        let control = Control { loader };
        let arrived = Arc::new(AtomicU64::new(0));
        let incomplete = Arc::new(AtomicBool::new(false));
        let (silenced, silences) = unbounded();
        let stopping = Stopping {
            module: control.clone(),
            exit,
            requests: stop_requests,
            silences,
            arrived: Arc::clone(&arrived),
            _open: (stop.clone(), silenced.clone()),
        };

        let to_messages = sender.clone();
        let version = toolchain.version.clone();
        let errors = threads::spawn(move || {
            let mut diagnostics = Diagnostics::new(Some(&version));
            let mut failed = false;
            let mut losses = Loss::default();
            let mut say = |diagnostic: Option<Diagnostic>| {
                let Some(diagnostic) = diagnostic else { return };
                for message in said(&diagnostic, &mut losses) {
                    failed |= matches!(message, Message::Said(Weight::Error, _));
                    let _ = to_messages.send(message);
                }
            };
            for line in stderr
                .into_iter()
                .flat_map(|pipe| BufReader::new(pipe).split(b'\n'))
            {
                let Ok(line) = line else { break };
                say(diagnostics.push_line(&String::from_utf8_lossy(&line)));
            }
            say(diagnostics.finish());
            failed
        })
        .map_err(no_thread)?;

        let reader = Reader {
            decoder: Decoder::new(),
            order: ReorderBuffer::default(),
            sender: EventSender::new(sender.clone()),
            control: control.clone(),
            start,
            unacknowledged: HashSet::new(),
            sums: Sums::default(),
            waits: WaitSums::default(),
            incomplete: Arc::clone(&incomplete),
            unmeasured: 0,
            sent: 0,
            arrived: Arc::clone(&arrived),
            silenced,
            live: false,
            accounted: false,
        };
        let reading = threads::spawn(move || reader.run(stdout)).map_err(no_thread)?;

        threads::spawn(move || {
            let clean = stopping.wait();
            let _ = waiting.join();
            let _ = reading.join();
            let failed = errors.join().unwrap_or(true);
            // A loader that was killed leaves its module behind.
            if let Some(module) = workspace::loaded_module(loader) {
                workspace::unload(&toolchain.staprun, &module);
            }
            let _ = sender.send(Message::Ended {
                clean: clean && !failed,
            });
            let _ = ended_sender.send(());
        })
        .map_err(no_thread)?;
        Ok(StapRunning {
            messages,
            stop,
            control,
            incomplete,
            _workspace: workspace,
            _images: images,
            line,
            ended,
        })
    }
}

/// What stap said, as engines say it. What was lost is told in events rather than in stap's own units.
fn said(diagnostic: &Diagnostic, losses: &mut Loss) -> Vec<Message> {
    let skipped = diagnostic.loss.as_ref().map(|loss| {
        losses.skipped = losses.skipped.max(loss.skipped);
        losses.errors = losses.errors.max(loss.errors);
        Message::Skipped(losses.skipped + losses.errors)
    });
    let weight = match diagnostic.severity {
        Severity::Error => Weight::Error,
        Severity::Warning if diagnostic.loss.is_some() => Weight::Detail,
        Severity::Warning if matches!(diagnostic.kind, DiagnosticKind::Unrecognised) => {
            Weight::Unknown
        }
        Severity::Warning => Weight::Warning,
        _ => Weight::Detail,
    };
    let text = match weight {
        Weight::Detail => format!("stap: {}", diagnostic.message),
        _ => explain(diagnostic),
    };
    let mut messages: Vec<Message> = skipped.into_iter().collect();
    messages.push(Message::Said(weight, text));
    messages
}

impl Running for StapRunning {
    fn silent_end(&self) -> &'static str {
        "staprun ended without saying why (somebody may have killed it), so tracing ended; see the kernel's log (`dmesg | tail`), then try again"
    }

    fn messages(&self) -> &Receiver<Message> {
        &self.messages
    }

    fn add_target(&mut self, pid: u32) -> Result<(), AddTargetError> {
        if let Some(line) = &mut self.line {
            line.raise(pid).map_err(AddTargetError::new)?;
        }
        self.control
            .send(&format!("+{pid}"))
            .map_err(AddTargetError::new)
    }

    fn wish(&mut self, wish: Wish) {
        let command = match wish {
            Wish::Anew => "z0",
            // What did not arrive the last time is in all of them.
            Wish::Sums | Wish::LastSums if self.incomplete.load(Ordering::Relaxed) => "s0",
            Wish::Sums | Wish::LastSums => "s1",
        };
        // A module that takes no commands any longer is ending, and its end is noticed.
        let _ = self.control.send(command);
    }

    fn stop(&mut self) {
        let _ = self.stop.send(());
    }
}

impl Drop for StapRunning {
    fn drop(&mut self) {
        self.stop();
        let _ = self.ended.recv_timeout(PATIENCE + IMPATIENCE);
    }
}

/// How far the end of a session has come. The next step is taken when one did not help in time, or when another stop is
/// asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Running,
    /// The module traces nothing any longer, and what it had sent is being read: stapio throws away what it has not
    /// read when it is interrupted.
    Silencing,
    /// The loader was asked to remove the module.
    Interrupted,
    Terminated,
    Killed,
}

/// Ends a loader that nobody is going to listen to. It takes its module away by itself.
fn dismiss(loader: u32) {
    if let Some(group) = i32::try_from(loader).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::TERM);
    }
}

/// What the end of a session takes.
struct Stopping {
    module: Control,
    /// The loader has ended, and whether well.
    exit: Receiver<bool>,
    requests: Receiver<()>,
    /// The module's last word has come.
    silences: Receiver<()>,
    /// Bytes that have come from the module.
    arrived: Arc<AtomicU64>,
    /// A channel without a sender is always ready; these keep them quiet.
    _open: (Sender<()>, Sender<()>),
}

impl Stopping {
    /// Waits for the loader, and ends it when asked to. Whether it ended well.
    fn wait(self) -> bool {
        let loader = i32::try_from(self.module.loader)
            .ok()
            .and_then(Pid::from_raw);
        let mut ending = Ending::Running;
        let mut deadline = Instant::now();
        let mut arrived = 0;
        loop {
            let pause = match ending {
                Ending::Running => Duration::from_secs(3600),
                Ending::Silencing => REMINDER,
                _ => deadline.saturating_duration_since(Instant::now()),
            };
            let further = select! {
                recv(self.exit) -> clean => break clean.unwrap_or(false),
                recv(self.requests) -> _ => true,
                recv(self.silences) -> _ => ending == Ending::Silencing,
                default(pause) => match ending {
                    Ending::Running => false,
                    Ending::Silencing => {
                        let until_now = self.arrived.load(Ordering::Relaxed);
                        if until_now > arrived {
                            arrived = until_now;
                            deadline = Instant::now() + SILENCE;
                        }
                        let _ = self.module.send("q0");
                        Instant::now() >= deadline
                    }
                    _ => true,
                },
            };
            if further {
                let patience;
                (ending, patience) = self.end(ending, loader);
                deadline = Instant::now() + patience;
            }
        }
    }

    /// Takes the step after this one, and says how long it may take.
    fn end(&self, ending: Ending, loader: Option<Pid>) -> (Ending, Duration) {
        match ending {
            Ending::Running if self.module.send("q0").is_ok() => (Ending::Silencing, SILENCE),
            Ending::Running | Ending::Silencing => {
                let _ = loader.map(|pid| kill_process(pid, Signal::INT));
                (Ending::Interrupted, PATIENCE)
            }
            Ending::Interrupted => {
                let _ = loader.map(|pid| kill_process(pid, Signal::TERM));
                (Ending::Terminated, IMPATIENCE)
            }
            Ending::Terminated | Ending::Killed => {
                let _ = loader.map(|pid| kill_process_group(pid, Signal::KILL));
                (Ending::Killed, IMPATIENCE)
            }
        }
    }
}

/// The way to the loaded module: its procfs file.
#[derive(Debug, Clone)]
struct Control {
    loader: u32,
}

impl Control {
    fn send(&self, command: &str) -> Result<(), StapError> {
        let failed = |reason: String| StapError::Control { reason };
        let module = workspace::loaded_module(self.loader)
            .ok_or_else(|| failed("it is not loaded".to_owned()))?;
        let path = PathBuf::from("/proc/systemtap")
            .join(module)
            .join("control");
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(command.as_bytes()))
            .map_err(|error| failed(format!("{}: {error}", path.display())))
    }
}

/// Whether nothing comes through this pipe for as long as events are held back.
fn is_idle(pipe: &ChildStdout) -> bool {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: WINDOW_NS as i64,
    };
    let mut files = [PollFd::new(pipe, PollFlags::IN)];
    // An end or an error is for the reader to find.
    matches!(poll(&mut files, Some(&timeout)), Ok(0))
}

/// Rows on their way.
#[derive(Debug, Default)]
struct Sums {
    rows: Vec<Row>,
    /// Rows that came since the kernel last said how many it had sent.
    came: u64,
    /// Of those that are being sent, rows that did not come; and of those that were sent before.
    missing: u64,
    missing_before: u64,
}

impl Sums {
    /// A row. More than a table has are none of the kernel's: they count as missing.
    fn take(&mut self, row: Row) {
        if self.rows.len() < MOST_ROWS {
            self.came += 1;
            self.rows.push(row);
        }
    }

    /// What is complete now, if it is the last of what was asked for.
    fn end(&mut self, end: RowsEnd) -> Option<Rows> {
        if end.anew {
            *self = Sums::default();
        }
        let came = std::mem::take(&mut self.came);
        self.missing += u64::from(end.count).saturating_sub(came);
        if end.more {
            return None;
        }
        let missing = std::mem::take(&mut self.missing);
        self.missing_before = match end.all {
            true => missing,
            false => self.missing_before + missing,
        };
        Some(Rows {
            left: Vec::new(),
            anew: end.anew,
            by_function: false,
            age_ns: end.age_ns,
            unpaired: end.unpaired,
            rows: std::mem::take(&mut self.rows),
        })
    }
}

/// Waits on their way.
#[derive(Debug, Default)]
struct WaitSums {
    summed: Summed,
    /// As of [`Sums`].
    came: u64,
    missing: u64,
    missing_before: u64,
}

impl WaitSums {
    fn sum(&mut self, waits: SummedWaits) {
        if self.summed.sums.len() < MOST_ROWS {
            self.came += 1;
            self.summed.sums.push(waits);
        }
    }

    fn stack(&mut self, stack: SummedStack) {
        if self.summed.stacks.len() < MOST_ROWS {
            self.came += 1;
            self.summed.stacks.push(stack);
        }
    }

    /// What is complete now, if it is the last of what was asked for. What came before a new beginning is void, but its
    /// stacks are not sent again.
    fn end(&mut self, count: u32, more: bool, all: bool, end: SummedEnd) -> Option<Summed> {
        if end.anew {
            self.summed.sums.clear();
        }
        let came = std::mem::take(&mut self.came);
        self.missing += u64::from(count).saturating_sub(came);
        if more && !end.anew {
            return None;
        }
        let missing = std::mem::take(&mut self.missing);
        self.missing_before = match all {
            true => missing,
            false => self.missing_before + missing,
        };
        self.summed.end = end;
        Some(std::mem::take(&mut self.summed))
    }
}

/// The thread that decodes.
struct Reader {
    decoder: Decoder,
    /// A thread that moves to another processor can overtake its own last record: stapio merges the processors' buffers
    /// in the order in which they are flushed.
    order: ReorderBuffer,
    sender: EventSender,
    control: Control,
    start: Start,
    /// Targets that the module has not confirmed yet.
    unacknowledged: HashSet<u32>,
    sums: Sums,
    waits: WaitSums,
    /// Rows of sums did not come, or their names: all have to be sent again.
    incomplete: Arc<AtomicBool>,
    /// Calls that were reported as not measured.
    unmeasured: u64,
    /// Events that the module said it had sent, when it last did.
    sent: u64,
    /// Bytes that have come.
    arrived: Arc<AtomicU64>,
    /// Told when the module has said its last word.
    silenced: Sender<()>,
    /// Whether the probes were ever live.
    live: bool,
    /// Whether the number of events that were sent is known to the last one.
    accounted: bool,
}

impl Reader {
    fn run(mut self, stdout: Option<ChildStdout>) {
        let Some(mut pipe) = stdout else { return };
        let mut buffer = vec![0; CHUNK];
        let mut decoded = Vec::new();
        loop {
            if self.order.waiting() > 0 && is_idle(&pipe) {
                self.give(u64::MAX);
            }
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    self.arrived.fetch_add(length as u64, Ordering::Relaxed);
                    self.decoder
                        .push(buffer.get(..length).unwrap_or_default(), &mut decoded);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
            self.take(&mut decoded);
        }
        self.decoder.finish(&mut decoded);
        self.take(&mut decoded);
        self.give(u64::MAX);
        self.account();
        let missing = self.sums.missing_before + self.waits.missing_before;
        if missing > 0 {
            self.say(Message::Lost(LossStage::Kernel, missing));
        }
        if self.live && !self.accounted {
            self.say(Message::Lost(LossStage::Kernel, 0));
        }
    }

    /// Compares what was last said to have been sent with what arrived since.
    fn account(&self) {
        let lost = self.sent.saturating_sub(self.decoder.received());
        if lost > 0 {
            self.say(Message::LostInKernel(lost));
        }
    }

    fn take(&mut self, decoded: &mut Vec<Decoded>) {
        let mut names_lost = false;
        let mut events = Vec::with_capacity(decoded.len());
        for item in decoded.drain(..) {
            match item {
                Decoded::Event(event) => {
                    if let What::Process { change, parent, .. } = &event.what {
                        match change {
                            ProcessChange::Fork => self
                                .start
                                .lineage
                                .descended(parent.unwrap_or_default(), event.pid),
                            ProcessChange::Exec => self.start.lineage.execed(event.pid),
                            ProcessChange::Exit => self.start.lineage.ended(event.pid),
                        }
                    }
                    events.push(event);
                }
                Decoded::Ready { .. } => {
                    self.live = true;
                    self.arm();
                }
                Decoded::Acknowledged {
                    pid,
                    done: Acknowledgement::Added,
                } => {
                    if self.unacknowledged.remove(&pid) && self.unacknowledged.is_empty() {
                        self.announce();
                    }
                }
                Decoded::Acknowledged {
                    done: Acknowledgement::Silenced,
                    ..
                } => {
                    let _ = self.silenced.send(());
                }
                Decoded::Acknowledged { .. } => {}
                Decoded::Totals {
                    sent,
                    unmeasured,
                    last,
                } => {
                    self.accounted |= last;
                    if unmeasured > self.unmeasured {
                        self.say(Message::Lost(
                            LossStage::Probe,
                            unmeasured - self.unmeasured,
                        ));
                        self.unmeasured = unmeasured;
                    }
                    // What another processor has counted can still be on its way: the totals before these, half a
                    // second or more old, have arrived or are lost.
                    self.account();
                    self.sent = sent;
                }
                Decoded::Row(row) => self.sums.take(*row),
                Decoded::RowsEnd(end) => {
                    if end.more {
                        let _ = self.control.send("s2");
                    }
                    if let Some(rows) = self.sums.end(end) {
                        let incomplete = self.sums.missing_before > 0 || names_lost;
                        self.incomplete.store(incomplete, Ordering::Relaxed);
                        self.say(Message::Rows(Box::new(rows)));
                    }
                }
                Decoded::Waits(waits) => self.waits.sum(*waits),
                Decoded::WaitStack(stack) => self.waits.stack(*stack),
                Decoded::WaitsEnd {
                    count,
                    more,
                    all,
                    end,
                } => {
                    if more {
                        let _ = self.control.send("s2");
                    }
                    if let Some(summed) = self.waits.end(count, more, all, end) {
                        let incomplete = self.waits.missing_before > 0;
                        self.incomplete.store(incomplete, Ordering::Relaxed);
                        self.say(Message::Waits(Box::new(summed)));
                    }
                }
                Decoded::Trouble(Trouble::Damaged { .. }) => self.say(Message::Unparsed(1)),
                Decoded::Trouble(Trouble::UnknownName { .. }) => names_lost = true,
                Decoded::Trouble(trouble @ Trouble::WrongVersion { .. }) => {
                    self.say(Message::Failed(trouble.to_string()));
                }
            }
        }
        if names_lost {
            // Their definitions did not arrive; have every name defined again.
            let _ = self.control.send("n0");
        }
        if let Some(newest) = events.iter().map(|event| event.ts).max() {
            self.order.take(events);
            self.give(newest.saturating_sub(WINDOW_NS));
        }
    }

    /// Passes on what happened until this time.
    fn give(&mut self, until: u64) {
        let events = self.order.give(until);
        self.sender.events(events);
        let late = self.order.take_late();
        if late > 0 {
            self.say(Message::Late(late));
        }
    }

    fn say(&self, message: Message) {
        self.sender.say(message);
    }

    /// Tells the module, whose probes are live now, what to do.
    fn arm(&mut self) {
        self.unacknowledged = self.start.targets.iter().copied().collect();
        let mut commands = vec![
            format!("o{}", std::process::id()),
            format!("f{}", u8::from(self.start.follow)),
            format!("d{}", self.start.min_duration),
        ];
        commands.append(&mut self.start.commands);
        commands.extend(self.start.targets.iter().map(|pid| format!("+{pid}")));
        for command in commands {
            if let Err(error) = self.control.send(&command) {
                self.say(Message::Failed(error.to_string()));
                return;
            }
        }
        if self.unacknowledged.is_empty() {
            self.announce();
        }
    }

    /// Says that probes are live once the marks of the running targets are seen to be switched on, which the kernel
    /// does when a process next passes through it.
    fn announce(&self) {
        let sender = self.sender.clone();
        let armed = self.start.armed.clone();
        let waiting = threads::spawn(move || {
            let deadline = Instant::now() + ARMING;
            let mut waiting = armed;
            while !waiting.is_empty() && Instant::now() < deadline {
                waiting.retain(|place| !place.raised());
                if !waiting.is_empty() {
                    thread::park_timeout(Duration::from_millis(5));
                }
            }
            for place in waiting {
                sender.say(Message::NotArmed(place.pid));
            }
            sender.say(Message::Live);
        });
        // Without a thread to look, nobody knows which marks are switched on late.
        if waiting.is_err() {
            self.sender.say(Message::Live);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::histogram::Histogram;
    use crate::analysis::totals::About;

    #[test]
    fn what_stap_says_is_weighed_and_its_losses_are_told_as_they_grow() {
        let mut diagnostics = Diagnostics::new(None);
        let mut losses = Loss::default();
        let mut heard = Vec::new();
        for line in [
            "WARNING: Number of errors: 3, skipped probes: 1841",
            "WARNING: Number of errors: 2",
            "WARNING: nobody has heard of this",
            "ERROR: Couldn't insert module '/tmp/x.ko': Operation not permitted",
        ] {
            let found = diagnostics.push_line(line).into_iter();
            for diagnostic in found.chain(diagnostics.finish()) {
                heard.extend(said(&diagnostic, &mut losses));
            }
        }
        let told: Vec<_> = heard
            .iter()
            .map(|message| match message {
                Message::Skipped(total) => Err(*total),
                Message::Said(weight, _) => Ok(*weight),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            Err(1844),
            Ok(Weight::Detail),
            Err(1844),
            Ok(Weight::Detail),
            Ok(Weight::Unknown),
            Ok(Weight::Error),
        ];
        assert_eq!(told, expected, "{heard:?}");
    }

    fn end(count: u32) -> RowsEnd {
        RowsEnd {
            count,
            more: false,
            anew: false,
            all: false,
            age_ns: 5,
            unpaired: 0,
        }
    }

    fn with_rows(sums: &mut Sums, count: u64) {
        for key in 0..count {
            sums.take(Row {
                pid: 1,
                key,
                about: About::NoRoom,
                line: 0,
                several_lines: false,
                calls: 1,
                unmatched: 0,
                self_ns: 0,
                cumulative_ns: 0,
                timed: 0,
                timed_ns: 0,
                durations: Histogram::new(),
            });
        }
    }

    #[test]
    fn rows_are_given_out_when_the_last_part_has_come() {
        let mut sums = Sums::default();
        with_rows(&mut sums, 2);
        let part = RowsEnd {
            more: true,
            ..end(2)
        };
        assert_eq!(sums.end(part), None);
        with_rows(&mut sums, 1);
        let rows = sums.end(end(1)).expect("complete");
        assert_eq!((rows.rows.len(), rows.age_ns), (3, 5));
        assert_eq!(sums.missing_before, 0);
    }

    #[test]
    fn rows_that_are_missing_are_missed_until_all_have_come() {
        let mut sums = Sums::default();
        with_rows(&mut sums, 2);
        sums.end(end(5)).expect("what there is");
        assert_eq!(sums.missing_before, 3);
        with_rows(&mut sums, 1);
        sums.end(end(1)).expect("complete");
        assert_eq!(sums.missing_before, 3, "these were others");
        with_rows(&mut sums, 5);
        let all = RowsEnd {
            all: true,
            ..end(5)
        };
        sums.end(all).expect("complete");
        assert_eq!(sums.missing_before, 0);
    }

    #[test]
    fn what_came_before_a_new_beginning_is_void() {
        let mut sums = Sums::default();
        with_rows(&mut sums, 2);
        let anew = RowsEnd {
            anew: true,
            ..end(0)
        };
        let rows = sums.end(anew).expect("complete");
        assert!(rows.anew && rows.rows.is_empty());
        assert_eq!(sums.missing_before, 0);
    }
}
