//! What a first reading of a recording finds out for the second one.

/// Calls that turned out to be creations of generators, by their number in the stream: what a first reading of a
/// recording finds out for a second one. A bit a call, for as many calls as there is room.
#[derive(Debug, Clone, Default)]
pub struct Creations {
    pub(super) bits: Vec<u64>,
    full: bool,
    /// Whether a call was ever taken for one.
    any: bool,
}

impl Creations {
    /// Calls of which this can be known: 64 MB of bits.
    pub const MOST: u64 = 1 << 29;

    /// Whether there were creations behind the last call of which it can be known.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Whether a call was ever taken for one, if only for a while.
    pub(super) fn has_any(&self) -> bool {
        self.any
    }

    pub(super) fn set(&mut self, call: u64, is: bool) {
        self.any |= is;
        if call >= Creations::MOST {
            self.full |= is;
            return;
        }
        let (word, bit) = ((call / 64) as usize, 1 << (call % 64));
        if is && self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if let Some(word) = self.bits.get_mut(word) {
            *word = if is { *word | bit } else { *word & !bit };
        }
    }

    pub(super) fn contains(&self, call: u64) -> bool {
        let word = self
            .bits
            .get(usize::try_from(call / 64).unwrap_or(usize::MAX));
        word.is_some_and(|word| word & (1 << (call % 64)) != 0)
    }
}
