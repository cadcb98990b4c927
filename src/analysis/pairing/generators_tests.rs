//! What is thrown into generators where their creation looks like a call (Python 3.15's own probes): no return has a duration
//! that is not its own, and plain functions, recursions and generators that nothing is thrown into keep theirs.

use super::*;
use crate::analysis::testing;

const FROM_3_15: PairingRules = PairingRules {
    call_on_creation: true,
    greenlets: false,
};

/// Feeds `E name line` and `R name line`, one nanosecond apart, and answers the durations of the returns of each name.
fn durations(pairing: &mut Pairing, script: &str) -> Vec<(String, Option<u64>)> {
    let words: Vec<&str> = script.split_whitespace().collect();
    let mut durations = Vec::new();
    for (ts, word) in words.chunks(3).enumerate() {
        let [kind, function, at] = word else {
            panic!("{word:?}");
        };
        let ts = 1_000_000 * durations.len() as u64 + ts as u64;
        let mut event = match *kind {
            "E" => testing::call(ts, function),
            "R" => testing::returned(ts, function),
            _ => panic!("{word:?}"),
        };
        if let What::Call { line, .. } | What::Return { line, .. } = &mut event.what {
            *line = at.parse().expect("a line");
        }
        pairing.feed(&mut event);
        if let What::Return { duration_ns, .. } = event.what {
            durations.push(((*function).to_owned(), duration_ns));
        }
    }
    durations
}

/// Which returns of a function have a duration.
fn timed(pairing: &mut Pairing, function: &str, script: &str) -> Vec<bool> {
    let all = durations(pairing, script);
    let own = all.iter().filter(|(name, _)| name == function);
    own.map(|(_, duration)| duration.is_some()).collect()
}

fn fresh(function: &str, script: &str) -> Vec<bool> {
    timed(&mut Pairing::with_rules(FROM_3_15), function, script)
}

#[test]
fn what_is_thrown_into_a_generator_that_ran_never_takes_the_creation_for_its_call() {
    // It is closed where it was made, handled or not, once and again, and is never resumed.
    let once = "E g 10 E g 10 R g 12 R g 14";
    for script in [once.to_owned(), [once; 6].join(" ")] {
        let script = format!("E main 1 {script} R main 5");
        let got = fresh("g", &script);
        let expected = [true, false].repeat(got.len() / 2);
        assert_eq!(got, expected, "{script}");
        assert_eq!(fresh("main", &script), [true]);
    }
}

#[test]
fn what_is_thrown_into_another_generator_never_takes_a_new_creation_for_its_call() {
    let mut pairing = Pairing::with_rules(FROM_3_15);
    // It goes on once, so that it is known; then a new one takes its place, and the old one is dropped.
    let got = timed(
        &mut pairing,
        "g",
        "E main 1 E g 10 E g 10 R g 12 E g 12 R g 13 E g 10 R g 15 E g 10 R g 12 E g 12 R g 13",
    );
    assert_eq!(got, [true, true, false, true, true]);
    // The same without any that goes on.
    let got = fresh(
        "g",
        "E main 1 E g 10 E g 10 R g 12 E g 10 R g 15 E g 10 R g 12 E g 10 R g 15",
    );
    assert_eq!(got, [true, false, true, false]);
}

#[test]
fn a_generator_that_is_known_and_thrown_into_leaves_a_return_without_a_call() {
    let mut pairing = Pairing::with_rules(FROM_3_15);
    durations(&mut pairing, "E main 1 E g 10 E g 10 R g 12 E g 12 R g 13");
    let before = pairing.unpaired();
    let mut own = Vec::new();
    for (ts, mut event) in [
        (10_000_000, testing::call(0, "g")),
        (10_000_500, testing::returned(0, "g")),
        (10_000_700, testing::returned(0, "main")),
    ] {
        event.ts = ts;
        if let What::Call { line, .. } = &mut event.what {
            *line = 10;
        }
        let step = pairing.follow(&mut event).expect("an event");
        own.extend(step.finished.map(|it| (it.self_ns, it.inclusive_ns)));
    }
    assert_eq!(pairing.unpaired().returns, before.returns + 1);
    let [(own, took)] = own[..] else {
        panic!("{own:?}");
    };
    // Nothing of its time is the generator's that was only made.
    assert!(
        own >= 8_000_000 && took == Some(10_000_700),
        "{own} {took:?}"
    );
}

#[test]
fn what_is_thrown_into_a_generator_that_never_ran_returns_from_its_first_line() {
    let script = "E main 1 E g 10 E g 10 R g 12 E g 12 R g 13 E g 10 R g 10 E g 10 E g 10 R g 12";
    assert_eq!(fresh("g", script), [true, true, false, true]);
}

#[test]
fn a_generator_that_shares_variables_has_no_line_where_it_is_made_and_one_where_it_first_runs() {
    let loops = "E g -1 E g 10 R g 12 E g 12 R g 13";
    let closes = "E g -1 E g 10 R g 12 R g 14";
    let script = format!("E main 1 {loops} {closes} {loops} {closes} R main 5");
    assert_eq!(
        fresh("g", &script),
        [true, true, true, false, true, true, true, false],
        "{script}"
    );
    // A new one is made, and the old one is dropped.
    let script = format!("E main 1 {loops} E g -1 R g 14 R main 5");
    assert_eq!(fresh("g", &script), [true, true, false], "{script}");
    // Made in a function that has returned.
    let made = "E helper 1 E g -1 R helper 2 E enter 4 E g 10 R g 12 R enter 5";
    let script = format!("{made} E exit 6 R g 14 R exit 7 {made} E g -1 R g 14");
    assert_eq!(fresh("g", &script), [true, false, true, false], "{script}");
}

#[test]
fn plain_functions_that_share_variables_are_exact() {
    // Methods that call those of their base, which shares some or does not; wrappers of wrappers.
    for script in [
        "E save -1 E save 10 R save 11 R save 21",
        "E wrapper -1 E wrapper -1 R wrapper 5 R wrapper 15",
    ] {
        let script = [script; 3].join(" ");
        let got = durations(&mut Pairing::with_rules(FROM_3_15), &script);
        assert!(got.iter().all(|(_, it)| it.is_some()), "{script}: {got:?}");
    }
}

#[test]
fn plain_functions_are_exact_from_the_first_call() {
    for line in [2, 1, -1] {
        let script = format!("E f {line} E g 7 R g 8 R f 2 E f {line} R f 3 E f {line} R f 2");
        assert_eq!(fresh("f", &script), [true; 3], "{script}");
    }
    let script = "E f 1 R f 1 E <lambda> 4 R <lambda> 4 E <lambda> 4 R <lambda> 4 E f 1 R f 1";
    let got = durations(&mut Pairing::with_rules(FROM_3_15), script);
    assert!(got.iter().all(|(_, it)| it.is_some()), "{got:?}");
}

#[test]
fn a_recursion_is_exact_when_the_function_has_once_returned_without_it() {
    let calls = |depth: usize| {
        [vec!["E f 1"; depth], vec!["R f 3"; depth]]
            .concat()
            .join(" ")
    };
    let mut pairing = Pairing::with_rules(FROM_3_15);
    durations(&mut pairing, "E f 1 R f 2");
    for depth in 1..9 {
        let got = timed(&mut pairing, "f", &calls(depth));
        assert_eq!(got, vec![true; depth]);
    }
    assert_eq!(pairing.unpaired(), Unpaired::default());
}

#[test]
fn a_function_that_calls_itself_when_it_is_first_seen_could_be_a_generator_until_that_is_ruled_out()
{
    let calls = |depth: usize| {
        [vec!["E f 1"; depth], vec!["R f 3"; depth]]
            .concat()
            .join(" ")
    };
    // Made and closed.
    assert_eq!(fresh("f", &calls(2)), [true, false]);
    // A generator makes two calls.
    assert_eq!(fresh("f", &calls(3)), [false, false, true]);
    let mut pairing = Pairing::with_rules(FROM_3_15);
    timed(&mut pairing, "f", &calls(3));
    assert_eq!(timed(&mut pairing, "f", &calls(4)), [true; 4]);
    // Nobody throws into so many.
    let deep = fresh("f", &calls(30));
    assert!(deep[12..].iter().all(|it| *it), "{deep:?}");
}

#[test]
fn a_recursion_of_two_branches_is_known_soon() {
    fn fib(depth: u32, script: &mut Vec<&'static str>) {
        script.push("E f 1");
        if depth > 1 {
            fib(depth - 1, script);
            fib(depth - 2, script);
        }
        script.push(if depth > 1 { "R f 3" } else { "R f 2" });
    }
    let mut script = Vec::new();
    fib(12, &mut script);
    let mut pairing = Pairing::with_rules(FROM_3_15);
    let got = durations(&mut pairing, &script.join(" "));
    let missing = got.iter().filter(|(_, it)| it.is_none()).count();
    assert!((1..30).contains(&missing), "{missing} of {}", got.len());
    assert!(got[60..].iter().all(|(_, it)| it.is_some()));
}

#[test]
fn coroutines_that_await_themselves_have_no_duration_of_another_when_they_are_first_seen() {
    // Each is made and run by the one before, and none of them gives way.
    let got = durations(
        &mut Pairing::with_rules(FROM_3_15),
        "E main 1 E c 5 E c 5 E c 5 E c 5 R c 8 R c 7 R main 3",
    );
    // The first could be of the one that made it, and the second seems to end a creation.
    let c = ("c".to_owned(), None);
    assert_eq!(got[..2], [c.clone(), c]);
}

#[test]
fn what_makes_others_of_its_function_and_gives_way_is_not_taken_for_these() {
    // Made here, run by a loop; it makes two more before it gives way, and one more when it goes on.
    let script = "E main 1 E crawl 5 R main 2 E run 90 E crawl 5 E crawl 5 E crawl 5 R crawl 8 R run 91 \
         E run 90 E crawl 8 E crawl 5 R crawl 9 R run 91 E run 90 E crawl 5 R crawl 8 R run 91";
    let mut pairing = Pairing::with_rules(FROM_3_15);
    let got = durations(&mut pairing, script);
    let of_crawl: Vec<_> = got.iter().filter(|(name, _)| name == "crawl").collect();
    assert_eq!(of_crawl.len(), 3);
    assert_eq!(of_crawl[0].1, None);
    assert_eq!(of_crawl[1].1, None, "or that of the one that went on");
    assert_eq!(of_crawl[2].1, Some(1));
    // Where nothing was made before, it is the one that went on.
    let got = durations(
        &mut Pairing::with_rules(FROM_3_15),
        "E main 1 E g 5 E g 5 R g 7 E g 7 E g 5 E k 9 R k 9 R g 8 R main 2",
    );
    assert_eq!(got[2], ("g".to_owned(), Some(1_000_004)), "{got:?}");
}

#[test]
fn generators_and_coroutines_that_nothing_is_thrown_into_are_exact() {
    let values = "E values 3 E values 3 R values 6 E values 6 R values 6 E values 6 R values 8";
    let script = format!("E main 1 {values} {values} {values} R main 2");
    assert_eq!(fresh("values", &script), [true; 9]);
    // In one line, and in several.
    for (made, last) in [(4, 4), (-1, 4), (4, 6), (-1, 6)] {
        let one = format!(
            "E <genexpr> {made} E <genexpr> 4 R <genexpr> 4 E <genexpr> 4 R <genexpr> {last}"
        );
        let script = format!("E main 1 {one} {one} R main 2 E main 1 {one} R main 2");
        assert_eq!(fresh("<genexpr>", &script), [true; 6], "{script}");
    }
    let one = "E one 4 E one 4 R one 4 E one 4 R one 4";
    let script = format!("E main 1 {one} {one} R main 2 E main 1 {one} R main 2");
    assert_eq!(fresh("one", &script), [true; 6], "{script}");
    // Made here, run by a loop.
    let made = "E together 1 E waits 5 E waits 5 E waits 5 E waits 5 R together 2";
    let run = "E waits 5 R waits 7";
    let goes_on = "E waits 7 R waits 9";
    let script = format!(
        "E run 90 E together 1 {made} {run} {run} {run} {run} {goes_on} {goes_on} {goes_on} {goes_on} R run 92"
    );
    assert_eq!(fresh("waits", &script), [true; 8]);
}

#[test]
fn under_greenlets_nothing_is_taken_for_a_recursion() {
    let mut pairing = Pairing::with_rules(PairingRules {
        greenlets: true,
        ..FROM_3_15
    });
    let script = "E main 1 E gen 3 E other 5 R other 6 E g 10 E g 10 R g 12 R g 14 R main 2";
    let words: Vec<&str> = script.split_whitespace().collect();
    for (ts, word) in words.chunks(3).enumerate() {
        let mut event = match word[0] {
            "E" => testing::call(ts as u64, word[1]),
            _ => testing::returned(ts as u64, word[1]),
        };
        if let What::Call { line, .. } | What::Return { line, .. } = &mut event.what {
            *line = word[2].parse().expect("a line");
        }
        let step = pairing.follow(&mut event).expect("an event");
        if word[1] == "g" && word[0] == "R" {
            assert!(step.finished.is_none_or(|it| !it.likely), "{ts}");
        }
    }
}

#[test]
fn a_return_that_was_taken_for_a_generators_leaves_open_calls_without_a_duration() {
    // Something is thrown into a generator from within `f`, which looks as if calls of `f` had been creations. Then `f` makes a
    // generator of another function, and its return looks like one that was thrown. When that generator has run and something
    // was thrown into it as well, the next return of `f` must not end that call.
    let thrown = "E f 1 R f 2 E f 1 E gen 1 E f 1 E f 1 E gen 1 R gen 2 R gen 2";
    let returned = "E f 1 E other 1 R f 2 E other 1 R other 2 R other 2 R f 2 R f 2 R f 2";
    let all = durations(
        &mut Pairing::with_rules(FROM_3_15),
        &format!("{thrown} {returned}"),
    );
    let f: Vec<Option<u64>> = all
        .iter()
        .filter(|(name, _)| name == "f")
        .map(|(_, duration)| *duration)
        .collect();
    assert_eq!(f, [Some(1), None, None, None, None]);
}
