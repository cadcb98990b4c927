//! A session with a bundle: what was not typed is what the bundle was made with, and what nothing but another engine could do is
//! refused.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::request::{AgentUsage, SessionRequest};
use super::sought::Sought;
use crate::agent;
use crate::bundle::{Asked, Bundle, BundleError};
use crate::engine::all;
use crate::failure::Failure;

/// The request as it is carried out with the bundle in this file.
///
/// # Errors
/// When the file is none that can be used, and what it has nothing to do with.
pub(super) fn request(asked: &SessionRequest, path: &Path) -> Result<SessionRequest, Failure> {
    if let Some((what, option)) = conflict(asked) {
        return Err(BundleError::Conflict {
            path: path.to_owned(),
            what,
            option,
        }
        .into());
    }
    let bundle = Bundle::open(path)?;
    if let Some(library) = &bundle.agent {
        agent::bring(library).map_err(|reason| BundleError::NoAgent {
            path: path.to_owned(),
            reason,
        })?;
    }
    let mut request = completed(asked, &bundle.manifest.asked);
    if bundle.manifest.asked.totals() && !request.totals {
        return Err(BundleError::Conflict {
            path: path.to_owned(),
            what: "calls are wanted one by one",
            option: "--bundle, or make one without --totals",
        }
        .into());
    }
    request.engine.opened = Some(Arc::new(bundle));
    Ok(request)
}

/// What a bundle has nothing to do with, and the option for it.
fn conflict(asked: &SessionRequest) -> Option<(&'static str, &'static str)> {
    let named = asked.engine.named.as_deref();
    let conflicts = [
        (
            named.is_some_and(|name| name != all::BY_SCRIPT),
            "another engine was named",
            "--engine",
        ),
        (
            asked.purpose.is_compile(),
            "something is to be compiled",
            "--compile-only",
        ),
        (
            !asked.agent.fields.is_empty(),
            "fields are told by pystap's agent alone",
            "--field",
        ),
    ];
    let mut conflicts = conflicts.into_iter();
    conflicts.find_map(|(is, what, option)| is.then_some((what, option)))
}

/// The request with what it leaves open as the bundle has it.
fn completed(asked: &SessionRequest, made: &Asked) -> SessionRequest {
    let mut request = asked.clone();
    request.engine.named = Some(all::BY_SCRIPT.to_owned());
    if request.events.is_empty() {
        request.events.clone_from(&made.events);
    }
    if request.filters.is_empty() {
        // They were checked when it was read.
        request.filters = made.filters.filters().unwrap_or_default();
        if request.sought == Sought::default() {
            request.sought = Sought::by_filters(&request.filters);
        }
    }
    let least = made.min_duration_ns.map(Duration::from_nanos);
    request.min_duration = request.min_duration.or(least);
    if request.engine.stap_arguments.is_empty() {
        request
            .engine
            .stap_arguments
            .clone_from(&made.stap_arguments);
    }
    if request.agent.usage == AgentUsage::Auto {
        request.agent.usage = match (made.agent, made.no_agent) {
            (true, _) => AgentUsage::Always,
            (_, true) => AgentUsage::Never,
            _ => AgentUsage::Auto,
        };
    }
    request.sends_all |= !made.totals() && !made.times_calls();
    request
}

#[cfg(test)]
mod tests {
    use super::super::request::{EngineOptions, Purpose};
    use super::*;
    use crate::field::Field;
    use crate::script::filter::Glob;
    use crate::script::{Filters, TIMED_CALLS, TOTALS};

    fn made() -> Asked {
        let filters = Filters {
            functions: vec![Glob::new("handle").expect("a glob")],
            ..Filters::default()
        };
        Asked {
            events: ["call", "return"].map(str::to_owned).to_vec(),
            templates: vec!["calls".to_owned()],
            filters: (&filters).into(),
            stap_arguments: vec!["-g".to_owned()],
            agent: true,
            ..Asked::default()
        }
    }

    #[test]
    fn what_was_not_typed_is_as_the_bundle_has_it() {
        let request = completed(&SessionRequest::default(), &made());
        assert_eq!(request.engine.named.as_deref(), Some("stap"));
        assert_eq!(request.events, ["call", "return"]);
        assert_eq!(request.filters.to_string(), "function handle");
        assert_eq!(request.sought, Sought::by_filters(&request.filters));
        assert_eq!(request.engine.stap_arguments, ["-g"]);
        assert_eq!(request.agent.usage, AgentUsage::Always);
        assert_eq!(request.min_duration, None);
        assert!(request.sends_all, "its module sends each call");
    }

    #[test]
    fn what_was_typed_stays_as_it_was_typed() {
        let filters = Filters {
            files: vec![Glob::new("*/app.py").expect("a glob")],
            ..Filters::default()
        };
        let mut asked = SessionRequest {
            events: vec!["gc".to_owned()],
            filters: filters.clone(),
            min_duration: Some(Duration::from_millis(3)),
            ..SessionRequest::default()
        };
        asked.agent.usage = AgentUsage::Never;
        asked.engine.stap_arguments = vec!["-v".to_owned()];
        let request = completed(&asked, &made());
        assert_eq!(request.events, ["gc"]);
        assert_eq!(request.filters, filters);
        assert_eq!(request.sought, Sought::default());
        assert_eq!(request.min_duration, Some(Duration::from_millis(3)));
        assert_eq!(request.agent.usage, AgentUsage::Never);
        assert_eq!(request.engine.stap_arguments, ["-v"]);
    }

    #[test]
    fn what_a_module_adds_up_or_measures_is_not_asked_for_one_by_one() {
        let asked = SessionRequest::default();
        let adding = Asked {
            templates: vec![TOTALS.to_owned()],
            ..made()
        };
        assert!(!completed(&asked, &adding).sends_all);
        let timing = Asked {
            templates: vec![TIMED_CALLS.to_owned()],
            min_duration_ns: Some(5_000_000),
            ..made()
        };
        let request = completed(&asked, &timing);
        assert!(!request.sends_all);
        assert_eq!(request.min_duration, Some(Duration::from_millis(5)));
    }

    #[test]
    fn what_no_module_does_is_refused_before_the_file_is_opened() {
        let engine = |named: &str| SessionRequest {
            engine: EngineOptions {
                named: Some(named.to_owned()),
                ..EngineOptions::default()
            },
            ..SessionRequest::default()
        };
        let compiling = SessionRequest {
            purpose: Purpose::Compile {
                kernel: None,
                bundle: None,
            },
            ..SessionRequest::default()
        };
        let mut telling = SessionRequest::default();
        telling.agent.fields = vec![Field::parse("id=ctxt.id").expect("a field")];
        for (asked, option) in [
            (engine("uprobes"), "--engine"),
            (engine("direct"), "--engine"),
            (compiling, "--compile-only"),
            (telling, "--field"),
        ] {
            let refused = request(&asked, Path::new("/nowhere/calls.bundle"));
            let message = refused.expect_err("refused").message;
            assert!(
                message.ends_with(&format!("; leave out {option}")),
                "{message}"
            );
        }
        assert_eq!(conflict(&engine("stap")), None);
    }
}
