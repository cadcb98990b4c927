//! `pystap gc`: garbage collections, one line per interval while they happen, and a summary at the end.

use std::io::{self, Write};
use std::time::Duration;

use super::interval::Intervals;
use super::trace;
use crate::analysis::collections::Collections;
use crate::analysis::pairing::{Pairing, PairingRules};
use crate::cli;
use crate::console::Console;
use crate::event::{Event, Session, Summary};
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::session::request::{Limits, SessionRequest};
use crate::text::{harmless, harmless_json};
use crate::view::pauses;

/// Between two lines for people.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);

/// Garbage collections, as they happen and in sum.
pub(super) fn run(arguments: &cli::Gc, console: &Console) -> Result<u8, Failure> {
    let make = |output: Output, rules: PairingRules| -> Box<dyn Sink> {
        Box::new(Pauses::new(arguments, output, rules))
    };
    trace::run_into(&request(arguments), console, &make, None)
}

/// The session behind it.
fn request(arguments: &cli::Gc) -> SessionRequest {
    let kinds: &[&str] = match arguments.functions {
        true => &["gc", "call", "return"],
        false => &["gc"],
    };
    let mut request = SessionRequest {
        events: kinds.iter().map(ToString::to_string).collect(),
        limits: Limits {
            duration: arguments.duration,
            max_events: None,
        },
        output: arguments.output.clone(),
        ..trace::common(&arguments.targets, &arguments.engine)
    };
    if let Some(of) = &arguments.of {
        request.targets.service = Some(of.clone());
    }
    request
}

/// The sink.
struct Pauses {
    output: Output,
    pairing: Pairing,
    /// Since the beginning, and since the last line.
    all: Collections,
    recent: Collections,
    intervals: Intervals,
    start: u64,
    limit: usize,
    json: bool,
}

impl Pauses {
    fn new(arguments: &cli::Gc, output: Output, rules: PairingRules) -> Pauses {
        let by_default = (!arguments.json).then_some(INTERVAL);
        Pauses {
            output,
            pairing: Pairing::with_rules(rules),
            all: Collections::new(),
            recent: Collections::new(),
            intervals: Intervals::new(arguments.interval.or(by_default)),
            start: 0,
            limit: arguments.limit,
            json: arguments.json,
        }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        let text = match self.json {
            true => harmless_json(text),
            false => harmless(text),
        };
        self.output.write_all(text.as_bytes())?;
        self.output.flush()
    }
}

impl Sink for Pauses {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.start = session.ts;
        self.intervals.begin(session.ts);
        Ok(())
    }

    fn event(&mut self, event: &Event, _depth: usize) -> io::Result<()> {
        let mut event = event.clone();
        if let Some(step) = self.pairing.follow(&mut event) {
            self.all.take(&event, &step);
            self.recent.take(&event, &step);
        }
        Ok(())
    }

    fn tick(&mut self, now: u64) -> io::Result<()> {
        let Some(passed) = self.intervals.passed(now) else {
            return Ok(());
        };
        let recent = std::mem::take(&mut self.recent);
        let length = passed.nanoseconds;
        let text = if self.json {
            format!(
                "{}\n",
                pauses::json("interval", now, &recent, length, self.limit)
            )
        } else {
            let heading = if passed.heading { pauses::HEADING } else { "" };
            let line = pauses::line(&recent, now.saturating_sub(self.start), length);
            format!("{heading}{line}")
        };
        self.write(&text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>, summary: &Summary) -> io::Result<()> {
        let wall = summary.wall_ns;
        let text = if self.json {
            let json = pauses::json("summary", summary.ts, &self.all, wall, self.limit);
            format!("{json}\n")
        } else {
            pauses::text(&self.all, wall, self.start, self.limit)
        };
        self.write(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::event;
    use crate::event::What;

    /// What is written of one collection that took two milliseconds, seen over three seconds.
    fn written(json: bool) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out");
        let output = Output::to_file(&path);
        let mut sink = Box::new(Pauses {
            output,
            pairing: Pairing::new(),
            all: Collections::new(),
            recent: Collections::new(),
            intervals: Intervals::new(Some(Duration::from_secs(1))),
            start: 0,
            limit: 3,
            json,
        });
        let second = 1_000_000_000;
        sink.session(&Session::default()).expect("a file");
        let start = What::GcStart { generation: 2 };
        let done = What::GcDone {
            generation: None,
            collected: 7,
            pause_ns: None,
        };
        sink.event(&event(1_000_000, start), 0).expect("a file");
        sink.event(&event(3_000_000, done), 0).expect("a file");
        sink.tick(second).expect("a file");
        sink.tick(2 * second).expect("a file");
        let summary = Summary {
            wall_ns: 3 * second,
            ..Summary::default()
        };
        sink.finish(&summary).expect("a file");
        std::fs::read_to_string(path).expect("written")
    }

    #[test]
    fn a_line_comes_at_every_interval_and_the_summary_at_the_end() {
        let text = written(false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("COLLECTED"), "{text}");
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(words[..6], ["+1.0s", "1", "7", "2.00ms", "0.2", "2.00ms"]);
        let words: Vec<&str> = lines[2].split_whitespace().collect();
        assert_eq!(words, ["+2.0s", "0", "0", "0ns", "0.0", "-"]);
        assert!(
            text.contains("2.00ms in collections, 0.1 % of 3.00s"),
            "{text}"
        );
    }

    #[test]
    fn json_is_an_object_for_each_interval_and_one_for_the_whole() {
        let text = written(true);
        let objects: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let kinds: Vec<_> = objects.iter().map(|it| it["kind"].clone()).collect();
        assert_eq!(kinds, ["interval", "interval", "summary"]);
        let pauses = |at: usize| objects[at]["total_pause_ns"].clone();
        assert_eq!([pauses(0), pauses(1), pauses(2)], [2_000_000, 0, 2_000_000]);
    }
}
