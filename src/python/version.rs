//! A Python version: how it is written, parsed and ordered. Does not know where it was found.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A version of CPython as far as it is known: `3.11`, `3.11.2`, `3.15.0rc1`.
///
/// Ordered by age; an unknown micro version comes before every known one, a pre-release before its release.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    /// 2 or 3.
    pub major: u8,
    /// The language version within `major`.
    pub minor: u8,
    /// The bug-fix release; `None` when only a file name was available.
    pub micro: Option<u8>,
    /// `a1`, `b3`, `rc2`; `None` for a release, and wherever `micro` is `None`.
    pub pre: Option<String>,
}

impl Version {
    /// A version of which only `major.minor` is known.
    #[must_use]
    pub fn of_language(major: u8, minor: u8) -> Version {
        Version {
            major,
            minor,
            micro: None,
            pre: None,
        }
    }

    /// Decodes `PY_VERSION_HEX`: one byte each for major, minor and micro, then one digit for the release level and one
    /// for the serial. `None` when CPython never had such a version.
    #[must_use]
    pub fn from_hex(hex: u32) -> Option<Version> {
        let [major, minor, micro, release] = hex.to_be_bytes();
        let serial = release & 0x0f;
        let pre = match release >> 4 {
            0xa => Some(format!("a{serial}")),
            0xb => Some(format!("b{serial}")),
            0xc => Some(format!("rc{serial}")),
            0xf => None,
            _ => return None,
        };
        (major == 2 || major == 3).then_some(Version {
            major,
            minor,
            micro: Some(micro),
            pre,
        })
    }

    fn rank(&self) -> (u8, u8, Option<u8>, u8, u32) {
        let (level, serial) = match self.pre.as_deref() {
            None => (u8::MAX, 0),
            Some(pre) => {
                let digits = pre.trim_start_matches(|c: char| c.is_ascii_alphabetic());
                let level = match pre.as_bytes().first() {
                    Some(b'a') => 0,
                    Some(b'b') => 1,
                    _ => 2,
                };
                (level, digits.parse().unwrap_or(0))
            }
        };
        (self.major, self.minor, self.micro, level, serial)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        // The text breaks ties, so that order and equality never disagree, even for a release level unknown here.
        self.rank()
            .cmp(&other.rank())
            .then_with(|| self.pre.cmp(&other.pre))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if let Some(micro) = self.micro {
            write!(f, ".{micro}")?;
        }
        f.write_str(self.pre.as_deref().unwrap_or_default())
    }
}

/// The text is not a Python version such as `3.11`, `3.11.2` or `3.15.0rc1`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a Python version, so nothing can be looked up for it: write one such as 3.11 or 3.11.2"
)]
pub struct NotAVersion(String);

impl FromStr for Version {
    type Err = NotAVersion;

    /// Parses what [`fmt::Display`] writes. The `+` that marks a build from a working tree is accepted and dropped.
    fn from_str(text: &str) -> Result<Version, NotAVersion> {
        read(text.strip_suffix('+').unwrap_or(text)).ok_or_else(|| NotAVersion(text.to_owned()))
    }
}

fn read(text: &str) -> Option<Version> {
    let (major, rest) = text.split_once('.')?;
    let major = number(major)?;
    let Some((minor, rest)) = rest.split_once('.') else {
        return Some(Version::of_language(major, number(rest)?));
    };
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (micro, pre) = rest.split_at(end);
    if !(pre.is_empty() || is_release_level(pre)) {
        return None;
    }
    Some(Version {
        major,
        minor: number(minor)?,
        micro: Some(number(micro)?),
        pre: (!pre.is_empty()).then(|| pre.to_owned()),
    })
}

fn is_release_level(pre: &str) -> bool {
    ["a", "b", "rc", "c"].iter().any(|level| {
        pre.strip_prefix(level).is_some_and(|serial| {
            !serial.is_empty() && serial.bytes().all(|byte| byte.is_ascii_digit())
        })
    })
}

fn number(digits: &str) -> Option<u8> {
    // `parse` alone would accept a leading plus sign.
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::Version;

    fn version(text: &str) -> Version {
        text.parse().expect(text)
    }

    #[test]
    fn versions_are_written_the_way_they_are_read() {
        for text in ["3.11", "3.11.2", "3.15.0rc1", "3.14.0a7", "2.7.18"] {
            assert_eq!(version(text).to_string(), text);
        }
        assert_eq!(version("3.16.0a0+").to_string(), "3.16.0a0");
    }

    #[test]
    fn what_is_not_a_version_is_refused() {
        for text in [
            "", "3", "3.", ".11", "3.11.", "3.11.x", "3.300", "3.11.2rc", "+3.11", "3.11.2 ",
        ] {
            assert!(text.parse::<Version>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn versions_are_ordered_by_age_and_not_by_spelling() {
        let by_age = [
            "2.7.18",
            "3.9",
            "3.9.2",
            "3.11.0a9",
            "3.11.0a10",
            "3.11.0b1",
            "3.11.0rc1",
            "3.11.0",
            "3.11.10",
        ]
        .map(version);
        let mut shuffled = by_age.to_vec();
        shuffled.reverse();
        shuffled.sort();
        assert_eq!(shuffled, by_age);
    }

    #[test]
    fn the_version_number_of_the_c_headers_is_decoded() {
        assert_eq!(Version::from_hex(0x030d_0ff0), Some(version("3.13.15")));
        assert_eq!(Version::from_hex(0x030f_00c2), Some(version("3.15.0rc2")));
        assert_eq!(Version::from_hex(0xe900_6ef8), None);
    }
}
