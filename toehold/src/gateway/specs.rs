//! Documents of specifications for agents, part by part, out of the store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use toehold_core::Store;
use toehold_specsign::{Sha256Digest, SpecName, TrustedKeys};
use tokio::sync::Mutex;

use crate::adapters::grpc::agent_v1::{SpecBytes, TrustedSpec, TrustedSpecs};
use crate::cli::chain;
use crate::spec_store::{self, MAX_VOUCHED, MAX_VOUCHED_KEYS, SpecStoreError};

/// The most bytes of a part: it goes into one message of a session.
const PART: usize = 48 * 1024;
/// How many documents are kept at hand while agents take them.
const KEPT: usize = 3;
/// How long the list of what may be trusted is believed.
const BELIEVED: Duration = Duration::from_secs(15);

/// What many agents ask for at once is read once.
#[derive(Debug, Default)]
pub(super) struct Specs {
    documents: Mutex<VecDeque<(Sha256Digest, Arc<Vec<u8>>)>>,
    trusted: Mutex<Option<(Instant, TrustedSpecs)>>,
}

impl Specs {
    /// The part of a document from `offset` on, if that document is still the one that `begun` says.
    pub(super) async fn part<S: Store>(
        &self,
        store: &S,
        name: &SpecName,
        offset: u64,
        begun: &[u8],
    ) -> Result<SpecBytes, SpecStoreError> {
        let Some((digest, document)) = self.document(store, name).await? else { return Ok(SpecBytes::default()) };
        let is_the_same = begun == digest.0 || begun.is_empty() && offset == 0;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(document.len());
        let to = document.len().min(from.saturating_add(PART));
        let bytes = if is_the_same { document.get(from..to).unwrap_or_default().to_vec() } else { Vec::new() };
        Ok(SpecBytes { digest: digest.0.to_vec(), size: document.len() as u64, bytes })
    }

    async fn document<S: Store>(
        &self,
        store: &S,
        name: &SpecName,
    ) -> Result<Option<(Sha256Digest, Arc<Vec<u8>>)>, SpecStoreError> {
        let Some(record) = spec_store::record(store, name).await? else { return Ok(None) };
        // Held while it is read: of many agents that come at once, one reads it.
        let mut documents = self.documents.lock().await;
        if let Some((digest, document)) = documents.iter().find(|(digest, _)| *digest == record.digest) {
            return Ok(Some((*digest, Arc::clone(document))));
        }
        let Some(bytes) = spec_store::read(store, name).await? else { return Ok(None) };
        let (digest, document) = (Sha256Digest::of(&bytes), Arc::new(bytes));
        documents.truncate(KEPT - 1);
        documents.push_front((digest, Arc::clone(&document)));
        Ok(Some((digest, document)))
    }

    /// What a machine that has joined may begin with of one specification, as it is now.
    pub(super) async fn trusted_one<S: Store>(store: &S, name: &SpecName) -> Result<TrustedSpecs, SpecStoreError> {
        let record = spec_store::record(store, name).await?;
        let vouched = record.and_then(|record| Some((record.serial?, record.vouched?)));
        let fits = vouched.filter(|(_, keys)| keys.keys().count() <= MAX_VOUCHED_KEYS);
        Ok(TrustedSpecs { specs: fits.map(|(serial, keys)| told(name, serial, &keys)).into_iter().collect() })
    }

    /// What a machine that has joined may begin with.
    pub(super) async fn trusted<S: Store>(&self, store: &S) -> Result<TrustedSpecs, SpecStoreError> {
        let mut trusted = self.trusted.lock().await;
        if let Some((at, specs)) = &*trusted
            && at.elapsed() < BELIEVED
        {
            return Ok(specs.clone());
        }
        let vouched = spec_store::vouched(store).await?;
        // One that cannot be read, or was put there by a release that did not refuse it, keeps none of the others from anybody.
        for error in &vouched.unreadable {
            tracing::error!("agents are not told of a specification: {}", chain(error));
        }
        let mut specs = Vec::new();
        for (name, (serial, keys)) in vouched.specs {
            if keys.keys().count() > MAX_VOUCHED_KEYS || specs.len() >= MAX_VOUCHED {
                tracing::error!(
                    "agents are not told of the specification {name}: of {MAX_VOUCHED} at most, with {MAX_VOUCHED_KEYS} keys each"
                );
                continue;
            }
            specs.push(told(&name, serial, &keys));
        }
        let specs = TrustedSpecs { specs };
        *trusted = Some((Instant::now(), specs.clone()));
        Ok(specs)
    }
}

fn told(name: &SpecName, serial: u64, keys: &TrustedKeys) -> TrustedSpec {
    TrustedSpec {
        name: name.to_string(),
        serial,
        threshold: u32::try_from(keys.threshold()).unwrap_or(u32::MAX),
        keys: keys.keys().map(ToString::to_string).collect(),
    }
}
