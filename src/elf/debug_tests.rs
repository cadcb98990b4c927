//! Debug information in every form that distributions ship: small files built here, with one function whose file and
//! line are known; the same files damaged everywhere; and a real compiler's output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::write::ZlibEncoder;
use gimli::write::{
    Address, AttributeValue, Dwarf, EndianVec, FileId, LineProgram, LineString, Sections, Unit,
};
use gimli::{Encoding, Format, LittleEndian, SectionId};
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::io::Write;

use super::*;

const FUNCTION: &str = "task_work_add";
const ADDRESS: u64 = 0xffff_ffff_8110_0000;
const LINE: u64 = 42;
const BUILD_ID: &str = "00112233445566778899aabbccddeeff00112233";
const OTHER_ID: &str = "ffeeddccbbaa99887766554433221100ffeeddcc";

/// One form of debug information.
#[derive(Debug, Clone)]
struct Form {
    version: u16,
    format: Format,
    compression: Compression,
    /// Whether there is an address index.
    index: bool,
    /// Whether the function's name is in the supplementary file.
    shared_name: bool,
    /// Whether the entry says where the function was declared; otherwise only the line table does.
    declared: bool,
    /// Whether the function lies in two pieces, as compilers leave those of which a part is seldom run.
    pieces: bool,
    /// Number of units besides the function's.
    others: usize,
}

impl Default for Form {
    fn default() -> Self {
        Form {
            version: 5,
            format: Format::Dwarf32,
            compression: Compression::None,
            index: true,
            shared_name: false,
            declared: true,
            pieces: false,
            others: 2,
        }
    }
}

fn encoding(form: &Form) -> Encoding {
    Encoding {
        format: form.format,
        version: form.version,
        address_size: 8,
    }
}

fn unit(form: &Form, name: &str, address: u64) -> (Unit, FileId) {
    let text = |text: &str| LineString::String(text.as_bytes().to_vec());
    let mut program = LineProgram::new(
        encoding(form),
        gimli::LineEncoding::default(),
        text("/build/linux"),
        None,
        text(name),
        None,
    );
    let directory = program.default_directory();
    let file = program.add_file(text(name), directory, None);
    program.begin_sequence(Some(Address::Constant(address)));
    program.row().file = file;
    program.row().line = LINE;
    program.generate_row();
    program.end_sequence(0x20);
    (Unit::new(encoding(form), program), file)
}

/// Sections of debug information by name.
fn dwarf(form: &Form) -> Vec<(String, Vec<u8>)> {
    let mut dwarf = Dwarf::new();
    for number in 0..form.others {
        let (unit, _) = unit(form, "other.c", 0x1000 * (number as u64 + 1));
        let id = dwarf.units.add(unit);
        let other = dwarf.units.get_mut(id);
        let root = other.root();
        other.get_mut(root).set(
            gimli::DW_AT_name,
            AttributeValue::String(b"other.c".to_vec()),
        );
    }
    let (unit, file) = unit(form, "task_work.c", ADDRESS);
    let id = dwarf.units.add(unit);
    let name = dwarf.strings.add(FUNCTION);
    let unit = dwarf.units.get_mut(id);
    let root = unit.root();
    let begins = if form.pieces {
        let pieces = [(ADDRESS, 0x10), (ADDRESS - 0x1000, 0x8)].map(|(begin, length)| {
            gimli::write::Range::StartLength {
                begin: Address::Constant(begin),
                length,
            }
        });
        let list = unit.ranges.add(gimli::write::RangeList(pieces.to_vec()));
        (gimli::DW_AT_ranges, AttributeValue::RangeListRef(list))
    } else {
        let address = AttributeValue::Address(Address::Constant(ADDRESS));
        (gimli::DW_AT_low_pc, address)
    };
    unit.get_mut(root).set(
        gimli::DW_AT_comp_dir,
        AttributeValue::String(b"/build/linux".to_vec()),
    );
    let function = unit.add(root, gimli::DW_TAG_subprogram);
    let function = unit.get_mut(function);
    function.set(
        gimli::DW_AT_name,
        if form.shared_name {
            // After the NUL that begins the shared strings.
            AttributeValue::DebugStrRefSup(gimli::DebugStrOffset(1))
        } else {
            AttributeValue::StringRef(name)
        },
    );
    function.set(begins.0, begins.1);
    if form.declared {
        function.set(
            gimli::DW_AT_decl_file,
            AttributeValue::FileIndex(Some(file)),
        );
        function.set(gimli::DW_AT_decl_line, AttributeValue::Udata(LINE));
    }
    let mut sections = Sections::new(EndianVec::new(LittleEndian));
    dwarf.write(&mut sections).expect("written");
    let mut named = Vec::new();
    sections
        .for_each(|id, section| {
            if !section.slice().is_empty() {
                named.push((id.name().to_owned(), section.slice().to_vec()));
            }
            Ok::<_, ()>(())
        })
        .expect("nothing fails");
    if form.index {
        let info = named
            .iter()
            .find(|(name, _)| name == SectionId::DebugInfo.name())
            .map(|(_, bytes)| bytes.clone())
            .expect("units");
        named.push((".debug_aranges".to_owned(), index(&info, form)));
    }
    named
}

/// An address index saying that the last unit has the function.
fn index(info: &[u8], form: &Form) -> Vec<u8> {
    let mut offset = 0;
    let mut last = 0;
    while offset < info.len() {
        last = offset;
        let (length, head) = match form.format {
            Format::Dwarf32 => {
                let bytes = info[offset..offset + 4].try_into().expect("four");
                (u32::from_le_bytes(bytes) as usize, 4)
            }
            Format::Dwarf64 => {
                let bytes = info[offset + 4..offset + 12].try_into().expect("eight");
                (u64::from_le_bytes(bytes) as usize, 12)
            }
        };
        offset += head + length;
    }
    let mut body = Vec::new();
    body.extend(2_u16.to_le_bytes());
    match form.format {
        Format::Dwarf32 => body.extend((last as u32).to_le_bytes()),
        Format::Dwarf64 => body.extend((last as u64).to_le_bytes()),
    }
    body.extend([8, 0]);
    let head = match form.format {
        Format::Dwarf32 => 4,
        Format::Dwarf64 => 12,
    };
    // Pairs are aligned to their size.
    let padding = (head + body.len()).next_multiple_of(16) - (head + body.len());
    body.extend(std::iter::repeat_n(0, padding));
    for number in [ADDRESS, 0x20, 0, 0] {
        body.extend(number.to_le_bytes());
    }
    let mut section = Vec::new();
    match form.format {
        Format::Dwarf32 => section.extend((body.len() as u32).to_le_bytes()),
        Format::Dwarf64 => {
            section.extend(u32::MAX.to_le_bytes());
            section.extend((body.len() as u64).to_le_bytes());
        }
    }
    section.extend(body);
    section
}

/// A section as it is stored in the file.
struct Section {
    name: String,
    kind: u32,
    flags: u64,
    bytes: Vec<u8>,
}

fn plain(name: &str, kind: u32, bytes: Vec<u8>) -> Section {
    Section {
        name: name.to_owned(),
        kind,
        flags: 0,
        bytes,
    }
}

fn compressed(name: &str, bytes: Vec<u8>, compression: Compression) -> Section {
    let zlib = |bytes: &[u8]| {
        let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).expect("to memory");
        encoder.finish().expect("to memory")
    };
    let header = |kind: u32| {
        let mut header = Vec::new();
        header.extend(kind.to_le_bytes());
        header.extend(0_u32.to_le_bytes());
        header.extend((bytes.len() as u64).to_le_bytes());
        header.extend(1_u64.to_le_bytes());
        header
    };
    const SHF_COMPRESSED: u64 = 0x800;
    let (name, flags, stored) = match compression {
        Compression::None => (name.to_owned(), 0, bytes),
        Compression::Zlib => {
            let stored = [header(1), zlib(&bytes)].concat();
            (name.to_owned(), SHF_COMPRESSED, stored)
        }
        Compression::Zstd => {
            let packed = compress_to_vec(bytes.as_slice(), CompressionLevel::Fastest);
            (
                name.to_owned(),
                SHF_COMPRESSED,
                [header(2), packed].concat(),
            )
        }
        Compression::GnuZlib => {
            let size = (bytes.len() as u64).to_be_bytes();
            let stored = [b"ZLIB".as_slice(), &size, &zlib(&bytes)].concat();
            (name.replace(".debug_", ".zdebug_"), 0, stored)
        }
    };
    Section {
        name,
        kind: 1,
        flags,
        bytes: stored,
    }
}

fn build_id_note(id: &str) -> Vec<u8> {
    let bytes: Vec<u8> = (0..id.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&id[at..at + 2], 16).expect("hexadecimal"))
        .collect();
    let mut note = Vec::new();
    for number in [4, bytes.len() as u32, 3] {
        note.extend(number.to_le_bytes());
    }
    note.extend(b"GNU\0");
    note.extend(bytes);
    note
}

/// A symbol table with the function, and its string table.
fn symbols() -> [Section; 2] {
    let mut table = vec![0; 24];
    table.extend(1_u32.to_le_bytes());
    // A global function in section 1.
    table.extend([0x12, 0]);
    table.extend(1_u16.to_le_bytes());
    table.extend(ADDRESS.to_le_bytes());
    table.extend(0x20_u64.to_le_bytes());
    let names = format!("\0{FUNCTION}\0").into_bytes();
    [plain(".symtab", 2, table), plain(".strtab", 3, names)]
}

/// An ELF file with these sections and no segments.
fn elf(mut sections: Vec<Section>) -> Vec<u8> {
    let mut names = vec![0];
    let mut name_at = Vec::new();
    sections.push(plain(".shstrtab", 3, Vec::new()));
    for section in &sections {
        name_at.push(names.len() as u32);
        names.extend(section.name.as_bytes());
        names.push(0);
    }
    sections.last_mut().expect("just added").bytes = names;
    let mut contents = Vec::new();
    let mut headers = vec![0; 64];
    for (section, name) in sections.iter().zip(name_at) {
        contents.resize(contents.len().next_multiple_of(8), 0);
        let offset = 64 + contents.len() as u64;
        contents.extend(&section.bytes);
        headers.extend(name.to_le_bytes());
        headers.extend(section.kind.to_le_bytes());
        for number in [section.flags, 0, offset, section.bytes.len() as u64] {
            headers.extend(number.to_le_bytes());
        }
        headers.extend(0_u64.to_le_bytes());
        for number in [4_u64, 0] {
            headers.extend(number.to_le_bytes());
        }
    }
    contents.resize(contents.len().next_multiple_of(8), 0);
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    file.resize(16, 0);
    file.extend(3_u16.to_le_bytes());
    file.extend(62_u16.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for number in [0, 0, 64 + contents.len() as u64] {
        file.extend(number.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    let count = sections.len() as u16 + 1;
    for number in [64, 56, 0, 64, count, count - 1] {
        file.extend(number.to_le_bytes());
    }
    file.extend(contents);
    file.extend(headers);
    file
}

/// A file of this form, with the build ID and any further sections.
fn file(form: &Form, more: Vec<Section>) -> Vec<u8> {
    let mut sections = vec![plain(".note.gnu.build-id", 7, build_id_note(BUILD_ID))];
    sections.extend(symbols());
    sections.extend(
        dwarf(form)
            .into_iter()
            .map(|(name, bytes)| compressed(&name, bytes, form.compression)),
    );
    sections.extend(more);
    elf(sections)
}

fn write(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::write(&path, bytes).expect("written");
    path
}

fn examine(bytes: &[u8]) -> Result<DebugInformation, DebugError> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = write(directory.path(), "vmlinux", bytes);
    DebugInformation::examine(&path, &["absent", FUNCTION], |_, _| None)
}

fn known() -> Option<Resolved> {
    Some(Resolved {
        function: FUNCTION.to_owned(),
        file: "/build/linux/task_work.c".to_owned(),
        line: LINE,
    })
}

#[test]
fn a_function_is_resolved_in_every_form() {
    let compressions = [
        Compression::None,
        Compression::Zlib,
        Compression::Zstd,
        Compression::GnuZlib,
    ];
    for version in [4, 5] {
        for format in [Format::Dwarf32, Format::Dwarf64] {
            for compression in compressions {
                for (index, declared, pieces) in [
                    (true, true, false),
                    (false, true, false),
                    (true, false, false),
                    (true, true, true),
                ] {
                    let form = Form {
                        version,
                        format,
                        compression,
                        index,
                        declared,
                        pieces,
                        ..Form::default()
                    };
                    let debug = examine(&file(&form, Vec::new()))
                        .unwrap_or_else(|error| panic!("{form:?}: {error}"));
                    assert_eq!(debug.resolved, known(), "{form:?}: {:?}", debug.unresolved);
                    assert_eq!(debug.units, 3, "{form:?}");
                    assert_eq!(debug.versions, [version], "{form:?}");
                    assert_eq!(debug.compression, compression, "{form:?}");
                    assert_eq!(debug.build_id.as_deref(), Some(BUILD_ID), "{form:?}");
                }
            }
        }
    }
}

#[test]
fn a_name_in_a_supplementary_file_is_found_there_and_missed_where_it_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let shared = elf(vec![
        plain(".note.gnu.build-id", 7, build_id_note(OTHER_ID)),
        plain(".debug_str", 1, format!("\0{FUNCTION}\0").into_bytes()),
    ]);
    let link = [
        b"../.dwz/shared.debug\0".as_slice(),
        &build_id_note(OTHER_ID)[16..],
    ]
    .concat();
    let form = Form {
        shared_name: true,
        ..Form::default()
    };
    let bytes = file(&form, vec![plain(".gnu_debugaltlink", 1, link)]);
    let path = write(directory.path(), "usr/lib/debug/boot/vmlinux", &bytes);
    let directories = DebugDirectories {
        system: directory.path().join("usr/lib/debug"),
        caches: Vec::new(),
    };
    let examine = || {
        DebugInformation::examine(&path, &[FUNCTION], |name, build_id| {
            directories.supplement(&path, name, build_id)
        })
        .expect("it can be read")
    };

    let alone = examine();
    assert_eq!(alone.resolved, None);
    assert!(alone.unresolved.is_some());
    let supplement = alone.supplement.expect("named");
    assert_eq!(
        (supplement.build_id.as_str(), supplement.found),
        (OTHER_ID, None)
    );

    // A file of another build does not count.
    let wrong = elf(vec![plain(
        ".note.gnu.build-id",
        7,
        build_id_note(BUILD_ID),
    )]);
    let place = write(directory.path(), "usr/lib/debug/.dwz/shared.debug", &wrong);
    assert_eq!(examine().resolved, None);

    fs::write(&place, &shared).expect("written");
    assert_eq!(examine().resolved, known());

    // Elsewhere, it is found by its build ID.
    fs::remove_file(&place).expect("removed");
    write(
        directory.path(),
        &format!(
            "usr/lib/debug/.build-id/{}/{}.debug",
            &OTHER_ID[..2],
            &OTHER_ID[2..]
        ),
        &shared,
    );
    assert_eq!(examine().resolved, known());
}

#[test]
fn split_debug_information_is_found_by_build_id_in_a_cache_and_by_link() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    let debug = file(&Form::default(), Vec::new());
    let checksum = {
        let mut checksum = flate2::Crc::new();
        checksum.update(&debug);
        checksum.sum()
    };
    let link = [b"python3.debug\0\0\0".as_slice(), &checksum.to_le_bytes()].concat();
    let stripped = |id: Option<&str>| {
        let mut sections = vec![plain(".gnu_debuglink", 1, link.clone())];
        sections.extend(id.map(|id| plain(".note.gnu.build-id", 7, build_id_note(id))));
        elf(sections)
    };
    let program = write(root, "usr/bin/python3", &stripped(Some(BUILD_ID)));
    let directories = DebugDirectories {
        system: root.join("usr/lib/debug"),
        caches: vec![root.join("cache")],
    };
    let find = || {
        let separation = Separation::of(&program).expect("ELF");
        assert!(!separation.has_debug_information);
        directories.of(&program, &separation)
    };
    assert_eq!(find(), None);

    let by_link = write(root, "usr/bin/.debug/python3.debug", &debug);
    assert_eq!(find(), Some(by_link.clone()));
    // The link names a file of another build.
    fs::write(&program, stripped(Some(OTHER_ID))).expect("written");
    assert_eq!(find(), None);
    // Without a build ID the checksum decides.
    let anonymous = elf(vec![plain(".debug_info", 1, vec![0; 16])]);
    fs::write(&program, stripped(None)).expect("written");
    assert_eq!(find(), Some(by_link.clone()));
    fs::write(&by_link, anonymous).expect("written");
    assert_eq!(find(), None);

    fs::write(&program, stripped(Some(BUILD_ID))).expect("written");
    let in_cache = write(root, &format!("cache/{BUILD_ID}/debuginfo"), &debug);
    assert_eq!(find(), Some(in_cache));
    let by_id = write(
        root,
        &format!(
            "usr/lib/debug/.build-id/{}/{}.debug",
            &BUILD_ID[..2],
            &BUILD_ID[2..]
        ),
        &debug,
    );
    assert_eq!(find(), Some(by_id));
}

#[test]
fn a_file_without_debug_information_or_without_the_function_says_so() {
    let none = elf(vec![plain(".text", 1, vec![0; 8])]);
    let error = examine(&none).expect_err("there is none");
    assert!(matches!(error, DebugError::NoDebugInformation), "{error}");
    let mut sections = vec![plain(".note.gnu.build-id", 7, build_id_note(BUILD_ID))];
    sections.extend(
        dwarf(&Form::default())
            .into_iter()
            .map(|(name, bytes)| plain(&name, 1, bytes)),
    );
    let debug = examine(&elf(sections)).expect("it can be read");
    assert_eq!((debug.units, debug.resolved), (3, None));
    let reason = debug.unresolved.expect("a reason");
    assert!(reason.contains(FUNCTION), "{reason}");
}

#[test]
fn a_file_that_was_cut_short_is_reported_wherever_it_ends() {
    for compression in [Compression::None, Compression::Zlib, Compression::Zstd] {
        let form = Form {
            compression,
            ..Form::default()
        };
        let whole = file(&form, Vec::new());
        for length in (0..whole.len()).step_by(7) {
            let error = examine(&whole[..length]).expect_err("the section table is at the end");
            let message = error.to_string();
            assert!(!message.contains('\n') && !message.is_empty(), "{message}");
        }
    }
}

#[test]
fn sections_that_reach_beyond_the_file_or_lie_about_their_size_are_refused() {
    let claims = [
        compressed(".debug_info", vec![0; 64], Compression::Zlib),
        compressed(".debug_info", vec![0; 64], Compression::Zstd),
    ];
    for mut section in claims {
        // The inflated size.
        section.bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        let error = examine(&elf(vec![section])).expect_err("nothing is that large");
        assert!(!error.to_string().is_empty());
    }
    let mut unknown = compressed(".debug_info", vec![0; 64], Compression::Zlib);
    unknown.bytes[0] = 77;
    let error = examine(&elf(vec![unknown])).expect_err("no such compression");
    assert!(error.to_string().contains("77"), "{error}");
}

#[test]
fn a_kernel_has_its_build_id_in_a_section_of_another_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let other = [
        6_u32.to_le_bytes().as_slice(),
        &0_u32.to_le_bytes(),
        &1_u32.to_le_bytes(),
        b"Linux\0\0\0",
    ]
    .concat();
    let kernel = elf(vec![
        plain(".note.other", 7, other.clone()),
        plain(".notes", 7, [other, build_id_note(BUILD_ID)].concat()),
    ]);
    let path = write(directory.path(), "vmlinux", &kernel);
    let separation = Separation::of(&path).expect("ELF");
    assert_eq!(separation.build_id.as_deref(), Some(BUILD_ID));
}

#[test]
fn the_build_id_of_the_running_kernel_is_among_its_notes() {
    let notes = build_id_note(BUILD_ID);
    assert_eq!(kernel_build_id(&notes).as_deref(), Some(BUILD_ID));
    let here = fs::read("/sys/kernel/notes").expect("Linux has notes");
    let id = kernel_build_id(&here).expect("a build id");
    assert!(id.len() >= 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(kernel_build_id(b""), None);
}

#[test]
fn what_a_real_compiler_writes_is_understood() {
    let directory = tempfile::tempdir().expect("a directory");
    let source = directory.path().join("known.c");
    fs::write(
        &source,
        // What seldom happens is moved away from the rest where it is optimised.
        "int helper(int n) { return n; } void seldom(int) __attribute__((cold));\n\n\
         int known_function(int n)\n{\n    if (n < 0) seldom(n);\n    return helper(n) + 1;\n}\n",
    )
    .expect("written");
    for options in [
        ["-gdwarf-4", "-O0", "-gz=none"],
        ["-gdwarf-5", "-O0", "-gz=none"],
        ["-gdwarf-5", "-O2", "-gz=zlib"],
    ] {
        let library = directory.path().join("known.so");
        let compiled = Command::new("cc")
            .args(options)
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&source)
            .status()
            .expect("a compiler is installed");
        assert!(compiled.success(), "{options:?}");
        let debug = DebugInformation::examine(&library, &["known_function"], |_, _| None)
            .unwrap_or_else(|error| panic!("{options:?}: {error}"));
        let resolved = debug.resolved.expect("resolved");
        assert_eq!(resolved.line, 3, "{options:?}");
        assert!(
            resolved.file.ends_with("known.c"),
            "{options:?} {resolved:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damage_anywhere_is_survived(
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..8),
        compression in prop::sample::select(vec![Compression::None, Compression::Zlib, Compression::GnuZlib]),
    ) {
        let form = Form { compression, ..Form::default() };
        let mut damaged = file(&form, Vec::new());
        let start = at.index(damaged.len());
        for (place, byte) in damaged[start..].iter_mut().zip(bytes) {
            *place = byte;
        }
        // Whether it can still be parsed depends on where it was hit; the test only asks that parsing ends.
        let outcome = examine(&damaged);
        prop_assert!(outcome.is_ok() || !outcome.unwrap_err().to_string().is_empty());
    }
}
