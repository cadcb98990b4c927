//! The tree of a flame graph, small enough for a page: what takes little is taken for its caller's.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::names::Names;
use crate::analysis::keys::KeyBuilder;

/// Frames that are put together, some hundred bytes each. Further ones are their callers'.
const MOST: usize = if cfg!(test) { 4096 } else { 1 << 19 };
/// Bytes of names.
const MOST_BYTES: usize = 64 << 20;
/// Frames of a page.
pub(super) const MOST_SHOWN: usize = if cfg!(test) { 256 } else { 30_000 };
/// What everything is called that is too narrow and has no caller.
const NARROW: &str = "[narrower]";

/// How time was spent in a frame itself, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Times {
    /// Running, or waiting where waits are not told.
    pub(crate) run: u64,
    /// Waiting for anything but work.
    pub(crate) wait: u64,
    /// Idleness.
    pub(crate) idle: u64,
}

impl Times {
    fn add(&mut self, more: Times) {
        self.run = self.run.saturating_add(more.run);
        self.wait = self.wait.saturating_add(more.wait);
        self.idle = self.idle.saturating_add(more.idle);
    }

    fn all(self) -> u64 {
        self.run.saturating_add(self.wait).saturating_add(self.idle)
    }
}

#[derive(Debug, Clone)]
struct Frame {
    caller: Option<u32>,
    name: u32,
    is_wait: bool,
    times: Times,
    /// In the other recording.
    before: Times,
}

/// See the head of the module.
#[derive(Debug, Default)]
pub(crate) struct Flames {
    names: Vec<Arc<str>>,
    by_name: HashMap<Arc<str>, u32>,
    bytes: usize,
    frames: Vec<Frame>,
    called: HashMap<(Option<u32>, u32), u32, KeyBuilder>,
    /// Frames for which there was no room.
    without_room: u64,
}

/// A tree by columns, as a page has it; times in nanoseconds. `before` is empty where there is nothing to compare with.
#[derive(Debug, Default, Serialize)]
pub(super) struct Shown {
    /// The number of the caller, which comes before; -1 of none.
    caller: Vec<i64>,
    name: Vec<u32>,
    /// Those that are reasons of waits.
    waits: Vec<u32>,
    run: Vec<u64>,
    wait: Vec<u64>,
    idle: Vec<u64>,
    run_before: Vec<u64>,
    wait_before: Vec<u64>,
    idle_before: Vec<u64>,
    /// How many frames are not shown by themselves.
    #[serde(skip)]
    pub(super) left_out: u64,
}

impl Flames {
    /// The frame of that name below another one, or that one where there is no room.
    pub(crate) fn frame(&mut self, caller: Option<u32>, name: &str, is_wait: bool) -> Option<u32> {
        let known = self.by_name.get(name).copied();
        if let Some(number) = known
            && let Some(frame) = self.called.get(&(caller, number))
        {
            return Some(*frame);
        }
        if self.frames.len() >= MOST || self.bytes > MOST_BYTES {
            self.without_room += 1;
            return caller;
        }
        let name = known.unwrap_or_else(|| {
            let (text, number) = (Arc::<str>::from(name), self.names.len() as u32);
            self.bytes += text.len();
            self.names.push(Arc::clone(&text));
            self.by_name.insert(text, number);
            number
        });
        let frame = self.frames.len() as u32;
        self.called.insert((caller, name), frame);
        self.frames.push(Frame {
            caller,
            name,
            is_wait,
            times: Times::default(),
            before: Times::default(),
        });
        Some(frame)
    }

    /// A frame took so long itself. What has none is of everybody.
    pub(crate) fn took(&mut self, frame: Option<u32>, times: Times) {
        if let Some(frame) = self.counted(frame) {
            frame.times.add(times);
        }
    }

    /// The same without what it takes to find frames, to which none will be added.
    pub(super) fn grown(self) -> Flames {
        Flames {
            names: self.names,
            frames: self.frames,
            without_room: self.without_room,
            ..Flames::default()
        }
    }

    fn counted(&mut self, frame: Option<u32>) -> Option<&mut Frame> {
        let frame = match frame {
            Some(frame) => frame,
            None => self.everybody(),
        };
        self.frames.get_mut(frame as usize)
    }

    /// The frame for what has no other.
    fn everybody(&mut self) -> u32 {
        let number = match self.by_name.get(NARROW) {
            Some(number) => *number,
            None => {
                let (text, number) = (Arc::<str>::from(NARROW), self.names.len() as u32);
                self.names.push(Arc::clone(&text));
                self.by_name.insert(text, number);
                number
            }
        };
        let next = self.frames.len() as u32;
        let frame = *self.called.entry((None, number)).or_insert(next);
        if frame == next {
            self.frames.push(Frame {
                caller: None,
                name: number,
                is_wait: false,
                times: Times::default(),
                before: Times::default(),
            });
        }
        frame
    }

    fn name(&self, frame: &Frame) -> &str {
        self.names.get(frame.name as usize).map_or("", |name| name)
    }

    /// Another recording's beside it, with which it is compared.
    pub(super) fn compared(self, before: &Flames) -> Flames {
        let mut both = Flames {
            without_room: self.without_room + before.without_room,
            ..Flames::default()
        };
        for (of, is_before) in [(&self.grown(), false), (before, true)] {
            let mut places: Vec<Option<u32>> = Vec::with_capacity(of.frames.len());
            for frame in &of.frames {
                let caller = frame.caller.and_then(|at| places.get(at as usize).copied());
                let name = without_line(of.name(frame));
                let place = both.frame(caller.flatten(), &name, frame.is_wait);
                places.push(place);
                if let Some(sum) = both.counted(place) {
                    match is_before {
                        true => sum.before.add(frame.times),
                        false => sum.times.add(frame.times),
                    }
                }
            }
        }
        both
    }

    /// The widest frames, as many as a page has room for; the others are their callers' own time.
    pub(super) fn shown(mut self, names: &mut Names) -> Shown {
        if self.frames.len() > MOST_SHOWN {
            // Made while there is something to be left out, so that it has a place.
            self.everybody();
        }
        let all = |frame: &Frame| frame.times.all().saturating_add(frame.before.all());
        let mut inclusive: Vec<u64> = self.frames.iter().map(all).collect();
        for (at, frame) in self.frames.iter().enumerate().rev() {
            let took = inclusive.get(at).copied().unwrap_or(0);
            let caller = frame.caller.and_then(|it| inclusive.get_mut(it as usize));
            if let Some(caller) = caller {
                *caller = caller.saturating_add(took);
            }
        }
        let took = |at: u32| inclusive.get(at as usize).copied().unwrap_or(0);
        let mut widest: Vec<u32> = (0..self.frames.len() as u32)
            .filter(|&at| took(at) > 0)
            .collect();
        let some = widest.len();
        // A caller is as wide as what it called, and comes before it.
        widest.sort_unstable_by_key(|&at| (Reverse(took(at)), at));
        widest.truncate(MOST_SHOWN);
        let mut shows = vec![false; self.frames.len()];
        for at in &widest {
            if let Some(shows) = shows.get_mut(*at as usize) {
                *shows = true;
            }
        }
        let left_out = (some - widest.len()) as u64 + self.without_room;
        let everybody = (left_out > 0 && some > widest.len()).then(|| self.everybody());
        if let Some(shows) = everybody.and_then(|at| shows.get_mut(at as usize)) {
            *shows = true;
        }
        for at in (0..self.frames.len()).rev() {
            let Some(frame) = self
                .frames
                .get(at)
                .filter(|_| shows.get(at) == Some(&false))
            else {
                continue;
            };
            let (times, before) = (frame.times, frame.before);
            let to = frame.caller.or(everybody);
            if let Some(to) = to.and_then(|to| self.frames.get_mut(to as usize)) {
                to.times.add(times);
                to.before.add(before);
            }
        }
        self.columns(&shows, left_out, names)
    }

    fn columns(&self, shows: &[bool], left_out: u64, names: &mut Names) -> Shown {
        let mut shown = Shown {
            left_out,
            ..Shown::default()
        };
        let compares = self.frames.iter().any(|frame| frame.before.all() > 0);
        let mut places: Vec<i64> = Vec::with_capacity(self.frames.len());
        for (at, frame) in self.frames.iter().enumerate() {
            let place = shown.name.len();
            let is_shown = shows.get(at) == Some(&true);
            places.push(if is_shown { place as i64 } else { -1 });
            if !is_shown {
                continue;
            }
            let caller = frame.caller.and_then(|caller| places.get(caller as usize));
            shown.caller.push(caller.copied().unwrap_or(-1));
            shown.name.push(names.number(self.name(frame)));
            if frame.is_wait {
                shown.waits.push(place as u32);
            }
            shown.run.push(frame.times.run);
            shown.wait.push(frame.times.wait);
            shown.idle.push(frame.times.idle);
            if compares {
                shown.run_before.push(frame.before.run);
                shown.wait_before.push(frame.before.wait);
                shown.idle_before.push(frame.before.idle);
            }
        }
        shown
    }
}

/// `function (file)` of `function (file:line)`: lines move from one version of a program to the next.
fn without_line(name: &str) -> Cow<'_, str> {
    let place = name.strip_suffix(')').and_then(|it| it.rsplit_once(':'));
    match place {
        Some((before, line)) if !line.is_empty() && line.bytes().all(|it| it.is_ascii_digit()) => {
            format!("{before})").into()
        }
        _ => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(run: u64) -> Times {
        Times {
            run,
            ..Times::default()
        }
    }

    fn names(shown: &Shown, names: &Names) -> Vec<String> {
        let names = names.all();
        shown
            .name
            .iter()
            .map(|at| names[*at as usize].to_string())
            .collect()
    }

    #[test]
    fn what_is_too_narrow_for_a_page_is_its_callers_and_no_time_is_missing() {
        let mut flames = Flames::default();
        let main = flames.frame(None, "main", false);
        for number in 0..3_000_u64 {
            let called = flames.frame(main, &format!("f{number:04}"), false);
            flames.took(called, run(1 + number));
        }
        let mut known = Names::default();
        let shown = flames.shown(&mut known);
        assert_eq!(
            shown.name.len(),
            MOST_SHOWN + 1,
            "and one for what has no caller"
        );
        assert_eq!(shown.left_out as usize, 3_001 - MOST_SHOWN);
        assert_eq!(shown.run.iter().sum::<u64>(), 3_000 * 3_001 / 2);
        let left: u64 = (1..=3_001 - MOST_SHOWN as u64).sum();
        assert_eq!(shown.run[0], left, "main has what is not shown by itself");
        assert!(names(&shown, &known).contains(&"f2999".to_owned()));
    }

    #[test]
    fn ever_more_frames_are_put_together_within_a_bound_and_no_time_is_missing() {
        let mut flames = Flames::default();
        for number in 0..3 * MOST as u64 {
            let frame = flames.frame(None, &number.to_string(), false);
            flames.took(frame, run(1));
        }
        assert!(flames.frames.len() <= MOST + 1);
        let shown = flames.shown(&mut Names::default());
        assert_eq!(shown.run.iter().sum::<u64>(), 3 * MOST as u64);
        assert!(shown.left_out >= 2 * MOST as u64);
    }

    #[test]
    fn two_recordings_are_compared_by_function_and_file_whatever_the_line_is() {
        let of = |name: &str, ns| {
            let mut flames = Flames::default();
            let main = flames.frame(None, "main (app.py:1)", false);
            let called = flames.frame(main, name, false);
            flames.took(called, run(ns));
            flames
        };
        let both = of("f (app.py:7)", 5).compared(&of("f (app.py:9)", 3));
        let mut known = Names::default();
        let shown = both.shown(&mut known);
        assert_eq!(names(&shown, &known), ["main (app.py)", "f (app.py)"]);
        assert_eq!((shown.run, shown.run_before), (vec![0, 5], vec![0, 3]));
        assert_eq!(without_line("<a:b>"), "<a:b>");
    }
}
