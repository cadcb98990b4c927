//! What an ELF file says about probing it: its SystemTap notes, its build ID, the libraries it needs. The only module
//! that knows goblin and gimli; it reads files and byte strings, never looks at processes and never runs anything.
//!
//! [`Image::open`] is the entry point. Below it, `layout` holds the headers and maps addresses to file offsets, `notes`
//! walks note records, `stapsdt` reads SystemTap's own, [`parse_arguments`] parses the operands in them, and
//! [`register`] knows the register names.
//!
//! Files are read by position and never whole (`source`): what a user calls a program may have any size.
//!
//! [`DebugInformation`] is the second entry point: whether debug information can be used. `container` reads it section
//! by section; `separate` knows where debug information is kept apart from the program.

mod architecture;
mod build_id;
mod container;
mod debug;
#[cfg(test)]
mod debug_tests;
mod dynamic;
mod error;
mod image;
mod layout;
mod notes;
mod operand;
mod reader;
mod registers;
mod separate;
mod source;
mod stapsdt;
#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;
mod variable;

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

pub use architecture::{Architecture, Machine};
pub use build_id::kernel_build_id;
pub use container::Compression;
pub use debug::{DebugInformation, Resolved, Separation, Supplement};
pub use error::{DebugError, ElfError};
pub use image::{loaded, open_ordinary};
pub use operand::parse_arguments;
pub use registers::{Register, RegisterKind, register};
pub use separate::DebugDirectories;
pub use variable::{Variable, variable};

/// An ELF file that was examined: an interpreter or a shared library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Image {
    /// The path by which it was opened.
    #[serde(serialize_with = "path_as_text")]
    pub path: PathBuf,
    /// GNU build ID as lower-case hexadecimal; `None` when the file has none.
    pub build_id: Option<String>,
    /// Machine, address size and byte order, from the ELF header.
    pub architecture: Architecture,
    /// Every SystemTap mark of every provider, in the order of the notes, the sites of one mark together.
    pub marks: Vec<Mark>,
    /// Notes that could not be read, one sentence for each. Never fatal.
    pub damaged: Vec<String>,
    /// Libraries it needs (`DT_NEEDED`), in order; names, seldom paths.
    pub needed: Vec<String>,
    /// Directories searched for them before the usual ones: `DT_RUNPATH`, or `DT_RPATH` where there is no run path,
    /// split at colons. `$ORIGIN` is kept as it is.
    pub run_paths: Vec<String>,
    /// File offset of code that runs once, at program start: the entry point, or the `DT_INIT` function of a library
    /// without one. An event that is armed only to keep a semaphore raised can be placed here without being hit.
    pub startup_offset: Option<u64>,
    /// File offset of CPython's runtime state, which begins with `_Py_DebugOffsets` from 3.13 on (section `.PyRuntime`).
    pub python_runtime: Option<u64>,
}

/// A path as text; bytes that are not UTF-8 become U+FFFD.
fn path_as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// One mark (`provider:name`) with all its sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// SDT provider, `python` for CPython's own marks.
    pub provider: String,
    /// Mark name as in the note, for example `function__entry`.
    pub name: String,
    /// Where the mark is in the code; inlining makes several sites. Arguments may differ from site to site.
    pub sites: Vec<Site>,
}

/// One place in the code where a mark is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Site {
    /// Virtual address in the file's own address space, prelink-corrected.
    pub address: u64,
    /// The same place as a file offset; `None` when no PT_LOAD segment covers it.
    pub file_offset: Option<u64>,
    /// The 16-bit counter that guards the mark, if it has one.
    pub semaphore: Option<Semaphore>,
    /// Parsed arguments, in order.
    pub arguments: Vec<Argument>,
    /// The note's argument string, unparsed.
    pub argument_text: String,
}

/// The counter that a tracer increments to enable a guarded mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Semaphore {
    /// Virtual address, prelink-corrected.
    pub address: u64,
    /// File offset; `None` when no segment holds it in the file.
    pub file_offset: Option<u64>,
}

/// One argument of a mark: `-4@112(%rsp)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Argument {
    /// Size in bytes: 1, 2, 4 or 8. The image's address size when the note states none.
    pub size: u8,
    /// Whether the value is signed.
    pub signed: bool,
    /// Whether the value is a floating point number (`f` after the size).
    pub float: bool,
    /// Where the value is.
    pub operand: Operand,
    /// The operand as written in the note, without the size before its `@`; with it when the size is not understood.
    pub text: String,
}

/// Where the value of an argument is when the mark is hit.
///
/// As JSON: `{"kind": "register", "value": "rbx"}`, with kinds `register`, `constant`, `memory` and `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum Operand {
    /// In a register, by its assembler name without sigil (`rbx`, `ax`, `x19`, `w3`).
    Register(String),
    /// A constant of the instruction stream. Values from 2^63 upwards keep their bits and so are negative here.
    /// aarch64's zero registers are constants too.
    Constant(i64),
    /// In memory at `displacement + base + index * scale`, plus `symbol` if there is one. Without base and index, at an
    /// absolute address.
    Memory {
        /// Base register; `rip` for pc-relative forms, in which a symbol stands for its distance from there.
        base: Option<String>,
        /// Index register.
        index: Option<String>,
        /// Factor of the index: 1, 2, 4 or 8.
        scale: u8,
        /// Constant offset in bytes.
        displacement: i64,
        /// Symbol whose address is added (`sym(%rip)`).
        symbol: Option<String>,
    },
    /// Not understood; the text is in [`Argument::text`].
    Unknown,
}
