//! The interpreter in a file that is not running: one named by `--python`, or one that a command will start.

use std::fs;
use std::path::Path;

use super::examined::{Examination, Examined};
use super::{Interpreter, InterpreterKind, PythonError, foreign, library, name};

impl Interpreter {
    /// The interpreter that runs when `path` is started: the file itself, or the libpython it needs. Symbolic links are
    /// followed.
    ///
    /// # Errors
    ///
    /// [`PythonError::Script`] for a script or a shim; otherwise `Unreadable`, `NotPythonFile`,
    /// `NoLibrary` or `Image`.
    pub fn of_file(path: &Path) -> Result<Vec<Interpreter>, PythonError> {
        Interpreter::of_file_among(path, &mut Examined::default())
    }

    /// The same, using what has already been examined.
    ///
    /// # Errors
    ///
    /// As [`Interpreter::of_file`].
    pub fn of_file_among(
        path: &Path,
        examined: &mut Examined,
    ) -> Result<Vec<Interpreter>, PythonError> {
        let real = fs::canonicalize(path).map_err(|reason| PythonError::Unreadable {
            path: path.to_owned(),
            reason,
        })?;
        let program = examined.examine(&real, &real)?;
        if program.script {
            return Err(PythonError::Script {
                path: path.to_owned(),
            });
        }
        let mut found = Vec::new();
        if program.is_interpreter() {
            let kind = if name::may_be_library(&real) {
                InterpreterKind::Library
            } else {
                InterpreterKind::Executable
            };
            found.extend(described(&real, kind, &program));
        }
        found.extend(libraries(path, &real, &program, examined, LONGEST_CHAIN)?);
        if found.is_empty() {
            if let Some(implementation) = foreign::implementation(&real) {
                return Err(PythonError::OtherPythonFile {
                    path: path.to_owned(),
                    implementation,
                });
            }
            return Err(PythonError::NotPythonFile {
                path: path.to_owned(),
            });
        }
        Ok(found)
    }
}

/// How many libraries are followed to reach the interpreter: `libpython3.so` contains nothing but a dependency on the
/// `libpython` of one version.
const LONGEST_CHAIN: u8 = 2;

/// The interpreters among the libraries that a file needs. `program` is what the user named, for errors; `real` is the
/// file whose dependencies are followed.
fn libraries(
    program: &Path,
    real: &Path,
    needing: &Examination,
    examined: &mut Examined,
    longest_chain: u8,
) -> Result<Vec<Interpreter>, PythonError> {
    let mut found = Vec::new();
    let Some((image, rest)) = needing.image.as_ref().zip(longest_chain.checked_sub(1)) else {
        return Ok(found);
    };
    let needed = image
        .needed
        .iter()
        .filter(|library| name::may_be_library(Path::new(library)));
    for library in needed {
        let (path, examination) =
            library::candidates(library, real, &image.run_paths, image.architecture)
                .iter()
                .filter_map(|candidate| fs::canonicalize(candidate).ok())
                .find_map(|candidate| {
                    let examination = examined.examine(&candidate, &candidate).ok()?;
                    // The linker skips libraries of other machines, which multilib systems have side by side.
                    let fits = examination.image.as_ref()?.architecture == image.architecture;
                    fits.then_some((candidate, examination))
                })
                .ok_or_else(|| PythonError::NoLibrary {
                    path: program.to_owned(),
                    library: library.clone(),
                })?;
        if examination.is_interpreter() {
            found.extend(described(&path, InterpreterKind::Library, &examination));
        } else {
            found.extend(libraries(program, &path, &examination, examined, rest)?);
        }
    }
    Ok(found)
}

fn described(path: &Path, kind: InterpreterKind, examination: &Examination) -> Option<Interpreter> {
    Some(Interpreter {
        path: path.to_owned(),
        reach: path.to_owned(),
        file: examination.file,
        kind,
        version: examination
            .contents
            .version
            .clone()
            .or_else(|| name::language(path)),
        image: examination.image.clone()?,
        replaced: false,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_link_to_an_interpreter_leads_to_the_interpreter() {
        let directory = tempfile::tempdir().expect("a directory");
        let link = directory.path().join("python");
        symlink("/usr/bin/python3.11", &link).expect("a link");
        let found = Interpreter::of_file(&link).expect("python3.11 is an interpreter");
        assert_eq!(found.len(), 1);
        let python = &found[0];
        assert_eq!(python.path, Path::new("/usr/bin/python3.11"));
        assert_eq!(python.reach, python.path);
        assert_eq!(python.kind, InterpreterKind::Executable);
        assert!(!python.replaced);
        let version = python.version.as_ref().expect("a version");
        assert_eq!(
            (version.major, version.minor, version.micro.is_some()),
            (3, 11, true)
        );
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn the_version_of_an_interpreter_by_any_other_name_is_the_one_that_it_states_itself() {
        let said = std::process::Command::new("/usr/bin/python3.11")
            .args(["-c", "import platform; print(platform.python_version())"])
            .output()
            .expect("python3.11 runs");
        let said = String::from_utf8(said.stdout).expect("text");
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["py311", "uwsgi", "server.bin"] {
            let copy = directory.path().join(name);
            fs::copy("/usr/bin/python3.11", &copy).expect("copied");
            let found = Interpreter::of_file(&copy).expect(name);
            let version = found[0].version.as_ref().expect(name).to_string();
            assert_eq!(version, said.trim(), "{name}");
        }
    }

    #[test]
    fn a_program_that_is_not_python_is_refused_by_name() {
        let error = Interpreter::of_file(Path::new("/bin/sh")).expect_err("a shell is not Python");
        assert!(
            matches!(error, PythonError::NotPythonFile { .. }),
            "{error}"
        );
        assert!(
            error.to_string().starts_with("/bin/sh is not Python"),
            "{error}"
        );
        assert_eq!(error.exit_code(), 4);
    }

    #[test]
    fn a_program_named_python_that_carries_no_interpreter_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let impostor = directory.path().join("python3.11");
        fs::copy("/bin/sh", &impostor).expect("copied");
        let error = Interpreter::of_file(&impostor).expect_err("a shell by another name");
        assert!(
            matches!(error, PythonError::NotPythonFile { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_script_is_a_typed_error_so_that_shims_can_be_resolved() {
        let mut script = tempfile::NamedTempFile::new().expect("a file");
        script
            .write_all(b"#!/bin/sh\nexec python3\n")
            .expect("written");
        let error = Interpreter::of_file(script.path()).expect_err("a script");
        assert!(matches!(error, PythonError::Script { .. }), "{error}");
    }

    #[test]
    fn files_that_are_missing_or_not_files_are_wrong_usage() {
        for path in ["/nonexistent/python3", "/usr"] {
            let error = Interpreter::of_file(Path::new(path)).expect_err(path);
            assert!(matches!(error, PythonError::Unreadable { .. }), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn two_links_to_one_interpreter_are_examined_once() {
        let mut examined = Examined::default();
        let first = Interpreter::of_file_among(Path::new("/usr/bin/python3.11"), &mut examined)
            .expect("found");
        let second =
            Interpreter::of_file_among(Path::new("/bin/python3.11"), &mut examined).expect("found");
        assert!(std::sync::Arc::ptr_eq(&first[0].image, &second[0].image));
    }
}
