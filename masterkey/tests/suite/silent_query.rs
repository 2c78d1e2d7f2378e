//! A connector, or a server, that does not say on the way in whether another key would be taken.

use crate::support::{Lab, XorVault, rng};
use toehold_core::testing::{CallKind, Fault, SimulatedFleet};
use toehold_core::{ConnectError, Connector, HostKeyPolicy, HostSession, KeyAnswer, Login, PublicKey, Route, StoreAudit};
use toehold_masterkey::{End, NoObserver, Outcome, Rotator};

/// Logs in, and forgets what the server said of the other key.
#[derive(Debug)]
struct Forgetful(SimulatedFleet);

struct Session(<SimulatedFleet as Connector>::Session);

impl Connector for Forgetful {
    type Session = Session;

    async fn log_in(&self, login: &Login<'_>) -> Result<Session, ConnectError> {
        self.0.log_in(login).await.map(Session)
    }

    async fn would_accept(
        &self,
        route: &Route,
        public_key: &PublicKey,
        host_key: &HostKeyPolicy,
    ) -> Result<KeyAnswer, ConnectError> {
        self.0.would_accept(route, public_key, host_key).await
    }
}

impl HostSession for Session {
    type Files = <<SimulatedFleet as Connector>::Session as HostSession>::Files;

    fn host_key(&self) -> &PublicKey {
        self.0.host_key()
    }

    fn queried(&self) -> Option<bool> {
        None
    }

    fn software(&self) -> Option<&str> {
        self.0.software()
    }

    fn files(&mut self) -> &mut Self::Files {
        self.0.files()
    }

    async fn close(self) {
        self.0.close().await;
    }
}

fn rotate(lab: &Lab) -> Outcome {
    let rotator = Rotator {
        store: lab.world.store(),
        connector: Forgetful(lab.world.fleet().clone()),
        timer: lab.world.timer(),
        audit: StoreAudit::new(lab.world.store(), "tests"),
        vault: XorVault,
        pace: lab.pace,
    };
    lab.world.run(rotator.rotate(lab.request(), &mut rng(1), &NoObserver)).expect("the rotation stalls").unwrap()
}

fn logins(lab: &Lab) -> usize {
    lab.world.faults().log().iter().filter(|call| call.kind == CallKind::LogIn).count()
}

#[test]
fn r13_a_query_without_an_answer_is_asked_on_a_connection_of_its_own() {
    let lab = Lab::new(1);
    let outcome = rotate(&lab);
    assert_eq!(outcome.end, End::Done, "{:?}", outcome.reason);
    lab.assert_settled_on(&outcome.rotation.new, "asked apart");
    assert_eq!(logins(&lab), 4);
}

#[test]
fn r13_where_that_gets_no_answer_either_the_host_is_tried_as_often_as_any_other() {
    let mut lab = Lab::new(1);
    lab.pace.attempts = 2;
    let asking = {
        let lab = Lab::new(1);
        rotate(&lab);
        lab.world.faults().log().into_iter().find(|call| call.kind == CallKind::WouldAccept).unwrap().number
    };
    // From there on the host is away, too: the query, and the login of the second try.
    for call in asking..asking + 40 {
        lab.world.faults().fail_at(call, Fault::Unreachable);
    }
    let outcome = rotate(&lab);
    assert_eq!(outcome.end, End::Stopped);
    assert_eq!(logins(&lab), 5, "logged in over and over");
    assert_eq!(lab.keys().len(), 2, "the old key's private half is gone, and nobody has seen it refused");
}
