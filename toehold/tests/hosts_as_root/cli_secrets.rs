//! No secret in a log, on standard output, in the state directory or on the host: whole runs at the highest log level, searched for
//! the private keys and the proof's secret in every form that they could take.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::support;
use crate::support::{Done, RealSshd, Toehold};
use base64ct::{Base64Unpadded, Encoding as _};
use memchr::memmem;
use rustix::process::{Pid, Signal, kill_process};
use ssh_key::PrivateKey;

/// Every private key in OpenSSH's form that a process holds.
fn private_keys_in_memory(pid: u32) -> Vec<PrivateKey> {
    const BEGIN: &[u8] = b"-----BEGIN OPENSSH PRIVATE KEY-----";
    const END: &[u8] = b"-----END OPENSSH PRIVATE KEY-----";
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found: Vec<PrivateKey> = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let mut fields = line.split_ascii_whitespace();
        let (range, modes) = (fields.next().unwrap(), fields.next().unwrap());
        let (from, to) = range.split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        if !modes.starts_with("rw") || memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        for at in memmem::find_iter(&bytes, BEGIN) {
            let text = &bytes[at..bytes.len().min(at + 4096)];
            let Some(end) = memmem::find(text, END) else { continue };
            if let Ok(key) = PrivateKey::from_openssh(&text[..end + END.len()])
                && !found.iter().any(|have| have.public_key() == key.public_key())
            {
                found.push(key);
            }
        }
    }
    found
}

/// A secret in all forms in which somebody could print or write it.
struct Secret {
    name: &'static str,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    fn new(name: &'static str, bytes: &[u8]) -> Self {
        let hex = |upper: bool| -> String {
            bytes.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }).collect()
        };
        let mut forms = vec![bytes.to_vec(), hex(false).into_bytes(), hex(true).into_bytes()];
        // As Rust's Debug prints bytes.
        forms.push(bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ").into_bytes());
        // Base64 of something that holds it, at each of the three places where it may begin; the digits at its edges hold bits of
        // what is beside it.
        for before in 0..3 {
            let text = Base64Unpadded::encode_string(&[&vec![0; before], bytes].concat());
            let from = [0, 2, 3][before];
            let whole = (before + bytes.len()) * 8 / 6;
            forms.push(text.as_bytes()[from..whole].to_vec());
        }
        Self { name, forms }
    }

    fn of_key(name: &'static str, key: &PrivateKey) -> Self {
        Self::new(name, &key.key_data().ed25519().unwrap().private.to_bytes())
    }

    #[track_caller]
    fn is_not_in(&self, bytes: &[u8], place: &str) {
        // A line end every so many characters hides nothing.
        let joined: Vec<u8> = bytes.iter().copied().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect();
        for form in &self.forms {
            assert!(form.len() >= 30, "a form that is too short is found anywhere");
            let found = memmem::find(bytes, form).or_else(|| memmem::find(&joined, form));
            assert!(found.is_none(), "never_on_disk: {} is in {place}, at {found:?}", self.name);
        }
    }
}

/// A whole `host add` whose command stops before it is run, so that the process can be looked into.
struct Run {
    toehold: Toehold,
    host: RealSshd,
    scratch: tempfile::TempDir,
}

impl Run {
    fn new(host: RealSshd, init: &[&str]) -> Self {
        let toehold = Toehold::bare();
        toehold.run(["init"].into_iter().chain(init.iter().copied())).ends(0);
        Self { toehold, host, scratch: support::server::directory("secrets") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Runs it; `shell` gets the command once it goes on. Returns how it ended and what is secret.
    fn run(&self, shell: &str, more: &[&str], interrupted: bool) -> (Done, Vec<Secret>) {
        let (account, home) = (self.host.account().to_string(), self.host.home());
        let (copy, gate) = (self.path("line"), self.path("gate"));
        drop(fs::remove_file(&copy));
        if !gate.exists() {
            assert!(std::process::Command::new("mkfifo").arg(&gate).status().unwrap().success());
        }
        let script = self.path("via");
        fs::write(
            &script,
            format!("cat >'{0}.new' && mv '{0}.new' '{0}' && read _ <'{1}'; {shell} <'{0}'\n", copy.display(), gate.display()),
        )
        .unwrap();
        let via = format!("sh {}", script.display());
        let arguments = ["--json", "-vv", "host", "add", &account, "--home", home.to_str().unwrap(), "--via", &via];
        let mut command = self.toehold.command(arguments.into_iter().chain(more.iter().copied()));
        command.env("RUST_LOG", "trace").stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap());
        while !copy.exists() {
            assert_eq!(child.try_wait().unwrap(), None, "ended before its command was run");
            std::thread::yield_now();
        }
        let line = fs::read_to_string(&copy).unwrap();
        let temporary = self.toehold.sessions(false)[0]["temporary_key"].as_str().unwrap().to_owned();
        let keys = private_keys_in_memory(child.id());
        let mut secrets: Vec<Secret> = Vec::new();
        for key in &keys {
            let public = key.public_key().to_openssh().unwrap();
            let is_temporary = public.split(' ').nth(1) == temporary.split(' ').nth(1);
            if key.algorithm().is_ed25519() {
                secrets.push(Secret::of_key(if is_temporary { "the temporary key" } else { "the master key" }, key));
            }
        }
        assert!(
            secrets.iter().any(|secret| secret.name == "the temporary key"),
            "not found in memory: the test looks at the wrong place"
        );
        let digits = line.split(|c: char| !c.is_ascii_hexdigit()).find(|word| word.len() == 62).expect("the proof's secret");
        let bytes: Vec<u8> = (0..31).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect();
        secrets.push(Secret::new("the proof's secret", &bytes));
        self.search_disks(&secrets);
        if interrupted {
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        }
        drop(
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(&gate)
                .and_then(|mut gate| std::io::Write::write_all(&mut gate, b"\n")),
        );
        let mut done = Toehold::wait(child);
        done.stderr = stderr.join().unwrap();
        assert!(done.stderr.contains("TRACE"), "nothing was logged");
        for secret in &secrets {
            secret.is_not_in(done.stdout.as_bytes(), "standard output");
            secret.is_not_in(done.stderr.as_bytes(), "standard error");
        }
        self.search_disks(&secrets);
        (done, secrets)
    }

    /// Whatever is in the state directory and in the account's `.ssh`.
    fn search_disks(&self, secrets: &[Secret]) {
        for directory in [self.toehold.state(), self.host.home().join(".ssh")] {
            for path in files_below(&directory) {
                let Ok(bytes) = fs::read(&path) else { continue };
                for secret in secrets {
                    secret.is_not_in(&bytes, &path.display().to_string());
                }
            }
        }
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

#[test]
fn the_search_finds_every_form() {
    let bytes: Vec<u8> = (7..39).collect();
    let secret = Secret::new("it", &bytes);
    let found = |text: &[u8]| std::panic::catch_unwind(|| secret.is_not_in(text, "a test")).is_err();
    for before in 0..3 {
        for after in 0..3 {
            let around = [&vec![0xa5; before + 6], bytes.as_slice(), &vec![0x5a; after]].concat();
            let text = Base64Unpadded::encode_string(&around);
            assert!(found(text.as_bytes()) && found(format!("{}\n{}", &text[..20], &text[20..]).as_bytes()), "{before} {after}");
        }
    }
    assert!(found(&bytes) && found(format!("x{bytes:?}").as_bytes()));
    assert!(!found(b"nothing of it"));
}

#[test]
fn never_on_disk_and_in_no_log_of_a_whole_run() {
    let run = Run::new(RealSshd::start(), &[]);
    let (done, secrets) = run.run("sh", &[], false);
    let done = done.ends(0);
    assert!(secrets.iter().any(|secret| secret.name == "the master key"));
    assert!(done.stdout.contains("completed"), "{}", done.stdout);
}

#[test]
fn never_on_disk_and_in_no_log_of_runs_that_fail() {
    std::thread::scope(|scope| {
        // No proof; the command fails; somebody wants out.
        scope.spawn(|| {
            let run = Run::new(RealSshd::start(), &[]);
            let without_proof = format!("sh -c 'sh; rm -f {}/.ssh/toehold-proof-*'", run.host.home().display());
            assert!(run.run(&without_proof, &[], false).0.ends(3).stderr.contains("proof"));
        });
        scope.spawn(|| Run::new(RealSshd::start(), &[]).run("false", &[], false).0.ends(3));
        scope.spawn(|| Run::new(RealSshd::start(), &[]).run("sh", &[], true).0.ends(3));
        // The master key cannot log in.
        scope.spawn(|| {
            let host = RealSshd::builder().config("PubkeyAcceptedAlgorithms ssh-ed25519").start();
            Run::new(host, &["--algorithm", "ecdsa-p256"]).run("sh", &[], false).0.ends(1)
        });
        // Sealed, it is in the store, and not to be read there.
        scope.spawn(|| Run::new(RealSshd::start(), &[]).run("false", &["--seal-temporary-key"], false));
    });
}
