//! What stap says of itself: its version, the build it belongs to, the kernels it was tested with, its features.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::authority::{believed, own};

/// The words of `stap --version`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `5.6`.
    pub version: String,
    /// Which build it is, for example `Debian version 5.6-1`: stap and staprun of one build both carry these words.
    pub build: String,
    /// The oldest and the newest kernel that it was tested with; versions before 3.0 do not say.
    pub tested: Option<(String, String)>,
    /// Features that were compiled in, for example `BPF`.
    #[serde(default)]
    pub features: Vec<String>,
    /// Whether the program itself carries the words of `build`. For staprun this is all there is to tell: it prints
    /// no version of its own.
    #[serde(default)]
    pub belongs: Option<bool>,
}

impl Identity {
    /// Asks a stap.
    ///
    /// # Errors
    /// A reason for people, when it does not start or does not say its version.
    pub fn of(stap: &Path) -> Result<Identity, String> {
        believed(stap).map_err(|reason| format!("root does not run it, because {reason}"))?;
        let mut command = Command::new(stap);
        own::tame(&mut command);
        let output = command
            .arg("--version")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("it does not start ({error})"))?;
        // stap 4.8 prints its version to stderr.
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        parse(&text).ok_or_else(|| "it does not say its version".to_owned())
    }

    /// A program that says nothing of itself, by whether the words of `stap`'s build are in it.
    ///
    /// # Errors
    /// A reason for people, when it cannot be read.
    pub fn of_companion(program: &Path, stap: &Identity) -> Result<Identity, String> {
        // It has a megabyte.
        const MOST: u64 = 64 << 20;
        let mut bytes = Vec::new();
        File::open(program)
            .and_then(|file| file.take(MOST).read_to_end(&mut bytes))
            .map_err(|error| format!("it cannot be read ({error})"))?;
        let words = stap.build.as_bytes();
        // Too short a text would be found anywhere.
        let belongs = (words.len() >= 6)
            .then(|| regex::bytes::Regex::new(&regex::escape(&stap.build)).ok())
            .flatten()
            .map(|pattern| pattern.is_match(&bytes));
        Ok(Identity {
            belongs,
            tested: None,
            features: Vec::new(),
            ..stap.clone()
        })
    }
}

fn parse(text: &str) -> Option<Identity> {
    let version =
        Regex::new(r"\(version ([0-9]+\.[0-9]+(?:\.[0-9]+)?)[^,)]*(?:, ([^)]*))?\)").ok()?;
    let found = version.captures(text)?;
    let line = |start: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(start))
            .map(str::trim)
    };
    Some(Identity {
        version: found.get(1)?.as_str().to_owned(),
        build: found
            .get(2)
            .map(|build| build.as_str().trim().to_owned())
            .unwrap_or_default(),
        tested: line("tested kernel versions:").and_then(|range| {
            let (oldest, newest) = range.split_once("...")?;
            Some((oldest.trim().to_owned(), newest.trim().to_owned()))
        }),
        features: line("enabled features:")
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        belongs: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_build_range_and_features_are_told_apart() {
        let said = "Systemtap translator/driver (version 5.6/0.196, Debian version 5.6-1)\n\
                    Copyright (C) 2005-2026 Red Hat, Inc. and others\n\
                    tested kernel versions: 3.10 ... 7.3.0-rc3\n\
                    enabled features: AVAHI BPF NSS\n";
        let identity = parse(said).unwrap();
        assert_eq!(identity.version, "5.6");
        assert_eq!(identity.build, "Debian version 5.6-1");
        assert_eq!(
            identity.tested,
            Some(("3.10".to_owned(), "7.3.0-rc3".to_owned()))
        );
        assert_eq!(identity.features, ["AVAHI", "BPF", "NSS"]);
    }

    #[test]
    fn an_old_stap_that_tells_less_is_understood_and_another_program_is_not() {
        let old =
            parse("SystemTap translator/driver (version 2.3/0.158, Debian version 2.3-1ubuntu1.4)");
        let old = old.unwrap();
        assert_eq!((old.version.as_str(), old.tested), ("2.3", None));
        assert_eq!(parse("GNU stapler (version unknown)"), None);
    }

    #[test]
    fn a_companion_of_another_build_is_found_out() {
        let identity = parse("(version 5.6/0.196, Debian version 5.6-1)").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let staprun = directory.path().join("staprun");
        std::fs::write(&staprun, b"\x7fELF..Debian version 5.6-1\0..").unwrap();
        let same = Identity::of_companion(&staprun, &identity).unwrap();
        assert_eq!(same.belongs, Some(true));
        std::fs::write(&staprun, b"\x7fELF..Debian version 4.8-2\0..").unwrap();
        let other = Identity::of_companion(&staprun, &identity).unwrap();
        assert_eq!(other.belongs, Some(false));
    }
}
