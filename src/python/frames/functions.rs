//! The functions that a program has made, found among the objects that the garbage collector knows.

use std::collections::HashSet;

use super::heap::{self, Bounds, Pages};
use super::memory::{Memory, Unread};
use super::objects::Reader;
use super::stack::added;
use super::types::{Kind, Types};

/// Where a function has its code object and its qualified name: up to 3.9, and later (Include/cpython/funcobject.h).
const FIELDS: [(u64, u64); 2] = [(16, 104), (48, 40)];
/// Most functions that are told.
const MOST: usize = 1 << 17;
/// How many are read at a time.
const BATCH: usize = 1 << 10;

/// A function that can be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    /// Without classes and outer functions.
    pub(crate) name: String,
    /// With them.
    pub(crate) qualname: String,
    /// As its code object has it.
    pub(crate) file: String,
}

/// Tells the functions of the interpreters whose garbage collectors have their states here, each code once, as far as they are
/// found within these bounds.
pub(super) fn each<M: Memory>(
    reader: &Reader<M>,
    collectors: &[u64],
    bounds: Bounds,
    mut take: impl FnMut(Made),
) {
    let types = Types::default();
    let mut found = Vec::new();
    for collector in collectors {
        let visit = |object, its_type| {
            let its_type = types.at(&reader.memory, &reader.layout, its_type);
            if found.len() < MOST && its_type.is_ok_and(|it| it.kind == Kind::Function) {
                found.push(object);
            }
        };
        // What could not be walked has no functions for us.
        let _ = heap::walk(&reader.memory, &reader.layout, *collector, bounds, visit);
    }
    found.sort_unstable();
    found.dedup();
    let mut codes = HashSet::new();
    for functions in found.chunks(BATCH) {
        if bounds.are_over() {
            return;
        }
        let pages = Reader::new(Pages::of(&reader.memory), reader.layout);
        for function in functions {
            // It may be gone since.
            if let Ok((code, made)) = read(&pages, *function)
                && codes.insert(code)
            {
                take(made);
            }
        }
    }
}

fn read<M: Memory>(reader: &Reader<M>, function: u64) -> Result<(u64, Made), Unread> {
    for (code_at, qualname_at) in FIELDS {
        let code = reader.memory.number(added(function, code_at)?)?;
        let Ok(told) = reader.functions(&[code]) else {
            continue;
        };
        let Some((told, _)) = told.first() else {
            continue;
        };
        let name = reader
            .memory
            .number(added(code, reader.layout.code.name)?)?;
        let name = reader.name(name)?;
        let qualname = match reader.layout.code.qualname {
            Some(_) => told.name.clone(),
            None => {
                let qualname = reader.memory.number(added(function, qualname_at)?)?;
                let qualname = reader.name(qualname).ok();
                // A decorator may have given it another one.
                let own = |it: &String| it.rsplit('.').next() == Some(&name);
                qualname.filter(own).unwrap_or_else(|| name.clone())
            }
        };
        let file = told.file.clone();
        return Ok((
            code,
            Made {
                name,
                qualname,
                file,
            },
        ));
    }
    Err(Unread::Senseless)
}
