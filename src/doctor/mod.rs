//! What the facts about a host mean for tracing on it: findings, each with its evidence and the commands that mend it, and
//! a verdict for each engine and each kind of event. Pure functions of [`Facts`](crate::host::Facts); nothing here looks at
//! a host, and nothing is ever run.
//!
//! [`examine`] is the door for `pystap doctor`, [`obstacles`] the one for a command whose engine cannot run.

mod building;
mod compatibility;
mod debug;
mod examination;
mod finding;
mod host;
mod kernel;
mod python;
mod remedy;
mod report;
mod systemtap;
#[cfg(test)]
mod tests;
mod uprobes;
mod verdict;

pub use examination::{Examination, examine, obstacles};
pub use finding::{Engine, Evidence, Finding, Fix, Part, Status};
pub use report::{Look, fix_script, json, report};
pub use verdict::{Ability, EventVerdict, Verdict};
