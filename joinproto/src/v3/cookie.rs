//! The cookie: what a gateway remembers of a stranger, in the stranger's hands.

use std::fmt;
use std::net::IpAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use rand_core::CryptoRng;
use sha2::Sha256;
use toehold_core::Timestamp;
use zeroize::Zeroizing;

use super::transcript::Exporter;

/// How long a cookie is good, in seconds.
pub const COOKIE_LIFETIME: u64 = 30;
/// Bytes of a cookie: the time (u64, seconds) and an HMAC-SHA-256.
pub(crate) const COOKIE: usize = 40;

/// The keys of a gateway's cookies: the present one and the one before it. Only this process needs them; a restart makes
/// clients that are between their first two messages begin anew.
pub struct CookieKeys {
    current: Zeroizing<[u8; 32]>,
    previous: Option<Zeroizing<[u8; 32]>>,
}

impl CookieKeys {
    /// A fresh key.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut current = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *current);
        Self { current, previous: None }
    }

    /// Takes a fresh key; cookies of the one before stay good, those of the one before that do not. To be called every few minutes.
    pub fn rotate<R: CryptoRng + ?Sized>(&mut self, rng: &mut R) {
        let fresh = Self::generate(rng).current;
        self.previous = Some(std::mem::replace(&mut self.current, fresh));
    }

    /// A cookie for whoever sent this Hello over this connection.
    pub(crate) fn make(&self, exporter: &Exporter, source: IpAddr, hello: &[u8], now: Timestamp) -> [u8; COOKIE] {
        let time = now.unix_seconds().to_be_bytes();
        let tag = tag(&self.current, time, exporter, source, hello).map_or([0; 32], |tag| tag.finalize().into_bytes().into());
        let mut cookie = [0; COOKIE];
        cookie.iter_mut().zip(time.into_iter().chain(tag)).for_each(|(place, byte)| *place = byte);
        cookie
    }

    /// Whether this is a cookie of ours for this connection and Hello, and not too old.
    pub(crate) fn accept(
        &self,
        cookie: &[u8; COOKIE],
        exporter: &Exporter,
        source: IpAddr,
        hello: &[u8],
        now: Timestamp,
    ) -> bool {
        let Some((time, presented)) = cookie.split_first_chunk::<8>() else { return false };
        let age = now.unix_seconds().saturating_sub(i64::from_be_bytes(*time));
        let is_fresh = u64::try_from(age).is_ok_and(|age| age <= COOKIE_LIFETIME);
        let fits = |key: &Zeroizing<[u8; 32]>| {
            tag(key, *time, exporter, source, hello).is_some_and(|tag| tag.verify_slice(presented).is_ok())
        };
        is_fresh && (fits(&self.current) || self.previous.as_ref().is_some_and(fits))
    }
}

impl fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKeys([redacted])")
    }
}

fn tag(key: &[u8; 32], time: [u8; 8], exporter: &Exporter, source: IpAddr, hello: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(b"toehold join v3 cookie\0");
    mac.update(&time);
    mac.update(&exporter.0);
    match source.to_canonical() {
        IpAddr::V4(source) => mac.update(&source.octets()),
        // A machine may change its address within its /64.
        IpAddr::V6(source) => {
            let network = u128::from(source) >> 64;
            mac.update(&network.to_be_bytes());
        }
    }
    mac.update(hello);
    Some(mac)
}
