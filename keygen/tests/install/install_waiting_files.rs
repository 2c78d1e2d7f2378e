//! What waits for the install line in the account's `.ssh`: a file that is too large to be undone over SFTP, and links where
//! the line is about to write.

use std::fs;
use std::os::unix::fs::symlink;

use crate::install_support::{Host, SHELLS, bin_with_sh, fake};
use toehold_keygen::MAX_AUTHORIZED_KEYS;
use toehold_keygen::install::MAX_COMMAND_LINE;

/// A file of this size, which costs nothing on the disk and less than it looks to read.
fn with_size(sh: &'static str, size: u64) -> Host {
    let host = Host::with_sh(sh).with_file(b"# mine\n");
    fs::File::options().write(true).open(host.file()).unwrap().set_len(size).unwrap();
    host
}

/// Whoever takes the key away again reads the file under the same limit.
#[test]
fn a_file_that_nobody_will_read_back_is_refused() {
    for sh in SHELLS {
        for size in [100_000_000, MAX_AUTHORIZED_KEYS + 1, MAX_AUTHORIZED_KEYS - 100] {
            let host = with_size(sh, size);
            host.run().refused("is too large");
            assert_eq!(fs::metadata(host.file()).unwrap().len(), size, "{sh}");
            assert_eq!(fs::read_dir(host.ssh()).unwrap().count(), 1, "{sh}");
        }
        // There is room for any line of ours below the limit.
        let host = with_size(sh, MAX_AUTHORIZED_KEYS - 2 * u64::try_from(MAX_COMMAND_LINE).unwrap());
        host.run().succeeded();
        assert!(fs::metadata(host.file()).unwrap().len() <= MAX_AUTHORIZED_KEYS, "{sh}");
    }
}

#[test]
fn o4_a_link_in_the_place_of_the_proof_leads_the_line_nowhere() {
    for sh in SHELLS {
        for target_exists in [true, false] {
            let host = Host::with_sh(sh).with_file(b"# mine\n");
            let foreign = host.directory.path().join("foreign");
            if target_exists {
                fs::write(&foreign, "of somebody else\n").unwrap();
            }
            symlink(&foreign, host.proof_path()).unwrap();
            host.run();
            let found = fs::read_to_string(&foreign).ok();
            assert_eq!(found.as_deref(), target_exists.then_some("of somebody else\n"), "{sh}");
        }
    }
}

/// Somebody who guesses the process number: the name under which the proof is written first is taken.
#[test]
fn o4_noclobber_a_link_in_the_place_of_the_staged_proof_is_refused() {
    for sh in SHELLS {
        for kind in ["ln -s", "cp"] {
            let mut host = Host::with_sh(sh).with_file(b"# mine\n");
            let foreign = host.directory.path().join("foreign");
            fs::write(&foreign, "of somebody else\n").unwrap();
            let staged = format!("{}.$$", host.proof_path().display());
            let first = host.first_in_path();
            // The script's shell, which keeps the process number.
            let shell = bin_with_sh(sh).join("sh");
            let link = format!("[ \"$1\" = -c ] && {kind} {} {staged}", foreign.display());
            fake(&first, "sh", &format!("{link}\nexec {} \"$@\"", shell.display()));
            host.run().refused("cannot write");
            assert_eq!(fs::read_to_string(&foreign).unwrap(), "of somebody else\n", "{sh} {kind}");
            assert_eq!(fs::read(host.file()).unwrap(), b"# mine\n", "{sh} {kind}");
        }
    }
}

/// It gets its name in one step, so that nobody reads half of it.
#[test]
fn o4_the_proof_is_renamed_into_place() {
    for sh in SHELLS {
        let mut host = Host::with_sh(sh).with_file(b"# mine\n");
        let first = host.first_in_path();
        fake(&first, "mv", "exit 1");
        host.refuses("cannot write");
    }
}
