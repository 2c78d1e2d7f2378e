//! Durations as the seed writes them: Go's `1m30s`, or a number of nanoseconds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A length of time, written as Go writes it (`60s`, `1m30s`, `1.5h`, `250ms`); a bare number is nanoseconds, as in Go's JSON.
/// Never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

/// A text that is not a length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a duration such as 60s, 1m30s or 250ms")]
pub struct DurationError(String);

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || DurationError(text.chars().take(64).collect());
        if text == "0" {
            return Ok(Self::default());
        }
        if text.is_empty() || text.len() > 64 {
            return Err(error());
        }
        let (mut rest, mut total) = (text, 0_u64);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
            let (number, tail) = rest.split_at(digits);
            let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let (_, nanoseconds) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
            let part = scaled(number, *nanoseconds).ok_or_else(error)?;
            total = total.checked_add(part).ok_or_else(error)?;
            rest = tail;
        }
        Ok(Self(Duration::from_nanos(total)))
    }
}

/// A decimal number of units in nanoseconds; what is smaller than one is dropped.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        total = total.checked_add(u64::from(digit - b'0').checked_mul(place)?)?;
    }
    Some(total)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if nanoseconds == 0 {
            return f.write_str("0s");
        }
        let mut rest = nanoseconds;
        for (unit, length) in UNITS.iter().rev().filter(|(unit, _)| unit.is_ascii()) {
            if rest / length > 0 {
                write!(f, "{}{unit}", rest / length)?;
                rest %= length;
            }
        }
        Ok(())
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl Visitor<'_> for Form {
            type Value = GoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 60s, or a number of nanoseconds")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<GoDuration, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, nanoseconds: u64) -> Result<GoDuration, E> {
                Ok(GoDuration(Duration::from_nanos(nanoseconds)))
            }

            fn visit_i64<E: serde::de::Error>(self, nanoseconds: i64) -> Result<GoDuration, E> {
                let nanoseconds = u64::try_from(nanoseconds).map_err(|_| E::custom("a duration is never negative"))?;
                Ok(GoDuration(Duration::from_nanos(nanoseconds)))
            }
        }

        deserializer.deserialize_any(Form).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("60s", 60_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("250ms", 250_000_000),
            ("0", 0),
            (".5s", 500_000_000),
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap().0.as_nanos(), nanoseconds, "{text}");
        }
        for bad in ["", "60", "-1s", "1 s", "s", "1.2.3s", ".s", "1d", "99999999999999999999h", "9999999999999h"] {
            assert!(bad.parse::<GoDuration>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn printed_and_read_back(nanoseconds in any::<u64>()) {
            let duration = GoDuration(Duration::from_nanos(nanoseconds));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,40}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
