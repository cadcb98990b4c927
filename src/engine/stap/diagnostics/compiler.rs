//! The compiler's part of stap's stderr (pass 4): where it begins and ends, and which of its complaints mean that this
//! stap is older than the kernel. Knows nothing of the other passes.

use std::sync::LazyLock;

use regex::Regex;

use super::{Diagnostic, DiagnosticKind, Phase, Severity, fixed};

/// A kernel change that older staps do not compile with.
struct Change {
    /// Matched against the whole compiler output.
    pattern: &'static str,
    /// First stap that copes with it.
    needs: &'static str,
    /// What changed in the kernel.
    change: &'static str,
}

/// Kernel changes by the words the compiler finds for them; the newest first, because output that shows several asks for
/// the newest stap. Versions are those of the SystemTap releases that contain the fix; distributions backport fixes and
/// kernels backport changes, so a match is sure where a version comparison is not.
static CHANGES: &[Change] = &[
    Change {
        pattern: r"\b_*lock_task_sighand\b",
        needs: "5.5",
        change: "lock_task_sighand became an exported function in Linux 7.0",
    },
    Change {
        pattern: r"\bstap_fs\.h\b",
        needs: "5.4",
        change: "file system interfaces changed in Linux 6.18",
    },
    Change {
        pattern: r"\bprev_padding\b",
        needs: "5.4",
        change: "relay buffers lost their padding field in Linux 6.17",
    },
    Change {
        pattern: r"\b(register_)?(trace_)?sched_process_exit\b|\butrace_report_exit\b",
        needs: "5.4",
        change: "the sched_process_exit tracepoint got another argument in Linux 6.16",
    },
    Change {
        // Since 6.15 kbuild takes no EXTRA_CFLAGS, so the compiler is not told where stap's runtime is.
        pattern: r"\bEXTRA_CFLAGS\b|fatal error: (runtime_defines|sym)\.h: No such file|\bhrtimer_(init|setup)\b|\b(del_timer_sync|timer_delete_sync)\b",
        needs: "5.3",
        change: "kbuild and timer interfaces changed in Linux 6.15",
    },
    Change {
        pattern: r"\buprobe_(ret_)?handler\b|uprobe_consumer.*(handler|incompatible)|(handler|incompatible).*uprobe_consumer",
        needs: "5.3",
        change: "uprobe handlers got another argument in Linux 6.13",
    },
    Change {
        pattern: r"\buprobe_(un)?register(_nosync)?\b|asm/unaligned\.h",
        needs: "5.2",
        change: "uprobe_register and uprobe_unregister changed in Linux 6.12",
    },
    Change {
        pattern: r"task_work_ca(ncel)?\b|\bstp_task_work\.c\b",
        needs: "5.2",
        change: "task_work_cancel changed in Linux 6.11 and in stable updates of 6.6 and 6.1",
    },
    Change {
        pattern: r"\bstrlcpy\b",
        needs: "5.1",
        change: "strlcpy was removed in Linux 6.8",
    },
    Change {
        pattern: r"\bget_user_pages(_remote)?\b|\baccess_process_vm\.h\b",
        needs: "5.0",
        change: "get_user_pages_remote changed in Linux 6.5",
    },
    Change {
        pattern: r"\bmodule_memory\b|\bmodule_kallsyms_on_each_symbol\b|\bmodule_layout\b|core_layout",
        needs: "5.0",
        change: "the memory of modules is described in another way since Linux 6.4",
    },
    Change {
        pattern: r"\bset_fs\b|\bmm_segment_t\b|\bget_fs\b",
        needs: "5.0",
        change: "set_fs was removed in Linux 5.18",
    },
];

static CHANGE_PATTERNS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| CHANGES.iter().map(|change| fixed(change.pattern)).collect());

static BEGINNING: LazyLock<Regex> = LazyLock::new(|| {
    fixed(concat!(
        r"^(?:",
        r"In file included from |",
        r"\S+\.(?:c|h|S|o|cmd)(?::\d+)*: |",
        r"make(?:\[\d+\])?: |/bin/(?:ba|da)?sh: |sh: |",
        r"(?:cc1|gcc\S*|clang\S*|ld\S*|as|objtool|modpost|collect2): |",
        r"ERROR: modpost: |WARNING: modpost: |FATAL: modpost: |",
        r"\s+(?:CC|LD|MODPOST|BTF)\b |",
        r"error: |warning: the compiler differs",
        r")",
    ))
});

/// The complaint proper in a line of compiler output.
static COMPLAINT: LazyLock<Regex> = LazyLock::new(|| {
    fixed(
        r"(?:^|: )(?:fatal )?error: |not found$|No rule to make target|modpost: |No space left on device|No such file or directory$",
    )
});

static MISSING_TOOL: LazyLock<Regex> = LazyLock::new(|| {
    fixed(
        r"^(?:/bin/\w*sh|sh|make(?:\[\d+\])?): (?:\d+: )?(?P<tool>[A-Za-z][\w.+-]*): (?:command )?(?:not found|No such file or directory)$",
    )
});

/// Whether `line`, with nothing open before it, begins the compiler's output.
pub(super) fn begins(line: &str) -> bool {
    BEGINNING.is_match(line)
}

/// Whether `line` is the last of the compiler's output, or is stap speaking again.
pub(super) fn ends(line: &str) -> bool {
    is_closing(line)
        || line.starts_with("Pass 4: ")
        || line.starts_with("Pass 5: ")
        || line.starts_with("Kernel version ")
        || line.starts_with("Tip: ")
}

/// Whether `line` closes the compiler's output and belongs to it.
pub(super) fn is_closing(line: &str) -> bool {
    line.starts_with("WARNING: kbuild exited with ")
}

/// A diagnostic that begins with `line`; [`judge`] says what it means when all of it is there.
pub(super) fn diagnostic(line: &str) -> Diagnostic {
    Diagnostic {
        class: "compiler",
        kind: DiagnosticKind::Compiler,
        phase: Phase::Compile,
        severity: Severity::Error,
        message: line.trim().to_owned(),
        meaning: String::new(),
        next: String::new(),
        excerpt: String::new(),
        place: None,
        loss: None,
        catalogue: Vec::new(),
    }
}

/// Fills in what the output as a whole means. `stap_version` makes the sentence about versions exact.
pub(super) fn judge(diagnostic: &mut Diagnostic, lines: &[String], stap_version: Option<&str>) {
    if let Some(complaint) = lines.iter().find(|line| COMPLAINT.is_match(line)) {
        diagnostic.message = complaint.trim().to_owned();
    }
    let text = lines.join("\n");
    let failed = lines
        .iter()
        .any(|line| COMPLAINT.is_match(line) || is_closing(line) || line.contains("***"));
    if !failed {
        diagnostic.severity = Severity::Note;
        diagnostic.meaning = "the compiler made remarks, and the module was built".to_owned();
        return;
    }

    if let Some(tool) = lines
        .iter()
        .find_map(|line| MISSING_TOOL.captures(line))
        .and_then(|captures| captures.name("tool").map(|tool| tool.as_str().to_owned()))
    {
        diagnostic.kind = DiagnosticKind::KernelHeaders;
        diagnostic.meaning =
            format!("the build needs {tool}, which is not installed, so no module was made");
        diagnostic.next = format!(
            "install {tool} (kernels name the compiler they were built with), then try again"
        );
    } else if text.contains("No rule to make target") {
        diagnostic.kind = DiagnosticKind::KernelHeaders;
        diagnostic.meaning =
            "the kernel's build tree is not complete, so no module was made".to_owned();
        diagnostic.next = "reinstall the headers of the running kernel, then try again".to_owned();
    } else if text.contains("No space left on device") {
        diagnostic.kind = DiagnosticKind::Setting;
        diagnostic.meaning = "the disk is full, so no module was made".to_owned();
        diagnostic.next = "make room in $TMPDIR (or /tmp) and in ~/.systemtap".to_owned();
    } else if let Some(change) = known_change(&text) {
        diagnostic.class = "stap-too-old";
        diagnostic.kind = DiagnosticKind::StapTooOld;
        let stap = match stap_version {
            Some(version) => format!("stap {version}"),
            None => "this stap".to_owned(),
        };
        diagnostic.meaning = format!(
            "{stap} is too old for this kernel; needs >= {}: {}",
            change.needs, change.change
        );
        diagnostic.next = format!(
            "install SystemTap {} or newer, and name it with --stap",
            change.needs
        );
    } else {
        diagnostic.meaning =
            "the module does not compile on this kernel, so nothing was armed".to_owned();
        diagnostic.next = "a newer SystemTap usually helps; name it with --stap".to_owned();
    }
}

/// Only complaints are searched: the names also stand in source lines that the compiler merely quotes.
fn known_change(text: &str) -> Option<&'static Change> {
    let complaints: Vec<&str> = text
        .lines()
        .filter(|line| COMPLAINT.is_match(line))
        .collect();
    let complaints = complaints.join("\n");
    CHANGES
        .iter()
        .zip(CHANGE_PATTERNS.iter())
        .find(|(_, pattern)| pattern.is_match(&complaints))
        .map(|(change, _)| change)
}

/// One complaint a row of the table of kernel changes, for the test that none is hidden by an earlier one.
#[cfg(test)]
pub(super) fn changes() -> impl Iterator<Item = (&'static str, &'static str)> {
    CHANGES.iter().map(|change| (change.pattern, change.needs))
}
