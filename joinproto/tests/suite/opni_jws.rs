//! Signatures of tokens as Opni makes and checks them.

use crate::support;
use crate::support::{Case, array, of, text};
use ed25519_dalek::{SigningKey, VerifyingKey};
use toehold_joinproto::jws::{self, Detached, JwsError};
use toehold_joinproto::token::Token;

#[test]
fn signed_byte_for_byte_as_opni_signs() {
    for case in of("jws.jsonl", "sign_detached").iter().filter(|case| case.is_ok() && case.input("token_hex").is_string()) {
        let key = SigningKey::from_bytes(&array(case.input("key_seed_hex")));
        let token = Token::parse(text(case.input("token_hex"))).unwrap();
        let detached = Detached::sign(&token, &key);
        assert_eq!(detached.to_string(), text(case.output("detached")), "{}", case.id());
        assert_eq!(Detached::parse(text(case.output("detached")).as_bytes()), Ok(detached.clone()), "{}", case.id());
        let complete = detached.attach(&token, &key.verifying_key()).unwrap();
        assert_eq!(complete.expose(), text(case.output("complete")), "{}", case.id());
        assert_eq!(*complete.expose_authorization(), text(case.output("authorization_header")), "{}", case.id());
        let read = jws::verify_authorization(text(case.output("authorization_header")).as_bytes(), &key.verifying_key());
        assert_eq!(read, Ok(token), "{}", case.id());
    }
}

fn key(case: &Case) -> Option<VerifyingKey> {
    let key = case.input("public_key");
    let bytes: [u8; 32] = support::unhex(key["hex"].as_str()?).try_into().ok()?;
    if key["type"] == "ed25519" { VerifyingKey::from_bytes(&bytes).ok() } else { None }
}

/// Whether a text is one that the original itself would have written: its header and its base64.
fn is_as_written(text: &[u8], detached: bool) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let segments: Vec<_> = text.split('.').collect();
    let [header, payload, signature] = segments[..] else { return false };
    let canonical = |text: &str| {
        use base64ct::{Base64UrlUnpadded, Encoding as _};
        Base64UrlUnpadded::decode_vec(text).is_ok_and(|bytes| Base64UrlUnpadded::encode_string(&bytes) == text)
    };
    header == "eyJhbGciOiJFZERTQSJ9" && (detached == payload.is_empty()) && canonical(payload) && canonical(signature)
}

#[test]
fn detached_signatures_are_taken_where_opni_would_write_them_so() {
    let (mut passed, mut refused) = (0, 0);
    for case in of("jws.jsonl", "verify_detached") {
        let Some(key) = key(&case) else { continue };
        let Ok(token) = Token::parse(text(case.input("token_hex"))) else { continue };
        let attached = Detached::parse(&case.text()).and_then(|detached| detached.attach(&token, &key));
        // Keys of small order fit anything; the original does not mind.
        let sane = case.is_ok() && is_as_written(&case.text(), true) && !key.is_weak();
        assert_eq!(attached.is_ok(), sane, "{}: {attached:?}", case.id());
        if let Ok(complete) = attached {
            assert_eq!(complete.expose(), text(case.output("complete")), "{}", case.id());
            passed += 1;
        } else {
            refused += usize::from(case.is_ok());
        }
    }
    assert!(passed >= 20 && refused >= 20, "{passed} taken, {refused} tolerated by the original alone");
}

#[test]
fn complete_signatures_are_taken_where_opni_would_write_them_so() {
    let (mut passed, mut refused) = (0, 0);
    for case in of("jws.jsonl", "verify_complete") {
        let Some(key) = key(&case) else { continue };
        let read = jws::verify(&case.text(), &key);
        let whole = case.is_ok() && is_as_written(&case.text(), false) && case.output("payload_parse_error").is_null();
        let token = || {
            text(case.output("id_hex")).len() == 12 && text(case.output("secret_hex")).len() == 52 && {
                let token = Token::from_hex(text(case.output("id_hex")), text(case.output("secret_hex"))).unwrap();
                base64_of(&token) == text(case.output("payload_b64"))
            }
        };
        assert_eq!(read.is_ok(), whole && token(), "{}: {read:?}", case.id());
        match read {
            Ok(read) => {
                assert_eq!(support::hex(read.expose_secret()), text(case.output("secret_hex")), "{}", case.id());
                passed += 1;
            }
            Err(_) => refused += usize::from(case.is_ok()),
        }
    }
    assert!(passed >= 20 && refused >= 20, "{passed} taken, {refused} tolerated by the original alone");
}

fn base64_of(token: &Token) -> String {
    use base64ct::{Base64, Encoding as _};
    Base64::encode_string(token.expose_json().as_bytes())
}

#[test]
fn every_refusal_has_its_reason() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let token = Token::from_bytes(&[9; 32]);
    let complete = Detached::sign(&token, &key).attach(&token, &key.verifying_key()).unwrap().expose().to_owned();
    let [header, payload, signature] = complete.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let refusal = |text: &str| jws::verify(text.as_bytes(), &key.verifying_key()).unwrap_err();
    let b64 = |text: &str| {
        use base64ct::{Base64UrlUnpadded, Encoding as _};
        Base64UrlUnpadded::encode_string(text.as_bytes())
    };
    for alg in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"HS256"}"#,
        "{}",
        r#"{"alg":"EdDSA","alg":"none"}"#,
        r#"{"alg":"EdDSA","crit":["x"]}"#,
        r#"{ "alg":"EdDSA"}"#,
    ] {
        assert_eq!(refusal(&format!("{}.{payload}.{signature}", b64(alg))), JwsError::Header, "{alg}");
    }
    assert_eq!(refusal(&format!("{complete}.")), JwsError::Segments);
    assert_eq!(refusal(&format!("{header}.{payload}")), JwsError::Segments);
    assert_eq!(refusal(&format!("{complete}=")), JwsError::SignatureEncoding);
    assert_eq!(refusal(&format!("{complete}\n")), JwsError::SignatureEncoding);
    assert_eq!(refusal(&format!("{header}.{payload}.{}", signature.replace(['-', '_'], "+"))), JwsError::SignatureEncoding);
    let stray = format!("{}{}", &signature[..85], if signature.ends_with('A') { 'B' } else { 'R' });
    assert_eq!(refusal(&format!("{header}.{payload}.{stray}")), JwsError::SignatureEncoding);
    assert_eq!(refusal(&format!("{header}.{payload}=.{signature}")), JwsError::Signature);
    assert_eq!(refusal(&"a".repeat(600)), JwsError::TooLong);
    assert_eq!(
        refusal(&format!(r#"{{"payload":"{payload}","header":{{"alg":"EdDSA"}},"signature":"{signature}"}}"#)),
        JwsError::Segments
    );
    let bearer = |text: String| jws::verify_authorization(text.as_bytes(), &key.verifying_key());
    for scheme in ["", "Bearer", "bearer ", "BEARER ", "Bearer\t", "Basic "] {
        assert_eq!(bearer(format!("{scheme}{complete}")), Err(JwsError::Bearer), "{scheme:?}");
    }
    assert_eq!(bearer(format!("Bearer  {complete}")), Err(JwsError::Header));
    assert_eq!(bearer(format!("Bearer {complete}")), Ok(token));
    assert_eq!(Detached::parse(complete.as_bytes()), Err(JwsError::NotDetached));
}

#[test]
fn a_signed_payload_that_is_no_token_is_refused_and_nobody_falls_over() {
    use base64ct::{Base64UrlUnpadded, Encoding as _};
    use ed25519_dalek::Signer as _;
    let key = SigningKey::from_bytes(&[7; 32]);
    let token = Token::from_bytes(&[9; 32]);
    let json = token.expose_json();
    let doubled = json.replacen('{', r#"{"id":"AAAAAAAA","#, 1);
    for payload in ["", "null", "[]", "{}", "5", r#"{"id":"CQkJCQkJ"}"#, &doubled, &format!("{} ", *json), &format!(" {}", *json)]
    {
        let signed = format!("eyJhbGciOiJFZERTQSJ9.{}", Base64UrlUnpadded::encode_string(payload.as_bytes()));
        let signature = Base64UrlUnpadded::encode_string(&key.sign(signed.as_bytes()).to_bytes());
        let read = jws::verify(format!("{signed}.{signature}").as_bytes(), &key.verifying_key());
        assert!(matches!(read, Err(JwsError::Token(_))), "{payload}: {read:?}");
    }
}
