//! The name by which a process started its interpreter: what a user would type to get the same one along with its
//! environment's packages. The file that contains the interpreter is something else: a library, or the target of a
//! virtual environment's link.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Interpreter;
use super::name::is_interpreter_command;

impl Interpreter {
    /// The interpreter as this process was started with it, judging by its command line and environment; paths are as
    /// the process sees them.
    pub fn as_started(&self, pid: u32) -> PathBuf {
        let words = super::beginning(pid, "cmdline");
        let first = words.split(|byte| *byte == 0).next().unwrap_or_default();
        let first = Path::new(OsStr::from_bytes(first));
        if is_interpreter_command(first)
            && let Some(found) = located(pid, first)
        {
            return found;
        }
        // A title instead of a command line, or a program that embeds Python.
        match fs::read_link(format!("/proc/{pid}/exe")) {
            Ok(program) if is_interpreter_command(&program) => program,
            _ => self.path.clone(),
        }
    }
}

/// What a word of a command line referred to: itself, relative to the working directory, or found in the process's
/// PATH.
fn located(pid: u32, word: &Path) -> Option<PathBuf> {
    if word.is_absolute() {
        return Some(word.to_owned());
    }
    if word.components().count() > 1 {
        let from = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        return Some(from.join(word));
    }
    let environment = super::beginning(pid, "environ");
    let mut variables = environment.split(|byte| *byte == 0);
    let path = variables.find_map(|variable| variable.strip_prefix(b"PATH="))?;
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    std::env::split_paths(OsStr::from_bytes(path))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(word))
        .find(|candidate| {
            let inside = candidate.strip_prefix("/").unwrap_or(candidate);
            root.join(inside).symlink_metadata().is_ok()
        })
}

#[cfg(test)]
mod tests {
    use super::super::waiting::{PROGRAM, Waiting};
    use super::*;

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_process_is_known_by_the_name_that_started_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let link = directory.path().join("python3.11");
        std::os::unix::fs::symlink("/usr/bin/python3.11", &link).expect("made");
        for command in ["python3.11", "./python3.11"] {
            let process = Waiting::start(
                std::process::Command::new(command)
                    .args(["-c", PROGRAM])
                    .current_dir(directory.path())
                    .env("PATH", directory.path()),
            );
            let interpreter = Interpreter::of_process(process.pid()).expect("Python");
            let started = interpreter[0].as_started(process.pid());
            assert_eq!(started, directory.path().join(command), "{command}");
        }
    }
}
