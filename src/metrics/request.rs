//! What is asked over HTTP, and what is answered.

use super::exposition::Format;

/// Longest head of a request, in bytes, and most fields in it.
pub(super) const LONGEST: usize = 16 * 1024;
const MOST_FIELDS: usize = 64;

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The rest of the head has not come yet.
    More,
    /// The numbers, in this format; without them where only the head of the answer is wanted.
    Metrics { format: Format, head_only: bool },
    /// What this is.
    Start { head_only: bool },
    /// What is not here, or cannot be done, by its status.
    Refused(u16),
}

/// What the beginning of a connection asks for.
pub(super) fn read(bytes: &[u8]) -> Asked {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST => return Asked::More,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Asked::Refused(431);
        }
        Err(_) => return Asked::Refused(400),
    }
    let path = request.path.unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    if !["/", "/metrics"].contains(&path) {
        return Asked::Refused(404);
    }
    let head_only = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Asked::Refused(405),
    };
    if path == "/" {
        return Asked::Start { head_only };
    }
    let accepts: Vec<&str> = (request.headers.iter())
        .filter(|field| field.name.eq_ignore_ascii_case("accept"))
        .filter_map(|field| std::str::from_utf8(field.value).ok())
        .collect();
    Asked::Metrics {
        format: Format::preferred(&accepts.join(",")),
        head_only,
    }
}

/// The head of an answer.
pub(super) fn head(status: u16, content_type: &str, length: usize) -> String {
    let meaning = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        _ => "Request Header Fields Too Large",
    };
    let allow = match status {
        405 => "Allow: GET, HEAD\r\n",
        _ => "",
    };
    format!(
        "HTTP/1.1 {status} {meaning}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(head: &str) -> Asked {
        read(format!("{head}\r\n\r\n").as_bytes())
    }

    #[test]
    fn what_is_asked_for_is_understood_or_refused_by_its_reason() {
        let metrics = |format| Asked::Metrics {
            format,
            head_only: false,
        };
        assert_eq!(
            asked("GET /metrics HTTP/1.1\r\nHost: x"),
            metrics(Format::Text)
        );
        let open = "GET /metrics?x=1 HTTP/1.1\r\naccept: application/openmetrics-text";
        assert_eq!(asked(open), metrics(Format::OpenMetrics));
        assert_eq!(asked("GET / HTTP/1.0"), Asked::Start { head_only: false });
        assert_eq!(asked("HEAD / HTTP/1.1"), Asked::Start { head_only: true });
        assert_eq!(asked("GET /other HTTP/1.1"), Asked::Refused(404));
        assert_eq!(asked("POST /metrics HTTP/1.1"), Asked::Refused(405));
        assert_eq!(asked("nonsense"), Asked::Refused(400));
        assert_eq!(read(b"GET /metrics HTTP/1.1\r\nHost:"), Asked::More);
        let many = "x: y\r\n".repeat(MOST_FIELDS + 1);
        assert_eq!(
            asked(&format!("GET / HTTP/1.1\r\n{many}")),
            Asked::Refused(431)
        );
        let long = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(LONGEST));
        assert_eq!(read(long.as_bytes()), Asked::Refused(431));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_asked_for_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
