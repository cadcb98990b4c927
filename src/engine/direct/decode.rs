//! Records of a ring as events. Knows words and what they stand for; maps no memory and asks no kernel.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use pystap_ring::fields::{self, Absent, Value};
use pystap_ring::{Code, Malformed, Record, Records};

use super::clock::Clock;
use super::dry_run::DryRun;
use super::threads::Threads;
use crate::engine::event_cost::Cost;
use crate::engine::flags;
use crate::event::allowance::Allowance;
use crate::event::loss::lost;
use crate::event::{Event, Field, FieldValue, Fields, Float, Frame, LossStage, Place, Text, What};
use crate::field;
use crate::probe::Probe;

/// Most code objects of one process that are known at a time.
const MOST_CODES: usize = 1 << 18;

/// Which records are wanted as events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kinds {
    calls: bool,
    returns: bool,
}

impl Kinds {
    /// None at all.
    pub(super) const NONE: Kinds = Kinds {
        calls: false,
        returns: false,
    };

    /// Those that such probes would tell.
    pub(super) fn of(probes: &[&str]) -> Kinds {
        Kinds {
            calls: probes.contains(&Probe::FunctionEntry.name()),
            returns: probes.contains(&Probe::FunctionReturn.name()),
        }
    }
}

/// The fields that were asked for, and what their values are called.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    fields: Arc<[(Arc<str>, field::Field)]>,
    /// Why some had no value, by field, reason and part of the path: few, and told again and again.
    absences: HashMap<(u8, Absent, u8), Arc<str>>,
}

impl Asked {
    /// These, in the order in which agents were asked for them.
    pub(super) fn new<'a>(fields: impl IntoIterator<Item = &'a field::Field>) -> Asked {
        let named = |field: &field::Field| (field.name.as_str().into(), field.clone());
        Asked {
            fields: fields.into_iter().map(named).collect(),
            absences: HashMap::new(),
        }
    }

    /// What a record says. Of what nobody has asked for there is nothing, and of each name one value: the first that there is,
    /// else why the first one has none.
    fn fields(&mut self, bytes: &[u8]) -> Fields {
        let mut all: Vec<Field> = Vec::new();
        let mut next = 0;
        for (number, value) in fields::Fields::new(bytes) {
            let asked = self.fields.get(usize::from(number));
            let Some((name, asked)) = asked.filter(|_| number >= next) else {
                continue;
            };
            next = number + 1;
            let value = match value {
                Value::None => FieldValue::None,
                Value::Bool(value) => FieldValue::Bool(value),
                Value::Integer(value) => FieldValue::Integer(value),
                Value::Float(value) => FieldValue::Float(Float(value)),
                Value::Text { bytes, is_cut } => FieldValue::Text(Text::of_bytes(bytes, is_cut)),
                Value::Bytes { bytes, is_cut } => FieldValue::Bytes(Text::of_bytes(bytes, is_cut)),
                Value::Other(name) => FieldValue::Other(String::from_utf8_lossy(name).into_owned()),
                Value::Absent(why, at) => {
                    // What is further along than the path is long is no agent's of ours.
                    let at = at.min(u8::try_from(asked.path.len()).unwrap_or(u8::MAX));
                    let absence = self.absences.entry((number, why, at));
                    let reason = absence.or_insert_with(|| asked.absence(why, at).into());
                    FieldValue::Absent(Arc::clone(reason))
                }
            };
            match all.last_mut() {
                Some(last) if last.name == *name => {
                    if matches!(last.value, FieldValue::Absent(_))
                        && !matches!(value, FieldValue::Absent(_))
                    {
                        last.value = value;
                    }
                }
                _ => all.push(Field {
                    name: Arc::clone(name),
                    value,
                }),
            }
        }
        Fields(all)
    }
}

/// Makes events of the records of one ring.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    pid: u32,
    threads: Threads,
    kinds: Kinds,
    /// Whose records they are at the moment.
    thread: u32,
    interpreter: Option<NonZeroU32>,
    context: Option<NonZeroU64>,
    /// Names of code objects, and where they begin.
    codes: HashMap<u32, (Arc<Place>, i32), foldhash::fast::RandomState>,
    /// What the next call or return has for values.
    value: Option<Arc<Text>>,
    fields: Option<Arc<Fields>>,
    /// The fields that were asked for.
    asked: Asked,
    /// Calls that are none of the program's, while they come.
    dry_run: Option<DryRun>,
    /// What an event costs, once that is told, and nothing where it is not known.
    pub(super) cost: Option<Option<Cost>>,
    /// Times never go back within a ring.
    last: u64,
    /// Records that say nothing to us.
    pub(super) unreadable: u64,
    /// Events that had no room, as far as that was told.
    pub(super) lost: u64,
    /// How many more can be.
    pub(super) most_lost: u64,
}

impl Decoder {
    /// Of the ring of this process.
    pub(super) fn new(pid: u32, kinds: Kinds) -> Decoder {
        Decoder {
            pid,
            threads: Threads::of(pid),
            kinds,
            thread: pid,
            interpreter: None,
            context: None,
            codes: HashMap::default(),
            value: None,
            fields: None,
            asked: Asked::default(),
            dry_run: None,
            cost: None,
            last: 0,
            unreadable: 0,
            lost: 0,
            most_lost: 0,
        }
    }

    /// The same where these fields were asked for.
    pub(super) fn asking(self, asked: Asked) -> Decoder {
        Decoder { asked, ..self }
    }

    /// Up to when its events were read.
    pub(super) fn reached(&self) -> u64 {
        self.last
    }

    /// Decodes records, whose clock is so many nanoseconds behind the Unix epoch, until there are as many events as have room
    /// in `out`.
    ///
    /// # Errors
    /// From what makes no sense on, nothing is known.
    pub(super) fn decode(
        &mut self,
        records: &mut Records<'_>,
        (clock, offset): (&Clock, u64),
        names: &mut Allowance,
        out: &mut Vec<Event>,
    ) -> Result<(), Malformed> {
        while out.len() < out.capacity() {
            let Some(record) = records.next_record()? else {
                break;
            };
            let (time, what) = match record {
                Record::Call { time, .. } if self.is_dry() => {
                    self.dry_run.iter_mut().for_each(|it| it.call(time));
                    (self.value, self.fields) = (None, None);
                    continue;
                }
                Record::Return { time, .. } if self.is_dry() => {
                    self.dry_run.iter_mut().for_each(|it| it.returned(time));
                    self.value = None;
                    continue;
                }
                Record::Call {
                    code,
                    line,
                    flags,
                    time,
                } if self.kinds.calls => {
                    let (line, frame) = (line_of(line), self.frame(flags));
                    let Some(place) = self.place(code) else {
                        continue;
                    };
                    (time, What::Call { place, line, frame })
                }
                Record::Return {
                    code,
                    line,
                    flags,
                    time,
                } if self.kinds.returns => {
                    let frame = self.frame(flags);
                    let Some(place) = self.place(code) else {
                        continue;
                    };
                    let what = What::Return {
                        place,
                        line: line_of(line),
                        duration_ns: None,
                        frame,
                    };
                    (time, what)
                }
                Record::Timed {
                    code,
                    line,
                    flags,
                    time,
                    began,
                } if self.kinds.returns => {
                    let frame = self.frame(flags);
                    let Some(place) = self.place(code) else {
                        continue;
                    };
                    let took = clock.nanoseconds(time).saturating_sub(clock.past(began));
                    let what = What::Return {
                        place,
                        line: line_of(line),
                        duration_ns: Some(took),
                        frame,
                    };
                    (time, what)
                }
                Record::Call { .. } | Record::Return { .. } | Record::Timed { .. } => {
                    (self.value, self.fields) = (None, None);
                    continue;
                }
                Record::GcStart { generation, time } => {
                    let generation = generation.into();
                    (time, What::GcStart { generation })
                }
                Record::GcDone { collected, time } => {
                    let what = What::GcDone {
                        generation: None,
                        collected: i64::try_from(collected).unwrap_or(i64::MAX),
                        pause_ns: None,
                    };
                    (time, what)
                }
                Record::ContextName {
                    context,
                    time,
                    name,
                } => {
                    let name = names.text(Text::of_bytes(name, false));
                    (time, What::Context { context, name })
                }
                Record::Value(value) => {
                    self.value = Some(Arc::new(Text::of_bytes(value, false)));
                    continue;
                }
                Record::Fields(bytes) => {
                    self.fields = Some(Arc::new(self.asked.fields(bytes)));
                    continue;
                }
                Record::Thread(thread) => {
                    self.thread = self.threads.ours(thread);
                    continue;
                }
                Record::Interpreter(interpreter) => {
                    self.interpreter = NonZeroU32::new(interpreter);
                    continue;
                }
                Record::Context(context) => {
                    self.context = NonZeroU64::new(context);
                    continue;
                }
                Record::Code(code) => {
                    self.define(&code, names);
                    continue;
                }
                Record::Gone(code) => {
                    self.codes.remove(&code);
                    continue;
                }
                Record::DryRun { ticks, calls } => {
                    self.dry_run = Some(DryRun::new(self.thread, ticks, calls));
                    continue;
                }
                Record::DryRunEnds => {
                    let cost = self.dry_run.take().and_then(|it| it.cost(clock));
                    self.cost = Some(cost);
                    continue;
                }
                Record::Lost(total) => {
                    let count = self.newly_lost(total);
                    if count > 0 {
                        out.push(lost(self.last, self.pid, LossStage::Ring, count));
                    }
                    continue;
                }
            };
            let ts = clock.nanoseconds(time).saturating_add(offset);
            self.last = self.last.max(ts);
            out.push(self.event(self.last, what));
        }
        Ok(())
    }

    /// Whether what comes is no event of the program.
    fn is_dry(&self) -> bool {
        let dry_run = self.dry_run.as_ref();
        dry_run.is_some_and(|it| it.thread == self.thread)
    }

    /// Of so many lost events, those that were not told yet.
    pub(super) fn newly_lost(&mut self, total: u64) -> u64 {
        let count = total.saturating_sub(self.lost).min(self.most_lost);
        self.lost = self.lost.max(total);
        self.most_lost -= count;
        count
    }

    /// The code object of this number, and its first line.
    pub(super) fn known(&self, number: u32) -> Option<(&Arc<Place>, i32)> {
        let (place, line) = self.codes.get(&number)?;
        Some((place, *line))
    }

    fn event(&self, ts: u64, what: What) -> Event {
        Event {
            ts,
            pid: self.pid,
            tid: self.thread,
            interpreter: match what {
                What::Context { .. } | What::Lost { .. } => None,
                _ => self.interpreter,
            },
            what,
        }
    }

    fn place(&mut self, code: u32) -> Option<Arc<Place>> {
        let place = self.codes.get(&code).map(|(place, _)| Arc::clone(place));
        self.unreadable += u64::from(place.is_none());
        place
    }

    fn frame(&mut self, flags: u8) -> Frame {
        Frame {
            context: self.context,
            manner: flags::manner(flags.into()),
            text: self.value.take(),
            fields: self.fields.take(),
            idle_ns: 0,
        }
    }

    fn define(&mut self, code: &Code<'_>, names: &mut Allowance) {
        if self.codes.len() >= MOST_CODES {
            return;
        }
        let is_cut = |bit: u64| code.flags & bit != 0;
        let place = Place {
            file: Text::of_bytes(code.file, is_cut(1)),
            function: Text::of_bytes(code.name, is_cut(2)),
            qualname: (!code.qualname.is_empty()).then(|| Text::of_bytes(code.qualname, is_cut(4))),
            group: None,
        };
        let first_line = line_of(code.first_line);
        (self.codes).insert(code.number, (names.place(place), first_line));
    }
}

fn line_of(line: u32) -> i32 {
    i32::try_from(line).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use pystap_agent_protocol as protocol;
    use pystap_ring::{
        CALL, CONTEXT, DRY, GC_DONE, GC_START, GONE, INTERPRETER, Mapping, RETURN, Reader, THREAD,
        TIMED,
    };
    use pystap_ring::{LostKind, Writer, head, new_memory};

    use super::*;

    /// What is made of what is written like this.
    fn heard(write: impl FnOnce(&mut Writer), decoder: &mut Decoder) -> Vec<Event> {
        let memory = new_memory(1 << 16).expect("memory");
        let mapped = || Mapping::new(&memory, 1 << 16).expect("mapped");
        let (mut writer, reader) = (Writer::new(mapped()), Reader::new(mapped()));
        write(&mut writer);
        let mut words = Vec::new();
        reader.read(u64::MAX, &mut words).expect("sound");
        let clock = Clock::new(protocol::Clock::Monotonic);
        let mut events = Vec::with_capacity(1000);
        let mut records = Records::new(&words);
        let decoded = decoder.decode(
            &mut records,
            (&clock, 1000),
            &mut Allowance::default(),
            &mut events,
        );
        decoded.expect("well formed");
        events
    }

    fn decoder() -> Decoder {
        let both = Kinds::of(&Probe::names(Probe::FUNCTIONS));
        Decoder::new(std::process::id(), both)
    }

    fn define(writer: &mut Writer, number: u32, name: &str) {
        let told = writer.define(&Code {
            number,
            flags: 4,
            first_line: 3,
            file: b"/srv/app.py",
            name: name.as_bytes(),
            qualname: b"Class.",
        });
        assert!(told);
    }

    #[test]
    fn calls_of_a_dry_run_are_no_events_and_say_what_an_event_costs() {
        let mut decoder = decoder();
        let events = heard(
            |writer| {
                define(writer, 1, "f");
                assert!(writer.put([head(THREAD, 0, 0, 77), 0]));
                // Where it is not told, a call takes 20.
                assert!(writer.put([head(DRY, 1, 0, 32), 640]));
                for call in 0..192 {
                    let begun = 1_000 + call * 120;
                    assert!(writer.put([head(CALL, 0, 3, 1), begun]));
                    if call == 100 {
                        // Another thread had the lock for a moment.
                        assert!(writer.put([head(THREAD, 0, 0, 78), 0]));
                        assert!(writer.put([head(CALL, 0, 3, 1), begun + 1]));
                        assert!(writer.put([head(THREAD, 0, 0, 77), 0]));
                    }
                    assert!(writer.put([head(RETURN, 0, 3, 1), begun + 50]));
                }
                assert!(writer.put([head(DRY, 0, 0, 0), 0]));
                assert!(writer.put([head(CALL, 0, 3, 1), 50_000]));
            },
            &mut decoder,
        );
        let told: Vec<(u32, u64)> = events.iter().map(|it| (it.tid, it.ts - 1_000)).collect();
        assert_eq!(told, [(78, 13_001), (77, 50_000)]);
        let cost = Cost {
            per_event: NonZeroU64::new(50).expect("it is not 0"),
            within_call: Some(48),
        };
        assert_eq!(decoder.cost, Some(Some(cost)));
    }

    #[test]
    fn an_agent_that_has_measured_nothing_says_so() {
        let mut decoder = decoder();
        assert_eq!(decoder.cost, None);
        heard(
            |writer| assert!(writer.put([head(DRY, 0, 0, 0), 0])),
            &mut decoder,
        );
        assert_eq!(decoder.cost, Some(None));
    }

    #[test]
    fn a_record_has_the_thread_context_value_and_names_that_were_told_before_it() {
        let events = heard(
            |writer| {
                define(writer, 1, "f");
                assert!(writer.put([head(THREAD, 0, 0, 77), 0]));
                assert!(writer.put([head(CONTEXT, 0, 0, 0), 5]));
                assert!(writer.put_with_value([head(CALL, 1, 3, 1), 10], b"[1]"));
                assert!(writer.put([head(RETURN, 4, 9, 1), 30]));
                assert!(writer.put([head(CONTEXT, 0, 0, 0), 0]));
                assert!(writer.put([head(GC_START, 0, 0, 2), 40]));
                assert!(writer.put([head(GC_DONE, 0, 0, 0), 50, 6]));
            },
            &mut decoder(),
        );
        assert!(
            events
                .iter()
                .all(|event| event.tid == 77 && event.pid == std::process::id())
        );
        let times: Vec<u64> = events.iter().map(|event| event.ts).collect();
        assert_eq!(times, [1010, 1030, 1040, 1050]);
        let What::Call { place, line, frame } = &events[0].what else {
            panic!("{events:?}");
        };
        assert_eq!((place.function.text.as_str(), *line), ("f", 3));
        let qualname = place.qualname.as_ref().expect("told");
        assert!(qualname.cut && !place.file.cut, "{place:?}");
        assert_eq!(frame.context, NonZeroU64::new(5));
        assert_eq!(frame.manner, crate::event::Manner::Suspension);
        assert_eq!(frame.text.as_ref().expect("told").text, "[1]");
        let What::Return { line, frame, .. } = &events[1].what else {
            panic!("{events:?}");
        };
        assert_eq!((*line, &frame.text), (9, &None));
        assert_eq!(frame.manner, crate::event::Manner::Exception);
        assert_eq!(events[2].what, What::GcStart { generation: 2 });
    }

    #[test]
    fn a_ring_is_that_of_the_interpreter_which_it_says_until_it_is_that_of_the_next() {
        let events = heard(
            |writer| {
                define(writer, 1, "f");
                for (time, interpreter) in [(10, 3), (20, 7)] {
                    assert!(writer.put([head(INTERPRETER, 0, 0, interpreter), 0]));
                    assert!(writer.put([head(CALL, 0, 1, 1), time]));
                    assert!(writer.put([head(GC_DONE, 0, 0, 0), time + 5, 6]));
                }
            },
            &mut decoder(),
        );
        let told: Vec<_> = (events.iter())
            .map(|event| event.interpreter.map_or(0, NonZeroU32::get))
            .collect();
        assert_eq!(told, [3, 3, 7, 7]);
    }

    #[test]
    fn what_was_never_defined_or_is_gone_is_counted_and_nothing_else_is_taken_for_it() {
        let mut decoder = decoder();
        let events = heard(
            |writer| {
                assert!(writer.put_with_value([head(CALL, 0, 1, 9), 10], b"of nobody"));
                define(writer, 1, "f");
                assert!(writer.put([head(CALL, 0, 1, 1), 20]));
                assert!(writer.put([head(GONE, 0, 0, 1), 0]));
                assert!(writer.put([head(CALL, 0, 1, 1), 30]));
            },
            &mut decoder,
        );
        assert_eq!((events.len(), decoder.unreadable), (1, 2));
        let What::Call { frame, .. } = &events[0].what else {
            panic!("{events:?}");
        };
        assert_eq!(frame.text, None);
    }

    #[test]
    fn what_had_no_room_is_lost_between_the_events_around_it() {
        let mut decoder = decoder();
        decoder.most_lost = 1_000;
        let write = |writer: &mut Writer| {
            define(writer, 1, "f");
            for lost in [0, 3, 2] {
                for _ in 0..lost {
                    writer.count_lost(LostKind::Call);
                }
                assert!(writer.put([head(CALL, 0, 1, 1), 10 * (lost + 1)]));
            }
        };
        let told: Vec<_> = heard(write, &mut decoder)
            .into_iter()
            .map(|event| match event.what {
                What::Lost { count, .. } => (event.ts, Some(count)),
                _ => (event.ts, None),
            })
            .collect();
        let expected = [
            (1010, None),
            (1010, Some(3)),
            (1040, None),
            (1040, Some(2)),
            (1040, None),
        ];
        assert_eq!(told, expected);
        assert_eq!(decoder.newly_lost(7), 2, "five were told");
        assert_eq!(decoder.newly_lost(u64::MAX), 993, "no more can be");
    }

    #[test]
    fn kinds_that_are_not_wanted_are_left_out_with_their_values() {
        let write = |writer: &mut Writer| {
            define(writer, 1, "f");
            assert!(writer.put_with_value([head(CALL, 0, 1, 1), 10], b"arguments"));
            assert!(writer.put([head(RETURN, 0, 1, 1), 20]));
        };
        let returns = Kinds::of(&[Probe::FunctionReturn.name()]);
        let events = heard(write, &mut Decoder::new(std::process::id(), returns));
        let [
            Event {
                what: What::Return { frame, .. },
                ..
            },
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        assert_eq!(frame.text, None);
    }

    #[test]
    fn what_an_agent_has_measured_has_a_duration() {
        let write = |writer: &mut Writer| {
            define(writer, 1, "f");
            assert!(writer.put_with_value([head(TIMED, 0, 5, 1), 70, 20], b"[2]"));
            // Nobody ends before they begin.
            assert!(writer.put([head(TIMED, 4, 6, 1), 80, 90]));
        };
        let told: Vec<_> = heard(write, &mut decoder())
            .into_iter()
            .map(|event| match event.what {
                What::Return {
                    line,
                    duration_ns,
                    frame,
                    ..
                } => (
                    event.ts,
                    line,
                    duration_ns,
                    frame.text.map(|it| it.text.clone()),
                ),
                other => panic!("{other:?}"),
            })
            .collect();
        let value = Some("[2]".to_owned());
        assert_eq!(told, [(1070, 5, Some(50), value), (1080, 6, Some(0), None)]);
        let calls = Kinds::of(&[Probe::FunctionEntry.name()]);
        let mut others = Decoder::new(std::process::id(), calls);
        assert!(heard(write, &mut others).is_empty());
    }

    #[test]
    fn times_never_go_back_within_a_ring() {
        let events = heard(
            |writer| {
                define(writer, 1, "f");
                for time in [10, 30, 20] {
                    assert!(writer.put([head(CALL, 0, 1, 1), time]));
                }
            },
            &mut decoder(),
        );
        let times: Vec<u64> = events.iter().map(|event| event.ts).collect();
        assert_eq!(times, [1010, 1030, 1030]);
    }

    #[test]
    fn fields_have_the_names_that_were_asked_for_and_reasons_where_they_are_missing() {
        use pystap_ring::FIELDS;
        use pystap_ring::fields::FieldsWriter;
        let asked = ["a=x.b", "c=d['e']"].map(|text| field::Field::parse(text).expect("a field"));
        let mut decoder = decoder().asking(Asked::new(&asked));
        let mut told = FieldsWriter::new(2);
        told.put(0, Value::Absent(Absent::NoAttribute, 1));
        told.put(
            1,
            Value::Text {
                bytes: b"\xff",
                is_cut: true,
            },
        );
        let told = told.bytes().expect("two").to_vec();
        // Whoever is traced may write anything: further than the path, of no field, one again.
        let mut lies = FieldsWriter::new(4);
        lies.put(0, Value::Absent(Absent::NoKey, 200));
        lies.put(0, Value::None);
        lies.put(7, Value::None);
        let lies = lies.bytes().expect("some").to_vec();
        let events = heard(
            |writer| {
                define(writer, 1, "f");
                for (time, fields) in [(10, &told), (20, &lies)] {
                    assert!(writer.put_with([head(CALL, 0, 1, 1), time], &[(FIELDS, fields)]));
                }
                assert!(writer.put([head(CALL, 0, 1, 1), 30]));
            },
            &mut decoder,
        );
        let fields: Vec<_> = (events.iter())
            .map(|event| event.fields().map_or(&[][..], |it| &it.0))
            .collect();
        let absent = |reason: &str| Field {
            name: "a".into(),
            value: FieldValue::Absent(reason.into()),
        };
        let cut = Field {
            name: "c".into(),
            value: FieldValue::Text(Text::of_bytes(b"\xff", true)),
        };
        assert_eq!(fields[0], [absent("x has no attribute \"b\""), cut]);
        assert_eq!(fields[1], [absent("x has no key \"b\"")]);
        assert!(fields[2].is_empty());
    }

    #[test]
    fn of_fields_with_one_name_the_first_that_there_is_is_told() {
        use pystap_ring::fields::FieldsWriter;
        let asked = ["id=x['id']", "id=x.id", "id=y"].map(field::Field::parse);
        let asked: Vec<_> = asked.into_iter().map(|it| it.expect("a field")).collect();
        let mut asked = Asked::new(&asked);
        let mut told = |values: [Value<'_>; 3]| {
            let mut writer = FieldsWriter::new(3);
            for (number, value) in (0..).zip(values) {
                writer.put(number, value);
            }
            asked.fields(writer.bytes().expect("three"))
        };
        let missing = || Value::Absent(Absent::NoKey, 1);
        let fields = told([missing(), Value::Integer(2), Value::Integer(3)]);
        assert_eq!(fields.get("id"), Some(&FieldValue::Integer(2)));
        assert_eq!(fields.0.len(), 1);
        let fields = told([missing(), Value::Absent(Absent::NoAttribute, 1), missing()]);
        let reason = "x has no key \"id\"".into();
        assert_eq!(fields.get("id"), Some(&FieldValue::Absent(reason)));
    }
}
