//! The side of the agent.

use core::sync::atomic::Ordering;

use crate::header::{Handled, Header, LostKind};
use crate::mapping::Mapping;
use crate::record::{
    CODE, CODE_FIXED_WORDS, CONTEXT_NAME, Code, LOST, MOST_TEXT, MOST_WORDS, VALUE, head,
};

/// Writes a ring. There is one at a time.
#[derive(Debug)]
pub struct Writer {
    mapping: Mapping,
    written: u64,
    /// Up to where there is room, as far as was looked. After a loss nowhere until that was told.
    room: u64,
    /// Whether a loss was not told yet.
    has_lost: bool,
}

impl Writer {
    /// Writes from the beginning of a ring into which nobody else writes.
    pub fn new(mapping: Mapping) -> Writer {
        Writer {
            written: 0,
            room: mapping.size(),
            has_lost: false,
            mapping,
        }
    }

    fn header(&self) -> &Header {
        self.mapping.header()
    }

    /// Whether some hundred records have room, as far as was looked.
    pub fn is_roomy(&self) -> bool {
        self.room - self.written >= 1 << 14
    }

    /// Writes a record of so many words, its head first. False when there is no room.
    #[inline(always)]
    pub fn put<const WORDS: usize>(&mut self, record: [u64; WORDS]) -> bool {
        if self.room - self.written < WORDS as u64 && !self.has_room(WORDS as u64) {
            return false;
        }
        let at = self.place();
        for (behind, word) in record.into_iter().enumerate() {
            // SAFETY: there is room for as many words; the data is mapped twice, so they may run over its end.
            unsafe { at.add(behind).write(word) };
        }
        self.publish(WORDS as u64);
        true
    }

    /// The same with what belongs to it before it: records of these kinds ([`VALUE`], [`FIELDS`](crate::FIELDS)) with these
    /// bytes. All of it, or nothing. What is too long is cut.
    pub fn put_with<const WORDS: usize>(
        &mut self,
        record: [u64; WORDS],
        before: &[(u64, &[u8])],
    ) -> bool {
        let fitting = |bytes: &'_ [u8]| bytes.len().min(MOST_TEXT);
        // A record has two words at least.
        let length = |bytes: &[u8]| (1 + fitting(bytes).div_ceil(8)).max(2);
        let lengths = before.iter().map(|(_, bytes)| length(bytes));
        let words = lengths.fold(WORDS, usize::saturating_add);
        if !self.has_room(words as u64) {
            return false;
        }
        let mut at = self.place();
        // SAFETY: there is room for all of these words; see `put`.
        unsafe {
            for (kind, bytes) in before {
                let (size, length) = (fitting(bytes), length(bytes));
                at.write(head(*kind, 0, length as u32, size as u32));
                write_text(at.add(1), bytes.get(..size).unwrap_or_default());
                at = at.add(length);
            }
            for (behind, word) in record.into_iter().enumerate() {
                at.add(behind).write(word);
            }
        }
        self.publish(words as u64);
        true
    }

    /// The same with a text before it.
    pub fn put_with_value<const WORDS: usize>(
        &mut self,
        record: [u64; WORDS],
        value: &[u8],
    ) -> bool {
        self.put_with(record, &[(VALUE, value)])
    }

    /// Defines a code object. False when there is no room, now or ever. Names that are too long are cut.
    pub fn define(&mut self, code: &Code<'_>) -> bool {
        let cut = |text: &'_ [u8]| text.len().min(MOST_TEXT);
        let (file, name, qualname) = (cut(code.file), cut(code.name), cut(code.qualname));
        let words = CODE_FIXED_WORDS + (file + name + qualname).div_ceil(8);
        if words > MOST_WORDS || !self.has_room(words as u64) {
            return false;
        }
        let at = self.place();
        // SAFETY: there is room for as many words; see `put`.
        unsafe {
            at.write(head(CODE, code.flags, words as u32, code.number));
            at.add(1)
                .write(u64::from(code.first_line) | (file as u64) << 32);
            at.add(2).write(name as u64 | (qualname as u64) << 32);
            let mut bytes = at.add(CODE_FIXED_WORDS).cast::<u8>();
            for (text, length) in [
                (code.file, file),
                (code.name, name),
                (code.qualname, qualname),
            ] {
                bytes.copy_from_nonoverlapping(text.as_ptr(), length);
                bytes = bytes.add(length);
            }
        }
        self.publish(words as u64);
        true
    }

    /// Says what a context is called. False when there is no room.
    pub fn name_context(&mut self, context: u64, time: u64, name: &[u8]) -> bool {
        let name = name.get(..MOST_TEXT).unwrap_or(name);
        let words = 3 + name.len().div_ceil(8);
        if !self.has_room(words as u64) {
            return false;
        }
        let at = self.place();
        // SAFETY: there is room for as many words; see `put`.
        unsafe {
            at.write(head(CONTEXT_NAME, 0, words as u32, name.len() as u32));
            at.add(1).write(context);
            at.add(2).write(time);
            write_text(at.add(3), name);
        }
        self.publish(words as u64);
        true
    }

    /// Counts an event that had no room. What has room next is told behind a record of the loss.
    #[cold]
    pub fn count_lost(&mut self, kind: LostKind) {
        self.has_lost = true;
        self.room = self.written;
        if let Some(lost) = self.header().writer.lost.get(kind as usize) {
            let count = lost.load(Ordering::Relaxed).wrapping_add(1);
            lost.store(count, Ordering::Release);
        }
    }

    /// Says how long events took the writer: in calm, and in the program as it runs, since it tells them.
    pub fn tell_handled(&self, calm: Handled, told: Handled) {
        let line = &self.header().handled;
        calm.store(&line.calm);
        told.store(&line.told);
    }

    #[inline(always)]
    fn place(&self) -> *mut u64 {
        let at = self.written & (self.mapping.size() - 1);
        // SAFETY: less than the size.
        unsafe { self.mapping.data().add(at as usize) }
    }

    /// Looks how far the reader has come.
    fn has_room(&mut self, words: u64) -> bool {
        let words = match self.has_lost {
            false if self.room - self.written >= words => return true,
            false => words,
            // Behind the record of the loss.
            true => (words + 2).max(self.mapping.size() / 8),
        };
        let read = self.header().reader.read.load(Ordering::Acquire);
        // A reader that is ahead of us, or further behind than it can be, gives no room.
        if self.written.wrapping_sub(read) > self.mapping.size() {
            return false;
        }
        let room = read + self.mapping.size();
        if room - self.written < words {
            return false;
        }
        self.room = room;
        if self.has_lost {
            self.tell_loss();
        }
        true
    }

    /// There is room for it.
    #[cold]
    fn tell_loss(&mut self) {
        let lost = self.header().writer.lost.iter();
        let lost = lost.fold(0_u64, |sum, it| {
            sum.wrapping_add(it.load(Ordering::Relaxed))
        });
        let at = self.place();
        // SAFETY: there is room for two words; see `put`.
        unsafe {
            at.write(head(LOST, 0, 0, 0));
            at.add(1).write(lost);
        }
        self.publish(2);
        self.has_lost = false;
    }

    #[inline(always)]
    fn publish(&mut self, words: u64) {
        self.written += words;
        self.header()
            .writer
            .written
            .store(self.written, Ordering::Release);
    }
}

/// Counts events of threads that have no ring, in one into which another thread writes.
#[derive(Debug)]
pub struct Ringless {
    mapping: Mapping,
}

impl Ringless {
    /// Counts in this ring.
    pub fn new(mapping: Mapping) -> Ringless {
        Ringless { mapping }
    }

    /// Counts one. Several threads may at once.
    pub fn count_lost(&self, kind: LostKind) {
        if let Some(lost) = self.mapping.header().writer.ringless.get(kind as usize) {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// # Safety
/// There is room for it at `at`.
unsafe fn write_text(at: *mut u64, text: &[u8]) {
    // SAFETY: as promised.
    unsafe {
        at.cast::<u8>()
            .copy_from_nonoverlapping(text.as_ptr(), text.len())
    };
}
