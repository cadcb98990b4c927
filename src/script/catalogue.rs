//! The catalogue of templates: those in the binary, and those of the user's directories, which win.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{Origin, ScriptError};
use crate::authority::believed;
use crate::files::reading;
use crate::probe::EventKind;

/// More bytes than any template or tapset has.
pub(super) const LARGEST: u64 = 1 << 20;

/// The templates that are not those of event kinds, which the table of kinds has.
const OTHERS: [(&str, &str); 4] = [
    ("session", include_str!("../../templates/session.stp.tera")),
    (
        "timed_calls",
        include_str!("../../templates/timed_calls.stp.tera"),
    ),
    ("top", include_str!("../../templates/top.stp.tera")),
    ("waits", include_str!("../../templates/waits.stp.tera")),
];

const EXTENSION: &str = ".stp.tera";

/// One template with what its header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// File name without `.stp.tera`.
    pub name: String,
    /// The text.
    pub text: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The question that it answers.
    pub question: String,
    /// Event kinds that it emits.
    pub emits: Vec<String>,
    /// Marks that it needs.
    pub marks: Vec<String>,
    /// Parameters that it takes from the context.
    pub parameters: Vec<String>,
}

impl Template {
    fn new(name: &str, text: String, origin: Origin) -> Self {
        let list = |key| -> Vec<String> {
            header(&text, key)
                .split(',')
                .map(str::trim)
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect()
        };
        Template {
            name: name.to_owned(),
            question: header(&text, "question"),
            emits: list("emits"),
            marks: list("marks"),
            parameters: list("parameters"),
            text,
            origin,
        }
    }

    /// Whether it is a file of the user's.
    pub fn is_users(&self) -> bool {
        self.origin != Origin::Embedded
    }

    /// Name by which Tera's reports call it.
    pub fn file_name(&self) -> String {
        format!("{}{EXTENSION}", self.name)
    }
}

/// The value of `key:` in the comment that a template begins with; empty when it is not there.
fn header(text: &str, key: &str) -> String {
    let Some(comment) = text
        .trim_start()
        .strip_prefix("[#")
        .and_then(|rest| rest.split("#]").next())
    else {
        return String::new();
    };
    comment
        .lines()
        .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// All templates there are.
#[derive(Debug, Clone)]
pub struct Catalogue(BTreeMap<String, Template>);

impl Catalogue {
    /// The embedded templates, then those of `directories`, of which later ones win. A directory that does not exist
    /// adds nothing; one that cannot be read is an error.
    ///
    /// # Errors
    /// [`ScriptError::Unreadable`].
    pub fn load(directories: &[PathBuf]) -> Result<Self, ScriptError> {
        let of_kinds = EventKind::ALL.map(|kind| (kind.template(), kind.template_text()));
        let mut templates: BTreeMap<String, Template> = OTHERS
            .into_iter()
            .chain(of_kinds)
            .map(|(name, text)| {
                let template = Template::new(name, text.to_owned(), Origin::Embedded);
                (name.to_owned(), template)
            })
            .collect();
        for directory in directories {
            for (name, path) in files(directory, EXTENSION)? {
                let text = reading::read_text(&path, LARGEST).map_err(|reason| {
                    ScriptError::Unreadable {
                        path: path.clone(),
                        reason,
                    }
                })?;
                templates.insert(name.clone(), Template::new(&name, text, Origin::File(path)));
            }
        }
        Ok(Catalogue(templates))
    }

    /// A template by name.
    pub fn get(&self, name: &str) -> Option<&Template> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Template> {
        self.0.values()
    }
}

/// The files of a directory with that ending, as (name without ending, path), sorted.
pub(super) fn files(
    directory: &Path,
    ending: &str,
) -> Result<BTreeMap<String, PathBuf>, ScriptError> {
    let unreadable = |reason| ScriptError::Unreadable {
        path: directory.to_owned(),
        reason,
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        if let Some(name) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_suffix(ending))
        {
            believed(&entry.path()).map_err(|reason| ScriptError::Foreign {
                path: entry.path(),
                reason,
            })?;
            found.insert(name.to_owned(), entry.path());
        }
    }
    Ok(found)
}
