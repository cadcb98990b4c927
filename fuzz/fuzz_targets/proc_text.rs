//! Any bytes as what /proc says of a process: command line, status line, mappings, sockets. Names in it are chosen by
//! whoever is looked at. No panic, no endless loop, and no more memory than the text deserves.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pystap::{agent, process, python};
use pystap_fuzz::{MIB, budget, within};

fuzz_target!(|bytes: &[u8]| {
    within(budget(MIB, 512, bytes), || {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
        // Each word can name a program in its own name and in those of a path or of a module.
        let _ = process::fuzzing::command_line(bytes);
        // The name of a process is any bytes; who reads the line must not take part of it for a number.
        if let Some(parent) = process::fuzzing::parent(bytes) {
            assert_eq!(parent, 5);
        }
        if let Some((files, interpreters)) = python::fuzzing::mapped(bytes) {
            assert!(interpreters <= files && files <= lines + 1);
        }
        if let Ok(text) = str::from_utf8(bytes) {
            assert!(agent::fuzzing::proc_text(text) <= lines + 1);
        }
    });
});
