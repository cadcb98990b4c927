//! System calls of Python processes, by function: calls as the kernel tells them ([`crate::waits`]), joined with the stacks that
//! looks from outside saw ([`crate::sampling`]), added up.
//!
//! Number, errors and times are exact. The function is exact where a look fell into the call, from its beginning to its end: a
//! thread that is in a call does not change its Python stack. The others are shared out.

mod errors;
mod json;
mod live;
mod objects;
mod session;
mod table;
mod tally;

pub(crate) use json::document;
pub(crate) use live::show;
pub(crate) use objects::On;
pub(crate) use session::{Options, Session};
pub(crate) use table::page;
pub(crate) use tally::{By, Snapshot};
