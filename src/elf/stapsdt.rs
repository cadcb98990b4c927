//! SystemTap's notes (`.note.stapsdt`, format 3): one note per site. The section is in no segment, so it is found by name or
//! not at all.
//!
//! A description holds three addresses in the size and byte order of the file - of the probe, of `.stapsdt.base` as the
//! linker knew it, of the semaphore or 0 - and then three NUL-terminated strings: provider, name, arguments.

use std::collections::HashMap;

use super::layout::Layout;
use super::notes::{Note, notes};
use super::operand::parse_arguments;
use super::reader::Reader;
use super::{Mark, Semaphore, Site};

/// Note type of format 3, the only one in use since 2010.
const FORMAT_3: u32 = 3;
/// A semaphore is an unsigned short.
const SEMAPHORE_SIZE: u64 = 2;

// Bounds on what a file can make us store. CPython has about ten sites, the richest libraries a few thousand;
// `sys/sdt.h` writes at most twelve arguments.
const MOST_NOTES: usize = 1 << 14;
const MOST_ARGUMENTS: usize = 32;
const LONGEST_NAME: usize = 256;
const LONGEST_ARGUMENTS: usize = 4096;
const MOST_DAMAGED: usize = 32;
const LARGEST_SECTION: u64 = 4 << 20;

/// Every mark with its sites in the order of the notes, and one sentence for each note that could not be read.
pub(super) fn marks(layout: &Layout) -> (Vec<Mark>, Vec<String>) {
    // Only the first: linkers make one, and a file may list itself a thousand times under that name.
    let section = layout.sections(".note.stapsdt").next();
    let bytes = section
        .as_ref()
        .and_then(|section| layout.contents(section, LARGEST_SECTION));
    let mut found = Found::default();
    let base = layout.sections(".stapsdt.base").next();
    let base = base.map(|section| section.address);
    if let Some(section) = &section {
        match (&bytes, section.size) {
            (Some(bytes), _) => {
                let walk = notes(bytes, section.alignment, layout.architecture);
                for (index, note) in walk.enumerate() {
                    if index == MOST_NOTES {
                        found.damage(format!(
                            "there are more than {MOST_NOTES} SystemTap notes; those after are left out"
                        ));
                        break;
                    }
                    let (position, site) = match note {
                        Ok(note) => (note.position, site(&note, base, layout)),
                        Err(cut_off) => (cut_off.position, Err("reaches beyond its section")),
                    };
                    match site {
                        Ok((name, site)) => found.add(name, site),
                        Err(problem) => found.damage(format!(
                            "SystemTap note {} at file offset {:#x} {problem}; its mark is left out",
                            index + 1,
                            section.file_offset.saturating_add(position as u64),
                        )),
                    }
                }
            }
            (None, Some(size)) if size > LARGEST_SECTION => found.damage(format!(
                "the section of SystemTap notes has {size} bytes, more than the {LARGEST_SECTION} that are read; \
                 its marks are left out"
            )),
            (None, _) => found.damage(
                "the section of SystemTap notes is not in the file; its marks are left out".to_string(),
            ),
        }
    }
    found.finish()
}

/// Provider and name of a mark.
type Name<'a> = (&'a str, &'a str);

fn site<'a>(
    note: &Note<'a>,
    base: Option<u64>,
    layout: &Layout,
) -> Result<(Name<'a>, Site), &'static str> {
    if note.owner != b"stapsdt" || note.kind != FORMAT_3 {
        return Err("is not in SystemTap's format 3");
    }
    let mut reader = Reader::new(note.description, layout.architecture);
    let mut address = || reader.address().ok_or("ends within its addresses");
    let (place, linked_base, semaphore) = (address()?, address()?, address()?);
    let mut text = || {
        let bytes = reader.c_string().ok_or("ends within its strings")?;
        str::from_utf8(bytes).map_err(|_| "holds a string that is not UTF-8")
    };
    let (provider, name, arguments) = (text()?, text()?, text()?);
    if provider.is_empty() || name.is_empty() {
        return Err("has no name");
    }
    if provider.len() > LONGEST_NAME || name.len() > LONGEST_NAME {
        return Err("has a name of more than 256 bytes");
    }
    if arguments.len() > LONGEST_ARGUMENTS {
        return Err("has more than 4096 bytes of arguments");
    }
    let argument_list = parse_arguments(arguments, layout.architecture);
    if argument_list.len() > MOST_ARGUMENTS {
        return Err("has more than 32 arguments");
    }

    // prelink moves a file's addresses but cannot find those in an unloaded section; the shift shows in
    // `.stapsdt.base`, which exists to be moved along.
    let correct = |address: u64| match base {
        Some(base) => {
            let moved = address.wrapping_add(base.wrapping_sub(linked_base));
            match layout.architecture.address_size {
                4 => moved & u64::from(u32::MAX),
                _ => moved,
            }
        }
        None => address,
    };
    let place = correct(place);
    let site = Site {
        address: place,
        file_offset: layout.file_offset(place, 1),
        semaphore: (semaphore != 0).then(|| {
            let address = correct(semaphore);
            Semaphore {
                address,
                file_offset: layout.file_offset(address, SEMAPHORE_SIZE),
            }
        }),
        arguments: argument_list,
        argument_text: arguments.to_string(),
    };
    Ok(((provider, name), site))
}

/// Marks in the order of their first note.
#[derive(Default)]
struct Found<'a> {
    marks: Vec<Mark>,
    index: HashMap<Name<'a>, usize>,
    damaged: Vec<String>,
    damaged_unsaid: usize,
}

impl<'a> Found<'a> {
    fn add(&mut self, name: Name<'a>, site: Site) {
        let index = *self.index.entry(name).or_insert_with(|| {
            self.marks.push(Mark {
                provider: name.0.to_string(),
                name: name.1.to_string(),
                sites: Vec::new(),
            });
            self.marks.len() - 1
        });
        if let Some(mark) = self.marks.get_mut(index) {
            mark.sites.push(site);
        }
    }

    fn damage(&mut self, sentence: String) {
        if self.damaged.len() < MOST_DAMAGED {
            self.damaged.push(sentence);
        } else {
            self.damaged_unsaid += 1;
        }
    }

    fn finish(mut self) -> (Vec<Mark>, Vec<String>) {
        if self.damaged_unsaid > 0 {
            let sentence = format!("{} more SystemTap notes are damaged", self.damaged_unsaid);
            self.damaged.push(sentence);
        }
        (self.marks, self.damaged)
    }
}
