//! Any bytes as a recording: no panic, no endless loop, and no event after the end. What can be read can be written and
//! read again. Who reads the end first finds what a reader of the whole finds there.

#![no_main]

use std::fs::File;
use std::io::Write;

use libfuzzer_sys::fuzz_target;
use pystap::analysis::pairing::{Pairing, Step};
use pystap::event::Summary;
use pystap::export::{End, Sink};
use pystap::recording::{Reader, Writer, ending};
use pystap_fuzz::{MIB, budget, within};
use rustix::fs::{MemfdFlags, memfd_create};

/// Enough to come round every table of the format, little enough to go fast.
const EVENTS: usize = 10_000;

fuzz_target!(|bytes: &[u8]| {
    within(budget(32 * MIB, 256, bytes), || deal(bytes));
});

/// A file with these bytes.
fn file(bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create("recording", MemfdFlags::CLOEXEC).expect("memory"));
    file.write_all(bytes).expect("memory");
    file
}

fn deal(bytes: &[u8]) {
    let end = ending::summary(&file(bytes));
    let Ok(mut reader) = Reader::new(bytes) else {
        return;
    };
    let mut again = Vec::new();
    let mut writer = Box::new(Writer::new(&mut again, reader.rules()));
    writer.session(reader.session()).expect("memory");
    let mut events = Vec::new();
    while let Ok(Some(event)) = reader.event() {
        writer.step(&Step::new(&event)).expect("memory");
        events.push(event);
        if events.len() >= EVENTS {
            break;
        }
    }
    if bytes.starts_with(b"\x89pystap")
        && let Some(whole) = reader.summary()
    {
        assert_eq!(end.as_ref(), Some(whole));
    }
    writer
        .finish(&End::new(&Summary::default(), &Pairing::new()))
        .expect("memory");
    let mut second = Reader::new(&again[..]).expect("our own");
    for event in events {
        assert_eq!(second.event().expect("our own"), Some(event));
    }
    assert_eq!(second.event().expect("our own"), None);
    assert_eq!(ending::summary(&file(&again)).as_ref(), second.summary());
    assert!(!second.was_cut());
}
