//! From one use of a token to the next.

use std::collections::BTreeSet;

use serde::Deserialize;
use toehold_core::{Record as _, Store, Timestamp};

use super::decide::{Request, first_slot};
use super::desk::token_key;
use super::error::DeskError;
use super::record::{Held, TokenRecord, UseRecord};

/// So many uses are looked at one by one; then the store is asked for all of them at once.
const CLOSE_LOOK: u32 = 8;

/// A client's way around the uses of a token, from where it begins to look.
///
/// Of a token with many uses that are all taken, who comes in vain would otherwise have the store asked as often as there are uses.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    token: &'a TokenRecord,
    request: &'a Request,
    first: u32,
    passed: u32,
    /// Those that others hold. Who holds a use never changes, so that a list is right about these however old it is; all else is
    /// looked at where it stands.
    others: Option<BTreeSet<u32>>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(token: &'a TokenRecord, request: &'a Request) -> Self {
        Self { token, request, first: first_slot(token.uses, &request.holder), passed: 0, others: None }
    }

    /// The use to look at; none where all have been passed.
    pub(super) async fn at<S: Store>(&mut self, store: &S) -> Result<Option<u32>, DeskError> {
        if self.passed >= CLOSE_LOOK && self.passed < self.token.uses && self.others.is_none() {
            self.others = Some(self.of_others(store).await?);
        }
        while self.passed < self.token.uses {
            let slot = (self.first + self.passed) % self.token.uses;
            if !self.others.as_ref().is_some_and(|others| others.contains(&slot)) {
                return Ok(Some(slot));
            }
            self.passed += 1;
        }
        Ok(None)
    }

    /// The use is another's.
    pub(super) fn pass(&mut self) {
        self.passed += 1;
    }

    async fn of_others<S: Store>(&self, store: &S) -> Result<BTreeSet<u32>, DeskError> {
        /// A use record, read once and not for writing it back.
        #[derive(Deserialize)]
        struct Glance {
            readable_from: u32,
            #[serde(default)]
            held: Option<Held>,
            #[serde(default)]
            revoked_at: Option<Timestamp>,
        }
        let entries = store.list(&token_key(self.token.id)?).await?;
        let of_another = |value: &[u8]| {
            serde_json::from_slice(value).is_ok_and(|glance: Glance| {
                glance.readable_from <= UseRecord::VERSION
                    && glance.revoked_at.is_none()
                    && glance.held.is_some_and(|held| held.holder != self.request.holder)
            })
        };
        let slots = entries.iter().filter(|entry| of_another(&entry.value)).filter_map(|entry| entry.key.name().parse().ok());
        Ok(slots.collect())
    }
}
