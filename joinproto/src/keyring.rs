//! The keys that a join leaves behind, and their JSON form, which is Opni's.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserializer};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use toehold_core::SecretBytes;
use zeroize::Zeroizing;

use crate::encoding;
use crate::names;
use crate::pin::Pin;

/// Bytes of each of the two shared keys.
pub const SHARED_KEY_LENGTH: usize = 32;
/// Larger documents are refused unread, in bytes.
const MAX_JSON: usize = 1024 * 1024;

/// Why a document is no keyring. Holds nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// Not the JSON form: an unknown, doubled, missing or null member, a key of a wrong length, stray bits.
    #[error("not a keyring (line {line}, column {column})")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Not an ephemeral key: another usage, under 16 bytes, or labels that are none.
    #[error("not an ephemeral key: it needs the usage \"auth\", 16 bytes or more, and well-formed labels")]
    Ephemeral,
    /// Over 1 MiB.
    #[error("larger than any keyring")]
    TooLarge,
}

/// The two keys that both sides share: one to authenticate what the client says, one for the gateway.
#[derive(PartialEq, Eq)]
pub struct SharedKeys {
    client: SecretBytes,
    gateway: SecretBytes,
}

impl SharedKeys {
    /// From 64 bytes: the client's key, then the gateway's.
    pub fn from_secret(secret: &Zeroizing<[u8; 2 * SHARED_KEY_LENGTH]>) -> Self {
        let (client, gateway) = secret.split_at(SHARED_KEY_LENGTH);
        Self { client: SecretBytes::new(client.to_vec()), gateway: SecretBytes::new(gateway.to_vec()) }
    }

    /// Lends the key under which the client speaks: 32 bytes.
    pub fn expose_client(&self) -> &[u8] {
        self.client.expose()
    }

    /// Lends the key under which the gateway speaks: 32 bytes.
    pub fn expose_gateway(&self) -> &[u8] {
        self.gateway.expose()
    }

    /// A second holder of the same keys. Named, so that no copy is made by the way.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let copy = |key: &SecretBytes| SecretBytes::new(key.expose().to_vec());
        Self { client: copy(&self.client), gateway: copy(&self.gateway) }
    }
}

impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKeys([redacted])")
    }
}

/// A key that is held in memory only, by which an agent proves an attribute of its session. Loaded from a file of its own.
#[derive(PartialEq, Eq)]
pub struct EphemeralKey {
    labels: BTreeMap<String, String>,
    secret: SecretBytes,
}

impl EphemeralKey {
    /// Reads Opni's JSON form: labels, the usage `auth`, and 16 bytes or more.
    ///
    /// # Errors
    /// [`KeyringError`]; also for anything that follows the document.
    pub fn parse(json: &[u8]) -> Result<Self, KeyringError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Document {
            #[serde(default)]
            labels: Option<UniqueMap>,
            usage: String,
            sec: Secret,
        }
        if json.len() > MAX_JSON {
            return Err(KeyringError::TooLarge);
        }
        let Object(document): Object<Document> = serde_json::from_slice(json).map_err(|e| malformed(&e))?;
        let labels = document.labels.unwrap_or_default().0;
        let well_formed = labels.iter().all(|(name, value)| names::is_label_name(name) && names::is_label_value(value));
        if document.usage != "auth" || document.sec.0.len() < 16 || !well_formed {
            return Err(KeyringError::Ephemeral);
        }
        Ok(Self { labels, secret: document.sec.0.into() })
    }

    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Lends the key.
    pub fn expose(&self) -> &[u8] {
        self.secret.expose()
    }
}

impl fmt::Debug for EphemeralKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EphemeralKey").field("labels", &self.labels).finish_non_exhaustive()
    }
}

/// All keys of one machine, in the order in which they came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    /// The keys shared with the gateway.
    pub shared_keys: Vec<SharedKeys>,
    /// Pins of the gateway, a list for each join.
    pub pinned_keys: Vec<Vec<Pin>>,
    /// CA certificates of the gateway as DER, a list for each join.
    pub ca_certificates: Vec<Vec<Vec<u8>>>,
    /// Keys that are never written.
    pub ephemeral_keys: Vec<EphemeralKey>,
}

impl Keyring {
    /// A keyring of one pair of shared keys.
    pub fn of(keys: SharedKeys) -> Self {
        Self { shared_keys: vec![keys], ..Self::default() }
    }

    /// Both keyrings' keys: of each kind first ours, then those of `other`.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.shared_keys.extend(other.shared_keys);
        self.pinned_keys.extend(other.pinned_keys);
        self.ca_certificates.extend(other.ca_certificates);
        self.ephemeral_keys.extend(other.ephemeral_keys);
        self
    }

    /// The JSON form, which holds secrets. Ephemeral keys are left out.
    pub fn expose_json(&self) -> SecretBytes {
        let pins = |pins: &Vec<Pin>| Object(PinnedDocument { pinned_keys: pins.iter().map(|pin| PinDocument(*pin)).collect() });
        let certificates =
            |list: &Vec<Vec<u8>>| Object(CaDocument { ca_certs: list.iter().map(|der| Der(der.clone())).collect() });
        let document = Document {
            shared_keys: self.shared_keys.iter().map(|keys| Object(SharedDocument::of(keys))).collect(),
            pkp_key: self.pinned_keys.iter().map(pins).collect(),
            ca_certs_key: self.ca_certificates.iter().map(certificates).collect(),
        };
        // Sized beforehand: a growing buffer would leave secrets behind in freed memory.
        let certificates: usize = self.ca_certificates.iter().flatten().map(|der| der.len() * 2 + 8).sum();
        let pins: usize = self.pinned_keys.iter().map(|pins| 32 + pins.len() * 128).sum();
        let size = 256 + self.shared_keys.len() * 160 + pins + certificates + self.ca_certificates.len() * 32;
        let mut json = Zeroizing::new(Vec::with_capacity(size));
        // Text and byte strings only: nothing in it can fail to be written into memory.
        let _ = serde_json::to_writer(&mut *json, &document);
        json.into()
    }

    /// Reads the JSON form. What Opni tolerates beyond what it writes is refused: null, unknown and doubled members, keys of a
    /// wrong length, unknown pins, trailing bytes.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn parse(json: &[u8]) -> Result<Self, KeyringError> {
        if json.len() > MAX_JSON {
            return Err(KeyringError::TooLarge);
        }
        let Object(document): Object<Document> = serde_json::from_slice(json).map_err(|e| malformed(&e))?;
        Ok(Self {
            shared_keys: document.shared_keys.into_iter().map(|Object(keys)| keys.keys()).collect(),
            pinned_keys: document
                .pkp_key
                .into_iter()
                .map(|Object(key)| key.pinned_keys.into_iter().map(|pin| pin.0).collect())
                .collect(),
            ca_certificates: document
                .ca_certs_key
                .into_iter()
                .map(|Object(key)| key.ca_certs.into_iter().map(|der| der.0).collect())
                .collect(),
            ephemeral_keys: Vec::new(),
        })
    }
}

fn malformed(error: &serde_json::Error) -> KeyringError {
    KeyringError::Json { line: error.line(), column: error.column() }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "sharedKeys", default, skip_serializing_if = "Vec::is_empty")]
    shared_keys: Vec<Object<SharedDocument>>,
    #[serde(rename = "pkpKey", default, skip_serializing_if = "Vec::is_empty")]
    pkp_key: Vec<Object<PinnedDocument>>,
    #[serde(rename = "caCertsKey", default, skip_serializing_if = "Vec::is_empty")]
    ca_certs_key: Vec<Object<CaDocument>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SharedDocument {
    #[serde(rename = "clientKey")]
    client: Key,
    #[serde(rename = "serverKey")]
    gateway: Key,
}

impl SharedDocument {
    fn of(keys: &SharedKeys) -> Self {
        let copy = |bytes: &[u8]| Key(Zeroizing::new(bytes.to_vec()));
        Self { client: copy(keys.expose_client()), gateway: copy(keys.expose_gateway()) }
    }

    fn keys(self) -> SharedKeys {
        SharedKeys { client: self.client.0.into(), gateway: self.gateway.0.into() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinnedDocument {
    #[serde(rename = "pinnedKeys")]
    pinned_keys: Vec<PinDocument>,
}

struct PinDocument(Pin);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinMembers {
    alg: String,
    fingerprint: String,
}

impl Serialize for PinDocument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        PinMembers { alg: self.0.algorithm().name().to_owned(), fingerprint: encoding::base64(self.0.digest()) }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PinDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Object(members) = Object::<PinMembers>::deserialize(deserializer)?;
        let digest = encoding::unbase64(&members.fingerprint).ok_or_else(|| de::Error::custom("not base64"))?;
        Pin::from_named(&members.alg, &digest).map(Self).map_err(de::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaDocument {
    #[serde(rename = "caCerts")]
    ca_certs: Vec<Der>,
}

/// Something that is written as an object, and read from nothing else: derived code would take an array of the values as well.
#[derive(Serialize)]
#[serde(transparent)]
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, access: A) -> Result<Object<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(access)).map(Object)
            }
        }
        deserializer.deserialize_map(Visitor(PhantomData))
    }
}

/// A certificate in base64.
struct Der(Vec<u8>);

impl Serialize for Der {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encoding::base64(&self.0))
    }
}

impl<'de> Deserialize<'de> for Der {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let der = Secret::deserialize(deserializer)?.0;
        if !crate::chain::is_certificate(&der) {
            return Err(de::Error::custom("not a certificate"));
        }
        Ok(Self(der.to_vec()))
    }
}

/// Secret bytes in base64, of any length.
struct Secret(Zeroizing<Vec<u8>>);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        encoding::unbase64(&text).map(Self).ok_or_else(|| de::Error::custom("not base64"))
    }
}

/// A shared key in base64.
struct Key(Zeroizing<Vec<u8>>);

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(encoding::base64(&self.0)))
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let secret = Secret::deserialize(deserializer)?.0;
        if secret.len() == SHARED_KEY_LENGTH { Ok(Self(secret)) } else { Err(de::Error::custom("not 32 bytes")) }
    }
}

/// Names and values in which no name comes twice.
#[derive(Default)]
struct UniqueMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = UniqueMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names and values")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut access: A) -> Result<UniqueMap, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((name, value)) = access.next_entry()? {
                    if map.insert(name, value).is_some() {
                        return Err(de::Error::custom("a name comes twice"));
                    }
                }
                Ok(UniqueMap(map))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}
