//! Both engines on the same programs, one after the other: their output must be identical except for times and process
//! IDs. Without children, whose threads start in an order that differs from run to run. Not simultaneously on one
//! process: the kernel accepts no second probe at a site if only one of the two raises the semaphore.

use std::collections::BTreeMap;

use pystap::event::{ProcessChange, What};

use super::{CALLS, Script, agent};
use crate::command::file;
use crate::tracing::{Traced, leaves_nothing, trace};

/// A stream without what differs from run to run: times, and thread IDs, which are replaced by their rank, as the
/// threads were created. Each thread's own order counts; how threads alternate does not. Whether a return has a duration counts
/// `with_durations`. What the interpreter does before it runs the program is left out, since the agent arrives in the
/// midst of that, and so are collections that the interpreter begins by itself: when they come is a matter of how much
/// was allocated before.
fn normalised(traced: &Traced, program: &str, with_durations: bool) -> Vec<Vec<String>> {
    let mut threads: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    // An engine may deliver an event late, and says how many; its time stamp is right all the same.
    let mut events = traced.events.clone();
    events.sort_by_key(|event| event.ts);
    let is_full = |what: &What| matches!(what, What::GcStart { generation: 2 });
    let first_full = events
        .iter()
        .find(|event| is_full(&event.what))
        .map_or(u64::MAX, |event| event.ts);
    let of_a_collection = |what: &What| matches!(what, What::GcStart { .. } | What::GcDone { .. });
    events.retain(|event| !of_a_collection(&event.what) || event.ts >= first_full);
    let of_program =
        |what: &What| matches!(what, What::Call { place, .. } if place.file.text == program);
    let begins = events
        .iter()
        .find(|event| of_program(&event.what))
        .unwrap_or_else(|| panic!("nothing of {program} was traced"))
        .ts;
    events.retain(|event| event.ts >= begins || matches!(event.what, What::Process { .. }));
    for event in &events {
        let told = match &event.what {
            What::Call { place, line, frame } => format!("call {place:?} {line} {frame:?}"),
            What::Return {
                place,
                line,
                duration_ns,
                frame,
            } => format!(
                "return {place:?} {line} {} {frame:?}",
                with_durations && duration_ns.is_some()
            ),
            What::Context { context, name } => format!("context {context} {name:?}"),
            What::GcStart { generation } => format!("gc_start {generation}"),
            What::GcDone { collected, .. } => format!("gc_done {collected}"),
            What::Process {
                change, command, ..
            } if *change != ProcessChange::Exit => {
                format!("{change:?} {:?}", command.as_ref().map(|name| &name.text))
            }
            What::Process { .. } => "exit".to_owned(),
            other => panic!("{other:?}"),
        };
        threads.entry(event.tid).or_default().push(told);
    }
    threads.into_values().collect()
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn both_engines_say_the_same_of_the_same_program() {
    both_say_the_same(&[
        (&CALLS, "examples/nested.py"),
        (&CALLS, "examples/generators.py"),
        (&CALLS, "examples/collect.py"),
    ]);
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn both_engines_say_the_same_of_what_the_agent_tells() {
    both_say_the_same(&[
        (&agent::CALLS_3_14, "examples/generators.py"),
        (&agent::CALLS_3_14, "examples/collect.py"),
        (&agent::VALUES, "tests/programs/contexts.py"),
    ]);
}

fn both_say_the_same(programs: &[(&Script, &str)]) {
    leaves_nothing(|| {
        for (script, program) in programs {
            let program = file(program);
            let [stap, uprobes] = ["stap", "uprobes"].map(|engine| {
                let arguments = script.and(&["--engine", engine, "--", script.python, &program]);
                let traced = trace(&arguments).complete("targets_ended");
                assert_eq!(traced.session.engine, engine);
                traced
            });
            // A return that was written before its call has no duration.
            let is_ordered = |traced: &Traced| traced.summary.unordered == 0;
            let with_durations = is_ordered(&stap) && is_ordered(&uprobes);
            let [stap, uprobes] =
                [stap, uprobes].map(|it| normalised(&it, &program, with_durations));
            let ends = |side: &[Vec<String>]| -> Vec<(usize, Option<String>, Option<String>)> {
                let ends = |it: &Vec<String>| (it.len(), it.first().cloned(), it.last().cloned());
                side.iter().map(ends).collect()
            };
            let threads = (ends(&stap), ends(&uprobes));
            assert_eq!(stap.len(), uprobes.len(), "{program}: {threads:#?}");
            for (stap, uprobes) in stap.iter().zip(&uprobes) {
                let differs = stap
                    .iter()
                    .zip(uprobes)
                    .position(|(one, other)| one != other);
                let around = |side: &[String], at: usize| -> Vec<String> {
                    side.iter()
                        .skip(at.saturating_sub(2))
                        .take(5)
                        .cloned()
                        .collect()
                };
                let shown = differs.map(|at| (around(stap, at), around(uprobes, at)));
                assert_eq!(shown, None, "{program}: stap, and uprobes");
                assert_eq!(stap.len(), uprobes.len(), "{program}");
            }
        }
    });
}
