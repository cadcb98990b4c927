//! Patterns over names, in pystap's language of globs (`src/script/filter.rs` has the definition), a little wider: a set
//! in brackets stands for any byte. Such a pattern must not be used to keep something out; [`Glob::is_exact`] tells.

use alloc::vec::Vec;

/// A part of a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Byte(u8),
    Any,
    Many,
}

/// A pattern: it matches what one of its alternatives matches.
pub(crate) struct Glob {
    alternatives: Vec<Vec<Token>>,
    exact: bool,
}

impl Glob {
    /// A pattern over function or file names. What is no pattern matches nothing.
    pub(crate) fn new(pattern: &str) -> Glob {
        let (tokens, exact) = parse(pattern, |byte| byte);
        Glob {
            alternatives: Vec::from([tokens]),
            exact,
        }
    }

    /// A pattern over dotted modules, for the names of their files: `a.b` is `a/b.py` or `a/b/__init__.py` at the end of
    /// the path, or `<frozen a.b>`.
    pub(crate) fn module(pattern: &str) -> Glob {
        let (path, exact) = parse(pattern, |byte| if byte == b'.' { b'/' } else { byte });
        let (dotted, _) = parse(pattern, |byte| byte);
        let mut alternatives = Vec::new();
        let mut add = |parts: &[&[Token]]| alternatives.push(parts.concat());
        let slash: &[Token] = &[Token::Many, Token::Byte(b'/')];
        let (file, package) = (bytes(b".py"), bytes(b"/__init__.py"));
        for prefix in [&[][..], slash] {
            for suffix in [&file, &package] {
                add(&[prefix, &path, suffix]);
            }
        }
        let (opening, closing) = (bytes(b"<frozen "), bytes(b">"));
        add(&[&opening, &dotted, &closing]);
        if let [package @ .., Token::Byte(b'.'), Token::Many] = dotted.as_slice() {
            add(&[&opening, package, &closing]);
        }
        Glob {
            alternatives,
            exact,
        }
    }

    /// Whether it means what pystap means by it.
    pub(crate) fn is_exact(&self) -> bool {
        self.exact
    }

    /// Whether it matches the whole of a name.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        self.alternatives.iter().any(|tokens| covers(tokens, name))
    }
}

fn bytes(text: &[u8]) -> Vec<Token> {
    text.iter().copied().map(Token::Byte).collect()
}

/// The tokens, with plain bytes changed by `plain`, and whether they say all that the pattern says. An escaped byte stays
/// as it is.
fn parse(pattern: &str, plain: fn(u8) -> u8) -> (Vec<Token>, bool) {
    let mut tokens = Vec::new();
    let mut exact = true;
    let mut rest = pattern.bytes();
    while let Some(byte) = rest.next() {
        tokens.push(match byte {
            b'*' => Token::Many,
            b'?' => Token::Any,
            b'\\' => rest.next().map_or(Token::Byte(b'\\'), Token::Byte),
            b'[' => {
                exact = false;
                skip_brackets(&mut rest);
                Token::Any
            }
            byte => Token::Byte(plain(byte)),
        });
    }
    (tokens, exact)
}

/// Reads up to the closing bracket. One that comes first is a member.
fn skip_brackets(rest: &mut core::str::Bytes<'_>) {
    let mut negated = false;
    let mut begun = false;
    while let Some(byte) = rest.next() {
        match byte {
            b'!' | b'^' if !begun && !negated => {
                negated = true;
                continue;
            }
            b']' if begun => return,
            b'\\' => {
                rest.next();
            }
            _ => {}
        }
        begun = true;
    }
}

/// Goes back to the last `*` only, which is enough, so the time is at most the product of both lengths.
fn covers(tokens: &[Token], name: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match (tokens.get(at), name.get(read)) {
            (None, None) => return true,
            (Some(Token::Many), _) => {
                at += 1;
                retry = Some((at, read));
                continue;
            }
            (Some(Token::Byte(wanted)), Some(byte)) => wanted == byte,
            (Some(Token::Any), Some(_)) => true,
            (None, Some(_)) | (Some(_), None) => false,
        };
        if step {
            (at, read) = (at + 1, read + 1);
            continue;
        }
        match retry {
            Some((after, from)) if from < name.len() => {
                retry = Some((after, from + 1));
                (at, read) = (after, from + 1);
            }
            _ => return false,
        }
    }
}
