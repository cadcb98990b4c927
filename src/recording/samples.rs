//! Samples of stacks, as a recording has them in place of events: added up since the block before, with functions and stacks by
//! number, each told once.

use std::io;

use serde::{Deserialize, Serialize};

use crate::export::Sink;

/// What records samples.
pub(crate) trait SampleSink: Sink {
    /// Writes samples, at once.
    ///
    /// # Errors
    /// The output's.
    fn samples(&mut self, samples: &Samples) -> io::Result<()>;

    /// Whether numbers begin anew from here on, because it is another file that is written.
    ///
    /// # Errors
    /// The output's.
    fn turn(&mut self, _now: u64) -> io::Result<bool> {
        Ok(false)
    }
}

/// What was seen since the block before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Samples {
    /// Functions that were not told before, with their files; their numbers go on from those before, from 0.
    pub(crate) functions: Vec<(String, String)>,
    /// The same of stacks: functions by their numbers, the innermost first.
    pub(crate) stacks: Vec<Vec<u32>>,
    /// The same of kinds of greenlets and tasks; 0 is none, which is told, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) contexts: Vec<String>,
    /// Where these are told apart: how many greenlets and tasks there are, of how many it was found out what they do, whether not all
    /// objects were looked at, and how often it was looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parked: Option<(u64, u64, bool, u64)>,
    /// Names of threads that were not told before, or are new.
    pub(crate) threads: Vec<(u32, String)>,
    pub(crate) sums: Vec<Sum>,
    /// Samples a second that were wanted.
    pub(crate) rate: u32,
    /// Over how long, in nanoseconds.
    pub(crate) wall_ns: u64,
    /// How often all threads were looked at, and how often there was no time for it.
    pub(crate) looks: u64,
    pub(crate) missed: u64,
    /// Samples that nobody is told of, because the stack changed while it was read.
    pub(crate) torn: u64,
}

/// How often a thread was seen on a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    /// Its number.
    pub(crate) stack: u32,
    /// The kind of greenlet or task that ran, or waited.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) context: u32,
    /// Whether it waited for work.
    pub(crate) idle: bool,
    pub(crate) on_cpu: u64,
    pub(crate) waiting: u64,
}

fn is_none(context: &u32) -> bool {
    *context == 0
}

impl Samples {
    /// The kind that the first line of a recording names.
    pub(crate) const KIND: &str = "sample";
}
