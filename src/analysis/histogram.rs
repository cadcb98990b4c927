//! Durations in buckets of powers of two: a few hundred bytes whatever was measured, added up in constant time, merged
//! without loss. What SystemTap's `@hist_log` keeps in the kernel has the same shape. Where rows are few and what is counted are
//! single numbers, each bucket has parts ([`Histogram::fine`]), so that quantiles can be believed.

/// A log2 histogram of numbers, mostly nanoseconds. Smallest, largest, sum and count are exact; quantiles are
/// interpolated within a bucket, so they are off by less than a factor of two, or within a part of it, by a few percent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    /// How many numbers have so many significant bits, from `fewest_bits` on: zero has none, 2^(n-1) to 2^n - 1 have n.
    /// Neither end is empty: tables have a histogram in each of many thousand rows, and most of what a program does takes
    /// about as long each time.
    counts: Box<[u64]>,
    fewest_bits: u8,
    sum: u64,
    min: u64,
    max: u64,
    /// Whether the smallest is only a bound, because it may be of what was taken off; and the largest.
    min_is_bound: bool,
    max_is_bound: bool,
    /// The same numbers by parts of buckets, where all of them are known so.
    parts: Option<Box<Parts>>,
}

/// How many numbers are in which part: each power of two has [`STEPS`] of the same width, and numbers below that are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Parts {
    first: usize,
    counts: Vec<u64>,
}

/// A quantile is off by one of them at most, which is 1/32 of the number.
const STEPS: u64 = 32;

impl Parts {
    fn of(number: u64) -> usize {
        let shift = (u64::BITS - number.leading_zeros()).saturating_sub(STEPS.ilog2() + 1);
        (u64::from(shift) * STEPS + (number >> shift)) as usize
    }

    /// The smallest and the largest number of a part.
    fn ends(part: usize) -> (u64, u64) {
        let part = part as u64;
        let shift = (part / STEPS).saturating_sub(1);
        let from = (part - shift * STEPS) << shift;
        (from, from + ((1 << shift) - 1))
    }

    fn add(&mut self, part: usize, more: u64) {
        if self.counts.is_empty() {
            self.first = part;
        }
        if part < self.first {
            let fewer = self.first - part;
            self.counts.splice(..0, std::iter::repeat_n(0, fewer));
            self.first = part;
        }
        let at = part - self.first;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(at) {
            *count = count.saturating_add(more);
        }
    }

    fn buckets(&self) -> impl Iterator<Item = Bucket> {
        (self.first..).zip(&self.counts).map(|(part, &count)| {
            let (from, to) = Parts::ends(part);
            Bucket { from, to, count }
        })
    }
}

/// A bucket that is not empty: both ends inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Smallest number that falls into it.
    pub from: u64,
    /// Largest number that falls into it.
    pub to: u64,
    /// How many did.
    pub count: u64,
}

impl Histogram {
    /// A histogram of nothing.
    pub fn new() -> Histogram {
        Histogram::default()
    }

    /// The same for few rows: of single numbers ([`Histogram::add`]) it knows quantiles well.
    pub fn fine() -> Histogram {
        Histogram {
            parts: Some(Box::default()),
            ..Histogram::default()
        }
    }

    /// Whether quantiles are known to a factor of two only.
    pub fn is_rough(&self) -> bool {
        self.parts.is_none() && self.min != self.max
    }

    /// One that somebody else has made: how many numbers have so many bits, their sum, the smallest and the largest.
    pub fn of_buckets(
        buckets: impl IntoIterator<Item = (usize, u64)>,
        sum: u64,
        min: u64,
        max: u64,
    ) -> Histogram {
        let mut histogram = Histogram {
            sum,
            min,
            max: max.max(min),
            ..Histogram::default()
        };
        for (bits, count) in buckets {
            histogram.count_bits(bits.min(u64::BITS as usize) as u8, count);
        }
        histogram
    }

    /// Adds one number.
    #[inline]
    pub fn add(&mut self, number: u64) {
        self.min = if self.counts.is_empty() {
            number
        } else {
            self.min.min(number)
        };
        self.max = self.max.max(number);
        self.sum = self.sum.saturating_add(number);
        self.count_bits((u64::BITS - number.leading_zeros()) as u8, 1);
        if let Some(parts) = &mut self.parts {
            parts.add(Parts::of(number), 1);
        }
    }

    /// Adds everything that another one has counted.
    pub fn merge(&mut self, other: &Histogram) {
        if other.counts.is_empty() {
            return;
        }
        self.min = if self.counts.is_empty() {
            other.min
        } else {
            self.min.min(other.min)
        };
        self.max = self.max.max(other.max);
        self.min_is_bound |= other.min_is_bound;
        self.max_is_bound |= other.max_is_bound;
        self.sum = self.sum.saturating_add(other.sum);
        for (bits, &count) in (other.fewest_bits..).zip(&other.counts) {
            self.count_bits(bits, count);
        }
        match (&mut self.parts, &other.parts) {
            (Some(parts), Some(others)) => {
                for (part, &count) in (others.first..).zip(&others.counts) {
                    parts.add(part, count);
                }
            }
            _ => self.parts = None,
        }
    }

    /// What was added since it was like this: counts and sum. The smallest and the largest are known to be of that where they
    /// are new; otherwise ends of buckets, within which they lie, stand for them.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut since = Histogram {
            sum: self.sum.saturating_sub(earlier.sum),
            ..Histogram::default()
        };
        for (bits, bucket) in (self.fewest_bits..).zip(self.buckets()) {
            let at = bits.checked_sub(earlier.fewest_bits).map(usize::from);
            let before = at.and_then(|at| earlier.counts.get(at));
            let more = bucket.count.saturating_sub(before.copied().unwrap_or(0));
            since.count_bits(bits, more);
        }
        let ends = || (since.buckets().next(), since.buckets().last());
        let (Some(first), Some(last)) = ends() else {
            return since;
        };
        let is_new = |now: bool| earlier.counts.is_empty() || now;
        let (new_min, new_max) = (
            is_new(self.min < earlier.min),
            is_new(self.max > earlier.max),
        );
        since.min = if new_min {
            self.min
        } else {
            first.from.max(self.min)
        };
        since.max = if new_max {
            self.max
        } else {
            last.to.min(self.max)
        };
        (since.min_is_bound, since.max_is_bound) = (!new_min, !new_max);
        since
    }

    /// Whether its smallest is a bound ([`Histogram::since`]): none is smaller.
    pub fn min_is_bound(&self) -> bool {
        self.min_is_bound
    }

    /// Whether its largest is a bound: none is larger.
    pub fn max_is_bound(&self) -> bool {
        self.max_is_bound
    }

    /// Counts numbers that have so many bits.
    #[inline]
    fn count_bits(&mut self, bits: u8, more: u64) {
        let at = usize::from(bits.wrapping_sub(self.fewest_bits));
        match self.counts.get_mut(at) {
            Some(count) => *count = count.saturating_add(more),
            None if more > 0 => self.widen(bits, more),
            None => {}
        }
    }

    /// Counts the first numbers that have fewer or more bits than all before.
    #[cold]
    fn widen(&mut self, bits: u8, count: u64) {
        let mut counts = std::mem::take(&mut self.counts).into_vec();
        if counts.is_empty() {
            self.fewest_bits = bits;
        }
        let fewer = self.fewest_bits.saturating_sub(bits);
        counts.splice(..0, std::iter::repeat_n(0, usize::from(fewer)));
        self.fewest_bits -= fewer;
        let at = usize::from(bits - self.fewest_bits);
        counts.resize(counts.len().max(at + 1), 0);
        if let Some(fresh) = counts.get_mut(at) {
            *fresh = count;
        }
        self.counts = counts.into();
    }

    /// How many numbers were added.
    pub fn count(&self) -> u64 {
        self.counts
            .iter()
            .fold(0, |sum, &it| sum.saturating_add(it))
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The smallest; `None` of none.
    pub fn min(&self) -> Option<u64> {
        (!self.counts.is_empty()).then_some(self.min)
    }

    /// The largest; `None` of none.
    pub fn max(&self) -> Option<u64> {
        (!self.counts.is_empty()).then_some(self.max)
    }

    /// Their mean, rounded down; `None` of none.
    pub fn mean(&self) -> Option<u64> {
        self.sum.checked_div(self.count())
    }

    /// The number below or at which this share of all numbers lies, for shares from 0 to 1; `None` of none.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        if self.counts.is_empty() {
            return None;
        }
        // The rank as people count: the 95th of 100, at least the first.
        let rank = (share.clamp(0.0, 1.0) * self.count() as f64)
            .ceil()
            .max(1.0);
        match &self.parts {
            Some(parts) => self.at_rank(rank, &mut parts.buckets()),
            None => self.at_rank(rank, &mut self.buckets()),
        }
    }

    /// The number that has this rank by such buckets.
    fn at_rank(&self, rank: f64, buckets: &mut dyn Iterator<Item = Bucket>) -> Option<u64> {
        let mut below = 0.0;
        for bucket in buckets {
            let count = bucket.count as f64;
            if below + count >= rank {
                let (from, to) = (bucket.from.max(self.min), bucket.to.min(self.max));
                let within = (rank - below) / count;
                // The buckets of somebody else may end before the largest number.
                let number = from as f64 + to.saturating_sub(from) as f64 * within;
                return Some((number as u64).clamp(self.min, self.max));
            }
            below += count;
        }
        Some(self.max)
    }

    /// Buckets from the first to the last that is not empty, empty ones in between included.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> {
        (self.fewest_bits..)
            .zip(&self.counts)
            .map(|(bits, &count)| Bucket {
                from: match bits {
                    0 => 0,
                    bits => 1 << (bits - 1),
                },
                to: match bits {
                    0 => 0,
                    64.. => u64::MAX,
                    bits => (1 << bits) - 1,
                },
                count,
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(numbers: &[u64]) -> Histogram {
        let mut histogram = Histogram::new();
        for &number in numbers {
            histogram.add(number);
        }
        histogram
    }

    #[test]
    fn nothing_has_no_quantiles_and_no_ends() {
        let nothing = Histogram::new();
        assert_eq!(nothing.quantile(0.5), None);
        assert_eq!(
            (nothing.min(), nothing.max(), nothing.mean()),
            (None, None, None)
        );
        assert_eq!(nothing.buckets().count(), 0);
    }

    #[test]
    fn buckets_end_at_powers_of_two_and_have_no_gaps() {
        let buckets: Vec<_> = of(&[1, 2, 3, 8, u64::MAX])
            .buckets()
            .map(|it| (it.from, it.to, it.count))
            .collect();
        assert_eq!(buckets[..4], [(1, 1, 1), (2, 3, 2), (4, 7, 0), (8, 15, 1)]);
        assert_eq!(buckets.last(), Some(&(1 << 63, u64::MAX, 1)));
        assert_eq!(buckets.len(), 64);
        assert_eq!(
            of(&[0]).buckets().next().map(|it| (it.from, it.to)),
            Some((0, 0))
        );
    }

    #[test]
    fn a_histogram_has_room_for_what_lies_between_its_ends_whatever_came_first() {
        for numbers in [[1 << 20, 1 << 22, 1 << 21], [1 << 22, 1 << 20, 1 << 20]] {
            assert_eq!(of(&numbers).counts.len(), 3);
        }
        let made = Histogram::of_buckets([(0, 0), (21, 1), (64, 0)], 1 << 20, 1 << 20, 1 << 20);
        assert_eq!(made, of(&[1 << 20]));
    }

    #[test]
    fn one_number_is_every_quantile_of_itself() {
        let one = of(&[1_234_567]);
        for share in [0.0, 0.5, 0.95, 1.0] {
            assert_eq!(one.quantile(share), Some(1_234_567));
        }
    }

    #[test]
    fn a_histogram_of_somebody_elses_buckets_is_the_same() {
        let own = of(&[0, 5, 6, 900]);
        let made = Histogram::of_buckets([(0, 1), (3, 2), (10, 1)], 911, 0, 900);
        assert_eq!(own, made);
    }

    #[test]
    fn numbers_that_are_nearly_the_same_have_quantiles_that_are_so_and_others_do_not_make_them_worse()
     {
        let mut fine = Histogram::fine();
        let mut rough = Histogram::new();
        for number in (0..100)
            .map(|it| 10_600_000 + it * 1_000)
            .chain([16_000_000])
        {
            fine.add(number);
            rough.add(number);
        }
        let median = fine.quantile(0.5).expect("numbers");
        assert!((10_300_000..11_000_000).contains(&median), "{median}");
        assert!(rough.quantile(0.5) > Some(12_000_000), "by powers of two");
        assert!(rough.is_rough() && !fine.is_rough());
        // What is added to it by powers of two alone is not known better.
        fine.merge(&rough);
        assert!(fine.is_rough());
        assert!(!of(&[7, 7]).is_rough(), "there is but one");
    }

    proptest! {
        #[test]
        fn buckets_that_fit_nothing_do_no_harm(
            buckets in proptest::collection::vec((0..300usize, any::<u64>()), 0..9),
            sum in any::<u64>(), min in any::<u64>(), max in any::<u64>(), share in 0.0..1.0f64,
        ) {
            let made = Histogram::of_buckets(buckets, sum, min, max);
            let _ = (made.quantile(share), made.mean(), made.buckets().count());
        }

        #[test]
        fn a_quantile_is_within_a_factor_of_two_of_the_true_one(
            mut numbers in proptest::collection::vec(0..1_000_000_000u64, 1..300), share in 0.0..1.0f64,
        ) {
            let got = of(&numbers).quantile(share).expect("there are numbers");
            numbers.sort_unstable();
            let rank = ((share * numbers.len() as f64).ceil() as usize).max(1);
            let right = numbers[rank - 1];
            prop_assert!(got <= right.saturating_mul(2) && right <= got.saturating_mul(2).max(1), "{got} {right}");
        }

        #[test]
        fn a_quantile_of_a_fine_one_is_within_a_part_of_the_true_one_also_when_two_were_merged(
            one in proptest::collection::vec(0..1_000_000_000u64, 1..300),
            other in proptest::collection::vec(any::<u64>(), 0..50),
            share in 0.0..1.0f64,
        ) {
            let fine = |numbers: &[u64]| {
                let mut fine = Histogram::fine();
                numbers.iter().for_each(|&number| fine.add(number));
                fine
            };
            let mut merged = fine(&one);
            merged.merge(&fine(&other));
            let mut numbers = [one, other].concat();
            prop_assert_eq!(&merged, &fine(&numbers));
            prop_assert!(!merged.is_rough());
            prop_assert_eq!(merged.buckets().collect::<Vec<_>>(), of(&numbers).buckets().collect::<Vec<_>>());
            let got = merged.quantile(share).expect("there are numbers");
            numbers.sort_unstable();
            let rank = ((share * numbers.len() as f64).ceil() as usize).max(1);
            let right = numbers[rank - 1];
            // A double has 53 bits.
            prop_assert!(got.abs_diff(right) <= right / 32 + (right >> 50), "{got} {right}");
        }

        #[test]
        fn parts_have_neither_gaps_nor_overlaps(number in any::<u64>(), shift in 0..64u32) {
            let number = number >> shift;
            let part = Parts::of(number);
            let (from, to) = Parts::ends(part);
            prop_assert!((from..=to).contains(&number), "{from} {number} {to}");
            if let Some(next) = to.checked_add(1) {
                prop_assert_eq!(Parts::ends(part + 1).0, next);
                prop_assert_eq!(Parts::of(next), part + 1);
            }
        }

        #[test]
        fn merging_is_the_same_as_counting_everything_in_one(
            one in proptest::collection::vec(any::<u64>(), 0..50),
            other in proptest::collection::vec(any::<u64>(), 0..50),
        ) {
            let mut merged = of(&one);
            merged.merge(&of(&other));
            prop_assert_eq!(merged, of(&[one, other].concat()));
        }
    }

    #[test]
    fn what_was_added_since_has_ends_of_its_own_or_bounds_for_them() {
        let earlier = of(&[40, 5_000]);
        let mut now = earlier.clone();
        assert_eq!(now.since(&earlier), Histogram::new());
        for number in [45, 300, 310] {
            now.add(number);
        }
        let since = now.since(&earlier);
        assert_eq!((since.count(), since.sum()), (3, 655));
        // 32 to 63 and 256 to 511; 40 may have been, and was, before.
        assert_eq!((since.min(), since.max()), (Some(40), Some(511)));
        assert!(since.min_is_bound() && since.max_is_bound());
        now.add(9_000);
        let since = now.since(&earlier);
        assert_eq!((since.min(), since.max()), (Some(40), Some(9_000)));
        assert!(since.min_is_bound() && !since.max_is_bound());
        now.add(3);
        let since = now.since(&earlier);
        assert_eq!((since.min(), since.max()), (Some(3), Some(9_000)));
        assert!(!since.min_is_bound() && !now.max_is_bound());
        assert_eq!(now.since(&Histogram::new()), now);
    }
}
