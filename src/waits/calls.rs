//! From what happened to threads to their system calls: which, how long each took, how long of that the thread had no processor,
//! and how it ended. A state for each thread; no clock, no kernel.
//!
//! A call is told when both its ends were seen and nothing in between was lost. What a thread was already in when it was first
//! looked at is counted as open, as is what it is in at the end.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::threads::{Happened, Record};
use crate::process::activity::{Use, makes_threads};

/// Most threads that are followed at a time; the calls of others are counted as lost.
const MOST_THREADS: usize = 1 << 17;
/// Results of system calls from here to -1 are errors.
const LOWEST_ERROR: i64 = -4095;
/// The number that the kernel has for a call at whose end it was forgotten: the return from a signal handler.
const FORGOTTEN: u64 = u64::MAX;

/// Which system calls are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct WantedCalls {
    /// Their numbers; all of them if there are none.
    pub(crate) numbers: Vec<u64>,
    /// Only those that failed.
    pub(crate) failed_only: bool,
    /// Whether what calls do with descriptors is wanted, too: then those that close some are told in any case.
    pub(crate) descriptors: bool,
}

/// What a call does with descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Touch {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) at: u64,
    pub(crate) what: Touched,
}

/// With which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touched {
    Uses(u32),
    Closes(u32),
    ClosesMany,
}

impl WantedCalls {
    fn wants(&self, number: u64) -> bool {
        self.numbers.is_empty() || self.numbers.contains(&number)
    }

    /// What the kernel is to let through of calls that begin, in the grammar of ftrace's filters; `None` for all.
    pub(super) fn filter_of_entries(&self) -> Option<String> {
        let changing = (0..).zip(Use::all()).filter(|(_, it)| it.changes());
        let changing = changing.map(|(number, _)| number).collect();
        let more: Vec<u64> = match self.descriptors && !self.numbers.is_empty() {
            true => changing,
            false => Vec::new(),
        };
        let numbers = self
            .numbers
            .iter()
            .chain(&more)
            .map(|number| format!("id == {number}"));
        let numbers: Vec<String> = numbers.collect();
        (!numbers.is_empty()).then(|| numbers.join(" || "))
    }

    /// The same of calls that end.
    pub(super) fn filter_of_ends(&self) -> Option<String> {
        // Of what succeeds it is to be known what it opened.
        match (
            self.filter_of_entries(),
            self.failed_only && !self.descriptors,
        ) {
            (Some(numbers), true) => Some(format!("ret < 0 && ({numbers})")),
            (None, true) => Some("ret < 0".to_owned()),
            (numbers, false) => numbers,
        }
    }
}

/// A system call that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Called {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) number: u64,
    /// The first two arguments.
    pub(crate) arguments: [u64; 2],
    /// When it began, in nanoseconds of the clock of records.
    pub(crate) entered: u64,
    pub(crate) took_ns: u64,
    /// How long of that the thread had no processor.
    pub(crate) off_ns: u64,
    pub(crate) result: i64,
}

impl Called {
    /// The number of its error.
    pub(crate) fn error(&self) -> Option<u16> {
        let is_error = (LOWEST_ERROR..0).contains(&self.result);
        is_error.then(|| self.result.unsigned_abs() as u16)
    }

    /// When it ended.
    pub(crate) fn left(&self) -> u64 {
        self.entered.saturating_add(self.took_ns)
    }
}

/// A thread that makes system calls, as far as the kernel has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    /// When the last call began or ended.
    pub(crate) at: u64,
    /// Whether it is in it.
    pub(crate) inside: bool,
}

/// Calls that are not told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CallAccount {
    /// Of which records may be missing.
    pub(crate) lost: u64,
    /// That had begun before anything was watched, or had not ended by now.
    pub(crate) open: u64,
}

#[derive(Debug, Clone, Copy)]
struct Inside {
    number: u64,
    arguments: [u64; 2],
    entered: u64,
    off_ns: u64,
    /// Since when it has no processor.
    left_at: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Doing {
    Outside,
    Inside(Inside),
    /// In a call that had begun before. It is counted.
    Open,
    /// Records may be missing; whether it was in a call that is counted for that.
    Lost {
        counted: bool,
    },
}

/// Threads and the calls that they are in.
#[derive(Debug)]
pub(super) struct Calls {
    wanted: WantedCalls,
    threads: HashMap<u32, Doing, RandomState>,
    /// By thread, whether or not all that is older has come.
    latest: HashMap<u32, Caller, RandomState>,
    /// Whether records may be missing at this time: how many rings say so.
    blind: u32,
    /// Whether any were ever missing.
    has_lost: bool,
    account: CallAccount,
    /// By number, where descriptors are wanted.
    uses: Vec<Use>,
    touched: Vec<Touch>,
}

impl Calls {
    pub(super) fn new(wanted: WantedCalls) -> Calls {
        Calls {
            uses: match wanted.descriptors {
                true => Use::all(),
                false => Vec::new(),
            },
            touched: Vec::new(),
            wanted,
            threads: HashMap::default(),
            latest: HashMap::default(),
            blind: 0,
            has_lost: false,
            account: CallAccount::default(),
        }
    }

    /// Notes that a thread is in this call when it is first looked at.
    pub(super) fn found_inside(&mut self, tid: u32, number: u64) {
        if self.wanted.wants(number)
            && !self.latest.contains_key(&tid)
            && !self.threads.contains_key(&tid)
        {
            self.account.open += 1;
            self.threads.insert(tid, Doing::Open);
        }
    }

    /// What calls did with descriptors since this was asked last, in whatever order.
    pub(super) fn touched(&mut self, into: &mut Vec<Touch>) {
        into.append(&mut self.touched);
    }

    fn note_touched(&mut self, record: &Record) {
        let use_of = |number: u64| {
            let at = usize::try_from(number).ok()?;
            self.uses.get(at).copied()
        };
        let (pid, tid, what) = match record.happened {
            Happened::Enters {
                pid,
                tid,
                number,
                arguments: [first, second],
            } => match use_of(number) {
                Some(Use::First) => (pid, tid, Touched::Uses(first as u32)),
                Some(Use::Closes) => (pid, tid, Touched::Closes(first as u32)),
                Some(Use::Replaces) => (pid, tid, Touched::Closes(second as u32)),
                Some(Use::ClosesMany) => (pid, tid, Touched::ClosesMany),
                // It is unconnected until it is connected.
                Some(Use::Connects) => (pid, tid, Touched::Closes(first as u32)),
                _ => return,
            },
            Happened::Leaves {
                pid,
                tid,
                number,
                result,
            } => match (use_of(number), u32::try_from(result)) {
                (Some(Use::Opens), Ok(opened)) => (pid, tid, Touched::Uses(opened)),
                _ => return,
            },
            _ => return,
        };
        let at = record.time;
        self.touched.push(Touch { pid, tid, at, what });
    }

    /// Notes what has come of the kernel, in whatever order.
    pub(super) fn note(&mut self, record: &Record) {
        if !self.uses.is_empty() {
            self.note_touched(record);
        }
        let (pid, tid, inside) = match record.happened {
            Happened::Enters { pid, tid, .. } => (pid, tid, true),
            Happened::Leaves { pid, tid, .. } => (pid, tid, false),
            Happened::Ended { tid } => {
                self.latest.remove(&tid);
                return;
            }
            _ => return,
        };
        let at = record.time;
        let caller = Caller {
            pid,
            tid,
            at,
            inside,
        };
        let known = self.latest.len();
        match self.latest.get_mut(&tid) {
            Some(before) if before.at <= at => *before = caller,
            Some(_) => {}
            None if known < MOST_THREADS => {
                self.latest.insert(tid, caller);
            }
            None => {}
        }
    }

    /// Threads with their last call, so far as the kernel has told.
    pub(super) fn callers(&self) -> impl Iterator<Item = &Caller> {
        self.latest.values()
    }

    /// Follows what happened, and gives the call that ended by it. To be called in the order of time.
    pub(super) fn take(&mut self, record: &Record) -> Option<Called> {
        let time = record.time;
        match record.happened {
            Happened::Enters {
                tid,
                number,
                arguments,
                ..
            } => {
                if !self.wanted.wants(number) {
                    return None;
                }
                let before = self.change(
                    tid,
                    Doing::Inside(Inside {
                        number,
                        arguments,
                        entered: time,
                        off_ns: 0,
                        left_at: None,
                    }),
                );
                // Ends of calls that did not fail are not told then.
                if matches!(before, Some(Doing::Inside(_))) && !self.wanted.failed_only {
                    self.account.lost += 1;
                }
            }
            Happened::Leaves {
                pid,
                tid,
                number,
                result,
            } => return self.leaves(pid, tid, number, result, time),
            Happened::Waits { tid, .. } | Happened::Preempted { tid, .. } => {
                if let Some(Doing::Inside(inside)) = self.threads.get_mut(&tid) {
                    inside.left_at = Some(time);
                }
            }
            Happened::Runs { tid, .. } => {
                if let Some(Doing::Inside(inside)) = self.threads.get_mut(&tid)
                    && let Some(left) = inside.left_at.take()
                {
                    let off = time.saturating_sub(left);
                    inside.off_ns = inside.off_ns.saturating_add(off);
                }
            }
            Happened::Woken { .. } | Happened::Registers { .. } | Happened::Changes { .. } => {}
            Happened::Ended { tid } => {
                self.threads.remove(&tid);
            }
            Happened::Blind => {
                self.blind += 1;
                self.forget();
            }
            Happened::Sighted => {
                self.forget();
                self.blind = self.blind.saturating_sub(1);
            }
            Happened::Lost { .. } => self.forget(),
        }
        None
    }

    fn leaves(&mut self, pid: u32, tid: u32, number: u64, result: i64, now: u64) -> Option<Called> {
        if number != FORGOTTEN && !self.wanted.wants(number) {
            return None;
        }
        match self.change(tid, Doing::Outside) {
            Some(Doing::Inside(inside))
                if self.blind == 0 && (number == inside.number || number == FORGOTTEN) =>
            {
                return Some(Called {
                    pid,
                    tid,
                    number: inside.number,
                    arguments: inside.arguments,
                    entered: inside.entered,
                    took_ns: now.saturating_sub(inside.entered),
                    off_ns: inside.off_ns,
                    result,
                });
            }
            Some(Doing::Open | Doing::Lost { counted: true }) => {}
            // A new thread comes out of the call that made it, which is not its own.
            None | Some(Doing::Outside) if result == 0 && makes_threads(number) => {}
            None if !self.has_lost => self.account.open += 1,
            None | Some(Doing::Outside | Doing::Inside(_) | Doing::Lost { counted: false }) => {
                self.account.lost += 1;
            }
        }
        None
    }

    /// What a thread did before; as long as there is room.
    fn change(&mut self, tid: u32, doing: Doing) -> Option<Doing> {
        let known = self.threads.len();
        match self.threads.get_mut(&tid) {
            Some(before) => Some(std::mem::replace(before, doing)),
            None if known >= MOST_THREADS => Some(Doing::Outside),
            None => {
                self.threads.insert(tid, doing);
                None
            }
        }
    }

    /// Nothing is known of any thread any longer.
    fn forget(&mut self) {
        self.has_lost = true;
        for doing in self.threads.values_mut() {
            let counted = match doing {
                Doing::Inside(_) => {
                    self.account.lost += 1;
                    true
                }
                Doing::Open | Doing::Lost { counted: true } => true,
                Doing::Outside | Doing::Lost { counted: false } => false,
            };
            *doing = Doing::Lost { counted };
        }
    }

    /// What is not told, so far.
    pub(super) fn account(&self) -> CallAccount {
        let threads = self.threads.values();
        // Of those whose ends are told only if they fail, nobody knows which go on.
        let going = threads.filter(|it| matches!(it, Doing::Inside(_)) && !self.wanted.failed_only);
        CallAccount {
            open: self.account.open + going.count() as u64,
            ..self.account
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reason::Reason;
    use super::super::threads::Cause;
    use super::*;

    const PID: u32 = 10;
    const READ: u64 = 0;

    fn enters(number: u64) -> Happened {
        Happened::Enters {
            pid: PID,
            tid: 1,
            number,
            arguments: [3, 4],
        }
    }

    fn leaves(number: u64, result: i64) -> Happened {
        Happened::Leaves {
            pid: PID,
            tid: 1,
            number,
            result,
        }
    }

    fn waits() -> Happened {
        Happened::Waits {
            pid: PID,
            tid: 1,
            cause: Cause {
                reason: Reason::Pipe,
                call: None,
                argument: 0,
            },
        }
    }

    fn runs() -> Happened {
        Happened::Runs { pid: PID, tid: 1 }
    }

    /// Number, time, time without a processor, result.
    type Seen = (u64, u64, u64, i64);

    fn seen(wanted: WantedCalls, records: Vec<(u64, Happened)>) -> (Vec<Seen>, CallAccount) {
        let mut calls = Calls::new(wanted);
        let told = records
            .into_iter()
            .filter_map(|(time, happened)| calls.take(&Record { time, happened }))
            .map(|call| (call.number, call.took_ns, call.off_ns, call.result))
            .collect();
        (told, calls.account())
    }

    fn all(records: Vec<(u64, Happened)>) -> (Vec<Seen>, CallAccount) {
        seen(WantedCalls::default(), records)
    }

    #[test]
    fn a_call_takes_from_its_beginning_to_its_end_and_is_off_cpu_while_it_has_no_processor() {
        let preempted = Happened::Preempted { pid: PID, tid: 1 };
        let (told, account) = all(vec![
            (100, enters(READ)),
            (110, waits()),
            (150, runs()),
            (155, preempted),
            (160, runs()),
            (170, leaves(READ, 5)),
            // Outside any call.
            (180, waits()),
            (190, runs()),
            (200, enters(READ)),
            (205, leaves(READ, -2)),
        ]);
        assert_eq!(told, [(READ, 70, 45, 5), (READ, 5, 0, -2)]);
        assert_eq!(account, CallAccount::default());
    }

    #[test]
    fn only_small_negative_results_are_errors() {
        let error = |result| {
            let call = Called {
                pid: 1,
                tid: 1,
                number: 0,
                arguments: [0; 2],
                entered: 0,
                took_ns: 0,
                off_ns: 0,
                result,
            };
            call.error()
        };
        assert_eq!(error(-2), Some(2));
        assert_eq!(error(-4095), Some(4095));
        assert_eq!(
            (error(0), error(-4096), error(i64::MIN)),
            (None, None, None)
        );
    }

    #[test]
    fn what_had_begun_before_and_what_goes_on_is_open_and_not_told() {
        let (told, account) = all(vec![(100, leaves(READ, 1)), (110, enters(READ))]);
        assert_eq!(told, []);
        assert_eq!((account.open, account.lost), (2, 0));
        let mut calls = Calls::new(WantedCalls::default());
        calls.found_inside(1, READ);
        let happened = leaves(READ, 1);
        assert_eq!(calls.take(&Record { time: 5, happened }), None);
        assert_eq!(calls.account().open, 1);
    }

    #[test]
    fn a_new_thread_comes_out_of_no_call_of_its_own() {
        let clone = (0..1000).find(|number| makes_threads(*number));
        let (told, account) = all(vec![(100, leaves(clone.expect("one"), 0))]);
        assert_eq!(told, []);
        assert_eq!(account, CallAccount::default());
    }

    #[test]
    fn calls_that_touch_a_loss_are_lost_and_each_is_counted_once() {
        let (told, account) = all(vec![
            (100, enters(READ)),
            (110, Happened::Lost { count: 9 }),
            (120, leaves(READ, 1)),
            (130, enters(READ)),
            (131, leaves(READ, 1)),
            // Its beginning was lost.
            (140, Happened::Lost { count: 9 }),
            (150, leaves(READ, 1)),
        ]);
        assert_eq!(told, [(READ, 1, 0, 1)]);
        assert_eq!((account.lost, account.open), (2, 0));
        let (told, account) = all(vec![
            (100, enters(READ)),
            (110, Happened::Blind),
            (120, leaves(READ, 1)),
            (130, enters(READ)),
            (131, leaves(READ, 1)),
            (140, enters(READ)),
            (150, Happened::Sighted),
            (160, leaves(READ, 1)),
        ]);
        assert_eq!(told, []);
        assert_eq!((account.lost, account.open), (3, 0));
    }

    #[test]
    fn a_missing_end_loses_one_call_unless_only_failures_are_told() {
        let records = || {
            vec![
                (100, enters(READ)),
                (200, enters(READ)),
                (201, leaves(READ, -2)),
            ]
        };
        let (told, account) = all(records());
        assert_eq!(told, [(READ, 1, 0, -2)]);
        assert_eq!(account.lost, 1);
        let failed = WantedCalls {
            failed_only: true,
            ..WantedCalls::default()
        };
        let (told, account) = seen(failed, records());
        assert_eq!(told, [(READ, 1, 0, -2)]);
        assert_eq!(account, CallAccount::default());
    }

    #[test]
    fn the_return_from_a_handler_has_no_number_at_its_end() {
        let (told, account) = all(vec![(100, enters(15)), (103, leaves(FORGOTTEN, 0))]);
        assert_eq!(told, [(15, 3, 0, 0)]);
        assert_eq!(account, CallAccount::default());
    }

    #[test]
    fn filters_are_those_of_the_kernels_grammar() {
        let wanted = |numbers: &[u64], failed_only| WantedCalls {
            numbers: numbers.to_vec(),
            failed_only,
            descriptors: false,
        };
        let filters = |it: WantedCalls| (it.filter_of_entries(), it.filter_of_ends());
        assert_eq!(filters(wanted(&[], false)), (None, None));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(filters(wanted(&[], true)), (None, some("ret < 0")));
        assert_eq!(
            filters(wanted(&[0, 45], true)),
            (
                some("id == 0 || id == 45"),
                some("ret < 0 && (id == 0 || id == 45)")
            )
        );
        // The kernel may let through too much.
        let (told, _) = seen(
            wanted(&[45], false),
            vec![(1, enters(READ)), (2, leaves(READ, 1))],
        );
        assert_eq!(told, []);
    }
}
