//! A program that contains the agent, and pystap's end of the agent's socket.

use std::io::{BufRead as _, BufReader, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use pystap_agent_protocol::{
    Filters, FromAgent, Hello, Kind, LARGEST_PACKET, Start, Started, Stopped, ToAgent, decode,
    encode,
};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recv, send, sendmsg, socket_with,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::interpreters::Interpreter;

/// Long enough for anything on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The library as shipped, built once.
pub(crate) fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args([
                "build",
                "--locked",
                "--profile",
                "agent",
                "-p",
                "pystap-agent",
            ])
            .args(["--lib", "--message-format", "json-render-diagnostics"])
            .current_dir(repository())
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo");
        assert!(output.status.success(), "the library could not be built");
        let messages = String::from_utf8(output.stdout).unwrap();
        messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["target"]["name"] == "pystap_agent")
            .find_map(|message| Some(PathBuf::from(message["filenames"][0].as_str()?)))
            .expect("cargo names the library")
    })
}

/// Greenlets that switch four times, with a trace function of the program's own.
pub(crate) const TURNS_OF_GREENLETS: &str = "
import greenlet
heard = []
def hear(event, pair):
    heard.append(event)
greenlet.settrace(hear)
def inside():
    main.switch()
def outside(one):
    one.switch()
def turns():
    global main
    main = greenlet.getcurrent()
    one = greenlet.greenlet(inside)
    outside(one)
    outside(one)
def anew():
    greenlet.settrace(hear)
";

/// A running program.
pub(crate) struct Program {
    pub(crate) child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
    /// The directory with its files, as the program sees it.
    pub(crate) inside: PathBuf,
    pub(crate) directory: TempDir,
    name: String,
}

impl Program {
    /// Starts the driver.
    pub(crate) fn start(interpreter: &Interpreter) -> Program {
        Program::start_with(interpreter, |_| {})
    }

    /// Starts the driver, with a change to the command.
    pub(crate) fn start_with(
        interpreter: &Interpreter,
        change: impl FnOnce(&mut Command),
    ) -> Program {
        let (directory, inside) = interpreter.directory();
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
        for file in std::fs::read_dir(programs).unwrap().flatten() {
            if file.path().is_file() {
                std::fs::copy(file.path(), directory.path().join(file.file_name())).unwrap();
            }
        }
        std::fs::copy(library(), directory.path().join("agent.so")).unwrap();
        let mut command = interpreter.command();
        command
            .arg(inside.join("driver.py"))
            .arg(inside.join("agent.so"));
        change(&mut command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter starts");
        let (lines, output) = channel();
        let reader = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        Program {
            input: child.stdin.take(),
            child,
            output,
            inside,
            directory,
            name: interpreter.name(),
        }
    }

    /// Sends code to run, without waiting.
    pub(crate) fn send(&mut self, code: &str) {
        let mut line = serde_json::to_string(code).unwrap();
        line.push('\n');
        self.input
            .as_mut()
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();
    }

    /// The result of code that was sent.
    pub(crate) fn receive(&mut self) -> Value {
        self.receive_within(PATIENCE)
    }

    fn receive_within(&mut self, patience: Duration) -> Value {
        let line = self.output.recv_timeout(patience);
        let line = line.unwrap_or_else(|error| panic!("{}: no answer: {error}", self.name));
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert!(
            answer.get("error").is_none(),
            "{}: {}",
            self.name,
            answer["error"].as_str().unwrap_or("")
        );
        answer["result"].clone()
    }

    /// Runs code and returns what it has put into `result`.
    pub(crate) fn run(&mut self, code: &str) -> Value {
        self.send(code);
        self.receive()
    }

    /// The same for code that takes a while.
    pub(crate) fn run_for(&mut self, code: &str, patience: Duration) -> Value {
        self.send(code);
        self.receive_within(patience)
    }

    /// Starts the agent and connects to it.
    pub(crate) fn attach(&mut self) -> Pystap {
        let socket = self.run("agent.start(True); result = agent.status()['socket']");
        Pystap::connect(socket.as_str().unwrap())
    }

    /// Ends the input, waits for the exit, and returns the exit code.
    pub(crate) fn end(mut self) -> Option<i32> {
        self.input = None;
        wait(&mut self.child)
    }
}

/// Waits for a process to end, which it must.
pub(crate) fn wait(child: &mut Child) -> Option<i32> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < until, "the program does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: {:?}", self.name, self.child.try_wait());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pystap's end.
pub(crate) struct Pystap {
    pub(crate) socket: OwnedFd,
    pub(crate) hello: Hello,
}

/// A socket with a timeout.
pub(crate) fn new_socket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).unwrap();
    socket
}

impl Pystap {
    pub(crate) fn connect(name: &str) -> Pystap {
        let socket = new_socket();
        connect(
            &socket,
            &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap(),
        )
        .unwrap();
        match hear(&socket) {
            Some(FromAgent::Hello(hello)) => Pystap { socket, hello },
            other => panic!("no hello but {other:?}"),
        }
    }

    pub(crate) fn ask(&self, message: &ToAgent) -> FromAgent {
        let packet = encode(message).unwrap();
        send(&self.socket, &packet, SendFlags::NOSIGNAL).unwrap();
        hear(&self.socket).expect("an answer")
    }

    /// The same with descriptors.
    pub(crate) fn ask_with(&self, message: &ToAgent, files: &[BorrowedFd<'_>]) -> FromAgent {
        Pystap::tell_with(&self.socket, message, files);
        hear(&self.socket).expect("an answer")
    }

    /// Says something with descriptors, which nobody answers.
    pub(crate) fn tell_with(socket: &OwnedFd, message: &ToAgent, files: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        let packet = encode(message).unwrap();
        let packet = [IoSlice::new(&packet)];
        sendmsg(socket, &packet, &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    pub(crate) fn start(&self, start: Start) -> Started {
        match self.ask(&ToAgent::Start(start)) {
            FromAgent::Started(started) => started,
            other => panic!("not started but {other:?}"),
        }
    }

    pub(crate) fn stop(&self) -> Stopped {
        let mut answer = self.ask(&ToAgent::Stop {});
        loop {
            match answer {
                FromAgent::Stopped(stopped) => return stopped,
                // It crossed the question.
                FromAgent::Unseen { .. } | FromAgent::WantsRing { .. } => {
                    answer = hear(&self.socket).expect("an answer");
                }
                other => panic!("not stopped but {other:?}"),
            }
        }
    }
}

/// The next message; `None` at the end of the connection.
pub(crate) fn hear(socket: &OwnedFd) -> Option<FromAgent> {
    let mut buffer = vec![0; LARGEST_PACKET];
    let (_, length) = recv(socket, &mut buffer[..], RecvFlags::empty()).expect("a packet in time");
    (length > 0).then(|| decode(&buffer[..length]).unwrap())
}

/// Requests functions in files that match a pattern.
pub(crate) fn functions(files: &str) -> Start {
    Start {
        events: vec![Kind::Function],
        filters: Filters {
            files: vec![files.to_owned()],
            ..Filters::default()
        },
        contexts: false,
        switches: false,
        capture: Default::default(),
        fields: Vec::new(),
        announce_running: true,
        follow: None,
        ring: None,
    }
}

/// Polls until a condition holds.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "it never came about that {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
