//! What engines differ in, and what can stand in the way of one, as plain data.

use crate::console::Exit;

/// What an engine can do, and what it cannot help doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// Runs SystemTap scripts: templates of the user's own, and options for stap.
    pub(crate) scripts: bool,
    /// Finds an image by its path as we see it, and takes its code to be mapped as it stands in the file. So it cannot trace a
    /// process whose image is gone, in a container, or laid out otherwise.
    pub(crate) by_path: bool,
    /// Arms probes in every process that runs an image, not only in targets, and hears of every program where it probes a
    /// library.
    pub(crate) arms_everyone: bool,
    /// Reads what the agent tells, and nothing else.
    pub(crate) by_agent: bool,
    /// Leaves out calls that are too short before they reach us.
    pub(crate) measures: bool,
}

/// Why an engine cannot trace what is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Obstacle {
    /// How pystap ends because of it.
    pub(crate) exit: Exit,
    /// What, the consequence, and what to do.
    pub(crate) message: String,
    /// Whether this host forbids the engine, whatever is installed and traced: the doctor knows more of it then.
    pub(crate) forbidden: bool,
}

/// The first clause of a message: what is the matter, without what follows from it.
pub(crate) fn clause(message: &str) -> &str {
    message.split(", so ").next().unwrap_or(message)
}
