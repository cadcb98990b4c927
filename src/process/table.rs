//! The process table at one moment: which processes run, since when, their parents and their arguments.

use std::collections::{BTreeMap, HashSet};

use procfs::{ProcError, ProcResult};

use super::within::{Budget, within};
use super::{TargetError, stat};
use crate::python;
use crate::service::Seen;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub pid: u32,
    pub parent: u32,
    /// Clock ticks since boot.
    pub start_time: u64,
    pub comm: String,
    pub command_line: Vec<String>,
}

impl Entry {
    /// The process as it is now; `None` when there is none.
    ///
    /// # Errors
    ///
    /// As [`stat()`].
    pub(super) fn of(pid: u32) -> ProcResult<Option<Entry>> {
        Ok(stat(pid)?.map(|stat| Entry {
            pid,
            // The kernel has no negative IDs.
            parent: u32::try_from(stat.ppid).unwrap_or(0),
            start_time: stat.starttime,
            comm: stat.comm,
            command_line: command_line(pid),
        }))
    }
}

impl Entry {
    /// What it reveals to those who look for services.
    pub(super) fn seen(&self) -> Seen {
        let first = self.command_line.first().map_or("", String::as_str);
        let server = first.rsplit('/').next().unwrap_or(first);
        Seen {
            comm: self.comm.clone(),
            arguments: self.command_line.clone(),
            // Only where it can tell more than the arguments do: an environment may hold secrets.
            environment: match server.starts_with("uwsgi") {
                true => environment(self.pid),
                false => Vec::new(),
            },
        }
    }
}

/// The variables that name an application; empty when we may not look.
fn environment(pid: u32) -> Vec<(String, String)> {
    let bytes = python::beginning(pid, "environ");
    bytes
        .split(|&byte| byte == 0)
        .filter_map(|variable| {
            let variable = String::from_utf8_lossy(variable);
            let (name, value) = variable.split_once('=')?;
            crate::service::VARIABLES
                .contains(&name)
                .then(|| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The arguments; empty for kernel threads and zombies. Not through `procfs`, which refuses what is not UTF-8.
fn command_line(pid: u32) -> Vec<String> {
    let bytes = python::beginning(pid, "cmdline");
    arguments(&bytes)
}

/// Splits at NUL. setproctitle leaves padding behind, so trailing NULs are not empty arguments.
pub(super) fn arguments(bytes: &[u8]) -> Vec<String> {
    let end = bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    let (text, _) = bytes.split_at(end);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|&byte| byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

/// The value that was read; `None` when the process has ended or is hidden from us (`hidepid`). Any other failure is an
/// error, because a table with such a gap would be taken for complete.
fn seen<T>(looked_at: ProcResult<T>) -> ProcResult<Option<T>> {
    match looked_at {
        Ok(seen) => Ok(Some(seen)),
        Err(ProcError::NotFound(_) | ProcError::PermissionDenied(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All processes, by ID.
#[derive(Debug, Default)]
pub(super) struct Table(BTreeMap<u32, Entry>);

impl Table {
    /// Reads /proc once, and also returns the processes that could not be read in time: those that it got stuck on, and
    /// those for which no time was left. Processes that end meanwhile are left out, and so are those in `passed_over`.
    pub(super) fn read(
        budget: Budget,
        passed_over: &HashSet<u32>,
    ) -> Result<(Table, Vec<u32>, Vec<u32>), TargetError> {
        let failed = |reason| TargetError::Table { reason };
        let mut pids = Vec::new();
        for process in procfs::process::all_processes().map_err(failed)? {
            let Some(process) = seen(process).map_err(failed)? else {
                continue;
            };
            pids.extend(u32::try_from(process.pid).ok());
        }
        pids.retain(|pid| !passed_over.contains(pid));
        let looked = within(budget, pids, (), |pid: &u32, (): &mut ()| Entry::of(*pid));
        let mut table = Vec::new();
        for entry in looked.done {
            table.extend(seen(entry).map_err(failed)?.flatten());
        }
        Ok((table.into_iter().collect(), looked.stuck, looked.unreached))
    }

    pub(super) fn remove(&mut self, pid: u32) {
        self.0.remove(&pid);
    }

    pub(super) fn get(&self, pid: u32) -> Option<&Entry> {
        self.0.get(&pid)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.values()
    }

    /// The process and all its ancestors.
    pub(super) fn ancestors(&self, pid: u32) -> HashSet<u32> {
        let mut line = HashSet::new();
        let mut next = Some(pid);
        while let Some(pid) = next {
            // A table that was read while processes came and went may contain a cycle.
            if !line.insert(pid) {
                break;
            }
            next = self.get(pid).map(|entry| entry.parent);
        }
        line
    }

    /// The children of `roots`, their children, and so on, without `roots`.
    pub(super) fn descendants(&self, roots: &[u32]) -> HashSet<u32> {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in self.entries() {
            children.entry(entry.parent).or_default().push(entry.pid);
        }
        let mut found = HashSet::new();
        let mut unvisited = roots.to_vec();
        while let Some(parent) = unvisited.pop() {
            for &child in children.get(&parent).into_iter().flatten() {
                if found.insert(child) {
                    unvisited.push(child);
                }
            }
        }
        found.retain(|pid| !roots.contains(pid));
        found
    }
}

impl FromIterator<Entry> for Table {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Table {
        Table(
            entries
                .into_iter()
                .map(|entry| (entry.pid, entry))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(processes: &[(u32, u32)]) -> Table {
        processes
            .iter()
            .map(|&(pid, parent)| Entry {
                pid,
                parent,
                start_time: 0,
                comm: String::new(),
                command_line: Vec::new(),
            })
            .collect()
    }

    #[test]
    fn arguments_are_split_and_the_padding_of_rewritten_titles_is_dropped() {
        assert_eq!(
            arguments(b"python3\0\0-c\0pass\0"),
            ["python3", "", "-c", "pass"]
        );
        assert_eq!(
            arguments(b"nova-conductor: worker(0)\0\0\0\0"),
            ["nova-conductor: worker(0)"]
        );
        assert_eq!(arguments(b"caf\xe9\0"), ["caf\u{fffd}"]);
        assert_eq!(arguments(b"\0\0"), Vec::<String>::new());
        assert_eq!(arguments(b""), Vec::<String>::new());
    }

    #[test]
    fn descendants_are_the_whole_tree_below() {
        let table = table(&[(1, 0), (10, 1), (11, 10), (12, 11), (20, 1)]);
        assert_eq!(table.descendants(&[10]), HashSet::from([11, 12]));
        assert_eq!(table.descendants(&[12]), HashSet::new());
        assert_eq!(table.descendants(&[10, 11]), HashSet::from([12]));
    }

    #[test]
    fn ancestors_reach_up_to_the_first_process_and_include_oneself() {
        let table = table(&[(1, 0), (10, 1), (11, 10), (20, 1)]);
        assert_eq!(table.ancestors(11), HashSet::from([11, 10, 1, 0]));
    }

    #[test]
    fn a_circle_in_the_table_is_walked_once() {
        let table = table(&[(5, 6), (6, 5)]);
        assert_eq!(table.ancestors(5), HashSet::from([5, 6]));
        assert_eq!(table.descendants(&[5]), HashSet::from([6]));
    }

    #[test]
    fn this_process_is_in_the_table_with_its_parent() {
        let (table, stuck, unreached) =
            Table::read(Budget::COMMAND, &HashSet::new()).expect("/proc");
        assert_eq!((stuck, unreached), (vec![], vec![]));
        let us = table.get(std::process::id()).expect("we run");
        assert_eq!(us.parent, std::os::unix::process::parent_id());
        assert!(us.start_time > 0);
        assert_eq!(us.command_line, std::env::args().collect::<Vec<_>>());
        assert!(table.descendants(&[us.parent]).contains(&us.pid));
    }
}
