//! `pystap merge`: recordings of several hosts or processes as one.

use std::ffi::OsStr;
use std::io::BufWriter;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::destination;
use super::opened::{Counted, note_parts, open, warn_of_cut};
use crate::analysis::pairing::Pairing;
use crate::cli::Merge;
use crate::console::{Console, Exit};
use crate::event::SessionHost;
use crate::event::hosts::Hosts;
use crate::export::{End, Sink};
use crate::failure::Failure;
use crate::hosts::clocks::Difference;
use crate::hosts::merge::{Ending, Part, Told, merge, rules};
use crate::hosts::names::{Joined, Places};
use crate::recording::{Ahead, Reader, Writer};
use crate::shell;
use crate::text::Foreign;
use crate::view::many;

/// Hosts whose recordings are read in threads of their own.
const MOST_AHEAD: usize = 16;

/// Merges, and says what came of each recording.
pub(super) fn run(arguments: &Merge, console: &Console) -> Result<Exit, Failure> {
    let files: Vec<Typed> = arguments.files.iter().map(|word| Typed::of(word)).collect();
    check(&files, &arguments.output)?;
    let mut exit = Exit::Done;
    let mut joined = Joined::default();
    let (mut parts, mut paths) = (Vec::new(), Vec::new());
    for file in &files {
        note_parts(&file.path, console);
        match part(file, arguments, &mut joined, console) {
            Ok(part) => {
                parts.push(part);
                paths.push(&*file.path);
            }
            // The others can be merged all the same.
            Err(failure) => {
                console.error(&failure.message);
                exit = failure.exit;
            }
        }
    }
    if parts.is_empty() {
        return Err(Failure::new(
            exit,
            "none of the recordings can be read, so nothing was written",
        ));
    }
    let session = joined.session();
    for clock in &arguments.clocks {
        if !session.hosts.iter().any(|host| host.name == clock.host) {
            let known: Vec<&str> = session.hosts.iter().map(|it| it.name.as_str()).collect();
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "--clock names {}, which is none of the hosts, so nothing was written; they are {}",
                    Foreign::new(clock.host.as_str()),
                    Foreign::new(known.join(", ").as_str())
                ),
            ));
        }
    }
    let Some(output) = destination::whole(Some(&arguments.output), console)? else {
        return Ok(Exit::Done);
    };
    let mut output = BufWriter::with_capacity(1 << 16, output);
    let mut writer = Box::new(Writer::new(&mut output, rules(&parts)));
    writer.session(&session)?;
    let merged = merge(parts, &mut *writer)?;
    writer.finish(&End::new(&merged.summary, &Pairing::new()))?;
    let output = output.into_inner().map_err(|error| error.into_error())?;
    output.complete()?;
    for (path, told) in paths.iter().zip(&merged.parts) {
        if !say(path, told, console) {
            exit = Exit::Failed;
        }
    }
    warn_of_apart(&paths, &merged.parts, console);
    let summary = &merged.summary;
    console.note(format_args!(
        "{} of {}, {} in all",
        many(summary.delivered, "event", "events"),
        many(paths.len() as u64, "recording", "recordings"),
        many(session.hosts.len() as u64, "host", "hosts"),
    ));
    Ok(exit)
}

/// A file as it was typed.
struct Typed {
    host: Option<String>,
    path: PathBuf,
}

impl Typed {
    /// What stands before the first equals sign is a host, unless there is a file of the whole name.
    fn of(word: &OsStr) -> Typed {
        let whole = || Typed {
            host: None,
            path: word.into(),
        };
        if Path::new(word).exists() {
            return whole();
        }
        let mut halves = word.as_bytes().splitn(2, |byte| *byte == b'=');
        let (host, path) = (halves.next(), halves.next());
        match (host.and_then(|host| str::from_utf8(host).ok()), path) {
            (Some(host), Some(path)) if !host.is_empty() && !host.contains('/') => Typed {
                host: Some(host.to_owned()),
                path: OsStr::from_bytes(path).into(),
            },
            _ => whole(),
        }
    }
}

/// Refuses what would be read twice, or while it is written.
fn check(files: &[Typed], output: &Path) -> Result<(), Failure> {
    let identity = |path: &Path| {
        let about = path.metadata().ok()?;
        Some((about.dev(), about.ino()))
    };
    let usage = |path: &Path, what: &str| {
        let path = Foreign::path(path);
        Err(Failure::new(Exit::Usage, format!("{path} {what}")))
    };
    let mut seen = vec![identity(output).map(|it| (it, true))];
    for file in files {
        let own = identity(&file.path);
        match own.and_then(|own| seen.iter().flatten().find(|(known, _)| *known == own)) {
            Some((_, true)) => {
                return usage(
                    &file.path,
                    "would be overwritten by what is made of it, so nothing was done; choose another --output",
                );
            }
            Some(_) => {
                return usage(
                    &file.path,
                    "is named twice, so that its calls would count twice, and nothing was done; name it once",
                );
            }
            None => seen.push(own.map(|own| (own, false))),
        }
    }
    Ok(())
}

/// A recording that can be merged, known among the hosts.
fn part(
    file: &Typed,
    arguments: &Merge,
    joined: &mut Joined,
    console: &Console,
) -> Result<Part<Counted>, Failure> {
    let reader = open(&file.path)?;
    let shown = Foreign::path(&file.path);
    if reader.is_sampled() {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "{shown}: it is a recording of samples, which are added up already, so it is left out; `pystap report {}` shows it by itself",
                shell::path(&file.path)
            ),
        ));
    }
    let session = reader.session();
    let wrong = |error: crate::hosts::names::TooManyHosts| {
        Failure::new(Exit::Usage, format!("{shown}: {error}, so it is left out"))
    };
    let mut renamed = |from: &str, to: &str| {
        console.warning(format_args!(
            "{shown}: another host is called {} and nothing says that it is the same one, so this one is {}; name it by HOST={shown}",
            Foreign::new(from),
            Foreign::new(to),
        ));
    };
    let places = match session.hosts.is_empty() {
        true => Places::One(
            joined
                .place(host(file, &reader, arguments), &mut renamed)
                .map_err(wrong)?,
        ),
        false => {
            let hosts = session.hosts.iter().cloned();
            let places = hosts.map(|host| joined.place(host, &mut renamed));
            Places::Several(places.collect::<Result<_, _>>().map_err(wrong)?)
        }
    };
    let clock = Difference {
        ahead_ns: match (&places, joined.session().hosts) {
            (Places::One(place), hosts) => hosts
                .get(*place)
                .and_then(|host| host.clock_ahead_ns)
                .unwrap_or(0),
            // Times of what was merged before are set already.
            _ => 0,
        },
        within_ns: 0,
    };
    for pid in joined.twice(session, &places) {
        let process = Hosts::of(&joined.session()).process(pid);
        console.warning(format_args!(
            "{shown}: process {process} is in another recording, too: where both are of the same time, its calls count twice"
        ));
    }
    joined.add(session, &places);
    Ok(Part {
        reader: match joined.session().hosts.len() <= MOST_AHEAD {
            true => Ahead::new(reader),
            false => Ahead::here(reader),
        },
        places,
        clock,
    })
}

/// The host of a recording: as it was typed, by its own name, or by that of the file.
fn host(file: &Typed, reader: &Reader<Counted>, arguments: &Merge) -> SessionHost {
    let session = reader.session();
    let stem = || {
        let stem = file.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    };
    let name = file.host.clone().or_else(|| session.host.clone());
    let name = name.unwrap_or_else(stem);
    let mut clocks = arguments.clocks.iter();
    SessionHost {
        boot: session.boot.clone(),
        pystap: Some(session.pystap.clone()),
        clock_ahead_ns: clocks
            .find(|it| it.host == name)
            .map(|clock| clock.ahead_ns),
        clock_within_ns: None,
        name,
    }
}

/// Says how a recording ended, where not as it should. Whether it could be read.
fn say(path: &Path, told: &Told, console: &Console) -> bool {
    let shown = Foreign::path(path);
    match &told.ending {
        Ending::Whole => {}
        Ending::Cut => warn_of_cut(path, console),
        Ending::Unreadable(error) => {
            console.warning(format_args!(
                "{shown}: {error}; merged is what comes before"
            ));
            return false;
        }
        Ending::Impossible => {
            console.warning(format_args!(
                "{shown}: it has a process that no Linux has, so pystap did not write it; merged is what comes before"
            ));
            return false;
        }
    }
    true
}

/// Says of which recordings no other one has any time in common with: their clocks may differ.
fn warn_of_apart(paths: &[&Path], parts: &[Told], console: &Console) {
    let mut spans: Vec<(u64, u64, &Path)> = (paths.iter().zip(parts))
        .filter_map(|(path, told)| told.span.map(|(first, last)| (first, last, *path)))
        .collect();
    spans.sort_unstable();
    let mut reached: Option<(u64, &Path)> = None;
    for (first, last, path) in spans {
        if let Some((until, before)) = reached
            && first > until
        {
            console.warning(format_args!(
                "{} begins {:.1} s after {} and what is before it have ended; if they ran together, their clocks differ: --clock HOST=TIME sets one back",
                Foreign::path(path),
                (first - until) as f64 / 1e9,
                Foreign::path(before),
            ));
        }
        if reached.is_none_or(|(until, _)| last > until) {
            reached = Some((last, path));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_stands_before_an_equals_sign_is_a_host_unless_there_is_such_a_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let odd = directory.path().join("a=b.rec");
        File::create(&odd).expect("a file");
        let typed = |word: &OsStr| {
            let typed = Typed::of(word);
            (typed.host, typed.path)
        };
        assert_eq!(typed(odd.as_os_str()), (None, odd.clone()));
        let of = |word: &str| typed(OsStr::new(word));
        assert_eq!(
            of("web1=x/a.rec"),
            (Some("web1".to_owned()), "x/a.rec".into())
        );
        assert_eq!(of("x/a=b.rec"), (None, "x/a=b.rec".into()));
        assert_eq!(of("=b.rec"), (None, "=b.rec".into()));
    }
}
