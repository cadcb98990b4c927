//! Reads a recording, or a trace that was written as JSON. Whatever the file contains: a clear answer, bounded memory.

use std::io::{self, BufRead, BufReader, Read};

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

use super::code::{Decoder, Undecodable};
use super::{
    BLOCK_HEAD, MAGIC, MAX_BLOCK, MAX_JSON, ProcessRules, RecordKind, Samples, SavedRules, VERSION,
    WITH_FIELDS,
};
use crate::analysis::pairing::PairingRules;
use crate::event::{Event, Session, Summary, json};

/// Processes whose rules may stand between two events; there are no more processes than that.
const MOST_RULES: usize = 1 << 16;

/// Longest line of a JSON trace.
const MAX_LINE: u64 = 1 << 20;

/// Why a file cannot be read, or not any further.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The system reported an error.
    #[error("it cannot be read ({0}); check the path and its permissions")]
    Io(#[from] io::Error),
    /// The file is empty.
    #[error(
        "it is empty: nothing was recorded, or the trace ended before its probes were live; record again with \
         `pystap record -o FILE -p PID`"
    )]
    Empty,
    /// The file is something else.
    #[error(
        "it is not a pystap recording; make one with `pystap record -o FILE -p PID` or `pystap trace -f json -o FILE -p PID`"
    )]
    Foreign,
    /// The file is from a later pystap.
    #[error(
        "it is a recording of format {found} and this pystap reads up to {VERSION}, so it cannot be shown; read it \
         with the pystap that wrote it, or a newer one"
    )]
    Newer {
        /// Version in the file.
        found: u32,
    },
    /// The file begins like a recording but is damaged.
    #[error(
        "it is damaged at byte {at} and cannot be shown further; copy it once more from where it was recorded"
    )]
    Damaged {
        /// Offset in bytes.
        at: u64,
    },
    /// A line of a JSON trace is wrong.
    #[error("line {line}: {source}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        source: json::ReadError,
    },
}

/// A recording that is read from beginning to end.
#[derive(Debug)]
pub struct Reader<R> {
    input: BufReader<R>,
    /// The first line or block.
    session: Session,
    rules: PairingRules,
    /// Of single processes, read and not taken yet.
    process_rules: Vec<(u32, PairingRules)>,
    summary: Option<Summary>,
    /// Those of the last block of them, until they are taken.
    samples: Option<Box<Samples>>,
    /// The version of the format; `None` of a trace that was written as JSON.
    format: Option<u32>,
    at: u64,
    /// Bytes of the events that were read, unpacked.
    taken: u64,
    ended: bool,
    cut: bool,
    form: Form,
    /// The parts that follow, and what came of those before.
    rest: Option<Rest<R>>,
    earlier: Option<Summary>,
    /// Whether another part was begun since it was asked.
    turned: bool,
}

/// Further parts of one recording.
struct Rest<R>(Box<dyn Iterator<Item = io::Result<R>> + Send>);

impl<R> std::fmt::Debug for Rest<R> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Rest")
    }
}

#[derive(Debug)]
enum Form {
    Recording {
        decoder: Box<Decoder>,
        block: Vec<u8>,
        /// How much of the block has been decoded.
        done: usize,
        /// Whether the block itself was truncated.
        partial: bool,
    },
    Json {
        reader: json::Reader,
        line: u64,
        /// That line.
        text: String,
    },
}

impl<R: Read> Reader<R> {
    /// Starts reading.
    ///
    /// # Errors
    ///
    /// [`RecordingError`] when this is not a recording, or its session cannot be read.
    pub fn new(input: R) -> Result<Reader<R>, RecordingError> {
        let mut input = BufReader::with_capacity(1 << 16, input);
        match input.fill_buf()?.first() {
            None => return Err(RecordingError::Empty),
            Some(b'{') => return Reader::of_json(input),
            Some(_) => {}
        }
        let mut head = [0; 12];
        let (mut magic, mut version) = ([0; 8], [0; 4]);
        read_up_to(&mut input, &mut head)?;
        let (left, right) = head.split_at(8);
        magic.copy_from_slice(left);
        version.copy_from_slice(right);
        if magic != MAGIC {
            return Err(RecordingError::Foreign);
        }
        let found = u32::from_le_bytes(version);
        if found > VERSION {
            return Err(RecordingError::Newer { found });
        }
        let mut reader = Reader {
            input,
            session: Session::default(),
            rules: PairingRules::default(),
            process_rules: Vec::new(),
            summary: None,
            samples: None,
            format: Some(found),
            at: head.len() as u64,
            taken: 0,
            ended: false,
            cut: false,
            form: Form::Recording {
                decoder: Box::new(Decoder::of(found)),
                block: Vec::new(),
                done: 0,
                partial: false,
            },
            rest: None,
            earlier: None,
            turned: false,
        };
        match reader.block()? {
            // Truncated within its first block, it contains nothing that could be shown.
            _ if reader.cut => return Err(RecordingError::Empty),
            None => return Err(RecordingError::Empty),
            Some((kind, content)) if kind == RecordKind::Session as u8 => reader.open(&content)?,
            Some(_) => return Err(reader.damaged()),
        }
        Ok(reader)
    }

    fn of_json(mut input: BufReader<R>) -> Result<Reader<R>, RecordingError> {
        let mut line = String::new();
        (&mut input)
            .take(MAX_LINE)
            .read_line(&mut line)
            .map_err(not_text)?;
        let mut reader = json::Reader::new();
        match reader.read(&line) {
            Ok(json::Line::Session(session)) => Ok(Reader {
                input,
                session,
                rules: PairingRules::default(),
                process_rules: Vec::new(),
                summary: None,
                samples: None,
                format: None,
                at: line.len() as u64,
                taken: 0,
                ended: false,
                cut: false,
                form: Form::Json {
                    reader,
                    line: 1,
                    text: String::new(),
                },
                rest: None,
                earlier: None,
                turned: false,
            }),
            Err(source @ json::ReadError::OtherSchema { .. }) => {
                Err(RecordingError::Line { line: 1, source })
            }
            _ => Err(RecordingError::Foreign),
        }
    }

    fn open(&mut self, content: &[u8]) -> Result<(), RecordingError> {
        let text = str::from_utf8(content).map_err(|_| self.damaged())?;
        let mut lines = text.lines();
        let mut next = || lines.next().unwrap_or_default();
        match json::Reader::new().read(next()) {
            Ok(json::Line::Session(session)) => self.session = session,
            Err(source @ json::ReadError::OtherSchema { .. }) => {
                return Err(RecordingError::Line { line: 1, source });
            }
            _ => return Err(self.damaged()),
        }
        let rules: SavedRules = serde_json::from_str(next()).map_err(|_| self.damaged())?;
        self.rules = rules.into();
        Ok(())
    }

    /// The same with the parts that follow, each read when the one before it is over.
    pub(crate) fn followed_by(
        self,
        parts: impl Iterator<Item = io::Result<R>> + Send + 'static,
    ) -> Reader<R> {
        Reader {
            rest: Some(Rest(Box::new(parts))),
            ..self
        }
    }

    /// The same when it is known what [its end](super::ending) says: what events cost as the program ran is what they cost in this session.
    pub(crate) fn ending_with(mut self, summary: &Summary) -> Reader<R> {
        if summary.overhead_ns_per_event.is_some() {
            self.session.overhead_ns_per_event = summary.overhead_ns_per_event;
            self.session.overhead_ns_within_call = summary.overhead_ns_within_call;
        }
        self
    }

    /// Goes on with the next part, if there is one.
    fn go_on(&mut self) -> Result<bool, RecordingError> {
        let Some(next) = self.rest.as_mut().and_then(|rest| rest.0.next()) else {
            return Ok(false);
        };
        let next = Reader::new(next?)?;
        if let Some(summary) = self.summary.take() {
            self.earlier = Some(together(self.earlier.take(), summary));
        }
        self.process_rules.extend(next.process_rules);
        (self.input, self.form, self.at) = (next.input, next.form, next.at);
        (self.ended, self.cut, self.turned) = (false, false, true);
        Ok(true)
    }

    /// Whether another part was begun since this was asked.
    pub(crate) fn has_turned(&mut self) -> bool {
        std::mem::take(&mut self.turned)
    }

    /// What ran and with what.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// How the recorded interpreters use their marks; for a JSON trace, which does not say, the interpretation that
    /// gives no wrong durations.
    pub fn rules(&self) -> PairingRules {
        self.rules
    }

    /// Processes with rules of their own, from the event that was read last on; each is told once.
    pub fn process_rules(&mut self) -> Vec<(u32, PairingRules)> {
        std::mem::take(&mut self.process_rules)
    }

    /// The summary, once the end has been reached; `None` for a recording that was truncated.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// Whether the end was reached too early: the recording was truncated, or is still being written.
    pub fn was_cut(&self) -> bool {
        self.ended && self.summary.is_none()
    }

    /// The next event; `None` at the end, wherever that is.
    ///
    /// # Errors
    ///
    /// [`RecordingError`] when the next bytes make no sense. What came before is valid.
    pub fn event(&mut self) -> Result<Option<Event>, RecordingError> {
        loop {
            if self.ended && !self.go_on()? {
                return Ok(None);
            }
            if let Form::Json { .. } = self.form {
                return self.line();
            }
            let damaged = self.damaged();
            if let Form::Recording {
                decoder,
                block,
                done,
                partial,
            } = &mut self.form
            {
                let mut rest = block.get(*done..).unwrap_or_default();
                match decoder.event(&mut rest) {
                    Ok(Some(event)) => {
                        let before = std::mem::replace(done, block.len() - rest.len());
                        self.taken += (*done - before) as u64;
                        return Ok(Some(event));
                    }
                    Ok(None) if !*partial => {}
                    Ok(None) | Err(Undecodable::Cut) if *partial => {
                        self.ended = true;
                        continue;
                    }
                    Ok(None) | Err(_) => {
                        self.ended = true;
                        return Err(damaged);
                    }
                }
            }
            self.next_block()?;
        }
    }

    /// Bytes of the events that were read so far, unpacked.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether there is another event that was read already, so that nobody has to wait for it.
    pub(crate) fn has_more_at_hand(&self) -> bool {
        match &self.form {
            Form::Recording { block, done, .. } => *done < block.len(),
            Form::Json { .. } => self.input.buffer().contains(&b'\n'),
        }
    }

    fn next_block(&mut self) -> Result<(), RecordingError> {
        let read = self.block();
        let Some((kind, content)) = read.inspect_err(|_| self.ended = true)? else {
            self.ended = true;
            return Ok(());
        };
        let cut = self.cut;
        match kind {
            kind if kind == RecordKind::Events as u8 => {
                if let Form::Recording {
                    block,
                    done,
                    partial,
                    ..
                } = &mut self.form
                {
                    (*block, *done, *partial) = (content, 0, cut);
                }
            }
            kind if kind == RecordKind::Summary as u8 && !cut => {
                self.ended = true;
                let text = str::from_utf8(&content).map_err(|_| self.damaged())?;
                match json::Reader::new().read(text) {
                    Ok(json::Line::Summary(summary)) => {
                        self.summary = Some(together(self.earlier.take(), summary));
                    }
                    _ => return Err(self.damaged()),
                }
            }
            kind if kind == RecordKind::Rules as u8 && !cut => {
                let Ok(of) = serde_json::from_slice::<ProcessRules>(&content) else {
                    self.ended = true;
                    return Err(self.damaged());
                };
                if self.process_rules.len() < MOST_RULES {
                    self.process_rules.push((of.pid, of.rules.into()));
                }
            }
            kind if kind == RecordKind::Samples as u8 && !cut => {
                let Ok(samples) = serde_json::from_slice(&content) else {
                    self.ended = true;
                    return Err(self.damaged());
                };
                self.samples = Some(samples);
            }
            _ => self.ended |= cut,
        }
        Ok(())
    }

    /// Whether it is a recording from before calls had fields.
    pub fn is_before_fields(&self) -> bool {
        self.format.is_some_and(|format| format < WITH_FIELDS)
    }

    /// Whether it is a recording of samples.
    pub(crate) fn is_sampled(&self) -> bool {
        self.session.events == [Samples::KIND]
    }

    /// The next samples; `None` at the end, wherever that is.
    ///
    /// # Errors
    ///
    /// As those of [`Reader::event`].
    pub(crate) fn samples(&mut self) -> Result<Option<Samples>, RecordingError> {
        loop {
            if let Some(samples) = self.samples.take() {
                return Ok(Some(*samples));
            }
            if matches!(self.form, Form::Json { .. }) || (self.ended && !self.go_on()?) {
                return Ok(None);
            }
            self.next_block()?;
        }
    }

    /// Says that what was read last makes no sense, and ends.
    pub(crate) fn reject(&mut self) -> RecordingError {
        self.ended = true;
        self.damaged()
    }

    /// The next block: its kind and contents. A truncated block yields what can be unpacked of it.
    fn block(&mut self) -> Result<Option<(u8, Vec<u8>)>, RecordingError> {
        let mut head = [0; BLOCK_HEAD];
        let got = read_up_to(&mut self.input, &mut head)?;
        if got < BLOCK_HEAD {
            return Ok(None);
        }
        let [kind, a, b, c, d, e, f, g, h] = head;
        let unpacked = u32::from_le_bytes([a, b, c, d]) as usize;
        let packed = u32::from_le_bytes([e, f, g, h]) as usize;
        let is_json = kind != RecordKind::Events as u8;
        let most = if is_json { MAX_JSON } else { MAX_BLOCK };
        if unpacked > most || packed > most {
            return Err(self.damaged());
        }
        let mut bytes = Vec::new();
        (&mut self.input)
            .take(packed as u64)
            .read_to_end(&mut bytes)?;
        self.cut = bytes.len() < packed;
        let content = unpack(&bytes, unpacked, self.cut).ok_or_else(|| self.damaged())?;
        self.at += (BLOCK_HEAD + bytes.len()) as u64;
        Ok(Some((kind, content)))
    }

    fn line(&mut self) -> Result<Option<Event>, RecordingError> {
        let Form::Json { reader, line, text } = &mut self.form else {
            return Ok(None);
        };
        text.clear();
        *line += 1;
        (&mut self.input)
            .take(MAX_LINE)
            .read_line(text)
            .map_err(not_text)?;
        self.taken += text.len() as u64;
        if !text.ends_with('\n') {
            // The last line of a truncated trace may be incomplete, and is not an event.
            self.ended = true;
            if !matches!(reader.read(text), Ok(json::Line::Summary(_))) {
                return Ok(None);
            }
        }
        match reader.read(text) {
            Ok(json::Line::Event(event)) => Ok(Some(event)),
            Ok(json::Line::Summary(summary)) => {
                self.summary = Some(summary);
                self.ended = true;
                Ok(None)
            }
            Ok(json::Line::Session(_)) => {
                self.ended = true;
                Err(RecordingError::Foreign)
            }
            Err(source) => {
                self.ended = true;
                Err(RecordingError::Line {
                    line: *line,
                    source,
                })
            }
        }
    }

    fn damaged(&self) -> RecordingError {
        RecordingError::Damaged { at: self.at }
    }
}

/// What came of several parts.
fn together(earlier: Option<Summary>, last: Summary) -> Summary {
    let Some(earlier) = earlier else { return last };
    let sum = u64::saturating_add;
    Summary {
        delivered: sum(earlier.delivered, last.delivered),
        lost: sum(earlier.lost, last.lost),
        skipped: sum(earlier.skipped, last.skipped),
        unparsed: sum(earlier.unparsed, last.unparsed),
        uncounted: earlier.uncounted || last.uncounted,
        wall_ns: sum(earlier.wall_ns, last.wall_ns),
        // The rest is told once, at the end.
        ..last
    }
}

fn not_text(error: io::Error) -> RecordingError {
    match error.kind() {
        io::ErrorKind::InvalidData => RecordingError::Foreign,
        _ => error.into(),
    }
}

/// Unpacks to exactly this size, or as much as possible if the block was truncated.
pub(super) fn unpack(packed: &[u8], size: usize, cut: bool) -> Option<Vec<u8>> {
    let mut flags = inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER
        | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF
        | inflate_flags::TINFL_FLAG_COMPUTE_ADLER32;
    if cut {
        flags |= inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
    }
    let mut content = vec![0; size];
    let mut state = Box::<DecompressorOxide>::default();
    let (status, _, written) = decompress(&mut state, packed, &mut content, 0, flags);
    match status {
        TINFLStatus::Done if written == size => Some(content),
        TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput if cut => {
            content.truncate(written);
            Some(content)
        }
        _ => None,
    }
}

/// Fills the buffer as far as the input goes; returns the number of bytes.
fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..)
        && !rest.is_empty()
    {
        match input.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
