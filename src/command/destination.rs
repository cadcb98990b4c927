//! Where a command puts what it writes as a whole.

use std::path::Path;

use crate::console::Console;
use crate::export::{OpenError, Output};
use crate::session::stop;
use crate::text::Foreign;

/// Standard output, or a file that appears or is replaced when it is whole ([`Output::complete`]). A pipe that nobody reads is
/// waited for, which is said.
///
/// # Errors
/// When the file cannot be created.
pub(super) fn whole(path: Option<&Path>, console: &Console) -> Result<Option<Output>, OpenError> {
    let mut said = false;
    Output::whole(path, stop::give_up(), |time| {
        if !std::mem::replace(&mut said, true)
            && let Some(path) = path
        {
            console.note(format_args!(
                "{} is a pipe that nobody reads; waiting for a reader, Ctrl-C stops",
                Foreign::path(path)
            ));
        }
        // Signals are not caught here: one ends us.
        std::thread::park_timeout(time);
        true
    })
}
