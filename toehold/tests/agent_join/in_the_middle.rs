//! Somebody in the middle of a join: with another certificate, with the gateway's own, passing on, replaying, swapping keys, and cutting
//! at every message. Each time the machine ends without a keyring and with a reason, and then joins all the same.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::join_support::gateway::{Dial, Gateway, Talk, line};
use crate::join_support::machine::{Machine, agents, uses_taken};
use crate::join_support::middle::{Certified, Change, Middle, unchanged};
use crate::join_support::relay::{Cut, Relay, Side};
use crate::support::server::{directory, write_private};
use crate::support::{Done, Toehold};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use toehold_joinproto::GatewayIdentity;
use toehold_joinproto::line::JoinLine;
use toehold_joinproto::v3::frame::{Answer, Offer};

/// A certificate for this machine, with its key, as files.
#[derive(Debug)]
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let directory = directory("certificate");
        write_private(&directory.path().join("cert.pem"), certificate.pem());
        write_private(&directory.path().join("key.pem"), key.serialize_pem());
        Self { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn certified(&self) -> Certified {
        let chain: Vec<_> = CertificateDer::pem_file_iter(self.path("cert.pem")).unwrap().map(Result::unwrap).collect();
        Certified { chain, key: PrivateKeyDer::from_pem_file(self.path("key.pem")).unwrap() }
    }

    /// A gateway that presents it.
    fn serve(&self, operator: &Toehold) -> Gateway {
        Gateway::start(operator, &["--cert", &self.path("cert.pem"), "--key", &self.path("key.pem")])
    }
}

/// The same line, to somebody in the middle.
fn towards(line: &JoinLine, address: SocketAddr) -> JoinLine {
    let text = line.expose().replacen(&line.endpoint.to_string(), &address.to_string(), 1);
    text.parse().unwrap()
}

/// Runs in a thread of its own: the one in the middle lives in this process.
async fn join(machine: &Arc<Machine>, line: JoinLine) -> Done {
    let machine = Arc::clone(machine);
    tokio::task::spawn_blocking(move || machine.join(&line)).await.unwrap()
}

fn has_nothing(machine: &Machine, failed: &Done, what: &str) {
    assert!(failed.stderr.contains(what), "{what}: {}", failed.stderr);
    assert!(machine.keyring().is_none(), "{what}: a keyring");
    assert_eq!(failed.json()["exit_code"], failed.code, "{}", failed.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_is_told_at_once_and_nobody_is_dialled_again() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let line = line(&operator, gateway.address, &[]);
    let middle = Middle::start(Files::new().certified(), gateway.address, unchanged()).await;
    let machine = Arc::new(Machine::new());
    let failed = join(&machine, towards(&line, middle.address)).await.ends(1);
    has_nothing(&machine, &failed, "is not the gateway that was named");
    assert!(failed.json()["hint"].as_str().unwrap().contains("gateway pin"), "{}", failed.stdout);
    assert_eq!((middle.connections(), middle.frames().len()), (1, 0));
    assert!(agents(&operator).is_empty() && uses_taken(&operator, &line) == 0);
    join(&machine, line).await.ends(0);
}

/// Whoever is in the middle has a certificate that the machine takes, and does this to the frames; how it ends, and how many came.
async fn in_the_middle(operator: &Toehold, files: &Files, gateway: &Gateway, own_pin: bool, change: Change) -> usize {
    let mut line = line(operator, gateway.address, &[]);
    let certified = if own_pin { Files::new().certified() } else { files.certified() };
    if own_pin {
        let pins = certified.chain.iter().map(|der| {
            let known =
                toehold_joinproto::Trust::DangerousInsecure.check(&[der], "127.0.0.1", toehold_core::Timestamp::UNIX_EPOCH);
            known.as_ref().map(GatewayIdentity::pin).unwrap()
        });
        line.pins.extend(pins);
    }
    let middle = Middle::start(certified, gateway.address, change).await;
    let machine = Arc::new(Machine::new());
    let failed = join(&machine, towards(&line, middle.address)).await;
    assert!(failed.code == 1 || failed.code == 3, "{}", failed.stderr);
    has_nothing(&machine, &failed, "the gateway 127.0.0.1:");
    assert_eq!(middle.connections(), 1, "it dialled again");
    assert_eq!(uses_taken(operator, &line), 0, "a use was taken");
    // And the real one completes.
    let joined = join(&machine, line).await.ends(0).json();
    assert!(agents(operator).iter().any(|agent| agent["id"] == joined["id"]));
    middle.frames().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_with_the_gateways_own_key_fails_by_the_exporter_alone() {
    let (operator, files) = (Toehold::new(), Files::new());
    let gateway = files.serve(&operator);
    // Hello, Retry, Offer, Answer, Proof, and a refusal without a word.
    assert_eq!(in_the_middle(&operator, &files, &gateway, false, unchanged()).await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_key_the_line_pins_as_well_fails_by_the_gateways_key() {
    let (operator, files) = (Toehold::new(), Files::new());
    let gateway = files.serve(&operator);
    assert_eq!(in_the_middle(&operator, &files, &gateway, true, unchanged()).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_ephemeral_keys_end_the_join() {
    let (operator, files) = (Toehold::new(), Files::new());
    let gateway = files.serve(&operator);
    let swaps: [Change; 3] = [
        Arc::new(|side, frame| {
            if let (Side::Gateway, Ok(mut answer)) = (side, Answer::decode(frame)) {
                answer.x25519 = [9; 32];
                *frame = answer.encode();
            }
            true
        }),
        Arc::new(|side, frame| {
            if let (Side::Client, Ok(mut offer)) = (side, Offer::decode(frame)) {
                offer.x25519 = [9; 32];
                *frame = offer.encode();
            }
            true
        }),
        Arc::new(|side, frame| {
            if let (Side::Client, Ok(mut offer)) = (side, Offer::decode(frame)) {
                offer.identity = [9; 32];
                *frame = offer.encode();
            }
            true
        }),
    ];
    for swap in swaps {
        in_the_middle(&operator, &files, &gateway, false, swap).await;
    }
    // A key of small order is refused by the machine itself.
    let small: Change = Arc::new(|side, frame| {
        if let (Side::Gateway, Ok(mut answer)) = (side, Answer::decode(frame)) {
            answer.x25519 = [0; 32];
            *frame = answer.encode();
        }
        true
    });
    assert_eq!(in_the_middle(&operator, &files, &gateway, false, small).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_ends_at_any_message_ends_the_join() {
    let (operator, files) = (Toehold::new(), Files::new());
    let gateway = files.serve(&operator);
    for last in 0..5 {
        let seen = std::sync::atomic::AtomicUsize::new(0);
        let change: Change = Arc::new(move |_, _| seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < last);
        assert!(in_the_middle(&operator, &files, &gateway, false, change).await > last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_frames_and_replayed_bytes_are_good_for_nothing() {
    let (operator, files) = (Toehold::new(), Files::new());
    let gateway = files.serve(&operator);
    let line = line(&operator, gateway.address, &[]);
    // The frames of a client, kept by somebody who has the gateway's key.
    let middle = Middle::start(files.certified(), gateway.address, unchanged()).await;
    let machine = Arc::new(Machine::new());
    join(&machine, towards(&line, middle.address)).await.ends(1);
    let kept = middle.frames();
    let of = |wanted| kept.iter().filter(move |(side, _)| *side == wanted).map(|(_, frame)| frame.clone());
    let mut said = of(Side::Client);
    let connection = Dial::to(gateway.address).connect().await.unwrap();
    let (mut talk, retry) = Talk::begin(&connection, said.next().unwrap()).await.unwrap();
    assert_eq!(retry[0], 2, "a Hello may come again: it is worth nothing");
    let refused = talk.say(said.next().unwrap()).await.unwrap();
    assert_eq!(refused, [15, 0, 0], "an Offer with another connection's cookie");

    // The gateway's frames, said to another client.
    let answers: std::sync::Mutex<Vec<Vec<u8>>> = std::sync::Mutex::new(of(Side::Gateway).collect());
    let change: Change = Arc::new(move |side, frame| {
        let mut answers = answers.lock().unwrap();
        if side == Side::Gateway && !answers.is_empty() {
            *frame = answers.remove(0);
        }
        true
    });
    in_the_middle(&operator, &files, &gateway, false, change).await;

    // All bytes of a join that went well, said once more.
    let relay = Relay::start(gateway.address);
    let joined = join(&machine, towards(&line, relay.address())).await.ends(0).json();
    let before = operator.run(["--json", "agents", "show", joined["id"].as_str().unwrap()]).ends(0).json();
    let bytes = relay.said(0);
    assert!(bytes.len() > 2000);
    tokio::task::spawn_blocking(move || {
        let mut tcp = TcpStream::connect(gateway.address).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // The gateway may have ended it before all is said.
        let _ = tcp.write_all(&bytes);
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer);
        // A fresh handshake, and an alert at the first record under other keys.
        assert!(answer.len() < 4096, "{}", answer.len());
        gateway
    })
    .await
    .unwrap();
    assert_eq!(operator.run(["--json", "agents", "show", joined["id"].as_str().unwrap()]).ends(0).json(), before);
    assert_eq!(uses_taken(&operator, &line), 1);
}

/// The bytes are cut in the middle of each record of TLS, of either side: in the handshake, in HTTP/2's beginning, and in each message.
#[test]
fn j1_never_bricked_a_join_that_is_cut_in_any_record_is_completed_by_the_same_machine() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let relay = Relay::start(gateway.address);
    let (mut ends, mut resumed, mut cuts) = (BTreeSet::new(), 0, 0);
    // What is in which record is not the same each time: where none took Done away, the gateway's are cut once more.
    let sides = [Side::Client, Side::Gateway].into_iter().chain(std::iter::repeat_n(Side::Gateway, 9));
    for (round, side) in sides.enumerate() {
        if round > 1 && resumed > 0 {
            break;
        }
        for record in 0.. {
            let line = line(&operator, relay.address(), &[]);
            let machine = Machine::new();
            relay.cut(Some(Cut { side, record }));
            let failed = machine.join(&line);
            if !relay.was_cut() {
                // Longer than a join: it went through.
                failed.ends(0);
                break;
            }
            relay.cut(None);
            cuts += 1;
            let when = format!("{side:?} {record}");
            if failed.code == 0 {
                // After the last message: the machine has all that it needs.
                machine.ping().ends(0);
                break;
            }
            ends.insert(failed.code);
            has_nothing(&machine, &failed, &relay.address().to_string());
            let again = machine.join(&line).ends(0).json();
            resumed += usize::from(again["resumed"] == true);
            assert_eq!(again["already"], false, "{when}");
            assert_eq!(machine.ping().ends(0).json()["id"], again["id"], "{when}");
            assert_eq!(uses_taken(&operator, &line), 1, "{when}");
            let left: BTreeSet<_> = fs::read_dir(machine.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left.len(), 3, "{when}: {left:?}");
        }
    }
    println!("{cuts} cuts");
    // Some were before the proof, some after it, and one took Done away.
    assert_eq!(ends, BTreeSet::from([1, 3]));
    assert!(resumed > 0 && cuts > 10, "{resumed} of {cuts}");
}
