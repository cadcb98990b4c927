//! The table on a terminal: draws what comes and obeys keys.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use ratatui::crossterm;

use super::look::Look;
use super::requests::{Back, Requests, Table, end_session};
use super::screen::{self, Screen};
use super::{Action, Snapshot, State, batch, input, view};
use crate::clock;
use crate::console::Cover;
use crate::files::writing;
use crate::text::{Foreign, harmless};

/// How often keys and tables are looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How often everything is painted anew: what others write to the terminal goes across the table.
const REPAINT: Duration = Duration::from_secs(5);

/// The session that a table on the screen belongs to.
#[derive(Clone, Copy)]
pub(super) struct Session<'a> {
    /// Its tables; disconnected when it ends.
    pub(super) tables: &'a Receiver<Table>,
    /// What it says meanwhile.
    pub(super) cover: &'a Cover,
    /// What is asked of it.
    pub(super) requests: &'a Requests,
    /// The way to samples.
    pub(super) back: Option<&'a Back>,
}

/// Shows a table of what is over, until somebody has seen enough.
///
/// # Errors
/// The terminal's.
pub(crate) fn browse(mut state: State, table: Snapshot) -> io::Result<()> {
    state.show(table);
    show(state, None)
}

/// Shows the table until the session ends, or somebody has seen enough.
pub(super) fn show(mut state: State, session: Option<Session<'_>>) -> io::Result<()> {
    state.look = Look::of_terminal();
    // What is over does nothing lately.
    state.look.bars &= session.is_some();
    screen::covered(|terminal| follow(terminal, &mut state, session))
}

/// Draws what comes and does what keys ask for.
fn follow(
    terminal: &mut Screen,
    state: &mut State,
    session: Option<Session<'_>>,
) -> io::Result<()> {
    let mut due = Instant::now();
    let mut changed = true;
    let mut painted = Instant::now();
    loop {
        if let Some(session) = session {
            if Instant::now() >= due {
                due = Instant::now() + Duration::from_millis(state.interval_ms());
                session.requests.table();
            }
            match session.tables.try_recv() {
                Ok(table) if table.last => return Ok(()),
                Ok(table) => {
                    state.show(table.snapshot);
                    changed = true;
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        // What is said meanwhile: who joined, who left.
        if let Some(message) = session.and_then(|it| it.cover.latest()) {
            state.say(message);
            changed = true;
        }
        if changed {
            if painted.elapsed() >= REPAINT {
                painted = Instant::now();
                screen::repaint(terminal)?;
            }
            terminal.draw(|frame| view::draw(frame, state))?;
            changed = false;
        }
        if screen::hung_up()? {
            // Nobody is there to see the table.
            end_session();
            return Ok(());
        }
        if !crossterm::event::poll(LOOK)? {
            continue;
        }
        changed = true;
        let Some(key) = input::key(&crossterm::event::read()?) else {
            continue;
        };
        match state.key(key) {
            Action::Draw => {}
            Action::Pace => due = Instant::now(),
            Action::Reset => match session {
                None => state.say("a recording is over, so there is nothing to count anew"),
                Some(session) => {
                    session.requests.anew();
                    due = Instant::now();
                }
            },
            // The table stays until the session has ended in good order.
            Action::Quit if session.is_some() => end_session(),
            Action::Quit => return Ok(()),
            Action::Samples => {
                if let Some(back) = session.and_then(|it| it.back) {
                    back.go(state);
                }
            }
            Action::Export => match export(state) {
                Ok(path) => state.say(format!("written to {}", Foreign::path(&path))),
                Err(error) => state.say(format!(
                    "not written ({error}); start pystap in a directory that is writable"
                )),
            },
        }
    }
}

/// Writes the table as it is shown to a new file in the working directory.
fn export(state: &State) -> io::Result<PathBuf> {
    let path = PathBuf::from(format!("pystap-top-{}.txt", clock::now() / 1_000_000_000));
    let mut text = String::new();
    batch::table(
        state.rows(),
        state.account(),
        !state.is_merged(),
        state.only.as_deref(),
        &mut text,
    );
    writing::create_new(&path)?.write_all(harmless(&text).as_bytes())?;
    Ok(path)
}
