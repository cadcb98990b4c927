//! The search for processes that start while a session runs, on a thread of its own. The session's loop looks only at
//! its own targets. What is found is handed over whenever the session asks for it.
//!
//! The whole host is looked at once per second, for `--match`, `--python` and `--service`. Who joins and who leaves is
//! named. A table that covers the terminal takes such messages from the console and shows the last one; afterwards all
//! of them are written.

use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::process::{Family, Newcomers, Process, Searched, Selection, ToCome};
use crate::threads;

/// How often the system is searched.
const SEARCH: Duration = Duration::from_secs(1);

/// The same where something is known to have begun.
const SOON: Duration = Duration::from_millis(200);

/// What one search found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Processes that are targets, where such are searched for.
    pub(crate) newcomers: Option<Newcomers>,
    /// Pythons of the family that run files which are not probed, each once after each exec.
    pub(crate) strangers: Vec<Process>,
}

/// A search that is repeated until this is dropped.
#[derive(Debug)]
pub(crate) struct Search {
    found: Receiver<Found>,
    /// Has it search soon. Nobody waits for the thread, which ends when this is gone: it may be stuck.
    soon: Sender<()>,
}

impl Search {
    /// What such a search finds of targets, for who has no loop of a session.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn to_come(selection: Selection) -> io::Result<ToCome> {
        let is_open = selection.is_open();
        let search = Search::begin(Some(selection), None)?;
        Ok(ToCome {
            found: Box::new(move || search.take()?.newcomers),
            is_open,
        })
    }

    /// Begins to search for targets of this selection, and for strangers in this family.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn begin(
        selection: Option<Selection>,
        family: Option<Family>,
    ) -> io::Result<Search> {
        // One finding waits at most: whoever does not take it does not make us search on.
        let (sender, found) = bounded(1);
        let (soon, wishes) = bounded::<()>(1);
        threads::spawn(move || {
            let mut searched = Searched::default();
            loop {
                let begun = Instant::now();
                match wishes.recv_timeout(SEARCH) {
                    // Not more often than that, whatever begins.
                    Ok(()) => thread::sleep(SOON.saturating_sub(begun.elapsed())),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                let found = Found {
                    newcomers: selection
                        .as_ref()
                        .and_then(|selection| selection.search(&mut searched).ok()),
                    strangers: family
                        .as_ref()
                        .and_then(|family| family.strangers(&mut searched).ok())
                        .unwrap_or_default(),
                };
                if sender.send(found).is_err() {
                    return;
                }
            }
        })?;
        Ok(Search { found, soon })
    }

    /// Searches soon, because something has begun.
    pub(crate) fn hurry(&self) {
        let _ = self.soon.try_send(());
    }

    /// What was found since this was last asked.
    pub(crate) fn take(&self) -> Option<Found> {
        self.found.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::process::Identity;
    use crate::python::waiting::{PYTHON, Waiting};

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn who_begins_later_and_descends_from_a_target_is_found_beside_the_session() {
        let directory = tempfile::tempdir().expect("a directory");
        let copy = directory.path().join("python3.11");
        std::fs::copy(PYTHON, &copy).expect("copied");
        let selection = Selection {
            pattern: regex::Regex::new("found-by-a-search-[0-9]").ok(),
            ..Selection::default()
        };
        let family = Family {
            roots: Identity::of(std::process::id()).into_iter().collect(),
            descendants: true,
            files: HashSet::new(),
        };
        let search = Search::begin(Some(selection), Some(family)).expect("a thread");
        let later = Waiting::python(&copy, &["found-by-a-search-1"]);
        let is_later = |it: &Process| it.pid == later.pid();
        let end = Instant::now() + Duration::from_secs(60);
        let (mut is_newcomer, mut is_stranger) = (false, false);
        while !(is_newcomer && is_stranger) {
            assert!(Instant::now() < end, "never found");
            let Some(found) = search.take() else {
                std::thread::park_timeout(Duration::from_millis(10));
                continue;
            };
            let newcomers = found.newcomers.expect("searched for");
            is_newcomer |= newcomers.processes.iter().any(is_later);
            is_stranger |= found.strangers.iter().any(is_later);
        }
    }
}
