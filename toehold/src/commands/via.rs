//! Running the installation command on a host through a command of the operator's, such as `ssh admin@host sh`.

use std::path::Path;
use std::process::Stdio;

use toehold_core::Account;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::child::{ProcessGroup, last_words, read, rest_of};
use crate::cli::Failure;

/// The places of a command line that are filled in.
const PLACES: [&str; 4] = ["{account}", "{user}", "{host}", "{port}"];

/// A command line with `{account}`, `{user}`, `{host}` and `{port}` in it, split as a shell would, run without one: whatever is
/// filled in stays within its word, which is one argument. What a shell further on would make of it is for [`Via::check`].
#[derive(Clone, Debug)]
pub(super) struct Via {
    words: Vec<String>,
}

impl Via {
    /// Splits a command line.
    ///
    /// # Errors
    /// For unbalanced quotes, no word at all, or a program that is not there.
    pub(super) fn parse(line: &str) -> Result<Self, Failure> {
        match shell_words::split(line) {
            Ok(words) => match words.first() {
                // Known before a session begins; found out later it would leave one behind.
                Some(program) if is_there(program) => Ok(Self { words }),
                Some(program) => {
                    Err(Failure::new(format!("the command of --via begins with {program}, which is not to be found")))
                }
                None => Err(Failure::usage("the command of --via is empty")),
            },
            Err(error) => Err(Failure::usage(format!("the command of --via cannot be read: {error}"))),
        }
    }

    /// Whether it differs from host to host.
    pub(super) fn names_the_account(&self) -> bool {
        self.words.iter().any(|word| PLACES.iter().any(|name| word.contains(name)))
    }

    /// Looks whether a shell would read what is filled in for this account. A user name may hold nearly anything; one that a shell
    /// does not take as it stands must not come before one.
    ///
    /// # Errors
    /// For such an account in a word that a shell reads as its script, or that `ssh` hands to the shell of another host.
    pub(super) fn check(&self, account: &Account) -> Result<(), Failure> {
        let mut reading = Reading::default();
        for word in &self.words {
            let role = reading.next(word);
            for place in PLACES.into_iter().filter(|place| word.contains(place)) {
                let value = value(place, account);
                let reader = match role {
                    Role::Text(reader) if !value.bytes().all(is_plain) => reader,
                    Role::NameForSsh if value.contains(SSH_REFUSES) => "ssh, or a shell of its ProxyCommand,",
                    _ => continue,
                };
                return Err(Failure::usage(format!(
                    "{value} cannot be filled in for {place}: {reader} would read it, and it is no plain word to a shell"
                ))
                .hint("let it be an argument, as in: --via 'sh -c \"… \\\"$1\\\" …\" sh {account}', or of a script of yours"));
            }
        }
        Ok(())
    }

    fn filled(&self, account: &Account) -> Vec<String> {
        let fill = |word: &String| {
            // Each place once and from the left, so that nothing inside a value is filled in again.
            let mut rest = word.as_str();
            let mut filled = String::with_capacity(word.len() + 32);
            while let Some(at) = rest.find('{') {
                let (before, from) = rest.split_at(at);
                filled.push_str(before);
                match PLACES.iter().find(|place| from.starts_with(**place)) {
                    Some(place) => {
                        filled.push_str(&value(place, account));
                        rest = from.get(place.len()..).unwrap_or_default();
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
        let group = ProcessGroup::of(&child);
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
                group.end();
                drop(child.wait().await);
                return Err(why);
            }
        };
        let (printed, complaints) = (rest_of(printed).await, rest_of(complaints).await);
        if status.success() {
            return Ok(printed);
        }
        Err(format!("the command of --via failed ({status}){}", last_words(&printed, &complaints)))
    }
}

/// What a place stands for.
fn value(place: &str, account: &Account) -> String {
    match place {
        "{user}" => account.user().to_owned(),
        "{host}" => account.host().to_owned(),
        "{port}" => account.port().to_string(),
        _ => account.to_string(),
    }
}

/// Whether a shell takes it as it stands, wherever it is in a word.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-@:%+/".contains(&byte)
}

/// What OpenSSH takes in no user name since 9.6, for its `ProxyCommand` may hand it to a shell.
const SSH_REFUSES: [char; 13] = ['\'', '"', '`', ';', '&', '<', '>', '|', '(', ')', '{', '}', '\\'];

/// Options of ssh(1) that take a value.
const SSH_OPTIONS_WITH_VALUE: &str = "BbcDEeFIiJLlmOopPQRSWw";

/// Programs whose argument after `-c` is a script.
const SHELLS: [&str; 14] =
    ["ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "runuser", "script", "sh", "su", "tcsh", "zsh"];

const A_SHELL: &str = "a shell";

/// What a word is to the program that gets it.
enum Role {
    Argument,
    /// The name of a host or a user.
    NameForSsh,
    /// Text that somebody reads.
    Text(&'static str),
}

/// Who reads the words of a command line, as far as that can be told from its outside.
#[derive(Default)]
enum Reading {
    /// Nobody who would hand a word to a shell, so far.
    #[default]
    Program,
    /// A shell that has not got its script yet.
    Shell { script_is_next: bool },
    /// `ssh`, on the way to the name of the host.
    Ssh { value_of: Option<char> },
    /// Behind that name: joined and sent to the shell of the host.
    BehindSsh,
}

impl Reading {
    fn next(&mut self, word: &str) -> Role {
        match self {
            Self::BehindSsh => Role::Text("the shell that ssh runs on the other side"),
            Self::Ssh { value_of } => match (value_of.take(), word.strip_prefix('-')) {
                // ProxyCommand and its like.
                (Some('o'), _) => Role::Text(A_SHELL),
                (Some(_), _) => Role::NameForSsh,
                (None, Some(options)) => {
                    let valued = options.char_indices().find(|(_, option)| SSH_OPTIONS_WITH_VALUE.contains(*option));
                    match valued {
                        Some((at, option)) if at + 1 == options.len() => *value_of = Some(option),
                        Some((_, 'o')) => return Role::Text(A_SHELL),
                        _ => {}
                    }
                    Role::NameForSsh
                }
                (None, None) => {
                    *self = Self::BehindSsh;
                    Role::NameForSsh
                }
            },
            Self::Shell { script_is_next: true } => {
                // What follows are the script's own arguments.
                *self = Self::Program;
                Role::Text(A_SHELL)
            }
            Self::Shell { script_is_next } if word.starts_with(['-', '+']) => {
                *script_is_next = word.contains('c') && !word.starts_with("--");
                Role::Argument
            }
            Self::Shell { .. } | Self::Program => self.program(word),
        }
    }

    /// A word that may be a program, or an argument of one.
    fn program(&mut self, word: &str) -> Role {
        let name = word.rsplit('/').next().unwrap_or(word);
        *self = match name {
            "ssh" | "autossh" | "slogin" => Self::Ssh { value_of: None },
            _ if SHELLS.contains(&name) => Self::Shell { script_is_next: false },
            _ => Self::Program,
        };
        // More than a word is meant for somebody who takes it apart.
        let text = PLACES.iter().fold(word.to_owned(), |text, place| text.replace(place, ""));
        if text.bytes().all(|byte| is_plain(byte) || matches!(byte, b'=' | b',')) { Role::Argument } else { Role::Text(A_SHELL) }
    }
}

fn is_there(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).exists();
    }
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()))
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

    #[test]
    fn what_a_shell_would_read_is_told_from_an_argument() {
        // Not all of these programs are everywhere.
        let parsed = |line: &str| Via { words: shell_words::split(line).unwrap() };
        let hostile: Account = "a$b@web1".parse().unwrap();
        for line in [
            "sh -c 'reach {account} sh'",
            "sh -ec {user}",
            "sudo sh -x -c 'true {host} {user}'",
            "env X=1 busybox sh -c {account}",
            "ssh admin@web1 sudo -u {user} sh",
            "ssh -v -p {port} admin@web1 {user}",
            "ssh -o ProxyCommand={user} web1",
            "ssh -oProxyCommand={user} web1",
            "true '{user} x'",
            "true '$({user})'",
        ] {
            let via = parsed(line);
            assert!(via.check(&hostile).is_err(), "{line}");
            assert!(via.check(&"deploy-1.x@web1:2222".parse().unwrap()).is_ok(), "{line}");
            assert!(via.check(&"root@[fe80::1%eth0]".parse().unwrap()).is_ok() || line.contains("{account}"), "{line}");
        }
        for line in [
            "true {user} {account}",
            "true --user={user} -l{user}",
            "ssh -J jump -l {user} -p {port} {host} sh",
            "ssh {account} sh",
            "sh -c 'exec reach \"$1\"' sh {account}",
            "sh ./reach {account}",
            "su {user}",
        ] {
            assert!(parsed(line).check(&hostile).is_ok(), "{line}");
        }
        let worse: Account = "a;b@web1".parse().unwrap();
        for line in ["ssh {account} sh", "ssh -l {user} {host} sh", "ssh -l{user} web1"] {
            assert!(parsed(line).check(&worse).is_err(), "{line}");
        }
    }
}
