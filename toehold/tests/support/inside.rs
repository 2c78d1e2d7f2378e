//! Hosts inside the test's own process, which misbehave when they are told to.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use toehold::adapters::local_host::{Fault, LocalHost, LocalHostBuilder};

use super::cli::{Done, Toehold};
use super::server::{current_user, directory, write_private};

/// What somebody else has in `authorized_keys`: none of it is ours to change, and the last line has no end.
pub const FOREIGN: &[u8] = b"# somebody's own\r\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV \xff\0x\n\n  not a key";

/// Everything below a directory, by name, in order.
pub fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A host inside the test's process, with [`FOREIGN`] in its `authorized_keys`. Needs a runtime of several threads: while the
/// test waits for the program, the host answers it.
#[derive(Debug)]
pub struct Inside {
    host: LocalHost,
    _directory: TempDir,
}

impl Inside {
    pub async fn start() -> Self {
        Self::with(|host| host).await
    }

    pub async fn with(how: impl FnOnce(LocalHostBuilder) -> LocalHostBuilder) -> Self {
        let directory = directory("inside");
        let host = how(LocalHost::builder(directory.path(), current_user())).start().await.unwrap();
        write_private(&host.authorized_keys_file(), FOREIGN);
        Self { host, _directory: directory }
    }

    pub fn account(&self) -> String {
        self.host.account().to_string()
    }

    pub fn home(&self) -> &str {
        self.host.home().to_str().unwrap()
    }

    /// `host add` of this host through a local `sh`.
    pub fn add(&self, toehold: &Toehold, more: &[&str]) -> Done {
        self.add_via(toehold, "sh", more)
    }

    /// `host add` of this host through a local `sh` that can be had once: what is to clean up by the same way fails.
    pub fn add_via_once(&self, toehold: &Toehold, more: &[&str]) -> Done {
        let script = self.host.home().join("once.sh");
        fs::write(&script, "rm \"$0\" && exec sh\n").unwrap();
        self.add_via(toehold, &format!("sh {}", script.display()), more)
    }

    /// `host add` of this host through this command.
    pub fn add_via(&self, toehold: &Toehold, via: &str, more: &[&str]) -> Done {
        let (account, file) = (self.account(), self.host.host_key_file());
        let mut arguments =
            vec!["host", "add", &account, "--home", self.home(), "--host-key-file", file.to_str().unwrap(), "--via", via];
        arguments.extend(more);
        toehold.run(arguments)
    }

    pub fn fault(&self, fault: Fault) {
        self.host.set_fault(Some(fault));
    }

    pub fn heal(&self) {
        self.host.set_fault(None);
        self.host.show_another_host_key(false);
    }

    /// What is in its `authorized_keys`, and that the foreign bytes are as they were.
    #[track_caller]
    pub fn ours(&self) -> String {
        let file = fs::read(self.host.authorized_keys_file()).unwrap();
        assert!(file.starts_with(FOREIGN), "foreign_bytes: {}", String::from_utf8_lossy(&file));
        String::from_utf8(file[FOREIGN.len()..].to_vec()).unwrap()
    }

    pub fn names(&self) -> Vec<String> {
        names_in(&self.host.home().join(".ssh"))
    }

    /// What must hold at any moment, whatever the host did: whatever of ours is on the host is on a list.
    #[track_caller]
    pub fn nothing_is_lost(&self, toehold: &Toehold) {
        let ours = self.ours();
        let open = toehold.sessions(false);
        for line in ours.lines().filter(|line| !line.is_empty()) {
            if let Some((options, id)) = line.split_once("toehold-temporary:") {
                assert!(open.iter().any(|session| session["id"] == id), "seen_gone: {id} is not on the list");
                assert!(options.contains("expiry-time=\""), "a temporary line without an end: {line}");
            } else {
                assert!(line.ends_with("toehold-master"), "a line that nobody asked for: {line}");
                let hosts = toehold.run(["--json", "host", "ls"]).ends(0).json();
                let recorded = hosts["hosts"].as_array().unwrap().iter().any(|host| host["account"] == self.account());
                assert!(recorded || !open.is_empty(), "managed, and on no list");
            }
        }
        let mut left = self.names();
        // One that was cut off before its holder's name was in it is nobody's, and taken over by the next who comes.
        let lock = self.host.home().join(".ssh/authorized_keys.toehold-lock");
        left.retain(|name| name != "authorized_keys.toehold-lock" || fs::metadata(&lock).unwrap().len() > 0);
        assert!(left == ["authorized_keys"] || !open.is_empty(), "left behind, with no session on the list: {left:?}");
    }

    /// Now that the host is well again, recovery and one more `host add` lead to a managed host and an empty list.
    #[track_caller]
    pub fn comes_to_an_end(&self, toehold: &Toehold) {
        let recovered = toehold.run(["session", "recover"]);
        assert!(matches!(recovered.code, 0 | 3), "{}", recovered.stderr);
        self.nothing_is_lost(toehold);
        self.add(toehold, &[]).ends(0);
        self.is_managed(toehold);
    }

    /// One line of ours, nothing else left, nothing owed.
    #[track_caller]
    pub fn is_managed(&self, toehold: &Toehold) {
        assert_eq!(toehold.sessions(false), Vec::<serde_json::Value>::new());
        assert_eq!(self.ours().trim(), format!("{} toehold-master", toehold.master_key()));
        assert_eq!(self.names(), ["authorized_keys"]);
        let account = self.account();
        toehold.run(["host", "check", &account]).ends(0);
    }
}

impl std::ops::Deref for Inside {
    type Target = LocalHost;

    fn deref(&self) -> &LocalHost {
        &self.host
    }
}
