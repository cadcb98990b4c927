//! `pystap rpc`, `sql` and `http`, which are recipes by name, and `pystap recipe` for any other.

use super::trace;
use crate::analysis::pairing::PairingRules;
use crate::cli;
use crate::console::{Console, Exit};
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::recipe::{Catalogue, Grouping, Options, Recipe};
use crate::session::request::{Limits, SessionRequest};
use crate::session::sought::Sought;

/// Calls as a recipe says.
pub(super) fn run(name: &str, arguments: &cli::ByRecipe, console: &Console) -> Result<u8, Failure> {
    let recipe = Catalogue::load()?.find(name)?;
    let request = request(arguments, &recipe);
    check(&recipe, &request)?;
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
    trace::run_into(&request, console, &make, None)
}

/// Refuses to count calls without the values that the recipe counts them by.
fn check(recipe: &Recipe, request: &SessionRequest) -> Result<(), Failure> {
    let is_told = |name: &String| request.agent.fields.iter().any(|it| it.name == *name);
    let missing = recipe.require.iter().find(|name| !is_told(name));
    let missing = missing.or_else(|| {
        let none_is_told = !recipe.group_by.iter().any(is_told);
        recipe.group_by.first().filter(|_| none_is_told)
    });
    let Some(name) = missing else { return Ok(()) };
    Err(Failure::new(
        Exit::Usage,
        format!(
            "field {name} of the recipe has a name whose values are left out, so there is nothing to count calls by; group by \
             another field, or say with --capture-hide which names are left out (none: no name)"
        ),
    ))
}

/// The functions whose calls are counted. A library has several ways of which a program goes one, so one of them is enough.
fn sought(recipe: &Recipe) -> Sought {
    let named = recipe.functions.iter().map(|function| {
        let typed = function.name.as_str().to_owned();
        (typed, function.file.clone(), function.name.clone())
    });
    Sought::by_name(named).any_of(format!("that recipe {} counts", recipe.name))
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
    request.sought = sought(recipe);
    request
}
