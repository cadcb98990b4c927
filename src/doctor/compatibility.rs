//! Which stap can build modules for which kernel, and what a kernel's real version is. Tables and comparisons.
//!
//! The rows were collected from SystemTap's own history; two of the failures were observed (Debian 12 and 13). stap
//! itself only knows a range of versions that it was tested with, which stable kernels outrun while they backport the
//! very changes that break it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

use crate::host::Facts;

/// A version such as `6.1.170`: as many numbers as it has.
pub(super) type Numbers = Vec<u32>;

/// The numbers at the beginning of a version: `6.12.107+deb13` is 6, 12, 107.
pub(super) fn numbers(text: &str) -> Numbers {
    static NUMBERS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^[0-9]+(?:\.[0-9]+)*").expect("a constant pattern"));
    NUMBERS
        .find(text.trim())
        .map(|found| {
            found
                .as_str()
                .split('.')
                .filter_map(|number| number.parse().ok())
                .collect()
        })
        .unwrap_or_default()
}

/// The running kernel's real version, and where that was read. `uname -r` of Debian and Ubuntu names the interface and
/// withholds the stable release.
pub(super) fn true_version(facts: &Facts) -> Option<(String, String)> {
    static DEBIAN: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"Debian ([0-9]+\.[0-9]+(?:\.[0-9]+)?)").expect("a constant pattern")
    });
    let kernel = &facts.kernel;
    // `Ubuntu 5.15.0-122.132-generic 5.15.163`
    if let Some(last) = kernel
        .signature
        .value()
        .and_then(|text| text.split_whitespace().last())
        && numbers(last).len() >= 2
    {
        return Some((last.to_owned(), kernel.signature.from().to_owned()));
    }
    // The compiler, whose version names Debian too, precedes the build number.
    if let Some(found) = kernel
        .version
        .value()
        .and_then(|text| DEBIAN.captures(text.get(text.find('#')?..)?))
    {
        return Some((
            found.get(1)?.as_str().to_owned(),
            kernel.version.from().to_owned(),
        ));
    }
    let release = kernel.release.value()?;
    let plain = numbers(release);
    (plain.len() >= 2).then(|| {
        let text: Vec<String> = plain.iter().map(ToString::to_string).collect();
        (text.join("."), kernel.release.from().to_owned())
    })
}

/// A kernel change that a stap has to know.
pub(super) struct Change {
    /// Each stable series' first release with the change; the last entry also covers all later series.
    since: &'static [&'static [u32]],
    /// The first stap that knows the change.
    known_since: &'static [u32],
    /// What changed, for people.
    pub(super) what: &'static str,
}

const CHANGES: &[Change] = &[
    Change {
        since: &[&[6, 4]],
        known_since: &[5, 0],
        what: "the kernel's list of module symbols changed in 6.4",
    },
    Change {
        since: &[&[6, 5]],
        known_since: &[5, 0],
        what: "get_user_pages_remote changed in 6.5",
    },
    Change {
        since: &[&[6, 8]],
        known_since: &[5, 1],
        what: "strlcpy was removed in 6.8",
    },
    Change {
        // Backported to 6.1 and 6.6 as stable updates.
        since: &[&[6, 1, 103], &[6, 6, 44], &[6, 10, 3], &[6, 11]],
        known_since: &[5, 2],
        what: "task_work_cancel changed in 6.11 and in updates of 6.1 and 6.6",
    },
    Change {
        since: &[&[6, 12]],
        known_since: &[5, 2],
        what: "uprobe_register and uprobe_unregister changed in 6.12",
    },
    Change {
        since: &[&[6, 13]],
        known_since: &[5, 3],
        what: "uprobe consumers changed in 6.13",
    },
    Change {
        since: &[&[6, 15]],
        known_since: &[5, 3],
        what: "kbuild and timers changed in 6.15",
    },
    Change {
        since: &[&[6, 16]],
        known_since: &[5, 4],
        what: "the tracepoint of process exits changed in 6.16",
    },
    Change {
        since: &[&[6, 17]],
        known_since: &[5, 4],
        what: "relay buffers changed in 6.17",
    },
    Change {
        since: &[&[6, 18]],
        known_since: &[5, 4],
        what: "file system contexts changed in 6.18",
    },
    Change {
        since: &[&[7, 0]],
        known_since: &[5, 5],
        what: "lock_task_sighand changed in 7.0",
    },
    Change {
        since: &[&[7, 2]],
        known_since: &[5, 6],
        what: "the kernel changed again in 7.2",
    },
];

impl Change {
    fn is_in(&self, kernel: &[u32]) -> bool {
        let (last, series) = match self.since.split_last() {
            Some(parts) => parts,
            None => return false,
        };
        kernel >= last
            || series
                .iter()
                .any(|since| kernel.get(..2) == since.get(..2) && kernel >= since)
    }

    /// The first stap that knows the change, as text.
    pub(super) fn needs(&self) -> String {
        let parts: Vec<String> = self.known_since.iter().map(ToString::to_string).collect();
        parts.join(".")
    }
}

/// The change that this stap does not know yet and that needs the newest stap; `None` when none is known.
pub(super) fn too_old(stap: &str, kernel: &str) -> Option<&'static Change> {
    let (stap, kernel) = (numbers(stap), numbers(kernel));
    if stap.is_empty() || kernel.len() < 2 {
        return None;
    }
    CHANGES
        .iter()
        .filter(|change| change.is_in(&kernel) && stap.as_slice() < change.known_since)
        .max_by_key(|change| change.known_since)
}

/// Whether a kernel is in the range that a stap was tested with. The upper end is often a release candidate
/// (`6.12-rc`), which stands for that whole version but not for its stable updates.
pub(super) fn is_tested(range: &(String, String), kernel: &str) -> bool {
    let (oldest, newest) = (numbers(&range.0), numbers(&range.1));
    let kernel = numbers(kernel);
    let plain = |numbers: &[u32]| -> Numbers {
        // 6.1.0 and 6.1 are the same version.
        let mut numbers = numbers.to_vec();
        while numbers.len() > 2 && numbers.last() == Some(&0) {
            numbers.pop();
        }
        numbers
    };
    plain(&kernel).cmp(&plain(&oldest)) != Ordering::Less
        && plain(&kernel).cmp(&plain(&newest)) != Ordering::Greater
}

/// Those of `wanted` that a configuration does not have.
pub(super) fn not_set(config: &BTreeMap<String, String>, wanted: &[&str]) -> Vec<String> {
    wanted
        .iter()
        .filter(|option| {
            !config
                .get(**option)
                .is_some_and(|value| value == "y" || value == "m")
        })
        .map(|option| (*option).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::host;

    #[test]
    fn the_true_version_is_read_where_each_distribution_keeps_it() {
        for (name, version, from) in [
            ("debian-12", "6.1.170", "/proc/version"),
            ("debian-13", "6.12.107", "/proc/version"),
            ("ubuntu-22.04", "5.15.163", "/proc/version_signature"),
            ("fedora-43", "6.17.4", "/proc/sys/kernel/osrelease"),
        ] {
            let found = true_version(&host(name));
            assert_eq!(found, Some((version.to_owned(), from.to_owned())), "{name}");
        }
    }

    #[test]
    fn the_combinations_that_were_seen_to_fail_are_known_to() {
        assert!(too_old("4.8", "6.1.170").is_some_and(|change| change.needs() == "5.2"));
        assert!(too_old("5.1", "6.12.107").is_some_and(|change| change.needs() == "5.2"));
        assert!(too_old("5.0", "6.6.85").is_some());
        assert!(too_old("4.8", "7.2.12").is_some_and(|change| change.needs() == "5.6"));
    }

    #[test]
    fn a_kernel_from_before_the_change_and_a_stap_from_after_it_are_fine() {
        for (stap, kernel) in [
            ("4.8", "6.1.90"),
            ("4.6", "5.15.163"),
            ("5.6", "7.2.12"),
            ("5.2", "6.12.107"),
            ("4.9", "4.18.0"),
        ] {
            assert!(too_old(stap, kernel).is_none(), "{stap} {kernel}");
        }
        // What cannot be compared is no reason to refuse.
        assert!(too_old("unknown", "6.12").is_none());
        assert!(too_old("4.8", "custom").is_none());
    }

    #[test]
    fn the_end_of_the_tested_range_means_that_version_and_not_its_updates() {
        let range = |oldest: &str, newest: &str| (oldest.to_owned(), newest.to_owned());
        assert!(is_tested(&range("2.6.32", "6.1.0-rc3"), "6.1.0"));
        assert!(!is_tested(&range("2.6.32", "6.1.0-rc3"), "6.1.170"));
        assert!(!is_tested(&range("3.10", "6.12-rc"), "6.12.107"));
        assert!(is_tested(&range("3.10", "7.3.0-rc3"), "7.2.12"));
        assert!(!is_tested(&range("3.10", "7.3.0-rc3"), "2.6.39"));
    }
}
