//! Whether a process has an agent in it already: one that was installed and waits, or one that an earlier session left
//! behind when it was done. What is probed is then the file that is mapped, whatever became of its path.

use std::path::PathBuf;
use std::sync::Arc;

use procfs::process::{MMapPath, MemoryMap, Process};

use super::{PROVIDER, socket};
use crate::elf::Image;
use crate::probe::Probe;
use crate::python::maps;

/// What the names of files with the agent in them contain: what pystap writes out, and what `pystap agent install` does.
const NAME: &str = "pystap_agent";

/// Whether an agent waits in a process for a session.
pub fn waiting(pid: u32) -> bool {
    socket::of_process(pid).is_ok_and(|sockets| !sockets.is_empty())
}

/// The agent's library in a process.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Its path as the process sees it.
    pub path: PathBuf,
    /// A path by which we can open the very file that is mapped.
    pub reach: PathBuf,
    /// Its inode.
    pub inode: u64,
    /// Whether the path is gone.
    pub deleted: bool,
    /// What is in it.
    pub image: Arc<Image>,
}

impl Loaded {
    /// The agent in a process; `None` when there is none, or none that can be looked at.
    pub fn of_process(pid: u32) -> Option<Loaded> {
        files(pid)?.find_map(|(map, path)| {
            // A library in memory is called `/memfd:pystap-agent`.
            let (path, deleted) = match path.strip_suffix(" (deleted)") {
                Some(path) => (path, true),
                None => (&*path, false),
            };
            let (start, end) = map.address;
            let reach = PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}"));
            let image = Image::open(&reach).ok()?;
            image.mark(PROVIDER, Probe::FunctionEntry.name())?;
            Some(Loaded {
                path: PathBuf::from(path),
                reach,
                inode: map.inode,
                deleted,
                image: Arc::new(image),
            })
        })
    }
}

/// What a process has mapped that is called as the agent's library is.
fn files(pid: u32) -> Option<impl Iterator<Item = (MemoryMap, String)>> {
    let maps = maps::of(&Process::new(i32::try_from(pid).ok()?).ok()?).ok()?;
    Some(maps.into_iter().filter_map(|map| {
        let MMapPath::Path(path) = &map.pathname else {
            return None;
        };
        let path = path.to_str()?.to_owned();
        let name = path.rsplit('/').next()?;
        let is_ours = name.contains(NAME) || name.starts_with("memfd:pystap-agent");
        is_ours.then_some((map, path))
    }))
}
