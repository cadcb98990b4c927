//! Messages of Protocol Buffers, as they are written: fields one after the other, into memory. The formats that are made of them are
//! written only, by a few messages each, so that nothing is declared that would have to be compiled.

/// A message in the making.
#[derive(Debug, Default)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// An integer of any kind but the zigzag ones; negative ones as their two's complement.
    pub(crate) fn number(&mut self, field: u32, number: u64) {
        self.tag(field, 0);
        self.varint(number);
    }

    /// A number with a fraction.
    pub(crate) fn double(&mut self, field: u32, number: f64) {
        self.tag(field, 1);
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    /// A number of eight bytes.
    pub(crate) fn fixed(&mut self, field: u32, number: u64) {
        self.tag(field, 1);
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    /// A string.
    pub(crate) fn text(&mut self, field: u32, text: &str) {
        self.blob(field, text.as_bytes());
    }

    /// Bytes.
    pub(crate) fn blob(&mut self, field: u32, bytes: &[u8]) {
        self.tag(field, 2);
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// A message within, which `fill` makes.
    pub(crate) fn message(&mut self, field: u32, fill: impl FnOnce(&mut Message)) {
        self.tag(field, 2);
        self.sized(fill);
    }

    /// A repeated integer, in one field.
    pub(crate) fn packed(&mut self, field: u32, numbers: impl IntoIterator<Item = u64>) {
        self.message(field, |packed| {
            for number in numbers {
                packed.varint(number);
            }
        });
    }

    /// What was made so far, to be taken away where that suits.
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    fn tag(&mut self, field: u32, kind: u32) {
        self.varint(u64::from(field << 3 | kind));
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// Something with its size in front. Most of it is small: one byte is left for the size, and more where it needs more.
    fn sized(&mut self, fill: impl FnOnce(&mut Message)) {
        let at = self.bytes.len();
        self.bytes.push(0);
        fill(self);
        let size = self.bytes.len() - at - 1;
        match self.bytes.get_mut(at) {
            Some(byte) if size < 0x80 => *byte = size as u8,
            _ => {
                let mut front = Message::default();
                front.varint(size as u64);
                self.bytes.splice(at..=at, front.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_as_the_format_has_them() {
        let mut message = Message::default();
        message.number(1, 150);
        message.text(2, "testing");
        message.number(3, -2_i64 as u64);
        message.double(4, 1.0);
        message.packed(6, [3, 270, 86_942]);
        assert_eq!(
            *message.bytes(),
            [
                &b"\x08\x96\x01"[..],
                b"\x12\x07testing",
                b"\x18\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                b"\x21\0\0\0\0\0\0\xf0\x3f",
                b"\x32\x06\x03\x8e\x02\x9e\xa7\x05",
            ]
            .concat()
        );
    }

    #[test]
    fn messages_within_have_their_sizes_in_front_however_large_they_are() {
        for size in [0, 1, 127, 128, 16_383, 16_384] {
            let text = "x".repeat(size);
            let mut within = Message::default();
            within.text(1, &text);
            let mut message = Message::default();
            message.message(7, |outer| outer.message(1, |inner| inner.text(1, &text)));
            let mut wanted = Message::default();
            let mut outer = Message::default();
            outer.tag(1, 2);
            outer.varint(within.bytes().len() as u64);
            outer.bytes.extend_from_slice(within.bytes());
            wanted.tag(7, 2);
            wanted.varint(outer.bytes().len() as u64);
            wanted.bytes.extend_from_slice(outer.bytes());
            assert_eq!(message.bytes(), wanted.bytes(), "{size}");
        }
    }
}
