//! Frames as people see them.

use super::stack;

/// A frame, as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Frame {
    /// Qualified where code objects have such a name: from 3.11 on.
    pub(crate) function: String,
    /// As the code object has it.
    pub(crate) file: String,
    /// `None` for an instruction without a line.
    pub(crate) line: Option<u32>,
}

impl From<stack::Frame> for Frame {
    fn from(frame: stack::Frame) -> Frame {
        Frame {
            function: frame.function.name.clone(),
            file: frame.function.file.clone(),
            line: frame.line,
        }
    }
}
