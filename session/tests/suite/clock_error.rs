//! How far a host's clock is off is measured and said.

use crate::support::{Home, Lab, Paste};
use toehold_core::testing::CallKind;
use toehold_session::End;

#[test]
fn o2_the_clock_error_is_told_once() {
    for skew in [0, 90, -240] {
        for home in [Home::Foreign, Home::Managed] {
            let lab = Lab::new(home);
            lab.world.fleet().configure(&lab.account, |settings| settings.clock_skew = skew);
            let hands = lab.hands(Paste::AtOnce);
            let outcome = lab.onboard(lab.request(), &mut hands.clone()).unwrap().unwrap();
            assert_eq!(outcome.end, End::Completed);
            assert_eq!(hands.clock_errors(), [skew], "{home:?}");
        }
    }
}

#[test]
fn o2_the_clock_error_is_told_where_it_is_undone_as_well() {
    let lab = Lab::new(Home::Foreign);
    lab.world.fleet().configure(&lab.account, |settings| settings.clock_skew = 33);
    let hands = lab.hands(Paste::FailedAfter);
    let outcome = lab.onboard(lab.request(), &mut hands.clone()).unwrap().unwrap();
    assert_eq!(outcome.end, End::Failed);
    assert_eq!(hands.clock_errors(), [33]);
}

/// The host is certain, and its clock far behind: the line in the command is good there for longer than five minutes past its end.
#[test]
fn o2_a_session_is_not_closed_while_its_line_would_still_be_taken_by_the_hosts_clock() {
    for (skew, later) in [(0, 0), (-240, 0), (-900, 600)] {
        let lab = Lab::new(Home::Managed);
        lab.world.fleet().configure(&lab.account, |settings| settings.clock_skew = skew);
        lab.knows_host_key(lab.host_key());
        let knocks = lab.call(Paste::AtOnce, |call| call.kind == CallKind::LogIn);
        let record = lab.crash(lab.request(), &mut lab.hands(Paste::Never), knocks);
        lab.pass_the_end(&record);
        if later > 0 {
            lab.recover_to(record.id, End::Orphaned);
            lab.advance(later - 1);
            lab.recover_to(record.id, End::Orphaned);
            lab.advance(1);
        }
        lab.recover_to(record.id, End::Failed);
    }
}
