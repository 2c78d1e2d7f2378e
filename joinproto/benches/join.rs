//! What a join costs the gateway, beside the cryptography that it consists of, measured in turns; the store is in memory, and sealing is
//! the caller's. `cargo bench -p toehold-joinproto --bench join`. The bars: 1.25 for each version, and a stranger costs the same among
//! 100,000 tokens as beside one.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a bench")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding as _};
use blake2::{Blake2b512, Digest as _};
use criterion::Criterion;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use ml_kem::kem::{Encapsulate as _, KeyExport as _};
use ml_kem::ml_kem_768::{DecapsulationKey, EncapsulationKey};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::testing::{ManualClock, MemoryStore, block_on};
use toehold_core::{Clock as _, SecretBytes};
use toehold_joinproto::admission::{Desk, NewToken, OpniJoin, Vault};
use toehold_joinproto::opni::{OpniClient, OpniGateway, Signatures, Version};
use toehold_joinproto::token::Token;
use toehold_joinproto::v3::{AgentIdentity, Channel, ClientConfig, Conversation, CookieKeys, Exporter, Gateway, Turn};
use toehold_joinproto::{Endpoint, GatewayIdentity, Trust};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

struct Open;

impl Vault for Open {
    fn seal(&self, _: &str, secret: &SecretBytes) -> Result<String, String> {
        Ok(Base64::encode_string(secret.expose()))
    }

    fn open(&self, _: &str, sealed: &str) -> Result<SecretBytes, String> {
        Base64::decode_vec(sealed).map(SecretBytes::new).map_err(|error| error.to_string())
    }
}

struct Lab {
    desk: Desk<MemoryStore, ManualClock, Open>,
    gateway: Gateway,
    known: GatewayIdentity,
    key: SigningKey,
    endpoint: Endpoint,
    identity: AgentIdentity,
    rng: ChaCha20Rng,
}

/// Time that only some of the work counts for.
#[derive(Default)]
struct Stopwatch(Duration);

impl Stopwatch {
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.0 += start.elapsed();
        result
    }
}

impl Lab {
    fn new() -> Self {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let key = SigningKey::from_bytes(&[3; 32]);
        let spki =
            [[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00].as_slice(), key.verifying_key().as_bytes()]
                .concat();
        Self {
            desk: Desk::new(MemoryStore::new(), ManualClock::default(), Open),
            gateway: Gateway { cookies: CookieKeys::generate(&mut rng), endpoints: Vec::new() },
            known: GatewayIdentity::from_key(&spki),
            key,
            endpoint: "gw.example.net:7443".parse().unwrap(),
            identity: AgentIdentity::from_saved(&Zeroizing::new([2; 32])),
            rng,
        }
    }

    fn token(&mut self, for_opni: bool) -> Token {
        let new = NewToken { for_opni, ..NewToken::new("agent".parse().unwrap()) };
        block_on(self.desk.create(new, &mut self.rng)).unwrap()
    }

    /// The gateway's part of one conversation of v3; with a token of its own the client joins, with a stranger's it does not.
    fn v3(&mut self, token: &Token) -> Duration {
        let mut watch = Stopwatch::default();
        let exporter = Exporter([4; 32]);
        let channel = Channel { exporter, gateway_key: *self.known.pin().digest(), source: [127, 0, 0, 1].into() };
        let mut conversation = Conversation::new(channel);
        let pins = [self.known.pin()];
        let config = ClientConfig { endpoint: &self.endpoint, identity: &self.identity, token, gateway: &self.known, exporter };
        let mut of_client = ChaCha20Rng::from_seed([5; 32]);
        let mut turn = |frame: &[u8]| {
            let turn = watch.time(|| block_on(conversation.receive(&self.gateway, &self.desk, &pins, frame, &mut self.rng)));
            match turn {
                Turn::Answer(frame) | Turn::Last(frame, _) => frame,
            }
        };
        let (waiting, hello) = config.start(&mut of_client);
        let (waiting, offer) = waiting.receive(&turn(&hello), &mut of_client).unwrap();
        let (waiting, proof) = waiting.receive(&turn(&offer)).unwrap();
        if let Ok(accepted) = waiting.receive(&turn(&proof)) {
            let done = turn(accepted.confirm());
            accepted.receive(&done).unwrap();
        }
        watch.0
    }

    /// The gateway's part of one Auth of v2.
    fn v2(&mut self, token: &Token, signatures: &[u8]) -> Duration {
        let mut watch = Stopwatch::default();
        let gateway = OpniGateway::new(self.key.clone(), None);
        let client =
            OpniClient { version: Version::V2 { friendly_name: None }, client_id: token.id().to_string(), token: Some(token) };
        let (waiting, call) = client.start().unwrap().receive(signatures, &self.known, &mut self.rng).unwrap();
        let response = watch.time(|| {
            let (token, request) = gateway.auth_v2(&[call.authorization.as_bytes()], &call.message).unwrap();
            let join = OpniJoin { token: &token, request: &request, source: [127, 0, 0, 1].into() };
            block_on(self.desk.join_opni(join, &mut self.rng)).unwrap().encode()
        });
        waiting.receive(&response, &Trust::DangerousInsecure).unwrap();
        watch.0
    }
}

struct Primitives {
    public: [u8; 32],
    message: [u8; 160],
    signature: ed25519_dalek::Signature,
    peer: PublicKey,
    kem: [u8; 1184],
    rng: ChaCha20Rng,
}

impl Primitives {
    fn new() -> Self {
        let key = SigningKey::from_bytes(&[6; 32]);
        let message = [7; 160];
        Self {
            signature: key.sign(&message),
            public: key.verifying_key().to_bytes(),
            message,
            peer: PublicKey::from(&StaticSecret::from([8; 32])),
            kem: DecapsulationKey::from_seed([9; 64].into()).encapsulation_key().to_bytes().into(),
            rng: ChaCha20Rng::from_seed([10; 32]),
        }
    }

    fn verify(&self) {
        // From its bytes, as a key comes from a peer or a store.
        let key = VerifyingKey::from_bytes(black_box(&self.public)).unwrap();
        key.verify_strict(black_box(&self.message), &self.signature).unwrap();
    }

    fn x25519(&mut self) -> [u8; 32] {
        let secret = StaticSecret::random_from_rng(&mut self.rng);
        black_box(PublicKey::from(&secret));
        secret.diffie_hellman(black_box(&self.peer)).to_bytes()
    }

    fn v3(&mut self) {
        self.verify();
        self.verify();
        black_box(self.x25519());
        let kem = EncapsulationKey::new(&black_box(self.kem).into()).unwrap();
        black_box(kem.encapsulate_with_rng(&mut self.rng));
    }

    fn v2(&mut self) {
        self.verify();
        let shared = self.x25519();
        black_box(Blake2b512::new().chain_update(shared).chain_update([0; 64]).finalize());
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64) * 1e6
}

/// Both in turns; prints the ratio of their medians.
fn compare(name: &str, rounds: usize, mut ours: impl FnMut() -> Duration, mut floor: impl FnMut() -> Duration) {
    let (mut all_ours, mut all_floor) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        all_ours.push(ours());
        all_floor.push(floor());
    }
    let (ours, floor) = (median(all_ours), median(all_floor));
    println!("ratio {name} = {:.3} ({ours:.1} µs, {floor:.1} µs)", ours / floor);
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut primitives = Primitives::new();
    let mut group = criterion.benchmark_group("join");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.bench_function("primitives_v3", |bencher| bencher.iter(|| primitives.v3()));
    group.bench_function("primitives_v2", |bencher| bencher.iter(|| primitives.v2()));
    group.finish();

    let mut lab = Lab::new();
    let mut floor = Primitives::new();
    let ours = || {
        let token = lab.token(false);
        lab.v3(&token)
    };
    compare("join_v3/primitives", 500, ours, || timed(|| floor.v3()));

    let mut lab = Lab::new();
    let ours = || {
        lab.desk.store.restore(Vec::new());
        let token = lab.token(true);
        let mut signatures = Signatures::new();
        signatures.refresh(&block_on(lab.desk.opni_tokens()).unwrap(), &lab.key);
        let answer = signatures.answer(lab.desk.clock.now()).unwrap();
        lab.v2(&token, &answer)
    };
    compare("join_v2/primitives", 500, ours, || timed(|| floor.v2()));

    let (mut one, mut many) = (Lab::new(), Lab::new());
    one.token(false);
    for _ in 0..100_000 {
        many.token(false);
    }
    let stranger = Token::from_bytes(&[11; 32]);
    compare("stranger_v3_of_100000_tokens/one", 500, || many.v3(&stranger), || one.v3(&stranger));
}
