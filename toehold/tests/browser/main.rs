//! The status page in a real browser.
//!
//! Needs: browser.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../join_support/mod.rs"]
mod join_support;
#[path = "../serve_support/mod.rs"]
mod serve_support;
#[path = "../support/mod.rs"]
mod support;

mod chromium;

use serde_json::json;

use chromium::Browser;
use join_support::gateway::line;
use join_support::machine::{Machine, agents};
use serve_support::{Serve, add_host};
use support::{Toehold, eventually, store};

const EVIL: &str = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">";

/// A store with hosts, of which one has words for a name that no browser may run.
fn fleet() -> Toehold {
    let toehold = Toehold::new();
    let master = toehold.master_key();
    let mut database = store::open(&toehold);
    let transaction = database.transaction().unwrap();
    for (number, (name, role)) in
        [("db1", "db"), ("db2", "db"), ("web1", "web"), ("web2", "web"), ("build", EVIL)].iter().enumerate()
    {
        let account = format!("deploy@{name}.example.net");
        let record = json!({
            "v": 1, "readable_from": 1, "account": account, "keys": [{ "role": "master", "public_key": master }],
            "label": if *name == "build" { EVIL } else { name }, "tags": { "role": role, "site": "ams" },
            "session": format!("{number:032x}"), "managed_since": "2026-01-01T00:00:00Z",
        });
        store::insert(&transaction, &format!("host/{account}"), &record);
    }
    transaction.commit().unwrap();
    toehold
}

#[test]
fn without_javascript_the_page_shows_the_hosts() {
    let toehold = fleet();
    let serve = Serve::start(&toehold, &[]);
    serve.is_ready();
    let browser = Browser::start();
    browser.run_no_scripts();
    let page = format!("http://{}/", serve.http);
    browser.go_to(&page);
    let seen = browser.document();
    for host in ["deploy@db1.example.net", "deploy@web2.example.net", "deploy@build.example.net"] {
        assert!(seen.contains(host), "{host} is not in {seen}");
    }
    assert!(seen.contains("<title>Toehold</title>"));
    // It runs none, or it would say that it is live. So it stands still, and shows what is new when it is asked again.
    assert!(seen.contains("<span id=\"live\" role=\"status\"></span>"), "{seen}");
    add_host(&toehold, "deploy@new.example.net");
    let shows = || {
        browser.go_to(&page);
        browser.document().contains("deploy@new.example.net")
    };
    eventually("the new host is shown", shows);
}

/// Made by the commands themselves, and read as a browser has it.
#[test]
fn it_shows_keys_and_their_age_sessions_agents_and_the_audit_log() {
    let toehold = Toehold::new();
    let serve = Serve::start(&toehold, &[]);
    serve.is_ready();
    let line = line(&toehold, serve.gateway(), &[]);
    Machine::new().join(&line).ends(0);
    let mut waiting = toehold.spawn(["host", "invite", "root@127.0.0.1"]);
    eventually("a session is open", || toehold.sessions(false).len() == 1);
    let browser = Browser::start();
    browser.run_no_scripts();
    let agent = agents(&toehold)[0]["id"].as_str().unwrap().to_owned();
    let key = toehold.run(["--json", "key", "show"]).ends(0).json()["fingerprint"].as_str().unwrap().to_owned();
    let token = line.token.id().to_string();
    let wanted = [agent.as_str(), &key, " ago)", "root@127.0.0.1", "token.created", &token, "agent.joined"];
    let shows = || {
        browser.go_to(&format!("http://{}/", serve.http));
        let seen = browser.document();
        wanted.iter().all(|wanted| seen.contains(wanted))
    };
    eventually("all of it is shown", shows);
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}

#[test]
fn with_javascript_it_follows_the_changes_and_runs_nobody_elses() {
    let toehold = fleet();
    let serve = Serve::start(&toehold, &[]);
    serve.is_ready();
    let browser = Browser::start();
    browser.go_to(&format!("http://{}/", serve.http));
    let run = |script: &str| browser.run(script);
    eventually("it is live", || run("return document.getElementById('live').textContent") == "live");
    assert_eq!(run("return document.querySelector('#hosts').closest('section').querySelectorAll('tbody tr').length"), 5);
    assert_eq!(run("return document.title"), "Toehold");
    assert_eq!(run("return document.images.length + document.querySelectorAll('body script').length"), 1);
    // The page itself stays: what was put into it is still there after a change.
    run("window.stays = true");
    add_host(&toehold, "deploy@new.example.net");
    let shows = || run("return document.body.textContent.includes('deploy@new.example.net')") == true;
    eventually("the new host is shown", shows);
    assert_eq!(run("return window.stays"), true);
    assert_eq!(run("return document.querySelector('#hosts').closest('section').querySelectorAll('tbody tr').length"), 6);
    // The tasks, too: another one that is told to stop is gone, and this page says so.
    assert_eq!(serve.stop().code, 0);
    eventually("it says that nobody is there", || run("return document.getElementById('live').textContent") == "not connected");
    // What the policy refuses, or what fails, stands in the console.
    let complaints = browser.complaints();
    let is_ours = |line: &String| !line.contains("ERR_CONNECTION") && !line.contains("ERR_INCOMPLETE_CHUNKED_ENCODING");
    assert_eq!(complaints.into_iter().filter(is_ours).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn on_a_phone_nothing_is_wider_than_the_screen() {
    let toehold = fleet();
    let serve = Serve::start(&toehold, &[]);
    serve.is_ready();
    let browser = Browser::start();
    browser.go_to(&format!("http://{}/", serve.http));
    for width in [320, 375, 768, 1_280] {
        browser.be_wide(width);
        let excess = browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert_eq!(excess, 0, "at {width} pixels");
        // Told apart by their headings at any width: in a row, or before each cell.
        let headed = browser.run(
            "const cell = document.querySelector('#hosts').closest('section').querySelector('td');
             return getComputedStyle(cell, '::before').content !== 'none' || getComputedStyle(document.querySelector('thead')).position !== 'absolute'",
        );
        assert_eq!(headed, true, "at {width} pixels");
    }
}
