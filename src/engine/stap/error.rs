//! Why the stap engine cannot do what it was asked for, each with what to do about it.

use std::io;
use std::path::PathBuf;

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
    /// The user stopped what was to be compiled and nothing else.
    #[error(
        "stopped while the probe script was compiled, so there is no module; type the same again"
    )]
    Stopped,
    /// The module was loaded, but does not take commands.
    #[error(
        "the loaded module does not take commands ({reason}), so nothing is traced; try again, and report this if it stays"
    )]
    Control {
        /// Why.
        reason: String,
    },
}
