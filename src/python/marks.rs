//! What is known about CPython's own USDT probes, which SystemTap calls marks: what they pass, in which versions they exist, and what they really do there.
//! A table and its look-ups; looks at no file and no process. Whether a given build has probes at all (`--with-dtrace`) is
//! in its ELF notes, not here.
//!
//! What the rows say was read in CPython's sources (`Include/pydtrace.d`, `Python/ceval.c`, the historical patches) and in
//! the notes of distributions' binaries, and seen happening on 3.9, 3.10, 3.11 and 3.15. A new Python version needs a look
//! at its rows first, and then [`NEWEST_TRIED`] moves.

use serde::Serialize;

use crate::elf::{Mark, Site};
use crate::probe::Probe;

/// Major and minor version of a Python.
pub type Version = (u8, u8);

/// The provider of CPython's marks.
pub const PROVIDER: &str = "python";

/// The newest version that the table was checked against. What it says of later ones is a guess, and called so.
pub const NEWEST_TRIED: Version = (3, 15);

/// How far a mark can be trusted in a Python version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Fires for everything that its name promises, and for nothing else.
    Complete,
    /// Fires, with deviations that a reader of the events has to know.
    Quirk,
    /// Fires for so little of what its name promises that its events alone mislead.
    Useless,
    /// Arming it has been reported to crash the program.
    Dangerous,
    /// Not in this version.
    Absent,
    /// Newer than [`NEWEST_TRIED`]: probably as in that version.
    Untried,
}

/// What a mark is known to do in a Python version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Behaviour {
    /// How far it can be trusted.
    pub status: Status,
    /// The same for people, one sentence with its full stop.
    pub sentence: &'static str,
    /// Another mark whose semaphore must be raised for this one to fire completely. That mark itself stays unarmed.
    pub raise: Option<&'static str>,
}

/// One entry of the table: a mark in a span of versions.
struct Row {
    marks: &'static [&'static str],
    from: Version,
    /// The last version, or [`NOW`].
    to: Version,
    /// Whether CPython's own `--with-dtrace` puts it there, and not only somebody's patch.
    upstream: bool,
    behaviour: Behaviour,
}

/// No later version is known to lack it.
const NOW: Version = (u8::MAX, u8::MAX);

const fn known(status: Status, sentence: &'static str) -> Behaviour {
    Behaviour {
        status,
        sentence,
        raise: None,
    }
}

const ENTRY: &str = Probe::FunctionEntry.name();
const RETURN: &str = Probe::FunctionReturn.name();
const LINE: &str = Probe::Line.name();
const GC_START: &str = Probe::GcStart.name();
const GC_DONE: &str = Probe::GcDone.name();
const IMPORT_START: &str = Probe::ImportStart.name();
const IMPORT_DONE: &str = Probe::ImportDone.name();
const AUDIT: &str = Probe::Audit.name();
const INSTANCE: &[&str] = &Probe::names(Probe::INSTANCES);

const TABLE: &[Row] = &[
    Row {
        marks: &[ENTRY, RETURN],
        from: (2, 6),
        to: (2, 7),
        upstream: false,
        behaviour: known(
            Status::Quirk,
            "Only in builds with a distribution's or a private patch; fires whenever a frame begins or ends to run, \
             except that one private patch of 2.7 skips some entries and so leaves returns without a call.",
        ),
    },
    Row {
        marks: &[ENTRY, RETURN],
        from: (3, 3),
        to: (3, 5),
        upstream: false,
        behaviour: known(
            Status::Quirk,
            "Only in builds with a private patch; fires whenever a frame begins or ends to run, generators at every \
             resumption and yield.",
        ),
    },
    Row {
        marks: &[LINE, GC_START, GC_DONE],
        from: (2, 7),
        to: (2, 7),
        upstream: false,
        behaviour: known(Status::Quirk, "Only in builds with a private patch."),
    },
    Row {
        marks: &[LINE, GC_START, GC_DONE],
        from: (3, 3),
        to: (3, 5),
        upstream: false,
        behaviour: known(Status::Quirk, "Only in builds with a private patch."),
    },
    Row {
        marks: INSTANCE,
        from: (2, 7),
        to: (2, 7),
        upstream: false,
        behaviour: known(Status::Quirk, "Only in builds with a private patch."),
    },
    Row {
        marks: INSTANCE,
        from: (3, 3),
        to: (3, 5),
        upstream: false,
        behaviour: known(Status::Quirk, "Only in builds with a private patch."),
    },
    Row {
        marks: INSTANCE,
        from: (3, 6),
        to: NOW,
        upstream: false,
        behaviour: known(
            Status::Absent,
            "CPython declares this probe and never fires it, so no build has it.",
        ),
    },
    Row {
        marks: &[ENTRY],
        from: (3, 6),
        to: (3, 10),
        upstream: true,
        behaviour: known(
            Status::Complete,
            "Fires whenever a Python function begins to run, generators and coroutines at every resumption.",
        ),
    },
    Row {
        marks: &[RETURN],
        from: (3, 6),
        to: (3, 10),
        upstream: true,
        behaviour: known(
            Status::Complete,
            "Fires whenever a Python function is left: by returning, by yielding and by an exception.",
        ),
    },
    Row {
        marks: &[ENTRY],
        from: (3, 11),
        to: (3, 11),
        upstream: true,
        behaviour: Behaviour {
            status: Status::Useless,
            sentence: "Stays silent for ordinary calls unless the semaphore of the line probe is raised too, which makes \
                       it complete and every call of the process slower.",
            raise: Some(LINE),
        },
    },
    Row {
        marks: &[RETURN],
        from: (3, 11),
        to: (3, 11),
        upstream: true,
        behaviour: known(
            Status::Complete,
            "Fires whenever a Python function is left, also for the calls that function__entry does not report.",
        ),
    },
    Row {
        marks: &[ENTRY, RETURN],
        from: (3, 12),
        to: (3, 14),
        upstream: true,
        behaviour: known(
            Status::Absent,
            "CPython 3.12 removed the function probes with its new interpreter and 3.15 brought them back.",
        ),
    },
    Row {
        marks: &[ENTRY],
        from: (3, 15),
        to: NOW,
        upstream: true,
        behaviour: known(
            Status::Quirk,
            "Fires once more when a generator or coroutine is created, without a return, stays silent when one is \
             resumed by throw() or close(), and misses code that the experimental JIT compiled.",
        ),
    },
    Row {
        marks: &[RETURN],
        from: (3, 15),
        to: NOW,
        upstream: true,
        behaviour: known(
            Status::Quirk,
            "Fires once more, with file __init__ and line -1, when a frequently called class is called, and misses code \
             that the experimental JIT compiled.",
        ),
    },
    Row {
        marks: &[LINE],
        from: (3, 6),
        to: (3, 10),
        upstream: true,
        behaviour: known(
            Status::Complete,
            "Fires whenever execution comes to a new line, which slows the program down considerably.",
        ),
    },
    Row {
        marks: &[LINE],
        from: (3, 11),
        to: (3, 11),
        upstream: true,
        behaviour: known(
            Status::Dangerous,
            "Has been reported to crash CPython 3.11.0 when it is armed (cpython#98894).",
        ),
    },
    Row {
        marks: &[LINE],
        from: (3, 12),
        to: NOW,
        upstream: true,
        behaviour: known(
            Status::Absent,
            "CPython 3.12 removed the line probe, and no version has it since.",
        ),
    },
    Row {
        marks: &[GC_START],
        from: (3, 6),
        to: (3, 13),
        upstream: true,
        behaviour: known(Status::Complete, "Fires when a garbage collection begins."),
    },
    Row {
        marks: &[GC_START],
        from: (3, 14),
        to: (3, 14),
        upstream: true,
        behaviour: known(
            Status::Complete,
            "Fires when a garbage collection begins; up to 3.14.4 the collections that begin by themselves are all of \
             generation 1, the young objects and a part of the old ones, and from 3.14.5 on of 0 to 2, as elsewhere.",
        ),
    },
    Row {
        marks: &[GC_START],
        from: (3, 15),
        to: NOW,
        upstream: true,
        behaviour: known(Status::Complete, "Fires when a garbage collection begins."),
    },
    Row {
        marks: &[GC_DONE],
        from: (3, 6),
        to: NOW,
        upstream: true,
        behaviour: known(
            Status::Complete,
            "Fires when a garbage collection ends, with the number of objects found unreachable.",
        ),
    },
    Row {
        marks: &[IMPORT_START],
        from: (3, 7),
        to: (3, 14),
        upstream: true,
        behaviour: known(
            Status::Complete,
            "Fires when a module that is not loaded yet is looked for.",
        ),
    },
    Row {
        marks: &[IMPORT_START],
        from: (3, 15),
        to: NOW,
        upstream: true,
        behaviour: known(
            Status::Complete,
            "Fires when a module that is not loaded yet is looked for: of a lazy import (PEP 810) when it is first used.",
        ),
    },
    Row {
        marks: &[IMPORT_DONE],
        from: (3, 7),
        to: NOW,
        upstream: true,
        behaviour: known(
            Status::Complete,
            "Fires when the search for a module ends, and says whether it was found.",
        ),
    },
    Row {
        marks: &[AUDIT],
        from: (3, 8),
        to: NOW,
        upstream: true,
        behaviour: known(
            Status::Complete,
            "Fires for every audit event (PEP 578), whether or not the program has audit hooks.",
        ),
    },
];

/// Names of a mark's arguments, in order; empty for a mark that is not CPython's.
///
/// `filename`, `function`, `module`, `event` and `class` are pointers to NUL-terminated strings; `line`, `generation` and
/// `found` (0 or 1) are C ints, `collected` is a long; `arguments` is a `PyObject *` to a tuple. `function` is the bare
/// name, without class or module (`co_name`).
pub fn arguments(mark: &str) -> Vec<&'static str> {
    Probe::of_name(mark)
        .filter(|probe| probe.is_cpythons())
        .map_or(&[][..], Probe::arguments)
        .iter()
        .map(|argument| argument.name)
        .collect()
}

/// The same of a mark as it stands in a file of this version: a patch passes more.
pub fn arguments_of(version: Version, mark: &Mark) -> Vec<&'static str> {
    let mut names = arguments(&mark.name);
    if passes_arguments(version, mark) {
        let patched = Probe::FunctionEntry.patched_arguments();
        names.extend(patched.iter().map(|argument| argument.name));
    }
    names
}

/// Whether a mark passes the arguments of calls as text, by position and by name, behind what it passes elsewhere: in a patch of
/// 2.7.9, which its operands tell from all others.
pub fn passes_arguments(version: Version, mark: &Mark) -> bool {
    let operands = mark.sites.iter().map(operands).max();
    let usual = arguments(&mark.name).len();
    version == (2, 7) && mark.name == ENTRY && operands.is_some_and(|count| count > usual)
}

fn operands(site: &Site) -> usize {
    site.argument_text.split_whitespace().count()
}

/// What a mark of provider [`PROVIDER`] is known to do in this version, provided that the build has marks at all.
pub fn behaviour(version: Version, mark: &str) -> Behaviour {
    let Some(row) = row(version, mark) else {
        let sentence = if TABLE.iter().any(|row| row.marks.contains(&mark)) {
            "This Python version does not have the probe yet."
        } else {
            "CPython has no probe of this name."
        };
        return known(Status::Absent, sentence);
    };
    if version > NEWEST_TRIED && row.behaviour.status != Status::Absent {
        return known(
            Status::Untried,
            "This Python is newer than those that pystap was tried on; it probably behaves like 3.15.",
        );
    }
    row.behaviour
}

/// The same of a mark of provider [`PROVIDER`] as it stands in a file, whose operands tell patches apart.
pub fn behaviour_of(version: Version, mark: &Mark) -> Behaviour {
    match passes_arguments(version, mark) {
        true => ARGUMENTS_AS_TEXT,
        false => behaviour(version, &mark.name),
    }
}

/// The patch of 2.7.9 that passes arguments as text, two operands more than all others: seen in its source, and ending programs.
const ARGUMENTS_AS_TEXT: Behaviour = known(
    Status::Dangerous,
    "Comes from a private patch that turns arguments into text by running the program's own __repr__ without looking whether \
     that fails, which can end the program as soon as calls are armed; it is silent for __init__, __repr__ and generators, whose \
     returns come without a call.",
);

/// The marks that a `--with-dtrace` build of this version has, in the order in which CPython declares them. Empty before
/// 3.6, where marks came with patches only, and each patch had its own.
pub fn expected(version: Version) -> Vec<&'static str> {
    Probe::CPYTHONS
        .into_iter()
        .map(Probe::name)
        .filter(|mark| {
            row(version, mark)
                .is_some_and(|row| row.upstream && row.behaviour.status != Status::Absent)
        })
        .collect()
}

/// The versions from the first to the last in which CPython's own `--with-dtrace` has the mark without a break, oldest span
/// first; the last is `None` while no version is known to lack it.
pub fn spans(mark: &str) -> Vec<(Version, Option<Version>)> {
    spans_in(mark, |status| status != Status::Absent)
}

/// The same without the versions in which arming it can end the program: those to be recommended.
pub fn harmless_spans(mark: &str) -> Vec<(Version, Option<Version>)> {
    spans_in(mark, |status| {
        !matches!(status, Status::Absent | Status::Dangerous)
    })
}

fn spans_in(mark: &str, counts: fn(Status) -> bool) -> Vec<(Version, Option<Version>)> {
    let mut spans: Vec<(Version, Option<Version>)> = Vec::new();
    let present = TABLE
        .iter()
        .filter(|row| row.upstream && counts(row.behaviour.status) && row.marks.contains(&mark));
    for row in present {
        let to = (row.to != NOW).then_some(row.to);
        match spans.last_mut() {
            Some((_, end)) if *end == Some(before(row.from)) => *end = to,
            _ => spans.push((row.from, to)),
        }
    }
    spans
}

/// The minor version before this one. The table spans no change of the major version.
fn before((major, minor): Version) -> Version {
    (major, minor.saturating_sub(1))
}

fn row(version: Version, mark: &str) -> Option<&'static Row> {
    TABLE
        .iter()
        .find(|row| (row.from..=row.to).contains(&version) && row.marks.contains(&mark))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::Image;

    const ALL: &[&str] = &[
        ENTRY,
        RETURN,
        LINE,
        GC_START,
        GC_DONE,
        IMPORT_START,
        IMPORT_DONE,
        AUDIT,
    ];

    fn status(version: Version, mark: &str) -> Status {
        behaviour(version, mark).status
    }

    #[test]
    fn each_version_has_the_marks_that_its_builds_show() {
        let with_functions_and_lines = &[ENTRY, RETURN, LINE, GC_START, GC_DONE][..];
        let with_imports = &[
            ENTRY,
            RETURN,
            LINE,
            GC_START,
            GC_DONE,
            IMPORT_START,
            IMPORT_DONE,
        ][..];
        let without_functions = &[GC_START, GC_DONE, IMPORT_START, IMPORT_DONE, AUDIT][..];
        let without_lines = &[
            ENTRY,
            RETURN,
            GC_START,
            GC_DONE,
            IMPORT_START,
            IMPORT_DONE,
            AUDIT,
        ][..];
        for (version, marks) in [
            ((2, 7), &[][..]),
            ((3, 2), &[]),
            ((3, 5), &[]),
            ((3, 6), with_functions_and_lines),
            ((3, 7), with_imports),
            ((3, 8), ALL),
            ((3, 9), ALL),
            ((3, 10), ALL),
            ((3, 11), ALL),
            ((3, 12), without_functions),
            ((3, 13), without_functions),
            ((3, 14), without_functions),
            ((3, 15), without_lines),
            ((3, 16), without_lines),
        ] {
            assert_eq!(expected(version), marks, "{version:?}");
        }
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn an_installed_python_has_what_its_version_should_have_with_the_arguments_named_here() {
        let image = Image::open("/usr/bin/python3.11").expect("python3.11 is installed");
        let mut found: Vec<&str> = image.marks.iter().map(|mark| mark.name.as_str()).collect();
        let mut should = expected((3, 11));
        found.sort_unstable();
        should.sort_unstable();
        assert_eq!(found, should);
        for mark in &image.marks {
            assert_eq!(mark.provider, PROVIDER);
            for site in &mark.sites {
                assert_eq!(
                    site.arguments.len(),
                    arguments(&mark.name).len(),
                    "{}",
                    mark.name
                );
            }
        }
    }

    #[test]
    fn function_marks_are_complete_from_3_6_to_3_10() {
        for minor in 6..=10 {
            assert_eq!(status((3, minor), ENTRY), Status::Complete);
            assert_eq!(status((3, minor), RETURN), Status::Complete);
            assert_eq!(status((3, minor), LINE), Status::Complete);
        }
    }

    #[test]
    fn entries_of_3_11_need_the_semaphore_of_the_line_mark_which_itself_is_dangerous() {
        let entry = behaviour((3, 11), ENTRY);
        assert_eq!((entry.status, entry.raise), (Status::Useless, Some(LINE)));
        assert_eq!(status((3, 11), RETURN), Status::Complete);
        assert_eq!(status((3, 11), LINE), Status::Dangerous);
        assert!(behaviour((3, 11), LINE).sentence.contains("cpython#98894"));
        assert_eq!(behaviour((3, 10), ENTRY).raise, None);
    }

    #[test]
    fn function_marks_are_absent_from_3_12_to_3_14_and_peculiar_in_3_15() {
        for minor in 12..=14 {
            assert_eq!(status((3, minor), ENTRY), Status::Absent);
            assert_eq!(status((3, minor), RETURN), Status::Absent);
            assert_eq!(status((3, minor), LINE), Status::Absent);
        }
        assert_eq!(status((3, 15), ENTRY), Status::Quirk);
        assert_eq!(status((3, 15), RETURN), Status::Quirk);
        assert_eq!(status((3, 15), LINE), Status::Absent);
    }

    #[test]
    fn marks_of_old_pythons_come_from_patches() {
        assert_eq!(status((2, 5), ENTRY), Status::Absent);
        assert_eq!(status((2, 6), ENTRY), Status::Quirk);
        assert_eq!(status((2, 6), LINE), Status::Absent);
        assert_eq!(status((3, 2), ENTRY), Status::Absent);
        for version in [(2, 7), (3, 3), (3, 4), (3, 5)] {
            for mark in [
                ENTRY,
                RETURN,
                LINE,
                GC_START,
                GC_DONE,
                Probe::InstanceNewDone.name(),
            ] {
                let behaviour = behaviour(version, mark);
                assert_eq!(behaviour.status, Status::Quirk, "{version:?} {mark}");
                assert!(behaviour.sentence.contains("patch"), "{version:?} {mark}");
            }
            assert_eq!(status(version, IMPORT_START), Status::Absent);
        }
    }

    #[test]
    fn imports_came_with_3_7_and_audit_with_3_8() {
        assert_eq!(status((3, 6), IMPORT_DONE), Status::Absent);
        assert_eq!(status((3, 7), IMPORT_DONE), Status::Complete);
        assert_eq!(status((3, 7), AUDIT), Status::Absent);
        assert_eq!(status((3, 8), AUDIT), Status::Complete);
        assert_eq!(status((3, 13), AUDIT), Status::Complete);
    }

    #[test]
    fn collections_of_3_14_are_told_apart_by_its_releases() {
        for (minor, changed) in [(13, false), (14, true), (15, false)] {
            let behaviour = behaviour((3, minor), GC_START);
            assert_eq!(behaviour.status, Status::Complete);
            assert_eq!(behaviour.sentence.contains("3.14.4"), changed, "{minor}");
        }
        assert_eq!(spans(GC_START), [((3, 6), None)]);
        assert_eq!(spans(IMPORT_START), [((3, 7), None)]);
    }

    #[test]
    fn instance_marks_never_fire_upstream() {
        for mark in INSTANCE {
            assert_eq!(status((3, 6), mark), Status::Absent);
            assert_eq!(status((3, 15), mark), Status::Absent);
            assert_eq!(arguments(mark), ["class", "module"]);
            assert!(spans(mark).is_empty());
        }
    }

    #[test]
    fn a_python_newer_than_those_tried_is_called_so() {
        assert_eq!(status((3, 16), ENTRY), Status::Untried);
        assert_eq!(status((4, 0), AUDIT), Status::Untried);
        assert_eq!(status((3, 16), LINE), Status::Absent);
    }

    #[test]
    fn a_foreign_mark_is_absent_and_has_no_arguments() {
        let behaviour = behaviour((3, 11), "setjmp");
        assert_eq!(behaviour.status, Status::Absent);
        assert_eq!(behaviour.sentence, "CPython has no probe of this name.");
        assert!(arguments("setjmp").is_empty());
        assert!(spans("setjmp").is_empty());
    }

    #[test]
    fn spans_join_versions_that_differ_in_behaviour_only() {
        assert_eq!(spans(ENTRY), [((3, 6), Some((3, 11))), ((3, 15), None)]);
        assert_eq!(spans(RETURN), spans(ENTRY));
        assert_eq!(spans(LINE), [((3, 6), Some((3, 11)))]);
        assert_eq!(harmless_spans(LINE), [((3, 6), Some((3, 10)))]);
        assert_eq!(harmless_spans(ENTRY), spans(ENTRY));
        assert_eq!(spans(AUDIT), [((3, 8), None)]);
    }

    #[test]
    fn a_patch_that_passes_arguments_as_text_is_known_by_its_operands() {
        let mark = |name: &str, operands: usize| Mark {
            provider: PROVIDER.to_owned(),
            name: name.to_owned(),
            sites: vec![Site {
                address: 0x1000,
                file_offset: None,
                semaphore: None,
                arguments: Vec::new(),
                argument_text: vec!["8@%rax"; operands].join(" "),
            }],
        };
        for (operands, expected) in [(3, Status::Quirk), (5, Status::Dangerous)] {
            let known = behaviour_of((2, 7), &mark(ENTRY, operands));
            assert_eq!(known.status, expected, "{operands}");
        }
        assert_eq!(
            arguments_of((2, 7), &mark(ENTRY, 5)),
            ["filename", "function", "line", "args", "kwargs"]
        );
        assert_eq!(
            arguments_of((2, 7), &mark(ENTRY, 3)),
            ["filename", "function", "line"]
        );
        assert_eq!(behaviour_of((2, 7), &mark(RETURN, 5)).status, Status::Quirk);
        assert_eq!(
            behaviour_of((3, 9), &mark(ENTRY, 5)).status,
            Status::Complete
        );
    }

    #[test]
    fn no_two_rows_speak_of_one_mark_in_one_version() {
        for minor in 0..=u8::MAX {
            for major in 2..=4 {
                for mark in Probe::names(Probe::CPYTHONS) {
                    let rows = TABLE.iter().filter(|row| {
                        (row.from..=row.to).contains(&(major, minor)) && row.marks.contains(&mark)
                    });
                    assert!(rows.count() <= 1, "{major}.{minor} {mark}");
                }
            }
        }
    }

    #[test]
    fn every_sentence_is_one_sentence() {
        for row in TABLE {
            let sentence = row.behaviour.sentence;
            assert!(sentence.ends_with('.'), "{sentence}");
            assert!(!sentence.contains(". "), "{sentence}");
            assert!(sentence.starts_with(char::is_uppercase), "{sentence}");
        }
    }
}
