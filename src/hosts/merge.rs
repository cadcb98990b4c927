//! Recordings of several hosts or processes as one stream, in the order of their times: a merge of streams that are each in order,
//! with one event of each in memory. An event that is earlier than one of its own stream before it comes at once, as it did there.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::io::{self, Read};

use super::clocks::Difference;
use super::names::Places;
use crate::analysis::pairing::{PairingRules, Step};
use crate::event::{Event, ProcessChange, Summary, What};
use crate::export::Sink;
use crate::recording::{Ahead, RecordingError};

/// Processes of which it is remembered that their rules were told. Of others they are told again.
const MOST_TOLD: usize = 1 << 16;

/// One of the streams.
#[derive(Debug)]
pub struct Part<R> {
    /// What is left of it.
    pub reader: Ahead<R>,
    /// Where its processes are.
    pub places: Places,
    /// By how much its clock is taken to be ahead.
    pub clock: Difference,
}

/// How a stream ended.
#[derive(Debug)]
pub enum Ending {
    /// With its summary.
    Whole,
    /// Without one.
    Cut,
    /// Where its bytes make no sense any longer.
    Unreadable(RecordingError),
    /// Where it has a process that no Linux has, or that is on none of its hosts: no pystap wrote that.
    Impossible,
}

/// What came of a stream.
#[derive(Debug)]
pub struct Told {
    /// How it ended.
    pub ending: Ending,
    /// Times of its first and its last event.
    pub span: Option<(u64, u64)>,
}

/// What came of all of them.
#[derive(Debug)]
pub struct Merged {
    /// Of each stream, in their order.
    pub parts: Vec<Told>,
    /// The last line.
    pub summary: Summary,
}

/// What comes next of a stream.
struct Head {
    event: Event,
    rules: Vec<(u32, PairingRules)>,
}

/// The rules that all streams have, or those of processes without rules of their own where the streams differ: none is broken by
/// those that expect more.
pub fn rules<R: Read + Send + 'static>(parts: &[Part<R>]) -> PairingRules {
    let all = || parts.iter().map(|part| part.reader.rules());
    PairingRules {
        call_on_creation: all().any(|rules| rules.call_on_creation),
        greenlets: all().any(|rules| rules.greenlets),
    }
}

/// Hands on all events of the streams, whose first lines were handed on already; not the end.
///
/// # Errors
/// The sink's.
pub fn merge<R: Read + Send + 'static>(
    mut parts: Vec<Part<R>>,
    sink: &mut dyn Sink,
) -> io::Result<Merged> {
    let default = rules(&parts);
    let mut told = Rules {
        needed: parts.iter().any(|part| part.reader.rules() != default),
        told: HashSet::new(),
    };
    let mut ended: Vec<Told> = parts
        .iter()
        .map(|_| Told {
            ending: Ending::Whole,
            span: None,
        })
        .collect();
    let mut heads: Vec<Option<Head>> = Vec::new();
    let mut order = BinaryHeap::new();
    for (at, (part, told)) in parts.iter_mut().zip(&mut ended).enumerate() {
        let head = next(part, told);
        order.extend(head.as_ref().map(|head| Reverse((head.event.ts, at))));
        heads.push(head);
    }
    let mut summary = Summary::default();
    let (mut first, mut last) = (None, 0);
    while let Some(Reverse((ts, at))) = order.pop() {
        let (Some(part), Some(told_of), Some(place)) =
            (parts.get_mut(at), ended.get_mut(at), heads.get_mut(at))
        else {
            continue;
        };
        let Some(Head { event, rules }) = std::mem::replace(place, next(part, told_of)) else {
            continue;
        };
        if let Some(head) = place {
            order.push(Reverse((head.event.ts, at)));
        }
        first.get_or_insert(ts);
        summary.unordered += u64::from(ts < last);
        last = last.max(ts);
        for (pid, rules) in rules {
            told.tell(pid, rules, sink)?;
        }
        told.before(&event, part.reader.rules(), sink)?;
        summary.delivered += u64::from(!matches!(event.what, What::Lost { .. }));
        sink.step(&Step::new(&event))?;
    }
    for (part, told) in parts.iter().zip(&ended) {
        join(&mut summary, part.reader.summary(), told);
    }
    summary.ts = last;
    summary.wall_ns = last.saturating_sub(first.unwrap_or(last));
    Ok(Merged {
        parts: ended,
        summary,
    })
}

/// The next event of a stream.
fn next<R: Read + Send + 'static>(part: &mut Part<R>, told: &mut Told) -> Option<Head> {
    let (mut event, rules) = match part.reader.take() {
        Ok(Some(told)) => told,
        Ok(None) => {
            if part.reader.was_cut() {
                told.ending = Ending::Cut;
            }
            return None;
        }
        Err(error) => {
            told.ending = Ending::Unreadable(error);
            return None;
        }
    };
    let rules = rules.into_iter();
    let rules = rules.filter_map(|(pid, rules)| Some((part.places.process(pid)?, rules)));
    let rules = rules.collect();
    if part.places.take(&mut event).is_none() {
        told.ending = Ending::Impossible;
        return None;
    }
    event.ts = part.clock.ours(event.ts);
    let (first, last) = told.span.unwrap_or((event.ts, event.ts));
    told.span = Some((first.min(event.ts), last.max(event.ts)));
    Some(Head { event, rules })
}

/// Which rules were told of which process, where streams differ in them.
struct Rules {
    needed: bool,
    told: HashSet<u32>,
}

impl Rules {
    fn tell(&mut self, pid: u32, rules: PairingRules, sink: &mut dyn Sink) -> io::Result<()> {
        if self.told.len() >= MOST_TOLD {
            self.told.clear();
        }
        self.told.insert(pid);
        sink.rules(pid, rules)
    }

    /// Tells those of a process before its first event. A child has those of its parent.
    fn before(
        &mut self,
        event: &Event,
        rules: PairingRules,
        sink: &mut dyn Sink,
    ) -> io::Result<()> {
        if !self.needed {
            return Ok(());
        }
        let pid = match event.what {
            What::Process {
                change: ProcessChange::Fork,
                parent: Some(parent),
                ..
            } => {
                self.told.insert(event.pid);
                parent
            }
            _ => event.pid,
        };
        match self.told.contains(&pid) {
            true => Ok(()),
            false => self.tell(pid, rules, sink),
        }
    }
}

/// Adds what a stream says of itself at its end.
fn join(all: &mut Summary, own: Option<&Summary>, told: &Told) {
    let Some(own) = own else {
        all.uncounted = true;
        return;
    };
    let sum = u64::saturating_add;
    all.lost = sum(all.lost, own.lost);
    all.skipped = sum(all.skipped, own.skipped);
    all.unparsed = sum(all.unparsed, own.unparsed);
    all.nameless = sum(all.nameless, own.nameless);
    all.untimed = sum(all.untimed, own.untimed);
    all.idle_calls = sum(all.idle_calls, own.idle_calls);
    all.idle_calls_ns = sum(all.idle_calls_ns, own.idle_calls_ns);
    all.untraced_processes = sum(all.untraced_processes, own.untraced_processes);
    all.untraced_ns = sum(all.untraced_ns, own.untraced_ns);
    all.unpaired = sum(all.unpaired, own.unpaired);
    all.uncounted |= own.uncounted || !matches!(told.ending, Ending::Whole);
    if all.ended.is_empty() {
        all.ended.clone_from(&own.ended);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::pairing::Pairing;
    use crate::analysis::testing::{call, returned};
    use crate::event::hosts::Hosts;
    use crate::event::{LossStage, Session, SessionHost};
    use crate::export::End;
    use crate::recording::{Reader, Writer};

    const PLAIN: PairingRules = PairingRules {
        call_on_creation: false,
        greenlets: false,
    };
    const GREEN: PairingRules = PairingRules {
        greenlets: true,
        ..PLAIN
    };

    fn recording(rules: PairingRules, events: &[Event], summary: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Box::new(Writer::new(&mut bytes, rules));
        writer.session(&Session::default()).expect("memory");
        for event in events {
            writer.step(&Step::new(event)).expect("memory");
        }
        let pairing = Pairing::new();
        let summary = summary.then(|| Summary {
            delivered: events.len() as u64,
            lost: 2,
            ended: "duration".to_owned(),
            ..Summary::default()
        });
        let end = End {
            summary: summary.as_ref(),
            pairing: &pairing,
        };
        writer.finish(&end).expect("memory");
        bytes
    }

    fn parts(recordings: &[Vec<u8>]) -> Vec<Part<&'static [u8]>> {
        let of = |(at, bytes): (usize, &'static [u8])| Part {
            reader: Ahead::new(Reader::new(bytes).expect("a recording")),
            places: Places::One(at),
            clock: Difference::default(),
        };
        let leaked = recordings.iter().map(|it| &*Vec::leak(it.clone()));
        leaked.enumerate().map(of).collect()
    }

    /// What comes out: events, and rules in their midst.
    #[derive(Default)]
    struct Out {
        events: Vec<Event>,
        rules: Vec<(usize, u32, PairingRules)>,
    }

    impl Sink for &mut Out {
        fn rules(&mut self, pid: u32, rules: PairingRules) -> io::Result<()> {
            self.rules.push((self.events.len(), pid, rules));
            Ok(())
        }

        fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
            self.events.push(step.event.clone());
            Ok(())
        }

        fn finish(self: Box<Self>, _: &End<'_>) -> io::Result<Option<String>> {
            Ok(None)
        }
    }

    fn merged(recordings: &[Vec<u8>]) -> (Out, Merged) {
        let mut out = Out::default();
        let merged = merge(parts(recordings), &mut &mut out).expect("memory");
        (out, merged)
    }

    /// What pairing says of each return, in order.
    fn durations(events: Vec<Event>) -> Vec<Option<u64>> {
        let mut pairing = Pairing::new();
        let mut took = Vec::new();
        for mut event in events {
            pairing.feed(&mut event);
            if let What::Return { duration_ns, .. } = event.what {
                took.push(duration_ns);
            }
        }
        took
    }

    #[test]
    fn calls_of_two_processes_with_one_number_come_in_order_and_stay_apart() {
        let a = [call(10, "f"), returned(40, "f")];
        let b = [call(20, "f"), returned(30, "f")];
        let (out, merged) = merged(&[a, b].map(|events| recording(PLAIN, &events, true)));
        let seen: Vec<(u64, u32)> = out.events.iter().map(|it| (it.ts, it.pid)).collect();
        let on = |place| Hosts::identity(place, a_pid()).expect("a number");
        assert_eq!(seen, [(10, on(0)), (20, on(1)), (30, on(1)), (40, on(0))]);
        let took = durations(out.events);
        assert_eq!(took, [Some(10), Some(30)]);
        let summary = merged.summary;
        assert_eq!(
            (summary.delivered, summary.lost, summary.unordered),
            (4, 4, 0)
        );
        assert_eq!((summary.wall_ns, &*summary.ended), (30, "duration"));
        assert!(!summary.uncounted);
        let spans: Vec<_> = merged.parts.iter().map(|part| part.span).collect();
        assert_eq!(spans, [Some((10, 40)), Some((20, 30))]);
    }

    fn a_pid() -> u32 {
        call(0, "f").pid
    }

    #[test]
    fn a_stream_that_ends_early_is_told_and_does_not_end_the_others() {
        let calls = [call(10, "f"), call(20, "g")];
        let whole = recording(PLAIN, &calls, true);
        let cut = recording(PLAIN, &calls, false);
        let mut damaged = whole.clone();
        let end = damaged.len() - 20;
        damaged[end..].fill(0xff);
        let wrong = Event {
            pid: 1 << 22,
            ..call(15, "f")
        };
        let impossible = recording(PLAIN, &[call(11, "f"), wrong], true);
        let (out, merged) = merged(&[whole, cut, damaged, impossible]);
        let endings: Vec<&Ending> = merged.parts.iter().map(|part| &part.ending).collect();
        assert!(
            matches!(
                endings[..],
                [
                    Ending::Whole,
                    Ending::Cut,
                    Ending::Unreadable(_),
                    Ending::Impossible
                ]
            ),
            "{endings:?}"
        );
        assert_eq!(out.events.len(), 7);
        assert!(merged.summary.uncounted);
    }

    #[test]
    fn where_streams_are_paired_differently_every_process_is_told_how_before_its_first_event() {
        let (out, _) = merged(&[
            recording(PLAIN, &[call(10, "f"), returned(30, "f")], true),
            recording(GREEN, &[call(20, "f")], true),
        ]);
        let on = |place| Hosts::identity(place, a_pid()).expect("a number");
        assert_eq!(out.rules, [(0, on(0), PLAIN), (1, on(1), GREEN)]);
        let alike = [0, 1].map(|_| recording(GREEN, &[call(20, "f")], true));
        assert_eq!(merged(&alike).0.rules, []);
    }

    #[test]
    fn a_loss_of_one_host_makes_no_time_of_another_doubtful() {
        let lost = Event {
            pid: 0,
            tid: 0,
            what: What::Lost {
                count: 1,
                stage: LossStage::Kernel,
                message: String::new(),
            },
            ..call(15, "f")
        };
        let a = recording(
            PLAIN,
            &[call(10, "f"), lost, call(16, "g"), returned(20, "f")],
            true,
        );
        let b = recording(PLAIN, &[call(11, "f"), returned(21, "f")], true);
        let (out, _) = merged(&[a, b]);
        let took = durations(out.events);
        assert_eq!(took, [None, Some(10)]);
    }

    #[test]
    fn times_of_a_clock_that_is_ahead_are_set_back_before_they_are_put_in_order() {
        let recordings =
            [[call(10, "f")], [call(1_005, "g")]].map(|it| recording(PLAIN, &it, true));
        let mut parts = parts(&recordings);
        parts[1].clock.ahead_ns = 1_000;
        let mut out = Out::default();
        merge(parts, &mut &mut out).expect("memory");
        let times: Vec<u64> = out.events.iter().map(|event| event.ts).collect();
        assert_eq!(times, [5, 10]);
    }

    #[test]
    fn a_stream_that_was_merged_before_keeps_its_hosts() {
        let host = |name: &str| SessionHost {
            name: name.to_owned(),
            ..SessionHost::default()
        };
        let session = Session {
            hosts: vec![host("a"), host("b")],
            ..Session::default()
        };
        let own = |place| Hosts::identity(place, 7).expect("a number");
        let event = Event {
            pid: own(1),
            tid: own(1),
            ..call(10, "f")
        };
        let mut bytes = Vec::new();
        let mut writer = Box::new(Writer::new(&mut bytes, PLAIN));
        writer.session(&session).expect("memory");
        writer.step(&Step::new(&event)).expect("memory");
        writer
            .finish(&End::new(&Summary::default(), &Pairing::new()))
            .expect("memory");
        let part = Part {
            reader: Ahead::new(Reader::new(&*Vec::leak(bytes)).expect("a recording")),
            places: Places::Several(vec![3, 2]),
            clock: Difference::default(),
        };
        let mut out = Out::default();
        merge(vec![part], &mut &mut out).expect("memory");
        assert_eq!(out.events[0].pid, own(2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn whatever_is_in_order_in_its_own_stream_is_in_order_in_all(
            steps in proptest::collection::vec(proptest::collection::vec(0..9_u64, 0..40), 1..6),
        ) {
            let recordings: Vec<Vec<u8>> = steps.iter().map(|steps| {
                let mut now = 0;
                let events: Vec<Event> = steps.iter().map(|step| {
                    now += step;
                    call(now, "f")
                }).collect();
                recording(PLAIN, &events, true)
            }).collect();
            let (out, merged) = merged(&recordings);
            let times: Vec<u64> = out.events.iter().map(|event| event.ts).collect();
            prop_assert!(times.is_sorted());
            prop_assert_eq!(times.len(), steps.iter().map(Vec::len).sum::<usize>());
            prop_assert_eq!(merged.summary.unordered, 0);
        }
    }
}
