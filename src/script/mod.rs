//! SystemTap scripts: the catalogue of templates, rendering them with Tera, and the tapsets they share.
//!
//! Templates and tapsets are part of the binary; directories of the user's own add to them or override them by name.
//! Nothing here runs anything. Text from outside reaches a script only through [`filter::stap_str`].

mod catalogue;
mod error;
pub mod filter;
mod filters;
mod origin;
mod tapset;

use std::collections::BTreeMap;

use serde::Serialize;
use tera::{Context, Delimiters, Tera};

use crate::probe::{AGENT_PROVIDER, EventKind, Probe};

pub use catalogue::{Catalogue, Template};
pub use error::ScriptError;
pub use filters::Filters;
pub use origin::Origin;
pub use tapset::Tapsets;

/// Names of the probes of CPython that templates may name; beside these they may name those that only the agent has.
pub const MARKS: [&str; Probe::CPYTHONS.len()] = Probe::names(Probe::CPYTHONS);

/// The template that adds up in the kernel instead of sending events.
pub const TOTALS: &str = "top";
/// The template that adds up waits, without any probe in a process.
pub const WAITS: &str = "waits";
/// The template that measures calls in the kernel and sends those that were long enough.
pub const TIMED_CALLS: &str = "timed_calls";

/// What a script is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The images to probe: path as the kernel will see it, and which marks it has.
    pub images: Vec<ProbedImage>,
    /// Templates by name, in the order of the script; `session` goes first by itself.
    pub templates: Vec<String>,
    /// Names of the event kinds that were asked for (`call`, `return`, …).
    pub events: Vec<String>,
    /// Which functions are wanted.
    pub filters: Filters,
}

/// An image of a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbedImage {
    /// Path, as the kernel resolves it.
    pub path: String,
    /// Whose marks they are: CPython's own or the agent's.
    pub provider: &'static str,
    /// Names of its marks.
    pub marks: Vec<String>,
    /// Whether it is a library of programs and not a program itself.
    pub library: bool,
    /// Whether its mark of calls passes their arguments, and they are wanted.
    pub arguments: bool,
}

/// Renders the script of a request.
///
/// The text depends on images, events and filters only, never on a pid, so that a compiled script serves again.
///
/// # Errors
/// A template that is unknown or wrong, a string that cannot be quoted.
pub fn render(catalogue: &Catalogue, request: &Request) -> Result<String, ScriptError> {
    let context = context(request)?;
    let mut script = String::new();
    for name in std::iter::once("session").chain(request.templates.iter().map(String::as_str)) {
        let template = catalogue.get(name).ok_or_else(|| ScriptError::Unknown {
            name: name.to_owned(),
        })?;
        let wrong = |error: tera::Error| ScriptError::Template {
            name: template.name.clone(),
            origin: template.origin.clone(),
            report: error.to_string(),
        };
        let mut tera = environment().map_err(wrong)?;
        tera.add_raw_template(&template.file_name(), &template.text)
            .map_err(wrong)?;
        let rendered = tera
            .render(&template.file_name(), &context)
            .map_err(wrong)?;
        script.push_str(rendered.trim_matches('\n'));
        script.push_str("\n\n");
    }
    Ok(script)
}

/// Tera with delimiters that do not collide with SystemTap's own (`{% %}`, `%( %)`, `{{`).
fn environment() -> Result<Tera, tera::Error> {
    let mut tera = Tera::new();
    tera.set_delimiters(Delimiters {
        block_start: "[%".into(),
        block_end: "%]".into(),
        variable_start: "«".into(),
        variable_end: "»".into(),
        comment_start: "[#".into(),
        comment_end: "#]".into(),
    })?;
    tera.register_filter(
        "stap_str",
        |text: &str, _: tera::Kwargs, _: &tera::State| {
            filter::stap_str(text).map_err(|error| tera::Error::message(error.to_string()))
        },
    );
    Ok(tera)
}

fn context(request: &Request) -> Result<Context, ScriptError> {
    let told = |image: &&ProbedImage| image.provider == AGENT_PROVIDER;
    let mut points = mark_points(request.images.iter())?;
    // The agent's marks have more arguments than those of the same name in interpreters.
    let agent = mark_points(request.images.iter().filter(told))?;
    let mut python = mark_points(request.images.iter().filter(|image| !told(image)))?;
    // One mark is not probed twice: those that pass arguments, which are wanted, stand for themselves.
    let entry = Probe::FunctionEntry.name();
    let entries = |arguments: bool| {
        let images = request.images.iter();
        let images = images.filter(move |image| !told(image) && image.arguments == arguments);
        mark_points(images).map(|mut points| points.remove(entry).unwrap_or_default())
    };
    python.insert(entry, entries(false)?);
    let arguments = BTreeMap::from([(entry, entries(true)?)]);
    points.extend(process_points(&request.images)?);
    let asked = |name: &str| request.events.iter().any(|asked| asked == name);
    let events: BTreeMap<&str, bool> = EventKind::ALL
        .into_iter()
        .map(|kind| (kind.name(), asked(kind.name())))
        .collect();
    let mut context = Context::new();
    context.insert("images", &request.images);
    context.insert("points", &points);
    context.insert("python", &python);
    context.insert("agent", &agent);
    context.insert("arguments", &arguments);
    context.insert("events", &events);
    // Then the script holds sums, which it is asked for.
    let holds = |sums: &str| request.templates.iter().any(|name| name == sums);
    context.insert("totals", &holds(TOTALS));
    context.insert("waits", &holds(WAITS));
    context.insert("accepts", &request.filters.to_stap_expression()?);
    Ok(context)
}

/// The points of each probe over these images, ready to stand after `probe`; a template sees every one, empty where no image
/// has it.
fn mark_points<'a>(
    images: impl Iterator<Item = &'a ProbedImage>,
) -> Result<BTreeMap<&'static str, String>, ScriptError> {
    let names = Probe::ALL.into_iter().map(Probe::name);
    let mut points: BTreeMap<&str, String> = names.map(|name| (name, String::new())).collect();
    for image in images {
        let path = quoted_path(&image.path)?;
        for mark in &image.marks {
            let Some(point) = points.get_mut(mark.as_str()) else {
                continue;
            };
            if !point.is_empty() {
                point.push_str(", ");
            }
            point.push_str(&format!(
                "process({path}).provider(\"{}\").mark(\"{mark}\")",
                image.provider
            ));
        }
    }
    Ok(points)
}

/// Probe points for the life of processes. They name the probed programs: a probe on every process of the system makes
/// stap's task finder miss the marks of a program that a process becomes by exec (seen with stap 5.6). A library has no
/// programs of its own; its own probe is one on every process already.
fn process_points(images: &[ProbedImage]) -> Result<Vec<(&'static str, String)>, ScriptError> {
    let mut programs = Vec::new();
    for image in images {
        programs.push(format!("process({})", quoted_path(&image.path)?));
    }
    if images.is_empty() || images.iter().any(|image| image.library) {
        programs = vec!["process".to_owned()];
    }
    let points = |event: &str| {
        let each: Vec<String> = programs
            .iter()
            .map(|program| format!("{program}.{event}"))
            .collect();
        each.join(", ")
    };
    Ok(vec![
        ("begin", points("begin")),
        ("end", points("end")),
        ("thread_end", points("thread.end")),
    ])
}

fn quoted_path(path: &str) -> Result<String, ScriptError> {
    filter::stap_path(path).map_err(|error| ScriptError::Unquotable {
        what: format!("the path {path}"),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
