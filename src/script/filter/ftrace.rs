//! Globs in the grammar of the kernel's event filters (`~`, lib/glob.c): `*`, `?`, brackets and backslashes, over bytes.

use pystap_glob::{ByteSet, Glob, Token};

/// Longest value in a filter, its end included (`MAX_FILTER_STR_VAL`).
const LONGEST: usize = 256;

/// A glob for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FtraceGlob {
    /// One value per alternative of the pattern, quotes included; a name matches when one of them does.
    pub values: Vec<Vec<u8>>,
    /// Whether they match nothing else than what the glob matches. If not, they match more.
    pub exact: bool,
}

/// The pattern as values for the `~` of an event filter; `None` if it is too long for one.
pub fn ftrace_glob(glob: &Glob) -> Option<FtraceGlob> {
    let mut exact = true;
    let values = glob
        .alternatives()
        .map(|tokens| {
            let value = value(tokens, &mut exact);
            (value.len() < LONGEST).then_some(value)
        })
        .collect::<Option<Vec<_>>>()?;
    Some(FtraceGlob { values, exact })
}

fn value(tokens: &[Token], exact: &mut bool) -> Vec<u8> {
    // Both kinds of quotes are quotes to the kernel, and nothing escapes one inside its own kind.
    let has = |quote: u8| tokens.contains(&Token::Byte(quote));
    let quote = if has(b'"') && !has(b'\'') {
        b'\''
    } else {
        b'"'
    };
    let mut text = vec![quote];
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Many => text.push(b'*'),
            Token::Any => text.push(b'?'),
            Token::Byte(byte) if *byte == quote => {
                *exact = false;
                text.push(b'?');
            }
            Token::Byte(byte) => {
                // The kernel looks at the first byte for other meanings (`!`, digits), unless it is escaped.
                if at == 0 || b"*?[\\".contains(byte) {
                    text.push(b'\\');
                }
                text.push(*byte);
            }
            Token::One(set) => match class(**set, quote) {
                Some(class) => text.extend(class),
                None => {
                    *exact = false;
                    text.push(b'?');
                }
            },
        }
    }
    text.push(quote);
    text
}

/// A set in brackets; `None` where it has no byte or all that a name can have, and where one of the ends of its ranges means something else there.
fn class(set: ByteSet, quote: u8) -> Option<Vec<u8>> {
    let mut ranges: Vec<(u8, u8)> = Vec::new();
    // A name has no NUL.
    for byte in (1..=u8::MAX).filter(|byte| set.contains(*byte)) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == byte => *last = byte,
            _ => ranges.push((byte, byte)),
        }
    }
    let special = |byte: u8| b"]!^-".contains(&byte) || byte == quote;
    if ranges.is_empty()
        || ranges == [(1, u8::MAX)]
        || ranges
            .iter()
            .any(|(first, last)| special(*first) || special(*last))
    {
        return None;
    }
    let mut text = vec![b'['];
    for (first, last) in ranges {
        text.push(first);
        if last > first {
            text.extend([b'-', last]);
        }
    }
    text.push(b']');
    Some(text)
}
