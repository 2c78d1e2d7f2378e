//! Keys as subjects: `$KV.<bucket>.<segment>.<segment>…`.
//!
//! A bucket's keys have few characters (`-/_=.a-zA-Z0-9`), and a watch goes by whole tokens between dots. So a segment is a token, in
//! which every byte but letters, digits, `-` and `_` is `=` and two hex digits: one text for each key, and one key for each text.

use toehold_core::Key;

/// The longest name that is taken, in bytes. A server reads subjects from a control line of 4,096 bytes (`max_control_line`), in which
/// there is more.
pub(super) const MAX_NAME: usize = 2_048;

/// A key as a bucket has it.
pub(super) fn encode(key: &Key) -> String {
    let mut name = String::with_capacity(key.as_str().len() + 16);
    for segment in key.segments() {
        if !name.is_empty() {
            name.push('.');
        }
        for byte in segment.bytes() {
            if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
                name.push(char::from(byte));
            } else {
                name.push_str(&format!("={byte:02X}"));
            }
        }
    }
    name
}

/// The key of a name; `None` for one that [`encode`] does not write.
pub(super) fn decode(name: &str) -> Option<Key> {
    let segments = name.split('.').map(segment).collect::<Option<Vec<_>>>()?;
    Key::new(segments).ok().filter(|key| encode(key) == name)
}

fn segment(token: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'=' {
            let (digits, after) = after.split_first_chunk::<2>()?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_names() {
        for (key, name) in [
            ("session/1", "session.1"),
            ("host/root@[2001:db8::1]:22", "host.root=40=5B2001=3Adb8=3A=3A1=5D=3A22"),
            ("a.b/=41", "a=2Eb.=3D41"),
            ("*/>/é", "=2A.=3E.=C3=A9"),
        ] {
            let key = Key::parse(key).unwrap();
            assert_eq!(encode(&key), name);
            assert_eq!(decode(name), Some(key));
        }
        for other in ["", "a..b", ".a", "a.", "a=4", "a=4G", "=41", "=c3=a9", "=C3", "a b", "=2F", "a/b", "=0A"] {
            assert_eq!(decode(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn one_name_for_each_key_and_one_key_for_each_name(
            segments in prop::collection::vec("[^/\\p{Cc}]{1,20}", 1..5),
            name in "[a-z=.0-9A-F_-]{0,24}",
        ) {
            let key = Key::new(&segments).unwrap();
            let encoded = encode(&key);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=.".contains(&byte)));
            prop_assert_eq!(decode(&encoded), Some(key));
            if let Some(key) = decode(&name) {
                prop_assert_eq!(encode(&key), name);
            }
        }
    }
}
