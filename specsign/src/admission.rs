//! Whether a root takes a document: S1 to S3 of the threat model, as one function without IO.

use std::collections::BTreeSet;

use toehold_core::Timestamp;

use crate::digest::Sha256Digest;
use crate::document::{Document, DocumentError, Format, Unsigned, Verified};
use crate::envelope::{Envelope, SignedStatement, SpecName};
use crate::keys::{TrustedKeys, VerifyingKey};
use crate::state::RootState;

/// How a root takes documents without an envelope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "each has to be named in words somewhere")]
pub enum PlainPolicy {
    /// Not at all.
    #[default]
    Refuse,
    /// With a good signature, until the first envelope comes.
    AcceptSigned,
    /// Whoever wrote them, until the first envelope comes.
    AcceptUnsigned,
}

/// What the operator said about a root.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// Whom to trust at first contact; what an envelope said since then goes before it.
    pub trusted: Option<TrustedKeys>,
    /// Which specification, at first contact; the first one otherwise.
    pub name: Option<SpecName>,
    /// The lowest serial to take, as it came with the join or the command line.
    pub min_serial: u64,
    /// How documents without an envelope are taken.
    pub plain: PlainPolicy,
    /// Keys that are known to sign envelopes: a plain document of theirs was stripped of its own.
    pub enveloped_keys: BTreeSet<VerifyingKey>,
    /// Machines lie in a root that has no memory, and that is meant: what is whole of them is taken over. A floor that is kept
    /// elsewhere counts all the same.
    pub begin_anew: bool,
    /// The clock is right now, and was wrong when a later time was seen: that one is forgotten. For one pass.
    pub trust_clock: bool,
}

/// How far above the last one a serial may be: who once gets hold of a key cannot use all numbers up.
pub const MAX_SERIAL_JUMP: u64 = 1 << 20;

/// Why a document is not taken. What is in place stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmissionError {
    /// The document itself is bad.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// There is no envelope, and this root, or the key, has seen one.
    #[error("the document has no envelope, and this root or its key has seen one: it was stripped, or is an old one")]
    Stripped,
    /// There is no envelope, and the root was not told to go without.
    #[error("the document has no envelope; a root that is to take Choria's own has to be told so (--accept-plain)")]
    PlainRefused,
    /// Nobody is trusted.
    #[error("no public key is known for this root; name one (--public-key)")]
    NoKeys,
    /// It is a list of something else.
    #[error("the document is a list of {got}, and this root takes {expected}")]
    Format {
        /// The root's.
        expected: Format,
        /// The document's.
        got: Format,
    },
    /// It is another specification's.
    #[error("the document is of the specification {got}, and this root is bound to {expected}")]
    Name {
        /// The root's.
        expected: SpecName,
        /// The document's.
        got: SpecName,
    },
    /// Not enough trusted keys signed it.
    #[error("serial {serial} is signed by {got} of the trusted keys, and {threshold} are asked for")]
    Signers {
        /// Of the document or of the key change.
        serial: u64,
        /// How many signed.
        got: usize,
        /// How many have to.
        threshold: usize,
    },
    /// It hands over to keys that have not signed themselves.
    #[error("serial {serial} hands over to other keys, of which {got} signed it, and {threshold} have to")]
    NewSigners {
        /// Of the document or of the key change.
        serial: u64,
        /// How many signed.
        got: usize,
        /// How many have to.
        threshold: usize,
    },
    /// It is an older version.
    #[error("serial {got} is below {floor}, the lowest that is taken here: this is an old document")]
    Rollback {
        /// The lowest serial that is taken.
        floor: u64,
        /// The document's.
        got: u64,
    },
    /// Another document had this serial.
    #[error("serial {0} was another document before: somebody signed two of one serial")]
    Fork(u64),
    /// The serial is far above the last one.
    #[error("serial {got} is more than {MAX_SERIAL_JUMP} above {floor}; if that is meant, name it (--min-serial)")]
    Jump {
        /// The last one.
        floor: u64,
        /// The document's.
        got: u64,
    },
    /// It does not hold yet.
    #[error("the document holds from {0} on")]
    NotYet(Timestamp),
    /// It does not hold any more, and is not the one in place.
    #[error("the document expired at {0}")]
    Expired(Timestamp),
    /// It would hold by the clock, and a time after its end has been seen.
    #[error(
        "the document expired at {expires} by the highest time that was seen here, {seen}, which this node's clock is behind; \
         if the clock was wrong then and is right now, say so once (--trust-clock)"
    )]
    ExpiredBefore {
        /// When it expired.
        expires: Timestamp,
        /// The highest time that was seen.
        seen: Timestamp,
    },
}

/// Whether what was taken still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever acts has to think of both")]
pub enum Freshness {
    /// It holds.
    Fresh,
    /// The last good one, expired: what is in place is held and mended, nothing is changed or removed.
    Stale {
        /// Since when.
        since: Timestamp,
    },
}

/// Whose word a payload is taken on.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "whoever acts has to think of both")]
pub enum Payload {
    /// Trusted keys'.
    Verified(Verified),
    /// Nobody's; the root was told so.
    Unsigned(Unsigned),
}

impl Payload {
    /// The bytes of the list. They can hold passwords.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Verified(verified) => verified.payload(),
            Self::Unsigned(unsigned) => unsigned.payload(),
        }
    }
}

/// A document that is taken.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Its list.
    pub payload: Payload,
    /// Whose signatures count: of the envelope, by the keys before it and by those after, and of the key changes that were walked.
    /// Empty without an envelope.
    pub signers: BTreeSet<VerifyingKey>,
    /// Its serial; `None` without an envelope.
    pub serial: Option<u64>,
    /// When it expires; `None` without an envelope.
    pub expires: Option<Timestamp>,
    /// Whether it still holds.
    pub freshness: Freshness,
    /// The highest time that was seen, where the document has expired by that one and not by the clock.
    pub clock_behind: Option<Timestamp>,
    /// Whether removing more than the guard allows is meant.
    pub removals_meant: bool,
    /// What the root remembers from now on. It is to be saved before anything is done on the document's word.
    pub state: RootState,
}

impl Admission {
    /// Judges a document.
    ///
    /// # Errors
    /// [`AdmissionError`]; the state stays what it was.
    pub fn admit(&self, state: &RootState, document: Document, now: Timestamp) -> Result<Admitted, AdmissionError> {
        if let Some(expected) = state.format.filter(|expected| *expected != document.format()) {
            return Err(AdmissionError::Format { expected, got: document.format() });
        }
        match document.envelope().cloned() {
            Some(envelope) => self.admit_envelope(state, document, &envelope, now),
            None => self.admit_plain(state, document, now),
        }
    }

    fn admit_plain(&self, state: &RootState, document: Document, now: Timestamp) -> Result<Admitted, AdmissionError> {
        if state.enveloped {
            return Err(AdmissionError::Stripped);
        }
        let format = document.format();
        // It says of itself of which specification it is as little as when: what the operator said is what the root is bound to.
        if let (Some(expected), Some(got)) = (&state.name, &self.name)
            && expected != got
        {
            return Err(AdmissionError::Name { expected: expected.clone(), got: got.clone() });
        }
        let payload = match self.plain {
            PlainPolicy::Refuse => return Err(AdmissionError::PlainRefused),
            PlainPolicy::AcceptSigned => {
                let trusted = self.trusted.as_ref().ok_or(AdmissionError::NoKeys)?;
                let verified = document.verify_plain(trusted)?;
                if verified.signers().iter().any(|key| self.enveloped_keys.contains(key)) {
                    return Err(AdmissionError::Stripped);
                }
                Payload::Verified(verified)
            }
            PlainPolicy::AcceptUnsigned => Payload::Unsigned(document.dangerous_without_verification()),
        };
        let mut state = state.clone();
        state.format = Some(format);
        state.name = state.name.or_else(|| self.name.clone());
        state.highest_time = state.highest_time.max(now);
        Ok(Admitted {
            payload,
            signers: BTreeSet::new(),
            serial: None,
            expires: None,
            freshness: Freshness::Fresh,
            clock_behind: None,
            removals_meant: false,
            state,
        })
    }

    fn admit_envelope(
        &self,
        state: &RootState,
        document: Document,
        envelope: &Envelope,
        now: Timestamp,
    ) -> Result<Admitted, AdmissionError> {
        // A clock that was set back does not bring an expired document back.
        let clock = now;
        let now = now.max(state.highest_time);
        let current = &envelope.current;
        let statement = current.statement();
        let expected_name = state.name.as_ref().or(self.name.as_ref()).unwrap_or(&statement.name);
        let (format, name) = (document.format(), expected_name.clone());
        if statement.payload != Sha256Digest(document.payload_digest()) {
            return Err(DocumentError::Envelope("is not about this payload").into());
        }
        self.check_place(statement, format, &name)?;

        let mut trusted = state.trusted.clone().or_else(|| self.trusted.clone()).ok_or(AdmissionError::NoKeys)?;
        let mut walked = state.serial;
        let mut signed = BTreeSet::new();
        let ahead = envelope.key_changes.iter().filter(|change| {
            let serial = change.statement().serial;
            serial > state.serial && serial < statement.serial
        });
        // The operator named the keys of some version; which one, only the changes tell. One that those keys have not signed
        // came before they counted, and whoever leaves it out changes nothing.
        let mut begun = state.trusted.is_some();
        for change in ahead {
            let step = change.statement();
            self.check_place(step, format, &name)?;
            if step.serial <= walked {
                return Err(DocumentError::Envelope("has key changes that are not in order").into());
            }
            if !begun && !change.is_signed_by(&trusted) {
                continue;
            }
            begun = true;
            // Their dates are past, as those of every document that was followed by another.
            check_signers(change, &trusted)?;
            signed.extend(change.signers(&trusted).into_iter().chain(change.signers(&step.next)));
            walked = step.serial;
            trusted = step.next.clone();
        }

        let floor = state.serial.max(self.min_serial);
        if statement.serial < floor {
            return Err(AdmissionError::Rollback { floor, got: statement.serial });
        }
        let again = statement.serial == state.serial;
        if again {
            // Its signers were checked when it came first; the keys have moved on since, if it said so.
            if state.statement != Some(current.digest()) {
                return Err(AdmissionError::Fork(statement.serial));
            }
        } else {
            check_signers(current, &trusted)?;
            if statement.serial - floor > MAX_SERIAL_JUMP {
                return Err(AdmissionError::Jump { floor, got: statement.serial });
            }
        }
        if statement.not_before > now {
            return Err(AdmissionError::NotYet(statement.not_before));
        }
        let expires = statement.expires;
        let is_over = expires <= now;
        let clock_behind = (is_over && clock < expires).then_some(now);
        match clock_behind {
            Some(seen) if !again => return Err(AdmissionError::ExpiredBefore { expires, seen }),
            None if is_over && !again => return Err(AdmissionError::Expired(expires)),
            _ => {}
        }
        let signers = if again { current.signers(&statement.next) } else { current.signers(&trusted) };
        signed.extend(signers.iter().copied().chain(current.signers(&statement.next)));
        let mut next = state.clone();
        next.name = Some(name);
        next.format = Some(format);
        next.enveloped = true;
        next.serial = statement.serial;
        next.statement = Some(current.digest());
        next.trusted = Some(statement.next.clone());
        next.highest_time = now;
        Ok(Admitted {
            signers: signed,
            serial: Some(statement.serial),
            expires: Some(statement.expires),
            clock_behind,
            freshness: if is_over { Freshness::Stale { since: statement.expires } } else { Freshness::Fresh },
            removals_meant: statement.removals_meant,
            payload: Payload::Verified(Verified { format, payload: document.into_payload(), signers }),
            state: next,
        })
    }

    fn check_place(&self, statement: &crate::envelope::Statement, format: Format, name: &SpecName) -> Result<(), AdmissionError> {
        if statement.format != format {
            return Err(AdmissionError::Format { expected: format, got: statement.format });
        }
        if statement.name != *name || self.name.as_ref().is_some_and(|named| named != name) {
            let expected = self.name.clone().filter(|named| named != name).unwrap_or_else(|| name.clone());
            return Err(AdmissionError::Name { expected, got: statement.name.clone() });
        }
        Ok(())
    }
}

/// Enough of `trusted` signed, and if it hands over, enough of the next ones did as well: else nobody could sign after it.
fn check_signers(signed: &SignedStatement, trusted: &TrustedKeys) -> Result<(), AdmissionError> {
    let statement = signed.statement();
    let got = signed.signers(trusted).len();
    if got < trusted.threshold() {
        return Err(AdmissionError::Signers { serial: statement.serial, got, threshold: trusted.threshold() });
    }
    if statement.next != *trusted {
        let got = signed.signers(&statement.next).len();
        if got < statement.next.threshold() {
            let threshold = statement.next.threshold();
            return Err(AdmissionError::NewSigners { serial: statement.serial, got, threshold });
        }
    }
    Ok(())
}
