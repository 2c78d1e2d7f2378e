//! What the status page shows, as it was read from the store at one moment: nothing secret, and nothing sealed.

use std::collections::BTreeMap;

use toehold_core::{HostPhase, HostRecord, Key, MasterKeyRecord, PublicKey, Record, Store, StoreError, Stored, Timestamp};
use toehold_joinproto::admission::{AgentRecord, AgentState};
use toehold_masterkey::FleetStatus;
use toehold_masterkey::grant::GrantRecord;
use toehold_masterkey::renewal::RenewalSchedule;
use toehold_podrun::pod::PodRecord;
use toehold_session::SessionRecord;

use super::audit_tail::AuditTail;
use crate::cli::chain;

/// How many entries of the audit log are shown.
const TAIL: usize = 50;
/// How many records that cannot be read are named.
const NAMED: usize = 20;

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Host {
    /// The account, and the way to it.
    pub route: String,
    /// The operator's name for it.
    pub label: Option<String>,
    /// The operator's tags.
    pub tags: BTreeMap<String, String>,
    /// The master key that it is recorded with.
    pub key: Option<PublicKey>,
    /// How far the open rotation, or the last one, has come with it.
    pub phase: Option<HostPhase>,
    /// Why no further, in words.
    pub reason: Option<String>,
    /// Whether it was left behind.
    pub is_owed: bool,
    /// Since when it is managed.
    pub since: Timestamp,
}

/// A master key that the store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MasterKey {
    /// Its public half.
    pub public_key: PublicKey,
    /// When it was made.
    pub made_at: Timestamp,
    /// The number of the rotation that it was made for.
    pub generation: u64,
    /// Whether it is the current one.
    pub is_current: bool,
}

/// A rotation that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenRotation {
    /// Its number.
    pub number: u64,
    /// Where it stands.
    pub phase: String,
    /// Who leads it.
    pub operator: String,
    /// When its leader last wrote.
    pub seen_at: Timestamp,
    /// Why it goes back, or stands still.
    pub reason: Option<String>,
}

/// A pod that a gateway has on record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub principal: String,
    /// The user name of the login.
    pub user: String,
    /// Where the client is.
    pub address: String,
    /// Since when.
    pub since: Timestamp,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Audited {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: String,
    /// To what.
    pub subject: String,
    /// Further facts.
    pub details: BTreeMap<String, String>,
    /// Who wrote it.
    pub writer: String,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The hosts, in the order of their accounts.
    pub hosts: Vec<Host>,
    /// The master keys, the current one first.
    pub keys: Vec<MasterKey>,
    /// The number of the last rotation that ended.
    pub generation: Option<u64>,
    /// The rotation that is open.
    pub rotation: Option<OpenRotation>,
    /// When the periodic renewal is due, and why it failed last.
    pub renewal: Option<(Timestamp, Option<String>)>,
    /// The sessions that are open, the newest first.
    pub sessions: Vec<SessionRecord>,
    /// How many others there are.
    pub closed_sessions: usize,
    /// The grants, by their ends.
    pub grants: Vec<GrantRecord>,
    /// The agents with their ids, the newest first.
    pub agents: Vec<(String, AgentRecord)>,
    /// The pods, the newest first.
    pub pods: Vec<Pod>,
    /// The end of the audit log, the newest first.
    pub audit: Vec<Audited>,
    /// What could not be read.
    pub faults: Vec<String>,
}

impl Snapshot {
    /// How many hosts are owed.
    pub fn owed(&self) -> usize {
        self.hosts.iter().filter(|host| host.is_owed).count()
    }
}

/// Which kinds of records it is made of.
pub(crate) const KINDS: [&str; 9] = ["agent", "audit", "grant", "host", "masterkey", "pod", "renewal", "rotation", "session"];

/// Reads it. `fleet` is where the fleet stands by the same store, or why that is not known.
///
/// # Errors
/// Where the store does not answer. A record that cannot be read is named, and keeps none of the others from being shown.
pub async fn read<S: Store + ?Sized>(
    store: &S,
    fleet: Result<FleetStatus, String>,
    tail: &mut AuditTail,
) -> Result<Snapshot, StoreError> {
    let mut reader = Reader { store, faults: Vec::new(), more_faults: 0 };
    let mut snapshot = Snapshot::default();
    let status = match fleet {
        Ok(status) => Some(status),
        Err(reason) => {
            reader.fault(reason);
            None
        }
    };
    snapshot.hosts = reader.hosts(status.as_ref()).await?;
    snapshot.keys = reader.keys(status.as_ref()).await?;
    if let Some(status) = &status {
        snapshot.generation = Some(status.generation);
        snapshot.rotation = status.rotation.as_ref().map(|rotation| OpenRotation {
            number: rotation.number,
            phase: rotation.phase.name().to_owned(),
            operator: rotation.operator.clone(),
            seen_at: rotation.seen_at,
            reason: rotation.reason.clone(),
        });
    }
    let schedules: Vec<(String, RenewalSchedule)> = reader.list("renewal").await?;
    snapshot.renewal = schedules.into_iter().next().map(|(_, schedule)| (schedule.due_at, schedule.reason));
    let sessions: Vec<(String, SessionRecord)> = reader.list("session").await?;
    let total = sessions.len();
    snapshot.sessions = sessions.into_iter().map(|(_, session)| session).filter(|session| session.status.is_open()).collect();
    snapshot.closed_sessions = total - snapshot.sessions.len();
    snapshot.sessions.sort_by_key(|session| (std::cmp::Reverse(session.created_at), session.id));
    snapshot.grants = reader.list("grant").await?.into_iter().map(|(_, grant)| grant).collect();
    snapshot.grants.sort_by_key(|grant: &GrantRecord| (grant.expires_at, grant.id));
    snapshot.agents = reader.list("agent").await?;
    snapshot.agents.retain(|(_, agent)| matches!(agent.state, AgentState::Pending | AgentState::Joined));
    snapshot.agents.sort_by_key(|(id, agent)| (std::cmp::Reverse(agent.since), id.clone()));
    for (_, agent) in &mut snapshot.agents {
        // Nobody shows it, so nobody need have it.
        agent.sealed_keyring = None;
    }
    snapshot.pods = reader.list::<PodRecord>("pod").await?.into_iter().map(|(_, pod)| pod.into()).collect();
    snapshot.pods.sort_by_key(|pod: &Pod| (std::cmp::Reverse(pod.since), pod.name.clone()));
    let tail = tail.read(store, TAIL).await?;
    tail.faults.into_iter().for_each(|fault| reader.fault(fault));
    snapshot.audit = tail
        .entries
        .into_iter()
        .map(|(writer, entry)| Audited {
            at: entry.event.at,
            what: entry.event.what,
            subject: entry.event.subject,
            details: entry.event.details,
            writer,
        })
        .collect();
    snapshot.faults = reader.faults;
    if reader.more_faults > 0 {
        snapshot.faults.push(format!("{} more records cannot be read", reader.more_faults));
    }
    Ok(snapshot)
}

struct Reader<'s, S: ?Sized> {
    store: &'s S,
    faults: Vec<String>,
    more_faults: usize,
}

impl<S: Store + ?Sized> Reader<'_, S> {
    fn fault(&mut self, what: String) {
        if self.faults.len() < NAMED {
            self.faults.push(what);
        } else {
            self.more_faults += 1;
        }
    }

    /// The records of a kind by their names.
    async fn list<T: Record>(&mut self, kind: &str) -> Result<Vec<(String, T)>, StoreError> {
        let mut records = Vec::new();
        for stored in Stored::<T>::list(self.store, &Key::new([kind])?).await? {
            match stored {
                Ok(stored) => records.push((stored.key.name().to_owned(), stored.body)),
                Err(error) => self.fault(chain(&error)),
            }
        }
        Ok(records)
    }

    async fn hosts(&mut self, status: Option<&FleetStatus>) -> Result<Vec<Host>, StoreError> {
        let stands: BTreeMap<_, _> =
            status.iter().flat_map(|status| &status.hosts).map(|host| (host.account.to_string(), host)).collect();
        let records: Vec<(String, HostRecord)> = self.list("host").await?;
        let host = |(_, record): (String, HostRecord)| {
            let stands = stands.get(&record.route.account.to_string());
            Host {
                route: record.route.to_string(),
                label: record.label,
                tags: record.tags,
                key: stands.and_then(|stands| stands.key.clone()),
                phase: stands.and_then(|stands| stands.phase),
                reason: stands.and_then(|stands| stands.reason.clone()),
                is_owed: stands.is_some_and(|stands| stands.is_owed),
                since: record.managed_since,
            }
        };
        Ok(records.into_iter().map(host).collect())
    }

    async fn keys(&mut self, status: Option<&FleetStatus>) -> Result<Vec<MasterKey>, StoreError> {
        let mut keys = Vec::new();
        let current = Key::new(["masterkey", "current"])?;
        for entry in self.store.list(&MasterKeyRecord::prefix()).await? {
            if entry.key == current {
                continue;
            }
            match Stored::<MasterKeyRecord>::decode(&entry) {
                Ok(Stored { body: record, .. }) => keys.push(MasterKey {
                    is_current: status.is_some_and(|status| status.current == record.public_key),
                    public_key: record.public_key,
                    made_at: record.created_at,
                    generation: record.generation,
                }),
                Err(error) => self.fault(chain(&error)),
            }
        }
        keys.sort_by_key(|key| (!key.is_current, std::cmp::Reverse(key.generation), std::cmp::Reverse(key.made_at)));
        Ok(keys)
    }
}

impl From<PodRecord> for Pod {
    fn from(record: PodRecord) -> Self {
        Self {
            name: record.pod.to_string(),
            principal: record.who.principal,
            user: record.who.user,
            address: record.who.address,
            since: record.recorded_at,
        }
    }
}
