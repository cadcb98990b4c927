//! Entry points for the fuzz target `proc_text`: what /proc says of a process, without that process.

use procfs::FromRead;
use procfs::process::Stat;

use super::table::arguments;
use crate::service::Seen;

/// Classifies a process with this command line, `comm` and all; returns how many programs its words can name.
pub fn command_line(bytes: &[u8]) -> usize {
    let arguments = arguments(bytes);
    let seen = Seen {
        comm: arguments.first().cloned().unwrap_or_default(),
        environment: arguments
            .iter()
            .filter_map(|word| word.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        arguments,
    };
    seen.programs().len()
}

/// The parent of a process with this `comm`, from its /proc/PID/stat, in which only the name is not the kernel's.
pub fn parent(comm: &[u8]) -> Option<i32> {
    let name = comm.get(..15).unwrap_or(comm);
    let rest = [" 0"; 49].concat();
    let stat = [b"7 (", name, b") S 5", rest.as_bytes(), b"\n"].concat();
    Stat::from_read(&stat[..]).ok().map(|stat| stat.ppid)
}
