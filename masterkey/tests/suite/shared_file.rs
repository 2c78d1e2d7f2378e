//! R9: two hosts with one home directory, of which one refuses the new key. Nothing that is done in the name of the one takes away
//! what the other relies on.

use std::sync::{Arc, Mutex};

use crate::support::{Lab, XorVault, account, rng, stepped, taking_over};
use toehold_core::testing::{Crashing, ManualClock, MemoryStore, Moment, SimulatedFleet, SimulatedSession, sample_public_key};
use toehold_core::{
    Account, ConnectError, Connector, HostKeyPolicy, HostPhase, KeyAnswer, Login, OnUnreachable, PublicKey, Route, StoreAudit,
};
use toehold_keygen::KeyAlgorithm;
use toehold_masterkey::{End, NoObserver, Outcome, Rotator, SettleOutcome};

/// What the second host does otherwise than the first.
#[derive(Clone, Debug, Default)]
struct Second {
    refuses: Arc<Mutex<Option<&'static str>>>,
    away: Arc<Mutex<bool>>,
}

/// Two servers before one home directory.
#[derive(Clone, Debug)]
struct TwoServers {
    fleet: SimulatedFleet,
    account: Account,
    second: Second,
}

impl TwoServers {
    fn refuses(&self, route: &Route, key: &PublicKey) -> bool {
        route.account == self.account && *self.second.refuses.lock().unwrap() == Some(key.algorithm())
    }
}

impl Connector for TwoServers {
    type Session = SimulatedSession;

    async fn log_in(&self, login: &Login<'_>) -> Result<SimulatedSession, ConnectError> {
        let route = login.route.to_string();
        if login.route.account == self.account && *self.second.away.lock().unwrap() {
            return Err(ConnectError::TimedOut { route, doing: "connecting", seconds: 1 });
        }
        if self.refuses(login.route, login.identity.public_key()) {
            return Err(ConnectError::KeyRefused { route, fingerprint: login.identity.public_key().fingerprint() });
        }
        self.fleet.log_in(login).await
    }

    async fn would_accept(&self, route: &Route, key: &PublicKey, policy: &HostKeyPolicy) -> Result<KeyAnswer, ConnectError> {
        let answer = self.fleet.would_accept(route, key, policy).await?;
        Ok(KeyAnswer { accepted: answer.accepted && !self.refuses(route, key), ..answer })
    }
}

type SharedRotator =
    Rotator<Crashing<MemoryStore>, TwoServers, Crashing<ManualClock>, StoreAudit<Crashing<MemoryStore>>, XorVault>;

/// Two names for one file, each with a host key of its own, and a host of its own besides.
struct Shared {
    lab: Lab,
    first: Account,
    second: Account,
    how: Second,
}

impl Shared {
    /// The names decide which of them comes first.
    fn new(first: &str, second: &str) -> Self {
        Self::of(Lab::empty().with_host("deploy@other.example.net"), first, second)
    }

    fn of(lab: Lab, first: &str, second: &str) -> Self {
        let lab = lab.with_host(first);
        let (first, second) = (account(first), account(second));
        let fleet = lab.world.fleet();
        fleet.add_host(&second);
        fleet.lead(&second.clone().into(), &first);
        let own = sample_public_key("ecdsa-sha2-nistp256", "the second server's host key");
        fleet.set_host_keys(&second, vec![own.clone()]);
        fleet.set_host_keys(&first, [fleet.host_keys(&first), vec![own]].concat());
        lab.record(&second);
        Self { lab, first, second, how: Second::default() }
    }

    fn both() -> [Self; 2] {
        [Self::new("deploy@a.example.net", "deploy@b.example.net"), Self::new("deploy@b.example.net", "deploy@a.example.net")]
    }

    fn refuse(&self, algorithm: Option<&'static str>) {
        *self.how.refuses.lock().unwrap() = algorithm;
    }

    fn away(&self, away: bool) {
        *self.how.away.lock().unwrap() = away;
    }

    fn rotator(&self, lab: &Lab) -> SharedRotator {
        let connector = TwoServers { fleet: lab.world.fleet().clone(), account: self.second.clone(), second: self.how.clone() };
        Rotator {
            store: lab.world.store(),
            connector,
            timer: lab.world.timer(),
            audit: StoreAudit::new(lab.world.store(), "tests"),
            vault: XorVault,
            pace: lab.pace,
        }
    }

    /// The second server lets us in, by a line without an end, with a key that is held and that it does not refuse.
    #[track_caller]
    fn is_open(&self, when: &str) {
        let text = String::from_utf8_lossy(&self.lab.file(&self.first)).into_owned();
        let refuses = *self.how.refuses.lock().unwrap();
        let good =
            |key: &PublicKey| Some(key.algorithm()) != refuses && text.lines().any(|line| line.starts_with(&key.to_string()));
        assert!(self.lab.keys().iter().any(|held| good(&held.public_key)), "{when}: the second host is locked out:\n{text}");
    }

    /// What a run comes to, with a look at the file after every call.
    fn watched<T>(&self, lab: &Lab, when: &str, process: impl Future<Output = T>) -> Option<T> {
        stepped(&lab.world, process, |_| self.is_open(when))
    }

    fn rotate(&self, algorithm: KeyAlgorithm, choice: OnUnreachable, seed: u8) -> Outcome {
        let lab = self.lab.restart();
        let mut request = lab.request();
        (request.algorithm, request.policy.on_unreachable) = (algorithm, choice);
        let (rotator, mut rng) = (self.rotator(&lab), rng(seed));
        self.watched(&lab, "rotating", rotator.rotate(request, &mut rng, &NoObserver)).expect("it stalls").unwrap()
    }

    fn settle(&self) -> SettleOutcome {
        let lab = self.lab.restart();
        let (rotator, mut rng) = (self.rotator(&lab), rng(4));
        self.watched(&lab, "settling", rotator.settle(&mut rng, &NoObserver)).expect("it stalls").unwrap()
    }

    /// The names that share the file are owed, and nobody else is.
    #[track_caller]
    fn both_are_owed(&self, outcome: &Outcome, when: &str) {
        let mut expected = [&self.first, &self.second];
        expected.sort();
        assert_eq!(outcome.owed().map(|host| &host.account).collect::<Vec<_>>(), expected, "{when}: {:?}", outcome.hosts);
    }

    /// Once the second host takes the new key, all is well.
    fn heals(&self, key: &PublicKey) {
        self.refuse(None);
        self.away(false);
        let healed = self.settle();
        assert!(healed.hosts.iter().all(|host| host.phase == HostPhase::Settled), "{:?}", healed.hosts);
        self.lab.assert_settled_on(key, "healed");
        assert_eq!(self.lab.keys().len(), 1);
    }
}

#[test]
fn r9_two_hosts_with_one_file_are_led_on_together_or_not_at_all() {
    for (order, concurrency) in [(0, 1), (0, 3), (1, 1), (1, 3)] {
        let mut shared = Shared::both().into_iter().nth(order).unwrap();
        shared.lab.pace.concurrency = concurrency;
        let when = format!("order {order}, {concurrency} at once");
        shared.refuse(Some("ecdsa-sha2-nistp256"));
        // All or nothing: nothing.
        let outcome = shared.rotate(KeyAlgorithm::EcdsaP256, OnUnreachable::Abort, 1);
        assert_eq!((outcome.end, outcome.owed().count()), (End::RolledBack, 0), "{when}: {:?}", outcome.hosts);
        shared.lab.assert_settled_on(&shared.lab.first, &when);
        // The rest goes on, and neither of them is taken along.
        let outcome = shared.rotate(KeyAlgorithm::EcdsaP256, OnUnreachable::Defer, 2);
        assert_eq!(outcome.end, End::Done, "{when}: {:?}", outcome.reason);
        shared.both_are_owed(&outcome, &when);
        assert!(shared.lab.holds(&shared.first, &outcome.rotation.new), "{when}: what the first has proven is taken away");
        // Nor does a settling do so as long as one of them refuses the key.
        let settled = shared.settle();
        assert!(settled.hosts.iter().all(|host| host.phase == HostPhase::Quarantined), "{when}: {:?}", settled.hosts);
        assert!(settled.dropped.is_empty(), "{when}");
        assert!(shared.lab.holds(&shared.first, &outcome.rotation.new), "{when}: what the first has proven is taken away");
        shared.heals(&outcome.rotation.new);
    }
}

#[test]
fn r9_a_settling_of_two_hosts_that_were_away_finds_out_that_they_have_one_file() {
    for shared in Shared::both() {
        shared.lab.world.fleet().switch_off(&shared.first);
        let outcome = shared.rotate(KeyAlgorithm::EcdsaP256, OnUnreachable::Defer, 1);
        shared.both_are_owed(&outcome, "away");
        shared.lab.world.fleet().switch_on(&shared.first);
        shared.refuse(Some("ecdsa-sha2-nistp256"));
        for _ in 0..2 {
            let settled = shared.settle();
            assert!(settled.hosts.iter().all(|host| host.phase == HostPhase::Quarantined), "{:?}", settled.hosts);
        }
        shared.heals(&outcome.rotation.new);
    }
}

#[test]
fn r9_what_one_rotation_has_found_out_the_next_one_knows_of_a_host_that_is_away() {
    for mut shared in Shared::both() {
        assert_eq!(shared.rotate(KeyAlgorithm::Ed25519, OnUnreachable::Abort, 1).end, End::Done);
        shared.lab.pace.attempts = 1;
        shared.away(true);
        shared.refuse(Some("ecdsa-sha2-nistp256"));
        for seed in [2, 3] {
            let outcome = shared.rotate(KeyAlgorithm::EcdsaP256, OnUnreachable::Defer, seed);
            shared.both_are_owed(&outcome, "the second is away");
        }
        shared.lab.pace.attempts = 3;
        shared.heals(&shared.lab.current());
    }
}

#[test]
fn r9_whoever_takes_a_rotation_up_knows_who_shares_a_file() {
    let begun = |shared: &Shared| {
        let lab = shared.lab.restart();
        let mut request = lab.request();
        (request.algorithm, request.policy.on_unreachable) = (KeyAlgorithm::EcdsaP256, OnUnreachable::Defer);
        (lab, request)
    };
    let calls = {
        let shared = Shared::both().into_iter().next().unwrap();
        shared.refuse(Some("ecdsa-sha2-nistp256"));
        let (lab, request) = begun(&shared);
        lab.world.run(shared.rotator(&lab).rotate(request, &mut rng(1), &NoObserver)).unwrap().unwrap();
        lab.world.faults().calls()
    };
    for (order, back) in [(0, false), (1, false), (0, true)] {
        for call in (10..calls).step_by(13) {
            let when = format!("died after call {call}, order {order}, back {back}");
            let shared = Shared::both().into_iter().nth(order).unwrap();
            shared.refuse(Some("ecdsa-sha2-nistp256"));
            let (lab, request) = begun(&shared);
            lab.world.faults().crash_at(call, Moment::After);
            let (rotator, mut one) = (shared.rotator(&lab), rng(1));
            if shared.watched(&lab, &when, rotator.rotate(request, &mut one, &NoObserver)).is_some() {
                continue;
            }
            let lab = shared.lab.restart();
            if lab.rotation().is_none_or(|rotation| rotation.phase.is_closed()) {
                continue;
            }
            let (rotator, mut two) = (shared.rotator(&lab), rng(2));
            let outcome = if back {
                shared.watched(&lab, &when, rotator.roll_back(taking_over(), &mut two, &NoObserver))
            } else {
                shared.watched(&lab, &when, rotator.resume(taking_over(), &mut two, &NoObserver))
            };
            let outcome = outcome.unwrap_or_else(|| panic!("{when}: it stalls")).unwrap();
            if back {
                assert_eq!((outcome.end, outcome.owed().count()), (End::RolledBack, 0), "{when}: {:?}", outcome.hosts);
                shared.lab.assert_settled_on(&shared.lab.first, &when);
            } else {
                assert_eq!(outcome.end, End::Done, "{when}: {:?}", outcome.reason);
                shared.both_are_owed(&outcome, &when);
                shared.heals(&outcome.rotation.new);
            }
        }
    }
}

#[test]
fn r4_a_file_that_one_of_its_hosts_cannot_go_on_with_proves_no_key() {
    for (first, second) in [("deploy@a", "deploy@b"), ("deploy@b", "deploy@a")] {
        let shared = Shared::of(Lab::empty(), first, second);
        shared.refuse(Some("ecdsa-sha2-nistp256"));
        let outcome = shared.rotate(KeyAlgorithm::EcdsaP256, OnUnreachable::Defer, 1);
        assert_eq!(outcome.end, End::RolledBack, "{first}: {:?}", outcome.reason);
        assert!(outcome.reason.as_ref().unwrap().contains("no host has proven the key"), "{:?}", outcome.reason);
        shared.lab.assert_settled_on(&shared.lab.first, first);
    }
}

/// It was away until the current key had changed, and says then which file it has.
#[test]
fn r9_a_host_that_comes_back_past_the_barrier_is_not_locked_out_by_the_one_with_its_file() {
    let shared = Shared::new("deploy@b.example.net", "deploy@a.example.net");
    let mut lab = shared.lab.restart();
    (lab.pace.attempts, lab.pace.concurrency) = (1, 1);
    shared.away(true);
    let mut request = lab.request();
    (request.algorithm, request.policy.on_unreachable) = (KeyAlgorithm::EcdsaP256, OnUnreachable::Defer);
    let (rotator, mut one) = (shared.rotator(&lab), rng(1));
    let mut crashed = false;
    let died = shared.watched(&lab, "rotating", async {
        let mut rotation = std::pin::pin!(rotator.rotate(request, &mut one, &NoObserver));
        std::future::poll_fn(|context| {
            // It dies once the current key has changed.
            crashed |= lab.current() != lab.first;
            if crashed { std::task::Poll::Ready(None) } else { rotation.as_mut().poll(context).map(Some) }
        })
        .await
    });
    assert!(crashed && matches!(died, Some(None)), "it has come to an end");
    shared.away(false);
    shared.refuse(Some("ecdsa-sha2-nistp256"));
    let lab = Lab { pace: lab.pace, ..shared.lab.restart() };
    let (rotator, mut two) = (shared.rotator(&lab), rng(2));
    let outcome = shared.watched(&lab, "resuming", rotator.resume(taking_over(), &mut two, &NoObserver)).unwrap().unwrap();
    assert_eq!(outcome.end, End::Done, "{:?}", outcome.reason);
    shared.both_are_owed(&outcome, "resumed");
    shared.heals(&outcome.rotation.new);
}
