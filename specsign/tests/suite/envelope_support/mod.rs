//! Keys, times and sealed documents for the tests of envelopes.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "each test program uses its part")]

use toehold_core::Timestamp;
use toehold_specsign::{
    Admission, Document, Envelope, Format, PlainPolicy, SignedStatement, SigningKey, Statement, TrustedKeys, seal,
};

pub const HOUR: i64 = 3600;

pub fn key(number: u8) -> SigningKey {
    SigningKey::from_seed_hex(&format!("{number:02x}").repeat(32)).unwrap()
}

pub fn keys(numbers: &[u8], threshold: usize) -> TrustedKeys {
    TrustedKeys::new(numbers.iter().map(|number| key(*number).verifying_key()), threshold).unwrap()
}

/// So many seconds after a fixed instant.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_795_395_600 + seconds)
}

pub fn empty_payload() -> &'static [u8] {
    b"[]"
}

/// A statement of the specification `fleet` that holds for a day, whose next version key 1 signs.
pub fn statement(serial: u64, payload: &[u8]) -> Statement {
    statement_of("fleet", serial, payload)
}

pub fn statement_of(name: &str, serial: u64, payload: &[u8]) -> Statement {
    Statement::new(Format::Machines, name.parse().unwrap(), serial, at(-HOUR), at(23 * HOUR), payload, keys(&[1], 1))
}

pub fn signed(statement: Statement, by: &[u8]) -> SignedStatement {
    by.iter().fold(SignedStatement::unsigned(statement).unwrap(), |signed, number| signed.sign(&key(*number)))
}

pub fn sealed(payload: &[u8], current: SignedStatement, key_changes: Vec<SignedStatement>) -> String {
    seal(payload, &Envelope { current, key_changes }, None).unwrap()
}

pub fn document(text: &str) -> Document {
    Document::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

/// A document of `fleet` with this serial, signed by key 1.
pub fn version(serial: u64, payload: &[u8]) -> Document {
    document(&sealed(payload, signed(statement(serial, payload), &[1]), Vec::new()))
}

pub fn trusting(numbers: &[u8], threshold: usize) -> Admission {
    Admission { trusted: Some(keys(numbers, threshold)), plain: PlainPolicy::Refuse, ..Admission::default() }
}
