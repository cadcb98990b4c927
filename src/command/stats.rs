//! `pystap stats`: how long single functions take, one line per interval while they are called, and the distribution at the
//! end.

use std::io::{self, Write};

use super::gc::INTERVAL;
use super::interval::Intervals;
use super::trace;
use crate::analysis::latency::Latencies;
use crate::analysis::pairing::{Pairing, PairingRules};
use crate::cli;
use crate::console::Console;
use crate::event::{Event, Place, Session, Summary};
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::script::Filters;
use crate::script::filter::Glob;
use crate::session::request::{Limits, SessionRequest};
use crate::text::{harmless, harmless_json};
use crate::view::latencies;

/// Latencies of single functions, as they are called and in sum.
pub(super) fn run(arguments: &cli::Stats, console: &Console) -> Result<u8, Failure> {
    let make = |output: Output, rules: PairingRules| -> Box<dyn Sink> {
        Box::new(Slow::new(arguments, output, rules))
    };
    trace::run_into(&request(arguments), console, &make, None)
}

/// The session behind it.
fn request(arguments: &cli::Stats) -> SessionRequest {
    // Who calls is seen only where everything is.
    let (functions, files) = match arguments.callers {
        true => (Vec::new(), Vec::new()),
        false => narrowed(&arguments.functions),
    };
    SessionRequest {
        events: ["call", "return"].map(str::to_owned).to_vec(),
        filters: Filters {
            functions,
            files,
            ..Filters::default()
        },
        limits: Limits {
            duration: arguments.duration,
            max_events: None,
        },
        output: arguments.output.clone(),
        ..trace::common(&arguments.targets, &arguments.engine)
    }
}

/// Whether a function was asked for: by its name, by `file:name`, or by a glob of either.
pub(super) fn asked_for(wanted: &[Glob], place: &Place) -> bool {
    let named = |name: &str| {
        let full = format!("{}:{name}", place.file.text);
        let mut wanted = wanted.iter();
        wanted.any(|glob| glob.matches(name.as_bytes()) || glob.matches(full.as_bytes()))
    };
    named(&place.function.text) || named(&place.name().text)
}

/// What the kernel may leave out when these are wanted: a filter on names, and one on files when each names its files.
fn narrowed(wanted: &[Glob]) -> (Vec<Glob>, Vec<Glob>) {
    let (mut functions, mut files) = (Vec::new(), Vec::new());
    for glob in wanted {
        match glob
            .as_str()
            .rsplit_once(':')
            .map(|(file, name)| (Glob::new(file), Glob::new(name)))
        {
            Some((Ok(file), Ok(name))) => {
                functions.push(name);
                files.push(file);
            }
            _ => functions.push(glob.clone()),
        }
    }
    if files.len() < functions.len() {
        files.clear();
    }
    (functions, files)
}

/// The sink.
struct Slow {
    output: Output,
    pairing: Pairing,
    /// Since the beginning, and since the last line.
    all: Latencies,
    recent: Latencies,
    intervals: Intervals,
    wanted: Vec<Glob>,
    start: u64,
    json: bool,
}

impl Slow {
    fn new(arguments: &cli::Stats, output: Output, rules: PairingRules) -> Slow {
        let by_default = (!arguments.json).then_some(INTERVAL);
        Slow {
            output,
            pairing: Pairing::with_rules(rules),
            all: Latencies::new(arguments.limit),
            recent: Latencies::new(0),
            intervals: Intervals::new(arguments.interval.or(by_default)),
            wanted: arguments.functions.clone(),
            start: 0,
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

impl Sink for Slow {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.start = session.ts;
        self.intervals.begin(session.ts);
        Ok(())
    }

    fn event(&mut self, event: &Event, _depth: usize) -> io::Result<()> {
        let mut event = event.clone();
        if let Some(step) = self.pairing.follow(&mut event) {
            let asks = |place: &Place| asked_for(&self.wanted, place);
            self.all.take(&event, &step, asks);
            self.recent.take(&event, &step, asks);
        }
        Ok(())
    }

    fn tick(&mut self, now: u64) -> io::Result<()> {
        let Some(passed) = self.intervals.passed(now) else {
            return Ok(());
        };
        let length = passed.nanoseconds;
        let text = if self.json {
            format!(
                "{}\n",
                latencies::json("interval", now, &self.recent, length)
            )
        } else {
            let heading = if passed.heading {
                latencies::HEADING
            } else {
                ""
            };
            let lines = latencies::lines(&self.recent, now.saturating_sub(self.start), length);
            format!("{heading}{lines}")
        };
        self.recent.clear();
        self.write(&text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>, summary: &Summary) -> io::Result<()> {
        let text = match (self.json, self.all.is_empty()) {
            (true, _) => {
                let json = latencies::json("summary", summary.ts, &self.all, summary.wall_ns);
                format!("{json}\n")
            }
            (false, true) => "none of these functions returned\n".to_owned(),
            (false, false) => latencies::text(&self.all, self.start),
        };
        self.write(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{call, returned};

    fn written(json: bool) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out");
        let output = Output::to_file(&path);
        let mut sink = Box::new(Slow {
            output,
            pairing: Pairing::new(),
            all: Latencies::new(3),
            recent: Latencies::new(0),
            intervals: Intervals::new(Some(std::time::Duration::from_secs(1))),
            wanted: vec![Glob::new("f*").expect("a glob")],
            start: 0,
            json,
        });
        let second = 1_000_000_000;
        sink.session(&Session::default()).expect("a file");
        for event in [call(1_000, "f"), returned(6_000, "f")] {
            sink.event(&event, 0).expect("a file");
        }
        sink.tick(second).expect("a file");
        sink.tick(2 * second).expect("a file");
        sink.finish(&Summary::default()).expect("a file");
        std::fs::read_to_string(path).expect("written")
    }

    #[test]
    fn a_line_comes_for_every_function_of_an_interval_and_the_distribution_at_the_end() {
        let text = written(false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("CALLS/s"), "{text}");
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(words[..4], ["+1.0s", "1", "1.0", "5.00us"], "{text}");
        assert_eq!(lines[2].trim(), "+2.0s  no calls");
        assert!(
            text.contains("f  app.py  process 1\n  1 call, mean 5.00us"),
            "{text}"
        );
    }

    #[test]
    fn the_kernel_may_filter_by_file_only_when_every_function_names_its_files() {
        let texts = |globs: Vec<Glob>| -> Vec<String> {
            globs.iter().map(|glob| glob.as_str().to_owned()).collect()
        };
        let glob = |text: &str| Glob::new(text).expect("a glob");
        let (functions, files) = narrowed(&[glob("*/app.py:f*"), glob("*/db.py:read")]);
        assert_eq!(texts(functions), ["f*", "read"]);
        assert_eq!(texts(files), ["*/app.py", "*/db.py"]);
        let (functions, files) = narrowed(&[glob("*/app.py:f*"), glob("g")]);
        assert_eq!(texts(functions), ["f*", "g"]);
        assert_eq!(texts(files), Vec::<String>::new());
    }

    #[test]
    fn json_is_an_object_for_each_interval_and_one_for_the_whole() {
        let text = written(true);
        let counts: Vec<_> = text
            .lines()
            .map(|line| {
                let object: serde_json::Value = serde_json::from_str(line).expect("JSON");
                let calls = object["functions"][0]["durations"]["count"].as_u64();
                (object["kind"].as_str().map(str::to_owned), calls)
            })
            .collect();
        let kind = |kind: &str| Some(kind.to_owned());
        assert_eq!(
            counts,
            [
                (kind("interval"), Some(1)),
                (kind("interval"), None),
                (kind("summary"), Some(1))
            ]
        );
    }
}
