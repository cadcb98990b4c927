//! What became of the traced processes, from the kernel's records about tasks: which of them run a probed image, and the
//! `process` events that say so. They are the same events as the stap engine's.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::event::{Event, ProcessChange, Text, What};

/// Something that happened to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Life {
    /// Nanoseconds since the Unix epoch.
    pub(super) ts: u64,
    /// The process.
    pub(super) pid: u32,
    /// What happened.
    pub(super) change: Change,
}

/// What can happen to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It was made.
    Forked { parent: u32 },
    /// It became another program.
    Execed { name: String },
    /// It was given another name.
    Named { name: String },
    /// It mapped code of a file.
    Mapped {
        inode: u64,
        /// Whether the file is called as interpreters of Python are.
        python: bool,
        /// Whether it is greenlet's library.
        greenlets: bool,
    },
    /// It ended.
    Exited { parent: u32 },
}

#[derive(Debug)]
struct Process {
    parent: Option<u32>,
    name: String,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It runs a probed image.
    Probed,
    /// A target that does not run one yet.
    Waiting,
    /// A child that does not run one yet: nobody has heard of it.
    Unheard,
    /// It ran one and became another program.
    Left,
}

/// The processes that are traced.
#[derive(Debug)]
pub(super) struct Processes {
    /// Inodes of the probed images.
    images: HashSet<u64>,
    /// Whether children count.
    follow: bool,
    known: HashMap<u32, Process>,
    /// Children where they do not count: before Linux 5.13 they are traced all the same.
    strange: HashSet<u32>,
}

impl Processes {
    pub(super) fn new(images: HashSet<u64>, follow: bool) -> Processes {
        Processes {
            images,
            follow,
            known: HashMap::new(),
            strange: HashSet::new(),
        }
    }

    /// A target, and whether it runs a probed image.
    pub(super) fn add(&mut self, pid: u32, probed: bool) {
        self.strange.remove(&pid);
        let stat = i32::try_from(pid)
            .ok()
            .and_then(|pid| procfs::process::Process::new(pid).ok())
            .and_then(|process| process.stat().ok());
        let process = Process {
            parent: stat.as_ref().and_then(|stat| u32::try_from(stat.ppid).ok()),
            name: stat.map(|stat| stat.comm).unwrap_or_default(),
            stage: if probed {
                Stage::Probed
            } else {
                Stage::Waiting
            },
        };
        self.known.insert(pid, process);
    }

    /// Whether children count.
    pub(super) fn follows(&self) -> bool {
        self.follow
    }

    /// Whether this process is a child where they do not count.
    pub(super) fn is_strange(&self, pid: u32) -> bool {
        self.strange.contains(&pid)
    }

    /// A process has ended and all of its events were given out: another one may get its id.
    pub(super) fn forget(&mut self, pid: u32) {
        self.strange.remove(&pid);
    }

    /// Takes note of what happened, in the order in which it did, and says what of it is news.
    pub(super) fn take(&mut self, life: Life) -> Option<Event> {
        let Life { ts, pid, change } = life;
        let (change, parent, name) = match change {
            Change::Forked { parent } => {
                if !self.follow {
                    self.strange.insert(pid);
                    return None;
                }
                let (stage, name) = match self.known.get(&parent) {
                    Some(parent) if parent.stage == Stage::Probed => {
                        (Stage::Probed, parent.name.clone())
                    }
                    Some(parent) => (Stage::Unheard, parent.name.clone()),
                    None => (Stage::Unheard, String::new()),
                };
                let process = Process {
                    parent: Some(parent),
                    name: name.clone(),
                    stage,
                };
                self.known.insert(pid, process);
                if stage == Stage::Unheard {
                    return None;
                }
                (ProcessChange::Fork, Some(parent), name)
            }
            Change::Execed { name } => {
                let process = self.known.get_mut(&pid)?;
                process.name = name;
                if process.stage == Stage::Probed {
                    process.stage = Stage::Left;
                }
                return None;
            }
            Change::Named { name } => {
                self.known.get_mut(&pid)?.name = name;
                return None;
            }
            Change::Mapped { inode, .. } => {
                let process = self.known.get_mut(&pid)?;
                if !self.images.contains(&inode) {
                    return None;
                }
                let before = std::mem::replace(&mut process.stage, Stage::Probed);
                let change = match before {
                    Stage::Unheard => ProcessChange::Fork,
                    Stage::Left => ProcessChange::Exec,
                    Stage::Waiting | Stage::Probed => return None,
                };
                (change, process.parent, process.name.clone())
            }
            Change::Exited { parent } => {
                let process = self.known.remove(&pid)?;
                if process.stage != Stage::Probed {
                    return None;
                }
                (ProcessChange::Exit, Some(parent), process.name)
            }
        };
        let command = (!name.is_empty()).then(|| {
            Arc::new(Text {
                text: name,
                ..Text::default()
            })
        });
        Some(Event {
            ts,
            pid,
            tid: pid,
            interpreter: None,
            what: What::Process {
                change,
                parent: parent.filter(|parent| *parent != 0),
                command,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: u64 = 99;

    fn story(processes: &mut Processes, lives: &[(u32, Change)]) -> Vec<(u32, ProcessChange)> {
        let lives = lives.iter().enumerate().filter_map(|(ts, (pid, change))| {
            processes.take(Life {
                ts: ts as u64,
                pid: *pid,
                change: change.clone(),
            })
        });
        lives
            .map(|event| match event.what {
                What::Process { change, .. } => (event.pid, change),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn execed() -> Change {
        Change::Execed {
            name: "x".to_owned(),
        }
    }

    // Ids beyond what the kernel gives out: no process of the host is looked at.
    const TARGET: u32 = 10_000_001;
    const CHILD: u32 = 10_000_002;
    const GRANDCHILD: u32 = 10_000_003;
    const MAPPED: Change = Change::Mapped {
        inode: IMAGE,
        python: true,
        greenlets: false,
    };
    const OTHER: Change = Change::Mapped {
        inode: 1,
        python: false,
        greenlets: false,
    };

    fn processes(follow: bool, probed: bool) -> Processes {
        let mut processes = Processes::new(HashSet::from([IMAGE]), follow);
        processes.add(TARGET, probed);
        processes
    }

    #[test]
    fn a_launched_command_becomes_python_without_a_word() {
        let mut processes = processes(true, false);
        let told = story(
            &mut processes,
            &[
                (TARGET, execed()),
                (TARGET, MAPPED),
                (TARGET, Change::Exited { parent: 1 }),
            ],
        );
        assert_eq!(told, [(TARGET, ProcessChange::Exit)]);
    }

    #[test]
    fn a_forked_python_is_news_at_once_and_its_exec_too() {
        let forked = Change::Forked { parent: TARGET };
        let told = story(
            &mut processes(true, true),
            &[
                (CHILD, forked),
                (CHILD, execed()),
                (CHILD, OTHER),
                (CHILD, MAPPED),
            ],
        );
        assert_eq!(
            told,
            [(CHILD, ProcessChange::Fork), (CHILD, ProcessChange::Exec)]
        );
    }

    #[test]
    fn a_shell_between_two_pythons_is_passed_over() {
        let told = story(
            &mut processes(true, true),
            &[
                (CHILD, Change::Forked { parent: TARGET }),
                (CHILD, execed()),
                (GRANDCHILD, Change::Forked { parent: CHILD }),
                (GRANDCHILD, execed()),
                (GRANDCHILD, MAPPED),
                (GRANDCHILD, Change::Exited { parent: CHILD }),
                (CHILD, Change::Exited { parent: TARGET }),
            ],
        );
        assert_eq!(
            told,
            [
                (CHILD, ProcessChange::Fork),
                (GRANDCHILD, ProcessChange::Fork),
                (GRANDCHILD, ProcessChange::Exit)
            ]
        );
    }

    #[test]
    fn children_are_nobody_where_they_are_not_followed() {
        let mut processes = processes(false, true);
        assert_eq!(
            story(
                &mut processes,
                &[(CHILD, Change::Forked { parent: TARGET })]
            ),
            []
        );
        assert!(processes.is_strange(CHILD) && !processes.is_strange(TARGET));
        processes.forget(CHILD);
        assert!(processes.strange.is_empty(), "no trace of it is left");
    }
}
