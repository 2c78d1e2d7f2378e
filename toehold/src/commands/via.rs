//! Running the installation command on a host through a command of the operator's, such as `ssh admin@host sh`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use toehold_core::Account;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::task::JoinHandle;

/// The most that is kept of what the command prints, in bytes.
const MAX_OUTPUT: u64 = 64 * 1024;

/// A command line with `{account}`, `{user}`, `{host}` and `{port}` in it, split as a shell would, run without one.
#[derive(Clone, Debug)]
pub(super) struct Via {
    words: Vec<String>,
}

impl Via {
    /// Splits a command line.
    ///
    /// # Errors
    /// For unbalanced quotes, or no word at all.
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        match shell_words::split(line) {
            Ok(words) => match words.first() {
                // Known before a session begins; found out later it would leave one behind.
                Some(program) if is_there(program) => Ok(Self { words }),
                Some(program) => Err(format!("the command of --via begins with {program}, which is not to be found")),
                None => Err("the command of --via is empty".to_owned()),
            },
            Err(error) => Err(format!("the command of --via cannot be read: {error}")),
        }
    }

    /// Whether it differs from host to host.
    pub(super) fn names_the_account(&self) -> bool {
        self.words.iter().any(|word| ["{account}", "{user}", "{host}", "{port}"].iter().any(|name| word.contains(name)))
    }

    fn filled(&self, account: &Account) -> Vec<String> {
        let fill = |word: &String| {
            // Each place once and from the left, so that nothing inside a value is filled in again.
            let mut rest = word.as_str();
            let mut filled = String::with_capacity(word.len() + 32);
            while let Some(at) = rest.find('{') {
                let (before, from) = rest.split_at(at);
                filled.push_str(before);
                let values = [
                    ("{account}", account.to_string()),
                    ("{user}", account.user().to_owned()),
                    ("{host}", account.host().to_owned()),
                    ("{port}", account.port().to_string()),
                ];
                match values.iter().find(|(name, _)| from.starts_with(name)) {
                    Some((name, value)) => {
                        filled.push_str(value);
                        rest = from.get(name.len()..).unwrap_or_default();
                    }
                    None => {
                        filled.push('{');
                        rest = from.get(1..).unwrap_or_default();
                    }
                }
            }
            filled.push_str(rest);
            filled
        };
        self.words.iter().map(fill).collect()
    }

    /// Runs it with `input` as its standard input, and returns the last lines that it printed. It has ended when its own process
    /// has: what it leaves in the background (the master of ssh's `ControlPersist`, say) is not waited for.
    ///
    /// # Errors
    /// Where it cannot be started, ends with another code than 0, or `stop` comes first: then its process group is ended too.
    pub(super) async fn run(
        &self,
        account: &Account,
        input: &[u8],
        stop: impl Future<Output = String>,
    ) -> Result<String, String> {
        let words = self.filled(account);
        let (program, arguments) = words.split_first().ok_or("the command of --via is empty")?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // A Ctrl-C is for us to handle: the command must not die half way while we think that it goes on.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{program} cannot be started: {error}"))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let printed = tokio::spawn(read(child.stdout.take()));
        let complaints = tokio::spawn(read(child.stderr.take()));
        let stdin = child.stdin.take();
        let work = async {
            if let Some(mut stdin) = stdin {
                // A command that ends without reading has its say through its exit code.
                drop(stdin.write_all(input).await);
                drop(stdin.shutdown().await);
            }
            child.wait().await
        };
        let ended = tokio::select! {
            status = work => Ok(status),
            why = stop => Err(why),
        };
        let status = match ended {
            Ok(status) => status.map_err(|error| format!("{program} was lost: {error}"))?,
            Err(why) => {
                if let Some(group) = group {
                    // It may have ended by itself.
                    let _ = kill_process_group(group, Signal::KILL);
                }
                drop(child.wait().await);
                return Err(why);
            }
        };
        let (printed, complaints) = (rest_of(printed).await, rest_of(complaints).await);
        if status.success() {
            return Ok(printed);
        }
        let words = if complaints.trim().is_empty() { printed } else { complaints };
        let words = words.trim();
        let mut last: Vec<&str> = words.lines().rev().take(3).collect();
        last.reverse();
        let colon = if last.is_empty() { "" } else { ": " };
        Err(format!("the command of --via failed ({status}){colon}{}", last.join("; ").trim_end_matches('.')))
    }
}

/// What a stream held when its command ended; somebody in the background may keep it open for ever.
async fn rest_of(mut reading: JoinHandle<String>) -> String {
    match tokio::time::timeout(Duration::from_secs(1), &mut reading).await {
        Ok(text) => text.unwrap_or_default(),
        Err(_) => {
            reading.abort();
            String::new()
        }
    }
}

fn is_there(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).exists();
    }
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}

async fn read(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        drop((&mut stream).take(MAX_OUTPUT).read_to_end(&mut bytes).await);
        // What is over the limit is read all the same, or the command would block.
        drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_once() {
        let via = Via::parse("sh -p {port} 'admin@{host}' {account} {x} {user}").unwrap();
        let account: Account = "{host}@web1:2222".parse().unwrap();
        assert_eq!(via.filled(&account), ["sh", "-p", "2222", "admin@web1", "{host}@web1:2222", "{x}", "{host}"]);
        assert!(via.names_the_account());
        assert!(!Via::parse("sh").unwrap().names_the_account());
        assert!(Via::parse("").is_err());
        assert!(Via::parse("no-such-program-anywhere {account}").is_err());
        assert!(Via::parse("sh 'x").is_err());
    }
}
