//! The only writer to stderr: one-line messages prefixed by a severity, coloured if wanted, a spinner on terminals; and
//! the table of exit codes. Data never goes through here, and nothing here decides what is said.
//!
//! A stderr that is closed, full or unread is no reason to stop or to wait. Failed writes are ignored; what cannot be
//! written at the moment is kept, up to a limit, and passed on by a thread as soon as someone reads; messages dropped
//! beyond the limit are counted, and the count is reported then.

mod progress;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use rustix::event::Timespec;

pub use self::progress::Progress;
use crate::files::Stream;
use crate::text::{harmless_but_coloured, harmless_code};

/// How pystap ends, and the exit code that a shell sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Exit {
    /// Everything that was asked for was done.
    Done,
    /// Something failed while running.
    Failed,
    /// The command line cannot be parsed or contradicts itself.
    Usage,
    /// The host or the interpreter lacks something.
    Unready,
    /// There is no such process, or it is not Python.
    NoTarget,
}

impl Exit {
    /// Every exit code, in ascending order, for the manual.
    pub const ALL: [Exit; 5] = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::Unready,
        Exit::NoTarget,
    ];

    /// The exit with that code, as errors of other modules have it; [`Exit::Failed`] for any other.
    pub fn of(code: u8) -> Exit {
        Exit::ALL
            .into_iter()
            .find(|exit| exit.code() == code)
            .unwrap_or(Exit::Failed)
    }

    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unready => 3,
            Exit::NoTarget => 4,
        }
    }

    /// One sentence for the manual.
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Done => "Done; a stop by Ctrl-C or by --duration counts as done.",
            Exit::Failed => "Failed while running.",
            Exit::Usage => "The command line is wrong.",
            Exit::Unready => "The host or the interpreter lacks something that is needed.",
            Exit::NoTarget => "There is no such process, or it is not a Python process.",
        }
    }
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> u8 {
        exit.code()
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// How much is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Verbosity {
    /// Errors only (`--quiet`).
    Quiet,
    /// Errors, warnings, and what a user should know.
    #[default]
    Normal,
    /// Also what was decided and why (`--verbose`).
    Verbose,
}

/// When messages are coloured (`--color`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` is set; always when `CLICOLOR_FORCE` is.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where messages go. Cheap to clone; clones write to the same place, one message at a time.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
    /// Nothing comes and goes.
    steady: bool,
}

struct Shared {
    verbosity: Verbosity,
    terminal: bool,
    colour: bool,
    state: Mutex<State>,
    /// Signalled when no text is waiting to be written any more.
    written: Condvar,
}

/// How many messages are kept while something covers the terminal; the oldest are dropped first.
const KEPT: usize = 200;

/// How many unread bytes are kept. Messages beyond that are dropped.
const WAITING: usize = 64 * 1024;

/// How long to wait at exit for someone to read the last messages.
const AT_THE_END: Duration = Duration::from_millis(500);

/// Where the text goes.
enum Out {
    /// Nothing is written that cannot be written at once.
    Stream(Arc<Stream>),
    /// Accepts everything, or fails.
    Writer(Box<dyn Write + Send>),
}

struct State {
    out: Out,
    /// Text that has not been written yet; how many messages were dropped for lack of room follows.
    waiting: Vec<u8>,
    left_out: u64,
    /// Whether a thread is about to write the waiting text.
    handing_on: bool,
    /// While something covers the terminal: messages that could not be written there, and the last one that has not
    /// been asked for yet.
    covered: Option<Covered>,
    /// What the spinner shows now; it is erased before a message and restored after it.
    spinner: Option<String>,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("verbosity", &self.shared.verbosity)
            .field("terminal", &self.shared.terminal)
            .finish_non_exhaustive()
    }
}

impl Console {
    /// A console on stderr. Reads the environment variables that concern colour, and checks whether stderr is a
    /// terminal.
    pub fn stderr(verbosity: Verbosity, color: ColorWhen) -> Console {
        let stream = io::stderr();
        let choice = match color {
            ColorWhen::Auto => anstream::AutoStream::choice(&stream),
            ColorWhen::Always => anstream::ColorChoice::Always,
            ColorWhen::Never => anstream::ColorChoice::Never,
        };
        let terminal =
            stream.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let colour = match choice {
            anstream::ColorChoice::Auto => terminal,
            choice => choice != anstream::ColorChoice::Never,
        };
        // A stderr that does not even exist accepts nothing.
        let out = match Stream::shared(stream.as_fd()) {
            Ok(stream) => Out::Stream(Arc::new(stream)),
            Err(_) => Out::Writer(Box::new(io::sink())),
        };
        Console::new(out, terminal, colour, verbosity)
    }

    /// A console on any writer. Messages are written with colour codes: a writer that wants none strips them (as
    /// `anstream` does). `terminal` says whether a line can be overwritten, which the spinner needs.
    pub fn to_writer(out: Box<dyn Write + Send>, terminal: bool, verbosity: Verbosity) -> Console {
        Console::new(Out::Writer(out), terminal, true, verbosity)
    }

    fn new(out: Out, terminal: bool, colour: bool, verbosity: Verbosity) -> Console {
        Console {
            shared: Arc::new(Shared {
                verbosity,
                terminal,
                colour,
                state: Mutex::new(State {
                    out,
                    waiting: Vec::new(),
                    left_out: 0,
                    handing_on: false,
                    covered: None,
                    spinner: None,
                }),
                written: Condvar::new(),
            }),
            steady: false,
        }
    }

    /// The last chance for unread messages: waits for a reader, but not for long.
    pub fn finish(&self) {
        let state = self.state();
        let waits = |state: &mut State| !state.waiting.is_empty();
        let waited = self
            .shared
            .written
            .wait_timeout_while(state, AT_THE_END, waits);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// How much is reported.
    pub fn verbosity(&self) -> Verbosity {
        self.shared.verbosity
    }

    /// Reports that something failed. Always shown.
    pub fn error(&self, message: impl fmt::Display) {
        self.say("error: ", AnsiColor::Red.on_default().bold(), &message);
    }

    /// Reports that something is missing or was lost. Not shown when quiet.
    pub fn warning(&self, message: impl fmt::Display) {
        if self.shared.verbosity >= Verbosity::Normal {
            self.say("warning: ", AnsiColor::Yellow.on_default().bold(), &message);
        }
    }

    /// Reports something a user should know. Not shown when quiet.
    pub fn note(&self, message: impl fmt::Display) {
        if self.shared.verbosity >= Verbosity::Normal {
            self.say("", Style::new(), &message);
        }
    }

    /// Reports what was decided and why. Shown when verbose.
    pub fn detail(&self, message: impl fmt::Display) {
        if self.shared.verbosity >= Verbosity::Verbose {
            self.say("", Style::new().dimmed(), &message);
        }
    }

    /// Writes several lines of text without a prefix: an excerpt that belongs to the preceding message. Control
    /// characters other than newlines and tabs are escaped. Not shown when quiet.
    pub fn excerpt(&self, text: &str) {
        if self.shared.verbosity >= Verbosity::Normal {
            let mut shown = String::with_capacity(text.len() + 1);
            for line in text.lines() {
                shown.push_str("    ");
                shown.push_str(&harmless_code(line));
                shown.push('\n');
            }
            self.write(&shown, None);
        }
    }

    /// Writes a message of the command-line parser, with its own lines and colours.
    pub fn usage(&self, text: &str) {
        self.write(&harmless_but_coloured(text), None);
    }

    /// Reports that something takes a while, for example "compiling the probe script". On a terminal the line shows the
    /// elapsed seconds and disappears when the returned value is dropped; elsewhere it is a plain message, once.
    pub fn spinner(&self, activity: &str) -> Spinner {
        if self.shared.verbosity == Verbosity::Quiet {
            return Spinner(None);
        }
        if !self.shared.terminal {
            self.note(format_args!("{activity} …"));
            return Spinner(None);
        }
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (console, stopped) = (self.clone(), Arc::clone(&stop));
        let activity = one_line(&activity);
        let thread = std::thread::Builder::new()
            .name("spinner".to_owned())
            .spawn(move || console.spin(&activity, &stopped));
        match thread {
            Ok(thread) => Spinner(Some(Turning { stop, thread })),
            // No thread is available: say it once instead.
            Err(_) => Spinner(None),
        }
    }

    /// Declares the terminal covered from now on, because a message would be written across a table: messages are
    /// passed to whatever covers it, and are written when the returned value is dropped. A stderr that is not a
    /// terminal still gets them at once.
    pub fn cover(&self) -> Cover {
        self.state().covered = Some(Covered::default());
        Cover(self.clone())
    }

    /// The spinner's thread: shows the seconds until it is told to stop.
    fn spin(&self, activity: &str, stop: &(Mutex<bool>, Condvar)) {
        let begun = Instant::now();
        let (flag, wake) = stop;
        let mut stopped = lock(flag);
        while !*stopped {
            let line = format!("pystap: {activity} … {} s", begun.elapsed().as_secs());
            self.set_line(Some(line));
            stopped = wake
                .wait_timeout(stopped, Duration::from_secs(1))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        self.set_line(None);
    }

    /// Replaces the line that comes and goes.
    fn set_line(&self, line: Option<String>) {
        let mut state = self.state();
        state.hide();
        state.spinner = line;
        state.show();
        self.hand_on(&mut state);
    }

    fn say(&self, severity: &str, style: Style, message: &dyn fmt::Display) {
        let text = one_line(message);
        let line = match severity {
            "" => format!("pystap: {style}{text}{style:#}\n"),
            _ => format!("pystap: {style}{severity}{style:#}{text}\n"),
        };
        self.write(&line, Some(format!("{severity}{text}")));
    }

    /// Writes text, and passes the message to whatever covers the terminal.
    fn write(&self, text: &str, says: Option<String>) {
        let mut state = self.state();
        if let Some(covered) = &mut state.covered {
            covered.latest = says.or_else(|| covered.latest.take());
            if self.shared.terminal {
                covered.kept.push_back(text.to_owned());
                if covered.kept.len() > KEPT {
                    covered.kept.pop_front();
                }
                return;
            }
        }
        state.hide();
        match self.shared.colour {
            true => state.put(text),
            false => state.put(&anstream::adapter::strip_str(text).to_string()),
        }
        state.show();
        self.hand_on(&mut state);
    }

    /// Starts the thread that writes the waiting text, if there is any and no such thread runs yet.
    fn hand_on(&self, state: &mut State) {
        let Out::Stream(stream) = &state.out else {
            return;
        };
        if state.waiting.is_empty() || state.handing_on {
            return;
        }
        let (console, stream) = (self.clone(), Arc::clone(stream));
        // The thread is never joined: at the end of the process it simply ends.
        let thread = std::thread::Builder::new()
            .name("messages".to_owned())
            .spawn(move || console.keep_handing_on(&stream));
        state.handing_on = thread.is_ok();
    }

    fn keep_handing_on(&self, stream: &Stream) {
        const LOOK: Timespec = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        loop {
            let ready = stream.wait(&LOOK).unwrap_or(true);
            let mut state = self.state();
            let before = state.waiting.len();
            state.write_waiting();
            if state.waiting.is_empty() {
                state.handing_on = false;
                self.shared.written.notify_all();
                return;
            }
            let stuck = ready && state.waiting.len() == before;
            drop(state);
            if stuck {
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }
}

impl State {
    /// Writes a message, or keeps the part that cannot be written yet. There is no one to tell about a failed write.
    fn put(&mut self, text: &str) {
        let idle = self.waiting.is_empty();
        if !idle && self.waiting.len() + text.len() > WAITING {
            self.left_out += 1;
            return;
        }
        self.waiting.extend_from_slice(text.as_bytes());
        if idle {
            self.write_waiting();
        }
    }

    /// Writes as much of the waiting text as possible.
    fn write_waiting(&mut self) {
        loop {
            let written = match &mut self.out {
                Out::Stream(stream) => stream.write(&self.waiting),
                Out::Writer(out) => out
                    .write_all(&self.waiting)
                    .and_then(|()| out.flush())
                    .map(|()| self.waiting.len()),
            };
            match written {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.waiting.clear();
                    self.left_out = 0;
                }
            }
            if !self.waiting.is_empty() {
                continue;
            }
            let left_out = std::mem::take(&mut self.left_out);
            if left_out == 0 {
                return;
            }
            let text = format!(
                "pystap: warning: {} left out, because nobody read standard error\n",
                match left_out {
                    1 => "one message was".to_owned(),
                    many => format!("{many} messages were"),
                }
            );
            self.waiting.extend_from_slice(text.as_bytes());
        }
    }

    /// Overwrites the spinner with blanks, because without colour there are no codes to erase a line either. On a
    /// terminal that accepts nothing, spinners are not queued.
    fn hide(&mut self) {
        if let Some(line) = &self.spinner
            && self.waiting.is_empty()
        {
            let blanks = " ".repeat(line.chars().count());
            self.put(&format!("\r{blanks}\r"));
        }
    }

    fn show(&mut self) {
        if let Some(line) = self.spinner.take() {
            if self.waiting.is_empty() {
                self.put(&line);
            }
            self.spinner = Some(line);
        }
    }
}

#[derive(Debug, Default)]
struct Covered {
    kept: VecDeque<String>,
    latest: Option<String>,
}

/// Something that paints the whole terminal covers it; see [`Console::cover`]. Ends when dropped.
#[derive(Debug)]
#[must_use = "messages are written across what covers the terminal when this is dropped"]
pub struct Cover(Console);

impl Cover {
    /// The last message since the previous call, for whatever covers the terminal to show.
    pub fn latest(&self) -> Option<String> {
        self.0.state().covered.as_mut()?.latest.take()
    }
}

impl Drop for Cover {
    /// Writes the messages that could not be written in the meantime.
    fn drop(&mut self) {
        let mut state = self.0.state();
        for text in state.covered.take().unwrap_or_default().kept {
            match self.0.shared.colour {
                true => state.put(&text),
                false => state.put(&anstream::adapter::strip_str(&text).to_string()),
            }
        }
        self.0.hand_on(&mut state);
    }
}

/// Something that takes a while; see [`Console::spinner`]. Ends when dropped.
#[derive(Debug)]
#[must_use = "the spinner ends when this is dropped"]
pub struct Spinner(Option<Turning>);

#[derive(Debug)]
struct Turning {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: JoinHandle<()>,
}

impl Drop for Spinner {
    fn drop(&mut self) {
        let Some(Turning { stop, thread }) = self.0.take() else {
            return;
        };
        let (flag, wake) = &*stop;
        *lock(flag) = true;
        wake.notify_all();
        // The thread ends by itself; if it panicked, that has already been shown.
        let _ = thread.join();
    }
}

/// Takes a lock even if a panic elsewhere poisoned it: a message must still come out then.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The message on one line, safe for a terminal: names in it can come from a traced process.
fn one_line(message: &dyn fmt::Display) -> String {
    let text = message.to_string();
    let mut line = String::with_capacity(text.len());
    for (index, part) in text.trim_end().lines().enumerate() {
        if index > 0 {
            line.push_str("; ");
        }
        line.push_str(&harmless_code(part.trim()));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer whose text can be read back.
    #[derive(Clone, Default)]
    pub(super) struct Memory(Arc<(Mutex<Vec<u8>>, Condvar)>);

    impl Memory {
        pub(super) fn text(&self) -> String {
            String::from_utf8_lossy(&lock(&self.0.0)).into_owned()
        }

        /// Waits, up to a limit, until `wanted` was written.
        pub(super) fn wait_for(&self, wanted: &str) -> bool {
            let (bytes, written) = &*self.0;
            let (bytes, _) = written
                .wait_timeout_while(lock(bytes), Duration::from_secs(20), |bytes| {
                    !String::from_utf8_lossy(bytes).contains(wanted)
                })
                .unwrap_or_else(PoisonError::into_inner);
            String::from_utf8_lossy(&bytes).contains(wanted)
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0.0).extend_from_slice(bytes);
            self.0.1.notify_all();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A stderr whose other end is closed.
    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    pub(super) fn plain(verbosity: Verbosity) -> (Console, Memory) {
        let memory = Memory::default();
        let out = anstream::StripStream::new(Box::new(memory.clone()) as Box<dyn Write + Send>);
        (Console::to_writer(Box::new(out), false, verbosity), memory)
    }

    #[test]
    fn messages_carry_their_severity() {
        let (console, memory) = plain(Verbosity::Verbose);
        console.error("no such process");
        console.warning("3 records lost");
        console.note("tracing 2 processes");
        console.detail("stap 5.6 compiles here");
        assert_eq!(
            memory.text(),
            "pystap: error: no such process\npystap: warning: 3 records lost\n\
             pystap: tracing 2 processes\npystap: stap 5.6 compiles here\n"
        );
    }

    #[test]
    fn quiet_keeps_errors_only_and_normal_leaves_details_out() {
        for (verbosity, lines) in [(Verbosity::Quiet, 1), (Verbosity::Normal, 4)] {
            let (console, memory) = plain(verbosity);
            console.error("e");
            console.warning("w");
            console.note("n");
            console.detail("d");
            console.excerpt("x");
            drop(console.spinner("compiling"));
            let expected = if verbosity == Verbosity::Quiet {
                lines
            } else {
                lines + 1
            };
            assert_eq!(memory.text().lines().count(), expected, "{verbosity:?}");
        }
    }

    #[test]
    fn colour_marks_the_severity_and_not_the_message() {
        let memory = Memory::default();
        let console = Console::to_writer(Box::new(memory.clone()), false, Verbosity::Normal);
        console.error("text");
        assert_eq!(memory.text(), "pystap: \x1b[1m\x1b[31merror: \x1b[0mtext\n");
    }

    #[test]
    fn names_from_a_target_cannot_move_the_cursor_or_start_a_new_line() {
        let (console, memory) = plain(Verbosity::Normal);
        console.note("function a\x1b[2Jb\r\nc");
        assert_eq!(memory.text(), "pystap: function a\\u{1b}[2Jb; c\n");
    }

    #[test]
    fn an_excerpt_keeps_its_lines_and_its_columns() {
        let (console, memory) = plain(Verbosity::Normal);
        console.excerpt("source: x = 1 +\n             ^");
        assert_eq!(memory.text(), "    source: x = 1 +\n                 ^\n");
    }

    #[test]
    fn a_broken_stderr_is_survived() {
        let console = Console::to_writer(Box::new(Broken), true, Verbosity::Verbose);
        console.error("nobody reads this");
        drop(console.spinner("nor this"));
        console.note("still here");
    }

    #[test]
    fn without_a_terminal_the_spinner_is_one_line() {
        let (console, memory) = plain(Verbosity::Normal);
        let spinner = console.spinner("compiling the probe script");
        drop(spinner);
        assert_eq!(memory.text(), "pystap: compiling the probe script …\n");
    }

    #[test]
    fn a_message_takes_the_spinner_off_and_puts_it_back_and_the_end_erases_it() {
        let memory = Memory::default();
        // Without colour, as with NO_COLOR on a terminal.
        let out = anstream::StripStream::new(Box::new(memory.clone()) as Box<dyn Write + Send>);
        let console = Console::to_writer(Box::new(out), true, Verbosity::Normal);
        let spinner = console.spinner("compiling");
        let line = "pystap: compiling … 0 s";
        assert!(memory.wait_for(line));
        console.note("by the way");
        drop(spinner);
        let erased = format!("\r{}\r", " ".repeat(line.chars().count()));
        let text = memory.text();
        assert!(
            text.contains(&format!("{erased}pystap: by the way\npystap: compiling … ")),
            "{text:?}"
        );
        assert!(text.ends_with(&erased), "{text:?}");
    }

    #[test]
    fn while_the_terminal_is_covered_messages_are_handed_out_and_written_afterwards() {
        let memory = Memory::default();
        let out = anstream::StripStream::new(Box::new(memory.clone()) as Box<dyn Write + Send>);
        let console = Console::to_writer(Box::new(out), true, Verbosity::Normal);
        let cover = console.cover();
        assert_eq!(cover.latest(), None);
        console.note("one");
        console.warning("two");
        assert_eq!(memory.text(), "");
        assert_eq!(cover.latest().as_deref(), Some("warning: two"));
        assert_eq!(cover.latest(), None);
        drop(cover);
        console.note("three");
        assert_eq!(
            memory.text(),
            "pystap: one\npystap: warning: two\npystap: three\n"
        );
    }

    #[test]
    fn a_stderr_that_is_no_terminal_gets_messages_at_once_whatever_covers_the_terminal() {
        let (console, memory) = plain(Verbosity::Normal);
        let cover = console.cover();
        console.note("one");
        assert_eq!(memory.text(), "pystap: one\n");
        assert_eq!(cover.latest().as_deref(), Some("one"));
        drop(cover);
        assert_eq!(memory.text(), "pystap: one\n");
    }

    #[test]
    fn messages_of_many_threads_stay_whole() {
        let (console, memory) = plain(Verbosity::Normal);
        std::thread::scope(|scope| {
            for name in ["one", "two", "three", "four"] {
                let console = console.clone();
                scope.spawn(move || {
                    for _ in 0..50 {
                        console.note(name.repeat(20));
                    }
                });
            }
        });
        let text = memory.text();
        assert_eq!(text.lines().count(), 200);
        for line in text.lines() {
            let name = line.strip_prefix("pystap: ").unwrap_or_default();
            assert!(
                ["one", "two", "three", "four"]
                    .iter()
                    .any(|n| n.repeat(20) == name),
                "{line:?}"
            );
        }
    }

    /// A console on a pipe.
    fn piped() -> (Console, io::PipeReader) {
        let (reader, writer) = io::pipe().expect("a pipe");
        let stream = Stream::shared(writer.as_fd()).expect("a stream");
        let out = Out::Stream(Arc::new(stream));
        (Console::new(out, false, false, Verbosity::Normal), reader)
    }

    #[test]
    fn a_stderr_that_nobody_reads_holds_up_nobody_and_what_was_left_out_is_counted() {
        let (console, mut reader) = piped();
        let said: u64 = 10_000;
        for number in 0..said {
            console.note(format_args!("message {number}"));
        }
        drop(console.spinner("waiting"));
        console.finish();
        assert!(console.state().waiting.len() <= WAITING);
        let left_out = console.state().left_out;
        assert!(left_out > 0);
        let mut text = String::new();
        let end = format!(
            "pystap: warning: {left_out} messages were left out, because nobody read standard error\n"
        );
        while !text.ends_with(&end) {
            let mut bytes = [0; 4096];
            let count = io::Read::read(&mut reader, &mut bytes).expect("read");
            text.push_str(std::str::from_utf8(&bytes[..count]).expect("ASCII"));
        }
        // Whole messages in order, up to where room ran out, and the spinner's.
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len() as u64, said + 2 - left_out);
        for (number, line) in lines.iter().take(100).enumerate() {
            assert_eq!(*line, format!("pystap: message {number}"));
        }
        console.note("again");
        let mut bytes = [0; 14];
        io::Read::read_exact(&mut reader, &mut bytes).expect("read");
        assert_eq!(&bytes, b"pystap: again\n");
    }

    #[test]
    fn exit_codes_are_those_of_the_manual() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4]);
        for exit in Exit::ALL {
            assert!(exit.meaning().ends_with('.'), "{exit:?}");
        }
    }
}
