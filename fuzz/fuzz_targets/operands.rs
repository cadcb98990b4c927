//! Any text as the argument string of a note: no panic, and an argument for every word that is not inside brackets. The
//! first byte picks the machine and the address size.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pystap::elf::{Architecture, Machine, Operand, parse_arguments, register};
use pystap_fuzz::{MIB, budget, within};

fuzz_target!(|bytes: &[u8]| {
    within(budget(MIB, 512, bytes), || deal(bytes));
});

fn deal(bytes: &[u8]) {
    let Some((choice, text)) = bytes.split_first() else {
        return;
    };
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    let machine = match choice % 3 {
        0 => Machine::X86,
        1 => Machine::Aarch64,
        _ => Machine::Other(8),
    };
    let arguments = parse_arguments(
        text,
        Architecture {
            machine,
            address_size: if choice & 0x80 == 0 { 8 } else { 4 },
            little_endian: true,
        },
    );
    if !text.contains(['(', '[']) {
        assert_eq!(arguments.len(), text.split_ascii_whitespace().count());
    }
    for argument in arguments {
        assert!(matches!(argument.size, 1 | 2 | 4 | 8));
        assert!(text.contains(&argument.text));
        match &argument.operand {
            Operand::Register(name) => assert!(register(machine, name).is_some()),
            Operand::Memory { base, index, .. } => {
                for name in [base, index].into_iter().flatten() {
                    assert!(register(machine, name).is_some());
                }
            }
            Operand::Constant(_) | Operand::Unknown => {}
        }
    }
}
