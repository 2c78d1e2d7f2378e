//! Which host keys are taken, and what a host that has none of them gets to see.

use crate::support;
use crate::support::hands::tag;
use crate::support::{Home, Lab, Paste, account, colleague, holds, master_key};
use toehold_core::testing::sample_public_key;
use toehold_core::{Account, HostKeyTrust, KnownHost};
use toehold_keygen::install::proof_file_name;
use toehold_session::{End, Evidence, HostKeyCheck, Outcome, SessionError, SessionRecord};

/// Somebody in the middle, with a host and a host key of his own, who takes any login.
fn in_the_middle(lab: &Lab) -> Account {
    let attacker = account("deploy@attacker.example.net");
    lab.world.fleet().add_host(&attacker);
    lab.world.fleet().impersonate(&lab.account, &attacker);
    attacker
}

/// Nothing of value has come to him.
fn got_nothing(lab: &Lab, attacker: &Account) {
    for entry in lab.world.fleet().tree(attacker) {
        for key in [master_key(), colleague()] {
            assert!(!holds(&entry.content, &key), "{entry:?}");
        }
    }
    assert!(lab.host().is_none() && !lab.lets_in(&master_key()));
}

fn onboard(lab: &Lab, check: HostKeyCheck) -> Outcome {
    lab.onboard(lab.checked(check), &mut lab.hands(Paste::AtOnce)).unwrap().unwrap()
}

fn known_hosts(lab: &Lab) -> Vec<KnownHost> {
    support::records(&lab.world, "knownhost/")
}

#[test]
fn o1_a_proof_is_asked_for_unless_another_policy_was_named() {
    let lab = Lab::new(Home::Foreign);
    assert_eq!(lab.request().host_key_check, HostKeyCheck::Proof);
    let record = lab.onboard_well();
    assert_eq!(record.host_key.unwrap().trust, Some(HostKeyTrust::Proof));
    let known = known_hosts(&lab).remove(0);
    assert_eq!((known.host_key, known.trust), (lab.host_key(), HostKeyTrust::Proof));
}

#[test]
fn o1_a_missing_or_wrong_proof_is_a_refusal() {
    type Tamper = fn(&toehold_core::testing::SimulatedFleet, &Account, &SessionRecord);
    let missing: Tamper = |fleet, account, record| {
        fleet.remove_path(account, &format!(".ssh/{}", proof_file_name(record.id)));
    };
    let empty: Tamper = |fleet, account, record| {
        fleet.write_file(account, &format!(".ssh/{}", proof_file_name(record.id)), "", 0o600);
    };
    let wrong: Tamper = |fleet, account, record| {
        let tag = tag(&"0".repeat(62), &fleet.host_keys(account)[0]);
        fleet.write_file(account, &format!(".ssh/{}", proof_file_name(record.id)), format!("{tag}\n"), 0o600);
    };
    let huge: Tamper = |fleet, account, record| {
        fleet.write_file(account, &format!(".ssh/{}", proof_file_name(record.id)), vec![b'0'; 70_000], 0o600);
    };
    for (what, tamper) in [("missing", missing), ("empty", empty), ("wrong", wrong), ("huge", huge)] {
        let lab = Lab::new(Home::Foreign);
        let mut hands = lab.hands(Paste::AtOnce);
        hands.after = tamper;
        let outcome = lab.onboard(lab.request(), &mut hands).unwrap().unwrap();
        assert_eq!(outcome.end, End::Orphaned, "{what}");
        assert!(outcome.reason.unwrap().contains("proof"), "{what}");
        // The key was taken away, but the word of an unproven host closes nothing.
        assert_eq!(lab.file(), lab.foreign, "{what}");
        assert!(!lab.lets_in(&outcome.record.temporary_key), "{what}");
        assert_eq!(outcome.record.host_key, None, "{what}");
        lab.pass_the_end(&outcome.record);
        let closed = lab.recover_to(outcome.record.id, End::Failed).record.closed.unwrap();
        assert_eq!(closed.evidence, Evidence::RefusedAfterExpiry, "{what}");
    }
}

#[test]
fn host_key_asked_a_man_in_the_middle_has_no_proof_for_his_own_key() {
    let lab = Lab::new(Home::Foreign);
    let attacker = in_the_middle(&lab);
    // He has even got hold of the true host's proof.
    let mut hands = lab.hands(Paste::AtOnce);
    hands.after = |fleet, account, record| {
        let name = format!(".ssh/{}", proof_file_name(record.id));
        let proof = fleet.file(account, &name).unwrap().content;
        let attacker = "deploy@attacker.example.net".parse().unwrap();
        fleet.write_file(&attacker, &name, proof, 0o600);
        let keys = fleet.authorized_keys(account);
        fleet.set_authorized_keys(&attacker, keys);
    };
    let outcome = lab.onboard(lab.request(), &mut hands).unwrap().unwrap();
    assert_eq!(outcome.end, End::Orphaned);
    assert!(outcome.reason.unwrap().contains("in the middle"));
    got_nothing(&lab, &attacker);
    // What he says of the key is worth nothing: it is still on the true host.
    assert!(!holds(&lab.world.fleet().authorized_keys(&attacker), &outcome.record.temporary_key));
    assert!(lab.holds(&outcome.record.temporary_key));
    assert!(lab.session().status.is_open());
    assert!(known_hosts(&lab).is_empty());

    // Nor at the recovery; with him gone and the key ended, the session closes.
    lab.recover_to(outcome.record.id, End::Orphaned);
    got_nothing(&lab, &attacker);
    lab.world.fleet().stop_impersonating(&lab.account);
    lab.recover_to(outcome.record.id, End::Orphaned);
    lab.pass_the_end(&outcome.record);
    lab.recover_to(outcome.record.id, End::Failed);
}

#[test]
fn host_key_asked_no_other_policy_lets_him_through_either() {
    for check in ["known", "fingerprint", "ask"] {
        let lab = Lab::new(Home::Foreign);
        let attacker = in_the_middle(&lab);
        let mut hands = lab.hands(Paste::AtOnce);
        hands.answer = false;
        let request = match check {
            "known" => {
                lab.knows_host_key(lab.host_key());
                lab.checked(HostKeyCheck::AcceptNew)
            }
            "fingerprint" => lab.checked(HostKeyCheck::Fingerprint(lab.host_key().fingerprint())),
            _ => lab.checked(HostKeyCheck::Ask),
        };
        let outcome = lab.onboard(request, &mut hands).unwrap().unwrap();
        assert_eq!(outcome.end, End::Orphaned, "{check}");
        got_nothing(&lab, &attacker);
        assert_eq!(hands.seen().asked.len(), usize::from(check == "ask"), "{check}");
        lab.recover_to(outcome.record.id, End::Orphaned);
        got_nothing(&lab, &attacker);
    }
}

#[test]
fn host_key_asked_he_may_come_at_any_moment() {
    // Connections that are open stay; every new one ends at his host.
    let calls = Lab::new(Home::Foreign).call(Paste::AtOnce, |call| call.kind == toehold_core::testing::CallKind::Close);
    for seal in [false, true] {
        for at in 0..calls {
            let when = format!("from call {at} on, sealed: {seal}");
            let lab = Lab::new(Home::Foreign);
            let mut attacker = None;
            let onboarder = lab.onboarder();
            let (master, mut rng, mut hands) = (support::master(), support::rng(1), lab.hands(Paste::AtOnce));
            let mut request = lab.request();
            request.seal_temporary_key = seal;
            let outcome =
                support::watch::stepped(&lab.world, onboarder.onboard(request, &master, &mut rng, &mut hands), |calls| {
                    if calls >= at && attacker.is_none() {
                        attacker = Some(in_the_middle(&lab));
                    }
                });
            let (outcome, attacker) = (outcome.unwrap().unwrap(), attacker.unwrap());
            for entry in lab.world.fleet().tree(&attacker) {
                let value = [master_key(), colleague()].iter().any(|key| holds(&entry.content, key));
                assert!(!value, "{when}: {entry:?}");
            }
            let settled = matches!(outcome.end, End::Completed | End::Failed);
            if settled {
                assert!(!lab.lets_in(&outcome.record.temporary_key), "{when}");
            } else {
                lab.recover_to(outcome.record.id, End::Orphaned);
                lab.world.fleet().stop_impersonating(&lab.account);
                lab.restart().recover(outcome.record.id).unwrap().unwrap();
            }
        }
    }
}

#[test]
fn host_key_asked_a_changed_key_of_a_known_host_is_refused_whatever_its_algorithm() {
    for changed in [
        vec![sample_public_key("ssh-ed25519", "new")],
        vec![sample_public_key("ecdsa-sha2-nistp256", "new")],
        vec![sample_public_key("ssh-rsa", "new"), sample_public_key("ecdsa-sha2-nistp256", "new")],
    ] {
        let lab = Lab::new(Home::Foreign);
        lab.onboard_well();
        let before = lab.file();
        lab.world.fleet().set_host_keys(&lab.account, changed.clone());
        let again = lab.restart();
        let mut request = again.checked(HostKeyCheck::AcceptNew);
        request.keys[1].public_key = sample_public_key("ssh-ed25519", "another colleague's");
        let onboarder = again.onboarder();
        let future = onboarder
            .onboard(request, &support::master(), &mut support::rng(5), &mut again.hands(Paste::AtOnce))
            .await_in(&again);
        assert_eq!(future.end, End::Orphaned, "{changed:?}");
        assert!(future.reason.unwrap().contains("not the expected"), "{changed:?}");
        // The paste came; nothing else did.
        let mut after = toehold_keygen::AuthorizedKeys::parse(lab.file());
        after.remove(&future.record.temporary_key);
        assert_eq!(after.as_bytes(), before, "{changed:?}");
        assert_eq!(known_hosts(&lab).len(), 1);
    }
}

#[test]
fn host_key_asked_the_operator_decides_only_when_he_said_so() {
    for answer in [true, false] {
        let lab = Lab::new(Home::Foreign);
        let mut hands = lab.hands(Paste::AtOnce);
        hands.answer = answer;
        let outcome = lab.onboard(lab.checked(HostKeyCheck::Ask), &mut hands).unwrap().unwrap();
        assert_eq!(hands.seen().asked, [lab.host_key().fingerprint()]);
        if answer {
            assert_eq!(outcome.end, End::Completed);
            assert_eq!(outcome.record.host_key.unwrap().trust, Some(HostKeyTrust::Asked));
        } else {
            assert_eq!(outcome.end, End::Orphaned);
            assert_eq!(lab.file(), lab.foreign);
            assert!(known_hosts(&lab).is_empty());
        }
    }
}

#[test]
fn host_key_asked_a_named_fingerprint_is_held_to() {
    let lab = Lab::new(Home::Foreign);
    // The host prefers another key than the one that was named, and has both.
    let named = sample_public_key("ecdsa-sha2-nistp256", "named");
    lab.world.fleet().set_host_keys(&lab.account, vec![lab.host_key(), named.clone()]);
    let outcome = onboard(&lab, HostKeyCheck::Fingerprint(named.fingerprint()));
    assert_eq!(outcome.end, End::Completed, "{:?}", outcome.reason);
    assert_eq!(outcome.record.host_key.unwrap().public_key, named);

    let lab = Lab::new(Home::Foreign);
    let outcome = onboard(&lab, HostKeyCheck::Fingerprint(named.fingerprint()));
    assert_eq!(outcome.end, End::Orphaned);
    assert!(lab.world.fleet().logins(&lab.account).is_empty());
}

#[test]
fn host_key_asked_accept_new_takes_the_first_key_and_only_that() {
    let lab = Lab::new(Home::Foreign);
    let outcome = onboard(&lab, HostKeyCheck::AcceptNew);
    assert_eq!(outcome.end, End::Completed);
    assert_eq!(known_hosts(&lab)[0].trust, HostKeyTrust::AcceptNew);
}

#[test]
fn host_key_asked_a_fingerprint_that_is_not_the_known_one_begins_no_session() {
    let lab = Lab::new(Home::Foreign);
    lab.knows_host_key(lab.host_key());
    let other = sample_public_key("ssh-ed25519", "other").fingerprint();
    let error = lab.onboard(lab.checked(HostKeyCheck::Fingerprint(other)), &mut lab.hands(Paste::AtOnce)).unwrap().unwrap_err();
    assert!(matches!(&error, SessionError::KnownOtherwise { named, .. } if *named == other.to_string()), "{error}");
    assert!(lab.sessions().is_empty());
    assert_eq!(lab.tree(), lab.before);
}

#[test]
fn o5_a_key_known_for_the_direct_route_says_nothing_of_another_route_or_port() {
    for jumps in [vec!["ops@bastion.example.net"], vec![]] {
        let lab = Lab::new(Home::Foreign);
        lab.knows_host_key(lab.host_key());
        let port = if jumps.is_empty() { ":2222" } else { "" };
        let account = account(&format!("deploy@web1.example.net{port}"));
        let other = support::account("deploy@other.example.net");
        for host in jumps.iter().map(|jump| support::account(jump)).chain([other.clone()]) {
            lab.world.fleet().add_host(&host);
        }
        let jumps = jumps.into_iter().map(support::account).collect();
        let mut request = lab.request();
        request.route = toehold_core::Route { account, jumps };
        lab.world.fleet().lead(&request.route, &other);
        let mut hands = lab.hands(Paste::AtOnce);
        hands.account = other.clone();
        let outcome = lab.onboard(request, &mut hands).unwrap().unwrap();
        assert_eq!(outcome.end, End::Completed, "{:?}", outcome.reason);
        assert_eq!(outcome.record.host_key_check, HostKeyCheck::Proof);
        let trusted = outcome.record.host_key.unwrap();
        assert_eq!(
            (trusted.public_key, trusted.trust),
            (lab.world.fleet().host_keys(&other)[0].clone(), Some(HostKeyTrust::Proof))
        );
        assert_eq!(known_hosts(&lab).len(), 2);
    }
}

/// Runs a future in its world to its end.
trait AwaitIn {
    fn await_in(self, lab: &Lab) -> Outcome;
}

impl<F: Future<Output = Result<Outcome, SessionError>>> AwaitIn for F {
    fn await_in(self, lab: &Lab) -> Outcome {
        lab.world.run(self).unwrap().unwrap()
    }
}
