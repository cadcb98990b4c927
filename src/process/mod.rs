//! Which processes are traced: those named by ID, found by a pattern or by their interpreter, their descendants, and a
//! command that is launched for the purpose. Knows processes; [`crate::python`] knows what is Python about them. Arms
//! nothing.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::PathBuf;

use regex::Regex;

use crate::python::{self, Examined, FileId, Interpreter, PythonError};
use crate::service::{Seen, Service, ServiceError, Why};

pub(crate) mod activity;
mod command;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod launched;
mod lineage;
mod names;
mod namespace;
mod shim;
mod starting;
mod stat;
mod status;
mod table;
mod watch;
mod within;

pub use command::{Expected, interpreters_of_command, interpreters_of_path};
pub use error::TargetError;
pub use launched::{Conditions, Launched};
pub use lineage::{Identity, Lineage, parent_of};
pub(crate) use names::ThreadNames;
pub use namespace::MountNamespace;
pub(crate) use namespace::{FIRST_PID_NAMESPACE, pid_namespace, threads_inside};
pub(crate) use shim::ask as asked_shim;
pub(crate) use stat::{
    age, has_ended, is_ancestor, is_gone, is_stopped, start_time, stat, threads,
};
pub use stat::{goes_on, runs};
pub use status::Status;
pub use watch::Watch;
pub use within::{Budget, Looked, within};

use table::{Entry, Table};

/// What the user asked for, with only its form checked.
///
/// `pids` and `pattern` add up. `python` narrows both; alone, it selects every process that runs that interpreter.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Process IDs, as given with `-p`. A process that cannot be traced is an error.
    pub pids: Vec<u32>,
    /// `--match`: searched for in the arguments of a process, joined by blanks. Only Python processes match, and never
    /// pystap itself or one of its ancestors (a shell or sudo that has the pattern in its own arguments).
    pub pattern: Option<Regex>,
    /// `--service`: the Python processes of a service. Never pystap itself or one of its ancestors.
    pub service: Option<Service>,
    /// `--python`: interpreters, links to them, or a version manager's shims. One of them will do.
    pub python: Vec<PathBuf>,
    /// The command after `--`, with its arguments; empty when none was given.
    pub command: Vec<OsString>,
    /// `--subprocesses`: include all descendants.
    pub subprocesses: bool,
    /// For a repeated search: programs other than Python whose descendants are wanted.
    pub parents: Vec<Identity>,
}

/// The selection, resolved on this host at one moment.
#[derive(Debug, Clone, Default)]
pub struct Targets {
    /// Python processes that run now, by ascending process ID, without duplicates.
    pub processes: Vec<Process>,
    /// What the command to launch will run; `None` when there is no command.
    pub command: Option<Expected>,
    /// The interpreter that `--python` named. Without pids and pattern, every process that maps one of these files is a
    /// target, including those that start later; see [`Targets::everyone`].
    pub python: Vec<Interpreter>,
    /// Whether processes that start later and run an interpreter in `python` are targets too.
    pub everyone: bool,
    /// Whether children that the targets start later are targets too. Those that already exist are in `processes`.
    pub descendants: bool,
    /// Processes that were named, and are not Python, but have descendants that are. Those that exist are in `processes`.
    pub parents: Vec<Identity>,
    /// Sentences for the user: what was assumed and what could not be examined.
    pub notes: Vec<String>,
}

/// A Python process that was found.
#[derive(Debug, Clone)]
pub struct Process {
    /// Process ID, in the pid namespace that /proc was mounted for.
    pub pid: u32,
    /// Start time, in clock ticks since boot; together with `pid` it identifies the process for good.
    pub start_time: u64,
    /// The kernel's name of its main thread, at most 15 bytes.
    pub comm: String,
    /// Its arguments; a process that rewrote them (setproctitle) has one. Bytes that are not UTF-8 become U+FFFD.
    pub command_line: Vec<String>,
    /// Its mount namespace; `None` when we may not know.
    pub mounts: Option<MountNamespace>,
    /// Its interpreters, the main one first; never empty.
    pub interpreters: Vec<Interpreter>,
}

impl Process {
    /// Everything about one process.
    ///
    /// # Errors
    ///
    /// As [`Interpreter::of_process`].
    pub fn of(pid: u32) -> Result<Process, PythonError> {
        let failed = |reason| PythonError::Proc { pid, reason };
        let entry = Entry::of(pid).map_err(failed)?;
        let entry = entry.ok_or(PythonError::NoProcess { pid })?;
        described(&entry, &mut Examined::default())
    }

    /// What a person would call it: its script, module or the title it sets, otherwise the kernel's name.
    pub fn program(&self) -> String {
        let seen = Seen {
            comm: self.comm.clone(),
            arguments: self.command_line.clone(),
            environment: Vec::new(),
        };
        let program = seen.programs().into_iter().next();
        program.map_or_else(|| self.comm.clone(), |(name, _)| name)
    }

    /// Whether it runs one of these interpreter files.
    #[must_use]
    pub fn runs(&self, files: &HashSet<FileId>) -> bool {
        self.interpreters
            .iter()
            .any(|interpreter| files.contains(&interpreter.file))
    }
}

/// Every process that runs Python, recognised by its program's name or a mapped libpython; a program of another name
/// with an interpreter linked into it is not found. For an overview of a host, not for tracing: what cannot be examined
/// is left out, and reported in the notes.
///
/// # Errors
///
/// [`TargetError::Table`].
pub fn running() -> Result<Targets, TargetError> {
    let mut scan = Scan::begin()?;
    let processes = scan.python_among(|entry| python::looks_like_python(entry.pid));
    Ok(Targets {
        processes,
        notes: scan.left_out(),
        ..Targets::default()
    })
}

fn described(entry: &Entry, examined: &mut Examined) -> Result<Process, PythonError> {
    let pid = entry.pid;
    let interpreters = Interpreter::of_process_among(pid, examined)?;
    // The ID may have been reused since the table was read.
    if is_gone(pid, entry.start_time) {
        return Err(PythonError::Ended { pid });
    }
    Ok(Process {
        pid,
        start_time: entry.start_time,
        comm: entry.comm.clone(),
        command_line: entry.command_line.clone(),
        mounts: MountNamespace::of_process(pid).ok(),
        interpreters,
    })
}

impl Selection {
    /// Finds the processes that were asked for.
    ///
    /// # Errors
    ///
    /// When a process named by ID, the interpreter or the command cannot be traced, when a pattern matches nothing, and
    /// when nothing was asked for.
    pub fn resolve(&self) -> Result<Targets, TargetError> {
        if self.pids.is_empty()
            && self.pattern.is_none()
            && self.service.is_none()
            && self.python.is_empty()
            && self.command.is_empty()
        {
            return Err(TargetError::Nothing);
        }
        let mut targets = Targets {
            descendants: self.subprocesses,
            ..Targets::default()
        };
        let mut scan = Scan::begin()?;
        targets.python = self.interpreters()?;
        let files: HashSet<FileId> = targets.python.iter().map(|python| python.file).collect();
        let wanted = |process: &Process| files.is_empty() || process.runs(&files);

        // Programs that are not Python and start some, with why they cannot be traced themselves.
        let mut parents = Vec::new();
        for &pid in &self.pids {
            let process = match scan.named(pid) {
                Err(error @ PythonError::NotPython { .. }) if self.subprocesses => {
                    parents.push((pid, error));
                    continue;
                }
                named => named?,
            };
            if !wanted(&process) {
                return Err(TargetError::OtherInterpreter {
                    pid,
                    runs: process
                        .interpreters
                        .into_iter()
                        .map(|interpreter| interpreter.path)
                        .next()
                        .unwrap_or_default(),
                });
            }
            targets.processes.push(process);
        }
        if let Some(pattern) = &self.pattern {
            let found: Vec<Process> = scan
                .matching(pattern)
                .into_iter()
                .filter(|process| wanted(process))
                .collect();
            if found.is_empty() {
                let pattern = pattern.to_string();
                return Err(match scan.unreadable {
                    0 => TargetError::NoMatch {
                        pattern,
                        runs: scan.runs(),
                    },
                    processes => TargetError::MatchesHidden { pattern, processes },
                });
            }
            targets.processes.extend(found);
        }
        if let Some(service) = &self.service {
            let found = scan.of_service(service);
            if found.is_empty() {
                return Err(scan.no_service(service));
            }
            targets
                .processes
                .extend(found.into_iter().filter(|process| wanted(process)));
        }
        targets.everyone = !self.python.is_empty()
            && self.pids.is_empty()
            && self.pattern.is_none()
            && self.service.is_none()
            && self.command.is_empty();
        if targets.everyone {
            targets.processes.extend(scan.running(&files));
        }
        if self.subprocesses {
            let roots: Vec<u32> = targets
                .processes
                .iter()
                .map(|process| process.pid)
                .collect();
            targets.processes.extend(scan.descendants(&roots));
        }
        for (parent, error) in parents {
            let children = scan.descendants(&[parent]);
            if children.is_empty() {
                return Err(error.into());
            }
            targets
                .processes
                .extend(children.into_iter().filter(&wanted));
            targets.parents.extend(Identity::of(parent));
            targets.notes.push(format!(
                "process {parent} is not Python, so its descendants that are Python are traced, those to come from within a second after they begin"
            ));
        }
        targets.processes.sort_by_key(|process| process.pid);
        targets.processes.dedup_by_key(|process| process.pid);

        if !self.command.is_empty() {
            let expected = if targets.python.is_empty() {
                interpreters_of_command(&self.command)?
            } else {
                Expected {
                    interpreters: targets.python.clone(),
                    note: None,
                }
            };
            targets.notes.extend(expected.note.clone());
            targets.command = Some(expected);
        }
        targets.notes.extend(scan.left_out());
        Ok(targets)
    }

    /// What `--python` named, each file once.
    fn interpreters(&self) -> Result<Vec<Interpreter>, TargetError> {
        let mut found: Vec<Interpreter> = Vec::new();
        for path in &self.python {
            for interpreter in interpreters_of_path(path)? {
                if !found.iter().any(|it| it.file == interpreter.file) {
                    found.push(interpreter);
                }
            }
        }
        Ok(found)
    }

    /// Whether processes can be found that have nothing to do with any that runs now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let any = !self.python.is_empty() && self.parents.is_empty();
        self.pattern.is_some() || self.service.is_some() || any
    }

    /// Finds requested processes that may have started since; called repeatedly. Finding none is not an error.
    ///
    /// # Errors
    ///
    /// When /proc cannot be read, or the interpreter is no longer there.
    pub fn search(&self, searched: &mut Searched) -> Result<Newcomers, TargetError> {
        let mut scan = Scan::again(Budget::SEARCH, &searched.stuck)?;
        let python = self.interpreters()?;
        let files: HashSet<FileId> = python.iter().map(|python| python.file).collect();
        let mut processes = Vec::new();
        if let Some(pattern) = &self.pattern {
            processes.extend(scan.matching(pattern));
        }
        if let Some(service) = &self.service {
            processes.extend(scan.of_service(service));
        }
        if self.is_open() && self.pattern.is_none() && self.service.is_none() {
            processes.extend(scan.running(&files));
        }
        let parents = self.parents.iter();
        let parents = parents.filter(|parent| !has_ended(parent.pid, parent.start_time));
        let parents: Vec<u32> = parents.map(|parent| parent.pid).collect();
        if !parents.is_empty() {
            processes.extend(scan.descendants(&parents));
        }
        processes.retain(|process: &Process| files.is_empty() || process.runs(&files));
        if self.subprocesses {
            let roots: Vec<u32> = processes.iter().map(|process| process.pid).collect();
            processes.extend(scan.descendants(&roots));
        }
        processes.sort_by_key(|process| process.pid);
        processes.dedup_by_key(|process| process.pid);
        // Another process may reuse the ID of one that has ended.
        searched.stuck.retain(|pid| runs(*pid));
        let unheard = !scan.stuck.is_empty() || !scan.unreached.is_empty() && !searched.short;
        searched.short |= !scan.unreached.is_empty();
        searched.stuck.extend(&scan.stuck);
        Ok(Newcomers {
            processes,
            notes: scan.slow().filter(|_| unheard).into_iter().collect(),
        })
    }
}

/// What a repeated search remembers: processes that it got stuck on, which are skipped from then on, and those that it has
/// told of.
#[derive(Debug, Default)]
pub struct Searched {
    stuck: HashSet<u32>,
    /// By process ID: the program that it ran then.
    told: HashMap<u32, Program>,
    /// Whether there was ever not enough time for all.
    short: bool,
}

/// What a repeated search found.
#[derive(Debug)]
pub struct Newcomers {
    /// Python processes, by ascending ID, including those that were found before.
    pub processes: Vec<Process>,
    /// What could not be examined, where that is new.
    pub notes: Vec<String>,
}

/// Processes that begin later and are to be looked at, too.
pub(crate) struct ToCome {
    /// Those that are there since this was asked last, and others that were known; never waits.
    pub(crate) found: Box<dyn FnMut() -> Option<Newcomers> + Send>,
    /// Whether there may be some when none of those that are looked at runs any longer.
    pub(crate) is_open: bool,
}

/// A family of processes, and the interpreter files among which each Python of it should be.
#[derive(Debug, Clone)]
pub struct Family {
    /// Those that it descends from. Others that get their process IDs later do not count.
    pub roots: Vec<Identity>,
    /// Whether descendants belong to it.
    pub descendants: bool,
    /// The files.
    pub files: HashSet<FileId>,
}

impl Family {
    /// The Pythons of the family that run none of the files: called repeatedly, each is told once per program that it runs.
    ///
    /// # Errors
    ///
    /// When /proc cannot be read.
    pub fn strangers(&self, searched: &mut Searched) -> Result<Vec<Process>, TargetError> {
        let mut scan = Scan::again(Budget::SEARCH, &searched.stuck)?;
        let is_there = |root: &Identity| {
            let entry = scan.table.get(root.pid);
            entry.is_some_and(|entry| entry.start_time == root.start_time)
        };
        let roots = self.roots.iter().filter(|root| is_there(root));
        let roots: Vec<u32> = roots.map(|root| root.pid).collect();
        let mut pids: HashSet<u32> = roots.iter().copied().collect();
        if self.descendants {
            pids.extend(scan.table.descendants(&roots));
        }
        searched.told.retain(|pid, _| pids.contains(pid));
        let (files, told) = (self.files.clone(), searched.told.clone());
        let found = scan.python_among(move |entry| {
            let pid = entry.pid;
            Ok(pids.contains(&pid)
                && Program::of(pid).is_none_or(|now| told.get(&pid) != Some(&now))
                && python::looks_like_python(pid)?
                && !python::maps_one_of(pid, &files)?)
        });
        for process in &found {
            let now = Program::of(process.pid);
            searched
                .told
                .extend(now.map(|program| (process.pid, program)));
        }
        searched.stuck.retain(|pid| runs(*pid));
        searched.stuck.extend(&scan.stuck);
        Ok(found)
    }
}

/// A program while a process runs it: another one after each exec, also of the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    /// When the process began.
    start_time: u64,
    file: FileId,
    /// Where its stack begins, which the kernel draws anew for each exec.
    stack: u64,
}

impl Program {
    /// The program that a process runs now. Where the stack may not be known, two of the same file look alike.
    pub(crate) fn of(pid: u32) -> Option<Program> {
        let file = FileId::at(&PathBuf::from(format!("/proc/{pid}/exe"))).ok()?;
        let stat = stat(pid).ok().flatten()?;
        Some(Program {
            start_time: stat.starttime,
            file,
            stack: stat.startstack,
        })
    }
}

/// A Python process of a service, and how it was recognised.
#[derive(Debug)]
pub struct Found {
    /// The process.
    pub process: Process,
    /// The service.
    pub service: Option<String>,
    /// How it was recognised.
    pub why: Option<Why>,
}

/// What the service of a process is called, and of one that belongs to none the program; `None` of one that has ended, or
/// that does not say within a second.
pub(crate) fn service_of(pid: u32) -> Option<String> {
    let looked = within(Budget::SEARCH, vec![pid], (), |pid, ()| {
        Some(crate::service::name(&Entry::of(*pid).ok()??.seen()))
    });
    looked.done.into_iter().next().flatten()
}

/// The service of that name.
///
/// # Errors
///
/// When there is none, or the user's service file cannot be parsed.
pub fn service(name: &str) -> Result<Service, TargetError> {
    Service::named(name).map_err(|error| match error {
        ServiceError::Unknown { .. } => TargetError::UnknownService {
            runs: Scan::begin().map_or_else(|_| String::new(), |mut scan| scan.runs()),
            error,
        },
        error @ ServiceError::Config { .. } => error.into(),
    })
}

/// The Python processes of a service.
///
/// # Errors
///
/// When /proc cannot be read, and when no process of the service runs.
pub fn processes_of(service: &Service) -> Result<Vec<Found>, TargetError> {
    let mut scan = Scan::begin()?;
    let processes = scan.of_service(service);
    if processes.is_empty() {
        return Err(scan.no_service(service));
    }
    let services = std::slice::from_ref(service);
    let found = processes.into_iter().map(|it| scan.found(it, services));
    Ok(found.collect())
}

/// Every Python process that we may examine, with the first of these services that it belongs to, and a sentence about
/// those that we may not examine.
///
/// # Errors
///
/// When /proc cannot be read.
pub fn python_processes(services: &[Service]) -> Result<(Vec<Found>, Vec<String>), TargetError> {
    let mut scan = Scan::begin()?;
    let processes = scan.python_among(|entry| Ok(entry.pid != std::process::id()));
    let found = processes.into_iter().map(|it| scan.found(it, services));
    Ok((found.collect(), scan.left_out()))
}

/// One pass over all processes. A process that ends meanwhile, or is not Python, is not a target; that is an error only
/// for a process that was named.
struct Scan {
    table: Table,
    examined: Examined,
    /// How many processes we lacked permission to examine.
    unreadable: usize,
    budget: Budget,
    /// Processes that could not be examined in time: those that the scan got stuck on, and those for which no time was
    /// left.
    stuck: Vec<u32>,
    unreached: Vec<u32>,
}

impl Scan {
    fn begin() -> Result<Scan, TargetError> {
        Scan::again(Budget::COMMAND, &HashSet::new())
    }

    /// A scan that skips processes that an earlier one got stuck on.
    fn again(budget: Budget, passed_over: &HashSet<u32>) -> Result<Scan, TargetError> {
        let (table, stuck, unreached) = Table::read(budget, passed_over)?;
        Ok(Scan {
            table,
            examined: Examined::default(),
            unreadable: 0,
            budget,
            stuck,
            unreached,
        })
    }

    /// What is missing from the results, and why.
    fn left_out(&self) -> Vec<String> {
        self.hidden().into_iter().chain(self.slow()).collect()
    }

    /// What is missing from the results because it could not be examined in time.
    fn slow(&self) -> Option<String> {
        const AT_MOST: usize = 8;
        let slow: Vec<u32> = self.stuck.iter().chain(&self.unreached).copied().collect();
        let which = match slow.as_slice() {
            [] => return None,
            [one] => format!("process {one}"),
            several => {
                let named: Vec<String> = several.iter().take(AT_MOST).map(u32::to_string).collect();
                let more = match several.len().saturating_sub(AT_MOST) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!("processes {}{more}", named.join(", "))
            }
        };
        Some(format!(
            "{which} could not be looked at in time and so was left out (files on a server that does not answer, too many \
             processes, or no descriptors left); name one with -p to have it looked at alone"
        ))
    }

    /// What is missing from the results because we may not examine it.
    fn hidden(&self) -> Option<String> {
        let which = match self.unreadable {
            0 => return None,
            1 => "one process".to_owned(),
            count => format!("{count} processes"),
        };
        let remedy = if rustix::process::geteuid().is_root() {
            "closed even to root (in a container, CAP_SYS_PTRACE opens them)"
        } else {
            "closed to this user: run pystap as root to include them"
        };
        Some(format!("{which} could not be looked at, {remedy}"))
    }

    fn named(&mut self, pid: u32) -> Result<Process, PythonError> {
        if self.stuck.contains(&pid) {
            return Err(PythonError::Slow { pid });
        }
        let entry = self.table.get(pid).ok_or(PythonError::NoProcess { pid })?;
        let alone = Budget {
            each: Budget::COMMAND.all / 6,
            ..Budget::COMMAND
        };
        let examined = std::mem::take(&mut self.examined);
        let looked = within(alone, vec![entry.clone()], examined, described);
        self.examined = looked.state;
        let mut found = looked.done;
        found.pop().unwrap_or(Err(PythonError::Slow { pid }))
    }

    fn matching(&mut self, pattern: &Regex) -> Vec<Process> {
        let ours = self.table.ancestors(std::process::id());
        let pattern = pattern.clone();
        self.python_among(move |entry| {
            Ok(!ours.contains(&entry.pid) && pattern.is_match(&entry.command_line.join(" ")))
        })
    }

    fn of_service(&mut self, service: &Service) -> Vec<Process> {
        let ours = self.table.ancestors(std::process::id());
        let service = service.clone();
        self.python_among(move |entry| {
            Ok(!ours.contains(&entry.pid) && service.recognises(&entry.seen()).is_some())
        })
    }

    /// Adds the first of these services that the process belongs to.
    fn found(&self, process: Process, services: &[Service]) -> Found {
        let seen = self.table.get(process.pid).map(Entry::seen);
        let recognised = seen.and_then(|seen| {
            services
                .iter()
                .find_map(|service| Some((service.name.clone(), service.recognises(&seen)?)))
        });
        let (service, why) = recognised.unzip();
        Found {
            process,
            service,
            why,
        }
    }

    fn no_service(&mut self, service: &Service) -> TargetError {
        TargetError::NoService {
            service: service.name.clone(),
            runs: self.runs(),
        }
    }

    /// The names of the Python programs that run, for users who asked for something that does not.
    fn runs(&mut self) -> String {
        const AT_MOST: usize = 8;
        let ours = self.table.ancestors(std::process::id());
        let mut programs: Vec<String> = self
            .python_among(move |entry| Ok(!ours.contains(&entry.pid)))
            .iter()
            .map(Process::program)
            .collect();
        programs.sort_unstable();
        programs.dedup();
        let more = programs.len().saturating_sub(AT_MOST);
        programs.truncate(AT_MOST);
        match (programs.is_empty(), more) {
            (true, _) => "no other Python program runs here".to_owned(),
            (false, 0) => format!("these Python programs run: {}", programs.join(", ")),
            (false, _) => format!(
                "these Python programs run: {} and {more} more",
                programs.join(", ")
            ),
        }
    }

    fn running(&mut self, files: &HashSet<FileId>) -> Vec<Process> {
        let files = files.clone();
        self.python_among(move |entry| python::maps_one_of(entry.pid, &files))
    }

    fn descendants(&mut self, roots: &[u32]) -> Vec<Process> {
        let pids = self.table.descendants(roots);
        self.python_among(move |entry| Ok(pids.contains(&entry.pid)))
    }

    /// The Python processes among those that are wanted. A process for which we cannot tell whether it is wanted counts
    /// as hidden, like a wanted one that cannot be examined.
    fn python_among(
        &mut self,
        wanted: impl Fn(&Entry) -> Result<bool, PythonError> + Send + Sync + 'static,
    ) -> Vec<Process> {
        let entries = self.table.entries().cloned().collect();
        let examined = std::mem::take(&mut self.examined);
        let looked = within(
            self.budget,
            entries,
            examined,
            move |entry, examined| match wanted(entry) {
                Ok(true) => described(entry, examined).map(Some),
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            },
        );
        self.examined = looked.state;
        for entry in looked.stuck {
            // A process that the scan got stuck on is not tried again.
            self.stuck.push(entry.pid);
            self.table.remove(entry.pid);
        }
        self.unreached
            .extend(looked.unreached.iter().map(|entry| entry.pid));
        let mut processes = Vec::new();
        for answer in looked.done {
            match answer {
                Ok(process) => processes.extend(process),
                Err(PythonError::Permission { .. }) => self.unreadable += 1,
                Err(PythonError::Proc { pid, .. }) => self.unreached.push(pid),
                Err(_) => {}
            }
        }
        processes
    }
}

#[cfg(test)]
mod tests;
