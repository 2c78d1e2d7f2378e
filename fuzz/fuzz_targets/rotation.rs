//! One host's machine against a host that does as the input says: it refuses keys, loses connections, lets time pass, and has
//! other people write its file. Whatever happens, the guard takes every write that the rules want, and once the machine has
//! reached its goal with nobody's hands in between, the file is as that goal says.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use toehold_core::{PublicKey, Timestamp};
use toehold_keygen::authorized_keys::Login;
use toehold_keygen::replacement::KeyFile;
use toehold_keygen::{AuthorizedKeys, HostExpiry};
use toehold_masterkey::change::Making;
use toehold_masterkey::guard::Write;
use toehold_masterkey::host::{ARRIVING, Goal, HostEnd, HostMachine, LEAVING, Next, Step};
use toehold_masterkey::observe::{Files, Observation, Presence};

static KEYS: LazyLock<Vec<PublicKey>> = LazyLock::new(|| {
    ["ViwA", "ViwB", "ViwC"]
        .into_iter()
        .map(|end| {
            format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2{end}")
                .parse()
                .expect("a valid key")
        })
        .collect()
});

/// Lines that somebody may put into the file.
fn foreign_line(byte: u8) -> String {
    let key = &KEYS[usize::from(byte) % KEYS.len()];
    match byte >> 2 & 7 {
        0 => format!("{key}\n"),
        1 => format!("expiry-time=\"20991201000000Z\" {key}\n"),
        2 => format!("expiry-time=\"20011201000000Z\" {key} gone\n"),
        3 => format!("restrict,from=\"10.0.0.0/8\" {key}\n"),
        4 => format!("cert-authority {key}\n"),
        5 => format!("no-such-option {key}\n"),
        6 => "# nothing\n".to_owned(),
        _ => format!("\"{key}\n"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, input)) = bytes.split_first() else { return };
    let mut input = input.iter().copied();
    let mut now = Timestamp::from_unix_seconds(1_795_395_600);
    let knows_expiry = first & 1 == 0;
    let mut machine = HostMachine::new(Goal::Prepare, KEYS.len(), knows_expiry, first & 2 == 0);
    let mut goals = [Goal::Soften, Goal::Remove].into_iter().skip(usize::from(first & 4 == 0));
    let making = Making {
        keys: KEYS.clone(),
        generation: Some(1),
        account: "deploy@web1".parse().expect("an account"),
        expiry: HostExpiry::utc(),
        provisional: Duration::from_secs(600),
        grace: Duration::from_secs(3600),
    };
    let mut file = format!("# theirs\n{}\n", KEYS[LEAVING]).into_bytes();
    let mut meddled = false;
    for _ in 0..96 {
        let choice = input.next().unwrap_or(0);
        if choice & 0x20 != 0 {
            file.extend_from_slice(foreign_line(input.next().unwrap_or(0)).as_bytes());
            meddled = true;
        }
        if choice & 0x40 != 0 {
            now = now.saturating_add(Duration::from_secs(500));
        }
        let (with, query) = match machine.next() {
            Next::LogIn { with, query } => (with, query),
            Next::End(HostEnd::Reached) => {
                if !meddled {
                    let files = Files { first: AuthorizedKeys::parse(file.clone()), second: None };
                    let seen = Observation::of(&files, &KEYS, now);
                    assert_eq!(seen.presence(ARRIVING), Presence::Permanent);
                    match machine.goal() {
                        Goal::Prepare => {}
                        Goal::Soften => assert_ne!(seen.presence(LEAVING), Presence::Permanent),
                        Goal::Remove => assert_eq!(seen.presence(LEAVING), Presence::Absent),
                    }
                }
                let Some(goal) = goals.next() else { return };
                machine = machine.toward(goal);
                continue;
            }
            Next::End(_) => return,
        };
        let document = AuthorizedKeys::parse(file.clone());
        let login = Login { now, utc_offset: 0, peer: None };
        let lets_in = |key: usize| document.authorizes_login(&KEYS[key], &login).is_some();
        if choice & 3 == 3 || !lets_in(with) {
            machine.refused(with);
            continue;
        }
        let answer = query.map(|key| (key, lets_in(key)));
        machine.logged_in(with, answer);
        if answer.is_some() {
            continue;
        }
        let files = Files { first: document, second: None };
        let seen = Observation::of(&files, &KEYS, now);
        match machine.step(&seen) {
            Step::Leave => machine.did(&seen, None, &seen),
            Step::Write(change) => {
                let mut edited = files.first.clone();
                making.apply(change, with, now, &files, KeyFile::AuthorizedKeys, &mut edited);
                let after = Files { first: edited, second: None };
                let proven = machine.proven(&seen);
                let write =
                    Write { keys: &KEYS, over: &KEYS[with], proven: &proven, generation: Some(1), before: &files, after: &after };
                write.check().expect("the rules want what the guard refuses");
                // Lost before the rename, after it, or not at all.
                if choice & 12 != 4 {
                    file = after.first.as_bytes().to_vec();
                }
                if choice & 12 == 0 || choice & 12 == 12 {
                    machine.did(&seen, Some(change), &Observation::of(&after, &KEYS, now));
                }
            }
        }
    }
});
