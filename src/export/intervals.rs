//! Intervals between the lines of a summary that is still growing, and how these are written.

use std::io::{self, Write};
use std::time::Duration;

use crate::text::{harmless, harmless_json};

/// Between two lines for people.
const FOR_PEOPLE: Duration = Duration::from_secs(2);
/// Rows between two headings.
const ROWS: u32 = 20;

/// Writes lines at once, with nothing in them that a terminal obeys.
pub(crate) fn write(output: &mut impl Write, text: &str, json: bool) -> io::Result<()> {
    let text = match json {
        true => harmless_json(text),
        false => harmless(text),
    };
    output.write_all(text.as_bytes())?;
    output.flush()
}

/// Says when a line is due. All times are nanoseconds since the Unix epoch.
#[derive(Debug)]
pub(crate) struct Intervals {
    /// `None` when no lines are wanted.
    length: Option<u64>,
    /// When the current one began.
    began: u64,
    rows: u32,
}

/// An interval that is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Its length in nanoseconds, as the clock has it.
    pub(crate) nanoseconds: u64,
    /// Whether the columns are to be named again.
    pub(crate) heading: bool,
}

impl Intervals {
    pub(crate) fn new(length: Option<Duration>) -> Intervals {
        Intervals {
            length: length.map(|it| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX)),
            began: 0,
            rows: 0,
        }
    }

    /// Intervals of this length; where none is given, those that people want, and none for programs.
    pub(crate) fn of(length: Option<Duration>, json: bool) -> Intervals {
        let by_default = (!json).then_some(FOR_PEOPLE);
        Intervals::new(length.or(by_default))
    }

    /// The first one begins.
    pub(crate) fn begin(&mut self, now: u64) {
        self.began = now;
    }

    /// The interval that is over, if one is; the next one begins then.
    pub(crate) fn passed(&mut self, now: u64) -> Option<Passed> {
        let length = self.length?;
        let Some(nanoseconds) = now.checked_sub(self.began) else {
            // The clock was set back.
            self.began = now;
            return None;
        };
        if nanoseconds < length {
            return None;
        }
        self.began = now;
        let heading = self.rows.is_multiple_of(ROWS);
        self.rows += 1;
        Some(Passed {
            nanoseconds,
            heading,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_passes_when_its_time_is_over_and_a_clock_that_steps_back_begins_it_anew() {
        let mut intervals = Intervals::new(Some(Duration::from_nanos(100)));
        intervals.begin(1_000);
        assert_eq!(intervals.passed(1_099), None);
        let first = intervals.passed(1_130).expect("over");
        assert_eq!(
            first,
            Passed {
                nanoseconds: 130,
                heading: true
            }
        );
        assert_eq!(intervals.passed(500), None);
        assert_eq!(intervals.passed(599), None);
        let second = intervals.passed(600).expect("over");
        assert_eq!((second.nanoseconds, second.heading), (100, false));
    }

    #[test]
    fn without_a_length_none_passes() {
        assert_eq!(Intervals::new(None).passed(u64::MAX), None);
    }
}
