//! Events for the machine by itself, with nothing around it.

use std::collections::BTreeMap;

use toehold_core::testing::sample_public_key;
use toehold_core::{PublicKey, SessionId, Timestamp};
use toehold_keygen::install::ProofSecret;
use toehold_session::machine::{Action, Credential, Event, LoginFailure, Onboarding};
use toehold_session::{DeadKey, HostKeyCheck, SessionRecord, Status, TrustedHostKey};

use super::{account, behind, colleague, colleague_line, hands, master_key, master_line};

const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddee";

pub fn now() -> Timestamp {
    "2026-11-23T01:00:00Z".parse().unwrap()
}

pub fn id(digit: char) -> SessionId {
    digit.to_string().repeat(32).parse().unwrap()
}

pub fn secret() -> ProofSecret {
    ProofSecret::from_hex(SECRET).unwrap()
}

pub fn host_key() -> PublicKey {
    sample_public_key("ssh-ed25519", "the host's")
}

pub fn temporary_key() -> PublicKey {
    sample_public_key("ssh-ed25519", "the temporary key")
}

/// What the command leaves on the host.
pub fn proof() -> Vec<u8> {
    format!("{}\n", hands::tag(SECRET, &host_key())).into_bytes()
}

/// A session that begins.
pub fn record(check: HostKeyCheck) -> SessionRecord {
    SessionRecord {
        id: id('a'),
        route: account("deploy@web1").into(),
        home: None,
        label: None,
        tags: BTreeMap::new(),
        keys: vec![master_line(), colleague_line()],
        status: Status::Active,
        created_at: now(),
        expires_at: now().saturating_add(std::time::Duration::from_mins(30)),
        temporary_key: temporary_key(),
        sealed_temporary_key: None,
        sealed_proof_secret: None,
        host_key_check: check,
        host_key: None,
        installed: false,
        adding: Vec::new(),
        without_expiry: false,
        attempt: 0,
        run: String::new(),
        cancelled: false,
        reason: None,
        closed: None,
    }
}

/// The same, with what is secret sealed in it.
pub fn sealed(mut record: SessionRecord) -> SessionRecord {
    record.sealed_temporary_key = Some("the key, sealed".to_owned());
    record.sealed_proof_secret = Some("the secret, sealed".to_owned());
    record
}

/// A session that was interrupted while it wrote.
pub fn committing() -> SessionRecord {
    let mut record = record(HostKeyCheck::Proof);
    record.status = Status::Committing;
    record.installed = true;
    record.host_key = Some(TrustedHostKey { public_key: host_key(), trust: None });
    record
}

/// What the store holds while a machine with this record is at work, unless somebody else has written.
pub fn stored(machine: &Onboarding) -> SessionRecord {
    let mut stored = machine.record().clone();
    if !stored.status.is_open() {
        stored.status = if stored.attempt == 0 { Status::Committing } else { Status::Orphaned };
        stored.closed = None;
    }
    if machine.step() == "taking the session up" {
        stored.attempt -= 1;
    }
    stored
}

/// The record as somebody else has left it.
pub fn superseded(record: &SessionRecord, change: impl FnOnce(&mut SessionRecord)) -> Event {
    let mut latest = record.clone();
    change(&mut latest);
    Event::Superseded(Box::new(latest))
}

/// Events of every kind, each under a name.
pub fn every_event(record: &SessionRecord) -> Vec<(String, Event)> {
    let why = || "it failed".to_owned();
    let files = |lost, busy| Event::FilesFailed { reason: why(), lost, busy };
    let added = vec![master_key()];
    let dead = vec![DeadKey { session: id('d'), public_key: sample_public_key("ssh-ed25519", "dead"), jumps: Vec::new() }];
    let named = [
        ("Saved", Event::Saved),
        ("Unchanged", Event::Unchanged),
        ("Superseded (a conflict for nothing)", superseded(record, |_| {})),
        ("Superseded (cancelled)", superseded(record, |latest| latest.cancelled = true)),
        ("Superseded (another attempt)", superseded(record, |latest| latest.attempt += 7)),
        ("Superseded (closed)", superseded(record, |latest| latest.status = Status::Failed)),
        ("StoreFailed", Event::StoreFailed(why())),
        ("AccountTaken", Event::AccountTaken { adding: Vec::new(), managed: false, dead: Vec::new() }),
        ("AccountTaken (with leftovers)", Event::AccountTaken { adding: added.clone(), managed: false, dead }),
        ("AccountTaken (managed)", Event::AccountTaken { adding: Vec::new(), managed: true, dead: Vec::new() }),
        ("AccountElsewhere", Event::AccountElsewhere { managed: behind(&["ops@bastion"]) }),
        ("AccountHeld (by another)", Event::AccountHeld { by: id('b') }),
        ("AccountHeld (by a later attempt)", Event::AccountHeld { by: record.id }),
        ("AccountLost (to another)", Event::AccountLost { by: id('b') }),
        ("AccountLost (to a later attempt)", Event::AccountLost { by: record.id }),
        ("Settled", Event::Settled),
        ("MasterKeyGone", Event::MasterKeyGone),
        ("CommandShown", Event::CommandShown { ran: false }),
        ("CommandShown (ran)", Event::CommandShown { ran: true }),
        ("CommandFailed", Event::CommandFailed(why())),
        ("LoggedIn", Event::LoggedIn { host_key: host_key() }),
        ("LoginFailed (key refused)", Event::LoginFailed(LoginFailure::KeyRefused)),
        ("LoginFailed (host key refused)", Event::LoginFailed(LoginFailure::HostKeyRefused(why()))),
        ("LoginFailed (no SFTP)", Event::LoginFailed(LoginFailure::NoSftp(why()))),
        ("LoginFailed (unreachable)", Event::LoginFailed(LoginFailure::Unreachable(why()))),
        ("ProofRead", Event::ProofRead(Some(proof()))),
        ("ProofRead (wrong)", Event::ProofRead(Some(vec![b'0'; 64]))),
        ("ProofRead (missing)", Event::ProofRead(None)),
        ("Answered (yes)", Event::Answered(true)),
        ("Answered (no)", Event::Answered(false)),
        ("Inspected", Event::Inspected { present: vec![temporary_key()] }),
        ("Inspected (all there)", Event::Inspected { present: vec![temporary_key(), master_key(), colleague()] }),
        ("Inspected (without the temporary key)", Event::Inspected { present: Vec::new() }),
        ("LinesRefused", Event::LinesRefused { reason: why() }),
        ("LinesAdded", Event::LinesAdded { added: vec![master_key(), colleague()] }),
        ("LinesInDoubt", Event::LinesInDoubt { added: added.clone(), reason: why(), lost: false }),
        ("LinesInDoubt (lost)", Event::LinesInDoubt { added, reason: why(), lost: true }),
        ("Cleared", Event::Cleared { still_present: Vec::new(), found: true }),
        ("Cleared (nothing found)", Event::Cleared { still_present: Vec::new(), found: false }),
        ("Cleared (still there)", Event::Cleared { still_present: vec![temporary_key()], found: true }),
        ("FilesFailed", files(false, false)),
        ("FilesFailed (lost)", files(true, false)),
        ("FilesFailed (busy)", files(false, true)),
        ("Queried (all refused)", Event::Queried { accepted: Vec::new() }),
        ("Queried (temporary key accepted)", Event::Queried { accepted: vec![temporary_key()] }),
        ("Queried (master key accepted)", Event::Queried { accepted: vec![master_key()] }),
        ("HostRecorded", Event::HostRecorded),
        ("Woke", Event::Woke),
    ];
    named.into_iter().map(|(name, event)| (name.to_owned(), event)).collect()
}

/// Whether an event of this kind answers the action.
pub fn answers(action: &Action, event: &Event) -> bool {
    let kind = event.kind();
    let kinds: &[&str] = match action {
        Action::Save(_) => &["Saved", "Superseded", "StoreFailed"],
        Action::TakeAccount => &["AccountTaken", "AccountElsewhere", "AccountHeld", "StoreFailed"],
        Action::ShowCommand => &["CommandShown", "CommandFailed"],
        Action::Refresh => &["Unchanged", "Superseded", "StoreFailed"],
        Action::LogIn { .. } => &["LoggedIn", "LoginFailed"],
        Action::ReadProof => &["ProofRead", "FilesFailed"],
        Action::AskOperator(_) => &["Answered"],
        Action::Inspect { .. } => &["Inspected", "LinesRefused", "FilesFailed"],
        Action::AddLines { .. } => &["LinesAdded", "LinesInDoubt", "FilesFailed", "AccountLost"],
        Action::Settle => &["Settled", "MasterKeyGone", "StoreFailed", "AccountLost"],
        // Only what was added is guarded by the claim.
        Action::Clear { keys, .. } if keys.len() > 1 => &["Cleared", "FilesFailed", "AccountLost"],
        Action::Clear { .. } => &["Cleared", "FilesFailed"],
        Action::Query { .. } => &["Queried", "LoginFailed"],
        Action::RecordHost => &["HostRecorded", "StoreFailed"],
        Action::WaitUntil(_) | Action::RestUntil(_) => &["Woke"],
        Action::Finish(_) => &[],
    };
    kinds.contains(&kind)
}

/// An action in one line.
pub fn describe(action: &Action) -> String {
    let key = |key: &PublicKey| {
        let names =
            [(temporary_key(), "temporary"), (master_key(), "master"), (colleague(), "colleague"), (host_key(), "host key")];
        names.iter().find(|(known, _)| known == key).map_or("another", |(_, name)| name)
    };
    let keys = |list: &[PublicKey]| list.iter().map(key).collect::<Vec<_>>().join(" and ");
    let over = |credential: &Credential| match credential {
        Credential::Temporary => "temporary",
        Credential::Master => "master",
    };
    match action {
        Action::Save(record) => {
            let evidence = record.closed.map_or_else(String::new, |closed| format!(" ({:?})", closed.evidence));
            format!("Save {}{evidence}", record.status)
        }
        Action::TakeAccount => "TakeAccount".to_owned(),
        Action::ShowCommand => "ShowCommand".to_owned(),
        Action::Refresh => "Refresh".to_owned(),
        Action::LogIn { with, host_key } => {
            let pinned = matches!(host_key, toehold_core::HostKeyPolicy::Exactly(_));
            format!("LogIn with the {} key{}", over(with), if pinned { ", pinned" } else { "" })
        }
        Action::ReadProof => "ReadProof".to_owned(),
        Action::AskOperator(_) => "AskOperator".to_owned(),
        Action::Inspect { over: by } => format!("Inspect over the {} key", over(by)),
        Action::AddLines { over: by, lines } => {
            let list: Vec<PublicKey> = lines.iter().map(|line| line.public_key.clone()).collect();
            format!("AddLines {} over the {} key", keys(&list), over(by))
        }
        Action::Settle => "Settle".to_owned(),
        Action::Clear { over: by, keys: list, dead, restore } => format!(
            "Clear {}{} over the {} key{}",
            keys(list),
            if dead.is_empty() { "" } else { " and what is dead" },
            over(by),
            if *restore { ", restoring" } else { "" }
        ),
        Action::Query { keys: list, .. } => format!("Query {}", keys(list)),
        Action::RecordHost => "RecordHost".to_owned(),
        Action::WaitUntil(_) => "WaitUntil".to_owned(),
        Action::RestUntil(_) => "RestUntil".to_owned(),
        Action::Finish(end) => format!("Finish {end:?}"),
    }
}
