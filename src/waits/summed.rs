//! Waits that the kernel has added up itself (`tapsets/pystap/waits.stp`), as they come: sums by thread and stack, and what the
//! stacks are. What they mean is found here in the same way as for waits that are told one by one.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::reason::{Meaning, Meant, Reason, meant, of_call};
use super::symbols::Symbols;
use crate::process::activity::syscall_name;

/// Most chains of functions whose meaning is kept.
const MOST_CHAINS: usize = 1 << 14;

/// The waits of one thread with one stack in one system call, since the beginning or since it was counted anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SummedWaits {
    pub(crate) kind: SummedKind,
    pub(crate) waits: u64,
    pub(crate) blocked_ns: u64,
    pub(crate) runqueue_ns: u64,
    pub(crate) max_ns: u64,
    /// How long one lasts that goes on; 0 where none does. It is in none of the others.
    pub(crate) lasts_ns: u64,
}

/// What is the same of all waits of a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SummedKind {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    /// The number of the stack; 0 where there was no room for it.
    pub(crate) stack: u32,
    /// The number of the system call; `None` outside of all.
    pub(crate) call: Option<u32>,
    /// Whether its first argument is in a GIL.
    pub(crate) of_gil: bool,
    /// Whether its first and its second argument are 0.
    pub(crate) zero: [bool; 2],
    /// Whether nobody saw it begin: its thread was there before, and may have waited since then.
    pub(crate) from_before: bool,
}

/// What a thread had on its stacks when it left the processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SummedStack {
    pub(crate) number: u32,
    pub(crate) pid: u32,
    pub(crate) python: SummedPython,
    /// The kernel's functions, the innermost first.
    pub(crate) functions: Vec<u64>,
}

/// The frames of Python.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SummedPython {
    /// The innermost first: code object, instruction, owner.
    Frames(Vec<(u64, u64, u8)>),
    /// Python knows nothing of the thread.
    None,
    /// They could not be read there and then.
    Unreadable,
}

/// What ends what was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SummedEnd {
    /// Whether everything from before is void.
    pub(crate) anew: bool,
    /// How often threads were preempted, since the module was loaded, and for how long.
    pub(crate) preempted: u64,
    pub(crate) preempted_ns: u64,
    /// Waits for which there was no room.
    pub(crate) waits_lost: u64,
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summed {
    pub(crate) sums: Vec<SummedWaits>,
    pub(crate) stacks: Vec<SummedStack>,
    pub(crate) end: SummedEnd,
}

/// Finds out what chains of the kernel's functions mean.
#[derive(Debug)]
pub(crate) struct Meanings {
    symbols: Option<Symbols>,
    chains: HashMap<Vec<u64>, Meant>,
}

impl Meanings {
    /// Those of the running kernel.
    ///
    /// # Errors
    /// When /proc/kallsyms cannot be read.
    pub(crate) fn of_kernel() -> io::Result<Meanings> {
        Ok(Meanings {
            symbols: Symbols::of_kernel()?,
            chains: HashMap::new(),
        })
    }

    /// Whether reasons come from system calls alone, because the kernel does not tell its addresses.
    pub(crate) fn lack_symbols(&self) -> bool {
        self.symbols.is_none()
    }

    /// Why and in which system call a thread waits in these functions, the innermost first.
    pub(crate) fn cause(
        &mut self,
        functions: &[u64],
        kind: &SummedKind,
    ) -> (Reason, Option<Arc<str>>) {
        let meant = self.meant(functions);
        let named = kind.call.and_then(|call| syscall_name(call.into()));
        let call: Option<Arc<str>> = meant.call.or_else(|| named.map(Arc::from));
        let known = self.symbols.is_some() && !functions.is_empty();
        let reason = match (&call, known) {
            (Some(call), _) => {
                let reason = match known {
                    true => meant.reason,
                    false => of_call(call),
                };
                let [first, second] = kind.zero.map(|zero| Some(u64::from(!zero)));
                reason.of_descriptors(call, first, second)
            }
            (None, true) => meant.reason,
            (None, false) => Reason::Other,
        };
        match (reason, kind.of_gil) {
            (Reason::Lock, true) => (Reason::Gil, call),
            (reason, _) => (reason, call),
        }
    }

    fn meant(&mut self, functions: &[u64]) -> Meant {
        if let Some(known) = self.chains.get(functions) {
            return known.clone();
        }
        let symbols = self.symbols.as_ref();
        let meanings: Vec<&Meaning> = functions
            .iter()
            .filter_map(|address| symbols?.at(*address))
            .collect();
        let meant = meant(meanings.into_iter());
        if self.chains.len() >= MOST_CHAINS {
            self.chains.clear();
        }
        self.chains.insert(functions.to_vec(), meant.clone());
        meant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: &str = "\
        1000 T pipe_read\n\
        2000 T __x64_sys_read\n\
        3000 T do_futex\n\
        4000 T do_select\n\
        5000 T asm_exc_page_fault\n\
        6000 T nothing\n";

    fn meanings(kernel: &str) -> Meanings {
        Meanings {
            symbols: Symbols::read(kernel.as_bytes()).expect("read"),
            chains: HashMap::new(),
        }
    }

    fn kind(call: &str) -> SummedKind {
        let number = crate::process::activity::syscall_number(call);
        SummedKind {
            pid: 1,
            tid: 1,
            stack: 1,
            call: number.and_then(|number| u32::try_from(number).ok()),
            of_gil: false,
            zero: [false; 2],
            from_before: false,
        }
    }

    #[test]
    fn the_kernels_functions_say_why_and_the_arguments_which_of_two_reasons() {
        let mut meanings = meanings(KERNEL);
        let mut cause = |functions: &[u64], kind: SummedKind| {
            let (reason, call) = meanings.cause(functions, &kind);
            (reason, call.map(|call| call.to_string()))
        };
        let called = |call: &str| Some(call.to_owned());
        let read = kind("read");
        assert_eq!(
            cause(&[0x1001, 0x2001], read),
            (Reason::Pipe, called("read"))
        );
        assert_eq!(cause(&[0x1001], read), (Reason::Pipe, called("read")));
        let futex = kind("futex");
        assert_eq!(cause(&[0x3001], futex), (Reason::Lock, called("futex")));
        let of_gil = SummedKind {
            of_gil: true,
            ..futex
        };
        assert_eq!(cause(&[0x3001], of_gil), (Reason::Gil, called("futex")));
        let sleeps = SummedKind {
            zero: [true, false],
            ..kind("select")
        };
        assert_eq!(cause(&[0x4001], sleeps), (Reason::Sleep, called("select")));
        assert_eq!(cause(&[0x4001], kind("select")).0, Reason::Poll);
        let outside = SummedKind {
            call: None,
            ..futex
        };
        assert_eq!(cause(&[0x5001], outside), (Reason::PageFault, None));
    }

    #[test]
    fn without_the_kernels_addresses_the_system_call_says_why() {
        let mut meanings = meanings("0 T pipe_read\n");
        assert!(meanings.lack_symbols());
        let (reason, _) = meanings.cause(&[0x1001], &kind("clock_nanosleep"));
        assert_eq!(reason, Reason::Sleep);
        let of_gil = SummedKind {
            of_gil: true,
            ..kind("futex")
        };
        assert_eq!(meanings.cause(&[], &of_gil).0, Reason::Gil);
        let outside = SummedKind {
            call: None,
            ..of_gil
        };
        assert_eq!(meanings.cause(&[], &outside), (Reason::Other, None));
    }
}
