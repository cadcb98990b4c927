//! Objects in the memory of an interpreter: functions by their code objects, text, bytes. A code object must say that it is
//! one: that is what tells a stack from what was changed or freed while it was read, and a known build from an unknown one.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::layout::Layout;
use super::memory::{Memory, Unread, half, word};

/// Longest texts that are read, in characters.
const LONGEST_NAME: u64 = 1 << 10;
const LONGEST_PATH: u64 = 4 << 10;
/// Longest table of lines, in bytes: that of a function of some 100 000 lines.
const LONGEST_TABLE: u64 = 1 << 20;
/// Most bytes of all functions together that are kept: of one process.
const MOST_KEPT: usize = 64 << 20;
/// Most bytes of tables that are searched for lines, of one process: half a second. A table is searched from its beginning for each
/// frame, and a program may have made both up.
const MOST_SEARCHED: usize = 256 << 20;

/// What a code object says of its function.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Qualified where code objects have such a name (3.11).
    pub(super) name: String,
    pub(super) file: String,
    first_line: i32,
    lines: Vec<u8>,
}

/// What tells a code object from one that was put in its place.
type Key = (u64, [u64; 4]);

/// Reads objects.
pub(super) struct Reader<M> {
    pub(super) memory: M,
    pub(super) layout: Layout,
    code_type: Cell<Option<u64>>,
    str_type: Cell<Option<u64>>,
    int_type: Cell<Option<u64>>,
    bytes_type: Cell<Option<u64>>,
    functions: RefCell<HashMap<Key, Rc<Function>>>,
    kept: Cell<usize>,
    searched: Cell<usize>,
}

impl<M: Memory> Reader<M> {
    pub(super) fn new(memory: M, layout: Layout) -> Reader<M> {
        Reader {
            memory,
            layout,
            code_type: Cell::default(),
            str_type: Cell::default(),
            int_type: Cell::default(),
            bytes_type: Cell::default(),
            functions: RefCell::default(),
            kept: Cell::default(),
            searched: Cell::default(),
        }
    }

    /// Whether any code object was where one should be.
    pub(super) fn has_recognised(&self) -> bool {
        self.code_type.get().is_some()
    }

    /// Forgets functions, with what was kept and searched for them.
    pub(super) fn forget_functions(&mut self) {
        self.functions.get_mut().clear();
        self.kept.set(0);
        self.searched.set(0);
    }

    /// Functions by their code objects, each with where its instructions are.
    pub(super) fn functions(
        &self,
        codes: &[u64],
    ) -> Result<Vec<(Rc<Function>, Instructions)>, Unread> {
        // At most a kilobyte each: the layout was checked.
        let size = self.layout.code_size() as usize;
        let bytes = self.memory.pieces(codes, size)?;
        let objects = codes.iter().zip(bytes.chunks_exact(size));
        objects
            .map(|(code, bytes)| self.function(*code, bytes))
            .collect()
    }

    fn function(&self, code: u64, bytes: &[u8]) -> Result<(Rc<Function>, Instructions), Unread> {
        let at = &self.layout.code;
        let its_type = word(bytes, self.layout.objects.object_type)?;
        if !self.is(its_type, &self.code_type, b"code\0")? {
            return Err(Unread::Senseless);
        }
        let traceable = at.first_traceable.map(|at| half(bytes, at));
        let instructions = Instructions {
            begin: at.instructions.map(|at| code.wrapping_add(at)),
            complete: traceable
                .transpose()?
                .map_or(0, |units| 2 * i64::from(units)),
        };
        let name = word(bytes, at.qualname.unwrap_or(at.name))?;
        let file = word(bytes, at.filename)?;
        let lines = word(bytes, at.lines)?;
        let first_line = half(bytes, at.first_line)?.cast_signed();
        let key = (code, [name, file, lines, u64::from(first_line as u32)]);
        if let Some(known) = self.functions.borrow().get(&key) {
            return Ok((Rc::clone(known), instructions));
        }
        let function = Rc::new(Function {
            name: self.text(name, LONGEST_NAME)?,
            file: self.text(file, LONGEST_PATH)?,
            first_line,
            lines: self.bytes(lines)?,
        });
        let length = function.name.len() + function.file.len() + function.lines.len() + 128;
        if self.kept.get() + length > MOST_KEPT {
            return Err(Unread::Senseless);
        }
        self.kept.set(self.kept.get() + length);
        let kept = Rc::clone(&function);
        self.functions.borrow_mut().insert(key, kept);
        Ok((function, instructions))
    }

    /// The line of an instruction of a function; `None` where it has none, or too much was searched for lines already.
    pub(super) fn line(&self, function: &Function, instruction: i64) -> Option<u32> {
        let searched = self.searched.get().saturating_add(function.lines.len());
        if searched > MOST_SEARCHED {
            return None;
        }
        self.searched.set(searched);
        let table = self.layout.code.table;
        table.line(&function.lines, function.first_line, instruction)
    }

    /// Whether a type has this name; remembers the one that has it.
    fn is(&self, its_type: u64, known: &Cell<Option<u64>>, name: &[u8]) -> Result<bool, Unread> {
        if let Some(known) = known.get() {
            return Ok(known == its_type);
        }
        let at = its_type.checked_add(self.layout.objects.type_name);
        let text = self.memory.number(at.ok_or(Unread::Senseless)?)?;
        let found = self.memory.bytes(text, name.len())? == name;
        if found {
            known.set(Some(its_type));
        }
        Ok(found)
    }

    /// A `str` that is a name, cut where it is too long.
    pub(super) fn name(&self, address: u64) -> Result<String, Unread> {
        self.text(address, LONGEST_NAME)
    }

    /// An `int` below 2 to the power of 30; `None` where it is another one.
    pub(super) fn small_number(
        &self,
        memory: &impl Memory,
        address: u64,
    ) -> Result<Option<u32>, Unread> {
        let bytes = memory.bytes(address, 32)?;
        let its_type = word(&bytes, self.layout.objects.object_type)?;
        if !self.is(its_type, &self.int_type, b"int\0")? {
            return Err(Unread::Senseless);
        }
        // One digit, and positive: the first up to 3.11, then with and without a mark for those that are always there; and zero.
        let is_small = matches!(word(&bytes, 16)?, 1 | 8 | 12);
        is_small.then(|| half(&bytes, 24)).transpose()
    }

    /// A `str`, cut where it is too long.
    fn text(&self, address: u64, longest: u64) -> Result<String, Unread> {
        let at = &self.layout.objects;
        let size = at.str_state.max(at.str_length).max(at.object_type) + 8;
        let bytes = self.memory.bytes(address, size as usize)?;
        if !self.is(word(&bytes, at.object_type)?, &self.str_type, b"str\0")? {
            return Err(Unread::Senseless);
        }
        let length = word(&bytes, at.str_length)?;
        // Include/cpython/unicodeobject.h: two bits for interning, three for the bytes of a character, and whether it is compact
        // and ASCII.
        let state = half(&bytes, at.str_state)?;
        let (width, compact, ascii) = ((state >> 2) & 7, state & 32 != 0, state & 64 != 0);
        if !compact || !matches!(width, 1 | 2 | 4) {
            return Err(Unread::Senseless);
        }
        let begin = match ascii {
            true => at.str_ascii,
            false => at.str_other,
        };
        let begin = address.checked_add(begin).ok_or(Unread::Senseless)?;
        let stored = length.min(longest) * u64::from(width);
        let stored = self.memory.bytes(begin, stored as usize)?;
        let mut text: String = match width {
            1 => stored.iter().map(|byte| char::from(*byte)).collect(),
            2 => {
                let units = stored.chunks_exact(2);
                units
                    .map(|it| character(u32::from(u16::from_ne_bytes(*chunk(it)))))
                    .collect()
            }
            _ => {
                let units = stored.chunks_exact(4);
                units
                    .map(|it| character(u32::from_ne_bytes(*chunk(it))))
                    .collect()
            }
        };
        if length > longest {
            text.push('…');
        }
        Ok(text)
    }

    /// A `bytes` that is a table of lines; empty where it is too long to be one.
    fn bytes(&self, address: u64) -> Result<Vec<u8>, Unread> {
        let at = &self.layout.objects;
        let size = at.bytes_size.max(at.object_type) + 8;
        let bytes = self.memory.bytes(address, size as usize)?;
        if !self.is(word(&bytes, at.object_type)?, &self.bytes_type, b"bytes\0")? {
            return Err(Unread::Senseless);
        }
        let length = word(&bytes, at.bytes_size)?;
        if length > LONGEST_TABLE {
            return Ok(Vec::new());
        }
        let begin = address.checked_add(at.bytes_value);
        self.memory
            .bytes(begin.ok_or(Unread::Senseless)?, length as usize)
    }
}

/// Where the instructions of a function are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instructions {
    /// The address of the first, where instructions have addresses.
    pub(super) begin: Option<u64>,
    /// A frame whose instruction is before this one, in bytes, is not complete.
    pub(super) complete: i64,
}

fn chunk<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    bytes.first_chunk().unwrap_or(&[0; N])
}

fn character(unit: u32) -> char {
    char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)
}
