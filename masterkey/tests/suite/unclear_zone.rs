//! A host whose time zone cannot be told is one without expiry for that visit, and no longer.

use crate::support::{Lab, rng, stepped};
use toehold_core::testing::ExpiryTime;
use toehold_masterkey::{End, NoObserver};

/// A zone of RFC 8536 that is nothing but its footer: UTC.
fn utc() -> Vec<u8> {
    let mut header = b"TZif2".to_vec();
    header.extend([0; 15 + 16]);
    header.extend([0, 0, 0, 1, 0, 0, 0, 1]);
    let body = [0; 7];
    [header.clone(), body.to_vec(), header, body.to_vec(), b"\nUTC0\n".to_vec()].concat()
}

/// Rotates, and says whether a line with an end was ever there.
fn saw_an_end(lab: &Lab, number: u8) -> bool {
    let mut request = lab.request();
    request.policy.grace = 60;
    let (rotator, mut seen) = (lab.rotator(), false);
    let ended = stepped(&lab.world, rotator.rotate(request, &mut rng(number), &NoObserver), |_| {
        seen |= String::from_utf8_lossy(&lab.file(&lab.accounts[0])).contains("expiry-time");
    });
    let ended = ended.unwrap().unwrap();
    assert_eq!(ended.end, End::Done, "{:?}", ended.reason);
    seen
}

#[test]
fn r12_a_time_zone_that_could_not_be_told_once_is_asked_for_again() {
    let lab = Lab::new(1);
    let account = &lab.accounts[0];
    lab.world.fleet().configure(account, |settings| {
        settings.expiry_time = ExpiryTime::LocalOnly;
        settings.software = Some("OpenSSH_8.9".into());
    });
    assert!(!saw_an_end(&lab, 1));
    assert!(!lab.host(account).without_expiry, "a host without expiry for ever");
    lab.world.fleet().write_file(account, "/etc/localtime", utc(), 0o644);
    assert!(saw_an_end(&lab.restart(), 2), "its time zone is known by now");
}
