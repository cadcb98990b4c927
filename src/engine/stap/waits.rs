//! Waits that a module adds up: from the script to its start. No process is probed, so there is no plan; the script is the same for
//! all, and what is particular to a process is told to the module in numbers.

use std::path::Path;

use super::engine::compile;
use super::{Compilation, Module, Script, Stap, Start, Toolchain, arguments, failures, forbidden};
use crate::console::Exit;
use crate::engine::Running;
use crate::engine::lifecycle::Audience;
use crate::failure::Failure;
use crate::script::{self, Catalogue, Filters, Tapsets};

/// How to make the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitsOptions<'a> {
    /// The stap to use; that in PATH otherwise.
    pub(crate) stap: Option<&'a Path>,
    /// More arguments for it.
    pub(crate) arguments: &'a [String],
    /// Only compile, for this kernel or the running one.
    pub(crate) only_compile: bool,
    pub(crate) kernel: Option<&'a str>,
}

/// A module that adds up waits, ready to be loaded.
#[derive(Debug)]
pub(crate) struct WaitsModule {
    stap: Stap,
    module: Module,
}

impl WaitsModule {
    /// Compiles it, if it was not compiled before. `None` when somebody did not want to wait.
    ///
    /// # Errors
    /// What stands in the way of stap.
    pub(crate) fn prepare(
        options: WaitsOptions<'_>,
        audience: &dyn Audience,
    ) -> Result<Option<WaitsModule>, Failure> {
        let mut given = options.arguments.iter();
        if let Some((argument, instead)) =
            given.find_map(|it| Some((it, arguments::replacement(it)?)))
        {
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "stap's {argument} concerns running, which pystap does itself, so it would have no effect; use {instead}"
                ),
            ));
        }
        let loads = !options.only_compile && options.stap.is_none();
        if let Some(error) = forbidden().filter(|_| loads) {
            return Err(error.into());
        }
        let toolchain = Toolchain::find(options.stap, options.kernel)?;
        let (stap, removed) = Stap::new(toolchain)?;
        for thing in removed {
            audience.note(&format_args!("removed {thing}"));
        }
        let request = script::Request {
            images: Vec::new(),
            templates: vec![script::WAITS.to_owned()],
            events: Vec::new(),
            filters: Filters::default(),
        };
        let script = Script {
            text: script::render(&Catalogue::load(&[])?, &request)?,
            tapsets: Tapsets::load(&[])?,
            images: Vec::new(),
            arguments: options.arguments.to_vec(),
        };
        let module = match stap.compile(&script)? {
            Compilation::Kept(module) => module,
            Compilation::Running(compiling) => match compile(compiling, audience)? {
                Some(module) => {
                    failures::forget();
                    module
                }
                None => return Ok(None),
            },
        };
        Ok(Some(WaitsModule { stap, module }))
    }

    /// The file of the module.
    pub(crate) fn path(&self) -> &Path {
        &self.module.path
    }

    /// Loads it. It adds up waits of these processes from [`Message::Live`](crate::engine::Message::Live) on, those that take at
    /// least so many nanoseconds. `pythons` has for each process of which that is known where its Python has what leads to
    /// stacks.
    ///
    /// # Errors
    /// When staprun cannot be started.
    pub(crate) fn start(
        self,
        targets: &[u32],
        pythons: &[Vec<i64>],
        min_ns: u64,
    ) -> Result<Box<dyn Running + Send>, Failure> {
        let numbers = pythons.iter().flat_map(|python| {
            let numbers = python.iter().map(|number| format!("p{number}"));
            numbers.chain([String::from("P0")])
        });
        let start = Start {
            targets: targets.to_vec(),
            min_duration: min_ns,
            commands: numbers.collect(),
            ..Start::default()
        };
        Ok(Box::new(self.stap.run(&self.module, start, None)?))
    }
}
