//! The life of an engine, from what stands in its way to a running session: an [`Engine`] is what was found out about one, a
//! [`Ready`] has done what takes time, and what that starts is a [`Running`].
//!
//! Nothing outside this room knows which engines there are: `all` finds out about them.

use std::fmt::{self, Display};
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::Running;
use super::abilities::{Abilities, Obstacle};
use crate::failure::Failure;
use crate::process::Lineage;
use crate::session::plan::Plan;
use crate::session::stop::Stop;
use crate::session::templates::Templates;

/// A way to arm the probes of a plan, with what was found out about it on this host.
pub(crate) trait Engine: fmt::Debug {
    /// Its name, as it is typed and as events have it.
    fn name(&self) -> &'static str;

    /// What it is called in messages, with its version where it has one.
    fn title(&self) -> String;

    /// What it can do.
    fn abilities(&self) -> Abilities;

    /// Why nobody can use it on this host, whatever is installed and traced; `None` when nothing is known to forbid it.
    fn forbidden(&self) -> Option<Obstacle> {
        None
    }

    /// What else stands in its way, as far as that costs nothing to find out. Looks at nothing: what there is to know of the
    /// host was found out before.
    fn obstacle(&self, plan: &Plan) -> Option<Obstacle>;

    /// Why preparing it has failed here before, a clause.
    fn failed_before(&self) -> Option<&str> {
        None
    }

    /// What it would do, for people.
    ///
    /// # Errors
    /// When the plan cannot be put into its terms.
    fn describe(&self, plan: &Plan, templates: &Templates) -> Result<Description, Failure>;

    /// Does what takes time. `None` when the user stopped it, or wanted nothing else. What the trace is to say of itself goes
    /// to `notes`.
    ///
    /// # Errors
    /// [`Exit::Unready`](crate::console::Exit::Unready) when another engine may succeed where this one failed.
    fn prepare(
        &self,
        plan: &Plan,
        templates: &Templates,
        audience: &dyn Audience,
        notes: &mut Vec<String>,
    ) -> Result<Option<Box<dyn Ready>>, Failure>;

    /// Remembers that preparing failed, so that nobody waits for it twice.
    fn remember_failure(&self, _reason: &str) {}
}

/// What an engine would do.
#[derive(Debug)]
pub(crate) struct Description {
    /// For standard output: whole lines.
    pub(crate) text: String,
    /// What is missing for it, a sentence each.
    pub(crate) warnings: Vec<String>,
}

/// An engine that can be started at once.
pub(crate) trait Ready {
    /// Arms the probes of the plan that it was prepared for. What is left to arm when `stopped` says so is not armed.
    ///
    /// # Errors
    /// When probes cannot be armed.
    fn start(
        self: Box<Self>,
        plan: &Plan,
        beginning: &Beginning,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Box<dyn Running>, Failure>;
}

/// What a session begins with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beginning {
    /// The processes to trace, those of the plan and a launched command.
    pub(crate) targets: Vec<u32>,
    /// Told of their children.
    pub(crate) lineage: Arc<Lineage>,
}

/// Who waits while an engine is prepared.
pub(crate) trait Audience {
    /// Says what they should know.
    fn warning(&self, message: &dyn Display);

    /// Says what they may want to know.
    fn note(&self, message: &dyn Display);

    /// Says what only those who look for it want to know.
    fn detail(&self, message: &dyn Display);

    /// Shows that something takes a while, until what is returned is dropped.
    fn busy(&self, activity: &str) -> Box<dyn Busy>;

    /// Has a message when they do not want to wait any longer.
    fn stops(&self) -> &Receiver<Stop>;
}

/// Something that takes a while and ends when this is dropped.
pub(crate) trait Busy {}
