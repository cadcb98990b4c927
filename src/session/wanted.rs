//! What a request comes to before anybody looks at a process: the event kinds, the templates and probes that they need, and
//! what of these an interpreter lacks. Shared by the look at the host, which looks at nothing else, and by the decision.

use std::collections::BTreeSet;

use super::plan::PlanError;
use super::request::{AgentUsage, Purpose, SessionRequest};
use crate::agent;
use crate::engine::abilities::Abilities;
use crate::engine::all;
use crate::field::{self, Field};
use crate::probe::{EventKind, Probe};
use crate::python::Interpreter;
use crate::python::marks::{self, PROVIDER};
use crate::python::undecodable;
use crate::script::{Catalogue, TIMED_CALLS, TOTALS};

/// A template of the user's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnTemplate {
    /// Its name, which may be that of a built-in one, whose place it takes.
    pub(crate) name: String,
    /// The probes of interpreters that its header names.
    pub(crate) probes: Vec<Probe>,
}

impl OwnTemplate {
    /// Those of a catalogue.
    pub(crate) fn all(catalogue: &Catalogue) -> Vec<OwnTemplate> {
        let users = catalogue.iter().filter(|template| template.is_users());
        users
            .map(|template| OwnTemplate {
                name: template.name.clone(),
                probes: template
                    .marks
                    .iter()
                    .filter_map(|name| Probe::of_name(name))
                    .filter(|probe| probe.is_cpythons())
                    .collect(),
            })
            .collect()
    }
}

/// Who wants fields, and who tells them: a clause's beginning.
fn told_by(by_recipe: bool) -> &'static str {
    match by_recipe {
        true => "what the recipe asks for is told by",
        false => "--field is told by",
    }
}

/// What is wanted of every interpreter.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Event kinds by name, in the order in which they were asked for.
    pub(crate) events: Vec<String>,
    /// Templates that make them.
    pub(crate) templates: Vec<String>,
    /// The first of these that is the user's own.
    pub(crate) own_template: Option<String>,
    /// The probes that all of that needs.
    pub(crate) probes: BTreeSet<Probe>,
    usage: AgentUsage,
    /// What was asked for that the interpreters' own probes do not tell, as it is typed.
    values: Option<&'static str>,
    /// Whether that is nothing but the arguments of calls, each as it is made: probes of one patch tell these.
    arguments_alone: bool,
    trust_paths: bool,
    /// Fields of calls, in the order of their names, and whether a recipe asks for them.
    pub(crate) fields: Vec<Field>,
    by_recipe: bool,
    /// What the agent tells by itself.
    by_itself: ByItself,
}

/// What the agent tells by itself, through memory that it shares with pystap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByItself {
    /// Nothing: its probes are armed, where the interpreters' own do not do.
    Nothing,
    /// All that it can of interpreters that it reaches, and the interpreters' own probes tell the rest.
    WhatItCan,
    /// Everything: no probe is armed.
    Everything,
}

impl Wanted {
    /// Resolves the kinds of a request.
    ///
    /// # Errors
    /// What contradicts itself, and kinds that are none.
    pub(crate) fn of(request: &SessionRequest, own: &[OwnTemplate]) -> Result<Wanted, PlanError> {
        let filters = &request.filters;
        let named = [&filters.functions, &filters.files, &filters.modules];
        let is_unfiltered = named.iter().all(|globs| globs.is_empty());
        if request.agent.capture.any() && is_unfiltered {
            return Err(PlanError::CaptureWithoutFilter);
        }
        let mut fields = request.agent.fields.iter();
        if is_unfiltered && let Some(field) = fields.find(|field| field.functions.is_empty()) {
            return Err(PlanError::FieldWithoutFilter {
                field: field.to_string(),
            });
        }
        let fields = field::together(request.agent.fields.clone()).map_err(PlanError::Fields)?;
        if let Some(name) = &request.group_by
            && !fields.iter().any(|field| field.name == *name)
        {
            return Err(PlanError::NoSuchField { name: name.clone() });
        }
        if let Some(name) = &request.group_by
            && field::told_by_returns(&fields).get(name) == Some(&true)
        {
            return Err(PlanError::FieldOfReturns { name: name.clone() });
        }
        let agent = &request.agent;
        let values = [
            (!fields.is_empty() && agent.by_recipe, "the recipe"),
            (!fields.is_empty(), "--field"),
            (agent.capture.any(), "--capture"),
            (agent.contexts, "--by-context"),
        ];
        let values = values.into_iter().find_map(|(is, what)| is.then_some(what));
        if let Some(what) = values
            && agent.usage == AgentUsage::Never
        {
            return Err(PlanError::ValuesWithoutAgent { what });
        }
        if !fields.is_empty()
            && let Some(named) = &request.engine.named
            && !all::is_by_agent(&request.engine)
        {
            return Err(PlanError::FieldsNotDirect {
                why: told_by(agent.by_recipe),
                engine: named.clone(),
            });
        }
        // Its probes have no room for fields.
        let by_itself = match all::is_by_agent(&request.engine) || !fields.is_empty() {
            true => ByItself::Everything,
            false if request.mixes => ByItself::WhatItCan,
            false => ByItself::Nothing,
        };
        if by_itself == ByItself::Everything && request.agent.usage == AgentUsage::Never {
            return Err(PlanError::DirectWithoutAgent);
        }
        let (events, templates) = kinds(request, own)?;
        let mut probes: BTreeSet<Probe> = events
            .iter()
            .filter_map(|event| EventKind::of_name(event))
            .flat_map(|kind| kind.probes().iter().copied())
            .collect();
        if request.min_duration.is_some() {
            probes.extend(Probe::FUNCTIONS);
        }
        let mut own_template = None;
        for template in &templates {
            if let Some(own) = own.iter().find(|own| own.name == *template) {
                own_template.get_or_insert_with(|| own.name.clone());
                probes.extend(own.probes.iter().copied());
            }
        }
        let each_call = templates
            .iter()
            .all(|template| template != TIMED_CALLS && template != TOTALS);
        let arguments_alone = agent.capture.arguments
            && !agent.capture.returns
            && !agent.contexts
            && fields.is_empty()
            && agent.usage != AgentUsage::Always
            && each_call
            && own_template.is_none();
        Ok(Wanted {
            events,
            templates,
            own_template,
            probes,
            usage: request.agent.usage,
            arguments_alone,
            values,
            fields,
            by_recipe: agent.by_recipe,
            trust_paths: request.agent.trust_paths,
            by_itself,
        })
    }

    /// Takes out a kind that has a template of its own.
    pub(crate) fn leave_out(&mut self, kind: EventKind) {
        self.events.retain(|event| event != kind.name());
        self.templates
            .retain(|template| template != kind.template());
        self.probes.retain(|probe| !kind.probes().contains(probe));
    }

    /// Whether the agent tells everything, and no probe is armed.
    pub(crate) fn is_direct(&self) -> bool {
        self.by_itself == ByItself::Everything
    }

    /// What was asked for that only the agent tells, as it is typed.
    pub(crate) fn only_agents(&self) -> Option<&'static str> {
        self.values
    }

    /// Why the agent tells everything: a clause's beginning.
    pub(crate) fn why_direct(&self) -> &'static str {
        match self.fields.is_empty() {
            true => "--engine direct is",
            false => told_by(self.by_recipe),
        }
    }

    /// Whether agents tell something by themselves, so that none of theirs is probed.
    pub(crate) fn has_direct(&self) -> bool {
        self.by_itself != ByItself::Nothing
    }

    /// Whether the agent tells what it can of interpreters that it reaches, and others are probed.
    pub(crate) fn is_mixed(&self) -> bool {
        self.by_itself == ByItself::WhatItCan
    }

    /// Whether something is asked for that only an engine for SystemTap scripts can do.
    pub(crate) fn needs_scripts(&self, request: &SessionRequest) -> bool {
        request.engine.stap.is_some()
            || !request.engine.stap_arguments.is_empty()
            || request.purpose.is_compile()
            || self.own_template.is_some()
    }

    /// Whether this engine comes into question at all.
    pub(crate) fn in_question(
        &self,
        request: &SessionRequest,
        name: &str,
        abilities: Abilities,
    ) -> bool {
        request.purpose != Purpose::Script
            && (abilities.scripts || !self.needs_scripts(request))
            && match request.engine.named.as_deref() {
                Some(named) => named == name,
                // Another plan is its own, without probes: `choose` asks for that one by its name.
                None => !abilities.by_agent,
            }
    }

    /// Which probes about functions are wanted.
    pub(crate) fn functions(&self) -> impl Iterator<Item = Probe> {
        let functions = Probe::FUNCTIONS.into_iter();
        functions.filter(|probe| self.probes.contains(probe))
    }

    /// Whether an interpreter, left to itself, has a probe armed that fails on paths which are not UTF-8.
    pub(crate) fn fails_on_paths(&self, interpreter: &Interpreter) -> bool {
        !self.trust_paths
            && !self.is_direct()
            && undecodable::is_affected(interpreter.version.as_ref())
            && self
                .probes
                .iter()
                .any(|probe| undecodable::fails(*probe) && has(interpreter, *probe))
    }

    /// Whether the arguments of calls are wanted, nothing else that takes the agent, and this interpreter's own probe passes them.
    pub(crate) fn arguments_of(&self, interpreter: &Interpreter) -> bool {
        let version = interpreter.version.as_ref();
        self.arguments_alone
            && version.is_some_and(|version| {
                let marks = interpreter
                    .image
                    .mark(PROVIDER, Probe::FunctionEntry.name());
                let version = (version.major, version.minor);
                marks.is_some_and(|mark| marks::passes_arguments(version, mark))
            })
    }

    /// What the agent has to tell of an interpreter that its own probes do not. `endangered` when they would end a program;
    /// `reached` when the agent gets wherever that interpreter runs.
    pub(crate) fn missing(
        &self,
        interpreter: &Interpreter,
        endangered: bool,
        reached: bool,
    ) -> MissingProbes {
        let version = interpreter.version.as_ref();
        let by_itself = self.is_direct() || (self.is_mixed() && reached);
        let values = self.values.is_some() && !self.arguments_of(interpreter);
        let always = self.usage == AgentUsage::Always || values || by_itself || endangered;
        if self.usage == AgentUsage::Never
            || (!always && version.is_some_and(|version| !agent::supported(version)))
        {
            return MissingProbes::default();
        }
        let lacks = |probes: &[Probe]| {
            probes
                .iter()
                .any(|probe| self.probes.contains(probe) && !has(interpreter, *probe))
        };
        MissingProbes {
            functions: self.functions().next().is_some() && (always || lacks(&Probe::FUNCTIONS)),
            collections: lacks(&Probe::COLLECTIONS)
                || (by_itself && Probe::COLLECTIONS.iter().any(|it| self.probes.contains(it))),
        }
    }

    /// The probes of an interpreter that are to be armed when the agent tells what is missing.
    pub(crate) fn of_interpreter(
        &self,
        interpreter: &Interpreter,
        missing: MissingProbes,
    ) -> impl Iterator<Item = Probe> {
        let wanted = self.probes.iter().copied();
        wanted.filter(move |probe| {
            let is_agents = (missing.functions && Probe::FUNCTIONS.contains(probe))
                || (missing.collections && Probe::COLLECTIONS.contains(probe));
            !self.is_direct() && !is_agents && has(interpreter, *probe)
        })
    }
}

/// Whether an interpreter has a probe of its own.
pub(crate) fn has(interpreter: &Interpreter, probe: Probe) -> bool {
    interpreter.image.mark(PROVIDER, probe.name()).is_some()
}

/// Whether an interpreter has probes of its own for calls and returns.
pub(crate) fn has_function_probes(interpreter: &Interpreter) -> bool {
    (Probe::FUNCTIONS.iter()).all(|probe| has(interpreter, *probe))
}

/// What the agent has to tell of an interpreter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MissingProbes {
    /// Calls and returns.
    pub(crate) functions: bool,
    /// Garbage collections.
    pub(crate) collections: bool,
}

impl MissingProbes {
    /// Whether there is anything.
    pub(crate) fn any(self) -> bool {
        self.functions || self.collections
    }

    /// What either of two has.
    pub(crate) fn add(&mut self, other: MissingProbes) {
        self.functions |= other.functions;
        self.collections |= other.collections;
    }
}

/// Event kinds and the templates that make them.
fn kinds(
    request: &SessionRequest,
    own: &[OwnTemplate],
) -> Result<(Vec<String>, Vec<String>), PlanError> {
    let typed = request.events.iter().map(|kind| kind.trim());
    let mut events: Vec<String> = typed
        .filter(|kind| !kind.is_empty())
        .map(str::to_owned)
        .collect();
    if events.is_empty() {
        let usual = EventKind::DEFAULT.into_iter();
        // Calls are told by their returns then.
        let usual = usual.filter(|kind| request.min_duration.is_none() || *kind != EventKind::Call);
        events = usual.map(|kind| kind.name().to_owned()).collect();
    }
    let mut templates: Vec<String> = Vec::new();
    for event in &events {
        let template = match EventKind::of_name(event) {
            Some(kind) if request.sends_all => kind.template(),
            Some(EventKind::Call | EventKind::Return) if request.min_duration.is_some() => {
                TIMED_CALLS
            }
            Some(kind) if request.totals && kind.is_agents() => TOTALS,
            Some(kind) => kind.template(),
            None if own.iter().any(|own| own.name == *event) => event,
            None => {
                return Err(PlanError::UnknownEvent {
                    kind: event.clone(),
                    known: EventKind::names(),
                });
            }
        };
        if !templates.iter().any(|known| known == template) {
            templates.push(template.to_owned());
        }
    }
    if request.min_duration.is_some() && !events.iter().any(|kind| kind == EventKind::Return.name())
    {
        return Err(PlanError::DurationWithoutReturn);
    }
    Ok((events, templates))
}
