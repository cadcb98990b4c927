//! Events as JSON, one object per line: written by hand for speed, read with serde. The shape is the one that
//! `schema.json` describes; tests hold the two together. No I/O: bytes in, bytes out.

use std::collections::{BTreeMap, HashSet};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::allowance::{Allowance, place_bytes};
use super::hosts::{self, Hosts};
use super::{
    ArmedMark, Event, Field, FieldValue, Fields, Float, Frame, LossStage, Manner, Place, Plain,
    ProcessChange, Reason, SCHEMA_VERSION, Session, SessionHost, SessionTarget, Summary, Text,
    Wait, Waker, What,
};
use crate::probe::{ArgumentKind, Phase, Probe};
use crate::text::{json_escape, obeyed};

/// Places whose JSON is remembered. A slot is found by the address of the place, so two may compete for one.
const SLOTS: usize = 4096;
/// Longest remembered piece of JSON; longer ones are written anew each time, so that memory stays small.
const MAX_REMEMBERED: usize = 1024;
/// Bytes of the places that a reader keeps to share between events.
const MAX_SHARED: usize = 16 << 20;

/// Writes events as lines of JSON. Remembers the JSON of places it has written, which are most of most lines.
#[derive(Debug)]
pub struct Writer {
    slots: Vec<Option<Remembered>>,
    hosts: Hosts,
}

#[derive(Debug)]
struct Remembered {
    /// Kept so that the address cannot come to mean another place.
    place: Arc<Place>,
    json: Box<[u8]>,
}

impl Default for Writer {
    fn default() -> Self {
        Writer::new()
    }
}

impl Writer {
    /// A writer that has written nothing.
    pub fn new() -> Writer {
        let mut slots = Vec::new();
        slots.resize_with(SLOTS, || None);
        Writer {
            slots,
            hosts: Hosts::default(),
        }
    }

    /// Takes note of the hosts of the stream whose events are written.
    pub fn begin(&mut self, session: &Session) {
        self.hosts = Hosts::of(session);
    }

    /// Appends the event as one line, newline included.
    pub fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"event\":\"");
        out.extend_from_slice(event.what.kind().as_bytes());
        out.extend_from_slice(b"\",\"ts\":");
        number(event.ts, out);
        let (pid, tid) = (self.hosts.number(event.pid), self.hosts.number(event.tid));
        if let Some(host) = self.hosts.name(event.pid) {
            member("host", host, out);
        }
        if pid != 0 {
            out.extend_from_slice(b",\"pid\":");
            number(pid, out);
        }
        if tid != 0 {
            out.extend_from_slice(b",\"tid\":");
            number(tid, out);
        }
        if let Some(interpreter) = event.interpreter {
            out.extend_from_slice(b",\"interpreter\":");
            number(interpreter.get(), out);
        }
        match &event.what {
            What::Call { place, line, frame } => {
                self.place_of(frame, &CALL, place, out);
                out.extend_from_slice(b",\"line\":");
                number(*line, out);
                frame_json(frame, &CALL, out);
            }
            What::Line { place, line } => {
                self.place(place, out);
                out.extend_from_slice(b",\"line\":");
                number(*line, out);
            }
            What::Return {
                place,
                line,
                duration_ns,
                frame,
            } => {
                self.place_of(frame, &RETURN, place, out);
                out.extend_from_slice(b",\"line\":");
                number(*line, out);
                if let Some(duration) = duration_ns {
                    out.extend_from_slice(b",\"duration_ns\":");
                    number(*duration, out);
                }
                if frame.idle_ns > 0 {
                    out.extend_from_slice(b",\"idle_ns\":");
                    number(frame.idle_ns, out);
                }
                frame_json(frame, &RETURN, out);
            }
            What::GcStart { generation } => {
                out.extend_from_slice(b",\"generation\":");
                number(*generation, out);
            }
            What::GcDone {
                generation,
                collected,
                pause_ns,
            } => {
                if let Some(generation) = generation {
                    out.extend_from_slice(b",\"generation\":");
                    number(*generation, out);
                }
                out.extend_from_slice(b",\"collected\":");
                number(*collected, out);
                if let Some(pause) = pause_ns {
                    out.extend_from_slice(b",\"pause_ns\":");
                    number(*pause, out);
                }
            }
            What::Plain(plain) => plain_json(plain, out),
            What::Context { context, name } => {
                out.extend_from_slice(b",\"context\":");
                number(*context, out);
                texts(&[("name", name)], out);
            }
            What::Process {
                change,
                parent,
                command,
            } => {
                out.extend_from_slice(b",\"change\":\"");
                out.extend_from_slice(change.word().as_bytes());
                out.push(b'"');
                if let Some(parent) = parent {
                    out.extend_from_slice(b",\"parent\":");
                    number(self.hosts.number(*parent), out);
                }
                if let Some(command) = command {
                    texts(&[("command", command)], out);
                }
            }
            What::Wait(wait) => wait_json(wait, out),
            What::Lost {
                count,
                stage,
                message,
            } => {
                out.extend_from_slice(b",\"count\":");
                number(*count, out);
                out.extend_from_slice(b",\"where\":\"");
                out.extend_from_slice(stage.word().as_bytes());
                out.extend_from_slice(b"\",\"message\":");
                string(message, out);
            }
        }
        out.extend_from_slice(b"}\n");
    }

    /// The place of a call or return. The arrays of what was altered are about all strings of an event, so where its value is
    /// among them, what is remembered of its place will not do.
    fn place_of(&mut self, frame: &Frame, words: &Words, place: &Arc<Place>, out: &mut Vec<u8>) {
        let Some(value) = frame.text.as_ref().filter(|value| is_altered(value)) else {
            return self.place(place, out);
        };
        let mut fields = place_fields(place);
        fields.push((words.text, value));
        texts(&fields, out);
    }

    fn place(&mut self, place: &Arc<Place>, out: &mut Vec<u8>) {
        let address = Arc::as_ptr(place) as usize as u64;
        // The low bits of an address are all alike; the top bits of a product depend on every bit.
        let slot = (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize;
        let Some(slot) = self.slots.get_mut(slot) else {
            return place_json(place, out);
        };
        match slot {
            Some(known) if Arc::ptr_eq(&known.place, place) => out.extend_from_slice(&known.json),
            _ => {
                let start = out.len();
                place_json(place, out);
                if let Some(json) = out.get(start..)
                    && json.len() <= MAX_REMEMBERED
                {
                    *slot = Some(Remembered {
                        place: Arc::clone(place),
                        json: json.into(),
                    });
                }
            }
        }
    }
}

/// Appends the first line of a stream.
pub fn session(session: &Session, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event\":\"session\",\"ts\":");
    number(session.ts, out);
    out.extend_from_slice(b",\"schema\":");
    number(SCHEMA_VERSION, out);
    member("pystap", &session.pystap, out);
    member("engine", &session.engine, out);
    out.extend_from_slice(b",\"notes\":");
    list(&session.notes, out, |note, out| string(note, out));
    out.extend_from_slice(b",\"targets\":");
    let hosts = Hosts::of(session);
    list(&session.targets, out, |target, out| {
        out.extend_from_slice(b"{\"pid\":");
        number(hosts.number(target.pid), out);
        if let Some(host) = hosts.name(target.pid) {
            member("host", host, out);
        }
        member("command", &target.command, out);
        if let Some(python) = &target.python {
            member("python", python, out);
        }
        out.push(b'}');
    });
    out.extend_from_slice(b",\"armed\":");
    list(&session.armed, out, |armed, out| {
        out.extend_from_slice(b"{\"image\":");
        string(&armed.image, out);
        if let Some(build_id) = &armed.build_id {
            member("build_id", build_id, out);
        }
        member("mark", &armed.mark, out);
        out.extend_from_slice(b",\"sites\":");
        number(armed.sites, out);
        out.push(b'}');
    });
    out.extend_from_slice(b",\"events\":");
    list(&session.events, out, |event, out| string(event, out));
    for (at, (name, path)) in session.fields.iter().enumerate() {
        out.extend_from_slice(if at == 0 { b",\"field_paths\":{" } else { b"," });
        string(name, out);
        out.push(b':');
        string(path, out);
    }
    if !session.fields.is_empty() {
        out.push(b'}');
    }
    if let Some(filter) = &session.filter {
        member("filter", filter, out);
    }
    if let Some(host) = &session.host {
        member("host", host, out);
    }
    if let Some(boot) = &session.boot {
        member("boot", boot, out);
    }
    if !session.hosts.is_empty() {
        key("hosts", out);
        list(&session.hosts, out, host_json);
    }
    overhead(
        session.overhead_ns_per_event,
        session.overhead_ns_within_call,
        out,
    );
    out.extend_from_slice(b"}\n");
}

/// What events cost, where that is known.
fn overhead(per_event: Option<NonZeroU64>, within_call: Option<u64>, out: &mut Vec<u8>) {
    if let Some(per_event) = per_event {
        key("overhead_ns_per_event", out);
        number(per_event.get(), out);
    }
    if let Some(within) = within_call {
        key("overhead_ns_within_call", out);
        number(within, out);
    }
}

fn host_json(host: &SessionHost, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"name\":");
    string(&host.name, out);
    if let Some(boot) = &host.boot {
        member("boot", boot, out);
    }
    if let Some(pystap) = &host.pystap {
        member("pystap", pystap, out);
    }
    if let Some(ahead) = host.clock_ahead_ns {
        key("clock_ahead_ns", out);
        number(ahead, out);
    }
    if let Some(within) = host.clock_within_ns {
        key("clock_within_ns", out);
        number(within, out);
    }
    out.push(b'}');
}

/// Appends the last line of a stream.
pub fn summary(summary: &Summary, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event\":\"summary\",\"ts\":");
    number(summary.ts, out);
    for (name, value) in [
        ("delivered", summary.delivered),
        ("lost", summary.lost),
        ("skipped", summary.skipped),
        ("unparsed", summary.unparsed),
        ("unordered", summary.unordered),
        ("unpaired", summary.unpaired),
        ("wall_ns", summary.wall_ns),
    ] {
        key(name, out);
        number(value, out);
    }
    if summary.nameless > 0 {
        key("nameless", out);
        number(summary.nameless, out);
    }
    if summary.untimed > 0 {
        key("untimed", out);
        number(summary.untimed, out);
    }
    if summary.idle_calls > 0 {
        key("idle_calls", out);
        number(summary.idle_calls, out);
        key("idle_calls_ns", out);
        number(summary.idle_calls_ns, out);
    }
    if summary.uncounted {
        out.extend_from_slice(b",\"uncounted\":true");
    }
    if summary.untraced_processes > 0 {
        key("untraced_processes", out);
        number(summary.untraced_processes, out);
    }
    if summary.untraced_ns > 0 {
        key("untraced_ns", out);
        number(summary.untraced_ns, out);
    }
    member("ended", &summary.ended, out);
    if let Some(status) = summary.command_status {
        key("command_status", out);
        number(status, out);
    }
    overhead(
        summary.overhead_ns_per_event,
        summary.overhead_ns_within_call,
        out,
    );
    out.extend_from_slice(b"}\n");
}

fn number(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `,"name":`, where the name needs no escapes.
fn key(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn member(name: &str, value: &str, out: &mut Vec<u8>) {
    key(name, out);
    string(value, out);
}

fn list<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

fn place_json(place: &Place, out: &mut Vec<u8>) {
    texts(&place_fields(place), out);
}

fn place_fields(place: &Place) -> Vec<(&'static str, &Text)> {
    let mut fields = vec![("file", &place.file), ("function", &place.function)];
    fields.extend(place.qualname.as_ref().map(|name| ("qualname", name)));
    fields
}

fn is_altered(text: &Text) -> bool {
    text.cut || text.replaced || text.unreadable
}

/// What the parts of a frame are called in an event: its text, and the words for its manner.
struct Words {
    text: &'static str,
    manners: [(Manner, &'static str); 2],
}

const CALL: Words = Words {
    text: "arguments",
    manners: [
        (Manner::Suspension, "resumed"),
        (Manner::Running, "running"),
    ],
};
const RETURN: Words = Words {
    text: "value",
    manners: [
        (Manner::Suspension, "suspended"),
        (Manner::Exception, "raised"),
    ],
};

impl Words {
    fn of(&self, manner: Manner) -> Option<&'static str> {
        let known = self.manners.iter().find(|(it, _)| *it == manner);
        known.map(|(_, word)| *word)
    }

    fn manner(&self, word: Option<&str>) -> Result<Manner, ReadError> {
        let Some(word) = word else {
            return Ok(Manner::Plain);
        };
        let known = self.manners.iter().find(|(_, known)| *known == word);
        known
            .map(|(manner, _)| *manner)
            .ok_or_else(|| ReadError::UnknownWord {
                field: "how",
                word: word.to_owned(),
            })
    }
}

/// How a frame came to run or to stop, in the word that stands for it; `None` where nothing does.
pub(crate) fn how(what: &What) -> Option<&'static str> {
    let (words, frame) = match what {
        What::Call { frame, .. } => (&CALL, frame),
        What::Return { frame, .. } => (&RETURN, frame),
        _ => return None,
    };
    words.of(frame.manner)
}

fn frame_json(frame: &Frame, words: &Words, out: &mut Vec<u8>) {
    if let Some(context) = frame.context {
        out.extend_from_slice(b",\"context\":");
        number(context.get(), out);
    }
    if let Some(word) = words.of(frame.manner) {
        member("how", word, out);
    }
    // One that was altered stands with the other strings.
    if let Some(text) = frame.text.as_ref().filter(|text| !is_altered(text)) {
        member(words.text, &text.text, out);
    }
    if let Some(fields) = &frame.fields {
        fields_json(fields, out);
    }
}

/// What is said of fields beside their values.
mod note {
    pub(super) const CUT: &str = "cut";
    pub(super) const REPLACED: &str = "replaced";
    pub(super) const BYTES: &str = "bytes";
    pub(super) const NOT_FINITE: &str = "not finite";
    /// The type of the value follows.
    pub(super) const NOT_PLAIN: &str = "not a plain value: ";
}

/// The fields that have values, as an object, and another one with what is to be said of some.
fn fields_json(fields: &Fields, out: &mut Vec<u8>) {
    let mut is_first = true;
    for Field { name, value } in fields.present() {
        out.extend_from_slice(if is_first { b",\"fields\":{" } else { b"," });
        is_first = false;
        string(name, out);
        out.push(b':');
        field_json(value, out);
    }
    if is_first {
        return;
    }
    out.push(b'}');
    let mut is_first = true;
    for Field { name, value } in fields.present() {
        let notes = notes(value);
        if notes.is_empty() {
            continue;
        }
        out.extend_from_slice(if is_first {
            b",\"field_notes\":{"
        } else {
            b","
        });
        is_first = false;
        string(name, out);
        out.push(b':');
        list(&notes, out, |note, out| string(note, out));
    }
    if !is_first {
        out.push(b'}');
    }
}

fn field_json(value: &FieldValue, out: &mut Vec<u8>) {
    match value {
        FieldValue::None | FieldValue::Other(_) | FieldValue::Absent(_) => {
            out.extend_from_slice(b"null");
        }
        FieldValue::Bool(true) => out.extend_from_slice(b"true"),
        FieldValue::Bool(false) => out.extend_from_slice(b"false"),
        FieldValue::Integer(value) => number(*value, out),
        FieldValue::Float(value) => match value.word() {
            Some(word) => string(word, out),
            // As serde_json does it: a point, or an exponent.
            None => out.extend_from_slice(Value::from(value.0).to_string().as_bytes()),
        },
        FieldValue::Text(text) | FieldValue::Bytes(text) => string(&text.text, out),
    }
}

/// What is to be said of fields, by their names: what of their values is missing, and why they have none.
pub(crate) fn field_notes(fields: &Fields) -> Value {
    let said = |Field { name, value }: &Field| {
        let said: Vec<String> = match value {
            FieldValue::Absent(reason) => vec![reason.to_string()],
            _ => notes(value),
        };
        (!said.is_empty()).then(|| (name.to_string(), said.into()))
    };
    Value::Object(fields.0.iter().filter_map(said).collect())
}

/// The values of fields by their names, as they stand in an event.
pub(crate) fn fields(fields: &Fields) -> Value {
    let value = |field: &Field| {
        let mut bytes = Vec::new();
        field_json(&field.value, &mut bytes);
        // What was written just now is read again.
        let value = serde_json::from_slice(&bytes).unwrap_or_default();
        (field.name.to_string(), value)
    };
    Value::Object(fields.present().map(value).collect())
}

fn notes(value: &FieldValue) -> Vec<String> {
    let mut notes = Vec::new();
    match value {
        FieldValue::Other(name) => notes.push(format!("{}{name}", note::NOT_PLAIN)),
        FieldValue::Float(value) if value.word().is_some() => {
            notes.push(note::NOT_FINITE.to_owned());
        }
        FieldValue::Text(text) | FieldValue::Bytes(text) => {
            let all = [
                (matches!(value, FieldValue::Bytes(_)), note::BYTES),
                (text.cut, note::CUT),
                (text.replaced, note::REPLACED),
            ];
            let said = all.into_iter().filter(|(is_so, _)| *is_so);
            notes.extend(said.map(|(_, note)| note.to_owned()));
        }
        _ => {}
    }
    notes
}

/// A field as it stands in a line; nothing for what no version has written so far.
fn field_value(value: Value, notes: &[String]) -> Option<FieldValue> {
    let is = |note: &str| notes.iter().any(|it| it == note);
    Some(match value {
        Value::Null => match notes.iter().find_map(|it| it.strip_prefix(note::NOT_PLAIN)) {
            Some(name) => FieldValue::Other(name.to_owned()),
            None => FieldValue::None,
        },
        Value::Bool(value) => FieldValue::Bool(value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => FieldValue::Integer(value),
            (None, Some(value)) => FieldValue::Float(Float(value)),
            (None, None) => return None,
        },
        Value::String(text) if is(note::NOT_FINITE) => FieldValue::Float(Float::of_word(&text)?),
        Value::String(text) => {
            let text = Text {
                text,
                cut: is(note::CUT),
                replaced: is(note::REPLACED),
                unreadable: false,
            };
            match is(note::BYTES) {
                true => FieldValue::Bytes(text),
                false => FieldValue::Text(text),
            }
        }
        Value::Array(_) | Value::Object(_) => return None,
    })
}

fn plain_json(plain: &Plain, out: &mut Vec<u8>) {
    let fields: Vec<(&str, &Text)> = plain.fields().map(|(name, text)| (name, &**text)).collect();
    texts(&fields, out);
    if let Some((argument, value)) = plain.number() {
        key(argument.field, out);
        match argument.kind {
            ArgumentKind::Flag { .. } if value == 0 => out.extend_from_slice(b"false"),
            ArgumentKind::Flag { .. } => out.extend_from_slice(b"true"),
            _ => number(value, out),
        }
    }
    if let Some(duration) = plain.duration_ns {
        out.extend_from_slice(b",\"duration_ns\":");
        number(duration, out);
    }
}

fn wait_json(wait: &Wait, out: &mut Vec<u8>) {
    member("reason", wait.word(), out);
    key("blocked_ns", out);
    number(wait.blocked_ns, out);
    if let Some(time) = wait.runqueue_ns {
        key("runqueue_ns", out);
        number(time, out);
    }
    let mut fields: Vec<(&str, &Text)> = Vec::new();
    fields.extend(wait.syscall.as_deref().map(|text| ("syscall", text)));
    fields.extend(wait.on.as_deref().map(|text| ("on", text)));
    match &wait.waker {
        Some(Waker::Thread { tid, name }) => {
            member("woken_by", "thread", out);
            key("waker_tid", out);
            number(*tid, out);
            fields.extend(name.as_deref().map(|text| ("waker", text)));
        }
        Some(Waker::Interrupt) => member("woken_by", Wait::INTERRUPT, out),
        None => {}
    }
    texts(&fields, out);
}

/// Strings from the traced process, with the arrays that say which of them were altered.
fn texts(fields: &[(&str, &Text)], out: &mut Vec<u8>) {
    for (name, text) in fields {
        member(name, &text.text, out);
    }
    altered("cut", fields, |text| text.cut, out);
    altered("replaced", fields, |text| text.replaced, out);
    altered("unreadable", fields, |text| text.unreadable, out);
}

fn altered(how: &str, fields: &[(&str, &Text)], is: fn(&Text) -> bool, out: &mut Vec<u8>) {
    let mut opened = false;
    for (name, _) in fields.iter().filter(|(_, text)| is(text)) {
        if opened {
            out.push(b',');
        } else {
            key(how, out);
            out.push(b'[');
            opened = true;
        }
        string(name, out);
    }
    if opened {
        out.push(b']');
    }
}

/// A JSON string: quotes, backslashes, control characters and what else a terminal obeys escaped, everything else as it is.
fn string(value: &str, out: &mut Vec<u8>) {
    if value.is_ascii() {
        return ascii(value, out);
    }
    out.push(b'"');
    for character in value.chars() {
        match character {
            '\x20'..'\x7f' if !escaped(character as u8) => out.push(character as u8),
            '\0'..='\x7f' => escape(character as u8, out),
            _ if obeyed(character) => out.extend_from_slice(json_escape(character).as_bytes()),
            _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// What most names are.
fn ascii(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for run in value.as_bytes().split_inclusive(|&byte| escaped(byte)) {
        match run.split_last() {
            Some((&last, plain)) if escaped(last) => {
                out.extend_from_slice(plain);
                escape(last, out);
            }
            _ => out.extend_from_slice(run),
        }
    }
    out.push(b'"');
}

fn escaped(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f || byte == b'"' || byte == b'\\'
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        control => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(control >> 4)]);
            out.push(HEX[usize::from(control & 15)]);
        }
    }
}

/// One line of a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// The first line.
    Session(Session),
    /// Everything between.
    Event(Event),
    /// The last line.
    Summary(Summary),
}

/// Why a line could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not one JSON object with fields of the right types.
    #[error(
        "this line is not a pystap event and cannot be used ({0}); read a file that `pystap trace --format json -p PID` wrote"
    )]
    Malformed(#[from] serde_json::Error),
    /// A field that the kind needs is absent.
    #[error(
        "this `{kind}` event has no `{field}` and cannot be used; read a file that `pystap trace --format json -p PID` wrote"
    )]
    Missing {
        /// The event's kind.
        kind: String,
        /// The absent field.
        field: &'static str,
    },
    /// A kind or a word that this version does not know.
    #[error(
        "`{word}` is not a known `{field}`, so the event cannot be used; read the file with the pystap that wrote it"
    )]
    UnknownWord {
        /// The field.
        field: &'static str,
        /// What stands there.
        word: String,
    },
    /// The stream has another version of the schema.
    #[error(
        "the file has schema version {found} and this pystap reads version {SCHEMA_VERSION}, so it cannot be used; \
         read it with the pystap that wrote it"
    )]
    OtherSchema {
        /// The version in the session line.
        found: u32,
    },
}

/// Reads lines back into events. Places are shared between events as they were when written. Fields that are not
/// known are passed over, because fields may be added within a schema version.
#[derive(Debug, Default)]
pub struct Reader {
    places: HashSet<Arc<Place>>,
    /// Bytes of these.
    shared: usize,
    allowance: Allowance,
    /// Those of the session that was read.
    hosts: Hosts,
}

impl Reader {
    /// A reader that has read nothing.
    pub fn new() -> Reader {
        Reader::default()
    }

    /// Reads one line, with or without its newline.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when the line is not what [`Writer`], [`session`] or [`summary`] write in this version.
    pub fn read(&mut self, line: &str) -> Result<Line, ReadError> {
        let flat: Flat = serde_json::from_str(line)?;
        match flat.event.as_str() {
            "session" => {
                let session = flat.session()?;
                self.hosts = Hosts::of(&session);
                Ok(Line::Session(session))
            }
            "summary" => flat.summary().map(Line::Summary),
            _ => self.event(flat, line).map(Line::Event),
        }
    }

    fn event(&mut self, mut flat: Flat, line: &str) -> Result<Event, ReadError> {
        let what = match flat.event.as_str() {
            "call" => What::Call {
                place: self.place(&mut flat)?,
                line: flat.need(flat.line, "line")?,
                frame: flat.frame(&CALL)?,
            },
            "return" => What::Return {
                place: self.place(&mut flat)?,
                line: flat.need(flat.line, "line")?,
                duration_ns: flat.duration_ns,
                frame: flat.frame(&RETURN)?,
            },
            "line" => What::Line {
                place: self.place(&mut flat)?,
                line: flat.need(flat.line, "line")?,
            },
            "gc_start" => What::GcStart {
                generation: flat.need(flat.generation, "generation")?,
            },
            "gc_done" => What::GcDone {
                generation: flat.generation,
                collected: flat.need(flat.collected, "collected")?,
                pause_ns: flat.pause_ns,
            },
            "context" => What::Context {
                context: flat.need(flat.context, "context")?,
                name: self.allowance.text(flat.text("name")?),
            },
            "process" => What::Process {
                change: word(
                    "change",
                    flat.need(flat.change.clone(), "change")?,
                    [
                        ProcessChange::Fork,
                        ProcessChange::Exec,
                        ProcessChange::Exit,
                    ],
                    ProcessChange::word,
                )?,
                parent: flat.parent,
                command: match flat.command {
                    Some(_) => Some(self.allowance.text(flat.text("command")?)),
                    None => None,
                },
            },
            "wait" => What::Wait(Box::new(self.wait(&mut flat)?)),
            "lost" => What::Lost {
                count: flat.need(flat.count, "count")?,
                stage: word(
                    "where",
                    flat.need(flat.stage.clone(), "where")?,
                    LossStage::ALL,
                    LossStage::word,
                )?,
                message: flat.need(flat.message.clone(), "message")?,
            },
            name => match Probe::of_event(name) {
                Some(probe) => What::Plain(self.plain(probe, &flat, line)?),
                None => {
                    return Err(ReadError::UnknownWord {
                        field: "event",
                        word: flat.event,
                    });
                }
            },
        };
        let mut event = Event {
            ts: flat.ts,
            pid: flat.pid,
            tid: flat.tid,
            interpreter: flat.interpreter.and_then(NonZeroU32::new),
            what,
        };
        if !self.hosts.is_empty()
            && let Some(host) = flat.host
        {
            let moved = self.hosts.place_of(&host);
            moved
                .and_then(|place| hosts::move_to(place, &mut event))
                .ok_or(ReadError::UnknownWord {
                    field: "host",
                    word: host,
                })?;
        }
        Ok(event)
    }

    /// What the table says of the probe is read once more, by name: such events are few.
    fn plain(&mut self, probe: Probe, flat: &Flat, line: &str) -> Result<Plain, ReadError> {
        let mut fields: serde_json::Map<String, Value> = serde_json::from_str(line)?;
        let mut take = |field| fields.remove(field).filter(|value| !value.is_null());
        let mut plain = Plain {
            probe,
            texts: [None, None],
            number: 0,
            duration_ns: None,
        };
        for (argument, text) in probe.texts().zip(&mut plain.texts) {
            let value = flat.need(take(argument.field), argument.field)?;
            let told = flat.told(argument.field, serde_json::from_value(value)?);
            *text = Some(self.allowance.text(told));
        }
        if let Some(argument) = probe.number_argument() {
            let value = flat.need(take(argument.field), argument.field)?;
            plain.number = match argument.kind {
                ArgumentKind::Flag { .. } => i32::from(serde_json::from_value::<bool>(value)?),
                _ => serde_json::from_value(value)?,
            };
        }
        if let Phase::Done(_) = plain.phase() {
            plain.duration_ns = flat.duration_ns;
        }
        Ok(plain)
    }

    fn wait(&mut self, flat: &mut Flat) -> Result<Wait, ReadError> {
        let told = flat.reason.take();
        let told = flat.need(told, "reason")?;
        let reason = match told.as_str() {
            Wait::RUN_QUEUE => None,
            _ => Some(word("reason", told, Reason::ALL, Reason::word)?),
        };
        let mut text = |flat: &mut Flat, field| {
            let text = flat.optional_text(field);
            text.map(|text| self.allowance.text(text))
        };
        let waker = match flat.woken_by.take().as_deref() {
            None => None,
            Some("thread") => Some(Waker::Thread {
                tid: flat.need(flat.waker_tid, "waker_tid")?,
                name: text(flat, "waker"),
            }),
            Some(Wait::INTERRUPT) => Some(Waker::Interrupt),
            Some(other) => {
                return Err(ReadError::UnknownWord {
                    field: "woken_by",
                    word: other.to_owned(),
                });
            }
        };
        Ok(Wait {
            reason,
            syscall: text(flat, "syscall"),
            on: text(flat, "on"),
            blocked_ns: flat.need(flat.blocked_ns, "blocked_ns")?,
            runqueue_ns: flat.runqueue_ns,
            waker,
        })
    }

    fn place(&mut self, flat: &mut Flat) -> Result<Arc<Place>, ReadError> {
        let place = Place {
            file: flat.text("file")?,
            function: flat.text("function")?,
            qualname: match flat.qualname {
                Some(_) => Some(flat.text("qualname")?),
                None => None,
            },
            group: None,
        };
        if let Some(known) = self.places.get(&place) {
            return Ok(Arc::clone(known));
        }
        self.shared += place_bytes(&place);
        if self.shared > MAX_SHARED {
            self.places.clear();
            self.shared = place_bytes(&place);
        }
        let place = self.allowance.place(place);
        self.places.insert(Arc::clone(&place));
        Ok(place)
    }
}

fn word<T: Copy, const N: usize>(
    field: &'static str,
    found: String,
    known: [T; N],
    word: fn(T) -> &'static str,
) -> Result<T, ReadError> {
    known
        .into_iter()
        .find(|&value| word(value) == found)
        .ok_or(ReadError::UnknownWord { field, word: found })
}

/// Every field of every kind, as they stand in a line.
#[derive(Debug, Deserialize)]
struct Flat {
    event: String,
    ts: u64,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    tid: u32,
    interpreter: Option<u32>,
    file: Option<String>,
    function: Option<String>,
    qualname: Option<String>,
    context: Option<u64>,
    how: Option<String>,
    arguments: Option<String>,
    value: Option<String>,
    fields: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    field_notes: BTreeMap<String, Vec<String>>,
    line: Option<i32>,
    duration_ns: Option<u64>,
    idle_ns: Option<u64>,
    generation: Option<i64>,
    collected: Option<i64>,
    pause_ns: Option<u64>,
    name: Option<String>,
    change: Option<String>,
    parent: Option<u32>,
    command: Option<String>,
    count: Option<u64>,
    #[serde(rename = "where")]
    stage: Option<String>,
    message: Option<String>,
    reason: Option<String>,
    syscall: Option<String>,
    on: Option<String>,
    blocked_ns: Option<u64>,
    runqueue_ns: Option<u64>,
    woken_by: Option<String>,
    waker_tid: Option<u32>,
    waker: Option<String>,
    #[serde(default)]
    cut: Vec<String>,
    #[serde(default)]
    replaced: Vec<String>,
    #[serde(default)]
    unreadable: Vec<String>,
    schema: Option<u32>,
    pystap: Option<String>,
    engine: Option<String>,
    notes: Option<Vec<String>>,
    targets: Option<Vec<FlatTarget>>,
    armed: Option<Vec<FlatArmed>>,
    events: Option<Vec<String>>,
    #[serde(default)]
    field_paths: BTreeMap<String, String>,
    filter: Option<String>,
    host: Option<String>,
    boot: Option<String>,
    #[serde(default)]
    hosts: Vec<FlatHost>,
    overhead_ns_per_event: Option<NonZeroU64>,
    overhead_ns_within_call: Option<u64>,
    delivered: Option<u64>,
    lost: Option<u64>,
    skipped: Option<u64>,
    unparsed: Option<u64>,
    uncounted: Option<bool>,
    unordered: Option<u64>,
    untraced_processes: Option<u64>,
    untraced_ns: Option<u64>,
    nameless: Option<u64>,
    untimed: Option<u64>,
    idle_calls: Option<u64>,
    idle_calls_ns: Option<u64>,
    unpaired: Option<u64>,
    wall_ns: Option<u64>,
    ended: Option<String>,
    command_status: Option<i32>,
}

#[derive(Debug, Deserialize)]
struct FlatHost {
    name: String,
    boot: Option<String>,
    pystap: Option<String>,
    clock_ahead_ns: Option<i64>,
    clock_within_ns: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct FlatTarget {
    pid: u32,
    host: Option<String>,
    command: String,
    python: Option<String>,
}

#[derive(Debug, Deserialize)]
struct FlatArmed {
    image: String,
    build_id: Option<String>,
    mark: String,
    sites: usize,
}

impl Flat {
    fn need<T>(&self, value: Option<T>, field: &'static str) -> Result<T, ReadError> {
        value.ok_or_else(|| ReadError::Missing {
            kind: self.event.clone(),
            field,
        })
    }

    fn text(&mut self, field: &'static str) -> Result<Text, ReadError> {
        let value = match field {
            "file" => self.file.take(),
            "function" => self.function.take(),
            "qualname" => self.qualname.take(),
            "name" => self.name.take(),
            "arguments" => self.arguments.take(),
            "value" => self.value.take(),
            _ => self.command.take(),
        };
        let text = self.need(value, field)?;
        Ok(self.told(field, text))
    }

    /// A text of a wait, if it is there.
    fn optional_text(&mut self, field: &'static str) -> Option<Text> {
        let text = match field {
            "syscall" => self.syscall.take(),
            "on" => self.on.take(),
            _ => self.waker.take(),
        };
        text.map(|text| self.told(field, text))
    }

    /// A text with what happened to it on the way.
    fn told(&self, field: &str, text: String) -> Text {
        let named = |list: &[String]| list.iter().any(|name| name == field);
        Text {
            text,
            cut: named(&self.cut),
            replaced: named(&self.replaced),
            unreadable: named(&self.unreadable),
        }
    }

    fn frame(&mut self, words: &Words) -> Result<Frame, ReadError> {
        let has_text = match words.text {
            "arguments" => self.arguments.is_some(),
            _ => self.value.is_some(),
        };
        let text = match has_text {
            true => Some(Arc::new(self.text(words.text)?)),
            false => None,
        };
        Ok(Frame {
            context: self.context.and_then(NonZeroU64::new),
            manner: words.manner(self.how.as_deref())?,
            text,
            fields: self.fields(),
            idle_ns: self.idle_ns.unwrap_or(0),
        })
    }

    fn fields(&mut self) -> Option<Arc<Fields>> {
        let notes = &self.field_notes;
        let fields = self.fields.take()?.into_iter().filter_map(|(name, value)| {
            let notes = notes.get(&name).map_or(&[][..], Vec::as_slice);
            let value = field_value(value, notes)?;
            let name = name.into();
            Some(Field { name, value })
        });
        Some(Arc::new(Fields(fields.collect())))
    }

    fn session(mut self) -> Result<Session, ReadError> {
        let found = self.need(self.schema, "schema")?;
        if found != SCHEMA_VERSION {
            return Err(ReadError::OtherSchema { found });
        }
        let host = |host: FlatHost| SessionHost {
            name: host.name,
            boot: host.boot,
            pystap: host.pystap,
            clock_ahead_ns: host.clock_ahead_ns,
            clock_within_ns: host.clock_within_ns,
        };
        let flat_hosts = std::mem::take(&mut self.hosts).into_iter();
        let hosts: Vec<SessionHost> = flat_hosts.map(host).collect();
        let place = |name: String| hosts.iter().position(|host| host.name == name);
        let target = |target: FlatTarget| SessionTarget {
            pid: (target.host.and_then(place))
                .and_then(|place| Hosts::identity(place, target.pid))
                .unwrap_or(target.pid),
            command: target.command,
            python: target.python,
        };
        let armed = |armed: FlatArmed| ArmedMark {
            image: armed.image,
            build_id: armed.build_id,
            mark: armed.mark,
            sites: armed.sites,
        };
        let (targets, marks) = (self.targets.take(), self.armed.take());
        let (pystap, engine) = (self.pystap.take(), self.engine.take());
        let (notes, events) = (self.notes.take(), self.events.take());
        Ok(Session {
            ts: self.ts,
            pystap: self.need(pystap, "pystap")?,
            engine: self.need(engine, "engine")?,
            notes: self.need(notes, "notes")?,
            targets: self
                .need(targets, "targets")?
                .into_iter()
                .map(target)
                .collect(),
            armed: self.need(marks, "armed")?.into_iter().map(armed).collect(),
            events: self.need(events, "events")?,
            fields: std::mem::take(&mut self.field_paths),
            filter: self.filter.take(),
            host: self.host.take(),
            boot: self.boot.take(),
            hosts,
            overhead_ns_per_event: self.overhead_ns_per_event,
            overhead_ns_within_call: self.overhead_ns_within_call,
        })
    }

    fn summary(mut self) -> Result<Summary, ReadError> {
        let ended = self.ended.take();
        Ok(Summary {
            ts: self.ts,
            delivered: self.need(self.delivered, "delivered")?,
            lost: self.need(self.lost, "lost")?,
            skipped: self.need(self.skipped, "skipped")?,
            unparsed: self.need(self.unparsed, "unparsed")?,
            uncounted: self.uncounted.unwrap_or(false),
            unordered: self.unordered.unwrap_or(0),
            untraced_processes: self.untraced_processes.unwrap_or(0),
            untraced_ns: self.untraced_ns.unwrap_or(0),
            nameless: self.nameless.unwrap_or(0),
            untimed: self.untimed.unwrap_or(0),
            idle_calls: self.idle_calls.unwrap_or(0),
            idle_calls_ns: self.idle_calls_ns.unwrap_or(0),
            unpaired: self.need(self.unpaired, "unpaired")?,
            wall_ns: self.need(self.wall_ns, "wall_ns")?,
            ended: self.need(ended, "ended")?,
            command_status: self.command_status,
            overhead_ns_per_event: self.overhead_ns_per_event,
            overhead_ns_within_call: self.overhead_ns_within_call,
        })
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
