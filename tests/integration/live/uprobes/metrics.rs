//! Metrics of a real program, in the hands of those who read them: promtool, and Prometheus itself, which scrapes them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::super::Service;
use super::{PYTHON_3_11, tree};
use crate::command::{command, end, file, installed};
use crate::packaging::capabilities_of_the_unit;
use crate::tracing::{BOUND, leaves_nothing};

const MOMENT: Duration = Duration::from_millis(50);

/// A program that serves, ended when this goes.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `pystap export-metrics`, and where it answers.
struct Exporter {
    running: Running,
    messages: BufReader<ChildStderr>,
    address: String,
}

impl Exporter {
    fn start(options: &[&str]) -> Exporter {
        Exporter::of(command(["export-metrics"]), options)
    }

    fn of(mut command: Command, options: &[&str]) -> Exporter {
        command.args(["--listen", "127.0.0.1:0"]).args(options);
        let child = command.stderr(Stdio::piped()).spawn();
        let mut running = Running(child.expect("it starts"));
        let mut messages = BufReader::new(running.0.stderr.take().expect("piped"));
        let (mut said, mut address) = (String::new(), None);
        while !said.contains("live, tracing") {
            let from = said.len();
            assert_ne!(messages.read_line(&mut said).expect("text"), 0, "{said}");
            if let Some((_, rest)) = said[from..].split_once("http://") {
                let end = rest.find('/').expect("a path");
                address = Some(rest[..end].to_owned());
            }
        }
        Exporter {
            running,
            messages,
            address: address.unwrap_or_else(|| panic!("it answers nowhere: {said}")),
        }
    }

    /// Waits until it says something with this in it. The line.
    fn says(&mut self, what: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.messages.read_line(&mut line).expect("text");
            assert_ne!(read, 0, "it has not said {what}");
            if line.contains(what) {
                return line;
            }
        }
    }

    /// Ends it as a service is ended. What it said since it began.
    fn end(mut self) -> String {
        let pid = i32::try_from(self.running.0.id()).expect("small");
        kill_process(Pid::from_raw(pid).expect("not 0"), Signal::TERM).expect("it runs");
        let mut said = String::new();
        self.messages.read_to_string(&mut said).expect("text");
        assert_eq!(end(&mut self.running.0, BOUND), Some(0), "{said}");
        said
    }
}

/// What an address answers to this path: its body.
fn get(address: &str, path: &str, accept: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let question = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(question.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.contains(" 200 OK\r\n"), "{head}");
    Some(body.to_owned())
}

/// Asks again until there is an answer of this kind.
fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + BOUND;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "no {what}");
        std::thread::park_timeout(MOMENT);
    }
}

/// The number in the line of a metric that has this in its labels.
fn number(text: &str, name: &str, label: &str) -> Option<f64> {
    let mut lines = text.lines();
    let line = lines.find(|it| it.starts_with(name) && it.contains(label))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn check(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    let mut input = promtool.stdin.take().expect("piped");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let checked = promtool.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(
        checked.status.success() && said.is_empty(),
        "{said}\n{text}"
    );
}

/// A database that scrapes this address every 200 ms, and where it answers queries.
fn scraping(directory: &Path, scraped: &str, database: &str) -> (Running, String) {
    let config = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\n\
         scrape_configs:\n- job_name: pystap\n  static_configs:\n  - targets: ['{scraped}']\n"
    );
    let path = directory.join("prometheus.yml");
    std::fs::write(&path, config).expect("written");
    let (path, data) = (path.display(), directory.join("data"));
    let data = data.display();
    let address = free_address();
    let arguments = match database {
        "prometheus" => vec![
            format!("--config.file={path}"),
            format!("--storage.tsdb.path={data}"),
            format!("--web.listen-address={address}"),
        ],
        // The newest numbers count for it, too.
        _ => vec![
            format!("-promscrape.config={path}"),
            format!("-storageDataPath={data}"),
            format!("-httpListenAddr={address}"),
            "-search.latencyOffset=1ms".to_owned(),
        ],
    };
    let child = Command::new(database)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    (Running(child.expect("it is installed")), address)
}

/// An address that nobody listens at.
fn free_address() -> String {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    free.local_addr().expect("an address").to_string()
}

/// What a database answers to a query without anything to be quoted in it.
fn asked(address: &str, query: &str) -> Option<f64> {
    let path = format!("/api/v1/query?query={query}");
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    body["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn prometheus_knows_how_often_functions_were_called_and_how_long_that_took() {
    leaves_nothing(|| {
        for options in [
            &["--engine", "direct"][..],
            &["--engine", "uprobes", "--agent"],
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            let mut service = Service::start_with(PYTHON_3_11, "examples/service.py", &[]);
            let pid = service.pid();
            let of = ["--inject", "ptrace", "-p", &pid];
            let functions = ["--function", "handle", "--function", "*/service.py:fail"];
            let exporter = Exporter::start(&[options, &of, &functions].concat());
            let (_prometheus, address) =
                scraping(directory.path(), &exporter.address, "prometheus");
            for number in 0..250 {
                service.request(if number % 50 == 49 { "fail" } else { "work" });
            }
            let query = "pystap_calls_total{function=\"handle\"}";
            let encoded = "pystap_calls_total%7Bfunction=%22handle%22%7D";
            wait_for(query, || {
                asked(&address, encoded).filter(|calls| *calls == 250.0)
            });
            let of_fail = "pystap_call_duration_seconds_count%7Bfunction=%22fail%22%7D";
            wait_for("calls of fail", || {
                asked(&address, of_fail).filter(|calls| *calls == 5.0)
            });
            let up = "sum(up%7Bjob=%22pystap%22%7D*pystap_up)";
            assert_eq!(asked(&address, up), Some(1.0));
            let text = get(&exporter.address, "/metrics", "*/*").expect("it answers");
            check(&text);
            let all = number(&text, "pystap_call_duration_seconds_bucket", "\"+Inf\"");
            let service_label = "service=\"service\"";
            assert!(all.is_some() && text.contains(service_label), "{text}");
            // What was not asked for is not there.
            assert!(!text.contains("\"parse\""), "{text}");
            assert_eq!(number(&text, "pystap_processes", service_label), Some(1.0));
            for stage in ["ring", "kernel", "probe"] {
                let lost = number(&text, "pystap_lost_events_total", stage);
                assert_eq!(lost, Some(0.0), "{text}");
            }
            let open = "application/openmetrics-text";
            let text = get(&exporter.address, "/metrics", open).expect("it answers");
            assert!(text.ends_with("# EOF\n"), "{text}");
            let said = exporter.end();
            assert!(said.contains("nothing lost"), "{said}");
            service.end();
        }
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn exceptions_and_generations_are_told_where_they_are_asked_for() {
    leaves_nothing(|| {
        let mut service = Service::start_with(PYTHON_3_11, "examples/service.py", &[]);
        let pid = service.pid();
        let exporter = Exporter::start(&[
            "--engine",
            "direct",
            "--inject",
            "ptrace",
            "--exceptions",
            "--function",
            "fail",
            "-p",
            &pid,
        ]);
        for _ in 0..7 {
            service.request("fail");
        }
        let text = wait_for("exceptions", || {
            let text = get(&exporter.address, "/metrics", "")?;
            let failed = number(&text, "pystap_exceptions_total", "\"fail\"");
            (failed == Some(7.0)).then_some(text)
        });
        check(&text);
        assert_eq!(number(&text, "pystap_calls_total", "\"fail\""), Some(7.0));
        exporter.end();
        service.end();
    });
}

/// setpriv with no more capabilities than the unit leaves.
fn with_capabilities_of_the_unit() -> Command {
    let names = capabilities_of_the_unit().into_iter();
    let names: String = names
        .map(|name| format!(",+{}", name.to_lowercase()))
        .collect();
    let mut setpriv = Command::new("setpriv");
    setpriv
        .arg(format!("--bounding-set=-all{names}"))
        .args(["--inh-caps=-all", "--no-new-privs"]);
    setpriv
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn the_capabilities_that_the_unit_leaves_suffice_for_a_service_of_another_user() {
    leaves_nothing(|| {
        let mut python = Command::new("setpriv");
        python
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", PYTHON_3_11, "-c"])
            .arg("import os\ndef handle(): return 'ok'\nprint('ready', flush=True)\nwhile True: input(); print(handle(), flush=True)");
        let mut service = Service::of(python);
        let pid = service.pid();
        let mut pystap = with_capabilities_of_the_unit();
        pystap.arg(crate::command::pystap()).arg("export-metrics");
        let exporter = Exporter::of(pystap, &of_handle(&pid, &[]));
        for _ in 0..10 {
            service.request("work");
        }
        wait_for("sum of 10 calls", || {
            let text = get(&exporter.address, "/metrics", "")?;
            let calls = number(&text, "pystap_calls_total", "\"handle\"");
            (calls == Some(10.0)).then_some(())
        });
        exporter.end();
    });
}

#[test]
#[ignore = "needs uprobe events and a tree of tests/guest/build: run by tests/uprobes/run"]
fn these_capabilities_suffice_in_a_container_that_sees_the_processes_of_the_host_in_a_tree() {
    leaves_nothing(|| {
        let mut service = Service::start_with(PYTHON_3_11, "examples/service.py", &[]);
        let pid = service.pid();
        // A root of its own that cannot be written, with what the manifest mounts, and pystap in it.
        let root = tree("trixie");
        let root = root.display();
        let script = format!(
            "mount --bind {root} {root} && mount -o remount,bind,ro {root} && mount -t proc proc {root}/proc || exit 1
             for place in run tmp mnt; do mount -t tmpfs tmpfs {root}/$place || exit 1; done
             cp \"$1\" {root}/mnt/pystap && shift && exec chroot {root} \"$@\""
        );
        let mut container = Command::new("unshare");
        container
            .args([
                "--mount", "--uts", "--ipc", "--cgroup", "sh", "-c", &script, "sh",
            ])
            .arg(crate::command::pystap());
        let setpriv = with_capabilities_of_the_unit();
        container
            .arg(setpriv.get_program())
            .args(setpriv.get_args());
        container.args(["/mnt/pystap", "export-metrics"]);
        let exporter = Exporter::of(container, &of_handle(&pid, &[]));
        for _ in 0..10 {
            service.request("work");
        }
        wait_for("sum of 10 calls", || {
            let text = get(&exporter.address, "/metrics", "")?;
            let calls = number(&text, "pystap_calls_total", "\"handle\"");
            (calls == Some(10.0)).then_some(())
        });
        exporter.end();
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn victoria_metrics_scrapes_the_numbers_and_takes_them_when_they_are_pushed() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let mut service = Service::start_with(PYTHON_3_11, "examples/service.py", &[]);
        let exporter = Exporter::start(&of_handle(&service.pid(), &[]));
        let (_database, address) =
            scraping(directory.path(), &exporter.address, "victoria-metrics");
        for _ in 0..50 {
            service.request("work");
        }
        let scraped = "pystap_calls_total%7Bfunction=%22handle%22,job=%22pystap%22%7D";
        wait_for("50 calls", || {
            asked(&address, scraped).filter(|calls| *calls == 50.0)
        });
        // Buckets are read as those of a histogram: every call was shorter than the longest.
        let quantile =
            "histogram_quantile(1,pystap_call_duration_seconds_bucket%7Bfunction=%22handle%22%7D)";
        wait_for("a quantile", || {
            asked(&address, quantile).filter(|seconds| (0.0..137.5).contains(seconds))
        });
        let text = get(&exporter.address, "/metrics", "").expect("it answers");
        let mut stream = TcpStream::connect(&address).expect("it listens");
        write!(
            stream,
            "POST /api/v1/import/prometheus?extra_label=job=pushed HTTP/1.0\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )
        .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        assert!(answer.contains(" 204 "), "{answer}");
        let pushed = scraped.replace("%22pystap%22", "%22pushed%22");
        wait_for("50 calls that were pushed", || {
            asked(&address, &pushed).filter(|calls| *calls == 50.0)
        });
        exporter.end();
        service.end();
    });
}

/// The arguments of a session that counts the calls of `handle` in a process, and more of them.
fn of_handle<'a>(pid: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let of = ["--engine", "direct", "--inject", "ptrace", "-p", pid];
    [&of[..], &["--function", "handle"], more].concat()
}

/// The points of a metric in a request of OTLP.
fn points<'a>(request: &'a Value, name: &str, kind: &str) -> Vec<&'a Value> {
    let metrics = &request["request"]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
    let metrics = metrics.as_array().expect("metrics").iter();
    let of = metrics.filter(|metric| metric["name"] == name);
    of.flat_map(|metric| metric[kind]["dataPoints"].as_array().expect("points"))
        .collect()
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_receiver_of_otlp_is_sent_sums_and_exponential_histograms_that_it_can_read() {
    leaves_nothing(|| {
        let receiver = Command::new(installed("otlp/venv/bin/python"))
            .arg(file("tests/programs/otlp_receiver.py"))
            .stdout(Stdio::piped())
            .spawn();
        let mut receiver = Running(receiver.expect("it starts"));
        let mut requests = BufReader::new(receiver.0.stdout.take().expect("piped")).lines();
        let mut line = || requests.next().expect("it runs").expect("text");
        let url = format!("http://127.0.0.1:{}", line());
        let mut service = Service::start_with(PYTHON_3_11, "examples/service.py", &[]);
        let pid = service.pid();
        let options = ["--otlp", &url, "--interval", "200ms"];
        let exporter = Exporter::start(&of_handle(&pid, &options));
        for _ in 0..100 {
            service.request("work");
        }
        let request = wait_for("sum of 100 calls", || {
            let request: Value = serde_json::from_str(&line()).expect("JSON");
            assert!(request["error"].is_null(), "{request}");
            let calls = points(&request, "pystap.calls", "sum");
            let is_all = calls.first().is_some_and(|it| it["asInt"] == "100");
            is_all.then_some(request)
        });
        let all = points(&request, "pystap.call_duration", "exponentialHistogram");
        let buckets = all[0]["positive"]["bucketCounts"]
            .as_array()
            .expect("buckets");
        let counts = buckets.iter().map(|it| it.as_str().expect("a number"));
        let sum: u64 = counts.map(|it| it.parse::<u64>().expect("a number")).sum();
        assert_eq!((&all[0]["count"], sum), (&"100".into(), 100), "{request}");
        let offset = all[0]["positive"]["offset"].as_i64().expect("an offset");
        let least = all[0]["min"].as_f64().expect("a number").log2();
        assert_eq!(offset, least.floor() as i64, "{request}");
        let attribute = &all[0]["attributes"][2];
        assert_eq!(attribute["value"]["stringValue"], "handle", "{request}");
        let said = exporter.end();
        assert!(said.contains("nothing dropped"), "{said}");
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn an_address_that_is_taken_costs_no_trace() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let ended = crate::command::run(&mut command([
        "export-metrics",
        "--listen",
        &address,
        "--function",
        "f",
        "-p",
        "1",
    ]));
    assert_eq!(ended.code, 1, "{ended:?}");
    let error = ended.only_error();
    assert!(
        error.contains(&address) && error.contains("in use"),
        "{error}"
    );
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_receiver_that_never_answers_costs_no_call_and_what_it_does_not_take_is_counted() {
    leaves_nothing(|| {
        // The kernel takes connections for it, and nobody reads them.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", silent.local_addr().expect("an address"));
        let mut service = Service::start_with(PYTHON_3_11, "examples/service.py", &[]);
        let pid = service.pid();
        let options = [
            "--otlp",
            &url,
            "--interval",
            "100ms",
            "--otlp-timeout",
            "300ms",
        ];
        let mut exporter = Exporter::start(&of_handle(&pid, &options));
        let told = exporter.says("the receiver at");
        for what in [
            &url[..],
            "timed out",
            "tracing goes on",
            "dropped and counted",
        ] {
            assert!(told.contains(what), "{told}");
        }
        let text = wait_for("batch that was dropped", || {
            let text = get(&exporter.address, "/metrics", "")?;
            let dropped = number(&text, "pystap_otlp_dropped_batches_total", "")?;
            (dropped >= 3.0).then_some(text)
        });
        check(&text);
        let taken = number(&text, "pystap_otlp_requests_total", "");
        assert_eq!(taken, Some(0.0), "{text}");
        for _ in 0..100 {
            service.request("work");
        }
        wait_for("sum of 100 calls", || {
            let text = get(&exporter.address, "/metrics", "")?;
            let calls = number(&text, "pystap_calls_total", "\"handle\"");
            (calls == Some(100.0)).then_some(())
        });
        let said = exporter.end();
        assert!(!said.contains("the receiver at"), "{said}");
        assert!(
            said.contains("0 requests taken") && said.contains("batches dropped"),
            "{said}"
        );
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn a_certificate_that_nobody_vouches_for_is_told_with_what_helps_and_that_helps() {
    leaves_nothing(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let certificate = directory.path().join("certificate.pem");
        let both = directory.path().join("both.pem");
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args([
                "-subj",
                "/CN=receiver",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
            ])
            .arg("-keyout")
            .arg(&both)
            .arg("-out")
            .arg(&certificate)
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{made:?}");
        let mut key = std::fs::read(&both).expect("written");
        key.extend(std::fs::read(&certificate).expect("written"));
        std::fs::write(&both, key).expect("written");
        let receiver = Command::new(installed("otlp/venv/bin/python"))
            .arg(file("tests/programs/otlp_receiver.py"))
            .arg(&both)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut receiver = Running(receiver.expect("it starts"));
        let mut requests = BufReader::new(receiver.0.stdout.take().expect("piped")).lines();
        let mut line = || requests.next().expect("it runs").expect("text");
        let url = format!("https://127.0.0.1:{}", line());
        let mut service = Service::start_with(PYTHON_3_11, "examples/service.py", &[]);
        let pid = service.pid();
        let options = of_handle(&pid, &["--otlp", &url, "--interval", "200ms"]);
        let mut exporter = Exporter::start(&options);
        let told = exporter.says("the receiver at");
        for what in [
            &url[..],
            "self-signed certificate",
            "update-ca-certificates",
            "CURL_CA_BUNDLE",
        ] {
            assert!(told.contains(what), "{told}");
        }
        let said = exporter.end();
        assert!(said.contains("0 requests taken"), "{said}");
        let mut command = command(["export-metrics"]);
        command.env("CURL_CA_BUNDLE", &certificate);
        let exporter = Exporter::of(command, &options);
        service.request("work");
        wait_for("sum of a call", || {
            let request: Value = serde_json::from_str(&line()).expect("JSON");
            let calls = points(&request, "pystap.calls", "sum");
            calls
                .first()
                .is_some_and(|it| it["asInt"] == "1")
                .then_some(())
        });
        let said = exporter.end();
        assert!(!said.contains("the receiver at"), "{said}");
        service.end();
    });
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn without_curl_nothing_begins_and_the_package_is_named() {
    let empty = tempfile::tempdir().expect("a directory");
    let mut command = command(["export-metrics", "--otlp", "http://127.0.0.1:4318"]);
    command.args(["--function", "f", "-p", "1"]);
    let ended = crate::command::run(command.env("PATH", empty.path()));
    assert_eq!(ended.code, 1, "{ended:?}");
    let error = ended.only_error();
    for what in [
        "no curl in PATH",
        "nothing was traced",
        "install the package curl",
    ] {
        assert!(error.contains(what), "{error}");
    }
}

/// Starts a process that has this number, which is nobody's.
fn with_the_number(number: &str, start: impl Fn() -> Service) -> Service {
    let before = number.parse::<u32>().expect("a number") - 1;
    wait_for("a process with the number of another one", || {
        fs::write("/proc/sys/kernel/ns_last_pid", before.to_string()).expect("root may");
        // Somebody else's process may have come between.
        let started = start();
        (started.pid() == number).then_some(started)
    })
}

#[test]
#[ignore = "needs uprobe events: run by tests/uprobes/run"]
fn counts_of_a_service_go_on_when_it_is_restarted_and_never_go_back() {
    leaves_nothing(|| {
        // Each has a title as workers of OpenStack's services have, and tells how often it has called.
        let start = |number: u32| {
            let title = format!("masakari-engine: ServiceWrapper worker({number})");
            let arguments = ["masakari-engine:", &title];
            Service::start_with(PYTHON_3_11, "tests/programs/posing.py", &arguments)
        };
        let mut worker = start(0);
        let options = ["--engine", "direct", "--inject", "ptrace"];
        let of = ["--function", "work", "masakari"];
        let exporter = Exporter::start(&[&options[..], &of].concat());
        let calls = |text: &str| number(text, "pystap_calls_total", "\"work\"");
        let mut before = 0.0;
        let mut more = |processes: f64, least: f64| {
            let goal = before + least;
            wait_for("more calls", || {
                let text = get(&exporter.address, "/metrics", "")?;
                let now = calls(&text)?;
                assert!(now >= before, "{now} after {before}");
                before = now;
                let running = number(&text, "pystap_processes", "\"masakari\"");
                (now >= goal && running == Some(processes)).then_some(())
            });
        };
        more(1.0, 20.0);
        for restart in 1..=2 {
            drop(worker);
            // Nobody is there, and the counts stand.
            more(0.0, 0.0);
            worker = start(restart);
            more(1.0, 20.0);
        }
        // In weeks, numbers of processes come round again.
        let number = worker.pid();
        drop(worker);
        more(0.0, 0.0);
        worker = with_the_number(&number, || start(3));
        more(1.0, 20.0);
        let said = exporter.end();
        assert!(said.contains("nothing lost"), "{said}");
        drop(worker);
    });
}
