//! The mappings of a process, from its /proc/PID/maps.
//!
//! Not with procfs's own reader alone: it takes every path that begins with `/SYSV` for System V shared memory, expects
//! eight hexadecimal digits after it, and panics or fails without them (procfs 0.18.0). Anyone can map a file with such
//! a name, so these lines are left out: nothing that we look for is there.

use std::io::Read;

use procfs::process::{MemoryMaps, Process};
use procfs::{FromRead, ProcResult};

/// The mappings of a process.
///
/// # Errors
/// Those of procfs.
pub(crate) fn of(process: &Process) -> ProcResult<MemoryMaps> {
    let mut text = Vec::new();
    process.open_relative("maps")?.read_to_end(&mut text)?;
    parse(&text)
}

/// Parses the text of a maps file.
///
/// # Errors
/// As [`of`].
pub(crate) fn parse(text: &[u8]) -> ProcResult<MemoryMaps> {
    let mut kept = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        // At the beginning of a field: within a path it is part of a name like any other.
        let is_shared_memory = line
            .windows(6)
            .any(|six| six.ends_with(b"/SYSV") && !is_text(six));
        // The kernel writes addresses in small letters. What begins with a capital one procfs takes to be from `smaps`, which
        // this is not, and multiplies what it says.
        let range = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        let is_mapping = range.contains(&b'-')
            && range
                .iter()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        // A thread's stack, in the form of kernels before 4.5: read as text with one character at each end.
        let is_stack = line.windows(7).any(|seven| seven == b"[stack:");
        if is_mapping && !is_shared_memory && !is_stack {
            kept.extend_from_slice(line);
        }
    }
    MemoryMaps::from_read(kept.as_slice())
}

/// Whether the first of these bytes is a visible ASCII character.
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

    #[test]
    fn lines_that_the_kernel_does_not_write_in_maps_are_left_out() {
        let text = "1000-2000 r-xp 00000000 08:01 131 /usr/bin/python3.11\n\
                    A-B 18446744073709551615 kB\n\
                    Rss: 18446744073709551615 kB\n\
                    3000-4000 r-xp 00000000 08:01 133 /usr/lib/libc.so.6\n";
        let inodes = parse(text.as_bytes()).expect("mappings").into_iter();
        let inodes: Vec<u64> = inodes.map(|map| map.inode).collect();
        assert_eq!(inodes, [131, 133]);
    }
}
