//! What commands print on standard output, in one way for all of them: whole, without waiting for ever for somebody who
//! does not read it, and, where it is for people, without anything that a terminal obeys.

use std::io::{self, IsTerminal, Write};

use anstream::ColorChoice;
use serde_json::Value;

use crate::export::Output;
use crate::session::stop;
use crate::text;

/// Prints text for people.
pub(super) fn page(page: &str) -> io::Result<()> {
    data(text::harmless(page).as_bytes())
}

/// Prints text for people that has colours, where they are wanted.
pub(super) fn coloured(page: &str, choice: ColorChoice) -> io::Result<()> {
    let page = text::harmless_but_coloured(page);
    match choice {
        ColorChoice::Never => data(anstream::adapter::strip_str(&page).to_string().as_bytes()),
        _ => data(page.as_bytes()),
    }
}

/// Prints text for people with source code in it, which they may want to copy.
pub(super) fn listing(text: &str) -> io::Result<()> {
    data(text::harmless_code(text).as_bytes())
}

/// Prints source code for programs that people look at, too: as it is, but harmless on a terminal.
pub(super) fn source(text: &str) -> io::Result<()> {
    match io::stdout().is_terminal() {
        true => listing(text),
        false => data(text.as_bytes()),
    }
}

/// Prints a value as JSON on one line.
pub(super) fn json(value: &Value) -> io::Result<()> {
    json_text(&format!("{value}\n"))
}

/// Prints what is JSON already.
pub(super) fn json_text(text: &str) -> io::Result<()> {
    data(text::harmless_json(text).as_bytes())
}

/// Prints what is known to be harmless, or is for programs alone.
pub(super) fn data(bytes: &[u8]) -> io::Result<()> {
    output()?.write_all(bytes)
}

/// Standard output, for what is printed piece by piece and harmless already.
pub(super) fn output() -> io::Result<Output> {
    Output::stdout(stop::give_up())
}
