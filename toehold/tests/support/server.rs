//! A server process whose log is read as it is written.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take for anything that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Log {
    text: String,
    ended: bool,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: Arc<(Mutex<Log>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

/// A port of 127.0.0.1 that nobody listens on just now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A directory of its own below cargo's directory for tests, removed when it is dropped.
pub fn directory(name: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The account that the tests run as.
pub fn current_user() -> String {
    let output = Command::new("id").arg("-un").output().expect("id runs");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Writes a file with this mode, whatever it was before.
pub fn write_private(path: &Path, content: impl AsRef<[u8]>) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// `<home>` with an empty `.ssh` of mode 0700; `.ssh/authorized_keys` is not there yet.
pub fn make_home(home: &Path) -> PathBuf {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).recursive(true).create(home.join(".ssh")).unwrap();
    home.join(".ssh/authorized_keys")
}

/// A copy of `/etc/passwd`, below `directory`, in which the account that the test runs as has this home.
pub fn passwd_with_home(directory: &Path, home: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let user = current_user();
    let home = home.to_str().unwrap();
    let passwd: String = fs::read_to_string("/etc/passwd")
        .unwrap()
        .lines()
        .map(|line| {
            let mut fields: Vec<&str> = line.split(':').collect();
            if fields[0] == user {
                fields[5] = home;
            }
            fields.join(":") + "\n"
        })
        .collect();
    let path = directory.join("passwd");
    fs::write(&path, passwd).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path
}

/// A command in a mount namespace of its own, in which these mounts were made (`mount`'s arguments). The tests run as root.
pub fn with_mounts(mounts: &[String], program: &str) -> Command {
    if mounts.is_empty() {
        return Command::new(program);
    }
    let mounting = format!("mount {}; ", mounts.join("; mount "));
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec"]).arg(mounting + "exec \"$@\"").arg("sh").arg(program);
    command
}

impl Server {
    /// Starts the command and waits until its log has `ready`; `None` where it ended before that.
    pub fn start(command: &mut Command, ready: &str) -> Option<Self> {
        let name = command.get_program().to_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", name.display()));
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new((Mutex::new(Log::default()), Condvar::new()));
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || collect(stderr, &log)
        });
        let mut server = Self { child, log, reader: Some(reader) };
        if server.wait_until(|text| text.contains(ready)) {
            return Some(server);
        }
        server.child.wait().unwrap();
        eprintln!("{} ended at its start: {}", name.display(), server.log());
        None
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.log.0.lock().unwrap().text.clone()
    }

    /// Waits until the log has `text`.
    pub fn wait_for_log(&self, text: &str) {
        assert!(self.wait_until(|log| log.contains(text)), "no \"{text}\" in the log:\n{}", self.log());
    }

    /// Waits until the log has `text` that many times.
    pub fn wait_for_log_times(&self, text: &str, times: usize) {
        assert!(
            self.wait_until(|log| log.matches(text).count() >= times),
            "not {times} times \"{text}\" in the log:\n{}",
            self.log()
        );
    }

    /// Waits until somebody listens on the port; false where the server ended first.
    pub fn listens_on(&self, port: u16) -> bool {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && !self.log.0.lock().unwrap().ended {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    /// False where the server ended first.
    fn wait_until(&self, seen: impl Fn(&str) -> bool) -> bool {
        let end = Instant::now() + PATIENCE;
        let mut log = self.log.0.lock().unwrap();
        loop {
            if seen(&log.text) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if log.ended || left.is_zero() {
                return false;
            }
            log = self.log.1.wait_timeout(log, left).unwrap().0;
        }
    }

    /// The server's own process and all that it forked.
    pub fn processes(&self) -> Vec<Pid> {
        let mut found = vec![i32::try_from(self.child.id()).unwrap()];
        let mut next = 0;
        while let Some(pid) = found.get(next) {
            next += 1;
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            found.extend(children.split_ascii_whitespace().map(|child| child.parse::<i32>().unwrap()));
        }
        found.into_iter().filter_map(Pid::from_raw).collect()
    }

    /// A path as the server sees it, with the mounts of its own.
    pub fn seen_by_server(&self, path: &Path) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.child.id())).join(path.strip_prefix("/").unwrap())
    }

    /// Waits until no connection has a process of its own any more.
    pub fn wait_until_idle(&self) {
        let end = Instant::now() + PATIENCE;
        while self.processes().len() > 1 {
            assert!(Instant::now() < end, "the server still has connections:\n{}", self.log());
            std::thread::yield_now();
        }
    }

    /// Stops all of its processes where they are: they hold their connections and do nothing.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            // A session may end by itself between the listing and the signal.
            let _ = kill_process(pid, signal);
        }
    }
}

fn collect(stderr: impl Read, log: &(Mutex<Log>, Condvar)) {
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        log.0.lock().unwrap().text.push_str(&String::from_utf8_lossy(&line));
        line.clear();
        log.1.notify_all();
    }
    log.0.lock().unwrap().ended = true;
    log.1.notify_all();
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if std::thread::panicking() {
            eprintln!("log of the server:\n{}", self.log());
        }
    }
}
