//! Parts of messages (opentelemetry/proto/common, resource).

use crate::protobuf::Message;

/// An attribute with a text (`KeyValue`).
pub(crate) fn attribute(message: &mut Message, field: u32, key: &str, value: &str) {
    message.message(field, |pair| {
        pair.text(1, key);
        pair.message(2, |any| any.text(1, value));
    });
}

/// A request (`Export…ServiceRequest`, of metrics and of traces alike) with these items, each of them one of the repeated
/// fields of a scope as [`Message`] writes them.
pub(crate) fn request<'a>(
    resource: &[(&str, &str)],
    items: impl Iterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let mut request = Message::default();
    request.message(1, |of_resource| {
        of_resource.message(1, |it| {
            for (key, value) in resource {
                attribute(it, 1, key, value);
            }
        });
        of_resource.message(2, |of_scope| {
            of_scope.message(1, |scope| {
                scope.text(1, "pystap");
                scope.text(2, env!("CARGO_PKG_VERSION"));
            });
            for item in items {
                of_scope.bytes().extend_from_slice(item);
            }
        });
    });
    std::mem::take(request.bytes())
}
