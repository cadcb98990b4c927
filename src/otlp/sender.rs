//! A thread that sends batches to a receiver, one after the other, and what becomes of them. Nobody waits for it: what finds the
//! queue full is dropped, and counted.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use super::answer::Answer;
use super::message::{Item, request};
use crate::authority::foreign::{self, ToolError};
use crate::console::Console;
use crate::text::Foreign;
use crate::threads;

/// How long curl may take for more than the request that it is told the time of.
const FOR_CURL: Duration = Duration::from_secs(5);
/// What curl ends with where it does not believe the receiver's certificate, and what helps.
const NOT_BELIEVED: i32 = 60;
const TO_BE_BELIEVED: &str = "its certificate has to be valid for this address, by an authority that this host knows (a file in \
                              /usr/local/share/ca-certificates, taken by update-ca-certificates) or that a file named by \
                              CURL_CA_BUNDLE has";
/// Pauses between tries of a receiver that does not answer: each twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Bytes that wait at most.
const MOST_BYTES: usize = 16 << 20;
/// How long the end of a session waits for what is still in the queue.
const AT_THE_END: Duration = Duration::from_secs(5);

/// Where batches go.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    /// The whole address.
    pub(crate) url: String,
    /// Further fields of the request, each `Name: value`.
    pub(crate) headers: Vec<String>,
    /// How long a request may take.
    pub(crate) patience: Duration,
    /// What becomes of everything while it takes nothing, for what is said then.
    pub(crate) meanwhile: &'static str,
}

impl Receiver {
    /// The receiver of this signal (`metrics`, `traces`) below an address.
    pub(crate) fn of(
        base: &str,
        signal: &str,
        headers: Vec<String>,
        patience: Duration,
    ) -> Receiver {
        let ending = format!("/v1/{signal}");
        let base = base.trim_end_matches('/');
        let url = match base.ends_with(&ending) {
            true => base.to_owned(),
            false => format!("{base}{ending}"),
        };
        Receiver {
            url,
            headers,
            patience,
            meanwhile: "tracing goes on, and what finds no room meanwhile is dropped and counted",
        }
    }

    /// What curl is to know, in the language of its configuration.
    fn configuration(&self) -> String {
        let quoted = |text: &str| {
            let mut quoted = String::from("\"");
            for letter in text.chars() {
                match letter {
                    '"' | '\\' => quoted.extend(['\\', letter]),
                    '\n' | '\r' => quoted.push(' '),
                    letter => quoted.push(letter),
                }
            }
            quoted + "\""
        };
        let mut text = format!("url = {}\n", quoted(&self.url));
        let own = ["Content-Type: application/x-protobuf", "Expect:"];
        for header in own
            .into_iter()
            .chain(self.headers.iter().map(String::as_str))
        {
            text.push_str(&format!("header = {}\n", quoted(header)));
        }
        text
    }

    /// The address as messages have it: without what may be secret in it.
    fn shown(&self) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("", &self.url));
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let host = rest.get(..end).unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        Foreign::new(&format!("{scheme}://{host}")).to_string()
    }
}

/// What became of batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Requests that were taken.
    pub(crate) sent: u64,
    /// Items in them.
    pub(crate) items: u64,
    /// Requests that were not.
    pub(crate) failed: u64,
    /// Batches that were given up, or found no room.
    pub(crate) dropped: u64,
}

/// What waits.
#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Vec<Item>>,
    bytes: usize,
    /// Whether a batch is on its way, of which nothing is known yet.
    in_flight: bool,
    account: Account,
    /// Until when the rest may be sent; `None` while more comes.
    ends: Option<Instant>,
    is_done: bool,
}

#[derive(Debug, Default)]
struct State {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for this time, or until the end. Whether there is time left.
    fn pause(&self, time: Duration) -> bool {
        let mut queue = self.lock();
        let until = Instant::now() + time;
        loop {
            let end = queue.ends.map_or(until, |ends| ends.min(until));
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                return queue.ends.is_none_or(|ends| ends > Instant::now());
            };
            let waited = self.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// See the head of the module. Dropped, it sends what is left within a few seconds.
#[derive(Debug)]
pub(crate) struct Sender {
    state: Arc<State>,
    most: usize,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Sends to this receiver, from a queue of so many batches.
    ///
    /// # Errors
    /// When there is no curl that we may run, in a sentence; or no thread.
    pub(crate) fn start(receiver: Receiver, most: usize, console: &Console) -> io::Result<Sender> {
        let curl = foreign::tool(Path::new("curl")).map_err(|error| {
            io::Error::other(match error {
                ToolError::Missing => "there is no curl in PATH, by which it is done".to_owned(),
                ToolError::Distrusted { path, reason } => {
                    format!("{} is not run by root: {reason}", Foreign::path(&path))
                }
            })
        })?;
        let state = Arc::new(State::default());
        let mut post = Post {
            curl,
            configuration: file(receiver.configuration().as_bytes())?,
            shown: receiver.shown(),
            patience: receiver.patience,
            meanwhile: receiver.meanwhile,
            state: Arc::clone(&state),
            console: console.clone(),
            trouble: false,
        };
        let thread = threads::spawn(move || {
            post.run();
            post.state.lock().is_done = true;
            post.state.changed.notify_all();
        })?;
        Ok(Sender {
            state,
            most,
            thread: Some(thread),
        })
    }

    /// Has a batch sent. The oldest ones go where there is no room for all.
    pub(crate) fn send(&self, items: Vec<Item>) {
        let mut queue = self.state.lock();
        queue.bytes += size(&items);
        queue.batches.push_back(items);
        while queue.batches.len() > self.most || queue.bytes > MOST_BYTES {
            let Some(oldest) = queue.batches.pop_front() else {
                break;
            };
            queue.bytes -= size(&oldest);
            queue.account.dropped += 1;
        }
        drop(queue);
        self.state.changed.notify_all();
    }

    /// Waits until no more than so many batches are in the queue or on their way, for as long as some are taken or given up from
    /// time to time. Whether it came to that.
    pub(crate) fn wait(&self, most: usize, patience: Duration) -> bool {
        let mut queue = self.state.lock();
        let mut before = usize::MAX;
        let mut until = Instant::now() + patience;
        loop {
            let waiting = queue.batches.len() + usize::from(queue.in_flight);
            if waiting <= most {
                return true;
            }
            if waiting < before {
                (before, until) = (waiting, Instant::now() + patience);
            }
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return false;
            };
            let waited = self.state.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What became of batches so far.
    pub(crate) fn account(&self) -> Account {
        self.state.lock().account
    }

    /// Sends the rest within a few seconds. What became of all.
    pub(crate) fn end(mut self) -> Account {
        self.finish();
        let queue = self.state.lock();
        let mut account = queue.account;
        account.dropped += queue.batches.len() as u64 + u64::from(queue.in_flight);
        account
    }

    fn finish(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        let mut queue = self.state.lock();
        queue.ends = Some(Instant::now() + AT_THE_END);
        self.state.changed.notify_all();
        // Curl may take a while longer, and is not waited for.
        let waits = |queue: &mut Queue| !queue.is_done;
        let waited = (self.state.changed).wait_timeout_while(queue, AT_THE_END, waits);
        let is_done = waited.unwrap_or_else(PoisonError::into_inner).0.is_done;
        if is_done {
            let _ = thread.join();
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.finish();
    }
}

fn size(items: &[Item]) -> usize {
    let of = |item: &Item| item.bytes.len() + size_of::<Item>();
    items.iter().map(of).sum()
}

/// A file in memory, to be read from its beginning.
fn file(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("pystap", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// The side of the thread.
struct Post {
    curl: PathBuf,
    configuration: File,
    shown: String,
    patience: Duration,
    meanwhile: &'static str,
    state: Arc<State>,
    console: Console,
    /// Whether the last request failed, which was said.
    trouble: bool,
}

impl Post {
    fn run(&mut self) {
        while let Some(batch) = self.next() {
            let delivered = self.deliver(&batch);
            let mut queue = self.state.lock();
            queue.in_flight = false;
            queue.account.dropped += u64::from(!delivered);
            drop(queue);
            self.state.changed.notify_all();
        }
    }

    /// The next batch; `None` when there is none, and none comes, or no time is left.
    fn next(&self) -> Option<Vec<Item>> {
        let mut queue = self.state.lock();
        loop {
            if queue.ends.is_some_and(|ends| ends <= Instant::now()) {
                return None;
            }
            if let Some(batch) = queue.batches.pop_front() {
                queue.bytes -= size(&batch);
                queue.in_flight = true;
                return Some(batch);
            }
            if queue.ends.is_some() {
                return None;
            }
            let waited = self.state.changed.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends a batch, in halves where it is too much. Whether the receiver has all of it.
    fn deliver(&mut self, items: &[Item]) -> bool {
        let mut pause = FIRST_PAUSE;
        loop {
            let answer = self.post(items);
            let taken = matches!(answer, Ok(Answer::Taken));
            {
                let mut queue = self.state.lock();
                queue.account.sent += u64::from(taken);
                queue.account.items += if taken { items.len() as u64 } else { 0 };
                queue.account.failed += u64::from(!taken);
            }
            let wait = match answer {
                Ok(Answer::Taken) => {
                    self.recovered();
                    return true;
                }
                Ok(Answer::TooMuch) if items.len() > 1 => {
                    let (first, second) = items.split_at(items.len() / 2);
                    let first = self.deliver(first);
                    return self.deliver(second) && first;
                }
                Ok(Answer::TooMuch) => {
                    self.failed("takes no request as small as one item (413)");
                    return false;
                }
                Ok(Answer::Refused(code)) => {
                    self.failed(&format!("refuses what it is sent ({code})"));
                    return false;
                }
                Ok(Answer::Later(code, after)) => {
                    self.failed(&format!("takes nothing at the moment ({code})"));
                    after.unwrap_or(pause)
                }
                Err(reason) => {
                    self.failed(&format!("cannot be reached ({reason})"));
                    pause
                }
            };
            if !self.state.pause(wait) {
                return false;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Says that it goes wrong, once until it goes right.
    fn failed(&mut self, how: &str) {
        if !std::mem::replace(&mut self.trouble, true) {
            let (shown, meanwhile) = (&self.shown, self.meanwhile);
            self.console
                .warning(format_args!("the receiver at {shown} {how}; {meanwhile}"));
        }
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.trouble) {
            let shown = &self.shown;
            self.console.note(format_args!(
                "the receiver at {shown} takes what it is sent again"
            ));
        }
    }

    /// One request, and what came back; why there is no answer, in a few words.
    fn post(&self, items: &[Item]) -> Result<Answer, String> {
        let body = request(items);
        let body = file(&body).map_err(|error| error.to_string())?;
        // Curl runs as we do, and reads what is only in our memory.
        let fd = self.configuration.as_raw_fd();
        let configuration = format!("/proc/{}/fd/{fd}", std::process::id());
        let seconds = self.patience.as_secs_f64().to_string();
        let arguments = [
            "--disable",
            "--config",
            &configuration,
            "--silent",
            "--show-error",
            "--max-time",
            &seconds,
            "--dump-header",
            "-",
            "--output",
            "/dev/null",
            "--data-binary",
            "@-",
        ];
        let said = foreign::feed(
            &self.curl,
            &arguments,
            body,
            self.patience.saturating_add(FOR_CURL),
        )
        .map_err(|error| format!("curl: {error}"))?;
        let answer = Answer::of(&String::from_utf8_lossy(&said.output));
        match answer.filter(|_| said.status.success()) {
            Some(answer) => Ok(answer),
            None => {
                let errors = String::from_utf8_lossy(&said.errors);
                let line = errors.lines().next().unwrap_or("curl said nothing");
                let line = Foreign::new(line);
                Err(match said.status.code() {
                    Some(NOT_BELIEVED) => format!("{line}: {TO_BE_BELIEVED}"),
                    _ => line.to_string(),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::net::TcpListener;

    use crossbeam_channel::unbounded;

    use super::*;
    use crate::console::{ColorWhen, Verbosity};
    use crate::otlp::Resource;
    use crate::protobuf::Message;

    /// How long anything may take here.
    const BOUND: Duration = Duration::from_secs(60);

    /// A receiver that answers so, one request after the other and then always that it has taken it. Its address, and the head
    /// and length of the body of each request.
    fn receiver(
        listener: TcpListener,
        answers: &'static [&'static str],
    ) -> crossbeam_channel::Receiver<(String, usize)> {
        let (told, requests) = unbounded();
        let mut answers = answers.iter();
        threads::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.expect("a connection"));
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    assert_ne!(stream.read_line(&mut head).expect("text"), 0, "{head}");
                }
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(": ")?;
                    let is_length = name.eq_ignore_ascii_case("content-length");
                    is_length.then(|| value.parse::<usize>().expect("a number"))
                });
                let mut body = vec![0; length.expect("a length")];
                stream.read_exact(&mut body).expect("a body");
                let answer = answers.next().unwrap_or(&"200 OK\r\n");
                let answer =
                    format!("HTTP/1.1 {answer}Content-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.get_mut().write_all(answer.as_bytes());
                let _ = told.send((head, body.len()));
            }
        })
        .expect("a thread");
        requests
    }

    fn item(name: &str) -> Item {
        let mut message = Message::default();
        message.message(2, |metric| metric.text(1, name));
        Item {
            resource: Resource::new(&[]),
            bytes: std::mem::take(message.bytes()),
        }
    }

    fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        (listener, format!("http://{address}"))
    }

    fn sender(url: &str, most: usize) -> Sender {
        let console = Console::stderr(Verbosity::Quiet, ColorWhen::Never);
        let headers = vec!["X-Key: a \"b\" \\".to_owned()];
        let receiver = Receiver::of(url, "metrics", headers, BOUND);
        Sender::start(receiver, most, &console).expect("curl is there")
    }

    #[test]
    fn an_address_is_that_of_a_signal_or_one_below_which_it_is() {
        let of = |base| Receiver::of(base, "metrics", Vec::new(), BOUND);
        let url = |base| of(base).url;
        assert_eq!(url("http://h:4318"), "http://h:4318/v1/metrics");
        assert_eq!(url("https://h/otlp/"), "https://h/otlp/v1/metrics");
        assert_eq!(url("http://h/v1/metrics"), "http://h/v1/metrics");
        let shown = of("https://me:secret@h:1/x?key=1").shown();
        assert_eq!(shown, "https://h:1");
    }

    #[test]
    fn what_is_sent_arrives_with_its_fields_and_is_sent_later_where_the_receiver_asks_for_it() {
        let (listener, url) = listener();
        let requests = receiver(
            listener,
            &[
                "429 Slow\r\nRetry-After: 0\r\n",
                "503 No\r\nRetry-After: 1\r\n",
            ],
        );
        let sender = sender(&url, 4);
        sender.send(vec![item("a")]);
        for _ in 0..3 {
            let (head, length) = requests.recv_timeout(BOUND).expect("a request");
            assert!(head.starts_with("POST /v1/metrics HTTP/1.1\r\n"), "{head}");
            assert!(
                head.contains("\r\nContent-Type: application/x-protobuf\r\n"),
                "{head}"
            );
            assert!(head.contains("\r\nX-Key: a \"b\" \\\r\n"), "{head}");
            assert!(length > 0);
        }
        let account = Account {
            sent: 1,
            items: 1,
            failed: 2,
            dropped: 0,
        };
        assert_eq!(sender.end(), account);
    }

    #[test]
    fn what_is_too_much_at_once_is_halved_until_it_is_taken() {
        let (listener, url) = listener();
        let requests = receiver(listener, &["413 Large\r\n"]);
        let sender = sender(&url, 4);
        sender.send(["a", "b", "c"].map(item).into());
        let mut sizes = Vec::new();
        for _ in 0..3 {
            sizes.push(requests.recv_timeout(BOUND).expect("a request").1);
        }
        assert!(sizes[0] > sizes[2] && sizes[2] > sizes[1], "{sizes:?}");
        let account = sender.end();
        assert_eq!((account.sent, account.items, account.dropped), (2, 3, 0));
    }

    #[test]
    fn who_has_time_waits_for_room_as_long_as_something_is_taken_and_no_longer() {
        let (listener, url) = listener();
        let _requests = receiver(listener, &["429 Slow\r\nRetry-After: 0\r\n"]);
        let sender = sender(&url, 2);
        for name in ["a", "b", "c", "d", "e"] {
            assert!(sender.wait(1, BOUND));
            sender.send(vec![item(name)]);
        }
        assert!(sender.wait(0, BOUND));
        let account = sender.end();
        assert_eq!((account.items, account.dropped), (5, 0), "{account:?}");
        // Nobody reads what this one is sent.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = silent.local_addr().expect("an address");
        let sender = self::sender(&format!("http://{address}"), 2);
        sender.send(vec![item("a")]);
        assert!(!sender.wait(0, Duration::from_millis(200)));
    }

    #[test]
    fn what_is_refused_is_dropped_and_what_comes_after_it_is_sent() {
        let (listener, url) = listener();
        let requests = receiver(listener, &["401 Who\r\n", "413 Large\r\n"]);
        let sender = sender(&url, 4);
        for name in ["a", "b", "c"] {
            sender.send(vec![item(name)]);
            requests.recv_timeout(BOUND).expect("a request");
        }
        let account = sender.end();
        assert_eq!((account.sent, account.failed, account.dropped), (1, 2, 2));
    }

    #[test]
    fn a_receiver_that_is_down_keeps_nobody_waiting_and_gets_what_found_room() {
        let (listener, url) = listener();
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let sender = sender(&url, 2);
        for name in ["a", "b", "c", "d", "e"] {
            sender.send(vec![item(name)]);
        }
        let end = Instant::now() + BOUND;
        while sender.account().failed == 0 {
            assert!(Instant::now() < end, "nothing was tried");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let requests = receiver(TcpListener::bind(address).expect("it is free"), &[]);
        requests.recv_timeout(BOUND).expect("a request");
        let account = sender.end();
        // What was in flight, and two that found room; fewer were in flight when it began late.
        assert_eq!(account.sent + account.dropped, 5, "{account:?}");
        assert!(account.sent >= 2 && account.failed > 0, "{account:?}");
    }

    #[test]
    fn a_certificate_that_nobody_knows_is_no_receiver() {
        let (listener, url) = listener();
        // What answers there does not even speak TLS.
        let _requests = threads::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.map(|mut it| it.write_all(b"HTTP/1.1 200 OK\r\n\r\n"));
            }
        });
        let sender = sender(&url.replace("http", "https"), 2);
        sender.send(vec![item("a")]);
        let account = sender.end();
        assert_eq!((account.sent, account.dropped), (0, 1), "{account:?}");
        assert!(account.failed > 0, "{account:?}");
    }
}
