//! A dump for people.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::{Dump, Python, Reading, Resting, Thread, WaitsFor, role};
use crate::process::activity::{Call, Descriptor, End, Socket, State, Wait, Watched};
use crate::python::frames::{Awaits, Frame, Greenlets, Tasks};
use crate::text::Foreign;

/// Columns that the names of functions may take before their places.
const WIDEST: usize = 48;
/// Most descriptors that are named in a line; the JSON has more.
const MOST_IN_A_LINE: usize = 4;
/// Most names of tasks with the same stack.
const MOST_NAMES: usize = 3;

/// The page of a process.
pub(crate) fn page(dump: &Dump) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(page, "{}", heading(dump));
    let waiting = waiting_for_same(dump);
    for thread in &dump.threads {
        let _ = writeln!(page, "\n{}", line(thread, &waiting));
        match &thread.python {
            Some(python) => stack(&mut page, python),
            None => page.push_str("    (no Python)\n"),
        }
    }
    if dump.more_threads > 0 {
        let _ = writeln!(page, "\nand {} more threads, not shown", dump.more_threads);
    }
    if let Some(resting) = &dump.resting {
        rest(&mut page, resting);
    }
    page
}

fn heading(dump: &Dump) -> String {
    let mut heading = format!("process {}  {}", dump.pid, Foreign::new(&dump.program));
    if let Some(version) = &dump.version {
        let version = version.to_string();
        let _ = write!(heading, "  Python {}", Foreign::new(&version));
    }
    let count = dump.threads.len() + dump.more_threads;
    let _ = match count {
        1 => write!(heading, "  1 thread"),
        count => write!(heading, "  {count} threads"),
    };
    let holders = dump.threads.iter().filter(|thread| holds_gil(thread));
    for holder in holders {
        let _ = write!(heading, "  GIL held by {}", holder.tid);
    }
    heading
}

fn holds_gil(thread: &Thread) -> bool {
    thread.python.as_ref().is_some_and(|it| it.holds_gil)
}

/// How many threads wait for each lock.
fn waiting_for_same(dump: &Dump) -> HashMap<u64, usize> {
    let mut waiting = HashMap::new();
    for thread in &dump.threads {
        if let Some(WaitsFor::Lock { address }) = thread.wait {
            *waiting.entry(address).or_default() += 1;
        }
    }
    waiting
}

/// The line of a thread.
fn line(thread: &Thread, waiting: &HashMap<u64, usize>) -> String {
    let mark = match &thread.python {
        Some(python) if python.reading == Reading::Changed => "~",
        _ => "",
    };
    let mut line = format!(
        "thread {}{mark}  {}",
        thread.tid,
        Foreign::new(&thread.name)
    );
    let python = thread.python.as_ref();
    // From 3.10 on Python calls a thread that nobody named by its function, too: Thread-1 (works).
    let is_in_name = |role: &String| {
        let function = role.rsplit('.').next().unwrap_or(role);
        thread.name.ends_with(&format!("({function})"))
    };
    let role = python.and_then(|python| role(&python.frames, python.cut));
    if let Some(role) = role.filter(|role| !is_in_name(role)) {
        let _ = write!(line, " ({})", Foreign::new(&role));
    }
    let state = match (thread.state, holds_gil(thread)) {
        (State::Running, true) => "running, holds the GIL".to_owned(),
        (State::Running, false) => "running".to_owned(),
        (State::Disk, _) => "waiting, cannot be interrupted".to_owned(),
        (State::Sleeping, holds) => match holds {
            true => "waiting with the GIL held".to_owned(),
            false => "waiting".to_owned(),
        },
        (state, _) => state.word().to_owned(),
    };
    let _ = write!(line, "  {state}");
    if let Some(asleep) = thread.asleep {
        let _ = write!(line, " {}", time(asleep));
    }
    if let Some(wait) = &thread.wait {
        let _ = write!(line, "  {}", reason(wait, waiting));
    }
    if let (Some(name), Some(_)) = (thread.call.name(), &thread.wait) {
        let _ = write!(line, "  [{name}]");
    } else if thread.state != State::Running && thread.call == Call::Unknown {
        line.push_str("  (the kernel does not say for what)");
    }
    line
}

fn stack(page: &mut String, python: &Python) {
    if python.frames.is_empty() {
        page.push_str(match python.reading {
            Reading::Changed => "    (its stack never held still)\n",
            _ => "    (no Python function)\n",
        });
    }
    frames(page, &python.frames, python.cut);
    if python.reading == Reading::Changed && !python.frames.is_empty() {
        page.push_str(
            "    (it changed while it was read: stack and wait may be of different moments)\n",
        );
    }
}

/// The frames of a stack, a line each.
fn frames(page: &mut String, frames: &[Frame], cut: bool) {
    let names: Vec<String> = frames
        .iter()
        .map(|frame| Foreign::new(&frame.function).to_string())
        .collect();
    let widths = names.iter().map(|name| name.chars().count());
    let width = widths.filter(|width| *width <= WIDEST).max().unwrap_or(0);
    for (name, frame) in names.iter().zip(frames) {
        let file = Foreign::new(&frame.file);
        let _ = match frame.line {
            Some(line) => writeln!(page, "    {name:<width$}  {file}:{line}"),
            None => writeln!(page, "    {name:<width$}  {file}"),
        };
    }
    if cut {
        page.push_str("    … and more, not shown\n");
    }
}

/// What waits without a thread.
fn rest(page: &mut String, resting: &Resting) {
    let parked = &resting.parked;
    for tasks in &parked.tasks {
        let mark = match resting.reading(tasks.same) {
            Reading::Changed => "~",
            _ => "",
        };
        let _ = writeln!(page, "\n{}", tasks_line(tasks, mark));
        frames(page, &tasks.frames, tasks.cut);
    }
    if parked.unread > 0 {
        let _ = match parked.unread {
            1 => writeln!(page, "\nand 1 more task, not shown"),
            count => writeln!(page, "\nand {count} more tasks, not shown"),
        };
    }
    for (greenlets, awaited) in parked.greenlets.iter().zip(&resting.awaited) {
        let mark = match resting.reading(greenlets.same) {
            Reading::Changed => "~",
            _ => "",
        };
        let _ = writeln!(page, "\n{}", greenlets_line(greenlets, awaited, mark));
        frames(page, &greenlets.frames, greenlets.cut);
    }
    if parked.unread_greenlets > 0 {
        let _ = match parked.unread_greenlets {
            1 => writeln!(page, "\nand 1 more greenlet, not shown"),
            count => writeln!(page, "\nand {count} more greenlets, not shown"),
        };
    }
    if !parked.complete {
        let _ = writeln!(
            page,
            "\n(looked for tasks and greenlets among {} objects, which are not all: there may be more)",
            parked.objects
        );
    }
}

/// The line of tasks that have the same stack.
fn tasks_line(tasks: &Tasks, mark: &str) -> String {
    let (mut line, verb, turn) = match tasks.count {
        1 => (format!("task{mark}"), "awaits", "its turn"),
        count => (format!("{count} tasks{mark}"), "await", "their turn"),
    };
    let names = tasks.names.iter().take(MOST_NAMES);
    let names: Vec<String> = names.map(|name| Foreign::new(name).to_string()).collect();
    if !names.is_empty() {
        let _ = write!(line, "  {}", names.join(", "));
        let more = tasks.count.saturating_sub(names.len());
        if more > 0 {
            let _ = write!(line, " +{more}");
        }
    }
    let _ = match &tasks.awaits {
        Awaits::Start => write!(line, "  not started"),
        Awaits::Turn => write!(line, "  {verb} {turn}"),
        Awaits::Task(name) => write!(line, "  {verb} task {}", Foreign::new(name)),
        Awaits::Object(its_type) => write!(line, "  {verb} {}", Foreign::new(its_type)),
        Awaits::Unknown => write!(line, "  {verb} something else"),
    };
    line
}

/// The line of greenlets that have the same stack.
fn greenlets_line(greenlets: &Greenlets, awaited: &Watched, mark: &str) -> String {
    let (mut line, verb) = match greenlets.count {
        1 => (format!("greenlet{mark}"), "waits"),
        count => (format!("{count} greenlets{mark}"), "wait"),
    };
    if let Some(role) = role(&greenlets.frames, greenlets.cut) {
        let _ = write!(line, " ({})", Foreign::new(&role));
    }
    let _ = match awaited.named.is_empty() {
        true => write!(line, "  switched out"),
        false => write!(line, "  {verb} for {}", several(awaited)),
    };
    line
}

/// What a thread waits for, in words.
fn reason(wait: &WaitsFor, waiting: &HashMap<u64, usize>) -> String {
    match wait {
        WaitsFor::Gil { held_by: Some(tid) } => format!("for the GIL, which {tid} holds"),
        WaitsFor::Gil { held_by: None } => "for the GIL".to_owned(),
        WaitsFor::Lock { address } => match waiting.get(address) {
            Some(count @ 2..) => {
                format!("for a lock ({address:#x}, for which {count} threads wait)")
            }
            _ => format!("for a lock ({address:#x})"),
        },
        WaitsFor::Kernel(wait) => match wait {
            Wait::Sleep => "in a sleep".to_owned(),
            Wait::Futex(address) => format!("for a lock ({address:#x})"),
            Wait::One(number, descriptor) => format!("for {}", named(*number, descriptor)),
            Wait::Any(watched) => format!("for any of {}", several(watched)),
            Wait::Child => "for a child".to_owned(),
            Wait::Signal => "for a signal".to_owned(),
            Wait::Page => "for a page of memory".to_owned(),
            Wait::Other => "for something else".to_owned(),
        },
    }
}

fn several(watched: &Watched) -> String {
    let shown = watched.named.iter().take(MOST_IN_A_LINE);
    let shown: Vec<String> = shown
        .map(|(number, descriptor)| named(*number, descriptor))
        .collect();
    match watched.count.saturating_sub(shown.len()) {
        0 => shown.join("; "),
        more => format!("{}; and {more} more", shown.join("; ")),
    }
}

/// A descriptor in words.
fn named(number: u32, descriptor: &Descriptor) -> String {
    match descriptor {
        Descriptor::File(path) => format!("{} (fd {number})", Foreign::new(path)),
        Descriptor::Pipe(inode) => format!("pipe {inode} (fd {number})"),
        Descriptor::Socket(None) => format!("a socket (fd {number})"),
        Descriptor::Socket(Some(socket)) => format!("{} (fd {number})", in_words(socket)),
        Descriptor::Epoll(watched) if watched.count == 0 => {
            format!("an epoll that watches nothing (fd {number})")
        }
        Descriptor::Epoll(watched) => {
            format!("an epoll (fd {number}) that watches {}", several(watched))
        }
        Descriptor::Kernel(kind) => format!("{} (fd {number})", Foreign::new(kind)),
        Descriptor::Unknown => format!("fd {number}"),
    }
}

fn in_words(socket: &Socket) -> String {
    let end = |end: &Option<End>| match end {
        Some(End::Internet(address)) => address.to_string(),
        Some(End::Path(path)) => Foreign::new(path).to_string(),
        None => "without a name".to_owned(),
    };
    let mut words = format!("{} socket {}", socket.protocol, end(&socket.local));
    if socket.remote.is_some() {
        let _ = write!(words, " to {}", end(&socket.remote));
    }
    match socket.state {
        Some("ESTABLISHED") | None => {}
        Some(state) => {
            let _ = write!(words, " {state}");
        }
    }
    words
}

/// A time with as many digits as mean something.
fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 {
        format!("{:.0}ms", seconds * 1e3)
    } else if seconds < 120.0 {
        format!("{seconds:.1}s")
    } else {
        humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
    }
}
