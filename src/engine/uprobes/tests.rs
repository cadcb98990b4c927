use std::sync::Arc;

use super::*;
use crate::elf::{Architecture, Image, Machine, Mark, Site, parse_arguments};

const PYTHON: &str = "/usr/bin/python3.11";

fn probed(marks: &[&str]) -> Probed {
    Probed {
        path: PYTHON.into(),
        inode: 1,
        image: Arc::new(Image::open(PYTHON).expect("Debian 12's interpreter")),
        provider: crate::python::marks::PROVIDER,
        marks: marks.iter().map(|mark| (*mark).to_owned()).collect(),
        values: false,
        line_semaphore: false,
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn every_site_of_a_mark_is_a_place_of_one_event_with_the_same_fields() {
    let plan = Plan::new(&[probed(&[
        "function__entry",
        "gc__start",
        "import__find__load__done",
    ])]);
    let plan = plan.expect("it can be probed");
    assert_eq!(plan.missing, Vec::<String>::new());
    assert_eq!(plan.definitions.len(), 3);
    for definition in &plan.definitions {
        let fields: Vec<(&str, &str)> = definition
            .fetches
            .iter()
            .filter_map(|fetch| Some((fetch.split_once('=')?.0, fetch.rsplit_once(':')?.1)))
            .collect();
        let expected = [
            ("mark", "u8"),
            ("width", "s8"),
            ("file", "ustring"),
            ("function", "ustring"),
            ("number", "s64"),
        ];
        assert_eq!(fields, expected);
        assert!(definition.semaphore.is_some());
    }
    let line = plan.to_string();
    let line = line.lines().next().expect("a definition");
    // Where the mark is differs by the update of Debian 12 that is installed.
    let image = Image::open(PYTHON).expect("Debian 12's interpreter");
    let site = &image
        .mark("python", "function__entry")
        .expect("it has one")
        .sites[0];
    let semaphore = site.semaphore.as_ref().and_then(|it| it.file_offset);
    let place = format!(
        "p:marks {PYTHON}:{:#x}({:#x}) mark=\\0:u8 width=\\-4:s8 file=+0(%bp):ustring",
        site.file_offset.expect("in the file"),
        semaphore.expect("in the file"),
    );
    assert!(line.starts_with(&place), "{line}");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn the_line_marks_semaphore_is_raised_and_the_mark_itself_never_armed() {
    let mut image = probed(&["function__entry"]);
    image.line_semaphore = true;
    let line = image
        .image
        .mark("python", "line")
        .expect("it has one")
        .sites[0]
        .clone();
    let plan = Plan::new(&[image]).expect("it can be probed");
    let semaphore = line.semaphore.and_then(|semaphore| semaphore.file_offset);
    let holders: Vec<&Definition> = plan
        .definitions
        .iter()
        .filter(|definition| definition.semaphore == semaphore)
        .collect();
    let [holder] = holders.as_slice() else {
        panic!("{holders:?}");
    };
    assert_eq!(holder.fetches[0], "mark=\\255:u8");
    assert!(
        plan.definitions
            .iter()
            .all(|definition| Some(definition.offset) != line.file_offset)
    );
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_operand_that_cannot_be_fetched_is_said_and_the_rest_is_had() {
    let mut image = probed(&["function__entry"]);
    let mut changed = (*image.image).clone();
    let mark = changed
        .marks
        .iter_mut()
        .find(|mark| mark.name == "function__entry")
        .expect("it has one");
    mark.sites[0].arguments[1].operand = crate::elf::Operand::Memory {
        base: Some("rax".to_owned()),
        index: Some("rbx".to_owned()),
        scale: 8,
        displacement: 0,
        symbol: None,
    };
    mark.sites[0].arguments.truncate(2);
    image.image = Arc::new(changed);
    let plan = Plan::new(&[image]).expect("the rest can be had");
    assert_eq!(plan.missing.len(), 2, "{:?}", plan.missing);
    assert!(
        plan.missing[0].contains("sum of two registers"),
        "{:?}",
        plan.missing
    );
    assert!(plan.missing[1].contains("not there"), "{:?}", plan.missing);
    assert_eq!(
        plan.definitions[0].fetches,
        [
            "mark=\\0:u8",
            "width=\\-8:s8",
            "file=+0(%bp):ustring",
            "function=@0x0:ustring",
            "number=\\-1:s64"
        ]
    );
}

/// 2.7.9 with the patch that passes arguments as text, as it stands in notes.
fn passes_arguments(values: bool) -> Probed {
    let architecture = Architecture {
        machine: Machine::X86,
        address_size: 8,
        little_endian: true,
    };
    let mark = |name: &str, text: &str| Mark {
        provider: crate::python::marks::PROVIDER.to_owned(),
        name: name.to_owned(),
        sites: vec![Site {
            address: 0x1000,
            file_offset: Some(0x1000),
            semaphore: None,
            arguments: parse_arguments(text, architecture),
            argument_text: text.to_owned(),
        }],
    };
    let image = Image {
        path: "/opt/python-marks/bin/python2.7".into(),
        build_id: None,
        architecture,
        marks: vec![
            mark("function__entry", "8@%rax 8@%rbx -4@%ecx 8@%rdx 8@-8(%rsi)"),
            mark("function__return", "8@%rax 8@%rbx -4@%ecx"),
        ],
        damaged: Vec::new(),
        needed: Vec::new(),
        run_paths: Vec::new(),
        startup_offset: None,
        python_runtime: None,
    };
    Probed {
        path: image.path.clone(),
        inode: 1,
        marks: image.marks.iter().map(|it| it.name.clone()).collect(),
        image: Arc::new(image),
        provider: crate::python::marks::PROVIDER,
        values,
        line_semaphore: false,
    }
}

#[test]
fn arguments_that_a_probe_passes_are_fetched_where_they_are_wanted() {
    let fetches = |values| {
        let plan = Plan::new(&[passes_arguments(values)]).expect("it can be probed");
        assert_eq!(plan.missing, Vec::<String>::new());
        let definitions = plan.definitions.into_iter();
        definitions
            .map(|mut definition| definition.fetches.split_off(5))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        fetches(true),
        [
            ["text=+0(%dx):ustring", "keywords=+0(-8(%si)):ustring"],
            // A return passes none.
            ["text=@0x0:ustring", "keywords=@0x0:ustring"]
        ]
    );
    assert_eq!(fetches(false), [[""; 0]; 2]);
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn an_image_without_a_place_for_a_probe_is_an_error() {
    let error = Plan::new(&[probed(&["no__such__mark"])]).expect_err("nothing to probe");
    assert!(error.to_string().contains(PYTHON), "{error}");
}
