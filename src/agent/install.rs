//! The way in that is prepared before a process starts: the library and one `.pth` file in an environment's site-packages.
//! Every Python of that environment then starts with a dormant agent, one native thread that waits on a socket until a trace
//! wakes it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::embedded;
use super::way::supported;
use crate::elf::Image;
use crate::python::Version;
use crate::python::name::may_be_library;

/// The library, under a name that `import _pystap_agent` finds.
const LIBRARY: &str = "_pystap_agent.abi3.so";
/// The file that has it imported.
const PTH: &str = "pystap_agent.pth";
/// One line, as the format wants it. What goes wrong in it must not disturb the program.
const LINE: &str = r#"import sys; exec("try:\n    import _pystap_agent\n    _pystap_agent.start(True)\nexcept Exception:\n    pass")"#;
/// How long an interpreter may take to say what it is.
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
        /// As it was typed.
        path: PathBuf,
    },
    /// It does not answer as a Python does.
    #[error("{path} did not say which Python it is ({reason}), so nothing was changed; name an interpreter, for example .venv/bin/python", path = path.display())]
    NotPython {
        /// As it was typed.
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
    /// Its site-packages are not looked at when it starts.
    #[error("{path} does not look for start-up files in {site}, so an agent there would never start and nothing was changed; make a virtual environment with it", path = path.display(), site = site.display())]
    NoSite {
        /// The interpreter.
        path: PathBuf,
        /// Its site-packages.
        site: PathBuf,
    },
    /// The directory does not take it.
    #[error("{site} cannot be written ({reason}), so nothing was changed; run this as its owner or with sudo, or name the interpreter of a virtual environment", site = site.display())]
    Unwritable {
        /// The directory.
        site: PathBuf,
        /// The system's reason.
        reason: io::Error,
    },
}

/// An environment: what an interpreter says of itself.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The interpreter.
    pub python: PathBuf,
    /// Its version.
    pub version: String,
    /// Its site-packages.
    pub site: PathBuf,
}

/// What of the agent is in an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// Nothing.
    No,
    /// The agent of this pystap.
    Current,
    /// One of another pystap.
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
    /// Asks an interpreter, by running it.
    ///
    /// # Errors
    /// [`InstallError`], also when the agent does not run in it.
    pub fn of(path: &Path) -> Result<Environment, InstallError> {
        let found = which::which(path).map_err(|_| InstallError::NotFound {
            path: path.to_owned(),
        })?;
        let not_python = |reason: String| InstallError::NotPython {
            path: path.to_owned(),
            reason,
        };
        // Some libraries can be started, and do something else than to answer.
        if may_be_library(&found) {
            return Err(not_python("it is a library".to_owned()));
        }
        let output = ask(&found).map_err(|error| not_python(error.to_string()))?;
        let answer: Answer = serde_json::from_slice(&output)
            .map_err(|_| not_python("its answer makes no sense".to_owned()))?;
        let unsupported = |what: String| InstallError::Unsupported {
            path: path.to_owned(),
            what,
        };
        let [major, minor, micro] = answer.version.as_slice() else {
            return Err(not_python("its version makes no sense".to_owned()));
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

    /// Puts the agent of this pystap into it. Each file is there whole or not at all, the library first.
    ///
    /// # Errors
    /// [`InstallError::Unwritable`].
    pub fn install(&self) -> Result<(), InstallError> {
        self.write(LIBRARY, embedded::LIBRARY, 0o755)?;
        self.write(PTH, format!("{LINE}\n").as_bytes(), 0o644)
    }

    /// Takes it out. Whether there was anything.
    ///
    /// # Errors
    /// [`InstallError::Unwritable`].
    pub fn uninstall(&self) -> Result<bool, InstallError> {
        let mut any = false;
        for name in [PTH, LIBRARY] {
            match fs::remove_file(self.site.join(name)) {
                Ok(()) => any = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(reason) => return Err(self.unwritable(reason)),
            }
        }
        Ok(any)
    }

    /// What is in it.
    pub fn installed(&self) -> Installed {
        let library = Image::open(self.site.join(LIBRARY)).ok();
        match (library, self.site.join(PTH).exists()) {
            (None, false) => Installed::No,
            (Some(image), true) if image.build_id.as_deref() == Some(embedded::build_id()) => {
                Installed::Current
            }
            (Some(_), true) => Installed::Other,
            _ => Installed::Half,
        }
    }

    fn unwritable(&self, reason: io::Error) -> InstallError {
        InstallError::Unwritable {
            site: self.site.clone(),
            reason,
        }
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), InstallError> {
        let draft = self.site.join(format!(".{name}.{}", std::process::id()));
        let written = (|| {
            let mut file = File::create_new(&draft)?;
            file.write_all(bytes)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            // An environment stays its owner's, who may not be root.
            let site = fs::metadata(&self.site)?;
            if rustix::process::geteuid().is_root() {
                fchown(&file, Some(site.uid()), Some(site.gid()))?;
            }
            fs::rename(&draft, self.site.join(name))
        })();
        written.map_err(|reason| {
            let _ = fs::remove_file(&draft);
            self.unwritable(reason)
        })
    }
}

fn ask(python: &Path) -> io::Result<Vec<u8>> {
    let mut child = Command::new(python)
        // Isolated: what is in the working directory or in our environment says nothing about it.
        .args(["-I", "-c", QUESTION])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let end = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::other("it does not answer"));
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    // The answer is far smaller than a pipe, so that it never had to wait for us.
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("it ended with {}", output.status)));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_agent_comes_into_an_environment_and_leaves_nothing_when_it_goes() {
        let (_directory, python) = environment();
        let environment = Environment::of(&python).expect("a supported Python");
        assert!(environment.site.ends_with("site-packages"));
        assert_eq!(environment.installed(), Installed::No);
        let before = fs::read_dir(&environment.site)
            .expect("a directory")
            .count();
        environment.install().expect("installed");
        environment.install().expect("installed over itself");
        assert_eq!(environment.installed(), Installed::Current);
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
        assert_eq!(environment.installed(), Installed::Half);
        assert!(environment.uninstall().expect("removed"));
        assert_eq!(environment.installed(), Installed::No);
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
            ("/bin/false", "ended with"),
        ] {
            let error = Environment::of(Path::new(path)).expect_err(path);
            assert!(error.to_string().contains(word), "{error}");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let fake = |answer: &str| {
            let path = directory.path().join("python");
            fs::write(&path, format!("#!/bin/sh\necho '{answer}'\n")).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
            let error = Environment::of(&path).expect_err("refused").to_string();
            assert!(error.contains("nothing was changed"), "{error}");
            error
        };
        let answer = |version: &str, implementation: &str, free: bool, abi: &str, site: &str| {
            format!(
                r#"{{"version":{version},"implementation":"{implementation}","free_threaded":{free},"executable":"/x","site":"{site}","searched":["/s"],"linker":"{abi}"}}"#
            )
        };
        assert!(fake(&answer("[3,11,4]", "pypy", false, "", "/s")).contains("pypy 3.11.4"));
        assert!(fake(&answer("[3,8,1]", "cpython", false, "", "/s")).contains("Python 3.8.1"));
        assert!(fake(&answer("[3,14,0]", "cpython", true, "", "/s")).contains("free-threaded"));
        let musl = "cpython-312-x86_64-linux-musl";
        assert!(fake(&answer("[3,12,0]", "cpython", false, musl, "/s")).contains("musl"));
        assert!(
            fake(&answer("[3,12,0]", "cpython", false, "", "/t")).contains("start-up files in /t")
        );
        assert!(fake("hello").contains("makes no sense"));
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
