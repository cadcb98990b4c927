//! The facts about a host that tracing depends on, gathered once into plain data that can be saved and examined
//! elsewhere. Every fact says where it was read; what cannot be read is unknown with a reason, and never a failure.
//!
//! Reads files below one root (a directory tree serves as well as a host), asks stap for its version, and judges nothing:
//! what a fact means is for [`crate::doctor`] to say.

mod build;
mod confinement;
mod fact;
mod gathering;
mod kernel;
mod packages;
mod python;
mod symbols;
mod systemtap;
#[cfg(test)]
mod tests;
mod tree;

use serde::{Deserialize, Serialize};

use crate::engine::stap::Trial;
use crate::process::Targets;
use crate::script::Catalogue;

pub(crate) use build::{BuildTree, Tools};
pub(crate) use confinement::{Confinement, User};
pub(crate) use fact::Fact;
pub(crate) use gathering::Gathering;
#[cfg(test)]
pub(crate) use kernel::Rings;
pub(crate) use kernel::{Distribution, EVENTS_OF_CALLS, EVENTS_OF_WAITS, Kernel, Loading, Tracing};
pub(crate) use packages::Packages;
pub(crate) use python::Python;
#[cfg(test)]
pub(crate) use python::RemoteDebug;
#[cfg(test)]
pub(crate) use python::Undecodable;
pub(crate) use symbols::{KernelSymbols, Vmlinux};
#[cfg(test)]
pub(crate) use systemtap::Session;
pub(crate) use systemtap::SystemTap;
pub(crate) use tree::Tree;

/// The format of saved facts. Fields are added within one number, never renamed or removed.
pub(crate) const FORMAT: u32 = 1;

/// Everything that was found out. As JSON it is what `--save-facts` writes and `--facts` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the pystap that gathered them.
    pub pystap: String,
    /// Which distribution.
    pub distribution: Fact<Distribution>,
    /// The running kernel.
    pub kernel: Kernel,
    /// What decides whether a module may be loaded.
    pub loading: Loading,
    /// What the kernel offers to tracers.
    pub tracing: Tracing,
    /// What a module is compiled against.
    pub build_tree: BuildTree,
    /// What it is compiled with.
    pub tools: Tools,
    /// Whether packages can be installed.
    #[serde(default = "Packages::not_read")]
    pub packages: Packages,
    /// SystemTap as it is installed.
    pub systemtap: SystemTap,
    /// The user who asks.
    pub user: User,
    /// Container or not.
    pub confinement: Confinement,
    /// Symbols and debug information of the kernel.
    pub symbols: KernelSymbols,
    /// The interpreters that matter, each once.
    pub pythons: Vec<Python>,
    /// Sentences about processes that could not be looked at.
    #[serde(default)]
    pub overlooked: Vec<String>,
    /// Templates that probe the kernel itself and therefore need its debug information.
    #[serde(default)]
    pub kernel_templates: Vec<String>,
    /// A trial compilation, of now or remembered.
    pub trial: Fact<Trial>,
}

impl Gathering {
    /// Gathers everything but the interpreters and the trial, which [`Facts::add_pythons`] and the caller add.
    pub(crate) fn facts(&self, catalogue: &Catalogue) -> Facts {
        let tree = &self.tree;
        let kernel = Kernel::read(tree);
        let release = kernel.release.value().cloned().unwrap_or_default();
        Facts {
            format: FORMAT,
            pystap: env!("CARGO_PKG_VERSION").to_owned(),
            distribution: Distribution::read(tree),
            loading: Loading::read(tree),
            tracing: Tracing::read(tree),
            build_tree: BuildTree::read(tree, &release),
            tools: Tools::read(self, &release),
            packages: Packages::read(self),
            systemtap: SystemTap::read(self),
            user: User::read(tree),
            confinement: Confinement::read(tree),
            symbols: KernelSymbols::read(self, &release),
            kernel,
            pythons: Vec::new(),
            overlooked: Vec::new(),
            kernel_templates: catalogue
                .iter()
                .filter(|template| probes_kernel(&template.text))
                .map(|template| template.name.clone())
                .collect(),
            trial: Fact::unknown("the cache of trials", "no trial was made yet"),
        }
    }
}

/// Whether a script has probes that need debug information of the kernel.
fn probes_kernel(text: &str) -> bool {
    ["kernel.function(", "kernel.statement(", "module("]
        .iter()
        .any(|point| text.contains(point))
}

impl Facts {
    /// Adds the interpreters of these targets.
    pub(crate) fn add_pythons(&mut self, gathering: &Gathering, targets: &Targets) {
        self.pythons = python::of_targets(gathering, targets);
        self.overlooked.extend(targets.notes.iter().cloned());
    }
}
