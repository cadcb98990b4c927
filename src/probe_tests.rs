use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

#[test]
fn probes_and_kinds_are_found_by_name_and_number() {
    for (place, probe) in Probe::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(probe.number()), place);
        assert_eq!(Probe::of_name(probe.name()), Some(probe));
        assert_eq!(Probe::of_number(probe.number()), Some(probe));
    }
    for kind in EventKind::ALL {
        assert_eq!(EventKind::of_name(kind.name()), Some(kind));
    }
    let filtered = Probe::ALL.map(Probe::is_filtered);
    assert!(
        filtered.is_sorted_by(|one, next| one >= next),
        "they come first"
    );
}

#[test]
fn no_two_rows_have_the_same_names_letters_or_codes() {
    fn distinct<T: std::hash::Hash + Eq>(all: impl Iterator<Item = T> + Clone) -> bool {
        all.clone().collect::<HashSet<T>>().len() == all.count()
    }
    let plain = Probe::ALL.iter().filter_map(|probe| probe.plain());
    assert!(distinct(Probe::ALL.iter().map(|probe| probe.name())));
    assert!(distinct(EventKind::ALL.iter().map(|kind| kind.name())));
    assert!(distinct(plain.clone().map(|plain| plain.name)));
    assert!(distinct(plain.clone().map(|plain| plain.letter)));
    assert!(distinct(plain.map(|plain| plain.code)));
}

#[test]
fn a_plain_event_has_one_text_or_two_and_at_most_one_number() {
    for probe in Probe::ALL {
        let Some(plain) = probe.plain() else { continue };
        let kinds: Vec<ArgumentKind> = probe.arguments().iter().map(|it| it.kind).collect();
        assert_eq!(kinds.first(), Some(&ArgumentKind::Text), "{probe:?}");
        let [texts, numbers, objects] = [
            kinds.iter().filter(|kind| kind.is_text()).count(),
            kinds.iter().filter(|kind| kind.is_number()).count(),
            kinds
                .iter()
                .filter(|it| **it == ArgumentKind::Object)
                .count(),
        ];
        assert!(texts <= 2 && numbers <= 1, "{probe:?}");
        assert_eq!(texts + numbers + objects, kinds.len(), "{probe:?}");
        if let Phase::Done(start) = plain.phase {
            let begins = start.plain().map(|plain| plain.phase);
            assert_eq!(begins, Some(Phase::Start), "{probe:?}");
        }
    }
}

#[test]
fn a_kind_is_possible_where_all_of_its_probes_are() {
    for kind in EventKind::ALL {
        assert!(kind.is_possible(|_| true));
        for lacking in kind.probes() {
            assert!(!kind.is_possible(|probe| probe != *lacking), "{kind:?}");
        }
        let own = |probe| kind.probes().contains(&probe);
        assert!(kind.is_possible(own), "it needs no others");
    }
    assert!(!EventKind::Gc.is_possible(|probe| probe == Probe::GcStart));
}

/// What stands in a source file before its tests, without comments.
fn code_of(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("readable");
    let (code, _) = text
        .split_once("\n#[cfg(test)]\nmod tests {")
        .unwrap_or((&text, ""));
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    code.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

/// The source files that are neither tests nor this table.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.expect("our own names are text").to_owned();
        if path.is_dir() {
            sources(&path, found);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") && name != "probe.rs" {
            found.push(path);
        }
    }
}

#[test]
fn no_other_file_spells_the_name_of_a_probe() {
    let mut files = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    assert!(files.len() > 100, "the sources are here");
    let names: Vec<&str> = Probe::ALL
        .into_iter()
        .map(Probe::name)
        // `line` and `audit` are words, too.
        .filter(|name| name.contains("__"))
        .collect();
    for file in &files {
        let code = code_of(file);
        for name in &names {
            // Within a sentence it is what people read.
            let literal = [format!("\"{name}"), format!("{name}\"")];
            let spelt = literal.iter().any(|it| code.contains(it));
            assert!(!spelt, "{} spells {name}", file.display());
        }
    }
}
