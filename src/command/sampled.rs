//! `pystap report` and `pystap export` of a recording of samples.

use std::io::Write;
use std::path::Path;

use super::opened::{open_whole, warn_of_cut};
use super::{print, sample};
use crate::cli::{Export, ExportFormat, Report};
use crate::console::{Console, Exit};
use crate::event::Session;
use crate::export::html::Page;
use crate::export::profile::Time;
use crate::export::profile::flames::{self, Caption};
use crate::failure::Failure;
use crate::profiler::{By, Recorded, Snapshot, document, page};
use crate::text::Foreign;
use crate::view;

/// A recording of samples, as far as it could be read.
struct Replayed {
    session: Session,
    snapshot: Snapshot,
    exit: Exit,
}

fn replay(path: &Path, console: &Console) -> Result<Replayed, Failure> {
    let (mut reader, progress) = open_whole(path, console)?;
    let mut recorded = Recorded::default();
    let exit = loop {
        let error = match reader.samples() {
            Ok(None) => break Exit::Done,
            Ok(Some(samples)) => {
                if reader.has_turned() {
                    recorded.begin_anew();
                }
                match recorded.take(samples) {
                    Ok(()) => continue,
                    Err(_) => reader.reject(),
                }
            }
            Err(error) => error,
        };
        console.warning(format_args!(
            "{}: {error}; shown is what comes before",
            Foreign::path(path)
        ));
        break Exit::Failed;
    };
    drop(progress);
    if reader.was_cut() && exit == Exit::Done {
        warn_of_cut(path, console);
    }
    Ok(Replayed {
        session: reader.session().clone(),
        snapshot: recorded.into_snapshot(),
        exit,
    })
}

/// The refusal of what only calls have.
fn of_calls(path: &Path, what: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format!(
            "{} has samples and no calls, so there is no {what} of it; record without --sample, or leave it out",
            Foreign::path(path)
        ),
    )
}

/// Refuses to tell greenlets and tasks apart where nothing is known of them.
fn with_contexts(path: &Path, snapshot: &Snapshot, wanted: bool) -> Result<(), Failure> {
    match wanted && snapshot.contexts.is_none() {
        false => Ok(()),
        true => Err(Failure::new(
            Exit::Usage,
            format!(
                "{} does not tell which greenlets and tasks ran; record with --sample --by-context, or leave out --by-context",
                Foreign::path(path)
            ),
        )),
    }
}

/// Shows the table of functions, by estimate.
pub(super) fn report(arguments: &Report, console: &Console) -> Result<Exit, Failure> {
    let of_calls_only = [
        (arguments.gc, "--gc"),
        (!arguments.stats.is_empty(), "--stats"),
        (arguments.group_by.is_some(), "--group-by"),
        (arguments.browse, "--browse"),
    ];
    if let Some((_, option)) = of_calls_only.iter().find(|(is_given, _)| *is_given) {
        return Err(of_calls(&arguments.file, option));
    }
    let order = sample::order(arguments.sort)
        .ok_or_else(|| of_calls(&arguments.file, "--sort but by self, cum or function"))?;
    let by = By::Function {
        process: arguments.by_process,
        context: arguments.by_context,
    };
    let Replayed { snapshot, exit, .. } = replay(&arguments.file, console)?;
    with_contexts(&arguments.file, &snapshot, arguments.by_context)?;
    let rows = snapshot.rows(by, arguments.idle, order, arguments.reverse);
    match arguments.json {
        true => print::json(&document(&snapshot, &rows, arguments.limit))?,
        false => {
            let mut text = page(&snapshot, &rows, by, arguments.limit);
            let all = rows.rows.len();
            if arguments.limit < all {
                text.push_str(&format!(
                    "({} of {all} functions; --limit shows more)\n",
                    arguments.limit
                ));
            }
            print::page(&text)?;
        }
    }
    Ok(exit)
}

/// Whether it can be exported so; before the output is opened.
pub(super) fn check(arguments: &Export) -> Result<(), Failure> {
    let format = match arguments.format {
        ExportFormat::Folded
        | ExportFormat::Flamegraph
        | ExportFormat::Html
        | ExportFormat::Pprof
        | ExportFormat::Speedscope => None,
        ExportFormat::Chrome | ExportFormat::Perfetto => Some("timeline"),
        ExportFormat::Otlp => Some("span"),
        ExportFormat::Pstats => Some("number of calls"),
        ExportFormat::Json | ExportFormat::Parquet => Some("stream of events"),
    };
    let option = arguments.group_by.as_ref().map(|_| "--group-by");
    match format.or(option) {
        None => Ok(()),
        Some(what) => Err(of_calls(&arguments.file, what)),
    }
}

/// The page of it, its stacks by process where that is wanted.
pub(super) fn html(
    path: &Path,
    by_process: bool,
    console: &Console,
) -> Result<(Page, Exit), Failure> {
    let Replayed {
        session,
        snapshot,
        exit,
    } = replay(path, console)?;
    Ok((snapshot.html(&session, by_process), exit))
}

/// Writes it in another format.
pub(super) fn export(
    arguments: &Export,
    time: Time,
    output: &mut dyn Write,
    console: &Console,
) -> Result<Exit, Failure> {
    let Replayed {
        session,
        snapshot,
        exit,
    } = replay(&arguments.file, console)?;
    with_contexts(&arguments.file, &snapshot, arguments.by_context)?;
    let left_out = match arguments.idle {
        true => 0,
        false => snapshot.idle_ns(),
    };
    match arguments.format {
        ExportFormat::Speedscope => {
            snapshot.write_speedscope(&session, output)?;
            return Ok(exit);
        }
        ExportFormat::Pprof => snapshot.write_pprof(&session, arguments.idle, output)?,
        _ => draw(arguments, time, (&session, &snapshot), output)?,
    }
    if left_out > 0 {
        console.warning(format_args!(
            "about {} in which threads waited for work (hubs of event loops, workers of pools) are left out; --idle shows them",
            view::time(left_out)
        ));
    }
    Ok(exit)
}

/// Writes its stacks, as text or as a picture.
fn draw(
    arguments: &Export,
    time: Time,
    (session, snapshot): (&Session, &Snapshot),
    output: &mut dyn Write,
) -> Result<(), Failure> {
    let lines = snapshot.folded(session, time, arguments.idle, arguments.by_context);
    if arguments.format == ExportFormat::Folded {
        lines
            .iter()
            .try_for_each(|line| writeln!(output, "{line}"))?;
    } else if lines.is_empty() {
        return Err(Failure::new(
            Exit::Failed,
            "there are no samples of that kind in it but for idleness (--idle shows it), so there is nothing to draw",
        ));
    } else {
        let caption = Caption {
            title: match time {
                Time::Own => "Time by stack, estimated from samples",
                Time::Cpu => "Time on processors by stack, estimated from samples",
                Time::Off => "Time waited by stack, estimated from samples",
                Time::Wall => "Time by stack with waits, estimated from samples",
            },
            subtitle: Some(format!(
                "{} of {}, {} per second",
                view::many(snapshot.samples(), "sample", "samples"),
                view::many(snapshot.threads as u64, "thread", "threads"),
                view::many(u64::from(snapshot.rate), "time", "times")
            )),
            min_width: arguments.min_width,
        };
        flames::draw(&lines, caption, output)?;
    }
    Ok(())
}
