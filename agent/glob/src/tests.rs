//! Patterns against tables, against a reference that goes through everything, against regular expressions, and what is
//! refused.

extern crate std;

use std::borrow::ToOwned;
use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use crate::{Glob, lower};

fn glob(pattern: &str) -> Glob {
    Glob::new(pattern).expect("a pattern")
}

fn module(pattern: &str) -> Glob {
    Glob::module(pattern).expect("a pattern")
}

#[test]
fn a_glob_covers_the_whole_name() {
    for (pattern, name, expected) in [
        ("work", "work", true),
        ("work", "worker", false),
        ("work", "a work", false),
        ("*", "", true),
        ("*", "any/thing.py", true),
        ("?", "", false),
        ("wor?", "work", true),
        ("/srv/*/api.py", "/srv/a/b/api.py", true),
        ("*_handler", "on_handler_handler", true),
        ("a*b*c", "abcbc", true),
        ("a*b*c", "abcb", false),
        ("[abc]x", "bx", true),
        ("[!a-c]x", "bx", false),
        ("[^a-c]x", "dx", true),
        ("[]a]", "]", true),
        ("[!]a]", "]", false),
        ("[a-]", "-", true),
        ("[a\\-c]", "b", false),
        ("[\\]]", "]", true),
        ("\\*", "*", true),
        ("\\*", "a", false),
        ("\\[a\\]", "[a]", true),
        ("<lambda>", "<lambda>", true),
        ("grüß*", "grüßen", true),
        ("gr?ß", "grüß", false),
        ("gr??ß", "grüß", true),
        ("a.b", "axb", false),
    ] {
        assert_eq!(
            glob(pattern).matches(name.as_bytes()),
            expected,
            "{pattern} {name}"
        );
    }
    assert!(
        glob("a*z").matches(b"a\xff\n\x01z"),
        "bytes that are not UTF-8"
    );
}

#[test]
fn a_module_pattern_matches_the_files_that_the_module_can_have() {
    for (pattern, name, expected) in [
        ("os.path", "/usr/lib/os/path.py", true),
        ("os.path", "os/path.py", true),
        ("os.path", "os/path/__init__.py", true),
        ("os.path", "/x/os/path/__init__.py", true),
        ("os.path", "/x/os/path/y.py", false),
        ("os.path", "/x/dos/path.py", false),
        ("os.path", "/x/os.path.py", false),
        ("os.path", "<frozen os.path>", true),
        ("json", "/usr/lib/python3.11/json/__init__.py", true),
        ("json", "/usr/lib/python3.11/json/decoder.py", false),
        (
            "nova.compute.*",
            "/usr/lib/python3/dist-packages/nova/compute/manager.py",
            true,
        ),
        (
            "nova.compute.*",
            "/srv/nova/compute/monitors/cpu/base.py",
            true,
        ),
        ("nova.compute.*", "/srv/nova/compute/__init__.py", true),
        ("nova.compute.*", "/srv/nova/compute.py", false),
        ("nova.compute.*", "/srv/nova/computer/x.py", false),
        ("nova.compute.*", "nova/compute/x.py", true),
        ("importlib.*", "<frozen importlib._bootstrap>", true),
        ("importlib.*", "<frozen importlib>", true),
        ("importlib.*", "<frozen importlibx>", false),
        (
            "importlib._bootstrap",
            "<frozen importlib._bootstrap>",
            true,
        ),
        ("*.tests", "/srv/nova/tests.py", true),
        ("*.tests", "/srv/nova/tests/__init__.py", true),
        ("*.tests", "nova/tests.py", true),
        ("*.tests", "tests.py", false),
        ("*.tests", "/srv/nova/tests/unit.py", false),
        ("nova.*.api", "/srv/nova/a/b/api.py", true),
        ("nova.v[12]", "/srv/nova/v2.py", true),
        ("nova[.]v2", "/srv/nova/v2.py", true),
        ("nova[!a]v2", "/srv/nova/v2.py", true),
        ("nova[!.]v2", "/srv/nova/v2.py", false),
        ("nova?v2", "/srv/nova/v2.py", true),
        ("a\\.b", "/srv/a.b.py", true),
        ("a\\.b", "/srv/a/b.py", false),
        ("[a.]\\.b.c", "/srv/a.b/c.py", true),
        ("*", "/srv/x.py", true),
        ("*", "<string>", false),
        ("*", "<frozen zipimport>", true),
    ] {
        assert_eq!(
            module(pattern).matches(name.as_bytes()),
            expected,
            "{pattern} {name}"
        );
    }
}

#[test]
fn a_wrong_pattern_is_refused_with_the_place_and_the_reason() {
    for (result, expected) in [
        (Glob::new(""), "is empty"),
        (Glob::new("ab[c"), "opens a bracket at column 3"),
        (Glob::new("é[]"), "opens a bracket at column 2"),
        (Glob::new("[a\\"), "opens a bracket at column 1"),
        (Glob::new("x[z-a]"), "backward range `z-a` at column 3"),
        (Glob::new("[aé]"), "'é' in brackets at column 3"),
        (Glob::new("a\\"), "ends with a backslash"),
        (Glob::new("a\0"), "NUL at column 2"),
        (Glob::new(&"x".repeat(511)), "511 bytes"),
        (Glob::module("a/b"), "slash at column 2"),
        (Glob::module("a..b"), "empty name at column 3"),
        (Glob::module(".a"), "empty name at column 1"),
        (Glob::module("a."), "empty name at column 2"),
    ] {
        let message = result.expect_err(expected).to_string();
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn only_a_pattern_without_wildcards_is_a_literal() {
    assert_eq!(glob("a\\*é").literal(), Some("a*é".as_bytes().to_vec()));
    assert_eq!(glob("a?").literal(), None);
    assert_eq!(module("a").literal(), None);
}

#[test]
fn case_does_not_matter_to_a_caseless_pattern() {
    for (pattern, name, expected) in [
        ("*Password*", "user_PASSWORD_2", true),
        ("token", "Tokens", false),
        ("[A-C]x", "bX", true),
        ("[!A]x", "Ax", false),
        ("[!A]x", "ax", false),
        ("[!A]x", "Bx", true),
        ("[Z-a]", "_", true),
        ("[Z-a]", "z", true),
        ("\\A", "a", true),
        ("ÄRGER*", "ärgernis", true),
        ("ΟΔΟΣ", "οδος", true),
        ("ΟΔΟΣ", "οδοσ", true),
    ] {
        let glob = Glob::caseless(pattern).expect("a pattern");
        let matches = glob.matches(lower(name).as_bytes());
        assert_eq!(matches, expected, "{pattern} {name}");
    }
}

/// What a pattern means, written down as plainly as possible: reads the pattern anew at every step, and tries whatever a
/// `*` can stand for. `None` where the pattern is wrong.
fn reference(pattern: &[u8], name: &[u8]) -> Option<bool> {
    match pattern {
        [] => Some(name.is_empty()),
        [b'*', pattern @ ..] => {
            let mut matches = false;
            for from in 0..=name.len() {
                matches |= reference(pattern, &name[from..])?;
            }
            Some(matches)
        }
        [b'\\'] => None,
        [b'\\', byte, pattern @ ..] => step(name, pattern, |it| it == *byte),
        [b'?', pattern @ ..] => step(name, pattern, |_| true),
        [b'[', inside @ ..] => {
            let negated = inside.first() == Some(&b'!');
            let mut rest = &inside[usize::from(negated)..];
            let mut members: Vec<(u8, bool)> = Vec::new();
            loop {
                match rest {
                    [b']', after @ ..] if !members.is_empty() => {
                        rest = after;
                        break;
                    }
                    [b'\\', byte, after @ ..] => {
                        members.push((*byte, true));
                        rest = after;
                    }
                    [] | [b'\\'] => return None,
                    [byte, after @ ..] => {
                        members.push((*byte, false));
                        rest = after;
                    }
                }
            }
            let mut wanted = Vec::new();
            let mut at = 0;
            while at < members.len() {
                if at + 2 < members.len() && members[at + 1] == (b'-', false) {
                    if members[at].0 > members[at + 2].0 {
                        return None;
                    }
                    wanted.extend(members[at].0..=members[at + 2].0);
                    at += 3;
                } else {
                    wanted.push(members[at].0);
                    at += 1;
                }
            }
            step(name, rest, |it| wanted.contains(&it) != negated)
        }
        [byte, pattern @ ..] => step(name, pattern, |it| it == *byte),
    }
}

/// One byte of the name, and the rest. The rest of the pattern is read in any case, for it may be wrong.
fn step(name: &[u8], pattern: &[u8], is_right: impl Fn(u8) -> bool) -> Option<bool> {
    match name {
        [byte, name @ ..] => Some(reference(pattern, name)? && is_right(*byte)),
        [] => reference(pattern, name).map(|_| false),
    }
}

/// All texts over some characters of up to so many.
fn texts(alphabet: &str, longest: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut from = 0;
    for _ in 0..longest {
        let to = all.len();
        for at in from..to {
            for character in alphabet.chars() {
                let longer = format!("{}{character}", all[at]);
                all.push(longer);
            }
        }
        from = to;
    }
    all
}

#[test]
fn every_short_pattern_matches_every_short_name_as_the_reference_does() {
    let names = texts("a]-", 3);
    let mut valid = 0;
    for pattern in texts("ab*?[]!-\\", 5).iter().skip(1) {
        let ours = Glob::new(pattern).ok();
        for name in &names {
            let ours = ours.as_ref().map(|glob| glob.matches(name.as_bytes()));
            let expected = reference(pattern.as_bytes(), name.as_bytes());
            assert_eq!(ours, expected, "{pattern} {name}");
        }
        valid += usize::from(ours.is_some());
    }
    assert!(valid > 30_000, "{valid}");
}

/// One piece of a pattern: as a glob, and as a byte-wise regular expression made without the code under test.
fn piece() -> impl Strategy<Value = (String, String)> {
    let character = prop_oneof![
        proptest::char::range('a', 'd'),
        proptest::sample::select(vec![
            '.', '/', '*', '?', '[', ']', '\\', '^', '$', '(', '|', '-', '!', '"', '\n', '\u{7f}'
        ]),
        proptest::sample::select(vec!['é', '→', '😀']),
    ];
    let single = proptest::char::range('a', 'z');
    prop_oneof![
        4 => character.prop_map(|c| {
            let glob = if c.is_ascii_alphabetic() || !c.is_ascii() { c.to_string() } else { format!("\\{c}") };
            (glob, regex::escape(&c.to_string()))
        }),
        2 => Just(("*".to_owned(), "(?s-u:.*)".to_owned())),
        1 => Just(("?".to_owned(), "(?s-u:.)".to_owned())),
        1 => (single.clone(), single, any::<bool>()).prop_map(|(a, b, negated)| {
            let (low, high) = (a.min(b), a.max(b));
            let glob = if negated { "!" } else { "" };
            let regex = if negated { "^" } else { "" };
            (format!("[{glob}{low}-{high}_\\]]"), format!("(?-u:[{regex}{low}-{high}_\\]])"))
        }),
    ]
}

proptest! {
    #[test]
    fn a_glob_matches_what_an_independent_regular_expression_matches(
        pieces in proptest::collection::vec(piece(), 1..8),
        name in proptest::collection::vec(
            prop_oneof![proptest::sample::select(b"abcd./*?[]\\^$(|-!\"\n_".to_vec()), any::<u8>()], 0..12),
    ) {
        let pattern: String = pieces.iter().map(|(glob, _)| glob.as_str()).collect();
        let equivalent: String = pieces.iter().map(|(_, regex)| regex.as_str()).collect();
        let equivalent = regex::bytes::Regex::new(&format!("\\A(?:{equivalent})\\z")).expect("valid");
        prop_assert_eq!(glob(&pattern).matches(&name), equivalent.is_match(&name), "{} {:?}", pattern, name);
    }

    #[test]
    fn no_pattern_makes_the_parser_panic(pattern in "\\PC{0,20}|[\\[\\]a\\-!^*?.\\\\]{0,12}", name in "[a-z./]{0,10}") {
        let parsed = [Glob::new(&pattern), Glob::caseless(&pattern), Glob::module(&pattern)];
        for parsed in parsed.into_iter().flatten() {
            let _ = parsed.matches(name.as_bytes());
        }
    }
}
