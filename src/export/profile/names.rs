//! How functions and processes are called in formats that have one string for a name.

use crate::event::hosts::Hosts;
use crate::event::{Place, Session};
use crate::text::Foreign;

/// `function (file:line)`, on one line and without anything that a terminal obeys; the line is left out where it is
/// not known.
pub(super) fn function(place: &Place, line: i32) -> String {
    let (name, file) = (place.name(), &place.file);
    if line > 0 {
        format!("{name} ({file}:{line})")
    } else {
        format!("{name} ({file})")
    }
}

/// `process 42: command`, as far as the session knows it. What was lost before anything came is of none (0).
pub(crate) fn process(session: &Session, pid: u32) -> String {
    let target = session.targets.iter().find(|target| target.pid == pid);
    match target {
        Some(target) if !target.command.is_empty() => {
            let process = Hosts::of(session).process(pid);
            format!("process {process}: {}", Foreign::new(&target.command))
        }
        _ if pid == 0 => "no process that is known".to_owned(),
        _ => format!("process {}", Hosts::of(session).process(pid)),
    }
}
