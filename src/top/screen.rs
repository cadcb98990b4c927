//! A terminal as a screen: covered, and given back however that ends.

use std::io::{self, BufWriter, IsTerminal};
use std::sync::Once;

use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{self, EnterAlternateScreen, LeaveAlternateScreen};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::export::Output;
use crate::session::stop;

/// A terminal that is written to without waiting for one that takes nothing.
pub(crate) type Screen = ratatui::Terminal<CrosstermBackend<BufWriter<Output>>>;

/// Why there is no terminal to be covered, if there is none.
pub(crate) fn obstacle() -> Option<&'static str> {
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        return Some("standard input or output is not a terminal");
    }
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    is_dumb.then_some("the terminal is dumb (TERM=dumb)")
}

/// Covers the terminal while this runs, and gives it back.
///
/// # Errors
/// The terminal's, and those of what runs.
pub(crate) fn covered(run: impl FnOnce(&mut Screen) -> io::Result<()>) -> io::Result<()> {
    let mut terminal = cover()?;
    let shown = run(&mut terminal);
    if hung_up().unwrap_or(true) {
        // A terminal that is gone takes nothing back, and ratatui would panic in its complaint about that.
        std::mem::forget(terminal);
        return Ok(());
    }
    let uncovered = uncover(&mut terminal);
    // Its own way to show the cursor again would wait for a terminal that takes nothing.
    std::mem::forget(terminal);
    shown.and(uncovered)
}

/// Takes the terminal over.
fn cover() -> io::Result<Screen> {
    static RESTORED_ON_PANIC: Once = Once::new();
    RESTORED_ON_PANIC.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            ratatui::restore();
            before(panic);
        }));
    });
    terminal::enable_raw_mode()?;
    let mut output = BufWriter::new(Output::stdout(stop::give_up())?);
    let covered = execute!(output, EnterAlternateScreen)
        .and_then(|()| Screen::new(CrosstermBackend::new(output)));
    if covered.is_err() {
        let _ = terminal::disable_raw_mode();
    }
    covered
}

/// Gives it back.
fn uncover(screen: &mut Screen) -> io::Result<()> {
    terminal::disable_raw_mode()?;
    screen.show_cursor()?;
    execute!(screen.backend_mut(), LeaveAlternateScreen)
}

/// Has the next drawing paint everything anew.
///
/// ratatui's own `clear` asks the terminal where its cursor is, and fails when no answer comes within two seconds, as from one
/// behind a slow connection or from a recorder of terminals. A table needs no cursor.
///
/// # Errors
/// The terminal's.
pub(super) fn repaint<B: Backend>(terminal: &mut ratatui::Terminal<B>) -> Result<(), B::Error> {
    // What was drawn last is the other buffer: forgotten, everything differs from it.
    terminal.swap_buffers();
    terminal.backend_mut().clear()
}

/// Whether the terminal is gone.
pub(crate) fn hung_up() -> io::Result<bool> {
    let stdin = io::stdin();
    let mut watched = [PollFd::new(&stdin, PollFlags::empty())];
    match rustix::event::poll(&mut watched, Some(&Timespec::default())) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    Ok(watched.iter().any(|it| it.revents().intersects(gone)))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::{self, Write};
    use std::rc::Rc;

    use ratatui::backend::CrosstermBackend;
    use ratatui::layout::Rect;
    use ratatui::{Terminal, TerminalOptions, Viewport};

    use super::repaint;

    /// A terminal that takes everything and answers nothing.
    #[derive(Clone, Default)]
    struct Silent(Rc<RefCell<Vec<u8>>>);

    impl Write for Silent {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn painting_anew_asks_the_terminal_nothing() {
        let silent = Silent::default();
        let viewport = Viewport::Fixed(Rect::new(0, 0, 20, 1));
        let options = TerminalOptions { viewport };
        let mut terminal =
            Terminal::with_options(CrosstermBackend::new(silent.clone()), options).expect("fixed");
        let mut drawn = || {
            silent.0.borrow_mut().clear();
            let draw = terminal.draw(|frame| frame.render_widget("functions", frame.area()));
            draw.expect("drawn");
            let written = String::from_utf8(silent.0.take()).expect("text");
            repaint(&mut terminal).expect("no answer is needed");
            (written, silent.0.take())
        };
        let (first, between) = drawn();
        assert!(first.contains("functions"), "{first:?}");
        assert_eq!(between, b"\x1b[2J");
        let (second, _) = drawn();
        assert!(second.contains("functions"), "{second:?}");
    }
}
