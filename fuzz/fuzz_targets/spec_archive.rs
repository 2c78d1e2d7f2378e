//! Archives: no panic, nothing outside, parents first, nothing twice, and the same end however the bytes are cut.
//!
//! The first byte says what the rest is: bytes of gzip, or of tar, which are packed first so that the fuzzer need not.
#![no_main]

use std::collections::BTreeSet;
use std::io::{self, Write as _};

use libfuzzer_sys::fuzz_target;
use toehold_specsign::{Limits, Sha256Digest, TreePath, UnpackSink, Unpacker};

#[derive(Default)]
struct Sink {
    directories: BTreeSet<String>,
    files: BTreeSet<String>,
    open: bool,
    bytes: usize,
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
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        assert!(self.open);
        self.bytes += bytes.len();
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
    let ends = [1, 61, usize::MAX].map(|piece| {
        let mut sink = Sink::default();
        let mut unpacker = Unpacker::new(&name, Sha256Digest::of(archive), Sha256Digest::of(b""), limits);
        for piece in archive.chunks(piece) {
            if let Err(error) = unpacker.push(piece, &mut sink) {
                return (error.to_string(), sink.files.len(), sink.bytes);
            }
        }
        // No list is empty, so none of them can be good.
        (unpacker.finish().expect_err("no archive has an empty list").to_string(), sink.files.len(), sink.bytes)
    });
    // A damaged archive may be noticed sooner or later. One that was read to its end was so in all cases, and alike.
    let whole = |end: &(String, usize, usize)| end.0.contains("SHA256SUMS");
    assert!(!ends.iter().any(whole) || ends.windows(2).all(|two| two[0] == two[1]), "{ends:?}");
});
