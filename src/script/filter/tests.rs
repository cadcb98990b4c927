//! Globs against stap's own compiled regular expressions, and text against its literals.
//!
//! The tests that ask stap need `stap` (the `systemtap` package) and `cc`; neither root nor kernel headers.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use proptest::prelude::*;

use super::*;

fn glob(pattern: &str) -> Glob {
    Glob::new(pattern).unwrap_or_else(|error| panic!("{error}"))
}

fn module(pattern: &str) -> Glob {
    Glob::module(pattern).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn regular_expressions_read_as_expected() {
    for (pattern, expected) in [
        ("work", "^work$"),
        ("*", "^.*$"),
        ("a.b(c)|{2}+$^", "^a\\.b\\(c\\)\\|\\{2\\}\\+\\$\\^$"),
        ("**a", "^.*a$"),
        ("[!a]", "^[^a]$"),
        ("[a-c]", "^[a-c]$"),
        ("[]\\-^[\\\\]", "^[\\-\\[\\\\\\]\\^]$"),
        ("?", "^.$"),
        (
            "é",
            "^[^\u{1}-,\\-.-Z\\[\\\\\\]\\^_-\u{7f}][^\u{1}-,\\-.-Z\\[\\\\\\]\\^_-\u{7f}]$",
        ),
    ] {
        assert_eq!(stap_regex(&glob(pattern)), expected, "{pattern}");
    }
    assert_eq!(
        stap_regex(&module("a.*")),
        "^(a/.*\\.py|.*/a/.*\\.py|<frozen a\\..*>|<frozen a>)$"
    );
}

#[test]
fn an_expression_that_is_wider_than_the_pattern_is_known_to_be() {
    assert!(is_exact_in_stap(&glob("a*[!b]?")));
    assert!(!is_exact_in_stap(&glob("é")));
    assert!(is_exact_in_stap(&glob("????????????")));
    assert!(!is_exact_in_stap(&glob("*????????????")));
    assert!(is_exact_in_stap(&module("a.b.*")));
}

#[test]
fn literals_are_escaped_byte_by_byte() {
    for (text, expected) in [
        ("plain text", "\"plain text\""),
        ("a\"; exit() //", "\"a\\042; exit() //\""),
        ("back\\slash", "\"back\\134slash\""),
        ("line\nnext\t1", "\"line\\012next\\0111\""),
        ("é9", "\"\\303\\2519\""),
        ("100 %d", "\"100 %d\""),
        ("", "\"\""),
    ] {
        assert_eq!(stap_str(text).as_deref(), Ok(expected));
    }
    assert_eq!(stap_bytes(b"\xff").as_deref(), Ok("\"\\377\""));
    let message = stap_str("a\0b").expect_err("NUL").to_string();
    assert!(message.contains("NUL"), "{message}");
}

#[test]
fn a_path_is_written_as_probe_points_read_it() {
    assert_eq!(
        stap_path("/opt/py \"é\" \\x").as_deref(),
        Ok("\"/opt/py \\\"é\\\" \\\\x\"")
    );
    for path in ["/a*", "/a?", "/[a]", "/{a,b}", "/a\n"] {
        assert!(stap_path(path).is_err(), "{path}");
    }
}

proptest! {
    #[test]
    fn every_expression_is_ascii(pattern in "\\PC{0,20}|[\\[\\]a\\-!^*?.\\\\]{0,12}") {
        for parsed in [Glob::new(&pattern), Glob::module(&pattern)].into_iter().flatten() {
            prop_assert!(stap_regex(&parsed).is_ascii());
        }
    }
}

/// Patterns that try every way out of a glob, a regular expression or a literal.
const HOSTILE: &[&str] = &[
    "*",
    "?",
    "a*b?c",
    "\"",
    "\\\\",
    "\"; exit() //",
    "%d%s%n",
    "\n",
    "\t\u{1}\u{7f}",
    "a\r\nb",
    "^*$",
    "a{3}",
    "(?:x)",
    "[[:alpha:]]",
    "[]]",
    "[!]]",
    "[^^]",
    "[\\\\-a]",
    "[+-/]",
    "[ -~]",
    "[!-~]",
    "[!!-~]",
    "[\u{1}-\u{7f}]",
    "é*",
    "*→?",
    "[!a]é",
    "<lambda>",
    "%{ printk(1) %}",
    "@1$1",
    "/* x */",
    "??=",
    "*a??????????",
    "a|b",
    "(",
    ")",
    "{",
    "}",
    "\\a",
];

/// A directory that stap takes for a kernel build tree as long as nothing is compiled.
fn stub_kernel(at: &Path) {
    let release = at.join("include/config");
    std::fs::create_dir_all(&release).expect("a directory");
    let options = "CONFIG_X86_64=y\nCONFIG_MODULES=y\nCONFIG_KPROBES=y\nCONFIG_TRACEPOINTS=y\n\
                   CONFIG_ARCH_SUPPORTS_UPROBES=y\nCONFIG_UPROBES=y\n";
    std::fs::write(at.join(".config"), options).expect("a file");
    std::fs::write(at.join("Module.symvers"), "").expect("a file");
    std::fs::write(release.join("kernel.release"), "6.1.0-stub\n").expect("a file");
}

fn stap(directory: &Path, pass: &str, script: &str) -> Output {
    let kernel = directory.join("kernel");
    stub_kernel(&kernel);
    let file = directory.join("script.stp");
    std::fs::write(&file, script).expect("a file");
    Command::new("stap")
        .env("LC_ALL", "C")
        .env("SYSTEMTAP_DIR", directory.join("state"))
        .arg("-w")
        .arg("-r")
        .args([&kernel, Path::new(pass), &file, Path::new("an argument")])
        .output()
        .expect("stap runs (apt-get install systemtap)")
}

fn hostile_globs() -> Vec<Glob> {
    let plain = HOSTILE.iter().map(|pattern| glob(pattern));
    let modules = ["a.b", "nova.compute.*", "*.tests", "*", "a[.!]\"b", "é.*"];
    plain
        .chain(modules.iter().map(|pattern| module(pattern)))
        .collect()
}

#[test]
#[ignore = "needs stap: run by scripts/test-here"]
fn stap_passes_every_literal_on_to_the_compiler_as_it_stands() {
    let mut script = String::from("probe begin {\n");
    let mut literals = Vec::new();
    for text in HOSTILE {
        let plain = stap_str(text).expect("no NUL");
        let _ = writeln!(script, "if (pp() == {plain}) println(1)");
        literals.push(plain);
    }
    script.push_str("}\n");
    let directory = tempfile::tempdir().expect("a directory");
    let output = stap(directory.path(), "-p3", &script);
    assert!(
        output.status.success(),
        "{}\n{script}",
        String::from_utf8_lossy(&output.stderr)
    );
    let generated = String::from_utf8_lossy(&output.stdout);
    for literal in literals {
        assert!(generated.contains(&literal), "{literal}");
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and stap: run by scripts/test-here"]
fn stap_finds_the_marks_of_a_file_with_a_strange_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let python = directory.path().join("py \"thon\" \\é%s'3");
    std::fs::copy("/usr/bin/python3.11", &python).expect("Debian's Python 3.11");
    let path = stap_path(python.to_str().expect("UTF-8")).expect("a path");
    let script = format!("probe process({path}).mark(\"line\") {{ println(pp()) }}");
    let output = stap(directory.path(), "-p2", &script);
    assert!(
        output.status.success(),
        "{}\n{script}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// stap writes a matcher in C for every expression. It is compiled here and run in user space, so this is what the kernel
/// would do.
#[test]
#[ignore = "needs stap: run by scripts/test-here"]
fn the_matchers_that_stap_generates_agree_with_the_globs() {
    let globs = hostile_globs();
    let mut script = String::from("probe begin {\n");
    for (index, glob) in globs.iter().enumerate() {
        let expression = stap_str(&stap_regex(glob)).expect("no NUL");
        let _ = writeln!(
            script,
            "if (@1 . sprint({index}) =~ {expression}) println({index})"
        );
    }
    script.push_str("}\n");
    let directory = tempfile::tempdir().expect("a directory");
    let output = stap(directory.path(), "-p3", &script);
    assert!(
        output.status.success(),
        "{}\n{script}",
        String::from_utf8_lossy(&output.stderr)
    );
    let generated = String::from_utf8_lossy(&output.stdout).into_owned();

    let names = names();
    let answers = run_matchers(directory.path(), &generated, &names);
    let mut widened = 0;
    for (index, glob) in globs.iter().enumerate() {
        for (name, row) in names.iter().zip(&answers) {
            let kernel = row.as_bytes().get(index) == Some(&b'1');
            let ours = glob.matches(name);
            if is_exact_in_stap(glob) {
                assert_eq!(kernel, ours, "{} {name:?}", glob.as_str());
            } else {
                assert!(kernel || !ours, "{} {name:?}", glob.as_str());
                widened += usize::from(kernel && !ours);
            }
        }
    }
    assert!(
        widened > 0,
        "no name showed the difference that is_exact_in_stap is about"
    );
}

/// Every byte alone, and longer names.
fn names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = (1..=u8::MAX).map(|byte| vec![byte]).collect();
    names.push(Vec::new());
    names.extend(HOSTILE.iter().map(|text| text.as_bytes().to_vec()));
    for text in [
        "aXbYc",
        "ab",
        "aaa",
        "a{3}",
        "a\nb\nc",
        "é",
        "éa",
        "xé",
        "→a",
        "x→é",
        "bé",
        "/srv/nova/compute/x.py",
        "a/b.py",
        "/a/b/__init__.py",
        "xa/b.py",
        "<frozen a.b>",
        "<frozen nova.compute.x>",
        "x/tests.py",
        "é/a.py",
        "ü/a.py",
        "a/\"b.py",
        "a!\"b.py",
        "xxa1234567890",
        "a1234567890",
        "xxa123456789",
        "a:]",
        "[[:alpha:]]",
    ] {
        names.push(text.as_bytes().to_vec());
    }
    names
}

/// Compiles the matchers of stap's C code and asks each about every name: a row of `0` and `1` a name.
fn run_matchers(directory: &Path, generated: &str, names: &[Vec<u8>]) -> Vec<String> {
    let function = regex::Regex::new(r"(?ms)^int (__stp_dfa\d+) \(struct context \* __restrict__ c, const char \*str\) \{\n.*?^\}\n")
        .expect("valid");
    let call = regex::Regex::new(r"\((__stp_dfa\d+)\(c,").expect("valid");
    let mut program = String::from("#include <stdio.h>\nstruct context { int unused; };\n");
    for found in function.find_iter(generated) {
        program.push_str(found.as_str());
    }
    let calls: Vec<&str> = call
        .captures_iter(generated)
        .map(|c| c.extract::<1>().1[0])
        .collect();
    program.push_str("static int (*const matchers[])(struct context *, const char *) = {\n");
    program.push_str(&calls.join(",\n"));
    program.push_str("};\nstatic const char *const names[] = {\n");
    for name in names {
        let escaped: String = name.iter().map(|byte| format!("\\{byte:03o}")).collect();
        let _ = writeln!(program, "\"{escaped}\",");
    }
    program.push_str(
        "};\nint main(void) {\n  for (unsigned n = 0; n < sizeof names / sizeof *names; n++) {\n    \
         for (unsigned m = 0; m < sizeof matchers / sizeof *matchers; m++)\n      \
         putchar('0' + !!matchers[m](0, names[n]));\n    putchar('\\n');\n  }\n}\n",
    );
    let (source, binary) = (directory.join("matchers.c"), directory.join("matchers"));
    std::fs::write(&source, program).expect("a file");
    let compiled = Command::new("cc")
        .args(["-w", "-o"])
        .args([&binary, &source])
        .output()
        .expect("cc runs (apt-get install gcc)");
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let output = Command::new(&binary).output().expect("the matchers run");
    let rows: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(rows.len(), names.len());
    rows
}
