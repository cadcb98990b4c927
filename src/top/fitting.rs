//! What of a row fits on a terminal: columns of numbers, and the ends of names and paths.

use crate::text::{end_of, ending};

/// Room that functions and files have if they need it, as long as there are numbers to go without:
/// `…ManagerClass.some_method  …/manager.py:123`.
pub(crate) const NAMES: usize = 46;
/// Room that files have at least, where functions would take it.
const FILES: usize = 16;

/// The columns for which there is room: of `all`, each with its width, the `dispensable` ones go in their order until the rest
/// fits, but never one that is `kept`. Each takes a blank besides.
pub(crate) fn columns<C: Copy + PartialEq>(
    all: &[(C, usize)],
    dispensable: &[C],
    kept: impl Fn(C) -> bool,
    room: usize,
) -> Vec<(C, usize)> {
    let mut columns = all.to_vec();
    for goes in dispensable {
        let taken: usize = columns.iter().map(|(_, width)| width + 1).sum();
        if taken <= room {
            break;
        }
        columns.retain(|(column, _)| column != goes || kept(*column));
    }
    columns
}

/// Room that these names want, at most [`NAMES`] and at least as much as their heading.
pub(crate) fn names_room(names: impl Iterator<Item = (String, String)>, heading: &str) -> usize {
    let widths = names.map(|(function, file)| function.chars().count() + 2 + file.chars().count());
    NAMES.min(widths.max().unwrap_or(0)).max(heading.len())
}

/// As much of a function and its file as there is room for, with two blanks between them: their ends, which tell them apart.
pub(crate) fn names(function: &str, file: &str, room: usize) -> (String, String) {
    let for_file = match file.chars().count() {
        0 => 0,
        // Where there is hardly any room, both have some.
        long => (FILES.min(long) + 2).min(room / 2),
    };
    let function = end_of(function, room.saturating_sub(for_file));
    let file = ending(file, room.saturating_sub(function.chars().count() + 2));
    (function, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_go_in_their_order_until_the_rest_fits_and_the_kept_one_stays() {
        let all = [('a', 4), ('b', 4), ('c', 4)];
        let shown = |kept: char, room| -> String {
            let columns = columns(&all, &['c', 'a', 'b'], |it| it == kept, room);
            columns.into_iter().map(|(column, _)| column).collect()
        };
        assert_eq!(shown('-', 15), "abc");
        assert_eq!(shown('-', 14), "ab");
        assert_eq!(shown('-', 9), "b");
        assert_eq!(shown('c', 9), "c");
        assert_eq!(shown('c', 0), "c");
        assert_eq!(shown('-', 0), "");
    }

    #[test]
    fn of_names_the_ends_are_shown_and_files_have_some_room() {
        let shown = |room| names("Manager.object_action", "/srv/nova/manager.py:17", room);
        let of = |function: &str, file: &str| (function.to_owned(), file.to_owned());
        assert_eq!(
            shown(60),
            of("Manager.object_action", "/srv/nova/manager.py:17")
        );
        assert_eq!(shown(36), of("…ger.object_action", "…/manager.py:17"));
        assert_eq!(shown(16), of("…_action", ""));
        assert_eq!(names("f", "", 3), of("f", ""));
        assert_eq!(names("function", "", 4), of("…ion", ""));
    }
}
