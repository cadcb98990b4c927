//! Stacks with the time that was spent in each: as text, a line a stack, and as a flame graph. Time is own time on the
//! clock, waiting included; a flame's width is the time that a function and what it called took.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::io::{self, Write};

use inferno::flamegraph::{self, Options};

use super::timeline::{Observer, Timeline};
use super::{Profile, names};
use crate::analysis::contexts::Contexts;
use crate::analysis::keys::KeyBuilder;
use crate::analysis::pairing::{Open, Pairing, Step};
use crate::event::{Event, Session, What};
use crate::text::Foreign;

/// One way to a function.
#[derive(Debug)]
struct Node {
    pid: u32,
    parent: Option<u32>,
    name: u32,
    own_ns: u64,
}

/// All the ways through the program. Grows with their number, not with that of events.
#[derive(Debug, Default)]
struct Paths {
    nodes: Vec<Node>,
    /// Child by process, parent and function.
    children: HashMap<(u32, u32, u64), u32, KeyBuilder>,
    names: Vec<String>,
    by_key: HashMap<u64, u32, KeyBuilder>,
    /// What contexts are, where that is to be below their stacks.
    contexts: Option<Contexts>,
}

impl Paths {
    fn node(
        &mut self,
        pid: u32,
        parent: Option<u32>,
        key: u64,
        name: impl FnOnce() -> String,
    ) -> u32 {
        let next = self.nodes.len() as u32;
        let of = (pid, parent.map_or(0, |parent| parent + 1), key);
        let node = *self.children.entry(of).or_insert(next);
        if node == next {
            let fresh = self.names.len() as u32;
            let name_of = *self.by_key.entry(key).or_insert(fresh);
            if name_of == fresh {
                self.names.push(name());
            }
            self.nodes.push(Node {
                pid,
                parent,
                name: name_of,
                own_ns: 0,
            });
        }
        node
    }

    /// The node below the stacks of a context.
    fn context(&mut self, open: &Open<'_>) -> Option<u32> {
        let label = self.contexts.as_ref()?.label(open.pid, open.context)?;
        let name = || separable(Foreign::new(&*label).to_string());
        Some(self.node(open.pid, None, KeyBuilder.hash_one(&label), name))
    }

    /// A line a stack that took time.
    fn lines(&self, session: &Session) -> Vec<String> {
        let mut pids: Vec<u32> = self.nodes.iter().map(|node| node.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let mut lines = Vec::new();
        for node in self.nodes.iter().filter(|node| node.own_ns > 0) {
            let mut stack = Vec::new();
            let mut next = Some(node);
            while let Some(node) = next {
                stack.push(
                    self.names
                        .get(node.name as usize)
                        .map_or("", String::as_str),
                );
                next = node
                    .parent
                    .and_then(|parent| self.nodes.get(parent as usize));
            }
            // With one process there is nothing to tell apart.
            let process = (pids.len() > 1).then(|| separable(names::process(session, node.pid)));
            stack.extend(process.as_deref());
            stack.reverse();
            lines.push(format!("{} {}", stack.join(";"), node.own_ns));
        }
        lines.sort_unstable();
        lines
    }
}

/// Semicolons separate frames, so that a name shows its own as [`Foreign`] does.
fn separable(name: String) -> String {
    name.replace(';', "\\u{3b}")
}

impl Observer for Paths {
    fn opens(&mut self, open: &Open<'_>, line: Option<i32>, _ts: u64, parent: Option<u32>) -> u32 {
        let name = || separable(names::function(open.place, line.unwrap_or(0)));
        let parent = parent.or_else(|| self.context(open));
        self.node(open.pid, parent, open.key.number(), name)
    }

    fn closes(&mut self, _pid: u32, _tid: u32, _ts: u64, _tag: u32) {}

    fn ran(&mut self, tag: u32, elapsed_ns: u64) {
        if let Some(node) = self.nodes.get_mut(tag as usize) {
            node.own_ns = node.own_ns.saturating_add(elapsed_ns);
        }
    }
}

/// `frame;frame;frame NANOSECONDS`, outermost first: what flame graph tools read.
#[derive(Debug, Default)]
pub struct Folded {
    timeline: Timeline,
    paths: Paths,
}

impl Folded {
    /// Nothing yet. Where it is `by_context`, the kind of greenlet or task is below its stacks.
    pub fn new(by_context: bool) -> Folded {
        Folded {
            paths: Paths {
                contexts: by_context.then(Contexts::default),
                ..Paths::default()
            },
            ..Folded::default()
        }
    }
}

impl Profile for Folded {
    fn event(&mut self, event: &Event, step: &Step<'_>, _output: &mut dyn Write) -> io::Result<()> {
        if let Some(contexts) = &mut self.paths.contexts {
            contexts.take(event);
        }
        self.timeline.take(event, step, &mut self.paths);
        // Of a call that the kernel measured nobody knows from where it was called.
        if let What::Return { place, line, .. } = &event.what
            && let (Some(left), Some(key)) = (step.left, step.key)
            && left.measured
        {
            let name = || separable(names::function(place, *line));
            let node = self.paths.node(event.pid, None, key.number(), name);
            self.paths.ran(node, left.self_ns);
        }
        Ok(())
    }

    fn finish(
        self: Box<Self>,
        session: &Session,
        _pairing: &Pairing,
        output: &mut dyn Write,
    ) -> io::Result<()> {
        for line in self.paths.lines(session) {
            writeln!(output, "{line}")?;
        }
        Ok(())
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
    ) -> io::Result<()> {
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
        options.min_width = self.min_width;
        let lines = self.folded.paths.lines(session);
        if lines.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "there are no calls in it that took time, so there is nothing to draw; record with `--events call,return`",
            ));
        }
        flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), output)
    }
}
