//! What describes how pystap is run: the unit of systemd and the manifest of Kubernetes, and whether both leave it the same.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::command::{file, installed};

/// The unit, for a service whose name stands for `%i`.
pub(crate) const UNIT: &str = include_str!("../../packaging/systemd/pystap-metrics@.service");
pub(crate) const MANIFEST: &str = include_str!("../../packaging/container/daemonset.yaml");

/// The version whose schemas the manifest is held against.
const KUBERNETES: &str = "1.37";

/// The capabilities that the unit leaves, without `CAP_`.
pub(crate) fn capabilities_of_the_unit() -> Vec<&'static str> {
    let mut lines = UNIT.lines();
    let set = lines.find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = set.expect("a set").split(' ');
    names
        .map(|name| name.strip_prefix("CAP_").expect("a capability"))
        .collect()
}

/// What the schemas of Kubernetes say to a manifest.
fn checked(manifest: &str) -> Output {
    let mut python = Command::new(installed("otlp/venv/bin/python"))
        .arg(file("tests/otlp/manifest.py"))
        .arg(KUBERNETES)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = python.stdin.take().expect("piped");
    input.write_all(manifest.as_bytes()).expect("it reads");
    drop(input);
    python.wait_with_output().expect("it ends")
}

#[test]
#[ignore = "needs what tests/otlp/install gets: run by scripts/test-here"]
fn the_daemon_set_is_one_of_kubernetes_with_what_the_unit_leaves_to_pystap() {
    let output = checked(MANIFEST);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let manifest: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let pod = &manifest["spec"]["template"]["spec"];
    assert_eq!(pod["hostPID"], true);
    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    assert!(security["privileged"].is_null(), "{security}");
    let capabilities = &security["capabilities"];
    assert_eq!(capabilities["drop"], Value::from(vec!["ALL"]));
    let added = Value::from(capabilities_of_the_unit());
    assert_eq!(capabilities["add"], added);
    // Who scrapes is sent where pystap listens.
    let port = container["ports"][0]["containerPort"].to_string();
    let template = &manifest["spec"]["template"]["metadata"];
    assert_eq!(template["annotations"]["prometheus.io/port"], port);
    let arguments = container["args"].as_array().expect("arguments");
    let listens = format!("--listen=0.0.0.0:{port}");
    assert!(arguments.contains(&Value::from(listens)), "{arguments:?}");
    let selected = &manifest["spec"]["selector"]["matchLabels"];
    assert_eq!(selected, &template["labels"]);
    // Everything that is mounted is there, and all of its arguments are pystap's.
    let named = |list: &Value| -> Vec<String> {
        let list = list.as_array().expect("a list").iter();
        list.map(|it| it["name"].to_string()).collect()
    };
    assert_eq!(named(&container["volumeMounts"]), named(&pod["volumes"]));
    let mut arguments: Vec<&str> = arguments
        .iter()
        .map(|argument| argument.as_str().expect("text"))
        .collect();
    arguments.push("--help");
    let help = crate::command::pystap_with(&arguments);
    assert_eq!(help.code, 0, "{help:?}");
}

#[test]
#[ignore = "needs what tests/otlp/install gets: run by scripts/test-here"]
fn a_field_that_kubernetes_does_not_know_or_of_another_type_is_found_in_the_manifest() {
    for (right, wrong, told) in [
        ("hostPID:", "hostPid:", "'hostPid' was unexpected"),
        ("timeoutSeconds:", "timeout:", "'timeout' was unexpected"),
        ("runAsUser: 0", "runAsUser: root", "'root' is not of type"),
        (
            "  selector:",
            "  selects:",
            "'selector' is a required property",
        ),
    ] {
        assert!(MANIFEST.contains(right), "{right}");
        let output = checked(&MANIFEST.replace(right, wrong));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{wrong}");
        assert!(said.contains(told), "{wrong}: {said}");
    }
}

#[test]
#[ignore = "needs systemd-analyze: run by scripts/test-here"]
fn systemd_finds_nothing_to_say_about_the_unit() {
    let directory = tempfile::tempdir().expect("a directory");
    let pystap = crate::command::pystap();
    let unit = UNIT.replace("/usr/bin/pystap", pystap.to_str().expect("UTF-8"));
    let path = directory.path().join("pystap-metrics@nova-compute.service");
    std::fs::write(&path, unit).expect("written");
    let checked = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output()
        .expect("systemd-analyze is installed");
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.is_empty(), "{said}");
}
