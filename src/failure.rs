//! Why a command ended early: what is said, and the exit code that it is. Every room's errors become one in `conversions`.

mod conversions;

use crate::console::Exit;

/// Why a command ended early: what to say, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    /// Further lines that belong to it, shown as they are.
    pub(crate) excerpt: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure {
            exit,
            message: message.into(),
            excerpt: String::new(),
        }
    }
}
