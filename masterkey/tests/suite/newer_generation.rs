//! A store that was restored from a backup is behind its hosts: what a later rotation has put there stays.

use crate::support::{FOREIGN, Lab, account};
use toehold_core::testing::sample_public_key;
use toehold_core::{HostPhase, OnUnreachable, PublicKey};
use toehold_keygen::AuthorizedKeys;
use toehold_keygen::authorized_keys::Digest;
use toehold_masterkey::End;
use toehold_masterkey::guard::{Violation, Write};
use toehold_masterkey::observe::Files;

fn files(text: &str) -> Files {
    Files { first: AuthorizedKeys::parse(text.as_bytes().to_vec()), second: None }
}

/// A write over a proven line of another key, by a store that knows of five rotations.
fn judge(generation: Option<u64>, before: &str, after: &str) -> Result<(), Violation> {
    let (over, key) = (sample_public_key("ssh-ed25519", "new"), sample_public_key("ssh-ed25519", "old"));
    let line = format!("{over} master");
    let proven = [Digest::of(line.as_bytes())];
    let fill = |text: &str| files(&format!("{line}\n{}", text.replace("KEY", &key.to_string())));
    let (before, after) = (fill(before), fill(after));
    Write { keys: &[over.clone(), key.clone()], over: &over, proven: &proven, generation, before: &before, after: &after }.check()
}

#[test]
fn n3_the_guard_lets_no_line_of_a_later_rotation_go() {
    let newer = |line| Err(Violation::NewerGeneration { line, known: 5 });
    let seven = "KEY toehold-master toehold-generation=7 toehold-account=deploy@web1\n";
    let ended = format!("expiry-time=\"20991201000000Z\" {seven}");
    for after in ["", ended.as_str(), &format!("restrict {seven}"), &seven.replace("=7", "=5"), "KEY toehold-master\n"] {
        assert_eq!(judge(Some(5), seven, after), newer(7), "{after}");
        // One that rotation 7 has come to, or whoever counts none.
        assert_eq!(judge(Some(7), seven, after), Ok(()), "{after}");
        assert_eq!(judge(None, seven, after), Ok(()), "{after}");
    }
    // Of several, each: in whatever word of the comment, and beside one that may go.
    assert_eq!(judge(Some(5), &format!("KEY a\n{seven}"), seven), Ok(()));
    assert_eq!(judge(Some(5), &format!("KEY a\n{seven}"), "KEY a\n"), newer(7));
    assert_eq!(judge(Some(5), &format!("{seven}{ended}"), seven), newer(7));
    assert_eq!(judge(Some(5), "KEY toehold-generation=3 toehold-generation=6\n", ""), newer(6));
    // An end that is taken away takes nothing.
    assert_eq!(judge(Some(5), &ended, seven), Ok(()));
    // What is no number says nothing, and neither does another word.
    for old in ["5", "-7", "seven", "", "99999999999999999999"] {
        assert_eq!(judge(Some(5), &format!("KEY toehold-generation={old}\n"), ""), Ok(()), "{old}");
    }
    assert_eq!(judge(Some(5), "KEY xtoehold-generation=7\n", ""), Ok(()));
}

/// A host whose master line was written by rotation 7, while the store knows of none.
fn behind() -> Lab {
    let lab = Lab::new(1);
    let line = format!("{} toehold-master toehold-generation=7 toehold-account=deploy@old\n", lab.first);
    lab.with_file("deploy@ahead.example.net", &[FOREIGN, line.as_bytes()].concat())
}

#[test]
fn n3_a_rotation_of_a_restored_store_leaves_a_line_of_a_later_one() {
    for choice in [OnUnreachable::Abort, OnUnreachable::Defer] {
        let lab = behind();
        let ahead = account("deploy@ahead.example.net");
        let mut request = lab.request();
        request.policy.on_unreachable = choice;
        let before = lab.file(&ahead);
        let outcome = lab.rotate(request).unwrap();
        // It is found out at the first look, before anything was written there and before the current key changes for the others.
        let end = if choice == OnUnreachable::Abort { End::RolledBack } else { End::Done };
        assert_eq!((outcome.end, outcome.owed().count()), (end, 1), "{choice:?}");
        assert_eq!(String::from_utf8_lossy(&lab.file(&ahead)), String::from_utf8_lossy(&before), "{choice:?}");
        assert!(lab.holds(&ahead, &lab.first) && lab.lets_in(&ahead, &lab.first), "{choice:?}: the line is gone");
        let host = outcome.hosts.iter().find(|host| host.account == ahead).unwrap();
        assert_eq!(host.phase, HostPhase::Quarantined, "{choice:?}");
        assert!(host.reason.as_ref().unwrap().contains("restored backup"), "{host:?}");
    }
}

#[test]
fn n3_a_key_that_only_the_host_knows_stays_as_well() {
    // The line of a key that was made after the backup is nobody's as far as the store knows, and stays as such.
    let newest: PublicKey = sample_public_key("ssh-ed25519", "made after the backup");
    let lab = Lab::empty();
    let text = format!("{} toehold-master\n{newest} toehold-master toehold-generation=7\n", lab.first);
    let lab = lab.with_file("deploy@ahead.example.net", text.as_bytes());
    lab.rotate_well();
    assert!(lab.holds(&lab.accounts[0], &newest));
}
