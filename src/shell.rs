//! Commands for users to paste: every word that comes from outside is quoted, for POSIX shells.
//!
//! What a shell would not take literally is put in single quotes. If a word contains anything that a terminal or a
//! reader would not take literally (control characters, bytes that are not UTF-8, characters that are invisible or
//! reverse the text), it is written as `$'…'` with octal numbers, which bash, zsh, ksh, busybox and POSIX.1-2024
//! understand. A shell turns the word back into exactly the original bytes.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Characters that mean nothing to any shell, wherever they are in a word.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_./:,+@%".contains(&byte)
}

/// Characters that look like what they are.
fn is_visible(sign: char) -> bool {
    sign == ' ' || sign.is_ascii_graphic() || (!sign.is_ascii() && sign.is_alphanumeric())
}

/// A word, quoted so that a shell reads it back unchanged.
pub(crate) fn word(word: impl AsRef<OsStr>) -> String {
    let bytes = word.as_ref().as_bytes();
    let text = std::str::from_utf8(bytes);
    match text {
        Ok(text) if !text.is_empty() && text.bytes().all(is_plain) => text.to_owned(),
        Ok(text) if text.chars().all(is_visible) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => numbered(bytes),
    }
}

/// A word in which everything but plain characters is written as a number.
fn numbered(bytes: &[u8]) -> String {
    let mut quoted = String::from("$'");
    for byte in bytes {
        match byte {
            b' ' => quoted.push(' '),
            byte if is_plain(*byte) => quoted.push(char::from(*byte)),
            // Always three digits, so that the next character is never taken for one.
            byte => {
                let _ = write!(quoted, "\\{byte:03o}");
            }
        }
    }
    quoted.push('\'');
    quoted
}

/// A path as a word that no program takes for an option.
pub(crate) fn path(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    match path.as_os_str().as_bytes().first() {
        Some(b'-') => word(Path::new(".").join(path)),
        _ => word(path),
    }
}

/// A command line.
pub(crate) fn line<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> String {
    words.into_iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// What a shell makes of words: each as it arrives, with an end marker that no word contains.
    fn read_back(shell: &[&str], text: &str) -> Vec<Vec<u8>> {
        let (program, options) = shell.split_first().expect("a shell");
        let output = Command::new(program)
            .args(options)
            .args([
                "-c",
                &format!(r#"show() {{ for it do printf '%s\0' "$it"; done; }}; show {text}"#),
            ])
            .env("LC_ALL", "C.UTF-8")
            .output()
            .expect("a shell");
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{text:?}: {output:?}"
        );
        let mut words: Vec<Vec<u8>> = output
            .stdout
            .split(|byte| *byte == 0)
            .map(<[u8]>::to_vec)
            .collect();
        assert_eq!(words.pop().as_deref(), Some(&b""[..]));
        words
    }

    fn evil() -> Vec<OsString> {
        [
            &b"plain-word_1./:,+@%"[..],
            b"",
            b"two words",
            b"it's",
            b"'''",
            b"\"double\" $(touch /tmp/canary) `id` ${HOME} $HOME",
            b"a;b&c|d>e<f(g)h{i}j[k]l*m?n~o#p!q^r=s\\t",
            b"-rf",
            b"--python=/x",
            b"~root",
            b"!!",
            b"%1",
            b"\\",
            b"\\'",
            "na\u{ef}ve \u{4f8b}".as_bytes(),
        ]
        .map(|bytes| OsString::from_vec(bytes.to_vec()))
        .to_vec()
    }

    fn invisible() -> Vec<OsString> {
        [
            &b"line\nfeed\n"[..],
            b"\n",
            b"\x1b]0;title\x07\x1b[2J",
            b"\x7f\x08\x08rm",
            b"caf\xe9 'quoted' $(id)",
            b"\xff\xfe\x80",
            b"digits\x01123",
            "\u{202e}txt.exe \u{200b} \u{feff} \u{9b}31m".as_bytes(),
            b"!history\x01'!!'",
            b"\ttab\r",
        ]
        .map(|bytes| OsString::from_vec(bytes.to_vec()))
        .to_vec()
    }

    #[test]
    fn words_come_out_of_a_shell_as_they_went_in() {
        let words = evil();
        let expected: Vec<Vec<u8>> = words.iter().map(|it| it.as_bytes().to_vec()).collect();
        for shell in [&["/bin/sh"][..], &["bash"], &["bash", "--posix"]] {
            assert_eq!(read_back(shell, &line(&words)), expected);
        }
        let words = invisible();
        let expected: Vec<Vec<u8>> = words.iter().map(|it| it.as_bytes().to_vec()).collect();
        for shell in [&["bash"][..], &["bash", "--posix"]] {
            assert_eq!(read_back(shell, &line(&words)), expected);
        }
    }

    #[test]
    fn nothing_that_a_terminal_obeys_and_no_second_line_is_printed() {
        for word in evil().into_iter().chain(invisible()) {
            let text = super::word(&word);
            assert!(text.chars().all(is_visible), "{text:?}");
        }
    }

    #[test]
    fn a_path_is_never_an_option() {
        assert_eq!(path("-x"), "./-x");
        assert_eq!(path("/usr/bin/python3"), "/usr/bin/python3");
        assert_eq!(path("/opt/my python"), "'/opt/my python'");
        assert_eq!(
            path(OsString::from_vec(b"/srv/\xff".to_vec())),
            r"$'/srv/\377'"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_bytes_come_back(words in prop::collection::vec(prop::collection::vec(1..=255_u8, 0..24), 1..6)) {
            let given: Vec<OsString> = words.iter().cloned().map(OsString::from_vec).collect();
            prop_assert_eq!(read_back(&["bash"], &line(&given)), words);
        }
    }
}
