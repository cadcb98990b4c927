//! Which functions are wanted, as an event filter that the kernel applies before it makes a record
//! (Documentation/trace/events.rst, "Event filtering"). It lets through whatever [`Filters::accepts`] does, and more
//! where its grammar cannot say it: the session has the last word.

use std::ffi::CString;

use crate::probe::Probe;
use crate::script::Filters;
use crate::script::filter::{Glob, ftrace_glob};

/// Longest filter that the kernel takes: a page, with some room.
const LONGEST: usize = 4000;

/// The filter over the fields `file`, `function` and, where there is one, `qualname`; `None` when everything is wanted, or
/// nothing can be said. What has classes that are not wanted is left to the agent.
pub(super) fn expression(filters: &Filters, qualname: bool) -> Option<CString> {
    let mut terms: Vec<Vec<u8>> = Vec::new();
    let names: &[&str] = match qualname {
        true => &["function", "qualname"],
        false => &["function"],
    };
    for (globs, fields) in [
        (&filters.functions, names),
        (&filters.files, &["file"]),
        (&filters.modules, &["file"]),
    ] {
        // One that cannot be said would have to let everything through, so the whole term goes.
        if let Some(term) = any_of(globs, fields) {
            terms.push(term);
        }
    }
    for (globs, field) in [
        (&filters.not_functions, "function"),
        (&filters.not_files, "file"),
        (&filters.not_modules, "file"),
    ] {
        for glob in globs {
            let exact = ftrace_glob(glob).is_some_and(|glob| glob.exact);
            if let Some(term) = any_of(std::slice::from_ref(glob), &[field]).filter(|_| exact) {
                terms.push([b"!", term.as_slice()].concat());
            }
        }
    }
    // Left out from the end, a term at a time: each only narrows what the others let through.
    let mut text = terms.join(&b" && "[..]);
    while text.len() > LONGEST && terms.pop().is_some() {
        text = terms.join(&b" && "[..]);
    }
    if text.is_empty() {
        return None;
    }
    // What is not about functions is none of the filters' business.
    let others = Probe::ALL.iter().position(|mark| !mark.is_filtered())?;
    CString::new([format!("mark >= {others} || (").as_bytes(), &text, b")"].concat()).ok()
}

/// `(field ~ "a" || field ~ "b")`; `None` without globs, and when one cannot be said.
fn any_of(globs: &[Glob], fields: &[&str]) -> Option<Vec<u8>> {
    let mut comparisons: Vec<Vec<u8>> = Vec::new();
    for glob in globs {
        for value in ftrace_glob(glob)?.values {
            for field in fields {
                comparisons.push([format!("{field} ~ ").as_bytes(), &value].concat());
            }
        }
    }
    if comparisons.is_empty() {
        return None;
    }
    Some([b"(", comparisons.join(&b" || "[..]).as_slice(), b")"].concat())
}

#[cfg(test)]
mod tests;
