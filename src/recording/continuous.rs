//! The sink that records into a directory of parts, for as long as it takes: each part is a recording of its own, with what was
//! running and with what, so that any of them can be read alone.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::parts::{Every, Part, Parts, Rotation};
use super::{SampleSink, Samples, Writer};
use crate::analysis::overhead::Cost;
use crate::analysis::pairing::{Pairing, PairingRules, Step};
use crate::clock;
use crate::event::loss::Losses;
use crate::event::{ProcessChange, Session, Summary, What};
use crate::export::latencies::asked_for;
use crate::export::{End, Output, Sink};

/// How a part ends that is followed by another one: the word for it in its summary.
const ENDED: &str = "rotated";

/// Opens the file of a part.
pub(crate) type OpenPart = fn(&Path) -> io::Result<Output>;

/// See the head of the module.
pub(crate) struct Continuous {
    directory: PathBuf,
    /// Open as soon as something is recorded.
    parts: Option<Parts>,
    rotation: Rotation,
    open: OpenPart,
    rules: PairingRules,
    process_rules: BTreeMap<u32, PairingRules>,
    session: Session,
    /// What events have cost in the program so far, where that is known.
    cost: Option<Cost>,
    /// The part that is written; `None` when the next one could not be opened.
    current: Option<Current>,
    /// What earlier parts could not write.
    unwritten: u64,
}

/// The part that is written.
struct Current {
    writer: Box<Writer<Output>>,
    file: String,
    /// Nanoseconds since the Unix epoch.
    begin: u64,
    events: u64,
    losses: Losses,
    slow: u64,
}

impl Continuous {
    /// A recording into this directory, of interpreters with these rules; `open` makes files. Nothing is written, and the
    /// directory not looked at, before the session is known.
    pub(crate) fn new(
        directory: &Path,
        rotation: Rotation,
        rules: PairingRules,
        open: OpenPart,
    ) -> Continuous {
        Continuous {
            directory: directory.to_owned(),
            parts: None,
            rotation,
            open,
            rules,
            process_rules: BTreeMap::new(),
            session: Session::default(),
            cost: None,
            current: None,
            unwritten: 0,
        }
    }

    fn parts(&mut self) -> io::Result<&mut Parts> {
        match &mut self.parts {
            Some(parts) => Ok(parts),
            none => {
                let parts = Parts::open(&self.directory, self.rotation.keep);
                Ok(none.insert(parts.map_err(io::Error::other)?))
            }
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        let (file, path) = self.parts()?.begin()?;
        let mut writer = Box::new(Writer::new((self.open)(&path)?, self.rules));
        writer.session(&self.session)?;
        for (pid, rules) in &self.process_rules {
            writer.rules(*pid, *rules)?;
        }
        self.current = Some(Current {
            writer,
            file,
            begin: clock::now(),
            events: 0,
            losses: Losses::new(),
            slow: 0,
        });
        Ok(())
    }

    fn current(&mut self) -> io::Result<&mut Current> {
        let none = || io::Error::other("the next part could not be begun");
        self.current.as_mut().ok_or_else(none)
    }

    /// Ends the part that is written, with what is only known at the end of the session.
    fn end(&mut self, last: Option<&Summary>) -> io::Result<()> {
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        let end = clock::now();
        let mut summary = last.cloned().unwrap_or_else(|| Summary {
            ended: ENDED.to_owned(),
            overhead_ns_per_event: self.cost.map(Cost::per_event),
            overhead_ns_within_call: self.cost.map(Cost::within_call),
            ..Summary::default()
        });
        summary.ts = end;
        summary.wall_ns = end.saturating_sub(current.begin);
        summary.delivered = current.events;
        current.losses.fill(&mut summary);
        let mut writer = current.writer;
        let written = writer.close(Some(&summary));
        self.unwritten += writer.unwritten();
        written?;
        self.parts()?.finish(Part {
            file: current.file,
            begin: current.begin,
            end,
            events: current.events,
            lost: summary.lost,
            bytes: writer.bytes(),
            slow: current.slow,
            cut: false,
        })
    }

    /// Begins another part if this one is complete at this time; says whether it did.
    ///
    /// # Errors
    /// The output's.
    pub(crate) fn turn(&mut self, now: u64) -> io::Result<bool> {
        let Some(current) = &self.current else {
            return Ok(false);
        };
        let is_complete = match self.rotation.every {
            Every::Bytes(bytes) => current.writer.bytes() >= bytes,
            Every::Time(time) => Duration::from_nanos(now.saturating_sub(current.begin)) >= time,
        };
        if is_complete {
            self.end(None)?;
            self.begin()?;
        }
        Ok(is_complete)
    }

    /// Takes note of a call that was slow.
    fn judge(&mut self, step: &Step<'_>) {
        let (Some(finished), What::Call { place, .. } | What::Return { place, .. }) =
            (&step.finished, &step.event.what)
        else {
            return;
        };
        let Some(took) = finished.inclusive_ns.filter(|_| finished.exact) else {
            return;
        };
        let mut slow = self.rotation.slow.iter();
        if slow.any(|it| took >= it.ns && asked_for(std::slice::from_ref(&it.function), place)) {
            if let Some(parts) = &mut self.parts {
                parts.keep_since(step.event.ts.saturating_sub(took));
            }
            if let Some(current) = &mut self.current {
                current.slow += 1;
            }
        }
    }
}

impl Sink for Continuous {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.session = session.clone();
        self.begin()
    }

    fn rules(&mut self, pid: u32, rules: PairingRules) -> io::Result<()> {
        self.process_rules.insert(pid, rules);
        self.current()?.writer.rules(pid, rules)
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        let current = self.current()?;
        current.writer.step(step)?;
        match &step.event.what {
            What::Lost { count, stage, .. } => current.losses.told(*stage, *count),
            what => {
                current.events += 1;
                if let What::Process {
                    change: ProcessChange::Exit,
                    ..
                } = what
                    && [0, step.event.pid].contains(&step.event.tid)
                {
                    self.process_rules.remove(&step.event.pid);
                }
            }
        }
        if !self.rotation.slow.is_empty() {
            self.judge(step);
        }
        match self.rotation.every {
            // Only full blocks make it larger, so mostly this is one comparison.
            Every::Bytes(_) => self.turn(0).map(drop),
            Every::Time(_) => Ok(()),
        }
    }

    fn event_cost(&mut self, cost: Cost) {
        self.cost = Some(cost);
    }

    fn tick(&mut self, now: u64, _pairing: &Pairing) -> io::Result<()> {
        self.turn(now).map(drop)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.current()?.writer.flush()
    }

    fn unwritten(&self) -> u64 {
        let current = self.current.as_ref().map_or(0, |it| it.writer.unwritten());
        self.unwritten + current
    }

    fn finish(mut self: Box<Self>, end: &End<'_>) -> io::Result<Option<String>> {
        self.end(end.summary)?;
        Ok(None)
    }
}

impl SampleSink for Continuous {
    fn samples(&mut self, samples: &Samples) -> io::Result<()> {
        let current = self.current()?;
        current.writer.samples(samples)?;
        let seen = samples.sums.iter().map(|sum| sum.on_cpu + sum.waiting);
        current.events += seen.sum::<u64>();
        Ok(())
    }

    fn turn(&mut self, now: u64) -> io::Result<bool> {
        Continuous::turn(self, now)
    }
}

#[cfg(test)]
#[path = "continuous_tests.rs"]
mod tests;
