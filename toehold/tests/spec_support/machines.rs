//! Machines, the documents that list them, and a node that they are for.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use toehold_core::Timestamp;
use toehold_specsign::{Envelope, Format, Sha256Digest, SignedStatement, SigningKey, Statement, TrustedKeys, seal};

use super::web::{Page, Web};
use crate::support::cli::{Done, Toehold};

/// A version of a machine, packed.
#[derive(Clone, Debug)]
pub struct Version {
    pub name: String,
    pub archive: Vec<u8>,
    pub sums: Sha256Digest,
    /// What is to lie in its directory.
    pub tree: Tree,
}

/// What lies in a directory, by its paths.
pub type Tree = BTreeMap<String, Entry>;

/// A file, or a directory, which has no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `st_mode & 0o7777`.
    pub mode: u32,
    pub content: Option<Vec<u8>>,
}

impl Entry {
    /// As an archive is to bring it: a script can be run.
    fn file(content: &[u8]) -> Self {
        Self { mode: if content.starts_with(b"#!") { 0o755 } else { 0o644 }, content: Some(content.to_vec()) }
    }

    fn directory() -> Self {
        Self { mode: 0o755, content: None }
    }
}

/// A version with two files that tell it from others, one of them a script.
pub fn version(name: &str, number: u32) -> Version {
    let (yaml, script) = (format!("name: {name}\nversion: {number}\n"), format!("#!/bin/sh\necho {name} {number}\n"));
    packed(name, &[("machine.yaml", yaml.as_bytes()), ("bin/run.sh", script.as_bytes())])
}

/// A machine with these files, as GNU tar and gzip pack it.
pub fn packed(name: &str, files: &[(&str, &[u8])]) -> Version {
    let sums: String = files.iter().map(|(path, content)| format!("{}  {path}\n", Sha256Digest::of(content))).collect();
    let mut tree: Tree = files.iter().map(|(path, content)| ((*path).to_owned(), Entry::file(content))).collect();
    tree.insert("SHA256SUMS".to_owned(), Entry::file(sums.as_bytes()));
    for (path, _) in files {
        for (end, _) in path.match_indices('/') {
            tree.insert(path[..end].to_owned(), Entry::directory());
        }
    }
    let mut tar = member(&format!("{name}/"), &Entry::directory());
    for (path, entry) in &tree {
        let end = if entry.content.is_some() { "" } else { "/" };
        tar.extend(member(&format!("{name}/{path}{end}"), entry));
    }
    tar.resize(tar.len() + 1024, 0);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    Version { name: name.to_owned(), archive: gzip.finish().unwrap(), sums: Sha256Digest::of(sums.as_bytes()), tree }
}

/// An archive of a million empty files, without a list of sums. What is behind the first 40,000 is the same again and again: nobody who
/// has limits gets there.
pub fn million_empty_files(name: &str) -> Vec<u8> {
    let mut tar = Vec::new();
    for number in 0..40_000 {
        tar.extend(member(&format!("{name}/{number}"), &Entry::file(b"")));
    }
    let mut deflate = flate2::Compress::new(flate2::Compression::fast(), false);
    let mut piece = Vec::with_capacity(8 * 1024 * 1024);
    deflate.compress_vec(&tar, &mut piece, flate2::FlushCompress::Full).unwrap();
    assert!(deflate.total_in() == tar.len() as u64 && piece.len() < piece.capacity());
    let mut archive = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for _ in 0..25 {
        archive.extend_from_slice(&piece);
    }
    // An empty last block, and a trailer that nobody reads.
    archive.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    archive
}

/// A member of a tar archive (POSIX.1-1988, "ustar").
fn member(name: &str, entry: &Entry) -> Vec<u8> {
    let (kind, content) = entry.content.as_deref().map_or((b'5', &[][..]), |content| (b'0', content));
    let mode = entry.mode;
    let mut block = [0; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    assert!(name.len() <= 100, "{name}");
    put(0, name);
    put(100, &format!("{mode:07o}\0"));
    put(108, "0000000\x000000000\x00");
    put(124, &format!("{:011o}\0{:011o}\0", content.len(), 0));
    put(148, "        ");
    put(156, std::str::from_utf8(&[kind]).unwrap());
    put(257, "ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = [&block, content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

impl Version {
    /// Its entry in a list.
    pub fn entry(&self, source: &str) -> Value {
        json!({
            "name": self.name, "source": source, "verify": "SHA256SUMS",
            "verify_checksum": self.sums, "checksum": Sha256Digest::of(&self.archive),
        })
    }
}

pub fn key(number: u8) -> SigningKey {
    SigningKey::from_seed_hex(&format!("{number:02x}").repeat(32)).unwrap()
}

/// What a document says besides its list.
#[derive(Clone, Debug)]
pub struct Says {
    pub name: &'static str,
    pub serial: u64,
    /// Seconds from now.
    pub expires_in: i64,
    pub removals_meant: bool,
    pub signer: u8,
    pub format: Format,
}

impl Default for Says {
    fn default() -> Self {
        Self { name: "fleet", serial: 1, expires_in: 86_400, removals_meant: false, signer: 1, format: Format::Machines }
    }
}

pub fn now() -> i64 {
    i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap()
}

/// A document in an envelope.
pub fn document(entries: &[Value], says: &Says) -> Vec<u8> {
    let payload = serde_json::to_vec(entries).unwrap();
    let at = Timestamp::from_unix_seconds;
    let next = TrustedKeys::one(key(says.signer).verifying_key());
    let (from, to) = (at(now() - 10 * 86_400), at(now() + says.expires_in));
    let mut statement = Statement::new(says.format, says.name.parse().unwrap(), says.serial, from, to, &payload, next);
    statement.removals_meant = says.removals_meant;
    let current = SignedStatement::unsigned(statement).unwrap().sign(&key(says.signer));
    let plain = (says.format == Format::Machines).then(|| key(says.signer).sign(&payload));
    seal(&payload, &Envelope { current, key_changes: Vec::new() }, plain.as_ref()).unwrap().into_bytes()
}

/// The same as Choria packs it.
pub fn plain_document(entries: &[Value], signer: Option<u8>) -> Vec<u8> {
    let payload = serde_json::to_vec(entries).unwrap();
    let key = signer.map(key);
    toehold_specsign::pack(Format::Machines, &payload, key.as_ref()).unwrap().into_bytes()
}

/// A node with a root, and the server of its archives.
pub struct Node {
    pub toehold: Toehold,
    pub directory: TempDir,
    pub web: Web,
}

impl Node {
    pub fn new() -> Self {
        let directory = crate::support::server::directory("node");
        fs::create_dir(directory.path().join("root")).unwrap();
        fs::set_permissions(directory.path().join("root"), fs::Permissions::from_mode(0o755)).unwrap();
        Self { toehold: Toehold::bare(), directory, web: Web::start() }
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub fn file(&self) -> PathBuf {
        self.directory.path().join("spec.json")
    }

    /// Serves the versions, and lists them.
    pub fn entries(&self, versions: &[Version]) -> Vec<Value> {
        let mut entries = Vec::new();
        for version in versions {
            let path = format!("/{}-{}.tgz", version.name, Sha256Digest::of(&version.archive));
            self.web.serve(&path, Page::Good(version.archive.clone()));
            entries.push(version.entry(&self.web.url(&path)));
        }
        entries
    }

    /// Puts a document where the node reads it.
    pub fn publish(&self, document: &[u8]) {
        let new = self.directory.path().join("spec.new");
        fs::write(&new, document).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    /// The arguments of an apply of that document.
    pub fn arguments(&self, more: &[&str]) -> Vec<String> {
        let public = key(1).verifying_key().to_string();
        let (file, root) = (self.file(), self.root());
        let mut arguments = ["spec", "apply", "--allow-http", "--public-key", &public].map(str::to_owned).to_vec();
        arguments.extend(["--root", root.to_str().unwrap(), file.to_str().unwrap()].map(str::to_owned));
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        arguments
    }

    /// Not begun yet, without a proxy of the environment's.
    pub fn command(&self, more: &[&str]) -> Command {
        let arguments = self.arguments(more);
        let mut command = self.toehold.command(arguments.iter().map(String::as_str));
        for variable in
            ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"]
        {
            command.env_remove(variable);
        }
        command
    }

    pub fn apply(&self, more: &[&str]) -> Done {
        Done::of(self.command(more).output().unwrap())
    }

    /// Publishes these versions in an envelope, and applies that.
    pub fn apply_versions(&self, serial: u64, versions: &[Version], more: &[&str]) -> Done {
        self.publish(&document(&self.entries(versions), &Says { serial, ..Says::default() }));
        self.apply(more)
    }

    /// What lies in a machine's place; `None` for nothing.
    pub fn live(&self, name: &str) -> Option<Tree> {
        tree(&self.root().join(name))
    }

    /// What is below one of the private directories.
    pub fn private(&self, name: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.root().join(".toehold").join(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// A command with another one before it, in the same environment.
pub fn under(before: &[&str], command: &Command) -> Command {
    let mut whole = Command::new(before[0]);
    whole.args(&before[1..]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => whole.env(name, value),
            None => whole.env_remove(name),
        };
    }
    whole
}

/// What is in a directory; `None` where there is none.
pub fn tree(directory: &Path) -> Option<Tree> {
    if !directory.exists() {
        return None;
    }
    let mut tree = Tree::new();
    let mut open = vec![String::new()];
    while let Some(below) = open.pop() {
        for entry in fs::read_dir(directory.join(&below)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            let metadata = entry.metadata().unwrap();
            let content = metadata.is_file().then(|| fs::read(entry.path()).unwrap());
            tree.insert(path.clone(), Entry { mode: metadata.permissions().mode() & 0o7777, content });
            if metadata.is_dir() {
                open.push(path);
            }
        }
    }
    Some(tree)
}
