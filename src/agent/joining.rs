//! Which processes may join a session. Socket names are not secret (they are in /proc/net/unix), and neither is the
//! library's name, so neither counts for anything. A connection is admitted when both of these hold:
//!
//! - it *knows a secret* issued for this session: the one in the environment of the launched command, for processes
//!   below it; or the one given to an agent when it was started, for the children of its process;
//! - it *is a process of the session* according to the kernel ([`Lineage`]): the socket's peer, alive, with the same
//!   start time, and a descendant of the process that the secret was issued to.
//!
//! Processes of the same user can read each other's environment and memory, and so the secrets. That gains them
//! nothing: the kernel still says that they do not belong to the session; and whatever they could learn here (filters)
//! or spoil, they can also read in, and do to, the traced program itself. All they can do is to be counted as a process
//! that could not be traced.
//!
//! Whoever shows neither is given nothing: no word, little time, and little room.
//!
//! # Lines of descent
//!
//! [`Lineage`] has the processes of the session by id and time of start, each with its line of ancestors: from the
//! records of forks that the engines pass on, and from the parents in /proc where a record is still on its way (it is
//! waited for 0.4 seconds). That holds for daemons that fork twice, for other users below the command, and for pid
//! namespaces below ours. Whoever joins is bound to its connection by a pidfd (`SO_PEERPIDFD`). Before Linux 6.5 there
//! is none, and then the secret alone tells an id that was used again.
//!
//! # Strangers
//!
//! A connection that has shown nothing waits at the door for half a second: 128 of one user, 512 in all; the oldest
//! gives way.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pystap_agent_protocol::{FromAgent, Hello, PROTOCOL, decode};

use super::{AgentError, foreign, socket};
use crate::process::{Identity, Lineage};

/// How long a connection may stay silent: an agent speaks as soon as it is connected.
const GREETING: Duration = Duration::from_millis(500);
/// How long the record of a fork may take from the kernel to here.
const PROOF: Duration = Duration::from_millis(800);
/// How often to check for it.
const AGAIN: Duration = Duration::from_millis(10);
/// Most connections that wait at the door, in total and per user. The oldest makes room for the next.
const MOST_WAITING: usize = 512;
const MOST_OF_A_USER: usize = 128;
/// Most bytes of a greeting.
const LONGEST_GREETING: usize = 4096;
/// How long the secret of a process stays valid after its agent has left: for children that are on their way.
const AFTERWARDS: Duration = Duration::from_secs(10);
/// Most secrets kept of processes whose agents have left.
const MOST_WITHDRAWN: usize = 1 << 16;

/// Whom a secret was issued to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invited {
    /// The launched command, and whatever it becomes and starts.
    Launched,
    /// This process and its children.
    Below(Identity),
}

impl Invited {
    /// Whether a process whose connection has ended without a word was traced nevertheless: a forked child continues in its
    /// parent's session until it has an answer or says that it waits no longer. So nothing is missing if it has ended in the
    /// meantime, or became another program, which asks for itself.
    pub(super) fn was_traced_to_its_end(self, pid: u32, socket: &OwnedFd) -> bool {
        matches!(self, Invited::Below(holder) if holder.pid != pid) && !has_given_up(socket)
    }
}

/// The secrets that a session has issued. They are looked up by a keyed hash, so that the time it takes to refuse a
/// guess does not reveal how close it was.
#[derive(Debug, Default)]
pub(super) struct Invitations(Mutex<Issued>);

#[derive(Default)]
struct Issued {
    secrets: HashMap<String, Invited>,
    /// Which secrets to drop, and when.
    withdrawn: VecDeque<(Instant, String)>,
}

impl fmt::Debug for Issued {
    /// Without the secrets, which do not belong in any log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issued({})", self.secrets.len())
    }
}

impl Invitations {
    /// A new secret: 32 hexadecimal digits.
    ///
    /// # Errors
    /// When the kernel has no random numbers.
    pub(super) fn issue(&self, invited: Invited) -> io::Result<String> {
        let secret = socket::random()?;
        self.issued().secrets.insert(secret.clone(), invited);
        Ok(secret)
    }

    /// Whom a secret was issued to; `None` when it is not ours.
    fn holder(&self, secret: &str) -> Option<Invited> {
        self.issued().secrets.get(secret).copied()
    }

    /// Invalidates a secret after a while.
    pub(super) fn withdraw(&self, secret: String) {
        let mut issued = self.issued();
        let now = Instant::now();
        issued.withdrawn.push_back((now + AFTERWARDS, secret));
        while let Some((until, _)) = issued.withdrawn.front()
            && (*until <= now || issued.withdrawn.len() > MOST_WITHDRAWN)
        {
            if let Some((_, secret)) = issued.withdrawn.pop_front() {
                issued.secrets.remove(&secret);
            }
        }
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        // The map is consistent between calls, so a panic elsewhere does not corrupt it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Processes of a session that ran untraced, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Untraced {
    /// They asked, but gave up or ended before they were answered.
    pub late: u64,
    /// They knew a secret, but the kernel did not confirm in time that they belong to the session.
    pub unconfirmed: u64,
    /// There was no room for them.
    pub crowded: u64,
    /// Their agents refused, or did not start.
    pub failed: u64,
    /// Pythons of the launched command that never asked.
    pub absent: u64,
}

impl Untraced {
    /// The total.
    #[must_use]
    pub fn total(&self) -> u64 {
        [
            self.late,
            self.unconfirmed,
            self.crowded,
            self.failed,
            self.absent,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

impl fmt::Display for Untraced {
    /// How many and why, as a clause without its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.total() {
            1 => f.write_str("one process ran untraced: ")?,
            total => write!(f, "{total} processes ran untraced: ")?,
        }
        let reasons = [
            (
                self.late,
                "gave up or ended before pystap answered (it was stopped, or the host is busy)",
            ),
            (
                self.unconfirmed,
                "could not be confirmed by the kernel's records as a process of this session",
            ),
            (
                self.crowded,
                "found no room (descriptors, or too many at once)",
            ),
            (self.failed, "could not start the agent"),
            (
                self.absent,
                "never asked (began anew where no agent comes in, started with -I, -E or -S or without its environment, in another network namespace, no CPython 3.9 to 3.15, or ended before running any code)",
            ),
        ];
        let mut first = true;
        for (count, reason) in reasons.into_iter().filter(|(count, _)| *count > 0) {
            if !std::mem::replace(&mut first, false) {
                f.write_str("; ")?;
            }
            write!(f, "{count} {reason}")?;
        }
        Ok(())
    }
}

/// A connection at the door.
#[derive(Debug)]
struct Newcomer {
    pid: u32,
    user: u32,
    socket: OwnedFd,
    since: Instant,
    /// What it claims to be, if that is worth checking.
    claim: Option<(Invited, Hello)>,
}

/// A process that was admitted.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) process: Identity,
    pub(super) socket: OwnedFd,
    pub(super) hello: Hello,
    pub(super) invited: Invited,
}

/// The result for a connection.
#[derive(Debug)]
pub(super) enum Answer {
    /// It belongs to the session.
    Admitted(Box<Admitted>),
    /// It belongs to the session but cannot be traced.
    Refused(u32, AgentError),
}

/// Whether the last word of a process that has joined is that it waits no longer.
fn has_given_up(socket: &OwnedFd) -> bool {
    let packet = socket::get(socket).ok().flatten().unwrap_or_default();
    matches!(decode::<FromAgent>(&packet), Ok(FromAgent::GaveUp {}))
}

/// What the kernel says about a newcomer with a secret.
enum Verdict {
    Ours(Identity),
    /// It belongs to the session, which does not trace children.
    NotWanted,
    Gone,
    Unknown,
}

/// Where connections wait until it is known what they are.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) invitations: Arc<Invitations>,
    pub(super) lineage: Arc<Lineage>,
    /// Whether children are traced.
    follow: bool,
    waiting: BTreeMap<u64, Newcomer>,
    next: u64,
    pub(super) untraced: Untraced,
    /// Processes of the session that have left without being let in, since this was last emptied.
    pub(super) gone: Vec<u32>,
    /// Connections from outside the session.
    pub(super) strangers: u64,
}

impl Door {
    pub(super) fn new(invitations: Arc<Invitations>, lineage: Arc<Lineage>, follow: bool) -> Door {
        Door {
            invitations,
            lineage,
            follow,
            waiting: BTreeMap::new(),
            next: 0,
            untraced: Untraced::default(),
            gone: Vec::new(),
            strangers: 0,
        }
    }

    /// Takes a new connection.
    pub(super) fn knock(&mut self, socket: OwnedFd) -> Option<Answer> {
        let Ok((pid, user)) = socket::peer(&socket) else {
            self.strangers = self.strangers.saturating_add(1);
            return None;
        };
        let id = self.next;
        self.next += 1;
        let newcomer = Newcomer {
            pid,
            user,
            socket,
            since: Instant::now(),
            claim: None,
        };
        self.waiting.insert(id, newcomer);
        // Mostly the first message is already there, and a connection with a valid secret needs no room here.
        let answer = self.hear(id);
        self.make_room(user);
        answer
    }

    /// Handles a connection that has sent something, or has ended.
    pub(super) fn hear(&mut self, id: u64) -> Option<Answer> {
        let mut newcomer = self.waiting.remove(&id)?;
        if newcomer.claim.is_some() {
            // It has said everything it had to say: this can only be its end.
            return self.prove(id, newcomer);
        }
        let packet = match socket::get(&newcomer.socket) {
            Ok(None) => {
                self.waiting.insert(id, newcomer);
                return None;
            }
            Ok(Some(packet)) if !packet.is_empty() && packet.len() <= LONGEST_GREETING => packet,
            Ok(_) | Err(_) => return self.turn_away(),
        };
        let Ok(FromAgent::Joined(joined)) = decode::<FromAgent>(&packet) else {
            return self.turn_away();
        };
        let Some(invited) = self.invitations.holder(&joined.secret) else {
            return self.turn_away();
        };
        if invited == Invited::Launched {
            self.lineage.joined(newcomer.pid);
        }
        newcomer.since = Instant::now();
        newcomer.claim = Some((invited, joined.hello));
        self.prove(id, newcomer)
    }

    /// Admits a newcomer with a secret, or lets it wait for confirmation by the kernel.
    fn prove(&mut self, id: u64, newcomer: Newcomer) -> Option<Answer> {
        let (invited, hello) = newcomer.claim.as_ref()?;
        match self.verdict(&newcomer, *invited) {
            Verdict::Ours(_) if hello.protocol != PROTOCOL => {
                self.untraced.failed = self.untraced.failed.saturating_add(1);
                let error = AgentError::OtherVersion {
                    pid: newcomer.pid,
                    found: foreign::version(&hello.version),
                };
                Some(Answer::Refused(newcomer.pid, error))
            }
            Verdict::Ours(process) => Some(Answer::Admitted(Box::new(Admitted {
                process,
                invited: *invited,
                hello: newcomer.claim?.1,
                socket: newcomer.socket,
            }))),
            Verdict::NotWanted => None,
            Verdict::Gone => {
                let was_traced = invited.was_traced_to_its_end(newcomer.pid, &newcomer.socket);
                let late = u64::from(!was_traced);
                self.untraced.late = self.untraced.late.saturating_add(late);
                self.gone.push(newcomer.pid);
                None
            }
            Verdict::Unknown if newcomer.since.elapsed() < PROOF => {
                self.waiting.insert(id, newcomer);
                None
            }
            Verdict::Unknown => {
                self.untraced.unconfirmed = self.untraced.unconfirmed.saturating_add(1);
                self.gone.push(newcomer.pid);
                None
            }
        }
    }

    fn verdict(&self, newcomer: &Newcomer, invited: Invited) -> Verdict {
        // A child may have changed its user (sudo, a service that drops its privileges); we may not trace that one.
        let ours = rustix::process::geteuid();
        if !ours.is_root() && newcomer.user != ours.as_raw() {
            return Verdict::Unknown;
        }
        if socket::has_hung_up(&newcomer.socket) {
            return Verdict::Gone;
        }
        let Some(process) = socket::process(&newcomer.socket, newcomer.pid) else {
            return Verdict::Gone;
        };
        let Some(line) = self.lineage.of(process) else {
            return if self.follow {
                Verdict::Unknown
            } else {
                Verdict::NotWanted
            };
        };
        if !self.follow && line.len() > 1 {
            return Verdict::NotWanted;
        }
        let fits = line.iter().any(|ancestor| match invited {
            Invited::Launched => self.lineage.is_launched(*ancestor),
            Invited::Below(holder) => *ancestor == holder,
        });
        if fits {
            Verdict::Ours(process)
        } else {
            Verdict::Unknown
        }
    }

    fn turn_away(&mut self) -> Option<Answer> {
        self.strangers = self.strangers.saturating_add(1);
        None
    }

    /// Drops the oldest if there are too many, those without a secret first.
    fn make_room(&mut self, user: u32) {
        let of_user = self.waiting.values().filter(|it| it.user == user).count();
        if of_user > MOST_OF_A_USER || self.waiting.len() > MOST_WAITING {
            let crowded = of_user > MOST_OF_A_USER;
            let oldest = |with_claim: bool| {
                let mut fits = self.waiting.iter().filter(|(_, it)| {
                    it.claim.is_some() == with_claim && (!crowded || it.user == user)
                });
                fits.next().map(|(id, _)| *id)
            };
            if let Some(id) = oldest(false).or_else(|| oldest(true)) {
                self.crowd_out(id);
            }
        }
    }

    /// Drops every connection that has shown no secret, because descriptors have run out.
    pub(super) fn clear_out(&mut self) {
        let silent = self.waiting.iter().filter(|(_, it)| it.claim.is_none());
        let silent: Vec<u64> = silent.map(|(id, _)| *id).collect();
        for id in silent {
            self.crowd_out(id);
        }
    }

    fn crowd_out(&mut self, id: u64) {
        let Some(newcomer) = self.waiting.remove(&id) else {
            return;
        };
        if newcomer.claim.is_some() || self.is_ours(&newcomer) {
            self.untraced.crowded = self.untraced.crowded.saturating_add(1);
            self.gone.push(newcomer.pid);
        } else {
            self.strangers = self.strangers.saturating_add(1);
        }
    }

    fn is_ours(&self, newcomer: &Newcomer) -> bool {
        socket::process(&newcomer.socket, newcomer.pid)
            .is_some_and(|process| self.follow && self.lineage.of(process).is_some())
    }

    /// Checks again those that wait for confirmation by the kernel, and drops those whose time is up.
    pub(super) fn look(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        let due: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, it)| it.claim.is_some() || it.since.elapsed() >= GREETING)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(newcomer) = self.waiting.remove(&id) else {
                continue;
            };
            if newcomer.claim.is_some() {
                answers.extend(self.prove(id, newcomer));
            } else if self.is_ours(&newcomer) {
                self.untraced.late = self.untraced.late.saturating_add(1);
                self.gone.push(newcomer.pid);
            } else {
                self.strangers = self.strangers.saturating_add(1);
            }
        }
        answers
    }

    /// When to check again.
    pub(super) fn next_look(&self) -> Option<Duration> {
        let left = |it: &Newcomer| match it.claim {
            Some(_) => AGAIN,
            None => GREETING.saturating_sub(it.since.elapsed()),
        };
        self.waiting.values().map(left).min()
    }

    /// The connections to poll.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>, bool)> {
        // A connection that has spoken is not read any more, whatever else it says.
        self.waiting
            .iter()
            .map(|(id, it)| (*id, it.socket.as_fd(), it.claim.is_none()))
    }

    /// Closes the door: processes that still wait have run nothing yet and are no longer traced.
    pub(super) fn close(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for newcomer in waiting.into_values() {
            if let Some((invited, _)) = &newcomer.claim
                && socket::has_hung_up(&newcomer.socket)
                && !invited.was_traced_to_its_end(newcomer.pid, &newcomer.socket)
            {
                self.untraced.late = self.untraced.late.saturating_add(1);
                self.gone.push(newcomer.pid);
            }
        }
    }
}
