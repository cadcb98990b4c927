//! The conversation with agents while a session runs: a thread that takes in those who join, starts them, and stops them all
//! at the end. An agent that hears nothing more, because pystap was killed, switches itself off.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use pystap_agent_protocol::{
    FromAgent, Hello, LARGEST_PACKET, PROTOCOL, Started, Stopped, ToAgent, decode, encode,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{SocketFlags, accept_with};

use super::loaded::is_loaded;
use super::socket;
use super::{AgentError, Wanted};
use crate::engine::Children;
use crate::threads;

/// How long agents may take to give their account at the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// Packets that one connection may send: an agent sends three.
const MOST_PACKETS: u32 = 16;

/// A socket that agents join, in one network namespace.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: OwnedFd,
    pub(super) name: String,
    pub(super) network: u64,
}

/// What became of a process that was to be traced.
#[derive(Debug)]
pub struct Outcome {
    /// The process.
    pub pid: u32,
    /// What its agent answered.
    pub result: Result<Joined, AgentError>,
}

/// An agent that has begun.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Who it is.
    pub hello: Hello,
    /// What it found.
    pub started: Started,
    /// Whether it came by itself.
    pub by_itself: bool,
}

/// What all agents together say of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Entries and returns that were told.
    pub told: u64,
    /// Events that were seen and could not be told.
    pub dropped: u64,
    /// Agents that ended without an account: their processes had ended, mostly.
    pub silent: u64,
}

enum Order {
    Listen(Listener),
    Agent(u32, OwnedFd),
    Children(Arc<dyn Children>),
    Stop(Sender<Account>),
}

/// The thread, as the rest of us sees it.
#[derive(Debug)]
pub(super) struct Control {
    orders: Sender<Order>,
    wake: Arc<OwnedFd>,
    outcomes: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Begins.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn new(wanted: Wanted) -> Result<Control, AgentError> {
        let system = |reason: rustix::io::Errno| AgentError::System {
            what: "no event descriptor can be had",
            reason: reason.into(),
        };
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(eventfd(0, flags).map_err(system)?);
        let (orders, receiver) = unbounded();
        let (sender, outcomes) = unbounded();
        let talk = Talk {
            wanted,
            orders: receiver,
            wake: Arc::clone(&wake),
            outcomes: sender,
            listeners: Vec::new(),
            children: None,
            agents: HashMap::new(),
            next: 0,
            account: Account::default(),
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

    /// Has this told of every process that joins, before that is told to begin.
    pub(super) fn tell_of_children(&self, children: Arc<dyn Children>) {
        self.tell(Order::Children(children));
    }

    /// What became of processes, in the order in which it is known.
    pub(super) fn outcomes(&self) -> &Receiver<Outcome> {
        &self.outcomes
    }

    /// Switches all agents off and waits a moment for what they have to say.
    pub(super) fn stop(&self) -> Account {
        let (answer, answered) = bounded(1);
        self.tell(Order::Stop(answer));
        answered
            .recv_timeout(FAREWELL + Duration::from_secs(1))
            .unwrap_or_default()
    }

    fn tell(&self, order: Order) {
        let _ = self.orders.send(order);
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One agent.
struct Agent {
    pid: u32,
    socket: OwnedFd,
    /// Whether it connected to us.
    by_itself: bool,
    stage: Stage,
    packets: u32,
}

enum Stage {
    /// It has not said who it is.
    Greeting,
    /// It was told to start.
    Starting(Hello),
    /// It traces.
    Tracing,
}

struct Talk {
    wanted: Wanted,
    orders: Receiver<Order>,
    wake: Arc<OwnedFd>,
    outcomes: Sender<Outcome>,
    listeners: Vec<Listener>,
    children: Option<Arc<dyn Children>>,
    agents: HashMap<u64, Agent>,
    next: u64,
    account: Account,
}

impl Talk {
    fn run(mut self) {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Listen(listener)) => self.listeners.push(listener),
                Ok(Order::Agent(pid, socket)) => self.add(pid, socket, false),
                Ok(Order::Children(children)) => self.children = Some(children),
                Ok(Order::Stop(answer)) => {
                    self.farewell();
                    let _ = answer.send(self.account);
                    return;
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => self.turn(None),
            }
        }
    }

    /// Waits until something happens, and deals with it.
    fn turn(&mut self, limit: Option<Duration>) {
        let ids: Vec<u64> = self.agents.keys().copied().collect();
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let mut files = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        files.extend(
            self.listeners
                .iter()
                .map(|it| PollFd::new(&it.socket, PollFlags::IN)),
        );
        files.extend(
            ids.iter()
                .filter_map(|id| self.agents.get(id))
                .map(|agent| PollFd::new(&agent.socket, PollFlags::IN)),
        );
        let _ = poll(&mut files, limit.as_ref());
        let ready: Vec<bool> = files
            .iter()
            .map(|file| !file.revents().is_empty())
            .collect();
        drop(files);
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut count);
        let listeners = self.listeners.len();
        let is_ready = |at: usize| ready.get(at).copied().unwrap_or(false);
        for at in (0..listeners).filter(|at| is_ready(1 + at)) {
            self.accept(at);
        }
        for (at, id) in ids.iter().enumerate() {
            if is_ready(1 + listeners + at) {
                self.hear(*id);
            }
        }
    }

    fn accept(&mut self, listener: usize) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Some(listener) = self.listeners.get(listener)
            && let Ok(socket) = accept_with(&listener.socket, flags)
        {
            // Whoever is not there any more has nothing to say, and to a stranger nothing is said.
            if let Ok((pid, user)) = socket::peer(&socket)
                && may_join(pid, user)
            {
                self.add(pid, socket, true);
            }
        }
    }

    fn add(&mut self, pid: u32, socket: OwnedFd, by_itself: bool) {
        let agent = Agent {
            pid,
            socket,
            by_itself,
            stage: Stage::Greeting,
            packets: 0,
        };
        // The name of an agent's socket is no secret: who answers must be the target, or root's or our own process.
        let refused = match socket::peer(&agent.socket) {
            Ok((peer, _)) if peer != pid => Some("another process answers in its place"),
            Ok(_) => None,
            Err(_) => Some("it cannot be told who answers"),
        };
        if let Some(reason) = refused {
            return self.tell(&agent, Err(AgentError::Stranger { pid, reason }));
        }
        let id = self.next;
        self.next += 1;
        self.agents.insert(id, agent);
        // The first words may be there already.
        self.hear(id);
    }

    fn tell(&self, agent: &Agent, result: Result<Joined, AgentError>) {
        let _ = self.outcomes.send(Outcome {
            pid: agent.pid,
            result,
        });
    }

    /// Takes what an agent has said.
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
                Ok(_) | Err(_) => {
                    match agent.stage {
                        Stage::Tracing => self.account.silent += 1,
                        _ => self.tell(&agent, Err(AgentError::Silent { pid: agent.pid })),
                    }
                    return;
                }
            };
            agent.packets += 1;
            let message = match decode::<FromAgent>(&packet) {
                Ok(message) if agent.packets <= MOST_PACKETS => message,
                _ => {
                    let error = AgentError::OtherVersion {
                        pid: agent.pid,
                        found: version_of(&packet),
                    };
                    return self.tell(&agent, Err(error));
                }
            };
            if let Some(agent) = self.message(agent, message) {
                self.agents.insert(id, agent);
            }
        }
    }

    /// The agent, unless the conversation is at its end.
    fn message(&mut self, mut agent: Agent, message: FromAgent) -> Option<Agent> {
        let pid = agent.pid;
        match (
            message,
            std::mem::replace(&mut agent.stage, Stage::Greeting),
        ) {
            (FromAgent::Hello(hello), Stage::Greeting) => self.greeted(agent, hello),
            (FromAgent::Joined(joined), Stage::Greeting) => self.greeted(agent, joined.hello),
            (FromAgent::Started(started), Stage::Starting(hello)) => {
                let joined = Joined {
                    hello,
                    started,
                    by_itself: agent.by_itself,
                };
                self.tell(&agent, Ok(joined));
                agent.stage = Stage::Tracing;
                Some(agent)
            }
            (FromAgent::Refused(refused), _) => {
                let error = AgentError::Refused {
                    pid,
                    reason: refused.reason,
                    next: refused.next_step,
                };
                self.tell(&agent, Err(error));
                None
            }
            (FromAgent::Stopped(stopped), Stage::Tracing) => {
                self.count(stopped);
                None
            }
            // Out of its turn: not ours.
            _ => {
                self.tell(
                    &agent,
                    Err(AgentError::Stranger {
                        pid,
                        reason: "its answer makes no sense",
                    }),
                );
                None
            }
        }
    }

    fn greeted(&mut self, mut agent: Agent, hello: Hello) -> Option<Agent> {
        let pid = agent.pid;
        if hello.protocol != PROTOCOL {
            let error = AgentError::OtherVersion {
                pid,
                found: hello.version,
            };
            self.tell(&agent, Err(error));
            return None;
        }
        let start = self.wanted.for_process(pid, &self.listeners);
        if start.events.is_empty() {
            // Its own marks do all of it.
            return None;
        }
        // It waits for us, so now is the time to make sure of it.
        if let Some(children) = self.children.as_ref().filter(|_| agent.by_itself) {
            children.keep(pid);
        }
        match sent(&agent.socket, &ToAgent::Start(start)) {
            Ok(()) => {
                agent.stage = Stage::Starting(hello);
                Some(agent)
            }
            Err(error) => {
                self.tell(&agent, Err(error));
                None
            }
        }
    }

    fn count(&mut self, stopped: Stopped) {
        self.account.told += stopped.entries + stopped.returns;
        self.account.dropped += stopped.dropped;
    }

    fn farewell(&mut self) {
        // Nobody joins any more; a fork's child that tries is told so by the absence of the socket.
        self.listeners.clear();
        self.agents.retain(|_, agent| {
            matches!(agent.stage, Stage::Tracing) && sent(&agent.socket, &ToAgent::Stop {}).is_ok()
        });
        let end = Instant::now() + FAREWELL;
        while !self.agents.is_empty()
            && let Some(left) = end.checked_duration_since(Instant::now())
        {
            self.turn(Some(left));
        }
        self.account.silent += self.agents.len() as u64;
        self.agents.clear();
    }
}

/// Whether a process that came by itself may be told what is traced: it runs the agent, and is of a user whose processes
/// we may trace.
fn may_join(pid: u32, user: u32) -> bool {
    let ours = rustix::process::geteuid();
    (ours.is_root() || user == ours.as_raw()) && is_loaded(pid)
}

fn sent(socket: &OwnedFd, message: &ToAgent) -> Result<(), AgentError> {
    let packet = encode(message).map_err(|_| AgentError::TooManyFilters)?;
    if packet.len() > LARGEST_PACKET {
        return Err(AgentError::TooManyFilters);
    }
    socket::put(socket, &packet).map_err(|reason| AgentError::System {
        what: "an agent cannot be spoken to",
        reason,
    })
}

/// The version that a message of another protocol names, if it does so where ours does.
fn version_of(packet: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Value>(packet)
        .ok()
        .and_then(|value| Some(value.get("version")?.as_str()?.to_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}
