//! Onboards a simulated host, crashes in the middle, and recovers: nothing to install, nothing to set up.

use std::error::Error;
use std::future::pending;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::testing::{CallKind, Crashing, ManualClock, MemoryStore, Moment, SimulatedFleet, World};
use toehold_core::testing::{sample_identity, sample_public_key};
use toehold_core::{Account, Fingerprint, KeyRole, ManagedKey, Route, StoreAudit};
use toehold_keygen::install::InstallCommand;
use toehold_session::{HostKeyCheck, Installed, NoSealer, Onboarder, Operator, Pace, Progress, Request, SessionRecord, list};

/// Somebody who pastes the command as soon as it is shown.
struct Hands(SimulatedFleet);

impl Operator for Hands {
    async fn install(&mut self, record: &SessionRecord, _: &InstallCommand<'_>) -> Result<Installed, String> {
        println!("session {} is on record; its key ends at {}", record.id, record.expires_at);
        let end = record.expires_at.strftime("%Y%m%d%H%M%SZ");
        let line = format!("restrict,command=\"internal-sftp\",expiry-time=\"{end}\" {}", record.temporary_key);
        self.0.append_line(&record.route.account, line);
        Ok(Installed::Shown)
    }

    async fn is_right_host_key(&mut self, _: &Route, _: Fingerprint) -> bool {
        false
    }

    fn progress(&mut self, progress: Progress) {
        println!("  {progress:?}");
    }

    async fn wants_out(&mut self) {
        pending::<()>().await;
    }

    fn is_leaving(&self) -> bool {
        false
    }
}

type Memory =
    Onboarder<Crashing<MemoryStore>, SimulatedFleet, Crashing<ManualClock>, StoreAudit<Crashing<MemoryStore>>, NoSealer>;

fn process(world: &World) -> Memory {
    let (store, connector, timer) = (world.store(), world.fleet().clone(), world.timer());
    let audit = StoreAudit::new(world.store(), "example");
    Onboarder { store, connector, timer, audit, sealer: NoSealer, pace: Pace::default() }
}

fn main() -> Result<(), Box<dyn Error>> {
    let account: Account = "deploy@web1.example.net".parse()?;
    let master = sample_identity(&sample_public_key("ssh-ed25519", "the fleet's master key"));
    let onboard = |world: &World| {
        world.fleet().add_host(&account);
        let (role, public_key, comment) = (KeyRole::Master, master.public_key().clone(), "toehold-master".to_owned());
        let mut request = Request::new(account.clone(), ManagedKey { role, public_key, options: String::new(), comment });
        request.host_key_check = HostKeyCheck::AcceptNew;
        let (mut rng, mut hands) = (ChaCha20Rng::from_seed([7; 32]), Hands(world.fleet().clone()));
        world.run(process(world).onboard(request, &master, &mut rng, &mut hands))
    };

    let good = World::new();
    println!("ended: {:?}\n", onboard(&good).ok_or("stalled")??.end);

    // The same once more, and the process dies right after the managed lines are on the host.
    let world = World::new();
    let adds = good.faults().log().into_iter().find(|call| call.kind == CallKind::Rename).ok_or("nothing was added")?;
    world.faults().crash_at(adds.number, Moment::After);
    println!("died: {}\n", onboard(&world).is_none());

    let world = world.restart();
    let open = world.run(list(&world.store())).ok_or("stalled")??.remove(0)?;
    let (mut rng, mut hands) = (ChaCha20Rng::from_seed([8; 32]), Hands(world.fleet().clone()));
    let outcome = world.run(process(&world).recover(open.id, &master, &mut rng, &mut hands)).ok_or("stalled")??;
    println!("{} was {}, and is {}", open.id, open.status, outcome.record.status);
    print!("{}", String::from_utf8(world.fleet().authorized_keys(&account))?);
    Ok(())
}
