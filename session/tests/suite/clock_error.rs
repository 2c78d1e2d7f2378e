//! How far a host's clock is off is measured and said.

use crate::support::{Home, Lab, Paste};
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
