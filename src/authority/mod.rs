//! With whose authority something is done. Root is powerful, and that power must not be used for what others can
//! change: who holds a path ([`Holder`]), where root's own files are ([`own`]), programs of others ([`foreign`]), and
//! the IDs that a child takes for them ([`Identity`]).

pub mod foreign;
mod holder;
mod identity;
pub mod own;

pub use holder::{Holder, believed, believed_or_absent};
pub use identity::{Identity, IdentityError, UserAccount};
