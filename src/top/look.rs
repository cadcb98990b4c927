//! How a live table looks: which colours mean what, as far as the terminal has any.

use std::io;

use ratatui::style::{Color, Modifier, Style};

use super::help::Entry;

/// Percent of the time from which on a function is hot, and warm.
const HOT: f64 = 20.0;
const WARM: f64 = 5.0;

/// What a terminal can show. The default is the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Look {
    /// It has colours, and they are wanted (`NO_COLOR`).
    pub(crate) colours: bool,
    /// It has characters for bars.
    pub(crate) bars: bool,
}

impl Look {
    /// That of the terminal that standard output is.
    pub(crate) fn of_terminal() -> Look {
        let choice = anstream::AutoStream::choice(&io::stdout());
        Look {
            colours: choice != anstream::ColorChoice::Never,
            bars: is_utf8(|name| std::env::var(name).ok()),
        }
    }

    fn in_colour(self, colour: Color) -> Style {
        match self.colours {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    /// Of a share of the time, in percent.
    pub(crate) fn share(self, percent: f64) -> Style {
        match percent {
            _ if percent >= HOT => self.in_colour(Color::Red).add_modifier(Modifier::BOLD),
            _ if percent >= WARM => self.in_colour(Color::Yellow),
            _ => Style::new(),
        }
    }

    /// Of a function that has just begun to take time.
    pub(crate) fn newly_hot(self) -> Style {
        self.in_colour(Color::Magenta)
    }

    /// Of what waits for work.
    pub(crate) fn idle(self) -> Style {
        self.in_colour(Color::Blue)
    }

    /// Of a number that is an estimate, or a bound.
    pub(crate) fn estimate(self) -> Style {
        self.in_colour(Color::Cyan)
    }

    /// Of recent activity.
    pub(crate) fn activity(self) -> Style {
        self.in_colour(Color::Green)
    }

    /// What all of that means, for help.
    pub(crate) fn legend(self) -> Vec<Entry> {
        let mut legend = Vec::new();
        if self.bars {
            legend.push(Entry::new(
                "ACTIVITY",
                "time in the function itself, a bar for each of the last eight tables, beside its own longest",
            ));
        }
        if !self.colours {
            return legend;
        }
        let hot = format!("{HOT} % of the time and more are in the function itself");
        let warm = format!("{WARM} % and more");
        legend.extend([
            Entry::new("red", hot).styled(self.share(HOT)),
            Entry::new("yellow", warm).styled(self.share(WARM)),
            Entry::new(
                "magenta",
                "newly hot: it takes far more time than a moment ago",
            )
            .styled(self.newly_hot()),
            Entry::new(
                "blue",
                "idle: most of it is time in which threads wait for work",
            )
            .styled(self.idle()),
            Entry::new("cyan", "an estimate, or a bound").styled(self.estimate()),
        ]);
        legend
    }
}

/// Whether text is UTF-8 by the variables of the environment.
fn is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(variable)
        .find(|value| !value.is_empty());
    set.is_some_and(|value| {
        let value = value.to_lowercase();
        value.ends_with("utf-8") || value.ends_with("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_of_another_encoding_has_no_bars() {
        let with = |set: &'static [(&str, &str)]| {
            is_utf8(move |name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(with(&[("LANG", "de_DE.UTF-8")]));
        assert!(with(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8")]));
        assert!(!with(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]));
        assert!(!with(&[]));
    }

    #[test]
    fn without_colours_nothing_has_one_and_none_is_explained() {
        let look = Look::default();
        let styles = [look.share(90.0), look.newly_hot(), look.estimate()];
        assert!(styles.iter().all(|it| it.fg.is_none()));
        assert!(look.legend().is_empty());
        let all = Look {
            colours: true,
            bars: true,
        };
        assert_eq!(all.share(20.0).fg, Some(Color::Red));
        assert_eq!(all.share(19.9).fg, Some(Color::Yellow));
        assert_eq!(all.share(4.9).fg, None);
        assert_eq!(all.legend().len(), 6);
    }
}
