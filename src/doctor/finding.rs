//! What a finding is made of.

use serde::Serialize;

use crate::host::Fact;

/// A way to trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Engine {
    /// SystemTap's kernel module.
    Stap,
    /// The kernel's own uprobe events.
    Uprobes,
    /// pystap's agent alone.
    Direct,
}

impl Engine {
    /// All of them, in the order of the report.
    pub(crate) const ALL: [Engine; 3] = [Engine::Stap, Engine::Uprobes, Engine::Direct];

    /// As it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Engine::Stap => "stap",
            Engine::Uprobes => "uprobes",
            Engine::Direct => "direct",
        }
    }
}

/// How it is with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// As it should be.
    Ok,
    /// Tracing may work, with a drawback or a doubt.
    Warning,
    /// Something needed is not there or forbids tracing.
    Missing,
    /// It could not be found out.
    Unknown,
}

impl Status {
    /// As the report writes it.
    pub(crate) fn name(self) -> &'static str {
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
pub(crate) enum Part {
    /// The host and who asks.
    Host,
    /// The running kernel and what it lets be loaded.
    Kernel,
    /// Headers and compiler.
    Building,
    /// SystemTap.
    Systemtap,
    /// Uprobe events.
    Uprobes,
    /// pystap's agent: what it takes to hear of it, and what keeps it out.
    Agent,
    /// What shows stacks and waits, without any engine.
    Waits,
    /// Debug information of the kernel.
    Debug,
    /// Interpreters.
    Python,
}

impl Part {
    /// The heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Part::Host => "Host",
            Part::Kernel => "Kernel",
            Part::Building => "Building modules",
            Part::Systemtap => "SystemTap",
            Part::Uprobes => "Uprobe events",
            Part::Agent => "pystap's agent",
            Part::Waits => "Stacks and waits (pystap dump, offcpu, syscalls and why)",
            Part::Debug => "Kernel debug information",
            Part::Python => "Python",
        }
    }
}

/// Something that was read, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Evidence {
    /// The path, or what else was asked.
    pub path: String,
    /// What it says.
    pub value: String,
}

impl Evidence {
    /// What a fact says, in words that `show` finds for its value.
    pub(super) fn of<T>(fact: &Fact<T>, show: impl FnOnce(&T) -> String) -> Evidence {
        Evidence {
            path: fact.from().to_owned(),
            value: match (fact.value(), fact.reason()) {
                (Some(value), _) => show(value),
                (None, Some(reason)) => format!("unknown: {reason}"),
                (None, None) => "not there".to_owned(),
            },
        }
    }

    /// The same for what prints itself.
    pub(super) fn plain<T: std::fmt::Display>(fact: &Fact<T>) -> Evidence {
        Evidence::of(fact, ToString::to_string)
    }
}

/// A step that mends something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Fix {
    /// What it does, or what has to be done by hand: a sentence.
    pub what: String,
    /// Commands, for a root shell; none when only a person can do it.
    pub commands: Vec<String>,
    /// One way among several, or a matter of judgement: never run by the fix script.
    pub choice: bool,
}

impl Fix {
    pub(super) fn new<S: Into<String>>(
        what: impl Into<String>,
        commands: impl IntoIterator<Item = S>,
    ) -> Fix {
        Fix {
            what: what.into(),
            commands: commands.into_iter().map(Into::into).collect(),
            choice: false,
        }
    }

    pub(super) fn or(mut self) -> Fix {
        self.choice = true;
        self
    }

    pub(super) fn by_hand(what: impl Into<String>) -> Fix {
        Fix {
            what: what.into(),
            commands: Vec::new(),
            choice: false,
        }
    }
}

/// One thing that was examined.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// Stable name, for programs; docs/doctor.md lists them.
    pub id: &'static str,
    /// What it is about where there can be several: the path of an interpreter, say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Part of the report.
    pub part: Part,
    /// How it is.
    pub status: Status,
    /// The same in words, without a full stop.
    pub summary: String,
    /// Why it matters, one sentence.
    pub why: String,
    /// What was read.
    pub evidence: Vec<Evidence>,
    /// What mends it, in order.
    pub fixes: Vec<Fix>,
    /// Engines that cannot run because of it.
    pub stops: Vec<Engine>,
}

impl Finding {
    pub(super) fn new(
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

    pub(super) fn ok(
        part: Part,
        id: &'static str,
        summary: impl Into<String>,
        why: &str,
    ) -> Finding {
        Finding::new(part, id, Status::Ok, summary, why)
    }

    pub(super) fn about(mut self, subject: &str) -> Finding {
        self.subject = Some(subject.to_owned());
        self
    }

    pub(super) fn evidence(mut self, evidence: Evidence) -> Finding {
        self.evidence.push(evidence);
        self
    }

    pub(super) fn fix(mut self, fix: Fix) -> Finding {
        self.fixes.push(fix);
        self
    }

    pub(super) fn fixes(mut self, fixes: impl IntoIterator<Item = Fix>) -> Finding {
        self.fixes.extend(fixes);
        self
    }

    pub(super) fn stops(mut self, engine: Engine) -> Finding {
        self.stops.push(engine);
        self
    }

    /// One line for an error message: what, its consequence, and the next command to type.
    pub(crate) fn sentence(&self, engine: Engine) -> String {
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
