//! In how many calls the fields that were asked for were found, and why not in others.

use std::sync::Arc;

use crate::event::{FieldValue, Fields};

/// Counts fields by their names.
#[derive(Debug, Default)]
pub struct FieldsFound {
    fields: Vec<Found>,
    /// Whether a field that some calls have is complete.
    vary: bool,
}

/// What became of one field.
#[derive(Debug)]
struct Found {
    name: String,
    /// Calls of functions that have its argument, and those of them in which its path led to something.
    calls: u64,
    found: u64,
    /// Why it did not, the first time.
    reason: Option<Arc<str>>,
}

impl FieldsFound {
    /// Of these fields, in the order of their names.
    pub fn new(names: impl IntoIterator<Item = String>) -> FieldsFound {
        let found = |name| Found {
            name,
            calls: 0,
            found: 0,
            reason: None,
        };
        FieldsFound {
            fields: names.into_iter().map(found).collect(),
            vary: false,
        }
    }

    /// Where it is in the nature of things that not every call has each of them, as with the fields of a recipe: a status comes
    /// with one of several messages.
    pub fn varying(self) -> FieldsFound {
        FieldsFound { vary: true, ..self }
    }

    /// Counts those of a call.
    pub fn take(&mut self, fields: &Fields) {
        for field in &fields.0 {
            let mut known = self.fields.iter_mut();
            let Some(found) = known.find(|it| it.name == *field.name) else {
                continue;
            };
            found.calls += 1;
            match &field.value {
                FieldValue::Absent(reason) => {
                    found.reason.get_or_insert_with(|| Arc::clone(reason));
                }
                _ => found.found += 1,
            }
        }
    }

    /// A sentence for each that was found in some calls, or in any where they vary, and one for those that were in none, without
    /// their full stops.
    pub fn sentences(&self) -> impl Iterator<Item = String> {
        let incomplete = self.fields.iter().filter(|it| match self.vary {
            true => it.found == 0,
            false => it.calls == 0 || it.found < it.calls,
        });
        let mut nowhere = Vec::new();
        let mut said = Vec::new();
        for it in incomplete {
            match &it.reason {
                Some(reason) => said.push(format!(
                    "field {} was found in {} of {} calls: {reason}",
                    it.name, it.found, it.calls
                )),
                None => nowhere.push(it.name.as_str()),
            }
        }
        let (fields, was, argument) = match nowhere.len() {
            1 => ("field", "was", "such an argument"),
            _ => ("fields", "were", "their arguments"),
        };
        let nowhere = (!nowhere.is_empty()).then(|| {
            format!(
                "{fields} {} {was} in no call: no function that was called and is traced has {argument}",
                nowhere.join(", ")
            )
        });
        said.into_iter().chain(nowhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Field;

    #[test]
    fn what_was_not_found_everywhere_is_said_with_the_first_reason() {
        let found = || FieldsFound::new(["a", "b", "c"].map(str::to_owned));
        let call = |fields: &[(&str, Option<&str>)]| {
            let field = |&(name, reason): &(&str, Option<&str>)| Field {
                name: name.into(),
                value: match reason {
                    Some(reason) => FieldValue::Absent(reason.into()),
                    None => FieldValue::None,
                },
            };
            Fields(fields.iter().map(field).collect())
        };
        let said = |mut found: FieldsFound| -> Vec<String> {
            found.take(&call(&[("a", None), ("b", Some("x has no key 1"))]));
            found.take(&call(&[("a", None), ("b", Some("another"))]));
            found.take(&call(&[("a", None), ("b", None), ("unknown", None)]));
            found.sentences().collect()
        };
        let nowhere = "field c was in no call: no function that was called and is traced has such an argument";
        let somewhere = "field b was found in 1 of 3 calls: x has no key 1";
        assert_eq!(said(found()), [somewhere, nowhere]);
        assert_eq!(said(found().varying()), [nowhere]);
        // However many they are, that is one line.
        let nobody_called: Vec<String> = found().sentences().collect();
        assert_eq!(
            nobody_called,
            [
                "fields a, b, c were in no call: no function that was called and is traced has their arguments"
            ]
        );
    }
}
