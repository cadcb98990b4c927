//! Why a bundle is of no use, each with what to do about it.

use std::io;
use std::path::PathBuf;

use crate::console::Exit;
use crate::text::Foreign;

/// The version of pystap, which alone reads what it wrote: what a module sends belongs to it.
pub(super) const OURS: &str = env!("CARGO_PKG_VERSION");

/// Why a bundle cannot be made, read or used here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// It cannot be written.
    #[error(
        "the bundle {} cannot be written ({reason}), so there is none; name another file with -o",
        Foreign::path(path)
    )]
    Unwritable { path: PathBuf, reason: io::Error },
    /// An interpreter that nobody could recognise.
    #[error(
        "{} has no build ID, by which a bundle could tell it from another interpreter, so none was made; link it with --build-id",
        Foreign::path(path)
    )]
    Unmarked { path: PathBuf },
    /// Paths are compiled in, and this one is another there.
    #[error(
        "pystap's agent is at {} here, and root's pystap, which uses a bundle, has it at {}, so no bundle was made; make it as root, or leave the agent out with --no-agent",
        Foreign::path(library),
        Foreign::path(at)
    )]
    AgentPlace { library: PathBuf, at: PathBuf },
    /// It cannot be read.
    #[error(
        "the bundle {} cannot be read ({reason}), so it is not used; look at the file",
        Foreign::path(path)
    )]
    Unreadable { path: PathBuf, reason: io::Error },
    /// Others could have written it.
    #[error(
        "the bundle {} can be changed by others ({reason}), and what is in it runs in the kernel, so it is not used; put a copy that you trust where only you can write: `install -m 600 {} ~/`",
        Foreign::path(path),
        crate::shell::path(path)
    )]
    Distrusted { path: PathBuf, reason: String },
    /// It is something else.
    #[error(
        "{} is no bundle, so it is not used; `pystap bundle -o FILE --python FILE` makes one",
        Foreign::path(_0)
    )]
    NoBundle(PathBuf),
    /// Only the pystap that made it knows what is in it.
    #[error(
        "the bundle {} was made by pystap {}, and this is pystap {here}, so it is not used; make it with pystap {here}, or use the other one here, too", Foreign::path(path), Foreign::new(made_by), here = OURS
    )]
    OtherVersion { path: PathBuf, made_by: String },
    /// It is not what it was.
    #[error(
        "the bundle {} is damaged ({}), so it is not used; copy it again, or make it anew",
        Foreign::path(path),
        Foreign::new(reason)
    )]
    Damaged { path: PathBuf, reason: String },
    /// It is for another architecture.
    #[error(
        "the bundle {} is for {}, and this host is {here}, so its module cannot be loaded here; make one on a machine like this one",
        Foreign::path(path),
        Foreign::new(made_for)
    )]
    Machine {
        path: PathBuf,
        made_for: String,
        here: String,
    },
    /// It is for another kernel.
    #[error(
        "the bundle {} is for Linux {}, and this host runs {here}, so its module cannot be loaded here; make one for that kernel (--kernel) where its headers are",
        Foreign::path(path),
        Foreign::new(made_for)
    )]
    Kernel {
        path: PathBuf,
        made_for: String,
        here: String,
    },
    /// It is for another build of the same release.
    #[error(
        "the bundle {} is for Linux {release} as it was built as {}, and this host runs {here}, so its module cannot be loaded here; install the headers of that build where bundles are made, and make it anew",
        Foreign::path(path),
        Foreign::new(made_for)
    )]
    KernelBuild {
        path: PathBuf,
        release: String,
        made_for: String,
        here: String,
    },
    /// What loads modules is not there.
    #[error(
        "staprun was not found, and it loads the module of the bundle {}, so nothing is traced; install it alone (Debian and Ubuntu: `apt-get install systemtap-runtime`, Fedora and RHEL: `dnf install systemtap-runtime`)",
        Foreign::path(path)
    )]
    NoLoader { path: PathBuf },
    /// It is of another build.
    #[error(
        "{} is not of the SystemTap that compiled the module of the bundle {} ({}), and the two would not understand each other, so nothing is traced; install systemtap-runtime of that version, or make the bundle with the SystemTap that is here",
        Foreign::path(loader),
        Foreign::path(path),
        Foreign::new(made_by)
    )]
    OtherLoader {
        path: PathBuf,
        loader: PathBuf,
        /// Its version and build.
        made_by: String,
    },
    /// An interpreter that is not in it.
    #[error(
        "the bundle {1} has no probes for {0}, so nothing is traced; it is for {2}; make one with --python {0}, too",
        Foreign::path(interpreter),
        Foreign::path(path),
        Foreign::new(made_for)
    )]
    Interpreter {
        path: PathBuf,
        interpreter: PathBuf,
        made_for: String,
    },
    /// An interpreter of that path that is not the same.
    #[error(
        "the bundle {} is for another build of {} (build ID {}, here {here}), so nothing is traced; make it anew where that file is the same as here",
        Foreign::path(path),
        Foreign::path(image),
        Foreign::new(made_for)
    )]
    ImageBuild {
        path: PathBuf,
        image: PathBuf,
        made_for: String,
        here: String,
    },
    /// SystemTap's module looks for each file that it probes, whoever runs it.
    #[error(
        "the bundle {} is for {}, too, which is not here, and its module looks for each file that it probes, so nothing is traced; make one without it",
        Foreign::path(path),
        Foreign::path(image)
    )]
    Absent { path: PathBuf, image: PathBuf },
    /// The agent is needed, and not in it.
    #[error(
        "pystap's agent ({}) has to tell what is asked for here, and the bundle {} has no probes for it there, so nothing is traced; make one with --agent",
        Foreign::path(library),
        Foreign::path(path)
    )]
    Agent { path: PathBuf, library: PathBuf },
    /// What the agent of the bundle is.
    #[error(
        "the agent in the bundle {} cannot be used ({reason}), so nothing is traced; make the bundle anew",
        Foreign::path(path)
    )]
    NoAgent { path: PathBuf, reason: &'static str },
    /// Another script would be needed.
    #[error(
        "the bundle {} was made with other options ({}), so nothing is traced: it has {}; leave these options out, or make a bundle with them", Foreign::path(path), differs.join(", "), Foreign::new(has)
    )]
    Asked {
        path: PathBuf,
        /// Names of the options.
        differs: Vec<&'static str>,
        /// What it has, in words.
        has: String,
    },
    /// The same options make another script here.
    #[error(
        "the script in the bundle {} is not what the templates here make of the same options, so nothing is traced; use the templates and tapsets that it was made with (--template-dir), or make it anew",
        Foreign::path(path)
    )]
    Script { path: PathBuf },
    /// Something that no bundle has anything to do with.
    #[error(
        "{what}, and the bundle {} is a module for SystemTap, so nothing is traced; leave out {option}",
        Foreign::path(path)
    )]
    Conflict {
        path: PathBuf,
        what: &'static str,
        option: &'static str,
    },
}

impl BundleError {
    /// How pystap ends because of it.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            BundleError::Unwritable { .. }
            | BundleError::Unreadable { .. }
            | BundleError::NoBundle(_)
            | BundleError::Damaged { .. } => Exit::Failed,
            BundleError::Asked { .. } | BundleError::Conflict { .. } => Exit::Usage,
            _ => Exit::Unready,
        }
    }
}
