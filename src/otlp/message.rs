//! Parts of messages (opentelemetry/proto/common, resource).

use std::sync::Arc;

use crate::protobuf::Message;

/// The value of an attribute (`AnyValue`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Flag(bool),
    Integer(i64),
    Float(f64),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Value<'a> {
        Value::Text(text)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Value::Integer(number)
    }
}

/// An attribute (`KeyValue`).
pub(crate) fn attribute<'a>(
    message: &mut Message,
    field: u32,
    key: &str,
    value: impl Into<Value<'a>>,
) {
    message.message(field, |pair| {
        pair.text(1, key);
        pair.message(2, |any| match value.into() {
            Value::Text(text) => any.text(1, text),
            Value::Flag(flag) => any.number(2, u64::from(flag)),
            Value::Integer(number) => any.number(3, number as u64),
            Value::Float(number) => any.double(4, number),
        });
    });
}

/// What items are about: the attributes of a `Resource`, as they are written.
#[derive(Debug)]
pub(crate) struct Resource(Vec<u8>);

impl Resource {
    /// With these attributes.
    pub(crate) fn new(attributes: &[(&str, Value<'_>)]) -> Arc<Resource> {
        let mut message = Message::default();
        for (key, value) in attributes {
            attribute(&mut message, 1, key, *value);
        }
        Arc::new(Resource(std::mem::take(message.bytes())))
    }
}

/// Something to be sent: a repeated field of a scope as [`Message`] writes it, a metric or a span.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) resource: Arc<Resource>,
    pub(crate) bytes: Vec<u8>,
}

/// A request (`Export…ServiceRequest`, of metrics and of traces alike) with these items. Those of one resource are together where
/// they come together. Requests written one after the other are one request: it is nothing but a repeated field.
pub(crate) fn request(items: &[Item]) -> Vec<u8> {
    let mut request = Message::default();
    for items in items.chunk_by(|one, other| Arc::ptr_eq(&one.resource, &other.resource)) {
        request.message(1, |of_resource| {
            if let Some(first) = items.first() {
                of_resource.blob(1, &first.resource.0);
            }
            of_resource.message(2, |of_scope| {
                of_scope.message(1, |scope| {
                    scope.text(1, "pystap");
                    scope.text(2, env!("CARGO_PKG_VERSION"));
                });
                for item in items {
                    of_scope.bytes().extend_from_slice(&item.bytes);
                }
            });
        });
    }
    std::mem::take(request.bytes())
}
