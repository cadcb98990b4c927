//! What stap, staprun and stapio say on stderr, turned into typed diagnostics: which class of message it is, what it means,
//! what to do next, what was lost. Reads lines; never starts, stops or retries anything.
//!
//! stap itself ends with 0 or 1 only, so its words are all there is to tell one failure from another. They are recognised
//! by a table (`table.rs`, one row per class); nothing that is not in the table is dropped: it comes out as
//! [`DiagnosticKind::Unrecognised`] with the severity that stap gave it. Run stap with `LC_ALL=C`: its messages are translated.

mod compiler;
mod message;
mod table;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex, RegexSet};

use message::fixed;
use table::{ROWS, Row};

pub use message::{
    Diagnostic, DiagnosticKind, Loss, Phase, ScriptPlace, SemanticError, Severity, explain,
};

/// Lines kept of one diagnostic; a compiler can print thousands.
const EXCERPT_LINES: usize = 400;

/// Reads stderr line by line. A diagnostic of several lines comes out when its last line has been seen, which for most of
/// them is known only from the line that follows; call [`Diagnostics::finish`] at the end.
///
/// Messages of a running session are single lines and come out at once.
#[derive(Debug, Default)]
pub struct Diagnostics {
    stap_version: Option<String>,
    open: Option<Open>,
    announced_skips: u64,
    itemised_skips: u64,
    total: Loss,
}

/// A diagnostic that may still grow.
#[derive(Debug)]
struct Open {
    diagnostic: Diagnostic,
    lines: Vec<String>,
    omitted: usize,
    shape: Shape,
}

/// How the lines of a diagnostic are told from those of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One line only.
    Line,
    /// A headline, then lines that are indented or name another token.
    Source,
    /// As `Source`, after the blank line that ends it.
    SourceEnded,
    /// Everything up to the build system's closing line.
    Compiler,
    /// Everything up to `SEMANTIC_ERRORS_END`.
    Catalogue,
}

static ROW_SET: LazyLock<RegexSet> = LazyLock::new(|| {
    RegexSet::new(ROWS.iter().map(|row| row.pattern)).expect("patterns of the table are valid")
});
static ROW_PATTERNS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| ROWS.iter().map(|row| fixed(row.pattern)).collect());
static COLOUR: LazyLock<Regex> = LazyLock::new(|| fixed("\x1b\\[[0-9;]*[A-Za-z]"));
static PREFIX: LazyLock<Regex> =
    LazyLock::new(|| fixed(r"^(ERROR|WARNING|semantic error|parse error): "));
static PLACE: LazyLock<Regex> = LazyLock::new(|| {
    fixed(concat!(
        r"^(?P<head>.*?)(?:: | near |^\s*(?:saw|at): )(?:identifier|operator|keyword|string|number|junk|embedded-code)",
        r"(?: '(?P<token>.*)')? at (?P<file>[^:]*|<input>):(?P<line>\d+):(?P<column>\d+)",
        r"(?: \(called from .*?\))?(?: in probe (?P<probe>.*))?$",
    ))
});
static SECOND_TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    fixed(
        r"^(identifier|operator|keyword|string|number|junk|embedded-code)( '.*')? at [^:]*:\d+:\d+$",
    )
});

impl Diagnostics {
    /// A parser for the stderr of one stap process. `stap_version` (as in `4.8`) is used in sentences about versions.
    pub fn new(stap_version: Option<&str>) -> Diagnostics {
        Diagnostics {
            stap_version: stap_version.map(str::to_owned),
            ..Diagnostics::default()
        }
    }

    /// Takes one line, without its newline. Returns the diagnostic that is complete now, if one is.
    pub fn push_line(&mut self, line: &str) -> Option<Diagnostic> {
        let line = COLOUR.replace_all(line.trim_end_matches(['\r', '\n']), "");
        let complete = match self.open.take() {
            None => self.begin(&line),
            Some(open) => self.go_on(open, &line),
        };
        complete.inspect(|diagnostic| self.count(diagnostic))
    }

    /// Ends the stream. Returns the diagnostic that was still open, if one was.
    pub fn finish(&mut self) -> Option<Diagnostic> {
        let open = self.open.take()?;
        let diagnostic = self.close(open);
        self.count(&diagnostic);
        Some(diagnostic)
    }

    /// Everything that was reported lost so far. stap prints skipped probes as a sum and, when asked for timing, by cause
    /// as well; these are not added up twice.
    pub fn loss(&self) -> Loss {
        Loss {
            skipped: self.announced_skips.max(self.itemised_skips),
            ..self.total
        }
    }

    fn count(&mut self, diagnostic: &Diagnostic) {
        let Some(loss) = diagnostic.loss else { return };
        let skips = match diagnostic.class {
            "skipped-cause" => &mut self.itemised_skips,
            _ => &mut self.announced_skips,
        };
        *skips = skips.saturating_add(loss.skipped);
        let total = &mut self.total;
        for (sum, more) in [
            (&mut total.transport_failures, loss.transport_failures),
            (&mut total.lost_messages, loss.lost_messages),
            (&mut total.lost_bytes, loss.lost_bytes),
            (&mut total.errors, loss.errors),
        ] {
            *sum = sum.saturating_add(more);
        }
    }

    /// A line with nothing open before it.
    fn begin(&mut self, line: &str) -> Option<Diagnostic> {
        if line.trim().is_empty() {
            return None;
        }
        let open = Open::new(line);
        if open.shape == Shape::Line {
            return Some(self.close(open));
        }
        self.open = Some(open);
        None
    }

    /// A line after others that may belong together.
    fn go_on(&mut self, mut open: Open, line: &str) -> Option<Diagnostic> {
        let ends = match open.shape {
            Shape::Line => true,
            Shape::Source if line.trim().is_empty() => {
                open.shape = Shape::SourceEnded;
                self.open = Some(open);
                return None;
            }
            Shape::Source => !(line.starts_with([' ', '\t']) || SECOND_TOKEN.is_match(line)),
            Shape::SourceEnded => return self.after_blank(open, line),
            Shape::Compiler => compiler::ends(line),
            Shape::Catalogue => line == "SEMANTIC_ERRORS_END",
        };
        let takes = match open.shape {
            Shape::Compiler => !ends || compiler::is_closing(line),
            Shape::Catalogue => true,
            _ => !ends,
        };
        if takes {
            open.take(line);
        }
        if !ends {
            self.open = Some(open);
            return None;
        }
        if !takes && !line.trim().is_empty() {
            self.open = Some(Open::new(line));
        }
        Some(self.close(open))
    }

    /// stap prints a chain of causes as separate errors. Two links of it are known to be one matter: the probe that could
    /// not be resolved and why, a type and where the other type came from.
    fn after_blank(&mut self, open: Open, line: &str) -> Option<Diagnostic> {
        if line.trim().is_empty() {
            self.open = Some(open);
            return None;
        }
        let next = Open::new(line);
        let joined = if next.diagnostic.class == "type-origin"
            && open.diagnostic.kind == DiagnosticKind::ScriptTypes
        {
            open.followed_by(next)
        } else if open.diagnostic.kind == DiagnosticKind::ProbeContext
            && line.starts_with("semantic error: ")
        {
            next.preceded_by(open)
        } else {
            self.open = Some(next);
            return Some(self.close(open));
        };
        self.open = Some(joined);
        None
    }

    fn close(&self, open: Open) -> Diagnostic {
        let Open {
            mut diagnostic,
            mut lines,
            omitted,
            shape,
        } = open;
        if shape == Shape::Compiler {
            compiler::judge(&mut diagnostic, &lines, self.stap_version.as_deref());
        }
        if omitted > 0 {
            lines.push(format!("({omitted} more lines)"));
        }
        diagnostic.excerpt = lines.join("\n");
        diagnostic
    }
}

impl Open {
    /// The diagnostic that begins with `line`.
    fn new(line: &str) -> Open {
        let (diagnostic, shape) = match recognise(line) {
            Some((row, captures)) => (from_row(row, &captures, line), shape_of(row)),
            None if compiler::begins(line) => (compiler::diagnostic(line), Shape::Compiler),
            None => {
                let diagnostic = unrecognised(line);
                let shape = match diagnostic.severity {
                    Severity::Note => Shape::Line,
                    _ if diagnostic.place.is_some() && line.starts_with("WARNING: ") => {
                        Shape::Source
                    }
                    _ => Shape::Line,
                };
                (diagnostic, shape)
            }
        };
        Open {
            diagnostic,
            lines: vec![line.to_owned()],
            omitted: 0,
            shape,
        }
    }

    fn take(&mut self, line: &str) {
        if self.shape == Shape::Catalogue {
            self.take_entry(line);
        }
        if self.diagnostic.place.is_none() && self.shape == Shape::Source {
            self.diagnostic.place = place(line).map(|(_, place)| place);
        }
        if self.lines.len() < EXCERPT_LINES {
            self.lines.push(line.to_owned());
        } else {
            self.omitted += 1;
        }
    }

    /// One `SEMANTIC_ERROR` line: five fields separated by tabs. One that does not have them stays in the excerpt only.
    fn take_entry(&mut self, line: &str) {
        let fields: Vec<&str> = line.splitn(6, '\t').collect();
        let ["SEMANTIC_ERROR", file, row, column, token, message] = fields[..] else {
            return;
        };
        let place = match (row.parse(), column.parse()) {
            (Ok(line), Ok(column)) if file != "-" => Some(ScriptPlace {
                file: file.to_owned(),
                line,
                column,
                token: token.to_owned(),
                probe: None,
            }),
            _ => None,
        };
        let entry = SemanticError {
            place,
            message: message.to_owned(),
        };
        if !self.diagnostic.catalogue.contains(&entry) {
            self.diagnostic.catalogue.push(entry);
        }
    }

    /// This message, with `next` as its explanation.
    fn followed_by(mut self, next: Open) -> Open {
        self.shape = next.shape;
        self.lines.extend(next.lines);
        self
    }

    /// This message, with `context` shown before it.
    fn preceded_by(mut self, context: Open) -> Open {
        if self.diagnostic.place.is_none() {
            self.diagnostic.place = context.diagnostic.place;
        }
        self.lines.splice(0..0, context.lines);
        // More lines of stap's may belong to this one even if its class is usually a single line.
        self.shape = Shape::Source;
        self
    }
}

/// The first row that matches, with what it captured.
fn recognise(line: &str) -> Option<(&'static Row, Captures<'_>)> {
    let first = ROW_SET.matches(line).iter().next()?;
    let captures = ROW_PATTERNS.get(first)?.captures(line)?;
    Some((ROWS.get(first)?, captures))
}

/// Classes whose headline can be followed by source lines.
fn shape_of(row: &Row) -> Shape {
    match row.class {
        "semantic-catalogue" => Shape::Catalogue,
        "elided" => Shape::Source,
        _ if row.pattern.starts_with("^(semantic") => Shape::Source,
        _ if row.pattern.starts_with("^semantic error") => Shape::Source,
        _ if row.pattern.starts_with("^parse error") => Shape::Source,
        _ => Shape::Line,
    }
}

fn from_row(row: &Row, captures: &Captures<'_>, line: &str) -> Diagnostic {
    let expand = |template: &str| {
        let mut text = String::new();
        captures.expand(template, &mut text);
        text
    };
    let number = |name: &str| -> u64 {
        let digits = captures.name(name).map_or("", |group| group.as_str());
        // Digits only, by the patterns: a number too large for the type is as good as its largest value.
        if digits.is_empty() {
            0
        } else {
            digits.parse().unwrap_or(u64::MAX)
        }
    };
    let loss = Loss {
        skipped: number("skipped"),
        transport_failures: number("transport"),
        lost_messages: number("messages"),
        lost_bytes: number("bytes"),
        errors: number("errors"),
    };
    let (message, place) = message_and_place(line);
    Diagnostic {
        class: row.class,
        kind: row.kind,
        phase: row.phase,
        severity: row.severity,
        message,
        meaning: expand(row.meaning),
        next: expand(row.next),
        excerpt: String::new(),
        place,
        loss: (row.kind == DiagnosticKind::Loss).then_some(loss),
        catalogue: Vec::new(),
    }
}

fn unrecognised(line: &str) -> Diagnostic {
    let (phase, severity) = match PREFIX.captures(line).and_then(|c| c.get(1)) {
        Some(prefix) if prefix.as_str() == "WARNING" => (Phase::Run, Severity::Warning),
        Some(_) => (Phase::Run, Severity::Error),
        None => (Phase::Run, Severity::Note),
    };
    let (message, place) = message_and_place(line);
    Diagnostic {
        class: "unrecognised",
        kind: DiagnosticKind::Unrecognised,
        phase,
        severity,
        message,
        meaning: String::new(),
        next: String::new(),
        excerpt: String::new(),
        place,
        loss: None,
        catalogue: Vec::new(),
    }
}

/// A headline without its prefix and without the place that it names, and that place.
fn message_and_place(line: &str) -> (String, Option<ScriptPlace>) {
    let bare = PREFIX.replace(line, "");
    match place(&bare) {
        Some((head, place)) => (head, Some(place)),
        None => (into_line(bare), None),
    }
}

fn into_line(text: Cow<'_, str>) -> String {
    text.trim().to_owned()
}

/// The place that ends a line, and what stands before it.
fn place(line: &str) -> Option<(String, ScriptPlace)> {
    let captures = PLACE.captures(line)?;
    let text = |name: &str| captures.name(name).map_or("", |group| group.as_str());
    let place = ScriptPlace {
        file: text("file").to_owned(),
        line: text("line").parse().ok()?,
        column: text("column").parse().ok()?,
        token: text("token").to_owned(),
        probe: captures
            .name("probe")
            .map(|probe| probe.as_str().to_owned()),
    };
    Some((text("head").trim().to_owned(), place))
}
