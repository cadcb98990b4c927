//! Tables of lines: which line of the source an instruction belongs to, in the forms that CPython has had. A table is foreign
//! bytes: it may end anywhere and say anything.

/// The form of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineTable {
    /// `co_lnotab`, up to 3.9 (Objects/lnotab_notes.txt).
    Lnotab,
    /// `co_linetable` of 3.10 (PEP 626).
    Ranges,
    /// The table of locations since 3.11 (InternalDocs/code_objects.md, before that Objects/locations.md).
    Locations,
}

impl LineTable {
    /// The line of the instruction at this byte, in a function that begins in line `first`; negative before the first
    /// instruction. `None` for code that has no line.
    pub(super) fn line(self, table: &[u8], first: i32, instruction: i64) -> Option<u32> {
        let line = if instruction < 0 {
            Some(first)
        } else {
            match self {
                LineTable::Lnotab => Some(lnotab(table, first, instruction)),
                LineTable::Ranges => ranges(table, first, instruction),
                LineTable::Locations => locations(table, first, instruction),
            }
        };
        line.and_then(|line| u32::try_from(line).ok())
            .filter(|line| *line > 0)
    }
}

fn lnotab(table: &[u8], first: i32, instruction: i64) -> i32 {
    let (mut at, mut line) = (0, first);
    for pair in table.chunks_exact(2) {
        let [bytes, lines] = *pair else { break };
        at += i64::from(bytes);
        if at > instruction {
            break;
        }
        line = line.wrapping_add(i32::from(lines.cast_signed()));
    }
    line
}

fn ranges(table: &[u8], first: i32, instruction: i64) -> Option<i32> {
    /// The range has no line.
    const NONE: i8 = -128;
    let (mut end, mut line) = (0, first);
    for pair in table.chunks_exact(2) {
        let [bytes, lines] = *pair else { break };
        let lines = lines.cast_signed();
        if lines != NONE {
            line = line.wrapping_add(i32::from(lines));
        }
        end += i64::from(bytes);
        if instruction < end {
            return (lines != NONE).then_some(line);
        }
    }
    None
}

fn locations(table: &[u8], first: i32, instruction: i64) -> Option<i32> {
    let mut bytes = table.iter().copied().peekable();
    let (mut end, mut line) = (0, first);
    // Each entry takes a byte, so this ends with the table.
    while let Some(head) = bytes.next() {
        let code = (head >> 3) & 15;
        let has_line = match code {
            15 => false,
            // A line; in 14, the end and both columns, too.
            13 | 14 => {
                let delta = varint(&mut bytes);
                let lines = (delta >> 1) as i32;
                line = match delta & 1 {
                    0 => line.wrapping_add(lines),
                    _ => line.wrapping_sub(lines),
                };
                true
            }
            10..=12 => {
                line = line.wrapping_add(i32::from(code) - 10);
                true
            }
            _ => true,
        };
        // What else belongs to the entry: only the first byte of an entry has the highest bit.
        while bytes.next_if(|byte| byte & 0x80 == 0).is_some() {}
        end += 2 * (i64::from(head & 7) + 1);
        if instruction < end {
            return has_line.then_some(line);
        }
    }
    None
}

/// A number in pieces of six bits, the lowest first; the seventh bit says that there is more.
fn varint(bytes: &mut impl Iterator<Item = u8>) -> u32 {
    let (mut number, mut shift) = (0_u32, 0);
    for byte in bytes {
        number |= u32::from(byte & 63).checked_shl(shift).unwrap_or(0);
        shift += 6;
        if byte & 64 == 0 || shift > 30 {
            break;
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A table of a real function, the line that it begins in, and the lines of its instructions as `dis` and `co_lines` of the
    /// same interpreter give them: how many in a row have which, 0 for none.
    type Case<'a> = (&'a [u8], &'a [(u32, u32)]);

    /// A function with lines far apart, lines that go back, and instructions without any, as CPython compiles it.
    fn is_read(form: LineTable, (table, runs): Case) {
        let mut at = 0;
        for (count, line) in runs {
            for _ in 0..*count {
                let expected = (*line > 0).then_some(*line);
                assert_eq!(form.line(table, 2, at), expected, "{form:?} at {at}");
                at += 2;
            }
        }
        assert_eq!(form.line(table, 2, -1), Some(2), "before its beginning");
    }

    #[test]
    fn a_real_function_has_the_lines_that_its_interpreter_gives_it() {
        // 3.8.18
        is_read(
            LineTable::Lnotab,
            (
                &[
                    0, 1, 4, 1, 4, 2, 2, 2, 2, 1, 2, 252, 4, 6, 2, 255, 6, 2, 4, 1, 2, 255, 6, 127,
                    0, 76, 4, 1, 10, 2,
                ],
                &[
                    (2, 3),
                    (2, 4),
                    (1, 6),
                    (1, 8),
                    (1, 9),
                    (2, 5),
                    (1, 11),
                    (3, 10),
                    (2, 12),
                    (1, 13),
                    (3, 12),
                    (2, 215),
                    (5, 216),
                    (7, 218),
                ],
            ),
        );
        // 3.10.13
        is_read(
            LineTable::Ranges,
            (
                &[
                    4, 1, 4, 1, 2, 2, 2, 2, 2, 1, 4, 252, 2, 6, 6, 255, 4, 2, 2, 1, 6, 255, 0, 127,
                    2, 76, 8, 1, 20, 2,
                ],
                &[
                    (2, 3),
                    (2, 4),
                    (1, 6),
                    (1, 8),
                    (1, 9),
                    (2, 5),
                    (1, 11),
                    (3, 10),
                    (2, 12),
                    (1, 13),
                    (3, 12),
                    (1, 215),
                    (4, 216),
                    (10, 218),
                ],
            ),
        );
        // 3.11.7 and 3.13.0
        is_read(
            LineTable::Locations,
            (
                &[
                    128, 0, 216, 7, 8, 240, 0, 1, 5, 17, 216, 15, 16, 136, 113, 224, 8, 9, 224, 8,
                    9, 216, 8, 9, 240, 9, 4, 9, 11, 128, 65, 240, 12, 0, 9, 10, 240, 3, 3, 5, 16,
                    240, 0, 3, 5, 16, 136, 1, 229, 7, 12, 136, 81, 216, 13, 14, 241, 3, 1, 8, 16,
                    244, 0, 1, 8, 16, 240, 0, 1, 8, 16, 240, 0, 1, 8, 16, 240, 86, 6, 3, 5, 17,
                    216, 8, 9, 136, 1, 137, 3, 140, 3, 136, 3, 224, 15, 16, 136, 8, 248, 136, 113,
                    136, 8, 136, 8, 136, 8, 136, 8, 136, 8, 136, 8, 136, 8, 136, 8,
                ],
                &[
                    (1, 2),
                    (2, 3),
                    (2, 4),
                    (1, 6),
                    (1, 8),
                    (1, 9),
                    (2, 5),
                    (1, 11),
                    (3, 10),
                    (7, 12),
                    (1, 13),
                    (9, 12),
                    (1, 215),
                    (10, 216),
                    (2, 218),
                    (1, 0),
                    (9, 218),
                ],
            ),
        );
        is_read(
            LineTable::Locations,
            (
                &[
                    128, 0, 222, 7, 8, 216, 15, 16, 224, 8, 9, 224, 8, 9, 216, 8, 9, 240, 9, 4, 9,
                    11, 128, 65, 243, 12, 0, 9, 10, 240, 3, 0, 9, 10, 228, 7, 12, 136, 81, 216, 13,
                    14, 246, 3, 1, 8, 16, 241, 3, 0, 9, 10, 240, 88, 6, 3, 5, 17, 217, 8, 9, 140,
                    3, 224, 15, 16, 136, 8, 248, 136, 113, 140, 8, 250,
                ],
                &[
                    (1, 2),
                    (7, 3),
                    (1, 4),
                    (1, 6),
                    (1, 8),
                    (1, 9),
                    (2, 5),
                    (4, 11),
                    (1, 10),
                    (6, 12),
                    (1, 13),
                    (7, 12),
                    (2, 11),
                    (1, 215),
                    (7, 216),
                    (2, 218),
                    (1, 0),
                    (6, 218),
                    (3, 0),
                ],
            ),
        );
    }

    #[test]
    fn the_table_of_3_10_knows_instructions_without_a_line() {
        let table = [4, 1, 4, 1, 2, 0x80, 6, 0xfe];
        let line = |at| LineTable::Ranges.line(&table, 10, at);
        assert_eq!(line(-1), Some(10));
        assert_eq!([0, 2, 4, 7].map(line), [11, 11, 12, 12].map(Some));
        assert_eq!(line(8), None, "it has no line");
        assert_eq!(line(10), Some(10), "lines go back, too");
        assert_eq!(line(16), None, "behind the end");
    }

    #[test]
    fn the_table_since_3_11_is_read_in_all_its_forms() {
        let table = [
            0x80,
            3,
            4, // short: the same line, one unit
            0x80 | (11 << 3) | 1,
            3,
            4, // one line on, two units
            0x80 | (13 << 3),
            5,                // no columns: two lines back, one unit
            0x80 | (15 << 3), // no line
            0x80 | (14 << 3),
            0x40 | 8,
            2,
            0,
            1,
            2, // long: 68 lines on, with an end and columns
        ];
        let line = |at| LineTable::Locations.line(&table, 20, at);
        assert_eq!(
            [0, 2, 4, 6].map(line),
            [20, 21, 21, 19].map(Some),
            "{table:?}"
        );
        assert_eq!(line(8), None, "it has no line");
        assert_eq!(line(10), Some(19 + 68));
        assert_eq!(line(12), None, "behind the end");
    }

    proptest! {
        #[test]
        fn no_table_is_too_strange(table in proptest::collection::vec(any::<u8>(), 0..300),
                                   first in any::<i32>(), at in any::<i64>()) {
            for form in [LineTable::Lnotab, LineTable::Ranges, LineTable::Locations] {
                let _ = form.line(&table, first, at);
            }
        }
    }
}
