//! Why the uprobes engine cannot do what it was asked for, each with what to do about it.

use std::io;
use std::path::PathBuf;

/// Why the uprobes engine cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum UprobesError {
    /// Nobody could collect.
    #[error(transparent)]
    Thread(io::Error),
    /// The kernel has no tracefs.
    #[error(
        "tracefs cannot be mounted ({reason}), so uprobe events cannot be defined; run pystap where the kernel is built with CONFIG_TRACING, or on the host instead of in a container"
    )]
    NoTracefs {
        /// The system's reason.
        reason: String,
    },
    /// The kernel has tracefs, but no uprobe events.
    #[error(
        "{root} has no uprobe_events, so this kernel is built without CONFIG_UPROBE_EVENTS and cannot probe programs by itself; use another kernel, or --engine stap where modules can be loaded", root = root.display()
    )]
    NoUprobeEvents {
        /// Where tracefs is.
        root: PathBuf,
    },
    /// Not permitted.
    #[error(
        "{what}, so uprobe events cannot be used; run `sudo pystap …` (in a container: with the capabilities CAP_SYS_ADMIN and CAP_PERFMON, and /sys/kernel/tracing)"
    )]
    NotPermitted {
        /// What is not.
        what: String,
    },
    /// perf_event_open is denied.
    #[error(
        "the kernel does not let this user trace others (kernel.perf_event_paranoid is {paranoid}), so nothing is traced; run `sudo pystap …`, give the capability CAP_PERFMON, or `sysctl kernel.perf_event_paranoid=-1`"
    )]
    Paranoid {
        /// The setting.
        paranoid: String,
    },
    /// A probe cannot be defined.
    #[error(
        "a probe on {path} cannot be defined ({reason}), so nothing is traced; check that the file is there and is no network file, and that nobody else probes the same place with another semaphore", path = path.display()
    )]
    Define {
        /// The image.
        path: PathBuf,
        /// The kernel's reason.
        reason: io::Error,
    },
    /// A process cannot be traced.
    #[error("process {pid} cannot be traced ({reason}), so nothing of it is seen; {next}")]
    Arm {
        /// The process.
        pid: u32,
        /// The kernel's reason.
        reason: io::Error,
        /// What to do.
        next: &'static str,
    },
    /// A ring cannot be made.
    #[error(
        "a buffer of {kilobytes} KB a processor cannot be had ({reason}; this user may lock {limit} KB altogether), so nothing is traced; use a smaller one with --buffer, or raise the limit with `ulimit -l unlimited`"
    )]
    Buffer {
        /// Size of a ring.
        kilobytes: usize,
        /// The memory lock limit.
        limit: String,
        /// The kernel's reason.
        reason: io::Error,
    },
    /// Anything else that the system refuses.
    #[error("{what} ({reason}), so nothing is traced; try again, and report this if it stays")]
    System {
        /// What failed, a clause.
        what: &'static str,
        /// The reason.
        reason: io::Error,
    },
    /// Every mark asked for has a site that the kernel cannot probe.
    #[error(
        "{path} has no site that uprobe events can stand at, so nothing is traced; use --engine stap", path = path.display()
    )]
    NoSite {
        /// The image.
        path: PathBuf,
    },
}
