//! The templates and tapsets of a session: where they are looked for, and the script that a plan makes of them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::plan::Plan;
use crate::authority::own::{self, Configured};
use crate::script::{self, Catalogue, ScriptError, Tapsets};

/// What scripts are made of.
#[derive(Debug)]
pub(crate) struct Templates {
    /// The templates.
    pub(crate) catalogue: Catalogue,
    directories: Vec<PathBuf>,
}

impl Templates {
    /// The built-in ones, the user's own and those of a directory that was named, which win.
    ///
    /// # Errors
    /// [`ScriptError`], when a directory cannot be read or believed.
    pub(crate) fn load(named: Option<&Path>) -> Result<Templates, ScriptError> {
        check_template_directory(named)?;
        let directories = template_directories(named);
        Ok(Templates {
            catalogue: Catalogue::load(&directories)?,
            directories,
        })
    }

    /// The script of a plan.
    ///
    /// # Errors
    /// [`ScriptError`], when a template is wrong.
    pub(crate) fn script(&self, plan: &Plan) -> Result<String, ScriptError> {
        script::render(&self.catalogue, &plan.request())
    }

    /// The tapsets that scripts use.
    ///
    /// # Errors
    /// [`ScriptError`], when a directory cannot be read or believed.
    pub(crate) fn tapsets(&self) -> Result<Tapsets, ScriptError> {
        Tapsets::load(&self.directories)
    }
}

/// Directories of templates: the user's own, then the one named on the command line, which wins.
pub(crate) fn template_directories(named: Option<&Path>) -> Vec<PathBuf> {
    let configured = match own::configured("templates") {
        Configured::Own(place) => Some(place),
        // Said once, where a command begins.
        Configured::Foreign(..) | Configured::Nothing => None,
    };
    // One that may not be read belongs to somebody else: `sudo -u` and the like keep HOME.
    let readable = |directory: &PathBuf| {
        !fs::read_dir(directory).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    };
    configured
        .filter(readable)
        .into_iter()
        .chain(named.map(Path::to_owned))
        .collect()
}

/// Whether a directory that was named on the command line is one.
///
/// # Errors
/// [`ScriptError::Unreadable`].
pub(crate) fn check_template_directory(named: Option<&Path>) -> Result<(), ScriptError> {
    match named {
        Some(path) => fs::read_dir(path)
            .map(drop)
            .map_err(|reason| ScriptError::Unreadable {
                path: path.to_owned(),
                reason,
            }),
        None => Ok(()),
    }
}
