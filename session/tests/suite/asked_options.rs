//! Keys that are in the host's file already: by which line, whose it is, and with which options.

use crate::support;
use crate::support::{FOREIGN, Home, Lab, Paste, colleague, master, master_key, rng};
use toehold_core::testing::{CallKind, Fault, Moment};
use toehold_session::{End, Evidence, Outcome, Request};

const HARD: &str = "restrict,command=\"internal-sftp\"";

/// A host whose file ends with these lines of somebody else's.
fn with_lines(lines: &str) -> Lab {
    let mut lab = Lab::new(Home::Foreign);
    lab.foreign = [FOREIGN, lines.as_bytes()].concat();
    lab.world.fleet().set_authorized_keys(&lab.account, lab.foreign.clone());
    lab.before = lab.world.fleet().tree(&lab.account);
    lab
}

fn harden(lab: &Lab) -> Request {
    let mut request = lab.request();
    HARD.clone_into(&mut request.keys[0].options);
    request
}

fn onboard(lab: &Lab, seed: u8, request: Request) -> Outcome {
    let lab = lab.restart();
    let onboarder = lab.onboarder();
    let mut hands = lab.hands(Paste::AtOnce);
    lab.world.run(onboarder.onboard(request, &master(), &mut rng(seed), &mut hands)).unwrap().unwrap()
}

/// The lines with the master key.
fn master_lines(lab: &Lab) -> Vec<String> {
    let file = lab.file();
    let lines = file.split(|byte| *byte == b'\n').filter(|line| support::holds(line, &master_key()));
    lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}

fn revoke_master(lab: &Lab) {
    lab.world.fleet().configure(&lab.account, |settings| settings.revoked.push(master_key().fingerprint()));
}

#[test]
fn a_line_of_ours_gets_the_options_that_are_asked_for() {
    let lab = Lab::new(Home::Foreign);
    lab.onboard_well();
    let plain = format!("{} toehold-master", master_key());
    assert_eq!(master_lines(&lab), std::slice::from_ref(&plain));
    lab.advance(60);
    let outcome = onboard(&lab, 2, harden(&lab));
    assert_eq!(outcome.end, End::Completed, "{:?}", outcome.reason);
    assert_eq!(master_lines(&lab), [format!("{HARD} {plain}")]);
    assert_eq!(lab.host().unwrap().keys[0].options, HARD);
    assert!(lab.lets_in(&master_key()));
    // And keeps them where none are asked for.
    lab.advance(60);
    let outcome = onboard(&lab, 3, lab.request());
    assert_eq!(outcome.end, End::Completed, "{:?}", outcome.reason);
    assert_eq!(master_lines(&lab), [format!("{HARD} {plain}")]);
    assert_eq!(lab.host().unwrap().keys[0].options, HARD);
    assert_eq!(lab.claim(), None);
}

#[test]
fn as_it_was_options_that_were_changed_are_put_back() {
    let lab = Lab::new(Home::Unterminated);
    lab.onboard_well();
    let before = lab.tree();
    revoke_master(&lab);
    let outcome = onboard(&lab, 2, harden(&lab));
    assert_eq!((outcome.end, outcome.record.closed.unwrap().evidence), (End::Failed, Evidence::SeenGone), "{:?}", outcome.reason);
    assert_eq!(lab.tree(), before);
    assert_eq!(lab.claim(), None);
    assert_eq!(lab.host().unwrap().keys[0].options, "");
    // Also where the command had to end somebody's last line.
    let unterminated = [lab.file().as_slice(), b"# the last line"].concat();
    lab.world.fleet().set_authorized_keys(&lab.account, unterminated.clone());
    assert_eq!(onboard(&lab, 3, harden(&lab)).end, End::Failed);
    assert_eq!(String::from_utf8_lossy(&lab.file()), String::from_utf8_lossy(&unterminated));
}

/// A host that is managed by a plain line is hardened; the process dies, or fails, at any of its calls.
#[test]
fn holds_anchored_seen_gone_foreign_bytes_as_it_was_while_options_are_changed() {
    for refused in [false, true] {
        let run = |plan: &dyn Fn(&Lab)| {
            let lab = Lab::new(Home::Foreign);
            lab.onboard_well();
            lab.advance(60);
            let before = lab.tree();
            if refused {
                revoke_master(&lab);
            }
            let second = lab.restart();
            plan(&second);
            let onboarder = second.onboarder();
            let (master, mut rng, mut hands) = (master(), rng(2), second.hands(Paste::AtOnce));
            let ended = {
                let mut file = Vec::new();
                let mut look = || {
                    if lab.file() == file {
                        return;
                    }
                    file = lab.file();
                    // anchored: never a moment without a line of the master key.
                    assert_eq!(master_lines(&lab).len(), 1);
                    assert!(refused || lab.lets_in(&master_key()));
                };
                support::watch::stepped(&second.world, onboarder.onboard(harden(&second), &master, &mut rng, &mut hands), |_| {
                    look();
                })
            };
            (lab, before, second.world.faults().log(), ended)
        };
        let (.., calls, ended) = run(&|_| {});
        assert_eq!(ended.unwrap().unwrap().end, if refused { End::Failed } else { End::Completed });
        for call in &calls {
            // Where a call changes nothing, all moments are one.
            let moments = if call.kind.has_effect() { 3 } else { 1 };
            let crashes = [Moment::Before, Moment::After, Moment::Late].map(Err).into_iter().take(moments);
            let faults = call.kind.faults().iter().filter(|fault| **fault != Fault::Hang).map(|fault| Ok(*fault));
            for plan in crashes.chain(faults) {
                let when = format!("master refused: {refused}, {plan:?} at {call}");
                let (lab, before, _, _) = run(&|second| match plan {
                    Ok(fault) => second.world.faults().fail_at(call.number, fault),
                    Err(moment) => second.world.faults().crash_at(call.number, moment),
                });
                lab.world.fleet().deliver_late();
                let open = || lab.sessions().into_iter().find(|session| session.status.is_open());
                if let Some(left) = open() {
                    lab.restart().recover(left.id).unwrap().unwrap();
                }
                if let Some(left) = open() {
                    assert!(refused || !left.installed, "{when}: still open though the master key works: {:?}", left.reason);
                    // Mended, and once the command is known to be dead, the next contact settles it.
                    lab.world.fleet().configure(&lab.account, |settings| settings.revoked.clear());
                    lab.pass_the_end(&left);
                    lab.restart().recover(left.id).unwrap().unwrap();
                }
                assert_eq!(open(), None, "{when}");
                lab.world.fleet().configure(&lab.account, |settings| settings.revoked.clear());
                assert!(lab.lets_in(&master_key()), "{when}");
                let last = lab.sessions().into_iter().max_by_key(|session| session.created_at).unwrap();
                assert!(!lab.lets_in(&last.temporary_key), "{when}");
                let hard = lab.host().unwrap().keys[0].options == HARD;
                assert_eq!(master_lines(&lab)[0].starts_with(HARD), hard, "{when}: the record and the host differ");
                if !hard && last.closed.unwrap().evidence == Evidence::SeenGone {
                    assert_eq!(lab.tree(), before, "{when}");
                }
            }
        }
    }
}

#[test]
fn foreign_bytes_as_it_was_somebody_elses_line_with_other_options_is_named_and_left() {
    let from = "from=\"10.0.0.0/8\"";
    for (theirs, hardened) in [("", true), ("no-pty", true), (from, true), (from, false), ("no-pty", false), (HARD, false)] {
        let blank = if theirs.is_empty() { "" } else { " " };
        let lab = with_lines(&format!("{theirs}{blank}{} by hand\n", master_key()));
        let outcome = onboard(&lab, 1, if hardened { harden(&lab) } else { lab.request() });
        let reason = outcome.reason.unwrap_or_default();
        assert_eq!(outcome.end, End::Failed, "{theirs:?}, hardened: {hardened}: {reason}");
        assert_eq!(lab.tree(), lab.before, "{theirs:?}");
        let line = FOREIGN.split_inclusive(|byte| *byte == b'\n').count() + 1;
        let (is, wanted) =
            (if theirs.is_empty() { "without options" } else { theirs }, if hardened { HARD } else { "without options" });
        for words in [&format!("line {line} of authorized_keys"), is, wanted, &master_key().fingerprint().to_string()] {
            assert!(reason.contains(words), "{words} is not in: {reason}");
        }
        assert!(lab.host().is_none());
    }
}

#[test]
fn anchored_what_sshd_does_not_take_for_the_key_does_not_count_as_the_key() {
    let base64 = master_key().base64();
    let key = master_key();
    for theirs in [
        format!("cert-authority {key} a certificate authority"),
        format!("ssh-rsa {base64} the wrong algorithm"),
        format!("ssh-ed25519 {}! broken", &base64[..base64.len() - 1]),
        format!("no-such-option {key} sshd passes over this"),
        format!("expiry-time=\"20200101\" {key} ended long ago"),
        format!("expiry-time=\"20261123020000Z\" {key} ends in an hour"),
        format!("expiry-time=\"20261123020000Z\",restrict {key} toehold-grant:0123"),
        format!("principals=\"x\" {key} for certificates"),
    ] {
        for hardened in [false, true] {
            for refused in [false, true] {
                let lab = with_lines(&format!("{theirs}\n"));
                if refused {
                    revoke_master(&lab);
                }
                let outcome = onboard(&lab, 1, if hardened { harden(&lab) } else { lab.request() });
                if hardened && theirs.contains("ends in an hour") {
                    // It would let in more than was asked for.
                    assert_eq!(outcome.end, End::Failed, "{theirs}");
                    assert!(outcome.reason.unwrap().contains("expiry-time"), "{theirs}");
                    assert_eq!(lab.tree(), lab.before);
                    continue;
                }
                if refused {
                    // as_it_was, foreign_bytes: only what was added goes.
                    assert_eq!(outcome.end, End::Failed, "{theirs}");
                    assert_eq!(lab.tree(), lab.before, "{theirs}");
                    continue;
                }
                assert_eq!(outcome.end, End::Completed, "{theirs}: {:?}", outcome.reason);
                let lines = master_lines(&lab);
                let ours = if hardened { format!("{HARD} {key} toehold-master") } else { format!("{key} toehold-master") };
                assert!(lines.contains(&ours), "{theirs}: {lines:?}");
                assert!(lab.file().starts_with(&lab.foreign), "{theirs}");
                // It lets in for good.
                lab.advance(365 * 24 * 3600);
                assert!(lab.lets_in(&key), "{theirs}");
            }
        }
    }
}

#[test]
fn options_in_another_order_are_the_same() {
    let lab = with_lines(&format!("command=\"internal-sftp\",RESTRICT {} by hand\n", master_key()));
    assert_eq!(onboard(&lab, 1, harden(&lab)).end, End::Completed);
    assert_eq!(master_lines(&lab).len(), 1);
}

#[test]
fn foreign_bytes_an_undo_takes_away_no_line_but_its_own() {
    // Lines of the colleague's key that let nobody in; ours comes beside them.
    let key = colleague();
    let theirs = format!("cert-authority {key} ca\nssh-ed25519 {} wrong\nno-such-option {key} x\n", key.base64());
    let lab = with_lines(&theirs);
    revoke_master(&lab);
    let calls = {
        let lab = with_lines(&theirs);
        revoke_master(&lab);
        let once = lab.restart();
        let onboarder = once.onboarder();
        let (master, mut rng, mut hands) = (master(), rng(1), once.hands(Paste::AtOnce));
        let mut seen = false;
        let outcome =
            support::watch::stepped(&once.world, onboarder.onboard(once.request(), &master, &mut rng, &mut hands), |_| {
                seen |= lab.lets_in(&colleague());
            });
        assert_eq!(outcome.unwrap().unwrap().end, End::Failed);
        assert!(seen, "ours was there in between");
        assert_eq!(lab.tree(), lab.before);
        once.world.faults().log()
    };
    // Also where the undoing is a recovery's.
    for call in calls.iter().filter(|call| matches!(call.kind, CallKind::Rename | CallKind::Remove | CallKind::LogIn)) {
        let lab = with_lines(&theirs);
        revoke_master(&lab);
        let mut request = lab.request();
        request.seal_temporary_key = true;
        let process = lab.restart();
        process.world.faults().crash_at(call.number + 1, Moment::After);
        let mut hands = process.hands(Paste::AtOnce);
        if process.onboard(request, &mut hands).is_none() {
            for left in lab.sessions().into_iter().filter(|session| session.status.is_open()) {
                let outcome = lab.restart().recover(left.id).unwrap().unwrap();
                if outcome.record.closed.is_some_and(|closed| closed.evidence == Evidence::SeenGone) {
                    assert_eq!(lab.tree(), lab.before, "{call}");
                }
            }
        }
        assert!(lab.file().starts_with(&lab.foreign), "{call}");
    }
}

#[test]
fn seen_gone_lines_that_a_refusal_hides_are_remembered_and_undone_by_the_next_session() {
    let lab = Lab::new(Home::Foreign);
    let adds = lab.call_that_adds();
    let everything = |lab: &Lab, on: bool| {
        let temporary: Vec<_> = lab.sessions().iter().map(|session| session.temporary_key.fingerprint()).collect();
        lab.world.fleet().configure(&lab.account, |settings| {
            settings.revoked.clear();
            if on {
                settings.revoked.extend([master_key(), colleague()].map(|key| key.fingerprint()));
                settings.revoked.extend(temporary);
            }
        });
    };
    let first = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), adds);
    everything(&lab, true);
    let outcome = lab.recover_to(first.id, End::Failed);
    assert_eq!(outcome.record.closed.unwrap().evidence, Evidence::Refused);
    everything(&lab, false);
    assert!(lab.lets_in(&colleague()), "and nobody of ours has it on a list of managed hosts");
    let left: Vec<_> = lab.claim().unwrap().left.iter().map(|left| left.added.line.public_key.clone()).collect();
    assert_eq!(left, [master_key(), colleague()]);

    // The next session does not want the colleague's.
    let mut request = lab.request();
    request.keys.truncate(1);
    let next = onboard(&lab, 7, request);
    assert_eq!(next.end, End::Completed, "{:?}", next.reason);
    assert!(lab.lets_in(&master_key()) && !lab.holds(&colleague()));
    assert_eq!(lab.claim(), None);
}
