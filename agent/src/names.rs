//! Names as marks tell them: bytes with a NUL, mostly UTF-8, and short enough to be told together.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::{CStr, c_char};

use crate::python::{Owned, api};

/// How long each of some strings may be, so that they fit together; nothing if they do.
pub(crate) fn longest<const N: usize>(mut lengths: [usize; N], mut room: usize) -> Option<usize> {
    lengths.sort_unstable();
    for (at, length) in lengths.into_iter().enumerate() {
        let share = room / (N - at);
        if length > share {
            return Some(share);
        }
        room -= length;
    }
    None
}

/// The first bytes of a text, at most so many, that end where a character does.
pub(crate) fn beginning(text: &[u8], most: usize) -> &[u8] {
    let is_inside = |at: usize| text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let mut end = most.min(text.len());
    while end > 0 && is_inside(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// A string attribute as UTF-8 with a NUL. A string with lone surrogates has no such form. Its bytes are those of the file
/// system where they are that (a file name that is not UTF-8), else escaped, as NULs in it are; kept in `own`.
pub(crate) unsafe fn utf8(
    code: &Owned,
    name: &CStr,
    own: &mut Vec<Box<[u8]>>,
) -> Option<*const c_char> {
    let text = code.attribute(name)?;
    let mut size = 0;
    let kept = (api().PyUnicode_AsUTF8AndSize)(text.as_ptr(), &raw mut size);
    if kept.is_null() {
        (api().PyErr_Clear)();
    } else if CStr::from_ptr(kept).count_bytes() == size as usize {
        return Some(kept);
    }
    let mut bytes = Vec::new();
    if kept.is_null()
        && let Some(encoded) = Owned::take((api().PyUnicode_EncodeFSDefault)(text.as_ptr()))
    {
        bytes.extend(CStr::from_ptr((api().PyBytes_AsString)(encoded.as_ptr())).to_bytes());
        if bytes.len() as isize != (api().PyBytes_Size)(encoded.as_ptr()) {
            bytes.clear();
        }
    }
    if bytes.is_empty() {
        escape(&text, &mut bytes);
    }
    bytes.push(0);
    let bytes = bytes.into_boxed_slice();
    let kept = bytes.as_ptr().cast();
    own.push(bytes);
    Some(kept)
}

/// UTF-8 with `\u{d800}` for what has none, and the bytes that Python has made surrogates of.
unsafe fn escape(text: &Owned, bytes: &mut Vec<u8>) {
    for at in 0..(api().PyUnicode_GetLength)(text.as_ptr()) {
        let code = (api().PyUnicode_ReadChar)(text.as_ptr(), at);
        match char::from_u32(code) {
            Some(character) if character != '\0' => {
                bytes.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            None if (0xdc80..=0xdcff).contains(&code) => bytes.push(code as u8),
            _ => bytes.extend(alloc::format!("\\u{{{code:x}}}").as_bytes()),
        }
    }
}
