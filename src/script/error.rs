//! Why there is no script, each with what to do about it.

use std::path::PathBuf;

use super::Origin;

/// Why there is no script.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// A template does not parse or render.
    #[error(
        "the template {name} ({origin}) has an error, so no script can be rendered; correct it or run without it:\n{report}"
    )]
    Template {
        /// Template name.
        name: String,
        /// Where it comes from.
        origin: Origin,
        /// Tera's report with its caret.
        report: String,
    },
    /// No template of that name.
    #[error(
        "there is no template called {name:?}, so it cannot be traced; `pystap list` shows the templates"
    )]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// A directory or file cannot be read.
    #[error("{path} cannot be read ({reason}), so its templates are missing; name a readable directory with --template-dir", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// Somebody else could change it.
    #[error("{path} can be changed by others than root ({reason}), and root puts no script of others into the kernel, so nothing was started; make it root's with `chown -R root: {quoted}` and `chmod -R go-w {quoted}`, or move it where only root can write", path = path.display(), quoted = crate::shell::path(path))]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Who, a clause.
        reason: String,
    },
    /// The cache directory cannot be written.
    #[error("{path} cannot be written ({reason}), so stap cannot be given its tapsets; make it writable or set XDG_CACHE_HOME", path = path.display())]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A string cannot stand in a script.
    #[error("{what} cannot be written into a SystemTap script: {reason}; trace another one")]
    Unquotable {
        /// What it is.
        what: String,
        /// Why.
        reason: String,
    },
}
