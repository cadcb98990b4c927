//! Greenlets and tasks by what they are: views that group by context show one row for all workers of a pool and not one
//! for each of a million requests.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::keys::KeyBuilder;
use crate::event::allowance::{shorten, text_bytes};
use crate::event::{Event, Text, What};

/// Contexts remembered, and bytes of their names and labels; the older half is forgotten beyond that. They are mostly long
/// gone by then.
const MOST: usize = 1 << 16;
const MOST_BYTES: usize = 8 << 20;
/// Bytes of a label, of which a table may have as many as rows; a longer one is cut.
const LONGEST_LABEL: usize = 200;

/// What the contexts of a stream are.
#[derive(Debug, Clone, Default)]
pub struct Contexts {
    known: HashMap<(u32, u64), Known, KeyBuilder>,
    /// Bytes of these.
    bytes: usize,
    /// The label that was made last: it is mostly the next one, too.
    last: Option<Arc<str>>,
}

#[derive(Debug, Clone)]
struct Known {
    name: Arc<Text>,
    label: Arc<str>,
}

impl Contexts {
    /// Takes note of names.
    pub fn take(&mut self, event: &Event) {
        let What::Context { context, name } = &event.what else {
            return;
        };
        if self.known.len() >= MOST || self.bytes > MOST_BYTES {
            let mut numbers: Vec<u64> = self.known.keys().map(|(_, number)| *number).collect();
            let half = numbers.len() / 2;
            let (_, &mut median, _) = numbers.select_nth_unstable(half);
            self.known.retain(|(_, number), _| *number > median);
            self.bytes = self.known.values().map(Known::bytes).sum();
        }
        let label = label(&name.text);
        let label = match &self.last {
            Some(last) if **last == *label => Arc::clone(last),
            _ => label.into(),
        };
        self.last = Some(Arc::clone(&label));
        let known = Known {
            name: Arc::clone(name),
            label,
        };
        self.bytes += known.bytes();
        if let Some(before) = self.known.insert((event.pid, *context), known) {
            self.bytes -= before.bytes();
        }
    }

    /// What a context is called, if that is known.
    pub fn name(&self, pid: u32, context: NonZeroU64) -> Option<&Text> {
        let known = self.known.get(&(pid, context.get()))?;
        Some(&known.name)
    }

    /// What a context is; `None` outside of all contexts.
    pub fn label(&self, pid: u32, context: Option<NonZeroU64>) -> Option<Arc<str>> {
        let context = context?.get();
        let known = self.known.get(&(pid, context));
        let label = known.map(|known| Arc::clone(&known.label));
        Some(label.unwrap_or_else(|| "(unnamed)".into()))
    }
}

impl Known {
    fn bytes(&self) -> usize {
        text_bytes(&self.name) + self.label.len()
    }
}

/// A name without its number: `worker-12` is a `worker`, `Task-7 (handle)` a `Task (handle)`.
fn label(name: &str) -> String {
    let end = name.find(' ').unwrap_or(name.len());
    let (word, rest) = name.split_at(end);
    let mut label = match word.rsplit_once('-') {
        Some((kind, number))
            if !kind.is_empty()
                && !number.is_empty()
                && number.bytes().all(|it| it.is_ascii_digit()) =>
        {
            format!("{kind}{rest}")
        }
        _ => name.to_owned(),
    };
    shorten(&mut label, LONGEST_LABEL);
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(pid: u32, context: u64, name: &str) -> Event {
        let text = name.to_owned();
        Event {
            ts: 0,
            pid,
            tid: pid,
            interpreter: None,
            what: What::Context {
                context,
                name: Arc::new(Text {
                    text,
                    ..Text::default()
                }),
            },
        }
    }

    #[test]
    fn a_name_without_its_number_says_what_a_context_is() {
        for (name, expected) in [
            ("worker-12", "worker"),
            ("Task-7 (Server.handle)", "Task (Server.handle)"),
            ("GreenThread-5", "GreenThread"),
            ("main", "main"),
            ("db-pool", "db-pool"),
            ("-3", "-3"),
            ("poll-", "poll-"),
        ] {
            assert_eq!(label(name), expected);
        }
    }

    #[test]
    fn contexts_of_different_processes_have_names_of_their_own() {
        let mut contexts = Contexts::default();
        contexts.take(&named(1, 5, "reader-1"));
        contexts.take(&named(2, 5, "writer"));
        let label = |pid, context| contexts.label(pid, NonZeroU64::new(context));
        assert_eq!(label(1, 5).as_deref(), Some("reader"));
        assert_eq!(label(2, 5).as_deref(), Some("writer"));
        assert_eq!(label(2, 6).as_deref(), Some("(unnamed)"));
        assert_eq!(label(1, 0), None);
    }

    #[test]
    fn long_names_of_contexts_are_held_within_a_budget_and_labels_are_cut() {
        let mut contexts = Contexts::default();
        for number in 1..=10_000 {
            contexts.take(&named(1, number, &format!("{number}{}", "x".repeat(4_000))));
            assert!(contexts.bytes <= MOST_BYTES + 10_000);
        }
        assert_eq!(
            contexts.bytes,
            contexts.known.values().map(Known::bytes).sum::<usize>()
        );
        let newest = contexts.label(1, NonZeroU64::new(10_000)).expect("known");
        assert_eq!(newest.len(), LONGEST_LABEL + 3);
        assert!(newest.starts_with("10000xx") && newest.ends_with("x..."));
    }

    #[test]
    fn of_very_many_contexts_the_newer_ones_are_known() {
        let mut contexts = Contexts::default();
        for number in 1..=2 * MOST as u64 {
            contexts.take(&named(1, number, "task-1"));
        }
        assert!(contexts.known.len() <= MOST);
        let newest = contexts.label(1, NonZeroU64::new(2 * MOST as u64));
        assert_eq!(newest.as_deref(), Some("task"));
    }
}
