//! Sends all numbers to an OTLP receiver at intervals. They are sums since the beginning: what a receiver does not get of one
//! time is in those of the next.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::otlp::items;
use super::registry::Pushes;
use super::watching::Shared;
use crate::clock;
use crate::console::Console;
use crate::otlp::{Account, Item, Receiver, Resource, Sender};
use crate::threads;

/// Times whose numbers wait for a receiver that does not take them.
const MOST: usize = 4;

/// Pushing that goes on. [`Push::end`] sends the last numbers.
#[derive(Debug)]
pub(crate) struct Push {
    stop: crossbeam_channel::Sender<()>,
    thread: JoinHandle<Account>,
}

impl Push {
    /// Begins to push.
    ///
    /// # Errors
    /// As [`Sender::start`].
    pub(crate) fn start(
        receiver: Receiver,
        interval: Duration,
        shared: Shared,
        console: &Console,
    ) -> io::Result<Push> {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let resource = Resource::new(&[
            ("service.name", "pystap".into()),
            ("host.name", host.as_str().into()),
        ]);
        let sender = Sender::start(receiver, MOST, console)?;
        shared.pushes(pushes(Account::default()));
        let (stop, stopped) = bounded::<()>(0);
        let thread = threads::spawn(move || {
            loop {
                let goes_on = stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout);
                shared.pushes(pushes(sender.account()));
                // Nothing is known before probes are live.
                let items = {
                    let registry = shared.lock();
                    match registry.began() {
                        0 => Vec::new(),
                        began => items(&registry.families(), began, clock::now()),
                    }
                };
                if !items.is_empty() {
                    let item = |bytes| Item {
                        resource: Arc::clone(&resource),
                        bytes,
                    };
                    sender.send(items.into_iter().map(item).collect());
                }
                if !goes_on {
                    return sender.end();
                }
            }
        })?;
        Ok(Push { stop, thread })
    }

    /// Sends what it is at the end, within a few seconds. What became of all.
    pub(crate) fn end(self) -> Account {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

fn pushes(account: Account) -> Pushes {
    Pushes {
        wanted: true,
        sent: account.sent,
        failed: account.failed,
        dropped: account.dropped,
    }
}
