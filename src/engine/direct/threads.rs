//! The numbers of threads: an agent knows them as its own pid namespace has them.

use std::collections::HashMap;
use std::fs;

/// Most that are remembered of one process.
const MOST: usize = 1 << 16;

/// The threads of one process.
#[derive(Debug, Clone)]
pub(super) struct Threads {
    pid: u32,
    /// Whether the process has other numbers for itself than we have.
    nested: bool,
    known: HashMap<u32, u32>,
}

impl Threads {
    pub(super) fn of(pid: u32) -> Threads {
        let nested = fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| numbers(&status).len() > 1);
        Threads {
            pid,
            nested,
            known: HashMap::new(),
        }
    }

    /// Our number of the thread that calls itself so; that number itself where nobody knows better.
    pub(super) fn ours(&mut self, own: u32) -> u32 {
        if !self.nested {
            return own;
        }
        if let Some(known) = self.known.get(&own) {
            return *known;
        }
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.look();
        *self.known.entry(own).or_insert(own)
    }

    /// Reads the numbers of those that there are.
    fn look(&mut self) {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid));
        for task in tasks.into_iter().flatten().flatten().take(MOST) {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            if let [ours, .., own] = numbers(&status)[..] {
                self.known.insert(own, ours);
            }
        }
    }
}

/// The numbers of a thread in all pid namespaces from ours to its own.
fn numbers(status: &str) -> Vec<u32> {
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("NSpid:"));
    let numbers = line.unwrap_or_default().split_whitespace();
    numbers.filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_our_own_namespace_has_the_numbers_that_it_says() {
        let mut threads = Threads::of(std::process::id());
        assert_eq!(threads.ours(12345), 12345);
        assert!(threads.known.is_empty());
    }

    #[test]
    fn the_kernel_lists_the_numbers_from_our_namespace_to_its_own() {
        assert_eq!(
            numbers("Name:\tpython3\nNgid:\t0\nNSpid:\t4711\t12\t3\nNSpgid:\t1\n"),
            [4711, 12, 3]
        );
        assert!(numbers("Name:\tpython3\n").is_empty());
    }
}
