//! Sets of bytes.

/// A set of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSet([u64; 4]);

impl ByteSet {
    /// No byte.
    pub const NONE: ByteSet = ByteSet([0; 4]);

    /// Whether the byte is in it.
    pub fn contains(self, byte: u8) -> bool {
        let [a, b, c, d] = self.0;
        let word = match byte >> 6 {
            0 => a,
            1 => b,
            2 => c,
            _ => d,
        };
        word >> (byte & 63) & 1 == 1
    }

    /// The same set with a range more, both ends included.
    #[must_use]
    pub fn with(self, first: u8, last: u8) -> ByteSet {
        let mut words = self.0;
        for byte in first..=last {
            if let Some(word) = words.get_mut(usize::from(byte >> 6)) {
                *word |= 1 << (byte & 63);
            }
        }
        ByteSet(words)
    }

    /// Every byte that is not in it.
    #[must_use]
    pub fn complement(self) -> ByteSet {
        ByteSet(self.0.map(|word| !word))
    }

    /// The same set with small letters in place of capitals.
    pub(crate) fn lower(self) -> ByteSet {
        self.each(|byte| match byte {
            b'A'..=b'Z' => false,
            b'a'..=b'z' => self.contains(byte) || self.contains(byte.to_ascii_uppercase()),
            _ => self.contains(byte),
        })
    }

    /// The same set with a slash in place of a dot.
    pub(crate) fn dot_as_slash(self) -> ByteSet {
        self.each(|byte| match byte {
            b'.' => false,
            b'/' => self.contains(b'.'),
            _ => self.contains(byte),
        })
    }

    fn each(self, is_in: impl Fn(u8) -> bool) -> ByteSet {
        let mut set = ByteSet::NONE;
        for byte in 0..=u8::MAX {
            if is_in(byte) {
                set = set.with(byte, byte);
            }
        }
        set
    }
}
