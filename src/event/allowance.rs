//! What the names of a traced program may take of our memory. A program can make names for ever; whoever gives them out
//! asks here first, and when too many are in use at once, the next one is told as [`Text::left_out`] until others are
//! forgotten: one marked name, never a wrong one.
//!
//! What counts is how long names live, not who keeps them: rows of tables, open calls and caches share one name, and
//! that name counts once, from when it is made until nobody has it any longer.

use std::sync::{Arc, Weak};

use super::{Place, Text};

/// Bytes of all names of one source of events that are in use at once.
pub const ALL_NAMES: usize = 48 << 20;

/// What an entry costs beside the bytes of its strings: counts, the entry itself, and what an allocator adds.
const OVERHEAD: usize = 64;

/// So many entries at least are there before those of names that nobody has are struck out: until then each keeps its name's memory,
/// but for the bytes of its strings.
const FEW: usize = 1 << 10;

/// Gives out names as long as there is room for them.
#[derive(Debug)]
pub struct Allowance {
    budget: usize,
    /// Bytes of everything in the lists.
    bytes: usize,
    places: Vec<(Weak<Place>, usize)>,
    texts: Vec<(Weak<Text>, usize)>,
    /// So many names are left out before it is looked again which ones are still in use: looking costs a step a name.
    patience: usize,
    /// It is looked also when there are so many entries, twice as many as were in use the last time: a step a name again.
    due: usize,
    left_out: (Arc<Place>, Arc<Text>),
}

impl Default for Allowance {
    fn default() -> Allowance {
        Allowance::of(ALL_NAMES)
    }
}

impl Allowance {
    /// An allowance of so many bytes.
    pub fn of(budget: usize) -> Allowance {
        Allowance {
            budget,
            bytes: 0,
            places: Vec::new(),
            texts: Vec::new(),
            patience: 0,
            due: FEW,
            left_out: (Arc::new(Place::left_out()), Arc::new(Text::left_out())),
        }
    }

    /// The place, or the one that stands for all that there is no room for.
    pub fn place(&mut self, place: Place) -> Arc<Place> {
        let bytes = place_bytes(&place);
        if !self.has_room(bytes) {
            return Arc::clone(&self.left_out.0);
        }
        let place = Arc::new(place);
        self.places.push((Arc::downgrade(&place), bytes));
        place
    }

    /// The text, or the one that stands for all that there is no room for.
    pub fn text(&mut self, text: Text) -> Arc<Text> {
        let bytes = text_bytes(&text);
        if !self.has_room(bytes) {
            return Arc::clone(&self.left_out.1);
        }
        let text = Arc::new(text);
        self.texts.push((Arc::downgrade(&text), bytes));
        text
    }

    /// Bytes of the names that were given out and, as far as was looked, are still in use.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        if self.bytes.saturating_add(bytes) > self.budget {
            match self.patience.checked_sub(1) {
                Some(left) => self.patience = left,
                None => self.look(),
            }
        }
        if self.places.len() + self.texts.len() >= self.due {
            self.look();
        }
        let fits = self.bytes.saturating_add(bytes) <= self.budget;
        if fits {
            self.bytes += bytes;
        }
        fits
    }

    /// Strikes out what nobody has any longer.
    fn look(&mut self) {
        self.places.retain(|(place, _)| place.strong_count() > 0);
        self.texts.retain(|(text, _)| text.strong_count() > 0);
        self.due = FEW.max(2 * (self.places.len() + self.texts.len()));
        let places = self.places.iter().map(|(_, bytes)| bytes);
        self.bytes = places
            .chain(self.texts.iter().map(|(_, bytes)| bytes))
            .sum();
        // Where that made room, it is long until the next look anyway.
        self.patience = match self.bytes > self.budget - self.budget / 8 {
            true => (self.places.len() + self.texts.len()) / 4,
            false => 0,
        };
    }
}

/// Bytes of a place in memory, its strings included.
pub fn place_bytes(place: &Place) -> usize {
    let qualname = place.qualname.as_ref().map_or(0, |name| name.text.len());
    let strings = place.file.text.len() + place.function.text.len() + qualname;
    size_of::<Place>() + OVERHEAD + strings
}

/// Bytes of a text in memory.
pub fn text_bytes(text: &Text) -> usize {
    size_of::<Text>() + OVERHEAD + text.text.len()
}

/// Cuts a name that is longer than so many bytes, at a character, and marks it with dots.
pub fn shorten(name: &mut String, most: usize) {
    if name.len() > most {
        let ends = (0..=most).rev().find(|&end| name.is_char_boundary(end));
        name.truncate(ends.unwrap_or(0));
        name.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Place {
        let text = |text: &str| Text {
            text: text.to_owned(),
            ..Text::default()
        };
        Place {
            file: text("app.py"),
            function: text(name),
            qualname: None,
            group: None,
        }
    }

    #[test]
    fn names_in_use_never_take_more_than_the_allowance_and_those_beyond_are_marked() {
        let mut allowance = Allowance::of(100 * place_bytes(&named("f00")));
        let kept: Vec<_> = (0..1_000)
            .map(|number| allowance.place(named(&format!("f{:02}", number % 100))))
            .collect();
        let (named, marked): (Vec<_>, Vec<_>) = kept.iter().partition(|it| !it.is_left_out());
        assert_eq!((named.len(), marked.len()), (100, 900));
        assert_eq!(named[7].function.text, "f07");
        assert!(allowance.bytes() <= 100 * place_bytes(named[0]));
        let one = marked[0];
        assert!(
            marked.iter().all(|it| Arc::ptr_eq(it, one)),
            "one name for all of them"
        );
    }

    #[test]
    fn names_that_nobody_has_any_longer_make_room_for_ever_new_ones() {
        let mut allowance = Allowance::of(10_000);
        for number in 0..100_000 {
            assert!(!allowance.place(named(&number.to_string())).is_left_out());
            let text = Text {
                text: number.to_string(),
                ..Text::default()
            };
            assert!(!allowance.text(text).is_left_out());
            assert!(allowance.bytes() <= 10_000 && allowance.places.len() < 1_000);
        }
    }

    #[test]
    fn names_of_processes_that_come_and_go_for_weeks_leave_no_entries() {
        let mut allowance = Allowance::default();
        for worker in 0..2_000 {
            // Every process has names of its own, until it ends.
            let names: Vec<_> = (0..200)
                .map(|number| allowance.place(named(&format!("f{worker}_{number}"))))
                .collect();
            assert!(names.iter().all(|it| !it.is_left_out()));
            let entries = allowance.places.len();
            assert!(entries <= FEW, "{entries} after {worker} processes");
        }
        // Of names in use each has one, and to look for the others costs as much as to make them.
        let kept: Vec<_> = (0..10_000)
            .map(|number| allowance.place(named(&number.to_string())))
            .collect();
        assert!(allowance.places.len() >= kept.len());
        assert!(allowance.due > kept.len());
    }

    #[test]
    fn as_long_as_there_is_room_no_name_is_left_out_however_many_come_and_go() {
        let mut allowance = Allowance::of(100 * place_bytes(&named("f00000")));
        let _kept: Vec<_> = (0..80)
            .map(|number| allowance.place(named(&format!("g{number:05}"))))
            .collect();
        for number in 0..100_000 {
            let place = allowance.place(named(&format!("f{number:05}")));
            assert!(!place.is_left_out(), "{number}");
        }
    }

    #[test]
    fn a_name_is_cut_at_a_character_only_where_it_is_too_long() {
        for (name, expected) in [
            ("abcd", "abcd"),
            ("abcde", "abcd..."),
            ("abcä", "abc..."),
            ("", ""),
        ] {
            let mut cut = name.to_owned();
            shorten(&mut cut, 4);
            assert_eq!(cut, expected);
        }
    }

    #[test]
    fn room_is_found_again_once_names_are_forgotten() {
        let mut allowance = Allowance::of(10 * place_bytes(&named("f0")));
        let mut kept: Vec<_> = (0..10)
            .map(|it| allowance.place(named(&format!("f{it}"))))
            .collect();
        assert!(allowance.place(named("g0")).is_left_out());
        kept.truncate(5);
        let again: Vec<_> = (0..10)
            .map(|it| allowance.place(named(&format!("g{it}"))))
            .collect();
        assert!(again.iter().filter(|it| !it.is_left_out()).count() >= 5);
        let nothing_fits = Text {
            text: "x".repeat(1 << 20),
            ..Text::default()
        };
        assert!(allowance.text(nothing_fits).is_left_out());
    }
}
