//! Calls by hand, in threads that never leave their processors.

use std::collections::BTreeMap;

use super::*;
use crate::analysis::testing::{call, event, in_context, returned, text, told};
use crate::event::Event;
use crate::why::results::Call;

const PID: u32 = 1;
const RULES: PairingRules = PairingRules {
    call_on_creation: false,
    greenlets: false,
};

/// Nanoseconds by reason, or why there are none.
type Split = Result<BTreeMap<&'static str, u64>, Unsplit>;

struct Fed {
    pairing: Pairing,
    why: Why<Vec<u8>>,
}

impl Fed {
    /// Nothing yet, of these functions.
    fn new(wanted: &[&str]) -> Fed {
        let watcher = Rc::new(Watcher::of_nobody());
        {
            let settling = &mut watcher.state().settling;
            settling.watched(PID, 0);
            settling.greenlets(PID, Greenlets::Told);
        }
        let wanted = wanted.iter().map(|it| Glob::new(it).expect("a pattern"));
        let options = Options {
            wanted: wanted.collect(),
            interval: None,
            each: true,
            json: false,
        };
        let mut why = Why::new(Vec::new(), watcher, options);
        why.offset = 0;
        Fed {
            pairing: Pairing::with_rules(RULES),
            why,
        }
    }

    fn feed(&mut self, mut event: Event) {
        let step = self.pairing.follow(&mut event).expect("an event");
        self.why.step(&step).expect("written to memory");
    }

    /// A greenlet gives way and goes on.
    fn gives_way(&mut self, context: u64, from: u64, to: u64) {
        for (ts, event) in [(from, call(0, SWITCH)), (to, returned(0, SWITCH))] {
            self.feed(in_context(context, ts, in_greenlet(event)));
        }
    }

    /// The parts of the calls that have ended.
    fn told(&self) -> Vec<(String, Split)> {
        self.why.watcher.state().settling.settle(u64::MAX, true);
        let told = self.why.watcher.told().into_iter();
        let parts = |call: &Call| {
            let parts = call.parts.as_ref().map_err(|why| *why)?;
            let sorted = parts.sorted().into_iter();
            Ok(sorted
                .map(|(part, sum)| (part.doing.word(), sum.total_ns))
                .collect())
        };
        told.map(|call| (call.place.function.text.clone(), parts(&call)))
            .collect()
    }

    /// How many calls of `f` are followed no longer.
    fn given_up(&self) -> u64 {
        let state = self.why.watcher.state();
        let sorted = state.settling.results.sorted();
        let mut functions = sorted.iter();
        let f = functions.find(|(_, it)| it.place.function.text == "f");
        f.map_or(0, |(_, it)| it.given_up)
    }
}

/// A call or return of greenlet's own.
fn in_greenlet(mut event: Event) -> Event {
    if let What::Call { place, .. } | What::Return { place, .. } = &mut event.what {
        let mut of_greenlet = Place::clone(place);
        of_greenlet.file = text(GREENLET);
        *place = Arc::new(of_greenlet);
    }
    event
}

#[test]
fn with_greenlets_that_nobody_goes_on_with_later_calls_are_split_still() {
    let mut fed = Fed::new(&["f"]);
    let many = MOST_CONTEXTS as u64;
    for context in 1..=many {
        fed.feed(in_context(context, context, call(0, "f")));
    }
    fed.gives_way(1, many + 1, many + 2);
    assert_eq!((fed.given_up(), fed.why.parked), (0, 1));
    let (from, to) = (many + 10, many + 30);
    fed.feed(in_context(many + 1, from, call(0, "f")));
    assert_eq!((fed.given_up(), fed.why.parked), (many / 2, 0));
    assert_eq!(fed.why.contexts.len(), MOST_CONTEXTS / 2 + 1);
    assert_eq!(fed.why.open.len(), MOST_CONTEXTS / 2 + 1);
    fed.gives_way(many + 1, from + 5, from + 12);
    fed.feed(in_context(many + 1, to, returned(0, "f")));
    let parts = BTreeMap::from([("running", 13), ("parked", 7)]);
    assert_eq!(fed.told(), [("f".to_owned(), Ok(parts))]);
    let state = fed.why.watcher.state();
    assert_eq!(state.settling.open_calls(), MOST_CONTEXTS / 2);
}

#[test]
fn what_pairing_follows_no_longer_is_kept_no_longer() {
    let mut fed = Fed::new(&["f"]);
    let deep = 33_000;
    for ts in 1..=deep {
        fed.feed(call(ts, "f"));
    }
    let open = fed.pairing.open().count();
    assert!(open < deep as usize, "there is a bound");
    assert_eq!(fed.why.open.len(), open);
    assert_eq!(fed.why.watcher.state().settling.open_calls(), open);
    assert_eq!(fed.given_up() + open as u64, deep);
    let exit = What::Process {
        change: ProcessChange::Exit,
        parent: None,
        command: None,
    };
    fed.feed(event(deep + 1, exit));
    assert_eq!(fed.given_up(), deep, "each once");
    assert_eq!((fed.why.open.len(), fed.why.contexts.len()), (0, 0));
}

#[test]
fn calls_that_began_after_switches_were_told_of_are_split() {
    let mut fed = Fed::new(&["f", "g"]);
    fed.feed(call(10, "f"));
    fed.feed(in_greenlet(call(20, SETTRACE)));
    fed.feed(in_greenlet(returned(21, SETTRACE)));
    fed.feed(call(30, "g"));
    fed.feed(returned(40, "g"));
    fed.feed(returned(50, "f"));
    let parts = BTreeMap::from([("running", 10)]);
    let expected = [
        ("g".to_owned(), Ok(parts)),
        ("f".to_owned(), Err(Unsplit::Greenlets)),
    ];
    assert_eq!(fed.told(), expected);
}

#[test]
fn of_a_long_call_with_too_many_switches_short_ones_within_are_split() {
    let mut fed = Fed::new(&["f", "g"]);
    fed.feed(in_context(1, 1, call(0, "f")));
    let many = MOST_PARKED as u64 + 1;
    for at in 1..=many {
        fed.gives_way(1, at * 10, at * 10 + 5);
    }
    let at = (many + 1) * 10;
    fed.feed(in_context(1, at, call(0, "g")));
    fed.gives_way(1, at + 1, at + 4);
    fed.feed(in_context(1, at + 10, returned(0, "g")));
    assert_eq!(fed.why.parked, MOST_PARKED / 2 + 1);
    fed.feed(in_context(1, at + 20, returned(0, "f")));
    let parts = BTreeMap::from([("running", 7), ("parked", 3)]);
    let expected = [
        ("g".to_owned(), Ok(parts)),
        ("f".to_owned(), Err(Unsplit::TooMuch)),
    ];
    assert_eq!(fed.told(), expected);
    assert_eq!(fed.why.parked, 0);
}

#[test]
fn a_coroutine_within_one_of_the_same_function_is_not_open_besides() {
    let mut fed = Fed::new(&["f"]);
    let of = |manner, event| told("f", 1, manner, event);
    fed.feed(of(Manner::Plain, call(1, "f")));
    fed.feed(of(Manner::Plain, call(2, "f")));
    let open = |fed: &Fed| fed.why.open(&fed.pairing).into_values().collect::<Vec<_>>();
    assert_eq!(open(&fed), [1]);
    fed.feed(of(Manner::Suspension, returned(3, "f")));
    fed.feed(of(Manner::Suspension, returned(4, "f")));
    assert_eq!(open(&fed), [1], "they have given way");
}
