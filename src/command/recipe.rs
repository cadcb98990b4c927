//! `pystap rpc`, `sql` and `http`, which are recipes by name, and `pystap recipe` for any other.

use super::trace;
use crate::analysis::pairing::PairingRules;
use crate::cli;
use crate::console::{Console, Exit};
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::field::Field;
use crate::recipe::{Catalogue, Grouping, Options, Recipe};
use crate::session::request::{Limits, SessionRequest};
use crate::session::sought::Sought;

/// Calls as a recipe says.
pub(super) fn run(name: &str, arguments: &cli::ByRecipe, console: &Console) -> Result<u8, Failure> {
    let recipe = Catalogue::load()?.find(name)?;
    let request = request(arguments, &recipe);
    let recipe = without_hidden(recipe, &request)?;
    let options = Options {
        interval: arguments.interval,
        limit: arguments.limit,
        slowest: arguments.slowest,
        distribution: arguments.distribution,
        json: arguments.json,
        width: trace::width(arguments.output.as_deref()),
    };
    let make = |output: Output, _: PairingRules| -> Box<dyn Sink> {
        Box::new(Grouping::new(output, recipe.clone(), options))
    };
    trace::run_into(&request, console, &make, None)
}

/// The recipe as far as its fields are told.
///
/// # Errors
/// When nothing is told of what calls are counted by.
fn without_hidden(mut recipe: Recipe, request: &SessionRequest) -> Result<Recipe, Failure> {
    let told = &request.agent.fields;
    for function in recipe.functions.iter_mut().chain(&mut recipe.within) {
        let is_told = |field: &Field| {
            let path = |it: &Field| it.to_string();
            told.iter().any(|it| path(it) == path(field))
        };
        function.fields.retain(is_told);
    }
    let is_told = |name: &String| told.iter().any(|it| it.name == *name);
    let first = recipe.group_by.first().cloned();
    recipe.group_by.retain(is_told);
    let required = recipe.require.clone().filter(|name| !is_told(name));
    let missing = required.or(first.filter(|_| recipe.group_by.is_empty()));
    match missing {
        None => Ok(recipe),
        Some(name) => Err(Failure::new(
            Exit::Usage,
            format!(
                "field {name} of the recipe has a name whose values are left out, so there is nothing to count calls by; group by \
                 another field, or say with --capture-hide which names are left out (none: no name)"
            ),
        )),
    }
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
    request.agent.by_recipe = true;
    request.sought = sought(recipe);
    request
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn what_is_hidden_is_no_column_and_a_function_without_anything_else_is_not_counted() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("logins.toml");
        let text = "description = 'd'\ngroup-by = ['user', 'word']\n\
                    [[function]]\nfunction = 'f'\nfields = { user = 'a.name', word = 'a.password' }\n\
                    [[function]]\nfunction = 'g'\nfields = { word = ['a.password', 'a.word'] }\n\
                    [[function]]\nfunction = 'h'\nfields = { word = 'a.secret' }\n";
        std::fs::write(&path, text).expect("written");
        let path = path.to_str().expect("UTF-8");
        let seen = |hide: &[&str]| {
            let typed = [&["pystap", "recipe", path, "-p", "1"], hide].concat();
            let cli = Cli::try_parse_from(typed).expect("it can be typed");
            let Command::Recipe { recipe, arguments } = cli.command else {
                panic!("no recipe");
            };
            let recipe = Catalogue::load()
                .and_then(|it| it.find(&recipe))
                .expect("a recipe");
            let request = request(&arguments, &recipe);
            without_hidden(recipe, &request).map(|recipe| {
                let functions = recipe.functions.iter();
                let fields: Vec<usize> = functions.map(|it| it.fields.len()).collect();
                (recipe.group_by, fields)
            })
        };
        let all = ["user".to_owned(), "word".to_owned()];
        let shown = seen(&["--capture-hide", "none"]).expect("all of it");
        assert_eq!(shown, (all.to_vec(), vec![2, 2, 1]));
        let shown = seen(&["--capture-hide", "word"]).expect("users");
        assert_eq!(shown, (all[..1].to_vec(), vec![1, 0, 0]));
        let usually = seen(&[]).expect("what is not hidden");
        assert_eq!(usually, (all.to_vec(), vec![1, 1, 0]));
        assert!(seen(&["--capture-hide", "user,word"]).is_err());
    }
}
