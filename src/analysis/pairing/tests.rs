//! Every habit of the marks by its name, and a model of programs whose true durations are known.

use proptest::prelude::*;

use super::thread::{MAX_PASSED_OVER, PASSED_OVER_FOR_NS};
use super::*;
use crate::analysis::testing::{in_context, returned, told};
use crate::event::Plain;
use crate::event::{self, Text};
use crate::probe::Probe;

const UP_TO_3_11: PairingRules = PairingRules {
    call_on_creation: false,
    greenlets: false,
};
const FROM_3_15: PairingRules = PairingRules {
    call_on_creation: true,
    greenlets: false,
};

fn text(text: &str) -> Text {
    Text {
        text: text.to_owned(),
        ..Text::default()
    }
}

/// A new `Arc` each time, so that matching by value is tested as well.
fn place(function: &str) -> Arc<Place> {
    Arc::new(Place {
        file: text("app.py"),
        function: text(function),
        qualname: None,
        group: None,
    })
}

fn event(ts: u64, what: What) -> Event {
    Event {
        ts,
        pid: 1,
        tid: 1,
        interpreter: None,
        what,
    }
}

fn call(ts: u64, function: &str) -> Event {
    let place = place(function);
    event(
        ts,
        What::Call {
            place,
            line: 1,
            frame: event::Frame::default(),
        },
    )
}

/// Where returns leave it.
fn goes_on(mut call: Event) -> Event {
    if let What::Call { line, .. } = &mut call.what {
        *line = 2;
    }
    call
}

fn ret(ts: u64, function: &str) -> Event {
    let what = What::Return {
        place: place(function),
        line: 2,
        duration_ns: None,
        frame: event::Frame::default(),
    };
    event(ts, what)
}

fn loss(ts: u64) -> Event {
    let what = What::Lost {
        count: 1,
        stage: crate::event::LossStage::Kernel,
        message: String::new(),
    };
    event(ts, what)
}

/// Feeds `E name`, `G name` (a generator goes on) and `R name` words, one nanosecond apart, and answers the durations of the returns.
fn durations(pairing: &mut Pairing, script: &str) -> Vec<Option<u64>> {
    let words: Vec<&str> = script.split_whitespace().collect();
    let mut durations = Vec::new();
    for (ts, word) in words.chunks(2).enumerate() {
        let mut event = match word {
            ["E", function] => call(ts as u64, function),
            ["G", function] => goes_on(call(ts as u64, function)),
            ["R", function] => ret(ts as u64, function),
            ["-", _] => loss(ts as u64),
            _ => panic!("{word:?}"),
        };
        pairing.feed(&mut event);
        if let What::Return { duration_ns, .. } = event.what {
            durations.push(duration_ns);
        }
    }
    durations
}

#[test]
fn calls_and_recursion_pair_and_leave_nothing_open() {
    for rules in [UP_TO_3_11, FROM_3_15] {
        let mut pairing = Pairing::with_rules(rules);
        // See generators_tests.rs for functions that are not known to be plain.
        let got = durations(&mut pairing, "E a R a E a E a E b R b R a R a");
        assert_eq!(got, [Some(1), Some(1), Some(3), Some(5)]);
        assert_eq!(pairing.unpaired(), Unpaired::default());
        assert_eq!(pairing.depth(1, 1), 0);
    }
}

#[test]
fn a_return_is_as_deep_as_its_call() {
    let mut pairing = Pairing::new();
    let mut events = [call(0, "a"), call(1, "b"), ret(2, "b"), ret(3, "a")];
    let depths: Vec<_> = events.iter_mut().map(|it| pairing.feed(it)).collect();
    assert_eq!(depths, [Some(0), Some(1), Some(1), Some(0)]);
}

#[test]
fn returns_of_calls_before_tracing_began_are_counted_and_get_no_duration() {
    let mut pairing = Pairing::new();
    let got = durations(&mut pairing, "E a R a R b E c R c R main");
    assert_eq!(got, [Some(1), None, Some(1), None]);
    assert_eq!(
        pairing.unpaired(),
        Unpaired {
            calls: 0,
            returns: 2
        }
    );
}

#[test]
fn a_generator_created_in_3_15_does_not_disturb_its_creator_or_its_resumptions() {
    let mut pairing = Pairing::with_rules(FROM_3_15);
    let got = durations(
        &mut pairing,
        "E f E gen E gen R gen G gen R gen R f E k R k",
    );
    assert_eq!(got, [Some(1), Some(1), Some(6), Some(1)]);
    assert_eq!(
        pairing.unpaired(),
        Unpaired {
            calls: 1,
            returns: 0
        }
    );
    assert_eq!(pairing.depth(1, 1), 0);
}

#[test]
fn throw_into_a_generator_of_a_creator_that_returned_gets_no_duration() {
    let mut pairing = Pairing::with_rules(FROM_3_15);
    let script = "E helper E gen R helper E enter E gen R gen R enter E exit R gen R exit";
    let got = durations(&mut pairing, script);
    assert_eq!(got, [Some(2), Some(1), Some(3), None, Some(2)]);
}

#[test]
fn throw_into_a_known_generator_does_not_take_the_frame_that_throws() {
    let mut pairing = Pairing::with_rules(FROM_3_15);
    durations(&mut pairing, "E f E gen R f");
    let got = durations(&mut pairing, "E g E gen E thrower R gen R thrower R g");
    assert_eq!(got, [None, Some(2), Some(5)]);
}

#[test]
fn a_generator_that_runs_itself_never_gets_the_duration_of_another_run() {
    let mut pairing = Pairing::with_rules(FROM_3_15);
    durations(&mut pairing, "E f E walk R f");
    let got = durations(
        &mut pairing,
        "E f E walk E walk E walk E walk R walk R walk R f",
    );
    // The first could be of one that has made the next.
    assert_eq!(got, [None, None, Some(7)]);
}

#[test]
fn the_extra_return_of_the_init_shim_is_ignored_and_said_to_be_no_event() {
    let mut pairing = Pairing::with_rules(FROM_3_15);
    pairing.feed(&mut call(0, "f"));
    let what = What::Return {
        place: Arc::new(Place {
            file: text("__init__"),
            function: text("__init__"),
            qualname: None,
            group: None,
        }),
        line: -1,
        duration_ns: None,
        frame: event::Frame::default(),
    };
    assert_eq!(pairing.feed(&mut event(1, what)), None);
    assert_eq!(pairing.unpaired(), Unpaired::default());
    assert_eq!(pairing.depth(1, 1), 1);
    let mut real = ret(2, "__init__");
    assert_eq!(pairing.feed(&mut real), Some(1), "a real one is an event");
}

#[test]
fn greenlets_that_interleave_keep_their_durations() {
    let mut pairing = Pairing::with_rules(UP_TO_3_11);
    let script = "E hub E a1 E a2 E b1 E b2 R a2 E a3 R b2 R a3 R b1 R a1 R hub";
    let got = durations(&mut pairing, script);
    assert_eq!(got, [Some(3), Some(3), Some(2), Some(6), Some(9), Some(11)]);
    assert_eq!(pairing.unpaired(), Unpaired::default());
}

#[test]
fn greenlets_in_the_same_function_get_no_durations_rather_than_each_others() {
    let mut pairing = Pairing::with_rules(PairingRules {
        greenlets: true,
        ..UP_TO_3_11
    });
    let got = durations(&mut pairing, "E work E work R work R work E work R work");
    assert_eq!(got, [None, None, Some(1)]);
}

#[test]
fn greenlets_betray_themselves_and_are_remembered() {
    let mut pairing = Pairing::with_rules(UP_TO_3_11);
    durations(&mut pairing, "E a E b R a R b");
    let got = durations(&mut pairing, "E work E work R work R work");
    assert_eq!(got, [None, None]);
}

#[test]
fn frames_that_return_across_a_loss_have_no_duration_and_the_others_are_counted() {
    let mut pairing = Pairing::with_rules(UP_TO_3_11);
    let got = durations(&mut pairing, "E a E b E c - - R a R x E d R d");
    assert_eq!(got, [None, None, Some(1)], "`a` may have been called anew");
    assert_eq!(
        pairing.unpaired(),
        Unpaired {
            calls: 2,
            returns: 1
        }
    );
    // What was dropped with the loss is no sign of greenlets: recursion pairs as before.
    let got = durations(&mut pairing, "E r E r R r R r");
    assert_eq!(got, [Some(1), Some(3)]);
}

#[test]
fn what_the_agent_told_before_a_loss_ends_with_its_caller() {
    let tell = |event: Event| match &event.what {
        What::Call { place, .. } | What::Return { place, .. } => {
            let name = place.function.text.clone();
            told(&name, 1, Manner::Plain, event)
        }
        _ => event,
    };
    let mut pairing = Pairing::with_rules(UP_TO_3_11);
    let mut open = |event: Event| {
        pairing.feed(&mut tell(event));
        let open = pairing.open().map(|it| it.place.function.text.clone());
        open.collect::<Vec<_>>().join(" ")
    };
    for (event, expected) in [
        (call(0, "main"), "main"),
        (call(10, "work"), "main work"),
        (call(20, "leaf"), "main work leaf"),
        (loss(30), "main work leaf"),
        (call(40, "leaf"), "main work leaf leaf"),
        (returned(50, "leaf"), "main work leaf"),
        // The call before the loss has no return: that is lost, and no other stack's.
        (returned(60, "work"), "main"),
        (returned(70, "main"), ""),
    ] {
        assert_eq!(open(event), expected);
    }
    let unpaired = Unpaired {
        calls: 1,
        returns: 0,
    };
    assert_eq!(pairing.unpaired(), unpaired);
}

#[test]
fn what_one_process_has_lost_leaves_the_durations_of_others_alone() {
    let of = |pid: u32, event: Event| Event {
        pid,
        tid: pid,
        ..event
    };
    let mut pairing = Pairing::with_rules(UP_TO_3_11);
    let mut durations = |lost: u32| {
        for pid in [1, 2] {
            pairing.feed(&mut of(pid, call(0, "f")));
        }
        pairing.feed(&mut of(lost, loss(5)));
        [1, 2].map(|pid| {
            let mut event = of(pid, returned(9, "f"));
            pairing.feed(&mut event);
            match event.what {
                What::Return { duration_ns, .. } => duration_ns,
                _ => None,
            }
        })
    };
    assert_eq!(durations(2), [Some(9), None]);
    assert_eq!(durations(0), [None, None], "nobody knows whose");
    assert_eq!(durations(7), [Some(9), Some(9)]);
}

#[test]
fn a_duration_that_the_kernel_measured_is_kept_and_opens_nothing() {
    let mut pairing = Pairing::new();
    let what = What::Return {
        place: place("f"),
        line: 1,
        duration_ns: Some(77),
        frame: event::Frame::default(),
    };
    let mut finished = event(5, what.clone());
    assert_eq!(pairing.feed(&mut finished), Some(0));
    assert_eq!(finished.what, what);
    assert_eq!(pairing.unpaired(), Unpaired::default());
}

#[test]
fn threads_do_not_see_each_other() {
    let mut pairing = Pairing::new();
    let mut other = ret(3, "f");
    other.tid = 2;
    pairing.feed(&mut call(0, "f"));
    pairing.feed(&mut other);
    let mut own = ret(4, "f");
    pairing.feed(&mut own);
    assert!(matches!(
        other.what,
        What::Return {
            duration_ns: None,
            ..
        }
    ));
    assert!(matches!(
        own.what,
        What::Return {
            duration_ns: Some(4),
            ..
        }
    ));
}

#[test]
fn a_process_that_ends_or_becomes_another_program_is_forgotten() {
    for change in [ProcessChange::Exit, ProcessChange::Exec] {
        let mut pairing = Pairing::new();
        let what = What::Process {
            change,
            parent: None,
            command: None,
        };
        pairing.feed(&mut call(0, "f"));
        pairing.feed(&mut event(1, what));
        assert!(pairing.threads.is_empty());
        assert_eq!(durations(&mut pairing, "R f"), [None]);
    }
}

#[test]
fn a_child_inherits_the_habits_of_its_parent() {
    let mut pairing = Pairing::new();
    pairing.set_rules(7, UP_TO_3_11);
    let what = What::Process {
        change: ProcessChange::Fork,
        parent: Some(7),
        command: None,
    };
    pairing.feed(&mut event(0, what));
    let got = durations(&mut pairing, "E a E b R a R b");
    assert_eq!(got, [Some(2), Some(2)], "b returns although a went first");
}

#[test]
fn a_collection_gets_generation_and_pause_from_its_start() {
    let done = |ts| {
        let what = What::GcDone {
            generation: None,
            collected: 3,
            pause_ns: None,
        };
        event(ts, what)
    };
    let filled = |pairing: &mut Pairing, ts| {
        let mut event = done(ts);
        pairing.feed(&mut event);
        match event.what {
            What::GcDone {
                generation,
                pause_ns,
                ..
            } => (generation, pause_ns),
            other => panic!("{other:?}"),
        }
    };
    let mut pairing = Pairing::new();
    assert_eq!(filled(&mut pairing, 1), (None, None));
    pairing.feed(&mut event(2, What::GcStart { generation: 2 }));
    pairing.feed(&mut event(4, What::GcStart { generation: 0 }));
    assert_eq!(filled(&mut pairing, 5), (Some(0), Some(1)));
    assert_eq!(filled(&mut pairing, 9), (Some(2), Some(7)));
    pairing.feed(&mut event(10, What::GcStart { generation: 1 }));
    pairing.feed(&mut loss(11));
    assert_eq!(
        filled(&mut pairing, 12),
        (None, None),
        "another one's start, perhaps"
    );
}

#[test]
fn imports_nest_and_one_whose_end_was_lost_does_not_disturb_the_outer_one() {
    let module = |name: &str| Arc::new(text(name));
    let begin = |ts, name| {
        event(
            ts,
            What::Plain(Plain::new(Probe::ImportStart, module(name))),
        )
    };
    let end = |pairing: &mut Pairing, ts, name| {
        let what = What::Plain(Plain {
            number: 1,
            ..Plain::new(Probe::ImportDone, module(name))
        });
        let mut event = event(ts, what);
        pairing.feed(&mut event);
        match event.what {
            What::Plain(plain) => plain.duration_ns,
            other => panic!("{other:?}"),
        }
    };
    let mut pairing = Pairing::new();
    for (ts, name) in [(0, "a"), (1, "a.b"), (2, "a.b.c")] {
        pairing.feed(&mut begin(ts, name));
    }
    assert_eq!(end(&mut pairing, 5, "a.b"), Some(4));
    assert_eq!(end(&mut pairing, 6, "a"), Some(6));
    assert_eq!(end(&mut pairing, 7, "a.b.c"), None);
}

#[test]
fn a_clock_that_runs_backwards_gives_no_duration() {
    let mut pairing = Pairing::new();
    pairing.feed(&mut call(10, "f"));
    let mut left = ret(9, "f");
    pairing.feed(&mut left);
    assert!(matches!(
        left.what,
        What::Return {
            duration_ns: None,
            ..
        }
    ));
}

#[test]
fn endless_recursion_is_bounded_and_its_inner_frames_stay_exact() {
    let mut pairing = Pairing::new();
    let deep = 3 * MAX_FRAMES as u64;
    // It is plain.
    pairing.feed(&mut call(0, "f"));
    pairing.feed(&mut ret(0, "f"));
    for ts in 0..deep {
        pairing.feed(&mut call(ts, "f"));
    }
    assert_eq!(pairing.threads[&(1, 1)].frames.len(), MAX_FRAMES);
    for back in 0..deep {
        let mut left = ret(deep + back, "f");
        pairing.feed(&mut left);
        let expected = (back < MAX_FRAMES as u64).then_some(2 * back + 1);
        assert!(
            matches!(left.what, What::Return { duration_ns, .. } if duration_ns == expected),
            "{back}: {left:?}"
        );
    }
}

#[test]
fn creations_are_forgotten_when_there_are_too_many_and_when_they_are_old() {
    let mut pairing = Pairing::with_rules(FROM_3_15);
    for round in 0..10 * MAX_PASSED_OVER as u64 {
        pairing.feed(&mut call(3 * round, "f"));
        pairing.feed(&mut call(3 * round + 1, "gen"));
        pairing.feed(&mut ret(3 * round + 2, "f"));
        assert!(pairing.threads[&(1, 1)].frames.len() <= MAX_PASSED_OVER + 2);
    }
    let later = 2 * PASSED_OVER_FOR_NS;
    for mut event in [call(later, "f"), call(later, "gen"), ret(later, "f")] {
        pairing.feed(&mut event);
    }
    assert_eq!(pairing.threads[&(1, 1)].frames.len(), 1);
}

#[test]
fn a_program_with_ever_new_threads_does_not_fill_the_memory() {
    let mut pairing = Pairing::new();
    for tid in 1..5 * MAX_THREADS as u32 {
        let mut one = call(u64::from(tid), "f");
        one.tid = tid;
        pairing.feed(&mut one);
        assert!(pairing.threads.len() <= MAX_THREADS);
    }
    let newest = (1, 5 * MAX_THREADS as u32 - 1);
    assert!(pairing.threads.contains_key(&newest));
}

/// What a program of the model does next; numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Call(usize),
    Leave,
    Unwind(usize),
    Create(usize),
    Resume(usize),
    Throw(usize),
    Switch(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..5usize).prop_map(Step::Call),
        6 => Just(Step::Leave),
        1 => (2..4usize).prop_map(Step::Unwind),
        2 => (0..4usize).prop_map(Step::Create),
        3 => any::<usize>().prop_map(Step::Resume),
        1 => any::<usize>().prop_map(Step::Throw),
        2 => (0..3usize).prop_map(Step::Switch),
    ];
    proptest::collection::vec(step, 0..120)
}

/// A frame of the model.
#[derive(Debug)]
struct Running {
    function: String,
    /// When its mark fired; `None` for a frame that `throw()` entered.
    since: Option<u64>,
    generator: Option<usize>,
    /// No other frame of the function was open while it was.
    alone: bool,
}

#[derive(Debug)]
struct Generator {
    function: String,
    stack: usize,
    started: bool,
    running: bool,
}

/// Python as far as the marks show it: three stacks of frames in one thread, generators that belong to one of them.
struct Model {
    rules: PairingRules,
    /// Whether the stacks have functions in common.
    shared: bool,
    stacks: [Vec<Running>; 3],
    current: usize,
    generators: Vec<Generator>,
    ts: u64,
    /// Every mark that fired, with the truth about returns.
    marks: Vec<(Event, Option<Running>)>,
    threw: bool,
}

impl Model {
    fn run(rules: PairingRules, shared: bool, steps: &[Step]) -> Model {
        let mut model = Model {
            rules,
            shared,
            stacks: Default::default(),
            current: 0,
            generators: Vec::new(),
            ts: 0,
            marks: Vec::new(),
            threw: false,
        };
        for step in steps {
            model.step(step);
        }
        for stack in 0..model.stacks.len() {
            model.current = stack;
            while !model.stacks[stack].is_empty() {
                model.leave();
            }
        }
        model
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Call(number) => {
                let function = self.name("f", number);
                self.enter(function, None, true, true);
            }
            Step::Leave => self.leave(),
            Step::Unwind(frames) => (0..frames).for_each(|_| self.leave()),
            Step::Create(number) => {
                // One generator a function: what several of one function do to each other has a test of its own.
                let function = self.name("gen", number);
                let exists = self.generators.iter().any(|it| it.function == function);
                if exists || self.stacks[self.current].is_empty() {
                    return;
                }
                if self.rules.call_on_creation {
                    self.mark(call(0, &function), None);
                }
                self.generators.push(Generator {
                    function,
                    stack: self.current,
                    started: false,
                    running: false,
                });
            }
            Step::Resume(number) => self.enter_generator(number, true),
            Step::Throw(number) => self.enter_generator(number, false),
            Step::Switch(stack) => {
                if self.rules.greenlets {
                    self.current = stack;
                }
            }
        }
    }

    fn name(&self, kind: &str, number: usize) -> String {
        let stack = if self.shared { 0 } else { self.current };
        format!("{kind}{number}_of_{stack}")
    }

    fn enter_generator(&mut self, number: usize, resume: bool) {
        let mine: Vec<usize> = (0..self.generators.len())
            .filter(|&at| {
                let it = &self.generators[at];
                it.stack == self.current && !it.running && (resume || it.started)
            })
            .collect();
        let Some(&at) = mine.get(number % mine.len().max(1)) else {
            return;
        };
        self.generators[at].running = true;
        let first = !std::mem::replace(&mut self.generators[at].started, true);
        // Up to 3.11 `throw()` is marked as a call like any resumption.
        let marked = resume || !self.rules.call_on_creation;
        self.threw |= !marked;
        let function = self.generators[at].function.clone();
        self.enter(function, Some(at), marked, first);
    }

    fn enter(&mut self, function: String, generator: Option<usize>, marked: bool, first: bool) {
        let mut alone = true;
        for other in self.stacks.iter_mut().flatten() {
            if other.function == function {
                other.alone = false;
                alone = false;
            }
        }
        if marked {
            let entered = call(0, &function);
            let entered = if first { entered } else { goes_on(entered) };
            self.mark(entered, None);
        }
        let since = marked.then_some(self.ts);
        self.stacks[self.current].push(Running {
            function,
            since,
            generator,
            alone,
        });
    }

    fn leave(&mut self) {
        if let Some(frame) = self.stacks[self.current].pop() {
            if let Some(at) = frame.generator {
                self.generators[at].running = false;
            }
            self.mark(ret(0, &frame.function), Some(frame));
        }
    }

    fn mark(&mut self, mut event: Event, truth: Option<Running>) {
        // Steps that grow make every duration tell which pair of marks it is from.
        self.ts += 1 + self.marks.len() as u64;
        event.ts = self.ts;
        self.marks.push((event, truth));
    }
}

/// A return as pairing saw it, and the truth.
struct Judged {
    got: Option<u64>,
    right: Option<u64>,
    truth: Running,
}

fn judged(model: Model, pairing: &mut Pairing) -> Vec<Judged> {
    let mut judged = Vec::new();
    for (mut event, truth) in model.marks {
        pairing.feed(&mut event);
        if let (What::Return { duration_ns, .. }, Some(truth)) = (event.what, truth) {
            judged.push(Judged {
                got: duration_ns,
                right: truth.since.map(|since| event.ts - since),
                truth,
            });
        }
    }
    judged
}

#[test]
fn stacks_of_contexts_that_interleave_are_told_apart_exactly() {
    let mut pairing = Pairing::with_rules(PairingRules {
        call_on_creation: false,
        greenlets: false,
    });
    // Two greenlets run the same function in turns, and each returns while the other's is younger or older.
    let story = [
        (1, 0, true, "handle", 0),
        (1, 1, true, "wait", 1),
        (2, 10, true, "handle", 0),
        (2, 12, true, "wait", 1),
        (1, 20, false, "wait", 1),
        (2, 25, false, "wait", 1),
        (1, 30, false, "handle", 0),
        (2, 50, false, "handle", 0),
    ];
    let mut durations = Vec::new();
    for (context, ts, enters, function, depth) in story {
        let plain = if enters {
            call(ts, function)
        } else {
            ret(ts, function)
        };
        let mut event = in_context(context, ts, plain);
        assert_eq!(pairing.feed(&mut event), Some(depth), "{ts}");
        if let What::Return { duration_ns, .. } = event.what {
            durations.push(duration_ns);
        }
    }
    assert_eq!(durations, [Some(19), Some(13), Some(30), Some(40)]);
    assert_eq!(pairing.unpaired().total(), 0);
    assert_eq!(pairing.open().count(), 0);
}

#[test]
fn a_task_is_called_by_its_loop_and_not_by_the_task_before() {
    let mut pairing = Pairing::new();
    let stack = |pairing: &Pairing| -> Vec<String> {
        let open = pairing.stack(1, 1);
        open.map(|open| open.place.function.text.clone()).collect()
    };
    for (context, ts, enters, function) in [
        (0, 0, true, "run"),
        (7, 10, true, "first"),
        (7, 20, false, "first"),
        (8, 30, true, "second"),
    ] {
        let plain = if enters {
            call(ts, function)
        } else {
            ret(ts, function)
        };
        pairing.feed(&mut in_context(context, ts, plain));
    }
    assert_eq!(stack(&pairing), ["second", "run"]);
    pairing.feed(&mut in_context(8, 40, ret(40, "second")));
    assert_eq!(stack(&pairing), ["run"]);
}

#[test]
fn a_task_that_runs_a_greenlet_goes_on_when_that_has_ended() {
    let mut pairing = Pairing::new();
    let mut own = Vec::new();
    for (context, ts, enters, function) in [
        (0, 0, true, "run"),
        (7, 10, true, "handler"),
        (8, 20, true, "first"),
        (9, 30, true, "second"),
        (9, 35, false, "second"),
        (8, 45, false, "first"),
        (7, 245, false, "handler"),
        (0, 250, false, "run"),
    ] {
        let plain = if enters {
            call(ts, function)
        } else {
            ret(ts, function)
        };
        let mut event = in_context(context, ts, plain);
        let step = pairing.follow(&mut event).expect("it is shown");
        if let Some(ended) = step.finished {
            own.push((function, ended.self_ns, ended.inclusive_ns));
        }
    }
    let expected = [
        ("second", 5, Some(5)),
        ("first", 10 + 10, Some(25)),
        ("handler", 10 + 200, Some(235)),
        ("run", 10 + 5, Some(250)),
    ];
    assert_eq!(own, expected);
    let all: u64 = own.iter().map(|(_, own, _)| own).sum();
    assert_eq!(all, 250, "no time is nobody's");
}

#[test]
fn what_the_kernel_measured_in_a_context_needs_no_call_and_is_not_unpaired() {
    let mut pairing = Pairing::new();
    for (context, ts, function, took) in [(7, 30, "inner", 10), (7, 40, "outer", 35)] {
        let mut event = in_context(context, ts, ret(ts, function));
        if let What::Return { duration_ns, .. } = &mut event.what {
            *duration_ns = Some(took);
        }
        let step = pairing.follow(&mut event).expect("it is shown");
        let left = step.finished.expect("it is measured");
        assert!(left.measured && left.exact, "{left:?}");
        assert_eq!(left.self_ns, if function == "outer" { 25 } else { 10 });
    }
    assert_eq!(pairing.unpaired().total(), 0);
}

#[test]
fn a_frame_that_ran_before_tracing_began_has_no_duration() {
    let mut pairing = Pairing::with_rules(PairingRules {
        call_on_creation: false,
        greenlets: false,
    });
    let mut running = call(0, "serve");
    if let What::Call { frame, .. } = &mut running.what {
        frame.manner = event::Manner::Running;
    }
    pairing.feed(&mut running);
    let mut left = ret(50, "serve");
    assert_eq!(pairing.feed(&mut left), Some(0));
    assert!(matches!(
        left.what,
        What::Return {
            duration_ns: None,
            ..
        }
    ));
    assert_eq!(pairing.unpaired().total(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn up_to_3_11_every_return_has_its_exact_duration(steps in steps()) {
        let mut pairing = Pairing::with_rules(UP_TO_3_11);
        for it in judged(Model::run(UP_TO_3_11, false, &steps), &mut pairing) {
            prop_assert_eq!(it.got, it.right, "{:?}", it.truth);
        }
        prop_assert_eq!(pairing.unpaired(), Unpaired::default());
    }

    #[test]
    fn from_3_15_plain_frames_are_exact_whatever_generators_do(steps in steps()) {
        let model = Model::run(FROM_3_15, false, &steps);
        let threw = model.threw;
        for it in judged(model, &mut Pairing::with_rules(FROM_3_15)) {
            // A throw() takes a creation that may stand below plain frames: these may stay without a duration.
            let plain = it.truth.generator.is_none();
            if plain && !threw && it.truth.alone {
                prop_assert_eq!(it.got, it.right, "{:?}", it.truth);
            }
            // Nor may recursions as long as generators of their function are not ruled out.
            if it.right.is_some() {
                prop_assert!(it.got.is_none() || it.got == it.right, "{:?} {:?}", it.got, it.truth);
            }
        }
    }

    #[test]
    fn greenlets_never_get_a_wrong_duration_and_lone_functions_an_exact_one(
        steps in steps(), shared in any::<bool>(), call_on_creation in any::<bool>(),
    ) {
        let rules = PairingRules { call_on_creation, greenlets: true };
        let model = Model::run(rules, shared, &steps);
        for it in judged(model, &mut Pairing::with_rules(rules)) {
            if it.truth.alone && it.truth.generator.is_none() {
                prop_assert_eq!(it.got, it.right, "{:?}", it.truth);
            }
            prop_assert!(it.got.is_none() || it.got == it.right, "{:?} {:?}", it.got, it.truth);
        }
    }

    #[test]
    fn greenlets_that_nobody_announced_are_never_wrong_while_their_functions_differ(steps in steps()) {
        let rules = PairingRules { call_on_creation: false, greenlets: true };
        let model = Model::run(rules, false, &steps);
        for it in judged(model, &mut Pairing::with_rules(UP_TO_3_11)) {
            if it.truth.alone {
                prop_assert_eq!(it.got, it.right, "{:?}", it.truth);
            }
            prop_assert!(it.got.is_none() || it.got == it.right, "{:?} {:?}", it.got, it.truth);
        }
    }

    #[test]
    fn whatever_is_lost_memory_and_depth_stay_within_bounds(
        steps in steps(), dropped in any::<u64>(), announced in any::<bool>(),
    ) {
        let mut pairing = Pairing::new();
        for (at, (mut event, _)) in Model::run(FROM_3_15, true, &steps).marks.into_iter().enumerate() {
            if dropped >> (at % 64) & 1 == 1 {
                if announced {
                    pairing.feed(&mut loss(event.ts));
                }
                continue;
            }
            let depth = pairing.feed(&mut event);
            prop_assert!(depth.is_some_and(|depth| depth <= at));
        }
        for thread in pairing.threads.values() {
            let counted = thread.frames.iter().filter(|it| it.passed_over.is_some()).count();
            prop_assert_eq!(counted, thread.passed_over);
        }
    }
}

#[test]
fn what_is_open_in_many_threads_stays_within_a_budget_of_bytes() {
    let mut pairing = Pairing::with_rules(PairingRules {
        call_on_creation: false,
        greenlets: false,
    });
    for tid in 1..=MAX_THREADS as u32 {
        for depth in 0..1_000 {
            let mut event = call(u64::from(tid) * 10_000 + depth, "deep");
            event.tid = tid;
            pairing.feed(&mut event);
        }
        let held: usize = pairing.threads.values().map(Thread::bytes).sum();
        assert_eq!(pairing.held, held, "the account is right");
        assert!(held <= MAX_HELD + (1 << 20), "{held}");
    }
    let newest = MAX_THREADS as u32;
    assert_eq!(pairing.depth(1, newest), 1_000, "who runs now is kept");
    for depth in 0..1_000 {
        let mut event = returned(1 << 40 | depth, "deep");
        event.tid = newest;
        pairing.feed(&mut event);
    }
    let left = pairing.threads.get(&(1, newest)).map(Thread::bytes);
    assert!(
        left.is_some_and(|left| left <= 64 * size_of::<Frame>()),
        "{left:?}"
    );
    assert_eq!(pairing.unpaired().returns, 0);
}

#[test]
fn creations_behind_the_last_call_that_can_be_known_cost_nothing_and_are_told() {
    let mut creations = Creations::default();
    creations.set(70, true);
    creations.set(Creations::MOST, false);
    assert!(!creations.is_full());
    creations.set(u64::MAX, true);
    assert!(creations.is_full() && creations.contains(70));
    assert!(!creations.contains(u64::MAX) && creations.bits.len() == 2);
}

#[test]
fn objects_are_paired_by_class_and_apart_from_imports_and_from_their_end() {
    let plain = |ts, probe, subject: &str| {
        let subject = Arc::new(text(subject));
        event(ts, What::Plain(Plain::new(probe, subject)))
    };
    let mut pairing = Pairing::new();
    let mut took = |ts, probe, subject| {
        let mut event = plain(ts, probe, subject);
        pairing.feed(&mut event);
        match event.what {
            What::Plain(plain) => plain.duration_ns,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(took(0, Probe::InstanceNewStart, "A"), None);
    assert_eq!(took(1, Probe::ImportStart, "A"), None);
    assert_eq!(took(2, Probe::InstanceNewStart, "B"), None);
    assert_eq!(took(3, Probe::InstanceDeleteDone, "B"), None);
    // The end of B was lost.
    assert_eq!(took(5, Probe::InstanceNewDone, "A"), Some(5));
    assert_eq!(took(6, Probe::ImportDone, "A"), Some(5));
    assert_eq!(took(7, Probe::InstanceNewDone, "B"), None);
}

#[test]
fn a_wait_changes_no_stack_and_no_duration_nor_does_the_loss_of_one() {
    let wait = |ts| {
        let wait = crate::event::Wait {
            reason: Some(crate::event::Reason::Sleep),
            syscall: None,
            on: None,
            blocked_ns: 5,
            runqueue_ns: None,
            waker: None,
        };
        event(ts, What::Wait(Box::new(wait)))
    };
    let mut pairing = Pairing::new();
    let mut early = wait(5);
    let step = pairing.follow(&mut early).expect("it is shown");
    assert_eq!((step.depth(), step.caller), (0, None));
    pairing.feed(&mut call(10, "f"));
    let mut within = wait(20);
    let step = pairing.follow(&mut within).expect("it is shown");
    let caller = step.caller.map(|(_, place)| place.function.text.clone());
    assert_eq!((step.depth(), caller.as_deref()), (1, Some("f")));
    // One that comes late does not make time run twice, and is of what ran then.
    pairing.feed(&mut call(30, "g"));
    let mut late = wait(25);
    let step = pairing.follow(&mut late).expect("it is shown");
    let caller = step.caller.map(|(_, place)| place.function.text.clone());
    assert_eq!(caller.as_deref(), Some("f"));
    let lost = crate::event::loss::lost(32, 0, crate::event::LossStage::Waits, 3);
    pairing.feed(&mut lost.clone());
    let mut end = returned(40, "g");
    let step = pairing.follow(&mut end).expect("it is shown");
    let left = step.finished.expect("it was called");
    assert_eq!(
        (left.inclusive_ns, left.self_ns, left.exact),
        (Some(10), 10, true)
    );
    // What was open when calls were lost may have returned.
    let lost = crate::event::loss::lost(45, 0, crate::event::LossStage::Ring, 3);
    pairing.feed(&mut lost.clone());
    let mut after = wait(50);
    assert_eq!(
        pairing.follow(&mut after).expect("it is shown").caller,
        None
    );
    pairing.feed(&mut call(55, "h"));
    let mut again = wait(61);
    assert!(
        pairing
            .follow(&mut again)
            .expect("it is shown")
            .caller
            .is_some()
    );
}

/// A call with a field, as the agent tells it.
fn with_field(mut call: Event, value: &str) -> Event {
    if let What::Call { frame, .. } = &mut call.what {
        let value = event::FieldValue::Text(text(value));
        let name = "request".into();
        frame.fields = Some(Arc::new(event::Fields(vec![event::Field { name, value }])));
    }
    call
}

/// The field that each event has after it was paired.
fn fields(events: Vec<Event>) -> (Vec<String>, Pairing) {
    let mut pairing = Pairing::new();
    let mut all = Vec::new();
    for mut event in events {
        let step = pairing.follow(&mut event).expect("an event");
        let value = step.event.fields().and_then(|it| it.get("request"));
        all.push(value.map_or("-".to_owned(), ToString::to_string));
    }
    (all, pairing)
}

#[test]
fn a_return_has_the_fields_of_its_call() {
    let (all, _) = fields(vec![
        with_field(call(1, "handle"), "one"),
        with_field(call(2, "handle"), "two"),
        call(3, "query"),
        ret(4, "query"),
        ret(5, "handle"),
        ret(6, "handle"),
        ret(7, "handle"),
    ]);
    assert_eq!(all, ["one", "two", "-", "-", "two", "one", "-"]);
}

#[test]
fn what_a_return_tells_itself_stands_with_the_fields_of_its_call_in_the_order_of_names() {
    let told = |mut event: Event, fields: &[(&str, Option<&str>)]| {
        let field = |&(name, value): &(&str, Option<&str>)| event::Field {
            name: name.into(),
            value: match value {
                Some(value) => event::FieldValue::Text(text(value)),
                None => event::FieldValue::Absent("nothing is there".into()),
            },
        };
        let all = Arc::new(event::Fields(fields.iter().map(field).collect()));
        match &mut event.what {
            What::Call { frame, .. } | What::Return { frame, .. } => frame.fields = Some(all),
            other => panic!("{other:?}"),
        }
        event
    };
    let of_call = [
        ("b", Some("call")),
        ("c", Some("call")),
        ("d", Some("call")),
    ];
    let of_return = [("a", Some("return")), ("c", Some("return")), ("d", None)];
    let mut pairing = Pairing::new();
    let mut shown = |mut event: Event| -> Vec<String> {
        let step = pairing.follow(&mut event).expect("an event");
        let fields = step.event.fields().expect("fields").0.iter();
        fields
            .map(|it| format!("{} {}", it.name, it.value))
            .collect()
    };
    shown(told(call(1, "query"), &of_call));
    let all = shown(told(ret(2, "query"), &of_return));
    assert_eq!(all, ["a return", "b call", "c return", "d call"]);
    // As it is read from a recording.
    let whole = [
        ("a", Some("return")),
        ("b", Some("call")),
        ("c", Some("return")),
        ("d", Some("call")),
    ];
    shown(told(call(3, "query"), &of_call));
    assert_eq!(shown(told(ret(4, "query"), &whole)), all);
}

#[test]
fn a_return_tells_nothing_alone_where_its_call_was_not_seen_or_had_no_room() {
    let answers = |ts, name: &str| {
        let mut event = with_field(call(ts, name), "return");
        let What::Call { frame, .. } = &event.what else {
            unreachable!()
        };
        let frame = frame.clone();
        event = ret(ts, name);
        if let What::Return { frame: own, .. } = &mut event.what {
            own.fields = frame.fields;
        }
        event
    };
    let was_running = told("handle", 1, Manner::Running, call(1, "handle"));
    let (all, _) = fields(vec![was_running, answers(2, "handle")]);
    assert_eq!(all, ["-", "-"]);
    // One whose call has none keeps its own, also when others have had no room.
    let long = "x".repeat(17 << 20);
    let (all, pairing) = fields(vec![
        with_field(call(1, "long"), &long),
        call(2, "handle"),
        answers(3, "handle"),
        answers(4, "long"),
    ]);
    assert_eq!(pairing.without_fields(), 1);
    assert_eq!(all[1..], ["-", "return", "-"]);
}

#[test]
fn fields_of_open_calls_are_bounded_in_bytes_and_those_left_out_are_counted() {
    let long = "x".repeat(1 << 20);
    let calls = |from: u64| (from..from + 20).map(|ts| with_field(call(ts, "deep"), &long));
    let returns = |from: u64| (from..from + 20).map(|ts| ret(ts, "deep"));
    let once = calls(0).chain(returns(20));
    let (all, pairing) = fields(once.chain(calls(40)).chain(returns(60)).collect());
    let with = |part: &[String]| part.iter().filter(|it| *it != "-").count();
    assert_eq!(
        (with(&all[20..40]), with(&all[60..])),
        (15, 15),
        "what went gave its room back"
    );
    assert_eq!(pairing.without_fields(), 10);
}

/// Calls grouped by the field, and what each step says: its kind, its function and the number of its key.
fn grouped(events: Vec<Event>) -> (Vec<(String, u64)>, Pairing) {
    let mut pairing = Pairing::new().grouped("request");
    let mut all = Vec::new();
    for mut event in events {
        let step = pairing.follow(&mut event).expect("an event");
        let key = step.key.expect("a function").number();
        let (What::Call { place, .. } | What::Return { place, .. }) = &step.event.what else {
            panic!("{:?}", step.event);
        };
        all.push((place.name().text.clone(), key));
    }
    (all, pairing)
}

#[test]
fn calls_with_another_value_of_the_field_are_those_of_another_function() {
    let (all, pairing) = grouped(vec![
        with_field(call(1, "handle"), "one"),
        call(2, "query"),
        ret(3, "query"),
        with_field(call(4, "handle"), "two"),
        with_field(call(5, "handle"), "one"),
        ret(6, "handle"),
        ret(7, "handle"),
        ret(8, "handle"),
        call(9, "handle"),
        ret(10, "handle"),
    ]);
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    let (one, two) = ("handle [request=one]", "handle [request=two]");
    let expected = [
        one, "query", "query", two, one, one, two, one, "handle", "handle",
    ];
    assert_eq!(names, expected);
    for (name, key) in &all {
        let first = all.iter().find(|(other, _)| other == name);
        assert_eq!(first.map(|(_, key)| key), Some(key), "{name}");
    }
    let mut keys: Vec<u64> = all.iter().map(|(_, key)| *key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 4);
    assert_eq!(
        (pairing.unpaired().total(), pairing.without_group()),
        (0, 0)
    );
}

#[test]
fn values_are_bounded_and_further_ones_are_one() {
    let most = groups::MOST_VALUES as u64;
    let events = (0..most + 10).flat_map(|number| {
        let begins = with_field(call(2 * number, "handle"), &number.to_string());
        [begins, ret(2 * number + 1, "handle")]
    });
    let (all, pairing) = grouped(events.collect());
    let others = all
        .iter()
        .filter(|(name, _)| name == "handle [request=(others)]");
    assert_eq!((others.count(), pairing.without_group()), (20, 10));
    let (known, _) = &all[0];
    assert_eq!(known, "handle [request=0]");
}

#[test]
fn a_value_is_one_line_of_some_length_in_a_name_and_whole_beside_it() {
    let statement = format!(
        "SELECT\n    {}FROM instances WHERE id = ?",
        "column, ".repeat(50)
    );
    let (all, _) = grouped(vec![with_field(call(1, "execute"), &statement)]);
    assert_eq!(
        all[0].0,
        "execute [request=SELECT column, column, column, column, column, column, colu\u{2026}umn, column, FROM instances WHERE \
         id = ?]"
    );
    let place = place("execute");
    let group = event::Group::new(&place, "request", &statement, 1);
    assert_eq!(
        (group.field.as_str(), group.value.as_str()),
        ("request", statement.as_str())
    );
}

#[test]
fn values_that_look_alike_where_they_are_cut_are_numbered() {
    let middle = |word: &str| format!("{}{word}{}", "a".repeat(90), "z".repeat(90));
    let values = [
        middle("one"),
        middle("two"),
        middle("one"),
        "x  y".to_owned(),
        "x y".to_owned(),
    ];
    let events = values.iter().zip(1..).flat_map(|(value, at)| {
        [
            with_field(call(10 * at, "execute"), value),
            ret(10 * at + 1, "execute"),
        ]
    });
    let (all, _) = grouped(events.collect());
    let cut = format!("{}\u{2026}{}", "a".repeat(59), "z".repeat(40));
    let name = |value: &str| format!("execute [request={value}]");
    let expected = [
        name(&cut),
        name(&format!("{cut} #2")),
        name(&cut),
        name("x y"),
        name("x y #2"),
    ];
    let names: Vec<&String> = all.iter().step_by(2).map(|(name, _)| name).collect();
    assert_eq!(names, expected.iter().collect::<Vec<_>>());
}
