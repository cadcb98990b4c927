//! `pystap list` and `pystap schema`: what there is to know without looking at a process.

use std::io::Write;

use serde_json::json;

use super::Failure;
use crate::cli::List;
use crate::console::Exit;
use crate::event;
use crate::plan::{check_template_directory, template_directories};
use crate::script::Catalogue;

/// Lists the templates.
pub(super) fn list(arguments: &List) -> Result<Exit, Failure> {
    check_template_directory(arguments.template_dir.as_deref())?;
    let catalogue = Catalogue::load(&template_directories(arguments.template_dir.as_deref()))?;
    let mut out = std::io::stdout().lock();
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
        writeln!(out, "{}", serde_json::Value::Array(templates))?;
        return Ok(Exit::Done);
    }
    for template in catalogue.iter() {
        let question = if template.question.is_empty() {
            "(no question in its header)"
        } else {
            &template.question
        };
        writeln!(out, "{:<9} {question}", template.name)?;
        for (what, words) in [
            ("emits", &template.emits),
            ("marks", &template.marks),
            ("parameters", &template.parameters),
        ] {
            if !words.is_empty() {
                writeln!(out, "          {what:<10} {}", words.join(", "))?;
            }
        }
        if template.is_users() {
            writeln!(out, "          {:<10} {}", "from", template.origin)?;
        }
    }
    Ok(Exit::Done)
}

/// Prints the JSON Schema of events.
pub(super) fn schema() -> Result<Exit, Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", event::json_schema().trim_end())?;
    Ok(Exit::Done)
}
