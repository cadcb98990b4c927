//! What objects store, read and never computed: attributes where instances store them, keys and items of the interpreter's own
//! containers. No code of the program runs for it, and nothing is allocated that the interpreter's collector knows.

use alloc::vec::Vec;
use core::ffi::{c_int, c_long, c_ulong};
use core::ptr::null_mut;

use pystap_ring::fields::Absent;

use crate::python::{Object, Owned, Ptr, api, minor, type_of};

/// Keys of a dict that are looked through for one.
const MOST_KEYS: usize = 4096;

/// What is stored as an attribute of an object, or is a plain value of its class.
pub(crate) unsafe fn stored(object: &Owned, name: &str) -> Option<Owned> {
    attribute(object.as_ptr(), Owned::name(name)?.as_ptr()).ok()
}

/// The value of the first key of a dict, or of what is derived from it, that is a string with this beginning.
pub(crate) unsafe fn beginning_with(dict: &Owned, beginning: &[u8]) -> Option<Owned> {
    if (api().PyType_IsSubtype)(type_of(dict.as_ptr()), api().PyDict_Type) == 0 {
        return None;
    }
    let is_wanted =
        |key| type_of(key) == api().PyUnicode_Type && text(key, beginning.len()).0 == beginning;
    found(dict.as_ptr(), is_wanted).ok().flatten()
}

/// What a dict has for a number.
pub(crate) unsafe fn of_number(dict: &Owned, number: i64) -> Option<Owned> {
    item(dict.as_ptr(), number).ok()
}

/// The beginning of a string as UTF-8, and whether there is more of it. By way of its characters, because a whole UTF-8 form
/// would stay in the string object. Surrogates, which have no such form, are written as if they had one.
pub(crate) unsafe fn text(object: Ptr, room: usize) -> (Vec<u8>, bool) {
    let length = usize::try_from((api().PyUnicode_GetLength)(object)).unwrap_or(0);
    let count = length.min(room);
    let beginning = match count < length {
        true => Owned::take((api().PyUnicode_Substring)(object, 0, count as isize)),
        false => Owned::borrowed(object),
    };
    let mut characters: Vec<u32> = Vec::with_capacity(count);
    if count > 0
        && let Some(beginning) = beginning
    {
        let copied = (api().PyUnicode_AsUCS4)(
            beginning.as_ptr(),
            characters.as_mut_ptr(),
            count as isize,
            0,
        );
        match copied.is_null() {
            true => (api().PyErr_Clear)(),
            false => characters.set_len(count),
        }
    }
    let mut bytes = Vec::with_capacity(count);
    let mut told = 0;
    for code in characters {
        if code < 0x80 && bytes.len() < room {
            bytes.push(code as u8);
        } else {
            let mut buffer = [0; 4];
            let encoded: &[u8] = match char::from_u32(code) {
                Some(character) => character.encode_utf8(&mut buffer).as_bytes(),
                None => {
                    let six = |shift: u32| 0x80 | (code >> shift) as u8 & 0x3f;
                    buffer = [0xe0 | (code >> 12) as u8 & 0x0f, six(6), six(0), 0];
                    buffer.get(..3).unwrap_or_default()
                }
            };
            if bytes.len().saturating_add(encoded.len()) > room {
                break;
            }
            bytes.extend_from_slice(encoded);
        }
        told += 1;
    }
    (bytes, told < length)
}

pub(crate) unsafe fn integer(object: Ptr) -> Option<i64> {
    let mut overflow: c_int = 0;
    let value = (api().PyLong_AsLongLongAndOverflow)(object, &raw mut overflow);
    (overflow == 0).then_some(value)
}

/// Whether an object is a string, of the interpreter's own type, with this text.
pub(crate) unsafe fn is_text(object: Ptr, text: Ptr) -> bool {
    object == text
        || (type_of(object) == api().PyUnicode_Type
            && (api().PyUnicode_GetLength)(object) == (api().PyUnicode_GetLength)(text)
            && (api().PyUnicode_Compare)(object, text) == 0)
}

/// The value of the first key of a dict that is wanted. To look a key up would be to compare it with others, which can be
/// the program's own.
pub(crate) unsafe fn found(
    dict: Ptr,
    wanted: impl Fn(Ptr) -> bool,
) -> Result<Option<Owned>, Absent> {
    let (mut at, mut key, mut value) = (0_isize, null_mut(), null_mut());
    let mut count = 0;
    while (api().PyDict_Next)(dict, &raw mut at, &raw mut key, &raw mut value) != 0 {
        if wanted(key) {
            return Ok(Owned::borrowed(value));
        }
        count += 1;
        if count >= MOST_KEYS {
            return Err(Absent::TooManyKeys);
        }
    }
    Ok(None)
}

/// What a list, a tuple or a dict has for a number.
pub(crate) unsafe fn item(object: Ptr, number: i64) -> Result<Owned, Absent> {
    let (kind, python) = (type_of(object), api());
    if kind == python.PyDict_Type {
        let is_wanted = |key| type_of(key) == python.PyLong_Type && integer(key) == Some(number);
        return found(object, is_wanted)?.ok_or(Absent::NoKey);
    }
    let (size, get) = if kind == python.PyList_Type {
        ((python.PyList_Size)(object), python.PyList_GetItem)
    } else if kind == python.PyTuple_Type {
        ((python.PyTuple_Size)(object), python.PyTuple_GetItem)
    } else {
        return Err(Absent::NoItems);
    };
    let size = size as i64;
    let at = if number < 0 {
        number.saturating_add(size)
    } else {
        number
    };
    if at < 0 || at >= size {
        return Err(Absent::NoItem);
    }
    Owned::borrowed(get(object, at as isize)).ok_or(Absent::NoItem)
}

/// `Py_TPFLAGS_MANAGED_DICT`: the interpreter keeps the dict of instances before them (3.11 and later).
const MANAGED_DICT: c_ulong = 1 << 4;
/// How many words before an object its dict is then.
const DICT_BEFORE: usize = 3;
/// How far the slots of a descriptor type are into it, the same in every version: `tp_descr_get` and `tp_descr_set`.
const DESCR_GET: usize = 272;
const DESCR_SET: usize = 280;
/// Where the type whose objects have a slot is in its descriptor, behind the head; where the description is, behind that, its
/// name and qualified name; and in that, what is in the slot and where.
const OWNER: usize = 16;
const MEMBER: usize = 40;
const MEMBER_KIND: usize = 8;
const MEMBER_OFFSET: usize = 16;
/// Objects, that may be missing (`T_OBJECT`, `T_OBJECT_EX`).
const OBJECTS: [c_int; 2] = [6, 16];
/// Integers of C, as types in C have them: `T_INT`, and `T_LONG`, `T_LONGLONG` and `T_PYSSIZET`, which are of 64 bits here.
const INT: c_int = 1;
const LONGS: [c_int; 3] = [2, 17, 19];

/// An attribute that is stored in an object, or a plain value of its class.
pub(crate) unsafe fn attribute(object: Ptr, name: Ptr) -> Result<Owned, Absent> {
    let (Some(look_up), Some(generic)) =
        (api()._PyType_Lookup, api()._PyObject_GenericGetAttrWithDict)
    else {
        return Err(Absent::OwnStorage);
    };
    let kind = type_of(object);
    if (api().PyType_IsSubtype)(kind, api().PyType_Type) != 0 {
        // A class has what it stores, or what one that it is derived from does.
        let stored = look_up(object, name);
        return match stored.is_null() {
            false if computes(stored) => Err(Absent::Computed),
            _ => Owned::borrowed(stored).ok_or(Absent::NoAttribute),
        };
    }
    // What the class has for the name comes first where it is a descriptor that sets.
    let of_class = look_up(kind, name);
    let is_computed = !of_class.is_null() && computes(of_class);
    if !of_class.is_null() {
        let descriptor = type_of(of_class);
        if descriptor == api().PyMemberDescr_Type {
            return slot(object, kind, of_class);
        }
        if has_slot(descriptor, DESCR_SET) {
            return Err(match descriptor == api().PyProperty_Type {
                true => Absent::Property,
                false => Absent::Computed,
            });
        }
    }
    let stored = match dict(object, kind)? {
        Some(dict) => found(dict, |key| is_text(key, name))?,
        // Without a dict it takes values from where the interpreter has them, and calls no descriptor: there is none.
        None if !is_computed => Owned::take(generic(object, name, null_mut(), 1)),
        None => return Err(Absent::Computed),
    };
    match stored {
        Some(stored) => Ok(stored),
        None if of_class.is_null() => Err(Absent::NoAttribute),
        None if is_computed => Err(Absent::Computed),
        None => Owned::borrowed(of_class).ok_or(Absent::NoAttribute),
    }
}

/// Whether a class computes an attribute for which it has this, instead of having it.
unsafe fn computes(of_class: Ptr) -> bool {
    has_slot(type_of(of_class), DESCR_GET)
}

/// Whether a type has something in a slot that is so far into it.
unsafe fn has_slot(kind: Ptr, at: usize) -> bool {
    !kind.cast::<u8>().add(at).cast::<Ptr>().read().is_null()
}

/// The dict with the attributes of an object; none where it has no such dict at the moment.
unsafe fn dict(object: Ptr, kind: Ptr) -> Result<Option<Ptr>, Absent> {
    let dict = if (api().PyType_GetFlags)(kind) & MANAGED_DICT != 0 && minor() >= 11 {
        let dict = object.cast::<usize>().sub(DICT_BEFORE).read();
        // 3.12 has something else there, with this bit, when there is none.
        if dict & 1 == 1 { 0 } else { dict }
    } else {
        let place = match api()._PyObject_GetDictPtr {
            Some(place) => place(object),
            None => return Err(Absent::OwnStorage),
        };
        if place.is_null() {
            0
        } else {
            place.read() as usize
        }
    };
    let dict: *mut Object = core::ptr::with_exposed_provenance_mut(dict);
    if dict.is_null() {
        return Ok(None);
    }
    if type_of(dict) != api().PyDict_Type {
        return Err(Absent::OwnStorage);
    }
    Ok(Some(dict))
}

/// What is in a slot (`__slots__`), or in an integer of a type in C. A descriptor of one class may stand in another one, whose
/// objects have no such slot: the interpreter raises an error then.
unsafe fn slot(object: Ptr, kind: Ptr, descriptor: Ptr) -> Result<Owned, Absent> {
    let owner = descriptor.cast::<u8>().add(OWNER).cast::<Ptr>().read();
    if (api().PyType_IsSubtype)(kind, owner) == 0 {
        return Err(Absent::Computed);
    }
    let member: *const u8 = descriptor
        .cast::<u8>()
        .add(MEMBER)
        .cast::<*const u8>()
        .read();
    let what = member.add(MEMBER_KIND).cast::<c_int>().read();
    let offset = member.add(MEMBER_OFFSET).cast::<isize>().read();
    let stored = object.cast::<u8>().offset(offset);
    if OBJECTS.contains(&what) {
        return Owned::borrowed(stored.cast::<Ptr>().read()).ok_or(Absent::NoAttribute);
    }
    let number = match what {
        INT => c_long::from(stored.cast::<c_int>().read()),
        _ if LONGS.contains(&what) => stored.cast::<c_long>().read(),
        _ => return Err(Absent::Computed),
    };
    Owned::integer(number).ok_or(Absent::NoAttribute)
}
