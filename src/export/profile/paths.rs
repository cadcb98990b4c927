//! All the ways through a program, as a tree: what each took itself. The tree has a budget; ways for which there is no room
//! are counted in frames called `[other]`, where they branch off, so that no time is missing and none is another's.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::io::{self, Write};

use super::flames::separable;
use super::names;
use crate::analysis::keys::KeyBuilder;
use crate::analysis::overhead::{Intervals, Overhead};
use crate::event::Session;
use crate::event::allowance::shorten;

/// Bytes of a tree, names included: some half a million ways.
pub(super) const BUDGET: usize = 64 << 20;
/// What one frame of the tree costs, with its entry in the table of children.
const NODE: usize = size_of::<Node>() + 56;
/// What a name costs beside its bytes.
const NAME: usize = 64;
/// Bytes of a name; a longer one is cut. A line has thousands of them.
const LONGEST: usize = 500;
/// Bytes of all lines that a flame graph is drawn from.
const DRAWN: usize = 64 << 20;

/// What everything is called for which there is no room.
const OTHER: &str = "[other]";
/// The process of what is not even told apart by process.
const NOBODY: u32 = 0;

/// One frame of all the ways. Those that it was called by come before it.
#[derive(Debug, Clone, Copy)]
pub(in crate::export) struct Frame<'a> {
    /// The process; 0 for what is not told apart.
    pub(in crate::export) pid: u32,
    /// The number of its caller, in this order.
    pub(in crate::export) caller: Option<u32>,
    /// The function, or the reason of a wait.
    pub(in crate::export) name: &'a str,
    /// What it took itself, without idleness.
    pub(in crate::export) own_ns: u64,
    /// Idleness in it.
    pub(in crate::export) idle_ns: u64,
    /// Whether it is the reason of a wait.
    pub(in crate::export) is_wait: bool,
    /// The number of its name, from 0: equal for equal names.
    pub(super) named: u32,
}

/// One way to a function.
#[derive(Debug)]
struct Node {
    pid: u32,
    parent: Option<u32>,
    name: u32,
    own_ns: u64,
    /// The intervals between events that this is made of.
    intervals: Intervals,
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Paths {
    nodes: Vec<Node>,
    /// Child by process, parent and function.
    children: HashMap<(u32, u32, u64), u32, KeyBuilder>,
    names: Vec<String>,
    by_key: HashMap<u64, u32, KeyBuilder>,
    bytes: usize,
    budget: usize,
    /// Calls that are in one of the frames for all others.
    others: u64,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths::within(BUDGET)
    }
}

impl Paths {
    /// No ways, and room for so many bytes of them.
    pub(super) fn within(budget: usize) -> Paths {
        let mut paths = Paths {
            nodes: Vec::new(),
            children: HashMap::default(),
            names: Vec::new(),
            by_key: HashMap::default(),
            bytes: 0,
            budget,
            others: 0,
        };
        paths.name(KeyBuilder.hash_one(OTHER), || OTHER.to_owned());
        paths
    }

    /// The frame of a function below another one, or the one that stands for those for which there is no room.
    pub(super) fn node(
        &mut self,
        pid: u32,
        parent: Option<u32>,
        key: u64,
        name: impl FnOnce() -> String,
    ) -> u32 {
        if let Some(&known) = self.children.get(&place(pid, parent, key)) {
            return known;
        }
        if let Some(parent) = parent
            && self
                .nodes
                .get(parent as usize)
                .is_some_and(|it| it.name == 0)
        {
            self.others += 1;
            return parent;
        }
        if self.bytes + NODE <= self.budget
            && let Some(name) = self.name(key, name)
        {
            return self.add(pid, parent, key, name);
        }
        self.others += 1;
        // Frames for others are small beside what made the budget full, but there is an end to these, too.
        let other = KeyBuilder.hash_one(OTHER);
        for (pid, parent) in [(pid, parent), (pid, None), (NOBODY, None)] {
            if let Some(&known) = self.children.get(&place(pid, parent, other)) {
                return known;
            }
            if self.bytes + NODE <= self.budget + self.budget / 8 || pid == NOBODY {
                return self.add(pid, parent, other, 0);
            }
        }
        0
    }

    /// What a frame took itself, in these intervals between events.
    pub(super) fn ran(&mut self, node: u32, elapsed_ns: u64, intervals: Intervals) {
        if let Some(node) = self.nodes.get_mut(node as usize) {
            node.own_ns = node.own_ns.saturating_add(elapsed_ns);
            node.intervals += intervals;
        }
    }

    /// What can be taken out of all these times together.
    pub(super) fn bound(&self, overhead: Overhead) -> Overhead {
        let nodes = self.nodes.iter();
        let (own_ns, intervals) = nodes.fold((0, Intervals::NONE), |(ns, intervals), node| {
            (node.own_ns.saturating_add(ns), intervals + node.intervals)
        });
        overhead.bounded(own_ns, intervals)
    }

    /// Takes the tracer's cost out of everything, once.
    pub(super) fn take_out(&mut self, overhead: Overhead) {
        for node in &mut self.nodes {
            node.own_ns = overhead.net(node.own_ns, std::mem::take(&mut node.intervals));
        }
    }

    /// A sentence about what found no room, if anything did not.
    pub(super) fn left_out(&self) -> Option<String> {
        let own = |node: &&Node| node.name == 0;
        let took = self
            .nodes
            .iter()
            .filter(own)
            .fold(0, |sum: u64, node| sum.saturating_add(node.own_ns));
        (self.others > 0).then(|| {
            format!(
                "there are more different stacks than are kept ({} MB of them): {} calls that took {:.3} s are in frames \
                 called {OTHER}; record a shorter time, or fewer functions (--function, --module)",
                self.budget >> 20,
                self.others,
                took as f64 / 1e9
            )
        })
    }

    fn add(&mut self, pid: u32, parent: Option<u32>, key: u64, name: u32) -> u32 {
        let node = self.nodes.len() as u32;
        self.children.insert(place(pid, parent, key), node);
        self.nodes.push(Node {
            pid,
            parent,
            name,
            own_ns: 0,
            intervals: Intervals::NONE,
        });
        self.bytes += NODE;
        node
    }

    fn name(&mut self, key: u64, name: impl FnOnce() -> String) -> Option<u32> {
        if let Some(&known) = self.by_key.get(&key) {
            return Some(known);
        }
        let mut name = name();
        shorten(&mut name, LONGEST);
        let bytes = name.len() + NAME;
        if self.bytes + bytes + NODE > self.budget && !self.names.is_empty() {
            return None;
        }
        self.bytes += bytes;
        let number = self.names.len() as u32;
        self.by_key.insert(key, number);
        self.names.push(name);
        Some(number)
    }

    fn name_of(&self, node: &Node) -> &str {
        self.names
            .get(node.name as usize)
            .map_or("", String::as_str)
    }

    /// Every frame with what it took itself, callers before what they called.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Frame<'_>> {
        self.nodes.iter().map(|node| Frame {
            pid: node.pid,
            caller: node.parent,
            name: self.name_of(node),
            own_ns: node.own_ns,
            idle_ns: 0,
            is_wait: false,
            named: node.name,
        })
    }

    /// The number of what a frame is called, 0 where it stands for others.
    pub(super) fn named(&self, node: u32) -> u32 {
        let node = self.nodes.get(node as usize);
        node.map_or(0, |node| node.name)
    }

    /// What the frame of this number is called.
    pub(super) fn name_at(&self, node: u32) -> &str {
        let node = self.nodes.get(node as usize);
        node.map_or("", |node| self.name_of(node))
    }

    /// Writes `frame;frame;frame NANOSECONDS` for each way that took time itself, neighbours together.
    pub(super) fn write(&self, session: &Session, output: &mut dyn Write) -> io::Result<()> {
        Walk::new(self, session).visit(|_| true, |path, own| writeln!(output, "{path} {own}"))
    }

    /// The same lines in memory, for a drawing in which nothing is narrower than this share of the whole, in percent: such
    /// frames are counted as own time of their callers, which are as wide as before. Answers the share that it came to, a
    /// greater one where there would be too many lines.
    pub(super) fn drawn(&self, session: &Session, min_percent: f64) -> (Vec<String>, f64) {
        let mut percent = min_percent;
        let walk = Walk::new(self, session);
        let total = walk.total();
        loop {
            let least = (total as f64 * percent / 100.0 * 0.99) as u64;
            let mut lines = Vec::new();
            let mut bytes = 0;
            let all = walk.visit(
                |inclusive| inclusive >= least,
                |path, own| {
                    bytes += path.len() + 64;
                    if bytes > DRAWN {
                        return Err(io::ErrorKind::OutOfMemory.into());
                    }
                    lines.push(format!("{path} {own}"));
                    Ok(())
                },
            );
            if all.is_ok() {
                return (lines, percent);
            }
            drop(lines);
            percent = (2.0 * percent).max(0.001);
        }
    }
}

fn place(pid: u32, parent: Option<u32>, key: u64) -> (u32, u32, u64) {
    (pid, parent.map_or(0, |parent| parent + 1), key)
}

/// A tree in the order in which it is written.
struct Walk<'a> {
    paths: &'a Paths,
    /// Frames by their callers, those of one caller by process and name.
    order: Vec<u32>,
    /// What each frame and what it called took.
    inclusive: Vec<u64>,
    /// What stands before the stacks of each process: nothing where there is one only.
    processes: HashMap<u32, String>,
}

impl<'a> Walk<'a> {
    fn new(paths: &'a Paths, session: &Session) -> Walk<'a> {
        let nodes = &paths.nodes;
        let mut order: Vec<u32> = (0..nodes.len() as u32).collect();
        order.sort_unstable_by_key(|&at| {
            let node = nodes.get(at as usize);
            node.map(|node| (node.parent, node.pid, paths.name_of(node), at))
        });
        let mut inclusive: Vec<u64> = nodes.iter().map(|node| node.own_ns).collect();
        // Who is called stands behind its caller.
        for (at, node) in nodes.iter().enumerate().rev() {
            let took = inclusive.get(at).copied().unwrap_or(0);
            if let Some(caller) = node
                .parent
                .and_then(|caller| inclusive.get_mut(caller as usize))
            {
                *caller = caller.saturating_add(took);
            }
        }
        let roots = nodes.iter().filter(|node| node.parent.is_none());
        let mut pids: Vec<u32> = roots
            .map(|node| node.pid)
            .filter(|&pid| pid != NOBODY)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        let processes = match pids.len() {
            0 | 1 => HashMap::new(),
            _ => pids
                .into_iter()
                .map(|pid| (pid, separable(names::process(session, pid))))
                .collect(),
        };
        Walk {
            paths,
            order,
            inclusive,
            processes,
        }
    }

    fn total(&self) -> u64 {
        let called = self.called_by(None).iter();
        called.fold(0, |sum: u64, &at| sum.saturating_add(self.took(at)))
    }

    fn took(&self, node: u32) -> u64 {
        self.inclusive.get(node as usize).copied().unwrap_or(0)
    }

    fn called_by(&self, caller: Option<u32>) -> &[u32] {
        let parent = |at: &u32| {
            self.paths
                .nodes
                .get(*at as usize)
                .and_then(|node| node.parent)
        };
        let from = self.order.partition_point(|at| parent(at) < caller);
        let to = self.order.partition_point(|at| parent(at) <= caller);
        self.order.get(from..to).unwrap_or_default()
    }

    /// Hands on every way that took time itself. What is called and not worth showing counts as its caller's own time, and
    /// what nobody called and is not as that of all others.
    fn visit(
        &self,
        shows: impl Fn(u64) -> bool,
        mut each: impl FnMut(&str, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut path = String::new();
        let mut hidden: u64 = 0;
        let mut open: Vec<(u32, usize)> = Vec::new();
        for &root in self.called_by(None) {
            if !shows(self.took(root)) {
                hidden = hidden.saturating_add(self.took(root));
                continue;
            }
            open.push((root, 0));
            while let Some((at, before)) = open.pop() {
                let Some(node) = self.paths.nodes.get(at as usize) else {
                    continue;
                };
                path.truncate(before);
                if node.parent.is_none() {
                    path.push_str(self.processes.get(&node.pid).map_or("", String::as_str));
                }
                if !path.is_empty() {
                    path.push(';');
                }
                path.push_str(self.paths.name_of(node));
                let mut own = node.own_ns;
                for &called in self.called_by(Some(at)).iter().rev() {
                    let took = self.took(called);
                    if shows(took) {
                        open.push((called, path.len()));
                    } else {
                        own = own.saturating_add(took);
                    }
                }
                if own > 0 {
                    each(&path, own)?;
                }
            }
        }
        match hidden {
            0 => Ok(()),
            hidden => each(OTHER, hidden),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(paths: &Paths) -> Vec<String> {
        let mut bytes = Vec::new();
        paths
            .write(&Session::default(), &mut bytes)
            .expect("memory");
        let text = String::from_utf8(bytes).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    /// `count` functions called by one, each of which took 10 ns in this process.
    fn wide(paths: &mut Paths, count: u64) {
        let main = paths.node(1, None, 1, || "main".to_owned());
        for number in 0..count {
            let called = paths.node(1, Some(main), 100 + number, || format!("f{number:07}"));
            let deep = paths.node(1, Some(called), 100 + number, || format!("f{number:07}"));
            paths.ran(deep, 10, Intervals::NONE);
        }
    }

    #[test]
    fn ways_beyond_the_budget_are_in_one_frame_where_they_branch_off_and_no_time_is_missing() {
        let mut paths = Paths::within(200 << 10);
        wide(&mut paths, 100_000);
        assert!(paths.bytes <= (200 << 10) * 9 / 8, "{}", paths.bytes);
        let lines = lines(&paths);
        let took: u64 = lines
            .iter()
            .map(|line| {
                line.rsplit(' ')
                    .next()
                    .expect("a number")
                    .parse::<u64>()
                    .expect("a number")
            })
            .sum();
        assert_eq!(took, 1_000_000, "all of it");
        let others: Vec<_> = lines.iter().filter(|line| line.contains(OTHER)).collect();
        assert!(
            others.iter().any(|line| line.starts_with("main;[other] ")),
            "{others:?}"
        );
        assert!(
            others.iter().all(|line| line.matches(OTHER).count() == 1),
            "{others:?}"
        );
        assert!(lines.contains(&"main;f0000007;f0000007 10".to_owned()));
        let said = paths.left_out().expect("a sentence");
        assert!(said.contains("calls that took 0.00"), "{said}");
    }

    #[test]
    fn ever_more_processes_without_room_share_one_frame() {
        let mut paths = Paths::within(2 << 10);
        for pid in 1..1_000 {
            let node = paths.node(pid, None, 7, || "f".to_owned());
            paths.ran(node, 1, Intervals::NONE);
        }
        assert!(paths.nodes.len() < 40, "{}", paths.nodes.len());
        let lines = lines(&paths);
        assert!(
            lines.iter().any(|line| line.starts_with("[other] ")),
            "{lines:?}"
        );
    }

    #[test]
    fn where_everything_has_room_nothing_is_said() {
        let mut paths = Paths::default();
        wide(&mut paths, 2);
        assert_eq!(paths.left_out(), None);
        assert_eq!(
            lines(&paths),
            ["main;f0000000;f0000000 10", "main;f0000001;f0000001 10"]
        );
    }

    #[test]
    fn what_is_too_narrow_to_be_drawn_widens_its_caller_and_nothing_else() {
        let mut paths = Paths::default();
        let main = paths.node(1, None, 1, || "main".to_owned());
        for (key, took) in [(2, 900), (3, 60), (4, 40)] {
            let called = paths.node(1, Some(main), key, || format!("f{key}"));
            paths.ran(called, took, Intervals::NONE);
        }
        let apart = paths.node(1, None, 5, || "apart".to_owned());
        paths.ran(apart, 20, Intervals::NONE);
        let (lines, percent) = paths.drawn(&Session::default(), 5.0);
        assert_eq!(
            (lines.as_slice(), percent),
            (
                ["main 40", "main;f2 900", "main;f3 60", "[other] 20"]
                    .map(str::to_owned)
                    .as_slice(),
                5.0
            )
        );
        let (lines, _) = paths.drawn(&Session::default(), 0.0);
        assert_eq!(lines.len(), 4);
        assert!(lines.contains(&"main;f4 40".to_owned()));
    }

    #[test]
    fn a_drawing_of_deep_stacks_is_made_coarser_until_its_lines_fit() {
        let mut paths = Paths::default();
        let mut parent = None;
        for depth in 0..4_096_u64 {
            let node = paths.node(1, parent, depth, || format!("{depth:x>90}"));
            // Each level takes time itself, so each has a line: a gigabyte and a half of them.
            paths.ran(node, 4_096, Intervals::NONE);
            parent = Some(node);
        }
        let (lines, percent) = paths.drawn(&Session::default(), 0.0);
        let bytes: usize = lines.iter().map(String::len).sum();
        assert!(bytes <= DRAWN && percent > 0.0, "{bytes} {percent}");
        let total: u64 = lines
            .iter()
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum();
        assert_eq!(total, 4_096 * 4_096, "as wide as before");
    }

    #[test]
    fn a_long_name_is_cut() {
        let mut paths = Paths::default();
        let node = paths.node(1, None, 1, || "ä".repeat(4_000));
        paths.ran(node, 1, Intervals::NONE);
        assert_eq!(lines(&paths), [format!("{}... 1", "ä".repeat(LONGEST / 2))]);
    }
}
