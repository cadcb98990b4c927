//! Rings of all processors.

use std::io;

use super::{Purpose, Ring, is_limit};

/// Bytes of all rings together when nothing else is said, and the most and the least of one.
const RINGS: usize = 128 << 20;
const LARGEST: usize = 16 << 20;
const SMALLEST: usize = 256 << 10;

/// Why there are no rings.
#[derive(Debug)]
pub(crate) enum NoRings {
    /// The processors cannot be counted.
    Processors(io::Error),
    /// The kernel refuses one of so many bytes.
    Refused {
        /// Bytes.
        size: usize,
        /// The kernel's reason.
        reason: io::Error,
    },
}

/// A ring of so many megabytes for each processor that is there. Without a wish for their size they are as large as is sensible,
/// and smaller where the memory lock limit asks for it.
///
/// # Errors
/// [`NoRings`].
pub(crate) fn of_all_processors(buffer: Option<u32>) -> Result<Vec<(u32, Ring)>, NoRings> {
    let processors = processors().map_err(NoRings::Processors)?;
    let wish = match buffer {
        Some(megabytes) => (megabytes as usize) << 20,
        None => (RINGS / processors.len().max(1)).clamp(SMALLEST, LARGEST),
    };
    // The next power of two below.
    let mut size = 1_usize << wish.max(SMALLEST).ilog2();
    loop {
        let rings: Result<Vec<(u32, Ring)>, io::Error> = processors
            .iter()
            .map(|processor| {
                Ring::new(*processor, size, Purpose::Records).map(|ring| (*processor, ring))
            })
            .collect();
        match rings {
            Ok(rings) => return Ok(rings),
            Err(reason) if buffer.is_none() && size > SMALLEST && is_limit(&reason) => {
                size /= 2;
            }
            Err(reason) => return Err(NoRings::Refused { size, reason }),
        }
    }
}

/// Numbers of the processors that are online: `0-3,5`.
fn processors() -> io::Result<Vec<u32>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    let unexpected = || io::Error::other(format!("unexpected list of processors: {text}"));
    let mut processors = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<u32>().map_err(|_| unexpected());
        processors.extend(number(first)?..=number(last)?);
    }
    Ok(processors)
}
