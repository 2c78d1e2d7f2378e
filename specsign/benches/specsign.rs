//! A matcher with facts at hand, a list of 10,000 machines from its bytes, in an envelope, to its answers, and an archive of 100 MB in 5,000
//! files, unpacked and checked without a disk, beside the bare hashing and inflating of the same; and a pass over 10,000
//! machines that are as they should be, beside the bare hashing of their files.
//!
//! `cargo bench -p toehold-specsign`. The bars: 2 µs, 50 ms, 100 ms beyond the hashing.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench")]

use std::hint::black_box;
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use toehold_core::Timestamp;
use toehold_core::testing::{ManualClock, block_on};
use toehold_specsign::{
    Admission, Admitted, Attributes, Belongs, Body, CachedFacts, Document, Envelope, FetchError, Fetcher, Format, KnownFacts,
    Limits, MachineList, MachineName, MachineRoot, ManagedMachine, Matcher, NoGovernors, NoHealth, Outcome, Place, PlainPolicy,
    Reconciler, RootState, Selector, Settings, Sha256Digest, SignedStatement, SigningKey, SourcePolicy, StateCopy, Statement,
    Traces, TreeEntry, TreePath, TreeVisitor, TrustedKeys, UnpackSink, Unpacker, seal,
};

fn facts() -> KnownFacts {
    let set = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    KnownFacts {
        identity: Some("web1234.example.net".to_owned()),
        files: set(&["/etc/passwd"]),
        directories: set(&["/usr"]),
        commands: set(&["x", "facter"]),
    }
}

/// As an operator might write them, one for each of five machines.
const EXPRESSIONS: [&str; 5] = [
    "identity('^web')",
    "identity('^db') || has_command('facter')",
    "identity(`^web\\\\d+\\\\.`) && has_file('/etc/passwd')",
    "!has_directory('/opt/x') && identity(`\\\\.example\\\\.net$`)",
    "has_command('facter') and not has_file('/etc/no') and identity('^(web|app)[0-9]+')",
];

fn list(machines: usize, distinct: bool) -> String {
    let sum = Sha256Digest::of(b"");
    let entry = |number: usize| {
        let mut expression = EXPRESSIONS[number % EXPRESSIONS.len()].to_owned();
        if distinct {
            expression = expression.replace("^web", &format!("^web{number}")).replace("facter", &format!("facter{number}"));
        }
        format!(
            "{{\"name\":\"m{number}\",\"source\":\"https://files.example.net/m{number}-1.0.{number}.tgz\",\"verify\":\"SHA256SUMS\",\
             \"verify_checksum\":\"{sum}\",\"checksum\":\"{sum}\",\"match\":\"{expression}\"}}"
        )
    };
    format!("[{}]", (0..machines).map(entry).collect::<Vec<_>>().join(",\n"))
}

/// A document of `fleet` in an envelope.
fn sealed(payload: &str, key: &SigningKey) -> String {
    let at = Timestamp::from_unix_seconds;
    let (name, next) = ("fleet".parse().unwrap(), TrustedKeys::one(key.verifying_key()));
    let statement = Statement::new(Format::Machines, name, 1, at(0), at(1_000_000), payload.as_bytes(), next);
    let current = SignedStatement::unsigned(statement).unwrap().sign(key);
    seal(payload.as_bytes(), &Envelope { current, key_changes: Vec::new() }, None).unwrap()
}

/// A root that trusts this key, and takes nothing without an envelope.
fn trusting(key: &SigningKey) -> Admission {
    Admission { trusted: Some(TrustedKeys::one(key.verifying_key())), plain: PlainPolicy::Refuse, ..Admission::default() }
}

/// Judged on its first contact.
fn admit(document: Document, admission: &Admission) -> Admitted {
    admission.admit(&RootState::default(), document, Timestamp::from_unix_seconds(1000)).unwrap()
}

/// Verified, read, and every machine asked: as a node does for each evaluation.
fn evaluate(document: &[u8], admission: &Admission) -> usize {
    let admitted = admit(Document::parse(document).unwrap(), admission);
    let list = MachineList::parse(admitted.payload.bytes(), SourcePolicy::default()).unwrap();
    let mut selector = Selector::new(facts());
    list.machines().iter().filter(|machine| selector.belongs(machine) == Belongs::Yes).count()
}

/// 5,000 files of 20 kB, half of it noise: what an archive of programs and texts is like.
fn archive() -> (Vec<u8>, Sha256Digest) {
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let mut tar = Vec::with_capacity(110 << 20);
    let mut sums = String::new();
    let mut add = |name: &str, content: &[u8]| {
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, b"0000644\x000000000\x000000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000000\0        0");
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    };
    for number in 0..5000 {
        let content: Vec<u8> = (0..20_000_usize)
            .map(|at| {
                if at % 2 == 0 {
                    return b'a';
                }
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise.to_le_bytes()[0]
            })
            .collect();
        let name = format!("d{}/file{number}", number % 50);
        sums.push_str(&format!("{}  {name}\n", Sha256Digest::of(&content)));
        add(&format!("app/{name}"), &content);
    }
    add("app/SHA256SUMS", sums.as_bytes());
    tar.extend_from_slice(&[0; 1024]);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(1));
    encoder.write_all(&tar).unwrap();
    (encoder.finish().unwrap(), Sha256Digest::of(sums.as_bytes()))
}

struct Nowhere;

impl UnpackSink for Nowhere {
    fn directory(&mut self, _: &TreePath) -> io::Result<()> {
        Ok(())
    }
    fn begin_file(&mut self, _: &TreePath, _: bool) -> io::Result<()> {
        Ok(())
    }
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        black_box(bytes);
        Ok(())
    }
    fn end_file(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unpack(archive: &[u8], sums: Sha256Digest) -> u64 {
    let name = "app".parse().unwrap();
    let mut unpacker = Unpacker::new(&name, Sha256Digest::of(archive), sums, Limits::default());
    for piece in archive.chunks(64 * 1024) {
        unpacker.push(piece, &mut Nowhere).unwrap();
    }
    unpacker.finish().unwrap().bytes
}

/// What nobody can do without: the archive hashed twice (here and for its expected sum), inflated, and its content hashed.
fn floor(archive: &[u8]) -> u64 {
    black_box(Sha256Digest::of(archive));
    black_box(Sha256Digest::of(archive));
    let (mut hash, mut all) = (Sha256::new(), 0);
    let mut buffer = vec![0; 64 * 1024];
    let mut decoder = GzDecoder::new(archive);
    loop {
        let length = decoder.read(&mut buffer).unwrap();
        if length == 0 {
            black_box(hash.finalize());
            return all;
        }
        hash.update(buffer.get(..length).unwrap_or_default());
        all += length as u64;
    }
}

/// A root in memory whose machines all have the same three files.
#[derive(Default)]
struct Root {
    copies: [Option<Vec<u8>>; 2],
    files: Vec<(&'static str, Vec<u8>)>,
}

impl MachineRoot for Root {
    type Stage = Nowhere;

    fn traces(&mut self) -> io::Result<Traces> {
        Ok(if self.copies == [None, None] { Traces::None } else { Traces::Own })
    }
    fn read_state(&mut self, copy: StateCopy) -> io::Result<Option<Vec<u8>>> {
        Ok(self.copies[usize::from(copy == StateCopy::Second)].clone())
    }
    fn write_state(&mut self, copy: StateCopy, bytes: &[u8]) -> io::Result<()> {
        self.copies[usize::from(copy == StateCopy::Second)] = Some(bytes.to_vec());
        Ok(())
    }
    fn read_journal(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn append_journal(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn clear_journal(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn read_document(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn write_document(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn exists(&mut self, place: Place, _: &MachineName) -> io::Result<bool> {
        Ok(place == Place::Live)
    }
    fn inspect(&mut self, _: Place, _: &MachineName, visitor: &mut dyn TreeVisitor) -> io::Result<bool> {
        visitor.entry(b"bin", TreeEntry::Directory, Attributes::ours(0o755))?;
        for (path, content) in &self.files {
            visitor.entry(path.as_bytes(), TreeEntry::File(&mut &content[..]), Attributes::ours(0o644))?;
        }
        Ok(true)
    }
    fn stage(&mut self, _: &MachineName) -> io::Result<Nowhere> {
        Err(io::Error::other("nothing is to be fetched"))
    }
    fn seal(&mut self, _: &MachineName, _: Nowhere) -> io::Result<()> {
        Ok(())
    }
    fn exchange(&mut self, _: &MachineName, _: Place, _: Place) -> io::Result<()> {
        Ok(())
    }
    fn rename(&mut self, _: &MachineName, _: Place, _: Place) -> io::Result<()> {
        Ok(())
    }
    fn discard(&mut self, _: &MachineName, _: Place) -> io::Result<()> {
        Ok(())
    }
    fn empty_trash(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Nothing;

impl Body for Nothing {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, FetchError> {
        Ok(None)
    }
}

impl Fetcher for Nothing {
    type Body = Self;

    async fn fetch(&self, _: &ManagedMachine) -> Result<Self, FetchError> {
        Err(FetchError("nothing is to be fetched".to_owned()))
    }
}

/// A node with 10,000 machines in place, the document that it has, and the bytes of their files.
fn settled(key: &SigningKey) -> (Reconciler<Root, Nothing, NoHealth, NoGovernors, ManualClock>, Vec<u8>) {
    let files = [("bin/run", vec![b'x'; 4000]), ("machine.yaml", vec![b'y'; 1000])];
    let sums: String = files.iter().map(|(path, content)| format!("{}  {path}\n", Sha256Digest::of(content))).collect();
    let mut files = files.to_vec();
    let digest = Sha256Digest::of(sums.as_bytes());
    files.push(("SHA256SUMS", sums.into_bytes()));
    let payload = list(10_000, false).replace(&Sha256Digest::of(b"").to_string(), &digest.to_string());
    // On this node, all of them.
    let payload = payload.replace("\"match\"", "\"x-match\"");
    let document = sealed(&payload, key);
    let mut reconciler = Reconciler {
        root: Root { files, ..Root::default() },
        fetcher: Nothing,
        health: NoHealth,
        governors: NoGovernors,
        clock: ManualClock::new(Timestamp::from_unix_seconds(1000)),
        admission: trusting(key),
        settings: Settings::default(),
        sources: SourcePolicy::default(),
        limits: Limits::default(),
    };
    // They are there and not yet known: the first pass takes them over.
    let report = block_on(reconciler.pass(document.as_bytes(), &facts())).unwrap();
    assert_eq!((report.outcome, report.machines.len()), (Outcome::Updated, 10_000));
    (reconciler, document.into_bytes())
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();

    let cached = CachedFacts::new(facts());
    let text = "identity('^web') && has_command('x')";
    let matcher = Matcher::compile(text).unwrap();
    let mut group = criterion.benchmark_group("matcher");
    group.bench_function("evaluate", |bencher| bencher.iter(|| matcher.evaluate(black_box(&cached)).unwrap()));
    group.bench_function("compile_and_evaluate", |bencher| {
        bencher.iter(|| Matcher::compile(black_box(text)).unwrap().evaluate(&cached).unwrap());
    });
    group.finish();

    let key = SigningKey::from_seed_hex(&"07".repeat(32)).unwrap();
    let admission = trusting(&key);
    let (document, distinct) = (sealed(&list(10_000, false), &key), sealed(&list(10_000, true), &key));
    let mut group = criterion.benchmark_group("ten_thousand_machines");
    group.sample_size(20);
    group.bench_function("verify_and_match", |bencher| bencher.iter(|| evaluate(black_box(document.as_bytes()), &admission)));
    group.bench_function("verify_and_match_all_different", |bencher| {
        bencher.iter(|| evaluate(black_box(distinct.as_bytes()), &admission));
    });
    group.bench_function("verify", |bencher| {
        let parse = || Document::parse(document.as_bytes()).unwrap();
        bencher.iter_batched(parse, |document| admit(document, &admission), BatchSize::LargeInput);
    });
    group.bench_function("parse", |bencher| bencher.iter(|| Document::parse(black_box(document.as_bytes())).unwrap()));
    let payload = list(10_000, false);
    group.bench_function("list", |bencher| {
        bencher.iter(|| MachineList::parse(black_box(payload.as_bytes()), SourcePolicy::default()).unwrap());
    });
    group.finish();

    let (mut reconciler, document) = settled(&key);
    let contents: Vec<Vec<u8>> = reconciler.root.files.iter().map(|(_, content)| content.clone()).collect();
    let mut group = criterion.benchmark_group("ten_thousand_unchanged");
    group.sample_size(10);
    group.bench_function("pass", |bencher| {
        bencher.iter(|| {
            let report = block_on(reconciler.pass(black_box(&document), &facts())).unwrap();
            assert_eq!(report.outcome, Outcome::Unchanged);
        });
    });
    group.bench_function("hashing_alone", |bencher| {
        bencher.iter(|| (0..10_000).for_each(|_| contents.iter().for_each(|content| _ = black_box(Sha256Digest::of(content)))));
    });
    group.finish();

    let (bytes, sums) = archive();
    let mut group = criterion.benchmark_group("unpack_100_mb");
    group.sample_size(10).measurement_time(Duration::from_secs(8)).throughput(Throughput::Bytes(100_000_000));
    group.bench_function("hashed_unpacked_and_checked", |bencher| bencher.iter(|| unpack(black_box(&bytes), sums)));
    group.bench_function("floor", |bencher| bencher.iter(|| floor(black_box(&bytes))));
    group.finish();
    criterion.final_summary();
}
