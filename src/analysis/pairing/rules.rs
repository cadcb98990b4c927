//! What pairing must know of an interpreter.

/// How an interpreter uses its marks, as far as pairing must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairingRules {
    /// Creating a generator or coroutine is marked as a call that does not return: from 3.15 on.
    pub call_on_creation: bool,
    /// The process has greenlets: several stacks interleave in one thread.
    pub greenlets: bool,
}

impl Default for PairingRules {
    /// For a process of which nothing is known: the reading that gives fewer durations and no wrong ones.
    fn default() -> Self {
        PairingRules {
            call_on_creation: true,
            greenlets: false,
        }
    }
}
