//! Arithmetic of RFC 7748 and RFC 8032 by other means than the crates': slow, and as the standards put it.
#![allow(clippy::many_single_char_names, reason = "named as in the standards")]

use sha2::{Digest as _, Sha512};

/// A number below 2^256, least significant limb first.
pub(crate) type Number = [u64; 4];

/// 2^255 − 19.
pub(crate) const P: Number = [0xffff_ffff_ffff_ffed, u64::MAX, u64::MAX, 0x7fff_ffff_ffff_ffff];
/// The order of the base point.
pub(crate) const L: Number = [0x5812_631a_5cf5_d3ed, 0x14de_f9de_a2f7_9cd6, 0, 0x1000_0000_0000_0000];

pub(crate) fn number(bytes: &[u8; 32]) -> Number {
    let mut limbs = [0; 4];
    for (limb, chunk) in limbs.iter_mut().zip(bytes.chunks(8)) {
        *limb = u64::from_le_bytes(chunk.try_into().unwrap());
    }
    limbs
}

pub(crate) fn bytes(number: &Number) -> [u8; 32] {
    number.iter().flat_map(|limb| limb.to_le_bytes()).collect::<Vec<u8>>().try_into().unwrap()
}

pub(crate) fn small(value: u64) -> Number {
    [value, 0, 0, 0]
}

/// The sum, and whether it is over 2^256.
pub(crate) fn sum(a: &Number, b: &Number) -> (Number, bool) {
    let (mut out, mut carry) = ([0; 4], false);
    for place in 0..4 {
        let (first, one) = a[place].overflowing_add(b[place]);
        let (second, two) = first.overflowing_add(u64::from(carry));
        (out[place], carry) = (second, one || two);
    }
    (out, carry)
}

fn difference(a: &Number, b: &Number) -> (Number, bool) {
    let (mut out, mut borrow) = ([0; 4], false);
    for place in 0..4 {
        let (first, one) = a[place].overflowing_sub(b[place]);
        let (second, two) = first.overflowing_sub(u64::from(borrow));
        (out[place], borrow) = (second, one || two);
    }
    (out, borrow)
}

fn is_below(a: &Number, b: &Number) -> bool {
    difference(a, b).1
}

/// Bit by bit, from the highest: twice what there is so far, the bit, and less the modulus where it is as large.
fn reduced(bits: impl Iterator<Item = bool>, modulus: &Number) -> Number {
    let mut out = [0; 4];
    for bit in bits {
        let (mut doubled, _) = sum(&out, &out);
        doubled[0] |= u64::from(bit);
        out = if is_below(&doubled, modulus) { doubled } else { difference(&doubled, modulus).0 };
    }
    out
}

fn bits_of(bytes: &[u8]) -> impl Iterator<Item = bool> {
    bytes.iter().rev().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1))
}

/// A number that is at most a few times as large as the modulus.
fn below(mut number: Number, modulus: &Number) -> Number {
    while let (less, false) = difference(&number, modulus) {
        number = less;
    }
    number
}

pub(crate) fn modulo(bytes: &[u8], modulus: &Number) -> Number {
    reduced(bits_of(bytes), modulus)
}

pub(crate) fn add(a: &Number, b: &Number, modulus: &Number) -> Number {
    // Both are below the modulus, which is below 2^255.
    below(sum(a, b).0, modulus)
}

pub(crate) fn sub(a: &Number, b: &Number, modulus: &Number) -> Number {
    match difference(a, b) {
        (out, false) => out,
        (out, true) => sum(&out, modulus).0,
    }
}

pub(crate) fn mul(a: &Number, b: &Number, modulus: &Number) -> Number {
    let mut product = [0_u64; 8];
    for (i, x) in a.iter().enumerate() {
        let mut carry = 0;
        for (j, y) in b.iter().enumerate() {
            let wide = u128::from(*x) * u128::from(*y) + u128::from(product[i + j]) + carry;
            product[i + j] = u64::try_from(wide & u128::from(u64::MAX)).unwrap();
            carry = wide >> 64;
        }
        product[i + 4] = u64::try_from(carry).unwrap();
    }
    if modulus == &P {
        return folded(&product);
    }
    let wide: Vec<u8> = product.iter().flat_map(|limb| limb.to_le_bytes()).collect();
    modulo(&wide, modulus)
}

/// Modulo 2^255 − 19, of which 2^256 leaves 38.
fn folded(product: &[u64; 8]) -> Number {
    let (mut out, mut carry) = ([0; 4], 0_u128);
    for place in 0..4 {
        let wide = u128::from(product[place]) + 38 * u128::from(product[place + 4]) + carry;
        out[place] = u64::try_from(wide & u128::from(u64::MAX)).unwrap();
        carry = wide >> 64;
    }
    let over = small(38 * u64::try_from(carry).unwrap());
    match sum(&out, &over) {
        (out, false) => below(out, &P),
        (out, true) => below(sum(&out, &small(38)).0, &P),
    }
}

pub(crate) fn power(base: &Number, exponent: &Number, modulus: &Number) -> Number {
    let mut out = small(1);
    for bit in bits_of(&bytes(exponent)) {
        out = mul(&out, &out, modulus);
        if bit {
            out = mul(&out, base, modulus);
        }
    }
    out
}

pub(crate) fn inverse(of: &Number, modulus: &Number) -> Number {
    power(of, &difference(modulus, &small(2)).0, modulus)
}

/// RFC 7748, 5: the ladder, for any scalar.
pub(crate) fn ladder(scalar: &Number, u: &Number) -> Number {
    let a24 = small(121_665);
    let (mut x2, mut z2, mut x3, mut z3) = (small(1), small(0), *u, small(1));
    let mut swap = false;
    for bit in bits_of(&bytes(scalar)) {
        if swap != bit {
            (x2, x3, z2, z3) = (x3, x2, z3, z2);
        }
        swap = bit;
        let (a, b) = (add(&x2, &z2, &P), sub(&x2, &z2, &P));
        let (aa, bb) = (mul(&a, &a, &P), mul(&b, &b, &P));
        let e = sub(&aa, &bb, &P);
        let (c, d) = (add(&x3, &z3, &P), sub(&x3, &z3, &P));
        let (da, cb) = (mul(&d, &a, &P), mul(&c, &b, &P));
        let (plus, minus) = (add(&da, &cb, &P), sub(&da, &cb, &P));
        x3 = mul(&plus, &plus, &P);
        z3 = mul(u, &mul(&minus, &minus, &P), &P);
        x2 = mul(&aa, &bb, &P);
        z2 = mul(&e, &add(&aa, &mul(&a24, &e, &P), &P), &P);
    }
    if swap {
        (x2, z2) = (x3, z3);
    }
    mul(&x2, &inverse(&z2, &P), &P)
}

pub(crate) fn clamped(secret: &[u8; 32]) -> Number {
    let mut secret = *secret;
    secret[0] &= 0b1111_1000;
    secret[31] = secret[31] & 127 | 64;
    number(&secret)
}

/// RFC 7748, 5: X25519.
pub(crate) fn x25519(secret: &[u8; 32], public: &[u8; 32]) -> [u8; 32] {
    let mut public = *public;
    public[31] &= 127;
    bytes(&ladder(&clamped(secret), &modulo(&public, &P)))
}

/// Whether there is a point of the curve itself with this u; else it is of the twist. (y² = u³ + 486662 u² + u, by Euler's criterion.)
pub(crate) fn is_on_curve(u: &Number) -> bool {
    let square = mul(u, u, &P);
    let right = add(&add(&mul(&square, u, &P), &mul(&small(486_662), &square, &P), &P), u, &P);
    let half = {
        let mut half = difference(&P, &small(1)).0;
        for place in 0..4 {
            let next = half.get(place + 1).copied().unwrap_or_default();
            half[place] = half[place] >> 1 | next << 63;
        }
        half
    };
    let euler = power(&right, &half, &P);
    euler == small(1) || euler == small(0)
}

/// RFC 8032, 5.1.6, with an R of our own choosing: what a verifier would accept that takes R for that of the honest signature, or, with `nonce` at
/// zero, for the neutral point.
pub(crate) fn sign_with(seed: &[u8; 32], public: &[u8; 32], message: &[u8], r: &[u8; 32], is_zero: bool) -> [u8; 64] {
    let hash = Sha512::digest(seed);
    let secret = clamped(&hash[..32].try_into().unwrap());
    let nonce =
        if is_zero { small(0) } else { modulo(&Sha512::new().chain_update(&hash[32..]).chain_update(message).finalize(), &L) };
    let challenge = modulo(&Sha512::new().chain_update(r).chain_update(public).chain_update(message).finalize(), &L);
    let scalar = add(&nonce, &mul(&challenge, &modulo(&bytes(&secret), &L), &L), &L);
    [*r, bytes(&scalar)].concat().try_into().unwrap()
}
