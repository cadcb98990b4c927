//! What of a row fits on a terminal: columns of numbers, and the ends of names and paths.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Clear, Paragraph};

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

/// Words of a text in lines: the first of this width, and those after it.
pub(super) fn wrapped(text: &str, first: usize, rest: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut left = first;
    for word in text.split_whitespace() {
        let long = word.chars().count();
        match lines.last_mut() {
            Some(line) if line.is_empty() && long <= left => {
                line.push_str(word);
                left -= long;
            }
            Some(line) if long < left => {
                line.push(' ');
                line.push_str(word);
                left -= long + 1;
            }
            _ => {
                lines.push(word.to_owned());
                left = rest.saturating_sub(long);
            }
        }
    }
    lines
}

/// A line whose parts stand two blanks apart, as lines of this width: what does not fit is cut between parts and goes on below.
pub(super) fn parts(line: &str, wide: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in line.split("  ") {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 2 + part.chars().count() <= wide => {
                line.push_str("  ");
                line.push_str(part);
            }
            _ => lines.push(part.to_owned()),
        }
    }
    lines
}

/// Draws what keys do, or a message, which takes more lines where it needs them, at the bottom. The first line of the terminal
/// is the table's.
pub(super) fn draw_at_bottom(frame: &mut Frame<'_>, text: &str, is_message: bool) {
    let area = frame.area();
    if area.height < 2 {
        return;
    }
    let wide = usize::from(area.width);
    let mut lines = match is_message {
        true => wrapped(text, wide, wide),
        false => vec![text.to_owned()],
    };
    lines.truncate(usize::from(area.height / 3).max(1));
    let height = lines.len() as u16;
    let bottom = Rect {
        y: area.y + area.height - height,
        height,
        ..area
    };
    frame.render_widget(Clear, bottom);
    let lines: Vec<Line<'_>> = lines.into_iter().map(Line::raw).collect();
    frame.render_widget(Paragraph::new(lines), bottom);
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

    #[test]
    fn words_and_parts_that_do_not_fit_go_on_below() {
        assert_eq!(wrapped("one two three", 7, 20), ["one two", "three"]);
        assert_eq!(wrapped("one two three", 2, 7), ["", "one two", "three"]);
        let line = "1.0 s  12 greenlets and tasks, 7 of them looked at  torn 2";
        assert_eq!(parts(line, 80), [line]);
        assert_eq!(
            parts(line, 55),
            [
                "1.0 s  12 greenlets and tasks, 7 of them looked at",
                "torn 2"
            ]
        );
    }
}
