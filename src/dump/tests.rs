use std::time::Duration;

use super::*;
use crate::process::activity::{Descriptor, End, Socket, Watched};
use crate::python::frames::{Awaits, Greenlets, Parked, Tasks};

fn thread(tid: u32, state: State, wait: Option<WaitsFor>, python: Option<Python>) -> Thread {
    Thread {
        tid,
        name: "worker".to_owned(),
        state,
        call: match wait {
            Some(_) => Call::In(7, [0; 6]),
            None => Call::Running,
        },
        wait,
        asleep: None,
        python,
    }
}

fn python(reading: Reading, frames: &[(&str, &str, Option<u32>)]) -> Python {
    let frames = frames.iter().map(|(function, file, line)| Frame {
        function: (*function).to_owned(),
        file: (*file).to_owned(),
        line: *line,
    });
    Python {
        interpreter: 0,
        holds_gil: false,
        frames: frames.collect(),
        cut: false,
        reading,
    }
}

fn dump(threads: Vec<Thread>) -> Dump {
    Dump {
        pid: 4242,
        program: "api.py".to_owned(),
        command: vec!["python3".to_owned(), "api.py".to_owned()],
        version: "3.11.2".parse().ok(),
        threads,
        more_threads: 0,
        resting: None,
        took: Duration::from_millis(2),
    }
}

fn connection() -> Descriptor {
    let end = |text: &str| Some(End::Internet(text.parse().expect("an address")));
    Descriptor::Socket(Some(Socket {
        protocol: "tcp",
        state: Some("ESTABLISHED"),
        local: end("10.0.0.1:40000"),
        remote: end("10.0.0.2:3306"),
    }))
}

/// The threads of a process that does a bit of everything.
fn all() -> Dump {
    let holder = Python {
        holds_gil: true,
        ..python(
            Reading::Running,
            &[("Report.sum_up", "/srv/report.py", Some(118))],
        )
    };
    let of_a_lock = || Some(WaitsFor::Lock { address: 0x17bf });
    let mut idle = thread(
        4242,
        State::Sleeping,
        Some(WaitsFor::Kernel(Wait::One(
            5,
            Descriptor::Epoll(Watched {
                named: vec![(3, connection()), (6, Descriptor::Pipe(80869))],
                count: 70,
            }),
        ))),
        Some(python(
            Reading::Exact,
            &[
                ("EpollSelector.select", "/usr/lib/selectors.py", Some(468)),
                ("<module>", "/srv/api.py", None),
            ],
        )),
    );
    idle.asleep = Some(Duration::from_millis(12_400));
    dump(vec![
        idle,
        thread(
            4250,
            State::Sleeping,
            of_a_lock(),
            Some(python(Reading::Changed, &[])),
        ),
        thread(4251, State::Running, None, Some(holder)),
        thread(
            4252,
            State::Sleeping,
            Some(WaitsFor::Gil {
                held_by: Some(4251),
            }),
            Some(python(
                Reading::Changed,
                &[("Cache.put", "/srv/cache.py", Some(57))],
            )),
        ),
        thread(4253, State::Sleeping, of_a_lock(), None),
    ])
}

#[test]
fn people_read_what_each_thread_does() {
    let call = Call::In(7, [0; 6]).name().expect("a name");
    let expected = format!(
        "process 4242  api.py  Python 3.11.2  5 threads  GIL held by 4251\n\
         \n\
         thread 4242  worker (EpollSelector.select)  waiting 12.4s  for an epoll (fd 5) that watches tcp socket 10.0.0.1:40000 to 10.0.0.2:3306 (fd 3); \
         pipe 80869 (fd 6); and 68 more  [{call}]\n\
         \x20   EpollSelector.select  /usr/lib/selectors.py:468\n\
         \x20   <module>              /srv/api.py\n\
         \n\
         thread 4250~  worker  waiting  for a lock (0x17bf, for which 2 threads wait)  [{call}]\n\
         \x20   (its stack never held still)\n\
         \n\
         thread 4251  worker (Report.sum_up)  running, holds the GIL\n\
         \x20   Report.sum_up  /srv/report.py:118\n\
         \n\
         thread 4252~  worker (Cache.put)  waiting  for the GIL, which 4251 holds  [{call}]\n\
         \x20   Cache.put  /srv/cache.py:57\n\
         \x20   (it changed while it was read: stack and wait may be of different moments)\n\
         \n\
         thread 4253  worker  waiting  for a lock (0x17bf, for which 2 threads wait)  [{call}]\n\
         \x20   (no Python)\n"
    );
    assert_eq!(page(&all()), expected);
}

#[test]
fn programs_read_the_same() {
    let failed = [(7, DumpError::Ended { pid: 7 })];
    let document = document(&[all()], &failed);
    let threads = &document["processes"][0]["threads"];
    let epoll = &threads[0]["wait"]["descriptor"];
    assert_eq!(
        (&epoll["kind"], &epoll["count"]),
        (&"epoll".into(), &70.into())
    );
    assert_eq!(epoll["watches"][0]["remote"], "10.0.0.2:3306");
    assert_eq!(threads[0]["asleep_ms"], 12_400.0);
    assert_eq!(threads[0]["stack"][1]["line"], serde_json::Value::Null);
    assert_eq!(threads[1]["reading"], "changed");
    assert_eq!(threads[2]["holds_gil"], true);
    assert_eq!(threads[3]["wait"]["held_by"], 4251);
    assert_eq!(threads[4]["python"], false);
    assert_eq!(threads[4]["stack"], serde_json::Value::Null);
    assert_eq!(document["failed"][0]["pid"], 7);
}

fn tasks(names: &[&str], count: usize, awaits: Awaits, same: bool) -> Tasks {
    Tasks {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        count,
        frames: vec![Frame {
            function: "Api.get".to_owned(),
            file: "/srv/api.py".to_owned(),
            line: Some(7),
        }],
        cut: false,
        awaits,
        same,
    }
}

fn greenlets(count: usize, same: bool) -> Greenlets {
    Greenlets {
        count,
        descriptors: Vec::new(),
        frames: vec![Frame {
            function: "switch".to_owned(),
            file: "/srv/hub\n.py".to_owned(),
            line: Some(310),
        }],
        cut: false,
        same,
    }
}

fn resting() -> Dump {
    let future = || Awaits::Object("_asyncio.Future".to_owned());
    Dump {
        resting: Some(Resting {
            parked: Parked {
                tasks: vec![
                    tasks(
                        &["Task-2", "Task-3", "Task-4", "Task-10"],
                        12,
                        future(),
                        true,
                    ),
                    tasks(&["Task-5", "Task-6"], 2, Awaits::Turn, false),
                    tasks(&["a\x1b[2J"], 1, Awaits::Task("b\n".to_owned()), true),
                    tasks(&["c"], 1, Awaits::Start, true),
                ],
                unread: 2,
                greenlets: vec![greenlets(30, true), greenlets(1, false)],
                unread_greenlets: 1,
                objects: 3_000_000,
                complete: false,
                ..Parked::default()
            },
            held_still: false,
            awaited: vec![
                Watched {
                    named: vec![(9, connection()), (12, Descriptor::Pipe(7))],
                    count: 30,
                },
                Watched::default(),
            ],
        }),
        ..dump(Vec::new())
    }
}

#[test]
fn people_read_what_tasks_wait_for() {
    let expected = "process 4242  api.py  Python 3.11.2  0 threads\n\
         \n\
         12 tasks  Task-2, Task-3, Task-4 +9  await _asyncio.Future\n\
         \x20   Api.get  /srv/api.py:7\n\
         \n\
         2 tasks~  Task-5, Task-6  await their turn\n\
         \x20   Api.get  /srv/api.py:7\n\
         \n\
         task  a\\u{1b}[2J  awaits task b\\u{a}\n\
         \x20   Api.get  /srv/api.py:7\n\
         \n\
         task  c  not started\n\
         \x20   Api.get  /srv/api.py:7\n\
         \n\
         and 2 more tasks, not shown\n\
         \n\
         30 greenlets (switch)  wait for tcp socket 10.0.0.1:40000 to 10.0.0.2:3306 (fd 9); pipe 7 (fd 12); and 28 more\n\
         \x20   switch  /srv/hub\\u{a}.py:310\n\
         \n\
         greenlet~ (switch)  switched out\n\
         \x20   switch  /srv/hub\\u{a}.py:310\n\
         \n\
         and 1 more greenlet, not shown\n\
         \n\
         (looked for tasks and greenlets among 3000000 objects, which are not all: there may be more)\n";
    assert_eq!(page(&resting()), expected);
}

#[test]
fn programs_read_what_tasks_wait_for() {
    let with = document(&[resting()], &[]);
    let process = &with["processes"][0];
    assert_eq!(
        process["tasks"][0],
        serde_json::json!({
            "names": ["Task-2", "Task-3", "Task-4", "Task-10"],
            "count": 12,
            "awaits": { "for": "object", "type": "_asyncio.Future" },
            "reading": "running",
            "stack": [{ "function": "Api.get", "file": "/srv/api.py", "line": 7 }],
            "stack_cut": false,
        })
    );
    assert_eq!(process["tasks"][1]["reading"], "changed");
    assert_eq!(process["tasks"][1]["awaits"]["for"], "turn");
    assert_eq!(process["tasks"][2]["awaits"]["name"], "b\n");
    assert_eq!(process["tasks"][3]["awaits"]["for"], "start");
    assert_eq!(process["tasks_not_shown"], 2);
    assert_eq!(
        process["greenlets"][0],
        serde_json::json!({
            "count": 30,
            "role": "switch",
            "wait": {
                "for": "descriptors",
                "descriptors": [
                    {
                        "fd": 9, "kind": "socket", "protocol": "tcp", "state": "ESTABLISHED",
                        "local": "10.0.0.1:40000", "remote": "10.0.0.2:3306",
                    },
                    { "fd": 12, "kind": "pipe", "inode": 7 },
                ],
                "count": 30,
            },
            "reading": "running",
            "stack": [{ "function": "switch", "file": "/srv/hub\n.py", "line": 310 }],
            "stack_cut": false,
        })
    );
    assert_eq!(process["greenlets"][1]["reading"], "changed");
    assert!(process["greenlets"][1]["wait"].is_null());
    assert_eq!(process["greenlets_not_shown"], 1);
    assert_eq!(process["objects"], 3_000_000);
    assert_eq!(process["objects_complete"], false);
    let without = document(&[dump(Vec::new())], &[]);
    let without = &without["processes"][0];
    assert!(without["tasks"].is_null() && without["greenlets"].is_null());
}

#[test]
fn nothing_that_a_terminal_obeys_comes_through() {
    let evil = "\x1b[2J\n\u{202e}x";
    let mut one = thread(
        1,
        State::Sleeping,
        Some(WaitsFor::Kernel(Wait::Any(Watched {
            named: vec![
                (3, Descriptor::File(evil.as_bytes().to_vec())),
                (4, Descriptor::Kernel(evil.to_owned())),
                (
                    5,
                    Descriptor::Socket(Some(Socket {
                        protocol: "unix",
                        state: None,
                        local: Some(End::Path(evil.as_bytes().to_vec())),
                        remote: None,
                    })),
                ),
            ],
            count: 3,
        }))),
        Some(python(Reading::Exact, &[(evil, evil, Some(1))])),
    );
    one.name = evil.to_owned();
    let mut dump = dump(vec![one]);
    dump.program = evil.to_owned();
    let page = page(&dump);
    assert!(!page.contains(['\x1b', '\u{202e}']), "{page:?}");
    assert_eq!(page.lines().count(), 4, "{page:?}");
}
