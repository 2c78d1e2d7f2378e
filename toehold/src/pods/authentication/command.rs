//! A command of the operator's that knows who may log in, as sshd's `AuthorizedKeysCommand` (`sshd_config(5)`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use tokio::io::AsyncReadExt as _;
use tokio::process::{ChildStdout, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use super::answer::Answer;
use super::lines::{Verdict, judge};
use super::program::{KeysCommandError, expand, is_user, safe};
use super::{Applicant, AuthenticationError};
use crate::child::{ProcessGroup, last_words, read};
use crate::cli::printable;
use crate::gateway::limits::Source;

/// The most that is taken of what it prints, in bytes: files of a mebibyte in base64, and room for the rest.
const MAX_OUTPUT: usize = 2 * 1024 * 1024;

/// How many may run at once, and how many of them for one source.
const AT_ONCE: usize = 32;
const AT_ONCE_OF_SOURCE: usize = 8;

/// How long what it has printed may stay open when it has ended.
const REST: Duration = Duration::from_secs(1);

/// Where it finds programs: all of its environment.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command that prints who may log in: lines of `authorized_keys`, or a JSON document with `keys`, such lines, and what the login brings
/// along (`principal`, `environment`, `files`, `metadata`).
///
/// It runs without a shell, as the gateway's user, with nothing in its environment but `PATH` and nothing on its standard input. An exit
/// code other than 0, an answer that is not as it should be, and none in time are noes. When it has ended, or its time is over, or the
/// client has gone, all of its process group is ended. So many run at once (32), so many of them for one source (8), and who comes after
/// them waits; that counts as its time.
#[derive(Debug)]
pub struct KeysCommand {
    program: PathBuf,
    arguments: Vec<String>,
    patience: Duration,
    places: Arc<Semaphore>,
    sources: Mutex<HashMap<Source, Weak<Semaphore>>>,
}

impl KeysCommand {
    /// Splits a command line as a shell would: an absolute path, and arguments in which `%u` stands for the login's user name, `%t` for the
    /// key's type, `%k` for the key in base64, `%f` for its fingerprint and `%%` for `%`; the user name alone where there are none. The
    /// program has to be one that root and the gateway's user alone can change.
    ///
    /// # Errors
    /// [`KeysCommandError`].
    pub fn parse(line: &str, patience: Duration) -> Result<Self, KeysCommandError> {
        let words = shell_words::split(line).map_err(|error| KeysCommandError::Syntax(error.to_string()))?;
        let (program, arguments) = words.split_first().ok_or(KeysCommandError::NotAbsolute)?;
        if !program.starts_with('/') {
            return Err(KeysCommandError::NotAbsolute);
        }
        let arguments = if arguments.is_empty() { vec!["%u".to_owned()] } else { arguments.to_vec() };
        for argument in &arguments {
            expand(argument, |_| Some(String::new()))?;
        }
        let program = PathBuf::from(program);
        safe(&program)?;
        let places = Arc::new(Semaphore::new(AT_ONCE));
        Ok(Self { program, arguments, patience, places, sources: Mutex::default() })
    }

    fn failed(&self, reason: impl Into<String>) -> AuthenticationError {
        AuthenticationError::Command { program: self.program.clone(), reason: reason.into() }
    }

    pub(super) async fn decide(&self, applicant: Applicant<'_>) -> Result<Verdict, AuthenticationError> {
        if !is_user(applicant.user) {
            return Ok(Verdict::Unknown);
        }
        let until = Instant::now() + self.patience;
        let late = || self.failed(format!("it did not answer within {} s", self.patience.as_secs_f32()));
        let _place = timeout_at(until, self.place(applicant.address)).await.map_err(|_| late())?;
        let printed = timeout_at(until, self.run(&applicant)).await.map_err(|_| late())??;
        let answer = Answer::read(&printed).map_err(|reason| self.failed(reason))?;
        let (whence, metadata) = (self.program.display().to_string(), Arc::new(answer.metadata));
        Ok(judge(&answer.keys, &whence, applicant, answer.principal.as_deref(), &metadata))
    }

    /// Waits for a place among those of its source, and then among all.
    async fn place(&self, address: IpAddr) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let own = {
            let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
            sources.retain(|_, places| places.strong_count() > 0);
            let source = Source::of(address);
            let known = sources.get(&source).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let places = Arc::new(Semaphore::new(AT_ONCE_OF_SOURCE));
                sources.insert(source, Arc::downgrade(&places));
                places
            })
        };
        // Neither is ever closed.
        let own = own.acquire_owned().await.ok()?;
        Some((own, Arc::clone(&self.places).acquire_owned().await.ok()?))
    }

    async fn run(&self, applicant: &Applicant<'_>) -> Result<Zeroizing<Vec<u8>>, AuthenticationError> {
        let program = safe(&self.program).map_err(|error| self.failed(error.to_string()))?;
        let value = |token: char| {
            Some(match token {
                'u' => applicant.user.to_owned(),
                't' => applicant.key.algorithm().to_owned(),
                'k' => Base64::encode_string(applicant.key.blob()),
                'f' => applicant.key.fingerprint().to_string(),
                _ => return None,
            })
        };
        let arguments = self.arguments.iter().map(|argument| expand(argument, value)).collect::<Result<Vec<_>, _>>();
        let mut child = Command::new(program)
            .arg0(&self.program)
            .args(arguments.map_err(|error| self.failed(error.to_string()))?)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .map_err(|error| self.failed(format!("it cannot be started: {error}")))?;
        // Ends all of it, also where nobody waits any more.
        let group = Ends(ProcessGroup::of(&child));
        let mut complaints = JoinSet::new();
        complaints.spawn(read(child.stderr.take()));
        let mut printed = Zeroizing::new(Vec::with_capacity(MAX_OUTPUT + 1));
        let status = {
            let mut taking = pin!(take(child.stdout.take(), &mut printed));
            let mut ending = pin!(async {
                let status = child.wait().await;
                // Whatever it has left behind holds what it prints open.
                drop(group);
                status
            });
            let (status, taken) = tokio::select! {
                taken = &mut taking => {
                    taken.map_err(|reason| self.failed(reason))?;
                    (ending.await, Ok(()))
                }
                status = &mut ending => {
                    let held = || Err("something that it has started holds its output open".to_owned());
                    (status, timeout(REST, taking).await.unwrap_or_else(|_| held()))
                }
            };
            taken.map_err(|reason| self.failed(reason))?;
            status.map_err(|error| self.failed(format!("it was lost: {error}")))?
        };
        if !status.success() {
            let complaints = timeout(REST, complaints.join_next()).await.ok().flatten().and_then(Result::ok).unwrap_or_default();
            return Err(self.failed(printable(&format!("{status}{}", last_words("", &complaints)))));
        }
        Ok(printed)
    }
}

/// Ends the group however it ends, also when the client goes in the middle.
struct Ends(ProcessGroup);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn take(stdout: Option<ChildStdout>, printed: &mut Vec<u8>) -> Result<(), String> {
    let Some(stdout) = stdout else { return Ok(()) };
    let taken = stdout.take(MAX_OUTPUT as u64 + 1).read_to_end(printed).await;
    taken.map_err(|error| format!("what it prints cannot be read: {error}"))?;
    if printed.len() > MAX_OUTPUT { Err(format!("it prints over {MAX_OUTPUT} bytes")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use toehold_core::PublicKey;
    use toehold_keygen::{KeyAlgorithm, KeyPair};

    use super::*;
    use crate::gateway::system_rng;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn key() -> PublicKey {
        KeyPair::generate(&mut system_rng(), KeyAlgorithm::Ed25519).unwrap().public_key().clone()
    }

    /// A script below the tests' own directory.
    struct Script(tempfile::TempDir);

    impl Script {
        fn new(text: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("keys");
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            let script = Self(directory);
            script.mode(0o700);
            script
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("keys")
        }

        fn mode(&self, mode: u32) {
            fs::set_permissions(self.path(), fs::Permissions::from_mode(mode)).unwrap();
        }

        fn command(&self, arguments: &str, patience: Duration) -> Result<KeysCommand, KeysCommandError> {
            KeysCommand::parse(&format!("{} {arguments}", self.path().display()), patience)
        }
    }

    async fn ask(command: &KeysCommand, user: &str, key: &PublicKey) -> Result<Verdict, AuthenticationError> {
        command.decide(Applicant { user, key, address: "127.0.0.1".parse().unwrap() }).await
    }

    #[tokio::test]
    async fn it_is_told_who_wants_in_and_nothing_else() {
        let (mine, seen) = (key(), tempfile::tempdir().unwrap());
        let file = seen.path().join("seen");
        let script = Script::new(&format!(
            "{{ printf '%s\\n' \"$@\"; pwd; env | grep -v -e ^PWD= -e ^_= -e ^SHLVL=; wc -c; }} >{}\necho \"$2 $3 $4@example.org\"",
            file.display()
        ));
        let command = script.command("'a %% b' %t %k %u %f \"it's\"", PATIENCE).unwrap();
        let Ok(Verdict::Admitted(admission)) = ask(&command, "ali ce", &mine).await else { panic!("it is not admitted") };
        assert_eq!(admission.principal, "ali ce@example.org");
        let (kind, base64) = (mine.algorithm().to_owned(), Base64::encode_string(mine.blob()));
        let expected = format!("a % b\n{kind}\n{base64}\nali ce\n{}\nit's\n/\nPATH={SEARCH_PATH}\n0\n", mine.fingerprint());
        assert_eq!(fs::read_to_string(&file).unwrap(), expected);
        let plain = Script::new(&format!("[ \"$*\" = alice ] && echo {mine} by default"));
        assert!(matches!(ask(&plain.command("", PATIENCE).unwrap(), "alice", &mine).await, Ok(Verdict::Admitted(_))));
        // What could be taken for an option, or for more lines, is asked of nobody.
        fs::remove_file(&file).unwrap();
        for user in ["", "-x", "a\nb", &"x".repeat(257)] {
            assert!(matches!(ask(&command, user, &mine).await, Ok(Verdict::Unknown)), "{user:?}");
        }
        assert!(!file.exists());
    }

    #[tokio::test]
    async fn every_fault_of_it_is_a_no() {
        let mine = key();
        for (text, said) in [
            (format!("echo {mine}; echo 'no such person' >&2; exit 3"), "exit status: 3: no such person"),
            (format!("echo {mine}; kill -9 $$"), "signal: 9"),
            (format!("echo {mine}; head -c {MAX_OUTPUT} /dev/zero"), "prints over"),
            ("echo '{\"keys\": 1}'".to_owned(), "not of the kind"),
            (format!("echo {mine}; setsid sleep 30 & sleep 0.1"), "holds its output open"),
        ] {
            let error = ask(&Script::new(&text).command("", PATIENCE).unwrap(), "x", &mine).await.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let nobody = Script::new(&format!("echo {}", key()));
        assert!(matches!(ask(&nobody.command("", PATIENCE).unwrap(), "x", &mine).await, Ok(Verdict::Unknown)));
        let refused = Script::new(&format!("echo 'environment=\"A=b\" {mine}'"));
        assert!(matches!(ask(&refused.command("", PATIENCE).unwrap(), "x", &mine).await, Ok(Verdict::Refused)));
    }

    fn number_in(file: &Path) -> i32 {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(number) = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()) {
                return number;
            }
            assert!(std::time::Instant::now() < deadline, "it has not begun");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_gone(number: i32) {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let stat = || fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        while !stat().is_empty() && !stat().contains(") Z ") {
            assert!(std::time::Instant::now() < deadline, "{number} is still there");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_hangs_is_ended_with_all_of_its_group_and_holds_no_other_up() {
        let (mine, seen) = (key(), tempfile::tempdir().unwrap());
        let file = seen.path().join("child");
        let hanging =
            format!("if [ $1 = slow ]; then sleep 600 & echo $! >{0}.new; mv {0}.new {0}; wait; fi; echo {mine}", file.display());
        let script = Script::new(&hanging);
        let command = Arc::new(script.command("", Duration::from_secs(3)).unwrap());
        let slow: Vec<_> = (0..2)
            .map(|_| {
                tokio::spawn({
                    let (command, mine) = (Arc::clone(&command), mine.clone());
                    async move { ask(&command, "slow", &mine).await }
                })
            })
            .collect();
        let number = number_in(&file);
        assert!(matches!(ask(&command, "quick", &mine).await, Ok(Verdict::Admitted(_))));
        for slow in slow {
            assert!(slow.await.unwrap().unwrap_err().to_string().contains("did not answer within 3 s"));
        }
        is_gone(number);
        // Nor one whose client has gone.
        fs::remove_file(&file).unwrap();
        let patient = Arc::new(script.command("", PATIENCE).unwrap());
        let asking = tokio::spawn({
            let (patient, mine) = (Arc::clone(&patient), mine.clone());
            async move { ask(&patient, "slow", &mine).await.is_ok() }
        });
        let number = number_in(&file);
        asking.abort();
        is_gone(number);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_source_does_not_take_all_places() {
        let (mine, script) = (key(), Script::new("[ $1 = slow ] && exec sleep 600; exit 1"));
        let command = Arc::new(script.command("", PATIENCE).unwrap());
        let asking: Vec<_> = (0..AT_ONCE * 2)
            .map(|_| {
                tokio::spawn({
                    let (command, mine) = (Arc::clone(&command), mine.clone());
                    async move { drop(ask(&command, "slow", &mine).await) }
                })
            })
            .collect();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while command.places.available_permits() > AT_ONCE - AT_ONCE_OF_SOURCE {
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let other = Applicant { user: "quick", key: &mine, address: "192.0.2.1".parse().unwrap() };
        assert!(command.decide(other).await.unwrap_err().to_string().contains("exit status: 1"));
        assert_eq!(command.places.available_permits(), AT_ONCE - AT_ONCE_OF_SOURCE);
        asking.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[test]
    fn a_command_line_begins_with_a_whole_path() {
        for (line, error) in [
            ("keys %u", KeysCommandError::NotAbsolute),
            ("", KeysCommandError::NotAbsolute),
            ("/bin/true %h", KeysCommandError::Token("%h".to_owned())),
        ] {
            assert_eq!(KeysCommand::parse(line, PATIENCE).unwrap_err(), error);
        }
        assert!(matches!(KeysCommand::parse("/bin/true '", PATIENCE), Err(KeysCommandError::Syntax(_))));
        assert!(matches!(KeysCommand::parse("/nowhere/program", PATIENCE), Err(KeysCommandError::Program { .. })));
    }
}
