//! Identities that are SSH keys which somebody has already, in files as OpenSSH's own tool writes them.

use std::path::PathBuf;
use std::process::Command;

use base64ct::{Base64, Encoding as _};
use toehold::adapters::identity::{OtherIdentity, SshKeyFile, seal_to};
use toehold::shared::NewMember;

use super::*;

const PASSPHRASE: &str = "correct horse";

/// A byte of the seed of a key, and what verifies what it signs.
const KNOWN_SEED: &str = "07";
const KNOWN_KEY: &str = "ad232fff6e80b50b1cca66c044e724eadde138bc413a1a9f121175dd8937a59d";

/// Runs OpenSSH's own tool over a key's file.
#[track_caller]
fn keygen(path: &Path, arguments: &[&str]) {
    let output =
        Command::new("ssh-keygen").args(arguments).args(["-q", "-C", "anna@example.org", "-f"]).arg(path).output().unwrap();
    assert!(output.status.success(), "ssh-keygen {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A new key of this kind, such as `-t ed25519`.
fn made(directory: &TempDir, name: &str, kind: &[&str], passphrase: &str) -> PathBuf {
    let path = directory.path().join(name);
    keygen(&path, &[kind, &["-N", passphrase]].concat());
    path
}

fn unlocked(path: &Path, passphrase: Option<&str>) -> Result<Vault, IdentityError> {
    let (state, passphrase) = (directory(), passphrase.map(secret));
    let how = NewIdentity::ssh_key(&SshKeyFile::read(path)?, passphrase.as_ref())?;
    IdentityFile::create(state.path(), how, NOW)?.unwrap();
    let read = IdentityFile::read(state.path())?;
    assert_eq!(read.needs_passphrase(), passphrase.is_some());
    assert_eq!(read.secret_path(), path);
    read.unlock(passphrase.as_ref())
}

#[test]
fn an_ssh_key_opens_what_is_sealed_to_it_and_signs_always_with_one_key() {
    let files = directory();
    for (name, kind) in [("ed25519", &["-t", "ed25519"][..]), ("rsa", &["-t", "rsa", "-b", "2048"])] {
        let path = made(&files, name, kind, "");
        let vault = unlocked(&path, None).unwrap();
        let public = fs::read_to_string(path.with_extension("pub")).unwrap();
        assert_eq!(vault.recipient(), public.parse().unwrap(), "{name}");
        assert_eq!(public.rsplit_once(' ').unwrap().0, vault.recipient().to_string());
        let sealed = vault.seal_secret(Purpose::GatewayKey, &secret("a key")).unwrap();
        assert_eq!(vault.open_secret(Purpose::GatewayKey, &sealed).unwrap().expose(), b"a key");
        let error = self::vault().open_secret(Purpose::GatewayKey, &sealed).unwrap_err();
        assert!(matches!(error, VaultError::OtherRecipient { .. }), "{error:?}");

        let signs = NewMember::of(&vault);
        // The same key under a passphrase, and in the forms that other programs write.
        keygen(&path, &["-p", "-P", "", "-N", PASSPHRASE]);
        assert_eq!(NewMember::of(&unlocked(&path, Some(PASSPHRASE)).unwrap()), signs, "{name}");
        assert!(matches!(unlocked(&path, Some("wrong")), Err(IdentityError::WrongPassphrase { path: named }) if named == path));
        assert!(matches!(unlocked(&path, None), Err(IdentityError::NeedsPassphrase { path: named }) if named == path));
        keygen(&path, &["-p", "-P", PASSPHRASE, "-N", "", "-m", "PKCS8"]);
        assert_eq!(NewMember::of(&unlocked(&path, None).unwrap()), signs, "{name}");
        assert_eq!(unlocked(&path, None).unwrap().open_secret(Purpose::GatewayKey, &sealed).unwrap().expose(), b"a key");
        if name == "rsa" {
            keygen(&path, &["-p", "-P", "", "-N", "", "-m", "PEM"]);
            assert!(fs::read_to_string(&path).unwrap().starts_with("-----BEGIN RSA PRIVATE KEY-----"));
            assert_eq!(NewMember::of(&unlocked(&path, None).unwrap()), signs);
        }
    }
}

/// The numbers of a `RSAPrivateKey` (RFC 8017, appendix A.1.2) in a PEM file.
fn numbers(pem: &str) -> Vec<Vec<u8>> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = Base64::decode_vec(&body).unwrap();
    // Behind the head of the sequence, whose length takes two bytes more.
    let (mut rest, mut numbers) = (&der[4..], Vec::new());
    while let [2, length, ..] = *rest {
        let (head, length) = match length {
            0x82 => (4, usize::from(rest[2]) << 8 | usize::from(rest[3])),
            0x81 => (3, usize::from(rest[2])),
            short => (2, usize::from(short)),
        };
        let (number, behind) = rest.split_at(head + length);
        numbers.push(number.to_vec());
        rest = behind;
    }
    numbers
}

#[test]
fn an_rsa_key_signs_with_one_key_whichever_of_its_primes_comes_first() {
    let files = directory();
    let path = made(&files, "id", &["-t", "rsa", "-b", "2048", "-m", "PEM"], "");
    let mut numbers = numbers(&fs::read_to_string(&path).unwrap());
    assert_eq!(numbers.len(), 9);
    let signs = NewMember::of(&unlocked(&path, None).unwrap());
    // The primes, and the exponents that go with them.
    numbers.swap(4, 5);
    numbers.swap(6, 7);
    let body = numbers.concat();
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    fs::write(&path, [&[0x30, 0x82], &length[..], &body].concat()).unwrap();
    assert_eq!(NewMember::of(&unlocked(&path, None).unwrap()), signs);
}

/// Worked out apart from this program, by RFC 5869 with SHA-512 and by openssl(1): the key whose seed is thirty-two times seven.
#[test]
fn what_an_ed25519_key_signs_with_is_derived_as_it_is_written_down() {
    let files = directory();
    let path = files.path().join("id");
    let seed: String = KNOWN_SEED.repeat(32);
    let der = format!("302e020100300506032b657004220420{seed}");
    let bytes: Vec<u8> = (0..der.len()).step_by(2).map(|at| u8::from_str_radix(&der[at..at + 2], 16).unwrap()).collect();
    fs::write(&path, bytes).unwrap();
    set_mode(&path, 0o600);
    let key = unlocked(&path, None).unwrap().signing_key().verifying_key();
    let found: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found, KNOWN_KEY);
}

#[test]
fn two_keys_of_one_person_are_two_members_and_write_two_chains() {
    let files = directory();
    let mut known = std::collections::BTreeSet::new();
    for (name, kind) in [("one", "ed25519"), ("another", "ed25519"), ("rsa", "rsa")] {
        let vault = unlocked(&made(&files, name, &["-t", kind], ""), None).unwrap();
        let writer = vault.writer();
        assert!(Key::new(["audit", &writer, "1"]).is_ok() && writer.starts_with("ssh-") && writer.len() == 68, "{writer}");
        assert!(writer.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'), "{writer}");
        assert!(known.insert(writer) && known.insert(NewMember::of(&vault).id().to_string()));
    }
    let of_age = vault();
    assert_eq!(of_age.writer(), of_age.recipient().to_string());
}

#[test]
fn a_word_with_an_ssh_key_in_it_is_read_whole_or_not_at_all() {
    let files = directory();
    for kind in ["ed25519", "rsa"] {
        let new = NewMember::of(&unlocked(&made(&files, kind, &["-t", kind], ""), None).unwrap());
        let word = new.to_string();
        assert!(word.starts_with(&format!("ssh-{kind}:AAAA")) && !word.contains(char::is_whitespace), "{word}");
        assert_eq!(word.parse::<NewMember>().unwrap(), new);
        for end in (0..word.len()).step_by(7) {
            assert!(word[..end].parse::<NewMember>().is_err(), "{end}");
        }
        for at in (0..word.len()).step_by(3) {
            let mut bytes = word.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            assert!(String::from_utf8(bytes).unwrap().parse::<NewMember>().is_err(), "{at}");
        }
        for other in [word.replacen(':', " ", 1), word.replacen(':', "  ", 1), format!(" {word}"), format!("{word}.")] {
            assert!(other.parse::<NewMember>().is_err(), "{other}");
        }
    }
}

#[test]
fn a_key_to_which_age_does_not_seal_is_no_identity() {
    let files = directory();
    for (name, kind) in
        [("ecdsa", &["-t", "ecdsa"][..]), ("short", &["-t", "rsa", "-b", "1024"]), ("long", &["-t", "rsa", "-b", "4224"])]
    {
        let path = made(&files, name, kind, "");
        let words = in_words(&unlocked(&path, None).unwrap_err());
        assert!(words.contains(path.to_str().unwrap()) && (words.contains("4096") || words.contains("too weak")), "{words}");
        let public = fs::read_to_string(path.with_extension("pub")).unwrap();
        assert!(public.parse::<Recipient>().is_err(), "{name}");
    }
    let public = made(&files, "id", &["-t", "ed25519"], "").with_extension("pub");
    set_mode(&public, 0o600);
    let words = in_words(&unlocked(&public, None).unwrap_err());
    assert!(words.contains("public key"), "{words}");
    fs::write(&public, vec![b'x'; 100_000]).unwrap();
    assert!(in_words(&unlocked(&public, None).unwrap_err()).contains("over the limit"));
}

#[test]
fn a_key_that_others_may_read_is_none_and_a_link_leads_to_it() {
    let files = directory();
    let path = made(&files, "id", &["-t", "ed25519"], "");
    let link = files.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    unlocked(&link, None).unwrap();
    set_mode(&path, 0o640);
    for path in [&path, &link] {
        assert!(in_words(&unlocked(path, None).unwrap_err()).contains("chmod 600"));
    }
    assert!(in_words(&unlocked(files.path(), None).unwrap_err()).contains("regular file"));
    assert!(in_words(&unlocked(&files.path().join("nothing"), None).unwrap_err()).contains("nothing"));
    let broken = files.path().join("two\nlines");
    fs::copy(&path, &broken).unwrap();
    set_mode(&broken, 0o600);
    assert!(matches!(unlocked(&broken, None), Err(IdentityError::Path { .. })));
}

#[test]
fn a_key_that_went_away_or_was_replaced_is_told_of_by_name() {
    let (files, state) = (directory(), directory());
    let path = made(&files, "id", &["-t", "ed25519"], "");
    let how = NewIdentity::ssh_key(&SshKeyFile::read(&path).unwrap(), None).unwrap();
    IdentityFile::create(state.path(), how, NOW).unwrap().unwrap();
    let text = fs::read_to_string(state.path().join(FILE_NAME)).unwrap();
    assert!(!text.contains("PRIVATE KEY") && text.contains(&format!("\nssh-key: {}\n", path.display())), "{text}");

    let elsewhere = files.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    let words = in_words(&IdentityFile::read(state.path()).unwrap_err());
    assert!(words.contains(path.to_str().unwrap()) && words.contains("bring it back"), "{words}");
    made(&files, "id", &["-t", "ed25519"], "");
    let words = in_words(&IdentityFile::read(state.path()).unwrap().unlock(None).unwrap_err());
    assert!(words.contains("another key"), "{words}");
    // As the first message says: where it is now.
    let moved = text.replace(path.to_str().unwrap(), elsewhere.to_str().unwrap());
    fs::write(state.path().join(FILE_NAME), &moved).unwrap();
    IdentityFile::read(state.path()).unwrap().unlock(None).unwrap();

    for broken in [
        moved.replace("public-key: ", "# "),
        moved.replace("ssh-key: /", "ssh-key: "),
        format!("{moved}ssh-key: /tmp/x\n"),
        format!("{moved}AGE-SECRET-KEY-1QQ\n"),
        moved.replace("ssh-key: ", "# "),
    ] {
        fs::write(state.path().join(FILE_NAME), &broken).unwrap();
        let error = IdentityFile::read(state.path()).and_then(|file| file.unlock(None)).unwrap_err();
        assert!(matches!(error, IdentityError::Malformed { .. }), "{broken}: {error:?}");
    }
}

/// What is in the state directory, or the key itself, is what `age -i` takes, too.
#[test]
fn r10_a_copy_that_is_sealed_to_an_ssh_key_opens_with_it_under_its_passphrase() {
    let files = directory();
    for kind in ["ed25519", "rsa"] {
        let path = made(&files, kind, &["-t", kind], PASSPHRASE);
        let recipient: Recipient = fs::read_to_string(path.with_extension("pub")).unwrap().parse().unwrap();
        let sealed = seal_to(&[recipient], b"a copy").unwrap();
        let identity = OtherIdentity::read(&path, || Ok(Some(secret(PASSPHRASE)))).unwrap();
        assert_eq!(identity.open(&sealed).unwrap().as_slice(), b"a copy");
        let words = in_words(&OtherIdentity::read(&path, || Ok(None)).unwrap_err());
        assert!(words.contains("--passphrase-file"), "{words}");
        OtherIdentity::read(&path, || Ok(Some(secret("wrong")))).unwrap_err();
    }
}

#[test]
fn nothing_prints_an_ssh_keys_secret() {
    let files = directory();
    let path = made(&files, "id", &["-t", "ed25519"], "");
    let file = SshKeyFile::read(&path).unwrap();
    let how = NewIdentity::ssh_key(&file, None).unwrap();
    let line = fs::read_to_string(&path).unwrap().lines().nth(3).unwrap().to_owned();
    let printed = format!("{file:?} {:?} {how:?}", file.unlock(None).unwrap());
    assert!(!printed.contains(&line) && printed.len() < 2000, "{printed}");
}
