//! What the facts about a host mean for tracing on it: findings, each with its evidence and the commands that fix it,
//! and a verdict for each engine and each kind of event. Pure functions of [`Facts`]; nothing here looks at a host, and
//! nothing is ever run.
//!
//! [`examine`] is the door for `pystap doctor`, [`obstacles`] the one for a command whose engine cannot run.
//!
//! # Two rooms
//!
//! `pystap doctor` is two rooms with plain data between them. [`crate::host`] reads files below one root, `/` or a
//! directory of a test, into facts. This room makes findings and verdicts of them and sees nothing else. So a host can
//! be saved, sent and examined elsewhere, and every test of a distribution is a file.
//!
//! A fact is a value, or the knowledge that there is none, or a reason why it is not known, always with its place.
//! Gathering never fails: what cannot be read or makes no sense is unknown, and becomes a finding.
//!
//! A finding names the engines that it `stops`. An engine cannot run exactly when a finding stops it, and [`obstacles`]
//! gives these findings to whoever has an engine that cannot run.

mod building;
mod compatibility;
mod debug;
mod kernel;
mod python;
mod remedy;
mod report;
mod systemtap;
#[cfg(test)]
mod tests;
mod uprobes;
mod verdict;

use serde::Serialize;

use crate::host::{Fact, Facts};

pub use report::{Look, fix_script, json, report};
pub use verdict::{Ability, EventVerdict, Verdict};

/// Everything that can be said about a host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Examination {
    /// In the order of the report.
    pub findings: Vec<Finding>,
    /// One per engine.
    pub engines: Vec<Verdict>,
    /// One per interpreter and kind of event.
    pub events: Vec<EventVerdict>,
}

/// A tracing engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// SystemTap's kernel module.
    Stap,
    /// The kernel's own uprobe events.
    Uprobes,
}

impl Engine {
    /// Both, in the order of the report.
    pub const ALL: [Engine; 2] = [Engine::Stap, Engine::Uprobes];

    /// As users type it.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Stap => "stap",
            Engine::Uprobes => "uprobes",
        }
    }
}

/// The state of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Tracing may work, with a drawback or a doubt.
    Warning,
    /// Something needed is missing or forbids tracing.
    Missing,
    /// It could not be determined.
    Unknown,
}

impl Status {
    /// The name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Missing => "missing",
            Status::Unknown => "unknown",
        }
    }
}

/// Parts of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The host and who is asking.
    Host,
    /// The running kernel and what it allows to be loaded.
    Kernel,
    /// Headers and compiler.
    Building,
    /// SystemTap.
    Systemtap,
    /// Uprobe events.
    Uprobes,
    /// Debug information of the kernel.
    Debug,
    /// Interpreters.
    Python,
}

impl Part {
    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Part::Host => "Host",
            Part::Kernel => "Kernel",
            Part::Building => "Building modules",
            Part::Systemtap => "SystemTap",
            Part::Uprobes => "Uprobe events",
            Part::Debug => "Kernel debug information",
            Part::Python => "Python",
        }
    }
}

/// Something that was read, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The path, or whatever else was asked.
    pub path: String,
    /// What it says.
    pub value: String,
}

impl Evidence {
    /// Evidence from a fact, whose value `show` puts into words.
    fn of<T>(fact: &Fact<T>, show: impl FnOnce(&T) -> String) -> Evidence {
        Evidence {
            path: fact.from().to_owned(),
            value: match (fact.value(), fact.reason()) {
                (Some(value), _) => show(value),
                (None, Some(reason)) => format!("unknown: {reason}"),
                (None, None) => "not there".to_owned(),
            },
        }
    }

    /// The same for a value that prints itself.
    fn plain<T: std::fmt::Display>(fact: &Fact<T>) -> Evidence {
        Evidence::of(fact, ToString::to_string)
    }
}

/// A step that fixes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// What it does, or what has to be done by hand: a sentence.
    pub what: String,
    /// Commands for a root shell; none when only a person can do it.
    pub commands: Vec<String>,
    /// Whether it is one way among several, or a matter of judgement: never run by the fix script.
    pub choice: bool,
}

impl Fix {
    fn new<S: Into<String>>(what: impl Into<String>, commands: impl IntoIterator<Item = S>) -> Fix {
        Fix {
            what: what.into(),
            commands: commands.into_iter().map(Into::into).collect(),
            choice: false,
        }
    }

    fn or(mut self) -> Fix {
        self.choice = true;
        self
    }

    fn by_hand(what: impl Into<String>) -> Fix {
        Fix {
            what: what.into(),
            commands: Vec::new(),
            choice: false,
        }
    }
}

/// One thing that was examined.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// Stable name, for programs; docs/doctor.md lists them.
    pub id: &'static str,
    /// What it is about if there can be several: the path of an interpreter, say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Part of the report.
    pub part: Part,
    /// The status.
    pub status: Status,
    /// The status in words, without a full stop.
    pub summary: String,
    /// Why it matters, one sentence.
    pub why: String,
    /// What was read.
    pub evidence: Vec<Evidence>,
    /// What fixes it, in order.
    pub fixes: Vec<Fix>,
    /// Engines that cannot run because of it.
    pub stops: Vec<Engine>,
}

impl Finding {
    fn new(
        part: Part,
        id: &'static str,
        status: Status,
        summary: impl Into<String>,
        why: impl Into<String>,
    ) -> Finding {
        Finding {
            id,
            subject: None,
            part,
            status,
            summary: summary.into(),
            why: why.into(),
            evidence: Vec::new(),
            fixes: Vec::new(),
            stops: Vec::new(),
        }
    }

    fn ok(part: Part, id: &'static str, summary: impl Into<String>, why: &str) -> Finding {
        Finding::new(part, id, Status::Ok, summary, why)
    }

    fn about(mut self, subject: &str) -> Finding {
        self.subject = Some(subject.to_owned());
        self
    }

    fn evidence(mut self, evidence: Evidence) -> Finding {
        self.evidence.push(evidence);
        self
    }

    fn fix(mut self, fix: Fix) -> Finding {
        self.fixes.push(fix);
        self
    }

    fn fixes(mut self, fixes: impl IntoIterator<Item = Fix>) -> Finding {
        self.fixes.extend(fixes);
        self
    }

    fn stops(mut self, engine: Engine) -> Finding {
        self.stops.push(engine);
        self
    }
}

/// Examines a host. With `only`, events count as possible when this engine can provide them.
pub fn examine(facts: &Facts, only: Option<Engine>) -> Examination {
    let findings = findings(facts);
    let engines: Vec<Verdict> = Engine::ALL
        .into_iter()
        .map(|engine| verdict::of_engine(facts, &findings, engine))
        .collect();
    let events = verdict::of_events(facts, &engines, only);
    Examination {
        findings,
        engines,
        events,
    }
}

/// What stands in the way of an engine on this host, in the order in which it is best fixed. Empty when nothing is
/// known to. For a command whose engine cannot run: the first one belongs in its error, `pystap doctor` shows the rest.
pub fn obstacles(facts: &Facts, engine: Engine) -> Vec<Finding> {
    findings(facts)
        .into_iter()
        .filter(|finding| finding.stops.contains(&engine))
        .collect()
}

impl Finding {
    /// One line for an error message: the problem, its consequence, and the next command to type.
    pub fn sentence(&self, engine: Engine) -> String {
        let next = self
            .fixes
            .iter()
            .find_map(|fix| fix.commands.first())
            .map_or_else(
                || "`pystap doctor` tells more".to_owned(),
                |command| format!("`{command}` is the first step, `pystap doctor` shows them all"),
            );
        format!(
            "{}, so the engine {} cannot run here; {next}",
            self.summary,
            engine.name()
        )
    }
}

fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = kernel::host(facts);
    all.extend(kernel::kernel(facts));
    all.extend(building::findings(facts));
    all.extend(systemtap::findings(facts));
    all.extend(uprobes::findings(facts));
    all.extend(debug::findings(facts));
    all.extend(python::findings(facts));
    all
}
