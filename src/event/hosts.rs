//! Processes of several hosts in one stream. Two hosts may give the same number to a process, so in such a stream a process is
//! known by its number and its host together, as one number: an *identity*. Whatever tells processes apart by their numbers
//! tells them apart by it, without knowing of hosts. Only what shows a number, or writes it for others, asks [`Hosts`] for it.
//!
//! In a stream of one host, which names no hosts, a number is its own identity.

use std::sync::Arc;

use super::{Event, Session, SessionHost, What};
use crate::text::Foreign;

/// Bits of a number that Linux gives to processes and threads: none of its limits allows more.
const BITS: u32 = 22;
const NUMBER: u32 = (1 << BITS) - 1;

/// Hosts of one stream at most. Their identities fit in 31 bits, which is what some formats have for a process.
pub const MOST_HOSTS: usize = 511;

/// The hosts of a stream, by the order in which its first line names them. None of a stream of one host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hosts(Arc<[HostName]>);

/// The name of a host: many rows have one, so that it is one word in each.
pub type HostName = Arc<String>;

impl Hosts {
    /// Those of a session.
    pub fn of(session: &Session) -> Hosts {
        let names = session.hosts.iter().take(MOST_HOSTS);
        Hosts(names.map(|host| Arc::new(host.name.clone())).collect())
    }

    /// Whether there are none, so that numbers are identities.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The host of a process or thread; `None` where the stream names no hosts, and of what is of none of them.
    pub fn name(&self, identity: u32) -> Option<&HostName> {
        self.0.get(place(identity)?)
    }

    /// The number that its host has for it.
    pub fn number(&self, identity: u32) -> u32 {
        match self.is_empty() {
            true => identity,
            false => number(identity),
        }
    }

    /// The identity of a number on the host at this place; `None` of numbers that Linux does not give.
    pub fn identity(place: usize, number: u32) -> Option<u32> {
        let host = u32::try_from(place + 1).ok()?;
        (number <= NUMBER && place < MOST_HOSTS).then_some(host << BITS | number)
    }

    /// The place of the host of this name.
    pub(crate) fn place_of(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|host| host.as_str() == name)
    }

    /// `42`, or `42@web1` where the stream is of several hosts.
    pub fn process(&self, identity: u32) -> String {
        let number = self.number(identity);
        match self.name(identity) {
            Some(host) => format!("{number}@{}", Foreign::new(host.as_str())),
            None => number.to_string(),
        }
    }
}

/// The place of the host of an identity.
pub(crate) fn place(identity: u32) -> Option<usize> {
    (identity >> BITS).checked_sub(1).map(|it| it as usize)
}

/// The number that its host has for an identity.
pub(crate) fn number(identity: u32) -> u32 {
    identity & NUMBER
}

/// Of a process, what stands for its whole host: the identity of no process on it. 0 of a number.
pub(crate) fn whole_host(identity: u32) -> u32 {
    identity & !NUMBER
}

/// Turns the numbers of an event into identities on the host at this place. `None` where there is one that Linux does not give.
pub(crate) fn move_to(place: usize, event: &mut Event) -> Option<()> {
    translate(event, |number| Hosts::identity(place, number))
}

/// Gives the processes and threads of an event other numbers or identities. `None` where one has none.
pub(crate) fn translate(event: &mut Event, identity: impl Fn(u32) -> Option<u32>) -> Option<()> {
    event.pid = identity(event.pid)?;
    if event.tid != 0 {
        event.tid = identity(event.tid)?;
    }
    if let What::Process {
        parent: Some(parent),
        ..
    } = &mut event.what
    {
        *parent = identity(*parent)?;
    }
    Some(())
}

/// What a first line says of clocks: `clock 12.300 ms ahead ±0.400 ms`.
pub(crate) fn clock(host: &SessionHost) -> String {
    let milliseconds = |ns: u64| format!("{:.3} ms", ns as f64 / 1e6);
    let Some(ahead) = host.clock_ahead_ns else {
        return "clock taken as it is".to_owned();
    };
    let direction = if ahead < 0 { "behind" } else { "ahead" };
    let within = host
        .clock_within_ns
        .map_or_else(String::new, |ns| format!(" ±{}", milliseconds(ns)));
    format!(
        "clock {} {direction}{within}",
        milliseconds(ahead.unsigned_abs())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ProcessChange;

    fn two() -> Hosts {
        let host = |name: &str| SessionHost {
            name: name.to_owned(),
            ..SessionHost::default()
        };
        Hosts::of(&Session {
            hosts: vec![host("a"), host("b\u{1b}[1m")],
            ..Session::default()
        })
    }

    #[test]
    fn one_number_on_two_hosts_is_two_identities_that_know_their_hosts() {
        let hosts = two();
        let [on_a, on_b] = [0, 1].map(|place| Hosts::identity(place, 42).expect("a number"));
        assert_ne!(on_a, on_b);
        assert_eq!((hosts.number(on_a), hosts.number(on_b)), (42, 42));
        assert_eq!(hosts.name(on_a).map(|it| it.as_str()), Some("a"));
        assert_eq!(hosts.process(on_a), "42@a");
        assert_eq!(hosts.process(on_b), "42@b\\u{1b}[1m");
        assert_eq!(hosts.process(7), "7", "of none of them");
    }

    #[test]
    fn without_hosts_a_number_is_itself_however_large() {
        let hosts = Hosts::of(&Session::default());
        assert_eq!(hosts.number(u32::MAX), u32::MAX);
        assert_eq!(hosts.process(u32::MAX), u32::MAX.to_string());
    }

    #[test]
    fn numbers_that_linux_does_not_give_and_hosts_beyond_the_most_have_no_identity() {
        assert_eq!(Hosts::identity(0, 1 << 22), None);
        assert_eq!(Hosts::identity(MOST_HOSTS, 1), None);
        let last = Hosts::identity(MOST_HOSTS - 1, (1 << 22) - 1).expect("the largest");
        assert!(i32::try_from(last).is_ok());
    }

    #[test]
    fn an_event_is_moved_with_its_thread_and_its_parent_and_what_is_of_no_process_to_its_host() {
        let mut event = Event {
            ts: 1,
            pid: 7,
            tid: 8,
            interpreter: None,
            what: What::Process {
                change: ProcessChange::Fork,
                parent: Some(6),
                command: None,
            },
        };
        move_to(1, &mut event).expect("numbers");
        let at = |number| Hosts::identity(1, number);
        assert_eq!((Some(event.pid), Some(event.tid)), (at(7), at(8)));
        let What::Process { parent, .. } = event.what else {
            panic!("what it was");
        };
        assert_eq!(parent, at(6));
        event.what = What::GcStart { generation: 0 };
        (event.pid, event.tid) = (0, 0);
        move_to(1, &mut event).expect("numbers");
        assert_eq!(event.tid, 0);
        assert_eq!(event.pid, whole_host(at(7).expect("a number")));
        event.pid = 1 << 22;
        assert!(move_to(1, &mut event).is_none());
    }
}
