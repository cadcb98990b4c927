//! The agent from our side: a library (the crate `pystap-agent`) that gives an interpreter the marks that it lacks. This
//! room knows the ways into a process, puts the library where the process sees it, and speaks with it. What its marks say is
//! for the engines: to them its library is one more image.
//!
//! [`AttachMethod`] is the first door: how a process could be entered, found out without touching it. [`Agents`] is the second: the
//! agents of one session, from the first file to the last word.

mod attach;
mod attach_method;
mod config;
mod control;
mod directory;
mod embedded;
pub mod environment;
mod error;
mod foreign;
#[doc(hidden)]
pub mod fuzzing;
mod injection;
pub mod install;
mod joining;
mod loaded;
mod numbers;
mod placement;
mod registry;
mod remote;
mod socket;
mod symbols;
mod view;
mod visit;
mod window;

pub use attach::{Agents, Attached, expected_library, remarks};
pub use attach_method::{
    AttachMethod, AttachMethodError, NEWEST, OLDEST, obstacle_of_build, offer, supported,
};
pub use config::{AgentConfig, COLLECTIONS, CONTEXT, Capture, FUNCTIONS, KINDS, PROVIDER};
pub use control::{AgentAccount, Joined, Outcome};
pub use embedded::image;
pub use error::AgentError;
pub use injection::InjectionError;
pub use joining::Untraced;
pub use loaded::{Loaded, waiting};
pub use placement::{PlacementError, Stale, remove_stale};
pub use remote::{Remote, RemoteError};
pub use visit::{serve as visit, visit_through};
pub use window::{WindowError, serve as serve_window};
