//! A door for the fuzz target `ring_records`: words of a ring, without its memory.

use pystap_agent_protocol as protocol;
use pystap_ring::Records;

use super::clock::Clock;
use super::decode::{Decoder, Kinds};
use crate::event::allowance::Allowance;
use crate::probe::Probe;

/// Reads bytes as a session reads what an agent has written. How many events there were.
pub fn records(bytes: &[u8]) -> usize {
    let words: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|chunk| {
            chunk
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte))
        })
        .collect();
    let clock = Clock::new(protocol::Clock::Monotonic);
    let kinds = Kinds::of(&Probe::names(Probe::FUNCTIONS));
    let mut decoder = Decoder::new(std::process::id(), kinds);
    let mut names = Allowance::default();
    let mut records = Records::new(&words);
    let mut count = 0;
    loop {
        let mut events = Vec::with_capacity(64);
        let decoded = decoder.decode(&mut records, (&clock, 0), &mut names, &mut events);
        count += events.len();
        if decoded.is_err() || events.len() < 64 {
            return count;
        }
    }
}
