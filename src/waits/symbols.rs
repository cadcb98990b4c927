//! The kernel's functions by address (/proc/kallsyms), as far as they say what is waited for.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use super::reason::Meaning;

/// Most symbols that are kept: kernels have some hundred thousand.
const MOST: usize = 1 << 22;

/// What the functions of the kernel mean, by address.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    /// Where functions begin, in ascending order.
    addresses: Vec<u64>,
    /// What each of them means: a position in `meanings`, from 1 on; 0 where it means nothing.
    which: Vec<u16>,
    meanings: Vec<Meaning>,
}

impl Symbols {
    /// Those of the running kernel; `None` where it does not tell us its addresses.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn of_kernel() -> io::Result<Option<Symbols>> {
        let lines = BufReader::with_capacity(1 << 16, File::open("/proc/kallsyms")?);
        Symbols::read(lines)
    }

    pub(super) fn read(mut lines: impl BufRead) -> io::Result<Option<Symbols>> {
        let mut found: Vec<(u64, u16)> = Vec::new();
        let mut meanings = Vec::new();
        let mut line = String::new();
        while found.len() < MOST {
            line.clear();
            if lines.read_line(&mut line)? == 0 {
                break;
            }
            let Some((address, name)) = function(&line) else {
                continue;
            };
            let which = match Meaning::of(name) {
                Some(meaning) if meanings.len() < usize::from(u16::MAX) => {
                    meanings.push(meaning);
                    meanings.len() as u16
                }
                _ => 0,
            };
            found.push((address, which));
        }
        // Of several names of one function, one that says something.
        found.sort_unstable_by_key(|(address, which)| (*address, u16::MAX - which));
        found.dedup_by_key(|(address, _)| *address);
        let hidden = found.iter().all(|(address, _)| *address == 0);
        let (addresses, which) = found.into_iter().unzip();
        Ok((!hidden).then_some(Symbols {
            addresses,
            which,
            meanings,
        }))
    }

    /// What the function at an address means.
    pub(super) fn at(&self, address: u64) -> Option<&Meaning> {
        let after = self.addresses.partition_point(|begin| *begin <= address);
        let which = *self.which.get(after.checked_sub(1)?)?;
        self.meanings.get(usize::from(which).checked_sub(1)?)
    }
}

/// The address and name in `ffffffff81000000 t name [module]`, if that is a function.
fn function(line: &str) -> Option<(u64, &str)> {
    let mut fields = line.split_ascii_whitespace();
    let address = u64::from_str_radix(fields.next()?, 16).ok()?;
    let is_function = matches!(fields.next()?, "t" | "T" | "w" | "W");
    is_function.then_some((address, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::super::reason::Reason;
    use super::*;

    #[test]
    fn an_address_in_the_midst_of_a_function_is_found() {
        let text = "\
            0000000000002000 T pipe_read\n\
            0000000000001000 t nobody_knows\n\
            0000000000002500 d some_data\n\
            0000000000003000 T __x64_sys_read\n\
            0000000000003000 T __alias_of_read\n\
            0000000000004000 t ext4_file_read\t[ext4]\n";
        let symbols = Symbols::read(text.as_bytes()).expect("read").expect("some");
        assert_eq!(symbols.at(0xfff), None);
        assert_eq!(symbols.at(0x1fff), None);
        for at in [0x2000, 0x2600, 0x2fff] {
            assert_eq!(symbols.at(at), Some(&Meaning::Waits(Reason::Pipe)));
        }
        assert_eq!(symbols.at(0x3001), Some(&Meaning::Call("read".into())));
        assert_eq!(symbols.at(u64::MAX), Some(&Meaning::Waits(Reason::Disk)));
    }

    #[test]
    fn addresses_that_are_hidden_are_none() {
        let text = "0000000000000000 T pipe_read\n0000000000000000 T pipe_write\n";
        assert!(Symbols::read(text.as_bytes()).expect("read").is_none());
        assert!(Symbols::read(&b""[..]).expect("read").is_none());
    }
}
