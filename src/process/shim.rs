//! Shims of version managers: scripts called `python` that choose the interpreter when they are started. The only way
//! to learn their choice is to start one, as the user who controls it ([`foreign`]).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::TargetError;
use crate::authority::foreign::{self, Said};
use crate::python::name;

/// A shim answers in a tenth of a second; one that takes this long is waiting for something.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many bytes of a script are read to see what it starts.
const LONGEST_HEAD: u64 = 4096;

/// The question for a shim, in words that Python 2 understands as well.
const QUESTION: &str = "import sys; print(sys.executable)";

/// The beginning of a file that starts with `#!`; `None` for any other.
pub(super) fn script(path: &Path) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    File::open(path)?
        .take(LONGEST_HEAD)
        .read_to_end(&mut head)?;
    Ok(head
        .starts_with(b"#!")
        .then(|| String::from_utf8_lossy(&head).into_owned()))
}

/// The shim to ask when a script does not run Python itself: the script, if it is called like an interpreter; its
/// neighbour `python3` or `python`, if it is another pyenv command, since asking `pip -c …` would run pip.
pub(super) fn behind(path: &Path, script: &str) -> Option<PathBuf> {
    if name::is_interpreter_command(path) {
        return Some(path.to_owned());
    }
    let hands_over_to_pyenv = script
        .lines()
        .any(|line| line.trim_start().starts_with("exec ") && line.contains("pyenv"));
    if !hands_over_to_pyenv {
        return None;
    }
    ["python3", "python"]
        .iter()
        .map(|name| path.with_file_name(name))
        .find(|neighbour| neighbour.exists())
}

/// Asks a shim which interpreter it starts.
pub(crate) fn ask(shim: &Path) -> Result<PathBuf, TargetError> {
    ask_within(shim, PATIENCE)
}

fn ask_within(shim: &Path, patience: Duration) -> Result<PathBuf, TargetError> {
    foreign::ask(shim, &["-c", QUESTION], None, patience)
        .map_err(|error| error.to_string())
        .and_then(|said| path_in(&said))
        .map_err(|reason| TargetError::Shim {
            shim: shim.to_owned(),
            reason,
        })
}

/// The interpreter's path in the answer, or the reason why there is none.
fn path_in(said: &Said) -> Result<PathBuf, String> {
    let output = String::from_utf8_lossy(&said.output);
    let errors = String::from_utf8_lossy(&said.errors);
    let status = said.status;
    // The last line, because a site customisation may print something before it.
    let answer = output.lines().map(str::trim).rfind(|line| !line.is_empty());
    match answer {
        Some(answer) if status.success() && answer.starts_with('/') => Ok(PathBuf::from(answer)),
        _ => Err(
            match errors.lines().map(str::trim).find(|line| !line.is_empty()) {
                Some(complaint) => format!("it says: {complaint}"),
                None => format!("it ended with {status} and without an answer"),
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;
    use crate::executable;

    /// A directory with a shim called `python3`.
    fn shim(body: &str) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("python3");
        executable::script(&format!("#!/bin/sh\n{body}\n"), &path);
        (directory, path)
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_shim_says_which_interpreter_it_starts() {
        let (_directory, path) = shim(r#"echo a greeting; exec /usr/bin/python3.11 "$@""#);
        assert_eq!(
            ask(&path).expect("an answer"),
            Path::new("/usr/bin/python3.11")
        );
    }

    #[test]
    fn the_complaint_of_a_shim_is_passed_on() {
        let (_directory, path) = shim("echo 'version 3.99 is not installed' >&2; exit 127");
        let error = ask(&path).expect_err("no answer");
        assert!(
            error.to_string().contains("version 3.99 is not installed"),
            "{error}"
        );
        assert_eq!(error.exit_code(), 3);
    }

    /// A FIFO that nobody writes to: opening it for reading blocks for good.
    fn make_fifo(directory: &TempDir) {
        let fifo = directory.path().join("fifo");
        let made = Command::new("mkfifo").arg(&fifo).status();
        assert!(made.expect("mkfifo runs").success());
    }

    #[test]
    fn a_shim_that_answers_nonsense_is_no_interpreter() {
        let (_directory, path) = shim("echo hello");
        let error = ask(&path).expect_err("no answer");
        assert!(error.to_string().contains("without an answer"), "{error}");
    }

    #[test]
    fn a_shim_that_hangs_is_ended_with_everything_it_has_started() {
        // A grandchild holds the pipe open.
        let (directory, path) = shim(r#"(read line < "${0%/*}/fifo") & wait"#);
        make_fifo(&directory);
        let error = ask_within(&path, Duration::from_millis(200)).expect_err("it hangs");
        assert!(error.to_string().contains("not finish in time"), "{error}");
    }

    #[test]
    fn a_shim_that_closes_its_output_and_stays_is_ended() {
        let (directory, path) = shim(r#"exec >&- 2>&-; read line < "${0%/*}/fifo""#);
        make_fifo(&directory);
        assert!(ask_within(&path, Duration::from_millis(200)).is_err());
    }

    #[test]
    fn a_shim_that_never_stops_talking_is_not_listened_to_for_ever() {
        let (_directory, path) = shim("while :; do echo hello; done");
        let error = ask_within(&path, Duration::from_secs(60)).expect_err("no answer");
        assert!(error.to_string().contains("too much"), "{error}");
    }

    #[test]
    fn other_commands_of_pyenv_are_asked_through_their_neighbour() {
        let (directory, python) = shim("");
        let pip = directory.path().join("pip");
        let hands_over = "#!/bin/sh\nexec \"/opt/pyenv/libexec/pyenv\" exec \"$program\" \"$@\"\n";
        assert_eq!(behind(&pip, hands_over), Some(python.clone()));
        assert_eq!(behind(&python, "#!/bin/sh\n"), Some(python));
        assert_eq!(behind(&pip, "#!/bin/sh\necho pyenv\n"), None);
    }
}
