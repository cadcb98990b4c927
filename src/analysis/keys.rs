//! Functions told apart by a number, so that stacks and tables compare and look up numbers instead of names.

use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::event::Place;

/// Sets of places whose keys are remembered. A place's set is found by its address.
const SETS: usize = 1 << 12;
/// Places of one set, in one line of the processor's cache. A table with one place per set forgets the keys of a third of a
/// large program's functions again and again, because two of them share a set.
const WAYS: usize = 4;

/// Names whose functions are told apart by their first lines; those of others are one.
const MOST_NAMES: usize = 1 << 16;
/// Functions of one name in one file that are told apart; further ones are the last of these.
const MOST_NAMESAKES: usize = 64;

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
    /// For the places in them: the line of the last call that said where its function begins, and that function.
    last: Vec<[(i32, FunctionKey); WAYS]>,
    /// First lines of functions by their name, in the order of the lines.
    namesakes: HashMap<NameKey, Vec<(i32, FunctionKey)>, KeyBuilder>,
}

/// Places whose addresses compete, with their names: the one that came last first.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Set([Option<(Arc<Place>, NameKey)>; WAYS]);

impl Keys {
    /// The key of a place's name.
    pub fn name(&mut self, place: &Arc<Place>) -> NameKey {
        let (_, name) = self.find(place);
        name
    }

    /// The keys of a function that is called, and begins at this line.
    pub fn called(&mut self, place: &Arc<Place>, line: i32) -> (NameKey, FunctionKey) {
        let ((set, way), name) = self.find(place);
        if self.last.is_empty() {
            self.last.resize(SETS, [(i32::MIN, FunctionKey(0)); WAYS]);
        }
        let last = self.last.get_mut(set).and_then(|set| set.get_mut(way));
        if let Some((known, function)) = last
            && *known == line
        {
            return (name, *function);
        }
        let function = self.begins(name, line);
        if let Some(last) = self.last.get_mut(set).and_then(|set| set.get_mut(way)) {
            *last = (line, function);
        }
        (name, function)
    }

    /// The function of a name of which this is some line: of those that begin at or before it, the last.
    pub fn around(&self, name: NameKey, line: i32) -> FunctionKey {
        let functions = self.namesakes.get(&name).map_or(&[][..], Vec::as_slice);
        let behind = functions.partition_point(|(first, _)| *first <= line);
        let around = behind.checked_sub(1).and_then(|at| functions.get(at));
        around.map_or(name.into(), |(_, function)| *function)
    }

    fn begins(&mut self, name: NameKey, line: i32) -> FunctionKey {
        if self.namesakes.len() >= MOST_NAMES && !self.namesakes.contains_key(&name) {
            return name.into();
        }
        let functions = self.namesakes.entry(name).or_default();
        let at = functions.partition_point(|(first, _)| *first < line);
        match functions.get(at) {
            Some((first, function)) if *first == line => *function,
            _ if functions.len() >= MOST_NAMESAKES => {
                let last = functions.last();
                last.map_or(name.into(), |(_, function)| *function)
            }
            _ => {
                let function = match functions.is_empty() {
                    true => name.into(),
                    false => FunctionKey(KeyBuilder.hash_one((name.0, line as u32))),
                };
                functions.insert(at, (line, function));
                function
            }
        }
    }

    /// Where a place is remembered, and its name.
    fn find(&mut self, place: &Arc<Place>) -> ((usize, usize), NameKey) {
        if self.sets.is_empty() {
            self.sets.resize_with(SETS, Set::default);
        }
        let address = Arc::as_ptr(place) as usize as u64;
        // The low bits of an address are all alike; the top bits of a product depend on every bit.
        let at = (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize;
        let Some(Set(known)) = self.sets.get_mut(at) else {
            return ((at, WAYS), NameKey::of(place));
        };
        let mut remembered = known.iter().enumerate();
        let found = remembered.find_map(|(way, known)| {
            let (known, name) = known.as_ref()?;
            Arc::ptr_eq(known, place).then_some((way, *name))
        });
        if let Some((way, name)) = found {
            return ((at, way), name);
        }
        let name = NameKey::of(place);
        known.rotate_right(1);
        let [first, ..] = known;
        // The place is kept so that its address cannot come to mean another.
        *first = Some((Arc::clone(place), name));
        if let Some(last) = self.last.get_mut(at) {
            last.rotate_right(1);
            let [first, ..] = last;
            *first = (i32::MIN, name.into());
        }
        ((at, 0), name)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Text;

    fn place(file: &str, function: &str) -> Arc<Place> {
        let text = |text: &str| Text {
            text: text.to_owned(),
            ..Text::default()
        };
        Arc::new(Place {
            file: text(file),
            function: text(function),
            qualname: None,
        })
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
        let value = place("a.py", "Thing.value");
        let (name, getter) = keys.called(&value, 20);
        let (_, setter) = keys.called(&value, 10);
        assert_eq!(getter, FunctionKey::of(&value), "the first that was seen");
        assert_ne!(setter, getter);
        for (line, expected) in [(10, setter), (20, getter), (10, setter)] {
            // Equal places need not be the same.
            let again = place("a.py", "Thing.value");
            assert_eq!(keys.called(&again, line), (name, expected));
            assert_eq!(keys.called(&value, line), (name, expected));
        }
        for (line, expected) in [(12, setter), (19, setter), (20, getter), (99, getter)] {
            assert_eq!(keys.around(name, line), expected);
        }
        assert_eq!(keys.around(name, 3), getter, "nothing tells");
    }

    #[test]
    fn endless_functions_of_one_name_and_endless_names_are_bounded() {
        let mut keys = Keys::default();
        let one = place("a.py", "<lambda>");
        for line in 0..10 * MOST_NAMESAKES as i32 {
            keys.called(&one, line);
        }
        let functions = keys.namesakes.values().map(Vec::len);
        assert_eq!(functions.max(), Some(MOST_NAMESAKES));
        for number in 0..MOST_NAMES + 10 {
            keys.called(&place("a.py", &number.to_string()), 1);
        }
        assert_eq!(keys.namesakes.len(), MOST_NAMES);
    }
}
