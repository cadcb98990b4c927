//! What comes after pairing, as one table: `cargo bench --bench analysis [-- EVENTS]`.
//!
//! Events are made a batch at a time, and only our side is timed: pairing and adding up by function, refreshing a table
//! of fifty thousand functions, recording. Times are those of the processor, so that a busy machine does not count. The
//! table says what README and docs may claim.

// The other benches use parts of this that we do not.
#[allow(dead_code)]
mod program;

use std::io::Write;
use std::time::Duration;

use pystap::analysis::collections::Collections;
use pystap::analysis::functions::Functions;
use pystap::analysis::pairing::{Pairing, PairingRules, Step};
use pystap::event::{Event, Session, Summary};
use pystap::export::{End, Sink};
use pystap::recording::{Reader, Writer};
use pystap::top::{State, Tally, view};
use pystap::view::hot::Column;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use rustix::time::{ClockId, clock_gettime};

const BATCH: usize = 4_000;
const HABITS: PairingRules = PairingRules {
    call_on_creation: false,
    greenlets: false,
};

fn main() -> std::io::Result<()> {
    // `cargo bench` and `cargo test --benches` add options of their own; a number is ours.
    let asked = std::env::args().skip(1).find_map(|it| it.parse().ok());
    let small = std::env::args().any(|it| it == "--test");
    let events: usize = asked.unwrap_or(if small { 10_000 } else { 10_000_000 });

    println!("| {events} events | measured | required |");
    println!("|---|---|---|");
    adding_up(events);
    table(if small { 500 } else { 50_000 });
    recording(events / 10)?;
    let peak = peak_memory()?.map_or("unknown".to_owned(), |kib| (kib / 1024).to_string());
    println!("| peak resident memory of all of this, MB | {peak} | |");
    Ok(())
}

/// Time that this thread has had a processor.
struct Stopwatch(Duration);

impl Stopwatch {
    fn start() -> Stopwatch {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Stopwatch(Duration::new(now.tv_sec as u64, now.tv_nsec as u32))
    }

    fn elapsed(&self) -> Duration {
        Stopwatch::start().0 - self.0
    }
}

fn rate(events: usize, time: Duration) -> f64 {
    events as f64 / time.as_secs_f64() / 1e6
}

fn adding_up(events: usize) {
    for (what, rules) in [
        ("plain", HABITS),
        (
            "3.15",
            PairingRules {
                call_on_creation: true,
                ..HABITS
            },
        ),
        (
            "greenlets",
            PairingRules {
                greenlets: true,
                ..HABITS
            },
        ),
    ] {
        let mut program = program::Program::new();
        let mut pairing = Pairing::with_rules(rules);
        let (mut functions, mut collections) = (Functions::new(), Collections::new());
        let mut time = Duration::ZERO;
        let mut left = events;
        while left > 0 {
            let batch = left.min(BATCH);
            left -= batch;
            let mut made: Vec<Event> = (0..batch).map(|_| program.next_event()).collect();
            let start = Stopwatch::start();
            for event in &mut made {
                if let Some(step) = pairing.follow(event) {
                    functions.take(&step);
                    collections.take(&step);
                }
            }
            time += start.elapsed();
        }
        println!(
            "| paired and added up, {what}, million events/s | {:.1} | 5 |",
            rate(events, time)
        );
    }
}

fn table(functions: usize) {
    let mut program = program::Program::with_functions(functions);
    let mut pairing = Pairing::with_rules(HABITS);
    let mut tally = Tally::new();
    for _ in 0..functions * 20 {
        if let Some(step) = pairing.follow(&mut program.next_event()) {
            tally.take(&step);
        }
    }
    let mut state = State::new("bench", Column::P95, 1_000);
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("memory");
    let mut worst = Duration::ZERO;
    let mut sum = Duration::ZERO;
    const TIMES: u32 = 10;
    for _ in 0..TIMES {
        let start = Stopwatch::start();
        state.show(tally.snapshot(&pairing, 0));
        terminal
            .draw(|frame| view::draw(frame, &mut state))
            .expect("memory");
        let took = start.elapsed();
        worst = worst.max(took);
        sum += took;
    }
    println!(
        "| refresh of a table of {} functions by P95, ms, mean / worst | {:.1} / {:.1} | 50 |",
        state.rows().len(),
        (sum / TIMES).as_secs_f64() * 1e3,
        worst.as_secs_f64() * 1e3
    );
}

fn recording(events: usize) -> std::io::Result<()> {
    let mut program = program::Program::new();
    let mut pairing = Pairing::with_rules(HABITS);
    let mut bytes = Vec::new();
    let mut writer = Box::new(Writer::new(&mut bytes, HABITS));
    writer.session(&Session::default())?;
    let mut time = Duration::ZERO;
    let mut left = events;
    while left > 0 {
        let batch = left.min(BATCH);
        left -= batch;
        let mut made: Vec<Event> = (0..batch).map(|_| program.next_event()).collect();
        for event in &mut made {
            pairing.feed(event);
        }
        let start = Stopwatch::start();
        for event in &made {
            writer.step(&Step::new(event))?;
        }
        time += start.elapsed();
    }
    writer.finish(&End::new(&Summary::default(), &pairing))?;
    println!(
        "| recorded, million events/s | {:.1} | |",
        rate(events, time)
    );
    println!(
        "| recorded, bytes an event (5 000 functions called at random in four threads) | {:.2} | 8 |",
        bytes.len() as f64 / events as f64
    );
    let start = Stopwatch::start();
    let mut reader = Reader::new(&bytes[..]).map_err(std::io::Error::other)?;
    let mut read = 0;
    while let Some(event) = reader.event().map_err(std::io::Error::other)? {
        read += 1;
        std::hint::black_box(event);
    }
    assert_eq!(read, events, "every event is read back");
    println!(
        "| read from a recording, million events/s | {:.1} | |",
        rate(events, start.elapsed())
    );
    std::io::stdout().flush()
}

/// Peak resident memory of this process in KiB; `None` where the kernel does not say.
fn peak_memory() -> std::io::Result<Option<u64>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.and_then(|it| it.trim().strip_suffix("kB")?.trim().parse().ok()))
}
