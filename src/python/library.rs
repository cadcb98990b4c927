//! Where the dynamic linker would find a library for a program that is not running yet, after ld.so(8).
//!
//! Reads the linker's configuration instead of its binary cache: the directories are the same, and the order only
//! matters where two copies of one library name are installed. Loads nothing.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::elf::{Architecture, Machine};

/// The linker's configuration, which names directories and includes more files.
const CONFIGURATION: &str = "/etc/ld.so.conf";

/// How deeply configuration files may include one another; one that includes itself must not block us.
const DEEPEST_INCLUDE: usize = 8;

/// The paths at which the linker looks for `library` on behalf of `program`, in its order, whether they exist or not.
/// `run_paths` are the program's own, unexpanded.
pub(super) fn candidates(
    library: &str,
    program: &Path,
    run_paths: &[String],
    architecture: Architecture,
) -> Vec<PathBuf> {
    if library.contains('/') {
        return vec![PathBuf::from(library)];
    }
    let environment = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    directories(
        program,
        run_paths,
        architecture,
        &environment,
        Path::new(CONFIGURATION),
    )
    .into_iter()
    .map(|directory| directory.join(library))
    .collect()
}

fn directories(
    program: &Path,
    run_paths: &[String],
    architecture: Architecture,
    environment: &OsStr,
    configuration: &Path,
) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = env::split_paths(environment)
        .filter(|directory| !directory.as_os_str().is_empty())
        .collect();
    found.extend(
        run_paths
            .iter()
            .flat_map(|paths| paths.split(':'))
            .filter(|path| !path.is_empty())
            .flat_map(|path| expand(path, program, architecture)),
    );
    configured(configuration, DEEPEST_INCLUDE, &mut found);
    let multiarch = multiarch(architecture);
    for root in ["/lib", "/usr/lib", "/usr/local/lib"] {
        found.extend(multiarch.map(|triplet| Path::new(root).join(triplet)));
        if architecture.address_size == 8 {
            found.push(PathBuf::from(format!("{root}64")));
        }
        found.push(PathBuf::from(root));
    }
    found
}

/// Replaces `$ORIGIN` and `$LIB`; the latter differs between distributions, so both of its values are tried.
fn expand(path: &str, program: &Path, architecture: Architecture) -> Vec<PathBuf> {
    let origin = program.parent().unwrap_or(Path::new("/")).to_string_lossy();
    let path = path
        .replace("${ORIGIN}", &origin)
        .replace("$ORIGIN", &origin)
        .replace("${LIB}", "$LIB");
    if !path.contains("$LIB") {
        return vec![PathBuf::from(path)];
    }
    let mut names = vec!["lib64".to_owned(), "lib".to_owned()];
    names.extend(multiarch(architecture).map(|triplet| format!("lib/{triplet}")));
    names
        .iter()
        .map(|name| PathBuf::from(path.replace("$LIB", name)))
        .collect()
}

fn multiarch(architecture: Architecture) -> Option<&'static str> {
    match (architecture.machine, architecture.address_size) {
        (Machine::X86, 8) => Some("x86_64-linux-gnu"),
        (Machine::X86, _) => Some("i386-linux-gnu"),
        (Machine::Aarch64, _) => Some("aarch64-linux-gnu"),
        (Machine::Other(_), _) => None,
    }
}

/// Adds the directories that a configuration file names. An unreadable file names none, as for the linker.
fn configured(file: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Some(depth) = depth.checked_sub(1) else {
        return;
    };
    let Ok(text) = fs::read_to_string(file) else {
        return;
    };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(patterns) = line.strip_prefix("include ") {
            for pattern in patterns.split_whitespace() {
                let pattern = file.parent().unwrap_or(Path::new("/")).join(pattern);
                for included in matching_files(&pattern) {
                    configured(&included, depth, found);
                }
            }
        } else if line.starts_with('/') {
            found.push(PathBuf::from(line));
        }
    }
}

/// The files that match a pattern with at most one `*`, in its last component; in alphabetical order.
fn matching_files(pattern: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name()) else {
        return Vec::new();
    };
    let name = name.to_string_lossy();
    let Some((before, after)) = name.split_once('*') else {
        return vec![pattern.to_owned()];
    };
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.len() >= before.len() + after.len()
                && name.starts_with(before)
                && name.ends_with(after)
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86_64: Architecture = Architecture {
        machine: Machine::X86,
        address_size: 8,
        little_endian: true,
    };

    fn searched(run_paths: &[&str], environment: &str, configuration: &Path) -> Vec<PathBuf> {
        let run_paths: Vec<String> = run_paths.iter().map(|&path| path.to_owned()).collect();
        let program = Path::new("/opt/py/bin/python3");
        directories(
            program,
            &run_paths,
            X86_64,
            OsStr::new(environment),
            configuration,
        )
    }

    #[test]
    fn the_environment_comes_before_the_programs_own_paths_and_these_before_the_systems() {
        let found = searched(
            &["$ORIGIN/../lib:/second"],
            "/env",
            Path::new("/nonexistent"),
        );
        let first: Vec<_> = found
            .iter()
            .take(3)
            .map(|path| path.display().to_string())
            .collect();
        assert_eq!(first, ["/env", "/opt/py/bin/../lib", "/second"]);
        assert!(found.contains(&PathBuf::from("/usr/lib/x86_64-linux-gnu")));
        assert!(found.contains(&PathBuf::from("/usr/lib64")));
    }

    #[test]
    fn the_library_directory_name_is_tried_in_every_form() {
        let found = searched(&["/opt/${LIB}"], "", Path::new("/nonexistent"));
        assert!(found.starts_with(&[
            "/opt/lib64".into(),
            "/opt/lib".into(),
            "/opt/lib/x86_64-linux-gnu".into()
        ]));
    }

    #[test]
    fn configuration_files_are_included_in_order_and_a_loop_of_them_ends() {
        let directory = tempfile::tempdir().expect("a directory");
        let configuration = directory.path().join("ld.so.conf");
        fs::create_dir(directory.path().join("more")).expect("a directory");
        fs::write(&configuration, "include more/*.conf\n/last # a comment\n").expect("written");
        fs::write(directory.path().join("more/b.conf"), "/b\n").expect("written");
        fs::write(
            directory.path().join("more/a.conf"),
            "/a\ninclude ../ld.so.conf\n",
        )
        .expect("written");
        fs::write(directory.path().join("more/c.txt"), "/not-read\n").expect("written");
        let found = searched(&[], "", &configuration);
        let position = |path: &str| found.iter().position(|found| found == Path::new(path));
        assert!(
            position("/a") < position("/b")
                && position("/b") < found.iter().rposition(|p| p == Path::new("/last"))
        );
        assert_eq!(position("/not-read"), None);
        assert!(position("/a").is_some());
    }
}
