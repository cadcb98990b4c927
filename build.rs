//! Builds the agent's library (agent/), which is part of pystap's binary.
//!
//! How, follows from how pystap itself is built: optimised as a whole where pystap is optimised, and quickly otherwise, which
//! is what `cargo check`, `cargo clippy` and `cargo test` come to. Everything that the library promises holds for both; only
//! the one that is shipped is small and fast. Whoever has a library already names it in PYSTAP_AGENT_LIBRARY, and no cargo is
//! started in the cargo that runs: it must be built from the same sources, as `cargo build --package pystap-agent --profile
//! agent` does.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that names a library that is there already.
const PREBUILT: &str = "PYSTAP_AGENT_LIBRARY";

fn main() {
    println!("cargo::rerun-if-changed=agent/Cargo.toml");
    println!("cargo::rerun-if-changed=agent/build.rs");
    println!("cargo::rerun-if-changed=agent/src");
    println!("cargo::rerun-if-changed=agent/glob");
    println!("cargo::rerun-if-changed=agent/protocol");
    println!("cargo::rerun-if-changed=agent/ring");
    println!("cargo::rerun-if-changed=Cargo.toml");
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rerun-if-env-changed={PREBUILT}");
    let variable = |name| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let out = PathBuf::from(variable("OUT_DIR"));
    let library = "libpystap_agent.so";
    if let Some(prebuilt) = env::var_os(PREBUILT).map(PathBuf::from) {
        println!("cargo::rerun-if-changed={}", prebuilt.display());
        return copy(&prebuilt, &out.join(library));
    }
    let profile = match variable("OPT_LEVEL").as_str() {
        "0" | "1" => "agent-dev",
        _ => "agent",
    };
    // A directory of its own: cargo holds a lock on the one that this script runs in.
    let directory = out.join("agent");
    let mut command = Command::new(variable("CARGO"));
    command
        .args(["build", "--locked", "--package", "pystap-agent"])
        .args(["--profile", profile, "--target-dir"])
        .arg(&directory)
        .current_dir(variable("CARGO_MANIFEST_DIR"))
        // The library is made in one way, whatever tool the build goes through.
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    // Nor with what the fuzz targets (fuzz/run) watch themselves by: who loads it has no fuzzer.
    for flags in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        if env::var(flags).is_ok_and(|flags| flags.contains("sancov")) {
            command.env_remove(flags);
        }
    }
    let (target, host) = (variable("TARGET"), variable("HOST"));
    let mut built = directory.clone();
    if target != host {
        command.args(["--target", &target]);
        built.push(&target);
    }
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("cargo does not start: {error}"));
    assert!(status.success(), "the agent's library does not build");
    copy(&built.join(profile).join(library), &out.join(library));
}

fn copy(from: &Path, to: &Path) {
    if let Err(error) = std::fs::copy(from, to) {
        panic!("{} cannot be copied: {error}", from.display());
    }
}
