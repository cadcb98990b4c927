//! Where spans go: into a file, or to a receiver.

use std::fmt::Debug;
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::otlp::{Item, Resource, Sender, request};

/// Spans of one request to a receiver, and bytes of them.
const MOST: usize = 2048;
const MOST_BYTES: usize = 1 << 20;
/// How long a span waits for others.
const LONGEST: Duration = Duration::from_secs(1);

/// Takes spans.
pub(crate) trait Outlet: Debug {
    /// Takes one, as a field of a scope.
    ///
    /// # Errors
    /// The output's.
    fn put(&mut self, resource: Arc<Resource>, bytes: Vec<u8>) -> io::Result<()>;

    /// Some time has passed.
    ///
    /// # Errors
    /// The output's.
    fn tick(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Takes no more.
    ///
    /// # Errors
    /// The output's, or that a receiver does not take them.
    fn end(&mut self) -> io::Result<()>;
}

/// Spans that are handed on together.
#[derive(Debug, Default)]
struct Batch {
    items: Vec<Item>,
    bytes: usize,
    since: Option<Instant>,
}

impl Batch {
    /// Adds a span. Whether it is enough.
    fn add(&mut self, resource: Arc<Resource>, bytes: Vec<u8>) -> bool {
        self.since.get_or_insert_with(Instant::now);
        self.bytes += bytes.len();
        self.items.push(Item { resource, bytes });
        self.items.len() >= MOST || self.bytes >= MOST_BYTES
    }

    fn is_old(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= LONGEST)
    }

    /// Takes the spans, those of a process together.
    fn take(&mut self) -> Vec<Item> {
        let mut items = std::mem::take(self).items;
        items.sort_by_key(|item| Arc::as_ptr(&item.resource).addr());
        items
    }
}

/// A file: one `ExportTraceServiceRequest`, however long, because requests that follow each other are one. Whoever reads OTLP reads
/// it, and a receiver takes it as it is.
#[derive(Debug)]
pub(crate) struct InFile<W> {
    output: W,
    batch: Batch,
}

impl<W: Write> InFile<W> {
    pub(crate) fn new(output: W) -> InFile<W> {
        InFile {
            output,
            batch: Batch::default(),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        self.output.write_all(&request(&self.batch.take()))
    }
}

impl<W: Write + Debug> Outlet for InFile<W> {
    fn put(&mut self, resource: Arc<Resource>, bytes: Vec<u8>) -> io::Result<()> {
        match self.batch.add(resource, bytes) {
            true => self.write(),
            false => Ok(()),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        self.write()
    }
}

/// What became of spans that were sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Those that the receiver has.
    pub(crate) taken: u64,
    pub(crate) lost: u64,
}

/// A receiver.
#[derive(Debug)]
pub(crate) struct Post {
    sender: Option<Sender>,
    batch: Batch,
    handed: u64,
    /// How long it may take nothing; not at all where a program would have to wait for that.
    patience: Option<Duration>,
    told: Arc<OnceLock<Sent>>,
}

impl Post {
    /// Batches that may wait for a receiver.
    pub(crate) const MOST: usize = 64;

    /// Sends. With a patience it waits for room, and gives up where none comes for so long; else what finds none is lost. What
    /// became of all is told at the end.
    pub(crate) fn new(
        sender: Sender,
        patience: Option<Duration>,
        told: &Arc<OnceLock<Sent>>,
    ) -> Post {
        Post {
            sender: Some(sender),
            batch: Batch::default(),
            handed: 0,
            patience,
            told: Arc::clone(told),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let items = self.batch.take();
        let Some(sender) = self.sender.as_ref().filter(|_| !items.is_empty()) else {
            return Ok(());
        };
        self.handed += items.len() as u64;
        if let Some(patience) = self.patience
            && !sender.wait(Post::MOST - 1, patience)
        {
            return Err(self.give_up());
        }
        sender.send(items);
        Ok(())
    }

    /// Ends, with word of it.
    fn give_up(&mut self) -> io::Error {
        let sent = self.account();
        io::Error::new(
            io::ErrorKind::QuotaExceeded,
            format!(
                "the receiver has taken nothing for so long that it was given up ({} spans are there); see to it, then send the recording \
                 again, or raise --otlp-timeout",
                sent.taken
            ),
        )
    }

    fn account(&mut self) -> Sent {
        let taken = self.sender.take().map_or(0, |sender| sender.end().items);
        let sent = Sent {
            taken,
            lost: self.handed.saturating_sub(taken),
        };
        *self.told.get_or_init(|| sent)
    }
}

impl Outlet for Post {
    fn put(&mut self, resource: Arc<Resource>, bytes: Vec<u8>) -> io::Result<()> {
        match self.batch.add(resource, bytes) {
            true => self.send(),
            false => Ok(()),
        }
    }

    fn tick(&mut self) -> io::Result<()> {
        match self.batch.is_old() {
            true => self.send(),
            false => Ok(()),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        self.send()?;
        if let (Some(patience), Some(sender)) = (self.patience, &self.sender)
            && !sender.wait(0, patience)
        {
            return Err(self.give_up());
        }
        self.account();
        Ok(())
    }
}
