//! The direct engine from what stands in its way to its start.

use super::decode::{Asked, Kinds};
use pystap_ring::sums::{MOST_ROWS, bytes};

use super::running::{DirectRunning, LARGEST, SMALLEST, Telling};
use crate::console::Exit;
use crate::engine::Running;
use crate::engine::abilities::{Abilities, Obstacle};
use crate::engine::lifecycle::{Audience, Beginning, Description, Engine, Ready};
use crate::failure::Failure;
use crate::session::plan::Plan;
use crate::session::templates::Templates;

/// The engine.
#[derive(Debug)]
pub(crate) struct DirectEngine;

impl DirectEngine {
    /// Its name.
    pub(crate) const NAME: &str = "direct";
}

impl Engine for DirectEngine {
    fn name(&self) -> &'static str {
        DirectEngine::NAME
    }

    fn title(&self) -> String {
        "pystap's agent alone".to_owned()
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            by_agent: true,
            ..Abilities::default()
        }
    }

    fn obstacle(&self, _: &Plan) -> Option<Obstacle> {
        None
    }

    fn describe(&self, plan: &Plan, _: &Templates) -> Result<Description, Failure> {
        let (what, bytes) = match adds_up(plan) {
            true => ("sums in    ", bytes(MOST_ROWS).unwrap_or(0) + SMALLEST * 8),
            false => ("events in  ", LARGEST * 8),
        };
        Ok(Description {
            text: format!(
                "{what}shared memory, {} MB per process\n",
                bytes.div_ceil(1 << 20)
            ),
            warnings: Vec::new(),
        })
    }

    fn prepare(
        &self,
        plan: &Plan,
        _: &Templates,
        _: &dyn Audience,
        _: &mut Vec<String>,
    ) -> Result<Option<Box<dyn Ready>>, Failure> {
        let marks = plan.agent.as_ref().map(|agent| &agent.wanted.marks);
        let kinds = Kinds::of(marks.map_or(&[], Vec::as_slice));
        let telling = match plan.minimum_ns() {
            _ if adds_up(plan) => Telling::Sums,
            // Fields are told when a call begins.
            Some(minimum) if plan.fields().next().is_none() => Telling::LongCalls(kinds, minimum),
            _ => Telling::Events(kinds),
        };
        Ok(Some(Box::new(Prepared { telling })))
    }
}

/// Nothing takes time.
struct Prepared {
    telling: Telling,
}

/// Whether agents add up calls instead of telling them.
fn adds_up(plan: &Plan) -> bool {
    plan.totals() && is_alone(plan)
}

/// Whether no other engine traces besides.
fn is_alone(plan: &Plan) -> bool {
    plan.sources.as_ref().is_ok_and(|all| all.len() == 1)
}

impl Ready for Prepared {
    fn start(
        self: Box<Self>,
        plan: &Plan,
        beginning: &Beginning,
        _: &dyn Fn() -> bool,
    ) -> Result<Box<dyn Running>, Failure> {
        // Others hear from the kernel of processes that begin, become others and end.
        let tells_processes = is_alone(plan);
        let asked = Asked::new(plan.fields());
        let running = DirectRunning::start(beginning, self.telling, asked, tells_processes);
        let running = running.map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("rings cannot be read ({error}), so nothing was traced; try again"),
            )
        })?;
        Ok(Box::new(running))
    }
}
