//! How far long work has come: a line on a terminal, which is gone when the work is done.
//!
//! It is our own and no library's, because stderr is the console's alone: messages stand above the line and not in it, nothing waits
//! for a terminal that takes nothing, and without colour there is nothing but blanks to erase it with.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use super::{Console, Spinner, Turning, Verbosity, lock, one_line};

/// How often the line changes, and signals are looked for.
const LOOK: Duration = Duration::from_millis(50);
/// Work that takes longer has a line; and when it has one at the latest.
const LONG: Duration = Duration::from_millis(200);
const LATEST: Duration = Duration::from_millis(150);
/// Characters of a bar, at most and at least.
const BAR: usize = 30;
const LEAST_BAR: usize = 6;
/// Characters that a terminal shows for Ctrl-C.
const ECHO: usize = 2;
/// Columns of a terminal that does not say how many it has.
const WIDE: usize = 80;

/// Work of which it is told how far it has come; see [`Console::progress`]. Ends when dropped.
#[derive(Debug)]
#[must_use = "the work counts as done when this is dropped"]
pub struct Progress {
    done: Arc<AtomicU64>,
    _line: Spinner,
}

impl Progress {
    /// Where the work says how many bytes it has done.
    pub fn done(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.done)
    }
}

impl Console {
    /// Reports how far work has come that may take a while, for example "reading run.pystap", of so many bytes; `None` where that
    /// is not known beforehand. On a terminal a line says so if it takes longer than a moment, and disappears when the returned
    /// value is dropped or a signal ends us; elsewhere nothing does.
    pub fn progress(&self, activity: &str, total: Option<u64>) -> Progress {
        let done = Arc::<AtomicU64>::default();
        let shows =
            self.shared.terminal && !self.steady && self.shared.verbosity > Verbosity::Quiet;
        if !shows {
            return Progress {
                done,
                _line: Spinner(None),
            };
        }
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (console, stopped) = (self.clone(), Arc::clone(&stop));
        let work = Work {
            activity: one_line(&activity),
            total: total.filter(|total| *total > 0),
            done: Arc::clone(&done),
        };
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || work.show(&console, &stopped));
        Progress {
            done,
            // Without a thread there is no line.
            _line: Spinner(thread.ok().map(|thread| Turning { stop, thread })),
        }
    }

    /// The same console without lines that come and go, for a terminal that something else is written to meanwhile.
    pub fn steady(&self) -> Console {
        Console {
            steady: true,
            ..self.clone()
        }
    }
}

struct Work {
    activity: String,
    total: Option<u64>,
    done: Arc<AtomicU64>,
}

impl Work {
    /// Shows the line until it is told to stop.
    fn show(&self, console: &Console, stop: &(Mutex<bool>, Condvar)) {
        let begun = Instant::now();
        let (flag, wake) = stop;
        let mut stopped = lock(flag);
        let mut endings = None;
        while !*stopped {
            let (elapsed, done) = (begun.elapsed(), self.done.load(Ordering::Relaxed));
            if endings.is_none() && is_long(elapsed, done, self.total) {
                endings = Some(Endings::hold());
            }
            if let Some(endings) = &endings {
                let line = self.line(elapsed, done, columns());
                if let Some(signal) = endings.came() {
                    // The terminal has written `^C` behind it, which goes with it.
                    console.set_line(Some(format!("{line}{:ECHO$}", "")));
                    console.set_line(None);
                    end_by(signal);
                }
                console.set_line(Some(line));
            }
            stopped = wake
                .wait_timeout(stopped, LOOK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        if let Some(endings) = endings {
            console.set_line(None);
            if let Some(signal) = endings.came() {
                end_by(signal);
            }
        }
    }

    /// The line on a terminal of this width. There is room behind it for what the terminal echoes.
    fn line(&self, elapsed: Duration, done: u64, wide: usize) -> String {
        let room = wide.saturating_sub(1 + ECHO);
        let mut line = format!("pystap: {}", self.activity);
        let rest: Vec<String> = match self.total {
            None => vec![format!(" … {} s", elapsed.as_secs())],
            Some(total) => {
                let done = done.min(total);
                let share = u128::from(done) * 100 / u128::from(total.max(1));
                let seconds = elapsed.as_secs_f64().max(0.001);
                let rate = done as f64 / seconds;
                let left = (total - done) as f64 / rate.max(1.0);
                vec![
                    format!(" {share:>3} %"),
                    format!(
                        ", {} of {}",
                        megabytes(done as f64),
                        megabytes(total as f64)
                    ),
                    format!(", {}/s", megabytes(rate)),
                    format!(", {left:.0} s left"),
                ]
            }
        };
        let taken: usize = rest.iter().map(|it| it.chars().count()).sum();
        if let Some(total) = self.total {
            let free = room.saturating_sub(line.chars().count() + taken + " []".len());
            if free >= LEAST_BAR {
                let bar = free.min(BAR);
                let full = u128::from(done.min(total)) * bar as u128 / u128::from(total.max(1));
                let full = usize::try_from(full).unwrap_or(bar).min(bar);
                line.push_str(&format!(
                    " [{}{}]",
                    "#".repeat(full),
                    "-".repeat(bar - full)
                ));
            }
        }
        for part in rest {
            // What says least goes first on a narrow terminal.
            if line.chars().count() + part.chars().count() <= room {
                line.push_str(&part);
            }
        }
        line.chars().take(room).collect()
    }
}

/// Whether work is worth a line: it has taken long already, or will at this pace.
fn is_long(elapsed: Duration, done: u64, total: Option<u64>) -> bool {
    if elapsed >= LATEST {
        return true;
    }
    let Some(total) = total.filter(|_| done > 0 && elapsed >= LOOK) else {
        return false;
    };
    elapsed.mul_f64(total as f64 / done as f64) > 2 * LONG
}

fn megabytes(bytes: f64) -> String {
    match bytes / 1e6 {
        few if few < 10.0 => format!("{few:.1} MB"),
        many => format!("{many:.0} MB"),
    }
}

/// Columns of the terminal.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    match columns {
        0 => WIDE,
        columns => columns,
    }
}

/// Signals that would end us with the line on the terminal: while this is there, the line goes first.
struct Endings;

/// The signal that came last, and whether signals end us at once.
static CAME: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);
static AT_ONCE: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));
/// Registered once, because a signal that is no longer registered is ignored.
static REGISTERED: LazyLock<()> = LazyLock::new(|| {
    let ignored = procfs::process::Process::myself().and_then(|it| it.status());
    let ignored = ignored.map_or(0, |status| status.sigign);
    for signal in [SIGINT, SIGTERM] {
        if ignored >> (signal - 1) & 1 == 1 {
            continue;
        }
        // Where one cannot be registered, it ends us and leaves the line.
        let _ = flag::register_usize(signal, Arc::clone(&CAME), signal as usize)
            .and_then(|_| flag::register_conditional_default(signal, Arc::clone(&AT_ONCE)));
    }
});

impl Endings {
    fn hold() -> Endings {
        AT_ONCE.store(false, Ordering::SeqCst);
        LazyLock::force(&REGISTERED);
        Endings
    }

    /// The signal that came.
    fn came(&self) -> Option<i32> {
        let signal = CAME.load(Ordering::SeqCst);
        i32::try_from(signal).ok().filter(|signal| *signal != 0)
    }
}

impl Drop for Endings {
    fn drop(&mut self) {
        AT_ONCE.store(true, Ordering::SeqCst);
    }
}

/// Ends us as the signal would have done.
fn end_by(signal: i32) {
    let _ = low_level::emulate_default_handler(signal);
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Memory, plain};
    use super::*;

    fn work(total: Option<u64>) -> Work {
        Work {
            activity: "reading run.pystap".to_owned(),
            total,
            done: Arc::default(),
        }
    }

    #[test]
    fn a_line_has_a_bar_what_is_done_and_how_long_it_will_take() {
        let second = Duration::from_secs(1);
        let work = work(Some(104_000_000));
        let line = |wide| work.line(2 * second, 52_000_000, wide);
        assert_eq!(
            line(112),
            "pystap: reading run.pystap [###############---------------]  50 %, 52 MB of 104 MB, 26 MB/s, 2 s left"
        );
        assert_eq!(
            line(82),
            "pystap: reading run.pystap [####----]  50 %, 52 MB of 104 MB, 26 MB/s, 2 s left"
        );
        assert_eq!(line(40), "pystap: reading run.pystap  50 %");
        assert_eq!(line(20), "pystap: reading r");
        for wide in 0..200 {
            assert!(
                line(wide).chars().count() <= wide.saturating_sub(3),
                "{wide}"
            );
            // What is said beforehand may be wrong: a file can grow.
            work.line(Duration::ZERO, u64::MAX, wide);
        }
    }

    #[test]
    fn what_takes_a_moment_has_no_line() {
        let ms = Duration::from_millis;
        assert!(!is_long(ms(40), 1, Some(1_000)), "too early to tell");
        assert!(!is_long(ms(60), 500, Some(1_000)));
        assert!(is_long(ms(60), 10, Some(1_000)), "at this pace");
        assert!(!is_long(ms(140), 0, Some(1_000)));
        assert!(!is_long(ms(140), 10, None));
        assert!(is_long(ms(150), 0, None));
    }

    /// A console on a terminal without colour.
    fn terminal() -> (Console, Memory) {
        let memory = Memory::default();
        let out = anstream::StripStream::new(Box::new(memory.clone()) as Box<dyn io::Write + Send>);
        (
            Console::to_writer(Box::new(out), true, Verbosity::Normal),
            memory,
        )
    }

    #[test]
    fn long_work_has_a_line_that_is_gone_at_the_end() {
        let (console, memory) = terminal();
        let progress = console.progress("reading", Some(2_000_000));
        progress.done().store(1_000_000, Ordering::Relaxed);
        assert!(memory.wait_for(" 50 %, 1.0 MB of 2.0 MB"));
        console.note("by the way");
        assert!(memory.wait_for("\rpystap: by the way\npystap: reading "));
        drop(progress);
        let text = memory.text();
        let last = text.trim_end_matches(['\r', ' ']);
        let (blanks, line) = (&text[last.len()..], last.rsplit(['\r', '\n']).next());
        let long = line.map_or(0, |line| line.chars().count());
        assert_eq!(blanks, format!("\r{}\r", " ".repeat(long)), "{text:?}");
    }

    #[test]
    fn where_no_line_can_come_and_go_nothing_is_said() {
        let (piped, said_there) = plain(Verbosity::Normal);
        let (console, memory) = terminal();
        for console in [piped, console.steady()] {
            let progress = console.progress("reading", Some(2_000_000));
            assert!(progress._line.0.is_none(), "nobody waits for a line");
        }
        assert_eq!((said_there.text(), memory.text()), Default::default());
    }
}
