//! A matcher with facts at hand, a list of 10,000 machines from its bytes to its answers, and an archive of 100 MB in 5,000
//! files, unpacked and checked without a disk, beside the bare hashing and inflating of the same.
//!
//! `cargo bench -p toehold-specsign`. The bars: 2 µs, 50 ms.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench")]

use std::hint::black_box;
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use toehold_specsign::{
    Answer, CachedFacts, Document, Format, KnownFacts, Limits, MachineList, Matcher, Sha256Digest, SigningKey, SourcePolicy,
    TreePath, TrustedKeys, UnpackSink, Unpacker, pack,
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

fn list(machines: usize) -> String {
    let sum = Sha256Digest::of(b"");
    let entry = |number: usize| {
        let expression = EXPRESSIONS[number % EXPRESSIONS.len()];
        format!(
            "{{\"name\":\"m{number}\",\"source\":\"https://files.example.net/m{number}-1.0.{number}.tgz\",\"verify\":\"SHA256SUMS\",\
             \"verify_checksum\":\"{sum}\",\"checksum\":\"{sum}\",\"match\":\"{expression}\"}}"
        )
    };
    format!("[{}]", (0..machines).map(entry).collect::<Vec<_>>().join(",\n"))
}

/// Verified, read, and every machine asked: as a node does for each evaluation.
fn evaluate(document: &[u8], trusted: &TrustedKeys) -> usize {
    let verified = Document::parse(document).unwrap().verify_plain(trusted).unwrap();
    let list = MachineList::parse(verified.payload(), SourcePolicy::default()).unwrap();
    let facts = CachedFacts::new(facts());
    let belongs = |text: &str| Matcher::compile(text).unwrap().evaluate(&facts).unwrap() == Answer::Yes;
    list.machines().iter().filter(|machine| machine.matcher.as_deref().is_none_or(belongs)).count()
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

fn main() {
    let mut criterion = Criterion::default().configure_from_args();

    let facts = CachedFacts::new(facts());
    let text = "identity('^web') && has_command('x')";
    let matcher = Matcher::compile(text).unwrap();
    let mut group = criterion.benchmark_group("matcher");
    group.bench_function("evaluate", |bencher| bencher.iter(|| matcher.evaluate(black_box(&facts)).unwrap()));
    group.bench_function("compile_and_evaluate", |bencher| {
        bencher.iter(|| Matcher::compile(black_box(text)).unwrap().evaluate(&facts).unwrap());
    });
    group.finish();

    let key = SigningKey::from_seed_hex(&"07".repeat(32)).unwrap();
    let trusted = TrustedKeys::one(key.verifying_key());
    let document = pack(Format::Machines, list(10_000).as_bytes(), Some(&key)).unwrap();
    let mut group = criterion.benchmark_group("ten_thousand_machines");
    group.sample_size(20);
    group.bench_function("verify_and_match", |bencher| bencher.iter(|| evaluate(black_box(document.as_bytes()), &trusted)));
    group.bench_function("verify", |bencher| {
        let parse = || Document::parse(document.as_bytes()).unwrap();
        bencher.iter_batched(parse, |document| document.verify_plain(&trusted).unwrap(), BatchSize::LargeInput);
    });
    group.bench_function("parse", |bencher| bencher.iter(|| Document::parse(black_box(document.as_bytes())).unwrap()));
    let payload = list(10_000);
    group.bench_function("list", |bencher| {
        bencher.iter(|| MachineList::parse(black_box(payload.as_bytes()), SourcePolicy::default()).unwrap());
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
