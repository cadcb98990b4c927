use proptest::prelude::*;

use super::*;
use crate::event::Manner;

const EVENT: u16 = 2326;

/// The fields as Linux 6.18 lays them out.
fn decoder() -> Decoder {
    decoder_with(&[])
}

/// The same with further ones.
fn decoder_with(further: &[(&str, usize)]) -> Decoder {
    let fields = [
        ("common_type", 0),
        ("__probe_ip", 8),
        ("mark", 16),
        ("width", 17),
        ("file", 20),
        ("function", 24),
        ("number", 28),
    ];
    let fields = fields.iter().chain(further);
    Decoder::new(&Tracepoint {
        id: u64::from(EVENT),
        fields: fields
            .map(|(name, offset)| ((*name).to_owned(), *offset))
            .collect(),
    })
    .expect("every field is there")
}

fn record(kind: u32, misc: u16, body: &[u8]) -> Vec<u8> {
    let size = u16::try_from(HEADER + body.len()).expect("small");
    let mut bytes = kind.to_ne_bytes().to_vec();
    bytes.extend(misc.to_ne_bytes());
    bytes.extend(size.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// One hit of a mark; strings as the kernel stores them, ends included.
struct Hit<'a> {
    mark: u8,
    width: i8,
    file: &'a [u8],
    function: &'a [u8],
    number: i64,
    tid: u32,
    ts: u64,
    counter: u64,
}

const HIT: Hit<'_> = Hit {
    mark: 0,
    width: -4,
    file: b"/app.py\0",
    function: b"work\0",
    number: 7,
    tid: 12,
    ts: 100,
    counter: 1,
};

fn sample(hit: &Hit<'_>) -> Vec<u8> {
    let mut raw = vec![0; 36];
    raw[..2].copy_from_slice(&EVENT.to_ne_bytes());
    raw[16] = hit.mark;
    raw[17] = hit.width as u8;
    for (field, text) in [(20, hit.file), (24, hit.function)] {
        let place = (raw.len() | text.len() << 16) as u32;
        raw[field..field + 4].copy_from_slice(&place.to_ne_bytes());
        raw.extend(text);
    }
    raw[28..36].copy_from_slice(&hit.number.to_ne_bytes());
    // The kernel pads the data so that the record ends at eight bytes.
    while !(raw.len() + 4).is_multiple_of(8) {
        raw.push(0);
    }
    let mut body = Vec::new();
    for word in [10_u64 | u64::from(hit.tid) << 32, hit.ts, hit.counter] {
        body.extend(word.to_ne_bytes());
    }
    body.extend((raw.len() as u32).to_ne_bytes());
    body.extend(raw);
    record(bindings::PERF_RECORD_SAMPLE, 0, &body)
}

/// A record about a task, with the ids that end it.
fn about_a_task(kind: u32, misc: u16, numbers: &[u32], rest: &[u8], ts: u64) -> Vec<u8> {
    let mut body: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_ne_bytes())
        .collect();
    body.extend(rest);
    for word in [0_u64, ts, 1] {
        body.extend(word.to_ne_bytes());
    }
    record(kind, misc, &body)
}

fn decoded(bytes: &[u8]) -> (Vec<Event>, Decoder) {
    let mut decoder = decoder();
    let mut events = Vec::new();
    decoder.decode(bytes, 1000, &mut events);
    (events, decoder)
}

#[test]
fn losses_beyond_all_numbers_are_told_as_the_largest() {
    let mut decoder = decoder();
    for _ in 0..2 {
        let body = [u64::MAX.to_ne_bytes(), u64::MAX.to_ne_bytes()].concat();
        decoder.decode(
            &record(bindings::PERF_RECORD_LOST, 0, &body),
            0,
            &mut Vec::new(),
        );
    }
    assert_eq!(decoder.account().lost, u64::MAX);
}

#[test]
fn a_hit_of_each_mark_becomes_its_event() {
    // What only the agent has is fetched only where it is probed.
    for mark in Probe::ALL
        .into_iter()
        .filter(|it| *it != Probe::ContextName)
    {
        let (events, mut decoder) = decoded(&sample(&Hit {
            mark: mark.number(),
            ..HIT
        }));
        let [
            Event {
                ts: 1100,
                pid: 10,
                tid: 12,
                interpreter: None,
                what,
            },
        ] = events.as_slice()
        else {
            panic!("{mark:?}: {events:?}");
        };
        let right = match (mark, what) {
            (Probe::FunctionEntry, What::Call { place, line, .. })
            | (
                Probe::FunctionReturn,
                What::Return {
                    place,
                    line,
                    duration_ns: None,
                    ..
                },
            )
            | (Probe::Line, What::Line { place, line }) => {
                (
                    place.file.text.as_str(),
                    place.function.text.as_str(),
                    *line,
                ) == ("/app.py", "work", 7)
            }
            (Probe::GcStart, What::GcStart { generation }) => *generation == 7,
            (Probe::GcDone, What::GcDone { collected, .. }) => *collected == 7,
            (mark, What::Plain(plain)) => {
                let texts = plain.fields().map(|(_, text)| text.text.as_str());
                let expected = ["work", "/app.py"].into_iter().take(mark.texts().count());
                let number = plain
                    .number()
                    .map(|(argument, number)| match argument.kind {
                        ArgumentKind::Flag { .. } => number == 1,
                        _ => number == 7,
                    });
                plain.probe == mark && texts.eq(expected) && number != Some(false)
            }
            _ => false,
        };
        assert!(right, "{mark:?}: {what:?}");
        assert_eq!(decoder.account(), DecodeAccount::default());
    }
}

/// A decoder for the agent's fields, and a hit of one of its marks.
fn from_the_agent(mark: Probe, context: u64, flags: u64, text: &[u8]) -> Vec<Event> {
    let fields = [
        ("mark", 16),
        ("width", 17),
        ("file", 20),
        ("function", 24),
        ("number", 28),
        ("qualname", 36),
        ("context", 40),
        ("flags", 48),
        ("text", 56),
    ];
    let mut decoder = Decoder::new(&Tracepoint {
        id: u64::from(EVENT),
        fields: fields.map(|(name, at)| (name.to_owned(), at)).to_vec(),
    })
    .expect("every field is there");
    let mut raw = vec![0; 64];
    raw[..2].copy_from_slice(&EVENT.to_ne_bytes());
    raw[16] = mark.number();
    raw[17] = -4_i8 as u8;
    let strings: [(usize, &[u8]); 4] = [
        (20, b"/app.py\0"),
        (24, b"work\0"),
        (36, b"Boss.work\0"),
        (56, text),
    ];
    for (field, text) in strings {
        let place = (raw.len() | text.len() << 16) as u32;
        raw[field..field + 4].copy_from_slice(&place.to_ne_bytes());
        raw.extend(text);
    }
    raw[28..36].copy_from_slice(&7_i64.to_ne_bytes());
    raw[40..48].copy_from_slice(&context.to_ne_bytes());
    raw[48..56].copy_from_slice(&flags.to_ne_bytes());
    let mut body = Vec::new();
    for word in [10_u64 | 12 << 32, 100, 1] {
        body.extend(word.to_ne_bytes());
    }
    body.extend((raw.len() as u32).to_ne_bytes());
    body.extend(raw);
    let mut events = Vec::new();
    decoder.decode(
        &record(bindings::PERF_RECORD_SAMPLE, 0, &body),
        0,
        &mut events,
    );
    events
}

#[test]
fn what_the_agent_tells_stands_beside_what_every_mark_tells() {
    let told = |mark, context, flags, text: &[u8]| match from_the_agent(mark, context, flags, text)
        .as_slice()
    {
        [
            Event {
                what:
                    What::Call {
                        place,
                        line: 7,
                        frame,
                    }
                    | What::Return {
                        place,
                        line: 7,
                        frame,
                        ..
                    },
                ..
            },
        ] => {
            let qualname = place.qualname.as_ref().map(|name| name.text.clone());
            assert_eq!(qualname.as_deref(), Some("Boss.work"));
            assert_eq!(place.function.text, "work");
            let text = frame
                .text
                .as_ref()
                .map(|text| (text.text.clone(), text.cut));
            (frame.context.map_or(0, NonZeroU64::get), frame.manner, text)
        }
        other => panic!("{other:?}"),
    };
    use Probe::{FunctionEntry, FunctionReturn};
    let plain = (0, Manner::Plain, None);
    assert_eq!(told(FunctionEntry, 0, 0, b"(fault)\0"), plain);
    assert_eq!(
        told(FunctionEntry, 9, 1, b"(fault)\0"),
        (9, Manner::Suspension, None)
    );
    assert_eq!(told(FunctionEntry, 9, 2, b"(fault)\0").1, Manner::Running);
    assert_eq!(
        told(FunctionReturn, 0, 4, b"(fault)\0").1,
        Manner::Exception
    );
    let values = told(FunctionEntry, 0, 0, b"[1, \"x\"]\0").2;
    assert_eq!(values, Some(("[1, \"x\"]".to_owned(), false)));
    let cut = told(FunctionReturn, 0, 0, b"[1, 2").2;
    assert_eq!(cut, Some(("[1, 2".to_owned(), true)));
    // Names that the agent has cut.
    for (flags, names) in [
        (0, [false; 3]),
        (8 | 32, [true, false, true]),
        (16, [false, true, false]),
    ] {
        let events = from_the_agent(FunctionEntry, 0, flags, b"(fault)\0");
        let [
            Event {
                what: What::Call { place, frame, .. },
                ..
            },
        ] = events.as_slice()
        else {
            panic!("{events:?}");
        };
        let qualname = place.qualname.as_ref().expect("there is one");
        assert_eq!([place.file.cut, place.function.cut, qualname.cut], names);
        assert_eq!(frame.manner, Manner::Plain);
    }
    match from_the_agent(Probe::ContextName, 9, 0, b"\0").as_slice() {
        [
            Event {
                what: What::Context { context: 9, name },
                ..
            },
        ] => assert_eq!(name.text, "work"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_number_is_as_wide_as_its_note_says_whatever_lies_beside_it() {
    let line = |width, number: u64| {
        let (events, _) = decoded(&sample(&Hit {
            width,
            number: number as i64,
            ..HIT
        }));
        match events.as_slice() {
            [
                Event {
                    what: What::Call { line, .. },
                    ..
                },
            ] => Some(*line),
            _ => None,
        }
    };
    assert_eq!(line(-4, 0xdead_beef_0000_0007), Some(7));
    assert_eq!(line(-4, 0x0000_0000_ffff_ffff), Some(-1));
    assert_eq!(line(2, 0xffff_ffff_ffff_ffff), Some(65535));
    assert_eq!(line(-1, 0x80), Some(-128));
    assert_eq!(line(-8, 5), Some(5));
    // No line has such a number, and no argument such a width.
    assert_eq!(line(-8, 1 << 40), None);
    assert_eq!(line(3, 5), None);
}

#[test]
fn names_that_are_cut_unreadable_or_not_utf_8_are_marked() {
    let function = |text: &[u8]| {
        let (events, _) = decoded(&sample(&Hit {
            function: text,
            ..HIT
        }));
        match events.as_slice() {
            [
                Event {
                    what: What::Call { place, .. },
                    ..
                },
            ] => place.function.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        function(b"cut"),
        Text {
            text: "cut".into(),
            cut: true,
            ..Text::default()
        }
    );
    assert_eq!(
        function(b"(fault)\0"),
        Text {
            unreadable: true,
            ..Text::default()
        }
    );
    assert_eq!(
        function(b""),
        Text {
            unreadable: true,
            ..Text::default()
        }
    );
    assert_eq!(
        function(b"a\xff\0"),
        Text {
            text: "a\u{fffd}".into(),
            replaced: true,
            ..Text::default()
        }
    );
    assert_eq!(function(b"\0"), Text::default());
}

#[test]
fn a_name_is_made_once_and_similar_ones_are_kept_apart() {
    let names: [(&[u8], &[u8]); 4] = [
        (b"a\0", b"bc\0"),
        (b"ab\0", b"c\0"),
        (b"a\0", b"bc"),
        (b"a\0", b"bc\0"),
    ];
    let bytes: Vec<u8> = names
        .iter()
        .flat_map(|(file, function)| {
            sample(&Hit {
                file,
                function,
                ..HIT
            })
        })
        .collect();
    let places: Vec<Arc<Place>> = decoded(&bytes)
        .0
        .into_iter()
        .map(|event| match event.what {
            What::Call { place, .. } => place,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(Arc::ptr_eq(&places[0], &places[3]));
    assert_ne!(places[0], places[1]);
    assert_ne!(places[0], places[2]);
}

#[test]
fn what_was_lost_or_throttled_is_accounted_for() {
    let mut bytes = record(
        bindings::PERF_RECORD_LOST,
        0,
        &[1_u64, 5, 0, 0, 0].map(u64::to_ne_bytes).concat(),
    );
    bytes.extend(record(
        bindings::PERF_RECORD_LOST_SAMPLES,
        0,
        &[3_u64, 0, 0, 0].map(u64::to_ne_bytes).concat(),
    ));
    bytes.extend(record(bindings::PERF_RECORD_THROTTLE, 0, &[0; 48]));
    // Another tracepoint's record, and one that ends too early.
    let mut foreign = sample(&HIT);
    foreign[HEADER + 28] ^= 1;
    bytes.extend(foreign);
    bytes.extend(record(bindings::PERF_RECORD_SAMPLE, 0, &[0; 16]));
    bytes.extend(sample(&HIT));
    bytes.extend([1, 2, 3]);
    let (events, mut decoder) = decoded(&bytes);
    let lost = events.iter().filter_map(|event| match event.what {
        What::Lost { count, .. } => Some((event.ts, count)),
        _ => None,
    });
    // When a record of a loss was written is the second number from its end.
    assert_eq!(lost.collect::<Vec<_>>(), [(1000, 5), (1000, 3)]);
    assert_eq!(events.len(), 3);
    let expected = DecodeAccount {
        lost: 8,
        unreadable: 3,
        throttled: 1,
    };
    assert_eq!(decoder.account(), expected);
    assert_eq!(decoder.account(), DecodeAccount::default());
}

#[test]
fn a_place_that_only_holds_a_semaphore_is_no_event() {
    let (events, mut decoder) = decoded(&sample(&Hit { mark: HOLDS, ..HIT }));
    assert_eq!(
        (events, decoder.account()),
        (vec![], DecodeAccount::default())
    );
}

#[test]
fn the_life_of_processes_is_told_and_that_of_threads_is_not() {
    let exec = u16::try_from(bindings::PERF_RECORD_MISC_COMM_EXEC).expect("a flag");
    let mapped = |path: &[u8]| {
        let mut mapped = vec![0; 8 * 3 + 8];
        mapped.extend(77_u64.to_ne_bytes());
        mapped.extend([0; 16]);
        mapped.extend(path);
        mapped
    };
    let bytes = [
        about_a_task(bindings::PERF_RECORD_FORK, 0, &[20, 10, 20, 10], &[0; 8], 1),
        about_a_task(bindings::PERF_RECORD_FORK, 0, &[10, 10, 21, 10], &[0; 8], 2),
        about_a_task(
            bindings::PERF_RECORD_COMM,
            exec,
            &[20, 20],
            b"python\0\0",
            3,
        ),
        about_a_task(bindings::PERF_RECORD_COMM, 0, &[20, 20], b"worker\0\0", 4),
        about_a_task(bindings::PERF_RECORD_COMM, 0, &[20, 22], b"thread\0\0", 5),
        about_a_task(
            bindings::PERF_RECORD_MMAP2,
            0,
            &[20, 20],
            &mapped(b"/usr/bin/python3.13\0\0\0\0\0"),
            6,
        ),
        about_a_task(
            bindings::PERF_RECORD_MMAP2,
            0,
            &[20, 20],
            &mapped(b"/usr/lib/python3.13/_x.so\0\0\0\0\0\0\0"),
            6,
        ),
        about_a_task(
            bindings::PERF_RECORD_MMAP2,
            0,
            &[20, 20],
            &mapped(b"/opt/libpython3.12.so.1.0\0\0\0\0\0\0\0"),
            6,
        ),
        about_a_task(
            bindings::PERF_RECORD_MMAP2,
            0,
            &[20, 20],
            &mapped(b"/srv/venv/greenlet/_greenlet.abi3.so\0\0\0\0"),
            6,
        ),
        about_a_task(bindings::PERF_RECORD_EXIT, 0, &[20, 10, 22, 10], &[0; 8], 7),
        about_a_task(bindings::PERF_RECORD_EXIT, 0, &[20, 10, 20, 10], &[0; 8], 8),
    ]
    .concat();
    let (events, mut decoder) = decoded(&bytes);
    assert_eq!(events, []);
    let told: Vec<(u64, Change)> = decoder
        .lives()
        .into_iter()
        .map(|life| (life.ts - 1000, life.change))
        .collect();
    let name = |name: &str| name.to_owned();
    let mapped_as = |python, greenlets| Change::Mapped {
        inode: 77,
        python,
        greenlets,
    };
    assert_eq!(
        told,
        [
            (1, Change::Forked { parent: 10 }),
            (
                3,
                Change::Execed {
                    name: name("python")
                }
            ),
            (
                4,
                Change::Named {
                    name: name("worker")
                }
            ),
            (6, mapped_as(true, false)),
            (6, mapped_as(false, false)),
            (6, mapped_as(true, false)),
            (6, mapped_as(false, true)),
            (8, Change::Exited { parent: 10 }),
        ]
    );
    let births: Vec<(u32, Change)> = changes(&bytes).collect();
    assert_eq!(
        births,
        [
            (20, Change::Forked { parent: 10 }),
            (20, Change::Exited { parent: 10 })
        ]
    );
}

#[test]
fn a_thread_that_has_counters_twice_is_heard_once() {
    let mut decoder = decoder();
    // Thread 12 began while its process was armed: counter 1 may be its parent's, 5 is its own. 13 is a child of it.
    decoder.owners().add(12, &[5]);
    let hit = |tid, counter| {
        sample(&Hit {
            tid,
            counter,
            ..HIT
        })
    };
    let bytes = [
        hit(11, 1),
        hit(12, 1),
        hit(12, 5),
        hit(13, 5),
        hit(13, 1),
        hit(13, 5),
        hit(14, 1),
    ]
    .concat();
    let mut events = Vec::new();
    decoder.decode(&bytes, 0, &mut events);
    let threads: Vec<u32> = events.iter().map(|event| event.tid).collect();
    assert_eq!(threads, [11, 12, 13, 13, 14]);
    // Its id is another thread's later, which has inherited its counters.
    let ended = about_a_task(bindings::PERF_RECORD_EXIT, 0, &[10, 9, 12, 9], &[0; 8], 200);
    events.clear();
    decoder.decode(&[ended, hit(12, 1)].concat(), 0, &mut events);
    assert_eq!(events.len(), 1);
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic_or_stand_still(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        kind in 0..20_u32,
    ) {
        decoded(&bytes);
        decoded(&record(kind, 0, &bytes));
        let mut damaged = sample(&HIT);
        for (at, byte) in bytes.iter().take(20).enumerate() {
            let place = usize::from(*byte) % damaged.len();
            damaged[place] = bytes[bytes.len() - 1 - at];
        }
        // A damaged length must not be believed.
        let (events, mut decoder) = decoded(&damaged);
        prop_assert!(events.len() as u64 <= 1 + decoder.account().unreadable + decoder.account().lost);
    }
}

#[test]
fn names_remembered_never_take_more_than_their_budget_and_all_are_right() {
    let mut names = Names::new(1 << 20, Allowance::default());
    for round in 0..3 {
        for number in 0..5_000 {
            let (file, function) = (format!("/app/{number:0>4000}.py"), format!("f{number}"));
            let place = names.place(
                (file.as_bytes(), true),
                (function.as_bytes(), round != 1),
                None,
            );
            assert_eq!((&place.file.text, &place.function.text), (&file, &function));
            assert_eq!(place.function.cut, round == 1);
            let text = names.text((function.as_bytes(), true));
            assert_eq!(text.text, function);
            assert!(names.bytes <= 1 << 20, "{}", names.bytes);
            let places: usize = names.places.values().map(|it| place_bytes(it)).sum();
            let texts: usize = names.texts.values().map(|it| text_bytes(it)).sum();
            assert!(places + texts <= names.bytes);
        }
    }
    let again = names.place((b"/app.py", true), (b"work", true), None);
    assert!(Arc::ptr_eq(
        &again,
        &names.place((b"/app.py", true), (b"work", true), None)
    ));
    let method = names.place((b"/app.py", true), (b"work", true), Some((b"A.work", true)));
    assert_eq!(method.name().text, "A.work");
    assert!(!Arc::ptr_eq(&again, &method));
}

#[test]
fn forty_thousand_long_names_in_use_stay_within_the_allowance_and_none_is_wrong() {
    let mut names = Names::new(REMEMBERED, Allowance::default());
    let kept: Vec<Arc<Place>> = (0..40_000)
        .map(|number| {
            let (file, function) = (
                format!("/app/{number:0>4000}.py"),
                format!("f{number:0>4000}"),
            );
            names.place((file.as_bytes(), true), (function.as_bytes(), true), None)
        })
        .collect();
    let mut bytes = 0;
    for (number, place) in kept.iter().enumerate() {
        if !place.is_left_out() {
            assert_eq!(place.function.text, format!("f{number:0>4000}"));
            bytes += place_bytes(place);
        }
    }
    assert!(
        bytes <= crate::event::allowance::ALL_NAMES && bytes > 40 << 20,
        "{bytes}"
    );
    drop(kept);
    // Some are looked at before it is noticed that there is room again.
    let later = (0..20_000).map(|number| names.text((format!("t{number}").as_bytes(), true)));
    assert!(later.last().is_some_and(|it| !it.is_left_out()));
}

#[test]
fn bytes_that_are_no_text_are_found_again_and_not_taken_for_others() {
    let mut names = Names::new(REMEMBERED, Allowance::default());
    let one = names.text((b"caf\xe9", true));
    assert!(Arc::ptr_eq(&one, &names.text((b"caf\xe9", true))));
    assert!(one.replaced);
    let spelt = names.text(("caf\u{fffd}".as_bytes(), true));
    assert!(!spelt.replaced && !Arc::ptr_eq(&one, &spelt));
    let unread = names.text((FAULT, true));
    assert!(unread.unreadable && Arc::ptr_eq(&unread, &names.text((FAULT, true))));
    assert!(!names.text((FAULT, false)).unreadable);
}

/// A record of a session in which a Python is probed that passes arguments itself.
#[test]
fn arguments_come_as_one_text_and_only_where_they_could_be_read() {
    let mut decoder = decoder_with(&[("text", 36), ("keywords", 40)]);
    let mut told = |positional: &[u8], named: &[u8]| {
        let mut raw = vec![0; 44];
        raw[..2].copy_from_slice(&EVENT.to_ne_bytes());
        raw[16] = Probe::FunctionEntry.number();
        raw[17] = -4_i8 as u8;
        let texts = [
            (20, HIT.file),
            (24, HIT.function),
            (36, positional),
            (40, named),
        ];
        for (field, text) in texts {
            let place = (raw.len() | text.len() << 16) as u32;
            raw[field..field + 4].copy_from_slice(&place.to_ne_bytes());
            raw.extend(text);
        }
        while !(raw.len() + 4).is_multiple_of(8) {
            raw.push(0);
        }
        let mut body = Vec::new();
        for word in [10_u64 | 12 << 32, 100, 1] {
            body.extend(word.to_ne_bytes());
        }
        body.extend((raw.len() as u32).to_ne_bytes());
        body.extend(raw);
        let mut events = Vec::new();
        let bytes = record(bindings::PERF_RECORD_SAMPLE, 0, &body);
        decoder.decode(&bytes, 0, &mut events);
        match &events[..] {
            [
                Event {
                    what: What::Call { frame, .. },
                    ..
                },
            ] => {
                let text = frame.text.as_ref();
                text.map(|text| (text.text.clone(), text.cut))
            }
            other => panic!("{other:?}"),
        }
    };
    let whole = Some(("(7,) {'a': 1}".to_owned(), false));
    assert_eq!(told(b"(7,)\0", b"{'a': 1}\0"), whole);
    let cut = Some(("(7,) {'a".to_owned(), true));
    assert_eq!(told(b"(7,)\0", b"{'a"), cut, "its end is not there");
    let one = Some(("(7,)".to_owned(), false));
    assert_eq!(told(b"(7,)\0", b"(fault)\0"), one);
    assert_eq!(told(b"(fault)\0", b"(fault)\0"), None);
}
