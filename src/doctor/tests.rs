//! Findings about whole hosts: saved facts of invented hosts, each with the report, the script and the outcome that a
//! person there would see, and what must hold for every finding.
//!
//! `PYSTAP_RENEW=1 cargo test doctor` rewrites the expected files; review the difference before committing it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::elf::{Compression, DebugInformation};
use crate::host::{Fact, Facts, RemoteDebug, Rings, Vmlinux};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hosts")
}

/// The facts of a host.
pub(super) fn host(name: &str) -> Facts {
    let path = directory().join(format!("{name}.json"));
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names of all of them.
pub(super) fn hosts() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory())
        .expect("facts")
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_suffix(".json")?.to_owned())
        })
        .collect();
    names.sort();
    assert!(names.len() >= 12, "{names:?}");
    names
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[test]
fn each_host_gets_its_report() {
    let renew = std::env::var_os("PYSTAP_RENEW").is_some();
    let mut differing = Vec::new();
    for name in hosts() {
        let facts = host(&name);
        let examination = examine(&facts, None);
        let text = format!(
            "{}\n{}",
            plain(&report(&facts, &examination, Look::default())),
            fix_script(&examination)
        );
        let expected = directory().join(format!("{name}.txt"));
        if renew {
            fs::write(&expected, &text).expect("written");
        } else if fs::read_to_string(&expected).unwrap_or_default() != text {
            differing.push(name);
        }
    }
    assert!(
        differing.is_empty(),
        "other reports than expected for {differing:?}: see them with `PYSTAP_RENEW=1 cargo test doctor` and `git diff`"
    );
}

#[test]
fn a_path_that_is_not_utf8_is_told_with_the_way_that_does_no_harm() {
    let mut facts = host("debian-12");
    let found = |facts: &Facts| {
        let findings = examine(facts, None).findings;
        findings.into_iter().find(|finding| finding.id == "paths")
    };
    assert!(found(&facts).is_none());
    let python = facts.pythons.first_mut().expect("an interpreter");
    python.undecodable = Some(crate::host::Undecodable {
        pid: 4242,
        sign: r"its working directory ($'/srv/\377')".to_owned(),
    });
    let finding = found(&facts).expect("a finding");
    assert_eq!(finding.status, Status::Warning);
    assert!(
        finding.summary.contains("process 4242"),
        "{}",
        finding.summary
    );
    assert_eq!(finding.fixes[0].commands, ["pystap trace --agent -p 4242"]);
    assert!(finding.evidence.iter().any(|it| it.value.contains("/srv/")));
}

#[test]
fn a_program_that_embeds_python_is_entered_and_its_library_is_no_interpreter_to_install_into() {
    let mut facts = host("debian-12");
    let python = facts.pythons.first_mut().expect("an interpreter");
    python.path = "/srv/app/_internal/libpython3.12.so.1.0".to_owned();
    python.kind = "library".to_owned();
    python.started_as = None;
    python.pids = vec![4242];
    python.version = Fact::found("the test", "3.12.1".to_owned());
    python.marks = Fact::found("the test", Vec::new());
    python.configured_with_dtrace = Fact::found("the test", true);
    let finding = examine(&facts, None).findings.into_iter();
    let finding = finding
        .filter(|finding| finding.id == "marks")
        .find(|finding| finding.summary.contains("libpython3.12"))
        .expect("a finding");
    let commands: Vec<&String> = finding.fixes.iter().flat_map(|fix| &fix.commands).collect();
    assert!(
        commands.contains(&&"pystap trace --inject ptrace -p 4242".to_owned()),
        "{commands:?}"
    );
    assert!(
        !commands.iter().any(|it| it.contains("agent install")),
        "{commands:?}"
    );
    assert!(
        finding
            .fixes
            .iter()
            .any(|fix| fix.what.contains("llvm-strip")),
        "built with marks, which somebody has taken out: {:?}",
        finding.fixes
    );
}

/// Whatever is wrong with the kernel's debug information, the file, the reason and what follows are each said once.
#[test]
fn useless_debug_information_of_the_kernel_is_told_with_its_file_and_reason_once() {
    const FILE: &str = "/usr/lib/debug/boot/vmlinux-6.1.0-50-amd64";
    let found = |id: &str| Fact::found(FILE, id.to_owned());
    let truncated = "it ends before its section table, so it is incomplete";
    let unresolved = DebugInformation {
        path: FILE.into(),
        build_id: None,
        compression: Compression::None,
        units: 2,
        versions: [5].into(),
        supplement: None,
        resolved: None,
        unresolved: Some("none of the functions has a line".to_owned()),
    };
    fn unknown<T>(reason: &str) -> Fact<T> {
        Fact::unknown(FILE, reason)
    }
    let other = "it is of another build, so it was not opened";
    let cases = [
        (found("0ff1ce"), unknown(other), "another build"),
        (found("a11ce"), unknown(truncated), truncated),
        (unknown(truncated), unknown(truncated), truncated),
        (
            found("a11ce"),
            Fact::found(FILE, unresolved),
            "none of the functions has a line",
        ),
    ];
    for (build_id, debug, reason) in cases {
        let mut facts = host("debian-12");
        facts.kernel.build_id = Fact::found("/sys/kernel/notes", "a11ce".to_owned());
        facts.symbols.vmlinux = vec![Vmlinux {
            path: FILE.to_owned(),
            build_id,
            debug,
        }];
        let mut findings = examine(&facts, None).findings.into_iter();
        let finding = findings
            .find(|finding| finding.id == "vmlinux")
            .expect("a finding");
        assert_eq!(finding.status, Status::Warning);
        let evidence = finding.evidence.iter();
        let evidence: Vec<String> = evidence
            .map(|it| format!("{}: {}", it.path, it.value))
            .collect();
        let said = format!(
            "{}\n{}\n{}",
            finding.summary,
            finding.why,
            evidence.join("\n")
        );
        for once in [FILE, reason, "No template needs it"] {
            assert_eq!(said.matches(once).count(), 1, "{once:?} in {said}");
        }
    }
}

#[test]
fn a_switch_against_debuggers_is_told_and_one_that_is_ignored_is_called_so() {
    let mut facts = host("debian-12");
    let python = facts.pythons.first_mut().expect("an interpreter");
    python.version = Fact::found("the test", "3.14.8".to_owned());
    python.marks = Fact::found("the test", Vec::new());
    let mut told = |switch: &str, ignored| {
        facts
            .pythons
            .first_mut()
            .expect("an interpreter")
            .remote_debug = Some(RemoteDebug {
            pid: 4242,
            switch: switch.to_owned(),
            ignored,
        });
        let mut findings = examine(&facts, None).findings.into_iter();
        findings
            .find(|finding| finding.id == "remote-debug")
            .expect("a finding")
    };
    let works = told("-X disable-remote-debug", false);
    assert!(
        works.summary.contains("process 4242 lets no debugger in"),
        "{}",
        works.summary
    );
    assert_eq!(
        works.fixes[0].commands,
        ["pystap trace --inject ptrace -p 4242"]
    );
    let ignored = told("-X disable_remote_debug", true);
    assert!(
        ignored.summary.contains("which Python 3.14.8") && ignored.summary.ends_with("ignores"),
        "{}",
        ignored.summary
    );
    assert!(
        ignored.fixes[0].what.contains("-X disable-remote-debug"),
        "{:?}",
        ignored.fixes
    );
}

/// What each host can do, in the words of a person who knows it.
#[test]
fn each_host_gets_the_right_verdict() {
    for (name, stap, uprobes, direct) in [
        ("debian-12", Ability::Cannot, Ability::Ready, Ability::Ready),
        ("debian-13", Ability::Cannot, Ability::Ready, Ability::Ready),
        (
            "debian-testing",
            Ability::Ready,
            Ability::Ready,
            Ability::Ready,
        ),
        (
            "ubuntu-14.04",
            Ability::Cannot,
            Ability::Cannot,
            Ability::Cannot,
        ),
        (
            "ubuntu-22.04",
            Ability::Likely,
            Ability::Ready,
            Ability::Ready,
        ),
        (
            "ubuntu-24.04",
            Ability::Cannot,
            Ability::Ready,
            Ability::Ready,
        ),
        ("rhel-8", Ability::Cannot, Ability::Cannot, Ability::Unknown),
        ("rhel-9", Ability::Ready, Ability::Ready, Ability::Ready),
        ("fedora-43", Ability::Cannot, Ability::Ready, Ability::Ready),
        (
            "opensuse-leap",
            Ability::Cannot,
            Ability::Ready,
            Ability::Ready,
        ),
        // Its tracefs is not mounted, which pystap does.
        ("arch", Ability::Cannot, Ability::Ready, Ability::Ready),
        (
            "secure-boot-laptop",
            Ability::Cannot,
            Ability::Ready,
            Ability::Ready,
        ),
        (
            "locked-down",
            Ability::Cannot,
            Ability::Cannot,
            Ability::Ready,
        ),
        (
            "docker-container",
            Ability::Cannot,
            Ability::Cannot,
            Ability::Ready,
        ),
        ("micro-vm", Ability::Cannot, Ability::Ready, Ability::Ready),
        (
            "not-in-the-group",
            Ability::Cannot,
            Ability::Cannot,
            Ability::Ready,
        ),
        (
            "ordinary-user",
            Ability::Cannot,
            Ability::Cannot,
            Ability::Ready,
        ),
        (
            "unreadable",
            Ability::Unknown,
            Ability::Unknown,
            Ability::Unknown,
        ),
    ] {
        let examination = examine(&host(name), None);
        let abilities: Vec<Ability> = examination
            .engines
            .iter()
            .map(|verdict| verdict.ability)
            .collect();
        assert_eq!(abilities, [stap, uprobes, direct], "{name}");
    }
}

#[test]
fn an_engine_cannot_run_exactly_where_it_has_obstacles() {
    for name in hosts() {
        let facts = host(&name);
        for verdict in examine(&facts, None).engines {
            let obstacles = obstacles(&facts, verdict.engine);
            assert_eq!(
                obstacles.is_empty(),
                verdict.ability != Ability::Cannot,
                "{name} {verdict:?}"
            );
            for obstacle in obstacles {
                let sentence = obstacle.sentence(verdict.engine);
                assert!(!sentence.contains('\n'), "{sentence}");
                assert!(sentence.contains("pystap doctor"), "{sentence}");
            }
        }
    }
}

#[test]
fn every_finding_says_why_it_matters_and_what_is_wrong_has_evidence_and_a_way_out() {
    for name in hosts() {
        for finding in examine(&host(&name), None).findings {
            assert!(
                finding.why.ends_with('.')
                    && finding
                        .why
                        .starts_with(|c: char| c.is_uppercase() || finding.why.starts_with("stap")),
                "{name}: {}",
                finding.why
            );
            assert!(
                !finding.summary.ends_with('.'),
                "{name}: {}",
                finding.summary
            );
            if finding.status == Status::Missing {
                assert!(!finding.evidence.is_empty(), "{name}: {}", finding.id);
                assert!(!finding.fixes.is_empty(), "{name}: {}", finding.id);
            }
            for fix in &finding.fixes {
                assert!(fix.what.ends_with('.'), "{name}: {}", fix.what);
                for command in &fix.commands {
                    assert!(
                        !command.contains('\n') && !command.contains("  "),
                        "{command}"
                    );
                }
            }
        }
    }
}

/// Each obstacle is removed in turn, as the fixes say; then the engine can run.
#[test]
fn a_host_whose_findings_are_mended_can_trace() {
    let mut facts = host("debian-12");
    assert_eq!(ids(&facts, Engine::Stap), ["stap-kernel"]);
    // Another stap was built, and the trial proves it.
    let newer = host("debian-testing");
    facts.systemtap = newer.systemtap.clone();
    facts.trial = newer.trial.clone();
    assert_eq!(ids(&facts, Engine::Stap), [""; 0]);
    assert_eq!(examine(&facts, None).engines[0].ability, Ability::Ready);

    let mut facts = host("arch");
    assert_eq!(ids(&facts, Engine::Stap), ["headers", "compiler", "stap"]);
    facts.build_tree = newer.build_tree.clone();
    facts.build_tree.release = Fact::absent("kernel.release");
    facts.build_tree.uts_version = Fact::absent("compile.h");
    facts.tools = newer.tools.clone();
    facts.systemtap = newer.systemtap.clone();
    assert_eq!(ids(&facts, Engine::Stap), [""; 0]);
}

fn ids(facts: &Facts, engine: Engine) -> Vec<&'static str> {
    obstacles(facts, engine)
        .into_iter()
        .map(|finding| finding.id)
        .collect()
}

/// One thing is broken at a time on a host where everything works, and exactly that is found.
#[test]
fn what_is_broken_on_a_working_host_is_named() {
    type Break = fn(&mut Facts);
    let cases: [(&str, Break, &str); 12] = [
        (
            "modules",
            |facts| facts.loading.modules = Fact::absent("/proc/modules"),
            "modules",
        ),
        (
            "modules switched off",
            |facts| facts.loading.disabled = Fact::found("/proc/sys/kernel/modules_disabled", 1),
            "modules-disabled",
        ),
        (
            "lockdown",
            |facts| {
                facts.loading.lockdown =
                    Fact::found("/sys/kernel/security/lockdown", "integrity".to_owned());
            },
            "signatures",
        ),
        (
            "signatures",
            |facts| facts.loading.signatures_enforced = Fact::found("sig_enforce", "Y".to_owned()),
            "signatures",
        ),
        (
            "FIPS",
            |facts| facts.loading.fips = Fact::found("fips_enabled", 1),
            "fips",
        ),
        (
            "headers",
            |facts| facts.build_tree.directory = Fact::absent("/lib/modules/R/build"),
            "headers",
        ),
        (
            "headers of another kernel",
            |facts| {
                facts.build_tree.release = Fact::found("kernel.release", "7.2.11".to_owned());
                facts.trial = Fact::unknown("trial", "no trial was made");
            },
            "headers-match",
        ),
        (
            "a file of the headers",
            |facts| facts.build_tree.symvers = Fact::absent("Module.symvers"),
            "headers-complete",
        ),
        (
            "make",
            |facts| facts.tools.make = Fact::absent("make"),
            "compiler",
        ),
        (
            "the kernel's own compiler",
            |facts| facts.tools.wanted = Fact::absent("gcc-16 in PATH"),
            "compiler",
        ),
        (
            "stap",
            |facts| facts.systemtap.stap = Fact::absent("stap in PATH"),
            "stap",
        ),
        (
            "a trial that failed",
            |facts| {
                let mut trial = facts.trial.value().cloned().expect("a trial");
                trial.compiled = false;
                trial.trouble = "the module could not be compiled".to_owned();
                facts.trial = Fact::found("trial", trial);
            },
            "trial",
        ),
    ];
    for (what, break_it, id) in cases {
        let mut facts = host("debian-testing");
        assert_eq!(ids(&facts, Engine::Stap), [""; 0]);
        break_it(&mut facts);
        assert_eq!(ids(&facts, Engine::Stap), [id], "{what}");
    }
}

#[test]
fn staprun_of_another_build_and_stap_of_an_older_version_are_found_out() {
    let mut facts = host("debian-testing");
    facts.trial = Fact::unknown("trial", "not tried");
    let old = host("debian-12").systemtap;
    facts.systemtap.stap = old.stap.clone();
    assert_eq!(ids(&facts, Engine::Stap), ["stap-kernel"]);

    let mut facts = host("debian-testing");
    let mut staprun = old.staprun.value().cloned().expect("there");
    staprun.identity = staprun.identity.map(|mut identity| {
        identity.belongs = Some(false);
        identity
    });
    facts.systemtap.staprun = Fact::found("PATH", staprun);
    assert_eq!(ids(&facts, Engine::Stap), ["staprun"]);
}

#[test]
fn a_bundle_is_named_where_nothing_but_compiling_is_in_the_way() {
    type Break = fn(&mut Facts);
    let no_headers: Break =
        |facts| facts.build_tree.directory = Fact::absent("/lib/modules/R/build");
    let no_stap: Break = |facts| facts.systemtap.stap = Fact::absent("stap in PATH");
    let no_staprun: Break = |facts| facts.systemtap.staprun = Fact::absent("staprun in PATH");
    let no_loading: Break = |facts| facts.loading.disabled = Fact::found("modules_disabled", 1);
    let cases: [(&[Break], bool); 6] = [
        (&[no_headers], true),
        (&[no_stap], true),
        (&[no_headers, no_stap, no_staprun], true),
        // Its package has it, and no stap is needed for that.
        (&[no_staprun], false),
        (&[no_loading], false),
        (&[no_headers, no_loading], false),
    ];
    for (number, (breaks, named)) in cases.into_iter().enumerate() {
        let mut facts = host("debian-testing");
        facts.trial = Fact::unknown("trial", "not tried");
        for break_it in breaks {
            break_it(&mut facts);
        }
        let engines = examine(&facts, None).engines;
        let stap = engines
            .iter()
            .find(|verdict| verdict.engine == Engine::Stap);
        let sentence = &stap.expect("a verdict").sentence;
        assert!(
            sentence.starts_with("cannot run here"),
            "{number}: {sentence}"
        );
        assert_eq!(
            sentence.contains("pystap bundle"),
            named,
            "{number}: {sentence}"
        );
    }
}

#[test]
fn a_user_needs_both_groups_and_a_new_login() {
    let mut facts = host("not-in-the-group");
    let summary = |facts: &Facts| {
        obstacles(facts, Engine::Stap)
            .into_iter()
            .find(|finding| finding.id == "privilege")
            .map(|finding| finding.summary)
    };
    assert!(summary(&facts).is_some_and(|text| text.contains("neither root nor in the groups")));
    for group in &mut facts.systemtap.groups {
        *group = group.clone().map(|mut group| {
            group.members.push("anna".to_owned());
            group
        });
    }
    assert!(summary(&facts).is_some_and(|text| text.contains("this session began before")));
    facts.user.groups = Fact::found("/proc/self/status", vec![1000, 120, 122]);
    assert_eq!(summary(&facts), None);
    // SystemTap serves members of its groups; uprobe events are for root only.
    assert_eq!(ids(&facts, Engine::Uprobes), ["privilege"]);
}

#[test]
fn the_report_for_programs_has_every_finding_and_can_be_told_from_another_schema() {
    let facts = host("debian-12");
    let examination = examine(&facts, None);
    let report = json(&facts, &examination, true);
    assert_eq!(report["schema"], 1);
    assert_eq!(report["can"], true);
    let findings = report["findings"].as_array().expect("a list");
    assert_eq!(findings.len(), examination.findings.len());
    let keys: BTreeSet<&str> = findings[0]
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        BTreeSet::from([
            "evidence", "fixes", "id", "part", "status", "stops", "summary", "why"
        ])
    );
}

#[test]
fn every_finding_is_in_the_manual() {
    let manual = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/doctor.md"))
        .expect("docs/doctor.md");
    for name in hosts() {
        for finding in examine(&host(&name), None).findings {
            assert!(
                manual.contains(&format!("`{}`", finding.id)),
                "{}",
                finding.id
            );
        }
    }
}

#[test]
fn with_one_engine_only_its_events_count() {
    let facts = host("debian-12");
    let call = |only| {
        examine(&facts, only)
            .events
            .into_iter()
            .find(|event| event.kind == "call")
            .map(|event| event.ability)
    };
    assert_eq!(call(None), Some(Ability::Ready));
    assert_eq!(call(Some(Engine::Uprobes)), Some(Ability::Ready));
    assert_eq!(call(Some(Engine::Stap)), Some(Ability::Cannot));
}

fn ptrace(facts: &Facts) -> Finding {
    let mut findings = examine(facts, None).findings.into_iter();
    let found = findings.find(|finding| finding.id == "ptrace");
    found.expect("a finding about ptrace")
}

fn sentence_of_direct(facts: &Facts) -> String {
    let engines = examine(facts, None).engines.into_iter();
    let mut direct = engines.filter(|verdict| verdict.engine == Engine::Direct);
    direct.next().expect("a verdict").sentence
}

fn scope(facts: &mut Facts, scope: i64) {
    facts.tracing.ptrace_scope = Fact::found("/proc/sys/kernel/yama/ptrace_scope", scope);
}

#[test]
fn yama_keeps_the_agent_of_an_ordinary_user_out_and_root_opens_what_may_be_opened() {
    let mut facts = host("ordinary-user");
    for (level, opens) in [(1, true), (2, true), (3, false)] {
        scope(&mut facts, level);
        let finding = ptrace(&facts);
        assert_eq!(finding.status, Status::Warning, "{level}");
        assert_eq!(finding.part, Part::Agent);
        assert!(
            finding.stops.is_empty(),
            "launched commands are open at {level}"
        );
        assert!(
            finding.fixes.iter().all(|fix| fix.choice),
            "each is one way among several: {:?}",
            finding.fixes
        );
        let commands: Vec<&str> = (finding.fixes.iter().flat_map(|fix| &fix.commands))
            .map(String::as_str)
            .collect();
        assert_eq!(commands[0], "pystap top -- COMMAND");
        assert!(
            commands.contains(&"pystap agent install --python /home/anna/app/.venv/bin/python"),
            "{commands:?}"
        );
        let sets = commands.contains(&"sysctl kernel.yama.ptrace_scope=0");
        assert_eq!(sets, opens, "{level}: {commands:?}");
        assert_eq!(
            finding.fixes.iter().any(|fix| fix.what.contains("reboot")),
            !opens,
            "{level}"
        );
        assert!(
            sentence_of_direct(&facts).contains("in which its agent waits"),
            "{level}"
        );
    }
}

#[test]
fn nothing_that_yama_forbids_is_promised_or_advised() {
    let mut facts = host("ordinary-user");
    facts.pythons[1].remote_debug = Some(RemoteDebug {
        pid: 4242,
        switch: "-X disable-remote-debug".to_owned(),
        ignored: false,
    });
    let mut embedding = facts.pythons[0].clone();
    embedding.path = "/srv/app/libpython3.12.so.1.0".to_owned();
    embedding.marks = Fact::found("the test", Vec::new());
    facts.pythons.push(embedding);
    let told = |facts: &Facts| {
        let examination = examine(facts, None);
        let text = plain(&report(facts, &examination, Look::default()));
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let closed = told(&facts);
    for no in [
        "comes into running processes",
        "pystap trace --inject ptrace",
        "put into the running",
        "pystap trace -p 4242",
    ] {
        assert!(!closed.contains(no), "{no}: {closed}");
    }
    scope(&mut facts, 0);
    let open = told(&facts);
    assert!(open.contains("comes into running processes"), "{open}");
    assert!(
        open.contains("pystap trace --inject ptrace -p 4242"),
        "{open}"
    );
}

#[test]
fn who_cannot_define_uprobe_events_is_shown_the_way_through_the_agent() {
    let mut facts = host("debian-12");
    let commands = |facts: &Facts| {
        let mut findings = examine(facts, None).findings.into_iter();
        let calls = findings.find(|finding| finding.id == "calls");
        let fixes = calls.expect("a finding about calls").fixes.into_iter();
        fixes.flat_map(|fix| fix.commands).collect::<Vec<_>>()
    };
    assert_eq!(commands(&facts), ["pystap trace --engine uprobes -p 812"]);
    facts.user = host("not-in-the-group").user;
    assert_eq!(
        commands(&facts),
        ["pystap agent install --python /usr/bin/python3.11"]
    );
}

#[test]
fn without_yama_or_at_its_level_zero_an_ordinary_user_reaches_processes_of_their_own() {
    let mut facts = host("ordinary-user");
    scope(&mut facts, 0);
    let at_zero = ptrace(&facts);
    facts.tracing.ptrace_scope = Fact::absent("/proc/sys/kernel/yama/ptrace_scope");
    for finding in [at_zero, ptrace(&facts)] {
        assert_eq!(finding.status, Status::Ok);
        assert!(
            finding.summary.contains("of this user"),
            "{}",
            finding.summary
        );
    }
    assert!(sentence_of_direct(&facts).contains("that its agent gets into"));
}

#[test]
fn the_right_to_trace_opens_everything_but_what_yama_closes_for_good() {
    let mut facts = host("debian-12");
    for level in 0..=2 {
        scope(&mut facts, level);
        let finding = ptrace(&facts);
        assert_eq!(finding.status, Status::Ok, "{level}");
        assert!(
            !finding.summary.contains("of this user"),
            "{}",
            finding.summary
        );
    }
    scope(&mut facts, 3);
    let finding = ptrace(&facts);
    assert_eq!(finding.status, Status::Warning);
    assert!(finding.summary.contains("root"), "{}", finding.summary);
    // It is the capability that counts, and not who has it.
    scope(&mut facts, 1);
    facts.user.capabilities = Fact::found("/proc/self/status", "00000000a80425fb".to_owned());
    let finding = ptrace(&facts);
    assert_eq!(finding.status, Status::Warning);
    assert!(
        finding
            .fixes
            .iter()
            .any(|fix| fix.what.contains("--cap-add SYS_PTRACE")),
        "{:?}",
        finding.fixes
    );
}

#[test]
fn facts_that_were_saved_before_there_was_a_finding_are_read_and_say_so() {
    let path = directory().join("ordinary-user.json");
    let mut saved: serde_json::Value =
        serde_json::from_slice(&fs::read(path).expect("read")).expect("JSON");
    let tracing = saved["tracing"].as_object_mut().expect("an object");
    assert!(tracing.remove("ptrace_scope").is_some() && tracing.remove("rings").is_some());
    let facts: Facts = serde_json::from_value(saved).expect("facts of format 1");
    let finding = ptrace(&facts);
    assert_eq!(finding.status, Status::Unknown);
    assert!(
        finding
            .evidence
            .iter()
            .any(|it| it.value.contains("did not look")),
        "{:?}",
        finding.evidence
    );
    // Rings need nothing that this kernel has not.
    assert!(sentence_of_direct(&facts).starts_with("ready"));
}

#[test]
fn a_kernel_that_refuses_a_ring_stops_the_engine_that_reads_them_and_no_other() {
    let mut facts = host("debian-testing");
    facts.tracing.rings = Fact::found(
        "memfd_create(2) and pidfd_open(2)",
        Rings {
            refused: Some("Permission denied (os error 13)".to_owned()),
        },
    );
    assert_eq!(ids(&facts, Engine::Direct), ["rings"]);
    assert_eq!(ids(&facts, Engine::Uprobes), [""; 0]);
    assert_eq!(ids(&facts, Engine::Stap), [""; 0]);
    let all = obstacles(&facts, Engine::Direct);
    assert!(all[0].fixes[0].what.contains("vm.memfd_noexec"));
    assert_eq!(ids(&host("ubuntu-14.04"), Engine::Direct), ["rings"]);
}

/// The status of a finding, and its fixes as one text.
fn state(facts: &Facts, id: &str) -> (Status, String) {
    let mut findings = examine(facts, None).findings.into_iter();
    let finding = findings.find(|finding| finding.id == id).expect(id);
    let fixes = finding.fixes.into_iter();
    let fixes = fixes.map(|fix| format!("{} {}", fix.what, fix.commands.join(" ")));
    (finding.status, fixes.collect())
}

#[test]
fn what_views_of_waits_lack_is_a_warning_with_the_next_step_and_stops_no_engine() {
    let mut facts = host("debian-12");
    for id in ["memory", "scheduler", "system-calls", "addresses"] {
        assert_eq!(state(&facts, id), (Status::Ok, String::new()));
    }
    let lacks = |facts: &Facts, id: &str, remedy: &str| {
        let (status, fixes) = state(facts, id);
        assert_eq!(status, Status::Warning, "{id}");
        assert!(fixes.contains(remedy), "{id}: {fixes}");
        assert_eq!(ids(facts, Engine::Direct), [""; 0]);
    };
    facts.tracing.kptr_restrict = Fact::found("/proc/sys/kernel/kptr_restrict", 2);
    facts.tracing.addresses = Fact::found("/proc/kallsyms", false);
    lacks(&facts, "addresses", "sysctl kernel.kptr_restrict=1");
    facts.tracing.events_of_waits = Fact::found("events", vec!["sched/sched_switch".to_owned()]);
    lacks(&facts, "scheduler", "version 4.3");
    assert_eq!(state(&facts, "system-calls").0, Status::Ok);
    facts.tracing.events_of_calls = Fact::found("events", Vec::new());
    lacks(&facts, "system-calls", "CONFIG_EVENT_TRACING");
    facts = host("ordinary-user");
    for id in ["scheduler", "system-calls", "addresses"] {
        lacks(&facts, id, "as root");
    }
    // Who has the capability needs no root.
    let both = ["sched/sched_switch", "sched/sched_waking"].map(str::to_owned);
    facts.tracing.events_of_waits = Fact::found("events", both.to_vec());
    lacks(&facts, "scheduler", "as root");
    facts.user.capabilities = Fact::found("/proc/self/status", "0000004000000000".to_owned());
    assert_eq!(state(&facts, "scheduler").0, Status::Ok);
    lacks(&host("docker-container"), "memory", "--cap-add SYS_PTRACE");
    lacks(&host("locked-down"), "addresses", "lockdown=integrity");
    let unknown = host("unreadable");
    for id in ["memory", "addresses"] {
        assert_eq!(state(&unknown, id).0, Status::Unknown, "{id}");
    }
}

fn of_kind(facts: &Facts, only: Option<Engine>, kind: &str) -> (Ability, String) {
    let mut events = examine(facts, only).events.into_iter();
    let event = events.find(|event| event.kind == kind).expect("a verdict");
    (event.ability, event.sentence)
}

#[test]
fn the_agent_alone_tells_calls_returns_and_collections_whatever_the_marks() {
    for name in ["debian-12", "docker-container", "not-in-the-group"] {
        let mut facts = host(name);
        for _ in 0..2 {
            for kind in ["call", "return", "gc"] {
                let (ability, sentence) = of_kind(&facts, Some(Engine::Direct), kind);
                assert_eq!(ability, Ability::Ready, "{name} {kind}");
                assert!(sentence.starts_with("complete, through pystap's agent"));
            }
            let (ability, sentence) = of_kind(&facts, Some(Engine::Direct), "audit");
            assert_eq!(ability, Ability::Cannot, "{name}");
            assert!(sentence.contains("calls, returns and collections only"));
            // Nor does it matter whether they are known, and whether the file is still there.
            facts.pythons[0].marks = Fact::unknown("/nowhere", "the test");
            facts.pythons[0].replaced = true;
        }
    }
    // It runs in some versions only.
    let mut facts = host("debian-12");
    facts.pythons[0].version = Fact::found("the test", "3.8.20".to_owned());
    let (ability, sentence) = of_kind(&facts, Some(Engine::Direct), "call");
    assert_eq!(ability, Ability::Cannot);
    assert!(sentence.ends_with("CPython 3.9 to 3.15"), "{sentence}");
    facts.pythons[0].version = Fact::unknown("the test", "no version");
    let (ability, _) = of_kind(&facts, Some(Engine::Direct), "call");
    assert_eq!(ability, Ability::Unknown);
}

#[test]
fn complete_marks_with_an_engine_for_them_stay_complete_and_others_are_completed_by_the_agent() {
    let root = host("debian-testing");
    assert_eq!(
        of_kind(&root, None, "gc"),
        (Ability::Ready, "complete".to_owned())
    );
    let (_, calls) = of_kind(&root, None, "call");
    assert!(
        calls.starts_with("complete, through pystap's agent")
            && calls.contains("the interpreter's own probes: with quirks. "),
        "{calls}"
    );
    let (_, calls) = of_kind(&host("debian-12"), None, "call");
    assert!(calls.contains("engines direct and uprobes"), "{calls}");
    // Where no engine may arm a mark, the agent tells what it can, and nothing tells the others.
    let user = host("not-in-the-group");
    let (ability, collections) = of_kind(&user, None, "gc");
    assert_eq!(ability, Ability::Ready);
    assert!(collections.starts_with("complete, through pystap's agent"));
    assert_eq!(of_kind(&user, None, "audit").0, Ability::Cannot);
}

/// A trial that went well, up to loading where that was tried.
fn trial(loaded: Option<bool>) -> Fact<crate::engine::stap::Trial> {
    let trial = crate::engine::stap::Trial {
        stap: "5.6".to_owned(),
        kernel: "6.1.0-50-amd64".to_owned(),
        compiled: true,
        loaded,
        trouble: String::new(),
        excerpt: String::new(),
    };
    Fact::found("trial", trial)
}

#[test]
fn where_a_module_was_built_it_matters_not_what_a_file_says_of_the_headers() {
    let mut facts = host("debian-12");
    facts.build_tree.release = Fact::found("kernel.release", "6.1.176".to_owned());
    assert_eq!(state(&facts, "headers-match").0, Status::Missing);
    for (loaded, said) in [
        (None, "was built all"),
        (Some(true), "was built and loaded"),
    ] {
        facts.trial = trial(loaded);
        let mut findings = examine(&facts, None).findings.into_iter();
        let finding = findings.find(|it| it.id == "headers-match").expect("it");
        assert_eq!((finding.status, finding.fixes.len()), (Status::Ok, 0));
        assert!(
            finding.summary.contains("is of 6.1.176"),
            "{}",
            finding.summary
        );
        assert!(finding.summary.contains(said), "{}", finding.summary);
    }
    // A module that was not loaded may be of another kernel, indeed.
    facts.trial = trial(Some(false));
    assert_eq!(state(&facts, "headers-match").0, Status::Missing);
}

#[test]
fn a_stap_that_cannot_serve_the_kernel_is_not_installed_by_the_script() {
    let installs = |script: &str| {
        let lines = script.lines().filter(|line| line.starts_with("apt-get"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    for name in ["debian-12", "debian-13"] {
        let mut facts = host(name);
        facts.systemtap.stap = Fact::absent("stap in PATH");
        facts.build_tree.directory = Fact::absent("build");
        let script = fix_script(&examine(&facts, None));
        assert_eq!(installs(&script), [""; 0], "{script}");
        assert!(
            script.contains("# apt-get install -y linux-headers-"),
            "{script}"
        );
        assert!(!script.contains("systemtap\n"), "{script}");
        // What the kernel's true version does not rule out is installed, once apt knows what there is.
        let release = facts.kernel.release.value().expect("known").clone();
        facts.kernel.version = Fact::found("/proc/version", "#1 SMP Debian 6.1.55-1".to_owned());
        facts.kernel.release = Fact::found("osrelease", "6.1.0-13-amd64".to_owned());
        let script = fix_script(&examine(&facts, None));
        let headers = "apt-get install -y linux-headers-6.1.0-13-amd64";
        assert_eq!(
            installs(&script),
            ["apt-get update", headers, "apt-get install -y systemtap"],
            "{release}: {script}"
        );
    }
}

#[test]
fn only_the_groups_that_are_missing_are_made() {
    let mut facts = host("debian-testing");
    facts.systemtap.groups[1] = Fact::absent("/etc/group");
    let (status, fixes) = state(&facts, "groups");
    assert_eq!(status, Status::Warning);
    assert!(fixes.ends_with("groupadd --system stapsys"), "{fixes}");
    assert!(!fixes.contains("stapusr"), "{fixes}");
}

#[test]
fn the_proof_is_about_the_stap_that_was_named() {
    let mut facts = host("debian-testing");
    facts.trial = Fact::unknown("trial", "no trial was made");
    facts.systemtap.named = Some("/opt/stap's/bin/stap".to_owned());
    let script = fix_script(&examine(&facts, None));
    let proof = r#"pystap doctor --trial --stap "/opt/stap's/bin/stap""#;
    let last = script.lines().last().expect("a line");
    assert!(
        last == proof || last == r"pystap doctor --trial --stap '/opt/stap'\''s/bin/stap'",
        "{script}"
    );
}

#[test]
fn tracefs_that_pystap_mounts_itself_stops_nothing() {
    let mut facts = host("debian-12");
    facts.tracing.tracefs = Fact::absent("/proc/self/mounts");
    facts.tracing.debugfs = Fact::absent("/proc/self/mounts");
    facts.tracing.uprobe_events = Fact::absent("/sys/kernel/tracing/uprobe_events");
    assert_eq!(ids(&facts, Engine::Uprobes), [""; 0]);
    assert_eq!(state(&facts, "tracefs"), (Status::Ok, String::new()));
    assert_eq!(state(&facts, "uprobe-events"), (Status::Ok, String::new()));
    // Without the right to mount anything it is in the way.
    facts.user.capabilities = Fact::found("/proc/self/status", "00000000a80425fb".to_owned());
    assert!(ids(&facts, Engine::Uprobes).contains(&"tracefs"));
}

/// Status and summary of a finding.
fn said(facts: &Facts, id: &str) -> (Status, String) {
    let findings = examine(facts, None).findings;
    let finding = findings.into_iter().find(|finding| finding.id == id);
    finding
        .map(|it| (it.status, it.summary))
        .expect("a finding")
}

#[test]
fn what_keeps_packages_from_being_installed_is_said_and_mended_before_the_script_runs_into_it() {
    let told = |facts: &Facts| said(facts, "packages");
    let mut facts = host("debian-testing");
    facts.build_tree.directory = Fact::absent("/lib/modules/R/build");
    facts.packages.managers = Fact::found("PATH", vec!["apt-get".to_owned(), "dnf".to_owned()]);
    facts.packages.read_only = Fact::found("statvfs(3)", Vec::new());
    facts.packages.unfinished = Fact::found("status", Vec::new());
    assert!(
        examine(&facts, None)
            .findings
            .iter()
            .all(|finding| finding.id != "packages")
    );

    facts.packages.managers = Fact::found("PATH", vec!["dnf".to_owned()]);
    facts.packages.read_only =
        Fact::found("statvfs(3)", vec!["/etc".to_owned(), "/usr".to_owned()]);
    assert_eq!(
        told(&facts),
        (
            Status::Warning,
            "packages cannot be installed as fixes do it: apt-get is not here; /etc and /usr are read-only".to_owned()
        )
    );
    // Before anything is half installed.
    let script = fix_script(&examine(&facts, None));
    let at = |text: &str| {
        script
            .find(text)
            .unwrap_or_else(|| panic!("{text}: {script}"))
    };
    assert!(at("\ntest -w /usr\n") < at("\napt-get install"));
    assert!(!script.contains("dpkg"));

    facts.packages = host("debian-testing").packages;
    let names = ["a", "b", "c", "d", "e", "f", "g"].map(str::to_owned);
    facts.packages.unfinished = Fact::found("status", names.to_vec());
    assert_eq!(
        told(&facts).1,
        "packages cannot be installed as fixes do it: dpkg did not finish with a, b, c, d, e and 2 more"
    );
    let script = fix_script(&examine(&facts, None));
    let at = |text: &str| {
        script
            .find(text)
            .unwrap_or_else(|| panic!("{text}: {script}"))
    };
    assert!(at("\ndpkg --configure -a\n") < at("\napt-get install -y --fix-broken\n"));
    assert!(at("--fix-broken") < at("linux-headers-"));
}

/// No stap can be known to know a kernel that is newer than all of them.
#[test]
fn a_kernel_that_is_newer_than_every_stap_is_a_doubt_which_a_trial_settles() {
    let mut facts = host("debian-testing");
    let version =
        "Linux version 9.9.1-1-amd64 (x) (gcc-16 (Debian 16.1.0-1)) #1 SMP Debian 9.9.1-1"
            .to_owned();
    facts.kernel.version = Fact::found("/proc/version", version);
    facts.kernel.release = Fact::found("osrelease", "9.9.1-1-amd64".to_owned());
    facts.build_tree.release = Fact::found("kernel.release", "9.9.1-1-amd64".to_owned());
    facts.build_tree.uts_version = Fact::absent("utsversion.h");
    let proved = facts.trial.clone();
    facts.trial = Fact::unknown("trial", "no trial was made");
    let (status, summary) = said(&facts, "stap-kernel");
    assert_eq!(status, Status::Warning);
    assert!(
        summary.contains("9.9.1 is newer than what stap 5.6 was tested with"),
        "{summary}"
    );
    assert!(summary.contains("not known"), "{summary}");
    let examination = examine(&facts, None);
    assert_eq!(
        examination.engines[0].ability,
        Ability::Likely,
        "{:?}",
        examination.engines[0]
    );
    let finding = examination
        .findings
        .iter()
        .find(|it| it.id == "stap-kernel");
    assert_eq!(
        finding.expect("there").fixes[0].commands,
        ["pystap doctor --trial"]
    );
    // One that went well has the last word.
    facts.trial = proved;
    assert_eq!(said(&facts, "stap-kernel").0, Status::Ok);
}

/// Facts may come from someone else, and root runs the script.
#[test]
fn text_from_a_host_cannot_become_a_command() {
    const EVIL: &str = "x; touch /owned\ntouch /owned $(touch /owned)";
    let mut facts = host("docker-container");
    facts.confinement = host("debian-12").confinement;
    facts.user = host("not-in-the-group").user;
    facts.user.name = Fact::found("/etc/passwd", EVIL.to_owned());
    facts.kernel.release = Fact::found("osrelease", EVIL.to_owned());
    facts.build_tree.compiler = Fact::found(".kernelvariables", EVIL.to_owned());
    facts.systemtap = host("debian-13").systemtap;
    facts.systemtap.sessions = Fact::found(
        "/proc/modules",
        vec![crate::host::Session {
            module: EVIL.to_owned(),
            owned: false,
        }],
    );
    facts.systemtap.environment = [(EVIL.to_owned(), EVIL.to_owned())].into();
    facts.pythons = host("fedora-43").pythons;
    facts.pythons[0].path = EVIL.to_owned();
    facts.pythons[0].pids.clear();
    facts.kernel_templates = vec![EVIL.to_owned()];
    let script = fix_script(&examine(&facts, None));
    for line in script.lines().filter(|line| !line.starts_with('#')) {
        let outside: String = line.split('\'').step_by(2).collect();
        assert!(!outside.contains("/owned"), "{line}");
    }
    assert!(script.contains("linux-headers-$(uname -r)"), "{script}");
    assert!(script.contains(r"staprun -d $'x\073 touch"), "{script}");
}

#[test]
fn text_from_a_host_cannot_move_the_cursor() {
    let mut facts = host("debian-12");
    facts.distribution = facts.distribution.clone().map(|mut distribution| {
        distribution.name = "Evil\x1b[2J\nLinux".to_owned();
        distribution
    });
    let text = report(&facts, &examine(&facts, None), Look { verbose: true });
    assert!(!text.contains("\x1b[2J"));
    assert!(text.contains("Evil\\u{1b}[2J Linux"));
}
