//! What only the stap engine can leave behind: modules and their loaders.

use rustix::process::{Pid, Signal, kill_process};

use super::{CALLS, Service, ticking};
use crate::tracing::{Tracing, eventually, leaves_nothing, loaders, modules};

/// Kills processes that are not children of this test.
fn kill(pids: &[u32]) {
    for pid in pids {
        let pid = Pid::from_raw(i32::try_from(*pid).expect("a pid")).expect("a pid");
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Runs a session only so that it cleans up. Returns what it printed.
fn next_session(service: &Service) -> Vec<String> {
    let tracing = Tracing::start(&CALLS.and(&["-n", "1", "-p", &service.pid()]));
    let traced = tracing.finish().complete("max_events");
    traced.said
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn a_pystap_that_is_killed_takes_module_and_loader_along() {
    leaves_nothing(|| {
        let mut service = ticking();
        let tracing = Tracing::start(&CALLS.and(&["-p", &service.pid()])).live();
        assert_eq!(modules().len(), 1);
        tracing.signal(Signal::KILL);
        assert_eq!(tracing.end().0, 128 + 9);
        eventually("the module is gone", || modules().is_empty());
        eventually("the loader is gone", || loaders().is_empty());
        let said = next_session(&service);
        let removed =
            |line: &&String| line.contains("removed /run/pystap/") && line.contains("killed");
        assert!(said.iter().any(|line| removed(&line)), "{said:#?}");
        service.end();
    });
}

#[test]
#[ignore = "needs a kernel that loads modules: run by tests/guest/run"]
fn a_module_that_nobody_is_left_for_is_removed_by_the_next_session() {
    leaves_nothing(|| {
        let mut service = ticking();
        let tracing = Tracing::start(&CALLS.and(&["-p", &service.pid()])).live();
        // Stopped, so that it cannot clean up after its loader.
        tracing.signal(Signal::STOP);
        kill(&loaders());
        eventually("the loader is gone", || loaders().is_empty());
        tracing.signal(Signal::KILL);
        assert_eq!(tracing.end().0, 128 + 9);
        assert_eq!(modules().len(), 1, "nobody was left to remove it");
        let said = next_session(&service);
        let removed = |line: &&String| line.contains("removed the module stap_");
        assert!(said.iter().any(|line| removed(&line)), "{said:#?}");
        service.end();
    });
}
