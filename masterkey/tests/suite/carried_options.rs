//! What stands in front of our lines is carried over to the new key's, line by line.

use crate::support::{FOREIGN, Lab, Watch, rng, taking_over, watched};
use toehold_core::testing::{CallKind, Moment};
use toehold_core::{Clock as _, PublicKey};
use toehold_masterkey::{End, NoObserver};

/// The options and the operator's words of every line with the key, in the file's order.
fn lines(file: &[u8], key: &PublicKey) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(file).into_owned();
    let of_key = text.lines().filter_map(|line| line.split_once(&key.to_string()));
    let words = |comment: &str| comment.split(' ').filter(|word| !word.starts_with("toehold-")).collect::<Vec<_>>().join(" ");
    of_key.map(|(options, comment)| (options.trim().to_owned(), words(comment).trim().to_owned())).collect()
}

/// A host with several lines of the master key: the first is good from another place alone, one is there twice, one has an end.
fn lab() -> (Lab, Vec<(String, String)>) {
    let lab = Lab::empty();
    let kept = [("from=\"192.0.2.99\"", "a"), ("no-pty", "b"), ("restrict,from=\"192.0.2.98\"", "c d")];
    let text: String = kept.iter().map(|(options, comment)| format!("{options} {} {comment}\n", lab.first)).collect();
    let besides = format!("no-pty {0} again\nexpiry-time=\"20991201000000Z\" {0} ends\n", lab.first);
    let lab = lab.with_file("deploy@web1.example.net", &[FOREIGN, text.as_bytes(), besides.as_bytes()].concat());
    (lab, kept.map(|(options, comment)| (options.to_owned(), comment.to_owned())).to_vec())
}

#[test]
fn r9_every_copy_keeps_its_own_options() {
    let (lab, kept) = lab();
    let mut watch = Watch::new(&lab);
    let rotator = lab.rotator();
    let outcome = watched(&lab.world, &mut watch, rotator.rotate(lab.request(), &mut rng(1), &NoObserver)).unwrap().unwrap();
    assert_eq!(outcome.end, End::Done, "{:?}", outcome.reason);
    assert_eq!(lines(&lab.file(&lab.accounts[0]), &outcome.rotation.new), kept);
    lab.assert_settled_on(&outcome.rotation.new, "several copies");
}

#[test]
fn r9_also_on_the_way_back_from_a_host_that_has_lost_the_old_lines() {
    let last = {
        let (lab, _) = lab();
        lab.rotate_well();
        let log = lab.world.faults().log();
        log.into_iter().rfind(|call| call.kind == CallKind::Rename).unwrap().number
    };
    // Dead at the very end: the old key's lines are gone.
    let (lab, kept) = lab();
    lab.world.faults().crash_at(last, Moment::After);
    assert!(lab.world.run(lab.rotator().rotate(lab.request(), &mut rng(1), &NoObserver)).is_none());
    assert!(!lab.holds(&lab.accounts[0], &lab.first), "{:?}", lab.world.faults().log());
    let next = lab.restart();
    let rotator = next.rotator();
    let outcome = next.world.run(rotator.roll_back(taking_over(), &mut rng(3), &NoObserver)).unwrap().unwrap();
    assert_eq!(outcome.end, End::RolledBack, "{:?}", outcome.reason);
    assert_eq!(lines(&lab.file(&lab.accounts[0]), &lab.first), kept);
    lab.assert_settled_on(&lab.first, "back with several copies");
}

/// A line that somebody has put an end to stays ended: in the grace, after a rollback from it, and after one that comes when the
/// grace is over.
#[test]
fn r9_an_earlier_end_of_the_old_keys_line_stays() {
    for (ended, late) in [("20200101000000Z", 0), ("20200101000000Z", 3601), ("later", 0)] {
        let mut lab = Lab::empty();
        lab.pace.wait_for_grace = false;
        let earlier = lab.world.clock().now().saturating_add(std::time::Duration::from_secs(600));
        let ended = if ended == "later" { toehold_keygen::ExpiryTime::utc(earlier).to_string() } else { ended.to_owned() };
        let text = format!("restrict {0} a\nexpiry-time=\"{ended}\" {0} b\n", lab.first);
        let lab = lab.with_file("deploy@web1.example.net", &[FOREIGN, text.as_bytes()].concat());
        let host = lab.accounts[0].clone();
        let as_it_was = lines(&lab.file(&host), &lab.first);
        let mut request = lab.request();
        request.policy.grace = 3600;
        let mut watch = Watch::new(&lab);
        let rotator = lab.rotator();
        let outcome = watched(&lab.world, &mut watch, rotator.rotate(request, &mut rng(1), &NoObserver)).unwrap().unwrap();
        assert_eq!(outcome.end, End::Grace, "{:?}", outcome.reason);
        let softened = lines(&lab.file(&host), &lab.first);
        assert!(softened[0].0.starts_with("restrict,expiry-time="), "{softened:?}");
        assert_eq!(softened[1], as_it_was[1], "in the grace");
        lab.advance(late);
        let next = lab.restart();
        let rotator = next.rotator();
        let back = watched(&next.world, &mut watch, rotator.roll_back(taking_over(), &mut rng(3), &NoObserver)).unwrap().unwrap();
        assert_eq!(back.end, End::RolledBack, "{:?}", back.reason);
        assert_eq!(lines(&lab.file(&host), &lab.first), as_it_was, "{ended}, rolled back {late} s later");
    }
}
