//! Facts from directory trees: whole hosts in miniature, and every file damaged in turn. Nothing may fail; what cannot be
//! understood is unknown, with a reason.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::doctor::{self, Part, Status};
use crate::engine::stap::Identity;

const RELEASE: &str = "6.12.107+deb13-amd64";

/// A host in a directory.
struct Host(tempfile::TempDir);

impl Host {
    /// One on which nothing is missing.
    fn whole() -> Host {
        let host = Host(tempfile::tempdir().expect("a directory"));
        let config = "CONFIG_MODULES=y\nCONFIG_UPROBES=y\nCONFIG_TRACEPOINTS=y\n# CONFIG_PREEMPT_RT is not set\n";
        let build = format!("usr/src/linux-headers-{RELEASE}");
        for (path, text) in [
            (
                "etc/os-release",
                "ID=debian\nVERSION_ID=\"13\"\nPRETTY_NAME='Debian 13'\n",
            ),
            (
                "etc/passwd",
                "root:x:0:0:root:/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n",
            ),
            (
                "etc/group",
                "root:x:0:\nstapusr:x:120:anna, bert\nstapsys:x:121:\nstapdev:x:122:\n",
            ),
            (
                "proc/modules",
                "ext4 1 1 - Live 0x0\nstap_2ea6_431 1 0 - Live 0x0\nstap_77_88 1 0 - Live 0x0\n",
            ),
            ("proc/88/comm", "stapio\n"),
            ("proc/431/comm", "bash\n"),
            (
                "proc/version",
                "Linux version 6.12.107+deb13-amd64 (x) (gcc-14 (Debian 14.2.0-19)) #1 SMP Debian 6.12.107-1\n",
            ),
            (
                "proc/cmdline",
                "quiet nomodule root=/dev/vda lockdown=integrity\n",
            ),
            (
                "proc/filesystems",
                "nodev\tdebugfs\nnodev\ttracefs\n\text4\n",
            ),
            ("proc/meminfo", "MemTotal: 100 kB\nMemAvailable:    90 kB\n"),
            (
                "proc/kallsyms",
                "ffffffff81000000 T task_work_add\n0 T task_work_cancel_func\n0 T uprobe_register\n0 T uprobe_unregister_nosync\n0 T get_mm_exe_file\n",
            ),
            (
                "proc/self/mounts",
                "debugfs /sys/kernel/debug debugfs rw 0 0\ntracefs /mnt/with\\040blank tracefs rw 0 0\n",
            ),
            (
                "proc/self/status",
                "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t24 120 \nCapEff:\t0000000000000000\nSeccomp:\t2\n",
            ),
            (
                "proc/self/limits",
                "Limit  Soft  Hard  Units\nMax locked memory   8388608   8388608   bytes\n",
            ),
            ("proc/self/uid_map", "         0          0 4294967295\n"),
            ("proc/sys/kernel/osrelease", RELEASE),
            ("proc/sys/kernel/arch", "x86_64\n"),
            ("proc/sys/kernel/modules_disabled", "0\n"),
            ("proc/sys/kernel/perf_event_paranoid", "-1\n"),
            ("mnt/with blank/events/sched/sched_switch/id", "324\n"),
            ("mnt/with blank/events/raw_syscalls/sys_exit/id", "21\n"),
            ("proc/sys/kernel/yama/ptrace_scope", "1\n"),
            ("proc/sys/crypto/fips_enabled", "0\n"),
            (
                "sys/kernel/security/lockdown",
                "none [integrity] confidentiality\n",
            ),
            ("sys/module/module/parameters/sig_enforce", "N\n"),
            ("sys/devices/system/cpu/online", "0-2,5\n"),
            ("boot/System.map-x", ""),
            ("home/anna/.systemtap/rc", "# mine\n--vp 01\n\n"),
        ] {
            host.write(path, text.as_bytes());
        }
        host.write("boot/config-6.12.107+deb13-amd64", config.as_bytes());
        for (path, text) in [
            (".config", config),
            ("Module.symvers", "0x0\tx\n"),
            ("Makefile", "include x\n"),
            // The true version, as on Debian 12, where the module's own is another.
            ("include/config/kernel.release", "6.12.107"),
            (
                "include/generated/utsrelease.h",
                &format!("#define UTS_RELEASE \"{RELEASE}\"\n"),
            ),
            // Since Linux 6.1 without the version, which is in a file of its own.
            (
                "include/generated/compile.h",
                "#define UTS_MACHINE \"x86_64\"\n",
            ),
            (
                "include/generated/utsversion.h",
                "#define UTS_VERSION \"#1 SMP Debian 6.12.107-1\"\n",
            ),
            (
                ".kernelvariables",
                "override ARCH = x86\nCC = $(if $(X),$(CCACHE)) $(CROSS_COMPILE)gcc-14\n",
            ),
            ("scripts/basic/fixdep", ""),
            ("scripts/mod/modpost", ""),
        ] {
            host.write(&format!("{build}/{path}"), text.as_bytes());
        }
        let modules = host.0.path().join("lib/modules").join(RELEASE);
        fs::create_dir_all(&modules).expect("made");
        symlink(format!("../../../{build}"), modules.join("build")).expect("a link");
        fs::create_dir_all(host.0.path().join("proc/self/ns")).expect("made");
        symlink("pid:[4026531836]", host.0.path().join("proc/self/ns/pid")).expect("a link");
        for (program, mode) in [
            ("stap", 0o755),
            ("staprun", 0o4754),
            ("make", 0o755),
            ("gcc-14", 0o755),
        ] {
            host.program(&format!("usr/bin/{program}"), mode);
        }
        symlink("gcc-14", host.0.path().join("usr/bin/gcc")).expect("a link");
        host
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    fn program(&self, path: &str, mode: u32) {
        self.write(path, b"\x7fELF");
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.0.path().join(path), permissions).expect("set");
    }

    fn gathering(&self) -> Gathering {
        let environment = [
            ("PATH", "/usr/local/bin:/usr/bin"),
            ("HOME", "/home/anna"),
            ("TMPDIR", "/tmp/a b"),
        ];
        Gathering {
            tree: Tree::below(self.0.path()),
            environment: environment
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            stap: None,
            python: None,
        }
    }

    fn facts(&self) -> Facts {
        let catalogue = Catalogue::load(&[]).expect("built-in templates");
        self.gathering().facts(&catalogue)
    }
}

fn firmware(value: &[u8]) -> Vec<u8> {
    [&[6, 0, 0, 0], value].concat()
}

#[test]
fn a_host_is_read_completely() {
    let host = Host::whole();
    host.write(
        "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
        &firmware(&[1]),
    );
    let facts = host.facts();
    let distribution = facts.distribution.value().expect("known");
    assert_eq!(
        (
            distribution.id.as_str(),
            distribution.version.as_str(),
            distribution.name.as_str()
        ),
        ("debian", "13", "Debian 13")
    );
    assert_eq!(
        facts.kernel.release.value().map(String::as_str),
        Some(RELEASE)
    );
    assert_eq!(facts.kernel.command_line.value().map(Vec::len), Some(2));
    let config = facts.kernel.config.value().expect("known");
    assert_eq!(config["CONFIG_MODULES"], "y");
    assert_eq!(config["CONFIG_PREEMPT_RT"], "n");
    assert_eq!(
        facts.loading.lockdown.value().map(String::as_str),
        Some("integrity")
    );
    assert_eq!(facts.loading.secure_boot.value(), Some(&true));
    assert!(facts.loading.owner_keys.is_absent());
    assert_eq!(
        facts.tracing.tracefs.value().map(String::as_str),
        Some("/mnt/with blank")
    );
    assert_eq!(facts.tracing.processors.value(), Some(&4));
    assert_eq!(facts.tracing.memory.value(), Some(&90));
    assert_eq!(facts.tracing.perf_event_paranoid.value(), Some(&-1));
    assert_eq!(facts.tracing.ptrace_scope.value(), Some(&1));
    let events = facts.tracing.events_of_waits.value().expect("known");
    assert_eq!(*events, ["sched/sched_switch"]);
    let events = facts.tracing.events_of_calls.value().expect("known");
    assert_eq!(*events, ["raw_syscalls/sys_exit"]);
    assert_eq!(facts.tracing.addresses.value(), Some(&true));
    // A directory makes no rings.
    assert!(facts.tracing.rings.reason().is_some());
    let tree = &facts.build_tree;
    assert!(tree.directory.value().is_some());
    assert_eq!(
        tree.uts_version.value().map(String::as_str),
        Some("#1 SMP Debian 6.12.107-1")
    );
    assert_eq!(tree.missing_programs.value().map(Vec::len), Some(0));
    assert_eq!(tree.compiler.value().map(String::as_str), Some("gcc-14"));
    assert_eq!(
        facts.tools.wanted.value().map(String::as_str),
        Some("/usr/bin/gcc-14")
    );
    assert_eq!(
        facts.tools.gcc.value().map(|gcc| gcc.real.as_str()),
        Some("/usr/bin/gcc-14")
    );
    let staprun = facts.systemtap.staprun.value().expect("found");
    assert_eq!(staprun.mode, "4754");
    let group = facts.systemtap.groups[0].value().expect("there");
    assert_eq!(
        (group.id, group.members.join(",").as_str()),
        (120, "anna,bert")
    );
    let sessions = facts.systemtap.sessions.value().expect("known");
    let owned: Vec<bool> = sessions.iter().map(|session| session.owned).collect();
    assert_eq!(owned, [false, true]);
    assert_eq!(
        facts
            .systemtap
            .rc
            .value()
            .map(|lines| lines.join(" "))
            .as_deref(),
        Some("--vp 01")
    );
    assert_eq!(facts.user.name.value().map(String::as_str), Some("anna"));
    assert_eq!(facts.user.groups.value(), Some(&vec![24, 120, 1000]));
    assert_eq!(
        facts.user.memory_lock.value().map(String::as_str),
        Some("8388608")
    );
    assert!(facts.confinement.manager.is_absent());
    assert_eq!(facts.confinement.mapped_users.value(), Some(&false));
    assert_eq!(facts.confinement.seccomp.value(), Some(&2));
    assert_eq!(facts.symbols.missing.value().map(Vec::len), Some(0));
}

#[test]
fn facts_can_be_saved_and_read_back() {
    let facts = Host::whole().facts();
    let text = serde_json::to_string(&facts).expect("JSON");
    let back: Facts = serde_json::from_str(&text).expect("facts");
    assert_eq!(back, facts);
}

#[test]
fn an_empty_tree_is_a_host_of_which_nothing_is_known_to_be_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let catalogue = Catalogue::load(&[]).expect("built-in templates");
    let gathering = Gathering {
        tree: Tree::below(directory.path()),
        environment: BTreeMap::new(),
        stap: None,
        python: None,
    };
    let facts = gathering.facts(&catalogue);
    assert!(facts.distribution.is_absent());
    // What is not in a /proc that is none may be there all the same.
    assert_eq!(facts.kernel.release.reason(), Some("/proc is not mounted"));
    assert_eq!(facts.loading.lockdown.reason(), Some("/sys is not mounted"));
    assert_eq!(facts.confinement.unmounted, ["/proc", "/sys"]);
    let examination = doctor::examine(&facts, None);
    let of_the_kernel = examination.findings.iter().filter(|finding| {
        let parts = [Part::Kernel, Part::Uprobes, Part::Agent, Part::Waits];
        parts.contains(&finding.part)
    });
    let known: Vec<&str> = of_the_kernel
        .filter(|finding| finding.status != Status::Unknown)
        .map(|finding| finding.id)
        .collect();
    assert_eq!(known, [""; 0]);
}

/// What each damaged file turns into: a fact that is unknown, with the path and a reason.
#[test]
fn damaged_files_become_unknown_facts_with_a_reason() {
    type Look = fn(&Facts) -> (String, Option<String>);
    fn told<T>(fact: &Fact<T>) -> (String, Option<String>) {
        (fact.from().to_owned(), fact.reason().map(str::to_owned))
    }
    let cases: [(&str, &[u8], Look); 16] = [
        ("etc/os-release", b"\xff\xfe\0garbage", |facts| {
            told(&facts.distribution)
        }),
        ("etc/os-release", b"ID\n=\n===\n", |facts| {
            told(&facts.distribution)
        }),
        ("proc/config.gz", b"not gzip at all", |facts| {
            told(&facts.kernel.config)
        }),
        (
            "sys/kernel/notes",
            b"\x04\0\0\0\xff\xff\xff\xff\x03\0\0\0GNU\0",
            |facts| told(&facts.kernel.build_id),
        ),
        ("sys/kernel/security/lockdown", b"locked", |facts| {
            told(&facts.loading.lockdown)
        }),
        ("proc/sys/kernel/modules_disabled", b"perhaps", |facts| {
            told(&facts.loading.disabled)
        }),
        ("proc/sys/kernel/yama/ptrace_scope", b"classic", |facts| {
            told(&facts.tracing.ptrace_scope)
        }),
        ("sys/devices/system/cpu/online", b"9-3", |facts| {
            told(&facts.tracing.processors)
        }),
        (
            "sys/devices/system/cpu/online",
            b"0-18446744073709551615",
            |facts| told(&facts.tracing.processors),
        ),
        ("proc/meminfo", b"MemAvailable: lots", |facts| {
            told(&facts.tracing.memory)
        }),
        ("proc/self/status", b"Uid:\tnobody\n", |facts| {
            told(&facts.user.id)
        }),
        ("proc/self/status", b"", |facts| {
            told(&facts.user.capabilities)
        }),
        ("proc/self/limits", b"", |facts| {
            told(&facts.user.memory_lock)
        }),
        ("proc/kallsyms", b"", |facts| told(&facts.symbols.missing)),
        (
            "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
            b"\x06\0",
            |facts| told(&facts.loading.secure_boot),
        ),
        (
            "usr/src/linux-headers-6.12.107+deb13-amd64/.config",
            b"\0\0\0",
            |facts| told(&facts.build_tree.config),
        ),
    ];
    for (path, bytes, look) in cases {
        let host = Host::whole();
        if path == "proc/config.gz" {
            fs::remove_file(host.0.path().join("boot/config-6.12.107+deb13-amd64"))
                .expect("removed");
            fs::remove_file(
                host.0
                    .path()
                    .join("usr/src/linux-headers-6.12.107+deb13-amd64/.config"),
            )
            .expect("removed");
        }
        host.write(path, bytes);
        let facts = host.facts();
        let (from, reason) = look(&facts);
        let reason = reason.unwrap_or_else(|| panic!("{path} was understood"));
        assert!(
            !reason.is_empty() && !reason.ends_with('.'),
            "{path}: {reason}"
        );
        assert!(
            path.ends_with(from.trim_start_matches('/')) || from.contains("build/.config"),
            "{path}: {from}"
        );
        // A person sees the reason.
        let report = doctor::report(
            &facts,
            &doctor::examine(&facts, None),
            doctor::Look { verbose: true },
        );
        assert!(report.contains("unknown"), "{path}");
    }
}

#[test]
fn a_configuration_is_taken_from_where_it_can_be_read() {
    let host = Host::whole();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"CONFIG_MODULES=n\n").expect("to memory");
    let packed = encoder.finish().expect("to memory");
    host.write("proc/config.gz", &packed);
    let facts = host.facts();
    assert_eq!(facts.kernel.config.from(), "/proc/config.gz");
    assert_eq!(
        facts.kernel.config.value().expect("read")["CONFIG_MODULES"],
        "n"
    );
    // Cut short, the next place is asked.
    host.write("proc/config.gz", &packed[..packed.len() / 2]);
    let facts = host.facts();
    assert_eq!(
        facts.kernel.config.from(),
        format!("/boot/config-{RELEASE}")
    );
}

#[test]
fn files_that_may_not_be_read_are_told_from_files_that_are_not_there() {
    let host = Host::whole();
    // A directory in the place of a file cannot be read by anybody.
    let place = host.0.path().join("proc/sys/kernel/modules_disabled");
    fs::remove_file(&place).expect("removed");
    fs::create_dir(&place).expect("made");
    let facts = host.facts();
    assert!(facts.loading.disabled.reason().is_some());
    fs::remove_dir(&place).expect("removed");
    assert!(host.facts().loading.disabled.is_absent());
}

#[test]
fn a_dpkg_that_was_interrupted_is_seen_in_its_list_and_in_what_it_has_not_entered_there() {
    let host = Host::whole();
    let paragraph = |package: &str, state: &str| {
        format!(
            "Package: {package}\nStatus: install ok {state}\nArchitecture: amd64\nDescription: x\n Status: y\n\n"
        )
    };
    let list = [
        ("gcc", "installed"),
        ("make", "half-installed"),
        ("stap", "unpacked"),
        ("vim", "config-files"),
    ];
    let text: String = list
        .iter()
        .map(|(package, state)| paragraph(package, state))
        .collect();
    host.write("var/lib/dpkg/status", text.as_bytes());
    host.write(
        "var/lib/dpkg/updates/0003",
        paragraph("stap", "installed").as_bytes(),
    );
    host.write(
        "var/lib/dpkg/updates/0004",
        paragraph("linux-headers", "half-configured").as_bytes(),
    );
    host.program("usr/bin/apt-get", 0o755);
    host.program("usr/bin/dnf", 0o644);
    let packages = host.facts().packages;
    assert_eq!(packages.managers.value(), Some(&vec!["apt-get".to_owned()]));
    assert_eq!(packages.read_only.value(), Some(&Vec::new()));
    let unfinished = packages.unfinished.value().expect("known");
    assert_eq!(unfinished, &["linux-headers", "make"]);
}

#[test]
fn a_pipe_in_the_place_of_a_file_does_not_hold_us_up() {
    let host = Host::whole();
    let place = host.0.path().join("etc/os-release");
    fs::remove_file(&place).expect("removed");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &place,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("a pipe");
    // Nothing is in it.
    assert!(host.facts().distribution.reason().is_some());
}

#[test]
fn headers_whose_link_leads_nowhere_are_not_there() {
    let host = Host::whole();
    fs::remove_dir_all(host.0.path().join("usr/src")).expect("removed");
    let facts = host.facts();
    assert!(facts.build_tree.directory.is_absent());
    assert!(facts.build_tree.missing_programs.reason().is_some());
}

#[test]
fn the_compiler_may_be_installed_by_the_name_with_the_platform_in_front() {
    let host = Host::whole();
    let plain = host.0.path().join("usr/bin/gcc-14");
    let platform = format!("usr/bin/{}-linux-gnu-gcc-14", std::env::consts::ARCH);
    fs::rename(&plain, host.0.path().join(&platform)).expect("renamed");
    assert_eq!(
        host.facts().tools.wanted.value(),
        Some(&format!("/{platform}"))
    );
    fs::remove_file(host.0.path().join(&platform)).expect("removed");
    assert!(host.facts().tools.wanted.is_absent());
}

#[test]
fn containers_are_known_by_what_their_managers_leave() {
    for (path, text, manager) in [
        (".dockerenv", "", "docker"),
        ("run/.containerenv", "", "podman"),
        ("run/systemd/container", "lxc\n", "lxc"),
        ("proc/1/cgroup", "0::/kubepods/pod1\n", "kubernetes"),
    ] {
        let host = Host::whole();
        host.write(path, text.as_bytes());
        let facts = host.facts();
        assert_eq!(
            facts.confinement.manager.value().map(String::as_str),
            Some(manager),
            "{path}"
        );
        assert_eq!(facts.confinement.manager.from(), format!("/{path}"));
    }
    let host = Host::whole();
    host.write("proc/self/uid_map", b"0 100000 65536\n");
    assert_eq!(host.facts().confinement.mapped_users.value(), Some(&true));
}

/// ELF with a build id and nothing else; with `debug`, a `.debug_info` that makes no sense.
fn vmlinux(build_id: u8, debug: bool) -> Vec<u8> {
    let note = [
        4_u32.to_le_bytes().as_slice(),
        &20_u32.to_le_bytes(),
        &3_u32.to_le_bytes(),
        b"GNU\0",
        &[build_id; 20],
    ]
    .concat();
    let info: &[u8] = if debug {
        b"\xff\xff\xff\x0fgarbage"
    } else {
        b""
    };
    let names = b"\0.note.gnu.build-id\0.debug_info\0.shstrtab\0";
    let contents = [note.as_slice(), info, names].concat();
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    file.resize(16, 0);
    file.extend(2_u16.to_le_bytes());
    file.extend(62_u16.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for number in [0, 0, 64 + contents.len() as u64] {
        file.extend(number.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for number in [64_u16, 56, 0, 64, 4, 3] {
        file.extend(number.to_le_bytes());
    }
    file.extend(&contents);
    file.extend([0; 64]);
    let mut offset = 64;
    for (name, kind, size) in [
        (1_u32, 7_u32, note.len()),
        (20, 1, info.len()),
        (32, 3, names.len()),
    ] {
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        for number in [0, 0, offset, size as u64] {
            file.extend(number.to_le_bytes());
        }
        file.extend([0; 8]);
        file.extend(4_u64.to_le_bytes());
        file.extend([0; 8]);
        offset += size as u64;
    }
    file
}

#[test]
fn the_kernels_debug_information_is_found_in_every_place_and_judged_by_its_build_id() {
    let places = [
        format!("usr/lib/debug/boot/vmlinux-{RELEASE}"),
        format!("usr/lib/debug/lib/modules/{RELEASE}/vmlinux"),
        format!("usr/lib/debug/usr/lib/modules/{RELEASE}/vmlinux"),
        format!("usr/lib/debug/boot/vmlinux-{RELEASE}.debug"),
        format!("usr/lib/debug/.build-id/07/{}.debug", "07".repeat(19)),
        format!(
            "home/anna/.cache/debuginfod_client/{}/debuginfo",
            "07".repeat(20)
        ),
        format!("lib/modules/{RELEASE}/vmlinux"),
        format!("boot/vmlinux-{RELEASE}"),
    ];
    let notes = vmlinux(7, false)[64..64 + 36].to_vec();
    for place in places {
        let host = Host::whole();
        host.write("sys/kernel/notes", &notes);
        host.write(&place, &vmlinux(7, true));
        let facts = host.facts();
        let [found] = facts.symbols.vmlinux.as_slice() else {
            panic!("{place}: {:?}", facts.symbols.vmlinux);
        };
        assert_eq!(found.path, format!("/{place}"));
        assert_eq!(found.build_id.value(), facts.kernel.build_id.value());
        // It is of this kernel, and its DWARF makes no sense.
        assert!(
            found
                .debug
                .reason()
                .is_some_and(|reason| reason.contains("debug_info")),
            "{found:?}"
        );

        host.write(&place, &vmlinux(8, true));
        let facts = host.facts();
        let reason = facts.symbols.vmlinux[0]
            .debug
            .reason()
            .expect("not examined");
        assert!(reason.contains("another build"), "{reason}");

        host.write(&place, &vmlinux(7, true)[..200]);
        let facts = host.facts();
        let reason = facts.symbols.vmlinux[0].debug.reason().expect("cut short");
        assert!(reason.contains("incomplete"), "{reason}");
    }
}

#[test]
fn the_vmlinux_that_headers_come_with_is_no_debug_information() {
    let host = Host::whole();
    host.write(
        &format!("usr/src/linux-headers-{RELEASE}/vmlinux"),
        &vmlinux(7, false),
    );
    assert_eq!(host.facts().symbols.vmlinux, []);
}

#[test]
fn programs_below_another_root_are_not_run() {
    let facts = Host::whole().facts();
    let stap = facts.systemtap.stap.value().expect("found");
    assert_eq!(stap.path, "/usr/bin/stap");
    assert!(
        stap.identity
            .reason()
            .is_some_and(|reason| reason.contains("not run"))
    );
    assert!(Identity::of(Path::new("/nowhere/stap")).is_err());
}

#[test]
fn templates_that_probe_the_kernel_are_known_by_their_probes() {
    assert!(probes_kernel("probe kernel.function(\"tcp_sendmsg\") { }"));
    assert!(probes_kernel("probe module(\"ext4\").function(\"*\") { }"));
    assert!(!probes_kernel(
        "probe process(\"/usr/bin/python3\").mark(\"line\") { }"
    ));
    let facts = Host::whole().facts();
    assert_eq!(
        facts.kernel_templates, [""; 0],
        "no built-in template needs debug information"
    );
}
