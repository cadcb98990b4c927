//! Messages as they were recorded (`tests/data/stap/`), or as stap's own format strings make them, and what comes out.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::strategy::Strategy as _;

use super::*;

/// One message a row of the table: those that were recorded word for word, the others filled in from the format strings in
/// stap's binaries and runtime.
const SAMPLES: &[(&str, &str)] = &[
    (
        "normal-user",
        "You are trying to run systemtap as a normal user.",
    ),
    (
        "normal-user-advice",
        "You should either be root, or be part of the group \"stapusr\" and possibly one of the groups \"stapsys\" or \"stapdev\".  [man stap]",
    ),
    (
        "no-data-directory",
        "WARNING: failed to create systemtap data directory \"/home/user/.systemtap\" Permission denied, disabling cache support.",
    ),
    (
        "build-tree-of-release",
        "Checking \"/lib/modules/1.2.3-absent/build/.config\" failed with error: No such file or directory",
    ),
    (
        "build-tree",
        "Checking \"/home/me/linux/.config\" failed with error: No such file or directory",
    ),
    (
        "build-tree-advice",
        "Ensure kernel development headers & makefiles are installed.",
    ),
    (
        "headers-package",
        "Incorrect version or missing kernel-devel package, use: dnf install kernel-devel-6.1.0-1.x86_64",
    ),
    (
        "build-directory",
        "ERROR: kernel release isn't found in \"/no/such/build\"",
    ),
    (
        "symbol-table",
        "WARNING: Kernel function symbol table missing [man warning::symbols]",
    ),
    (
        "other-kernel",
        "WARNING: kernel release/architecture mismatch with host forces last-pass 4.",
    ),
    (
        "safety-pattern",
        "ERROR: Safety pattern mismatch for -G parameter ('x=/etc/passwd' vs. '^[a-z_][a-z0-9_]*=[a-z0-9_.-]+$') rc=1",
    ),
    (
        "unknown-option",
        "stap: unrecognized option '--semantic-keep-going'",
    ),
    (
        "usage-advice",
        "Try '--help' for more information. [man stap]",
    ),
    (
        "input-missing",
        "Input file '/no/such/file.stp' is missing.",
    ),
    (
        "compile-server",
        "--use-server was automatically selected in order to request compilation by a compile-server.",
    ),
    (
        "owner-keys",
        "Failed to get list of machine owner keys (MOK) for module signing: rc 127",
    ),
    (
        "kernel-config",
        "semantic error: process probes not available without kernel CONFIG_UPROBES",
    ),
    ("interrupts", "Too many interrupts received, exiting."),
    (
        "embedded-code",
        "parse error: embedded code in unprivileged script; need stap -g",
    ),
    (
        "parse-error",
        "parse error: expected literal string or number",
    ),
    ("parse-error-count", "1 parse error."),
    (
        "no-match-similar",
        "semantic error: no match (similar marks: function__entry, function__return, gc__start, line, audit)",
    ),
    ("no-match", "semantic error: no match"),
    (
        "pid-not-probed",
        "semantic error: cannot probe pid 999999: No such process",
    ),
    (
        "pid-invalid",
        "semantic error: invalid -x pid for unspecified process probe [man stapprobes]",
    ),
    (
        "unresolved-function",
        "semantic error: unresolved function user_strin_quoted (similar: user_string_quoted, user_string_n_quoted): identifier 'user_strin_quoted' at unresolved.stp:1:23",
    ),
    (
        "arity",
        "semantic error: arity mismatch found (function 'user_string_quoted' takes 1 args): identifier 'user_string_quoted' at arity.stp:1:23",
    ),
    (
        "type-mismatch",
        "semantic error: type mismatch (long): identifier 'x' at type-mismatch.stp:2:43",
    ),
    (
        "type-origin",
        "semantic error: type was first inferred here (string): identifier 'x' at :2:31",
    ),
    (
        "unresolved-type",
        "semantic error: unresolved type : identifier '$arg9' at :1:72",
    ),
    (
        "kernel-debuginfo",
        "semantic error: missing x86_64 kernel/module debuginfo [man warning::debuginfo] under '/lib/modules/6.1.0-50-amd64/build'",
    ),
    (
        "debuginfo-packages",
        "Missing separate debuginfos, use: dnf debuginfo-install python3-libs-3.11.2-1.x86_64",
    ),
    (
        "debuginfo-absent",
        "WARNING: cannot find module /usr/bin/python3.11 debuginfo: No DWARF information found [man warning::debuginfo]",
    ),
    (
        "operand",
        "WARNING: Can't parse SDT_V3 operand '8@%zmm0' [man error::sdt]",
    ),
    (
        "operand-debuginfo",
        "semantic error: SDT asm not understood, requires debuginfo [man error::sdt]",
    ),
    (
        "debuginfo-scope",
        "semantic error: target-symbol requires debuginfo: identifier '$arg9' at :1:72",
    ),
    (
        "regular-expression",
        "semantic error: regex compilation error (at position 1): unclosed character class: string '[a' at regex.stp:1:27",
    ),
    ("no-probes", "semantic error: no probes found"),
    (
        "bpf-runtime",
        "semantic error: unhandled statement or expression type: identifier '$arg3' at <input>:1:60",
    ),
    (
        "probe-context",
        "semantic error: while resolving probe point: identifier 'process' at no-match.stp:1:7",
    ),
    ("semantic-error", "semantic error: glob /opt/py[ error (3)"),
    (
        "elided",
        "WARNING: Eliding assignment to 'x': operator '=' at <input>:1:31",
    ),
    ("semantic-catalogue", "SEMANTIC_ERRORS: 3"),
    (
        "pass-failed",
        "Pass 2: analysis failed.  [man error::pass2]",
    ),
    ("pass-progress", "Pass 5: starting run."),
    (
        "suppressed",
        "Number of similar error messages suppressed: 1.",
    ),
    ("suppressed-advice", "Rerun with -v to see them."),
    (
        "tip",
        "Tip: /usr/share/doc/systemtap/README.Debian should help you get started.",
    ),
    (
        "outside-tested-range",
        "Kernel version 6.6.85 is outside tested range 2.6.32 ... 6.6-rc1",
    ),
    (
        "within-tested-range",
        "Kernel version 7.2.12+deb14 is within tested range 3.10 ... 7.3.0-rc3",
    ),
    ("kbuild-exit", "WARNING: kbuild exited with status: 2"),
    (
        "insert-fips",
        "ERROR: Couldn't insert module in FIPS mode '/tmp/stapX/stap_1.ko': Operation not permitted",
    ),
    (
        "insert-format",
        "ERROR: Couldn't insert module '/tmp/stapX/stap_1.ko': Invalid module format",
    ),
    (
        "insert-symbol",
        "ERROR: Couldn't insert module '/tmp/stapX/stap_1.ko': Unknown symbol in module",
    ),
    (
        "insert-symbol-version",
        "ERROR: Couldn't insert module '/tmp/stapX/stap_1.ko': Module has wrong symbol version",
    ),
    (
        "insert-parameters",
        "ERROR: Couldn't insert module '/tmp/stapX/stap_1.ko': Invalid parameters",
    ),
    (
        "insert-unsigned",
        "ERROR: Couldn't insert module '/tmp/stapX/stap_1.ko': Required key not available",
    ),
    (
        "insert-key",
        "ERROR: Couldn't insert module '/tmp/stapX/stap_1.ko': Key was rejected by service",
    ),
    (
        "insert-not-permitted",
        "ERROR: Couldn't insert module '/tmp/stapX/stap_1.ko': Operation not permitted",
    ),
    (
        "insert-exists",
        "ERROR: Couldn't insert module '/tmp/stapX/stap_1.ko': File exists",
    ),
    (
        "insert-memory",
        "ERROR: Couldn't insert module '/tmp/stapX/stap_1.ko': Cannot allocate memory",
    ),
    (
        "insert-other",
        "ERROR: Couldn't insert module '/tmp/stapX/stap_1.ko': Device or resource busy",
    ),
    (
        "rename-advice",
        "ERROR: Rerun with staprun option '-R' to rename this module.",
    ),
    (
        "mount",
        "ERROR: Couldn't mount /sys/kernel/debug: Operation not permitted",
    ),
    (
        "control-channel",
        "ERROR: Cannot attach to module nosuch control channel; not running?",
    ),
    (
        "not-root",
        "ERROR: The effective user ID of staprun must be set to the root user.",
    ),
    (
        "not-executable",
        "WARNING: /usr/bin/staprun is not executable (Permission denied)",
    ),
    (
        "credentials",
        "ERROR: Your privilege credentials (stapusr) are insufficient to load the module /tmp/stapX/stap_1.ko (stapdev required).",
    ),
    (
        "signature",
        "ERROR: Unable to verify the signature for the module /tmp/stapX/stap_1.ko.",
    ),
    (
        "unsigned-directory",
        "ERROR: Members of the \"stapusr\" and \"stapsys\" groups can only use unsigned modules within",
    ),
    (
        "version-mismatch",
        "ERROR: module version mismatch (#1 SMP Debian 6.1.90-1 vs #1 SMP Debian 6.1.94-1), release 6.1.0-21-amd64",
    ),
    (
        "probe-registration",
        "ERROR: probe process(\"/usr/bin/python3.11\").statement(0x43423c) registration error [man warning::pass5] (rc -524)",
    ),
    (
        "probe-dead",
        "WARNING: probe process(\"/usr/bin/python3.11\").statement(0x43423c) at inode-offset 1311:0x3423c registration error [man warning::pass5] (rc -524)",
    ),
    (
        "target-path",
        "ERROR: Couldn't resolve target program file path '/opt/python/bin/python3': -2",
    ),
    ("kernel-symbol", "ERROR: Can't resolve uprobe_register!"),
    ("tracepoints", "ERROR: register_trace_sys_enter failed: -22"),
    (
        "copy-fault",
        "ERROR: user string copy fault -14 at 00007f0012345678 [man error::fault] near identifier 'user_string' at /usr/share/systemtap/tapset/uconversions.stp:42:10",
    ),
    (
        "read-fault",
        "ERROR: read fault [man error::fault] at 0x0000000000000008 near operator '@cast' at trace.stp:9:12",
    ),
    (
        "register-fault",
        "ERROR: register access fault near identifier '$arg1' at trace.stp:9:12",
    ),
    (
        "max-action",
        "ERROR: MAXACTION exceeded near operator '++' at trace.stp:3:30",
    ),
    (
        "max-nesting",
        "ERROR: MAXNESTING exceeded near identifier 'f' at trace.stp:1:10",
    ),
    (
        "division",
        "ERROR: division by 0 near operator '/' at trace.stp:2:20",
    ),
    (
        "array-overflow",
        "ERROR: Array overflow, check size limit (2048) near identifier 'calls' at trace.stp:4:5",
    ),
    (
        "aggregation-overflow",
        "ERROR: aggregation overflow in global_totals near identifier 'totals' at trace.stp:4:5",
    ),
    (
        "empty-aggregate",
        "ERROR: empty aggregate near operator '@avg' at trace.stp:8:9",
    ),
    (
        "dump-size",
        "ERROR: 100000 is too many bytes for a memory dump near identifier 'printf' at trace.stp:8:9",
    ),
    (
        "cpu-offline",
        "ERROR: cpu 7 is not online near identifier 'cpu_clock_ns' at trace.stp:8:9",
    ),
    (
        "clock",
        "ERROR: gettimeofday not initialized near identifier 'gettimeofday_ns' at trace.stp:8:9",
    ),
    (
        "overload",
        "ERROR: probe overhead (512345678 cycles) exceeded threshold (500000000 cycles) in last 1000000000 cycles",
    ),
    (
        "too-many-skipped",
        "ERROR: Skipped too many probes, check MAXSKIPPED or try again with stap -t for more details.",
    ),
    (
        "errors-and-skipped",
        "WARNING: Number of errors: 3, skipped probes: 1841",
    ),
    (
        "skipped-cause",
        "WARNING: Skipped due to global 'calls' lock timeout: 1840",
    ),
    (
        "transport",
        "WARNING: There were 27 transport failures. Try stap -s to increase the buffer size from 16.",
    ),
    (
        "lost-messages",
        "WARNING: There were 12 lost messages, 3456 lost bytes, and 2 unexpected sequences.",
    ),
    ("pending", "WARNING: too many pending warning messages"),
    ("deduplication", "WARNING deduplication table full"),
    (
        "unwind-data",
        "WARNING: Missing unwind data for a module, rerun with 'stap -d /usr/lib/x86_64-linux-gnu/libc.so.6'",
    ),
    (
        "read-address",
        "WARNING: _stp_read_address failed to access memory location",
    ),
    (
        "build-id",
        "WARNING: Build-id mismatch [man warning::buildid]: \"/usr/bin/python3.11\" pid 4242 address 0x5581c0a00318, expected 0a1b actual 2c3d",
    ),
    (
        "uprobe-failed",
        "WARNING: u*probe failed python3[4242] 'process(\"/usr/bin/python3.11\").statement(0x43423c)' addr 000000000043423c rc -1",
    ),
    (
        "process-path",
        "WARNING: Unable to get path (error -2) for pid 4242",
    ),
    (
        "child-status",
        "WARNING: Child process exited with status 3",
    ),
    (
        "runner-signal",
        "WARNING: /usr/bin/staprun exited with signal: 9 (Killed)",
    ),
    (
        "runner-status",
        "WARNING: /usr/bin/staprun exited with status: 1",
    ),
    ("output-closed", "ERROR: error writing output: Broken pipe"),
    ("detached", "Disconnecting from systemtap module."),
    (
        "not-a-zombie",
        "ERROR: 'nosuch' is not a zombie systemtap module.",
    ),
    (
        "remove-module",
        "ERROR: Couldn't remove module 'stap_1': Resource temporarily unavailable.",
    ),
    (
        "bpf-load",
        "Error loading /tmp/stapX/stap_1.bo: bpf program load failed: No space left on device",
    ),
    ("bpf-lost", "WARNING: lost 118 perf_events on cpu 1"),
    ("bpf-aborted", "bpfinterp.cxx:741: printf already started"),
    (
        "bpf-kmsg",
        "WARNING: Could not open /dev/kmsg for diagnostics",
    ),
];

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/stap")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn all(text: &str) -> (Vec<Diagnostic>, Loss) {
    let mut parser = Diagnostics::new(Some("4.8"));
    let mut found: Vec<Diagnostic> = text
        .lines()
        .filter_map(|line| parser.push_line(line))
        .collect();
    found.extend(parser.finish());
    (found, parser.loss())
}

fn recorded(name: &str) -> Vec<Diagnostic> {
    all(&read(name)).0
}

/// What is left when everything harmless is hidden.
fn classes(found: &[Diagnostic]) -> Vec<&str> {
    found
        .iter()
        .filter(|diagnostic| diagnostic.severity > Severity::Harmless)
        .map(|diagnostic| diagnostic.class)
        .collect()
}

fn one(line: &str) -> Diagnostic {
    let (mut found, _) = all(line);
    assert_eq!(found.len(), 1, "{line:?} gave {found:#?}");
    found.remove(0)
}

#[test]
fn every_row_has_a_sample_that_it_is_the_first_to_match() {
    for (class, sample) in SAMPLES {
        assert_eq!(one(sample).class, *class, "{sample:?}");
    }
    let rows: Vec<&str> = ROWS.iter().map(|row| row.class).collect();
    let sampled: Vec<&str> = SAMPLES.iter().map(|(class, _)| *class).collect();
    assert_eq!(
        rows, sampled,
        "rows and samples go in the same order, one each"
    );
    assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len());
}

#[test]
fn every_explanation_is_one_line_with_a_consequence_and_a_next_step_where_one_is_needed() {
    for (class, sample) in SAMPLES {
        let diagnostic = one(sample);
        let line = explain(&diagnostic);
        assert!(!diagnostic.meaning.is_empty(), "{class}");
        assert!(
            !line.contains('\n') && !line.contains("  ("),
            "{class}: {line}"
        );
        assert!(
            !line.contains("$path") && !line.contains("$reason"),
            "{class}: {line}"
        );
        assert!(
            line.contains(diagnostic.message.as_str()),
            "{class}: {line}"
        );
        if diagnostic.severity == Severity::Error && diagnostic.kind != DiagnosticKind::OutputClosed
        {
            assert!(!diagnostic.next.is_empty(), "{class}");
        }
    }
    assert_eq!(
        explain(&one(
            "semantic error: cannot probe pid 999999: No such process"
        )),
        "process 999999 cannot be traced (No such process), so nothing was armed (stap: cannot probe pid 999999: \
         No such process); check the process id with `ps -p 999999`"
    );
    assert!(
        explain(&one("ERROR: kernel release isn't found in \"/x\""))
            .contains("linux-headers-$(uname -r)")
    );
    // A bundle may be for another kernel than the one that runs.
    let missing = "Checking \"/lib/modules/9.9-amd64/build/.config\" failed with error: No such file or directory";
    assert!(explain(&one(missing)).contains("`apt install linux-headers-9.9-amd64`"));
}

#[test]
fn a_parse_error_keeps_its_source_line_and_its_caret() {
    for version in ["4.8", "5.6"] {
        let found = recorded(&format!("parse.{version}.txt"));
        assert_eq!(classes(&found), ["parse-error"]);
        let error = &found[1];
        assert_eq!(error.message, "expected literal string or number");
        assert_eq!(
            error.excerpt,
            "parse error: expected literal string or number\n        saw: operator '}' at parse.stp:3:1\n     \
             source: }\n             ^"
        );
        let place = error.place.as_ref().expect("a place");
        assert_eq!(
            (place.file.as_str(), place.line, place.column),
            ("parse.stp", 3, 1)
        );
        assert_eq!(place.token, "}");
    }
}

#[test]
fn a_probe_that_matches_nothing_is_one_diagnostic_with_both_of_staps_errors() {
    for version in ["4.8", "5.6"] {
        let found = recorded(&format!("no-match.{version}.txt"));
        assert_eq!(classes(&found), ["no-match-similar"]);
        let error = &found[1];
        assert_eq!(error.kind, DiagnosticKind::NoMatch);
        assert!(
            error
                .excerpt
                .starts_with("semantic error: while resolving probe point: identifier 'process'")
        );
        assert!(error.excerpt.contains("\n                      ^\n"));
        assert!(
            error.meaning.contains("function__entry"),
            "{}",
            error.meaning
        );
        assert_eq!(error.place.as_ref().map(|place| place.line), Some(1));
    }
    for name in ["no-file", "no-notes"] {
        for version in ["4.8", "5.6"] {
            assert_eq!(
                classes(&recorded(&format!("{name}.{version}.txt"))),
                ["no-match"]
            );
        }
    }
}

#[test]
fn every_recorded_failure_is_recognised_to_the_last_line() {
    let expected: &[(&str, &[&str])] = &[
        ("arity", &["arity"]),
        ("bad-pid", &["pid-invalid", "pid-not-probed"]),
        (
            "badarg",
            &[
                "debuginfo-absent",
                "debuginfo-scope",
                "debuginfo-scope",
                "unresolved-type",
            ],
        ),
        ("global-pattern", &["safety-pattern"]),
        ("macro-pattern", &["safety-pattern"]),
        ("no-build-tree", &["build-directory"]),
        ("no-release", &["build-tree-of-release"]),
        ("noscript", &["input-missing"]),
        ("parse-string", &["parse-error"]),
        ("regex", &["regular-expression"]),
        ("type-mismatch", &["type-mismatch"]),
        ("unguru", &["embedded-code"]),
        ("unresolved", &["unresolved-function"]),
        ("unused", &["elided", "elided", "elided", "no-probes"]),
        ("usage", &["unknown-option"]),
    ];
    for (name, classes_expected) in expected {
        for version in ["4.8", "5.6"] {
            let file = format!("{name}.{version}.txt");
            assert_eq!(&classes(&recorded(&file)), classes_expected, "{file}");
        }
    }
    for (file, expected) in [
        ("kernel-function.4.8.txt", ["kernel-debuginfo"].as_slice()),
        ("kernel-function.5.6.txt", &["debuginfo-absent", "no-match"]),
        ("no-makefile.4.8.txt", &["build-tree-of-release"]),
        ("normal-user.4.8.txt", &["no-data-directory", "normal-user"]),
        ("not-a-zombie.4.8.txt", &["control-channel", "not-a-zombie"]),
        ("coloured.5.6.txt", &["unresolved-function"]),
        ("compile-error.5.6.txt", &["compiler"]),
        ("stap-too-old.4.8.txt", &["stap-too-old"]),
    ] {
        assert_eq!(classes(&recorded(file)), expected, "{file}");
    }
}

#[test]
fn every_line_of_every_recording_ends_up_in_an_excerpt() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stap");
    let mut files = 0;
    for entry in std::fs::read_dir(directory).expect("the recordings") {
        let name = entry.expect("an entry").file_name();
        let text = read(&name.to_string_lossy());
        let stripped = COLOUR.replace_all(&text, "").into_owned();
        let (found, _) = all(&text);
        let kept: Vec<&str> = found.iter().flat_map(|d| d.excerpt.lines()).collect();
        let said: Vec<&str> = stripped
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        assert_eq!(kept, said, "{name:?}");
        files += 1;
    }
    assert!(files > 30, "{files}");
}

#[test]
fn a_type_mismatch_shows_where_the_other_type_came_from() {
    let found = recorded("type-mismatch.5.6.txt");
    let mismatch = found
        .iter()
        .find(|d| d.class == "type-mismatch")
        .expect("it");
    assert!(
        mismatch
            .excerpt
            .contains("type was first inferred here (string)")
    );
    assert_eq!(mismatch.excerpt.matches('^').count(), 2);
    assert_eq!(mismatch.message, "type mismatch (long)");
}

#[test]
fn the_second_token_of_an_arity_mismatch_belongs_to_it() {
    let found = recorded("arity.4.8.txt");
    let arity = found.iter().find(|d| d.class == "arity").expect("it");
    assert!(
        arity
            .excerpt
            .contains("function user_string_quoted:string (addr:long) {")
    );
    assert_eq!(arity.place.as_ref().map(|place| place.column), Some(23));
}

#[test]
fn the_catalogue_of_semantic_errors_has_each_entry_once() {
    let found = recorded("semantic-keep-going.5.6.txt");
    let catalogue = found
        .iter()
        .find(|d| d.kind == DiagnosticKind::Catalogue)
        .expect("it");
    assert_eq!(catalogue.catalogue.len(), 3);
    let first = &catalogue.catalogue[0];
    assert!(
        first
            .message
            .starts_with("unresolved function user_strin_quoted")
    );
    let place = first.place.as_ref().expect("a place");
    assert_eq!(
        (place.file.as_str(), place.line, place.column),
        ("unresolved.stp", 1, 23)
    );
    assert_eq!(catalogue.catalogue[2].place, None);
    assert_eq!(
        catalogue.catalogue[2].message,
        "while processing probe begin"
    );
    assert!(catalogue.excerpt.ends_with("SEMANTIC_ERRORS_END"));

    let two = recorded("semantic-keep-going-two.5.6.txt");
    let entries = two
        .iter()
        .find(|d| d.kind == DiagnosticKind::Catalogue)
        .map(|d| d.catalogue.len());
    assert_eq!(entries, Some(2));
}

#[test]
fn the_compilers_text_is_one_diagnostic_up_to_kbuilds_exit_status() {
    let found = recorded("compile-error.5.6.txt");
    let error = found.iter().find(|d| d.class == "compiler").expect("it");
    assert_eq!(error.phase, Phase::Compile);
    assert!(
        error
            .message
            .contains("implicit declaration of function ‘this_is_not_declared’")
    );
    assert!(
        error
            .excerpt
            .contains("|                 ^~~~~~~~~~~~~~~~~~~~")
    );
    assert!(
        error
            .excerpt
            .ends_with("WARNING: kbuild exited with status: 2")
    );
}

#[test]
fn a_stap_that_is_too_old_is_named_with_the_version_that_is_needed() {
    let found = recorded("stap-too-old.4.8.txt");
    let error = found
        .iter()
        .find(|d| d.kind == DiagnosticKind::StapTooOld)
        .expect("it");
    assert!(
        error
            .meaning
            .starts_with("stap 4.8 is too old for this kernel; needs >= 5.3"),
        "{}",
        error.meaning
    );
    let mut parser = Diagnostics::new(None);
    for line in read("stap-too-old.4.8.txt").lines().skip(1).take(3) {
        assert_eq!(parser.push_line(line), None);
    }
    let meaning = parser.finish().map(|d| d.meaning).unwrap_or_default();
    assert!(meaning.starts_with("this stap is too old"), "{meaning}");
}

#[test]
fn every_known_kernel_change_is_found_by_a_complaint_about_it() {
    let complaints = [
        (
            "stp_utrace.c:90:5: error: conflicting types for 'lock_task_sighand'",
            "5.5",
        ),
        (
            "stap_fs.h:12:9: error: too many arguments to function 'vfs_path_lookup'",
            "5.4",
        ),
        (
            "relay_v2.c:211:14: error: 'struct rchan_buf' has no member named 'prev_padding'",
            "5.4",
        ),
        (
            "stp_utrace.c:455:9: error: passing argument 1 of 'register_trace_sched_process_exit' from incompatible pointer type",
            "5.4",
        ),
        (
            "stap_1_src.c:12:10: fatal error: runtime_defines.h: No such file or directory",
            "5.3",
        ),
        (
            "uprobes-inode.c:62:13: error: initialization of 'int (*)(struct uprobe_consumer *, struct pt_regs *, __u64 *)' from incompatible pointer type",
            "5.3",
        ),
        (
            "uprobes-inode.c:300:9: error: too many arguments to function 'uprobe_unregister'",
            "5.2",
        ),
        (
            "stp_task_work.c:13:123: error: passing argument 2 of '(bool (*)(struct task_struct *, struct callback_head *))kallsyms_task_work_ca",
            "5.2",
        ),
        (
            "stp_string.c:304:9: error: implicit declaration of function 'strlcpy'; did you mean 'strncpy'?",
            "5.1",
        ),
        (
            "access_process_vm.h:71:13: error: too many arguments to function 'get_user_pages_remote'",
            "5.0",
        ),
        (
            "sym.c:500:20: error: 'struct module' has no member named 'core_layout'",
            "5.0",
        ),
        (
            "loc2c-runtime.h:180:9: error: implicit declaration of function 'set_fs'",
            "5.0",
        ),
    ];
    let known: Vec<&str> = compiler::changes().map(|(_, needs)| needs).collect();
    let sampled: Vec<&str> = complaints.iter().map(|(_, needs)| *needs).collect();
    assert_eq!(
        known, sampled,
        "changes and complaints go in the same order, one each"
    );
    for ((complaint, needs), (pattern, _)) in complaints.iter().zip(compiler::changes()) {
        let found = one(complaint);
        assert_eq!(found.class, "stap-too-old", "{complaint}");
        assert!(
            found.meaning.contains(&format!(">= {needs}:")),
            "{complaint}: {}",
            found.meaning
        );
        let earlier = compiler::changes().take_while(|(other, _)| *other != pattern);
        for (other, _) in earlier {
            assert!(!fixed(other).is_match(complaint), "{other} hides {pattern}");
        }
    }
}

#[test]
fn a_name_in_a_quoted_source_line_is_not_taken_for_a_kernel_change() {
    let text = "a.c: In function ‘f’:\na.c:9:5: error: expected ‘;’ before ‘}’ token\n    9 |   strlcpy(a, b, 3)\n";
    let (found, _) = all(text);
    assert_eq!(classes(&found), ["compiler"]);
}

#[test]
fn a_missing_compiler_is_told_from_a_failing_one() {
    let found = one("/bin/sh: 1: gcc-14: not found\nWARNING: kbuild exited with status: 2");
    assert_eq!(found.kind, DiagnosticKind::KernelHeaders);
    assert!(found.next.starts_with("install gcc-14"), "{}", found.next);
    let found = one(
        "make: *** No rule to make target 'modules'.  Stop.\nWARNING: kbuild exited with status: 2",
    );
    assert_eq!(found.kind, DiagnosticKind::KernelHeaders);
}

#[test]
fn endless_compiler_output_is_cut_and_says_so() {
    let mut text = String::from("a.c: In function ‘f’:\n");
    for line in 0..1000 {
        text.push_str(&format!("a.c:{line}: error: x\n"));
    }
    let found = one(&text);
    assert_eq!(found.excerpt.lines().count(), EXCERPT_LINES + 1);
    assert!(found.excerpt.ends_with("(601 more lines)"));
}

#[test]
fn a_handlers_error_is_taken_apart() {
    let plain = one("ERROR: division by 0 near operator '/' at <input>:2:20");
    assert_eq!(plain.message, "division by 0");
    let place = plain.place.expect("a place");
    assert_eq!(
        (place.token.as_str(), place.file.as_str()),
        ("/", "<input>")
    );
    assert_eq!((place.line, place.column, place.probe), (2, 20, None));

    let newer = one(
        "ERROR: user string copy fault -14 at 0000000000000001 [man error::fault] near identifier 'user_string' at \
         /usr/share/systemtap/tapset/uconversions.stp:123:10 (called from identifier 'name' at trace.stp:7:3) in probe \
         process(\"/usr/bin/python3.15\").mark(\"function__entry\")",
    );
    assert_eq!(
        newer.message,
        "user string copy fault -14 at 0000000000000001 [man error::fault]"
    );
    let place = newer.place.expect("a place");
    assert_eq!(place.line, 123);
    assert_eq!(
        place.probe.as_deref(),
        Some("process(\"/usr/bin/python3.15\").mark(\"function__entry\")")
    );

    let unknown = one("ERROR: my own error near identifier 'error' at a.stp:1:2");
    assert_eq!(
        (unknown.class, unknown.severity),
        ("unrecognised", Severity::Error)
    );
    assert_eq!(unknown.message, "my own error");
    assert!(unknown.place.is_some());
}

#[test]
fn losses_carry_their_numbers_and_skips_are_not_counted_twice() {
    let (found, total) = all(
        "WARNING: Skipped due to global 'calls' lock timeout: 1840\n\
         WARNING: Skipped due to low stack: 1\n\
         WARNING: Number of errors: 3, skipped probes: 1841\n\
         WARNING: There were 27 transport failures. Try stap -s to increase the buffer size from 16.\n\
         WARNING: There were 12 lost messages, 3456 lost bytes, and 2 unexpected sequences.\n\
         WARNING: There were 5 lost messages and 44 lost bytes.\n\
         WARNING: There were 2 lost messages and 6 bytes\n\
         WARNING: lost 118 perf_events on cpu 1\n\
         WARNING: Number of errors: 2\n",
    );
    assert!(
        found
            .iter()
            .all(|d| d.kind == DiagnosticKind::Loss && d.loss.is_some_and(|l| !l.is_empty()))
    );
    assert_eq!(
        total,
        Loss {
            skipped: 1841,
            transport_failures: 27,
            lost_messages: 12 + 5 + 2 + 118,
            lost_bytes: 3456 + 44 + 6,
            errors: 5,
        }
    );
}

#[test]
fn a_number_beyond_the_type_is_its_largest_value_and_sums_stay_there() {
    let text = "WARNING: There were 99999999999999999999999 transport failures. Try\n".repeat(2);
    assert_eq!(all(&text).1.transport_failures, u64::MAX);
}

#[test]
fn messages_of_a_running_session_come_out_at_once() {
    let mut parser = Diagnostics::new(None);
    for line in [
        "WARNING: There were 27 transport failures. Try stap -s to increase the buffer size from 16.",
        "ERROR: division by 0 near operator '/' at <input>:2:20",
        "WARNING: something that no table knows",
        "words without a severity",
    ] {
        assert!(parser.push_line(line).is_some(), "{line}");
    }
    assert_eq!(parser.finish(), None);
}

#[test]
fn what_is_not_in_the_table_keeps_its_severity() {
    for (line, severity) in [
        ("ERROR: the moon is in the wrong phase", Severity::Error),
        ("WARNING: the moon is waning", Severity::Warning),
        ("the moon", Severity::Note),
    ] {
        let found = one(line);
        assert_eq!(
            (found.kind, found.severity),
            (DiagnosticKind::Unrecognised, severity)
        );
        assert!(explain(&found).starts_with("stap says: the moon"));
    }
}

#[test]
fn colour_codes_are_taken_off_before_anything_is_matched() {
    let coloured = recorded("coloured.5.6.txt");
    let plain = recorded("unresolved.5.6.txt");
    assert_eq!(coloured, plain);
}

proptest::proptest! {
    #[test]
    fn no_input_is_lost_or_makes_the_parser_panic(
        lines in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::sample::select(SAMPLES).prop_map(|(_, sample)| sample.to_owned()),
                "\\PC{0,40}",
                proptest::strategy::Just(String::new()),
                proptest::sample::select(vec![
                    "        source: probe begin { x }", "                  ^", "SEMANTIC_ERROR\ta\t1\tb\tc",
                    "SEMANTIC_ERRORS_END", "a.c:1:2: error: x", "make[1]: *** [x] Error 1",
                ]).prop_map(str::to_owned),
            ],
            0..30,
        )
    ) {
        let (found, _) = all(&lines.join("\n"));
        let kept: Vec<&str> = found.iter().flat_map(|d| d.excerpt.split('\n')).collect();
        let text = lines.join("\n");
        let said: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let kept: Vec<&str> = kept.into_iter().filter(|line| !line.trim().is_empty()).collect();
        proptest::prop_assert_eq!(kept, said);
    }
}
