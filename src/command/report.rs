//! `pystap report` and `pystap export`: any view of a recording, as often as wanted.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufWriter, IntoInnerError, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::opened::{note_parts, open};
use super::replay::{Replayed, contexts, replay, replay_into, replay_once};
use super::{destination, print, sampled, top, traces};
use crate::analysis::collections::Collections;
use crate::analysis::contexts::Contexts;
use crate::analysis::functions::{Function, Functions};
use crate::analysis::latency::Latencies;
use crate::analysis::overhead::Overhead;
use crate::analysis::pairing::{PairingRules, Step};
use crate::cli::{Export, ExportFormat, ExportTime, OtlpArgs, Report};
use crate::console::{Console, Exit, Progress};
use crate::event::hosts::Hosts;
use crate::event::{Session, Wait, What};
use crate::export::html::{Gathered, Page};
use crate::export::json::Json;
use crate::export::latencies::asked_for;
use crate::export::parquet::{Files, Parquet, Partitions};
use crate::export::profile::{
    Chrome, FlameGraph, Folded, Perfetto, Pprof, Pstats, Selection, Speedscope, Time,
};
use crate::export::{End, Output, Sink};
use crate::failure::Failure;
use crate::files::writing::make_directory;
use crate::recording::Ahead;
use crate::script::filter::Glob;
use crate::shell;
use crate::text::Foreign;
use crate::top::State;
use crate::traces::{InFile, Spans};
use crate::view::{self, hot, latencies, many, pauses};

fn exit(replayed: &Replayed) -> Exit {
    if replayed.whole {
        Exit::Done
    } else {
        Exit::Failed
    }
}

/// What the views of a recording are made of, as far as they are asked for.
struct Views<'a> {
    functions: Functions,
    collections: Collections,
    slow: Latencies,
    stats: &'a [Glob],
    gc: bool,
}

impl Sink for Views<'_> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        let hosts = Hosts::of(session);
        self.functions.of_hosts(hosts.clone());
        self.collections.of_hosts(hosts.clone());
        self.slow.of_hosts(hosts);
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        if !self.stats.is_empty() {
            self.slow.take(step, |place| asked_for(self.stats, place));
        } else if !self.gc {
            self.functions.take(step);
        }
        self.collections.take(step);
        Ok(())
    }

    fn finish(self: Box<Self>, _end: &End<'_>) -> io::Result<Option<String>> {
        Ok(None)
    }
}

/// Shows a view of a recording.
pub(super) fn report(arguments: &Report, console: &Console) -> Result<Exit, Failure> {
    if let Some(page) = &arguments.html {
        let export = Export {
            file: arguments.file.clone(),
            format: ExportFormat::Html,
            output: Some(page.clone()),
            min_width: 0.0,
            by_context: false,
            group_by: arguments.group_by.clone(),
            time: None,
            idle: false,
            partition: None,
            diff: None,
            raw_times: arguments.raw_times,
            functions: Vec::new(),
            min_duration: None,
            link: None,
            otlp: OtlpArgs::default(),
        };
        return self::export(&export, console);
    }
    note_parts(&arguments.file, console);
    let reader = open(&arguments.file)?;
    if reader.is_sampled() {
        return sampled::report(arguments, console);
    }
    let has_waits = has_waits(reader.session());
    let overhead = Overhead::of(reader.session(), arguments.raw_times);
    if arguments.sort.is_of_waits() && !has_waits {
        return Err(without_waits(&arguments.file, "--sort"));
    }
    if arguments.browse {
        return browse(arguments, has_waits, console);
    }
    let limit = arguments.limit;
    let make = || {
        let functions = match arguments.by_context {
            true => Functions::by_context(),
            false => Functions::new(),
        };
        let mut views = Views {
            functions: functions.with_waits(has_waits),
            collections: Collections::new(),
            slow: Latencies::new(limit.min(1000)),
            stats: &arguments.stats,
            gc: arguments.gc,
        };
        views.functions.take_out(overhead);
        views.slow.take_out(overhead);
        views.slow.of_filtered(reader.session().filter.is_some());
        views
    };
    let group_by = arguments.group_by.as_deref();
    let (views, replayed) = replay_into(Ahead::new, &arguments.file, group_by, console, make)?;
    let Views {
        mut functions,
        collections,
        slow,
        ..
    } = views;
    let start = match replayed.span {
        Some((first, _)) if replayed.session.ts == 0 => first,
        _ => replayed.session.ts,
    };
    let last = replayed.span.map_or(0, |(_, last)| last);
    let wall_ns = replayed.wall_ns();
    if !arguments.stats.is_empty() {
        if slow.is_empty() {
            let wanted: Vec<&str> = arguments.stats.iter().map(Glob::as_str).collect();
            return Err(Failure::new(
                Exit::NoTarget,
                format!(
                    "no call of {} is in {}; `pystap report {}` lists the functions that are",
                    wanted.join(", "),
                    Foreign::path(&arguments.file),
                    shell::path(&arguments.file)
                ),
            ));
        }
        if arguments.json {
            print::json(&latencies::json("summary", last, &slow, wall_ns))?;
        } else {
            print::page(&latencies::text(&slow, start))?;
        }
        return Ok(exit(&replayed));
    }
    if arguments.gc {
        if arguments.json {
            print::json(&pauses::json("summary", last, &collections, wall_ns, limit))?;
        } else {
            print::page(&pauses::text(&collections, wall_ns, start, limit))?;
        }
        return Ok(exit(&replayed));
    }
    functions.take_open(&replayed.pairing, last);
    let account = hot::TableAccount {
        wall_ns,
        with_idle: arguments.idle,
        gc_ns: collections.total_pause_ns(),
        lost: replayed.lost,
        untraced: replayed
            .summary
            .as_ref()
            .map_or(0, |summary| summary.untraced_processes),
        unpaired: replayed.pairing.unpaired().total(),
        has_waits,
        filtered: replayed.session.filter.is_some(),
        ..hot::TableAccount::of(&functions)
    };
    let rows = match arguments.by_process {
        true => functions.rows().to_vec(),
        false => functions.merged(),
    };
    let order = hot::order(&rows, &account, arguments.sort, arguments.reverse, |_| true);
    let all = rows.len();
    let rows: Vec<&Function> = order
        .into_iter()
        .take(limit)
        .filter_map(|at| rows.get(at))
        .collect();
    if arguments.json {
        let not_shown = all - rows.len();
        hot::write_json(&account, rows.into_iter(), not_shown, &mut print::output()?)?;
        return Ok(exit(&replayed));
    }
    // Writing to a String cannot fail.
    let mut out = format!("{}\n", hot::heading(&account, arguments.by_process));
    for row in &rows {
        let _ = writeln!(out, "{}", hot::line(row, &account, arguments.by_process));
    }
    if rows.len() < all {
        let _ = writeln!(
            out,
            "({} of {all} functions; --limit shows more)",
            rows.len()
        );
    }
    let _ = writeln!(
        out,
        "\n{}",
        hot::account_line(&account, replayed.session.filter.as_deref())
    );
    out.push_str(&hot::notes(rows.into_iter(), &account));
    print::page(&out)?;
    Ok(exit(&replayed))
}

/// Shows the table of hot functions to sort and filter.
fn browse(arguments: &Report, has_waits: bool, console: &Console) -> Result<Exit, Failure> {
    let make = || {
        let tally = top::tally(arguments.by_context).with_waits(has_waits);
        tally.with_raw_times(arguments.raw_times).with_callers()
    };
    let group_by = arguments.group_by.as_deref();
    let (tally, replayed) = replay_into(Ahead::new, &arguments.file, group_by, console, make)?;
    // What is over has no present: its last event is where its clock stands.
    let table = tally.snapshot(&replayed.pairing, 0);
    let mut state = State::new(
        Foreign::path(&arguments.file).to_string(),
        arguments.sort,
        60_000,
    );
    state.idle = arguments.idle;
    state.only.clone_from(&replayed.session.filter);
    top::browse(state, table)?;
    Ok(match replayed.whole {
        true => Exit::Done,
        false => Exit::Failed,
    })
}

/// Writes a recording in another format.
pub(super) fn export(arguments: &Export, console: &Console) -> Result<Exit, Failure> {
    note_parts(&arguments.file, console);
    // Before the output is emptied: it may be that the file is none of ours.
    let is_sampled = open(&arguments.file)?.is_sampled();
    for file in [Some(&arguments.file), arguments.diff.as_ref()]
        .into_iter()
        .flatten()
    {
        let output = arguments.output.as_deref();
        if output.is_some_and(|output| same_file(file, output)) {
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "{} would be overwritten by what is made of it, so nothing was done; choose another --output",
                    Foreign::path(file)
                ),
            ));
        }
    }
    if arguments.diff.is_some() && arguments.format != ExportFormat::Html {
        return Err(Failure::new(
            Exit::Usage,
            "--diff is for the format html, so nothing was done; leave it out, or choose that",
        ));
    }
    if arguments.partition.is_some() && arguments.format != ExportFormat::Parquet {
        return Err(Failure::new(
            Exit::Usage,
            "--partition is for the format parquet, so nothing was done; leave it out, or choose that",
        ));
    }
    let of_spans = [
        (arguments.otlp.url.is_some(), "--otlp"),
        (!arguments.functions.is_empty(), "--function"),
        (arguments.min_duration.is_some(), "--min-duration"),
        (arguments.link.is_some(), "--link"),
    ];
    let of_spans = of_spans
        .into_iter()
        .find_map(|(is, option)| is.then_some(option));
    if let Some(option) = of_spans
        && arguments.format != ExportFormat::Otlp
    {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "{option} is for the format otlp, so nothing was done; leave it out, or choose that"
            ),
        ));
    }
    let drawn = drawn(arguments);
    if arguments.by_context && !drawn {
        return Err(Failure::new(
            Exit::Usage,
            "--by-context is for the formats folded and flamegraph, so nothing was done; leave it out, or choose one of these",
        ));
    }
    let has_idle = matches!(
        arguments.format,
        ExportFormat::Html | ExportFormat::Json | ExportFormat::Parquet
    );
    if arguments.idle && !leaves_out_idleness(arguments) && (is_sampled || has_idle) {
        return Err(Failure::new(
            Exit::Usage,
            "--idle is for formats that leave idleness out, and this one shows it anyway, so nothing was done; leave it out",
        ));
    }
    if arguments.group_by.is_some() && arguments.format == ExportFormat::Json {
        return Err(Failure::new(
            Exit::Usage,
            "--group-by tells functions apart, and each event of json has its fields by itself, so nothing was done; leave it out",
        ));
    }
    if is_sampled {
        sampled::check(arguments)?;
    }
    let time = time(arguments, drawn)?;
    if arguments.format == ExportFormat::Parquet {
        return tables(arguments, console);
    }
    if let Some(receiver) = traces::receiver(&arguments.otlp, "traces")? {
        if arguments.output.is_some() {
            return Err(Failure::new(
                Exit::Usage,
                "spans go to a file or to a receiver, so nothing was done; leave out --output or --otlp",
            ));
        }
        return traces::send(arguments, receiver, console, |sink| {
            let sink: Box<dyn Sink> = match arguments.idle {
                true => sink,
                false => Box::new(WithoutIdle::new(sink)),
            };
            made(arguments, sink, console)
        });
    }
    let Some(output) = destination::whole(arguments.output.as_deref(), console)? else {
        return Ok(Exit::Done);
    };
    let mut output = BufWriter::with_capacity(1 << 16, output);
    // What is written to the terminal goes across a line on it.
    let steady = console.steady();
    let console = match arguments.output.is_none() && io::stdout().is_terminal() {
        true => &steady,
        false => console,
    };
    let written = match is_sampled {
        true if arguments.format == ExportFormat::Html => page(arguments, &mut output, console),
        true => sampled::export(arguments, time, &mut output, console),
        false => convert(arguments, time, &mut output, console),
    };
    let written = written.and_then(|exit| {
        let output = output.into_inner().map_err(IntoInnerError::into_error)?;
        output.complete()?;
        Ok(exit)
    });
    written.map_err(|failure| match (&arguments.output, failure.exit) {
        (Some(path), Exit::Failed) if failure.message.starts_with("standard output") => Failure {
            message: failure.message.replacen(
                "standard output",
                &Foreign::path(path).to_string(),
                1,
            ),
            ..failure
        },
        _ => failure,
    })
}

/// Whether waits of threads were recorded.
fn has_waits(session: &Session) -> bool {
    session.events.iter().any(|kind| kind == Wait::KIND)
}

/// What is said where they were not, and are wanted by an option.
fn without_waits(file: &Path, option: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format!(
            "{} has no waits, so nothing tells how long functions did not run; record them with `pystap record --waits -o FILE -p PID`, or leave out \
             {option}",
            Foreign::path(file)
        ),
    )
}

/// Which time is to be shown.
fn time(arguments: &Export, drawn: bool) -> Result<Time, Failure> {
    let time = match arguments.time {
        None => return Ok(Time::Own),
        Some(ExportTime::Cpu) => Time::Cpu,
        Some(ExportTime::Off) => Time::Off,
        Some(ExportTime::Wall) => Time::Wall,
    };
    if !drawn {
        return Err(Failure::new(
            Exit::Usage,
            "--time is for the formats folded and flamegraph, so nothing was done; leave it out, or choose one of these",
        ));
    }
    let reader = open(&arguments.file)?;
    if !(reader.is_sampled() || has_waits(reader.session())) {
        return Err(without_waits(&arguments.file, "--time"));
    }
    Ok(time)
}

/// Whether it is a picture of stacks.
fn drawn(arguments: &Export) -> bool {
    matches!(
        arguments.format,
        ExportFormat::Folded | ExportFormat::Flamegraph
    )
}

/// Whether it is made of stacks, and leaves out idleness by itself.
fn leaves_out_idleness(arguments: &Export) -> bool {
    drawn(arguments) || arguments.format == ExportFormat::Pprof
}

/// A format without calls that were long only because they waited for work.
struct WithoutIdle<'a> {
    sink: Box<dyn Sink + 'a>,
    calls: u64,
    idle_ns: u64,
}

impl<'a> WithoutIdle<'a> {
    fn new(sink: Box<dyn Sink + 'a>) -> WithoutIdle<'a> {
        WithoutIdle {
            sink,
            calls: 0,
            idle_ns: 0,
        }
    }
}

impl Sink for WithoutIdle<'_> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.sink.session(session)
    }

    fn rules(&mut self, pid: u32, rules: PairingRules) -> io::Result<()> {
        self.sink.rules(pid, rules)
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        if let What::Return { frame, .. } = &step.event.what
            && let Some(left) = step.finished
            && frame.idle_ns > 0
        {
            self.calls += 1;
            let own = frame.idle_ns.min(left.self_ns);
            self.idle_ns = self.idle_ns.saturating_add(own);
            return Ok(());
        }
        self.sink.step(step)
    }

    fn finish(self: Box<Self>, end: &End<'_>) -> io::Result<Option<String>> {
        let idle = (self.calls > 0).then(|| {
            format!(
                "{} that waited for work, {}, left out; --idle shows them",
                many(self.calls, "call", "calls"),
                view::time(self.idle_ns)
            )
        });
        let said: Vec<String> = idle.into_iter().chain(self.sink.finish(end)?).collect();
        Ok((!said.is_empty()).then(|| said.join("; ")))
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Writes the page of a recording, or of what has changed since another one.
fn page(
    arguments: &Export,
    to: &mut BufWriter<Output>,
    console: &Console,
) -> Result<Exit, Failure> {
    let compares = arguments.diff.is_some();
    let gather = |path: &Path| -> Result<(Page, Exit), Failure> {
        if open(path)?.is_sampled() {
            return sampled::html(path, !compares, console);
        }
        let group_by = arguments.group_by.as_deref();
        let (gathered, replayed) =
            replay_into(Ahead::here, path, group_by, console, Gathered::default)?;
        let end = End {
            summary: replayed.summary.as_ref(),
            pairing: &replayed.pairing,
        };
        let page = gathered.page(&end, replayed.wall_ns(), !compares);
        Ok((page, exit(&replayed)))
    };
    let before = match &arguments.diff {
        Some(other) => {
            let (page, exit) = gather(other)?;
            Some((page.without_times(), exit))
        }
        None => None,
    };
    let (page, mut exit) = gather(&arguments.file)?;
    let page = match before {
        Some((before, Exit::Done)) => page.compared(before),
        Some((before, cut)) => {
            exit = cut;
            page.compared(before)
        }
        None => page.alone(),
    };
    let _progress = writing(arguments, console);
    page.write(to)?;
    Ok(exit)
}

/// What is said while the output is made that a whole recording was read for.
fn writing(arguments: &Export, console: &Console) -> Progress {
    let path = arguments.output.as_deref();
    let name = path.and_then(Path::file_name).map(Path::new);
    let activity = match name {
        Some(name) => format!("writing {}", Foreign::path(name)),
        None => "writing".to_owned(),
    };
    console.progress(&activity, None)
}

/// Reads a recording of events to its end, and writes it in another format.
fn convert(
    arguments: &Export,
    time: Time,
    to: &mut BufWriter<Output>,
    console: &Console,
) -> Result<Exit, Failure> {
    let shown = Selection {
        by_context: arguments.by_context,
        time,
        idle: arguments.idle,
        raw_times: arguments.raw_times,
    };
    let learned = match arguments.by_context {
        true => contexts(&arguments.file, console)?,
        false => Contexts::default(),
    };
    match arguments.format {
        // Made of two recordings.
        ExportFormat::Html => return page(arguments, to, console),
        // Written to two files.
        ExportFormat::Parquet => return tables(arguments, console),
        _ => {}
    }
    let outputs = std::slice::from_mut(to);
    made_anew(arguments, outputs, console, &|outputs| {
        let [to] = outputs else {
            return Err(io::Error::from(io::ErrorKind::NotFound).into());
        };
        let sink: Box<dyn Sink + '_> = match arguments.format {
            ExportFormat::Json => Box::new(Json::new(to)),
            ExportFormat::Folded => Box::new(Folded::new(to, shown).knowing(learned.clone())),
            ExportFormat::Flamegraph => {
                let graph = FlameGraph::new(to, arguments.min_width, shown);
                Box::new(graph.knowing(learned.clone()))
            }
            ExportFormat::Chrome => Box::new(Chrome::new(to)),
            ExportFormat::Pprof => Box::new(Pprof::new(to, shown)),
            ExportFormat::Speedscope => Box::new(Speedscope::new(to)),
            ExportFormat::Pstats => Box::new(Pstats::new(to, arguments.raw_times)),
            ExportFormat::Otlp => {
                let file = InFile::new(to);
                Box::new(Spans::new(traces::choice(arguments), None, file))
            }
            ExportFormat::Perfetto => Box::new(Perfetto::new(to)),
            // See above.
            ExportFormat::Html | ExportFormat::Parquet => {
                return Err(io::Error::from(io::ErrorKind::Unsupported).into());
            }
        };
        let shows_idleness = arguments.idle || arguments.format == ExportFormat::Json;
        Ok(match shows_idleness || leaves_out_idleness(arguments) {
            true => sink,
            false => Box::new(WithoutIdle::new(sink)),
        })
    })
}

/// Makes a format that is written to these.
type Make<'m> =
    dyn for<'o> Fn(&'o mut [BufWriter<Output>]) -> Result<Box<dyn Sink + 'o>, Failure> + 'm;

/// The same as [`made`], in one reading where that will do: the format is made anew where it does not, which its outputs must allow.
fn made_anew(
    arguments: &Export,
    outputs: &mut [BufWriter<Output>],
    console: &Console,
    make: &Make<'_>,
) -> Result<Exit, Failure> {
    if outputs.iter().all(|it| it.get_ref().can_begin_anew()) {
        let mut sink = make(outputs)?;
        let group_by = arguments.group_by.as_deref();
        if let Some(replayed) = replay_once(&arguments.file, group_by, console, sink.as_mut())? {
            return ended(arguments, sink, &replayed, console);
        }
        drop(sink);
        for output in &mut *outputs {
            output.flush()?;
            output.get_mut().begin_anew()?;
        }
    }
    made(arguments, make(outputs)?, console)
}

/// Reads a recording of events into a format, to the end of both.
fn made(
    arguments: &Export,
    mut sink: Box<dyn Sink + '_>,
    console: &Console,
) -> Result<Exit, Failure> {
    let group_by = arguments.group_by.as_deref();
    let replayed = replay(&arguments.file, group_by, console, sink.as_mut())?;
    ended(arguments, sink, &replayed, console)
}

/// Has a format written to its end, of which a recording was read.
fn ended(
    arguments: &Export,
    sink: Box<dyn Sink + '_>,
    replayed: &Replayed,
    console: &Console,
) -> Result<Exit, Failure> {
    let progress = writing(arguments, console);
    let said = sink.finish(&End {
        summary: replayed.summary.as_ref(),
        pairing: &replayed.pairing,
    })?;
    drop(progress);
    if let Some(said) = said {
        console.warning(said);
    }
    Ok(exit(replayed))
}

/// Writes a recording of events as tables, each a file of a directory.
fn tables(arguments: &Export, console: &Console) -> Result<Exit, Failure> {
    let Some(directory) = arguments.output.as_deref() else {
        return Err(Failure::new(
            Exit::Usage,
            "parquet is several files, so nothing was done; name a directory for them with --output",
        ));
    };
    let is_new = make_directory(directory).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!(
                "cannot make the directory {}: {error}; nothing was done, choose another --output",
                Foreign::path(directory)
            ),
        )
    })?;
    let written = match &arguments.partition {
        Some(service) => write_parts(arguments, service, directory, console),
        None => write_tables(arguments, directory, console),
    };
    if is_new && written.is_err() {
        // Of one that has something in it by now nothing is lost.
        let _ = fs::remove_dir(directory);
    }
    written
}

/// Writes events into the directories of their hosts and hours, beside what is there.
fn write_parts(
    arguments: &Export,
    service: &str,
    directory: &Path,
    console: &Console,
) -> Result<Exit, Failure> {
    let parts = Parts {
        directory: directory.to_owned(),
        console: console.clone(),
    };
    let sink = Parquet::partitioned(Partitions::new(parts, service));
    made(arguments, Box::new(sink), console)
}

/// The files of a partitioned table.
struct Parts {
    directory: PathBuf,
    console: Console,
}

impl Files for Parts {
    type File = BufWriter<Output>;

    fn begin(&mut self, directory: &Path) -> io::Result<BufWriter<Output>> {
        let mut place = self.directory.clone();
        for part in directory.components() {
            place.push(part);
            make_directory(&place)?;
        }
        // Of earlier exports, and of this one.
        let mut names = (0..).map(|number: u64| place.join(format!("part-{number}.parquet")));
        let free = names.find(|name| fs::symlink_metadata(name).is_err());
        let free = free.ok_or(io::ErrorKind::AlreadyExists)?;
        let output = destination::whole(Some(&free), &self.console).map_err(io::Error::other)?;
        let output = output.ok_or(io::ErrorKind::Interrupted)?;
        Ok(BufWriter::with_capacity(1 << 16, output))
    }

    fn complete(&mut self, file: BufWriter<Output>) -> io::Result<()> {
        let output = file.into_inner().map_err(IntoInnerError::into_error)?;
        output.complete()
    }
}

fn write_tables(arguments: &Export, directory: &Path, console: &Console) -> Result<Exit, Failure> {
    let opened = |name: &str| -> Result<Option<BufWriter<Output>>, Failure> {
        let output = destination::whole(Some(&directory.join(name)), console)?;
        Ok(output.map(|output| BufWriter::with_capacity(1 << 16, output)))
    };
    let (Some(events), Some(functions)) = (opened("events.parquet")?, opened("functions.parquet")?)
    else {
        return Ok(Exit::Done);
    };
    let mut outputs = [functions, events];
    let exit = made_anew(arguments, &mut outputs, console, &|outputs| {
        let [functions, events] = outputs else {
            return Err(io::Error::from(io::ErrorKind::NotFound).into());
        };
        Ok(Box::new(Parquet::new(
            events,
            functions,
            arguments.raw_times,
        )?))
    })?;
    for output in outputs {
        let output = output.into_inner().map_err(IntoInnerError::into_error)?;
        output.complete()?;
    }
    Ok(exit)
}
