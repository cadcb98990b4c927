//! What kind of machine an image is for.

use serde::Serialize;

/// Machine of an image, as far as operands need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Architecture {
    /// `e_machine` of the ELF header.
    pub machine: Machine,
    /// Address size in bytes: 4 or 8.
    pub address_size: u8,
    /// Byte order of the file.
    pub little_endian: bool,
}

/// Instruction sets whose register names the operand parser knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Machine {
    /// x86-64, and i386 for 32-bit files.
    X86,
    /// aarch64.
    Aarch64,
    /// Anything else: operands are kept as text.
    Other(u16),
}

impl Machine {
    /// The machine with this `e_machine`.
    pub(super) fn of(number: u16) -> Machine {
        use goblin::elf::header::{EM_386, EM_AARCH64, EM_X86_64};
        match number {
            EM_386 | EM_X86_64 => Machine::X86,
            EM_AARCH64 => Machine::Aarch64,
            other => Machine::Other(other),
        }
    }
}
