//! Recordings: a stream of events in a file, small, complete and readable up to wherever it was truncated.
//!
//! ```text
//! magic  8 bytes  89 'p' 'y' 's' 't' 'a' 'p' 0a
//! version         u32, little endian: VERSION
//! blocks          kind u8, size when unpacked u32, size as packed u32, that many bytes of zlib
//! ```
//!
//! The first block is the session: its JSON line, and a second JSON object with what pairing must know of the
//! interpreters. Then come blocks of events (`code.rs`), between them what is different for a process from there on (JSON),
//! and the summary as JSON is the last block. Of a recording of samples, these come in place of events (`samples.rs`, JSON). A recording without a summary was truncated: by a crash, a full disk, or
//! because it is still being written. Blocks of other kinds are skipped, so that later versions can add some.
//!
//! A view can be recomputed at any time: durations that were certain are kept, and the rest is paired again.

mod ahead;
mod code;
mod continuous;
pub mod ending;
pub(crate) mod parts;
mod reader;
mod samples;
mod writer;

use crate::analysis::pairing::PairingRules;

pub use ahead::{Ahead, Told};
pub(crate) use continuous::Continuous;
pub use reader::{Reader, RecordingError};
pub(crate) use samples::{SampleSink, Samples, Sum};
pub use writer::Writer;

/// The magic at the start of our files; the first byte makes it binary, the last reveals converted line ends.
const MAGIC: [u8; 8] = *b"\x89pystap\n";

/// Version of the format. A reader refuses newer ones. Before 2, recordings lack what only the agent reports, and read
/// as they always did; since 3 both sides forget names when they take too many bytes, and not only when there are too
/// many; since 4 there are events whose number does not fit in the first byte; since 5 a thread can run an interpreter within the
/// interpreter; since 7 calls can have fields; since 8 there are recordings of samples; since 9 calls can
/// be marked as idleness; since 10 there are recordings of several hosts, whose processes have identities instead of numbers.
pub const VERSION: u32 = 10;

/// What a recording without anything that is newer says, so that earlier versions read it.
const WITHOUT_HOSTS: u32 = 9;

/// The first version in which calls can have fields.
const WITH_FIELDS: u32 = 7;

/// The contents of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum RecordKind {
    Session = 1,
    Events = 2,
    Summary = 3,
    /// Rules of one process.
    Rules = 4,
    /// Samples of stacks.
    Samples = 5,
}

/// Largest block, unpacked. Writers stay far below; a reader refuses more, so that a damaged size costs no memory.
const MAX_BLOCK: usize = 16 << 20;

/// Largest block of JSON: parsed, it takes several times its size.
const MAX_JSON: usize = 8 << 20;

/// Bytes before the packed part of a block.
const BLOCK_HEAD: usize = 9;

/// What pairing must know of the traced interpreters, as stored in the session block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct SavedRules {
    call_on_creation: bool,
    greenlets: bool,
}

/// The same of one process, from where it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct ProcessRules {
    pid: u32,
    #[serde(flatten)]
    rules: SavedRules,
}

impl From<PairingRules> for SavedRules {
    fn from(rules: PairingRules) -> SavedRules {
        SavedRules {
            call_on_creation: rules.call_on_creation,
            greenlets: rules.greenlets,
        }
    }
}

impl From<SavedRules> for PairingRules {
    fn from(saved: SavedRules) -> PairingRules {
        PairingRules {
            call_on_creation: saved.call_on_creation,
            greenlets: saved.greenlets,
        }
    }
}

#[cfg(test)]
mod tests;
