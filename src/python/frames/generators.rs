//! Generators, coroutines and asynchronous generators: their frame, and what they wait for.

use super::layout::{Frames, Layout, States, Top};
use super::memory::{Memory, Unread};
use super::stack::{OF_A_GENERATOR, Raw, added, parsed};

/// `YIELD_FROM`, by which everything was awaited up to 3.10.
const YIELD_FROM: u8 = 72;
/// The argument of `RESUME` (3.11 and later) from which on it stands behind a `yield from` or an `await`.
const AWAITED: u8 = 2;
/// References on the stack of values have flags in their lowest bits from 3.14 on; no object has any there.
const FLAGS: u64 = 7;
/// Most values on a stack of values.
const DEEPEST: u32 = 1 << 16;

/// What a generator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// It has not begun.
    Created,
    /// It waits for this object.
    Awaits(u64),
    /// It has given a value and waits to be resumed.
    Yielded,
    Runs,
    Finished,
}

/// What a generator and its frame say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    raw: Raw,
    state: u8,
}

/// The frame of a generator and what it does; `None` for its frame where it has none.
pub(super) fn look<M: Memory>(
    memory: &M,
    layout: &Layout,
    generator: u64,
) -> Result<(Option<Raw>, Doing), Unread> {
    let Some(head) = head(memory, layout, generator)? else {
        return Ok((None, Doing::Finished));
    };
    let doing = doing(memory, layout, head)?;
    // It may have gone on meanwhile, and what it awaits may be gone.
    let now = self::head(memory, layout, generator)?;
    (now == Some(head))
        .then_some((Some(head.raw), doing))
        .ok_or(Unread::Senseless)
}

/// The frame of a generator, whatever it does; `None` where it has none.
pub(super) fn frame<M: Memory>(
    memory: &M,
    layout: &Layout,
    generator: u64,
) -> Result<Option<Raw>, Unread> {
    Ok(head(memory, layout, generator)?.map(|head| head.raw))
}

/// Reads a generator and its frame; `None` where it has none.
fn head<M: Memory>(memory: &M, layout: &Layout, generator: u64) -> Result<Option<Head>, Unread> {
    let (at, size) = (&layout.generators, layout.frame_size());
    // At most a kilobyte each: the layout was checked.
    let whole = |begin, first: u64, second: u64| memory.bytes(begin, first.max(second) as usize);
    let state_of = |bytes: &[u8], at: u64| {
        let state = bytes.get(at as usize).copied();
        state.ok_or(Unread::Senseless)
    };
    let (frame, bytes, state) = match (layout.frames, at.states) {
        (Frames::Objects { .. }, states) => {
            let frame = memory.number(added(generator, at.frame)?)?;
            if frame == 0 {
                return Ok(None);
            }
            match states {
                States::Running(at) => {
                    let state = byte(memory, added(generator, at)?)?;
                    (frame, whole(frame, size, 0)?, state)
                }
                States::Byte { at, .. } => {
                    let bytes = whole(frame, size, at + 1)?;
                    let state = state_of(&bytes, at)?;
                    (frame, bytes, state)
                }
            }
        }
        (Frames::Structures { .. }, States::Running(state) | States::Byte { at: state, .. }) => {
            // Both at once, as they change together.
            let mut bytes = whole(generator, at.frame + size, state + 1)?;
            let state = state_of(&bytes, state)?;
            bytes.drain(..at.frame as usize);
            (added(generator, at.frame)?, bytes, state)
        }
    };
    let raw = parsed(layout, frame, &bytes)?;
    let is_its_own = raw.owner == OF_A_GENERATOR || matches!(layout.frames, Frames::Objects { .. });
    Ok(is_its_own.then_some(Head { raw, state }))
}

fn doing<M: Memory>(memory: &M, layout: &Layout, head: Head) -> Result<Doing, Unread> {
    let Head { raw, state } = head;
    let is_awaiting = match layout.generators.states {
        States::Running(_) if state != 0 => return Ok(Doing::Runs),
        States::Running(_) if raw.instruction.cast_signed() < 0 => return Ok(Doing::Created),
        States::Running(_) => is_awaiting(memory, layout, &raw)?,
        States::Byte {
            created,
            suspended,
            awaits,
            ..
        } => match (state.cast_signed(), awaits) {
            (state, _) if state == created => return Ok(Doing::Created),
            (state, Some(_)) if state == suspended => false,
            (state, None) if state == suspended => is_awaiting(memory, layout, &raw)?,
            (state, Some((low, high))) if (low..=high).contains(&state) => true,
            // That of a generator that runs is the one behind these, in every version.
            (state, _) if state == awaits.map_or(suspended, |(_, high)| high) + 1 => {
                return Ok(Doing::Runs);
            }
            _ => return Ok(Doing::Finished),
        },
    };
    Ok(match is_awaiting {
        true => Doing::Awaits(top(memory, layout, raw.address)?),
        false => Doing::Yielded,
    })
}

/// Whether the instruction at which a generator stands is an `await` or `yield from`, where its state does not say that (up to
/// 3.12).
fn is_awaiting<M: Memory>(memory: &M, layout: &Layout, raw: &Raw) -> Result<bool, Unread> {
    match (layout.frames, layout.code.bytecode) {
        // The frame stands before the instruction that awaits.
        (Frames::Objects { unit, .. }, Some(at)) => {
            let code = memory.number(added(raw.code, at)?)?;
            let place = raw.instruction.cast_signed().wrapping_mul(unit) + 2;
            let place = u64::try_from(place).map_err(|_| Unread::Senseless)?;
            let begin = added(code, layout.objects.bytes_value)?;
            Ok(byte(memory, added(begin, place)?)? == YIELD_FROM)
        }
        // It stands before the instruction that resumes it.
        _ => Ok(byte(memory, added(raw.instruction, 3)?)? >= AWAITED),
    }
}

/// The object on top of a frame's stack of values.
fn top<M: Memory>(memory: &M, layout: &Layout, frame: u64) -> Result<u64, Unread> {
    let last = |stack: u64, depth: u32| match depth {
        1..=DEEPEST => added(stack, u64::from(depth - 1) * 8),
        _ => Err(Unread::Senseless),
    };
    let place = match layout.generators.top {
        Top::Pointer { at, back } => memory.number(added(frame, at)?)?.wrapping_sub(back),
        Top::Depth { depth, stack } => {
            let depth = memory.half(added(frame, depth)?)?;
            last(memory.number(added(frame, stack)?)?, depth)?
        }
        Top::Inside { depth, stack } => {
            let depth = memory.half(added(frame, depth)?)?;
            last(added(frame, stack)?, depth)?
        }
    };
    Ok(memory.number(place)? & !FLAGS)
}

fn byte<M: Memory>(memory: &M, address: u64) -> Result<u8, Unread> {
    let mut byte = [0];
    memory.read(address, &mut byte)?;
    let [byte] = byte;
    Ok(byte)
}
