//! A trial: whether stap can really build a module for this kernel, and whether the kernel takes it. The outcome is
//! remembered for as long as stap, the kernel's build tree and the compiler are what they were.
//!
//! It compiles the script of `pystap trace --events gc` and, if asked to, runs the module without a target until that
//! says that its probes are armed. The outcome is kept by the fingerprint that compiled modules have, and by the
//! compiler.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};
use serde::{Deserialize, Serialize};

use super::diagnostics::{Diagnostic, Severity};
use super::{Compilation, Module, Progress, Script, Stap, StapError, Start, Toolchain};
use crate::authority::{believed, own};
use crate::engine::{Message, Running, Weight};

/// Loading a module and taking it away again; an emulated machine takes half a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The stap that tried.
    pub stap: String,
    /// The kernel release that it tried for.
    pub kernel: String,
    /// Whether a module came out.
    pub compiled: bool,
    /// Whether it was loaded, answered and went away again; `None` when that was not tried.
    pub loaded: Option<bool>,
    /// What went wrong and what would help, one line; empty when nothing did.
    #[serde(default)]
    pub trouble: String,
    /// What stap said, as it said it.
    #[serde(default)]
    pub excerpt: String,
}

/// A remembered trial on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    key: String,
    trial: Trial,
}

/// Everything that the outcome depends on. `compiler` names the compiler and its build.
fn key(toolchain: &Toolchain, compiler: &str) -> String {
    format!("{}compiler {compiler}\n", toolchain.fingerprint())
}

fn place(key: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    own::cache()
        .join("trials")
        .join(format!("{:016x}.json", hasher.finish()))
}

impl Trial {
    /// Where the outcome for these tools is kept, whether there is one or not.
    pub fn place(toolchain: &Toolchain, compiler: &str) -> PathBuf {
        place(&key(toolchain, compiler))
    }

    /// The outcome of an earlier trial with the same tools.
    pub fn remembered(toolchain: &Toolchain, compiler: &str) -> Option<Trial> {
        let key = key(toolchain, compiler);
        let place = place(&key);
        believed(&place).ok()?;
        let text = fs::read(place).ok()?;
        let remembered: Remembered = serde_json::from_slice(&text).ok()?;
        (remembered.key == key).then_some(remembered.trial)
    }

    /// Remembers the outcome.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub fn remember(&self, toolchain: &Toolchain, compiler: &str) -> io::Result<()> {
        let key = key(toolchain, compiler);
        let place = place(&key);
        if let Some(directory) = place.parent() {
            fs::create_dir_all(directory)?;
        }
        let remembered = Remembered {
            key,
            trial: self.clone(),
        };
        fs::write(place, serde_json::to_vec_pretty(&remembered)?)
    }

    /// Compiles `script`, and with `load` also loads the module and takes it away again. `None` when somebody asked to
    /// stop.
    ///
    /// # Errors
    /// When the directories that stap needs cannot be made. That stap fails is an outcome and not an error.
    pub fn attempt<T>(
        toolchain: Toolchain,
        script: &Script,
        load: bool,
        stop: &Receiver<T>,
    ) -> Result<Option<Trial>, StapError> {
        let mut trial = Trial {
            stap: format!("{} {}", toolchain.stap.display(), toolchain.version),
            kernel: toolchain.kernel.clone(),
            compiled: false,
            loaded: None,
            trouble: String::new(),
            excerpt: String::new(),
        };
        let (engine, _) = Stap::new(toolchain)?;
        let module = match engine.compile(script)? {
            Compilation::Kept(module) => module,
            Compilation::Running(compiling) => {
                let mut said = Vec::new();
                loop {
                    select! {
                        recv(compiling.progress()) -> progress => match progress {
                            Ok(Progress::Diagnostic(diagnostic)) => said.push(*diagnostic),
                            Ok(Progress::Ended) | Err(_) => break,
                        },
                        recv(stop) -> _ => return Ok(None),
                    }
                }
                match compiling.finish(&said) {
                    Ok(module) => module,
                    Err(StapError::NotCompiled { advice }) => {
                        trial.trouble = advice;
                        trial.excerpt = errors(&said);
                        return Ok(Some(trial));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        trial.compiled = true;
        if load {
            match loads(engine, &module, stop)? {
                None => return Ok(None),
                Some(Ok(())) => trial.loaded = Some(true),
                Some(Err(trouble)) => {
                    trial.loaded = Some(false);
                    trial.trouble = trouble;
                }
            }
        }
        Ok(Some(trial))
    }
}

fn errors(said: &[Diagnostic]) -> String {
    said.iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .map(|diagnostic| diagnostic.excerpt.as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Runs the module without any target until it says that its probes are armed, and ends it. The inner error is a line for
/// people; `None` when somebody asked to stop.
fn loads<T>(
    engine: Stap,
    module: &Module,
    stop: &Receiver<T>,
) -> Result<Option<Result<(), String>>, StapError> {
    let mut running = engine.run(module, Start::default(), None)?;
    let deadline = Instant::now() + PATIENCE;
    let mut live = false;
    let mut said = Vec::new();
    loop {
        let message = select! {
            recv(running.messages()) -> message => message,
            recv(stop) -> _ => return Ok(None),
            default(deadline.saturating_duration_since(Instant::now())) => {
                return Ok(Some(Err("the module was loaded and did not answer; look at the kernel's log with `dmesg`".to_owned())));
            }
        };
        match message {
            Ok(Message::Live) => {
                live = true;
                running.stop();
            }
            Ok(Message::Said(Weight::Error, trouble)) => said.push(trouble),
            Ok(Message::Failed(reason)) => said.push(reason),
            Ok(Message::Ended { clean }) => {
                return Ok(Some(match (live && clean, said.into_iter().next()) {
                    (true, _) => Ok(()),
                    (false, Some(trouble)) => Err(trouble),
                    (false, None) => Err(
                        "staprun ended without saying why; look at the kernel's log with `dmesg`"
                            .to_owned(),
                    ),
                }));
            }
            Ok(_) => {}
            Err(_) => {
                return Ok(Some(Err(
                    "staprun went away without a word; look at the kernel's log with `dmesg`"
                        .to_owned(),
                )));
            }
        }
    }
}
