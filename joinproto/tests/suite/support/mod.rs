//! Reading the known answers.
#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod curve;
pub(crate) mod lab;

use std::path::Path;

use base64ct::{Base64, Encoding as _};
use serde_json::Value;

/// One known answer.
pub(crate) struct Case(pub(crate) Value);

/// All cases of a file.
pub(crate) fn cases(file: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/opni").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| Case(serde_json::from_str(line).unwrap())).collect()
}

/// The cases of one operation; there is at least one.
pub(crate) fn of(file: &str, op: &str) -> Vec<Case> {
    let found: Vec<_> = cases(file).into_iter().filter(|case| case.0["op"] == op).collect();
    assert!(!found.is_empty());
    found
}

impl Case {
    pub(crate) fn id(&self) -> &str {
        self.0["id"].as_str().unwrap()
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.0["expect"] == "ok"
    }

    pub(crate) fn input(&self, name: &str) -> &Value {
        &self.0["input"][name]
    }

    pub(crate) fn output(&self, name: &str) -> &Value {
        &self.0["output"][name]
    }

    /// Free text as bytes.
    pub(crate) fn text(&self) -> Vec<u8> {
        let input = &self.0["input"];
        match input["text_b64"].as_str() {
            Some(text) => Base64::decode_vec(text).unwrap(),
            None => input["text"].as_str().unwrap().as_bytes().to_vec(),
        }
    }
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|place| u8::from_str_radix(&text[2 * place..2 * place + 2], 16).unwrap()).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    unhex(text(value))
}

pub(crate) fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

pub(crate) fn base64s(value: &Value) -> Vec<Vec<u8>> {
    value.as_array().unwrap().iter().map(|item| Base64::decode_vec(text(item)).unwrap()).collect()
}

/// What the original tolerates and we refuse, by the case's name: the test fails where the list and the code disagree.
pub(crate) struct Lax<'a> {
    names: &'a [&'a str],
    met: std::collections::BTreeSet<&'a str>,
}

impl<'a> Lax<'a> {
    pub(crate) fn new(names: &'a [&'a str]) -> Self {
        Self { names, met: std::collections::BTreeSet::new() }
    }

    /// Whether the end of this id is on the list.
    pub(crate) fn has(&mut self, id: &str) -> bool {
        let found = self.names.iter().find(|name| id.ends_with(**name));
        self.met.extend(found);
        found.is_some()
    }

    pub(crate) fn all_met(&self) {
        let unmet: Vec<_> = self.names.iter().filter(|name| !self.met.contains(**name)).collect();
        assert!(unmet.is_empty(), "no case is called {unmet:?}");
    }
}
