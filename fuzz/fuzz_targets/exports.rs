//! Exported stores and audit logs: no panic, what was read is written so that it reads the same, and any log can be verified.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use toehold_core::{AuditExport, StoreExport};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(export) = StoreExport::parse(bytes) {
        let written = export.to_bytes().expect("an export can be written");
        assert_eq!(StoreExport::parse(&written).as_ref(), Ok(&export));
    }
    let (export, is_whole) = match AuditExport::parse(bytes) {
        Ok(export) => (export, true),
        Err((Some(export), _)) => (export, false),
        Err((None, _)) => return,
    };
    let report = export.log.verify(&BTreeMap::new());
    assert!(export.log.verify(&report.sound_heads()).faults.len() == report.faults.len());
    let written = export.to_bytes().expect("an export can be written");
    let again = AuditExport::parse(&written).expect("what we write we can read");
    assert!(!is_whole || again == export);
});
