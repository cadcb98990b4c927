//! A hostile neighbour: another user of the host (tests/programs/neighbour.py), with and without namespaces of its own,
//! who sets traps at every name that pystap knows, while every subcommand runs as root. Afterwards root's files are
//! byte for byte as before, nothing of the neighbour's ran as root, every command ended in time, and nothing
//! unprintable was printed. `tests/uprobes/run` runs it here.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};

use super::faults::{WITHOUT_MARKS, service_without_marks};
use super::{Service, calls_of};
use crate::command::{PYTHON, end, file, pystap};
use crate::tracing::{Tracing, Way, leaves_nothing, numbers};

/// An unused user ID. It needs no account.
const NEIGHBOUR: u32 = 61_234;
/// Longest time for any command, on a busy machine. A session limited to one second takes about that.
const IN_TIME: Duration = Duration::from_secs(15);
/// Number of complaints after which the test stops looking: each can have taken that long.
const ENOUGH: usize = 12;
/// Commands that run in parallel.
const AT_A_TIME: usize = 4;

/// Directories of root's that the neighbour would like to damage.
struct Canaries {
    directories: Vec<tempfile::TempDir>,
}

impl Canaries {
    fn new() -> Canaries {
        let places = ["/srv", "/tmp", "/var/tmp", "/dev/shm", "/run", "/root"];
        let directories: Vec<_> = places
            .into_iter()
            .map(|place| {
                let directory = tempfile::Builder::new().prefix("canary-").tempdir_in(place);
                let directory = directory.expect("root may write everywhere");
                let at = directory.path();
                fs::set_permissions(at, fs::Permissions::from_mode(0o755)).expect("ours");
                // Those that pystap would remove or write if they were its own, and others.
                for name in [
                    "file",
                    "libpystap_agent.so",
                    "_pystap_agent.abi3.so",
                    "pystap_agent.pth",
                    "sitecustomize.py",
                    "site/sitecustomize.py",
                    "site/usercustomize.py",
                    "site/__pycache__/sitecustomize.cpython-311.pyc",
                    "attach-1-1.py",
                    "lock",
                    "registry",
                    "pystap-agent-0-0123456789ab/libpystap_agent.so",
                    "pystap/agent/libpystap_agent.so",
                    "modules/stap_0123.ko",
                    "deep/er/and/deeper/file",
                ] {
                    let path = at.join(name);
                    fs::create_dir_all(path.parent().expect("below")).expect("made");
                    fs::write(&path, format!("root's own {name}\n")).expect("written");
                }
                fs::create_dir(at.join("empty")).expect("made");
                std::os::unix::fs::symlink("file", at.join("link")).expect("made");
                directory
            })
            .collect();
        Canaries { directories }
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        self.directories.iter().map(tempfile::TempDir::path)
    }

    /// Everything about them, by path.
    fn state(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        for path in self.paths() {
            describe(path, &mut found);
        }
        found
    }
}

fn describe(path: &Path, found: &mut BTreeMap<PathBuf, String>) {
    let status = fs::symlink_metadata(path).expect("it is there");
    let content = match status.file_type() {
        kind if kind.is_dir() => {
            for entry in fs::read_dir(path).expect("readable") {
                describe(&entry.expect("readable").path(), found);
            }
            String::new()
        }
        kind if kind.is_symlink() => format!("{:?}", fs::read_link(path).expect("a link")),
        _ => format!("{:?}", fs::read(path).expect("readable")),
    };
    let numbers = (status.ino(), status.mode(), status.uid(), status.gid());
    let more = (
        status.nlink(),
        status.len(),
        status.mtime(),
        status.mtime_nsec(),
    );
    found.insert(
        path.to_owned(),
        format!("{numbers:?} {more:?} {:?} {content}", status.ctime()),
    );
}

/// The neighbour. Dropping this ends its processes and removes everything it made.
struct Neighbour {
    child: Child,
    home: tempfile::TempDir,
    /// Its processes, by the trap that each is.
    processes: BTreeMap<String, u32>,
}

impl Neighbour {
    fn move_in(canaries: &Canaries) -> Neighbour {
        // Not below /root, which it cannot search, and not below /tmp, over which it mounts.
        let home = tempfile::Builder::new()
            .prefix("neighbour-")
            .tempdir_in("/srv");
        let home = home.expect("root may write everywhere");
        let program = home.path().join("neighbour.py");
        fs::copy(file("tests/programs/neighbour.py"), &program).expect("copied");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).expect("ours");
        chown(home.path(), Some(NEIGHBOUR), Some(NEIGHBOUR)).expect("root may");
        let build = pystap::agent::image().build_id.clone().expect("it has one");
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid",
                &NEIGHBOUR.to_string(),
                "--regid",
                &NEIGHBOUR.to_string(),
            ])
            .args(["--clear-groups", PYTHON])
            .arg(program)
            .arg(home.path())
            .arg(build.get(..12).expect("long"))
            .args(canaries.paths())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // In its own process group, so that all of it can be ended.
            .process_group(0);
        let mut child = command.spawn().expect("setpriv is there");
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("read");
        let ready = line.strip_prefix("ready ");
        let ready = ready.unwrap_or_else(|| panic!("the neighbour did not get that far: {line:?}"));
        let processes: BTreeMap<String, u32> = serde_json::from_str(ready).expect("JSON");
        let neighbour = Neighbour {
            child,
            home,
            processes,
        };
        assert!(
            neighbour.processes.contains_key("inside"),
            "no namespaces of its own: {:?}",
            fs::read_to_string(neighbour.at("unshare"))
        );
        neighbour
    }

    fn at(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    /// Who ran its bait: user IDs, each with what was run.
    fn evidence(&self) -> Vec<String> {
        let lines = fs::read_to_string(self.at("evidence")).expect("it is there");
        lines.lines().map(str::to_owned).collect()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = end(&mut self.child, Duration::from_secs(5));
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        for place in ["/tmp", "/var/tmp", "/dev/shm"] {
            for entry in fs::read_dir(place).into_iter().flatten().flatten() {
                let path = entry.path();
                match fs::symlink_metadata(&path) {
                    Ok(status) if status.uid() != NEIGHBOUR => {}
                    Ok(status) if status.is_dir() => drop(fs::remove_dir_all(&path)),
                    _ => drop(fs::remove_file(&path)),
                }
            }
        }
    }
}

/// The commands that root types. Names of the neighbour's files stand for themselves; `@kind` is a process.
fn commands(neighbour: &Neighbour, own: &Path) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = Vec::new();
    let mut add = |line: &[&str]| all.push(line.iter().map(ToString::to_string).collect());
    let own = |name: &str| own.join(name).display().to_string();
    add(&["cleanup"]);
    add(&["ps"]);
    add(&["ps", "--json"]);
    add(&["ps", "nova"]);
    add(&["list"]);
    add(&["list", "--template-dir", &neighbour.at("templates")]);
    add(&["schema"]);
    add(&["doctor"]);
    add(&["doctor", "--fix-script"]);
    add(&["doctor", "--python", &neighbour.at("venv/bin/python")]);
    add(&["agent", "status"]);
    for name in [
        "bin/python3",
        "bin/python3.98",
        "bin/libpython3.99.so",
        "bin/fifo",
        "bin/zero",
        "bin/mem",
        "bin/socket",
        "venv/bin/python",
        ".pyenv/shims/python3",
        "lib",
    ] {
        let path = neighbour.at(name);
        add(&["marks", &path]);
        add(&["marks", "--json", &path]);
        add(&["agent", "status", "--python", &path]);
        add(&["trace", "--dry-run", "--python", &path]);
        add(&["trace", "--dry-run", "--", &path, "-c", "pass"]);
        add(&["script", "trace", "--python", &path]);
    }
    for name in ["linked/bin/python", "venv/bin/python"] {
        let path = neighbour.at(name);
        add(&["agent", "install", "--python", &path]);
        add(&["agent", "uninstall", "--python", &path]);
    }
    for pid in neighbour.processes.values().map(ToString::to_string) {
        add(&["marks", "-p", &pid]);
        add(&["dump", "-p", &pid]);
        add(&["dump", "--json", "-p", &pid]);
        add(&["doctor", "-p", &pid]);
        add(&["trace", "--dry-run", "-p", &pid]);
        add(&["trace", "--dry-run", "--agent", "-p", &pid]);
        add(&["trace", "--duration", "500ms", "-p", &pid]);
        add(&[
            "trace",
            "--format",
            "json",
            "--agent",
            "--duration",
            "500ms",
            "-s",
            "-p",
            &pid,
        ]);
        add(&["gc", "--duration", "500ms", "-p", &pid]);
        add(&["stats", "tick", "--duration", "500ms", "-p", &pid]);
        add(&["top", "--duration", "500ms", "-p", &pid]);
        let recording = own(&format!("recording-{pid}"));
        add(&[
            "record",
            "--output",
            &recording,
            "--duration",
            "500ms",
            "-p",
            &pid,
        ]);
    }
    add(&["trace", "--duration", "500ms", "--match", &neighbour.at("")]);
    add(&["trace", "--duration", "500ms", "--service", "nova"]);
    add(&[
        "trace",
        "--duration",
        "500ms",
        "--output",
        &neighbour.at("out/fifo"),
        "--",
        PYTHON,
        "-c",
        "pass",
    ]);
    add(&[
        "trace",
        "--output",
        &neighbour.at("out/socket"),
        "--",
        PYTHON,
        "-c",
        "pass",
    ]);
    add(&[
        "record",
        "--output",
        &neighbour.at("out/fifo"),
        "--",
        PYTHON,
        "-c",
        "pass",
    ]);
    for name in ["fifo", "huge", "garbage", "text.json", "zero", "directory"] {
        let path = neighbour.at(&format!("recordings/{name}"));
        add(&["report", &path]);
        add(&["report", "--gc", &path]);
        for format in ["folded", "chrome", "json"] {
            add(&["export", "--format", format, &path]);
        }
    }
    // Once more, for what the others left behind.
    add(&["cleanup"]);
    all
}

/// What was wrong with how a command ended; `None` if nothing was.
fn complaint(arguments: &[String], neighbour: &Neighbour, careless: bool) -> Option<String> {
    let mut command = Command::new(pystap());
    command
        .args(arguments)
        // Where everything that a search from here could find is lying about.
        .current_dir(neighbour.at("here"))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if careless {
        // As `sudo -E` leaves it.
        command.env("HOME", neighbour.home.path());
        command.env("PYENV_ROOT", neighbour.at(".pyenv"));
        command.env("XDG_RUNTIME_DIR", neighbour.at("run"));
        command.env("XDG_CACHE_HOME", neighbour.at(".cache"));
        command.env("PYTHONPATH", neighbour.at("here"));
    }
    let begun = Instant::now();
    let mut child = command.spawn().expect("it starts");
    let outputs = [
        read(child.stdout.take().expect("piped")),
        read(child.stderr.take().expect("piped")),
    ];
    // pystap may wait for an unread pipe, since root named it; Ctrl-C ends that, the second time at the latest.
    if arguments.iter().any(|word| word.ends_with("out/fifo")) {
        for _ in 0..2 {
            if end(&mut child, Duration::from_secs(2)).is_none() {
                let _ = kill_process(Pid::from_child(&child), Signal::INT);
            }
        }
    }
    let code = end(&mut child, IN_TIME);
    if code.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let [stdout, stderr] = outputs.map(|output| output.join().expect("no panic"));
    let what = match code {
        None => Some(format!("did not end within {IN_TIME:?}")),
        Some(0..=4 | 130) => None,
        Some(code) => Some(format!("ended with {code}")),
    };
    let unprintable = [("stdout", &stdout), ("stderr", &stderr)]
        .into_iter()
        .find_map(|(name, text)| {
            Some((
                name,
                text.lines().find(|line| line.contains(is_unprintable))?,
            ))
        })
        .map(|(name, line)| format!("printed {line:?} to {name}"));
    what.or(unprintable).map(|what| {
        let environment = if careless {
            " with the neighbour's environment"
        } else {
            ""
        };
        let said: String = stderr.chars().rev().take(600).collect();
        let said: String = said.chars().rev().collect();
        format!(
            "{arguments:?}{environment}: {what} after {:?}: {said:?}",
            begun.elapsed()
        )
    })
}

/// Whether a character may do anything to a terminal except print itself, or hide what is there.
fn is_unprintable(character: char) -> bool {
    let bidi = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    bidi || (character.is_control() && character != '\t')
}

fn read(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A billion bytes of /dev/zero are not text.
        let _ = (&mut pipe).take(1 << 24).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[test]
#[ignore = "needs root and uprobe events: run by tests/uprobes/run"]
fn a_hostile_neighbour_turns_no_command_of_root_against_the_host() {
    assert!(
        geteuid().is_root(),
        "only root has anything to lose here: run as root"
    );
    leaves_nothing(|| {
        let canaries = Canaries::new();
        let before = canaries.state();
        let neighbour = Neighbour::move_in(&canaries);
        let own = tempfile::tempdir_in("/root").expect("root may write there");
        let waiting = Mutex::new(commands(&neighbour, own.path()).into_iter().enumerate());
        let complaints = Mutex::new(Vec::new());
        let next = || waiting.lock().expect("no panic").next();
        thread::scope(|scope| {
            for _ in 0..AT_A_TIME {
                scope.spawn(|| {
                    while complaints.lock().expect("no panic").len() < ENOUGH
                        && let Some((number, arguments)) = next()
                    {
                        let wrong = complaint(&arguments, &neighbour, number % 2 == 1);
                        complaints.lock().expect("no panic").extend(wrong);
                    }
                });
            }
        });
        let evidence = neighbour.evidence();
        assert!(
            evidence.iter().any(|line| line.starts_with("61234 script")),
            "the traps do not work: {evidence:?}"
        );
        let mut complaints = complaints.into_inner().expect("no panic");
        complaints.extend(
            evidence
                .iter()
                .filter(|line| !line.starts_with("61234 "))
                .map(|line| format!("ran as another user: {line}")),
        );
        if Path::new(&neighbour.at("pasted")).exists() {
            complaints.push("words of a command line were run".to_owned());
        }
        let after = canaries.state();
        for (path, state) in &before {
            match after.get(path) {
                None => complaints.push(format!("{} is gone", path.display())),
                Some(now) if now != state => {
                    complaints.push(format!("{} was {state}, is {now}", path.display()));
                }
                Some(_) => {}
            }
        }
        complaints.extend(
            after
                .keys()
                .filter(|path| !before.contains_key(*path))
                .map(|path| format!("{} is new", path.display())),
        );
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    });
}

/// Root's own service is traced completely whatever others say to the session.
#[test]
#[ignore = "needs root and uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn a_hostile_neighbour_takes_nothing_from_a_session_of_root_in_a_tree() {
    leaves_nothing(|| {
        let canaries = Canaries::new();
        let neighbour = Neighbour::move_in(&canaries);
        let own = || Service::start_with(PYTHON, "examples/service.py", &[]);
        let program = file("examples/service.py");
        let with_the_agent = (
            &service_without_marks as &dyn Fn() -> Service,
            WITHOUT_MARKS,
        );
        for (start, program) in [(&own as &dyn Fn() -> Service, &*program), with_the_agent] {
            let mut service = start();
            let pid = service.pid();
            let arguments = ["--events", "call,return", "-s", "-p", &pid];
            let tracing = Tracing::start(&arguments).live();
            for _ in 0..20 {
                assert_eq!(service.request("fail").trim_end(), "failed fail");
            }
            let begun = Instant::now();
            tracing.signal(Signal::INT);
            let traced = tracing.finish().complete("interrupted");
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "others keep it from ending: {:?}",
                begun.elapsed()
            );
            let mut truth = numbers(&service.end()["calls"]);
            truth.retain(|_, calls| *calls > 0);
            assert_eq!(calls_of(&traced, program, Way::In, &truth), truth);
            let foreign: Vec<_> = traced
                .said
                .iter()
                .filter(|line| line.contains("all is well"))
                .collect();
            assert!(
                foreign.is_empty(),
                "a stranger's words are told as our own: {foreign:?}"
            );
        }
        drop(neighbour);
    });
}
