//! Whole images: real interpreters against `readelf`, synthetic ones against what they were built from, damaged ones
//! against the promise that nothing panics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::synthetic::{BASE, CODE, CODE_SIZE, DATA, DATA_SIZE, Sdt, Synthetic};
use super::*;

/// Debian's Python 3.11, linked statically against libpython, with all of CPython's marks.
const PYTHON: &str = "/usr/bin/python3.11";

static PYTHON_IMAGE: LazyLock<Image> =
    LazyLock::new(|| Image::open(PYTHON).expect("python3.11 is installed"));

fn parse(bytes: &[u8]) -> Result<Image, ElfError> {
    Image::parse("synthetic", bytes)
}

/// The only site of the only mark.
fn only_site(image: &Image) -> &Site {
    assert_eq!(image.damaged, Vec::<String>::new());
    let [mark] = image.marks.as_slice() else {
        panic!("one mark expected: {:?}", image.marks);
    };
    let [site] = mark.sites.as_slice() else {
        panic!("one site expected: {mark:?}");
    };
    site
}

/// Every class and byte order, each with a machine that uses it.
fn shapes() -> Vec<Synthetic> {
    let shape = |machine, wide, little_endian| Synthetic {
        machine,
        wide,
        little_endian,
        ..Synthetic::default()
    };
    vec![
        shape(62, true, true),   // x86-64
        shape(3, false, true),   // i386
        shape(183, true, true),  // aarch64
        shape(22, true, false),  // s390x
        shape(20, false, false), // 32-bit PowerPC
    ]
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn debians_python_has_all_eight_marks_with_semaphores_in_the_file() {
    let image = &*PYTHON_IMAGE;
    let mut names: Vec<&str> = image.marks.iter().map(|mark| mark.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "audit",
            "function__entry",
            "function__return",
            "gc__done",
            "gc__start",
            "import__find__load__done",
            "import__find__load__start",
            "line",
        ]
    );
    for mark in &image.marks {
        assert_eq!(mark.provider, "python");
        for site in &mark.sites {
            assert!(site.file_offset.is_some(), "{mark:?}");
            let semaphore = site.semaphore.expect("a semaphore");
            assert!(semaphore.file_offset.is_some(), "{mark:?}");
        }
    }
    assert_eq!(image.damaged, Vec::<String>::new());
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn debians_python_passes_two_strings_and_a_signed_line_number() {
    for name in ["function__entry", "function__return", "line"] {
        let mark = PYTHON_IMAGE.mark("python", name).expect(name);
        for site in &mark.sites {
            let shape: Vec<(u8, bool)> = site
                .arguments
                .iter()
                .map(|argument| (argument.size, argument.signed))
                .collect();
            assert_eq!(shape, [(8, false), (8, false), (4, true)], "{name}");
            assert!(
                site.arguments
                    .iter()
                    .all(|argument| argument.operand != Operand::Unknown),
                "{name}: {}",
                site.argument_text
            );
        }
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn the_bytes_at_a_mark_of_debians_python_are_a_nop() {
    let bytes = std::fs::read(PYTHON).expect("python3.11 is installed");
    for mark in &PYTHON_IMAGE.marks {
        for site in &mark.sites {
            let offset = site.file_offset.expect("an offset") as usize;
            assert_eq!(bytes.get(offset), Some(&0x90), "{}", mark.name);
        }
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn debians_python_needs_libc_and_starts_at_its_entry_point() {
    let needed = &PYTHON_IMAGE.needed;
    assert!(needed.iter().any(|name| name == "libc.so.6"), "{needed:?}");
    assert!(PYTHON_IMAGE.startup_offset.is_some());
    let build_id = PYTHON_IMAGE.build_id.as_deref().expect("a build id");
    assert_eq!(build_id.len(), 40);
}

/// `(provider, name)` to address, semaphore and arguments of every site, as `readelf -n` prints them.
type Listing = BTreeMap<(String, String), Vec<(u64, u64, String)>>;

fn readelf(path: &str) -> (Listing, Option<String>) {
    let output = Command::new("readelf")
        .env("LC_ALL", "C")
        .args(["-n", path])
        .output()
        .expect("readelf, of the package binutils");
    let text = String::from_utf8(output.stdout).expect("readelf prints UTF-8");
    let number = |line: &str, label: &str| {
        let after = line.split_once(label).expect(label).1.trim();
        let digits = after.split(',').next().expect("a number").trim();
        u64::from_str_radix(digits.trim_start_matches("0x"), 16).expect(digits)
    };
    let (mut listing, mut build_id) = (Listing::new(), None);
    let (mut provider, mut name, mut place) = (String::new(), String::new(), (0, 0));
    for line in text.lines().map(str::trim) {
        if let Some(id) = line.strip_prefix("Build ID: ") {
            build_id = Some(id.to_string());
        } else if let Some(text) = line.strip_prefix("Provider: ") {
            provider = text.to_string();
        } else if let Some(text) = line.strip_prefix("Name: ") {
            name = text.to_string();
        } else if line.starts_with("Location: ") {
            place = (number(line, "Location:"), number(line, "Semaphore:"));
        } else if let Some(arguments) = line.strip_prefix("Arguments:") {
            let key = (provider.clone(), name.clone());
            let site = (place.0, place.1, arguments.trim().to_string());
            listing.entry(key).or_default().push(site);
        }
    }
    (listing, build_id)
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and readelf: run by scripts/test-here"]
fn debians_python_reads_as_readelf_reads_it() {
    let (expected, build_id) = readelf(PYTHON);
    let mut found = Listing::new();
    for mark in &PYTHON_IMAGE.marks {
        for site in &mark.sites {
            let semaphore = site.semaphore.map_or(0, |semaphore| semaphore.address);
            found
                .entry((mark.provider.clone(), mark.name.clone()))
                .or_default()
                .push((site.address, semaphore, site.argument_text.clone()));
        }
    }
    assert_eq!(found, expected);
    assert_eq!(PYTHON_IMAGE.build_id, build_id);
}

#[test]
fn every_class_and_byte_order_is_read_alike() {
    for shape in shapes() {
        let mut shape = shape.note(Sdt::default());
        shape.build_id = vec![0xab, 0x01, 0xff];
        let built = shape.build();
        let image = parse(&built.bytes).expect("a sound image");
        assert_eq!(image.architecture, shape.architecture());
        assert_eq!(image.build_id.as_deref(), Some("ab01ff"));
        let site = only_site(&image);
        assert_eq!(site.address, CODE + 0x10);
        assert_eq!(site.file_offset, Some(built.code_offset + 0x10));
        assert_eq!(
            site.semaphore,
            Some(Semaphore {
                address: DATA + 2,
                file_offset: Some(built.data_offset + 2),
            })
        );
        assert_eq!(site.argument_text, "8@%rbx");
        assert!(image.mark("python", "line").is_some());
        assert!(image.mark("python", "lines").is_none());
        assert!(image.mark("ruby", "line").is_none());
    }
}

#[test]
fn prelink_moves_the_mark_and_its_semaphore_along_with_the_base() {
    for shape in shapes() {
        // The linker saw everything 0x1000 higher than prelink left it.
        let moved = Sdt {
            address: CODE + 0x10 + 0x1000,
            base: BASE + 0x1000,
            semaphore: DATA + 2 + 0x1000,
            ..Sdt::default()
        };
        let built = shape.note(moved).build();
        let image = parse(&built.bytes).expect("a sound image");
        let site = only_site(&image);
        assert_eq!(site.address, CODE + 0x10);
        assert_eq!(site.file_offset, Some(built.code_offset + 0x10));
        assert_eq!(site.semaphore.map(|s| s.address), Some(DATA + 2));
    }
}

#[test]
fn a_mark_without_a_semaphore_gets_none_from_prelink() {
    let moved = Sdt {
        base: BASE - 0x1000,
        address: CODE + 0x10 - 0x1000,
        semaphore: 0,
        ..Sdt::default()
    };
    let image = parse(&Synthetic::default().note(moved).build().bytes).expect("a sound image");
    assert_eq!(only_site(&image).semaphore, None);
    assert_eq!(only_site(&image).address, CODE + 0x10);
}

#[test]
fn without_a_base_section_addresses_stand_as_they_are() {
    let shape = Synthetic {
        base: None,
        ..Synthetic::default()
    };
    let note = Sdt {
        base: 0xdead_0000,
        ..Sdt::default()
    };
    let image = parse(&shape.note(note).build().bytes).expect("a sound image");
    assert_eq!(only_site(&image).address, CODE + 0x10);
}

#[test]
fn what_no_segment_takes_from_the_file_has_no_file_offset() {
    for (address, semaphore) in [
        (CODE + CODE_SIZE, DATA + DATA_SIZE),           // just after
        (CODE - 1, DATA + DATA_SIZE - 1), // just before; half in the file, half in .bss
        (0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_fffe), // the end of the address space
    ] {
        let note = Sdt {
            address,
            semaphore,
            ..Sdt::default()
        };
        let image = parse(&Synthetic::default().note(note).build().bytes).expect("a sound image");
        let site = only_site(&image);
        assert_eq!((site.address, site.file_offset), (address, None));
        assert_eq!(
            site.semaphore,
            Some(Semaphore {
                address: semaphore,
                file_offset: None,
            })
        );
    }
}

#[test]
fn a_library_without_an_entry_point_starts_at_its_init_function() {
    let (dt_init, dt_null) = (12, 0);
    let library = Synthetic {
        dynamic: vec![(dt_init, CODE + 0x40), (dt_null, 0)],
        ..Synthetic::default()
    };
    let built = library.build();
    let image = parse(&built.bytes).expect("a sound image");
    assert_eq!(image.startup_offset, Some(built.code_offset + 0x40));

    let program = Synthetic {
        entry: CODE + 0x20,
        ..library
    };
    let image = parse(&program.build().bytes).expect("a sound image");
    assert_eq!(image.startup_offset, Some(built.code_offset + 0x20));

    let in_data = Synthetic {
        entry: DATA,
        ..Synthetic::default()
    };
    let image = parse(&in_data.build().bytes).expect("a sound image");
    assert_eq!(image.startup_offset, None);
}

#[test]
fn needed_libraries_come_in_order_and_run_paths_split_at_colons() {
    let (dt_rpath, dt_runpath) = (15, 29);
    for shape in shapes() {
        let shape = shape.linked_to(
            &["libpython3.11.so.1.0", "libc.so.6"],
            &[
                (dt_rpath, "/ignored"),
                (dt_runpath, "$ORIGIN/../lib::/opt/lib"),
            ],
        );
        let image = parse(&shape.build().bytes).expect("a sound image");
        assert_eq!(image.needed, ["libpython3.11.so.1.0", "libc.so.6"]);
        assert_eq!(image.run_paths, ["$ORIGIN/../lib", "/opt/lib"]);
    }
    let old = Synthetic::default().linked_to(&[], &[(dt_rpath, "/old")]);
    let image = parse(&old.build().bytes).expect("a sound image");
    assert_eq!(image.run_paths, ["/old"]);
}

#[test]
fn sites_of_one_mark_come_together_in_the_order_of_their_notes() {
    let site = |name, address| Sdt {
        name,
        address,
        ..Sdt::default()
    };
    let image = Synthetic::default()
        .note(site("audit", CODE + 1))
        .note(site("line", CODE + 2))
        .note(site("audit", CODE + 3));
    let image = parse(&image.build().bytes).expect("a sound image");
    let seen: Vec<(&str, Vec<u64>)> = image
        .marks
        .iter()
        .map(|mark| {
            let addresses = mark.sites.iter().map(|site| site.address).collect();
            (mark.name.as_str(), addresses)
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("audit", vec![CODE + 1, CODE + 3]),
            ("line", vec![CODE + 2])
        ]
    );
}

#[test]
fn aarch64_memory_operands_keep_their_blanks() {
    let image = Synthetic::aarch64().note(Sdt {
        arguments: "8@x19 -4@[sp, 60] 8@[x0, x1, lsl 3]",
        ..Sdt::default()
    });
    let image = parse(&image.build().bytes).expect("a sound image");
    let texts: Vec<&str> = only_site(&image)
        .arguments
        .iter()
        .map(|argument| argument.text.as_str())
        .collect();
    assert_eq!(texts, ["x19", "[sp, 60]", "[x0, x1, lsl 3]"]);
}

#[test]
fn a_damaged_note_is_told_and_the_next_one_read() {
    let damaged: [(&[u8], u32, &[u8], &str); 5] = [
        (b"stapsdt\0", 3, b"short", "ends within its addresses"),
        (b"stapsdt\0", 3, &[b'x'; 64], "ends within its strings"),
        (b"stapsdt\0", 2, b"", "is not in SystemTap's format 3"),
        (b"other\0", 3, b"", "is not in SystemTap's format 3"),
        (b"stapsdt\0", 3, &[0; 27], "has no name"),
    ];
    for (owner, kind, description, problem) in damaged {
        let built = Synthetic::default()
            .raw_note(owner, kind, description)
            .note(Sdt::default())
            .build();
        let image = parse(&built.bytes).expect("a sound image around a damaged note");
        assert_eq!(
            image.damaged,
            [format!(
                "SystemTap note 1 at file offset {:#x} {problem}; its mark is left out",
                built.notes_offset
            )]
        );
        assert_eq!(image.marks.len(), 1, "{problem}");
    }
}

#[test]
fn notes_cut_off_at_every_length_leave_the_whole_ones() {
    for shape in shapes() {
        let one = shape.clone().note(Sdt::default());
        let two = one.clone().note(Sdt {
            name: "audit",
            ..Sdt::default()
        });
        // A record that lacks only its closing padding is complete.
        let whole_at = |image: &Synthetic| image.notes.len() - padding(image);
        for length in 0..=two.notes.len() {
            let mut cut = two.clone();
            cut.notes.truncate(length);
            let image = parse(&cut.build().bytes).expect("a sound image around cut notes");
            let whole = [&one, &two]
                .iter()
                .filter(|image| length >= whole_at(image))
                .count();
            assert_eq!(image.marks.len(), whole, "{length} bytes of {shape:?}");
            let at_end_of_one = (whole_at(&one)..=one.notes.len()).contains(&length);
            let expected_damage = usize::from(whole < 2 && length > 0 && !at_end_of_one);
            assert_eq!(image.damaged.len(), expected_damage, "{length} bytes");
        }
    }
}

/// Number of zero bytes after the closing NUL of the last note's description.
fn padding(image: &Synthetic) -> usize {
    let zeroes = image.notes.iter().rev().take_while(|&&byte| byte == 0);
    zeroes.count() - 1
}

#[test]
fn a_file_cut_off_anywhere_says_so() {
    let image = Synthetic::default().note(Sdt::default());
    let built = image.build();
    for length in 4..built.bytes.len() {
        let cut = built.bytes.get(..length).expect("a prefix");
        let missing = match parse(cut) {
            Err(ElfError::Truncated { missing, .. }) => missing,
            other => panic!("{length} bytes: {other:?}"),
        };
        let expected = match length {
            0..64 => "header",
            64..344 => "program headers",
            _ => "section table",
        };
        assert_eq!(missing, expected, "{length} bytes");
        assert!(length < built.section_table_offset || missing == "section table");
    }
}

#[test]
fn an_image_without_a_section_table_is_an_error_that_says_why() {
    let image = Synthetic {
        with_sections: false,
        ..Synthetic::default()
    };
    let error = parse(&image.build().bytes).expect_err("no sections");
    assert!(matches!(error, ElfError::NoSections { .. }), "{error:?}");
    assert!(
        error.to_string().contains("marks cannot be found"),
        "{error}"
    );
}

#[test]
fn scripts_are_told_apart_with_their_interpreter() {
    for (text, interpreter, argument) in [
        (
            "#!/usr/bin/env python3\nimport x",
            "/usr/bin/env",
            Some("python3"),
        ),
        ("#! /bin/sh\n", "/bin/sh", None),
        (
            "#!/usr/bin/env -S python3 -u",
            "/usr/bin/env",
            Some("-S python3 -u"),
        ),
        ("#!", "", None),
    ] {
        match parse(text.as_bytes()) {
            Err(ElfError::Script {
                interpreter: found,
                argument: rest,
                ..
            }) => {
                assert_eq!(found, PathBuf::from(interpreter));
                assert_eq!(rest.as_deref(), argument);
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn other_files_are_not_elf() {
    for bytes in [&b""[..], b"\x7fEL", b"MZ\x90\0", b"hello"] {
        assert!(
            matches!(parse(bytes), Err(ElfError::NotElf { .. })),
            "{bytes:?}"
        );
    }
}

#[test]
fn an_impossible_class_or_byte_order_is_damage() {
    let built = Synthetic::default().build();
    for position in [4, 5] {
        let mut bytes = built.bytes.clone();
        *bytes.get_mut(position).expect("a header") = 9;
        assert!(
            matches!(parse(&bytes), Err(ElfError::Malformed { .. })),
            "{:?}",
            parse(&bytes)
        );
    }
}

#[test]
fn only_ordinary_files_are_opened() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    for (path, expected) in [
        (directory.path(), "a directory"),
        (&socket, "a socket"),
        (Path::new("/dev/null"), "a device"),
    ] {
        match Image::open(path) {
            Err(ElfError::NotOrdinary { what, .. }) => assert_eq!(what, expected),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        Image::open(directory.path().join("absent")),
        Err(ElfError::Unreadable { .. })
    ));
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_huge_file_is_read_by_position_and_says_what_its_beginning_says() {
    let small = Image::open("/usr/bin/python3.11").expect("an interpreter");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::copy("/usr/bin/python3.11", file.path()).expect("copied");
    // A terabyte, mostly a hole: reading it whole would be neither fast nor possible in memory.
    file.as_file().set_len(1 << 40).expect("a sparse file");
    let huge = Image::open(file.path()).expect("the same interpreter");
    assert_eq!(
        Image {
            path: small.path.clone(),
            ..huge
        },
        small
    );
    let nothing = tempfile::NamedTempFile::new().expect("a temporary file");
    nothing.as_file().set_len(1 << 40).expect("a sparse file");
    assert!(matches!(
        Image::open(nothing.path()),
        Err(ElfError::NotElf { .. })
    ));
}

#[test]
fn headers_that_name_the_same_bytes_again_and_again_are_read_within_a_bound() {
    let built = Synthetic::default().note(Sdt::default()).build();
    let mut bytes = built.bytes;
    // As many program headers as possible, each a note segment covering the whole file.
    let at = bytes.len() as u64;
    bytes[32..40].copy_from_slice(&at.to_le_bytes());
    bytes[56..58].copy_from_slice(&u16::MAX.to_le_bytes());
    for _ in 0..u16::MAX {
        let mut segment = [0; 56];
        segment[0] = 4;
        segment[32..40].copy_from_slice(&(1_u64 << 20).to_le_bytes());
        bytes.extend(segment);
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), &bytes).expect("written");
    let image = Image::open(file.path()).expect("its sections are sound");
    assert_eq!(image.marks.len(), 1);
}

#[test]
fn more_notes_than_any_program_has_are_left_out_aloud() {
    let mut image = Synthetic::default().note(Sdt::default());
    image.notes = image.notes.repeat((1 << 14) + 1);
    let image = parse(&image.build().bytes).expect("a sound image");
    assert_eq!(
        image
            .marks
            .iter()
            .map(|mark| mark.sites.len())
            .sum::<usize>(),
        1 << 14
    );
    assert_eq!(image.damaged.len(), 1);
}

#[test]
fn the_list_of_damaged_notes_has_an_end() {
    let mut image = Synthetic::default().raw_note(b"stapsdt\0", 3, b"");
    image.notes = image.notes.repeat(40);
    let image = parse(&image.build().bytes).expect("a sound image");
    assert_eq!(image.damaged.len(), 33);
    assert_eq!(
        image.damaged.last().map(String::as_str),
        Some("8 more SystemTap notes are damaged")
    );
}

#[test]
fn an_image_as_json_has_numbers_for_addresses_and_tags_on_operands() {
    let image = Synthetic::default().note(Sdt {
        semaphore: 0,
        arguments: "8@%rbx -4@$-7 4@112(%rsp) 8@what?",
        ..Sdt::default()
    });
    let built = image.build();
    let image = parse(&built.bytes).expect("a sound image");
    let json = serde_json::to_value(&image).expect("an image serializes");
    assert_eq!(
        json,
        serde_json::json!({
            "path": "synthetic",
            "build_id": null,
            "architecture": {"machine": "x86", "address_size": 8, "little_endian": true},
            "marks": [{"provider": "python", "name": "line", "sites": [{
                "address": CODE + 0x10,
                "file_offset": built.code_offset + 0x10,
                "semaphore": null,
                "arguments": [
                    {"size": 8, "signed": false, "float": false, "text": "%rbx",
                     "operand": {"kind": "register", "value": "rbx"}},
                    {"size": 4, "signed": true, "float": false, "text": "$-7",
                     "operand": {"kind": "constant", "value": -7}},
                    {"size": 4, "signed": false, "float": false, "text": "112(%rsp)",
                     "operand": {"kind": "memory", "value": {
                         "base": "rsp", "index": null, "scale": 1, "displacement": 112, "symbol": null}}},
                    {"size": 8, "signed": false, "float": false, "text": "what?",
                     "operand": {"kind": "unknown"}},
                ],
                "argument_text": "8@%rbx -4@$-7 4@112(%rsp) 8@what?",
            }]}],
            "damaged": [],
            "needed": [],
            "run_paths": [],
            "startup_offset": null,
            "python_runtime": null,
        })
    );
}

/// An image with something in every table.
fn rich(shape: Synthetic) -> Vec<u8> {
    let mut shape = shape
        .note(Sdt::default())
        .note(Sdt {
            name: "audit",
            arguments: "-4@8(%rsp,%rax,4) 8@[sp, 60]",
            ..Sdt::default()
        })
        .linked_to(&["libpython3.so"], &[(29, "$ORIGIN:/lib")]);
    shape.build_id = vec![7; 20];
    shape.build().bytes
}

/// Seeds for the fuzzer, which would hardly discover a section table by itself. `PYSTAP_RENEW=1` writes them.
#[test]
fn the_fuzzers_seeds_are_what_the_builder_makes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/image");
    if !directory.is_dir() {
        return; // A published package comes without the fuzz workspace.
    }
    for shape in shapes() {
        let order = if shape.little_endian { "le" } else { "be" };
        let bits = if shape.wide { 64 } else { 32 };
        let seed = directory.join(format!("machine{}-{bits}{order}.elf", shape.machine));
        let bytes = rich(shape);
        if std::env::var_os("PYSTAP_RENEW").is_some() {
            std::fs::write(&seed, &bytes).expect("fuzz/seeds/image can be written");
        }
        let stored = std::fs::read(&seed).unwrap_or_default();
        assert!(
            stored == bytes,
            "{} is out of date; run the tests once with PYSTAP_RENEW=1",
            seed.display()
        );
    }
}

proptest! {
    #[test]
    fn no_mutation_of_an_image_panics(
        shape in proptest::sample::select(shapes()),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..24),
        length in any::<proptest::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = rich(shape);
        for (index, value) in changes {
            let position = index.index(bytes.len());
            bytes[position] = value;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        if let Ok(image) = parse(&bytes) {
            for site in image.marks.iter().flat_map(|mark| &mark.sites) {
                prop_assert!(site.file_offset.is_none_or(|offset| offset < bytes.len() as u64));
            }
        }
    }

    #[test]
    fn no_bytes_panic(tail in proptest::collection::vec(any::<u8>(), 0..256)) {
        let mut bytes = b"\x7fELF".to_vec();
        bytes.extend(tail);
        let _ = parse(&bytes);
    }
}
