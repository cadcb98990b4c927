//! The fields that a session asks for, ready to be looked for in functions. `fields` reads them.

use alloc::string::String;
use alloc::vec::Vec;

use pystap_agent_protocol as protocol;
use pystap_agent_protocol::Part;
use pystap_glob::{Glob, GlobError};
use pystap_ring::fields::MOST_FIELDS;

/// The fields of a session.
pub(crate) struct Fields(Vec<Asked>);

/// One of them.
pub(crate) struct Asked {
    pub(crate) argument: String,
    pub(crate) path: Vec<Part>,
    /// Whether it is read when a value is returned.
    pub(crate) at_return: bool,
    functions: Vec<Glob>,
}

impl Fields {
    /// None.
    pub(crate) const NOTHING: Fields = Fields(Vec::new());

    /// # Errors
    /// A pattern that is none.
    pub(crate) fn new(fields: &[protocol::Field]) -> Result<Fields, GlobError> {
        let asked = fields.iter().take(MOST_FIELDS).map(|field| {
            let functions = field.functions.iter().map(|glob| Glob::new(glob));
            Ok(Asked {
                argument: field.argument.clone(),
                path: field.path.clone(),
                at_return: field.at_return,
                functions: functions.collect::<Result<_, _>>()?,
            })
        });
        Ok(Fields(asked.collect::<Result<_, _>>()?))
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that functions with these names can have, with the numbers that stand for them.
    pub(crate) fn applying_to<'a>(
        &'a self,
        names: [&'a [u8]; 2],
    ) -> impl Iterator<Item = (u8, &'a Asked)> {
        let applies = move |asked: &Asked| {
            let mut globs = asked.functions.iter();
            asked.functions.is_empty()
                || globs.any(|glob| names.iter().any(|name| glob.matches(name)))
        };
        (0..).zip(&self.0).filter(move |(_, asked)| applies(asked))
    }
}
