//! What the fuzzers of documents begin with: envelopes, key changes and SSH signatures, none of which a fuzzer finds by itself. Made here, and
//! as they are made now: `TOEHOLD_WRITE_SEEDS=1` writes them.

use std::fs;
use std::path::Path;

use toehold_core::Timestamp;
use toehold_specsign::{Document, Envelope, Format, Scheme, SignedStatement, SigningKey, Statement, TrustedKeys, seal, sshsig};

use crate::spec_support::machines::key;

const PAYLOAD: &[u8] = b"[]";

/// Signed by both, one of them as SSH signs.
fn signed(serial: u64, by: &SigningKey, next: &SigningKey) -> SignedStatement {
    let at = Timestamp::from_unix_seconds;
    let (from, to) = (at(1_795_000_000), at(1_796_000_000));
    let keys = TrustedKeys::one(next.verifying_key());
    let statement = Statement::new(Format::Machines, "fleet".parse().unwrap(), serial, from, to, PAYLOAD, keys);
    let signed = SignedStatement::unsigned(statement).unwrap().sign(by);
    let signature = next.sign(&signed.signing_bytes(Scheme::SshSig));
    signed.with_signature(next.verifying_key(), signature, Scheme::SshSig)
}

#[test]
fn fuzzing_of_documents_begins_with_envelopes_and_signatures() {
    let (first, second) = (key(1), key(2));
    let change = signed(1, &first, &second);
    let current = signed(2, &second, &second);
    let envelope = Envelope { current: current.clone(), key_changes: vec![change] };
    let document = seal(PAYLOAD, &envelope, Some(&first.sign(PAYLOAD))).unwrap();
    assert!(Document::parse(document.as_bytes()).unwrap().envelope().is_some());
    // In the namespace that the fuzzer asks for.
    let armored = sshsig::sign(&first, "file", b"a file");
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    if !seeds.is_dir() {
        println!("these sources came without the fuzzers");
        return;
    }
    for (seed, content) in [
        ("spec_document/envelope", document.as_bytes()),
        ("spec_document/ssh_signature", armored.as_bytes()),
        ("spec_document/public_key", first.verifying_key().to_string().as_bytes()),
        ("spec_statement/statement", current.bytes()),
    ] {
        let file = seeds.join(seed);
        if std::env::var_os("TOEHOLD_WRITE_SEEDS").is_some() {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, content).unwrap();
        }
        assert!(fs::read(&file).unwrap() == content, "{seed} is not what is made now");
    }
    // A key file, which holds what is random.
    assert!(SigningKey::from_file(&fs::read(seeds.join("spec_document/openssh_key")).unwrap(), None).is_ok());
}
