//! Pythons that are not CPython, by the names of their files. They have none of CPython's structures, so that they can have neither
//! probes nor the agent; all there is to do is to say so.

use std::path::Path;

/// The implementation other than CPython that a program or a library of this name belongs to.
pub(crate) fn implementation(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?;
    // A small program (`pypy3.11`) with everything in a library (`libpypy3.11-c.so`, `libpythonvm.so`).
    if name.starts_with("pypy") || name.starts_with("libpypy") {
        return Some("PyPy");
    }
    if name.starts_with("graalpy") || name.starts_with("libpythonvm.") {
        return Some("GraalPy");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GraalPy is not available where these tests run; the names are those of its native and its Java distributions.
    #[test]
    fn other_pythons_are_known_by_their_programs_and_libraries() {
        for (path, expected) in [
            ("/usr/bin/pypy3", Some("PyPy")),
            ("/usr/bin/pypy3.11", Some("PyPy")),
            ("/opt/pypy/bin/libpypy3.10-c.so", Some("PyPy")),
            ("/opt/graalpy-25.0.0/bin/graalpy", Some("GraalPy")),
            ("/opt/graalpy/lib/libpythonvm.so", Some("GraalPy")),
            ("/usr/bin/graalpython", Some("GraalPy")),
            ("/usr/bin/python3.14", None),
            ("/usr/lib/libpython3.14.so.1.0", None),
            ("/opt/pypy/bin/other", None),
        ] {
            assert_eq!(implementation(Path::new(path)), expected, "{path}");
        }
    }
}
