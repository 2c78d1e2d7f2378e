//! Where the private half of a temporary key, and the secret of a proof, are to be found: nowhere.

use std::sync::{Arc, Mutex};

use crate::support;
use crate::support::hands::secret;
use crate::support::{Home, Lab, Paste, Watch, master, rng, watched};
use toehold_core::testing::{Fault, Moment, SimulatedFleet, SimulatedSession};
use toehold_core::{ConnectError, Connector, HostKeyPolicy, Identity, KeyAnswer, Login, PublicKey, Route};
use toehold_session::{Onboarder, Outcome, SessionError};

/// A connector that keeps the private halves that it is given.
struct Keeping {
    fleet: SimulatedFleet,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Connector for Keeping {
    type Session = SimulatedSession;

    async fn log_in(&self, login: &Login<'_>) -> Result<SimulatedSession, ConnectError> {
        if let Identity::PrivateKey { openssh, .. } = login.identity {
            self.kept.lock().unwrap().push(openssh.expose().to_vec());
        }
        self.fleet.log_in(login).await
    }

    async fn would_accept(&self, route: &Route, key: &PublicKey, host_key: &HostKeyPolicy) -> Result<KeyAnswer, ConnectError> {
        self.fleet.would_accept(route, key, host_key).await
    }
}

/// What must not be found.
struct Secrets(Vec<Vec<u8>>);

impl Secrets {
    fn of(openssh: &[u8], proof: &str) -> Self {
        let text = std::str::from_utf8(openssh).unwrap();
        let body: Vec<&str> = text.lines().filter(|line| !line.starts_with('-')).collect();
        // The seed is in the second half of the file; the first repeats the public key.
        let lines = body[body.len() / 2..].iter().filter(|line| line.len() > 30).map(|line| line.as_bytes().to_vec());
        let pair = toehold_keygen::read_private_key_file(openssh, None).unwrap();
        let blob = decode(&body.concat());
        let public = pair.public_key().blob();
        // PROTOCOL.key: the private part of an Ed25519 key is the seed and the public half once more.
        let raw_public = &public[public.len() - 32..];
        let at = blob.windows(32).rposition(|window| window == raw_public).unwrap();
        let seed = &blob[at - 32..at];
        let mut secrets: Vec<Vec<u8>> = lines.collect();
        secrets.push(seed.to_vec());
        secrets.push(support::hex(seed.iter().copied()).into_bytes());
        secrets.push(format!("{seed:?}").trim_matches(['[', ']']).as_bytes().to_vec());
        secrets.push(proof.as_bytes().to_vec());
        secrets.push((0..proof.len()).step_by(2).map(|at| u8::from_str_radix(&proof[at..at + 2], 16).unwrap()).collect());
        assert!(secrets.len() >= 7, "{}", secrets.len());
        Self(secrets)
    }

    fn not_in(&self, what: &str, text: &[u8]) {
        for secret in &self.0 {
            let found = text.windows(secret.len()).any(|window| window == secret.as_slice());
            assert!(!found, "a secret is in {what}");
        }
    }
}

fn decode(base64: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let bits: Vec<u8> = base64.bytes().filter(|byte| *byte != b'=').map(value).collect();
    let join = |four: &[u8]| {
        let word = four.iter().fold(0_u32, |word, six| word << 6 | u32::from(*six)) << (6 * (4 - four.len()));
        word.to_be_bytes()[1..four.len()].to_vec()
    };
    bits.chunks(4).flat_map(join).collect()
}

/// The secrets of the session that `rng(1)` makes, from a run that ends well.
fn secrets(seal: bool) -> Secrets {
    let lab = Lab::new(Home::Foreign);
    let plain = lab.onboarder();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let onboarder = Onboarder {
        store: plain.store,
        connector: Keeping { fleet: lab.world.fleet().clone(), kept: Arc::clone(&kept) },
        timer: plain.timer,
        audit: plain.audit,
        sealer: plain.sealer,
        pace: plain.pace,
    };
    let hands = lab.hands(Paste::AtOnce);
    let mut request = lab.request();
    request.seal_temporary_key = seal;
    lab.world.run(onboarder.onboard(request, &master(), &mut rng(1), &mut hands.clone())).unwrap().unwrap();
    let openssh = kept.lock().unwrap().iter().find(|kept| !kept.is_empty()).unwrap().clone();
    let line = hands.seen().command.as_ref().unwrap().line.clone();
    Secrets::of(&openssh, secret(&line))
}

/// Looks through all that a run has left anywhere.
fn search(secrets: &Secrets, lab: &Lab, watch: &Watch, hands: &support::Hands, ended: Option<&Result<Outcome, SessionError>>) {
    for (key, value) in &watch.values {
        secrets.not_in(key.as_str(), value);
    }
    for file in &watch.files {
        secrets.not_in("authorized_keys", file);
    }
    for entry in lab.tree() {
        secrets.not_in(&entry.path, &entry.content);
    }
    secrets.not_in("the outcome", format!("{ended:?}").as_bytes());
    if let Some(Err(error)) = ended {
        secrets.not_in("the error", error.to_string().as_bytes());
    }
    let seen = hands.seen();
    secrets.not_in("what the operator is told", format!("{:?} {:?}", seen.progress, seen.opened).as_bytes());
    secrets.not_in("the calls", format!("{:?}", lab.world.faults().log()).as_bytes());
}

#[test]
fn never_on_disk_nor_in_an_error_whatever_fails() {
    whatever_fails(false);
}

#[test]
fn never_on_disk_nor_in_an_error_whatever_fails_where_it_is_sealed() {
    whatever_fails(true);
}

fn whatever_fails(seal: bool) {
    let secrets = secrets(seal);
    let run = |home, plan: &dyn Fn(&Lab)| {
        let lab = Lab::new(home);
        plan(&lab);
        let mut watch = Watch::new(&lab);
        let onboarder = lab.onboarder();
        let hands = lab.hands(Paste::AtOnce);
        let (master, mut rng, mut operator) = (master(), rng(1), hands.clone());
        let mut request = lab.request();
        request.seal_temporary_key = seal;
        let ended = watched(&lab.world, &mut watch, onboarder.onboard(request, &master, &mut rng, &mut operator));
        assert!(!watch.values.is_empty());
        search(&secrets, &lab, &watch, &hands, ended.as_ref());
        secrets.not_in("the driver", format!("{onboarder:?}").as_bytes());
        // The recovery opens what was sealed.
        if let Some(left) = lab.sessions().into_iter().find(|session| session.status.is_open()) {
            let recovery = lab.restart();
            let hands = recovery.hands(Paste::Never);
            let onboarder = recovery.onboarder();
            let (mut rng, mut operator) = (support::rng(2), hands.clone());
            let ended = watched(&recovery.world, &mut watch, onboarder.recover(left.id, &master, &mut rng, &mut operator));
            search(&secrets, &recovery, &watch, &hands, ended.as_ref());
        }
        lab.world.faults().log()
    };
    let calls = run(Home::Foreign, &|_| {});
    for call in calls.iter().skip(Lab::new(Home::Foreign).call_that_opens()) {
        for fault in call.kind.faults().iter().filter(|fault| **fault != Fault::Hang) {
            run(Home::Foreign, &|lab| lab.world.faults().fail_at(call.number, *fault));
        }
        if call.kind.has_effect() {
            run(Home::Bare, &|lab| lab.world.faults().crash_at(call.number, Moment::After));
        }
    }
}

#[test]
fn never_on_disk_unless_sealed_and_then_only_while_the_session_is_open() {
    let sealed_in = |seal| {
        let lab = Lab::new(Home::Foreign);
        let mut watch = Watch::new(&lab);
        let onboarder = lab.onboarder();
        let mut request = lab.request();
        request.seal_temporary_key = seal;
        let (master, mut rng, mut hands) = (master(), rng(1), lab.hands(Paste::AtOnce));
        watched(&lab.world, &mut watch, onboarder.onboard(request, &master, &mut rng, &mut hands)).unwrap().unwrap();
        let sealed = |value: &[u8]| String::from_utf8_lossy(value).contains("sealed_temporary_key");
        let values = watch.values.iter().filter(|(_, value)| sealed(value)).count();
        let last = lab.world.memory().entries().iter().any(|entry| sealed(&entry.value));
        (values, last)
    };
    assert_eq!(sealed_in(false), (0, false));
    let (values, last) = sealed_in(true);
    assert!(values >= 2 && !last, "{values}");
}

#[test]
fn never_on_disk_nor_in_what_is_printed_of_a_machine() {
    let (machine, action) = toehold_session::machine::Onboarding::open(
        support::turns::record(toehold_session::HostKeyCheck::Proof),
        support::turns::secret(),
        toehold_session::Pace::default(),
    );
    let printed = format!("{machine:?} {action:?}");
    assert!(!printed.contains(support::turns::secret().expose()));
    assert!(printed.contains("[redacted]"));
}

#[test]
fn without_a_sealer_a_key_that_is_to_be_sealed_begins_no_session() {
    let lab = Lab::new(Home::Foreign);
    let plain = lab.onboarder();
    let onboarder = Onboarder {
        store: plain.store,
        connector: plain.connector,
        timer: plain.timer,
        audit: plain.audit,
        sealer: toehold_session::NoSealer,
        pace: plain.pace,
    };
    let mut request = lab.request();
    request.seal_temporary_key = true;
    let error =
        lab.world.run(onboarder.onboard(request, &master(), &mut rng(1), &mut lab.hands(Paste::AtOnce))).unwrap().unwrap_err();
    assert!(matches!(error, SessionError::Sealing(_)), "{error}");
    assert!(lab.sessions().is_empty());
}
