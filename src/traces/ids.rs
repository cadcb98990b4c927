//! Names of traces and spans: at random, or what a program itself calls the request that it works on.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};

use crate::analysis::requests::{id_of, traceparent};
use crate::event::{FieldValue, Fields};

/// Traces whose first spans are known.
const MOST_KNOWN: usize = 4096;

/// What names a trace: 128 bits.
pub(super) type TraceId = u128;
/// What names a span in it; never 0.
pub(super) type SpanId = u64;

/// In which of a program's values it is looked for which request it works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// `request_id` and `global_request_id` of oslo.context.
    Oslo,
    /// W3C's `traceparent`, which OpenTelemetry and others send along with requests.
    Otel,
}

/// The request of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Linked {
    pub(super) trace: TraceId,
    /// The span of somebody else that made the request.
    pub(super) parent: Option<SpanId>,
}

impl Link {
    /// Which request a call with these fields belongs to.
    pub(super) fn find(self, fields: &Fields) -> Option<Linked> {
        match self {
            Link::Oslo => {
                // Whoever calls another service hands its own on as the global one.
                let named = |name| fields.get(name).and_then(openstack);
                let any = || fields.present().find_map(|field| openstack(&field.value));
                let trace = named("global_request_id").or_else(|| named("request_id"));
                let trace = trace.or_else(any)?;
                Some(Linked {
                    trace,
                    parent: None,
                })
            }
            Link::Otel => fields.present().find_map(|field| w3c(&field.value)),
        }
    }
}

/// The 128 bits of `req-` with a UUID.
fn openstack(value: &FieldValue) -> Option<TraceId> {
    let id = id_of(value)?;
    let uuid = id.strip_prefix("req-").filter(|uuid| uuid.len() == 36)?;
    let digits = uuid.replace('-', "");
    let is_hex = digits.len() == 32 && digits.bytes().all(|it| it.is_ascii_hexdigit());
    let trace = TraceId::from_str_radix(&digits, 16).ok()?;
    (is_hex && trace != 0).then_some(trace)
}

fn w3c(value: &FieldValue) -> Option<Linked> {
    let (FieldValue::Text(text) | FieldValue::Bytes(text)) = value else {
        return None;
    };
    let (trace, span) = traceparent(text.text.trim())?;
    let trace = TraceId::from_str_radix(trace, 16).ok()?;
    let parent = SpanId::from_str_radix(span, 16).ok()?;
    (trace != 0 && parent != 0).then_some(Linked {
        trace,
        parent: Some(parent),
    })
}

/// Makes names that nobody else has, out of the random keys that the standard library has of the kernel.
#[derive(Debug, Default)]
pub(super) struct Ids {
    random: RandomState,
    made: u64,
}

impl Ids {
    pub(super) fn span(&mut self) -> SpanId {
        self.made += 1;
        let mut hasher = self.random.build_hasher();
        hasher.write_u64(self.made);
        hasher.finish().max(1)
    }

    pub(super) fn trace(&mut self) -> TraceId {
        TraceId::from(self.span()) << 64 | TraceId::from(self.span())
    }
}

/// The first span of each request, below which is what else is done for it: in other threads, tasks and processes. The requests
/// that came last.
#[derive(Debug, Default)]
pub(super) struct Firsts {
    spans: HashMap<TraceId, SpanId>,
    order: VecDeque<TraceId>,
}

impl Firsts {
    /// The first span of a trace, other than this one, which is it if there was none.
    pub(super) fn of(&mut self, trace: TraceId, span: SpanId) -> Option<SpanId> {
        if let Some(first) = self.spans.get(&trace) {
            return Some(*first).filter(|first| *first != span);
        }
        if self.order.len() >= MOST_KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.spans.remove(&oldest);
        }
        self.order.push_back(trace);
        self.spans.insert(trace, span);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::analysis::testing::text;
    use crate::event::Field;

    fn fields(values: &[(&str, &str)]) -> Fields {
        let field = |(name, value): &(&str, &str)| Field {
            name: (*name).into(),
            value: FieldValue::Text(text(value)),
        };
        Fields(values.iter().map(field).collect())
    }

    #[test]
    fn a_request_of_openstack_is_the_trace_of_its_bits_the_global_one_first() {
        let one = "req-7d2a5f1e-0b1c-4a3d-9e8f-001122334455";
        let global = "req-00000000-0000-0000-0000-0000000000ff";
        let found = |values: &[(&str, &str)]| Link::Oslo.find(&fields(values)).map(|it| it.trace);
        let bits = Some(0x7d2a5f1e_0b1c_4a3d_9e8f_001122334455);
        assert_eq!(found(&[("request_id", one)]), bits);
        let around = format!("[{one} admin]");
        assert_eq!(found(&[("context", &around)]), bits);
        let both = [("global_request_id", global), ("request_id", one)];
        assert_eq!(found(&both), Some(0xff));
        let cut = [("global_request_id", "req-7d2a5f1e"), ("request_id", one)];
        assert_eq!(found(&cut), bits);
        let zero = "req-00000000-0000-0000-0000-000000000000";
        for nothing in ["", "req-", zero, "req-+d2a5f1e-0b1c-4a3d-9e8f-001122334455"] {
            assert_eq!(found(&[("request_id", nothing)]), None, "{nothing}");
        }
    }

    #[test]
    fn a_traceparent_names_the_trace_and_the_span_that_made_the_request() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let found = |value| Link::Otel.find(&fields(&[("traceparent", value)]));
        let linked = Linked {
            trace: 0x4bf92f35_77b34da6_a3ce929d_0e0e4736,
            parent: Some(0x00f067aa_0ba902b7),
        };
        assert_eq!(found(parent), Some(linked));
        for nothing in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "4bf92f3577b34da6a3ce929d0e0e4736",
        ] {
            assert_eq!(found(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn names_are_never_made_twice_and_those_of_another_session_are_others() {
        let mut all = HashSet::new();
        for mut ids in [Ids::default(), Ids::default()] {
            for _ in 0..1000 {
                assert!(all.insert(ids.trace()));
                assert!(all.insert(u128::from(ids.span())));
            }
        }
    }

    #[test]
    fn what_is_done_for_a_request_is_below_its_first_span_as_long_as_that_is_remembered() {
        let mut firsts = Firsts::default();
        assert_eq!(firsts.of(1, 10), None);
        assert_eq!(firsts.of(1, 11), Some(10));
        assert_eq!(firsts.of(1, 10), None, "itself");
        for trace in 0..MOST_KNOWN as u128 {
            firsts.of(100 + trace, 7);
        }
        assert_eq!(firsts.of(1, 12), None);
        assert_eq!(firsts.spans.len(), MOST_KNOWN);
    }
}
