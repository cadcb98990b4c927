//! What was sampled, into a recording and out of it.

use std::collections::{HashMap, HashSet};

use super::stacks::{Function, NO_CONTEXT};
use super::tally::{Counts, Key, NO_THREAD, Snapshot};
use crate::recording::{Samples, Sum};

/// Bytes of a block, about; a reader takes some times as many.
const BLOCK: usize = 1 << 20;
/// What a number takes, written as JSON with what separates it.
const NUMBER: usize = 12;
/// Most functions and stacks of a recording: no writer has more.
const MOST: usize = 1 << 18;

/// What a recording has been told.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    functions: usize,
    stacks: usize,
    contexts: usize,
    names: HashMap<u32, String>,
}

/// Blocks of a recording, about to be written.
#[derive(Debug, Default)]
struct Blocks {
    full: Vec<Samples>,
    open: Samples,
    bytes: usize,
}

impl Blocks {
    /// The block into which so many bytes more go.
    fn with(&mut self, bytes: usize) -> &mut Samples {
        if self.bytes > BLOCK {
            self.full.push(std::mem::take(&mut self.open));
            self.bytes = 0;
        }
        self.bytes += bytes;
        &mut self.open
    }
}

impl Recorder {
    /// What was seen since the last time, as blocks; `snapshot` has nothing that was in another one.
    pub(crate) fn blocks(&mut self, snapshot: &Snapshot) -> Vec<Samples> {
        let mut blocks = Blocks::default();
        let (functions, stacks) = snapshot.stacks.since(self.functions, self.stacks);
        for function in functions {
            let Function { name, file } = function.as_ref();
            let block = blocks.with(name.len() + file.len() + NUMBER);
            block.functions.push((name.clone(), file.clone()));
        }
        for stack in stacks {
            let block = blocks.with((stack.len() + 1) * NUMBER);
            block.stacks.push(stack.to_vec());
        }
        self.functions += functions.len();
        self.stacks += stacks.len();
        let contexts = snapshot.stacks.kinds_since(self.contexts);
        for context in contexts.iter().filter(|_| snapshot.contexts.is_some()) {
            let block = blocks.with(context.len() + NUMBER);
            block.contexts.push(context.to_string());
            self.contexts += 1;
        }
        for (tid, name) in snapshot.tally.names() {
            if self.names.get(&tid).is_none_or(|known| known != name) {
                self.names.insert(tid, name.to_owned());
                let block = blocks.with(name.len() + 2 * NUMBER);
                block.threads.push((tid, name.to_owned()));
            }
        }
        for (key, counts) in snapshot.tally.sums() {
            // The names of its fields, too.
            blocks.with(10 * NUMBER).sums.push(Sum {
                pid: key.pid,
                tid: key.tid,
                stack: key.stack,
                context: key.context,
                idle: key.idle,
                on_cpu: counts.on_cpu,
                waiting: counts.waiting,
            });
        }
        let last = blocks.with(0);
        let parked = snapshot.contexts;
        last.parked = parked.map(|it| (it.found, it.read, it.partial, it.looks));
        last.rate = snapshot.rate;
        last.wall_ns = snapshot.wall_ns;
        last.looks = snapshot.ticks;
        last.missed = snapshot.missed;
        last.torn = snapshot.torn();
        blocks.full.push(blocks.open);
        blocks.full
    }
}

/// What a recording says makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unfounded;

/// A recording of samples, added up again.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    snapshot: Snapshot,
    /// The numbers of its functions and stacks here.
    functions: Vec<u32>,
    stacks: Vec<u32>,
    contexts: Vec<u32>,
    processes: HashSet<u32>,
    threads: HashSet<(u32, u32)>,
}

impl Recorded {
    /// Numbers begin anew: what comes is another part.
    pub(crate) fn begin_anew(&mut self) {
        self.functions.clear();
        self.stacks.clear();
        self.contexts.clear();
    }

    /// Adds a block.
    ///
    /// # Errors
    /// Where it names functions or stacks that are not there, or more than any recording has.
    pub(crate) fn take(&mut self, samples: Samples) -> Result<(), Unfounded> {
        if self.functions.len() + samples.functions.len() > MOST
            || self.stacks.len() + samples.stacks.len() > MOST
            || self.contexts.len() + samples.contexts.len() > MOST
        {
            return Err(Unfounded);
        }
        let Snapshot { stacks, tally, .. } = &mut self.snapshot;
        for (name, file) in samples.functions {
            self.functions
                .push(stacks.function(Function { name, file }));
        }
        for stack in samples.stacks {
            let functions = stack.iter().map(|it| self.functions.get(*it as usize));
            let functions = functions
                .map(|it| it.copied())
                .collect::<Option<Vec<u32>>>();
            self.stacks.push(stacks.stack(functions.ok_or(Unfounded)?));
        }
        for context in samples.contexts {
            self.contexts.push(match self.contexts.is_empty() {
                true => NO_CONTEXT,
                false => stacks.context(&context),
            });
        }
        for (tid, name) in samples.threads {
            tally.name(tid, name);
        }
        for sum in samples.sums {
            let stack = self.stacks.get(sum.stack as usize).ok_or(Unfounded)?;
            let context = self.contexts.get(sum.context as usize);
            let context = match (context, sum.context) {
                (Some(context), _) => *context,
                (None, NO_CONTEXT) => NO_CONTEXT,
                (None, _) => return Err(Unfounded),
            };
            let key = Key {
                pid: sum.pid,
                tid: sum.tid,
                stack: *stack,
                context,
                idle: sum.idle,
            };
            let counts = Counts {
                on_cpu: sum.on_cpu,
                waiting: sum.waiting,
            };
            tally.add(key, counts);
            if self.threads.len() < MOST {
                self.processes.insert(sum.pid);
                if sum.tid != NO_THREAD {
                    self.threads.insert((sum.pid, sum.tid));
                }
            }
        }
        tally.take_torn(samples.torn);
        let snapshot = &mut self.snapshot;
        if let Some((found, read, partial, looks)) = samples.parked {
            // As many as there were at the most.
            let known = snapshot.contexts.get_or_insert_default();
            if found >= known.found {
                (known.found, known.read) = (found, read);
            }
            known.partial |= partial;
            known.looks = known.looks.saturating_add(looks);
        }
        snapshot.rate = snapshot.rate.max(samples.rate);
        snapshot.wall_ns = snapshot.wall_ns.saturating_add(samples.wall_ns);
        snapshot.ticks = snapshot.ticks.saturating_add(samples.looks);
        snapshot.missed = snapshot.missed.saturating_add(samples.missed);
        snapshot.processes = self.processes.len();
        snapshot.threads = self.threads.len();
        Ok(())
    }

    /// Everything.
    pub(crate) fn into_snapshot(self) -> Snapshot {
        self.snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::page;
    use super::super::tally::tests::snapshot;
    use super::super::tally::{By, Order};
    use super::*;

    #[test]
    fn what_was_recorded_shows_the_table_that_was_seen() {
        let seen = snapshot(&[
            (7, &["f", "main"], true, false, 3),
            (7, &["g", "main"], false, false, 2),
            (8, &["select", "main"], false, true, 90),
        ]);
        let mut recorder = Recorder::default();
        let mut recorded = Recorded::default();
        for block in recorder.blocks(&seen) {
            let text = serde_json::to_vec(&block).expect("JSON");
            let block = serde_json::from_slice(&text).expect("a block");
            recorded.take(block).expect("it makes sense");
        }
        let again = recorded.into_snapshot();
        for (by, idle) in [(By::FUNCTION, false), (By::Thread, true)] {
            let table = |of: &Snapshot| page(of, &of.rows(by, idle, Order::Own, false), by, 9);
            assert_eq!(table(&again), table(&seen));
        }
        let more = recorder.blocks(&seen);
        assert!(
            more.iter()
                .all(|it| it.functions.is_empty() && it.stacks.is_empty())
        );
    }

    #[test]
    fn many_functions_are_several_blocks() {
        let name = "f".repeat(BLOCK);
        let seen = snapshot(&[(7, &[&name, "main"], true, false, 1)]);
        let blocks = Recorder::default().blocks(&seen);
        assert!(blocks.len() > 1);
        let mut recorded = Recorded::default();
        for block in blocks {
            recorded.take(block).expect("it makes sense");
        }
        assert_eq!(
            recorded
                .into_snapshot()
                .rows(By::FUNCTION, false, Order::Own, false)
                .samples,
            1
        );
    }

    #[test]
    fn a_function_or_stack_that_was_not_told_is_refused() {
        let of_stack = Samples {
            stacks: vec![vec![0]],
            ..Samples::default()
        };
        assert_eq!(Recorded::default().take(of_stack), Err(Unfounded));
        let of_sum = Samples {
            sums: vec![Sum {
                pid: 1,
                tid: 1,
                stack: 0,
                context: 0,
                idle: false,
                on_cpu: 1,
                waiting: 0,
            }],
            ..Samples::default()
        };
        assert_eq!(Recorded::default().take(of_sum), Err(Unfounded));
    }
}
