//! Processes as /proc shows them, recorded from real services or derived from their start scripts.

use super::*;

fn seen(comm: &str, arguments: &[&str]) -> Seen {
    Seen {
        comm: comm.to_owned(),
        arguments: arguments.iter().map(ToString::to_string).collect(),
        environment: Vec::new(),
    }
}

fn service(name: &str) -> Service {
    Service::openstack(name).expect("one of OpenStack's")
}

/// Processes of nova, each with the program that it is.
fn nova() -> Vec<(Seen, &'static str)> {
    let mut by_environment = seen("uwsgi-core", &["uwsgi", "--http-socket", "[::]:8774"]);
    by_environment.environment = vec![(
        "UWSGI_INI_APP".to_owned(),
        "/usr/bin/nova-api-wsgi".to_owned(),
    )];
    vec![
        (
            seen(
                "nova-conductor",
                &[
                    "/usr/bin/python3",
                    "/usr/bin/nova-conductor",
                    "--config-file",
                    "/etc/nova/nova.conf",
                ],
            ),
            "nova-conductor",
        ),
        (
            seen(
                "nova-spicehtml5",
                &["/usr/bin/python3", "/usr/bin/nova-spicehtml5proxy"],
            ),
            "nova-spicehtml5proxy",
        ),
        (
            seen(
                "nova-compute",
                &[
                    "/var/lib/kolla/venv/bin/python3",
                    "-s",
                    "/var/lib/kolla/venv/bin/nova-compute",
                ],
            ),
            "nova-compute",
        ),
        (
            seen(
                "nova-conductor:",
                &[
                    "nova-conductor: master process [/usr/bin/nova-conductor --config-file /etc/nova/nova.conf]",
                ],
            ),
            "nova-conductor",
        ),
        (
            seen(
                "nova-scheduler:",
                &["nova-scheduler: ServiceWrapper worker(0)"],
            ),
            "nova-scheduler",
        ),
        (
            seen(
                "uwsgi",
                &[
                    "uwsgi",
                    "--procname-prefix",
                    "nova-api",
                    "--ini",
                    "/etc/nova/nova-api-uwsgi.ini",
                ],
            ),
            "nova-api",
        ),
        (
            seen("uwsgi", &["/usr/bin/uwsgi", "/etc/nova/nova-api-uwsgi.ini"]),
            "nova-api",
        ),
        (
            seen(
                "uwsgi",
                &[
                    "uwsgi_python3",
                    "--module=nova.wsgi.osapi_compute:application",
                ],
            ),
            "nova-osapi-compute",
        ),
        (
            seen("nova-apiuWSGI w", &["nova-apiuWSGI worker 1"]),
            "nova-api",
        ),
        (
            seen("apache2", &["(wsgi:nova-api)", "-k", "start"]),
            "nova-api",
        ),
        (by_environment, "nova-api"),
        (
            seen("python3", &["python3", "-m", "nova.cmd.compute"]),
            "nova-compute",
        ),
        (
            seen(
                "python3",
                &["python3", "-Wignore", "-X", "dev", "/opt/nova-api"],
            ),
            "nova-api",
        ),
    ]
}

#[test]
fn every_way_in_which_nova_is_run_is_recognised_as_nova_and_as_its_program() {
    for (process, program) in nova() {
        let why = service("nova").recognises(&process);
        assert!(why.is_some(), "{process:?}");
        let why = service(program).recognises(&process);
        assert!(why.is_some(), "{program}: {process:?}");
        for other in ["neutron", "cinder", "glance", "keystone", "nova-novncproxy"] {
            assert_eq!(
                service(other).recognises(&process),
                None,
                "{other}: {process:?}"
            );
        }
    }
}

#[test]
fn what_only_mentions_nova_is_not_nova() {
    for process in [
        seen("vim", &["vim", "/etc/nova/nova.conf"]),
        seen("python3", &["python3", "/usr/bin/tool", "nova-compute"]),
        seen("python3", &["python3", "-c", "print('nova-compute')"]),
        seen("python3", &["python3"]),
        seen(
            "supernova-api",
            &["/usr/bin/python3", "/usr/bin/supernova-api"],
        ),
        seen("grep", &["grep", "nova-"]),
        seen("kthreadd", &[]),
    ] {
        assert_eq!(service("nova").recognises(&process), None, "{process:?}");
    }
}

#[test]
fn other_services_are_recognised_by_the_same_rules() {
    for (name, process) in [
        (
            "neutron",
            seen(
                "neutron-server",
                &[
                    "/usr/bin/python3",
                    "/usr/bin/neutron-server",
                    "--config-file=/etc/neutron/neutron.conf",
                ],
            ),
        ),
        (
            "neutron",
            seen(
                "neutron-server:",
                &["neutron-server: rpc worker (/usr/bin/python3 /usr/bin/neutron-server)"],
            ),
        ),
        (
            "keystone",
            seen(
                "uwsgi",
                &["uwsgi", "--ini", "/etc/keystone/keystone-uwsgi.ini"],
            ),
        ),
        (
            "keystone",
            seen("apache2", &["(wsgi:keystone-pu", "-DFOREGROUND"]),
        ),
        (
            "glance",
            seen("glance-api", &["/usr/bin/python3", "/usr/bin/glance-api"]),
        ),
        (
            "cinder",
            seen(
                "cinder-volume",
                &["/usr/bin/python3", "/usr/bin/cinder-volume"],
            ),
        ),
        (
            "swift",
            seen(
                "swift-proxy-ser",
                &[
                    "/usr/bin/python3",
                    "/usr/bin/swift-proxy-server",
                    "/etc/swift/proxy-server.conf",
                ],
            ),
        ),
        (
            "octavia-worker",
            seen(
                "octavia-worker:",
                &["octavia-worker: ConsumerService worker(0)"],
            ),
        ),
    ] {
        assert!(
            service(name).recognises(&process).is_some(),
            "{name}: {process:?}"
        );
    }
}

#[test]
fn privileged_helpers_belong_to_the_project_whose_files_they_use() {
    let helper = seen(
        "privsep-helper",
        &[
            "/usr/bin/python3",
            "/usr/bin/privsep-helper",
            "--config-file",
            "/etc/nova/nova.conf",
            "--privsep_sock_path",
            "/tmp/x",
        ],
    );
    assert_eq!(
        service("nova").recognises(&helper),
        Some(Why::Helper("/etc/nova/nova.conf".to_owned()))
    );
    assert_eq!(service("cinder").recognises(&helper), None);
    assert_eq!(service("nova-compute").recognises(&helper), None);
}

#[test]
fn the_reason_says_what_was_seen() {
    let reasons: Vec<String> = nova()
        .iter()
        .filter_map(|(process, _)| service("nova").recognises(process))
        .map(|why| why.to_string())
        .collect();
    assert_eq!(reasons[0], "runs /usr/bin/nova-conductor");
    assert_eq!(
        reasons[4],
        "calls itself \"nova-scheduler: ServiceWrapper worker(0)\""
    );
    assert_eq!(reasons[5], "uwsgi was told --procname-prefix nova-api");
    assert_eq!(reasons[9], "mod_wsgi group nova-api");
    assert_eq!(reasons[11], "runs module nova.cmd.compute");
}

#[test]
fn a_user_s_services_are_read_and_match_programs_and_command_lines() {
    let services = config::parse(
        "[services.billing]\nprograms = ['billing-*', 'invoice']\n[services.shop]\nmatch = 'gunicorn .*shop'\n",
    )
    .expect("a good file");
    let [billing, shop] = &services[..] else {
        panic!("{services:?}");
    };
    assert!(
        billing
            .recognises(&seen("python3", &["python3", "/srv/billing-worker.py"]))
            .is_some()
    );
    assert!(
        billing
            .recognises(&seen("python3", &["python3", "-m", "invoice"]))
            .is_some()
    );
    assert!(
        shop.recognises(&seen("gunicorn", &["gunicorn: master", "shop.wsgi"]))
            .is_none()
    );
    let process = seen(
        "gunicorn",
        &["/usr/bin/python3", "/usr/bin/gunicorn", "shop.wsgi"],
    );
    assert_eq!(
        shop.recognises(&process),
        Some(Why::Pattern("gunicorn .*shop".to_owned()))
    );
}

#[test]
fn a_wrong_file_is_answered_with_the_line() {
    for (text, says) in [
        ("[services.a]\nprogram = ['x']\n", "line 2"),
        ("[services.a]\n", "neither"),
        ("[services.a]\nmatch = '('\n", "regular expression"),
        ("[services.a]\nprograms = ['[']\n", "service a"),
        ("services = 3", "line 1"),
    ] {
        let error = config::parse(text).expect_err(text);
        assert!(error.contains(says), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn an_unknown_service_is_answered_with_those_that_are_known() {
    let error = Service::named("nove").expect_err("no such service");
    let text = error.to_string();
    assert!(text.contains("nova") && text.contains("--match"), "{text}");
}
