//! A session while it runs: messages of the engine, signals, time and the end of targets, brought together.
//!
//! It ends when no watched process and no reported child is left for 0.6 seconds: the record of a fork may still be on
//! its way here.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{never, select, tick};

use super::agents::SessionAgents;
use super::lookout::Lookout;
use super::missed::{Awaited, Missed, Seen};
use super::pipe::{Minimum, Pipe, PipeSettings};
use super::plan::Plan;
use super::search::Search;
use super::stop::{Stop, StopSignals};
use super::strangers::Strangers;
use super::thread_names::Naming;
use crate::analysis::found::FieldsFound;
use crate::analysis::overhead::Cost;
use crate::analysis::pairing::Pairing;
use crate::analysis::totals::About;
use crate::clock::now;
use crate::console::Console;
use crate::engine::{Message, Running, Weight};
use crate::event::allowance::ALL_NAMES;
use crate::event::{Event, LossStage, ProcessChange, Summary, Text, What};
use crate::export::{End, Sink, is_closed};
use crate::failure::Failure;
use crate::process::{Family, Launched, Newcomers, Process, Selection, TargetError, Watch};
use crate::python::subinterpreters::Subinterpreters;
use crate::python::undecodable::Sign;
use crate::python::{FileId, greenlets};
use crate::script::Filters;

/// How often targets, time and new processes are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Children that are remembered before it is looked which of them are still there.
const MOST_CHILDREN: usize = 1 << 16;
/// After the last target has ended, how long a fork that it reported may take to arrive here.
const LINGER: Duration = Duration::from_millis(600);

/// Everything a session needs while it runs.
pub(crate) struct Session<'a> {
    pub(crate) engine: Box<dyn Running>,
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) pairing: Pairing,
    pub(crate) filters: Filters,
    pub(crate) watch: Watch,
    /// What the watched processes are called.
    pub(crate) programs: HashMap<u32, String>,
    pub(crate) launched: Option<Launched>,
    /// To search for processes that start later; `None` when none can be targets.
    pub(crate) newcomers: Option<Selection>,
    /// Interpreters whose armed marks fail on paths that are not UTF-8: who joins is looked at first.
    pub(crate) fails_on_paths: HashSet<FileId>,
    /// The interpreter files that are probed.
    pub(crate) probed: HashSet<FileId>,
    /// The targets and what descends from them, where somebody else than these may run a Python that is to be noticed.
    pub(crate) family: Option<Family>,
    /// Targets that are known not to be traced from the beginning.
    pub(crate) left_out: Vec<u32>,
    /// The agents, where there are any.
    pub(crate) agents: Option<SessionAgents>,
    pub(crate) max_events: Option<u64>,
    /// A held command whose release the engine tells as its becoming another program, which it is not.
    pub(crate) released: Option<u32>,
    /// The functions that somebody named, where any events are to be of functions.
    pub(super) awaited: Option<Awaited>,
    /// Only calls of some length.
    pub(crate) minimum: Option<Minimum>,
    /// The fields that were asked for.
    pub(crate) fields: FieldsFound,
    /// Whether it does, in the kernel, where greenlets are not known.
    pub(crate) measured: bool,
    /// Whether its targets are on other hosts, where nothing can be looked at from here: it ends with its engine.
    pub(crate) elsewhere: bool,
    pub(crate) console: &'a Console,
}

/// What came of a session.
pub(crate) struct Outcome {
    pub(crate) summary: Summary,
    pub(crate) stop: Stop,
    /// Whether probes were ever live.
    pub(crate) live: bool,
    /// Events that were seen, and that the output did not take.
    pub(crate) unwritten: u64,
    /// Whether writing the output failed, other than by a closed pipe.
    pub(crate) output_error: Option<io::Error>,
    /// The command that was launched.
    pub(crate) launched: Option<Launched>,
}

/// State that changes while a session runs.
struct Run<'a> {
    session: Session<'a>,
    pipe: Pipe,
    unordered: u64,
    live: bool,
    stop: Option<Stop>,
    /// The engine has been asked to stop.
    stopping: bool,
    /// Whether an error was said that tells why the engine ended.
    explained: bool,
    /// Children that were reported to have begun and not to have ended.
    children: BTreeSet<u32>,
    last_alive: Instant,
    search: Option<Search>,
    greenlets: Lookout,
    /// Processes in which agents do not see all interpreters.
    subinterpreters: Lookout,
    interpreters: Subinterpreters,
    idle_flush: bool,
    /// Processes that run interpreters which are not probed.
    strangers: Strangers,
    /// What nothing is seen of, since the probes are live.
    missed: Option<Missed>,
    /// Names of threads, where no agent tells them.
    thread_names: Option<Naming>,
    /// When the last event happened.
    last_event: u64,
    /// What events have cost in the program so far, where that is known.
    cost: Option<Cost>,
}

impl<'a> Session<'a> {
    /// One without targets on this host, which ends with its engine.
    ///
    /// # Errors
    /// When the system cannot watch processes.
    pub(super) fn of_elsewhere(
        engine: Box<dyn Running>,
        sink: Box<dyn Sink>,
        pairing: Pairing,
        console: &'a Console,
    ) -> Result<Session<'a>, TargetError> {
        Ok(Session {
            engine,
            sink,
            pairing,
            filters: Filters::default(),
            watch: Watch::new()?,
            programs: HashMap::new(),
            launched: None,
            newcomers: None,
            fails_on_paths: HashSet::new(),
            probed: HashSet::new(),
            family: None,
            left_out: Vec::new(),
            agents: None,
            max_events: None,
            released: None,
            awaited: None,
            minimum: None,
            fields: FieldsFound::default(),
            measured: false,
            elsewhere: true,
            console,
        })
    }
}

impl Session<'_> {
    /// How many of the targets that a plan names are traced now.
    pub(crate) fn traced(&self, plan: &Plan) -> usize {
        let traced = |pid: u32| {
            let probed = plan.images.iter().any(|image| image.pids.contains(&pid));
            let agents = self.agents.as_ref();
            self.watch.watches(pid) && (probed || agents.is_some_and(|it| it.has_joined(pid)))
        };
        let pids = plan.pids().into_iter();
        pids.filter(|pid| traced(*pid)).count()
    }

    /// Runs until something ends it. `live` is called once, when the probes are; it answers how writing went.
    pub(crate) fn run(
        mut self,
        stops: &StopSignals,
        live: impl FnOnce(&mut Self) -> Result<io::Result<()>, Failure>,
    ) -> Result<Outcome, Failure> {
        let started = Instant::now();
        let begun = Instant::now();
        let settings = PipeSettings {
            pairing: std::mem::take(&mut self.pairing),
            filters: self.filters.clone(),
            max_events: self.max_events,
            released: self.released,
            minimum: self.minimum,
            fields: std::mem::take(&mut self.fields),
        };
        let mut run = Run {
            session: self,
            pipe: Pipe::new(settings),
            unordered: 0,
            live: false,
            stop: None,
            stopping: false,
            explained: false,
            children: BTreeSet::new(),
            last_alive: begun,
            search: None,
            greenlets: Lookout::default(),
            subinterpreters: Lookout::default(),
            interpreters: Subinterpreters::default(),
            idle_flush: false,
            strangers: Strangers::none(),
            missed: None,
            thread_names: None,
            last_event: 0,
            cost: None,
        };
        let mut live = Some(live);
        let ticks = tick(TICK);
        let messages = run.session.engine.messages().clone();
        let none = never();
        let clean = loop {
            // After a stop only the engine's last words count.
            let requests = if run.stop.is_none() || run.stopping {
                stops.requests()
            } else {
                &none
            };
            select! {
                recv(messages) -> message => match message {
                    Ok(Message::Ended { clean }) => break clean,
                    Ok(message) => {
                        if is_sign_of_life(&message) && let Some(live) = live.take() {
                            let written = live(&mut run.session)?;
                            run.begin(written);
                        }
                        run.message(message);
                        // Nothing more is there at the moment: what is there shall be seen.
                        if messages.is_empty() {
                            run.flush();
                        }
                    }
                    Err(_) => break false,
                },
                recv(requests) -> stop => if let Ok(stop) = stop {
                    if run.stopping {
                        run.session.engine.stop();
                    }
                    run.stop.get_or_insert(stop);
                },
                recv(ticks) -> _ => run.tick()?,
            }
            if run.stop.is_some() && !run.stopping {
                run.stopping = true;
                run.stop_agents();
                run.session.engine.stop();
            }
        };
        Ok(run.finish(started, clean))
    }
}

/// Whether a message says that the probes are live. What the sink is told says so as well as the word itself, and must not come
/// before the session.
fn is_sign_of_life(message: &Message) -> bool {
    match message {
        Message::Live
        | Message::Events(_)
        | Message::Rows(_)
        | Message::Waits(_)
        | Message::Greenlets(_)
        | Message::Rules(..) => true,
        Message::EventCost(_)
        | Message::Lost(..)
        | Message::LostInKernel(_)
        | Message::Late(_)
        | Message::Unparsed(_)
        | Message::NotArmed(_)
        | Message::Failed(_)
        | Message::Skipped(_)
        | Message::Said(..)
        | Message::Ended { .. } => false,
    }
}

impl Run<'_> {
    /// The probes are live, and the session was written so.
    fn begin(&mut self, written: io::Result<()>) {
        self.live = true;
        self.strangers.begin(&self.session.left_out);
        self.missed = self.session.awaited.take().map(Missed::of);
        self.written(written);
        self.last_alive = Instant::now();
        self.look_for_greenlets();
        self.look_for_subinterpreters();
        if !self.session.elsewhere && self.session.agents.is_none() {
            // Without a thread to be had, threads are told by number.
            self.thread_names = Naming::begin().ok();
        }
    }

    /// Has processes with greenlets paired as such. Where the agent traces one, it tells which of them runs.
    fn look_for_greenlets(&mut self) {
        let programs = self.session.programs.keys().copied();
        let launched = self.session.launched.as_ref().map(Launched::pid);
        let others = self.children.iter().copied().chain(launched);
        let agents = self.session.agents.as_ref();
        let by_probes = |pid: &u32| agents.is_none_or(|agents| !agents.traces(*pid));
        let all = programs.chain(others).filter(by_probes).collect();
        for pid in self.greenlets.look(&all, greenlets::are_in) {
            self.pair_greenlets_of(pid);
        }
    }

    /// Says in which processes an agent does not see every interpreter.
    fn look_for_subinterpreters(&mut self) {
        let Some(agents) = &mut self.session.agents else {
            return;
        };
        let interpreters = self.interpreters.clone();
        let all = agents.traced_in_part().collect();
        for pid in (self.subinterpreters).look(&all, move |pid| interpreters.are_in(pid)) {
            agents.misses_interpreters(pid, self.session.console);
        }
    }

    /// The engine has seen a process map greenlet's library, and no event of its greenlets has come yet.
    fn maps_greenlet(&mut self, pid: u32) {
        // An agent that tells which of them runs may have begun since the last look.
        let told = self.session.agents.as_mut().is_some_and(|agents| {
            agents.look(self.session.console);
            agents.traces(pid)
        });
        if !told && self.greenlets.take(pid) {
            self.pair_greenlets_of(pid);
        }
    }

    fn pair_greenlets_of(&mut self, pid: u32) {
        let is_first = self.greenlets.is_first();
        if is_first && self.session.measured {
            self.session.console.warning(format_args!(
                "process {pid} runs greenlets, and the interpreter's own probes do not tell when they switch: durations of --min-duration are measured in the kernel, which takes the last call of a function for the one that returns, so they may be wrong; use --agent, or --engine uprobes, which leaves out what is in doubt"
            ));
        } else if is_first {
            self.session.console.note(format_args!(
                "process {pid} runs greenlets, and the interpreter's own probes do not tell when they switch: durations that are in doubt are left out; --agent tells all of them"
            ));
        }
        self.pipe.has_greenlets(pid, self.session.sink.as_mut());
        self.heed();
    }

    /// Ends the session where the pipe takes nothing more.
    fn heed(&mut self) {
        if let Some(error) = self.pipe.output_error() {
            let stop = if is_closed(error) {
                Stop::OutputClosed
            } else {
                Stop::OutputFailed
            };
            self.stop.get_or_insert(stop);
        }
        if self.pipe.is_full() {
            self.stop.get_or_insert(Stop::MaxEvents);
        }
    }

    fn written(&mut self, result: io::Result<()>) {
        self.pipe.written(result);
        self.heed();
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Events(mut batch) => {
                for event in batch.events() {
                    if !self.session.elsewhere {
                        self.note_child(event);
                    }
                    if let Some(missed) = &mut self.missed {
                        missed.see(event);
                    }
                    if let Some(names) = &mut self.thread_names
                        && matches!(event.what, What::Call { .. } | What::Return { .. })
                    {
                        names.see(event.pid, event.tid);
                    }
                    self.last_event = event.ts;
                    self.pipe.event(event, self.session.sink.as_mut());
                }
                self.heed();
                self.idle_flush = true;
            }
            // Nobody here asks for them.
            Message::Waits(_) => {}
            Message::Rows(mut rows) => {
                let filters = &self.session.filters;
                rows.rows.retain(|row| match &row.about {
                    About::Function(place) => filters.accept(place),
                    _ => true,
                });
                if let Some(missed) = &mut self.missed {
                    missed.see_sums(rows.rows.iter().filter_map(|row| match &row.about {
                        About::Function(place) => Some(&**place),
                        _ => None,
                    }));
                }
                // No event comes that would bring word of what was lost.
                self.pipe.report_losses(now(), self.session.sink.as_mut());
                self.session.sink.rows(*rows);
            }
            Message::Greenlets(pid) => self.maps_greenlet(pid),
            Message::Rules(pid, rules) => {
                self.pipe.rules(pid, rules, self.session.sink.as_mut());
                self.heed();
            }
            Message::Lost(stage, count) => self.pipe.losses.add(stage, count),
            Message::LostInKernel(total) => self.pipe.losses.raise(LossStage::Kernel, total),
            Message::Late(count) => self.unordered += count,
            Message::Unparsed(count) => self.pipe.losses.add(LossStage::Decoder, count),
            Message::NotArmed(pid) => self.session.console.warning(format_args!(
                "process {pid} has not switched its probes on yet, so its events may begin late; it does so when it next runs"
            )),
            Message::Failed(reason) => {
                self.session.console.error(reason);
                self.explained = true;
                self.stop.get_or_insert(Stop::EngineFailed);
            }
            Message::Skipped(total) => self.pipe.losses.raise(LossStage::Probe, total),
            Message::EventCost(cost) => {
                let cost = Cost::new(cost.per_event, cost.within_call);
                self.cost = Some(cost);
                self.session.sink.event_cost(cost);
            }
            Message::Said(weight, text) => self.said(weight, &text),
            Message::Live | Message::Ended { .. } => {}
        }
    }

    /// What the engine's tool said.
    fn said(&mut self, weight: Weight, text: &str) {
        let console = self.session.console;
        match weight {
            Weight::Error => {
                console.error(text);
                self.explained = true;
            }
            Weight::Warning => console.warning(text),
            Weight::Unknown if !self.stopping => console.warning(text),
            Weight::Unknown | Weight::Detail => console.detail(text),
        }
    }

    /// Tells the names of threads that were read, as an agent tells them.
    fn name_threads(&mut self) {
        for named in self.thread_names.iter().flat_map(Naming::take) {
            let mut event = Event {
                // Not before what was told already.
                ts: self.last_event,
                pid: named.pid,
                tid: named.tid,
                interpreter: None,
                what: What::Context {
                    context: 0,
                    name: Arc::new(Text::of_bytes(named.name.as_bytes(), false)),
                },
            };
            self.pipe.event(&mut event, self.session.sink.as_mut());
            self.idle_flush = true;
        }
        self.heed();
    }

    /// Remembers children that begin, until they end.
    fn note_child(&mut self, event: &Event) {
        let What::Process { change, .. } = event.what else {
            return;
        };
        match change {
            ProcessChange::Fork => {
                self.session.engine.hears_of(event.pid, true);
                self.children.insert(event.pid);
                if self.children.len() > MOST_CHILDREN {
                    self.children.retain(|pid| crate::process::runs(*pid));
                }
            }
            ProcessChange::Exit => {
                self.children.remove(&event.pid);
            }
            ProcessChange::Exec => self.session.engine.hears_of(event.pid, false),
        }
    }

    /// Switches the agents off: what they have told until then is on its way to the engine.
    fn stop_agents(&mut self) {
        if let Some(agents) = &mut self.session.agents {
            for missing in agents.stop(self.session.console) {
                self.pipe.losses.add(LossStage::Probe, missing);
            }
        }
    }

    /// Writes out what the sink has collected.
    fn flush(&mut self) {
        if self.idle_flush && self.pipe.output_error().is_none() {
            self.idle_flush = false;
            let flushed = self.session.sink.flush();
            self.written(flushed);
        }
    }

    fn tick(&mut self) -> Result<(), Failure> {
        self.flush();
        if !self.live || self.stop.is_some() {
            return Ok(());
        }
        let ticked = self.session.sink.tick(now(), self.pipe.pairing());
        self.written(ticked);
        if let Some(wish) = self.session.sink.wish() {
            self.session.engine.wish(wish);
        }
        if self.session.elsewhere {
            return Ok(());
        }
        self.look_around()?;
        self.name_threads();
        self.look_for_missed();
        if self.greenlets.is_due() {
            self.look_for_greenlets();
            self.look_for_subinterpreters();
        }
        let ended = self.session.watch.wait(Some(Duration::ZERO))?;
        if let Some(launched) = &mut self.session.launched {
            // Reaped, so that it does not stay a zombie.
            launched.try_wait()?;
        }
        let newcomers = self.session.newcomers.as_ref();
        let waits_for_more = newcomers.is_some_and(Selection::is_open);
        // Whether any child is left matters when nobody else is.
        while !waits_for_more
            && self.session.watch.remaining() == 0
            && let Some(child) = self.children.first().copied()
            && !crate::process::runs(child)
        {
            self.children.remove(&child);
        }
        // Where the session ends with it, the last line says so.
        if waits_for_more || self.session.watch.remaining() > 0 {
            for pid in ended {
                if self.strangers.forget(pid) {
                    continue;
                }
                let program = self.session.programs.remove(&pid);
                let program = program.as_deref().unwrap_or("process");
                self.session
                    .console
                    .note(format_args!("{program} {pid} left"));
            }
        }
        if waits_for_more || self.session.watch.remaining() > 0 || !self.children.is_empty() {
            self.last_alive = Instant::now();
        } else if self.last_alive.elapsed() >= LINGER {
            self.stop.get_or_insert(Stop::TargetsEnded);
        }
        Ok(())
    }

    /// The targets, and whether names of each come with their classes.
    fn seen(&self) -> Vec<Seen> {
        let launched = self.session.launched.as_ref().map(Launched::pid);
        let programs = self.session.programs.keys().copied();
        let others = self.children.iter().copied();
        let agents = self.session.agents.as_ref();
        let all: Vec<u32> = launched.into_iter().chain(programs).chain(others).collect();
        all.into_iter()
            .map(|pid| (pid, agents.is_some_and(|agents| agents.traces(pid))))
            .collect()
    }

    /// Says what nothing is seen of, when it is time.
    fn look_for_missed(&mut self) {
        if let Some(mut missed) = self.missed.take() {
            missed.tick(|| self.seen(), self.session.console);
            self.missed = Some(missed);
        }
    }

    /// Takes what the search has found: processes that are targets, and children of the launched command.
    fn look_around(&mut self) -> Result<(), Failure> {
        let newcomers = &self.session.newcomers;
        let family = &self.session.family;
        if self.search.is_none() && (newcomers.is_some() || family.is_some()) {
            // Where there is no thread now, there may be one a second later.
            self.search = Search::begin(newcomers.clone(), family.clone()).ok();
        }
        let agents = self.session.agents.as_ref();
        if agents.is_some_and(SessionAgents::have_news)
            && let Some(search) = &self.search
        {
            search.hurry();
        }
        let found = self.search.as_ref().and_then(Search::take);
        let strangers = found.iter().flat_map(|found| &found.strangers);
        match &mut self.session.agents {
            Some(agents) => {
                strangers.for_each(|process| agents.meet(process));
                agents.look(self.session.console);
            }
            None => {
                self.strangers.look();
                for process in strangers {
                    self.strangers.add(process, self.session.console);
                }
            }
        }
        match found.and_then(|found| found.newcomers) {
            Some(newcomers) => self.welcome(newcomers),
            None => Ok(()),
        }
    }

    /// Traces processes that are targets and have begun since.
    fn welcome(&mut self, newcomers: Newcomers) -> Result<(), Failure> {
        for note in newcomers.notes {
            self.session.console.warning(note);
        }
        for process in newcomers.processes {
            let new = !self.session.watch.watches(process.pid)
                && self.session.watch.add(process.pid, process.start_time)?;
            if !new {
                self.look_again(&process);
                continue;
            }
            let (pid, program) = (process.pid, process.program());
            let mut fails = process
                .interpreters
                .iter()
                .filter(|it| self.session.fails_on_paths.contains(&it.file));
            if let Some(sign) = fails.find_map(|it| Sign::of_process(pid, it.version.as_ref())) {
                self.session.console.warning(format_args!(
                    "{program} {pid} is not traced: it has a path that is not UTF-8: {sign}, and its interpreter's own probes could end it; trace it with --agent, which does no harm"
                ));
                continue;
            }
            // An agent does without probes of the interpreter's own.
            if self.session.agents.is_none() && !process.runs(&self.session.probed) {
                self.strangers.add(&process, self.session.console);
                continue;
            }
            match self.session.engine.add_target(pid) {
                Ok(()) => {
                    self.session
                        .console
                        .note(format_args!("{program} {pid} joined"));
                    if let Some(agents) = &mut self.session.agents {
                        agents.newcomer(&process, self.session.console);
                    }
                }
                Err(error) => self
                    .session
                    .console
                    .warning(format_args!("{program} {pid} is not traced: {error}")),
            }
            self.session.programs.insert(pid, program);
        }
        Ok(())
    }

    /// A process that has joined may have become another program since.
    fn look_again(&mut self, process: &Process) {
        match &mut self.session.agents {
            Some(agents) => agents.meet_again(process),
            None if process.runs(&self.session.probed) => {}
            None if self.strangers.knows(process.pid) => {}
            None => self.strangers.add(process, self.session.console),
        }
    }

    fn finish(mut self, started: Instant, clean: bool) -> Outcome {
        if self.live {
            // The engine may have ended by itself.
            self.stop_agents();
        }
        let console = self.session.console;
        let agents = self.session.agents.as_ref().filter(|_| self.live);
        let untraced = agents.map_or(0, |agents| agents.untraced(console).total())
            + self.session.left_out.len() as u64
            + self.strangers.conclude(console);
        let untraced_time =
            agents.map_or(Duration::ZERO, SessionAgents::untraced_time) + self.strangers.time();
        if let Some(missed) = self.missed.take()
            && self.pipe.output_error().is_none()
            && self.stop.is_none_or(|stop| stop != Stop::EngineFailed)
        {
            missed.conclude(|| self.seen(), console);
        }
        if self.live && self.pipe.output_error().is_none() {
            self.name_threads();
            self.pipe.report_losses(now(), self.session.sink.as_mut());
            self.heed();
            // What is written is known before it is summed up.
            self.idle_flush = true;
            self.flush();
        }
        let unwritten = self.session.sink.unwritten();
        let stop = match self.stop {
            Some(stop) => stop,
            // Nobody asked for it.
            None if clean => Stop::TargetsEnded,
            None => Stop::EngineFailed,
        };
        if stop == Stop::EngineFailed && !self.explained {
            let sentence = self.session.engine.silent_end();
            self.session.console.error(sentence);
        }
        let mut summary = Summary {
            ts: now(),
            delivered: self.pipe.delivered().saturating_sub(unwritten),
            unordered: self.unordered,
            untraced_processes: untraced,
            untraced_ns: u64::try_from(untraced_time.as_nanos()).unwrap_or(u64::MAX),
            nameless: self.pipe.nameless(),
            untimed: self.pipe.untimed(),
            idle_calls: self.pipe.idle_calls().0,
            idle_calls_ns: self.pipe.idle_calls().1,
            unpaired: self.pipe.pairing().unpaired().total(),
            wall_ns: u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            ended: stop.word().to_owned(),
            command_status: self
                .session
                .launched
                .as_mut()
                .and_then(|launched| launched.try_wait().ok().flatten())
                .map(|status| i32::from(status.exit_code())),
            overhead_ns_per_event: self.cost.map(Cost::per_event),
            overhead_ns_within_call: self.cost.map(Cost::within_call),
            ..Summary::default()
        };
        self.pipe.losses.fill(&mut summary);
        if self.pipe.nameless() > 0 {
            self.session.console.warning(format_args!(
                "{} events are told without a name, because more names were in use at once than are kept ({} MB); trace fewer functions",
                self.pipe.nameless(),
                ALL_NAMES >> 20
            ));
        }
        if self.live {
            for sentence in self.pipe.fields().sentences() {
                self.session.console.warning(sentence);
            }
            let ungrouped = self.pipe.pairing().without_group();
            if ungrouped > 0 {
                self.session.console.warning(format_args!(
                    "{ungrouped} calls are in the rows of (others), because their field had too many different values (docs/limits.md)"
                ));
            }
            let left_out = self.pipe.pairing().without_fields();
            if left_out > 0 {
                self.session.console.warning(format_args!(
                    "{left_out} returns have no fields, because those of all calls that were open at once took more room than is kept for them (docs/limits.md)"
                ));
            }
        }
        let (pairing, too_late, mut output_error) = self.pipe.end();
        if self.live && output_error.is_none() {
            let end = End::new(&summary, &pairing);
            match self.session.sink.finish(&end) {
                Ok(Some(said)) => self.session.console.warning(said),
                Ok(None) => {}
                Err(error) => output_error = Some(error),
            }
        }
        Outcome {
            summary,
            stop,
            live: self.live,
            unwritten: unwritten + too_late,
            output_error: output_error.filter(|error| !is_closed(error)),
            launched: self.session.launched,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use crossbeam_channel::{Receiver, unbounded};

    use super::*;
    use crate::analysis::pairing::PairingRules;
    use crate::console::Verbosity;
    use crate::engine::AddTargetError;
    use crate::event::Session as FirstLine;
    use crate::recording::{Reader, Writer};

    /// An engine that has said all that it has to say.
    struct Told(Receiver<Message>);

    impl Running for Told {
        fn messages(&self) -> &Receiver<Message> {
            &self.0
        }

        fn add_target(&mut self, _pid: u32) -> Result<(), AddTargetError> {
            Err(AddTargetError::new(io::Error::from(
                io::ErrorKind::Unsupported,
            )))
        }

        fn stop(&mut self) {}
    }

    #[test]
    fn a_recording_begins_with_its_session_however_early_rules_are_told() {
        let rules = PairingRules {
            call_on_creation: true,
            greenlets: false,
        };
        let (sender, messages) = unbounded();
        for message in [
            Message::Rules(7, rules),
            Message::Live,
            Message::Ended { clean: true },
        ] {
            sender.send(message).expect("room");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.rec");
        let console = Console::to_writer(Box::new(io::sink()), false, Verbosity::Quiet);
        let file = File::create(&path).expect("a file");
        let session = Session::of_elsewhere(
            Box::new(Told(messages)),
            Box::new(Writer::new(file, PairingRules::default())),
            Pairing::with_rules(PairingRules::default()),
            &console,
        );
        let session = session.expect("a session");
        let outcome = session
            .run(&StopSignals::none(), |session| {
                Ok(session.sink.session(&FirstLine::default()))
            })
            .expect("it runs");
        assert!(outcome.live);
        let mut reader = Reader::new(File::open(&path).expect("the file")).expect("a recording");
        assert!(reader.event().expect("no damage").is_none());
        assert_eq!(reader.process_rules(), [(7, rules)]);
    }
}
