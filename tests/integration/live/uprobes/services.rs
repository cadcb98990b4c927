//! Services as they run in production, represented by stand-ins that look like them in /proc: found, joined, left, and
//! traced.

use std::fs;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::super::Service;
use super::PYTHON_3_11;
use crate::command::{command, file, run};
use crate::executable;
use crate::terminal::Terminal;
use crate::tracing::{Tracing, eventually, leaves_nothing};

/// A worker with this name and command line.
fn posing(comm: &str, arguments: &[&str]) -> Service {
    let arguments = [&[comm], arguments].concat();
    Service::start_with(PYTHON_3_11, "tests/programs/posing.py", &arguments)
}

/// A worker with a title like those of setproctitle.
fn titled(program: &str, number: u32) -> Service {
    posing(
        &format!("{program}:"),
        &[&format!("{program}: ServiceWrapper worker({number})")],
    )
}

/// What `pystap ps SERVICE --json` prints.
fn listed(service: &str) -> Vec<Value> {
    let ended = run(&mut command(["ps", service, "--json"]));
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.stdout).expect("a list")
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn workers_that_appear_join_those_that_end_leave_and_both_is_said_with_their_names() {
    leaves_nothing(|| {
        let first = titled("masakari-engine", 0);
        let second = titled("masakari-engine", 1);
        let options = ["--events", "call,return", "--service", "masakari"];
        let mut tracing = Tracing::start(&options).live();
        let third = titled("masakari-engine", 2);
        tracing.wait_for(&format!("masakari-engine {} joined", third.pid()));
        let of_third = format!("\"pid\":{},", third.pid());
        eventually("the new one is traced", || tracing.has_written(&of_third));
        let gone = first.pid();
        drop(first);
        tracing.wait_for(&format!("masakari-engine {gone} left"));
        // All of them may end: a service is restarted.
        let gone = [second.pid(), third.pid()];
        drop((second, third));
        for pid in gone {
            tracing.wait_for(&format!("masakari-engine {pid} left"));
        }
        let again = titled("masakari-api", 0);
        tracing.wait_for(&format!("masakari-api {} joined", again.pid()));
        let of_again = format!("\"pid\":{},", again.pid());
        eventually("the next one is traced", || tracing.has_written(&of_again));
        tracing.signal(Signal::INT);
        tracing.finish().complete("interrupted");
    });
}

/// A copy of the interpreter, as a virtual environment of copies or another deployment has one.
fn copied() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("python3.11");
    executable::copy(PYTHON_3_11, &copy);
    let path = copy.to_str().expect("UTF-8").to_owned();
    (directory, path)
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn who_runs_another_interpreter_file_is_not_said_to_have_joined_but_named_and_counted() {
    leaves_nothing(|| {
        let program = "tests/programs/posing.py";
        let first = Service::start_with(PYTHON_3_11, program, &["blue-green-deployment"]);
        let options = [
            "--events",
            "call,return",
            "--match",
            "blue-green-[d]eployment",
        ];
        let mut tracing = Tracing::start(&options).live();
        let (_directory, python) = copied();
        let other = Service::start_with(&python, program, &["blue-green-deployment"]);
        tracing.wait_for(&format!("{} is not traced: it runs {python}", other.pid()));
        // That file has been named.
        let again = Service::start_with(&python, program, &["blue-green-deployment"]);
        let third = Service::start_with(PYTHON_3_11, program, &["blue-green-deployment"]);
        tracing.wait_for(&format!("{} joined", third.pid()));
        tracing.wait_for("joined");
        tracing.signal(Signal::INT);
        let traced = tracing.finish().complete("interrupted");
        let said = traced.said.join("\n");
        assert_eq!(said.matches("is not traced").count(), 1, "{said}");
        for pid in [other.pid(), again.pid()] {
            assert!(!said.contains(&format!("{pid} joined")), "{said}");
        }
        assert_eq!(traced.summary.untraced_processes, 2, "{said}");
        assert!(
            said.contains(&format!("2 processes ran {python}")),
            "{said}"
        );
        assert!(traced.summary.untraced_ns > 0, "{said}");
        drop(first);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_child_of_a_launched_command_in_another_interpreter_file_is_named_and_counted() {
    leaves_nothing(|| {
        let (directory, python) = copied();
        let go = directory.path().join("go");
        let child = format!(
            "import os, time\nwhile not os.path.exists({:?}): time.sleep(0.01)",
            go.display().to_string()
        );
        let shell = ["sh", "-c", r#""$0" -c "$1"; :"#, &python, &child];
        let options = ["--python", PYTHON_3_11, "--events", "call,return", "--"];
        let mut tracing = Tracing::start(&[&options[..], &shell].concat());
        tracing.wait_for(&format!("is not traced: it runs {python}"));
        fs::write(&go, "").expect("written");
        let traced = tracing.finish();
        let said = traced.said.join("\n");
        assert!(said.contains(&format!("`--python {python}`")), "{said}");
        assert_eq!(traced.summary.untraced_processes, 1, "{said}");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn the_python_children_of_a_program_that_is_none_are_traced_with_those_to_come() {
    leaves_nothing(|| {
        let child = "import os, time\n\
             def work(): pass\n\
             parent = os.getppid()\n\
             print('ready', os.getpid(), flush=True)\n\
             while os.getppid() == parent: work(); time.sleep(0.01)\n";
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            r#""$0" -c "$1" & read line; "$0" -c "$1" & wait"#,
            PYTHON_3_11,
            child,
        ]);
        let mut supervisor = Service::of(shell);
        let options = ["-s", "--events", "call,return", "-p", &supervisor.pid()];
        let mut tracing = Tracing::start(&options);
        tracing.wait_for("is not Python, so its descendants");
        let mut tracing = tracing.live();
        let second = supervisor.request("another one");
        let second = second.trim().strip_prefix("ready ").expect("a process ID");
        tracing.wait_for(&format!("{second} joined"));
        let of_second = format!("\"pid\":{second},");
        eventually("the new one is traced", || tracing.has_written(&of_second));
        drop(supervisor);
        let traced = tracing.finish().complete("targets_ended");
        let said = traced.said.join("\n");
        assert!(said.contains("tracing one process"), "{said}");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn the_table_on_a_terminal_says_who_joins_and_who_leaves_in_its_last_line() {
    leaves_nothing(|| {
        let _first = titled("vitrage-graph", 0);
        let config = tempfile::tempdir().expect("a directory");
        define(&config, "[services.vitrage]\nprograms = ['vitrage-*']\n");
        let terminal = Terminal::open(100, 24);
        terminal.keys(&format!(
            "XDG_CONFIG_HOME={} {} top vitrage",
            config.path().display(),
            crate::command::pystap().display()
        ));
        terminal.key("Enter");
        terminal.wait("the table", |shown| {
            shown.contains("1 process ") && shown.contains("  work  ")
        });
        let second = titled("vitrage-graph", 1);
        let pid = second.pid();
        let joined = format!("vitrage-graph {pid} joined");
        terminal.wait("who joins", |shown| last_line(shown) == joined);
        terminal.wait("both", |shown| shown.contains("2 processes "));
        drop(second);
        let left = format!("vitrage-graph {pid} left");
        terminal.wait("who leaves", |shown| last_line(shown) == left);
        // A key brings back the line of keys.
        terminal.keys("R");
        terminal.wait("the keys", |shown| last_line(shown).starts_with("q end"));
        terminal.keys("q");
        // Messages that could not be written across the table are written now.
        terminal.wait("the end", |shown| {
            shown.contains(&format!("pystap: {joined}"))
                && shown.contains(&format!("pystap: {left}"))
                && shown.contains("nothing lost")
        });
    });
}

fn last_line(shown: &str) -> &str {
    shown.trim_end().lines().last().unwrap_or_default().trim()
}

fn define(config: &tempfile::TempDir, services: &str) {
    let place = config.path().join("pystap");
    fs::create_dir_all(&place).expect("made");
    fs::write(place.join("services.toml"), services).expect("written");
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn every_form_in_which_a_service_runs_is_listed_with_its_reason_and_what_can_be_traced() {
    let script = tempfile::tempdir().expect("a directory");
    let console = script.path().join("tacker-server");
    fs::copy(file("tests/programs/posing.py"), &console).expect("copied");
    let mut plain = Command::new(PYTHON_3_11);
    plain.arg(&console);
    let forms = [
        (Service::of(plain), "runs "),
        (
            posing(
                "tacker-conducto",
                &["/usr/bin/python3", "/usr/bin/tacker-conductor"],
            ),
            "runs /usr/bin/tacker-conductor",
        ),
        (
            posing(
                "tacker-conducto",
                &["tacker-conductor: master process [/usr/bin/tacker-conductor]"],
            ),
            "calls itself \"tacker-conductor: master process [/usr/bin/tacker-conductor]\"",
        ),
        (
            titled("tacker-conductor", 0),
            "calls itself \"tacker-conductor: ServiceWrapper worker(0)\"",
        ),
        (
            posing("python3", &["python3", "-m", "tacker.cmd.conductor"]),
            "runs module tacker.cmd.conductor",
        ),
        (
            posing("uwsgi", &["uwsgi", "--procname-prefix", "tacker-api"]),
            "uwsgi was told --procname-prefix tacker-api",
        ),
        (
            posing("uwsgi", &["uwsgi", "/etc/tacker/tacker-api-uwsgi.ini"]),
            "uwsgi was told /etc/tacker/tacker-api-uwsgi.ini",
        ),
        (
            posing("uwsgi", &["tacker-apiuWSGI worker 1"]),
            "calls itself \"tacker-apiuWSGI worker 1\"",
        ),
        (
            posing("apache2", &["(wsgi:tacker-api)", "-k", "start"]),
            "mod_wsgi group tacker-api",
        ),
        (
            posing(
                "privsep-helper",
                &[
                    "/usr/bin/python3",
                    "/usr/bin/privsep-helper",
                    "/etc/tacker/t",
                ],
            ),
            "helper that uses /etc/tacker/t",
        ),
    ];
    let listed = listed("tacker");
    assert_eq!(listed.len(), forms.len(), "{listed:#?}");
    for (service, reason) in &forms {
        let pid: u64 = service.pid().parse().expect("a number");
        let found = listed.iter().find(|process| process["pid"] == pid);
        let found = found.unwrap_or_else(|| panic!("{reason}: {listed:#?}"));
        let why = found["why"].as_str().expect("a reason");
        assert!(why.starts_with(reason), "{why}");
        assert_eq!(found["service"], "tacker");
        assert_eq!(found["container"], false);
        let events = found["events"].as_array().expect("kinds");
        assert!(events.iter().any(|kind| kind == "call"), "{found}");
    }
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_worker_in_a_container_is_found_and_traced_from_outside() {
    leaves_nothing(|| {
        let mut contained = Command::new("unshare");
        contained
            .args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
            .args([PYTHON_3_11, &file("tests/programs/posing.py")])
            .args(["zun-compute:", "zun-compute: ServiceWrapper worker(0)"]);
        let _container = Service::of(contained);
        let config = tempfile::tempdir().expect("a directory");
        define(&config, "[services.zun]\nprograms = ['zun-*']\n");
        let zun = |arguments: &[&str]| {
            let mut command = command(arguments);
            run(command.env("XDG_CONFIG_HOME", config.path()))
        };

        let ended = zun(&["ps", "zun", "--json"]);
        let listed: Vec<Value> = serde_json::from_str(&ended.stdout).expect("a list");
        let [process] = &listed[..] else {
            panic!("{listed:#?}");
        };
        assert_eq!(process["container"], true);
        let ended = zun(&["ps", "zun"]);
        assert!(ended.stdout.contains("in a container"), "{ended:?}");

        let ended = zun(&["top", "zun", "--json", "-i", "1s", "-n", "1"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        let table: Value = serde_json::from_str(&ended.stdout).expect("one table");
        let work = table["functions"].as_array().expect("rows").iter();
        let mut work = work.filter(|row| row["function"] == "work");
        let work = work.next().expect("it works all the time");
        assert!(work["calls"].as_u64() > Some(10), "{work}");
        // Under the ID that it has here, not the one that it knows itself.
        assert_eq!(work["pid"], process["pid"]);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_service_of_the_users_own_file_is_traced_by_its_name() {
    leaves_nothing(|| {
        let billing = posing("gunicorn", &["/usr/bin/gunicorn", "--name", "billing"]);
        let _other = posing("gunicorn", &["/usr/bin/gunicorn", "--name", "shop"]);
        let config = tempfile::tempdir().expect("a directory");
        define(
            &config,
            "[services.billing]\nmatch = 'gunicorn .*billing'\n",
        );
        let mut command = command([
            "top",
            "billing",
            "--json",
            "--by-process",
            "-i",
            "1s",
            "-n",
            "1",
        ]);
        let ended = run(command.env("XDG_CONFIG_HOME", config.path()));
        assert_eq!(ended.code, 0, "{ended:?}");
        let table: Value = serde_json::from_str(&ended.stdout).expect("one table");
        let rows = table["functions"].as_array().expect("rows");
        assert!(!rows.is_empty());
        let pid: u64 = billing.pid().parse().expect("a number");
        assert!(rows.iter().all(|row| row["pid"] == pid), "{table}");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_service_of_which_nothing_runs_is_answered_with_what_runs() {
    let _runs = titled("solum-worker", 0);
    for arguments in [
        &["ps", "cloudkitty"][..],
        &["top", "cloudkitty", "--batch"],
        &["trace", "--service", "cloudkitty"],
        &["trace", "--match", "cloudkitty"],
    ] {
        let ended = run(&mut command(arguments));
        assert_eq!(ended.code, 4, "{ended:?}");
        let said = ended.only_error();
        assert!(said.contains("these Python programs run: "), "{said}");
    }
}
