//! What is recorded is read back, and files that are truncated, damaged or not ours get a clear answer.

use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroU64;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::analysis::pairing::{Pairing, PairingRules, Step};
use crate::analysis::testing::{call, event, returned};
use crate::event::arbitrary;
use crate::event::hosts::{self, Hosts};
use crate::event::{Event, Plain, Session, SessionHost, Summary, Text, What};
use crate::export::json::Json;
use crate::export::{End, Sink};
use crate::probe::Probe;

const HABITS: PairingRules = PairingRules {
    call_on_creation: false,
    greenlets: true,
};

fn recorded(session: &Session, events: &[Event], flush_every: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Box::new(Writer::new(&mut bytes, HABITS));
    writer.session(session).expect("memory");
    for (at, event) in events.iter().enumerate() {
        writer.step(&Step::new(event)).expect("memory");
        if at % flush_every == 0 {
            writer.flush().expect("memory");
        }
    }
    writer
        .finish(&End::new(&Summary::default(), &Pairing::new()))
        .expect("memory");
    bytes
}

/// Everything that can be read, and whether the end was missing.
fn read(bytes: &[u8]) -> Result<(Vec<Event>, bool), RecordingError> {
    let mut reader = Reader::new(bytes)?;
    let mut events = Vec::new();
    while let Some(event) = reader.event()? {
        events.push(event);
    }
    Ok((events, reader.was_cut()))
}

/// A program whose calls nest, with durations filled in, as a session passes it to a sink.
fn paired(count: u64) -> Vec<Event> {
    let mut pairing = Pairing::with_rules(HABITS);
    let mut events = Vec::new();
    let mut random: u64 = 0x2545_f491_4f6c_dd1d;
    for n in 0..count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let name = format!("f{}", random % 7);
        let ts = 1_700_000_000_000_000_000 + n * 4_000;
        let mut lines = [
            call(ts, "main"),
            call(ts + 700, &name),
            event(ts + 900, What::GcStart { generation: 1 }),
            returned(ts + 1_300 + random % 1_000, &name),
            returned(ts + 2_500, "main"),
        ];
        lines[2].tid = 1 + n as u32 % 3;
        for event in &mut lines {
            pairing.feed(event);
        }
        events.extend(lines);
    }
    events
}

/// Both forms of a recording, as files, whose end says that an event cost so much.
fn ending_with(overhead: u64) -> [tempfile::NamedTempFile; 2] {
    let summary = Summary {
        overhead_ns_per_event: NonZeroU64::new(overhead),
        overhead_ns_within_call: NonZeroU64::new(overhead).map(NonZeroU64::get),
        ended: "interrupted".to_owned(),
        ..Summary::default()
    };
    let sinks: [fn(File) -> Box<dyn Sink>; 2] = [
        |file| Box::new(Writer::new(file, HABITS)),
        |file| Box::new(Json::new(file)),
    ];
    sinks.map(|sink| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut sink = sink(file.reopen().expect("it is there"));
        sink.session(&Session::default()).expect("written");
        for event in paired(5_000) {
            sink.step(&Step::new(&event)).expect("written");
        }
        let end = Pairing::new();
        sink.finish(&End::new(&summary, &end)).expect("written");
        file
    })
}

#[test]
fn what_the_end_says_is_known_before_the_rest_is_read() {
    for file in ending_with(150) {
        let said = ending::summary(file.as_file()).expect("it has an end");
        assert_eq!(said.overhead_ns_per_event, NonZeroU64::new(150));
        let reader = Reader::new(file.reopen().expect("it is there")).expect("a recording");
        assert_eq!(reader.session().overhead_ns_per_event, None);
        let mut reader = reader.ending_with(&said);
        let session = reader.session();
        assert_eq!(session.overhead_ns_per_event, NonZeroU64::new(150));
        assert_eq!(session.overhead_ns_within_call, Some(150));
        let mut events = 0;
        while reader.event().expect("sound").is_some() {
            events += 1;
        }
        assert_eq!(events, 25_000);
        assert_eq!(reader.summary(), Some(&said));
    }
}

#[test]
fn an_end_that_says_nothing_of_costs_leaves_what_the_session_said() {
    let calm = NonZeroU64::new(40);
    let session = Session {
        overhead_ns_per_event: calm,
        ..Session::default()
    };
    let bytes = recorded(&session, &paired(3), 1);
    let reader = Reader::new(&*bytes).expect("a recording");
    let reader = reader.ending_with(&Summary::default());
    assert_eq!(reader.session().overhead_ns_per_event, calm);
}

#[test]
fn a_file_without_an_end_and_one_of_something_else_say_nothing() {
    for file in ending_with(150) {
        let whole = std::fs::read(file.path()).expect("written");
        for length in [0, 5, 12, 15, 200, whole.len() / 2, whole.len() - 2] {
            std::fs::write(file.path(), &whole[..length]).expect("written");
            assert_eq!(ending::summary(file.as_file()), None, "{length}");
        }
        let other = "x".repeat(200_000);
        std::fs::write(file.path(), other).expect("written");
        assert_eq!(ending::summary(file.as_file()), None);
    }
    // As many empty blocks as there is room for, and room for many.
    let file = tempfile::tempfile().expect("a file");
    (&file).write_all(&MAGIC).expect("written");
    file.set_len(1 << 40).expect("a hole");
    assert_eq!(ending::summary(&file), None);
    let (pipe, _writer) = std::io::pipe().expect("a pipe");
    let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
    assert_eq!(ending::summary(&pipe), None);
}

#[test]
fn a_recording_keeps_session_habits_events_and_summary() {
    let session = Session {
        engine: "stap".to_owned(),
        ..Session::default()
    };
    let events = paired(100);
    let bytes = recorded(&session, &events, 50);
    let mut reader = Reader::new(&bytes[..]).expect("our own");
    assert_eq!(reader.session(), &session);
    assert_eq!(reader.rules(), HABITS);
    let mut back = Vec::new();
    while let Some(event) = reader.event().expect("our own") {
        back.push(event);
    }
    assert_eq!(back, events);
    assert_eq!(reader.summary(), Some(&Summary::default()));
    assert!(!reader.was_cut());
}

#[test]
fn a_recording_cut_anywhere_is_read_up_to_the_cut_and_says_so() {
    let events = paired(60);
    let bytes = recorded(&Session::default(), &events, 100);
    let mut most = 0;
    for length in 0..bytes.len() {
        match read(&bytes[..length]) {
            Ok((some, cut)) => {
                assert!(cut, "{length} of {}", bytes.len());
                assert_eq!(some, events[..some.len()], "{length}");
                assert!(some.len() >= most, "a longer file has no fewer events");
                most = some.len();
            }
            Err(RecordingError::Empty) => assert_eq!(most, 0, "{length}"),
            Err(RecordingError::Foreign) => assert!(length < 8, "{length}"),
            Err(error) => panic!("{length}: {error}"),
        }
    }
    assert_eq!(most, events.len(), "all of it without its summary");
}

#[test]
fn a_block_that_was_cut_gives_the_events_that_are_in_it() {
    let events = paired(2000);
    let bytes = recorded(&Session::default(), &events, usize::MAX);
    let (some, cut) = read(&bytes[..bytes.len() / 2]).expect("half of it");
    assert!(cut);
    assert!(
        some.len() > events.len() / 3,
        "{} of {}",
        some.len(),
        events.len()
    );
}

#[test]
fn a_newer_version_is_refused_and_named() {
    let mut bytes = recorded(&Session::default(), &[], 1);
    bytes[8] = 11;
    let error = read(&bytes).expect_err("not ours to read");
    assert!(matches!(error, RecordingError::Newer { found: 11 }));
    assert!(error.to_string().contains("format 11"), "{error}");
}

#[test]
fn the_manual_says_which_versions_are_written() {
    let manual = include_str!("../../docs/recordings.md");
    let words: Vec<&str> = manual.split_whitespace().collect();
    let said = format!("today {WITHOUT_HOSTS}, or {VERSION} with several hosts.");
    assert!(words.join(" ").contains(&said), "{said}");
}

#[test]
fn a_recording_of_several_hosts_tells_their_processes_apart_and_says_so_to_earlier_versions() {
    let host = |name: &str| SessionHost {
        name: name.to_owned(),
        ..SessionHost::default()
    };
    let session = Session {
        hosts: vec![host("web1"), host("web2")],
        ..Session::default()
    };
    let mut events = paired(40);
    for (at, event) in events.iter_mut().enumerate() {
        hosts::translate(event, |id| Hosts::identity(at % 2, id & 0xff)).expect("small numbers");
    }
    let bytes = recorded(&session, &events, 1);
    assert_eq!(bytes[8], 10);
    assert_eq!(read(&bytes).expect("readable"), (events.clone(), false));
    assert_eq!(recorded(&Session::default(), &events, 1)[8], 9);
}

#[test]
fn a_block_of_a_kind_to_come_is_passed_over() {
    let events = paired(3);
    let bytes = recorded(&Session::default(), &events, usize::MAX);
    let packed = miniz_oxide::deflate::compress_to_vec_zlib(b"later", 1);
    let mut more = vec![200, 5, 0, 0, 0, packed.len() as u8, 0, 0, 0];
    more.extend_from_slice(&packed);
    // After the session block.
    let session =
        12 + BLOCK_HEAD + u32::from_le_bytes(bytes[17..21].try_into().expect("4")) as usize;
    let bytes = [&bytes[..session], &more, &bytes[session..]].concat();
    assert_eq!(read(&bytes).expect("readable"), (events, false));
}

#[test]
fn other_files_are_called_what_they_are() {
    for foreign in [
        &b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\0"[..],
        b"hello\n",
        b"\x89PNG\r\n\x1a\n\0\0\0\0\0\0",
        b"{\"traceEvents\":[]}\n",
        b"{\"event\":\"call\",\"ts\":1}\n",
    ] {
        assert!(
            matches!(read(foreign), Err(RecordingError::Foreign)),
            "{foreign:?}"
        );
    }
    assert!(matches!(read(b""), Err(RecordingError::Empty)));
}

#[test]
fn a_json_trace_is_read_like_a_recording_also_when_its_last_line_is_half() {
    let events = paired(5);
    let mut bytes = Vec::new();
    let mut sink = Box::new(crate::export::json::Json::new(&mut bytes));
    sink.session(&Session::default()).expect("memory");
    for event in &events {
        sink.step(&Step::new(event)).expect("memory");
    }
    sink.finish(&End::new(&Summary::default(), &Pairing::new()))
        .expect("memory");
    assert_eq!(read(&bytes).expect("our own"), (events.clone(), false));
    let text = String::from_utf8(bytes).expect("UTF-8");
    let cut = text.rfind("\"tid\"").expect("an event");
    let (some, was_cut) = read(&text.as_bytes()[..cut]).expect("cut");
    assert!(was_cut);
    assert_eq!(some, events[..events.len() - 1]);
}

#[test]
fn ordinary_events_cost_few_bytes() {
    let events = paired(20_000);
    let bytes = recorded(&Session::default(), &events, usize::MAX);
    let each = bytes.len() as f64 / events.len() as f64;
    assert!(each < 4.0, "{each}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_events_come_back_as_they_were(
        session in arbitrary::session(),
        events in proptest::collection::vec(arbitrary::event(), 0..60),
        again in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        // Repetitions are what the format is about.
        let mut all = events.clone();
        if !events.is_empty() {
            all.extend(again.iter().map(|index| events[index.index(events.len())].clone()));
        }
        let bytes = recorded(&session, &all, 17);
        let reader = Reader::new(&bytes[..]).expect("our own");
        prop_assert_eq!(reader.session(), &session);
        prop_assert_eq!(read(&bytes).expect("our own"), (all, false));
    }

    #[test]
    fn damage_is_an_answer_and_never_a_panic(
        at in any::<prop::sample::Index>(), with in any::<u8>(), length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = recorded(&Session::default(), &paired(20), 10);
        let index = at.index(bytes.len());
        bytes[index] = with;
        bytes.truncate(length.index(bytes.len()) + 1);
        let _ = read(&bytes);
    }

    #[test]
    fn bytes_that_claim_to_be_events_are_decoded_or_refused(
        content in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = recorded(&Session::default(), &[], 1);
        let packed = miniz_oxide::deflate::compress_to_vec_zlib(&content, 1);
        let session = 12 + BLOCK_HEAD + u32::from_le_bytes(bytes[17..21].try_into().expect("4")) as usize;
        bytes.truncate(session);
        bytes.push(RecordKind::Events as u8);
        bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(packed.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&packed);
        let _ = read(&bytes);
    }
}

/// A stream in which every call is of a different function, with a name of `length` bytes.
fn long_names(count: u64, length: usize) -> Vec<Event> {
    (0..count)
        .flat_map(|number| {
            let name = format!("{number:0>length$}");
            [call(10 * number, &name), returned(10 * number + 5, &name)]
        })
        .collect()
}

#[test]
fn names_beyond_a_budget_of_bytes_are_forgotten_on_both_sides_and_read_back_as_they_were() {
    // Some 40 MB of names: both sides start over twice.
    let events = long_names(10_000, 4_000);
    let bytes = recorded(&Session::default(), &events, 100);
    let mut reader = Reader::new(bytes.as_slice()).expect("a recording");
    for event in &events {
        assert_eq!(reader.event().expect("readable").as_ref(), Some(event));
    }
    assert_eq!(reader.event().expect("readable"), None);
    assert!(!reader.was_cut());
}

#[test]
fn of_names_that_are_all_in_use_those_beyond_the_allowance_are_marked() {
    let events = long_names(20_000, 4_000);
    let bytes = recorded(&Session::default(), &events, 100);
    let mut reader = Reader::new(bytes.as_slice()).expect("a recording");
    let mut kept = Vec::new();
    while let Some(event) = reader.event().expect("readable") {
        kept.push(event);
    }
    assert_eq!(kept.len(), events.len());
    let marked = kept.iter().filter(|event| event.is_nameless()).count();
    assert!(marked > 0 && marked < kept.len(), "{marked}");
    let right = kept.iter().zip(&events);
    assert!(
        right
            .into_iter()
            .all(|(read, written)| read.is_nameless() || read == written),
        "a name is the right one or none"
    );
    let named: usize = kept
        .iter()
        .filter(|event| matches!(event.what, What::Call { .. }) && !event.is_nameless())
        .count();
    assert!(named * 4_000 <= crate::event::allowance::ALL_NAMES);
}

#[test]
fn deep_stacks_of_many_threads_are_encoded_within_a_bound_and_read_back() {
    let mut events = Vec::new();
    for depth in 0..600 {
        for tid in 1..=2_000 {
            let mut event = call(depth * 2_000 + u64::from(tid), "deep");
            event.tid = tid;
            events.push(event);
        }
    }
    for tid in 1..=2_000 {
        let mut event = returned(2_000_000 + u64::from(tid), "deep");
        event.tid = tid;
        events.push(event);
    }
    let bytes = recorded(&Session::default(), &events, 100_000);
    let (read, cut) = read(&bytes).expect("readable");
    assert!(!cut);
    assert!(read == events);
}

#[test]
fn a_block_that_claims_to_be_larger_than_any_is_refused_before_it_takes_memory() {
    let mut bytes = recorded(&Session::default(), &paired(10), 1);
    let claim = |bytes: &mut Vec<u8>, at: usize, size: u32| {
        bytes[at..at + 4].copy_from_slice(&size.to_le_bytes());
    };
    let session = 12 + 1;
    claim(&mut bytes, session, MAX_JSON as u32 + 1);
    assert!(matches!(
        Reader::new(bytes.as_slice()),
        Err(RecordingError::Damaged { .. })
    ));
    claim(&mut bytes, session, u32::MAX);
    claim(&mut bytes, session + 4, u32::MAX);
    assert!(matches!(
        Reader::new(bytes.as_slice()),
        Err(RecordingError::Damaged { .. })
    ));
}

#[test]
fn rules_of_a_process_hold_from_where_they_stand_and_an_earlier_reader_passes_them_over() {
    let events = paired(4);
    let rules = PairingRules {
        call_on_creation: true,
        greenlets: true,
    };
    let mut bytes = Vec::new();
    let mut writer = Box::new(Writer::new(&mut bytes, PairingRules::default()));
    writer.session(&Session::default()).expect("memory");
    for (at, event) in events.iter().enumerate() {
        if at == 7 {
            writer.rules(42, rules).expect("memory");
        }
        writer.step(&Step::new(event)).expect("memory");
    }
    writer
        .finish(&End::new(&Summary::default(), &Pairing::new()))
        .expect("memory");
    let mut reader = Reader::new(&bytes[..]).expect("our own");
    let mut found = Vec::new();
    for at in 0..events.len() {
        assert_eq!(reader.event().expect("our own").as_ref(), events.get(at));
        found.extend(reader.process_rules().into_iter().map(|it| (at, it)));
    }
    assert_eq!(found, [(7, (42, rules))]);
    assert!(reader.event().expect("the end").is_none() && !reader.was_cut());
    drop(reader);
    // Earlier versions do not know the kind of the block, as this one does not know that of a later version.
    let (mut at, mut changed) = (12, 0);
    while at < bytes.len() {
        let packed = u32::from_le_bytes(bytes[at + 5..at + 9].try_into().expect("four"));
        if bytes[at] == RecordKind::Rules as u8 {
            bytes[at] = 99;
            changed += 1;
        }
        at += BLOCK_HEAD + packed as usize;
    }
    assert_eq!(changed, 1);
    assert_eq!(read(&bytes).expect("our own"), (events, false));
}

/// As formats 1 to 3 have it: what is written today must not shift what was written then.
#[test]
fn imports_and_audit_events_have_the_bytes_that_they_always_had() {
    let module = Arc::new(Text {
        text: "json".to_owned(),
        ..Text::default()
    });
    let at = |ts, what| Event {
        ts,
        pid: 1,
        tid: 2,
        interpreter: None,
        what,
    };
    let events = [
        at(
            5,
            What::Plain(Plain::new(Probe::ImportStart, Arc::clone(&module))),
        ),
        at(
            7,
            What::Plain(Plain {
                number: 1,
                duration_ns: Some(2),
                ..Plain::new(Probe::ImportDone, Arc::clone(&module))
            }),
        ),
        at(8, What::Plain(Plain::new(Probe::Audit, module))),
    ];
    let mut encoder = super::code::Encoder::default();
    let mut bytes = Vec::new();
    for event in &events {
        encoder.event(event, &mut bytes);
    }
    let thread = [0x0f, 0, 1, 2];
    let started = [0x05, 5, 0, 0, 4, b'j', b's', b'o', b'n'];
    let found = [0x16, 2, 1, 1, 2];
    let audited = [0x07, 1, 1];
    let expected = [&thread[..], &started, &found, &audited].concat();
    assert_eq!(bytes, expected);
    let mut decoder = super::code::Decoder::of(3);
    let mut rest = bytes.as_slice();
    for event in &events {
        let read = decoder.event(&mut rest).expect("readable");
        assert_eq!(read.as_ref(), Some(event));
    }
    assert!(rest.is_empty());
}

#[test]
fn fields_are_kept_with_the_reasons_of_those_that_are_missing() {
    use crate::event::{Field, FieldValue, Fields, Float, Text};
    let text = Text {
        text: "SELECT 1".to_owned(),
        cut: true,
        ..Text::default()
    };
    let values = [
        FieldValue::None,
        FieldValue::Bool(true),
        FieldValue::Integer(i64::MIN),
        FieldValue::Float(Float(-0.0)),
        FieldValue::Text(text.clone()),
        FieldValue::Bytes(text),
        FieldValue::Other("Thing".to_owned()),
        FieldValue::Absent("a has no key \"b\"".into()),
    ];
    let fields = values.into_iter().zip('a'..).map(|(value, name)| Field {
        name: name.to_string().into(),
        value,
    });
    let fields = Arc::new(Fields(fields.collect()));
    let mut events = paired(3);
    for event in &mut events {
        if let What::Call { frame, .. } | What::Return { frame, .. } = &mut event.what {
            frame.fields = Some(Arc::clone(&fields));
        }
    }
    let bytes = recorded(&Session::default(), &events, 1);
    assert_eq!(read(&bytes).expect("a recording").0, events);
}
