//! A temporary key ready to paste, beside the least that it can take: ed25519-dalek's generation plus ssh-key's encoding.
//!
//! Ready to paste is the whole line that an operator copies, with its one-time secret and its script; the private half is
//! encoded beside it, since the floor does so, too. Prints the ratio at the end; the bar is 1.2. `cargo bench -p toehold-keygen --bench temporary_key`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{LineEnding, PrivateKey};
use toehold_core::{Account, SessionId, Timestamp};
use toehold_keygen::install::{InstallCommand, ProofSecret};
use toehold_keygen::{DEFAULT_LIFETIME, TemporaryKeyPair};

/// What any program does that makes a key and shows it: both halves encoded.
fn floor(rng: &mut ChaCha20Rng) -> (usize, usize) {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    let signing_key = SigningKey::from_bytes(&seed);
    let pair = PrivateKey::from(Ed25519Keypair::from(&signing_key));
    let private = pair.to_openssh(LineEnding::LF).unwrap();
    let public = pair.public_key().to_openssh().unwrap();
    (black_box(private).len(), black_box(public).len())
}

/// All that is shown to be pasted: the line with its script, under a one-time secret. The private half waits in memory.
fn ready_to_paste(rng: &mut ChaCha20Rng, account: &Account) -> (TemporaryKeyPair, usize) {
    let session = SessionId::generate(rng);
    let secret = ProofSecret::generate(rng);
    let key = TemporaryKeyPair::generate(rng, session, Timestamp::UNIX_EPOCH, DEFAULT_LIFETIME).unwrap();
    let line = InstallCommand::new(account, session, key.public_key(), key.expires_at(), &secret).command_line().unwrap();
    (key, black_box(line).expose().len())
}

/// The same, and the private half encoded as well, as the floor does: this one is held to the bar.
fn both_halves(rng: &mut ChaCha20Rng, account: &Account) -> (usize, usize) {
    let (key, length) = ready_to_paste(rng, account);
    let private = key.expose_openssh().unwrap();
    (length, black_box(private).expose().len())
}

/// The median of many short turns, taken in alternation so that a change of the machine's speed meets all alike.
fn medians(mut works: [Box<dyn FnMut() + '_>; 3]) -> [Duration; 3] {
    const TURNS: usize = 301;
    const PER_TURN: u32 = 20;
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..TURNS {
        for (work, times) in works.iter_mut().zip(&mut times) {
            let start = Instant::now();
            for _ in 0..PER_TURN {
                work();
            }
            times.push(start.elapsed() / PER_TURN);
        }
    }
    times.map(|mut times| {
        times.sort();
        times.get(TURNS / 2).copied().unwrap_or_default()
    })
}

fn main() {
    let rng = || ChaCha20Rng::from_seed([42; 32]);
    let account: Account = "deploy@web1.example.org".parse().unwrap();

    // As a program meets it that makes one key and ends.
    let mut generator = rng();
    let once = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    let first_floor = once(&mut || _ = black_box(floor(&mut generator)));
    let first_paste = once(&mut || _ = black_box(both_halves(&mut generator, &account)));

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("temporary_key");
    group.bench_function("floor", |bencher| bencher.iter(|| floor(&mut generator)));
    group.bench_function("ready_to_paste", |bencher| bencher.iter(|| ready_to_paste(&mut generator, &account)));
    group.bench_function("both_halves", |bencher| bencher.iter(|| both_halves(&mut generator, &account)));
    group.finish();
    criterion.final_summary();

    let (mut first, mut second, mut third) = (rng(), rng(), rng());
    let [floor, line, both] = medians([
        Box::new(|| _ = black_box(floor(&mut first))),
        Box::new(|| _ = black_box(ready_to_paste(&mut second, &account))),
        Box::new(|| _ = black_box(both_halves(&mut third, &account))),
    ]);
    let ratio = |time: Duration| time.as_secs_f64() / floor.as_secs_f64();
    println!("floor {floor:?}, the line to paste {line:?}, and the private half encoded {both:?}");
    println!("the first of this process: floor {first_floor:?}, then line and private half {first_paste:?}");
    println!("ratio line/floor = {:.3}", ratio(line));
    println!("ratio temporary_key/floor = {:.3} (bar 1.2)", ratio(both));
}
