//! Where a program or library has one of its variables, from its tables of symbols.

use std::path::Path;

use super::layout::Layout;
use super::source::Source;
use super::{ElfError, Machine, image::open_ordinary, reader::Reader};

/// Most bytes of a table of symbols, or of its names, that are read.
const LARGEST_TABLE: u64 = 32 << 20;

/// A variable, in the address space of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Its address.
    pub address: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Where the file is loaded: file offset and address of its first segment.
    pub loaded: (u64, u64),
    /// The machine that the file is for.
    pub machine: Machine,
}

/// Finds a variable of a 64-bit program or library. `None` when it has none of this name.
///
/// # Errors
///
/// Those of [`super::Image::open`].
pub fn variable(path: &Path, name: &str) -> Result<Option<Variable>, ElfError> {
    let file = open_ordinary(path)?;
    let source = Source::file(&file).map_err(|reason| ElfError::Unreadable {
        path: path.to_path_buf(),
        reason,
    })?;
    Ok(in_layout(&Layout::parse(path, source)?, name))
}

fn in_layout(layout: &Layout<'_>, name: &str) -> Option<Variable> {
    let loaded = layout.first_segment()?;
    let contents = |name| {
        let section = layout.sections(name).next()?;
        layout.contents(&section, LARGEST_TABLE)
    };
    [(".dynsym", ".dynstr"), (".symtab", ".strtab")]
        .into_iter()
        .find_map(|(symbols, names)| {
            let (symbols, names) = (contents(symbols)?, contents(names)?);
            let (address, size) = symbol(&symbols, &names, name, layout)?;
            Some(Variable {
                address,
                size,
                loaded,
                machine: layout.architecture.machine,
            })
        })
}

/// The address and the size of a symbol that is defined here.
fn symbol(symbols: &[u8], names: &[u8], name: &str, layout: &Layout<'_>) -> Option<(u64, u64)> {
    /// Bytes of an `Elf64_Sym`.
    const SYMBOL: usize = 24;
    if layout.architecture.address_size != 8 {
        return None;
    }
    symbols.chunks_exact(SYMBOL).find_map(|symbol| {
        let mut reader = Reader::new(symbol, layout.architecture);
        let at = usize::try_from(reader.u32()?).ok()?;
        let after = names.get(at..)?.strip_prefix(name.as_bytes())?;
        if after.first() != Some(&0) {
            return None;
        }
        // What kind it is, and how visible; then the section, 0 where it is defined elsewhere.
        reader.skip(2);
        if reader.take(2)? == [0, 0] {
            return None;
        }
        Some((reader.address()?, reader.address()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_found_by_its_name_and_nothing_else() {
        // The running test has the C library's `environ` of the loader, or none; the library itself has it for certain.
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let library = maps
            .lines()
            .filter_map(|line| line.split_whitespace().nth(5))
            .find(|path| path.contains("/libc.so") || path.contains("/libc-"))
            .expect("the C library");
        let found = variable(Path::new(library), "environ").expect("readable");
        assert_eq!(found.expect("it is there").size, 8);
        assert_eq!(
            variable(Path::new(library), "environ_").expect("readable"),
            None
        );
    }
}
