//! The available interpreters: this system's own, those of pyenv, and those in the trees that `tests/guest/build` makes
//! (entered with chroot, so as root), and the free-threaded one of `tests/free-threaded/build`. `PYSTAP_TEST_PYTHONS` (a list of paths like PATH) names others instead.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// An interpreter, and how to run it.
#[derive(Debug, Clone)]
pub(crate) struct Interpreter {
    /// The tree that it is in, or `/`.
    root: PathBuf,
    /// Its path there.
    path: PathBuf,
    /// Major, minor and micro.
    pub(crate) version: [u32; 3],
    /// Whether it is a free-threaded build.
    pub(crate) is_free_threaded: bool,
}

impl Interpreter {
    fn at(root: &Path, path: &Path) -> Option<Interpreter> {
        let mut found = Interpreter {
            root: root.to_owned(),
            path: path.to_owned(),
            version: [0; 3],
            is_free_threaded: false,
        };
        let output = found
            .command()
            .args([
                "-c",
                "import sys; print(*sys.version_info[:3], 'free-threading' in sys.version)",
            ])
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let (numbers, kind) = text.trim_end().rsplit_once(' ')?;
        found.is_free_threaded = kind == "True";
        let mut numbers = numbers.split(' ').map(|number| number.parse().ok());
        found.version = [numbers.next()??, numbers.next()??, numbers.next()??];
        Some(found)
    }

    /// A command that runs it.
    pub(crate) fn command(&self) -> Command {
        let mut command = if self.root == Path::new("/") {
            Command::new(&self.path)
        } else {
            let mut command = Command::new("chroot");
            command.arg(&self.root).arg(&self.path);
            command
        };
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.env_remove("PYTHONPATH");
        command
    }

    /// The same with what a running system has but a tree lacks: /proc, by which Python counts threads, and /dev/shm,
    /// for its semaphores. Mounted for this command only.
    pub(crate) fn command_in_a_whole_system(&self) -> Command {
        if !self.is_in_a_tree() {
            return self.command();
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
        command.arg(
            "mount -t proc proc \"$1/proc\"; mount -t tmpfs tmpfs \"$1/dev/shm\"; exec chroot \"$@\"",
        );
        command.arg("sh").arg(&self.root).arg(&self.path);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.env_remove("PYTHONPATH");
        command
    }

    /// A directory that it sees, and the path of that directory there.
    pub(crate) fn directory(&self) -> (TempDir, PathBuf) {
        let directory = tempfile::Builder::new()
            .prefix("test-of-the-agent.")
            .tempdir_in(self.root.join("tmp"))
            .expect("a temporary directory");
        let inside = directory.path().strip_prefix(&self.root).unwrap();
        let inside = Path::new("/").join(inside);
        (directory, inside)
    }

    /// Its name for messages.
    pub(crate) fn name(&self) -> String {
        format!("{} {:?}", self.path.display(), self.version)
    }

    /// Whether it is in a tree, and so the same on every machine.
    pub(crate) fn is_in_a_tree(&self) -> bool {
        self.root != Path::new("/")
    }

    /// Whether it has sys.monitoring.
    pub(crate) fn monitors(&self) -> bool {
        self.version >= [3, 12, 0]
    }

    /// Whether a module can be imported.
    pub(crate) fn has(&self, module: &str) -> bool {
        let code = format!("import {module}");
        let output = self.command().args(["-c", &code]).output();
        output.is_ok_and(|output| output.status.success())
    }
}

/// All of 3.9 to 3.15. The tests fail unless at least one has sys.monitoring and one lacks it: they would prove
/// nothing.
pub(crate) fn all() -> &'static [Interpreter] {
    static ALL: OnceLock<Vec<Interpreter>> = OnceLock::new();
    ALL.get_or_init(|| {
        let found: Vec<Interpreter> = candidates()
            .iter()
            .filter(|(root, path)| root.join(path.strip_prefix("/").unwrap_or(path)).exists())
            .filter_map(|(root, path)| Interpreter::at(root, path))
            .filter(|found| found.version >= [3, 9, 0] && found.version < [3, 16, 0])
            .collect();
        for found in &found {
            println!("interpreter: {}", found.name());
        }
        assert!(
            found.iter().any(Interpreter::monitors),
            "no Python from 3.12 on was found"
        );
        assert!(
            !found.iter().all(Interpreter::monitors),
            "no Python up to 3.11 was found"
        );
        found
    })
}

/// Those of them whose lock keeps threads apart.
pub(crate) fn with_lock() -> impl Iterator<Item = &'static Interpreter> {
    all().iter().filter(|found| !found.is_free_threaded)
}

/// The free-threaded ones, of which there has to be one.
pub(crate) fn free_threaded() -> impl Iterator<Item = &'static Interpreter> {
    let free_threaded = || all().iter().filter(|found| found.is_free_threaded);
    assert!(
        free_threaded().next().is_some(),
        "no free-threaded Python was found: does tests/free-threaded/build build one?"
    );
    free_threaded()
}

/// Interpreters that lack what the agent needs: PyPy, and those of 3.6 to 3.8 that are available.
pub(crate) fn unfit() -> Vec<Interpreter> {
    let pypy = Interpreter::at(&trees().join("trixie"), Path::new("/usr/bin/pypy3"));
    let mut unfit = vec![pypy.expect("the tree of Debian 13 has PyPy")];
    let others = candidates();
    let others = others
        .iter()
        .filter_map(|(root, path)| Interpreter::at(root, path))
        .filter(|found| found.version >= [3, 6, 0] && found.version < [3, 9, 0]);
    unfit.extend(others);
    unfit
}

/// Where `tests/guest/build` makes its trees.
fn trees() -> PathBuf {
    let named = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let cache = || {
        let home = named("HOME").unwrap_or_default();
        named("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"))
    };
    named("PYSTAP_TEST_TREES")
        .or_else(|| named("PYSTAP_GUEST_DIR"))
        .unwrap_or_else(|| cache().join("pystap-guest"))
}

/// Where `tests/services/install` makes its environments.
pub(crate) fn services() -> PathBuf {
    std::env::var_os("PYSTAP_TEST_SERVICES").map_or_else(|| trees().join("services"), PathBuf::from)
}

fn candidates() -> Vec<(PathBuf, PathBuf)> {
    let here = |path: PathBuf| (PathBuf::from("/"), path);
    if let Some(paths) = std::env::var_os("PYSTAP_TEST_PYTHONS") {
        return std::env::split_paths(&paths).map(here).collect();
    }
    let mut all = vec![here(PathBuf::from("/usr/bin/python3.11"))];
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let pyenv = std::env::var_os("PYENV_ROOT").map_or_else(|| home.join(".pyenv"), PathBuf::from);
    let mut versions: Vec<PathBuf> = std::fs::read_dir(pyenv.join("versions"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin/python3"))
        .collect();
    versions.sort();
    all.extend(versions.into_iter().map(here));
    let trees = trees();
    all.push(here(trees.join("free-threaded/python/bin/python3.13t")));
    for (tree, minor) in [
        ("bullseye", 9),
        ("trixie", 13),
        ("guest", 13),
        ("guest", 14),
        ("guest", 15),
    ] {
        all.push((
            trees.join(tree),
            PathBuf::from(format!("/usr/bin/python3.{minor}")),
        ));
    }
    all
}
