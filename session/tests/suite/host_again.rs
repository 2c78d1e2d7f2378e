//! A host that is added again.

use crate::support;
use crate::support::{Home, Lab, Paste, colleague, master_key};
use toehold_core::testing::sample_public_key;
use toehold_core::{KeyRole, ManagedKey};
use toehold_session::{End, Evidence, HostKeyCheck, Outcome, Request};

fn again(lab: &Lab, seed: u8, request: Request) -> Outcome {
    let lab = lab.restart();
    let onboarder = lab.onboarder();
    let mut hands = lab.hands(Paste::AtOnce);
    lab.world.run(onboarder.onboard(request, &support::master(), &mut support::rng(seed), &mut hands)).unwrap().unwrap()
}

#[test]
fn it_keeps_the_names_and_keys_that_it_is_not_given_anew() {
    let lab = Lab::new(Home::Foreign);
    let mut first = lab.request();
    first.label = Some("shop".to_owned());
    first.tags = [("site", "a"), ("tier", "web")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let one = again(&lab, 1, first);
    assert_eq!(one.end, End::Completed);
    lab.advance(60);

    let other = sample_public_key("ssh-ed25519", "another colleague's");
    let mut second = Request::new(lab.account.clone(), support::master_line());
    second.keys.push(ManagedKey {
        role: KeyRole::Selected,
        public_key: other.clone(),
        options: String::new(),
        comment: String::new(),
    });
    second.tags = [("tier".to_owned(), "database".to_owned())].into();
    let two = again(&lab, 2, second);
    assert_eq!(two.end, End::Completed, "{:?}", two.reason);
    // The host is known by now.
    assert_eq!(two.record.host_key_check, HostKeyCheck::Known(lab.host_key()));
    assert_eq!(two.record.host_key.as_ref().unwrap().trust, None);

    let host = lab.host().unwrap();
    assert_eq!((host.session, host.label.as_deref()), (two.record.id, Some("shop")));
    assert_eq!(host.tags.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(), ["site=a", "tier=database"]);
    let keys: Vec<_> = host.keys.iter().map(|key| key.public_key.clone()).collect();
    assert_eq!(keys, [master_key(), other.clone(), colleague()]);
    assert_eq!(host.managed_since, one.record.closed.unwrap().at);
    for key in [master_key(), colleague(), other] {
        let lines = lab.file().split(|byte| *byte == b'\n').filter(|line| support::holds(line, &key)).count();
        assert_eq!(lines, 1);
    }
}

#[test]
fn as_it_was_foreign_bytes_what_was_there_before_is_never_undone() {
    for home in [Home::Foreign, Home::Managed, Home::Bare] {
        let lab = Lab::new(home);
        lab.onboard_well();
        let managed = lab.tree();
        // The second time the master key is refused for a while, after the lines were added.
        let again = lab.restart();
        let onboarder = again.onboarder();
        let mut request = again.request();
        request.keys.push(ManagedKey {
            role: KeyRole::Selected,
            public_key: sample_public_key("ssh-ed25519", "new"),
            options: String::new(),
            comment: String::new(),
        });
        again.world.fleet().configure(&lab.account, |settings| settings.revoked.push(master_key().fingerprint()));
        let mut hands = again.hands(Paste::AtOnce);
        let outcome =
            again.world.run(onboarder.onboard(request, &support::master(), &mut support::rng(2), &mut hands)).unwrap().unwrap();
        assert_eq!(outcome.end, End::Failed, "{home:?}: {:?}", outcome.reason);
        assert_eq!(outcome.record.closed.unwrap().evidence, Evidence::SeenGone);
        assert_eq!(lab.tree(), managed, "{home:?}");
        lab.world.fleet().configure(&lab.account, |settings| settings.revoked.clear());
        assert!(lab.lets_in(&master_key()) && lab.holds(&colleague()));
    }
}

#[test]
fn a_failed_host_is_brought_in_by_the_next_try() {
    let lab = Lab::new(Home::Bare);
    lab.world.fleet().configure(&lab.account, |settings| settings.revoked.push(master_key().fingerprint()));
    assert_eq!(again(&lab, 1, lab.request()).end, End::Failed);
    assert_eq!(lab.tree(), lab.before);
    lab.world.fleet().configure(&lab.account, |settings| settings.revoked.clear());
    assert_eq!(again(&lab, 2, lab.request()).end, End::Completed);
}
