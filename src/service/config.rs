//! Services that a user defines, in `pystap/services.toml` in the user's configuration directory:
//!
//! ```toml
//! [services.billing]
//! programs = ["billing-*", "invoice"]   # names of scripts, modules, titles
//! match = "gunicorn .*billing"          # or a regular expression over command lines
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use regex::Regex;
use serde::Deserialize;

use super::Service;
use crate::authority::own::{self, Configured};
use crate::files::reading;
use crate::script::filter::Glob;

/// Why there is no such service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// It is not defined anywhere.
    #[error(
        "there is no service {name:?}, so there is nothing to look for; known are {known}; define your own in {} or \
         use --match REGEX", config_file().map_or("pystap/services.toml".into(), |path| path.display().to_string())
    )]
    Unknown {
        /// As the user typed it.
        name: String,
        /// Names of the services that exist.
        known: String,
    },
    /// The user's file cannot be used.
    #[error("{} cannot be used: {reason}; correct it, or move it away", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Larger than any real list of services.
const LARGEST: u64 = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    services: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    programs: Vec<String>,
    #[serde(rename = "match")]
    pattern: Option<String>,
}

/// The path of a user's service file; `None` when there is no such place.
pub(crate) fn config_file() -> Option<PathBuf> {
    match own::configured("services.toml") {
        Configured::Own(path) => Some(path),
        // Reported once, at the start of a command.
        Configured::Foreign(..) | Configured::Nothing => None,
    }
}

/// The user's services; none when there is no file, or when it belongs to someone else (`sudo` can keep HOME).
pub(super) fn services() -> Result<Vec<Service>, ServiceError> {
    let Some(path) = config_file() else {
        return Ok(Vec::new());
    };
    let wrong = |reason: String| ServiceError::Config {
        path: path.clone(),
        reason,
    };
    let text = match reading::read_text(&path, LARGEST) {
        Ok(text) => text,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(wrong(error.to_string())),
    };
    parse(&text).map_err(wrong)
}

pub(super) fn parse(text: &str) -> Result<Vec<Service>, String> {
    let config: Config = toml::from_str(text).map_err(|error| match error.span() {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or_default();
            format!(
                "line {}: {}",
                before.matches('\n').count() + 1,
                error.message()
            )
        }
        None => error.message().to_owned(),
    })?;
    config
        .services
        .into_iter()
        .map(|(name, entry)| {
            if entry.programs.is_empty() && entry.pattern.is_none() {
                return Err(format!("service {name} has neither programs nor match"));
            }
            let programs = entry
                .programs
                .iter()
                .map(|glob| Glob::new(glob).map_err(|error| format!("service {name}: {error}")))
                .collect::<Result<_, _>>()?;
            let pattern = entry
                .pattern
                .map(|pattern| Regex::new(&pattern))
                .transpose()
                .map_err(|_| format!("service {name}: match is no regular expression"))?;
            Ok(Service {
                name,
                programs,
                pattern,
                project: false,
            })
        })
        .collect()
}
