//! Tracks of a timeline, on which slices must nest: for each thread, for each greenlet and task that is told apart, and
//! beside them where slices of one thread overlap (greenlets whose calls the kernel measured).

use std::collections::HashMap;

use super::timeline::Track;
use crate::analysis::keys::KeyBuilder;

/// Tracks of threads and contexts that are remembered, and tracks beside them.
const MOST: usize = 1 << 16;
/// Slices that are remembered of one track, and of all together.
const MOST_OF_ONE: usize = 4096;
const MOST_OF_ALL: usize = 1 << 21;
/// Where numbers of tracks begin that are no thread's: Linux has no such thread ids.
const FIRST: u64 = 1 << 24;

/// A row of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub(super) pid: u32,
    /// The thread's, or a number that is no thread's.
    pub(super) tid: u64,
    /// The how manieth row it is.
    pub(super) number: u32,
}

/// The tracks so far.
#[derive(Debug, Default)]
pub(super) struct Tracks {
    known: HashMap<Track, Lanes, KeyBuilder>,
    made: u32,
    /// Tracks beside, and slices, of all.
    beside: usize,
    slices: usize,
    left_out: u64,
    /// The last end of what tracks showed that are forgotten.
    forgotten: u64,
}

/// A track, those beside it, and those of its deep calls.
#[derive(Debug)]
struct Lanes {
    own: Lane,
    beside: Vec<Lane>,
    /// By their levels.
    deep: Vec<(usize, Row)>,
    last: u64,
}

/// What one row of the picture shows: the outermost slices that have ended, by their ends. They overlap nowhere.
#[derive(Debug)]
struct Lane {
    row: Row,
    ended: Vec<(u64, u64)>,
}

impl Tracks {
    /// The row of a track, and whether it is new.
    pub(super) fn row(&mut self, track: Track) -> (Row, bool) {
        if let Some(lanes) = self.known.get(&track) {
            return (lanes.own.row, false);
        }
        if self.known.len() >= MOST {
            self.forget();
        }
        let mut row = self.make(track);
        if track.2.is_none() {
            row.tid = u64::from(track.1);
        }
        let mut own = Lane {
            row,
            ended: Vec::new(),
        };
        if track.2.is_none() && self.forgotten > 0 {
            own.ended.push((0, self.forgotten));
            self.slices += 1;
        }
        let lanes = Lanes {
            own,
            beside: Vec::new(),
            deep: Vec::new(),
            last: 0,
        };
        self.known.insert(track, lanes);
        (row, true)
    }

    /// The row of a track's calls at a level of depth, and whether it is new.
    pub(super) fn deep(&mut self, track: Track, level: usize) -> (Row, bool) {
        let lanes = self.known.get(&track);
        let mut known = lanes.map_or(&[][..], |lanes| &lanes.deep).iter();
        if let Some((_, row)) = known.find(|(of, _)| *of == level) {
            return (*row, false);
        }
        let row = self.make(track);
        if let Some(lanes) = self.known.get_mut(&track) {
            lanes.deep.push((level, row));
        }
        (row, true)
    }

    fn make(&mut self, (pid, ..): Track) -> Row {
        self.made += 1;
        Row {
            pid,
            tid: FIRST + u64::from(self.made),
            number: self.made,
        }
    }

    /// A track shows this slice, which nests with whatever else is shown of its calls.
    pub(super) fn shown(&mut self, track: Track, slice: (u64, u64)) {
        if let Some(lanes) = self.known.get_mut(&track) {
            lanes.last = lanes.last.max(slice.1);
            let before = lanes.own.ended.len();
            lanes.own.add(slice);
            self.slices = self.slices + lanes.own.ended.len() - before;
        }
        self.keep_few();
    }

    /// The row where a slice has room that ends now, and whether it is new. On its track's own only where nothing that is open
    /// there began later: `inside`. `None` where there are too many.
    pub(super) fn beside(
        &mut self,
        track: Track,
        slice: (u64, u64),
        inside: bool,
    ) -> Option<(Row, bool)> {
        let lanes = self.known.get_mut(&track)?;
        lanes.last = lanes.last.max(slice.1);
        let own = Some(&mut lanes.own).filter(|_| inside);
        let mut all = own.into_iter().chain(&mut lanes.beside);
        if let Some(lane) = all.find(|lane| lane.has_room(slice)) {
            let before = lane.ended.len();
            lane.add(slice);
            self.slices = self.slices + lane.ended.len() - before;
            let row = lane.row;
            self.keep_few();
            return Some((row, false));
        }
        if self.beside >= MOST {
            self.left_out += 1;
            return None;
        }
        self.beside += 1;
        self.slices += 1;
        let row = self.make(track);
        let lane = Lane {
            row,
            ended: vec![slice],
        };
        self.known.get_mut(&track)?.beside.push(lane);
        Some((row, true))
    }

    /// Slices that found no track.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Forgets the quieter half.
    fn forget(&mut self) {
        let mut seen: Vec<u64> = self.known.values().map(|it| it.last).collect();
        let half = seen.len() / 2;
        let (_, &mut median, _) = seen.select_nth_unstable(half);
        let mut most = half + 1;
        let forgotten = &mut self.forgotten;
        self.known.retain(|_, lanes| {
            let keep = lanes.last > median || most == 0;
            if !keep {
                most -= 1;
                *forgotten = lanes.last.max(*forgotten);
            }
            keep
        });
        self.count();
    }

    /// Forgets what was between slices where there are too many.
    fn keep_few(&mut self) {
        if self.slices <= MOST_OF_ALL {
            return;
        }
        for lanes in self.known.values_mut() {
            for lane in std::iter::once(&mut lanes.own).chain(&mut lanes.beside) {
                lane.join(lane.ended.len());
            }
        }
        self.count();
    }

    fn count(&mut self) {
        let (mut beside, mut slices) = (0, 0);
        for lanes in self.known.values() {
            beside += lanes.beside.len();
            let all = std::iter::once(&lanes.own).chain(&lanes.beside);
            slices += all.map(|lane| lane.ended.len()).sum::<usize>();
        }
        (self.beside, self.slices) = (beside, slices);
    }
}

impl Lane {
    /// Whether a slice crosses none of these: what it does not contain ended before it began. Events that come late find no
    /// room.
    fn has_room(&self, (begin, end): (u64, u64)) -> bool {
        if self.ended.last().is_some_and(|(_, last)| *last > end) {
            return false;
        }
        let within = self.ended.partition_point(|(other, _)| *other < begin);
        let before = within.checked_sub(1).and_then(|at| self.ended.get(at));
        before.is_none_or(|(_, end)| *end <= begin)
    }

    fn add(&mut self, (mut begin, end): (u64, u64)) {
        while let Some(&(other, ended)) = self.ended.last()
            && (other >= begin || ended > begin)
        {
            begin = begin.min(other);
            self.ended.pop();
        }
        self.ended.push((begin, end));
        if self.ended.len() > MOST_OF_ONE {
            self.join(MOST_OF_ONE / 2);
        }
        // What a busy track needed is given back.
        let room = self.ended.capacity();
        if room > 64 && self.ended.len() < room / 8 {
            self.ended.shrink_to(room / 4);
        }
    }

    /// Takes the oldest ones for one.
    fn join(&mut self, oldest: usize) {
        let Some(&(begin, _)) = self.ended.first() else {
            return;
        };
        let joined = self.ended.drain(..oldest.min(self.ended.len())).next_back();
        if let Some((_, end)) = joined {
            self.ended.insert(0, (begin, end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREAD: Track = (1, 7, None);

    #[test]
    fn slices_that_cross_have_tracks_beside_each_other_and_those_that_nest_have_one() {
        let mut tracks = Tracks::default();
        let (row, new) = tracks.row(THREAD);
        assert_eq!((row.tid, new), (7, true));
        let mut place = |slice| {
            let (row, new) = tracks.beside(THREAD, slice, true).expect("room");
            (row.tid, new)
        };
        assert_eq!(place((10, 20)), (7, false));
        assert_eq!(place((20, 30)), (7, false), "one after the other");
        assert_eq!(place((5, 40)), (7, false), "around both");
        let (beside, new) = place((20, 50));
        assert!(new && beside > FIRST, "it crosses 5 to 40");
        assert_eq!(place((40, 60)), (7, false));
        assert_eq!(place((20, 70)), (beside, false), "around 20 to 50");
        assert!(place((30, 80)).1, "it crosses both");
    }

    #[test]
    fn endlessly_many_tracks_and_slices_are_held_within_bounds() {
        let mut tracks = Tracks::default();
        for number in 0..3 * MOST as u64 {
            let track = (1, number as u32, None);
            tracks.row(track);
            for at in 0..20 {
                let begin = number * 1_000 + at * 10;
                tracks.beside(track, (begin, begin + 5), true);
            }
            assert!(tracks.known.len() <= MOST && tracks.slices <= MOST_OF_ALL + 1);
        }
        let mut tracks = Tracks::default();
        tracks.row(THREAD);
        for begin in 0..MOST as u64 / 8 {
            tracks.beside(THREAD, (begin, 1 << 40 | begin), true);
        }
        let lanes = &tracks.known[&THREAD];
        assert_eq!(lanes.beside.len() + 1, MOST / 8, "all of them cross");
    }
}
