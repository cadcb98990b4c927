//! The directory of a recording in parts: one file after the other, of which the latest are kept, and those in which a slow call
//! ran. Knows names, times and sizes, and nothing of what is in a part.
//!
//! ```text
//! 20261129T140700Z-000001.pystap    the first part of the recording that began then
//! 20261129T140700Z-000002.pystap    the next one; each can be read by itself
//! index.jsonl                       a line per finished part: when it began and ended, what is in it
//! lock                              held by who records into it
//! ```
//!
//! A part without a line in the index is being written, or its end was cut; the next recording into the directory adds a line for
//! it, so that such a part is counted as all others are.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, flock, openat, statat, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::files::reading;
use crate::files::writing::{self, Draft};
use crate::script::filter::Glob;

const INDEX: &str = "index.jsonl";
const LOCK: &str = "lock";
const SUFFIX: &str = ".pystap";
/// Digits of a part's number.
const DIGITS: usize = 6;
/// Longest index that is read: some 100 000 parts.
const MOST_INDEX: u64 = 16 << 20;

/// When one part ends, and how many are kept.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    /// How long, or how large, a part becomes.
    pub(crate) every: Every,
    /// Parts that are kept, the one that is written among them; and as many again in which a slow call ran.
    pub(crate) keep: usize,
    /// Which calls are slow.
    pub(crate) slow: Vec<OnSlow>,
}

/// How far a part goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Every {
    /// Until it has so many bytes.
    Bytes(u64),
    /// So long.
    Time(Duration),
}

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Every, String> {
        let wrong = || {
            "it is neither a time nor a size; write, for example, 10m, 1h, 100MB or 1GB".to_owned()
        };
        let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
        let unit = match text.get(digits.len()..).unwrap_or_default() {
            "kB" => Some(1_000),
            "MB" => Some(1_000_000),
            "GB" => Some(1_000_000_000),
            _ => None,
        };
        let every = match unit {
            Some(unit) => {
                let number: u64 = digits.parse().map_err(|_| wrong())?;
                Every::Bytes(number.checked_mul(unit).ok_or_else(wrong)?)
            }
            None => Every::Time(humantime::parse_duration(text).map_err(|_| wrong())?),
        };
        match every {
            Every::Bytes(bytes) if bytes < 1_000_000 => Err(
                "a part has 1MB at least, or there would be more files than anybody reads"
                    .to_owned(),
            ),
            Every::Time(time) if time < Duration::from_secs(1) => Err(
                "a part takes 1s at least, or there would be more files than anybody reads"
                    .to_owned(),
            ),
            every => Ok(every),
        }
    }
}

/// Calls that are slow: of these functions, and no faster than that.
#[derive(Debug, Clone)]
pub struct OnSlow {
    /// NAME or FILE:NAME.
    pub function: Glob,
    /// Nanoseconds that they take at least.
    pub ns: u64,
}

impl FromStr for OnSlow {
    type Err = String;

    fn from_str(text: &str) -> Result<OnSlow, String> {
        let wrong = || "it is no function and time; write, for example, 'spawn>2s'".to_owned();
        let (function, time) = text.rsplit_once('>').ok_or_else(wrong)?;
        let time = humantime::parse_duration(time.trim()).map_err(|_| wrong())?;
        Ok(OnSlow {
            function: Glob::new(function.trim()).map_err(|error| error.to_string())?,
            ns: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
        })
    }
}

/// A part that is finished: a line of the index. Times are nanoseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) file: String,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) events: u64,
    pub(crate) lost: u64,
    pub(crate) bytes: u64,
    /// Slow calls that ran in it, or after it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) slow: u64,
    /// Whether its end is missing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) cut: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(it: &bool) -> bool {
    !it
}

/// Why nothing can be recorded into a directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartsError {
    #[error("it is no directory, and parts are files of one; name another one with --output")]
    NoDirectory,
    #[error("another pystap records into it; name another one with --output")]
    Busy,
    #[error("{0}; choose a writable directory with --output")]
    Io(io::Error),
}

impl From<io::Error> for PartsError {
    fn from(error: io::Error) -> PartsError {
        match error.kind() {
            io::ErrorKind::NotADirectory => PartsError::NoDirectory,
            _ => PartsError::Io(error),
        }
    }
}

impl From<Errno> for PartsError {
    fn from(error: Errno) -> PartsError {
        io::Error::from(error).into()
    }
}

/// The directory that is recorded into, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Parts {
    path: PathBuf,
    directory: OwnedFd,
    /// Held while it is open.
    _lock: OwnedFd,
    /// What the names of this recording begin with.
    session: String,
    number: u32,
    /// Finished ones, the oldest first.
    finished: Vec<Part>,
    keep: usize,
    /// Whether it was made for this recording.
    is_new: bool,
}

impl Parts {
    /// A directory for `keep` parts, made if it is not there, for a recording that begins now.
    ///
    /// # Errors
    /// [`PartsError`] when it cannot be used.
    pub(crate) fn open(path: &Path, keep: usize) -> Result<Parts, PartsError> {
        let is_new = writing::make_directory(path)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = openat(CWD, path, flags, Mode::empty())?;
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = openat(&directory, LOCK, flags, Mode::RUSR | Mode::WUSR)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(PartsError::Busy),
            Err(error) => return Err(error.into()),
        }
        let mut finished = indexed(path)?;
        let there = named_like_parts(&directory)?;
        finished.retain(|part| there.binary_search(&part.file).is_ok());
        for file in &there {
            if !finished.iter().any(|part| part.file == *file) {
                finished.push(unfinished(&directory, file)?);
            }
        }
        finished.sort_by(|one, other| one.file.cmp(&other.file));
        let mut begin = clock::now();
        let session = loop {
            let session = session_name(begin);
            if !there.iter().any(|file| file.starts_with(&session)) {
                break session;
            }
            // One that ended in the same second.
            begin += 1_000_000_000;
        };
        Ok(Parts {
            path: path.to_owned(),
            directory,
            _lock: lock,
            session,
            number: 0,
            finished,
            keep,
            is_new,
        })
    }

    /// Whether a directory can be used, of which nothing is left if it was not there.
    ///
    /// # Errors
    /// Those of [`Parts::open`].
    pub(crate) fn check(path: &Path, keep: usize) -> Result<(), PartsError> {
        let parts = Parts::open(path, keep)?;
        if parts.is_new {
            unlinkat(&parts.directory, LOCK, AtFlags::empty())?;
            unlinkat(CWD, path, AtFlags::REMOVEDIR)?;
        }
        Ok(())
    }

    /// Begins the next part, for which room is made: its name, and its path.
    ///
    /// # Errors
    /// Those of [`Parts::finish`].
    pub(crate) fn begin(&mut self) -> io::Result<(String, PathBuf)> {
        if self.let_go(false, self.keep.saturating_sub(1))? {
            self.write_index()?;
        }
        self.number += 1;
        let name = format!("{}-{:0DIGITS$}{SUFFIX}", self.session, self.number);
        let path = self.path.join(&name);
        Ok((name, path))
    }

    /// Takes note of a part that is finished, and lets go of those that are too many.
    ///
    /// # Errors
    /// The system's, when the index cannot be written or a part not be removed.
    pub(crate) fn finish(&mut self, part: Part) -> io::Result<()> {
        self.finished.push(part);
        for slow in [false, true] {
            self.let_go(slow, self.keep)?;
        }
        self.write_index()
    }

    /// Keeps the parts from this time on, and the one before it, for a slow call that began then.
    pub(crate) fn keep_since(&mut self, begin: u64) {
        let first = self.finished.partition_point(|part| part.end < begin);
        for part in self.finished.iter_mut().skip(first.saturating_sub(1)) {
            part.slow += 1;
        }
    }

    /// Removes the oldest of those with slow calls, or without, until few enough are left; says whether there were too many.
    fn let_go(&mut self, slow: bool, most: usize) -> io::Result<bool> {
        let are = self.finished.iter().filter(|part| (part.slow > 0) == slow);
        let mut surplus = are.count().saturating_sub(most);
        let are_too_many = surplus > 0;
        let mut at = 0;
        while surplus > 0
            && let Some(part) = self.finished.get(at)
        {
            if (part.slow > 0) != slow {
                at += 1;
                continue;
            }
            match unlinkat(&self.directory, &part.file, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            self.finished.remove(at);
            surplus -= 1;
        }
        Ok(are_too_many)
    }

    fn write_index(&self) -> io::Result<()> {
        let mut text = Vec::new();
        for part in &self.finished {
            serde_json::to_writer(&mut text, part)?;
            text.push(b'\n');
        }
        let draft = Draft::new(&self.path.join(INDEX), Mode::RUSR | Mode::WUSR)?;
        let no_file = || io::Error::other("something else is in the place of its index");
        let mut draft = draft.ok_or_else(no_file)?;
        draft.write_all(&text)?;
        draft.put()
    }
}

/// What the names of parts begin with, of a recording that began then.
fn session_name(begin: u64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_nanos(begin);
    let time = humantime::format_rfc3339_seconds(time).to_string();
    time.replace(['-', ':'], "")
}

/// The recording and the number that a name tells.
fn named(file: &str) -> Option<(&str, u32)> {
    let (session, number) = file.strip_suffix(SUFFIX)?.rsplit_once('-')?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (date, time) = session.strip_suffix('Z')?.split_once('T')?;
    let is_ours = date.len() == 8 && time.len() == 6 && is_number(date) && is_number(time);
    let is_ours = is_ours && number.len() >= DIGITS && is_number(number);
    Some((session, number.parse().ok()?)).filter(|_| is_ours)
}

/// The lines of the index that make sense.
fn indexed(directory: &Path) -> io::Result<Vec<Part>> {
    let text = match reading::read(&directory.join(INDEX), MOST_INDEX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let lines = text.split(|byte| *byte == b'\n');
    let parts = lines.filter_map(|line| serde_json::from_slice::<Part>(line).ok());
    Ok(parts.filter(|part| named(&part.file).is_some()).collect())
}

/// The files of a directory that are called as parts are, in order.
fn named_like_parts(directory: &OwnedFd) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_str().unwrap_or_default();
        if named(name).is_some() {
            files.push(name.to_owned());
        }
    }
    files.sort();
    Ok(files)
}

/// A part that is not in the index: whoever wrote it was ended before.
fn unfinished(directory: &OwnedFd, file: &str) -> io::Result<Part> {
    let stat = statat(directory, file, AtFlags::SYMLINK_NOFOLLOW)?;
    let end = u64::try_from(stat.st_mtime).unwrap_or(0) * 1_000_000_000;
    Ok(Part {
        file: file.to_owned(),
        begin: end,
        end,
        events: 0,
        lost: 0,
        bytes: u64::try_from(stat.st_size).unwrap_or(0),
        slow: 0,
        cut: true,
    })
}

/// What a directory of parts has to show: the latest parts without one missing between them.
#[derive(Debug)]
pub(crate) struct Latest {
    /// Their paths, in order.
    pub(crate) files: Vec<PathBuf>,
    /// Parts before these.
    pub(crate) older: usize,
}

/// The latest parts of a directory.
///
/// # Errors
/// The system's; [`io::ErrorKind::NotFound`] where there are none.
pub(crate) fn latest(path: &Path) -> io::Result<Latest> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty())?;
    let files = named_like_parts(&directory)?;
    let numbers: Vec<(&str, u32)> = files.iter().filter_map(|file| named(file)).collect();
    let follows = |pair: &[(&str, u32)]| match pair {
        [(session, one), (later, other)] => session == later && one.checked_add(1) == Some(*other),
        _ => true,
    };
    let gap = numbers.windows(2).rposition(|pair| !follows(pair));
    let older = gap.map_or(0, |at| at + 1);
    let files: Vec<PathBuf> = files
        .iter()
        .skip(older)
        .map(|it| path.join(OsStr::new(it)))
        .collect();
    match files.is_empty() {
        true => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "there is no part of a recording in this directory",
        )),
        false => Ok(Latest { files, older }),
    }
}
