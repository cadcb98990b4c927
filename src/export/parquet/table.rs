//! A table in a Parquet file, written in groups of rows: what is collected of a group is bounded, and little is remembered of
//! those before.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use super::words::{Shared, Words};
use crate::threads::Worker;

/// Rows of a group. Readers share them out by groups, and like such that are not small.
pub(super) const ROWS: usize = 1 << 17;
/// Bytes of the texts of a group, without those that rows share.
const BYTES: usize = 16 << 20;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nanoseconds since the Unix epoch.
    Time,
    /// A number of 32 bits without a sign.
    Id,
    /// A number of 32 bits with one.
    Line,
    /// A number of 64 bits without a sign.
    Number,
    /// A number of 64 bits with one.
    Integer,
    /// UTF-8.
    Text,
    /// The same, where many rows share few texts.
    Word,
    /// True or not, as 1 and 0.
    Flag,
}

impl Kind {
    /// The same in the language of schemas, before and behind the name.
    fn declared(self) -> (&'static str, &'static str) {
        match self {
            Kind::Time => ("int64", " (TIMESTAMP(NANOS,true))"),
            Kind::Id => ("int32", " (INTEGER(32,false))"),
            Kind::Line => ("int32", ""),
            Kind::Number => ("int64", " (INTEGER(64,false))"),
            Kind::Integer => ("int64", ""),
            Kind::Text | Kind::Word => ("binary", " (UTF8)"),
            Kind::Flag => ("boolean", ""),
        }
    }
}

/// A value of a row.
#[derive(Debug, Clone, Copy)]
pub enum Cell<'a> {
    /// There is none.
    Nothing,
    /// Of 32 bits.
    Small(i32),
    /// Of 64 bits.
    Large(i64),
    /// True or not.
    Flag(bool),
    /// A text that other rows have, too.
    Shared(&'a Shared),
    /// A text of its own.
    Text(&'a str),
}

impl<'a> Cell<'a> {
    /// A number without a sign.
    pub(super) fn id(number: u32) -> Cell<'a> {
        Cell::Small(number as i32)
    }

    /// The same of 64 bits.
    pub(super) fn number(number: u64) -> Cell<'a> {
        Cell::Large(number as i64)
    }

    /// A value where there is one.
    pub(super) fn of<T>(value: Option<T>, cell: impl FnOnce(T) -> Cell<'a>) -> Cell<'a> {
        value.map_or(Cell::Nothing, cell)
    }
}

/// The values of a column, of the rows that wait for their group.
#[derive(Debug)]
struct Column {
    values: Values,
    /// For each row up to the last one that has a value, whether it has one.
    has: Vec<i16>,
}

#[derive(Debug)]
enum Values {
    Small(Vec<i32>),
    Large(Vec<i64>),
    Flag(Vec<bool>),
    Text(Vec<ByteArray>),
    Words(Words),
}

impl Column {
    fn of(kind: Kind) -> Column {
        let values = match kind {
            Kind::Id | Kind::Line => Values::Small(Vec::new()),
            Kind::Time | Kind::Number | Kind::Integer => Values::Large(Vec::new()),
            Kind::Flag => Values::Flag(Vec::new()),
            Kind::Text => Values::Text(Vec::new()),
            Kind::Word => Values::Words(Words::default()),
        };
        let has = Vec::new();
        Column { values, has }
    }

    /// Takes the value of a row, which is of its own kind; of another kind it is none. Answers how many bytes of texts it adds.
    fn push(&mut self, row: usize, cell: Cell<'_>) -> usize {
        let bytes = match (&mut self.values, cell) {
            (_, Cell::Nothing) => return 0,
            (Values::Small(values), Cell::Small(value)) => push(values, value),
            (Values::Large(values), Cell::Large(value)) => push(values, value),
            (Values::Flag(values), Cell::Flag(value)) => push(values, value),
            (Values::Words(words), Cell::Shared(word)) => words.push(word),
            (Values::Text(values), Cell::Text(value)) => {
                push(values, value.as_bytes().to_vec().into());
                value.len()
            }
            (_, cell) => {
                debug_assert!(false, "{cell:?}");
                return 0;
            }
        };
        if self.has.len() < row {
            self.has.resize(row, 0);
        }
        self.has.push(1);
        bytes
    }

    fn clear(&mut self) {
        self.has.clear();
        match &mut self.values {
            Values::Small(values) => values.clear(),
            Values::Large(values) => values.clear(),
            Values::Flag(values) => values.clear(),
            Values::Text(values) => values.clear(),
            Values::Words(words) => words.clear(),
        }
    }
}

/// No bytes of a text.
fn push<T>(values: &mut Vec<T>, value: T) -> usize {
    values.push(value);
    0
}

/// Rows that wait to be written.
#[derive(Debug)]
struct Group {
    columns: Vec<Column>,
    rows: usize,
    /// Of their texts.
    bytes: usize,
}

impl Group {
    fn of(kinds: &[Kind]) -> Group {
        Group {
            columns: kinds.iter().map(|kind| Column::of(*kind)).collect(),
            rows: 0,
            bytes: 0,
        }
    }

    fn push(&mut self, cells: &[Cell<'_>]) {
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            self.bytes += column.push(self.rows, *cell);
        }
        self.rows += 1;
    }

    /// Writes the rows, and forgets them.
    fn write(&mut self, writer: &mut SerializedFileWriter<Vec<u8>>) -> Result<(), ParquetError> {
        if self.rows == 0 {
            return Ok(());
        }
        let schema = writer.schema_descr().columns().to_vec();
        let mut group = writer.next_row_group()?;
        for (column, described) in self.columns.iter_mut().zip(schema) {
            column.has.resize(self.rows, 0);
            let has = column.has.as_slice();
            match &column.values {
                Values::Words(words) if !words.is_empty() => {
                    words.write(described, has, &mut group)?;
                }
                values => {
                    let Some(mut writer) = group.next_column()? else {
                        break;
                    };
                    let has = Some(has);
                    match values {
                        Values::Small(values) => {
                            writer.typed::<Int32Type>().write_batch(values, has, None)?
                        }
                        Values::Large(values) => {
                            writer.typed::<Int64Type>().write_batch(values, has, None)?
                        }
                        Values::Flag(values) => {
                            writer.typed::<BoolType>().write_batch(values, has, None)?
                        }
                        Values::Text(values) => writer
                            .typed::<ByteArrayType>()
                            .write_batch(values, has, None)?,
                        Values::Words(_) => {
                            writer
                                .typed::<ByteArrayType>()
                                .write_batch(&[], has, None)?
                        }
                    };
                    writer.close()?;
                }
            }
            column.clear();
        }
        group.close()?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }
}

/// What is done beside the rows that come.
enum Piece {
    /// A group is written.
    Group(Group),
    /// The file ends, with this said of it.
    End(Vec<KeyValue>),
}

/// What does it.
type Work = Box<dyn FnMut(Piece) -> Written + Send>;

/// What came of that: bytes of the file, and the group without rows.
type Written = Result<(Vec<u8>, Option<Group>), ParquetError>;

/// Writes into memory.
fn write(writer: &mut SerializedFileWriter<Vec<u8>>, piece: Piece) -> Written {
    let group = match piece {
        Piece::Group(mut group) => {
            group.write(writer)?;
            writer.flush()?;
            Some(group)
        }
        Piece::End(about) => {
            for told in about {
                writer.append_key_value_metadata(told);
            }
            writer.finish()?;
            writer.flush()?;
            None
        }
    };
    Ok((std::mem::take(writer.inner_mut()), group))
}

/// See the head of the module.
pub struct Table<W> {
    output: W,
    worker: Worker<Piece, Written>,
    kinds: Vec<Kind>,
    group: Group,
    /// Rows of a group.
    most: usize,
}

impl<W> fmt::Debug for Table<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("rows", &self.group.rows)
            .finish_non_exhaustive()
    }
}

impl<W: Write> Table<W> {
    /// A table with these columns and nothing in it.
    ///
    /// # Errors
    /// The output's.
    pub(super) fn new(output: W, name: &str, columns: &[(&str, Kind)]) -> io::Result<Table<W>> {
        Table::of(output, name, columns, ROWS, Worker::here)
    }

    /// The same for very many rows: a group is written while the next one comes.
    ///
    /// # Errors
    /// The output's.
    pub(super) fn of_many(output: W, name: &str, columns: &[(&str, Kind)]) -> io::Result<Table<W>> {
        Table::of(output, name, columns, ROWS, Worker::new)
    }

    /// The same with groups of so many rows.
    ///
    /// # Errors
    /// The output's.
    pub(super) fn with_groups(
        output: W,
        name: &str,
        columns: &[(&str, Kind)],
        most: usize,
    ) -> io::Result<Table<W>> {
        Table::of(output, name, columns, most, Worker::here)
    }

    fn of(
        output: W,
        name: &str,
        columns: &[(&str, Kind)],
        most: usize,
        worker: fn(Work) -> Worker<Piece, Written>,
    ) -> io::Result<Table<W>> {
        let mut schema = format!("message {name} {{");
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::LZ4_RAW)
            .set_created_by(format!("pystap {}", env!("CARGO_PKG_VERSION")))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_max_row_group_row_count(None);
        for (column, kind) in columns {
            let (before, behind) = kind.declared();
            schema.push_str(&format!("optional {before} {column}{behind};"));
            // Neighbours are near each other, and few are the same.
            if *kind == Kind::Time {
                let path = ColumnPath::from(*column);
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
        }
        schema.push('}');
        let schema = Arc::new(parse_message_type(&schema).map_err(failed)?);
        let writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build()));
        let mut writer = writer.map_err(failed)?;
        let kinds: Vec<Kind> = columns.iter().map(|(_, kind)| *kind).collect();
        Ok(Table {
            output,
            worker: worker(Box::new(move |piece| write(&mut writer, piece))),
            group: Group::of(&kinds),
            kinds,
            most,
        })
    }

    /// Adds a row, with a value for each column.
    ///
    /// # Errors
    /// The output's.
    pub(super) fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        self.group.push(cells);
        match self.group.rows >= self.most || self.group.bytes >= BYTES {
            true => self.hand_on(),
            false => Ok(()),
        }
    }

    /// Has the rows that wait written, as a group.
    fn hand_on(&mut self) -> io::Result<()> {
        let group = std::mem::replace(
            &mut self.group,
            Group {
                columns: Vec::new(),
                rows: 0,
                bytes: 0,
            },
        );
        let written = self.worker.give(Piece::Group(group));
        let emptied = self.put(written)?;
        self.group = emptied.unwrap_or_else(|| Group::of(&self.kinds));
        Ok(())
    }

    /// Puts out what was written.
    fn put(&mut self, written: Option<Written>) -> io::Result<Option<Group>> {
        let Some(written) = written else {
            return Ok(None);
        };
        let (bytes, group) = written.map_err(failed)?;
        self.output.write_all(&bytes)?;
        Ok(group)
    }

    /// Writes what is left, and what is said of the whole; gives the output back.
    ///
    /// # Errors
    /// The output's.
    pub(super) fn into_file(mut self, about: &[(&'static str, String)]) -> io::Result<W> {
        self.hand_on()?;
        let about = about
            .iter()
            .map(|(key, value)| KeyValue::new((*key).to_owned(), value.clone()));
        let written = self.worker.give(Piece::End(about.collect()));
        self.put(written)?;
        let worker = std::mem::replace(&mut self.worker, Worker::here(|_| Ok((Vec::new(), None))));
        let written = worker.finish();
        self.put(written)?;
        Ok(self.output)
    }
}

/// The output's error, where it was that.
fn failed(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;

    use super::*;

    const COLUMNS: [(&str, Kind); 4] = [
        ("word", Kind::Word),
        ("number", Kind::Number),
        ("text", Kind::Text),
        ("nothing", Kind::Word),
    ];

    /// Rows with gaps, and what a reader of the format has of them.
    fn read(table: io::Result<Table<Vec<u8>>>, rows: u64) -> (Vec<[Option<String>; 4]>, usize) {
        let mut table = table.expect("memory");
        let words: Vec<Shared> = (0..300)
            .map(|it| format!("word {it}").as_str().into())
            .collect();
        for row in 0..rows {
            let text = row.to_string();
            let word = words.get((row * 7 % 400) as usize);
            table
                .row(&[
                    Cell::of(word, Cell::Shared),
                    Cell::of(Some(row).filter(|row| row % 3 == 0), Cell::number),
                    Cell::of(Some(&*text).filter(|_| row % 5 == 4), Cell::Text),
                    Cell::Nothing,
                ])
                .expect("memory");
        }
        let file = table
            .into_file(&[("said", "something".to_owned())])
            .expect("memory");
        let reader = SerializedFileReader::new(Bytes::from(file)).expect("a table");
        let about = reader.metadata().file_metadata().key_value_metadata();
        assert_eq!(about.expect("something said")[0].key, "said");
        let read = reader.get_row_iter(None).expect("rows").map(|row| {
            let row = row.expect("a row").into_columns();
            let cells: Vec<Option<String>> = row
                .into_iter()
                .map(|(_, field)| match field {
                    Field::Null => None,
                    Field::Str(text) => Some(text),
                    Field::ULong(number) => Some(number.to_string()),
                    other => panic!("{other}"),
                })
                .collect();
            cells.try_into().expect("as many as columns")
        });
        (read.collect(), reader.num_row_groups())
    }

    #[test]
    fn a_reader_has_each_row_as_it_was_given_whether_groups_are_written_meanwhile_or_not() {
        let rows = ROWS as u64 * 2 + 1;
        let expected: Vec<[Option<String>; 4]> = (0..rows)
            .map(|row| {
                [
                    Some(row * 7 % 400)
                        .filter(|it| *it < 300)
                        .map(|it| format!("word {it}")),
                    Some(row)
                        .filter(|row| row % 3 == 0)
                        .map(|it| it.to_string()),
                    Some(row)
                        .filter(|row| row % 5 == 4)
                        .map(|it| it.to_string()),
                    None,
                ]
            })
            .collect();
        for table in [
            Table::new(Vec::new(), "events", &COLUMNS),
            Table::of_many(Vec::new(), "events", &COLUMNS),
        ] {
            let (read, groups) = read(table, rows);
            assert!(read == expected);
            assert_eq!(groups, 3);
        }
    }

    #[test]
    fn what_is_told_of_a_column_of_words_is_its_least_and_its_greatest_one() {
        let mut table = Table::new(Vec::new(), "events", &COLUMNS).expect("memory");
        for word in ["b", "c", "a", "c"] {
            let word = Shared::from(word);
            table.row(&[Cell::Shared(&word)]).expect("memory");
        }
        table.row(&[Cell::Nothing]).expect("memory");
        let file = table.into_file(&[]).expect("memory");
        let reader = SerializedFileReader::new(Bytes::from(file)).expect("a table");
        let group = reader.metadata().row_group(0);
        let told = group.column(0).statistics().expect("statistics");
        assert_eq!(told.min_bytes_opt(), Some(&b"a"[..]));
        assert_eq!(told.max_bytes_opt(), Some(&b"c"[..]));
        assert_eq!(told.null_count_opt(), Some(1));
    }
}
