//! The demo's last act: a signed list says what a directory of machines holds; it comes, changes and goes, and an old list is refused.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::{Value, json};
use toehold_core::Clock as _;
use toehold_specsign::{
    Admission, AdmissionError, Envelope, Format, Limits, NoGovernors, NoHealth, Outcome, PassError, PlainPolicy, Reconciler,
    Report, Settings, Sha256Digest, SignedStatement, SigningKey, SourcePolicy, Statement, TrustedKeys, seal,
};

use super::milliseconds;
use crate::adapters::archive_fetcher::{ArchiveFetcher, FetchLimits};
use crate::adapters::machine_root::DirectoryRoot;
use crate::adapters::node_facts::NodeFacts;
use crate::adapters::system_clock::SystemClock;
use crate::cli::{Failure, Output, chain};

/// Archives come from files of the demo's own.
const SOURCES: SourcePolicy = SourcePolicy { allow_http: false, allow_file: true };

/// What can be run of each machine.
const SCRIPT: &str = "bin/version";

/// How it went.
pub(super) struct Act {
    placed: bool,
    changed: bool,
    mended: bool,
    purged: bool,
    old_refused: bool,
}

impl Act {
    pub(super) fn is_good(&self) -> bool {
        self.placed && self.changed && self.mended && self.purged && self.old_refused
    }

    pub(super) fn document(&self) -> Value {
        json!({
            "placed": self.placed,
            "changed": self.changed,
            "mended": self.mended,
            "purged": self.purged,
            "old_document_refused": self.old_refused,
        })
    }
}

/// Plays it.
///
/// # Errors
/// Where the directory cannot be used, or a good document is not taken.
pub(super) async fn play(scratch: &Path, output: Output) -> Result<Act, Failure> {
    let step = |what: &str, since: Instant| {
        output.document(&json!({ "event": "step", "step": what, "milliseconds": milliseconds(since.elapsed()) }));
        output.text(format_args!("{:>9.1} ms  {what}", since.elapsed().as_secs_f64() * 1000.0));
    };
    let since = Instant::now();
    let mut stage = Stage::new(scratch)?;
    let (first, second) =
        (stage.document(1, &[("facts", 1), ("logs", 1), ("web", 1)])?, stage.document(2, &[("facts", 2), ("logs", 1)])?);
    step("made a key, and signed two lists of machines with it: the second changes one and has one less", since);

    let since = Instant::now();
    let placed = stage.pass(&first).await?.outcome == Outcome::Updated && stage.versions() == [Some(1), Some(1), Some(1)];
    step("a node took the first: it fetched, proved and placed three machines, each with a script that can be run", since);

    let since = Instant::now();
    fs::write(stage.root.join("logs/machine.yaml"), "somebody's own\n")?;
    let report = stage.pass(&second).await?;
    let [facts, logs, web] = stage.versions();
    let (changed, mended, purged) = (facts == Some(2), logs == Some(1), web.is_none());
    let good = report.outcome == Outcome::Updated && changed && mended && purged;
    if good {
        step("it took the second: one changed in one step, one that somebody had edited was mended, one was removed", since);
    } else {
        output.text(format_args!("              it did not come out as the list says: {:?}", report.machines));
    }

    let since = Instant::now();
    let old_refused = match stage.pass(&first).await {
        Err(error) => {
            output.text(format_args!("              {}", error.message));
            step("the first list came again, and was refused: its signature is good, its time is over", since);
            stage.versions() == [Some(2), Some(1), None]
        }
        Ok(_) => false,
    };
    Ok(Act { placed, changed, mended, purged, old_refused })
}

/// A node, and who signs for it.
struct Stage {
    key: SigningKey,
    archives: PathBuf,
    root: PathBuf,
    reconciler: Reconciler<DirectoryRoot, ArchiveFetcher, NoHealth, NoGovernors, SystemClock>,
}

impl Stage {
    fn new(scratch: &Path) -> Result<Self, Failure> {
        let (archives, root) = (scratch.join("archives"), scratch.join("machines"));
        for directory in [&archives, &root] {
            crate::private::create_directory(directory)?;
        }
        let key = SigningKey::generate(&mut UnwrapErr(SysRng));
        let reconciler = Reconciler {
            root: DirectoryRoot::open(&root, None).map_err(|error| Failure::new(chain(&error)))?,
            fetcher: ArchiveFetcher::new(SOURCES, FetchLimits::default(), None),
            health: NoHealth,
            governors: NoGovernors,
            clock: SystemClock,
            admission: Admission {
                trusted: Some(TrustedKeys::one(key.verifying_key())),
                plain: PlainPolicy::Refuse,
                ..Admission::default()
            },
            settings: Settings { purge: true, guard_percent: 50, ..Settings::default() },
            sources: SOURCES,
            limits: Limits::default(),
        };
        Ok(Self { key, archives, root, reconciler })
    }

    /// A signed list of these versions.
    fn document(&self, serial: u64, versions: &[(&str, u32)]) -> Result<Vec<u8>, Failure> {
        let mut list = Vec::new();
        for (name, version) in versions {
            let yaml = format!("name: {name}\nversion: {version}\n");
            let script = format!("#!/bin/sh\necho {version}\n");
            let sum = |content: &str| Sha256Digest::of(content.as_bytes());
            let sums = format!("{}  {SCRIPT}\n{}  machine.yaml\n", sum(&script), sum(&yaml));
            let archive =
                archive(name, &[("machine.yaml", &yaml, 0o644), (SCRIPT, &script, 0o755), ("SHA256SUMS", &sums, 0o644)])?;
            let file = self.archives.join(format!("{name}-{version}.tgz"));
            fs::write(&file, &archive)?;
            list.push(json!({
                "name": name,
                "source": format!("file://{}", super::path(&file)?),
                "verify": "SHA256SUMS",
                "verify_checksum": Sha256Digest::of(sums.as_bytes()),
                "checksum": Sha256Digest::of(&archive),
            }));
        }
        let payload = serde_json::to_vec(&list)?;
        let (now, keys) = (SystemClock.now(), TrustedKeys::one(self.key.verifying_key()));
        let end = now.saturating_add(Duration::from_secs(3600));
        let statement = Statement::new(Format::Machines, "demo".parse()?, serial, now, end, &payload, keys);
        let current = SignedStatement::unsigned(statement)?.sign(&self.key);
        Ok(seal(&payload, &Envelope { current, key_changes: Vec::new() }, None)?.into_bytes())
    }

    async fn pass(&mut self, document: &[u8]) -> Result<Report, Failure> {
        self.reconciler.pass(document, &NodeFacts::new(None)).await.map_err(|error| match error {
            PassError::Admission(AdmissionError::Rollback { .. }) => Failure::new(error.to_string()),
            error => Failure::new(chain(&error)),
        })
    }

    /// Which versions lie there, with what can be run and what cannot.
    fn versions(&self) -> [Option<u32>; 3] {
        ["facts", "logs", "web"].map(|name| {
            let (script, file) = (self.root.join(name).join(SCRIPT), self.root.join(name).join("machine.yaml"));
            let mode = |path: &Path| Some(fs::metadata(path).ok()?.permissions().mode() & 0o777);
            if (mode(&script)?, mode(&file)?) != (0o755, 0o644) {
                return None;
            }
            let yaml = fs::read_to_string(file).ok()?;
            yaml.lines().find_map(|line| line.strip_prefix("version: "))?.parse().ok()
        })
    }
}

/// A machine's archive, as tar and gzip make it.
fn archive(name: &str, files: &[(&str, &str, u32)]) -> Result<Vec<u8>, Failure> {
    let mut tar = member(&format!("{name}/"), None);
    for (path, content, mode) in files {
        tar.extend(member(&format!("{name}/{path}"), Some((content.as_bytes(), *mode))));
    }
    tar.resize(tar.len() + 1024, 0);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar)?;
    Ok(gzip.finish()?)
}

/// A member of a tar archive (POSIX.1-1988, "ustar"): a file with its mode; a directory without content.
fn member(name: &str, file: Option<(&[u8], u32)>) -> Vec<u8> {
    let kind = if file.is_some() { "0" } else { "5" };
    let (content, mode) = file.unwrap_or((&[], 0o755));
    let head = |sum: &str| {
        format!(
            "{name:\0<100}{mode:07o}\0{:07o}\0{:07o}\0{:011o}\0{:011o}\0{sum:8}{kind}{:\0<100}ustar\x0000{:\0<247}",
            0,
            0,
            content.len(),
            0,
            "",
            ""
        )
    };
    let sum: u32 = head("").bytes().map(u32::from).sum();
    let mut bytes = head(&format!("{sum:06o}\0 ")).into_bytes();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_whole_blocks() {
        assert_eq!(member("a/", None).len(), 512);
        assert_eq!(member("a/b", Some((b"x", 0o644))).len(), 1024);
        let bytes = member("a/b", Some((&[1; 513], 0o755)));
        assert_eq!((bytes.len(), &bytes[..4], &bytes[257..265]), (1536, &b"a/b\0"[..], &b"ustar\x0000"[..]));
        assert_eq!(&bytes[100..108], b"0000755\0");
    }
}
