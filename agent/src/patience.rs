//! How long a program waits for a pystap that does not answer: as short as possible without losing one that is merely
//! busy. One that is stopped answers nobody; one that works shows it in the processor time that it has used.

use rustix::fs::{Mode, OFlags};
use rustix::io;

/// For one that works, in milliseconds.
const BUSY: i64 = 2000;
/// For one that does not.
const IDLE: i64 = 500;
/// For one that cannot be looked at: it is in another pid namespace, or there is no /proc.
const UNSEEN: i64 = 1000;
/// How often it is looked at.
pub(crate) const LOOK: i64 = 50;

/// The wait for an answer of a process.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    pid: i32,
    begun: i64,
    /// When it was last seen at work, and the processor time that it had used by then.
    worked: i64,
    used: u64,
}

impl Patience {
    /// The wait begins.
    pub(crate) fn new(pid: i32, now: i64) -> Patience {
        Patience {
            pid,
            begun: now,
            worked: now,
            used: 0,
        }
    }

    /// Whether to wait no longer.
    pub(crate) fn is_over(&mut self, now: i64) -> bool {
        let waited = now.wrapping_sub(self.begun);
        let Some((state, used)) = look(self.pid) else {
            return waited >= UNSEEN;
        };
        match state {
            // Under a debugger it is `t` for moments only.
            b'T' | b'Z' | b'X' => return true,
            b'R' | b'D' => self.worked = now,
            _ if used != self.used => self.worked = now,
            _ => {}
        }
        self.used = used;
        waited >= BUSY || now.wrapping_sub(self.worked) >= IDLE
    }
}

/// State and processor time of a process.
fn look(pid: i32) -> Option<(u8, u64)> {
    if pid <= 0 {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = alloc::format!("/proc/{pid}/stat");
    let file = rustix::fs::open(path.as_str(), flags, Mode::empty()).ok()?;
    let mut text = [0; 512];
    let length = io::read(&file, &mut text).ok()?;
    let text = core::str::from_utf8(text.get(..length)?).ok()?;
    // The name, in parentheses, may contain anything.
    let mut fields = text
        .get(text.rfind(')')?.checked_add(1)?..)?
        .split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // utime and stime are the 14th and the 15th field, and the state is the third.
    let mut times = fields
        .skip(10)
        .map(|field| field.parse::<u64>().unwrap_or(0));
    let used = times.next()?.wrapping_add(times.next()?);
    Some((state, used))
}
