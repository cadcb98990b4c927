//! Functions told apart by a number, so that stacks and tables compare and look up numbers instead of names.

use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use crate::event::{Manner, Place};

/// Sets of places whose keys are remembered. A place's set is found by its address.
const SETS: usize = 1 << SET_BITS;
const SET_BITS: u32 = 14;
/// Places of one set, with all that is asked of them in one line of the processor's cache. A table with one place per set
/// forgets the keys of many of a large program's functions again and again, because two of them share a set.
const WAYS: usize = 2;

/// Names whose functions are told apart by their first lines; those of others are one.
const MOST_NAMES: usize = 1 << 16;
/// Functions of one name in one file that are told apart; further ones are the last of these.
const MOST_NAMESAKES: usize = 64;
/// Lines that are remembered of one name, and of all.
const MOST_OF_NAME: usize = 128;
const MOST_LINES: usize = 1 << 18;

/// A name in a file, by a hash of both (with its classes where they are known): equal for equal places, in every stream and
/// every process. What a return is matched by: it does not say where its function begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameKey(u64);

impl NameKey {
    /// The key of a place, computed anew.
    pub fn of(place: &Place) -> NameKey {
        let mut hasher = DefaultHasher::new();
        place.name().text.hash(&mut hasher);
        place.file.text.hash(&mut hasher);
        NameKey(hasher.finish())
    }

    /// One of `count` buckets, the same for the same key.
    pub(super) fn bucket(self, count: usize) -> usize {
        self.0 as usize % count.max(1)
    }
}

/// A function: a name in a file, and where several functions have the same (the getter and setter of a property, lambdas,
/// wrappers of decorators), the line where it begins. The number is that of the name for the first of them that a stream
/// has, which is mostly the only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionKey(u64);

impl FunctionKey {
    /// The key of a place whose name nothing else has.
    pub fn of(place: &Place) -> FunctionKey {
        NameKey::of(place).into()
    }

    /// The same function where a field has this value.
    pub fn with(self, value: &str) -> FunctionKey {
        FunctionKey(KeyBuilder.hash_one((self.0, value)))
    }

    /// The number itself, for tables.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl From<NameKey> for FunctionKey {
    fn from(name: NameKey) -> FunctionKey {
        FunctionKey(name.0)
    }
}

/// Remembers the keys of places by their addresses, because names are long and nearly every event repeats one; and where
/// functions of one name begin.
#[derive(Debug, Default)]
pub struct Keys {
    sets: Vec<Set>,
    /// What is known of the lines of names.
    namesakes: HashMap<NameKey, Vec<Line>, KeyBuilder>,
    /// Lines of all names.
    lines: usize,
}

/// Where a place is remembered.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    set: usize,
    way: usize,
}

/// Places whose addresses compete: the one that came last first.
#[derive(Debug)]
#[repr(align(64))]
struct Set([Known; WAYS]);

/// A place, its name, and what was last looked up of it.
#[derive(Debug)]
struct Known {
    place: Option<Arc<Place>>,
    name: NameKey,
    last: Last,
}

impl Default for Set {
    fn default() -> Set {
        Set([(); WAYS].map(|()| Known {
            place: None,
            name: NameKey(0),
            last: Last::NOTHING,
        }))
    }
}

/// What was last looked up of a place.
#[derive(Debug, Clone, Copy)]
struct Last {
    /// The line of its last call, and the function that this line is of.
    line: i32,
    function: FunctionKey,
    /// Where that function was left last, 0 where that is not known; whether `line` is where it goes on, and whether the
    /// agent tells the place. To ask the place itself costs a miss of the processor's cache at each event.
    left: u32,
}

/// Bits of [`Last::left`].
const GOES_ON: u32 = 1 << 31;
const TOLD: u32 = 1 << 30;
const FLAGS: u32 = GOES_ON | TOLD;

impl Last {
    const NOTHING: Last = Last {
        line: i32::MIN,
        function: FunctionKey(0),
        left: 0,
    };
}

/// A line at which a function is entered.
#[derive(Debug, Clone, Copy)]
struct Line {
    line: i32,
    /// Whether it begins there. If not, it was left there, and if it is a generator it goes on there.
    begins: bool,
    function: FunctionKey,
}

/// A function that is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Called {
    /// Its name.
    pub name: NameKey,
    /// Itself.
    pub function: FunctionKey,
    /// Whether it goes on, as generators and coroutines do.
    pub goes_on: bool,
}

impl Keys {
    /// Lets go of all places, whose memory is theirs as long as they are remembered. What is known of names stays, but not where
    /// functions were left.
    pub fn let_go(&mut self) {
        self.sets = Vec::new();
    }

    /// The key of a place's name.
    pub fn name(&mut self, place: &Arc<Place>) -> NameKey {
        self.find(place).1
    }

    /// The key of a place's name, and where that is remembered.
    #[inline]
    pub fn named(&mut self, place: &Arc<Place>) -> (Slot, NameKey) {
        self.find(place)
    }

    /// A function that is called at this line. Of those that the agent tells it says which go on, and so which lines are first
    /// ones; others begin at this line, or go on where they were left before.
    #[inline]
    pub fn called(&mut self, (slot, name): (Slot, NameKey), line: i32, manner: Manner) -> Called {
        let told = self.tells(slot);
        if told && manner != Manner::Plain {
            return Called {
                name,
                function: self.around(name, line),
                goes_on: manner == Manner::Suspension,
            };
        }
        self.look_up((slot, name), line, told)
    }

    /// Whether pystap's agent tells the place in a slot, and with it which greenlet or task runs.
    #[inline]
    pub fn tells(&mut self, slot: Slot) -> bool {
        self.last(slot).is_some_and(|last| last.left & TOLD != 0)
    }

    /// A function is left at this line: if it is entered there, it goes on. `slot` is where its place is remembered, `exact`
    /// whether it is beyond doubt which function it is.
    #[inline]
    pub fn left(
        &mut self,
        (slot, name): (Slot, NameKey),
        function: FunctionKey,
        line: i32,
        exact: bool,
    ) {
        if let Some(last) = self.last(slot) {
            let line = line.max(0) as u32 & !FLAGS;
            // The agent says by itself what goes on.
            if last.left & TOLD != 0 || (last.function == function && last.left & !FLAGS == line) {
                return;
            }
            if last.function == function {
                last.left = (last.left & FLAGS) | line;
            }
        }
        self.leave((slot, name), function, line, exact);
    }

    /// See [`Keys::left`].
    #[cold]
    fn leave(
        &mut self,
        (slot, name): (Slot, NameKey),
        function: FunctionKey,
        line: i32,
        exact: bool,
    ) {
        let Some(lines) = self.namesakes.get_mut(&name).filter(|_| line > 0) else {
            return;
        };
        let own = |it: &&Line| it.begins && it.function == function;
        if lines.iter().find(own).is_some_and(|it| it.line >= line) {
            return;
        }
        let left = Line {
            line,
            begins: false,
            function,
        };
        let at = lines.partition_point(|it| it.line < line);
        let room = lines.len() < MOST_OF_NAME && self.lines < MOST_LINES;
        match lines.get_mut(at).filter(|it| it.line == line) {
            // Tracing began while it was suspended, and what was taken for a first line was none.
            Some(known) if exact && known.function != function => {
                *known = left;
                if let Some(last) = self.last(slot) {
                    last.line = i32::MIN;
                }
            }
            None if room => {
                lines.insert(at, left);
                self.lines += 1;
            }
            _ => {}
        }
    }

    #[inline]
    fn look_up(&mut self, (slot, name): (Slot, NameKey), line: i32, begins: bool) -> Called {
        if let Some(known) = self.last(slot)
            && known.line == line
            && !(begins && known.left & GOES_ON != 0)
        {
            return Called {
                name,
                function: known.function,
                goes_on: known.left & GOES_ON != 0,
            };
        }
        let (function, goes_on) = self.at(name, line, begins);
        if let Some(last) = self.last(slot) {
            *last = Last {
                line,
                function,
                left: (last.left & TOLD) | if goes_on { GOES_ON } else { 0 },
            };
        }
        Called {
            name,
            function,
            goes_on,
        }
    }

    /// What was last looked up of the place in a slot.
    #[inline]
    fn last(&mut self, slot: Slot) -> Option<&mut Last> {
        let Set(known) = self.sets.get_mut(slot.set)?;
        Some(&mut known.get_mut(slot.way)?.last)
    }

    /// The function of a name of which this is some line: of those that begin at or before it, the last.
    pub fn around(&self, name: NameKey, line: i32) -> FunctionKey {
        let lines = self.namesakes.get(&name).map_or(&[][..], Vec::as_slice);
        let mut before = lines.iter().rev().skip_while(|it| it.line > line);
        let around = before.find(|it| it.begins);
        around.map_or(name.into(), |it| it.function)
    }

    /// The function that is entered at a line, and whether it goes on there.
    fn at(&mut self, name: NameKey, line: i32, begins: bool) -> (FunctionKey, bool) {
        let is_full = self.namesakes.len() >= MOST_NAMES && !self.namesakes.contains_key(&name);
        // Those for whose names there was no room are one row, wherever they begin.
        if is_full || name == left_out() {
            return (name.into(), false);
        }
        // Nearly every name has one function, and that one line.
        let lines = self.namesakes.entry(name);
        let lines = lines.or_insert_with(|| Vec::with_capacity(1));
        let at = lines.partition_point(|it| it.line < line);
        let known = lines.get_mut(at).filter(|it| it.line == line);
        if let Some(known) = &known
            && (known.begins || !begins)
        {
            return (known.function, !known.begins);
        }
        let functions = lines.iter().filter(|it| it.begins).count();
        let full = lines.len() >= MOST_OF_NAME || self.lines >= MOST_LINES;
        if functions >= MOST_NAMESAKES || full {
            let last = lines.iter().rev().find(|it| it.begins);
            return (last.map_or(name.into(), |it| it.function), false);
        }
        let function = match functions {
            0 => name.into(),
            _ => FunctionKey(KeyBuilder.hash_one((name.0, line as u32))),
        };
        let own = Line {
            line,
            begins: true,
            function,
        };
        match lines.get_mut(at).filter(|it| it.line == line) {
            Some(known) => *known = own,
            None => {
                lines.insert(at, own);
                self.lines += 1;
            }
        }
        (function, false)
    }

    /// Where a place is remembered, and its name.
    #[inline]
    fn find(&mut self, place: &Arc<Place>) -> (Slot, NameKey) {
        if self.sets.is_empty() {
            self.sets.resize_with(SETS, Set::default);
        }
        let address = Arc::as_ptr(place) as usize as u64;
        // The low bits of an address are all alike; the top bits of a product depend on every bit.
        let at = (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SET_BITS)) as usize;
        if let Some(Set(known)) = self.sets.get(at) {
            for (way, known) in known.iter().enumerate() {
                if let Some(other) = &known.place
                    && Arc::ptr_eq(other, place)
                {
                    return (Slot { set: at, way }, known.name);
                }
            }
        }
        self.remember(at, place)
    }

    /// See [`Keys::find`].
    #[cold]
    fn remember(&mut self, set: usize, place: &Arc<Place>) -> (Slot, NameKey) {
        let name = NameKey::of(place);
        if let Some(Set(known)) = self.sets.get_mut(set) {
            known.rotate_right(1);
            let [first, ..] = known;
            // The place is kept so that its address cannot come to mean another.
            *first = Known {
                place: Some(Arc::clone(place)),
                name,
                last: Last {
                    left: if place.qualname.is_some() { TOLD } else { 0 },
                    ..Last::NOTHING
                },
            };
        }
        (Slot { set, way: 0 }, name)
    }
}

/// Hashes for tables whose keys are a few small numbers or hashes already.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyBuilder;

impl BuildHasher for KeyBuilder {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(0)
    }
}

/// See [`KeyBuilder`].
#[derive(Debug)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0.rotate_left(26) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Tables take their slot from the low bits and a tag from the high ones; a product is only mixed at the top.
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// The key of every name for which there was no room.
fn left_out() -> NameKey {
    static KEY: OnceLock<NameKey> = OnceLock::new();
    *KEY.get_or_init(|| NameKey::of(&Place::left_out()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Text;

    fn call(keys: &mut Keys, place: &Arc<Place>, line: i32) -> Called {
        let at = keys.named(place);
        keys.called(at, line, Manner::Plain)
    }

    fn place(file: &str, function: &str) -> Arc<Place> {
        let text = |text: &str| Text {
            text: text.to_owned(),
            ..Text::default()
        };
        Arc::new(Place {
            file: text(file),
            function: text(function),
            qualname: None,
            group: None,
        })
    }

    /// The same as the agent tells it.
    fn told(file: &str, function: &str) -> Arc<Place> {
        let mut place = Place::clone(&place(file, function));
        place.qualname = Some(place.function.clone());
        Arc::new(place)
    }

    #[test]
    fn equal_places_have_one_key_and_others_their_own() {
        let mut keys = Keys::default();
        let key = keys.name(&place("a.py", "f"));
        assert_eq!(key, keys.name(&place("a.py", "f")));
        assert_ne!(key, keys.name(&place("a.py", "g")));
        assert_ne!(key, keys.name(&place("a.pyf", "")));
        assert_ne!(
            keys.name(&place("ab", "c")),
            keys.name(&place("bc", "a")),
            "the border counts"
        );
    }

    #[test]
    fn a_remembered_key_is_that_of_the_place_whatever_else_used_its_slot() {
        let mut keys = Keys::default();
        let places: Vec<_> = (0..3 * SETS * WAYS)
            .map(|number| place("a.py", &number.to_string()))
            .collect();
        for _ in 0..2 {
            for place in &places {
                assert_eq!(keys.name(place), NameKey::of(place));
            }
        }
    }

    #[test]
    fn functions_of_one_name_are_told_apart_by_their_first_lines() {
        let mut keys = Keys::default();
        let value = told("a.py", "Thing.value");
        let name = keys.name(&value);
        let getter = call(&mut keys, &value, 20).function;
        let setter = call(&mut keys, &value, 10).function;
        assert_eq!(getter, FunctionKey::of(&value), "the first that was seen");
        assert_ne!(setter, getter);
        for (line, expected) in [(10, setter), (20, getter), (10, setter)] {
            // Equal places need not be the same.
            let again = told("a.py", "Thing.value");
            let called = Called {
                name,
                function: expected,
                goes_on: false,
            };
            assert_eq!(call(&mut keys, &again, line), called);
            assert_eq!(call(&mut keys, &value, line), called);
        }
        for (line, expected) in [(12, setter), (19, setter), (20, getter), (99, getter)] {
            assert_eq!(keys.around(name, line), expected);
        }
        assert_eq!(keys.around(name, 3), getter, "nothing tells");
    }

    /// What is entered at a line, and left at another.
    fn run(keys: &mut Keys, place: &Arc<Place>, entered: i32, left: i32) -> (FunctionKey, bool) {
        let called = call(keys, place, entered);
        let at = keys.named(place);
        keys.left(at, called.function, left, true);
        (called.function, called.goes_on)
    }

    #[test]
    fn a_generator_is_one_function_wherever_it_goes_on() {
        let (mut keys, numbers) = (Keys::default(), place("a.py", "numbers"));
        let (first, goes_on) = run(&mut keys, &numbers, 10, 12);
        assert!(!goes_on);
        let (other, goes_on) = run(&mut keys, &numbers, 30, 32);
        assert!(!goes_on && other != first);
        for (line, left, function) in [
            (12, 14, first),
            (32, 32, other),
            (14, 12, first),
            (32, 32, other),
        ] {
            assert_eq!(run(&mut keys, &numbers, line, left), (function, true));
        }
        for (line, function) in [(10, first), (30, other)] {
            assert_eq!(run(&mut keys, &numbers, line, line), (function, false));
        }
    }

    #[test]
    fn a_generator_that_was_suspended_when_tracing_began_is_one_function_from_its_first_yield_on() {
        let (mut keys, numbers) = (Keys::default(), place("a.py", "numbers"));
        run(&mut keys, &numbers, 12, 12);
        let (function, _) = run(&mut keys, &numbers, 10, 12);
        for (line, goes_on) in [(12, true), (10, false), (12, true)] {
            assert_eq!(run(&mut keys, &numbers, line, 12), (function, goes_on));
        }
    }

    #[test]
    fn functions_on_one_line_each_stay_apart() {
        let (mut keys, lambda) = (Keys::default(), place("a.py", "<lambda>"));
        let (one, _) = run(&mut keys, &lambda, 5, 5);
        let (two, _) = run(&mut keys, &lambda, 6, 6);
        assert_ne!(one, two);
        assert_eq!(run(&mut keys, &lambda, 5, 5), (one, false));
        assert_eq!(run(&mut keys, &lambda, 6, 6), (two, false));
    }

    #[test]
    fn functions_whose_names_are_left_out_are_one_wherever_they_begin() {
        let mut keys = Keys::default();
        let place = Arc::new(Place::left_out());
        let called = |keys: &mut Keys, line| call(keys, &place, line).function;
        let first = called(&mut keys, 10);
        assert!((11..200).all(|line| called(&mut keys, line) == first));
    }

    #[test]
    fn endless_functions_of_one_name_and_endless_names_are_bounded() {
        let mut keys = Keys::default();
        let one = place("a.py", "<lambda>");
        for line in 0..10 * MOST_NAMESAKES as i32 {
            call(&mut keys, &one, line);
        }
        let functions = keys.namesakes.values().map(Vec::len);
        assert_eq!(functions.max(), Some(MOST_NAMESAKES));
        for line in 0..10 * MOST_OF_NAME as i32 {
            run(&mut keys, &one, line, line.wrapping_mul(7));
        }
        let lines = keys.namesakes.values().map(Vec::len);
        assert_eq!(lines.max(), Some(MOST_OF_NAME));
        for number in 0..MOST_NAMES + 10 {
            call(&mut keys, &place("a.py", &number.to_string()), 1);
        }
        assert_eq!(keys.namesakes.len(), MOST_NAMES);
    }
}
