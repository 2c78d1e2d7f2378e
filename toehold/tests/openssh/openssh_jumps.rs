//! Routes that lead through other hosts, all of them real.

use std::collections::HashMap;

use crate::support;
use crate::support::{Key, RealSshd, key};
use toehold::adapters::russh_connector::{JumpLogin, Limits, RusshConnector};
use toehold_core::{
    ConnectError, Connector, HostFiles as _, HostKeyPolicy, HostSession as _, Identity, Login, Route, SecretBytes,
};

fn copy(identity: &Identity) -> Identity {
    let Identity::PrivateKey { public_key, openssh } = identity else { panic!("another identity") };
    Identity::PrivateKey { public_key: public_key.clone(), openssh: SecretBytes::new(openssh.expose().to_vec()) }
}

/// A connector that logs in to these jump hosts, each known by the part of the route that ends there.
fn connector(jumps: &[(Route, &Key, HostKeyPolicy)]) -> RusshConnector {
    let logins: HashMap<Route, (Identity, HostKeyPolicy)> =
        jumps.iter().map(|(route, key, policy)| (route.clone(), (copy(&key.identity), policy.clone()))).collect();
    RusshConnector::new(Limits::default()).with_jump_logins(move |jump| {
        let login = logins
            .get(&jump)
            .map(|(identity, host_key)| JumpLogin { identity: copy(identity), host_key: host_key.clone() })
            .ok_or_else(|| format!("nobody knows {jump}").into());
        async move { login }
    })
}

struct World {
    outer: RealSshd,
    inner: RealSshd,
    end: RealSshd,
    jump_key: Key,
    end_key: Key,
    outer_route: Route,
    inner_route: Route,
    end_route: Route,
}

/// Two jump hosts that let their own key in, and a host behind them that lets another one in.
fn world() -> World {
    let (outer, inner, end) = (RealSshd::start(), RealSshd::start(), RealSshd::start());
    let (jump_key, end_key) = (key("ed25519"), key("ed25519"));
    outer.authorize(jump_key.line());
    inner.authorize(jump_key.line());
    end.authorize(end_key.line());
    let outer_route = outer.route();
    let inner_route = Route { account: inner.account(), jumps: vec![outer.account()] };
    let end_route = Route { account: end.account(), jumps: vec![outer.account(), inner.account()] };
    World { outer, inner, end, jump_key, end_key, outer_route, inner_route, end_route }
}

impl World {
    fn connector(&self) -> RusshConnector {
        connector(&[
            (self.outer_route.clone(), &self.jump_key, self.outer.pin()),
            (self.inner_route.clone(), &self.jump_key, self.inner.pin()),
        ])
    }

    async fn log_in(
        &self,
        connector: &RusshConnector,
        policy: &HostKeyPolicy,
    ) -> Result<<RusshConnector as Connector>::Session, ConnectError> {
        let login = Login { route: &self.end_route, identity: &self.end_key.identity, host_key: policy, query: None };
        connector.log_in(&login).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_jump_hosts_lead_to_the_third() {
    let world = world();
    let connector = world.connector();
    let mut session = world.log_in(&connector, &world.end.pin()).await.unwrap();
    assert_eq!(session.host_key(), world.end.host_key());
    let path = world.end.authorized_keys();
    let content = session.files().read(path.to_str().unwrap(), 10_000).await.unwrap();
    assert_eq!(content, world.end_key.line().as_bytes());
    assert!(world.outer.log().contains("Accepted publickey") && world.inner.log().contains("Accepted publickey"));
    session.close().await;
    for host in [&world.end, &world.inner, &world.outer] {
        host.wait_until_idle();
    }
    // Dropped in the middle of its life, nothing of it stays either.
    drop(world.log_in(&connector, &world.end.pin()).await.unwrap());
    for host in [&world.end, &world.inner, &world.outer] {
        host.wait_until_idle();
    }
}

#[tokio::test]
async fn a_question_goes_through_jump_hosts_too() {
    let world = world();
    let connector = world.connector();
    let pin = world.end.pin();
    assert!(connector.would_accept(&world.end_route, &world.end_key.public_key, &pin).await.unwrap().accepted);
    // The jump hosts take that key, the host behind them does not.
    assert!(!connector.would_accept(&world.end_route, &world.jump_key.public_key, &pin).await.unwrap().accepted);
}

/// A jump host that shows another key gets no login and no connection is asked of it.
#[tokio::test]
async fn a_changed_key_of_a_jump_host_is_refused() {
    let world = world();
    let other = RealSshd::start();
    for policy in [other.pin(), HostKeyPolicy::CallerDecides] {
        let connector = connector(&[
            (world.outer_route.clone(), &world.jump_key, world.outer.pin()),
            (world.inner_route.clone(), &world.jump_key, policy),
        ]);
        match world.log_in(&connector, &world.end.pin()).await.unwrap_err() {
            ConnectError::HostKeyRefused { route, found, .. } => {
                assert_eq!(route, world.inner_route.to_string());
                assert_eq!(found, world.inner.host_key().fingerprint().to_string());
            }
            error => panic!("{error:?}"),
        }
    }
    assert!(!world.inner.log().contains("Accepted"), "{}", world.inner.log());
    assert_eq!(world.end.log().matches("Connection from").count(), 0);
}

#[tokio::test]
async fn what_fails_on_the_way_names_where() {
    let world = world();
    // No login is known for the inner one.
    let one = connector(&[(world.outer_route.clone(), &world.jump_key, world.outer.pin())]);
    match world.log_in(&one, &world.end.pin()).await.unwrap_err() {
        ConnectError::Unreachable { route, source } => {
            assert_eq!(route, world.inner_route.to_string());
            assert!(source.to_string().contains("nobody knows"), "{source}");
        }
        error => panic!("{error:?}"),
    }
    // The outer one does not take the key.
    let wrong = key("ed25519");
    let refused = connector(&[(world.outer_route.clone(), &wrong, world.outer.pin())]);
    match world.log_in(&refused, &world.end.pin()).await.unwrap_err() {
        ConnectError::KeyRefused { route, fingerprint } => {
            assert_eq!((route, fingerprint), (world.outer_route.to_string(), wrong.public_key.fingerprint()));
        }
        error => panic!("{error:?}"),
    }
    // Nobody listens behind it.
    let nobody = Route {
        account: format!("root@127.0.0.1:{}", support::server::free_port()).parse().unwrap(),
        jumps: vec![world.outer.account()],
    };
    let error = one.would_accept(&nobody, &wrong.public_key, &HostKeyPolicy::CallerDecides).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Unreachable { route, .. } if *route == nobody.to_string()), "{error:?}");
    // A jump host that does not forward.
    world.outer.authorize(world.jump_key.line_with("restrict"));
    let behind = Route { account: world.end.account(), jumps: vec![world.outer.account()] };
    let error = one.would_accept(&behind, &world.end_key.public_key, &world.end.pin()).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Unreachable { route, .. } if *route == behind.to_string()), "{error:?}");
}

/// A fingerprint whose key type is not the host's first takes several connections, each through the jump host.
#[tokio::test]
async fn a_fingerprint_is_looked_for_behind_a_jump_host() {
    let jump = RealSshd::start();
    let end = RealSshd::builder().host_key(&["-t", "ed25519"]).host_key(&["-t", "rsa", "-b", "2048"]).start();
    let key = key("ed25519");
    jump.authorize(key.line());
    end.authorize(key.line());
    let connector = connector(&[(jump.route(), &key, jump.pin())]);
    let route = Route { account: end.account(), jumps: vec![jump.account()] };
    let policy = HostKeyPolicy::Fingerprint(end.host_keys()[1].fingerprint());
    let answer = connector.would_accept(&route, &key.public_key, &policy).await.unwrap();
    assert_eq!((answer.accepted, &answer.host_key), (true, &end.host_keys()[1]));
}
