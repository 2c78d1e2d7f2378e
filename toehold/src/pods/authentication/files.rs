//! `authorized_keys` files.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toehold_keygen::authorized_keys::{AuthorizedKeys, LineKind};

use super::answer::LoginMetadata;
use super::lines::{Verdict, flaw, judge};
use super::{Admission, Applicant, AuthenticationError, Authenticator};

/// The most bytes of an `authorized_keys` file that are read.
const MAX_FILE: u64 = 1024 * 1024;

/// Stands in a path for the user name of the login.
const USER: &str = "%u";

/// `authorized_keys` files. They are read anew for each login, as `sshd` does, and have to be their owner's alone to write.
///
/// A key's comment is its principal, and without one its fingerprint. Options that are not enforced here refuse the line (P4).
#[derive(Clone, Debug)]
pub struct AuthorizedKeysFiles {
    paths: Vec<String>,
}

/// What a file has in it, for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Keys that can log in.
    pub keys: usize,
    /// Lines that let nobody in, and why.
    pub refused: Vec<(usize, String)>,
}

impl AuthorizedKeysFiles {
    /// These files; `%u` in a path stands for the user name of the login.
    pub fn new(paths: Vec<String>) -> Self {
        Self { paths }
    }

    /// Reads those files that do not depend on a user name, and says what is in them.
    ///
    /// # Errors
    /// [`AuthenticationError`] for the first that cannot be used.
    pub fn look(&self) -> Result<Looked, AuthenticationError> {
        let mut looked = Looked::default();
        for path in self.paths.iter().filter(|path| !path.contains(USER)) {
            let path = Path::new(path);
            let absent = || AuthenticationError::File { path: path.to_owned(), reason: "there is no such file".to_owned() };
            for entry in read(path)?.ok_or_else(absent)?.entries() {
                match flaw(entry) {
                    Some(reason) => looked.refused.push((entry.number(), reason)),
                    None if matches!(entry.kind(), LineKind::Key(_)) => looked.keys += 1,
                    None => {}
                }
            }
        }
        Ok(looked)
    }

    pub(super) fn decide(&self, applicant: Applicant<'_>) -> Result<Verdict, AuthenticationError> {
        let (mut problem, nothing) = (None, Arc::new(LoginMetadata::default()));
        for path in &self.paths {
            if path.contains(USER) && !is_plain(applicant.user) {
                continue;
            }
            let path = PathBuf::from(path.replace(USER, applicant.user));
            match read(&path) {
                Ok(None) => {}
                Ok(Some(keys)) => match judge(&keys, &path.display().to_string(), applicant, None, &nothing) {
                    Verdict::Unknown => {}
                    verdict => return Ok(verdict),
                },
                // Nobody's word, and no reason to keep those out whom another file knows.
                Err(error) => problem = Some(error),
            }
        }
        problem.map_or(Ok(Verdict::Unknown), Err)
    }
}

impl Authenticator for AuthorizedKeysFiles {
    async fn admit(&self, applicant: Applicant<'_>) -> Result<Option<Admission>, AuthenticationError> {
        Ok(match self.decide(applicant)? {
            Verdict::Admitted(admission) => Some(admission),
            Verdict::Refused | Verdict::Unknown => None,
        })
    }
}

/// A user name that may be a part of a path.
fn is_plain(user: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !user.is_empty() && user.len() <= 64 && !user.starts_with(['.', '-']) && user.bytes().all(inside)
}

/// `None` where there is no such file.
fn read(path: &Path) -> Result<Option<AuthorizedKeys>, AuthenticationError> {
    let unusable = |reason: String| AuthenticationError::File { path: path.to_owned(), reason };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(unusable(error.to_string())),
    };
    let metadata = file.metadata().map_err(|error| unusable(error.to_string()))?;
    let us = rustix::process::geteuid().as_raw();
    if !metadata.is_file() {
        return Err(unusable("it is no regular file".to_owned()));
    }
    if metadata.uid() != us && metadata.uid() != 0 {
        return Err(unusable("it is neither this user's nor root's".to_owned()));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(unusable("others than its owner can write it".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| unusable(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(unusable(format!("it has over {MAX_FILE} bytes")));
    }
    Ok(Some(AuthorizedKeys::parse(bytes)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use getrandom::SysRng;
    use getrandom::rand_core::UnwrapErr;
    use toehold_core::PublicKey;
    use toehold_keygen::{KeyAlgorithm, KeyPair};

    use super::*;

    fn admission(verdict: Verdict) -> Option<Admission> {
        match verdict {
            Verdict::Admitted(admission) => Some(admission),
            Verdict::Refused | Verdict::Unknown => None,
        }
    }

    fn key() -> PublicKey {
        KeyPair::generate(&mut UnwrapErr(SysRng), KeyAlgorithm::Ed25519).unwrap().public_key().clone()
    }

    fn decide(text: &str, user: &str, key: &PublicKey) -> Option<Admission> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let files = AuthorizedKeysFiles::new(vec![path.to_str().unwrap().to_owned()]);
        admission(files.decide(Applicant { user, key, address: "127.0.0.1".parse().unwrap() }).unwrap())
    }

    #[test]
    fn p4_a_key_names_its_principal_and_what_is_not_enforced_refuses_the_line() {
        let (mine, other) = (key(), key());
        let admitted = |text: String| decide(&text, "anybody", &mine);
        assert_eq!(admitted(format!("{mine} alice@example.org")).unwrap().principal, "alice@example.org");
        assert_eq!(admitted(mine.to_string()).unwrap().principal, mine.fingerprint().to_string());
        assert!(admitted(other.to_string()).is_none());
        let restricted = admitted(format!("restrict,command=\"uptime\" {mine}")).unwrap();
        assert!(!restricted.terminal && restricted.command.as_deref() == Some(b"uptime"));
        assert!(admitted(format!("no-port-forwarding,no-user-rc,permitopen=\"a:1\",from=\"127.0.0.0/8\" {mine}")).is_some());
        for options in [
            "environment=\"A=b\"",
            "tunnel=\"0\"",
            "verify-required",
            "cert-authority",
            "principals=\"a\"",
            "from=\"192.0.2.1\"",
            "expiry-time=\"20010101Z\"",
            "no-such-option",
        ] {
            assert!(admitted(format!("{options} {mine} alice")).is_none(), "{options}");
        }
    }

    #[test]
    fn a_file_of_each_user_is_found_by_a_plain_name_alone() {
        let directory = tempfile::tempdir().unwrap();
        let mine = key();
        let write = |name: &str, mode: u32| {
            let path = directory.path().join(name);
            fs::write(&path, mine.to_string()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("alice", 0o600);
        write("loose", 0o620);
        let files = AuthorizedKeysFiles::new(vec![format!("{}/sub/../%u", directory.path().display())]);
        fs::create_dir(directory.path().join("sub")).unwrap();
        let decide = |user| files.decide(Applicant { user, key: &mine, address: "127.0.0.1".parse().unwrap() }).map(admission);
        assert!(decide("alice").unwrap().is_some());
        assert!(decide("bob").unwrap().is_none());
        assert!(
            decide("../alice").unwrap().is_none() && decide("sub/../alice").unwrap().is_none() && decide("").unwrap().is_none()
        );
        assert!(decide("loose").is_err());
    }

    #[test]
    fn the_operator_is_told_which_lines_let_nobody_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let text = format!("# ours\n\n{}\nenvironment=\"A=b\" {}\nnonsense\n", key(), key());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let path = path.to_str().unwrap().to_owned();
        let looked = AuthorizedKeysFiles::new(vec![path.clone(), format!("{path}-%u")]).look().unwrap();
        assert_eq!(looked.keys, 1);
        assert_eq!(looked.refused.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [4, 5]);
        assert!(AuthorizedKeysFiles::new(vec![format!("{path}-not-there")]).look().is_err());
    }
}
