//! Bundles from the engine's side: making one of a compiled module, and whether one does for a plan on this host.

use std::fs;
use std::path::Path;

use flate2::Crc;

use super::{Identity, Module, Script, StapError, Toolchain};
use crate::agent::{self, PlacedLibrary};
use crate::bundle::{
    Asked, Bundle, BundleError, Here, Image, KernelBuild, Manifest, Parts, SystemTap,
};
use crate::elf;
use crate::failure::Failure;
use crate::probe::AGENT_PROVIDER;
use crate::script;
use crate::session::plan::Plan;
use crate::session::request::AgentUsage;
use crate::session::templates::Templates;

/// Whether the module of a bundle can be loaded here, as far as that can be told without doing it.
///
/// # Errors
/// Why not.
pub(crate) fn loads(bundle: &Bundle) -> Result<(), Failure> {
    loader(bundle, None).map(drop)
}

/// What loads the module of a bundle here. `stap` is the one that the user names, whose loader is taken.
///
/// # Errors
/// When the bundle is not for this kernel, and when its loader is not there, or is another one.
pub(super) fn loader(bundle: &Bundle, stap: Option<&Path>) -> Result<Toolchain, Failure> {
    bundle.fits_kernel(&Here::look())?;
    bundle.fits_files(|path| Some(elf::Image::open(path).ok()?.build_id))?;
    let made_by = &bundle.manifest.systemtap;
    let toolchain = Toolchain::loader(stap, &made_by.version).map_err(|error| match error {
        StapError::Missing { .. } => Failure::from(BundleError::NoLoader {
            path: bundle.path.clone(),
        }),
        error => error.into(),
    })?;
    let of_build = Identity {
        version: made_by.version.clone(),
        build: made_by.build.clone(),
        tested: None,
        features: Vec::new(),
        belongs: None,
    };
    // One that says nothing is tried.
    let loader = Identity::of_companion(&toolchain.staprun, &of_build).ok();
    if loader.and_then(|it| it.belongs) == Some(false) {
        return Err(BundleError::OtherLoader {
            path: bundle.path.clone(),
            loader: toolchain.staprun,
            made_by: made_by.to_string(),
        }
        .into());
    }
    Ok(toolchain)
}

/// Whether the module of a bundle tells what a plan needs.
///
/// # Errors
/// What would take another one.
pub(super) fn fits(
    bundle: &Bundle,
    plan: &Plan,
    stap_arguments: &[String],
) -> Result<(), BundleError> {
    bundle.fits(&plan.request(), &plan.builds(), stap_arguments)
}

/// The agent's library where the module of a bundle looks for it, where nobody else puts it there: no target needs the agent.
///
/// # Errors
/// When it cannot be put there.
pub(super) fn agent(bundle: &Bundle, plan: &Plan) -> Result<Option<PlacedLibrary>, Failure> {
    let mut images = bundle.manifest.images.iter();
    let Some(image) = images.find(|image| image.is_agent()) else {
        return Ok(None);
    };
    let at = Path::new(&image.path);
    if plan.libraries().any(|(path, _)| path == at) {
        return Ok(None);
    }
    let placed = PlacedLibrary::here()?;
    match placed.path() == at {
        true => Ok(Some(placed)),
        false => Err(BundleError::NoAgent {
            path: bundle.path.clone(),
            reason: "it can be put elsewhere only than where the module looks for it",
        }
        .into()),
    }
}

/// Whether the script of a bundle is what the templates here make of the same request: a template of the user's own may have
/// changed, and what the script sends is read here.
///
/// # Errors
/// When it is not, or a template is wrong.
pub(super) fn is_ours(bundle: &Bundle, templates: &Templates) -> Result<(), Failure> {
    let rendered = script::render(&templates.catalogue, &bundle.manifest.request())?;
    let tapsets = checksum(&templates.tapsets()?.text());
    match rendered == bundle.script && tapsets == bundle.manifest.tapsets {
        true => Ok(()),
        false => Err(BundleError::Script {
            path: bundle.path.clone(),
        }
        .into()),
    }
}

/// Whether what a plan probes can be found elsewhere by its path and build ID.
///
/// # Errors
/// What cannot be.
pub(super) fn can_be_elsewhere(plan: &Plan) -> Result<(), BundleError> {
    // Whoever loads modules is root there.
    let at = agent::library_of_root();
    let mut libraries = plan.libraries().map(|(path, _)| path);
    if let Some(library) = libraries.find(|path| **path != at) {
        let library = library.clone();
        return Err(BundleError::AgentPlace { library, at });
    }
    images(plan).map(drop)
}

/// A bundle of what was compiled for a plan, for the file at `path`.
///
/// # Errors
/// When an image of the plan cannot be recognised elsewhere, or the module cannot be read.
pub(super) fn make(
    path: &Path,
    plan: &Plan,
    usage: AgentUsage,
    script: &Script,
    module: &Module,
    toolchain: &Toolchain,
) -> Result<Bundle, Failure> {
    let images = images(plan)?;
    let compiled = fs::read(&module.path).map_err(|reason| StapError::Workspace {
        path: module.path.clone(),
        reason,
    })?;
    let has_agent = images.iter().any(Image::is_agent);
    let agent = has_agent.then(|| agent::library().to_vec());
    let request = plan.request();
    let length = |bytes: &[u8]| bytes.len() as u64;
    let name = module.path.file_stem().unwrap_or_default();
    let identity = Identity::of(&toolchain.stap).ok();
    let manifest = Manifest {
        parts: Parts {
            script: length(script.text.as_bytes()),
            module: length(&compiled),
            agent: agent.as_deref().map(length),
        },
        kernel: KernelBuild {
            release: toolchain.kernel.clone(),
            build: toolchain.kernel_build(),
            machine: Here::look().machine,
        },
        systemtap: SystemTap {
            version: toolchain.version.clone(),
            build: identity.map(|it| it.build).unwrap_or_default(),
        },
        asked: Asked {
            events: request.events,
            templates: request.templates,
            filters: (&request.filters).into(),
            min_duration_ns: plan.minimum_ns(),
            agent: usage == AgentUsage::Always,
            no_agent: usage == AgentUsage::Never,
            stap_arguments: script.arguments.clone(),
        },
        images,
        tapsets: checksum(&script.tapsets.text()),
        module: name.to_string_lossy().into_owned(),
        ..Manifest::of_ours()
    };
    Ok(Bundle {
        path: path.to_owned(),
        manifest,
        script: script.text.clone(),
        module: compiled,
        agent,
    })
}

fn images(plan: &Plan) -> Result<Vec<Image>, BundleError> {
    let version = |path: &str| {
        let mut images = plan.images.iter();
        let image = images.find(|image| image.path == Path::new(path))?;
        Some(image.interpreter.version.as_ref()?.to_string())
    };
    let request = plan.request();
    let probed = request.images.into_iter().zip(plan.builds());
    probed
        .map(|(image, (path, build_id))| {
            Ok(Image {
                version: version(&image.path).filter(|_| image.provider != AGENT_PROVIDER),
                build_id: build_id.ok_or(BundleError::Unmarked { path })?,
                path: image.path,
                provider: image.provider.to_owned(),
                marks: image.marks,
                library: image.library,
                arguments: image.arguments,
            })
        })
        .collect()
}

fn checksum(text: &str) -> u32 {
    let mut checksum = Crc::new();
    checksum.update(text.as_bytes());
    checksum.sum()
}
