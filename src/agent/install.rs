//! The way in that is prepared before a process starts: the library and a `.pth` file in an environment's
//! site-packages. Every Python of that environment then starts with a dormant agent, one native thread that waits on a
//! socket until a trace wakes it.
//!
//! Nothing is run if files provide the answer: for virtual environments, and for interpreters that are complete in a
//! directory of their own. Other interpreters are run as the user who holds them, and root writes only where root alone
//! can: a process with the other user's IDs puts the files into that user's environment (`Task`).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;
use serde::Deserialize;

use super::attach_method::{obstacle_of_build, supported};
use super::embedded;
use super::site::{LIBRARY, PTH, library_of, prefix};
use crate::authority::foreign::{self, AskError, Said};
use crate::authority::{Holder, Identity};
use crate::elf::Image;
use crate::files::{self, Look};
use crate::process;
use crate::python::name::may_be_library;
use crate::python::{Interpreter, PythonError, Version};

/// One line, as the format requires. Errors in it must not disturb the program. Where pystap launches the program, it takes the
/// library of that session, which is the one that is probed, and is beside a directory on the path: this comes before anybody's
/// `sitecustomize`, and a program may have put another one before ours.
const LINE: &str = r#"import os, sys; exec("def _pystap():\n    follow = os.environ.get('PYSTAP_AGENT')\n    near = [os.path.join(entry, '..', 'libpystap_agent.so') for entry in sys.path]\n    near = [path for path in near if follow and os.path.isfile(path)]\n    if near:\n        from importlib.machinery import ExtensionFileLoader\n        from importlib.util import module_from_spec, spec_from_loader\n        loader = ExtensionFileLoader('_pystap_agent', os.path.abspath(near[0]))\n        agent = sys.modules['_pystap_agent'] = module_from_spec(spec_from_loader('_pystap_agent', loader))\n        loader.exec_module(agent)\n        agent.start(True, follow)\n    else:\n        import _pystap_agent\n        _pystap_agent.start(True)\ntry:\n    _pystap()\nexcept Exception:\n    pass", {'os': os, 'sys': sys})"#;
/// How long an interpreter may take to say what it is, and a process of ours to do something in an environment.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an interpreter is asked.
const QUESTION: &str = r#"
import json, site, sys, sysconfig
print(json.dumps({
    "version": list(sys.version_info[:3]),
    "implementation": sys.implementation.name,
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "executable": sys.executable,
    "site": sysconfig.get_path("purelib"),
    "searched": site.getsitepackages(),
    "linker": sysconfig.get_config_var("SOABI") or "",
}))
"#;

/// Why an agent cannot be installed, removed or looked for.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// No such command.
    #[error("there is no {path}, so nothing was changed; name an interpreter, for example .venv/bin/python", path = path.display())]
    NotFound {
        /// As the user typed it.
        path: PathBuf,
    },
    /// A directory, as of a virtual environment.
    #[error("{path} is a directory, so nothing was changed; name the interpreter in it, as {inside}", path = path.display(), inside = crate::shell::path(path.join("bin/python")))]
    Directory {
        /// As the user typed it.
        path: PathBuf,
    },
    /// It does not answer as a Python does.
    #[error("{path} did not say which Python it is ({reason}), so nothing was changed; name an interpreter, for example .venv/bin/python", path = path.display())]
    NotPython {
        /// As the user typed it.
        path: PathBuf,
        /// What it said instead.
        reason: String,
    },
    /// The agent does not run in it.
    #[error("{path} is {what}, in which pystap's agent does not run, so nothing was changed; it runs in CPython 3.9 to 3.15 with its GIL, on glibc", path = path.display())]
    Unsupported {
        /// The interpreter.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// Several users could change it.
    #[error("{held}, and root does nothing there that one of them could turn against another, so nothing was changed; run this as the owner of {path}, or leave it to one owner (`ls -ld` on each directory shows whose it is)", path = path.display())]
    Held {
        /// The path in question.
        path: PathBuf,
        /// Who holds it, a clause.
        held: String,
    },
    /// The path leads to something that belongs to another user.
    #[error("{path} leads to {site}, which belongs to somebody else ({path}: {held}), so nothing was changed; name the interpreter there itself", path = path.display(), site = site.display())]
    Elsewhere {
        /// As the user typed it.
        path: PathBuf,
        /// Who holds the destination, a clause.
        held: String,
        /// Where it leads.
        site: PathBuf,
    },
    /// It does not read its site-packages at start-up.
    #[error("{path} does not look for start-up files in {site}, so an agent there would never start and nothing was changed; make a virtual environment with it", path = path.display(), site = site.display())]
    NoSite {
        /// The interpreter.
        path: PathBuf,
        /// Its site-packages.
        site: PathBuf,
    },
    /// The directory cannot be written to.
    #[error("{site} cannot be written ({reason}), so nothing was changed; run this as its owner or with sudo, or name the interpreter of a virtual environment", site = site.display())]
    Unwritable {
        /// The directory.
        site: PathBuf,
        /// The system's reason.
        reason: io::Error,
    },
}

/// An environment, as its interpreter or its files describe it.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The interpreter.
    pub python: PathBuf,
    /// Its version.
    pub version: String,
    /// Its site-packages.
    pub site: PathBuf,
}

/// What of the agent is installed in an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// Nothing.
    No,
    /// The agent of this pystap.
    Current,
    /// The agent of another pystap.
    Other,
    /// The library or the `.pth` file without the other.
    Half,
}

#[derive(Deserialize)]
struct Answer {
    version: Vec<u8>,
    implementation: String,
    free_threaded: bool,
    executable: PathBuf,
    site: PathBuf,
    searched: Vec<PathBuf>,
    linker: String,
}

impl Environment {
    /// Examines an interpreter's files, and runs it if they do not say where its site-packages are.
    ///
    /// # Errors
    /// [`InstallError`], also when the agent does not run in this interpreter.
    pub fn of(path: &Path) -> Result<Environment, InstallError> {
        if path.is_dir() {
            return Err(InstallError::Directory {
                path: path.to_owned(),
            });
        }
        let found = which::which(path).map_err(|_| InstallError::NotFound {
            path: path.to_owned(),
        })?;
        let environment = Environment::at(path, &found)?;
        // A user's link or shim that leads elsewhere must not decide where root writes.
        if geteuid().is_root() {
            let held = |at: &Path| Holder::of(at).map_err(|error| not_python(path, error));
            match (held(&found)?, held(&environment.site)?) {
                (Holder::Root, _) => {}
                (named, site) if named == site => {}
                (named, Holder::Root | Holder::User(_)) => {
                    return Err(InstallError::Elsewhere {
                        path: found,
                        held: named.to_string(),
                        site: environment.site,
                    });
                }
                (_, Holder::Several(_)) => {}
            }
        }
        Ok(environment)
    }

    fn at(path: &Path, found: &Path) -> Result<Environment, InstallError> {
        // Some libraries are executable, and do something other than answer.
        if may_be_library(found) {
            return Err(not_python(path, "it is a library"));
        }
        let unsupported = |what: String| InstallError::Unsupported {
            path: path.to_owned(),
            what,
        };
        let interpreter = match Interpreter::of_file(found) {
            Ok(interpreters) => interpreters.into_iter().next(),
            Err(PythonError::Script { .. }) => {
                let behind = process::asked_shim(found).map_err(|error| not_python(path, error))?;
                return match Interpreter::of_file(&behind) {
                    Err(PythonError::Script { .. }) => {
                        Err(not_python(path, "it starts another script"))
                    }
                    _ => Environment::at(path, &behind),
                };
            }
            Err(PythonError::OtherPythonFile { implementation, .. }) => {
                return Err(unsupported(implementation.to_owned()));
            }
            Err(error) => return Err(not_python(path, error)),
        };
        let Some(interpreter) = interpreter else {
            return Err(not_python(path, "there is no interpreter in it"));
        };
        if let Some(version) = &interpreter.version
            && !supported(version)
        {
            return Err(unsupported(format!("Python {version}")));
        }
        if let Some(obstacle) = obstacle_of_build(&interpreter.image) {
            return Err(unsupported(format!(
                "a Python of another kind ({obstacle})"
            )));
        }
        match interpreter.version {
            Some(version) if let Some(site) = site_by_files(found, &version) => match site {
                Site::Usual(site) => Ok(Environment {
                    python: found.to_owned(),
                    version: version.to_string(),
                    site,
                }),
                Site::FreeThreaded => {
                    Err(unsupported(format!("the free-threaded Python {version}")))
                }
            },
            version => Environment::asked(path, found, version.as_ref()),
        }
    }

    fn asked(
        path: &Path,
        found: &Path,
        version: Option<&Version>,
    ) -> Result<Environment, InstallError> {
        // Whoever holds the standard library also decides what runs. No site-packages: -S.
        let library = version.and_then(|version| {
            let real = fs::canonicalize(found).ok()?;
            let library = prefix(&real)?.join(library_of(version));
            library.is_dir().then_some(library)
        });
        let arguments = ["-I", "-S", "-B", "-c", QUESTION];
        let said = foreign::ask(found, &arguments, library.as_deref(), PATIENCE);
        let said = match said {
            Ok(said) => said,
            Err(AskError::Held(held)) => {
                return Err(InstallError::Held {
                    path: found.to_owned(),
                    held,
                });
            }
            Err(AskError::System(error)) => return Err(not_python(path, error)),
        };
        Environment::from_answer(path, &said)
    }

    fn from_answer(path: &Path, said: &Said) -> Result<Environment, InstallError> {
        if !said.status.success() {
            return Err(not_python(path, format!("it ended with {}", said.status)));
        }
        let answer: Answer = serde_json::from_slice(&said.output)
            .map_err(|_| not_python(path, "its answer makes no sense"))?;
        let unsupported = |what: String| InstallError::Unsupported {
            path: path.to_owned(),
            what,
        };
        let [major, minor, micro] = answer.version.as_slice() else {
            return Err(not_python(path, "its version makes no sense"));
        };
        let version = format!("{major}.{minor}.{micro}");
        if answer.implementation != "cpython" {
            return Err(unsupported(format!("{} {version}", answer.implementation)));
        }
        if !supported(&Version::of_language(*major, *minor)) {
            return Err(unsupported(format!("Python {version}")));
        }
        if answer.free_threaded {
            return Err(unsupported(format!("the free-threaded Python {version}")));
        }
        if answer.linker.contains("musl") {
            return Err(unsupported(format!("Python {version} for musl")));
        }
        if !answer.searched.contains(&answer.site) {
            return Err(InstallError::NoSite {
                path: path.to_owned(),
                site: answer.site,
            });
        }
        Ok(Environment {
            python: answer.executable,
            version,
            site: answer.site,
        })
    }

    /// Installs this pystap's agent. Each file appears complete or not at all, the library first.
    ///
    /// # Errors
    /// [`InstallError::Unwritable`], [`InstallError::Held`].
    pub fn install(&self) -> Result<(), InstallError> {
        self.have(Task::Install).map(drop)
    }

    /// Removes the agent. Returns whether there was one.
    ///
    /// # Errors
    /// As [`Environment::install`].
    pub fn uninstall(&self) -> Result<bool, InstallError> {
        Ok(self.have(Task::Uninstall)? != Installed::No)
    }

    /// What is installed.
    ///
    /// # Errors
    /// [`InstallError::Held`], and when the process that looks on root's behalf fails.
    pub fn installed(&self) -> Result<Installed, InstallError> {
        self.have(Task::Look)
    }

    /// Does something in the site-packages, with the rights of the user who holds them.
    fn have(&self, task: Task) -> Result<Installed, InstallError> {
        let unwritable = |reason: io::Error| InstallError::Unwritable {
            site: self.site.clone(),
            reason,
        };
        if !geteuid().is_root() {
            return task.of(&self.site).map_err(unwritable);
        }
        match Holder::of(&self.site).map_err(unwritable)? {
            Holder::Root => task.of(&self.site).map_err(unwritable),
            Holder::User(user) => {
                let arguments = [task.word().as_ref(), self.site.as_os_str()];
                let said = foreign::as_user(user, "place", arguments, PATIENCE);
                said.and_then(|said| answered(user, &said))
                    .map_err(unwritable)
            }
            Holder::Several(held) => Err(InstallError::Held {
                path: self.site.clone(),
                held,
            }),
        }
    }
}

fn not_python(path: &Path, reason: impl ToString) -> InstallError {
    InstallError::NotPython {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// Site-packages at their standard location.
enum Site {
    Usual(PathBuf),
    FreeThreaded,
}

/// The library that is installed for an interpreter, where its files say beyond doubt which that is.
pub(super) fn library(python: &Path, version: &Version) -> Option<PathBuf> {
    let Some(Site::Usual(site)) = site_by_files(python, version) else {
        return None;
    };
    let library = site.join(LIBRARY);
    library.is_file().then_some(library)
}

/// Where an interpreter has its site-packages, if its files say so beyond doubt: a virtual environment, whose
/// `pyvenv.cfg` is where Python looks for it; or a standalone installation that no distribution has rearranged.
fn site_by_files(found: &Path, version: &Version) -> Option<Site> {
    let site = |prefix: &Path| {
        let library = prefix.join(library_of(version));
        let mut free = library.clone().into_os_string();
        free.push("t");
        if Path::new(&free).is_dir() {
            return Some(Site::FreeThreaded);
        }
        let site = library.join("site-packages");
        site.is_dir().then_some(Site::Usual(site))
    };
    let beside = found.parent()?;
    if beside.join("pyvenv.cfg").is_file() {
        return site(beside);
    }
    let above = prefix(found)?;
    if above.join("pyvenv.cfg").is_file() {
        return site(above);
    }
    let real = fs::canonicalize(found).ok()?;
    let prefix = prefix(&real)?;
    let library = prefix.join(library_of(version));
    let own = prefix != Path::new("/usr")
        && prefix != Path::new("/")
        && library.join("os.py").is_file()
        && !library.join("dist-packages").exists();
    if own { site(prefix) } else { None }
}

/// What is done in site-packages, possibly by a process that was started for it: `pystap lower USER GROUP place -- TASK
/// SITE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Install,
    Uninstall,
    Look,
}

impl Task {
    const ALL: [Task; 3] = [Task::Install, Task::Uninstall, Task::Look];

    fn word(self) -> &'static str {
        match self {
            Task::Install => "install",
            Task::Uninstall => "uninstall",
            Task::Look => "look",
        }
    }

    /// Does it, with this process's rights. Returns what is installed now, or for [`Task::Uninstall`] what was.
    fn of(self, site: &Path) -> io::Result<Installed> {
        match self {
            Task::Install => {
                write(site, LIBRARY, embedded::library(), 0o755)?;
                write(site, PTH, format!("{LINE}\n").as_bytes(), 0o644)?;
                Ok(Installed::Current)
            }
            Task::Uninstall => {
                let mut was = Installed::No;
                for name in [PTH, LIBRARY] {
                    match fs::remove_file(site.join(name)) {
                        Ok(()) => was = Installed::Other,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(was)
            }
            Task::Look => Ok(look(site)),
        }
    }
}

/// The last part of `pystap lower … place`, after the IDs were taken: does the task and prints the result.
pub fn place(arguments: &[std::ffi::OsString]) -> u8 {
    let [task, site] = arguments else {
        return 1;
    };
    let Some(task) = Task::ALL.into_iter().find(|it| task == it.word()) else {
        return 1;
    };
    let said = match task.of(Path::new(site)) {
        Ok(installed) => installed.word().to_owned(),
        Err(error) => format!("errno {}", error.raw_os_error().unwrap_or_default()),
    };
    match writeln!(io::stdout(), "{said}") {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// Parses the answer of such a process.
fn answered(user: u32, said: &Said) -> io::Result<Installed> {
    let output = String::from_utf8_lossy(&said.output);
    let word = output.trim();
    if let Some(installed) = Installed::ALL.into_iter().find(|it| it.word() == word) {
        return Ok(installed);
    }
    let errno = word.strip_prefix("errno ").and_then(|it| it.parse().ok());
    Err(match errno {
        Some(errno) if errno != 0 => io::Error::from_raw_os_error(errno),
        _ => io::Error::other(format!(
            "what was done in its stead by a process of {} failed: {}",
            foreign::user(Identity::of_user(user).user),
            String::from_utf8_lossy(&said.errors)
                .lines()
                .next()
                .unwrap_or("it said nothing")
        )),
    })
}

impl Installed {
    const ALL: [Installed; 4] = [
        Installed::No,
        Installed::Current,
        Installed::Other,
        Installed::Half,
    ];

    fn word(self) -> &'static str {
        match self {
            Installed::No => "none",
            Installed::Current => "current",
            Installed::Other => "other",
            Installed::Half => "half",
        }
    }
}

fn look(site: &Path) -> Installed {
    // What is there is opened without waiting for it, and only a regular file is read.
    let library = files::look(&site.join(LIBRARY), Look::File)
        .ok()
        .and_then(|file| Image::open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok());
    let present = |name| fs::symlink_metadata(site.join(name)).is_ok();
    match (library, present(LIBRARY), present(PTH)) {
        (None, false, false) => Installed::No,
        (Some(image), _, true) if image.build_id.as_deref() == Some(embedded::build_id()) => {
            Installed::Current
        }
        (Some(_), _, true) => Installed::Other,
        _ => Installed::Half,
    }
}

fn write(site: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let draft = site.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = File::create_new(&draft)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(&draft, site.join(name))
    })();
    written.inspect_err(|_| {
        let _ = fs::remove_file(&draft);
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::executable;

    /// A virtual environment of Debian 12's Python, without pip.
    fn environment() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let made = Command::new("/usr/bin/python3.11")
            .args(["-m", "venv", "--without-pip"])
            .arg(directory.path().join("venv"))
            .status();
        assert!(made.expect("it runs").success());
        let python = directory.path().join("venv/bin/python");
        (directory, python)
    }

    #[test]
    fn a_directory_is_called_one_and_the_interpreter_in_it_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = Environment::of(directory.path()).expect_err("no interpreter");
        let said = error.to_string();
        assert!(said.contains("is a directory"), "{said}");
        let inside = directory.path().join("bin/python");
        assert!(said.contains(&inside.display().to_string()), "{said}");
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn an_agent_comes_into_an_environment_and_leaves_nothing_when_it_goes() {
        let (_directory, python) = environment();
        let environment = Environment::of(&python).expect("a supported Python");
        assert!(environment.site.ends_with("site-packages"));
        assert_eq!(environment.installed().expect("looked at"), Installed::No);
        let before = fs::read_dir(&environment.site)
            .expect("a directory")
            .count();
        environment.install().expect("installed");
        environment.install().expect("installed over itself");
        assert_eq!(
            environment.installed().expect("looked at"),
            Installed::Current
        );
        let status = Command::new(&python)
            .args([
                "-c",
                "import sys; sys.exit('_pystap_agent' not in sys.modules)",
            ])
            .status();
        assert!(
            status.expect("it runs").success(),
            "the agent starts with Python"
        );
        fs::write(environment.site.join(LIBRARY), "damaged").expect("written");
        let status = Command::new(&python).args(["-c", "pass"]).output();
        let output = status.expect("it runs");
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        assert_eq!(environment.installed().expect("looked at"), Installed::Half);
        assert!(environment.uninstall().expect("removed"));
        assert_eq!(environment.installed().expect("looked at"), Installed::No);
        let after = fs::read_dir(&environment.site)
            .expect("a directory")
            .count();
        assert_eq!(before, after);
        assert!(!environment.uninstall().expect("nothing to remove"));
    }

    #[test]
    fn what_is_no_python_or_an_unsupported_one_is_refused_by_name() {
        for (path, word) in [
            ("/nonexistent/python", "there is no"),
            ("/bin/false", "is not Python"),
        ] {
            let error = Environment::of(Path::new(path)).expect_err(path);
            assert!(error.to_string().contains(word), "{error}");
        }
        let said = |answer: &str| {
            let said = Said {
                output: answer.as_bytes().to_vec(),
                errors: Vec::new(),
                status: std::process::ExitStatus::default(),
            };
            let error = Environment::from_answer(Path::new("/x/python"), &said)
                .expect_err("refused")
                .to_string();
            assert!(error.contains("nothing was changed"), "{error}");
            error
        };
        let answer = |version: &str, implementation: &str, free: bool, abi: &str, site: &str| {
            format!(
                r#"{{"version":{version},"implementation":"{implementation}","free_threaded":{free},"executable":"/x","site":"{site}","searched":["/s"],"linker":"{abi}"}}"#
            )
        };
        assert!(said(&answer("[3,11,4]", "pypy", false, "", "/s")).contains("pypy 3.11.4"));
        assert!(said(&answer("[3,8,1]", "cpython", false, "", "/s")).contains("Python 3.8.1"));
        assert!(said(&answer("[3,14,0]", "cpython", true, "", "/s")).contains("free-threaded"));
        let musl = "cpython-312-x86_64-linux-musl";
        assert!(said(&answer("[3,12,0]", "cpython", false, musl, "/s")).contains("musl"));
        assert!(
            said(&answer("[3,12,0]", "cpython", false, "", "/t")).contains("start-up files in /t")
        );
        assert!(said("hello").contains("makes no sense"));
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn the_systems_interpreter_is_asked_and_a_shim_is_looked_behind() {
        let asked = Environment::of(Path::new("/usr/bin/python3.11")).expect("a supported Python");
        assert!(asked.site.ends_with("dist-packages"), "{asked:?}");
        let (directory, python) = environment();
        let shim = directory.path().join("python");
        let text = format!("#!/bin/sh\nexec {} \"$@\"\n", python.display());
        executable::script(&text, &shim);
        let behind = Environment::of(&shim).expect("a supported Python");
        let plain = Environment::of(&python).expect("a supported Python");
        assert_eq!(behind.site, plain.site);
        executable::script("#!/bin/sh\necho \"$0\"\n", &shim);
        let error = Environment::of(&shim).expect_err("refused").to_string();
        assert!(error.contains("another script"), "{error}");
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_virtual_environment_is_understood_without_running_anything() {
        let (_directory, python) = environment();
        let site = Environment::of(&python).expect("a supported Python").site;
        // Anything that ran in it would leave this.
        let canary = site.join("canary");
        fs::write(
            site.join("a.pth"),
            format!("import os; open({:?}, 'w')\n", canary.display().to_string()),
        )
        .expect("written");
        let environment = Environment::of(&python).expect("a supported Python");
        environment.install().expect("installed");
        assert!(environment.uninstall().expect("removed"));
        assert!(!canary.exists());
    }

    #[test]
    fn the_line_looks_for_the_library_of_a_session_by_its_name() {
        assert!(LINE.contains(&format!("'{}'", embedded::NAME)), "{LINE}");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_said_and_nothing_is_left() {
        let environment = Environment {
            python: "/x".into(),
            version: "3.12.0".into(),
            site: "/proc".into(),
        };
        let error = environment.install().expect_err("refused");
        assert!(
            error.to_string().starts_with("/proc cannot be written"),
            "{error}"
        );
    }
}
