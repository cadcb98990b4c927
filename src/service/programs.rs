//! Which programs a process runs, as far as it shows: a console script, a module, a title that it sets, the application
//! in an application server.

use std::fmt;

/// What a process reveals about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// The kernel's name of its main thread, at most 15 bytes.
    pub comm: String,
    /// Its arguments; a process that rewrote them has one.
    pub arguments: Vec<String>,
    /// Variables of its environment that name an application, if they may be read.
    pub environment: Vec<(String, String)>,
}

/// Variables worth reading: they can tell uwsgi what its options would.
pub(crate) const VARIABLES: [&str; 6] = [
    "UWSGI_INI_APP",
    "UWSGI_INI",
    "UWSGI_MODULE",
    "UWSGI_WSGI_FILE",
    "UWSGI_PROCNAME_PREFIX",
    "UWSGI_PROCNAME",
];

/// How a process was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The script that Python runs.
    Script(String),
    /// The module that Python runs.
    Module(String),
    /// The title that it set.
    Title(String),
    /// The name of its main thread.
    Comm(String),
    /// What uwsgi was told to load.
    Uwsgi(String),
    /// The process group of mod_wsgi.
    ModWsgi(String),
    /// A helper that works with files of the service.
    Helper(String),
    /// The pattern of a user-defined service.
    Pattern(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Script(path) => write!(f, "runs {path}"),
            Why::Module(name) => write!(f, "runs module {name}"),
            Why::Title(title) => write!(f, "calls itself {title:?}"),
            Why::Comm(name) => write!(f, "its thread is called {name}"),
            Why::Uwsgi(told) => write!(f, "uwsgi was told {told}"),
            Why::ModWsgi(group) => write!(f, "mod_wsgi group {group}"),
            Why::Helper(path) => write!(f, "helper that uses {path}"),
            Why::Pattern(pattern) => write!(f, "its command line matches {pattern}"),
        }
    }
}

/// The last component of a path.
fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_python(path: &str) -> bool {
    let name = base(path);
    name.strip_prefix("python")
        .or_else(|| name.strip_prefix("pypy"))
        .is_some_and(|rest| {
            rest.chars()
                .all(|it| it.is_ascii_digit() || matches!(it, '.' | 'd' | 't' | '-'))
        })
}

/// `nova-api` for `/etc/nova/nova-api-uwsgi.ini` or `nova-api-wsgi`, in addition to the unchanged stem.
fn stems(path: &str) -> Vec<String> {
    let file = base(path);
    let stem = file
        .strip_suffix(".ini")
        .or_else(|| file.strip_suffix(".py"))
        .or_else(|| file.strip_suffix(".wsgi"))
        .unwrap_or(file);
    let mut stems = vec![stem.to_owned()];
    for ending in ["-uwsgi", "_uwsgi", "-wsgi", "_wsgi"] {
        stems.extend(stem.strip_suffix(ending).map(ToOwned::to_owned));
    }
    stems
}

/// Names for a dotted module: `nova.cmd.compute:main` is nova-compute, and nova in any case.
fn of_module(module: &str) -> Vec<String> {
    let module = module.split(':').next().unwrap_or(module);
    let parts: Vec<&str> = module.split('.').collect();
    let Some((&package, rest)) = parts.split_first() else {
        return Vec::new();
    };
    let mut names = vec![package.to_owned()];
    if let Some(&last) = rest.last().filter(|last| **last != "__main__") {
        names.push(format!("{package}-{}", last.replace('_', "-")));
    }
    names
}

impl Seen {
    /// Names of programs, the most reliable first.
    pub fn programs(&self) -> Vec<(String, Why)> {
        let mut found = Vec::new();
        let Some(first) = self.arguments.first() else {
            return found;
        };
        if is_python(first) {
            self.python(&mut found);
        } else if base(first).starts_with("uwsgi") {
            self.uwsgi(&mut found);
        } else if let Some(group) = first.strip_prefix("(wsgi:") {
            let group = group.split(')').next().unwrap_or(group).trim();
            found.push((group.to_owned(), Why::ModWsgi(group.to_owned())));
        } else {
            self.title(first, &mut found);
        }
        // A script that was started through its first line has its name in comm, whatever it did to its arguments
        // since.
        let comm = self.comm.trim_end_matches(':');
        if !is_python(comm) && !comm.starts_with("uwsgi") {
            found.push((comm.to_owned(), Why::Comm(comm.to_owned())));
        }
        found
    }

    /// `python3 [options] script …` or `python3 [options] -m module …`.
    fn python(&self, found: &mut Vec<(String, Why)>) {
        let mut rest = self.arguments.iter().skip(1);
        while let Some(argument) = rest.next() {
            if let Some(module) = argument.strip_prefix("-m") {
                let module = if module.is_empty() {
                    rest.next().map_or("", String::as_str)
                } else {
                    module
                };
                let why = Why::Module(module.to_owned());
                found.extend(
                    of_module(module)
                        .into_iter()
                        .map(|name| (name, why.clone())),
                );
                return;
            }
            if argument == "-c" {
                return;
            }
            if matches!(argument.as_str(), "-W" | "-X" | "--check-hash-based-pycs") {
                rest.next();
            } else if !argument.starts_with('-') {
                let why = Why::Script(argument.clone());
                found.extend(stems(argument).into_iter().map(|name| (name, why.clone())));
                return;
            }
        }
    }

    fn uwsgi(&self, found: &mut Vec<(String, Why)>) {
        let mut add = |names: Vec<String>, told: String| {
            found.extend(
                names
                    .into_iter()
                    .map(|name| (name, Why::Uwsgi(told.clone()))),
            );
        };
        let mut rest = self.arguments.iter().skip(1);
        while let Some(argument) = rest.next() {
            let (option, value) = match argument.split_once('=') {
                Some((option, value)) if option.starts_with("--") => {
                    (option, Some(value.to_owned()))
                }
                _ => (argument.as_str(), None),
            };
            let mut value = || {
                value
                    .clone()
                    .or_else(|| rest.next().cloned())
                    .unwrap_or_default()
            };
            match option {
                "--procname-prefix"
                | "--procname-prefix-spaced"
                | "--procname"
                | "--procname-master" => {
                    let name = value();
                    add(vec![name.trim().to_owned()], format!("{option} {name}"));
                }
                "--ini" | "-i" | "--yaml" | "--wsgi-file" | "--file" => {
                    let path = value();
                    add(stems(&path), format!("{option} {path}"));
                }
                "--module" | "-w" | "--wsgi" => {
                    let module = value();
                    add(of_module(&module), format!("{option} {module}"));
                }
                path if !path.starts_with('-') && path.ends_with(".ini") => {
                    add(stems(path), path.to_owned());
                }
                _ => {}
            }
        }
        for (name, value) in &self.environment {
            let names = match name.as_str() {
                "UWSGI_MODULE" => of_module(value),
                "UWSGI_PROCNAME_PREFIX" | "UWSGI_PROCNAME" => vec![value.trim().to_owned()],
                _ => stems(value),
            };
            add(names, format!("{name}={value}"));
        }
    }

    /// `nova-conductor: ServiceWrapper worker(0)`, `nova-apiuWSGI worker 1`, or the path of a program that contains
    /// Python.
    fn title(&self, first: &str, found: &mut Vec<(String, Why)>) {
        let word = first.split([' ', ':']).next().unwrap_or(first);
        let name = base(word);
        let name = name.split("uWSGI").next().unwrap_or(name);
        found.push((name.to_owned(), Why::Title(first.to_owned())));
    }

    /// The argument that shows for whom a privileged helper works: a path that contains the project's name.
    pub(super) fn helper_of(&self, project: &str) -> Option<String> {
        let helper = self.arguments.iter().take(2).any(|argument| {
            let name = base(argument);
            name == "privsep-helper"
                || name.ends_with("rootwrap")
                || name.ends_with("rootwrap-daemon")
        });
        let of_project = |argument: &&String| {
            let mut parts = argument.split(['/', '=']);
            argument.contains('/') && parts.any(|part| part == project)
        };
        helper
            .then(|| self.arguments.iter().skip(1).find(of_project).cloned())
            .flatten()
    }
}
