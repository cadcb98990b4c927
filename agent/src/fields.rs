//! Fields: values that a session asks for by paths that begin at arguments. They are read and never computed (`stored`).
//!
//! What is a property, or is stored in a container of the program's own making, is absent, and it is said why.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::ffi::CStr;
use core::fmt::Write as _;

use pystap_agent_protocol::{CALLER, CURRENT_SPAN, Part, RETURNED};
use pystap_glob::Glob;
use pystap_ring::fields::{Absent, FieldsWriter, Value};

use crate::asked::{Asked, Fields};
use crate::capture::{self, Parameter};
use crate::python::{Owned, Ptr, api, type_name, type_of, uncollected};
use crate::shards::Shard;
use crate::stored::{attribute, found, integer, is_text, item, text};
use crate::{contexts, names, span};

/// Frames that are looked through for who called.
const MOST_CALLERS: usize = 256;

/// The fields of a function: those that are read when a call begins or goes on, and those that are read when it returns a value.
#[derive(Default)]
pub(crate) struct OfFunction {
    pub(crate) at_entry: Vec<Field>,
    pub(crate) at_return: Vec<Field>,
}

/// The fields of a function, by its names without its classes and with them, and its parameters.
pub(crate) unsafe fn of(asked: &Fields, names: [&[u8]; 2], parameters: &[Parameter]) -> OfFunction {
    let mut fields = OfFunction::default();
    for (number, asked) in asked.applying_to(names) {
        if let Some(from) = Origin::of(asked, parameters) {
            let field = Field { number, from };
            match asked.at_return {
                true => fields.at_return.push(field),
                false => fields.at_entry.push(field),
            }
        }
    }
    fields
}

/// A field of one function.
pub(crate) struct Field {
    number: u8,
    from: Origin,
}

/// Where it comes from.
enum Origin {
    /// The current span.
    Span,
    /// The nearest caller that is in none of these files.
    Caller(PassedOver),
    /// The way from what is returned.
    Returned(Vec<Step>),
    /// The way from an argument.
    Argument(Parameter, Vec<Step>),
}

impl Origin {
    /// Nothing where the function has no such argument.
    unsafe fn of(asked: &Asked, parameters: &[Parameter]) -> Option<Origin> {
        let steps =
            || -> Option<Vec<Step>> { asked.path.iter().map(|part| Step::of(part)).collect() };
        Some(match asked.argument.as_str() {
            CURRENT_SPAN => Origin::Span,
            CALLER => {
                let globs = asked.path.iter().filter_map(|part| match part {
                    Part::Key(glob) => Glob::new(glob).ok(),
                    _ => None,
                });
                Origin::Caller(PassedOver {
                    globs: globs.collect(),
                    known: RefCell::new(Vec::new()),
                })
            }
            RETURNED => Origin::Returned(steps()?),
            name => {
                let mut parameters = parameters.iter();
                let parameter = parameters.find(|parameter| parameter.is_named(name))?;
                Origin::Argument(parameter.again()?, steps()?)
            }
        })
    }
}

enum Step {
    Attribute(Owned),
    Key(Owned),
    Number(i64),
}

impl Step {
    unsafe fn of(part: &Part) -> Option<Step> {
        Some(match part {
            Part::Attribute(name) => Step::Attribute(Owned::name(name)?),
            Part::Key(key) => Step::Key(Owned::name(key)?),
            Part::Number(number) => Step::Number(*number),
        })
    }

    /// From an object to the next one.
    unsafe fn from(&self, object: Ptr) -> Result<Owned, Absent> {
        match self {
            Step::Attribute(name) => attribute(object, name.as_ptr()),
            Step::Key(key) => {
                if type_of(object) != api().PyDict_Type {
                    return Err(Absent::NoDict);
                }
                found(object, |other| is_text(other, key.as_ptr()))?.ok_or(Absent::NoKey)
            }
            Step::Number(number) => item(object, *number),
        }
    }
}

/// The fields of a call that begins, goes on or returns a value, where its frame is at hand, else with null for it; `returned` is
/// null where nothing is.
pub(crate) unsafe fn read(
    shard: Shard,
    fields: &[Field],
    frame: Ptr,
    returned: Ptr,
) -> Option<FieldsWriter> {
    let frame = if frame.is_null() {
        (api().PyEval_GetFrame)()
    } else {
        frame
    };
    if frame.is_null() {
        return None;
    }
    let mut told = FieldsWriter::new(fields.len());
    for field in fields {
        let read = match &field.from {
            Origin::Span => match span::current() {
                Some(bytes) => {
                    put_text(&mut told, field.number, &bytes);
                    continue;
                }
                None => Err((Absent::Unbound, 0)),
            },
            Origin::Caller(passed_over) => {
                // Frame objects are made.
                match uncollected(|| caller(shard, frame, passed_over, told.room())) {
                    Some(bytes) => {
                        put_text(&mut told, field.number, &bytes);
                        continue;
                    }
                    None => Err((Absent::Unbound, 0)),
                }
            }
            Origin::Returned(steps) => follow(Owned::borrowed(returned), steps),
            Origin::Argument(parameter, steps) => follow(capture::local(frame, parameter), steps),
        };
        match read {
            Ok(object) => put(&mut told, field.number, object.as_ptr()),
            Err((why, at)) => told.put(field.number, Value::Absent(why, at)),
        }
    }
    Some(told)
}

/// A text of our own, which is short enough.
fn put_text(told: &mut FieldsWriter, field: u8, bytes: &[u8]) {
    let is_cut = false;
    told.put(field, Value::Text { bytes, is_cut });
}

/// What a path leads to, or why it does not and at which of its parts; where it begins is the first.
unsafe fn follow(from: Option<Owned>, steps: &[Step]) -> Result<Owned, (Absent, u8)> {
    let mut object = from.ok_or((Absent::Unbound, 0))?;
    for (at, step) in (1..).zip(steps) {
        object = step.from(object.as_ptr()).map_err(|why| (why, at))?;
    }
    Ok(object)
}

/// The nearest caller of a frame that is in none of these files.
unsafe fn caller(
    shard: Shard,
    frame: Ptr,
    passed_over: &PassedOver,
    room: usize,
) -> Option<Vec<u8>> {
    /// Greenlets that are gone through.
    const MOST_GREENLETS: usize = 8;
    let above = Owned::take((api().PyFrame_GetBack)(frame));
    let mut found = nearest(above, passed_over, room);
    let mut greenlet = contexts::greenlet(shard).and_then(|it| Owned::borrowed(it));
    for _ in 0..MOST_GREENLETS {
        let Search::Ended = found else { break };
        let parent = contexts::parent(shard, &greenlet?)?;
        let waits = parent.frame?;
        // A library has made a greenlet of its own, and waits for it. What begins greenlets for others, such as a hub, did not call.
        let code = Owned::take((api().PyFrame_GetCode)(waits.as_ptr()))?;
        if !passed_over.has(&code)? {
            return None;
        }
        found = nearest(Some(waits), passed_over, room);
        greenlet = Some(parent.greenlet);
    }
    match found {
        Search::Found(site) => Some(site),
        Search::Ended | Search::GivenUp => None,
    }
}

/// What became of a search for who called.
enum Search {
    Found(Vec<u8>),
    /// The stack ended before.
    Ended,
    GivenUp,
}

/// The nearest of these frames that is in none of the files.
unsafe fn nearest(from: Option<Owned>, passed_over: &PassedOver, room: usize) -> Search {
    let mut next = from;
    for _ in 0..MOST_CALLERS {
        let Some(frame) = next else {
            return Search::Ended;
        };
        let code = Owned::take((api().PyFrame_GetCode)(frame.as_ptr()));
        let has = code.as_ref().and_then(|code| passed_over.has(code));
        let (Some(code), Some(has)) = (code, has) else {
            return Search::GivenUp;
        };
        if !has {
            let line = (api().PyFrame_GetLineNumber)(frame.as_ptr());
            let site = site(&code, line, room);
            return site.map_or(Search::GivenUp, Search::Found);
        }
        next = Owned::take((api().PyFrame_GetBack)(frame.as_ptr()));
    }
    Search::GivenUp
}

/// `NAME (FILE:LINE)`; of names that are too long the beginning.
unsafe fn site(code: &Owned, line: i32, room: usize) -> Option<Vec<u8>> {
    /// Bytes of the marks and the line.
    const REST: usize = 16;
    let mut own = Vec::new();
    let mut text = |name| names::utf8(code, name, &mut own);
    let name = text(c"co_qualname").or_else(|| text(c"co_name"))?;
    let [name, file] = [name, text(c"co_filename")?].map(|it| CStr::from_ptr(it).to_bytes());
    let share = names::longest([name.len(), file.len()], room.saturating_sub(REST));
    let most = share.unwrap_or(usize::MAX);
    let mut site = Vec::from(names::beginning(name, most));
    site.extend_from_slice(b" (");
    site.extend_from_slice(names::beginning(file, most));
    let mut place = alloc::string::String::new();
    // Writing to a String cannot fail.
    let _ = write!(place, ":{line})");
    site.extend_from_slice(place.as_bytes());
    Some(site)
}

/// The files that are passed over on the way to who called.
struct PassedOver {
    globs: Vec<Glob>,
    /// Names of files that were looked at, with what was found: code objects of a file share one string.
    known: RefCell<Vec<(Owned, bool)>>,
}

impl PassedOver {
    /// Whether the file of a code object is one of them.
    unsafe fn has(&self, code: &Owned) -> Option<bool> {
        /// Names that are kept.
        const MOST_KNOWN: usize = 64;
        let file = code.attribute(c"co_filename")?;
        let mut known = self.known.try_borrow_mut().ok()?;
        let mut all = known.iter();
        if let Some((_, has)) = all.find(|(it, _)| it.as_ptr() == file.as_ptr()) {
            return Some(*has);
        }
        let mut own = Vec::new();
        let name = CStr::from_ptr(names::utf8(code, c"co_filename", &mut own)?).to_bytes();
        let has = self.globs.iter().any(|glob| glob.matches(name));
        if known.len() < MOST_KNOWN {
            known.push((file, has));
        }
        Some(has)
    }
}

unsafe fn put(told: &mut FieldsWriter, field: u8, object: Ptr) {
    let (kind, python) = (type_of(object), api());
    if object == python._Py_NoneStruct {
        told.put(field, Value::None);
    } else if object == python._Py_TrueStruct || object == python._Py_FalseStruct {
        told.put(field, Value::Bool(object == python._Py_TrueStruct));
    } else if kind == python.PyLong_Type {
        match integer(object) {
            Some(number) => told.put(field, Value::Integer(number)),
            None => told.put(field, Value::Other(b"int of more than 64 bits")),
        }
    } else if kind == python.PyFloat_Type {
        told.put(field, Value::Float((python.PyFloat_AsDouble)(object)));
    } else if kind == python.PyUnicode_Type {
        let (bytes, is_cut) = text(object, told.room());
        let bytes = &bytes;
        told.put(field, Value::Text { bytes, is_cut });
    } else if kind == python.PyBytes_Type {
        let size = usize::try_from((python.PyBytes_Size)(object)).unwrap_or(0);
        let start = (python.PyBytes_AsString)(object).cast::<u8>();
        let bytes = core::slice::from_raw_parts(start, size.min(told.room()));
        let is_cut = bytes.len() < size;
        told.put(field, Value::Bytes { bytes, is_cut });
    } else {
        told.put(field, Value::Other(type_name(kind).as_bytes()));
    }
}
