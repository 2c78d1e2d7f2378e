//! Documents, lists, envelopes, SSH signatures, key files and the root's state: no panic, and nothing is believed that nobody signed.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use toehold_core::Timestamp;
use toehold_specsign::{
    Admission, Document, MachineList, PlainPolicy, RootState, SigningKey, SourcePolicy, TrustedKeys, VerifyingKey, pack_signed,
    sshsig,
};

/// The fuzzer does not know its private half.
static TRUSTED: LazyLock<TrustedKeys> = LazyLock::new(|| {
    let hex = "995e28e63ca9069ef19d1ff6e6dd1ae14aa6ff66a0d5d45002923dfea21d47d2";
    TrustedKeys::one(hex.parse().expect("a valid key"))
});

fuzz_target!(|bytes: &[u8]| {
    let policy = SourcePolicy { allow_http: true, allow_file: true };
    let _ = MachineList::parse(bytes, policy);
    let _ = SigningKey::from_file(bytes, None);
    let _ = RootState::load(Some(bytes), None, false);
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(key) = text.parse::<VerifyingKey>() {
            assert_eq!(key.to_string().parse(), Ok(key));
        }
        if let Ok((key, signature)) = sshsig::read(text, "file") {
            assert_eq!(sshsig::read(&sshsig::armor(&key, "file", &signature), "file"), Ok((key, signature)));
        }
    }
    let Ok(document) = Document::parse(bytes) else { return };
    // The vectors' documents are among the seeds, so that a good signature can come; a changed payload cannot.
    let admission = Admission { trusted: Some(TRUSTED.clone()), plain: PlainPolicy::AcceptSigned, ..Admission::default() };
    let now = Timestamp::from_unix_seconds(1_795_395_600);
    if let Ok(admitted) = admission.admit(&RootState::default(), document.clone(), now) {
        assert!(admitted.serial.is_none(), "nobody made an envelope with this key");
        let _ = MachineList::parse(admitted.payload.bytes(), policy);
    }
    let format = document.format();
    let unsigned = document.dangerous_without_verification();
    let _ = MachineList::parse(unsigned.payload(), policy);
    let signature = SigningKey::from_seed_hex(&"07".repeat(32)).expect("a valid seed").sign(b"");
    let again =
        Document::parse(pack_signed(format, unsigned.payload(), &signature).as_bytes()).expect("what we write we can read");
    assert_eq!(again.dangerous_without_verification(), unsigned);
});
