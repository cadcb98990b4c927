//! Waits of threads: time in which a thread did not run, told when it runs again.

use std::sync::Arc;

use super::Text;

/// What a blocked thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A file's contents or that they are written.
    Disk,
    /// A socket.
    Network,
    /// A pipe.
    Pipe,
    /// A futex, or a lock of a file.
    Lock,
    /// A futex that is the GIL.
    Gil,
    /// Time to pass.
    Sleep,
    /// A child to end.
    Child,
    /// A page of memory.
    PageFault,
    /// Any of several descriptors.
    Poll,
    /// To be continued: a signal or a debugger has stopped it.
    Stopped,
    /// Something else.
    Other,
}

impl Reason {
    /// All of them. Recordings have the place in this list, so that others are added at the end.
    pub const ALL: [Reason; 11] = [
        Reason::Disk,
        Reason::Network,
        Reason::Pipe,
        Reason::Lock,
        Reason::Gil,
        Reason::Sleep,
        Reason::Child,
        Reason::PageFault,
        Reason::Poll,
        Reason::Stopped,
        Reason::Other,
    ];

    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Disk => "disk",
            Reason::Network => "network",
            Reason::Pipe => "pipe",
            Reason::Lock => "lock",
            Reason::Gil => "gil",
            Reason::Sleep => "sleep",
            Reason::Child => "child",
            Reason::PageFault => "page-fault",
            Reason::Poll => "poll",
            Reason::Stopped => "stopped",
            Reason::Other => "other",
        }
    }

    /// In brackets with the system call, as the frame above the function that waits.
    pub fn leaf(self, call: Option<&str>) -> String {
        match call {
            Some(call) => format!("[{}: {call}]", self.word()),
            None => format!("[{}]", self.word()),
        }
    }
}

/// Time in which a thread did not run. Its event has the time at which it ran again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// What it waited for; `None` where only its processor was taken from it.
    pub reason: Option<Reason>,
    /// The system call, where there was one and it is known.
    pub syscall: Option<Arc<Text>>,
    /// The other end of a socket, or the file or pipe, of waits that lasted until somebody looked.
    pub on: Option<Arc<Text>>,
    /// How long it was blocked.
    pub blocked_ns: u64,
    /// How long it waited for a processor after that; `None` where nobody told when it was woken: then it is in `blocked_ns`.
    pub runqueue_ns: Option<u64>,
    /// Who woke it, where that is known.
    pub waker: Option<Waker>,
}

/// Who woke a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waker {
    /// A thread.
    Thread {
        /// Its id in the initial pid namespace.
        tid: u32,
        /// Its name (`comm`), where it was still there to be asked.
        name: Option<Arc<Text>>,
    },
    /// The kernel, in an interrupt.
    Interrupt,
}

impl Wait {
    /// What the time of a thread that wants a processor is called among reasons.
    pub const RUN_QUEUE: &str = "run-queue";
    /// What [`Waker::Interrupt`] is called.
    pub const INTERRUPT: &str = "interrupt";

    /// The reason in a word.
    pub fn word(&self) -> &'static str {
        self.reason.map_or(Wait::RUN_QUEUE, Reason::word)
    }

    /// As a frame above the function that waits: its reason and system call in brackets.
    pub fn leaf(&self) -> String {
        let call = self.syscall.as_ref().map(ToString::to_string);
        match self.reason {
            Some(reason) => reason.leaf(call.as_deref()),
            None => Wait::run_queue_leaf(),
        }
    }

    /// The same of the time in which it waited for a processor.
    pub fn run_queue_leaf() -> String {
        format!("[{}]", Wait::RUN_QUEUE)
    }

    /// What the first line of a stream calls waits among the kinds of events.
    pub const KIND: &str = "wait";

    /// How long the thread did not run.
    pub fn off_ns(&self) -> u64 {
        self.blocked_ns
            .saturating_add(self.runqueue_ns.unwrap_or_default())
    }

    /// Its texts.
    pub fn texts(&self) -> impl Iterator<Item = &Arc<Text>> {
        let name = match &self.waker {
            Some(Waker::Thread { name, .. }) => name.as_ref(),
            _ => None,
        };
        self.syscall.iter().chain(&self.on).chain(name)
    }
}
