//! The command lines of stap and staprun. Pure: nothing here looks at the host.

use std::ffi::OsString;
use std::path::Path;

/// Options of stap that concern running, not compiling, and what to use instead. pystap compiles and runs in two
/// steps, so they would be ignored in silence if they were passed on.
const RUN_OPTIONS: [(&str, &str); 10] = [
    ("-x", "--pid"),
    ("-c", "a command after --"),
    ("-o", "--output"),
    ("-s", "--buffer"),
    ("-b", "--buffer"),
    ("-T", "--duration"),
    ("-F", "nothing: pystap reads as it goes"),
    ("-S", "--output"),
    ("-p", "nothing: pystap decides how far stap goes"),
    ("-m", "nothing: pystap names the module"),
];

/// The option of pystap to use in place of a `--stap-arg` that would have no effect; `None` when it may be passed on.
pub fn replacement(argument: &str) -> Option<&'static str> {
    RUN_OPTIONS
        .iter()
        .find(|(option, _)| argument.starts_with(option) && !argument.starts_with("--"))
        .map(|(_, instead)| *instead)
}

/// Arguments of stap for compiling `script`, without the program's name.
///
/// * `--suppress-handler-errors`: one unreadable pointer must not end a session; stap counts such errors and the
///   count is reported.
/// * `STP_NO_OVERLOAD`: by default stap ends a session in which probes take more than half of the time; tracing every
///   call of a busy program does that by nature, and the user asked for it.
pub fn compile(tapsets: &Path, kernel: &str, extra: &[String], script: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        "-p4",
        "--color=never",
        "--suppress-handler-errors",
        "-DSTP_NO_OVERLOAD",
        "-r",
        kernel,
        "-I",
    ]
    .iter()
    .map(OsString::from)
    .collect();
    arguments.push(tapsets.into());
    arguments.extend(extra.iter().map(OsString::from));
    arguments.push(script.into());
    arguments
}

/// Arguments of staprun for running a compiled module, without the program's name.
///
/// With `only`, the kernel takes the probes out of every process that is neither this one nor its descendant, so that
/// others pay nothing. `buffer` is the size of the buffer a processor, in megabytes.
pub fn run(module: &Path, only: Option<u32>, buffer: Option<u32>) -> Vec<OsString> {
    // -R: a module name of its own for every run, so that two sessions with one script do not collide.
    let mut arguments: Vec<OsString> = vec!["-R".into(), "-C".into(), "never".into()];
    if let Some(pid) = only {
        arguments.push("-x".into());
        arguments.push(pid.to_string().into());
    }
    if let Some(megabytes) = buffer {
        arguments.push("-b".into());
        arguments.push(megabytes.to_string().into());
    }
    arguments.push(module.into());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_stap_would_ignore_when_it_only_compiles_are_refused_with_what_to_use() {
        assert_eq!(replacement("-s64"), Some("--buffer"));
        assert_eq!(replacement("-x"), Some("--pid"));
        assert_eq!(replacement("-DMAXACTION=5000"), None);
        assert_eq!(replacement("--suppress-time-limits"), None);
        assert_eq!(replacement("-g"), None);
    }

    #[test]
    fn a_module_is_run_for_one_process_only_when_there_is_one() {
        let module = Path::new("/cache/a.ko");
        assert_eq!(
            run(module, Some(42), Some(64)),
            ["-R", "-C", "never", "-x", "42", "-b", "64", "/cache/a.ko"]
        );
        assert_eq!(
            run(module, None, None),
            ["-R", "-C", "never", "/cache/a.ko"]
        );
    }
}
