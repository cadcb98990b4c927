//! Whether a process runs greenlets: its calls then interleave in one thread, and no probe says when they switch.

use std::path::Path;

use procfs::process::{MMapPath, Process};

use super::maps;

/// Whether greenlet's library is mapped in a process. No, where that cannot be seen.
pub(crate) fn are_in(pid: u32) -> bool {
    maps_one(pid, is_library)
}

/// Whether gevent is, whose switches no Python function makes.
pub(crate) fn gevent_is_in(pid: u32) -> bool {
    maps_one(pid, |path| {
        path.extension().is_some_and(|it| it == "so")
            && path
                .parent()
                .is_some_and(|directory| directory.ends_with("gevent"))
    })
}

fn maps_one(pid: u32, is_it: impl Fn(&Path) -> bool) -> bool {
    let process = i32::try_from(pid).map(Process::new);
    let Ok(Ok(process)) = process else {
        return false;
    };
    maps::of(&process).is_ok_and(|maps| {
        maps.into_iter()
            .any(|map| matches!(&map.pathname, MMapPath::Path(path) if is_it(path)))
    })
}

/// Whether this is greenlet's extension module: `_greenlet.cpython-311-x86_64-linux-gnu.so`, and without the underscore
/// before greenlet 1.
pub(crate) fn is_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let module = name.strip_prefix('_').unwrap_or(&name);
    // Of a file that was removed since, as by an upgrade, the kernel says so behind its name.
    let name = module.strip_suffix(" (deleted)").unwrap_or(module);
    name.starts_with("greenlet.") && name.ends_with(".so")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::python::waiting::{PYTHON, Waiting};

    #[test]
    fn the_library_is_recognised_by_its_name() {
        for (path, expected) in [
            (
                "/usr/lib/python3/dist-packages/greenlet/_greenlet.cpython-311-x86_64-linux-gnu.so",
                true,
            ),
            ("/srv/venv/lib/greenlet/_greenlet.abi3.so (deleted)", true),
            (
                "/usr/lib/python3/dist-packages/greenlet.cpython-39-x86_64-linux-gnu.so",
                true,
            ),
            (
                "/usr/lib/python3/dist-packages/greenlet/_greenlet.cpython-311.py",
                false,
            ),
            ("/usr/lib/python3/dist-packages/greenlet_tools.so", false),
            ("/srv/greenlet.so.d/other.so", false),
        ] {
            assert_eq!(is_library(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_process_has_greenlets_when_it_has_mapped_the_library() {
        let plain = Waiting::python::<&str>(Path::new(PYTHON), &[]);
        assert!(!are_in(plain.pid()));
        assert!(!are_in(u32::MAX), "no process has that number");
        // Whatever maps a file of that name: the library itself need not be on this host.
        let directory = tempfile::tempdir().expect("a directory");
        let library = directory
            .path()
            .join("_greenlet.cpython-311-x86_64-linux-gnu.so");
        std::fs::write(&library, [0; 4096]).expect("written");
        let program = "import mmap, sys\n\
                       file = open(sys.argv[1], 'rb'); mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n\
                       print('mapped', flush=True)\n\
                       sys.stdin.read()";
        let mut command = Command::new(PYTHON);
        let with = Waiting::start(command.args(["-c", program]).arg(&library));
        assert!(are_in(with.pid()));
        std::fs::remove_file(&library).expect("removed");
        assert!(are_in(with.pid()), "an upgrade changes nothing");
    }
}
