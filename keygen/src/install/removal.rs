//! The removal line.

use toehold_core::{Account, PublicKey, SessionId};

use super::command::{InstallError, check_home, check_length, check_pastable};
use super::quote::quote;
use super::script;

/// Makes the line that takes a session's temporary key and proof off a host, for a person who stands before it.
///
/// It replaces `authorized_keys` in one step by a copy without the lines that hold the key, byte for byte the same
/// otherwise, and takes away what the install line had to make where it is empty now. It may be run any number of times, and
/// holds no secret.
#[derive(Clone, Debug)]
pub struct RemovalCommand<'a> {
    account: &'a Account,
    session: SessionId,
    key: &'a PublicKey,
    home: Option<&'a str>,
}

impl<'a> RemovalCommand<'a> {
    /// A line that takes `key`, put into `account` by `session`, away again.
    pub fn new(account: &'a Account, session: SessionId, key: &'a PublicKey) -> Self {
        Self { account, session, key, home: None }
    }

    /// The account's home directory, where the install line was told one.
    #[must_use]
    pub fn home(mut self, directory: &'a str) -> Self {
        self.home = Some(directory);
        self
    }

    /// The line, without an end of line.
    ///
    /// # Errors
    /// [`InstallError`].
    pub fn command_line(&self) -> Result<String, InstallError> {
        let user = self.account.user();
        check_pastable("user", user)?;
        let found_by = check_home(user, self.home)?;
        let [before, after] = script::remove(self.home.is_some());
        let home = self.home.map(|home| format!(" h={}", quote(home))).unwrap_or_default();
        let key = quote(&self.key.to_string());
        let line = format!(" u={} i={} k={key}{home} sh -c '{before}{found_by}{after}'", quote(user), self.session);
        check_length(&line)?;
        Ok(line)
    }
}
