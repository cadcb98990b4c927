//! Ten million events through the session's pipe into the sinks of `gc`, `stats` and `top`, as one table:
//! `cargo bench --bench pipeline [-- EVENTS]`.
//!
//! Events are made a batch at a time, which is not timed; pairing, adding up and giving the batch back is, in processor time
//! of this thread, so that a busy machine counts less. One event in 250 belongs to a garbage collection.
//!
//! Nanoseconds per event beside the build that paired in the session and once more in the sink (7694aa9, driven by the same
//! stream through what its session did per event: filters, losses, pairing for the depth, then the sink, which clones and
//! pairs again), best of three runs on one machine in turn:
//!
//! | | paired twice | paired once | share |
//! |---|---|---|---|
//! | gc | 171.3 | 100.3 | 0.59 |
//! | stats | 209.5 | 116.7 | 0.56 |
//! | top | 243.9 | 144.6 | 0.59 |
//!
//! A machine with other work costs more where more memory is touched: there the shares were 0.44 to 0.56.

// The other benches use parts of this that we do not.
#[allow(dead_code)]
mod program;

use std::time::Duration;

use pystap::analysis::pairing::{Pairing, PairingRules};
use pystap::console::{ColorWhen, Console, Verbosity};
use pystap::event::{Event, Summary, What};
use pystap::export::latencies::Slow;
use pystap::export::pauses::Pauses;
use pystap::export::{End, Output, Sink};
use pystap::script::filter::Glob;
use pystap::session::pipe::{Pipe, PipeSettings};
use pystap::top::{Batch, Live, Shown, Tally};
use pystap::view::hot::Column;
use rustix::time::{ClockId, clock_gettime};

const BATCH: usize = 4_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `cargo bench` and `cargo test --benches` add options of their own; a number is ours.
    let asked = std::env::args().skip(1).find_map(|it| it.parse().ok());
    let small = std::env::args().any(|it| it == "--test");
    let events: usize = asked.unwrap_or(if small { 10_000 } else { 10_000_000 });

    println!("| {events} events | ns per event | million events/s |");
    println!("|---|---|---|");
    let output = || Output::open(Some("/dev/null".as_ref()), Default::default(), |_| false);
    let nowhere = || output()?.ok_or_else(|| std::io::Error::other("/dev/null is no pipe").into());
    measure(
        "gc",
        events,
        Box::new(Pauses::new(std::io::sink(), None, 10, false)),
    )?;
    let wanted = vec![Glob::new("handle_request_1*")?];
    measure(
        "stats",
        events,
        Box::new(Slow::new(std::io::sink(), wanted, None, 10, false, false)),
    )?;
    let nowhere: Result<Output, Box<dyn std::error::Error>> = nowhere();
    let shown = Shown::AsLines(Batch {
        output: nowhere?,
        interval: Duration::from_secs(3600),
        count: None,
        limit: 5,
        sort: Column::SelfTime,
        by_process: false,
        json: true,
        filter: None,
        idle: false,
        since: None,
    });
    let console = Console::stderr(Verbosity::Quiet, ColorWhen::Never);
    measure(
        "top",
        events,
        Box::new(Live::new(Tally::new(), false, shown, &console)),
    )?;
    Ok(())
}

fn measure(name: &str, events: usize, mut sink: Box<dyn Sink>) -> std::io::Result<()> {
    let rules = PairingRules {
        call_on_creation: false,
        greenlets: false,
    };
    let mut pipe = Pipe::new(PipeSettings {
        pairing: Pairing::with_rules(rules),
        ..PipeSettings::default()
    });
    let mut stream = Stream::new();
    let mut time = Duration::ZERO;
    let mut left = events;
    while left > 0 {
        let batch = left.min(BATCH);
        left -= batch;
        let mut made: Vec<Event> = (0..batch).map(|_| stream.next_event()).collect();
        let start = processor_time();
        for event in &mut made {
            pipe.event(event, sink.as_mut());
        }
        drop(made);
        time += processor_time() - start;
    }
    assert_eq!(pipe.delivered(), events as u64, "every event is delivered");
    assert_eq!(
        pipe.pairing().unpaired().total(),
        0,
        "every return finds its call"
    );
    sink.finish(&End::new(&Summary::default(), pipe.pairing()))?;
    println!(
        "| {name} | {:.1} | {:.2} |",
        time.as_nanos() as f64 / events as f64,
        events as f64 / time.as_secs_f64() / 1e6
    );
    Ok(())
}

/// Time that this thread has had a processor.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The program of all benches, which also collects garbage.
struct Stream {
    program: program::Program,
    collecting: bool,
    number: u64,
    ts: u64,
}

impl Stream {
    fn new() -> Stream {
        Stream {
            program: program::Program::new(),
            collecting: false,
            number: 0,
            ts: 0,
        }
    }

    fn next_event(&mut self) -> Event {
        self.number += 1;
        let what = match self.number % 500 {
            0 => What::GcStart { generation: 1 },
            1 if self.collecting => What::GcDone {
                generation: None,
                collected: 3,
                pause_ns: None,
            },
            _ => {
                let event = self.program.next_event();
                self.ts = event.ts;
                return event;
            }
        };
        self.collecting = matches!(what, What::GcStart { .. });
        Event {
            ts: self.ts,
            pid: 4242,
            tid: 4242,
            interpreter: None,
            what,
        }
    }
}
