//! `toehold pods serve --backend local` beside OpenSSH's `sshd`, with OpenSSH's client: bytes a second in both directions, and the start of a
//! session. What a connection costs in memory is measured in `toehold/benches/pods.rs`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde::Deserialize;

use super::openssh::Server;
use super::{Measured, criterion, median, time};
use crate::workspace::Metadata;
use crate::{Result, process};

/// Pairs of logins that are measured, after one that is not.
const LOGINS: usize = 25;
/// The same of transfers.
const TRANSFERS: usize = 5;
/// What each transfer carries, in bytes.
const BYTES: u64 = 512 * 1024 * 1024;
/// A cipher that both sides have in hardware, and the one that OpenSSH's client takes by itself.
const CIPHERS: [(&str, [&str; 2]); 2] = [
    ("aes128-gcm@openssh.com", ["pods-down", "pods-up"]),
    ("chacha20-poly1305@openssh.com", ["pods-down-chacha", "pods-up-chacha"]),
];

/// A running gateway; it ends with this value.
struct Gateway {
    child: Child,
    port: u16,
}

/// The first line that a gateway prints.
#[derive(Deserialize)]
struct Announcement {
    address: std::net::SocketAddr,
    host_key: String,
}

impl Gateway {
    /// Lets the key in that the server beside it lets in, and is known to the same client.
    fn start(program: &Path, directory: &Path, server: &Server) -> Result<Self> {
        let state = directory.join("state");
        let mut serve = Command::new(program);
        serve.arg("--state-dir").arg(&state).args(["--json", "pods", "serve", "--backend", "local", "--listen", "127.0.0.1:0"]);
        serve.args(["--connections-per-minute", "1000000", "--authorized-keys"]).arg(server.client_key().with_extension("pub"));
        // Its own home, so that it finds no store of whoever measures.
        let home = directory.join("gateway-home");
        fs::create_dir_all(&home)?;
        serve.env("HOME", home).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = serve.spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("the gateway has no standard output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let announced: Announcement =
            serde_json::from_str(&line).map_err(|error| format!("the gateway did not start: {error}: {line}"))?;
        let port = announced.address.port();
        server.knows(port, &announced.host_key)?;
        Ok(Self { child, port })
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Measures in pairs, A B A B, so that a machine that becomes slower or faster does so for both.
pub(super) fn measure(metadata: &Metadata) -> Result<Vec<Measured>> {
    process::run(process::cargo().args(["build", "--locked", "--release", "--package", "toehold"]))?;
    let program = metadata.target_directory.join("release/toehold");
    let directory = metadata.target_directory.join("bench/pods");
    let server = Server::start(&directory)?;
    let gateway = Gateway::start(&program, &directory, &server)?;
    let mut all = vec![start(&server, &gateway)?];
    for (cipher, [down, up]) in CIPHERS {
        all.push(transfer(down, cipher, &server, &gateway, Direction::Down)?);
        all.push(transfer(up, cipher, &server, &gateway, Direction::Up)?);
    }
    drop(gateway);
    all.extend(criterion::measured("toehold", "pods", &[], &[("pods-idle", "KiB"), ("pods-given-back", "ratio")])?);
    Ok(all)
}

fn start(server: &Server, gateway: &Gateway) -> Result<Measured> {
    let login = |port: u16| time(|| process::output(&mut server.ssh(port, &[], "true")).map(drop));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for pair in 0..=LOGINS {
        let (pod, plain) = (login(gateway.port)?, login(server.port())?);
        if pair > 0 {
            ours.push(pod);
            theirs.push(plain);
        }
    }
    let (ours, theirs) = (median(ours)?, median(theirs)?);
    let detail =
        format!("`ssh host true`, {:.1} ms against sshd's {:.1} ms, medians of {LOGINS} pairs", ours * 1e3, theirs * 1e3);
    println!("{detail}");
    Ok(Measured::new("pods-start", ours / theirs, 1.2, "ratio", detail))
}

/// Which way the bytes go.
#[derive(Clone, Copy)]
enum Direction {
    Down,
    Up,
}

impl Direction {
    fn line(self) -> String {
        match self {
            Self::Down => format!("head -c {BYTES} /dev/zero"),
            Self::Up => "wc -c".to_owned(),
        }
    }

    /// Carries all bytes, and sees that they have arrived.
    fn carry(self, mut ssh: Command) -> Result<()> {
        let arrived = match self {
            Self::Down => {
                let mut child = ssh.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
                let arrived = std::io::copy(&mut child.stdout.take().ok_or("ssh has no standard output")?, &mut std::io::sink())?;
                child.wait()?.success().then_some(arrived)
            }
            Self::Up => {
                let mut zeros =
                    Command::new("head").args(["-c", &BYTES.to_string(), "/dev/zero"]).stdout(Stdio::piped()).spawn()?;
                let printed = ssh.stdin(zeros.stdout.take().ok_or("head has no standard output")?).output()?;
                zeros.wait()?;
                String::from_utf8(printed.stdout)?.trim().parse().ok()
            }
        };
        if arrived == Some(BYTES) { Ok(()) } else { Err(format!("{arrived:?} of {BYTES} bytes have arrived").into()) }
    }
}

fn transfer(name: &'static str, cipher: &str, server: &Server, gateway: &Gateway, direction: Direction) -> Result<Measured> {
    let one = |port: u16| time(|| direction.carry(server.ssh(port, &["-c", cipher], &direction.line())));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for pair in 0..=TRANSFERS {
        let (pod, plain) = (one(gateway.port)?, one(server.port())?);
        if pair > 0 {
            ours.push(pod);
            theirs.push(plain);
        }
    }
    let (ours, theirs) = (median(ours)?, median(theirs)?);
    let rate = |seconds: f64| 512.0 * 1.048_576 / seconds;
    let detail = format!(
        "the time of sshd's, {cipher}: {:.0} MB/s against {:.0} MB/s, medians of {TRANSFERS} pairs",
        rate(ours),
        rate(theirs)
    );
    println!("{name}: {detail}");
    // At least 0.8 of the bytes a second.
    Ok(Measured::new(name, ours / theirs, 1.25, "ratio", detail))
}
