//! The fields of calls that are open, which their returns have, too. What a program puts into them is its business, so they
//! are counted in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::event::{Field, FieldValue, Fields};

/// Bytes of the fields of all open calls; the returns of further ones have none.
pub(super) const MAX_FIELDS: usize = 16 << 20;

/// How much room the fields of open calls take.
#[derive(Debug, Default)]
pub(super) struct FieldsRoom {
    taken: Arc<AtomicUsize>,
    left_out: u64,
}

impl FieldsRoom {
    /// Keeps the fields of a call while it is open, where they have room.
    pub(super) fn keep(&mut self, fields: &Arc<Fields>) -> Option<KeptFields> {
        let bytes = fields.bytes();
        if self.taken.load(Ordering::Relaxed).saturating_add(bytes) > MAX_FIELDS {
            self.left_out += 1;
            return None;
        }
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        Some(KeptFields {
            fields: Arc::clone(fields),
            bytes,
            taken: Arc::clone(&self.taken),
        })
    }

    /// Calls whose fields had none.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}

/// Fields that take room until this goes.
#[derive(Debug)]
pub(super) struct KeptFields {
    fields: Arc<Fields>,
    bytes: usize,
    taken: Arc<AtomicUsize>,
}

impl KeptFields {
    pub(super) fn fields(&self) -> &Arc<Fields> {
        &self.fields
    }

    /// They, with what the return told itself, which takes the place of what has its name; in the order of their names, as always.
    pub(super) fn with(&self, returned: Option<Arc<Fields>>) -> Arc<Fields> {
        let Some(returned) = returned else {
            return Arc::clone(&self.fields);
        };
        let tells = |field: &Field| {
            let known = returned.get(&field.name);
            known.is_some_and(|it| *it == field.value || !matches!(it, FieldValue::Absent(_)))
        };
        // As in a recording, where returns have all.
        if self.fields.0.iter().all(tells) {
            return returned;
        }
        let mut all = returned.0.clone();
        for field in &self.fields.0 {
            match all.iter_mut().find(|it| it.name == field.name) {
                Some(known) if matches!(known.value, FieldValue::Absent(_)) => {
                    known.value = field.value.clone();
                }
                Some(_) => {}
                None => all.push(field.clone()),
            }
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Arc::new(Fields(all))
    }
}

impl Drop for KeptFields {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
