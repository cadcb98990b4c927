//! Stacks with the time that was spent in each: as text, one line per stack, and as a flame graph. Time is own time on the
//! clock, waiting included; a flame's width is the time that a function and what it called took.

use std::hash::BuildHasher;
use std::io::{self, Write};

use inferno::flamegraph::{self, Options};

use super::paths::{Paths, separable};
use super::timeline::{Observer, Timeline};
use super::{Profile, names};
use crate::analysis::contexts::Contexts;
use crate::analysis::keys::KeyBuilder;
use crate::analysis::pairing::{Open, Pairing, Step};
use crate::event::{Event, Session, What};
use crate::text::Foreign;

/// The ways through the program that a stream shows.
#[derive(Debug, Default)]
struct Seen {
    paths: Paths,
    /// What contexts are, where that is to be below their stacks.
    contexts: Option<Contexts>,
}

impl Seen {
    /// The frame below the stacks of a context.
    fn context(&mut self, open: &Open<'_>) -> Option<u32> {
        let label = self.contexts.as_ref()?.label(open.pid, open.context)?;
        let name = || separable(Foreign::new(&*label).to_string());
        let key = KeyBuilder.hash_one(&label);
        Some(self.paths.node(open.pid, None, key, name))
    }
}

impl Observer for Seen {
    fn opens(&mut self, open: &Open<'_>, line: Option<i32>, _ts: u64, parent: Option<u32>) -> u32 {
        let name = || separable(names::function(open.place, line.unwrap_or(0)));
        let parent = parent.or_else(|| self.context(open));
        self.paths.node(open.pid, parent, open.key.number(), name)
    }

    fn closes(&mut self, _pid: u32, _tid: u32, _ts: u64, _tag: u32) {}

    fn ran(&mut self, tag: u32, elapsed_ns: u64) {
        self.paths.ran(tag, elapsed_ns);
    }
}

/// `frame;frame;frame NANOSECONDS`, outermost first: what flame graph tools read.
#[derive(Debug, Default)]
pub struct Folded {
    timeline: Timeline,
    seen: Seen,
}

impl Folded {
    /// Nothing yet. Where it is `by_context`, the kind of greenlet or task is below its stacks.
    pub fn new(by_context: bool) -> Folded {
        Folded {
            seen: Seen {
                contexts: by_context.then(Contexts::default),
                ..Seen::default()
            },
            ..Folded::default()
        }
    }
}

impl Profile for Folded {
    fn event(&mut self, event: &Event, step: &Step<'_>, _output: &mut dyn Write) -> io::Result<()> {
        if let Some(contexts) = &mut self.seen.contexts {
            contexts.take(event);
        }
        self.timeline.take(event, step, &mut self.seen);
        // Of a call that the kernel measured nobody knows from where it was called.
        if let What::Return { place, line, .. } = &event.what
            && let (Some(left), Some(key)) = (step.finished, step.key)
            && left.measured
        {
            let name = || separable(names::function(place, *line));
            let paths = &mut self.seen.paths;
            let node = paths.node(event.pid, None, key.number(), name);
            paths.ran(node, left.self_ns);
        }
        Ok(())
    }

    fn finish(
        self: Box<Self>,
        session: &Session,
        _pairing: &Pairing,
        output: &mut dyn Write,
    ) -> io::Result<Option<String>> {
        self.seen.paths.write(session, output)?;
        Ok(self.seen.paths.left_out())
    }
}

/// Pixels across.
const WIDTH: usize = 1200;

/// An SVG to look at in a browser, where it can be zoomed and searched.
#[derive(Debug)]
pub struct FlameGraph {
    folded: Folded,
    min_width: f64,
}

impl FlameGraph {
    /// Nothing yet. What takes less than `min_width` percent of the time will not be drawn; `by_context` as in [`Folded`].
    pub fn new(min_width: f64, by_context: bool) -> FlameGraph {
        FlameGraph {
            folded: Folded::new(by_context),
            min_width,
        }
    }
}

impl Profile for FlameGraph {
    fn event(&mut self, event: &Event, step: &Step<'_>, output: &mut dyn Write) -> io::Result<()> {
        self.folded.event(event, step, output)
    }

    fn finish(
        self: Box<Self>,
        session: &Session,
        _pairing: &Pairing,
        output: &mut dyn Write,
    ) -> io::Result<Option<String>> {
        let mut options = Options::default();
        options.title = "Time by stack".to_owned();
        options.subtitle = session
            .targets
            .first()
            .filter(|_| session.targets.len() == 1)
            .map(|target| names::process(session, target.pid));
        options.count_name = "µs".to_owned();
        options.factor = 0.001;
        options.deterministic = true;
        // Drawn to be read without scripts, too: in a page, in a mail.
        options.image_width = Some(WIDTH);
        let paths = &self.folded.seen.paths;
        let (lines, percent) = paths.drawn(session, self.min_width);
        options.min_width = percent;
        if lines.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "there are no calls in it that took time, so there is nothing to draw; record with `--events call,return`",
            ));
        }
        flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), output)?;
        let coarser = (percent > self.min_width).then(|| {
            format!(
                "there are too many deep stacks for one picture, so it is drawn with --min-width {percent}; \
                 `--format folded` has all of them"
            )
        });
        let said: Vec<String> = coarser.into_iter().chain(paths.left_out()).collect();
        Ok((!said.is_empty()).then(|| said.join("; ")))
    }
}
