//! Whether a process already has an agent: an installed one that waits, or one left behind by an earlier session. The
//! mapped file is then what is probed, whatever happened to its path.

use std::fs;
use std::os::unix::fs::MetadataExt;
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
            let mapped = PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}"));
            // Only root may open what is mapped as such; others take the file of that name, if it still is that one.
            let (reach, image) = match Image::open(&mapped) {
                Ok(image) => (mapped, image),
                Err(_) if rustix::process::geteuid().is_root() || deleted => return None,
                Err(_) => {
                    let named = PathBuf::from(format!("/proc/{pid}/root{path}"));
                    let inode = fs::metadata(&named).ok()?.ino();
                    let image = Image::open(&named).ok()?;
                    (inode == map.inode).then_some((named, image))?
                }
            };
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

/// Whether no file of an agent's is mapped in a process, by the names of all files that are.
pub fn is_without(pid: u32) -> bool {
    files(pid).is_some_and(|mut files| files.next().is_none())
}

impl Loaded {
    /// The agent in a file that a process may load; `None` where it is none.
    pub fn of_file(path: PathBuf) -> Option<Loaded> {
        let image = Image::open(&path).ok()?;
        image.mark(PROVIDER, Probe::FunctionEntry.name())?;
        Some(Loaded {
            inode: fs::metadata(&path).ok()?.ino(),
            reach: path.clone(),
            path,
            deleted: false,
            image: Arc::new(image),
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
