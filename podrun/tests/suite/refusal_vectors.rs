//! Every recorded refusal: what kind it is, whether it may pass, and what the person is told.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::vectors::{lines, text};
use serde_json::Value;
use toehold_podrun::kubernetes::{ApiFailure, FailureKind};

fn refusals() -> BTreeMap<String, ApiFailure> {
    let all = lines(include_str!("../vectors/kubernetes/refusals.jsonl"));
    all.iter()
        .map(|refusal| {
            let body = match &refusal["response"]["body"] {
                Value::String(text) => text.clone().into_bytes(),
                other => other.to_string().into_bytes(),
            };
            let code = u16::try_from(refusal["response"]["status"].as_u64().unwrap()).unwrap();
            let wait = refusal.pointer("/response/headers/Retry-After").and_then(Value::as_str);
            (text(refusal, "/name").to_owned(), ApiFailure::from_response(code, wait, &body))
        })
        .collect()
}

#[test]
fn every_refusal_has_its_kind() {
    let refusals = refusals();
    for (name, kind) in [
        ("create_duplicate", FailureKind::AlreadyExists),
        ("create_while_terminating", FailureKind::BeingDeleted),
        ("create_missing_namespace", FailureKind::NotFound),
        ("no_such_group", FailureKind::NotFound),
        ("invalid_label_value", FailureKind::Invalid),
        ("no_containers", FailureKind::Invalid),
        ("lengthen_deadline", FailureKind::Invalid),
        ("unknown_field_strict", FailureKind::BadRequest),
        ("unsupported_content_type", FailureKind::BadRequest),
        ("forbidden_other_namespace", FailureKind::Forbidden),
        ("service_account_missing", FailureKind::Forbidden),
        ("anonymous", FailureKind::Forbidden),
        ("unauthorized", FailureKind::Unauthorized),
        ("quota_memory_exceeded", FailureKind::Quota),
        ("quota_must_specify", FailureKind::Quota),
        ("quota_pods_exceeded", FailureKind::Quota),
        ("pod_security_restricted", FailureKind::PodSecurity),
        ("namespace_terminating", FailureKind::NamespaceTerminating),
        ("delete_uid_mismatch", FailureKind::Conflict),
        ("delete_resource_version_mismatch", FailureKind::Conflict),
        ("patch_stale_resource_version", FailureKind::Conflict),
        ("delete_missing", FailureKind::NotFound),
        ("eviction_refused_by_budget", FailureKind::TooManyRequests),
        ("watch_list_exact_too_late", FailureKind::Expired),
        ("watch_list_page_2_too_late", FailureKind::Expired),
        ("watch_list_not_older_than_the_future", FailureKind::Timeout),
    ] {
        assert_eq!(refusals[name].kind, kind, "{name}");
    }
    assert!(refusals.values().all(|failure| failure.kind != FailureKind::Other));
}

#[test]
fn only_what_can_pass_by_itself_is_tried_again() {
    let passing: Vec<String> = refusals().into_iter().filter(|(_, f)| f.is_passing()).map(|(name, _)| name).collect();
    let expected = [
        "create_while_terminating",
        "eviction_refused_by_budget",
        "watch_list_exact_too_late",
        "watch_list_not_older_than_the_future",
        "watch_list_page_2_too_late",
        "watch_not_a_number",
    ];
    assert_eq!(passing, expected);
}

#[test]
fn the_person_is_told_what_the_cluster_said() {
    let refusals = refusals();
    let words = |name: &str| refusals[name].words();
    assert!(words("quota_pods_exceeded").starts_with("the quota does not allow another pod like this: "));
    assert!(words("quota_pods_exceeded").contains("used: pods=1, limited: pods=1"));
    assert!(words("forbidden_other_namespace").contains("not allowed"));
    assert!(words("no_containers").contains("spec.containers: Required value"));
    for (name, failure) in &refusals {
        let words = failure.words();
        assert!(!words.is_empty() && words.chars().count() <= 700 && !words.chars().any(char::is_control), "{name}: {words}");
    }
}

#[test]
fn any_answer_can_be_read() {
    for body in [&b""[..], b" ", b"<html>", b"\xff\xfe", b"{}", b"null", b"[1]", br#"{"message": 3}"#, &vec![b'x'; 100_000]] {
        for code in [0, 200, 302, 400, 403, 404, 409, 410, 418, 429, 500, 503, 599] {
            let failure = ApiFailure::from_response(code, Some("soon"), body);
            assert!(failure.message.chars().count() <= 601);
        }
    }
    assert_eq!(ApiFailure::from_response(403, None, b"").kind, FailureKind::UnknownProtocol);
    assert_eq!(ApiFailure::from_response(429, Some("3"), b"{}").retry_after, Some(Duration::from_secs(3)));
    let status = br#"{"kind":"Status","code":429,"details":{"retryAfterSeconds":7}}"#;
    assert_eq!(ApiFailure::from_response(429, None, status).retry_after, Some(Duration::from_secs(7)));
    let terminal = ApiFailure::from_response(500, None, b"\x1b]0;owned\x07 text\r\nmore");
    assert!(!terminal.message.chars().any(char::is_control));
}
