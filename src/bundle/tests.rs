//! What is written is read again, what is not what it says is refused, and each reason not to fit is told by its name.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::error::OURS;
use super::*;
use crate::probe::AGENT_PROVIDER;
use crate::python::marks::PROVIDER;
use crate::script::filter::Glob;
use crate::script::{Filters, ProbedImage, Request, TIMED_CALLS, TOTALS};

const RELEASE: &str = "7.2.12+deb14-amd64";
const BUILD: &str = "#1 SMP PREEMPT_DYNAMIC Debian 7.2.12-1 (2026-10-22)";
const PYTHON: &str = "/usr/bin/python3.15";
const LIBRARY: &str = "/run/pystap/agent-0123456789ab/libpystap_agent.so";

fn image(path: &str, provider: &str, marks: &[&str]) -> Image {
    Image {
        path: path.to_owned(),
        build_id: format!("id of {path}"),
        version: (provider == PROVIDER).then(|| "3.15.0".to_owned()),
        provider: provider.to_owned(),
        marks: marks.iter().map(|mark| (*mark).to_owned()).collect(),
        library: provider == AGENT_PROVIDER,
        arguments: false,
    }
}

/// A bundle for calls of one interpreter and of the agent.
fn bundle() -> Bundle {
    let script = "probe begin {}\n".to_owned();
    let module = vec![7_u8; 5000];
    let agent = vec![9_u8; 300];
    let manifest = Manifest {
        kernel: KernelBuild {
            release: RELEASE.to_owned(),
            build: Some(BUILD.to_owned()),
            machine: "x86_64".to_owned(),
        },
        systemtap: SystemTap {
            version: "5.6".to_owned(),
            build: "Debian version 5.6-1".to_owned(),
        },
        asked: Asked {
            events: ["call", "return"].map(str::to_owned).to_vec(),
            templates: vec!["calls".to_owned()],
            ..Asked::default()
        },
        images: vec![
            image(PYTHON, PROVIDER, &["function__entry", "function__return"]),
            image(
                LIBRARY,
                AGENT_PROVIDER,
                &["function__entry", "function__return", "context__name"],
            ),
        ],
        module: "stap_0123456789abcdef0123456789abcdef_42".to_owned(),
        parts: Parts {
            script: script.len() as u64,
            module: module.len() as u64,
            agent: Some(agent.len() as u64),
        },
        ..Manifest::of_ours()
    };
    Bundle {
        path: PathBuf::new(),
        manifest,
        script,
        module,
        agent: Some(agent),
    }
}

/// A directory with a bundle of this path in it.
fn written(bundle: Bundle) -> (tempfile::TempDir, Bundle) {
    let directory = tempfile::tempdir().expect("a directory");
    let bundle = Bundle {
        path: directory.path().join("calls.bundle"),
        ..bundle
    };
    bundle.write().expect("written");
    (directory, bundle)
}

/// What is said of a file with this content; `None` where it is a bundle.
fn said_of(content: &[u8]) -> Option<String> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    fs::write(&path, content).expect("written");
    Some(Bundle::open(&path).err()?.to_string())
}

/// A file of this line and what follows it.
fn packed(line: &str, rest: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(line.as_bytes()).expect("packed");
    packed.write_all(rest).expect("packed");
    packed.finish().expect("packed")
}

/// A file whose manifest was changed, and whose parts were not.
fn with(change: impl FnOnce(&mut Manifest)) -> Vec<u8> {
    let mut bundle = bundle();
    change(&mut bundle.manifest);
    let line = serde_json::to_string(&bundle.manifest).expect("JSON");
    let agent = bundle.agent.unwrap_or_default();
    let parts = [bundle.script.as_bytes(), &bundle.module, &agent].concat();
    packed(&format!("{line}\n"), &parts)
}

#[test]
fn what_is_written_is_read_again_and_is_its_owners_alone() {
    let (_directory, bundle) = written(bundle());
    assert_eq!(Bundle::open(&bundle.path).expect("read"), bundle);
    let metadata = fs::metadata(&bundle.path).expect("there");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    // Again, and with other content.
    let other = Bundle {
        module: vec![8; 5000],
        ..bundle
    };
    other.write().expect("written over it");
    assert_eq!(Bundle::open(&other.path).expect("read"), other);
}

#[test]
fn whether_one_could_be_written_is_known_before_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("calls.bundle");
    Bundle::could_be_at(&path).expect("it could");
    assert_eq!(fs::read_dir(directory.path()).expect("there").count(), 0);
    let said = Bundle::could_be_at(&path.join("within"));
    let said = said.expect_err("there is no such directory").to_string();
    assert!(said.contains("cannot be written"), "{said}");
}

#[test]
fn a_file_that_was_cut_anywhere_is_refused() {
    let (_directory, bundle) = written(bundle());
    let whole = fs::read(&bundle.path).expect("read");
    for length in 0..whole.len() {
        let said = said_of(&whole[..length]).unwrap_or_else(|| panic!("{length} bytes are enough"));
        let words = match length {
            0..2 => "is no bundle",
            _ => "is damaged",
        };
        assert!(said.contains(words), "{length}: {said}");
    }
    assert_eq!(said_of(&whole), None);
}

#[test]
fn a_byte_that_changed_is_found_by_the_checksum() {
    let (_directory, bundle) = written(bundle());
    let whole = fs::read(&bundle.path).expect("read");
    // The ten bytes before are gzip's own, and of no consequence but for the first three.
    for at in 10..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        assert!(said_of(&changed).is_some(), "byte {at}");
    }
}

#[test]
fn parts_that_are_longer_or_shorter_than_said_are_refused_without_making_room_for_them() {
    let module = |length| with(|it| it.parts.module = length);
    for (content, words) in [
        (module(5001), "its agent ends too early"),
        (module(6000), "its module ends too early"),
        (module(4999), "there is more in it than it says"),
        (
            module(u64::MAX),
            "its module would have 18446744073709551615 bytes",
        ),
        (
            with(|it| it.parts.script = 1 << 40),
            "its script would have",
        ),
        (
            with(|it| it.parts.agent = Some(1 << 40)),
            "its agent would have",
        ),
        (
            [with(|_| {}), with(|_| {})].concat(),
            "there is more in it than it says",
        ),
    ] {
        let said = said_of(&content).expect("refused");
        assert!(
            said.contains("is damaged") && said.contains(words),
            "{words}: {said}"
        );
    }
}

#[test]
fn what_another_pystap_made_is_told_by_its_version() {
    for change in [
        |it: &mut Manifest| it.pystap = "9.9.9".to_owned(),
        |it: &mut Manifest| (it.format, it.pystap) = (2, "9.9.9".to_owned()),
    ] {
        let said = said_of(&with(change)).expect("refused");
        let expected = format!("was made by pystap 9.9.9, and this is pystap {OURS}, so");
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn what_is_no_bundle_is_called_so() {
    for content in [
        &b""[..],
        b"#!/bin/sh\n",
        &packed("", b""),
        &packed("not JSON\n", b""),
        &packed("{}\n", b""),
        &packed("[1]\n", b""),
        // A line without an end, of which no more is read than a line may have.
        &packed(&"x".repeat(3 << 20), b""),
    ] {
        let said = said_of(content).expect("refused");
        assert!(said.contains("is no bundle, so it is not used"), "{said}");
    }
}

#[test]
fn what_a_bundle_cannot_say_of_itself_is_refused() {
    let named = |name: &str| {
        let name = name.to_owned();
        with(|it| it.module = name)
    };
    let long = format!("stap_{}", "a".repeat(60));
    for content in [
        named("../../../etc/cron.d/x"),
        named("stap_x/y"),
        named("stap_x\0"),
        named("nfs"),
        named(""),
        named(&long),
        with(|it| it.images.clear()),
        with(|it| it.images[0].path = "python3".to_owned()),
        with(|it| it.images[0].build_id.clear()),
        with(|it| it.images[0].provider = "kernel".to_owned()),
        with(|it| it.images[0].marks = vec!["x\") { }".to_owned()]),
        with(|it| it.images = vec![it.images[0].clone(); 65]),
        with(|it| it.images.push(it.images[0].clone())),
        with(|it| it.parts.agent = None),
        packed(
            &serde_json::to_string(&bundle().manifest)
                .expect("JSON")
                .replace("\"functions\":[]", "\"functions\":[\"[\"]"),
            b"\n",
        ),
    ] {
        let said = said_of(&content).expect("refused");
        assert!(said.contains("is damaged"), "{said}");
    }
}

#[test]
fn only_an_ordinary_file_is_read_and_nobody_is_waited_for() {
    let (directory, bundle) = written(bundle());
    let at = |name: &str| directory.path().join(name);
    let made = Command::new("mkfifo").arg(at("pipe")).status();
    assert!(made.expect("mkfifo runs").success());
    for (path, words) in [
        (at("pipe"), "it is a pipe"),
        (directory.path().to_owned(), "it is a directory"),
        (PathBuf::from("/dev/zero"), "it is a device"),
        (at("nothing"), "No such file"),
    ] {
        let said = Bundle::open(&path).expect_err("refused").to_string();
        assert!(
            said.contains("cannot be read") && said.contains(words),
            "{said}"
        );
    }
    // A link of our own leads where we want.
    symlink(&bundle.path, at("link")).expect("made");
    let linked = Bundle::open(&at("link")).expect("read");
    assert_eq!(linked.manifest, bundle.manifest);
}

#[test]
fn what_others_may_write_is_not_believed() {
    let (directory, bundle) = written(bundle());
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permitted");
    };
    let refused = || {
        let error = Bundle::open(&bundle.path).expect_err("refused");
        assert!(matches!(error, BundleError::Distrusted { .. }), "{error}");
        assert!(
            error.to_string().contains("can be changed by others"),
            "{error}"
        );
    };
    set(&bundle.path, 0o666);
    refused();
    set(&bundle.path, 0o644);
    set(directory.path(), 0o777);
    refused();
    set(directory.path(), 0o755);
    Bundle::open(&bundle.path).expect("for everybody to read is for nobody to write");
}

#[test]
fn another_kernel_is_told_by_what_it_is() {
    let bundle = bundle();
    let here = |release: &str, build: &str, machine: &str| Here {
        release: release.to_owned(),
        build: build.to_owned(),
        machine: machine.to_owned(),
    };
    bundle
        .fits_kernel(&here(RELEASE, BUILD, "x86_64"))
        .expect("the same");
    let said = |here| bundle.fits_kernel(&here).expect_err("another").to_string();
    let other = said(here("6.1.0-50-amd64", BUILD, "x86_64"));
    assert!(
        other.contains("is for Linux 7.2.12+deb14-amd64, and this host runs 6.1.0-50-amd64")
            && other.contains("make one for that kernel (--kernel)"),
        "{other}"
    );
    let rebuilt = said(here(RELEASE, "#2 SMP Debian 7.2.12-2", "x86_64"));
    assert!(
        rebuilt.contains(BUILD) && rebuilt.contains("runs #2 SMP Debian 7.2.12-2"),
        "{rebuilt}"
    );
    let arm = said(here(RELEASE, BUILD, "aarch64"));
    assert!(
        arm.contains("is for x86_64, and this host is aarch64"),
        "{arm}"
    );
    // Where the headers did not say which build it is, the release decides.
    let mut vague = bundle.clone();
    vague.manifest.kernel.build = None;
    vague
        .fits_kernel(&here(RELEASE, "#2", "x86_64"))
        .expect("the same release");
}

#[test]
fn each_interpreter_has_to_be_there_whoever_is_traced_and_to_be_the_same() {
    let bundle = bundle();
    bundle
        .fits_files(|path| Some(Some(format!("id of {}", path.display()))))
        .expect("the agent is brought along");
    let said = |here: Option<Option<String>>| {
        let fits = bundle.fits_files(|_| here.clone());
        fits.expect_err("it is not").to_string()
    };
    assert!(said(None).contains("is for /usr/bin/python3.15, too, which is not here"));
    assert!(said(Some(None)).contains("(build ID id of /usr/bin/python3.15, here none)"));
    assert!(said(Some(Some("0123".to_owned()))).contains("here 0123)"));
}

/// What a session asks for that the bundle was made for, of its interpreter alone.
fn wanted() -> (Request, Vec<(PathBuf, Option<String>)>) {
    let request = bundle().manifest.request();
    let request = Request {
        images: request.images.into_iter().take(1).collect(),
        ..request
    };
    let build = (PathBuf::from(PYTHON), Some(format!("id of {PYTHON}")));
    (request, vec![build])
}

/// What is said of a session that asks for something else.
fn misfit(
    bundle: &Bundle,
    change: impl FnOnce(&mut Request, &mut (PathBuf, Option<String>)),
) -> String {
    let (mut request, mut builds) = wanted();
    change(&mut request, &mut builds[0]);
    let fits = bundle.fits(&request, &builds, &[]);
    fits.expect_err("it does not fit").to_string()
}

fn globs(names: &[&str]) -> Vec<Glob> {
    names
        .iter()
        .map(|it| Glob::new(it).expect("a glob"))
        .collect()
}

#[test]
fn a_bundle_for_more_than_is_asked_for_fits() {
    let bundle = bundle();
    let (mut request, builds) = wanted();
    bundle
        .fits(&request, &builds, &[])
        .expect("one of two images");
    // It filters nothing, and pystap does.
    request.filters.functions = globs(&["handle"]);
    bundle.fits(&request, &builds, &[]).expect("all functions");
    request.events.reverse();
    bundle.fits(&request, &builds, &[]).expect("in any order");
}

#[test]
fn an_interpreter_that_is_not_in_it_is_named_with_what_to_type() {
    let bundle = bundle();
    let other = misfit(&bundle, |request, build| {
        request.images[0].path = "/opt/my python".to_owned();
        build.0 = "/opt/my python".into();
    });
    assert!(
        other.contains("has no probes for /opt/my python")
            && other.contains("it is for Python 3.15.0 (/usr/bin/python3.15)")
            && other.contains("make one with --python /opt/my python, too"),
        "{other}"
    );
    let rebuilt = misfit(&bundle, |_, build| build.1 = Some("0123".to_owned()));
    assert!(
        rebuilt.contains(
            "another build of /usr/bin/python3.15 (build ID id of /usr/bin/python3.15, here 0123)"
        ),
        "{rebuilt}"
    );
    let nameless = misfit(&bundle, |_, build| build.1 = None);
    assert!(nameless.contains("here none"), "{nameless}");
    let agent = misfit(&bundle, |request, build| {
        request.images = vec![ProbedImage {
            path: "/elsewhere/libpystap_agent.so".to_owned(),
            provider: AGENT_PROVIDER,
            ..request.images[0].clone()
        }];
        build.0 = "/elsewhere/libpystap_agent.so".into();
    });
    assert!(
        agent.contains("pystap's agent (/elsewhere/libpystap_agent.so)"),
        "{agent}"
    );
}

#[test]
fn options_that_would_take_another_script_are_named() {
    let bundle = bundle();
    let is = |said: String, options: &str| {
        let expected =
            format!("was made with other options ({options}), so nothing is traced: it has");
        assert!(said.contains(&expected), "{options}: {said}");
    };
    is(
        misfit(&bundle, |it, _| it.events.push("gc".to_owned())),
        "--events",
    );
    is(
        misfit(&bundle, |it, _| it.templates = vec![TIMED_CALLS.to_owned()]),
        "--min-duration or --totals",
    );
    is(
        misfit(&bundle, |it, _| it.images[0].arguments = true),
        "--capture",
    );
    let (request, builds) = wanted();
    let said = bundle.fits(&request, &builds, &["-g".to_owned()]);
    is(said.expect_err("another").to_string(), "--stap-arg");

    let mut filtering = bundle.clone();
    let filters = Filters {
        functions: globs(&["handle"]),
        not_files: globs(&["/usr/*"]),
        ..Filters::default()
    };
    filtering.manifest.asked.filters = (&filters).into();
    is(misfit(&filtering, |_, _| {}), "--function, --exclude");
    is(
        misfit(&filtering, |it, _| {
            it.filters = filters.clone();
            it.filters.files = globs(&["/srv/*"]);
        }),
        "--file",
    );
    let (mut request, builds) = wanted();
    request.filters = filters.clone();
    filtering.fits(&request, &builds, &[]).expect("the same");

    // Sums of all functions are not taken apart again.
    let mut adding = bundle;
    adding.manifest.asked.templates = vec![TOTALS.to_owned()];
    is(
        misfit(&adding, |it, _| {
            it.templates = vec![TOTALS.to_owned()];
            it.filters.modules = vec![Glob::module("nova.*").expect("a glob")];
        }),
        "--module",
    );
}
