//! A host's file is the host's: one with as many copies of a key as it has room for costs no more than its length.

use std::time::{Duration, Instant};

use toehold_core::testing::sample_public_key;
use toehold_keygen::authorized_keys::{AuthorizedKeys, Options};

const COPIES: usize = 60_000;

/// What moves the tail of the file once for every copy moves hundreds of gigabytes here.
#[test]
fn tens_of_thousands_of_copies_of_a_key_are_edited_in_one_pass() {
    let ours = sample_public_key("ssh-ed25519", "ours");
    let (key, foreign) = (ours.to_string(), sample_public_key("ssh-ed25519", "theirs").to_string());
    let before = |n: usize| match n % 4 {
        0 => format!("no-pty  {key} copy{n}\n"),
        1 => format!("{key} copy{n}\n"),
        2 => format!("from=\"192.0.2.1\",no-pty,no-user-rc {key}\n"),
        _ => format!("no-pty {foreign} foreign{n}\n"),
    };
    let after = |n: usize| match n % 4 {
        0 => format!("restrict  {key} copy{n}\n"),
        1 => format!("restrict {key} copy{n}\n"),
        2 => format!("restrict {key}\n"),
        _ => before(n),
    };
    let bare = |n: usize| match n % 4 {
        0 | 1 => format!("{key} copy{n}\n"),
        2 => format!("{key}\n"),
        _ => before(n),
    };
    let whole = |line: &dyn Fn(usize) -> String| (0..COPIES).flat_map(|n| line(n).into_bytes()).collect::<Vec<u8>>();
    let (start, wanted, without) = (whole(&before), whole(&after), whole(&bare));

    let mut document = AuthorizedKeys::parse(start);
    let (present, looking) = timed(|| document.find(&ours).count());
    let (replaced, replacing) = timed(|| document.replace_options(&ours, &Options::new().restrict()));
    assert_eq!((present, replaced), (COPIES / 4 * 3, COPIES / 4 * 3));
    assert!(document.as_bytes() == wanted, "foreign_bytes");
    let (replaced, stripping) = timed(|| document.replace_options(&ours, &Options::new()));
    assert_eq!(replaced, COPIES / 4 * 3);
    assert!(document.as_bytes() == without, "foreign_bytes");
    assert!(replacing.max(stripping) < 100 * looking, "looking {looking:?}, replacing {replacing:?}, taking away {stripping:?}");
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let made = work();
    (made, began.elapsed())
}
