//! Which functions are wanted: globs over function, file and module names, applied in the kernel.

use std::fmt;

use super::ScriptError;
use super::filter::{Glob, is_exact_in_stap, stap_bytes, stap_regex, stap_str};
use crate::event::Place;

/// Filters of a session. A function is wanted when each kind that is given accepts it, and nothing excludes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// Function names, with their classes or without; one of them must match.
    pub functions: Vec<Glob>,
    /// File names; one of them must match.
    pub files: Vec<Glob>,
    /// Dotted modules, matched against file names; one of them must match.
    pub modules: Vec<Glob>,
    /// Function names that are not wanted, with their classes or without.
    pub not_functions: Vec<Glob>,
    /// File names that are not wanted.
    pub not_files: Vec<Glob>,
    /// Dotted modules, matched against file names, that are not wanted.
    pub not_modules: Vec<Glob>,
}

/// In words, such as `function ping or object_*; not file /usr/lib/*`; nothing of no filter.
impl fmt::Display for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("function", &self.functions),
            ("file", &self.files),
            ("module", &self.modules),
            ("not function", &self.not_functions),
            ("not file", &self.not_files),
            ("not module", &self.not_modules),
        ];
        let given = kinds.iter().filter(|(_, globs)| !globs.is_empty());
        for (at, (kind, globs)) in given.enumerate() {
            let globs: Vec<&str> = globs.iter().map(Glob::as_str).collect();
            let gap = if at == 0 { "" } else { "; " };
            write!(f, "{gap}{kind} {}", globs.join(" or "))?;
        }
        Ok(())
    }
}

impl Filters {
    /// Whether everything is wanted.
    pub fn is_empty(&self) -> bool {
        *self == Filters::default()
    }

    /// The same decision in user space.
    pub fn accept(&self, place: &Place) -> bool {
        let names = [&place.function, place.own_name()].map(|name| name.text.as_bytes());
        self.accepts(place.file.text.as_bytes(), names)
    }

    /// The same on bytes: the file, and the function's name without its classes and with them, as far as they are known.
    pub fn accepts(&self, file: &[u8], names: [&[u8]; 2]) -> bool {
        let any = |globs: &[Glob], names: &[&[u8]]| {
            let mut globs = globs.iter();
            globs.any(|glob| names.iter().any(|name| glob.matches(name)))
        };
        let wanted = |globs: &[Glob], names: &[&[u8]]| globs.is_empty() || any(globs, names);
        wanted(&self.functions, &names)
            && wanted(&self.files, &[file])
            && wanted(&self.modules, &[file])
            && !any(&self.not_functions, &names)
            && !any(&self.not_files, &[file])
            && !any(&self.not_modules, &[file])
    }

    /// The decision as a SystemTap expression over the strings `file`, `name` and `qualname`. Where stap's expressions cannot say
    /// exactly what a glob means, it lets through too much, never too little: [`Filters::accepts`] has the last word.
    pub(super) fn to_stap_expression(&self) -> Result<String, ScriptError> {
        let mut terms = Vec::new();
        let names: &[&str] = &["name", "qualname"];
        for (globs, variables) in [
            (&self.functions, names),
            (&self.files, &["file"]),
            (&self.modules, &["file"]),
        ] {
            let mut alternatives = Vec::new();
            for glob in globs {
                for variable in variables {
                    alternatives.push(comparison(variable, glob)?);
                }
            }
            if !alternatives.is_empty() {
                terms.push(format!("({})", alternatives.join(" || ")));
            }
        }
        for (globs, variables) in [
            (&self.not_functions, names),
            (&self.not_files, &["file"]),
            (&self.not_modules, &["file"]),
        ] {
            for glob in globs
                .iter()
                .filter(|glob| glob.literal().is_some() || is_exact_in_stap(glob))
            {
                for variable in variables {
                    terms.push(format!("!({})", comparison(variable, glob)?));
                }
            }
        }
        Ok(if terms.is_empty() {
            "1".to_owned()
        } else {
            terms.join(" && ")
        })
    }
}

fn comparison(variable: &str, glob: &Glob) -> Result<String, ScriptError> {
    let quoted = match glob.literal() {
        Some(literal) => stap_bytes(&literal).map(|literal| format!("{variable} == {literal}")),
        None => stap_str(&stap_regex(glob)).map(|regex| format!("{variable} =~ {regex}")),
    };
    quoted.map_err(|error| ScriptError::Unquotable {
        what: format!("the pattern {}", glob.as_str()),
        reason: error.to_string(),
    })
}
