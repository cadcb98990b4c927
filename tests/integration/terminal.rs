//! The table on a real terminal, driven by keys as a user would. tmux is the terminal; every wait has a bound and a
//! condition.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

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
