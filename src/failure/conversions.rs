//! What the errors of each room come to for a command: the exit code, and further lines where there are some.

use std::io;

use super::Failure;
use crate::agent::AgentError;
use crate::agent::install::InstallError;
use crate::bundle::BundleError;
use crate::console::Exit;
use crate::engine::stap::StapError;
use crate::engine::uprobes::UprobesError;
use crate::export::OpenError;
use crate::process::TargetError;
use crate::recipe::RecipeError;
use crate::script::ScriptError;
use crate::session::plan::PlanError;

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Script(error) => error.into(),
            error => Failure::new(Exit::of(error.exit_code()), error.to_string()),
        }
    }
}

impl From<ScriptError> for Failure {
    fn from(error: ScriptError) -> Self {
        let exit = match error {
            ScriptError::Unknown { .. }
            | ScriptError::Foreign { .. }
            | ScriptError::Unquotable { .. }
            | ScriptError::Unreadable { .. } => Exit::Usage,
            _ => Exit::Failed,
        };
        let text = error.to_string();
        // A template's report with its caret has lines of its own.
        let (message, excerpt) = text.split_once('\n').unwrap_or((&text, ""));
        Failure {
            exit,
            message: message.trim_end_matches(':').to_owned(),
            excerpt: excerpt.to_owned(),
        }
    }
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        Failure::new(error.exit(), error.to_string())
    }
}

impl From<RecipeError> for Failure {
    fn from(error: RecipeError) -> Self {
        let message = error.to_string();
        let excerpt = match error {
            RecipeError::Wrong { excerpt, .. } => excerpt,
            _ => String::new(),
        };
        Failure {
            exit: Exit::Usage,
            message,
            excerpt,
        }
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        Failure::new(Exit::of(error.exit_code()), error.to_string())
    }
}

impl From<StapError> for Failure {
    fn from(error: StapError) -> Self {
        let exit = match error {
            StapError::Missing { .. }
            | StapError::Unusable { .. }
            | StapError::Distrusted { .. }
            | StapError::NoModules
            | StapError::ModulesDisabled
            | StapError::PidNamespace
            | StapError::NotPermitted
            | StapError::NotCompiled { .. } => Exit::Unready,
            StapError::Workspace { .. }
            | StapError::Start { .. }
            | StapError::Stopped
            | StapError::Control { .. } => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<UprobesError> for Failure {
    fn from(error: UprobesError) -> Self {
        let exit = match error {
            UprobesError::System { .. } => Exit::Failed,
            _ => Exit::Unready,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        let exit = match error {
            AgentError::System { .. } | AgentError::Silent { .. } => Exit::Failed,
            _ => Exit::Unready,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<InstallError> for Failure {
    fn from(error: InstallError) -> Self {
        let exit = match error {
            InstallError::NotFound { .. }
            | InstallError::Directory { .. }
            | InstallError::NotPython { .. } => Exit::Usage,
            InstallError::Unsupported { .. }
            | InstallError::NoSite { .. }
            | InstallError::Held { .. }
            | InstallError::Elsewhere { .. } => Exit::Unready,
            InstallError::Unwritable { .. } => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Failure::new(Exit::Failed, error.to_string())
    }
}

/// Writing to standard output failed, or a sink says in a sentence of its own why it cannot go on. A closed pipe is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if crate::export::is_closed(&error) {
            return Failure::new(Exit::Done, String::new());
        }
        if crate::export::is_a_sentence(&error) {
            return Failure::new(Exit::Failed, error.to_string());
        }
        Failure::new(
            Exit::Failed,
            format!(
                "standard output cannot be written ({error}), so the rest is missing; check where it goes"
            ),
        )
    }
}
