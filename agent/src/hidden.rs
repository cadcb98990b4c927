//! Names under which no value is told: of parameters, of keys in dictionaries, and of functions for what they return.
//! Patterns match without case, and where a pattern cannot be decided the value is left out.

use alloc::string::String;
use alloc::vec::Vec;

use pystap_glob::{Glob, GlobError, lower};

use crate::python::{Ptr, api, type_of};

/// Most characters of a key that are looked at; a longer one is hidden.
const LONGEST: isize = 256;

/// The names.
pub(crate) struct Hidden(Vec<Glob>);

impl Hidden {
    /// No names: every value is told.
    pub(crate) const NOTHING: Hidden = Hidden(Vec::new());

    /// # Errors
    /// A pattern that is none.
    pub(crate) fn new(patterns: &[String]) -> Result<Hidden, GlobError> {
        let globs = patterns.iter().map(|pattern| Glob::caseless(pattern));
        Ok(Hidden(globs.collect::<Result<_, _>>()?))
    }

    /// Whether a value of this name is left out.
    pub(crate) fn has(&self, name: &str) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let name = lower(name);
        self.0.iter().any(|glob| glob.matches(name.as_bytes()))
    }

    /// The same for the key of a value: a string or bytes; others name nothing.
    pub(crate) unsafe fn has_key(&self, key: Ptr) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let kind = type_of(key);
        let is_text = kind == api().PyUnicode_Type;
        if !is_text && kind != api().PyBytes_Type {
            return false;
        }
        let length = if is_text {
            (api().PyUnicode_GetLength)(key)
        } else {
            (api().PyBytes_Size)(key)
        };
        if length > LONGEST {
            return true;
        }
        let character = |at| {
            let code = if is_text {
                (api().PyUnicode_ReadChar)(key, at)
            } else {
                u32::from(*(api().PyBytes_AsString)(key).cast::<u8>().offset(at))
            };
            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
        };
        let name: String = (0..length).map(character).collect();
        self.has(&name)
    }
}
