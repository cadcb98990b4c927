//! `pystap lower`, hidden: becomes another user for good, and then a program of that user's or one of our own tasks.
//! [`crate::authority::foreign`] starts it where root must not use its own power.

use std::ffi::OsString;

use super::hold::CANNOT_EXECUTE;
use crate::agent::install;
use crate::authority::{Identity, foreign};
use crate::cli::Lowered;
use crate::console::Console;

/// Returns how it ended; not at all when it has become a program.
pub(super) fn run(
    user: u32,
    group: u32,
    what: Lowered,
    arguments: &[OsString],
    console: &Console,
) -> u8 {
    if let Err(error) = foreign::lower(Identity { user, group }) {
        console.error(error);
        return CANNOT_EXECUTE;
    }
    match (what, arguments.split_first()) {
        (Lowered::Place, _) => install::place(arguments),
        (Lowered::Run, Some((program, arguments))) => {
            let reason = foreign::become_program(program, arguments);
            console.error(format_args!("it cannot be executed ({reason})"));
            CANNOT_EXECUTE
        }
        (Lowered::Run, None) => CANNOT_EXECUTE,
    }
}
