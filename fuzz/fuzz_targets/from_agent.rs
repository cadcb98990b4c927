//! Any packets as what an agent says to a session: no panic, no wait, no more outcomes than packets, and no more
//! memory than they deserve. A packet begins with its length in two bytes; what is left over is one, too.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pystap::agent::fuzzing::conversation;
use pystap_agent_protocol::LARGEST_PACKET;
use pystap_fuzz::{MIB, budget, within};

fuzz_target!(|bytes: &[u8]| {
    let mut packets = Vec::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk() {
        let (packet, after) = after
            .split_at_checked(usize::from(u16::from_le_bytes(*length)))
            .unwrap_or((after, &[]));
        packets.push(packet);
        rest = after;
    }
    let largest = packets.iter().map(|packet| packet.len()).max().unwrap_or(0);
    if largest > LARGEST_PACKET {
        return;
    }
    // The session's buffer for a packet, and what a thread costs.
    within(budget(2 * MIB, 512, bytes), || {
        let (outcomes, account) = conversation(&packets);
        // One agent begins at most once, and ends at most once.
        assert!(outcomes.len() <= 2, "{outcomes:?}");
        assert!(account.silent <= 1, "{account:?}");
        for outcome in outcomes {
            assert_eq!(outcome.pid, std::process::id());
        }
    });
});
