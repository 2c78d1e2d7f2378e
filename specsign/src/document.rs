//! The document as it travels: Choria's members, strictly read, and our envelope beside them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64ct::{Base64, Encoding as _};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use sha2::{Digest as _, Sha256};

use crate::envelope::{self, Envelope};
use crate::keys::{Signature, SigningKey, TrustedKeys, VerifyingKey};
use crate::sshsig;

/// The most bytes that a document may have: ten times one of 10,000 machines.
pub const MAX_DOCUMENT: usize = 64 * 1024 * 1024;

/// What a document is a list of, and with that what its plain signature covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Format {
    /// Machines of Choria's `machines` watcher: the signature covers the payload.
    Machines,
    /// Plugins of its `plugins` watcher: the signature covers the payload in base64.
    Plugins,
}

impl Format {
    /// The name of the member that holds the payload.
    pub fn member(self) -> &'static str {
        match self {
            Self::Machines => "machines",
            Self::Plugins => "plugins",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.member())
    }
}

/// A text that is no [`Format`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lists are of machines or of plugins")]
pub struct FormatError;

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Machines, Self::Plugins].into_iter().find(|format| format.member() == text).ok_or(FormatError)
    }
}

/// Why bytes are no document, or not one that may be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// More than [`MAX_DOCUMENT`].
    #[error("a document of {got} bytes is over the limit of {MAX_DOCUMENT}")]
    TooLong {
        /// Its size in bytes.
        got: usize,
    },
    /// Not one JSON object with members that can be read in one way only.
    #[error("the document is no specification: {reason} (line {line}, column {column})")]
    Json {
        /// What is wrong.
        reason: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// It has neither `machines` nor `plugins`.
    #[error("the document has neither \"machines\" nor \"plugins\"")]
    NoPayload,
    /// It has both.
    #[error("the document has both \"machines\" and \"plugins\"")]
    TwoPayloads,
    /// The payload is not canonical, padded base64.
    #[error("the payload is not canonical base64 (standard alphabet, padded, without line ends or stray bits)")]
    Base64,
    /// The signature is not 128 lower-case hex digits.
    #[error("the signature is not 128 lower-case hex digits")]
    BadSignature,
    /// A signature was asked for and there is none.
    #[error("the document is not signed")]
    NotSigned,
    /// No trusted key made the signature.
    #[error("the document is signed by none of the trusted keys")]
    WrongKey,
    /// A plain document has one signature, and more were asked for.
    #[error("a plain document has one signature, and {threshold} are asked for; it needs an envelope")]
    OneSignatureOnly {
        /// How many keys have to sign.
        threshold: usize,
    },
    /// The envelope does not belong to the payload.
    #[error("the envelope {0}")]
    Envelope(&'static str),
    /// The bytes are those of another kind of signature; signing or taking them as a payload would mix the two up.
    #[error("the payload begins as {0} does, and cannot be a specification's")]
    OtherDomain(&'static str),
}

impl DocumentError {
    fn json(error: &serde_json::Error) -> Self {
        Self::Json { reason: json_reason(error), line: error.line(), column: error.column() }
    }
}

/// Writes a document as Choria's `mms pack` does (which puts a line end behind it), signed where there is a key.
///
/// The payload is taken as it is; [`MachineList::parse`](crate::MachineList::parse) tells whether a node could use it.
///
/// # Errors
/// [`DocumentError::OtherDomain`] for a payload that is another format's signed text.
pub fn pack(format: Format, payload: &[u8], key: Option<&SigningKey>) -> Result<String, DocumentError> {
    let base64 = Base64::encode_string(payload);
    let signature = match key {
        Some(key) => Some(key.sign(signing_bytes(format, payload, &base64)?)),
        None => None,
    };
    Ok(write(format, &base64, signature.as_ref(), None))
}

/// The bytes that a plain document's signature covers, for a key that lives elsewhere; [`pack_signed`] takes the result.
///
/// # Errors
/// As [`pack`].
pub fn plain_signing_bytes(format: Format, payload: &[u8]) -> Result<Vec<u8>, DocumentError> {
    let base64 = Base64::encode_string(payload);
    signing_bytes(format, payload, &base64).map(<[u8]>::to_vec)
}

/// As [`pack`], with a signature that was made elsewhere.
pub fn pack_signed(format: Format, payload: &[u8], signature: &Signature) -> String {
    write(format, &Base64::encode_string(payload), Some(signature), None)
}

pub(crate) fn write(format: Format, base64: &str, signature: Option<&Signature>, envelope: Option<&str>) -> String {
    let mut text = String::with_capacity(base64.len() + 256 + envelope.map_or(0, str::len));
    text.push_str("{\"");
    text.push_str(format.member());
    text.push_str("\":\"");
    text.push_str(base64);
    text.push('"');
    if let Some(signature) = signature {
        text.push_str(",\"signature\":\"");
        text.push_str(&signature.to_string());
        text.push('"');
    }
    if let Some(envelope) = envelope {
        text.push_str(",\"envelope\":");
        text.push_str(envelope);
    }
    text.push('}');
    text
}

fn signing_bytes<'a>(format: Format, payload: &'a [u8], base64: &'a str) -> Result<&'a [u8], DocumentError> {
    if payload.starts_with(envelope::DOMAIN) {
        return Err(DocumentError::OtherDomain("an envelope"));
    }
    if payload.starts_with(sshsig::MAGIC) {
        return Err(DocumentError::OtherDomain("an SSH signature"));
    }
    Ok(match format {
        Format::Machines => payload,
        Format::Plugins => base64.as_bytes(),
    })
}

/// A document that was read and not yet judged. Nothing of its payload can be had without saying how it is to be believed.
#[derive(Clone)]
pub struct Document {
    format: Format,
    base64: String,
    payload: Vec<u8>,
    signature: Option<Signature>,
    envelope: Option<Envelope>,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document")
            .field("format", &self.format)
            .field("payload_bytes", &self.payload.len())
            .field("signature", &self.signature)
            .field("envelope", &self.envelope)
            .finish_non_exhaustive()
    }
}

impl Document {
    /// Reads a document. Members that this release does not know are passed over, as Choria does with the envelope; any
    /// that is a known one in other letters, or comes twice, is refused.
    ///
    /// # Errors
    /// [`DocumentError`]; nothing about keys.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_DOCUMENT {
            return Err(DocumentError::TooLong { got: bytes.len() });
        }
        let members: Members<'_> = serde_json::from_slice(bytes).map_err(|error| DocumentError::json(&error))?;
        let (format, base64) = match (members.machines, members.plugins) {
            (Some(base64), None) => (Format::Machines, base64),
            (None, Some(base64)) => (Format::Plugins, base64),
            (None, None) => return Err(DocumentError::NoPayload),
            (Some(_), Some(_)) => return Err(DocumentError::TwoPayloads),
        };
        // Nothing here is secret from who measures time; megabytes are decoded. Padding and stray bits are checked.
        let payload = STANDARD.decode(base64.as_bytes()).map_err(|_| DocumentError::Base64)?;
        let signature = members.signature.map(|text| text.parse()).transpose().map_err(|_| DocumentError::BadSignature)?;
        Ok(Self { format, base64: base64.into_owned(), payload, signature, envelope: members.envelope })
    }

    /// What it is a list of.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it has a plain signature, good or bad.
    pub fn is_signed(&self) -> bool {
        self.signature.is_some()
    }

    /// The plain signature, if it has one; unjudged.
    pub fn plain_signature(&self) -> Option<&Signature> {
        self.signature.as_ref()
    }

    /// The envelope, if it has one; unjudged.
    pub fn envelope(&self) -> Option<&Envelope> {
        self.envelope.as_ref()
    }

    /// SHA-256 of the payload.
    pub fn payload_digest(&self) -> [u8; 32] {
        Sha256::digest(&self.payload).into()
    }

    /// Takes the payload on the word of its plain signature, as Choria does: good for ever, for every node and name. Whether
    /// a root may still do so is [`Admission`](crate::Admission)'s to say.
    ///
    /// # Errors
    /// [`DocumentError::NotSigned`], [`DocumentError::WrongKey`] or [`DocumentError::OneSignatureOnly`];
    /// [`DocumentError::OtherDomain`] for something that was signed as another format.
    pub fn verify_plain(self, trusted: &TrustedKeys) -> Result<Verified, DocumentError> {
        let signature = self.signature.ok_or(DocumentError::NotSigned)?;
        if trusted.threshold() > 1 {
            return Err(DocumentError::OneSignatureOnly { threshold: trusted.threshold() });
        }
        let message = signing_bytes(self.format, &self.payload, &self.base64)?;
        let signer = trusted.keys().find(|key| key.verifies(message, &signature)).copied();
        let signer = signer.ok_or(DocumentError::WrongKey)?;
        Ok(Verified { format: self.format, payload: self.payload, signers: BTreeSet::from([signer]) })
    }

    /// Takes the payload whoever wrote it: for a node that was told in words to do so, and for looking at.
    pub fn dangerous_without_verification(self) -> Unsigned {
        Unsigned { format: self.format, payload: self.payload }
    }

    pub(crate) fn into_payload(self) -> Vec<u8> {
        self.payload
    }
}

/// A payload that trusted keys signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified {
    pub(crate) format: Format,
    pub(crate) payload: Vec<u8>,
    pub(crate) signers: BTreeSet<VerifyingKey>,
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").field("format", &self.format).field("signers", &self.signers).finish_non_exhaustive()
    }
}

impl Verified {
    /// What it is a list of.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The bytes that were packed. They can hold passwords.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The trusted keys that signed.
    pub fn signers(&self) -> &BTreeSet<VerifyingKey> {
        &self.signers
    }
}

/// A payload that nobody vouches for.
#[derive(Clone, PartialEq, Eq)]
pub struct Unsigned {
    pub(crate) format: Format,
    pub(crate) payload: Vec<u8>,
}

impl fmt::Debug for Unsigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsigned").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Unsigned {
    /// What it is a list of.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The bytes that were packed. They can hold passwords.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// A text that is borrowed from the document where it stands there as it is.
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// `name` as a reader sees it that does not mind case: Go's JSON folds like this, also the Kelvin sign and the long s.
pub(crate) fn folded(name: &str) -> String {
    name.chars().flat_map(char::to_lowercase).map(|c| if c == 'ſ' { 's' } else { c }).collect()
}

/// The known name that `name` is meant to be or could be taken for; an error where it is another spelling of it.
pub(crate) fn known<E: de::Error>(name: &str, names: &'static [&'static str]) -> Result<Option<&'static str>, E> {
    if let Some(known) = names.iter().find(|known| **known == name) {
        return Ok(Some(known));
    }
    let folded = folded(name);
    match names.iter().find(|known| **known == folded) {
        Some(known) => Err(E::custom(format_args!("a member that some readers take for \"{known}\" is spelt otherwise"))),
        None => Ok(None),
    }
}

#[derive(Default)]
struct Members<'a> {
    machines: Option<Cow<'a, str>>,
    plugins: Option<Cow<'a, str>>,
    signature: Option<Cow<'a, str>>,
    envelope: Option<Envelope>,
}

const NAMES: &[&str] = &["machines", "plugins", "signature", "envelope"];

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                while let Some(Text(name)) = map.next_key()? {
                    match known::<A::Error>(&name, NAMES)? {
                        Some("machines") => set(&mut members.machines, map.next_value::<Text<'de>>()?.0, "machines")?,
                        Some("plugins") => set(&mut members.plugins, map.next_value::<Text<'de>>()?.0, "plugins")?,
                        Some("signature") => set(&mut members.signature, map.next_value::<Text<'de>>()?.0, "signature")?,
                        Some("envelope") => set(&mut members.envelope, map.next_value()?, "envelope")?,
                        _ => _ = map.next_value::<IgnoredAny>()?,
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// What is wrong with a JSON text, without the place, and without the text itself: that could be a password.
pub(crate) fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let reason = text.strip_suffix(&place).unwrap_or(&text);
    match reason.strip_prefix("invalid type: ").or_else(|| reason.strip_prefix("invalid value: ")) {
        Some(rest) => {
            let found = rest.split([' ', ',']).next().unwrap_or_default();
            let expected = rest.rsplit_once(", expected ").map_or("something else", |(_, expected)| expected);
            format!("found {found}, expected {expected}")
        }
        None => reason.to_owned(),
    }
}

/// Sets a member that was not there before.
pub(crate) fn set<T, E: de::Error>(slot: &mut Option<T>, value: T, name: &'static str) -> Result<(), E> {
    if slot.replace(value).is_some() {
        return Err(E::duplicate_field(name));
    }
    Ok(())
}
