//! Where a template comes from.

use std::fmt;
use std::path::PathBuf;

use crate::text::Foreign;

/// Where a template comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Part of the binary.
    Embedded,
    /// A file of the user's.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Embedded => f.write_str("built in"),
            Origin::File(path) => Foreign::path(path).fmt(f),
        }
    }
}
