//! By what `agent join` knows a gateway: where Opni's agents let a certificate pass, or dial until their deadline, ours say so at once.

use std::net::TcpListener;

use crate::join_support::gateway::{Gateway, line};
use crate::join_support::machine::Machine;
use crate::join_support::middle::{Certified, Middle, unchanged};
use crate::support::server::{directory, write_private};
use crate::support::{Done, Toehold};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, date_time_ymd};
use rustls::pki_types::PrivatePkcs8KeyDer;
use toehold_joinproto::Trust;
use toehold_joinproto::line::JoinLine;
use toehold_joinproto::pin::Pin;

/// What is done to a chain that was in order.
type Spoil = fn(&mut Chain);

/// A CA and a certificate below it.
struct Chain {
    leaf: CertificateParams,
    ca: CertificateParams,
}

impl Chain {
    fn new() -> Self {
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self { leaf, ca }
    }

    /// Signed: the chain, its key as PEM, and the CA's pin.
    fn sign(self) -> (Certified, String, Pin) {
        let (leaf_key, ca_key) = (KeyPair::generate_for(&PKCS_ED25519).unwrap(), KeyPair::generate_for(&PKCS_ED25519).unwrap());
        let ca = self.ca.self_signed(&ca_key).unwrap();
        let leaf = self.leaf.signed_by(&leaf_key, &Issuer::new(self.ca, ca_key)).unwrap();
        let now = toehold_core::Timestamp::UNIX_EPOCH;
        let pin = Trust::DangerousInsecure.check(&[ca.der()], "127.0.0.1", now).unwrap().pin();
        let pem = leaf_key.serialize_pem();
        let key = PrivatePkcs8KeyDer::from(leaf_key.serialize_der()).into();
        (Certified { chain: vec![leaf.der().clone(), ca.der().clone()], key }, pem, pin)
    }
}

fn with_pin(line: &JoinLine, endpoint: &str, pin: Pin) -> JoinLine {
    format!("toehold-join-v3/{endpoint}/{}/{pin}", line.token.expose_text().as_str()).parse().unwrap()
}

/// A machine whose line pins the CA, at somebody who presents this chain.
async fn refused(line: &JoinLine, chain: Chain, to: std::net::SocketAddr) -> Done {
    let (certified, _, pin) = chain.sign();
    let middle = Middle::start(certified, to, unchanged()).await;
    let line = with_pin(line, &middle.address.to_string(), pin);
    let failed = tokio::task::spawn_blocking(move || {
        let machine = Machine::new();
        let failed = machine.join(&line).ends(1);
        assert!(machine.keyring().is_none());
        failed
    });
    let failed = failed.await.unwrap();
    assert_eq!((middle.connections(), middle.frames().len()), (1, 0), "{}", failed.stderr);
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_ca_is_worth_what_its_certificates_say() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let line = line(&operator, gateway.address, &[]);
    let changes: [(&str, Spoil); 5] = [
        ("has expired or is not valid yet", |chain| {
            chain.leaf.not_before = date_time_ymd(2020, 1, 1);
            chain.leaf.not_after = date_time_ymd(2021, 1, 1);
        }),
        ("has expired or is not valid yet", |chain| {
            chain.ca.not_before = date_time_ymd(2020, 1, 1);
            chain.ca.not_after = date_time_ymd(2021, 1, 1);
        }),
        ("is not for the name \"127.0.0.1\"", |chain| {
            chain.leaf.subject_alt_names = CertificateParams::new(vec!["gw.example.net".to_owned()]).unwrap().subject_alt_names;
        }),
        ("may not sign it", |chain| chain.ca.key_usages = vec![KeyUsagePurpose::CrlSign]),
        ("may not sign it", |chain| chain.ca.is_ca = IsCa::ExplicitNoCa),
    ];
    for (what, change) in changes {
        let mut chain = Chain::new();
        change(&mut chain);
        let failed = refused(&line, chain, gateway.address).await;
        assert!(failed.stderr.contains(what), "{what}: {}", failed.stderr);
    }
}

#[test]
fn a_gateway_below_a_pinned_ca_is_joined_and_the_agent_then_knows_its_own_key() {
    let operator = Toehold::new();
    let (certified, key, pin) = Chain::new().sign();
    let files = directory("certificate");
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let pem: String = certified.chain.iter().map(|der| pem(der)).collect();
    write_private(path("chain.pem").as_ref(), pem);
    write_private(path("key.pem").as_ref(), key);
    let gateway = Gateway::start(&operator, &["--cert", &path("chain.pem"), "--key", &path("key.pem")]);
    let line = line(&operator, gateway.address, &[]);
    let machine = Machine::new();
    machine.join(&with_pin(&line, &line.endpoint.to_string(), pin)).ends(0);
    assert_eq!(machine.keyring().unwrap().pinned_keys, std::slice::from_ref(&line.pins));
    machine.ping().ends(0);
}

#[test]
fn j4_an_agent_that_goes_by_a_ca_does_not_say_that_it_keeps_pins() {
    let operator = Toehold::new();
    let (certified, key, _) = Chain::new().sign();
    let files = directory("certificate");
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    write_private(path("chain.pem").as_ref(), certified.chain.iter().map(|der| pem(der)).collect::<String>());
    write_private(path("ca.pem").as_ref(), pem(&certified.chain[1]));
    write_private(path("key.pem").as_ref(), key);
    let serve = ["--cert", &path("chain.pem"), "--key", &path("key.pem")];
    let gateway = Gateway::start(&operator, &serve);
    let line = line(&operator, gateway.address, &["--opni"]);
    let machine = Machine::new();
    machine.join_with(&line, &["--trust", "ca", "--ca-cert", &path("ca.pem"), "--client-id", "web1"]).ends(0);
    let pong = machine.ping().ends(0).json();
    assert_eq!(pong["pins_saved"], false, "{pong}");
    assert!(machine.keyring().unwrap().pinned_keys.is_empty());
    // It would refuse a key of the gateway's own making, whatever pins it has been told.
    let refused = operator.run(["gateway", "serve", "--listen", "127.0.0.1:0"]).ends(1);
    assert!(refused.stderr.contains("web1") && refused.stderr.contains("--force"), "{}", refused.stderr);
    assert!(!crate::support::store::keys(&operator).contains(&"agentpins/web1".to_owned()));
}

fn pem(der: &[u8]) -> String {
    use base64ct::{Base64, Encoding as _};
    let text = Base64::encode_string(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[test]
fn nobody_there_and_somebody_who_says_nothing_are_told_in_time() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let line = line(&operator, gateway.address, &[]);
    let pin = line.pins[0];
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = silent.local_addr().unwrap().to_string();
    let machine = Machine::new();
    let failed = machine.join_with(&with_pin(&line, &endpoint, pin), &["--login-timeout", "2s"]).ends(1);
    assert!(failed.stderr.contains("took over 2 s for the TLS handshake"), "{}", failed.stderr);
    drop(silent);
    let failed = machine.join(&with_pin(&line, &endpoint, pin)).ends(1);
    assert!(failed.stderr.contains("cannot be reached"), "{}", failed.stderr);
    assert!(failed.json()["hint"].as_str().unwrap().contains("gateway serve"), "{}", failed.stdout);
    let failed = machine.join(&with_pin(&line, "nowhere.invalid:7443", pin)).ends(1);
    assert!(failed.stderr.contains("cannot be reached"), "{}", failed.stderr);
    // The same machine, and the real one.
    machine.join(&line).ends(0);
}
