//! The stack of a thread: its frames, from the innermost on, read and read again until both say the same.

use std::collections::HashSet;
use std::rc::Rc;

use super::layout::{Frames, Layout};
use super::memory::{Memory, Unread, half, word};
use super::objects::{Function, Instructions, Reader};

/// Most frames of a stack that are read: a deeper one is cut.
pub(super) const DEEPEST: usize = 1 << 10;
/// Frames that belong to a generator or coroutine.
pub(super) const OF_A_GENERATOR: u8 = 1;
/// Where code objects say of what kind they are, up to 3.10, and the kinds that can be awaited: generators, coroutines, and generators that
/// are declared to be such (Include/code.h).
const CODE_FLAGS: u64 = 36;
const OF_COROUTINES: u32 = 0x20 | 0x80 | 0x100;
/// From here on frames are not of Python functions, but of the interpreter and of C (Include/internal/pycore_frame.h,
/// pycore_interpframe_structs.h).
const OF_THE_INTERPRETER: u8 = 3;
/// No frame says more than that: what does is none, as where a thread has one for C and has not yet said which is the innermost.
const LAST_OWNER: u8 = 7;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) function: Rc<Function>,
    pub(super) line: Option<u32>,
    raw: Raw,
}

/// A stack at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stack {
    /// The innermost first.
    pub(super) frames: Vec<Frame>,
    /// Whether there are more.
    pub(super) cut: bool,
    /// Whether reading it twice gave the same.
    pub(super) same: bool,
}

/// A frame as it is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Raw {
    pub(super) address: u64,
    pub(super) next: u64,
    pub(super) code: u64,
    /// The address of the instruction, or its position.
    pub(super) instruction: u64,
    /// The line, where a debugger keeps it.
    line: u32,
    pub(super) owner: u8,
}

impl Raw {
    /// One that somebody else has read: its code object, its instruction as it was in memory, its owner.
    pub(super) fn seen(layout: &Layout, (code, instruction, owner): (u64, u64, u8)) -> Raw {
        Raw {
            address: 0,
            next: 0,
            code: object(code),
            instruction: match layout.frames {
                // Half a word, with its sign.
                Frames::Objects { .. } => {
                    i64::from((instruction as u32).cast_signed()).cast_unsigned()
                }
                Frames::Structures { .. } => instruction,
            },
            line: 0,
            owner,
        }
    }
}

/// Reads the stack of a thread once, and what it is made of once more.
pub(super) fn read<M: Memory>(reader: &Reader<M>, thread: u64) -> Result<Stack, Unread> {
    let first = innermost(&reader.memory, &reader.layout, thread)?;
    let chain = chain(&reader.memory, &reader.layout, first)?;
    let frames = frames(reader, &chain.frames)?;
    Ok(Stack {
        frames,
        cut: chain.cut,
        same: again(reader, thread, &chain.frames),
    })
}

/// The coroutine of the task of asyncio that runs on a stack: what its loop calls, if that is one. Of a loop that is written in C,
/// such as uvloop's, nothing is known.
pub(super) fn coroutine<'a, M: Memory>(
    reader: &Reader<M>,
    frames: &'a [Frame],
) -> Option<&'a Frame> {
    let is_in = |frame: &Frame, end: &str| frame.function.file.ends_with(end);
    let calls = frames.iter().position(|frame| {
        is_in(frame, "asyncio/events.py") && frame.function.name.ends_with("_run")
    })?;
    // Where tasks are written in Python, their step is between the two.
    let mut called = frames.get(..calls)?.iter().rev();
    let coroutine = called.find(|frame| !is_in(frame, "asyncio/tasks.py"))?;
    let may_wait = match reader.layout.frames {
        Frames::Structures { .. } => coroutine.raw.owner == OF_A_GENERATOR,
        Frames::Objects { .. } => {
            let flags = reader
                .memory
                .half(coroutine.raw.code.checked_add(CODE_FLAGS)?);
            flags.is_ok_and(|flags| flags & OF_COROUTINES != 0)
        }
    };
    may_wait.then_some(coroutine)
}

impl Frame {
    /// That of what it is in memory.
    pub(super) fn place(&self) -> (u64, u64) {
        self.raw.place()
    }
}

impl Raw {
    /// Whether it is a frame of a function that was written in Python.
    pub(super) fn is_of_python(&self) -> bool {
        self.owner < OF_THE_INTERPRETER
    }

    /// Whether it is one of a generator, where frames say so.
    pub(super) fn is_of_generator(&self) -> bool {
        self.owner == OF_A_GENERATOR
    }

    /// What tells a frame of a coroutine from others as long as it is there.
    pub(super) fn place(&self) -> (u64, u64) {
        (self.address, self.code)
    }
}

/// Frames for people, of those that are functions of Python.
pub(super) fn frames<M: Memory>(reader: &Reader<M>, chain: &[Raw]) -> Result<Vec<Frame>, Unread> {
    let of_python: Vec<&Raw> = chain.iter().filter(|raw| raw.is_of_python()).collect();
    let codes: Vec<u64> = of_python.iter().map(|raw| raw.code).collect();
    let mut frames = Vec::with_capacity(chain.len());
    for (raw, (function, instructions)) in of_python.iter().zip(reader.functions(&codes)?) {
        frames.extend(frame(reader, raw, function, instructions)?);
    }
    Ok(frames)
}

/// Frames as they are in memory, each the caller of the one before it.
#[derive(Debug)]
pub(super) struct Chain {
    /// The innermost first.
    pub(super) frames: Vec<Raw>,
    /// Whether there are more.
    pub(super) cut: bool,
}

/// The frames from this one on.
pub(super) fn chain(
    memory: &impl Memory,
    layout: &Layout,
    innermost: u64,
) -> Result<Chain, Unread> {
    let mut window = Window::default();
    chain_by(innermost, |address| window.raw(memory, layout, address))
}

/// The same by what reads a frame.
pub(super) fn chain_by(
    innermost: u64,
    mut raw: impl FnMut(u64) -> Result<Raw, Unread>,
) -> Result<Chain, Unread> {
    let (mut frames, mut seen) = (Vec::new(), HashSet::new());
    let mut next = innermost;
    while next != 0 && frames.len() < DEEPEST {
        // No stack goes in circles, except one that changes.
        if !seen.insert(next) {
            return Err(Unread::Senseless);
        }
        let frame: Raw = raw(next)?;
        next = frame.next;
        frames.push(frame);
    }
    Ok(Chain {
        frames,
        cut: next != 0,
    })
}

/// Whether the frames are still the same. The innermost may have come to another instruction: what was read was true then.
pub(super) fn again<M: Memory>(reader: &Reader<M>, thread: u64, chain: &[Raw]) -> bool {
    let addresses: Vec<u64> = chain.iter().map(|raw| raw.address).collect();
    let first = addresses.first().copied().unwrap_or_default();
    if innermost(&reader.memory, &reader.layout, thread).ok() != Some(first) {
        return false;
    }
    let size = reader.layout.frame_size() as usize;
    let Ok(bytes) = reader.memory.pieces(&addresses, size) else {
        return false;
    };
    let now = bytes.chunks_exact(size).zip(chain).enumerate();
    now.map(|(depth, (bytes, was))| (depth, parsed(&reader.layout, was.address, bytes), was))
        .all(|(depth, now, was)| match (depth, now) {
            (_, Err(_)) => false,
            (0, Ok(now)) => {
                let instruction = was.instruction;
                let line = was.line;
                Raw {
                    instruction,
                    line,
                    ..now
                } == *was
            }
            (_, Ok(now)) => now == *was,
        })
}

/// The address of the innermost frame of a thread; 0 where there is none.
pub(super) fn innermost(memory: &impl Memory, layout: &Layout, thread: u64) -> Result<u64, Unread> {
    let (at, through) = layout.frames.innermost();
    let first = memory.number(added(thread, at)?)?;
    match through {
        Some(at) if first != 0 => memory.number(added(first, at)?),
        _ => Ok(first),
    }
}

/// What was read of a page last: callers are often right below their callee, and a read costs more than what it copies.
#[derive(Default)]
pub(super) struct Window {
    begin: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The frame at this address.
    pub(super) fn raw(
        &mut self,
        memory: &impl Memory,
        layout: &Layout,
        address: u64,
    ) -> Result<Raw, Unread> {
        const PAGE: u64 = 4096;
        // At most a kilobyte: the layout was checked.
        let size = layout.frame_size();
        let inside = |window: &Window| {
            let at = usize::try_from(address.checked_sub(window.begin)?).ok()?;
            let bytes = window.bytes.get(at..at.checked_add(size as usize)?)?;
            Some(parsed(layout, address, bytes))
        };
        if let Some(raw) = inside(self) {
            return raw;
        }
        let page = address & !(PAGE - 1);
        let end = added(address, size)?;
        self.begin = match end - page <= PAGE {
            true => page,
            // The page after it may be another one next time.
            false => address,
        };
        self.bytes = memory.bytes(self.begin, (end - self.begin) as usize)?;
        inside(self).unwrap_or(Err(Unread::Senseless))
    }
}

/// The frame that was read from this address.
pub(super) fn parsed(layout: &Layout, address: u64, bytes: &[u8]) -> Result<Raw, Unread> {
    match layout.frames {
        Frames::Objects {
            back,
            code,
            last_instruction,
            line,
            trace,
            ..
        } => Ok(Raw {
            address,
            next: word(bytes, back)?,
            code: word(bytes, code)?,
            // Sign and all.
            instruction: i64::from(half(bytes, last_instruction)?.cast_signed()).cast_unsigned(),
            line: match word(bytes, trace)? {
                0 => 0,
                _ => half(bytes, line)?,
            },
            owner: 0,
        }),
        Frames::Structures {
            code,
            previous,
            instruction,
            owner,
            ..
        } => Ok(Raw {
            address,
            next: word(bytes, previous)?,
            code: object(word(bytes, code)?),
            instruction: word(bytes, instruction)?,
            line: 0,
            owner: bytes
                .get(owner as usize)
                .copied()
                .filter(|owner| *owner <= LAST_OWNER)
                .ok_or(Unread::Senseless)?,
        }),
    }
}

/// A frame for people; `None` for one that is not complete.
fn frame<M: Memory>(
    reader: &Reader<M>,
    raw: &Raw,
    function: Rc<Function>,
    instructions: Instructions,
) -> Result<Option<Frame>, Unread> {
    let position = match (instructions.begin, reader.layout.frames) {
        (Some(begin), _) => raw.instruction.wrapping_sub(begin).cast_signed(),
        (None, Frames::Objects { unit, .. }) => raw.instruction.cast_signed().wrapping_mul(unit),
        (None, Frames::Structures { .. }) => return Err(Unread::Senseless),
    };
    if raw.owner != OF_A_GENERATOR
        && instructions.begin.is_some()
        && position < instructions.complete
    {
        return Ok(None);
    }
    let line = match raw.line {
        0 => reader.line(&function, position),
        line => Some(line),
    };
    Ok(Some(Frame {
        function,
        line,
        raw: *raw,
    }))
}

/// The object of a reference in a frame: from 3.14 on its lowest bits say how it is counted, and no object has any there.
pub(super) fn object(reference: u64) -> u64 {
    reference & !7
}

/// An address in a structure.
pub(super) fn added(address: u64, at: u64) -> Result<u64, Unread> {
    address.checked_add(at).ok_or(Unread::Senseless)
}
