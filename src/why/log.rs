//! What threads did, as long as a call may need it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::results::Unsplit;
use super::split::Off;

/// Most times without a processor that are kept of all threads. Beyond it the older half is given up.
const MOST: usize = 1 << 19;
/// Most descriptors that epolls were told to watch which are kept; the oldest are forgotten.
const MOST_REGISTERED: usize = 1 << 12;
/// Most times in which something may not have been seen. Beyond it nothing is known of what was before the oldest.
const MOST_GAPS: usize = 1 << 10;

/// See the head of the module.
#[derive(Debug, Default)]
pub(super) struct Log {
    threads: HashMap<u32, Timeline>,
    count: usize,
    /// Threads of which nothing is kept are known from here on.
    from: u64,
    /// What threads had epolls watch, and when, in the order of time.
    registered: VecDeque<(u32, u64, Arc<str>)>,
    gaps: VecDeque<(u64, u64)>,
    gaps_from: u64,
    /// Since when something may not be seen, if that goes on.
    blind: Option<u64>,
}

#[derive(Debug, Default)]
struct Timeline {
    offs: VecDeque<Off>,
    /// What was before is not kept.
    from: u64,
}

impl Log {
    /// A thread had no processor. To be told in the order of the ends.
    pub(super) fn add(&mut self, tid: u32, off: Off) {
        if self.count >= MOST {
            self.give_up_older();
        }
        let from = self.from;
        let timeline = self.threads.entry(tid).or_insert_with(|| Timeline {
            from,
            offs: VecDeque::new(),
        });
        timeline.offs.push_back(off);
        self.count += 1;
    }

    /// A thread had an epoll watch this.
    pub(super) fn registered(&mut self, tid: u32, at: u64, on: Arc<str>) {
        if self.registered.len() >= MOST_REGISTERED {
            self.registered.pop_front();
        }
        let place = self.registered.partition_point(|(_, it, _)| *it <= at);
        self.registered.insert(place, (tid, at, on));
    }

    /// What a thread had an epoll watch last between these moments, where that is known.
    pub(super) fn watched(&self, tid: u32, from: u64, to: u64) -> Option<Arc<str>> {
        let registered = &self.registered;
        let past = registered.partition_point(|(_, at, _)| *at <= to);
        let first = registered.partition_point(|(_, at, _)| *at < from);
        let mut within = registered.range(first.min(past)..past).rev();
        let latest = within.find(|(of, ..)| *of == tid);
        latest.map(|(.., on)| Arc::clone(on))
    }

    /// Something may not have been seen from one moment to another.
    pub(super) fn gap(&mut self, from: u64, to: u64) {
        if self.gaps.len() >= MOST_GAPS
            && let Some((_, to)) = self.gaps.pop_front()
        {
            self.gaps_from = self.gaps_from.max(to);
        }
        self.gaps.push_back((from, to));
    }

    /// Something may not be seen since then; `None` where all is.
    pub(super) fn blind(&mut self, since: Option<u64>) {
        self.blind = since;
    }

    /// When a thread had no processor, for a stretch of its time.
    ///
    /// # Errors
    /// Why that is not known.
    pub(super) fn of(&mut self, tid: u32, from: u64, to: u64) -> Result<&[Off], Unsplit> {
        let mut gaps = self.gaps.iter();
        if from < self.gaps_from
            || self.blind.is_some_and(|blind| to >= blind)
            || gaps.any(|gap| gap.0 <= to && gap.1 >= from)
        {
            return Err(Unsplit::Lost);
        }
        match self.threads.get_mut(&tid) {
            Some(timeline) if from < timeline.from => Err(Unsplit::TooMuch),
            Some(timeline) => Ok(timeline.offs.make_contiguous()),
            None if from < self.from => Err(Unsplit::TooMuch),
            None => Ok(&[]),
        }
    }

    /// Forgets what ended before this moment, or for the threads that `since` has a moment for, what ended before that one.
    pub(super) fn forget(&mut self, before: u64, since: &HashMap<u32, u64>) {
        let from = self.from;
        for tid in since.keys() {
            let timeline = self.threads.entry(*tid);
            timeline.or_insert_with(|| Timeline {
                from,
                offs: VecDeque::new(),
            });
        }
        for (tid, timeline) in &mut self.threads {
            let before = since.get(tid).map_or(before, |since| before.min(*since));
            timeline.forget(before);
        }
        self.from = self.from.max(before);
        let all_from = self.from;
        // One of which something was given up says so as long as anybody may ask for that time.
        self.threads.retain(|tid, timeline| {
            !timeline.offs.is_empty() || since.contains_key(tid) || timeline.from > all_from
        });
        self.recount();
        let oldest = since.values().copied().min();
        let oldest = oldest.map_or(before, |oldest| before.min(oldest));
        self.gaps.retain(|gap| gap.1 >= oldest);
    }

    fn give_up_older(&mut self) {
        for timeline in self.threads.values_mut() {
            let half = timeline.offs.len().div_ceil(2);
            if let Some(last) = half.checked_sub(1).and_then(|last| timeline.offs.get(last)) {
                let before = last.ended + 1;
                timeline.forget(before);
            }
        }
        self.recount();
    }

    fn recount(&mut self) {
        self.count = self.threads.values().map(|it| it.offs.len()).sum();
    }
}

impl Timeline {
    fn forget(&mut self, before: u64) {
        let gone = self.offs.partition_point(|off| off.ended < before);
        self.offs.drain(..gone);
        self.from = self.from.max(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off(began: u64, ended: u64) -> Off {
        Off {
            began,
            woken: began,
            ended,
            wait: None,
        }
    }

    fn known(log: &mut Log, tid: u32, from: u64, to: u64) -> Result<usize, Unsplit> {
        log.of(tid, from, to).map(<[Off]>::len)
    }

    #[test]
    fn what_touches_a_loss_is_not_known() {
        let mut log = Log::default();
        log.add(1, off(10, 20));
        log.gap(30, 40);
        assert_eq!(known(&mut log, 1, 5, 29), Ok(1));
        assert_eq!(known(&mut log, 1, 5, 30), Err(Unsplit::Lost));
        assert_eq!(known(&mut log, 1, 35, 36), Err(Unsplit::Lost));
        assert_eq!(known(&mut log, 2, 40, 50), Err(Unsplit::Lost));
        assert_eq!(known(&mut log, 2, 41, 50), Ok(0));
        log.blind(Some(60));
        assert_eq!(known(&mut log, 2, 41, 60), Err(Unsplit::Lost));
        log.blind(None);
        assert_eq!(known(&mut log, 2, 41, 60), Ok(0));
        for at in 100..101 + MOST_GAPS as u64 {
            log.gap(at, at);
        }
        assert_eq!(known(&mut log, 2, 41, 60), Err(Unsplit::Lost));
    }

    #[test]
    fn what_an_epoll_was_told_last_in_a_time_is_what_a_thread_waits_for() {
        let mut log = Log::default();
        for (tid, at, on) in [(1, 14, "c"), (1, 10, "a"), (2, 12, "b")] {
            log.registered(tid, at, on.into());
        }
        let watched = |tid, from, to| log.watched(tid, from, to);
        assert_eq!(watched(1, 5, 20).as_deref(), Some("c"));
        assert_eq!(watched(1, 5, 13).as_deref(), Some("a"));
        assert_eq!(watched(2, 5, 20).as_deref(), Some("b"));
        assert_eq!(watched(2, 13, 20), None);
        assert_eq!(watched(3, 5, 20), None);
        assert_eq!(watched(1, 20, 5), None);
    }

    #[test]
    fn what_open_calls_need_is_kept_and_nobody_is_told_of_a_part() {
        let mut log = Log::default();
        for tid in [1, 2] {
            log.add(tid, off(10, 20));
            log.add(tid, off(50, 60));
        }
        log.forget(55, &HashMap::from([(1, 5), (3, 7)]));
        assert_eq!(known(&mut log, 1, 5, 70), Ok(2));
        assert_eq!(known(&mut log, 2, 5, 70), Err(Unsplit::TooMuch));
        assert_eq!(known(&mut log, 2, 55, 70), Ok(1));
        assert_eq!(known(&mut log, 3, 7, 70), Ok(0));
        assert_eq!(known(&mut log, 4, 7, 70), Err(Unsplit::TooMuch));
        assert_eq!(known(&mut log, 4, 56, 70), Ok(0));
    }

    #[test]
    fn beyond_the_bound_the_older_half_goes() {
        let mut log = Log::default();
        for at in 0..=MOST as u64 {
            log.add(1, off(at * 2, at * 2 + 1));
        }
        assert!(log.count <= MOST / 2 + 1);
        assert_eq!(known(&mut log, 1, 0, 9), Err(Unsplit::TooMuch));
        assert!(known(&mut log, 1, MOST as u64 + 10, MOST as u64 + 20).is_ok());
    }

    #[test]
    fn a_thread_of_which_all_was_given_up_is_not_one_that_always_ran() {
        let mut log = Log::default();
        log.add(2, off(40, 50));
        for at in 0..=MOST as u64 {
            log.add(1, off(at * 2, at * 2 + 1));
        }
        assert_eq!(known(&mut log, 2, 45, 60), Err(Unsplit::TooMuch));
        log.forget(10, &HashMap::new());
        assert_eq!(known(&mut log, 2, 45, 60), Err(Unsplit::TooMuch));
        assert!(known(&mut log, 2, 55, 60).is_ok());
    }
}
