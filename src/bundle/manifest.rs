//! What a bundle says of itself: for what it was made, what was asked for, and how long its parts are.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::BundleError;
use super::error::OURS;
use crate::probe::{AGENT_PROVIDER, Probe};
use crate::python::marks::PROVIDER;
use crate::script::filter::{Glob, GlobError};
use crate::script::{Filters, ProbedImage, Request, TIMED_CALLS, TOTALS};

/// The version of the format. Others are not read.
const FORMAT: u32 = 1;
/// Most images of a bundle.
const MOST_IMAGES: usize = 64;
/// Longest name of a module that Linux takes (`MODULE_NAME_LEN` and a NUL).
const LONGEST_NAME: usize = 55;

/// The first line of a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Version of the format.
    pub(crate) format: u32,
    /// Version of the pystap that made it.
    pub(crate) pystap: String,
    /// The kernel that the module is for.
    pub(crate) kernel: KernelBuild,
    /// The SystemTap that compiled it.
    pub(crate) systemtap: SystemTap,
    /// What the script was made of.
    pub(crate) asked: Asked,
    /// What it probes.
    pub(crate) images: Vec<Image>,
    /// Checksum of the tapsets that the script uses (CRC-32).
    pub(crate) tapsets: u32,
    /// Name of the module, without an ending.
    pub(crate) module: String,
    /// How long the parts are.
    pub(crate) parts: Parts,
}

/// A kernel, as precisely as its headers tell which one it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KernelBuild {
    /// As `uname -r` has it.
    pub(crate) release: String,
    /// Its number, options and time, as `uname -v` has them; `None` where the headers do not say.
    pub(crate) build: Option<String>,
    /// As `uname -m` has it.
    pub(crate) machine: String,
}

/// A SystemTap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SystemTap {
    /// `5.6`.
    pub(crate) version: String,
    /// The words that all programs of one build have in them, such as `Debian version 5.6-1`.
    pub(crate) build: String,
}

impl fmt::Display for SystemTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.version)?;
        match self.build.is_empty() {
            true => Ok(()),
            false => write!(f, ", {}", self.build),
        }
    }
}

/// What a script was made of, besides its images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Event kinds, in the order in which they were asked for.
    pub(crate) events: Vec<String>,
    /// Templates.
    pub(crate) templates: Vec<String>,
    /// Which functions.
    pub(crate) filters: Globs,
    /// The shortest call that was asked for, in nanoseconds.
    pub(crate) min_duration_ns: Option<u64>,
    /// Whether all calls come from the agent.
    pub(crate) agent: bool,
    /// Whether none do.
    pub(crate) no_agent: bool,
    /// Further arguments for stap.
    pub(crate) stap_arguments: Vec<String>,
}

impl Asked {
    /// Whether calls are added up in the kernel.
    pub(crate) fn totals(&self) -> bool {
        self.templates.iter().any(|it| it == TOTALS)
    }

    /// Whether calls are measured in the kernel.
    pub(crate) fn times_calls(&self) -> bool {
        self.templates.iter().any(|it| it == TIMED_CALLS)
    }

    /// In words: `call, return, gc; function handle`.
    pub(crate) fn described(&self) -> String {
        let mut words = match self.totals() {
            true => format!("sums of {}", self.events.join(", ")),
            false => self.events.join(", "),
        };
        if self.times_calls() {
            words.push_str("; calls that are long enough");
        }
        if let Ok(filters) = self.filters.filters()
            && !filters.is_empty()
        {
            words.push_str(&format!("; {filters}"));
        }
        words
    }
}

/// Filters as text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Globs {
    functions: Vec<String>,
    files: Vec<String>,
    modules: Vec<String>,
    not_functions: Vec<String>,
    not_files: Vec<String>,
    not_modules: Vec<String>,
}

impl From<&Filters> for Globs {
    fn from(filters: &Filters) -> Globs {
        let texts = |globs: &[Glob]| globs.iter().map(|it| it.as_str().to_owned()).collect();
        Globs {
            functions: texts(&filters.functions),
            files: texts(&filters.files),
            modules: texts(&filters.modules),
            not_functions: texts(&filters.not_functions),
            not_files: texts(&filters.not_files),
            not_modules: texts(&filters.not_modules),
        }
    }
}

impl Globs {
    /// The filters.
    ///
    /// # Errors
    /// When one of them is no glob.
    pub(crate) fn filters(&self) -> Result<Filters, GlobError> {
        type Read = Result<Vec<Glob>, GlobError>;
        let plain = |texts: &[String]| -> Read { texts.iter().map(|it| Glob::new(it)).collect() };
        let modules =
            |texts: &[String]| -> Read { texts.iter().map(|it| Glob::module(it)).collect() };
        Ok(Filters {
            functions: plain(&self.functions)?,
            files: plain(&self.files)?,
            modules: modules(&self.modules)?,
            not_functions: plain(&self.not_functions)?,
            not_files: plain(&self.not_files)?,
            not_modules: modules(&self.not_modules)?,
        })
    }
}

/// An image that is probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Its path on the host that it is for.
    pub(crate) path: String,
    /// Its build ID, without which nothing is bundled.
    pub(crate) build_id: String,
    /// The version of Python; `None` for the agent's library, and where nobody knows.
    pub(crate) version: Option<String>,
    /// Whose probes they are, CPython's own or the agent's.
    pub(crate) provider: String,
    /// Their names.
    pub(crate) marks: Vec<String>,
    /// Whether it is a library of programs.
    pub(crate) library: bool,
    /// Whether the arguments of calls are taken from its probe.
    pub(crate) arguments: bool,
}

impl Image {
    /// Whether it is the agent's library.
    pub(crate) fn is_agent(&self) -> bool {
        self.provider == AGENT_PROVIDER
    }

    /// The same for the script; `None` where it names a provider that there is not.
    fn probed(&self) -> Option<ProbedImage> {
        let mut providers = [PROVIDER, AGENT_PROVIDER].into_iter();
        Some(ProbedImage {
            path: self.path.clone(),
            provider: providers.find(|it| *it == self.provider)?,
            marks: self.marks.clone(),
            library: self.library,
            arguments: self.arguments,
        })
    }
}

/// How long the parts are, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parts {
    /// The script.
    pub(crate) script: u64,
    /// The module.
    pub(crate) module: u64,
    /// The agent's library; `None` without one.
    pub(crate) agent: Option<u64>,
}

/// What manifests of every format have.
#[derive(Deserialize)]
struct Any {
    format: u32,
    pystap: String,
}

impl Manifest {
    /// One of this pystap, without anything in it.
    pub(crate) fn of_ours() -> Manifest {
        Manifest {
            format: FORMAT,
            pystap: OURS.to_owned(),
            ..Manifest::default()
        }
    }

    /// The manifest in the first line of the file at `path`.
    ///
    /// # Errors
    /// [`BundleError`] when it is none, of another pystap, or not what one can be.
    pub(super) fn parse(line: &[u8], path: &Path) -> Result<Manifest, BundleError> {
        let Ok(any) = serde_json::from_slice::<Any>(line) else {
            return Err(BundleError::NoBundle(path.to_owned()));
        };
        if any.format != FORMAT || any.pystap != OURS {
            return Err(BundleError::OtherVersion {
                path: path.to_owned(),
                made_by: any.pystap,
            });
        }
        let damaged = |reason: String| BundleError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let manifest: Manifest = serde_json::from_slice(line)
            .map_err(|error| damaged(format!("what it says of itself cannot be read: {error}")))?;
        manifest
            .wrong()
            .map_or(Ok(()), |reason| Err(damaged(reason.to_owned())))?;
        Ok(manifest)
    }

    /// What about it cannot be, a clause.
    fn wrong(&self) -> Option<&'static str> {
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let has_plain_name = self.module.starts_with("stap_")
            && self.module.len() <= LONGEST_NAME
            && self.module.bytes().all(is_plain);
        let known: BTreeSet<&str> = Probe::ALL.into_iter().map(Probe::name).collect();
        let is_known = |image: &Image| {
            Path::new(&image.path).is_absolute()
                && !image.build_id.is_empty()
                && image.probed().is_some()
                && image.marks.iter().all(|mark| known.contains(mark.as_str()))
        };
        let images = self.images.iter();
        let distinct: BTreeSet<_> = images.map(|it| (&it.path, &it.provider)).collect();
        let has_agent = self.images.iter().any(Image::is_agent);
        [
            (
                !has_plain_name,
                "its module has a name that stap gives none",
            ),
            (
                self.images.is_empty() || self.images.len() > MOST_IMAGES,
                "it is for no interpreter, or for too many",
            ),
            (
                !self.images.iter().all(is_known),
                "it names probes or interpreters that there cannot be",
            ),
            (
                self.images.len() != distinct.len(),
                "it names an interpreter twice",
            ),
            (
                self.asked.filters.filters().is_err(),
                "its filters are no globs",
            ),
            (
                has_agent != self.parts.agent.is_some(),
                "it probes an agent that is not in it, or has one that it does not probe",
            ),
        ]
        .into_iter()
        .find_map(|(is_wrong, what)| is_wrong.then_some(what))
    }

    /// The request that its script was made for.
    pub(crate) fn request(&self) -> Request {
        Request {
            images: self.images.iter().filter_map(Image::probed).collect(),
            templates: self.asked.templates.clone(),
            events: self.asked.events.clone(),
            filters: self.asked.filters.filters().unwrap_or_default(),
        }
    }

    /// Interpreters in words: `Python 3.15.0 (/usr/bin/python3.15)`.
    pub(crate) fn interpreters(&self) -> String {
        let of_python = self.images.iter().filter(|image| !image.is_agent());
        let named = of_python.map(|image| match &image.version {
            Some(version) => format!("Python {version} ({})", image.path),
            None => image.path.clone(),
        });
        let named: Vec<String> = named.collect();
        match named.is_empty() {
            true => "every Python that the agent gets into".to_owned(),
            false => named.join(", "),
        }
    }
}
