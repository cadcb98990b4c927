//! The switches by which a process was told to let no debugger in while it runs (PEP 768), as far as it shows them.

use std::fmt;

use super::process::beginning;

/// What was set to switch remote debugging off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RemoteDebugSwitch {
    /// `-X disable-remote-debug`.
    Option,
    /// `-X disable_remote_debug`, as CPython's own how-to spells it and no interpreter that was tried (3.14.8, 3.15.0)
    /// understands.
    Misspelt,
    /// `PYTHON_DISABLE_REMOTE_DEBUG`.
    Variable,
}

impl RemoteDebugSwitch {
    /// The switch that a process shows; one that works before one that may not.
    pub(crate) fn of_process(pid: u32) -> Option<RemoteDebugSwitch> {
        RemoteDebugSwitch::of(&beginning(pid, "cmdline"), &beginning(pid, "environ"))
    }

    /// The same, with its arguments and its environment, each ended by a NUL.
    fn of(arguments: &[u8], environment: &[u8]) -> Option<RemoteDebugSwitch> {
        let words = |bytes| <[u8]>::split(bytes, |byte: &u8| *byte == 0);
        let options = options(arguments);
        // With any value behind it.
        let option = |name: &[u8]| {
            let mut names = options
                .iter()
                .map(|it| it.split(|byte| *byte == b'=').next());
            names.any(|it| it == Some(name))
        };
        if option(b"disable-remote-debug") {
            return Some(RemoteDebugSwitch::Option);
        }
        // Any value does it, 0 and none as well.
        let variable = |word: &[u8]| word.starts_with(b"PYTHON_DISABLE_REMOTE_DEBUG=");
        if words(environment).any(variable) {
            return Some(RemoteDebugSwitch::Variable);
        }
        option(b"disable_remote_debug").then_some(RemoteDebugSwitch::Misspelt)
    }
}

/// The words of the options -X before what is to be run: `-X NAME`, `-XNAME`, and behind the letters of other options, as
/// `-BXNAME`.
fn options(arguments: &[u8]) -> Vec<&[u8]> {
    let mut words = arguments.split(|byte| *byte == 0).skip(1);
    let mut options = Vec::new();
    while let Some(letters) = words.next().and_then(|word| word.strip_prefix(b"-")) {
        if letters == b"-check-hash-based-pycs" {
            words.next();
        }
        if letters.starts_with(b"-") {
            continue;
        }
        for (at, letter) in letters.iter().enumerate() {
            let rest = letters.get(at + 1..).unwrap_or_default();
            match letter {
                b'c' | b'm' => return options,
                b'W' | b'X' => {
                    let word = match rest.is_empty() {
                        true => words.next(),
                        false => Some(rest),
                    };
                    options.extend(word.filter(|_| *letter == b'X'));
                    break;
                }
                _ => {}
            }
        }
    }
    options
}

impl fmt::Display for RemoteDebugSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RemoteDebugSwitch::Option => "-X disable-remote-debug",
            RemoteDebugSwitch::Misspelt => "-X disable_remote_debug",
            RemoteDebugSwitch::Variable => "PYTHON_DISABLE_REMOTE_DEBUG",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_the_option_are_known_and_told_apart() {
        let of = |arguments: &[u8]| RemoteDebugSwitch::of(arguments, b"A=1\0");
        let works = Some(RemoteDebugSwitch::Option);
        assert_eq!(of(b"python3\0-X\0disable-remote-debug\0a.py\0"), works);
        assert_eq!(of(b"python3\0-BXdisable-remote-debug\0a.py\0"), works);
        let ignored = Some(RemoteDebugSwitch::Misspelt);
        assert_eq!(of(b"python3\0-X\0disable_remote_debug\0a.py\0"), ignored);
        assert_eq!(
            of(b"python3\0-Xdisable_remote_debug\0-Xdisable-remote-debug\0"),
            works
        );
        assert_eq!(of(b"python3\0-X\0disable-remote-debug=0\0"), works);
        assert_eq!(of(b"python3\0-X\0disable_remote_debug=1\0"), ignored);
        assert_eq!(of(b"python3\0a.py\0"), None);
        assert_eq!(of(b"python3\0a.py\0-X\0disable_remote_debug\0"), None);
        assert_eq!(of(b"python3\0-m\0a\0-Xdisable-remote-debug\0"), None);
        assert_eq!(
            of(b"python3\0-W\0error\0-uX\0disable-remote-debug\0"),
            works
        );
        assert_eq!(of(b""), None);
    }

    #[test]
    fn a_variable_switches_it_off_with_any_value_and_before_an_option_that_is_ignored() {
        let of = |environment: &[u8]| {
            RemoteDebugSwitch::of(b"python3\0-Xdisable_remote_debug\0", environment)
        };
        for environment in [
            "PYTHON_DISABLE_REMOTE_DEBUG=0\0",
            "A=1\0PYTHON_DISABLE_REMOTE_DEBUG=\0",
        ] {
            let found = of(environment.as_bytes());
            assert_eq!(found, Some(RemoteDebugSwitch::Variable), "{environment:?}");
        }
        assert_eq!(of(b"A=1\0"), Some(RemoteDebugSwitch::Misspelt));
    }
}
