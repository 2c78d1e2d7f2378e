//! The act with the OpenSSH client of this machine.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{Act, COMMAND, FIRST, FIRST_ANSWER, PATIENCE, SIZE, SIZE_ANSWER, Steps, Way};
use crate::cli::Failure;

/// The longest path of a socket (`sockaddr_un`), less what ssh puts behind it while it makes one.
const MAX_SOCKET: usize = 107 - 18;

/// Where it is.
pub(super) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join("ssh")).find(|ssh| {
        // Both come together.
        ssh.is_file() && ssh.with_file_name("sftp").is_file()
    })
}

fn socket(way: &Way) -> PathBuf {
    way.directory.join("mux")
}

/// Whether the socket over which its connection is shared can be where the demo's files are.
pub(super) fn fits(way: &Way) -> bool {
    socket(way).as_os_str().len() <= MAX_SOCKET
}

fn client(program: &Path, way: &Way) -> Command {
    let mut command = Command::new(program);
    command.args(["-F", "none", "-i"]).arg(way.directory.join("key"));
    for option in [
        format!("UserKnownHostsFile=\"{}\"", way.directory.join("known_hosts").display()),
        format!("ControlPath={}", socket(way).display()),
        format!("Port={}", way.address.port()),
        "StrictHostKeyChecking=yes".to_owned(),
        "IdentitiesOnly=yes".to_owned(),
        "BatchMode=yes".to_owned(),
        "LogLevel=ERROR".to_owned(),
    ] {
        command.arg("-o").arg(option);
    }
    command.env_remove("SSH_AUTH_SOCK").env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn host(way: &Way) -> String {
    format!("somebody@{}", way.address.ip())
}

/// What a session prints, line by line.
fn lines_of(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { return };
            if sender.send(line.trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    lines
}

fn waits_for(lines: &mpsc::Receiver<String>, wanted: &str, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    while let Ok(line) = lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
        // A shell may tell the terminal something before it.
        if line.ends_with(wanted) {
            return true;
        }
    }
    false
}

fn set_size(terminal: &File, (columns, rows): (u16, u16)) -> std::io::Result<()> {
    Ok(tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}

/// Ends a session that has not ended by itself.
struct Session(Child);

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(super) fn play(ssh: &Path, way: &Way, steps: Steps) -> Result<Act, Failure> {
    let mut act = Act { client: "OpenSSH", ..Act::default() };
    crate::private::write_new(&way.directory.join("key"), way.key.to_openssh("")?.expose())?;
    let known = format!("[{}]:{} {}\n", way.address.ip(), way.address.port(), way.host_key);
    crate::private::write_new(&way.directory.join("known_hosts"), known.as_bytes())?;

    let since = Instant::now();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = openpt(flags)?;
    grantpt(&terminal)?;
    unlockpt(&terminal)?;
    let theirs = ioctl_tiocgptpeer(&terminal, flags)?;
    let mut terminal = File::from(terminal);
    set_size(&terminal, (80, 24))?;
    let mut session = client(ssh, way);
    session.args(["-M", "-tt"]).arg(host(way)).stdin(Stdio::from(theirs));
    let mut session = Session(session.spawn()?);
    let lines = session.0.stdout.take().map(lines_of).ok_or_else(|| Failure::new("ssh has no output"))?;
    terminal.write_all(FIRST.as_bytes())?;
    act.shell = waits_for(&lines, FIRST_ANSWER, PATIENCE);
    if !act.shell {
        return Ok(act);
    }
    steps.done("somebody came with ssh, and has a shell in a pod of their own", since);

    let since = Instant::now();
    let output = client(ssh, way).arg(host(way)).arg(COMMAND).output()?;
    act.command = output.status.success() && output.stdout == b"Linux\n";
    if act.command {
        steps.done("ran a command in the same pod, over the same connection", since);
    }

    let since = Instant::now();
    let (here, back) = (way.directory.join("here"), way.directory.join("back"));
    let content: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_be_bytes).collect();
    fs::write(&here, &content)?;
    let batch = way.directory.join("batch");
    fs::write(&batch, format!("put \"{}\" there\nget there \"{}\"\n", here.display(), back.display()))?;
    client(&ssh.with_file_name("sftp"), way).arg("-b").arg(&batch).arg(host(way)).output()?;
    act.copied = fs::read(&back).is_ok_and(|got| got == content);
    if act.copied {
        steps.done("copied 128 KiB there and back by sftp", since);
    }

    let since = Instant::now();
    set_size(&terminal, SIZE)?;
    kill_process(Pid::from_child(&session.0), Signal::WINCH)?;
    // ssh may send what is typed before it sees the signal.
    while !act.resized && since.elapsed() < PATIENCE {
        terminal.write_all(b"stty size\n")?;
        act.resized = waits_for(&lines, SIZE_ANSWER, Duration::from_secs(1));
    }
    if act.resized {
        steps.done("made the window larger, and the shell saw it", since);
    }

    let since = Instant::now();
    terminal.write_all(b"exit 42\n")?;
    act.code = session.0.wait()?.code();
    if act.code == Some(42) {
        steps.done("left with exit 42, and ssh ended with 42", since);
    }
    Ok(act)
}
