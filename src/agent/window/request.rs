//! PEP 768's request, written in a window: all threads of the process are stopped meanwhile.
//!
//! All, because the word that makes a thread check for requests (`eval_breaker`) is read, modified and written back,
//! and others may change it in between: a thread that waits for the GIL sets a bit in the word of the thread that has
//! it, signal handlers and `Py_AddPendingCall` set bits from whatever thread they run on, and the upper half is the
//! version of the instrumentation with which code is executed. A bit that is set again after it was cleared can make a
//! thread wait forever (`FORCE_SWITCHING`), a lost version makes it instrument again. And because a thread that ends
//! frees the very memory that is written to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::held::Held;
use super::memory::Memory;
use super::{Target, WindowError};
use crate::process::is_gone;

/// `_PY_EVAL_PLEASE_STOP_BIT`: makes a thread check for pending requests.
const PLEASE_STOP: u64 = 1 << 5;
/// Most threads that are visited: the list is in foreign memory.
const MOST: usize = 1 << 16;
/// No program's memory extends higher, so adding an offset to an address cannot overflow.
pub(in crate::agent) const HIGHEST: u64 = u64::MAX >> 1;

/// Offsets from the target's own table (`_Py_DebugOffsets`).
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::agent) struct Offsets {
    pub(in crate::agent) interpreters_head: u64,
    pub(in crate::agent) interpreter_id: u64,
    pub(in crate::agent) interpreter_next: u64,
    pub(in crate::agent) threads_head: u64,
    pub(in crate::agent) thread_next: u64,
    pub(in crate::agent) eval_breaker: u64,
    pub(in crate::agent) support: u64,
    pub(in crate::agent) enabled: u64,
    pub(in crate::agent) pending_call: u64,
    pub(in crate::agent) script_path: u64,
    pub(in crate::agent) script_path_size: u64,
}

/// What is requested of the threads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::agent) enum Wish {
    /// To run the script at this path, which ends with a NUL.
    Run(Vec<u8>),
    /// Not to run the script whose path has this suffix, unless they have already run it.
    Withdraw(Vec<u8>),
}

/// A request, and where the process keeps such requests.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::agent) struct Request {
    pub(in crate::agent) target: Target,
    /// The main interpreter.
    pub(in crate::agent) interpreter: u64,
    pub(in crate::agent) offsets: Offsets,
    pub(in crate::agent) wish: Wish,
}

impl Request {
    /// Writes it: the script that another debugger has asked some threads to run, which were left alone, and how long the
    /// first thread has been stopped. Nothing was written when this fails.
    pub(super) fn fulfil(&self) -> Result<(Option<String>, Duration), WindowError> {
        let memory = Memory::open(self.target.pid, true)
            .map_err(|reason| WindowError::Memory(reason.to_string()))?;
        let expected = self.walk(&memory, Vec::new()).unwrap_or_default();
        let held = Held::all(self.target)?;
        let other = self.write(&memory, expected)?;
        Ok((other, held.so_long()))
    }

    /// The same when no thread of the process runs. Returns the script that another debugger has asked for.
    pub(in crate::agent) fn write(
        &self,
        memory: &Memory,
        expected: Vec<u64>,
    ) -> Result<Option<String>, WindowError> {
        let threads = self.threads(memory, expected)?;
        match &self.wish {
            Wish::Run(path) => self.ask(memory, &threads, path),
            Wish::Withdraw(path) => self.withdraw(memory, &threads, path),
        }
    }

    fn ask(
        &self,
        memory: &Memory,
        threads: &[u64],
        path: &[u8],
    ) -> Result<Option<String>, WindowError> {
        let offsets = &self.offsets;
        if threads.is_empty() {
            return Err(WindowError::NoThread);
        }
        let (mut free, mut other) = (Vec::with_capacity(threads.len()), None);
        for (thread, pending) in threads.iter().zip(self.pending(memory, threads)?) {
            match pending.then(|| self.script(memory, *thread)).transpose()? {
                // Ours, from a window that came too late.
                Some(script) if Some(script.as_slice()) != path.strip_suffix(b"\0") => {
                    other = Some(String::from_utf8_lossy(&script).into_owned());
                }
                _ => free.push(*thread),
            }
        }
        if let (true, Some(script)) = (free.is_empty(), &other) {
            return Err(WindowError::Occupied {
                script: script.clone(),
            });
        }
        let breakers: Vec<u64> = free.iter().map(|it| it + offsets.eval_breaker).collect();
        let values: Vec<[u8; 8]> = memory
            .numbers(&breakers)?
            .into_iter()
            .map(|value| (value | PLEASE_STOP).to_ne_bytes())
            .collect();
        let mut asked = 1_i32.to_ne_bytes().to_vec();
        asked.extend(path);
        let (yes, path) = asked.split_at(4);
        let mut pieces: Vec<(u64, &[u8])> = Vec::with_capacity(3 * free.len());
        for ((thread, breaker), value) in free.iter().zip(&breakers).zip(&values) {
            let support = thread + offsets.support;
            // In one piece where they are adjacent, as in every version so far.
            if offsets.script_path == offsets.pending_call + 4 {
                pieces.push((support + offsets.pending_call, &asked));
            } else {
                pieces.push((support + offsets.script_path, path));
                pieces.push((support + offsets.pending_call, yes));
            }
            pieces.push((*breaker, value));
        }
        memory.write_all(&pieces)?;
        Ok(other)
    }

    fn withdraw(
        &self,
        memory: &Memory,
        threads: &[u64],
        path: &[u8],
    ) -> Result<Option<String>, WindowError> {
        let asked = self.asked(memory, threads, path)?;
        let no = 0_i32.to_ne_bytes();
        let pieces: Vec<(u64, &[u8])> = asked
            .iter()
            .map(|thread| {
                let at = thread + self.offsets.support + self.offsets.pending_call;
                (at, no.as_slice())
            })
            .collect();
        memory.write_all(&pieces)?;
        Ok(None)
    }

    /// Those of the threads that are asked to run the script whose path has this suffix, and have not run it yet.
    fn asked(
        &self,
        memory: &Memory,
        threads: &[u64],
        path: &[u8],
    ) -> Result<Vec<u64>, WindowError> {
        let mut asked = Vec::new();
        for (thread, pending) in threads.iter().zip(self.pending(memory, threads)?) {
            if pending && self.script(memory, *thread)?.ends_with(path) {
                asked.push(*thread);
            }
        }
        Ok(asked)
    }

    /// Whether a window is needed to withdraw: some thread is asked. Checks without stopping the process, so it errs on
    /// the side of yes.
    pub(in crate::agent) fn is_pending(&self, memory: &Memory) -> bool {
        let (Wish::Run(path) | Wish::Withdraw(path)) = &self.wish;
        match self.walk(memory, Vec::new()) {
            Ok(threads) => self
                .asked(memory, &threads, path)
                .map_or(true, |asked| !asked.is_empty()),
            Err(_) => !is_gone(self.target.pid, self.target.start_time),
        }
    }

    /// Whether some thread was asked to run the script whose path has this suffix, and has taken the request: the path stays
    /// where it was written. Does not stop the process, so it errs on the side of no.
    pub(in crate::agent) fn was_taken(&self, memory: &Memory) -> bool {
        let (Wish::Run(path) | Wish::Withdraw(path)) = &self.wish;
        let Ok(threads) = self.walk(memory, Vec::new()) else {
            return false;
        };
        let Ok(pending) = self.pending(memory, &threads) else {
            return false;
        };
        let mut threads = threads.iter().zip(pending);
        threads.any(|(thread, pending)| {
            let script = || self.script(memory, *thread);
            !pending && script().is_ok_and(|script| script.ends_with(path))
        })
    }

    /// Which threads have a request pending.
    fn pending(&self, memory: &Memory, threads: &[u64]) -> Result<Vec<bool>, WindowError> {
        let at = self.offsets.support + self.offsets.pending_call;
        let words: Vec<u64> = threads.iter().map(|thread| thread + at).collect();
        let values = memory.numbers(&words)?.into_iter();
        // The first four of the eight bytes in memory, on little-endian and big-endian machines alike.
        let first = |value: u64| value.to_ne_bytes().first_chunk::<4>().copied();
        Ok(values
            .map(|value| i32::from_ne_bytes(first(value).unwrap_or_default()) == 1)
            .collect())
    }

    /// The script that a thread is asked to run.
    fn script(&self, memory: &Memory, thread: u64) -> Result<Vec<u8>, WindowError> {
        let room = usize::try_from(self.offsets.script_path_size).unwrap_or(0);
        let mut path = vec![0; room];
        memory.read(
            thread + self.offsets.support + self.offsets.script_path,
            &mut path,
        )?;
        let end = path.iter().position(|byte| *byte == 0).unwrap_or(room);
        path.truncate(end);
        Ok(path)
    }

    /// Addresses of the thread states of the main interpreter, which is stopped. Usually they are the same as just
    /// before, which is faster to verify than to find.
    fn threads(&self, memory: &Memory, expected: Vec<u64>) -> Result<Vec<u64>, WindowError> {
        let nexts: Vec<u64> = expected
            .iter()
            .map(|thread| thread + self.offsets.thread_next)
            .collect();
        let head = memory.number(self.interpreter + self.offsets.threads_head)?;
        // States that were freed meanwhile may not even be mapped.
        let found = memory.numbers(&nexts).unwrap_or_default();
        let links = std::iter::once(head).chain(found);
        let same = expected.iter().zip(links).take_while(|(a, b)| **a == *b);
        let known = same.count();
        let mut threads = expected;
        threads.truncate(known);
        self.walk(memory, threads)
    }

    /// Walks the list from its head, or from the last known state.
    fn walk(&self, memory: &Memory, mut threads: Vec<u64>) -> Result<Vec<u64>, WindowError> {
        let mut next = match threads.last() {
            Some(last) => memory.number(last + self.offsets.thread_next)?,
            None => memory.number(self.interpreter + self.offsets.threads_head)?,
        };
        while next != 0 {
            threads.push(next);
            if threads.len() > MOST || next > HIGHEST {
                return Err(WindowError::Damaged);
            }
            next = memory.number(next + self.offsets.thread_next)?;
        }
        Ok(threads)
    }
}
