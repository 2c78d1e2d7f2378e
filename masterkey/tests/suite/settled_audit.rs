//! What an auditor reads of a healing.

use crate::support::Lab;
use toehold_core::OnUnreachable;
use toehold_masterkey::End;

#[test]
fn only_a_host_that_was_healed_is_on_the_audit_record_as_healed() {
    let mut lab = Lab::new(3);
    lab.pace.attempts = 1;
    for away in &lab.accounts[1..] {
        lab.world.fleet().switch_off(away);
    }
    let mut request = lab.request();
    request.policy.on_unreachable = OnUnreachable::Defer;
    assert_eq!(lab.rotate(request).unwrap().end, End::Done);
    lab.world.fleet().switch_on(&lab.accounts[1]);
    lab.restart().settle();
    let entries = lab.world.memory().entries();
    let audited = |what: &str, account: usize| {
        let account = lab.accounts[account].to_string();
        let says = |value: &[u8]| [what, &account].iter().all(|word| String::from_utf8_lossy(value).contains(word));
        entries.iter().filter(|entry| entry.key.as_str().starts_with("audit/") && says(&entry.value)).count()
    };
    assert_eq!((audited("rotation.host_healed", 1), audited("rotation.host_owed", 1)), (1, 0));
    assert_eq!((audited("rotation.host_healed", 2), audited("rotation.host_owed", 2)), (0, 1));
}
