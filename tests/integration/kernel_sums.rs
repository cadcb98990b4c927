//! The C code that sums in the kernel (tapsets/pystap/totals.stp), compiled as a program and fed the same marks as
//! pystap's own analysis: the results must be equal. Compiled with gcc's sanitizers, so that a wrong link shows up here
//! and not in a kernel.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use crate::sums::{
    Dice, LINE, Mark, Sums, Table, in_pystap, left_behind, partly_unseen, program, taking_turns,
    threads, trimmed,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The tapset as C: its code blocks unchanged, its C functions as functions that return through a variable.
fn as_c(tapset: &str) -> String {
    let mut c = String::new();
    let mut rest = tapset;
    while let Some((before, after)) = rest.split_once("%{") {
        let (body, left) = after.split_once("%}").expect("it ends");
        rest = left;
        let declaration = before.lines().last().unwrap_or_default().trim();
        match declaration.strip_prefix("function ") {
            None => c.push_str(body),
            Some(declaration) => {
                let (name, parameters) = declaration.split_once('(').expect("parameters");
                let name = name.split(':').next().expect("a name");
                let parameters: Vec<String> = parameters
                    .trim_end_matches(')')
                    .split(',')
                    .filter_map(|it| it.trim().split(':').next().filter(|it| !it.is_empty()))
                    .map(|it| format!("int64_t STAP_ARG_{it}"))
                    .collect();
                let parameters = match parameters.is_empty() {
                    true => "void".to_owned(),
                    false => parameters.join(", "),
                };
                write!(c, "static void {name}({parameters})\n{{{body}}}\n").expect("memory");
            }
        }
    }
    c
}

/// The program, compiled once for all tests.
static PROGRAM: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory");
    let sources = Path::new(ROOT).join("tests/kernel-sums");
    let read = |path: PathBuf| fs::read_to_string(path).expect("it is there");
    let tapset = read(Path::new(ROOT).join("tapsets/pystap/totals.stp"));
    let text = [
        read(sources.join("kernel.h")),
        as_c(&tapset),
        read(sources.join("main.c")),
    ]
    .concat();
    let (source, program) = (
        directory.path().join("sums.c"),
        directory.path().join("sums"),
    );
    fs::write(&source, text).expect("written");
    let compiled = Command::new("gcc")
        .args([
            "-O1",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unused-function",
        ])
        .args(["-Wno-sign-compare", "-Wno-unused-variable"])
        .args([
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
            "-I",
        ])
        .args([&sources, &source])
        .arg("-o")
        .arg(&program)
        .output()
        .expect("gcc is installed");
    let said = String::from_utf8_lossy(&compiled.stderr).into_owned();
    assert!(compiled.status.success(), "{said}");
    (directory, program)
});

fn in_the_kernel(marks: &[Mark]) -> Table {
    let mut child = Command::new(&PROGRAM.1)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = String::new();
    for mark in marks {
        let Mark {
            kind,
            ts,
            tid,
            function,
            context,
            running,
        } = mark;
        let flags = if *running { 2 } else { 0 };
        writeln!(
            input,
            "{kind} {ts} 7 {tid} {function} {LINE} {context} {flags}"
        )
        .expect("memory");
    }
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{marks:?}");
    let text = String::from_utf8(output.stdout).expect("ASCII");
    let mut table = BTreeMap::new();
    let mut unpaired = 0;
    for line in text.lines() {
        let (kind, numbers) = line.split_once(' ').expect("words");
        let numbers: Vec<u64> = numbers
            .split(' ')
            .map(|word| {
                word.parse::<i64>()
                    .map_or_else(|_| word.parse().expect("a number"), |it| it as u64)
            })
            .collect();
        if kind == "rest" {
            assert_eq!(numbers[1], 0, "there is room for everything");
            unpaired = numbers[0];
            continue;
        }
        let [
            pid,
            function,
            _,
            calls,
            unmatched,
            self_ns,
            cumulative_ns,
            timed,
            timed_ns,
            sum,
            shortest,
            longest,
            ref buckets @ ..,
        ] = numbers[..]
        else {
            panic!("{line}");
        };
        assert_eq!(pid, 7);
        let sums = Sums {
            calls,
            unmatched,
            self_ns,
            cumulative_ns,
            timed,
            timed_ns,
            exact: (sum, shortest, longest),
            buckets: trimmed(buckets.to_vec()),
        };
        table.insert(function, sums);
    }
    (table, unpaired)
}

fn same(marks: &[Mark], what: &str) {
    let (kernel, user) = (in_the_kernel(marks), in_pystap(marks));
    assert_eq!(kernel.1, user.1, "{what}: unpaired");
    for (function, sums) in &user.0 {
        assert_eq!(
            kernel.0.get(function),
            Some(sums),
            "{what}: function {function}, {marks:?}"
        );
    }
    assert_eq!(kernel.0.len(), user.0.len(), "{what}");
}

#[test]
fn plain_programs_are_summed_up_alike() {
    for seed in 0..300 {
        same(&program(seed), &format!("seed {seed}"));
    }
}

/// Greenlets: a return that does not match the top of the stack. Guesses may differ, counts may not.
#[test]
fn stacks_that_interleave_are_counted_alike_and_no_time_is_counted_twice() {
    for seed in 0..150u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut marks = Vec::new();
        let mut stacks: Vec<Vec<u64>> = vec![Vec::new(); 4];
        let (mut ts, mut now) = (1_000, 0);
        for _ in 0..200 {
            ts += 1 + dice.roll(1_000);
            if dice.roll(4) == 0 {
                now = dice.roll(4) as usize;
            }
            let function = 2 + 2 * now as u64 + dice.roll(2);
            let goes_on = stacks[now].len() < 5 && dice.roll(2) == 0;
            let (kind, function) = match (goes_on, stacks[now].pop()) {
                (false, Some(function)) => ('R', function),
                (_, popped) => {
                    stacks[now].extend(popped);
                    stacks[now].push(function);
                    ('C', function)
                }
            };
            let tid = 100;
            marks.push(Mark {
                kind,
                ts,
                tid,
                function,
                ..Mark::default()
            });
        }
        let (kernel, user) = (in_the_kernel(&marks), in_pystap(&marks));
        let span = ts - 1_000;
        let own: u64 = kernel.0.values().map(|sums| sums.self_ns).sum();
        assert!(own <= span, "seed {seed}: {own} of {span}");
        for (function, sums) in &user.0 {
            let calls = kernel
                .0
                .get(function)
                .map(|sums| (sums.calls, sums.unmatched));
            assert_eq!(
                calls,
                Some((sums.calls, sums.unmatched)),
                "seed {seed}: {marks:?}"
            );
        }
    }
}

#[test]
fn what_the_agent_tells_of_plain_threads_is_summed_up_alike() {
    for seed in 0..60 {
        same(&threads(seed), &format!("seed {seed}"));
    }
}

#[test]
fn contexts_that_take_turns_are_summed_up_alike_to_the_nanosecond() {
    for seed in 0..120 {
        for contexts in [2, 4] {
            let what = format!("seed {seed}, {contexts} contexts");
            same(&taking_turns(seed, contexts), &what);
        }
    }
}

#[test]
fn what_a_thread_leaves_open_in_a_greenlet_does_not_run_on() {
    same(&left_behind(), "left behind");
}

#[test]
fn contexts_of_which_returns_were_not_seen_are_summed_up_alike() {
    for seed in 0..150 {
        same(&partly_unseen(seed), &format!("seed {seed}"));
    }
}

#[test]
fn what_a_thread_or_process_leaves_open_is_kept_and_its_frames_are_given_back() {
    let mut marks = Vec::new();
    // Many more calls than there are frames, if none were freed.
    for round in 0..2_000u64 {
        let tid = 100 + round as u32;
        let ts = 10_000 * (round + 1);
        let mark = |kind, after, function| Mark {
            kind,
            ts: ts + after,
            tid,
            function,
            ..Mark::default()
        };
        marks.extend((0..40).map(|at| mark('C', at, 3)));
        marks.push(mark('R', 100, 3));
        marks.push(mark(if round % 2 == 0 { 'T' } else { 'E' }, 200, 0));
    }
    let (table, _) = in_the_kernel(&marks);
    let sums = &table[&3];
    assert_eq!((sums.calls, sums.timed), (80_000, 2_000));
    assert_eq!(sums.self_ns, 2_000 * 100, "up to the last mark of each");
}

#[test]
fn after_a_new_beginning_only_what_follows_counts_and_what_is_open() {
    let mark = |kind, ts, function| Mark {
        kind,
        ts,
        tid: 100,
        function,
        ..Mark::default()
    };
    let marks = [
        mark('C', 1_000, 2),
        mark('C', 2_000, 3),
        mark('R', 3_000, 3),
        mark('S', 3_500, 0),
        mark('Z', 4_000, 0),
        mark('C', 5_000, 3),
        mark('R', 5_100, 3),
        mark('R', 6_000, 2),
    ];
    let (table, unpaired) = in_the_kernel(&marks);
    assert_eq!(unpaired, 0);
    assert_eq!((table[&3].calls, table[&3].self_ns), (1, 100));
    // As in user space: the call was open, and counts in full when it ends.
    let outer = &table[&2];
    assert_eq!(
        (outer.calls, outer.cumulative_ns, outer.exact.0),
        (0, 5_000, 5_000)
    );
    assert_eq!(outer.self_ns, 3_900);
}
