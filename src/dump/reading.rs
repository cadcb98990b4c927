//! How far what was read can be relied on.

/// How far a stack can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The thread slept while it was read.
    Exact,
    /// The thread ran; its stack was the same twice.
    Running,
    /// It never held still.
    Changed,
}

impl Reading {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Reading::Exact => "exact",
            Reading::Running => "running",
            Reading::Changed => "changed",
        }
    }
}
