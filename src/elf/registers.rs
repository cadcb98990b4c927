//! Register names of the machines whose operands are understood, and how the parts of a register relate: `%ah` is the
//! second byte of `rax`. Knows names only; where a tracer finds a register's value is the tracer's business.

use super::Machine;

/// A register, or a named part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register {
    /// Name of the whole register: `rax` for `ah`, `x3` for `w3`, `v0` for `d0`. 64-bit names for i386 too.
    pub whole: &'static str,
    /// Number of bytes that the name covers.
    pub size: u8,
    /// First byte of the whole register that it covers, counted from the least significant: 1 for `ah`, else 0.
    pub first_byte: u8,
    /// What kind of register it is.
    pub kind: RegisterKind,
}

/// The kind of a register, as far as operands need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterKind {
    /// Integers and addresses; the stack pointer is one of them.
    General,
    /// The program counter: part of addresses, never an operand itself.
    ProgramCounter,
    /// Floating point and vectors, which tracers cannot fetch.
    Vector,
    /// Reads as zero.
    Zero,
}

/// The register that assemblers for this machine call `name` (without `%`); `None` when there is none.
pub fn register(machine: Machine, name: &str) -> Option<Register> {
    match machine {
        Machine::X86 => x86(name),
        Machine::Aarch64 => aarch64(name),
        Machine::Other(_) => None,
    }
}

/// Whole register, its lower 4, 2 and 1 bytes, and the second byte where that has a name.
const X86_GENERAL: [[&str; 5]; 16] = [
    ["rax", "eax", "ax", "al", "ah"],
    ["rbx", "ebx", "bx", "bl", "bh"],
    ["rcx", "ecx", "cx", "cl", "ch"],
    ["rdx", "edx", "dx", "dl", "dh"],
    ["rsi", "esi", "si", "sil", ""],
    ["rdi", "edi", "di", "dil", ""],
    ["rbp", "ebp", "bp", "bpl", ""],
    ["rsp", "esp", "sp", "spl", ""],
    ["r8", "r8d", "r8w", "r8b", ""],
    ["r9", "r9d", "r9w", "r9b", ""],
    ["r10", "r10d", "r10w", "r10b", ""],
    ["r11", "r11d", "r11w", "r11b", ""],
    ["r12", "r12d", "r12w", "r12b", ""],
    ["r13", "r13d", "r13w", "r13b", ""],
    ["r14", "r14d", "r14w", "r14b", ""],
    ["r15", "r15d", "r15w", "r15b", ""],
];
/// Size and first byte of each column above.
const X86_PARTS: [(u8, u8); 5] = [(8, 0), (4, 0), (2, 0), (1, 0), (1, 1)];

const X86_VECTOR: [&str; 32] = [
    "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", "zmm10",
    "zmm11", "zmm12", "zmm13", "zmm14", "zmm15", "zmm16", "zmm17", "zmm18", "zmm19", "zmm20",
    "zmm21", "zmm22", "zmm23", "zmm24", "zmm25", "zmm26", "zmm27", "zmm28", "zmm29", "zmm30",
    "zmm31",
];

const AARCH64_GENERAL: [&str; 31] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14",
    "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27",
    "x28", "x29", "x30",
];

const AARCH64_VECTOR: [&str; 32] = [
    "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14",
    "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27",
    "v28", "v29", "v30", "v31",
];

fn x86(name: &str) -> Option<Register> {
    let general = X86_GENERAL.iter().find_map(|row| {
        let column = row.iter().position(|&part| part == name)?;
        let &(size, first_byte) = X86_PARTS.get(column)?;
        let [whole, ..] = *row;
        Some((whole, size, first_byte))
    });
    if let Some((whole, size, first_byte)) = general.filter(|_| !name.is_empty()) {
        return Some(Register {
            whole,
            size,
            first_byte,
            kind: RegisterKind::General,
        });
    }
    let (whole, size, kind) = match name {
        "rip" => ("rip", 8, RegisterKind::ProgramCounter),
        "eip" => ("rip", 4, RegisterKind::ProgramCounter),
        _ => {
            let (family, number) = name.split_at_checked(3)?;
            let size = match family {
                "xmm" => 16,
                "ymm" => 32,
                "zmm" => 64,
                _ => return None,
            };
            let whole = numbered(&X86_VECTOR, number)?;
            (whole, size, RegisterKind::Vector)
        }
    };
    Some(Register {
        whole,
        size,
        first_byte: 0,
        kind,
    })
}

fn aarch64(name: &str) -> Option<Register> {
    let (whole, size, kind) = match name {
        "sp" => ("sp", 8, RegisterKind::General),
        "wsp" => ("sp", 4, RegisterKind::General),
        "xzr" => ("xzr", 8, RegisterKind::Zero),
        "wzr" => ("xzr", 4, RegisterKind::Zero),
        _ => {
            let (family, number) = name.split_at_checked(1)?;
            let (names, size, kind): (&[&str], _, _) = match family {
                "x" => (&AARCH64_GENERAL, 8, RegisterKind::General),
                "w" => (&AARCH64_GENERAL, 4, RegisterKind::General),
                "v" | "q" => (&AARCH64_VECTOR, 16, RegisterKind::Vector),
                "d" => (&AARCH64_VECTOR, 8, RegisterKind::Vector),
                "s" => (&AARCH64_VECTOR, 4, RegisterKind::Vector),
                "h" => (&AARCH64_VECTOR, 2, RegisterKind::Vector),
                "b" => (&AARCH64_VECTOR, 1, RegisterKind::Vector),
                _ => return None,
            };
            (numbered(names, number)?, size, kind)
        }
    };
    Some(Register {
        whole,
        size,
        first_byte: 0,
        kind,
    })
}

/// The entry of `names` with this number, spelled as assemblers do: without sign or leading zero.
fn numbered(names: &[&'static str], number: &str) -> Option<&'static str> {
    if !number.bytes().all(|byte| byte.is_ascii_digit())
        || (number.starts_with('0') && number.len() > 1)
    {
        return None;
    }
    names.get(number.parse::<usize>().ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_of_an_x86_register_leads_to_the_whole_one() {
        for (name, whole, size, first_byte) in [
            ("rax", "rax", 8, 0),
            ("eax", "rax", 4, 0),
            ("ax", "rax", 2, 0),
            ("al", "rax", 1, 0),
            ("ah", "rax", 1, 1),
            ("r8d", "r8", 4, 0),
            ("r15b", "r15", 1, 0),
            ("sil", "rsi", 1, 0),
        ] {
            let found = register(Machine::X86, name).expect(name);
            assert_eq!(
                (found.whole, found.size, found.first_byte, found.kind),
                (whole, size, first_byte, RegisterKind::General),
                "{name}"
            );
        }
    }

    #[test]
    fn aarch64_halves_zeroes_and_vectors_are_told_apart() {
        for (name, whole, size, kind) in [
            ("x30", "x30", 8, RegisterKind::General),
            ("w3", "x3", 4, RegisterKind::General),
            ("wsp", "sp", 4, RegisterKind::General),
            ("wzr", "xzr", 4, RegisterKind::Zero),
            ("d31", "v31", 8, RegisterKind::Vector),
        ] {
            let found = register(Machine::Aarch64, name).expect(name);
            assert_eq!(
                (found.whole, found.size, found.kind),
                (whole, size, kind),
                "{name}"
            );
        }
    }

    #[test]
    fn names_of_other_machines_and_misspelt_ones_are_no_registers() {
        for name in [
            "", "x0", "r16", "raxx", "r8h", "xmm32", "xmm", "xmm01", "xmm+1", "st(0)", "é",
        ] {
            assert_eq!(register(Machine::X86, name), None, "{name}");
        }
        for name in ["", "rax", "x31", "x00", "w", "v32", "x1é", "sp0"] {
            assert_eq!(register(Machine::Aarch64, name), None, "{name}");
        }
        assert_eq!(register(Machine::Other(8), "r1"), None);
    }
}
