//! What agents say in their own words. It comes from the traced process, which may say anything: so it is shortened
//! here, and whoever shows it says where it comes from.

/// Most bytes of a text that are kept.
const LONGEST: usize = 400;
/// Most texts kept per agent.
const MOST: usize = 8;
/// Most bytes of a version.
const LONGEST_VERSION: usize = 40;

/// A text, cut if it is too long.
pub(super) fn text(text: &str) -> String {
    cut(text, LONGEST)
}

/// Several texts.
pub(super) fn texts(texts: &[String]) -> Vec<String> {
    texts.iter().take(MOST).map(|it| text(it)).collect()
}

/// A version, if the text looks like one.
pub(super) fn version(text: &str) -> String {
    let looks_so = |byte: u8| byte.is_ascii_alphanumeric() || b".+-".contains(&byte);
    if text.is_empty() || text.len() > LONGEST_VERSION || !text.bytes().all(looks_so) {
        return "unknown".to_owned();
    }
    text.to_owned()
}

fn cut(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at));
    format!("{}…", text.get(..end.unwrap_or(0)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters_and_many_are_few() {
        assert_eq!(text("short"), "short");
        let long = text(&"é".repeat(10_000));
        assert!(long.len() <= LONGEST + "…".len(), "{}", long.len());
        assert!(long.ends_with("é…"), "{long}");
        assert_eq!(texts(&vec!["x".to_owned(); 1000]).len(), MOST);
    }

    #[test]
    fn a_version_is_what_looks_like_one() {
        assert_eq!(version("0.10.0-rc.1+x"), "0.10.0-rc.1+x");
        for other in ["", "1.0\nwarning: all is lost", &"1".repeat(41), "1 0"] {
            assert_eq!(version(other), "unknown", "{other:?}");
        }
    }
}
