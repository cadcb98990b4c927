//! Verdicts: can an engine run here, and what does each kind of event give with each interpreter.

use serde::Serialize;

use super::agent::{is_kept_out, offer};
use super::python::name;
use super::systemtap::proved;
use super::{Engine, Finding, Status};
use crate::agent;
use crate::host::{Facts, Python};
use crate::probe::{EventKind, Probe};
use crate::python::marks::{self, behaviour};

/// Whether something can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ability {
    /// It was shown to, or everything it needs is there.
    Ready,
    /// Nothing is known to be in the way, and the proof is still to come.
    Likely,
    /// It cannot.
    Cannot,
    /// Too little is known.
    Unknown,
}

/// About an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// Which.
    pub engine: Engine,
    /// Can it run?
    pub ability: Ability,
    /// The same in words.
    pub sentence: String,
    /// Ids of the findings that decided.
    pub because: Vec<&'static str>,
}

/// About a kind of event of one interpreter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct EventVerdict {
    /// Path of the interpreter.
    pub python: String,
    /// Its name for people.
    pub name: String,
    /// Processes that run it.
    pub pids: Vec<u32>,
    /// Kind of event, as `--events` takes it.
    pub kind: &'static str,
    /// Can it be had with an engine that can run here?
    pub ability: Ability,
    /// What it gives, or why it cannot be had.
    pub sentence: String,
}

/// Whether a finding is about making a module: where nothing else stops stap, one that was compiled elsewhere still runs.
fn is_about_compiling(finding: &Finding) -> bool {
    finding.part == super::Part::Building || ["stap", "stap-kernel"].contains(&finding.id)
}

pub(super) fn of_engine(facts: &Facts, findings: &[Finding], engine: Engine) -> Verdict {
    let stopping: Vec<&Finding> = findings
        .iter()
        .filter(|finding| finding.stops.contains(&engine))
        .collect();
    let because: Vec<&'static str> = stopping.iter().map(|finding| finding.id).collect();
    if let Some(first) = stopping.first() {
        let more = match stopping.len() {
            1 => String::new(),
            2 => " (and one more obstacle)".to_owned(),
            count => format!(" (and {} more obstacles)", count - 1),
        };
        let mut sentence = format!("cannot run here, because {}{more}", first.summary);
        // Where nothing of SystemTap is installed, staprun is a package of its own; a staprun that cannot load is none of this.
        let installs = because.contains(&"stap");
        let mut stopping = stopping.iter();
        if engine == Engine::Stap
            && stopping.all(|it| is_about_compiling(it) || (installs && it.id == "staprun"))
        {
            sentence.push_str(
                "; a module that was compiled elsewhere needs only `staprun` here (pystap bundle, docs/bundle.md)",
            );
        }
        return Verdict {
            engine,
            ability: Ability::Cannot,
            sentence,
            because,
        };
    }
    let concerned = |finding: &&Finding| match engine {
        Engine::Stap => matches!(
            finding.part,
            super::Part::Host
                | super::Part::Kernel
                | super::Part::Building
                | super::Part::Systemtap
        ),
        Engine::Uprobes => finding.part == super::Part::Uprobes,
        // What keeps it out of running processes leaves it launched commands.
        Engine::Direct => finding.part == super::Part::Agent && finding.id != "ptrace",
    };
    let unknown: Vec<&'static str> = findings
        .iter()
        .filter(concerned)
        .filter(|finding| finding.status == Status::Unknown && finding.id != "trial")
        .map(|finding| finding.id)
        .collect();
    let loaded = facts
        .trial
        .value()
        .is_some_and(|trial| trial.loaded == Some(true));
    let (ability, sentence) = match engine {
        Engine::Stap if loaded => (
            Ability::Ready,
            "ready: a trial module was built and loaded".to_owned(),
        ),
        Engine::Stap if proved(facts) => (
            Ability::Ready,
            "ready: a trial module was built (`pystap doctor --trial=run` also loads it)"
                .to_owned(),
        ),
        Engine::Stap if !unknown.is_empty() => (
            Ability::Unknown,
            format!(
                "nothing is known to be in its way, but this could not be found out: {}; `pystap doctor --trial` tells",
                unknown.join(", ")
            ),
        ),
        Engine::Stap => (
            Ability::Likely,
            "nothing is known to be in its way; `pystap doctor --trial` proves it".to_owned(),
        ),
        Engine::Uprobes | Engine::Direct if !unknown.is_empty() => (
            Ability::Unknown,
            format!(
                "nothing is known to be in its way, but this could not be found out: {}",
                unknown.join(", ")
            ),
        ),
        Engine::Uprobes => (Ability::Ready, "ready".to_owned()),
        Engine::Direct if is_kept_out(facts) => (
            Ability::Ready,
            "ready, for commands that pystap launches and for processes in which its agent waits (`pystap agent install --python PATH`)"
                .to_owned(),
        ),
        Engine::Direct => (
            Ability::Ready,
            "ready, for commands that pystap launches and for processes that its agent gets into".to_owned(),
        ),
    };
    Verdict {
        engine,
        ability,
        sentence,
        because: unknown,
    }
}

pub(super) fn of_events(
    facts: &Facts,
    engines: &[Verdict],
    only: Option<Engine>,
) -> Vec<EventVerdict> {
    facts
        .pythons
        .iter()
        .flat_map(|python| {
            let kinds = EventKind::ALL.into_iter();
            kinds
                .filter(|kind| is_of_use(python, *kind))
                .map(move |kind| {
                    let (ability, sentence) = of_kind(facts, python, kind, engines, only);
                    EventVerdict {
                        python: python.path.clone(),
                        name: name(python),
                        pids: python.pids.clone(),
                        kind: kind.name(),
                        ability,
                        sentence,
                    }
                })
        })
        .collect()
}

/// Whether a kind is worth a word: what only private patches of CPython give is, where there is any of it.
fn is_of_use(python: &Python, kind: EventKind) -> bool {
    let has = |probe: &Probe| {
        let marks = python.marks.value();
        marks.is_some_and(|marks| marks.iter().any(|mark| mark == probe.name()))
    };
    let mut probes = kind.probes().iter();
    probes.any(|probe| has(probe) || !marks::spans(probe.name()).is_empty())
}

/// The best that an engine of this host can do for a kind of event.
fn of_kind(
    facts: &Facts,
    python: &Python,
    kind: EventKind,
    engines: &[Verdict],
    only: Option<Engine>,
) -> (Ability, String) {
    let can = |engine: Engine| {
        if only.is_some_and(|only| only != engine) {
            return Ability::Cannot;
        }
        engines
            .iter()
            .find(|verdict| verdict.engine == engine)
            .map_or(Ability::Unknown, |verdict| verdict.ability)
    };
    let version = python.language();
    let offer = version
        .and_then(|version| offer(facts, version))
        .filter(|_| kind.is_agents());
    // What the agent tells itself depends on no mark.
    let direct = match offer {
        Some(_) => can(Engine::Direct),
        None => Ability::Cannot,
    };
    if only == Some(Engine::Direct) {
        return of_agent_alone(kind, version, offer, direct);
    }
    let (by_probes, sentence) = of_probes(python, kind, can, only, (offer, is_able(direct)));
    let Some(offer) = offer else {
        return (by_probes, sentence);
    };
    let by_agent = || format!("complete, {offer}");
    let sentence = if by_probes == Ability::Cannot && direct != Ability::Cannot {
        by_agent()
    } else if !is_able(direct) || (is_able(by_probes) && sentence.starts_with("complete")) {
        sentence
    } else if is_able(by_probes) {
        format!("{}; the interpreter's own probes: {sentence}", by_agent())
    } else {
        by_agent()
    };
    (best([direct, by_probes]), sentence)
}

fn is_able(ability: Ability) -> bool {
    matches!(ability, Ability::Ready | Ability::Likely)
}

/// The best of what engines can do.
fn best<const N: usize>(abilities: [Ability; N]) -> Ability {
    let order = [Ability::Ready, Ability::Likely, Ability::Unknown];
    let found = order.into_iter().find(|it| abilities.contains(it));
    found.unwrap_or(Ability::Cannot)
}

/// What the agent does for a kind of event where it is all that is to be used.
fn of_agent_alone(
    kind: EventKind,
    version: Option<(u8, u8)>,
    offer: Option<&'static str>,
    ability: Ability,
) -> (Ability, String) {
    if !kind.is_agents() {
        let reason = "no, pystap's agent tells calls, returns and collections only";
        return (Ability::Cannot, reason.to_owned());
    }
    let ((major, oldest), (_, newest)) = (agent::OLDEST, agent::NEWEST);
    let runs = format!("pystap's agent runs in CPython {major}.{oldest} to {major}.{newest}");
    match (offer, ability) {
        (None, _) if version.is_none() => (
            Ability::Unknown,
            format!("the version is not known; {runs}"),
        ),
        (None, _) => (Ability::Cannot, format!("no, {runs}")),
        (Some(_), Ability::Cannot) => (
            Ability::Cannot,
            "no, the engine direct cannot run here".to_owned(),
        ),
        (Some(offer), _) => (ability, format!("complete, {offer}")),
    }
}

/// The best that probes can do for a kind of event: the interpreter's own, and where it lacks them the agent's. Of the agent it
/// must be known what it offers, and whether it tells this also without probes.
fn of_probes(
    python: &Python,
    kind: EventKind,
    can: impl Fn(Engine) -> Ability,
    only: Option<Engine>,
    (offer, or_directly): (Option<&'static str>, bool),
) -> (Ability, String) {
    let Some(have) = python.marks.value() else {
        return (
            Ability::Unknown,
            "it is not known which probes the interpreter has".to_owned(),
        );
    };
    let version = python.language();
    let needed = kind.probes();
    let lacks = |probe: &&Probe| !have.iter().any(|name| name == probe.name());
    // What the interpreter lacks, pystap's agent may have.
    let offer = offer.filter(|_| needed.iter().any(|probe| lacks(&probe)));
    if have.is_empty() && offer.is_none() {
        return (
            Ability::Cannot,
            "no, the interpreter has no probes".to_owned(),
        );
    }
    if offer.is_none()
        && let Some(lacking) = needed.iter().find(lacks)
    {
        let reason = version.map_or("The probe is not there", |version| {
            behaviour(version, lacking.name())
                .sentence
                .trim_end_matches('.')
        });
        return (Ability::Cannot, format!("no. {reason}"));
    }
    let known: Vec<marks::Behaviour> = needed
        .iter()
        .filter_map(|probe| Some(behaviour(version?, probe.name())))
        .collect();
    let raised = known.iter().any(|known| known.raise.is_some());
    // SystemTap cannot probe what was replaced or what only a container sees, and raises no other mark's semaphore.
    let stap = if (python.replaced && offer.is_none()) || python.elsewhere {
        Ability::Cannot
    } else {
        can(Engine::Stap)
    };
    let uprobes = if python.replaced && offer.is_none() {
        Ability::Cannot
    } else {
        can(Engine::Uprobes)
    };
    let usable = |ability| ability != Ability::Cannot;
    let ability = best([stap, uprobes]);
    if ability == Ability::Cannot {
        let reason = if python.replaced {
            "the file was replaced while processes run it"
        } else {
            match only {
                Some(Engine::Stap) => {
                    "the interpreter has the probes, but SystemTap cannot trace it here"
                }
                Some(Engine::Uprobes) => {
                    "the interpreter has the probes, but uprobe events cannot trace it here"
                }
                Some(Engine::Direct) | None => {
                    "the interpreter has the probes, but no engine can trace it here"
                }
            }
        };
        return (Ability::Cannot, format!("no, {reason}"));
    }
    if let Some(offer) = offer {
        return (ability, format!("complete, {offer}"));
    }
    let worst = known
        .iter()
        .find(|known| known.status != marks::Status::Complete);
    let sentence = match worst {
        None if version.is_none() => "the probes are there; the version is not known".to_owned(),
        None => "complete".to_owned(),
        Some(_) if raised && usable(uprobes) && or_directly => {
            "complete with the engines direct and uprobes, of which uprobes slows every call down; hardly any with stap"
                .to_owned()
        }
        Some(_) if raised && usable(uprobes) => {
            "complete with the engine uprobes, which slows every call down; hardly any with stap"
                .to_owned()
        }
        Some(known) => format!(
            "{}. {}",
            match known.status {
                marks::Status::Useless => "hardly any",
                marks::Status::Dangerous => "dangerous",
                marks::Status::Untried => "not tried in this version",
                _ => "with quirks",
            },
            known.sentence.trim_end_matches('.')
        ),
    };
    (ability, sentence)
}
