//! The table as it stands on a terminal of any size, and what the keys do to it.

use std::sync::Arc;
use std::time::Instant;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::analysis::histogram::Histogram;
use crate::analysis::pairing::PairingRules;
use crate::analysis::testing::{call, event, place, returned, text};
use crate::analysis::totals::{About, Row};
use crate::event::{Event, Frame, LossStage, Place};
use crate::view::hot::Column;

const HABITS: PairingRules = PairingRules {
    call_on_creation: false,
    greenlets: false,
};

fn events() -> Vec<Event> {
    let mut events = vec![
        call(1_000_000_000, "main"),
        call(1_100_000_000, "load"),
        returned(1_300_000_000, "load"),
        call(1_400_000_000, "save"),
        returned(1_450_000_000, "save"),
        call(1_500_000_000, "save"),
        event(1_510_000_000, What::GcStart { generation: 0 }),
        event(
            1_530_000_000,
            What::GcDone {
                generation: None,
                collected: 1,
                pause_ns: None,
            },
        ),
        returned(1_550_000_000, "save"),
    ];
    for mut it in [call(1_600_000_000, "load"), returned(1_610_000_000, "load")] {
        it.pid = 2;
        it.tid = 2;
        events.push(it);
    }
    events
}

/// A table with the pairing of its stream.
struct Fed {
    pairing: Pairing,
    tally: Tally,
}

impl Fed {
    fn new() -> Fed {
        Fed {
            pairing: Pairing::with_rules(HABITS),
            tally: Tally::new(),
        }
    }

    fn take(&mut self, event: &Event) {
        let mut event = event.clone();
        if let Some(step) = self.pairing.follow(&mut event) {
            self.tally.take(&step);
        }
    }

    fn snapshot(&self, now: u64) -> Snapshot {
        self.tally.snapshot(&self.pairing, now)
    }
}

fn tally(events: &[Event]) -> Fed {
    let mut tally = Fed::new();
    for event in events {
        tally.take(event);
    }
    tally
}

fn state() -> State {
    let mut state = State::new("nova", Column::SelfTime, 1_000);
    state.show(tally(&events()).snapshot(2_000_000_000));
    state
}

fn drawn(state: &mut State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
    terminal
        .draw(|frame| view::draw(frame, state))
        .expect("memory");
    let buffer = terminal.backend().buffer();
    (0..height)
        .map(|y| {
            let line: String = (0..width)
                .map(|x| buffer[(x, y)].symbol())
                .collect::<Vec<_>>()
                .concat();
            line.trim_end().to_owned()
        })
        .collect()
}

fn names(state: &State) -> Vec<&str> {
    state
        .rows()
        .map(|row| row.place.function.text.as_str())
        .collect()
}

fn keys(state: &mut State, keys: &str) -> Action {
    let mut last = Action::Draw;
    for key in keys.chars() {
        last = state.key(Key::Char(key));
    }
    last
}

#[test]
fn a_narrow_terminal_goes_without_numbers_rather_than_names() {
    let lines = drawn(&mut state(), 40, 10);
    assert_eq!(
        lines[1].trim_end(),
        "    CALLS    SELF     %  FUNCTION  FILE",
        "{lines:?}"
    );
    assert!(lines[2].ends_with("main  app.py:1"), "{lines:?}");
}

#[test]
fn eighty_by_twenty_four_has_the_table_and_what_must_be_seen() {
    let lines = drawn(&mut state(), 80, 24);
    assert_eq!(
        lines[0],
        "gc 2.0%  lost 0  1 s  2 processes  3 functions  nova"
    );
    assert_eq!(
        lines[1].trim_end(),
        "    CALLS    SELF     %     CUM     AVG     P95     MAX  FUNCTION  FILE"
    );
    assert_eq!(
        lines[2],
        "        1   700ms  69.3   1.00s       -       -       -  main  app.py:1"
    );
    assert_eq!(
        lines[3],
        "        2   210ms  20.8   210ms   105ms   200ms   200ms  load  app.py:1"
    );
    assert!(lines[23].starts_with("q end  h help"), "{lines:?}");
}

#[test]
fn on_eighty_columns_functions_and_files_of_a_service_can_be_told_apart() {
    let base = "/usr/lib/python3/dist-packages/nova/conductor/manager.py";
    let mut fed = Fed::new();
    for (at, (qualname, file, line)) in [
        ("ConductorManager.object_action", base, 171),
        ("ConductorManager.object_class_action_versions", base, 146),
        ("Condition.wait", "/usr/lib/python3.13/threading.py", 337),
    ]
    .into_iter()
    .enumerate()
    {
        let place = Arc::new(Place {
            file: text(file),
            function: text(qualname.rsplit('.').next().unwrap_or(qualname)),
            qualname: Some(text(qualname)),
            group: None,
        });
        let what = What::Call {
            place,
            line,
            frame: Frame::default(),
        };
        fed.take(&event(1_000_000_000 + at as u64 * 1_000_000, what));
    }
    let mut state = State::new("nova", Column::Calls, 1_000);
    state.only = Some("file */nova/*".to_owned());
    let mut snapshot = fed.snapshot(2_000_000_000);
    snapshot.account.filtered = true;
    state.show(snapshot);
    let lines = drawn(&mut state, 80, 24);
    assert!(lines[0].ends_with("nova, only file */nova/*"), "{lines:?}");
    assert_eq!(
        lines[1].trim_end(),
        "    CALLS   SELF*     %     CUM  FUNCTION  FILE"
    );
    let names: Vec<&str> = lines[2..5].iter().map(|line| &line[33..]).collect();
    assert_eq!(
        names,
        [
            "Condition.wait  …/python3.13/threading.py:337",
            "…nductorManager.object_action  …/manager.py:171",
            "…object_class_action_versions  …/manager.py:146",
        ]
    );
}

#[test]
fn waits_have_columns_that_stay_on_a_narrow_terminal_and_sort() {
    let mut state = State::new("nova", Column::SelfTime, 1_000);
    let mut snapshot = tally(&events()).snapshot(2_000_000_000);
    snapshot.account.has_waits = true;
    state.show(snapshot);
    let heading = |state: &mut State, width| drawn(state, width, 10)[1].trim_end().to_owned();
    assert_eq!(
        heading(&mut state, 120),
        "    CALLS   CALLS/s    SELF     %     CUM     AVG     P95     MAX     OFF    RUNQ     GIL  FUNCTION  FILE"
    );
    assert_eq!(
        heading(&mut state, 62),
        "   SELF     %     OFF    RUNQ     GIL  FUNCTION  FILE"
    );
    keys(&mut state, "8");
    assert_eq!(state.sort, Column::Off);
    keys(&mut state, "ooo");
    assert_eq!(state.sort, Column::Function);
    state.key(Key::Left);
    assert_eq!(state.sort, Column::Gil);
}

#[test]
fn the_key_for_samples_leaves_a_table_that_has_some_and_keeps_how_it_was_shown() {
    let mut state = State::new("all", Column::SelfTime, 2_000);
    assert_eq!(state.key(Key::Char('s')), Action::Draw);
    assert_eq!(state.sort, Column::SelfTime);
    assert!(drawn(&mut state, 80, 24)[23].contains("nothing to be sampled"));
    state.has_samples = true;
    assert_eq!(state.key(Key::Char('s')), Action::Samples);
    assert!(drawn(&mut state, 80, 24)[23].contains("s samples"));
    keys(&mut state, "oRm+/spam");
    let again = state.anew();
    assert_eq!(
        (again.sort, again.reversed, again.merged),
        (state.sort, true, false)
    );
    assert_eq!(again.interval_ms(), state.interval_ms());
    assert_eq!(
        (again.filter.text.as_str(), again.filter.typing),
        ("spam", false)
    );
}

#[test]
fn of_a_long_path_the_end_is_shown() {
    let mut state = State::new("nova", Column::SelfTime, 1_000);
    let file = "/usr/lib/python3/dist-packages/eventlet/hubs/poll.py";
    let place = Arc::new(Place {
        file: text(file),
        function: text("wait"),
        qualname: None,
        group: None,
    });
    let what = What::Call {
        place,
        line: 7,
        frame: Frame::default(),
    };
    state.show(tally(&[event(1_000_000_000, what)]).snapshot(2_000_000_000));
    let shown = |state: &mut State, width| {
        let line = drawn(state, width, 24).remove(2);
        line.split_once("  wait")
            .map(|(_, rest)| rest.trim().to_owned())
    };
    assert_eq!(
        shown(&mut state, 80).as_deref(),
        Some("…/dist-packages/eventlet/hubs/poll.py:7")
    );
    assert_eq!(
        shown(&mut state, 100).as_deref(),
        Some("…/dist-packages/eventlet/hubs/poll.py:7")
    );
    assert_eq!(shown(&mut state, 200), Some(format!("{file}:7")));
}

#[test]
fn any_size_is_drawn_without_harm() {
    for width in [0, 1, 2, 10, 79, 80, 300] {
        for height in [0, 1, 2, 3, 4, 24, 100] {
            let mut state = state();
            drawn(&mut state, width, height);
            keys(&mut state, "h");
            drawn(&mut state, width, height);
        }
    }
    assert_eq!(drawn(&mut state(), 20, 1)[0], "gc 2.0%  lost 0  1 s");
}

#[test]
fn digits_and_arrows_choose_the_column_and_r_turns_it_round() {
    let mut state = state();
    assert_eq!(names(&state), ["main", "load", "save"]);
    keys(&mut state, "1");
    assert_eq!(names(&state)[2], "main");
    keys(&mut state, "8");
    assert_eq!(names(&state), ["load", "main", "save"]);
    keys(&mut state, "R");
    assert_eq!(names(&state), ["save", "main", "load"]);
    keys(&mut state, "R");
    state.key(Key::Left);
    assert_eq!(names(&state)[0], "load", "the longest call");
}

#[test]
fn the_filter_works_while_it_is_typed_and_escape_takes_it_away() {
    let mut state = state();
    keys(&mut state, "/sa");
    assert_eq!(names(&state), ["save"]);
    assert!(drawn(&mut state, 80, 24)[23].starts_with("filter: sa_"));
    keys(&mut state, "q");
    assert!(names(&state).is_empty(), "a letter, not a command");
    state.key(Key::Backspace);
    state.key(Key::Enter);
    assert_eq!(names(&state), ["save"]);
    assert!(drawn(&mut state, 100, 24)[23].ends_with("only sa"));
    state.key(Key::Escape);
    assert_eq!(names(&state).len(), 3);
}

#[test]
fn a_paused_table_stays_and_can_still_be_sorted() {
    let mut state = state();
    keys(&mut state, "p");
    state.show(Snapshot::default());
    assert_eq!(names(&state).len(), 3);
    keys(&mut state, "8");
    assert_eq!(names(&state)[0], "load");
    assert!(drawn(&mut state, 80, 24)[0].starts_with("PAUSED"));
    keys(&mut state, "p");
    state.show(Snapshot::default());
    assert!(names(&state).is_empty());
}

#[test]
fn processes_are_told_apart_on_demand() {
    let mut state = state();
    keys(&mut state, "m");
    assert_eq!(names(&state).len(), 4);
    let lines = drawn(&mut state, 80, 24);
    assert!(
        lines[1].trim_end().ends_with("    PID  FUNCTION  FILE"),
        "{lines:?}"
    );
    assert!(lines[2].ends_with("      1  main  app.py:1"), "{lines:?}");
}

#[test]
fn keys_that_others_must_follow_are_handed_on() {
    let mut state = state();
    assert_eq!(keys(&mut state, "r"), Action::Reset);
    assert_eq!(keys(&mut state, "w"), Action::Export);
    assert_eq!(keys(&mut state, "+"), Action::Pace);
    assert_eq!(state.interval_ms(), 500);
    keys(&mut state, "----------");
    assert_eq!(state.interval_ms(), 60_000);
    assert_eq!(keys(&mut state, "q"), Action::Quit);
    assert_eq!(state.key(Key::Interrupt), Action::Quit);
}

#[test]
fn help_covers_the_table_until_the_next_key() {
    let mut state = state();
    keys(&mut state, "h");
    assert!(drawn(&mut state, 80, 24)[1].contains("sort by that column"));
    assert_eq!(keys(&mut state, "q"), Action::Draw, "it closes the help");
    assert!(drawn(&mut state, 80, 24)[1].contains("CALLS"));
}

#[test]
fn losses_are_shown_where_nobody_can_miss_them() {
    let mut tally = tally(&events());
    tally.take(&event(
        1_700_000_000,
        What::Lost {
            count: 17,
            stage: LossStage::Kernel,
            message: String::new(),
        },
    ));
    let mut state = State::new("nova", Column::SelfTime, 1_000);
    state.show(tally.snapshot(0));
    assert!(drawn(&mut state, 40, 5)[0].contains("LOST 17"));
}

fn from_the_kernel(rows: Vec<Row>) -> Snapshot {
    let mut tally = tally(&[]);
    tally.tally.take_rows(Rows {
        age_ns: 2_000_000_000,
        unpaired: 3,
        rows,
        ..Rows::default()
    });
    tally.snapshot(0)
}

fn summed(pid: u32, about: About, calls: u64) -> Row {
    Row {
        pid,
        key: pid.into(),
        about,
        line: 5,
        several_lines: false,
        calls,
        unmatched: 0,
        self_ns: 100 * calls,
        cumulative_ns: 100 * calls,
        timed: calls,
        timed_ns: 100 * calls,
        durations: Histogram::of_buckets([(7, calls)], 100 * calls, 100, 100),
    }
}

#[test]
fn sums_of_the_kernel_are_shown_like_others() {
    let mut state = State::new("nova", Column::SelfTime, 1_000);
    let load = || About::Function(place("load"));
    state.show(from_the_kernel(vec![
        summed(1, load(), 4),
        summed(2, load(), 6),
        summed(3, About::Collections, 1_000_000),
    ]));
    let lines = drawn(&mut state, 100, 24);
    assert_eq!(
        lines[0],
        "gc 5.0%  lost 0  2 s  3 processes  1 function  nova"
    );
    assert_eq!(
        lines[2],
        "       10       5.0  1.00us 100.0  1.00us   100ns   100ns   100ns  load  app.py:5"
    );
}

#[test]
fn a_full_table_is_shown_where_nobody_can_miss_it() {
    let mut state = State::new("nova", Column::SelfTime, 1_000);
    state.show(from_the_kernel(vec![summed(0, About::NoRoom, 12)]));
    let first = &drawn(&mut state, 80, 5)[0];
    assert!(first.contains("TABLE FULL, 12 calls in no row"), "{first}");
}

#[test]
fn rows_of_a_process_that_has_ended_do_not_bring_it_back() {
    let mut tally = tally(&[]);
    let rows = || Rows {
        rows: vec![summed(7, About::Function(place("f")), 1)],
        ..Rows::default()
    };
    tally.tally.take_rows(rows());
    assert_eq!(tally.snapshot(0).processes, 1);
    let what = What::Process {
        change: ProcessChange::Exit,
        parent: None,
        command: None,
    };
    let mut exit = event(9, what);
    (exit.pid, exit.tid) = (7, 7);
    tally.take(&exit);
    tally.tally.take_rows(rows());
    assert_eq!(tally.snapshot(0).processes, 0);
}

#[test]
fn names_cannot_obey_the_terminal() {
    let mut state = State::new("evil\u{1b}[2J", Column::SelfTime, 1_000);
    state.show(tally(&[call(1, "\u{1b}[31mred\r\n")]).snapshot(10));
    let lines = drawn(&mut state, 120, 5);
    assert!(lines[2].contains("\\u{1b}[31mred\\u{d}\\u{a}"), "{lines:?}");
    assert!(lines[0].contains("evil\\u{1b}"), "{lines:?}");
}

#[test]
fn a_reset_forgets_the_numbers_and_not_what_is_open() {
    let mut tally = tally(&events());
    tally.tally.reset(1_700_000_000);
    tally.take(&returned(2_000_000_000, "main"));
    let snapshot = tally.snapshot(2_000_000_000);
    assert_eq!(snapshot.functions.rows().len(), 1);
    assert_eq!(snapshot.functions.rows()[0].cumulative_ns, 1_000_000_000);
    assert_eq!(snapshot.account.wall_ns, 300_000_000);
}

#[test]
fn processes_that_end_are_no_longer_counted_among_the_traced() {
    let mut events = events();
    let mut end = event(
        1_900_000_000,
        What::Process {
            change: ProcessChange::Exit,
            parent: None,
            command: None,
        },
    );
    (end.pid, end.tid) = (2, 2);
    events.push(end);
    let snapshot = tally(&events).snapshot(0);
    assert_eq!(snapshot.processes, 1);
    assert_eq!(snapshot.functions.rows().len(), 4, "what it did stays");
}

/// Printed rather than asserted tightly: the bound is for optimised builds on a quiet machine.
#[test]
fn fifty_thousand_functions_are_refreshed_in_a_moment() {
    let mut tally = Fed::new();
    for number in 0..50_000u64 {
        let place = place(&format!("function_{number}"));
        let line = 1;
        tally.take(&event(
            10 * number + 1,
            What::Call {
                place: place.clone(),
                line,
                frame: crate::event::Frame::default(),
            },
        ));
        let what = What::Return {
            place,
            line,
            duration_ns: None,
            frame: crate::event::Frame::default(),
        };
        tally.take(&event(10 * number + 3 + number % 5, what));
    }
    let mut state = State::new("all", Column::P95, 1_000);
    let begun = Instant::now();
    state.show(tally.snapshot(0));
    drawn(&mut state, 80, 24);
    let took = begun.elapsed();
    assert_eq!(state.rows().len(), 50_000);
    println!("50 000 functions: {took:?}");
    assert!(took.as_secs() < 5, "{took:?}");
}
