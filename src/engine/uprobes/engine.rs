//! The uprobes engine from what stands in its way to its start.

use super::{Plan as Definitions, Probed, Start, Tracefs, UprobesRunning, remove_stale};
use crate::engine::Running;
use crate::engine::abilities::{Abilities, Obstacle};
use crate::engine::lifecycle::{Audience, Beginning, Description, Engine, Ready};
use crate::failure::Failure;
use crate::session::plan::Plan;
use crate::session::request::SessionRequest;
use crate::session::templates::Templates;

/// The engine on this host.
#[derive(Debug)]
pub(crate) struct UprobesEngine {
    buffer: Option<u32>,
    /// Where the kernel takes definitions; `None` where nobody has looked.
    tracefs: Option<Result<Tracefs, Obstacle>>,
}

impl UprobesEngine {
    /// Nothing is known of the host yet.
    pub(crate) fn new(request: &SessionRequest) -> UprobesEngine {
        UprobesEngine {
            buffer: request.engine.buffer,
            tracefs: None,
        }
    }

    /// Looks for tracefs.
    pub(crate) fn look(&mut self) {
        self.tracefs = Some(Tracefs::find().map_err(|error| obstacle(error.into())));
    }

    /// An engine that was found like this.
    #[cfg(test)]
    pub(crate) fn found(obstacle: Option<Obstacle>) -> UprobesEngine {
        UprobesEngine {
            buffer: None,
            tracefs: Some(obstacle.map_or_else(|| Ok(Tracefs::assumed()), Err)),
        }
    }

    fn tracefs(&self) -> Result<Tracefs, Failure> {
        match &self.tracefs {
            Some(Ok(tracefs)) => Ok(tracefs.clone()),
            Some(Err(obstacle)) => Err(Failure::new(obstacle.exit, obstacle.message.clone())),
            None => Ok(Tracefs::find()?),
        }
    }
}

fn obstacle(failure: Failure) -> Obstacle {
    Obstacle {
        exit: failure.exit,
        message: failure.message,
        forbidden: false,
    }
}

impl Engine for UprobesEngine {
    fn name(&self) -> &'static str {
        "uprobes"
    }

    fn title(&self) -> String {
        "uprobe events".to_owned()
    }

    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn obstacle(&self, plan: &Plan) -> Option<Obstacle> {
        if let Some(Err(obstacle)) = &self.tracefs {
            return Some(obstacle.clone());
        }
        let definitions = Definitions::new(&plan.probed());
        definitions.err().map(|error| obstacle(error.into()))
    }

    fn describe(&self, plan: &Plan, _: &Templates) -> Result<Description, Failure> {
        let root = self.tracefs()?.root().display().to_string();
        let definitions = Definitions::new(&plan.probed())?;
        Ok(Description {
            text: format!("events in  {root}\n\n{definitions}"),
            warnings: Vec::new(),
        })
    }

    fn prepare(
        &self,
        plan: &Plan,
        _: &Templates,
        audience: &dyn Audience,
        notes: &mut Vec<String>,
    ) -> Result<Option<Box<dyn Ready>>, Failure> {
        let tracefs = self.tracefs()?;
        for thing in remove_stale(&tracefs) {
            audience.note(&format_args!("removed {thing}"));
        }
        let images = plan.probed();
        let definitions = Definitions::new(&images)?;
        for missing in &definitions.missing {
            audience.warning(missing);
            notes.push(missing.clone());
        }
        let said = plan.line_semaphore_note().into_iter();
        for note in said.chain(plan.filter_note()) {
            audience.note(&note);
            notes.push(note);
        }
        Ok(Some(Box::new(Defined {
            tracefs,
            definitions,
            images,
            buffer: self.buffer,
        })))
    }
}

/// Definitions that can be given to the kernel.
struct Defined {
    tracefs: Tracefs,
    definitions: Definitions,
    images: Vec<Probed>,
    buffer: Option<u32>,
}

impl Ready for Defined {
    fn start(
        self: Box<Self>,
        plan: &Plan,
        beginning: &Beginning,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Box<dyn Running>, Failure> {
        let running = plan.pids();
        let targets = beginning.targets.iter();
        let start = Start {
            targets: targets.map(|pid| (*pid, running.contains(pid))).collect(),
            follow: plan.follow,
            filters: plan.filters.clone(),
            buffer: self.buffer,
            lineage: beginning.lineage.clone(),
        };
        let (definitions, images) = (&self.definitions, &self.images);
        let running = UprobesRunning::start(self.tracefs, definitions, images, &start, stopped)?;
        Ok(Box::new(running))
    }
}
