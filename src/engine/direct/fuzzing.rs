//! A door for the fuzz targets `ring_records` and `ring_sums`: words of a ring, without its memory, and the memory of a table.

use std::os::unix::fs::FileExt;

use pystap_agent_protocol as protocol;
use pystap_ring::sums::{self, Scale, SumsReader};
use pystap_ring::{Code, Mapping, Reader, Records, Writer, new_memory_with};

use super::clock::{self, Clock};
use super::decode::{Asked, Decoder, Kinds};
use super::sums::{Table, Tables};
use crate::analysis::totals::Totals;
use crate::event::allowance::Allowance;
use crate::field::Field;
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
    let asked = ["a=x.y['z']", "b=x"].into_iter().flat_map(Field::parse);
    let asked: Vec<Field> = asked.collect();
    let mut decoder = Decoder::new(std::process::id(), kinds).asking(Asked::new(&asked));
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

/// Words of the ring before a table, and rows of that.
const WORDS: u64 = 512;
const ROWS: u32 = 16;

/// Takes bytes for a table in which an agent adds up, with names for its rows, and reads it as a session does. How many rows
/// there were.
///
/// # Errors
/// When there is no memory.
pub fn sums(bytes: &[u8]) -> std::io::Result<usize> {
    let length = sums::bytes(ROWS).unwrap_or(0);
    let memory = new_memory_with(WORDS, length)?;
    let mut writer = Writer::new(Mapping::new(&memory, WORDS)?);
    let mut decoder = Decoder::new(std::process::id(), Kinds::NONE);
    for number in 0..ROWS {
        writer.define(&Code {
            number,
            flags: 0,
            first_line: number,
            file: b"app.py",
            name: b"f",
            qualname: b"",
        });
    }
    let mut words = Vec::new();
    let there = Reader::new(Mapping::new(&memory, WORDS)?);
    there
        .read(u64::MAX, &mut words)
        .map_err(std::io::Error::other)?;
    let clock = (&Clock::new(protocol::Clock::Monotonic), 0);
    let mut names = Allowance::default();
    let mut records = Records::new(&words);
    let decoded = decoder.decode(&mut records, clock, &mut names, &mut Vec::with_capacity(1));
    decoded.map_err(std::io::Error::other)?;

    let reader = SumsReader::new(sums::Table::new(&memory, WORDS, ROWS)?);
    let mut table = Table::new(reader, protocol::Clock::Monotonic, Scale::NANOSECONDS);
    // Its header is at the beginning of the file's last part, the rows at that of a page of their own.
    let begin = std::fs::File::from(memory);
    let end = begin.metadata()?.len();
    let (header, rows) = bytes.split_at_checked(128).unwrap_or((bytes, &[]));
    begin.write_at(header, end - length)?;
    let longest = usize::from(u16::MAX).min(512 * ROWS as usize);
    let rows = rows.get(..longest).unwrap_or(rows);
    begin.write_at(rows, end - 512 * u64::from(ROWS))?;

    table.look();
    let mut tables = Tables::default();
    let pid = std::process::id();
    let now = clock::time(protocol::Clock::Monotonic);
    let mut count = 0;
    for _ in 0..2 {
        let rows = tables.rows([(pid, &table, &decoder)].into_iter(), now);
        count += rows.rows.len();
        let mut totals = Totals::default();
        totals.take(rows);
        let functions = totals.functions();
        let _ = (functions.merged(), functions.total_self_ns());
        tables.leave(pid, (&table, &decoder), now);
    }
    tables.begin_anew([&mut table].into_iter(), now);
    Ok(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_table_of_any_bytes_is_read_in_bounded_time(
            bytes in proptest::collection::vec(any::<u8>(), 0..9000), all in any::<bool>(),
        ) {
            let ones = vec![0xff; bytes.len()];
            let read = super::sums(if all { &ones } else { &bytes });
            prop_assert!(read.is_ok());
        }
    }
}
