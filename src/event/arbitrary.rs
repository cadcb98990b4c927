//! Generated events for the property tests of every room that reads or writes them.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use proptest::option;
use proptest::prelude::*;

use super::hosts::{self, Hosts};
use super::{
    ArmedMark, Event, Field, FieldValue, Fields, Float, Frame, LossStage, Manner, Place, Plain,
    ProcessChange, Reason, Session, SessionHost, SessionTarget, Summary, Text, Wait, Waker, What,
};
use crate::probe::{ArgumentKind, Phase, Probe};

/// Texts as they can come from a process: any characters but NUL, with every kind of damage.
pub(crate) fn text() -> impl Strategy<Value = Text> {
    let characters = prop_oneof![
        8 => "[a-z_/.<>0-9]{0,24}",
        2 => any::<String>(),
        1 => Just("\"\\\u{1b}[31m\n\r\t\u{7f}\u{2028}\u{1f40d}".to_owned()),
    ];
    (characters, any::<bool>(), 0..8).prop_map(|(text, cut, damage)| {
        let mut text = text.replace(['\0', '\u{fffd}'], "?");
        if damage == 0 {
            text.insert(floor(&text), '\u{fffd}');
        }
        match damage {
            1 => Text {
                text: String::new(),
                cut: false,
                replaced: false,
                unreadable: true,
            },
            _ => Text {
                text,
                cut,
                replaced: damage == 0,
                unreadable: false,
            },
        }
    })
}

/// The last boundary between characters in the first half.
fn floor(text: &str) -> usize {
    (0..=text.len() / 2)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}

pub(crate) fn place() -> impl Strategy<Value = Arc<Place>> {
    (text(), text(), option::of(text())).prop_map(|(file, function, qualname)| {
        Arc::new(Place {
            file,
            function,
            qualname,
            group: None,
        })
    })
}

/// Fields that have values, as every form of events has them.
fn fields() -> impl Strategy<Value = Fields> {
    let whole = || {
        text().prop_map(|text| Text {
            unreadable: false,
            ..text
        })
    };
    let float = prop_oneof![
        any::<i32>().prop_map(|value| f64::from(value) / 4.0),
        proptest::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0]),
    ];
    let value = prop_oneof![
        Just(FieldValue::None),
        any::<bool>().prop_map(FieldValue::Bool),
        any::<i64>().prop_map(FieldValue::Integer),
        float.prop_map(|value| FieldValue::Float(Float(value))),
        whole().prop_map(FieldValue::Text),
        whole().prop_map(FieldValue::Bytes),
        text().prop_map(|text| FieldValue::Other(text.text)),
    ];
    proptest::collection::btree_map("[a-zé_]{1,8}", value, 1..4).prop_map(|fields| {
        let field = |(name, value): (String, FieldValue)| Field {
            name: name.into(),
            value,
        };
        Fields(fields.into_iter().map(field).collect())
    })
}

/// A frame, with one of these manners.
fn frame(manners: [Manner; 3]) -> impl Strategy<Value = Frame> {
    let fields = option::weighted(0.2, fields().prop_map(Arc::new));
    let context = option::of((1..u64::MAX).prop_map(|id| NonZeroU64::MIN.saturating_add(id - 1)));
    let text = option::of(text());
    let manner = proptest::sample::select(manners.to_vec());
    (context, manner, text, fields).prop_map(|(context, manner, text, fields)| Frame {
        context,
        manner,
        text: text.map(Arc::new),
        fields,
        idle_ns: 0,
    })
}

const CALLS: [Manner; 3] = [Manner::Plain, Manner::Suspension, Manner::Running];
const RETURNS: [Manner; 3] = [Manner::Plain, Manner::Suspension, Manner::Exception];

/// What any plain event can hold that its probe has.
pub(crate) fn plain() -> impl Strategy<Value = Plain> {
    let probes: Vec<Probe> = Probe::ALL
        .into_iter()
        .filter(|probe| probe.plain().is_some())
        .collect();
    let texts = (text(), text());
    let rest = (any::<i32>(), option::of(any::<u64>()));
    (proptest::sample::select(probes), texts, rest).prop_map(
        |(probe, (first, second), (number, duration_ns))| {
            let mut plain = Plain::new(probe, Arc::new(first));
            plain.texts[1] = probe.texts().nth(1).map(|_| Arc::new(second));
            plain.number = match probe.number_argument().map(|it| it.kind) {
                None => 0,
                Some(ArgumentKind::Flag { .. }) => number & 1,
                Some(_) => number,
            };
            plain.duration_ns = duration_ns.filter(|_| matches!(plain.phase(), Phase::Done(_)));
            plain
        },
    )
}

fn wait() -> impl Strategy<Value = Wait> {
    let some = || option::of(text().prop_map(Arc::new));
    let reason = option::of(proptest::sample::select(Reason::ALL.to_vec()));
    let waker = option::of(prop_oneof![
        Just(Waker::Interrupt),
        (any::<u32>(), some()).prop_map(|(tid, name)| Waker::Thread { tid, name }),
    ]);
    let times = (any::<u64>(), option::of(any::<u64>()));
    (reason, some(), some(), times, waker).prop_map(
        |(reason, syscall, on, (blocked_ns, runqueue_ns), waker)| Wait {
            reason,
            syscall,
            on,
            blocked_ns,
            runqueue_ns,
            waker,
        },
    )
}

pub(crate) fn what() -> impl Strategy<Value = What> {
    let nanoseconds = || option::of(any::<u64>());
    let module = || text().prop_map(Arc::new);
    let change = prop_oneof![
        Just(ProcessChange::Fork),
        Just(ProcessChange::Exec),
        Just(ProcessChange::Exit)
    ];
    let stage = proptest::sample::select(LossStage::ALL.to_vec());
    prop_oneof![
        (place(), any::<i32>(), frame(CALLS)).prop_map(|(place, line, frame)| What::Call {
            place,
            line,
            frame
        }),
        (
            (place(), any::<i32>(), nanoseconds()),
            (frame(RETURNS), option::of(any::<u64>()))
        )
            .prop_map(|((place, line, duration_ns), (frame, idle_ns))| {
                What::Return {
                    place,
                    line,
                    duration_ns,
                    frame: Frame {
                        idle_ns: idle_ns.unwrap_or(0),
                        ..frame
                    },
                }
            }),
        (place(), any::<i32>()).prop_map(|(place, line)| What::Line { place, line }),
        any::<i32>().prop_map(|generation| What::GcStart {
            generation: i64::from(generation)
        }),
        (option::of(any::<i64>()), any::<i64>(), nanoseconds()).prop_map(
            |(generation, collected, pause_ns)| What::GcDone {
                generation,
                collected,
                pause_ns
            }
        ),
        plain().prop_map(What::Plain),
        (any::<u64>(), module()).prop_map(|(context, name)| What::Context { context, name }),
        (change, option::of(1..u32::MAX), option::of(module())).prop_map(
            |(change, parent, command)| What::Process {
                change,
                parent,
                command
            }
        ),
        wait().prop_map(|wait| What::Wait(Box::new(wait))),
        (any::<u64>(), stage, any::<String>()).prop_map(|(count, stage, message)| What::Lost {
            count,
            stage,
            message
        }),
    ]
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let interpreter = option::of(any::<NonZeroU32>());
    let place = (any::<u64>(), any::<u32>(), any::<u32>(), interpreter);
    (place, what()).prop_map(|((ts, pid, tid, interpreter), what)| Event {
        ts,
        pid,
        tid,
        interpreter: interpreter.filter(|_| has_interpreter(&what)),
        what,
    })
}

/// Whether the agent tells of such an event in which interpreter it was.
fn has_interpreter(what: &What) -> bool {
    matches!(
        what,
        What::Call { .. } | What::Return { .. } | What::GcStart { .. } | What::GcDone { .. }
    )
}

pub(crate) fn session() -> impl Strategy<Value = Session> {
    let words = || proptest::collection::vec(any::<String>(), 0..3);
    let target = (any::<u32>(), any::<String>(), option::of(any::<String>())).prop_map(
        |(pid, command, python)| SessionTarget {
            pid,
            command,
            python,
        },
    );
    let armed = (
        any::<String>(),
        option::of(any::<String>()),
        any::<String>(),
        any::<u32>(),
    )
        .prop_map(|(image, build_id, mark, sites)| ArmedMark {
            image,
            build_id,
            mark,
            sites: sites as usize,
        });
    let targets = proptest::collection::vec(target, 0..3);
    let marks = proptest::collection::vec(armed, 0..3);
    let fields = proptest::collection::btree_map("[a-z]{1,4}", any::<String>(), 0..3);
    let filter = option::of(any::<String>());
    let place = (option::of(any::<String>()), option::of(any::<String>()));
    let clock = (option::of(any::<i64>()), option::of(any::<u64>()));
    let host = (
        option::of(any::<String>()),
        option::of(any::<String>()),
        clock,
    );
    // Nobody has two hosts of one name.
    let hosts = proptest::collection::btree_map(any::<String>(), host, 0..3);
    let hosts = hosts.prop_map(|hosts| {
        let host = |(name, (boot, pystap, (ahead, within)))| SessionHost {
            name,
            boot,
            pystap,
            clock_ahead_ns: ahead,
            clock_within_ns: within,
        };
        hosts.into_iter().map(host).collect::<Vec<_>>()
    });
    (
        any::<u64>(),
        words(),
        targets,
        marks,
        words(),
        fields,
        filter,
        ((place, hosts), (any::<u64>(), option::of(any::<u64>()))),
    )
        .prop_map(
            |(
                ts,
                notes,
                mut targets,
                armed,
                events,
                fields,
                filter,
                (((host, boot), hosts), (overhead, within)),
            )| {
                if !hosts.is_empty() {
                    for target in &mut targets {
                        target.pid = hosts::number(target.pid);
                        target.pid = Hosts::identity(0, target.pid).unwrap_or_default();
                    }
                }
                Session {
                    ts,
                    pystap: "0.1.0".to_owned(),
                    engine: "stap".to_owned(),
                    notes,
                    targets,
                    armed,
                    events,
                    fields,
                    filter,
                    host,
                    boot,
                    hosts,
                    overhead_ns_per_event: NonZeroU64::new(overhead),
                    overhead_ns_within_call: within,
                }
            },
        )
}

pub(crate) fn summary() -> impl Strategy<Value = Summary> {
    let numbers = proptest::array::uniform12(any::<u64>());
    let rest = (any::<bool>(), any::<String>(), option::of(any::<i32>()));
    let idle = option::of((1..=u64::MAX, any::<u64>()));
    let overhead = (any::<u64>(), option::of(any::<u64>()));
    (numbers, rest, idle, overhead).prop_map(|(numbers, rest, idle, (overhead, within))| {
        let (uncounted, ended, command_status) = rest;
        let (idle_calls, idle_calls_ns) = idle.unwrap_or_default();
        let [
            ts,
            delivered,
            lost,
            skipped,
            unparsed,
            unordered,
            untraced_processes,
            untraced_ns,
            nameless,
            untimed,
            unpaired,
            wall_ns,
        ] = numbers;
        Summary {
            ts,
            delivered,
            lost,
            skipped,
            unparsed,
            uncounted,
            unordered,
            untraced_processes,
            untraced_ns,
            nameless,
            untimed,
            idle_calls,
            idle_calls_ns,
            unpaired,
            wall_ns,
            ended,
            command_status,
            overhead_ns_per_event: NonZeroU64::new(overhead),
            overhead_ns_within_call: within,
        }
    })
}
