//! Packages and commands for each distribution: data, with the kernel's release filled in; nothing is run.

use crate::host::Facts;
use crate::shell;

use super::Fix;

/// Families of distributions that share package names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Debian,
    Ubuntu,
    Fedora,
    /// RHEL, CentOS Stream, Rocky, Alma, Oracle.
    Enterprise,
    Suse,
    Arch,
    /// None of these, or not known.
    Other,
}

/// What can be recommended on this host.
#[derive(Debug, Clone)]
pub(super) struct Remedies {
    pub(super) family: Family,
    /// `12`, `22.04`; empty when there is none.
    version: String,
    codename: String,
    /// Release of the running kernel.
    release: String,
    /// Oracle's own repositories and kernels beside those of the family.
    is_oracles: bool,
}

/// Which SystemTap a release of a distribution has: packages.debian.org and packages.ubuntu.com, November 2026.
const PACKAGED_SYSTEMTAP: [(Family, &str, &str); 7] = [
    (Family::Debian, "11", "4.4"),
    (Family::Debian, "12", "4.8"),
    (Family::Debian, "13", "5.1"),
    (Family::Ubuntu, "20.04", "4.2"),
    (Family::Ubuntu, "22.04", "4.6"),
    (Family::Ubuntu, "24.04", "5.0"),
    (Family::Ubuntu, "26.04", "5.3"),
];

/// The command that proves that everything works.
pub(super) const PROOF: &str = "pystap doctor --trial";

/// Ubuntu's archive of debug symbols.
const UBUNTU_DEBUG: &str = "http://ddebs.ubuntu.com";
/// Oracle's archive of debug information; each release has a directory.
const ORACLE_DEBUG: &str = "https://oss.oracle.com";

const NEWER_STAP: &str = "docs/systemtap-builds.md";
const BUILD_PYTHON: &str = "docs/python-builds.md";

impl Remedies {
    pub(super) fn for_host(facts: &Facts) -> Remedies {
        let distribution = facts.distribution.value().cloned().unwrap_or_default();
        let names: Vec<&str> = std::iter::once(distribution.id.as_str())
            .chain(distribution.like.iter().map(String::as_str))
            .collect();
        let family = names
            .iter()
            .find_map(|name| match *name {
                "debian" => Some(Family::Debian),
                "ubuntu" => Some(Family::Ubuntu),
                "fedora" => Some(Family::Fedora),
                "rhel" | "centos" | "rocky" | "almalinux" | "ol" => Some(Family::Enterprise),
                "suse" | "opensuse" | "sles" => Some(Family::Suse),
                name if name.starts_with("opensuse-") => Some(Family::Suse),
                "arch" => Some(Family::Arch),
                _ => None,
            })
            .unwrap_or(Family::Other);
        let plain = |text: Option<&String>| text.filter(|text| is_plain(text)).cloned();
        Remedies {
            family,
            version: distribution.version,
            codename: plain(Some(&distribution.codename)).unwrap_or_default(),
            release: plain(facts.kernel.release.value())
                .unwrap_or_else(|| "$(uname -r)".to_owned()),
            is_oracles: distribution.id == "ol",
        }
    }

    /// The release of the distribution before its first dot, where it is a number.
    fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }

    /// The program that installs packages; `None` for an unknown one.
    pub(super) fn manager(&self) -> Option<&'static str> {
        Some(match self.family {
            Family::Debian | Family::Ubuntu => "apt-get",
            // RHEL 7 has no dnf.
            Family::Enterprise if self.major() == Some(7) => "yum",
            Family::Fedora | Family::Enterprise => "dnf",
            Family::Suse => "zypper",
            Family::Arch => "pacman",
            Family::Other => return None,
        })
    }

    /// The command that installs packages; `None` for an unknown package manager.
    fn install(&self, packages: &str) -> Option<String> {
        let how = match self.family {
            Family::Suse => "--non-interactive install",
            Family::Arch => "-S --needed --noconfirm",
            _ => "install -y",
        };
        Some(format!("{} {how} {packages}", self.manager()?))
    }

    fn installing(&self, what: &str, packages: &str) -> Fix {
        match self.install(packages) {
            Some(command) => Fix::new(what, [command]),
            None => Fix::by_hand(format!(
                "{what} Elsewhere it is called {packages} or similar."
            )),
        }
    }

    /// Headers of the running kernel.
    pub(super) fn headers(&self) -> Fix {
        let release = &self.release;
        match self.family {
            Family::Debian | Family::Ubuntu => self.installing(
                "Install the headers of the running kernel.",
                &format!("linux-headers-{release}"),
            ),
            Family::Fedora | Family::Enterprise => {
                let (kernel, release) = rpm_kernel(release);
                self.installing(
                    "Install the headers of the running kernel.",
                    &format!("{kernel}-devel-{release}"),
                )
            }
            Family::Suse => {
                let (version, flavour) = release.rsplit_once('-').unwrap_or((release, "default"));
                self.installing(
                    "Install the headers of the running kernel.",
                    &format!("kernel-{flavour}-devel={version}"),
                )
            }
            Family::Arch => self.installing(
                "Install the headers of the kernel; Arch has those of its newest one only, so after an upgrade of the \
                 kernel reboot first.",
                &format!("{}-headers", arch_kernel(release)),
            ),
            Family::Other => Fix::by_hand(format!(
                "Install the headers of kernel {release}, so that /lib/modules/{release}/build leads to its build tree."
            )),
        }
    }

    /// Version of the distribution's SystemTap, where that does not change within a release.
    pub(super) fn packaged_systemtap(&self) -> Option<&'static str> {
        PACKAGED_SYSTEMTAP
            .iter()
            .find(|(family, release, _)| *family == self.family && *release == self.version)
            .map(|(.., stap)| *stap)
    }

    /// SystemTap from the distribution.
    pub(super) fn systemtap(&self) -> Fix {
        match self.family {
            Family::Arch => self.newer_systemtap(None),
            _ => self.installing("Install SystemTap.", "systemtap"),
        }
    }

    /// A later stap than the distribution has.
    pub(super) fn newer_systemtap(&self, needed: Option<&str>) -> Fix {
        let which = needed.map_or("a current SystemTap".to_owned(), |version| {
            format!("SystemTap {version} or later")
        });
        let packages = match self.family {
            Family::Debian | Family::Ubuntu => {
                "g++ make gettext pkg-config python3 libboost-dev libelf-dev libdw-dev wget bzip2"
            }
            Family::Fedora | Family::Enterprise => {
                "gcc-c++ make gettext-devel pkgconfig python3 boost-devel elfutils-devel wget tar gzip"
            }
            Family::Suse => {
                "gcc-c++ make gettext-tools pkg-config python3 libboost_headers-devel libelf-devel libdw-devel wget tar gzip"
            }
            Family::Arch => "base-devel boost gettext elfutils python wget",
            Family::Other => "",
        };
        let mut commands: Vec<String> = self.install(packages).into_iter().collect();
        commands.extend(
            [
                "wget https://sourceware.org/ftp/systemtap/releases/systemtap-5.6.tar.gz",
                "tar xzf systemtap-5.6.tar.gz",
                "(cd systemtap-5.6 && ./configure --prefix=/opt/systemtap --disable-docs --disable-refdocs \
                 --disable-server --disable-nls --without-rpm --without-nss && make && make install)",
                "pystap doctor --trial --stap /opt/systemtap/bin/stap",
            ]
            .map(str::to_owned),
        );
        Fix::new(
            format!(
                "Build {which} beside the distribution's ({NEWER_STAP} explains each step), then name it: `pystap \
                 trace --stap /opt/systemtap/bin/stap -p PID`."
            ),
            commands,
        )
    }

    /// The compiler that the kernel asks for, and make.
    pub(super) fn compiler(&self, wanted: Option<&str>) -> Fix {
        let compiler = wanted.filter(|name| is_plain(name)).unwrap_or("gcc");
        let packages = match (self.family, compiler.starts_with("clang")) {
            (_, true) => "clang lld llvm make".to_owned(),
            (Family::Debian | Family::Ubuntu, false) => format!("{compiler} make"),
            // Only Debian's packages have the version in their names.
            _ => "gcc make".to_owned(),
        };
        self.installing("Install the compiler.", &packages)
    }

    /// The kernel's debug information.
    pub(super) fn debug_information(&self) -> Vec<Fix> {
        let what =
            "Install the kernel's debug information (a gigabyte to fetch, six to eight on disk).";
        let release = &self.release;
        match self.family {
            Family::Debian => {
                vec![self.installing(what, &format!("linux-image-{release}-dbg"))]
            }
            Family::Ubuntu => vec![
                self.debug_archive(),
                Fix::new(
                    what,
                    [
                        "apt-get update".to_owned(),
                        format!("apt-get install -y linux-image-{release}-dbgsym"),
                    ],
                ),
            ],
            Family::Fedora | Family::Enterprise => {
                let (kernel, release) = rpm_kernel(release);
                let package = format!("{kernel}-{release}");
                let debuginfo = format!("{kernel}-debuginfo-{release}");
                vec![Fix::new(what, self.rpm_debuginfo(&package, &debuginfo))]
            }
            Family::Suse => {
                // The package's release has a number that the kernel's has not.
                let (package, debuginfo) = package_of(&format!("/boot/vmlinuz-{release}"));
                vec![Fix::new(what, self.rpm_debuginfo(&package, &debuginfo))]
            }
            Family::Arch => vec![Fix::by_hand(
                "Build the kernel with debug information: Arch has none of its kernels, neither as a package nor on its \
                 debuginfod server.",
            )],
            Family::Other => vec![Fix::by_hand(format!(
                "Install the debug information of kernel {release}; the file is called vmlinux."
            ))],
        }
    }

    /// Ubuntu's archive of debug symbols, which is separate and has its own key.
    fn debug_archive(&self) -> Fix {
        let codename = if self.codename.is_empty() {
            "$(lsb_release -cs)"
        } else {
            &self.codename
        };
        let year = self.major().unwrap_or(u32::MAX);
        let key = if year < 18 {
            // Before 18.04 there was no package for the key.
            "apt-key adv --keyserver keyserver.ubuntu.com --recv-keys F2EDC64DC5AEE1F6B9C621F0C8CAB6595FDFF622"
        } else {
            "apt-get install -y ubuntu-dbgsym-keyring"
        };
        let components = "main restricted universe multiverse";
        let (lines, file) = if year < 24 {
            let line = |suite: &str| format!("deb {UBUNTU_DEBUG} {suite} {components}");
            let lines = [line(codename), line(&format!("{codename}-updates"))];
            (lines.to_vec(), "ddebs.list")
        } else {
            // The form of the release's own sources, in which an archive's key counts for that archive only.
            let fields = [
                "Types: deb".to_owned(),
                format!("URIs: {UBUNTU_DEBUG}"),
                format!("Suites: {codename} {codename}-updates"),
                format!("Components: {components}"),
                "Signed-By: /usr/share/keyrings/ubuntu-dbgsym-keyring.gpg".to_owned(),
            ];
            (fields.to_vec(), "ddebs.sources")
        };
        Fix::new(
            "Add Ubuntu's archive of debug symbols.",
            [
                key.to_owned(),
                format!(
                    "printf '%s\\n' {} > /etc/apt/sources.list.d/{file}",
                    quoted(&lines)
                ),
            ],
        )
    }

    /// Commands that install the debug information of a package where packages are RPMs: some look its name up
    /// themselves, others take it.
    fn rpm_debuginfo(&self, package: &str, debuginfo: &str) -> Vec<String> {
        match (self.family, self.major()) {
            (Family::Enterprise, _) if self.is_oracles => {
                self.install_from_oracles_archive(debuginfo)
            }
            (Family::Enterprise, Some(7)) => vec![
                "yum install -y yum-utils".to_owned(),
                format!("debuginfo-install -y {package}"),
            ],
            (Family::Enterprise, _) => vec![
                "dnf install -y dnf-plugins-core".to_owned(),
                format!("dnf debuginfo-install -y {package}"),
            ],
            (Family::Suse, _) => vec![format!(
                "zypper --non-interactive --plus-content debug install {debuginfo}"
            )],
            _ => vec![format!(
                "dnf install -y --enablerepo='*-debuginfo' {debuginfo}"
            )],
        }
    }

    /// Commands that install something from Oracle's archive of debug information, which no release has among its
    /// repositories.
    fn install_from_oracles_archive(&self, packages: &str) -> Vec<String> {
        let major = self
            .major()
            .map_or_else(|| "$(rpm -E %rhel)".to_owned(), |major| major.to_string());
        let lines = [
            "[debuginfo]".to_owned(),
            format!("name=Debug information of Oracle Linux {major}"),
            format!("baseurl={ORACLE_DEBUG}/ol{major}/debuginfo/"),
            "gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-oracle".to_owned(),
            "gpgcheck=1".to_owned(),
            "enabled=0".to_owned(),
        ];
        let manager = self.manager().unwrap_or("dnf");
        vec![
            format!(
                "printf '%s\\n' {} > /etc/yum.repos.d/debuginfo.repo",
                quoted(&lines)
            ),
            format!("{manager} install -y --enablerepo=debuginfo {packages}"),
        ]
    }

    /// Debug information of the interpreter in this file.
    pub(super) fn python_debug(&self, path: &str, (major, minor): (u8, u8)) -> Fix {
        let what = "Install the interpreter's debug information.";
        let is_packaged = path.starts_with("/usr/") && !path.starts_with("/usr/local/");
        match self.family {
            Family::Debian | Family::Ubuntu if is_packaged => {
                self.installing(what, &format!("python{major}.{minor}-dbg"))
            }
            // Each package has debug information of its own, and most interpreters live in a library of another one.
            Family::Fedora | Family::Enterprise | Family::Suse if is_packaged => {
                let (package, debuginfo) = package_of(path);
                Fix::new(what, self.rpm_debuginfo(&package, &debuginfo))
            }
            _ => Fix::by_hand(
                "Install the interpreter's debug information from the place that the interpreter came from.",
            ),
        }
    }

    /// The distribution's own interpreter with marks: package, version, and what it can show.
    fn packaged_python(&self) -> Option<(&'static str, &'static str, Shows)> {
        match (self.family, self.major()) {
            (Family::Debian, Some(11)) => Some(("python3", "3.9", Shows::Calls)),
            (Family::Debian, Some(12)) => Some(("python3", "3.11", Shows::CallsByUprobes)),
            (Family::Debian, Some(13)) => Some(("python3", "3.13", Shows::NoCalls)),
            // Testing and unstable have no version.
            (Family::Debian, None) => Some(("python3.15", "3.15", Shows::Calls)),
            (Family::Ubuntu, Some(20)) => Some(("python3", "3.8", Shows::Calls)),
            (Family::Ubuntu, Some(22)) => Some(("python3", "3.10", Shows::Calls)),
            (Family::Ubuntu, Some(24..)) => Some(("python3", "3.12 or later", Shows::NoCalls)),
            (Family::Fedora, _) => Some(("python3.15", "3.15", Shows::Calls)),
            (Family::Enterprise, Some(8)) => Some(("python36", "3.6", Shows::Calls)),
            (Family::Enterprise, Some(9)) => Some(("python3", "3.9", Shows::Calls)),
            (Family::Enterprise, Some(10..)) => Some(("python3", "3.12", Shows::NoCalls)),
            _ => None,
        }
    }

    /// Ways to get an interpreter with marks, in order of effort; with function marks if `calls` are what is missing.
    /// `version` is that of the interpreter in use. Behind `easier` ways, if there are any.
    pub(super) fn python_with_marks(
        &self,
        version: Option<(u8, u8)>,
        calls: bool,
        easier: bool,
    ) -> Vec<Fix> {
        let packaged = self
            .packaged_python()
            .filter(|(_, _, shows)| !calls || *shows != Shows::NoCalls);
        let mut ways = Vec::new();
        if let Some((package, python, shows)) = packaged {
            let what = match shows {
                Shows::Calls => "for calls and everything else",
                Shows::CallsByUprobes => {
                    "for everything (calls through uprobe events, returns through SystemTap too)"
                }
                Shows::NoCalls => "for collections, imports and audit events, but not for calls",
            };
            ways.push(self.installing(
                &format!(
                    "{} the program with the distribution's Python {python}, which has probes {what}.",
                    if easier { "Or run" } else { "Least effort: run" }
                ),
                package,
            ));
        }
        ways.push(self.build_python(version, ways.is_empty()));
        ways.into_iter().map(Fix::or).collect()
    }

    /// CPython built from source with marks.
    fn build_python(&self, version: Option<(u8, u8)>, only_way: bool) -> Fix {
        let packages = match self.family {
            Family::Debian | Family::Ubuntu => {
                "build-essential pkg-config systemtap-sdt-dev libssl-dev libffi-dev zlib1g-dev libbz2-dev \
                 liblzma-dev libsqlite3-dev libreadline-dev"
            }
            // The program dtrace is a package of its own, which RHEL's systemtap-sdt-devel brings along.
            Family::Fedora => {
                "gcc make pkgconfig systemtap-sdt-devel systemtap-sdt-dtrace openssl-devel libffi-devel zlib-devel \
                 bzip2-devel xz-devel sqlite-devel readline-devel"
            }
            Family::Enterprise => {
                "gcc make pkgconfig systemtap-sdt-devel openssl-devel libffi-devel zlib-devel bzip2-devel xz-devel \
                 sqlite-devel readline-devel"
            }
            Family::Suse => {
                "gcc make pkg-config systemtap-sdt-devel libopenssl-devel libffi-devel zlib-devel libbz2-devel \
                 xz-devel sqlite3-devel readline-devel"
            }
            Family::Arch => "base-devel openssl libffi zlib bzip2 xz sqlite readline",
            Family::Other => "",
        };
        let patched = version.is_some_and(|version| version < (3, 6));
        // The patches change what configure is made of.
        let packages = match (patched, packages) {
            (true, packages) if !packages.is_empty() => format!("{packages} autoconf patch"),
            _ => packages.to_owned(),
        };
        let start = if only_way { "Build" } else { "Otherwise build" };
        let what = match version {
            Some((major, minor)) if patched => format!(
                "{start} CPython {major}.{minor} with probes in its unpacked source; this version needs a historical \
                 patch first ({BUILD_PYTHON} says where it is and has the complete steps)."
            ),
            _ => format!(
                "{start} CPython with `--with-dtrace` in its unpacked source, 3.6 to 3.11 or 3.15 for calls \
                 ({BUILD_PYTHON} has the complete steps)."
            ),
        };
        let mut commands: Vec<String> = self.install(&packages).into_iter().collect();
        if patched {
            commands.extend(["patch -p1 < dtrace.patch", "autoconf"].map(str::to_owned));
        }
        commands.extend(
            [
                "./configure --prefix=/opt/python-marks --with-dtrace",
                "make -j\"$(nproc)\" && make altinstall",
                "pystap marks /opt/python-marks/bin/python*[0-9]",
            ]
            .map(str::to_owned),
        );
        Fix::new(what, commands)
    }

    /// What can be done where the kernel requires signatures. Signing is not an option: staprun loads each module under
    /// a name of its own, which changes the module and breaks its signature.
    pub(super) fn unsigned_modules(&self, mokutil: bool) -> Vec<Fix> {
        let mut fixes = Vec::new();
        if !mokutil {
            fixes.push(
                self.installing(
                    "Install mokutil, which speaks with the boot loader.",
                    "mokutil",
                )
                .or(),
            );
        }
        fixes.push(
            Fix::new(
                "Switch validation off, which lowers the protection of the whole machine: choose a password, reboot \
                 and confirm it at the blue screen. Signing the modules does not help, because each session loads its \
                 module under a new name, which breaks the signature.",
                ["mokutil --disable-validation"],
            )
            .or(),
        );
        fixes
    }
}

/// What an interpreter with marks can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    Calls,
    /// Python 3.11: SystemTap sees hardly any calls.
    CallsByUprobes,
    NoCalls,
}

/// Whether a name may be part of a command: facts can come from another host, and root runs their commands.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|sign| sign.is_ascii_alphanumeric() || "-._+~".contains(sign))
}

/// Words for a shell: each in double quotes, within which it may still ask what it runs on. None has a quote itself.
fn quoted(lines: &[String]) -> String {
    let quoted: Vec<String> = lines.iter().map(|line| format!("\"{line}\"")).collect();
    quoted.join(" ")
}

/// The package that a file is from, and the one with its debug information, as words of a shell that asks the database of
/// RPM.
fn package_of(path: &str) -> (String, String) {
    let path = shell::path(path);
    (
        format!("\"$(rpm -qf {path})\""),
        format!(
            "\"$(rpm -qf --qf '%{{NAME}}-debuginfo-%{{VERSION}}-%{{RELEASE}}.%{{ARCH}}' {path})\""
        ),
    )
}

/// The kernel's package where packages are RPMs, and its release: a variant is in the name of the package, and in what
/// `uname -r` says behind a plus. Oracle has a kernel of its own beside that of the family.
fn rpm_kernel(release: &str) -> (String, &str) {
    let (package, variant) = match release.split_once('+') {
        Some((package, variant)) if !variant.is_empty() => (package, variant.replace('_', "-")),
        _ => (release, String::new()),
    };
    let kernel = match package {
        it if it.contains("uek64k") => "kernel-uek64k",
        it if it.contains("uek") => "kernel-uek",
        // Of RHEL 7 and 8.
        it if it.contains(".rt") => "kernel-rt",
        _ => "kernel",
    };
    match variant.as_str() {
        "" => (kernel.to_owned(), package),
        variant => (format!("{kernel}-{variant}"), package),
    }
}

/// Arch's kernel packages, by the end of their releases.
fn arch_kernel(release: &str) -> &'static str {
    [
        ("-rt-lts", "linux-rt-lts"),
        ("-lts", "linux-lts"),
        ("-zen", "linux-zen"),
        ("-hardened", "linux-hardened"),
        ("-rt", "linux-rt"),
    ]
    .into_iter()
    .find(|(suffix, _)| release.ends_with(suffix))
    .map_or("linux", |(_, package)| package)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::doctor::examine;
    use crate::doctor::tests::{host, hosts};
    use crate::host::Fact;

    /// What a host of this distribution with this kernel is told.
    fn remedies(id: &str, version: &str, release: &str) -> Remedies {
        let mut facts = host("debian-12");
        facts.distribution = facts.distribution.map(|mut distribution| {
            distribution.id = id.to_owned();
            distribution.like = Vec::new();
            distribution.version = version.to_owned();
            distribution
        });
        facts.kernel.release = Fact::found("osrelease", release.to_owned());
        Remedies::for_host(&facts)
    }

    /// The heading of a family in docs/packages.md.
    fn heading(family: Family) -> &'static str {
        match family {
            Family::Debian => "Debian",
            Family::Ubuntu => "Ubuntu",
            Family::Fedora => "Fedora",
            Family::Enterprise => "RHEL and its kin",
            Family::Suse => "openSUSE",
            Family::Arch => "Arch",
            Family::Other => "",
        }
    }

    fn every_fix(remedies: &Remedies) -> Vec<Fix> {
        let mut fixes = vec![
            remedies.headers(),
            remedies.systemtap(),
            remedies.newer_systemtap(None),
            remedies.compiler(None),
            remedies.compiler(Some("gcc-12")),
            remedies.compiler(Some("clang-18")),
            remedies.python_debug("/usr/lib64/libpython3.14.so.1.0", (3, 14)),
        ];
        fixes.extend(remedies.debug_information());
        fixes.extend(remedies.python_with_marks(Some((3, 14)), true, false));
        fixes.extend(remedies.python_with_marks(Some((2, 7)), false, true));
        fixes.extend(remedies.unsigned_modules(false));
        fixes
    }

    /// What differs between kernels, compilers and Pythons, as the page has it.
    fn without_numbers(name: &str) -> String {
        let name = ["RELEASE.uek64k", "RELEASE.uek", "RELEASE.rt"]
            .into_iter()
            .fold(name.to_owned(), |name, release| {
                name.replace(release, "RELEASE")
            });
        let all_digits =
            |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
        if name.strip_prefix("gcc-").is_some_and(all_digits) {
            return "gcc-N".to_owned();
        }
        let python = name
            .strip_suffix("-dbg")
            .and_then(|it| it.strip_prefix("python"));
        match python {
            Some(version) if all_digits(&version.replace('.', "")) => "pythonX.Y-dbg".to_owned(),
            _ => name,
        }
    }

    /// What the database of RPM is asked for stands in the page as the name of the package that the file is from.
    fn without_questions(command: &str) -> String {
        let Some((before, question)) = command.split_once("\"$(rpm -qf ") else {
            return command.to_owned();
        };
        let (question, after) = question.split_once(")\"").expect("an end");
        let asked = match question.split_once("%{NAME}") {
            Some((_, rest)) => format!(
                "NAME{}",
                rest.split_once("-%{VERSION}").expect("a version").0
            ),
            None => "NAME".to_owned(),
        };
        format!("{before}{asked}{after}")
    }

    /// Names of packages and repositories in a command.
    fn names(command: &str) -> BTreeSet<String> {
        let command = &without_questions(command);
        let words: Vec<&str> = command
            .split_whitespace()
            .map(|word| word.trim_matches(['"', '\'', '\\']))
            .collect();
        let mut names: BTreeSet<String> = BTreeSet::new();
        for word in &words {
            let url = word.find("http").map(|at| &word[at..]);
            if let Some((scheme, rest)) = url.and_then(|url| url.split_once("://")) {
                let host = rest.split('/').next().expect("a first part");
                names.insert(format!("{scheme}://{host}"));
            }
            names.extend(
                word.strip_prefix("--enablerepo=")
                    .map(|it| it.trim_matches('\'').to_owned()),
            );
        }
        for option in ["--keyserver", "--plus-content"] {
            let at = words.iter().position(|word| *word == option);
            names.extend(
                at.and_then(|at| words.get(at + 1))
                    .map(|it| (*it).to_owned()),
            );
        }
        let manages = [
            "apt-get",
            "dnf",
            "yum",
            "zypper",
            "pacman",
            "debuginfo-install",
        ];
        let installs = ["install", "debuginfo-install", "-S"];
        let first = words.iter().position(|word| installs.contains(word));
        if let Some(first) = first.filter(|_| manages.contains(&words[0])) {
            let packages = words[first + 1..]
                .iter()
                .filter(|word| !word.starts_with('-'));
            names.extend(packages.map(|package| without_numbers(package)));
        }
        names
    }

    fn all_names(fixes: &[Fix]) -> BTreeSet<String> {
        let commands = fixes.iter().flat_map(|fix| &fix.commands);
        commands.flat_map(|command| names(command)).collect()
    }

    /// The names of docs/packages.md, by heading.
    fn table() -> BTreeMap<String, BTreeSet<String>> {
        let page = include_str!("../../docs/packages.md");
        let mut table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut names = None;
        for line in page.lines() {
            if let Some(heading) = line.strip_prefix("## ") {
                names = Some(table.entry(heading.to_owned()).or_default());
            } else if let (Some(names), Some(row)) = (&mut names, line.strip_prefix("| `")) {
                let cell = row.split('|').next().expect("a first cell");
                let cell = format!("`{cell}");
                names.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
            }
        }
        table
    }

    #[test]
    fn every_name_in_a_fix_stands_in_the_table_of_packages_and_no_other() {
        let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (id, versions, releases) in [
            ("debian", &["11", "12", "13", ""][..], &["RELEASE"][..]),
            (
                "ubuntu",
                &["14.04", "20.04", "22.04", "24.04", "26.04"],
                &["RELEASE"],
            ),
            ("fedora", &["43"], &["RELEASE"]),
            (
                "rhel",
                &["7.9", "8.10", "9.5", "10.0"],
                &["RELEASE", "RELEASE.rt", "RELEASE+64k"],
            ),
            (
                "ol",
                &["7.9", "8.10", "9.5"],
                &["RELEASE", "RELEASE.uek", "RELEASE.uek64k"],
            ),
            ("opensuse-leap", &["15.6"], &["RELEASE-default"]),
            (
                "arch",
                &[""],
                &[
                    "6-arch1",
                    "6-lts",
                    "6-zen",
                    "6-hardened",
                    "6-rt",
                    "6-rt-lts",
                ],
            ),
        ] {
            for version in versions {
                for release in releases {
                    let remedies = remedies(id, version, release);
                    let names = named
                        .entry(heading(remedies.family).to_owned())
                        .or_default();
                    names.extend(all_names(&every_fix(&remedies)));
                }
            }
        }
        assert_eq!(named, table());
    }

    #[test]
    fn no_finding_of_a_known_host_names_what_is_not_in_the_table() {
        let table = table();
        for name in hosts() {
            let facts = host(&name);
            let remedies = Remedies::for_host(&facts);
            let Some(known) = table.get(heading(remedies.family)) else {
                continue;
            };
            let findings = examine(&facts, None).findings;
            let fixes: Vec<Fix> = findings.into_iter().flat_map(|it| it.fixes).collect();
            let release = remedies.release.trim_end_matches("-default");
            for found in all_names(&fixes) {
                let found = found.replace(release, "RELEASE");
                assert!(known.contains(&found), "{name} names {found}");
            }
        }
    }

    #[test]
    fn oracles_own_kernel_has_packages_of_its_own_and_an_archive_that_has_to_be_added() {
        let uek = "5.15.0-300.163.18.el9uek.x86_64";
        let remedies = remedies("ol", "9.5", uek);
        assert_eq!(
            remedies.headers().commands,
            [format!("dnf install -y kernel-uek-devel-{uek}")]
        );
        let debug = &remedies.debug_information()[0].commands;
        assert!(
            debug[0].contains("\"baseurl=https://oss.oracle.com/ol9/debuginfo/\""),
            "{debug:?}"
        );
        assert_eq!(
            debug[1],
            format!("dnf install -y --enablerepo=debuginfo kernel-uek-debuginfo-{uek}")
        );
    }

    #[test]
    fn a_variant_of_the_kernel_has_packages_of_its_own() {
        for (id, release, headers) in [
            (
                "rhel",
                "5.14.0-570.el9.x86_64",
                "kernel-devel-5.14.0-570.el9.x86_64",
            ),
            (
                "rhel",
                "5.14.0-570.el9.x86_64+rt",
                "kernel-rt-devel-5.14.0-570.el9.x86_64",
            ),
            (
                "rhel",
                "5.14.0-570.el9.aarch64+64k_debug",
                "kernel-64k-debug-devel-5.14.0-570.el9.aarch64",
            ),
            (
                "rhel",
                "4.18.0-553.rt7.342.el8_10.x86_64",
                "kernel-rt-devel-4.18.0-553.rt7.342.el8_10.x86_64",
            ),
            (
                "fedora",
                "6.17.1-300.fc43.x86_64",
                "kernel-devel-6.17.1-300.fc43.x86_64",
            ),
            // Built by hand, with changes that were not committed.
            ("fedora", "6.17.1+", "kernel-devel-6.17.1+"),
            (
                "opensuse-leap",
                "6.4.0-150600.23.17-default",
                "kernel-default-devel=6.4.0-150600.23.17",
            ),
            ("arch", "6.6.87-rt54-arch1-6-rt-lts", "linux-rt-lts-headers"),
            ("arch", "6.18.22-1-lts", "linux-lts-headers"),
            ("arch", "6.19.11-arch1-1", "linux-headers"),
        ] {
            let command = &remedies(id, "", release).headers().commands[0];
            assert_eq!(
                command.split_whitespace().last(),
                Some(headers),
                "{release}"
            );
        }
    }

    #[test]
    fn debug_information_of_an_rpm_is_that_of_the_package_which_the_file_is_from() {
        let library = "/usr/lib64/libpython3.9.so.1.0";
        let of = |id, version, path| {
            let commands = remedies(id, version, "RELEASE")
                .python_debug(path, (3, 9))
                .commands;
            commands.last().cloned().unwrap_or_default()
        };
        assert_eq!(
            of("rhel", "9.5", library),
            format!("dnf debuginfo-install -y \"$(rpm -qf {library})\"")
        );
        assert_eq!(
            of("rhel", "7.9", "/usr/lib64/a b"),
            "debuginfo-install -y \"$(rpm -qf '/usr/lib64/a b')\""
        );
        let debuginfo = format!(
            "\"$(rpm -qf --qf '%{{NAME}}-debuginfo-%{{VERSION}}-%{{RELEASE}}.%{{ARCH}}' {library})\""
        );
        assert_eq!(
            of("fedora", "43", library),
            format!("dnf install -y --enablerepo='*-debuginfo' {debuginfo}")
        );
        assert_eq!(
            of("opensuse-leap", "15.6", library),
            format!("zypper --non-interactive --plus-content debug install {debuginfo}")
        );
        // What no package has brought, none can explain.
        for (id, version) in [("rhel", "9.5"), ("debian", "13")] {
            for path in ["/opt/python/bin/python3.9", "/usr/local/bin/python3.9"] {
                assert_eq!(of(id, version, path), "", "{id} {path}");
            }
        }
    }

    #[test]
    fn opensuse_is_asked_which_package_the_kernel_is_from_and_arch_has_no_debug_information() {
        let commands = |id, release| {
            remedies(id, "", release).debug_information()[0]
                .commands
                .clone()
        };
        assert_eq!(
            commands("opensuse-tumbleweed", "7.2.5-1-default"),
            [
                "zypper --non-interactive --plus-content debug install \"$(rpm -qf --qf \
                 '%{NAME}-debuginfo-%{VERSION}-%{RELEASE}.%{ARCH}' /boot/vmlinuz-7.2.5-1-default)\""
            ]
        );
        assert_eq!(commands("arch", "6.19.11-arch1-1"), [""; 0]);
    }

    #[test]
    fn ubuntus_archive_of_debug_symbols_is_added_in_the_form_of_the_release() {
        let of = |version| {
            let mut remedies = remedies("ubuntu", version, "6.8.0-45-generic");
            remedies.codename = "name".to_owned();
            remedies.debug_archive().commands
        };
        assert_eq!(
            of("24.04"),
            [
                "apt-get install -y ubuntu-dbgsym-keyring",
                "printf '%s\\n' \"Types: deb\" \"URIs: http://ddebs.ubuntu.com\" \"Suites: name name-updates\" \
                 \"Components: main restricted universe multiverse\" \
                 \"Signed-By: /usr/share/keyrings/ubuntu-dbgsym-keyring.gpg\" > /etc/apt/sources.list.d/ddebs.sources",
            ]
        );
        assert!(of("22.04")[1].ends_with("/ddebs.list"), "{:?}", of("22.04"));
        assert!(of("16.04")[0].contains("--keyserver"), "{:?}", of("16.04"));
    }
}
