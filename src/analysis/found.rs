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
    /// Whether returns tell it, and not calls.
    at_return: bool,
    /// Calls of functions that have its argument, and those of them in which its path led to something.
    calls: u64,
    found: u64,
    /// Why it did not, the first time.
    reason: Option<Arc<str>>,
}

impl FieldsFound {
    /// Of these fields, in the order of their names, each with whether returns tell it. They `vary` where it is in the nature of things
    /// that not every call has each of them, as with the fields of a recipe: a status comes with one of several messages.
    pub fn new(fields: impl IntoIterator<Item = (String, bool)>, vary: bool) -> FieldsFound {
        let found = |(name, at_return)| Found {
            name,
            at_return,
            calls: 0,
            found: 0,
            reason: None,
        };
        FieldsFound {
            fields: fields.into_iter().map(found).collect(),
            vary,
        }
    }

    /// Counts those that calls tell, or returns.
    pub fn take(&mut self, fields: &Fields, at_return: bool) {
        for field in &fields.0 {
            let mut known = self.fields.iter_mut();
            let is_it = |it: &&mut Found| it.at_return == at_return && it.name == *field.name;
            let Some(found) = known.find(is_it) else {
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
        let found =
            |vary| FieldsFound::new(["a", "b", "c"].map(|name| (name.to_owned(), false)), vary);
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
            found.take(&call(&[("a", None), ("b", Some("x has no key 1"))]), false);
            found.take(&call(&[("a", None), ("b", Some("another"))]), false);
            found.take(&call(&[("a", None), ("b", None), ("unknown", None)]), false);
            found.sentences().collect()
        };
        let nowhere = "field c was in no call: no function that was called and is traced has such an argument";
        let somewhere = "field b was found in 1 of 3 calls: x has no key 1";
        assert_eq!(said(found(false)), [somewhere, nowhere]);
        assert_eq!(said(found(true)), [nowhere]);
        // What returns tell is counted with them, and not with what they have of their calls.
        let fields = [("a".to_owned(), false), ("b".to_owned(), true)];
        let mut of_returns = FieldsFound::new(fields, false);
        of_returns.take(&call(&[("a", None)]), false);
        of_returns.take(&call(&[("a", None), ("b", None)]), true);
        of_returns.take(&call(&[("a", None), ("b", Some("x has no rows"))]), true);
        let said: Vec<String> = of_returns.sentences().collect();
        assert_eq!(said, ["field b was found in 1 of 2 calls: x has no rows"]);
        // However many they are, that is one line.
        let nobody_called: Vec<String> = found(false).sentences().collect();
        assert_eq!(
            nobody_called,
            [
                "fields a, b, c were in no call: no function that was called and is traced has their arguments"
            ]
        );
    }
}
