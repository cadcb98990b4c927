//! The stap engine from what stands in its way to its start: which tools there are, whether a script can be compiled with them,
//! and what a loaded module is told.

use std::sync::Arc;

use crossbeam_channel::select;

use super::diagnostics::Severity;
use super::{
    Armed, Compilation, Compiling, Module, Progress, Script, Stap, StapError, Start, Toolchain,
    arguments, bundled, command_lines, failures, forbidden,
};
use crate::agent::{self, PlacedLibrary};
use crate::bundle::Bundle;
use crate::console::Exit;
use crate::engine::Running;
use crate::engine::abilities::{Abilities, Obstacle};
use crate::engine::lifecycle::{Audience, Beginning, Description, Engine, Ready};
use crate::engine::uprobes::LineSemaphores;
use crate::failure::Failure;
use crate::python::mapped_at;
use crate::python::marks::PROVIDER;
use crate::session::plan::Plan;
use crate::session::request::{AgentUsage, EngineOptions, Purpose, SessionRequest};
use crate::session::templates::Templates;
use crate::shell;
use crate::text::Foreign;

/// The engine on this host.
#[derive(Debug)]
pub(crate) struct StapEngine {
    options: EngineOptions,
    purpose: Purpose,
    usage: AgentUsage,
    /// Why no module can be loaded here, whatever is installed.
    forbidden: Option<Obstacle>,
    /// The tools; `None` where nobody has looked.
    toolchain: Option<Result<Toolchain, Obstacle>>,
    /// Why this stap is known to fail here, a clause.
    failed: Option<String>,
}

impl StapEngine {
    /// As it is typed, and as events have it.
    pub(crate) const NAME: &str = "stap";

    /// Nothing is known of the host yet.
    pub(crate) fn new(request: &SessionRequest) -> StapEngine {
        StapEngine {
            options: request.engine.clone(),
            purpose: request.purpose.clone(),
            usage: request.agent.usage,
            forbidden: None,
            toolchain: None,
            failed: None,
        }
    }

    /// What is wrong with options for stap.
    pub(crate) fn misuse(options: &EngineOptions) -> Option<Failure> {
        let mut given = options.stap_arguments.iter();
        let (argument, instead) = given.find_map(|it| Some((it, arguments::replacement(it)?)))?;
        Some(Failure::new(
            Exit::Usage,
            format!(
                "stap's {argument} concerns running, which pystap does itself, so it would have no effect; use {instead}"
            ),
        ))
    }

    /// Looks for the tools, unless no module can be loaded anyway.
    pub(crate) fn look(&mut self) {
        let forbidden = forbidden().map(|error| Obstacle {
            forbidden: true,
            ..obstacle(error.into())
        });
        self.forbidden = forbidden.filter(|_| self.loads());
        if self.forbidden.is_none() {
            let toolchain = self.find();
            let toolchains = toolchain.iter().filter(|_| self.may_give_way());
            self.failed = toolchains.into_iter().find_map(failures::remembered);
            self.toolchain = Some(toolchain.map_err(obstacle));
        }
    }

    /// Whether it matters that a module can be loaded here. A stap that was named may be a wrapper that does its work
    /// elsewhere; what it can do is for it to say.
    fn loads(&self) -> bool {
        !self.purpose.is_compile() && self.options.stap.is_none()
    }

    /// Whether another engine may take its place, so that it need not be tried again.
    fn may_give_way(&self) -> bool {
        self.options.named.is_none()
    }

    /// An engine that was found like this.
    #[cfg(test)]
    pub(crate) fn found(
        request: &SessionRequest,
        forbidden: Option<Obstacle>,
        missing: Option<Obstacle>,
        failed: Option<String>,
    ) -> StapEngine {
        let engine = StapEngine::new(request);
        let toolchain = Toolchain {
            version: "5.2".to_owned(),
            ..Toolchain::assumed()
        };
        StapEngine {
            forbidden: forbidden.filter(|_| engine.loads()),
            toolchain: Some(missing.map_or(Ok(toolchain), Err)),
            failed: failed.filter(|_| engine.may_give_way()),
            ..engine
        }
    }

    fn find(&self) -> Result<Toolchain, Failure> {
        let stap = self.options.stap.as_deref();
        if let Some(bundle) = &self.options.opened {
            return bundled::loader(bundle, stap);
        }
        let kernel = match &self.purpose {
            Purpose::Compile { kernel, .. } => kernel.as_deref(),
            _ => None,
        };
        Ok(Toolchain::find(stap, kernel)?)
    }

    /// The tools that were found, or are now.
    fn toolchain(&self) -> Result<Toolchain, Failure> {
        match &self.toolchain {
            Some(Ok(toolchain)) => Ok(toolchain.clone()),
            Some(Err(obstacle)) => Err(Failure::new(obstacle.exit, obstacle.message.clone())),
            None => self.find(),
        }
    }

    /// The module of a plan. `None` when the user stopped it, or wanted nothing else than that it is compiled.
    fn compiled(
        &self,
        stap: &Stap,
        plan: &Plan,
        templates: &Templates,
        audience: &dyn Audience,
    ) -> Result<Option<Module>, Failure> {
        if let Purpose::Compile {
            bundle: Some(path), ..
        } = &self.purpose
        {
            bundled::can_be_elsewhere(plan)?;
            Bundle::could_be_at(path)?;
        }
        let script = self.script(plan, templates)?;
        let module = match stap.compile(&script)? {
            Compilation::Kept(module) => {
                audience.detail(&format_args!(
                    "the probe script was compiled before: {}",
                    module.path.display()
                ));
                module
            }
            Compilation::Running(compiling) => match compile(compiling, audience)? {
                Some(module) => {
                    failures::forget();
                    module
                }
                None if self.purpose.is_compile() => return Err(StapError::Stopped.into()),
                None => {
                    audience
                        .note(&"stopped while the probe script was compiled; nothing was traced");
                    return Ok(None);
                }
            },
        };
        let Purpose::Compile { bundle, .. } = &self.purpose else {
            return Ok(Some(module));
        };
        match bundle {
            Some(path) => {
                let toolchain = stap.toolchain();
                let bundle = bundled::make(path, plan, self.usage, &script, &module, toolchain)?;
                let length = bundle.write()?;
                audience.note(&format_args!(
                    "made {} ({length} bytes) for {} on Linux {}; there, `pystap trace --bundle {} -p PID` needs staprun and no compiler",
                    Foreign::path(path),
                    Foreign::new(&bundle.manifest.interpreters()),
                    Foreign::new(&toolchain.kernel),
                    shell::path(path),
                ));
            }
            None => audience.note(&format_args!(
                "compiled; traces with the same options start at once now ({})",
                module.path.display()
            )),
        }
        Ok(None)
    }

    fn script(&self, plan: &Plan, templates: &Templates) -> Result<Script, Failure> {
        Ok(Script {
            text: templates.script(plan)?,
            tapsets: templates.tapsets()?,
            images: plan.builds(),
            arguments: self.options.stap_arguments.clone(),
        })
    }
}

fn obstacle(failure: Failure) -> Obstacle {
    Obstacle {
        exit: failure.exit,
        message: failure.message,
        forbidden: false,
    }
}

impl Engine for StapEngine {
    fn name(&self) -> &'static str {
        StapEngine::NAME
    }

    fn title(&self) -> String {
        match &self.toolchain {
            Some(Ok(toolchain)) => format!("SystemTap {}", toolchain.version),
            _ => "SystemTap".to_owned(),
        }
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            by_agent: false,
            scripts: true,
            by_path: true,
            arms_everyone: true,
            measures: true,
        }
    }

    fn forbidden(&self) -> Option<Obstacle> {
        self.forbidden.clone()
    }

    fn obstacle(&self, plan: &Plan) -> Option<Obstacle> {
        let missing = self.toolchain.as_ref().and_then(|it| it.as_ref().err());
        missing.cloned().or_else(|| {
            let bundle = self.options.opened.as_ref()?;
            let fits = bundled::fits(bundle, plan, &self.options.stap_arguments);
            Some(obstacle(fits.err()?.into()))
        })
    }

    fn failed_before(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    fn remember_failure(&self, reason: &str) {
        if let Some(Ok(toolchain)) = &self.toolchain {
            failures::remember(toolchain, reason);
        }
    }

    fn describe(&self, plan: &Plan, templates: &Templates) -> Result<Description, Failure> {
        let mut warnings = Vec::new();
        let toolchain = self.toolchain().unwrap_or_else(|failure| {
            warnings.push(failure.message);
            Toolchain::assumed()
        });
        let script = self.script(plan, templates)?;
        let beginning = Beginning {
            targets: plan.pids(),
            ..Beginning::default()
        };
        let [compile, run] =
            command_lines(&toolchain, &script, &start(plan, &self.options, &beginning));
        let mut text = "script.stp\n\n".to_owned();
        for line in script.text.lines() {
            if !line.is_empty() {
                text.push_str("    ");
                text.push_str(line);
            }
            text.push('\n');
        }
        match &self.options.opened {
            Some(bundle) => text.push_str(&format!("bundle     {}\n", Foreign::path(&bundle.path))),
            None => text.push_str(&format!("compile    {compile}\n")),
        }
        text.push_str(&format!("run        {run}\n"));
        Ok(Description { text, warnings })
    }

    fn prepare(
        &self,
        plan: &Plan,
        templates: &Templates,
        audience: &dyn Audience,
        notes: &mut Vec<String>,
    ) -> Result<Option<Box<dyn Ready>>, Failure> {
        let (stap, removed) = Stap::new(self.toolchain()?)?;
        for thing in removed {
            audience.note(&format_args!("removed {thing}"));
        }
        let mut agent = None;
        let module = match &self.options.opened {
            Some(bundle) => {
                // By now it is known where the agent's library is.
                bundled::fits(bundle, plan, &self.options.stap_arguments)?;
                bundled::is_ours(bundle, templates)?;
                agent = bundled::agent(bundle, plan)?;
                stap.unpack(bundle)?
            }
            None => match self.compiled(&stap, plan, templates, audience)? {
                Some(module) => module,
                None => return Ok(None),
            },
        };
        let line = LineSemaphores::new(&plan.probed(), plan.follow).unwrap_or_else(|error| {
            audience.warning(&format_args!(
                "only the calls that come from C are seen: {error}"
            ));
            None
        });
        let of_line = plan.line_semaphore_note().filter(|_| line.is_some());
        for note in of_line.into_iter().chain(plan.filter_note()) {
            audience.note(&note);
            notes.push(note);
        }
        let version = &stap.toolchain().version;
        notes.insert(
            0,
            match &self.options.opened {
                Some(_) => format!("SystemTap {version}, kernel module from a bundle"),
                None => format!("SystemTap {version}, kernel module"),
            },
        );
        Ok(Some(Box::new(Compiled {
            stap,
            module,
            line,
            agent,
            options: self.options.clone(),
        })))
    }
}

/// A module that can be loaded.
struct Compiled {
    stap: Stap,
    module: Module,
    line: Option<LineSemaphores>,
    /// The library that the module probes, although nobody needs it.
    agent: Option<PlacedLibrary>,
    options: EngineOptions,
}

impl Ready for Compiled {
    fn start(
        self: Box<Self>,
        plan: &Plan,
        beginning: &Beginning,
        _: &dyn Fn() -> bool,
    ) -> Result<Box<dyn Running>, Failure> {
        let start = Start {
            agent: self.agent.map(Arc::new),
            ..start(plan, &self.options, beginning)
        };
        Ok(Box::new(self.stap.run(&self.module, start, self.line)?))
    }
}

/// How to run the module of a plan.
fn start(plan: &Plan, options: &EngineOptions, beginning: &Beginning) -> Start {
    // The kernel can confine the probes to one process and the children it will have; not to several.
    let alone = match (beginning.targets.as_slice(), &plan.newcomers) {
        ([pid], None) => Some(*pid),
        _ => None,
    };
    Start {
        only: alone,
        targets: beginning.targets.clone(),
        follow: plan.follow,
        min_duration: plan.minimum_ns().unwrap_or(0),
        buffer: options.buffer,
        armed: armed(plan),
        images: plan.builds().into_iter().map(|(path, _)| path).collect(),
        lineage: beginning.lineage.clone(),
        commands: Vec::new(),
        agent: None,
    }
}

/// Semaphores by which it can be seen that the running targets are traced: one a process, where it is known.
fn armed(plan: &Plan) -> Vec<Armed> {
    let of_interpreters = plan.targets.processes.iter().filter_map(|process| {
        process.interpreters.iter().find_map(|interpreter| {
            let mut images = plan.images.iter();
            let image = images.find(|image| image.interpreter.file == interpreter.file)?;
            let mark = (interpreter.image).mark(PROVIDER, image.probes.first()?.name())?;
            let offset = mark.sites.first()?.semaphore?.file_offset?;
            let address = mapped_at(process.pid, interpreter.file.inode, offset)?;
            let pid = process.pid;
            Some(Armed { pid, address })
        })
    });
    // The same of agents that are in their processes already.
    let of_agents = plan.agent.iter().flat_map(|agent| {
        let first = match agent.wanted.functions {
            Some(_) => agent::FUNCTIONS[0],
            None => agent::COLLECTIONS[0],
        };
        agent.targets.iter().filter_map(move |(pid, _)| {
            let loaded = agent::Loaded::of_process(*pid)?;
            let mark = loaded.image.mark(agent::PROVIDER, first)?;
            let offset = mark.sites.first()?.semaphore?.file_offset?;
            let address = mapped_at(*pid, loaded.inode, offset)?;
            Some(Armed { pid: *pid, address })
        })
    });
    of_interpreters.chain(of_agents).collect()
}

/// Waits for stap. `None` when the user stopped it.
pub(super) fn compile(
    compiling: Compiling,
    audience: &dyn Audience,
) -> Result<Option<Module>, Failure> {
    let busy = audience.busy("compiling the probe script");
    let mut said = Vec::new();
    let ended = loop {
        select! {
            recv(compiling.progress()) -> progress => match progress {
                Ok(Progress::Diagnostic(diagnostic)) => said.push(*diagnostic),
                Ok(Progress::Ended) | Err(_) => break true,
            },
            recv(audience.stops()) -> _ => break false,
        }
    };
    if !ended {
        drop(compiling);
        drop(busy);
        return Ok(None);
    }
    let module = compiling.finish(&said);
    drop(busy);
    for diagnostic in &said {
        audience.detail(&format_args!("stap: {}", diagnostic.message));
    }
    module.map(Some).map_err(|error| {
        // stap's own words with its caret belong to the sentence.
        let excerpt = match &error {
            StapError::NotCompiled { .. } => said
                .iter()
                .filter(|diagnostic| diagnostic.severity == Severity::Error)
                .map(|diagnostic| diagnostic.excerpt.as_str())
                .collect::<Vec<_>>()
                .join("\n"),
            _ => String::new(),
        };
        Failure {
            excerpt,
            ..Failure::from(error)
        }
    })
}
