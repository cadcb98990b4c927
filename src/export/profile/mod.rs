//! Formats that other programs show: what a stream becomes when all of it is known. Sinks like all others;
//! what a format cannot say is left out, nothing is invented. Calls that are still open are ended at the time of the last
//! event.

mod chrome;
pub(crate) mod flames;
mod folded;
mod names;
mod paths;
mod perfetto;
mod pprof;
mod pstats;
mod slices;
mod speedscope;
mod timeline;
mod tracks;

pub use chrome::Chrome;
pub use folded::{FlameGraph, Folded, Selection, Time};
pub(in crate::export) use folded::{Seen as Stacks, Spent};
pub(crate) use names::process as process_name;
pub use perfetto::Perfetto;
pub use pprof::Pprof;
pub(crate) use pprof::{COUNT, NANOSECONDS, Profile, thread_label};
pub use pstats::Pstats;
pub use speedscope::Speedscope;

#[cfg(test)]
mod tests;
