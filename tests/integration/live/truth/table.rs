//! The tables that `docs/truth.md` and `docs/events.md` have of what these tests see: read, compared, and with
//! `PYSTAP_RENEW=1` written anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cells::Cell;
use super::interpreters::Way;

/// Columns, in the order in which the program goes through them.
const CONSTRUCTS: [&str; 16] = [
    "plain",
    "recursion",
    "first recursion",
    "exception",
    "callback",
    "compiled",
    "generator",
    "throw",
    "close",
    "coroutine",
    "async generator",
    "greenlet",
    "thread",
    "C thread",
    "fork",
    "exec",
];
const ENDINGS: [&str; 6] = [
    "close() at a plain yield",
    "close() within try",
    "dropped at a plain yield",
    "dropped within try",
    "close() before the start",
    "close() of a coroutine at await",
];

/// Which interpreter, in which version, and where calls come from. Sorted as the documents have them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    version: Vec<u32>,
    from: String,
    way: String,
}

impl Name {
    /// Whether this is another release of the same.
    fn succeeds(&self, other: &Name) -> bool {
        let minor = |name: &Name| name.version.iter().take(2).copied().collect::<Vec<_>>();
        (minor(self), &self.from, &self.way) == (minor(other), &other.from, &other.way)
    }

    fn cells(&self) -> [String; 3] {
        let version: Vec<String> = self.version.iter().map(u32::to_string).collect();
        [version.join("."), self.from.clone(), self.way.clone()]
    }

    fn of(cells: &[String]) -> Option<Name> {
        let version: Option<Vec<u32>> = cells
            .first()?
            .split('.')
            .map(|number| number.parse().ok())
            .collect();
        Some(Name {
            version: version?,
            from: cells.get(1)?.clone(),
            way: cells.get(2)?.clone(),
        })
    }
}

/// What was seen: rows of both tables.
#[derive(Debug, Default)]
pub(super) struct Rows {
    constructs: BTreeMap<Name, BTreeMap<String, String>>,
    endings: BTreeMap<Name, BTreeMap<String, String>>,
}

impl Rows {
    pub(super) fn add(
        &mut self,
        from: &str,
        version: &str,
        way: Way,
        constructs: BTreeMap<String, Cell>,
        [alone, profiled]: [BTreeMap<String, String>; 2],
    ) {
        let name = Name {
            version: version
                .split('.')
                .filter_map(|number| number.parse().ok())
                .collect(),
            from: from.to_owned(),
            way: way.words().to_owned(),
        };
        let words = constructs
            .into_iter()
            .map(|(name, cell)| (name, cell.words().to_owned()));
        self.constructs.insert(name.clone(), words.collect());
        let way = format!("{}, beside a profiler", name.way);
        let beside = Name {
            way,
            ..name.clone()
        };
        self.endings.insert(name, alone);
        self.endings.insert(beside, profiled);
    }

    /// Compares with the documents, or writes them.
    pub(super) fn agree_with_the_documents(&self) {
        agree("docs/truth.md", &CONSTRUCTS, &self.constructs);
        agree("docs/events.md", &ENDINGS, &self.endings);
    }
}

const BEGIN: &str = "<!-- Written by scripts/truth on ";
const END: &str = "<!-- The end of what scripts/truth writes. -->";

fn agree(document: &str, columns: &[&str], seen: &BTreeMap<Name, BTreeMap<String, String>>) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{document}: {error}"));
    let missing = || panic!("{document} has lost the marks of its table");
    let (before, rest) = text.split_once(BEGIN).unwrap_or_else(missing);
    let (table, after) = rest.split_once(END).unwrap_or_else(missing);
    let mut rows = rows(table, columns);
    if std::env::var_os("PYSTAP_RENEW").is_none() {
        compare(document, &rows, seen);
        return;
    }
    for (name, cells) in seen {
        rows.retain(|other, _| !name.succeeds(other));
        rows.insert(name.clone(), cells.clone());
    }
    let today = Command::new("date")
        .args(["-u", "+%F"])
        .output()
        .expect("it runs");
    let today = String::from_utf8_lossy(&today.stdout);
    let table = written(columns, &rows);
    let text = format!(
        "{before}{BEGIN}{}. -->\n\n{table}\n{END}{after}",
        today.trim()
    );
    fs::write(&path, text).expect("written");
}

/// Another release than the one in the table may do otherwise; the numbers were looked at in any case.
fn compare(
    document: &str,
    rows: &BTreeMap<Name, BTreeMap<String, String>>,
    seen: &BTreeMap<Name, BTreeMap<String, String>>,
) {
    let mut wrong = Vec::new();
    for (name, cells) in seen {
        let Some(row) = rows.get(name) else {
            println!(
                "{document} has no row for {:?}: scripts/truth writes it",
                name.cells()
            );
            continue;
        };
        for (column, cell) in cells {
            // What could not be tried there or here is no difference.
            match row.get(column) {
                Some(says) if says != cell => {
                    wrong.push(format!(
                        "{:?}, {column}: {cell}, and not {says}",
                        name.cells()
                    ));
                }
                _ => {}
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{document} says something else than the runs: {wrong:#?}; scripts/truth writes it anew"
    );
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner
        .split('|')
        .map(|cell| cell.trim().to_owned())
        .collect()
}

fn rows(table: &str, columns: &[&str]) -> BTreeMap<Name, BTreeMap<String, String>> {
    let lines = table.lines().filter(|line| line.starts_with('|'));
    let parsed = lines.filter_map(|line| {
        let cells = cells(line);
        let name = Name::of(&cells)?;
        let tried = columns.iter().zip(cells.iter().skip(3));
        let tried = tried.filter(|(_, cell)| !cell.is_empty());
        Some((
            name,
            tried
                .map(|(column, cell)| ((*column).to_owned(), cell.clone()))
                .collect(),
        ))
    });
    parsed.collect()
}

fn written(columns: &[&str], rows: &BTreeMap<Name, BTreeMap<String, String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | ").replace("|  |", "| |"));
    let head = ["Python", "from", "way"].iter().chain(columns);
    let head: Vec<String> = head.map(|cell| (*cell).to_owned()).collect();
    let mut text = line(&head);
    text.push_str(&format!("{}|\n", "|---".repeat(head.len())));
    for (name, row) in rows {
        let tried = columns
            .iter()
            .map(|column| row.get(*column).cloned().unwrap_or_default());
        text.push_str(&line(
            &name.cells().into_iter().chain(tried).collect::<Vec<_>>(),
        ));
    }
    text
}

#[test]
#[ignore = "is about the tables of these tests: run by tests/uprobes/run"]
fn a_table_that_was_written_is_read_as_it_was() {
    let name = |version: &[u32]| Name {
        version: version.to_vec(),
        from: "Debian 12".to_owned(),
        way: "own probes".to_owned(),
    };
    let row = |cells: &[(&str, &str)]| {
        let cells = cells
            .iter()
            .map(|(column, cell)| ((*column).to_owned(), (*cell).to_owned()));
        cells.collect::<BTreeMap<_, _>>()
    };
    let before = BTreeMap::from([
        (
            name(&[3, 9, 2]),
            row(&[("plain", "exact"), ("exec", "not seen")]),
        ),
        (name(&[3, 11, 2]), row(&[("greenlet", "left out")])),
    ]);
    let text = written(&CONSTRUCTS, &before);
    assert!(text.find("3.9.2") < text.find("3.11.2"), "{text}");
    assert_eq!(rows(&text, &CONSTRUCTS), before, "{text}");
    assert!(
        name(&[3, 9, 9]).succeeds(&name(&[3, 9, 2]))
            && !name(&[3, 9, 2]).succeeds(&name(&[3, 11, 2]))
    );
}
