//! Records of the perf rings as what happened to threads. Knows bytes and formats; reads no file and asks no kernel. The bytes are
//! the kernel's, but no number in them is believed beyond the record that it stands in.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use perf_event_open_sys::bindings;

use super::reason::{Meaning, Meant, Reason, meant};
use super::symbols::Symbols;
use super::threads::{Cause, Happened, Record, Waker};
use crate::perf;
use crate::perf::owners::CounterOwners;
use crate::perf::tracepoints::Tracepoint;
use crate::process::activity::{Use, syscall_number};

/// What `epoll_ctl` is asked for: to watch a descriptor, or to watch it for something else.
const EPOLL_CTL_ADD: u32 = 1;
const EPOLL_CTL_MOD: u32 = 3;
/// Bytes of `struct perf_event_header`.
const HEADER: usize = 8;
/// From here on, numbers in a call chain say what the addresses after them are (`PERF_CONTEXT_MAX`).
const FIRST_CONTEXT: u64 = -4095_i64 as u64;
/// Bits of `common_flags`: in an interrupt of a device, in one of the kernel's own, in one that cannot be masked.
const HARD_INTERRUPT: u8 = 0x08;
const SOFT_INTERRUPT: u8 = 0x10;
const UNMASKED_INTERRUPT: u8 = 0x40;
/// Call chains that are remembered with what they mean; all are forgotten when there are more.
const MOST_CHAINS: usize = 1 << 14;

/// Where the fields of `sched_switch` and `sched_waking` are.
#[derive(Debug, Clone)]
pub(super) struct Format {
    prev_pid: usize,
    prev_state: usize,
    /// Bits of the state with their letters.
    states: Vec<(u64, char)>,
    common_flags: usize,
    waking_pid: usize,
}

/// Where the fields of `sys_enter` and `sys_exit` are.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallFormat {
    enter_number: usize,
    arguments: usize,
    exit_number: usize,
    result: usize,
}

impl CallFormat {
    /// From the formats of both events; `None` where a field is missing.
    pub(super) fn new(enter: &Tracepoint, exit: &Tracepoint) -> Option<CallFormat> {
        Some(CallFormat {
            enter_number: offset(enter, "id")?,
            arguments: offset(enter, "args")?,
            exit_number: offset(exit, "id")?,
            result: offset(exit, "ret")?,
        })
    }
}

/// Where the fields of `sys_enter` are for one who wants to know what epolls watch, and which system call tells them.
#[derive(Debug, Clone, Copy)]
pub(super) struct RegistrationFormat {
    number: usize,
    arguments: usize,
    epoll_ctl: u64,
}

impl RegistrationFormat {
    /// From the format of the event; `None` where a field is missing, or the system call's number is not known.
    pub(super) fn new(enter: &Tracepoint) -> Option<RegistrationFormat> {
        Some(RegistrationFormat {
            number: offset(enter, "id")?,
            arguments: offset(enter, "args")?,
            epoll_ctl: syscall_number("epoll_ctl")?,
        })
    }

    /// What the kernel is to let through, in the grammar of ftrace's filters.
    pub(super) fn filter(self) -> String {
        let changing = (0..).zip(Use::all()).filter(|(_, it)| it.changes());
        let numbers = changing.map(|(number, _)| number);
        let numbers = numbers.chain([self.epoll_ctl]);
        let numbers: Vec<String> = numbers.map(|number| format!("id == {number}")).collect();
        numbers.join(" || ")
    }
}

/// What the samples of a counter are, other than switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tells {
    Wakings,
    CallsBegin,
    CallsEnd,
    Registrations,
}

impl Format {
    /// From the formats of both events, and the letters of states in that of the first; `None` where a field is missing.
    pub(super) fn new(
        switch: &Tracepoint,
        waking: &Tracepoint,
        states: Vec<(u64, char)>,
    ) -> Option<Format> {
        (!states.is_empty()).then_some(Format {
            prev_pid: offset(switch, "prev_pid")?,
            prev_state: offset(switch, "prev_state")?,
            states,
            common_flags: offset(waking, "common_flags")?,
            waking_pid: offset(waking, "pid")?,
        })
    }
}

fn offset(of: &Tracepoint, name: &str) -> Option<usize> {
    let found = of.fields.iter().find(|(field, _)| field == name);
    found.map(|(_, offset)| *offset)
}

/// Turns the bytes of rings into what happened.
#[derive(Debug)]
pub(super) struct Decoder {
    format: Format,
    /// What functions of the kernel mean, where it tells its addresses.
    symbols: Option<Symbols>,
    chains: HashMap<Box<[u8]>, Meant, RandomState>,
    /// The processes that are followed.
    pids: HashSet<u32, RandomState>,
    /// Counters that tell other things than switches.
    tells: HashMap<u64, Tells, RandomState>,
    /// Where system calls are told.
    calls: Option<CallFormat>,
    /// Where it is told which descriptors epolls are to watch.
    registrations: Option<RegistrationFormat>,
    /// Threads by the number that tracepoints have for them, where we are not in the first pid namespace.
    names: Option<HashMap<u32, u32>>,
    owners: CounterOwners,
    /// Records that make no sense.
    pub(super) unreadable: u64,
}

impl Decoder {
    /// For these processes. In the `first_namespace` tracepoints have the same numbers for threads as we do.
    pub(super) fn new(
        format: Format,
        symbols: Option<Symbols>,
        pids: HashSet<u32>,
        first_namespace: bool,
    ) -> Decoder {
        Decoder {
            format,
            symbols,
            chains: HashMap::default(),
            pids: pids.into_iter().collect(),
            tells: HashMap::default(),
            calls: None,
            registrations: None,
            names: (!first_namespace).then(HashMap::new),
            owners: CounterOwners::default(),
            unreadable: 0,
        }
    }

    /// Also follows this process.
    pub(super) fn follows(&mut self, pid: u32) {
        self.pids.insert(pid);
    }

    /// The processes that are followed.
    pub(super) fn followed(&self) -> impl Iterator<Item = u32> {
        self.pids.iter().copied()
    }

    /// Forgets counters and processes of which nothing comes any longer.
    pub(super) fn forget(&mut self, counters: &[u64], pids: &[u32]) {
        for counter in counters {
            self.tells.remove(counter);
            self.owners.forget(*counter);
        }
        for pid in pids {
            self.pids.remove(pid);
        }
    }

    /// A counter whose samples are wakings.
    pub(super) fn tells_wakings(&mut self, counter: u64) {
        self.tells.insert(counter, Tells::Wakings);
    }

    /// Counters whose samples are beginnings or ends of system calls.
    pub(super) fn tells_calls(&mut self, format: CallFormat, counters: &[(u64, Tells)]) {
        self.calls = Some(format);
        self.tells.extend(counters.iter().copied());
    }

    /// Counters whose samples are system calls that hand descriptors to an epoll, or change what they are.
    pub(super) fn tells_registrations(&mut self, format: RegistrationFormat, counters: &[u64]) {
        self.registrations = Some(format);
        let counters = counters.iter();
        self.tells
            .extend(counters.map(|counter| (*counter, Tells::Registrations)));
    }

    /// Where it is told which threads have counters of their own.
    pub(super) fn owners(&mut self) -> &mut CounterOwners {
        &mut self.owners
    }

    /// Whether functions of the kernel are not known.
    pub(super) fn lacks_symbols(&self) -> bool {
        self.symbols.is_none()
    }

    /// Decodes whole records. Gives the time of the last one that tells its time.
    pub(super) fn decode(&mut self, mut bytes: &[u8], out: &mut Vec<Record>) -> Option<u64> {
        let mut last = None;
        while !bytes.is_empty() {
            let size = u16_at(bytes, 6).map_or(0, usize::from);
            let Some((record, rest)) = bytes.split_at_checked(size).filter(|_| size >= HEADER)
            else {
                // Nothing behind it can be found again.
                self.unreadable += 1;
                break;
            };
            bytes = rest;
            match self.record(record) {
                Some((time, happened)) => {
                    last = Some(time);
                    out.extend(happened.map(|happened| Record { time, happened }));
                }
                None => self.unreadable += 1,
            }
        }
        last
    }

    /// One record: its time, and what happened if that matters; `None` when it makes no sense.
    fn record(&mut self, record: &[u8]) -> Option<(u64, Option<Happened>)> {
        let kind = u32_at(record, 0)?;
        let body = record.get(HEADER..)?;
        if kind == bindings::PERF_RECORD_SAMPLE {
            return self.sample(body);
        }
        // Every other record ends with who made it, when, and through which counter.
        let trailer = record.get(record.len().checked_sub(24)?..)?;
        let (pid, tid, time) = (
            u32_at(trailer, 0)?,
            u32_at(trailer, 4)?,
            u64_at(trailer, 8)?,
        );
        let happened = match kind {
            bindings::PERF_RECORD_SWITCH => {
                let misc = u32::from(u16_at(record, 4)?);
                let wanted = misc & bindings::PERF_RECORD_MISC_SWITCH_OUT == 0
                    && self.pids.contains(&pid)
                    && !self.owners.foreign(tid, u64_at(trailer, 16)?);
                wanted.then_some(Happened::Runs { pid, tid })
            }
            bindings::PERF_RECORD_EXIT => {
                let tid = u32_at(body, 8)?;
                self.owners.ended(tid);
                if let Some(names) = &mut self.names {
                    names.retain(|_, named| *named != tid);
                }
                Some(Happened::Ended { tid })
            }
            bindings::PERF_RECORD_LOST => Some(Happened::Lost {
                count: u64_at(body, 8)?,
            }),
            bindings::PERF_RECORD_LOST_SAMPLES => Some(Happened::Lost {
                count: u64_at(body, 0)?,
            }),
            _ => None,
        };
        Some((time, happened))
    }

    fn sample(&mut self, body: &[u8]) -> Option<(u64, Option<Happened>)> {
        let (pid, tid) = (u32_at(body, 0)?, u32_at(body, 4)?);
        let (time, counter) = (u64_at(body, 8)?, u64_at(body, 16)?);
        let rest = body.get(24..)?;
        let happened = match self.tells.get(&counter) {
            Some(Tells::Wakings) => self.waking(pid, tid, rest)?,
            // A child of a target, where the kernel cannot leave those out, or what is told twice.
            _ if !self.pids.contains(&pid) || self.owners.foreign(tid, counter) => None,
            Some(Tells::CallsBegin) => Some(self.call_begins(pid, tid, rest)?),
            Some(Tells::CallsEnd) => Some(self.call_ends(pid, tid, rest)?),
            Some(Tells::Registrations) => self.registers(pid, tid, rest)?,
            None => Some(self.switch(pid, tid, rest)?),
        };
        Some((time, happened))
    }

    fn waking(&self, pid: u32, tid: u32, rest: &[u8]) -> Option<Option<Happened>> {
        let (raw, _) = raw(rest)?;
        let flags = *raw.get(self.format.common_flags)?;
        let number = u32_at(raw, self.format.waking_pid)?;
        let woken = match &self.names {
            None => number,
            Some(names) => match names.get(&number) {
                Some(tid) => *tid,
                None => return Some(None),
            },
        };
        let is_target = self.pids.contains(&pid);
        // What is done between interrupts is done for whoever runs, unless that has itself sent something, as to a socket
        // of this machine: of our targets' threads we believe it.
        let interrupt = flags & (HARD_INTERRUPT | UNMASKED_INTERRUPT) != 0
            || flags & SOFT_INTERRUPT != 0 && !is_target
            || tid == 0;
        Some(Some(Happened::Woken {
            tid: woken,
            waker: match interrupt {
                true => Waker::Interrupt,
                false => Waker::Thread { pid, tid },
            },
        }))
    }

    fn call_begins(&self, pid: u32, tid: u32, rest: &[u8]) -> Option<Happened> {
        let (format, (raw, _)) = (self.calls?, raw(rest)?);
        Some(Happened::Enters {
            pid,
            tid,
            number: u64_at(raw, format.enter_number)?,
            arguments: [
                u64_at(raw, format.arguments)?,
                u64_at(raw, format.arguments + 8)?,
            ],
        })
    }

    fn call_ends(&self, pid: u32, tid: u32, rest: &[u8]) -> Option<Happened> {
        let (format, (raw, _)) = (self.calls?, raw(rest)?);
        Some(Happened::Leaves {
            pid,
            tid,
            number: u64_at(raw, format.exit_number)?,
            result: u64_at(raw, format.result)?.cast_signed(),
        })
    }

    fn registers(&self, pid: u32, tid: u32, rest: &[u8]) -> Option<Option<Happened>> {
        let (format, (raw, _)) = (self.registrations?, raw(rest)?);
        let number = u64_at(raw, format.number)?;
        let argument = |at: usize| u64_at(raw, format.arguments + at * 8);
        // Descriptors are of 32 bits, whatever else is in the register.
        let descriptor = |at: usize| Some(argument(at)? as u32);
        if number == format.epoll_ctl {
            let registers = matches!(argument(1)? as u32, EPOLL_CTL_ADD | EPOLL_CTL_MOD);
            let descriptor = descriptor(2)?;
            return Some(registers.then_some(Happened::Registers {
                pid,
                tid,
                descriptor,
            }));
        }
        let changed = match Use::of(number) {
            Use::Closes | Use::Connects => Some(descriptor(0)?),
            Use::Replaces => Some(descriptor(1)?),
            Use::ClosesMany => None,
            Use::None | Use::First | Use::Opens => return Some(None),
        };
        Some(Some(Happened::Changes {
            pid,
            descriptor: changed,
        }))
    }

    fn switch(&mut self, pid: u32, tid: u32, rest: &[u8]) -> Option<Happened> {
        let frames = usize::try_from(u64_at(rest, 0)?).ok()?;
        let chain = rest.get(8..)?.get(..frames.checked_mul(8)?)?;
        let (raw, rest) = raw(rest.get(8 + chain.len()..)?)?;
        if let Some(names) = &mut self.names {
            names.insert(u32_at(raw, self.format.prev_pid)?, tid);
        }
        let state = u64_at(raw, self.format.prev_state)?;
        let states = self.format.states.iter();
        let letter = states.filter(|(bit, _)| state & bit != 0).map(|it| it.1);
        let Some(letter) = letter.reduce(|first, _| first) else {
            return Some(Happened::Preempted { pid, tid });
        };
        let meant = self.meant(chain);
        let (first, second) = arguments(rest).unwrap_or_default();
        let reason = match meant.call.as_deref() {
            _ if matches!(letter, 'T' | 't') => Reason::Stopped,
            Some(call) => meant.reason.of_descriptors(call, first, second),
            None => meant.reason,
        };
        Some(Happened::Waits {
            pid,
            tid,
            cause: Cause {
                reason,
                call: meant.call,
                argument: first.unwrap_or_default(),
            },
        })
    }

    /// What a call chain means, the innermost function first.
    fn meant(&mut self, chain: &[u8]) -> Meant {
        if let Some(known) = self.chains.get(chain) {
            return known.clone();
        }
        let symbols = self.symbols.as_ref();
        let addresses = chain.chunks_exact(8).filter_map(|bytes| u64_at(bytes, 0));
        let meanings: Vec<&Meaning> = addresses
            .filter(|address| *address < FIRST_CONTEXT)
            .filter_map(|address| symbols?.at(address))
            .collect();
        let meant = meant(meanings.into_iter());
        if self.chains.len() >= MOST_CHAINS {
            self.chains.clear();
        }
        self.chains.insert(chain.into(), meant.clone());
        meant
    }
}

/// The data of the tracepoint, and what follows it.
fn raw(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    bytes.get(4..)?.split_at_checked(length)
}

/// The first two arguments of the system call, as far as there are registers.
fn arguments(bytes: &[u8]) -> Option<(Option<u64>, Option<u64>)> {
    let arguments = perf::ARGUMENTS?;
    let abi = u64_at(bytes, 0)?;
    if abi == 0 {
        return None;
    }
    let register = |at: usize| u64_at(bytes, 8 + at * 8);
    Some((register(arguments.first), register(arguments.second)))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|it| u16::from_ne_bytes(*it))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|it| u32::from_ne_bytes(*it))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|it| u64::from_ne_bytes(*it))
}

#[cfg(test)]
mod tests;
