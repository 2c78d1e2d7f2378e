//! That the jobs are done.

use toehold::adapters::local_host::Fault;

use crate::serve_support::Serve;
use crate::support::{Inside, Toehold, Waiting, eventually, store};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_leads_on_is_led_to_its_end_once_its_key_has_ended() {
    let toehold = Toehold::new();
    let host = Inside::start().await;
    let waiting = Waiting::start(&toehold, &host, &[]);
    let session = waiting.session.clone();
    waiting.kill();
    let serve = Serve::start(&toehold, &["--no-gateway", "--sweep-every", "1s"]);
    serve.task_is("sessions", "running");
    // Its key is good yet, and somebody may still want it.
    assert_eq!(toehold.sessions(false).len(), 1);
    eventually("the page has it", || {
        let shown = serve.section("sessions");
        shown.contains(&format!("<code>{session}</code>")) && shown.contains(&host.account()) && shown.contains("active")
    });
    store::change(&toehold, &format!("session/{session}"), |record| record["expires_at"] = "2026-01-01T00:00:00Z".into());
    eventually("it is led to its end", || toehold.sessions(false).is_empty());
    eventually("the page has it no more", || serve.get("/").body.contains("No session is open."));
    host.nothing_is_lost(&toehold);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_has_ended_is_swept_and_an_owed_host_is_settled() {
    let toehold = Toehold::new();
    let host = Inside::start().await;
    host.add(&toehold, &[]).ends(0);
    let other = Inside::start().await;
    other.add(&toehold, &[]).ends(0);
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), crate::support::key("ed25519").public_key.to_string()).unwrap();
    let (account, path) = (host.account(), key.path().to_str().unwrap().to_owned());
    toehold.run(["grant", &account, "--key", &path, "--for", "1h", "--no-expiry"]).ends(0);
    let grant = store::keys(&toehold).into_iter().find(|key| key.starts_with("grant/")).unwrap();
    store::change(&toehold, &grant, |record| record["expires_at"] = "2026-01-01T00:00:00Z".into());
    other.fault(Fault::HangAtGreeting);
    let quick = ["--connect-timeout", "2s", "--login-timeout", "3s"];
    let rotate = ["key", "rotate", "--on-unreachable", "defer", "--grace", "0s", "--timeout", "5s"];
    toehold.run(rotate.into_iter().chain(quick)).ends(3);
    let looking = Serve::start(&toehold, &["--no-gateway", "--no-hosts"]);
    eventually("the page has the owed host", || {
        let shown = looking.section("owed");
        shown.contains(&other.account()) && !shown.contains(&account)
    });
    assert!(looking.section("grants").contains(&account));
    looking.stop();
    other.heal();
    let serve = Serve::start(&toehold, &["--no-gateway", "--sweep-every", "1s", "--settle-every", "1m"]);
    eventually("the grant is swept", || !store::keys(&toehold).contains(&grant));
    eventually("the host is settled", || toehold.run(["key", "status"]).code == 0);
    eventually("the page has it", || serve.get("/").body.contains("Every host was led to where it should be."));
    for host in [&host, &other] {
        has_the_current_key_alone(&toehold, host);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_it_renews_the_master_key() {
    let toehold = Toehold::new();
    let host = Inside::start().await;
    host.add(&toehold, &[]).ends(0);
    let before = toehold.master_key();
    let serve = Serve::start(&toehold, &["--no-gateway", "--renew-every", "1m", "--renew-grace", "0s"]);
    serve.task_is("renewal", "running");
    eventually("there is a schedule", || store::keys(&toehold).iter().any(|key| key.starts_with("renewal/")));
    assert_eq!(toehold.master_key(), before);
    serve.stop();
    store::change(&toehold, "renewal/master-key", |record| record["due_at"] = "2026-01-01T00:00:00Z".into());
    let serve = Serve::start(&toehold, &["--no-gateway", "--renew-every", "1m", "--renew-grace", "0s"]);
    eventually("it is renewed", || toehold.master_key() != before);
    serve.task_is("renewal", "running");
    eventually("no rotation is open", || toehold.run(["--json", "key", "status"]).json()["rotation"].is_null());
    assert_eq!(serve.stop().code, 0);
    has_the_current_key_alone(&toehold, &host);
}

/// Of ours there is one line on the host, and the host is as it should be.
#[track_caller]
fn has_the_current_key_alone(toehold: &Toehold, host: &Inside) {
    let ours = host.ours().trim().to_owned();
    assert!(ours.lines().count() == 1 && ours.starts_with(&toehold.master_key()), "{ours}");
    toehold.run(["host", "check", &host.account()]).ends(0);
}
