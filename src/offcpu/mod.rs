//! Where threads of Python processes wait, by function: waits ([`crate::waits`]) joined with the stack that a thread had while it
//! waited ([`crate::sampling`]), added up.
//!
//! A stack is read while its thread waits, every few milliseconds from the outside, and thrown away if the thread has run
//! meanwhile. So what is read is exact. Waits that were too short to be caught are known by thread, reason and system call, and are
//! shared out among the functions that were caught there.
//!
//! Where every call is traced, too, each wait has the calls that were open then, and nothing is shared out ([`calls`]).
//!
//! Where a module of SystemTap adds up instead, it reads the stack of each wait, and nothing is shared out ([`summed`]).

mod calls;
mod folded;
mod json;
mod live;
mod older;
mod session;
mod source;
mod summed;
mod table;
mod tally;

pub(crate) use calls::{AllCalls, Shown};
pub(crate) use folded::folded;
pub(crate) use json::document;
pub(crate) use live::show;
pub(crate) use session::{Options, Session};
pub(crate) use source::Source;
pub(crate) use summed::{Known, SummedError, SummedSession};
pub(crate) use table::{lost, page};
pub(crate) use tally::{By, Snapshot};
