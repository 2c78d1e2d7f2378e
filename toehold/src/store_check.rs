//! Whether every record of a store can be read, and whatever it names is there.

use std::collections::{BTreeMap, BTreeSet};

use toehold_core::{
    AuditLog, AuditWriter, CurrentMasterKey, Entry, HostProgress, HostRecord, Key, KnownHost, MasterKeyRecord, Record,
    RetiredKey, RotationRecord, Store, StoreError, Stored,
};
use toehold_joinproto::admission::{AgentRecord, TokenRecord, UseRecord};
use toehold_masterkey::grant::GrantRecord;
use toehold_masterkey::renewal::RenewalSchedule;
use toehold_podrun::pod::PodRecord;
use toehold_session::{AccountClaim, SessionRecord};
use toehold_specsign::{Sha256Digest, SlotRecord, SpecName};

use crate::cli::chain;
use crate::gateway::keys::{AgentPins, GatewayRecord};
use crate::gateway::vault;
use crate::pods::authentication::PodKeyRecord;
use crate::recovery::CopyRecord;
use crate::serve::lease::LeaseRecord;
use crate::spec_store::{self, SpecRecord};
use crate::store_copy;

/// What is wrong with one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The record's key.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// Whether a newer release has written it, so that this one does not know.
    pub newer: bool,
}

/// What was found in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreReport {
    /// How many records there are of each kind.
    pub records: BTreeMap<String, usize>,
    /// What is wrong, in the order of the keys.
    pub findings: Vec<Finding>,
}

/// Reads everything in a store.
///
/// # Errors
/// Where the store fails; a record that cannot be read is a finding.
pub async fn check<S: Store + ?Sized>(store: &S) -> Result<StoreReport, StoreError> {
    let entries = store_copy::everything(store).await?;
    let mut check = Check { keys: entries.iter().map(|entry| entry.key.clone()).collect(), report: StoreReport::default() };
    for entry in &entries {
        *check.report.records.entry(entry.key.kind().to_string()).or_default() += 1;
        check.record(entry)?;
    }
    check.master_keys()?;
    check.specifications(store, &entries).await?;
    for fault in AuditLog::read(store).await?.verify(&BTreeMap::new()).faults {
        check.find(&format!("audit/{}/{:020}", fault.writer, fault.number), fault.flaw.to_string());
    }
    let mut report = check.report;
    report.findings.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(report)
}

struct Check {
    keys: BTreeSet<Key>,
    report: StoreReport,
}

impl Check {
    fn find(&mut self, key: &impl ToString, what: impl Into<String>) {
        self.report.findings.push(Finding { key: key.to_string(), what: what.into(), newer: false });
    }

    /// The record, or a finding that says why there is none.
    fn read<T: Record>(&mut self, entry: &Entry) -> Option<T> {
        match Stored::<T>::decode(entry) {
            Ok(stored) => Some(stored.body),
            Err(error) => {
                self.unreadable(entry, &error);
                None
            }
        }
    }

    fn unreadable(&mut self, entry: &Entry, error: &StoreError) {
        let newer = matches!(error, StoreError::Newer { .. });
        self.report.findings.push(Finding { key: entry.key.to_string(), what: chain(error), newer });
    }

    /// That the record's own name is its key's.
    fn is_named(&mut self, entry: &Entry, name: &str) {
        if entry.key.name() != name {
            self.find(&entry.key, format!("it says that it is about {name}"));
        }
    }

    /// That another record is there.
    fn needs(&mut self, entry: &Entry, needed: &Key, why: &str) {
        if !self.keys.contains(needed) {
            self.find(&entry.key, format!("{why}, and there is no {needed}"));
        }
    }

    /// One record by itself, and those that it names.
    fn record(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let segments: Vec<&str> = entry.key.segments().collect();
        match segments.as_slice() {
            ["agent", _] => drop(self.read::<AgentRecord>(entry)),
            ["agentpins", id] => {
                self.read::<AgentPins>(entry);
                self.needs(entry, &Key::new(["agent", id])?, "it is of an agent");
            }
            // Chains are verified as such, and documents of specifications as a whole.
            ["audit", ..] | ["spec", _, _] => {}
            ["auditwriter", _] => drop(self.read::<AuditWriter>(entry)),
            ["claim", _] => {
                if let Some(claim) = self.read::<AccountClaim>(entry) {
                    self.needs(entry, &SessionRecord::key(claim.session)?, "a session has claimed the account");
                }
            }
            ["gateway", "current"] => drop(self.read::<GatewayRecord>(entry)),
            ["gateway", "vault"] => {
                if let Err(error) = vault::check_record(entry) {
                    self.unreadable(entry, &error);
                }
            }
            ["grant", _] => {
                if let Some(grant) = self.read::<GrantRecord>(entry) {
                    self.is_named(entry, &grant.id.to_string());
                }
            }
            ["host", _] => {
                if let Some(host) = self.read::<HostRecord>(entry) {
                    self.is_named(entry, &host.route.account.to_string());
                    self.needs(entry, &KnownHost::key(&host.route)?, "a host is held to its key");
                }
            }
            ["knownhost", _] => drop(self.read::<KnownHost>(entry)),
            ["lease", _] => drop(self.read::<LeaseRecord>(entry)),
            ["masterkey", "current"] => {
                if let Some(current) = self.read::<CurrentMasterKey>(entry) {
                    self.needs(entry, &MasterKeyRecord::key(&current.fingerprint)?, "it names the key that is current");
                }
            }
            ["masterkey", _] => {
                if let Some(key) = self.read::<MasterKeyRecord>(entry) {
                    self.is_named(entry, &key.public_key.fingerprint().to_segment());
                }
            }
            ["pod", _] => {
                if let Some(pod) = self.read::<PodRecord>(entry)
                    && pod.key()? != entry.key
                {
                    self.find(&entry.key, "it is of another connection");
                }
            }
            ["podkey", _] => drop(self.read::<PodKeyRecord>(entry)),
            ["recovery", _] => drop(self.read::<CopyRecord>(entry)),
            ["renewal", _] => drop(self.read::<RenewalSchedule>(entry)),
            ["retired", _] => {
                if let Some(key) = self.read::<RetiredKey>(entry) {
                    self.is_named(entry, &key.public_key.fingerprint().to_segment());
                }
            }
            ["rotation", number] => {
                if let Some(rotation) = self.read::<RotationRecord>(entry) {
                    self.is_named(entry, &rotation.number.to_string());
                    if !rotation.phase.is_closed() {
                        self.rotating_hosts(number)?;
                    }
                }
            }
            ["rotation", number, _] => {
                self.read::<HostProgress>(entry);
                self.needs(entry, &Key::new(["rotation", number])?, "it is of a rotation");
            }
            ["session", _] => {
                if let Some(session) = self.read::<SessionRecord>(entry) {
                    self.is_named(entry, &session.id.to_string());
                }
            }
            ["slot", _, _] => drop(self.read::<SlotRecord>(entry)),
            ["spec", _] => drop(self.read::<SpecRecord>(entry)),
            ["token", _] => {
                if let Some(token) = self.read::<TokenRecord>(entry) {
                    self.is_named(entry, &token.id.to_string());
                }
            }
            ["token", id, _] => {
                self.read::<UseRecord>(entry);
                self.needs(entry, &Key::new(["token", id])?, "it is a use of a token");
            }
            _ => self.report.findings.push(Finding {
                key: entry.key.to_string(),
                what: "this release knows no such records; a newer one may".to_owned(),
                newer: true,
            }),
        }
        Ok(())
    }

    /// The hosts that an open rotation has begun with.
    fn rotating_hosts(&mut self, number: &str) -> Result<(), StoreError> {
        let prefix = Key::new(["rotation", number])?;
        let hosts: Vec<Key> = self.keys.iter().filter(|key| key.is_below(&prefix)).cloned().collect();
        for key in hosts {
            let host = Key::new(["host", key.name()])?;
            if !self.keys.contains(&host) {
                self.find(&key, format!("the rotation is open and has begun with this host, and there is no {host}"));
            }
        }
        Ok(())
    }

    /// What is there of the master key, and what is there because of it.
    fn master_keys(&mut self) -> Result<(), StoreError> {
        let current = CurrentMasterKey::key()?;
        let rests_on_it = |key: &&Key| key.is_below(&MasterKeyRecord::prefix()) || key.is_below(&HostRecord::prefix());
        if !self.keys.contains(&current)
            && let Some(key) = self.keys.iter().find(rests_on_it).cloned()
        {
            self.find(&current, format!("it is not there, and {key} is"));
        }
        Ok(())
    }

    /// Documents as a whole, and pieces that belong to none.
    async fn specifications<S: Store + ?Sized>(&mut self, store: &S, entries: &[Entry]) -> Result<(), StoreError> {
        let mut used = BTreeSet::new();
        for entry in entries.iter().filter(|entry| matches!(entry.key.segments().collect::<Vec<_>>().as_slice(), ["spec", _])) {
            // What cannot be read may use any piece of its own, and is told already.
            let Ok(Stored { body: record, .. }) = Stored::<SpecRecord>::decode(entry) else {
                used.extend(self.keys.iter().filter(|key| key.is_below(&entry.key)).cloned());
                continue;
            };
            for digest in record.pieces() {
                let piece = Key::new(["spec", entry.key.name(), &digest.to_string()])?;
                self.needs(entry, &piece, "the document is in pieces");
                used.insert(piece);
            }
            let Ok(name) = entry.key.name().parse::<SpecName>() else {
                self.find(&entry.key, "that is no name of a specification");
                continue;
            };
            let is_complete = record.pieces().iter().all(|digest| {
                Key::new(["spec", name.as_str(), &digest.to_string()]).is_ok_and(|piece| self.keys.contains(&piece))
            });
            if is_complete && let Err(error) = spec_store::read(store, &name).await {
                self.find(&entry.key, chain(&error));
            }
        }
        for entry in entries.iter().filter(|entry| matches!(entry.key.segments().collect::<Vec<_>>().as_slice(), ["spec", _, _]))
        {
            if !used.contains(&entry.key) {
                self.find(&entry.key, "it is a piece of no document");
            }
            if Sha256Digest::of(&entry.value).to_string() != entry.key.name() {
                self.find(&entry.key, "its content is not what its name says");
            }
        }
        Ok(())
    }
}
