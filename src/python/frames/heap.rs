//! The objects of an interpreter that can refer to others, found as its garbage collector finds them: in circular lists, one for
//! each generation, whose links are right in front of each object. The program goes on meanwhile, so a list may change under
//! the walk, and during a collection objects are on lists that nothing leads to; such a list is walked again.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Instant;

use foldhash::fast::RandomState;

use super::layout::Layout;
use super::memory::{Memory, Unread, word};
use super::stack::added;

/// What is read at once: a system call costs more than to copy this much, and objects lie close to each other. Where they do not
/// all fit in what is kept, little of each piece may be used before it is dropped.
const CHUNK: u64 = 64 << 10;
const SMALL_CHUNK: u64 = 4 << 10;
/// Most bytes that are kept at a time.
const MOST_KEPT: usize = 64 << 20;
/// Bytes of the collector's state in which the heads of its lists are, in every version.
const HEADS: usize = 160;
/// What is in front of an object: the next one, and the one before.
const LINKS: u64 = 16;
/// The lowest bits of links are flags; this one of the link to the one before says that it is a number now, because the object is
/// being collected or not (Include/internal/pycore_gc.h).
const FLAGS: u64 = 3;
const COLLECTING: u64 = 2;
/// How often a list that changes is walked.
const ATTEMPTS: usize = 6;
/// How often what may be the head of a list is read, while it changes.
const READINGS: usize = 4;
/// How many objects are visited between two looks at the clock.
const STEP: usize = 4096;

/// How far objects are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) until: Instant,
    pub(super) objects: usize,
}

impl Bounds {
    /// Whether there is no time left.
    pub(super) fn are_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

/// How far they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walked {
    pub(super) objects: usize,
    /// Whether those were all.
    pub(super) complete: bool,
}

/// Memory that is read in large pieces, which are kept: each word is of the moment at which the first of its neighbours was
/// wanted.
pub(super) struct Pages<'a, M> {
    memory: &'a M,
    /// Empty for those that cannot be read as a whole.
    chunks: RefCell<HashMap<u64, Box<[u8]>, RandomState>>,
    /// How large they are.
    size: Cell<u64>,
    kept: Cell<usize>,
}

impl<'a, M: Memory> Pages<'a, M> {
    pub(super) fn of(memory: &'a M) -> Pages<'a, M> {
        Pages {
            memory,
            chunks: RefCell::default(),
            size: Cell::new(CHUNK),
            kept: Cell::new(0),
        }
    }

    /// Has what is around this address read anew.
    fn forget(&self, address: u64) {
        let begin = address & !(self.size.get() - 1);
        let removed = self.chunks.borrow_mut().remove(&begin);
        let length = removed.map_or(0, |chunk| chunk.len());
        self.kept.set(self.kept.get().saturating_sub(length));
    }

    /// Reads the chunk around an address, of which something is not kept yet.
    fn fetch(&self, address: u64) {
        let mut chunks = self.chunks.borrow_mut();
        if self.kept.get() >= MOST_KEPT {
            chunks.clear();
            self.kept.set(0);
            self.size.set(SMALL_CHUNK);
        }
        let size = self.size.get();
        let begin = address & !(size - 1);
        let chunk = self.memory.bytes(begin, size as usize).unwrap_or_default();
        self.kept.set(self.kept.get() + chunk.len());
        chunks.insert(begin, chunk.into_boxed_slice());
    }

    /// Copies what is kept; no, where nothing is known of it.
    fn copy(&self, address: u64, into: &mut [u8]) -> Option<Result<(), Unread>> {
        let begin = address & !(self.size.get() - 1);
        let chunks = self.chunks.borrow();
        let chunk = chunks.get(&begin)?;
        let at = (address - begin) as usize;
        Some(match chunk.get(at..at.saturating_add(into.len())) {
            Some(bytes) => {
                into.copy_from_slice(bytes);
                Ok(())
            }
            // It goes on in the next chunk, or memory begins or ends within this one.
            None => self.memory.read(address, into),
        })
    }
}

impl<M: Memory> Memory for Pages<'_, M> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unread> {
        if let Some(copied) = self.copy(address, into) {
            return copied;
        }
        self.fetch(address);
        self.copy(address, into).unwrap_or(Err(Unread::Senseless))
    }
}

/// Visits every object that the collector whose state is at this address knows; several times, where its lists change. `visit`
/// gets the address of an object and that of its type.
pub(super) fn walk<M: Memory>(
    memory: &M,
    layout: &Layout,
    collector: u64,
    bounds: Bounds,
    mut visit: impl FnMut(u64, u64),
) -> Result<Walked, Unread> {
    let object_type = layout.objects.object_type;
    let collects = || Ok(memory.half(added(collector, layout.collecting)?)? != 0);
    let mut walked = Walked {
        objects: 0,
        complete: false,
    };
    for _ in 0..ATTEMPTS {
        let pages = Pages::of(memory);
        // What is collected may be on lists that nothing leads to, and those that are left empty.
        let mut whole = !collects()?;
        let (heads, all) = heads(memory, collector)?;
        // Without any it is no collector.
        whole &= all && !heads.is_empty();
        let mut objects = 0;
        for head in heads {
            let bounds = Bounds {
                objects: bounds.objects - objects,
                ..bounds
            };
            let (count, complete) = list(&pages, head, object_type, bounds, &mut visit);
            objects += count;
            whole &= complete;
        }
        walked.objects = walked.objects.max(objects);
        whole &= !collects()?;
        walked.complete = whole;
        if whole || objects >= bounds.objects || bounds.are_over() {
            break;
        }
    }
    Ok(walked)
}

/// The heads of the lists, each a pair of links in the collector's state, and whether these are surely all.
fn heads<M: Memory>(memory: &M, collector: u64) -> Result<(Vec<u64>, bool), Unread> {
    let bytes = memory.bytes(collector, HEADS)?;
    let (mut heads, mut all) = (Vec::new(), true);
    // 3.13.15 has them at half a word.
    for at in (0..=HEADS as u64 - LINKS).step_by(4) {
        let head = added(collector, at)?;
        match is_head(memory, head, (word(&bytes, at)?, word(&bytes, at + 8)?)) {
            Some(true) => heads.push(head),
            Some(false) => {}
            None => all = false,
        }
    }
    Ok((heads, all))
}

/// Whether these links at an address are the head of a list with objects; `None` where the list changes too much to tell.
fn is_head<M: Memory>(memory: &M, head: u64, mut links: (u64, u64)) -> Option<bool> {
    for _ in 0..READINGS {
        let (next, last) = (links.0 & !FLAGS, links.1 & !FLAGS);
        // One without objects leads to itself.
        if next == 0 || next == head || last == head {
            return Some(false);
        }
        let (Ok(after), Ok(before)) = (memory.number(last), memory.number(added(next, 8).ok()?))
        else {
            return Some(false);
        };
        // While its objects are collected, a head does not know its last one; how far the list is in order, its walk says.
        if after & !FLAGS == head || before & COLLECTING != 0 {
            return Some(true);
        }
        let Ok(bytes) = memory.bytes(head, LINKS as usize) else {
            return Some(false);
        };
        let again = (word(&bytes, 0).ok()?, word(&bytes, 8).ok()?);
        if again == links {
            return Some(false);
        }
        // Its last object has come or gone between two readings.
        links = again;
    }
    None
}

/// Walks a list: how many objects were on it, and whether it was in order from its head back to it.
fn list<M: Memory>(
    pages: &Pages<M>,
    head: u64,
    object_type: u64,
    bounds: Bounds,
    visit: &mut impl FnMut(u64, u64),
) -> (usize, bool) {
    let (mut count, mut in_order, mut before) = (0, true, head);
    let links = |at: u64| -> Result<(u64, u64), Unread> {
        Ok((pages.number(at)? & !FLAGS, pages.number(added(at, 8)?)?))
    };
    let Ok((mut at, _)) = links(head) else {
        return (0, false);
    };
    while at != head {
        if count >= bounds.objects || count % STEP == STEP - 1 && bounds.are_over() {
            return (count, false);
        }
        let Ok((mut next, mut last)) = links(at) else {
            return (count, false);
        };
        if last & !FLAGS != before {
            // What was kept may be old.
            pages.forget(before);
            pages.forget(at);
            let Ok(((again, _), now)) = links(before).and_then(|it| Ok((it, links(at)?))) else {
                return (count, false);
            };
            (next, last) = now;
            if again != at || last & !FLAGS != before {
                in_order = false;
                if last & COLLECTING == 0 || again != at {
                    return (count, false);
                }
            }
        }
        let object = at.wrapping_add(LINKS);
        let Ok(its_type) = pages.number(object.wrapping_add(object_type)) else {
            return (count, false);
        };
        visit(object, its_type);
        count += 1;
        (before, at) = (at, next);
    }
    (count, in_order)
}
