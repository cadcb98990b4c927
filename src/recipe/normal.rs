//! Values made alike, so that what differs only in literals is one group.
//!
//! Literals can be secrets, so none is ever left: where it cannot be told what is one, the rest is left out.

use serde::Deserialize;
use sqlparser::dialect::GenericDialect;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

/// How a value is made like others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Normal {
    /// A statement: literals and parameters are `?`, lists of them one, white space and comments one blank.
    Sql,
    /// The path of a URL: parts that are numbers or ids are `*`.
    Path,
}

/// What stands for what is left out.
const REST: &str = " \u{2026}";

impl Normal {
    /// The same for everything that is alike. `is_cut` where it is the beginning of more.
    pub(super) fn apply(self, text: &str, is_cut: bool) -> String {
        match self {
            Normal::Sql => sql(text, is_cut),
            Normal::Path => path(text),
        }
    }
}

fn path(text: &str) -> String {
    let is_id = |part: &str| {
        let digits = |part: &str| part.bytes().all(|it| it.is_ascii_digit());
        let hex = |it: u8| it.is_ascii_hexdigit() || it == b'-';
        // Names of things are not that long without another letter; ids of databases and requests are.
        !part.is_empty() && (digits(part) || (part.len() >= 16 && part.bytes().all(hex)))
    };
    let parts = text.split('/');
    let parts = parts.map(|part| if is_id(part) { "*" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

fn sql(text: &str, is_cut: bool) -> String {
    // Whether a backslash takes a quote its meaning depends on the database, and with it what is in quotes from there on.
    let (text, is_doubtful) = match text.find("\\'").or_else(|| text.find("\\\"")) {
        Some(at) => (text.get(..at).unwrap_or_default(), true),
        None => (text, false),
    };
    let mut tokens = Vec::new();
    let ended = Tokenizer::new(&GenericDialect, text).tokenize_with_location_into_buf(&mut tokens);
    if is_cut && ended.is_ok() {
        // Of a number or name it may be the beginning.
        tokens.pop();
    }
    let words = words(&tokens);
    let mut out = String::new();
    for (at, word) in collapsed(&words).iter().enumerate() {
        if at > 0 && word.apart {
            out.push(' ');
        }
        out.push_str(&word.text);
    }
    if is_cut || is_doubtful || ended.is_err() {
        out.push_str(REST);
    }
    out
}

/// A part of a statement, and whether white space stands before it.
#[derive(Debug, Clone, PartialEq)]
struct Word {
    text: String,
    apart: bool,
}

/// The parts of a statement, with `?` for each literal and parameter.
fn words(tokens: &[TokenWithSpan]) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut apart = false;
    // From here on a list in double quotes has values and no names.
    let mut has_values = false;
    let mut rest = tokens.iter().map(|it| &it.token).peekable();
    let mut taken = 0;
    while let Some(token) = rest.next() {
        taken += 1;
        let following = |count: usize| tokens.get(taken..taken + count);
        let mut skip = 0;
        let text = match token {
            Token::Whitespace(_) => {
                apart = true;
                continue;
            }
            Token::EOF => continue,
            Token::Word(word) => {
                has_values |= ["VALUES", "IN"]
                    .iter()
                    .any(|it| word.value.eq_ignore_ascii_case(it));
                let before = words.last().map_or("", |it| it.text.as_str());
                let next = following(1).and_then(<[_]>::first).map(|it| &it.token);
                let is_compared = ["=", "<", ">", "<=", ">=", "<>", "!="].contains(&before)
                    || before.eq_ignore_ascii_case("LIKE")
                    || (has_values && ["(", ","].contains(&before));
                // MySQL has strings in double quotes, others have names.
                match word.quote_style == Some('"') && is_compared && next != Some(&Token::Period) {
                    true => "?".to_owned(),
                    false => word.to_string(),
                }
            }
            Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::TripleSingleQuotedString(_)
            | Token::TripleDoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::DoubleQuotedByteStringLiteral(_)
            | Token::TripleSingleQuotedByteStringLiteral(_)
            | Token::TripleDoubleQuotedByteStringLiteral(_)
            | Token::SingleQuotedRawStringLiteral(_)
            | Token::DoubleQuotedRawStringLiteral(_)
            | Token::TripleSingleQuotedRawStringLiteral(_)
            | Token::TripleDoubleQuotedRawStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::QuoteDelimitedStringLiteral(_)
            | Token::NationalQuoteDelimitedStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::Placeholder(_) => "?".to_owned(),
            // `%s`, `%(name)s` and `:name`.
            Token::Mod if following(1).is_some_and(|it| is_words(it, &["s"])) => {
                skip = 1;
                "?".to_owned()
            }
            Token::Mod if following(4).is_some_and(|it| is_words(it, &["(", "", ")", "s"])) => {
                skip = 4;
                "?".to_owned()
            }
            Token::Colon if following(1).is_some_and(|it| is_words(it, &[""])) => {
                skip = 1;
                "?".to_owned()
            }
            other => other.to_string(),
        };
        for _ in 0..skip {
            taken += usize::from(rest.next().is_some());
        }
        words.push(Word { text, apart });
        apart = false;
    }
    while words.last().is_some_and(|word| word.text == ";") {
        words.pop();
    }
    words
}

/// Whether tokens are these, where `""` is any name.
fn is_words(tokens: &[TokenWithSpan], wanted: &[&str]) -> bool {
    tokens.len() == wanted.len()
        && tokens
            .iter()
            .zip(wanted)
            .all(|(token, wanted)| match &token.token {
                Token::Word(word) => wanted.is_empty() || word.value == *wanted,
                Token::LParen => *wanted == "(",
                Token::RParen => *wanted == ")",
                _ => false,
            })
}

/// The same with `(?)` for each list of `?` after IN and VALUES, and one for several such lists.
fn collapsed(words: &[Word]) -> Vec<Word> {
    let mut out: Vec<Word> = Vec::new();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        out.push(word.clone());
        at += 1;
        let is_list_next = ["IN", "VALUES"]
            .iter()
            .any(|it| word.text.eq_ignore_ascii_case(it));
        if !is_list_next {
            continue;
        }
        let Some(length) = list_of_values(words.get(at..).unwrap_or_default()) else {
            continue;
        };
        for text in ["(", "?", ")"] {
            let apart = text == "(";
            out.push(Word {
                text: text.to_owned(),
                apart,
            });
        }
        at += length;
        while words.get(at).is_some_and(|it| it.text == ",")
            && let Some(length) = list_of_values(words.get(at + 1..).unwrap_or_default())
        {
            at += 1 + length;
        }
    }
    out
}

/// How many words the list of `?` has with which these begin, if they begin with one.
fn list_of_values(words: &[Word]) -> Option<usize> {
    (words.first()?.text == "(").then_some(())?;
    let end = words.iter().position(|it| it.text == ")")?;
    let inside = words.get(1..end)?;
    let is_list = !inside.is_empty()
        && inside
            .iter()
            .enumerate()
            .all(|(at, word)| word.text == if at % 2 == 0 { "?" } else { "," });
    (is_list && inside.len() % 2 == 1).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_differ_in_literals_alone_are_one() {
        for (text, expected) in [
            (
                "SELECT  a.id,\n\t\"b\".\"x\" FROM a -- why\nWHERE a.name = 'it''s secret' AND n > -1.5e3 LIMIT 10;",
                "SELECT a.id, \"b\".\"x\" FROM a WHERE a.name = ? AND n > -? LIMIT ?",
            ),
            ("SELECT /* trace=1 */ 1", "SELECT ?"),
            (
                "SELECT 1 FROM t WHERE id IN (%(id_1_1)s, %(id_1_2)s) AND x=%s AND y = :y AND z = $1 AND a::int = ?",
                "SELECT ? FROM t WHERE id IN (?) AND x=? AND y = ? AND z = ? AND a::int = ?",
            ),
            (
                "INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y'),(?, ?) RETURNING id",
                "INSERT INTO t (a, b) VALUES (?) RETURNING id",
            ),
            (
                "insert into `t` values (\"secret\", 0x1F)",
                "insert into `t` values (?)",
            ),
            (
                "SELECT f(?, ?) FROM t WHERE a IN (SELECT 1) AND p = \"secret\"",
                "SELECT f(?, ?) FROM t WHERE a IN (SELECT ?) AND p = ?",
            ),
            (
                "SELECT $tag$secret$tag$, E'a', N'b', X'ff'",
                "SELECT ?, ?, ?, ?",
            ),
            ("", ""),
        ] {
            assert_eq!(sql(text, false), expected);
        }
    }

    #[test]
    fn where_it_cannot_be_told_what_is_a_literal_the_rest_is_left_out() {
        for (text, is_cut, expected) in [
            (
                "SELECT a FROM t WHERE b = 'the secret is",
                true,
                "SELECT a FROM t WHERE b = \u{2026}",
            ),
            (
                "SELECT a FROM t WHERE b = 12345",
                true,
                "SELECT a FROM t WHERE b = \u{2026}",
            ),
            ("SELECT 'x\\' secret', 'y'", false, "SELECT \u{2026}"),
            (
                "UPDATE t SET a = 'unclosed secret",
                false,
                "UPDATE t SET a = \u{2026}",
            ),
        ] {
            assert_eq!(sql(text, is_cut), expected, "{text}");
        }
    }

    #[test]
    fn parts_of_a_path_that_are_numbers_or_ids_are_one() {
        for (text, expected) in [
            ("/", "/"),
            ("/v2.1/servers/42/action", "/v2.1/servers/*/action"),
            ("/items/4bf92f35-77b3-4da6-a3ce-929d0e0e4736", "/items/*"),
            ("/items/4bf92f3577b34da6a3ce929d0e0e4736/", "/items/*/"),
            ("/feedface/deadbeef", "/feedface/deadbeef"),
        ] {
            assert_eq!(Normal::Path.apply(text, false), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_made_like_others_and_no_literal_is_left(
            before in "[a-zA-Z_.,() =<>*+%?:;\n-]{0,40}", secret in "hunter[0-9]{1,3}", after in "\\PC{0,40}",
        ) {
            for literal in [format!("'{secret}'"), format!("E'{secret}'"), format!("$x$ {secret} $x$")] {
                let text = format!("SELECT {} {literal} {after}", before.replace("--", ""));
                let made = sql(&text, false);
                proptest::prop_assert!(!made.contains("hunter"), "{} of {}", made, text);
            }
            sql(&after, true);
        }
    }
}
