//! What the facts about a host mean for tracing on it: findings, each with its evidence and the commands that fix it,
//! and a verdict for each engine and each kind of event. Pure functions of [`Facts`](crate::host::Facts); nothing here looks at a host, and
//! nothing is ever run.
//!
//! [`examine`] is the door for `pystap doctor`, [`obstacles`] the one for a command whose engine cannot run.
//!
//! # Two rooms
//!
//! `pystap doctor` is two rooms with plain data between them. [`crate::host`] reads files below one root, `/` or a
//! directory of a test, into facts. This room makes findings and verdicts of them and sees nothing else. So a host can
//! be saved, sent and examined elsewhere, and every test of a distribution is a file.
//!
//! A fact is a value, or the knowledge that there is none, or a reason why it is not known, always with its place.
//! Gathering never fails: what cannot be read or makes no sense is unknown, and becomes a finding.
//!
//! A finding names the engines that it `stops`. An engine cannot run exactly when a finding stops it, and [`obstacles`]
//! gives these findings to whoever has an engine that cannot run.

mod agent;
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
mod waits;

pub(crate) use examination::{Examination, examine, obstacles};
pub(crate) use finding::{Engine, Evidence, Finding, Fix, Part, Status};
pub(crate) use report::{Look, fix_script, json, report};
pub(crate) use verdict::{Ability, EventVerdict};
