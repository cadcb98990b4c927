//! A session of the uprobes engine: probes defined, tasks armed, one thread that collects from the rings, and the end.
//!
//! The thread empties one ring per processor every 20 ms, or as soon as one is a quarter full. It gives the room back
//! once per batch, because the kernel reads our position for every record that it writes. Names are made once and found
//! again by their bytes.
//!
//! Records have the monotonic clock. The distance to the Unix epoch is taken once, so that time does not jump within a
//! session.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::arming::{Arming, Descendants};
use super::calibration;
use super::decode::{DecodeAccount, Decoder};
use super::fork_watcher::ForkWatcher;
use super::processes::{Change, Life, Processes};
use super::tracefs::{Owner, Tracefs};
use super::{EVENT, Plan, UprobesError, filter};
use crate::clock::epoch_offset;
use crate::engine::event_cost::{Cost, EventCost};
use crate::engine::reorder::ReorderBuffer;
use crate::engine::{AddTargetError, Children, EventSender, Message, Running};
use crate::event::LossStage;
use crate::perf::rings::{self, NoRings};
use crate::perf::tasks::raise_descriptor_limit;
use crate::perf::{self, Inherit, Ring};
use crate::probe::Probed;
use crate::process::Lineage;
use crate::script::Filters;
use crate::threads;

/// How long records may lie in a ring that is not a quarter full.
const ROUND: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// A record has its time a little before it is in its ring. A host can take the processor away in between.
const SLACK_NS: u64 = 10_000_000;
/// What to trace.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Processes from the start, and whether each runs a probed image already.
    pub targets: Vec<(u32, bool)>,
    /// Whether children to come are targets.
    pub follow: bool,
    /// Which functions.
    pub filters: Filters,
    /// Megabytes of a ring; as much as is sensible otherwise.
    pub buffer: Option<u32>,
    /// Told of the children of targets, as far as they are targets.
    pub lineage: Arc<Lineage>,
}

/// A running session. Dropped, it takes everything away.
#[derive(Debug)]
pub struct UprobesRunning {
    messages: Receiver<Message>,
    orders: Sender<Command>,
    wake: Arc<OwnedFd>,
    ended: Receiver<()>,
    descendants: Option<Arc<Descendants>>,
    overhead: Option<NonZeroU64>,
}

/// What the collecting thread is told.
#[derive(Debug)]
enum Command {
    /// Trace one more process, and say how that went.
    Add(u32, Sender<Result<(), UprobesError>>),
    Stop,
}

/// The definitions of this session in tracefs; removed when dropped.
#[derive(Debug)]
struct Group {
    tracefs: Tracefs,
    name: String,
    /// The probed images, held open: on some file systems (9p, some of FUSE) a file that nobody holds is another one to
    /// the kernel when it is next opened, and a program started later would go unnoticed.
    images: Vec<File>,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.tracefs.remove(&self.name);
        self.images.clear();
    }
}

impl UprobesRunning {
    /// Defines the probes and arms the targets. A target that ends meanwhile is none of our failures. Arming a process of
    /// thousands of threads takes seconds: what is left of it when `stopped` says so is not armed.
    ///
    /// # Errors
    /// [`UprobesError`].
    pub fn start(
        tracefs: Tracefs,
        plan: &Plan,
        images: &[Probed],
        start: &Start,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Self, UprobesError> {
        let failed = |what| move |reason: io::Error| UprobesError::System { what, reason };
        raise_descriptor_limit();
        let group = Group {
            name: Owner::ourselves()
                .map_err(failed("/proc cannot be read"))?
                .group(),
            tracefs,
            // One that cannot be opened is for the kernel to complain about.
            images: images
                .iter()
                .filter_map(|probed| File::open(&probed.path).ok())
                .collect(),
        };
        for definition in &plan.definitions {
            group
                .tracefs
                .define(&group.name, definition)
                .map_err(|reason| match reason.kind() {
                    io::ErrorKind::PermissionDenied => UprobesError::NotPermitted {
                        what: format!("{} cannot be written", group.tracefs.root().display()),
                    },
                    _ => UprobesError::Define {
                        path: definition.path.clone(),
                        reason,
                    },
                })?;
        }
        // Without it the times are what was measured.
        let calibrates = calibration::define(&group.tracefs, &group.name, plan.fields).is_ok();
        let unread = failed("a uprobe event cannot be read back");
        let defined = group.tracefs.defined(&group.name, EVENT).map_err(unread)?;
        let decoder =
            Decoder::new(&defined).ok_or_else(|| unread(io::Error::other("a field is missing")))?;
        let rings = rings(start.buffer)?;
        let processors: Vec<u32> = rings.iter().map(|(processor, _)| *processor).collect();
        let arming = Arming {
            tracepoint: defined.id,
            filter: filter::expression(&start.filters, decoder.knows_classes()),
            inherit: if start.follow {
                Inherit::Processes
            } else {
                Inherit::Threads
            },
            outputs: rings
                .iter()
                .map(|(processor, ring)| (*processor, ring.owner()))
                .collect(),
        };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|reason| failed("no event descriptor can be had")(reason.into()))?;
        let wake = Arc::new(wake);
        let (sender, messages) = unbounded();
        let (orders, commands) = unbounded();
        let (ended_sender, ended) = bounded(1);
        let descendants = start
            .follow
            .then(|| Arc::new(Descendants::new(defined.id, Arc::clone(&start.lineage))));
        let births = match &descendants {
            Some(descendants) => ForkWatcher::watch(&processors, Arc::clone(descendants)),
            None => Ok(None),
        };
        let births = births.map_err(failed("births of processes cannot be watched for"))?;
        let mut collector = Collector {
            arming,
            offset: epoch_offset(),
            rings: rings.into_iter().map(|(_, ring)| ring).collect(),
            decoder,
            order: ReorderBuffer::default(),
            processes: Processes::new(
                images.iter().map(|probed| probed.inode).collect(),
                start.follow,
            ),
            counters: HashMap::new(),
            descendants: descendants.clone(),
            sender: EventSender::new(sender.clone()),
            lost: 0,
            throttled: false,
            lives: Vec::new(),
        };
        let calibrated =
            calibrates.then(|| calibration::measure(&collector.arming, &mut collector.rings));
        // What is only half there when this fails has no thread whose end could be waited for.
        for (pid, probed) in &start.targets {
            collector.add(*pid, *probed, stopped)?;
        }
        let running = UprobesRunning {
            messages,
            orders,
            wake: Arc::clone(&wake),
            ended,
            descendants,
            overhead: calibrated
                .as_ref()
                .and_then(|it| it.as_ref().ok()?.overhead()),
        };
        // Only now, because the kernel takes its time when nobody is left who is to run into the probes.
        drop(calibrated);
        let _ = sender.send(Message::Live);
        threads::spawn(move || {
            collector.run(&wake, &commands);
            drop(births);
            drop(group);
            let _ = sender.send(Message::Ended { clean: true });
            let _ = ended_sender.send(());
        })
        .map_err(UprobesError::Thread)?;
        Ok(running)
    }

    fn tell(&self, command: Command) {
        let _ = self.orders.send(command);
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

impl Running for UprobesRunning {
    fn silent_end(&self) -> &'static str {
        "the collector of uprobe events ended without saying why, so tracing ended; try again, and report this if it stays"
    }

    fn messages(&self) -> &Receiver<Message> {
        &self.messages
    }

    fn add_target(&mut self, pid: u32) -> Result<(), AddTargetError> {
        let (answer, answered) = bounded(1);
        self.tell(Command::Add(pid, answer));
        // Without an answer the session is at its end.
        answered
            .recv()
            .unwrap_or(Ok(()))
            .map_err(AddTargetError::new)
    }

    fn children(&self) -> Option<Arc<dyn Children>> {
        let descendants = Arc::clone(self.descendants.as_ref()?);
        Some(descendants)
    }

    fn event_cost(&self) -> EventCost {
        // Calls and returns are told in the same way.
        let cost = self.overhead.map(|per_event| Cost {
            per_event,
            within_call: None,
        });
        cost.map_or(EventCost::Unknown, EventCost::Known)
    }

    fn stop(&mut self) {
        self.tell(Command::Stop);
    }
}

impl Drop for UprobesRunning {
    fn drop(&mut self) {
        self.stop();
        let _ = self.ended.recv_timeout(Duration::from_secs(30));
    }
}

/// The thread that reads the rings.
struct Collector {
    arming: Arming,
    /// What the records' clock is behind the Unix epoch.
    offset: u64,
    rings: Vec<Ring>,
    decoder: Decoder,
    order: ReorderBuffer,
    processes: Processes,
    /// The counters of each target.
    counters: HashMap<u32, Vec<OwnedFd>>,
    /// Children, where they are traced.
    descendants: Option<Arc<Descendants>>,
    sender: EventSender,
    lost: u64,
    throttled: bool,
    /// What happened to processes later than what was given out.
    lives: Vec<Life>,
}

impl Collector {
    fn run(mut self, wake: &OwnedFd, commands: &Receiver<Command>) {
        let mut before = 0;
        let mut buffer = Vec::new();
        loop {
            let mut stop = false;
            loop {
                match commands.try_recv() {
                    Ok(Command::Add(pid, answer)) => {
                        let _ = answer.send(self.add(pid, true, &|| false));
                    }
                    Ok(Command::Stop) | Err(TryRecvError::Disconnected) => {
                        stop = true;
                        break;
                    }
                    Err(TryRecvError::Empty) => break,
                }
            }
            if stop {
                break;
            }
            // What happened before this moment is in the rings at the next round.
            let now = perf::now();
            self.collect(&mut buffer);
            self.give(before + self.offset);
            before = now.saturating_sub(SLACK_NS);
            self.wait(wake);
        }
        // Nothing is made any more once the counters are gone; what is there is taken out then.
        let counted: Vec<u64> = self
            .counters
            .values()
            .flatten()
            .filter_map(|counter| perf::lost(counter.as_fd()))
            .collect();
        self.counters.clear();
        if let Some(descendants) = &self.descendants {
            descendants.clear();
        }
        self.collect(&mut buffer);
        self.give(u64::MAX);
        self.lost = self.lost.max(counted.iter().sum());
        self.sender.say(Message::LostInKernel(self.lost));
    }

    fn add(
        &mut self,
        pid: u32,
        probed: bool,
        stopped: &dyn Fn() -> bool,
    ) -> Result<(), UprobesError> {
        let armed = match self.arming.arm(pid, stopped) {
            Ok(armed) => armed,
            // That it has ended is for whoever watches it to find out.
            Err(UprobesError::Arm { reason, .. })
                if reason.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.processes.add(pid, probed);
        if let Some(descendants) = &self.descendants {
            descendants.armed(pid);
        }
        for (thread, counters) in &armed.late {
            self.decoder.owners().add(*thread, counters);
        }
        self.counters.insert(pid, armed.counters);
        Ok(())
    }

    fn collect(&mut self, buffer: &mut Vec<u8>) {
        let mut events = Vec::new();
        for ring in &mut self.rings {
            buffer.clear();
            ring.drain(buffer);
            self.decoder.decode(buffer, self.offset, &mut events);
        }
        self.order.take(events);
        let mut lives = self.decoder.lives();
        // Each ring has its own order, and a child's may be another one than its parent's.
        lives.sort_by_key(|life| life.ts);
        self.keep(&lives);
        self.lives.extend(lives);
        let DecodeAccount {
            lost,
            unreadable,
            throttled,
        } = self.decoder.account();
        // Told among the events, where it happened.
        self.lost = self.lost.saturating_add(lost);
        if unreadable > 0 {
            self.sender.say(Message::Unparsed(unreadable));
        }
        if throttled > 0 && !std::mem::replace(&mut self.throttled, true) {
            self.sender.say(Message::Lost(LossStage::Kernel, 0));
        }
    }

    /// Sees to children. Mostly somebody has: births are watched for, but their rings are small.
    fn keep(&self, lives: &[Life]) {
        if let Some(descendants) = &self.descendants {
            for life in lives {
                descendants.take(life.pid, &life.change);
            }
        }
    }

    /// Gives out what happened until this time.
    fn give(&mut self, until: u64) {
        self.lives.sort_by_key(|life| life.ts);
        let ready = self.lives.partition_point(|life| life.ts <= until);
        let mut ended = Vec::new();
        let mut greenlets = Vec::new();
        for life in self.lives.drain(..ready) {
            if matches!(life.change, Change::Exited { .. }) {
                ended.push(life.pid);
            }
            let maps_greenlet = matches!(
                life.change,
                Change::Mapped {
                    greenlets: true,
                    ..
                }
            );
            if maps_greenlet && !self.processes.is_strange(life.pid) {
                greenlets.push(life.pid);
            }
            self.order.take(self.processes.take(life));
        }
        let mut events = self.order.give(until);
        if !self.processes.follows() {
            events.retain(|event| !self.processes.is_strange(event.pid));
        }
        let late = self.order.take_late();
        if late > 0 {
            self.sender.say(Message::Late(late));
        }
        for pid in greenlets {
            self.sender.say(Message::Greenlets(pid));
        }
        self.sender.events(events);
        for pid in ended {
            // The counters of a task that is gone are descriptors and nothing else, but for those of its children.
            if !self.processes.follows() {
                self.counters.remove(&pid);
                self.processes.forget(pid);
            }
        }
    }

    fn wait(&self, wake: &OwnedFd) {
        let mut files: Vec<PollFd<'_>> = self
            .rings
            .iter()
            .map(|ring| PollFd::from_borrowed_fd(ring.as_fd(), PollFlags::IN))
            .collect();
        files.push(PollFd::new(wake, PollFlags::IN));
        let _ = poll(&mut files, Some(&ROUND));
        let mut count = [0; 8];
        let _ = rustix::io::read(wake, &mut count);
    }
}

/// A ring for each processor that is there.
fn rings(buffer: Option<u32>) -> Result<Vec<(u32, Ring)>, UprobesError> {
    rings::of_all_processors(buffer).map_err(|error| match error {
        NoRings::Processors(reason) => UprobesError::System {
            what: "the processors cannot be counted",
            reason,
        },
        NoRings::Refused { size, reason } => refused(size, reason),
    })
}

/// Why a ring was refused: the mapping is limited, opening is a privilege.
fn refused(size: usize, reason: io::Error) -> UprobesError {
    match reason.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ACCESS) => UprobesError::Paranoid {
            paranoid: perf::paranoid(),
        },
        _ if perf::is_limit(&reason) => UprobesError::Buffer {
            kilobytes: size >> 10,
            limit: getrlimit(Resource::Memlock).current.map_or_else(
                || "any number of".to_owned(),
                |bytes| (bytes >> 10).to_string(),
            ),
            reason,
        },
        _ => UprobesError::System {
            what: "the kernel gives no ring for its records",
            reason,
        },
    }
}
