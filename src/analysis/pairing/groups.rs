//! Functions apart by the value of a field: each value has a place and a key of its own, so that whatever adds up calls, shows
//! them or draws them has a function for each.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use crate::analysis::keys::{FunctionKey, KeyBuilder, NameKey};
use crate::event::allowance::place_bytes;
use crate::event::{FieldValue, Fields, Group, Place};

/// Values that are told apart, of all functions together, and the bytes of their places; further ones are one for each
/// function.
pub(super) const MOST_VALUES: usize = 4096;
const MOST_BYTES: usize = 16 << 20;

/// What stands for the values for which there was no room.
const OTHERS: &str = "(others)";

/// By which field, and what was made for its values.
#[derive(Debug)]
pub(super) struct Groups {
    field: String,
    places: HashMap<NameKey, HashMap<String, Arc<Place>>, KeyBuilder>,
    /// How many values of a function are shown alike, by a hash of both.
    alike: HashMap<u64, usize, KeyBuilder>,
    count: usize,
    bytes: usize,
    /// Calls with values for which there was no room.
    without_room: u64,
}

impl Groups {
    pub(super) fn new(field: &str) -> Groups {
        Groups {
            field: field.to_owned(),
            places: HashMap::default(),
            alike: HashMap::default(),
            count: 0,
            bytes: 0,
            without_room: 0,
        }
    }

    pub(super) fn without_room(&self) -> u64 {
        self.without_room
    }

    /// The place and the key of a function with this name and key in a call with these fields; nothing where it has no such
    /// field.
    pub(super) fn of(
        &mut self,
        (name, key): (NameKey, FunctionKey),
        place: &Arc<Place>,
        fields: &Fields,
    ) -> Option<(Arc<Place>, FunctionKey)> {
        let value = match fields.get(&self.field)? {
            FieldValue::Text(text) | FieldValue::Bytes(text) => Cow::Borrowed(text.text.as_str()),
            other => Cow::Owned(other.to_string()),
        };
        let known = self
            .places
            .get(&name)
            .and_then(|values| values.get(&*value));
        if let Some(known) = known {
            return Some((Arc::clone(known), key.with(&value)));
        }
        let bytes = place_bytes(place) + 2 * value.len();
        let has_room = self.count < MOST_VALUES && self.bytes + bytes <= MOST_BYTES;
        let value = match has_room {
            true => value,
            false => {
                self.without_room += 1;
                Cow::Borrowed(OTHERS)
            }
        };
        let is_new = !self.places.contains_key(&name);
        if is_new && (self.places.len() >= 2 * MOST_VALUES || self.bytes > 2 * MOST_BYTES) {
            return None;
        }
        let values = self.places.entry(name).or_default();
        if let Some(known) = values.get(&*value) {
            return Some((Arc::clone(known), key.with(&value)));
        }
        self.count += usize::from(has_room);
        self.bytes += bytes;
        let shown = KeyBuilder.hash_one((name, Group::shown(&value)));
        let nth = self.alike.entry(shown).or_default();
        *nth += 1;
        let grouped = Arc::new(Place {
            group: Some(Arc::new(Group::new(place, &self.field, &value, *nth))),
            ..Place::clone(place)
        });
        values.insert(value.clone().into_owned(), Arc::clone(&grouped));
        Some((grouped, key.with(&value)))
    }
}
