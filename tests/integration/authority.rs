//! Root beside a user whom it does not trust: what that user owns is not run, written or trusted with root's power,
//! whichever subcommand comes across it. Needs root, as `make test` has it; the other user is an ID without an account.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::{PYTHON, command, end, file, run};
use crate::executable;

/// The other user.
const USER: u32 = 54321;
/// Far longer than anything here takes.
const SOON: Duration = Duration::from_secs(40);

/// Two directories below /tmp: one of the user's, and one of root's with a file that must stay as it is.
struct Neighbours {
    users: tempfile::TempDir,
    roots: tempfile::TempDir,
}

impl Neighbours {
    fn new() -> Neighbours {
        assert!(
            rustix::process::geteuid().is_root(),
            "this is about root: run the tests as root"
        );
        let neighbours = Neighbours {
            users: tempfile::tempdir().expect("a directory"),
            roots: tempfile::tempdir().expect("a directory"),
        };
        mode(neighbours.users.path(), 0o755);
        owned(neighbours.users.path());
        fs::write(neighbours.roots.path().join("precious"), "as it was").expect("written");
        neighbours
    }

    fn user(&self, name: &str) -> PathBuf {
        self.users.path().join(name)
    }

    fn root(&self, name: &str) -> PathBuf {
        self.roots.path().join(name)
    }

    /// A script of the user's. It reports who runs it, and does damage if root runs it.
    fn script(&self, name: &str, then: &str) -> PathBuf {
        let path = self.user(name);
        let text = format!(
            "#!/bin/sh\nid -u >>{ran}\ngrep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Groups):' /proc/self/status >>{power}\n\
             ls -l /proc/self/fd >>{open}\necho broken >{precious}\n{then}\n",
            ran = self.user("ran").display(),
            power = self.user("power").display(),
            open = self.user("open").display(),
            precious = self.root("precious").display(),
        );
        executable::script(&text, &path);
        owned(&path);
        path
    }

    /// Who ran the user's scripts since the last call.
    fn ran(&self) -> Vec<String> {
        let text = fs::read_to_string(self.user("ran")).unwrap_or_default();
        let _ = fs::remove_file(self.user("ran"));
        text.lines().map(str::to_owned).collect()
    }

    fn are_unharmed(&self) {
        let names: Vec<OsString> = fs::read_dir(self.roots.path())
            .expect("readable")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names, ["precious"]);
        let text = fs::read_to_string(self.root("precious")).expect("readable");
        assert_eq!(text, "as it was");
    }
}

fn owned(path: &Path) {
    chown(path, Some(USER), Some(USER)).expect("given away");
}

fn all_owned(path: &Path) {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER)).expect("given away");
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).expect("readable") {
            all_owned(&entry.expect("an entry").path());
        }
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A virtual environment of the user's.
fn environment(neighbours: &Neighbours) -> (PathBuf, PathBuf) {
    let directory = neighbours.user("venv");
    let made = Command::new(PYTHON)
        .args(["-m", "venv", "--without-pip"])
        .arg(&directory)
        .status();
    assert!(made.expect("it runs").success());
    all_owned(&directory);
    let site = directory.join("lib/python3.11/site-packages");
    (directory.join("bin/python"), site)
}

#[test]
#[ignore = "needs root: run by scripts/test-here"]
fn every_subcommand_asks_a_users_interpreter_as_this_user() {
    let neighbours = Neighbours::new();
    let shim = neighbours.script("python3", "exec /usr/bin/python3.11 \"$@\"");
    let path = text(&shim);
    for arguments in [
        &["marks", path][..],
        &["marks", "--json", path],
        &["agent", "status", "--python", path],
        &["agent", "install", "--python", path],
        &["agent", "uninstall", "--python", path],
        &["trace", "--dry-run", "--python", path],
        &["trace", "--dry-run", "--", path, "-c", "pass"],
        &["top", "--dry-run", "--python", path],
        &["record", "--dry-run", "-o", "/dev/null", "--python", path],
        &["script", "trace", "--python", path],
        &["script", "top", "--python", path],
        &["doctor", "--python", path],
    ] {
        let ended = run(&mut command(arguments));
        let ran = neighbours.ran();
        assert!(
            !ran.is_empty() && ran.iter().all(|user| user == &USER.to_string()),
            "{arguments:?}: {ran:?} {ended:?}"
        );
        neighbours.are_unharmed();
    }
    // No privileges were left, and no descriptor of ours: standard input, output and error, and the one that ls opens.
    let power = fs::read_to_string(neighbours.user("power")).expect("it ran");
    for line in power.lines() {
        let (name, value) = line.split_once(':').expect("a field");
        let expected = match name {
            "NoNewPrivs" => "1",
            "Groups" => "",
            _ => "0000000000000000",
        };
        assert_eq!(value.trim(), expected, "{line}");
    }
    let open = fs::read_to_string(neighbours.user("open")).expect("it ran");
    assert!(open.contains("/dev/null"), "{open}");
    assert!(
        !open.contains("/dev/pts") && !open.contains("socket"),
        "{open}"
    );
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn descriptors_that_root_has_open_are_not_for_the_users_program() {
    let neighbours = Neighbours::new();
    let shim = neighbours.script("python3", "exec /usr/bin/python3.11 \"$@\"");
    let secret = neighbours.root("precious");
    let mut shell = Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(r#"exec 7<"$2"; exec "$0" marks "$1""#)
        .arg(crate::command::pystap())
        .arg(&shim)
        .arg(&secret)
        .env_remove("HOME");
    assert_eq!(run(&mut shell).code, 0);
    assert_eq!(neighbours.ran(), [USER.to_string()]);
    let open = fs::read_to_string(neighbours.user("open")).expect("it ran");
    assert!(!open.contains("precious"), "{open}");
    neighbours.are_unharmed();
}

#[test]
#[ignore = "needs root: run by scripts/test-here"]
fn what_several_users_can_change_is_run_as_nobody() {
    let neighbours = Neighbours::new();
    let shim = neighbours.script("python3", "exec /usr/bin/python3.11 \"$@\"");
    mode(&shim, 0o777);
    for arguments in [
        &["marks", text(&shim)][..],
        &["agent", "status", "--python", text(&shim)],
        &["trace", "--dry-run", "--", text(&shim)],
    ] {
        let ended = run(&mut command(arguments));
        assert!(ended.code != 0, "{ended:?}");
        assert!(ended.stderr.contains("root does not run it"), "{ended:?}");
        assert_eq!(neighbours.ran(), Vec::<String>::new());
    }
    neighbours.are_unharmed();
}

#[test]
#[ignore = "needs root: run by scripts/test-here"]
fn a_users_program_that_hangs_or_talks_for_ever_is_ended() {
    let neighbours = Neighbours::new();
    for then in [
        "sleep 1000 & echo $! >$0.left; wait",
        "while :; do echo hello; done",
    ] {
        let shim = neighbours.script("python3", then);
        let begin = Instant::now();
        let ended = run(&mut command(["marks", text(&shim)]));
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        neighbours.ran();
    }
    let left = fs::read_to_string(neighbours.user("python3.left")).expect("it ran");
    let line = fs::read(format!("/proc/{}/cmdline", left.trim())).unwrap_or_default();
    assert_eq!(line, b"", "what it started goes on");
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn the_agent_comes_into_a_users_environment_with_the_users_hands() {
    let neighbours = Neighbours::new();
    let (python, site) = environment(&neighbours);
    // Anything that starts this environment's Python runs this.
    let pth = format!(
        "import os; open({:?}, 'a').write(str(os.getuid()))\n",
        text(&neighbours.user("ran"))
    );
    fs::write(site.join("a.pth"), pth).expect("written");
    let install = ["agent", "install", "--python", text(&python)];
    let ended = run(&mut command(install));
    assert_eq!(ended.code, 0, "{ended:?}");
    for name in ["_pystap_agent.abi3.so", "pystap_agent.pth"] {
        let metadata = fs::metadata(site.join(name)).expect("installed");
        assert_eq!(metadata.uid(), USER, "{name}");
    }
    let ended = run(&mut command(["agent", "status", "--python", text(&python)]));
    assert!(ended.stdout.contains("  installed"), "{ended:?}");
    let ended = run(&mut command([
        "agent",
        "uninstall",
        "--python",
        text(&python),
    ]));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!site.join("pystap_agent.pth").exists());
    assert_eq!(neighbours.ran(), Vec::<String>::new(), "nothing had to run");
    neighbours.are_unharmed();
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn a_users_site_packages_that_lead_elsewhere_are_not_followed_with_roots_power() {
    let neighbours = Neighbours::new();
    let (python, site) = environment(&neighbours);
    let path = text(&python).to_owned();
    // A FIFO and links under the names that are looked for.
    let fifo = site.join("_pystap_agent.abi3.so");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .expect("it runs")
            .success()
    );
    symlink(neighbours.root("precious"), site.join("pystap_agent.pth")).expect("a link");
    all_owned(&site);
    let begin = Instant::now();
    let ended = run(&mut command(["agent", "status", "--python", &path]));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("not whole"), "{ended:?}");
    let ended = run(&mut command(["agent", "install", "--python", &path]));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    assert!(!site.join("pystap_agent.pth").is_symlink());
    neighbours.are_unharmed();
    // The directory itself.
    fs::remove_dir_all(&site).expect("removed");
    symlink(neighbours.roots.path(), &site).expect("a link");
    std::os::unix::fs::lchown(&site, Some(USER), Some(USER)).expect("given away");
    for subcommand in ["install", "uninstall", "status"] {
        let ended = run(&mut command(["agent", subcommand, "--python", &path]));
        if subcommand == "install" {
            assert_eq!(ended.code, 1, "{ended:?}");
            assert!(ended.stderr.contains("cannot be written"), "{ended:?}");
        }
        neighbours.are_unharmed();
    }
    // A link of the user's to an environment of root's.
    let roots = tempfile::tempdir().expect("a directory");
    let venv = roots.path().join("venv");
    let made = Command::new(PYTHON)
        .args(["-m", "venv", "--without-pip"])
        .arg(&venv)
        .status();
    assert!(made.expect("it runs").success());
    let shim = neighbours.script(
        "python",
        &format!("exec {}/bin/python \"$@\"", venv.display()),
    );
    mode(roots.path(), 0o755);
    let ended = run(&mut command(["agent", "install", "--python", text(&shim)]));
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(
        ended.stderr.contains("belongs to somebody else"),
        "{ended:?}"
    );
    assert!(
        !venv
            .join("lib/python3.11/site-packages/pystap_agent.pth")
            .exists()
    );
}

#[test]
#[ignore = "needs root: run by scripts/test-here"]
fn templates_and_services_in_another_users_home_are_not_roots() {
    let neighbours = Neighbours::new();
    let config = neighbours.user(".config/pystap");
    fs::create_dir_all(config.join("templates")).expect("made");
    let template = "[# question: evil\nemits: evil\n#]\nprobe begin { exit() }\n";
    fs::write(config.join("templates/evil.stp.tera"), template).expect("written");
    fs::write(
        config.join("services.toml"),
        "[services.evil]\nmatch = \".\"\n",
    )
    .expect("written");
    all_owned(&neighbours.user(".config"));
    let with_home = |arguments: &[&str]| {
        let mut command = command(arguments);
        run(command.env("HOME", neighbours.users.path()))
    };
    let ended = with_home(&["list"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!ended.stdout.contains("evil"), "{ended:?}");
    assert!(
        ended.stderr.contains("templates is not used") && ended.stderr.contains("sudo -H"),
        "{ended:?}"
    );
    let ended = with_home(&["trace", "--dry-run", "--service", "evil"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(
        ended.stderr.contains("services.toml is not used"),
        "{ended:?}"
    );
    assert!(
        ended.stderr.contains("there is no service \"evil\""),
        "{ended:?}"
    );
    // If named explicitly, they are refused.
    let named = text(&config.join("templates")).to_owned();
    let ended = run(&mut command(["list", "--template-dir", &named]));
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.stderr.contains("chown -R root:"), "{ended:?}");
    // The same files are accepted as root's own when root alone can change them.
    let roots = neighbours.root("templates");
    fs::create_dir(&roots).expect("made");
    fs::write(roots.join("mine.stp.tera"), template).expect("written");
    let ended = run(&mut command(["list", "--template-dir", text(&roots)]));
    assert!(ended.stdout.contains("mine"), "{ended:?}");
}

/// stap and staprun that leave a module; `owner` has them.
fn tools(directory: &Path) {
    for name in ["stap", "staprun"] {
        let path = directory.join(name);
        executable::copy(file("tests/fake/tool"), &path);
        fs::write(directory.join(format!("{name}.status")), "0").expect("written");
    }
    let module = directory.join("stap_0123_1.ko");
    fs::write(&module, "not a module").expect("written");
    fs::write(directory.join("stap.stdout"), text(&module)).expect("written");
}

const COMPILE: [&str; 8] = [
    "trace",
    "--events",
    "gc",
    "--compile-only",
    "--kernel",
    "6.1.0-stub",
    "--python",
    PYTHON,
];

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn a_compiled_module_below_another_users_home_is_not_roots() {
    let bin = tempfile::tempdir().expect("a directory");
    tools(bin.path());
    let stap = bin.path().join("stap");
    let compile = |home: &Path| {
        let mut command = command(COMPILE);
        command
            .args(["--stap", text(&stap), "-v"])
            .env("HOME", home);
        let ended = run(&mut command);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stderr
    };
    let kept = |said: &str| said.contains("was compiled before");
    // Created while it was root's, and then given away: as if the user had prepared it.
    let own = tempfile::tempdir().expect("a directory");
    assert!(!kept(&compile(own.path())));
    assert!(kept(&compile(own.path())), "root's own is used again");
    let prepared: Vec<PathBuf> = walk(own.path());
    assert!(
        prepared
            .iter()
            .any(|path| path.extension() == Some(OsStr::new("ko")))
    );
    all_owned(own.path());
    let said = compile(own.path());
    assert!(!said.contains(text(own.path())), "{said}");
    let after: Vec<PathBuf> = walk(own.path());
    assert_eq!(prepared, after, "nothing was written there either");
    // What these stand-ins left in the cache that is used instead.
    for line in said.lines().filter_map(|line| line.split_once('(')) {
        if let Some(directory) = Path::new(line.1.trim_end_matches(')')).parent()
            && directory.starts_with("/var/cache/pystap/modules")
        {
            fs::remove_dir_all(directory).expect("removed");
        }
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

#[test]
#[ignore = "needs root and Debian 12's Python 3.11: run by scripts/test-here"]
fn a_stap_that_others_can_change_is_not_run_by_root() {
    let neighbours = Neighbours::new();
    tools(neighbours.users.path());
    let stap = neighbours.script(
        "stap",
        "echo 'Systemtap translator/driver (version 5.6/0.196)'",
    );
    neighbours.script("staprun", "exit 0");
    let path = format!("{}:/usr/bin:/bin", neighbours.users.path().display());
    let in_path = run(command(COMPILE).env("PATH", &path));
    let named = run(command(COMPILE).args(["--stap", text(&stap)]));
    let relative = run(command(COMPILE)
        .env("PATH", ".:/usr/bin:/bin")
        .current_dir(neighbours.users.path()));
    for ended in [&in_path, &named, &relative] {
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(
            ended.stderr.contains("can be changed by others than root"),
            "{ended:?}"
        );
    }
    for arguments in [&["doctor"][..], &["cleanup"]] {
        run(command(arguments).env("PATH", &path));
    }
    assert_eq!(neighbours.ran(), Vec::<String>::new());
    neighbours.are_unharmed();
}

/// A Python that waits in a directory until its input ends.
fn waiting(python: &Path, directory: &Path) -> Child {
    let mut child = Command::new(python)
        .args([
            "-c",
            "print('ready', flush=True); __import__('sys').stdin.read()",
        ])
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let output = child.stdout.take().expect("a pipe");
    BufReader::new(output).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    child
}

/// The text between the backticks of a message that begins with these words, as a shell splits it.
fn pasted(message: &str, begins: &str) -> Vec<Vec<u8>> {
    let at = message
        .find(&format!("`{begins}"))
        .expect("the command is in the message");
    // Backticks in a name are inside quotes: the command ends where the sentence continues.
    let rest = &message[at + 1..];
    let command = rest.split("` and restart").next().expect("a command");
    let output = Command::new("bash")
        .args([
            "-c",
            &format!("pystap() {{ printf '%s\\0' \"$@\"; }}; {command}"),
        ])
        .output()
        .expect("bash runs");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{command}: {output:?}"
    );
    let mut words: Vec<Vec<u8>> = output
        .stdout
        .split(|byte| *byte == 0)
        .map(<[u8]>::to_vec)
        .collect();
    words.pop();
    words
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_command_to_paste_names_a_program_by_exactly_its_bytes_and_nothing_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let canary = directory.path().join("canary");
    let evil: [&[u8]; 8] = [
        b"it's here",
        b"$(touch canary)",
        b"`touch canary`",
        b"; touch canary #",
        b"a\ntouch canary\n",
        b"\x1b]0;title\x07\x1b[2J",
        b"-rf \"quoted\" \\",
        b"\xff\xe2\x80\xae",
    ];
    for name in evil {
        let bin = directory
            .path()
            .join(OsString::from_vec(name.to_vec()))
            .join("bin");
        fs::create_dir_all(&bin).expect("made");
        let python = bin.join("python3.11");
        symlink(PYTHON, &python).expect("a link");
        let mut child = waiting(&python, Path::new("/"));
        // Python 3.11 lets no agent in while it runs, so the next step is a command with its path.
        let mut trace = command(["trace", "--agent", "-p", &child.id().to_string()]);
        let ended = run(trace.current_dir(directory.path()));
        drop(child.stdin.take());
        end(&mut child, Duration::from_secs(30)).expect("it ends with its input");
        let message = ended.only_error();
        assert_eq!(ended.code, 3, "{message}");
        assert!(
            message
                .chars()
                .all(|sign| !sign.is_control() && sign != '\u{202e}'),
            "{message:?}"
        );
        let words = pasted(message, "pystap agent install");
        assert_eq!(
            words,
            [
                &b"agent"[..],
                b"install",
                b"--python",
                python.as_os_str().as_bytes()
            ],
            "{message}"
        );
        assert!(!canary.exists());
    }
}

/// SystemTap arms the marks in every process that runs an interpreter.
#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn systemtap_is_refused_where_the_marks_would_end_a_bystander() {
    let directory = tempfile::tempdir().expect("a directory");
    // A file of its own, so that no other process is a bystander.
    let python = directory.path().join("python3.11");
    executable::copy(PYTHON, &python);
    let inside = directory.path().join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&inside).expect("made");
    tools(directory.path());
    let stap = directory.path().join("stap");
    let mut target = waiting(&python, Path::new("/"));
    let mut bystander = waiting(&python, &inside);
    let pid = target.id().to_string();
    let arguments = [
        "trace",
        "--engine",
        "stap",
        "--stap",
        text(&stap),
        "-p",
        &pid,
    ];
    let ended = run(&mut command(arguments));
    assert_eq!(ended.code, 3, "{ended:?}");
    for words in [
        format!("process {}, in which SystemTap would arm", bystander.id()),
        r"caf\351".to_owned(),
        "--engine uprobes".to_owned(),
        "--agent".to_owned(),
    ] {
        assert!(ended.stderr.contains(&words), "{words}: {ended:?}");
    }
    // The target itself shows nothing, and the bystander would need the agent, which cannot get in.
    let planned = run(&mut command(["trace", "--dry-run", "-p", &pid]));
    assert_eq!(planned.code, 0, "{planned:?}");
    let named = bystander.id().to_string();
    let ended = run(&mut command(["trace", "--dry-run", "-p", &named]));
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(
        ended.only_error().contains("its working directory"),
        "{ended:?}"
    );
    let trusted = run(&mut command([
        "trace",
        "--dry-run",
        "--trust-paths",
        "-p",
        &named,
    ]));
    assert_eq!(trusted.code, 0, "{trusted:?}");
    for child in [&mut target, &mut bystander] {
        drop(child.stdin.take());
        assert_eq!(end(child, Duration::from_secs(30)), Some(0));
    }
}
