//! Calls that have begun and not ended, also such as have given way. Some never end: their process does, or nobody goes on with
//! them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::results::Unsplit;
use crate::analysis::keys::FunctionKey;
use crate::analysis::pairing::FrameId;
use crate::event::Place;

/// Most that are followed: half of what [`crate::analysis::lifetimes`] keeps.
const MOST: usize = 1 << 17;

/// A call that has not ended.
#[derive(Debug, Clone)]
pub(super) struct Begun {
    pub(super) pid: u32,
    pub(super) tid: u32,
    /// The frame that it runs in, or ran in when it gave way.
    pub(super) frame: FrameId,
    pub(super) key: FunctionKey,
    pub(super) place: Arc<Place>,
    pub(super) line: i32,
    /// In nanoseconds since the Unix epoch.
    pub(super) at: u64,
    /// How many stretches it has had.
    pub(super) stretches: u64,
    /// Whether it has given way and not gone on.
    pub(super) is_parked: bool,
    /// Whether it was no part of another call of its function when it gave way.
    pub(super) is_outermost: bool,
    pub(super) unsplit: Option<Unsplit>,
}

/// See the head of the module.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// By number.
    begun: BTreeMap<u64, Begun>,
    last: u64,
}

impl Calls {
    /// A number that no call has.
    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A call begins and gets a number, higher than those before it.
    pub(super) fn begins(&mut self, call: Begun) -> u64 {
        let number = self.number();
        self.begun.insert(number, call);
        number
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Begun> {
        self.begun.get_mut(&number)
    }

    /// It ends, or is followed no longer.
    pub(super) fn ends(&mut self, number: u64) -> Option<Begun> {
        self.begun.remove(&number)
    }

    /// The older half, where there are too many; they are followed no longer.
    pub(super) fn too_many(&mut self) -> BTreeMap<u64, Begun> {
        if self.begun.len() <= MOST {
            return BTreeMap::new();
        }
        let Some(middle) = self.begun.keys().nth(self.begun.len() / 2).copied() else {
            return BTreeMap::new();
        };
        let newer = self.begun.split_off(&middle);
        std::mem::replace(&mut self.begun, newer)
    }

    /// Those of a process that has ended, or of one of its threads; they are followed no longer.
    pub(super) fn of_ended(&mut self, pid: u32, tid: Option<u32>) -> BTreeMap<u64, Begun> {
        let is_gone = |it: &Begun| it.pid == pid && tid.is_none_or(|tid| it.tid == tid);
        let begun = self.begun.iter();
        let gone: Vec<u64> = begun
            .filter_map(|(number, it)| is_gone(it).then_some(*number))
            .collect();
        self.these(gone)
    }

    /// Those with these numbers; they are followed no longer.
    pub(super) fn these(&mut self, numbers: impl IntoIterator<Item = u64>) -> BTreeMap<u64, Begun> {
        let numbers = numbers.into_iter();
        numbers
            .filter_map(|number| self.begun.remove_entry(&number))
            .collect()
    }

    /// How many of each function have given way and not gone on, without calls within calls of the same function.
    pub(super) fn parked(&self) -> HashMap<FunctionKey, u64> {
        let mut parked = HashMap::new();
        let begun = self.begun.values();
        for call in begun.filter(|it| it.is_parked && it.is_outermost) {
            *parked.entry(call.key).or_default() += 1;
        }
        parked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::pairing::Pairing;
    use crate::analysis::testing::{call, place};

    fn begun(pid: u32, tid: u32) -> Begun {
        let mut pairing = Pairing::new();
        let frame = pairing.follow(&mut call(1, "f")).and_then(|it| it.entered);
        let place = place("f");
        Begun {
            pid,
            tid,
            frame: frame.expect("it is open"),
            key: FunctionKey::of(&place),
            place,
            line: 1,
            at: 1,
            stretches: 0,
            is_parked: false,
            is_outermost: true,
            unsplit: None,
        }
    }

    #[test]
    fn what_ended_with_its_process_or_thread_is_followed_no_longer() {
        let mut calls = Calls::default();
        let [one, two, three] = [(1, 1), (1, 2), (3, 3)].map(|(pid, tid)| {
            let call = begun(pid, tid);
            calls.begins(call)
        });
        let gone = |gone: BTreeMap<u64, Begun>| gone.into_keys().collect::<Vec<_>>();
        assert_eq!(gone(calls.of_ended(1, Some(2))), [two]);
        assert_eq!(gone(calls.of_ended(1, None)), [one]);
        assert!(calls.get_mut(one).is_none() && calls.get_mut(three).is_some());
        calls.ends(three);
        assert_eq!(gone(calls.of_ended(3, None)), [0; 0]);
    }

    #[test]
    fn what_has_given_way_goes_on_still() {
        let mut calls = Calls::default();
        let call = begun(1, 1);
        let key = call.key;
        let number = calls.begins(call);
        assert!(calls.parked().is_empty());
        calls.get_mut(number).expect("it is open").is_parked = true;
        assert_eq!(calls.parked(), HashMap::from([(key, 1)]));
        calls.get_mut(number).expect("it is open").is_outermost = false;
        assert!(calls.parked().is_empty());
    }

    #[test]
    fn beyond_the_bound_the_older_half_is_followed_no_longer() {
        let mut calls = Calls::default();
        let call = begun(1, 1);
        for _ in 0..MOST {
            calls.begins(call.clone());
        }
        assert!(calls.too_many().is_empty());
        let last = calls.begins(call);
        let gone = calls.too_many();
        assert_eq!(gone.len(), MOST / 2);
        assert!(gone.keys().all(|number| *number <= MOST as u64 / 2));
        assert!(calls.get_mut(last).is_some());
    }
}
