//! Where sums of waits come from: from events of the scheduler ([`super::session`]), or from the kernel's own sums
//! ([`super::summed`]).

use crossbeam_channel::Receiver;

use super::tally::Snapshot;

/// A running session. Dropped, it ends.
pub(crate) trait Source {
    /// Becomes ready when all processes have ended.
    fn ended(&self) -> &Receiver<()>;

    /// Everything so far, waits that go on included.
    fn snapshot(&self) -> Snapshot;

    /// Counts anew from now on.
    fn anew(&self);

    /// What went wrong meanwhile, a sentence each, since this was last asked.
    fn troubles(&self) -> Vec<String> {
        Vec::new()
    }

    /// Ends, and gives everything.
    fn end(&mut self) -> Snapshot;
}
