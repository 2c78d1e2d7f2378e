//! All interleavings of three clients, two gateways, a crash of one of them and an operator, on the gateway's own [`Desk`]: every call that
//! it makes to the store is a step, and between any two of them anybody else may act, or the gateway may die.
//!
//! What a gateway is at is known from what the store has answered it so far: for each step it is led there again, by the same answers, and
//! then asked what it wants next.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex};

use crate::support::lab;
use crate::support::lab::{Lab, LabDesk, OpenVault, channel, identity, new_token, opni_token, pins, rng, source, start};
use stateright::{Checker as _, Model, Property};
use toehold_core::testing::{ManualClock, block_on, run_until_stalled};
use toehold_core::{Entry, Expect, Key, Revision, Store, StoreError, Stored, Watch};
use toehold_joinproto::admission::{
    AgentRecord, AgentState, Desk, DeskError, Holder, NewToken, OpniJoin, OpniRequest, Refusal, UseRecord,
};
use toehold_joinproto::agreement::{Ephemeral, Side};
use toehold_joinproto::keyring::SharedKeys;
use toehold_joinproto::token::Token;
use toehold_joinproto::v3::{Conversation, Ended, Turn};
use toehold_joinproto::wire::AuthRequestV2;

const GATEWAYS: usize = 2;
/// A try that is made to see whether one would succeed.
const PROBE: u8 = 9;

/// A value of the store, by its number.
type Value = u32;

/// What a gateway asks of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Question {
    Get(Key),
    List(Key),
    Put(Key, Vec<u8>, Option<u64>),
    Delete(Key, u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Reply {
    Found(Option<(u64, Value)>),
    Listed(Vec<(Key, u64, Value)>),
    Written(u64),
    Conflict,
}

/// Numbers for values, so that a state is small.
#[derive(Debug, Default)]
struct Values {
    numbers: HashMap<Vec<u8>, Value>,
    bytes: Vec<Vec<u8>>,
}

impl Values {
    fn number(&mut self, bytes: &[u8]) -> Value {
        if let Some(number) = self.numbers.get(bytes) {
            return *number;
        }
        let number = Value::try_from(self.bytes.len()).unwrap();
        self.numbers.insert(bytes.to_vec(), number);
        self.bytes.push(bytes.to_vec());
        number
    }
}

/// Gives the answers that it has, and then keeps the next question.
#[derive(Clone, Debug)]
struct Tape {
    values: Arc<Mutex<Values>>,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    asked: Arc<Mutex<Option<Question>>>,
}

impl Tape {
    async fn ask(&self, question: Question) -> Reply {
        let reply = self.replies.lock().unwrap().pop_front();
        if let Some(reply) = reply {
            return reply;
        }
        *self.asked.lock().unwrap() = Some(question);
        pending().await
    }

    fn entry(&self, key: &Key, revision: u64, value: Value) -> Entry {
        let value = self.values.lock().unwrap().bytes[value as usize].clone();
        Entry { key: key.clone(), value, revision: Revision(revision), written_at: start() }
    }

    async fn write(&self, key: &Key, question: Question) -> Result<Revision, StoreError> {
        match self.ask(question).await {
            Reply::Written(revision) => Ok(Revision(revision)),
            Reply::Conflict => Err(StoreError::Conflict { key: key.clone() }),
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Debug)]
struct NoWatch;

impl Watch for NoWatch {
    async fn changed(&mut self) -> Result<Key, StoreError> {
        pending().await
    }
}

impl Store for Tape {
    type Watch = NoWatch;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        match self.ask(Question::Get(key.clone())).await {
            Reply::Found(found) => Ok(found.map(|(revision, value)| self.entry(key, revision, value))),
            other => panic!("{other:?}"),
        }
    }

    async fn put(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
        let expect = match expect {
            Expect::Absent => None,
            Expect::Revision(revision) => Some(revision.0),
        };
        self.write(key, Question::Put(key.clone(), value.to_vec(), expect)).await
    }

    async fn delete(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
        self.write(key, Question::Delete(key.clone(), revision.0)).await.map(drop)
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        match self.ask(Question::List(prefix.clone())).await {
            Reply::Listed(listed) => {
                Ok(listed.into_iter().map(|(key, revision, value)| self.entry(&key, revision, value)).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    async fn kinds(&self) -> Result<Vec<Key>, StoreError> {
        panic!("admission works with tokens and agents alone")
    }

    async fn watch(&self, _: &Key) -> Result<NoWatch, StoreError> {
        Ok(NoWatch)
    }

    fn max_value(&self) -> usize {
        1024 * 1024
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Join,
    /// An agent of Opni's shows that it has its keys.
    Authenticate,
    Remove,
    Revoke,
}

/// Somebody is at work with a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Talk {
    kind: Kind,
    client: usize,
    gateway: usize,
    attempt: u8,
    /// v3: the client has been accepted, and its confirmation has been sent.
    confirmed: bool,
    replies: Vec<Reply>,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Asks(Question),
    /// v3: accepted, and the client's turn.
    AwaitsConfirm,
    Ends(Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    /// Told to come again.
    Again,
    /// An agent of Opni's has its answer, and has yet to show its keys.
    Answered,
    Joined,
    Refused(String),
    /// The operator's work is done.
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Cell {
    /// Grows also over a deletion.
    revision: u64,
    value: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct World {
    store: BTreeMap<Key, Cell>,
    /// In the order of their clients, attempts and kinds. One that its client has given up may still go on at its gateway.
    talks: Vec<Talk>,
    /// How often each client has begun.
    attempts: Vec<u8>,
    /// What each client was told of its latest attempt.
    told: Vec<Option<Outcome>>,
    crashes: u8,
    acts: u8,
    revoked: bool,
    removed: Option<usize>,
    /// By client: whether its latest attempt was confirmed when the token had been revoked.
    late: Vec<bool>,
}

impl World {
    /// The store as it is for everybody.
    fn answer(&mut self, question: &Question, values: &Mutex<Values>) -> Reply {
        let found = |cell: Option<&Cell>| cell.and_then(|cell| cell.value.map(|value| (cell.revision, value)));
        match question {
            Question::Get(key) => Reply::Found(found(self.store.get(key))),
            Question::List(prefix) => {
                let below = self.store.iter().filter(|(key, _)| key.is_below(prefix));
                Reply::Listed(
                    below.filter_map(|(key, cell)| found(Some(cell)).map(|(r, value)| (key.clone(), r, value))).collect(),
                )
            }
            Question::Put(key, bytes, expect) => {
                let number = values.lock().unwrap().number(bytes);
                self.write(key, *expect, Some(number))
            }
            Question::Delete(key, revision) => self.write(key, Some(*revision), None),
        }
    }

    fn write(&mut self, key: &Key, expect: Option<u64>, value: Option<Value>) -> Reply {
        let cell = self.store.entry(key.clone()).or_insert(Cell { revision: 0, value: None });
        if cell.value.map(|_| cell.revision) != expect {
            return Reply::Conflict;
        }
        *cell = Cell { revision: cell.revision + 1, value };
        Reply::Written(cell.revision)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    Authenticate { client: usize },
    Begin { client: usize, gateway: usize },
    Crash { gateway: usize },
    Remove { client: usize },
    Revoke,
    Step { place: usize },
}

/// A client's part of one attempt, which is the same whatever the store has answered.
#[derive(Debug)]
struct Attempt {
    /// v3: Hello, Offer, Proof, Confirm.
    frames: Vec<Vec<u8>>,
    /// What is stored of the agent names the attempt that its keys are of.
    name: String,
    keys: SharedKeys,
}

struct Gateways {
    for_opni: bool,
    /// By client: who it says that it is, and how often it tries.
    clients: Vec<(&'static str, u8)>,
    ids: Vec<String>,
    agent_keys: Vec<Key>,
    holders: Vec<Holder>,
    token: Token,
    uses: u32,
    crashes: u8,
    acts: u8,
    first: World,
    attempts: HashMap<(usize, u8), Attempt>,
    values: Arc<Mutex<Values>>,
    known: Mutex<HashMap<Talk, Progress>>,
    agents: Mutex<HashMap<Value, AgentRecord>>,
    held: Mutex<HashMap<Value, UseRecord>>,
}

fn seed(client: usize, attempt: u8) -> u64 {
    10 + 16 * client as u64 + u64::from(attempt)
}

fn who(client: usize) -> toehold_joinproto::v3::AgentIdentity {
    identity(u8::try_from(client + 1).unwrap())
}

impl Gateways {
    fn new(new: NewToken, clients: &[(&'static str, u8)], crashes: u8, acts: u8) -> Self {
        let lab = Lab::new();
        let (for_opni, uses) = (new.for_opni, new.uses);
        let token = lab.token(new, 1);
        let values: Arc<Mutex<Values>> = Arc::default();
        let entry = lab.desk.store.entries().remove(0);
        let value = Some(values.lock().unwrap().number(&entry.value));
        let first = World {
            store: [(entry.key.clone(), Cell { revision: 1, value })].into(),
            attempts: vec![0; clients.len()],
            told: vec![None; clients.len()],
            late: vec![false; clients.len()],
            crashes,
            acts,
            ..World::default()
        };
        let clients = clients.to_vec();
        let mut attempts = HashMap::new();
        for (client, (id, tries)) in clients.iter().enumerate() {
            for attempt in (1..=*tries).chain([PROBE]) {
                lab.desk.store.restore(vec![entry.clone()]);
                let made = if for_opni {
                    Self::opni_attempt(&lab, &token, id, seed(client, attempt))
                } else {
                    Self::v3_attempt(&lab, &token, client, seed(client, attempt))
                };
                attempts.insert((client, attempt), made);
            }
        }
        let keys =
            (0..clients.len()).map(|client| if for_opni { clients[client].0.to_owned() } else { who(client).id().to_string() });
        let ids: Vec<String> = keys.collect();
        let agent_keys = ids.iter().map(|id| Key::new(["agent", id]).unwrap()).collect();
        let holder = |client: usize| {
            if for_opni {
                return Holder::Id { id: ids[client].clone(), capability: None };
            }
            Holder::Key(who(client).public_key().iter().map(|byte| format!("{byte:02x}")).collect())
        };
        let holders = (0..clients.len()).map(holder).collect();
        let (known, agents, held) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self {
            for_opni,
            clients,
            ids,
            agent_keys,
            holders,
            token,
            uses,
            crashes,
            acts,
            first,
            attempts,
            values,
            known,
            agents,
            held,
        }
    }

    /// One that nothing disturbs.
    fn v3_attempt(lab: &Lab<toehold_core::testing::MemoryStore>, token: &Token, client: usize, seed: u64) -> Attempt {
        let mut frames = Vec::new();
        let keep = |number: usize, frame: &mut Vec<u8>| {
            if number.is_multiple_of(2) {
                frames.push(frame.clone());
            }
        };
        let (joined, _) = block_on(lab.converse(token, &who(client), seed, keep));
        let joined = joined.unwrap();
        let agent = block_on(lab.desk.agent(&joined.id.to_string())).unwrap().unwrap();
        let keys = joined.keyring.shared_keys.into_iter().next().unwrap();
        Attempt { frames, name: agent.attempt.unwrap(), keys }
    }

    fn opni_attempt(lab: &Lab<toehold_core::testing::MemoryStore>, token: &Token, id: &str, seed: u64) -> Attempt {
        let keys = block_on(lab::join_opni(&lab.desk, token, id, seed)).unwrap();
        let agent = block_on(lab.desk.agent(id)).unwrap().unwrap();
        Attempt { frames: Vec::new(), name: agent.attempt.unwrap(), keys }
    }

    /// The client's id.
    fn id(&self, client: usize) -> &str {
        &self.ids[client]
    }

    /// Leads a gateway to where it is, and sees what it does there.
    fn progress(&self, talk: &Talk) -> Progress {
        if let Some(known) = self.known.lock().unwrap().get(talk) {
            return known.clone();
        }
        let store = Tape {
            values: Arc::clone(&self.values),
            replies: Arc::new(Mutex::new(talk.replies.iter().cloned().collect())),
            asked: Arc::default(),
        };
        let asked = Arc::clone(&store.asked);
        let desk: LabDesk<Tape> = Desk::new(store, ManualClock::new(start()), OpenVault);
        let ended = match talk.kind {
            Kind::Join if self.for_opni => run_until_stalled(self.opni_join(&desk, talk)),
            Kind::Join => run_until_stalled(self.v3_join(desk, talk)),
            Kind::Authenticate => run_until_stalled(self.authenticate(&desk, talk)),
            Kind::Remove => run_until_stalled(async {
                match desk.remove_agent(self.id(talk.client)).await {
                    Ok(()) => Progress::Ends(Outcome::Done),
                    // It was only kept, and has been given back.
                    Err(DeskError::Unknown) => Progress::Ends(Outcome::Again),
                    Err(error) => panic!("{error:?}"),
                }
            }),
            Kind::Revoke => run_until_stalled(async {
                match desk.revoke(self.token.id()).await {
                    Ok(uses) => assert_eq!(uses.revoked, self.uses),
                    Err(error) => panic!("{error:?}"),
                }
                Progress::Ends(Outcome::Done)
            }),
        };
        let progress = ended.unwrap_or_else(|| Progress::Asks(asked.lock().unwrap().take().expect("it waits for nothing")));
        self.known.lock().unwrap().insert(talk.clone(), progress.clone());
        progress
    }

    async fn v3_join(&self, desk: LabDesk<Tape>, talk: &Talk) -> Progress {
        let clock = desk.clock.clone();
        let lab = Lab::at(desk.store.clone(), clock);
        let seed = seed(talk.client, talk.attempt);
        let mut conversation = Conversation::new(channel(u8::try_from(seed % 251).unwrap()));
        let mut rng = rng(seed + 1_000_000);
        let frames = &self.attempts[&(talk.client, talk.attempt)].frames;
        for (number, frame) in frames.iter().enumerate() {
            if number == 3 && !talk.confirmed {
                return Progress::AwaitsConfirm;
            }
            match conversation.receive(&lab.gateway, &desk, &pins(), frame, &mut rng).await {
                Turn::Answer(_) => {}
                Turn::Last(_, Ended::Joined(_)) => return Progress::Ends(Outcome::Joined),
                Turn::Last(_, Ended::Refused(error)) => return Progress::Ends(said(&error)),
                Turn::Last(_, ended) => panic!("{ended:?}"),
            }
        }
        panic!("the conversation has no end")
    }

    async fn opni_join(&self, desk: &LabDesk<Tape>, talk: &Talk) -> Progress {
        let seed = seed(talk.client, talk.attempt);
        let ephemeral = Ephemeral::generate(&mut rng(seed));
        let request = OpniRequest::V2(AuthRequestV2 {
            client_id: self.id(talk.client).to_owned(),
            client_key: *ephemeral.public(),
            friendly_name: None,
        });
        let join = OpniJoin { token: &self.token, request: &request, source: source() };
        Progress::Ends(match desk.join_opni(join, &mut rng(seed + 1_000_000)).await {
            Ok(response) => {
                let keys = ephemeral.derive(Side::Client, &response.gateway_key).unwrap();
                assert_eq!(keys, self.attempts[&(talk.client, talk.attempt)].keys);
                Outcome::Answered
            }
            Err(error) => said(&error),
        })
    }

    async fn authenticate(&self, desk: &LabDesk<Tape>, talk: &Talk) -> Progress {
        let known = desk.keys(self.id(talk.client)).await.unwrap();
        let own = &self.attempts[&(talk.client, talk.attempt)].keys;
        let Some(place) = known.keys().iter().position(|keys| keys == own) else { return Progress::Ends(Outcome::Again) };
        Progress::Ends(match desk.confirm(&known, place).await {
            Ok(()) => Outcome::Joined,
            Err(error) => said(&error),
        })
    }

    fn begin(&self, world: &mut World, kind: Kind, client: usize, gateway: usize, attempt: u8) {
        world.talks.push(Talk { kind, client, gateway, attempt, confirmed: false, replies: Vec::new() });
        self.settle(world, world.talks.len() - 1);
        world.talks.sort_by_key(|talk| (talk.client, talk.attempt, talk.kind as u8));
    }

    /// One call to the store, and what follows from it.
    fn step(&self, world: &mut World, place: usize) {
        match self.progress(&world.talks[place]) {
            Progress::AwaitsConfirm => {
                world.talks[place].confirmed = true;
                world.late[world.talks[place].client] = world.revoked;
            }
            Progress::Asks(question) => {
                let reply = world.answer(&question, &self.values);
                world.talks[place].replies.push(reply);
            }
            Progress::Ends(outcome) => panic!("{outcome:?}"),
        }
        self.settle(world, place);
    }

    /// Whether nobody else has to do with what stands under this client's id: it tries once, and is taken away by nobody.
    fn is_alone(&self, client: usize) -> bool {
        self.acts == 0 && self.clients[client].1 == 1 && self.ids.iter().filter(|id| **id == self.ids[client]).count() == 1
    }

    /// What nobody can come in between of, or nobody would see: the token never changes, what has ended has, and what one client alone reads and
    /// writes makes no difference to others.
    fn settle(&self, world: &mut World, place: usize) {
        loop {
            let talk = &world.talks[place];
            match self.progress(talk) {
                Progress::Asks(question) if is_of_token(&question) || self.is_own(&question, talk.client) => {
                    let reply = world.answer(&question, &self.values);
                    world.talks[place].replies.push(reply);
                }
                Progress::AwaitsConfirm if self.is_alone(talk.client) => world.talks[place].confirmed = true,
                Progress::Ends(outcome) => {
                    let talk = world.talks.remove(place);
                    return Self::ended(world, &talk, outcome);
                }
                _ => return,
            }
        }
    }

    fn is_own(&self, question: &Question, client: usize) -> bool {
        let (Question::Get(key) | Question::Put(key, ..) | Question::Delete(key, _)) = question else { return false };
        self.is_alone(client) && *key == self.agent_keys[client]
    }

    fn ended(world: &mut World, talk: &Talk, outcome: Outcome) {
        match talk.kind {
            Kind::Remove => world.removed = (outcome == Outcome::Done).then_some(talk.client),
            Kind::Revoke => world.revoked = true,
            // A client listens to its latest attempt alone.
            Kind::Authenticate | Kind::Join if talk.attempt == world.attempts[talk.client] => {
                world.told[talk.client] = Some(outcome);
            }
            Kind::Authenticate | Kind::Join => {}
        }
    }

    /// What a value is; it is read once.
    fn read<T: toehold_core::Record + Clone>(&self, value: Value, read: &Mutex<HashMap<Value, T>>) -> T {
        let read = &mut *read.lock().unwrap();
        let decoded = read.entry(value).or_insert_with(|| {
            let bytes = self.values.lock().unwrap().bytes[value as usize].clone();
            let key = Key::new(["token", "of-the-model"]).unwrap();
            Stored::decode(&Entry { key, value: bytes, revision: Revision(1), written_at: start() }).unwrap().body
        });
        decoded.clone()
    }

    fn agent(&self, world: &World, client: usize) -> Option<AgentRecord> {
        Some(self.read(world.store.get(&self.agent_keys[client])?.value?, &self.agents))
    }

    fn uses(&self, world: &World) -> Vec<UseRecord> {
        let cells = world.store.iter().filter(|(key, _)| key.segments().count() == 3);
        cells.filter_map(|(_, cell)| Some(self.read(cell.value?, &self.held))).collect()
    }

    /// How many uses a client holds.
    fn held(&self, world: &World, client: usize) -> usize {
        let holder = &self.holders[client];
        self.uses(world).iter().filter(|found| found.held.as_ref().is_some_and(|held| held.holder == *holder)).count()
    }

    /// Clients by their ids.
    fn ids(&self) -> Vec<usize> {
        let mut ids = BTreeMap::new();
        for client in 0..self.clients.len() {
            ids.entry(self.clients[client].0).or_insert(client);
        }
        ids.into_values().collect()
    }

    /// Whether a client that holds a use can complete its join from here, undisturbed.
    fn can_complete(&self, world: &World, client: usize) -> bool {
        let mut world = World { talks: Vec::new(), ..world.clone() };
        world.attempts[client] = PROBE;
        for kind in [Kind::Join, Kind::Authenticate] {
            self.begin(&mut world, kind, client, 0, PROBE);
            while !world.talks.is_empty() {
                self.step(&mut world, 0);
            }
            match &world.told[client] {
                Some(Outcome::Joined) => return true,
                Some(Outcome::Answered) => {}
                _ => return false,
            }
        }
        false
    }

    fn has_rivals(&self) -> bool {
        self.ids().len() < self.clients.len()
    }

    fn has_joined(world: &World, client: usize) -> bool {
        world.told[client] == Some(Outcome::Joined)
    }
}

fn is_of_token(question: &Question) -> bool {
    matches!(question, Question::Get(key) if key.segments().next() == Some("token") && key.segments().count() == 2)
}

fn said(error: &DeskError) -> Outcome {
    match error {
        DeskError::Refused(refusal) => Outcome::Refused(refusal.to_string()),
        DeskError::Superseded | DeskError::Unknown => Outcome::Again,
        error => panic!("{error:?}"),
    }
}

impl Model for Gateways {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.first.clone()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for client in 0..self.clients.len() {
            // A client that was told that it has joined is content; one whose answer is lost begins anew.
            if world.attempts[client] < self.clients[client].1 && !Self::has_joined(world, client) {
                // Without loss: clients that differ in nothing but their names come in their order, and so do gateways.
                if self.clients[client].1 == 1 && (1..client).any(|before| world.attempts[before] == 0) && !self.has_rivals() {
                    continue;
                }
                let gateways = if client == 0 && world.attempts[0] == 0 { 0..1 } else { 0..GATEWAYS };
                actions.extend(gateways.map(|gateway| Action::Begin { client, gateway }));
            }
            let is_at_it = || world.talks.iter().any(|talk| (talk.kind, talk.client) == (Kind::Authenticate, client));
            if world.told[client] == Some(Outcome::Answered) && !is_at_it() {
                actions.push(Action::Authenticate { client });
            }
            if world.acts > 0 && self.agent(world, client).is_some_and(|agent| agent.state != AgentState::Removed) {
                actions.push(Action::Remove { client });
            }
        }
        for (place, talk) in world.talks.iter().enumerate() {
            // A client confirms the attempt that it is at, and none that it has given up.
            let is_given_up = talk.kind == Kind::Join && talk.attempt != world.attempts[talk.client];
            if !(is_given_up && self.progress(talk) == Progress::AwaitsConfirm) {
                actions.push(Action::Step { place });
            }
        }
        if world.crashes > 0 {
            actions.extend((0..GATEWAYS).map(|gateway| Action::Crash { gateway }));
        }
        if world.acts > 0 {
            actions.push(Action::Revoke);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        match action {
            Action::Authenticate { client } => {
                let attempt = world.attempts[client];
                self.begin(&mut world, Kind::Authenticate, client, 0, attempt);
            }
            Action::Begin { client, gateway } => {
                world.attempts[client] += 1;
                world.told[client] = None;
                world.late[client] = false;
                let attempt = world.attempts[client];
                self.begin(&mut world, Kind::Join, client, gateway, attempt);
            }
            Action::Crash { gateway } => {
                world.crashes -= 1;
                world.talks.retain(|talk| talk.gateway != gateway);
            }
            Action::Remove { client } => {
                world.acts -= 1;
                self.begin(&mut world, Kind::Remove, client, GATEWAYS, 0);
            }
            Action::Revoke => {
                world.acts -= 1;
                self.begin(&mut world, Kind::Revoke, 0, GATEWAYS, 0);
            }
            Action::Step { place } => self.step(&mut world, place),
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "no use is doubled: a client holds one, and there are no more than the token's",
                |model: &Gateways, world: &World| {
                    let held: Vec<usize> = model.ids().into_iter().map(|client| model.held(world, client)).collect();
                    held.iter().all(|held| *held <= 1) && held.iter().sum::<usize>() <= model.uses as usize
                },
            ),
            Property::always("an agent is there only for who holds a use", |model: &Gateways, world: &World| {
                model.ids().into_iter().all(|client| {
                    let agent = model.agent(world, client);
                    let is_there = agent.is_some_and(|agent| matches!(agent.state, AgentState::Joined | AgentState::Pending));
                    !is_there || model.held(world, client) == 1
                })
            }),
            Property::always("who was told that it joined has the keys that are stored", |model: &Gateways, world: &World| {
                (0..model.clients.len()).filter(|client| Self::has_joined(world, *client)).all(|client| {
                    let attempt = &model.attempts[&(client, world.attempts[client])];
                    model.agent(world, client).is_some_and(|agent| {
                        let is_own = agent.state == AgentState::Joined && agent.attempt.as_ref() == Some(&attempt.name);
                        is_own || agent.state == AgentState::Removed && world.acts < model.acts
                    })
                })
            }),
            Property::always(
                "no use is lost: its holder can complete the join, unless it has joined or the operator took it away",
                |model: &Gateways, world: &World| {
                    let is_over = |client| {
                        let has_joined = model.agent(world, client).is_some_and(|agent| agent.state == AgentState::Joined);
                        // v3's own machine may come again with its key; an id of Opni's is somebody's once its keys were shown.
                        model.for_opni && has_joined
                    };
                    world.acts < model.acts
                        || model
                            .ids()
                            .into_iter()
                            .all(|client| model.held(world, client) == 0 || is_over(client) || model.can_complete(world, client))
                },
            ),
            Property::always("who is refused leaves no trace", |model: &Gateways, world: &World| {
                // A gateway that dies may leave an id that is only kept.
                !world.talks.is_empty()
                    || world.crashes < model.crashes
                    || model
                        .ids()
                        .into_iter()
                        .all(|client| model.agent(world, client).is_none_or(|agent| agent.state != AgentState::Reserved))
            }),
            Property::always("what the operator takes away stays away", |model: &Gateways, world: &World| {
                let is_removed = |client| model.agent(world, client).is_some_and(|agent| agent.state == AgentState::Removed);
                (!world.revoked
                    || model.uses(world).iter().filter(|found| found.revoked_at.is_some()).count() == model.uses as usize)
                    && world.removed.is_none_or(is_removed)
            }),
            Property::always("who confirms after the revocation does not join", |model: &Gateways, world: &World| {
                (0..model.clients.len()).all(|client| !(world.late[client] && Self::has_joined(world, client)))
            }),
            Property::sometimes("everybody who may has joined", |model: &Gateways, world: &World| {
                (0..model.clients.len()).filter(|client| Self::has_joined(world, *client)).count()
                    == (model.uses as usize).min(model.ids().len())
            }),
            Property::sometimes(
                "a client completes with its second try what a crash broke off",
                |model: &Gateways, world: &World| {
                    let tries = model.clients[0].1;
                    model.crashes == 0
                        || tries < 2
                        || world.crashes == 0 && world.attempts[0] == tries && Self::has_joined(world, 0)
                },
            ),
            Property::sometimes("somebody comes too late", |model: &Gateways, world: &World| {
                let late = [Refusal::Exhausted, Refusal::IdTaken, Refusal::Revoked, Refusal::Removed];
                let late = late.map(|refusal| Some(Outcome::Refused(refusal.to_string())));
                model.uses as usize >= model.clients.len() || world.told.iter().any(|told| late.contains(told))
            }),
        ]
    }
}

fn check(model: Gateways) -> usize {
    let begun = std::time::Instant::now();
    let checker = model.checker().threads(1).spawn_dfs().join();
    checker.assert_properties();
    println!("{} states in {:?}", checker.unique_state_count(), begun.elapsed());
    checker.unique_state_count()
}

fn of_uses(new: NewToken, uses: u32) -> NewToken {
    NewToken { uses, ..new }
}

const THREE: [(&str, u8); 3] = [("a", 2), ("b", 1), ("c", 1)];

#[test]
fn one_use_exactly_in_every_interleaving_of_three_clients_two_gateways_and_a_crash() {
    assert!(check(Gateways::new(new_token(), &THREE, 1, 0)) > 1_000);
}

#[test]
fn one_use_exactly_in_every_interleaving_with_two_uses() {
    assert!(check(Gateways::new(of_uses(new_token(), 2), &THREE, 1, 0)) > 1_000);
}

#[test]
fn j2_in_every_interleaving_what_the_operator_takes_away_stays_away() {
    assert!(check(Gateways::new(new_token(), &[("a", 2), ("b", 1)], 0, 1)) > 1_000);
}

#[test]
fn one_use_exactly_in_every_interleaving_of_opni_agents_that_are_pending() {
    assert!(check(Gateways::new(opni_token(), &THREE, 1, 0)) > 1_000);
}

#[test]
fn one_use_exactly_in_every_interleaving_of_opni_agents_that_say_that_they_are_the_same() {
    assert!(check(Gateways::new(opni_token(), &[("a", 2), ("a", 1)], 0, 0)) > 1_000);
    assert!(check(Gateways::new(opni_token(), &[("a", 1), ("a", 1)], 1, 0)) > 1_000);
}

#[test]
fn j2_in_every_interleaving_a_removed_opni_agent_stays_away() {
    assert!(check(Gateways::new(opni_token(), &[("a", 2)], 0, 1)) > 1_000);
    assert!(check(Gateways::new(opni_token(), &[("a", 1), ("b", 1)], 0, 1)) > 1_000);
}
