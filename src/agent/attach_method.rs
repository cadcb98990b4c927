//! The ways into a process, and which of them is open. Examines, changes nothing.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use super::loaded::Loaded;
use super::remote::{Remote, RemoteError};
use super::window::WindowError;
use super::{site, socket};
use crate::elf::Image;
use crate::python::name::{is_free_threaded, is_interpreter_command};
use crate::python::{Interpreter, Version};
use crate::shell;

/// The oldest Python that the agent runs in.
pub const OLDEST: (u8, u8) = (3, 9);
/// The newest that it was tested in.
pub const NEWEST: (u8, u8) = (3, 15);

/// How an agent gets into a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachMethod {
    /// Through the environment of a command that is launched.
    Environment,
    /// It already waits there (`pystap agent install`).
    Dormant {
        /// The name of its socket.
        socket: String,
    },
    /// Through Python's remote debugging interface (PEP 768).
    Remote,
    /// By inserting calls into it (ptrace).
    Ptrace,
}

impl fmt::Display for AttachMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AttachMethod::Environment => "through the environment of the launched command",
            AttachMethod::Dormant { .. } => "which waits there (pystap agent install)",
            AttachMethod::Remote => "through Python's remote debugging interface (PEP 768)",
            AttachMethod::Ptrace => "by calls that are put there (ptrace)",
        })
    }
}

/// Why no way is open, and what would open one.
#[derive(Debug, thiserror::Error)]
pub enum AttachMethodError {
    /// The version is too old or too new.
    #[error(
        "it runs in CPython 3.9 to 3.15, and this is {version}; run the program with one of these"
    )]
    Unsupported {
        /// The version.
        version: String,
    },
    /// The interpreter has no such interface, and no agent waits in it.
    #[error("{}", closed(version, &ways(python, *installed, LAUNCHING)))]
    Closed {
        /// The version.
        version: String,
        /// The interpreter, as the process sees it.
        python: PathBuf,
        /// Whether an agent is installed for that, so that one would wait after a restart.
        installed: bool,
    },
    /// The same of a build without a lock of the interpreter's, in which no agent waits: a second thread would keep functions and
    /// classes of the program for ever (3.13).
    #[error(
        "{}",
        free_threaded(version, "start it as `pystap trace -- COMMAND`, or ")
    )]
    FreeThreaded {
        /// The version.
        version: String,
    },
    /// The agent is loaded but does not answer.
    #[error(
        "pystap's agent is loaded in it and does not wait (the child of a fork in C does once it has run Python code on its main thread; what an ended trace has left does not); give the process something to do, such as a request, and try again; failing that: {}",
        ways(python, *installed, LAUNCHING)
    )]
    Silent {
        /// The interpreter, as the process sees it.
        python: PathBuf,
        /// Whether an agent is installed for that, so that one would wait after a restart.
        installed: bool,
    },
    /// Its user namespace has no place for this user.
    #[error(
        "it runs in a user namespace that pystap's user has no place in (unshare -U, a container), where an agent cannot tell who asks it; map that user into it (unshare --map-root-user), or run pystap inside"
    )]
    UserNamespace,
    /// Remote debugging exists but is not available.
    #[error("{reason}; {}", ways(python, *installed, LAUNCHING))]
    Remote {
        /// What is in the way.
        reason: RemoteError,
        /// The interpreter, as the process sees it.
        python: PathBuf,
        /// Whether an agent is installed for that, so that one would wait after a restart.
        installed: bool,
    },
    /// No agent can get in.
    #[error("{0}; run the program with an ordinary CPython")]
    Never(RemoteError),
    /// This user may not.
    #[error(
        "its memory is closed to this user ({0}); run pystap as root, or as the user of the process where kernel.yama.ptrace_scope allows it"
    )]
    Permission(std::io::Error),
    /// The library would not run there.
    #[error(
        "{what}; run the program with a Python that distributions or python.org's installers build"
    )]
    Build {
        /// What is special about the build, a clause.
        what: &'static str,
    },
    /// Another tracer is attached.
    #[error("{0}; end that first, or `pystap agent install --python PATH` and restart the process")]
    Traced(RemoteError),
}

impl AttachMethodError {
    /// The same of a process below a launched command, for which launching it is no way.
    pub fn below_a_command(&self) -> String {
        match self {
            AttachMethodError::Closed {
                version,
                python,
                installed,
            } => closed(version, &ways(python, *installed, "")),
            AttachMethodError::FreeThreaded { version } => free_threaded(version, ""),
            AttachMethodError::Remote {
                reason,
                python,
                installed,
            } => format!("{reason}; {}", ways(python, *installed, "")),
            other => other.to_string(),
        }
    }
}

const LAUNCHING: &str = "or start it as `pystap trace -- COMMAND`, ";

fn closed(version: &str, next: &str) -> String {
    format!("Python {version} lets nobody in while it runs (3.14 is the first that does); {next}")
}

fn free_threaded(version: &str, launching: &str) -> String {
    format!(
        "Python {version} is a free-threaded build, which lets nobody in while it runs and cannot have the agent installed; {launching}put the agent in with --inject ptrace"
    )
}

/// What opens a way into a process that lets nobody in: an agent that waits in it, where one can be installed at all, or
/// starting it otherwise.
fn ways(python: &Path, installed: bool, launching: &str) -> String {
    if installed {
        return format!(
            "the agent is installed, but this process began before it was or reads no start-up files (-S, -I): restart it once, {launching}or put the agent in with --inject ptrace"
        );
    }
    if is_interpreter_command(python) {
        return format!(
            "run `pystap agent install --python {}` and restart the process once, {launching}or put the agent in with --inject ptrace",
            shell::path(python)
        );
    }
    "put the agent in with --inject ptrace, since this program brings its own Python (PyInstaller, an embedding program), which reads no start-up files that an agent could be installed in"
        .to_owned()
}

/// What about an interpreter's build keeps the agent out, whichever way it takes.
pub fn obstacle_of_build(image: &Image) -> Option<AttachMethodError> {
    let needs = |wanted: fn(&str) -> bool| image.needed.iter().any(|library| wanted(library));
    // Programs linked against musl in Alpine name it with the architecture; those linked by musl's own compiler wrapper
    // do not.
    if needs(|library| library.starts_with("libc.musl-") || library == "libc.so") {
        let what =
            "its Python is built for musl (as on Alpine), and the agent runs with glibc only";
        return Some(AttachMethodError::Build { what });
    }
    if image.needed.is_empty() {
        let what = "its Python is linked statically, so that it cannot load a library";
        return Some(AttachMethodError::Build { what });
    }
    None
}

/// Whether this process runs in another user namespace than ours, in which our user means nothing.
fn is_nobody_in(pid: u32) -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/user"));
    let (Ok(theirs), Ok(ours)) = (namespace(&pid.to_string()), namespace("self")) else {
        return false;
    };
    let user = rustix::process::geteuid().as_raw();
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map"));
    theirs != ours && map.is_ok_and(|map| !has_place_for(user, &map))
}

/// Whether a user means anything in another user namespace, which has this map (`uid_map`: the first id inside, the first one
/// outside, and how many).
fn has_place_for(user: u32, map: &str) -> bool {
    let in_range = |line: &str| {
        let numbers: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
        let [_, outside, count] = *numbers else {
            return false;
        };
        (outside..outside.saturating_add(count)).contains(&u64::from(user))
    };
    map.lines().any(in_range)
}

/// Whether the agent runs in this version.
pub fn supported(version: &Version) -> bool {
    (OLDEST..=NEWEST).contains(&(version.major, version.minor))
}

/// What the agent can provide in an interpreter of this version, as a clause that says what it takes; `None` for
/// versions that it does not run in.
pub fn offer(version: (u8, u8)) -> Option<&'static str> {
    if !(OLDEST..=NEWEST).contains(&version) {
        return None;
    }
    Some(if version >= REMOTE {
        "through pystap's agent, which comes into running processes and launched commands by itself"
    } else {
        "through pystap's agent: by itself in commands that pystap launches, in running processes after `pystap agent install --python PATH` and one restart"
    })
}

/// The first version that lets a debugger in while it runs.
pub const REMOTE: (u8, u8) = (3, 14);

impl AttachMethod {
    /// The way in one word.
    pub fn word(&self) -> &'static str {
        match self {
            AttachMethod::Environment => "environment",
            AttachMethod::Dormant { .. } => "dormant",
            AttachMethod::Remote => "remote",
            AttachMethod::Ptrace => "ptrace",
        }
    }

    /// The way into a running process. With `inject`, calls are inserted into it unless an agent waits there.
    ///
    /// # Errors
    /// [`AttachMethodError`], when there is none.
    pub fn into_process(
        pid: u32,
        interpreter: &Interpreter,
        inject: bool,
    ) -> Result<AttachMethod, AttachMethodError> {
        let version = interpreter.version.as_ref();
        if let Some(version) = version.filter(|version| !supported(version)) {
            return Err(AttachMethodError::Unsupported {
                version: version.to_string(),
            });
        }
        if let Some(error) = obstacle_of_build(&interpreter.image) {
            return Err(error);
        }
        if is_nobody_in(pid) {
            return Err(AttachMethodError::UserNamespace);
        }
        let loaded = Loaded::of_process(pid);
        if loaded.is_some()
            && let Some(socket) = socket::of_process(pid)
                .unwrap_or_default()
                .into_iter()
                .next()
        {
            return Ok(AttachMethod::Dormant { socket });
        }
        let python = || interpreter.as_started(pid);
        let installed = || version.is_some_and(|it| site::is_installed_for(pid, &python(), it));
        if inject {
            return Ok(AttachMethod::Ptrace);
        }
        match Remote::of(pid, interpreter) {
            Ok(_) => Ok(AttachMethod::Remote),
            Err(RemoteError::TooOld) if loaded.is_some() => Err(AttachMethodError::Silent {
                python: python(),
                installed: installed(),
            }),
            Err(RemoteError::TooOld) => {
                let version =
                    version.map_or_else(|| "of this version".to_owned(), ToString::to_string);
                Err(match is_free_threaded(&interpreter.path) {
                    true => AttachMethodError::FreeThreaded { version },
                    false => AttachMethodError::Closed {
                        version,
                        python: python(),
                        installed: installed(),
                    },
                })
            }
            Err(RemoteError::Memory(reason)) => Err(AttachMethodError::Permission(reason)),
            Err(reason @ RemoteError::FreeThreaded) => Err(AttachMethodError::Never(reason)),
            Err(reason @ RemoteError::Window(WindowError::Traced { .. })) => {
                Err(AttachMethodError::Traced(reason))
            }
            Err(reason) => Err(AttachMethodError::Remote {
                reason,
                python: python(),
                installed: installed(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_place_where_the_map_of_the_namespace_names_it() {
        let everybody = "         0          0 4294967295\n";
        assert!(has_place_for(0, everybody) && has_place_for(1000, everybody));
        let container = "0 100000 65536\n65536 0 1\n";
        assert!(has_place_for(0, container) && has_place_for(100_999, container));
        assert!(!has_place_for(1000, container));
        assert!(!has_place_for(0, "0 1000 1\n") && !has_place_for(0, ""));
    }

    #[test]
    fn nobody_is_advised_to_install_the_agent_into_a_library_or_a_packed_program() {
        for python in ["/tmp/_MEI1/libpython3.11.so.1.0", "/usr/sbin/uwsgi"] {
            let said = ways(Path::new(python), false, "");
            assert!(!said.contains("agent install"), "{python}: {said}");
            assert!(said.contains("--inject ptrace"), "{python}: {said}");
        }
        let said = ways(Path::new("/srv/venv/bin/python"), false, "");
        assert!(
            said.contains("agent install --python /srv/venv/bin/python"),
            "{said}"
        );
    }

    #[test]
    fn where_the_agent_is_installed_a_restart_is_missing_and_no_installation() {
        let place = tempfile::tempdir().expect("a directory");
        let python = place.path().join("bin/python3.11");
        let packages = place.path().join("lib/python3.11/site-packages");
        let version = Version::of_language(3, 11);
        let is_installed = || site::is_installed_for(std::process::id(), &python, &version);
        fs::create_dir_all(&packages).expect("a directory");
        for name in ["pystap_agent.pth", "_pystap_agent.abi3.so"] {
            assert!(!is_installed(), "before {name} is there");
            fs::write(packages.join(name), "").expect("a file");
        }
        assert!(is_installed());
        let closed = AttachMethodError::Closed {
            version: "3.11".to_owned(),
            python: python.clone(),
            installed: true,
        };
        let said = closed.to_string();
        assert!(said.contains("restart it once, or start it as"), "{said}");
        assert!(!said.contains("agent install"), "{said}");
        // What a trace has left behind changes nothing of that.
        let silent = |installed| {
            let python = python.clone();
            AttachMethodError::Silent { python, installed }.to_string()
        };
        let said = silent(true);
        assert!(said.contains("restart it once, or start it as"), "{said}");
        assert!(said.contains("--inject ptrace"), "{said}");
        assert!(!said.contains("agent install"), "{said}");
        assert!(silent(false).contains("agent install --python"));
    }
}
