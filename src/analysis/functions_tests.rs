//! Sums against a model that knows every stack: own time, inclusive time with recursion once, and what stays open.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use proptest::prelude::*;

use super::*;
use crate::analysis::pairing::PairingRules;
use crate::analysis::testing::{call, event, in_context, in_file, named, returned, told};
use crate::event::Event;
use crate::event::{LossStage, Manner, ProcessChange, Session};

const UP_TO_3_11: PairingRules = PairingRules {
    call_on_creation: false,
    greenlets: false,
};
const FROM_3_15: PairingRules = PairingRules {
    call_on_creation: true,
    greenlets: false,
};
const GREENLETS: PairingRules = PairingRules {
    call_on_creation: false,
    greenlets: true,
};

fn fed(rules: PairingRules, events: impl IntoIterator<Item = Event>) -> (Functions, Pairing) {
    let mut pairing = Pairing::with_rules(rules);
    let mut functions = Functions::new();
    for mut event in events {
        if let Some(step) = pairing.follow(&mut event) {
            functions.take(&step);
        }
    }
    (functions, pairing)
}

/// `E name` and `R name` words with a number before them: the time.
fn script(words: &str) -> Vec<Event> {
    let words: Vec<&str> = words.split_whitespace().collect();
    words
        .chunks(3)
        .map(|word| match word {
            [ts, "E", function] => call(ts.parse().expect("a time"), function),
            // A generator goes on where returns leave it.
            [ts, "G", function] => {
                let mut event = call(ts.parse().expect("a time"), function);
                if let What::Call { line, .. } = &mut event.what {
                    *line = 2;
                }
                event
            }
            [ts, "R", function] => returned(ts.parse().expect("a time"), function),
            _ => panic!("{word:?}"),
        })
        .collect()
}

/// Calls, own time and inclusive time by name.
fn times(functions: &Functions) -> BTreeMap<&str, (u64, u64, u64)> {
    functions
        .rows()
        .iter()
        .map(|row| {
            let times = (row.calls, row.self_ns, row.cumulative_ns);
            (row.place.function.text.as_str(), times)
        })
        .collect()
}

#[test]
fn own_and_inclusive_times_of_nested_calls() {
    let (functions, _) = fed(
        UP_TO_3_11,
        script("0 E a  10 E b  15 R b  20 E b  27 R b  100 R a"),
    );
    let times = times(&functions);
    assert_eq!(times["a"], (1, 88, 100));
    assert_eq!(times["b"], (2, 12, 12));
    let b = &functions.rows()[1];
    assert_eq!((b.average_ns(), b.durations.max()), (Some(6), Some(7)));
    assert_eq!(functions.total_self_ns(), 100);
}

#[test]
fn recursion_counts_inclusive_time_once_and_every_call_in_the_average() {
    let (functions, _) = fed(
        UP_TO_3_11,
        script("0 E f  10 E g  20 E f  30 E f  40 R f  50 R f  60 R g  70 R f"),
    );
    assert_eq!(times(&functions)["f"], (3, 50, 70));
    assert_eq!(times(&functions)["g"], (1, 20, 50));
    let f = &functions.rows()[0];
    assert_eq!((f.timed, f.timed_ns), (3, 10 + 30 + 70));
}

#[test]
fn a_generator_s_creation_takes_none_of_its_creator_s_time() {
    let (functions, _) = fed(
        FROM_3_15,
        script("0 E f  1 E gen  10 E gen  15 R gen  20 E g  30 R g  40 G gen  45 R gen  90 R f"),
    );
    let times = times(&functions);
    assert_eq!(times["f"], (1, 90 - 5 - 10 - 5, 90));
    assert_eq!(times["gen"].1, 10);
    assert_eq!(times["gen"].2, 10, "each resumption counts");
    assert_eq!(times["g"], (1, 10, 10));
}

#[test]
fn a_live_table_takes_back_the_calls_that_turn_out_to_be_creations() {
    let words = "0 E a  10 E gen  20 E gen  30 R gen  40 G gen  50 R gen  60 R a";
    let calls = |words| {
        let (functions, _) = fed(FROM_3_15, script(words));
        times(&functions)["gen"].0
    };
    // Until its creator returns nothing tells the creation from a call.
    assert_eq!(calls(words.trim_end_matches("60 R a")), 3);
    assert_eq!(calls(words), 2);
}

#[test]
fn a_function_of_which_only_creations_were_seen_never_ran() {
    let (functions, _) = fed(FROM_3_15, script("0 E a  10 E gen  60 R a"));
    let never: Vec<_> = functions.rows().iter().map(Function::never_ran).collect();
    assert_eq!(never, [false, true]);
}

#[test]
fn a_second_reading_knows_creations_from_the_start() {
    // The creator never returns while its generator runs, so that only the end tells what the first call was.
    let words =
        "0 E main  1 E gen  2 E gen  9 R gen  10 E g  20 R g  21 G gen  25 R gen  90 R main";
    let mut first = Pairing::first_reading(FROM_3_15);
    for mut event in script(words) {
        first.feed(&mut event);
    }
    let mut second = Pairing::second_reading(FROM_3_15, first.into_creations());
    let mut functions = Functions::new();
    let mut callers = Vec::new();
    for mut event in script(words) {
        if let Some(step) = second.follow(&mut event) {
            functions.take(&step);
            callers.push(step.caller.map(|(_, place)| place.function.text.clone()));
        }
    }
    let times = times(&functions);
    assert_eq!(
        times["gen"],
        (2, 7 + 4, 7 + 4),
        "resumptions and nothing else"
    );
    assert_eq!(times["main"], (1, 90 - 7 - 10 - 4, 90));
    let main = Some("main".to_owned());
    assert_eq!(callers[1..8], vec![main; 7]);
    assert_eq!(second.unpaired().total(), 0);
}

#[test]
fn greenlets_keep_their_own_time_and_their_own_callers() {
    // hub starts a, a waits, hub's frame starts b, b waits; a ends before b although it is below.
    let (functions, _) = fed(
        GREENLETS,
        script(
            "0 E hub 10 E a 20 E wait_a 30 E b 40 E wait_b 50 R wait_a 65 R a 70 R wait_b 90 R b 100 R hub",
        ),
    );
    let times = times(&functions);
    assert_eq!(times["a"], (1, 10 + 15, 55));
    assert_eq!(times["wait_a"], (1, 10, 30));
    assert_eq!(times["b"], (1, 10 + 20, 60));
    assert_eq!(times["hub"], (1, 10 + 5 + 10, 100));
    assert_eq!(functions.total_self_ns(), 100, "no time is counted twice");
}

/// A call that was running before anybody looked, at this time, in a context.
fn running(context: u64, ts: u64, function: &str) -> Event {
    let mut event = in_context(context, ts, call(ts, function));
    if let What::Call { frame, .. } = &mut event.what {
        frame.manner = Manner::Running;
    }
    event
}

#[test]
fn a_call_that_was_running_takes_at_least_its_own_time_and_its_line_is_not_where_it_begins() {
    let began = [
        told("serve", 12, Manner::Running, call(10, "serve")),
        told("step", 4, Manner::Plain, call(20, "step")),
        told("step", 5, Manner::Plain, returned(30, "step")),
    ];
    let ended = told("serve", 13, Manner::Plain, returned(100, "serve"));
    let (mut open, pairing) = fed(UP_TO_3_11, began.clone());
    open.take_open(&pairing, 100);
    let (done, _) = fed(UP_TO_3_11, began.into_iter().chain([ended]));
    for functions in [open, done] {
        let row = &functions.rows()[0];
        assert_eq!((row.self_ns, row.cumulative_ns, row.timed), (80, 90, 0));
        assert_eq!((row.line, functions.rows()[1].line), (i32::MAX, 4));
    }
}

#[test]
fn nothing_runs_in_a_thread_whose_first_greenlet_has_ended_whatever_others_left_open() {
    // Its hub is heard of first. With the thread it is gone, and nobody says so.
    let (mut functions, pairing) = fed(
        GREENLETS,
        [
            running(1, 10, "hub"),
            in_context(1, 20, call(20, "timer")),
            running(0, 30, "bootstrap"),
            in_context(0, 40, call(40, "get")),
            in_context(0, 50, returned(50, "get")),
            in_context(0, 60, returned(60, "bootstrap")),
        ],
    );
    functions.take_open(&pairing, 1_060);
    let times = times(&functions);
    assert_eq!(times["timer"].1, 10);
    assert_eq!(times["bootstrap"].1, 10 + 10);
    assert_eq!(functions.total_self_ns(), 50, "until it ended");
}

#[test]
fn under_greenlets_a_recursion_has_durations_unless_a_switch_may_be_between_its_calls() {
    // wait returns while timer runs: timer has switched to the stack of wait.
    let switch = "0 E wait 10 E timer 20 R wait";
    let recursion = "30 E copy 40 E memo 50 E copy 60 R copy 70 R memo 80 R copy";
    let (functions, _) = fed(GREENLETS, script(&format!("{switch} {recursion}")));
    let copy = &functions.rows()[2];
    assert_eq!((copy.calls, copy.cumulative_ns), (2, 50));
    assert_eq!(
        (copy.durations.count(), copy.durations.max()),
        (2, Some(50))
    );

    let apart = "30 E copy 40 E timer 50 E copy 60 R copy 80 R copy";
    let (functions, _) = fed(GREENLETS, script(&format!("{switch} {apart}")));
    let copy = &functions.rows()[2];
    assert_eq!((copy.timed, copy.timed_ns), (2, 10 + 50));
    assert_eq!(copy.durations.count(), 0);
}

#[test]
fn greenlets_in_the_same_function_have_the_right_sum_and_no_certain_durations() {
    let (functions, _) = fed(GREENLETS, script("0 E work 10 E work 30 R work 100 R work"));
    let work = &functions.rows()[0];
    assert_eq!((work.timed, work.timed_ns), (2, 30 + 100 - 10));
    assert_eq!(work.durations.count(), 0);
}

#[test]
fn a_return_without_a_call_is_counted_apart() {
    let (functions, _) = fed(UP_TO_3_11, script("5 R f  6 E f  9 R f"));
    let f = &functions.rows()[0];
    assert_eq!((f.calls, f.unmatched, f.cumulative_ns), (1, 1, 3));
}

#[test]
fn calls_that_the_kernel_measured_nest_by_their_times() {
    let span = |end: u64, duration: u64, function| {
        let mut event = returned(end, function);
        if let What::Return { duration_ns, .. } = &mut event.what {
            *duration_ns = Some(duration);
        }
        event
    };
    let (functions, _) = fed(
        UP_TO_3_11,
        [
            span(20, 10, "in"),
            span(40, 10, "in"),
            span(50, 50, "out"),
            span(90, 30, "in"),
        ],
    );
    let times = times(&functions);
    assert_eq!(times["in"], (3, 50, 50));
    assert_eq!(times["out"], (1, 30, 50));
}

#[test]
fn a_loss_costs_the_time_in_which_it_happened_and_how_long_open_calls_took() {
    let lost = event(
        40,
        What::Lost {
            count: 3,
            stage: LossStage::Kernel,
            message: String::new(),
        },
    );
    let mut events = script("0 E a 10 E b");
    events.push(lost);
    events.extend(script("50 R a 60 E c 65 R c"));
    let (functions, _) = fed(UP_TO_3_11, events);
    let times = times(&functions);
    assert_eq!(times["a"], (1, 10, 0), "it may have been called anew");
    assert_eq!(times["b"].2, 0, "nobody knows when it returned");
    assert_eq!(times["c"], (1, 5, 5));
}

#[test]
fn what_is_open_when_the_process_ends_keeps_its_own_time() {
    let mut events = script("0 E main 10 E f 20 R f 30 E exit");
    events.push(event(
        50,
        What::Process {
            change: ProcessChange::Exit,
            parent: None,
            command: None,
        },
    ));
    let (functions, _) = fed(UP_TO_3_11, events);
    let times = times(&functions);
    assert_eq!(times["main"], (1, 20, 50), "its call lasted until then");
    assert_eq!(times["exit"], (1, 20, 20));
}

#[test]
fn calls_that_are_still_open_can_be_counted_so_far() {
    let (mut functions, pairing) = fed(UP_TO_3_11, script("0 E main 10 E f 20 E f 50 E g 60 R g"));
    functions.take_open(&pairing, 100);
    let times = times(&functions);
    assert_eq!(times["main"], (1, 10, 100));
    assert_eq!(
        times["f"],
        (2, 10 + 30 + 40, 90),
        "the outer call covers the inner one"
    );
    assert_eq!(times["g"], (1, 10, 10));
}

#[test]
fn one_function_of_two_processes_is_two_rows_or_one() {
    let mut events = script("0 E f 10 R f 20 E f 50 R f");
    for event in &mut events[2..] {
        event.pid = 2;
    }
    let (functions, _) = fed(UP_TO_3_11, events);
    assert_eq!(functions.rows().len(), 2);
    let merged = functions.merged();
    assert_eq!(merged.len(), 1);
    assert_eq!(
        (
            merged[0].calls,
            merged[0].cumulative_ns,
            merged[0].processes
        ),
        (2, 40, 2)
    );
    assert_eq!(merged[0].durations.max(), Some(30));
}

#[test]
fn what_is_fed_again_with_its_durations_gives_the_same_table() {
    let words =
        "0 E hub 10 E a 20 E w 30 E b 40 E w 50 R w 65 R a 70 R w 90 R b 100 R hub 110 E a 130 R a";
    for rules in [GREENLETS, UP_TO_3_11, FROM_3_15] {
        let mut pairing = Pairing::with_rules(rules);
        let mut paired = script(words);
        for event in &mut paired {
            pairing.feed(event);
        }
        let (expected, _) = fed(rules, script(words));
        let (again, _) = fed(rules, paired);
        assert_eq!(again.rows(), expected.rows(), "{rules:?}");
    }
}

/// A model in which every frame is known: calls and returns of three stacks in one thread.
#[derive(Debug, Clone)]
enum Do {
    Call(usize),
    Leave,
    Switch(usize),
}

fn doings() -> impl Strategy<Value = Vec<(Do, u64)>> {
    let one = prop_oneof![
        5 => (0..4usize).prop_map(Do::Call),
        4 => Just(Do::Leave),
        1 => (0..3usize).prop_map(Do::Switch),
    ];
    proptest::collection::vec((one, 1..1000u64), 1..200)
}

#[derive(Debug, Default, Clone)]
struct Truth {
    calls: u64,
    own: u64,
    inclusive: u64,
    every_call: u64,
}

struct Frame {
    function: String,
    since: u64,
}

/// Runs the model; everything is left at the end.
fn model(doings: &[(Do, u64)], stacks_used: usize) -> (Vec<Event>, BTreeMap<String, Truth>) {
    let mut stacks: [Vec<Frame>; 3] = Default::default();
    let (mut current, mut ts) = (0, 0);
    let mut events = Vec::new();
    let mut truth: BTreeMap<String, Truth> = BTreeMap::new();
    // Which stack ran before the next mark: a switch shows at the next mark only.
    let mut running = 0;
    let mut leave = |stacks: &mut [Vec<Frame>; 3],
                     current: usize,
                     ts: u64,
                     truth: &mut BTreeMap<String, Truth>| {
        let Some(frame) = stacks[current].pop() else {
            return false;
        };
        let one = truth.entry(frame.function.clone()).or_default();
        let took = ts - frame.since;
        one.every_call += took;
        let recursive = stacks[current]
            .iter()
            .any(|it| it.function == frame.function);
        if !recursive {
            one.inclusive += took;
        }
        events.push(returned(ts, &frame.function));
        true
    };
    let mut calls = Vec::new();
    for (doing, wait) in doings {
        let charged = stacks[running].last().map(|it| it.function.clone());
        match doing {
            Do::Call(number) => {
                ts += wait;
                // Each stack has functions of its own: what shared ones lose is said elsewhere.
                let function = format!("f{number}_{current}");
                truth.entry(function.clone()).or_default().calls += 1;
                stacks[current].push(Frame {
                    function: function.clone(),
                    since: ts,
                });
                calls.push(call(ts, &function));
            }
            Do::Leave => {
                if stacks[current].is_empty() {
                    continue;
                }
                ts += wait;
                leave(&mut stacks, current, ts, &mut truth);
            }
            Do::Switch(stack) => {
                current = stack % stacks_used;
                continue;
            }
        }
        if let Some(function) = charged {
            truth.entry(function).or_default().own += wait;
        }
        running = current;
    }
    for stack in 0..3 {
        while !stacks[stack].is_empty() {
            let charged = stacks[running].last().map(|it| it.function.clone());
            ts += 1;
            leave(&mut stacks, stack, ts, &mut truth);
            if let Some(function) = charged {
                truth.entry(function).or_default().own += 1;
            }
            running = stack;
        }
    }
    events.extend(calls);
    // Times are unique, so this is the order in which they happened.
    events.sort_by_key(|event| event.ts);
    (events, truth)
}

/// What events take their thread, in nanoseconds: before and after the time that they have.
#[derive(Debug, Clone, Copy)]
struct Costs {
    call: (u64, u64),
    other: (u64, u64),
}

impl Costs {
    /// Each event takes as much.
    fn alike(cost: u64) -> Costs {
        Costs {
            call: (cost, 0),
            other: (cost, 0),
        }
    }

    /// Half of each part is at each end: so much between a call's time and its return's, and so much outside.
    fn halves(within: u64, around: u64) -> Costs {
        Costs {
            call: (around, within),
            other: (within, around),
        }
    }

    fn of(self, event: &Event) -> (u64, u64) {
        match event.what {
            What::Call { .. } => self.call,
            _ => self.other,
        }
    }

    /// What a session says of them.
    fn overhead(self) -> Overhead {
        let (within, around) = (self.call.1 + self.other.0, self.call.0 + self.other.1);
        assert_eq!((within + around) % 2, 0, "else it is no whole number");
        let session = Session {
            overhead_ns_per_event: NonZeroU64::new((within + around) / 2),
            overhead_ns_within_call: Some(within),
            ..Session::default()
        };
        Overhead::of(&session, false)
    }
}

/// The same events in a world in which they cost something.
fn dearer(events: &[Event], costs: Costs) -> Vec<Event> {
    let mut taken: BTreeMap<u32, u64> = BTreeMap::new();
    let dearer = events.iter().map(|event| {
        let taken = taken.entry(event.tid).or_default();
        let (before, after) = costs.of(event);
        let ts = event.ts + *taken + before;
        *taken += before + after;
        Event {
            ts,
            ..event.clone()
        }
    });
    dearer.collect()
}

/// Everything that is without the tracer's cost, by name.
type Net = BTreeMap<String, ([u64; 6], Histogram)>;

fn net(functions: &Functions, overhead: Overhead) -> Net {
    let rows = functions.rows().iter();
    rows.map(|row| {
        let numbers = [
            row.calls,
            row.net_self_ns(overhead),
            row.net_cumulative_ns(overhead)
                .expect("no bound was reached"),
            overhead.net(row.timed_ns, row.made_of.timed),
            row.net_idle_ns(overhead),
            row.net_idle_cumulative_ns(overhead),
        ];
        let durations = row.durations(overhead).clone();
        (row.place.function.text.clone(), (numbers, durations))
    })
    .collect()
}

/// The sums of events that cost their threads something, without that; up to a moment, with what is open then, where one is
/// given.
fn net_of(rules: PairingRules, events: &[Event], costs: Costs, now: Option<u64>) -> Net {
    let overhead = costs.overhead();
    let (mut pairing, mut functions) = (Pairing::with_rules(rules), Functions::new());
    functions.take_out(overhead);
    let dear = dearer(events, costs);
    let last = |events: &[Event]| events.last().map_or(0, |it| it.ts);
    let later = last(&dear) - last(events);
    for mut event in dear {
        if let Some(step) = pairing.follow(&mut event) {
            functions.take(&step);
        }
    }
    if let Some(now) = now {
        functions.take_open(&pairing, now + later);
    }
    net(&functions, overhead)
}

#[test]
fn kinds_of_tasks_have_rows_of_their_own_where_that_is_wanted() {
    let events = || {
        [
            named(0, 1, "reader-1"),
            named(0, 2, "reader-2"),
            named(0, 3, "writer"),
            in_context(1, 10, call(10, "step")),
            in_context(2, 20, call(20, "step")),
            in_context(3, 30, call(30, "step")),
            in_context(0, 40, call(40, "step")),
            in_context(1, 50, returned(50, "step")),
            in_context(3, 60, returned(60, "step")),
            in_context(0, 70, returned(70, "step")),
        ]
    };
    let added = |mut functions: Functions| {
        let mut pairing = Pairing::new();
        for mut event in events() {
            if let Some(step) = pairing.follow(&mut event) {
                functions.take(&step);
            }
        }
        // The second reader is still at it.
        functions.take_open(&pairing, 100);
        let rows = functions.rows().iter();
        rows.map(|row| {
            (
                row.context.as_deref().map(str::to_owned),
                row.calls,
                row.cumulative_ns,
            )
        })
        .collect::<Vec<_>>()
    };
    let label = |name: &str| Some(name.to_owned());
    assert_eq!(
        added(Functions::by_context()),
        [
            (label("reader"), 2, 40 + 80),
            (label("writer"), 1, 30),
            (None, 1, 30)
        ]
    );
    assert_eq!(added(Functions::new()), [(None, 4, 40 + 80 + 30 + 30)]);
}

/// A call or return of a thread's beginning, in `threading`.
fn beginning(tid: u32, event: Event) -> Event {
    let event = in_file("/usr/lib/python3.11/threading.py", event);
    Event { tid, ..event }
}

#[test]
fn what_ran_before_it_was_known_what_a_thread_is_is_in_the_rows_of_what_it_turned_out_to_be() {
    let on = |tid, event| Event { tid, ..event };
    let events = [
        beginning(7, call(10, "run")),
        beginning(7, call(12, "acquire")),
        beginning(7, returned(13, "acquire")),
        on(7, call(20, "consume")),
        on(7, returned(50, "consume")),
        beginning(7, returned(60, "run")),
        // Nothing of its own is seen of the second one.
        beginning(8, call(70, "run")),
        call(80, "consume"),
        returned(90, "consume"),
    ];
    let mut functions = Functions::by_context();
    let mut pairing = Pairing::new();
    for mut event in events {
        let step = pairing.follow(&mut event).expect("an event");
        functions.take(&step);
    }
    let table = |functions: &Functions| {
        let rows = functions.rows().iter();
        let mut rows: Vec<_> = rows
            .map(|row| {
                let context = row.context.as_deref().map(str::to_owned);
                let name = row.place.function.text.clone();
                (context, name, row.calls, row.self_ns, row.cumulative_ns)
            })
            .collect();
        rows.sort();
        rows
    };
    let row = |context: Option<&str>, name: &str, calls, own, whole| {
        (
            context.map(str::to_owned),
            name.to_owned(),
            calls,
            own,
            whole,
        )
    };
    let settled = [
        row(None, "consume", 1, 10, 10),
        row(Some("consume"), "acquire", 1, 1, 1),
        row(Some("consume"), "consume", 1, 30, 30),
        row(Some("consume"), "run", 1, 19, 50),
    ];
    assert_eq!(table(&functions), settled);
    // A table has everybody, by what is known.
    let mut shown = functions.clone();
    shown.take_open(&pairing, 100);
    let open = row(Some("thread"), "run", 1, 30, 30);
    assert_eq!(table(&shown), [&settled[..], &[open]].concat());
    assert_eq!(shown.total_self_ns(), 10 + 50 + 30);
    assert_eq!(table(&functions), settled, "the table was a copy");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn one_stack_gives_every_number_exactly(doings in doings()) {
        let (events, truth) = model(&doings, 1);
        let (functions, pairing) = fed(UP_TO_3_11, events);
        prop_assert_eq!(pairing.unpaired().total(), 0);
        for row in functions.rows() {
            let right = &truth[&row.place.function.text];
            prop_assert_eq!(row.calls, right.calls);
            prop_assert_eq!(row.self_ns, right.own);
            prop_assert_eq!(row.cumulative_ns, right.inclusive);
            prop_assert_eq!(row.timed_ns, right.every_call);
        }
        prop_assert_eq!(functions.rows().len(), truth.len());
    }

    #[test]
    fn interleaved_stacks_of_their_own_functions_give_exact_sums(doings in doings()) {
        let (events, truth) = model(&doings, 3);
        let (functions, _) = fed(GREENLETS, events);
        for row in functions.rows() {
            let right = &truth[&row.place.function.text];
            prop_assert_eq!(row.calls, right.calls);
            prop_assert_eq!(row.timed_ns, right.every_call, "{}", row.place.function.text);
            // A switch that no mark shows can hide that a call recurs; then the inner one counts as well.
            prop_assert!(row.cumulative_ns >= right.inclusive, "{}", row.place.function.text);
            prop_assert!(row.cumulative_ns <= right.every_call, "{}", row.place.function.text);
        }
    }

    #[test]
    fn without_the_cost_of_events_times_are_those_of_a_tracer_that_costs_nothing(
        doings in doings(), stacks in 1..=3usize, cut in 0..200usize, within in 0..5_000u64, around in 0..5_000u64,
    ) {
        let (mut events, _) = model(&doings, stacks);
        events.truncate(cut);
        let now = events.last().map_or(7, |last| last.ts + 7);
        for rules in [UP_TO_3_11, FROM_3_15, GREENLETS] {
            let right = net_of(rules, &events, Costs::alike(0), Some(now));
            for costs in [Costs::alike(within), Costs::halves(within, around)] {
                prop_assert_eq!(&net_of(rules, &events, costs, Some(now)), &right);
            }
        }
    }

    #[test]
    fn where_every_call_returns_only_what_lies_within_calls_and_around_them_matters(
        doings in doings(), before_call in 0..5_000u64, after_call in 0..5_000u64,
        before_return in 0..5_000u64, after_return in 0..5_000u64,
    ) {
        let (events, _) = model(&doings, 1);
        let uneven = (before_call + after_call + before_return + after_return) % 2;
        let costs = Costs {
            call: (before_call, after_call),
            other: (before_return, after_return + uneven),
        };
        let right = net_of(UP_TO_3_11, &events, Costs::alike(0), None);
        prop_assert_eq!(net_of(UP_TO_3_11, &events, costs, None), right);
    }

    #[test]
    fn events_that_were_lost_and_those_of_other_threads_cost_nobody_else_anything(
        doings in doings(), lost in any::<u64>(), within in 0..5_000u64, around in 0..5_000u64,
    ) {
        let (mut events, _) = model(&doings, 3);
        for (at, event) in events.iter_mut().enumerate() {
            if let What::Call { place, .. } | What::Return { place, .. } = &event.what {
                let stack = place.function.text.bytes().last().map_or(0, u32::from);
                event.tid = stack;
            }
            if lost >> (at % 64) & 7 == 7 {
                let (count, stage) = (1, LossStage::Kernel);
                event.what = What::Lost { count, stage, message: String::new() };
            }
        }
        for rules in [UP_TO_3_11, FROM_3_15] {
            let right = net_of(rules, &events, Costs::alike(0), None);
            prop_assert_eq!(net_of(rules, &events, Costs::halves(within, around), None), right);
        }
    }

    #[test]
    fn every_moment_is_at_most_one_function_s_own_time(doings in doings(), dropped in any::<u64>()) {
        let (events, _) = model(&doings, 3);
        let last = events.last().map_or(0, |event| event.ts);
        let kept = events.into_iter().enumerate().filter(|(at, _)| dropped >> (at % 64) & 7 != 7).map(|(_, it)| it);
        let (mut functions, pairing) = fed(FROM_3_15, kept);
        functions.take_open(&pairing, last);
        prop_assert!(functions.total_self_ns() <= last);
    }
}

#[test]
fn functions_beyond_a_full_table_are_counted_in_one_row_and_none_is_lost() {
    let (mut pairing, mut functions) = (Pairing::new(), Functions::new());
    let mut feed = |functions: &mut Functions, events: [Event; 2]| {
        for mut event in events {
            if let Some(step) = pairing.follow(&mut event) {
                functions.take(&step);
            }
        }
    };
    let all = MOST_ROWS as u64 + 1_000;
    for number in 0..all {
        let (at, name) = (10 * number, format!("generated_{number}"));
        feed(&mut functions, [call(at, &name), returned(at + 7, &name)]);
    }
    // One that has a row still counts there.
    feed(
        &mut functions,
        [
            call(10 * all, "generated_0"),
            returned(10 * all + 5, "generated_0"),
        ],
    );
    assert_eq!(functions.rows().len(), MOST_ROWS);
    assert_eq!(functions.index.len(), MOST_ROWS);
    let rest = functions.without_row().expect("a full table");
    assert_eq!(
        (rest.calls, rest.timed, rest.self_ns),
        (1_000, 1_000, 7_000)
    );
    let first = &functions.rows()[0];
    assert_eq!((first.calls, first.self_ns), (2, 12));
    assert_eq!(functions.total_self_ns(), 7 * all + 5, "nothing is missing");
    let calls: u64 = functions.merged().iter().map(|row| row.calls).sum();
    assert_eq!(calls + rest.calls, all + 1);
    assert!(functions.emptied().without_row().is_none());
}

/// The getter and setter of a property, as the agent tells them: the setter calls the getter, and is a hundred times as slow.
fn properties() -> Vec<Event> {
    let value = |line, event| told("Thing.value", line, Manner::Plain, event);
    let mut events = Vec::new();
    for ts in [0, 1_000, 2_000] {
        events.push(value(10, call(ts, "value")));
        events.push(value(11, returned(ts + 5, "value")));
        events.push(value(20, call(ts + 10, "value")));
        events.push(value(10, call(ts + 20, "value")));
        events.push(value(12, returned(ts + 25, "value")));
        events.push(value(21, returned(ts + 510, "value")));
    }
    events
}

#[test]
fn the_getter_and_the_setter_of_a_property_have_rows_of_their_own() {
    let (functions, pairing) = fed(UP_TO_3_11, properties());
    let mut rows: Vec<_> = functions
        .rows()
        .iter()
        .map(|row| (row.line, row.calls, row.self_ns, row.cumulative_ns))
        .collect();
    rows.sort_unstable();
    assert_eq!(rows, [(10, 6, 30, 30), (20, 3, 3 * 495, 3 * 500)]);
    assert_eq!(pairing.unpaired().total(), 0);
}

#[test]
fn a_generator_that_is_resumed_stays_one_function_and_so_does_one_without_a_line() {
    use Manner::{Plain, Suspension};
    let steps = |line, manner, event| told("steps", line, manner, event);
    let (functions, _) = fed(
        UP_TO_3_11,
        [
            steps(10, Plain, call(0, "steps")),
            steps(12, Suspension, returned(10, "steps")),
            steps(12, Suspension, call(20, "steps")),
            steps(14, Plain, returned(30, "steps")),
            // Another one of its name, further down.
            steps(40, Plain, call(40, "steps")),
            steps(41, Suspension, returned(45, "steps")),
            steps(12, Suspension, call(50, "steps")),
            steps(14, Plain, returned(51, "steps")),
            steps(41, Suspension, call(60, "steps")),
            steps(42, Plain, returned(66, "steps")),
            // Its call was not seen.
            steps(42, Plain, returned(70, "steps")),
        ],
    );
    let rows: Vec<_> = functions
        .rows()
        .iter()
        .map(|row| (row.line, row.calls, row.self_ns, row.unmatched))
        .collect();
    assert_eq!(rows, [(10, 3, 21, 0), (40, 2, 11, 1)]);
    // The interpreter's own probes do not say which calls resume a frame.
    let (functions, _) = fed(UP_TO_3_11, script("0 E g 5 R g 10 E g 15 R g"));
    assert_eq!(times(&functions)["g"], (2, 10, 10));
}

#[test]
fn a_line_that_is_not_known_is_none() {
    let mut events = script("0 E closure 5 R closure 10 E closure 15 R closure");
    for (event, at) in events.iter_mut().zip([-1, 12, -1, 12]) {
        if let What::Call { line, .. } | What::Return { line, .. } = &mut event.what {
            *line = at;
        }
    }
    let (functions, _) = fed(FROM_3_15, events);
    assert_eq!(functions.rows()[0].line, i32::MAX);
}

/// Greenlets that a hub switches to: each waits at the end of a dozen calls, and goes on later. What their handlers took.
fn waiting(greenlets: u64, contexts: bool) -> (Vec<Event>, u64) {
    const DEPTH: u64 = 12;
    let mut ts = 1_000;
    let mut events = Vec::new();
    let mut tell = |greenlet: u64, event: Event| {
        ts += 10;
        events.push(match contexts {
            true => in_context(greenlet, ts, event),
            false => Event { ts, ..event },
        });
        ts
    };
    let name = |depth: u64| format!("f{depth}");
    let mut took = 0_u64;
    tell(0, call(0, "run"));
    for greenlet in 1..=greenlets {
        tell(0, call(0, "switch"));
        for depth in 0..DEPTH {
            let at = tell(greenlet, call(0, &name(depth)));
            if depth == 0 {
                took = took.wrapping_sub(at);
            }
        }
        tell(0, returned(0, "switch"));
    }
    for greenlet in 1..=greenlets {
        tell(0, call(0, "switch"));
        for depth in (0..DEPTH).rev() {
            let at = tell(greenlet, returned(0, &name(depth)));
            if depth == 0 {
                took = took.wrapping_add(at);
            }
        }
        tell(0, returned(0, "switch"));
    }
    tell(0, returned(0, "run"));
    (events, took)
}

#[test]
fn two_thousand_greenlets_that_wait_lose_nothing_of_their_sums() {
    let (events, took) = waiting(2_000, true);
    let all = events.last().expect("some").ts - events[0].ts;
    let (functions, pairing) = fed(UP_TO_3_11, events);
    let times = times(&functions);
    let (calls, _, cumulative) = times["f0"];
    assert_eq!((calls, cumulative), (2_000, took));
    assert_eq!(times["run"].2, all);
    let own: u64 = times.values().map(|(_, own, _)| own).sum();
    // What called a handler has returned before it: who runs next, the hub's next event tells.
    assert_eq!(own + 2_000 * 10, all);
    assert_eq!(pairing.unpaired().total(), 0);
}

#[test]
fn two_thousand_greenlets_keep_their_sums_where_nobody_tells_them_apart() {
    let (events, took) = waiting(2_000, false);
    let all = events.last().expect("some").ts - events[0].ts;
    let (functions, _) = fed(GREENLETS, events);
    let times = times(&functions);
    let (calls, _, cumulative) = times["f0"];
    assert_eq!((calls, cumulative), (2_000, took));
    assert_eq!(times["run"].2, all);
}

/// A call or return at a line, as the interpreter's own probes tell it.
fn at(line: i32, mut event: Event) -> Event {
    if let What::Call { line: at, .. } | What::Return { line: at, .. } = &mut event.what {
        *at = line;
    }
    event
}

/// Line, calls, own time of the rows, by line, and whether they go on and whether they may be several.
fn by_line(functions: &Functions) -> Vec<(i32, u64, u64, bool, bool)> {
    let mut rows: Vec<_> = functions
        .rows()
        .iter()
        .map(|row| {
            (
                row.line,
                row.calls,
                row.self_ns,
                row.goes_on,
                row.maybe_several,
            )
        })
        .collect();
    rows.sort_unstable();
    rows
}

#[test]
fn functions_of_one_name_are_told_apart_without_an_agent_and_generators_stay_one() {
    let (functions, _) = fed(
        UP_TO_3_11,
        [
            at(10, call(0, "value")),
            at(12, returned(5, "value")),
            at(20, call(10, "value")),
            at(10, call(20, "value")),
            at(12, returned(23, "value")),
            at(22, returned(110, "value")),
            // A generator of the same name.
            at(30, call(200, "value")),
            at(32, returned(201, "value")),
            at(32, call(210, "value")),
            at(34, returned(211, "value")),
            at(34, call(220, "value")),
            at(35, returned(221, "value")),
            at(30, call(230, "value")),
            at(32, returned(231, "value")),
        ],
    );
    assert_eq!(
        by_line(&functions),
        [
            (10, 2, 8, false, false),
            (20, 1, 97, false, false),
            (30, 4, 4, true, false),
        ]
    );
}

#[test]
fn functions_whose_lines_the_interpreter_does_not_know_are_one_row_that_says_so() {
    let (functions, _) = fed(
        FROM_3_15,
        [
            at(-1, call(0, "wrapper")),
            at(12, returned(5, "wrapper")),
            at(-1, call(10, "wrapper")),
            at(22, returned(17, "wrapper")),
            at(30, call(20, "wrapper")),
            at(32, returned(21, "wrapper")),
        ],
    );
    assert_eq!(
        by_line(&functions),
        [(30, 1, 1, false, false), (i32::MAX, 2, 12, false, true)]
    );
}

#[test]
fn a_recursion_deeper_than_the_bound_leaves_cumulative_times_unknown_and_no_wrong_ones() {
    let deep = 40_000;
    let mut events = vec![call(0, "main")];
    events.extend((1..=deep).map(|at| call(at, "f")));
    events.extend((1..=deep).map(|at| returned(deep + at, "f")));
    events.extend([call(90_000, "g"), returned(90_010, "g")]);
    events.push(returned(100_000, "main"));
    let (functions, pairing) = fed(UP_TO_3_11, events);
    let row = |name: &str| {
        let mut rows = functions.rows().iter();
        rows.find(|row| row.place.function.text == name)
            .expect(name)
    };
    let given_up = row("f").given_up + row("main").given_up;
    assert_eq!(given_up, deep + 1 - (1 << 15));
    assert_eq!(row("f").calls, deep);
    assert_eq!(row("f").whole_cumulative_ns(), None);
    assert_eq!(row("main").whole_cumulative_ns(), None);
    assert_eq!(row("g").whole_cumulative_ns(), Some(10));
    assert!(pairing.unpaired().total() > 0);
}

/// A call or return of a function of this file.
fn of_file(file: &str, mut event: Event) -> Event {
    if let What::Call { place, .. } | What::Return { place, .. } = &mut event.what {
        let mut elsewhere = Place::clone(place);
        elsewhere.file = crate::analysis::testing::text(file);
        *place = Arc::new(elsewhere);
    }
    event
}

const POOL: &str = "/usr/lib/python3.13/concurrent/futures/thread.py";
const THREADING: &str = "/usr/lib/python3.13/threading.py";

/// A worker of a pool waits for work, has work that waits for its own sake, and waits again.
fn worker() -> Vec<Event> {
    vec![
        call(0, "main"),
        of_file(POOL, call(10, "_worker")),
        of_file(THREADING, call(20, "wait")),
        of_file(THREADING, returned(1_020, "wait")),
        call(1_030, "job"),
        of_file(THREADING, call(1_040, "wait")),
        of_file(THREADING, returned(1_090, "wait")),
        returned(1_100, "job"),
        of_file(THREADING, call(1_110, "wait")),
    ]
}

/// Own time, its idleness, cumulative time and its idleness by name.
fn idleness(functions: &Functions) -> BTreeMap<&str, [u64; 4]> {
    let rows = functions.rows().iter();
    rows.map(|row| {
        let numbers = [
            row.self_ns,
            row.idle_ns,
            row.cumulative_ns,
            row.idle_cumulative_ns,
        ];
        (row.place.function.text.as_str(), numbers)
    })
    .collect()
}

#[test]
fn what_waits_for_work_is_idle_wherever_it_is_called_from_and_what_waits_for_a_job_is_not() {
    let (mut functions, pairing) = fed(UP_TO_3_11, worker());
    functions.take_open(&pairing, 2_110);
    let idleness = idleness(&functions);
    // Twice 1000 of three waits. The worker's own time is waiting, too: it may take its work from a queue in C.
    assert_eq!(idleness["wait"], [2_050, 2_000, 2_050, 2_000]);
    assert_eq!(idleness["job"], [20, 0, 70, 0]);
    assert_eq!(idleness["_worker"], [30, 30, 2_100, 2_030]);
    assert_eq!(idleness["main"], [10, 0, 2_110, 2_030]);
    let busy: u64 = functions
        .rows()
        .iter()
        .map(|row| row.self_ns - row.idle_ns)
        .sum();
    assert_eq!(busy + functions.total_idle_ns(), functions.total_self_ns());
    assert_eq!(functions.total_self_ns(), 2_110, "and that is the whole");
}

#[test]
fn what_waits_for_work_when_its_process_ends_is_idle_as_if_it_had_returned() {
    let exit = What::Process {
        change: ProcessChange::Exit,
        parent: None,
        command: None,
    };
    let mut events = worker();
    events.push(event(2_110, exit));
    let (functions, _) = fed(UP_TO_3_11, events);
    let (mut open, pairing) = fed(UP_TO_3_11, worker());
    open.take_open(&pairing, 2_110);
    assert_eq!(idleness(&functions)["_worker"], [30, 30, 2_100, 2_030]);
    assert_eq!(idleness(&functions)["wait"], [2_050, 2_000, 2_050, 2_000]);
    assert_eq!(idleness(&functions), idleness(&open));
}

#[test]
fn what_waits_for_work_is_idle_also_where_its_calls_are_told_apart_by_a_value() {
    let mut events = ["call", "return"].map(|kind| {
        let event = match kind {
            "call" => call(10, "_wait_for_work"),
            _ => returned(910, "_wait_for_work"),
        };
        in_file("/x/futurist/_thread.py", event)
    });
    if let What::Call { frame, .. } = &mut events[0].what {
        let field = crate::event::Field {
            name: "pool".into(),
            value: crate::event::FieldValue::Integer(1),
        };
        frame.fields = Some(Arc::new(crate::event::Fields(vec![field])));
    }
    let (mut functions, mut pairing) = (Functions::new(), Pairing::new().grouped("pool"));
    for event in &mut events {
        functions.take(&pairing.follow(event).expect("an event"));
    }
    let row = &functions.rows()[0];
    assert_eq!(row.place.name().text, "_wait_for_work [pool=1]");
    assert_eq!((row.self_ns, row.idle_ns), (900, 900));
}

#[test]
fn idleness_has_the_cost_of_its_events_taken_out_as_other_time_has() {
    let right = net_of(UP_TO_3_11, &worker(), Costs::alike(0), Some(2_110));
    assert_eq!(right["_worker"].0, [1, 30, 2_100, 0, 30, 2_030]);
    for costs in [Costs::alike(1_500), Costs::halves(400, 1_100)] {
        assert_eq!(net_of(UP_TO_3_11, &worker(), costs, Some(2_110)), right);
    }
}

#[test]
fn a_call_without_calls_has_the_cost_of_one_event_in_it_and_its_caller_that_of_two_more() {
    let script = script("0 E a  10 E b  15 R b  100 R a");
    let (functions, _) = fed(UP_TO_3_11, dearer(&script, Costs::halves(100, 1_000)));
    let of = |at: usize| functions.rows()[at].made_of;
    let intervals = |count, ends_within| Intervals { count, ends_within };
    let (a, b) = (of(0), of(1));
    assert_eq!(a.own, intervals(2, 2));
    assert_eq!((a.cumulative, a.timed), (intervals(3, 4), intervals(3, 4)));
    assert_eq!(b.own, intervals(1, 2));
    assert_eq!((b.cumulative, b.timed), (b.own, b.own));
    assert_eq!(
        times(&functions)["a"],
        (1, 95 + 200 + 2_000, 100 + 400 + 2_000)
    );
    assert_eq!(times(&functions)["b"], (1, 5 + 200, 5 + 200));
}

#[test]
fn where_the_kernel_says_what_threads_wait_for_nothing_else_is_idleness() {
    let wait = |ts, reason, blocked_ns| {
        let wait = Wait {
            reason: Some(reason),
            syscall: None,
            on: None,
            blocked_ns,
            runqueue_ns: Some(5),
            waker: None,
        };
        event(ts, What::Wait(Box::new(wait)))
    };
    let mut events = worker();
    events.insert(3, wait(1_015, Reason::Lock, 900));
    events.insert(3, wait(100, Reason::Gil, 50));
    let mut pairing = Pairing::with_rules(UP_TO_3_11);
    let mut functions = Functions::new().with_waits(true);
    for mut event in events {
        if let Some(step) = pairing.follow(&mut event) {
            functions.take(&step);
        }
    }
    functions.take_open(&pairing, 2_110);
    let idleness = idleness(&functions);
    assert_eq!(idleness["wait"], [2_050, 905, 2_050, 905]);
    assert_eq!(idleness["main"], [10, 0, 2_110, 905]);
}
