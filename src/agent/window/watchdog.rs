//! Has the kernel end this process after a time, unless it reports before that it is done.

use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;

use super::{LONGEST, WindowError};

/// Runs from its creation; dropping it stops it. SIGKILL needs no cooperation: a process that is stopped, or frozen by
/// its control group, ends too.
pub(super) struct Watchdog {
    _timer: Timer,
}

impl Watchdog {
    pub(super) fn start() -> Result<Watchdog, WindowError> {
        let failed = |errno: nix::errno::Errno| {
            WindowError::Helper(format!("no timer to watch over it: {}", errno.desc()))
        };
        let event = SigEvent::new(SigevNotify::SigevSignal {
            signal: Signal::SIGKILL,
            si_value: 0,
        });
        let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, event).map_err(failed)?;
        let expiration = Expiration::OneShot(TimeSpec::from_duration(LONGEST));
        timer
            .set(expiration, TimerSetTimeFlags::empty())
            .map_err(failed)?;
        Ok(Watchdog { _timer: timer })
    }
}
