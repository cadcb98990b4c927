//! What pystap offers for the events of an interpreter, in its parts.

use alloc::vec::Vec;

use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::ring;
use crate::sums::{self, Summing};
use crate::timed::{self, Timing};

/// The memory, mapped and not yet in use.
pub(crate) struct Offered {
    pub(crate) ring: ring::Offered,
    /// What adds up, where that is wanted.
    pub(crate) sums: Vec<Summing>,
    /// What measures calls, where only long ones are wanted.
    pub(crate) timing: Vec<Timing>,
}

impl Offered {
    /// Maps it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new(
        offer: pystap_agent_protocol::Ring,
        memory: &OwnedFd,
    ) -> Result<Offered, Errno> {
        Ok(Offered {
            ring: ring::Offered::new(offer, memory)?,
            sums: sums::offered(offer, memory)?,
            timing: timed::offered(offer)?,
        })
    }
}
