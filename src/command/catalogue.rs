//! `pystap list` and `pystap schema`: what there is to know without looking at a process.

use std::fmt::Write as _;

use serde_json::json;

use super::print;
use crate::cli::List;
use crate::console::Exit;
use crate::event;
use crate::failure::Failure;
use crate::script::Catalogue;
use crate::session::templates::{check_template_directory, template_directories};
use crate::text::Foreign;

/// Lists the templates.
pub(super) fn list(arguments: &List) -> Result<Exit, Failure> {
    check_template_directory(arguments.template_dir.as_deref())?;
    let catalogue = Catalogue::load(&template_directories(arguments.template_dir.as_deref()))?;
    if arguments.json {
        let templates: Vec<_> = catalogue
            .iter()
            .map(|template| {
                json!({
                    "name": template.name,
                    "question": template.question,
                    "emits": template.emits,
                    "marks": template.marks,
                    "parameters": template.parameters,
                    "origin": template.origin.to_string(),
                })
            })
            .collect();
        print::json(&templates.into())?;
        return Ok(Exit::Done);
    }
    // Writing to a String cannot fail.
    let mut out = String::new();
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
    Ok(Exit::Done)
}

/// Prints the JSON Schema of events.
pub(super) fn schema() -> Result<Exit, Failure> {
    print::data(format!("{}\n", event::json_schema().trim_end()).as_bytes())?;
    Ok(Exit::Done)
}
