//! Who called, and how often, within bounds.

use std::collections::HashMap;
use std::sync::Arc;

use super::tally::OTHERS;

/// Callers of a group that are told apart; further ones are one.
const MOST_CALLERS: usize = 64;
/// Bytes of the names of all callers.
const MOST_BYTES: usize = 16 << 20;

/// The callers of a group.
#[derive(Debug, Clone, Default)]
pub(super) struct Callers {
    /// The most frequent first.
    calls: Vec<(Arc<str>, u64)>,
    others: u64,
}

impl Callers {
    /// One more call by a caller of [`CallerNames`], or by one for whose name there was no room.
    pub(super) fn add(&mut self, caller: Option<&Arc<str>>) {
        let Some(caller) = caller else {
            self.others += 1;
            return;
        };
        let known = self
            .calls
            .iter()
            .position(|(name, _)| Arc::ptr_eq(name, caller));
        let mut at = match known {
            Some(at) => at,
            None if self.calls.len() < MOST_CALLERS => {
                self.calls.push((Arc::clone(caller), 0));
                self.calls.len() - 1
            }
            None => {
                self.others += 1;
                return;
            }
        };
        self.calls[at].1 += 1;
        while at > 0 && self.calls[at - 1].1 < self.calls[at].1 {
            self.calls.swap(at - 1, at);
            at -= 1;
        }
    }

    /// The most frequent first, and those that are not told apart last.
    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = (&str, u64)> {
        let others = (self.others > 0).then_some((OTHERS, self.others));
        let mut all: Vec<(&str, u64)> = Vec::with_capacity(self.calls.len() + 1);
        for (name, calls) in &self.calls {
            all.push((name, *calls));
        }
        all.extend(others);
        all.into_iter()
    }
}

/// The names of callers, each once.
#[derive(Debug, Default)]
pub(super) struct CallerNames {
    numbers: HashMap<Arc<str>, u32>,
    bytes: usize,
}

impl CallerNames {
    /// The name as it is known here; nothing where there is no room for it.
    pub(super) fn of(&mut self, name: &str) -> Option<Arc<str>> {
        if let Some((known, _)) = self.numbers.get_key_value(name) {
            return Some(Arc::clone(known));
        }
        if self.bytes + name.len() > MOST_BYTES {
            return None;
        }
        self.bytes += name.len();
        let name: Arc<str> = name.into();
        let number = self.numbers.len() as u32;
        self.numbers.insert(Arc::clone(&name), number);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_told_apart_within_bounds_and_the_most_frequent_come_first() {
        let mut names = CallerNames::default();
        let mut callers = Callers::default();
        let mut add = |name: &str| callers.add(names.of(name).as_ref());
        for name in ["a", "b", "c", "b", "c", "c"] {
            add(name);
        }
        for number in 0..100 {
            add(&number.to_string());
        }
        let all: Vec<(&str, u64)> = callers.all().collect();
        assert_eq!(all[..3], [("c", 3), ("b", 2), ("a", 1)]);
        assert_eq!((all.len(), all[64]), (65, (OTHERS, 39)));
    }

    #[test]
    fn names_have_so_much_room_and_those_beyond_it_are_nobody() {
        let mut names = CallerNames::default();
        let long = |number: u32| format!("{number:08}{}", "n".repeat((1 << 20) - 8));
        let known = (0..20).filter(|number| names.of(&long(*number)).is_some());
        assert_eq!(known.count(), 16);
        assert!(names.of(&long(3)).is_some() && names.of("short").is_none());
    }
}
