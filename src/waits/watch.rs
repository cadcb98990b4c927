//! Has the kernel tell the switches of threads, and makes waits of them as they come.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::calls::{CallAccount, Called, Caller, Calls, Touch, WantedCalls};
use super::order::Order;
use super::reason::{Meaning, Meant, Reason, meant, of_call};
use super::records::{CallFormat, Decoder, Format, RegistrationFormat, Tells};
use super::symbols::Symbols;
use super::threads::{Account, Beside, Cause, Happened, Record, Threads, Wait};
use crate::perf::rings::{self, NoRings};
use crate::perf::tasks::{Armed, each_thread, raise_descriptor_limit};
use crate::perf::tracepoints::{self, NoTracefs, Tracepoint};
use crate::perf::{self, Counter, Inherit, Ring};
use crate::process::activity::{Call, State, Status, switches};
use crate::process::{self, FIRST_PID_NAMESPACE, pid_namespace};

/// A record has its time a little before it is in its ring. A host can take the processor away in between.
const SLACK_NS: u64 = 10_000_000;
/// Most registrations with epolls that wait to be asked for, and most changes of descriptors that are kept.
const MOST_REGISTERED: usize = 1 << 12;
const MOST_CHANGED: usize = 1 << 12;
/// The exit code where there is no such process any longer.
const ENDED: u8 = 4;
/// How often it is looked which counters can tell nothing any longer.
const SWEEPS_NS: u64 = 1_000_000_000;
/// Room in a ring without which a record may have found none.
const LARGEST_RECORD: u64 = 2 << 10;

/// A process to be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) pid: u32,
    /// When it was started, as the kernel has it.
    pub(crate) started: u64,
}

/// Why nothing can be watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// tracefs is not there.
    #[error(
        "the events of the scheduler cannot be found ({0}), so nothing is seen; run `sudo pystap …` (in a container: with the \
         capabilities CAP_PERFMON and CAP_SYS_ADMIN, and /sys/kernel/tracing)"
    )]
    Tracefs(NoTracefs),
    /// It is closed to us.
    #[error(
        "the events of the scheduler may not be read ({0}), so nothing is seen; run `sudo pystap …` (in a container: with the \
         capability CAP_PERFMON, and /sys/kernel/tracing)"
    )]
    NotPermitted(io::Error),
    /// Events of the scheduler are missing, or are not as they should be.
    #[error(
        "this kernel does not have the events of the scheduler ({0}), so nothing is seen; `pystap dump -p PID` shows what threads wait for \
         right now"
    )]
    NoEvents(String),
    /// `perf_event_open` is denied.
    #[error(
        "the kernel does not let this user watch others (kernel.perf_event_paranoid is {paranoid}), so nothing is seen; run `sudo \
         pystap …`, or give the capability CAP_PERFMON"
    )]
    Paranoid {
        /// The setting.
        paranoid: String,
    },
    /// A process cannot be watched.
    #[error("process {pid} cannot be watched ({reason}), so nothing of it is seen; {next}")]
    Process {
        /// Which.
        pid: u32,
        /// The kernel's reason.
        reason: io::Error,
        /// What to do.
        next: &'static str,
    },
    /// Something else that the system refuses.
    #[error("{what} ({reason}), so nothing is seen; try again, and report this if it stays")]
    System {
        /// A clause.
        what: &'static str,
        /// The system's reason.
        reason: io::Error,
    },
}

impl WatchError {
    /// The exit code of pystap for this failure.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            WatchError::Process { reason, .. } if is(reason, Errno::SRCH) => ENDED,
            WatchError::Process { .. } | WatchError::System { .. } => 1,
            _ => 3,
        }
    }
}

fn is(reason: &io::Error, errno: Errno) -> bool {
    reason.raw_os_error() == Some(errno.raw_os_error())
}

/// What a thread did last, whether or not all that is older has come.
#[derive(Debug, Clone, Copy)]
struct Latest {
    pid: u32,
    at: u64,
    waits: bool,
}

/// A thread that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    /// When it began, as [`Wait::began`] will be.
    pub(crate) began: u64,
}

/// A thread had an epoll watch a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) descriptor: u32,
    pub(crate) at: u64,
}

/// What was done with descriptors of the processes of which that is told.
#[derive(Debug, Default)]
struct Registrations {
    counters: Vec<OwnedFd>,
    /// The newest last.
    registered: VecDeque<Registered>,
    /// Process, descriptor and moment at which it became another one; all of them where there is none.
    changed: VecDeque<(u32, Option<u32>, u64)>,
    /// What changed until then is not all known.
    changed_from: u64,
}

impl Registrations {
    fn note(&mut self, record: &Record) {
        let at = record.time;
        match record.happened {
            Happened::Registers {
                pid,
                tid,
                descriptor,
            } => {
                if self.registered.len() >= MOST_REGISTERED {
                    self.registered.pop_front();
                }
                self.registered.push_back(Registered {
                    pid,
                    tid,
                    descriptor,
                    at,
                });
            }
            Happened::Changes { pid, descriptor } => {
                if self.changed.len() >= MOST_CHANGED
                    && let Some((.., oldest)) = self.changed.pop_front()
                {
                    self.changed_from = self.changed_from.max(oldest);
                }
                self.changed.push_back((pid, descriptor, at));
            }
            // A change may be among what was lost.
            Happened::Lost { .. } | Happened::Sighted => {
                self.changed_from = self.changed_from.max(at);
            }
            _ => {}
        }
    }

    /// The newest that was not asked for yet, if it is not older than this moment. Of those that are, and of those of which it will
    /// not be known whether they changed, nobody has to know more.
    fn newest(&mut self, since: u64) -> Option<Registered> {
        while let Some(newest) = self.registered.pop_back() {
            if newest.at >= since && newest.at > self.changed_from {
                return Some(newest);
            }
        }
        None
    }

    fn has_changed(&self, registered: &Registered) -> bool {
        let mut changed = self.changed.iter();
        registered.at <= self.changed_from
            || changed.any(|(pid, descriptor, at)| {
                *pid == registered.pid
                    && descriptor.is_none_or(|it| it == registered.descriptor)
                    && *at >= registered.at
            })
    }
}

/// What tells who wakes whom.
#[derive(Debug, Default)]
struct Wakings {
    /// `None` where that is not wanted.
    tracepoint: Option<u64>,
    counters: Vec<OwnedFd>,
    /// Of threads from this number on: a filter can neither be long nor changed.
    lowest: u32,
}

/// What tells nothing any longer.
#[derive(Debug, Default)]
struct Swept {
    /// Counters by number.
    counters: Vec<u64>,
    pids: Vec<u32>,
}

/// Watches processes. Dropped, it takes everything away.
#[derive(Debug)]
pub(crate) struct Watch {
    /// By processor.
    rings: Vec<(u32, Ring)>,
    /// They tell as long as they live.
    counters: Vec<OwnedFd>,
    /// What those had lost that are closed by now, and when they were looked for last.
    lost_before: u64,
    swept: u64,
    wakings: Wakings,
    decoder: Decoder,
    order: Order,
    threads: Threads,
    /// Where system calls are wanted.
    calls: Option<Calls>,
    registrations: Registrations,
    latest: HashMap<u32, Latest>,
    /// The event that tells switches, and where they are wanted, those that tell system calls.
    switch: u64,
    call_events: Option<CallEvents>,
    /// When all that had been told by then was taken in last.
    drained: u64,
    bytes: Vec<u8>,
    records: Vec<Record>,
    /// What cannot be told, a sentence each.
    notes: Vec<String>,
}

impl Watch {
    /// Begins to watch. Where `wakers` are wanted, wakings are listened to on all processors.
    ///
    /// # Errors
    /// [`WatchError`].
    pub(crate) fn begin(targets: &[Target], wakers: bool) -> Result<Watch, WatchError> {
        Watch::of(targets, wakers, None)
    }

    /// The same with system calls, without who wakes.
    ///
    /// # Errors
    /// [`WatchError`].
    pub(crate) fn begin_with_calls(
        targets: &[Target],
        wanted: WantedCalls,
    ) -> Result<Watch, WatchError> {
        Watch::of(targets, false, Some(wanted))
    }

    fn of(
        targets: &[Target],
        wakers: bool,
        calls: Option<WantedCalls>,
    ) -> Result<Watch, WatchError> {
        raise_descriptor_limit();
        let root = tracepoints::root().map_err(WatchError::Tracefs)?;
        let events = Events::of(&root)?;
        let call_events = match &calls {
            Some(wanted) => Some(CallEvents::of(&root, wanted)?),
            None => None,
        };
        let mut notes = Vec::new();
        let symbols = Symbols::of_kernel().ok().flatten();
        if symbols.is_none() && calls.is_none() {
            notes.push(
                "the kernel does not tell its addresses (/proc/kallsyms), so reasons are those of system calls, of waits that \
                 lasted until they were looked at; run as root, with kernel.kptr_restrict below 2"
                    .to_owned(),
            );
        }
        let pids: HashSet<u32> = targets.iter().map(|target| target.pid).collect();
        let first_namespace = pid_namespace("self") == Some(FIRST_PID_NAMESPACE);
        let decoder = Decoder::new(events.format, symbols, pids, first_namespace);
        let rings = rings::of_all_processors(None).map_err(refused)?;
        let mut watch = Watch {
            rings,
            counters: Vec::new(),
            lost_before: 0,
            swept: perf::now(),
            wakings: Wakings::default(),
            decoder,
            order: Order::default(),
            threads: Threads::default(),
            calls: calls.map(Calls::new),
            registrations: Registrations::default(),
            latest: HashMap::new(),
            switch: events.switch,
            call_events,
            drained: perf::now(),
            bytes: Vec::new(),
            records: Vec::new(),
            notes,
        };
        if wakers {
            // Threads are numbered upwards, so most of what others wake is left out in the kernel.
            let tids = targets
                .iter()
                .flat_map(|target| process::threads(target.pid).unwrap_or_default());
            let lowest = tids.min().filter(|_| first_namespace).unwrap_or_default();
            watch.wakings.tracepoint = Some(events.waking);
            match watch.listen(lowest) {
                Ok(()) => {}
                Err(reason) => watch.notes.push(format!(
                    "who wakes others is not told here ({reason}), so waits come with their time in the run queue and without \
                     who ended them"
                )),
            }
        }
        let since = perf::now();
        let mut ended = None;
        for target in targets {
            match watch.arm(target.pid) {
                // Of a service's workers one may come and go; the others are watched.
                Err(error) if error.exit_code() == ENDED => ended = Some(error),
                armed => armed?,
            }
        }
        if let (true, Some(error)) = (watch.counters.is_empty(), ended) {
            return Err(error);
        }
        for target in targets {
            watch.find_waiting(target.pid, since);
        }
        Ok(watch)
    }

    /// Has the threads of a process tell their switches.
    fn arm(&mut self, pid: u32) -> Result<(), WatchError> {
        let mut told_by = Vec::new();
        let calls = self.call_events.as_ref();
        let armed = arm(pid, self.switch, calls, &self.rings, &mut told_by);
        if let Some(calls) = calls {
            self.decoder.tells_calls(calls.format, &told_by);
        }
        let armed = armed?;
        for (thread, counters) in &armed.late {
            self.decoder.owners().add(*thread, counters);
        }
        self.counters.extend(armed.counters);
        Ok(())
    }

    /// Watches one more process from now on.
    ///
    /// # Errors
    /// [`WatchError`].
    pub(crate) fn add(&mut self, pid: u32) -> Result<(), WatchError> {
        let since = perf::now();
        self.decoder.follows(pid);
        self.arm(pid)?;
        self.find_waiting(pid, since);
        Ok(())
    }

    /// From now on also tells which descriptors the threads of a process, which is watched already, have epolls watch. The kernel then
    /// looks at the system calls of all processes, which makes each a little dearer.
    ///
    /// # Errors
    /// When the kernel does not tell that.
    pub(crate) fn add_registrations(&mut self, pid: u32) -> io::Result<()> {
        let root = tracepoints::root().map_err(io::Error::other)?;
        let enter = Tracepoint::of(&root, "raw_syscalls", "sys_enter")?;
        let unknown = || io::Error::other("the format of raw_syscalls is not a known one");
        let format = RegistrationFormat::new(&enter).ok_or_else(unknown)?;
        let filter = CString::new(format.filter())?;
        let rings = &self.rings;
        let mut numbers = Vec::new();
        let armed = each_thread(pid, Inherit::Threads, |thread| {
            let mut counters = Vec::with_capacity(rings.len());
            for (processor, ring) in rings {
                let counter = Counter {
                    tracepoint: enter.id,
                    task: thread,
                    processor: Some(*processor),
                    inherit: Inherit::Threads,
                    life: false,
                }
                .open()?;
                // Without it the kernel would tell every system call.
                perf::set_filter(counter.as_fd(), &filter)?;
                perf::set_output(counter.as_fd(), ring.as_fd())?;
                numbers.push(perf::id(counter.as_fd())?);
                counters.push(counter);
            }
            Ok(counters)
        })?;
        self.decoder.tells_registrations(format, &numbers);
        for counter in &armed.counters {
            perf::enable(counter.as_fd())?;
        }
        self.registrations.counters.extend(armed.counters);
        Ok(())
    }

    /// Whether it is told what epolls are told to watch, of any process.
    pub(crate) fn tells_registrations(&self) -> bool {
        !self.registrations.counters.is_empty()
    }

    /// Of the descriptors that epolls were told to watch and that were not asked for yet: the newest since this moment. Older ones
    /// are forgotten.
    pub(crate) fn registered(&mut self, since: u64) -> Option<Registered> {
        self.registrations.newest(since)
    }

    /// Whether the number may stand for another descriptor than it did then, after [`Watch::drain`].
    pub(crate) fn has_changed(&self, registered: &Registered) -> bool {
        self.registrations.has_changed(registered)
    }

    /// From now on also tells what is beside waits, with [`Watch::beside`].
    pub(crate) fn keep_beside(&mut self) {
        self.threads.keep_beside();
    }

    /// What has come beside waits with the last [`Watch::ended`].
    pub(crate) fn beside(&mut self) -> Beside {
        self.threads.take_beside()
    }

    /// Has every processor tell who wakes threads from this number on.
    fn listen(&mut self, lowest: u32) -> io::Result<()> {
        let Some(tracepoint) = self.wakings.tracepoint else {
            return Ok(());
        };
        let filter = CString::new(format!("pid >= {lowest}"))?;
        let mut counters = Vec::with_capacity(self.rings.len());
        for (processor, ring) in &self.rings {
            let counter = perf::everybody(tracepoint, *processor)?;
            // Without it the kernel tells of others, too.
            let _ = perf::set_filter(counter.as_fd(), &filter);
            perf::set_output(counter.as_fd(), ring.as_fd())?;
            self.decoder.tells_wakings(perf::id(counter.as_fd())?);
            counters.push(counter);
        }
        for counter in &counters {
            perf::enable(counter.as_fd())?;
        }
        // What both have told is told twice, of which the second takes the place of the first.
        self.wakings.counters = counters;
        self.wakings.lowest = lowest;
        Ok(())
    }

    /// What cannot be told, a sentence each.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Takes note of threads that wait already: no switch tells of them.
    fn find_waiting(&mut self, pid: u32, since: u64) {
        let look = |tid| (Call::of(pid, tid), cause_of(pid, tid));
        let found = found_waiting(pid, look);
        // Who is heard of by now has moved, and is known by that.
        self.drain();
        for (tid, (call, cause)) in found {
            if self.latest.contains_key(&tid) {
                continue;
            }
            if let (Some(calls), Call::In(number, _)) = (&mut self.calls, call) {
                calls.found_inside(tid, number);
            }
            self.threads.found_waiting(pid, tid, since, cause);
            let at = since;
            let latest = Latest {
                pid,
                at,
                waits: true,
            };
            self.latest.insert(tid, latest);
        }
    }

    /// Waits until there is much to be read, or until this moment.
    pub(crate) fn pause(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut files: Vec<PollFd<'_>> = self
            .rings
            .iter()
            .map(|(_, ring)| PollFd::from_borrowed_fd(ring.as_fd(), PollFlags::IN))
            .collect();
        // Interrupted, it looks a little earlier.
        let _ = poll(&mut files, Some(&left));
    }

    /// Takes in what the kernel has told.
    pub(crate) fn drain(&mut self) {
        let swept = self.sweep();
        let (drained, unreadable) = (perf::now(), self.decoder.unreadable);
        for (_, ring) in &mut self.rings {
            self.bytes.clear();
            ring.drain(&mut self.bytes);
            let is_full = self.bytes.len() as u64 + LARGEST_RECORD > ring.size();
            let last = self.decoder.decode(&self.bytes, &mut self.records);
            if let (true, Some(last)) = (is_full, last) {
                // There may have been more, of which we hear when there is room again.
                for (time, happened) in [(last, Happened::Blind), (perf::now(), Happened::Sighted)]
                {
                    self.records.push(Record { time, happened });
                }
            }
        }
        // What they had told is understood by now.
        self.decoder.forget(&swept.counters, &swept.pids);
        if self.decoder.unreadable > unreadable {
            let from = self.drained.saturating_sub(SLACK_NS);
            self.threads.gap(from, drained);
        }
        self.drained = drained;
        let mut lowest = u32::MAX;
        for record in self.records.drain(..) {
            if let Happened::Runs { tid, .. } = record.happened {
                lowest = lowest.min(tid);
            }
            self.registrations.note(&record);
            if let Happened::Registers { .. } | Happened::Changes { .. } = record.happened {
                continue;
            }
            note(&mut self.latest, &record);
            if let Some(calls) = &mut self.calls {
                calls.note(&record);
            }
            self.order.add(record);
        }
        if lowest < self.wakings.lowest {
            // The numbers of threads have begun anew. If it fails, wakings of the others are told still, and it is not tried again.
            self.wakings.lowest = 0;
            let _ = self.listen(0);
        }
    }

    /// Closes the counters of threads that have ended, with all that inherited them: a server may replace its workers for ever, and
    /// we have only so many descriptors. One that another thread has inherited tells of that, and stays.
    ///
    /// To be called when the rings are read next: asking a counter takes the word away that its ring has something to be read.
    fn sweep(&mut self) -> Swept {
        let now = perf::now();
        let mut swept = Swept::default();
        if now.saturating_sub(self.swept) < SWEEPS_NS {
            return swept;
        }
        self.swept = now;
        let counters = self.counters.iter();
        let mut files: Vec<PollFd<'_>> = counters
            .chain(&self.registrations.counters)
            .map(|counter| PollFd::from_borrowed_fd(counter.as_fd(), PollFlags::empty()))
            .collect();
        if !matches!(poll(&mut files, Some(&Timespec::default())), Ok(1..)) {
            return swept;
        }
        let over: Vec<bool> = files
            .iter()
            .map(|file| file.revents().contains(PollFlags::HUP))
            .collect();
        let mut over = over.into_iter();
        let lost = &mut self.lost_before;
        let mut goes_on = |counter: &OwnedFd| {
            let is_over = over.next().unwrap_or_default();
            if is_over {
                *lost += perf::lost(counter.as_fd()).unwrap_or_default();
                swept.counters.extend(perf::id(counter.as_fd()).ok());
            }
            !is_over
        };
        self.counters.retain(&mut goes_on);
        self.registrations.counters.retain(&mut goes_on);
        let followed = self.decoder.followed();
        swept.pids = followed.filter(|pid| !process::runs(*pid)).collect();
        swept
    }

    /// The waits that have ended, as far as all that matters to them must have been taken in by now; says until when that is.
    pub(crate) fn ended(&mut self, waits: &mut Vec<Wait>) -> u64 {
        let until = self.drained.saturating_sub(SLACK_NS);
        self.ended_until(until, waits, &mut Vec::new());
        until
    }

    /// The system calls that have ended, likewise.
    pub(crate) fn called(&mut self, called: &mut Vec<Called>) {
        let until = self.drained.saturating_sub(SLACK_NS);
        self.ended_until(until, &mut Vec::new(), called);
    }

    fn ended_until(&mut self, time: u64, waits: &mut Vec<Wait>, called: &mut Vec<Called>) {
        for record in self.order.until(time) {
            if let Some(calls) = &mut self.calls {
                called.extend(calls.take(&record));
            }
            waits.extend(self.threads.take(record));
        }
    }

    /// Threads with the last system call that they began or ended, so far as the kernel has told.
    pub(crate) fn callers(&self) -> impl Iterator<Item = Caller> {
        let calls = self.calls.iter();
        calls.flat_map(|calls| calls.callers().copied())
    }

    /// What system calls did with descriptors since this was asked last, so far as the kernel has told.
    pub(crate) fn touched(&mut self, into: &mut Vec<Touch>) {
        if let Some(calls) = &mut self.calls {
            calls.touched(into);
        }
    }

    /// The system calls that are not told, so far.
    pub(crate) fn call_account(&self) -> CallAccount {
        let calls = self.calls.as_ref();
        calls.map_or_else(CallAccount::default, Calls::account)
    }

    /// The last of them, after which nothing is watched any longer; waits that go on are among them as long as they are now.
    pub(crate) fn end(&mut self, waits: &mut Vec<Wait>) -> Account {
        let account = self.stop(waits, &mut Vec::new());
        waits.extend(self.open());
        account
    }

    /// The last of the system calls, likewise; those that go on are open.
    pub(crate) fn end_of_calls(mut self, called: &mut Vec<Called>) -> (Account, CallAccount) {
        let account = self.stop(&mut Vec::new(), called);
        (account, self.call_account())
    }

    fn stop(&mut self, waits: &mut Vec<Wait>, called: &mut Vec<Called>) -> Account {
        // A record tells of a loss only when one more comes after it.
        let counters = self.counters.iter().chain(&self.wakings.counters);
        let counters = counters.chain(&self.registrations.counters);
        let lost: u64 = counters
            .filter_map(|counter| perf::lost(counter.as_fd()))
            .sum();
        let lost = lost.saturating_add(self.lost_before);
        self.counters.clear();
        self.wakings.counters.clear();
        self.registrations.counters.clear();
        self.drain();
        self.ended_until(u64::MAX, waits, called);
        let account = self.account();
        Account {
            lost: account.lost.max(lost),
            ..account
        }
    }

    /// The waits that go on, as long as they are by now.
    pub(crate) fn open(&self) -> Vec<Wait> {
        self.threads.open(perf::now()).collect()
    }

    /// The threads that wait now, so far as the kernel has told.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Waiting> {
        self.latest.iter().filter_map(|(tid, latest)| {
            latest.waits.then_some(Waiting {
                pid: latest.pid,
                tid: *tid,
                began: latest.at,
            })
        })
    }

    /// Whether a thread is still in this wait, after [`Watch::drain`]: it has not run then, so what was read of it meanwhile is of
    /// this wait.
    pub(crate) fn goes_on(&self, waiting: &Waiting) -> bool {
        let latest = self.latest.get(&waiting.tid);
        latest.is_some_and(|latest| latest.waits && latest.at == waiting.began)
    }

    /// Whether the kernel's addresses are hidden, so that waits come without their reason: then [`cause_of`] is to be asked
    /// while a thread waits.
    pub(crate) fn lacks_reasons(&self) -> bool {
        self.decoder.lacks_symbols()
    }

    /// What was not seen, so far.
    pub(crate) fn account(&self) -> Account {
        let mut account = self.threads.account();
        account.unreadable = self.decoder.unreadable;
        account
    }
}

/// Notes what a thread did last.
fn note(latest: &mut HashMap<u32, Latest>, record: &Record) {
    let (pid, tid, waits) = match &record.happened {
        Happened::Waits { pid, tid, .. } => (*pid, *tid, true),
        Happened::Preempted { pid, tid } | Happened::Runs { pid, tid } => (*pid, *tid, false),
        Happened::Ended { tid } => {
            latest.remove(tid);
            return;
        }
        // Whoever waits may have run.
        Happened::Blind | Happened::Sighted | Happened::Lost { .. } => {
            latest.clear();
            return;
        }
        Happened::Woken { .. }
        | Happened::Enters { .. }
        | Happened::Leaves { .. }
        | Happened::Registers { .. }
        | Happened::Changes { .. } => return,
    };
    let at = record.time;
    let known = latest.entry(tid).or_insert(Latest { pid, at, waits });
    if at >= known.at {
        *known = Latest { pid, at, waits };
    }
}

/// What is known of the events before anything is watched.
struct Events {
    switch: u64,
    waking: u64,
    format: Format,
}

impl Events {
    fn of(root: &Path) -> Result<Events, WatchError> {
        let failed = |reason: io::Error| match reason.kind() {
            io::ErrorKind::PermissionDenied => WatchError::NotPermitted(reason),
            _ => WatchError::NoEvents(reason.to_string()),
        };
        // A directory that is closed to us hides what is in it.
        fs::read_dir(root).map_err(failed)?;
        let switch = Tracepoint::of(root, "sched", "sched_switch").map_err(failed)?;
        let waking = Tracepoint::of(root, "sched", "sched_waking").map_err(failed)?;
        let flags = tracepoints::flags(root, "sched", "sched_switch").map_err(failed)?;
        let states = flags.iter().filter_map(|(bit, name)| {
            let mut letters = name.chars();
            let letter = letters.next()?;
            (letters.next().is_none() && letter != 'R').then_some((*bit, letter))
        });
        let format = Format::new(&switch, &waking, states.collect());
        Ok(Events {
            switch: switch.id,
            waking: waking.id,
            format: format.ok_or_else(|| {
                WatchError::NoEvents("their format is not a known one".to_owned())
            })?,
        })
    }
}

/// The events of system calls.
#[derive(Debug)]
struct CallEvents {
    format: CallFormat,
    /// Beginnings and ends: the tracepoint, and what the kernel is to let through.
    told: [(Tells, u64, Option<CString>); 2],
}

impl CallEvents {
    fn of(root: &Path, wanted: &WantedCalls) -> Result<CallEvents, WatchError> {
        let event = |name| Tracepoint::of(root, "raw_syscalls", name);
        let missing = |reason: io::Error| WatchError::NoEvents(format!("raw_syscalls: {reason}"));
        let begin = event("sys_enter").map_err(missing)?;
        let end = event("sys_exit").map_err(missing)?;
        let filter = |text: Option<String>| text.and_then(|text| CString::new(text).ok());
        Ok(CallEvents {
            format: CallFormat::new(&begin, &end).ok_or_else(|| {
                WatchError::NoEvents("the format of raw_syscalls is not a known one".to_owned())
            })?,
            told: [
                (
                    Tells::CallsBegin,
                    begin.id,
                    filter(wanted.filter_of_entries()),
                ),
                (Tells::CallsEnd, end.id, filter(wanted.filter_of_ends())),
            ],
        })
    }

    /// Counters of a thread on a processor, with what they tell.
    fn open(&self, thread: u32, processor: u32) -> io::Result<Vec<(Tells, OwnedFd)>> {
        let mut counters = Vec::with_capacity(self.told.len());
        for (tells, tracepoint, filter) in &self.told {
            let counter = Counter {
                tracepoint: *tracepoint,
                task: thread,
                processor: Some(processor),
                inherit: Inherit::Threads,
                life: false,
            }
            .open()?;
            if let Some(filter) = filter {
                // Without it the kernel tells of others, too, which are sorted out later.
                let _ = perf::set_filter(counter.as_fd(), filter);
            }
            counters.push((*tells, counter));
        }
        Ok(counters)
    }
}

/// Has every thread of a process tell its switches, and its system calls where those are wanted: of their counters it is noted
/// what they tell.
fn arm(
    pid: u32,
    switches: u64,
    calls: Option<&CallEvents>,
    rings: &[(u32, Ring)],
    told_by: &mut Vec<(u64, Tells)>,
) -> Result<Armed, WatchError> {
    each_thread(pid, Inherit::Threads, |thread| {
        let mut counters = Vec::with_capacity(rings.len());
        for (processor, ring) in rings {
            let mut here = vec![perf::switches(switches, thread, *processor)?];
            if let Some(calls) = calls {
                for (tells, counter) in calls.open(thread, *processor)? {
                    told_by.push((perf::id(counter.as_fd())?, tells));
                    here.push(counter);
                }
            }
            for counter in &here {
                perf::set_output(counter.as_fd(), ring.as_fd())?;
            }
            counters.extend(here);
        }
        for counter in &counters {
            perf::enable(counter.as_fd())?;
        }
        Ok(counters)
    })
    .map_err(|reason| {
        let next = match reason.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::PERM | Errno::ACCESS) => return paranoid(),
            Some(Errno::SRCH) => "it has ended; name another one",
            Some(Errno::MFILE | Errno::NFILE) => {
                "it takes a descriptor for each thread and processor; raise the limit with `ulimit -n`"
            }
            _ => "try again, and report this if it stays",
        };
        WatchError::Process { pid, reason, next }
    })
}

fn refused(error: NoRings) -> WatchError {
    match error {
        NoRings::Processors(reason) => WatchError::System {
            what: "the processors cannot be counted",
            reason,
        },
        NoRings::Refused { reason, .. }
            if is(&reason, Errno::ACCESS) || is(&reason, Errno::PERM) =>
        {
            paranoid()
        }
        NoRings::Refused { reason, .. } => WatchError::System {
            what: "the kernel gives no ring for its records",
            reason,
        },
    }
}

fn paranoid() -> WatchError {
    WatchError::Paranoid {
        paranoid: perf::paranoid(),
    }
}

/// The threads of a process that wait, with what a look at each says while it does.
pub(crate) fn found_waiting<T>(pid: u32, mut look: impl FnMut(u32) -> T) -> Vec<(u32, T)> {
    let mut found = Vec::new();
    for tid in process::threads(pid).unwrap_or_default() {
        let before = switches(pid, tid);
        let waits = Status::of(pid, tid)
            .is_some_and(|status| !matches!(status.state, State::Running | State::Other(_)));
        let seen = look(tid);
        if waits && before.is_some() && switches(pid, tid) == before {
            found.push((tid, seen));
        }
    }
    found
}

/// What a thread waits for that waits now, as /proc has it.
pub(crate) fn cause_of(pid: u32, tid: u32) -> Cause {
    /// Most of a call chain that is read.
    const LONGEST: usize = 16 << 10;
    let call = Call::of(pid, tid);
    let name = call.name();
    let argument = match call {
        Call::In(_, [first, ..]) => first,
        _ => 0,
    };
    let stack = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stack")).unwrap_or_default();
    let meanings: Vec<Meaning> = stack
        .get(..LONGEST)
        .unwrap_or(&stack)
        .lines()
        .filter_map(|line| line.split_once("] ")?.1.split('+').next())
        .filter_map(Meaning::of)
        .collect();
    let Meant {
        reason,
        call: meant_call,
    } = meant(meanings.iter());
    let reason = match (reason, &name, call) {
        _ if meanings.is_empty() => match (&name, call) {
            (Some(name), _) => of_call(name),
            (None, Call::Outside) => Reason::PageFault,
            (None, _) => Reason::Other,
        },
        (reason, Some(name), Call::In(_, [first, second, ..])) => {
            reason.of_descriptors(name, Some(first), Some(second))
        }
        (reason, ..) => reason,
    };
    Cause {
        reason,
        call: meant_call.or_else(|| name.map(Into::into)),
        argument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(tid: u32, time: u64) -> Record {
        let cause = Cause {
            reason: Reason::Pipe,
            call: None,
            argument: 0,
        };
        let happened = Happened::Waits { pid: 1, tid, cause };
        Record { time, happened }
    }

    fn runs(tid: u32, time: u64) -> Record {
        let happened = Happened::Runs { pid: 1, tid };
        Record { time, happened }
    }

    #[test]
    fn a_descriptor_that_may_be_another_one_by_now_has_changed() {
        let mut registrations = Registrations::default();
        let mut note = |time: u64, happened: Happened| {
            registrations.note(&Record { time, happened });
        };
        let changes = |descriptor| Happened::Changes { pid: 1, descriptor };
        note(10, changes(Some(9)));
        for (time, descriptor) in [(20, 9), (20, 8)] {
            let happened = Happened::Registers {
                pid: 1,
                tid: 2,
                descriptor,
            };
            note(time, happened);
        }
        let registered = &registrations.registered;
        let (nine, eight) = (registered[0], registered[1]);
        let mut changed_after = |time, happened| {
            registrations.note(&Record { time, happened });
            [nine, eight].map(|it| registrations.has_changed(&it))
        };
        assert_eq!(changed_after(25, changes(Some(7))), [false, false]);
        let of_another = Happened::Changes {
            pid: 3,
            descriptor: None,
        };
        assert_eq!(changed_after(26, of_another), [false, false]);
        assert_eq!(changed_after(30, changes(Some(9))), [true, false]);
        assert_eq!(changed_after(31, changes(None)), [true, true]);
        let later = Registered { at: 40, ..nine };
        assert!(!registrations.has_changed(&later));
        let happened = Happened::Lost { count: 1 };
        registrations.note(&Record { time: 41, happened });
        assert!(registrations.has_changed(&later));
    }

    #[test]
    fn descriptors_are_asked_for_from_the_newest_on_unless_it_is_of_no_use() {
        let mut registrations = Registrations::default();
        let mut note = |time: u64, happened: Happened| {
            registrations.note(&Record { time, happened });
        };
        let registers = |descriptor| Happened::Registers {
            pid: 1,
            tid: 2,
            descriptor,
        };
        note(10, registers(1));
        note(20, Happened::Lost { count: 1 });
        for at in [30, 40, 50] {
            note(at, registers(at as u32));
        }
        let mut newest = |since| registrations.newest(since).map(|it| it.descriptor);
        assert_eq!(newest(0), Some(50));
        assert_eq!(newest(40), Some(40));
        assert_eq!(newest(31), None, "30 is too old");
        assert_eq!(newest(0), None, "and forgotten");
        for at in [15, 60] {
            let happened = registers(at as u32);
            registrations.note(&Record { time: at, happened });
        }
        let mut newest = || registrations.newest(0).map(|it| it.descriptor);
        assert_eq!(
            [newest(), newest()],
            [Some(60), None],
            "15 may have changed"
        );
    }

    #[test]
    fn what_a_thread_did_last_is_what_is_youngest_and_not_what_came_last() {
        let mut latest = HashMap::new();
        note(&mut latest, &runs(1, 30));
        note(&mut latest, &waits(1, 20));
        assert!(!latest[&1].waits);
        note(&mut latest, &waits(1, 40));
        assert!(latest[&1].waits);
        let happened = Happened::Lost { count: 1 };
        note(&mut latest, &Record { time: 50, happened });
        assert!(latest.is_empty());
    }
}
