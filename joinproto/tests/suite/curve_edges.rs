//! Points and signatures at the edges of the curves: the cases that lists of known attacks on Ed25519 and X25519 consist of, made from
//! RFC 7748, RFC 8032 and the order of the group.

use crate::support::lab::{Lab, identity, new_token};
use crate::support::{curve, hex, lab, unhex};
use blake2::Blake2b512;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha512};
use toehold_core::testing::block_on;
use toehold_joinproto::JoinError;
use toehold_joinproto::agreement::{Ephemeral, Side};
use toehold_joinproto::jws::{self, Detached, JwsError};
use toehold_joinproto::token::Token;
use toehold_joinproto::v3::frame::{Answer, Hello, Offer, Proof, Retry};
use toehold_joinproto::v3::{Conversation, Ended, GatewayError, TokenKey, Turn};
use zeroize::Zeroizing;

/// All points of small order on the Montgomery curve and its twist, in every encoding of 32 bytes.
const SMALL_ORDER_X25519: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

/// Points of small order on the Edwards curve, canonical and not.
const SMALL_ORDER_ED25519: [&str; 10] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

fn with_high_bit(point: &str) -> [[u8; 32]; 2] {
    let plain: [u8; 32] = unhex(point).try_into().unwrap();
    let mut high = plain;
    high[31] ^= 0x80;
    [plain, high]
}

/// A client that has the token, signs what it sends, and sends what it likes.
#[derive(Default)]
struct Dishonest {
    /// An identity key and what is sent as its signature.
    identity: Option<([u8; 32], [u8; 64])>,
    x25519: Option<[u8; 32]>,
    kem: Option<u8>,
}

impl Dishonest {
    /// Joins, by `docs/join-v3.md`, as far as the gateway's answer to its proof, which is a refusal.
    fn join(&self, lab: &Lab<toehold_core::testing::MemoryStore>, token: &Token, seed: u8) -> GatewayError {
        let channel = lab::channel(seed);
        let own = SigningKey::from_bytes(&[1; 32]);
        let mut conversation = Conversation::new(channel);
        let mut next = |frame: &[u8]| match block_on(conversation.receive(&lab.gateway, &lab.desk, &[], frame, &mut lab::rng(3)))
        {
            Turn::Answer(frame) => Ok(frame),
            Turn::Last(_, Ended::Failed(error)) => Err(error),
            Turn::Last(_, ended) => panic!("{ended:?}"),
        };
        let hello = Hello::new([seed; 32]).encode();
        let retry = next(&hello).unwrap();
        let offer = Offer {
            cookie: Retry::decode(&retry).unwrap().cookie,
            hello: hello.clone(),
            token: token.id(),
            gateway_key: channel.gateway_key,
            endpoint: lab::endpoint(),
            identity: self.identity.map_or(own.verifying_key().to_bytes(), |(key, _)| key),
            x25519: self.x25519.unwrap_or([9; 32]),
            kem: Box::new([self.kem.unwrap_or(0); 1184]),
        }
        .encode();
        let answer = next(&offer).unwrap();
        let mut hash = Sha512::new();
        for part in [b"toehold join v3 transcript".as_slice(), &channel.exporter.0, &hello, &retry, &offer, &answer] {
            hash.update(u32::try_from(part.len()).unwrap().to_be_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        let mut key = [0; 32];
        let kdf = hkdf::Hkdf::<Sha512>::new(Some(b"toehold join v3 token"), token.expose_secret());
        kdf.expand(token.id().as_bytes(), &mut key).unwrap();
        let sign = |key: &SigningKey, label: &[u8]| key.sign(&[label, &digest].concat()).to_bytes();
        let proof = Proof {
            token: sign(&SigningKey::from_bytes(&key), b"toehold join v3 token proof\0"),
            identity: self.identity.map_or_else(|| sign(&own, b"toehold join v3 identity proof\0"), |(_, signature)| signature),
        };
        match next(&proof.encode()) {
            Err(error) => error,
            // Admitted; what it was admitted for is the caller's to look at.
            Ok(_) => GatewayError::Confirmation,
        }
    }
}

#[test]
fn keys_that_cannot_be_agreed_with_end_it_before_anything_is_consumed() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let before = lab.desk.store.entries();
    for point in SMALL_ORDER_X25519.iter().flat_map(|point| with_high_bit(point)) {
        let dishonest = Dishonest { x25519: Some(point), ..Dishonest::default() };
        assert_eq!(dishonest.join(&lab, &token, 1), GatewayError::PeerKey, "{}", hex(&point));
    }
    // Coefficients that are not reduced (FIPS 203, 7.2).
    let dishonest = Dishonest { kem: Some(0xff), ..Dishonest::default() };
    assert_eq!(dishonest.join(&lab, &token, 1), GatewayError::PeerKey);
    assert_eq!(lab.desk.store.entries(), before);
    // The same client with keys that can be agreed with is admitted.
    assert_eq!(Dishonest::default().join(&lab, &token, 1), GatewayError::Confirmation);
    assert_ne!(lab.desk.store.entries(), before);
}

/// The same signature with the group's order added to its scalar: it fits by the equation, and is another text.
fn malleable(signature: &[u8; 64]) -> [u8; 64] {
    plus(signature, &curve::L).unwrap()
}

/// The same signature with something added to its scalar, where that has room.
fn plus(signature: &[u8; 64], added: &curve::Number) -> Option<[u8; 64]> {
    let (r, scalar) = signature.split_at(32);
    let (sum, is_over) = curve::sum(&curve::number(scalar.try_into().unwrap()), added);
    (!is_over).then(|| [r, &curve::bytes(&sum)].concat().try_into().unwrap())
}

#[test]
fn the_example_of_rfc_7748_agrees() {
    let key = |text: &str| Ephemeral::from_bytes(&Zeroizing::new(unhex(text).try_into().unwrap()));
    let alice = key("77076d0a7318a57d3c16c17251b26645df4c2f2fe0b9ac5f0bdc5d8ee3f0f1f2");
    let bob = key("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    assert_eq!(hex(bob.public()), "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    let (ours, theirs) = (alice.derive(Side::Client, bob.public()).unwrap(), bob.derive(Side::Gateway, alice.public()).unwrap());
    assert_eq!(ours, theirs);
}

#[test]
fn keys_of_small_order_are_not_agreed_with_by_any_version() {
    let ours = Ephemeral::from_bytes(&Zeroizing::new([5; 32]));
    for point in SMALL_ORDER_X25519.iter().flat_map(|point| with_high_bit(point)) {
        for side in [Side::Client, Side::Gateway] {
            assert!(ours.derive(side, &point).is_err(), "{}", hex(&point));
        }
        let lab = Lab::new();
        let token = lab.token(new_token(), 1);
        // Put in place of the client's, by somebody in the middle.
        let (joined, ended) = block_on(lab.converse(&token, &identity(1), 10, |number, frame| {
            if number == 2 {
                let offer = Offer::decode(frame).unwrap();
                *frame = Offer { x25519: point, ..offer }.encode();
            }
        }));
        assert!(joined.is_err() && matches!(ended, Some(Ended::Failed(GatewayError::Proof))), "{ended:?}");
        // In place of the gateway's.
        let (joined, _) = block_on(lab.converse(&token, &identity(1), 11, |number, frame| {
            if number == 3 {
                *frame = Answer { x25519: point }.encode();
            }
        }));
        assert_eq!(joined.unwrap_err(), JoinError::PeerKey, "{}", hex(&point));
        assert_eq!(lab::below(&lab.desk.store, "token/").len(), 1);
    }
}

#[test]
fn a_signature_has_one_spelling() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let token = Token::from_bytes(&[9; 32]);
    let complete = Detached::sign(&token, &key).attach(&token, &key.verifying_key()).unwrap();
    let (signed, signature) = complete.expose().rsplit_once('.').unwrap();
    let signature: [u8; 64] = base64(signature).try_into().unwrap();
    let other = format!("{signed}.{}", to_base64(&malleable(&signature)));
    assert_eq!(jws::verify(other.as_bytes(), &key.verifying_key()), Err(JwsError::Signature));
    for which in [0, 1] {
        let lab = Lab::new();
        let token = lab.token(new_token(), 1);
        let (joined, ended) = block_on(lab.converse(&token, &identity(1), 10, |number, frame| {
            if number == 4 {
                let mut proof = Proof::decode(frame).unwrap();
                let changed = if which == 0 { &mut proof.token } else { &mut proof.identity };
                *changed = malleable(changed);
                *frame = proof.encode();
            }
        }));
        assert!(joined.is_err() && matches!(ended, Some(Ended::Failed(GatewayError::Proof))), "{ended:?}");
    }
}

#[test]
fn keys_of_small_order_verify_nothing() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    for point in SMALL_ORDER_ED25519.map(|point| <[u8; 32]>::try_from(unhex(point)).unwrap()) {
        assert!(hex(&point).parse::<TokenKey>().is_err(), "{}", hex(&point));
        // A machine that claims such an identity, with the signature that fits many a message under it.
        let mut universal = [0; 64];
        universal[..32].copy_from_slice(&point);
        for seed in 0..8 {
            let dishonest = Dishonest { identity: Some((point, universal)), ..Dishonest::default() };
            assert_eq!(dishonest.join(&lab, &token, seed), GatewayError::Proof, "{}", hex(&point));
        }
        // The same as a gateway's key, which v2 trusts for its signature of the token.
        if let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(&point) {
            let detached = format!("eyJhbGciOiJFZERTQSJ9..{}", to_base64(&universal));
            let attached = Detached::parse(detached.as_bytes()).unwrap().attach(&token, &key);
            assert!(matches!(attached, Err(JwsError::Signature)), "{}", hex(&point));
        }
    }
    assert_eq!(lab::below(&lab.desk.store, "agent/").len(), 0);
}

/// What the token's signature is over, and a way to try others in its place: those of the JWS that a client of Opni's sends back.
struct Signed {
    key: SigningKey,
    message: String,
}

impl Signed {
    fn new() -> Self {
        let key = SigningKey::from_bytes(&[7; 32]);
        let token = Token::from_bytes(&[9; 32]);
        let complete = Detached::sign(&token, &key).attach(&token, &key.verifying_key()).unwrap();
        let message = complete.expose().rsplit_once('.').unwrap().0.to_owned();
        Self { key, message }
    }

    fn honest(&self) -> [u8; 64] {
        self.key.sign(self.message.as_bytes()).to_bytes()
    }

    fn is_taken(&self, signature: &[u8]) -> bool {
        let text = format!("{}.{}", self.message, to_base64(signature));
        let taken = jws::verify(text.as_bytes(), &self.key.verifying_key()).is_ok();
        // The other protocols verify by the same function.
        if let Ok(signature) = Signature::from_slice(signature) {
            let strict = self.key.verifying_key().verify_strict(self.message.as_bytes(), &signature).is_ok();
            assert_eq!(taken, strict, "{}", hex(&signature.to_bytes()));
        }
        taken
    }

    /// A signature with this R whose scalar fits it, for whoever takes R for another point than it is.
    fn with(&self, r: &[u8; 32], is_zero: bool) -> [u8; 64] {
        let public = self.key.verifying_key().to_bytes();
        curve::sign_with(&[7; 32], &public, self.message.as_bytes(), r, is_zero)
    }
}

#[test]
fn ed25519_signs_as_rfc_8032_does() {
    for (seed, public, message, signature) in [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ] {
        let seed: [u8; 32] = unhex(seed).try_into().unwrap();
        let (key, message) = (SigningKey::from_bytes(&seed), unhex(message));
        assert_eq!(hex(key.verifying_key().as_bytes()), public);
        assert_eq!(hex(&key.sign(&message).to_bytes()), signature);
        let signature = Signature::from_slice(&unhex(signature)).unwrap();
        VerifyingKey::from_bytes(&unhex(public).try_into().unwrap()).unwrap().verify_strict(&message, &signature).unwrap();
        // By our own arithmetic, on which the cases below rest.
        let r = *signature.r_bytes();
        assert_eq!(curve::sign_with(&seed, key.verifying_key().as_bytes(), &message, &r, false), signature.to_bytes());
    }
}

#[test]
fn signatures_of_special_values_are_none() {
    let signed = Signed::new();
    assert!(signed.is_taken(&signed.honest()));
    let less_one = curve::sub(&curve::L, &curve::small(1), &curve::L);
    let scalars = [curve::small(0), curve::small(1), less_one, curve::L, curve::P, [u64::MAX; 4]];
    for r in [curve::small(0), curve::small(1), curve::L, curve::P, [u64::MAX; 4]] {
        for scalar in &scalars {
            assert!(!signed.is_taken(&[curve::bytes(&r), curve::bytes(scalar)].concat()), "{r:x?} {scalar:x?}");
        }
    }
}

#[test]
fn signatures_that_are_cut_or_have_more_are_none() {
    let signed = Signed::new();
    let good = signed.honest();
    let public = signed.key.verifying_key().to_bytes();
    for length in 0..64 {
        assert!(!signed.is_taken(&good[..length]), "{length} bytes");
    }
    let longer: [Vec<u8>; 6] = [
        [&good[..], &[0]].concat(),
        [&[0], &good[..]].concat(),
        [&good[..32], &[0], &good[32..]].concat(),
        [&good[..], &public].concat(),
        [&good[..], &good].concat(),
        [&good[..], &[0; 1024]].concat(),
    ];
    for longer in longer {
        assert!(!signed.is_taken(&longer), "{} bytes", longer.len());
    }
    // Whoever leaves a zero byte out of either half.
    let zero = (0..u16::MAX).map(u16::to_be_bytes).find(|n| {
        let key = SigningKey::from_bytes(&[7; 32]);
        let signature = key.sign(n).to_bytes();
        signature[0] == 0 || signature[31] == 0 || signature[32] == 0
    });
    let message = zero.unwrap();
    let signature = signed.key.sign(&message).to_bytes();
    for place in (0..64).filter(|place| signature[*place] == 0) {
        let compressed = [&signature[..place], &signature[place + 1..]].concat();
        assert!(Signature::from_slice(&compressed).is_err());
    }
}

#[test]
fn a_scalar_that_is_not_reduced_is_none() {
    let signed = Signed::new();
    let good = signed.honest();
    let bit = |bit: u32| {
        let mut number = curve::small(0);
        number[3] = 1 << (bit - 192);
        number
    };
    let mut multiple = curve::L;
    let mut multiples = vec![curve::L];
    while let (doubled, false) = curve::sum(&multiple, &multiple) {
        multiple = doubled;
        multiples.push(doubled);
    }
    let added: Vec<_> = multiples.into_iter().chain([bit(253), bit(254), bit(255), curve::P]).collect();
    let mut tried = 0;
    for spoiled in added.iter().filter_map(|added| plus(&good, added)) {
        assert!(!signed.is_taken(&spoiled), "{}", hex(&spoiled));
        tried += 1;
    }
    assert!(tried >= 6, "{tried}");
}

#[test]
fn a_point_that_is_spelled_otherwise_is_none() {
    let signed = Signed::new();
    let good = signed.honest();
    let r: [u8; 32] = good[..32].try_into().unwrap();
    assert_eq!(signed.with(&r, false), good);
    // For verifiers that look at all of R but one bit.
    for bit in 0..256 {
        let mut other = r;
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(!signed.is_taken(&signed.with(&other, false)), "bit {bit}");
    }
    for other in [[0; 32], [0xff; 32], r.map(|byte| !byte), curve::bytes(&curve::sum(&curve::P, &curve::small(1)).0)] {
        assert!(!signed.is_taken(&signed.with(&other, false)), "{}", hex(&other));
    }
    // The neutral point, in each of its spellings: by the equation it fits.
    for neutral in SMALL_ORDER_ED25519.map(|point| <[u8; 32]>::try_from(unhex(point)).unwrap()) {
        assert!(!signed.is_taken(&signed.with(&neutral, true)), "{}", hex(&neutral));
    }
}

/// Agrees with a peer's key as our code does and as our own arithmetic does; whether there was anything to agree on.
fn agrees(secret: [u8; 32], peer: [u8; 32]) -> bool {
    let ours = Ephemeral::from_bytes(&Zeroizing::new(secret));
    let agreed = curve::x25519(&secret, &peer);
    let hash = Blake2b512::new().chain_update(agreed).chain_update(ours.public()).chain_update(peer).finalize();
    let keys = ours.derive(Side::Client, &peer).ok().map(|keys| [keys.expose_client(), keys.expose_gateway()].concat());
    assert_eq!(keys, (agreed != [0; 32]).then(|| hash.to_vec()), "{} {}", hex(&secret), hex(&peer));
    keys.is_some()
}

/// Without the highest bit.
fn low(mut public: [u8; 32]) -> [u8; 32] {
    public[31] &= 0x7f;
    public
}

/// 32 bytes that are nothing special.
fn hashed(of: &[u8]) -> [u8; 32] {
    Sha512::digest(of)[..32].try_into().unwrap()
}

/// Private keys that have been wrong somewhere, and some that are nothing special.
fn secrets() -> Vec<[u8; 32]> {
    let mut secrets = vec![[0; 32], [0xff; 32], [0x55; 32], [0xaa; 32], curve::bytes(&curve::L)];
    secrets.extend((0..2_u8).map(|n| hashed(&[n])));
    secrets
}

#[test]
fn our_own_arithmetic_is_that_of_rfc_7748() {
    let array = |text: &str| <[u8; 32]>::try_from(unhex(text)).unwrap();
    for (scalar, u, out) in [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
        (
            "0900000000000000000000000000000000000000000000000000000000000000",
            "0900000000000000000000000000000000000000000000000000000000000000",
            "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
        ),
    ] {
        assert_eq!(hex(&curve::x25519(&array(scalar), &array(u))), out);
        agrees(array(scalar), array(u));
    }
}

#[test]
fn public_keys_of_the_twist_and_of_special_forms_agree_as_the_standard_says() {
    // Around 0, p and 2^255, powers of two and what is beside them, and the same with the highest bit, which says nothing.
    let mut special: Vec<[u8; 32]> = (0..20).map(|n| curve::bytes(&curve::small(n))).collect();
    special.extend((0..19).map(|n| curve::bytes(&curve::sum(&curve::P, &curve::small(n)).0)));
    for power in [16, 31, 63, 64, 127, 128, 191, 192, 248, 253, 254] {
        let mut number = curve::small(0);
        number[power / 64] = 1 << (power % 64);
        special.push(curve::bytes(&number));
        special.push(curve::bytes(&curve::sub(&number, &curve::small(1), &curve::P)));
    }
    special.extend((0..8_u8).map(|n| hashed(&[n, n])));
    let (mut of_curve, mut of_twist, mut refused) = (0, 0, 0);
    for public in special {
        let is_on_it = curve::is_on_curve(&curve::modulo(&low(public), &curve::P));
        for key in with_high_bit(&hex(&public)) {
            for secret in &secrets()[1..3] {
                match agrees(*secret, key) {
                    true if is_on_it => of_curve += 1,
                    true => of_twist += 1,
                    false => refused += 1,
                }
            }
        }
    }
    assert!(of_curve > 50 && of_twist > 50 && refused > 10, "{of_curve} {of_twist} {refused}");
}

#[test]
fn private_keys_of_special_forms_agree_as_the_standard_says() {
    for secret in secrets() {
        let public = *Ephemeral::from_bytes(&Zeroizing::new(secret)).public();
        assert_eq!(public, curve::x25519(&secret, &curve::bytes(&curve::small(9))));
        for public in [[9; 32], hashed(b"peer")] {
            assert!(agrees(secret, public));
        }
    }
}

#[test]
fn results_of_special_forms_come_out_as_they_are() {
    let secret = hashed(b"secret");
    let scalar = curve::clamped(&secret);
    let back = curve::inverse(&curve::modulo(&curve::bytes(&scalar), &curve::L), &curve::L);
    let (one_more, _) = curve::sum(&curve::L, &curve::small(1));
    let mut met = 0;
    for result in (2..120).map(curve::small) {
        // Of the group of the base point, on the curve itself: then the key that leads there is found with the inverse.
        if !curve::is_on_curve(&result) || curve::ladder(&one_more, &result) != result {
            continue;
        }
        let public = curve::bytes(&curve::ladder(&back, &result));
        assert_eq!(curve::x25519(&secret, &public), curve::bytes(&result));
        assert!(agrees(secret, public));
        met += 1;
    }
    assert!(met >= 3, "{met}");
}

fn base64(text: &str) -> Vec<u8> {
    use base64ct::{Base64UrlUnpadded, Encoding as _};
    Base64UrlUnpadded::decode_vec(text).unwrap()
}

fn to_base64(bytes: &[u8]) -> String {
    use base64ct::{Base64UrlUnpadded, Encoding as _};
    Base64UrlUnpadded::encode_string(bytes)
}
