//! What the tests of the install and removal lines share: a home in a directory of the test's own, every shell as `sh`, and
//! mount namespaces for what a host keeps in `/etc`.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code that every test file uses a part of"
)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::{Account, PublicKey, SessionId, Timestamp};
use toehold_keygen::install::{InstallCommand, ProofFile, ProofSecret, RemovalCommand, proof_file_name};

pub const TEMPORARY_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV";
pub const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGu3l0o1WGdxbCKIe0PHgqzEjSJ6wYzMsHDeUy4lCVCz";
pub const OTHER_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB4DMtRGQyJlzbHQK3fdZoxHXLYFt6dmvD4Wx7ZkSJ4G";
pub const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddee";

/// The shells that the lines must work in, by the program that is run.
pub const SHELLS: [&str; 5] = ["dash", "bash", "zsh", "mksh", "busybox"];

/// Finds a program, or says what to install; a test without its tools has not passed.
pub fn tool(name: &str) -> PathBuf {
    let package = match name {
        "sshd" => "openssh-server",
        "ssh" | "ssh-keyscan" | "sftp" | "ssh-keygen" => "openssh-client",
        "unshare" | "setpriv" => "util-linux",
        "setfacl" => "acl",
        "setfattr" => "attr",
        "dropbear" | "dropbearkey" => "dropbear-bin",
        other => other,
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    directories.extend(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from));
    directories
        .into_iter()
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: apt-get install {package}"))
}

pub fn needs_root() {
    assert!(
        own_uid() == 0,
        "this test mounts over /etc in a mount namespace of its own and changes owners: run it as root (a container will do)"
    );
}

fn own_uid() -> u32 {
    fs::metadata("/proc/self").unwrap().uid()
}

/// A directory with `sh` and everything that a script on the host may call. `busybox` brings its own of everything.
pub fn bin_with_sh(shell: &str) -> PathBuf {
    static MADE: OnceLock<BTreeMap<&str, PathBuf>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        SHELLS
            .into_iter()
            .map(|shell| {
                let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shells").join(shell);
                fs::create_dir_all(&directory).unwrap();
                let link = |name: &str, program: &Path| match symlink(program, directory.join(name)) {
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => panic!("{error}"),
                    _ => (),
                };
                let program = tool(shell);
                link("sh", &program);
                if shell == "busybox" {
                    let applets = Command::new(&program).arg("--list").output().unwrap();
                    String::from_utf8(applets.stdout).unwrap().lines().for_each(|applet| link(applet, &program));
                }
                (shell, directory)
            })
            .collect()
    });
    made[shell].clone()
}

/// An executable script under the name `name`.
pub fn fake(directory: &Path, name: &str, script: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What came of a line.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn succeeded(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert!(self.err.is_empty(), "{self:?}");
        self
    }

    /// It failed, said so in these words, and said that nothing was changed.
    #[track_caller]
    pub fn refused(&self, words: &str) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(self.err.contains(words), "wanted \"{words}\": {self:?}");
        assert!(self.err.lines().all(|line| line.starts_with("toehold: ")), "{self:?}");
        assert!(self.err.contains("toehold: nothing was changed"), "{self:?}");
    }
}

/// A home directory on this machine that plays the host's.
pub struct Host {
    pub directory: tempfile::TempDir,
    pub home: PathBuf,
    pub session: SessionId,
    pub secret: ProofSecret,
    pub key: PublicKey,
    pub account: Account,
    pub end: Timestamp,
    pub path: Vec<PathBuf>,
    /// Mounted one over the other before the line is run: what, where.
    pub mounts: Vec<(PathBuf, PathBuf)>,
    /// The numeric user that runs the line, where it is not the tests' own.
    pub user: Option<u32>,
    pub shell: &'static str,
}

impl Host {
    pub fn new() -> Self {
        Self::with_home("home")
    }

    pub fn with_home(name: &str) -> Self {
        Self::with_home_and_sh(name, "dash")
    }

    /// A host whose `sh` is `shell`.
    pub fn with_sh(shell: &'static str) -> Self {
        Self::with_home_and_sh("home", shell)
    }

    pub fn with_home_and_sh(name: &str, shell: &'static str) -> Self {
        let directory = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        let home = directory.path().join(name);
        fs::create_dir_all(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(directory.path().join("host.pub"), format!("{HOST_KEY} root@host\n")).unwrap();
        let mut path = vec![bin_with_sh(shell)];
        path.extend(["/usr/bin", "/bin"].map(PathBuf::from));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let end = Timestamp::from_unix_seconds(i64::try_from(now).unwrap()).saturating_add(Duration::from_mins(30));
        Self {
            home,
            directory,
            session: SessionId::generate(&mut ChaCha20Rng::from_seed([7; 32])),
            secret: ProofSecret::from_hex(SECRET).unwrap(),
            key: TEMPORARY_KEY.parse().unwrap(),
            account: Account::new(&user_name(), "web1", 22).unwrap(),
            end,
            path,
            mounts: Vec::new(),
            user: None,
            shell,
        }
    }

    pub fn home_text(&self) -> &str {
        self.home.to_str().unwrap()
    }

    pub fn host_pub(&self) -> String {
        self.directory.path().join("host.pub").to_str().unwrap().to_owned()
    }

    pub fn ssh(&self) -> PathBuf {
        self.home.join(".ssh")
    }

    pub fn file(&self) -> PathBuf {
        self.ssh().join("authorized_keys")
    }

    pub fn proof_path(&self) -> PathBuf {
        self.ssh().join(proof_file_name(self.session))
    }

    pub fn proof(&self) -> ProofFile {
        ProofFile::parse(&fs::read(self.proof_path()).unwrap()).unwrap()
    }

    /// An `authorized_keys` with `bytes` that sshd would take.
    pub fn with_file(self, bytes: &[u8]) -> Self {
        fs::create_dir_all(self.ssh()).unwrap();
        fs::set_permissions(self.ssh(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(self.file(), bytes).unwrap();
        fs::set_permissions(self.file(), fs::Permissions::from_mode(0o600)).unwrap();
        self
    }

    /// Puts a directory before everything else in `PATH`.
    pub fn first_in_path(&mut self) -> PathBuf {
        let directory = self.directory.path().join(format!("first-{}", self.path.len()));
        fs::create_dir(&directory).unwrap();
        self.path.insert(0, directory.clone());
        directory
    }

    /// A `PATH` of nothing but links to these programs (and `sh`).
    pub fn only_in_path(&mut self, programs: &[&str]) -> PathBuf {
        let directory = self.directory.path().join("only");
        fs::create_dir(&directory).unwrap();
        symlink(tool(self.shell), directory.join("sh")).unwrap();
        for program in programs {
            symlink(tool(program), directory.join(program)).unwrap();
        }
        self.path = vec![directory.clone()];
        directory
    }

    pub fn install(&self) -> InstallCommand<'_> {
        InstallCommand::new(&self.account, self.session, &self.key, self.end, &self.secret)
    }

    /// The line with everything told that keeps this machine's own configuration out of the test.
    pub fn line(&self) -> String {
        let file = self.host_pub();
        self.install().home(self.home_text()).host_key_file(&file).command_line().unwrap().expose().to_owned()
    }

    pub fn removal_line(&self) -> String {
        RemovalCommand::new(&self.account, self.session, &self.key).home(self.home_text()).command_line().unwrap()
    }

    /// Pastes the line into `sh`.
    pub fn run(&self) -> Ran {
        self.run_line(&self.line())
    }

    /// Feeds a line to `sh`, as a terminal does and as `--via` does.
    pub fn run_line(&self, line: &str) -> Ran {
        self.run_in(&[OsStr::new("sh")], line)
    }

    /// Feeds a line to a program, within the mounts and as the user of this host.
    pub fn run_in(&self, program: &[&OsStr], line: &str) -> Ran {
        self.run_with(self.user, program, line)
    }

    /// Feeds a line to a program within the mounts of this host, as another user.
    pub fn run_with(&self, user: Option<u32>, program: &[&OsStr], line: &str) -> Ran {
        let mut words: Vec<OsString> = Vec::new();
        if !self.mounts.is_empty() {
            needs_root();
            words.extend([tool("unshare").into(), "-m".into(), "--".into(), "/bin/sh".into(), "-ec".into()]);
            words.push("while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\"; shift 2; done; shift; exec \"$@\"".into());
            words.push("sh".into());
            for (what, place) in &self.mounts {
                words.extend([what.into(), place.into()]);
            }
            words.push("--".into());
        }
        if let Some(user) = user {
            needs_root();
            words.push(tool("setpriv").into());
            words.extend([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()].map(OsString::from));
        }
        words.extend(program.iter().map(|word| (*word).to_owned()));
        let path = std::env::join_paths(&self.path).unwrap();
        // The program is looked up in the PATH of the host, which `exec`, `unshare` and `setpriv` do by the environment.
        let mut child = Command::new("/usr/bin/env")
            .args(words)
            .env_clear()
            .env("PATH", path)
            .env("HOME", "/evil")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Everything below the home that a careless line could change: names, kinds, modes, owners, times and bytes.
    pub fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        snapshot(&self.home)
    }

    /// The line that belongs into `authorized_keys`, for an sshd that reads UTC.
    pub fn utc_line(&self) -> String {
        self.line_with(&format!("restrict,command=\"internal-sftp\",expiry-time=\"{}\"", self.end.strftime("%Y%m%d%H%M%SZ")))
    }

    pub fn line_with(&self, options: &str) -> String {
        format!("{options} {} toehold-temporary:{}\n", self.key, self.session)
    }

    /// Runs the line, which must be refused in these words and leave everything as it was.
    #[track_caller]
    pub fn refuses(&self, words: &str) {
        self.refuses_line(&self.line(), words);
    }

    #[track_caller]
    pub fn refuses_line(&self, line: &str, words: &str) {
        let before = self.snapshot();
        self.run_line(line).refused(words);
        assert_eq!(self.snapshot(), before);
    }
}

pub fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = if stat.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else if stat.is_file() {
            format!("{:?}", fs::read(&path).unwrap().escape_ascii().to_string())
        } else {
            String::new()
        };
        if stat.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let facts = format!("{:o} {}:{} {}", stat.mode(), stat.uid(), stat.gid(), content);
        found.insert(path, facts);
    }
    found
}

pub fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

pub fn user_name() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn os(text: &str) -> &OsStr {
    OsStr::from_bytes(text.as_bytes())
}

/// A real sshd that a login reaches through a pipe (`sshd -i`), within the host's mounts.
pub struct Sshd {
    config: PathBuf,
    key: PathBuf,
    user: String,
}

/// Makes keys and a configuration of the host's own, puts a fresh temporary key into `host`, and gives the way in.
pub fn sshd_here(host: &mut Host) -> Sshd {
    needs_root();
    fs::create_dir_all("/run/sshd").unwrap();
    let directory = host.directory.path().to_owned();
    let host_key = directory.join("ssh_host_key");
    ssh_keygen(&host_key);
    fs::copy(directory.join("ssh_host_key.pub"), directory.join("host.pub")).unwrap();
    let config = directory.join("sshd_config");
    // StrictModes is off where the tests' directory lies below a home that others may write.
    fs::write(
        &config,
        format!(
            "HostKey {}\nAuthorizedKeysFile {}\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nPidFile none\nSubsystem sftp internal-sftp\n",
            host_key.display(),
            host.file().display()
        ),
    )
    .unwrap();
    let key = temporary_key(host);
    Sshd { config, key, user: host.account.user().to_owned() }
}

pub fn ssh_keygen(file: &Path) {
    let made = Command::new(tool("ssh-keygen")).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file).status().unwrap();
    assert!(made.success());
}

/// A temporary key of its own for `host`, whose private half lies in a file as `ssh` wants it.
pub fn temporary_key(host: &mut Host) -> PathBuf {
    let file = host.directory.path().join("temporary_key");
    ssh_keygen(&file);
    host.key = fs::read_to_string(file.with_extension("pub")).unwrap().parse().unwrap();
    file
}

impl Sshd {
    fn proxy(&self) -> String {
        format!("{} -i -f {}", tool("sshd").display(), self.config.display())
    }

    /// Logs in with `sftp` and runs one command of it.
    pub fn sftp(&self, host: &Host, command: &str) -> Ran {
        self.client(host, &["sftp", "-b", "-"], command)
    }

    /// Runs `command` by `ssh`.
    pub fn ssh(&self, host: &Host, command: &str) -> Ran {
        self.client(host, &["ssh"], command)
    }

    fn client(&self, host: &Host, program: &[&str], command: &str) -> Ran {
        let proxy = format!("ProxyCommand={}", self.proxy());
        let target = format!("{}@host", self.user);
        let client = tool(program[0]);
        let mut words: Vec<&OsStr> = vec![client.as_os_str()];
        words.extend(program[1..].iter().map(|word| os(word)));
        for option in [
            &proxy,
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "LogLevel=ERROR",
        ] {
            words.extend([os("-o"), os(option)]);
        }
        words.extend([os("-F"), os("none"), os("-i"), self.key.as_os_str(), os(&target)]);
        if program[0] == "ssh" {
            words.push(os(command));
            return host.run_with(None, &words, "");
        }
        host.run_with(None, &words, command)
    }
}
