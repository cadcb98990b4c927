//! The conversation with agents while a session runs: a thread that admits those who may join ([`super::joining`]),
//! starts them, and stops them all at the end. An agent that loses its connection, because pystap was killed, switches
//! itself off.
//!
//! Nobody at the other end can hold this thread up: no call here waits for one connection, each stage of a conversation has an
//! end, and a turn of the loop does a bounded number of things for each of those who want something.
//!
//! From one socket, 64 connections are accepted in a turn. Each stage of a conversation ends after ten seconds. At the
//! end, only agents that trace are asked for their account, and only as long as some answer. What an agent says in its
//! own words is cut and shown as its words ([`super::foreign`]); its account counts for no more than one event per
//! nanosecond.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use pystap_agent_protocol::{
    Follow, FromAgent, Hello, LARGEST_PACKET, PROTOCOL, Start, Started, Stopped, ToAgent, decode,
    encode,
};
use pystap_ring::MOST_RINGS;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::joining::{Admitted, Answer, Door, Invitations, Invited, Untraced};
use super::{AgentConfig, AgentError, foreign, socket};
use crate::engine::Children;
use crate::process::{Identity, Lineage};
use crate::python::PythonError;
use crate::threads;

/// How long agents may take to report their totals at the end, all together, and while none does.
const FAREWELL: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_millis(400);
/// How long to look through the latest arrivals at the end.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// How long an agent may take per stage before it traces. It may have to wait for the interpreter's lock.
const STAGE: Duration = Duration::from_secs(10);
/// Connections accepted from one socket before others get their turn.
const ACCEPTS: usize = 64;
/// How long to stop accepting when descriptors have run out.
const SHORTAGE: Duration = Duration::from_millis(100);
/// Most packets from one connection: an agent sends three, and one for each ring of an interpreter within, and that one is missing.
const MOST_PACKETS: u32 = 16 + MOST_RINGS;
/// Most outcomes that have not been asked for yet.
const MOST_OUTCOMES: usize = 4096;

/// A socket that agents join, in one network namespace.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: OwnedFd,
    pub(super) name: String,
    pub(super) network: u64,
}

/// The outcome for a process that was to be traced.
#[derive(Debug)]
pub struct Outcome {
    /// The process.
    pub pid: u32,
    /// Its agent's answer.
    pub result: Result<Joined, AgentError>,
    /// Whether nobody has to count the process any more: it was traced, or it is in the account of those that were not.
    pub is_counted: bool,
}

/// An agent that has started.
#[derive(Debug, Clone)]
pub struct Joined {
    /// What it said about itself.
    pub hello: Hello,
    /// What it found.
    pub started: Started,
    /// Whether it came by itself.
    pub by_itself: bool,
    /// Whether it came with the environment of the launched command, and the program waited for it: nothing is missing.
    pub from_the_beginning: bool,
}

/// What all agents together report about a session: sums of what processes say about themselves. Each counts for no
/// more than can have happened in its time, so none can distort the sum by more than that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgentAccount {
    /// Entries and returns that were reported.
    pub told: u64,
    /// Events that were seen but could not be reported.
    pub dropped: u64,
    /// Threads of C code whose calls were not seen, or not from the first.
    pub unseen_threads: u64,
    /// How often programs took the agent's place on a thread with a profile function of their own, and it was not back
    /// before the next call.
    pub replaced: u64,
    /// How often an interpreter within an interpreter had no ring, or not in time, so that its calls were not seen.
    pub missed_interpreters: u64,
    /// Agents that ended without reporting totals, mostly because their processes had ended.
    pub silent: u64,
    /// Processes of the session that asked to join and were not traced.
    pub untraced: Untraced,
    /// Connections from processes outside the session.
    pub strangers: u64,
}

enum Order {
    Listen(Listener),
    Agent(u32, OwnedFd),
    Children(Arc<dyn Children>),
    Stop(Sender<AgentAccount>),
}

/// The thread, as the rest of the program sees it.
#[derive(Debug)]
pub(super) struct Control {
    orders: Sender<Order>,
    wake: Arc<OwnedFd>,
    outcomes: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Starts the thread. Processes that join are checked against these secrets and this lineage.
    ///
    /// # Errors
    /// The error from the system.
    pub(super) fn new(
        wanted: AgentConfig,
        invitations: Arc<Invitations>,
        lineage: Arc<Lineage>,
    ) -> Result<Control, AgentError> {
        let system = |reason: rustix::io::Errno| AgentError::System {
            what: "no event descriptor can be had",
            reason: reason.into(),
        };
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(eventfd(0, flags).map_err(system)?);
        let (orders, receiver) = unbounded();
        let (sender, outcomes) = bounded(MOST_OUTCOMES);
        let talk = Talk {
            door: Door::new(invitations, lineage, wanted.follow),
            wanted,
            orders: receiver,
            wake: Arc::clone(&wake),
            outcomes: sender,
            listeners: Vec::new(),
            short_until: None,
            children: None,
            agents: HashMap::new(),
            next: 0,
            account: AgentAccount::default(),
        };
        let thread = threads::spawn(move || talk.run()).map_err(|reason| AgentError::System {
            what: "nobody can speak with agents",
            reason,
        })?;
        Ok(Control {
            orders,
            wake,
            outcomes,
            thread: Some(thread),
        })
    }

    /// Lets agents join through this socket.
    pub(super) fn listen(&self, listener: Listener) {
        self.tell(Order::Listen(listener));
    }

    /// Starts the agent at the other end of a connection to a process.
    pub(super) fn start(&self, pid: u32, connection: OwnedFd) {
        self.tell(Order::Agent(pid, connection));
    }

    /// Has `children` told of every process that joins, before that is told to start.
    pub(super) fn tell_of_children(&self, children: Arc<dyn Children>) {
        self.tell(Order::Children(children));
    }

    /// The outcomes for processes, in the order in which they become known.
    pub(super) fn outcomes(&self) -> &Receiver<Outcome> {
        &self.outcomes
    }

    /// Switches all agents off and waits briefly for their totals. `None` when the thread does not answer, or has
    /// already been stopped.
    pub(super) fn stop(&self) -> Option<AgentAccount> {
        let (answer, answered) = bounded(1);
        self.tell(Order::Stop(answer));
        answered
            .recv_timeout(FAREWELL + Duration::from_secs(1))
            .ok()
    }

    fn tell(&self, order: Order) {
        let _ = self.orders.send(order);
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let has_ended = |thread: &JoinHandle<()>| thread.is_finished();
        if self.thread.as_ref().is_some_and(has_ended) || self.stop().is_some() {
            let thread = self.thread.take();
            let _ = thread.map(JoinHandle::join);
        }
        // A thread that hangs in the kernel, on a process that cannot be examined, is not waited for.
    }
}

/// One agent: in a process that we connected to, or that has proved to belong to the session.
struct Agent {
    pid: u32,
    /// The process's identity, once it is known.
    process: Option<Identity>,
    socket: OwnedFd,
    /// Whether it connected to us.
    by_itself: bool,
    stage: Stage,
    /// When the current stage began.
    since: Instant,
    packets: u32,
    /// What is in the account of calls that it could not see.
    unseen: [u64; 2],
    /// The secret for its children.
    secret: Option<String>,
    /// The invitation by which it joined.
    invited: Option<Invited>,
}

enum Stage {
    /// It has not said what it is yet.
    Greeting,
    /// It was told to start.
    Starting(Hello),
    /// It is tracing.
    Tracing,
}

struct Talk {
    wanted: AgentConfig,
    orders: Receiver<Order>,
    wake: Arc<OwnedFd>,
    outcomes: Sender<Outcome>,
    listeners: Vec<Listener>,
    /// When to accept again, after descriptors ran out.
    short_until: Option<Instant>,
    door: Door,
    children: Option<Arc<dyn Children>>,
    agents: HashMap<u64, Agent>,
    next: u64,
    account: AgentAccount,
}

/// What a ready descriptor belongs to.
enum Ready {
    Listener(usize),
    Agent(u64),
    Newcomer(u64),
}

impl Talk {
    fn run(mut self) {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Listen(listener)) => self.listeners.push(listener),
                Ok(Order::Agent(pid, socket)) => self.add(pid, socket),
                Ok(Order::Children(children)) => self.children = Some(children),
                Ok(Order::Stop(answer)) => {
                    self.farewell();
                    self.account.untraced = self.door.untraced;
                    self.account.strangers = self.door.strangers;
                    let _ = answer.send(self.account);
                    return;
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => self.turn(None),
            }
        }
    }

    /// Waits until something happens, and handles it: known agents first, then newcomers at the door, then new
    /// connections.
    fn turn(&mut self, limit: Option<Duration>) {
        let limit = [limit, self.next_deadline(), self.door.next_look()];
        let limit = limit.into_iter().flatten().min().map(timespec);
        let mut files = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        let mut whose = Vec::new();
        for (id, agent) in &self.agents {
            files.push(PollFd::new(&agent.socket, PollFlags::IN));
            whose.push(Ready::Agent(*id));
        }
        for (id, socket, listens) in self.door.waiting() {
            let events = if listens {
                PollFlags::IN
            } else {
                PollFlags::empty()
            };
            files.push(PollFd::from_borrowed_fd(socket, events));
            whose.push(Ready::Newcomer(id));
        }
        if self.short_until.is_none() {
            for (at, listener) in self.listeners.iter().enumerate() {
                files.push(PollFd::new(&listener.socket, PollFlags::IN));
                whose.push(Ready::Listener(at));
            }
        }
        let _ = poll(&mut files, limit.as_ref());
        let is_ready = |file: &PollFd<'_>| !file.revents().is_empty();
        let ready: Vec<Ready> = files
            .iter()
            .skip(1)
            .zip(whose)
            .filter_map(|(file, whose)| is_ready(file).then_some(whose))
            .collect();
        drop(files);
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut count);
        for ready in ready {
            match ready {
                Ready::Agent(id) => self.hear(id),
                Ready::Newcomer(id) => {
                    let answer = self.door.hear(id);
                    self.answered(answer);
                }
                Ready::Listener(at) => {
                    self.accept(at);
                }
            }
        }
        for answer in self.door.look() {
            self.answered(Some(answer));
        }
        self.expire();
        self.report_gone();
    }

    fn next_deadline(&self) -> Option<Duration> {
        let stages = self.agents.values().filter(|agent| agent.is_on_its_way());
        let stages = stages.map(|agent| STAGE.saturating_sub(agent.since.elapsed()));
        let shortage = self
            .short_until
            .map(|until| until.saturating_duration_since(Instant::now()));
        stages.chain(shortage).min()
    }

    /// Drops agents that take too long.
    fn expire(&mut self) {
        if self
            .short_until
            .is_some_and(|until| until <= Instant::now())
        {
            self.short_until = None;
        }
        let late = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.is_on_its_way() && agent.since.elapsed() >= STAGE)
            .map(|(id, _)| *id);
        let late: Vec<u64> = late.collect();
        for id in late {
            if let Some(agent) = self.agents.remove(&id) {
                // For a process that was asked to join, whoever asked reports this.
                if agent.by_itself {
                    let error = AgentError::Unresponsive {
                        pid: agent.pid,
                        seconds: STAGE.as_secs(),
                    };
                    self.failed(agent, error);
                }
            }
        }
    }

    /// Accepts some of the pending connections. True when there may be more.
    fn accept(&mut self, listener: usize) -> bool {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listeners.get(listener) else {
                return false;
            };
            match accept_with(&listener.socket, flags) {
                Ok(socket) => {
                    let answer = self.door.knock(socket);
                    self.answered(answer);
                }
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    // Known agents keep their descriptors; those at the door are served when there are descriptors
                    // again.
                    self.door.clear_out();
                    self.short_until = Some(Instant::now() + SHORTAGE);
                    return false;
                }
                // That connection is already gone.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn answered(&mut self, answer: Option<Answer>) {
        match answer {
            Some(Answer::Admitted(admitted)) => self.admit(*admitted),
            Some(Answer::Refused(pid, error)) => self.report(pid, Err(error), true),
            None => {}
        }
    }

    fn admit(&mut self, admitted: Admitted) {
        let Admitted {
            process,
            socket,
            hello,
            invited,
        } = admitted;
        // A process has one agent: the previous one left with the program that ran there before, or was none.
        let before = self
            .agents
            .iter()
            .find(|(_, agent)| agent.process == Some(process))
            .map(|(id, _)| *id);
        if let Some(id) = before {
            // What it has said to the last.
            self.hear(id);
            if let Some(agent) = self.agents.get(&id) {
                // It is asked twice, by its environment and while it was not there yet, and one connection is enough.
                if hello.busy || matches!(agent.stage, Stage::Starting(_)) {
                    return;
                }
            }
            if let Some(agent) = self.agents.remove(&id) {
                self.closed(agent);
            }
        }
        let mut agent = Agent::new(process.pid, socket, true);
        agent.invited = Some(invited);
        if let Some(agent) = self.greeted(agent, process, hello) {
            self.insert(agent);
        }
    }

    fn insert(&mut self, agent: Agent) {
        let id = self.next;
        self.next += 1;
        self.agents.insert(id, agent);
        // The next message may already be there.
        self.hear(id);
    }

    /// Adds an agent that we have connected to.
    fn add(&mut self, pid: u32, socket: OwnedFd) {
        let agent = Agent::new(pid, socket, false);
        // The name of an agent's socket is not secret, so the peer must be the target. A child of a fork in C holds its
        // parent's socket until its own agent begins, and a socket is answered by whoever made it.
        let refused = match socket::peer(&agent.socket) {
            Ok((peer, _)) if peer != pid => Some("another process answers in its place"),
            Ok(_) => None,
            Err(_) => Some("it cannot be told who answers"),
        };
        let peer = socket::peer(&agent.socket).ok().map(|(peer, _)| peer);
        match refused {
            Some(_) if peer.is_some_and(|peer| crate::process::is_ancestor(peer, pid)) => {
                let parent = peer.unwrap_or(0);
                self.failed(agent, AgentError::ForkedInC { pid, parent });
            }
            Some(reason) => self.failed(agent, AgentError::Stranger { pid, reason }),
            None => self.insert(agent),
        }
    }

    fn report(&self, pid: u32, result: Result<Joined, AgentError>, is_counted: bool) {
        // Thousands of outcomes that no one asks for are dropped; what is counted is counted elsewhere.
        let _ = self.outcomes.try_send(Outcome {
            pid,
            result,
            is_counted,
        });
    }

    /// Tells of those that came no further than the door, so that nobody counts them a second time.
    fn report_gone(&mut self) {
        for pid in std::mem::take(&mut self.door.gone) {
            self.report(pid, Err(AgentError::Silent { pid }), true);
        }
    }

    /// Handles an agent that will not trace. Its connection ends here.
    fn failed(&mut self, agent: Agent, error: AgentError) {
        let counted = &mut self.door.untraced.failed;
        *counted = counted.saturating_add(1);
        self.report(agent.pid, Err(error), true);
        self.left(agent);
    }

    /// Handles a connection that ended without a last message.
    fn closed(&mut self, agent: Agent) {
        if matches!(agent.stage, Stage::Tracing) {
            self.account.silent = self.account.silent.saturating_add(1);
            self.left(agent);
        } else {
            self.ended(agent);
        }
    }

    /// Handles a connection that ended before its agent started.
    fn ended(&mut self, agent: Agent) {
        // A process that ended by itself has nothing more to report, unless it was to be traced from its beginning.
        let untraced = &mut self.door.untraced;
        let was_traced = |invited: Invited| invited.was_traced_to_its_end(agent.pid, &agent.socket);
        let counted = match agent.by_itself {
            true if !agent.invited.is_some_and(was_traced) => Some(&mut untraced.late),
            false if crate::process::runs(agent.pid) => Some(&mut untraced.failed),
            _ => None,
        };
        let is_counted = agent.by_itself || counted.is_some();
        if let Some(counted) = counted {
            *counted = counted.saturating_add(1);
        }
        let pid = agent.pid;
        self.report(pid, Err(AgentError::Silent { pid }), is_counted);
        self.left(agent);
    }

    /// Handles an agent that has left, whose process may still have children on their way.
    fn left(&mut self, agent: Agent) {
        if let Some(secret) = agent.secret {
            self.door.invitations.withdraw(secret);
        }
    }

    /// Receives what an agent has sent.
    fn hear(&mut self, id: u64) {
        loop {
            let Some(mut agent) = self.agents.remove(&id) else {
                return;
            };
            let packet = match socket::get(&agent.socket) {
                Ok(None) => {
                    self.agents.insert(id, agent);
                    return;
                }
                Ok(Some(packet)) if !packet.is_empty() => packet,
                Ok(_) | Err(_) => return self.closed(agent),
            };
            agent.packets += 1;
            let message = match decode::<FromAgent>(&packet) {
                Ok(message) if agent.packets <= MOST_PACKETS => message,
                _ => {
                    let error = AgentError::OtherVersion {
                        pid: agent.pid,
                        found: version_of(&packet),
                    };
                    return self.failed(agent, error);
                }
            };
            if let Some(agent) = self.message(agent, message) {
                self.agents.insert(id, agent);
            }
        }
    }

    /// Handles a message. Returns the agent, unless the conversation is over.
    fn message(&mut self, mut agent: Agent, message: FromAgent) -> Option<Agent> {
        let pid = agent.pid;
        match (
            message,
            std::mem::replace(&mut agent.stage, Stage::Greeting),
        ) {
            (FromAgent::Hello(hello), Stage::Greeting) => {
                match socket::process(&agent.socket, pid) {
                    Some(process) => self.greeted(agent, process, hello),
                    None => {
                        self.ended(agent);
                        None
                    }
                }
            }
            (FromAgent::Started(started), Stage::Starting(hello)) => {
                let joined = Joined {
                    hello,
                    started: Started {
                        warnings: foreign::texts(&started.warnings),
                        ..started
                    },
                    by_itself: agent.by_itself,
                    from_the_beginning: agent.invited == Some(Invited::Launched),
                };
                self.report(pid, Ok(joined), true);
                agent.stage = Stage::Tracing;
                agent.since = Instant::now();
                Some(agent)
            }
            // It came by itself while it was asked, and serves this very session already.
            (FromAgent::Refused(_), Stage::Greeting | Stage::Starting(_))
                if self.agents.values().any(|other| other.pid == pid) =>
            {
                self.left(agent);
                None
            }
            (FromAgent::Refused(refused), Stage::Greeting | Stage::Starting(_)) => {
                let error = AgentError::Refused {
                    pid,
                    reason: foreign::text(&refused.reason),
                    next: foreign::text(&refused.next_step),
                };
                self.failed(agent, error);
                None
            }
            (FromAgent::GaveUp {}, Stage::Greeting | Stage::Starting(_)) if agent.by_itself => {
                // So that nobody takes it for one that was traced to its end.
                agent.invited = None;
                self.ended(agent);
                None
            }
            (FromAgent::Unseen { threads, replaced }, Stage::Tracing) => {
                self.count_unseen(&mut agent, [threads, replaced]);
                agent.stage = Stage::Tracing;
                Some(agent)
            }
            (FromAgent::WantsRing { place }, Stage::Tracing) => {
                self.give_ring(&agent, place);
                agent.stage = Stage::Tracing;
                Some(agent)
            }
            (FromAgent::Stopped(stopped), Stage::Tracing) => {
                self.count_unseen(&mut agent, [stopped.unseen_threads, stopped.replaced]);
                self.count(stopped, agent.since);
                self.left(agent);
                None
            }
            // Out of turn: not our agent.
            _ => {
                let error = AgentError::Stranger {
                    pid,
                    reason: "its answer makes no sense",
                };
                self.failed(agent, error);
                None
            }
        }
    }

    /// Gives an agent the ring that it asks for, for an interpreter within the interpreter; or counts the process as one of which
    /// some are not seen.
    fn give_ring(&mut self, agent: &Agent, place: u32) {
        let children = self.children.as_ref().zip(agent.process);
        let offered = match children.filter(|_| place > 0) {
            Some((children, process)) => children.ring_within(process).ok().flatten(),
            None => None,
        };
        if offered.is_none() {
            let missed = &mut self.account.missed_interpreters;
            *missed = missed.saturating_add(1);
        }
        if place > 0 {
            let memory: Vec<BorrowedFd<'_>> = offered.iter().map(|it| it.memory.as_fd()).collect();
            let ring = offered.as_ref().map(|offered| offered.ring);
            // It waits for an answer, but not for long.
            let _ = sent(&agent.socket, &ToAgent::Ring { place, ring }, &memory);
        }
    }

    /// Starts an agent that has said what it is.
    fn greeted(&mut self, mut agent: Agent, process: Identity, hello: Hello) -> Option<Agent> {
        let pid = agent.pid;
        agent.process = Some(process);
        if hello.protocol != PROTOCOL {
            let error = AgentError::OtherVersion {
                pid,
                found: foreign::version(&hello.version),
            };
            self.failed(agent, error);
            return None;
        }
        let follow = match self.follow(process) {
            Ok(follow) => follow,
            Err(error) => {
                self.failed(agent, error);
                return None;
            }
        };
        agent.secret = follow.as_ref().map(|follow| follow.secret.clone());
        let start = match self.wanted.for_process(pid, follow) {
            Ok(start) => start,
            Err(PythonError::Ended { .. } | PythonError::NoProcess { .. }) => {
                self.ended(agent);
                return None;
            }
            Err(reason) => {
                self.failed(agent, AgentError::Unclear { pid, reason });
                return None;
            }
        };
        if start.events.is_empty() {
            // The interpreter's own marks provide everything.
            self.left(agent);
            return None;
        }
        // It waits for us, so its probes can be made sure of before it starts.
        if let Some(children) = self.children.as_ref().filter(|_| agent.by_itself) {
            children.keep(pid);
        }
        let children = self.children.as_ref();
        let offered = match children.map(|it| it.ring(process, hello.free_threaded)) {
            None => None,
            Some(Ok(offered)) => offered,
            Some(Err(reason)) if reason.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
                self.ended(agent);
                return None;
            }
            Some(Err(reason)) => {
                let what = "the memory for its events cannot be had";
                self.failed(agent, AgentError::System { what, reason });
                return None;
            }
        };
        let start = Start {
            ring: offered.as_ref().map(|offered| offered.ring),
            ..start
        };
        let memory: Vec<BorrowedFd<'_>> = offered.iter().map(|it| it.memory.as_fd()).collect();
        match sent(&agent.socket, &ToAgent::Start(start), &memory) {
            Ok(()) => {
                agent.stage = Stage::Starting(hello);
                agent.since = Instant::now();
                Some(agent)
            }
            Err(AgentError::System { .. }) if socket::has_hung_up(&agent.socket) => {
                self.ended(agent);
                None
            }
            Err(error) => {
                self.failed(agent, error);
                None
            }
        }
    }

    /// Where the children of a process join, and their secret; `None` if children are not traced.
    fn follow(&self, process: Identity) -> Result<Option<Follow>, AgentError> {
        let network = socket::network_of(&process.pid.to_string()).ok();
        let near = self
            .listeners
            .iter()
            .find(|listener| Some(listener.network) == network);
        let Some(near) = near.filter(|_| self.wanted.follow) else {
            return Ok(None);
        };
        let issued = self.door.invitations.issue(Invited::Below(process));
        let secret = issued.map_err(no_secret)?;
        Ok(Some(Follow {
            socket: near.name.clone(),
            secret,
        }))
    }

    /// Adds an agent's own totals, as far as they can be true: nothing happens more than once per nanosecond.
    fn count(&mut self, stopped: Stopped, since: Instant) {
        let most = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let told = stopped.entries.saturating_add(stopped.returns).min(most);
        let account = &mut self.account;
        account.told = account.told.saturating_add(told);
        account.dropped = account.dropped.saturating_add(stopped.dropped.min(most));
    }

    /// Adds by how much an agent's totals have grown of what it could not see, within the same bound.
    fn count_unseen(&mut self, agent: &mut Agent, totals: [u64; 2]) {
        let most = u64::try_from(agent.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let sums = [&mut self.account.unseen_threads, &mut self.account.replaced];
        for ((sum, known), total) in sums.into_iter().zip(&mut agent.unseen).zip(totals) {
            let total = total.min(most);
            *sum = sum.saturating_add(total.saturating_sub(*known));
            *known = total.max(*known);
        }
    }

    fn farewell(&mut self) {
        // Count those that came and gave up in the meantime.
        let end = Instant::now() + LAST_LOOK;
        for listener in 0..self.listeners.len() {
            while Instant::now() < end && self.accept(listener) {}
        }
        // No one joins any more; the absence of the socket tells a forked child that tries.
        self.listeners.clear();
        self.door.close();
        self.report_gone();
        self.agents.retain(|_, agent| {
            matches!(agent.stage, Stage::Tracing)
                && sent(&agent.socket, &ToAgent::Stop {}, &[]).is_ok()
        });
        let end = Instant::now() + FAREWELL;
        let mut heard = Instant::now();
        // Only tracing agents are waited for, and not for long if none of them answers.
        while !self.agents.is_empty()
            && let Some(left) = end
                .min(heard + QUIET)
                .checked_duration_since(Instant::now())
        {
            let before = self.agents.len();
            self.turn(Some(left));
            if self.agents.len() < before {
                heard = Instant::now();
            }
        }
        let silent = self.agents.len() as u64;
        self.account.silent = self.account.silent.saturating_add(silent);
        self.agents.clear();
    }
}

impl Agent {
    fn new(pid: u32, socket: OwnedFd, by_itself: bool) -> Agent {
        Agent {
            pid,
            process: None,
            socket,
            by_itself,
            stage: Stage::Greeting,
            since: Instant::now(),
            packets: 0,
            unseen: [0; 2],
            secret: None,
            invited: None,
        }
    }

    fn is_on_its_way(&self) -> bool {
        !matches!(self.stage, Stage::Tracing)
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

pub(super) fn no_secret(reason: io::Error) -> AgentError {
    AgentError::System {
        what: "the kernel gives no random numbers",
        reason,
    }
}

fn sent(socket: &OwnedFd, message: &ToAgent, files: &[BorrowedFd<'_>]) -> Result<(), AgentError> {
    let packet = encode(message).map_err(|_| AgentError::TooManyFilters)?;
    if packet.len() > LARGEST_PACKET {
        return Err(AgentError::TooManyFilters);
    }
    socket::put(socket, &packet, files).map_err(|reason| AgentError::System {
        what: "an agent cannot be spoken to",
        reason,
    })
}

/// The version that a message of another protocol names, if it does so in the same place as ours.
fn version_of(packet: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Value>(packet)
        .ok()
        .and_then(|value| Some(foreign::version(value.get("version")?.as_str()?)))
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
