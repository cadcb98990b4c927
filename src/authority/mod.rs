//! With whose authority something is done. Root is powerful, and what others can change must not be done with that power:
//! who holds a path ([`Holder`]), where root's own files are ([`own`]), programs of others ([`foreign`]), and the ids that a
//! child takes for them ([`Identity`]).

pub mod foreign;
mod holder;
mod identity;
pub mod own;

pub use holder::{Holder, believed, believed_or_absent};
pub use identity::{Identity, IdentityError, UserAccount};
