//! What envelopes vouch for, without the base64 around it, which no fuzzer gets through: no panic, the signatures are over the bytes that came,
//! and a root takes what its keys have signed for what it says it is.
#![no_main]

use std::sync::LazyLock;

use base64ct::{Base64, Encoding as _};
use libfuzzer_sys::fuzz_target;
use toehold_specsign::{
    Admission, Document, Envelope, RootState, Sha256Digest, SignedStatement, SigningKey, Statement, TrustedKeys, seal,
};

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_seed_hex(&"02".repeat(32)).expect("a valid seed"));

/// The list that the seeds are about.
const PAYLOAD: &[u8] = b"[]";

fuzz_target!(|bytes: &[u8]| {
    let members = serde_json::json!({ "signed": Base64::encode_string(bytes), "signatures": [] });
    let Ok(unsigned) = serde_json::from_value::<SignedStatement>(members) else { return };
    assert_eq!((unsigned.bytes(), unsigned.digest()), (bytes, Sha256Digest::of(bytes)), "as it came");
    let statement = unsigned.statement().clone();
    assert!(statement.serial > 0 && statement.not_before < statement.expires);
    // Written by us it says the same, though not always in the same bytes.
    let again = SignedStatement::unsigned(statement.clone()).expect("what we read we can write");
    assert_eq!(serde_json::from_slice::<Statement>(again.bytes()).expect("what we write we can read"), statement);

    let trusted = TrustedKeys::one(KEY.verifying_key());
    assert!(!unsigned.is_signed_by(&trusted));
    let signed = unsigned.sign(&KEY);
    assert!(signed.is_signed_by(&trusted));
    let written = serde_json::to_vec(&signed).expect("a statement can be written");
    assert_eq!(serde_json::from_slice::<SignedStatement>(&written).expect("what we write we can read"), signed);

    let envelope = Envelope { current: signed.clone(), key_changes: vec![signed] };
    // Only a statement about the list is sealed with it.
    let Ok(document) = seal(PAYLOAD, &envelope, None) else {
        assert_ne!(statement.payload, Sha256Digest::of(PAYLOAD));
        return;
    };
    let document = Document::parse(document.as_bytes()).expect("what we write we can read");
    let admission = Admission { trusted: Some(trusted), ..Admission::default() };
    if let Ok(admitted) = admission.admit(&RootState::default(), document, statement.not_before) {
        assert_eq!((admitted.serial, admitted.expires), (Some(statement.serial), Some(statement.expires)));
        assert_eq!(admitted.removals_meant, statement.removals_meant);
    }
});
