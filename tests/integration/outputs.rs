//! Outputs: what is written is harmless to its readers, however hostile the names are, private, complete, and never
//! blocks forever. One corpus of hostile text (tests/data/evil.json) goes through every output, and a real reader of
//! each format says what arrived: an XML parser, a JSON parser, Python's pstats, a terminal.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pystap::analysis::pairing::{Pairing, PairingRules, Step};
use pystap::event::json::{Line, Reader};
use pystap::event::{
    Event, Frame, LossStage, Place, Plain, ProcessChange, Session, SessionTarget, Summary, Text,
    What,
};
use pystap::export::flow::{Flow, Options};
use pystap::export::{End, Sink, json::Json};
use pystap::probe::Probe;
use pystap::recording::Writer;
use pystap::text::{Foreign, obeyed};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::command::{Ended, PYTHON, command, end, file, run};
use crate::executable;

const BOUND: Duration = Duration::from_secs(60);

/// The corpus: text, and bytes that are not text.
pub(crate) fn evil() -> (Vec<String>, Vec<Vec<u8>>) {
    let corpus: Value =
        serde_json::from_str(include_str!("../data/evil.json")).expect("the corpus is JSON");
    let text = serde_json::from_value(corpus["text"].clone()).expect("strings");
    let bytes = serde_json::from_value(corpus["bytes"].clone()).expect("lists of bytes");
    (text, bytes)
}

fn foreign(text: &str) -> Arc<Text> {
    Arc::new(Text {
        text: text.to_owned(),
        ..Text::default()
    })
}

/// A session whose targets have those names, and its events: for each text a process in which a function of that name
/// calls another, and every kind of event that carries text.
fn stream() -> (Session, Vec<Event>) {
    let (texts, _) = evil();
    let mut session = Session {
        ts: 1,
        engine: "uprobes".to_owned(),
        notes: texts.clone(),
        ..Session::default()
    };
    let mut events = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        let pid = 100 + at as u32;
        session.targets.push(SessionTarget {
            pid,
            command: text.clone(),
            python: None,
        });
        let place = |function: &str| {
            Arc::new(Place {
                file: Text::clone(&foreign(text)),
                function: Text::clone(&foreign(function)),
                qualname: None,
                group: None,
            })
        };
        let (outer, inner) = (place(text), place("inner"));
        let call = |place: &Arc<Place>| What::Call {
            place: Arc::clone(place),
            line: 7,
            frame: Frame {
                text: Some(foreign(text)),
                ..Frame::default()
            },
        };
        let back = |place: &Arc<Place>| What::Return {
            place: Arc::clone(place),
            line: 8,
            duration_ns: None,
            frame: Frame {
                text: Some(foreign(text)),
                ..Frame::default()
            },
        };
        let kinds = [
            call(&outer),
            call(&inner),
            What::Plain(Plain::new(Probe::ImportStart, foreign(text))),
            What::Plain(Plain {
                number: 1,
                ..Plain::new(Probe::ImportDone, foreign(text))
            }),
            What::Plain(Plain::new(Probe::Audit, foreign(text))),
            What::Lost {
                count: 0,
                stage: LossStage::Output,
                message: text.clone(),
            },
            back(&inner),
            back(&outer),
            What::Process {
                change: ProcessChange::Exec,
                parent: None,
                command: Some(foreign(text)),
            },
        ];
        for what in kinds {
            let ts = 1_000_000 * (events.len() as u64 + 1);
            let tid = pid;
            events.push(Event {
                interpreter: None,
                ts,
                pid,
                tid,
                what,
            });
        }
    }
    (session, events)
}

fn write(mut sink: Box<dyn Sink + '_>) {
    let (session, events) = stream();
    let mut pairing = Pairing::with_rules(HABITS);
    sink.session(&session).expect("written");
    for mut event in events {
        if let Some(step) = pairing.follow(&mut event) {
            sink.step(&step).expect("written");
        }
    }
    sink.finish(&End::new(&Summary::default(), &pairing))
        .expect("written");
}

const HABITS: PairingRules = PairingRules {
    call_on_creation: false,
    greenlets: false,
};

/// A recording of that stream.
pub(crate) fn recording(directory: &Path) -> PathBuf {
    let path = directory.join("evil.pystap");
    let mut bytes = Vec::new();
    write(Box::new(Writer::new(&mut bytes, HABITS)));
    fs::write(&path, bytes).expect("written");
    path
}

fn pystap(arguments: &[&OsStr]) -> Ended {
    run(&mut command(arguments))
}

fn export(format: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let path = recording(directory.path());
    let words = ["export", "--min-width", "0", "-f", format].map(OsStr::new);
    let ended = pystap(&[words.as_slice(), &[path.as_os_str()]].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{format}");
    ended.stdout
}

/// What a terminal was asked to do other than show text.
#[derive(Default)]
struct Asked(Vec<String>);

impl vt100::Callbacks for Asked {
    fn audible_bell(&mut self, _: &mut vt100::Screen) {
        self.0.push("bell".to_owned());
    }
    fn visual_bell(&mut self, _: &mut vt100::Screen) {
        self.0.push("flash".to_owned());
    }
    fn resize(&mut self, _: &mut vt100::Screen, _: (u16, u16)) {
        self.0.push("resize".to_owned());
    }
    fn set_window_icon_name(&mut self, _: &mut vt100::Screen, _: &[u8]) {
        self.0.push("icon".to_owned());
    }
    fn set_window_title(&mut self, _: &mut vt100::Screen, _: &[u8]) {
        self.0.push("title".to_owned());
    }
    fn copy_to_clipboard(&mut self, _: &mut vt100::Screen, _: &[u8], _: &[u8]) {
        self.0.push("copy".to_owned());
    }
    fn paste_from_clipboard(&mut self, _: &mut vt100::Screen, _: &[u8]) {
        self.0.push("paste".to_owned());
    }
    fn unhandled_char(&mut self, _: &mut vt100::Screen, character: char) {
        if character != '\u{fffd}' {
            self.0.push(format!("character {character:?}"));
        }
    }
    fn unhandled_control(&mut self, _: &mut vt100::Screen, byte: u8) {
        self.0.push(format!("control {byte:x}"));
    }
    fn unhandled_escape(&mut self, _: &mut vt100::Screen, _: Option<u8>, _: Option<u8>, byte: u8) {
        self.0.push(format!("escape {byte:x}"));
    }
    fn unhandled_csi(
        &mut self,
        _: &mut vt100::Screen,
        _: Option<u8>,
        _: Option<u8>,
        _: &[&[u16]],
        character: char,
    ) {
        self.0.push(format!("CSI {character:?}"));
    }
    fn unhandled_osc(&mut self, _: &mut vt100::Screen, _: &[&[u8]]) {
        self.0.push("OSC".to_owned());
    }
}

/// A terminal shows every line unchanged, on one line of its own, and is left in its original state.
fn terminal_shows(output: &str) {
    assert!(!output.is_empty());
    for line in output.lines() {
        let wide = 2 * line.chars().count() + 8;
        let wide = u16::try_from(wide).expect("a line that a terminal can have");
        let mut parser = vt100::Parser::new_with_callbacks(3, wide, 0, Asked::default());
        // This terminal shows nothing in its place.
        let line = line.replace('\u{fffd}', "?");
        parser.process(line.as_bytes());
        let screen = parser.screen();
        assert_eq!(screen.contents().trim_end(), line.trim_end());
        assert_eq!(screen.cursor_position().0, 0, "{line:?}");
        assert!(
            !screen.alternate_screen() && !screen.hide_cursor(),
            "{line:?}"
        );
        assert!(
            !screen.bracketed_paste() && !screen.application_cursor(),
            "{line:?}"
        );
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None);
        assert_eq!(screen.fgcolor(), vt100::Color::Default, "{line:?}");
        assert_eq!(parser.callbacks().0, Vec::<String>::new(), "{line:?}");
        // What this terminal does not implement but others do: characters that reverse or hide text.
        assert!(!line.chars().any(obeyed), "{line:?}");
    }
}

/// A name as people see it.
pub(crate) fn shown(text: &str) -> String {
    Foreign::new(text).to_string()
}

/// Losses are shown once per second, so that not each is a line.
fn tells_no_loss(line: &&str) -> bool {
    !line.contains("  lost: ")
}

#[test]
fn a_flow_of_evil_names_is_a_line_an_event_on_a_terminal() {
    let mut bytes = Vec::new();
    write(Box::new(Flow::new(&mut bytes, Options::default())));
    let text = String::from_utf8(bytes).expect("UTF-8");
    terminal_shows(&text);
    let (_, events) = stream();
    let told = |event: &&Event| !matches!(event.what, What::Lost { .. });
    assert_eq!(
        text.lines().filter(tells_no_loss).count(),
        events.iter().filter(told).count()
    );
    for evil in evil().0 {
        assert!(
            text.contains(&format!("audit {}\n", shown(&evil))),
            "{evil:?}"
        );
    }
}

#[test]
fn events_of_evil_names_read_back_equal_from_json_that_a_terminal_does_not_obey() {
    let mut bytes = Vec::new();
    write(Box::new(Json::new(&mut bytes)));
    let streamed = String::from_utf8(bytes).expect("UTF-8");
    let (session, events) = stream();
    for text in [streamed, export("json")] {
        assert!(text.chars().all(|it| it == '\n' || !obeyed(it)));
        let mut reader = Reader::new();
        let mut read = Vec::new();
        for line in text.lines() {
            serde_json::from_str::<Value>(line).expect("JSON");
            match reader.read(line).expect("our own line") {
                Line::Session(found) => assert_eq!(found, session),
                Line::Event(mut event) => {
                    // Pairing has filled them in.
                    match &mut event.what {
                        What::Return { duration_ns, .. } => *duration_ns = None,
                        What::Plain(plain) => plain.duration_ns = None,
                        _ => {}
                    }
                    read.push(event);
                }
                Line::Summary(_) => {}
            }
        }
        assert_eq!(read, events);
    }
}

/// Hostile text as part of a frame.
fn frame(text: &str) -> String {
    Foreign::new(text).without(';').to_string()
}

/// A frame as stacks contain it, cut to its first 500 bytes. No such frame in the corpus has non-ASCII characters
/// there.
fn cut(frame: String) -> String {
    match frame.get(..500) {
        Some(begins) if frame.len() > 500 => format!("{begins}..."),
        _ => frame,
    }
}

#[test]
fn folded_stacks_of_evil_names_are_a_line_a_stack_with_one_number_at_its_end() {
    let text = export("folded");
    let mut found = HashSet::new();
    for line in text.lines() {
        assert!(!line.chars().any(obeyed), "{line:?}");
        let (stack, number) = line.rsplit_once(' ').expect("a number at the end");
        assert!(number.parse::<u64>().expect("a number") > 0);
        let frames: Vec<&str> = stack.split(';').collect();
        assert!((2..=3).contains(&frames.len()), "{line:?}");
        found.insert(stack.to_owned());
    }
    for (at, evil) in evil().0.iter().enumerate() {
        let process = match evil.is_empty() {
            true => format!("process {}", 100 + at),
            false => format!("process {}: {}", 100 + at, frame(evil)),
        };
        let outer = format!("{process};{}", cut(format!("{0} ({0}:7)", frame(evil))));
        let inner = format!("{outer};{}", cut(format!("inner ({}:7)", frame(evil))));
        assert!(found.contains(&outer), "{outer:?}");
        assert!(found.contains(&inner), "{inner:?}");
    }
    assert_eq!(found.len(), text.lines().count());
    assert_eq!(found.len(), 2 * evil().0.len());
}

#[test]
fn a_flame_graph_of_evil_names_is_well_formed_xml_with_a_title_a_frame() {
    let svg = export("flamegraph");
    let options = roxmltree::ParsingOptions {
        allow_dtd: true,
        ..roxmltree::ParsingOptions::default()
    };
    let document = roxmltree::Document::parse_with_options(&svg, options).expect("XML");
    let titles: HashSet<String> = document
        .descendants()
        .filter(|node| {
            node.has_tag_name("title") || node.has_tag_name(("http://www.w3.org/2000/svg", "title"))
        })
        .filter_map(|node| node.text())
        .filter_map(|title| title.rsplit_once(" (").map(|(name, _)| name.to_owned()))
        .collect();
    for evil in evil().0 {
        for name in ["", "inner"] {
            let frame = frame(&evil);
            let function = if name.is_empty() { &frame } else { name };
            let name = cut(format!("{function} ({frame}:7)"));
            assert!(titles.contains(&name), "{name:?}");
        }
    }
}

#[test]
fn timelines_of_evil_names_are_json_that_has_every_name() {
    for format in ["chrome", "speedscope"] {
        let text = export(format);
        assert!(text.chars().all(|it| it == '\n' || !obeyed(it)), "{format}");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let (list, key) = match format {
            "chrome" => (&value["traceEvents"], "name"),
            _ => (&value["shared"]["frames"], "name"),
        };
        let names: HashSet<&str> = list
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|it| it[key].as_str())
            .collect();
        for evil in evil().0 {
            assert!(names.contains(shown(&evil).as_str()), "{format}: {evil:?}");
        }
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn pythons_own_pstats_loads_evil_names_and_prints_them_harmless() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = recording(directory.path());
    let out = directory.path().join("evil.pstats");
    let words = ["export", "-f", "pstats", "-o"].map(OsStr::new);
    let ended = pystap(&[words.as_slice(), &[out.as_os_str(), path.as_os_str()]].concat());
    assert_eq!(ended.code, 0, "{ended:?}");
    let program = "import pstats, sys\nstats = pstats.Stats(sys.argv[1])\nstats.print_stats()\nfor f, l, n in stats.stats: print('KEY', f, l, n, sep='\\t')";
    let printed = Command::new(PYTHON)
        .args(["-c", program])
        .arg(&out)
        .env("PYTHONIOENCODING", "utf-8")
        .output()
        .expect("it runs");
    assert!(printed.status.success(), "{printed:?}");
    let text = String::from_utf8(printed.stdout).expect("UTF-8");
    assert!(
        text.chars()
            .all(|it| matches!(it, '\n' | '\t') || !obeyed(it))
    );
    let keys: HashSet<&str> = text
        .lines()
        .filter_map(|it| it.strip_prefix("KEY\t"))
        .collect();
    for evil in evil().0 {
        let key = format!("{0}\t7\t{0}", shown(&evil));
        assert!(keys.contains(key.as_str()), "{key:?}");
    }
}

#[test]
fn reports_of_evil_names_are_tables_on_a_terminal_and_json_for_programs() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = recording(directory.path());
    for view in [
        &["--limit", "1000"] as &[&str],
        &["--limit", "1000", "--by-process"],
        &["--stats", "*"],
        &["--gc"],
    ] {
        let view: Vec<&OsStr> = view.iter().map(OsStr::new).collect();
        let words = [&["report".as_ref(), path.as_os_str()], view.as_slice()].concat();
        let ended = pystap(&words);
        assert_eq!(ended.code, 0, "{ended:?}");
        terminal_shows(&ended.stdout);
        let json = [words.as_slice(), &[OsStr::new("--json")]].concat();
        let ended = pystap(&json);
        assert!(ended.stdout.chars().all(|it| it == '\n' || !obeyed(it)));
        serde_json::from_str::<Value>(&ended.stdout).expect("JSON");
    }
}

/// File names made from the corpus: as much of it as fits.
fn evil_names() -> Vec<OsString> {
    let (text, bytes) = evil();
    let mut names = vec![Vec::new()];
    for part in text.into_iter().map(String::into_bytes).chain(bytes) {
        let part: Vec<u8> = part
            .into_iter()
            .filter(|it| !matches!(it, 0 | b'/'))
            .collect();
        let part = part.get(..100).unwrap_or(&part);
        match names.last_mut() {
            Some(name) if name.len() + part.len() <= 250 => name.extend_from_slice(part),
            _ => names.push(part.to_vec()),
        }
    }
    names
        .into_iter()
        .map(|name| OsStr::from_bytes(&[b"n".as_slice(), &name].concat()).to_owned())
        .collect()
}

#[test]
fn files_of_evil_names_are_listed_and_refused_harmlessly() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in evil_names() {
        let path = directory.path().join(&name);
        let missing = pystap(&["report".as_ref(), path.as_os_str()]);
        assert_eq!(
            (missing.code, missing.stdout.as_str()),
            (1, ""),
            "{missing:?}"
        );
        assert_eq!(missing.stderr.lines().count(), 1, "{missing:?}");
        terminal_shows(&missing.stderr);

        executable::copy("/bin/true", &path);
        let listed = pystap(&["marks".as_ref(), path.as_os_str()]);
        assert_eq!(listed.code, 0, "{listed:?}");
        terminal_shows(&listed.stdout);
        assert!(
            listed.stdout.contains(&Foreign::os(&name).to_string()),
            "{listed:?}"
        );
        let listed = pystap(&["marks".as_ref(), "--json".as_ref(), path.as_os_str()]);
        assert!(listed.stdout.chars().all(|it| it == '\n' || !obeyed(it)));
        serde_json::from_str::<Value>(&listed.stdout).expect("JSON");

        let made = directory.path().join("made.folded");
        let output = Command::new(crate::command::pystap())
            .args(["export", "-f", "folded", "-o"])
            .arg(&path)
            .arg(&path)
            .output()
            .expect("it runs");
        assert!(!output.status.success() && !made.exists());
        terminal_shows(&String::from_utf8_lossy(&output.stderr));
    }
}

/// A Python process with the corpus in its command line; it ends when this is dropped.
struct Evil(std::process::Child);

impl Evil {
    fn start() -> Evil {
        let mut child = Command::new(PYTHON)
            .arg(file("tests/programs/waits.py"))
            .args(evil_names())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut ready = [0; 6];
        let stdout = child.stdout.as_mut().expect("piped");
        stdout.read_exact(&mut ready).expect("it says ready");
        Evil(child)
    }
}

impl Drop for Evil {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn a_process_of_an_evil_command_line_is_a_line_of_ps_and_of_a_dry_run() {
    let process = Evil::start();
    let pid = process.0.id().to_string();
    let listed = run(&mut command(["ps"]));
    assert_eq!(listed.code, 0, "{listed:?}");
    terminal_shows(&listed.stdout);
    let own = |line: &&str| line.split_whitespace().next() == Some(pid.as_str());
    let line = listed.stdout.lines().find(own).expect("its line");
    assert!(line.contains("\\u{1b}[2J"), "{line}");
    let listed = run(&mut command(["ps", "--json"]));
    assert!(listed.stdout.chars().all(|it| it == '\n' || !obeyed(it)));
    let all: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let ours = all.as_array().into_iter().flatten();
    let ours = ours
        .clone()
        .find(|it| it["pid"] == process.0.id())
        .expect("it is there");
    let last = evil_names().pop().expect("names");
    let words = ours["command"].as_array().expect("words");
    assert_eq!(
        words.last().and_then(Value::as_str),
        Some(String::from_utf8_lossy(last.as_bytes()).as_ref())
    );

    let dry = run(&mut command([
        "trace",
        "--dry-run",
        "--events",
        "gc",
        "-p",
        &pid,
    ]));
    assert_eq!(dry.code, 0, "{dry:?}");
    terminal_shows(&dry.stdout);
    let process = format!("process    {pid} ");
    let line = dry
        .stdout
        .lines()
        .find(|line| line.starts_with(&process))
        .expect("its line");
    assert!(line.contains("\\u{1b}[2J"), "{line}");
}

#[test]
fn facts_of_evil_words_are_a_report_on_a_terminal() {
    let mut facts: Value = serde_json::from_str(
        &fs::read_to_string(file("tests/data/hosts/debian-12.json")).expect("read"),
    )
    .expect("JSON");
    let all = evil().0.join(" ");
    facts["overlooked"] = evil().0.into();
    facts["distribution"]["value"]["name"] = all.clone().into();
    facts["kernel"]["version"]["value"] = all.clone().into();
    facts["pythons"][0]["path"] = format!("/usr/bin/{all}").into();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("facts.json");
    fs::write(&path, facts.to_string()).expect("written");
    let path = path.to_str().expect("UTF-8");
    for more in [&[] as &[&str], &["--verbose"], &["--fix-script"]] {
        let ended = run(&mut command(
            [&["--color", "never", "doctor", "--facts", path], more].concat(),
        ));
        assert!(ended.code == 0 || ended.code == 3, "{ended:?}");
        if more != ["--fix-script"] {
            assert!(ended.stdout.contains("\\u{1b}[2J"), "{more:?}");
        }
        for line in ended.stdout.lines().filter(|it| !it.is_empty()) {
            terminal_shows(line);
        }
    }
    let ended = run(&mut command(["doctor", "--json", "--facts", path]));
    assert!(ended.stdout.chars().all(|it| it == '\n' || !obeyed(it)));
    serde_json::from_str::<Value>(&ended.stdout).expect("JSON");
}

/// A full pipe, and its reader.
pub(crate) fn full_pipe() -> (io::PipeReader, io::PipeWriter) {
    let (reader, writer) = io::pipe().expect("a pipe");
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer));
    let own = rustix::fs::open(again, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty());
    let own = own.expect("a pipe");
    while rustix::io::write(&own, &[b'.'; 4096]).is_ok() {}
    while rustix::io::write(&own, b".").is_ok() {}
    (reader, writer)
}

pub(crate) fn make_pipe(path: &Path) {
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, mode, 0).expect("a pipe");
}

#[test]
fn a_stderr_that_nobody_reads_holds_up_no_command() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = directory.path().join("missing");
    for arguments in [
        &["report", missing.to_str().expect("UTF-8")] as &[&str],
        &["export", "-f", "folded", missing.to_str().expect("UTF-8")],
        &["marks", missing.to_str().expect("UTF-8")],
        &["trace", "-p", "999999999"],
        &["record", "-p", "1"],
        &["no-such-command"],
        &["doctor", "--facts", missing.to_str().expect("UTF-8")],
    ] {
        let (reader, writer) = full_pipe();
        let mut child = command(arguments)
            .stdout(Stdio::null())
            .stderr(writer)
            .spawn()
            .expect("it starts");
        let code = end(&mut child, BOUND);
        if code.is_none() {
            let _ = child.kill();
        }
        assert!(
            code.is_some_and(|code| (1..=4).contains(&code)),
            "{arguments:?}: {code:?}"
        );
        drop(reader);
    }
}

#[test]
fn what_nobody_reads_at_first_is_said_when_somebody_does() {
    let (mut reader, writer) = full_pipe();
    let mut command = command(["report", "/nonexistent/run.pystap"]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .expect("it starts");
    drop(command);
    let mut said = Vec::new();
    reader.read_to_end(&mut said).expect("read");
    assert_eq!(end(&mut child, BOUND), Some(1));
    let said = String::from_utf8(said).expect("UTF-8");
    let said = said.trim_start_matches('.');
    assert!(
        said.starts_with("pystap: error: /nonexistent/run.pystap"),
        "{said}"
    );
    assert!(said.ends_with('\n'), "{said}");
}

#[test]
fn a_stdout_that_nobody_reads_ends_with_two_interrupts_whatever_prints() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = recording(directory.path());
    let path = path.to_str().expect("UTF-8");
    let facts = file("tests/data/hosts/debian-12.json");
    for arguments in [
        &["schema"] as &[&str],
        &["--help"],
        &["list"],
        &["man"],
        &["completions", "bash"],
        &["marks", "/bin/true"],
        &["report", path],
        &["export", "-f", "folded", path],
        &["export", "-f", "json", path],
        &["ps"],
        &["doctor", "--facts", &facts],
        &["agent", "status"],
    ] {
        let (reader, writer) = full_pipe();
        let (error_reader, error_writer) = full_pipe();
        let mut child = command(arguments)
            .stdout(writer)
            .stderr(error_writer)
            .spawn()
            .expect("it starts");
        for _ in 0..2 {
            // The second signal finds no process if the first was enough.
            let _ = kill_process(Pid::from_child(&child), Signal::INT);
        }
        let code = end(&mut child, BOUND);
        if code.is_none() {
            let _ = child.kill();
        }
        assert!(code.is_some(), "{arguments:?}");
        drop((reader, error_reader));
    }
}

#[test]
fn an_export_to_a_pipe_waits_for_a_reader_says_so_and_is_whole_then() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = recording(directory.path());
    let pipe = directory.path().join("pipe");
    make_pipe(&pipe);
    let words = ["export", "-f", "folded", "-o"].map(OsStr::new);
    let arguments = [words.as_slice(), &[pipe.as_os_str(), path.as_os_str()]].concat();
    for read in [false, true] {
        let mut child = command(&arguments)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stderr = child.stderr.take().expect("piped");
        let mut said = Vec::new();
        while !said.ends_with(b"\n") {
            let mut byte = [0];
            stderr.read_exact(&mut byte).expect("it says that it waits");
            said.extend_from_slice(&byte);
        }
        let said = String::from_utf8(said).expect("UTF-8");
        assert!(said.contains("nobody reads"), "{said}");
        if read {
            let text = fs::read_to_string(&pipe).expect("read");
            assert_eq!(end(&mut child, BOUND), Some(0));
            assert_eq!(text, export("folded"));
        } else {
            kill_process(Pid::from_child(&child), Signal::INT).expect("it waits");
            assert_eq!(end(&mut child, BOUND), Some(130));
        }
    }
}

#[test]
fn a_pipe_or_a_device_in_the_place_of_a_file_to_read_is_refused_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = directory.path().join("pipe.stp.tera");
    make_pipe(&pipe);
    let at = directory.path().to_str().expect("UTF-8");
    let pipe = pipe.to_str().expect("UTF-8");
    for (arguments, what) in [
        (&["report", pipe] as &[&str], "a pipe"),
        (&["export", "-f", "json", pipe], "a pipe"),
        (&["report", "/dev/zero"], "a device"),
        (&["doctor", "--facts", pipe], "a pipe"),
        (&["doctor", "--facts", "/dev/zero"], "a device"),
        (&["list", "--template-dir", at], "a pipe"),
    ] {
        let ended = run(&mut command(arguments));
        let error = ended.only_error();
        assert!(error.contains(what), "{error}");
    }
    let services = directory.path().join("pystap");
    fs::create_dir(&services).expect("created");
    make_pipe(&services.join("services.toml"));
    let ended = run(command(["ps", "nova"]).env("XDG_CONFIG_HOME", directory.path()));
    assert!(ended.only_error().contains("a pipe"), "{ended:?}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o7777
}

#[test]
#[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
fn what_is_written_is_its_owners_alone_unless_it_was_there_or_is_a_manual() {
    let directory = tempfile::tempdir().expect("a directory");
    let recording = recording(directory.path());
    let at = |name: &str| directory.path().join(name);
    let export = |name: &str| {
        let words = ["export", "-f", "folded", "-o"].map(OsStr::new);
        let out = at(name);
        let ended = pystap(&[words.as_slice(), &[out.as_os_str(), recording.as_os_str()]].concat());
        assert_eq!(ended.code, 0, "{ended:?}");
        mode(&out)
    };
    assert_eq!(export("new"), 0o600);
    fs::write(at("old"), "").expect("written");
    fs::set_permissions(at("old"), fs::Permissions::from_mode(0o640)).expect("changed");
    assert_eq!(export("old"), 0o640);
    let facts = at("facts.json");
    let process = Evil::start();
    let pid = process.0.id().to_string();
    let words = ["doctor", "-p", &pid, "--save-facts"].map(OsStr::new);
    let ended = pystap(&[words.as_slice(), &[facts.as_os_str()]].concat());
    assert!(ended.code == 0 || ended.code == 3, "{ended:?}");
    assert_eq!(mode(&facts), 0o600);
    let ended = pystap(&[
        "man".as_ref(),
        "--directory".as_ref(),
        directory.path().as_os_str(),
    ]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(mode(&at("pystap.1")), 0o644);
    assert!(at("pystap-trace.1").exists() && !at("pystap-hold.1").exists());
}

#[test]
fn a_disk_that_is_full_and_a_file_that_may_not_grow_leave_what_was_there_and_are_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let recording = recording(directory.path());
    let out = directory.path().join("out");
    fs::write(&out, "before").expect("written");
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -f 1; exec \"$@\"", "sh"])
        .arg(crate::command::pystap())
        .args(["export", "-f", "flamegraph", "-o"])
        .args([&out, &recording]);
    let ended = run(&mut limited);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.only_error().contains("File too large"), "{ended:?}");
    assert_eq!(fs::read_to_string(&out).expect("read"), "before");
    assert_eq!(fs::read_dir(directory.path()).expect("read").count(), 2);
    let words = ["export", "-f", "json", "-o", "/dev/full"].map(OsStr::new);
    let ended = pystap(&[words.as_slice(), &[recording.as_os_str()]].concat());
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.only_error().contains("No space left"), "{ended:?}");
}

/// Accepts this many bytes, then the disk is full.
struct Disk {
    room: usize,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.room);
        if taken == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room -= taken;
        let taken = bytes.get(..taken).unwrap_or_default();
        self.bytes
            .lock()
            .expect("no panic")
            .extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn every_sink_knows_which_events_a_full_disk_did_not_take() {
    type Make = fn(Disk) -> Box<dyn Sink>;
    let makes: [(&str, Make); 3] = [
        ("json", |disk| Box::new(Json::new(disk))),
        ("flow", |disk| Box::new(Flow::new(disk, Options::default()))),
        ("recording", |disk| Box::new(Writer::new(disk, HABITS))),
    ];
    let (_, events) = stream();
    let counted = |events: &[Event]| {
        events
            .iter()
            .filter(|it| !matches!(it.what, What::Lost { .. }))
            .count() as u64
    };
    for (name, make) in makes {
        for room in (20_000..120_000).step_by(7_001) {
            let bytes = Arc::default();
            let disk = Disk {
                room,
                bytes: Arc::clone(&bytes),
            };
            let mut sink = make(disk);
            if sink.session(&Session::default()).is_err() {
                continue;
            }
            let mut given = 0;
            for event in &events {
                given += 1;
                if sink.step(&Step::new(event)).is_err()
                    || (given % 50 == 0 && sink.flush().is_err())
                {
                    break;
                }
            }
            let _ = sink.flush();
            let taken = counted(&events[..given]) - sink.unwritten();
            let bytes = bytes.lock().expect("no panic").clone();
            let found = match name {
                "json" => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let whole = text
                        .split_inclusive('\n')
                        .filter(|line| line.ends_with('\n'));
                    whole
                        .filter(|line| serde_json::from_str::<Value>(line).is_ok())
                        .filter(|line| {
                            !line.contains("\"event\":\"lost\"")
                                && !line.contains("\"event\":\"session\"")
                        })
                        .count() as u64
                }
                "flow" => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let whole = text.split_inclusive('\n').filter(|it| it.ends_with('\n'));
                    whole.filter(tells_no_loss).count() as u64
                }
                _ => {
                    let mut reader = match pystap::recording::Reader::new(io::Cursor::new(bytes)) {
                        Ok(reader) => reader,
                        Err(error) => panic!("{error}"),
                    };
                    let mut found = 0;
                    while let Ok(Some(event)) = reader.event() {
                        found += u64::from(!matches!(event.what, What::Lost { .. }));
                    }
                    // The beginning of a truncated block is readable all the same.
                    assert!(found >= taken, "{name} {room}");
                    taken
                }
            };
            assert_eq!(found, taken, "{name} {room}");
        }
    }
}
