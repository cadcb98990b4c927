//! `pystap top`, and its live table on a terminal: of calls or of samples, and the key between them.
//!
//! One of the two is there at a time. A session of calls has ended, with its probes and agents, before samples are taken, and no samples
//! are taken while another one runs: what tracing costs is not in them. The targets are the same, and a launched command goes on.

use std::fs::File;

use crate::analysis::pairing::PairingRules;
use crate::cli;
use crate::console::{Console, Exit};
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::process::Launched;
use crate::profiler::{Options, Order, Session, View, show};
use crate::script::Filters;
use crate::session::opening::{Decided, MakeSink};
use crate::session::request::{Limits, SessionRequest};
use crate::session::stop::StopSignals;
use crate::top::{Back, Live, Shown, State, screen};

use super::{sample, top};

/// The table, live or as lines.
pub(super) fn top(arguments: &cli::Top, console: &Console) -> Result<u8, Failure> {
    match arguments.sample {
        Some(_) => sample::check(arguments)?,
        None => top::check(arguments)?,
    }
    let shows = !(arguments.dry_run || arguments.compile_only);
    if !shows || arguments.batch || arguments.json {
        return match arguments.sample {
            Some(rate) => sample::lines(arguments, rate, console),
            None => top::lines(arguments, console),
        };
    }
    on_a_screen(arguments)?;
    let stops = StopSignals::listen()?;
    // The screen is the table's; what the command says is shown when the screen is its own again.
    let aside = match arguments.targets.command.is_empty() {
        true => None,
        false => Some(top::aside(console)?),
    };
    let ended = Screen::new(arguments, &stops, aside.as_ref(), console).run();
    if let Some(aside) = aside {
        top::show_end(&aside, console)?;
    }
    ended
}

/// The table of a session on other hosts, which `run` runs with a sink and what ends it.
pub(super) fn elsewhere(
    arguments: &cli::Top,
    title: &str,
    console: &Console,
    run: &dyn Fn(&MakeSink<'_>, &StopSignals) -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    if arguments.batch || arguments.json {
        let stops = StopSignals::listen()?;
        let make = |output: Output, _: PairingRules| -> Box<dyn Sink> {
            Box::new(top::as_lines(arguments, output, false, console))
        };
        return run(&make, &stops);
    }
    on_a_screen(arguments)?;
    let stops = StopSignals::listen()?;
    let interval = arguments.interval.as_millis().try_into();
    let mut state = State::new(
        title.to_owned(),
        arguments.sort,
        interval.unwrap_or(u64::MAX),
    );
    state.idle = arguments.idle;
    let make = |_: Output, _: PairingRules| -> Box<dyn Sink> {
        let tally = top::tally(arguments.by_context)
            .with_callers()
            .with_waits(arguments.waits)
            .with_raw_times(arguments.raw_times);
        let shown = Shown::OnScreen(state.clone());
        Box::new(Live::new(tally, false, shown, console))
    };
    run(&make, &stops)
}

/// Refuses the live table where it cannot be shown, or as something that it is not.
fn on_a_screen(arguments: &cli::Top) -> Result<(), Failure> {
    if let Some(obstacle) = screen::obstacle() {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "{obstacle}, so the live table cannot be shown; use --batch for lines or --json for programs"
            ),
        ));
    }
    if arguments.since_last {
        return Err(Failure::new(
            Exit::Usage,
            "the live table has everything since the beginning, or since r was pressed; add --batch or --json to --since-last",
        ));
    }
    Ok(())
}

/// What is on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Calls, exactly.
    Calls,
    /// Samples.
    Samples,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Calls => Side::Samples,
            Side::Samples => Side::Calls,
        }
    }
}

/// What comes after one of them.
enum Next {
    /// The end, with this exit code.
    End(u8),
    /// The other.
    Other,
}

/// See the head of the module.
struct Screen<'a> {
    arguments: &'a cli::Top,
    /// The session of calls as it was asked for.
    request: SessionRequest,
    /// Samples a second.
    rate: u32,
    /// What is shown first.
    first: Side,
    stops: &'a StopSignals,
    /// Where a launched command writes: the terminal is the table's.
    aside: Option<&'a File>,
    launched: Option<Launched>,
    samples: Option<(Session, View)>,
    /// How the table of calls was shown.
    table: Option<State>,
    /// Only these functions are measured exactly.
    only: Option<Filters>,
    console: &'a Console,
}

impl<'a> Screen<'a> {
    fn new(
        arguments: &'a cli::Top,
        stops: &'a StopSignals,
        aside: Option<&'a File>,
        console: &'a Console,
    ) -> Screen<'a> {
        Screen {
            arguments,
            request: top::request(arguments),
            rate: arguments.sample.unwrap_or(cli::USUAL_RATE),
            first: match arguments.sample {
                Some(_) => Side::Samples,
                None => Side::Calls,
            },
            stops,
            aside,
            launched: None,
            samples: None,
            table: None,
            only: None,
            console,
        }
    }

    /// Shows one and the other, until somebody has seen enough or the targets have ended. The exit code of pystap.
    ///
    /// # Errors
    /// What stands in the way of the first, and of both afterwards.
    fn run(mut self) -> Result<u8, Failure> {
        let mut side = self.first;
        let mut trouble: Option<Failure> = None;
        // Where the one cannot be had, the other goes on.
        let mut came_from_other = false;
        loop {
            let turns_back = came_from_other && trouble.is_none();
            let shown = match side {
                Side::Calls => self.calls(trouble.take()),
                Side::Samples => self.samples(trouble.take()),
            };
            match shown {
                Ok(Next::End(code)) => return Ok(code),
                Ok(Next::Other) => {}
                Err(failure) if turns_back => trouble = Some(failure),
                Err(failure) => return Err(failure),
            }
            came_from_other = true;
            side = side.other();
        }
    }

    /// A table of calls, until its session ends. `trouble` is what stood in the way of samples.
    fn calls(&mut self, trouble: Option<Failure>) -> Result<Next, Failure> {
        let (arguments, console) = (self.arguments, self.console);
        let mut request = self.request.clone();
        if let Some(only) = &self.only {
            request.filters = only.clone();
        }
        if self.samples.is_some() {
            // The time that it all may take runs already.
            request.limits = Limits::default();
            request.output = None;
        }
        if let Some(launched) = &self.launched {
            request.targets.command.clear();
            request.targets.pids = vec![launched.pid()];
        }
        let mut state = self.table.take().unwrap_or_else(|| self.new_table());
        if let Some(trouble) = trouble {
            state.say(format!("no samples: {}", trouble.message));
        }
        let back = Back::by(self.stops.stopper());
        let decided = Decided::new(&request)?;
        let adds_up = decided.adds_up();
        let make = |_: Output, rules: PairingRules| -> Box<dyn Sink> {
            let tally = top::tally(arguments.by_context)
                .with_callers()
                .with_waits(arguments.waits)
                .with_raw_times(arguments.raw_times);
            let in_kernel = adds_up && !rules.call_on_creation;
            let shown = Shown::OnScreen(state.clone());
            let live = Live::new(tally, in_kernel, shown, console);
            Box::new(live.with_way_back(back.clone()))
        };
        let ended = decided.run_until(&make, self.aside, self.stops, console)?;
        if ended.launched.is_some() {
            self.launched = ended.launched;
        }
        Ok(match back.left() {
            Some(table) => {
                // What was looked at is chosen anew each time.
                self.table = self.only.is_none().then_some(table);
                Next::Other
            }
            None => Next::End(ended.code),
        })
    }

    fn new_table(&self) -> State {
        let arguments = self.arguments;
        let interval = arguments.interval.as_millis();
        let interval = interval.try_into().unwrap_or(u64::MAX);
        let title = top::title(&arguments.targets, arguments.of.as_ref());
        let title = match &self.only {
            Some(only) => format!("exact: {} of {title}", top::functions(only)),
            None => title,
        };
        let mut state = State::new(title, arguments.sort, interval);
        // What was on the screen is shown, idle or not.
        state.idle = arguments.idle || self.only.is_some();
        state
    }

    /// A table of samples. `trouble` is what stood in the way of exact numbers.
    fn samples(&mut self, trouble: Option<Failure>) -> Result<Next, Failure> {
        let (arguments, console) = (self.arguments, self.console);
        let (session, view) = match &mut self.samples {
            Some(samples) => samples,
            samples @ None => {
                let found = match &self.launched {
                    Some(launched) => sample::of_launched(&arguments.targets, launched),
                    None => sample::find(
                        &arguments.targets,
                        arguments.of.as_deref(),
                        self.aside,
                        console,
                    )?,
                };
                let options = Options {
                    rate: self.rate,
                    by_context: arguments.by_context,
                };
                let (session, launched) = sample::begin(found, options, sample::COMMAND, console)?;
                if launched.is_some() {
                    self.launched = launched;
                }
                let order = sample::order(arguments.sort).unwrap_or(Order::Own);
                let view = View::new(sample::by(arguments), arguments.idle, order);
                if self.first == Side::Samples {
                    console.note("sampling; Ctrl-C ends it");
                    if let Some(duration) = arguments.duration {
                        self.stops.after(duration)?;
                    }
                }
                samples.insert((session, view))
            }
        };
        session.resume();
        let cover = console.cover();
        if let Some(failure) = trouble {
            console.warning(format_args!("no exact numbers: {}", failure.message));
        }
        let requests = self.stops.requests();
        let looked_at = show(session, view, arguments.interval, &cover, requests)?;
        drop(cover);
        sample::say(session, sample::COMMAND, console);
        let Some(functions) = looked_at else {
            return Ok(Next::End(Exit::Done.into()));
        };
        session.pause();
        if self.first == Side::Samples {
            self.only = Some(sample::named(&functions));
        }
        Ok(Next::Other)
    }
}
