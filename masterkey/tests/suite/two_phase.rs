//! The two phases and `renew_master_key` over a file: what Geofront does, ending well where Geofront does not.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::testing::{CallKind, Crashing, Fault, ManualClock, Moment, World, block_on};
use toehold_core::{Account, Clock as _, HostKeyPolicy, PublicKey, Route};
use toehold_masterkey::two_phase::{Server, TwoPhaseRenewal};
use toehold_masterkey::{
    FileSystemMasterKeyStore, KeyAlgorithm, KeyPair, MasterKeyStore as _, MasterKeyStoreError, Means, Pace, RenewError,
    generate_key, renew_master_key,
};

const HOSTS: usize = 2;
/// Foreign lines, the last one without a line feed.
const FOREIGN: &str = "# the owner's\r\nfrom=\"*.example.net\" ssh-rsa AAAAB3NzaC1yc2E= me";

struct Lab {
    world: World,
    directory: std::rc::Rc<tempfile::TempDir>,
    old: PublicKey,
}

fn rng(seed: u8) -> ChaCha20Rng {
    ChaCha20Rng::from_seed([seed; 32])
}

fn key(seed: u8) -> KeyPair {
    generate_key(&mut rng(seed), KeyAlgorithm::Ed25519, None).unwrap()
}

fn account(number: usize) -> Account {
    format!("deploy@web{number}.example.net").parse().unwrap()
}

impl Lab {
    fn new() -> Self {
        let world = World::new();
        let old = key(1);
        for number in 0..HOSTS {
            world.fleet().add_host(&account(number));
            let line = format!("no-pty {} toehold-master\n{FOREIGN}", old.public_key());
            world.fleet().set_authorized_keys(&account(number), line.as_bytes());
        }
        let lab = Self { world, directory: std::rc::Rc::new(tempfile::tempdir().unwrap()), old: old.public_key().clone() };
        block_on(lab.store().save(&old)).unwrap();
        lab
    }

    fn restart(&self) -> Self {
        Self { world: self.world.restart(), directory: self.directory.clone(), old: self.old.clone() }
    }

    fn store(&self) -> FileSystemMasterKeyStore {
        FileSystemMasterKeyStore::new(self.directory.path().join("id_master"))
    }

    fn servers() -> Vec<Server> {
        let server = |number| Server {
            route: Route::direct(account(number)),
            host_key: HostKeyPolicy::CallerDecides,
            home: None,
            without_expiry: false,
        };
        (0..HOSTS).map(server).collect()
    }

    fn timer(&self) -> Crashing<ManualClock> {
        self.world.timer()
    }

    /// `None` where the process died.
    fn renew(&self, seed: u8) -> Option<Result<KeyPair, RenewError>> {
        let (store, timer, fleet) = (self.store(), self.timer(), self.world.fleet().clone());
        let means = Means { connector: &fleet, timer: &timer, pace: Pace { attempts: 2, ..Pace::default() } };
        let mut rng = rng(seed);
        self.world.run(renew_master_key(means, Self::servers(), &store, KeyAlgorithm::Ed25519, None, &mut rng))
    }

    fn lets_in(&self, number: usize, key: &PublicKey) -> bool {
        self.world.fleet().would_log_in(&account(number), key, self.world.clock().now())
    }

    fn stored(&self) -> PublicKey {
        block_on(self.store().load()).unwrap().public_key().clone()
    }

    /// Every host has this key alone, and everything else as it was.
    fn check_settled(&self, key: &PublicKey, when: &str) {
        assert_eq!(self.stored(), *key, "{when}");
        for number in 0..HOSTS {
            let text = String::from_utf8(self.world.fleet().authorized_keys(&account(number))).unwrap();
            let mut others: Vec<&str> = text.split('\n').filter(|line| !line.contains("toehold-master")).collect();
            others.retain(|line| !line.is_empty());
            assert_eq!(others.join("\n"), FOREIGN, "{when}: host {number}");
            assert_eq!(text.matches("ssh-ed25519").count(), 1, "{when}: host {number}: {text}");
            assert!(self.lets_in(number, key), "{when}: host {number}");
            assert!(text.contains("no-pty ssh-ed25519"), "{when}: the options were carried over: {text}");
        }
        assert!(block_on(self.store().load_unfinished()).unwrap().is_none(), "{when}");
    }

    /// The store's key opens every host.
    fn check_anchored(&self, when: &str) {
        let stored = self.stored();
        for number in 0..HOSTS {
            assert!(self.lets_in(number, &stored), "{when}: the stored key does not open host {number}");
        }
    }
}

#[test]
fn every_host_ends_with_the_new_key_alone() {
    let lab = Lab::new();
    let new = lab.renew(2).unwrap().unwrap();
    assert_ne!(*new.public_key(), lab.old);
    lab.check_settled(new.public_key(), "renewed");
    let again = lab.renew(3).unwrap().unwrap();
    lab.check_settled(again.public_key(), "renewed twice");
}

#[test]
fn anchored_a_host_that_is_down_at_the_start_leaves_no_orphan_key_anywhere() {
    let lab = Lab::new();
    lab.world.fleet().switch_off(&account(1));
    for seed in 2..7 {
        let error = lab.restart().renew(seed).unwrap().unwrap_err();
        let RenewError::NotAllowed(error) = error else { panic!("{error}") };
        assert_eq!(error.failed[0].account, account(1));
        assert!(error.left.is_empty(), "{error}");
        assert!(error.to_string().contains("cannot be reached") && error.to_string().contains("as they were"), "{error}");
    }
    lab.world.fleet().switch_on(&account(1));
    lab.check_settled(&lab.old, "rolled back");
    lab.renew(9).unwrap().unwrap();
}

#[test]
fn anchored_a_host_that_dies_between_the_phases_is_led_on_by_the_next_renewal() {
    // It goes down once the new key has logged in everywhere: at the first login after the store was written.
    let lab = Lab::new();
    let (old, new) = (key(1), key(5));
    let (fleet, timer) = (lab.world.fleet().clone(), lab.timer());
    block_on(lab.store().save_unfinished(Some((&old, &new)))).unwrap();
    let renewal = TwoPhaseRenewal::new(&fleet, &timer, Lab::servers(), &old, &new, Pace::default()).unwrap();
    let both = lab.world.run(renewal.allow_both(&mut rng(5))).unwrap().unwrap();
    for number in 0..HOSTS {
        assert!(lab.lets_in(number, old.public_key()) && lab.lets_in(number, new.public_key()));
    }
    // The old key is not retired as long as the store does not hold the new one.
    let error = lab.world.run(both.saved_in(&lab.store())).unwrap().unwrap_err();
    assert!(error.source.is_none());
    let both = *error.renewal;
    block_on(lab.store().save(&new)).unwrap();
    let saved = lab.world.run(both.saved_in(&lab.store())).unwrap().unwrap();
    lab.world.fleet().switch_off(&account(0));
    let error = lab.world.run(saved.retire_old(&mut rng(6))).unwrap().unwrap_err();
    assert_eq!(error.failed.iter().map(|failure| &failure.account).collect::<Vec<_>>(), [&account(0)]);
    assert!(!lab.lets_in(1, old.public_key()) && lab.lets_in(0, old.public_key()));

    lab.world.fleet().switch_on(&account(0));
    let finished = lab.restart().renew(7).unwrap().unwrap();
    assert_eq!(finished.public_key(), new.public_key(), "it finishes, and does not begin another one");
    lab.check_settled(new.public_key(), "finished");
}

#[test]
fn the_phases_can_be_gone_back() {
    let lab = Lab::new();
    let (old, new) = (key(1), key(5));
    let (fleet, timer) = (lab.world.fleet().clone(), lab.timer());
    let renewal = TwoPhaseRenewal::new(&fleet, &timer, Lab::servers(), &old, &new, Pace::default()).unwrap();
    let both = lab.world.run(renewal.allow_both(&mut rng(5))).unwrap().unwrap();
    lab.world.run(both.roll_back(&mut rng(6))).unwrap().unwrap();
    lab.check_settled(old.public_key(), "rolled back");
}

#[test]
fn anchored_a_host_that_refuses_the_new_key_s_type_is_not_a_success() {
    let lab = Lab::new();
    lab.world.fleet().configure(&account(1), |settings| {
        settings.refused_algorithms.push("ecdsa-sha2-nistp256".to_owned());
    });
    let (store, timer, fleet) = (lab.store(), lab.timer(), lab.world.fleet().clone());
    let means = Means { connector: &fleet, timer: &timer, pace: Pace::default() };
    let mut rng = rng(2);
    let renewing = renew_master_key(means, Lab::servers(), &store, KeyAlgorithm::EcdsaP256, None, &mut rng);
    let error = lab.world.run(renewing).unwrap().unwrap_err();
    assert!(error.to_string().contains("refuses the key"), "{error}");
    lab.check_settled(&lab.old, "rolled back");
}

#[test]
fn anchored_a_process_that_dies_at_any_call_is_followed_by_one_that_finishes() {
    let good = Lab::new();
    good.renew(2).unwrap().unwrap();
    let calls = good.world.faults().log();
    for call in &calls {
        let moments: &[_] =
            if call.kind.has_effect() { &[Moment::Before, Moment::After, Moment::Late] } else { &[Moment::Before] };
        for moment in moments {
            let when = format!("crashed {moment:?} {call}");
            let lab = Lab::new();
            lab.world.faults().crash_at(call.number, *moment);
            assert!(lab.renew(2).is_none(), "{when}");
            lab.check_anchored(&when);
            // The unproven line ends by itself, in case nobody ever comes.
            lab.world.clock().advance(Duration::from_hours(1));
            lab.check_anchored(&when);
            let new = lab.restart().renew(3).unwrap().unwrap_or_else(|error| panic!("{when}: {error}"));
            lab.world.fleet().deliver_late();
            lab.check_settled(new.public_key(), &when);
        }
    }
}

#[test]
fn anchored_whatever_fails_once_is_overcome_or_undone() {
    let good = Lab::new();
    good.renew(2).unwrap().unwrap();
    for call in good.world.faults().log() {
        for fault in call.kind.faults().iter().filter(|fault| **fault != Fault::Hang || call.kind == CallKind::Read) {
            let when = format!("{fault:?} at {call}");
            let lab = Lab::new();
            lab.world.faults().fail_at(call.number, *fault);
            let result = lab.renew(2).unwrap_or_else(|| panic!("{when}: it stalls"));
            lab.check_anchored(&when);
            match result {
                Ok(new) => lab.check_settled(new.public_key(), &when),
                Err(error) => {
                    let new = lab.restart().renew(3).unwrap().unwrap_or_else(|again| panic!("{when}: {error}, then {again}"));
                    lab.check_settled(new.public_key(), &when);
                }
            }
        }
    }
}

#[test]
fn two_renewals_at_once_are_not_possible() {
    let lab = Lab::new();
    let hold = block_on(lab.store().hold()).unwrap();
    let error = lab.renew(2).unwrap().unwrap_err();
    assert!(matches!(error, RenewError::Store(MasterKeyStoreError::Held { .. })), "{error}");
    drop(hold);
    lab.renew(2).unwrap().unwrap();
}

#[test]
fn a_key_that_somebody_else_has_saved_meanwhile_is_not_overwritten() {
    let lab = Lab::new();
    block_on(lab.store().save_unfinished(Some((&key(7), &key(8))))).unwrap();
    let error = lab.renew(2).unwrap().unwrap_err();
    assert!(matches!(error, RenewError::AnotherKey), "{error}");
    assert_eq!(lab.stored(), lab.old);
}
