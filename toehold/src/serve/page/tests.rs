//! What the page shows, and what it lets nobody do.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use toehold_core::testing::sample_public_key;

use super::super::snapshot::{Audited, MasterKey, Pod};
use super::*;

const EVIL: &str = "<script>alert(1)</script>\"'&\u{202e}";
const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn host(number: usize) -> Host {
    Host {
        route: format!("admin@host{number:05}.example.net"),
        label: None,
        tags: std::iter::empty().collect(),
        key: None,
        phase: None,
        reason: None,
        is_owed: false,
        since: NOW,
    }
}

fn shown_with(snapshot: Snapshot, tasks: &[TaskState], query: Option<&str>) -> String {
    let taken = Taken { snapshot: Arc::new(snapshot), at: Some(NOW), failed: Some(EVIL.to_owned()), version: 1 };
    let reasons = [EVIL.to_owned()];
    let view = View {
        taken: &taken,
        tasks,
        reasons: &reasons,
        connected: Some(3),
        cluster: None,
        pages: Pages::of(query),
        now: NOW,
        version: "1.2",
    };
    page(&view).into_string()
}

fn record<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A snapshot in which every word that anybody can choose is a script.
fn evil() -> Snapshot {
    let evil = || EVIL.to_owned();
    let key = sample_public_key("ssh-ed25519", "one");
    let tags = || [(evil(), evil())].into();
    let session = json!({
        "id": "0123456789abcdef0123456789abcdef", "account": "a@b", "label": EVIL, "keys": [], "status": "orphaned",
        "created_at": NOW, "expires_at": NOW, "temporary_key": key, "host_key_check": "ask", "reason": EVIL,
    });
    let agent = json!({
        "state": "joined", "since": NOW, "token": "0123456789ab", "token_expires_at": NOW, "role": "agent", "labels": { EVIL: EVIL },
        "sealed_keyring": "sealed",
    });
    let grant = json!({
        "id": "0123456789abcdef0123456789abcdef", "account": "a@b", "public_key": key, "comment": EVIL, "created_at": NOW,
        "expires_at": NOW, "status": "live", "attempt": 1, "run": "r", "reason": EVIL,
    });
    Snapshot {
        hosts: vec![Host { route: evil(), label: Some(evil()), tags: tags(), reason: Some(evil()), is_owed: true, ..host(1) }],
        keys: vec![MasterKey { public_key: key, made_at: NOW, generation: 1, is_current: true }],
        generation: Some(1),
        rotation: Some(OpenRotation { number: 1, phase: evil(), operator: evil(), seen_at: NOW, reason: Some(evil()) }),
        renewal: Some((NOW, Some(evil()))),
        sessions: vec![record(session)],
        closed_sessions: 1,
        grants: vec![record(grant)],
        agents: vec![(evil(), record(agent))],
        pods: vec![Pod { name: evil(), principal: evil(), user: evil(), address: evil(), since: NOW }],
        audit: vec![Audited { at: NOW, what: evil(), subject: evil(), details: tags(), writer: evil() }],
        faults: vec![evil()],
    }
}

#[test]
fn strangers_words_are_words_and_never_markup() {
    let task = TaskState {
        name: "task",
        condition: Condition::Failing { reason: EVIL.to_owned() },
        since: NOW,
        note: None,
        ran_at: None,
        turns: 0,
        failures: 1,
    };
    let html = shown_with(evil(), &[task], None);
    // Our own script, and none besides.
    assert_eq!(html.matches("<script").count(), 1, "{html}");
    assert!(!html.contains("alert(1)</script>") && !html.contains('\u{202e}'));
    // 26 places, each with the whole text in it.
    assert!(html.matches("&lt;script&gt;alert(1)&lt;/script&gt;&quot;").count() >= 26, "{html}");
    assert!(!html.contains("sealed"));
}

#[test]
fn a_fleet_of_ten_thousand_is_shown_page_by_page() {
    let fleet = || Snapshot { hosts: (0..10_000).map(host).collect(), ..Snapshot::default() };
    let first = shown_with(fleet(), &[], None);
    assert!(first.contains("host00000.") && first.contains("host00199.") && !first.contains("host00200."));
    assert!(first.contains("1 to 200 of 10000") && first.contains("href=\"/?hosts=2#hosts\""), "{first}");
    assert!(first.len() < 300_000, "{}", first.len());
    let last = shown_with(fleet(), &[], Some("hosts=50&agents=2"));
    assert!(last.contains("host09999.") && last.contains("9801 to 10000 of 10000"));
    assert!(last.contains("href=\"/?hosts=49&amp;agents=2#hosts\"") && !last.contains("hosts=51"));
    // Past the end is the end, and nonsense is the beginning.
    assert!(shown_with(fleet(), &[], Some("hosts=999")).contains("host09999."));
    assert!(shown_with(fleet(), &[], Some("hosts=-1&hosts=x&=&hosts")).contains("host00000."));
}

#[test]
fn the_policy_names_the_script_and_the_style_that_are_on_the_page() {
    let html = shown_with(Snapshot::default(), &[], None);
    let policy = &*CONTENT_SECURITY_POLICY;
    for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
        let inside = html.split_once(&format!("<{tag}>")).unwrap().1.split_once(&format!("</{tag}>")).unwrap().0;
        let hash = Base64::encode_string(&Sha256::digest(inside));
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}';")), "{policy}");
    }
    assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"));
    assert!(!policy.contains("unsafe"));
    // Nothing of anybody else's, and nothing inline that the policy would have to let through.
    for foreign in ["http://", "https://", "style=", "onload", "onclick"] {
        assert!(!html.replace(SCRIPT, "").contains(foreign), "{foreign}");
    }
}

#[test]
fn every_table_says_what_its_columns_are() {
    let html = shown_with(evil(), &[], None);
    let tables = html.matches("<table").count();
    assert_eq!(tables, html.matches("<thead").count());
    assert!(tables >= 7, "{tables}");
    assert_eq!(html.matches("<td").count(), html.matches("data-of=").count());
    assert!(html.contains("lang=\"en\"") && html.contains("name=\"viewport\""));
}
