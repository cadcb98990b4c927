//! Paths that others have a hand in. [`strict`] says whether anybody but root (or, without root, this user) could ever
//! put something else where a path leads; [`look`] opens what may be anything and anybody's, without being kept waiting.

mod look;
mod strict;

pub use look::{Look, look, look_at};
pub use strict::{Lax, strict, strict_for};
