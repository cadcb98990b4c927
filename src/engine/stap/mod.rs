//! The stap engine: compiles a script with stap, loads it with staprun, and decodes what comes back.
//!
//! Compiling and running are two steps, so that a script that was compiled before starts without stap at all
//! (`modules`), and so that what the two have to say can be told apart.

pub mod arguments;
mod compiling;
pub mod diagnostics;
pub(crate) mod engine;
pub mod failures;
mod identity;
mod modules;
mod running;
mod toolchain;
mod trial;
pub mod wire;
mod workspace;

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use self::modules::CacheEntry;
use self::workspace::Workspace;
use super::uprobes::LineSemaphores;
use crate::authority::{self, own};
use crate::shell;

pub use self::compiling::{Compiling, Progress};
pub use self::identity::Identity;
pub use self::running::{Armed, StapRunning, Start};
pub use self::toolchain::{Toolchain, forbidden};
pub use self::trial::Trial;

/// Why the stap engine cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StapError {
    /// A tool is not installed.
    #[error(
        "{tool} was not found, so nothing can be traced through SystemTap; install it (Debian and Ubuntu: `apt-get install systemtap`; `pystap doctor` knows other systems) or name it with --stap"
    )]
    Missing {
        /// Which.
        tool: String,
    },
    /// stap is there but does not work.
    #[error(
        "{stap} does not work ({reason}), so nothing can be traced through SystemTap; reinstall it or name another one with --stap", stap = stap.display()
    )]
    Unusable {
        /// Which.
        stap: PathBuf,
        /// Why.
        reason: String,
    },
    /// Somebody else could change it.
    #[error(
        "{program} can be changed by others than root ({reason}), and root runs only what root alone can change, so nothing can be traced through SystemTap; install SystemTap where only root can write, and name it with --stap or put it first in PATH", program = program.display()
    )]
    Distrusted {
        /// Which.
        program: PathBuf,
        /// Who, a clause.
        reason: String,
    },
    /// The kernel has no modules.
    #[error(
        "this kernel cannot load modules (there is no /proc/modules), so SystemTap cannot run here; run pystap on a host whose kernel is built with CONFIG_MODULES, or in a virtual machine (see README, \"Where it runs\")"
    )]
    NoModules,
    /// Loading was switched off.
    #[error(
        "loading modules was switched off until the next boot (kernel.modules_disabled is 1), so SystemTap cannot run; reboot without that setting"
    )]
    ModulesDisabled,
    /// We are in a container with process ids of its own.
    #[error(
        "pystap runs in a container with process ids of its own (another pid namespace), which SystemTap's module does not know, so nothing can be traced from here; run pystap on the host"
    )]
    PidNamespace,
    /// Neither root nor in the groups.
    #[error(
        "you are neither root nor in the groups stapdev and stapusr, so no SystemTap module can be loaded; run `sudo pystap …`, or `usermod -aG stapdev,stapusr USER` and log in again"
    )]
    NotPermitted,
    /// A directory that we need.
    #[error("{path} cannot be used ({reason}), so no session can be started; make it writable for this user", path = path.display())]
    Workspace {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// A program cannot be started.
    #[error("{program} cannot be started ({reason}), so nothing is traced; check that it can be executed", program = program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// stap did not compile the script.
    #[error("the probe script could not be compiled, so nothing is traced; {advice}")]
    NotCompiled {
        /// What to do.
        advice: String,
    },
    /// The module was loaded, but does not take commands.
    #[error(
        "the loaded module does not take commands ({reason}), so nothing is traced; try again, and report this if it stays"
    )]
    Control {
        /// Why.
        reason: String,
    },
}

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

/// A script that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The compiled module.
    pub path: PathBuf,
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

    /// stap's own directory: not the user's, whose `rc` file may hold options.
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
