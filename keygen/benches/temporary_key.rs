//! A temporary key ready to paste, beside the least that it can take: ed25519-dalek's generation plus ssh-key's encoding.
//!
//! Prints the ratio at the end; the bar is 1.2. `cargo bench -p toehold-keygen --bench temporary_key`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{LineEnding, PrivateKey};
use toehold_core::{SessionId, Timestamp};
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

/// What is shown to be pasted; the private half waits in memory until a login needs it.
fn ready_to_paste(rng: &mut ChaCha20Rng, session: SessionId) -> usize {
    let key = TemporaryKeyPair::generate(rng, session, Timestamp::UNIX_EPOCH, DEFAULT_LIFETIME).unwrap();
    let line = key.authorized_keys_line(None);
    black_box(key);
    black_box(line).len()
}

/// The same, and the private half encoded for the login as well.
fn ready_to_log_in(rng: &mut ChaCha20Rng, session: SessionId) -> (usize, usize) {
    let key = TemporaryKeyPair::generate(rng, session, Timestamp::UNIX_EPOCH, DEFAULT_LIFETIME).unwrap();
    let line = key.authorized_keys_line(None);
    let identity = key.identity().unwrap();
    (black_box(line).len(), black_box(identity).public_key().blob().len())
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
    let session = SessionId::generate(&mut rng());

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("temporary_key");
    let mut generator = rng();
    group.bench_function("floor", |bencher| bencher.iter(|| floor(&mut generator)));
    group.bench_function("temporary_key", |bencher| bencher.iter(|| ready_to_paste(&mut generator, session)));
    group.bench_function("temporary_key_and_identity", |bencher| bencher.iter(|| ready_to_log_in(&mut generator, session)));
    group.finish();
    criterion.final_summary();

    let (mut first, mut second, mut third) = (rng(), rng(), rng());
    let [floor, paste, login] = medians([
        Box::new(|| _ = black_box(floor(&mut first))),
        Box::new(|| _ = black_box(ready_to_paste(&mut second, session))),
        Box::new(|| _ = black_box(ready_to_log_in(&mut third, session))),
    ]);
    let ratio = |time: Duration| time.as_secs_f64() / floor.as_secs_f64();
    println!("floor {floor:?}, ready to paste {paste:?}, with identity {login:?}");
    println!("ratio temporary_key/floor = {:.3} (bar 1.2)", ratio(paste));
    println!("ratio temporary_key_and_identity/floor = {:.3}", ratio(login));
}
