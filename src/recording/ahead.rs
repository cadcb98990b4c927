//! A recording that is read in a thread of its own, ahead of who takes its events: to unpack and decode them costs about as much as
//! many a view of them. Order, errors and what is told beside events are those of a [`Reader`]; little is read ahead. Where no
//! thread can be had, it is read as it is asked for.

use std::io::Read;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Reader, RecordingError};
use crate::analysis::pairing::PairingRules;
use crate::event::{Event, Session, Summary, What};
use crate::threads;

/// Events of a batch: so many that a thread is seldom woken, and so few that they are in the processor's cache still when they are
/// taken. And bytes that they are made of, which bound the texts in them.
const EVENTS: usize = 1 << 10;
const BYTES: u64 = 1 << 16;
/// Batches that wait to be taken.
const BATCHES: usize = 4;

/// Events that follow each other.
#[derive(Debug, Default)]
struct Batch {
    /// Rules of processes that hold from the first one on.
    rules: Vec<(u32, PairingRules)>,
    events: Vec<Event>,
}

/// An event, and rules of processes that hold from it on.
pub type Told<E> = (E, Vec<(u32, PairingRules)>);

/// A recording that nobody reads any longer, and why it could not be read to its end.
type Ended<R> = (Box<Reader<R>>, Result<(), RecordingError>);

/// See the head of the module.
#[derive(Debug)]
pub struct Ahead<R> {
    session: Session,
    rules: PairingRules,
    source: Source<R>,
    /// What was received last, and how much of it was taken. It goes back as it is, so that names are let go of where they are made:
    /// two processors that count their uses wait for each other.
    batch: Batch,
    taken: usize,
}

#[derive(Debug)]
enum Source<R> {
    Thread(Thread<R>),
    /// Read as it is asked for, or read to its end.
    Here(Box<Reader<R>>),
    /// On its way back.
    Lost,
}

#[derive(Debug)]
struct Thread<R> {
    batches: Receiver<Batch>,
    /// The way back of those that were emptied, to be filled again.
    emptied: Sender<Batch>,
    thread: JoinHandle<Option<Ended<R>>>,
}

impl<R: Read + Send + 'static> Ahead<R> {
    /// The same without a thread, for one of so many that not each can have one.
    pub fn here(reader: Reader<R>) -> Ahead<R> {
        let (session, rules) = (reader.session().clone(), reader.rules());
        Ahead::of(session, rules, Source::Here(Box::new(reader)))
    }

    /// Begins to read.
    pub fn new(reader: Reader<R>) -> Ahead<R> {
        let (session, rules) = (reader.session().clone(), reader.rules());
        let (filled, batches) = bounded(BATCHES);
        let (emptied, empty) = bounded(BATCHES);
        let thread = threads::spawn_with(Box::new(reader), move |mut reader| {
            let result = read(&mut reader, &filled, &empty);
            (reader, result)
        });
        let source = match thread {
            Ok(thread) => Source::Thread(Thread {
                batches,
                emptied,
                thread,
            }),
            Err(reader) => Source::Here(reader),
        };
        Ahead::of(session, rules, source)
    }

    fn of(session: Session, rules: PairingRules, source: Source<R>) -> Ahead<R> {
        Ahead {
            session,
            rules,
            source,
            batch: Batch::default(),
            taken: 0,
        }
    }

    /// What ran and with what.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Those of [`Reader::rules`].
    pub fn rules(&self) -> PairingRules {
        self.rules
    }

    /// The next event, with the processes that have rules of their own from it on; `None` at the end, wherever that is.
    ///
    /// # Errors
    /// Those of [`Reader::event`], after all events that come before.
    pub fn event(&mut self) -> Result<Option<Told<&mut Event>>, RecordingError> {
        while self.taken >= self.batch.events.len() {
            if !self.go_on()? {
                return Ok(None);
            }
        }
        self.taken += 1;
        let Batch { rules, events } = &mut self.batch;
        let event = events.get_mut(self.taken - 1);
        Ok(event.map(|event| (event, std::mem::take(rules))))
    }

    /// The same, taken out of its batch.
    ///
    /// # Errors
    /// Those of [`Ahead::event`].
    pub fn take(&mut self) -> Result<Option<Told<Event>>, RecordingError> {
        let nothing = Event {
            ts: 0,
            pid: 0,
            tid: 0,
            interpreter: None,
            what: What::GcStart { generation: 0 },
        };
        let told = self.event()?;
        Ok(told.map(|(event, rules)| (std::mem::replace(event, nothing), rules)))
    }

    /// Has events at hand, if there are more. Errors are those of [`Ahead::event`].
    fn go_on(&mut self) -> Result<bool, RecordingError> {
        self.taken = 0;
        match &mut self.source {
            Source::Thread(thread) => {
                let next = thread.batches.recv();
                let before = std::mem::replace(&mut self.batch, next.unwrap_or_default());
                let _ = thread.emptied.try_send(before);
                if self.batch.events.is_empty() {
                    self.end()?;
                }
                Ok(true)
            }
            Source::Here(reader) => {
                self.batch.events.clear();
                self.batch.events.extend(reader.event()?);
                self.batch.rules = reader.process_rules();
                Ok(!self.batch.events.is_empty())
            }
            Source::Lost => Ok(false),
        }
    }

    /// Takes the recording back from its thread.
    fn end(&mut self) -> Result<(), RecordingError> {
        let Source::Thread(thread) = std::mem::replace(&mut self.source, Source::Lost) else {
            return Ok(());
        };
        match threads::join(thread.thread) {
            Some((reader, result)) => {
                self.source = Source::Here(reader);
                result
            }
            None => Ok(()),
        }
    }

    /// The summary, once the end has been reached; `None` for a recording that was truncated.
    pub fn summary(&self) -> Option<&Summary> {
        self.at_its_end()?.summary()
    }

    /// Whether the end was reached too early: the recording was truncated, or is still being written.
    pub fn was_cut(&self) -> bool {
        self.at_its_end().is_some_and(Reader::was_cut)
    }

    fn at_its_end(&self) -> Option<&Reader<R>> {
        match &self.source {
            Source::Here(reader) => Some(reader),
            Source::Thread(_) | Source::Lost => None,
        }
    }
}

/// Sends everything up to the end, or until nobody takes it any longer.
fn read<R: Read>(
    reader: &mut Reader<R>,
    filled: &Sender<Batch>,
    empty: &Receiver<Batch>,
) -> Result<(), RecordingError> {
    let mut batch = Batch::default();
    let mut begun = reader.taken();
    loop {
        let event = reader.event();
        let rules = reader.process_rules();
        let is_full = batch.events.len() >= EVENTS || reader.taken().saturating_sub(begun) >= BYTES;
        if !batch.events.is_empty()
            && (is_full || !rules.is_empty() || !matches!(event, Ok(Some(_))))
        {
            let mut next = empty.try_recv().unwrap_or_default();
            next.events.clear();
            if filled.send(std::mem::replace(&mut batch, next)).is_err() {
                return Ok(());
            }
            begun = reader.taken();
        }
        batch.rules.extend(rules);
        match event? {
            Some(event) => batch.events.push(event),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::analysis::pairing::Pairing;
    use crate::analysis::testing::{call, returned};
    use crate::export::{End, Sink};
    use crate::recording::Writer;

    const GREEN: PairingRules = PairingRules {
        call_on_creation: false,
        greenlets: true,
    };

    /// A recording of so many calls, in which a process has rules of its own from the middle on.
    fn recording(calls: u64, summary: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Box::new(Writer::new(&mut bytes, PairingRules::default()));
        writer.session(&Session::default()).expect("memory");
        for at in 0..calls {
            if at == calls / 2 {
                writer.rules(7, GREEN).expect("memory");
            }
            for event in [call(at * 10, "f"), returned(at * 10 + 5, "f")] {
                writer
                    .step(&crate::analysis::pairing::Step::new(&event))
                    .expect("memory");
            }
        }
        let pairing = Pairing::new();
        let summary = summary.then(|| Summary {
            delivered: 2 * calls,
            ..Summary::default()
        });
        let end = End {
            summary: summary.as_ref(),
            pairing: &pairing,
        };
        writer.finish(&end).expect("memory");
        bytes
    }

    type All = (Vec<Told<Event>>, Option<String>);

    /// Each event, with the rules that are told with it, and the error at the end.
    fn all(mut next: impl FnMut() -> Result<Option<Told<Event>>, RecordingError>) -> All {
        let mut read = Vec::new();
        loop {
            match next() {
                Ok(Some(event)) => read.push(event),
                Ok(None) => return (read, None),
                Err(error) => return (read, Some(error.to_string())),
            }
        }
    }

    #[test]
    fn what_is_read_ahead_is_what_a_reader_reads_to_the_end_or_to_wherever_it_was_damaged() {
        let whole = recording(20_000, true);
        let cut = recording(20_000, false);
        let mut damaged = whole.clone();
        let at = damaged.len() * 2 / 3;
        damaged.truncate(at);
        damaged.extend([2, 1, 0, 0, 0, 4, 0, 0, 0, 9, 9, 9, 9]);
        for bytes in [whole, cut, damaged, recording(0, true)] {
            let reader = Reader::new(io::Cursor::new(bytes.clone()));
            let mut reader = reader.expect("a recording");
            let expected = all(|| {
                let event = reader.event()?;
                Ok(event.map(|event| (event, reader.process_rules())))
            });
            let ahead = Reader::new(io::Cursor::new(bytes.clone())).expect("a recording");
            let mut ahead = Ahead::new(ahead);
            let read = all(|| {
                let told = ahead.event()?;
                Ok(told.map(|(event, rules)| (event.clone(), rules)))
            });
            assert!(read == expected);
            let here = Reader::new(io::Cursor::new(bytes)).expect("a recording");
            let mut here = Ahead::here(here);
            assert!(all(|| here.take()) == expected);
            assert_eq!(ahead.summary(), reader.summary());
            assert_eq!(ahead.was_cut(), reader.was_cut());
        }
    }

    #[test]
    fn who_has_seen_enough_need_not_read_to_the_end() {
        /// A file that says when nobody reads it any longer.
        struct Told(io::Cursor<Vec<u8>>, Sender<()>);

        impl Read for Told {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0.read(buffer)
            }
        }

        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.1.send(());
            }
        }

        let (tell, told) = bounded(1);
        let file = Told(io::Cursor::new(recording(20_000, true)), tell);
        let mut ahead = Ahead::new(Reader::new(file).expect("a recording"));
        assert!(ahead.event().expect("whole").is_some());
        drop(ahead);
        let ended = told.recv_timeout(std::time::Duration::from_secs(60));
        assert_eq!(ended, Ok(()));
    }
}
