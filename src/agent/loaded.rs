//! Whether a process already has an agent: an installed one that waits, or one left behind by an earlier session. The
//! mapped file is then what is probed, whatever happened to its path.

use std::path::PathBuf;
use std::sync::Arc;

use procfs::process::{MMapPath, MemoryMap, Process};

use super::{PROVIDER, socket};
use crate::elf::Image;
use crate::probe::Probe;
use crate::python::maps;

/// Part of the name of every file that contains the agent: those that pystap writes out, and those of `pystap agent
/// install`.
const NAME: &str = "pystap_agent";

/// Whether an agent in a process waits for a session.
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
    /// Whether that path is gone.
    pub deleted: bool,
    /// Its ELF image.
    pub image: Arc<Image>,
}

impl Loaded {
    /// The agent in a process; `None` when there is none, or none that can be examined.
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

/// The mapped files of a process that have the name of the agent's library.
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
