//! Whether a process runs interpreters within its interpreter (PEP 734, `concurrent.interpreters`; mod_wsgi's default): an agent
//! sees the calls of the main one only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Interpreter;
use super::frames::RuntimeState;

/// Processes whose runtime states are remembered; of more, each is found anew each time.
const MOST: usize = 1 << 10;

/// Looks for them, from outside. Remembers where each process keeps its interpreters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subinterpreters {
    known: Arc<Mutex<HashMap<u32, RuntimeState>>>,
}

impl Subinterpreters {
    /// Whether a process has any now. No, where that cannot be seen.
    pub(crate) fn are_in(&self, pid: u32) -> bool {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&pid).copied();
        let Some(runtime) = known.or_else(|| runtime_of(pid)) else {
            return false;
        };
        let count = runtime.interpreters(pid);
        let mut known = lock();
        match count {
            Some(_) if known.len() < MOST => drop(known.insert(pid, runtime)),
            // It is another program now, or another process.
            _ => drop(known.remove(&pid)),
        }
        count.is_some_and(|count| count > 1)
    }
}

fn runtime_of(pid: u32) -> Option<RuntimeState> {
    let found = Interpreter::of_process(pid).ok()?;
    found
        .iter()
        .find_map(|interpreter| RuntimeState::of(pid, interpreter).ok())
}
