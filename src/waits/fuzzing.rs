//! A door for the fuzz target `wait_records`: bytes of a ring, without a kernel.

use std::collections::HashSet;

use super::calls::{Calls, WantedCalls};
use super::order::Order;
use super::records::{CallFormat, Decoder, Format, RegistrationFormat, Tells};
use super::symbols::Symbols;
use super::threads::Threads;
use crate::perf::tracepoints::Tracepoint;

/// Some functions of a kernel, which mean different things.
const SYMBOLS: &str = "1000 T anon_pipe_read\n2000 T core_sys_select\n3000 T futex_wait\n";
/// The process that is followed, and the counter that tells wakings.
const PID: u32 = 10;
const WAKINGS: u64 = 7;
/// Counters that tell beginnings and ends of system calls.
const CALLS: [(u64, Tells); 2] = [(8, Tells::CallsBegin), (9, Tells::CallsEnd)];

const REGISTRATIONS: u64 = 10;

/// Follows the threads of a process through these bytes, with the kernel's functions known and in the first namespace of
/// processes, or not, as `choice` says. How many waits, system calls, and records that make no sense, came of it.
pub fn records(choice: u8, bytes: &[u8]) -> usize {
    let tracepoint = |fields: &[(&str, usize)]| Tracepoint {
        id: 1,
        fields: (fields.iter())
            .map(|(name, at)| ((*name).to_owned(), *at))
            .collect(),
    };
    let format = Format::new(
        &tracepoint(&[("prev_pid", 24), ("prev_state", 32)]),
        &tracepoint(&[("common_flags", 2), ("pid", 24)]),
        vec![(1, 'S'), (2, 'D'), (4, 'T')],
    );
    let Some(format) = format else { return 0 };
    let symbols = match choice & 1 {
        0 => Symbols::read(SYMBOLS.as_bytes()).ok().flatten(),
        _ => None,
    };
    let mut decoder = Decoder::new(format, symbols, HashSet::from([PID]), choice & 2 == 0);
    decoder.tells_wakings(WAKINGS);
    let begin = tracepoint(&[("id", 8), ("args", 16)]);
    let end = tracepoint(&[("id", 8), ("ret", 16)]);
    if let Some(format) = CallFormat::new(&begin, &end) {
        decoder.tells_calls(format, &CALLS);
    }
    if let Some(format) = RegistrationFormat::new(&begin) {
        decoder.tells_registrations(format, &[REGISTRATIONS]);
    }
    if choice & 4 != 0 {
        decoder.owners().add(12, &[1, 2, 3]);
    }
    let mut records = Vec::new();
    decoder.decode(bytes, &mut records);
    let mut order = Order::default();
    for record in records {
        order.add(record);
    }
    let mut threads = Threads::default();
    let mut calls = Calls::new(WantedCalls {
        failed_only: choice & 8 != 0,
        ..WantedCalls::default()
    });
    let mut ended = 0;
    for record in order.until(u64::MAX) {
        calls.note(&record);
        ended += usize::from(calls.take(&record).is_some());
        ended += usize::from(threads.take(record).is_some());
    }
    let unreadable = usize::try_from(decoder.unreadable).unwrap_or(usize::MAX);
    ended + threads.open(u64::MAX).count() + unreadable
}
