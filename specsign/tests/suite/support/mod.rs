//! A directory in memory, tar and gzip written by hand, and what a hostile archive is made of.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;
use toehold_specsign::{ArchiveError, Limits, MachineName, Sha256Digest, TreePath, UnpackSink, Unpacked, Unpacker};

/// What came out of an archive: directories are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) entries: BTreeMap<String, Option<(Vec<u8>, bool)>>,
    open: Option<(String, bool, Vec<u8>)>,
    pub(crate) fail_at: Option<usize>,
    calls: usize,
}

impl Tree {
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        if self.fail_at == Some(self.calls) { Err(io::Error::other("disk full")) } else { Ok(()) }
    }

    fn parent_is_there(&self, path: &TreePath) {
        if let Some(parent) = path.parent() {
            assert_eq!(self.entries.get(parent), Some(&None), "parents come first: {path}");
        }
        assert!(!self.entries.contains_key(path.as_str()), "nothing comes twice: {path}");
    }
}

impl UnpackSink for Tree {
    fn directory(&mut self, path: &TreePath) -> io::Result<()> {
        self.call()?;
        self.parent_is_there(path);
        self.entries.insert(path.to_string(), None);
        Ok(())
    }

    fn begin_file(&mut self, path: &TreePath, executable: bool) -> io::Result<()> {
        self.call()?;
        self.parent_is_there(path);
        assert!(self.open.is_none());
        self.open = Some((path.to_string(), executable, Vec::new()));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.call()?;
        self.open.as_mut().unwrap().2.extend_from_slice(bytes);
        Ok(())
    }

    fn end_file(&mut self) -> io::Result<()> {
        self.call()?;
        let (path, executable, content) = self.open.take().unwrap();
        self.entries.insert(path, Some((content, executable)));
        Ok(())
    }
}

/// A member of a tar archive, which says what the test wants it to say.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: Vec<u8>,
    pub(crate) size: Vec<u8>,
    pub(crate) content: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) magic: [u8; 8],
}

pub(crate) fn file(name: &str, content: &[u8]) -> Member {
    Member {
        name: name.as_bytes().to_vec(),
        kind: b'0',
        mode: b"0000644\0".to_vec(),
        size: format!("{:011o}\0", content.len()).into_bytes(),
        content: content.to_vec(),
        link: Vec::new(),
        magic: *b"ustar\x0000",
    }
}

pub(crate) fn directory(name: &str) -> Member {
    Member { kind: b'5', mode: b"0000755\0".to_vec(), ..file(name, b"") }
}

pub(crate) fn special(name: &str, kind: u8, link: &str) -> Member {
    Member { kind, link: link.as_bytes().to_vec(), ..file(name, b"") }
}

/// A pax header with these records.
pub(crate) fn pax(kind: u8, records: &[(&str, &[u8])]) -> Member {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = 3 + key.len() + value.len();
        let mut length = rest;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        content.extend_from_slice(format!("{length} {key}=").as_bytes());
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    Member { kind, ..file("./PaxHeaders/x", &content) }
}

/// A GNU long name.
pub(crate) fn long_name(name: &str) -> Member {
    let mut content = name.as_bytes().to_vec();
    content.push(0);
    Member { kind: b'L', magic: *b"ustar  \0", ..file("././@LongLink", &content) }
}

impl Member {
    pub(crate) fn header(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, &self.mode);
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, &self.size);
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, &self.link);
        put(257, &self.magic);
        finish_header(&mut block);
        block
    }
}

pub(crate) fn finish_header(block: &mut [u8; 512]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub(crate) fn tar(members: &[Member]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for member in members {
        bytes.extend_from_slice(&member.header());
        bytes.extend_from_slice(&member.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn sums_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    files.iter().map(|(path, content)| format!("{}  {path}\n", Sha256Digest::of(content))).collect::<String>().into_bytes()
}

/// A good archive of a machine with these files, and the digest of its list.
pub(crate) fn machine_archive(name: &str, files: &[(&str, &[u8])]) -> (Vec<u8>, Sha256Digest) {
    let sums = sums_of(files);
    let mut members = vec![directory(&format!("{name}/"))];
    for (path, content) in files {
        members.push(file(&format!("{name}/{path}"), content));
    }
    members.push(file(&format!("{name}/SHA256SUMS"), &sums));
    (gzip(&tar(&members)), Sha256Digest::of(&sums))
}

pub(crate) fn name(text: &str) -> MachineName {
    text.parse().unwrap()
}

/// Unpacks an archive that is what was listed, in pieces of so many bytes.
pub(crate) fn unpack(archive: &[u8], sums: Sha256Digest, limits: Limits, piece: usize) -> Result<(Tree, Unpacked), ArchiveError> {
    let (tree, end) = unpack_as("app", archive, Sha256Digest::of(archive), sums, limits, piece);
    end.map(|unpacked| (tree, unpacked))
}

pub(crate) fn unpack_as(
    top: &str,
    archive: &[u8],
    checksum: Sha256Digest,
    sums: Sha256Digest,
    limits: Limits,
    piece: usize,
) -> (Tree, Result<Unpacked, ArchiveError>) {
    let mut unpacker = Unpacker::new(&name(top), checksum, sums, limits);
    let mut tree = Tree::default();
    for piece in archive.chunks(piece) {
        if let Err(error) = unpacker.push(piece, &mut tree) {
            return (tree, Err(error));
        }
    }
    let end = unpacker.finish();
    (tree, end)
}

pub(crate) fn digest_of(text: &str) -> Sha256Digest {
    Sha256Digest::of(text.as_bytes())
}

pub(crate) fn digest(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::of(bytes)
}
