//! `pystap stats`: how long single functions take, one line per interval while they are called, and the distribution at the
//! end.

use super::trace;
use crate::analysis::pairing::PairingRules;
use crate::cli;
use crate::console::Console;
use crate::export::latencies::Slow;
use crate::export::{Output, Sink};
use crate::failure::Failure;
use crate::script::Filters;
use crate::script::filter::Glob;
use crate::session::request::{Limits, SessionRequest};
use crate::session::sought::Sought;

/// Latencies of single functions, as they are called and in sum.
pub(super) fn run(arguments: &cli::Stats, console: &Console) -> Result<u8, Failure> {
    let make = |output: Output, _: PairingRules| -> Box<dyn Sink> {
        let wanted = arguments.functions.clone();
        Box::new(Slow::new(
            output,
            wanted,
            arguments.interval,
            arguments.limit,
            arguments.json,
            arguments.raw_times,
        ))
    };
    trace::run_into(&request(arguments), console, &make, None)
}

/// The session behind it.
fn request(arguments: &cli::Stats) -> SessionRequest {
    // Who calls is seen only where everything is.
    let (functions, files) = match arguments.callers {
        true => (Vec::new(), Vec::new()),
        false => narrowed(&arguments.functions),
    };
    let mut request = SessionRequest {
        events: ["call", "return"].map(str::to_owned).to_vec(),
        filters: Filters {
            functions,
            files,
            ..Filters::default()
        },
        limits: Limits {
            duration: arguments.duration,
            max_events: None,
        },
        sought: sought(&arguments.functions),
        output: arguments.output.clone(),
        group_by: arguments.group_by.clone(),
        ..trace::common(&arguments.targets, &arguments.engine)
    };
    trace::with_fields(&mut request, &arguments.fields);
    if arguments.callers {
        // Fields are of the functions that were named.
        let (named, _) = narrowed(&arguments.functions);
        let fields = request.agent.fields.iter_mut();
        for field in fields.filter(|field| field.functions.is_empty()) {
            field.functions.clone_from(&named);
        }
    }
    request
}

/// What the kernel may leave out when these are wanted: a filter on names, and one on files when each names its files.
pub(super) fn narrowed(wanted: &[Glob]) -> (Vec<Glob>, Vec<Glob>) {
    let (files, functions): (Vec<Option<Glob>>, Vec<Glob>) = wanted.iter().map(parts).unzip();
    let files: Option<Vec<Glob>> = files.into_iter().collect();
    (functions, files.unwrap_or_default())
}

/// The file, if one is named, and the name of a function.
fn parts(wanted: &Glob) -> (Option<Glob>, Glob) {
    let named = wanted.as_str().rsplit_once(':');
    match named.map(|(file, name)| (Glob::new(file), Glob::new(name))) {
        Some((Ok(file), Ok(name))) => (Some(file), name),
        _ => (None, wanted.clone()),
    }
}

/// What is said of these when nothing is seen of them.
pub(super) fn sought(wanted: &[Glob]) -> Sought {
    Sought::by_name(wanted.iter().map(|glob| {
        let (file, name) = parts(glob);
        (glob.as_str().to_owned(), file, name)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_may_filter_by_file_only_when_every_function_names_its_files() {
        let texts = |globs: Vec<Glob>| -> Vec<String> {
            globs.iter().map(|glob| glob.as_str().to_owned()).collect()
        };
        let glob = |text: &str| Glob::new(text).expect("a glob");
        let (functions, files) = narrowed(&[glob("*/app.py:f*"), glob("*/db.py:read")]);
        assert_eq!(texts(functions), ["f*", "read"]);
        assert_eq!(texts(files), ["*/app.py", "*/db.py"]);
        let (functions, files) = narrowed(&[glob("*/app.py:f*"), glob("g")]);
        assert_eq!(texts(functions), ["f*", "g"]);
        assert_eq!(texts(files), Vec::<String>::new());
    }
}
