//! Functions told apart by a number, so that stacks and tables compare and look up numbers instead of names.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::event::Place;

/// Sets of places whose keys are remembered. A place's set is found by its address.
const SETS: usize = 1 << 12;
/// Places of one set, in one line of the processor's cache. A table with one place per set forgets the keys of a third of a
/// large program's functions again and again, because two of them share a set.
const WAYS: usize = 4;

/// A function, by a hash of its file and name (with its classes where they are known): equal for equal places, in every stream and every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionKey(u64);

impl FunctionKey {
    /// The key of a place, computed anew.
    pub fn of(place: &Place) -> FunctionKey {
        let mut hasher = DefaultHasher::new();
        place.name().text.hash(&mut hasher);
        place.file.text.hash(&mut hasher);
        FunctionKey(hasher.finish())
    }

    /// The number itself, for tables.
    pub fn number(self) -> u64 {
        self.0
    }

    /// One of `count` buckets, the same for the same key.
    pub(super) fn bucket(self, count: usize) -> usize {
        self.0 as usize % count.max(1)
    }
}

/// Remembers the keys of places by their addresses: names are long, and nearly every event repeats one.
#[derive(Debug, Default)]
pub struct Keys {
    sets: Vec<Set>,
}

/// Places whose addresses compete, the one that came last first.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Set([Option<(Arc<Place>, FunctionKey)>; WAYS]);

impl Keys {
    /// The key of a place.
    pub fn of(&mut self, place: &Arc<Place>) -> FunctionKey {
        if self.sets.is_empty() {
            self.sets.resize_with(SETS, Set::default);
        }
        let address = Arc::as_ptr(place) as usize as u64;
        // The low bits of an address are all alike; the top bits of a product depend on every bit.
        let at = (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize;
        let Some(Set(known)) = self.sets.get_mut(at) else {
            return FunctionKey::of(place);
        };
        let mut remembered = known.iter().flatten();
        match remembered.find(|(known, _)| Arc::ptr_eq(known, place)) {
            Some((_, key)) => *key,
            None => {
                let key = FunctionKey::of(place);
                known.rotate_right(1);
                let [first, ..] = known;
                // The place is kept so that its address cannot come to mean another.
                *first = Some((Arc::clone(place), key));
                key
            }
        }
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
        let key = keys.of(&place("a.py", "f"));
        assert_eq!(key, keys.of(&place("a.py", "f")));
        assert_ne!(key, keys.of(&place("a.py", "g")));
        assert_ne!(key, keys.of(&place("a.pyf", "")));
        assert_ne!(
            keys.of(&place("ab", "c")),
            keys.of(&place("bc", "a")),
            "the border counts"
        );
    }

    #[test]
    fn a_remembered_key_is_that_of_the_place_whatever_else_used_its_set() {
        let mut keys = Keys::default();
        let places: Vec<_> = (0..3 * SETS * WAYS)
            .map(|number| place("a.py", &number.to_string()))
            .collect();
        for _ in 0..2 {
            for place in &places {
                assert_eq!(keys.of(place), FunctionKey::of(place));
            }
        }
    }
}
