//! The status page and what is beside it, as a client sees them.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::serve_support::{Serve, add_host, ask, open};
use crate::support::{Inside, Toehold, eventually, store};

const EVIL: &str = "<script>alert('1')</script>&\"";
const ESCAPED: &str = "&lt;script&gt;alert('1')&lt;/script&gt;&amp;&quot;";

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_the_hosts_and_nobodys_markup() {
    let toehold = Toehold::new();
    let host = Inside::start().await;
    host.add(&toehold, &["--label", EVIL, "--tag", &format!("where={EVIL}")]).ends(0);
    let serve = Serve::start(&toehold, &[]);
    serve.is_ready();
    let page = serve.get("/");
    assert_eq!(page.status, 200);
    assert!(page.body.contains(&host.account()) && page.body.contains("settled"), "{}", page.body);
    assert!(page.body.contains(&format!("{ESCAPED}</td>")) && page.body.contains(&format!("where={ESCAPED}</span>")));
    assert_eq!(page.body.matches("<script").count(), 1);
    // The master key by its fingerprint, its audit entries, the tasks; nothing that is sealed.
    let status = toehold.run(["--json", "key", "status"]).ends(0).json();
    assert!(page.body.contains(status["current"].as_str().unwrap()));
    for shown in ["session.completed", "sessions", "grants", "owed", "store-gc", "gateway", "current"] {
        assert!(page.body.contains(shown), "{shown}");
    }
    let sealed = sealed_in(&toehold);
    assert!(!sealed.is_empty());
    for secret in &sealed {
        assert!(!page.body.contains(secret.as_str()));
    }
}

/// Every text in the store that is sealed.
fn sealed_in(toehold: &Toehold) -> Vec<String> {
    let database = store::open(toehold);
    let mut statement = database.prepare("SELECT value FROM entry").unwrap();
    let values = statement.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    let mut sealed = Vec::new();
    for value in values {
        let value: serde_json::Value = serde_json::from_slice(&value.unwrap()).unwrap();
        let members = value.as_object().unwrap().iter().filter(|(name, _)| name.starts_with("sealed"));
        sealed.extend(members.filter_map(|(_, text)| text.as_str()).map(str::to_owned));
    }
    sealed
}

#[test]
fn every_answer_is_strict_and_nothing_can_be_changed() {
    let toehold = Toehold::new();
    let serve = Serve::start(&toehold, &["--http-host", "ops.example.net"]);
    serve.is_ready();
    for path in ["/", "/healthz", "/readyz", "/metrics", "/nothing"] {
        let answer = serve.get(path);
        assert_eq!(answer.status, if path == "/nothing" { 404 } else { 200 }, "{path}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.headers.get(name).map(String::as_str), Some(value), "{path}: {name}");
        }
        let policy = &answer.headers["content-security-policy"];
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
        let head = serve.ask("HEAD", path, &[("host", "localhost")]);
        assert_eq!((head.status, head.body.as_str()), (answer.status, ""), "{path}");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
            let refused = serve.ask(method, path, &[("host", "localhost")]);
            assert_eq!((refused.status, refused.headers["allow"].as_str()), (405, "GET, HEAD"), "{method} {path}");
        }
    }
    for host in ["localhost", "127.0.0.1", "[::1]:80", "OPS.example.net:8080"] {
        assert_eq!(serve.ask("GET", "/", &[("host", host)]).status, 200, "{host}");
    }
    for path in ["/", "/events", "/metrics", "/healthz", "/readyz"] {
        assert_eq!(serve.ask("GET", path, &[("host", "evil.example")]).status, 421, "{path}");
        assert!(matches!(serve.ask("GET", path, &[]).status, 400 | 421), "{path}");
    }
    assert_eq!(serve.ask("GET", "http://evil.example/", &[("host", "localhost")]).status, 421);
    let other = serve.ask("GET", "/events", &[("host", "localhost"), ("sec-fetch-site", "cross-site")]);
    assert_eq!(other.status, 403);
}

#[test]
fn health_and_metrics_are_told_in_one_place() {
    let toehold = Toehold::new();
    let serve = Serve::start(&toehold, &[]);
    serve.is_ready();
    assert_eq!(serve.get("/healthz").body, "ok\n");
    assert_eq!(serve.get("/readyz").body, "ready\n");
    let metrics = serve.get("/metrics");
    assert!(metrics.headers["content-type"].starts_with("text/plain; version=0.0.4"));
    for line in [
        "toehold_serve_ready 1",
        "toehold_serve_task_running{task=\"gateway\"} 1",
        "toehold_serve_task_failing{task=\"sessions\"} 0",
        "toehold_gateway_ready 1",
    ] {
        assert!(metrics.body.lines().any(|told| told == line), "{line} in {}", metrics.body);
    }
    let names: Vec<&str> = metrics.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let mut once = names.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), names.len(), "a metric is described twice");
}

#[test]
fn ten_thousand_hosts_are_counted_and_shown_page_by_page() {
    let toehold = Toehold::new();
    let master = toehold.master_key();
    let mut database = store::open(&toehold);
    let transaction = database.transaction().unwrap();
    for number in 0..10_000 {
        let account = format!("admin@host{number:05}.example.net");
        let record = json!({
            "v": 1, "readable_from": 1, "account": account, "keys": [{ "role": "master", "public_key": master }],
            "session": format!("{number:032x}"), "managed_since": "2026-01-01T00:00:00Z",
        });
        store::insert(&transaction, &format!("host/{account}"), &record);
    }
    transaction.commit().unwrap();
    let serve = Serve::start(&toehold, &["--no-gateway", "--no-hosts"]);
    let begun = Instant::now();
    let first = serve.get("/");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(first.body.contains("1 to 200 of 10000") && first.body.contains("<b>10000</b>"));
    assert!(first.body.len() < 500_000, "{}", first.body.len());
    assert!(first.body.contains("host00199.") && !first.body.contains("host00200."));
    let second = serve.get("/?hosts=2");
    assert!(second.body.contains("host00200.") && !second.body.contains("host00199."));
}

#[test]
fn a_change_is_told_as_it_happens() {
    let toehold = Toehold::new();
    let serve = Serve::start(&toehold, &["--no-gateway", "--no-hosts"]);
    serve.is_ready();
    let mut stream = BufReader::new(open(serve.http, "GET", "/events", &[("host", "localhost")]));
    let mut next = || loop {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "it ended");
        if let Some(data) = line.strip_prefix("data: ") {
            return data.trim().to_owned();
        }
    };
    let first = next();
    add_host(&toehold, "admin@new.example.net");
    let mut told = next();
    eventually("the change is told", || {
        if serve.get("/").body.contains("admin@new.example.net") {
            return true;
        }
        told = next();
        false
    });
    assert_ne!(first, told);
}

#[test]
fn those_who_say_nothing_or_read_nothing_keep_nobody_out_for_long() {
    let toehold = Toehold::new();
    let serve = Serve::start(&toehold, &["--no-gateway", "--no-hosts"]);
    serve.is_ready();
    // More than there are places, since whoever was answered before may not have left his yet.
    let silent: Vec<TcpStream> = (0..80).map(|_| TcpStream::connect(serve.http).unwrap()).collect();
    // All places are taken, and whoever comes is turned away at once.
    eventually("it is full", || ask(serve.http, "GET", "/healthz", &[("host", "localhost")]).status == 0);
    eventually("they are sent away", || ask(serve.http, "GET", "/healthz", &[("host", "localhost")]).status == 200);
    for mut stranger in silent {
        stranger.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut rest = Vec::new();
        // Sent away, or turned away at the beginning.
        let ended = stranger.read_to_end(&mut rest);
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
    // Those who wait for changes have their share of the places.
    let streams: Vec<_> = (0..32).map(|_| hearing(&serve)).collect();
    for (line, _) in &streams {
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    }
    let (one_more, _) = hearing(&serve);
    assert!(one_more.starts_with("HTTP/1.1 503"), "{one_more}");
    assert_eq!(serve.get("/").status, 200);
    drop(streams);
    let long = format!("/?{}", "x".repeat(20_000));
    assert!(matches!(serve.get(&long).status, 0 | 400 | 414 | 431));
}

/// Somebody who wants to hear of changes, and the first line of what is answered.
fn hearing(serve: &Serve) -> (String, BufReader<TcpStream>) {
    let mut stream = BufReader::new(open(serve.http, "GET", "/events", &[("host", "localhost")]));
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    (line, stream)
}

#[test]
fn without_a_login_it_stays_on_loopback_unless_told_otherwise() {
    let toehold = Toehold::new();
    let refused = toehold.run(["serve", "--no-gateway", "--no-hosts", "--http", "0.0.0.0:0"]).ends(2);
    assert!(refused.stderr.contains("no login") && refused.stderr.contains("--http-anywhere"), "{}", refused.stderr);
    let arguments = ["--json", "serve", "--no-gateway", "--no-hosts", "--http", "0.0.0.0:0", "--http-anywhere"];
    let serve = Serve::begin(toehold.command(arguments));
    assert_eq!(serve.stop().code, 0);
}
