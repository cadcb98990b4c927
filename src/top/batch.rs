//! Tables as lines, for people and for programs.

use std::io::{self, Write};
use std::time::Duration;

use super::Snapshot;
use crate::analysis::functions::Function;
use crate::export::Output;
use crate::text::harmless;
use crate::view::hot;

/// How tables are written as lines.
#[derive(Debug)]
pub struct Batch {
    /// Where to.
    pub output: Output,
    /// Between two tables.
    pub interval: Duration,
    /// Tables after which the session ends.
    pub count: Option<u64>,
    /// Rows of a table.
    pub limit: usize,
    /// By what they are sorted.
    pub sort: hot::Column,
    /// Whether a function has a row for each process.
    pub by_process: bool,
    /// Whether they are for programs.
    pub json: bool,
    /// Which functions are traced, in words, where not all are; the session says it.
    pub filter: Option<String>,
    /// Whether idleness is shown.
    pub idle: bool,
    /// The table before, where each is to hold what happened since that.
    pub since: Option<Snapshot>,
}

impl Batch {
    /// Writes one table.
    pub(super) fn write(&mut self, snapshot: Snapshot) -> io::Result<()> {
        let snapshot = match &mut self.since {
            Some(before) => {
                let since = snapshot.since(before);
                *before = snapshot;
                since
            }
            None => snapshot,
        };
        let functions = &snapshot.functions;
        let account = hot::TableAccount {
            with_idle: self.idle,
            ..snapshot.account
        };
        let rows = match self.by_process {
            true => functions.rows().to_vec(),
            false => functions.merged(),
        };
        let order = hot::order(&rows, &account, self.sort, false, |_| true);
        let shown = order.iter().take(self.limit).filter_map(|&at| rows.get(at));
        if self.json {
            let not_shown = order.len().saturating_sub(self.limit);
            hot::write_json(&account, shown, not_shown, &mut self.output)?;
        } else {
            let mut text = String::new();
            let filter = self.filter.as_deref();
            table(shown, &account, self.by_process, filter, &mut text);
            self.output.write_all((harmless(&text) + "\n").as_bytes())?;
        }
        self.output.flush()
    }
}

/// A table as text.
pub(super) fn table<'a>(
    rows: impl Iterator<Item = &'a Function>,
    account: &hot::TableAccount,
    by_process: bool,
    filter: Option<&str>,
    text: &mut String,
) {
    text.push_str(&format!(
        "{}\n{}\n",
        hot::account_line(account, filter),
        hot::heading(account, by_process)
    ));
    let rows: Vec<&Function> = rows.collect();
    for row in &rows {
        text.push_str(&hot::line(row, account, by_process));
        text.push('\n');
    }
    text.push_str(&hot::notes(rows.into_iter(), account));
}
