//! Entry point for the fuzz target `stacks`: the memory of an interpreter, without a process.

use super::layout;
use super::made_up::{BEGIN, PAGE, PAGES, interpreter, look_at};

/// What it takes to change one word: which one, and what it becomes.
const CHANGE: usize = 10;

/// Reads the stacks of threads and tasks of an interpreter some words of which were changed: the first byte is its layout, and each ten after it are the
/// number of a word and its new value.
pub(in crate::python) fn changed(bytes: &[u8]) {
    let known = layout::known();
    let Some((first, changes)) = bytes.split_first() else {
        return;
    };
    let Some(layout) = known.get(usize::from(*first) % known.len().max(1)) else {
        return;
    };
    let mut made_up = interpreter(layout);
    for change in changes.chunks_exact(CHANGE) {
        let Some((place, number)) = change.split_first_chunk() else {
            continue;
        };
        let place = u64::from(u16::from_le_bytes(*place)) % (PAGES * PAGE / 8);
        if let Some(number) = number.first_chunk() {
            made_up.point(BEGIN + place * 8, u64::from_le_bytes(*number));
        }
    }
    look_at(made_up, *layout);
}
