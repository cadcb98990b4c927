//! The interpreters that matter, as plain data. How they are found and what is in them is [`crate::python`]'s and
//! [`crate::process`]'s knowledge; here it is only put together.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::symbols::{debug_directories, examined};
use super::{Fact, Gathering, Tree};
use crate::elf::{DebugInformation, Separation};
use crate::process::{MountNamespace, Targets};
use crate::python::marks::PROVIDER;
use crate::python::undecodable::{self, Sign};
use crate::python::{FileId, Interpreter, InterpreterKind, RemoteDebugSwitch, Version};

/// One interpreter file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Python {
    /// Its path, as the processes see it.
    pub path: String,
    /// The interpreter by which the first of its processes was started, where there is one and it is not `path` itself: a
    /// library is no command, and a virtual environment has its own packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_as: Option<String>,
    /// Processes that run it, ascending.
    pub pids: Vec<u32>,
    /// `executable` or `library`.
    pub kind: String,
    /// Its version, for example `3.11.2`.
    pub version: Fact<String>,
    /// GNU build id.
    pub build_id: Fact<String>,
    /// CPython's marks in it.
    pub marks: Fact<Vec<String>>,
    /// Whether the marks are guarded by semaphores.
    pub guarded: bool,
    /// Whether processes still run a file that was replaced on disk since.
    pub replaced: bool,
    /// Whether processes see other mounts than pystap does (a container).
    pub elsewhere: bool,
    /// Whether it was configured with `--with-dtrace`, as its standard library says.
    pub configured_with_dtrace: Fact<bool>,
    /// Whether a process was started with the JIT switched on (`PYTHON_JIT`).
    pub jit: Fact<bool>,
    /// Its debug information.
    pub debug: Fact<DebugInformation>,
    /// What shows that its own marks could end a process, because a path is not UTF-8; nothing where none shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undecodable: Option<Undecodable>,
    /// The first process that was told to let no debugger in while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_debug: Option<RemoteDebug>,
}

impl Python {
    /// Major and minor version.
    pub(crate) fn language(&self) -> Option<(u8, u8)> {
        let version: Version = self.version.value()?.parse().ok()?;
        Some((version.major, version.minor))
    }
}

/// A process that has a path which is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Undecodable {
    /// The process.
    pub pid: u32,
    /// What shows it, a noun.
    pub sign: String,
}

/// A process that was started with a switch against remote debugging (PEP 768).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemoteDebug {
    /// The process.
    pub pid: u32,
    /// The switch, as it is typed.
    pub switch: String,
    /// Whether interpreters ignore it, because it is misspelt.
    pub ignored: bool,
}

/// Functions of CPython that are in every build, tried in this order.
const KNOWN_FUNCTIONS: [&str; 4] = [
    "_PyEval_EvalFrameDefault",
    "PyEval_EvalFrameEx",
    "PyObject_Call",
    "Py_Initialize",
];

/// How many processes of one interpreter are asked for their environment.
const ASKED: usize = 20;

pub(super) fn of_targets(gathering: &Gathering, targets: &Targets) -> Vec<Python> {
    let mut found: Vec<(FileId, Python)> = Vec::new();
    let here = MountNamespace::ours().ok();
    for process in &targets.processes {
        for interpreter in &process.interpreters {
            let elsewhere = match (process.mounts, here) {
                (Some(theirs), Some(ours)) => theirs != ours,
                _ => false,
            };
            match found.iter_mut().find(|(file, _)| *file == interpreter.file) {
                Some((_, python)) => {
                    python.pids.push(process.pid);
                    python.elsewhere |= elsewhere;
                    python.replaced |= interpreter.replaced;
                }
                None => found.push((
                    interpreter.file,
                    described(gathering, interpreter, Some(process.pid), elsewhere),
                )),
            }
        }
    }
    let expected = targets
        .command
        .iter()
        .flat_map(|command| &command.interpreters);
    for interpreter in targets.python.iter().chain(expected) {
        if !found.iter().any(|(file, _)| *file == interpreter.file) {
            found.push((
                interpreter.file,
                described(gathering, interpreter, None, false),
            ));
        }
    }
    let mut pythons: Vec<Python> = found.into_iter().map(|(_, python)| python).collect();
    for python in &mut pythons {
        python.jit = jit(&gathering.tree, &python.pids);
        python.undecodable = undecodable(python);
        python.remote_debug = remote_debug(python);
    }
    pythons.sort_by(|one, other| one.path.cmp(&other.path));
    pythons
}

fn described(
    gathering: &Gathering,
    interpreter: &Interpreter,
    pid: Option<u32>,
    elsewhere: bool,
) -> Python {
    let path = interpreter.path.display().to_string();
    let image = &interpreter.image;
    let ours: Vec<_> = image
        .marks
        .iter()
        .filter(|mark| mark.provider == PROVIDER)
        .collect();
    let mut names: Vec<String> = ours.iter().map(|mark| mark.name.clone()).collect();
    names.sort();
    names.dedup();
    Python {
        started_as: pid
            .map(|pid| interpreter.as_started(pid))
            .or_else(|| gathering.python.clone())
            .filter(|started| *started != interpreter.path)
            .map(|started| started.display().to_string()),
        pids: pid.into_iter().collect(),
        kind: match interpreter.kind {
            InterpreterKind::Executable => "executable",
            InterpreterKind::Library => "library",
        }
        .to_owned(),
        version: match &interpreter.version {
            Some(version) => Fact::found(&path, version.to_string()),
            None => Fact::unknown(&path, "nothing in the file or its name tells"),
        },
        build_id: match &image.build_id {
            Some(id) => Fact::found(&path, id.clone()),
            None => Fact::absent(&path),
        },
        marks: match image.damaged.first() {
            Some(problem) if names.is_empty() => {
                Fact::unknown(&path, problem.trim_end_matches('.'))
            }
            _ => Fact::found(&path, names),
        },
        guarded: ours
            .iter()
            .any(|mark| mark.sites.iter().any(|site| site.semaphore.is_some())),
        replaced: interpreter.replaced,
        elsewhere,
        configured_with_dtrace: configured(&gathering.tree, interpreter),
        jit: Fact::unknown("/proc/PID/environ", "no process was asked"),
        debug: debug(gathering, interpreter),
        undecodable: None,
        remote_debug: None,
        path,
    }
}

/// `_sysconfigdata….py` of the standard library holds the words that `configure` was called with.
fn configured(tree: &Tree, interpreter: &Interpreter) -> Fact<bool> {
    let Some(version) = &interpreter.version else {
        return Fact::unknown("_sysconfigdata", "the version is not known");
    };
    // Below the root of the process, whose standard library is meant.
    let directory = interpreter.reach.parent().unwrap_or(Path::new("/"));
    // bin/python3.11 and lib/libpython3.11.so both have the standard library in ../lib/python3.11; Debian's libraries
    // are a level deeper, and those of Fedora in lib64.
    let prefixes = directory.ancestors().take(3);
    let libraries: Vec<PathBuf> = prefixes
        .flat_map(|prefix| {
            ["lib", "lib64"].map(|lib| {
                prefix
                    .join(lib)
                    .join(format!("python{}.{}", version.major, version.minor))
            })
        })
        .collect();
    for library in libraries {
        let library = library.display().to_string();
        let names = tree.names(&library);
        let file = names.value().and_then(|names| {
            names
                .iter()
                .find(|name| name.starts_with("_sysconfigdata") && name.ends_with(".py"))
        });
        if let Some(file) = file {
            return tree
                .text(&format!("{library}/{file}"))
                .map(|text| text.contains("--with-dtrace"));
        }
    }
    Fact::absent(format!(
        "_sysconfigdata of python{}.{}",
        version.major, version.minor
    ))
}

fn debug(gathering: &Gathering, interpreter: &Interpreter) -> Fact<DebugInformation> {
    let path = interpreter.path.display().to_string();
    let separation = match Separation::of(&interpreter.reach) {
        Ok(separation) => separation,
        Err(error) => return Fact::unknown(path, error.to_string()),
    };
    let directories = debug_directories(gathering);
    match directories.of(&interpreter.reach, &separation) {
        Some(place) => examined(&gathering.tree, &directories, &place, &KNOWN_FUNCTIONS),
        None => Fact::absent(path),
    }
}

/// The first process that has a path on which marks of this interpreter fail.
fn undecodable(python: &Python) -> Option<Undecodable> {
    let marks = python.marks.value()?;
    let version: Option<Version> = python.version.value().and_then(|it| it.parse().ok());
    let fails = undecodable::is_affected(version.as_ref())
        && marks
            .iter()
            .any(|mark| undecodable::MARKS.contains(&mark.as_str()));
    let mut asked = python.pids.iter().take(ASKED).filter(|_| fails);
    asked.find_map(|pid| {
        let sign = Sign::of_process(*pid, version.as_ref())?.to_string();
        Some(Undecodable { pid: *pid, sign })
    })
}

/// The first process that was told to let no debugger in.
fn remote_debug(python: &Python) -> Option<RemoteDebug> {
    python.pids.iter().take(ASKED).find_map(|pid| {
        let switch = RemoteDebugSwitch::of_process(*pid)?;
        Some(RemoteDebug {
            pid: *pid,
            switch: switch.to_string(),
            ignored: switch == RemoteDebugSwitch::Misspelt,
        })
    })
}

/// Whether any of the processes was started with the JIT on.
fn jit(tree: &Tree, pids: &[u32]) -> Fact<bool> {
    let mut last = Fact::unknown("/proc/PID/environ", "no process runs it");
    for pid in pids.iter().take(ASKED) {
        last = tree.text(&format!("/proc/{pid}/environ")).map(|text| {
            text.split('\0').any(|entry| {
                entry
                    .strip_prefix("PYTHON_JIT=")
                    .is_some_and(|value| !value.is_empty() && value != "0")
            })
        });
        if last.value() == Some(&true) {
            break;
        }
    }
    last
}
