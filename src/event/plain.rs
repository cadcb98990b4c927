//! Plain events: what a probe passes, as its row in the table of probes describes it.

use std::sync::Arc;

use super::text::Text;
use crate::probe::{Argument, ArgumentKind, Phase, Probe};

/// An event that consists of what its probe passes, see [`crate::probe::PlainEvent`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    /// The probe that was hit: says what the rest means.
    pub probe: Probe,
    /// As many texts as the probe has, in order.
    pub texts: [Option<Arc<Text>>; 2],
    /// Its number, 0 or 1 for a flag; 0 where it has none.
    pub number: i32,
    /// Nanoseconds since the matching start, where this ends something.
    pub duration_ns: Option<u64>,
}

impl Plain {
    /// An event with one text.
    pub fn new(probe: Probe, text: Arc<Text>) -> Plain {
        Plain {
            probe,
            texts: [Some(text), None],
            number: 0,
            duration_ns: None,
        }
    }

    /// Its name: the `event` field in JSON.
    pub fn name(&self) -> &'static str {
        self.probe
            .plain()
            .map_or(self.probe.name(), |plain| plain.name)
    }

    /// What people are told that it is.
    pub fn label(&self) -> &'static str {
        self.probe
            .plain()
            .map_or(self.probe.name(), |plain| plain.label)
    }

    /// Where it stands in what it is about.
    pub fn phase(&self) -> Phase {
        self.probe
            .plain()
            .map_or(Phase::Single, |plain| plain.phase)
    }

    /// What it is about.
    pub fn subject(&self) -> Option<&Arc<Text>> {
        self.texts.first().and_then(Option::as_ref)
    }

    /// Its texts with the names of their fields.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &Arc<Text>)> {
        let fields = self.probe.texts().zip(&self.texts);
        fields.filter_map(|(argument, text)| Some((argument.field, text.as_ref()?)))
    }

    /// Its number with the argument that it was.
    pub fn number(&self) -> Option<(&'static Argument, i32)> {
        Some((self.probe.number_argument()?, self.number))
    }

    /// What people are told because its flag is not set.
    pub fn unset(&self) -> Option<&'static str> {
        match self.number() {
            Some((argument, 0)) => match argument.kind {
                ArgumentKind::Flag { unset } => Some(unset),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::event::{Event, Frame, Place};
    use std::sync::Arc;

    /// Events are moved by the million: what a plain one has may not make calls and returns larger.
    #[test]
    fn a_plain_event_makes_no_other_larger() {
        // What a return has beside its time, its process and its interpreter.
        type Return = (Arc<Place>, i32, Option<u64>, Frame);
        assert!(size_of::<Event>() <= size_of::<Return>() + 3 * size_of::<u64>());
    }
}
