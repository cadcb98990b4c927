//! Whether a bundle fits: the kernel of a host, and what a session asks for. Pure functions of plain data.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Bundle, BundleError};
use crate::script::{Filters, ProbedImage, Request};

/// What of a host decides whether a module can be loaded there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Here {
    /// As `uname -r` has it.
    pub(crate) release: String,
    /// As `uname -v` has it.
    pub(crate) build: String,
    /// As `uname -m` has it.
    pub(crate) machine: String,
}

impl Here {
    /// This host.
    pub(crate) fn look() -> Here {
        let uname = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        Here {
            release: text(uname.release()),
            build: text(uname.version()),
            machine: text(uname.machine()),
        }
    }
}

impl Bundle {
    /// Whether the kernel of a host is the one that the module was compiled for.
    ///
    /// # Errors
    /// What is another there.
    pub(crate) fn fits_kernel(&self, here: &Here) -> Result<(), BundleError> {
        let made_for = &self.manifest.kernel;
        let path = self.path.clone();
        if made_for.machine != here.machine {
            return Err(BundleError::Machine {
                path,
                made_for: made_for.machine.clone(),
                here: here.machine.clone(),
            });
        }
        if made_for.release != here.release {
            return Err(BundleError::Kernel {
                path,
                made_for: made_for.release.clone(),
                here: here.release.clone(),
            });
        }
        match &made_for.build {
            Some(build) if *build != here.build => Err(BundleError::KernelBuild {
                path,
                release: made_for.release.clone(),
                made_for: build.clone(),
                here: here.build.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether every interpreter that its module probes is on a host, whoever is traced: the module looks for each file, and would put
    /// its breakpoints into another one of that path, too. `build_of` tells the build ID of a file, or that it is not there.
    ///
    /// # Errors
    /// What is not there, or is another one.
    pub(crate) fn fits_files(
        &self,
        build_of: impl Fn(&Path) -> Option<Option<String>>,
    ) -> Result<(), BundleError> {
        for known in self.manifest.images.iter().filter(|it| !it.is_agent()) {
            let image = PathBuf::from(&known.path);
            let path = self.path.clone();
            let here = match build_of(&image) {
                None => return Err(BundleError::Absent { path, image }),
                Some(here) => here,
            };
            if here.as_deref() != Some(known.build_id.as_str()) {
                return Err(BundleError::ImageBuild {
                    path,
                    image,
                    made_for: known.build_id.clone(),
                    here: here.unwrap_or_else(|| "none".to_owned()),
                });
            }
        }
        Ok(())
    }

    /// Whether its module follows the processes of every program, because it probes a library.
    pub(crate) fn follows_every_program(&self) -> bool {
        self.manifest.images.iter().any(|image| image.library)
    }

    /// Whether its module tells what a session asks for, of the builds that it meets: each image of `wanted` with its build ID in
    /// `builds`. It may tell more: of further interpreters, and where it filters nothing, of functions that pystap leaves out.
    ///
    /// # Errors
    /// What would take another module.
    pub(crate) fn fits(
        &self,
        wanted: &Request,
        builds: &[(PathBuf, Option<String>)],
        stap_arguments: &[String],
    ) -> Result<(), BundleError> {
        let asked = &self.manifest.asked;
        let set = |texts: &[String]| texts.iter().cloned().collect::<BTreeSet<_>>();
        let has = self.manifest.request().filters;
        let mut differs = Vec::new();
        if set(&wanted.events) != set(&asked.events) {
            differs.push("--events");
        } else if wanted.templates != asked.templates {
            differs.push("--min-duration or --totals");
        }
        if !has.is_empty() {
            differs.extend(different_filters(&wanted.filters, &has));
        } else if asked.totals() && !wanted.filters.is_empty() {
            // Sums of functions are not taken apart again.
            differs.extend(different_filters(&wanted.filters, &has));
        }
        if stap_arguments != asked.stap_arguments {
            differs.push("--stap-arg");
        }
        for (image, (path, build_id)) in wanted.images.iter().zip(builds) {
            if self.has_image(image, path, build_id.as_deref())? {
                continue;
            }
            if !differs.contains(&"--events") {
                differs.push("--capture");
            }
        }
        match differs.is_empty() {
            true => Ok(()),
            false => Err(BundleError::Asked {
                path: self.path.clone(),
                differs,
                has: asked.described(),
            }),
        }
    }

    /// Whether it probes this image, and in the same way.
    fn has_image(
        &self,
        image: &ProbedImage,
        path: &Path,
        build_id: Option<&str>,
    ) -> Result<bool, BundleError> {
        let mut images = self.manifest.images.iter();
        let same = |known: &&super::Image| {
            Path::new(&known.path) == path && known.provider == image.provider
        };
        let Some(known) = images.find(same) else {
            let of_agent = image.provider == crate::probe::AGENT_PROVIDER;
            return Err(match of_agent {
                true => BundleError::Agent {
                    path: self.path.clone(),
                    library: path.to_owned(),
                },
                false => BundleError::Interpreter {
                    path: self.path.clone(),
                    interpreter: path.to_owned(),
                    made_for: self.manifest.interpreters(),
                },
            });
        };
        if build_id != Some(known.build_id.as_str()) {
            return Err(BundleError::ImageBuild {
                path: self.path.clone(),
                image: path.to_owned(),
                made_for: known.build_id.clone(),
                here: build_id.unwrap_or("none").to_owned(),
            });
        }
        let marks = |marks: &[String]| marks.iter().cloned().collect::<BTreeSet<_>>();
        Ok(marks(&known.marks) == marks(&image.marks)
            && (known.library, known.arguments) == (image.library, image.arguments))
    }
}

/// The options of filters in which the two differ.
fn different_filters(one: &Filters, other: &Filters) -> Vec<&'static str> {
    let without = |it: &Filters| {
        (
            it.not_functions.clone(),
            it.not_files.clone(),
            it.not_modules.clone(),
        )
    };
    [
        ("--function", one.functions != other.functions),
        ("--file", one.files != other.files),
        ("--module", one.modules != other.modules),
        ("--exclude", without(one) != without(other)),
    ]
    .into_iter()
    .filter_map(|(option, differs)| differs.then_some(option))
    .collect()
}
