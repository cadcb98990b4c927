//! From what happened to threads, in the order of time, to their waits. A state for each thread; no clock, no kernel.
//!
//! A wait begins when the thread leaves the processor in a state other than running, and ends when it runs again. In between it
//! is woken: what comes before is blocked time, what follows is time in the run queue. The kernel can wake a thread while it is
//! still leaving, so a waking counts from the last time on that the thread got a processor; a later one takes its place.

use std::collections::HashMap;
use std::sync::Arc;

use super::reason::Reason;

/// Most threads that are followed at a time; what others do is not seen.
const MOST_THREADS: usize = 1 << 17;

/// A wait of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    /// When it began, in nanoseconds of the clock of records.
    pub(crate) began: u64,
    /// How long it was blocked: until it was woken, or until it ran again where no waking was seen.
    pub(crate) blocked_ns: u64,
    /// How long it waited for a processor after that; `None` where no waking was seen.
    pub(crate) runqueue_ns: Option<u64>,
    pub(crate) cause: Cause,
    /// Who woke it, where that was seen.
    pub(crate) waker: Option<Waker>,
}

/// Why a thread left the processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) reason: Reason,
    /// The system call, where that is known.
    pub(crate) call: Option<Arc<str>>,
    /// The first argument of the system call, whatever that is: where a futex is in the program's memory.
    pub(crate) argument: u64,
}

/// Who woke a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Waker {
    /// A thread.
    Thread { pid: u32, tid: u32 },
    /// The kernel in an interrupt, be it of a timer, a disk or the network.
    Interrupt,
}

impl Waker {
    /// Whether it can be told: a thread that ends and wakes its parent has no number any longer.
    fn is_known(&self) -> bool {
        !matches!(self, Waker::Thread { tid: u32::MAX, .. })
    }
}

/// What happened to a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happened {
    /// It left the processor, to wait.
    Waits { pid: u32, tid: u32, cause: Cause },
    /// It left the processor and wants it back.
    Preempted { pid: u32, tid: u32 },
    /// It got a processor.
    Runs { pid: u32, tid: u32 },
    /// It begins a system call.
    Enters {
        pid: u32,
        tid: u32,
        number: u64,
        arguments: [u64; 2],
    },
    /// It ends a system call.
    Leaves {
        pid: u32,
        tid: u32,
        number: u64,
        result: i64,
    },
    /// It has an epoll watch a descriptor.
    Registers { pid: u32, tid: u32, descriptor: u32 },
    /// A descriptor is another one from now on, or all of them are.
    Changes { pid: u32, descriptor: Option<u32> },
    /// Somebody woke it.
    Woken { tid: u32, waker: Waker },
    /// It ended.
    Ended { tid: u32 },
    /// From here on records may be missing.
    Blind,
    /// From here on there are all of them again.
    Sighted,
    /// So many records were lost before.
    Lost { count: u64 },
}

/// What happened, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) time: u64,
    pub(super) happened: Happened,
}

/// What was not seen, and what is no wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Records that found no room.
    pub(crate) lost: u64,
    /// Records that made no sense.
    pub(crate) unreadable: u64,
    /// Waits that are not told because records of them may be missing.
    pub(crate) waits_lost: u64,
    /// Time in the run queue of threads that did not wait, but were preempted.
    pub(crate) preempted_ns: u64,
    /// How often they were.
    pub(crate) preempted: u64,
}

impl Account {
    /// What has come to it since it said this.
    pub(crate) fn since(self, before: Account) -> Account {
        Account {
            lost: self.lost.saturating_sub(before.lost),
            unreadable: self.unreadable.saturating_sub(before.unreadable),
            waits_lost: self.waits_lost.saturating_sub(before.waits_lost),
            preempted_ns: self.preempted_ns.saturating_sub(before.preempted_ns),
            preempted: self.preempted.saturating_sub(before.preempted),
        }
    }
}

/// Time in which a thread wanted a processor that was taken from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Preempted {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    /// From when to when, in nanoseconds of the clock of records.
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// What else there is to know where times are to add up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Beside {
    pub(crate) preempted: Vec<Preempted>,
    /// From when to when something may not have been seen. Waits that touch such a time are missing.
    pub(crate) gaps: Vec<(u64, u64)>,
    /// Since when something may not be seen, where that goes on.
    pub(crate) blind: Option<u64>,
}

/// What a thread does.
#[derive(Debug, Clone)]
enum Doing {
    /// Nobody knows.
    Unknown,
    /// It runs; and was perhaps woken from what it has not begun yet.
    Runs { woken: Option<(u64, Waker)> },
    /// It waits.
    Waits {
        began: u64,
        cause: Cause,
        woken: Option<(u64, Waker)>,
    },
    /// It waits for a processor only.
    Preempted { since: u64 },
}

#[derive(Debug)]
struct Thread {
    pid: u32,
    doing: Doing,
}

/// Threads and what they do.
#[derive(Debug, Default)]
pub(super) struct Threads {
    threads: HashMap<u32, Thread>,
    /// Whether records may be missing at this time: how many rings say so.
    blind: u32,
    /// Since when that is.
    blind_since: u64,
    account: Account,
    /// `None` where nobody wants it.
    beside: Option<Beside>,
}

impl Threads {
    /// From now on, keeps what is beside waits until it is taken.
    pub(super) fn keep_beside(&mut self) {
        self.beside.get_or_insert_default();
    }

    /// What has come beside waits.
    pub(super) fn take_beside(&mut self) -> Beside {
        let mut beside = self.beside.as_mut().map(std::mem::take).unwrap_or_default();
        beside.blind = (self.blind > 0).then_some(self.blind_since);
        beside
    }

    /// Something may not have been seen.
    pub(super) fn gap(&mut self, from: u64, to: u64) {
        if let Some(beside) = &mut self.beside {
            beside.gaps.push((from, to));
        }
    }

    /// Notes what a thread was already doing when it was first looked at: it waits since before.
    pub(super) fn found_waiting(&mut self, pid: u32, tid: u32, since: u64, cause: Cause) {
        let known = self.threads.len();
        if known < MOST_THREADS {
            self.threads.entry(tid).or_insert(Thread {
                pid,
                doing: Doing::Waits {
                    began: since,
                    cause,
                    woken: None,
                },
            });
        }
    }

    /// Follows what happened, and gives the wait that ended by it. To be called in the order of time.
    pub(super) fn take(&mut self, record: Record) -> Option<Wait> {
        let time = record.time;
        match record.happened {
            Happened::Waits { pid, tid, cause } => {
                let woken = match self.leave(pid, tid, time)? {
                    Doing::Runs { woken } => woken,
                    _ => None,
                };
                let began = time;
                self.does(
                    tid,
                    Doing::Waits {
                        began,
                        cause,
                        woken,
                    },
                );
            }
            Happened::Preempted { pid, tid } => {
                self.leave(pid, tid, time)?;
                self.does(tid, Doing::Preempted { since: time });
            }
            Happened::Runs { pid, tid } => {
                let before = self.change(pid, tid, time, Doing::Runs { woken: None })?;
                return self.ended(pid, tid, before, time);
            }
            Happened::Woken { tid, waker } => {
                let thread = self.threads.get_mut(&tid)?;
                match &mut thread.doing {
                    Doing::Waits { woken, .. } | Doing::Runs { woken } => {
                        *woken = Some((time, waker));
                    }
                    Doing::Unknown => {
                        thread.doing = Doing::Runs {
                            woken: Some((time, waker)),
                        };
                    }
                    // It has its processor to wait for, and begins anew.
                    Doing::Preempted { .. } => {}
                }
            }
            // `calls` follows these.
            Happened::Enters { .. }
            | Happened::Leaves { .. }
            | Happened::Registers { .. }
            | Happened::Changes { .. } => {}
            Happened::Ended { tid } => {
                self.threads.remove(&tid);
            }
            Happened::Blind => {
                if self.blind == 0 {
                    self.blind_since = time;
                }
                self.blind += 1;
                self.forget();
            }
            Happened::Sighted => {
                self.forget();
                self.blind = self.blind.saturating_sub(1);
                self.gap(self.blind_since, time);
            }
            Happened::Lost { count } => {
                self.account.lost = self.account.lost.saturating_add(count);
                self.forget();
                self.gap(time, time);
            }
        }
        None
    }

    /// What a thread did that leaves the processor now. It ran, or its getting there was not seen.
    fn leave(&mut self, pid: u32, tid: u32, time: u64) -> Option<Doing> {
        let before = self.change(pid, tid, time, Doing::Unknown)?;
        if let Doing::Waits { began, .. } = before {
            // It has run meanwhile, nobody knows when.
            self.account.waits_lost += 1;
            self.gap(began, time);
        }
        Some(before)
    }

    /// What a thread did before; `None` for one too many.
    fn change(&mut self, pid: u32, tid: u32, time: u64, doing: Doing) -> Option<Doing> {
        let known = self.threads.len();
        match self.threads.get_mut(&tid) {
            Some(thread) => {
                thread.pid = pid;
                Some(std::mem::replace(&mut thread.doing, doing))
            }
            None if known >= MOST_THREADS => {
                self.gap(time, time);
                None
            }
            None => {
                self.threads.insert(tid, Thread { pid, doing });
                Some(Doing::Unknown)
            }
        }
    }

    fn does(&mut self, tid: u32, doing: Doing) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.doing = doing;
        }
    }

    /// The wait of a thread that runs again.
    fn ended(&mut self, pid: u32, tid: u32, before: Doing, now: u64) -> Option<Wait> {
        match before {
            Doing::Waits {
                began,
                cause,
                woken,
            } => {
                if self.blind > 0 {
                    self.account.waits_lost += 1;
                    return None;
                }
                Some(wait(pid, tid, began, cause, woken, now))
            }
            Doing::Preempted { since } if self.blind == 0 => {
                self.account.preempted += 1;
                let queued = now.saturating_sub(since);
                self.account.preempted_ns = self.account.preempted_ns.saturating_add(queued);
                if let Some(beside) = &mut self.beside {
                    let (began, ended) = (since, now);
                    beside.preempted.push(Preempted {
                        pid,
                        tid,
                        began,
                        ended,
                    });
                }
                None
            }
            _ => None,
        }
    }

    /// Nothing is known of any thread any longer; waits that had begun are lost.
    fn forget(&mut self) {
        for thread in self.threads.values_mut() {
            if matches!(thread.doing, Doing::Waits { .. }) {
                self.account.waits_lost += 1;
            }
            thread.doing = Doing::Unknown;
        }
    }

    /// The waits that go on, as if they ended now.
    pub(super) fn open(&self, now: u64) -> impl Iterator<Item = Wait> {
        self.threads
            .iter()
            .filter_map(move |(tid, thread)| match &thread.doing {
                Doing::Waits {
                    began,
                    cause,
                    woken,
                } => Some(wait(
                    thread.pid,
                    *tid,
                    *began,
                    cause.clone(),
                    *woken,
                    now.max(*began),
                )),
                _ => None,
            })
    }

    /// What was not seen, so far.
    pub(super) fn account(&self) -> Account {
        self.account
    }
}

fn wait(
    pid: u32,
    tid: u32,
    began: u64,
    cause: Cause,
    woken: Option<(u64, Waker)>,
    now: u64,
) -> Wait {
    let until = woken.map_or(now, |(when, _)| when.clamp(began, now.max(began)));
    Wait {
        pid,
        tid,
        began,
        blocked_ns: until.saturating_sub(began),
        runqueue_ns: woken.is_some().then(|| now.saturating_sub(until)),
        cause,
        waker: woken.map(|(_, waker)| waker).filter(Waker::is_known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 10;

    fn cause() -> Cause {
        Cause {
            reason: Reason::Pipe,
            call: Some("read".into()),
            argument: 3,
        }
    }

    fn waits(tid: u32) -> Happened {
        Happened::Waits {
            pid: PID,
            tid,
            cause: cause(),
        }
    }

    fn runs(tid: u32) -> Happened {
        Happened::Runs { pid: PID, tid }
    }

    fn woken(tid: u32, by: u32) -> Happened {
        Happened::Woken {
            tid,
            waker: Waker::Thread { pid: PID, tid: by },
        }
    }

    /// Blocked, in the run queue, and who woke it.
    type Seen = (u64, Option<u64>, Option<u32>);

    /// The waits of these happenings, and the account.
    fn seen(records: Vec<(u64, Happened)>) -> (Vec<Seen>, Account) {
        let mut threads = Threads::default();
        let waits = records
            .into_iter()
            .filter_map(|(time, happened)| threads.take(Record { time, happened }))
            .map(|wait| {
                let waker = wait.waker.map(|waker| match waker {
                    Waker::Thread { tid, .. } => tid,
                    Waker::Interrupt => 0,
                });
                (wait.blocked_ns, wait.runqueue_ns, waker)
            })
            .collect();
        (waits, threads.account())
    }

    #[test]
    fn a_wait_is_blocked_until_it_is_woken_and_in_the_run_queue_until_it_runs() {
        let (waits, account) = seen(vec![(100, waits(1)), (350, woken(1, 2)), (360, runs(1))]);
        assert_eq!(waits, [(250, Some(10), Some(2))]);
        assert_eq!(account, Account::default());
    }

    #[test]
    fn without_a_waking_all_of_it_is_blocked_and_the_run_queue_is_not_known() {
        let (waits, _) = seen(vec![(100, waits(1)), (360, runs(1))]);
        assert_eq!(waits, [(260, None, None)]);
    }

    #[test]
    fn a_waking_can_come_before_the_thread_has_left() {
        let (waits, _) = seen(vec![
            (50, runs(1)),
            (90, woken(1, 2)),
            (100, waits(1)),
            (130, runs(1)),
        ]);
        assert_eq!(waits, [(0, Some(30), Some(2))]);
    }

    #[test]
    fn a_waking_from_before_the_last_run_is_none_of_this_wait() {
        let (waits, _) = seen(vec![
            (50, waits(1)),
            (60, woken(1, 2)),
            (70, runs(1)),
            (100, waits(1)),
            (130, runs(1)),
        ]);
        assert_eq!(waits, [(10, Some(10), Some(2)), (30, None, None)]);
    }

    #[test]
    fn the_waking_that_comes_last_counts() {
        // The first one found the thread running still, which then waited for the next.
        let (waits, _) = seen(vec![
            (50, runs(1)),
            (60, woken(1, 2)),
            (100, waits(1)),
            (400, woken(1, 3)),
            (410, runs(1)),
        ]);
        assert_eq!(waits, [(300, Some(10), Some(3))]);
    }

    #[test]
    fn who_is_preempted_does_not_wait() {
        let preempted = Happened::Preempted { pid: PID, tid: 1 };
        let (waits, account) = seen(vec![
            (10, runs(1)),
            (20, preempted),
            (25, woken(1, 2)),
            (50, runs(1)),
            (60, waits(1)),
            (90, runs(1)),
        ]);
        assert_eq!(waits, [(30, None, None)]);
        assert_eq!((account.preempted, account.preempted_ns), (1, 30));
    }

    #[test]
    fn a_thread_that_ends_waits_for_nothing_and_its_number_begins_anew() {
        let (waits, account) = seen(vec![
            (10, waits(1)),
            (20, Happened::Ended { tid: 1 }),
            (90, runs(1)),
        ]);
        assert_eq!(waits, []);
        assert_eq!(account, Account::default());
    }

    #[test]
    fn what_waits_while_records_are_lost_is_lost_and_not_one_long_wait() {
        let (seen_waits, account) = seen(vec![
            (10, waits(1)),
            (20, Happened::Lost { count: 7 }),
            (90, runs(1)),
            (100, waits(1)),
            (110, runs(1)),
        ]);
        assert_eq!(seen_waits, [(10, None, None)]);
        assert_eq!((account.lost, account.waits_lost), (7, 1));
    }

    #[test]
    fn nothing_that_touches_a_blind_time_is_told() {
        let (seen_waits, account) = seen(vec![
            // One from before into it.
            (10, waits(1)),
            (20, Happened::Blind),
            (30, runs(1)),
            // One within it, which may be several.
            (35, waits(2)),
            (38, runs(2)),
            // One from it to after it.
            (40, waits(1)),
            (50, Happened::Sighted),
            (60, runs(1)),
            (70, waits(1)),
            (75, runs(1)),
        ]);
        assert_eq!(seen_waits, [(5, None, None)]);
        assert_eq!(account.waits_lost, 3);
    }

    #[test]
    fn a_missing_return_to_the_processor_loses_one_wait_and_tells_none() {
        let (seen_waits, account) = seen(vec![(10, waits(1)), (50, waits(1)), (70, runs(1))]);
        assert_eq!(seen_waits, [(20, None, None)]);
        assert_eq!(account.waits_lost, 1);
    }

    #[test]
    fn a_wait_that_goes_on_is_told_as_long_as_it_is_so_far() {
        let mut threads = Threads::default();
        threads.found_waiting(PID, 1, 100, cause());
        threads.take(Record {
            time: 200,
            happened: waits(2),
        });
        let mut open: Vec<(u32, u64)> = threads
            .open(1000)
            .map(|wait| (wait.tid, wait.blocked_ns))
            .collect();
        open.sort_unstable();
        assert_eq!(open, [(1, 900), (2, 800)]);
        // Whoever was seen meanwhile is not what it was found to be.
        threads.found_waiting(PID, 2, 0, cause());
        assert!(threads.open(1000).any(|wait| wait.blocked_ns == 800));
        let ended = threads.take(Record {
            time: 1100,
            happened: runs(1),
        });
        assert_eq!(ended.map(|wait| wait.blocked_ns), Some(1000));
    }

    #[test]
    fn what_is_beside_waits_is_preemption_and_what_may_not_have_been_seen() {
        let mut threads = Threads::default();
        let mut take = |time, happened| threads.take(Record { time, happened });
        take(5, Happened::Preempted { pid: PID, tid: 1 });
        take(9, runs(1));
        assert_eq!(threads.take_beside(), Beside::default(), "nobody wants it");
        threads.keep_beside();
        let mut take = |time, happened| threads.take(Record { time, happened });
        take(10, Happened::Preempted { pid: PID, tid: 1 });
        take(14, runs(1));
        take(20, Happened::Blind);
        take(22, Happened::Preempted { pid: PID, tid: 1 });
        take(25, runs(1));
        let preempted = Preempted {
            pid: PID,
            tid: 1,
            began: 10,
            ended: 14,
        };
        let beside = threads.take_beside();
        assert_eq!(beside.preempted, [preempted]);
        assert_eq!((beside.gaps, beside.blind), (vec![], Some(20)));
        let mut take = |time, happened| threads.take(Record { time, happened });
        take(30, Happened::Sighted);
        take(40, Happened::Lost { count: 2 });
        take(50, waits(1));
        // That it ran in between was not told.
        take(60, waits(1));
        let beside = threads.take_beside();
        assert_eq!(beside.gaps, [(20, 30), (40, 40), (50, 60)]);
        assert_eq!((beside.preempted, beside.blind), (vec![], None));
    }

    #[test]
    fn a_waker_without_a_number_is_not_told() {
        let (waits, _) = seen(vec![
            (10, waits(1)),
            (20, woken(1, u32::MAX)),
            (25, runs(1)),
        ]);
        assert_eq!(waits, [(10, Some(5), None)]);
    }
}
