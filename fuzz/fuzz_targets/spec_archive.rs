//! Archives: no panic, nothing outside, parents first, nothing twice, and the same end however the bytes are cut.
//!
//! The first byte says what the rest is: bytes of gzip, or of tar, which are packed first so that the fuzzer need not.
#![no_main]

use std::collections::BTreeSet;
use std::io::{self, Write as _};

use libfuzzer_sys::fuzz_target;
use toehold_specsign::{Limits, Sha256Digest, Sums, TreePath, UnpackSink, Unpacker};

#[derive(Default)]
struct Sink {
    directories: BTreeSet<String>,
    files: BTreeSet<String>,
    open: bool,
    bytes: usize,
    /// The file that is open is the list, and what came of it.
    is_list: bool,
    list: Option<Vec<u8>>,
}

impl Sink {
    fn add(&mut self, path: &TreePath) {
        assert!(path.components().all(|part| !matches!(part, "" | "." | "..")) && !path.as_str().contains(['\0', '\\']));
        assert!(path.parent().is_none_or(|parent| self.directories.contains(parent)), "parents come first");
        assert!(!self.directories.contains(path.as_str()) && !self.files.contains(path.as_str()), "nothing comes twice");
        assert!(!self.open);
    }
}

impl UnpackSink for Sink {
    fn directory(&mut self, path: &TreePath) -> io::Result<()> {
        self.add(path);
        self.directories.insert(path.to_string());
        Ok(())
    }

    fn begin_file(&mut self, path: &TreePath, _: bool) -> io::Result<()> {
        self.add(path);
        self.files.insert(path.to_string());
        self.open = true;
        self.is_list = path.as_str() == "SHA256SUMS";
        if self.is_list {
            self.list = Some(Vec::new());
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        assert!(self.open);
        self.bytes += bytes.len();
        if let Some(list) = self.list.as_mut().filter(|_| self.is_list) {
            list.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn end_file(&mut self) -> io::Result<()> {
        assert!(std::mem::take(&mut self.open));
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let packed;
    let archive = if kind % 2 == 0 {
        rest
    } else {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(rest).expect("memory");
        packed = encoder.finish().expect("memory");
        &packed
    };
    let name = "app".parse().expect("a name");
    let limits = Limits { unpacked_bytes: 1 << 22, entries: 200, ..Limits::default() };
    let unpack = |sums: Sha256Digest, piece: usize| {
        let mut sink = Sink::default();
        let mut unpacker = Unpacker::new(&name, Sha256Digest::of(archive), sums, limits);
        for piece in archive.chunks(piece) {
            if let Err(error) = unpacker.push(piece, &mut sink) {
                return (Err(error.to_string()), sink);
            }
        }
        (unpacker.finish().map_err(|error| error.to_string()), sink)
    };
    // With the sum of the list that is in it, if there is one: then it can be good.
    let (end, sink) = unpack(Sha256Digest::of(b""), usize::MAX);
    assert!(end.is_err(), "no list is empty");
    let sums = Sha256Digest::of(sink.list.as_deref().unwrap_or_default());
    let ends = [1, 61, usize::MAX].map(|piece| {
        let (end, sink) = unpack(sums, piece);
        if let Ok(unpacked) = end {
            assert_eq!((unpacked.files, unpacked.bytes), (sink.files.len(), sink.bytes as u64));
            // The list is closed: what came is what it names, and the list itself.
            let list =
                Sums::parse(sink.list.as_deref().expect("a good archive has a list")).expect("a good archive's can be read");
            let listed: BTreeSet<String> =
                list.files().map(|(path, _)| path.to_string()).chain(["SHA256SUMS".to_owned()]).collect();
            assert_eq!(listed, sink.files);
        }
        (end.map_or_else(|error| error, |_| "good".to_owned()), sink.files.len(), sink.bytes)
    });
    // A damaged archive may be noticed sooner or later. One that was read to its end was so in all cases, and alike.
    let whole = |end: &(String, usize, usize)| end.0 == "good" || end.0.contains("SHA256SUMS");
    assert!(!ends.iter().any(whole) || ends.windows(2).all(|two| two[0] == two[1]), "{ends:?}");
});
