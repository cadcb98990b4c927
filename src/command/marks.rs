//! `pystap marks`: the USDT probes of an interpreter, which SystemTap calls marks, with what they are known to do in its version.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::print;
use crate::agent;
use crate::cli::Marks;
use crate::console::{Console, Exit};
use crate::elf::{Image, Mark};
use crate::failure::Failure;
use crate::probe::Probe;
use crate::process::{self, TargetError};
use crate::python::marks::{self, PROVIDER};
use crate::python::undecodable;
use crate::python::{Interpreter, Version};
use crate::text::Foreign;

/// An image to be listed, with the version of Python in it when it is one.
struct Listed {
    image: Image,
    path: PathBuf,
    version: Option<Version>,
}

/// Lists marks.
pub(super) fn run(arguments: &Marks, console: &Console) -> Result<Exit, Failure> {
    let listed = match (&arguments.path, arguments.pid) {
        (Some(path), _) => of_file(path)?,
        (None, Some(pid)) => Interpreter::of_process(pid)
            .map_err(TargetError::from)?
            .into_iter()
            .map(of_interpreter)
            .collect(),
        (None, None) => Vec::new(),
    };
    for image in &listed {
        for problem in &image.image.damaged {
            console.warning(format_args!("{}: {problem}", Foreign::path(&image.path)));
        }
    }
    if arguments.json {
        let images: Vec<Value> = listed.iter().map(as_json).collect();
        print::json(&Value::Array(images))?;
    } else {
        print::page(&listed.iter().map(as_text).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(Exit::Done)
}

fn of_interpreter(interpreter: Interpreter) -> Listed {
    Listed {
        path: interpreter.path,
        image: Image::clone(&interpreter.image),
        version: interpreter.version,
    }
}

/// An interpreter, or any other ELF file.
fn of_file(path: &std::path::Path) -> Result<Vec<Listed>, Failure> {
    match process::interpreters_of_path(path) {
        Ok(interpreters) => Ok(interpreters.into_iter().map(of_interpreter).collect()),
        Err(not_python) => match Image::open(path) {
            Ok(image) => Ok(vec![Listed {
                path: path.to_owned(),
                image,
                version: None,
            }]),
            // What is wrong with a file that is not even ELF, the search for an interpreter has said best.
            Err(_) => Err(not_python.into()),
        },
    }
}

/// Meanings of a mark's arguments; those of other providers are numbered.
fn meanings(image: &Listed, mark: &Mark, count: usize) -> Vec<String> {
    let known = match &image.version {
        _ if mark.provider != PROVIDER => Vec::new(),
        Some(version) => marks::arguments_of((version.major, version.minor), mark),
        None => marks::arguments(&mark.name),
    };
    (0..count)
        .map(|index| {
            known
                .get(index)
                .map_or_else(|| format!("arg{}", index + 1), |name| (*name).to_owned())
        })
        .collect()
}

fn knowledge(image: &Listed, mark: &Mark) -> Option<marks::Behaviour> {
    let version = image
        .version
        .as_ref()
        .filter(|_| mark.provider == PROVIDER)?;
    Some(marks::behaviour_of((version.major, version.minor), mark))
}

/// Marks that a build with marks has in this version, but this image has not.
fn missing(image: &Listed) -> Vec<&'static str> {
    let Some(version) = &image.version else {
        return Vec::new();
    };
    marks::expected((version.major, version.minor))
        .into_iter()
        .filter(|mark| image.image.mark(PROVIDER, mark).is_none())
        .collect()
}

/// What all marks that are passed a file name have in common in some versions.
const CAUTION: &str = "once armed, they end a program with SystemError that runs code whose file name is not UTF-8; \
                       pystap looks at the paths of a program first, and --agent does no harm";

fn fails_on_paths(image: &Listed) -> bool {
    image.version.is_some()
        && undecodable::is_affected(image.version.as_ref())
        && undecodable::MARKS
            .iter()
            .any(|mark| image.image.mark(PROVIDER, mark).is_some())
}

fn as_text(image: &Listed) -> String {
    let mut text = String::new();
    let version = image
        .version
        .as_ref()
        .map(|version| format!(", Python {}", Foreign::new(&version.to_string())))
        .unwrap_or_default();
    let build_id = image.image.build_id.as_deref().unwrap_or("none");
    let path = Foreign::path(&image.path);
    let _ = writeln!(text, "{path}{version}, build id {build_id}");
    if image.image.marks.is_empty() {
        let _ = writeln!(
            text,
            "  no SystemTap marks (llvm-strip and strip --strip-section-headers take them out of a file, too)"
        );
    }
    for mark in &image.image.marks {
        let guard = mark.sites.iter().any(|site| site.semaphore.is_some());
        let sites = mark.sites.len();
        let _ = writeln!(
            text,
            "  {}:{}  {sites} {}{}",
            Foreign::new(&mark.provider),
            Foreign::new(&mark.name),
            if sites == 1 { "site" } else { "sites" },
            if guard { ", with a semaphore" } else { "" },
        );
        if let Some(known) = knowledge(image, mark) {
            let _ = writeln!(text, "      {}", known.sentence);
        }
        for site in &mark.sites {
            let arguments: Vec<String> = meanings(image, mark, site.arguments.len())
                .iter()
                .zip(
                    site.argument_text
                        .split_whitespace()
                        .chain(std::iter::repeat("")),
                )
                .zip(&site.arguments)
                .map(|((meaning, _), argument)| {
                    let sign = if argument.signed { "-" } else { "" };
                    format!(
                        "{meaning}={sign}{}@{}",
                        argument.size,
                        Foreign::new(&argument.text)
                    )
                })
                .collect();
            let _ = writeln!(text, "      {:#x}  {}", site.address, arguments.join(" "));
        }
    }
    if fails_on_paths(image) {
        let _ = writeln!(text, "  {}: {CAUTION}", undecodable::MARKS.join(", "));
    }
    let missing = missing(image);
    if !missing.is_empty() && !image.image.marks.is_empty() {
        let _ = writeln!(
            text,
            "  expected in this version, but not there: {}",
            missing.join(", ")
        );
    }
    if let Some(version) = &image.version
        && image
            .image
            .mark(PROVIDER, Probe::FunctionEntry.name())
            .is_none()
    {
        let numbers = (version.major, version.minor);
        let known = marks::behaviour(numbers, Probe::FunctionEntry.name());
        let names = Probe::names(Probe::FUNCTIONS).join(", ");
        let _ = writeln!(text, "  {names}: {}", known.sentence);
        if let Some(offer) = agent::offer((version.major, version.minor)) {
            let _ = writeln!(text, "  calls, returns and collections come {offer}");
        }
    }
    text
}

fn as_json(image: &Listed) -> Value {
    let marks: Vec<Value> = image
        .image
        .marks
        .iter()
        .map(|mark| {
            let sites: Vec<Value> = mark
                .sites
                .iter()
                .map(|site| {
                    json!({
                        "address": site.address,
                        "file_offset": site.file_offset,
                        "semaphore": site.semaphore,
                        "arguments": meanings(image, mark, site.arguments.len())
                            .iter()
                            .zip(&site.arguments)
                            .map(|(meaning, argument)| json!({ "meaning": meaning, "argument": argument }))
                            .collect::<Vec<_>>(),
                        "argument_text": site.argument_text,
                    })
                })
                .collect();
            json!({
                "provider": mark.provider,
                "name": mark.name,
                "sites": sites,
                "status": knowledge(image, mark).map(|known| known.status),
                "behaviour": knowledge(image, mark).map(|known| known.sentence),
            })
        })
        .collect();
    json!({
        "path": image.path.display().to_string(),
        "version": image.version.as_ref().map(ToString::to_string),
        "build_id": image.image.build_id,
        "marks": marks,
        "missing": missing(image),
        "agent": image
            .version
            .as_ref()
            .and_then(|version| agent::offer((version.major, version.minor))),
        "caution": fails_on_paths(image).then_some(CAUTION),
        "damaged": image.image.damaged,
    })
}
