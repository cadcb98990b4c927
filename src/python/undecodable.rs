//! Paths on which CPython's own function and line probes fail. Once these are armed, CPython up to 3.11 asks each code object
//! that runs for its file name as UTF-8, and forgets the exception when there is none: the program ends with SystemError,
//! whatever anybody filters. (Seen with 3.9.2 and 3.11.2; 3.15 clears it. Collections and audit events are harmless.)
//!
//! So pystap looks first, as far as /proc tells: the command line, the working directory, the variables that Python takes
//! paths from, what is mapped as code, and open files of Python's. What a program puts together later cannot be seen: a file
//! name that it gives to `compile()` itself, a directory that it comes to later, or a child's.
//!
//! What the plan does with it: it takes the agent for that interpreter, or refuses. What joins later is looked at when
//! the session finds it. SystemTap raises semaphores in every process that runs an image, so with that engine all of
//! these are looked at.
//!
//! What a launched command will inherit is looked at in the same way, with the encoding that Python will have there.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::version::Version;
use crate::probe::Probe;
use crate::shell;

/// The marks that fail: those that are passed the file name of a code object.
pub const MARKS: [&str; 3] =
    Probe::names([Probe::FunctionEntry, Probe::FunctionReturn, Probe::Line]);

/// Whether a probe, armed, fails on paths that are not UTF-8, in versions where any does.
pub(crate) fn fails(probe: Probe) -> bool {
    MARKS.contains(&probe.name())
}

/// The variables that module paths come from.
const VARIABLES: [&str; 7] = [
    "HOME",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONPYCACHEPREFIX",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "VIRTUAL_ENV",
];
/// Suffixes of files that contain modules.
const ENDINGS: [&[u8]; 6] = [b".py", b".pyc", b".pyo", b".zip", b".egg", b".whl"];
/// How many bytes of a /proc file are read; more than a usual process has.
const MOST: u64 = 8 << 20;
/// How many open files are examined.
const MOST_FILES: usize = 4096;
/// Most characters of a path in a message.
const LONGEST: usize = 80;

/// Whether the marks of this version fail on such paths.
pub fn is_affected(version: Option<&Version>) -> bool {
    version.is_none_or(|version| ((3, 0)..(3, 12)).contains(&(version.major, version.minor)))
}

/// Evidence of such a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// Where it was found, a noun.
    place: String,
    /// The path, quoted for a shell.
    path: String,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.place, self.path)
    }
}

impl Sign {
    fn new(place: impl Into<String>, path: &[u8]) -> Sign {
        let quoted = shell::word(OsStr::from_bytes(path));
        let mut path: String = quoted.chars().take(LONGEST).collect();
        if quoted.chars().count() > LONGEST {
            path.push('…');
        }
        Sign {
            place: place.into(),
            path,
        }
    }

    /// The first such path of a running process; `None` when none is visible.
    pub fn of_process(pid: u32, version: Option<&Version>) -> Option<Sign> {
        let read = |name: &str| {
            let mut bytes = Vec::new();
            let file = File::open(format!("/proc/{pid}/{name}"));
            // A file that may not be read, or is gone by now, shows nothing.
            let _ = file.and_then(|file| file.take(MOST).read_to_end(&mut bytes));
            bytes
        };
        let (arguments, environment) = (read("cmdline"), read("environ"));
        let arguments: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
        let environment: Vec<&[u8]> = environment.split(|byte| *byte == 0).collect();
        let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).ok();
        let fails = Fails::new(&environment, &arguments, version);
        fails
            .in_words(&arguments, &environment)
            .or_else(|| fails.on_path("its working directory", link("cwd")?.as_path()))
            .or_else(|| fails.on_path("its executable", link("exe")?.as_path()))
            .or_else(|| fails.in_maps(&read("maps")))
            .or_else(|| fails.in_files(Path::new(&format!("/proc/{pid}/fd"))))
    }

    /// The first such path of a command that will have this process's environment and working directory.
    pub fn of_command(command: &[OsString], version: Option<&Version>) -> Option<Sign> {
        let arguments: Vec<&[u8]> = command.iter().map(|word| word.as_bytes()).collect();
        let environment: Vec<Vec<u8>> = std::env::vars_os()
            .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
            .collect();
        let environment: Vec<&[u8]> = environment.iter().map(Vec::as_slice).collect();
        let fails = Fails::new(&environment, &arguments, version);
        fails
            .in_words(&arguments, &environment)
            .or_else(|| fails.on_path("its working directory", &std::env::current_dir().ok()?))
            // The result of the PATH lookup: a script is passed to its interpreter by that name.
            .or_else(|| fails.on_path("its program", &which::which(command.first()?).ok()?))
    }
}

/// Decides which paths Python cannot encode as UTF-8.
struct Fails {
    /// Whether file names are ASCII, so that anything else is kept as undecodable bytes.
    ascii: bool,
}

impl Fails {
    fn new(environment: &[&[u8]], arguments: &[&[u8]], version: Option<&Version>) -> Fails {
        let value = |name: &str| {
            environment
                .iter()
                .find_map(|it| it.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
                .filter(|value| !value.is_empty())
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(value);
        let named_utf8 = locale.is_some_and(|locale| {
            let locale = String::from_utf8_lossy(locale).to_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        // Since 3.7 Python uses UTF-8 where the locale is C, unless that is switched off (PEP 538 and 540). Other
        // locales have encodings of their own, in which non-ASCII bytes may be anything.
        let is_c = locale.is_none_or(|locale| [&b"C"[..], b"POSIX"].contains(&locale));
        let new = version.is_none_or(|version| (version.major, version.minor) >= (3, 7));
        let switched_off = value("PYTHONUTF8").is_some_and(|it| it == b"0")
            || arguments
                .iter()
                .any(|it| matches!(*it, b"utf8=0" | b"-Xutf8=0"));
        Fails {
            ascii: !named_utf8 && (switched_off || !new || !is_c),
        }
    }

    fn on(&self, bytes: &[u8]) -> bool {
        match self.ascii {
            true => !bytes.is_ascii(),
            false => std::str::from_utf8(bytes).is_err(),
        }
    }

    fn on_path(&self, place: &str, path: &Path) -> Option<Sign> {
        let bytes = path.as_os_str().as_bytes();
        self.on(bytes).then(|| Sign::new(place, bytes))
    }

    fn in_words(&self, arguments: &[&[u8]], environment: &[&[u8]]) -> Option<Sign> {
        let argument = arguments.iter().find(|word| self.on(word));
        if let Some(word) = argument {
            return Some(Sign::new("a word of its command line", word));
        }
        environment.iter().find_map(|variable| {
            let name = VARIABLES.into_iter().find(|name| {
                variable
                    .strip_prefix(name.as_bytes())
                    .is_some_and(|rest| rest.starts_with(b"="))
            })?;
            let value = variable.get(name.len() + 1..)?;
            self.on(value)
                .then(|| Sign::new(format!("its variable {name}"), value))
        })
    }

    /// Mapped code: extension modules are where other modules are.
    fn in_maps(&self, maps: &[u8]) -> Option<Sign> {
        maps.split(|byte| *byte == b'\n')
            .filter(|line| {
                line.get(..64)
                    .unwrap_or(line)
                    .windows(4)
                    .any(|it| it == b"r-xp")
            })
            .filter_map(|line| line.get(line.iter().position(|byte| *byte == b'/')?..))
            .find(|path| self.on(path))
            .map(|path| Sign::new("a library that it has mapped", path))
    }

    /// Open files, by their names.
    fn in_files(&self, directory: &Path) -> Option<Sign> {
        let entries = fs::read_dir(directory).ok()?.take(MOST_FILES);
        entries
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .find(|path| {
                let bytes = path.as_os_str().as_bytes();
                self.on(bytes) && ENDINGS.iter().any(|ending| bytes.ends_with(ending))
            })
            .map(|path| Sign::new("a file that it has open", path.as_os_str().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::python::waiting::Waiting;

    fn version(minor: u8) -> Version {
        Version::of_language(3, minor)
    }

    fn found(environment: &[&str], arguments: &[&[u8]], minor: u8) -> Option<String> {
        let environment: Vec<&[u8]> = environment.iter().map(|it| it.as_bytes()).collect();
        Fails::new(&environment, arguments, Some(&version(minor)))
            .in_words(arguments, &environment)
            .map(|sign| sign.to_string())
    }

    #[test]
    fn what_is_not_utf8_is_found_where_python_takes_paths_from() {
        assert_eq!(found(&[], &[b"python3", b"/srv/caf\xc3\xa9.py"], 11), None);
        let sign = found(&[], &[b"python3", b"/srv/caf\xe9.py"], 11);
        assert_eq!(
            sign.as_deref(),
            Some(r"a word of its command line ($'/srv/caf\351.py')")
        );
        // As surrogates would be encoded.
        assert!(found(&[], &[b"python3", b"\xed\xb3\xbf"], 11).is_some());
        let variables = |name: &str| {
            let variable = [name.as_bytes(), b"=/srv/\xff"].concat();
            let environment = [&variable[..]];
            Fails::new(&environment, &[], Some(&version(11))).in_words(&[], &environment)
        };
        assert!(variables("PYTHONPATH").is_some());
        assert!(variables("HOME").is_some());
        assert_eq!(variables("SECRET"), None);
    }

    /// What Python 3.6, 3.7 and 3.11 report for `sys.getfilesystemencoding()` in these environments.
    #[test]
    fn where_python_takes_names_for_ascii_any_other_sign_is_found() {
        let argument: &[&[u8]] = &[b"python3", b"\xc3\xa9.py"];
        for (environment, minor, fails) in [
            (&["LC_ALL=C"][..], 11, false),
            (&["LC_ALL=C", "PYTHONUTF8=0"], 11, true),
            (
                &["LANG=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0"],
                11,
                true,
            ),
            (&["LC_ALL=C.UTF-8", "PYTHONUTF8=0"], 11, false),
            (&[], 11, false),
            (&["LC_ALL=C"], 6, true),
            (&[], 6, true),
            (&["LC_ALL=", "LANG=de_DE.utf8"], 6, false),
            (&["LC_ALL=ja_JP.eucJP"], 11, true),
        ] {
            assert_eq!(
                found(environment, argument, minor).is_some(),
                fails,
                "{environment:?} {minor}"
            );
        }
    }

    #[test]
    fn mapped_code_and_open_modules_are_found_by_name() {
        let fails = Fails { ascii: false };
        let maps = b"7f00-7f01 r--p 00000000 08:01 12 /srv/\xff/data\n7f00-7f01 r-xp 00000000 08:01 12 /srv/\xfe/_x.so\n";
        let sign = fails.in_maps(maps).expect("a sign").to_string();
        assert!(sign.contains(r"/srv/\376/_x.so"), "{sign}");
        assert_eq!(
            fails.in_maps(b"7f00-7f01 r-xp 00000000 08:01 12 /srv/x.so\n"),
            None
        );
        let directory = tempfile::tempdir().expect("a directory");
        let link = |name: &str, to: &[u8]| {
            let to = OsString::from_vec(to.to_vec());
            std::os::unix::fs::symlink(to, directory.path().join(name)).expect("a link");
        };
        link("1", b"/srv/\xff/picture.jpg");
        assert_eq!(fails.in_files(directory.path()), None);
        link("2", b"/srv/\xff/module.py");
        assert!(fails.in_files(directory.path()).is_some());
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_process_in_such_a_directory_shows_it_and_another_does_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let inside = directory.path().join(OsStr::from_bytes(b"d\xff"));
        fs::create_dir(&inside).expect("made");
        let program = "print('ready', flush=True); input()";
        let mut command = std::process::Command::new("/usr/bin/python3.11");
        let process = Waiting::start(command.args(["-c", program]).current_dir(&inside));
        let sign = Sign::of_process(process.pid(), Some(&version(11))).expect("a sign");
        assert!(sign.to_string().contains("its working directory"), "{sign}");
        let mut command = std::process::Command::new("/usr/bin/python3.11");
        let process = Waiting::start(command.args(["-c", program]));
        assert_eq!(Sign::of_process(process.pid(), Some(&version(11))), None);
    }

    #[test]
    fn versions_that_clear_the_exception_are_not_affected() {
        for (minor, affected) in [(6, true), (11, true), (12, false), (15, false)] {
            assert_eq!(is_affected(Some(&version(minor))), affected, "{minor}");
        }
        assert!(!is_affected(Some(&Version::of_language(2, 7))));
    }
}
