//! Which calls are spans.

use super::ids::Link;
use crate::script::Filters;

/// Which calls are spans.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choice {
    /// Those of these functions, however short they are.
    pub(crate) filters: Filters,
    /// What they call, and what is called below that, from this duration on, in nanoseconds.
    pub(crate) callees: Option<u64>,
    /// Which request they are of.
    pub(crate) link: Option<Link>,
}

impl Choice {
    /// Whether no function is named, so that the outermost calls are what others are below.
    pub(super) fn is_of_outermost(&self) -> bool {
        self.filters.is_empty() && self.callees.is_some()
    }

    /// Whether a call below one that is a span is one, too, by how long it took.
    pub(super) fn is_long(&self, took: u64) -> bool {
        self.callees.is_some_and(|least| took >= least)
    }
}
