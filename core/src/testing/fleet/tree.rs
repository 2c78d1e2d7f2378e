//! The file tree of a simulated host.

use std::collections::{BTreeMap, VecDeque};

use crate::connect::{FileKind, FileStat};

/// How many links a path may lead over (`SYMLOOP_MAX` is at least 8, Linux has 40).
const MAX_LINKS: usize = 40;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: FileKind,
    /// A file's bytes or a link's target; empty for a directory.
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) modified: i64,
}

/// Who asks, from where, and when.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) uid: u32,
    /// The directory that is `/` to the caller; empty without chroot.
    pub(super) root: String,
    /// Where relative paths begin, as the caller sees it.
    pub(super) start: String,
    /// Seconds since 1970 by the host's clock.
    pub(super) now: i64,
}

/// Why an operation was not done, in the words of `errno`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Exists,
    Missing,
    NotPermitted,
    Other(&'static str),
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
}

const READ: u32 = 4;
const WRITE: u32 = 2;
const SEARCH: u32 = 1;

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(at) => path.get(..at).unwrap_or("/"),
    }
}

impl Node {
    /// Groups are not modelled: whoever is not the owner is one of the others.
    fn allows(&self, uid: u32, access: u32) -> bool {
        uid == 0 || (if self.uid == uid { self.mode >> 6 } else { self.mode }) & access == access
    }
}

impl Tree {
    pub(super) fn new(now: i64) -> Self {
        let root = Node { kind: FileKind::Directory, content: Vec::new(), mode: 0o755, uid: 0, modified: now };
        Self { nodes: BTreeMap::from([("/".to_owned(), root)]) }
    }

    /// All paths in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.nodes.iter()
    }

    /// What is at exactly this path of the host, links not followed.
    pub(super) fn node(&self, host_path: &str) -> Option<&Node> {
        self.nodes.get(host_path)
    }

    pub(super) fn node_mut(&mut self, host_path: &str) -> Option<&mut Node> {
        self.nodes.get_mut(host_path)
    }

    /// The host's path for what `path` means to the caller, and the path as the caller sees it. The last component need not
    /// be there.
    fn resolve(&self, caller: &Caller, path: &str, follow_last: bool) -> Result<(String, String), Refusal> {
        let split = |text: &str| text.split('/').map(str::to_owned).collect::<VecDeque<_>>();
        let mut todo = split(path);
        if !path.starts_with('/') {
            let mut start = split(&caller.start);
            start.append(&mut todo);
            todo = start;
        }
        todo.retain(|part| !part.is_empty() && part != ".");
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == ".." {
                done.pop();
                continue;
            }
            let directory = self.nodes.get(&host_path(&caller.root, &done)).ok_or(Refusal::Missing)?;
            if directory.kind != FileKind::Directory {
                return Err(Refusal::Missing);
            }
            if !directory.allows(caller.uid, SEARCH) {
                return Err(Refusal::NotPermitted);
            }
            done.push(part);
            match self.nodes.get(&host_path(&caller.root, &done)) {
                Some(node) if node.kind == FileKind::Link && (follow_last || !todo.is_empty()) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Refusal::Missing);
                    }
                    let target = String::from_utf8_lossy(&node.content).into_owned();
                    done.pop();
                    if target.starts_with('/') {
                        done.clear();
                    }
                    let mut parts = split(&target);
                    parts.retain(|part| !part.is_empty() && part != ".");
                    parts.append(&mut todo);
                    todo = parts;
                }
                None if !todo.is_empty() => return Err(Refusal::Missing),
                _ => {}
            }
        }
        Ok((host_path(&caller.root, &done), host_path("", &done)))
    }

    pub(super) fn real_path(&self, caller: &Caller, path: &str) -> Result<String, Refusal> {
        self.resolve(caller, path, true).map(|(_, seen)| seen)
    }

    pub(super) fn stat(&self, caller: &Caller, path: &str) -> Result<Option<FileStat>, Refusal> {
        let (at, _) = match self.resolve(caller, path, false) {
            Err(Refusal::Missing) => return Ok(None),
            other => other?,
        };
        Ok(self.nodes.get(&at).map(|node| FileStat {
            kind: node.kind,
            size: u64::try_from(node.content.len()).unwrap_or(u64::MAX),
            uid: Some(node.uid),
            mode: node.mode,
            modified: node.modified,
        }))
    }

    pub(super) fn read(&self, caller: &Caller, path: &str) -> Result<&[u8], Refusal> {
        let (at, _) = self.resolve(caller, path, true)?;
        let node = self.nodes.get(&at).ok_or(Refusal::Missing)?;
        if node.kind == FileKind::Directory {
            return Err(Refusal::Other("is a directory"));
        }
        if !node.allows(caller.uid, READ) {
            return Err(Refusal::NotPermitted);
        }
        Ok(&node.content)
    }

    pub(super) fn names(&self, caller: &Caller, path: &str) -> Result<Vec<String>, Refusal> {
        let (at, _) = self.resolve(caller, path, true)?;
        let node = self.nodes.get(&at).ok_or(Refusal::Missing)?;
        if node.kind != FileKind::Directory {
            return Err(Refusal::Missing);
        }
        if !node.allows(caller.uid, READ) {
            return Err(Refusal::NotPermitted);
        }
        Ok(self.children(&at).map(str::to_owned).collect())
    }

    fn children<'a>(&'a self, directory: &'a str) -> impl Iterator<Item = &'a str> {
        let below = if directory == "/" { "/".to_owned() } else { format!("{directory}/") };
        self.nodes.keys().filter_map(move |path| path.strip_prefix(&below).filter(|name| !name.is_empty() && !name.contains('/')))
    }

    /// The place of an entry that the caller may add to, replace in or take out of its directory.
    fn changeable(&self, caller: &Caller, path: &str) -> Result<String, Refusal> {
        let (at, _) = self.resolve(caller, path, false)?;
        let directory = self.nodes.get(parent(&at)).ok_or(Refusal::Missing)?;
        if at == "/" || !directory.allows(caller.uid, WRITE | SEARCH) {
            return Err(Refusal::NotPermitted);
        }
        Ok(at)
    }

    /// `open` with `O_CREAT` and `O_EXCL`, which does not follow a link either.
    pub(super) fn create(&mut self, caller: &Caller, path: &str, content: Vec<u8>, mode: u32) -> Result<(), Refusal> {
        let (at, _) = self.resolve(caller, path, false)?;
        if self.nodes.contains_key(&at) {
            return Err(Refusal::Exists);
        }
        let at = self.changeable(caller, path)?;
        let node = Node { kind: FileKind::Regular, content, mode: mode & 0o7777, uid: caller.uid, modified: caller.now };
        self.nodes.insert(at, node);
        Ok(())
    }

    /// `rename(2)`, for everything but a directory over something.
    pub(super) fn rename(&mut self, caller: &Caller, from: &str, to: &str) -> Result<(), Refusal> {
        let from = self.changeable(caller, from)?;
        if !self.nodes.contains_key(&from) {
            return Err(Refusal::Missing);
        }
        let to = self.changeable(caller, to)?;
        let directories = [&from, &to].map(|at| self.nodes.get(at.as_str()).is_some_and(|n| n.kind == FileKind::Directory));
        if directories.contains(&true) {
            return Err(Refusal::Other("is a directory"));
        }
        if let Some(node) = self.nodes.remove(&from) {
            self.nodes.insert(to, node);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, caller: &Caller, path: &str) -> Result<(), Refusal> {
        let at = self.changeable_entry(caller, path)?;
        if self.nodes.get(&at).is_some_and(|node| node.kind == FileKind::Directory) {
            return Err(Refusal::Other("is a directory"));
        }
        self.nodes.remove(&at);
        Ok(())
    }

    pub(super) fn remove_directory(&mut self, caller: &Caller, path: &str) -> Result<(), Refusal> {
        let at = self.changeable_entry(caller, path)?;
        if self.nodes.get(&at).is_some_and(|node| node.kind != FileKind::Directory) {
            return Err(Refusal::Missing);
        }
        if self.children(&at).next().is_some() {
            return Err(Refusal::Other("directory not empty"));
        }
        self.nodes.remove(&at);
        Ok(())
    }

    fn changeable_entry(&self, caller: &Caller, path: &str) -> Result<String, Refusal> {
        let (at, _) = self.resolve(caller, path, false)?;
        if !self.nodes.contains_key(&at) {
            return Err(Refusal::Missing);
        }
        self.changeable(caller, path)
    }

    /// Puts `node` at `path`, with the directories above it, whoever owns what.
    pub(super) fn put(&mut self, path: &str, node: Node) {
        self.make_directories(parent(path), node.uid, 0o755, node.modified);
        self.nodes.insert(path.to_owned(), node);
    }

    /// Makes the directory and those above it where they are missing.
    pub(super) fn make_directories(&mut self, path: &str, uid: u32, mode: u32, now: i64) {
        if self.nodes.contains_key(path) {
            return;
        }
        self.make_directories(parent(path), uid, 0o755, now);
        let node = Node { kind: FileKind::Directory, content: Vec::new(), mode, uid, modified: now };
        self.nodes.insert(path.to_owned(), node);
    }

    /// Removes what is at `path`, with all that is below it.
    pub(super) fn purge(&mut self, path: &str) {
        let below = format!("{path}/");
        self.nodes.retain(|at, _| at != path && !at.starts_with(&below));
    }

    /// `StrictModes`: the file, and every directory from it up to `home`, belong to the account or to root, and nobody else
    /// may write there.
    pub(super) fn is_strict(&self, file: &str, home: &str, uid: u32) -> bool {
        let mut at = file;
        loop {
            let Some(node) = self.nodes.get(at) else { return false };
            if (node.uid != 0 && node.uid != uid) || node.mode & 0o022 != 0 {
                return false;
            }
            if at == home || at == "/" {
                return true;
            }
            at = parent(at);
        }
    }

    /// The content of a regular file as sshd opens it, and the path where it lies once links are followed.
    pub(super) fn open(&self, path: &str) -> Option<(String, &[u8])> {
        let caller = Caller { uid: 0, root: String::new(), start: "/".to_owned(), now: 0 };
        let (at, _) = self.resolve(&caller, path, true).ok()?;
        let node = self.nodes.get(&at).filter(|node| node.kind == FileKind::Regular)?;
        Some((at, &node.content))
    }
}

fn host_path(root: &str, parts: &[String]) -> String {
    let path = format!("{root}/{}", parts.join("/"));
    if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path }
}
