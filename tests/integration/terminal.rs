//! The table on a real terminal, driven by keys as a user would. tmux is the terminal; every wait has a bound and a
//! condition.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::command::pystap;
use crate::recordings::Recording;

const BOUND: Duration = Duration::from_secs(60);

/// A terminal of its own, with a shell in it. Closed when dropped.
pub(crate) struct Terminal {
    dir: tempfile::TempDir,
}

impl Terminal {
    pub(crate) fn open(width: u16, height: u16) -> Terminal {
        let dir = tempfile::tempdir().expect("a directory");
        let terminal = Terminal { dir };
        terminal.tmux(&[
            "new-session",
            "-d",
            "-x",
            &width.to_string(),
            "-y",
            &height.to_string(),
            "-s",
            "t",
            "env PS1='$ ' sh",
        ]);
        terminal.tmux(&["set-option", "-g", "window-size", "manual"]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(self.dir.path().join("socket"))
            .args(["-f", "/dev/null"])
            .args(arguments)
            .env("TERM", "xterm-256color")
            .output()
            .expect("tmux is installed");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A directory that is removed with the terminal.
    pub(crate) fn place(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn resize(&self, width: u16, height: u16) {
        let (width, height) = (width.to_string(), height.to_string());
        self.tmux(&["resize-window", "-t", "t", "-x", &width, "-y", &height]);
    }

    pub(crate) fn keys(&self, keys: &str) {
        self.tmux(&["send-keys", "-t", "t", "-l", keys]);
    }

    pub(crate) fn key(&self, key: &str) {
        self.tmux(&["send-keys", "-t", "t", key]);
    }

    pub(crate) fn shown(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", "t"])
    }

    /// Waits until the screen is as wanted, and returns its text.
    pub(crate) fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let shown = self.shown();
            if wanted(&shown) {
                return shown;
            }
            assert!(begun.elapsed() < BOUND, "{what}:\n{shown}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux")
            .arg("-S")
            .arg(self.dir.path().join("socket"))
            .arg("kill-server")
            .output();
    }
}

pub(crate) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and tmux: run by scripts/test-here"]
fn the_table_starts_sorts_filters_survives_resizes_and_gives_the_terminal_back() {
    let recording = Recording::of("examples/nested.py");
    let terminal = Terminal::open(100, 24);
    terminal.keys(&format!(
        "{} report --browse {}",
        quoted(&pystap()),
        recording.path()
    ));
    terminal.key("Enter");
    // A screen can be captured half drawn, so wait for everything that belongs to it.
    terminal.wait("the table", |shown| {
        ["FUNCTION  FILE", "lost 0", "q end"]
            .iter()
            .all(|it| shown.contains(it))
    });

    terminal.keys("/nested.py c");
    terminal.wait("what was typed", |shown| {
        shown.contains("filter: nested.py c_")
    });
    terminal.key("Enter");
    terminal.keys("1");
    terminal.wait("the filter", |shown| {
        let row = shown.lines().nth(2).unwrap_or_default();
        shown.contains("only nested.py c")
            && row.trim_start().starts_with("6 ")
            && row.contains("  c  ")
    });

    for (width, height) in [(40, 10), (20, 3), (10, 1), (120, 40)] {
        terminal.resize(width, height);
        terminal.wait("a size", |shown| shown.starts_with("gc 0.0%"));
    }
    terminal.wait("the table at its last size", |shown| {
        shown.contains("only nested.py c")
    });
    terminal.keys("h");
    terminal.wait("the help", |shown| shown.contains("close this help"));
    terminal.keys("xq");
    terminal.wait("the shell", |shown| {
        // A shell that is told of a new size meanwhile writes its prompt again.
        let is_prompt = |line: &str| {
            let mut words = line.split_whitespace().peekable();
            words.peek().is_some() && words.all(|word| word == "$")
        };
        !shown.contains("FUNCTION  FILE") && shown.lines().any(is_prompt)
    });
    // Echo and line mode are back: what is typed is shown and executed.
    terminal.keys("echo $?-$((6*7))");
    terminal.key("Enter");
    terminal.wait("an answer", |shown| {
        // The prompt may stand before it, see above.
        let answers = |line: &str| line.split_whitespace().last() == Some("0-42");
        shown.lines().any(answers)
    });
}

/// Types a command and waits until it has its answer.
fn run(terminal: &Terminal, command: &str) {
    terminal.keys(command);
    terminal.key("Enter");
}

#[test]
#[ignore = "needs Debian 12's Python 3.11 and tmux: run by scripts/test-here"]
fn a_function_is_selected_its_callers_are_shown_and_help_has_every_page_on_a_small_terminal() {
    let recording = Recording::of("examples/nested.py");
    let terminal = Terminal::open(80, 24);
    // By calls, of which c has the most in its file: by times, the first row differs from run to run.
    let browse = format!(
        "{} report --sort calls --browse {}",
        quoted(&pystap()),
        recording.path()
    );
    run(&terminal, &format!("LC_ALL=C.UTF-8 {browse}"));
    terminal.wait("files, at 80 columns", |shown| {
        shown.contains("FUNCTION  FILE") && shown.contains("/typing.py:")
    });
    terminal.keys("/nested.py");
    terminal.key("Enter");
    terminal.key("Down");
    terminal.key("Enter");
    terminal.wait("callers and callees", |shown| {
        let below = |heading: &str| {
            let mut lines = shown
                .lines()
                .skip_while(move |line| !line.ends_with(heading));
            lines.nth(1).unwrap_or_default().to_owned()
        };
        // examples/nested.py: b calls c three times, each time that a calls b.
        below("CALLED BY").contains("  b  ") && below("CALLED BY").trim_start().starts_with("6 ")
    });
    terminal.resize(20, 5);
    terminal.wait("callers instead of the table", |shown| {
        shown.contains(" by b  ") && !shown.contains("FUNCTION")
    });
    terminal.key("Escape");
    terminal.keys("?");
    terminal.wait("the first page", |shown| shown.contains("up, k: select"));
    for page in 2.. {
        terminal.key("Space");
        let shown = terminal.wait("a page", |shown| {
            shown.contains(&format!("more ({page} ")) || shown.contains("close this")
        });
        if shown.contains("close this") {
            break;
        }
    }
    terminal.key("Space");
    terminal.wait("the table again", |shown| shown.starts_with("gc 0.0%"));
    terminal.keys("q");
    terminal.resize(80, 24);
    run(
        &terminal,
        &format!("clear; TERM=dumb {browse}; echo code $?"),
    );
    terminal.wait("a refusal", |shown| {
        shown.contains("the terminal is dumb (TERM=dumb)") && shown.contains("code 2")
    });
}

/// A trace of so many calls, as JSON.
fn long_trace(path: &Path, calls: u64) {
    let mut text = json!({
        "event": "session", "ts": 1_800_000_000_000_000_000_u64, "schema": 1, "pystap": "0", "engine": "none",
        "notes": [], "armed": [], "targets": [], "events": ["call", "return"],
    })
    .to_string();
    for number in 0..calls {
        for (event, at) in [("call", 0), ("return", 500)] {
            let ts = 1_800_000_000_000_000_000 + number * 1_000 + at;
            let line = json!({
                "event": event, "ts": ts, "pid": 7, "tid": 7, "file": "/srv/app.py",
                "function": format!("function_{}", number % 50), "line": 1,
            });
            text.push('\n');
            text.push_str(&line.to_string());
        }
    }
    text.push('\n');
    let summary = json!({
        "event": "summary", "ts": 1_800_000_000_000_000_000_u64, "delivered": 2 * calls, "lost": 0, "skipped": 0,
        "unparsed": 0, "unpaired": 0, "wall_ns": 0, "ended": "targets_ended",
    });
    text.push_str(&summary.to_string());
    text.push('\n');
    std::fs::write(path, text).expect("a file");
}

#[test]
#[ignore = "needs tmux: run by scripts/test-here"]
fn reading_a_large_file_shows_how_far_it_is_and_leaves_no_trace_of_that() {
    let terminal = Terminal::open(100, 24);
    let trace = terminal.place().join("long.jsonl");
    long_trace(&trace, 60_000);
    let report = format!("{} report -l 3 {}", quoted(&pystap()), quoted(&trace));
    let has_bar = |shown: &str| shown.contains("reading long.jsonl [") && shown.contains(" MB of ");
    run(&terminal, &format!("clear; {report}; echo code $?"));
    terminal.wait("a bar", has_bar);
    let shown = terminal.wait("the report", |shown| shown.contains("code 0"));
    assert!(shown.contains("FUNCTION  FILE"), "{shown}");
    assert!(!shown.contains("reading"), "{shown}");

    // Ctrl-C takes the line away, and ends it as it would have done without one.
    run(&terminal, &format!("clear; {report}"));
    terminal.wait("a bar", has_bar);
    terminal.key("C-c");
    let shown = terminal.wait("the shell", |shown| !shown.contains("reading"));
    assert!(!shown.contains("FUNCTION"), "{shown}");
    run(&terminal, "echo code $?");
    terminal.wait("the signal", |shown| shown.contains("code 130"));

    // Nothing is said where nobody looks, or where lines cannot be taken back.
    let said = terminal.place().join("said");
    run(
        &terminal,
        &format!(
            "clear; {report} 2>{0}; TERM=dumb {report}; wc -c <{0}; echo code $?",
            quoted(&said)
        ),
    );
    let shown = terminal.wait("both reports", |shown| shown.contains("code 0"));
    assert!(shown.lines().any(|line| line.trim() == "0"), "{shown}");
    assert!(!shown.contains("reading"), "{shown}");
}
