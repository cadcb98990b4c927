//! An examination for people, for programs, and as a shell script. Text only; where it goes is the caller's business.

use std::collections::HashSet;
use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json as value};

use super::remedy::PROOF;
use super::{Ability, EventVerdict, Examination, Finding, Fix, Part, Status};
use crate::host::Facts;
use crate::shell;
use crate::text::harmless;

/// The version of the JSON report. Fields are added within one version, never renamed or removed.
const SCHEMA: u32 = 1;

/// The column at which prose is wrapped.
const WIDTH: usize = 100;
/// The column at which the text of a finding begins.
const INDENT: usize = 11;

/// How a report looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Look {
    /// Show the evidence for what is fine as well.
    pub verbose: bool,
}

const PARTS: [Part; 9] = [
    Part::Host,
    Part::Kernel,
    Part::Building,
    Part::Systemtap,
    Part::Uprobes,
    Part::Agent,
    Part::Waits,
    Part::Debug,
    Part::Python,
];

fn style(status: Status) -> Style {
    match status {
        Status::Ok => AnsiColor::Green.on_default(),
        Status::Warning => AnsiColor::Yellow.on_default(),
        Status::Missing => AnsiColor::Red.on_default().bold(),
        Status::Unknown => AnsiColor::Magenta.on_default(),
    }
}

fn style_of(ability: Ability) -> Style {
    style(match ability {
        Ability::Ready => Status::Ok,
        Ability::Likely => Status::Warning,
        Ability::Cannot => Status::Missing,
        Ability::Unknown => Status::Unknown,
    })
}

/// The report. It contains colour codes; a stream that wants none strips them, as `anstream` does.
pub(crate) fn report(facts: &Facts, examination: &Examination, look: Look) -> String {
    let mut text = String::new();
    for part in PARTS {
        let findings: Vec<&Finding> = examination
            .findings
            .iter()
            .filter(|finding| finding.part == part)
            .collect();
        if findings.is_empty() {
            continue;
        }
        heading(&mut text, part.title());
        for finding in findings {
            describe(&mut text, finding, look);
        }
        text.push('\n');
    }
    for note in &facts.overlooked {
        wrapped(&mut text, 0, "Note: ", note);
    }
    if !facts.overlooked.is_empty() {
        text.push('\n');
    }
    verdict(&mut text, examination);
    text
}

fn heading(text: &mut String, title: &str) {
    let bold = Style::new().bold();
    line(text, &format!("{bold}{title}{bold:#}"));
}

fn line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

fn describe(text: &mut String, finding: &Finding, look: Look) {
    let style = style(finding.status);
    let status = finding.status.name();
    let blanks = " ".repeat(INDENT - 2 - status.len());
    wrapped(
        text,
        INDENT,
        &format!("  {style}{status}{style:#}{blanks}"),
        &finding.summary,
    );
    let fine = finding.status == Status::Ok;
    if fine && !look.verbose {
        return;
    }
    let margin = " ".repeat(INDENT);
    if !fine || look.verbose {
        wrapped(text, INDENT, &margin, &finding.why);
    }
    let dim = Style::new().dimmed();
    for evidence in &finding.evidence {
        if evidence.value.is_empty() {
            continue;
        }
        let path = printable(&evidence.path);
        wrapped(
            text,
            INDENT + 2,
            &format!("{margin}{dim}{path}:{dim:#} "),
            &evidence.value,
        );
    }
    for fix in &finding.fixes {
        wrapped(text, INDENT + 2, &format!("{margin}> "), &fix.what);
        for command in &fix.commands {
            let bold = Style::new().bold();
            line(
                text,
                &format!("{margin}  $ {bold}{}{bold:#}", printable(command)),
            );
        }
    }
}

fn verdict(text: &mut String, examination: &Examination) {
    heading(text, "Verdict");
    for verdict in &examination.engines {
        let style = style_of(verdict.ability);
        let name = verdict.engine.name();
        let blanks = " ".repeat(INDENT - 2 - name.len());
        wrapped(
            text,
            INDENT,
            &format!("  {style}{name}{style:#}{blanks}"),
            &verdict.sentence,
        );
    }
    let mut pythons: Vec<&str> = Vec::new();
    for event in &examination.events {
        if !pythons.contains(&event.python.as_str()) {
            pythons.push(&event.python);
        }
    }
    for python in pythons {
        let events: Vec<&EventVerdict> = examination
            .events
            .iter()
            .filter(|event| event.python == python)
            .collect();
        of_interpreter(text, &events);
    }
}

/// Events of an interpreter: kinds with the same verdict share a line.
fn of_interpreter(text: &mut String, events: &[&EventVerdict]) {
    const MOST_PIDS: usize = 6;
    let Some(first) = events.first() else { return };
    let pids: Vec<String> = first
        .pids
        .iter()
        .take(MOST_PIDS)
        .map(ToString::to_string)
        .collect();
    let more = match first.pids.len().saturating_sub(MOST_PIDS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let processes = match first.pids.len() {
        0 => String::new(),
        1 => format!(", pid {}", pids.join("")),
        _ => format!(", pids {}{more}", pids.join(" ")),
    };
    line(text, &format!("  {}{processes}", printable(&first.name)));
    let mut lines: Vec<(Vec<&str>, Ability, &str)> = Vec::new();
    for event in events {
        match lines
            .iter_mut()
            .find(|(_, ability, sentence)| *ability == event.ability && *sentence == event.sentence)
        {
            Some((kinds, ..)) => kinds.push(event.kind),
            None => lines.push((vec![event.kind], event.ability, &event.sentence)),
        }
    }
    let width = lines
        .iter()
        .map(|(kinds, ..)| kinds.join(", ").len())
        .max()
        .unwrap_or_default();
    for (kinds, ability, sentence) in lines {
        let style = style_of(ability);
        let kinds = kinds.join(", ");
        let blanks = " ".repeat(width - kinds.len() + 2);
        wrapped(
            text,
            4 + width + 2,
            &format!("    {style}{kinds}{style:#}{blanks}"),
            sentence,
        );
    }
}

/// Writes `start` and `prose`, wrapping between words; further lines are indented. Commands in backquotes are not
/// broken, so that they can be copied.
fn wrapped(text: &mut String, indent: usize, start: &str, prose: &str) {
    let mut column = visible(start);
    let mut out = start.to_owned();
    let mut first = true;
    for word in words(&printable(prose)) {
        let length = word.chars().count();
        if !first && column + 1 + length > WIDTH {
            out.truncate(out.trim_end().len());
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if !first {
            out.push(' ');
            column += 1;
        }
        out.push_str(&word);
        column += length;
        first = false;
    }
    line(text, &out);
}

/// Words, counting anything in backquotes as one.
fn words(prose: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for word in prose.split_whitespace() {
        match words.last_mut() {
            Some(last) if open => {
                last.push(' ');
                last.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
        if word.matches('`').count() % 2 == 1 {
            open = !open;
        }
    }
    words
}

/// Number of visible characters: all but colour codes.
fn visible(text: &str) -> usize {
    let mut count = 0;
    let mut code = false;
    for character in text.chars() {
        match character {
            '\x1b' => code = true,
            'm' if code => code = false,
            _ if !code => count += 1,
            _ => {}
        }
    }
    count
}

/// Text from files and processes, safe for a terminal.
fn printable(text: &str) -> String {
    harmless(&text.replace(['\n', '\t'], " "))
}

/// The report for programs; docs/doctor.md describes it. `can` is whether what was asked about can run.
pub(crate) fn json(facts: &Facts, examination: &Examination, can: bool) -> Value {
    value!({
        "schema": SCHEMA,
        "pystap": facts.pystap,
        "distribution": facts.distribution.value().map(|distribution| &distribution.name),
        "kernel": facts.kernel.release.value(),
        "can": can,
        "engines": examination.engines,
        "events": examination.events,
        "findings": examination.findings,
        "overlooked": facts.overlooked,
    })
}

/// Lines that every fix script begins with.
const HEAD: usize = 6;

/// Whether apt knows what there is: on a machine that was just made it does not, and where sources were added, not yet.
#[derive(Debug, Default)]
struct Lists {
    are_new: bool,
}

impl Lists {
    /// What has to be done before a command of a script.
    fn before(&mut self, command: &str, script: &mut String) {
        if command == "apt-get update" {
            self.are_new = true;
        } else if command.contains("/etc/apt/") {
            self.are_new = false;
        } else if command.starts_with("apt-get install ") && !self.are_new {
            script.push_str("apt-get update\n");
            self.are_new = true;
        }
    }
}

/// All fixes in order, as one shell script with comments. Choices and manual steps are comments.
pub(crate) fn fix_script(examination: &Examination) -> String {
    let mut script = String::from(
        "#!/bin/sh\n\
         # How to mend what `pystap doctor` found on this host, in order. Read it, then run it as root.\n\
         # Lines after \"choose:\" are not run: take away the sign in front of the way that you want.\n\
         set -eu\n\
         mending='nothing yet'\n\
         trap '[ $? = 0 ] || echo \"stopped, and the rest was not done; what was to be mended: $mending\" >&2' EXIT\n",
    );
    let mut done = HashSet::new();
    // The proof comes after everything else is fixed.
    let mut proof: Option<String> = None;
    let mut lists = Lists::default();
    let wrong = examination
        .findings
        .iter()
        .filter(|finding| finding.status != Status::Ok);
    for finding in wrong {
        let fixes: Vec<&Fix> = finding
            .fixes
            .iter()
            .filter(|fix| fix.commands.is_empty() || !done.contains(&fix.commands))
            .filter(|fix| {
                let proves = match fix.commands.as_slice() {
                    [command] if command.starts_with(PROOF) => Some(command),
                    _ => None,
                };
                if let Some(command) = proves
                    && proof.is_none()
                {
                    proof = Some(printable(command));
                }
                proves.is_none()
            })
            .collect();
        if fixes.is_empty() {
            continue;
        }
        let summary = printable(&finding.summary);
        let _ = write!(script, "\n# {}: {summary}\n", finding.status.name());
        let is_run =
            |fix: &&Fix| !fix.choice && fix.commands.iter().any(|it| !it.starts_with(PROOF));
        if fixes.iter().any(is_run) {
            let _ = writeln!(script, "mending={}", shell::word(&summary));
        }
        for fix in fixes {
            let choice = if fix.choice && !fix.commands.is_empty() {
                "choose: "
            } else {
                ""
            };
            let _ = writeln!(script, "# {choice}{}", printable(&fix.what));
            for command in &fix.commands {
                // A newline from outside would end a comment.
                let command = printable(command);
                match command {
                    command if fix.choice => {
                        let _ = writeln!(script, "# {command}");
                    }
                    command if command.starts_with(PROOF) => proof = Some(command),
                    command => {
                        lists.before(&command, &mut script);
                        let _ = writeln!(script, "{command}");
                    }
                }
            }
            done.insert(fix.commands.clone());
        }
    }
    if let Some(proof) = proof {
        let _ = writeln!(
            script,
            "\n# At last: build a small module, the only proof that stap works here.\nmending='the proof'\n{proof}"
        );
    } else if script.lines().count() == HEAD {
        script.push_str("\n# Nothing needs mending.\n");
    }
    script
}
