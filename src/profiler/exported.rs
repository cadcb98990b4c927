//! Samples in formats of other programs. What is an estimate is called one in each of them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::stacks::{Function, NO_CONTEXT};
use super::tally::{By, Counts, Key, Order, Row, Snapshot};
use crate::event::Session;
use crate::export::about;
use crate::export::html::{self, Page, Times};
use crate::export::profile::{
    COUNT, NANOSECONDS, Profile, Time, flames, process_name, thread_label,
};
use crate::text::Foreign;
use crate::view;

/// What stands on a stack whose thread waited.
const WAITING: &str = "[waiting]";
/// The rows of a page.
const BY_FUNCTION: By = By::Function {
    process: false,
    context: false,
};

impl Snapshot {
    /// A line of folded stacks for each process and stack, and kind of greenlets or tasks where these are told apart, with the nanoseconds that were spent there, by estimate.
    pub(crate) fn folded(
        &self,
        session: &Session,
        time: Time,
        with_idle: bool,
        by_context: bool,
    ) -> Vec<String> {
        let mut sums: BTreeMap<(u32, u32, u32), Counts> = BTreeMap::new();
        for (key, counts) in self.tally.sums() {
            if with_idle || !key.idle {
                let context = if by_context { key.context } else { NO_CONTEXT };
                let sum = sums.entry((key.pid, context, key.stack)).or_default();
                sum.add(*counts);
            }
        }
        let mut lines = Vec::new();
        for ((pid, context, stack), counts) in sums {
            let mut push = |samples: u64, leaf: Option<&str>| {
                if samples > 0 {
                    let process = format!("{}, sampled", process_name(session, pid));
                    let frames = self.frames(stack).map(name);
                    let kind = self.stacks.kind(context);
                    let kind = kind.map(|kind| format!("[{}]", Foreign::new(&**kind)));
                    let frames = std::iter::once(process).chain(kind).chain(frames);
                    let frames = frames.chain(leaf.map(str::to_owned));
                    lines.push(flames::folded(frames, self.time_ns(samples)));
                }
            };
            match time {
                Time::Own => push(counts.all(), None),
                Time::Cpu => push(counts.on_cpu, None),
                Time::Off => push(counts.waiting, Some(WAITING)),
                Time::Wall => {
                    push(counts.on_cpu, None);
                    push(counts.waiting, Some(WAITING));
                }
            }
        }
        lines
    }

    /// A profile of each thread for speedscope. When what was seen is not in it, only how often.
    ///
    /// # Errors
    /// The output's.
    pub(crate) fn write_speedscope(
        &self,
        session: &Session,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut threads: BTreeMap<(u32, u32), Vec<(&Key, &Counts)>> = BTreeMap::new();
        for (key, counts) in self.tally.sums() {
            threads
                .entry((key.pid, key.tid))
                .or_default()
                .push((key, counts));
        }
        let (functions, _) = self.stacks.since(0, 0);
        let frames = functions.iter().map(|it| {
            json!({
                "name": Foreign::new(it.name.as_str()).to_string(),
                "file": Foreign::new(it.file.as_str()).to_string(),
            })
        });
        let profiles = threads.into_iter().map(|((pid, tid), mut seen)| {
            seen.sort_by_key(|(key, _)| (key.stack, key.idle));
            let weights = seen.iter().map(|(_, counts)| self.time_ns(counts.all()));
            let weights: Vec<u64> = weights.collect();
            let samples = seen.iter().map(|(key, _)| {
                let mut stack = self.stacks.of(key.stack).to_vec();
                stack.reverse();
                stack
            });
            let process = process_name(session, pid);
            let thread = match self.thread_name(tid) {
                Some(name) => format!("{} ({tid})", Foreign::new(name)),
                None => format!("thread {tid}"),
            };
            json!({
                "type": "sampled",
                "name": format!("{thread}, {process}, sampled (estimates)"),
                "unit": "nanoseconds",
                "startValue": 0,
                "endValue": weights.iter().fold(0_u64, |all, it| all.saturating_add(*it)),
                "samples": samples.collect::<Vec<_>>(),
                "weights": weights,
            })
        });
        let document = json!({
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "exporter": format!("pystap {}", env!("CARGO_PKG_VERSION")),
            "name": "samples: estimates",
            "shared": {"frames": frames.collect::<Value>()},
            "profiles": profiles.collect::<Value>(),
        });
        serde_json::to_writer(&mut *out, &document)?;
        out.write_all(b"\n")
    }

    /// A profile for pprof. Idleness is left out unless it is wanted.
    ///
    /// # Errors
    /// The output's.
    pub(crate) fn write_pprof(
        &self,
        session: &Session,
        with_idle: bool,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let types = [
            ("samples", COUNT),
            ("wall", NANOSECONDS),
            ("cpu", NANOSECONDS),
            ("off-cpu", NANOSECONDS),
        ];
        let mut profile = Profile::new(out, &types, 1);
        let period = 1_000_000_000_u64.checked_div(u64::from(self.rate));
        profile.times(session.ts, self.wall_ns, period);
        for (what, text) in about::about(session, None, 0, self.wall_ns) {
            profile.comment(&format!("{what}: {text}"));
        }
        profile.comment("sampled: times are estimates");
        for sentence in self.losses() {
            profile.comment(&sentence);
        }
        let (functions, _) = self.stacks.since(0, 0);
        let functions = functions.iter().map(|it| {
            let name = Foreign::new(it.name.as_str()).to_string();
            profile.function(&name, &Foreign::new(it.file.as_str()).to_string(), 0)
        });
        let functions = functions.collect::<io::Result<Vec<u64>>>()?;
        let mut sums: Vec<(&Key, &Counts)> = self.tally.sums().collect();
        sums.retain(|(key, _)| with_idle || !key.idle);
        sums.sort_unstable_by_key(|(key, _)| (key.pid, key.tid, key.context, key.stack, key.idle));
        let mut texts: BTreeMap<String, u64> = BTreeMap::new();
        for (key, counts) in sums {
            let thread = thread_label(key.tid, self.thread_name(key.tid));
            let context = self.stacks.kind(key.context);
            let context = context.map(|kind| Foreign::new(&**kind).to_string());
            let of = [
                ("process", Some(process_name(session, key.pid))),
                ("thread", Some(thread).filter(|_| key.tid > 0)),
                ("context", context),
            ];
            let mut labels = Vec::new();
            for (name, text) in of {
                if let Some(text) = text {
                    let number = texts
                        .entry(text)
                        .or_insert_with_key(|text| profile.string(text));
                    labels.push((name, *number));
                }
            }
            let stack = self.stacks.of(key.stack).iter();
            let stack = stack.filter_map(|at| functions.get(*at as usize).copied());
            let values = [
                counts.all(),
                self.time_ns(counts.all()),
                self.time_ns(counts.on_cpu),
                self.time_ns(counts.waiting),
            ];
            profile.sample(stack, &values, &labels)?;
        }
        profile.finish()
    }

    /// What is missing, as sentences.
    fn losses(&self) -> Vec<String> {
        let mut losses = Vec::new();
        let mut said = |number: u64, one: &str, several: &str| {
            if number > 0 {
                losses.push(view::many(number, one, several));
            }
        };
        said(
            self.torn(),
            "sample is not told, because its stack changed while it was read",
            "samples are not told, because their stacks changed while they were read",
        );
        said(
            self.missed,
            "look was missed for want of time",
            "looks were missed for want of time",
        );
        losses
    }

    /// A page to look at, all of whose numbers are estimates; its stacks by process where that is wanted.
    pub(crate) fn html(&self, session: &Session, by_process: bool) -> Page {
        let about = about::about(session, None, 0, self.wall_ns);
        let mut page = Page::estimated(format!("{}, sampled", about::title(session)), about);
        page.about.extend([
            ("samples", self.samples().to_string()),
            ("samples per second and thread", self.rate.to_string()),
            ("threads", self.threads.to_string()),
        ]);
        page.notes.extend(self.losses());
        let mut sums: Vec<(&Key, &Counts)> = self.tally.sums().collect();
        sums.sort_by_key(|(key, _)| (key.pid, key.stack, key.idle, key.tid));
        let by_process = by_process && sums.iter().any(|(key, _)| key.pid != sums[0].0.pid);
        for (key, counts) in sums {
            let mut frame = match by_process {
                true => page
                    .flames
                    .frame(None, &process_name(session, key.pid), false),
                false => None,
            };
            for function in self.frames(key.stack) {
                frame = page.flames.frame(frame, &name(function), false);
            }
            let (run, wait) = (self.time_ns(counts.on_cpu), self.time_ns(counts.waiting));
            if key.idle {
                let idle = self.time_ns(counts.all());
                page.flames.took(
                    frame,
                    Times {
                        idle,
                        ..Times::default()
                    },
                );
                continue;
            }
            page.flames.took(
                frame,
                Times {
                    run,
                    ..Times::default()
                },
            );
            if wait > 0 {
                let leaf = page.flames.frame(frame, WAITING, true);
                page.flames.took(
                    leaf,
                    Times {
                        wait,
                        ..Times::default()
                    },
                );
            }
        }
        let busy = self.rows(BY_FUNCTION, false, Order::Own, false).rows;
        let busy: BTreeMap<&Function, &Row> = busy
            .iter()
            .map(|row| (row.function.as_ref(), row))
            .collect();
        for row in self.rows(BY_FUNCTION, true, Order::Own, false).rows {
            let ns = |of: fn(&Row) -> Counts| {
                let all = self.time_ns(of(&row).all());
                let busy = busy
                    .get(row.function.as_ref())
                    .map_or(0, |row| self.time_ns(of(row).all()));
                (all, all.saturating_sub(busy))
            };
            let ((own, idle), (cumulative, idle_cumulative)) =
                (ns(|row| row.own), ns(|row| row.total));
            let waiting = busy
                .get(row.function.as_ref())
                .map_or(0, |row| row.own.waiting);
            page.rows.rows.push(html::Row {
                function: Foreign::new(row.function.name.as_str()).to_string(),
                place: Foreign::new(row.function.file.as_str()).to_string(),
                own,
                idle,
                cumulative: Some(cumulative),
                idle_cumulative,
                off: [self.time_ns(waiting), 0, 0],
                ..html::Row::default()
            });
        }
        page
    }

    /// The functions of a stack, the outermost first.
    fn frames(&self, stack: u32) -> impl Iterator<Item = &Function> {
        let functions = self.stacks.of(stack).iter().rev();
        functions.filter_map(|it| Some(self.stacks.named(*it)?.as_ref()))
    }
}

fn name(function: &Function) -> String {
    format!(
        "{} ({})",
        Foreign::new(function.name.as_str()),
        Foreign::new(function.file.as_str())
    )
}

#[cfg(test)]
mod tests {
    use super::super::tally::tests::snapshot;
    use super::*;

    fn seen() -> Snapshot {
        snapshot(&[
            (7, &["f;", "main"], true, false, 3),
            (7, &["f;", "main"], false, false, 2),
            (8, &["select", "main"], false, true, 90),
        ])
    }

    #[test]
    fn stacks_have_the_time_on_the_processor_or_waiting_that_is_asked_for() {
        let session = Session::default();
        let lines = |time, idle| seen().folded(&session, time, idle, false);
        let stack = "process 1, sampled;main (/srv/app.py);f\\u{3b} (/srv/app.py)";
        assert_eq!(lines(Time::Own, false), [format!("{stack} 50000000")]);
        assert_eq!(lines(Time::Cpu, false), [format!("{stack} 30000000")]);
        assert_eq!(
            lines(Time::Off, false),
            [format!("{stack};[waiting] 20000000")]
        );
        assert_eq!(lines(Time::Wall, false).len(), 2);
        assert_eq!(lines(Time::Own, true).len(), 2);
    }

    #[test]
    fn a_page_has_its_estimates_by_function_and_says_that_they_are_some() {
        let page = seen().html(&Session::default(), true);
        assert!(page.is_estimate && page.has_waits);
        let rows: Vec<_> = page
            .rows
            .rows
            .iter()
            .map(|row| {
                (
                    row.function.as_str(),
                    row.own,
                    row.idle,
                    row.cumulative,
                    row.off[0],
                )
            })
            .collect();
        let ms = 1_000_000;
        assert_eq!(
            rows,
            [
                ("select", 900 * ms, 900 * ms, Some(900 * ms), 0),
                ("f;", 50 * ms, 0, Some(50 * ms), 20 * ms),
                ("main", 0, 0, Some(950 * ms), 0),
            ]
        );
        let mut out = Vec::new();
        page.alone().write(&mut out).expect("memory");
        let text = String::from_utf8(out).expect("UTF-8");
        let data = text.split_once("id=\"data\">").expect("data").1;
        let data = data.split_once("</script>").expect("its end").0;
        let data: Value = serde_json::from_str(data).expect("JSON");
        let flames = &data["flames"];
        let sum = |column: &str| {
            let all = flames[column].as_array().expect("a column").iter();
            all.filter_map(Value::as_u64).sum::<u64>()
        };
        assert_eq!(
            ["run", "wait", "idle"].map(sum),
            [30 * ms, 20 * ms, 900 * ms]
        );
        assert_eq!(data["timeline"], Value::Null);
    }

    #[test]
    fn speedscope_has_a_profile_of_each_thread_with_its_weights() {
        let mut out = Vec::new();
        seen()
            .write_speedscope(&Session::default(), &mut out)
            .expect("written");
        let document: Value = serde_json::from_slice(&out).expect("JSON");
        let profile = &document["profiles"][0];
        assert_eq!(
            profile["name"],
            "worker (7), process 1, sampled (estimates)"
        );
        let of = |index: &Value| {
            let at = index.as_u64().expect("a number") as usize;
            document["shared"]["frames"][at]["name"].clone()
        };
        let stack = profile["samples"][0].as_array().expect("a stack");
        assert_eq!(stack.iter().map(of).collect::<Vec<_>>(), ["main", "f;"]);
        assert_eq!(profile["weights"], json!([50_000_000]));
        assert_eq!(document["profiles"][1]["endValue"], 900_000_000);
    }
}
