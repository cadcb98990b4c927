//! Times in rings as nanoseconds. A counter is compared with `CLOCK_MONOTONIC` again and again, and between two of these
//! moments it is taken for even: so events stand among those of the kernel's clock to within some tens of nanoseconds,
//! however the kernel corrects that.

use std::fs;
use std::time::Duration;

use pystap_agent_protocol as protocol;
use pystap_ring::sums::Scale;
use pystap_ring::{CLOCK_SOURCE, ticks};

use crate::clock::monotonic;

/// Which counter the kernel takes its own time from.
const CURRENT: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
/// How often a moment is taken; the one that took shortest counts, because nothing came in between.
const TRIES: usize = 4;

/// What agents are to take for the time on this machine: its counter only where the kernel does so too, which has examined
/// it.
pub(super) fn usual() -> protocol::Clock {
    match fs::read_to_string(CURRENT) {
        Ok(current) if current.trim() == CLOCK_SOURCE => protocol::Clock::Ticks,
        _ => protocol::Clock::Monotonic,
    }
}

/// Nanoseconds that two moments are apart which tell the rate: to within some millionths, and the first time, while a session
/// waits, to within some hundred-thousandths.
const APART: u64 = 4_000_000;
const FIRST: u64 = 1_000_000;

/// Moments that are kept.
const KEPT: usize = 128;

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    ticks: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    ns: u64,
}

impl Moment {
    fn now() -> Moment {
        let tries = (0..TRIES).map(|_| {
            let before = ticks();
            let ns = monotonic();
            let took = ticks().saturating_sub(before);
            let ticks = before + took / 2;
            (took, Moment { ticks, ns })
        });
        let best = tries.min_by_key(|(took, _)| *took);
        best.map_or(Moment { ticks: 0, ns: 0 }, |(_, moment)| moment)
    }
}

/// Converts times of one kind.
#[derive(Debug)]
pub(super) struct Clock {
    kind: protocol::Clock,
    last: Moment,
    /// Nanoseconds per tick since the moment before that.
    rate: f64,
    /// Moments before the last one, the oldest first.
    before: Vec<Moment>,
    /// How far apart they are at least, in nanoseconds.
    spacing: u64,
}

impl Clock {
    /// Takes a moment of the kernel's time to learn how fast the counter counts.
    pub(super) fn new(kind: protocol::Clock) -> Clock {
        let mut clock = Clock {
            kind,
            last: Moment::now(),
            rate: 0.0,
            before: Vec::new(),
            spacing: APART,
        };
        while clock.rate == 0.0 && kind == protocol::Clock::Ticks {
            clock.take(Moment::now(), FIRST);
        }
        clock
    }

    /// Takes a moment, up to which times can be converted best, and says when it was, in nanoseconds.
    pub(super) fn advance(&mut self) -> u64 {
        let now = Moment::now();
        self.take(now, APART);
        now.ns
    }

    /// The time now, in nanoseconds.
    pub(super) fn now(&self) -> u64 {
        monotonic()
    }

    /// Takes a moment that is at least so far from the last one: what lies closer together says little of the rate.
    fn take(&mut self, now: Moment, apart: u64) {
        let ticks = now.ticks.saturating_sub(self.last.ticks);
        let ns = now.ns.saturating_sub(self.last.ns);
        if ticks > 0 && ns >= apart {
            self.rate = ns as f64 / ticks as f64;
            self.remember();
            self.last = now;
        }
    }

    /// Keeps the last moment, if it is far enough from the one that was kept before it. Half of them go when there are too many.
    fn remember(&mut self) {
        let next = self
            .before
            .last()
            .map(|it| it.ns.saturating_add(self.spacing));
        if next.is_some_and(|next| self.last.ns < next) {
            return;
        }
        if self.before.len() >= KEPT {
            let mut is_kept = false;
            self.before.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
            self.spacing = self.spacing.saturating_mul(2);
        }
        self.before.push(self.last);
    }

    /// A time that may lie far back, when the counter may have counted otherwise: between two moments of then.
    pub(super) fn past(&self, time: u64) -> u64 {
        let next = self.before.partition_point(|moment| moment.ticks <= time);
        let Some(from) = next.checked_sub(1).and_then(|at| self.before.get(at)) else {
            return self.nanoseconds(time);
        };
        let to = self.before.get(next).unwrap_or(&self.last);
        if self.kind == protocol::Clock::Monotonic || time >= to.ticks {
            return self.nanoseconds(time);
        }
        let (ns, ticks) = (to.ns.saturating_sub(from.ns), to.ticks - from.ticks);
        let since = (time - from.ticks) as f64 * (ns as f64 / ticks as f64);
        from.ns.saturating_add(since as u64)
    }

    /// How long so many ticks are, in nanoseconds.
    pub(super) fn span(&self, ticks: f64) -> f64 {
        match self.kind {
            protocol::Clock::Monotonic => ticks,
            protocol::Clock::Ticks => ticks * self.rate,
        }
    }

    /// A time of an agent in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) fn nanoseconds(&self, time: u64) -> u64 {
        match self.kind {
            protocol::Clock::Monotonic => time,
            protocol::Clock::Ticks => {
                let ticks = time.wrapping_sub(self.last.ticks).cast_signed();
                let ns = (ticks as f64 * self.rate) as i64;
                self.last.ns.saturating_add_signed(ns)
            }
        }
    }
}

/// How fast a clock counts, in nanoseconds per tick: known the better the longer ago the first moment was.
#[derive(Debug)]
pub(super) struct Rate {
    kind: protocol::Clock,
    begin: Moment,
}

impl Rate {
    pub(super) fn new(kind: protocol::Clock) -> Rate {
        Rate {
            kind,
            begin: Moment::now(),
        }
    }

    /// What makes nanoseconds of its times; waits for some milliseconds where it has only just begun.
    pub(super) fn scale(&self) -> Scale {
        if self.kind == protocol::Clock::Monotonic {
            return Scale::NANOSECONDS;
        }
        loop {
            let now = Moment::now();
            let ns = now.ns.saturating_sub(self.begin.ns);
            let ticks = now.ticks.saturating_sub(self.begin.ticks);
            if ns >= APART && ticks > 0 {
                return Scale::of_rate(ns as f64 / ticks as f64);
            }
            std::thread::sleep(Duration::from_nanos(APART.saturating_sub(ns)));
        }
    }

    /// So many nanoseconds in its ticks, a thousandth less: rather too few than too many, whatever the rate is later on.
    pub(super) fn ticks(&self, ns: u64) -> u64 {
        let scale = u128::from(self.scale().multiplier().max(1));
        let ticks = (u128::from(ns) << 32) / scale;
        u64::try_from(ticks - ticks.div_ceil(1000)).unwrap_or(u64::MAX)
    }
}

/// The time now by such a clock.
pub(super) fn time(kind: protocol::Clock) -> u64 {
    match kind {
        protocol::Clock::Monotonic => monotonic(),
        protocol::Clock::Ticks => ticks(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(ticks: u64, ns: u64) -> Moment {
        Moment { ticks, ns }
    }

    #[test]
    fn what_lies_between_two_moments_is_divided_evenly_and_what_comes_after_goes_on_so() {
        let mut clock = Clock {
            kind: protocol::Clock::Ticks,
            last: moment(1_000_000, 5_000),
            rate: 0.0,
            before: Vec::new(),
            spacing: APART,
        };
        // Half a nanosecond per tick.
        clock.take(moment(3_000_000, 1_005_000), 1_000_000);
        for (ticks, ns) in [
            (1_000_000, 5_000),
            (2_000_000, 505_000),
            (3_000_000, 1_005_000),
            (3_000_400, 1_005_200),
        ] {
            assert_eq!(clock.nanoseconds(ticks), ns);
        }
        // The kernel's clock goes slower now; both agree at the moment in between.
        clock.take(moment(5_000_000, 1_805_000), 800_000);
        for (ticks, ns) in [
            (3_000_000, 1_005_000),
            (4_000_000, 1_405_000),
            (5_000_000, 1_805_000),
        ] {
            assert_eq!(clock.nanoseconds(ticks), ns);
        }
    }

    #[test]
    fn two_moments_that_are_close_together_do_not_change_the_rate() {
        let mut clock = Clock {
            kind: protocol::Clock::Ticks,
            last: moment(0, 0),
            rate: 0.5,
            before: Vec::new(),
            spacing: APART,
        };
        // Half of these 200 nanoseconds are somebody else's.
        clock.take(moment(200, 200), APART);
        assert_eq!(clock.nanoseconds(40_000_000), 20_000_000);
    }

    #[test]
    fn a_time_that_cannot_be_is_some_time_and_no_panic() {
        let mut clock = Clock::new(protocol::Clock::Ticks);
        clock.advance();
        for time in [0, 1, u64::MAX / 2, u64::MAX] {
            let _ = (clock.nanoseconds(time), clock.past(time));
        }
        assert_eq!(Clock::new(protocol::Clock::Monotonic).nanoseconds(7), 7);
    }

    #[test]
    fn a_time_of_long_ago_is_converted_by_the_moments_around_it() {
        let mut clock = Clock {
            kind: protocol::Clock::Ticks,
            last: moment(0, 1_000),
            rate: 0.0,
            before: Vec::new(),
            spacing: APART,
        };
        // One nanosecond per tick at first, later two; and so many moments that some of them are forgotten.
        let (mut ticks, mut ns) = (0, 1_000);
        let mut known = vec![(ticks, ns)];
        for round in 0..1_000 {
            ticks += 5_000_000;
            ns += if round < 512 { 5_000_000 } else { 10_000_000 };
            clock.take(moment(ticks, ns), APART);
            known.push((ticks, ns));
        }
        assert!(clock.before.len() <= KEPT);
        for (ticks, ns) in known {
            let told = clock.past(ticks);
            // Where the rate changed, there may be no moment; the curve is at most one kept distance off.
            let near = ticks.abs_diff(512 * 5_000_000) < 16 * 5_000_000;
            let off = if near { 16 * 5_000_000 } else { 2 };
            assert!(told.abs_diff(ns) <= off, "{ticks}: {told} and not {ns}");
        }
        assert_eq!(clock.past(ticks + 10), clock.nanoseconds(ticks + 10));
        assert_eq!(Clock::new(protocol::Clock::Monotonic).past(7), 7);
    }

    #[test]
    fn so_many_nanoseconds_in_ticks_are_never_too_many() {
        let rate = Rate::new(protocol::Clock::Monotonic);
        for (ns, ticks) in [(0, 0), (1, 0), (1_000, 999), (10_000_000, 9_990_000)] {
            assert_eq!(rate.ticks(ns), ticks);
        }
        assert!(rate.ticks(u64::MAX) < u64::MAX);
    }

    #[test]
    fn a_scale_makes_nanoseconds_of_differences() {
        assert_eq!(
            Rate::new(protocol::Clock::Monotonic).scale(),
            Scale::NANOSECONDS
        );
        if usual() != protocol::Clock::Ticks {
            return;
        }
        let scale = Rate::new(protocol::Clock::Ticks).scale();
        let moment = Moment::now();
        let begin = scale.nanoseconds(moment.ticks);
        while monotonic() < moment.ns + 20_000_000 {}
        let after = Moment::now();
        let ours = scale.nanoseconds(after.ticks) - begin;
        // To within a hundredth, whoever takes the processor away between two looks.
        assert!(ours.abs_diff(after.ns - moment.ns) < ours / 100, "{ours}");
    }

    #[test]
    fn the_processors_counter_agrees_with_the_kernels_clock_to_within_a_microsecond() {
        if usual() != protocol::Clock::Ticks {
            return;
        }
        let mut clock = Clock::new(protocol::Clock::Ticks);
        let begin = monotonic();
        while monotonic() < begin + 5_000_000 {}
        // Somebody may take the processor away between two of our own looks: the best of many counts.
        let apart = (0..1000).map(|_| {
            let (before, time, after) = (monotonic(), ticks(), monotonic());
            clock.advance();
            let told = clock.nanoseconds(time);
            before.saturating_sub(told).max(told.saturating_sub(after))
        });
        assert!(apart.min().is_some_and(|ns| ns < 1000));
    }
}
