//! `pystap doctor` in the guest, where everything works, and with one thing broken at a time. Run by `tests/guest/run`;
//! each test restores what it broke, even when it fails.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::command::{Ended, command, run};
use crate::executable;
use crate::live::Script;
use crate::tracing::leaves_nothing;

const PYTHON: &str = "/usr/bin/python3.15";

/// What a trial compiles: `pystap trace --events gc` shares the module.
const TRIAL: Script = Script {
    python: PYTHON,
    options: &["--events", "gc"],
};

/// Every script of this file, for [`crate::prefill`].
pub(crate) const SCRIPTS: [&Script; 1] = [&TRIAL];

fn doctor(arguments: &[&str]) -> (Ended, Value) {
    let mut command = command(["doctor", "--json", "--engine", "stap", "--python", PYTHON]);
    if let Some(home) = std::env::var_os("HOME") {
        command.env("HOME", home);
    }
    let ended = run(command.args(arguments));
    let report =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (ended, report)
}

fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    release.trim().to_owned()
}

/// Something that is restored when this is dropped.
struct Broken<'a>(Box<dyn Fn() + 'a>);

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Moves a file away while the value lives.
fn without(path: &Path) -> Broken<'_> {
    let aside = PathBuf::from(format!("{}.aside", path.display()));
    fs::rename(path, &aside).expect("moved away");
    Broken(Box::new(move || {
        let _ = fs::remove_file(path);
        fs::rename(&aside, path).expect("moved back");
    }))
}

/// The stap engine cannot run, and this finding is among the reasons.
fn says(report: &Value, id: &str) {
    let because = &report["engines"][0]["because"];
    let named = because
        .as_array()
        .is_some_and(|ids| ids.iter().any(|found| found == id));
    assert!(named, "{id}: {because}");
    assert_eq!(report["can"], false);
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn everything_is_fine_and_a_trial_loads_a_module() {
    leaves_nothing(|| {
        let (ended, report) = doctor(&["--trial=run"]);
        assert_eq!(ended.code, 0, "{report:#}");
        assert_eq!(report["engines"][0]["ability"], "ready", "{report:#}");
        let sentence = report["engines"][0]["sentence"].as_str().expect("words");
        assert!(sentence.contains("built and loaded"), "{sentence}");
        let missing = report["findings"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|finding| finding["status"] == "missing");
        assert_eq!(missing, None);
    });
    // The next run knows it without trying.
    let (_, report) = doctor(&[]);
    assert_eq!(report["engines"][0]["ability"], "ready");
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn headers_that_were_removed_are_missed() {
    let build = PathBuf::from(format!("/lib/modules/{}/build", release()));
    let _broken = without(&build);
    let (ended, report) = doctor(&[]);
    assert_eq!(ended.code, 3);
    says(&report, "headers");
    assert!(
        ended
            .stdout
            .contains(&format!("linux-headers-{}", release()))
    );
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn a_user_without_the_groups_is_told_so() {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--",
        ])
        .arg(crate::command::pystap())
        .args(["doctor", "--json", "--engine", "stap", "--python", PYTHON]);
    let ended = run(command.env_remove("HOME"));
    let report = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(ended.code, 3);
    says(&report, "privilege");
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn debugfs_that_is_not_mounted_is_a_warning() {
    // Along with tracefs, which the kernel may have mounted inside.
    let unmounted = Command::new("umount")
        .args(["-R", "/sys/kernel/debug"])
        .status();
    assert!(unmounted.expect("umount runs").success());
    let _broken = Broken(Box::new(|| {
        let mounted = Command::new("mount")
            .args(["-t", "debugfs", "debugfs", "/sys/kernel/debug"])
            .status();
        assert!(mounted.expect("mount runs").success());
    }));
    let (_, report) = doctor(&[]);
    let finding = report["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|finding| finding["id"] == "debugfs")
        .expect("a finding");
    assert_eq!(finding["status"], "warning");
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn an_old_stap_is_known_to_fail_before_it_is_tried() {
    let directory = tempfile::tempdir().expect("a directory");
    let stap = directory.path().join("stap");
    executable::script(
        "#!/bin/sh\necho 'Systemtap translator/driver (version 4.8/0.188, Debian version 4.8-2)'\n\
         echo 'tested kernel versions: 2.6.32 ... 6.1.0-rc3'\n",
        &stap,
    );
    symlink("/usr/bin/staprun", directory.path().join("staprun")).expect("a link");
    let (ended, report) = doctor(&["--stap", stap.to_str().expect("UTF-8")]);
    assert_eq!(ended.code, 3);
    says(&report, "stap-kernel");
    // And its staprun is from another build.
    says(&report, "staprun");
}

/// Kernel debug information of another build, and the same truncated: any file with debug information will do.
#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn debug_information_of_another_build_or_cut_short_is_told_apart() {
    let place = PathBuf::from(format!("/usr/lib/debug/boot/vmlinux-{}", release()));
    fs::create_dir_all(place.parent().expect("a parent")).expect("made");
    let _broken = Broken(Box::new(|| {
        let _ = fs::remove_file(&place);
    }));
    let directory = tempfile::tempdir().expect("a directory");
    let source = directory.path().join("other.c");
    fs::write(&source, "int task_work_add(void) { return 0; }\n").expect("written");
    let compiled = Command::new("gcc")
        .args(["-g", "-shared", "-nostdlib", "-Wl,--build-id", "-o"])
        .arg(&place)
        .arg(&source)
        .status();
    assert!(compiled.expect("gcc runs").success());
    let vmlinux = || {
        let (_, report) = doctor(&[]);
        report["findings"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|finding| finding["id"] == "vmlinux")
            .cloned()
            .expect("a finding")
    };
    let finding = vmlinux();
    assert_eq!(finding["status"], "warning", "{finding}");
    assert!(finding.to_string().contains("another build"), "{finding}");

    let whole = fs::read(&place).expect("read");
    fs::write(&place, &whole[..whole.len() / 2]).expect("written");
    let finding = vmlinux();
    assert_eq!(finding["status"], "warning", "{finding}");
    assert!(finding.to_string().contains("incomplete"), "{finding}");
}

/// The very last test: once loading is switched off, it stays off until the next boot. Its name puts it last, because
/// the tests run in alphabetical order.
#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run, which boots once more for it"]
fn zz_loading_that_was_switched_off_is_found_out() {
    fs::write("/proc/sys/kernel/modules_disabled", "1\n").expect("root may");
    let (ended, report) = doctor(&[]);
    assert_eq!(ended.code, 3);
    says(&report, "modules-disabled");
}
