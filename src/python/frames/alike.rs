//! What waits without a thread of its own, put together by stack: a service has thousands of tasks or greenlets in a few places.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use super::frame::Frame;
use super::memory::Memory;
use super::objects::Reader;
use super::stack::{self, DEEPEST, Raw};

/// Most stacks that are told apart, and most of their frames together.
const MOST_GROUPS: usize = 1 << 13;
const MOST_FRAMES: usize = 1 << 18;
/// Most marks that are kept of those with the same stack.
pub(super) const MOST_MARKS: usize = 64;

/// Those with the same stack that wait for the same.
pub(super) struct Alike<W, N> {
    /// What tells them from each other: of the first of them.
    pub(super) marks: Vec<N>,
    pub(super) count: usize,
    /// The innermost first.
    pub(super) frames: Vec<Frame>,
    /// Whether there are more.
    pub(super) cut: bool,
    pub(super) waits: W,
    /// Whether reading them twice gave the same.
    pub(super) same: bool,
}

/// Those of which it is not known what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Unknown {
    pub(super) all: usize,
    /// Of these, those that were looked at and had ended, or did not hold still.
    pub(super) restless: usize,
}

impl Unknown {
    /// Of so many, how many were looked at.
    pub(super) fn looked_at(self, of: usize) -> usize {
        of.saturating_sub(self.all - self.restless)
    }
}

/// What makes them equal: the code and the instruction of each frame, what they wait for, and how well they were read.
type Key<W> = (Vec<(u64, u64)>, W, bool);

/// A stack, and those that have it.
struct Group<N> {
    /// The innermost first.
    frames: Vec<Raw>,
    marks: Vec<N>,
    count: usize,
}

/// Puts together what has the same stack. `W` is what they wait for, `N` what tells them from each other.
pub(super) struct Groups<W, N> {
    found: HashMap<Key<W>, Group<N>>,
    frames: usize,
}

impl<W, N> Default for Groups<W, N> {
    fn default() -> Groups<W, N> {
        Groups {
            found: HashMap::new(),
            frames: 0,
        }
    }
}

impl<W: Clone + Eq + Hash, N> Groups<W, N> {
    /// Adds one, with its frames from the innermost on; no, where there is no room for another stack.
    pub(super) fn add(
        &mut self,
        chain: Vec<Raw>,
        waits: W,
        same: bool,
        mark: impl FnOnce() -> Option<N>,
    ) -> bool {
        let frames = chain.iter().map(|raw| (raw.code, raw.instruction));
        let is_full = self.found.len() >= MOST_GROUPS || self.frames + chain.len() > MOST_FRAMES;
        let group = match self.found.entry((frames.collect(), waits, same)) {
            Entry::Vacant(_) if is_full => return false,
            Entry::Vacant(place) => {
                self.frames += chain.len();
                place.insert(Group {
                    frames: chain,
                    marks: Vec::new(),
                    count: 0,
                })
            }
            Entry::Occupied(place) => place.into_mut(),
        };
        group.count += 1;
        if group.marks.len() < MOST_MARKS {
            group.marks.extend(mark());
        }
        true
    }

    /// The groups as people see them: different instructions may be of the same line. Those whose functions cannot be read
    /// are counted.
    pub(super) fn shown<M: Memory>(
        self,
        reader: &Reader<M>,
        unread: &mut usize,
    ) -> Vec<Alike<W, N>> {
        let mut shown: Vec<Alike<W, N>> = Vec::new();
        let mut places: HashMap<(Vec<Frame>, W, bool), usize> = HashMap::new();
        for ((_, waits, same), group) in self.found {
            let Ok(frames) = stack::frames(reader, &group.frames) else {
                *unread += group.count;
                continue;
            };
            let frames: Vec<Frame> = frames.into_iter().map(Frame::from).collect();
            match places.entry((frames.clone(), waits.clone(), same)) {
                Entry::Vacant(place) => {
                    place.insert(shown.len());
                    shown.push(Alike {
                        marks: group.marks,
                        count: group.count,
                        cut: group.frames.len() == DEEPEST,
                        frames,
                        waits,
                        same,
                    });
                }
                Entry::Occupied(place) => {
                    if let Some(alike) = shown.get_mut(*place.get()) {
                        alike.count += group.count;
                        alike.marks.extend(group.marks);
                    }
                }
            }
        }
        shown
    }
}
