//! Foreign text is one harmless line, distinct for every text, and can be decoded again; and the corpus of hostile text
//! that the tests of all outputs share.

use super::*;

/// The corpus in `tests/data/evil.json`: text and bytes that have broken terminals, parsers and readers.
#[derive(serde::Deserialize)]
pub(crate) struct Evil {
    pub(crate) text: Vec<String>,
    pub(crate) bytes: Vec<Vec<u8>>,
}

/// The corpus.
pub(crate) fn evil() -> Evil {
    serde_json::from_str(include_str!("../tests/data/evil.json")).expect("the corpus is JSON")
}

/// Decodes text that was shown.
fn turned_back(shown: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = shown;
    while let Some(character) = rest.chars().next() {
        if let Some(escape) = rest.strip_prefix("\\u{")
            && let Some((digits, after)) = escape.split_once('}')
        {
            let meant = u32::from_str_radix(digits, 16)
                .ok()
                .and_then(char::from_u32);
            bytes.extend_from_slice(
                meant
                    .expect("a character")
                    .encode_utf8(&mut [0; 4])
                    .as_bytes(),
            );
            rest = after;
        } else if let Some(escape) = rest.strip_prefix("\\x") {
            let (digits, after) = escape.split_at(2);
            bytes.push(u8::from_str_radix(digits, 16).expect("a byte"));
            rest = after;
        } else {
            bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = rest.get(character.len_utf8()..).unwrap_or_default();
        }
    }
    bytes
}

fn check(bytes: &[u8]) {
    let shown = Foreign::new(bytes).to_string();
    assert!(!shown.chars().any(obeyed), "{shown:?}");
    assert_eq!(turned_back(&shown), bytes, "{shown:?}");
    let shown = Foreign::new(bytes).without(';').to_string();
    assert!(!shown.contains(';'), "{shown:?}");
    assert_eq!(turned_back(&shown), bytes, "{shown:?}");
}

#[test]
fn evil_text_is_shown_harmless_and_can_be_turned_back() {
    let evil = evil();
    assert!(evil.text.len() > 50 && evil.bytes.len() > 10);
    for text in &evil.text {
        check(text.as_bytes());
        let shown = harmless(text);
        assert!(
            shown.chars().all(|it| it == '\n' || !obeyed(it)),
            "{shown:?}"
        );
        assert_eq!(shown.matches('\n').count(), text.matches('\n').count());
    }
    for bytes in &evil.bytes {
        check(bytes);
    }
}

#[test]
fn code_keeps_its_tabs_and_nothing_else_that_is_obeyed() {
    assert_eq!(
        harmless_code("\tif (x)\t\x1b[2J\n"),
        "\tif (x)\t\\u{1b}[2J\n"
    );
    for text in &evil().text {
        let shown = harmless_code(text);
        let stays = |it: char| matches!(it, '\n' | '\t') || !obeyed(it);
        assert!(shown.chars().all(stays), "{shown:?}");
    }
}

#[test]
fn plain_text_stays_as_it_is() {
    for text in [
        "plain",
        "C:\\temp \\n \\\\",
        "naïve café 中文 😀 \u{fffd}",
        "{\"a\": \"x\\u001b\"}",
    ] {
        assert_eq!(Foreign::new(text).to_string(), text);
        assert_eq!(harmless(text), text);
    }
    assert_eq!(Foreign::new("a;b").without(';').to_string(), "a\\u{3b}b");
    assert_eq!(Foreign::path(Path::new("/a\n")).to_string(), "/a\\u{a}");
    assert_eq!(Foreign::new(b"\\\xff").to_string(), "\\\\xff");
}

#[test]
fn json_gives_back_what_it_was_given_and_nothing_in_it_is_obeyed() {
    for text in evil().text {
        let value = serde_json::json!({ (text.as_str()): [text.as_str(), 1.5, null] });
        for json in [format!("{value}"), format!("{value:#}")] {
            let shown = harmless_json(&json);
            assert!(
                shown.chars().all(|it| it == '\n' || !obeyed(it)),
                "{shown:?}"
            );
            let read: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
            assert_eq!(read, value, "{shown:?}");
        }
    }
}

#[test]
fn every_ignorable_and_every_non_character_is_escaped() {
    for code in [
        0x0, 0x9, 0x1b, 0x7f, 0x80, 0x9b, 0x9f, 0xad, 0x61c, 0x115f, 0x200b, 0x200e, 0x202a,
        0x202e, 0x2028, 0x2029, 0x2066, 0x2069, 0x3164, 0xfdd0, 0xfe0f, 0xfeff, 0xfffe, 0xffff,
        0x1fffe, 0xe0001, 0xe01ef, 0x10ffff,
    ] {
        let character = char::from_u32(code).expect("a character");
        assert!(obeyed(character), "{code:x}");
    }
    for code in [0x20, 0x7e, 0xa0, 0xe9, 0x2027, 0x4e2d, 0xfffd, 0x1f600] {
        let character = char::from_u32(code).expect("a character");
        assert!(!obeyed(character), "{code:x}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_bytes_there_are_can_be_turned_back(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
        check(&bytes);
    }

    #[test]
    fn whatever_looks_like_an_escape_can_be_turned_back(text in r"(\\|u\{|x|[0-9a-f]|\}|;|\x1b){0,16}") {
        check(text.as_bytes());
    }
}
