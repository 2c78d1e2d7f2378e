//! A simulated host whose files are replaced.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "each test uses some of it")]

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::testing::{Moment, SimulatedFiles, SimulatedSession, World, block_on, sample_identity, sample_public_key};
use toehold_core::{Account, Connector as _, HostFiles as _, HostKeyPolicy, HostSession as _, Login, PublicKey, Route, Source};
use toehold_keygen::authorized_keys::{AuthorizedKeys, Line, Options};
use toehold_keygen::replacement::{Action, Event, IfEmpty, KeyFile, Plan, ReplaceError, Replaced, Replacement, replace};

pub const FILE: &str = ".ssh/authorized_keys";
pub const SECOND: &str = ".ssh/authorized_keys2";
pub const LOCK: &str = ".ssh/authorized_keys.toehold-lock";

/// What somebody else has in the file: with every way in which it can be odd, and no line feed at its end.
pub const FOREIGN: &[u8] =
    b"# the owner's\r\n\nfrom=\"a, b\",x=\"\\\"\" ssh-rsa AAAAB3NzaC1yc2E= \xff\xfe\0\nssh-ed25519 AAAA owner";

pub fn account() -> Account {
    "ops@192.0.2.7".parse().unwrap()
}

pub fn key(name: &str) -> PublicKey {
    sample_public_key("ssh-ed25519", name)
}

pub fn line(name: &str) -> Line {
    Line::new(Options::new().restrict(), key(name), name).unwrap()
}

/// A host whose account has this file, and takes any key for a login, so that the file need not.
pub fn host(file: Option<&[u8]>) -> World {
    let world = World::new();
    world.fleet().add_host(&account());
    world.fleet().configure(&account(), |settings| settings.accept_any_key = true);
    world.fleet().make_directory(&account(), ".ssh", 0o700);
    if let Some(bytes) = file {
        world.fleet().write_file(&account(), FILE, bytes, 0o640);
    }
    world
}

/// A connection of the process that `world` stands for. It does not count as one of its calls.
pub fn connect(world: &World) -> SimulatedSession {
    let identity = sample_identity(&key("login"));
    let route = Route::direct(account());
    let login = Login { route: &route, identity: &identity, host_key: &HostKeyPolicy::CallerDecides, query: None };
    block_on(world.fleet().log_in(&login)).unwrap()
}

pub fn plan(holder: &str, seed: u64) -> Plan {
    Plan::new(&mut ChaCha20Rng::seed_from_u64(seed), ".", holder).unwrap()
}

pub fn add(name: &str) -> impl FnMut(KeyFile, &mut AuthorizedKeys) -> Result<(), Source> + Send + use<> {
    let line = line(name);
    move |_, document| {
        let _ = document.add(&line);
        Ok(())
    }
}

pub fn remove(name: &str) -> impl FnMut(KeyFile, &mut AuthorizedKeys) -> Result<(), Source> + Send + use<> {
    let key = key(name);
    move |_, document| {
        document.remove(&key);
        Ok(())
    }
}

/// Adds the line named `name` in a new process with its own connection.
pub fn add_now(world: &World, holder: &str, seed: u64, name: &str) -> Result<Replaced, ReplaceError> {
    let mut session = connect(&world.restart());
    block_on(replace(session.files(), &plan(holder, seed), add(name)))
}

/// The bytes with the lines added.
pub fn with(file: &[u8], names: &[&str]) -> Vec<u8> {
    let mut document = AuthorizedKeys::parse(file.to_vec());
    for name in names {
        let _ = document.add(&line(name));
    }
    document.into_bytes()
}

pub fn file(world: &World, path: &str) -> Option<Vec<u8>> {
    world.fleet().file(&account(), path).map(|file| file.content)
}

/// What is in `.ssh` besides the files that belong there.
pub fn litter(world: &World) -> Vec<String> {
    let inside = |path: String| path.strip_prefix("/home/ops/.ssh/").map(str::to_owned);
    let names = world.fleet().tree(&account()).into_iter().filter_map(|entry| inside(entry.path));
    names.filter(|name| name != "authorized_keys" && name != "authorized_keys2").collect()
}

/// What is done to a document.
pub type Edit = Box<dyn FnMut(KeyFile, &mut AuthorizedKeys) -> Result<(), Source> + Send>;

/// A replacement that is done step by step.
pub struct Stepper {
    pub machine: Replacement,
    session: SimulatedSession,
    edit: Edit,
}

impl Stepper {
    pub fn new(
        world: &World,
        plan: Plan,
        edit: impl FnMut(KeyFile, &mut AuthorizedKeys) -> Result<(), Source> + Send + 'static,
    ) -> Self {
        let mut session = connect(world);
        let machine = Replacement::new(plan, session.files().capabilities());
        Self { machine, session, edit: Box::new(edit) }
    }

    /// Does what is to be done next; `false` where that is nothing.
    pub fn step(&mut self) -> bool {
        match perform(self.machine.action(), self.session.files(), &mut self.edit) {
            Some(event) => self.machine.handle(event),
            None => return false,
        }
        true
    }

    /// Does up to `count` steps.
    pub fn steps(&mut self, count: usize) {
        (0..count).all(|_| self.step());
    }

    pub fn finish(mut self) -> Result<Replaced, ReplaceError> {
        while self.step() {}
        self.machine.into_result()
    }
}

fn perform(action: Action<'_>, files: &mut SimulatedFiles, edit: &mut Edit) -> Option<Event> {
    Some(match action {
        Action::RealPath(path) => Event::RealPath(block_on(files.real_path(path))),
        Action::Stat(path) => Event::Stat(block_on(files.stat(path))),
        Action::Read { path, limit } => Event::Read(block_on(files.read(path, limit))),
        Action::Stage { path, content, mode } => Event::Done(block_on(files.stage(path, content, mode))),
        Action::Sync(path) => Event::Done(block_on(files.sync(path))),
        Action::Rename { from, to } => Event::Done(block_on(files.rename(from, to))),
        Action::Remove(path) => Event::Done(block_on(files.remove(path))),
        Action::List(path) => Event::Listed(block_on(files.list(path))),
        Action::Edit { file, document } => Event::Edited(edit(file, document)),
        Action::Finish => return None,
    })
}

/// A replacement to be broken in every way: what is there before, what is done, and what has to be there after.
pub struct Scenario {
    pub name: &'static str,
    pub world: fn() -> World,
    pub plan: fn(Plan) -> Plan,
    pub edit: fn() -> Edit,
    /// The two files before and after.
    pub before: [Option<Vec<u8>>; 2],
    pub after: [Option<Vec<u8>>; 2],
}

impl Scenario {
    pub async fn run(&self, world: &World, holder: &str, seed: u64) -> Result<Replaced, ReplaceError> {
        let mut session = connect(world);
        replace(session.files(), &(self.plan)(plan(holder, seed)), (self.edit)()).await
    }

    /// Whether each file is the old or the new one, and which it is.
    pub fn is_old_or_new(&self, world: &World) -> bool {
        [FILE, SECOND].iter().zip(self.before.iter().zip(&self.after)).all(|(path, (before, after))| {
            let now = file(world, path);
            now == *before || now == *after
        })
    }

    pub fn is_old(&self, world: &World) -> bool {
        [file(world, FILE), file(world, SECOND)] == self.before
    }

    pub fn is_new(&self, world: &World) -> bool {
        [file(world, FILE), file(world, SECOND)] == self.after
    }
}

/// A lock that a holder who died eleven minutes ago has left, and what it had staged.
pub fn leave_stale_lock(world: &World, holder: &str) {
    let mut stepper = Stepper::new(&world.restart(), plan(holder, 99), add("never"));
    while !litter(world).iter().any(|name| name.contains(".toehold-dead")) {
        assert!(stepper.step());
    }
    world.clock().advance(std::time::Duration::from_mins(11));
}

pub fn scenarios() -> Vec<Scenario> {
    let foreign = || Some(FOREIGN.to_vec());
    let both = || Some(with(FOREIGN, &["a", "b"]));
    vec![
        Scenario {
            name: "adding to a file",
            world: || host(Some(FOREIGN)),
            plan: |plan| plan,
            edit: || Box::new(add("a")),
            before: [foreign(), None],
            after: [Some(with(FOREIGN, &["a"])), None],
        },
        Scenario {
            name: "adding where there is no file",
            world: || host(None),
            plan: |plan| plan,
            edit: || Box::new(add("a")),
            before: [None, None],
            after: [Some(with(b"", &["a"])), None],
        },
        Scenario {
            name: "removing from both files",
            world: || {
                let world = host(Some(&with(FOREIGN, &["a", "b"])));
                world.fleet().write_file(&account(), SECOND, with(FOREIGN, &["a", "b"]), 0o600);
                world
            },
            plan: Plan::also_second_file,
            edit: || Box::new(remove("a")),
            before: [both(), both()],
            after: [Some(with(FOREIGN, &["b"])), Some(with(FOREIGN, &["b"]))],
        },
        Scenario {
            name: "removing the last line and the file",
            world: || host(Some(&with(b"", &["a"]))),
            plan: |plan| plan.if_empty(IfEmpty::Remove),
            edit: || Box::new(remove("a")),
            before: [Some(with(b"", &["a"])), None],
            after: [None, None],
        },
        Scenario {
            name: "taking over from somebody who died",
            world: || {
                let world = host(Some(FOREIGN));
                leave_stale_lock(&world, "dead");
                world
            },
            plan: |plan| plan,
            edit: || Box::new(add("a")),
            before: [foreign(), None],
            after: [Some(with(FOREIGN, &["a"])), None],
        },
    ]
}

/// All ways in which a process can die at a call.
pub const MOMENTS: [Moment; 3] = [Moment::Before, Moment::After, Moment::Late];
