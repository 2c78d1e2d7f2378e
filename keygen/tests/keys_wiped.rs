//! The private half of a temporary key that was wiped is nowhere in the memory of the process.
//!
//! One test, alone in its process: it reads `/proc/self/mem`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::fs::File;
use std::io::BufRead as _;
use std::os::unix::fs::FileExt as _;

use rand_core::{TryCryptoRng, TryRng, UnwrapErr};
use toehold_core::{SessionId, Timestamp};
use toehold_keygen::{DEFAULT_LIFETIME, TemporaryKeyPair};

/// The seed is only kept with this over it, so that looking for it does not put it there.
const MASK: u8 = 0xa5;

struct Fixed([u8; 32]);

impl TryRng for Fixed {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(4)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(4)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for (byte, masked) in bytes.iter_mut().zip(self.0) {
            *byte = masked ^ MASK;
        }
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}

/// How often 16 bytes of the seed stand together in memory that can be written.
fn occurrences(masked: [u8; 32]) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = std::io::BufReader::new(File::open("/proc/self/maps").unwrap());
    let mut found = 0;
    let mut page = vec![0; 64 * 1024];
    for line in maps.lines() {
        let line = line.unwrap();
        let mut fields = line.split_ascii_whitespace();
        let (range, mode) = (fields.next().unwrap(), fields.next().unwrap());
        if !mode.starts_with("rw") {
            continue;
        }
        let (mut at, end) = range.split_once('-').map(|(start, end)| (hex(start), hex(end))).unwrap();
        while at < end {
            let length = usize::try_from((end - at).min(65_536)).unwrap();
            // A guard page or the like cannot be read.
            let Ok(read) = memory.read_at(&mut page[..length], at) else { break };
            if read == 0 {
                break;
            }
            for half in masked.chunks_exact(16) {
                found += page[..read]
                    .windows(16)
                    .filter(|window| window.iter().zip(half).all(|(byte, masked)| byte ^ MASK == *masked))
                    .count();
            }
            // What lies across the end of this piece is seen whole in the next.
            at += if read > 32 && at + (read as u64) < end { read as u64 - 31 } else { read as u64 };
        }
        page.fill(0);
    }
    found
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap()
}

#[test]
fn a_wiped_key_is_nowhere_in_memory() {
    let masked: [u8; 32] = std::array::from_fn(|n| u8::try_from(n * 7 + 13).unwrap());
    let session = SessionId::generate(&mut UnwrapErr(Fixed([MASK; 32])));
    let generate =
        || TemporaryKeyPair::generate(&mut UnwrapErr(Fixed(masked)), session, Timestamp::UNIX_EPOCH, DEFAULT_LIFETIME).unwrap();
    let mut key = generate();
    assert!(key.authorized_keys_line(None).contains("ssh-ed25519"));
    assert!(occurrences(masked) >= 2, "the key is not found even while it is there, so the search finds nothing");
    key.wipe();
    assert_eq!(occurrences(masked), 0, "after a wipe");

    // Lent for a login, sealed and brought back.
    let mut key = generate();
    drop(key.identity().unwrap());
    let sealed = key.expose_openssh().unwrap();
    let back = TemporaryKeyPair::from_parts(session, key.created_at(), key.expires_at(), &sealed).unwrap();
    assert_eq!(back.public_key(), key.public_key());
    key.wipe();
    assert!(occurrences(masked) >= 2, "the other copy is still there");
    drop((sealed, back));
    assert_eq!(occurrences(masked), 0, "after every copy was dropped");
    assert!(key.is_wiped());
}
