//! Makes a key for one hour of SFTP, prints the line for `authorized_keys`, and wipes the key.
//!
//! `cargo run -p toehold-keygen --example one_hour_key [FROM]`, where FROM is such as `192.0.2.0/24`.

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use getrandom::SysRng;
use rand_core::UnwrapErr;
use toehold_core::{SessionId, Timestamp};
use toehold_keygen::{FromPatterns, TemporaryKeyPair};

fn main() -> Result<(), Box<dyn Error>> {
    let from: Option<FromPatterns> = std::env::args().nth(1).map(|from| from.parse()).transpose()?;
    let now = Timestamp::from_unix_seconds(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?);
    let mut rng = UnwrapErr(SysRng);
    let session = SessionId::generate(&mut rng);
    let mut key = TemporaryKeyPair::generate(&mut rng, session, now, Duration::from_hours(1))?;

    println!("{}", key.authorized_keys_line(from.as_ref()));
    eprintln!("{} from {} to {}", key.public_key().fingerprint(), key.created_at(), key.expires_at());

    // Here a program would log in with `key.identity()?`. Its private half was never on a disk, and now it is nowhere.
    key.wipe();
    eprintln!("wiped: {}", key.is_wiped());
    Ok(())
}
