//! The tapsets that every script uses, unpacked into a directory that stap can be pointed at.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{ScriptError, catalogue};
use crate::authority::believed;
use crate::files::reading;

/// Every file of `tapsets/pystap/`.
const EMBEDDED: [(&str, &str); 7] = [
    ("names", include_str!("../../tapsets/pystap/names.stp")),
    (
        "timed_calls",
        include_str!("../../tapsets/pystap/timed_calls.stp"),
    ),
    ("targets", include_str!("../../tapsets/pystap/targets.stp")),
    ("told", include_str!("../../tapsets/pystap/told.stp")),
    ("totals", include_str!("../../tapsets/pystap/totals.stp")),
    ("waits", include_str!("../../tapsets/pystap/waits.stp")),
    ("wire", include_str!("../../tapsets/pystap/wire.stp")),
];

const ENDING: &str = ".stp";

/// The tapset files of a session, by name, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tapsets(Vec<(String, String)>);

impl Tapsets {
    /// The embedded tapsets, then those in `tapsets/` below each of `directories`, of which later ones win.
    ///
    /// # Errors
    /// [`ScriptError::Unreadable`].
    pub fn load(directories: &[PathBuf]) -> Result<Self, ScriptError> {
        let mut files: std::collections::BTreeMap<String, String> = EMBEDDED
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        for directory in directories {
            for (name, path) in catalogue::files(&directory.join("tapsets"), ENDING)? {
                let text = reading::read_text(&path, catalogue::LARGEST).map_err(|reason| {
                    ScriptError::Unreadable {
                        path: path.clone(),
                        reason,
                    }
                })?;
                files.insert(name, text);
            }
        }
        Ok(Tapsets(files.into_iter().collect()))
    }

    /// All texts, one after the other: what the compiled script depends on.
    pub fn text(&self) -> String {
        self.0
            .iter()
            .map(|(name, text)| format!("// {name}\n{text}\n"))
            .collect()
    }

    /// Writes the files into `directory` (created), so that it holds these and no other `.stp` file. A file that is
    /// right already is left alone: its time is part of stap's own cache key.
    ///
    /// # Errors
    /// [`ScriptError::Unwritable`].
    pub fn unpack(&self, directory: &Path) -> Result<(), ScriptError> {
        self.write(directory)
            .map_err(|reason| ScriptError::Unwritable {
                path: directory.to_owned(),
                reason,
            })
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let ours = name.to_str().and_then(|name| name.strip_suffix(ENDING));
            if !self.0.iter().any(|(name, _)| Some(name.as_str()) == ours)
                && entry.file_type()?.is_file()
            {
                fs::remove_file(entry.path())?;
            }
        }
        for (name, text) in &self.0 {
            let path = directory.join(format!("{name}{ENDING}"));
            if believed(&path).is_err() {
                // Not there, or somebody else's, who could change it while stap reads.
                let _ = fs::remove_file(&path);
            }
            if fs::read_to_string(&path).ok().as_ref() != Some(text) {
                fs::write(&path, text)?;
            }
        }
        Ok(())
    }
}
