//! Records out of a store that somebody else may have written: no panic, and reading is the inverse of writing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toehold_core::{
    AuditEntry, AuditWriter, CurrentMasterKey, Entry, HostProgress, HostRecord, Key, KnownHost, MasterKeyRecord, Record,
    RetiredKey, Revision, RotationRecord, SessionGlance, Stored, Timestamp,
};
use toehold_joinproto::admission::{AgentRecord, TokenRecord, UseRecord};
use toehold_masterkey::grant::GrantRecord;
use toehold_masterkey::renewal::RenewalSchedule;
use toehold_podrun::pod::PodRecord;
use toehold_session::{AccountClaim, SessionRecord};
use toehold_specsign::SlotRecord;

fuzz_target!(|bytes: &[u8]| {
    read::<AuditEntry>(bytes);
    read::<AuditWriter>(bytes);
    read::<HostRecord>(bytes);
    read::<KnownHost>(bytes);
    read::<SessionRecord>(bytes);
    read::<AccountClaim>(bytes);
    read::<MasterKeyRecord>(bytes);
    read::<CurrentMasterKey>(bytes);
    read::<RetiredKey>(bytes);
    read::<RotationRecord>(bytes);
    read::<HostProgress>(bytes);
    read::<SessionGlance>(bytes);
    read::<GrantRecord>(bytes);
    read::<RenewalSchedule>(bytes);
    read::<TokenRecord>(bytes);
    read::<UseRecord>(bytes);
    read::<AgentRecord>(bytes);
    read::<SlotRecord>(bytes);
    read::<PodRecord>(bytes);
});

fn read<T: Record + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let entry = |value: Vec<u8>| Entry {
        key: Key::parse("host/fuzz").expect("a valid key"),
        value,
        revision: Revision(1),
        written_at: Timestamp::UNIX_EPOCH,
    };
    let Ok(stored) = Stored::<T>::decode(&entry(bytes.to_vec())) else { return };
    let text = serde_json::json!({ "v": T::VERSION, "readable_from": T::READABLE_FROM });
    let mut document = text.as_object().expect("an object").clone();
    let body = serde_json::to_value(&stored.body).expect("a record can be written");
    document.extend(body.as_object().expect("a record is an object").clone());
    let written = serde_json::to_vec(&document).expect("a document can be written");
    let again = Stored::<T>::decode(&entry(written)).expect("what we write we can read");
    assert_eq!(again.body, stored.body);
}
