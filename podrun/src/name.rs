//! Names that hold 128 random bits, and the ids that a cluster gives.

use std::fmt;
use std::str::FromStr;

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

/// A text that is not a name or id of the kind wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not {expected}")]
pub struct NameError {
    /// What was to be such a name.
    pub text: String,
    /// What it would have to be.
    pub expected: &'static str,
}

macro_rules! random_name {
    ($(#[$documentation:meta])* $name:ident, $prefix:literal, $expected:literal) => {
        $(#[$documentation])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(u128);

        impl $name {
            /// A fresh one.
            pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
                let mut bytes = [0; 16];
                rng.fill_bytes(&mut bytes);
                Self(u128::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:032x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let digits = text.strip_prefix($prefix).filter(|digits| {
                    digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                });
                let value = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok());
                value.map(Self).ok_or_else(|| NameError { text: text.to_owned(), expected: $expected })
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    };
}

random_name!(
    /// An SSH connection: 32 lower-case hex digits. Public; may be logged.
    ConnectionId, "", "a connection's id of 32 lower-case hex digits"
);
random_name!(
    /// A pod of ours: `toehold-` and 32 lower-case hex digits, a name that Kubernetes takes (RFC 1123). Recorded before the pod is
    /// created, so that a retry asks for the same pod again.
    PodName, "toehold-", "a pod's name, toehold- and 32 lower-case hex digits"
);
random_name!(
    /// The owner of a gateway's pods, an empty Job: `toehold-gateway-` and 32 lower-case hex digits.
    OwnerName, "toehold-gateway-", "an owner's name, toehold-gateway- and 32 lower-case hex digits"
);
random_name!(
    /// Stands in the record of a pod and in the pod alone: what carries it was created from that record.
    Nonce, "", "a nonce of 32 lower-case hex digits"
);

/// The id that a cluster gives to an object for its whole life. Another object of the same name has another.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uid(String);

impl Uid {
    /// The text as the cluster wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uid({})", self.0)
    }
}

impl FromStr for Uid {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > 128 || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b)) {
            return Err(NameError { text: text.chars().take(128).collect(), expected: "an object's UID" });
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Uid {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Uid> for String {
    fn from(uid: Uid) -> Self {
        uid.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_printed_and_read_back_and_nothing_else_is_read() {
        let name = PodName(0xabc);
        assert_eq!(name.to_string(), "toehold-00000000000000000000000000000abc");
        assert_eq!(name.to_string().parse(), Ok(name));
        for bad in ["", "toehold-", "toehold-ABC", "00000000000000000000000000000abc", "toehold-+0000000000000000000000000000abc"]
        {
            assert!(bad.parse::<PodName>().is_err(), "{bad}");
        }
        assert!("948d3f3e-f399-4523-a373-964ad9a96412".parse::<Uid>().is_ok());
        assert!("a b".parse::<Uid>().is_err());
    }
}
