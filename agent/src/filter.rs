//! Which functions a session wants. A function is wanted when each kind of filter that is given accepts it, and nothing
//! excludes it.

use alloc::vec::Vec;

use pystap_agent_protocol::Filters;

use crate::glob::Glob;

/// The filters of a session, ready for use.
pub(crate) struct Filter {
    functions: Vec<Glob>,
    files: Vec<Glob>,
    modules: Vec<Glob>,
    not_functions: Vec<Glob>,
    not_files: Vec<Glob>,
}

impl Filter {
    /// No filter: everything is wanted.
    pub(crate) const NONE: Filter = Filter {
        functions: Vec::new(),
        files: Vec::new(),
        modules: Vec::new(),
        not_functions: Vec::new(),
        not_files: Vec::new(),
    };

    pub(crate) fn new(filters: &Filters) -> Filter {
        let plain = |patterns: &[alloc::string::String]| -> Vec<Glob> {
            patterns.iter().map(|pattern| Glob::new(pattern)).collect()
        };
        let mut not_functions = plain(&filters.not_functions);
        let mut not_files = plain(&filters.not_files);
        not_files.extend(
            filters
                .not_modules
                .iter()
                .map(|pattern| Glob::module(pattern)),
        );
        // One that matches more than it says would keep out what is wanted.
        not_functions.retain(Glob::is_exact);
        not_files.retain(Glob::is_exact);
        Filter {
            functions: plain(&filters.functions),
            files: plain(&filters.files),
            modules: filters
                .modules
                .iter()
                .map(|pattern| Glob::module(pattern))
                .collect(),
            not_functions,
            not_files,
        }
    }

    /// Whether everything is wanted.
    pub(crate) fn is_empty(&self) -> bool {
        self.functions.is_empty()
            && self.files.is_empty()
            && self.modules.is_empty()
            && self.not_functions.is_empty()
            && self.not_files.is_empty()
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
    }
}
