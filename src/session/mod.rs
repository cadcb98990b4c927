//! A session: what is asked for ([`request`]), what is known of the host ([`snapshot`]), what is decided of both ([`decide`],
//! [`plan`]), how it begins ([`opening`]) and how it runs ([`running`]).

mod absence;
pub(crate) mod agents;
mod bundled;
mod choose;
pub(crate) mod decide;
#[cfg(test)]
mod decide_tests;
pub(crate) mod describe;
pub(crate) mod elsewhere;
mod latecomers;
mod lookout;
mod missed;
pub(crate) mod opening;
pub mod pipe;
pub(crate) mod plan;
pub(crate) mod refusal;
pub(crate) mod request;
pub(crate) mod running;
pub(crate) mod search;
pub(crate) mod snapshot;
pub(crate) mod sought;
pub(crate) mod stop;
pub(crate) mod strangers;
pub(crate) mod templates;
mod thread_names;
pub(crate) mod wanted;
