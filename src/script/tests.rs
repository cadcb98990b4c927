//! Rendering: what a request becomes, whose template wins, and what is said about one that is wrong. That real stap takes
//! the result is tested in tests/integration/scripts.rs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::filter::Glob;
use super::*;
use crate::probe::ArgumentKind;

fn catalogue(directories: &[&Path]) -> Catalogue {
    let directories: Vec<PathBuf> = directories.iter().map(|path| path.to_path_buf()).collect();
    Catalogue::load(&directories).expect("readable")
}

fn request(templates: &[&str]) -> Request {
    Request {
        images: vec![ProbedImage {
            path: "/usr/bin/python3.15".to_owned(),
            provider: "python",
            marks: MARKS.map(str::to_owned).to_vec(),
            library: false,
            arguments: false,
        }],
        templates: templates.iter().map(|name| (*name).to_owned()).collect(),
        events: EventKind::ALL.map(|kind| kind.name().to_owned()).to_vec(),
        filters: Filters::default(),
    }
}

fn rendered(request: &Request) -> String {
    render(&catalogue(&[]), request).expect("rendered")
}

/// A directory of templates of the user's own.
fn templates(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("written");
    }
    directory
}

/// Names of the files in a directory of the repository, without their ending.
fn names(directory: &str, ending: &str) -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let names: BTreeSet<String> = fs::read_dir(&directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.into_string().expect("UTF-8"))
        .map(|name| {
            let name = name.strip_suffix(ending);
            name.expect("nothing else lies there").to_owned()
        })
        .collect();
    assert!(!names.is_empty(), "{}", directory.display());
    names
}

#[test]
fn a_mark_that_passes_arguments_is_probed_once_and_for_them() {
    let mut request = request(&["calls"]);
    request.images.push(ProbedImage {
        path: "/opt/python-marks/bin/python2.7".to_owned(),
        provider: "python",
        marks: vec!["function__entry".to_owned(), "function__return".to_owned()],
        library: false,
        arguments: true,
    });
    let script = rendered(&request);
    let entry =
        r#"process("/opt/python-marks/bin/python2.7").provider("python").mark("function__entry")"#;
    let (before, probe) = script.split_once(entry).expect("it is probed");
    assert!(before.ends_with("probe "), "{before}");
    let body = probe.split("\n}").next().expect("it ends");
    assert!(
        body.contains(
            "pystap_told_arguments($arg3, key, pystap_string($arg4), pystap_string($arg5))"
        ),
        "{body}"
    );
    assert!(!probe.contains(entry), "{script}");
    assert!(
        script.contains(
            r#"process("/usr/bin/python3.15").provider("python").mark("function__entry") {"#
        ),
        "the others pass none: {script}"
    );
}

#[test]
fn the_agents_marks_stand_beside_those_of_interpreters() {
    let mut request = request(&["calls"]);
    request.images.push(ProbedImage {
        path: "/tmp/pystap-agent-0-00/libpystap_agent.so".to_owned(),
        provider: "pystap",
        marks: vec!["function__entry".to_owned(), "context__name".to_owned()],
        library: true,
        arguments: false,
    });
    let script = rendered(&request);
    let point = r#"process("/tmp/pystap-agent-0-00/libpystap_agent.so").provider("pystap").mark("function__entry")"#;
    assert!(script.contains(point), "{script}");
    assert!(
        script.contains(r#".provider("python").mark("function__entry")"#),
        "{script}"
    );
}

/// A request for an interpreter's marks and the agent's.
fn with_agent(templates: &[&str]) -> Request {
    let mut request = request(templates);
    let marks = ["function__entry", "function__return", "context__name"];
    request.images.push(ProbedImage {
        path: "/tmp/agent.so".to_owned(),
        provider: "pystap",
        marks: marks.map(str::to_owned).to_vec(),
        library: true,
        arguments: false,
    });
    request
}

#[test]
fn what_the_agent_tells_beyond_others_is_read_from_its_own_marks_only() {
    let agent = r#"process("/tmp/agent.so").provider("pystap")"#;
    let python = r#"process("/usr/bin/python3.15").provider("python")"#;
    for (template, of_python, of_agent) in [
        ("calls", "pystap_place($arg1, $arg2)", "$arg7"),
        (
            "timed_calls",
            "pystap_span($arg3, key)",
            "pystap_span_told(",
        ),
        ("top", "pystap_leave(", "pystap_leave_told("),
    ] {
        let script = rendered(&with_agent(&[template]));
        let probe = |point: &str| {
            let point = format!("probe {point}.mark(\"function__return\") {{");
            let (_, body) = script.split_once(&point).expect("a probe of its own");
            body.split("\n}").next().expect("it ends").to_owned()
        };
        let (python, agent) = (probe(python), probe(agent));
        assert!(python.contains(of_python), "{template}: {python}");
        assert!(!python.contains("$arg4"), "{template}: {python}");
        assert!(agent.contains(of_agent), "{template}: {agent}");
        assert!(agent.contains("$arg5"), "{template}: {agent}");
    }
    for template in ["calls", "timed_calls"] {
        let script = rendered(&with_agent(&[template]));
        let names = format!("probe {agent}.mark(\"context__name\") {{");
        assert!(script.contains(&names), "{script}");
    }
}

#[test]
fn without_the_agent_a_script_has_nothing_of_it() {
    for template in ["calls", "timed_calls", "top"] {
        let script = rendered(&request(&[template]));
        assert!(!script.contains("_told"), "{script}");
        assert!(!script.contains("context"), "{script}");
    }
}

#[test]
fn where_the_agent_alone_has_marks_it_alone_is_probed() {
    for template in ["calls", "timed_calls", "top"] {
        let mut request = with_agent(&[template]);
        request.images.remove(0);
        let script = rendered(&request);
        assert!(!script.contains("pystap_place("), "{script}");
        assert!(!script.contains("probe  {"), "{script}");
        assert!(script.contains("_told("), "{script}");
    }
}

#[test]
fn the_script_for_waits_probes_the_scheduler_and_no_process() {
    let script = rendered(&Request {
        images: Vec::new(),
        ..request(&["waits"])
    });
    assert!(!script.contains("process"), "{script}");
    insta::assert_snapshot!("waits", script);
}

#[test]
fn every_template_of_the_repository_is_in_the_binary() {
    let embedded: BTreeSet<String> = catalogue(&[])
        .iter()
        .map(|template| template.name.clone())
        .collect();
    assert_eq!(embedded, names("templates", ".stp.tera"));
}

#[test]
fn every_tapset_of_the_repository_is_in_the_binary() {
    let directory = tempfile::tempdir().expect("a directory");
    let tapsets = Tapsets::load(&[]).expect("embedded");
    tapsets.unpack(directory.path()).expect("unpacked");
    for name in names("tapsets/pystap", ".stp") {
        let file = format!("{name}.stp");
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("tapsets/pystap");
        assert_eq!(
            fs::read(directory.path().join(&file)).expect("it was unpacked"),
            fs::read(repository.join(&file)).expect("it is there"),
            "{file}"
        );
    }
}

#[test]
fn the_header_of_every_template_says_what_it_asks_emits_and_needs() {
    for template in catalogue(&[]).iter() {
        assert!(!template.question.is_empty(), "{}", template.name);
        assert!(!template.emits.is_empty(), "{}", template.name);
        // The frame of every script needs no mark of its own, and the scheduler has none.
        let without = ["session", "waits"].contains(&template.name.as_str());
        assert_eq!(template.marks.is_empty(), without);
        assert_eq!(template.parameters.is_empty(), template.name == "waits");
        for mark in &template.marks {
            assert!(Probe::of_name(mark).is_some(), "{mark}");
            assert!(
                ["points", "python"]
                    .iter()
                    .any(|of| template.text.contains(&format!("« {of}.{mark} »"))),
                "{} does not use {mark}",
                template.name
            );
        }
        for parameter in &template.parameters {
            let after = template.text.split_once("#]").expect("a header").1;
            assert!(
                after.contains(parameter.as_str()),
                "{parameter} is not used"
            );
        }
    }
}

#[test]
fn a_template_that_does_not_exist_is_named_and_the_list_is_pointed_to() {
    let error = render(&catalogue(&[]), &request(&["calls", "cals"])).expect_err("unknown");
    let message = error.to_string();
    assert!(message.contains("\"cals\""), "{message}");
    assert!(message.contains("`pystap list`"), "{message}");
}

#[test]
fn a_template_of_the_users_adds_to_the_built_in_ones() {
    let directory = templates(&[(
        "mine.stp.tera",
        "[#\nquestion: How often?\nemits: own\nmarks: line\nparameters: points\n#]\nprobe « points.line » { next }\n",
    )]);
    let catalogue = catalogue(&[directory.path()]);
    let mine = catalogue.get("mine").expect("it is listed");
    assert_eq!(mine.question, "How often?");
    assert!(mine.is_users());
    assert!(
        catalogue
            .get("calls")
            .is_some_and(|calls| !calls.is_users())
    );

    let text = render(&catalogue, &request(&["mine"])).expect("rendered");
    let probe = r#"probe process("/usr/bin/python3.15").provider("python").mark("line") { next }"#;
    assert!(text.contains(probe), "{text}");
}

#[test]
fn a_template_of_the_users_takes_the_place_of_a_built_in_one_and_the_last_directory_wins() {
    let first = templates(&[
        ("gc.stp.tera", "# of the first"),
        ("own.stp.tera", "# kept"),
    ]);
    let second = templates(&[("gc.stp.tera", "# of the second")]);
    let catalogue = catalogue(&[first.path(), second.path()]);
    let text = render(&catalogue, &request(&["gc", "own"])).expect("rendered");
    assert!(text.contains("# of the second\n"), "{text}");
    assert!(!text.contains("# of the first"), "{text}");
    assert!(!text.contains("gc__start"), "{text}");
    assert!(text.contains("# kept"), "{text}");
}

#[test]
fn a_directory_of_templates_that_is_not_there_adds_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let catalogue = catalogue(&[&directory.path().join("absent")]);
    assert!(catalogue.iter().all(|template| !template.is_users()));
}

#[test]
fn a_template_with_an_error_is_shown_with_its_line_and_a_caret() {
    let directory = templates(&[(
        "broken.stp.tera",
        "probe « points.line » {\n[% if nothing %]\n}",
    )]);
    let error = render(&catalogue(&[directory.path()]), &request(&["broken"])).expect_err("broken");
    let message = error.to_string();
    let (sentence, report) = message.split_once('\n').expect("a report below");
    let path = directory.path().join("broken.stp.tera");
    assert!(sentence.contains(&path.display().to_string()), "{message}");
    assert!(
        sentence.ends_with("correct it or run without it:"),
        "{message}"
    );
    assert!(report.contains("broken.stp.tera:3"), "{message}");
    assert!(report.contains('^'), "{message}");
}

#[test]
fn a_variable_that_no_template_gets_is_an_error_and_not_an_empty_place() {
    let directory = templates(&[("broken.stp.tera", "probe « points.lines » { next }")]);
    let error = render(&catalogue(&[directory.path()]), &request(&["broken"])).expect_err("broken");
    let message = error.to_string();
    assert!(message.contains("lines"), "{message}");
    assert!(message.contains('^'), "{message}");
}

#[test]
fn the_signs_of_systemtap_itself_pass_through_a_template_untouched() {
    let own = "%( kernel_v >= \"6.0\" %? /* {# {{ }} #} */ %: %)\nprobe begin { if (1) {%{ %} } x <<< 1 }";
    let directory = templates(&[("own.stp.tera", own)]);
    let text = render(&catalogue(&[directory.path()]), &request(&["own"])).expect("rendered");
    assert!(text.contains(own), "{text}");
}

#[test]
fn a_path_that_no_probe_point_can_name_is_refused() {
    for path in ["/opt/py*/python3", "/opt/\npython3", "/opt/{a,b}/python3"] {
        let mut request = request(&["calls"]);
        for image in &mut request.images {
            image.path = path.to_owned();
        }
        let error = render(&catalogue(&[]), &request).expect_err("not a path for stap");
        assert!(
            matches!(&error, ScriptError::Unquotable { what, .. } if what.contains(path)),
            "{error:?}"
        );
    }
}

#[test]
fn a_path_with_quotes_stays_inside_its_string() {
    let mut request = request(&["gc"]);
    for image in &mut request.images {
        image.path = r#"/opt/").mark("line"), begin, //\python3"#.to_owned();
    }
    let text = rendered(&request);
    let quoted = r#"process("/opt/\").mark(\"line\"), begin, //\\python3")"#;
    assert!(text.contains(quoted), "{text}");
    assert!(!text.contains(r#"process("/opt/")"#), "{text}");
}

#[test]
fn only_the_kinds_that_were_asked_for_are_probed() {
    let mut request = request(&["calls"]);
    request.events = vec!["return".to_owned()];
    let text = rendered(&request);
    assert!(text.contains("function__return"), "{text}");
    assert!(!text.contains("function__entry"), "{text}");
}

#[test]
fn an_image_without_a_mark_is_left_out_of_its_probe() {
    let mut request = request(&["gc", "audit"]);
    request.images.push(ProbedImage {
        path: "/usr/bin/python3.5".to_owned(),
        provider: "python",
        marks: vec!["gc__start".to_owned(), "gc__done".to_owned()],
        library: false,
        arguments: false,
    });
    let text = rendered(&request);
    let probe = |mark: &str| {
        let provider = format!("provider(\"python\").mark(\"{mark}\")");
        text.lines()
            .find(|line| line.starts_with("probe ") && line.contains(&provider))
            .unwrap_or_default()
            .to_owned()
    };
    assert!(probe("gc__start").contains("python3.5"), "{text}");
    assert!(probe("gc__start").contains("python3.15"), "{text}");
    assert!(!probe("audit").contains("python3.5\""), "{text}");
}

#[test]
fn the_life_of_processes_is_probed_by_program_and_everywhere_for_a_library() {
    let mut request = request(&["gc"]);
    assert!(rendered(&request).contains(r#"probe process("/usr/bin/python3.15").end"#));
    request.images.push(ProbedImage {
        path: "/usr/lib/libpython3.15.so.1.0".to_owned(),
        provider: "python",
        marks: vec!["gc__start".to_owned()],
        library: true,
        arguments: false,
    });
    let text = rendered(&request);
    assert!(text.contains("probe process.end"), "{text}");
}

#[test]
fn a_script_that_adds_up_sends_no_calls_and_obeys_questions_about_its_sums() {
    let text = rendered(&request(&["top"]));
    for wanted in [
        "mark(\"function__entry\") {\n\tkey = pystap_enter($arg1, $arg2, $arg3)\n",
        "mark(\"function__return\") {\n\tkey = pystap_leave($arg1, $arg2, $arg3)\n",
        "mark(\"gc__start\") { pystap_collection_begins() }",
        "mark(\"gc__done\") { pystap_collection_ends() }",
        "probe process(\"/usr/bin/python3.15\").thread.end { pystap_thread_ends() }",
        "probe process(\"/usr/bin/python3.15\").end { pystap_threads_end() }",
        "function pystap_obeys:long(verb:string, number:long) { return pystap_totals_command(verb, number) }",
        "function pystap_all_sent:long() { return pystap_totals_finish() }",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(!text.contains("0x43"), "{text}");
    let without = rendered(&request(&["calls"]));
    assert!(!without.contains("pystap_totals"), "{without}");
    assert!(without.contains("function pystap_all_sent:long() { return 1 }"));
}

#[test]
fn a_script_that_adds_up_leaves_out_what_was_not_asked_for() {
    let mut request = request(&["top"]);
    request.events = vec!["call".to_owned(), "return".to_owned()];
    assert!(!rendered(&request).contains("gc__start"));
    request.events = vec!["gc".to_owned()];
    assert!(!rendered(&request).contains("function__entry"));
}

#[test]
fn filters_become_one_expression_of_the_script() {
    let mut request = request(&["calls"]);
    let glob = |pattern| Glob::new(pattern).expect("a pattern");
    request.filters.functions = vec![glob("handle"), glob("on_*")];
    request.filters.not_files = vec![glob("/usr/lib/*")];
    let text = rendered(&request);
    let expression = text
        .lines()
        .find_map(|line| {
            line.strip_prefix(
                "function pystap_accepts:long(file:string, name:string, qualname:string) { return ",
            )
        })
        .expect("it is there");
    assert!(
        expression.contains("name == \"handle\" || qualname == \"handle\" || name =~ "),
        "{text}"
    );
    assert!(expression.contains("&& !(file =~ "), "{text}");
}

#[test]
fn each_plain_event_is_a_record_with_its_letter_of_what_its_probe_passes() {
    for kind in EventKind::ALL {
        let script = rendered(&request(&[kind.template()]));
        for probe in kind.probes() {
            let Some(plain) = probe.plain() else { continue };
            let point = format!("mark(\"{}\") {{\n", probe.name());
            let (_, body) = script.split_once(&point).expect("it is probed");
            let body = body.split("\n}").next().expect("it ends");
            let sends = match probe.texts().count() {
                1 => "pystap_event",
                _ => "pystap_event_two",
            };
            let letter = format!("{:#x} /* {} */", plain.letter, char::from(plain.letter));
            assert!(body.contains(&format!("{sends}({letter}, ")), "{body}");
            for (place, argument) in (1..).zip(probe.arguments()) {
                let read = argument.kind != ArgumentKind::Object;
                assert_eq!(body.contains(&format!("$arg{place}")), read, "{body}");
            }
        }
    }
}
