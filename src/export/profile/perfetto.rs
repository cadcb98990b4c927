//! Traces as Perfetto has them itself: packets of Protocol Buffers, written one after the other, so that what is there of a file that
//! was cut can be read.
//!
//! Times are differences to the packet before, by a clock that the format provides for that; only what goes back in time has its
//! time in full. Names of calls are written once, and told by number from then on. When there are too many of them all numbers
//! are taken back, which the format provides, too, and begin anew.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::slices::{About, Pen, Scope, Slice, Slices};
use super::timeline::Ending;
use super::tracks::Row;
use crate::analysis::keys::KeyBuilder;
use crate::event::Session;
use crate::protobuf::Message;

/// Writes packets.
pub type Perfetto<W> = Slices<W, Packets>;

/// Names that have numbers at a time.
const MOST_NAMES: usize = 1 << 16;
/// Levels of objects within objects that are written of an argument.
const DEEPEST_ARGUMENT: usize = 8;

// Numbers of the fields of Perfetto's messages, and of what they say.
const PACKET: u32 = 1;

const CLOCK_SNAPSHOT: u32 = 6;
const TIMESTAMP: u32 = 8;
const SEQUENCE: u32 = 10;
const TRACK_EVENT: u32 = 11;
const INTERNED_DATA: u32 = 12;
const SEQUENCE_FLAGS: u32 = 13;
const CLOCK_OF_TIMESTAMP: u32 = 58;
const DEFAULTS: u32 = 59;
const TRACK_DESCRIPTOR: u32 = 60;

/// The numbers of names are taken back. That packets need them is not said in each, as it is where packets can be lost: in a file
/// none is.
const STATE_CLEARED: u64 = 1;

const CLOCK: u32 = 1;
const CLOCK_ID: u32 = 1;
const CLOCK_TIMESTAMP: u32 = 2;
const CLOCK_IS_INCREMENTAL: u32 = 3;
const REALTIME: u64 = 1;
/// The one that is meant where none is named.
const BOOTTIME: u64 = 6;
/// The first of those that whoever writes may have.
const DIFFERENCES: u64 = 64;

const TRACK_UUID: u32 = 1;
const TRACK_NAME: u32 = 2;
const TRACK_PROCESS: u32 = 3;
const TRACK_THREAD: u32 = 4;
const TRACK_PARENT: u32 = 5;
const TRACK_COUNTER: u32 = 8;
const TRACK_MERGES: u32 = 15;
/// Tracks with one name are several.
const MERGES_NEVER: u64 = 2;
const PROCESS_PID: u32 = 1;
const PROCESS_NAME: u32 = 6;
const THREAD_PID: u32 = 1;
const THREAD_TID: u32 = 2;
const THREAD_NAME: u32 = 5;
const COUNTER_UNIT: u32 = 3;
const UNIT_COUNT: u64 = 2;

const EVENT_CATEGORY_NUMBER: u32 = 3;
const EVENT_ANNOTATION: u32 = 4;
const EVENT_KIND: u32 = 9;
const EVENT_NAME_NUMBER: u32 = 10;
const EVENT_TRACK: u32 = 11;
const EVENT_CATEGORY: u32 = 22;
const EVENT_NAME: u32 = 23;
const EVENT_COUNTER_VALUE: u32 = 30;
const EVENT_SOURCE_NUMBER: u32 = 34;
const BEGIN: u64 = 1;
const END: u64 = 2;
const INSTANT: u64 = 3;
const COUNTER: u64 = 4;

const INTERNED_CATEGORY: u32 = 1;
const INTERNED_NAME: u32 = 2;
const INTERNED_SOURCE: u32 = 4;
const INTERNED_NUMBER: u32 = 1;
const INTERNED_TEXT: u32 = 2;
const SOURCE_FILE: u32 = 2;
const SOURCE_FUNCTION: u32 = 3;
const SOURCE_LINE: u32 = 4;

const ANNOTATION_BOOL: u32 = 2;
const ANNOTATION_INTEGER: u32 = 4;
const ANNOTATION_DOUBLE: u32 = 5;
const ANNOTATION_TEXT: u32 = 6;
const ANNOTATION_NAME: u32 = 10;
const ANNOTATION_ENTRY: u32 = 11;
const ANNOTATION_ITEM: u32 = 12;

/// The only sequence of packets.
const OURS: u64 = 1;
/// The number of the category of calls.
const CALL: u64 = 1;
/// Tracks that are no rows have the number of their process, or none, above the numbers of rows.
const EVERYTHING: u64 = 1 << 32;
const OF_PROCESS: u64 = 2 << 32;
const COUNTERS: u64 = 3 << 32;

/// Packets on their way to the output.
#[derive(Debug, Default)]
pub struct Packets {
    written: Message,
    /// What the clock of differences shows.
    now: u64,
    /// Functions by their keys, with the numbers of their names.
    names: HashMap<u64, u64, KeyBuilder>,
    /// Processes with a counter, as many as there is room for.
    counters: HashSet<u32, KeyBuilder>,
    tells_everything: bool,
}

impl Packets {
    /// A packet of something that happened at this time.
    fn put(&mut self, ts: u64, fill: impl FnOnce(&mut Message)) {
        let later = ts.checked_sub(self.now);
        if later.is_some() {
            self.now = ts;
        }
        self.written.message(PACKET, |packet| {
            match later {
                Some(later) => packet.number(TIMESTAMP, later),
                None => {
                    packet.number(TIMESTAMP, ts);
                    packet.number(CLOCK_OF_TIMESTAMP, BOOTTIME);
                }
            }
            packet.number(SEQUENCE, OURS);
            fill(packet);
        });
    }

    /// Begins to number names, and to tell times by differences.
    fn clear_state(&mut self) {
        self.names.clear();
        let now = self.now;
        self.written.message(PACKET, |packet| {
            packet.message(CLOCK_SNAPSHOT, |snapshot| {
                for clock in [REALTIME, BOOTTIME, DIFFERENCES] {
                    snapshot.message(CLOCK, |it| {
                        it.number(CLOCK_ID, clock);
                        it.number(CLOCK_TIMESTAMP, now);
                        if clock == DIFFERENCES {
                            it.number(CLOCK_IS_INCREMENTAL, 1);
                        }
                    });
                }
            });
            packet.number(SEQUENCE, OURS);
            packet.message(INTERNED_DATA, |data| {
                data.message(INTERNED_CATEGORY, |category| {
                    category.number(INTERNED_NUMBER, CALL);
                    category.text(INTERNED_TEXT, "call");
                });
            });
            packet.number(SEQUENCE_FLAGS, STATE_CLEARED);
            packet.message(DEFAULTS, |defaults| {
                defaults.number(CLOCK_OF_TIMESTAMP, DIFFERENCES)
            });
        });
    }

    fn track(&mut self, fill: impl FnOnce(&mut Message)) {
        self.written.message(PACKET, |packet| {
            packet.number(SEQUENCE, OURS);
            packet.message(TRACK_DESCRIPTOR, fill);
        });
    }

    /// The number of a function's name and place, and whether it is new.
    fn name(&mut self, slice: &Slice) -> (u64, bool) {
        if let Some(&number) = self.names.get(&slice.key.number()) {
            return (number, false);
        }
        if self.names.len() >= MOST_NAMES {
            self.clear_state();
        }
        let number = self.names.len() as u64 + 1;
        self.names.insert(slice.key.number(), number);
        (number, true)
    }
}

fn uuid(row: Row) -> u64 {
    u64::from(row.number)
}

fn of_process(pid: u32) -> u64 {
    OF_PROCESS | u64::from(pid)
}

/// Arguments that are an object's.
fn annotate(event: &mut Message, field: u32, args: &Map<String, Value>, levels: usize) {
    for (name, value) in args {
        if !value.is_null() {
            event.message(field, |annotation| {
                annotation.text(ANNOTATION_NAME, name);
                annotation_value(annotation, value, levels);
            });
        }
    }
}

fn annotation_value(annotation: &mut Message, value: &Value, levels: usize) {
    match value {
        Value::Null => {}
        Value::Bool(it) => annotation.number(ANNOTATION_BOOL, u64::from(*it)),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => annotation.number(ANNOTATION_INTEGER, integer as u64),
            (None, Some(double)) => annotation.double(ANNOTATION_DOUBLE, double),
            (None, None) => annotation.text(ANNOTATION_TEXT, &number.to_string()),
        },
        Value::String(text) => annotation.text(ANNOTATION_TEXT, text),
        Value::Object(object) if levels > 0 => {
            annotate(annotation, ANNOTATION_ENTRY, object, levels - 1);
        }
        Value::Array(items) if levels > 0 => {
            for item in items {
                annotation.message(ANNOTATION_ITEM, |it| annotation_value(it, item, levels - 1));
            }
        }
        Value::Object(_) | Value::Array(_) => annotation.text(ANNOTATION_TEXT, &value.to_string()),
    }
}

/// What begins, or is an instant.
fn describe(event: &mut Message, about: &About<'_>) {
    event.text(EVENT_CATEGORY, about.category);
    event.text(EVENT_NAME, about.name);
    if let Value::Object(args) = about.args {
        annotate(event, EVENT_ANNOTATION, args, DEEPEST_ARGUMENT);
    }
}

impl Pen for Packets {
    // The trace processor passes over begins below a depth of 512 and not over their ends, which then end what is above. Some are
    // left for what happens within calls.
    const DEEPEST: usize = 480;

    fn begin(&mut self, _session: &Session, ts: u64) {
        self.now = ts;
        self.clear_state();
    }

    fn process(&mut self, pid: u32, name: &str) {
        self.track(|track| {
            track.number(TRACK_UUID, of_process(pid));
            track.message(TRACK_PROCESS, |process| {
                process.number(PROCESS_PID, u64::from(pid));
                process.text(PROCESS_NAME, name);
            });
        });
    }

    fn appears(&mut self, row: Row, of: Option<Row>, name: &str) {
        self.named(row, of, name);
    }

    fn named(&mut self, row: Row, of: Option<Row>, name: &str) {
        self.track(|track| {
            track.number(TRACK_UUID, uuid(row));
            match of {
                None => track.message(TRACK_THREAD, |thread| {
                    thread.number(THREAD_PID, u64::from(row.pid));
                    thread.number(THREAD_TID, row.tid);
                    thread.text(THREAD_NAME, name);
                }),
                Some(of) => {
                    track.number(TRACK_PARENT, uuid(of));
                    track.text(TRACK_NAME, name);
                    track.number(TRACK_MERGES, MERGES_NEVER);
                }
            }
        });
    }

    fn opens(&mut self, row: Row, slice: &Slice) {
        let (number, new) = self.name(slice);
        self.put(slice.since, |packet| {
            if new {
                let (name, file) = (slice.place.name().to_string(), slice.place.file.to_string());
                packet.message(INTERNED_DATA, |data| {
                    data.message(INTERNED_NAME, |it| {
                        it.number(INTERNED_NUMBER, number);
                        it.text(INTERNED_TEXT, &name);
                    });
                    data.message(INTERNED_SOURCE, |it| {
                        it.number(INTERNED_NUMBER, number);
                        it.text(SOURCE_FILE, &file);
                        it.text(SOURCE_FUNCTION, &name);
                        if let Some(line) = slice.line.and_then(|line| u64::try_from(line).ok()) {
                            it.number(SOURCE_LINE, line);
                        }
                    });
                });
            }
            packet.message(TRACK_EVENT, |event| {
                event.number(EVENT_KIND, BEGIN);
                event.number(EVENT_TRACK, uuid(row));
                event.number(EVENT_CATEGORY_NUMBER, CALL);
                event.number(EVENT_NAME_NUMBER, number);
                event.number(EVENT_SOURCE_NUMBER, number);
                if let Some(Value::Object(fields)) = slice.fields() {
                    annotate(event, EVENT_ANNOTATION, &fields, DEEPEST_ARGUMENT);
                }
            });
        });
    }

    fn closes(&mut self, row: Row, slice: &Slice, ts: u64, ending: Ending) {
        self.put(ts, |packet| {
            packet.message(TRACK_EVENT, |event| {
                event.number(EVENT_KIND, END);
                event.number(EVENT_TRACK, uuid(row));
                if let Some(words) = ending.words() {
                    event.message(EVENT_ANNOTATION, |annotation| {
                        annotation.text(ANNOTATION_NAME, "ends");
                        annotation.text(ANNOTATION_TEXT, words);
                    });
                }
                if let Some(Value::Object(fields)) = slice.later_fields() {
                    annotate(event, EVENT_ANNOTATION, &fields, DEEPEST_ARGUMENT);
                }
            });
        });
    }

    fn complete(&mut self, row: Row, (begin, end): (u64, u64), about: &About<'_>) {
        self.put(begin, |packet| {
            packet.message(TRACK_EVENT, |event| {
                event.number(EVENT_KIND, BEGIN);
                event.number(EVENT_TRACK, uuid(row));
                describe(event, about);
            });
        });
        self.put(end, |packet| {
            packet.message(TRACK_EVENT, |event| {
                event.number(EVENT_KIND, END);
                event.number(EVENT_TRACK, uuid(row));
            });
        });
    }

    fn instant(&mut self, of: Scope, ts: u64, about: &About<'_>) {
        let track = match of {
            Scope::Thread(row) => uuid(row),
            Scope::Process(pid) => of_process(pid),
            Scope::All(_) => EVERYTHING,
        };
        if track == EVERYTHING && !std::mem::replace(&mut self.tells_everything, true) {
            self.track(|it| {
                it.number(TRACK_UUID, EVERYTHING);
                it.text(TRACK_NAME, "events lost");
            });
        }
        self.put(ts, |packet| {
            packet.message(TRACK_EVENT, |event| {
                event.number(EVENT_KIND, INSTANT);
                event.number(EVENT_TRACK, track);
                describe(event, about);
            });
        });
    }

    fn count(&mut self, pid: u32, ts: u64, what: &'static str, number: i64) {
        let uuid = COUNTERS | u64::from(pid);
        if self.counters.len() < MOST_NAMES && self.counters.insert(pid) {
            self.track(|track| {
                track.number(TRACK_UUID, uuid);
                track.number(TRACK_PARENT, of_process(pid));
                track.text(TRACK_NAME, what);
                track.message(TRACK_COUNTER, |counter| {
                    counter.number(COUNTER_UNIT, UNIT_COUNT)
                });
            });
        }
        if self.counters.contains(&pid) {
            self.put(ts, |packet| {
                packet.message(TRACK_EVENT, |event| {
                    event.number(EVENT_KIND, COUNTER);
                    event.number(EVENT_TRACK, uuid);
                    event.number(EVENT_COUNTER_VALUE, number as u64);
                });
            });
        }
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        self.written.bytes()
    }
}
