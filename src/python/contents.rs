//! What the bytes of a file say about Python: whether they contain an interpreter, and which version it is.
//!
//! Searches for strings that every CPython contains; reads no file and knows no file format.

use std::sync::LazyLock;

use regex::bytes::Regex;

use super::version::Version;

/// What was found in the bytes of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Contents {
    /// Whether the interpreter itself is in the file, not only calls into one: a program that merely starts a
    /// `libpython` has none of the interpreter's own strings.
    pub carries_interpreter: bool,
    /// The version of that interpreter, if it can be determined.
    pub version: Option<Version>,
}

/// The environment variable that the interpreter reads since 2.6.8 and 3.2.3, as a C string.
static ASKS_FOR_HASH_SEED: LazyLock<Regex> = LazyLock::new(|| pattern(r"PYTHONHASHSEED\x00"));

/// `sys.implementation.cache_tag`, present since 3.2: the language version without a dot.
static CACHE_TAG: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\x00cpython-([23])([0-9]{1,2})\x00"));

/// The cookie at the start of the debugger offsets since 3.13; `PY_VERSION_HEX` follows in eight bytes. The same eight
/// letters also occur as an immediate operand in code, where no version follows.
static DEBUGGER_OFFSETS: LazyLock<Regex> = LazyLock::new(|| pattern(r"xdebugpy(?s:(.{8}))"));

fn pattern(text: &str) -> Regex {
    regex::bytes::RegexBuilder::new(text)
        .unicode(false)
        .build()
        .expect("the patterns of this file are constant and compile")
}

impl Contents {
    /// Examines the loaded part of a file. `language` is the version that its name implies: 2.7 contains no cache tag.
    pub(super) fn of(bytes: &[u8], language: Option<&Version>) -> Contents {
        if !ASKS_FOR_HASH_SEED.is_match(bytes) {
            return Contents::default();
        }
        let version = from_debugger_offsets(bytes).or_else(|| {
            let language = from_cache_tag(bytes).or_else(|| language.cloned())?;
            Some(full_version(bytes, &language).unwrap_or(language))
        });
        Contents {
            carries_interpreter: true,
            version,
        }
    }
}

fn from_debugger_offsets(bytes: &[u8]) -> Option<Version> {
    DEBUGGER_OFFSETS.captures_iter(bytes).find_map(|found| {
        let (_, [field]) = found.extract();
        let field: [u8; 8] = field.try_into().ok()?;
        [u64::from_le_bytes(field), u64::from_be_bytes(field)]
            .into_iter()
            .find_map(|hex| Version::from_hex(u32::try_from(hex).ok()?))
            .filter(|version| (version.major, version.minor) >= (3, 13))
    })
}

fn from_cache_tag(bytes: &[u8]) -> Option<Version> {
    let (_, [major, minor]) = CACHE_TAG.captures(bytes)?.extract();
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
    Some(Version::of_language(number(major)?, number(minor)?))
}

/// `PY_VERSION` of the given language version, the first word of `Py_GetVersion`.
///
/// Linkers fold a string into the tail of a longer one (an installation prefix that ends in the version, say), so
/// anything but a digit or a dot may precede it; a string on its own wins.
fn full_version(bytes: &[u8], language: &Version) -> Option<Version> {
    // The pattern starts with the literal text, which is searched for many times faster than a character class.
    let language = regex::escape(&language.to_string());
    let text = pattern(&format!(
        r"{language}\.[0-9]{{1,2}}(?:(?:a|b|rc)[0-9]{{1,2}})?\+?\x00"
    ));
    let mut folded = None;
    for found in text.find_iter(bytes) {
        let before = found
            .start()
            .checked_sub(1)
            .and_then(|before| bytes.get(before));
        if before.is_some_and(|byte| byte.is_ascii_digit() || *byte == b'.') {
            continue;
        }
        let version = std::str::from_utf8(found.as_bytes())
            .ok()
            .and_then(|text| text.trim_end_matches('\0').parse().ok());
        if before == Some(&0) && version.is_some() {
            return version;
        }
        folded = folded.or(version);
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::Contents;

    fn version(bytes: &[u8]) -> Option<String> {
        Contents::of(bytes, None)
            .version
            .map(|version| version.to_string())
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn debians_interpreter_is_recognised_with_its_full_version() {
        let bytes = std::fs::read("/usr/bin/python3.11").expect("python3.11 is installed");
        let contents = Contents::of(&bytes, None);
        assert!(contents.carries_interpreter);
        let version = contents.version.expect("a version");
        assert_eq!((version.major, version.minor), (3, 11));
        let said = std::process::Command::new("/usr/bin/python3.11")
            .args(["-c", "import platform; print(platform.python_version())"])
            .output()
            .expect("python3.11 runs");
        assert_eq!(
            version.to_string(),
            String::from_utf8_lossy(&said.stdout).trim()
        );
    }

    #[test]
    fn a_file_that_only_talks_about_python_is_not_an_interpreter() {
        let shell = std::fs::read("/bin/sh").expect("there is a shell");
        assert_eq!(Contents::of(&shell, None), Contents::default());
        assert_eq!(
            Contents::of(b"\0cpython-311\0\x003.11.2\0", None),
            Contents::default()
        );
    }

    #[test]
    fn a_version_string_folded_into_an_installation_prefix_is_found() {
        assert_eq!(
            version(b"PYTHONHASHSEED\0\0cpython-310\0/opt/python/3.10.13\0\x003.2.0\0").as_deref(),
            Some("3.10.13")
        );
    }

    #[test]
    fn a_version_string_that_stands_alone_wins_over_one_in_a_path() {
        assert_eq!(
            version(b"PYTHONHASHSEED\0/opt/3.11.2\0\0cpython-311\0\x003.11.7rc1+\0").as_deref(),
            Some("3.11.7rc1")
        );
    }

    #[test]
    fn the_debugger_offsets_tell_the_version_and_code_that_checks_them_does_not() {
        let bytes = b"PYTHONHASHSEED\0mov xdebugpy\x48\x89\x05\x12\xf8\x6e\0\xe9..xdebugpy\xf0\x0f\x0d\x03\0\0\0\0";
        assert_eq!(version(bytes).as_deref(), Some("3.13.15"));
    }

    #[test]
    fn the_language_version_alone_is_reported_when_nothing_says_more() {
        assert_eq!(
            version(b"PYTHONHASHSEED\0\0cpython-38\0\x003.2.0\0").as_deref(),
            Some("3.8")
        );
        assert_eq!(version(b"PYTHONHASHSEED\0\x003.2.0\0"), None);
    }
}
