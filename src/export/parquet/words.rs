//! Texts that many rows of a group share: each is numbered when a row first has it, and rows have its number. So the column's
//! dictionary, which Parquet wants in front of the numbers, is there by the end of the group, and no text is compared or hashed
//! for a row. Parquet's own writer takes texts only, and finds out by itself which are the same.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use foldhash::fast::FixedState;
use parquet::basic::{Compression, Encoding, PageType};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageEncodingStats};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

/// Longest text that is told of a column as its least or greatest one.
const LONGEST: usize = 256;
/// Values that are packed together.
const PACKED: usize = 8;

/// A text that many rows have.
#[derive(Debug, Clone)]
pub struct Shared {
    text: Arc<str>,
    /// Its number among the words that had it last.
    known: Cell<(u64, u32)>,
}

impl From<&str> for Shared {
    fn from(text: &str) -> Shared {
        Shared {
            text: text.into(),
            known: Cell::new((0, 0)),
        }
    }
}

/// The texts of a column in a group, and those of its rows that have one.
#[derive(Debug)]
pub(super) struct Words {
    /// Different for each group and column.
    identity: u64,
    /// By row.
    numbers: Vec<u32>,
    texts: Vec<Arc<str>>,
    by_text: HashMap<Arc<str>, u32, FixedState>,
}

impl Default for Words {
    fn default() -> Words {
        Words {
            identity: next(),
            numbers: Vec::new(),
            texts: Vec::new(),
            by_text: HashMap::default(),
        }
    }
}

/// A number that no other words have; none has 0.
fn next() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl Words {
    /// Takes the word of a row. Answers how many bytes it adds.
    pub(super) fn push(&mut self, word: &Shared) -> usize {
        let (identity, number) = word.known.get();
        if identity == self.identity {
            self.numbers.push(number);
            return 0;
        }
        let (number, bytes) = match self.by_text.get(&word.text) {
            Some(&known) => (known, 0),
            None => {
                let number = self.texts.len() as u32;
                self.texts.push(Arc::clone(&word.text));
                self.by_text.insert(Arc::clone(&word.text), number);
                (number, word.text.len())
            }
        };
        word.known.set((self.identity, number));
        self.numbers.push(number);
        bytes
    }

    pub(super) fn clear(&mut self) {
        self.identity = next();
        self.numbers.clear();
        self.texts.clear();
        self.by_text.clear();
    }

    /// Whether no row has one.
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Writes the column, which is the group's next one: the texts, and for each row whether it `has` one, and which.
    ///
    /// # Errors
    /// The output's.
    pub(super) fn write<W: Write + Send>(
        &self,
        column: ColumnDescPtr,
        has: &[i16],
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<(), ParquetError> {
        let mut chunk = TrackedWrite::new(Vec::new());
        let mut pages = SerializedPageWriter::new(&mut chunk);
        let mut texts = Vec::new();
        for text in &self.texts {
            texts.extend_from_slice(&(text.len() as u32).to_le_bytes());
            texts.extend_from_slice(text.as_bytes());
        }
        let (size, buf) = packed(&texts)?;
        let dictionary = Page::DictionaryPage {
            buf,
            num_values: self.texts.len() as u32,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        let dictionary = pages.write_page(CompressedPage::new(dictionary, size))?;
        let mut values = vec![0; 4];
        let levels: Vec<u32> = has.iter().map(|&has| u32::from(has > 0)).collect();
        encode(&levels, 1, &mut values);
        let size = (values.len() - 4) as u32;
        for (place, byte) in values.iter_mut().zip(size.to_le_bytes()) {
            *place = byte;
        }
        let width = u32::BITS - (self.texts.len() as u32).saturating_sub(1).leading_zeros();
        values.push(width as u8);
        encode(&self.numbers, width, &mut values);
        let (size, buf) = packed(&values)?;
        let data = Page::DataPage {
            buf,
            num_values: has.len() as u32,
            encoding: Encoding::RLE_DICTIONARY,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let data = pages.write_page(CompressedPage::new(data, size))?;
        pages.close()?;
        let written = [
            (PageType::DICTIONARY_PAGE, Encoding::PLAIN),
            (PageType::DATA_PAGE, Encoding::RLE_DICTIONARY),
        ];
        let pages = written.map(|(page_type, encoding)| PageEncodingStats {
            page_type,
            encoding,
            count: 1,
        });
        let size = dictionary.compressed_size + data.compressed_size;
        let metadata = ColumnChunkMetaData::builder(column)
            .set_compression(Compression::LZ4_RAW)
            .set_encodings(vec![
                Encoding::PLAIN,
                Encoding::RLE,
                Encoding::RLE_DICTIONARY,
            ])
            .set_page_encoding_stats(pages.to_vec())
            .set_total_compressed_size(size as i64)
            .set_total_uncompressed_size(
                (dictionary.uncompressed_size + data.uncompressed_size) as i64,
            )
            .set_num_values(has.len() as i64)
            .set_dictionary_page_offset(Some(dictionary.offset as i64))
            .set_data_page_offset(data.offset as i64)
            .set_statistics(self.statistics(has.len()))
            .build()?;
        let chunk = Bytes::from(chunk.into_inner()?);
        group.append_column(
            &chunk,
            ColumnCloseResult {
                bytes_written: size as u64,
                rows_written: has.len() as u64,
                metadata,
                bloom_filter: None,
                column_index: None,
                offset_index: None,
            },
        )
    }

    /// The least and the greatest text, which readers skip groups by, and how many rows have none.
    fn statistics(&self, rows: usize) -> Statistics {
        let told = |text: Option<&Arc<str>>| {
            let text = text.filter(|text| text.len() <= LONGEST)?;
            Some(ByteArray::from(text.as_bytes().to_vec()))
        };
        let (least, greatest) = (told(self.texts.iter().min()), told(self.texts.iter().max()));
        let without = (rows - self.numbers.len()) as u64;
        Statistics::ByteArray(ValueStatistics::new(
            least,
            greatest,
            None,
            Some(without),
            false,
        ))
    }
}

/// The size of a page, and what it is packed to.
fn packed(page: &[u8]) -> Result<(usize, Bytes), ParquetError> {
    let mut packed = vec![0; lz4_flex::block::get_maximum_output_size(page.len())];
    let size = lz4_flex::block::compress_into(page, &mut packed)
        .map_err(|error| ParquetError::External(Box::new(error)))?;
    packed.truncate(size);
    Ok((page.len(), packed.into()))
}

/// Appends numbers of so many bits as Parquet has them: what repeats is told once, with how often, and the rest is packed.
fn encode(numbers: &[u32], width: u32, out: &mut Vec<u8>) {
    let repeats = |at: usize| {
        let rest = numbers.get(at..).unwrap_or_default();
        let first = rest.first();
        rest.iter().take_while(|it| Some(*it) == first).count()
    };
    let mut at = 0;
    while at < numbers.len() {
        let count = repeats(at);
        if count >= PACKED {
            varint((count as u64) << 1, out);
            let number = numbers.get(at).copied().unwrap_or(0).to_le_bytes();
            out.extend_from_slice(number.get(..width.div_ceil(8) as usize).unwrap_or_default());
            at += count;
            continue;
        }
        let begin = at;
        while at < numbers.len() && (at == begin || repeats(at) < PACKED) {
            at += PACKED;
        }
        let some = numbers
            .get(begin..at.min(numbers.len()))
            .unwrap_or_default();
        let groups = (at - begin) / PACKED;
        varint((groups as u64) << 1 | 1, out);
        let end = out.len() + groups * width as usize;
        let (mut bits, mut held): (u64, u32) = (0, 0);
        for number in some {
            bits |= u64::from(*number) << held;
            held += width;
            while held >= 8 {
                out.push(bits as u8);
                bits >>= 8;
                held -= 8;
            }
        }
        if held > 0 {
            out.push(bits as u8);
        }
        // The last ones are as many as all others.
        out.resize(end, 0);
    }
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What Parquet's specification says that such bytes mean.
    fn decode(mut bytes: &[u8], width: u32, count: usize) -> Vec<u32> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let (mut head, mut shift) = (0_u64, 0);
            loop {
                let (byte, rest) = bytes.split_first().expect("a head");
                bytes = rest;
                head |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let size = match head & 1 {
                0 => width.div_ceil(8) as usize,
                _ => (head >> 1) as usize * width as usize,
            };
            let (own, rest) = bytes.split_at(size);
            bytes = rest;
            let bit = |at: usize| u32::from(own[at / 8] >> (at % 8) & 1);
            let number =
                |from: usize| (0..width as usize).fold(0, |it, at| it | bit(from + at) << at);
            match head & 1 {
                0 => numbers.extend((0..head >> 1).map(|_| number(0))),
                _ => {
                    let values = (head >> 1) as usize * 8;
                    numbers.extend((0..values).map(|at| number(at * width as usize)));
                }
            }
        }
        assert!(bytes.is_empty(), "{bytes:?}");
        numbers.truncate(count);
        numbers
    }

    proptest! {
        #[test]
        fn numbers_are_read_as_they_were_written(
            runs in proptest::collection::vec((any::<u32>(), 1..40_usize), 0..40),
            width in 0..=32_u32,
        ) {
            let mask = (1_u64 << width) - 1;
            let numbers: Vec<u32> = runs
                .iter()
                .flat_map(|(number, count)| std::iter::repeat_n((u64::from(*number) & mask) as u32, *count))
                .collect();
            let mut bytes = Vec::new();
            encode(&numbers, width, &mut bytes);
            prop_assert_eq!(decode(&bytes, width, numbers.len()), numbers);
        }
    }

    #[test]
    fn what_repeats_takes_next_to_nothing() {
        let mut bytes = Vec::new();
        encode(&[5; 100_000], 13, &mut bytes);
        assert!(bytes.len() < 8, "{bytes:?}");
    }

    #[test]
    fn a_word_has_one_number_in_a_group_whoever_made_it() {
        let mut words = Words::default();
        let (one, same, other) = (
            Shared::from("one"),
            Shared::from("one"),
            Shared::from("other"),
        );
        let added = [&one, &other, &same, &one].map(|word| words.push(word));
        assert_eq!(added, [3, 5, 0, 0]);
        assert_eq!(words.numbers, [0, 1, 0, 0]);
        words.clear();
        assert_eq!([words.push(&other), words.push(&one)], [5, 3]);
        assert_eq!(words.numbers, [0, 1]);
    }
}
