//! Tables for whatever reads Parquet: every event, and what each function cost. docs/recordings.md has their columns.

mod columns;
mod partitions;
mod table;
mod words;

pub use partitions::{Files, Partitions};

use std::io::{self, Write};
use std::sync::Arc;

use self::columns::{EVENTS, FUNCTIONS};
pub use self::table::{Cell, Table};
pub use self::words::Shared;
use super::about::{about, losses};
use super::{End, Sink};
use crate::analysis::functions::{Function, Functions};
use crate::analysis::overhead::Overhead;
use crate::analysis::pairing::Step;
use crate::event::hosts::{self, Hosts};
use crate::event::{Fields, Place, Session, Wait, What, json};
use crate::view::many;

/// Functions of which it is remembered how they are written: their places by the low bits of their addresses.
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 15;

/// Writes both tables, each to an output of its own.
#[derive(Debug)]
pub struct Parquet<E, W: Write + Send> {
    events: E,
    /// For the table of functions, where there is to be one.
    to: Option<W>,
    session: Session,
    hosts: Hosts,
    host_names: HostNames,
    has_waits: bool,
    functions: Functions,
    raw_times: bool,
    overhead: Overhead,
    places: Vec<Option<Named>>,
    words: Vec<(&'static str, Shared)>,
    json: json::Writer,
    line: Vec<u8>,
    first: u64,
    last: u64,
}

/// The names of hosts as they are written.
#[derive(Debug, Default)]
struct HostNames {
    /// That of a stream of one host, where it says so.
    only: Option<Shared>,
    /// Those of a stream of several, in their order.
    all: Vec<Shared>,
    /// The same as texts.
    texts: Vec<String>,
    only_text: String,
}

impl HostNames {
    fn of(session: &Session) -> HostNames {
        HostNames {
            only: session.host.as_deref().map(Shared::from),
            all: (session.hosts.iter().map(|host| host.name.as_str().into())).collect(),
            texts: session.hosts.iter().map(|host| host.name.clone()).collect(),
            only_text: session.host.clone().unwrap_or_default(),
        }
    }

    /// That of a process, as text; empty where it is not known.
    fn text(&self, identity: u32) -> &str {
        match self.all.is_empty() {
            true => &self.only_text,
            false => hosts::place(identity)
                .and_then(|place| self.texts.get(place))
                .map_or("", String::as_str),
        }
    }

    /// That of a process.
    fn of_process(&self, identity: u32) -> Cell<'_> {
        let name = match self.all.is_empty() {
            true => self.only.as_ref(),
            false => hosts::place(identity).and_then(|place| self.all.get(place)),
        };
        Cell::of(name, Cell::Shared)
    }
}

/// A function as it is written.
#[derive(Debug)]
struct Named {
    place: Arc<Place>,
    function: Shared,
    file: Shared,
}

/// Where rows of events go, with the host and the time of each.
pub trait EventRows {
    /// Adds a row.
    ///
    /// # Errors
    /// The output's.
    fn row(&mut self, host: &str, ts: u64, cells: &[Cell<'_>]) -> io::Result<()>;

    /// Writes what is left, and what is said of the whole.
    ///
    /// # Errors
    /// The output's.
    fn finish(self, said: &[(&'static str, String)]) -> io::Result<()>;
}

impl<W: Write + Send> EventRows for Table<W> {
    fn row(&mut self, _host: &str, _ts: u64, cells: &[Cell<'_>]) -> io::Result<()> {
        Table::row(self, cells)
    }

    fn finish(self, said: &[(&'static str, String)]) -> io::Result<()> {
        self.into_file(said).map(drop)
    }
}

impl<F: Files> EventRows for Partitions<F> {
    fn row(&mut self, host: &str, ts: u64, cells: &[Cell<'_>]) -> io::Result<()> {
        Partitions::row(self, host, ts, cells)
    }

    fn finish(self, said: &[(&'static str, String)]) -> io::Result<()> {
        Partitions::finish(self, said)
    }
}

impl<F: Files> Parquet<Partitions<F>, io::Sink> {
    /// Nothing yet, events to be written to the files of a partitioned table; functions are not written.
    pub fn partitioned(events: Partitions<F>) -> Parquet<Partitions<F>, io::Sink> {
        Parquet::with(events, None, false)
    }
}

impl<W: Write + Send> Parquet<Table<W>, W> {
    /// Nothing yet, events to be written to one output and `functions` to another; with the latencies of functions as they were
    /// measured where `raw_times` says so.
    ///
    /// # Errors
    /// The output's.
    pub fn new(events: W, functions: W, raw_times: bool) -> io::Result<Parquet<Table<W>, W>> {
        let events = Table::of_many(events, "events", &EVENTS)?;
        Ok(Parquet::with(events, Some(functions), raw_times))
    }
}

impl<E, W: Write + Send> Parquet<E, W> {
    fn with(events: E, to: Option<W>, raw_times: bool) -> Parquet<E, W> {
        let mut places = Vec::new();
        places.resize_with(SLOTS, || None);
        Parquet {
            events,
            to,
            session: Session::default(),
            hosts: Hosts::default(),
            host_names: HostNames::default(),
            has_waits: false,
            functions: Functions::new(),
            raw_times,
            overhead: Overhead::default(),
            places,
            words: Vec::new(),
            json: json::Writer::new(),
            line: Vec::new(),
            first: 0,
            last: 0,
        }
    }
}

/// The number of a word that many rows have.
fn number(words: &mut Vec<(&'static str, Shared)>, word: &'static str) -> usize {
    // Nearly always it is the same text in memory, too.
    let same = |known: &str| std::ptr::eq(known, word) || known == word;
    let known = words.iter().position(|(known, _)| same(known));
    known.unwrap_or_else(|| {
        words.push((word, word.into()));
        words.len() - 1
    })
}

/// A word by its number.
fn word<'a>(words: &'a [(&'static str, Shared)], at: usize) -> Cell<'a> {
    words
        .get(at)
        .map_or(Cell::Nothing, |(_, word)| Cell::Shared(word))
}

/// A function and its file.
fn named<'a>(places: &'a mut [Option<Named>], place: &Arc<Place>) -> [Cell<'a>; 2] {
    let address = Arc::as_ptr(place) as usize as u64;
    // The low bits of an address are all alike; the top bits of a product depend on every bit.
    let slot = (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOT_BITS)) as usize;
    let Some(slot) = places.get_mut(slot) else {
        return [Cell::Nothing; 2];
    };
    if !slot
        .as_ref()
        .is_some_and(|known| Arc::ptr_eq(&known.place, place))
    {
        *slot = None;
    }
    let known = slot.get_or_insert_with(|| Named {
        place: Arc::clone(place),
        function: place.name().text.as_str().into(),
        file: place.file.text.as_str().into(),
    });
    [Cell::Shared(&known.function), Cell::Shared(&known.file)]
}

impl<E: EventRows, W: Write + Send> Sink for Parquet<E, W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.session = session.clone();
        self.hosts = Hosts::of(session);
        self.host_names = HostNames::of(session);
        self.json.begin(session);
        self.has_waits = session.events.iter().any(|kind| kind == Wait::KIND);
        self.overhead = Overhead::of(session, self.raw_times);
        self.functions = Functions::new().with_waits(self.has_waits);
        self.functions.take_out(self.overhead);
        self.functions.of_hosts(self.hosts.clone());
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        let event = step.event;
        if self.first == 0 {
            self.first = event.ts;
        }
        self.last = self.last.max(event.ts);
        if self.to.is_some() {
            self.functions.take(step);
        }
        let kind = number(&mut self.words, event.what.kind());
        let how = json::how(&event.what).map(|how| number(&mut self.words, how));
        let mut cells = [Cell::Nothing; EVENTS.len()];
        let fields;
        let mut is_told_whole = true;
        let [
            ts,
            event_word,
            pid,
            tid,
            interpreter,
            context,
            function,
            file,
            line,
            manner,
            rest @ ..,
        ] = &mut cells;
        let [
            duration,
            own,
            idle,
            generation,
            collected,
            reason,
            blocked,
            queued,
            lost,
            values,
            whole,
            host,
        ] = rest;
        *ts = Cell::number(event.ts);
        let number = |identity| Some(self.hosts.number(identity)).filter(|number| *number > 0);
        *pid = Cell::of(number(event.pid), Cell::id);
        *tid = Cell::of(number(event.tid), Cell::id);
        *host = self.host_names.of_process(event.pid);
        *interpreter = Cell::of(event.interpreter, |it| Cell::id(it.get()));
        match &event.what {
            What::Call {
                place,
                line: at,
                frame,
            }
            | What::Return {
                place,
                line: at,
                frame,
                ..
            } => {
                [*function, *file] = named(&mut self.places, place);
                *line = Cell::Small(*at);
                *context = Cell::of(frame.context, |it| Cell::number(it.get()));
                *idle = Cell::of(Some(frame.idle_ns).filter(|ns| *ns > 0), Cell::number);
                if let What::Return { duration_ns, .. } = &event.what {
                    *duration = Cell::of(*duration_ns, Cell::number);
                    *own = Cell::of(step.finished, |left| Cell::number(left.self_ns));
                }
                fields = frame.fields.as_deref().and_then(in_json);
                *values = Cell::of(fields.as_deref(), Cell::Text);
                is_told_whole = frame.text.is_none();
            }
            What::Line { place, line: at } => {
                [*function, *file] = named(&mut self.places, place);
                *line = Cell::Small(*at);
            }
            What::GcStart { generation: of } => *generation = Cell::Large(*of),
            What::GcDone {
                generation: of,
                collected: count,
                pause_ns,
            } => {
                *generation = Cell::of(*of, Cell::Large);
                *collected = Cell::Large(*count);
                *duration = Cell::of(*pause_ns, Cell::number);
            }
            What::Wait(wait) => {
                *reason = Cell::Text(wait.word());
                *blocked = Cell::number(wait.blocked_ns);
                *queued = Cell::of(wait.runqueue_ns, Cell::number);
                *duration = Cell::number(wait.off_ns());
                is_told_whole = false;
            }
            What::Plain(plain) => {
                *duration = Cell::of(plain.duration_ns, Cell::number);
                is_told_whole = false;
            }
            What::Context { context: of, .. } => {
                *context = Cell::number(*of);
                is_told_whole = false;
            }
            What::Lost { count, .. } => {
                *lost = Cell::number(*count);
                is_told_whole = false;
            }
            What::Process { .. } => is_told_whole = false,
        }
        if !is_told_whole {
            self.line.clear();
            self.json.event(event, &mut self.line);
            *whole = std::str::from_utf8(&self.line)
                .map_or(Cell::Nothing, |line| Cell::Text(line.trim_end()));
        }
        *event_word = word(&self.words, kind);
        *manner = Cell::of(how, |at| word(&self.words, at));
        let name = self.host_names.text(event.pid);
        self.events.row(name, event.ts, &cells)
    }

    fn finish(mut self: Box<Self>, end: &End<'_>) -> io::Result<Option<String>> {
        self.functions.take_open(end.pairing, self.last);
        let wall_ns = match end.summary {
            Some(summary) if summary.wall_ns > 0 => summary.wall_ns,
            _ => self.last.saturating_sub(self.first),
        };
        let mut said = about(&self.session, end.summary, self.first, wall_ns);
        let without_row = self.functions.without_row();
        let missing = losses(end, without_row.map_or(0, |row| row.calls));
        said.extend(missing.into_iter().map(|sentence| ("missing", sentence)));
        let Some(to) = self.to else {
            self.events.finish(&said)?;
            return Ok(None);
        };
        let mut functions = Table::new(to, "functions", &FUNCTIONS)?;
        for function in self.functions.rows().iter().filter(|row| !row.never_ran()) {
            let host = self.host_names.of_process(function.pid);
            functions.row(&self::function(
                function,
                host,
                true,
                self.has_waits,
                self.overhead,
            ))?;
        }
        // Those that found no row, of no name.
        if let Some(rest) = without_row {
            functions.row(&self::function(
                rest,
                Cell::Nothing,
                false,
                self.has_waits,
                self.overhead,
            ))?;
        }
        functions.into_file(&said)?;
        self.events.finish(&said)?;
        Ok(without_row.map(|row| {
            format!(
                "there are more functions than the table of functions has rows: {} of further ones are in one row without a name; \
                 the table of events has all of them",
                many(row.calls, "call", "calls")
            )
        }))
    }
}

/// Fields of a call as a JSON object, if it has some.
fn in_json(fields: &Fields) -> Option<String> {
    fields.present().next()?;
    Some(json::fields(fields).to_string())
}

fn function<'a>(
    row: &'a Function,
    host: Cell<'a>,
    is_named: bool,
    has_waits: bool,
    overhead: Overhead,
) -> [Cell<'a>; FUNCTIONS.len()] {
    let name = |text| {
        if is_named {
            Cell::Text(text)
        } else {
            Cell::Nothing
        }
    };
    let net = |ns| match overhead.cost() {
        Some(_) => Cell::number(ns),
        None => Cell::Nothing,
    };
    let waited = |ns| {
        if has_waits {
            Cell::number(ns)
        } else {
            Cell::Nothing
        }
    };
    let durations = row.durations(overhead);
    let quantile = |share| Cell::of(durations.quantile(share), Cell::number);
    [
        if is_named {
            Cell::id(match row.host {
                Some(_) => hosts::number(row.pid),
                None => row.pid,
            })
        } else {
            Cell::Nothing
        },
        name(&row.place.name().text),
        name(&row.place.file.text),
        match row.line {
            line if line > 0 && line < i32::MAX => Cell::Small(line),
            _ => Cell::Nothing,
        },
        Cell::number(row.calls),
        Cell::Flag(row.goes_on),
        Cell::Flag(row.maybe_several),
        Cell::number(row.given_up),
        Cell::number(row.unmatched),
        Cell::number(row.self_ns),
        Cell::number(row.idle_ns),
        Cell::of(row.whole_cumulative_ns(), Cell::number),
        Cell::number(row.idle_cumulative_ns),
        net(row.net_self_ns(overhead)),
        net(row.net_idle_ns(overhead)),
        Cell::of(row.net_cumulative_ns(overhead), net),
        net(row.net_idle_cumulative_ns(overhead)),
        Cell::number(row.timed),
        Cell::of(row.net_average_ns(overhead), Cell::number),
        Cell::of(durations.min(), Cell::number),
        quantile(0.5),
        quantile(0.95),
        quantile(0.99),
        Cell::of(durations.max(), Cell::number),
        waited(row.off.blocked_ns),
        waited(row.off.runqueue_ns),
        waited(row.off.gil_ns),
        host,
    ]
}
