//! `toehold demo` and what it says of its hosts.

use std::fs;

use super::Toehold;
use super::server::directory;

/// Runs a `demo` with these arguments, which must show this many hosts managed and leave nothing.
pub fn shows_every_host_managed(arguments: &[&str], hosts: usize) {
    let client = shows_every_host_managed_with(arguments, hosts, None);
    assert!(["OpenSSH", "russh"].contains(&client.as_str()), "{client}");
}

/// The same where these are all the programs that there are; which SSH client it has taken.
pub fn shows_every_host_managed_with(arguments: &[&str], hosts: usize, programs: Option<&std::path::Path>) -> String {
    let toehold = Toehold::bare();
    let cache = directory("cache");
    let mut command = toehold.command(arguments.iter().copied());
    if let Some(programs) = programs {
        command.env("PATH", programs);
    }
    let output = command.env("XDG_CACHE_HOME", cache.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let rows = last["hosts"].as_array().unwrap();
    assert_eq!(rows.len(), hosts);
    for row in rows {
        for fact in [
            "managed",
            "master_key_accepted",
            "temporary_key_refused",
            "new_master_key_accepted",
            "old_master_key_refused",
            "foreign_lines_untouched",
        ] {
            assert_eq!(row[fact], true, "{fact}: {row}");
        }
    }
    for fact in ["joined", "ping_answered", "replay_refused"] {
        assert_eq!(last["join"][fact], true, "{fact}: {last}");
    }
    for fact in ["shell", "command", "copied", "resized", "pod_gone"] {
        assert_eq!(last["pod"][fact], true, "{fact}: {last}");
    }
    assert_eq!(last["pod"]["exit_code"], 42, "{last}");
    for fact in ["placed", "changed", "mended", "purged", "old_document_refused"] {
        assert_eq!(last["spec"][fact], true, "{fact}: {last}");
    }
    // It leaves nothing: no state of the user's own, no files of its hosts.
    assert!(!toehold.state().exists());
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    last["pod"]["client"].as_str().unwrap().to_owned()
}
