//! The session's machine under any events: one that does not answer changes nothing; lines are added only once the host key is
//! settled and the record says so; what is managed is never undone; a session closes only after its key's removal or refusal.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use toehold_core::{KeyRole, ManagedKey, PublicKey, SessionId, Timestamp};
use toehold_keygen::install::ProofSecret;
use toehold_session::machine::{Action, Credential, Event, LoginFailure, Onboarding};
use toehold_session::{DeadKey, Evidence, HostKeyCheck, Pace, SessionRecord, Status, TrustedHostKey};

static KEYS: LazyLock<[PublicKey; 4]> = LazyLock::new(|| {
    ["IGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS", "IHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV"]
        .into_iter()
        .chain(["IHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOW", "IHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOX"])
        .map(|end| format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA{end}").parse().expect("a valid key"))
        .collect::<Vec<_>>()
        .try_into()
        .expect("four keys")
});

const START: i64 = 1_795_395_600;

fn temporary() -> &'static PublicKey {
    &KEYS[0]
}

fn master() -> &'static PublicKey {
    &KEYS[1]
}

fn secret() -> ProofSecret {
    ProofSecret::from_hex(&"0123456789".repeat(7)[..62]).expect("62 hex digits")
}

fn record(choice: u8) -> SessionRecord {
    let host_key = KEYS[2].clone();
    SessionRecord {
        id: "00112233445566778899aabbccddeeff".parse().expect("a valid id"),
        route: "deploy@web1".parse::<toehold_core::Account>().expect("a valid account").into(),
        keys: vec![ManagedKey {
            role: KeyRole::Master,
            public_key: master().clone(),
            options: String::new(),
            comment: String::new(),
        }],
        status: Status::Active,
        created_at: Timestamp::from_unix_seconds(START),
        expires_at: Timestamp::from_unix_seconds(START + 1800),
        temporary_key: temporary().clone(),
        host_key_check: match choice % 5 {
            0 => HostKeyCheck::Proof,
            1 => HostKeyCheck::Known(host_key),
            2 => HostKeyCheck::Fingerprint(host_key.fingerprint()),
            3 => HostKeyCheck::AcceptNew,
            _ => HostKeyCheck::Ask,
        },
        ..serde_json::from_value(serde_json::json!({
            "id": "00112233445566778899aabbccddeeff", "account": "deploy@web1", "keys": [], "status": "active",
            "created_at": "2026-11-23T01:00:00Z", "expires_at": "2026-11-23T01:30:00Z",
            "temporary_key": temporary().to_string(), "host_key_check": "proof",
            "tags": BTreeMap::<String, String>::new(),
        }))
        .expect("a valid record")
    }
}

/// One event of every kind there is, and of those that matter several.
fn event(byte: u8, machine: &Onboarding) -> Event {
    let (bit, other) = (byte & 1 == 1, byte & 2 == 2);
    let why = || "why".to_owned();
    let another: SessionId = "ffeeddccbbaa99887766554433221100".parse().expect("a valid id");
    let by = if bit { machine.record().id } else { another };
    let keys = |byte: u8| KEYS.iter().enumerate().filter(|(at, _)| byte >> at & 1 == 1).map(|(_, key)| key.clone()).collect();
    match byte >> 2 & 31 {
        0 | 1 => Event::Saved,
        2 => Event::Unchanged,
        3 => {
            let mut latest = machine.record().clone();
            if !latest.status.is_open() {
                latest.status = Status::Committing;
                latest.closed = None;
            }
            latest.cancelled |= bit;
            latest.attempt = latest.attempt.saturating_sub(u32::from(other));
            Event::Superseded(Box::new(latest))
        }
        4 => Event::StoreFailed(why()),
        5 => {
            let dead = DeadKey { session: another, public_key: KEYS[3].clone(), jumps: Vec::new() };
            Event::AccountTaken { adding: keys(byte << 1 & 2), managed: other, dead: if bit { vec![dead] } else { vec![] } }
        }
        6 => Event::AccountTaken { adding: Vec::new(), managed: false, dead: Vec::new() },
        7 => Event::AccountHeld { by },
        8 => Event::AccountLost { by },
        9 if bit && other => Event::MasterKeyGone,
        9 => Event::Settled,
        10 => Event::CommandShown { ran: bit },
        11 => Event::CommandFailed(why()),
        12..=14 => Event::LoggedIn { host_key: KEYS[2].clone() },
        15 => Event::LoginFailed(LoginFailure::KeyRefused),
        16 if bit => Event::LoginFailed(LoginFailure::HostKeyRefused(why())),
        16 => Event::LoginFailed(LoginFailure::NoSftp(why())),
        17 => Event::LoginFailed(LoginFailure::Unreachable(why())),
        18 => Event::ProofRead(bit.then(|| vec![b'0'; 64])),
        19 => Event::Answered(bit),
        20 | 21 => Event::Inspected { present: if other { keys(3) } else { keys(1) } },
        22 => Event::LinesAdded { added: keys(byte & 2) },
        23 => Event::LinesInDoubt { added: keys(byte & 2), reason: why(), lost: bit },
        24 | 25 => Event::Cleared { still_present: if bit && other { keys(1) } else { Vec::new() }, found: bit },
        26 => Event::FilesFailed { reason: why(), lost: bit, busy: other },
        27 => Event::Queried { accepted: keys(byte & 3) },
        28 => Event::HostRecorded,
        _ => Event::Woke,
    }
}

#[derive(Default)]
struct Seen {
    saved: Option<Status>,
    master: bool,
    settled: bool,
    added_anew: bool,
    recovers_writing: bool,
    removal: bool,
    refusal: bool,
}

impl Seen {
    fn told(&mut self, action: &Action, event: &Event) {
        match (action, event) {
            (Action::Save(record), Event::Saved) => self.saved = Some(record.status),
            (Action::LogIn { with: Credential::Master, .. }, Event::LoggedIn { .. }) => self.master = true,
            (_, Event::Settled) => (self.settled, self.added_anew) = (true, false),
            // Whatever is added anew is undone until the master key has logged in again.
            (_, Event::LinesAdded { added } | Event::LinesInDoubt { added, .. }) => self.settled &= added.is_empty(),
            (Action::TakeAccount, Event::AccountTaken { managed, adding, .. }) => {
                self.settled |= *managed && self.recovers_writing;
                self.added_anew = adding.contains(master());
            }
            _ => {}
        }
    }

    fn asked(&mut self, machine: &Onboarding, action: &Action) {
        match action {
            Action::AddLines { .. } => {
                assert!(machine.record().host_key.is_some() && self.saved == Some(Status::Committing));
            }
            Action::Settle => assert!(self.master),
            Action::Clear { keys, restore, .. } => {
                assert!(keys.contains(temporary()) && (*restore || self.settled));
                // But for a line that was gone, and that an earlier attempt has begun to add anew: it is undone like any other.
                assert!(!self.settled || self.added_anew || !keys.contains(master()));
                self.removal = true;
            }
            Action::Query { .. } => self.refusal = true,
            Action::Save(record) => {
                assert_eq!(record.closed.is_some(), !record.status.is_open());
                match record.closed.map(|closed| closed.evidence) {
                    Some(Evidence::SeenGone) => assert!(self.removal),
                    Some(Evidence::Refused | Evidence::RefusedAfterExpiry) => assert!(self.refusal),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

// The first byte says how the run begins, each further one is an event; its highest bit lets a minute pass.
fuzz_target!(|bytes: &[u8]| {
    let Some((begin, events)) = bytes.split_first() else { return };
    let mut record = record(*begin);
    let (mut machine, mut action, saved) = if begin & 0x80 == 0 {
        let (machine, action) = Onboarding::open(record, secret(), Pace::default());
        (machine, action, None)
    } else {
        if begin & 0x40 != 0 {
            record.status = Status::Committing;
            record.host_key = Some(TrustedHostKey { public_key: KEYS[2].clone(), trust: None });
        }
        record.cancelled = begin & 0x20 != 0;
        let (saved, sealed) = (record.status, begin & 0x10 != 0);
        let (machine, action) = Onboarding::recover(record, sealed.then(secret), sealed, Pace::default());
        (machine, action, Some(saved))
    };
    let recovers_writing = saved.is_some() && machine.record().host_key.is_some();
    let mut seen = Seen { saved, recovers_writing, ..Seen::default() };
    let mut now = Timestamp::from_unix_seconds(START);
    for byte in events {
        if byte & 0x80 != 0 {
            now = now.saturating_add(Duration::from_mins(1));
        }
        let event = event(*byte, &machine);
        let before = format!("{machine:?}");
        match machine.handle(now, event.clone()) {
            Ok(next) => {
                seen.told(&action, &event);
                seen.asked(&machine, &next);
                action = next;
            }
            Err(_) => assert_eq!(format!("{machine:?}"), before, "an event out of turn changes nothing"),
        }
    }
});
