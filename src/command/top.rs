//! `pystap top`: a trace whose events are added up instead of written, and shown as a table.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags};

use super::{print, trace};
use crate::analysis::pairing::PairingRules;
use crate::cli;
use crate::console::{Console, Exit};
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::script::Filters;
use crate::session::opening::Decided;
use crate::session::request::{Limits, SessionRequest};
use crate::text::Foreign;
use crate::top::{Batch, Live, Shown, Snapshot, State, Tally, screen, terminal};
use crate::view::many;

/// What is traced, in a few words.
pub(super) fn title(targets: &cli::TargetArgs, of: Option<&String>) -> String {
    if let Some(service) = of.or(targets.service.as_ref()) {
        return service.clone();
    }
    if !targets.command.is_empty() {
        let words: Vec<_> = targets
            .command
            .iter()
            .map(|it| it.to_string_lossy())
            .collect();
        return words.join(" ");
    }
    if let Some(pattern) = &targets.pattern {
        return pattern.to_string();
    }
    let pids: Vec<String> = targets.pids.iter().map(ToString::to_string).collect();
    pids.join(", ")
}

/// The session behind a live table.
pub(super) fn request(arguments: &cli::Top) -> SessionRequest {
    let kernel = arguments.kernel.as_deref();
    let mut request = SessionRequest {
        limits: Limits {
            duration: arguments.duration,
            max_events: None,
        },
        purpose: trace::purpose(arguments.dry_run, arguments.compile_only, kernel),
        output: arguments.output.clone(),
        waits: arguments.waits,
        // The table leaves it out itself.
        with_idle: true,
        ..trace::common(&arguments.targets, &arguments.engine)
    };
    trace::ask(&mut request, &arguments.what);
    if let Some(of) = &arguments.of {
        request.targets.service = Some(of.clone());
    }
    // Single calls that are long enough are measured by another template.
    // The kernel keeps a stack for each context, and one row for all; and a wait belongs to the call that is open when it comes.
    request.agent.contexts = arguments.by_context;
    trace::with_fields(&mut request, &arguments.fields);
    request.group_by.clone_from(&arguments.group_by);
    // Fields belong to single calls.
    request.totals = !(arguments.no_kernel_totals || arguments.by_context || arguments.waits)
        && request.agent.fields.is_empty()
        && request.min_duration.is_none();
    request
}

/// The script of the live table.
pub(super) fn script(arguments: &cli::Top) -> Result<Exit, Failure> {
    if arguments.sample.is_some() {
        return Err(Failure::new(
            Exit::Usage,
            "samples are read from memory, so there is no script to be shown; leave out --sample",
        ));
    }
    trace::script(request(arguments))
}

/// Refuses what makes no sense of calls.
pub(super) fn check(arguments: &cli::Top) -> Result<(), Failure> {
    if arguments.sort.is_of_waits() && !arguments.waits {
        return Err(Failure::new(
            Exit::Usage,
            "only --waits tells how long functions did not run, so nothing can be sorted by it; add --waits",
        ));
    }
    Ok(())
}

/// The table as lines, or what else is asked for.
pub(super) fn lines(arguments: &cli::Top, console: &Console) -> Result<u8, Failure> {
    let request = request(arguments);
    let decided = Decided::new(&request)?;
    let adds_up = decided.adds_up();
    let make = |output: Output, rules: PairingRules| -> Box<dyn Sink> {
        let in_kernel = adds_up && !rules.call_on_creation;
        Box::new(as_lines(arguments, output, in_kernel, console))
    };
    decided.run(&make, print::listing, None, console)
}

/// The table as lines to this output.
pub(super) fn as_lines(
    arguments: &cli::Top,
    output: Output,
    in_kernel: bool,
    console: &Console,
) -> Live {
    let tally = tally(arguments.by_context)
        .with_waits(arguments.waits)
        .with_raw_times(arguments.raw_times);
    let shown = Shown::AsLines(Batch {
        output,
        interval: arguments.interval,
        count: arguments.count,
        limit: arguments.limit,
        sort: arguments.sort,
        by_process: arguments.by_process,
        json: arguments.json,
        filter: None,
        idle: arguments.idle,
        since: arguments.since_last.then(Snapshot::default),
    });
    Live::new(tally, in_kernel, shown, console)
}

/// How many functions these are.
pub(super) fn functions(of: &Filters) -> String {
    many(of.functions.len() as u64, "function", "functions")
}

/// Sums of nothing yet.
pub(super) fn tally(by_context: bool) -> Tally {
    match by_context {
        true => Tally::by_context(),
        false => Tally::new(),
    }
}

/// Shows the table of what is over, until somebody has seen enough.
pub(super) fn browse(state: State, table: Snapshot) -> Result<(), Failure> {
    if let Some(obstacle) = screen::obstacle() {
        return Err(Failure::new(
            Exit::Usage,
            format!("{obstacle}, so the table cannot be browsed; leave out --browse"),
        ));
    }
    Ok(terminal::browse(state, table)?)
}

/// A file without a name for what the command says.
pub(super) fn aside(console: &Console) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC;
    match rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(error) => {
            console.warning(format_args!(
                "no file can be made in {} ({error}), so what the command says is not shown",
                Foreign::path(&std::env::temp_dir())
            ));
            File::options().read(true).write(true).open("/dev/null")
        }
    }
}

/// What of the command's words is shown at the end, in lines and bytes.
const LAST_LINES: usize = 20;
const LAST_BYTES: u64 = 16 * 1024;

/// The last of what the command said, and whether that is all.
fn end_of(aside: &File) -> io::Result<(Vec<String>, bool)> {
    let length = aside.metadata()?.len();
    let from = length.saturating_sub(LAST_BYTES);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(0)];
    aside.read_exact_at(&mut bytes, from)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(LAST_LINES);
    let last = lines.iter().skip(skipped).map(ToString::to_string);
    Ok((last.collect(), from == 0 && skipped == 0))
}

/// Shows it.
pub(super) fn show_end(aside: &File, console: &Console) -> io::Result<()> {
    let (lines, whole) = end_of(aside)?;
    if lines.is_empty() {
        return Ok(());
    }
    console.note(match whole {
        true => "the command said:",
        false => "the end of what the command said:",
    });
    // What it would have said to the terminal itself, had that not been covered; but its last lines alone may begin in the
    // midst of a sequence.
    print::page(
        &lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_end_of_what_a_command_said_is_its_last_lines() {
        let mut aside = tempfile::tempfile().expect("a file");
        writeln!(aside, "hello").expect("written");
        assert_eq!(
            end_of(&aside).expect("read"),
            (vec!["hello".to_owned()], true)
        );
        for number in 0..10_000 {
            writeln!(aside, "line {number}").expect("written");
        }
        let (lines, whole) = end_of(&aside).expect("read");
        assert_eq!((lines.len(), whole), (LAST_LINES, false));
        assert_eq!(lines.last().map(String::as_str), Some("line 9999"));
    }
}
