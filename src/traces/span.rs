//! A span as it is written (opentelemetry/proto/trace).

use std::num::NonZeroU64;

use super::ids::{Link, SpanId, TraceId};
use crate::analysis::requests::Ending;
use crate::event::{FieldValue, Fields, Float, Place};
use crate::otlp::{Value, attribute};
use crate::protobuf::Message;

/// `ScopeSpans.spans`.
const SPANS: u32 = 2;
const ATTRIBUTES: u32 = 9;
const INTERNAL: u64 = 1;
const ERROR: u64 = 2;

/// A call that is over.
#[derive(Debug)]
pub(super) struct Span<'a> {
    pub(super) id: SpanId,
    pub(super) parent: Option<SpanId>,
    /// The span of another trace below which it was.
    pub(super) around: Option<(TraceId, SpanId)>,
    pub(super) place: &'a Place,
    pub(super) line: i32,
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) ending: Ending,
    pub(super) thread: u32,
    /// The greenlet or task, and its name.
    pub(super) context: Option<(NonZeroU64, Option<&'a str>)>,
    pub(super) fields: Option<&'a Fields>,
    pub(super) link: Option<Link>,
    pub(super) resumptions: u64,
    /// Whether it may be another call of the function that ended.
    pub(super) doubtful: bool,
}

impl Span<'_> {
    /// All but what names its trace, which [`of_trace`] puts in front.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut span = Message::default();
        span.blob(2, &self.id.to_be_bytes());
        if let Some(parent) = self.parent {
            span.blob(4, &parent.to_be_bytes());
        }
        span.text(5, &self.place.name().text);
        span.number(6, INTERNAL);
        span.fixed(7, self.begin);
        span.fixed(8, self.end.max(self.begin));
        let name = &self.place.own_name().text;
        attribute(&mut span, ATTRIBUTES, "code.function.name", name.as_str());
        let file = self.place.file.text.as_str();
        attribute(&mut span, ATTRIBUTES, "code.file.path", file);
        if self.line > 0 {
            let line = i64::from(self.line);
            attribute(&mut span, ATTRIBUTES, "code.line.number", line);
        }
        let thread = i64::from(self.thread);
        attribute(&mut span, ATTRIBUTES, "thread.id", thread);
        if let Some((context, name)) = self.context {
            let number = context.get() as i64;
            attribute(&mut span, ATTRIBUTES, "pystap.context.id", number);
            if let Some(name) = name {
                attribute(&mut span, ATTRIBUTES, "pystap.context.name", name);
            }
        }
        for field in self.fields.into_iter().flat_map(Fields::present) {
            let name = match (self.link, &*field.name) {
                (Some(Link::Oslo), "request_id") => "openstack.request_id",
                (Some(Link::Oslo), "global_request_id") => "openstack.global_request_id",
                (_, name) => name,
            };
            write_field(&mut span, name, &field.value);
        }
        if self.resumptions > 0 {
            let resumptions = self.resumptions as i64;
            attribute(&mut span, ATTRIBUTES, "pystap.resumptions", resumptions);
        }
        if !matches!(self.ending, Ending::Returned | Ending::Exception) {
            let word = self.ending.word();
            attribute(&mut span, ATTRIBUTES, "pystap.ending", word);
        }
        if self.doubtful {
            let doubtful = Value::Flag(true);
            attribute(&mut span, ATTRIBUTES, "pystap.doubtful", doubtful);
        }
        if let Some((trace, around)) = self.around {
            span.message(13, |link| {
                link.blob(1, &trace.to_be_bytes());
                link.blob(2, &around.to_be_bytes());
            });
        }
        if self.ending == Ending::Exception {
            span.message(15, |status| {
                status.text(2, "an exception left the call");
                status.number(3, ERROR);
            });
        }
        std::mem::take(span.bytes())
    }
}

/// A value as it is. `None` is no value of OpenTelemetry's, and left out.
fn write_field(span: &mut Message, name: &str, value: &FieldValue) {
    let text;
    let value = match value {
        FieldValue::Bool(flag) => Value::Flag(*flag),
        FieldValue::Integer(number) => Value::Integer(*number),
        FieldValue::Float(Float(number)) => Value::Float(*number),
        FieldValue::Text(text) | FieldValue::Bytes(text) => Value::Text(&text.text),
        FieldValue::Other(_) => {
            text = value.to_string();
            Value::Text(&text)
        }
        FieldValue::None | FieldValue::Absent(_) => return,
    };
    attribute(span, ATTRIBUTES, name, value);
}

/// A span of this trace, as a field of a scope.
pub(super) fn of_trace(trace: TraceId, body: &[u8]) -> Vec<u8> {
    let mut scope = Message::default();
    scope.message(SPANS, |span| {
        span.blob(1, &trace.to_be_bytes());
        span.bytes().extend_from_slice(body);
    });
    std::mem::take(scope.bytes())
}
