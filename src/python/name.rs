//! What file names say about Python. A name is a hint, never proof: contents decide.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::version::Version;

/// `python3.11`, `libpython2.7.so.1.0`, a directory of the standard library.
static DOTTED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"python([23])\.([0-9]{1,2})").expect("a constant pattern"));

/// The tag of an extension module: `_json.cpython-311-x86_64-linux-gnu.so`.
static EXTENSION_TAG: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\.cpython-([23])([0-9]{1,2})[a-z]*-").expect("a constant pattern")
});

/// Names of interpreter commands, with every suffix that builds add: `python`, `python3.11`, `python3.13t`,
/// `python3.6m`, `python3.11-dbg`, and Red Hat's `platform-python`.
static COMMAND: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:platform-)?python(?:[23](?:\.[0-9]{1,2})?)?[dmtu]*(?:-dbg)?$")
        .expect("a constant pattern")
});

/// What free-threaded builds add to the version.
static FREE_THREADED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"python3\.[0-9]{1,2}t").expect("a constant pattern"));

/// Whether a free-threaded build of Python has such a name (`python3.13t`, `libpython3.14t.so.1.0`).
pub(crate) fn is_free_threaded(path: &Path) -> bool {
    file_name(path).is_some_and(|name| FREE_THREADED.is_match(name))
}

/// Whether an executable of this name may be an interpreter.
pub(super) fn may_be_interpreter(path: &Path) -> bool {
    file_name(path)
        .is_some_and(|name| name.starts_with("python") || name.starts_with("platform-python"))
}

/// Whether this is exactly the name of an interpreter's command, so that starting it starts Python.
pub(crate) fn is_interpreter_command(path: &Path) -> bool {
    file_name(path).is_some_and(|name| COMMAND.is_match(name))
}

/// Whether a shared object of this name may hold the interpreter (`libpython3.11.so.1.0`).
pub(crate) fn may_be_library(path: &Path) -> bool {
    file_name(path).is_some_and(|name| name.starts_with("libpython") && name.contains(".so"))
}

/// The language version in the name of an interpreter or of its library.
pub(super) fn language(path: &Path) -> Option<Version> {
    captured(&DOTTED, file_name(path)?)
}

/// The language version that an installed file implies by its location or its extension tag.
pub(super) fn language_of_installed(path: &Path) -> Option<Version> {
    let text = path.to_str()?;
    captured(&EXTENSION_TAG, text).or_else(|| {
        ["/lib-dynload/", "/site-packages/", "/dist-packages/"]
            .iter()
            .find_map(|folder| captured(&DOTTED, text.split_once(folder)?.0))
    })
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn captured(pattern: &Regex, text: &str) -> Option<Version> {
    let (_, [major, minor]) = pattern.captures(text)?.extract();
    Some(Version::of_language(
        major.parse().ok()?,
        minor.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn commands_of_interpreters_are_told_from_their_helpers() {
        for name in [
            "python",
            "python3",
            "python3.11",
            "python2.7",
            "python3.13t",
            "python3.6m",
            "python3.11-dbg",
            "platform-python3.6",
        ] {
            assert!(is_interpreter_command(Path::new(name)), "{name}");
        }
        for name in [
            "python3-config",
            "python3.11-gdb.py",
            "pythonize",
            "ipython",
            "pypy3",
            "bpython",
        ] {
            assert!(!is_interpreter_command(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn libraries_are_recognised_with_every_suffix() {
        for name in [
            "libpython3.so",
            "libpython3.11.so.1.0",
            "libpython3.7m.so.1.0",
            "libpython2.7.so",
        ] {
            assert!(may_be_library(Path::new(name)), "{name}");
        }
        assert!(!may_be_library(Path::new("/usr/share/gdb/libpython.py")));
    }

    #[test]
    fn the_language_version_is_read_from_names() {
        let said = |name: &str| language(Path::new(name)).map(|version| version.to_string());
        assert_eq!(said("/usr/bin/python3.11").as_deref(), Some("3.11"));
        assert_eq!(said("libpython3.7m.so.1.0").as_deref(), Some("3.7"));
        assert_eq!(said("/opt/python3.9/bin/python"), None);
    }

    #[test]
    fn the_language_version_is_read_from_where_extension_modules_are() {
        let said =
            |path: &str| language_of_installed(Path::new(path)).map(|version| version.to_string());
        assert_eq!(
            said("/x/_json.cpython-312-x86_64-linux-gnu.so").as_deref(),
            Some("3.12")
        );
        assert_eq!(
            said("/usr/lib/python2.7/lib-dynload/_json.so").as_deref(),
            Some("2.7")
        );
        assert_eq!(said("/usr/lib/x86_64-linux-gnu/libc.so.6"), None);
    }
}
