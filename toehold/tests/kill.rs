//! SIGKILL at random moments of `host add`, then `session recover`, then every invariant read off the real file.
//!
//! `TOEHOLD_KILLS` says how often (50 where it is not set), `TOEHOLD_SEED` repeats a run. Most are fed by `--via`; every
//! tenth has its line pasted, and is killed while it waits or works after that.
//!
//! Needs: openssh.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use support::{Done, RealSshd, Toehold};

const FOREIGN: [Option<&[u8]>; 4] = [
    Some(b"# somebody's own\r\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV me\n\xff\0"),
    Some(b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV me\n"),
    Some(b""),
    None,
];

/// Everything below `.ssh`, by name.
fn contents(home: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    if let Ok(entries) = fs::read_dir(home.join(".ssh")) {
        for entry in entries {
            let entry = entry.unwrap();
            found.insert(entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        }
    }
    found
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

/// The line that a `host add --json` shows.
fn line_to_paste(stdout: &mut impl BufRead) -> String {
    for line in stdout.lines() {
        let document: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if document["event"] == "command" {
            return document["command"].as_str().unwrap().to_owned();
        }
    }
    panic!("it ended without a line");
}

struct Trial<'t> {
    toehold: &'t Toehold,
    host: &'t RealSshd,
    account: String,
    sealed: bool,
    pasted: bool,
}

impl Trial<'_> {
    fn arguments<'a>(&'a self, home: &'a str) -> Vec<&'a str> {
        let mut arguments = vec!["host", "add", &self.account, "--home", home];
        if self.sealed {
            arguments.push("--seal-temporary-key");
        }
        arguments
    }

    /// From the beginning to the end, fed to a shell.
    fn again(&self) -> Done {
        let home = self.host.home();
        self.toehold.run(self.arguments(home.to_str().unwrap()).into_iter().chain(["--via", "sh"]))
    }

    /// Starts `host add`; kills it after `after`, or lets it end. Returns how long it ran (from the paste on, if there is
    /// one), and whether it was killed.
    fn onboard(&self, after: Option<Duration>) -> (Duration, bool) {
        let home = self.host.home();
        let how: &[&str] = if self.pasted { &["--json"] } else { &["--via", "sh"] };
        let mut begun = Instant::now();
        let mut child = self.toehold.spawn(self.arguments(home.to_str().unwrap()).into_iter().chain(how.iter().copied()));
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        if self.pasted {
            let line = line_to_paste(&mut stdout);
            begun = Instant::now();
            let pasted = Command::new("sh").args(["-c", &line]).output().unwrap();
            assert!(pasted.status.success(), "{pasted:?}");
        }
        if let Some(after) = after {
            // The moment is what this test is about; nothing is waited for.
            std::thread::sleep(after.saturating_sub(begun.elapsed()));
            child.kill().unwrap();
        }
        // What it still says is read, so that it never waits for a reader.
        stdout.read_to_end(&mut Vec::new()).unwrap();
        let status = child.wait().unwrap();
        (begun.elapsed(), status.signal().is_some())
    }

    /// What must hold at any moment, also right after the kill, whatever was under way.
    fn check_always(&self, foreign: &[u8], when: &str) {
        let file = fs::read(self.host.authorized_keys()).unwrap_or_default();
        assert!(file.starts_with(foreign), "foreign_bytes, {when}: {}", String::from_utf8_lossy(&file));
        for line in String::from_utf8_lossy(&file[foreign.len()..]).lines().filter(|line| !line.is_empty()) {
            let temporary = line.contains("toehold-temporary:");
            let managed = line.ends_with("toehold-master");
            assert!(temporary || managed, "{when}: a line that nobody asked for: {line}");
            assert!(!temporary || line.contains("expiry-time=\""), "{when}: a temporary line without an end: {line}");
            // journal_first: whatever is on the host is on record.
            if temporary {
                let id = line.split("toehold-temporary:").nth(1).unwrap().trim();
                assert!(self.toehold.sessions(true).iter().any(|s| s["id"] == id), "{when}: {id} is not on record");
            }
        }
        // never_on_disk: no private key in clear, neither here nor there.
        for path in files_below(&self.toehold.state()).into_iter().chain(files_below(&self.host.home().join(".ssh"))) {
            // A lock file may be removed by its owner at any time.
            let Ok(bytes) = fs::read(&path) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("PRIVATE KEY"), "never_on_disk, {when}: {}", path.display());
        }
    }

    /// What must hold once recovery has run.
    fn check_recovered(&self, master: &str, before: &BTreeMap<String, Vec<u8>>, foreign: &[u8], when: &str) {
        self.check_always(foreign, when);
        let file = String::from_utf8_lossy(&fs::read(self.host.authorized_keys()).unwrap_or_default()).into_owned();
        let managed = file.contains(master);
        let open = self.toehold.sessions(false);
        // seen_gone: a temporary line that is still there has an open session to it.
        for line in file.lines().filter(|line| line.contains("toehold-temporary:")) {
            let id = line.split("toehold-temporary:").nth(1).unwrap().trim();
            assert!(open.iter().any(|session| session["id"] == id), "seen_gone, {when}: {id} is closed, its key is there");
        }
        let hosts = self.toehold.run(["--json", "host", "ls"]).ends(0).json();
        let recorded = !hosts["hosts"].as_array().unwrap().is_empty();
        assert_eq!(managed, recorded, "{when}: managed and recorded must be the same\n{file}");
        if managed {
            // anchored: by a real login.
            self.toehold.run(["host", "check"]).ends(0);
            // A session whose key was never seen there stays on the list until the key's end: its command may still be run.
            let seen = |session: &&serde_json::Value| !session["host_key"].is_null();
            assert_eq!(open.iter().find(seen), None, "{when}: managed, and yet owed");
        } else if open.is_empty() {
            assert_eq!(contents(&self.host.home()), *before, "as_it_was, {when}");
        }
    }
}

#[test]
fn anchored_seen_gone_foreign_bytes_never_on_disk_as_it_was_journal_first_over_sigkill() {
    let kills: usize = std::env::var("TOEHOLD_KILLS").map_or(50, |text| text.parse().expect("TOEHOLD_KILLS is a number"));
    let seed = std::env::var("TOEHOLD_SEED").map_or_else(
        |_| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into(),
        |text| text.parse().expect("TOEHOLD_SEED is a number"),
    );
    println!("TOEHOLD_SEED={seed} TOEHOLD_KILLS={kills}");
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let host = RealSshd::start();
    // How long a whole run takes, by whether it is pasted; not known yet.
    let mut longest = [Duration::ZERO; 2];
    let (mut killed, mut completed, mut undone, mut owed) = (0, 0, 0, 0);
    let mut trial = 0;
    while killed < kills {
        trial += 1;
        assert!(trial < 2 * kills + 10, "the moments are off: only {killed} of {trial} were killed");
        let toehold = Toehold::new();
        let master = toehold.master_key();
        let foreign = FOREIGN[trial % FOREIGN.len()];
        match foreign {
            Some(bytes) => host.authorize(bytes),
            None => drop(fs::remove_file(host.authorized_keys())),
        }
        let before = contents(&host.home());
        let foreign = foreign.unwrap_or_default();
        let account = host.account().to_string();
        let pasted = killed % 10 == 9;
        let it = Trial { toehold: &toehold, host: &host, account, sealed: trial % 2 == 1, pasted };
        let longest = &mut longest[usize::from(pasted)];
        if longest.is_zero() {
            // Once to its end, to know how long that takes; then as it was.
            *longest = it.onboard(None).0;
            toehold.run(["host", "rm", &it.account]).ends(0);
            assert!(fs::read(host.authorized_keys()).unwrap_or_default().starts_with(foreign));
            continue;
        }
        let after = longest.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX));
        let when = format!("trial {trial}, SIGKILL after {after:?} of {longest:?}, sealed: {}, pasted: {pasted}", it.sealed);
        killed += usize::from(it.onboard(Some(after)).1);
        it.check_always(foreign, &when);

        // The script that was fed to sh may still be at work, as it may on a real host.
        host.wait_until_idle();
        let recovered = toehold.run(["session", "recover"]);
        assert!(matches!(recovered.code, 0 | 3), "{when}: {}", recovered.stderr);
        it.check_recovered(&master, &before, foreign, &when);
        match (recovered.code, fs::read(host.authorized_keys()).unwrap_or_default().len() > foreign.len() + 1) {
            (3, _) => owed += 1,
            (_, true) => completed += 1,
            (_, false) => undone += 1,
        }

        // And the next onboarding comes to an end whatever was left, and settles it.
        if recovered.code == 3 {
            let again = it.again();
            assert_eq!(again.code, 0, "{when}: {}", again.stderr);
            it.check_recovered(&master, &before, foreign, &when);
            let file = String::from_utf8_lossy(&fs::read(host.authorized_keys()).unwrap()).into_owned();
            assert!(!file.contains("toehold-temporary"), "swept at the next contact, {when}: {file}");
            let left: Vec<String> = contents(&host.home()).into_keys().collect();
            assert_eq!(left, ["authorized_keys"], "{when}");
        }
        fs::remove_dir_all(host.home().join(".ssh")).unwrap();
        support::server::make_home(&host.home());
    }
    println!("{killed} killed in {trial} trials: {completed} completed, {undone} undone, {owed} owed until the next contact");
}
