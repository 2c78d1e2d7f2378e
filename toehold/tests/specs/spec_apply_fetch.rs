//! `spec apply` against servers that break off, stall, lie, flood and lead astray: the right archive, or nothing.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::spec_support;
use crate::spec_support::machines::{Node, Says, Version, document, million_empty_files, packed, version};
use crate::spec_support::web::{Answer, Page, Web};
use crate::support;
use crate::support::{Done, eventually};
use base64ct::{Base64, Encoding as _};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

/// A version of some size that does not shrink.
fn large() -> Version {
    let mut content = vec![0; 300_000];
    getrandom::fill(&mut content).unwrap();
    packed("facts", &[("large", &content)])
}

/// What the next document says: each is another version.
fn next() -> Says {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    Says { serial: SERIAL.fetch_add(1, Ordering::Relaxed), ..Says::default() }
}

/// Applies a list of one machine whose archive is this page.
fn apply(node: &Node, version: &Version, page: Page, more: &[&str]) -> Done {
    node.web.serve("/a.tgz", page);
    node.publish(&document(&[version.entry(&node.web.url("/a.tgz"))], &next()));
    node.web.seen();
    let patience = if more.contains(&"--request-timeout") { &[][..] } else { &["--request-timeout", "2s"] };
    node.apply(&[&["--json"], patience, more].concat())
}

#[track_caller]
fn refused(node: &Node, done: Done, why: &str) {
    let document = done.ends(3).json();
    let told = document["machines"]["facts"]["why"].as_str().unwrap();
    assert!(told.contains(why), "{told}");
    assert_eq!(node.live("facts"), None);
    for empty in ["unpacking", "staged", "previous", "trash"] {
        assert!(node.private(empty).is_empty(), "{empty}");
    }
}

#[test]
fn a_transfer_that_breaks_off_is_taken_up_where_it_ended() {
    let (node, version) = (Node::new(), large());
    // Requests are counted: none may be given up because this machine is slow.
    apply(&node, &version, Page::Breaks(version.archive.clone(), 100_000), &["--request-timeout", "5m"]).ends(0);
    assert_eq!(node.live("facts"), Some(version.tree.clone()));
    let seen = node.web.seen();
    assert_eq!(seen.len(), version.archive.len().div_ceil(100_000));
    assert!(!seen[0].headers.contains_key("range"));
    for (number, request) in seen.iter().enumerate().skip(1) {
        assert_eq!(request.headers["range"], format!("bytes={}-", number * 100_000));
        assert_eq!(request.headers["if-range"], "\"v1\"", "of this very content");
    }
}

#[test]
fn a_server_without_ranges_sends_the_beginning_again() {
    let (node, version) = (Node::new(), large());
    // It breaks off until the page is exchanged for the whole.
    node.web.serve("/a.tgz", Page::Stalls(version.archive.clone(), 200_000));
    node.publish(&document(&[version.entry(&node.web.url("/a.tgz"))], &next()));
    std::thread::scope(|scope| {
        let applying = scope.spawn(|| node.apply(&["--request-timeout", "2s"]));
        eventually("the request", || !node.web.seen().is_empty());
        node.web.serve("/a.tgz", Page::WithoutRanges(version.archive.clone()));
        applying.join().unwrap().ends(0);
    });
    assert_eq!(node.live("facts"), Some(version.tree));
}

#[test]
fn one_that_stalls_or_never_gets_further_is_given_up() {
    let (node, version) = (Node::new(), large());
    let begun = Instant::now();
    refused(&node, apply(&node, &version, Page::Stalls(version.archive.clone(), 1000), &[]), "nothing came for 2 s");
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    refused(&node, apply(&node, &version, Page::Breaks(version.archive.clone(), 0), &[]), "after 0 bytes");
    let again = node.web.seen().len();
    assert!(again <= 5, "{again} times");
    // One that always sends a little more is not waited for beyond the time that an archive may take.
    let done = apply(&node, &version, Page::Breaks(version.archive.clone(), 1), &["--fetch-timeout", "1s"]);
    refused(&node, done, "could not be fetched");
}

#[test]
fn a_length_that_is_a_lie_and_content_that_is_another_are_seen() {
    let (node, version) = (Node::new(), large());
    refused(&node, apply(&node, &version, Page::Lies(version.archive.clone(), 1000), &[]), "bytes");
    refused(&node, apply(&node, &version, Page::Lies(version.archive.clone(), -1000), &[]), "checksum");
    refused(&node, apply(&node, &version, Page::Lies(version.archive.clone(), 1 << 40), &[]), "more than the limit");
    let other = spec_support::machines::version("facts", 2);
    refused(&node, apply(&node, &version, Page::Good(other.archive.clone()), &[]), "checksum");
    refused(&node, apply(&node, &version, Page::Status(404, version.archive.clone()), &[]), "404");
    refused(&node, apply(&node, &version, Page::Status(500, version.archive.clone()), &[]), "500");
    refused(&node, apply(&node, &version, Page::Status(206, version.archive.clone()), &[]), "206");
    // What is there is replaced while it is fetched, though the server says that it is the same. By a longer one:
    let longer = [&version.archive[..], b"x"].concat();
    let lengths = format!("it had {} bytes before the connection broke, and has {} now", version.archive.len(), longer.len());
    let page = Page::Changes(version.archive.clone(), 1000, longer);
    refused(&node, apply(&node, &version, page, &[]), &lengths);
    // By one that has the same length, and the same content: another time stands in the head of gzip.
    let mut before = version.archive.clone();
    before[4] ^= 1;
    let page = Page::Changes(before, 1000, version.archive.clone());
    refused(&node, apply(&node, &version, page, &[]), "the archive's checksum is");
    refused(&node, apply(&node, &version, Page::Flood, &[]), "gzip");
    // Without a length, the end is the end.
    apply(&node, &version, Page::Endless(version.archive.clone()), &[]).ends(0);
}

/// By the limit on entries, long before the end.
#[test]
fn a_million_empty_files_are_refused_and_leave_nothing() {
    let node = Node::new();
    let archive = million_empty_files("facts");
    let version = Version { archive: archive.clone(), ..version("facts", 1) };
    refused(&node, apply(&node, &version, Page::Good(archive), &[]), "over the limit of 20000 entries");
}

#[test]
fn nothing_listens_and_nothing_is_left() {
    let (node, version) = (Node::new(), large());
    let port = support::server::free_port();
    node.publish(&document(&[version.entry(&format!("http://127.0.0.1:{port}/a.tgz"))], &next()));
    refused(&node, node.apply(&["--json"]), "could not be fetched");
}

#[test]
fn redirects_are_followed_to_the_web_alone_and_not_for_ever() {
    let (node, version) = (Node::new(), version("facts", 1));
    node.web.serve("/real.tgz", Page::Good(version.archive.clone()));
    // What is there is good: only where it lies is not.
    let file = node.directory.path().join("real.tgz");
    std::fs::write(&file, &version.archive).unwrap();
    let file = format!("file://{}", file.display());
    let with_user = node.web.url("/real.tgz").replace("http://", "http://somebody:sesame@");
    let ftp = node.web.url("/real.tgz").replace("http://", "ftp://");
    for (bad, why, requests) in [
        (&*file, "a place that is not taken: it is file", 1),
        (&*ftp, "a place that is not taken: it is of another scheme", 1),
        (&*with_user, "a place that is not taken: it has a user in the URL", 1),
        ("//", "a place that is not taken: empty host", 1),
        ("/a.tgz", "leads elsewhere more than 5 times", 6),
        ("", "leads elsewhere more than 5 times", 6),
    ] {
        let done = apply(&node, &version, Page::Redirect(bad.to_owned()), &["--allow-file"]);
        assert!(!done.stdout.contains("sesame") && !done.stderr.contains("sesame"), "{}{}", done.stdout, done.stderr);
        refused(&node, done, why);
        assert_eq!(node.web.seen().len(), requests, "{bad}");
    }
    let nowhere = Page::Answer(Answer { status: 302, ..Answer::default() });
    refused(&node, apply(&node, &version, nowhere, &[]), "leads elsewhere without saying where");
    apply(&node, &version, Page::Redirect("real.tgz#part".to_owned()), &[]).ends(0);
}

/// The authorization of every request, by the server it came to.
fn authorizations(webs: &[(&str, &Web)]) -> HashMap<String, Vec<Option<String>>> {
    let of = |web: &Web| web.seen().iter().map(|seen| seen.headers.get("authorization").cloned()).collect();
    webs.iter().map(|(name, web)| ((*name).to_owned(), of(web))).collect()
}

fn with_password(version: &Version, source: &str) -> Value {
    let mut entry = version.entry(source);
    (entry["username"], entry["password"]) = ("somebody".into(), "sesame".into());
    entry
}

#[test]
fn s5_user_and_password_go_to_the_source_alone() {
    let (node, version, other) = (Node::new(), version("facts", 1), Web::start());
    let basic = Some(format!("Basic {}", Base64::encode_string(b"somebody:sesame")));
    let apply = |node: &Node| {
        node.publish(&document(&[with_password(&version, &node.web.url("/a.tgz"))], &next()));
        let done = node.apply(&["-vv"]);
        assert!(!done.stderr.contains("sesame") && !done.stderr.contains("c2VzYW1l"), "{}", done.stderr);
        done.ends(0);
        std::fs::remove_dir_all(node.root()).unwrap();
        std::fs::create_dir(node.root()).unwrap();
        authorizations(&[("own", &node.web), ("other", &other)])
    };
    node.web.serve("/a.tgz", Page::Good(version.archive.clone()));
    assert_eq!(apply(&node)["own"], std::slice::from_ref(&basic));
    // Led to another place of the same server it goes along; led to another server, and back, it does not.
    node.web.serve("/a.tgz", Page::Redirect("/b.tgz".to_owned()));
    node.web.serve("/b.tgz", Page::Good(version.archive.clone()));
    assert_eq!(apply(&node)["own"], [basic.clone(), basic.clone()]);
    node.web.serve("/a.tgz", Page::Redirect(other.url("/c.tgz")));
    other.serve("/c.tgz", Page::Good(version.archive.clone()));
    let seen = apply(&node);
    assert_eq!((&seen["own"], &seen["other"]), (&vec![basic.clone()], &vec![None]));
    other.serve("/c.tgz", Page::Redirect(node.web.url("/b.tgz")));
    assert_eq!(apply(&node)["own"], [basic.clone(), None]);
    // Also when it is taken up again after a break.
    node.web.serve("/a.tgz", Page::Redirect(other.url("/c.tgz")));
    other.serve("/c.tgz", Page::Breaks(version.archive.clone(), version.archive.len() / 2 + 1));
    let seen = apply(&node);
    assert_eq!((&seen["own"], &seen["other"]), (&vec![basic.clone(), basic], &vec![None, None]));
}

#[test]
fn s5_a_user_in_a_url_is_refused_and_not_shown() {
    let (node, version) = (Node::new(), version("facts", 1));
    node.publish(&document(&[version.entry("http://somebody:sesame@127.0.0.1/a.tgz")], &next()));
    let done = node.apply(&["-vv"]).ends(1);
    assert!(done.stderr.contains("username") && !done.stderr.contains("sesame"), "{}", done.stderr);
}

/// The page of a recorded answer; every archive is the same.
fn recorded(served: &Value, url: &str) -> Page {
    let body = if served["file"].is_string() { include_bytes!("../vectors/spec/good.tgz").to_vec() } else { Vec::new() };
    let headers = served["headers"].as_object().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let credentials = served["auth"].as_array().map(|auth| format!("{}:{}", text(&auth[0]), text(&auth[1])));
    Page::Answer(Answer {
        status: served["status"].as_u64().map_or(200, |status| u16::try_from(status).unwrap()),
        headers: headers.map(|(name, value)| (name.clone(), text(value).replace("@URL@", url))).collect(),
        body,
        breaks_after: served["drop_after"].as_u64().map(|bytes| usize::try_from(bytes).unwrap()),
        authorization: credentials.map(|both| format!("Basic {}", Base64::encode_string(both.as_bytes()))),
    })
}

/// What Choria's watcher makes of a server's answers, and where it is lax.
#[test]
fn answers_are_taken_as_choria_takes_them_but_where_it_is_lax() {
    let (mut same, mut strict, mut more) = (0, Vec::new(), Vec::new());
    for line in include_str!("../vectors/spec/http.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (node, id) = (Node::new(), case["id"].as_str().unwrap());
        let url = node.web.url("");
        for served in case["serve"].as_array().into_iter().flatten() {
            node.web.serve(served["path"].as_str().unwrap(), recorded(served, &url));
        }
        let with_user = url.replace("http://", "http://user1:secret1@");
        let source = case["source"].as_str().unwrap().replace("@URL@", &url).replace("@AUTHURL@", &with_user);
        let mut entry = serde_json::json!({
            "name": "app", "source": source, "verify": "SHA256SUMS",
            "checksum": case["checksum"], "verify_checksum": case["verify_checksum"],
        });
        for member in ["username", "password", "governor"] {
            if let Some(value) = case[member].as_str() {
                entry[member] = value.into();
            }
        }
        node.publish(&document(&[entry], &next()));
        let done = node.apply(&["--request-timeout", "2s"]);
        let taken = done.code == 0 && node.live("app").is_some();
        assert!(taken || node.live("app").is_none(), "{id}");
        match (case["outcome"] == "accepted", taken) {
            (true, false) => strict.push(id.to_owned()),
            (false, true) => more.push(id.to_owned()),
            _ => same += 1,
        }
    }
    // Another status than 200, templates, a user in a URL, or a fragment.
    let lax = [
        "http_404_with_right_bytes",
        "http_500_with_right_bytes",
        "http_206_with_all_bytes",
        "http_auth_templates",
        "http_credentials_in_url",
        "http_query_string",
        "source_template",
    ];
    assert_eq!(strict, lax);
    // The bytes count as they come: nothing is unpacked on the way, which is asked for by nobody; a template is a text.
    assert_eq!(more, ["http_content_encoding_gzip", "http_auth_template_bad"]);
    assert_eq!(same, 34);
}

#[test]
fn only_what_is_allowed_is_a_source() {
    let (node, version) = (Node::new(), version("facts", 1));
    let file = node.directory.path().join("a.tgz");
    std::fs::write(&file, &version.archive).unwrap();
    node.publish(&document(&[version.entry(&format!("file://{}", file.display()))], &next()));
    node.apply(&[]).ends(1);
    node.apply(&["--allow-file"]).ends(0);
    assert_eq!(node.live("facts"), Some(version.tree.clone()));
    let other = Node::new();
    other.publish(&document(&other.entries(&[version]), &next()));
    let arguments: Vec<String> = other.arguments(&[]).into_iter().filter(|argument| argument != "--allow-http").collect();
    let done = other.toehold.run(arguments.iter().map(String::as_str)).ends(1);
    assert!(done.stderr.contains("http"), "{}", done.stderr);
}

#[test]
fn a_proxy_is_taken_from_the_environment() {
    let (node, version, proxy) = (Node::new(), version("facts", 1), Web::start());
    let source = "http://files.example.net/a.tgz";
    // A request to a proxy names the whole target.
    proxy.serve(source, Page::Good(version.archive.clone()));
    node.publish(&document(&[version.entry(source)], &next()));
    let mut command = node.command(&[]);
    command.env("http_proxy", proxy.url("").replace("http://", "http://user:secret@"));
    Done::of(command.output().unwrap()).ends(0);
    let seen = &proxy.seen()[0];
    assert_eq!(seen.target, source);
    assert_eq!(seen.headers.get("proxy-authorization").map(String::as_str), Some(PROXY_AUTHORIZATION));
    assert_eq!(node.live("facts"), Some(version.tree));
}

const PROXY_AUTHORIZATION: &str = "Basic dXNlcjpzZWNyZXQ=";

/// A proxy that leads one client to a port of this host, and what that client asks it for.
fn tunnel(port: u16) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://user:secret@{}", listener.local_addr().unwrap());
    let (tells, asked) = channel();
    std::thread::spawn(move || {
        let (mut client, mut head) = (listener.accept().unwrap().0, Vec::new());
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || drop(std::io::copy(&mut from_server, &mut to_client)));
        tells.send(String::from_utf8(head).unwrap()).unwrap();
        drop(std::io::copy(&mut client, &mut server));
    });
    (url, asked)
}

#[test]
fn a_proxy_leads_to_a_server_over_tls_without_reading_along() {
    let (node, version) = (Node::new(), version("facts", 1));
    let (secure, authority) = secure(&node);
    secure.serve("/a.tgz", Page::Good(version.archive.clone()));
    let source = format!("https://localhost:{}/a.tgz", secure.port());
    node.publish(&document(&[with_password(&version, &source)], &next()));
    let (proxy, asked) = tunnel(secure.port());
    let mut command = node.command(&[]);
    command.env("https_proxy", proxy).env("SSL_CERT_FILE", &authority).env_remove("SSL_CERT_DIR");
    Done::of(command.output().unwrap()).ends(0);
    let asked = asked.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(asked.starts_with(&format!("CONNECT localhost:{} HTTP/1.1\r\n", secure.port())), "{asked}");
    assert!(
        asked.to_ascii_lowercase().contains(&format!("proxy-authorization: {}\r\n", PROXY_AUTHORIZATION.to_ascii_lowercase()))
    );
    assert!(!asked.to_ascii_lowercase().contains("\r\nauthorization:"), "{asked}");
    // The server in turn hears nothing of how to come through the proxy.
    let seen = &secure.seen()[0];
    assert!(seen.headers.contains_key("authorization") && !seen.headers.contains_key("proxy-authorization"));
    assert_eq!(node.live("facts"), Some(version.tree));
}

/// A server over TLS, and a file with the authority that names it.
fn secure(node: &Node) -> (Web, std::path::PathBuf) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let secure = Web::with(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).ok()?;
        let mut stream = StreamOwned::new(connection, stream);
        stream.flush().ok()?;
        Some(stream)
    });
    let authority = node.directory.path().join("authority.pem");
    std::fs::write(&authority, certified.cert.pem()).unwrap();
    (secure, authority)
}

#[test]
fn https_is_taken_from_a_server_that_a_trusted_authority_names() {
    let (node, version) = (Node::new(), version("facts", 1));
    let (secure, authority) = secure(&node);
    secure.serve("/a.tgz", Page::Good(version.archive.clone()));
    let source = format!("https://localhost:{}/a.tgz", secure.port());
    node.publish(&document(&[with_password(&version, &source)], &next()));
    let trusting = |trusted: bool| {
        let mut command = node.command(&["--json"]);
        if trusted {
            command.env("SSL_CERT_FILE", &authority).env_remove("SSL_CERT_DIR");
        }
        Done::of(command.output().unwrap())
    };
    refused(&node, trusting(false), "could not be fetched");
    // From https nothing leads to plain http.
    secure.serve("/a.tgz", Page::Redirect(node.web.url("/b.tgz")));
    node.web.serve("/b.tgz", Page::Good(version.archive.clone()));
    refused(&node, trusting(true), "from https to plain http");
    assert!(node.web.seen().is_empty());
    secure.serve("/a.tgz", Page::Good(version.archive.clone()));
    trusting(true).ends(0);
    assert_eq!(node.live("facts"), Some(version.tree));
}
