//! Which functions a session wants. A function is wanted when each kind of filter that is given accepts it, and nothing
//! excludes it.

use alloc::string::String;
use alloc::vec::Vec;

use pystap_agent_protocol::Filters;
use pystap_glob::{Glob, GlobError};

/// The filters of a session, ready for use.
pub(crate) struct Filter {
    functions: Vec<Glob>,
    files: Vec<Glob>,
    modules: Vec<Glob>,
    not_functions: Vec<Glob>,
    not_files: Vec<Glob>,
    not_modules: Vec<Glob>,
}

impl Filter {
    /// No filter: everything is wanted.
    pub(crate) const NONE: Filter = Filter {
        functions: Vec::new(),
        files: Vec::new(),
        modules: Vec::new(),
        not_functions: Vec::new(),
        not_files: Vec::new(),
        not_modules: Vec::new(),
    };

    /// # Errors
    /// A pattern that is none.
    pub(crate) fn new(filters: &Filters) -> Result<Filter, GlobError> {
        type Read = fn(&str) -> Result<Glob, GlobError>;
        let all = |patterns: &[String], read: Read| -> Result<Vec<Glob>, GlobError> {
            patterns.iter().map(|pattern| read(pattern)).collect()
        };
        Ok(Filter {
            functions: all(&filters.functions, Glob::new)?,
            files: all(&filters.files, Glob::new)?,
            modules: all(&filters.modules, Glob::module)?,
            not_functions: all(&filters.not_functions, Glob::new)?,
            not_files: all(&filters.not_files, Glob::new)?,
            not_modules: all(&filters.not_modules, Glob::module)?,
        })
    }

    /// Whether everything is wanted.
    pub(crate) fn is_empty(&self) -> bool {
        [
            &self.functions,
            &self.files,
            &self.modules,
            &self.not_functions,
            &self.not_files,
            &self.not_modules,
        ]
        .iter()
        .all(|globs| globs.is_empty())
    }

    /// Whether a function is wanted, by its file, and its name without its classes and with them.
    pub(crate) fn accepts(&self, file: &[u8], names: [&[u8]; 2]) -> bool {
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
}
