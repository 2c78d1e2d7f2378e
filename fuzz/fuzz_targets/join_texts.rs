//! Everything of the join that is pasted or comes in a header: no panic, and what was read is written as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toehold_joinproto::Endpoint;
use toehold_joinproto::jws::Detached;
use toehold_joinproto::line::JoinLine;
use toehold_joinproto::mac::MacHeader;
use toehold_joinproto::pin::Pin;
use toehold_joinproto::token::{Token, TokenId};
use toehold_joinproto::v3::{AgentId, TokenKey};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(detached) = Detached::parse(bytes) {
        assert_eq!(detached.to_string().as_bytes(), bytes);
    }
    if let Ok(header) = MacHeader::parse(bytes) {
        assert_eq!(header.to_string().as_bytes(), bytes);
    }
    if let Ok(token) = Token::parse_json(bytes) {
        assert_eq!(token.expose_json().as_bytes(), bytes);
    }
    let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]).verifying_key();
    assert!(toehold_joinproto::jws::verify_authorization(bytes, &key).is_err(), "a forgery");
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = Token::parse(text) {
        assert_eq!(*token.expose_text(), text);
    }
    if let Ok(line) = text.parse::<JoinLine>() {
        // A host name may come in upper case, an address in another spelling.
        assert_eq!(line.expose().parse().as_ref(), Ok(&line));
    }
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        assert_eq!(endpoint.to_string().parse().as_ref(), Ok(&endpoint));
    }
    same::<Pin>(text);
    same::<TokenId>(text);
    same::<AgentId>(text);
    same::<TokenKey>(text);
});

fn same<T: std::str::FromStr + std::fmt::Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text);
    }
}
