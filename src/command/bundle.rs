//! `pystap bundle`: a module for hosts that cannot compile one, and what is in such a file.

use std::path::Path;

use serde_json::json;

use super::{print, trace};
use crate::analysis::pairing::PairingRules;
use crate::bundle::Bundle;
use crate::cli;
use crate::console::{Console, Exit};
use crate::engine::stap::bundled;
use crate::export::json::Json;
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::session::request::{
    AgentUsage, AgentWishes, EngineOptions, Purpose, SessionRequest, TargetRequest,
};
use crate::text::Foreign;

/// Makes one, or shows one.
pub(super) fn run(arguments: &cli::Bundle, console: &Console) -> Result<u8, Failure> {
    if let Some(path) = &arguments.list {
        list(path, arguments.json)?;
        return Ok(Exit::Done.code());
    }
    let request = request(arguments);
    // It ends before there is anything to be written there.
    let make = |output: Output, _: PairingRules| -> Box<dyn Sink> { Box::new(Json::new(output)) };
    trace::run_into(&request, console, &make, None)
}

/// The session that it is made for.
fn request(arguments: &cli::Bundle) -> SessionRequest {
    let mut request = SessionRequest {
        targets: TargetRequest {
            python: arguments.python.clone(),
            ..TargetRequest::default()
        },
        agent: AgentWishes {
            usage: match (arguments.agent, arguments.no_agent) {
                (true, _) => AgentUsage::Always,
                (_, true) => AgentUsage::Never,
                _ => AgentUsage::Auto,
            },
            ..AgentWishes::default()
        },
        engine: EngineOptions {
            stap: arguments.stap.stap.clone(),
            stap_arguments: arguments.stap.stap_args.clone(),
            ..EngineOptions::default()
        },
        template_directory: arguments.template_dir.clone(),
        totals: arguments.totals,
        purpose: Purpose::Compile {
            kernel: arguments.kernel.clone(),
            bundle: arguments.output.clone(),
        },
        ..SessionRequest::default()
    };
    trace::ask(&mut request, &arguments.what);
    request
}

/// Shows what is in one, and whether it fits this host.
fn list(path: &Path, as_json: bool) -> Result<(), Failure> {
    let bundle = Bundle::open(path)?;
    let misfit = bundled::loads(&bundle).err().map(|failure| failure.message);
    let made_for = &bundle.manifest;
    if as_json {
        return Ok(print::json(&json!({
            "bundle": made_for,
            "misfit": misfit,
        }))?);
    }
    let mut rows = vec![
        ("made by", format!("pystap {}", made_for.pystap)),
        (
            "kernel",
            format!(
                "{} {}{}",
                made_for.kernel.release,
                made_for.kernel.machine,
                match &made_for.kernel.build {
                    Some(build) => format!(", {build}"),
                    None => String::new(),
                }
            ),
        ),
        ("SystemTap", made_for.systemtap.to_string()),
        ("tells", made_for.asked.described()),
    ];
    for image in &made_for.images {
        let (name, what) = match (image.is_agent(), &image.version) {
            (true, _) => ("agent", image.path.clone()),
            (false, Some(version)) => ("Python", format!("{version}, {}", image.path)),
            (false, None) => ("Python", image.path.clone()),
        };
        rows.push((name, format!("{what}, build ID {}", image.build_id)));
    }
    rows.push((
        "module",
        format!("{}, {} bytes", made_for.module, made_for.parts.module),
    ));
    rows.push((
        "here",
        misfit.unwrap_or_else(|| "fits this kernel, and what loads it is here".to_owned()),
    ));
    let line = |(name, what): &(&str, String)| format!("{name:<10} {}\n", Foreign::new(what));
    print::page(&rows.iter().map(line).collect::<String>())?;
    Ok(())
}
