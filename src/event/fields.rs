//! Fields: values of a call that were asked for by name.

use std::fmt;
use std::sync::Arc;

use super::Text;
use crate::text::Foreign;

/// The fields of a call, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields(pub Vec<Field>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// What it is called.
    pub name: Arc<str>,
    /// Its value in this call.
    pub value: FieldValue,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldValue {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// A float.
    Float(Float),
    /// A string.
    Text(Text),
    /// Bytes, as text.
    Bytes(Text),
    /// Something else: what it is.
    Other(String),
    /// The path led to nothing in this call, for this reason. JSON has none of it.
    Absent(Arc<str>),
}

/// A float, which equals itself whatever it is.
#[derive(Debug, Clone, Copy)]
pub struct Float(pub f64);

impl PartialEq for Float {
    fn eq(&self, other: &Float) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Float {}

impl Float {
    /// The word for one that JSON has no number for.
    pub(super) fn word(self) -> Option<&'static str> {
        match self.0 {
            value if value.is_nan() => Some("nan"),
            f64::INFINITY => Some("inf"),
            f64::NEG_INFINITY => Some("-inf"),
            _ => None,
        }
    }

    /// The other way round.
    pub(super) fn of_word(word: &str) -> Option<Float> {
        match word {
            "nan" => Some(Float(f64::NAN)),
            "inf" => Some(Float(f64::INFINITY)),
            "-inf" => Some(Float(f64::NEG_INFINITY)),
            _ => None,
        }
    }
}

impl Fields {
    /// The value of this field; nothing where the function has no such field.
    pub fn get(&self, name: &str) -> Option<&FieldValue> {
        let field = self.0.iter().find(|field| *field.name == *name)?;
        Some(&field.value)
    }

    /// Those that have a value.
    pub fn present(&self) -> impl Iterator<Item = &Field> {
        let fields = self.0.iter();
        fields.filter(|field| !matches!(field.value, FieldValue::Absent(_)))
    }

    /// Bytes that they take, as far as a program decides it.
    pub fn bytes(&self) -> usize {
        let of = |field: &Field| {
            size_of::<Field>()
                + match &field.value {
                    FieldValue::Text(text) | FieldValue::Bytes(text) => text.text.len(),
                    FieldValue::Other(name) => name.len(),
                    _ => 0,
                }
        };
        self.0.iter().map(of).sum()
    }
}

/// As people see it, without quotes.
impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldValue::None => f.write_str("None"),
            FieldValue::Bool(true) => f.write_str("True"),
            FieldValue::Bool(false) => f.write_str("False"),
            FieldValue::Integer(value) => value.fmt(f),
            FieldValue::Float(Float(value)) => write!(f, "{value:?}"),
            FieldValue::Text(text) | FieldValue::Bytes(text) => text.fmt(f),
            FieldValue::Other(name) => write!(f, "<{}>", Foreign::new(name)),
            FieldValue::Absent(_) => f.write_str("(none)"),
        }
    }
}
