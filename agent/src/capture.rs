//! Arguments and return values as JSON text, for sessions that ask for them. Only objects of the interpreter's own plain
//! types are looked into, and only by functions that read: of anything else the name of its type is told, so no code of
//! the program runs. The text is whole JSON whatever the limit is; what does not fit is left out and an ellipsis is there
//! instead.

use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::{CStr, c_char, c_int};
use core::ptr::null_mut;

use crate::live::LIVE;
use crate::python::{Owned, Ptr, api, type_name, type_of};

/// Longest text in bytes when the session names no limit.
const USUAL_LIMIT: usize = 512;
/// The smallest and the largest limit.
const LIMITS: (usize, usize) = (256, 4096);
/// What is always kept free to close what is open.
const CLOSING: usize = 128;
/// Items of a container that are told, and how deep.
const ITEMS: isize = 8;
const DEPTH: usize = 2;
/// What stands for what was left out.
const ELLIPSIS: &str = "\"\u{2026}\"";

/// The limit that a session gets.
pub(crate) fn limit(asked: u32) -> usize {
    match usize::try_from(asked).unwrap_or(usize::MAX) {
        0 => USUAL_LIMIT,
        limit => limit.clamp(LIMITS.0, LIMITS.1),
    }
}

/// A text that grows up to a limit.
struct Text {
    bytes: Vec<u8>,
    limit: usize,
}

impl Text {
    fn new(limit: usize) -> Text {
        Text {
            bytes: Vec::with_capacity(limit.saturating_add(1)),
            limit,
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes
            .len()
            .saturating_add(bytes)
            .saturating_add(CLOSING)
            <= self.limit
    }

    fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Adds a character of a string literal. False when there is no room.
    fn push_escaped(&mut self, character: char) -> bool {
        if !self.has_room(6) {
            return false;
        }
        match character {
            '"' => self.push("\\\""),
            '\\' => self.push("\\\\"),
            '\n' => self.push("\\n"),
            '\t' => self.push("\\t"),
            '\r' => self.push("\\r"),
            control if control < ' ' => {
                let digit = |value: u32| char::from_digit(value & 15, 16).unwrap_or('0');
                let code = u32::from(control);
                self.push("\\u00");
                let mut buffer = [0; 4];
                self.push(digit(code >> 4).encode_utf8(&mut buffer));
                self.push(digit(code).encode_utf8(&mut buffer));
            }
            other => {
                let mut buffer = [0; 4];
                self.push(other.encode_utf8(&mut buffer));
            }
        }
        true
    }

    /// A string literal of plain text.
    fn push_literal(&mut self, text: &str) {
        self.push("\"");
        for character in text.chars() {
            if !self.push_escaped(character) {
                self.push("\u{2026}");
                break;
            }
        }
        self.push("\"");
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

/// The text of one value, with a NUL.
pub(crate) unsafe fn value(object: Ptr, is_hidden: bool, limit: usize) -> Vec<u8> {
    let mut text = Text::new(limit);
    write_unless(is_hidden, &mut text, object, DEPTH);
    text.finish()
}

/// The arguments of a frame that is just entered, as an object by name in their order, with a NUL.
pub(crate) unsafe fn arguments(
    parameters: &[Parameter],
    frame: Ptr,
    limit: usize,
) -> Option<Vec<u8>> {
    let frame = if frame.is_null() {
        (api().PyEval_GetFrame)()
    } else {
        frame
    };
    if frame.is_null() {
        return None;
    }
    let mut text = Text::new(limit);
    text.push("{");
    for (at, parameter) in parameters.iter().enumerate() {
        if at > 0 {
            text.push(",");
        }
        let mut length = 0;
        if (api().PyUnicode_AsUTF8AndSize)(parameter.name.as_ptr(), &raw mut length).is_null() {
            (api().PyErr_Clear)();
            // It stands there with a character for what is none, of at most four bytes.
            length = (api().PyUnicode_GetLength)(parameter.name.as_ptr()).saturating_mul(4);
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !text.has_room(length.saturating_add(16)) {
            text.push("\"\u{2026}\":null");
            break;
        }
        write_string(&mut text, parameter.name.as_ptr());
        text.push(":");
        match local(frame, parameter) {
            Some(object) => write_unless(parameter.is_hidden, &mut text, object.as_ptr(), DEPTH),
            None => text.push(ELLIPSIS),
        }
    }
    text.push("}");
    Some(text.finish())
}

/// A parameter of a function.
pub(crate) struct Parameter {
    name: Owned,
    /// Its place among the fast locals, up to 3.11: where its cell is, if inner functions use it.
    slot: isize,
    /// Whether its value is left out.
    is_hidden: bool,
}

/// The parameters of a code object, in the order of its locals.
pub(crate) unsafe fn parameters(code: &Owned, flags: i64, minor: u32) -> Vec<Parameter> {
    let count = |name| code.integer_attribute(name, 0);
    // Flags of *args and **kwargs.
    let stars = i64::from(flags & 4 != 0) + i64::from(flags & 8 != 0);
    let all = count(c"co_argcount") + count(c"co_kwonlyargcount") + stars;
    let (Some(names), Some(cells)) = (
        code.attribute(c"co_varnames"),
        code.attribute(c"co_cellvars"),
    ) else {
        return Vec::new();
    };
    let locals = (api().PyTuple_Size)(names.as_ptr());
    let mut parameters = Vec::new();
    for at in 0..(all as isize).min(locals) {
        let Some(name) = Owned::borrowed((api().PyTuple_GetItem)(names.as_ptr(), at)) else {
            continue;
        };
        let mut slot = at;
        if minor < 11 {
            for cell in 0..(api().PyTuple_Size)(cells.as_ptr()) {
                if (api().PyTuple_GetItem)(cells.as_ptr(), cell) == name.as_ptr() {
                    slot = locals + cell;
                }
            }
        }
        let is_hidden = (*LIVE.get()).settings.hidden.has_key(name.as_ptr());
        parameters.push(Parameter {
            name,
            slot,
            is_hidden,
        });
    }
    parameters
}

/// How far the fast locals are into a frame, by the headers of each version on 64-bit machines: `f_localsplus` in the
/// frame object; in 3.11 `localsplus` in what its `f_frame` (the second number) points to.
const LOCALS_3_9: usize = 360;
const LOCALS_3_10: usize = 352;
const LOCALS_3_11: (usize, usize) = (72, 24);

impl Parameter {
    /// The same once more.
    pub(crate) unsafe fn again(&self) -> Option<Parameter> {
        Some(Parameter {
            name: Owned::borrowed(self.name.as_ptr())?,
            ..*self
        })
    }

    /// Whether it is called so.
    pub(crate) unsafe fn is_named(&self, name: &str) -> bool {
        let mut length = 0;
        let text = (api().PyUnicode_AsUTF8AndSize)(self.name.as_ptr(), &raw mut length);
        if text.is_null() {
            (api().PyErr_Clear)();
            return false;
        }
        let length = usize::try_from(length).unwrap_or(0);
        core::slice::from_raw_parts(text.cast::<u8>(), length) == name.as_bytes()
    }
}

/// The value of a parameter.
pub(crate) unsafe fn local(frame: Ptr, parameter: &Parameter) -> Option<Owned> {
    if let Some(get) = api().PyFrame_GetVar {
        return Owned::take(get(frame, parameter.name.as_ptr()));
    }
    let minor = crate::python::minor();
    let frame: *const u8 = frame.cast();
    let locals: *const Ptr = match minor {
        9 => frame.add(LOCALS_3_9).cast(),
        10 => frame.add(LOCALS_3_10).cast(),
        11 => {
            let inner = frame.add(LOCALS_3_11.1).cast::<*const u8>().read();
            inner.add(LOCALS_3_11.0).cast()
        }
        _ => return None,
    };
    let object = locals.offset(parameter.slot).read();
    if object.is_null() {
        return None;
    }
    if type_of(object) == api().PyCell_Type {
        return Owned::take((api().PyCell_Get)(object));
    }
    Owned::borrowed(object)
}

/// A value, or only its type where its name says that it is nobody's business.
unsafe fn write_unless(is_hidden: bool, text: &mut Text, object: Ptr, depth: usize) {
    if !is_hidden {
        return write(text, object, depth);
    }
    write_head(text, &type_name(type_of(object)), None);
    text.push(",\"hidden\":true}");
}

/// Whether the value that belongs to a key is left out.
unsafe fn is_hidden(key: Ptr) -> bool {
    (*LIVE.get()).settings.hidden.has_key(key)
}

unsafe fn write(text: &mut Text, object: Ptr, depth: usize) {
    let kind = type_of(object);
    let python = api();
    if !text.has_room(ELLIPSIS.len()) {
        text.push(ELLIPSIS);
    } else if object == python._Py_NoneStruct {
        text.push("null");
    } else if object == python._Py_TrueStruct {
        text.push("true");
    } else if object == python._Py_FalseStruct {
        text.push("false");
    } else if kind == python.PyLong_Type {
        write_integer(text, object);
    } else if kind == python.PyFloat_Type {
        write_float(text, object);
    } else if kind == python.PyUnicode_Type {
        write_string(text, object);
    } else if kind == python.PyBytes_Type {
        write_bytes(text, object);
    } else if kind == python.PyList_Type {
        write_items(text, "list", (python.PyList_Size)(object), depth, |at| {
            (python.PyList_GetItem)(object, at)
        });
    } else if kind == python.PyTuple_Type {
        write_items(text, "tuple", (python.PyTuple_Size)(object), depth, |at| {
            (python.PyTuple_GetItem)(object, at)
        });
    } else if kind == python.PyDict_Type {
        write_dictionary(text, object, depth);
    } else if kind == python.PySet_Type {
        write_head(text, "set", Some((python.PySet_Size)(object)));
        text.push("}");
    } else if kind == python.PyFrozenSet_Type {
        write_head(text, "frozenset", Some((python.PySet_Size)(object)));
        text.push("}");
    } else {
        write_head(text, &type_name(kind), None);
        text.push("}");
    }
}

/// `{"type":"list","size":3`, still open.
fn write_head(text: &mut Text, kind: &str, size: Option<isize>) {
    text.push("{\"type\":");
    text.push_literal(kind);
    if let Some(size) = size {
        text.push(",\"size\":");
        text.push(&alloc::format!("{size}"));
    }
}

unsafe fn write_integer(text: &mut Text, object: Ptr) {
    let mut overflow: c_int = 0;
    let value = (api().PyLong_AsLongLongAndOverflow)(object, &raw mut overflow);
    if overflow == 0 {
        text.push(&alloc::format!("{value}"));
    } else {
        write_head(text, "int", None);
        text.push("}");
    }
}

unsafe fn write_float(text: &mut Text, object: Ptr) {
    let value = (api().PyFloat_AsDouble)(object);
    if !value.is_finite() {
        text.push(if value.is_nan() {
            "\"nan\""
        } else if value > 0.0 {
            "\"inf\""
        } else {
            "\"-inf\""
        });
        return;
    }
    // The shortest text that reads back as the same number, as repr has it ('r', with ".0" added: flag 2).
    let written = (api().PyOS_double_to_string)(value, b'r' as c_char, 0, 2, null_mut());
    if written.is_null() {
        (api().PyErr_Clear)();
        text.push(ELLIPSIS);
        return;
    }
    let number: String = CStr::from_ptr(written).to_string_lossy().into_owned();
    (api().PyMem_Free)(written.cast());
    text.push(&number);
}

/// Character by character, because a UTF-8 form would stay in the string object.
unsafe fn write_string(text: &mut Text, object: Ptr) {
    text.push("\"");
    for at in 0..(api().PyUnicode_GetLength)(object) {
        let character = (api().PyUnicode_ReadChar)(object, at);
        let character = char::from_u32(character).unwrap_or(char::REPLACEMENT_CHARACTER);
        if !text.push_escaped(character) {
            text.push("\u{2026}");
            break;
        }
    }
    text.push("\"");
}

/// Bytes that are ASCII as they are, others as `\xNN`.
unsafe fn write_bytes(text: &mut Text, object: Ptr) {
    let size = (api().PyBytes_Size)(object);
    write_head(text, "bytes", Some(size));
    let start = (api().PyBytes_AsString)(object).cast::<u8>();
    text.push(",\"text\":\"");
    for at in 0..usize::try_from(size).unwrap_or(0) {
        let byte = *start.add(at);
        let written = match byte {
            b' '..=b'~' if byte != b'\\' => text.push_escaped(char::from(byte)),
            _ if !text.has_room(16) => false,
            _ => {
                text.push(&alloc::format!("\\\\x{byte:02x}"));
                true
            }
        };
        if !written {
            text.push("\u{2026}");
            break;
        }
    }
    text.push("\"}");
}

unsafe fn write_items(
    text: &mut Text,
    kind: &str,
    size: isize,
    depth: usize,
    item: impl Fn(isize) -> Ptr,
) {
    write_head(text, kind, Some(size));
    if depth > 1 && text.has_room(32) {
        text.push(",\"items\":[");
        for at in 0..size.min(ITEMS) {
            if at > 0 {
                text.push(",");
            }
            if !text.has_room(48) {
                text.push(ELLIPSIS);
                break;
            }
            // A pair can be a key and its value, as in a list of headers.
            let is_hidden = size == 2 && at == 1 && is_hidden(item(0));
            write_unless(is_hidden, text, item(at), depth - 1);
        }
        text.push("]");
    }
    text.push("}");
}

unsafe fn write_dictionary(text: &mut Text, object: Ptr, depth: usize) {
    write_head(text, "dict", Some((api().PyDict_Size)(object)));
    if depth > 1 && text.has_room(32) {
        text.push(",\"items\":[");
        let (mut at, mut key, mut value) = (0_isize, null_mut(), null_mut());
        let mut count = 0;
        while count < ITEMS
            && (api().PyDict_Next)(object, &raw mut at, &raw mut key, &raw mut value) != 0
        {
            if count > 0 {
                text.push(",");
            }
            if !text.has_room(64) {
                text.push(ELLIPSIS);
                break;
            }
            text.push("[");
            write(text, key, depth - 1);
            text.push(",");
            write_unless(is_hidden(key), text, value, depth - 1);
            text.push("]");
            count += 1;
        }
        text.push("]");
    }
    text.push("}");
}
