//! `pystap list` and `pystap schema`: what there is to know without looking at a process.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::print;
use crate::cli::List;
use crate::console::{Console, Exit};
use crate::event;
use crate::failure::Failure;
use crate::recipe::Catalogue as Recipes;
use crate::script::Catalogue;
use crate::session::templates::{check_template_directory, template_directories};
use crate::text::Foreign;

/// Lists recipes and templates.
pub(super) fn list(arguments: &List, console: &Console) -> Result<Exit, Failure> {
    check_template_directory(arguments.template_dir.as_deref())?;
    let catalogue = Catalogue::load(&template_directories(arguments.template_dir.as_deref()))?;
    let (mut recipes, mut unusable) = (Vec::new(), Vec::new());
    for recipe in Recipes::load()?.all() {
        match recipe {
            Ok(recipe) => recipes.push(recipe),
            // One that is wrong does not hide the others.
            Err(error) => unusable.push(Failure::from(error)),
        }
    }
    let say_unusable = || {
        for failure in &unusable {
            console.warning(&failure.message);
            console.excerpt(&failure.excerpt);
        }
    };
    if arguments.json {
        let recipes = recipes.iter().map(|entry| {
            let recipe = &entry.recipe;
            json!({
                "kind": "recipe",
                "name": recipe.name,
                "question": recipe.description,
                "group_by": recipe.group_by,
                "fields": recipe.names(),
                "origin": origin(entry.path.as_deref()),
            })
        });
        let all: Vec<_> = catalogue
            .iter()
            .map(|template| {
                json!({
                    "kind": "template",
                    "name": template.name,
                    "question": template.question,
                    "emits": template.emits,
                    "marks": template.marks,
                    "parameters": template.parameters,
                    "origin": template.origin.to_string(),
                })
            })
            .chain(recipes)
            .collect();
        print::json(&all.into())?;
        say_unusable();
        return Ok(Exit::Done);
    }
    // Writing to a String cannot fail.
    let mut out = String::from("Recipes: pystap recipe NAME, or pystap rpc, sql and http\n");
    for entry in &recipes {
        let recipe = &entry.recipe;
        let description = Foreign::new(&recipe.description);
        let _ = writeln!(
            out,
            "{:<9} {description}",
            Foreign::new(&recipe.name).to_string()
        );
        let names = recipe.names().join(", ");
        let _ = writeln!(out, "          {:<10} {names}", "fields");
        if let Some(path) = &entry.path {
            let _ = writeln!(out, "          {:<10} {}", "from", Foreign::path(path));
        }
    }
    out.push_str("\nTemplates: pystap trace --events NAME\n");
    for template in catalogue.iter() {
        let question = if template.question.is_empty() {
            "(no question in its header)"
        } else {
            template.question.as_str()
        };
        let _ = writeln!(out, "{:<9} {}", template.name, Foreign::new(question));
        for (what, words) in [
            ("emits", &template.emits),
            ("marks", &template.marks),
            ("parameters", &template.parameters),
        ] {
            if !words.is_empty() {
                let words = words.join(", ");
                let _ = writeln!(out, "          {what:<10} {}", Foreign::new(&words));
            }
        }
        if template.is_users() {
            let from = template.origin.to_string();
            let _ = writeln!(out, "          {:<10} {}", "from", Foreign::new(&from));
        }
    }
    print::page(&out)?;
    say_unusable();
    Ok(Exit::Done)
}

/// Where a recipe is from, as templates have it.
fn origin(path: Option<&Path>) -> String {
    path.map_or("built in".to_owned(), |path| path.display().to_string())
}

/// Prints the JSON Schema of events.
pub(super) fn schema() -> Result<Exit, Failure> {
    print::data(format!("{}\n", event::json_schema().trim_end()).as_bytes())?;
    Ok(Exit::Done)
}
