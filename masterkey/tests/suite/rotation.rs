//! A rotation of a whole fleet, its ways on and back, and what it leaves.

use crate::support;
use crate::support::Lab;
use toehold_core::testing::CallKind;
use toehold_core::{HostPhase, RotationPhase};
use toehold_masterkey::End;

#[test]
fn a_fleet_gets_the_new_key_with_four_connections_a_host() {
    let lab = Lab::new(3);
    let outcome = lab.rotate_well();
    assert_eq!(outcome.rotation.phase, RotationPhase::Done);
    lab.assert_settled_on(&outcome.rotation.new, "done");
    assert_eq!(lab.generation(), 1);
    assert!(outcome.hosts.iter().all(|host| host.phase == HostPhase::Settled));
    let log = lab.world.faults().log();
    assert_eq!(log.iter().filter(|call| call.kind == CallKind::LogIn).count(), 12);
    // R7: nothing needs the old private half any more.
    assert_eq!(lab.keys().len(), 1);
    assert_eq!(lab.retired()[0].public_key, lab.first);
    for account in &lab.accounts {
        assert_eq!(lab.host(account).keys[0].public_key, outcome.rotation.new);
    }
}

#[test]
fn one_rotation_follows_another() {
    let lab = Lab::new(2);
    lab.rotate_well();
    let second = lab.restart();
    let outcome =
        second.world.run(second.rotator().rotate(second.request(), &mut support::rng(9), &toehold_masterkey::NoObserver));
    let outcome = outcome.unwrap().unwrap();
    assert_eq!((outcome.end, outcome.rotation.number), (End::Done, 2));
    second.assert_settled_on(&outcome.rotation.new, "done twice");
}

/// O(1) writes a host, however many there are: each one's own progress and record, and nothing that grows with the fleet besides.
#[test]
fn the_writes_to_the_store_are_as_many_a_host_in_a_large_fleet_as_in_a_small_one() {
    let of_fleet = |hosts: usize| {
        let lab = Lab::new(hosts);
        lab.rotate_well();
        let log = lab.world.faults().log();
        let puts: Vec<&str> =
            log.iter().filter(|call| call.kind == CallKind::StorePut).map(|call| call.subject.as_str()).collect();
        let of = |account: &str| puts.iter().filter(|subject| subject.ends_with(account)).count();
        let each: Vec<usize> = lab.accounts.iter().map(|account| of(&format!("/{account}"))).collect();
        assert!(each.iter().all(|count| *count == each[0]), "{each:?}");
        (each[0], puts.len() - each.iter().sum::<usize>())
    };
    let (each, besides) = of_fleet(2);
    assert!((1..=8).contains(&each), "{each} writes for each host");
    assert_eq!(of_fleet(40), (each, besides));
}
