//! The agent from our side: a library (the crate `pystap-agent`) that gives an interpreter the probes that it lacks. This
//! room knows the ways into a process, puts the library where the process sees it, and speaks with it. What its probes say is
//! for the engines: to them its library is one more image.
//!
//! [`AttachMethod`] is the first door: how a process could be entered, found out without touching it. [`Agents`] is the second: the
//! agents of one session, from the first file to the last word.
//!
//! The library itself is the crate in `/agent`; `build.rs` builds it and `embedded` holds it. The provider of
//! its probes is `pystap`. That they say more than CPython's is known to the decoder of one
//! engine and to the templates of the other; what their flags mean, to `engine/flags.rs`. Where an interpreter's own
//! probes and the agent would tell the same twice, that is settled per process, by what its agent is configured to
//! tell.
//!
//! # Order
//!
//! Files first (`placement`). Then the engine is armed. Then agents are let in, so that their first call is seen.
//! However an agent comes in, it calls us: it *joins* a socket of ours in its own network namespace (`socket`), as
//! the child of a fork does, and waits the moment until it is told to start. So nobody polls, and there is one
//! conversation (`control`) for every way in. Only a dormant agent is called by us.
//!
//! # Ways in
//!
//! | way | where |
//! |---|---|
//! | the environment of a command that pystap launches | [`environment`] |
//! | PEP 768, a running Python 3.14 or later | `remote` |
//! | an agent that was installed and sleeps, or that an earlier session left | `loaded`, [`install`] |
//! | `--inject ptrace` | `injection` |
//!
//! *Why not gdb* for the last one: it has to be installed, takes a second, and puts breakpoints into the code; when it
//! is ended halfway they stay there, or the process stays stopped.
//!
//! # Who ran untraced
//!
//! is counted by the reason: whoever knew a secret and could not be started, because it had hung up, came while pystap
//! was stopped, was not confirmed, found no room, or refused; and Pythons below the launched command that never asked.
//! For the last, the uprobes engine compares the interpreters that processes were seen to map with the processes that
//! joined with the launched command's secret. With SystemTap, which has no such records, they are the Pythons that a look once
//! per second finds without an agent, as those that begin anew below a process that was attached to are with either engine.

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
mod site;
mod socket;
mod symbols;
mod view;
mod visit;
mod window;

pub use attach::{
    Agents, Attached, PlacedLibrary, expected_library, library_of_root, processes, remarks,
    usual_library,
};
pub use attach_method::{
    AttachMethod, AttachMethodError, NEWEST, OLDEST, REMOTE, obstacle_of_build, offer, supported,
};
pub use config::{AgentConfig, COLLECTIONS, CONTEXT, Capture, FUNCTIONS, PROVIDER};
pub use control::{AgentAccount, Joined, Outcome};
pub use embedded::{bring, image, library};
pub use error::AgentError;
pub use injection::InjectionError;
pub use joining::Untraced;
pub use loaded::{Loaded, is_without, waiting};
pub use placement::{PlacementError, Stale, remove_stale};
pub use remote::{Remote, RemoteError};
pub use visit::{serve as visit, visit_through};
pub use window::{WindowError, serve as serve_window};
