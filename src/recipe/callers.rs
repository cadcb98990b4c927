//! Who called, and how often, within bounds.

use std::collections::HashSet;
use std::sync::Arc;

use super::OTHERS;

/// Callers of a group that are told apart; the calls of others are added up.
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
        let mut at = known.unwrap_or_else(|| {
            // The rarest makes room, so that one who comes late and then often is told.
            if self.calls.len() == MOST_CALLERS
                && let Some((_, calls)) = self.calls.pop()
            {
                self.others += calls;
            }
            self.calls.push((Arc::clone(caller), 0));
            self.calls.len() - 1
        });
        self.calls[at].1 += 1;
        while at > 0 && self.calls[at - 1].1 < self.calls[at].1 {
            self.calls.swap(at - 1, at);
            at -= 1;
        }
    }

    /// The most frequent first, and those that are not told apart last.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        let others = (self.others > 0).then_some((OTHERS, self.others));
        let known = self.calls.iter().map(|(name, calls)| (&**name, *calls));
        known.chain(others)
    }
}

/// The names of callers, each once.
#[derive(Debug, Default)]
pub(super) struct CallerNames {
    all: HashSet<Arc<str>>,
    bytes: usize,
}

impl CallerNames {
    /// The name as it is known here; nothing where there is no room for it.
    pub(super) fn of(&mut self, name: &str) -> Option<Arc<str>> {
        if let Some(known) = self.all.get(name) {
            return Some(Arc::clone(known));
        }
        if self.bytes + name.len() > MOST_BYTES {
            return None;
        }
        self.bytes += name.len();
        let name: Arc<str> = name.into();
        self.all.insert(Arc::clone(&name));
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
        let mut seen = |added: &[&str]| -> Vec<(String, u64)> {
            for name in added {
                callers.add(names.of(name).as_ref());
            }
            callers
                .all()
                .map(|(name, calls)| (name.to_owned(), calls))
                .collect()
        };
        let told = |name: &str, calls| (name.to_owned(), calls);
        let all = seen(&["a", "b", "c", "b", "c", "c"]);
        assert_eq!(all, [told("c", 3), told("b", 2), told("a", 1)]);
        let once: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let all = seen(&once.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((all.len(), &all[64]), (65, &told(OTHERS, 39)));
        // Who comes late and then often is told, too.
        let all = seen(&["late"; 50]);
        assert_eq!((&all[0], &all[64]), (&told("late", 50), &told(OTHERS, 40)));
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
