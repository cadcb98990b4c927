//! What a page shows, and how it becomes one file: the viewer's own style and script, and the data between them.

use std::io::{self, Write};

use serde::Serialize;

use super::activity;
use super::digest::sha256;
use super::flames::{self, Flames};
use super::names::Names;
use super::rows::{self, Buckets, Rows};
use crate::analysis::histogram::Histogram;
use crate::export::profile::Stacks;
use crate::text::json_escape;
use crate::text::obeyed;
use crate::view;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Where in the page they go.
const PLACES: [&str; 4] = [
    "<!--policy-->",
    "<!--style-->",
    "<!--data-->",
    "<!--script-->",
];

/// What is known of a recording, to be looked at. All texts are harmless, as [`crate::text::Foreign`] makes them.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// What was traced, in some words.
    pub(crate) title: String,
    /// Whether numbers are estimated from samples.
    pub(crate) is_estimate: bool,
    /// Whether waits are told, so that there is time off the processor.
    pub(crate) has_waits: bool,
    /// Whether functions are left out, whose time is in that of others.
    pub(crate) is_filtered: bool,
    /// What was traced and how: what, and the answer.
    pub(crate) about: Vec<(&'static str, String)>,
    /// What was lost or left out, as sentences.
    pub(crate) notes: Vec<String>,
    /// All stacks.
    pub(crate) flames: Flames,
    /// All functions.
    pub(crate) rows: Rows,
    pub(super) timeline: Option<Timeline>,
    pub(super) generations: Vec<Generation>,
    pub(super) pauses: Vec<Pause>,
}

/// What was done when, and how to call who did it.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) activity: activity::Activity,
    /// Processes.
    pub(super) processes: Vec<(u32, String)>,
    /// Functions by their frames.
    pub(super) stacks: Stacks,
}

/// Collections of one generation.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) generation: Option<i64>,
    pub(super) count: u64,
    pub(super) collected: u64,
    pub(super) pauses: Histogram,
}

/// One of the longest collections.
#[derive(Debug)]
pub(super) struct Pause {
    /// When it began, in nanoseconds since the timeline did.
    pub(super) at: i128,
    pub(super) pause_ns: u64,
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) generation: Option<i64>,
    pub(super) collected: i64,
    pub(super) within: Option<String>,
}

/// The data of a page.
#[derive(Debug, Serialize)]
struct Data<'a> {
    title: &'a str,
    is_estimate: bool,
    has_waits: bool,
    is_filtered: bool,
    compares: bool,
    about: &'a [(&'static str, String)],
    notes: &'a [String],
    names: Vec<&'a str>,
    flames: &'a flames::Shown,
    functions: &'a rows::Shown,
    timeline: Option<&'a activity::Shown>,
    generations: Vec<ShownGeneration>,
    pauses: Vec<ShownPause>,
}

#[derive(Debug, Serialize)]
struct ShownGeneration {
    generation: Option<i64>,
    count: u64,
    collected: u64,
    durations: Option<Buckets>,
}

#[derive(Debug, Serialize)]
struct ShownPause {
    at: i128,
    pause: u64,
    pid: u32,
    tid: u32,
    generation: Option<i64>,
    collected: i64,
    /// The function that ran, -1 where none is known.
    within: i64,
}

/// A page that shows one recording, or what has changed since another one.
#[derive(Debug)]
pub(crate) struct Compared {
    page: Page,
    compares: bool,
}

impl Page {
    /// A page of estimates from samples, without any yet. Samples tell waits, and not when they were taken.
    pub(crate) fn estimated(title: String, about: Vec<(&'static str, String)>) -> Page {
        Page {
            title,
            about,
            is_estimate: true,
            has_waits: true,
            ..Page::default()
        }
    }

    /// Without what is of no use to a page that is compared with this one.
    pub(crate) fn without_times(mut self) -> Page {
        self.timeline = None;
        self.flames = self.flames.grown();
        self
    }

    /// To be shown by itself.
    pub(crate) fn alone(self) -> Compared {
        Compared {
            page: self,
            compares: false,
        }
    }

    /// To be shown as what has changed since `before`.
    pub(crate) fn compared(mut self, before: Page) -> Compared {
        self.is_estimate |= before.is_estimate;
        self.has_waits |= before.has_waits;
        self.is_filtered |= before.is_filtered;
        self.about.push(("compared with", before.title));
        let asked = before.about.into_iter();
        self.about.extend(
            asked
                .filter(|(what, _)| *what == "duration")
                .map(|(_, it)| ("duration of that", it)),
        );
        let notes = before.notes.into_iter();
        self.notes
            .extend(notes.map(|note| format!("of the recording that it is compared with: {note}")));
        self.flames = self.flames.compared(&before.flames);
        self.rows = self.rows.compared(before.rows);
        Compared {
            page: self,
            compares: true,
        }
    }
}

impl Compared {
    /// Writes the file.
    ///
    /// # Errors
    /// The output's.
    pub(crate) fn write(self, output: &mut dyn Write) -> io::Result<()> {
        let Compared { page, compares } = self;
        let Page {
            title,
            is_estimate,
            has_waits,
            is_filtered,
            about,
            mut notes,
            flames,
            rows,
            timeline,
            generations,
            pauses,
        } = page;
        let mut names = Names::default();
        let flames = flames.shown(&mut names);
        if flames.left_out > 0 {
            notes.push(format!(
                "the flame graph has the widest frames only; {} narrower ones count as their callers' own time",
                view::count(flames.left_out)
            ));
        }
        let functions = rows.shown(&mut names);
        let timeline = timeline.map(|it| {
            let process = |pid| {
                let known = it.processes.iter().find(|(known, _)| *known == pid);
                known.map_or_else(|| format!("process {pid}"), |(_, name)| name.clone())
            };
            let function = |frame: u32| it.stacks.name(frame).to_owned();
            it.activity.shown(&mut names, process, function)
        });
        if let Some(timeline) = &timeline {
            notes.extend(timeline.words());
        }
        let pauses = pauses.into_iter().map(|pause| ShownPause {
            at: pause.at,
            pause: pause.pause_ns,
            pid: pause.pid,
            tid: pause.tid,
            generation: pause.generation,
            collected: pause.collected,
            within: pause.within.map_or(-1, |it| i64::from(names.number(&it))),
        });
        let pauses: Vec<ShownPause> = pauses.collect();
        let generations = generations.into_iter().map(|it| ShownGeneration {
            generation: it.generation,
            count: it.count,
            collected: it.collected,
            durations: Buckets::of(&it.pauses),
        });
        let data = Data {
            title: &title,
            is_estimate,
            has_waits,
            is_filtered,
            compares,
            about: &about,
            notes: &notes,
            names: names.all().iter().map(|name| &**name).collect(),
            flames: &flames,
            functions: &functions,
            timeline: timeline.as_ref(),
            generations: generations.collect(),
            pauses,
        };
        let data = embedded(&serde_json::to_string(&data)?);
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
            sha256(SCRIPT),
            sha256(STYLE)
        );
        let mut rest = PAGE;
        for (place, text) in PLACES.into_iter().zip([&policy, STYLE, &data, SCRIPT]) {
            let (before, after) = rest.split_once(place).unwrap_or((rest, ""));
            output.write_all(before.as_bytes())?;
            output.write_all(text.as_bytes())?;
            rest = after;
        }
        output.write_all(rest.as_bytes())
    }
}

/// JSON that nothing around it can take for its end, for a comment or for a line's end, with everything escaped that a
/// terminal or an editor obeys.
fn embedded(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if matches!(character, '<' | '>' | '&') || obeyed(character) {
            text.push_str(&json_escape(character));
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_the_script_that_it_stands_in_and_every_one_comes_out_as_it_was() {
        let evil = "</script><!--<script>&amp;\u{2028}\u{2029}\u{202e}\u{1f600}\u{e0041}\\u003c\"";
        let json = serde_json::to_string(evil).expect("a string");
        let text = embedded(&json);
        assert!(
            !text.contains([
                '<',
                '>',
                '&',
                '\u{2028}',
                '\u{2029}',
                '\u{202e}',
                '\u{e0041}'
            ]),
            "{text}"
        );
        let back: String = serde_json::from_str(&text).expect("JSON");
        assert_eq!(back, evil);
    }

    #[test]
    fn a_page_has_a_place_for_everything_once_and_in_order() {
        let places: Vec<_> = PLACES
            .iter()
            .map(|it| PAGE.find(it).expect("a place"))
            .collect();
        assert!(places.is_sorted(), "{places:?}");
        for place in PLACES {
            assert_eq!(PAGE.matches(place).count(), 1, "{place}");
        }
        for code in [STYLE, SCRIPT] {
            assert!(!code.contains("</"), "nothing in it ends its element");
        }
    }
}
