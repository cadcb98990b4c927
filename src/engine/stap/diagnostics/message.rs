//! What a message says, once it is understood.

use regex::Regex;

/// When a message is printed: stap's passes, with what happens before and after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Before pass 1: options, user, kernel build tree.
    Setup,
    /// Pass 1: the script is read.
    Parse,
    /// Pass 2: names, types and probe points are resolved.
    Analyse,
    /// Pass 4: the C code is compiled.
    Compile,
    /// The beginning of pass 5: the module is loaded and probes are armed.
    Load,
    /// Pass 5: probes run.
    Run,
}

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Says nothing that a user needs: progress, repetition, advice that does not apply to marks. Show with `--verbose`.
    Harmless,
    /// Worth knowing; tracing goes on unharmed.
    Note,
    /// Tracing goes on with something missing.
    Warning,
    /// The session does not start, or ends.
    Error,
}

/// What a message is about, for programs. Several classes of message can be of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DiagnosticKind {
    /// The user may not do this.
    Privilege,
    /// An option, a variable or a directory of stap's own is not as it should be.
    Setting,
    /// Kernel headers are absent, incomplete or of another kernel.
    KernelHeaders,
    /// The kernel was built without something that is needed.
    KernelConfig,
    /// The kernel takes signed modules only.
    ModuleSigning,
    /// The script cannot be read: a defect of the template or of a filter.
    ScriptSyntax,
    /// Types in the script do not fit: a defect of the template.
    ScriptTypes,
    /// Anything else that stap finds wrong with the script.
    ScriptSemantics,
    /// A tapset function is absent or different in this stap.
    MissingFunction,
    /// A probe point matches nothing.
    NoMatch,
    /// The traced process or its file cannot be found.
    Target,
    /// Debug information is absent.
    Debuginfo,
    /// A mark's argument cannot be read by this stap.
    Operand,
    /// Which probe the next message is about; stands alone only when nothing follows.
    ProbeContext,
    /// The bpf runtime cannot do it.
    Bpf,
    /// The compiler or the kernel's build system failed.
    Compiler,
    /// This stap is older than the kernel (or pystap) needs.
    StapTooOld,
    /// The kernel versions that this stap was tested with.
    TestedRange,
    /// The kernel refused the module.
    ModuleRejected,
    /// A module is left over, or cannot be removed.
    StaleModule,
    /// A file system cannot be mounted.
    Mount,
    /// The channel to the module is not there.
    ControlChannel,
    /// Module and running kernel do not belong together.
    VersionMismatch,
    /// A probe was not armed.
    ProbeNotArmed,
    /// The running kernel lacks a function that stap needs.
    KernelSymbol,
    /// A probe's handler failed.
    HandlerError,
    /// Probes took too much time.
    Overload,
    /// More hits were skipped than allowed.
    TooManySkipped,
    /// Something was lost; see [`Diagnostic::loss`].
    Loss,
    /// A native stack is not complete.
    Backtrace,
    /// A process runs another build of a file than the one that was examined.
    BuildId,
    /// How a launched command ended.
    ChildStatus,
    /// How staprun or stapbpf ended.
    Runner,
    /// Nobody reads stap's output any more.
    OutputClosed,
    /// stap was interrupted before it had cleaned up.
    Interrupted,
    /// A part of the script without effect was left out.
    Elision,
    /// stap's machine-readable list of pass-2 errors; see [`Diagnostic::catalogue`].
    Catalogue,
    /// Progress, and terminators that repeat what was said.
    Progress,
    /// Advice that does not apply, or that pystap gives better.
    Hint,
    /// Not in the table.
    Unrecognised,
}

/// A place in the script (or in a tapset) that a message points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptPlace {
    /// File as stap names it; `<input>` for `-e`, and empty where stap means the file named last.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// The word of the script at that place.
    pub token: String,
    /// The probe whose handler ran, where stap says so (5.6 and later).
    pub probe: Option<String>,
}

/// What a message says was lost. Zero where it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    /// Probe hits whose handler did not run.
    pub skipped: u64,
    /// Times that the kernel's buffers were full; each is one record or more.
    pub transport_failures: u64,
    /// Records lost between kernel and stdout.
    pub lost_messages: u64,
    /// Bytes of these, where stap counts them.
    pub lost_bytes: u64,
    /// Handlers that ended with an error.
    pub errors: u64,
}

impl Loss {
    /// Whether nothing was lost.
    pub fn is_empty(&self) -> bool {
        *self == Loss::default()
    }
}

/// One entry of `stap --semantic-keep-going`'s list (stap 5.6 and later).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SemanticError {
    /// Where; `None` where stap prints dashes.
    pub place: Option<ScriptPlace>,
    /// What is wrong there, as stap words it.
    pub message: String,
}

/// One message, with all the lines that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable name of the message's class: the table row's, `compiler`, `stap-too-old` or `unrecognised`.
    pub class: &'static str,
    /// What it is about.
    pub kind: DiagnosticKind,
    /// When it was printed.
    pub phase: Phase,
    /// How much it matters.
    pub severity: Severity,
    /// stap's own words, one line, without `ERROR:` or `semantic error:` in front.
    pub message: String,
    /// What it means, a plain sentence without its full stop. Empty when the class is not known.
    pub meaning: String,
    /// What to do or type next. Empty when nothing needs doing.
    pub next: String,
    /// Every line of the message as stap printed it, colour codes apart: source, caret, compiler text. Longer output is
    /// cut after 400 lines, with a last line that says so.
    pub excerpt: String,
    /// The place in the script, when the message names one.
    pub place: Option<ScriptPlace>,
    /// What was lost, when the message says so.
    pub loss: Option<Loss>,
    /// The entries of a [`DiagnosticKind::Catalogue`], each once; empty for other kinds.
    pub catalogue: Vec<SemanticError>,
}

/// One line for people: what happened, its consequence, and the next step. stap's own words stand in brackets.
pub fn explain(diagnostic: &Diagnostic) -> String {
    let said = diagnostic.message.trim();
    let mut line = match diagnostic.meaning.as_str() {
        "" => format!("stap says: {said}"),
        meaning => format!("{meaning} (stap: {said})"),
    };
    if !diagnostic.next.is_empty() {
        line.push_str("; ");
        line.push_str(&diagnostic.next);
    }
    line
}

/// Compiles a pattern of this program's own.
pub(super) fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("patterns of this program are valid")
}
