//! The stap engine: compiles a script with stap, loads it with staprun, and decodes what comes back.
//!
//! Compiling and running are two steps, so that a script that was compiled before starts without stap at all
//! (`modules`), and so that what the two have to say can be told apart.
//!
//! Cheap obstacles are looked for first (no modules, no tools), so that nobody waits for a compiler in vain. What stap
//! says becomes `Diagnostic`s, and an error is shown with stap's own caret.
//!
//! # Following processes
//!
//! A target is a process id in the module's table (`tapsets/pystap/targets.stp`). With one target and no search,
//! `staprun -x` lets the kernel take the breakpoints out of every other process. Otherwise every process of that
//! interpreter runs into them and is sent on by `pystap_wanted`.
//!
//! Where children are followed, a process is looked at once, when it begins. If any of its ancestors is a target, it
//! becomes one and a `fork` event says so. The whole ancestry counts, because a shell between two Pythons is no target
//! itself. The probes on beginning and end name the probed programs: a probe on every process of the system makes
//! stap's task finder miss the probes of a program that a process becomes by exec. stap reports an exec as an end and a
//! beginning; `pystap_set_execing` and `pystap_take_execing` make one `exec` event of the two.
//!
//! A script that probes a library, as every script for the agent does, has to follow the processes of every program.
//! The release of a held command is then reported as an `exec`, too, and the session passes over it.
//!
//! For processes that start later without being a child of a target, see the search of the session.

pub mod arguments;
pub(crate) mod bundled;
mod compiling;
pub mod diagnostics;
pub(crate) mod engine;
mod error;
pub mod failures;
mod identity;
mod modules;
mod running;
mod toolchain;
mod trial;
pub(crate) mod waits;
pub mod wire;
mod workspace;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use self::modules::CacheEntry;
use self::workspace::Workspace;
use super::uprobes::LineSemaphores;
use crate::authority::{self, own};
use crate::bundle::Bundle;
use crate::files::writing;
use crate::shell;

pub use self::compiling::{Compiling, Progress};
pub use self::error::StapError;
pub use self::identity::Identity;
pub use self::modules::Module;
pub use self::running::{Armed, StapRunning, Start};
pub(crate) use self::toolchain::defined;
pub use self::toolchain::{Toolchain, forbidden};
pub use self::trial::Trial;

/// What to compile.
#[derive(Debug, Clone)]
pub struct Script {
    /// The text of the script.
    pub text: String,
    /// The tapsets that it uses.
    pub tapsets: crate::script::Tapsets,
    /// The images it probes, as path and build id: a module compiled for another build must not be used.
    pub images: Vec<(PathBuf, Option<String>)>,
    /// Further arguments for stap.
    pub arguments: Vec<String>,
}

/// The stap engine on this host, for one session.
#[derive(Debug)]
pub struct Stap {
    toolchain: Toolchain,
    cache: PathBuf,
    workspace: Workspace,
}

/// A script on its way to being a module.
#[derive(Debug)]
pub enum Compilation {
    /// It was compiled before.
    Kept(Module),
    /// stap is at it.
    Running(Compiling),
}

impl Stap {
    /// Prepares the engine: makes the session's directory, and removes what a killed pystap left. The second part says
    /// what was removed, a noun phrase each.
    ///
    /// # Errors
    /// [`StapError::Workspace`].
    pub fn new(toolchain: Toolchain) -> Result<(Self, Vec<String>), StapError> {
        let (workspace, removed) = Workspace::create(&toolchain.staprun)?;
        Ok((
            Stap {
                toolchain,
                cache: own::cache(),
                workspace,
            },
            removed,
        ))
    }

    /// The tools in use.
    pub fn toolchain(&self) -> &Toolchain {
        &self.toolchain
    }

    /// Compiles a script, or finds it compiled.
    ///
    /// # Errors
    /// [`StapError::Workspace`], [`StapError::Start`].
    pub fn compile(&self, script: &Script) -> Result<Compilation, StapError> {
        let slot = self.slot(script);
        if let Some(path) = slot.module() {
            return Ok(Compilation::Kept(Module { path }));
        }
        let tapsets = tapset_directory(&self.cache, script);
        script
            .tapsets
            .unpack(&tapsets)
            .map_err(|error| StapError::Workspace {
                path: tapsets.clone(),
                reason: io::Error::other(error.to_string()),
            })?;
        let path = self.workspace.path().join("script.stp");
        std::fs::write(&path, &script.text).map_err(|reason| StapError::Workspace {
            path: path.clone(),
            reason,
        })?;
        self.make_stap_directory()
            .map_err(|reason| StapError::Workspace {
                path: self.stap_directory(),
                reason,
            })?;
        let arguments =
            arguments::compile(&tapsets, &self.toolchain.kernel, &script.arguments, &path);
        Compiling::start(
            &self.toolchain,
            arguments,
            self.workspace.path(),
            &self.stap_directory(),
            slot,
        )
        .map(Compilation::Running)
    }

    /// Puts the module of a bundle where this session has it for itself.
    ///
    /// # Errors
    /// [`StapError::Workspace`].
    pub(crate) fn unpack(&self, bundle: &Bundle) -> Result<Module, StapError> {
        // It is one plain word: that was looked at when it was read.
        let name = format!("{}.ko", bundle.manifest.module);
        let path = self.workspace.path().join(name);
        let written =
            writing::create_new(&path).and_then(|mut file| file.write_all(&bundle.module));
        match written {
            Ok(()) => Ok(Module { path }),
            Err(reason) => Err(StapError::Workspace { path, reason }),
        }
    }

    /// Loads a module and arms its probes. Where calls are complete only with the semaphore of another mark, `line`
    /// raises it.
    ///
    /// # Errors
    /// [`StapError::Start`], [`StapError::Workspace`].
    pub fn run(
        self,
        module: &Module,
        start: Start,
        line: Option<LineSemaphores>,
    ) -> Result<StapRunning, StapError> {
        StapRunning::start(self.toolchain, self.workspace, module, start, line)
    }

    fn slot(&self, script: &Script) -> CacheEntry {
        let mut key = self.toolchain.fingerprint();
        for (path, build_id) in &script.images {
            key.push_str(&format!(
                "image {} {}\n",
                path.display(),
                build_id.as_deref().unwrap_or("without build id")
            ));
        }
        key.push_str(&format!("arguments {:?}\n", script.arguments));
        key.push_str(&script.tapsets.text());
        key.push_str(&script.text);
        CacheEntry::new(&self.cache, key)
    }

    /// Makes the directory that stap takes for its own, for us alone: stap would let everybody write there, whatever the umask
    /// (5.6). What others could have put into one that is there is not kept.
    fn make_stap_directory(&self) -> io::Result<()> {
        let directory = self.stap_directory();
        if directory.exists() && authority::believed(&directory).is_err() {
            std::fs::remove_dir_all(&directory)?;
        }
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&directory)
    }

    /// stap's own directory: not the user's, whose `rc` file may hold options.
    fn stap_directory(&self) -> PathBuf {
        self.cache.join("stap")
    }
}

/// Removes what killed sessions left: their directories, and modules of stap whose loader is gone. Noun phrases: what was
/// removed, and what could not be.
pub fn remove_stale() -> (Vec<String>, Vec<String>) {
    // Without staprun there is nothing to be unloaded.
    let staprun =
        Toolchain::find(None, None).map_or_else(|_| "staprun".into(), |found| found.staprun);
    workspace::remove_stale(&staprun)
}

/// The two command lines, as `--dry-run` shows them: what will be compiled and how it will be run.
pub fn command_lines(toolchain: &Toolchain, script: &Script, start: &Start) -> [String; 2] {
    let tapsets = tapset_directory(&own::cache(), script);
    let compile = arguments::compile(
        &tapsets,
        &toolchain.kernel,
        &script.arguments,
        Path::new("script.stp"),
    );
    let run: Vec<OsString> = arguments::run(Path::new("MODULE.ko"), start.only, start.buffer);
    [
        command_line(&toolchain.stap, &compile),
        command_line(&toolchain.staprun, &run),
    ]
}

fn command_line(program: &Path, arguments: &[OsString]) -> String {
    format!("{} {}", shell::path(program), shell::line(arguments))
}

/// Tapsets of the user's own get a directory of their own, so that two sessions do not unpack over each other.
fn tapset_directory(cache: &Path, script: &Script) -> PathBuf {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    script.tapsets.text().hash(&mut hasher);
    cache.join(format!("tapsets-{:016x}", hasher.finish()))
}
