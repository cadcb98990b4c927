//! The operands of a probe: the note's argument string, taken apart. `8@%rbp -4@112(%rsp)` says that the first argument is
//! eight unsigned bytes in a register and the second four signed bytes in memory. What stands after the `@` is whatever the
//! compiler would have written into an assembler instruction, so each machine has a grammar of its own. Fetches nothing.

use super::registers::{Register, RegisterKind, register};
use super::{Architecture, Argument, Machine, Operand};

/// The arguments in a note's argument string, in order. No argument is ever dropped: one that is not understood becomes
/// [`Operand::Unknown`] with its text, so that the others keep their positions.
pub fn parse_arguments(text: &str, architecture: Architecture) -> Vec<Argument> {
    split(text)
        .map(|argument| parse_argument(argument, architecture))
        .collect()
}

/// Splits at blanks outside brackets: `8@[sp, 60] 8@x0` is two arguments.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return None;
        }
        let mut open = 0usize;
        let end = rest.bytes().position(|byte| {
            match byte {
                b'(' | b'[' => open += 1,
                b')' | b']' => open = open.saturating_sub(1),
                _ => {}
            }
            open == 0 && byte.is_ascii_whitespace()
        });
        // Blanks are ASCII, so the split cannot fall inside a character.
        let (argument, after) = rest.split_at_checked(end.unwrap_or(rest.len()))?;
        rest = after;
        Some(argument)
    })
}

fn parse_argument(text: &str, architecture: Architecture) -> Argument {
    let with_size = text
        .split_once('@')
        .and_then(|(size, operand)| Some((parse_size(size)?, operand)));
    let (size, operand_text) = with_size.unwrap_or((
        Size {
            bytes: architecture.address_size,
            signed: false,
            float: false,
        },
        text,
    ));
    let operand = match architecture.machine {
        Machine::X86 => parse_x86(operand_text),
        Machine::Aarch64 => parse_aarch64(operand_text),
        Machine::Other(_) => None,
    };
    Argument {
        size: size.bytes,
        signed: size.signed,
        float: size.float,
        operand: operand.unwrap_or(Operand::Unknown),
        text: operand_text.to_string(),
    }
}

/// The part before the `@`: `-4`, `8`, `8f`.
struct Size {
    bytes: u8,
    signed: bool,
    float: bool,
}

fn parse_size(text: &str) -> Option<Size> {
    let (text, signed) = match text.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let (text, float) = match text.strip_suffix('f') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let bytes = match text {
        "1" => 1,
        "2" => 2,
        "4" => 4,
        "8" => 8,
        _ => return None,
    };
    Some(Size {
        bytes,
        signed,
        float,
    })
}

/// AT&T syntax: `$5`, `%rbx`, `-4(%rbp)`, `sym+8(%rip)`, `8(%rax,%rbx,4)`, `sym`.
fn parse_x86(text: &str) -> Option<Operand> {
    if let Some(constant) = text.strip_prefix('$') {
        return parse_constant(constant);
    }
    if let Some(name) = text.strip_prefix('%') {
        let found = register(Machine::X86, name)?;
        return (found.kind != RegisterKind::ProgramCounter)
            .then(|| Operand::Register(name.to_string()));
    }

    let (offset, address) = match text.split_once('(') {
        Some((offset, address)) => (offset, Some(address.strip_suffix(')')?)),
        None => (text, None),
    };
    let Offset {
        displacement,
        symbol,
    } = parse_offset(offset)?;
    let Some(address) = address else {
        return (!offset.is_empty()).then_some(Operand::Memory {
            base: None,
            index: None,
            scale: 1,
            displacement,
            symbol,
        });
    };

    let mut parts = address.split(',').map(str::trim_ascii);
    let base = match parts.next()? {
        "" => None,
        name => Some(x86_address_register(name)?),
    };
    let index = match parts.next() {
        None => None,
        Some(name) => Some(x86_address_register(name)?),
    };
    let scale = match parts.next() {
        None | Some("" | "1") => 1,
        Some("2") => 2,
        Some("4") => 4,
        Some("8") => 8,
        Some(_) => return None,
    };
    let relative = |register: &Register| register.kind == RegisterKind::ProgramCounter;
    let cannot_be_index = |register: &Register| relative(register) || register.whole == "rsp";
    if parts.next().is_some()
        || (base.is_none() && index.is_none())
        || index.as_ref().is_some_and(|(_, i)| cannot_be_index(i))
        || (index.is_some() && base.as_ref().is_some_and(|(_, b)| relative(b)))
    {
        return None;
    }
    Some(Operand::Memory {
        base: base.map(|(name, _)| name),
        index: index.map(|(name, _)| name),
        scale,
        displacement,
        symbol,
    })
}

/// A register that can be part of an address, with its name.
fn x86_address_register(text: &str) -> Option<(String, Register)> {
    let name = text.strip_prefix('%')?;
    let found = register(Machine::X86, name)?;
    let addresses = matches!(found.size, 4 | 8) && found.kind != RegisterKind::Vector;
    addresses.then(|| (name.to_string(), found))
}

/// `x19`, `5`, `[x29]`, `[sp, 60]`, `[x0, x1, lsl 3]`; numbers may be preceded by `#`.
fn parse_aarch64(text: &str) -> Option<Operand> {
    let Some(address) = text.strip_prefix('[') else {
        return match register(Machine::Aarch64, text) {
            Some(found) if found.kind == RegisterKind::Zero => Some(Operand::Constant(0)),
            Some(_) => Some(Operand::Register(text.to_string())),
            None => parse_constant(text.strip_prefix('#').unwrap_or(text)),
        };
    };

    let mut parts = address.strip_suffix(']')?.split(',').map(str::trim_ascii);
    let base = aarch64_address_register(parts.next()?)?;
    let mut displacement = 0;
    let mut index = None;
    if let Some(part) = parts.next() {
        index = aarch64_address_register(part).filter(|name| name != "sp");
        if index.is_none() {
            let number = part.strip_prefix('#').unwrap_or(part);
            displacement = parse_number(number)?.try_into().ok()?;
        }
    }
    let scale = match parts.next() {
        None => 1,
        Some(shift) if index.is_some() => {
            let shift = shift.strip_prefix("lsl")?.trim_ascii_start();
            match shift.strip_prefix('#').unwrap_or(shift) {
                "0" => 1,
                "1" => 2,
                "2" => 4,
                "3" => 8,
                _ => return None,
            }
        }
        Some(_) => return None,
    };
    parts.next().is_none().then_some(Operand::Memory {
        base: Some(base),
        index,
        scale,
        displacement,
        symbol: None,
    })
}

fn aarch64_address_register(name: &str) -> Option<String> {
    let found = register(Machine::Aarch64, name)?;
    (found.kind == RegisterKind::General && found.size == 8).then(|| name.to_string())
}

/// The part of an x86 address before the parenthesis.
struct Offset {
    displacement: i64,
    symbol: Option<String>,
}

/// A sum of numbers and at most one symbol: ``, `-0x10`, `sym`, `8+sym`, `sym+16-8`.
fn parse_offset(text: &str) -> Option<Offset> {
    let mut offset = Offset {
        displacement: 0,
        symbol: None,
    };
    let mut rest = text;
    while !rest.is_empty() {
        let sign_length = usize::from(rest.starts_with(['+', '-']));
        let end = rest
            .get(sign_length..)?
            .find(['+', '-'])
            .map_or(rest.len(), |length| sign_length + length);
        let (term, after) = rest.split_at_checked(end)?;
        rest = after;
        if let Some(number) = parse_number(term) {
            let number = i64::try_from(number).ok()?;
            offset.displacement = offset.displacement.checked_add(number)?;
        } else {
            let name = term.strip_prefix('+').unwrap_or(term);
            if offset.symbol.is_some() || !is_symbol(name) {
                return None;
            }
            offset.symbol = Some(name.to_string());
        }
    }
    Some(offset)
}

/// A plain assembler symbol. One with a relocation after an `@` (`sym@GOTPCREL`) does not count: there, the memory
/// holds the symbol's address and not its value.
fn is_symbol(name: &str) -> bool {
    let in_symbol = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$');
    name.starts_with(|c: char| in_symbol(c) && c != '$' && !c.is_ascii_digit())
        && name.chars().all(in_symbol)
}

fn parse_constant(text: &str) -> Option<Operand> {
    let number = parse_number(text)?;
    let bits = i64::try_from(number)
        .or_else(|_| u64::try_from(number).map(u64::cast_signed))
        .ok()?;
    Some(Operand::Constant(bits))
}

/// A number with an optional sign, as assemblers write them: decimal, `0x` hexadecimal, octal after a zero. Wider than
/// any operand, so that each caller checks its own range.
fn parse_number(text: &str) -> Option<i128> {
    let (magnitude, negative) = match text.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (text.strip_prefix('+').unwrap_or(text), false),
    };
    let (digits, radix) = if let Some(digits) = magnitude
        .strip_prefix("0x")
        .or_else(|| magnitude.strip_prefix("0X"))
    {
        (digits, 16)
    } else if magnitude.len() > 1 && magnitude.starts_with('0') {
        (magnitude, 8)
    } else {
        (magnitude, 10)
    };
    // The parser below would accept a second sign.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let number = i128::from(u64::from_str_radix(digits, radix).ok()?);
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const X86_64: Architecture = Architecture {
        machine: Machine::X86,
        address_size: 8,
        little_endian: true,
    };
    const AARCH64: Architecture = Architecture {
        machine: Machine::Aarch64,
        address_size: 8,
        little_endian: true,
    };

    fn only(text: &str, architecture: Architecture) -> Argument {
        let mut arguments = parse_arguments(text, architecture);
        assert_eq!(arguments.len(), 1, "{text}");
        arguments.remove(0)
    }

    fn operand(text: &str, architecture: Architecture) -> Operand {
        only(text, architecture).operand
    }

    fn in_register(name: &str) -> Operand {
        Operand::Register(name.to_string())
    }

    fn memory(base: &str, displacement: i64) -> Operand {
        indexed(base, "", 1, displacement, "")
    }

    /// Empty strings stand for absent parts.
    fn indexed(base: &str, index: &str, scale: u8, displacement: i64, symbol: &str) -> Operand {
        let part = |text: &str| (!text.is_empty()).then(|| text.to_string());
        Operand::Memory {
            base: part(base),
            index: part(index),
            scale,
            displacement,
            symbol: part(symbol),
        }
    }

    #[test]
    fn sizes_say_width_sign_and_floating_point() {
        for (text, expected) in [
            ("8@%rbx", (8, false, false)),
            ("-4@112(%rsp)", (4, true, false)),
            ("2@%ax", (2, false, false)),
            ("-1@%ah", (1, true, false)),
            ("8f@%xmm0", (8, false, true)),
            ("-4f@%xmm1", (4, true, true)),
        ] {
            let argument = only(text, X86_64);
            assert_eq!(
                (argument.size, argument.signed, argument.float),
                expected,
                "{text}"
            );
            assert_ne!(argument.operand, Operand::Unknown, "{text}");
        }
    }

    #[test]
    fn an_argument_without_a_size_has_the_width_of_an_address() {
        let i386 = Architecture {
            address_size: 4,
            ..X86_64
        };
        assert_eq!(only("%rax", X86_64).size, 8);
        assert_eq!(only("%eax", i386).size, 4);
        assert_eq!(only("%rax", X86_64).operand, in_register("rax"));
    }

    #[test]
    fn x86_operands_are_read_as_the_assembler_reads_them() {
        for (text, expected) in [
            ("8@$5", Operand::Constant(5)),
            ("-4@$-1", Operand::Constant(-1)),
            ("$0x10", Operand::Constant(16)),
            ("8@$010", Operand::Constant(8)),
            ("8@$18446744073709551615", Operand::Constant(-1)),
            ("1@%r8b", in_register("r8b")),
            ("4f@%xmm15", in_register("xmm15")),
            ("-8@-0x10(%rbp)", memory("rbp", -16)),
            ("4@(%rdi)", memory("rdi", 0)),
            ("4@8(%esp)", memory("esp", 8)),
            ("8@sym(%rip)", indexed("rip", "", 1, 0, "sym")),
            ("8@sym+8(%rip)", indexed("rip", "", 1, 8, "sym")),
            ("8@24+_ptr.1(%rip)", indexed("rip", "", 1, 24, "_ptr.1")),
            ("8@s+16-4(%rip)", indexed("rip", "", 1, 12, "s")),
            ("(%rax,%rbx,8)", indexed("rax", "rbx", 8, 0, "")),
            ("(%rax,%rbx)", indexed("rax", "rbx", 1, 0, "")),
            ("( %rax, %rbx, 4 )", indexed("rax", "rbx", 4, 0, "")),
            ("8@table(,%rdi,8)", indexed("", "rdi", 8, 0, "table")),
            ("4@counter", indexed("", "", 1, 0, "counter")),
            ("4@0x601040", indexed("", "", 1, 0x60_1040, "")),
        ] {
            assert_eq!(operand(text, X86_64), expected, "{text}");
        }
    }

    #[test]
    fn aarch64_operands_are_read_as_the_assembler_reads_them() {
        for (text, expected) in [
            ("8@x19", in_register("x19")),
            ("-4@w3", in_register("w3")),
            ("8@sp", in_register("sp")),
            ("8f@d0", in_register("d0")),
            ("8@5", Operand::Constant(5)),
            ("-4@-1", Operand::Constant(-1)),
            ("8@#16", Operand::Constant(16)),
            ("8@xzr", Operand::Constant(0)),
            ("8@[sp, 60]", memory("sp", 60)),
            ("8@[sp,60]", memory("sp", 60)),
            ("-4@[x29, #-20]", memory("x29", -20)),
            ("8@[x29]", memory("x29", 0)),
            ("4@[x0, x1]", indexed("x0", "x1", 1, 0, "")),
            ("8@[x0, x1, lsl 3]", indexed("x0", "x1", 8, 0, "")),
            ("8@[x0, x1, lsl #2]", indexed("x0", "x1", 4, 0, "")),
        ] {
            assert_eq!(operand(text, AARCH64), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_kept_as_text() {
        for (text, kept) in [
            ("8@", ""),
            ("8@%foo", "%foo"),
            ("8@%rip", "%rip"),
            ("8@%fs:40", "%fs:40"),
            ("8@$sym", "$sym"),
            ("8@$--5", "$--5"),
            ("8@$18446744073709551616", "$18446744073709551616"),
            ("8@sym@GOTPCREL(%rip)", "sym@GOTPCREL(%rip)"),
            ("8@a+b(%rip)", "a+b(%rip)"),
            ("8@-a(%rip)", "-a(%rip)"),
            ("8@()", "()"),
            ("8@8(,)", "8(,)"),
            ("8@(%rax,%rsp)", "(%rax,%rsp)"),
            ("8@(%rax,%rbx,3)", "(%rax,%rbx,3)"),
            ("8@(%rax,%rbx,8,1)", "(%rax,%rbx,8,1)"),
            ("8@(%xmm0)", "(%xmm0)"),
            ("8@(%rip,%rax)", "(%rip,%rax)"),
            ("8@(%ax)", "(%ax)"),
            ("8@(%rax)x", "(%rax)x"),
            ("8@9223372036854775808(%rax)", "9223372036854775808(%rax)"),
            ("8@sym+", "sym+"),
            ("3@%rax", "3@%rax"),
            ("16f@%xmm0", "16f@%xmm0"),
        ] {
            let argument = only(text, X86_64);
            assert_eq!(argument.operand, Operand::Unknown, "{text}");
            assert_eq!(argument.text, kept);
        }
        for text in [
            "x31",
            "%rax",
            "[sp, 60",
            "[]",
            "[w0]",
            "[xzr]",
            "[sp, 8]!",
            "[x0, sp]",
            "[x0, w1, sxtw 2]",
            "[x0, x1, lsl 4]",
            "[x0, 8, lsl 3]",
            "[x0, x1, lsl 3, 1]",
            "[x0, #:lo12:sym]",
        ] {
            let argument = only(text, AARCH64);
            assert_eq!(argument.operand, Operand::Unknown, "{text}");
            assert_eq!(argument.text, text);
        }
    }

    #[test]
    fn operands_of_other_machines_keep_their_size_and_text() {
        let powerpc = Architecture {
            machine: Machine::Other(21),
            ..X86_64
        };
        let arguments = parse_arguments("-4@0(9) 8@%r3", powerpc);
        let seen: Vec<(u8, bool, &Operand, &str)> = arguments
            .iter()
            .map(|a| (a.size, a.signed, &a.operand, a.text.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                (4, true, &Operand::Unknown, "0(9)"),
                (8, false, &Operand::Unknown, "%r3"),
            ]
        );
    }

    #[test]
    fn blanks_within_brackets_do_not_separate_arguments() {
        let texts = |text, architecture| {
            parse_arguments(text, architecture)
                .into_iter()
                .map(|argument| argument.text)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            texts("8@[sp, 60]  -4@w3\t8@[x0, x1, lsl 3] ", AARCH64),
            ["[sp, 60]", "w3", "[x0, x1, lsl 3]"]
        );
        assert_eq!(texts("", X86_64), [""; 0]);
        assert_eq!(texts("  \t ", X86_64), [""; 0]);
        assert_eq!(texts("8@(%rax 8@%rbx", X86_64), ["(%rax 8@%rbx"]);
        assert_eq!(texts("8@) 8@%rbx", X86_64), [")", "%rbx"]);
    }

    /// Writes an x86 operand as compilers do.
    fn print_x86(operand: &Operand) -> String {
        match operand {
            Operand::Register(name) => format!("%{name}"),
            Operand::Constant(value) => format!("${value}"),
            Operand::Memory {
                base,
                index,
                scale,
                displacement,
                symbol,
            } => {
                let offset = match (symbol, displacement) {
                    (Some(symbol), 0) => symbol.clone(),
                    (Some(symbol), number) => format!("{symbol}{number:+}"),
                    (None, number) => number.to_string(),
                };
                let base = base.as_ref().map_or(String::new(), |b| format!("%{b}"));
                match index {
                    Some(index) => format!("{offset}({base},%{index},{scale})"),
                    None => format!("{offset}({base})"),
                }
            }
            Operand::Unknown => String::new(),
        }
    }

    /// Writes an aarch64 operand as compilers do.
    fn print_aarch64(operand: &Operand) -> String {
        match operand {
            Operand::Register(name) => name.clone(),
            Operand::Constant(value) => value.to_string(),
            Operand::Memory {
                base,
                index,
                scale,
                displacement,
                ..
            } => {
                let base = base.as_deref().unwrap_or_default();
                match index {
                    Some(index) => format!("[{base}, {index}, lsl {}]", scale.ilog2()),
                    None => format!("[{base}, {displacement}]"),
                }
            }
            Operand::Unknown => String::new(),
        }
    }

    fn any_x86() -> impl Strategy<Value = Operand> {
        let base = select(vec!["rax", "rbp", "rsp", "r13", "eax"]);
        let index = select(vec!["", "rbx", "r9", "ecx"]);
        let symbol = select(vec!["", "sym", "_PyRuntime", ".LC0", "a$b"]);
        let scale = select(vec![1, 2, 4, 8]);
        prop_oneof![
            select(vec!["rax", "ebp", "r12w", "sil", "ah", "xmm7"]).prop_map(in_register),
            any::<i64>().prop_map(Operand::Constant),
            (base, index, scale, any::<i64>(), symbol).prop_map(|(b, i, s, d, symbol)| {
                indexed(b, i, if i.is_empty() { 1 } else { s }, d, symbol)
            }),
        ]
    }

    fn any_aarch64() -> impl Strategy<Value = Operand> {
        let base = || select(vec!["sp", "x0", "x29", "x30"]);
        prop_oneof![
            select(vec!["x0", "w28", "sp", "d3"]).prop_map(in_register),
            any::<i64>().prop_map(Operand::Constant),
            (base(), any::<i64>()).prop_map(|(b, d)| memory(b, d)),
            (base(), select(vec![1, 2, 4, 8])).prop_map(|(b, s)| indexed(b, "x7", s, 0, "")),
        ]
    }

    fn print_argument(argument: &Argument) -> String {
        let sign = if argument.signed { "-" } else { "" };
        let float = if argument.float { "f" } else { "" };
        format!("{sign}{}{float}@{}", argument.size, argument.text)
    }

    fn any_arguments(
        operands: impl Strategy<Value = Operand>,
        print: fn(&Operand) -> String,
    ) -> impl Strategy<Value = Vec<Argument>> {
        let argument = (
            select(vec![1, 2, 4, 8]),
            any::<bool>(),
            any::<bool>(),
            operands,
        )
            .prop_map(move |(size, signed, float, operand)| Argument {
                size,
                signed,
                float,
                text: print(&operand),
                operand,
            });
        proptest::collection::vec(argument, 0..12)
    }

    fn join(arguments: &[Argument]) -> String {
        let printed: Vec<String> = arguments.iter().map(print_argument).collect();
        printed.join(" ")
    }

    proptest! {
        #[test]
        fn x86_arguments_survive_printing_and_parsing(
            arguments in any_arguments(any_x86(), print_x86)
        ) {
            prop_assert_eq!(parse_arguments(&join(&arguments), X86_64), arguments);
        }

        #[test]
        fn aarch64_arguments_survive_printing_and_parsing(
            arguments in any_arguments(any_aarch64(), print_aarch64)
        ) {
            prop_assert_eq!(parse_arguments(&join(&arguments), AARCH64), arguments);
        }

        #[test]
        fn no_text_panics_and_no_text_is_lost(text in "[-+@$%#()\\[\\], 0-9a-fxrsplé]{0,40}") {
            for architecture in [X86_64, AARCH64] {
                let kept: String = parse_arguments(&text, architecture)
                    .iter()
                    .map(|argument| argument.text.clone())
                    .collect();
                let mut rest = text.chars();
                prop_assert!(kept.chars().all(|c| rest.any(|other| other == c)), "{kept:?} of {text:?}");
            }
        }
    }
}
