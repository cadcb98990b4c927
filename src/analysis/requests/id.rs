//! What names a request: the whole value of a field, or a part of it that stands by itself.

use std::borrow::Cow;

use crate::event::{FieldValue, Fields};

/// Longest id in bytes. What is longer names no request in a list.
const LONGEST: usize = 256;

/// The request that is looked for.
#[derive(Debug, Clone)]
pub struct RequestId {
    id: String,
    /// Of these fields; of all where none is named.
    fields: Vec<String>,
}

impl RequestId {
    /// A request by its id, in these fields, or in any where none is named.
    pub fn new(id: &str, fields: &[String]) -> RequestId {
        RequestId {
            id: id.to_owned(),
            fields: fields.to_vec(),
        }
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.id
    }

    /// Whether a call with these fields belongs to it.
    pub fn is_in(&self, fields: &Fields) -> bool {
        let named = |name: &str| self.fields.is_empty() || self.fields.iter().any(|it| it == name);
        let mut present = fields.present().filter(|field| named(&field.name));
        present.any(|field| match &field.value {
            FieldValue::Text(text) | FieldValue::Bytes(text) => has(&text.text, &self.id),
            FieldValue::Integer(number) => self.id.parse() == Ok(*number),
            _ => false,
        })
    }
}

/// Whether a text is this id, or has it somewhere with nothing before and behind it that could belong to another id.
fn has(text: &str, id: &str) -> bool {
    if id.is_empty() {
        return false;
    }
    // Between the hyphens of a `traceparent`.
    let is_trace = is_hex(id, 32);
    let other = |it: char| it.is_alphanumeric() || it == '_' || (it == '-' && !is_trace);
    text.match_indices(id).any(|(at, _)| {
        let (before, rest) = text.split_at(at);
        let behind = rest.get(id.len()..).unwrap_or_default();
        !before.ends_with(other) && !behind.starts_with(other)
    })
}

/// The request that a value names: the trace of a `traceparent`, the id of OpenStack's in a longer text, else the whole value.
pub fn id_of(value: &FieldValue) -> Option<Cow<'_, str>> {
    let text = match value {
        FieldValue::Text(text) | FieldValue::Bytes(text) => text.text.trim(),
        FieldValue::Integer(number) => return Some(number.to_string().into()),
        _ => return None,
    };
    let id = trace_of(text).or_else(|| openstack(text)).unwrap_or(text);
    (!id.is_empty() && id.len() <= LONGEST).then_some(Cow::Borrowed(id))
}

/// The trace of a W3C `traceparent`.
fn trace_of(text: &str) -> Option<&str> {
    traceparent(text).map(|(trace, _)| trace)
}

/// The trace and the span of a W3C `traceparent`, each in hexadecimal digits.
pub fn traceparent(text: &str) -> Option<(&str, &str)> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let fits = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    fits.then_some((trace, span))
}

/// `req-` with a UUID.
fn openstack(text: &str) -> Option<&str> {
    const LENGTH: usize = "req-".len() + 36;
    let mut places = text.match_indices("req-");
    places.find_map(|(at, _)| {
        let id = text.get(at..at + LENGTH)?;
        let groups = id.split('-').skip(1);
        let lengths = [8, 4, 4, 4, 12];
        let fits = groups.clone().count() == lengths.len();
        let each = groups
            .zip(lengths)
            .all(|(group, length)| is_hex(group, length));
        (fits && each && has(text, id)).then_some(id)
    })
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|it| it.is_ascii_hexdigit())
}

/// Whether a field is one that names requests, going by its name and the last one on its path.
pub fn names_requests(name: &str, path: &str) -> bool {
    let last = path.rsplit(['.', '[']).next().unwrap_or(path);
    let last = last.trim_matches(|it: char| !it.is_alphanumeric());
    [name, last].into_iter().any(|name| {
        let name = name.to_ascii_lowercase();
        let whole = matches!(name.as_str(), "req" | "rid" | "reqid" | "req_id");
        let parts = ["request", "trace", "correlation"];
        whole || parts.iter().any(|part| name.contains(part))
    })
}

/// The ids that are most like this one, the nearest first: what somebody may have meant.
pub fn nearest<'a>(id: &str, among: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    /// As many as fit in a sentence.
    const SHOWN: usize = 3;
    /// Beginnings that are this long are no accident.
    const BEGINNING: usize = 8;
    let wanted: Vec<char> = id.chars().take(LONGEST).collect();
    let mut near: Vec<(usize, &str)> = Vec::new();
    for other in among {
        let characters: Vec<char> = other.chars().take(LONGEST).collect();
        let same = wanted
            .iter()
            .zip(&characters)
            .take_while(|(one, other)| one == other);
        let begins_alike = same.count() >= BEGINNING;
        let steps = distance(&wanted, &characters);
        if begins_alike || steps <= wanted.len() / 3 {
            near.push((steps, other));
            near.sort_unstable();
            near.truncate(SHOWN);
        }
    }
    near.into_iter().map(|(_, other)| other).collect()
}

/// How many characters must change, come or go to make one of the other (Levenshtein's distance).
fn distance(one: &[char], other: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, mine) in one.iter().enumerate() {
        let mut diagonal = at;
        let mut left = at + 1;
        for (cell, theirs) in row.iter_mut().skip(1).zip(other) {
            let above = *cell;
            let changed = diagonal + usize::from(mine != theirs);
            left = changed.min(above + 1).min(left + 1);
            (diagonal, *cell) = (above, left);
        }
        if let Some(first) = row.first_mut() {
            *first = at + 1;
        }
    }
    row.last().copied().unwrap_or(one.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::text;
    use crate::event::Field;

    const UUID: &str = "req-7d2a5f1e-0b1c-4a3d-9e8f-001122334455";
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn fields(values: &[(&str, FieldValue)]) -> Fields {
        let field = |(name, value): &(&str, FieldValue)| Field {
            name: (*name).into(),
            value: value.clone(),
        };
        Fields(values.iter().map(field).collect())
    }

    fn string(value: &str) -> FieldValue {
        FieldValue::Text(text(value))
    }

    #[test]
    fn a_value_names_a_request_as_a_whole_or_in_a_part_that_stands_by_itself() {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        for (value, id, expected) in [
            (UUID, UUID, true),
            (parent.as_str(), TRACE, true),
            ("[req-a admin demo]", "req-a", true),
            ("global_id=req-a", "req-a", true),
            ("req-ab", "req-a", false),
            ("xreq-a", "req-a", false),
            ("req-a-b", "req-a", false),
            ("17", "7", false),
            ("7", "7", true),
            ("req-ab req-a", "req-a", true),
            ("größe", "größ", false),
            ("", "", false),
            (UUID, "", false),
        ] {
            let one = fields(&[("f", string(value))]);
            assert_eq!(
                RequestId::new(id, &[]).is_in(&one),
                expected,
                "{value} {id}"
            );
        }
    }

    #[test]
    fn numbers_name_a_request_and_what_is_no_text_does_not() {
        for (value, id, expected) in [
            (FieldValue::Integer(-12), "-12", true),
            (FieldValue::Integer(12), "1", false),
            (FieldValue::Bytes(text("req-a")), "req-a", true),
            (FieldValue::None, "None", false),
            (FieldValue::Bool(true), "True", false),
            (FieldValue::Other("Context".to_owned()), "Context", false),
            (
                FieldValue::Absent("req-a has no value".into()),
                "req-a",
                false,
            ),
        ] {
            let one = fields(&[("f", value.clone())]);
            assert_eq!(RequestId::new(id, &[]).is_in(&one), expected, "{value:?}");
        }
    }

    #[test]
    fn only_the_fields_that_are_named_count() {
        let both = fields(&[("method", string("get")), ("request", string("req-a"))]);
        let by = |id: &str, name: &str| RequestId::new(id, &[name.to_owned()]).is_in(&both);
        assert!(by("req-a", "request") && by("get", "method"));
        assert!(!by("req-a", "method") && !by("get", "request"));
    }

    #[test]
    fn a_list_has_traces_and_openstacks_ids_without_what_is_around_them() {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let around = format!("[{UUID} admin]");
        for (value, expected) in [
            (string(UUID), Some(UUID)),
            (string(&around), Some(UUID)),
            (string(&parent), Some(TRACE)),
            (string(" a b "), Some("a b")),
            (string("00-12-34-01"), Some("00-12-34-01")),
            (FieldValue::Integer(7), Some("7")),
            (string("  "), None),
            (string(&"x".repeat(LONGEST + 1)), None),
            (FieldValue::None, None),
        ] {
            assert_eq!(id_of(&value).as_deref(), expected, "{value:?}");
        }
    }

    #[test]
    fn fields_name_requests_by_their_own_name_or_the_last_on_their_path() {
        for (name, path, expected) in [
            ("request", "x", true),
            ("r", "ctxt.global_request_id", true),
            ("t", "headers['traceparent']", true),
            ("rid", "x", true),
            ("method", "message['method']", false),
            ("user", "request.user", false),
        ] {
            assert_eq!(names_requests(name, path), expected, "{name}={path}");
        }
    }

    #[test]
    fn ids_that_are_nearly_this_one_are_found_nearest_first() {
        let among = ["req-1235", "req-1243", "other", "req-1234x"];
        assert_eq!(
            nearest("req-1234", among),
            ["req-1234x", "req-1235", "req-1243"]
        );
        assert!(nearest("zzzz", among).is_empty());
        assert_eq!(
            nearest("req-7d2a5f1e", [UUID]),
            [UUID],
            "only its beginning"
        );
        assert_eq!(distance(&['a', 'b', 'c'], &['a', 'x', 'c', 'd']), 2);
        assert_eq!(distance(&[], &['a']), 1);
    }
}
