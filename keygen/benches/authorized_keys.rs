//! A file of 10,000 lines, parsed, edited and written: the bar is 10 ms. A third of the lines hold RSA keys, which are five times as
//! long as the others. `cargo bench -p toehold-keygen --bench authorized_keys`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;
use std::io::Write as _;

use criterion::{BatchSize, Criterion, Throughput};
use toehold_core::PublicKey;
use toehold_core::testing::sample_public_key;
use toehold_keygen::authorized_keys::{AuthorizedKeys, ExpiryTime, Line, Options};

const LINES: usize = 10_000;

fn key(n: usize) -> PublicKey {
    let algorithms = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"];
    let algorithm = algorithms.into_iter().cycle().nth(n % 3).unwrap();
    sample_public_key(algorithm, &n.to_string())
}

fn file() -> Vec<u8> {
    let line = |n: usize| {
        let options = if n.is_multiple_of(4) { r#"no-pty,command="/usr/bin/backup --of \"all, of it\"" "# } else { "" };
        format!("{options}{} user{n}@host{n}.example.net\n", key(n)).into_bytes()
    };
    (0..LINES).flat_map(line).collect()
}

/// What taking over a host and renewing a key amount to: one key comes, one goes, one gets an end.
fn edit(document: &mut AuthorizedKeys, new: &Line, old: &PublicKey, ending: &PublicKey, end: &ExpiryTime) {
    assert!(document.add(new).is_added());
    assert_eq!(document.remove(old), 1);
    let edited = document.edit_options(ending, |options| {
        let mut options = options.clone();
        options.set_expiry_time(Some(end));
        Some(options)
    });
    assert_eq!(edited, 1);
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let bytes = file();
    let new = Line::new(Options::new().restrict(), sample_public_key("ssh-ed25519", "new"), "new").unwrap();
    let (old, ending) = (key(LINES / 2), key(LINES - 3));
    let end = ExpiryTime::utc("2026-11-23T01:00:00Z".parse().unwrap());
    let mut target = tempfile::tempfile().unwrap();

    let mut group = criterion.benchmark_group("authorized_keys");
    group.throughput(Throughput::Bytes(u64::try_from(bytes.len()).unwrap()));
    group.bench_function("parse_edit_write_10000", |bencher| {
        bencher.iter_batched(
            || bytes.clone(),
            |bytes| {
                let mut document = AuthorizedKeys::parse(bytes);
                edit(&mut document, &new, &old, &ending, &end);
                std::io::Seek::rewind(&mut target).unwrap();
                target.write_all(document.as_bytes()).unwrap();
                document
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("parse_edit_10000", |bencher| {
        bencher.iter_batched(
            || bytes.clone(),
            |bytes| {
                let mut document = AuthorizedKeys::parse(bytes);
                edit(&mut document, &new, &old, &ending, &end);
                document
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("find_10000", |bencher| {
        let document = AuthorizedKeys::parse(bytes.clone());
        bencher.iter(|| black_box(&document).find(black_box(&ending)).count());
    });
    group.bench_function("digest_10000", |bencher| {
        let document = AuthorizedKeys::parse(bytes.clone());
        bencher.iter(|| black_box(&document).digest());
    });
    group.finish();
    criterion.final_summary();
}
