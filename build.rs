//! Builds the agent's library (agent/), which is part of pystap's binary.
//!
//! How, follows from how pystap itself is built: optimised as a whole where pystap is optimised, and quickly otherwise, which
//! is what `cargo check`, `cargo clippy` and `cargo test` come to. Everything that the library promises holds for both; only
//! the one that is shipped is small and fast. Whoever has a library already names it in PYSTAP_AGENT_LIBRARY, and no cargo is
//! started in the cargo that runs: it must be built from the same sources, as `cargo build --package pystap-agent --profile
//! agent` does.
//!
//! In the package that `cargo install pystap` gets, the agent is no crate any more, because cargo never puts one crate into
//! another. Its sources are there (packaging/agent), and a project is laid around them. It takes the crates that it shares with
//! pystap in the versions of pystap's own lock file, so that as a rule they are on the machine already.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use miniz_oxide::deflate::compress_to_vec_zlib;

/// The variable that names a library that is there already.
const PREBUILT: &str = "PYSTAP_AGENT_LIBRARY";
/// The agent's sources in the published package; in a clone, links to where they are.
const PACKAGED: &str = "packaging/agent";
/// The name of the library's file.
const LIBRARY: &str = "libpystap_agent.so";

fn main() {
    println!("cargo::rerun-if-env-changed={PREBUILT}");
    // By it the debug information of a program without any is found, whatever the linker does by default.
    println!("cargo::rustc-link-arg-bins=-Wl,--build-id=sha1");
    let out = PathBuf::from(variable("OUT_DIR"));
    let library = match env::var_os(PREBUILT).map(PathBuf::from) {
        Some(prebuilt) => {
            watch(&prebuilt);
            prebuilt
        }
        None => build(&out),
    };
    let to = out.join(LIBRARY);
    if let Err(error) = fs::copy(&library, &to) {
        panic!("{} cannot be copied: {error}", library.display());
    }
    if let Err(error) = pack(&to) {
        panic!("{} cannot be packed: {error}", to.display());
    }
}

/// Writes a file beside it with what it has, packed: half of that is in pystap's binary.
fn pack(library: &Path) -> io::Result<()> {
    let level = match is_quick() {
        true => 1,
        false => 10,
    };
    let packed = compress_to_vec_zlib(&fs::read(library)?, level);
    fs::write(library.with_extension("so.zlib"), packed)
}

/// Whether it is built for somebody who works on pystap.
fn is_quick() -> bool {
    matches!(variable("OPT_LEVEL").as_str(), "0" | "1")
}

/// What cargo says in its environment.
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

/// Has this script run again when a file or anything in a directory changes.
fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

/// Builds the library; returns where it is.
fn build(out: &Path) -> PathBuf {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let clone = here.join("agent");
    let project = if clone.join("Cargo.toml").exists() {
        for part in [
            "agent/Cargo.toml",
            "agent/build.rs",
            "agent/src",
            "Cargo.toml",
            "Cargo.lock",
        ] {
            watch(&here.join(part));
        }
        for shared in ["glob", "protocol", "ring"] {
            watch(&clone.join(shared));
        }
        here
    } else {
        watch(&here.join(PACKAGED));
        let project = out.join("project");
        lay_out(&here, &project);
        project
    };
    let profile = match is_quick() {
        true => "agent-dev",
        false => "agent",
    };
    // A directory of its own: cargo holds a lock on the one that this script runs in.
    let directory = out.join("agent");
    let mut command = Command::new(variable("CARGO"));
    command
        .args(["build", "--package", "pystap-agent"])
        .args(["--profile", profile, "--target-dir"])
        .arg(&directory)
        .current_dir(&project)
        // The library is made in one way, whatever tool the build goes through.
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    if !project.starts_with(out) {
        command.arg("--locked");
    }
    // Nor with what the fuzz targets (fuzz/run) watch themselves by: who loads it has no fuzzer.
    for flags in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        if env::var(flags).is_ok_and(|flags| flags.contains("sancov")) {
            command.env_remove(flags);
        }
    }
    let (target, host) = (variable("TARGET"), variable("HOST"));
    let mut built = directory;
    if target != host {
        command.args(["--target", &target]);
        built.push(&target);
    }
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("cargo does not start: {error}"));
    assert!(status.success(), "the agent's library does not build");
    built.join(profile).join(LIBRARY)
}

/// Lays a project around the agent's sources in the published package: the manifest that they have in a clone, up to what only
/// tests need, with pystap's own profiles, and pystap's lock file.
fn lay_out(package: &Path, project: &Path) {
    let read = |path: PathBuf| {
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let manifest = read(package.join(PACKAGED).join("manifest.toml"));
    // As it was written: in the one beside it cargo has put everything in an order of its own.
    let pystap = read(package.join("Cargo.toml.orig"));
    let (agent, _) = manifest
        .split_once("[dev-dependencies]")
        .expect("the agent's manifest has dependencies of tests");
    let (_, profiles) = pystap
        .split_once("[profile.agent]")
        .expect("the agent's profiles are the last in pystap's manifest");
    let mut text = String::new();
    for line in agent.lines() {
        // A crate beside the agent's has been published as well.
        let line = match line.split_once(", path = ") {
            Some((dependency, _)) => format!("{dependency} }}"),
            None => line.to_owned(),
        };
        text.push_str(&line);
        text.push('\n');
    }
    text.push_str("[workspace]\n\n[profile.agent]");
    text.push_str(profiles);
    let write = |path: PathBuf, text: &str| {
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    };
    let sources = package.join(PACKAGED);
    let _ = fs::remove_dir_all(project);
    copy(&sources.join("src"), &project.join("src"));
    write(project.join("build.rs"), &read(sources.join("build.rs")));
    write(project.join("Cargo.toml"), &text);
    write(
        project.join("Cargo.lock"),
        &read(package.join("Cargo.lock")),
    );
}

/// Copies a directory of files.
fn copy(from: &Path, to: &Path) {
    let copied = fs::create_dir_all(to).and_then(|()| {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(())
    });
    if let Err(error) = copied {
        panic!("{}: {error}", from.display());
    }
}
