//! The answer to Join, made once for each change of the tokens and not for each stranger who asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use toehold_core::Timestamp;

use crate::admission::TokenRecord;
use crate::jws::Detached;
use crate::token::{Token, TokenId};
use crate::wire::{MAX_MESSAGE, put_signature};

/// The signatures of all active tokens under one key.
#[derive(Debug, Default)]
pub struct Signatures {
    tokens: BTreeMap<TokenId, Signed>,
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Signed {
    created_at: Timestamp,
    expires_at: Timestamp,
    text: String,
}

#[derive(Debug)]
struct Answer {
    bytes: Arc<[u8]>,
    /// From when on one of its tokens has ended.
    until: Timestamp,
}

impl Signatures {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over the active tokens (`Desk::opni_tokens`): signs those that are new, drops those that are gone. Returns how many
    /// signatures were made. Another key needs another `Signatures`.
    pub fn refresh(&mut self, active: &[(TokenRecord, Token)], key: &SigningKey) -> usize {
        let before = self.tokens.len();
        let is_active: std::collections::BTreeSet<_> = active.iter().map(|(record, _)| record.id).collect();
        self.tokens.retain(|id, _| is_active.contains(id));
        let mut changed = self.tokens.len() != before;
        let mut made = 0;
        for (record, token) in active {
            self.tokens.entry(record.id).or_insert_with(|| {
                made += 1;
                Signed {
                    created_at: record.created_at,
                    expires_at: record.expires_at,
                    text: Detached::sign(token, key).to_string(),
                }
            });
        }
        changed |= made > 0;
        if changed {
            self.answer = None;
        }
        made
    }

    /// Whether there is a signature for this token. A change of the uses of a token for which there is none changes nothing here.
    pub fn has(&self, token: TokenId) -> bool {
        self.tokens.contains_key(&token)
    }

    /// The answer to Join at this time; `None` where no token is active. No signature is made, and while no token has ended nothing is
    /// copied.
    pub fn answer(&mut self, now: Timestamp) -> Option<Arc<[u8]>> {
        if let Some(answer) = &self.answer
            && now < answer.until
        {
            return Some(answer.bytes.clone());
        }
        self.tokens.retain(|_, signed| now < signed.expires_at);
        let until = self.tokens.values().map(|signed| signed.expires_at).min()?;
        let bytes: Arc<[u8]> = self.encode().into();
        self.answer = Some(Answer { bytes: bytes.clone(), until });
        Some(bytes)
    }

    /// All of them; what an agent would no longer read is left out, the newest first, so that those who could join still can.
    fn encode(&self) -> Vec<u8> {
        let mut oldest_first: Vec<_> = self.tokens.iter().collect();
        oldest_first.sort_by_key(|(id, signed)| (signed.created_at, **id));
        let mut bytes = Vec::with_capacity(oldest_first.len() * 128);
        for (id, signed) in oldest_first {
            let end = bytes.len();
            put_signature(&id.to_string(), signed.text.as_bytes(), &mut bytes);
            if bytes.len() > MAX_MESSAGE {
                bytes.truncate(end);
                break;
            }
        }
        bytes
    }
}
