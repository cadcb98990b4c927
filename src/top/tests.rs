//! The table as it stands on a terminal of any size, and what the keys do to it.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Instant;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};

use super::look::Look;
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
        "gc 2.0%  lost 0  1 s  nova  2 processes  3 functions"
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
        "        2   210ms  20.8   210ms   105ms  ~200ms   200ms  load  app.py:1"
    );
    assert!(
        lines[23].starts_with("q end  ? help  enter callers"),
        "{lines:?}"
    );
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
    // Before what is less important.
    let begins = "gc 0.0%  lost 0  1 s  nova, only file */nova/*  1 process  3 functions";
    assert!(lines[0].starts_with(begins), "{lines:?}");
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
    assert!(drawn(&mut state, 80, 24)[23].starts_with("only sa (Esc: all)  q end"));
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
    let lines = drawn(&mut state, 80, 40);
    assert!(lines.iter().any(|it| it.contains("sort by that column")));
    assert!(lines.contains(&"any key: close this help".to_owned()));
    assert_eq!(keys(&mut state, "q"), Action::Draw, "it closes the help");
    assert!(drawn(&mut state, 80, 24)[1].contains("CALLS"));
}

#[test]
fn each_key_does_one_thing_and_help_has_it_whatever_the_terminal() {
    let mut all: Vec<Key> = Vec::new();
    for binding in state::KEYS {
        for key in binding.keys {
            assert!(!all.contains(key), "{key:?} does two things");
            all.push(*key);
            assert_eq!(key::command(state::KEYS, *key), Some(binding.command));
        }
    }
    assert_eq!(key::command(state::KEYS, Key::Char('x')), None);
    for (width, height) in [(80, 24), (20, 5), (40, 2), (300, 100)] {
        let mut state = state();
        state.look = Look {
            colours: true,
            bars: true,
        };
        keys(&mut state, "?");
        let mut seen = String::new();
        for _ in 0..200 {
            if !state.help.is_open() {
                break;
            }
            for line in drawn(&mut state, width, height) {
                seen.push_str(&line);
                seen.push('\n');
            }
            state.key(Key::Enter);
        }
        assert!(!state.help.is_open(), "any key goes on");
        for binding in state::KEYS {
            assert!(seen.contains(binding.shown), "{}:\n{seen}", binding.shown);
        }
        for colour in ["red", "yellow", "magenta", "blue", "cyan", "ACTIVITY"] {
            assert!(seen.contains(colour), "{colour}:\n{seen}");
        }
    }
}

/// Functions of which each took as many milliseconds as its number says, in a table after so many seconds.
fn numbered(times: &[u64], seconds: u64) -> Snapshot {
    let rows = times.iter().enumerate().map(|(number, &ms)| Row {
        self_ns: ms * 1_000_000,
        key: number as u64,
        ..summed(1, About::Function(place(&format!("f{number}"))), 1)
    });
    let mut tally = tally(&[]);
    tally.tally.take_rows(Rows {
        age_ns: seconds * 1_000_000_000,
        rows: rows.collect(),
        ..Rows::default()
    });
    tally.snapshot(0)
}

/// What is drawn in reverse, but for the heading.
fn selected_line(state: &mut State, width: u16, height: u16) -> Option<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
    let draw = terminal.draw(|frame| view::draw(frame, state));
    draw.expect("memory");
    let buffer = terminal.backend().buffer();
    let line = |y| -> String { (0..width).map(|x| buffer[(x, y)].symbol()).collect() };
    let is_reversed = |y| buffer[(0, y)].modifier.contains(Modifier::REVERSED);
    (2..height).find(|&y| is_reversed(y)).map(line)
}

#[test]
fn a_selected_function_stays_so_while_the_table_changes_its_order() {
    let mut state = State::new("nova", Column::SelfTime, 1_000);
    state.show(numbered(&[50, 40, 30, 20], 1));
    assert_eq!(selected_line(&mut state, 80, 10), None);
    keys(&mut state, "jj");
    let shown = |state: &mut State, height| selected_line(state, 80, height).expect("a selection");
    assert!(shown(&mut state, 10).contains(" f1 "), "the second");
    state.show(numbered(&[50, 40, 300, 200], 2));
    assert!(shown(&mut state, 10).contains(" f1 "), "the last by now");
    assert!(shown(&mut state, 5).contains(" f1 "), "it is scrolled to");
    state.key(Key::Up);
    assert!(shown(&mut state, 10).contains(" f0 "));
    keys(&mut state, "/f3");
    state.key(Key::Enter);
    assert_eq!(selected_line(&mut state, 80, 10), None, "not in the table");
    state.key(Key::Escape);
    assert!(shown(&mut state, 10).contains(" f0 "));
    state.key(Key::Escape);
    assert_eq!(selected_line(&mut state, 80, 10), None);
}

fn with_callers() -> State {
    let mut fed = Fed::new();
    fed.tally = Tally::new().with_callers();
    for event in events() {
        fed.take(&event);
    }
    let mut state = State::new("nova", Column::SelfTime, 1_000);
    state.show(fed.snapshot(2_000_000_000));
    state
}

#[test]
fn callers_and_callees_of_the_selected_function_are_shown_with_calls_and_time() {
    let mut state = with_callers();
    state.key(Key::Enter);
    let lines = drawn(&mut state, 80, 24);
    assert!(lines[2].contains(" main "), "{lines:?}");
    let pane: Vec<&str> = lines[12..20].iter().map(String::as_str).collect();
    assert_eq!(
        pane,
        [
            " main  app.py:1",
            "    CALLS     TIME     %  CALLED BY",
            "        1    1.00s 100.0  (nobody who is traced)",
            "    CALLS     TIME     %  CALLS",
            "        1    200ms  20.0  load  app.py:1",
            "        2    100ms  10.0  save  app.py:1",
            "",
            "",
        ]
    );
    state.key(Key::Down);
    let lines = drawn(&mut state, 80, 24);
    assert_eq!(lines[12].trim_end(), " load  app.py:1");
    assert_eq!(lines[14], "        1    200ms  95.2  main  app.py:1");
    assert_eq!(
        lines[16],
        "    CALLS     TIME     %  CALLS (nobody that was seen)"
    );
    keys(&mut state, "m");
    state.key(Key::Enter);
    let lines = drawn(&mut state, 80, 24);
    assert_eq!(lines[12].trim_end(), " main  app.py:1", "{lines:?}");
    state.key(Key::Escape);
    assert!(
        !drawn(&mut state, 80, 24)
            .iter()
            .any(|it| it.contains("CALLED BY"))
    );
}

#[test]
fn on_a_small_terminal_callers_take_the_place_of_the_table() {
    let mut state = with_callers();
    state.key(Key::Enter);
    let lines = drawn(&mut state, 20, 5);
    assert_eq!(lines[1].trim_end(), " main  app.py:1");
    assert!(lines[2].starts_with(" by … who is traced)"), "{lines:?}");
    assert!(lines[3].starts_with(" calls load"), "{lines:?}");
    for (width, height) in [(0, 0), (1, 1), (20, 2), (20, 3), (300, 100)] {
        drawn(&mut state, width, height);
    }
}

#[test]
fn where_sums_are_made_elsewhere_it_is_said_that_callers_are_not_known() {
    let mut state = State::new("nova", Column::SelfTime, 1_000);
    state.show(numbered(&[50], 1));
    state.key(Key::Enter);
    let lines = drawn(&mut state, 80, 24).join("\n");
    assert!(lines.contains("Who called it is not known"), "{lines}");
    assert!(lines.contains("--no-kernel-totals"), "{lines}");
}

#[test]
fn rows_have_bars_of_what_they_did_lately_where_there_is_room() {
    let mut state = State::new("nova", Column::SelfTime, 1_000);
    state.look.bars = true;
    for (seconds, times) in [
        (1, [0, 100]),
        (2, [0, 200]),
        (3, [800, 200]),
        (4, [1_200, 300]),
    ] {
        state.show(numbered(&times, seconds));
    }
    let lines = drawn(&mut state, 70, 10);
    assert_eq!(
        lines[1].trim_end(),
        "    CALLS    SELF     %     CUM     AVG ACTIVITY  FUNCTION  FILE"
    );
    assert!(lines[2].contains("      █▅  f0  app.py"), "{lines:?}");
    assert!(lines[3].contains("     █ █  f1  app.py"), "{lines:?}");
    assert!(!drawn(&mut state, 50, 10)[1].contains("ACTIVITY"));
    state.look.bars = false;
    assert!(!drawn(&mut state, 200, 10)[1].contains("ACTIVITY"));
}

#[test]
fn colours_say_what_is_hot_and_what_has_just_become_so() {
    let look = |state: &mut State, x: u16, y: u16| {
        let mut terminal = Terminal::new(TestBackend::new(80, 10)).expect("memory");
        let draw = terminal.draw(|frame| view::draw(frame, state));
        draw.expect("memory");
        terminal.backend().buffer()[(x, y)].fg
    };
    let mut state = State::new("nova", Column::SelfTime, 1_000);
    state.look.colours = true;
    for (seconds, times) in [
        (1, [0, 1_000, 60]),
        (2, [0, 2_000, 120]),
        (3, [0, 3_000, 180]),
        (4, [0, 4_000, 240]),
        (5, [500, 5_000, 300]),
    ] {
        state.show(numbered(&times, seconds));
    }
    let lines = drawn(&mut state, 80, 10);
    let name = |line: usize| lines[line].find(" f").expect("a name") as u16 + 1;
    assert!(
        lines[2].contains(" f1 ") && lines[3].contains(" f0 "),
        "{lines:?}"
    );
    // The last digit of its own time.
    assert_eq!(look(&mut state, 16, 2), Color::Red);
    assert_eq!(look(&mut state, 16, 3), Color::Yellow);
    assert_eq!(look(&mut state, name(3), 3), Color::Magenta);
    assert_eq!(look(&mut state, name(2), 2), Color::Reset);
    state.look.colours = false;
    assert_eq!(look(&mut state, 16, 2), Color::Reset);
}

#[test]
fn what_is_said_has_as_many_lines_as_it_needs_and_a_table_without_rows_says_why_it_has_none() {
    let mut state = state();
    let reason = "no exact numbers: the interpreter lacks the probes, so install the agent and restart the process once, or \
                  use --inject ptrace";
    state.say(reason);
    let lines = drawn(&mut state, 80, 24);
    let said = [lines[22].trim_end(), lines[23].trim_end()].join(" ");
    assert_eq!(said, reason);
    assert!(!lines.concat().contains("no call so far"), "{lines:?}");
    let mut empty = State::new("nova", Column::SelfTime, 1_000);
    let mut snapshot = Fed::new().snapshot(2_000_000_000);
    snapshot.account.wall_ns = 1_000_000_000;
    empty.show(snapshot);
    let lines = drawn(&mut empty, 80, 24);
    assert!(
        lines[2].starts_with("no call so far; a function that was called before"),
        "{lines:?}"
    );
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
        "gc 5.0%  lost 0  2 s  nova  3 processes  1 function"
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

#[test]
fn what_events_cost_is_taken_out_of_all_times_once_it_is_known_and_stays_known() {
    let mut tally = tally(&events());
    let own = |tally: &Fed| {
        let snapshot = tally.snapshot(2_000_000_000);
        (snapshot.account.net_self_ns, snapshot.account.self_ns)
    };
    let (net, raw) = own(&tally);
    assert_eq!(net, raw, "nobody knows yet");
    let cost = Cost::new(NonZeroU64::new(20).expect("more than nothing"), None);
    tally.tally.event_cost(cost);
    let (net, same) = own(&tally);
    assert!(net < raw && same == raw, "{net} of {raw}");
    tally.tally.reset(0);
    let overhead = tally.snapshot(2_000_000_000).functions.overhead();
    assert_eq!(overhead, Overhead::Unknown.refined(cost));
}
