//! How the kernel is told to fetch a probe's argument: the operand of an ELF note in the grammar of uprobe events
//! (Documentation/trace/uprobetracer.rst).

use crate::elf::{Argument, Machine, Operand, Register, RegisterKind, register};

/// What an argument is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum FetchKind {
    /// The string that it points to.
    Text,
    /// A number.
    Number,
}

/// Bytes of a number, negative where it has a sign, as in the note. Eight bytes are fetched of every number, so that all
/// sites have fields of the same types; the reader takes what is meant.
pub(super) type Width = i8;

/// An argument that cannot be fetched: a pointer that cannot be read, or −1.
pub(super) fn nothing(kind: FetchKind) -> (&'static str, Width) {
    match kind {
        FetchKind::Text => ("@0x0", 0),
        FetchKind::Number => ("\\-1", -8),
    }
}

/// Where an argument is fetched from, and how wide it is there.
///
/// # Errors
/// The reason why the kernel cannot do it, a clause after "because".
pub(super) fn fetch(
    argument: &Argument,
    machine: Machine,
    kind: FetchKind,
) -> Result<(String, Width), String> {
    if argument.float {
        return Err("it is a floating point number".to_owned());
    }
    let place = place(&argument.operand, machine, kind)?;
    let width = i8::try_from(argument.size).map_err(|_| "it is too wide".to_owned())?;
    Ok(match kind {
        // A pointer is fetched where it is, and what it points to is copied.
        FetchKind::Text => (
            match &argument.operand {
                Operand::Constant(address) => format!("@{address:#x}"),
                _ => format!("+0({place})"),
            },
            0,
        ),
        FetchKind::Number if argument.signed => (place, -width),
        FetchKind::Number => (place, width),
    })
}

fn place(operand: &Operand, machine: Machine, kind: FetchKind) -> Result<String, String> {
    match operand {
        Operand::Register(name) => {
            let found = general(name, machine)?;
            if found.first_byte != 0 {
                return Err(format!("%{name} is the second byte of a register"));
            }
            if kind == FetchKind::Text && found.size < 8 && machine == Machine::Aarch64 {
                return Err(format!("%{name} is half a pointer"));
            }
            Ok(kernel_name(found))
        }
        Operand::Constant(value) => Ok(format!("\\{value}")),
        Operand::Memory {
            symbol: Some(symbol),
            ..
        } => Err(format!("it is at the symbol {symbol}")),
        Operand::Memory { index: Some(_), .. } => {
            Err("its address is the sum of two registers".to_owned())
        }
        Operand::Memory {
            base: Some(base),
            displacement,
            ..
        } => {
            let found = general(base, machine)?;
            Ok(format!("{displacement:+}({})", kernel_name(found)))
        }
        Operand::Memory { displacement, .. } => Ok(format!("@{displacement:#x}")),
        Operand::Unknown => Err("its operand is not understood".to_owned()),
    }
}

fn general(name: &str, machine: Machine) -> Result<Register, String> {
    match register(machine, name) {
        Some(found) if found.kind == RegisterKind::General => Ok(found),
        Some(found) if found.kind == RegisterKind::Vector => {
            Err(format!("%{name} is a vector register"))
        }
        Some(_) => Err(format!("it is relative to %{name}")),
        None => Err(format!("%{name} is no register that is known here")),
    }
}

/// The kernel names x86 registers without their `r`, except for the numbered ones.
fn kernel_name(register: Register) -> String {
    let whole = register.whole;
    let short = whole
        .strip_prefix('r')
        .filter(|rest| !rest.starts_with(|sign: char| sign.is_ascii_digit()));
    format!("%{}", short.unwrap_or(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::{Architecture, parse_arguments};

    fn fetched(text: &str, machine: Machine, kind: FetchKind) -> Result<(String, Width), String> {
        let architecture = Architecture {
            machine,
            address_size: 8,
            little_endian: true,
        };
        let arguments = parse_arguments(text, architecture);
        fetch(&arguments[0], machine, kind)
    }

    #[test]
    fn the_operands_of_real_interpreters_become_fetch_arguments() {
        for (text, kind, place, width) in [
            ("8@%rbp", FetchKind::Text, "+0(%bp)", 0),
            ("8@%r12", FetchKind::Text, "+0(%r12)", 0),
            ("-4@%eax", FetchKind::Number, "%ax", -4),
            ("-4@%r14d", FetchKind::Number, "%r14", -4),
            ("-4@112(%rsp)", FetchKind::Number, "+112(%sp)", -4),
            ("-4@-292(%rbp)", FetchKind::Number, "-292(%bp)", -4),
            ("8@-8(%rbp)", FetchKind::Text, "+0(-8(%bp))", 0),
            ("-8@%r12", FetchKind::Number, "%r12", -8),
            ("4@$5", FetchKind::Number, "\\5", 4),
            ("-4@$-1", FetchKind::Number, "\\-1", -4),
            ("8@(%rax)", FetchKind::Text, "+0(+0(%ax))", 0),
            ("1@%al", FetchKind::Number, "%ax", 1),
        ] {
            let got = fetched(text, Machine::X86, kind);
            assert_eq!(got, Ok((place.to_owned(), width)), "{text}");
        }
        for (text, kind, place, width) in [
            ("8@x20", FetchKind::Text, "+0(%x20)", 0),
            ("-4@w3", FetchKind::Number, "%x3", -4),
            ("-4@[sp, 108]", FetchKind::Number, "+108(%sp)", -4),
        ] {
            let got = fetched(text, Machine::Aarch64, kind);
            assert_eq!(got, Ok((place.to_owned(), width)), "{text}");
        }
    }

    #[test]
    fn what_the_kernel_cannot_fetch_is_said_to_be_so_and_why() {
        for (text, why) in [
            ("8@(%rax,%rbx,8)", "sum of two registers"),
            ("8@symbol(%rip)", "symbol"),
            ("8f@%xmm0", "floating point"),
            ("8@%xmm0", "vector"),
            ("1@%ah", "second byte"),
            ("8@nonsense!", "not understood"),
        ] {
            let got = fetched(text, Machine::X86, FetchKind::Number);
            assert!(
                got.as_ref().is_err_and(|reason| reason.contains(why)),
                "{text}: {got:?}"
            );
        }
    }
}
