//! A module that was bundled elsewhere, on a host without compiler, headers and stap. `prefill` makes the bundle in the tree of this
//! machine before it boots; what could compile one is hidden from pystap here, by mounts of its own.

use std::fs;
use std::process::Command;

use super::agent::PYTHON_3_14;
use super::{PYTHON, calls_of};
use crate::command::{Ended, command, file, run};
use crate::tracing::{Traced, Way, leaves_nothing, numbers, read};

/// The bundle, in the directory of the tests.
pub(crate) const BUNDLE: &str = "calls.bundle";
/// The interpreters that it is for: one with probes for calls, and one that takes the agent.
pub(crate) const PYTHONS: [&str; 2] = [PYTHON, PYTHON_3_14];

/// Hides what compiling takes, makes sure that it is gone, and becomes what is named.
const WITHOUT_COMPILERS: &str = r#"
for directory in /usr/src /lib/modules /usr/share/systemtap /usr/lib/gcc /usr/libexec/gcc; do
    [ ! -d "$directory" ] || mount -t tmpfs tmpfs "$directory"
done
for program in stap gcc cc make as ld; do
    path=$(command -v "$program") || continue
    mount --bind /dev/null "$(readlink -f "$path")"
    ! "$path" --version || exit 90
done 2>/dev/null
[ ! -e "/lib/modules/$(uname -r)/build" ] || exit 91
exec "$@"
"#;

/// Runs `pystap trace` with the bundle, these options and this program, where nothing can be compiled.
fn trace(options: &[&str], program: &[&str]) -> Ended {
    let bundle = file(BUNDLE);
    let pystap = command([&["trace", "--bundle", &bundle], options, &["--"], program].concat());
    let mut alone = Command::new("unshare");
    alone
        .args(["--mount", "sh", "-euc", WITHOUT_COMPILERS, "sh"])
        .arg(pystap.get_program())
        .args(pystap.get_args())
        .env_remove("HOME");
    run(&mut alone)
}

/// Traces a program to its end.
fn traced(python: &str, program: &str) -> Traced {
    let directory = tempfile::tempdir().expect("a directory");
    let output = directory.path().join("events.json");
    let output = output.to_str().expect("UTF-8");
    let ended = trace(&["--output", output], &[python, program]);
    let said = ended.stderr.lines().map(str::to_owned).collect();
    let text = fs::read_to_string(output).unwrap_or_else(|_| panic!("{ended:#?}"));
    read(&text, ended.code, said, ended.stdout).complete("targets_ended")
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn calls_are_counted_with_a_bundle_where_nothing_can_be_compiled() {
    leaves_nothing(|| {
        for python in PYTHONS {
            let program = file("examples/nested.py");
            let traced = traced(python, &program);
            assert_eq!(traced.code, 0, "{:#?}", traced.said);
            let notes = &traced.session.notes;
            assert!(
                notes
                    .iter()
                    .any(|note| note.ends_with("kernel module from a bundle")),
                "{notes:?}"
            );
            let truth = numbers(&traced.truth()["calls"]);
            assert!(!truth.is_empty());
            assert_eq!(
                calls_of(&traced, &program, Way::In, &truth),
                truth,
                "{python}"
            );
            assert_eq!(
                calls_of(&traced, &program, Way::Out, &truth),
                truth,
                "{python}"
            );
        }
        // It is another module that this one would need.
        let refused = trace(&[], &["/usr/bin/python3.13", "-c", "pass"]);
        assert_eq!(refused.code, 3, "{refused:?}");
        let message = refused.only_error();
        assert!(
            message.contains("has no probes for /usr/bin/python3.13"),
            "{message}"
        );
        assert!(
            message.contains("make one with --python /usr/bin/python3.13, too"),
            "{message}"
        );
    });
}
