//! What a receiver has answered, by the heads that `curl --dump-header` writes.

use std::time::Duration;

/// Longest time that a receiver may have us wait.
const LONGEST: Duration = Duration::from_secs(300);

/// The answer to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has it.
    Taken,
    /// It was too much at once.
    TooMuch,
    /// Later; after this time, if it said.
    Later(u16, Option<Duration>),
    /// Never.
    Refused(u16),
}

impl Answer {
    /// The answer of the last head: those before it are of proxies, and of what goes on (1xx).
    pub(super) fn of(heads: &str) -> Option<Answer> {
        let mut status = None;
        let mut after = None;
        for line in heads.lines() {
            if line.starts_with("HTTP/") {
                let code = line.split(' ').nth(1)?;
                status = Some(code.parse::<u16>().ok()?);
                after = None;
            } else if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("retry-after")
            {
                // A date is as good as nothing: ours is not theirs.
                let seconds = value.trim().parse().ok();
                after = seconds.map(|it| Duration::from_secs(it).min(LONGEST));
            }
        }
        Some(match status? {
            200..=299 => Answer::Taken,
            413 => Answer::TooMuch,
            code @ (429 | 502..=504) => Answer::Later(code, after),
            code => Answer::Refused(code),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_head_counts_with_how_long_to_wait() {
        let of = |heads: &str| Answer::of(&heads.replace('\n', "\r\n"));
        assert_eq!(of("HTTP/1.1 200 OK\n\n"), Some(Answer::Taken));
        assert_eq!(of("HTTP/2 202 \n\n"), Some(Answer::Taken));
        let proxied = "HTTP/1.1 200 Connection established\n\nHTTP/1.1 100 Continue\n\nHTTP/1.1 413 Too Large\n\n";
        assert_eq!(of(proxied), Some(Answer::TooMuch));
        let later = |seconds| Answer::Later(429, Some(Duration::from_secs(seconds)));
        assert_eq!(of("HTTP/1.1 429 x\nretry-AFTER: 7\n\n"), Some(later(7)));
        assert_eq!(
            of("HTTP/1.1 429 x\nRetry-After: 99999999999\n\n"),
            Some(later(300))
        );
        assert_eq!(
            of("HTTP/1.1 503 x\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\n\n"),
            Some(Answer::Later(503, None))
        );
        assert_eq!(of("HTTP/1.1 401 x\n\n"), Some(Answer::Refused(401)));
        assert_eq!(of(""), None);
        assert_eq!(of("HTTP/1.1"), None);
    }
}
