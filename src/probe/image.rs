//! An image whose probes are to be armed, whoever arms them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::elf::Image;

/// The provider of the agent's probes, as the notes of its library have it.
pub const AGENT_PROVIDER: &str = "pystap";

/// An image to be probed.
#[derive(Debug, Clone)]
pub struct Probed {
    /// A path by which it can be opened now.
    pub path: PathBuf,
    /// Inode of the file.
    pub inode: u64,
    /// What is in it.
    pub image: Arc<Image>,
    /// Whose probes: CPython's own or the agent's.
    pub provider: &'static str,
    /// Names of the probes to arm.
    pub marks: Vec<String>,
    /// Whether values are fetched: the agent's, or the arguments that a patch of CPython passes.
    pub values: bool,
    /// Whether the semaphore of the line probe is raised, so that calls of Python 3.11 are complete.
    pub line_semaphore: bool,
}
