//! What the end of a recording says, known before the rest is read: some of it is about all that comes before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::reader::unpack;
use super::{BLOCK_HEAD, MAGIC, MAX_JSON, RecordKind};
use crate::event::{Summary, json};

/// Bytes at the end of a trace that was written as JSON in which its last line is looked for.
const LAST_LINE: u64 = 1 << 16;
/// Blocks that are passed over, at most: a recording has fewer, and a file that says otherwise is not worth the time.
const MOST_BLOCKS: usize = 1 << 20;

/// The summary of a recording, or of a trace that was written as JSON, without moving the place from which the file is read. Nothing
/// where it has no end, cannot be read there, as a pipe, or is something else.
pub fn summary(file: &File) -> Option<Summary> {
    let length = file
        .metadata()
        .ok()
        .filter(std::fs::Metadata::is_file)?
        .len();
    let mut magic = [0; MAGIC.len()];
    file.read_exact_at(&mut magic, 0).ok()?;
    let text = match magic == MAGIC {
        true => last_block(file)?,
        false => last_line(file, length)?,
    };
    match json::Reader::new().read(str::from_utf8(&text).ok()?) {
        Ok(json::Line::Summary(summary)) => Some(summary),
        _ => None,
    }
}

/// The block of the summary, found by going from the head of one block to the next.
fn last_block(file: &File) -> Option<Vec<u8>> {
    let mut at = MAGIC.len() as u64 + size_of::<u32>() as u64;
    for _ in 0..MOST_BLOCKS {
        let mut head = [0; BLOCK_HEAD];
        file.read_exact_at(&mut head, at).ok()?;
        let [kind, a, b, c, d, e, f, g, h] = head;
        let packed = u32::from_le_bytes([e, f, g, h]);
        at += BLOCK_HEAD as u64;
        if kind == RecordKind::Summary as u8 {
            let unpacked = u32::from_le_bytes([a, b, c, d]) as usize;
            if unpacked > MAX_JSON || packed as usize > MAX_JSON {
                return None;
            }
            let mut content = vec![0; packed as usize];
            file.read_exact_at(&mut content, at).ok()?;
            return unpack(&content, unpacked, false);
        }
        at += u64::from(packed);
    }
    None
}

fn last_line(file: &File, length: u64) -> Option<Vec<u8>> {
    let begin = length.saturating_sub(LAST_LINE);
    let mut end = vec![0; usize::try_from(length - begin).ok()?];
    let read: io::Result<()> = file.read_exact_at(&mut end, begin);
    read.ok()?;
    let end = end.strip_suffix(b"\n").unwrap_or(&end);
    let line = end.rsplit(|byte| *byte == b'\n').next()?;
    Some(line.to_vec())
}
