//! Servers and tools that fork in every way, with and without a dormant agent in each of their processes: their answers
//! and output are the same, they end in the same way, and each process reports for itself. `tests/services/install` has
//! installed them; missing ones are not run, and reported so.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::interpreters::services;
use crate::program::{Pystap, functions, library, until, wait};

/// An environment that has a package.
struct Environment {
    root: PathBuf,
    version: String,
}

/// The environments that have it. The others are reported.
fn with(package: &str) -> Vec<Environment> {
    let all = std::fs::read_dir(services())
        .into_iter()
        .flatten()
        .flatten();
    let mut found = Vec::new();
    for directory in all.filter(|entry| entry.path().join("recipe").exists()) {
        let version = directory.file_name().to_string_lossy().into_owned();
        if directory.path().join(format!("{package}.there")).exists() {
            let root = directory.path();
            found.push(Environment { root, version });
        } else {
            println!("not run: {package} with Python {version}, which it cannot be had for");
        }
    }
    if found.is_empty() {
        println!("not run: {package}; agent/tests/services/install installs it");
    }
    found
}

impl Environment {
    /// A command of the environment in a directory, with or without a dormant agent.
    fn command(&self, program: &str, directory: &Path, agent: bool) -> Command {
        let mut command = Command::new(self.root.join("bin").join(program));
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services");
        let output = |name: &str| std::fs::File::create(directory.join(name)).unwrap();
        command
            .current_dir(directory)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env_remove("PYTHONPATH")
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"));
        for file in ["served.py", "tasks.py", "pooled.py"] {
            std::fs::copy(ours.join(file), directory.join(file)).unwrap();
        }
        if agent {
            command.env("PYTHONPATH", ours);
            command.env("PYSTAP_TEST_LIBRARY", library());
        }
        command
    }
}

fn errors(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("stderr")).unwrap_or_default()
}

/// The body of an answer over a Unix socket.
fn get(socket: &Path, path: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: here\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.split_once("\r\n\r\n")?.1.to_owned())
}

/// Sends requests until both workers of a server have answered, and traces each of them for a moment.
fn serves(name: &str, socket: &Path, agent: bool) {
    let mut answer = None;
    until(&format!("{name} answers"), || {
        answer = get(socket, "/work");
        answer.as_deref().is_some_and(|answer| !answer.is_empty())
    });
    assert_eq!(answer.as_deref(), Some("328350"), "{name}");
    let mut workers = std::collections::BTreeSet::new();
    // Before all have started, uwsgi does not end cleanly, even without us.
    until(&format!("both workers of {name} answer"), || {
        std::thread::scope(|scope| {
            let asked = [(); 2].map(|()| scope.spawn(|| get(socket, "/who")));
            workers.extend(asked.into_iter().filter_map(|asked| asked.join().unwrap()));
        });
        workers.len() == 2
    });
    for worker in workers.iter().filter(|_| agent) {
        let (pid, agent) = worker.split_once(' ').unwrap();
        let pystap = Pystap::connect(agent);
        assert_eq!(
            pystap.hello.pid.to_string(),
            pid,
            "{name} answers for itself"
        );
        pystap.start(functions("*served.py"));
        until("a call is seen", || {
            get(socket, "/work");
            // The other worker may have answered; the account says which one did.
            let seen = pystap.stop().entries > 0;
            if !seen {
                pystap.start(functions("*served.py"));
            }
            seen
        });
    }
}

/// Ends a server cleanly.
fn end(child: &mut Child) -> Option<i32> {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    wait(child)
}

#[test]
fn gunicorn_serves_as_it_does_without_us() {
    for environment in with("gunicorn") {
        let mut codes = Vec::new();
        for (preload, agent) in [(false, false), (false, true), (true, true)] {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("http");
            let mut command = environment.command("python", directory.path(), agent);
            command.args(["-m", "gunicorn", "--workers", "2", "--bind"]);
            command.arg(format!("unix:{}", socket.display()));
            command
                .args(preload.then_some("--preload"))
                .arg("served:application");
            let mut child = command.spawn().unwrap();
            let name = format!("gunicorn of {}, preload {preload}", environment.version);
            serves(&name, &socket, agent);
            codes.push(end(&mut child));
        }
        assert_eq!(codes, [Some(0); 3], "{}", environment.version);
    }
}

#[test]
fn uwsgi_serves_as_it_does_without_us_however_it_forks() {
    for environment in with("uwsgi") {
        for mode in ["prefork", "threads", "lazy-apps", "hooks", "emperor"] {
            let mut codes = Vec::new();
            for agent in [false, true] {
                let directory = tempfile::tempdir().unwrap();
                let place = directory.path();
                let socket = place.join("http");
                let mut options = format!(
                    "[uwsgi]\nmaster = true\nprocesses = 2\ndie-on-term = true\nneed-app = true\nhttp-socket = {}\n\
                     chdir = {}\nmodule = served\nvirtualenv = {}\n",
                    socket.display(),
                    place.display(),
                    environment.root.display()
                );
                options += match mode {
                    "threads" => "enable-threads = true\n",
                    "lazy-apps" => "lazy-apps = true\n",
                    "hooks" => "enable-threads = true\npy-call-uwsgi-fork-hooks = true\n",
                    _ => "",
                };
                let mut command = environment.command("uwsgi", place, agent);
                if mode == "emperor" {
                    std::fs::create_dir(place.join("vassals")).unwrap();
                    std::fs::write(place.join("vassals/served.ini"), &options).unwrap();
                    command.arg("--emperor").arg(place.join("vassals"));
                    command.arg("--die-on-term");
                } else {
                    std::fs::write(place.join("served.ini"), &options).unwrap();
                    command.arg(place.join("served.ini"));
                }
                let mut child = command.spawn().unwrap();
                let name = format!("uwsgi of {}, {mode}, agent {agent}", environment.version);
                serves(&name, &socket, agent);
                codes.push(end(&mut child));
            }
            assert_eq!(
                codes[0], codes[1],
                "uwsgi of {}, {mode}",
                environment.version
            );
        }
    }
}

#[test]
fn celery_works_as_it_does_without_us() {
    for environment in with("celery") {
        for agent in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let place = directory.path();
            let mut command = environment.command("python", place, agent);
            command.args(["-m", "celery", "-A", "tasks", "worker", "--pool", "prefork"]);
            command.args(["--concurrency", "2", "--loglevel", "ERROR"]);
            command.env("C_FORCE_ROOT", "1");
            let mut child = command.spawn().unwrap();
            let sent = environment
                .command("python", place, false)
                .arg("tasks.py")
                .status()
                .unwrap();
            assert!(sent.success(), "{}", errors(place));
            let name = format!("celery of {}, agent {agent}", environment.version);
            for number in 0..10_u64 {
                let file = place.join(format!("done/{number}"));
                until(&format!("{name} has worked"), || file.exists());
                let sum: u64 = (0..number).map(|number| number * number).sum();
                assert_eq!(
                    std::fs::read_to_string(file).unwrap(),
                    format!("{sum}\n"),
                    "{name}"
                );
            }
            assert_eq!(end(&mut child), Some(0), "{name}: {}", errors(place));
        }
    }
}

#[test]
fn a_daemon_with_a_pool_works_as_it_does_without_us() {
    for environment in with("daemon") {
        let mut logs = Vec::new();
        for agent in [false, true] {
            for _ in 0..3 {
                let directory = tempfile::tempdir().unwrap();
                let place = directory.path();
                let mut command = environment.command("python", place, agent);
                let status = command.arg("pooled.py").arg(place).status().unwrap();
                assert!(
                    status.success(),
                    "{}: {}",
                    environment.version,
                    errors(place)
                );
                let done = place.join("done");
                until(
                    &format!(
                        "the daemon of {}, agent {agent}, is done",
                        environment.version
                    ),
                    || done.exists(),
                );
                logs.push(std::fs::read(done).unwrap());
            }
        }
        assert!(logs[0].ends_with(b"the end\n"), "{}", environment.version);
        assert!(
            logs.iter().all(|log| *log == logs[0]),
            "{}",
            environment.version
        );
    }
}

#[test]
fn a_frozen_program_works_as_it_does_without_us() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/hard");
    let mut environments = with("pyinstaller");
    environments.sort_by(|one, other| one.version.cmp(&other.version));
    // It takes half a minute, and what is frozen differs little between versions.
    environments.truncate(1);
    for environment in environments {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        let mut freeze = environment.command("pyinstaller", place, false);
        freeze.args(["--noconfirm", "--onefile", "--name", "frozen"]);
        for module in ["ctypes", "importlib.machinery", "importlib.util", "time"] {
            freeze.args(["--hidden-import", module]);
        }
        let frozen = freeze.arg(programs.join("run.py")).status().unwrap();
        assert!(
            frozen.success(),
            "{}: {}",
            environment.version,
            errors(place)
        );
        for (program, how, code) in [
            ("closing.py", "closerange", 7),
            ("closing.py", "dup2", 7),
            ("daemon.py", "", 0),
        ] {
            let mut left = Vec::new();
            for mode in ["without", "dormant"] {
                let output = place.join(format!("{program}-{how}-{mode}"));
                std::fs::create_dir(&output).unwrap();
                let mut child = Command::new(place.join("dist/frozen"))
                    .arg(library())
                    .args([mode.as_ref(), programs.join(program).as_os_str()])
                    .args([output.as_os_str(), how.as_ref()])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(std::fs::File::create(output.join("stderr")).unwrap())
                    .spawn()
                    .unwrap();
                let ended = wait(&mut child);
                assert_eq!(
                    ended,
                    Some(code),
                    "{program} {how}, {mode}: {}",
                    errors(&output)
                );
                let files = std::fs::read_dir(&output).unwrap().flatten();
                let files =
                    files.map(|file| (file.file_name(), std::fs::read(file.path()).unwrap()));
                left.push(files.collect::<std::collections::BTreeMap<_, _>>());
            }
            assert!(left[0].len() > 2, "{program} writes files");
            assert_eq!(left[0], left[1], "{}: {program} {how}", environment.version);
        }
    }
}
