//! The agent with interpreters that do not come from a distribution: `tests/uprobes/run` runs these here, with Debian
//! 12's own Python and with those that `PYSTAP_TEST_PYTHONS` names (paths, separated by colons).

use std::env::consts::ARCH;
use std::path::{Path, PathBuf};
use std::process::Command;

use pystap::event::{Event, What};
use rustix::process::Signal;

use super::Service;
use super::agent::{is_exact, leaves_nothing_at_all};
use super::anew::{Anew, seen};
use super::attached::{is_complete, is_complete_where_the_agent_is_installed};
use super::entering::is_waited_for;
use super::uprobes::tree;
use crate::command::{command, file, run};
use crate::tracing::{Tracing, Way, trace};

/// The interpreters, Debian 12's own first.
pub(super) fn pythons() -> Vec<String> {
    let named = std::env::var("PYSTAP_TEST_PYTHONS").unwrap_or_default();
    let named = named.split(':').filter(|path| !path.is_empty());
    std::iter::once("/usr/bin/python3.11")
        .chain(named)
        .map(str::to_owned)
        .collect()
}

/// Free-threaded ones among them, in which no agent waits.
fn free_threaded() -> Vec<String> {
    let mut pythons = pythons();
    pythons.retain(|it| it.ends_with('t'));
    pythons
}

/// All others.
fn installable() -> Vec<String> {
    let mut pythons = pythons();
    pythons.retain(|it| !it.ends_with('t'));
    pythons
}

/// Creates a virtual environment in a directory. Returns its interpreter.
pub(super) fn environment(python: &str, directory: &Path) -> String {
    let environment = directory.join("venv");
    let made = Command::new(python)
        .args(["-m", "venv", "--without-pip"])
        .arg(&environment)
        .status();
    assert!(made.expect("it runs").success(), "{python}");
    environment.join("bin/python").display().to_string()
}

/// Creates a virtual environment, installs the agent, wakes it twice in a running process, and uninstalls it.
pub(super) fn is_woken(python: &str, directory: &Path) {
    let inside = environment(python, directory);
    let inside = inside.as_str();
    let agent = |word: &str| {
        let ended = run(&mut command(["agent", word, "--python", inside]));
        assert_eq!(ended.code, 0, "{ended:?}");
        ended
    };
    agent("install");
    assert!(agent("status").stdout.contains("  installed"), "{python}");
    let program = file("tests/programs/counts.py");
    let mut service = Service::start_with(inside, "tests/programs/counts.py", &["0.01"]);
    let pid = service.pid();
    assert!(agent("status").stdout.contains(&format!("process {pid}")));
    for _ in 0..2 {
        let tracing = Tracing::start(&["--agent", "-p", &pid]).live();
        tracing.wait_for_output(4000);
        tracing.signal(Signal::INT);
        let traced = tracing.finish().complete("interrupted");
        super::agent::engine_is_as_wanted(&traced);
        let said = &traced.said;
        assert!(
            said.iter().any(|line| line.contains("which waits there")),
            "{said:#?}"
        );
        let counts = traced.counts(&program, Way::In);
        assert!(
            counts.get("tick").is_some_and(|ticks| *ticks > 2),
            "{python}: {counts:?}"
        );
    }
    service.end();
    agent("uninstall");
    assert!(agent("status").stdout.contains("not installed"), "{python}");
    let mut left = Vec::new();
    find(directory, &mut left);
    assert_eq!(left, Vec::<String>::new(), "{python}");
}

/// Files of ours below a directory.
fn find(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).expect("readable").flatten() {
        let path = entry.path();
        if path.to_string_lossy().contains("pystap_agent") {
            found.push(path.display().to_string());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&path, found);
        }
    }
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn the_examples_are_exact_with_every_interpreter_that_is_launched() {
    leaves_nothing_at_all(|| {
        for python in pythons() {
            for name in ["nested", "fib", "threads"] {
                let program = file(&format!("examples/{name}.py"));
                let arguments = ["--agent", "--", &python, &program];
                let traced = trace(&arguments).complete("targets_ended");
                is_exact(&traced, &program, "calls");
            }
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn the_examples_are_exact_where_the_agent_is_installed_and_the_command_is_launched() {
    leaves_nothing_at_all(|| {
        for python in installable() {
            let directory = tempfile::tempdir().expect("a directory");
            let inside = environment(&python, directory.path());
            let ended = run(&mut command(["agent", "install", "--python", &inside]));
            assert_eq!(ended.code, 0, "{ended:?}");
            for name in ["nested", "threads"] {
                let program = file(&format!("examples/{name}.py"));
                let arguments = ["--agent", "--", &inside, &program];
                let traced = trace(&arguments).complete("targets_ended");
                is_exact(&traced, &program, "calls");
                let own = traced.events.iter().find(|event| is_of_our_code(event));
                assert_eq!(own, None, "{python}: pystap's own code is told");
            }
        }
    });
}

/// Whether a call is one of the code that brings the agent in: its functions, and what these define.
fn is_of_our_code(event: &Event) -> bool {
    let What::Call { place, .. } = &event.what else {
        return false;
    };
    place.function.text == "_pystap"
        || place
            .qualname
            .as_ref()
            .is_some_and(|it| it.text.starts_with("_pystap."))
        || place.file.text.ends_with("/site/sitecustomize.py")
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn an_agent_is_installed_woken_and_removed_with_every_interpreter() {
    leaves_nothing_at_all(|| {
        for python in installable() {
            let directory = tempfile::tempdir().expect("a directory");
            is_woken(&python, directory.path());
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_free_threaded_python_refuses_an_agent_that_waits_and_nobody_is_advised_to_install_one() {
    leaves_nothing_at_all(|| {
        let pythons = free_threaded();
        assert!(!pythons.is_empty());
        for python in pythons {
            let directory = tempfile::tempdir().expect("a directory");
            let inside = environment(&python, directory.path());
            let ended = run(&mut command(["agent", "install", "--python", &inside]));
            let message = ended.only_error();
            assert!(message.contains("the free-threaded Python 3."), "{message}");
            let service = Service::start_with(&inside, "tests/programs/counts.py", &["0.01"]);
            let ended = run(&mut command(["trace", "--agent", "-p", &service.pid()]));
            let message = ended.only_error();
            assert_eq!(ended.code, 3, "{message}");
            assert!(message.contains("free-threaded build"), "{message}");
            assert!(message.contains("--inject ptrace"), "{message}");
            assert!(!message.contains("pystap agent install"), "{message}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_free_threaded_python_that_takes_long_to_begin_is_waited_for_and_traced_from_its_beginning() {
    leaves_nothing_at_all(|| {
        let pythons = free_threaded();
        assert!(!pythons.is_empty());
        for python in pythons {
            let version = python.rsplit_once("python").expect("its name").1;
            is_waited_for(&python, version);
        }
    });
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn where_nothing_can_be_written_or_run_the_library_goes_another_way_in_a_tree() {
    leaves_nothing_at_all(|| {
        let tree = tree("guest");
        let programs = tree.join("pystap/programs");
        std::fs::create_dir_all(&programs).expect("made");
        let program = programs.join("counts.py");
        std::fs::copy(file("tests/programs/counts.py"), &program).expect("copied");
        let tree = tree.display();
        let started = |options: &str, before: &str| {
            let script = format!(
                "{before} for place in tmp var/tmp dev/shm run var/lib; do [ ! -d {tree}/$place ] || \
                 mount -t tmpfs -o {options} tmpfs {tree}/$place || exit 1; done; \
                 exec chroot {tree} /usr/bin/python3.14 /pystap/programs/counts.py 0.01"
            );
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &script]);
            Service::of(command)
        };
        for options in ["noexec", "ro", "size=4k"] {
            let mut service = started(options, &format!("mount -t proc proc {tree}/proc;"));
            let tracing = Tracing::start(&["-p", &service.pid()]).live();
            tracing.wait_for_output(3000);
            tracing.signal(Signal::INT);
            let traced = tracing.finish().complete("interrupted");
            let ticks = traced.counts("/pystap/programs/counts.py", Way::In);
            let seen = ticks.get("tick").is_some_and(|ticks| *ticks > 2);
            assert!(seen, "{options}: {ticks:?} {:#?}", traced.said);
            service.end();
        }
        // A process that cannot reach our memory file either is left as it is.
        let mut service = started("ro", &format!("umount {tree}/proc 2>/dev/null;"));
        let refused = run(&mut command(["trace", "-p", &service.pid()]));
        assert!(
            refused.stderr.contains("memory: the target sees no /proc"),
            "{refused:?}"
        );
        assert_ne!(refused.code, 0);
        service.end();
        std::fs::remove_dir_all(&programs).expect("removed");
    });
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn a_process_of_another_user_with_a_root_and_mounts_of_its_own_is_traced_and_its_files_are_that_users_in_a_tree()
 {
    leaves_nothing_at_all(|| {
        let tree = tree("guest");
        let programs = tree.join("pystap/programs");
        std::fs::create_dir_all(&programs).expect("made");
        let program = programs.join("counts.py");
        std::fs::copy(file("tests/programs/counts.py"), &program).expect("copied");
        let placed = || -> Vec<PathBuf> {
            let entries = std::fs::read_dir(tree.join("tmp")).expect("readable");
            let paths = entries.map(|entry| entry.expect("readable").path());
            paths
                .filter(|path| path.to_string_lossy().contains("pystap-agent-"))
                .collect()
        };
        let mut command = Command::new("unshare");
        command.args(["--mount", "chroot", "--userspec=54321:54321"]);
        command.arg(&tree);
        command.args(["/usr/bin/python3.14", "/pystap/programs/counts.py", "0.01"]);
        let mut service = Service::of(command);
        for _ in 0..2 {
            let tracing = Tracing::start(&["-p", &service.pid()]).live();
            let [place] = &placed()[..] else {
                panic!("one place: {:?}", placed());
            };
            let owner = std::fs::metadata(place).expect("it is there");
            assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 54321);
            tracing.wait_for_output(3000);
            tracing.signal(Signal::INT);
            let traced = tracing.finish().complete("interrupted");
            let ticks = traced.counts("/pystap/programs/counts.py", Way::In);
            let seen = ticks.get("tick").is_some_and(|ticks| *ticks > 2);
            assert!(seen, "{ticks:?} {:#?}", traced.said);
            assert_eq!(placed(), Vec::<PathBuf>::new());
        }
        service.end();
        std::fs::remove_dir_all(&programs).expect("removed");
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn calls_bring_the_agent_in_where_that_is_asked_for() {
    leaves_nothing_at_all(|| {
        let program = file("tests/programs/counts.py");
        for python in pythons() {
            let mut service = Service::start_with(&python, "tests/programs/counts.py", &["0.01"]);
            let options = ["--agent", "--inject", "ptrace", "-p", &service.pid()];
            let tracing = Tracing::start(&options).live();
            tracing.wait_for_output(3000);
            tracing.signal(Signal::INT);
            let traced = tracing.finish().complete("interrupted");
            let ticks = traced.counts(&program, Way::In);
            let seen = ticks.get("tick").is_some_and(|ticks| *ticks > 2);
            assert!(seen, "{python}: {ticks:?} {:#?}", traced.said);
            service.end();
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_running_service_of_debian_12_is_complete_after_one_step_and_by_its_own_marks() {
    leaves_nothing_at_all(|| {
        is_complete_where_the_agent_is_installed("/usr/bin/python3.11");
        is_complete("/usr/bin/python3.11", &[]);
    });
}

/// A program that looks like Python 3.14, linked with these compiler arguments.
fn fake_python(directory: &Path, arguments: &[&str]) -> String {
    let python = directory.join("python3.14");
    let mut cc = Command::new("cc");
    cc.arg("-o").arg(&python);
    cc.arg(file("tests/programs/fake_python.c")).args(arguments);
    assert!(cc.status().expect("it runs").success(), "{arguments:?}");
    python.display().to_string()
}

/// Refused while running and as a command to be launched, with these words in both messages.
fn is_refused(mut service: Service, launched: &str, words: &[&str]) {
    let pid = service.pid();
    for arguments in [
        &["trace", "--engine", "uprobes", "-p", &pid][..],
        &["trace", "--inject", "ptrace", "-p", &pid],
        &["trace", "--", launched],
    ] {
        let ended = run(&mut command(arguments));
        let message = ended.only_error();
        assert_eq!(ended.code, 3, "{message}");
        for word in words {
            assert!(message.contains(word), "{arguments:?}: {word}: {message}");
        }
    }
    assert_eq!(service.end()["unharmed"], true);
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn pythons_for_musl_and_static_ones_are_refused_with_the_reason_in_a_tree() {
    leaves_nothing_at_all(|| {
        let next = "run the program with a Python that";
        let tree = tree("trixie");
        let musl = tempfile::tempdir_in(tree.join("tmp")).expect("a directory");
        let libraries = format!("-L{}/usr/lib/{ARCH}-linux-musl", tree.display());
        let linker = format!("-Wl,--dynamic-linker=/lib/ld-musl-{ARCH}.so.1");
        let options = ["-DOWN_START", "-nostdlib", "-fno-stack-protector", &linker];
        let python = fake_python(musl.path(), &[&options[..], &[&libraries, "-lc"]].concat());
        let inside = Path::new("/").join(Path::new(&python).strip_prefix(&tree).expect("in it"));
        let mut chroot = Command::new("chroot");
        chroot.arg(&tree).arg(inside);
        is_refused(Service::of(chroot), &python, &["built for musl", next]);

        let directory = tempfile::tempdir().expect("a directory");
        let python = fake_python(directory.path(), &["-static"]);
        let service = Service::of(Command::new(&python));
        is_refused(service, &python, &["linked statically", next]);
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_python_that_begins_anew_and_lets_nobody_in_is_named_once_with_what_to_do_and_counted() {
    leaves_nothing_at_all(|| {
        for python in pythons() {
            let traced = Anew::new().launched(&python, "bare", Some("without the environment"));
            let said = traced.said.join("\n");
            assert_eq!(seen(&traced), 0, "{python}: {said}");
            assert_eq!(said.matches("is not traced").count(), 1, "{python}: {said}");
            // It was launched already.
            let next = match python.ends_with('t') {
                true => "cannot have the agent installed; put the agent in with --inject ptrace",
                false => "pystap agent install --python",
            };
            assert!(said.contains(next), "{python}: {said}");
            assert_eq!(traced.summary.untraced_processes, 1, "{python}: {said}");
            assert!(
                traced.summary.untraced_ns > 1_000_000_000,
                "{python}: {said}"
            );
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn agents_that_sleep_in_pythons_that_begin_anew_are_woken() {
    leaves_nothing_at_all(|| {
        for python in installable() {
            let directory = tempfile::tempdir().expect("a directory");
            let inside = environment(&python, directory.path());
            let ended = run(&mut command(["agent", "install", "--python", &inside]));
            assert_eq!(ended.code, 0, "{ended:?}");
            for way in ["spawn", "forkserver", "exec"] {
                let traced = Anew::new().attached(&inside, way, None);
                assert!(seen(&traced) > 0, "{python}, {way}: {:#?}", traced.said);
                assert_eq!(
                    traced.summary.untraced_processes, 0,
                    "{python}, {way}: {:#?}",
                    traced.said
                );
            }
            let traced = Anew::new().launched(&inside, "bare", None);
            assert!(seen(&traced) > 0, "{python}: {:#?}", traced.said);
            // In a virtual environment no usercustomize is imported: the installed agent comes before anybody's sitecustomize.
            let anew = Anew::new();
            std::fs::create_dir(anew.path("site")).expect("made");
            std::fs::write(anew.path("site/sitecustomize.py"), "").expect("written");
            let traced = anew.launched(&inside, "customized", None);
            assert!(seen(&traced) > 0, "{python}: {:#?}", traced.said);
            assert_eq!(traced.summary.untraced_ns, 0, "{:#?}", traced.said);
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_python_in_a_user_namespace_in_which_nobody_is_known_is_named_once_and_counted() {
    leaves_nothing_at_all(|| {
        for python in pythons() {
            let traced = Anew::new().launched(&python, "user", Some("user namespace"));
            let said = traced.said.join("\n");
            assert_eq!(seen(&traced), 0, "{python}: {said}");
            assert_eq!(said.matches("is not traced").count(), 1, "{python}: {said}");
            assert!(said.contains("--map-root-user"), "{python}: {said}");
            assert_eq!(traced.summary.untraced_processes, 1, "{python}: {said}");
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_python_in_another_network_namespace_or_behind_another_sitecustomize_is_traced() {
    leaves_nothing_at_all(|| {
        for python in pythons() {
            for way in ["network", "customized"] {
                let anew = Anew::new();
                std::fs::create_dir(anew.path("site")).expect("made");
                std::fs::write(anew.path("site/sitecustomize.py"), "").expect("written");
                let traced = anew.launched(&python, way, None);
                assert!(seen(&traced) > 0, "{python}, {way}: {:#?}", traced.said);
                assert_eq!(
                    traced.summary.untraced_processes, 0,
                    "{python}, {way}: {:#?}",
                    traced.said
                );
            }
        }
    });
}
