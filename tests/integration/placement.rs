//! Where the agent's library is put, and what happens to it, beside malicious neighbours: processes with their own
//! users, mounts and roots, whose owners put links, FIFOs and mounts of the host's directories where pystap looks. As
//! root.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pystap::agent::{AgentConfig, Agents, visit_through};
use pystap::files::strict;

use crate::command::{PYTHON, command, pystap, run};

/// A user without any rights on this host.
const SOMEBODY: &str = "54321";
/// Longest time for one visit to files that do not answer: five seconds, plus what a busy machine adds.
const BOUND: Duration = Duration::from_secs(20);

/// Held by tests that temporarily leave something behind, or have it removed.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A shell in some environment, which does what it is told.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    /// A shell started through these words.
    fn behind(words: &[&str]) -> Shell {
        let (program, arguments) = words.split_first().expect("a program");
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .current_dir("/")
            .spawn()
            .expect("it starts");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut shell = Shell {
            child,
            input,
            output,
        };
        shell.does("true");
        shell
    }

    /// A shell of a user with mounts of their own, including a private directory for temporary files.
    fn of_somebody() -> Shell {
        let mut shell = Shell::behind(&[
            "setpriv",
            "--reuid",
            SOMEBODY,
            "--regid",
            SOMEBODY,
            "--clear-groups",
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
        ]);
        shell.does("mount -t tmpfs tmpfs /tmp && chmod 1777 /tmp");
        shell
    }

    /// What this command line prints.
    fn says(&mut self, line: &str) -> String {
        writeln!(self.input, "{{ {line}\n}} && echo '=yes' || echo '=no'").expect("it listens");
        let mut said = String::new();
        loop {
            let mut next = String::new();
            let length = self.output.read_line(&mut next).expect("it speaks");
            match next.trim_end() {
                "=yes" => return said,
                "=no" => panic!("{line}: {said}"),
                _ if length == 0 => panic!("{line}: it ended; {said}"),
                _ => said.push_str(&next),
            }
        }
    }

    fn does(&mut self, line: &str) {
        self.says(line);
    }

    fn pid(&mut self) -> u32 {
        // The prefix commands have become the shell.
        self.child.id()
    }

    /// A path that the shell sees, as we reach it: only for looking.
    fn sees(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").expect("absolute");
        Path::new(&format!("/proc/{}/root", self.child.id())).join(inside)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Root's files that no one may touch, with the names that pystap gives to its own.
struct Canaries {
    directory: tempfile::TempDir,
    before: Vec<(PathBuf, u32, Vec<u8>)>,
}

impl Canaries {
    fn new() -> Canaries {
        let directory = tempfile::tempdir_in("/var/lib").expect("run the tests as root");
        let at = |name: &str| directory.path().join(name);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("set");
        for inner in [
            "site",
            "registry",
            "pystap-agent-0-0123456789ab",
            "pystap/site",
        ] {
            fs::create_dir_all(at(inner)).expect("made");
        }
        for file in [
            "libpystap_agent.so",
            "attach-1-1.py",
            "report-1-1",
            "site/sitecustomize.py",
            "site/usercustomize.py",
            "site/__pycache__",
            "pystap/libpystap_agent.so",
            "pystap-agent-0-0123456789ab/libpystap_agent.so",
            "passwd",
        ] {
            fs::write(at(file), format!("root's own {file}")).expect("written");
        }
        let before = all(directory.path());
        Canaries { directory, before }
    }

    fn path(&self) -> String {
        self.directory.path().display().to_string()
    }

    fn are_unharmed(&self) {
        assert_eq!(all(self.directory.path()), self.before);
    }
}

/// Everything below a directory: paths, modes, contents.
fn all(directory: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(directory)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .collect();
    entries.sort();
    for path in entries {
        let metadata = path.symlink_metadata().expect("it is there");
        let content = match metadata.is_file() {
            true => fs::read(&path).expect("readable"),
            false => Vec::new(),
        };
        found.push((path.clone(), metadata.mode(), content));
        if metadata.is_dir() {
            found.extend(all(&path));
        }
    }
    found
}

/// The agents of a session that traces these processes, as far as files go; and the library's path as the last one sees
/// it.
fn placed(processes: &[u32], launched: bool) -> Result<(Agents, PathBuf), String> {
    visit_through(&pystap());
    let agents = Agents::prepare(AgentConfig::default(), processes, launched);
    let agents = agents.map_err(|error| error.to_string())?;
    let (path, probed) = agents.probed().pop().expect("a library");
    let reached = fs::read(&probed.path).expect("it can be probed");
    assert!(reached.starts_with(b"\x7fELF"));
    Ok((agents, path))
}

fn in_time(begun: Instant) {
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
}

/// Runs `pystap cleanup`, which may have more to say about others.
fn cleanup() -> String {
    let begun = Instant::now();
    let ended = run(&mut command(["cleanup"]));
    in_time(begun);
    ended.stderr
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn what_a_launched_command_names_cannot_be_made_again_by_somebody_else() {
    let (mut agents, library) = placed(&[], true).expect("there is a place");
    let variables = agents.environment().expect("written");
    let (_, site) = variables
        .iter()
        .find(|(name, _)| name == "PYTHONPATH")
        .expect("it is set");
    let site = site.to_string_lossy();
    let site = PathBuf::from(site.split(':').next().expect("a path"));
    assert_eq!(
        strict(&site).as_ref(),
        Ok(&site),
        "only root's from the root on"
    );
    assert_eq!(site.parent(), library.parent());
    // A Python of another user finds it, and leaves nothing there.
    let somebody = |words: &[&str]| {
        let setpriv = ["--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups"];
        run(Command::new("setpriv")
            .args(setpriv)
            .args(words)
            .current_dir("/"))
    };
    let text = "import sys; print('/pystap' in str(sys.path))";
    for interpreter in [[PYTHON, "-c"].as_slice(), &[PYTHON, "-B", "-c"]] {
        let mut python = Command::new(interpreter[0]);
        python
            .args(&interpreter[1..])
            .arg(text)
            .env("PYTHONPATH", &site);
        let ended = run(&mut python);
        assert_eq!((ended.code, ended.stdout.trim()), (0, "False"), "{ended:?}");
    }
    // Our code under two names, and the file that stands for a cache.
    assert_eq!(fs::read_dir(&site).expect("it is there").count(), 3);
    drop(agents);
    // Whatever of it remains once pystap has ended, no one else can create what is missing.
    let made = somebody(&["mkdir", "-p", &site.to_string_lossy()]);
    if !site.exists() {
        assert_ne!(made.code, 0, "{made:?}");
    }
    let written = somebody(&[
        "sh",
        "-c",
        &format!("echo x > {}/sitecustomize.py", site.display()),
    ]);
    assert_ne!(written.code, 0, "{written:?}");
    let mut above = site.as_path();
    while let Some(parent) = above.parent() {
        if parent.exists() {
            assert_eq!(strict(parent), Ok(parent.to_owned()));
        }
        above = parent;
    }
}

#[test]
#[ignore = "needs root: run by scripts/test-here"]
fn a_process_with_other_mounts_that_sees_our_directory_is_given_that() {
    // A service with a private /tmp, as systemd makes it.
    let mut service = Shell::behind(&[
        "unshare",
        "--mount",
        "setpriv",
        "--reuid",
        SOMEBODY,
        "--regid",
        SOMEBODY,
        "--clear-groups",
        "sh",
    ]);
    let (agents, library) = placed(&[service.pid()], false).expect("there is a place");
    assert_eq!(strict(&library).as_ref(), Ok(&library));
    service.does(&format!("test -r {}", library.display()));
    drop(agents);
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn a_process_of_somebody_with_users_and_mounts_of_their_own_is_given_a_place_with_its_own_rights() {
    let mut somebody = Shell::of_somebody();
    somebody.does("mount -t tmpfs tmpfs /run");
    let (agents, library) = placed(&[somebody.pid()], false).expect("there is a place");
    let inside = somebody.sees(&library);
    let metadata = fs::metadata(&inside).expect("it is there");
    assert_eq!(metadata.uid().to_string(), SOMEBODY);
    let directory = inside.parent().expect("a directory");
    assert_eq!(
        fs::metadata(directory)
            .expect("it is there")
            .uid()
            .to_string(),
        SOMEBODY
    );
    somebody.does(&format!(
        "test -O {} && test -r {}",
        library.display(),
        library.display()
    ));
    // Another session shares it, and the first to end leaves it alone.
    let (second, shared) = placed(&[somebody.pid()], false).expect("there is a place");
    assert_eq!(shared, library);
    drop(agents);
    assert!(inside.exists());
    drop(second);
    assert!(!directory.exists());
    assert_eq!(
        somebody.says("ls -A /tmp /run").matches("pystap").count(),
        0
    );
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn a_process_in_a_root_of_its_own_is_given_a_place_there_also_when_it_has_ended() {
    let root = tempfile::tempdir().expect("a directory");
    fs::create_dir(root.path().join("tmp")).expect("made");
    fs::set_permissions(root.path().join("tmp"), fs::Permissions::from_mode(0o1777)).expect("set");
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("set");
    let program = "import os, sys; os.chroot(sys.argv[1]); os.chdir('/'); os.setgid(54321); os.setuid(54321); print(flush=True); input()";
    let mut child = Command::new(PYTHON)
        .args(["-c", program])
        .arg(root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let output = child.stdout.take().expect("a pipe");
    BufReader::new(output).read_line(&mut line).expect("a line");
    let (agents, library) = placed(&[child.id()], false).expect("there is a place");
    let inside = root
        .path()
        .join(library.strip_prefix("/").expect("absolute"));
    assert_eq!(
        fs::metadata(&inside)
            .expect("it is there")
            .uid()
            .to_string(),
        SOMEBODY
    );
    child.kill().expect("killed");
    child.wait().expect("reaped");
    drop(agents);
    assert_eq!(all(root.path()).len(), 1, "{:?}", all(root.path()));
}

#[test]
#[ignore = "needs root: run by scripts/test-here"]
fn the_hosts_own_directories_under_every_name_stay_as_they_are() {
    let _alone = alone();
    let canaries = Canaries::new();
    let mut somebody = Shell::of_somebody();
    for place in ["/run", "/var/tmp", "/dev/shm", "/tmp", "/var/lib"] {
        somebody.does(&format!("mount --bind {} {place}", canaries.path()));
    }
    let begun = Instant::now();
    let error = placed(&[somebody.pid()], false).expect_err("there is no place");
    assert!(error.contains("can be put nowhere"), "{error}");
    assert!(error.contains("/tmp: Permission denied"), "{error}");
    canaries.are_unharmed();
    cleanup();
    in_time(begun);
    canaries.are_unharmed();
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn what_comes_under_the_name_of_a_place_afterwards_is_not_touched() {
    let _alone = alone();
    let canaries = Canaries::new();
    for trick in [
        // The host's directory mounted over ours, beside ours, and in it.
        "mount --bind CANARIES PLACE",
        "mv PLACE /run/moved && mkdir PLACE && mount --bind CANARIES PLACE",
        "mv PLACE /run/moved && ln -s CANARIES PLACE",
        "mkdir PLACE/site && mount --bind CANARIES PLACE/site",
        "rm -f PLACE/libpystap_agent.so && touch PLACE/libpystap_agent.so && mount --bind CANARIES/passwd PLACE/libpystap_agent.so",
        "rm -f PLACE/libpystap_agent.so && ln -s CANARIES/passwd PLACE/libpystap_agent.so",
        // A file that blocks whoever opens it, and one that has no end.
        "rm -f PLACE/libpystap_agent.so && mkfifo PLACE/libpystap_agent.so PLACE/site",
        "truncate -s 1T PLACE/libpystap_agent.so && truncate -s 1T PLACE/site",
        "umount -l /run && mount --bind CANARIES /run",
    ] {
        let mut somebody = Shell::of_somebody();
        somebody.does("mount -t tmpfs tmpfs /run");
        let (agents, library) = placed(&[somebody.pid()], false).expect("there is a place");
        let found = library.to_string_lossy();
        assert!(found.starts_with("/run/pystap-agent-"), "{found}");
        let place = library.parent().expect("a directory").display().to_string();
        let trick = trick
            .replace("CANARIES", &canaries.path())
            .replace("PLACE", &place);
        somebody.does(&trick);
        let begun = Instant::now();
        drop(agents);
        in_time(begun);
        canaries.are_unharmed();
        cleanup();
        canaries.are_unharmed();
    }
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn a_file_system_whose_server_does_not_answer_ends_in_one_sentence_and_in_time() {
    // The server is this process, which never reads a request.
    let program = "import ctypes, os, sys\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        for place in ['/run', '/var/lib', '/tmp', '/var/tmp', '/dev/shm']:\n\
        \x20   file = os.open('/dev/fuse', os.O_RDWR)\n\
        \x20   options = f'fd={file},rootmode=40000,user_id=0,group_id=0,allow_other'.encode()\n\
        \x20   failed = libc.mount(b'x', place.encode(), b'fuse', 0, options)\n\
        \x20   assert not failed, os.strerror(ctypes.get_errno())\n\
        print(flush=True)\n\
        sys.stdin.read()\n";
    let mut child = Command::new("unshare")
        .args(["--mount", PYTHON, "-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let output = child.stdout.take().expect("a pipe");
    BufReader::new(output).read_line(&mut line).expect("a line");
    assert_eq!(line, "\n", "FUSE is mounted");
    let begun = Instant::now();
    let error = placed(&[child.id()], false).expect_err("there is no place");
    in_time(begun);
    assert!(error.contains("do not answer"), "{error}");
    child.kill().expect("killed");
    child.wait().expect("reaped");
}

/// Not a test of its own: a session that [`what_a_killed_session_left_is_removed_and_nothing_else`] kills.
#[test]
#[ignore = "it is started by another test, which kills it"]
fn a_session_that_is_killed() {
    let pid = std::env::var("PYSTAP_TEST_PROCESS").expect("named by the other test");
    let (_agents, library) = placed(&[pid.parse().expect("a number")], true).expect("a place");
    println!("\nplaced {}", library.display());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("readable");
}

/// Has a session place the library for a process, and be killed. Returns the library's path as the process sees it.
fn killed_session(pid: u32) -> PathBuf {
    let mut session = Command::new(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("placement::a_session_that_is_killed")
        .env("PYSTAP_TEST_PROCESS", pid.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let output = BufReader::new(session.stdout.take().expect("a pipe"));
    let library = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("placed ").map(PathBuf::from));
    session.kill().expect("killed");
    session.wait().expect("reaped");
    library.expect("it was placed")
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn what_a_killed_session_left_is_removed_and_nothing_else() {
    let _alone = alone();
    let canaries = Canaries::new();
    let mut somebody = Shell::of_somebody();
    somebody.does("mount -t tmpfs tmpfs /run && mkdir /tmp/pystap-agent-0-0123456789ab && echo x > /tmp/pystap-agent-0-0123456789ab/libpystap_agent.so");
    let library = killed_session(somebody.pid());
    let place = library.parent().expect("a directory").to_owned();
    assert!(somebody.sees(&library).exists());
    let said = cleanup();
    let removed = format!(
        "{}, the agent's files of a pystap that is gone",
        place.display()
    );
    assert!(said.contains(&removed), "{said}");
    assert!(!somebody.sees(&place).exists());
    // A directory that has a name like ours but was never recorded belongs to someone else.
    somebody.does("test -f /tmp/pystap-agent-0-0123456789ab/libpystap_agent.so");
    assert!(!cleanup().contains(&place.display().to_string()));

    // The same with the host's directory in its place.
    let library = killed_session(somebody.pid());
    let place = library.parent().expect("a directory").display().to_string();
    somebody.does(&format!("mount --bind {} {place}", canaries.path()));
    let said = cleanup();
    assert!(said.contains(&format!("left alone {place}")), "{said}");
    canaries.are_unharmed();

    // And with no process left that sees it.
    somebody.does(&format!("umount {place}"));
    let library = killed_session(somebody.pid());
    drop(somebody);
    let said = cleanup();
    let place = library.parent().expect("a directory").display().to_string();
    assert!(said.contains(&format!("left alone {place}")), "{said}");
    assert!(!cleanup().contains(&place));
}
