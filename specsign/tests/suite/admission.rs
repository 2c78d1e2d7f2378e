//! What a root takes and what it refuses: the rules S1, S2 and S3 of the threat model.

use crate::envelope_support::{
    HOUR, at, document, empty_payload, key, keys, sealed, signed, statement, statement_of, trusting, version,
};
use toehold_core::Timestamp;
use toehold_specsign::{
    Admission, AdmissionError, Document, DocumentError, Envelope, Format, Freshness, MAX_SERIAL_JUMP, Payload, PlainPolicy,
    RootState, Scheme, SignedStatement, Statement, pack, pack_signed, seal,
};

fn admit(state: &RootState, document: Document) -> Result<RootState, AdmissionError> {
    trusting(&[1], 1).admit(state, document, at(0)).map(|admitted| admitted.state)
}

fn taken(serial: u64) -> RootState {
    admit(&RootState::default(), version(serial, empty_payload())).unwrap()
}

fn plain(number: u8) -> Document {
    document(&pack(Format::Machines, b"[]", Some(&key(number))).unwrap())
}

#[test]
fn s1_a_plain_document_is_refused_unless_told_otherwise_and_for_ever_after_an_envelope() {
    assert_eq!(admit(&RootState::default(), plain(1)), Err(AdmissionError::PlainRefused));
    let lax = |plain| Admission { plain, ..trusting(&[1], 1) };
    let signed = lax(PlainPolicy::AcceptSigned);
    let fresh = RootState::default();
    assert!(matches!(signed.admit(&fresh, plain(1), at(0)).unwrap().payload, Payload::Verified(_)));
    assert!(signed.admit(&fresh, plain(2), at(0)).is_err());
    let unsigned = document(&pack(Format::Machines, b"[]", None).unwrap());
    assert_eq!(signed.admit(&fresh, unsigned.clone(), at(0)).unwrap_err(), DocumentError::NotSigned.into());
    let anybody = lax(PlainPolicy::AcceptUnsigned);
    assert!(matches!(anybody.admit(&fresh, unsigned.clone(), at(0)).unwrap().payload, Payload::Unsigned(_)));
    // One envelope ends all of that.
    let seen = signed.admit(&fresh, version(1, b"[]"), at(0)).unwrap().state;
    for (admission, document) in [(&signed, plain(1)), (&anybody, plain(1)), (&anybody, unsigned)] {
        assert_eq!(admission.admit(&seen, document, at(0)).unwrap_err(), AdmissionError::Stripped);
    }
    // And so does one that another root has seen of the same key.
    let known = Admission { enveloped_keys: [key(1).verifying_key()].into(), ..signed };
    assert_eq!(known.admit(&fresh, plain(1), at(0)).unwrap_err(), AdmissionError::Stripped);
}

#[test]
fn s1_no_signature_is_good_for_another_format() {
    // An envelope's signature does not make its statement a plain payload, nor the other way round.
    let current = signed(statement(1, b"[]"), &[1]);
    let message = current.signing_bytes(Scheme::Plain);
    let signature = key(1).sign(&message);
    let forged = document(&pack_signed(Format::Machines, &message, &signature));
    assert!(matches!(forged.verify_plain(&keys(&[1], 1)), Err(DocumentError::OtherDomain(_))));
    assert!(matches!(pack(Format::Machines, &message, Some(&key(1))), Err(DocumentError::OtherDomain(_))));
    let ssh = current.signing_bytes(Scheme::SshSig);
    assert!(matches!(pack(Format::Machines, &ssh, Some(&key(1))), Err(DocumentError::OtherDomain(_))));
    // A plain signature over the statement's bytes is not one of the envelope.
    let bytes = current.bytes().to_vec();
    let other = SignedStatement::unsigned(statement(1, b"[]")).unwrap().with_signature(
        key(1).verifying_key(),
        key(1).sign(&bytes),
        Scheme::Plain,
    );
    let refused = admit(&RootState::default(), document(&sealed(b"[]", other, Vec::new())));
    assert_eq!(refused, Err(AdmissionError::Signers { serial: 1, got: 0, threshold: 1 }));
    // And a signature of one scheme is not one of the other.
    let crossed =
        SignedStatement::unsigned(statement(1, b"[]")).unwrap().with_signature(key(1).verifying_key(), signature, Scheme::SshSig);
    assert!(admit(&RootState::default(), document(&sealed(b"[]", crossed, Vec::new()))).is_err());
}

#[test]
fn s1_an_envelope_vouches_for_its_own_payload_alone() {
    let envelope = Envelope { current: signed(statement(1, b"[]"), &[1]), key_changes: Vec::new() };
    assert!(seal(b"[ ]", &envelope, None).is_err());
    let text = seal(b"[]", &envelope, None).unwrap();
    let other = text.replace("\"W10=\"", "\"WyBd\"");
    assert_ne!(text, other);
    assert!(matches!(admit(&RootState::default(), document(&other)), Err(AdmissionError::Document(DocumentError::Envelope(_)))));
    let moved = text.replace("machines", "plugins");
    assert!(matches!(admit(&RootState::default(), document(&moved)), Err(AdmissionError::Format { .. })));
}

#[test]
fn s1_choria_takes_a_sealed_document_as_it_takes_its_own() {
    let payload = b"[]\n";
    let envelope = Envelope { current: signed(statement(1, payload), &[1]), key_changes: Vec::new() };
    let plain_signature = key(1).sign(payload);
    let text = seal(payload, &envelope, Some(&plain_signature)).unwrap();
    // All that it reads, as it writes it, stands at the beginning.
    let own = pack(Format::Machines, payload, Some(&key(1))).unwrap();
    assert!(text.starts_with(own.strip_suffix('}').unwrap()));
    assert!(document(&text).verify_plain(&keys(&[1], 1)).is_ok());
    let own: serde_json::Value = serde_json::from_str(&own).unwrap();
    let sealed: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(own.as_object().unwrap().iter().all(|(name, value)| sealed[name] == *value));
}

#[test]
fn s2_a_root_is_bound_to_one_name_and_one_format() {
    let bound = taken(1);
    let foreign = || document(&sealed(b"[]", signed(statement_of("other", 2, b"[]"), &[1]), Vec::new()));
    assert!(matches!(admit(&bound, foreign()), Err(AdmissionError::Name { .. })));
    // Also at first contact, where the operator named one.
    let named = Admission { name: Some("fleet".parse().unwrap()), ..trusting(&[1], 1) };
    assert!(matches!(named.admit(&RootState::default(), foreign(), at(0)), Err(AdmissionError::Name { .. })));
    // And the operator's later word does not move a root.
    let moved = Admission { name: Some("other".parse().unwrap()), ..trusting(&[1], 1) };
    assert!(matches!(moved.admit(&bound, foreign(), at(0)), Err(AdmissionError::Name { .. })));
    let mut plugins = statement(2, b"[]");
    plugins.format = Format::Plugins;
    let plugins = document(&sealed(b"[]", signed(plugins, &[1]), Vec::new()));
    assert!(matches!(admit(&bound, plugins), Err(AdmissionError::Format { .. })));
    // Without envelopes, the format binds as well.
    let lax = Admission { plain: PlainPolicy::AcceptSigned, ..trusting(&[1], 1) };
    let machines = lax.admit(&RootState::default(), plain(1), at(0)).unwrap().state;
    let plugins = document(&pack(Format::Plugins, b"[]", Some(&key(1))).unwrap());
    assert!(matches!(lax.admit(&machines, plugins, at(0)), Err(AdmissionError::Format { .. })));
    // And so does the name that the operator gave to what has none of its own.
    let [fleet, other] = ["fleet", "other"].map(|name| Admission { name: Some(name.parse().unwrap()), ..lax.clone() });
    let bound = fleet.admit(&RootState::default(), plain(1), at(0)).unwrap().state;
    assert!(matches!(other.admit(&bound, plain(1), at(0)), Err(AdmissionError::Name { .. })));
    assert!(fleet.admit(&bound, plain(1), at(0)).is_ok() && lax.admit(&bound, plain(1), at(0)).is_ok());
    // Later, an envelope has to be of that one.
    assert!(matches!(lax.admit(&bound, foreign(), at(0)), Err(AdmissionError::Name { .. })));
}

#[test]
fn s3_an_older_serial_is_refused_and_two_of_one_serial_are_a_fork() {
    let state = taken(5);
    for serial in 1..5 {
        assert_eq!(admit(&state, version(serial, b"[]")), Err(AdmissionError::Rollback { floor: 5, got: serial }));
    }
    assert_eq!(admit(&state, version(5, b"[]")).unwrap(), state, "the same again changes nothing");
    assert_eq!(admit(&state, version(5, b"[ ]")), Err(AdmissionError::Fork(5)));
    assert_eq!(admit(&state, version(6, b"[]")).unwrap().serial, 6);
    let late = Admission { min_serial: 9, ..trusting(&[1], 1) };
    let refused = late.admit(&RootState::default(), version(8, b"[]"), at(0)).unwrap_err();
    assert_eq!(refused, AdmissionError::Rollback { floor: 9, got: 8 });
    assert!(late.admit(&RootState::default(), version(9, b"[]"), at(0)).is_ok());
}

#[test]
fn s3_serials_cannot_be_used_up() {
    let state = taken(5);
    let far = 5 + MAX_SERIAL_JUMP;
    assert!(admit(&state, version(far, b"[]")).is_ok());
    assert_eq!(admit(&state, version(far + 1, b"[]")), Err(AdmissionError::Jump { floor: 5, got: far + 1 }));
    assert!(admit(&state, version(u64::MAX, b"[]")).is_err());
    let told = Admission { min_serial: far + 1, ..trusting(&[1], 1) };
    assert!(told.admit(&state, version(far + 1, b"[]"), at(0)).is_ok());
}

#[test]
fn s3_expired_is_stale_if_it_is_in_place_and_refused_if_it_is_new() {
    let admission = trusting(&[1], 1);
    let state = taken(5);
    let late = at(23 * HOUR);
    let admitted = admission.admit(&state, version(5, b"[]"), late).unwrap();
    assert_eq!(admitted.freshness, Freshness::Stale { since: late });
    assert_eq!(admission.admit(&state, version(6, b"[]"), late).unwrap_err(), AdmissionError::Expired(late));
    assert_eq!(admission.admit(&state, version(5, b"[]"), at(23 * HOUR - 1)).unwrap().freshness, Freshness::Fresh);
    let early = at(-2 * HOUR);
    assert_eq!(admission.admit(&RootState::default(), version(1, b"[]"), early).unwrap_err(), AdmissionError::NotYet(at(-HOUR)));
}

#[test]
fn s3_a_clock_that_is_set_back_does_not_bring_a_document_back() {
    let admission = trusting(&[1], 1);
    let late = admission.admit(&taken(5), version(5, b"[]"), at(30 * HOUR)).unwrap();
    assert!(matches!(late.freshness, Freshness::Stale { .. }));
    let back = admission.admit(&late.state, version(5, b"[]"), at(0)).unwrap();
    assert!(matches!(back.freshness, Freshness::Stale { .. }));
    assert_eq!(
        admission.admit(&late.state, version(6, b"[]"), at(0)).unwrap_err(),
        AdmissionError::ExpiredBefore { expires: at(23 * HOUR), seen: at(30 * HOUR) }
    );
    assert_eq!(back.state.highest_time, at(30 * HOUR));
}

fn hands_over(serial: u64, next: &[u8], threshold: usize, by: &[u8]) -> SignedStatement {
    let mut statement = statement(serial, b"[]");
    statement.next = keys(next, threshold);
    signed(statement, by)
}

#[test]
fn s3_keys_change_with_the_signatures_of_both_sides_and_persisted_keys_win() {
    let state = taken(1);
    let by = |by: &[u8]| admit(&state, document(&sealed(b"[]", hands_over(2, &[2, 3], 2, by), Vec::new())));
    assert_eq!(by(&[2, 3]), Err(AdmissionError::Signers { serial: 2, got: 0, threshold: 1 }));
    assert_eq!(by(&[1]), Err(AdmissionError::NewSigners { serial: 2, got: 0, threshold: 2 }));
    assert_eq!(by(&[1, 2]), Err(AdmissionError::NewSigners { serial: 2, got: 1, threshold: 2 }));
    assert_eq!(by(&[1, 2, 2]), Err(AdmissionError::NewSigners { serial: 2, got: 1, threshold: 2 }));
    let state = by(&[1, 2, 3]).unwrap();
    assert_eq!(state.trusted, Some(keys(&[2, 3], 2)));
    // The old key, which the command line still names, is worth nothing now.
    assert_eq!(admit(&state, version(3, b"[]")), Err(AdmissionError::Signers { serial: 3, got: 0, threshold: 2 }));
    let next = hands_over(3, &[2, 3], 2, &[2, 3]);
    assert_eq!(admit(&state, document(&sealed(b"[]", next, Vec::new()))).unwrap().serial, 3);
}

#[test]
fn s3_a_node_that_was_away_walks_the_key_changes() {
    let state = taken(1);
    let changes = vec![hands_over(3, &[2], 1, &[1, 2]), hands_over(7, &[3, 4], 2, &[2, 3, 4])];
    let current = || hands_over(9, &[3, 4], 2, &[3, 4]);
    let walked = admit(&state, document(&sealed(b"[]", current(), changes.clone()))).unwrap();
    assert_eq!((walked.serial, walked.trusted), (9, Some(keys(&[3, 4], 2))));
    // A fresh node, with the keys of the beginning or of the end.
    for trusted in [trusting(&[1], 1), trusting(&[3, 4], 2)] {
        let changes = if trusted.trusted == Some(keys(&[1], 1)) { changes.clone() } else { Vec::new() };
        assert!(trusted.admit(&RootState::default(), document(&sealed(b"[]", current(), changes)), at(0)).is_ok());
    }
    // The dates of the steps are past, and that is no matter.
    let mut old = statement(3, b"[]");
    (old.not_before, old.expires, old.next) = (at(-1000 * HOUR), at(-900 * HOUR), keys(&[2], 1));
    let aged = vec![signed(old, &[1, 2]), changes[1].clone()];
    assert!(admit(&state, document(&sealed(b"[]", current(), aged))).is_ok());
    for (what, changes) in [
        ("one is missing", vec![changes[1].clone()]),
        ("they come in the wrong order", vec![changes[1].clone(), changes[0].clone()]),
        ("one is forged", vec![hands_over(3, &[9], 1, &[9]), changes[1].clone()]),
        ("one is of another fleet", {
            let mut foreign = statement_of("other", 3, b"[]");
            foreign.next = keys(&[2], 1);
            vec![signed(foreign, &[1, 2]), changes[1].clone()]
        }),
        ("one did not sign itself", vec![hands_over(3, &[2], 1, &[1]), changes[1].clone()]),
    ] {
        assert!(admit(&state, document(&sealed(b"[]", current(), changes))).is_err(), "{what}");
    }
}

#[test]
fn s3_a_threshold_counts_distinct_trusted_keys() {
    let two = |by: &[u8]| {
        let mut statement = statement(1, b"[]");
        statement.next = keys(&[1, 2, 3], 2);
        trusting(&[1, 2, 3], 2).admit(&RootState::default(), document(&sealed(b"[]", signed(statement, by), Vec::new())), at(0))
    };
    for few in [&[][..], &[1], &[1, 1], &[1, 4], &[4, 5, 6]] {
        assert!(matches!(two(few), Err(AdmissionError::Signers { threshold: 2, .. })), "{few:?}");
    }
    for enough in [&[1, 2][..], &[3, 1], &[4, 2, 3]] {
        assert!(two(enough).is_ok(), "{enough:?}");
    }
    assert!(toehold_specsign::TrustedKeys::new([key(1).verifying_key(), key(1).verifying_key()], 2).is_err());
    let plain = Admission { plain: PlainPolicy::AcceptSigned, ..trusting(&[1, 2], 2) };
    let refused = plain.admit(&RootState::default(), self::plain(1), at(0)).unwrap_err();
    assert_eq!(refused, DocumentError::OneSignatureOnly { threshold: 2 }.into());
}

#[test]
fn s3_nobody_is_trusted_by_default() {
    let admission = Admission::default();
    assert_eq!(admission.admit(&RootState::default(), version(1, b"[]"), at(0)).unwrap_err(), AdmissionError::NoKeys);
    let plain = Admission { plain: PlainPolicy::AcceptSigned, ..admission };
    assert_eq!(plain.admit(&RootState::default(), self::plain(1), at(0)).unwrap_err(), AdmissionError::NoKeys);
}

#[test]
fn envelopes_that_are_none_are_refused() {
    let good = sealed(b"[]", signed(statement(1, b"[]"), &[1]), Vec::new());
    assert!(Document::parse(good.as_bytes()).is_ok());
    let parts: serde_json::Value = serde_json::from_str(&good).unwrap();
    let changed = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut document = parts.clone();
        edit(&mut document["envelope"]);
        Document::parse(document.to_string().as_bytes()).is_err()
    };
    assert!(!changed(&|_| {}));
    assert!(changed(&|envelope| envelope["more"] = 1.into()), "an unknown member");
    assert!(changed(&|envelope| envelope["current"]["signed"] = "!".into()));
    assert!(changed(&|envelope| envelope["current"]["signed"] = "e30=".into()), "an empty statement");
    assert!(changed(&|envelope| envelope["current"] = serde_json::Value::Null));
    assert!(changed(&|envelope| *envelope = serde_json::Value::Null));
    assert!(changed(&|envelope| {
        let one = envelope["current"]["signatures"][0].clone();
        envelope["current"]["signatures"] = vec![one; 65].into();
    }));
    assert!(changed(&|envelope| {
        let one = envelope["current"].clone();
        envelope["key_changes"] = vec![one; 257].into();
    }));
    let encode = |json: String| <base64ct::Base64 as base64ct::Encoding>::encode_string(json.as_bytes());
    let statement = String::from_utf8(signed(statement(1, b"[]"), &[]).bytes().to_vec()).unwrap();
    for (from, to) in [
        ("\"v\":1", "\"v\":2"),
        ("\"serial\":1", "\"serial\":0"),
        ("\"serial\":1", "\"serial\":-1"),
        ("\"serial\":1", "\"serial\":1,\"serial\":2"),
        ("\"serial\":1", "\"serial\":1,\"urgent\":true"),
        ("\"threshold\":1", "\"threshold\":0"),
        ("\"threshold\":1", "\"threshold\":2"),
        ("fleet", "../fleet"),
        ("\"expires\":\"2026", "\"expires\":\"2025"),
    ] {
        let edited = statement.replacen(from, to, 1);
        assert_ne!(statement, edited, "{from}");
        assert!(changed(&|envelope| envelope["current"]["signed"] = encode(edited.clone()).into()), "{to}");
    }
    let doubled = good.replacen("\"envelope\":", "\"envelope\":{},\"envelope\":", 1);
    assert!(Document::parse(doubled.as_bytes()).is_err());
}

#[test]
fn a_statement_says_what_its_text_says() {
    let mut statement: Statement = statement(7, b"[]");
    statement.removals_meant = true;
    let current = signed(statement.clone(), &[1]);
    assert_eq!(
        std::str::from_utf8(current.bytes()).unwrap(),
        format!(
            "{{\"v\":1,\"format\":\"machines\",\"name\":\"fleet\",\"serial\":7,\"not_before\":\"2026-11-23T00:00:00Z\",\
             \"expires\":\"2026-11-24T00:00:00Z\",\"payload\":\"{}\",\"next\":{{\"keys\":[\"{}\"],\"threshold\":1}},\"removals_meant\":true}}",
            toehold_specsign::Sha256Digest::of(b"[]"),
            key(1).verifying_key()
        )
    );
    let read = document(&sealed(b"[]", current.clone(), Vec::new()));
    assert_eq!(read.envelope().unwrap().current, current);
    assert!(trusting(&[1], 1).admit(&RootState::default(), read, at(0)).unwrap().removals_meant);
    assert_eq!(Timestamp::UNIX_EPOCH, RootState::default().highest_time);
}

#[test]
fn s3_a_first_contact_knows_the_keys_of_any_version() {
    // Serial 1 by key 1; 2 hands over to key 2, 4 to key 3; 5 is the current one.
    let of = |serial, by: &[u8], next: u8| {
        let mut statement = statement(serial, b"[]");
        statement.next = keys(&[next], 1);
        signed(statement, by)
    };
    let versions = [of(1, &[1], 1), of(2, &[1, 2], 2), of(3, &[2], 2), of(4, &[2, 3], 3), of(5, &[3], 3)];
    let mut envelope = Envelope { current: versions[0].clone(), key_changes: Vec::new() };
    for version in &versions[1..] {
        envelope = Envelope { key_changes: envelope.key_changes_of_next(), current: version.clone() };
    }
    let serials: Vec<u64> = envelope.key_changes.iter().map(|change| change.statement().serial).collect();
    assert_eq!(serials, [1, 2, 4], "the first version, and those that changed the keys");
    let text = seal(b"[]", &envelope, None).unwrap();
    for generation in 1..=3 {
        let state = trusting(&[generation], 1).admit(&RootState::default(), document(&text), at(0)).unwrap().state;
        assert_eq!((state.serial, state.trusted), (5, Some(keys(&[3], 1))), "key {generation}");
    }
    assert!(matches!(
        trusting(&[4], 1).admit(&RootState::default(), document(&text), at(0)),
        Err(AdmissionError::Signers { serial: 5, got: 0, threshold: 1 })
    ));
    // A node that has taken one passes over nothing.
    let taken = trusting(&[1], 1).admit(&RootState::default(), version(1, b"[]"), at(0)).unwrap().state;
    let gap = Envelope { key_changes: envelope.key_changes[2..].to_vec(), current: envelope.current.clone() };
    let refused = trusting(&[3], 1).admit(&taken, document(&seal(b"[]", &gap, None).unwrap()), at(0));
    assert!(matches!(refused, Err(AdmissionError::Signers { serial: 4, got: 0, threshold: 1 })));
}
