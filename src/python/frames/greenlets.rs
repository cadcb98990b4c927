//! Greenlets that are switched out, each with its Python stack.
//!
//! A greenlet keeps where its part of the C stack is, how much of that had to make room for others and where the copy of it is,
//! and behind that its innermost frame, which it has as long as it does not run. Up to 1.x the object itself has these fields,
//! from 2.0 on what it points to. Where exactly differs between versions and is found out from what is there: it is the place at
//! which the bounds of a stack make sense and an object for a frame follows.
//!
//! One that eventlet has wait for a descriptor stands in a function that has it in a local variable.
//!
//! From Python 3.12 on some of the interpreter's frames are on the C stack, where others may be by now. Greenlet takes them out of
//! the chain when it switches (`expose_frames`), so they are not met here.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::alike::{Alike, Groups, MOST_MARKS, Unknown};
use super::frame::Frame;
use super::heap::{Bounds, Pages};
use super::layout::Frames;
use super::memory::{Memory, Unread};
use super::objects::Reader;
use super::stack::{self, Raw, added};
use super::types::{Kind, Types};

/// Greenlets that are read, and then read again, at a time.
const BATCH: usize = 1 << 10;
/// How often one that does not hold still is read by itself.
const ATTEMPTS: usize = 4;
/// Objects of the library's type that are no larger have their fields elsewhere, and point to them here (greenlet.h).
const SMALL: u64 = 48;
const ELSEWHERE: u64 = 32;
/// Where the bounds of the stack may begin. Behind the last such place there may be another greenlet's fields.
const FIRST: u64 = 8;
const LAST: u64 = 88;
/// How far the innermost frame may be from there, in the versions that were looked at: five fields, and none, the context, or
/// the greenlet's parent and its function in between.
const BEHIND: [u64; 3] = [40, 48, 56];
/// Where the object for a frame points to the frame, from 3.11 on (Include/internal/pycore_frame.h).
const FRAME_OF_OBJECT: u64 = 24;
/// The function of eventlet that waits for a descriptor, the end of its file, and its variable that has the descriptor.
const WAITS: (&str, &str) = ("trampoline", "/eventlet/hubs/__init__.py");
const DESCRIPTOR: &str = "fileno";
/// How many frames from the innermost on it is looked for, how many local variables it may have, and most functions that are
/// remembered.
const NEAR: usize = 4;
const MOST_LOCALS: u64 = 64;
const MOST_FUNCTIONS: usize = 1 << 14;
/// Where a tuple says how many items it has.
const TUPLE_SIZE: u64 = 16;

/// Greenlets with the same stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greenlets {
    pub(crate) count: usize,
    /// Descriptors that they wait for: of the first of them, where that is known.
    pub(crate) descriptors: Vec<u32>,
    /// The innermost first.
    pub(crate) frames: Vec<Frame>,
    /// Whether there are more.
    pub(crate) cut: bool,
    /// Whether reading them twice gave the same.
    pub(crate) same: bool,
}

impl From<Alike<(), u32>> for Greenlets {
    fn from(alike: Alike<(), u32>) -> Greenlets {
        let mut descriptors = alike.marks;
        descriptors.sort_unstable();
        descriptors.truncate(MOST_MARKS);
        Greenlets {
            count: alike.count,
            descriptors,
            frames: alike.frames,
            cut: alike.cut,
            same: alike.same,
        }
    }
}

/// Where greenlets have what is read of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    stack: u64,
    frame: u64,
}

/// Which of these greenlets are switched out, those with the same stack together, the most frequent first; and those of which it is
/// not known what they do.
pub(super) fn parked<M: Memory>(
    reader: &Reader<M>,
    types: &Types,
    greenlets: &[u64],
    bounds: Bounds,
) -> (Vec<Greenlets>, Unknown) {
    let search = Search {
        reader,
        types,
        place: Cell::new(None),
        waiting: RefCell::default(),
    };
    search.group(greenlets, bounds)
}

struct Search<'a, M> {
    reader: &'a Reader<M>,
    types: &'a Types,
    /// Known once a greenlet that is switched out was looked at.
    place: Cell<Option<Place>>,
    /// Code objects that were looked at: where frames of theirs have the descriptor that they wait for, if they do.
    waiting: RefCell<HashMap<u64, Option<u64>>>,
}

/// A greenlet that is switched out.
#[derive(Debug, PartialEq, Eq)]
struct Suspended {
    /// The innermost first.
    frames: Vec<Raw>,
    descriptor: Option<u32>,
}

impl<M: Memory> Search<'_, M> {
    fn group(&self, greenlets: &[u64], bounds: Bounds) -> (Vec<Greenlets>, Unknown) {
        let (mut groups, mut unknown) = (Groups::default(), Unknown::default());
        for greenlets in greenlets.chunks(BATCH) {
            if bounds.are_over() {
                unknown.all += greenlets.len();
                continue;
            }
            let pages = Pages::of(&self.reader.memory);
            let read = greenlets.iter().map(|it| self.greenlet(&pages, *it));
            let read: Vec<_> = read.collect();
            let pages = Pages::of(&self.reader.memory);
            for (greenlet, was) in greenlets.iter().zip(read) {
                let (suspended, same) = match (was, self.greenlet(&pages, *greenlet)) {
                    (Ok(was), Ok(now)) if was == now => (Ok(now), true),
                    _ => self.by_itself(*greenlet),
                };
                let is_kept = match suspended {
                    // It runs, has not begun, or has finished.
                    Ok(None) => true,
                    Ok(Some(Suspended { frames, descriptor })) => {
                        groups.add(frames, (), same, || descriptor)
                    }
                    Err(_) => {
                        unknown.restless += 1;
                        false
                    }
                };
                unknown.all += usize::from(!is_kept);
            }
        }
        let shown = groups.shown(self.reader, &mut unknown.all);
        let mut shown: Vec<Greenlets> = shown.into_iter().map(Greenlets::from).collect();
        shown.sort_by(|one, other| {
            let frames = one.frames.cmp(&other.frames);
            other.count.cmp(&one.count).then(frames)
        });
        (shown, unknown)
    }

    /// A greenlet that did not hold still, and whether it does now.
    fn by_itself(&self, greenlet: u64) -> (Result<Option<Suspended>, Unread>, bool) {
        let memory = &self.reader.memory;
        let mut was = self.greenlet(memory, greenlet);
        for _ in 0..ATTEMPTS {
            let now = self.greenlet(memory, greenlet);
            let is_same = matches!((&was, &now), (Ok(was), Ok(now)) if was == now);
            if is_same {
                return (now, true);
            }
            was = now;
        }
        (was, false)
    }

    /// A greenlet; `None` where it is not switched out.
    fn greenlet(&self, memory: &impl Memory, object: u64) -> Result<Option<Suspended>, Unread> {
        let layout = &self.reader.layout;
        let its_type = self.types.of(memory, layout, object)?;
        if its_type.kind != Kind::Greenlet {
            return Err(Unread::Senseless);
        }
        let fields = match its_type.size <= SMALL {
            true => memory.number(added(object, ELSEWHERE)?)?,
            false => object,
        };
        let Some(place) = self.place.get().or_else(|| self.place(memory, fields)) else {
            // One of another layout that is switched out has its frame somewhere, too.
            let mut places = (FIRST..=LAST + BEHIND[2]).step_by(8);
            return match places.any(|at| self.is_frame(memory, fields, at)) {
                true => Err(Unread::Senseless),
                false => Ok(None),
            };
        };
        self.place.set(Some(place));
        let frame = memory.number(added(fields, place.frame)?)?;
        if frame == 0 {
            return Ok(None);
        }
        if !are_bounds(memory, added(fields, place.stack)?)?
            || self.types.of(memory, layout, frame)?.kind != Kind::Frame
        {
            return Err(Unread::Senseless);
        }
        let innermost = match layout.frames {
            Frames::Objects { .. } => frame,
            Frames::Structures { .. } => memory.number(added(frame, FRAME_OF_OBJECT)?)?,
        };
        let frames = stack::chain(memory, layout, innermost)?.frames;
        let descriptor = self.descriptor(memory, &frames);
        Ok(Some(Suspended { frames, descriptor }))
    }

    /// The descriptor that a greenlet with this stack waits for, if it does.
    fn descriptor(&self, memory: &impl Memory, frames: &[Raw]) -> Option<u32> {
        let mut near = frames.iter().take(NEAR);
        let (frame, at) = near.find_map(|raw| Some((raw.address, self.waits_by(raw.code)?)))?;
        let number = stack::object(memory.number(frame.checked_add(at)?).ok()?);
        self.reader.small_number(memory, number).ok()?
    }

    /// Where frames of this code object have the descriptor that they wait for; `None` where it is of another function.
    fn waits_by(&self, code: u64) -> Option<u64> {
        if let Some(known) = self.waiting.borrow().get(&code) {
            return *known;
        }
        let at = self.look_up(code);
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() < MOST_FUNCTIONS {
            waiting.insert(code, at);
        }
        at
    }

    fn look_up(&self, code: u64) -> Option<u64> {
        let (memory, layout) = (&self.reader.memory, &self.reader.layout);
        let (function, _) = self.reader.functions(&[code]).ok()?.pop()?;
        if function.name != WAITS.0 || !function.file.ends_with(WAITS.1) {
            return None;
        }
        let names = memory.number(code.checked_add(layout.local_names)?).ok()?;
        let count = memory.number(names.checked_add(TUPLE_SIZE)?).ok()?;
        let mut places = 0..count.min(MOST_LOCALS);
        let place = places.find(|place| {
            let item = names.checked_add(layout.objects.tuple_items + place * 8);
            let name = item.and_then(|item| memory.number(item).ok());
            name.is_some_and(|name| self.reader.name(name).is_ok_and(|it| it == DESCRIPTOR))
        })?;
        Some(layout.locals + place * 8)
    }

    /// Where greenlets have what is read of them, if this one is switched out.
    fn place(&self, memory: &impl Memory, fields: u64) -> Option<Place> {
        let places = (FIRST..=LAST).step_by(8);
        let places = places.flat_map(|stack| {
            BEHIND.map(|behind| Place {
                stack,
                frame: stack + behind,
            })
        });
        let mut fitting = places.filter(|place| {
            let at = fields.checked_add(place.stack);
            at.is_some_and(|at| are_bounds(memory, at).is_ok_and(|are| are))
                && self.is_frame(memory, fields, place.frame)
        });
        fitting.next()
    }

    fn is_frame(&self, memory: &impl Memory, fields: u64, at: u64) -> bool {
        let its_type = added(fields, at)
            .and_then(|at| memory.number(at))
            .and_then(|object| self.types.of(memory, &self.reader.layout, object));
        its_type.is_ok_and(|its_type| its_type.kind == Kind::Frame)
    }
}

/// Whether the bounds of the stack of a greenlet that is switched out are at this address.
fn are_bounds(memory: &impl Memory, at: u64) -> Result<bool, Unread> {
    let field = |number: u64| memory.number(added(at, number * 8)?);
    // From the lowest address of the stack to the highest; what of it is copied, and how many bytes that is. The first greenlet
    // of a thread has the whole of it.
    let [start, stop, copy, saved] = [field(0)?, field(1)?, field(2)?, field(3)?];
    let size = stop.checked_sub(start).filter(|size| *size > 0);
    let fits = start > 1 && size.is_some_and(|size| saved <= size);
    Ok(fits && (copy == 0) == (saved == 0))
}
