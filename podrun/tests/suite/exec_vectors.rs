//! Every recorded exec, frame by frame.

use crate::support::vectors::{lines, text, unhex};
use serde_json::{Value, json};
use toehold_podrun::exec::{ExecEnd, Frame, OFFERED, Outcome, Protocol, TerminalSize, encode_resize, encode_stdin};
use toehold_podrun::kubernetes::{ApiFailure, FailureKind};

const EXECS: &str = include_str!("../vectors/kubernetes/exec.jsonl");

fn message(frame: &Value) -> Vec<u8> {
    let channel = u8::try_from(frame["channel"].as_u64().unwrap()).unwrap();
    [vec![channel], unhex(text(frame, "/payload_hex"))].concat()
}

fn frames<'a>(exec: &'a Value, from: &'a str) -> impl Iterator<Item = &'a Value> {
    exec["frames"].as_array().into_iter().flatten().filter(move |frame| text(frame, "/from") == from)
}

/// What we make of the server's frames.
fn ended(exec: &Value, protocol: Protocol) -> (Vec<u8>, Vec<u8>, Outcome) {
    let (mut out, mut errors, mut end) = (Vec::new(), Vec::new(), ExecEnd::new());
    for frame in frames(exec, "server").filter(|frame| ["binary", "text"].contains(&text(frame, "/opcode"))) {
        match protocol.decode(&message(frame)) {
            Frame::Stdout(data) => out.extend_from_slice(data),
            Frame::Stderr(data) => errors.extend_from_slice(data),
            Frame::Status(data) => end.status(data),
            Frame::Closed(_) | Frame::Unknown => {}
        }
    }
    (out, errors, end.finish())
}

#[test]
fn every_recorded_stream_has_the_outcome_that_its_status_says() {
    let mut seen = [0; 5];
    for exec in lines(EXECS) {
        let context = format!("{} {}", text(&exec, "/server"), text(&exec, "/name"));
        let Some(protocol) = Protocol::chosen(exec.pointer("/response/subprotocol").and_then(Value::as_str)) else { continue };
        let (_, _, outcome) = ended(&exec, protocol);
        let status = &exec["status"];
        let code = status.pointer("/details/causes/0/message").and_then(Value::as_str);
        match (&outcome, text(status, "/status"), text(status, "/reason")) {
            (Outcome::Exited(0), "Success", _) => seen[0] += 1,
            (Outcome::Exited(number), "Failure", "NonZeroExitCode") => {
                assert_eq!(Some(number.to_string().as_str()), code, "{context}");
                seen[1] += 1;
            }
            (Outcome::NotFound(_), "Failure", "InternalError") => {
                assert!(context.contains("command_not_found"), "{context}");
                assert_eq!(outcome.exit_status(), 127);
                seen[2] += 1;
            }
            (Outcome::Failed(words), "Failure", "InternalError") => {
                assert!(!words.is_empty(), "{context}");
                seen[3] += 1;
            }
            (Outcome::Unknown, "", "") => {
                // A stream without a status is never a success.
                assert_ne!(outcome.exit_status(), 0, "{context}");
                seen[4] += 1;
            }
            other => panic!("{context}: {other:?}"),
        }
    }
    assert!(seen.iter().all(|count| *count > 2), "{seen:?}");
}

#[test]
fn output_comes_out_as_it_went_in() {
    let exec = |server: &str, name: &str| {
        lines(EXECS).into_iter().find(|e| text(e, "/server") == server && text(e, "/name") == name).unwrap()
    };
    let (out, errors, outcome) = ended(&exec("1.37", "v5_exit_0"), Protocol::V5);
    assert_eq!((out.as_slice(), errors.as_slice(), outcome), (&b"out\n"[..], &b"err\n"[..], Outcome::Exited(0)));
    // Closing stdin lets the process end by itself, and its last words arrive.
    let (out, _, outcome) = ended(&exec("1.37", "v5_stdin_close"), Protocol::V5);
    assert_eq!((out.as_slice(), outcome), (&b"some bytesafter-eof\n"[..], Outcome::Exited(0)));
}

#[test]
fn what_we_send_is_what_was_sent() {
    let mut buffer = Vec::new();
    for exec in lines(EXECS).iter().filter(|exec| text(exec, "/name").starts_with("v5_")) {
        for frame in frames(exec, "client").filter(|frame| text(frame, "/opcode") == "binary") {
            let sent = message(frame);
            match (sent[0], text(exec, "/name")) {
                (0, _) => {
                    assert_eq!(encode_stdin(&sent[1..], &mut buffer), sent.len() - 1);
                    assert_eq!(buffer, sent);
                }
                (4, "v5_tty_resize") => {
                    let size: Value = serde_json::from_slice(&sent[1..]).unwrap();
                    let number = |name: &str| u16::try_from(size[name].as_u64().unwrap()).unwrap();
                    let ours = encode_resize(TerminalSize { columns: number("Width"), rows: number("Height") });
                    assert_eq!((ours[0], serde_json::from_slice::<Value>(&ours[1..]).unwrap()), (4, size));
                }
                (255, _) => assert_eq!(Protocol::V5.close_stdin().map(Vec::from), Some(sent)),
                _ => {}
            }
        }
    }
    assert_eq!(Protocol::V4.close_stdin(), None, "ff 00 is ignored there: the process would wait for ever");
}

#[test]
fn both_protocols_are_offered_and_the_best_is_taken() {
    for exec in lines(EXECS).iter().filter(|exec| text(exec, "/name") == "both_offered") {
        assert_eq!(exec["request"]["subprotocols"], json!(OFFERED));
        let chosen = Protocol::chosen(exec.pointer("/response/subprotocol").and_then(Value::as_str));
        let old = text(exec, "/server") == "old";
        assert_eq!(chosen, Some(if old { Protocol::V4 } else { Protocol::V5 }));
    }
    for other in [None, Some(""), Some("base64.channel.k8s.io"), Some("v6.channel.k8s.io")] {
        assert_eq!(Protocol::chosen(other), None, "no exit status would come");
    }
}

#[test]
fn a_refused_upgrade_is_told_in_words() {
    let mut kinds = std::collections::BTreeMap::new();
    for exec in lines(EXECS).iter().filter(|exec| exec.pointer("/response/status") != Some(&json!(101))) {
        let body = match exec.pointer("/response/body") {
            Some(Value::String(text)) => text.clone().into_bytes(),
            Some(other) => other.to_string().into_bytes(),
            None => Vec::new(),
        };
        let code = u16::try_from(exec.pointer("/response/status").and_then(Value::as_u64).unwrap()).unwrap();
        let failure = ApiFailure::from_response(code, None, &body);
        assert!(!failure.words().is_empty());
        kinds.insert(text(exec, "/name").to_owned(), failure.kind);
    }
    for (name, kind) in [
        ("unknown_protocol", FailureKind::UnknownProtocol),
        ("v5_only", FailureKind::UnknownProtocol),
        ("v5_get_without_create", FailureKind::Forbidden),
        ("v5_forbidden", FailureKind::Forbidden),
        ("v5_pod_missing", FailureKind::NotFound),
        ("v5_pod_pending", FailureKind::BadRequest),
        ("v5_pod_finished", FailureKind::InternalError),
        ("v5_kubelet_down", FailureKind::InternalError),
    ] {
        assert_eq!(kinds.get(name), Some(&kind), "{name}");
    }
}

#[test]
fn a_status_that_says_nothing_is_never_a_success() {
    for payload in [
        &b""[..],
        b"{}",
        b"null",
        b"[]",
        br#"{"status":"Failure"}"#,
        br#"{"status":"Failure","reason":"NonZeroExitCode"}"#,
        br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"0"}]}}"#,
        br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"-1"}]}}"#,
        br#"{"status":"Failure","reason":"NonZeroExitCode","message":"exit code 3"}"#,
    ] {
        let outcome = Outcome::decode(payload);
        assert_eq!(outcome.exit_status(), 255, "{outcome:?}");
        assert!(outcome.words("x").is_some());
    }
    let mut end = ExecEnd::new();
    end.status(br#"{"status":"Failure"}"#);
    end.status(br#"{"status":"Success"}"#);
    assert_ne!(end.finish().exit_status(), 0, "the first status counts");
    assert_eq!(ExecEnd::new().finish(), Outcome::Unknown);
}
