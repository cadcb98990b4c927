//! Addresses of functions in a process, from the dynamic loader's own data there (`PT_DYNAMIC`): correct whatever
//! happened to the files, in any mount namespace. Foreign memory: every number may be anything.

use super::window::Memory;

/// Most program headers, and entries of a dynamic section, that are read.
const MOST: u64 = 512;
/// Longest chain of a hash table that is followed.
const LONGEST: u64 = 1 << 16;
/// From elf.h: types of program headers, tags of dynamic entries, a file type and a symbol type.
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const ET_EXEC: u16 = 2;
const STT_OBJECT: u8 = 1;
const STT_FUNC: u8 = 2;

/// The symbols of a mapped 64-bit library or program.
pub(super) struct Symbols<'a> {
    memory: &'a Memory,
    bias: u64,
    strings: u64,
    symbols: u64,
    hash: u64,
}

impl Symbols<'_> {
    /// For the image whose beginning is mapped at this address.
    pub(super) fn at(memory: &Memory, base: u64) -> Option<Symbols<'_>> {
        let mut head = [0; 64];
        memory.read(base, &mut head).ok()?;
        // 64-bit.
        if !head.starts_with(b"\x7fELF\x02") {
            return None;
        }
        let kind = u16::from_ne_bytes(*head.get(16..)?.first_chunk()?);
        let table = base.checked_add(u64::from_ne_bytes(*head.get(32..)?.first_chunk()?))?;
        let size = u64::from(u16::from_ne_bytes(*head.get(54..)?.first_chunk()?));
        let count = u64::from(u16::from_ne_bytes(*head.get(56..)?.first_chunk()?));
        let (mut first, mut dynamic) = (None, None);
        for index in 0..count.min(MOST) {
            let mut header = [0; 56];
            memory
                .read(table.checked_add(index * size)?, &mut header)
                .ok()?;
            let address = u64::from_ne_bytes(*header.get(16..)?.first_chunk()?);
            match u32::from_ne_bytes(*header.first_chunk()?) {
                PT_LOAD if first.is_none() => first = Some(address & !0xfff),
                PT_DYNAMIC => dynamic = Some(address),
                _ => {}
            }
        }
        let bias = match kind {
            ET_EXEC => 0,
            _ => base.wrapping_sub(first?),
        };
        let dynamic = bias.wrapping_add(dynamic?);
        let (mut strings, mut symbols, mut hash) = (None, None, None);
        for index in 0..MOST {
            let at = dynamic.checked_add(index * 16)?;
            let tag = memory.number(at).ok()?;
            let value = memory.number(at.checked_add(8)?).ok()?;
            // The loader has added the base address, but not everywhere.
            let address = match value < base {
                true => bias.wrapping_add(value),
                false => value,
            };
            match tag {
                0 => break,
                DT_STRTAB => strings = Some(address),
                DT_SYMTAB => symbols = Some(address),
                DT_GNU_HASH => hash = Some(address),
                _ => {}
            }
        }
        Some(Symbols {
            memory,
            bias,
            strings: strings?,
            symbols: symbols?,
            hash: hash?,
        })
    }

    /// Start and end of a function or variable that is defined here.
    pub(super) fn find(&self, name: &str) -> Option<(u64, u64)> {
        let word = |offset: u64| {
            let mut bytes = [0; 4];
            let at = self.hash.checked_add(offset)?;
            self.memory.read(at, &mut bytes).ok()?;
            Some(u32::from_ne_bytes(bytes))
        };
        let buckets = u64::from(word(0)?);
        let first = u64::from(word(4)?);
        let filter = u64::from(word(8)?);
        let table = 16 + 8 * filter;
        let wanted = hash(name);
        let bucket = table + 4 * u64::from(wanted).checked_rem(buckets)?;
        let begin = u64::from(word(bucket)?);
        if begin < first {
            return None;
        }
        for index in begin..begin + LONGEST {
            let at = table + 4 * (buckets + index - first);
            let found = word(at)?;
            if found | 1 == wanted | 1
                && let Some(place) = self.symbol(index, name)
            {
                return Some(place);
            }
            if found & 1 == 1 {
                return None;
            }
        }
        None
    }

    /// The address range of a symbol, if it has this name and is defined.
    fn symbol(&self, index: u64, name: &str) -> Option<(u64, u64)> {
        let mut symbol = [0; 24];
        let at = self.symbols.checked_add(24 * index)?;
        self.memory.read(at, &mut symbol).ok()?;
        let [n0, n1, n2, n3, kind, _, s0, s1, ..] = symbol;
        let offset = u32::from_ne_bytes([n0, n1, n2, n3]);
        let mut found = vec![0; name.len() + 1];
        let at = self.strings.checked_add(u64::from(offset))?;
        self.memory.read(at, &mut found).ok()?;
        let is_named = found.strip_suffix(b"\0") == Some(name.as_bytes());
        let is_there = u16::from_ne_bytes([s0, s1]) != 0;
        if !is_named || !is_there || !matches!(kind & 0xf, STT_OBJECT | STT_FUNC) {
            return None;
        }
        let value = u64::from_ne_bytes(*symbol.get(8..)?.first_chunk()?);
        let size = u64::from_ne_bytes(*symbol.get(16..)?.first_chunk()?);
        let address = self.bias.wrapping_add(value);
        Some((address, address.checked_add(size)?))
    }
}

/// The hash of a name for `DT_GNU_HASH`.
fn hash(name: &str) -> u32 {
    name.bytes().fold(5381, |hash: u32, byte| {
        hash.wrapping_mul(33).wrapping_add(u32::from(byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hashed_as_the_linker_does() {
        assert_eq!(hash(""), 0x1505);
        assert_eq!(hash("printf"), 0x156b_2bb8);
    }

    #[test]
    fn functions_of_the_c_library_are_found_in_memory() {
        let pid = std::process::id();
        let memory = Memory::open(pid, false).expect("our own");
        let maps = procfs::process::Process::myself().and_then(|it| crate::python::maps::of(&it));
        let libc = maps.expect("readable").into_iter().find(|map| {
            let path = match &map.pathname {
                procfs::process::MMapPath::Path(path) => path.clone(),
                _ => return false,
            };
            map.offset == 0 && path.file_name().is_some_and(|name| name == "libc.so.6")
        });
        let base = libc.expect("glibc").address.0;
        let symbols = Symbols::at(&memory, base).expect("a library");
        let (from, to) = symbols.find("getpid").expect("defined");
        assert!(
            from > base && to > from && to - from < 4096,
            "{from:x} {to:x}"
        );
        assert_eq!(symbols.find("no_such_function"), None);
        assert!(Symbols::at(&memory, base + 64).is_none());
    }
}
