//! Clients that mean no good: others are served all the same.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::gateway::{Pods, Session, waits_until_still};
use crate::raw;
use crate::support::{Done, eventually, key};

/// Waits for the gateway to close a connection.
fn is_closed(tcp: &mut TcpStream) -> bool {
    tcp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut bytes = [0; 4096];
    loop {
        match tcp.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// A connection from another address of this machine.
fn from(source: &str, to: SocketAddr) -> TcpStream {
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let source: SocketAddr = format!("{source}:0").parse().unwrap();
    bind(&fd, &source).unwrap();
    connect(&fd, &to).unwrap();
    TcpStream::from(fd)
}

#[test]
fn who_never_speaks_or_never_logs_in_is_closed_and_keeps_nobody() {
    let pods = Pods::with(&["--handshake-timeout", "2s", "--login-timeout", "4s", "--metrics", "127.0.0.1:0"]);
    let mut silent = TcpStream::connect(pods.address).unwrap();
    let mut greets = TcpStream::connect(pods.address).unwrap();
    greets.write_all(b"SSH-2.0-nobody\r\n").unwrap();
    let mut slow = TcpStream::connect(pods.address).unwrap();
    let dripping = std::thread::spawn({
        let mut slow = slow.try_clone().unwrap();
        move || {
            for byte in b"SSH-2.0-".iter().cycle() {
                if slow.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    pods.run("true").ends(0);
    let begun = Instant::now();
    assert!(is_closed(&mut silent) && is_closed(&mut slow) && is_closed(&mut greets));
    assert!(begun.elapsed() < Duration::from_secs(30));
    dripping.join().unwrap();
    assert!(pods.counted("toehold_pods_logins_total{outcome=\"too_late\"}") >= 1);
    assert!(pods.counted("toehold_pods_handshakes_failed_total") >= 2);
}

#[test]
fn garbage_gets_nowhere() {
    let pods = Pods::with(&["--metrics", "127.0.0.1:0"]);
    let garbage: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\n\r\n", &[0; 4_096], &[0xff; 16_384], b"SSH-2.0-x\r\n\xff\xff\xff\xff\x00\x00\x00\x00"];
    for bytes in garbage {
        let mut tcp = TcpStream::connect(pods.address).unwrap();
        let _ = tcp.write_all(bytes);
        let _ = tcp.shutdown(std::net::Shutdown::Write);
        assert!(is_closed(&mut tcp));
    }
    pods.run("true").ends(0);
    assert_eq!(pods.counted("toehold_pods_panics_total"), 0);
}

#[test]
fn a_source_has_its_connections_and_no_more() {
    let pods = Pods::with(&["--max-strangers-per-source", "8", "--metrics", "127.0.0.1:0"]);
    let mut held: Vec<_> = (0..20).map(|_| from("127.0.0.9", pods.address)).collect();
    eventually("refusals", || pods.counted("toehold_pods_connections_total{outcome=\"refused\"}") == 12);
    assert!(is_closed(held.last_mut().unwrap()));
    pods.run("true").ends(0);
    let pods = Pods::with(&["--max-connections", "1"]);
    let mut first = pods.ssh("echo begun; cat").stdin(Stdio::piped()).spawn().unwrap();
    let mut begun = [0; 6];
    first.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    let done = pods.run("true").ends(255);
    assert!(done.stderr.contains("no place for another connection"), "{done:?}");
    drop(first.stdin.take());
    first.wait().unwrap();
    eventually("a place", || pods.run("true").code == 0);
}

/// One key, however many connections it makes, takes the places of nobody else.
#[test]
fn a_principal_has_its_connections_and_no_more() {
    let toehold = Pods::prepared();
    let other = crate::support::keys::ssh_keygen(&crate::gateway::file_of(&toehold, "bobs"), &["-t", "ed25519"]);
    let keys = crate::gateway::file_of(&toehold, "authorized_keys");
    let both = format!("{}{other} bob@example.org\n", std::fs::read_to_string(&keys).unwrap());
    crate::support::server::write_private(&keys, both);
    let pods = Pods::at(toehold, &["--max-connections-per-principal", "3", "--metrics", "127.0.0.1:0"]);
    let mut held: Vec<Session> = (0..3)
        .map(|_| {
            let mut command = pods.ssh("echo begun; cat");
            command.stdin(Stdio::piped());
            let mut session = Session::start(command);
            assert_eq!(session.line(), "begun");
            session
        })
        .collect();
    let done = pods.run("true").ends(255);
    let words = "no place for another connection: alice@example.org has 3 of them, as many as one may have";
    assert!(done.stderr.contains(words), "{done:?}");
    assert_eq!(pods.counted("toehold_pods_connections_total{outcome=\"refused\"}"), 1);
    assert_eq!(pods.list().len(), 3, "nobody who was refused has a pod");
    let mut bobs = pods.client_with_key("ssh", &pods.file("bobs"));
    Done::of(bobs.args(["anybody@127.0.0.1", "true"]).output().unwrap()).ends(0);
    drop(held.pop());
    eventually("a place", || pods.run("true").code == 0);
}

#[test]
fn who_has_no_key_that_is_known_gets_no_pod() {
    let pods = Pods::with(&["--metrics", "127.0.0.1:0"]);
    let mine = std::fs::read_to_string(pods.file("authorized_keys")).unwrap();
    std::fs::write(pods.file("authorized_keys"), key("ed25519").line()).unwrap();
    let done = pods.run("true").ends(255);
    assert!(done.stderr.contains("Permission denied (publickey)"), "{done:?}");
    assert_eq!((pods.ground.directories(&pods.toehold), pods.counted("toehold_pods_pods")), (0, 0));
    // A file that others can write is nobody's word.
    std::fs::write(pods.file("authorized_keys"), mine).unwrap();
    std::process::Command::new("chmod").arg("g+w").arg(pods.file("authorized_keys")).status().unwrap();
    pods.run("true").ends(255);
    std::process::Command::new("chmod").arg("g-w").arg(pods.file("authorized_keys")).status().unwrap();
    pods.run("true").ends(0);
}

#[test]
fn every_cipher_that_sshd_offers_is_taken_and_no_other() {
    let pods = Pods::start();
    let cipher = |name: &str| Done::of(pods.ssh_with(&["-c", name], "echo here").output().unwrap());
    for good in ["chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr"]
    {
        assert_eq!(cipher(good).ends(0).stdout, "here\n", "{good}");
    }
    cipher("aes128-cbc").ends(255);
}

#[test]
fn nothing_is_forwarded() {
    let pods = Pods::start();
    let done = Done::of(pods.ssh_with(&["-W", "127.0.0.1:22"], "").output().unwrap()).ends(255);
    assert!(done.stderr.contains("forwarding failed"), "{done:?}");
    let remote = ["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:22", "-N"];
    let done = Done::of(pods.ssh_with(&remote, "").output().unwrap()).ends(255);
    assert!(done.stderr.contains("forwarding failed"), "{done:?}");
    // What asks for the agent or X11 on the way to a command gets the command without them.
    assert_eq!(Done::of(pods.ssh_with(&["-A"], "echo ${SSH_AUTH_SOCK-none}").output().unwrap()).ends(0).stdout, "none\n");
}

#[tokio::test]
async fn a_flood_of_requests_is_refused_and_requests_out_of_order_as_well() {
    let pods = Pods::with(&["--requests-per-minute", "50", "--metrics", "127.0.0.1:0"]);
    let client = raw::Client::log_in(&pods).await;
    let channel = client.open().await;
    for number in 0..200 {
        channel.set_env(false, format!("A{number}"), "x").await.unwrap();
    }
    assert!(client.handle.channel_open_session().await.is_err());
    assert!(pods.counted("toehold_pods_requests_refused_total") >= 100);
}

#[tokio::test]
async fn who_sends_without_end_what_nobody_takes_is_slowed_down() {
    let pods = Pods::start();
    let client = raw::Client::log_in(&pods).await;
    let mut channel = client.open().await;
    channel.exec(true, "echo begun; sleep 600").await.unwrap();
    raw::until_output(&mut channel, b"begun\n").await;
    let (_reading, writing) = channel.split();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        for _ in 0..4_000 {
            writing.data_bytes(vec![b'x'; 32 * 1024]).await.unwrap();
            counted.fetch_add(32 * 1024, Ordering::Relaxed);
        }
    });
    let before = pods.memory();
    let still = Arc::clone(&sent);
    tokio::task::spawn_blocking(move || waits_until_still(&still)).await.unwrap();
    assert!(sent.load(Ordering::Relaxed) < 20_000_000, "{sent:?}");
    assert!(pods.memory() < before + 40_000, "{} KiB and then {} KiB", before, pods.memory());
    assert!(!sending.is_finished());
    sending.abort();
    // It was not cut for that.
    let mut other = client.open().await;
    other.exec(true, "echo here").await.unwrap();
    raw::until_output(&mut other, b"here\n").await;
    client.handle.disconnect(russh::Disconnect::ByApplication, "", "").await.unwrap();
    tokio::task::spawn_blocking(move || pods.waits_until_empty()).await.unwrap();
}
