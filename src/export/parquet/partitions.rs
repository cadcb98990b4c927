//! The table of events as many files: one directory for each host and hour, in the way in which Hive, DuckDB, ClickHouse and Spark
//! find columns in paths (`service=nova/host=web1/hour=2026-11-29T19/part-0.parquet`).

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::columns::EVENTS;
use super::table::{Cell, ROWS, Table};

/// Files that are written at once. With more hosts, the one that was not written to for longest ends, and another part begins.
const OPEN: usize = 32;
/// Rows of a group, so that the groups of all files that are open take no more than those of a single one.
const GROUP: usize = ROWS / OPEN;
/// Longest value in a path, in bytes.
const LONGEST: usize = 200;
/// Nanoseconds of an hour.
const HOUR: u64 = 3_600_000_000_000;

/// Where the files of a partitioned table come from, and go when they are whole.
pub trait Files {
    /// A file.
    type File: Write + Send;

    /// Begins a part in a directory below where the table is.
    ///
    /// # Errors
    /// The system's.
    fn begin(&mut self, directory: &Path) -> io::Result<Self::File>;

    /// Puts a part in its place.
    ///
    /// # Errors
    /// The system's.
    fn complete(&mut self, file: Self::File) -> io::Result<()>;
}

/// See the head of the module.
pub struct Partitions<F: Files> {
    files: F,
    service: String,
    open: HashMap<(String, u64), Part<F::File>>,
    /// Rows so far.
    rows: u64,
}

struct Part<W: Write + Send> {
    table: Table<W>,
    /// When it was last written to, in rows.
    used: u64,
}

impl<F: Files> fmt::Debug for Partitions<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Partitions")
            .field("open", &self.open.len())
            .finish_non_exhaustive()
    }
}

impl<F: Files> Partitions<F> {
    /// A table of events of this service.
    pub fn new(files: F, service: &str) -> Partitions<F> {
        Partitions {
            files,
            service: service.to_owned(),
            open: HashMap::new(),
            rows: 0,
        }
    }

    /// Adds a row of this host and time.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn row(&mut self, host: &str, ts: u64, cells: &[Cell<'_>]) -> io::Result<()> {
        let key = (host.to_owned(), ts / HOUR);
        self.rows += 1;
        if !self.open.contains_key(&key) {
            self.make_room(&key)?;
            let place = self.place(&key);
            let file = self.files.begin(&place)?;
            let table = Table::with_groups(file, "events", &EVENTS, GROUP)?;
            self.open.insert(key.clone(), Part { table, used: 0 });
        }
        match self.open.get_mut(&key) {
            Some(part) => {
                part.used = self.rows;
                part.table.row(cells)
            }
            None => Ok(()),
        }
    }

    /// Ends what is not needed any longer: earlier hours of the host, and what was not used for longest.
    fn make_room(&mut self, next: &(String, u64)) -> io::Result<()> {
        let before = |key: &&(String, u64)| key.0 == next.0 && key.1 + 1 < next.1;
        let mut over: Vec<(String, u64)> = self.open.keys().filter(before).cloned().collect();
        if self.open.len() - over.len() >= OPEN {
            let oldest = self.open.iter().min_by_key(|(_, part)| part.used);
            over.extend(oldest.map(|(key, _)| key.clone()));
        }
        for key in over {
            if let Some(part) = self.open.remove(&key) {
                let file = part.table.into_file(&[])?;
                self.files.complete(file)?;
            }
        }
        Ok(())
    }

    fn place(&self, (host, hour): &(String, u64)) -> PathBuf {
        let begin = UNIX_EPOCH + Duration::from_nanos(hour.saturating_mul(HOUR));
        let time = humantime::format_rfc3339_seconds(begin).to_string();
        let hour: String = time.chars().take("2026-11-29T19".len()).collect();
        let value = |name: &str, value: &str| format!("{name}={}", in_path(value));
        PathBuf::from(value("service", &self.service))
            .join(value("host", host))
            .join(value("hour", &hour))
    }

    /// Writes what is left, and what is said of the whole into each file that is open.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn finish(mut self, said: &[(&'static str, String)]) -> io::Result<()> {
        for (_, part) in self.open.drain() {
            let file = part.table.into_file(said)?;
            self.files.complete(file)?;
        }
        Ok(())
    }
}

/// A value as it stands in a path: what is not plain as `%` and two digits, as Hive has it.
fn in_path(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        if out.len() >= LONGEST {
            break;
        }
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    match out.is_empty() {
        true => "__HIVE_DEFAULT_PARTITION__".to_owned(),
        false => out,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Files in memory, and how many of each directory are whole.
    #[derive(Default)]
    struct Memory {
        begun: Vec<PathBuf>,
        whole: usize,
        most: usize,
    }

    impl Files for &mut Memory {
        type File = Vec<u8>;

        fn begin(&mut self, directory: &Path) -> io::Result<Vec<u8>> {
            self.begun.push(directory.to_owned());
            self.most = self.most.max(self.begun.len() - self.whole);
            Ok(Vec::new())
        }

        fn complete(&mut self, file: Vec<u8>) -> io::Result<()> {
            assert!(file.starts_with(b"PAR1") && file.ends_with(b"PAR1"));
            self.whole += 1;
            Ok(())
        }
    }

    fn parts(rows: impl IntoIterator<Item = (String, u64)>) -> (Memory, BTreeMap<String, usize>) {
        let mut memory = Memory::default();
        let mut table = Partitions::new(&mut memory, "nova");
        for (host, hour) in rows {
            let mut cells = [Cell::Nothing; EVENTS.len()];
            cells[0] = Cell::number(hour * HOUR);
            table.row(&host, hour * HOUR, &cells).expect("memory");
        }
        table.finish(&[]).expect("memory");
        let mut count = BTreeMap::new();
        for place in &memory.begun {
            *count.entry(place.display().to_string()).or_default() += 1;
        }
        (memory, count)
    }

    #[test]
    fn each_host_and_hour_has_a_directory_and_what_is_not_plain_is_written_as_numbers() {
        let row = |host: &str, hour| (host.to_owned(), hour);
        let (memory, count) = parts([row("web1", 1), row("a/../b", 1), row("web1", 2), row("", 2)]);
        let of = |host: &str, hour: &str| {
            (
                format!("service=nova/host={host}/hour=1970-01-01T{hour}"),
                1,
            )
        };
        assert_eq!(
            count,
            BTreeMap::from([
                of("web1", "01"),
                of("web1", "02"),
                of("a%2F..%2Fb", "01"),
                of("__HIVE_DEFAULT_PARTITION__", "02"),
            ])
        );
        assert_eq!(memory.whole, 4);
    }

    #[test]
    fn with_more_hosts_than_files_there_are_more_parts_and_not_more_files_at_once() {
        let hosts = || (0..3 * OPEN).map(|host| (format!("web{host}"), 1));
        let (memory, count) = parts(hosts().chain(hosts()));
        assert!(memory.most <= OPEN, "{}", memory.most);
        assert_eq!((count.len(), memory.whole), (3 * OPEN, memory.begun.len()));
    }

    #[test]
    fn hours_that_are_over_are_whole_before_the_end() {
        let (memory, _) = parts((0..100).map(|hour| ("web1".to_owned(), hour)));
        assert!(memory.most <= 3, "{}", memory.most);
        assert_eq!(memory.whole, 100);
    }
}
