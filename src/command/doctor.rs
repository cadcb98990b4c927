//! `pystap doctor`: gathers the facts about this host, or reads saved ones, and prints what they mean. Changes nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::print;
use crate::cli::{Doctor, EngineChoice, Trying};
use crate::console::{Console, Exit, Verbosity};
use crate::doctor::{self, Ability, Engine, Examination, Look};
use crate::elf::Image;
use crate::engine::stap::{self, Script, StapError, Toolchain, Trial};
use crate::export::Output;
use crate::failure::Failure;
use crate::files::reading;
use crate::host::{FORMAT, Fact, Facts, Gathering};
use crate::probe::EventKind;
use crate::process::{self, Selection, Targets};
use crate::python::InterpreterKind;
use crate::python::marks::PROVIDER;
use crate::script::{self, Catalogue, Filters, ProbedImage, Request, Tapsets};
use crate::session::stop::{self, StopSignals};
use crate::session::templates::{check_template_directory, template_directories};
use crate::shell;
use crate::text::Foreign;

/// More than any host has to say of itself.
const LARGEST_FACTS: u64 = 64 << 20;

/// Examines a host.
pub(super) fn run(
    arguments: &Doctor,
    colour: anstream::ColorChoice,
    console: &Console,
) -> Result<Exit, Failure> {
    check_kinds(&arguments.events)?;
    let engine = match arguments.engine {
        None | Some(EngineChoice::Auto) => None,
        Some(EngineChoice::Stap) => Some(Engine::Stap),
        Some(EngineChoice::Uprobes) => Some(Engine::Uprobes),
        Some(EngineChoice::Direct) => Some(Engine::Direct),
    };
    let facts = match &arguments.facts {
        Some(path) => saved(path)?,
        None => match gather(arguments, console)? {
            Some(facts) => facts,
            None => return Ok(Exit::Done),
        },
    };
    if let Some(path) = &arguments.save_facts {
        save(path, &facts)?;
        console.note(format_args!(
            "the facts are in {}; `pystap doctor --facts {}` examines them, here or elsewhere",
            Foreign::path(path),
            shell::path(path)
        ));
    }
    let examination = doctor::examine(&facts, engine);
    let can = can_run(arguments, &examination, engine);
    if arguments.json {
        let json = doctor::json(&facts, &examination, can);
        print::json_text(&format!("{json:#}\n"))?;
    } else if arguments.fix_script {
        print::source(&doctor::fix_script(&examination))?;
    } else {
        let verbose = console.verbosity() == Verbosity::Verbose;
        let report = doctor::report(&facts, &examination, Look { verbose });
        print::coloured(&report, colour)?;
    }
    Ok(if can { Exit::Done } else { Exit::Unready })
}

fn check_kinds(events: &[String]) -> Result<(), Failure> {
    match events
        .iter()
        .find(|event| EventKind::of_name(event).is_none())
    {
        None => Ok(()),
        Some(unknown) => Err(Failure::new(
            Exit::Usage,
            format!(
                "there is no event kind {unknown:?}, so nothing can be said about it; the kinds are {}",
                EventKind::names()
            ),
        )),
    }
}

/// Whether what was asked for can run: an engine, and with named interpreters or kinds also these.
fn can_run(arguments: &Doctor, examination: &Examination, engine: Option<Engine>) -> bool {
    let able = |ability| matches!(ability, Ability::Ready | Ability::Likely);
    let engines = examination
        .engines
        .iter()
        .filter(|verdict| engine.is_none_or(|engine| engine == verdict.engine))
        .any(|verdict| able(verdict.ability));
    let named = !arguments.pids.is_empty()
        || arguments.pattern.is_some()
        || arguments.python.is_some()
        || !arguments.events.is_empty();
    if !engines || !named {
        return engines;
    }
    let mut pythons: Vec<&str> = examination
        .events
        .iter()
        .map(|event| event.python.as_str())
        .collect();
    pythons.dedup();
    let has = |python: &str, kind: &str| {
        examination
            .events
            .iter()
            .any(|event| event.python == python && event.kind == kind && able(event.ability))
    };
    !pythons.is_empty()
        && pythons.iter().all(|python| {
            if arguments.events.is_empty() {
                EventKind::ALL.iter().any(|kind| has(python, kind.name()))
            } else {
                arguments.events.iter().all(|kind| has(python, kind))
            }
        })
}

fn saved(path: &Path) -> Result<Facts, Failure> {
    let unreadable = |reason: String| {
        Failure::new(
            Exit::Usage,
            format!(
                "{} cannot be used as facts ({reason}), so nothing was examined; write a new file with `pystap \
                 doctor --save-facts FILE` on the host in question",
                Foreign::path(path)
            ),
        )
    };
    let bytes =
        reading::read(path, LARGEST_FACTS).map_err(|error| unreadable(error.to_string()))?;
    let facts: Facts =
        serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
    if facts.format != FORMAT {
        return Err(unreadable(format!(
            "they are of format {}, and this pystap {} reads format {FORMAT}",
            facts.format,
            env!("CARGO_PKG_VERSION")
        )));
    }
    Ok(facts)
}

fn save(path: &Path, facts: &Facts) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(facts).map_err(|error| error.to_string());
    text.and_then(|mut text| {
        text.push(b'\n');
        put(path, &text).map_err(|error| error.to_string())
    })
    .map_err(|reason| {
        Failure::new(
            Exit::Failed,
            format!(
                "the facts cannot be written to {} ({reason}), so they were not saved; name a place that can be \
                 written",
                Foreign::path(path)
            ),
        )
    })
}

/// Puts a file where it is to be, whole or not at all; a pipe is written to as soon as somebody reads it.
fn put(path: &Path, text: &[u8]) -> io::Result<()> {
    let opened = Output::whole(Some(path), stop::give_up(), |time| {
        std::thread::park_timeout(time);
        true
    });
    // `-` is a name like others here.
    let Some(mut output) = opened.map_err(|error| error.source)? else {
        return Ok(());
    };
    output.write_all(text)?;
    output.complete()
}

/// Looks at this host. `None` when the user stopped it.
fn gather(arguments: &Doctor, console: &Console) -> Result<Option<Facts>, Failure> {
    check_template_directory(arguments.template_dir.as_deref())?;
    let directories = template_directories(arguments.template_dir.as_deref());
    let catalogue = Catalogue::load(&directories)?;
    let mut gathering = Gathering::here();
    gathering.stap = arguments.stap.clone();
    gathering.python = arguments.python.clone();
    let targets = targets(arguments)?;
    let mut facts = gathering.facts(&catalogue);
    facts.add_pythons(&gathering, &targets);
    match trial(arguments, &facts, &catalogue, &targets, console)? {
        Some(trial) => facts.trial = trial,
        None => return Ok(None),
    }
    Ok(Some(facts))
}

/// The interpreters that matter: those that were named, otherwise those that run.
fn targets(arguments: &Doctor) -> Result<Targets, Failure> {
    let selection = Selection {
        pids: arguments.pids.clone(),
        pattern: arguments.pattern.clone(),
        service: None,
        python: arguments.python.iter().cloned().collect(),
        command: Vec::new(),
        subprocesses: false,
        parents: Vec::new(),
    };
    if selection.pids.is_empty() && selection.pattern.is_none() && selection.python.is_empty() {
        return Ok(process::running()?);
    }
    Ok(selection.resolve()?)
}

/// A trial of now, or one that is remembered. `None` when the user stopped it.
fn trial(
    arguments: &Doctor,
    facts: &Facts,
    catalogue: &Catalogue,
    targets: &Targets,
    console: &Console,
) -> Result<Option<Fact<Trial>>, Failure> {
    let not_tried = |reason: &str| Fact::unknown("trial", reason);
    let toolchain = match Toolchain::find(arguments.stap.as_deref(), None) {
        Ok(toolchain) => toolchain,
        Err(_) => return Ok(Some(not_tried("there is no stap to try"))),
    };
    let compiler = compiler(facts);
    let place = Trial::place(&toolchain, &compiler).display().to_string();
    let remembered = Trial::remembered(&toolchain, &compiler);
    let load = match arguments.trial {
        None => {
            return Ok(Some(match remembered {
                Some(trial) => Fact::found(place, trial),
                None => not_tried("no trial was made with this stap, kernel and compiler"),
            }));
        }
        Some(trying) => trying == Trying::Run,
    };
    // Nobody shall wait for a compiler where the kernel loads nothing.
    if let Some(obstacle @ StapError::NoModules) = stap::forbidden() {
        return Ok(Some(not_tried(&format!(
            "not tried: {}",
            reason(&obstacle)
        ))));
    }
    if let (true, Some(obstacle)) = (load, stap::forbidden()) {
        return Err(obstacle.into());
    }
    let (request, images) = request(targets);
    let script = Script {
        text: script::render(catalogue, &request)?,
        tapsets: Tapsets::load(&template_directories(arguments.template_dir.as_deref()))?,
        images,
        arguments: Vec::new(),
    };
    let stops = StopSignals::listen().map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("signals cannot be caught ({error}), so a trial could not be ended; try again"),
        )
    })?;
    let spinner = console.spinner("trying to build a module");
    let attempt = Trial::attempt(toolchain.clone(), &script, load, stops.requests());
    drop(spinner);
    let Some(trial) = attempt? else {
        console.note("stopped during the trial; nothing was examined");
        return Ok(None);
    };
    if let Err(error) = trial.remember(&toolchain, &compiler) {
        console.warning(format_args!(
            "the outcome of the trial cannot be kept in {place} ({error}), so the next `pystap doctor` does not know \
             it; make that place writable"
        ));
    }
    Ok(Some(Fact::found("trial", trial)))
}

/// The first clause of an error's sentence.
fn reason(error: &StapError) -> String {
    let text = error.to_string();
    text.split(", so ").next().unwrap_or(&text).to_owned()
}

/// Names the compiler and its build.
fn compiler(facts: &Facts) -> String {
    match facts.tools.gcc.value() {
        Some(gcc) => format!("{} {} {}", gcc.real, gcc.size, gcc.modified),
        None => "none".to_owned(),
    }
}

/// The script to try: the one that `pystap trace --events gc` uses with an interpreter that has the marks, so that the
/// module serves again; without such an interpreter, what every script begins with. With the images that it depends on.
fn request(targets: &Targets) -> (Request, Vec<(PathBuf, Option<String>)>) {
    const KIND: EventKind = EventKind::Gc;
    let interpreters = targets
        .processes
        .iter()
        .flat_map(|process| &process.interpreters)
        .chain(&targets.python);
    let has =
        |image: &Image| KIND.is_possible(|probe| image.mark(PROVIDER, probe.name()).is_some());
    let found = interpreters
        .filter(|interpreter| !interpreter.replaced && interpreter.reach == interpreter.path)
        .find(|interpreter| has(&interpreter.image));
    let kinds: Vec<String> = found.iter().map(|_| KIND.name().to_owned()).collect();
    let request = Request {
        images: found
            .iter()
            .map(|interpreter| ProbedImage {
                path: interpreter.path.display().to_string(),
                provider: PROVIDER,
                marks: KIND
                    .probes()
                    .iter()
                    .map(|probe| probe.name().to_owned())
                    .collect(),
                library: interpreter.kind == InterpreterKind::Library,
                arguments: false,
            })
            .collect(),
        templates: found.iter().map(|_| KIND.template().to_owned()).collect(),
        events: kinds,
        filters: Filters::default(),
    };
    let images = found
        .map(|interpreter| (interpreter.path.clone(), interpreter.image.build_id.clone()))
        .into_iter()
        .collect();
    (request, images)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::command::trace;
    use crate::session::decide::decide;
    use crate::session::request::{Purpose, SessionRequest};
    use crate::session::snapshot::HostSnapshot;

    /// Otherwise a trial would compile a module that nobody uses again.
    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_trial_compiles_what_a_trace_of_collections_uses() {
        const PYTHON: &str = "/usr/bin/python3.11";
        let typed = ["pystap", "trace", "--events", "gc", "--python", PYTHON];
        let Command::Trace(trace) = Cli::parse_from(typed).command else {
            panic!("a trace was typed");
        };
        let catalogue = Catalogue::load(&[]).expect("built-in templates");
        let request_of_trace = SessionRequest {
            purpose: Purpose::Script,
            ..trace::request(&trace)
        };
        let host = HostSnapshot::gather(&request_of_trace, &catalogue).expect("a host");
        let plan = decide(&request_of_trace, &host).expect("a plan");
        let traced = script::render(&catalogue, &plan.request()).expect("a script");

        let selection = Selection {
            python: vec![PYTHON.into()],
            ..Selection::default()
        };
        let (request, images) = request(&selection.resolve().expect("found"));
        assert_eq!(
            script::render(&catalogue, &request).expect("a script"),
            traced
        );
        let planned: Vec<_> = plan
            .images
            .iter()
            .map(|image| (image.path.clone(), image.interpreter.image.build_id.clone()))
            .collect();
        assert_eq!(images, planned);
    }

    #[test]
    fn without_an_interpreter_a_trial_compiles_what_every_script_begins_with() {
        let catalogue = Catalogue::load(&[]).expect("built-in templates");
        let (request, images) = request(&Targets::default());
        assert_eq!(images, []);
        let script = script::render(&catalogue, &request).expect("a script");
        assert!(script.contains("probe begin"), "{script}");
    }
}
