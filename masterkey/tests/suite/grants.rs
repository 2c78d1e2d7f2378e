//! Grants: what they put on a host, how they end, and how little they have to do with each other and with all the rest.

use std::time::Duration;

use crate::grant_support::{HOUR, Lab, bob, carol, foreign, master, master_key, rng};
use toehold_core::testing::{CallKind, ExpiryTime, Fault, block_on, sample_identity, sample_public_key};
use toehold_core::{AuditEntry, Expect, Key, Store as _, Stored};
use toehold_keygen::authorized_keys::Digest;
use toehold_keygen::{AuthorizedKeys, Options};
use toehold_masterkey::grant::{GrantError, GrantRequest, GrantStatus};
use toehold_masterkey::guard::{Violation, Write};
use toehold_masterkey::observe::{Files, Observation, Presence};

#[test]
fn a_granted_key_logs_in_until_its_end_which_sshd_brings() {
    let lab = Lab::new();
    let granted = lab.grant(&lab.request(bob()), 1);
    assert_eq!(granted.record.status, GrantStatus::Live);
    assert_eq!((granted.accepted, granted.other_lines, granted.record.clock_error), (Some(true), 0, Some(0)));
    assert!(lab.text().ends_with(&format!("\nexpiry-time=\"20261123020000Z\" {} {}", bob(), granted.record.marker())));
    lab.advance(HOUR);
    assert!(lab.lets_in(&bob()), "the last second counts");
    lab.advance(Duration::from_secs(1));
    // Nobody of us has done anything.
    assert!(!lab.lets_in(&bob()));
    assert!(lab.records()[0].is_owed(lab.now()));
    assert_eq!(lab.sweep(), [granted.record.id]);
    assert_eq!((lab.file(), lab.records(), lab.leftovers()), (foreign(), vec![], vec![]));
    assert!(lab.sweep().is_empty());
}

#[test]
fn a_grant_that_has_not_ended_is_not_swept_and_can_be_revoked() {
    let lab = Lab::new();
    let granted = lab.grant(&lab.request(bob()), 1);
    assert!(lab.sweep().is_empty() && lab.lets_in(&bob()));
    lab.revoke(granted.record.id).unwrap();
    assert!(!lab.lets_in(&bob()));
    assert_eq!((lab.file(), lab.records()), (foreign(), vec![]));
    assert!(matches!(lab.revoke(granted.record.id), Err(GrantError::NotFound(_))));
}

#[test]
fn grants_of_one_key_are_independent_of_each_other() {
    let lab = Lab::new();
    let short = lab.grant(&lab.request(bob()), 1).record;
    let mut request = lab.request(bob());
    request.lifetime = 3 * HOUR;
    let long = lab.grant(&request, 2);
    let third = lab.grant(&lab.request(sample_public_key("ssh-ed25519", "dave's")), 3).record;
    assert_eq!(long.other_lines, 1);
    assert_eq!(lab.granted_in_file(), [short.id, long.record.id, third.id]);

    lab.revoke(short.id).unwrap();
    assert!(lab.lets_in(&bob()), "the other grant of the same key lives");
    let again = lab.grant(&lab.request(bob()), 4).record;
    lab.advance(2 * HOUR);
    let mut swept = lab.sweep();
    swept.sort();
    let mut ended = [third.id, again.id];
    ended.sort();
    assert_eq!(swept, ended);
    assert!(lab.lets_in(&bob()));
    assert_eq!(lab.granted_in_file(), [long.record.id]);
    lab.advance(2 * HOUR);
    assert!(!lab.lets_in(&bob()));
    lab.sweep();
    assert_eq!(lab.file(), foreign());
}

#[test]
fn foreign_bytes_a_key_that_is_there_for_good_is_neither_weakened_nor_removed() {
    let lab = Lab::new();
    let granted = lab.grant(&lab.request(carol()), 1);
    assert_eq!(granted.other_lines, 1);
    assert!(lab.text().contains(&format!("no-pty {} carol@laptop\n", carol())));
    lab.advance(2 * HOUR);
    assert!(lab.lets_in(&carol()));
    lab.sweep();
    assert!(lab.lets_in(&carol()));
    assert_eq!(lab.file(), foreign());
}

#[test]
fn the_master_key_and_former_ones_are_never_granted() {
    let lab = Lab::new();
    let former = sample_public_key("ssh-ed25519", "retired");
    let next = sample_public_key("ssh-ed25519", "of a rotation");
    for (kind, key) in [("retired", &former), ("masterkey", &next)] {
        let key = Key::new([kind, &key.fingerprint().to_segment()]).unwrap();
        block_on(lab.world.memory().put(&key, b"{}", Expect::Absent)).unwrap();
    }
    for key in [master_key(), former, next] {
        let error = lab.try_grant(&lab.request(key), 1).unwrap().unwrap_err();
        assert!(matches!(error, GrantError::MasterKey { .. }), "{error}");
    }
    assert_eq!((lab.file(), lab.records()), (foreign(), vec![]));
}

/// A grant of a key that became a master key afterwards, which no program of ours brings about: a rotation does not count the
/// grant's line, and a write that would touch it is not made.
#[test]
fn foreign_bytes_a_rotation_neither_counts_nor_touches_the_line_of_a_grant() {
    let lab = Lab::new();
    lab.grant(&lab.request(bob()), 1);
    let before = Files { first: AuthorizedKeys::parse(lab.file()), second: None };
    let keys = [bob(), master_key()];
    let seen = Observation::of(&before, &keys, lab.now());
    assert_eq!((seen.presence(0), seen.presence(1)), (Presence::Absent, Presence::Permanent));

    let anchor = before.copies(&master_key()).map(|entry| Digest::of(entry.text())).collect::<Vec<_>>();
    let check = |after: &Files| {
        let write = Write { keys: &keys, over: &master_key(), proven: &anchor, generation: None, before: &before, after };
        write.check()
    };
    let mut after = before.clone();
    after.first.remove(&bob());
    assert_eq!(check(&after), Err(Violation::ForeignBytes));
    let mut after = before.clone();
    after.first.replace_options(&bob(), &Options::new());
    assert_eq!(check(&after), Err(Violation::ForeignBytes));
    assert_eq!(check(&before), Ok(()));
}

#[test]
fn options_stand_in_the_line_before_its_end() {
    let lab = Lab::new();
    let mut request = lab.request(bob());
    request.options = Options::new().restrict().from("192.0.2.0/24").unwrap();
    request.comment = "bob\u{7}@laptop".to_owned();
    let granted = lab.grant(&request, 1);
    assert_eq!(granted.accepted, Some(true));
    assert!(lab.text().contains("\nrestrict,from=\"192.0.2.0/24\",expiry-time=\"20261123020000Z\" ssh-ed25519"));
    assert!(lab.text().ends_with(" bob@laptop"));
    // From elsewhere it is refused, and that is said.
    lab.world.fleet().configure(&lab.account, |settings| settings.client_address = "198.51.100.1".to_owned());
    assert_eq!(lab.grant(&request, 2).accepted, Some(false));
}

#[test]
fn what_sshd_would_not_take_or_would_not_end_is_refused_before_the_host_is_asked() {
    let lab = Lab::new();
    let with = |option: &str| {
        let mut request = lab.request(bob());
        request.options = option.parse().unwrap();
        request
    };
    let lasting = |lifetime| {
        let mut request = lab.request(bob());
        request.lifetime = lifetime;
        request
    };
    for (request, wanted) in [
        (with("expiry-time=\"20991231Z\""), "cannot have the option expiry-time"),
        (with("cert-authority"), "cannot have the option cert-authority"),
        (with("principals=\"root\""), "cannot have the option principals"),
        (with("no-such-option"), "cannot stand before a key"),
        (lasting(Duration::ZERO), "not for 0 s"),
        (lasting(367 * 24 * HOUR), "for 1 s to 366 d"),
    ] {
        let error = lab.try_grant(&request, 1).unwrap().unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    assert_eq!(lab.world.faults().calls(), 0);
}

#[test]
fn o2_the_end_is_written_as_the_host_reads_it() {
    for (expiry_time, utc_offset, zone, written) in [
        (ExpiryTime::LocalAndUtc, 7200, None, "20261123020000Z"),
        (ExpiryTime::LocalOnly, 7200, Some("<+02>-2"), "20261123040000"),
        (ExpiryTime::LocalOnly, -12_600, Some("NST3:30NDT,M3.2.0,M11.1.0"), "20261122223000"),
    ] {
        let lab = Lab::new();
        lab.world.fleet().configure(&lab.account, |settings| {
            settings.expiry_time = expiry_time;
            settings.utc_offset = utc_offset;
        });
        if let Some(zone) = zone {
            lab.world.fleet().write_file(&lab.account, "/etc/localtime", zone_file(zone), 0o644);
        }
        lab.grant(&lab.request(bob()), 1);
        assert!(lab.text().contains(&format!("expiry-time=\"{written}\" ")), "{}", lab.text());
        lab.advance(HOUR);
        assert!(lab.lets_in(&bob()), "{expiry_time:?}");
        lab.advance(Duration::from_secs(1));
        assert!(!lab.lets_in(&bob()), "{expiry_time:?}");
    }
}

#[test]
fn r12_a_host_that_reads_no_end_is_refused_in_words_unless_told_otherwise() {
    let lab = Lab::new();
    let refused = |lab: &Lab, wanted: &str| {
        let error = lab.restart().try_grant(&lab.request(bob()), 1).unwrap().unwrap_err();
        assert!(error.to_string().contains("could not end by itself") && error.to_string().contains(wanted), "{error}");
        assert_eq!((lab.file(), lab.records()), (foreign(), vec![]));
    };
    let configure = |expiry_time, software: Option<&str>| {
        lab.world.fleet().configure(&lab.account, |settings| {
            settings.expiry_time = expiry_time;
            settings.software = software.map(str::to_owned);
        });
    };
    configure(ExpiryTime::LocalOnly, None);
    refused(&lab, "/etc/localtime cannot be read");
    lab.world.fleet().write_file(&lab.account, "/etc/localtime", *b"TZif", 0o644);
    refused(&lab, "is no time zone");
    configure(ExpiryTime::LocalOnly, Some(""));
    refused(&lab, "is no time zone");
    configure(ExpiryTime::Unknown, None);
    refused(&lab, "OpenSSH_7.4");
    configure(ExpiryTime::Unknown, Some("dropbear_2022.83"));
    refused(&lab, "dropbear_2022.83");
    lab.change_host(|host| host.without_expiry = true);
    refused(&lab, "without expiry");

    let mut request = lab.request(bob());
    request.even_without_expiry = true;
    let granted = lab.grant(&request, 2);
    assert!(granted.record.without_expiry);
    lab.advance(HOUR + Duration::from_secs(1));
    assert!(lab.lets_in(&bob()), "nothing but us ends it");
    lab.sweep();
    assert!(!lab.lets_in(&bob()));
    assert_eq!(lab.file(), foreign());
}

#[test]
fn the_error_of_the_host_s_clock_is_measured_and_kept() {
    for skew in [-90, 0, 45] {
        let lab = Lab::new();
        lab.world.fleet().configure(&lab.account, |settings| settings.clock_skew = skew);
        let granted = lab.grant(&lab.request(bob()), 1);
        assert_eq!(granted.record.clock_error, Some(skew));
        assert_eq!(lab.records()[0].clock_error, Some(skew));
    }
}

#[test]
fn a_host_that_is_not_managed_or_is_being_given_up_is_refused() {
    let lab = Lab::new();
    let stranger = GrantRequest::new("root@elsewhere".parse().unwrap(), bob(), HOUR);
    assert!(matches!(lab.try_grant(&stranger, 1).unwrap(), Err(GrantError::NotManaged { .. })));
    lab.change_host(|host| host.removing = true);
    assert!(matches!(lab.try_grant(&lab.request(bob()), 1).unwrap(), Err(GrantError::NotManaged { .. })));
}

#[test]
fn another_host_key_is_refused() {
    let lab = Lab::new();
    lab.world.fleet().set_host_keys(&lab.account, vec![sample_public_key("ssh-ed25519", "somebody else's")]);
    let error = lab.try_grant(&lab.request(bob()), 1).unwrap().unwrap_err();
    assert!(matches!(&error, GrantError::Connect { .. }) && !error.is_passing(), "{error}");
    assert_eq!(lab.file(), foreign());
}

#[test]
fn seen_gone_an_unreachable_host_keeps_its_grant_on_the_list_until_it_comes_back() {
    let lab = Lab::new();
    let id = lab.grant(&lab.request(bob()), 1).record.id;
    lab.world.fleet().switch_off(&lab.account);
    assert!(matches!(lab.revoke(id), Err(GrantError::Connect { .. })));
    let record = lab.records()[0].clone();
    assert_eq!(record.status, GrantStatus::Ending);
    assert!(record.is_owed(lab.now()) && record.reason.unwrap().contains("cannot be reached"));
    // Only after its end, and on somebody's word, is it forgotten unseen.
    let grants = lab.grants();
    assert!(matches!(block_on(grants.forget(id)), Err(GrantError::TooEarly { .. })));
    lab.world.fleet().switch_on(&lab.account);
    assert_eq!(lab.sweep(), [id]);
    assert_eq!((lab.file(), lab.records()), (foreign(), vec![]));
}

#[test]
fn a_grant_on_a_host_that_is_gone_for_good_is_forgotten_after_its_end() {
    let lab = Lab::new();
    let id = lab.grant(&lab.request(bob()), 1).record.id;
    lab.world.fleet().switch_off(&lab.account);
    lab.advance(HOUR + Duration::from_secs(1));
    block_on(lab.grants().forget(id)).unwrap();
    assert!(lab.records().is_empty());
}

#[test]
fn holds_grant_recorded_where_nobody_knows_whether_the_line_came() {
    for fault in [Fault::LostBefore, Fault::LostAfter] {
        let lab = Lab::new();
        lab.try_grant(&lab.request(bob()), 1).unwrap().unwrap();
        let rename = lab.world.faults().log().iter().find(|call| call.kind == CallKind::Rename).unwrap().number;
        let lab = Lab::new();
        lab.world.faults().fail_at(rename, fault);
        for later in 1..4 {
            lab.world.faults().fail_at(rename + later, Fault::Unreachable);
        }
        let error = lab.try_grant(&lab.request(bob()), 1).unwrap().unwrap_err();
        assert!(matches!(error, GrantError::InDoubt { .. }) && error.is_passing(), "{error}");
        assert_eq!(lab.lets_in(&bob()), fault == Fault::LostAfter);
        assert_eq!(lab.records()[0].status, GrantStatus::Granting);
        lab.restart().revoke(lab.records()[0].id).unwrap();
        assert_eq!((lab.file(), lab.records()), (foreign(), vec![]));
    }
}

#[test]
fn the_key_that_a_rotation_has_left_on_the_host_will_do() {
    let lab = Lab::new();
    let current = sample_identity(&sample_public_key("ssh-ed25519", "current"));
    let (grants, former) = (lab.grants(), master());
    let request = lab.request(bob());
    let granted = lab.world.run(async { grants.grant(&request, &[&current, &former], &mut rng(1)).await }).unwrap().unwrap();
    assert_eq!(granted.accepted, Some(true));
}

#[test]
fn all_grants_of_a_host_are_ended_when_it_is_given_up() {
    let lab = Lab::new();
    lab.grant(&lab.request(bob()), 1);
    lab.grant(&lab.request(carol()), 2);
    lab.change_host(|host| host.removing = true);
    let grants = lab.grants();
    let ended = lab.world.run(async { grants.end_all(&[&master()], &mut rng(3), |_| true).await.unwrap() }).unwrap();
    assert_eq!(ended.iter().filter(|one| one.result.is_ok()).count(), 2);
    assert_eq!((lab.file(), lab.records()), (foreign(), vec![]));
}

#[test]
fn all_that_happens_is_on_the_audit_record() {
    let lab = Lab::new();
    lab.grant(&lab.request(bob()), 1);
    let second = lab.grant(&lab.request(bob()), 2);
    lab.revoke(second.record.id).unwrap();
    lab.advance(2 * HOUR);
    lab.sweep();
    let entries = lab.world.memory().entries();
    let audit = entries.iter().filter(|entry| entry.key.as_str().starts_with("audit/"));
    let events: Vec<_> = audit.map(|entry| Stored::<AuditEntry>::decode(entry).unwrap().body.event).collect();
    let what: Vec<_> = events.iter().map(|event| event.what.as_str()).collect();
    assert_eq!(what, ["grant.given", "grant.given", "grant.revoked", "grant.ended"]);
    assert!(events.iter().all(|event| event.details["key"] == bob().fingerprint().to_string()));
}

/// A zone of RFC 8536 that is nothing but its footer, a `TZ` string of POSIX.
fn zone_file(footer: &str) -> Vec<u8> {
    let part = [&b"TZif2"[..], &[0; 15 + 16], &[0, 0, 0, 1, 0, 0, 0, 1], &[0; 7]].concat();
    let (head, body) = part.split_at(44);
    [head, body, head, body, format!("\n{footer}\n").as_bytes()].concat()
}
