//! What a thread waits on, looked up while it waits: afterwards a descriptor may be closed, or another one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::process::activity::{Call, Descriptor, End, Wait, Waits};

/// Sockets that are not known are looked for again after so long, and after so many times of what that takes.
const AGAIN: Duration = Duration::from_secs(1);
const SHARE: u32 = 50;

/// Looks up what the threads of a process wait on.
pub(super) struct Peers {
    pid: u32,
    waits: Waits,
    read: Instant,
    took: Duration,
}

impl Peers {
    /// Of this process.
    pub(super) fn of(pid: u32) -> Peers {
        Peers {
            pid,
            waits: Waits::of(pid),
            read: Instant::now(),
            took: Duration::ZERO,
        }
    }

    /// What a thread waits on, if it has a name. `memory` reads the memory of the process.
    pub(super) fn find(
        &mut self,
        tid: u32,
        memory: &dyn Fn(u64, usize) -> Option<Vec<u8>>,
    ) -> Option<Arc<str>> {
        let call = Call::of(self.pid, tid);
        self.look(|waits| waits.explain(tid, &call, memory))
    }

    /// What a descriptor of a thread is.
    pub(super) fn descriptor(&mut self, tid: u32, descriptor: u32) -> Option<Arc<str>> {
        self.look(|waits| Some(waits.one(tid, descriptor)))
    }

    fn look(&mut self, look: impl Fn(&Waits) -> Option<Wait>) -> Option<Arc<str>> {
        let begun = Instant::now();
        let mut wait = look(&self.waits)?;
        if matches!(wait, Wait::One(_, Descriptor::Socket(None)))
            && self.read.elapsed() > AGAIN.max(self.took * SHARE)
        {
            // It was not there when the tables were read.
            self.waits = Waits::of(self.pid);
            self.read = Instant::now();
            wait = look(&self.waits)?;
        }
        self.took = self.took.max(begun.elapsed());
        in_words(&wait).map(Into::into)
    }
}

/// The other end of a socket or the name of a file; the number of what has none.
fn in_words(wait: &Wait) -> Option<String> {
    let (number, descriptor) = match wait {
        Wait::One(number, descriptor) => (number, descriptor),
        Wait::Any(watched) => {
            return Some(format!("any of {} descriptors", watched.count));
        }
        _ => return None,
    };
    Some(match descriptor {
        Descriptor::File(path) => String::from_utf8_lossy(path).into_owned(),
        Descriptor::Pipe(_) => format!("pipe (fd {number})"),
        Descriptor::Socket(Some(socket)) => {
            let named = |end: &Option<End>| match end {
                Some(End::Internet(address)) => Some(address.to_string()),
                Some(End::Path(path)) => Some(String::from_utf8_lossy(path).into_owned()),
                None => None,
            };
            let protocol = socket.protocol;
            match (named(&socket.remote), named(&socket.local)) {
                (Some(remote), _) => format!("{protocol} {remote}"),
                (None, Some(local)) => format!("{protocol} at {local}"),
                (None, None) => format!("{protocol} socket (fd {number})"),
            }
        }
        Descriptor::Socket(None) => format!("socket (fd {number})"),
        Descriptor::Epoll(watched) => format!("epoll of {}", watched.count),
        Descriptor::Kernel(kind) => format!("{kind} (fd {number})"),
        Descriptor::Unknown => format!("fd {number}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::activity::{Socket, Watched};

    #[test]
    fn a_peer_is_told_by_its_address_and_not_by_our_own() {
        let socket = |remote: Option<&str>| {
            let end = |text: &str| End::Internet(text.parse().expect("an address"));
            let socket = Socket {
                protocol: "tcp",
                state: None,
                local: Some(end("10.0.0.1:43210")),
                remote: remote.map(end),
            };
            in_words(&Wait::One(5, Descriptor::Socket(Some(socket))))
        };
        assert_eq!(
            socket(Some("10.0.0.2:3306")).as_deref(),
            Some("tcp 10.0.0.2:3306")
        );
        assert_eq!(socket(None).as_deref(), Some("tcp at 10.0.0.1:43210"));
        let pipe = Wait::One(3, Descriptor::Pipe(99));
        assert_eq!(in_words(&pipe).as_deref(), Some("pipe (fd 3)"));
        let any = Wait::Any(Watched {
            named: Vec::new(),
            count: 4,
        });
        assert_eq!(in_words(&any).as_deref(), Some("any of 4 descriptors"));
        assert_eq!(in_words(&Wait::Sleep), None);
    }
}
