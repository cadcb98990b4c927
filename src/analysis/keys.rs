//! Functions told apart by a number, so that stacks and tables compare and look up numbers instead of names.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::event::Place;

/// Places whose keys are remembered. A slot is found by the address of the place, so two may compete for one.
const SLOTS: usize = 1 << 13;

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
    slots: Vec<Option<(Arc<Place>, FunctionKey)>>,
}

impl Keys {
    /// The key of a place.
    pub fn of(&mut self, place: &Arc<Place>) -> FunctionKey {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, || None);
        }
        let address = Arc::as_ptr(place) as usize as u64;
        // The low bits of an address are all alike; the top bits of a product depend on every bit.
        let slot = (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 51) as usize;
        match self.slots.get_mut(slot) {
            Some(Some((known, key))) if Arc::ptr_eq(known, place) => *key,
            Some(slot) => {
                let key = FunctionKey::of(place);
                // The place is kept so that its address cannot come to mean another.
                *slot = Some((Arc::clone(place), key));
                key
            }
            None => FunctionKey::of(place),
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
    fn a_remembered_key_is_that_of_the_place_whatever_else_used_its_slot() {
        let mut keys = Keys::default();
        let places: Vec<_> = (0..3 * SLOTS)
            .map(|number| place("a.py", &number.to_string()))
            .collect();
        for _ in 0..2 {
            for place in &places {
                assert_eq!(keys.of(place), FunctionKey::of(place));
            }
        }
    }
}
