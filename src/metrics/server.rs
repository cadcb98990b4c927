//! Answers who asks for the metrics over HTTP: a few connections at once, each for a few seconds, one question each.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::exposition::text;
use super::request::{Asked, LONGEST, head, read};
use super::watching::Shared;
use crate::threads;

/// Connections that are answered at once; further ones wait in the kernel's queue, which has a bound.
const AT_ONCE: usize = 8;
/// How long one may take for its question and our answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nobody is accepted when that failed, or when there are too many.
const PAUSE: Duration = Duration::from_millis(20);

const PLAIN: &str = "text/plain; charset=utf-8";
const START: &str = "pystap: what it counts is at /metrics\n";

/// A server that runs. Dropped, it answers nobody any longer.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Begins to answer at an address.
    ///
    /// # Errors
    /// When it cannot be listened at, or no thread can be had.
    pub(crate) fn start(address: SocketAddr, shared: Shared) -> io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let thread = threads::spawn(move || serve(&listener, &shared, &told))?;
        Ok(Server {
            address,
            ends,
            thread: Some(thread),
        })
    }

    /// Where it answers.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // So that the thread looks.
        let mut own = self.address;
        if own.ip().is_unspecified() {
            own.set_ip(match own {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let woken = TcpStream::connect_timeout(&own, Duration::from_secs(1)).is_ok();
        if let Some(thread) = self.thread.take()
            && woken
        {
            let _ = thread.join();
        }
    }
}

/// One of the connections that there may be at once.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve(listener: &TcpListener, shared: &Shared, ends: &AtomicBool) {
    let open = Arc::new(AtomicUsize::new(0));
    while !ends.load(Ordering::Relaxed) {
        if open.load(Ordering::Relaxed) >= AT_ONCE {
            std::thread::park_timeout(PAUSE);
            continue;
        }
        let Ok((stream, _)) = listener.accept() else {
            // No descriptors, perhaps; there may be some later.
            std::thread::park_timeout(PAUSE);
            continue;
        };
        open.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&open));
        let shared = shared.clone();
        // Without a thread nobody answers, and the connection ends.
        let _ = threads::spawn(move || {
            let _ = answer(stream, &shared);
            drop(place);
        });
    }
}

/// Answers one question.
fn answer(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let asked = loop {
        match read(&bytes) {
            Asked::More => {}
            asked => break asked,
        }
        let mut more = [0; 2048];
        stream.set_read_timeout(Some(left(end)?))?;
        let count = stream.read(&mut more)?;
        if count == 0 {
            return Ok(());
        }
        bytes.extend(more.iter().take(count));
        bytes.truncate(LONGEST);
    };
    let (status, kind, body, head_only) = match asked {
        Asked::Metrics { format, head_only } => {
            let text = shared.scraped(|families| text(families, format));
            (200, format.content_type(), text, head_only)
        }
        Asked::Start { head_only } => (200, PLAIN, START.to_owned(), head_only),
        Asked::Refused(status) => (status, PLAIN, format!("{status}\n"), false),
        Asked::More => return Ok(()),
    };
    let mut answer = head(status, kind, body.len()).into_bytes();
    if !head_only {
        answer.extend_from_slice(body.as_bytes());
    }
    let mut rest = answer.as_slice();
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(end)?))?;
        let written = stream.write(rest)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = rest.get(written..).unwrap_or_default();
    }
    // What was not read yet would have the kernel take back what the other side has not read.
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut rest = [0; 2048];
    for _ in 0..LONGEST / rest.len() {
        stream.set_read_timeout(Some(left(end)?))?;
        if stream.read(&mut rest)? == 0 {
            break;
        }
    }
    Ok(())
}

/// The time that is left.
fn left(end: Instant) -> io::Result<Duration> {
    let left = end.checked_duration_since(Instant::now());
    left.filter(|left| !left.is_zero())
        .ok_or_else(|| io::ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(server: &Server, question: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).expect("it listens");
        stream.write_all(question.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    fn server() -> Server {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Server::start(address, Shared::new(10)).expect("it can be had")
    }

    #[test]
    fn whoever_asks_is_answered_and_the_connection_ends() {
        let server = server();
        let answer = ask(&server, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"));
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(body.contains("\npystap_up 0\n"), "{body}");
        assert!(body.contains("\npystap_scrapes_total 1\n"), "{body}");
        let asked = |question: &str| ask(&server, &format!("{question}\r\n\r\n"));
        assert!(asked("GET / HTTP/1.1").ends_with(START));
        assert!(asked("GET /secret HTTP/1.1").starts_with("HTTP/1.1 404 "));
        assert!(asked("PUT /metrics HTTP/1.1").contains("\r\nAllow: GET, HEAD\r\n"));
        assert!(asked("\u{1}").starts_with("HTTP/1.1 400 "));
        assert!(asked("HEAD /metrics HTTP/1.1").ends_with("\r\n\r\n"));
    }

    #[test]
    fn connections_that_say_nothing_keep_nobody_from_an_answer_for_ever() {
        let server = server();
        let silent: Vec<TcpStream> = (0..AT_ONCE - 1)
            .map(|_| TcpStream::connect(server.address()).expect("it listens"))
            .collect();
        let answer = ask(&server, "GET / HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        drop(silent);
    }

    #[test]
    fn an_address_that_somebody_has_is_an_error() {
        let server = server();
        let error = Server::start(server.address(), Shared::new(1)).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
