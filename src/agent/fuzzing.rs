//! Entry points for the fuzz targets `from_agent`, `debug_offsets` and `proc_text`: packets, memory and text of an
//! untrusted process, without that process.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use super::AgentConfig;
use super::control::{AgentAccount, Control, Outcome};
use super::remote::Remote;
use super::socket;
use super::window::{Memory, Target, Wish, tracer_in};

/// Sends a session these packets from an agent that it has connected to, until they end or the session stops listening.
/// Returns the outcomes and the account.
pub fn conversation(packets: &[&[u8]]) -> (Vec<Outcome>, AgentAccount) {
    let (ours, theirs) = match socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    ) {
        Ok(pair) => pair,
        Err(error) => panic!("no socket can be had ({error})"),
    };
    for packet in packets {
        // A packet that does not fit is not sent.
        let _ = send(&theirs, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
    let control = match Control::new(
        AgentConfig {
            functions: Some(HashSet::new()),
            ..AgentConfig::default()
        },
        Arc::default(),
        Arc::default(),
    ) {
        Ok(control) => control,
        Err(error) => panic!("{error}"),
    };
    // We are the process that answers.
    control.start(std::process::id(), ours);
    drop(theirs);
    let account = control.stop().unwrap_or_default();
    (control.outcomes().try_iter().collect(), account)
}

/// Asks a process to run a script, and withdraws the request. Its memory consists of these bytes, with the runtime
/// state at the beginning. Whether it could be asked.
pub fn debug_offsets(memory: &[u8]) -> bool {
    let file = memfd_create("memory", MemfdFlags::CLOEXEC).map(File::from);
    let Ok(file) = file.and_then(|file| {
        (&file)
            .write_all(memory)
            .map_err(|_| rustix::io::Errno::IO)?;
        Ok(file)
    }) else {
        return false;
    };
    let (Ok(target), Ok(copy)) = (Target::now(std::process::id()), file.try_clone()) else {
        return false;
    };
    let Ok(remote) = Remote::in_memory(target, Memory::of_file(copy), 0, None) else {
        return false;
    };
    let memory = Memory::of_file(file);
    let script = b"/run/pystap/script.py";
    let run = remote.wishing(Wish::Run([script, &b"\0"[..]].concat()));
    let asked = run.write(&memory, Vec::new()).is_ok();
    let withdraw = remote.wishing(Wish::Withdraw(script.to_vec()));
    let _ = withdraw.write(&memory, Vec::new());
    asked
}

/// What is parsed from lines of text in /proc: sockets that agents listen on, and the tracer of a process. Returns how
/// much was found.
pub fn proc_text(text: &str) -> usize {
    let sockets = text.lines().filter_map(socket::agents).count();
    sockets + usize::from(tracer_in(text).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory of a 3.14 as in the fuzz target's seed, with one word changed.
    fn changed(at: usize, word: u64) -> Vec<u8> {
        let mut memory = include_bytes!("../../fuzz/seeds/debug_offsets/3.14").to_vec();
        memory[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        memory
    }

    #[test]
    fn a_memory_that_makes_sense_is_asked_and_one_whose_lists_lead_astray_is_not() {
        assert!(debug_offsets(&changed(8, 0x030e_00f0)));
        for (at, word) in [
            // The head of the interpreters, and of the threads: an address to which nothing can be added.
            (2048, u64::MAX),
            (2048, u64::MAX - 7),
            (3072 + 16, u64::MAX),
            // An offset, and a list that is its own end.
            (192, u64::MAX),
            (4096, 4096),
        ] {
            assert!(!debug_offsets(&changed(at, word)), "{at}: {word:x}");
        }
    }

    #[test]
    fn numbers_that_overflow_are_no_account_of_a_session() {
        let hello = br#"{"type":"hello","protocol":1}"#;
        let (outcomes, account) = conversation(&[hello, &[0xff; 100], b""]);
        assert_eq!((outcomes.len(), account.told, account.dropped), (1, 0, 0));
    }
}
