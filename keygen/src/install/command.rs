//! The install line.

use std::fmt::{self, Write as _};

use toehold_core::{Account, PublicKey, SessionId, Timestamp};
use zeroize::Zeroizing;

use super::cloud_init;
use super::proof::ProofSecret;
use super::quote::{pastable, quote};
use super::script;
use crate::temporary::FromPatterns;

/// The most bytes that an install or removal line has: a terminal in canonical mode takes 4,095 in one line, its end
/// included.
pub const MAX_COMMAND_LINE: usize = 4000;

/// How the temporary line on the host ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExpiryForm {
    /// As the host's own `sshd` and `ssh` say that they read it: `expiry-time` in UTC from OpenSSH 9.1 on, in the host's
    /// standard time from 7.7 on; anything else refuses.
    #[default]
    Detect,
    /// Not at all: for dropbear and for OpenSSH from 7.2 to 7.6. The line stays until somebody removes it.
    None,
    /// In UTC. The caller knows the SSH server, which is not the one that the host's `sshd` and its configuration speak of;
    /// neither is asked.
    Utc,
}

/// Why there is no install or removal line for these values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// A value that nobody can paste: it holds a control character or another that ends a line.
    #[error("the {what} \"{}\" cannot be pasted into a terminal", .value.escape_debug())]
    NotPastable {
        /// Which value.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// A path that does not begin with `/`.
    #[error("the {what} \"{value}\" is not an absolute path")]
    NotAbsolute {
        /// Which value.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// The shell finds the home directory by the user's name only where that is made of letters, digits, `.`, `_`, `-` and
    /// `@`, and begins with a letter or `_`.
    #[error("a shell cannot look up the home directory of \"{0}\": name it (--home)")]
    HomeUnknown(String),
    /// Longer than [`MAX_COMMAND_LINE`].
    #[error("the line would have {got} bytes, over the limit of {MAX_COMMAND_LINE} that a terminal takes: use shorter values")]
    TooLong {
        /// Bytes it would have.
        got: usize,
    },
}

/// A line or a text with a [`ProofSecret`] inside: wiped on drop, printed as `[redacted]`.
pub struct CommandLine(Zeroizing<String>);

impl CommandLine {
    pub(super) fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// Lends the text, to be shown to the operator or fed to a shell. Do not keep a copy.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CommandLine([redacted])")
    }
}

/// Makes the line to paste on a host: see the [module](super).
///
/// The line runs in every POSIX shell and does its work in the host's `sh`. It checks everything that it can before it
/// changes anything, and takes back what it did where something fails later. Run again, it adds nothing twice; run after
/// the end of the key, it does nothing at all.
#[derive(Debug)]
pub struct InstallCommand<'a> {
    account: &'a Account,
    session: SessionId,
    key: &'a PublicKey,
    expires_at: Timestamp,
    secret: &'a ProofSecret,
    expiry: ExpiryForm,
    from: Option<&'a FromPatterns>,
    home: Option<&'a str>,
    host_key_files: Vec<&'a str>,
}

impl<'a> InstallCommand<'a> {
    /// A line that lets `key` into `account` until `expires_at`, for SFTP and nothing else, and that proves the host's keys
    /// under `secret`.
    pub fn new(
        account: &'a Account,
        session: SessionId,
        key: &'a PublicKey,
        expires_at: Timestamp,
        secret: &'a ProofSecret,
    ) -> Self {
        Self {
            account,
            session,
            key,
            expires_at,
            secret,
            expiry: ExpiryForm::default(),
            from: None,
            home: None,
            host_key_files: Vec::new(),
        }
    }

    /// How the key ends by itself; [`ExpiryForm::Detect`] where this is not called.
    #[must_use]
    pub fn expiry(mut self, form: ExpiryForm) -> Self {
        self.expiry = form;
        self
    }

    /// Takes the temporary key only from these addresses: the value of the option `from` of sshd(8).
    #[must_use]
    pub fn from(mut self, patterns: &'a FromPatterns) -> Self {
        self.from = Some(patterns);
        self
    }

    /// The account's home directory, where it is not the one that the host's user database names. An absolute path.
    #[must_use]
    pub fn home(mut self, directory: &'a str) -> Self {
        self.home = Some(directory);
        self
    }

    /// One more public host key file of the host, `.pub` included: for host keys that are neither in `/etc/ssh` nor named in
    /// `sshd_config` nor seen by `ssh-keyscan`. An absolute path on the host; may be called several times.
    #[must_use]
    pub fn host_key_file(mut self, path: &'a str) -> Self {
        self.host_key_files.push(path);
        self
    }

    /// The line, without an end of line: a blank first, so that shells leave it out of their history, at most
    /// [`MAX_COMMAND_LINE`] bytes.
    ///
    /// # Errors
    /// [`InstallError`].
    pub fn command_line(&self) -> Result<CommandLine, InstallError> {
        let line = self.script()?;
        check_length(line.expose())?;
        Ok(line)
    }

    /// The same line, whatever its length: for a shell that reads it from a file or a pipe and not from a terminal.
    ///
    /// # Errors
    /// [`InstallError`], but never [`InstallError::TooLong`].
    pub fn script(&self) -> Result<CommandLine, InstallError> {
        let user = self.account.user();
        check_pastable("user", user)?;
        for file in &self.host_key_files {
            check_path("host key file", file)?;
        }
        let found_by = check_home(user, self.home)?;
        let values = self.values();
        let [before, after] = script::install(self.expiry, !self.host_key_files.is_empty(), self.home.is_some());
        let mut files = String::new();
        for file in &self.host_key_files {
            files.push_str(if files.is_empty() { " sh " } else { " " });
            files.push_str(&quote(file));
        }
        let parts = [" echo ", self.secret.expose(), &values, " sh -c '", before, found_by, after, "'", &files];
        // Sized beforehand, so that no half-grown copy of the secret stays in freed memory.
        let mut line = Zeroizing::new(String::with_capacity(parts.iter().map(|part| part.len()).sum()));
        for part in parts {
            line.push_str(part);
        }
        Ok(CommandLine::new(line))
    }

    /// The same as user data for cloud-init, which runs the line as the account's user at the end of the first boot.
    ///
    /// Weaker than the pasted line: the host keeps user data in `/var/lib/cloud`, and every cloud's metadata service gives it
    /// to whoever can ask from the host. Whoever reads it there before the session ends can forge the proof. The key's life
    /// must span the boot.
    ///
    /// # Errors
    /// [`InstallError`].
    pub fn cloud_init(&self) -> Result<CommandLine, InstallError> {
        Ok(cloud_init::user_data(self.account.user(), &self.script()?))
    }

    /// What the script finds in its environment.
    fn values(&self) -> String {
        let end = self.expires_at.unix_seconds();
        let people = self.expires_at.strftime("%Y-%m-%d %H:%M:%S UTC");
        let user = quote(self.account.user());
        let mut values = format!("|u={user} i={} E={end} w='{people}' o={}", self.session, self.account.port());
        if self.expiry != ExpiryForm::None {
            let _ = write!(values, " t={}", self.expires_at.strftime("%Y%m%d%H%M%SZ"));
        }
        if self.expiry == ExpiryForm::Detect {
            let [january, july] = ["%Y-01-01T00:00:00Z", "%Y-07-01T00:00:00Z"]
                .map(|form| self.expires_at.strftime(form).parse::<Timestamp>().unwrap_or(self.expires_at).unix_seconds());
            let _ = write!(values, " j='{january} {july}'");
        }
        let from = self.from.map(|patterns| quote(&format!(",from=\"{patterns}\""))).unwrap_or_default();
        let _ = write!(values, " k={} r={from}", quote(&self.key.to_string()));
        if let Some(home) = self.home {
            let _ = write!(values, " h={}", quote(home));
        }
        values
    }
}

/// The name by which the shell is to find the home directory: none where it is told.
pub(super) fn check_home<'a>(user: &'a str, home: Option<&str>) -> Result<&'a str, InstallError> {
    if let Some(home) = home {
        check_path("home directory", home)?;
        return Ok("");
    }
    let first = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let other = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
    if user.bytes().next().is_some_and(first) && user.bytes().all(other) {
        Ok(user)
    } else {
        Err(InstallError::HomeUnknown(user.to_owned()))
    }
}

pub(super) fn check_length(line: &str) -> Result<(), InstallError> {
    if line.len() > MAX_COMMAND_LINE {
        return Err(InstallError::TooLong { got: line.len() });
    }
    Ok(())
}

pub(super) fn check_pastable(what: &'static str, value: &str) -> Result<(), InstallError> {
    if pastable(value) { Ok(()) } else { Err(InstallError::NotPastable { what, value: value.to_owned() }) }
}

fn check_path(what: &'static str, path: &str) -> Result<(), InstallError> {
    check_pastable(what, path)?;
    if path.starts_with('/') { Ok(()) } else { Err(InstallError::NotAbsolute { what, value: path.to_owned() }) }
}
