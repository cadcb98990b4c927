//! `pystap rpc`, `sql` and `http`, which are recipes by name, and `pystap recipe` for any other.

use super::trace;
use crate::analysis::pairing::PairingRules;
use crate::cli;
use crate::console::Console;
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::recipe::{Catalogue, Grouping, Options, Recipe};
use crate::session::request::{Limits, SessionRequest};

/// Calls as a recipe says.
pub(super) fn run(name: &str, arguments: &cli::ByRecipe, console: &Console) -> Result<u8, Failure> {
    let recipe = Catalogue::load()?.find(name)?;
    let options = Options {
        interval: arguments.interval,
        limit: arguments.limit,
        slowest: arguments.slowest,
        distribution: arguments.distribution,
        json: arguments.json,
    };
    let make = |output: Output, _: PairingRules| -> Box<dyn Sink> {
        Box::new(Grouping::new(output, recipe.clone(), options))
    };
    trace::run_into(&request(arguments, &recipe), console, &make, None)
}

/// The session behind it.
fn request(arguments: &cli::ByRecipe, recipe: &Recipe) -> SessionRequest {
    let mut request = SessionRequest {
        events: ["call", "return"].map(str::to_owned).to_vec(),
        filters: recipe.filters(),
        limits: Limits {
            duration: arguments.duration,
            max_events: None,
        },
        output: arguments.output.clone(),
        ..trace::common(&arguments.targets, &arguments.engine)
    };
    if let Some(of) = &arguments.of {
        request.targets.service = Some(of.clone());
    }
    trace::tell(&mut request, recipe.fields(), &arguments.capture_hide);
    request.agent.fields_vary = true;
    request
}
