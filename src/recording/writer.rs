//! The sink that records. Events are collected, packed and written a block at a time; what was handed to the system
//! before a crash can be read afterwards.

use std::io::{self, Write};

use miniz_oxide::deflate::compress_to_vec_zlib;

use super::code::Encoder;
use super::{
    MAGIC, ProcessRules, RecordKind, SampleSink, Samples, SavedRules, VERSION, WITHOUT_HOSTS,
};
use crate::analysis::pairing::{PairingRules, Step};
use crate::event::{Session, Summary, What, json};
use crate::export::{End, Sink};

/// Unpacked bytes of a full block: enough for the packing to find repetitions, little enough to lose in a crash.
const FULL: usize = 256 * 1024;
/// How hard to pack: most of what there is to save, `code` has saved already. With 2, seven tenths as many events are recorded
/// per second, in a tenth less room; with 3, half as many in a sixth to a quarter less.
const LEVEL: u8 = 1;

/// Writes a recording.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    rules: PairingRules,
    encoder: Encoder,
    events: Vec<u8>,
    /// How many are in there, and how many were in blocks that could not be written.
    count: u64,
    unwritten: u64,
    /// Bytes that were written.
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// A recording to `output`, of interpreters with these rules.
    pub fn new(output: W, rules: PairingRules) -> Writer<W> {
        Writer {
            output,
            rules,
            encoder: Encoder::default(),
            events: Vec::with_capacity(FULL + 4096),
            count: 0,
            unwritten: 0,
            bytes: 0,
        }
    }

    /// Bytes that were written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes what was held back, and what came of it.
    pub(super) fn close(&mut self, summary: Option<&Summary>) -> io::Result<()> {
        self.write_events()?;
        if let Some(summary) = summary {
            let mut content = Vec::new();
            json::summary(summary, &mut content);
            self.block(RecordKind::Summary, &content)?;
        }
        Ok(())
    }

    fn block(&mut self, kind: RecordKind, content: &[u8]) -> io::Result<()> {
        let packed = compress_to_vec_zlib(content, LEVEL);
        let mut block = Vec::with_capacity(packed.len() + super::BLOCK_HEAD);
        block.push(kind as u8);
        for size in [content.len(), packed.len()] {
            let size = u32::try_from(size).map_err(io::Error::other)?;
            block.extend_from_slice(&size.to_le_bytes());
        }
        block.extend_from_slice(&packed);
        self.output.write_all(&block)?;
        self.bytes += block.len() as u64;
        self.output.flush()
    }

    fn write_events(&mut self) -> io::Result<()> {
        if self.events.is_empty() {
            return Ok(());
        }
        let mut events = std::mem::take(&mut self.events);
        let written = self.block(RecordKind::Events, &events);
        // Emptied even when that failed, so that an output that is gone costs no memory.
        events.clear();
        self.events = events;
        let count = std::mem::take(&mut self.count);
        if written.is_err() {
            self.unwritten += count;
        }
        written
    }
}

impl<W: Write> Sink for Writer<W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.output.write_all(&MAGIC)?;
        let version = match session.hosts.is_empty() {
            true => WITHOUT_HOSTS,
            false => VERSION,
        };
        self.output.write_all(&version.to_le_bytes())?;
        let mut content = Vec::new();
        json::session(session, &mut content);
        serde_json::to_writer(&mut content, &SavedRules::from(self.rules))?;
        content.push(b'\n');
        self.block(RecordKind::Session, &content)
    }

    fn rules(&mut self, pid: u32, rules: PairingRules) -> io::Result<()> {
        // It holds for what comes behind it.
        self.write_events()?;
        let rules = ProcessRules {
            pid,
            rules: rules.into(),
        };
        let content = serde_json::to_vec(&rules)?;
        self.block(RecordKind::Rules, &content)
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        self.encoder.event(step.event, &mut self.events);
        self.count += u64::from(!matches!(step.event.what, What::Lost { .. }));
        if self.events.len() >= FULL {
            self.write_events()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_events()
    }

    fn unwritten(&self) -> u64 {
        self.unwritten
    }

    fn finish(mut self: Box<Self>, end: &End<'_>) -> io::Result<Option<String>> {
        self.close(end.summary)?;
        Ok(None)
    }
}

impl<W: Write> SampleSink for Writer<W> {
    fn samples(&mut self, samples: &Samples) -> io::Result<()> {
        self.block(RecordKind::Samples, &serde_json::to_vec(samples)?)
    }
}
