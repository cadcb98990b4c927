//! A flame graph of lines of folded stacks.

use std::io::{self, Write};

use inferno::flamegraph::{self, Options};

/// Pixels across.
const WIDTH: usize = 1200;

/// What is written above a flame graph, and what is left out of it.
#[derive(Debug, Clone)]
pub(crate) struct Caption {
    /// What it shows.
    pub(crate) title: &'static str,
    /// Of whom.
    pub(crate) subtitle: Option<String>,
    /// Nothing narrower than so many percent is drawn.
    pub(crate) min_width: f64,
}

/// Draws lines as [`folded`] makes them: an SVG to look at in a browser, where it can be zoomed and searched.
///
/// # Errors
/// `InvalidData` where there are none; those of the output.
pub(crate) fn draw(lines: &[String], caption: Caption, output: &mut dyn Write) -> io::Result<()> {
    let mut options = Options::default();
    options.title = caption.title.to_owned();
    options.subtitle = caption.subtitle;
    options.count_name = "µs".to_owned();
    options.factor = 0.001;
    options.deterministic = true;
    // Drawn to be read without scripts, too: in a page, in a mail.
    options.image_width = Some(WIDTH);
    options.min_width = caption.min_width;
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), output)
}

/// A line: `frame;frame;frame NANOSECONDS`, outermost first.
pub(crate) fn folded(frames: impl Iterator<Item = String>, nanoseconds: u64) -> String {
    let mut line = String::new();
    for frame in frames {
        if !line.is_empty() {
            line.push(';');
        }
        line.push_str(&separable(frame));
    }
    format!("{line} {nanoseconds}")
}

/// Semicolons separate frames, so that a name shows its own as [`crate::text::Foreign`] does.
pub(super) fn separable(name: String) -> String {
    name.replace(';', "\\u{3b}")
}
