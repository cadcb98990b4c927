//! Latencies of single functions as text and JSON: a line per interval while they are called, and the distribution at the
//! end.

use std::io::{self, Write};
use std::time::Duration;

use super::intervals::{self, Intervals};
use super::{End, Sink};
use crate::analysis::latency::Latencies;
use crate::analysis::overhead::{Cost, Overhead};
use crate::analysis::pairing::{Pairing, Step};
use crate::event::hosts::Hosts;
use crate::event::{Place, Session};
use crate::script::filter::Glob;
use crate::view::latencies;

/// Whether a function was asked for: by its name, by `file:name`, or by a glob of either.
pub(crate) fn asked_for(wanted: &[Glob], place: &Place) -> bool {
    let named = |name: &str| {
        let full = format!("{}:{name}", place.file.text);
        let mut wanted = wanted.iter();
        wanted.any(|glob| glob.matches(name.as_bytes()) || glob.matches(full.as_bytes()))
    };
    named(&place.function.text) || named(&place.own_name().text)
}

/// See the head of the module.
#[derive(Debug)]
pub struct Slow<W> {
    output: W,
    /// Since the beginning, and since the last line.
    all: Latencies,
    recent: Latencies,
    intervals: Intervals,
    wanted: Vec<Glob>,
    start: u64,
    json: bool,
    /// Whether times are to be shown as they were measured.
    raw_times: bool,
}

impl<W: Write> Slow<W> {
    /// Nothing yet of the functions that are `wanted`. Lines come as in [`Pauses`](super::pauses::Pauses); `limit` is how
    /// many of the slowest calls of a function are told.
    pub fn new(
        output: W,
        wanted: Vec<Glob>,
        interval: Option<Duration>,
        limit: usize,
        json: bool,
        raw_times: bool,
    ) -> Slow<W> {
        Slow {
            output,
            all: Latencies::new(limit),
            recent: Latencies::new(0),
            intervals: Intervals::of(interval, json),
            wanted,
            start: 0,
            json,
            raw_times,
        }
    }
}

impl<W: Write> Sink for Slow<W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.start = session.ts;
        let overhead = Overhead::of(session, self.raw_times);
        for latencies in [&mut self.all, &mut self.recent] {
            latencies.take_out(overhead);
            latencies.of_hosts(Hosts::of(session));
            latencies.of_filtered(session.filter.is_some());
        }
        self.intervals.begin(session.ts);
        Ok(())
    }

    fn event_cost(&mut self, cost: Cost) {
        for latencies in [&mut self.all, &mut self.recent] {
            let overhead = latencies.overhead();
            latencies.take_out(overhead.refined(cost));
        }
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        if self.all.take(step, |place| asked_for(&self.wanted, place)) {
            self.recent.take(step, |_| true);
        }
        Ok(())
    }

    fn tick(&mut self, now: u64, _pairing: &Pairing) -> io::Result<()> {
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
        intervals::write(&mut self.output, &text, self.json)
    }

    fn finish(mut self: Box<Self>, end: &End<'_>) -> io::Result<Option<String>> {
        let Some(summary) = end.summary else {
            return Ok(None);
        };
        let text = match (self.json, self.all.is_empty()) {
            (true, _) => {
                let json = latencies::json("summary", summary.ts, &self.all, summary.wall_ns);
                format!("{json}\n")
            }
            (false, true) => "none of these functions returned\n".to_owned(),
            (false, false) => latencies::text(&self.all, self.start),
        };
        intervals::write(&mut self.output, &text, self.json)?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::analysis::testing::{call, returned, told};
    use crate::event::{Manner, Summary};

    fn written(json: bool) -> String {
        let mut written = Vec::new();
        let mut pairing = Pairing::new();
        let wanted = vec![Glob::new("f*").expect("a glob")];
        let interval = Some(Duration::from_secs(1));
        let mut sink = Box::new(Slow::new(&mut written, wanted, interval, 3, json, false));
        let second = 1_000_000_000;
        sink.session(&Session::default()).expect("memory");
        for mut event in [call(1_000, "f"), returned(6_000, "f")] {
            let step = pairing.follow(&mut event).expect("an event");
            sink.step(&step).expect("memory");
        }
        sink.tick(second, &pairing).expect("memory");
        sink.tick(2 * second, &pairing).expect("memory");
        sink.finish(&End::new(&Summary::default(), &pairing))
            .expect("memory");
        String::from_utf8(written).expect("UTF-8")
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
            text.contains("f  app.py:1  process 1\n  1 call, mean 5.00us"),
            "{text}"
        );
    }

    #[test]
    fn what_events_cost_is_taken_out_of_what_comes_once_it_is_known() {
        let mut written = Vec::new();
        let mut pairing = Pairing::new();
        let wanted = vec![Glob::new("f*").expect("a glob")];
        let mut sink = Box::new(Slow::new(&mut written, wanted, None, 3, true, false));
        sink.session(&Session::default()).expect("memory");
        for mut event in [call(1_000, "f"), returned(6_000, "f")] {
            let per_event = NonZeroU64::new(700).expect("more than nothing");
            sink.event_cost(Cost::new(per_event, Some(500)));
            let step = pairing.follow(&mut event).expect("an event");
            sink.step(&step).expect("memory");
        }
        let end = Summary::default();
        sink.finish(&End::new(&end, &pairing)).expect("memory");
        let text = String::from_utf8(written).expect("UTF-8");
        let last = text.lines().last().expect("a line");
        let said: serde_json::Value = serde_json::from_str(last).expect("JSON");
        assert_eq!(said["overhead_ns_per_event"], 700, "{said}");
        let function = &said["functions"][0];
        assert_eq!(function["durations"]["max_ns"], 5_000, "{said}");
        assert_eq!(function["net_durations"]["max_ns"], 4_500, "{said}");
    }

    #[test]
    fn functions_of_one_name_are_told_apart_by_their_lines() {
        let value = |line, event| told("Thing.value", line, Manner::Plain, event);
        let mut written = Vec::new();
        let mut pairing = Pairing::new();
        let wanted = vec![Glob::new("*value").expect("a glob")];
        let mut sink = Box::new(Slow::new(&mut written, wanted, None, 3, false, false));
        for mut event in [
            value(10, call(1_000, "value")),
            value(11, returned(6_000, "value")),
            value(20, call(7_000, "value")),
            value(21, returned(97_000, "value")),
        ] {
            let step = pairing.follow(&mut event).expect("an event");
            sink.step(&step).expect("memory");
        }
        sink.finish(&End::new(&Summary::default(), &pairing))
            .expect("memory");
        let text = String::from_utf8(written).expect("UTF-8");
        for (at, took) in [("app.py:10", "5.00us"), ("app.py:20", "90.0us")] {
            let heading = format!("Thing.value  {at}  process 1\n  1 call, mean {took},");
            assert!(text.contains(&heading), "{text}");
        }
    }

    #[test]
    fn a_caller_is_only_called_so_where_nothing_untraced_can_lie_between() {
        let slowest = |filter: Option<&str>, json: bool| {
            let mut written = Vec::new();
            let mut pairing = Pairing::new();
            let wanted = vec![Glob::new("f").expect("a glob")];
            let mut sink = Box::new(Slow::new(&mut written, wanted, None, 3, json, false));
            let session = Session {
                filter: filter.map(str::to_owned),
                ..Session::default()
            };
            sink.session(&session).expect("memory");
            for mut event in [call(0, "handle"), call(1_000, "f"), returned(6_000, "f")] {
                let step = pairing.follow(&mut event).expect("an event");
                sink.step(&step).expect("memory");
            }
            sink.finish(&End::new(&Summary::default(), &pairing))
                .expect("memory");
            String::from_utf8(written).expect("UTF-8")
        };
        let direct = slowest(None, false);
        assert!(
            direct.contains("called by handle  app.py\n"),
            "all calls are there: {direct}"
        );
        let named = slowest(Some("functions f, handle"), false);
        assert!(
            named.contains("called by handle  app.py, maybe through others\n"),
            "{named}"
        );
        for (filter, may) in [(None, false), (Some("functions f, handle"), true)] {
            let json: serde_json::Value =
                serde_json::from_str(&slowest(filter, true)).expect("JSON");
            assert_eq!(json["callers_may_be_indirect"], may, "{json}");
            assert_eq!(json["functions"][0]["slowest"][0]["caller"], "handle");
        }
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
