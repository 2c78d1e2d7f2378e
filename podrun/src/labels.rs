//! Labels and annotations that Kubernetes takes whatever the user, the address or the metadata, and that never make two different
//! things look the same.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest as _, Sha256};

/// The longest value of a label, and the longest name part of its key, in bytes.
pub const MAX_LABEL: usize = 63;

/// All keys and values of an object's annotations together, in bytes (`TotalAnnotationSizeLimitB`).
pub const MAX_ANNOTATIONS: usize = 256 * 1024;

/// What metadata may take of that; the rest is for our own annotations and those that others add.
const METADATA_BUDGET: usize = MAX_ANNOTATIONS / 2;

/// The prefix of every key of ours.
pub const PREFIX: &str = "toehold.local/";

/// The value of a label: at most 63 bytes of letters, digits, `-`, `_` and `.`, the first and last of them a letter or digit.
///
/// Made from any text, and from different texts always differently ([`LabelValue::encode`]).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelValue(String);

impl LabelValue {
    /// The label that stands for `text`.
    ///
    /// Letters and digits stay as they are, and so do `.` and `-` inside; any other byte becomes `_` and two hex digits. Where
    /// that would begin with `_`, a `0` goes before it, and a text that itself begins with `0` has that byte written in hex, so
    /// that the two cannot meet. What would be longer than 63 bytes becomes `0h` and 240 bits of its SHA-256. So `alice` is
    /// `alice`, `bad user!` is `bad_20user_21`, `josé` is `jos_c3_a9`, and `a.b` differs from `a-b`.
    pub fn encode(text: &str) -> Self {
        Self(encoded(text, MAX_LABEL))
    }

    /// The value.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LabelValue({})", self.0)
    }
}

fn encoded(text: &str, limit: usize) -> String {
    let bytes = text.as_bytes();
    let last = bytes.len().saturating_sub(1);
    let mut form = String::with_capacity(bytes.len().min(limit) + 4);
    for (place, byte) in bytes.iter().enumerate() {
        let inside = place > 0 && place < last;
        let plain = byte.is_ascii_alphanumeric() && !(place == 0 && *byte == b'0');
        if plain || (inside && matches!(byte, b'.' | b'-')) {
            form.push(char::from(*byte));
        } else {
            if place == 0 {
                form.push('0');
            }
            form.push_str(&format!("_{byte:02x}"));
        }
        if form.len() > limit {
            return digest(bytes, limit);
        }
    }
    form
}

/// `0h` begins no other form: after a `0` that we put in comes `_`.
fn digest(bytes: &[u8], limit: usize) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let digits = limit.saturating_sub(2).min(60);
    format!("0h{}", hex.get(..digits).unwrap_or(&hex))
}

/// Metadata of a connection that is too much for an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection's metadata has {got} bytes with \"{name}\", over the limit of {limit}")]
pub struct MetadataTooLarge {
    /// The entry with which it became too much, cut to 64 characters.
    pub name: String,
    /// Size up to and with that entry, in bytes.
    pub got: usize,
    /// The limit in bytes.
    pub limit: usize,
}

/// The labels and annotations of a pod: valid by construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl Marks {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a label of ours; `name` is one of this crate's own constants.
    #[must_use]
    pub(crate) fn label(mut self, name: &'static str, text: &str) -> Self {
        self.labels.insert(format!("{PREFIX}{name}"), LabelValue::encode(text).0);
        self
    }

    /// With a label of ours whose value is one of our own names, and so valid as it is; `name` is one of this crate's own constants.
    #[must_use]
    pub(crate) fn own_name(mut self, name: &'static str, value: &impl fmt::Display) -> Self {
        self.labels.insert(format!("{PREFIX}{name}"), value.to_string());
        self
    }

    /// With an annotation of ours, whose value is any text; `name` is one of this crate's own constants.
    #[must_use]
    pub(crate) fn annotation(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.annotations.insert(format!("{PREFIX}{name}"), text.into());
        self
    }

    /// With the metadata that authentication gave: each entry an annotation under a key made from its name, its value as it is, and a
    /// label under the same key, for selectors, its value as [`LabelValue::encode`] writes it.
    ///
    /// # Errors
    /// [`MetadataTooLarge`] where names and values are more than half of what an object can carry.
    pub fn with_metadata<'a>(mut self, metadata: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, MetadataTooLarge> {
        let mut got = 0_usize;
        for (name, value) in metadata {
            let key = metadata_key(name);
            let label = LabelValue::encode(value).0;
            got = got.saturating_add(2 * key.len()).saturating_add(value.len()).saturating_add(label.len());
            if got > METADATA_BUDGET {
                return Err(MetadataTooLarge { name: name.chars().take(64).collect(), got, limit: METADATA_BUDGET });
            }
            self.labels.insert(key.clone(), label);
            self.annotations.insert(key, value.to_owned());
        }
        Ok(self)
    }

    /// The labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// The annotations.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }
}

/// The annotation's key for an entry of the metadata: `toehold.local/metadata.` and the name as [`LabelValue::encode`] writes it.
pub fn metadata_key(name: &str) -> String {
    const PART: &str = "metadata.";
    // An empty name would leave the part to end in a dot; `0` alone stands for no other name.
    let form = encoded(name, MAX_LABEL - PART.len());
    format!("{PREFIX}{PART}{}", if form.is_empty() { "0" } else { &form })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn valid(text: &str) -> bool {
        let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
        text.len() <= MAX_LABEL
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && edge(text.chars().next())
            && edge(text.chars().last())
    }

    fn names() -> impl Strategy<Value = String> {
        prop_oneof![".{0,8}", "[0ah_.-]{0,6}", "[a-z.-]{50,80}", "0h[0-9a-f]{60}", "(_[0-9a-f]{2}){0,3}"]
    }

    #[test]
    fn p4_names_that_broke_others_make_valid_labels() {
        for (text, label) in [
            ("alice", "alice"),
            ("bad user!", "bad_20user_21"),
            ("josé", "jos_c3_a9"),
            ("trail-", "trail_2d"),
            ("-lead", "0_2dlead"),
            ("0", "0_30"),
            ("a.b", "a.b"),
            ("a-b", "a-b"),
            ("a_b", "a_5fb"),
            ("", ""),
            ("é", "0_c3_a9"),
        ] {
            assert_eq!(LabelValue::encode(text).as_str(), label, "{text}");
        }
        assert!(LabelValue::encode(&"x".repeat(64)).as_str().starts_with("0h"));
        assert_eq!(LabelValue::encode(&"x".repeat(63)).as_str().len(), 63);
        assert_ne!(metadata_key(""), metadata_key("0"));
    }

    #[test]
    fn p4_metadata_is_told_in_full_and_can_be_selected_by() {
        let marks = Marks::new().with_metadata([("team", "blue"), ("cost center", "a b")]).unwrap();
        let (team, center) = (metadata_key("team"), metadata_key("cost center"));
        assert_eq!((team.as_str(), marks.labels()[&team].as_str()), ("toehold.local/metadata.team", "blue"));
        assert_eq!((marks.labels()[&center].as_str(), marks.annotations()[&center].as_str()), ("a_20b", "a b"));
    }

    #[test]
    fn metadata_has_a_limit_that_is_named() {
        let large = "v".repeat(METADATA_BUDGET);
        let error = Marks::new().with_metadata([("a", "b"), ("big", &large)]).unwrap_err();
        assert_eq!(error.name, "big");
    }

    proptest! {
        #[test]
        fn p4_any_text_makes_a_valid_label(text in any::<String>()) {
            let label = LabelValue::encode(&text);
            prop_assert!(valid(label.as_str()), "{:?}", label);
            let key = metadata_key(&text);
            let name = key.strip_prefix(PREFIX).unwrap();
            prop_assert!(!name.is_empty() && valid(name), "{}", key);
        }

        #[test]
        fn p4_labels_of_different_texts_differ(one in names(), other in names()) {
            prop_assert_eq!(one == other, LabelValue::encode(&one) == LabelValue::encode(&other));
            prop_assert_eq!(one == other, metadata_key(&one) == metadata_key(&other));
        }

        #[test]
        fn p4_a_label_read_as_a_text_is_another_label(text in names()) {
            let label = LabelValue::encode(&text);
            prop_assert_eq!(LabelValue::encode(label.as_str()) == label, label.as_str() == text);
        }
    }
}
