//! What a process has mapped, from its /proc/PID/maps.
//!
//! Not by procfs's own reader alone: that takes every path that begins with `/SYSV` for shared memory of System V, expects
//! eight hexadecimal digits behind it, and panics or fails where there are none (procfs 0.18.0). Anybody can map a file of such
//! a name, so these lines are left out: nothing that we look for is there.

use std::io::Read;

use procfs::process::{MemoryMaps, Process};
use procfs::{FromRead, ProcResult};

/// The mappings of a process.
///
/// # Errors
/// As procfs has them.
pub(crate) fn of(process: &Process) -> ProcResult<MemoryMaps> {
    let mut text = Vec::new();
    process.open_relative("maps")?.read_to_end(&mut text)?;
    parse(&text)
}

/// The mappings of which this is the text.
///
/// # Errors
/// As [`of`].
pub(crate) fn parse(text: &[u8]) -> ProcResult<MemoryMaps> {
    let mut kept = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        // At the beginning of a field: within a path it is a part of a name like any other.
        let is_shared_memory = line
            .windows(6)
            .any(|six| six.ends_with(b"/SYSV") && !is_text(six));
        // procfs takes any other line for one of `smaps`, which this is not.
        let range = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        let is_mapping = range.contains(&b'-')
            && range
                .iter()
                .all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
        // The stack of a thread, as kernels before 4.5 had it: read as text with a character at each end.
        let is_stack = line.windows(7).any(|seven| seven == b"[stack:");
        if is_mapping && !is_shared_memory && !is_stack {
            kept.extend_from_slice(line);
        }
    }
    MemoryMaps::from_read(kept.as_slice())
}

/// Whether the first of these bytes is a visible character of ASCII.
fn is_text(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_called_like_shared_memory_hides_nothing_and_ends_nothing() {
        for name in [
            "/SYSV",
            "/SYSVn3.11",
            "/SYSVnothexad",
            "/SYSVäöü",
            "/SYSV0000002a (deleted)",
        ] {
            let text = format!(
                "7f0000000000-7f0000001000 r-xp 00000000 08:01 131 /usr/bin/python3.11\n\
                 7f0000001000-7f0000002000 r--s 00000000 08:01 132 {name}\n\
                 7f0000002000-7f0000003000 r-xp 00000000 08:01 133 /usr/lib/libc.so.6\n"
            );
            let maps = parse(text.as_bytes()).expect(name);
            let inodes: Vec<u64> = maps.into_iter().map(|map| map.inode).collect();
            assert_eq!(inodes, [131, 133], "{name}");
        }
    }
}
