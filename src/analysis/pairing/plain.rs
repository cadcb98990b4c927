//! Which of what plain events say to end began where: imports, and the making and unmaking of objects.

use std::sync::Arc;

use super::bounded::{self, MAX_NESTED};
use crate::event::{Plain, Text};
use crate::probe::{Phase, Probe};

/// Something that a plain event said to begin.
#[derive(Debug)]
pub(super) struct Begun {
    probe: Probe,
    subject: Option<Arc<Text>>,
    ts: u64,
}

/// Notes what begins among what has begun in its thread, and gives what ends its duration.
pub(super) fn pair(begun: &mut Vec<Begun>, plain: &mut Plain, ts: u64) {
    match plain.phase() {
        Phase::Single => {}
        Phase::Start => {
            let subject = plain.subject().map(Arc::clone);
            let probe = plain.probe;
            bounded::push(begun, Begun { probe, subject, ts }, MAX_NESTED);
        }
        Phase::Done(start) => {
            let same = |it: &Begun| it.probe == start && it.subject.as_ref() == plain.subject();
            let Some(index) = begun.iter().rposition(same) else {
                return;
            };
            let began = begun.get(index).map(|it| it.ts);
            plain.duration_ns = began.and_then(|began| ts.checked_sub(began));
            // These nest strictly: what began later and has not ended was lost.
            let mut place = 0;
            begun.retain(|it| {
                place += 1;
                place <= index || it.probe != start
            });
        }
    }
}
