//! Database servers of the tests' own: in a directory that goes away, at a port of the loopback, as a user without rights. They
//! write down every statement.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::command::{end, run};
use crate::tracing::{BOUND, eventually};

/// Nobody.
const USER: u32 = 65534;

/// A server that runs until this is dropped.
pub(super) struct Database {
    server: Child,
    /// What ends it at once, but not its data.
    signal: Signal,
    port: u16,
    log: PathBuf,
    // Last, so that it is there until the server has ended.
    _place: TempDir,
}

impl Database {
    /// PostgreSQL, with a user `tester` who needs no password.
    pub(super) fn postgresql() -> Database {
        let versions = fs::read_dir("/usr/lib/postgresql").expect("Debian's package postgresql");
        let versions = versions.map(|it| it.expect("an entry").path().join("bin"));
        let programs = versions.max().expect("a version of PostgreSQL");
        let place = place();
        let data = place.path().join("data");
        let mut make = as_nobody(&programs.join("initdb"), place.path());
        make.args(["--auth=trust", "--username=tester", "--no-sync", "--pgdata"])
            .arg(&data);
        let made = run(&mut make);
        assert_eq!(made.code, 0, "{made:?}");
        let port = free_port();
        let log = place.path().join("log");
        let mut server = as_nobody(&programs.join("postgres"), place.path());
        server
            .arg("-D")
            .arg(&data)
            .args(["-h", "127.0.0.1", "-k", "", "-p", &port.to_string()])
            .args(["-c", "log_statement=all", "-c", "fsync=off"])
            .stderr(File::create(&log).expect("a log"));
        let server = server.spawn().expect("PostgreSQL");
        let database = Database {
            server,
            signal: Signal::INT,
            port,
            log,
            _place: place,
        };
        database.wait_for("ready to accept connections");
        database
    }

    /// MariaDB, where everybody may do everything in a database `test`.
    pub(super) fn mariadb() -> Database {
        let place = place();
        let data = place.path().join("data");
        // An empty directory is a database without tables.
        for directory in [&data, &data.join("test")] {
            fs::create_dir(directory).expect("made");
            chown(directory, Some(USER), Some(USER)).expect("root");
        }
        let port = free_port();
        let log = place.path().join("log");
        let said = place.path().join("said");
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let mut server = as_nobody(Path::new("/usr/sbin/mariadbd"), place.path());
        server
            .arg("--no-defaults")
            .arg(option("datadir", &data))
            .arg(option("socket", &place.path().join("socket")))
            .args(["--bind-address=127.0.0.1", &format!("--port={port}")])
            .args(["--skip-grant-tables", "--general-log"])
            .arg(option("general-log-file", &log))
            .stderr(File::create(&said).expect("a file"));
        let server = server
            .spawn()
            .expect("Debian's package mariadb-server-core");
        let mut database = Database {
            server,
            signal: Signal::TERM,
            port,
            log: said,
            _place: place,
        };
        database.wait_for("ready for connections");
        database.log = log;
        database
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What it has written down.
    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn wait_for(&self, words: &str) {
        eventually("a server is ready", || self.log().contains(words));
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.server), self.signal);
        if end(&mut self.server, BOUND).is_none() {
            let _ = self.server.kill();
        }
    }
}

fn place() -> TempDir {
    let place = tempfile::tempdir().expect("a directory");
    chown(place.path(), Some(USER), Some(USER)).expect("root");
    place
}

fn as_nobody(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("HOME", home)
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", "/usr/bin:/bin")
        .current_dir(home)
        .uid(USER)
        .gid(USER)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
