//! stap at work on a script: a child process, what it says, and what became of it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, unbounded};
use rustix::process::{Pid, Signal, kill_process_group};

use super::diagnostics::{self, Diagnostic, Diagnostics, Severity};
use super::modules::CacheEntry;
use super::{Module, StapError, Toolchain};
use crate::authority::own;
use crate::threads;

/// What stap says while it compiles.
#[derive(Debug)]
pub enum Progress {
    /// A message.
    Diagnostic(Box<Diagnostic>),
    /// It has ended; call [`Compiling::finish`].
    Ended,
}

/// stap, compiling. Dropped, it is stopped.
#[derive(Debug)]
pub struct Compiling {
    child: Child,
    progress: Receiver<Progress>,
    output: Option<JoinHandle<String>>,
    slot: CacheEntry,
    directory: PathBuf,
}

impl Compiling {
    pub(super) fn start(
        toolchain: &Toolchain,
        arguments: Vec<OsString>,
        directory: &Path,
        stap_directory: &Path,
        slot: CacheEntry,
    ) -> Result<Self, StapError> {
        let failed = |reason| StapError::Start {
            program: toolchain.stap.clone(),
            reason,
        };
        let mut command = Command::new(&toolchain.stap);
        own::tame(&mut command);
        let mut child = command
            .args(arguments)
            .env("LC_ALL", "C")
            .env("SYSTEMTAP_DIR", stap_directory)
            .env("TMPDIR", directory)
            // Without a usable cache of its own, stap leaves the module in the current directory.
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal goes to the whole foreground group; when stap stops is for us to say.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let (sender, progress) = unbounded();
        let (mut stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // From here on stap ends with this, also when it is not listened to.
        let mut compiling = Compiling {
            child,
            progress,
            output: None,
            slot,
            directory: directory.to_owned(),
        };
        let output = threads::spawn(move || {
            let mut text = String::new();
            if let Some(pipe) = stdout.as_mut() {
                let _ = pipe.read_to_string(&mut text);
            }
            text
        });
        compiling.output = Some(output.map_err(failed)?);
        let version = toolchain.version.clone();
        threads::spawn(move || {
            let mut diagnostics = Diagnostics::new(Some(&version));
            for line in stderr
                .into_iter()
                .flat_map(|pipe| BufReader::new(pipe).split(b'\n'))
            {
                let Ok(line) = line else { break };
                if let Some(diagnostic) = diagnostics.push_line(&String::from_utf8_lossy(&line)) {
                    let _ = sender.send(Progress::Diagnostic(Box::new(diagnostic)));
                }
            }
            if let Some(diagnostic) = diagnostics.finish() {
                let _ = sender.send(Progress::Diagnostic(Box::new(diagnostic)));
            }
            let _ = sender.send(Progress::Ended);
        })
        .map_err(failed)?;
        Ok(compiling)
    }

    /// What stap says.
    pub fn progress(&self) -> &Receiver<Progress> {
        &self.progress
    }

    /// The compiled module, after [`Progress::Ended`]. `said` are the diagnostics that came, of which an error becomes
    /// the advice.
    ///
    /// # Errors
    /// [`StapError::NotCompiled`], [`StapError::Workspace`].
    pub fn finish(mut self, said: &[Diagnostic]) -> Result<Module, StapError> {
        let status = self.child.wait();
        let output = self
            .output
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        // stap prints the path of the module, or its name in the current directory, and nothing else.
        let compiled = output
            .lines()
            .map(|line| self.directory.join(line.trim()))
            .find(|path| {
                path.extension().is_some_and(|extension| extension == "ko") && path.is_file()
            });
        match (status, compiled) {
            (Ok(status), Some(compiled)) if status.success() => self
                .slot
                .keep(&compiled)
                .map(|path| Module { path })
                .map_err(|reason| StapError::Workspace { path: compiled, reason }),
            (status, _) => Err(StapError::NotCompiled {
                advice: said
                    .iter()
                    .find(|diagnostic| diagnostic.severity == Severity::Error)
                    .map(diagnostics::explain)
                    .unwrap_or_else(|| match status {
                        Ok(status) => format!("stap ended with {status} and gave no reason; run it by hand (see --dry-run)"),
                        Err(error) => format!("stap cannot be waited for ({error}); try again"),
                    }),
            }),
        }
    }
}

impl Drop for Compiling {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::TERM);
            }
            let _ = self.child.wait();
        }
    }
}
