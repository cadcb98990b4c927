//! The search for processes that start while a session runs, on a thread of its own. The session's loop looks only at
//! its own targets. What is found is handed over whenever the session asks for it.
//!
//! The whole host is looked at once per second, for `--match`, `--python` and `--service`. Who joins and who leaves is
//! named. A table that covers the terminal takes such messages from the console and shows the last one; afterwards all
//! of them are written.

use std::io;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::process::{self, Family, Newcomers, Process, Searched, Selection};
use crate::threads;

/// How often the system is searched.
const SEARCH: Duration = Duration::from_secs(1);

/// What one search found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Processes that are targets, where such are searched for.
    pub(crate) newcomers: Option<Newcomers>,
    /// Who descends from the launched command, with their arguments, where that is asked for.
    pub(crate) children: Vec<(u32, Vec<String>)>,
    /// Pythons of the family that run files which are not probed, each once.
    pub(crate) strangers: Vec<Process>,
}

/// A search that is repeated until this is dropped.
#[derive(Debug)]
pub(crate) struct Search {
    found: Receiver<Found>,
    /// Nobody waits for the thread: it may be stuck.
    _going: Sender<()>,
}

impl Search {
    /// Begins to search for targets of this selection, for descendants of this process, and for strangers in this family.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn begin(
        selection: Option<Selection>,
        launched: Option<u32>,
        family: Option<Family>,
    ) -> io::Result<Search> {
        // One finding waits at most: whoever does not take it does not make us search on.
        let (sender, found) = bounded(1);
        let (going, ended) = bounded::<()>(0);
        threads::spawn(move || {
            let mut searched = Searched::default();
            while ended
                .recv_timeout(SEARCH)
                .is_err_and(|error| error.is_timeout())
            {
                let found = Found {
                    newcomers: selection
                        .as_ref()
                        .and_then(|selection| selection.search(&mut searched).ok()),
                    children: launched
                        .and_then(|pid| process::descendants(pid, &mut searched).ok())
                        .unwrap_or_default(),
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
        Ok(Search {
            found,
            _going: going,
        })
    }

    /// What was found since this was last asked.
    pub(crate) fn take(&self) -> Option<Found> {
        self.found.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::python::waiting::{PYTHON, Waiting};

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn who_begins_later_and_descends_from_the_launched_command_is_found_beside_the_session() {
        let directory = tempfile::tempdir().expect("a directory");
        let copy = directory.path().join("python3.11");
        std::fs::copy(PYTHON, &copy).expect("copied");
        let selection = Selection {
            pattern: regex::Regex::new("found-by-a-search-[0-9]").ok(),
            ..Selection::default()
        };
        let search =
            Search::begin(Some(selection), Some(std::process::id()), None).expect("a thread");
        let later = Waiting::python(&copy, &["found-by-a-search-1"]);
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < end, "never found");
            let Some(found) = search.take() else {
                std::thread::park_timeout(Duration::from_millis(10));
                continue;
            };
            let newcomers = found.newcomers.expect("searched for");
            let is_newcomer = newcomers.processes.iter().any(|it| it.pid == later.pid());
            let is_child = found.children.iter().any(|(pid, _)| *pid == later.pid());
            if is_newcomer && is_child {
                break;
            }
        }
    }
}
