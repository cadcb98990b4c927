//! `pystap dump` with real interpreters: all from 3.8 on that are here, compared with what `sys._current_frames()` said in the
//! program itself, right before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::executable;

const PYSTAP: &str = env!("CARGO_BIN_EXE_pystap");
const PYTHON: &str = "/usr/bin/python3.11";
const PROGRAM: &str = include_str!("../programs/dump.py");
const TASKS: &str = include_str!("../programs/parked_tasks.py");
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// The program, running. Killed on drop.
pub(crate) struct Running {
    child: Child,
    pub(crate) truth: Value,
}

impl Running {
    fn start(command: Command, arguments: &[&str]) -> Running {
        Running::program(PROGRAM, command, arguments)
    }

    pub(crate) fn program(program: &str, mut command: Command, arguments: &[&str]) -> Running {
        let mut child = command
            .args(["-X", "utf8", "-c", program])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe"))
            .read_line(&mut line)
            .expect("a line");
        let truth = serde_json::from_str(&line).expect("JSON");
        Running { child, truth }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn threads(&self) -> impl Iterator<Item = (u64, &Value)> {
        let threads = self.truth["threads"].as_object().expect("an object");
        threads
            .iter()
            .map(|(tid, it)| (tid.parse().expect("an ID"), it))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when the test has ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn dump(pid: u32, more: &[&str]) -> Output {
    Command::new(PYSTAP)
        .args(["dump", "-p", &pid.to_string()])
        .args(more)
        .output()
        .expect("pystap runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The process in the JSON of a dump.
pub(crate) fn process(pid: u32) -> Value {
    let output = dump(pid, &["--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let mut document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    document["processes"][0].take()
}

fn thread(process: &Value, tid: u64) -> &Value {
    let threads = process["threads"].as_array().expect("threads");
    let found = threads.iter().find(|thread| thread["tid"] == tid);
    found.unwrap_or_else(|| panic!("there is no thread {tid}: {process:#}"))
}

/// Every interpreter from 3.8 to 3.15 that is here, as commands: the system's own, those of pyenv, and those in the trees that
/// `tests/guest/build` makes.
pub(crate) fn interpreters() -> Vec<(String, Command)> {
    let named = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let home = named("HOME").unwrap_or_default();
    let mut found = Vec::new();
    let mut add = |root: &Path, path: &Path| {
        let command = || match root.parent() {
            None => Command::new(path),
            Some(_) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(path);
                command
            }
        };
        let version = "import sys; print(sys.version_info[0] * 100 + sys.version_info[1])";
        let output = command().args(["-c", version]).output();
        let number = output.ok().and_then(|output| {
            String::from_utf8_lossy(&output.stdout)
                .trim()
                .parse::<u32>()
                .ok()
        });
        if number.is_some_and(|number| (308..=315).contains(&number)) {
            found.push((format!("{}{}", root.display(), path.display()), command()));
        }
    };
    add(Path::new("/"), Path::new(PYTHON));
    let pyenv = named("PYENV_ROOT").unwrap_or_else(|| home.join(".pyenv"));
    let versions = fs::read_dir(pyenv.join("versions"));
    for version in versions.into_iter().flatten().flatten() {
        add(Path::new("/"), &version.path().join("bin/python3"));
    }
    let trees = named("PYSTAP_TEST_TREES")
        .or_else(|| named("PYSTAP_GUEST_DIR"))
        .or_else(|| named("XDG_CACHE_HOME").map(|cache| cache.join("pystap-guest")))
        .unwrap_or_else(|| home.join(".cache/pystap-guest"));
    for (tree, minor) in [
        ("bullseye", 9),
        ("trixie", 13),
        ("guest", 13),
        ("guest", 14),
        ("guest", 15),
    ] {
        let path = PathBuf::from(format!("/usr/bin/python3.{minor}"));
        add(&trees.join(tree), &path);
    }
    assert!(!found.is_empty(), "{PYTHON} is not here");
    for (name, _) in &found {
        println!("interpreter: {name}");
    }
    found
}

/// Whether the wait of a thread is of the kind that its program names.
fn is_wait(thread: &Value, kind: &str, running: &Running) -> bool {
    let wait = &thread["wait"];
    let (server, client) = (
        &running.truth["ends"]["server"],
        &running.truth["ends"]["client"],
    );
    let is_server = |it: &Value| {
        it["kind"] == "socket"
            && it["protocol"] == "tcp"
            && (&it["local"], &it["remote"]) == (server, client)
            && it["state"] == "ESTABLISHED"
    };
    let is_pipe = |it: &Value| it["kind"] == "pipe" && it["fd"] == running.truth["reading"];
    let are_both = |it: &Value| {
        let all = it.as_array().expect("an array");
        all.len() == 2 && all.iter().any(is_server) && all.iter().any(is_pipe)
    };
    let descriptor = &wait["descriptor"];
    match kind {
        "lock" | "sleep" => wait["for"] == kind,
        "socket" => {
            wait["for"] == "descriptor"
                && (is_server(descriptor)
                    || descriptor["state"] == "LISTEN" && &descriptor["local"] == server)
        }
        "pipe" => wait["for"] == "descriptor" && is_pipe(descriptor),
        "descriptors" => wait["for"] == "descriptors" && are_both(&wait["descriptors"]),
        "epoll" => descriptor["kind"] == "epoll" && are_both(&descriptor["watches"]),
        other => panic!("nobody knows {other}"),
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn every_stack_and_name_is_what_python_itself_says_and_every_wait_what_the_program_does() {
    for (name, command) in interpreters() {
        let running = Running::start(command, &[]);
        let process = process(running.pid());
        for (tid, truth) in running.threads() {
            let thread = thread(&process, tid);
            let stack = thread["stack"].as_array().expect("a stack");
            let stack: Vec<Value> = stack
                .iter()
                .map(|it| serde_json::json!([it["function"], it["file"], it["line"]]))
                .collect();
            assert_eq!(Value::from(stack), truth["stack"], "{name}: {thread:#}");
            assert_eq!(thread["name"], truth["name"], "{name}: {thread:#}");
            assert_eq!(thread["reading"], "exact", "{name}: {thread:#}");
            assert_eq!(thread["state"], "sleeping", "{name}: {thread:#}");
            assert_eq!(thread["holds_gil"], false, "{name}: {thread:#}");
            let kind = truth["wait"].as_str().expect("a word");
            assert!(
                is_wait(thread, kind, &running),
                "{name}: {kind}: {thread:#}"
            );
        }
        let main = thread(&process, running.pid().into());
        assert_eq!(main["stack"][0]["function"], "main", "{name}");
        assert_eq!(main["wait"]["descriptor"]["fd"], 0, "{name}");
    }
}

/// Stacks with what is awaited, and the names of the tasks that have them.
type Stacks = BTreeMap<String, BTreeSet<String>>;

fn add(stacks: &mut Stacks, stack: &Value, awaits: &Value, names: &[Value]) {
    // A type written in C has its module in front of its name.
    let mut awaits = awaits.clone();
    if let Some(name) = awaits["type"].as_str() {
        awaits["type"] = Value::from(name.rsplit('.').next().unwrap_or_default());
    }
    let stack: Vec<Value> = stack
        .as_array()
        .expect("a stack")
        .iter()
        .map(|it| match it.is_array() {
            true => it.clone(),
            false => serde_json::json!([it["function"], it["file"], it["line"]]),
        })
        .collect();
    let names = names
        .iter()
        .map(|name| name.as_str().expect("text").to_owned());
    let key = serde_json::json!([stack, awaits]).to_string();
    stacks.entry(key).or_default().extend(names);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn every_parked_task_has_the_stack_that_python_itself_says() {
    const EQUAL: u64 = 1000;
    for (name, command) in interpreters() {
        let running = Running::program(TASKS, command, &[&EQUAL.to_string()]);
        let mut expected = Stacks::new();
        for task in running.truth["tasks"].as_array().expect("an array") {
            let names = std::slice::from_ref(&task["name"]);
            add(&mut expected, &task["stack"], &task["awaits"], names);
        }
        let process = process(running.pid());
        let tasks = process["tasks"].as_array().expect("tasks");
        let mut found = Stacks::new();
        for task in tasks {
            assert_eq!(task["reading"], "exact", "{name}: {task:#}");
            let names = task["names"].as_array().expect("names");
            add(&mut found, &task["stack"], &task["awaits"], names);
        }
        // The most frequent are first; of these not all names are told.
        let many = expected.iter_mut().find(|(_, names)| names.len() > 64);
        let (many, names) = many.expect("there are many");
        assert_eq!(names.len() as u64, EQUAL, "{name}");
        assert_eq!(tasks[0]["count"], EQUAL, "{name}");
        let told = found.get(many).expect("they are found");
        assert!(told.len() == 64 && told.is_subset(names), "{name}");
        names.clone_from(told);
        assert_eq!(found, expected, "{name}");
        let count: u64 = tasks.iter().filter_map(|it| it["count"].as_u64()).sum();
        let all = running.truth["tasks"].as_array().map(Vec::len);
        assert_eq!(Some(count as usize), all, "{name}");
        assert_eq!(process["tasks_not_shown"], 0, "{name}");
        assert_eq!(process["objects_complete"], true, "{name}");
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_task_that_changes_all_the_time_has_a_possible_stack_or_is_marked() {
    for (name, command) in interpreters() {
        let running = Running::program(TASKS, command, &["churn"]);
        let mut seen = 0;
        let end = Instant::now() + BOUND;
        while seen < 5 {
            assert!(
                Instant::now() < end,
                "{name}: no task that changes was seen"
            );
            let process = process(running.pid());
            for task in process["tasks"].as_array().expect("tasks") {
                assert_ne!(task["reading"], "exact", "{name}: {task:#}");
                let stack = task["stack"].as_array().expect("a stack");
                let names: Vec<&str> = stack
                    .iter()
                    .filter_map(|it| it["function"].as_str())
                    .collect();
                if task["reading"] == "changed" || names.last() != Some(&"forever") {
                    continue;
                }
                seen += 1;
                let calls = names.iter().filter(|name| **name == "churn").count();
                let mut expected = vec!["churn"; calls];
                expected.push("forever");
                match task["awaits"]["for"].as_str() {
                    Some("start") => assert_eq!(calls, 0, "{name}: {names:?}"),
                    Some("turn") => {
                        assert!((1..=20).contains(&calls), "{name}: {names:?}");
                        expected.splice(0..0, ["__sleep0", "sleep"]);
                    }
                    other => panic!("{name}: {other:?} {names:?}"),
                }
                assert_eq!(names, expected, "{name}");
            }
        }
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn tasks_can_be_left_out() {
    let running = Running::program(TASKS, Command::new(PYTHON), &[]);
    let output = dump(running.pid(), &["--no-tasks", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let process = &document["processes"][0];
    assert!(process["tasks"].is_null(), "{document:#}");
    assert!(process["greenlets"].is_null(), "{document:#}");
    let page = dump(running.pid(), &[]);
    let page = String::from_utf8(page.stdout).expect("text");
    let task =
        "task  waits for a task  awaits task in_an_async_generator\n    for_a_future  <string>:";
    assert!(page.contains(task), "{page}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn who_waits_for_the_gil_is_told_from_who_holds_it() {
    for (name, command) in interpreters() {
        let running = Running::start(command, &["0", "busy"]);
        let busy: Vec<u64> = running.threads().map(|(tid, _)| tid).collect();
        let end = Instant::now() + BOUND;
        // Two threads that compute take turns: one of them waits at almost any time.
        loop {
            assert!(Instant::now() < end, "{name}: nobody waits for the GIL");
            let process = process(running.pid());
            let [one, other] = [0, 1].map(|at| thread(&process, busy[at]));
            for thread in [one, other] {
                let functions = thread["stack"].as_array().expect("a stack");
                assert!(
                    functions.iter().any(|it| it["function"] == "busy"),
                    "{name}: {thread:#}"
                );
                // Neither waits for anything else.
                assert!(
                    thread["wait"].is_null() || thread["wait"]["for"] == "gil",
                    "{name}: {thread:#}"
                );
            }
            let waits = |thread: &Value, holder: &Value| {
                thread["wait"]["for"] == "gil" && thread["wait"]["held_by"] == holder["tid"]
            };
            if waits(one, other) || waits(other, one) {
                break;
            }
        }
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_stack_that_changes_all_the_time_is_a_possible_one_or_marked() {
    for (name, command) in interpreters() {
        let running = Running::start(command, &["0", "churn"]);
        let (tid, _) = running.threads().next().expect("a thread");
        for _ in 0..6 {
            let process = process(running.pid());
            let thread = thread(&process, tid);
            if thread["reading"] == "changed" {
                continue;
            }
            let stack = thread["stack"].as_array().expect("a stack");
            let names: Vec<&str> = stack
                .iter()
                .filter_map(|it| it["function"].as_str())
                .map(|name| name.rsplit('.').next().unwrap_or(name))
                .collect();
            let bottom = names.iter().position(|name| *name == "churn");
            let (calls, rest) = names.split_at(bottom.expect("it is below"));
            assert_eq!(rest.len(), 4, "{name}: {names:?}");
            assert!(calls.len() <= 51, "{name}: {names:?}");
            // From the outermost on: a, b, a, …
            for (depth, call) in calls.iter().rev().enumerate() {
                assert_eq!(*call, ["a", "b"][depth % 2], "{name}: {names:?}");
            }
        }
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_process_is_never_stopped_or_traced_while_it_is_looked_at() {
    let running = Running::start(Command::new(PYTHON), &["200", "busy"]);
    let pid = running.pid();
    let done = AtomicBool::new(false);
    let stopped = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                looks += 1;
                let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
                for bad in ["State:\tT", "State:\tt"] {
                    assert!(!status.contains(bad), "{status}");
                }
                assert!(status.contains("TracerPid:\t0\n"), "{status}");
            }
            looks
        });
        for _ in 0..10 {
            process(pid);
        }
        done.store(true, Ordering::Relaxed);
        watching.join().expect("never stopped")
    });
    assert!(stopped > 10, "{stopped} looks");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn the_time_that_a_thread_has_been_asleep_is_that_of_its_own_clock() {
    let program = "import time; print('[]', flush=True); time.sleep(3600)";
    let begin = Instant::now();
    let mut child = Command::new(PYTHON)
        .args(["-c", program])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe"))
        .read_line(&mut line)
        .expect("a line");
    let slept = Instant::now();
    let end = slept + BOUND;
    // It can have been asleep for no longer than it has run, and soon is for longer than any inaccuracy.
    loop {
        let least = slept.elapsed().as_secs_f64() * 1e3;
        let process = process(child.id());
        let most = begin.elapsed().as_secs_f64() * 1e3;
        let thread = thread(&process, child.id().into());
        let asleep = thread["asleep_ms"].as_f64();
        let asleep = asleep.expect("this kernel says when a thread ran last");
        assert!(asleep <= most, "{asleep} of at most {most}");
        if asleep > 500.0 {
            assert!(asleep >= least * 0.9 - 50.0, "{asleep} of at least {least}");
            break;
        }
        assert!(Instant::now() < end, "{asleep}");
    }
    child.kill().expect("killed");
    child.wait().expect("reaped");
}

#[test]
#[ignore = "needs root: run by scripts/test-here"]
fn threads_of_another_pid_namespace_are_named_as_we_see_them() {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", PYTHON]);
    let running = Running::start(command, &[]);
    let parent = running.pid();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let pid: u32 = children.expect("children").trim().parse().expect("one");
    let process = process(pid);
    let threads = process["threads"].as_array().expect("threads");
    assert_eq!(threads.len(), running.threads().count() + 1);
    for thread in threads {
        let tid = thread["tid"].as_u64().expect("an ID");
        assert!(Path::new(&format!("/proc/{pid}/task/{tid}")).exists());
        assert_eq!(thread["python"], true, "{thread:#}");
    }
}

#[test]
#[ignore = "needs root: run by scripts/test-here"]
fn a_user_who_may_not_look_is_told_what_to_do() {
    // Elsewhere the path to the program may be closed to others.
    let directory = tempfile::tempdir_in("/tmp").expect("a directory");
    let program = directory.path().join("pystap");
    executable::copy(PYSTAP, &program);
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), open).expect("opened");
    let mut child = Command::new(PYTHON)
        .args(["-c", "import sys; print(flush=True); sys.stdin.read()"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    BufReader::new(child.stdout.as_mut().expect("a pipe"))
        .read_line(&mut String::new())
        .expect("a line");
    let output = Command::new(&program)
        .args(["dump", "-p", &child.id().to_string()])
        .uid(65534)
        .gid(65534)
        .output()
        .expect("pystap runs");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("as root"), "{}", said(&output));
    child.kill().expect("killed");
    child.wait().expect("reaped");
}

#[test]
fn what_is_no_python_and_what_has_ended_is_no_target() {
    let mut child = Command::new("sleep")
        .arg("3600")
        .spawn()
        .expect("it starts");
    let output = dump(child.id(), &[]);
    child.kill().expect("killed");
    child.wait().expect("reaped");
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("is not Python"), "{}", said(&output));
    let output = dump(child.id(), &[]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    // What these only look at they cannot launch.
    for words in [
        &["dump"][..],
        &["offcpu", "--batch"],
        &["syscalls", "--batch"],
    ] {
        let output = Command::new(PYSTAP).args(words).output().expect("it runs");
        let message = said(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("name a service"), "{message}");
        assert!(!message.contains("COMMAND"), "{message}");
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn people_see_the_stack_and_the_wait_of_each_thread() {
    let running = Running::start(Command::new(PYTHON), &[]);
    let output = dump(running.pid(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    let page = String::from_utf8(output.stdout).expect("text");
    let end = |which: &str| running.truth["ends"][which].as_str().expect("text");
    let connection = format!("tcp socket {} to {}", end("server"), end("client"));
    for part in [
        "Python 3.11.2  17 threads",
        "    Waiter.in_a_lock         <string>:",
        "in a sleep  [clock_nanosleep]",
        &format!("for {connection} (fd "),
        "that watches tcp socket ",
        "    Waiter.nested.<locals>.inner",
        "  a name that is longer than the kernel's, ÿ (",
        // What it is for is in the name that Python has made.
        "  Thread-1 (in_a_lock)  waiting",
    ] {
        assert!(page.contains(part), "{part:?} is missing in:\n{page}");
    }
}
