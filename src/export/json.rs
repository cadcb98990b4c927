//! The sink for programs: one JSON object per line, as `pystap schema` describes it.

use std::io::{self, Write};

use super::{ENOUGH, End, Held, Sink, counted};
use crate::analysis::pairing::Step;
use crate::event::{Session, json};

/// Writes events as lines of JSON. Lines are collected: call [`Sink::flush`] when no event is at hand.
#[derive(Debug)]
pub struct Json<W> {
    output: W,
    writer: json::Writer,
    lines: Vec<u8>,
    held: Held,
}

impl<W: Write> Json<W> {
    /// A sink that writes to `output`.
    pub fn new(output: W) -> Json<W> {
        Json {
            output,
            writer: json::Writer::new(),
            lines: Vec::with_capacity(2 * ENOUGH),
            held: Held::default(),
        }
    }
}

impl<W: Write> Sink for Json<W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.writer.begin(session);
        json::session(session, &mut self.lines);
        // A reader learns at once what it is connected to.
        self.flush()
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        self.writer.event(step.event, &mut self.lines);
        self.held.add(self.lines.len(), counted(step.event));
        if self.lines.len() >= ENOUGH {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.held.hand_over(&mut self.lines, &mut self.output)
    }

    fn unwritten(&self) -> u64 {
        self.held.unwritten
    }

    fn finish(mut self: Box<Self>, end: &End<'_>) -> io::Result<Option<String>> {
        // What was cut stays cut: an invented summary would say that nothing is missing.
        if let Some(summary) = end.summary {
            json::summary(summary, &mut self.lines);
        }
        self.flush()?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::pairing::Pairing;
    use crate::event::json::{Line, Reader};
    use crate::event::{Event, Summary, What};

    #[test]
    fn a_stream_reads_back_as_session_events_and_summary() {
        let mut bytes = Vec::new();
        let mut sink = Box::new(Json::new(&mut bytes));
        let event = Event {
            ts: 1,
            pid: 2,
            tid: 3,
            interpreter: None,
            what: What::GcStart { generation: 2 },
        };
        sink.session(&Session::default()).expect("memory");
        sink.step(&Step::new(&event)).expect("memory");
        sink.finish(&End::new(&Summary::default(), &Pairing::new()))
            .expect("memory");
        let mut reader = Reader::new();
        let text = String::from_utf8(bytes).expect("UTF-8");
        let lines: Vec<Line> = text
            .lines()
            .map(|line| reader.read(line).expect("our own line"))
            .collect();
        assert_eq!(
            lines,
            [
                Line::Session(Session::default()),
                Line::Event(event),
                Line::Summary(Summary::default())
            ]
        );
    }

    #[test]
    fn events_are_held_back_until_there_are_enough_of_them_or_a_flush() {
        struct Counting(usize);
        impl Write for Counting {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut sink = Json::new(Counting(0));
        let event = Event {
            ts: 1,
            pid: 2,
            tid: 3,
            interpreter: None,
            what: What::GcStart { generation: 2 },
        };
        for _ in 0..100 {
            sink.step(&Step::new(&event)).expect("a counter");
        }
        assert_eq!(sink.output.0, 0);
        sink.flush().expect("a counter");
        assert_eq!(sink.output.0, 1);
        for _ in 0..100_000 {
            sink.step(&Step::new(&event)).expect("a counter");
        }
        assert!((2..200).contains(&sink.output.0), "{}", sink.output.0);
    }
}
