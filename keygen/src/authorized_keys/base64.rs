//! Base64 as it stands in other people's files, and the comparison of keys through it.

use toehold_core::PublicKey;

/// What is no character of the base64 alphabet.
const NONE: u8 = 0xff;

/// The value of each character (RFC 4648 §4).
const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut rest: &mut [u8] = &mut values;
    let mut character = 0_u8;
    while let [value, tail @ ..] = rest {
        *value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => NONE,
        };
        character = character.wrapping_add(1);
        rest = tail;
    }
    values
};

fn value(character: u8) -> Option<u8> {
    VALUES.get(usize::from(character)).copied().filter(|value| *value != NONE)
}

/// Whether a field ends at this byte: blanks separate fields, and a C program reads no further than a NUL.
pub(super) fn ends_field(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0)
}

/// The bytes that a base64 field stands for, decoded one by one so that a comparison can stop at the first difference.
///
/// Lenient where programs differ: characters outside the alphabet are skipped, padding may be absent, left-over bits are
/// dropped. The field ends as [`ends_field`] says, or with its padding.
#[derive(Clone)]
pub(super) struct Decoded<'a> {
    field: std::slice::Iter<'a, u8>,
    bits: u32,
    count: u32,
}

impl<'a> Decoded<'a> {
    /// Decodes the field that `text` begins with.
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { field: text.iter(), bits: 0, count: 0 }
    }

    fn length(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes([self.next()?, self.next()?, self.next()?, self.next()?]))
    }

    /// Reads a length-prefixed name of 1 to 64 printable characters, as a key blob begins with.
    pub(super) fn name(&mut self) -> Option<Name> {
        let length = self.length().filter(|length| (1..=64).contains(length))?;
        let mut name = Name { characters: [0; 64], length: usize::try_from(length).ok()? };
        for character in name.characters.iter_mut().take(name.length) {
            *character = self.next().filter(u8::is_ascii_graphic)?;
        }
        Some(name)
    }
}

/// The name of an algorithm.
pub(super) struct Name {
    characters: [u8; 64],
    length: usize,
}

impl Name {
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.characters.get(..self.length).unwrap_or_default()
    }
}

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        while self.count < 8 {
            let character = *self.field.next()?;
            match value(character) {
                Some(six) => {
                    self.bits = (self.bits << 6) | u32::from(six);
                    self.count += 6;
                }
                None if character == b'=' || ends_field(character) => {
                    self.field = [].iter();
                    return None;
                }
                None => {}
            }
        }
        self.count -= 8;
        let [_, _, _, byte] = (self.bits >> self.count).to_be_bytes();
        Some(byte)
    }
}

/// Whether OpenSSH decodes `field` (which must not contain blanks or NULs): RFC 4648 with its padding, white space
/// allowed anywhere, no left-over bits.
pub(super) fn openssh_decodes(field: &[u8]) -> bool {
    let (mut count, mut padding, mut last) = (0_usize, 0_usize, 0);
    for character in field.iter().filter(|character| !matches!(character, b'\n' | b'\r' | 0x0b | 0x0c)) {
        match value(*character) {
            _ if *character == b'=' => padding += 1,
            Some(six) if padding == 0 => {
                last = six;
                count += 1;
            }
            _ => return false,
        }
    }
    match (count % 4, padding) {
        (0, 0) => true,
        (2, 2) => last.trailing_zeros() >= 4,
        (3, 1) => last.trailing_zeros() >= 2,
        _ => false,
    }
}

/// Whether the field that `text` begins with can be a key: the length of a name is below 256, so three zeros come first.
pub(super) fn looks_like_a_key(text: &[u8]) -> bool {
    text.starts_with(b"AAAA") || Decoded::new(text).take(3).eq([0, 0, 0])
}

/// A key to be looked for in base64 fields.
pub(super) struct Wanted<'k> {
    blob: &'k [u8],
    /// As it is usually written.
    base64: String,
    /// From which character on a difference in the usual form tells that it is another key.
    telling: usize,
    /// The parts of a key that is made of numbers: its family and each number without leading zeros.
    numbers: Option<(&'static str, Vec<&'k [u8]>)>,
}

impl<'k> Wanted<'k> {
    /// Prepares the comparison with `key`.
    pub(super) fn new(key: &'k PublicKey) -> Self {
        let blob = key.blob();
        let numbers = family(key.algorithm().as_bytes()).zip(numbers(blob));
        let telling = match &numbers {
            None => 0,
            // Once the modulus has begun alike, at the same place and with the same zeros, it can only go on alike.
            Some(("rsa", numbers)) => (blob.len() - numbers.last().map_or(0, |modulus| modulus.len())).div_ceil(3) * 4 + 4,
            Some(_) => usize::MAX,
        };
        Self { blob, base64: key.base64(), telling, numbers }
    }

    /// Whether the field that `text` begins with is this key: the same blob, or for RSA and DSA the same numbers, which
    /// may be written with more leading zeros than RFC 4251 §5 allows and are then still the same key to OpenSSH.
    pub(super) fn is_in(&self, text: &[u8]) -> bool {
        // Nearly always a few characters tell. Those before the last four stand for nothing but the key.
        let mut pairs = self.base64.bytes().zip(text.iter().copied());
        if let Some(at) = pairs.position(|(ours, theirs)| ours != theirs) {
            let of_the_alphabet = text.get(at).is_some_and(|character| value(*character).is_some());
            if at >= self.telling && at + 4 < self.base64.len() && of_the_alphabet {
                return false;
            }
        }
        match &self.numbers {
            None => Decoded::new(text).eq(self.blob.iter().copied()),
            Some((family_name, numbers)) => same_numbers(Decoded::new(text), family_name, numbers).unwrap_or(false),
        }
    }
}

/// The family of a key that is a sequence of `mpint`s, whichever of its names is used.
fn family(name: &[u8]) -> Option<&'static str> {
    match name {
        b"ssh-rsa" | b"rsa-sha2-256" | b"rsa-sha2-512" => Some("rsa"),
        b"ssh-dss" => Some("dsa"),
        _ => None,
    }
}

/// The fields of a blob behind its name, without leading zeros; `None` where it is not made of whole fields.
fn numbers(blob: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = blob;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let (field, tail) = tail.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        let zeros = field.iter().take_while(|byte| **byte == 0).count();
        fields.push(field.get(zeros..).unwrap_or_default());
        rest = tail;
    }
    (!fields.is_empty()).then(|| fields.split_off(1))
}

fn same_numbers(mut found: Decoded<'_>, family_name: &str, wanted: &[&[u8]]) -> Option<bool> {
    if family(found.name()?.as_bytes()) != Some(family_name) {
        return Some(false);
    }
    for number in wanted {
        let mut left = usize::try_from(found.length()?).ok()?;
        let mut first = None;
        while left > 0 && first.is_none() {
            first = Some(found.next()?).filter(|byte| *byte != 0);
            left -= 1;
        }
        if left + usize::from(first.is_some()) != number.len() {
            return Some(false);
        }
        let (head, tail) = number.split_at_checked(1).unwrap_or_default();
        if first != head.first().copied() {
            return Some(false);
        }
        for byte in tail {
            if found.next()? != *byte {
                return Some(false);
            }
        }
    }
    Some(found.next().is_none())
}

#[cfg(test)]
mod tests {
    use base64ct::Encoding as _;
    use proptest::prelude::*;

    use super::*;

    fn decode(text: &[u8]) -> Vec<u8> {
        Decoded::new(text).collect()
    }

    #[test]
    fn decodes_rfc_4648_section_10() {
        for (text, bytes) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmFy", "foobar")]
        {
            assert_eq!(decode(text.as_bytes()), bytes.as_bytes(), "{text}");
            assert!(openssh_decodes(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_openssh_refuses_is_told_apart_and_still_decoded() {
        for (text, bytes) in [
            ("Zg", "f"),
            ("Zg=", "f"),
            ("Zm8", "fo"),
            ("Zh==", "f"),
            ("Zm9=", "fo"),
            ("Zm-9v", "foo"),
            ("Zg==Zg==", "f"),
            ("Zm9v=", "foo"),
        ] {
            assert_eq!(decode(text.as_bytes()), bytes.as_bytes(), "{text}");
            assert!(!openssh_decodes(text.as_bytes()), "{text}");
        }
        for text in ["Zm9v\r", "Z\x0bm9v", "Zm8=\r", "Zg=\r=", "Zg\r=\r=\r"] {
            assert!(openssh_decodes(text.as_bytes()), "{text:?}");
        }
        assert_eq!(decode(b"Zm9v YmFy"), b"foo");
        assert_eq!(decode(b"Zm9v\0YmFy"), b"foo");
    }

    /// A key blob out of its fields.
    fn blob(fields: &[&[u8]]) -> Vec<u8> {
        fields.iter().flat_map(|field| [&u32::try_from(field.len()).unwrap().to_be_bytes()[..], field].concat()).collect()
    }

    fn any_blob() -> impl Strategy<Value = Vec<u8>> {
        let number =
            || (0..3_usize, prop::collection::vec(1..4_u8, 0..4)).prop_map(|(zeros, rest)| [vec![0; zeros], rest].concat());
        let name = prop::sample::select(vec!["ssh-rsa", "rsa-sha2-256", "ssh-dss", "ssh-ed25519", "x"]);
        (name, prop::collection::vec(number(), 0..5)).prop_map(|(name, numbers)| {
            let fields: Vec<&[u8]> = std::iter::once(name.as_bytes()).chain(numbers.iter().map(Vec::as_slice)).collect();
            blob(&fields)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn a_key_is_recognised_by_what_it_decodes_to(
            ours in any_blob(), theirs in any_blob(), same in any::<bool>(),
            at in any::<prop::sample::Index>(), change in prop::option::of("[A-Za-z0-9=\\- \r]"), insert in any::<bool>(), unpadded in any::<bool>(),
        ) {
            let theirs = if same { &ours } else { &theirs };
            let mut text = PublicKey::from_blob(theirs).unwrap().base64();
            if unpadded {
                text.truncate(text.trim_end_matches('=').len());
            }
            if let Some(character) = change {
                let at = at.index(text.len());
                text.replace_range(at..at + usize::from(!insert), &character);
            }
            let found = decode(text.as_bytes());
            let with_numbers = |blob: &[u8]| Some((family(Decoded::name(&mut Decoded::new(encode(blob).as_bytes()))?.as_bytes())?, numbers(blob).map(|numbers| numbers.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>())?));
            let expected = found == ours || with_numbers(&ours).is_some_and(|ours| Some(ours) == with_numbers(&found));
            let ours = PublicKey::from_blob(&ours).unwrap();
            prop_assert_eq!(Wanted::new(&ours).is_in(text.as_bytes()), expected, "{}", text);
        }
    }

    fn encode(blob: &[u8]) -> String {
        base64ct::Base64::encode_string(blob)
    }
}
