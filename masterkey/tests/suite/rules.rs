//! The rules of the threat model for rotations, one test each at least; the guard is attacked by itself.
#![allow(clippy::cloned_ref_to_slice_refs, reason = "lists of held keys: one of a single key reads like the others")]

use crate::support::{FOREIGN, Lab, Standing, Watch, account, rng, stepped, taking_over, watched};
use toehold_core::testing::{Call, CallKind, ExpiryTime, Moment, block_on, sample_public_key};
use toehold_core::{Clock as _, HostPhase, MasterKeyRecord, OnUnreachable, PublicKey, RotationPhase, Store as _, Stored};
use toehold_keygen::AuthorizedKeys;
use toehold_keygen::authorized_keys::Digest;
use toehold_masterkey::guard::{Violation, Write};
use toehold_masterkey::observe::Files;
use toehold_masterkey::{End, NoObserver, Observer, Progress, RotationError, TakeUp};

fn files(text: &str) -> Files {
    Files { first: AuthorizedKeys::parse(text.as_bytes().to_vec()), second: None }
}

fn old() -> PublicKey {
    sample_public_key("ssh-ed25519", "old")
}

fn new() -> PublicKey {
    sample_public_key("ssh-ed25519", "new")
}

fn expiring(key: &PublicKey) -> String {
    format!("expiry-time=\"20261201000000Z\" {key}")
}

/// What the guard says to a write over a login with `over`, where `proven` are the lines that have logged in.
fn judge(over: &PublicKey, proven: &[String], before: &str, after: &str) -> Result<(), Violation> {
    let proven: Vec<Digest> = proven.iter().map(|line| Digest::of(line.as_bytes())).collect();
    Write { keys: &[new(), old()], over, proven: &proven, generation: Some(1), before: &files(before), after: &files(after) }
        .check()
}

#[test]
fn r1_the_guard_lets_no_write_leave_a_host_without_a_proven_permanent_line() {
    let (a, b) = (old().to_string(), new().to_string());
    let both = format!("{a}\n{b}\n");
    // The way of a rotation.
    assert_eq!(judge(&old(), &[a.clone()], &format!("{a}\n"), &format!("{a}\n{}\n", expiring(&new()))), Ok(()));
    assert_eq!(judge(&new(), &[a.clone()], &format!("{a}\n{}\n", expiring(&new())), &both), Ok(()));
    assert_eq!(judge(&new(), &[b.clone()], &both, &format!("{}\n{b}\n", expiring(&old()))), Ok(()));
    assert_eq!(judge(&new(), &[b.clone()], &both, &format!("{b}\n")), Ok(()));
    // A line that has logged in as another line has not.
    let restricted = format!("restrict {b}");
    let write = |proven: &[String]| judge(&new(), proven, &format!("{a}\n{restricted}\n"), &format!("{restricted}\n"));
    assert_eq!(write(&[b.clone()]), Err(Violation::NotAnchored));
    assert_eq!(write(&[restricted.clone()]), Ok(()));
    // One with an end is no anchor, whatever it has proven; nor is a certificate authority, nor a line that sshd passes over.
    for line in [expiring(&new()), format!("cert-authority {b}"), format!("\"{b}"), format!("#{b}")] {
        let write = judge(&new(), std::slice::from_ref(&line), &format!("{a}\n{line}\n"), &format!("{line}\n"));
        assert_eq!(write, Err(Violation::NotAnchored), "{line}");
    }
    // Somebody else's key is none of ours.
    let stranger = sample_public_key("ssh-ed25519", "somebody").to_string();
    let write = judge(&new(), &[stranger.clone()], &format!("{stranger}\n{a}\n"), &format!("{stranger}\n"));
    assert_eq!(write, Err(Violation::NotAnchored));
    // Nothing at all was proven.
    assert_eq!(judge(&old(), &[], &format!("{a}\n"), &format!("{a}\n{}\n", expiring(&new()))), Err(Violation::NotAnchored));
}

#[test]
fn r2_the_guard_lets_one_write_change_the_lines_of_one_key() {
    let (a, b) = (old().to_string(), new().to_string());
    let write = judge(&new(), &[a.clone(), b.clone()], &format!("{a}\n{}\n", expiring(&new())), &format!("{b}\n"));
    assert_eq!(write, Err(Violation::SeveralKeys));
    // Every copy of one key at once is one change.
    let write = judge(&new(), &[b.clone()], &format!("{a}\nrestrict {a}\n{b}\n"), &format!("{b}\n"));
    assert_eq!(write, Ok(()));
    // What is not ours is no part of a change.
    for after in [format!("{b}\n"), format!("# two\n{b}\n"), format!("{b}\n# one\n# more\n")] {
        let write = judge(&new(), &[b.clone()], &format!("# one\n{a}\n{b}\n"), &after);
        assert_eq!(write, Err(Violation::ForeignBytes), "{after}");
    }
}

#[test]
fn r3_the_new_line_has_an_end_until_its_proof_which_makes_it_permanent_at_once() {
    let lab = Lab::new(1);
    let account = lab.accounts[0].clone();
    let mut seen = Vec::new();
    let rotator = lab.rotator();
    let mut rng = rng(1);
    let outcome = stepped(&lab.world, rotator.rotate(lab.request(), &mut rng, &NoObserver), |_| {
        let file = String::from_utf8_lossy(&lab.file(&account)).into_owned();
        if seen.last() != Some(&file) {
            seen.push(file);
        }
    });
    let new = outcome.unwrap().unwrap().rotation.new;
    let line = |file: &String| file.lines().find(|line| line.contains(&new.base64())).map(str::to_owned);
    let lines: Vec<Option<String>> = seen.iter().map(line).collect();
    assert_eq!(lines.len(), 4, "{seen:?}");
    assert_eq!(lines[0], None);
    assert!(lines[1].as_ref().unwrap().starts_with("expiry-time=\"2026"), "{lines:?}");
    assert!(lines[2].as_ref().unwrap().starts_with("ssh-ed25519 "), "{lines:?}");
    assert_eq!(lines[2], lines[3]);
    // The login that proved it was made between the two, and nothing else was.
    let logins = lab.world.fleet().logins(&account);
    assert_eq!(logins.iter().map(|(key, _)| *key == new).collect::<Vec<_>>(), [false, true, true, true]);
}

#[test]
fn r3_a_line_that_the_host_refuses_does_not_stay() {
    let lab = Lab::new(2);
    let refusing = lab.accounts[1].clone();
    lab.world.fleet().configure(&refusing, |settings| settings.refused_algorithms.push("ecdsa-sha2-nistp256".into()));
    let mut watch = Watch::new(&lab);
    let mut request = lab.request();
    request.algorithm = toehold_keygen::KeyAlgorithm::EcdsaP256;
    request.policy.on_unreachable = OnUnreachable::Defer;
    let rotator = lab.rotator();
    let outcome = watched(&lab.world, &mut watch, rotator.rotate(request, &mut rng(1), &NoObserver)).unwrap().unwrap();
    assert_eq!(outcome.end, End::Done);
    assert!(!lab.holds(&refusing, &outcome.rotation.new), "an unproven line stays for good");
    assert!(lab.lets_in(&refusing, &lab.first));
    assert_eq!(outcome.owed().count(), 1);
    assert!(outcome.owed().next().unwrap().reason.as_ref().unwrap().contains("refuses the key"));
}

#[test]
fn r4_the_current_key_changes_only_when_the_new_line_is_permanent_on_every_host() {
    let lab = Lab::new(4);
    let mut switched = false;
    let rotator = lab.rotator();
    let mut rng = rng(1);
    let outcome = stepped(&lab.world, rotator.rotate(lab.request(), &mut rng, &NoObserver), |_| {
        if !switched && lab.current() != lab.first {
            switched = true;
            let new = lab.current();
            for account in &lab.accounts {
                let file = String::from_utf8_lossy(&lab.file(account)).into_owned();
                assert!(file.lines().any(|line| line.starts_with(&new.to_string())), "{account}: {file}");
            }
        }
    });
    assert_eq!(outcome.unwrap().unwrap().end, End::Done);
    assert!(switched);
}

#[test]
fn r4_a_host_that_comes_in_before_the_current_key_changes_counts_as_well() {
    let changes = |calls: &[Call]| {
        let is_change = |call: &&Call| call.kind == CallKind::StorePut && call.subject == "masterkey/current";
        calls.iter().find(is_change).map(|call| call.number)
    };
    let good = Lab::new(2);
    good.rotate_well();
    let at = changes(&good.world.faults().log()).unwrap();

    let lab = Lab::new(2);
    lab.world.faults().crash_at(at, Moment::Before);
    let rotator = lab.rotator();
    assert!(lab.world.run(rotator.rotate(lab.request(), &mut rng(1), &NoObserver)).is_none());
    let phase = lab.rotation().unwrap().phase;
    assert_eq!((phase, lab.current()), (RotationPhase::Switching, lab.first.clone()));
    let lab = lab.with_host("deploy@late.example.net");
    let next = lab.restart();
    let rotator = next.rotator();
    let (mut switched, mut resuming) = (false, rng(2));
    let outcome = stepped(&next.world, rotator.resume(taking_over(), &mut resuming, &NoObserver), |_| {
        if !switched && lab.current() != lab.first {
            switched = true;
            for account in &lab.accounts {
                assert!(lab.holds(account, &lab.current()), "{account} has not got the key that is current now");
            }
        }
    });
    assert_eq!(outcome.unwrap().unwrap().end, End::Done);
    assert!(switched);
}

#[test]
fn r5_the_guard_weakens_a_line_only_over_another_proven_permanent_one() {
    let (a, b) = (old().to_string(), new().to_string());
    let both = format!("{a}\n{b}\n");
    for after in [format!("{}\n{b}\n", expiring(&old())), format!("{b}\n"), format!("restrict {a}\n{b}\n")] {
        // Over the old key itself, though the new one is proven.
        assert_eq!(judge(&old(), &[a.clone(), b.clone()], &both, &after), Err(Violation::WeakensItsOwn), "{after}");
        // Over the new key, whose login was made with another line.
        assert!(judge(&new(), &[a.clone()], &both, &after).is_err(), "{after}");
        assert_eq!(judge(&new(), &[a.clone(), b.clone()], &both, &after), Ok(()), "{after}");
    }
    // Over a new line that has an end.
    let provisional = format!("{a}\n{}\n", expiring(&new()));
    let write = judge(&new(), &[a.clone(), expiring(&new())], &provisional, &format!("{}\n", expiring(&new())));
    assert_eq!(write, Err(Violation::NotAnchored));
}

#[test]
fn r6_the_old_key_is_seen_refused_before_a_host_is_settled_whatever_the_clocks_show() {
    let mut lab = Lab::new(3);
    lab.pace.concurrency = 1;
    for (account, skew) in lab.accounts.iter().zip([-86_400, 0, 86_400]) {
        lab.world.fleet().configure(account, |settings| settings.clock_skew = skew);
    }
    let mut watch = Watch::new(&lab);
    let mut request = lab.request();
    request.policy.grace = 600;
    let rotator = lab.rotator();
    let outcome = watched(&lab.world, &mut watch, rotator.rotate(request, &mut rng(1), &NoObserver)).unwrap().unwrap();
    assert_eq!(outcome.end, End::Done, "{:?}", outcome.reason);
    lab.assert_settled_on(&outcome.rotation.new, "clocks apart");

    // A host that takes the old key in some other way is not settled, and its private half is kept.
    let lab = Lab::new(2);
    let other = lab.accounts[0].clone();
    let fleet = lab.world.fleet();
    fleet.write_file(&other, "/etc/ssh/keys/deploy", format!("{}\n", lab.first), 0o644);
    fleet.set_owner(&other, "/etc/ssh/keys/deploy", 0);
    fleet.configure(&other, |settings| settings.authorized_keys_files.push("/etc/ssh/keys/%u".into()));
    let outcome = lab.rotate(lab.request()).unwrap();
    assert_eq!(outcome.end, End::Stopped);
    assert!(outcome.owed().next().unwrap().reason.as_ref().unwrap().contains("still takes the key"), "{:?}", outcome.reason);
    assert_eq!(lab.keys().len(), 2);
}

#[test]
fn r7_a_private_half_stays_until_no_host_can_need_it() {
    let mut lab = Lab::new(3);
    lab.pace.attempts = 1;
    let away = lab.accounts[2].clone();
    lab.world.fleet().switch_off(&away);
    let mut keys = vec![lab.first.clone()];
    for round in 0..2 {
        let mut request = lab.request();
        request.policy.on_unreachable = OnUnreachable::Defer;
        let next = lab.restart();
        let rotator = next.rotator();
        let outcome = next.world.run(rotator.rotate(request, &mut rng(10 + round), &NoObserver)).unwrap().unwrap();
        assert_eq!(outcome.end, End::Done);
        assert_eq!(outcome.owed().map(|host| host.account.clone()).collect::<Vec<_>>(), [away.clone()]);
        keys.push(outcome.rotation.new.clone());
        // All intermediate keys as well.
        assert_eq!(lab.keys().len(), keys.len(), "round {round}");
    }
    lab.world.fleet().switch_on(&away);
    let healed = lab.restart().settle();
    assert_eq!(healed.hosts.len(), 1);
    assert_eq!(healed.hosts[0].phase, HostPhase::Settled, "{:?}", healed.hosts);
    assert_eq!(healed.dropped.len(), 2);
    lab.assert_settled_on(&keys[2], "healed two rotations later");
    assert_eq!(lab.keys().len(), 1);
}

/// Wants out from the start.
struct Leaving;

impl Observer for Leaving {
    fn progress(&self, _: Progress) {}

    fn is_leaving(&self) -> bool {
        true
    }
}

#[test]
fn an_interrupted_settling_names_the_hosts_that_it_did_not_begin() {
    let mut lab = Lab::new(2);
    lab.pace.attempts = 1;
    let away = lab.accounts[1].clone();
    lab.world.fleet().switch_off(&away);
    let mut request = lab.request();
    request.policy.on_unreachable = OnUnreachable::Defer;
    assert_eq!(lab.rotate(request).unwrap().end, End::Done);
    let next = lab.restart();
    let rotator = next.rotator();
    let outcome = next.world.run(rotator.settle(&mut rng(9), &Leaving)).unwrap().unwrap();
    let owed: Vec<_> = outcome.hosts.iter().map(|host| (host.account.clone(), host.phase)).collect();
    assert_eq!(owed, [(away, HostPhase::Quarantined)]);
    assert_eq!((outcome.dropped.len(), lab.keys().len()), (0, 2));
}

#[test]
fn r7_an_open_session_that_names_a_key_keeps_it() {
    let lab = Lab::new(1);
    let session = serde_json::json!({
        "v": 1, "readable_from": 1, "id": "00112233445566778899aabbccddeeff", "account": "deploy@late.example.net",
        "keys": [{ "role": "master", "public_key": lab.first }], "status": "active",
    });
    let key = toehold_core::Key::parse("session/00112233445566778899aabbccddeeff").unwrap();
    let value = serde_json::to_vec(&session).unwrap();
    block_on(lab.world.memory().put(&key, &value, toehold_core::Expect::Absent)).unwrap();
    lab.rotate_well();
    assert_eq!(lab.keys().len(), 2, "the session may still put the old key on its host");
}

#[test]
fn r8_a_fenced_operator_changes_no_host_and_no_current_key_however_late() {
    let calls = {
        let lab = Lab::new(1);
        lab.rotate_well();
        lab.world.faults().log()
    };
    let writes = |kind: CallKind| matches!(kind, CallKind::StorePut | CallKind::Rename | CallKind::Stage);
    for call in calls.iter().filter(|call| writes(call.kind)) {
        // One operator hangs at this call, another takes over and goes back; then the first one's call goes through after all.
        let lab = Lab::new(1);
        let rotator = lab.rotator();
        let mut one = rng(1);
        let mut slow = Standing::new(rotator.rotate(lab.request(), &mut one, &NoObserver));
        assert!(slow.run_to(&lab.world, call.number).is_none());
        let mut watch = Watch::new(&lab);
        if lab.rotation().is_none_or(|rotation| rotation.phase.is_closed()) {
            continue;
        }
        let second = lab.restart();
        let taker = second.rotator();
        let by = taking_over();
        let outcome = watched(&second.world, &mut watch, taker.roll_back(by, &mut rng(3), &NoObserver)).unwrap().unwrap();
        assert_eq!(outcome.end, End::RolledBack, "{call}: {:?}", outcome.reason);
        lab.assert_settled_on(&outcome.rotation.old, &format!("taken over at {call}"));
        // The first one goes on, as late as can be.
        let late = slow.run_on(&lab.world, &mut watch);
        assert!(!matches!(&late, Some(Ok(outcome)) if outcome.end == End::Done), "{call}");
        lab.assert_settled_on(&outcome.rotation.old, &format!("{call}: the fenced operator went on"));
    }
}

#[test]
fn r8_a_switch_of_a_fenced_operator_comes_to_nothing_at_whatever_point_of_the_way_back() {
    let switch = {
        let lab = Lab::new(1);
        lab.rotate_well();
        let log = lab.world.faults().log();
        log.into_iter().find(|call| call.kind == CallKind::StorePut && call.subject == "masterkey/current").unwrap().number
    };
    for stop in (2..60).step_by(3) {
        let lab = Lab::new(1);
        let rotator = lab.rotator();
        let (mut one, mut other) = (rng(1), rng(3));
        let mut slow = Standing::new(rotator.rotate(lab.request(), &mut one, &NoObserver));
        assert!(slow.run_to(&lab.world, switch).is_none());
        let mut watch = Watch::new(&lab);
        let second = lab.restart();
        let taker = second.rotator();
        let mut taking = Standing::new(taker.roll_back(taking_over(), &mut other, &NoObserver));
        assert!(taking.run_to(&second.world, stop).is_none());
        let late = slow.run_on(&lab.world, &mut watch);
        watch.keys_changed = true;
        let outcome = taking.run_on(&second.world, &mut watch).unwrap();
        if matches!(&late, Some(Ok(outcome)) if outcome.end == End::Done) {
            assert!(outcome.is_err(), "stopped at {stop}: both of them have led it to an end");
            continue;
        }
        let outcome = outcome.unwrap();
        assert_eq!(outcome.end, End::RolledBack, "stopped at {stop}: {:?}", outcome.reason);
        lab.assert_settled_on(&outcome.rotation.old, &format!("stopped at {stop}"));
    }
}

#[test]
fn r9_one_file_under_two_names_and_one_key_on_several_lines_end_well() {
    // Two names of one host, and a plain copy beside one with an end, in both files.
    let lab = Lab::new(1);
    let first = lab.accounts[0].clone();
    let alias = account("deploy@192.0.2.7");
    lab.world.fleet().add_host(&alias);
    lab.world.fleet().lead(&alias.clone().into(), &first);
    let host_key = lab.world.fleet().host_keys(&first)[0].clone();
    lab.world.fleet().set_host_keys(&alias, vec![host_key]);
    lab.record(&alias);
    let copies = format!("{0} a\nexpiry-time=\"20991201000000Z\" {0} b\nrestrict {0} c\n", lab.first);
    lab.world.fleet().set_authorized_keys(&first, [FOREIGN, copies.as_bytes()].concat());
    lab.world.fleet().write_file(&first, ".ssh/authorized_keys2", format!("{} second\n# theirs\n", lab.first), 0o600);
    let mut watch = Watch::new(&lab);
    let mut request = lab.request();
    request.policy.grace = 60;
    let rotator = lab.rotator();
    let outcome = watched(&lab.world, &mut watch, rotator.rotate(request, &mut rng(1), &NoObserver)).unwrap().unwrap();
    assert_eq!(outcome.end, End::Done, "{:?}", outcome.reason);
    lab.assert_settled_on(&outcome.rotation.new, "two names");
    let second = lab.world.fleet().file(&first, ".ssh/authorized_keys2").unwrap().content;
    assert_eq!(String::from_utf8_lossy(&second), "# theirs\n");
    let line = lab.file(&first);
    assert_eq!(String::from_utf8_lossy(&line).matches(&outcome.rotation.new.base64()).count(), 2, "plain, and restricted");
    let marked = [&first, &alias].into_iter().filter_map(|account| lab.progress(1, account)?.same_file_as).count();
    assert_eq!(marked, 1, "the second name is recognised");
}

#[test]
fn r10_a_key_without_a_durable_copy_that_opens_is_not_rotated() {
    for sealed in ["only in an agent", "SHA256:AAAA 00"] {
        let lab = Lab::new(1);
        let key = MasterKeyRecord::key(&lab.first.fingerprint()).unwrap();
        let mut record = block_on(Stored::<MasterKeyRecord>::read(lab.world.memory(), &key)).unwrap().unwrap();
        record.body.sealed = sealed.to_owned();
        block_on(record.save(lab.world.memory())).unwrap();
        let before = lab.world.memory().entries();
        let error = lab.rotate(lab.request()).unwrap_err();
        assert!(matches!(error, RotationError::NoDurableCopy { .. }), "{error}");
        assert_eq!(lab.world.memory().entries(), before);
    }
    // Nor does a host learn of a new one before its sealed copy is in the store.
    let lab = Lab::new(1);
    let account = lab.accounts[0].clone();
    let before = lab.file(&account);
    let rotator = lab.rotator();
    let mut rng = rng(1);
    drop(stepped(&lab.world, rotator.rotate(lab.request(), &mut rng, &NoObserver), |_| {
        assert!(lab.file(&account) == before || lab.keys().len() == 2 || lab.current() != lab.first);
    }));
}

#[test]
fn r12_hosts_without_expiry_get_the_new_line_for_good_and_lose_the_old_one_after_the_proof() {
    // Told by its greeting, on record, or found out by a refusal.
    for way in 0..4 {
        let lab = Lab::new(1);
        let account = lab.accounts[0].clone();
        lab.world.fleet().configure(&account, |settings| match way {
            0 | 2 => settings.expiry_time = ExpiryTime::Unknown,
            1 => settings.expiry_time = ExpiryTime::LocalOnly,
            _ => {
                settings.expiry_time = ExpiryTime::Unknown;
                settings.software = Some("OpenSSH_9.9".into());
            }
        });
        if way == 2 {
            lab.change_host(&account, |host| host.without_expiry = true);
        }
        let mut watch = Watch::new(&lab);
        let mut request = lab.request();
        request.policy.grace = 600;
        let rotator = lab.rotator();
        let mut ends = 0;
        let outcome = stepped(&lab.world, rotator.rotate(request, &mut rng(1), &NoObserver), |_| {
            watch.keys_changed = true;
            watch.look(&|| format!("way {way}"));
            ends += usize::from(String::from_utf8_lossy(&lab.file(&account)).contains("expiry-time"));
        });
        let outcome = outcome.unwrap().unwrap();
        assert_eq!(outcome.end, End::Done, "way {way}: {:?}", outcome.reason);
        assert_eq!(ends > 0, way == 3, "way {way}: a line with an end on a host that reads none");
        lab.assert_settled_on(&outcome.rotation.new, &format!("way {way}"));
        // What was told by its greeting is told again at the next visit; a refusal, or the operator's word, is kept.
        assert_eq!(lab.host(&account).without_expiry, way >= 2, "way {way}");
    }
}

#[test]
fn r13_the_refusal_of_the_old_key_is_asked_on_the_connection_that_logs_in_with_the_new_one() {
    let lab = Lab::new(1);
    let outcome = lab.rotate_well();
    // No login was refused, and no connection was made to ask.
    let log = lab.world.faults().log();
    assert!(log.iter().all(|call| call.kind != CallKind::WouldAccept));
    let logins: Vec<_> = log.iter().filter(|call| call.kind == CallKind::LogIn).collect();
    assert_eq!(logins.len(), lab.world.fleet().logins(&lab.accounts[0]).len());
    assert!(logins.last().unwrap().subject.ends_with(&outcome.rotation.new.fingerprint().to_string()));
}

#[test]
fn a_second_rotation_is_refused_with_who_holds_it_and_since_when() {
    let lab = Lab::new(1);
    let began = lab.world.clock().now();
    lab.world.faults().crash_at(40, Moment::Before);
    assert!(lab.world.run(lab.rotator().rotate(lab.request(), &mut rng(1), &NoObserver)).is_none());
    let lab = lab.restart();
    let error = lab.rotate(lab.request()).unwrap_err();
    assert!(
        matches!(&error, RotationError::AlreadyOpen { number: 1, operator, started_at, .. } if operator == "alice@laptop" && *started_at == began),
        "{error}"
    );
    // Its leader may be alive; a minute later it counts as dead.
    let rotator = lab.rotator();
    let resumed = lab.world.run(rotator.resume(TakeUp::new("bob@desk"), &mut rng(2), &NoObserver)).unwrap();
    assert!(matches!(resumed, Err(RotationError::BeingLed { .. })), "{resumed:?}");
    lab.advance(61);
    let resumed = lab.world.run(rotator.resume(TakeUp::new("bob@desk"), &mut rng(2), &NoObserver)).unwrap().unwrap();
    assert_eq!((resumed.end, resumed.rotation.operator.as_str()), (End::Done, "bob@desk"));
}
