//! Conversations with processes that say whatever they want, over real sockets: which ones are admitted, told nothing,
//! or counted.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::*;

/// A stand-in for an agent: connects, speaks, and does what the test says.
const AGENT: &str = r#"
import json, os, socket, sys, time
name, secret = sys.argv[1:3]

def connect():
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect("\0" + name)
    return connection

def say(connection, kind, **more):
    connection.send(json.dumps(dict(more, type=kind)).encode())

def join(secret, busy=False):
    connection = connect()
    say(connection, "joined", parent=os.getppid(), secret=secret, protocol=PROTOCOL, version="1", python=[3, 13, 0],
        implementation="cpython", pid=os.getpid(), way="monitoring", busy=busy, dormant=False)
    return connection

def hear(connection):
    packet = connection.recv(1 << 16)
    return json.loads(packet) if packet else None

def begin(connection, warnings=()):
    start = hear(connection)
    say(connection, "started", tool_id=None, threads=1, chained_profiler=False, already_running=0,
        warnings=list(warnings))
    return start["follow"]

def end(connection, entries, returns=0, dropped=0, unseen=0):
    assert hear(connection)["type"] == "stop"
    say(connection, "stopped", entries=entries, returns=returns, dropped=dropped,
        unseen_threads=unseen, replaced=unseen)

def tell(word):
    print(word, flush=True)

sys.stdin.readline()
"#;

struct Session {
    control: Control,
    name: String,
    invitations: Arc<Invitations>,
    lineage: Arc<Lineage>,
    /// Not listened to yet.
    listener: Option<Listener>,
}

impl Session {
    fn new() -> Session {
        let invitations = Arc::new(Invitations::default());
        let lineage = Arc::new(Lineage::default());
        let wanted = AgentConfig {
            functions: Some(std::collections::HashSet::new()),
            follow: true,
            ..AgentConfig::default()
        };
        let control = Control::new(wanted, Arc::clone(&invitations), Arc::clone(&lineage));
        let (socket, name) = socket::listener(None, 0).expect("a socket");
        Session {
            control: control.expect("begun"),
            name: name.clone(),
            invitations,
            lineage,
            listener: Some(Listener {
                socket,
                name,
                network: socket::network_of("self").expect("known"),
            }),
        }
    }

    fn listening() -> Session {
        let mut session = Session::new();
        session.listen();
        session
    }

    fn listen(&mut self) {
        self.control.listen(self.listener.take().expect("once"));
    }

    fn secret(&self) -> String {
        self.invitations.issue(Invited::Launched).expect("random")
    }

    /// Starts a stand-in for an agent, which waits for a line before it does anything.
    fn agent(&self, secret: &str, program: &str) -> Agent {
        self.agent_through(&[], secret, program)
    }

    fn agent_through(&self, before: &[&str], secret: &str, program: &str) -> Agent {
        let program = format!("PROTOCOL = {PROTOCOL}\n{AGENT}{program}");
        let words = [before, &["/usr/bin/python3", "-c", &program]].concat();
        let (first, rest) = words.split_first().expect("a command");
        let mut child = Command::new(first)
            .args(rest)
            .args([&self.name, secret])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        Agent {
            said: BufReader::new(child.stdout.take().expect("piped")),
            child,
        }
    }

    /// The command that this session launched.
    fn launched(&self, program: &str) -> Agent {
        let agent = self.agent(&self.secret(), program);
        self.lineage.launched(agent.identity());
        agent
    }

    fn outcome(&self) -> Outcome {
        let outcome = self.control.outcomes();
        outcome
            .recv_timeout(Duration::from_secs(20))
            .expect("something came of it")
    }

    /// Processes that have not begun and are counted, of which was told by now.
    fn counted(&self) -> Vec<u32> {
        let outcomes = self.control.outcomes().try_iter();
        let counted = outcomes.map(|it| {
            assert!(it.is_counted && it.result.is_err(), "{it:?}");
            it.pid
        });
        counted.collect()
    }

    fn stop(&self) -> AgentAccount {
        self.control.stop().expect("it answers")
    }
}

struct Agent {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Agent {
    fn identity(&self) -> Identity {
        Identity::of(self.child.id()).expect("it runs")
    }

    fn go(&mut self) {
        let mut input = self.child.stdin.as_ref().expect("piped");
        input.write_all(b"go\n").expect("it reads");
    }

    fn hears(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("text");
        line.trim().to_owned()
    }

    fn ends(&mut self) {
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn begun(outcome: Outcome) -> u32 {
    outcome.result.expect("it began");
    outcome.pid
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_launched_process_and_its_fork_join_each_with_the_secret_that_it_was_told() {
    let session = Session::listening();
    let mut launched = session.launched(
        "
connection = join(secret)
follow = begin(connection)
assert follow['secret'] != secret and follow['socket'] == name
if os.fork() == 0:
    child = join(follow['secret'])
    assert begin(child)['secret'] not in (secret, follow['secret'])
    end(child, 3, 4)
    os._exit(0)
end(connection, 10, 20, 5)
os.wait()
",
    );
    launched.go();
    let first = begun(session.outcome());
    assert_eq!(first, launched.child.id());
    assert_ne!(begun(session.outcome()), first);
    let account = session.stop();
    launched.ends();
    let told = (account.told, account.dropped, account.silent);
    assert_eq!((told, account.untraced), ((37, 5, 0), Untraced::default()));
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn strangers_are_told_nothing_whatever_they_know() {
    let session = Session::listening();
    let mut launched = session.launched(
        "
# One of the session, with no secret, a wrong one, and words that are none.
tell(hear(join('')))
tell(hear(join('0' * 32)))
connection = connect()
connection.send(b'{}')
tell(hear(connection))
connection = connect()
connection.send(b'x' * 60000)
tell(hear(connection))
",
    );
    launched.go();
    for _ in 0..4 {
        assert_eq!(launched.hears(), "None");
    }
    // A process of the same user that has read the secret, but is not below the command.
    let secret = session.secret();
    let mut thief = session.agent(&secret, "tell(hear(join(secret)))");
    thief.go();
    assert_eq!(thief.hears(), "None");
    // Another process's secret does not fit, even within the session.
    let other = session
        .invitations
        .issue(Invited::Below(thief.identity()))
        .expect("random");
    let mut misled = session.agent(&other, "tell(hear(join(secret)))");
    session.lineage.root(misled.identity());
    misled.go();
    assert_eq!(misled.hears(), "None");
    let account = session.stop();
    // Any process on this machine may be among them.
    assert!(account.strangers >= 4, "{account:?}");
    let expected = Untraced {
        unconfirmed: 2,
        ..Untraced::default()
    };
    assert_eq!(account.untraced, expected);
    // Nobody else need count those two.
    assert_eq!(
        session.counted(),
        [thief, misled].map(|it| it.identity().pid)
    );
}

#[test]
fn another_user_is_told_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root can start a process of another user");
        return;
    }
    let session = Session::listening();
    let another = [
        "setpriv",
        "--reuid=54321",
        "--regid=54321",
        "--clear-groups",
    ];
    // It has mapped a file with the name of the agent's library.
    let mut neighbour = session.agent_through(
        &another,
        "",
        "
import mmap, tempfile
with tempfile.TemporaryDirectory() as directory:
    with open(directory + '/libpystap_agent.so', 'w+b') as file:
        file.truncate(4096)
        mapped = mmap.mmap(file.fileno(), 4096)
        tell(hear(join(secret)))
",
    );
    neighbour.go();
    assert_eq!(neighbour.hears(), "None");
    let account = session.stop();
    assert!(
        account.strangers >= 1 && account.untraced.total() == 0,
        "{account:?}"
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn connections_that_say_nothing_neither_keep_others_out_nor_delay_the_end() {
    let session = Session::listening();
    let silent = "
connections = [connect() for _ in range(700)]
tell('connected')
sys.stdin.read()
";
    let mut neighbours = vec![session.agent("", silent)];
    if rustix::process::geteuid().is_root() {
        let another = [
            "setpriv",
            "--reuid=54321",
            "--regid=54321",
            "--clear-groups",
        ];
        neighbours.push(session.agent_through(&another, "", silent));
    }
    for neighbour in &mut neighbours {
        neighbour.go();
        assert_eq!(neighbour.hears(), "connected");
    }
    let mut launched =
        session.launched("connection = join(secret); begin(connection); end(connection, 7)");
    launched.go();
    assert_eq!(begun(session.outcome()), launched.child.id());
    let asked = Instant::now();
    let account = session.stop();
    // The promise is that Ctrl-C ends it within a second.
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert_eq!((account.told, account.silent), (7, 0));
    assert_eq!(account.untraced.total(), 0);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_agent_that_does_not_answer_the_last_word_is_not_waited_for_long() {
    let session = Session::listening();
    let mut launched = session.launched("begin(join(secret)); sys.stdin.read()");
    launched.go();
    begun(session.outcome());
    let mut other =
        session.launched("connection = join(secret); hear(connection); sys.stdin.read()");
    other.go();
    let asked = Instant::now();
    let account = session.stop();
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert_eq!(account.silent, 1);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn what_an_agent_says_of_itself_is_short_and_cannot_be_more_than_can_be() {
    let session = Session::listening();
    let mut launched = session.launched(
        "
connection = join(secret)
begin(connection, ['warning: all is lost ' + 'x' * 700] * 80)
end(connection, 2**64 - 1, 2**64 - 1, 2**64 - 1, 2**64 - 1)
",
    );
    launched.go();
    let joined = session.outcome().result.expect("it began");
    let warnings = &joined.started.warnings;
    assert_eq!(warnings.len(), 8);
    assert!(warnings.iter().all(|warning| warning.len() < 500));
    let remarks = super::super::remarks(&[(7, joined.started.clone())]);
    assert!(
        remarks
            .iter()
            .all(|remark| remark.starts_with("the agent in process 7 says: ")),
        "{remarks:?}"
    );
    let account = session.stop();
    let most = Duration::from_secs(60).as_nanos() as u64;
    assert!(account.told > 0 && account.told < most, "{account:?}");
    assert!(account.dropped > 0 && account.dropped < most, "{account:?}");
    assert!(
        account.replaced > 0 && account.replaced < most,
        "{account:?}"
    );
    assert!(
        account.unseen_threads > 0 && account.unseen_threads < most,
        "{account:?}"
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_agent_that_asks_for_a_ring_is_answered_and_one_that_is_missing_is_counted() {
    let session = Session::listening();
    let mut launched = session.launched(
        "
connection = join(secret)
begin(connection)
say(connection, 'wants_ring', place=0)
say(connection, 'wants_ring', place=3)
answer = hear(connection)
assert answer == {'type': 'ring', 'place': 3, 'ring': None}, answer
tell('answered')
end(connection, 3, 3)
",
    );
    launched.go();
    session.outcome().result.expect("it began");
    assert_eq!(launched.hears(), "answered");
    let account = session.stop();
    // No engine of this session has rings.
    assert_eq!(
        (account.missed_interpreters, account.told),
        (2, 6),
        "{account:?}"
    );
    launched.ends();
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn what_an_agent_could_not_see_is_counted_once_however_often_it_says_so() {
    for (last, expected) in [
        ("end(connection, 3, 3, 0, 9)", [9, 9]),
        ("hear(connection)", [7, 1]),
    ] {
        let session = Session::listening();
        let mut launched = session.launched(&format!(
            "
connection = join(secret)
begin(connection)
say(connection, 'unseen', threads=5, replaced=0)
say(connection, 'unseen', threads=7, replaced=1)
{last}
"
        ));
        launched.go();
        session.outcome().result.expect("it began");
        let account = session.stop();
        let unseen = [account.unseen_threads, account.replaced];
        assert_eq!(unseen, expected, "{account:?}");
        launched.ends();
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_process_has_one_agent_however_often_it_asks() {
    let session = Session::listening();
    let mut launched = session.launched(
        "
connections = []
for _ in range(40):
    connections.append(join(secret))
    begin(connections[-1])
tell('begun')
for connection in connections[:-1]:
    assert hear(connection) is None
tell('closed')
end(connections[-1], 1)
",
    );
    launched.go();
    for _ in 0..40 {
        begun(session.outcome());
    }
    assert_eq!(launched.hears(), "begun");
    assert_eq!(launched.hears(), "closed");
    let account = session.stop();
    assert_eq!((account.told, account.silent), (1, 39));
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_agent_that_comes_by_itself_while_it_is_asked_is_not_called_untraced() {
    let session = Session::listening();
    let mut launched = session.launched(
        "
own = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
own.bind('\\0' + name + '-own')
own.listen()
connection = join(secret)
begin(connection)
tell('begun')
second, _ = own.accept()
say(second, 'hello', protocol=PROTOCOL, version='1', python=[3, 13, 0], implementation='cpython', pid=os.getpid(),
    way='monitoring', busy=False, dormant=False)
assert hear(second)['type'] == 'start'
say(second, 'refused', reason='it is served already', next_step='wait')
assert hear(second) is None
tell('refused')
end(connection, 1)
",
    );
    launched.go();
    let joined = session.outcome().result.expect("it began");
    assert!(joined.from_the_beginning);
    assert_eq!(launched.hears(), "begun");
    let pid = launched.identity().pid;
    let own = format!("{}-own", session.name);
    let connection = socket::connection(pid, &own).expect("it listens");
    session.control.start(pid, connection);
    assert_eq!(launched.hears(), "refused");
    let account = session.stop();
    assert_eq!((account.told, account.untraced.failed), (1, 0));
    assert!(session.control.outcomes().try_recv().is_err());
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_agent_that_joins_again_while_it_traces_goes_on_as_it_was() {
    let session = Session::listening();
    let mut launched = session.launched(
        "
first = join(secret)
# It was told to start, and has not done it yet.
assert first.recv(1, socket.MSG_PEEK)
assert hear(join(secret)) is None
begin(first)
assert hear(join(secret, busy=True)) is None
tell('again')
end(first, 7)
",
    );
    launched.go();
    begun(session.outcome());
    assert_eq!(launched.hears(), "again");
    let account = session.stop();
    let failed = account.untraced.total();
    assert_eq!((account.told, account.silent, failed), (7, 0, 0));
    launched.ends();
    assert!(session.control.outcomes().try_recv().is_err());
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_refusal_is_the_agents_own_word() {
    let session = Session::listening();
    let mut launched = session.launched(
        "
connection = join(secret)
hear(connection)
say(connection, 'refused', reason='no tool id is free', next_step='end the debugger')
",
    );
    launched.go();
    let refused = session.outcome().result.expect_err("refused").to_string();
    assert!(
        refused
            .contains("the agent in it says: \u{201c}no tool id is free; end the debugger\u{201d}")
    );
    assert_eq!(session.stop().untraced.failed, 1);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn who_gave_up_while_nobody_listened_is_counted_and_who_still_waits_is_traced() {
    let mut session = Session::new();
    let mut launched = session.launched(
        "
for _ in range(5):
    if os.fork() == 0:
        join(secret)
        os._exit(0)
    os.wait()
join(secret).close()
connection = join(secret)
tell('here')
begin(connection)
end(connection, 1)
",
    );
    launched.go();
    assert_eq!(launched.hears(), "here");
    session.listen();
    // Of each that was counted it is told that it was, before the other one has begun or after that.
    let outcomes: Vec<Outcome> = (0..7).map(|_| session.outcome()).collect();
    let (joined, counted): (Vec<Outcome>, Vec<Outcome>) =
        outcomes.into_iter().partition(|it| it.result.is_ok());
    assert!(
        counted.len() == 6 && counted.iter().all(|it| it.is_counted),
        "{counted:?}"
    );
    for outcome in joined {
        begun(outcome);
    }
    let account = session.stop();
    assert_eq!(account.told, 1);
    let expected = Untraced {
        late: 6,
        ..Untraced::default()
    };
    assert_eq!(account.untraced, expected);
    let said = account.untraced.to_string();
    assert!(
        said.starts_with("6 processes ran untraced: 6 gave up or ended before"),
        "{said}"
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn who_came_before_the_end_and_has_given_up_is_counted_at_the_end() {
    let mut session = Session::new();
    let mut launched = session.launched(
        "
join(secret).close()
tell('here')
waits = join(secret)
tell('there')
# Whether it is told to start depends on when the session's end reaches the thread; it waits on either way.
while hear(waits): pass
",
    );
    launched.go();
    assert_eq!(launched.hears(), "here");
    assert_eq!(launched.hears(), "there");
    session.listen();
    let account = session.stop();
    assert_eq!(account.untraced.total(), account.untraced.late);
    assert_eq!(account.untraced.late, 1, "{account:?}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_daemon_is_taken_in_when_the_record_of_its_fork_has_come() {
    let session = Session::listening();
    let daemon = "
if os.fork() == 0:
    os.setsid()
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent: time.sleep(0.001)
        tell(os.getpid())
        connection = join(secret)
        if hear(connection) is None:
            tell('refused')
        else:
            say(connection, 'started', tool_id=None, threads=1, chained_profiler=False, already_running=0, warnings=[])
            end(connection, 1)
        os._exit(0)
    os._exit(0)
os.wait()
sys.stdin.read()
";
    let mut launched = session.launched(daemon);
    launched.go();
    let pid: u32 = launched.hears().parse().expect("a pid");
    // Its parent has ended, so that only the records know; the one in the middle is made up.
    let middle = u32::MAX - 7;
    assert!(session.lineage.forked(launched.child.id(), middle));
    assert!(session.lineage.forked(middle, pid));
    assert_eq!(begun(session.outcome()), pid);
    // Without a record no one knows where it comes from.
    let mut launched = session.launched(daemon);
    launched.go();
    launched.hears();
    assert_eq!(launched.hears(), "refused");
    let account = session.stop();
    assert_eq!((account.told, account.untraced.unconfirmed), (1, 1));
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn children_are_sent_away_uncounted_where_they_are_not_wanted() {
    let mut session = Session::new();
    let wanted = AgentConfig {
        functions: Some(std::collections::HashSet::new()),
        ..AgentConfig::default()
    };
    let control = Control::new(
        wanted,
        Arc::clone(&session.invitations),
        Arc::clone(&session.lineage),
    );
    session.control = control.expect("begun");
    session.listen();
    let mut launched = session.launched(
        "
if os.fork() == 0:
    tell(hear(join(secret)))
    os._exit(0)
os.wait()
connection = join(secret)
assert hear(connection)['follow'] is None
say(connection, 'started', tool_id=None, threads=1, chained_profiler=False, already_running=0, warnings=[])
end(connection, 1)
",
    );
    launched.go();
    assert_eq!(launched.hears(), "None");
    begun(session.outcome());
    let account = session.stop();
    assert_eq!((account.told, account.untraced.total()), (1, 0));
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn children_that_become_another_program_before_their_answer_are_not_missed_and_those_that_gave_up_are()
 {
    let session = Session::listening();
    let mut launched = session.launched(
        "
connection = join(secret)
follow = begin(connection)

def child(gives_up, orphan):
    gone, there = os.pipe(), os.pipe()
    if os.fork() == 0:
        middle = os.getpid()
        if orphan and os.fork() > 0:
            os._exit(0)
        # Of an orphan only the kernel's records tell whose it is, and they say nothing here.
        while orphan and os.getppid() == middle: time.sleep(0.001)
        connection = join(follow['secret'])
        if not orphan:
            assert hear(connection)['type'] == 'start'
        if gives_up:
            say(connection, 'gave_up')
            connection.close()
        os.dup2(there[1], 1)
        os.dup2(gone[0], 0)
        os.execvp('cat', ['cat'])
    if orphan:
        os.wait()
    # It is another program now, and lives.
    os.write(gone[1], b'!')
    assert os.read(there[0], 1) == b'!'
    return gone[1]

kept = [child(gives_up, orphan) for gives_up in (False, True) for orphan in (False, True)]
tell('all')
end(connection, 1)
",
    );
    launched.go();
    begun(session.outcome());
    assert_eq!(launched.hears(), "all");
    let account = session.stop();
    assert_eq!(account.told, 1);
    let expected = Untraced {
        late: 2,
        ..Untraced::default()
    };
    assert_eq!(account.untraced, expected);
}

#[test]
fn what_several_agents_say_is_said_once_with_the_processes_that_they_are_in() {
    let started = |warning: &str| pystap_agent_protocol::Started {
        warnings: vec![warning.to_owned()],
        ..pystap_agent_protocol::Started::default()
    };
    let reports = [(9, started("a")), (8, started("b")), (7, started("a"))];
    assert_eq!(
        super::super::remarks(&reports),
        [
            "the agents in processes 7 and 9 say: \u{201c}a\u{201d}",
            "the agent in process 8 says: \u{201c}b\u{201d}"
        ]
    );
    let pids: Vec<u32> = (1..=20).collect();
    let named = |count: usize| super::super::processes(&pids[..count]);
    assert_eq!(named(3), "processes 1, 2 and 3");
    assert_eq!(named(9), "processes 1, 2, 3, 4, 5, 6, 7, 8 and 9");
    assert_eq!(named(20), "processes 1, 2, 3, 4, 5, 6, 7, 8 and 12 more");
}
