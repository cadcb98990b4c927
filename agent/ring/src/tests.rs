//! What is written is read, in order and whole; what has no room is counted; and no memory makes a reader panic, loop or
//! take more than the ring holds.

#![allow(clippy::expect_used, clippy::panic)]

extern crate std;

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use proptest::prelude::*;
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::io::Errno;

use super::*;
use crate::header::HEADER_BYTES;

/// As many words as a page has.
const WORDS: usize = 512;

/// A ring as both sides have it.
struct Shared(OwnedFd);

impl Shared {
    fn new(words: usize) -> Shared {
        Shared(new_memory(words as u64).expect("memory"))
    }

    fn mapping(&self) -> Mapping {
        let bytes = fstat(&self.0).expect("a file").st_size as usize - HEADER_BYTES;
        Mapping::new(&self.0, bytes as u64 / 8).expect("mapped")
    }

    fn writer(&self) -> Writer {
        Writer::new(self.mapping())
    }

    fn reader(&self) -> Reader {
        Reader::new(self.mapping())
    }
}

/// What a test has written.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Call(u32, u32, u8, u64),
    Return(u32, u32, u8, u64),
    ReturnWith(u32, u64, Vec<u8>),
    Timed(u32, u32, u8, u64, u64),
    Thread(u32),
    Context(u64),
    Interpreter(u32),
    Gone(u32),
    DryRun(u64, u32),
    DryRunEnds,
    Code(u32, u32, Vec<u8>, Vec<u8>, Vec<u8>),
    Name(u64, u64, Vec<u8>),
    Start(u32, u64),
    Done(u64, u64),
    /// By the writer itself.
    Lost(u64),
}

fn said() -> impl Strategy<Value = Said> {
    let text = || prop::collection::vec(any::<u8>(), 0..60);
    let line = 0..=MOST_LINE;
    prop_oneof![
        (any::<u32>(), line.clone(), 0..16_u8, any::<u64>())
            .prop_map(|(a, b, c, d)| Said::Call(a, b, c, d)),
        (any::<u32>(), line.clone(), 0..16_u8, any::<u64>())
            .prop_map(|(a, b, c, d)| Said::Return(a, b, c, d)),
        (any::<u32>(), line, 0..16_u8, any::<u64>(), any::<u64>())
            .prop_map(|(a, b, c, d, e)| Said::Timed(a, b, c, d, e)),
        (any::<u32>(), any::<u64>(), text()).prop_map(|(a, b, c)| Said::ReturnWith(a, b, c)),
        any::<u32>().prop_map(Said::Thread),
        any::<u64>().prop_map(Said::Context),
        any::<u32>().prop_map(Said::Interpreter),
        any::<u32>().prop_map(Said::Gone),
        (any::<u64>(), any::<u32>()).prop_map(|(a, b)| Said::DryRun(a, b)),
        Just(Said::DryRunEnds),
        (any::<u32>(), any::<u32>(), text(), text(), text())
            .prop_map(|(a, b, c, d, e)| Said::Code(a, b, c, d, e)),
        (any::<u64>(), any::<u64>(), text()).prop_map(|(a, b, c)| Said::Name(a, b, c)),
        (any::<u32>(), any::<u64>()).prop_map(|(a, b)| Said::Start(a, b)),
        (any::<u64>(), any::<u64>()).prop_map(|(a, b)| Said::Done(a, b)),
    ]
}

fn write(writer: &mut Writer, said: &Said) -> bool {
    match said {
        Said::Call(code, line, flags, time) => {
            writer.put([head(CALL, u64::from(*flags), *line, *code), *time])
        }
        Said::Return(code, line, flags, time) => {
            writer.put([head(RETURN, u64::from(*flags), *line, *code), *time])
        }
        Said::Timed(code, line, flags, time, began) => {
            writer.put([head(TIMED, u64::from(*flags), *line, *code), *time, *began])
        }
        Said::ReturnWith(code, time, value) => {
            writer.put_with_value([head(RETURN, 0, 1, *code), *time], value)
        }
        Said::Thread(thread) => writer.put([head(THREAD, 0, 0, *thread), 0]),
        Said::Context(context) => writer.put([head(CONTEXT, 0, 0, 0), *context]),
        Said::Interpreter(id) => writer.put([head(INTERPRETER, 0, 0, *id), 0]),
        Said::Gone(code) => writer.put([head(GONE, 0, 0, *code), 0]),
        Said::Code(number, first_line, file, name, qualname) => writer.define(&Code {
            number: *number,
            flags: 5,
            first_line: *first_line,
            file,
            name,
            qualname,
        }),
        Said::Name(context, time, name) => writer.name_context(*context, *time, name),
        Said::Start(generation, time) => writer.put([head(GC_START, 0, 0, *generation), *time]),
        Said::Done(collected, time) => writer.put([head(GC_DONE, 0, 0, 0), *time, *collected]),
        Said::DryRun(ticks, calls) => writer.put([head(DRY, 1, 0, *calls), *ticks]),
        Said::DryRunEnds => writer.put([head(DRY, 0, 0, 0), 0]),
        Said::Lost(_) => panic!("nobody says so"),
    }
}

/// Reads all that is there and gives it back. How many words.
fn take(reader: &mut Reader, into: &mut Vec<u64>) -> Result<usize, Broken> {
    let count = reader.read(u64::MAX, into)?;
    reader.give_back(count);
    Ok(count)
}

/// What a reader has read, as it was written.
fn heard(words: &[u64]) -> Vec<Said> {
    let mut records = Records::new(words);
    let mut heard = Vec::new();
    let mut of_next = None;
    while let Some(record) = records.next_record().expect("well formed") {
        let said = match record {
            Record::Call {
                code,
                line,
                flags,
                time,
            } => Said::Call(code, line, flags, time),
            Record::Return {
                code,
                line,
                flags,
                time,
            } => Said::Return(code, line, flags, time),
            Record::Timed {
                code,
                line,
                flags,
                time,
                began,
            } => Said::Timed(code, line, flags, time, began),
            Record::Thread(thread) => Said::Thread(thread),
            Record::Context(context) => Said::Context(context),
            Record::Interpreter(id) => Said::Interpreter(id),
            Record::Gone(code) => Said::Gone(code),
            Record::Code(code) => Said::Code(
                code.number,
                code.first_line,
                code.file.to_vec(),
                code.name.to_vec(),
                code.qualname.to_vec(),
            ),
            Record::ContextName {
                context,
                time,
                name,
            } => Said::Name(context, time, name.to_vec()),
            Record::GcStart { generation, time } => Said::Start(generation, time),
            Record::GcDone { collected, time } => Said::Done(collected, time),
            Record::Lost(total) => Said::Lost(total),
            Record::Value(value) => {
                of_next = Some(value.to_vec());
                continue;
            }
            Record::Fields(fields) => panic!("{fields:?}"),
            Record::DryRun { ticks, calls } => Said::DryRun(ticks, calls),
            Record::DryRunEnds => Said::DryRunEnds,
        };
        let said = match (of_next.take(), said) {
            (None, said) => said,
            (Some(value), Said::Return(code, 1, 0, time)) => Said::ReturnWith(code, time, value),
            (Some(_), other) => panic!("a value before {other:?}"),
        };
        heard.push(said);
    }
    heard
}

proptest! {
    #[test]
    fn what_has_room_is_read_in_order_and_what_has_none_is_known_to_the_writer(
        all in prop::collection::vec((said(), any::<bool>()), 0..300)
    ) {
        let shared = Shared::new(WORDS);
        let (mut writer, mut reader) = (shared.writer(), shared.reader());
        let (mut written, mut read, mut words) = (Vec::new(), Vec::new(), Vec::new());
        let (mut lost, mut told) = (0, 0);
        for (said, reads) in all {
            if write(&mut writer, &said) {
                if lost > told {
                    written.push(Said::Lost(lost));
                    told = lost;
                }
                written.push(said);
            } else {
                writer.count_lost(LostKind::Call);
                lost += 1;
                prop_assert!(reader.waiting().expect("a sound ring") > 0, "an empty ring has room");
            }
            if reads {
                words.clear();
                take(&mut reader, &mut words).expect("a sound ring");
                read.extend(heard(&words));
            }
        }
        words.clear();
        take(&mut reader, &mut words).expect("a sound ring");
        read.extend(heard(&words));
        prop_assert_eq!(read, written);
        prop_assert_eq!(take(&mut reader, &mut words), Ok(0));
    }

    #[test]
    fn a_reader_survives_whatever_is_in_the_memory(
        words in prop::collection::vec(any::<u64>(), 0..200),
        positions in prop::collection::vec(any::<u64>(), 1..8)
    ) {
        let shared = Shared::new(WORDS);
        let (mut reader, mapping) = (shared.reader(), shared.mapping());
        for (at, word) in words.iter().enumerate() {
            // SAFETY: fewer than there are.
            unsafe { mapping.data().add(at).write(*word) };
        }
        for position in positions {
            mapping.header().writer.written.store(position, Ordering::Relaxed);
            let mut taken = Vec::new();
            if take(&mut reader, &mut taken).is_ok() {
                prop_assert!(taken.len() <= WORDS);
            }
            survives(&taken);
        }
        survives(&words);
    }

    #[test]
    fn a_writer_survives_whatever_the_readers_position_is(position in any::<u64>(), all in prop::collection::vec(said(), 0..100)) {
        let shared = Shared::new(WORDS);
        let (mut writer, mapping) = (shared.writer(), shared.mapping());
        for said in all {
            mapping.header().reader.read.store(position, Ordering::Relaxed);
            write(&mut writer, &said);
        }
    }
}

/// Reads records until they end or make no sense.
fn survives(words: &[u64]) {
    let mut records = Records::new(words);
    let mut count = 0;
    while let Ok(Some(_)) = records.next_record() {
        count += 1;
    }
    assert!(count <= words.len());
}

#[test]
fn a_record_that_is_cut_is_left_for_the_next_time() {
    let shared = Shared::new(WORDS);
    let (mut writer, mut reader) = (shared.writer(), shared.reader());
    assert!(writer.put([head(CALL, 0, 1, 1), 10]));
    assert!(writer.name_context(3, 11, b"a name of several words"));
    let (mut words, mut seen) = (Vec::new(), 0);
    for (most, whole) in [(4, 2), (4, 0), (6, 6)] {
        words.clear();
        let count = reader.read(most, &mut words).expect("a sound ring");
        let mut records = Records::new(&words);
        while records.next_record().expect("well formed").is_some() {
            seen += 1;
        }
        assert_eq!(count - records.rest(), whole);
        reader.give_back(whole);
    }
    assert_eq!((seen, reader.waiting()), (2, Ok(0)));
}

#[test]
fn a_loss_is_told_where_it_was_and_the_writer_waits_until_there_is_some_room() {
    let shared = Shared::new(WORDS);
    let (mut writer, mut reader) = (shared.writer(), shared.reader());
    let call = |time| [head(CALL, 0, 1, 1), time];
    let all = (WORDS / 2) as u64;
    assert!((0..all).all(|time| writer.put(call(time))));
    for kind in [LostKind::Call, LostKind::Return, LostKind::Call] {
        assert!(!writer.put(call(all)));
        writer.count_lost(kind);
    }
    let mut words = Vec::new();
    // An eighth is free, but for one word.
    let count = reader.read(u64::MAX, &mut words).expect("a sound ring");
    reader.give_back(WORDS / 8 - 1);
    assert!(!writer.put(call(all)));
    reader.give_back(1);
    assert!((all..all + 3).all(|time| writer.put(call(time))));
    reader.give_back(count - WORDS / 8);
    words.clear();
    take(&mut reader, &mut words).expect("a sound ring");
    let calls = (all..all + 3).map(|time| Said::Call(1, 1, 0, time));
    let expected: Vec<Said> = [Said::Lost(3)].into_iter().chain(calls).collect();
    assert_eq!(heard(&words), expected);
    assert_eq!(reader.lost(), [2, 1, 0]);
}

#[test]
fn how_long_events_took_the_writer_is_said_beside_them() {
    let shared = Shared::new(WORDS);
    let (mut writer, reader) = (shared.writer(), shared.reader());
    assert_eq!(reader.handled(), Default::default());
    let of = |ticks, events| Handled { ticks, events };
    for said in [(of(7, 1), of(90, 2)), (of(7, 1), of(u64::MAX, 3))] {
        writer.tell_handled(said.0, said.1);
        assert!(writer.put([head(CALL, 0, 1, 1), 10]));
        assert_eq!(reader.handled(), said);
    }
    assert_eq!(reader.waiting(), Ok(4), "it is no record");
}

#[test]
fn losses_are_counted_by_kind() {
    let shared = Shared::new(WORDS);
    let (mut writer, reader) = (shared.writer(), shared.reader());
    for kind in [LostKind::Return, LostKind::Return, LostKind::Collection] {
        writer.count_lost(kind);
    }
    assert_eq!(reader.lost(), [0, 2, 1]);
}

#[test]
fn records_of_two_threads_keep_their_order_and_none_is_torn() {
    let shared = Shared::new(WORDS);
    let (mut writer, mut reader) = (shared.writer(), shared.reader());
    const COUNT: u64 = 200_000;
    let lost = std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let writer = &mut writer;
            let mut lost = 0;
            for number in 0..COUNT {
                if !writer.put([head(CALL, 0, 1, number as u32), number]) {
                    lost += 1;
                    std::thread::yield_now();
                }
            }
            lost
        });
        let (mut words, mut last, mut seen) = (Vec::new(), None, 0);
        loop {
            let ends = writing.is_finished();
            words.clear();
            take(&mut reader, &mut words).expect("a sound ring");
            for said in heard(&words) {
                let Said::Call(code, 1, 0, time) = said else {
                    panic!("{said:?}");
                };
                assert_eq!(u64::from(code), time);
                assert!(last < Some(time), "{last:?} {time}");
                last = Some(time);
                seen += 1;
            }
            if ends && words.is_empty() {
                let lost = writing.join().expect("it ends well");
                assert_eq!(seen + lost, COUNT);
                return lost;
            }
        }
    });
    assert!(lost < COUNT);
}

#[test]
fn a_line_that_is_too_large_is_not_known_and_a_name_that_is_too_long_is_cut() {
    let shared = Shared::new(1 << 16);
    let (mut writer, mut reader) = (shared.writer(), shared.reader());
    assert!(writer.put([head(CALL, 0, MOST_LINE + 1, 7), 1]));
    let long = vec![b'x'; MOST_TEXT + 9];
    assert!(writer.define(&Code {
        number: 7,
        flags: 5,
        first_line: 3,
        file: &long,
        name: b"f",
        qualname: b"",
    }));
    let mut words = Vec::new();
    take(&mut reader, &mut words).expect("a sound ring");
    let expected = [
        Said::Call(7, 0, 0, 1),
        Said::Code(7, 3, vec![b'x'; MOST_TEXT], b"f".to_vec(), Vec::new()),
    ];
    assert_eq!(heard(&words), expected);
}

#[test]
fn only_memory_that_nobody_can_make_shorter_is_mapped() {
    let file = memfd_create("ring", MemfdFlags::CLOEXEC).expect("a file");
    ftruncate(&file, 1 << 20).expect("its size");
    let refused = |file: &OwnedFd, words| Mapping::new(file, words).expect_err("refused");
    assert_eq!(refused(&file, WORDS as u64), Errno::INVAL);
    let sealed = new_memory(WORDS as u64).expect("memory");
    assert!(ftruncate(&sealed, 0).is_err());
    for words in [0, 1, 511, 513, 2 * WORDS as u64, 1 << 40, u64::MAX] {
        assert_eq!(refused(&sealed, words), Errno::INVAL, "{words}");
    }
    assert_eq!(new_memory(3).expect_err("no size"), Errno::INVAL);
}

#[test]
fn fields_are_read_as_they_were_written_and_an_end_that_makes_no_sense_is_left_out() {
    use crate::fields::{Absent, Fields, FieldsWriter, Value};
    let told = [
        (0, Value::None),
        (3, Value::Bool(true)),
        (1, Value::Bool(false)),
        (2, Value::Integer(i64::MIN)),
        (4, Value::Float(-0.5)),
        (
            5,
            Value::Text {
                bytes: "SELECT \u{1f40d}".as_bytes(),
                is_cut: true,
            },
        ),
        (
            6,
            Value::Bytes {
                bytes: b"\xff\0",
                is_cut: false,
            },
        ),
        (7, Value::Other(b"Thing")),
        (15, Value::Absent(Absent::NoItem, 3)),
    ];
    let mut writer = FieldsWriter::new(told.len());
    assert_eq!(writer.bytes(), None);
    for (field, value) in told {
        writer.put(field, value);
    }
    let bytes = writer.bytes().expect("there are some").to_vec();
    let read: Vec<_> = Fields::new(&bytes).collect();
    assert_eq!(read, told);
    for end in 0..bytes.len() {
        let read: Vec<_> = Fields::new(bytes.get(..end).expect("an end")).collect();
        assert!(told.starts_with(&read), "{end}");
    }
}

#[test]
fn all_fields_of_a_call_have_room_in_one_record() {
    use crate::fields::{Fields, FieldsWriter, LONGEST, MOST_FIELDS, Value};
    let text = vec![b'x'; 10 * LONGEST];
    let mut writer = FieldsWriter::new(MOST_FIELDS);
    for field in 0..MOST_FIELDS {
        let bytes = text.get(..writer.room()).expect("it is long");
        let is_cut = true;
        writer.put(field as u8, Value::Text { bytes, is_cut });
    }
    let bytes = writer.bytes().expect("there are some");
    assert!(bytes.len() <= MOST_TEXT);
    let lengths: Vec<usize> = Fields::new(bytes)
        .map(|(_, value)| match value {
            Value::Text { bytes, .. } => bytes.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lengths.len(), MOST_FIELDS);
    let (last, others) = lengths.split_last().expect("some");
    assert_eq!(others, [LONGEST; MOST_FIELDS - 1]);
    assert!(*last > LONGEST / 2, "{lengths:?}");
}
