//! Which form of `expiry-time` a host reads, told without running anything there.

use jiff::tz::{Dst, TimeZone};
use toehold_core::{FileError, HostFiles, Timestamp};

use crate::authorized_keys::ExpiryTime;

/// Where a host says which time zone it keeps (tzfile(5)).
const ZONE_FILE: &str = "/etc/localtime";
/// Several times the largest file of the time zone database.
const MAX_ZONE_FILE: u64 = 64 * 1024;

/// How an `expiry-time` is to be written for a host.
///
/// sshd of OpenSSH 9.1 and newer reads `…Z`, which means the same instant everywhere; 7.7 to 9.0 refuse such a line and read
/// local time only, always as standard time. Which of them it is, the server says when it greets
/// ([`HostSession::software`](toehold_core::HostSession::software)); for a server that does not say, local time is written,
/// which all of them read. Local time needs the host's zone, which is read from its `/etc/localtime`. Where that is not to be
/// had (a chroot, no such file), or the server knows no expiry, there is no form, and [`HostExpiry::why_not`] says why.
///
/// A server that is given another `TZ` than its host's zone is not noticed.
#[derive(Clone, Debug)]
pub struct HostExpiry(Form);

#[derive(Clone, Debug)]
enum Form {
    Utc,
    Local(TimeZone),
    None(String),
}

/// What a server's name for itself says about `expiry-time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// OpenSSH from 9.1.
    LocalAndUtc,
    /// OpenSSH from 7.7, or a server that does not say what it is and has been seen to know the option.
    LocalOnly,
    /// OpenSSH before 7.7, or another server.
    Nothing,
}

impl HostExpiry {
    /// Finds it out: by the server's name for itself, and by the host's time zone where that matters.
    ///
    /// # Errors
    /// [`FileError::Lost`] where the connection was lost. A zone that cannot be read is no error but no form.
    pub async fn find<F: HostFiles>(software: Option<&str>, files: &mut F) -> Result<Self, FileError> {
        Ok(Self(match reads(software) {
            Reads::LocalAndUtc => Form::Utc,
            Reads::Nothing => Form::None(format!("its server ({}) knows no expiry-time", software.unwrap_or_default())),
            Reads::LocalOnly => match files.read(ZONE_FILE, MAX_ZONE_FILE).await {
                Ok(bytes) => TimeZone::tzif("host", &bytes).map_or_else(
                    |_| Form::None(format!("its server reads local time only, and its {ZONE_FILE} is no time zone")),
                    Form::Local,
                ),
                Err(error) if error.is_lost() => return Err(error),
                Err(_) => Form::None(format!("its server reads local time only, and its {ZONE_FILE} cannot be read")),
            },
        }))
    }

    /// For a host that is known to read `…Z`.
    pub fn utc() -> Self {
        Self(Form::Utc)
    }

    /// The instant as this host reads it; `None` where it reads no expiry that we could write.
    pub fn at(&self, instant: Timestamp) -> Option<ExpiryTime> {
        match &self.0 {
            Form::Utc => Some(ExpiryTime::utc(instant)),
            Form::Local(zone) => Some(ExpiryTime::local(instant, standard_offset(zone, instant)?)),
            Form::None(_) => None,
        }
    }

    /// Why there is no form, in words that follow "on this host"; `None` where there is one.
    pub fn why_not(&self) -> Option<&str> {
        match &self.0 {
            Form::None(why) => Some(why),
            _ => None,
        }
    }
}

fn reads(software: Option<&str>) -> Reads {
    let Some(software) = software else { return Reads::LocalOnly };
    let version = software.strip_prefix("OpenSSH_").and_then(|version| {
        let (major, rest) = version.split_once('.')?;
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    match version {
        Some(version) if version >= (9, 1) => Reads::LocalAndUtc,
        Some(version) if version >= (7, 7) => Reads::LocalOnly,
        _ => Reads::Nothing,
    }
}

/// Seconds east of UTC that `mktime` without summer time counts with around `instant`: those of the moment itself in standard
/// time, else of the nearest standard time before or after it.
fn standard_offset(zone: &TimeZone, instant: Timestamp) -> Option<i32> {
    let at = jiff::Timestamp::from_second(instant.unix_seconds()).ok()?;
    let here = zone.to_offset_info(at);
    if here.dst() == Dst::No {
        return Some(here.offset().seconds());
    }
    // The standard time before ends where the present summer time began, the one after begins at the next change.
    let began = zone.preceding(at).next().map(|change| change.timestamp());
    let before = began.map(|began| (at.duration_since(began), zone.to_offset_info(began - jiff::SignedDuration::from_secs(1))));
    let after =
        zone.following(at).next().map(|change| (change.timestamp().duration_since(at), zone.to_offset_info(change.timestamp())));
    let nearest = [before, after].into_iter().flatten().filter(|(_, info)| info.dst() == Dst::No).min_by_key(|(far, _)| *far);
    nearest.map(|(_, info)| info.offset().seconds())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A zone of RFC 8536 that is nothing but its footer, a `TZ` string of POSIX.
    fn zone(footer: &str) -> TimeZone {
        let mut header = b"TZif2".to_vec();
        header.extend([0; 15 + 16]);
        header.extend([0, 0, 0, 1, 0, 0, 0, 1]);
        let body = [0; 7];
        let mut bytes = [header.clone(), body.to_vec(), header, body.to_vec()].concat();
        bytes.extend(format!("\n{footer}\n").bytes());
        TimeZone::tzif("host", &bytes).unwrap()
    }

    #[test]
    fn the_version_is_read_off_the_server_s_name_for_itself() {
        for (software, form) in [
            (Some("OpenSSH_9.2p1 Debian-2+deb12u3"), Reads::LocalAndUtc),
            (Some("OpenSSH_9.1"), Reads::LocalAndUtc),
            (Some("OpenSSH_10.0p2"), Reads::LocalAndUtc),
            (Some("OpenSSH_9.0p1"), Reads::LocalOnly),
            (Some("OpenSSH_8.9p1 Ubuntu-3ubuntu0.10"), Reads::LocalOnly),
            (Some("OpenSSH_7.7"), Reads::LocalOnly),
            (Some("OpenSSH_7.4"), Reads::Nothing),
            (Some("OpenSSH_for_Windows_9.5"), Reads::Nothing),
            (Some("dropbear_2022.83"), Reads::Nothing),
            (Some("Go"), Reads::Nothing),
            (Some("OpenSSH_99999999999.1"), Reads::Nothing),
            (None, Reads::LocalOnly),
        ] {
            assert_eq!(reads(software), form, "{software:?}");
        }
    }

    #[test]
    fn o2_local_time_is_standard_time_also_in_summer() {
        let berlin = zone("CET-1CEST,M3.5.0,M10.5.0/3");
        // Looked up with GNU date: 2026-07-01T12:00:00Z and 2026-12-01T12:00:00Z.
        for seconds in [1_782_907_200, 1_796_126_400] {
            assert_eq!(standard_offset(&berlin, Timestamp::from_unix_seconds(seconds)), Some(3600));
        }
        assert_eq!(
            HostExpiry(Form::Local(berlin)).at(Timestamp::from_unix_seconds(1_782_907_200)).unwrap().as_str(),
            "20260701130000"
        );
        let south = zone("AEST-10AEDT,M10.1.0,M4.1.0/3");
        assert_eq!(standard_offset(&south, Timestamp::from_unix_seconds(1_796_126_400)), Some(36_000));
        assert_eq!(standard_offset(&zone("<-03>3"), Timestamp::from_unix_seconds(0)), Some(-10_800));
    }

    proptest! {
        #[test]
        fn no_zone_and_no_instant_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200), seconds in any::<i64>()) {
            let instant = Timestamp::from_unix_seconds(seconds);
            let _ = standard_offset(&zone("CET-1CEST,M3.5.0,M10.5.0/3"), instant);
            if let Ok(zone) = TimeZone::tzif("host", &[&b"TZif2"[..], &bytes].concat()) {
                let _ = standard_offset(&zone, instant);
            }
        }
    }
}
