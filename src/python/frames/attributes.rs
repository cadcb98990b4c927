//! Attributes that are stored in an instance, by their names. They are read where they lie: no code of the program runs for that, no
//! property and no `__getattr__`.
//!
//! An instance has a dictionary, or (from 3.11 on) as long as nobody asked for that only the values, in the order of the keys that its
//! type keeps for all of its instances. Include/internal/pycore_dict.h and pycore_object.h have it.

use super::layout::Kept;
use super::memory::{Memory, Unread, word};
use super::objects::Reader;
use super::stack::added;

/// Where a type says what its instances are like, and where they have a dictionary; the same in all versions.
const FLAGS: u64 = 168;
const DICTIONARY: u64 = 288;
/// Flags of types: instances end with their values (3.13), or have them or their dictionary before them (3.11).
const ENDS_WITH_VALUES: u64 = 1 << 2;
const IS_MANAGED: u64 = 1 << 4;
/// What is before an instance then: what has its dictionary, and in 3.11 before that what has its values.
const DICTIONARY_BEFORE: u64 = 24;
const VALUES_BEFORE: u64 = 32;
/// A dictionary's keys, and its values where it shares the keys with others.
const KEYS: u64 = 32;
const VALUES: u64 = 40;
/// Most entries that are looked through, and the largest number of bytes of an index, as a power of two.
const MOST_ENTRIES: u64 = 1 << 10;
const LARGEST_INDEX: u8 = 24;
/// No instance that matters here is larger.
const LARGEST: u64 = 1 << 16;

/// The entries of a table of keys.
struct Entries {
    bytes: Vec<u8>,
    /// Bytes of an entry, and where in it the key is. Its value, if it has one, comes next.
    size: usize,
    key: u64,
}

/// The object that an instance has as the attribute of this name; `None` where it has none.
pub(super) fn attribute<M: Memory>(
    reader: &Reader<M>,
    instance: u64,
    name: &str,
) -> Result<Option<u64>, Unread> {
    let memory = &reader.memory;
    let attributes = reader.layout.attributes;
    let its_type = memory.number(added(instance, reader.layout.objects.object_type)?)?;
    let flags = memory.number(added(its_type, FLAGS)?)?;
    let shared = || memory.number(added(its_type, attributes.keys)?);
    let before = |bytes: u64| {
        let at = instance.checked_sub(bytes).ok_or(Unread::Senseless)?;
        memory.number(at)
    };
    let dictionary = match attributes.kept {
        Kept::Within if flags & ENDS_WITH_VALUES != 0 => {
            let size = memory.number(added(its_type, reader.layout.objects.type_size)?)?;
            let values = added(instance, size.min(LARGEST))?;
            // How many there is room for, how many there are, whose they are, and whether they hold.
            let holds = memory.bytes(values, 4)?.last() == Some(&1);
            if holds {
                return among(reader, shared()?, Some(after_head(values)?), name);
            }
            before(DICTIONARY_BEFORE)?
        }
        Kept::Within if flags & IS_MANAGED != 0 => before(DICTIONARY_BEFORE)?,
        Kept::Marked if flags & IS_MANAGED != 0 => match before(DICTIONARY_BEFORE)? {
            marked if marked & 1 != 0 => {
                return among(reader, shared()?, Some(added(marked, 1)?), name);
            }
            dictionary => dictionary,
        },
        Kept::Apart if flags & IS_MANAGED != 0 => match before(VALUES_BEFORE)? {
            0 => before(DICTIONARY_BEFORE)?,
            values => return among(reader, shared()?, Some(values), name),
        },
        _ => match memory.number(added(its_type, DICTIONARY)?)? {
            at if at != 0 && at < LARGEST => memory.number(added(instance, at)?)?,
            _ => return Ok(None),
        },
    };
    if dictionary == 0 {
        return Ok(None);
    }
    let keys = memory.number(added(dictionary, KEYS)?)?;
    let values = match memory.number(added(dictionary, VALUES)?)? {
        0 => None,
        values if attributes.kept == Kept::Within => Some(after_head(values)?),
        values => Some(values),
    };
    among(reader, keys, values, name)
}

/// Values begin with how many they are.
fn after_head(values: u64) -> Result<u64, Unread> {
    added(values, 8)
}

/// What these keys lead to under a name: in the entries themselves, or in values of their own.
fn among<M: Memory>(
    reader: &Reader<M>,
    keys: u64,
    values: Option<u64>,
    name: &str,
) -> Result<Option<u64>, Unread> {
    let entries = entries(reader, keys)?;
    for (place, entry) in entries.bytes.chunks_exact(entries.size).enumerate() {
        let key = word(entry, entries.key)?;
        // One that was removed has left its place.
        if key == 0 || reader.name(key)? != name {
            continue;
        }
        let value = match values {
            Some(values) => reader.memory.number(added(values, 8 * place as u64)?)?,
            None => word(entry, entries.key + 8)?,
        };
        return Ok(Some(value).filter(|value| *value != 0));
    }
    Ok(None)
}

fn entries<M: Memory>(reader: &Reader<M>, keys: u64) -> Result<Entries, Unread> {
    /// An entry with the hash of its key before it.
    const WITH_HASH: (u64, u64) = (24, 8);
    const WITHOUT: (u64, u64) = (16, 0);
    let memory = &reader.memory;
    let head = memory.bytes(keys, 40)?;
    let (count, begin, (size, key)) = match reader.layout.attributes.kept {
        Kept::Dictionary => {
            let slots = word(&head, 8)?;
            let width = match slots {
                0..=0xff => 1,
                0x100..=0xffff => 2,
                _ => 4,
            };
            let indices = slots.checked_mul(width).ok_or(Unread::Senseless)?;
            (word(&head, 32)?, added(40, indices)?, WITH_HASH)
        }
        _ => {
            let [index, kind] = [head.get(9), head.get(10)].map(|byte| byte.copied());
            let index = index.filter(|bytes| *bytes <= LARGEST_INDEX);
            let form = match kind {
                Some(0) => WITH_HASH,
                // With keys that are text, its own or shared.
                Some(1 | 2) => WITHOUT,
                _ => return Err(Unread::Senseless),
            };
            let indices = 1 << index.ok_or(Unread::Senseless)?;
            (word(&head, 24)?, 32 + indices, form)
        }
    };
    let bytes = memory.bytes(
        added(keys, begin)?,
        (count.min(MOST_ENTRIES) * size) as usize,
    )?;
    Ok(Entries {
        bytes,
        size: size as usize,
        key,
    })
}
