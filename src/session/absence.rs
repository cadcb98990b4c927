//! How long processes of a session run that nothing is seen of.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::process::{self, Identity};

/// Most processes whose time is taken at once.
const MOST: usize = 1 << 16;

/// The time of all of them together. It is a lower bound: what ended before anybody looked is not in it, and who becomes another
/// program counts from when that was noticed.
#[derive(Debug)]
pub(crate) struct Absence {
    /// When the session began.
    live: Instant,
    open: HashMap<Identity, Instant>,
    over: Duration,
}

impl Absence {
    /// For a session that begins now.
    pub(crate) fn beginning() -> Absence {
        Absence {
            live: Instant::now(),
            open: HashMap::new(),
            over: Duration::ZERO,
        }
    }

    /// This process runs, and nothing is seen of it.
    pub(crate) fn begin(&mut self, process: Identity) {
        if self.open.len() >= MOST {
            return;
        }
        let now = Instant::now();
        let began = now.checked_sub(process::age(process.start_time));
        // One that was there before has just become another program.
        let since = began.filter(|began| *began >= self.live).unwrap_or(now);
        self.open.entry(process).or_insert(since);
    }

    /// The same for one that was not seen from the beginning.
    pub(crate) fn begin_with_session(&mut self, process: Identity) {
        if self.open.len() < MOST {
            self.open.insert(process, self.live);
        }
    }

    /// It is seen now, or has ended.
    pub(crate) fn end(&mut self, process: Identity) {
        if let Some(since) = self.open.remove(&process) {
            self.over = self.over.saturating_add(since.elapsed());
        }
    }

    /// It was seen from the beginning.
    pub(crate) fn cancel(&mut self, process: Identity) {
        self.open.remove(&process);
    }

    /// Ends the time of those that have ended.
    pub(crate) fn look(&mut self) {
        let ended = |it: &&Identity| process::has_ended(it.pid, it.start_time);
        let ended: Vec<Identity> = self.open.keys().filter(ended).copied().collect();
        for process in ended {
            self.end(process);
        }
    }

    /// The time until now.
    pub(crate) fn total(&self) -> Duration {
        let open = self.open.values().map(Instant::elapsed);
        open.fold(self.over, Duration::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::python::waiting::{PYTHON, Waiting};

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn time_is_taken_from_the_start_of_a_process_until_its_end() {
        let mut absence = Absence::beginning();
        let ours = Identity::of(std::process::id()).expect("it runs");
        let mut process = Waiting::python(Path::new(PYTHON), &["x"]);
        let identity = Identity::of(process.pid()).expect("it runs");
        let started = Instant::now();
        absence.begin(identity);
        absence.begin_with_session(ours);
        while started.elapsed() < Duration::from_millis(50) {
            std::thread::yield_now();
        }
        assert!(absence.total() >= 2 * started.elapsed() - Duration::from_millis(2));
        absence.end(ours);
        process.leave_zombie();
        absence.look();
        let total = absence.total();
        assert!(total >= 2 * Duration::from_millis(50), "{total:?}");
        assert_eq!(absence.total(), total, "nobody's time goes on");
    }
}
