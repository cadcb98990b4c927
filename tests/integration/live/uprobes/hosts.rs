//! Other hosts by ssh: sshd on loopback, each in a network namespace of its own, with keys and ports of its own. They share this
//! machine's processes, so that one process is one on each host, with one and the same id.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use pystap::event::hosts::Hosts as Names;
use pystap::event::json::{Line, Reader};
use pystap::event::{Event, Session, Summary, What};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::super::Service;
use super::PYTHON_3_11;
use crate::command::{Ended, command, pystap, run};
use crate::executable;
use crate::tracing::{eventually, leaves_nothing};

/// What tells the namespaces of tests that run at the same time apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Runs a tool of the system.
fn tool(words: &[&str]) {
    let mut command = Command::new(words[0]);
    let ended = run(command.args(&words[1..]).stdin(Stdio::null()));
    assert_eq!(ended.code, 0, "{words:?}: {ended:?}");
}

/// One of them.
struct Host {
    space: String,
    sshd: Child,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.space])
            .status();
    }
}

/// Some hosts, `web1` and so on, and how ssh reaches them.
struct Network {
    directory: tempfile::TempDir,
    hosts: Vec<Host>,
}

impl Network {
    fn of(count: u32) -> Network {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir_all("/run/sshd").expect("where sshd wants to be alone");
        let place = |name: &str| directory.path().join(name).display().to_string();
        for key in ["key", "host"] {
            tool(&[
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-f",
                &place(key),
            ]);
        }
        let own = NEXT.fetch_add(count, Ordering::Relaxed);
        let (mut hosts, mut config) = (Vec::new(), String::new());
        for number in 0..count {
            let id = own + number;
            let space = format!("pystap-{}-{id}", std::process::id());
            // A name of an interface has 15 characters at most.
            let (here, there) = (format!("psh{id}"), format!("pst{id}"));
            let (near, address) = (format!("10.213.{id}.1/30"), format!("10.213.{id}.2"));
            tool(&["ip", "netns", "add", &space]);
            tool(&[
                "ip", "link", "add", &here, "type", "veth", "peer", "name", &there, "netns", &space,
            ]);
            tool(&["ip", "address", "add", &near, "dev", &here]);
            tool(&["ip", "link", "set", &here, "up"]);
            tool(&[
                "ip",
                "-n",
                &space,
                "address",
                "add",
                &format!("{address}/30"),
                "dev",
                &there,
            ]);
            tool(&["ip", "-n", &space, "link", "set", &there, "up"]);
            let sshd = place(&format!("sshd{number}"));
            let (key, host) = (place("key.pub"), place("host"));
            let settings = format!(
                "ListenAddress {address}\nPort 2222\nHostKey {host}\nAuthorizedKeysFile {key}\nPidFile none\n\
                 PermitRootLogin prohibit-password\nPasswordAuthentication no\nStrictModes no\nUsePAM no\n"
            );
            fs::write(&sshd, settings).expect("written");
            let sshd = Command::new("ip")
                .args([
                    "netns",
                    "exec",
                    &space,
                    "/usr/sbin/sshd",
                    "-D",
                    "-e",
                    "-f",
                    &sshd,
                ])
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("sshd is installed");
            hosts.push(Host { space, sshd });
            config.push_str(&format!("Host web{}\n HostName {address}\n", number + 1));
        }
        let (key, known) = (place("key"), place("known"));
        config.push_str(&format!(
            "Host *\n Port 2222\n User root\n IdentityFile {key}\n IdentitiesOnly yes\n StrictHostKeyChecking no\n \
             UserKnownHostsFile {known}\n LogLevel ERROR\n"
        ));
        fs::write(place("config"), config).expect("written");
        let network = Network { directory, hosts };
        for number in 1..=count {
            let ssh = network.ssh();
            let words: Vec<&str> = ssh.split(' ').collect();
            eventually("sshd answers", || {
                let mut ssh = Command::new(words[0]);
                ssh.args(&words[1..])
                    .arg(format!("web{number}"))
                    .arg("true");
                let said = ssh.stdin(Stdio::null()).stderr(Stdio::null()).status();
                said.is_ok_and(|status| status.success())
            });
        }
        network
    }

    fn ssh(&self) -> String {
        let config = self.directory.path().join("config");
        format!("ssh -F {} -oBatchMode=yes", config.display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// pystap that does something on these hosts.
    fn command(&self, name: &str, hosts: &str, options: &[&str]) -> Command {
        let (ssh, there) = (self.ssh(), pystap());
        let there = there.to_str().expect("UTF-8");
        let reach = [
            name,
            "--host",
            hosts,
            "--ssh",
            &ssh,
            "--remote-pystap",
            there,
        ];
        command([&reach, options].concat())
    }
}

/// What a stream has.
struct Told {
    session: Session,
    events: Vec<Event>,
    summary: Option<Summary>,
}

impl Told {
    fn of(path: &Path) -> Told {
        let text = fs::read_to_string(path).expect("a stream");
        let mut reader = Reader::new();
        let mut told = Told {
            session: Session::default(),
            events: Vec::new(),
            summary: None,
        };
        for line in text.lines() {
            match reader.read(line).expect("our own line") {
                Line::Session(session) => told.session = session,
                Line::Event(event) => told.events.push(event),
                Line::Summary(summary) => told.summary = Some(summary),
            }
        }
        told
    }

    /// Calls of a function in a process of a host.
    fn calls(&self, host: &str, pid: &str, function: &str) -> u64 {
        let names = Names::of(&self.session);
        let own = self.events.iter().filter(|event| {
            let is_there = names.name(event.pid).is_some_and(|it| **it == *host);
            is_there && names.number(event.pid).to_string() == pid
        });
        own.filter(|event| matches!(&event.what, What::Call { place, .. } if place.function.text == function))
            .count() as u64
    }
}

/// The processes that `ssh` started for this one.
fn on_host(pid: &str) -> Vec<Pid> {
    let wanted = format!("--pid={pid}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("procfs").flatten() {
        let Ok(own) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let serves = words.get(1).is_some_and(|word| *word == b"on-host");
        if serves && words.contains(&wanted.as_bytes()) {
            found.extend(Pid::from_raw(own));
        }
    }
    found
}

/// Waits until so many run.
fn until_there_are(count: usize, pid: &str) {
    eventually("processes on the hosts", || on_host(pid).len() == count);
}

/// A tracing pystap, once it says that so many hosts are live.
fn live(mut command: Command, hosts: usize, stderr: &Path) -> Child {
    let said = fs::File::create(stderr).expect("a file");
    let child = command
        .stderr(said)
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let wanted = match hosts {
        1 => "tracing one host;".to_owned(),
        count => format!("tracing {count} hosts;"),
    };
    eventually("the hosts are live", || {
        fs::read_to_string(stderr).is_ok_and(|said| said.contains(&wanted))
    });
    child
}

fn interrupt(child: &mut Child) -> i32 {
    let id = Pid::from_child(child);
    kill_process(id, Signal::INT).expect("it runs");
    child.wait().expect("it ends").code().expect("by itself")
}

const HANDLE: [&str; 4] = ["--engine", "uprobes", "--function", "[hp]a*"];

#[test]
#[ignore = "needs uprobe events and sshd: run by tests/uprobes/run"]
fn every_call_of_a_process_is_told_of_each_host_with_its_name_and_nothing_stays_there() {
    leaves_nothing(|| {
        let network = Network::of(2);
        let mut service = Service::start_with(PYTHON_3_11, "examples/service.py", &[]);
        let (pid, out) = (service.pid(), network.file("out.json"));
        let to = ["-p", &pid, "-f", "json", "-o", out.to_str().expect("UTF-8")];
        let command = network.command("trace", "web1,web2", &[&to[..], &HANDLE].concat());
        let mut tracing = live(command, 2, &network.file("said"));
        for _ in 0..100 {
            service.request("word");
        }
        assert_eq!(interrupt(&mut tracing), 0);
        until_there_are(0, &pid);
        let truth = service.end();
        let told = Told::of(&out);
        for host in ["web1", "web2"] {
            for function in ["handle", "parse"] {
                let calls = truth["calls"][function].as_u64();
                assert_eq!(
                    Some(told.calls(host, &pid, function)),
                    calls,
                    "{function} of {host}"
                );
            }
        }
        assert!(told.events.iter().map(|event| event.ts).is_sorted());
        let summary = told.summary.expect("a last line");
        assert_eq!(
            (summary.lost, summary.unordered, &*summary.ended),
            (0, 0, "interrupted")
        );
        let hosts = &told.session.hosts;
        let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        assert_eq!(names, ["web1", "web2"]);
        for host in hosts {
            // It is one clock.
            let (ahead, within) = (host.clock_ahead_ns, host.clock_within_ns);
            let (ahead, within) = (ahead.expect("measured"), within.expect("measured"));
            assert!(ahead.unsigned_abs() <= within, "{host:?}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events and sshd: run by tests/uprobes/run"]
fn a_host_that_cannot_be_reached_and_one_that_dies_are_a_line_each_and_the_others_go_on() {
    leaves_nothing(|| {
        let mut network = Network::of(3);
        // Nobody answers there any longer.
        let sshd = &mut network.hosts[2].sshd;
        sshd.kill().expect("it runs");
        sshd.wait().expect("it ends");
        let mut service = Service::start_with(PYTHON_3_11, "examples/service.py", &[]);
        let (pid, out, said) = (
            service.pid(),
            network.file("out.json"),
            network.file("said"),
        );
        let to = ["-p", &pid, "-f", "json", "-o", out.to_str().expect("UTF-8")];
        let options = [&to[..], &HANDLE].concat();
        let mut command = network.command("trace", "web1,web2,web3", &options);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let mut tracing = live(command, 2, &said);
        for _ in 0..50 {
            service.request("word");
        }
        eventually("calls of both", || {
            let told = fs::read_to_string(&out).unwrap_or_default();
            ["web1", "web2"]
                .iter()
                .all(|host| told.contains(&format!("\"host\":\"{host}\",\"pid\":{pid},\"tid\"")))
        });
        // Either of the two.
        let dies = on_host(&pid)[0];
        kill_process(dies, Signal::KILL).expect("it runs");
        eventually("it is missed", || {
            fs::read_to_string(&said).is_ok_and(|said| said.contains("the connection ended"))
        });
        for _ in 0..50 {
            service.request("word");
        }
        assert_eq!(interrupt(&mut tracing), 1);
        until_there_are(0, &pid);
        // What a killed pystap left, the next one removes.
        assert_eq!(run(&mut crate::command::command(["cleanup"])).code, 0);
        service.end();
        let said = fs::read_to_string(&said).expect("what it said");
        let lost = |line: &&str| line.contains("reached") || line.contains("connection ended");
        let warnings: Vec<&str> = said.lines().filter(lost).collect();
        assert_eq!(warnings.len(), 2, "{said}");
        assert!(
            warnings[0].contains("host web3: it cannot be reached"),
            "{said}"
        );
        let told = Told::of(&out);
        let mut calls = ["web1", "web2"].map(|host| told.calls(host, &pid, "handle"));
        calls.sort_unstable();
        assert_eq!(calls[1], 100, "{said}");
        assert!((1..=50).contains(&calls[0]), "{calls:?}");
        assert!(
            told.events
                .iter()
                .any(|event| matches!(event.what, What::Lost { .. }))
        );
    });
}

#[test]
#[ignore = "needs uprobe events and sshd: run by tests/uprobes/run"]
fn whoever_is_killed_nothing_goes_on_on_the_hosts() {
    leaves_nothing(|| {
        let network = Network::of(1);
        let mut service = Service::start_with(PYTHON_3_11, "examples/service.py", &[]);
        let (pid, out) = (service.pid(), network.file("out.json"));
        let to = ["-p", &pid, "-f", "json", "-o", out.to_str().expect("UTF-8")];
        let options = [&to[..], &HANDLE].concat();
        // pystap itself.
        let command = network.command("trace", "web1", &options);
        let mut tracing = live(command, 1, &network.file("said"));
        until_there_are(1, &pid);
        tracing.kill().expect("it runs");
        tracing.wait().expect("it ends");
        until_there_are(0, &pid);
        // ssh.
        let command = network.command("trace", "web1", &options);
        let mut tracing = live(command, 1, &network.file("said"));
        until_there_are(1, &pid);
        let children = format!("/proc/{0}/task/{0}/children", tracing.id());
        let of_all = fs::read_dir(format!("/proc/{}/task", tracing.id())).expect("threads");
        let mut ssh = fs::read_to_string(children).expect("children");
        for thread in of_all.flatten() {
            ssh.push_str(&fs::read_to_string(thread.path().join("children")).unwrap_or_default());
        }
        let ssh = ssh.split_whitespace().next().expect("ssh runs").parse();
        kill_process(
            Pid::from_raw(ssh.expect("a number")).expect("an id"),
            Signal::KILL,
        )
        .expect("it runs");
        until_there_are(0, &pid);
        assert_eq!(tracing.wait().expect("it ends").code(), Some(1));
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events and sshd: run by tests/uprobes/run"]
fn tables_recordings_and_dumps_show_the_host_of_everything() {
    leaves_nothing(|| {
        let network = Network::of(2);
        let mut service = Service::start_with(PYTHON_3_11, "examples/service.py", &[]);
        let (pid, file) = (service.pid(), network.file("all.rec"));
        let to = ["-p", &pid, "-o", file.to_str().expect("UTF-8")];
        let command = network.command("record", "web1,web2", &[&to[..], &HANDLE].concat());
        let mut tracing = live(command, 2, &network.file("said"));
        for _ in 0..20 {
            service.request("word");
        }
        assert_eq!(interrupt(&mut tracing), 0);
        let ended = run(&mut crate::command::command([
            "report",
            "--json",
            file.to_str().expect("UTF-8"),
        ]));
        assert_eq!(ended.code, 0, "{ended:?}");
        let table: Value = serde_json::from_str(&ended.stdout).expect("JSON");
        let rows = table["functions"].as_array().expect("rows");
        let handled = rows.iter().filter(|row| row["function"] == "handle");
        let mut of_hosts: Vec<(&str, u64, u64)> = handled
            .map(|row| {
                let number = |field: &str| row[field].as_u64().expect("a number");
                (
                    row["host"].as_str().expect("a host"),
                    number("pid"),
                    number("calls"),
                )
            })
            .collect();
        of_hosts.sort_unstable();
        let own = pid.parse().expect("a number");
        assert_eq!(of_hosts, [("web1", own, 20), ("web2", own, 20)]);

        let mut top = network.command("top", "web1,web2", &["-p", &pid, "--batch", "-d", "5s"]);
        let requests = std::thread::scope(|scope| {
            let table = scope.spawn(|| run(&mut top));
            let mut requests = 0;
            while !table.is_finished() {
                service.request("word");
                requests += 1;
                // As often as a service is asked, and not as fast as it can.
                std::thread::park_timeout(std::time::Duration::from_millis(2));
            }
            let Ended {
                code,
                stdout,
                stderr,
            } = table.join().expect("no panic");
            assert_eq!(code, 0, "{stderr}");
            for row in ["handle @web1", "handle @web2"] {
                assert!(stdout.contains(row), "{stdout}");
            }
            requests
        });
        assert!(requests > 0);

        let dumped = run(&mut network.command("dump", "web1,web2", &["-p", &pid, "--json"]));
        assert_eq!(dumped.code, 0, "{dumped:?}");
        let hosts: Vec<Value> = dumped
            .stdout
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
            .map(|dump| {
                assert_eq!(dump["processes"][0]["pid"].as_u64(), Some(own));
                dump["host"].clone()
            })
            .collect();
        assert_eq!(hosts, ["web1", "web2"]);
        service.end();
    });
}

#[test]
#[ignore = "needs sshd: run by tests/uprobes/run"]
fn what_is_on_a_host_instead_of_pystap_is_told_in_one_line_with_what_to_do() {
    let network = Network::of(1);
    let script = |name: &str, text: &str| {
        let path = network.file(name);
        executable::script(&format!("#!/bin/sh\n{text}\n"), &path);
        path.display().to_string()
    };
    let greeting = "echo 'pystap-on-host 1 0.0.1'";
    let answers = "while read -r word; do [ \"$word\" = go ] && break; date +%s%N; done";
    for (there, expected) in [
        (
            "/nowhere/pystap".to_owned(),
            "there is no /nowhere/pystap there",
        ),
        (
            script("login", "printf '\\033[2Jwelcome\\n'"),
            "something else than pystap: \\u{1b}[2Jwelcome",
        ),
        (
            script("old", "echo 'error: what is on-host?' >&2; exit 2"),
            "does not know hosts (what is on-host?); install",
        ),
        (
            script(
                "noise",
                &format!("{greeting}; {answers}; head -c 100000 /dev/zero"),
            ),
            "no stream of pystap",
        ),
        (
            script("lines", "yes | head -c 1000000"),
            "something else than pystap: y",
        ),
    ] {
        let ssh = network.ssh();
        let words = [
            "trace",
            "--host",
            "web1",
            "--ssh",
            &ssh,
            "--remote-pystap",
            &there,
            "-p",
            "1",
        ];
        let ended = run(&mut command(words));
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(ended.stderr.contains(expected), "{there}: {ended:?}");
        assert!(!ended.stderr.contains('\u{1b}'), "{ended:?}");
    }
}
