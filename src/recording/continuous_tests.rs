//! Recordings in parts, with real files.

use std::fs::{self, File};
use std::num::NonZeroU64;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::analysis::testing::{call, event, returned};
use crate::event::{Event, LossStage};
use crate::recording::Reader;
use crate::recording::ending;
use crate::recording::parts::{self, OnSlow};

const SECOND: u64 = 1_000_000_000;

fn file(path: &Path) -> io::Result<Output> {
    Ok(Output::to_file(path))
}

fn rotation(every: &str, keep: usize, slow: &[&str]) -> Rotation {
    let slow = slow
        .iter()
        .map(|it| it.parse::<OnSlow>().expect("a function and a time"));
    Rotation {
        every: every.parse().expect("a time or a size"),
        keep,
        slow: slow.collect(),
    }
}

fn begun(directory: &Path, rotation: Rotation) -> Box<Continuous> {
    let rules = PairingRules::default();
    let mut sink = Box::new(Continuous::new(directory, rotation, rules, file));
    sink.session(&Session::default()).expect("a directory");
    sink
}

/// Feeds events as a session does.
fn feed(sink: &mut Continuous, pairing: &mut Pairing, events: impl IntoIterator<Item = Event>) {
    for mut event in events {
        if let Some(step) = pairing.follow(&mut event) {
            sink.step(&step).expect("a file");
        }
    }
}

fn end(sink: Box<Continuous>, pairing: &Pairing) {
    let summary = Summary {
        ended: "interrupted".to_owned(),
        unpaired: 7,
        ..Summary::default()
    };
    sink.finish(&End::new(&summary, pairing)).expect("a file");
}

/// The files of parts, by their numbers.
fn numbers(directory: &Path) -> Vec<u32> {
    let files = fs::read_dir(directory).expect("a directory");
    let names = files.map(|it| {
        it.expect("an entry")
            .file_name()
            .into_string()
            .expect("UTF-8")
    });
    let parts = names.filter_map(|name| {
        let (_, number) = name.strip_suffix(".pystap")?.rsplit_once('-')?;
        number.parse().ok()
    });
    let mut parts: Vec<u32> = parts.collect();
    parts.sort_unstable();
    parts
}

fn index(directory: &Path) -> Vec<Part> {
    let text = fs::read_to_string(directory.join("index.jsonl")).expect("an index");
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a part"))
        .collect()
}

/// A directory as one recording.
fn read(directory: &Path) -> Reader<File> {
    let files = parts::latest(directory).expect("parts").files;
    let mut files = files.into_iter().map(File::open);
    let first = files.next().expect("a part").expect("a file");
    Reader::new(first).expect("a recording").followed_by(files)
}

fn events(reader: &mut Reader<File>) -> Vec<Event> {
    std::iter::from_fn(|| reader.event().expect("an event")).collect()
}

#[test]
fn a_part_that_is_complete_says_what_events_have_cost_until_then() {
    let dir = TempDir::new().expect("a directory");
    let mut sink = begun(dir.path(), rotation("1m", 24, &[]));
    let per_event = NonZeroU64::new(150).expect("more than nothing");
    sink.event_cost(Cost::new(per_event, Some(90)));
    let later = clock::now() + 61 * SECOND;
    assert!(sink.turn(later).expect("another part"));
    let said: Vec<_> = parts::latest(dir.path())
        .expect("parts")
        .files
        .iter()
        .map(|file| ending::summary(&File::open(file).expect("a file")))
        .collect();
    let [Some(complete), None] = &said[..] else {
        panic!("{said:?}");
    };
    assert_eq!(complete.overhead_ns_per_event, Some(per_event));
    assert_eq!(complete.overhead_ns_within_call, Some(90));
}

#[test]
fn parts_are_one_recording_in_which_a_call_goes_on_from_one_to_the_next() {
    let dir = TempDir::new().expect("a directory");
    let place = dir.path().join("made by us");
    let mut sink = begun(&place, rotation("1m", 24, &[]));
    let mut pairing = Pairing::new();
    let now = clock::now();
    let told = [
        vec![call(now, "handle"), call(now + 10, "query")],
        vec![
            returned(now + 30, "query"),
            crate::event::loss::lost(now + 40, 0, LossStage::Kernel, 3),
        ],
        vec![call(now + 50, "render"), returned(now + 60, "render")],
    ];
    for events in &told {
        feed(&mut sink, &mut pairing, events.iter().cloned());
        // It began after the first event; what is too early by a second is no race.
        sink.tick(now + 59 * SECOND, &pairing).expect("a file");
        sink.tick(clock::now() + 60 * SECOND, &pairing)
            .expect("a file");
    }
    end(sink, &pairing);

    assert_eq!(numbers(&place), [1, 2, 3, 4]);
    let counts: Vec<(u64, u64)> = index(&place)
        .iter()
        .map(|it| (it.events, it.lost))
        .collect();
    assert_eq!(counts, [(2, 0), (1, 3), (2, 0), (0, 0)]);
    let mut whole = read(&place);
    let read = events(&mut whole);
    assert_eq!(read.len(), 6);
    let durations: Vec<Option<u64>> = read
        .iter()
        .filter_map(|event| match event.what {
            What::Return { duration_ns, .. } => Some(duration_ns),
            _ => None,
        })
        .collect();
    assert_eq!(durations, [Some(20), Some(10)]);
    let summary = whole.summary().expect("an end");
    assert_eq!(
        (summary.delivered, summary.lost, summary.unpaired),
        (5, 3, 7)
    );
    assert_eq!(summary.ended, "interrupted");
    assert!(!whole.was_cut());
}

#[test]
fn each_part_can_be_read_alone_with_the_rules_of_its_processes() {
    let dir = TempDir::new().expect("a directory");
    let mut sink = begun(dir.path(), rotation("1s", 24, &[]));
    let rules = PairingRules {
        call_on_creation: true,
        greenlets: true,
    };
    sink.rules(42, rules).expect("a file");
    sink.rules(43, rules).expect("a file");
    let mut pairing = Pairing::new();
    let mut gone = event(
        clock::now(),
        What::Process {
            change: ProcessChange::Exit,
            parent: None,
            command: None,
        },
    );
    (gone.pid, gone.tid) = (43, 0);
    feed(&mut sink, &mut pairing, [gone]);
    assert!(sink.turn(clock::now() + 2 * SECOND).expect("a file"));
    feed(&mut sink, &mut pairing, [call(clock::now(), "f")]);
    end(sink, &pairing);
    let second = parts::latest(dir.path()).expect("parts").files.remove(1);
    let mut reader = Reader::new(File::open(second).expect("a file")).expect("a recording");
    assert_eq!(reader.session(), &Session::default());
    assert!(reader.event().expect("an event").is_some());
    assert_eq!(reader.process_rules(), [(42, rules)]);
}

#[test]
fn the_oldest_parts_go_but_for_those_around_slow_calls() {
    let dir = TempDir::new().expect("a directory");
    let mut sink = begun(
        dir.path(),
        rotation("1s", 2, &["slow>100ms", "*/shop.py:pay>1ms"]),
    );
    let mut pairing = Pairing::new();
    // Each part takes as long as it takes to get here; only what happens in it counts.
    for part in 1..=9 {
        let now = clock::now();
        let took = if part == 4 { 200 } else { 50 };
        let events = [call(now, "slow"), returned(now + took * 1_000_000, "slow")];
        feed(&mut sink, &mut pairing, events);
        sink.turn(clock::now() + 2 * SECOND).expect("a file");
    }
    end(sink, &pairing);
    // 4, in which it was slow, the one before, and the latest two.
    assert_eq!(numbers(dir.path()), [3, 4, 9, 10]);
    let slow: Vec<u64> = index(dir.path()).iter().map(|it| it.slow).collect();
    assert_eq!(slow, [1, 1, 0, 0]);
    let latest = parts::latest(dir.path()).expect("parts");
    assert_eq!((latest.files.len(), latest.older), (2, 2));
}

#[test]
fn parts_with_slow_calls_are_bounded_as_well() {
    let dir = TempDir::new().expect("a directory");
    let mut sink = begun(dir.path(), rotation("1s", 2, &["f>1ms"]));
    let mut pairing = Pairing::new();
    for _ in 1..=9 {
        let now = clock::now();
        let events = [call(now, "f"), returned(now + 2_000_000, "f")];
        feed(&mut sink, &mut pairing, events);
        sink.turn(clock::now() + 2 * SECOND).expect("a file");
    }
    end(sink, &pairing);
    assert_eq!(numbers(dir.path()), [8, 9, 10]);
}

#[test]
fn a_part_ends_where_it_is_large_enough() {
    let dir = TempDir::new().expect("a directory");
    let mut sink = begun(dir.path(), rotation("1MB", 24, &[]));
    let mut pairing = Pairing::new();
    let mut random: u64 = 0x2545_f491_4f6c_dd1d;
    let mut told = 0;
    let mut at = clock::now();
    while numbers(dir.path()).len() < 3 {
        for _ in 0..5_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            at += random % 1_000_000;
            let name = format!("f{}", random % 977);
            feed(
                &mut sink,
                &mut pairing,
                [call(at, &name), returned(at + random % 999, &name)],
            );
            told += 2;
        }
    }
    end(sink, &pairing);
    let parts = index(dir.path());
    assert!(
        parts[..2]
            .iter()
            .all(|it| (1_000_000..1_300_000).contains(&it.bytes)),
        "{parts:?}"
    );
    assert_eq!(parts.iter().map(|it| it.events).sum::<u64>(), told);
    assert_eq!(events(&mut read(dir.path())).len() as u64, told);
}

#[test]
fn a_directory_is_for_one_recording_at_a_time_and_takes_in_what_a_killed_one_left() {
    let dir = TempDir::new().expect("a directory");
    let mut killed = begun(dir.path(), rotation("1m", 2, &[]));
    let mut pairing = Pairing::new();
    feed(&mut killed, &mut pairing, [call(clock::now(), "f")]);
    killed.flush().expect("a file");
    let busy = parts::Parts::open(dir.path(), 2).expect_err("it is in use");
    assert_eq!(
        busy.to_string(),
        "another pystap records into it; name another one with --output"
    );
    drop(killed);

    end(begun(dir.path(), rotation("1m", 2, &[])), &pairing);
    let cut: Vec<bool> = index(dir.path()).iter().map(|it| it.cut).collect();
    assert_eq!(cut, [true, false]);
    // They are two recordings, and are not read as one.
    let latest = parts::latest(dir.path()).expect("parts");
    assert_eq!((latest.files.len(), latest.older), (1, 1));
    end(begun(dir.path(), rotation("1m", 2, &[])), &pairing);
    assert_eq!(index(dir.path()).len(), 2);
}

#[test]
fn what_else_is_in_a_directory_is_left_alone_and_believed_nothing() {
    let dir = TempDir::new().expect("a directory");
    let strange = [
        "notes.pystap",
        "20261129T140700Z-1.pystap",
        "20261129T140700Z-abcdef.pystap",
        "x-000001.pystap",
    ];
    for name in strange {
        fs::write(dir.path().join(name), "mine").expect("a file");
    }
    let foreign = r#"{"file":"../../etc/passwd","begin":0,"end":0,"events":0,"lost":0,"bytes":0}"#;
    fs::write(
        dir.path().join("index.jsonl"),
        format!("no JSON\n{foreign}\n"),
    )
    .expect("a file");
    assert!(parts::latest(dir.path()).is_err());
    let pairing = Pairing::new();
    for _ in 0..3 {
        end(begun(dir.path(), rotation("1m", 2, &[])), &pairing);
    }
    for name in strange {
        assert!(dir.path().join(name).exists(), "{name}");
    }
    assert!(
        index(dir.path())
            .iter()
            .all(|it| it.file.ends_with("Z-000001.pystap"))
    );
}

#[test]
fn what_can_be_no_directory_of_parts_is_said() {
    let dir = TempDir::new().expect("a directory");
    let plain = dir.path().join("file");
    fs::write(&plain, "").expect("a file");
    let said = |path: &Path| parts::Parts::check(path, 2).expect_err("none").to_string();
    assert_eq!(
        said(&plain),
        "it is no directory, and parts are files of one; name another one with --output"
    );
    let nowhere = said(&dir.path().join("no/such/place"));
    assert!(
        nowhere.ends_with("; choose a writable directory with --output"),
        "{nowhere}"
    );
}

#[test]
fn a_directory_that_is_only_looked_at_is_as_it_was() {
    let dir = TempDir::new().expect("a directory");
    let made = dir.path().join("made");
    parts::Parts::check(&made, 2).expect("it can be made");
    assert!(!made.exists());
    fs::create_dir(&made).expect("a directory");
    parts::Parts::check(&made, 2).expect("it is there");
    assert!(made.exists());
}

#[test]
fn times_sizes_and_slow_calls_are_read_as_they_are_typed() {
    let every = |text: &str| text.parse::<Every>();
    assert_eq!(every("10m"), Ok(Every::Time(Duration::from_secs(600))));
    assert_eq!(every("100MB"), Ok(Every::Bytes(100_000_000)));
    assert_eq!(every("2GB"), Ok(Every::Bytes(2_000_000_000)));
    for wrong in [
        "",
        "10",
        "MB",
        "1.5MB",
        "99999999999999999999GB",
        "1TB",
        "100kB",
        "10ms",
        "-1m",
    ] {
        assert!(every(wrong).is_err(), "{wrong}");
    }
    let slow: OnSlow = "*/driver.py:spawn > 2s"
        .parse()
        .expect("a function and a time");
    assert_eq!(
        (slow.function.as_str(), slow.ns),
        ("*/driver.py:spawn", 2_000_000_000)
    );
    for wrong in ["spawn", "spawn>", ">2s", "spawn>fast"] {
        assert!(wrong.parse::<OnSlow>().is_err(), "{wrong}");
    }
}
