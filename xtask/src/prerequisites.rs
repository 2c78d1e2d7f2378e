//! The real programs that the tests need: found, installed where that is ours to do, or named with what to do about them.

use std::fmt;
use std::process::{Command, Stdio};
use std::str::FromStr;

use crate::workspace::root;
use crate::{Result, fuzz, kubernetes, process, target};

/// The version that is installed where cargo-fuzz is missing.
const CARGO_FUZZ: &str = "0.13.2";

/// Installs Debian packages. The server that comes with openssh-server is for the tests to start on loopback ports; it must not begin
/// to listen on its own, neither now (`policy-rc.d`, which the packages' scripts ask) nor after the next boot (`sshd_not_to_be_run`,
/// which Debian's unit and init script look for).
const APT: &str = r#"
set -e
if ! command -v sshd >/dev/null && ! [ -e /usr/sbin/sshd ]; then
    mkdir -p /etc/ssh
    echo 'The ssh service stays off: openssh-server was installed for tests. Remove this file to have it.' >/etc/ssh/sshd_not_to_be_run
fi
policy=/usr/sbin/policy-rc.d
if ! [ -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    (umask 022; printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy")
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends "$@"
"#;

/// A part of the tests that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A file's access control lists and extended attributes.
    Acl,
    /// The status page in a real browser.
    Browser,
    /// Tests against dropbear.
    Dropbear,
    /// The fuzz targets.
    Fuzz,
    /// Tests on a real Kubernetes cluster.
    Kubernetes,
    /// The shared store on real NATS servers.
    Nats,
    /// Tests against real OpenSSH.
    Openssh,
    /// Archives as Python reads and writes them.
    Python,
    /// Tests that mount something, give files to other users or make networks.
    Root,
    /// The commands to paste, in every shell.
    Shells,
    /// Tests that look at system calls.
    Strace,
    /// The units, as systemd reads them.
    Systemd,
}

const PARTS: [Part; 12] = [
    Part::Acl,
    Part::Browser,
    Part::Dropbear,
    Part::Fuzz,
    Part::Kubernetes,
    Part::Nats,
    Part::Openssh,
    Part::Python,
    Part::Root,
    Part::Shells,
    Part::Strace,
    Part::Systemd,
];

/// A program that must be there.
struct Tool {
    program: &'static str,
    from: Origin,
    /// `None`: nothing works without it.
    part: Option<Part>,
}

/// Where a program comes from.
#[derive(Clone, Copy)]
enum Origin {
    /// A Debian package, or several with blanks between.
    Apt(&'static str),
    /// A component of the Rust toolchain that runs this task.
    Component(&'static str),
    /// cargo-fuzz, from its registry.
    CargoFuzz,
    /// Go, in a version that builds Kubernetes; not needed where that is built.
    Go,
    /// The toolchain that fuzzing needs.
    Nightly,
    /// Whoever started this task.
    Root,
}

const TOOLS: [Tool; 47] = [
    Tool { program: "cargo-fmt", from: Origin::Component("rustfmt"), part: None },
    Tool { program: "cargo-clippy", from: Origin::Component("clippy"), part: None },
    Tool { program: "git", from: Origin::Apt("git"), part: None },
    Tool { program: "tar", from: Origin::Apt("tar"), part: None },
    // SQLite, ring and jemalloc are compiled from C, the last of them by its own Makefile.
    Tool { program: "cc", from: Origin::Apt("gcc libc6-dev"), part: None },
    Tool { program: "make", from: Origin::Apt("make"), part: None },
    Tool { program: "sshd", from: Origin::Apt("openssh-server"), part: Some(Part::Openssh) },
    Tool { program: "sftp-server", from: Origin::Apt("openssh-sftp-server"), part: Some(Part::Openssh) },
    Tool { program: "ssh", from: Origin::Apt("openssh-client"), part: Some(Part::Openssh) },
    Tool { program: "ssh-keygen", from: Origin::Apt("openssh-client"), part: Some(Part::Openssh) },
    Tool { program: "ssh-keyscan", from: Origin::Apt("openssh-client"), part: Some(Part::Openssh) },
    // What people run over ssh.
    Tool { program: "rsync", from: Origin::Apt("rsync"), part: Some(Part::Openssh) },
    Tool { program: "dropbear", from: Origin::Apt("dropbear-bin"), part: Some(Part::Dropbear) },
    Tool { program: "dropbearkey", from: Origin::Apt("dropbear-bin"), part: Some(Part::Dropbear) },
    Tool { program: "python3", from: Origin::Apt("python3"), part: Some(Part::Python) },
    Tool { program: "unshare", from: Origin::Apt("util-linux"), part: Some(Part::Root) },
    Tool { program: "mounting", from: Origin::Root, part: Some(Part::Root) },
    // Networks between which a cable is pulled.
    Tool { program: "ip", from: Origin::Apt("iproute2"), part: Some(Part::Root) },
    Tool { program: "nsenter", from: Origin::Apt("util-linux"), part: Some(Part::Root) },
    Tool { program: "bash", from: Origin::Apt("bash"), part: Some(Part::Shells) },
    Tool { program: "busybox", from: Origin::Apt("busybox"), part: Some(Part::Shells) },
    Tool { program: "dash", from: Origin::Apt("dash"), part: Some(Part::Shells) },
    Tool { program: "fish", from: Origin::Apt("fish"), part: Some(Part::Shells) },
    Tool { program: "mksh", from: Origin::Apt("mksh"), part: Some(Part::Shells) },
    Tool { program: "zsh", from: Origin::Apt("zsh"), part: Some(Part::Shells) },
    Tool { program: "setfacl", from: Origin::Apt("acl"), part: Some(Part::Acl) },
    Tool { program: "setfattr", from: Origin::Apt("attr"), part: Some(Part::Acl) },
    Tool { program: "nats-server", from: Origin::Apt("nats-server"), part: Some(Part::Nats) },
    Tool { program: "chromium", from: Origin::Apt("chromium"), part: Some(Part::Browser) },
    Tool { program: "chromedriver", from: Origin::Apt("chromium-driver"), part: Some(Part::Browser) },
    Tool { program: "systemd-analyze", from: Origin::Apt("systemd"), part: Some(Part::Systemd) },
    // One of the three programs that the script may find for its tags.
    Tool { program: "openssl", from: Origin::Apt("openssl"), part: Some(Part::Shells) },
    Tool { program: "strace", from: Origin::Apt("strace"), part: Some(Part::Strace) },
    // The machinery of a node, and what is put into the images of its pods.
    Tool { program: "containerd", from: Origin::Apt("containerd"), part: Some(Part::Kubernetes) },
    Tool { program: "runc", from: Origin::Apt("runc"), part: Some(Part::Kubernetes) },
    Tool { program: "ip", from: Origin::Apt("iproute2"), part: Some(Part::Kubernetes) },
    Tool { program: "nsenter", from: Origin::Apt("util-linux"), part: Some(Part::Kubernetes) },
    Tool { program: "flock", from: Origin::Apt("util-linux"), part: Some(Part::Kubernetes) },
    Tool { program: "busybox", from: Origin::Apt("busybox"), part: Some(Part::Kubernetes) },
    Tool { program: "bash", from: Origin::Apt("bash"), part: Some(Part::Kubernetes) },
    Tool { program: "rsync", from: Origin::Apt("rsync"), part: Some(Part::Kubernetes) },
    Tool { program: "sftp-server", from: Origin::Apt("openssh-sftp-server"), part: Some(Part::Kubernetes) },
    Tool { program: "mounting", from: Origin::Root, part: Some(Part::Kubernetes) },
    Tool { program: "go", from: Origin::Go, part: Some(Part::Kubernetes) },
    // libFuzzer is compiled from C++.
    Tool { program: "c++", from: Origin::Apt("g++"), part: Some(Part::Fuzz) },
    Tool { program: "nightly Rust", from: Origin::Nightly, part: Some(Part::Fuzz) },
    Tool { program: "cargo-fuzz", from: Origin::CargoFuzz, part: Some(Part::Fuzz) },
];

impl Part {
    /// Those whose names stand in that of a single test.
    pub(crate) fn named_in(test: &str) -> impl Iterator<Item = Self> {
        // Kubernetes is needed by whole programs only, and its name stands in those of tests that need none.
        PARTS.into_iter().filter(move |part| *part != Self::Kubernetes && test.contains(part.name()))
    }

    /// The name that `--without` takes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Acl => "acl",
            Self::Browser => "browser",
            Self::Dropbear => "dropbear",
            Self::Fuzz => "fuzz",
            Self::Kubernetes => "kubernetes",
            Self::Nats => "nats",
            Self::Openssh => "openssh",
            Self::Python => "python",
            Self::Root => "root",
            Self::Shells => "shells",
            Self::Strace => "strace",
            Self::Systemd => "systemd",
        }
    }

    /// What is not checked without it.
    pub(crate) fn loses(self) -> &'static str {
        match self {
            Self::Acl => "files with access control lists or extended attributes",
            Self::Browser => "the status page in a real browser",
            Self::Dropbear => "hosts that run dropbear",
            Self::Fuzz => "the fuzz targets",
            Self::Kubernetes => "pods on a real cluster",
            Self::Nats => "the shared store",
            Self::Openssh => "everything against a real OpenSSH server",
            Self::Python => "whether Python reads archives as we do",
            Self::Root => "full disks, other users' files, hosts with an /etc of their own and networks that are cut",
            Self::Shells => "the install command in real shells",
            Self::Strace => "what is read off system calls",
            Self::Systemd => "whether systemd reads the units as they are meant",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || PARTS.map(Part::name).join(", ");
        PARTS
            .into_iter()
            .find(|part| part.name() == name)
            .ok_or_else(|| format!("--without takes one of {}; got {name}", known()))
    }
}

/// Makes sure that all programs are there, but those of the parts that are left out.
pub(crate) fn ensure(without: &[Part]) -> Result<()> {
    ensure_where(|part| part.is_none_or(|part| !without.contains(&part)))
}

/// Makes sure that OpenSSH is there.
pub(crate) fn ensure_openssh() -> Result<()> {
    ensure_only(&[Part::Openssh])
}

/// Makes sure that what these parts need is there, and nothing else.
pub(crate) fn ensure_only(parts: &[Part]) -> Result<()> {
    ensure_where(|part| part.is_none_or(|part| parts.contains(&part)))
}

/// Makes sure that the server of a shared store is there.
pub(crate) fn ensure_nats() -> Result<()> {
    ensure_only(&[Part::Nats])
}

/// Makes sure that a cluster can be started.
pub(crate) fn ensure_kubernetes() -> Result<()> {
    ensure_where(|part| part == Some(Part::Kubernetes))
}

fn ensure_where(wanted: impl Fn(Option<Part>) -> bool) -> Result<()> {
    let missing = || TOOLS.iter().filter(|tool| wanted(tool.part) && !tool.is_there()).collect::<Vec<_>>();
    let mut still = missing();
    if !still.is_empty() && is_root()? && process::find("apt-get").is_some() {
        // What could not be installed is found missing again below, with what to do about it.
        if let Err(error) = install(&still) {
            println!("{error}");
        }
        still = missing();
    }
    if !still.is_empty() {
        return Err(explain(&still).into());
    }
    if wanted(Some(Part::Openssh)) {
        target::ensure_fit()?;
        // Started by root, sshd wants this directory, which on most machines only its service creates.
        if is_root()? {
            std::fs::create_dir_all("/run/sshd").map_err(|error| format!("/run/sshd: {error}"))?;
        }
    }
    Ok(())
}

fn install(missing: &[&Tool]) -> Result<()> {
    println!("installing: {}", missing.iter().map(|tool| tool.program).collect::<Vec<_>>().join(", "));
    let mut packages: Vec<&str> = missing.iter().flat_map(|tool| tool.packages()).collect();
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() {
        let mut shell = Command::new("sh");
        shell.args(["-c", APT, "apt"]).args(&packages).stdin(Stdio::null());
        println!("$ apt-get update; apt-get install -y --no-install-recommends {}", packages.join(" "));
        let status = shell.status()?;
        if !status.success() {
            return Err(format!("apt-get ended with {status}").into());
        }
    }
    // In the table's order: cargo-fuzz needs no nightly to be installed, but is of no use without.
    for tool in missing {
        match tool.from {
            Origin::Apt(_) | Origin::Go | Origin::Root => {}
            Origin::Component(component) => {
                process::run(Command::new("rustup").args(["component", "add", component]))?;
            }
            Origin::Nightly => {
                process::run(Command::new("rustup").args(["toolchain", "install", fuzz::TOOLCHAIN, "--profile", "minimal"]))?;
            }
            Origin::CargoFuzz => {
                process::run(process::cargo().args(["install", "cargo-fuzz", "--locked", "--version", CARGO_FUZZ]))?;
            }
        }
    }
    Ok(())
}

/// What to do, one line a missing program.
fn explain(missing: &[&Tool]) -> String {
    let line = |tool: &&Tool| {
        let how = match tool.from {
            Origin::Apt(package) => format!("Debian package {package}"),
            Origin::Go => format!("Go {}.{} or later, once, to build it: https://go.dev/dl/", kubernetes::GO.0, kubernetes::GO.1),
            Origin::Component(component) => format!("rustup component add {component}"),
            Origin::Nightly => format!("rustup toolchain install {} --profile minimal", fuzz::TOOLCHAIN),
            Origin::CargoFuzz => format!("cargo install cargo-fuzz --locked --version {CARGO_FUZZ}"),
            Origin::Root => {
                "run as root where namespaces of mounts and networks are allowed, such as in a privileged container".to_owned()
            }
        };
        let without =
            tool.part.map_or_else(|| "needed in any case".to_owned(), |part| format!("or leave it out: --without {part}"));
        format!("    {:<14} {how}; {without}", tool.program)
    };
    let lines: Vec<String> = missing.iter().map(line).collect();
    format!(
        "these programs are missing; no test was run:\n{}\nroot on a machine with apt-get has all but Go installed by this very command",
        lines.join("\n")
    )
}

impl Tool {
    fn is_there(&self) -> bool {
        let works = |command: &mut Command| command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success());
        match self.from {
            Origin::Apt(_) => process::find(self.program).is_some(),
            // rustup leaves a file for each component on `PATH`, installed or not: only running it tells.
            Origin::Component(_) => works(process::cargo().args([self.program.trim_start_matches("cargo-"), "--version"])),
            Origin::Nightly => works(Command::new("rustup").args(["run", fuzz::TOOLCHAIN, "rustc", "--version"])),
            Origin::CargoFuzz => works(process::cargo().args(["fuzz", "--version"])),
            Origin::Go => kubernetes::is_built() || has_go(),
            Origin::Root => is_root().unwrap_or(false) && works(Command::new("unshare").args(["--mount", "--net", "true"])),
        }
    }

    /// The Debian packages that bring it.
    fn packages(&self) -> impl Iterator<Item = &'static str> {
        let names = match self.from {
            Origin::Apt(names) => names,
            Origin::Component(_) | Origin::CargoFuzz | Origin::Go | Origin::Nightly | Origin::Root => "",
        };
        names.split_whitespace()
    }
}

/// Whether we may install for everybody.
fn is_root() -> Result<bool> {
    Ok(process::user_id()? == 0)
}

/// Whether there is a Go that builds Kubernetes, or one that fetches such a one by itself.
fn has_go() -> bool {
    let mut go = Command::new("go");
    go.arg("version").current_dir(root().join("xtask/kubernetes"));
    process::text(&mut go).ok().and_then(|printed| go_version(&printed)).is_some_and(|version| version >= kubernetes::GO)
}

/// `go version go1.26.8 linux/amd64`
fn go_version(printed: &str) -> Option<(u32, u32)> {
    let mut numbers = printed.split_whitespace().nth(2)?.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_read_back_from_its_name_and_needs_a_program() {
        for part in PARTS {
            assert_eq!(part.name().parse(), Ok(part));
            assert!(TOOLS.iter().any(|tool| tool.part == Some(part)), "{part}");
        }
        assert!("everything".parse::<Part>().unwrap_err().contains("dropbear"));
    }

    #[test]
    fn the_version_of_go_is_read() {
        assert_eq!(go_version("go version go1.26.8 linux/amd64\n"), Some((1, 26)));
        assert_eq!(go_version("go version go1.27rc1 linux/amd64\n"), Some((1, 27)));
        assert!(go_version("go version go1.9.2 linux/amd64\n") < Some(kubernetes::GO));
        assert_eq!(go_version("go: no toolchain\n"), None);
    }

    #[test]
    fn a_missing_program_is_named_with_both_ways_out() {
        let tool = Tool { program: "mksh", from: Origin::Apt("mksh"), part: Some(Part::Shells) };
        let text = explain(&[&tool]);
        assert!(text.contains("Debian package mksh") && text.contains("--without shells"), "{text}");
    }
}
