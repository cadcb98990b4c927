//! One fact: what was found, where, or why it is not known.

use serde::{Deserialize, Serialize};

/// Something that was looked for in one place.
///
/// Three outcomes: a value; nothing there, which is knowledge too; unknown, with the reason. As JSON: `from` with
/// `value`, `from` alone, or `from` with `unknown`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fact<T> {
    /// The path it was read from, or what else was asked.
    from: String,
    #[serde(skip_serializing_if = "Option::is_none", default = "Option::default")]
    value: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    unknown: Option<String>,
}

impl<T> Fact<T> {
    /// It was found.
    pub(crate) fn found(from: impl Into<String>, value: T) -> Fact<T> {
        Fact {
            from: from.into(),
            value: Some(value),
            unknown: None,
        }
    }

    /// There is no such thing.
    pub(crate) fn absent(from: impl Into<String>) -> Fact<T> {
        Fact {
            from: from.into(),
            value: None,
            unknown: None,
        }
    }

    /// It could not be found out. The reason is a clause without a full stop.
    pub(crate) fn unknown(from: impl Into<String>, reason: impl Into<String>) -> Fact<T> {
        Fact {
            from: from.into(),
            value: None,
            unknown: Some(reason.into()),
        }
    }

    /// Where it was looked for.
    pub(crate) fn from(&self) -> &str {
        &self.from
    }

    /// What was found.
    pub(crate) fn value(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Whether it is known not to be there.
    pub(crate) fn is_absent(&self) -> bool {
        self.value.is_none() && self.unknown.is_none()
    }

    /// Why it is not known.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.unknown.as_deref()
    }

    /// The same place, with the value turned into something else. An error becomes the reason.
    pub(crate) fn and_then<U>(self, read: impl FnOnce(T) -> Result<U, String>) -> Fact<U> {
        let Fact {
            from,
            value,
            unknown,
        } = self;
        match value.map(read) {
            Some(Ok(value)) => Fact::found(from, value),
            Some(Err(reason)) => Fact::unknown(from, reason),
            None => Fact {
                from,
                value: None,
                unknown,
            },
        }
    }

    /// The same place, with the value turned into something else.
    pub(crate) fn map<U>(self, turn: impl FnOnce(T) -> U) -> Fact<U> {
        self.and_then(|value| Ok(turn(value)))
    }

    /// This fact, unless it is absent; then the other.
    pub(crate) fn or_else(self, other: impl FnOnce() -> Fact<T>) -> Fact<T> {
        if self.is_absent() { other() } else { self }
    }
}
