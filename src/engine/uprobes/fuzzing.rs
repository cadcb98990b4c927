//! A door for the fuzz target `perf_records`: bytes of a ring, without a kernel.

use super::decode::{self, Decoder};
use crate::perf::tracepoints::Tracepoint;

/// Decodes bytes as a session does that has probed interpreters only, the agent, or the agent with values, as `choice`
/// says. How many records were told in one way or another.
pub fn records(choice: u8, bytes: &[u8]) -> usize {
    // As the kernel lays them out: the common part of a record, the address, then these.
    let mut fields = vec![("mark", 16), ("width", 17), ("file", 20), ("function", 24)];
    fields.push(("number", 28));
    let kind = choice % 3;
    if kind > 0 {
        fields.extend([("qualname", 36), ("context", 40), ("flags", 48)]);
    }
    if kind > 1 {
        fields.push(("text", 56));
    }
    if choice & 0x40 != 0 {
        fields.push(("keywords", 60));
    }
    let defined = Tracepoint {
        id: 1,
        fields: fields
            .into_iter()
            .map(|(name, offset)| (name.to_owned(), offset))
            .collect(),
    };
    let Some(mut decoder) = Decoder::new(&defined) else {
        return 0;
    };
    if choice & 0x80 != 0 {
        decoder.owners().add(12, &[1, 2, 3]);
    }
    let mut events = Vec::new();
    decoder.decode(bytes, 0, &mut events);
    let account = decoder.account();
    let births = decode::changes(bytes).count();
    let told = events.len() + decoder.lives().len();
    // Records of births come through rings of their own, so they are no more than all records.
    told.max(births) + usize::try_from(account.unreadable).unwrap_or(usize::MAX)
}
