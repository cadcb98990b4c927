//! Fields: values that a session asks for by paths that begin at arguments. They are read and never computed (`stored`).
//!
//! What is a property, or is stored in a container of the program's own making, is absent, and it is said why.

use alloc::vec::Vec;

use pystap_agent_protocol::{CURRENT_SPAN, Part};
use pystap_ring::fields::{Absent, FieldsWriter, Value};

use crate::asked::Fields;
use crate::capture::{self, Parameter};
use crate::python::{Owned, Ptr, api, type_name, type_of};
use crate::span;
use crate::stored::{attribute, found, integer, is_text, item, text};

/// The fields of a function, by its names without its classes and with them, and its parameters.
pub(crate) unsafe fn of(asked: &Fields, names: [&[u8]; 2], parameters: &[Parameter]) -> Vec<Field> {
    let mut fields = Vec::new();
    for (number, asked) in asked.applying_to(names) {
        if asked.argument == CURRENT_SPAN {
            fields.push(Field {
                number,
                parameter: None,
                steps: Vec::new(),
            });
            continue;
        }
        let mut parameters = parameters.iter();
        let parameter = parameters.find(|parameter| parameter.is_named(&asked.argument));
        if let Some(parameter) = parameter.and_then(|it| it.again())
            && let Some(steps) = asked.path.iter().map(|part| Step::of(part)).collect()
        {
            fields.push(Field {
                number,
                parameter: Some(parameter),
                steps,
            });
        }
    }
    fields
}

/// A field of one function.
pub(crate) struct Field {
    number: u8,
    /// None of the current span.
    parameter: Option<Parameter>,
    steps: Vec<Step>,
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

/// The fields of a call that begins or goes on, where its frame is at hand, else with null for it.
pub(crate) unsafe fn read(fields: &[Field], frame: Ptr) -> Option<FieldsWriter> {
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
        let Some(parameter) = &field.parameter else {
            match span::current() {
                Some(bytes) => {
                    let (bytes, is_cut) = (&bytes[..], false);
                    told.put(field.number, Value::Text { bytes, is_cut });
                }
                None => told.put(field.number, Value::Absent(Absent::Unbound, 0)),
            }
            continue;
        };
        match follow(frame, parameter, &field.steps) {
            Ok(object) => put(&mut told, field.number, object.as_ptr()),
            Err((why, at)) => told.put(field.number, Value::Absent(why, at)),
        }
    }
    Some(told)
}

/// What a path leads to, or why it does not and at which of its parts; the argument is the first.
unsafe fn follow(frame: Ptr, parameter: &Parameter, steps: &[Step]) -> Result<Owned, (Absent, u8)> {
    let mut object = capture::local(frame, parameter).ok_or((Absent::Unbound, 0))?;
    for (at, step) in (1..).zip(steps) {
        object = step.from(object.as_ptr()).map_err(|why| (why, at))?;
    }
    Ok(object)
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
