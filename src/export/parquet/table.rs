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
            Kind::Text => ("binary", " (UTF8)"),
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

/// A text that many rows have, and that is in memory once.
#[derive(Debug, Clone)]
pub struct Shared(ByteArray);

impl From<&str> for Shared {
    fn from(text: &str) -> Shared {
        Shared(text.as_bytes().to_vec().into())
    }
}

/// The values of a column, of the rows that wait for their group.
#[derive(Debug)]
struct Column {
    values: Values,
    /// For each row, whether it has one.
    has: Vec<i16>,
}

#[derive(Debug)]
enum Values {
    Small(Vec<i32>),
    Large(Vec<i64>),
    Flag(Vec<bool>),
    Text(Vec<ByteArray>),
}

impl Column {
    fn of(kind: Kind) -> Column {
        let values = match kind {
            Kind::Id | Kind::Line => Values::Small(Vec::new()),
            Kind::Time | Kind::Number | Kind::Integer => Values::Large(Vec::new()),
            Kind::Flag => Values::Flag(Vec::new()),
            Kind::Text => Values::Text(Vec::new()),
        };
        let has = Vec::new();
        Column { values, has }
    }

    /// Takes a value of its own kind; of another kind it is none.
    fn push(&mut self, cell: Cell<'_>) {
        let has = match (&mut self.values, cell) {
            (Values::Small(values), Cell::Small(value)) => push(values, value),
            (Values::Large(values), Cell::Large(value)) => push(values, value),
            (Values::Flag(values), Cell::Flag(value)) => push(values, value),
            (Values::Text(values), Cell::Shared(Shared(value))) => push(values, value.clone()),
            (Values::Text(values), Cell::Text(value)) => {
                push(values, value.as_bytes().to_vec().into())
            }
            (_, cell) => {
                debug_assert!(matches!(cell, Cell::Nothing), "{cell:?}");
                0
            }
        };
        self.has.push(has);
    }

    fn clear(&mut self) {
        self.has.clear();
        match &mut self.values {
            Values::Small(values) => values.clear(),
            Values::Large(values) => values.clear(),
            Values::Flag(values) => values.clear(),
            Values::Text(values) => values.clear(),
        }
    }
}

fn push<T>(values: &mut Vec<T>, value: T) -> i16 {
    values.push(value);
    1
}

/// See the head of the module.
pub struct Table<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<Column>,
    rows: usize,
    /// Of a group.
    most: usize,
    /// Of texts of its own.
    bytes: usize,
}

impl<W: Write + Send> fmt::Debug for Table<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl<W: Write + Send> Table<W> {
    /// A table with these columns and nothing in it.
    ///
    /// # Errors
    /// The output's.
    pub(super) fn new(output: W, name: &str, columns: &[(&str, Kind)]) -> io::Result<Table<W>> {
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
        let schema = parse_message_type(&schema).map_err(failed)?;
        let writer =
            SerializedFileWriter::new(output, Arc::new(schema), Arc::new(properties.build()));
        Ok(Table {
            writer: writer.map_err(failed)?,
            columns: columns.iter().map(|(_, kind)| Column::of(*kind)).collect(),
            rows: 0,
            most: ROWS,
            bytes: 0,
        })
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
        Ok(Table {
            most,
            ..Table::new(output, name, columns)?
        })
    }

    /// Adds a row, with a value for each column.
    ///
    /// # Errors
    /// The output's.
    pub(super) fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            if let Cell::Text(text) = cell {
                self.bytes += text.len();
            }
            column.push(*cell);
        }
        self.rows += 1;
        match self.rows >= self.most || self.bytes >= BYTES {
            true => self.write().map_err(failed),
            false => Ok(()),
        }
    }

    /// Writes the rows that wait, as a group.
    fn write(&mut self) -> Result<(), ParquetError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for column in &mut self.columns {
            let has = Some(column.has.as_slice());
            let Some(mut writer) = group.next_column()? else {
                break;
            };
            match &column.values {
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
            };
            writer.close()?;
            column.clear();
        }
        group.close()?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    /// Writes what is left, and what is said of the whole.
    ///
    /// # Errors
    /// The output's.
    pub(super) fn finish(self, about: &[(&'static str, String)]) -> io::Result<()> {
        self.into_file(about).map(drop)
    }

    /// The same, and gives the output back.
    ///
    /// # Errors
    /// The output's.
    pub(super) fn into_file(mut self, about: &[(&'static str, String)]) -> io::Result<W> {
        self.write().map_err(failed)?;
        for (key, value) in about {
            self.writer
                .append_key_value_metadata(KeyValue::new((*key).to_owned(), value.clone()));
        }
        self.writer.into_inner().map_err(failed)
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
