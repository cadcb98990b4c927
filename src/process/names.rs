//! Names of threads, each asked for while its thread is there, and kept when it is not.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a name stands before it is asked for anew: a thread may be given one, and another thread the same number. To read one in
/// the memory of a program takes longer. While it cannot be read, because the thread just begins or does too much, the kernel's stands
/// for a moment.
const STANDS: Duration = Duration::from_secs(1);
const STANDS_IN_PYTHON: Duration = Duration::from_secs(10);
const STANDS_MEANWHILE: Duration = Duration::from_millis(100);
/// Most names that are kept.
const MOST: usize = 1 << 14;

#[derive(Debug, Clone)]
struct Name {
    until: Instant,
    name: Arc<str>,
}

/// See the head of the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct ThreadNames(HashMap<u32, Name>);

impl ThreadNames {
    /// The name that the kernel has for a thread that is there or was a moment ago; the last one that was heard where it is there no
    /// longer.
    pub(crate) fn of(&mut self, tid: u32) -> Option<Arc<str>> {
        self.find(tid, Instant::now(), None::<fn() -> _>, kernels)
    }

    /// The same of a thread of Python, which has the name that its program has given it, if that can be read.
    pub(crate) fn of_python(
        &mut self,
        tid: u32,
        in_python: impl FnOnce() -> Option<String>,
    ) -> Option<Arc<str>> {
        self.find(tid, Instant::now(), Some(in_python), kernels)
    }

    fn find(
        &mut self,
        tid: u32,
        now: Instant,
        in_python: Option<impl FnOnce() -> Option<String>>,
        kernels: impl FnOnce(u32) -> Option<Vec<u8>>,
    ) -> Option<Arc<str>> {
        let known = self.0.get(&tid);
        if let Some(fresh) = known.filter(|known| now < known.until) {
            return Some(Arc::clone(&fresh.name));
        }
        let before = known.map(|known| Arc::clone(&known.name));
        let without = match in_python {
            Some(_) => STANDS_MEANWHILE,
            None => STANDS,
        };
        let (found, stands) = match in_python.and_then(|it| it()) {
            Some(name) => (Some(Arc::from(name)), STANDS_IN_PYTHON),
            None => {
                let name = kernels(tid).map(|name| {
                    let name = name.strip_suffix(b"\n").unwrap_or(&name);
                    Arc::from(String::from_utf8_lossy(name))
                });
                (name, without)
            }
        };
        let name = found.or(before)?;
        if self.0.len() >= MOST && known.is_none() {
            return Some(name);
        }
        let kept = Name {
            until: now + stands,
            name: Arc::clone(&name),
        };
        self.0.insert(tid, kept);
        Some(name)
    }

    /// All that are known, by thread.
    pub(crate) fn known(&self) -> HashMap<u32, String> {
        let names = self.0.iter();
        names
            .map(|(tid, known)| (*tid, known.name.to_string()))
            .collect()
    }
}

fn kernels(tid: u32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{tid}/comm")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Option<fn() -> Option<String>> = None;

    #[test]
    fn a_number_that_is_used_again_has_the_name_of_its_new_thread() {
        let mut names = ThreadNames::default();
        let named = |name: &'static str| move |_| Some(name.as_bytes().to_vec());
        let now = Instant::now();
        let text = |name: Option<Arc<str>>| name.map(|name| name.to_string());
        let old = text(names.find(7, now, NOBODY, named("old\n")));
        assert_eq!(old.as_deref(), Some("old"));
        // It is not asked for with each wait.
        let soon = text(names.find(7, now + STANDS / 2, NOBODY, named("new\n")));
        assert_eq!(soon.as_deref(), Some("old"));
        // Who has ended keeps its name.
        let ended = text(names.find(7, now + STANDS, NOBODY, |_| None));
        assert_eq!(ended.as_deref(), Some("old"));
        let new = text(names.find(7, now + STANDS * 3, NOBODY, named("new\n")));
        assert_eq!(new.as_deref(), Some("new"));
        assert_eq!(names.known()[&7], "new");
        assert_eq!(names.find(8, now, NOBODY, |_| None), None);
    }

    #[test]
    fn a_name_in_python_counts_more_and_stands_longer() {
        let mut names = ThreadNames::default();
        let kernels = |_| Some(b"python3\n".to_vec());
        let (now, mine) = (Instant::now(), || Some("mine".to_owned()));
        let mut name = |at, in_python: fn() -> Option<String>| {
            let found = names.find(7, at, Some(in_python), kernels);
            found.map(|name| name.to_string())
        };
        assert_eq!(name(now, || None).as_deref(), Some("python3"));
        let soon = now + STANDS_MEANWHILE;
        assert_eq!(name(soon, mine).as_deref(), Some("mine"));
        let later = soon + STANDS_IN_PYTHON;
        assert_eq!(name(later - STANDS, || None).as_deref(), Some("mine"));
        // The number may be that of another thread by now.
        assert_eq!(name(later, || None).as_deref(), Some("python3"));
    }

    #[test]
    fn names_without_end_are_bounded() {
        let mut names = ThreadNames::default();
        let now = Instant::now();
        for tid in 0..2 * MOST as u32 {
            assert!(names.find(tid, now, NOBODY, |_| Some(vec![0xff])).is_some());
        }
        assert_eq!(names.known().len(), MOST);
    }
}
