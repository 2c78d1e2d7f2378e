//! The phases, each a type.

use std::sync::Mutex;

use futures_util::StreamExt as _;
use futures_util::stream;
use rand_core::CryptoRng;
use toehold_core::{Connector, Identity, Timer};
use toehold_keygen::{KeyPair, PrivateKeyError};

use super::host::{Errand, Host, Server, ServerFailure};
use crate::host::Goal;
use crate::key_store::{MasterKeyStore, MasterKeyStoreError};
use crate::request::{DEFAULT_PROVISIONAL, Pace};

/// Servers that allow the old key, which the store holds.
///
/// The new private half should be durable before this goes on: should the process die while both are allowed, whoever has
/// both keys can lead the servers on or back, and nobody else.
///
/// ```
/// # use toehold_core::testing::{World, block_on};
/// # use toehold_core::{HostKeyPolicy, Route};
/// # use toehold_masterkey::two_phase::{Server, TwoPhaseRenewal};
/// # use toehold_masterkey::{FileSystemMasterKeyStore, MasterKeyStore as _, Pace, generate_key};
/// # let mut rng = <rand_chacha::ChaCha20Rng as rand_chacha::rand_core::SeedableRng>::seed_from_u64(1);
/// # let world = World::new();
/// # let account: toehold_core::Account = "deploy@192.0.2.7".parse()?;
/// # world.fleet().add_host(&account);
/// # let directory = tempfile::tempdir()?;
/// # let store = FileSystemMasterKeyStore::new(directory.path().join("id_master"));
/// # let old = generate_key(&mut rng, "ed25519".parse()?, None)?;
/// # world.fleet().set_authorized_keys(&account, format!("{} toehold-master\n", old.public_key()).as_bytes());
/// # let (connector, timer) = (world.fleet(), world.clock());
/// # let server = Server { route: Route::direct(account), host_key: HostKeyPolicy::CallerDecides, home: None, without_expiry: false };
/// # block_on(async {
/// let new = generate_key(&mut rng, "ed25519".parse()?, None)?;
/// // State: servers allow only the old key; the old key is in the store.
/// let renewal = TwoPhaseRenewal::new(connector, timer, vec![server], &old, &new, Pace::default())?;
/// let renewal = renewal.allow_both(&mut rng).await?;
/// // State: servers allow both keys; the old key is in the store.
/// store.save(&new).await?;
/// let renewal = renewal.saved_in(&store).await.map_err(|not_saved| not_saved.to_string())?;
/// // State: servers allow both keys; the new key is in the store.
/// renewal.retire_old(&mut rng).await?;
/// // State: servers allow only the new key; the new key is in the store.
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing happens before allow_both"]
pub struct TwoPhaseRenewal<'c, C, T>(Renewal<'c, C, T>);

/// Servers that allow both keys, the new one proven by a login on each of them. The store holds the old one, as far as this
/// knows.
#[derive(Debug)]
#[must_use = "both keys stay allowed until the renewal goes on or back"]
pub struct BothAllowed<'c, C, T>(Renewal<'c, C, T>);

/// Servers that allow both keys, while the store holds the new one.
#[derive(Debug)]
#[must_use = "both keys stay allowed until the old one is retired"]
pub struct NewSaved<'c, C, T>(Renewal<'c, C, T>);

#[derive(Debug)]
struct Renewal<'c, C, T> {
    connector: &'c C,
    timer: &'c T,
    hosts: Vec<Host>,
    old: Identity,
    new: Identity,
    pace: Pace,
}

/// Not every server allows both keys. Those that could be reached are as they were.
#[derive(Debug, thiserror::Error)]
#[error("the new key could not be put on every server: {}{}", told(.failed), besides(.left))]
#[non_exhaustive]
pub struct NotAllowed {
    /// The servers because of which nothing came of it.
    pub failed: Vec<ServerFailure>,
    /// Of these and others, those that may still have a line of the new key, and why. Keep the new key until a renewal with
    /// the same two keys has gone on or back.
    pub left: Vec<ServerFailure>,
}

/// The store does not hold the new key, or cannot be asked: nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("the store is not known to hold the new key")]
#[non_exhaustive]
pub struct NotSaved<'c, C, T> {
    /// What it said; `None` where it holds another key.
    pub source: Option<MasterKeyStoreError>,
    /// The renewal as it was: save and ask again, or roll back.
    pub renewal: Box<BothAllowed<'c, C, T>>,
}

/// Not every server has been led away from the old key; the others have.
#[derive(Debug, thiserror::Error)]
#[error("the old key is not gone from every server: {}", told(.failed))]
#[non_exhaustive]
pub struct NotRetired {
    /// The servers, and why.
    pub failed: Vec<ServerFailure>,
}

impl<'c, C: Connector, T: Timer> TwoPhaseRenewal<'c, C, T> {
    /// A renewal from `old` to `new`. Nothing happens yet.
    ///
    /// # Errors
    /// [`PrivateKeyError`] for a key that cannot be written as one.
    pub fn new(
        connector: &'c C,
        timer: &'c T,
        servers: Vec<Server>,
        old: &KeyPair,
        new: &KeyPair,
        pace: Pace,
    ) -> Result<Self, PrivateKeyError> {
        Self::with(connector, timer, servers, [old, new], pace, false)
    }

    /// The same renewal once more, after a process that was at it has died: with the same two keys. Servers that have been
    /// touched are led on from where they are, and back as well.
    ///
    /// # Errors
    /// As [`TwoPhaseRenewal::new`].
    pub fn resumed(
        connector: &'c C,
        timer: &'c T,
        servers: Vec<Server>,
        old: &KeyPair,
        new: &KeyPair,
        pace: Pace,
    ) -> Result<Self, PrivateKeyError> {
        Self::with(connector, timer, servers, [old, new], pace, true)
    }

    fn with(
        connector: &'c C,
        timer: &'c T,
        servers: Vec<Server>,
        [old, new]: [&KeyPair; 2],
        pace: Pace,
        resumed: bool,
    ) -> Result<Self, PrivateKeyError> {
        let identity = |key: &KeyPair| {
            let openssh = key.to_openssh("")?;
            Ok::<_, PrivateKeyError>(Identity::PrivateKey { public_key: key.public_key().clone(), openssh })
        };
        let hosts = servers.into_iter().map(|server| Host::new(server, resumed)).collect();
        Ok(Self(Renewal { connector, timer, hosts, old: identity(old)?, new: identity(new)?, pace }))
    }

    /// Puts the new key on every server and sees it log in there.
    ///
    /// # Errors
    /// [`NotAllowed`]: a server did not come along. All that could be reached were led back; see [`NotAllowed::left`].
    pub async fn allow_both<R: CryptoRng + Send>(mut self, rng: &mut R) -> Result<BothAllowed<'c, C, T>, NotAllowed> {
        let failed = self.0.lead(Goal::Prepare, false, rng).await;
        if failed.is_empty() {
            return Ok(BothAllowed(self.0));
        }
        let left = self.0.roll_back(rng).await;
        Err(NotAllowed { failed, left })
    }

    /// The same, but for a renewal that is beyond that: there is no way back once the new key is the stored one, and a server
    /// that cannot be reached now had it then.
    pub(crate) async fn allow_both_unless<R: CryptoRng + Send>(
        self,
        is_saved: bool,
        rng: &mut R,
    ) -> Result<BothAllowed<'c, C, T>, NotAllowed> {
        if is_saved { Ok(BothAllowed(self.0)) } else { self.allow_both(rng).await }
    }
}

impl<'c, C: Connector, T: Timer> BothAllowed<'c, C, T> {
    /// Sees that the store holds the new key.
    ///
    /// # Errors
    /// [`NotSaved`], with the renewal as it was.
    pub async fn saved_in<K: MasterKeyStore>(self, store: &K) -> Result<NewSaved<'c, C, T>, NotSaved<'c, C, T>> {
        match store.load().await {
            Ok(key) if key.public_key() == self.0.new.public_key() => Ok(NewSaved(self.0)),
            Ok(_) => Err(NotSaved { source: None, renewal: Box::new(self) }),
            Err(error) => Err(NotSaved { source: Some(error), renewal: Box::new(self) }),
        }
    }

    /// Leads every server back to the old key alone.
    ///
    /// # Errors
    /// [`NotRetired`], of the new key: servers that may still have a line of it.
    pub async fn roll_back<R: CryptoRng + Send>(mut self, rng: &mut R) -> Result<(), NotRetired> {
        let failed = self.0.roll_back(rng).await;
        if failed.is_empty() { Ok(()) } else { Err(NotRetired { failed }) }
    }
}

impl<C: Connector, T: Timer> NewSaved<'_, C, T> {
    /// Takes the old key away from every server, over a login with the new one, and sees it refused.
    ///
    /// # Errors
    /// [`NotRetired`]: keep the old key, and resume with both until all have come along.
    pub async fn retire_old<R: CryptoRng + Send>(mut self, rng: &mut R) -> Result<(), NotRetired> {
        let failed = self.0.lead(Goal::Remove, false, rng).await;
        if failed.is_empty() { Ok(()) } else { Err(NotRetired { failed }) }
    }
}

impl<C: Connector, T: Timer> Renewal<'_, C, T> {
    /// Leads all servers that have been touched back to the old key; those that did not come.
    async fn roll_back<R: CryptoRng + Send>(&mut self, rng: &mut R) -> Vec<ServerFailure> {
        self.hosts.retain(|host| host.touched);
        self.hosts.iter_mut().for_each(Host::turn_back);
        self.lead(Goal::Remove, true, rng).await
    }

    /// Leads all servers; those that did not come along.
    async fn lead<R: CryptoRng + Send>(&mut self, goal: Goal, back: bool, rng: &mut R) -> Vec<ServerFailure> {
        let identities = if back { [&self.old, &self.new] } else { [&self.new, &self.old] };
        let errand = &Errand {
            connector: self.connector,
            timer: self.timer,
            pace: self.pace,
            provisional: DEFAULT_PROVISIONAL,
            identities,
        };
        let rng = &Mutex::new(rng);
        let leading = self.hosts.iter_mut().map(|host| host.lead(errand, goal, rng));
        let results: Vec<_> = stream::iter(leading).buffer_unordered(self.pace.concurrency.max(1)).collect().await;
        let mut failed: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        failed.sort_by(|one, other| one.account.cmp(&other.account));
        failed
    }
}

fn told(failures: &[ServerFailure]) -> String {
    failures.iter().map(|failure| format!("{} ({})", failure.account, failure.reason)).collect::<Vec<_>>().join(", ")
}

fn besides(left: &[ServerFailure]) -> String {
    if left.is_empty() { "; all of them are as they were".to_owned() } else { format!("; still to be led back: {}", told(left)) }
}
