//! Which interpreters a command that is not running yet will use. A forecast: a program may start whatever it likes,
//! so whatever is assumed is said in a note.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{TargetError, shim};
use crate::python::{Interpreter, PythonError};

/// How many `#!` lines may lead to one another; the kernel itself follows five.
const DEEPEST: usize = 5;

/// What a command is expected to run.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Its interpreters, the main one first; never empty.
    pub interpreters: Vec<Interpreter>,
    /// A sentence for the user when the interpreters are only likely.
    pub note: Option<String>,
}

/// The interpreters that a command will use: it may be one, be a script for one, be a version manager's shim, or embed
/// one as a library. For anything else (a shell, sudo) `python3` in PATH is assumed and noted.
///
/// # Errors
///
/// When the command or an interpreter cannot be found or examined.
pub fn interpreters_of_command(command: &[OsString]) -> Result<Expected, TargetError> {
    let name = command.first().ok_or(TargetError::Nothing)?;
    let program = executable(name)?;
    if let Some(interpreters) = interpreters_of_program(&program)? {
        return Ok(Expected {
            interpreters,
            note: None,
        });
    }
    let no_interpreter = || TargetError::NoInterpreter {
        command: name.clone(),
    };
    let python = which::which("python3").map_err(|_| no_interpreter())?;
    let interpreters = interpreters_of_program(&python)?.ok_or_else(no_interpreter)?;
    let assumed = interpreters
        .first()
        .ok_or_else(no_interpreter)?
        .path
        .display();
    let note = format!(
        "{} is not Python; the Python that it starts is expected to be {assumed} (python3 in PATH): name another with --python PATH",
        name.display()
    );
    Ok(Expected {
        interpreters,
        note: Some(note),
    })
}

/// The interpreters behind a path that the user calls an interpreter: itself, or what a shim of that name starts.
///
/// # Errors
///
/// As [`Interpreter::of_file`], and when a shim does not answer.
pub fn interpreters_of_path(path: &Path) -> Result<Vec<Interpreter>, TargetError> {
    let shim = match Interpreter::of_file(path) {
        Err(PythonError::Script { .. }) => shim::script(path)
            .ok()
            .flatten()
            .and_then(|script| shim::behind(path, &script)),
        other => return Ok(other?),
    };
    match shim {
        Some(shim) => Ok(Interpreter::of_file(&shim::ask(&shim)?)?),
        None => Err(PythonError::Script {
            path: path.to_owned(),
        }
        .into()),
    }
}

/// `None` when the program is something other than Python.
fn interpreters_of_program(program: &Path) -> Result<Option<Vec<Interpreter>>, TargetError> {
    let mut program = program.to_owned();
    let mut shim = None;
    for _ in 0..DEEPEST {
        match Interpreter::of_file(&program) {
            Ok(found) => return Ok(Some(found)),
            Err(PythonError::Script { .. }) => {}
            Err(PythonError::NotPythonFile { .. }) => break,
            Err(error) => return Err(error.into()),
        }
        let script = shim::script(&program)
            .map_err(|reason| PythonError::Unreadable {
                path: program.clone(),
                reason,
            })?
            .unwrap_or_default();
        shim = shim.or_else(|| shim::behind(&program, &script));
        match interpreter_line(&script) {
            Some(next) => program = executable(&next)?,
            None => break,
        }
    }
    // Only now: a script that is called `python` but runs in Python need not be asked.
    match shim {
        Some(shim) => Ok(Some(Interpreter::of_file(&shim::ask(&shim)?)?)),
        None => Ok(None),
    }
}

/// The program that a script's first line names, through `env` if that is what it names.
fn interpreter_line(script: &str) -> Option<OsString> {
    let line = script.strip_prefix("#!")?.lines().next()?;
    let mut words = line.split_whitespace();
    let program = words.next()?;
    if Path::new(program).file_name() != Some(OsStr::new("env")) {
        return Some(program.into());
    }
    // Options (-S splits the line, which has already been done here) and assignments precede the command.
    words
        .find(|word| !word.starts_with('-') && !word.contains('='))
        .map(Into::into)
}

/// The file that a command names, through PATH if it has no slash.
pub(super) fn executable(command: &OsStr) -> Result<PathBuf, TargetError> {
    which::which(command).map_err(|_| match present_but_not_executable(command) {
        Some(path) => TargetError::NotExecutable { path },
        None => TargetError::CommandNotFound {
            command: command.to_owned(),
        },
    })
}

fn present_but_not_executable(command: &OsStr) -> Option<PathBuf> {
    let path = Path::new(command);
    if path.components().count() > 1 {
        return path.exists().then(|| path.to_owned());
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(path))
        .find(|path| {
            path.metadata().is_ok_and(|metadata| {
                metadata.is_file() && metadata.permissions().mode() & 0o111 == 0
            })
        })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::executable;

    const PYTHON: &str = "/usr/bin/python3.11";

    fn script(name: &str, text: &str) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(name);
        executable::script(text, &path);
        (directory, path)
    }

    fn expected(command: impl Into<OsString>) -> Expected {
        interpreters_of_command(&[command.into()]).expect("an interpreter")
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn an_interpreter_as_the_command_is_taken_as_it_is() {
        let expected = expected("/usr/bin/python3.11");
        assert_eq!(expected.interpreters[0].path, Path::new(PYTHON));
        assert_eq!(expected.note, None);
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn the_first_line_of_a_script_names_its_interpreter() {
        for line in [
            "#!/usr/bin/python3.11",
            "#! /usr/bin/python3.11 -I",
            "#!/usr/bin/env /usr/bin/python3.11",
            "#!/usr/bin/env -S LANG=C /usr/bin/python3.11 -u",
        ] {
            let (_directory, path) = script("nova-compute", &format!("{line}\nprint()\n"));
            let expected = expected(&path);
            assert_eq!(expected.interpreters[0].path, Path::new(PYTHON), "{line}");
            assert_eq!(expected.note, None);
        }
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_script_whose_interpreter_is_a_script_is_followed() {
        let (_inner_directory, inner) = script("launcher", "#!/usr/bin/python3.11\n");
        let (_outer_directory, outer) = script("tool", &format!("#!{}\n", inner.display()));
        assert_eq!(expected(&outer).interpreters[0].path, Path::new(PYTHON));
    }

    #[test]
    fn scripts_that_name_each_other_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("loop");
        executable::script(&format!("#!{}\n", path.display()), &path);
        assert!(interpreters_of_program(&path).expect("no error").is_none());
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_shim_called_python_is_asked() {
        let (_directory, path) = script("python3", "#!/bin/sh\nexec /usr/bin/python3.11 \"$@\"\n");
        let expected = expected(&path);
        assert_eq!(expected.interpreters[0].path, Path::new(PYTHON));
        assert_eq!(expected.note, None);
        let named = interpreters_of_path(&path).expect("an interpreter");
        assert_eq!(named[0].path, Path::new(PYTHON));
    }

    #[test]
    fn a_script_is_no_interpreter_to_name() {
        let (_directory, path) = script("tool", "#!/bin/sh\n");
        let error = interpreters_of_path(&path).expect_err("a script");
        assert!(
            matches!(error, TargetError::Python(PythonError::Script { .. })),
            "{error}"
        );
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn for_any_other_command_python3_in_path_is_assumed_and_said() {
        let expected = expected("sh");
        let note = expected.note.expect("a note");
        assert!(note.starts_with("sh is not Python"), "{note}");
        assert!(
            note.contains(&expected.interpreters[0].path.display().to_string()),
            "{note}"
        );
        assert!(note.contains("--python"), "{note}");
    }

    #[test]
    fn a_script_for_an_interpreter_that_is_not_installed_is_an_error() {
        let (_directory, path) = script("tool", "#!/nonexistent/python3\n");
        let error = interpreters_of_command(&[path.into()]).expect_err("no such interpreter");
        assert!(
            matches!(error, TargetError::CommandNotFound { .. }),
            "{error}"
        );
    }

    #[test]
    fn env_is_looked_through_with_its_options_and_assignments() {
        let named =
            |line: &str| interpreter_line(line).map(|name| name.to_string_lossy().into_owned());
        assert_eq!(
            named("#!/usr/bin/env python3\n").as_deref(),
            Some("python3")
        );
        assert_eq!(
            named("#!/usr/bin/env -S -i A=b python3 -u\nx").as_deref(),
            Some("python3")
        );
        assert_eq!(named("#!/bin/sh -e\n").as_deref(), Some("/bin/sh"));
        assert_eq!(named("#!\n"), None);
        assert_eq!(named("#!/usr/bin/env\n"), None);
        assert_eq!(named("print()"), None);
    }
}
