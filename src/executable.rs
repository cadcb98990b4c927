//! Programs that tests write and then execute.
//!
//! The kernel executes no file that a process has open for writing (`ETXTBSY`), and a thread that begins a process hands it
//! all that other threads have open at that moment, until it executes a program of its own. So a test that wrote a
//! program itself could find it busy by the processes of the tests beside it. Here `install` of coreutils writes, which no
//! thread of ours inherits from.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Copies a program, in place of whatever is there. Everybody may execute it, and only the owner change it.
pub(crate) fn copy(from: impl AsRef<Path>, to: &Path) {
    let ended = Command::new("install")
        .args(["--mode=755", "--no-target-directory", "--"])
        .args([from.as_ref(), to])
        .stdin(Stdio::null())
        .output()
        .expect("coreutils has install");
    assert!(ended.status.success(), "{ended:?}");
}

/// Writes a script, in place of whatever is there, with the same rights.
pub(crate) fn script(text: &str, to: &Path) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    copy(file.path(), to);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_program_is_never_busy_however_many_processes_begin_beside_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        Command::new("true").status().expect("it runs");
                    }
                });
            }
            let ran = (0..300).all(|number| {
                let program = directory.path().join(number.to_string());
                script("#!/bin/sh\nexit 7\n", &program);
                let status = Command::new(&program).status();
                status.is_ok_and(|status| status.code() == Some(7))
            });
            over.store(true, Ordering::Relaxed);
            assert!(ran);
        });
    }
}
