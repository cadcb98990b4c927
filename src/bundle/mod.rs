//! Bundles: a compiled module, the script that it was compiled from and the agent that it probes, as one file for hosts that have
//! neither compiler nor headers.
//!
//! # The file
//!
//! One member of gzip, whose checksum vouches for all of it. Unpacked: one line of JSON, the [`Manifest`], which says for what it
//! was made and how long each part is; then the parts one after the other, the script, the module and the agent's library.
//!
//! # Whom it is believed from
//!
//! A module runs in the kernel, so a bundle is read only where nobody but root and the user of this pystap could have written it.
//! What it says of itself is bounded and checked for form before anything is done with it; no path in it is opened or written.
//! Whether it [fits](fit) is decided by comparing plain data, before anything is loaded.

mod error;
mod file;
mod fit;
#[doc(hidden)]
pub mod fuzzing;
mod manifest;
#[cfg(test)]
mod tests;

pub(crate) use self::error::BundleError;
pub(crate) use self::file::Bundle;
pub(crate) use self::fit::Here;
pub(crate) use self::manifest::{Asked, Image, KernelBuild, Manifest, Parts, SystemTap};
