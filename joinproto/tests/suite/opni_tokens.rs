//! Tokens as Opni writes them, both ways.

use crate::support;
use crate::support::{Lax, array, hex, of, text};
use toehold_joinproto::token::{Token, TokenError, TokenId};

#[test]
fn the_first_six_random_bytes_are_the_id() {
    for case in of("tokens.jsonl", "new_token").iter().filter(|case| case.is_ok()) {
        let token = Token::from_bytes(&array(case.input("random_hex")));
        assert_eq!(hex(token.id().as_bytes()), text(case.output("id_hex")), "{}", case.id());
        assert_eq!(hex(token.expose_secret()), text(case.output("secret_hex")), "{}", case.id());
    }
}

#[test]
fn written_as_opni_writes_them() {
    let whole = |case: &&support::Case| {
        case.input("id_hex").as_str().unwrap().len() == 12 && case.input("secret_hex").as_str().unwrap().len() == 52
    };
    let token = |case: &support::Case| Token::from_hex(text(case.input("id_hex")), text(case.input("secret_hex"))).unwrap();
    for case in of("tokens.jsonl", "encode_hex").iter().filter(whole) {
        assert_eq!(*token(case).expose_text(), text(case.output("text")), "{}", case.id());
        assert_eq!(token(case).id().to_string(), text(case.output("hex_id")), "{}", case.id());
    }
    for case in of("tokens.jsonl", "encode_json").iter().filter(whole) {
        assert_eq!(*token(case).expose_json(), text(case.output("text")), "{}", case.id());
    }
}

#[test]
fn the_text_form_is_read_where_opni_would_write_it_so() {
    let mut lax = Lax::new(&["/upper-case-all", "/upper-case-id", "/mixed-case", "/all-F"]);
    for case in of("tokens.jsonl", "parse_hex") {
        let read = std::str::from_utf8(&case.text()).map_err(|_| TokenError::Text).and_then(Token::parse);
        if lax.has(case.id()) || !case.is_ok() {
            assert_eq!(read, Err(TokenError::Text), "{}", case.id());
            continue;
        }
        let token = read.unwrap_or_else(|error| panic!("{}: {error}", case.id()));
        assert_eq!(hex(token.id().as_bytes()), text(case.output("id_hex")), "{}", case.id());
        assert_eq!(*token.expose_text(), text(case.output("reencoded")), "{}", case.id());
    }
    lax.all_met();
}

#[test]
fn the_json_form_is_read_where_opni_would_write_it_so() {
    for case in of("tokens.jsonl", "parse_json") {
        let read = Token::parse_json(&case.text());
        let whole = case.is_ok()
            && case.text() == text(case.output("reencoded")).as_bytes()
            && text(case.output("id_hex")).len() == 12
            && text(case.output("secret_hex")).len() == 52;
        assert_eq!(read.is_ok(), whole, "{}", case.id());
        if let Ok(token) = read {
            assert_eq!(hex(token.expose_secret()), text(case.output("secret_hex")), "{}", case.id());
            assert_eq!(token.expose_json().as_bytes(), case.text(), "{}", case.id());
        }
    }
}

#[test]
fn the_stored_form_is_the_text_form_in_two_halves() {
    for case in of("tokens.jsonl", "from_bootstrap_token") {
        let (id, secret) = (text(case.input("token_id")), text(case.input("secret")));
        let usual = |text: &str, length| text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        assert_eq!(Token::from_hex(id, secret).is_ok(), usual(id, 12) && usual(secret, 52), "{}", case.id());
        assert_eq!(id.parse::<TokenId>().is_ok(), usual(id, 12), "{}", case.id());
    }
    for case in of("tokens.jsonl", "to_bootstrap_token") {
        let token = Token::from_hex(text(case.input("id_hex")), text(case.input("secret_hex"))).unwrap();
        let stored = format!("{}.{}", text(case.output("token_id")), text(case.output("secret")));
        assert_eq!(*token.expose_text(), stored, "{}", case.id());
    }
}
