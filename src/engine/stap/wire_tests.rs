//! Round trips through the wire, and everything that can go wrong on it.

use proptest::prelude::*;

use super::*;
use crate::event::{Manner, arbitrary};

fn named(function: &str) -> Arc<Place> {
    let text = |text: &str| Text {
        text: text.to_owned(),
        ..Text::default()
    };
    Arc::new(Place {
        file: text("app.py"),
        function: text(function),
        qualname: None,
        group: None,
    })
}

fn call(ts: u64, place: &Arc<Place>) -> Event {
    let place = Arc::clone(place);
    let what = What::Call {
        place,
        line: 7,
        frame: Frame::default(),
    };
    Event {
        ts,
        pid: 10,
        tid: 11,
        interpreter: None,
        what,
    }
}

fn decode(bytes: &[u8]) -> Vec<Decoded> {
    let mut out = Vec::new();
    let mut decoder = Decoder::new();
    decoder.push(bytes, &mut out);
    decoder.finish(&mut out);
    out
}

fn events(decoded: &[Decoded]) -> Vec<Event> {
    let event = |it: &Decoded| match it {
        Decoded::Event(event) => Some(event.clone()),
        _ => None,
    };
    decoded.iter().filter_map(event).collect()
}

fn troubles(decoded: &[Decoded]) -> Vec<Trouble> {
    let trouble = |it: &Decoded| match it {
        Decoded::Trouble(trouble) => Some(trouble.clone()),
        _ => None,
    };
    decoded.iter().filter_map(trouble).collect()
}

fn row(name: &str, calls: u64) -> Row {
    Row {
        pid: 10,
        key: 0,
        about: About::Function(named(name)),
        line: 7,
        several_lines: false,
        calls,
        unmatched: 1,
        self_ns: 2,
        cumulative_ns: 3,
        timed: calls,
        timed_ns: 5,
        durations: Histogram::of_buckets([(4, calls), (64, 1)], 900, 8, u64::MAX),
    }
}

fn rows(decoded: &[Decoded]) -> Vec<Row> {
    let row = |it: &Decoded| match it {
        Decoded::Row(row) => Some(Row {
            key: 0,
            ..*row.clone()
        }),
        _ => None,
    };
    decoded.iter().filter_map(row).collect()
}

#[test]
fn rows_of_sums_come_as_they_were_sent() {
    let mut encoder = Encoder::new();
    let mut sent = vec![row("f", 1), row("g", u64::MAX >> 8)];
    sent.push(Row {
        several_lines: true,
        ..row("wrapper", 2)
    });
    sent.push(Row {
        about: About::Collections,
        durations: Histogram::new(),
        ..row("", 3)
    });
    sent.push(Row {
        pid: 0,
        about: About::NoRoom,
        ..row("", 3)
    });
    let end = RowsEnd {
        count: 4,
        more: true,
        anew: false,
        all: true,
        age_ns: 12,
        unpaired: 34,
    };
    for row in &sent {
        encoder.row(row);
    }
    encoder.rows_end(&end);
    let bytes = encoder.take();
    let decoded = decode(&bytes);
    assert_eq!(rows(&decoded), sent);
    assert_eq!(decoded.last(), Some(&Decoded::RowsEnd(end)));
    // In pieces of any size they are the same.
    let (mut decoder, mut out) = (Decoder::new(), Vec::new());
    for piece in bytes.chunks(7) {
        decoder.push(piece, &mut out);
    }
    assert_eq!(out, decoded);
}

#[test]
fn a_row_that_lost_its_end_is_no_row_and_the_next_one_is_read() {
    let mut encoder = Encoder::new();
    encoder.row(&row("f", 1));
    let mut bytes = encoder.take();
    bytes.truncate(bytes.len() - 24);
    encoder.row(&row("f", 2));
    encoder.row(&row("f", 3));
    bytes.extend(encoder.take());
    let decoded = decode(&bytes);
    let calls: Vec<u64> = rows(&decoded).iter().map(|row| row.calls).collect();
    assert_eq!(calls, [2, 3]);
    assert!(matches!(troubles(&decoded)[..], [Trouble::Damaged { .. }]));
}

#[test]
fn a_row_whose_name_did_not_come_is_shown_without_it_at_once() {
    let mut encoder = Encoder::new();
    encoder.row(&row("f", 1));
    encoder.clear();
    encoder.row(&row("f", 2));
    let decoded = decode(encoder.bytes());
    assert!(matches!(
        troubles(&decoded)[..],
        [Trouble::UnknownName { .. }]
    ));
    let About::Function(place) = &rows(&decoded)[0].about else {
        panic!("{decoded:?}");
    };
    assert!(place.function.unreadable);
}

fn waits(tid: u32, call: Option<u32>) -> SummedWaits {
    SummedWaits {
        kind: SummedKind {
            pid: 10,
            tid,
            stack: 7,
            call,
            of_gil: call.is_some(),
            zero: [false, true],
            from_before: call.is_none(),
        },
        waits: 3,
        blocked_ns: 900,
        runqueue_ns: 30,
        max_ns: 500,
        lasts_ns: 4,
    }
}

fn wait_stack(number: u32, python: SummedPython) -> SummedStack {
    SummedStack {
        number,
        pid: 10,
        python,
        functions: vec![0xffff_ffff_8100_0001, 0xffff_ffff_8200_0002],
    }
}

#[test]
fn waits_their_stacks_and_what_ends_them_come_as_they_were_sent() {
    let mut encoder = Encoder::new();
    let sums = [waits(11, Some(202)), waits(12, None)];
    // An instruction may be any number of 56 bits: before 3.11 it is one of 32 that has a sign.
    let frames = vec![(0x7f00_0000_1000, 0xffff_ffff, 0), (1, u64::MAX >> 8, 2)];
    let stacks = [
        wait_stack(1, SummedPython::Frames(frames)),
        wait_stack(2, SummedPython::None),
        wait_stack(3, SummedPython::Unreadable),
    ];
    let end = SummedEnd {
        anew: true,
        preempted: 5,
        preempted_ns: 600,
        waits_lost: 7,
    };
    sums.iter().for_each(|sum| encoder.waits(sum));
    stacks.iter().for_each(|stack| encoder.wait_stack(stack));
    encoder.waits_end(5, 0b110, &end);
    let bytes = encoder.take();
    let decoded = decode(&bytes);
    let mut expected: Vec<Decoded> = sums.map(|it| Decoded::Waits(Box::new(it))).into();
    expected.extend(stacks.map(|it| Decoded::WaitStack(Box::new(it))));
    expected.push(Decoded::WaitsEnd {
        count: 5,
        more: false,
        all: true,
        end,
    });
    assert_eq!(decoded, expected);
    let (mut decoder, mut out) = (Decoder::new(), Vec::new());
    for piece in bytes.chunks(7) {
        decoder.push(piece, &mut out);
    }
    assert_eq!(out, expected, "in pieces of any size they are the same");
}

#[test]
fn waits_that_lost_a_part_are_none_and_what_follows_is_read() {
    let mut encoder = Encoder::new();
    encoder.waits(&waits(11, None));
    let mut bytes = encoder.take();
    bytes.truncate(bytes.len() - 16);
    encoder.wait_stack(&wait_stack(1, SummedPython::None));
    let mut flipped = encoder.take();
    flipped[40] ^= 1;
    bytes.extend(flipped);
    encoder.waits(&waits(12, None));
    bytes.extend(encoder.take());
    let decoded = decode(&bytes);
    let read = decoded
        .iter()
        .filter(|it| !matches!(it, Decoded::Trouble(_)));
    let expected = Decoded::Waits(Box::new(waits(12, None)));
    assert_eq!(read.collect::<Vec<_>>(), [&expected]);
    assert!(matches!(troubles(&decoded)[..], [Trouble::Damaged { .. }]));
}

/// What a module really sent: fib.py of the examples under Python 3.15, compiled by stap 5.6.
#[test]
fn rows_that_a_real_module_sent_are_what_the_program_did() {
    let bytes = include_bytes!("../../../tests/data/wire/top-fib.stap-5.6.bin");
    let decoded = decode(bytes);
    assert_eq!(troubles(&decoded), []);
    let ends: Vec<RowsEnd> = decoded
        .iter()
        .filter_map(|it| match it {
            Decoded::RowsEnd(end) => Some(*end),
            _ => None,
        })
        .collect();
    let rows = rows(&decoded);
    let sent: u32 = ends.iter().map(|end| end.count).sum();
    assert_eq!(rows.len(), sent as usize);
    assert!(
        ends.last().is_some_and(|end| end.all && !end.more),
        "{ends:?}"
    );
    let of = |name: &str| {
        let is = |row: &&Row| {
            matches!(&row.about, About::Function(place)
            if place.function.text == name && place.file.text.ends_with("/fib.py"))
        };
        rows.iter().rfind(is).expect("it is there")
    };
    let (fib, main) = (of("fib"), of("main"));
    assert_eq!((fib.calls, main.calls), (177, 1));
    assert_eq!(
        (fib.line, fib.unmatched, fib.durations.count()),
        (11, 0, 177)
    );
    assert_eq!(fib.durations.max(), Some(fib.cumulative_ns));
    assert!(fib.cumulative_ns <= main.cumulative_ns);
    assert!(rows.iter().any(|row| row.about == About::Collections));
}

/// What of an event the wire carries.
fn on_the_wire(mut event: Event) -> Option<Event> {
    // No probe tells it.
    event.interpreter = None;
    match &mut event.what {
        What::Wait(_) | What::Lost { .. } => return None,
        // Whichever thread tells it.
        What::Process {
            change: ProcessChange::Exit,
            ..
        } => event.tid = event.pid,
        What::GcDone {
            generation,
            pause_ns,
            ..
        } => {
            *generation = None;
            *pause_ns = None;
        }
        What::Plain(plain) => plain.duration_ns = None,
        // Nor these.
        What::Call { frame, .. } | What::Return { frame, .. } => {
            frame.fields = None;
            frame.idle_ns = 0;
        }
        _ => {}
    }
    Some(event)
}

fn encoded(events: &[Event]) -> (Vec<u8>, Vec<Event>) {
    let mut encoder = Encoder::new();
    encoder.version(WIRE_VERSION);
    for event in events {
        encoder.event(event);
    }
    encoder.totals(true);
    let expected = events.iter().cloned().filter_map(on_the_wire).collect();
    (encoder.take(), expected)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_was_encoded_is_decoded_in_chunks_of_any_size(
        sent in proptest::collection::vec(arbitrary::event(), 0..20),
        sizes in proptest::collection::vec(1..90usize, 1..20),
    ) {
        let (bytes, expected) = encoded(&sent);
        let mut decoder = Decoder::new();
        let mut out = Vec::new();
        let (mut rest, mut sizes) = (&bytes[..], sizes.iter().cycle());
        while !rest.is_empty() {
            let size = (*sizes.next().expect("a cycle")).min(rest.len());
            let (chunk, later) = rest.split_at(size);
            decoder.push(chunk, &mut out);
            rest = later;
        }
        let received = decoder.received();
        prop_assert_eq!(decoder.waiting(), 0);
        decoder.finish(&mut out);
        prop_assert_eq!(out.pop(), Some(Decoded::Totals { sent: received, unmeasured: 0, last: true }));
        prop_assert_eq!(received, expected.len() as u64);
        prop_assert_eq!(troubles(&out), vec![]);
        prop_assert_eq!(events(&out), expected);
    }

    #[test]
    fn no_bytes_at_all_make_the_decoder_panic_or_hoard(
        noise in proptest::collection::vec(any::<u8>(), 0..2000),
        sent in proptest::collection::vec(arbitrary::event(), 0..5),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let (mut bytes, _) = encoded(&sent);
        for (index, byte) in &flips {
            let at = index.index(bytes.len());
            bytes[at] = *byte;
        }
        bytes.extend_from_slice(&noise);
        let mut decoder = Decoder::new();
        let mut out = Vec::new();
        for chunk in bytes.chunks(37) {
            decoder.push(chunk, &mut out);
            prop_assert!(decoder.partial.len() <= HEADER + 8 + 3 * MAX_TEXT + 1);
        }
        decoder.finish(&mut out);
        prop_assert_eq!(decoder.waiting(), 0);
    }

    #[test]
    fn a_hole_costs_only_the_records_it_touches(
        start in 1..2000usize, length in 1..200usize,
    ) {
        let place = named("f");
        let mut encoder = Encoder::new();
        encoder.event(&call(0, &place));
        let safe = encoder.bytes().len();
        for ts in 1..=100 {
            encoder.event(&call(ts, &place));
        }
        let mut bytes = encoder.take();
        let from = safe + start;
        let to = (from + length).min(bytes.len() - HEADER);
        bytes.drain(from..to);
        let out = decode(&bytes);
        let (events, touched) = (events(&out), (to - from) / HEADER + 2);
        prop_assert!(events.len() + touched >= 101, "{}", events.len());
        let is_damage = |it: &&Trouble| matches!(it, Trouble::Damaged { .. });
        let gaps = troubles(&out).iter().filter(is_damage).count();
        prop_assert!(gaps <= 1, "{:?}", troubles(&out));
        // Two halves of records can make one that looks sound: nothing on the wire could tell.
        let spliced = events.iter().filter(|it| **it != call(it.ts, &place)).count();
        prop_assert!(spliced <= 1, "{}", spliced);
    }
}

#[test]
fn a_record_is_laid_out_as_the_script_writes_it() {
    let mut encoder = Encoder::new();
    let event = Event {
        ts: 5,
        pid: 10,
        tid: 11,
        interpreter: None,
        what: What::GcDone {
            generation: None,
            collected: -2,
            pause_ns: None,
        },
    };
    encoder.event(&event);
    let words = [0x7A57_6700_0000_0000, 5, 11 << 32 | 10, -2i64 as u64];
    let expected: Vec<u8> = words.iter().flat_map(|it| it.to_ne_bytes()).collect();
    assert_eq!(encoder.bytes(), expected);
}

/// A call as the agent tells it.
fn told(value: Option<&str>) -> Event {
    let mut event = call(5, &named("step"));
    if let What::Call { place, frame, .. } = &mut event.what {
        let text = |text: &str| Text {
            text: text.to_owned(),
            ..Text::default()
        };
        Arc::make_mut(place).qualname = Some(text("Worker.step"));
        *frame = Frame {
            context: NonZeroU64::new(3),
            manner: Manner::Suspension,
            text: value.map(|value| Arc::new(text(value))),
            fields: None,
            idle_ns: 0,
        };
    }
    event
}

#[test]
fn what_the_agent_tells_is_laid_out_as_the_script_writes_it() {
    let words =
        |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|it| it.to_ne_bytes()).collect() };
    let mut encoder = Encoder::new();
    let event = told(None);
    encoder.event(&event);
    let written = encoder.take();
    let key = u64::from_ne_bytes(*written[24..].first_chunk().expect("a key"));
    let names = 6 << 16 | 4;
    let mut expected = words(&[0x7A57_5100_0000_0000 | names, 0, 0, key, 11]);
    expected.extend(b"app.pystepWorker.step\n");
    expected.extend(words(&[0x7A57_6301_0000_0007, 5, 11 << 32 | 10, key, 3]));
    assert_eq!(written, expected);
    assert_eq!(events(&decode(&written)), std::slice::from_ref(&event));

    // A value is behind it, with its length.
    encoder.event(&told(Some("[1]")));
    let mut expected = words(&[0x7A57_6309_0000_0007, 5, 11 << 32 | 10, key, 3, 3]);
    expected.extend(b"[1]\n");
    assert_eq!(encoder.take(), expected);

    // The name of a context is an event of its own.
    let name = Event {
        what: What::Context {
            context: 3,
            name: Arc::new(text(b"worker-1", false, false)),
        },
        ..event
    };
    encoder.event(&name);
    let mut expected = words(&[0x7A57_4E00_0000_0008, 5, 11 << 32 | 10, 3]);
    expected.extend(b"worker-1\n");
    assert_eq!(encoder.bytes(), expected);
    assert_eq!(events(&decode(encoder.bytes())), [name]);
}

#[test]
fn values_that_were_cut_or_could_not_be_read_are_said_to_be() {
    let mut encoder = Encoder::new();
    encoder.event(&told(None));
    encoder.clear();
    encoder.event(&told(Some("[1, 2")));
    let mut cut = encoder.take();
    let flags = |record: &mut [u8], flags: u8| {
        let mut word = u64::from_ne_bytes(*record.first_chunk().expect("a word"));
        word |= u64::from(flags) << 32;
        record[..8].copy_from_slice(&word.to_ne_bytes());
    };
    flags(&mut cut, TEXT_CUT);
    encoder.event(&told(Some("")));
    let mut unreadable = encoder.take();
    flags(&mut unreadable, TEXT_UNREADABLE);
    encoder.forget_names();
    encoder.event(&told(None));
    let bytes = [encoder.take(), cut, unreadable].concat();
    let decoded = events(&decode(&bytes));
    let values: Vec<_> = decoded
        .iter()
        .map(|event| match &event.what {
            What::Call { frame, .. } => frame.text.as_ref().map(|it| (it.cut, it.unreadable)),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values, [None, Some((true, false)), Some((false, true))]);
}

#[test]
fn a_value_that_swallowed_a_record_or_is_too_long_is_damage_and_what_follows_is_found() {
    let mut encoder = Encoder::new();
    encoder.event(&told(None));
    let definition = encoder.take();
    encoder.event(&told(Some(&"x".repeat(200))));
    let whole = encoder.take();
    encoder.ready(9);
    let ready = encoder.take();
    // The middle of the value was lost, and by chance a newline stands where it has to end.
    let mut swallowed = whole[..HEADER + 16 + 5].to_vec();
    swallowed.extend_from_slice(&ready);
    swallowed.resize(whole.len() - 1, b'.');
    swallowed.push(b'\n');
    let mut long = whole[..HEADER + 8].to_vec();
    long.extend((MAX_TEXT as u64 + 1).to_ne_bytes());
    let bytes = [&definition[..], &swallowed, &long, &ready, &whole].concat();
    let out = decode(&bytes);
    assert_eq!(events(&out).len(), 2, "{out:?}");
    let found = out.iter().filter(|it| **it == Decoded::Ready { ts: 9 });
    assert_eq!(found.count(), 2, "{out:?}");
    assert_eq!(troubles(&out).len(), 2, "{out:?}");
    // Flags about a value that is not there are damage, too.
    let mut none = whole[..HEADER + 8].to_vec();
    let word = 0x7A57_6311_0000_0007_u64;
    none[..8].copy_from_slice(&word.to_ne_bytes());
    assert_eq!(events(&decode(&[&none[..], &ready].concat())), []);
}

#[test]
fn what_the_agent_tells_waits_for_its_names_with_its_value() {
    let mut encoder = Encoder::new();
    let event = told(Some("[1]"));
    encoder.event(&event);
    let bytes = encoder.take();
    let (definition, record) = bytes.split_at(HEADER + 8 + 21 + 1);
    let (mut decoder, mut out) = (Decoder::new(), Vec::new());
    decoder.push(record, &mut out);
    assert_eq!((out.len(), decoder.waiting()), (0, 1));
    decoder.push(definition, &mut out);
    assert_eq!(events(&out), [event]);
}

#[test]
fn damage_is_counted_once_for_each_gap() {
    let place = named("f");
    let mut encoder = Encoder::new();
    encoder.event(&call(1, &place));
    let first = encoder.take();
    encoder.event(&call(2, &place));
    let second = encoder.take();
    let bytes = [&first[..], b"rubbish", &second, b"more rubbish", &second].concat();
    let expected = [7, 12].map(|bytes| Trouble::Damaged { bytes });
    assert_eq!(troubles(&decode(&bytes)), expected);
    assert_eq!(events(&decode(&bytes)).len(), 3);
}

#[test]
fn a_definition_that_swallowed_a_record_is_damage_and_the_record_is_found() {
    let mut encoder = Encoder::new();
    encoder.define_place(1, &named(&"long_name_".repeat(9)));
    let definition = encoder.take();
    encoder.ready(9);
    let ready = encoder.take();
    // The middle of the name was lost, and by chance a newline stands where the definition has to end.
    let mut bytes = definition[..HEADER + 3].to_vec();
    bytes.extend_from_slice(&ready);
    bytes.resize(definition.len() - 1, b'.');
    bytes.push(b'\n');
    bytes.extend_from_slice(&ready);
    let found = Decoded::Ready { ts: 9 };
    let out = decode(&bytes);
    assert_eq!(out.iter().filter(|it| **it == found).count(), 2, "{out:?}");
    assert_eq!(troubles(&out).len(), 2, "{out:?}");
}

#[test]
fn an_incomplete_definition_at_the_end_does_not_hide_records_behind_it() {
    let mut encoder = Encoder::new();
    encoder.record(LineKind::Text, 0, 5000, 0, 0, 1);
    encoder.ready(9);
    let out = decode(encoder.bytes());
    let damaged = Decoded::Trouble(Trouble::Damaged { bytes: 32 });
    assert_eq!(out, [damaged, Decoded::Ready { ts: 9 }]);
}

#[test]
fn another_version_is_reported_once() {
    let mut encoder = Encoder::new();
    encoder.version(9);
    encoder.version(9);
    let expected = [Trouble::WrongVersion { found: 9 }];
    assert_eq!(troubles(&decode(encoder.bytes())), expected);
}

#[test]
fn events_wait_in_order_for_a_name_that_comes_late() {
    let (early, late) = (named("early"), named("late"));
    let mut encoder = Encoder::new();
    encoder.event(&call(1, &early));
    let known = encoder.take();
    encoder.event(&call(2, &late));
    let with_definition = encoder.take();
    let (definition, use_of_it) = with_definition.split_at(with_definition.len() - HEADER);
    encoder.event(&call(3, &early));
    let behind = encoder.take();

    let mut decoder = Decoder::new();
    let mut out = Vec::new();
    decoder.push(&known, &mut out);
    decoder.push(use_of_it, &mut out);
    decoder.push(&behind, &mut out);
    assert_eq!((out.len(), decoder.waiting()), (1, 2));
    decoder.push(definition, &mut out);
    assert_eq!(
        events(&out),
        [call(1, &early), call(2, &late), call(3, &early)]
    );
    assert_eq!(troubles(&out), []);
}

/// A stream whose only definition was lost: `count` calls, `step` nanoseconds apart.
fn without_definition(count: u64, step: u64) -> Vec<u8> {
    let place = named("lost");
    let mut encoder = Encoder::new();
    encoder.event(&call(0, &place));
    encoder.clear();
    for number in 0..count {
        encoder.event(&call(number * step, &place));
    }
    encoder.take()
}

#[test]
fn a_name_that_never_comes_is_waited_for_by_a_bounded_number_of_records() {
    let mut decoder = Decoder::new();
    let mut out = Vec::new();
    decoder.push(&without_definition(MAX_WAITING as u64, 1), &mut out);
    assert_eq!((out.len(), decoder.waiting()), (0, MAX_WAITING));
    decoder.push(&without_definition(1, 1), &mut out);
    assert_eq!(decoder.waiting(), 0);
    assert_eq!(events(&out).len(), MAX_WAITING + 1);
    assert_eq!(troubles(&out).len(), 1);
    let nameless = Arc::new(nameless_place());
    assert_eq!(events(&out)[0], call(0, &nameless));
}

#[test]
fn a_name_that_never_comes_is_waited_for_by_a_bounded_time() {
    let mut decoder = Decoder::new();
    let mut out = Vec::new();
    decoder.push(&without_definition(12, MAX_WAIT_NS / 10), &mut out);
    assert_eq!(events(&out).len(), 12);
    assert!(matches!(troubles(&out)[..], [Trouble::UnknownName { .. }]));
}

#[test]
fn names_given_up_on_are_shown_again_once_they_are_defined_again() {
    let place = named("f");
    let mut encoder = Encoder::new();
    encoder.event(&call(1, &place));
    encoder.clear();
    encoder.event(&call(2, &place));
    let mut decoder = Decoder::new();
    let mut out = Vec::new();
    decoder.push(&encoder.take(), &mut out);
    decoder.stop_waiting(&mut out);
    encoder.acknowledge(0, Acknowledgement::NamesForgotten);
    let acknowledged = encoder.take();
    encoder.forget_names();
    encoder.event(&call(3, &place));
    let again = encoder.take();
    let (definition, event) = again.split_at(again.len() - HEADER);
    decoder.push(&acknowledged, &mut out);
    decoder.push(event, &mut out);
    assert_eq!(
        decoder.waiting(),
        1,
        "the name is on its way, so the event waits"
    );
    decoder.push(definition, &mut out);
    let nameless = Arc::new(nameless_place());
    assert_eq!(events(&out), [call(2, &nameless), call(3, &place)]);
}

#[test]
fn the_oldest_names_are_forgotten_and_are_unknown_then() {
    let places: Vec<_> = (0..5).map(|number| named(&format!("f{number}"))).collect();
    let mut encoder = Encoder::new();
    for place in &places {
        encoder.event(&call(1, place));
    }
    let one = place_bytes(&places[0]) + size_of::<(u64, Name<Place>)>();
    let mut decoder = Decoder::with_limits(MAX_WAITING, 3 * one);
    let mut out = Vec::new();
    decoder.push(&encoder.take(), &mut out);
    assert_eq!(events(&out).len(), 5);
    assert_eq!(decoder.places.by_key.len(), 3);
    assert_eq!(decoder.places.order.len(), 3);
    encoder.event(&call(2, &places[4]));
    encoder.event(&call(2, &places[0]));
    decoder.push(encoder.bytes(), &mut out);
    assert_eq!((events(&out).len(), decoder.waiting()), (6, 1));
}

#[test]
fn one_place_stays_one_arc_when_it_is_defined_again() {
    let place = named("f");
    let mut encoder = Encoder::new();
    encoder.event(&call(1, &place));
    encoder.forget_names();
    encoder.event(&call(2, &place));
    let decoded = events(&decode(encoder.bytes()));
    let [What::Call { place: one, .. }, What::Call { place: two, .. }] =
        [&decoded[0].what, &decoded[1].what]
    else {
        panic!("two calls: {decoded:?}");
    };
    assert!(Arc::ptr_eq(one, two));
}

#[test]
fn bytes_that_are_not_utf_8_are_replaced_and_said_to_be() {
    let latin = text(b"caf\xe9", false, false);
    assert_eq!((latin.text.as_str(), latin.replaced), ("caf\u{fffd}", true));
    let halved = text(
        "café".as_bytes().split_last().expect("bytes").1,
        true,
        false,
    );
    assert_eq!((halved.text.as_str(), halved.replaced), ("caf", false));
}

#[test]
fn a_key_of_0_is_no_command_and_waits_for_nothing() {
    let event = Event {
        ts: 1,
        pid: 2,
        tid: 2,
        interpreter: None,
        what: What::Process {
            change: ProcessChange::Exit,
            parent: None,
            command: None,
        },
    };
    let mut encoder = Encoder::new();
    encoder.event(&event);
    assert_eq!(decode(encoder.bytes()), [Decoded::Event(event)]);
}

#[test]
fn every_trouble_is_one_line_with_a_remedy() {
    for trouble in [
        Trouble::Damaged { bytes: 1 },
        Trouble::WrongVersion { found: 2 },
        Trouble::UnknownName { key: 3 },
    ] {
        let message = trouble.to_string();
        assert!(
            message.contains(';') && !message.contains('\n'),
            "{message}"
        );
    }
}

#[test]
fn no_letter_of_a_plain_event_is_another_records() {
    for probe in Probe::ALL {
        if let Some(plain) = probe.plain() {
            let expected = match probe.texts().count() {
                2 => LineKind::PlainOfTwo,
                _ => LineKind::Plain,
            };
            assert_eq!(LineKind::from_letter(plain.letter), Some(expected));
        }
    }
}

#[test]
fn an_object_that_is_made_is_laid_out_as_the_script_writes_it() {
    let name = |text: &str| {
        Arc::new(Text {
            text: text.to_owned(),
            ..Text::default()
        })
    };
    let mut plain = Plain::new(Probe::InstanceNewStart, name("Server"));
    plain.texts[1] = Some(name("app.servers"));
    let event = Event {
        ts: 5,
        pid: 10,
        tid: 11,
        interpreter: None,
        what: What::Plain(plain),
    };
    let mut encoder = Encoder::new();
    encoder.event(&event);
    let (words, _) = rest(encoder.bytes(), encoder.bytes().len() - 40).as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    assert_eq!(words[..3], [0x7A57_4200_0000_0000, 5, 11 << 32 | 10]);
    assert_ne!(words[3], words[4], "the keys of two names");
    assert_eq!(events(&decode(encoder.bytes())), [event]);
}
