//! Agents of Opni's at our gateway: recorded exchanges, and every way in which the original failed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64ct::{Base64, Base64UrlUnpadded, Encoding as _};
use serde_json::Value;
use toehold::adapters::sqlite::SqliteStore;
use toehold::adapters::system_clock::SystemClock;
use toehold::gateway::{GatewayDesk, GatewayVault};
use toehold::state::{NoPassphrase, State};
use toehold_core::{Clock as _, Expect, Key, Record as _, SecretBytes, Store as _};
use toehold_joinproto::Trust;
use toehold_joinproto::admission::{Desk, Protocol, TokenRecord, Vault as _};
use toehold_joinproto::opni::{OpniClient, Version};
use toehold_joinproto::token::Token;
use toehold_joinproto::wire::JoinResponse;
use tonic::Code;
use tonic::metadata::{Ascii, MetadataValue};

use crate::join_support::gateway::{Dial, Gateway, Session, eventually, line, rng};
use crate::join_support::opni_client::{call, join_opni, join_v2, offered, until_offered};
use crate::join_support::race::opni_winners;
use crate::support::Toehold;

/// Cases of the recorded exchanges of one operation.
fn cases(operation: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../joinproto/tests/vectors/opni/exchange.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|case| case["op"] == operation).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|place| u8::from_str_radix(&text[2 * place..2 * place + 2], 16).unwrap()).collect()
}

/// The gateway's own desk, for tokens that commands would not make.
async fn desk(toehold: &Toehold) -> GatewayDesk {
    let state = State::open(&toehold.state(), NoPassphrase).unwrap();
    let vault = GatewayVault::load(&state).await.unwrap();
    Desk::new(SqliteStore::open(&toehold.state()).unwrap().into(), SystemClock, vault)
}

/// A token of a known secret, as `token create --opni` would have made it.
async fn put_token(desk: &GatewayDesk, token: &Token, uses: u32, labels: BTreeMap<String, String>) {
    let key = format!("token/{}", token.id());
    let sealed_token = desk.vault.seal(&key, &SecretBytes::new(token.expose_text().as_bytes().to_vec())).unwrap();
    let now = SystemClock.now();
    let record = TokenRecord {
        id: token.id(),
        protocol: Protocol::Opni { sealed_token },
        role: "agent".parse().unwrap(),
        uses,
        created_at: now,
        expires_at: now.saturating_add(Duration::from_secs(3_600)),
        labels,
        client_id: None,
        from: Vec::new(),
        may_extend: true,
    };
    put(desk, &key, &record).await;
}

async fn put(desk: &GatewayDesk, key: &str, record: &TokenRecord) {
    let mut document = serde_json::to_value(record).unwrap();
    document["v"] = TokenRecord::VERSION.into();
    document["readable_from"] = TokenRecord::READABLE_FROM.into();
    desk.store.put(&Key::parse(key).unwrap(), document.to_string().as_bytes(), Expect::Absent).await.unwrap();
}

/// The case's gateway, with its key, its certificates and its tokens.
struct Recorded {
    toehold: Toehold,
    gateway: Gateway,
    _files: tempfile::TempDir,
}

impl Recorded {
    async fn new(case: &Value) -> Self {
        let toehold = Toehold::new();
        let files = tempfile::tempdir().unwrap();
        let (chain, key) = (files.path().join("chain.pem"), files.path().join("key.pem"));
        let pem = |name: &str, der: &[u8]| {
            let body = Base64::encode_string(der);
            let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
            format!("-----BEGIN {name}-----\n{}\n-----END {name}-----\n", lines.join("\n"))
        };
        let certificates = case["input"]["server_chain_der_b64"].as_array().unwrap().iter();
        let certificates = certificates.map(|der| pem("CERTIFICATE", &Base64::decode_vec(text(der)).unwrap()));
        std::fs::write(&chain, certificates.collect::<String>()).unwrap();
        let pkcs8 =
            [&unhex("302e020100300506032b657004220420")[..], &unhex(text(&case["input"]["server_leaf_key_seed_hex"]))].concat();
        std::fs::write(&key, pem("PRIVATE KEY", &pkcs8)).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let desk = desk(&toehold).await;
        for stored in case["input"]["stored_tokens"].as_array().unwrap() {
            let token = Token::parse(text(&stored["token_hex"])).unwrap();
            let uses = u32::try_from(stored["max_usages"].as_u64().unwrap()).unwrap();
            let labels = stored["labels"].as_object().into_iter().flatten();
            let labels = labels.map(|(name, value)| (name.clone(), text(value).to_owned())).collect();
            put_token(&desk, &token, if uses == 0 { 100 } else { uses }, labels).await;
        }
        let mut arguments = vec!["--cert", chain.to_str().unwrap(), "--key", key.to_str().unwrap()];
        for capability in ["test", "metrics", "logs", "alerting"] {
            arguments.extend(["--capability", capability]);
        }
        let gateway = Gateway::start(&toehold, &arguments);
        Self { toehold, gateway, _files: files }
    }
}

/// One case of each kind, as far as the original and its storage did what they should.
fn one_of_each_kind(operation: &str) -> Vec<Value> {
    let mut seen = std::collections::BTreeSet::new();
    let kind = |case: &Value| text(&case["id"]).trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    let is_usual = |case: &Value| {
        let lives = |stored: &Value| stored["ttl_seconds"].as_i64().unwrap_or(0) >= 600;
        case["input"]["stored_tokens"].as_array().is_some_and(|stored| !stored.is_empty() && stored.iter().all(lives))
            && !text(&case["id"]).contains("storage-")
            && !text(&case["id"]).contains("server-key-")
    };
    cases(operation).into_iter().filter(|case| is_usual(case) && seen.insert(kind(case))).collect()
}

#[tokio::test]
async fn recorded_clients_of_opni_are_answered_as_opni_answered_them() {
    let chosen: Vec<Value> = one_of_each_kind("go_client_go_server")
        .into_iter()
        .filter(|case| case["output"]["steps"].as_array().unwrap().iter().all(|step| step["client"] == "ok"))
        .take(4)
        .collect();
    assert!(chosen.iter().any(|case| case["input"]["steps"][0]["version"] == 2));
    let mut answered = 0;
    for case in chosen {
        let recorded = Recorded::new(&case).await;
        let dial = Dial::to(recorded.gateway.address);
        let ids = case["input"]["stored_tokens"].as_array().unwrap().iter();
        let ids: Vec<String> = ids.map(|stored| text(&stored["token_hex"])[..12].to_owned()).collect();
        for step in case["output"]["steps"].as_array().unwrap() {
            // Known by the recorded pin, as the original's client knew it.
            let pin = text(&case["input"]["pin_root_sha256"]).parse().unwrap();
            let connection = dial.clone().trusting(Trust::OpniPinned(vec![pin])).connect().await.unwrap();
            until_offered(&connection, &ids).await;
            for rpc in step["rpcs"].as_array().unwrap() {
                let headers = rpc["request_headers"]["authorization"].as_array().into_iter().flatten();
                let headers: Vec<&str> = headers.map(text).collect();
                let method = text(&rpc["method"]);
                let answer = call(&connection, method, &headers, unhex(text(&rpc["request_hex"]))).await.unwrap();
                let theirs = unhex(text(&rpc["response_hex"]));
                if method.ends_with("Join") {
                    // Ed25519 signs alike: byte for byte what the original sent, whatever the order of a map.
                    assert_eq!(JoinResponse::decode(&answer), JoinResponse::decode(&theirs), "{}", case["id"]);
                } else {
                    assert_eq!(answer.len(), theirs.len(), "{}", case["id"]);
                }
                answered += 1;
            }
        }
        let agents = crate::support::store::keys(&recorded.toehold);
        for id in case["output"]["state_after"]["clusters"].as_object().unwrap().keys() {
            assert!(agents.contains(&format!("agent/{id}")), "{id} in {agents:?}");
        }
    }
    assert!(answered >= 6, "{answered}");
}

#[tokio::test]
async fn whatever_a_scripted_client_sends_is_answered_or_refused_and_the_gateway_lives() {
    // All scripted authorizations at one gateway: its key does not sign them, so that every one has to be refused.
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--metrics", "127.0.0.1:0"]);
    let line = line(&toehold, gateway.address, &["--opni", "--uses", "10"]);
    let connection = Dial::to(gateway.address).connect().await.unwrap();
    until_offered(&connection, &[line.token.id().to_string()]).await;
    let mut refused = 0;
    for case in cases("scripted_client_go_server") {
        for step in case["output"]["steps"].as_array().unwrap() {
            for rpc in step["rpcs"].as_array().unwrap() {
                let headers = rpc["request_headers"]["authorization"].as_array().into_iter().flatten();
                let headers: Vec<&str> =
                    headers.map(text).filter(|value| value.parse::<MetadataValue<Ascii>>().is_ok()).collect();
                let method = text(&rpc["method"]);
                let outcome = call(&connection, method, &headers, unhex(text(&rpc["request_hex"]))).await;
                assert!(outcome.is_err() || method.ends_with("Join"), "{}", case["id"]);
                refused += usize::from(outcome.is_err());
            }
        }
    }
    assert!(refused > 50, "{refused}");
    assert_eq!(gateway.counted("toehold_gateway_panics_total").await, 0);
    join_v2(&connection, &line, "cluster-1").await.unwrap();
}

#[tokio::test]
async fn agents_of_both_versions_join_and_come_back() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    for (id, version) in [
        ("cluster-1", Version::V1 { capability: "metrics".to_owned() }),
        ("cluster-2", Version::V2 { friendly_name: Some("north".to_owned()) }),
    ] {
        // One for each: half a minute, which is all that strangers have, is little on a busy machine.
        let connection = Dial::to(gateway.address).connect().await.unwrap();
        let line = line(&toehold, gateway.address, &["--opni"]);
        until_offered(&connection, &[line.token.id().to_string()]).await;
        let keyring = join_opni(&connection, &line, id, version).await.unwrap();
        // It comes back late: the gateway has looked at its tokens since, and found that this one may be asked for once more.
        let joined = || toehold.run(["--json", "audit", "ls", "--what", "agent.joined", "--subject", id]).ends(0).json();
        eventually("the join is on record", || async { joined()["entries"].as_array().is_some_and(|found| !found.is_empty()) })
            .await;
        Session::open(&connection, id, &keyring.shared_keys[0]).await.unwrap();
        // Confirmed, it is used up, and not offered any more: at once, and not when all tokens are read again.
        let begun = Instant::now();
        eventually("not offered", || async { !offered(&connection).await.contains(&line.token.id().to_string()) }).await;
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn j3_an_id_of_opnis_is_taken_if_absent_or_pending_and_costs_no_use_otherwise() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let connection = Dial::to(gateway.address).connect().await.unwrap();
    let (first, second) = (line(&toehold, gateway.address, &["--opni"]), line(&toehold, gateway.address, &["--opni"]));
    until_offered(&connection, &[first.token.id().to_string(), second.token.id().to_string()]).await;
    join_v2(&connection, &first, "cluster-1").await.unwrap();
    // Nobody has come with the keys: the same token and id do it anew, without another use.
    let keyring = join_v2(&connection, &first, "cluster-1").await.unwrap();
    Session::open(&connection, "cluster-1", &keyring.shared_keys[0]).await.unwrap();
    let taken = join_v2(&connection, &second, "cluster-1").await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists, "{taken}");
    // The id of a key is nobody's to choose.
    let forged = join_v2(&connection, &second, &"a".repeat(32)).await.unwrap_err();
    assert_eq!(forged.code(), Code::AlreadyExists, "{forged}");
    join_v2(&connection, &second, "cluster-2").await.unwrap();
}

#[tokio::test]
async fn of_64_agents_of_opnis_at_two_gateways_exactly_one_joins_and_no_other_leaves_a_trace() {
    let toehold = Toehold::new();
    let gateways = [Gateway::start(&toehold, &[]), Gateway::start(&toehold, &[])];
    let line = Arc::new(line(&toehold, gateways[0].address, &["--opni"]));
    assert_eq!(opni_winners(&gateways, &line).await, 1);
    let agents = crate::support::store::keys(&toehold).into_iter().filter(|key| key.starts_with("agent/")).count();
    assert_eq!(agents, 1);
}

#[tokio::test]
async fn bearers_that_are_not_exactly_right_are_refused_and_end_nothing() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--metrics", "127.0.0.1:0"]);
    let line = line(&toehold, gateway.address, &["--opni", "--uses", "3"]);
    let connection = Dial::to(gateway.address).connect().await.unwrap();
    until_offered(&connection, &[line.token.id().to_string()]).await;
    let message = call(&connection, "/bootstrap.v2.Bootstrap/Join", &[], Vec::new()).await.unwrap();
    let waiting =
        OpniClient { version: Version::V2 { friendly_name: None }, client_id: "cluster-1".to_owned(), token: Some(&line.token) };
    let (_, good) = waiting.start().unwrap().receive(&message, &connection.known, &mut rng()).unwrap();
    let bearer = good.authorization.as_str();
    let jws = bearer.strip_prefix("Bearer ").unwrap();
    let parts: Vec<&str> = jws.split('.').collect();
    let header = |json: &str| Base64UrlUnpadded::encode_string(json.as_bytes());
    let with = |json: &str| format!("Bearer {}.{}.{}", header(json), parts[1], parts[2]);
    let serialised = Base64UrlUnpadded::encode_string(b"{}");
    for bad in [
        // JSON-serialised without `protected`: this ended the original.
        "Bearer {\"payload\":\"e30\",\"signatures\":[{\"signature\":\"AA\"}]}".to_owned(),
        format!("Bearer {{\"payload\":\"{}\",\"signature\":\"{}\"}}", parts[1], parts[2]),
        with("{\"alg\":\"none\"}"),
        with("{\"alg\":\"HS256\"}"),
        with("{}"),
        with("{\"alg\":\"EdDSA\",\"alg\":\"EdDSA\"}"),
        with("{\"alg\":\"EdDSA\",\"crit\":[\"b64\"]}"),
        format!("Bearer {}.{}.", header("{\"alg\":\"none\"}"), parts[1]),
        format!("{bearer}.x"),
        format!("{bearer}="),
        jws.to_owned(),
        format!("bearer {jws}"),
        format!("Bearer {serialised}.{}.{}", parts[1], parts[2]),
        format!("Bearer {}.{serialised}.{}", parts[0], parts[2]),
        "Bearer ..".to_owned(),
        "Bearer".to_owned(),
    ] {
        let refused = call(&connection, "/bootstrap.v2.Bootstrap/Auth", &[&bad], good.message.clone()).await.unwrap_err();
        assert!(matches!(refused.code(), Code::PermissionDenied | Code::Unauthenticated), "{bad}: {refused}");
    }
    let refused = call(&connection, "/bootstrap.v2.Bootstrap/Auth", &[], good.message.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let twice = call(&connection, "/bootstrap.v2.Bootstrap/Auth", &[bearer, bearer], good.message.clone()).await.unwrap_err();
    assert_eq!(twice.code(), Code::Unauthenticated);
    assert_eq!(gateway.counted("toehold_gateway_panics_total").await, 0);
    // The right one is still good, for one agent: replayed with other ids, each takes a use of its own.
    call(&connection, "/bootstrap.v2.Bootstrap/Auth", &[bearer], good.message.clone()).await.unwrap();
    let replay =
        |id: &str| toehold_joinproto::wire::AuthRequestV2 { client_id: id.to_owned(), client_key: [9; 32], friendly_name: None };
    let mut outcomes = Vec::new();
    for id in ["cluster-2", "cluster-3", "cluster-4", "cluster-5"] {
        outcomes.push(call(&connection, "/bootstrap.v2.Bootstrap/Auth", &[bearer], replay(id).encode()).await.is_ok());
    }
    assert_eq!(outcomes, [true, true, false, false]);
}

#[tokio::test]
async fn malformed_tokens_in_the_store_skip_only_themselves() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let [good, bad, pending] = [(); 3].map(|()| line(&toehold, gateway.address, &["--opni"]));
    let connection = Dial::to(gateway.address).connect().await.unwrap();
    until_offered(&connection, &[&good, &bad, &pending].map(|line| line.token.id().to_string())).await;
    // Nor does the record of an agent that still may come back.
    join_v2(&connection, &pending, "cluster-2").await.unwrap();
    crate::support::store::change(&toehold, "agent/cluster-2", |agent| agent["state"] = "no state".into());
    crate::support::store::change(&toehold, &format!("token/{}", bad.token.id()), |token| {
        token["protocol"]["opni"]["sealed_token"] = "AAAA".into();
    });
    let desk = desk(&toehold).await;
    for (key, value) in
        [("token/abc", "{}"), ("token/0123456789ab", "no json"), ("token/ffffffffffff", "{\"v\":1,\"readable_from\":99}")]
    {
        desk.store.put(&Key::parse(key).unwrap(), value.as_bytes(), Expect::Absent).await.unwrap();
    }
    // It is seen to have been read again when the broken one is offered no more.
    eventually("the broken one is gone", || async { !offered(&connection).await.contains(&bad.token.id().to_string()) }).await;
    join_v2(&connection, &good, "cluster-1").await.unwrap();
}

#[tokio::test]
async fn the_token_that_would_make_the_answer_too_large_is_refused_with_the_reason() {
    let toehold = Toehold::new();
    Gateway::start(&toehold, &[]).kill();
    let desk = desk(&toehold).await;
    let limit = toehold_joinproto::admission::MAX_OPNI_TOKENS;
    let tokens: Vec<Token> = (0..limit).map(|_| Token::generate(&mut rng())).collect();
    let mut database = crate::support::store::open(&toehold);
    let transaction = database.transaction().unwrap();
    let now = SystemClock.now();
    for token in &tokens {
        let key = format!("token/{}", token.id());
        let sealed_token = desk.vault.seal(&key, &SecretBytes::new(token.expose_text().as_bytes().to_vec())).unwrap();
        let record = serde_json::json!({
            "v": 1, "readable_from": 1, "id": token.id(), "protocol": { "opni": { "sealed_token": sealed_token } }, "role": "agent",
            "uses": 1, "created_at": now, "expires_at": now.saturating_add(Duration::from_secs(3_600)),
        });
        crate::support::store::insert(&transaction, &key, &record);
    }
    transaction.commit().unwrap();
    drop(database);
    let gateway = Gateway::start(&toehold, &[]);
    let endpoint = gateway.address.to_string();
    let refused = toehold.run(["token", "create", "--opni", "--endpoint", &endpoint]).ends(2);
    assert!(refused.stderr.contains("33,000"), "{}", refused.stderr);
    // What is there is offered, in an answer that real clients read.
    // On a new connection each time, since a stranger's has its end.
    let join = async || {
        let connection = Dial::to(gateway.address).connect_in_time().await;
        call(&connection, "/bootstrap.v2.Bootstrap/Join", &[], Vec::new()).await
    };
    let answer = std::sync::Mutex::new(Vec::new());
    eventually("all are offered", || async {
        let answered = join().await;
        answered.map(|bytes| *answer.lock().unwrap() = bytes).is_ok()
    })
    .await;
    // As a Go client would, tonic's takes no more than 4 MiB.
    assert_eq!(JoinResponse::decode(&answer.into_inner().unwrap()).unwrap().signatures.len(), limit);
    // For v3 there is no such limit.
    toehold.run(["token", "create", "--endpoint", &endpoint]).ends(0);
}
