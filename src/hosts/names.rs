//! Which hosts a stream is of, and what of each goes into its first line.

use std::collections::BTreeMap;

use crate::event::hosts::{self, Hosts, MOST_HOSTS};
use crate::event::{ArmedMark, Event, Session, SessionHost, SessionTarget};

/// Notes, targets and probes of all hosts that the first line has at most, each.
const MOST: usize = 10_000;

/// The first line of a merged stream, while it is put together.
#[derive(Debug, Default)]
pub struct Joined {
    session: Session,
    filters: Vec<(String, Option<String>)>,
    /// What an event takes, by each stream.
    overheads: Vec<(Option<std::num::NonZeroU64>, Option<u64>)>,
}

/// Where the processes of a stream are among the hosts of the merged one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Places {
    /// All on the host at this place.
    One(usize),
    /// A stream that was merged itself: by the places of its own hosts.
    Several(Vec<usize>),
}

impl Places {
    /// The identity of a process or thread of the stream in the merged one. `None` where there can be none.
    fn identity(&self, own: u32) -> Option<u32> {
        match self {
            Places::One(place) => Hosts::identity(*place, own),
            Places::Several(places) => {
                let place = places.get(hosts::place(own)?)?;
                Hosts::identity(*place, hosts::number(own))
            }
        }
    }

    /// Gives the processes and threads of an event those of the merged stream. `None` where one has none.
    pub fn take(&self, event: &mut Event) -> Option<()> {
        hosts::translate(event, |own| self.identity(own))
    }

    /// The process of the merged stream.
    pub fn process(&self, own: u32) -> Option<u32> {
        self.identity(own)
    }
}

/// Why a stream cannot be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {MOST_HOSTS} hosts in one stream; merge fewer")]
pub struct TooManyHosts;

impl Joined {
    /// The place of a host. One of the same name and boot is the same host; one of the same name alone gets another name, which
    /// is told.
    ///
    /// # Errors
    /// When there are too many.
    pub fn place(
        &mut self,
        mut host: SessionHost,
        renamed: &mut dyn FnMut(&str, &str),
    ) -> Result<usize, TooManyHosts> {
        let hosts = &mut self.session.hosts;
        let same = |known: &SessionHost| known.name == host.name && known.boot == host.boot;
        if let Some(place) = hosts.iter().position(same)
            && host.boot.is_some()
        {
            return Ok(place);
        }
        if hosts.len() >= MOST_HOSTS {
            return Err(TooManyHosts);
        }
        let is_taken = |name: &str| hosts.iter().any(|known| known.name == name);
        if is_taken(&host.name) {
            let mut others = (2..).map(|nth| format!("{}#{nth}", host.name));
            if let Some(other) = others.find(|name| !is_taken(name)) {
                renamed(&host.name, &other);
                host.name = other;
            }
        }
        hosts.push(host);
        Ok(hosts.len() - 1)
    }

    /// The processes of a stream that another one has been added with already.
    pub fn twice(&self, session: &Session, places: &Places) -> Vec<u32> {
        let known = |pid: &u32| self.session.targets.iter().any(|target| target.pid == *pid);
        let own = session.targets.iter();
        own.filter_map(|target| places.identity(target.pid))
            .filter(known)
            .collect()
    }

    /// Adds what a stream says of itself.
    pub fn add(&mut self, session: &Session, places: &Places) {
        let all = &mut self.session;
        all.ts = match all.ts {
            0 => session.ts,
            ts => ts.min(session.ts),
        };
        for engine in session.engine.split('+') {
            if !all.engine.split('+').any(|known| known == engine) {
                if !all.engine.is_empty() {
                    all.engine.push('+');
                }
                all.engine.push_str(engine);
            }
        }
        let names = Hosts::of(all);
        let of = match places {
            Places::One(place) => Hosts::identity(*place, 0)
                .and_then(|host| names.name(host).map(ToString::to_string)),
            Places::Several(_) => None,
        };
        let room = |length: usize| MOST.saturating_sub(length);
        let notes = session.notes.iter().take(room(all.notes.len()));
        let notes: Vec<String> = notes
            .map(|note| match &of {
                Some(host) => format!("{host}: {note}"),
                None => note.clone(),
            })
            .collect();
        all.notes.extend(notes);
        let targets = session.targets.iter().take(room(all.targets.len()));
        let targets: Vec<SessionTarget> = targets
            .filter_map(|target| {
                Some(SessionTarget {
                    pid: places.identity(target.pid)?,
                    ..target.clone()
                })
            })
            .collect();
        all.targets.extend(targets);
        let more = session.armed.iter();
        let more = more.filter(|mark| !all.armed.contains(mark));
        let more: Vec<ArmedMark> = more.take(room(all.armed.len())).cloned().collect();
        all.armed.extend(more);
        for kind in &session.events {
            if !all.events.contains(kind) {
                all.events.push(kind.clone());
            }
        }
        join_fields(&mut all.fields, &session.fields);
        let name = of.unwrap_or_default();
        self.filters.push((name, session.filter.clone()));
        self.overheads.push((
            session.overhead_ns_per_event,
            session.overhead_ns_within_call,
        ));
    }

    /// The first line so far.
    pub fn session(&self) -> Session {
        let mut session = self.session.clone();
        env!("CARGO_PKG_VERSION").clone_into(&mut session.pystap);
        let alike = self.filters.iter().all(|(_, filter)| {
            let first = self.filters.first();
            first.is_some_and(|(_, first)| first == filter)
        });
        session.filter = match alike {
            true => self.filters.first().and_then(|(_, filter)| filter.clone()),
            false => {
                let said = self.filters.iter().map(|(host, filter)| {
                    let filter = filter.as_deref().unwrap_or("all functions");
                    format!("{host}: {filter}")
                });
                Some(said.collect::<Vec<_>>().join("; "))
            }
        };
        // What an event takes is another number on each host, and only one of all is in times.
        let first = self.overheads.first().copied().unwrap_or_default();
        if self.overheads.iter().all(|overhead| *overhead == first) {
            (
                session.overhead_ns_per_event,
                session.overhead_ns_within_call,
            ) = first;
        }
        session.notes.extend(
            session
                .hosts
                .iter()
                .filter(|host| host.clock_ahead_ns.is_some())
                .map(|host| format!("{}: {}", host.name, hosts::clock(host))),
        );
        session
    }

    /// Sets what was measured of the clock of a host, and the boot and version that it said.
    pub fn learn(&mut self, place: usize, host: SessionHost) {
        if let Some(known) = self.session.hosts.get_mut(place) {
            *known = SessionHost {
                name: std::mem::take(&mut known.name),
                ..host
            };
        }
    }
}

/// Paths of one field on several hosts are joined by "or".
fn join_fields(all: &mut BTreeMap<String, String>, more: &BTreeMap<String, String>) {
    for (name, path) in more {
        all.entry(name.clone())
            .and_modify(|known| {
                if !known.split(" or ").any(|it| it == path) {
                    known.push_str(" or ");
                    known.push_str(path);
                }
            })
            .or_insert_with(|| path.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, boot: Option<&str>) -> SessionHost {
        SessionHost {
            name: name.to_owned(),
            boot: boot.map(str::to_owned),
            ..SessionHost::default()
        }
    }

    fn places(hosts: &[(&str, Option<&str>)]) -> (Vec<usize>, Vec<(String, String)>) {
        let (mut joined, mut renamed) = (Joined::default(), Vec::new());
        let mut told = |from: &str, to: &str| renamed.push((from.to_owned(), to.to_owned()));
        let places = hosts
            .iter()
            .map(|(name, boot)| joined.place(host(name, *boot), &mut told).expect("few"))
            .collect();
        (places, renamed)
    }

    #[test]
    fn one_name_and_one_boot_is_one_host_and_one_name_alone_is_another() {
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(
            places(&[("a", Some("1")), ("b", Some("2")), ("a", Some("1"))]),
            (vec![0, 1, 0], vec![])
        );
        assert_eq!(
            places(&[("a", Some("1")), ("a", Some("2")), ("a", None), ("a", None)]),
            (
                vec![0, 1, 2, 3],
                vec![pair("a", "a#2"), pair("a", "a#3"), pair("a", "a#4")]
            )
        );
    }

    #[test]
    fn more_hosts_than_there_are_identities_for_are_refused() {
        let mut joined = Joined::default();
        for number in 0..MOST_HOSTS {
            let host = host(&number.to_string(), None);
            assert_eq!(joined.place(host, &mut |_, _| {}), Ok(number));
        }
        assert_eq!(
            joined.place(host("x", None), &mut |_, _| {}),
            Err(TooManyHosts)
        );
    }

    #[test]
    fn the_first_line_says_what_each_host_does_and_what_all_do_once() {
        let mut joined = Joined::default();
        for (name, pid) in [("a", 7), ("b", 7)] {
            let place = joined.place(host(name, None), &mut |_, _| {}).expect("few");
            let session = Session {
                engine: "direct".to_owned(),
                notes: vec!["one engine".to_owned()],
                targets: vec![SessionTarget {
                    pid,
                    command: "app".to_owned(),
                    python: None,
                }],
                events: vec!["call".to_owned()],
                filter: (name == "b").then(|| "function f".to_owned()),
                ..Session::default()
            };
            joined.add(&session, &Places::One(place));
        }
        joined.learn(
            1,
            SessionHost {
                clock_ahead_ns: Some(-12_300_000),
                clock_within_ns: Some(400_000),
                ..SessionHost::default()
            },
        );
        let session = joined.session();
        let pids: Vec<u32> = session.targets.iter().map(|it| it.pid).collect();
        assert_ne!(pids[0], pids[1]);
        assert_eq!(session.engine, "direct");
        assert_eq!(session.events, ["call"]);
        assert_eq!(
            session.filter.as_deref(),
            Some("a: all functions; b: function f")
        );
        assert_eq!(
            session.notes,
            [
                "a: one engine",
                "b: one engine",
                "b: clock 12.300 ms behind ±0.400 ms"
            ]
        );
    }

    #[test]
    fn processes_of_a_stream_that_was_merged_before_keep_their_hosts_apart() {
        let places = Places::Several(vec![4, 2]);
        let own = Hosts::identity(1, 42).expect("a number");
        assert_eq!(places.process(own), Hosts::identity(2, 42));
        let unknown = Hosts::identity(7, 42).expect("a number");
        assert_eq!(places.process(unknown), None);
    }
}
