//! What descriptors are while calls use them, looked up in /proc a few milliseconds after they were first used.
//!
//! A number means the same from one closing of it to the next, and every closing is told. So what is looked up holds between the
//! last closing that was told by then and the next one, and for no call outside.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::process::activity::{Descriptor, Descriptors, End};
use crate::waits::{Called, Touch, Touched};

/// Most descriptors that are known at a time.
const MOST: usize = 1 << 14;
/// How long a batch of them is looked up at most: the rest is never known.
const LONGEST: Duration = Duration::from_millis(2);
/// What looking up may take: a tenth of the time, since tables of sockets can be long.
const SHARE: u32 = 10;

/// By what calls are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    /// By path.
    Files,
    /// By the other end.
    Sockets,
}

/// A descriptor for a while.
#[derive(Debug)]
struct Known {
    from: u64,
    until: u64,
    /// `None` where it is nothing that is asked for.
    what: Option<Arc<str>>,
}

/// What descriptors are.
#[derive(Debug)]
pub(super) struct Objects {
    on: On,
    known: HashMap<(u32, u32), Known, RandomState>,
    /// When a descriptor was last closed.
    closed: HashMap<(u32, u32), u64, RandomState>,
    /// When a process last closed many at once.
    closed_many: HashMap<u32, u64>,
    /// When the closings of all processes were forgotten.
    all_closed: u64,
    touched: Vec<Touch>,
    /// When it may be looked up again.
    next: Instant,
    unknown: Arc<str>,
}

impl Objects {
    pub(super) fn new(on: On) -> Objects {
        Objects {
            on,
            known: HashMap::default(),
            closed: HashMap::default(),
            closed_many: HashMap::new(),
            all_closed: 0,
            touched: Vec::new(),
            next: Instant::now(),
            unknown: Arc::from("(closed before it was looked up)"),
        }
    }

    /// Takes note of what calls did with descriptors, which `told` gives, in whatever order. Looks up those that are not known,
    /// with `describe`, after which all that has happened by then is to be told, too.
    pub(super) fn look(
        &mut self,
        mut told: impl FnMut(&mut Vec<Touch>),
        mut describe: impl FnMut(u32, u32, u32) -> Descriptor,
    ) {
        let fresh = self.note(&mut told);
        if fresh.is_empty() || Instant::now() < self.next {
            return;
        }
        if self.known.len() >= MOST {
            self.known.retain(|_, known| known.until == u64::MAX);
        }
        let (begin, before) = (Instant::now(), crate::waits::now());
        let mut looked = Vec::with_capacity(fresh.len());
        for (pid, tid, fd) in fresh {
            if begin.elapsed() > LONGEST || self.known.len() + looked.len() >= MOST {
                break;
            }
            looked.push((pid, fd, describe(pid, tid, fd)));
        }
        self.next = Instant::now() + begin.elapsed() * SHARE;
        // What was closed meanwhile has been told of by now: nobody knows which was seen.
        self.note(&mut told);
        for (pid, fd, descriptor) in looked {
            let from = self.last_closed(pid, fd);
            let known = Known {
                from,
                until: u64::MAX,
                what: what(self.on, descriptor),
            };
            if from <= before {
                self.known.insert((pid, fd), known);
            }
        }
    }

    fn last_closed(&self, pid: u32, fd: u32) -> u64 {
        let own = self.closed.get(&(pid, fd)).copied().unwrap_or_default();
        let many = self.closed_many.get(&pid).copied().unwrap_or_default();
        own.max(many).max(self.all_closed)
    }

    /// Those that are used and not known.
    fn note(&mut self, told: &mut impl FnMut(&mut Vec<Touch>)) -> HashSet<(u32, u32, u32)> {
        let mut touched = std::mem::take(&mut self.touched);
        told(&mut touched);
        let mut fresh = HashSet::new();
        for touch in touched.drain(..) {
            let pid = touch.pid;
            match touch.what {
                Touched::Uses(fd) => {
                    let known = self.known.get(&(pid, fd));
                    if known.is_none_or(|known| known.until < touch.at) {
                        fresh.insert((pid, touch.tid, fd));
                    }
                }
                Touched::Closes(fd) => {
                    if self.closed.len() >= MOST {
                        // As if all had been closed now.
                        self.closed.clear();
                        self.known.clear();
                        self.all_closed = self.all_closed.max(touch.at);
                    }
                    let last = self.closed.entry((pid, fd)).or_default();
                    *last = touch.at.max(*last);
                    if let Some(known) = self.known.get_mut(&(pid, fd))
                        && known.from < touch.at
                    {
                        known.until = known.until.min(touch.at);
                    }
                }
                Touched::ClosesMany => {
                    let last = self.closed_many.entry(pid).or_default();
                    *last = touch.at.max(*last);
                    for ((owner, _), known) in &mut self.known {
                        if *owner == pid && known.from < touch.at {
                            known.until = known.until.min(touch.at);
                        }
                    }
                }
            }
        }
        self.touched = touched;
        fresh
    }

    /// What a call was about that used this descriptor at this moment: `None` where it is nothing that is asked for.
    pub(super) fn of(&self, called: &Called, fd: u32, at: u64) -> Option<Arc<str>> {
        match self.known.get(&(called.pid, fd)) {
            Some(known) if known.from <= at && at <= known.until => known.what.clone(),
            _ => Some(Arc::clone(&self.unknown)),
        }
    }
}

/// A descriptor in words, if it is what is asked for.
fn what(on: On, descriptor: Descriptor) -> Option<Arc<str>> {
    let text = match (on, descriptor) {
        (On::Files, Descriptor::File(path)) => String::from_utf8_lossy(&path).into_owned(),
        (On::Sockets, Descriptor::Socket(None)) => "a socket that no table has".to_owned(),
        (On::Sockets, Descriptor::Socket(Some(socket))) => {
            let end = |end: &End| match end {
                End::Internet(address) => address.to_string(),
                End::Path(path) => String::from_utf8_lossy(path).into_owned(),
            };
            match (&socket.remote, &socket.local) {
                (Some(remote), _) => format!("{} {}", socket.protocol, end(remote)),
                (None, Some(local)) => format!("{} at {}", socket.protocol, end(local)),
                (None, None) => format!("{} without a name", socket.protocol),
            }
        }
        (_, Descriptor::Unknown) => "(closed before it was looked up)".to_owned(),
        _ => return None,
    };
    Some(text.into())
}

/// Looks descriptors of processes up; tables of sockets are read once.
#[derive(Default)]
pub(super) struct Proc(HashMap<u32, Descriptors>);

impl Proc {
    pub(super) fn describe(&mut self, pid: u32, tid: u32, fd: u32) -> Descriptor {
        let of = self.0.entry(pid).or_insert_with(|| Descriptors::of(pid));
        of.describe(tid, fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(at: u64, what: Touched) -> Touch {
        Touch {
            pid: 1,
            tid: 1,
            at,
            what,
        }
    }

    fn at(objects: &Objects, at: u64) -> Option<String> {
        let called = Called {
            pid: 1,
            tid: 1,
            number: 0,
            arguments: [3, 0],
            entered: at,
            took_ns: 0,
            off_ns: 0,
            result: 0,
        };
        objects.of(&called, 3, at).map(|what| what.to_string())
    }

    fn look(objects: &mut Objects, first: Vec<Touch>, meanwhile: Vec<Touch>, path: &str) {
        let mut told = [meanwhile, first];
        let mut left = 2;
        objects.next = Instant::now();
        objects.look(
            |into| {
                if left > 0 {
                    left -= 1;
                    into.append(&mut told[left]);
                }
            },
            |_, _, _| Descriptor::File(path.as_bytes().to_vec()),
        );
    }

    #[test]
    fn what_is_looked_up_holds_from_one_closing_to_the_next() {
        let mut objects = Objects::new(On::Files);
        let unknown = Some("(closed before it was looked up)".to_owned());
        let named = |path: &str| Some(path.to_owned());
        assert_eq!(at(&objects, 10), unknown);
        look(
            &mut objects,
            vec![touch(10, Touched::Uses(3))],
            vec![],
            "/a",
        );
        assert_eq!(
            (at(&objects, 5), at(&objects, 10)),
            (named("/a"), named("/a"))
        );
        // Another file has its number; it was looked up after it had been closed and opened again.
        let used = vec![touch(20, Touched::Closes(3)), touch(25, Touched::Uses(3))];
        look(
            &mut objects,
            used,
            vec![touch(30, Touched::Closes(3))],
            "/c",
        );
        assert_eq!(at(&objects, 25), unknown);
        assert_eq!(at(&objects, 31), named("/c"));
        look(
            &mut objects,
            vec![touch(40, Touched::ClosesMany)],
            vec![],
            "/d",
        );
        assert_eq!(
            (at(&objects, 35), at(&objects, 45)),
            (named("/c"), unknown.clone())
        );
        // It was closed while it was looked up.
        let end = u64::MAX - 1;
        let meanwhile = vec![touch(end, Touched::Closes(3))];
        look(
            &mut objects,
            vec![touch(50, Touched::Uses(3))],
            meanwhile,
            "/e",
        );
        assert_eq!(at(&objects, 55), unknown);
    }

    #[test]
    fn a_peer_is_the_other_end_and_what_is_not_asked_for_has_no_words() {
        use crate::process::activity::Socket;
        let socket = |remote: Option<&str>| {
            Descriptor::Socket(Some(Socket {
                protocol: "tcp",
                state: None,
                local: Some(End::Internet("127.0.0.1:80".parse().expect("one"))),
                remote: remote.map(|it| End::Internet(it.parse().expect("one"))),
            }))
        };
        let told = |on, descriptor| what(on, descriptor).map(|it| it.to_string());
        assert_eq!(
            told(On::Sockets, socket(Some("10.0.0.1:5432"))),
            Some("tcp 10.0.0.1:5432".to_owned())
        );
        assert_eq!(
            told(On::Sockets, socket(None)),
            Some("tcp at 127.0.0.1:80".to_owned())
        );
        assert_eq!(told(On::Files, socket(None)), None);
        assert_eq!(told(On::Sockets, Descriptor::Pipe(1)), None);
    }
}
