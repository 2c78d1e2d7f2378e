//! What can be wrong with an audit log.

/// Where an audit log does not hold together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {number} of {writer}: {flaw}")]
pub struct AuditFault {
    /// Whose chain.
    pub writer: String,
    /// The first entry that it is about.
    pub number: u64,
    /// In what way.
    pub flaw: AuditFlaw,
}

/// In what way an audit log does not hold together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditFlaw {
    /// A checkpoint says that the entries before were removed, and they were others.
    #[error("the entries before it are not those that the checkpoint in entry {at} of {by} says were removed")]
    CheckpointDiffers {
        /// In whose chain the checkpoint stands.
        by: String,
        /// In which entry.
        at: u64,
    },
    /// Another chain names entries that are not there.
    #[error("the chain was cut off: {by} has seen it up to entry {through}, says its entry {at}")]
    CutOff {
        /// The last entry that is missing, as far as is known.
        through: u64,
        /// Who has seen it.
        by: String,
        /// In which entry that stands.
        at: u64,
    },
    /// Another chain has seen another entry in this place.
    #[error("it is not the one that {by} has seen, says its entry {at}")]
    Differs {
        /// Who has seen it.
        by: String,
        /// In which entry that stands.
        at: u64,
    },
    /// The record says more than what its hash covers.
    #[error("its record holds something that its hash does not cover")]
    Extended,
    /// The entry says that it is another one.
    #[error("it says that it is entry {says}")]
    Misnumbered {
        /// What it says.
        says: u64,
    },
    /// Entries are not there, between others that are.
    #[error("the entries from it up to entry {through} are missing")]
    Missing {
        /// The last one that is missing.
        through: u64,
    },
    /// The chain does not begin with its first entry, and nothing says why.
    #[error("the chain begins with it, and no checkpoint says that what came before was removed")]
    NoCheckpoint,
    /// The last entry that was seen here before is another one now.
    #[error("it is not the one that was seen here before")]
    SeenDiffers,
    /// The chain was longer when it was seen here before.
    #[error("the chain was cut off: it was seen here up to entry {through}")]
    SeenMissing {
        /// The last entry that was seen.
        through: u64,
    },
    /// The last entry that was seen here before was removed with the beginning of the chain, and so were the ones that followed on it:
    /// nothing that is left is known to descend from it.
    #[error("it does not follow on entry {through}, up to which the chain was seen here, and what lay between was removed")]
    SeenRemoved {
        /// The last entry that was seen.
        through: u64,
    },
    /// Something lies below `audit` that is no place of an entry.
    #[error("\"{key}\" is no place for an entry")]
    Stray {
        /// Its key.
        key: String,
    },
    /// The entry does not carry the hash of the one before.
    #[error("it does not carry the hash of the one before")]
    Unbound,
    /// The entry cannot be read.
    #[error("{why}")]
    Unreadable {
        /// Why not.
        why: String,
    },
}
