//! The gateways with their clients: what the code itself does next, and what is so in a state.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use toehold_core::testing::{ManualClock, MemoryStore, block_on, run_until_stalled};
use toehold_core::{Entry, Key, Record, Revision, Stored};
use toehold_joinproto::admission::{AgentRecord, Desk, DeskError, Holder, NewToken, OpniJoin, OpniRequest, UseRecord};
use toehold_joinproto::agreement::{Ephemeral, Side};
use toehold_joinproto::keyring::SharedKeys;
use toehold_joinproto::token::Token;
use toehold_joinproto::v3::{AgentIdentity, Conversation, Ended, Turn};
use toehold_joinproto::wire::AuthRequestV2;

use super::PROBE;
use super::tape::{Question, Tape, Value, Values};
use super::world::{Cell, Kind, Outcome, Progress, Talk, World};
use crate::support::lab;
use crate::support::lab::{Lab, LabDesk, OpenVault, channel, identity, pins, rng, source, start};

/// A client's part of one attempt, which is the same whatever the store has answered.
#[derive(Debug)]
pub(super) struct Attempt {
    /// v3: Hello, Offer, Proof, Confirm.
    pub(super) frames: Vec<Vec<u8>>,
    /// What is stored of the agent names the attempt that its keys are of.
    pub(super) name: String,
    pub(super) keys: SharedKeys,
}

pub(super) struct Gateways {
    pub(super) for_opni: bool,
    /// By client: who it says that it is, and how often it tries.
    pub(super) clients: Vec<(&'static str, u8)>,
    pub(super) ids: Vec<String>,
    pub(super) agent_keys: Vec<Key>,
    pub(super) holders: Vec<Holder>,
    pub(super) token: Token,
    pub(super) uses: u32,
    pub(super) crashes: u8,
    pub(super) acts: u8,
    pub(super) first: World,
    pub(super) attempts: HashMap<(usize, u8), Attempt>,
    pub(super) values: Arc<Mutex<Values>>,
    pub(super) known: Mutex<HashMap<Talk, Progress>>,
    pub(super) agents: Mutex<HashMap<Value, AgentRecord>>,
    pub(super) held: Mutex<HashMap<Value, UseRecord>>,
}

fn seed(client: usize, attempt: u8) -> u64 {
    10 + 16 * client as u64 + u64::from(attempt)
}

fn who(client: usize) -> AgentIdentity {
    identity(u8::try_from(client + 1).unwrap())
}

impl Gateways {
    pub(super) fn new(new: NewToken, clients: &[(&'static str, u8)], crashes: u8, acts: u8) -> Self {
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
    fn v3_attempt(lab: &Lab<MemoryStore>, token: &Token, client: usize, seed: u64) -> Attempt {
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

    fn opni_attempt(lab: &Lab<MemoryStore>, token: &Token, id: &str, seed: u64) -> Attempt {
        let keys = block_on(lab::join_opni(&lab.desk, token, id, seed)).unwrap();
        let agent = block_on(lab.desk.agent(id)).unwrap().unwrap();
        Attempt { frames: Vec::new(), name: agent.attempt.unwrap(), keys }
    }

    /// The client's id.
    fn id(&self, client: usize) -> &str {
        &self.ids[client]
    }

    /// Leads a gateway to where it is, and sees what it does there.
    pub(super) fn progress(&self, talk: &Talk) -> Progress {
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

    pub(super) fn begin(&self, world: &mut World, kind: Kind, client: usize, gateway: usize, attempt: u8) {
        world.talks.push(Talk { kind, client, gateway, attempt, confirmed: false, replies: Vec::new() });
        self.settle(world, world.talks.len() - 1);
        world.talks.sort_by_key(|talk| (talk.client, talk.attempt, talk.kind as u8));
    }

    /// One call to the store, and what follows from it.
    pub(super) fn step(&self, world: &mut World, place: usize) {
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
    fn read<T: Record + Clone>(&self, value: Value, read: &Mutex<HashMap<Value, T>>) -> T {
        let read = &mut *read.lock().unwrap();
        let decoded = read.entry(value).or_insert_with(|| {
            let bytes = self.values.lock().unwrap().bytes[value as usize].clone();
            let key = Key::new(["token", "of-the-model"]).unwrap();
            Stored::decode(&Entry { key, value: bytes, revision: Revision(1), written_at: start() }).unwrap().body
        });
        decoded.clone()
    }

    pub(super) fn agent(&self, world: &World, client: usize) -> Option<AgentRecord> {
        Some(self.read(world.store.get(&self.agent_keys[client])?.value?, &self.agents))
    }

    pub(super) fn uses(&self, world: &World) -> Vec<UseRecord> {
        let cells = world.store.iter().filter(|(key, _)| key.segments().count() == 3);
        cells.filter_map(|(_, cell)| Some(self.read(cell.value?, &self.held))).collect()
    }

    /// How many uses a client holds.
    pub(super) fn held(&self, world: &World, client: usize) -> usize {
        let holder = &self.holders[client];
        self.uses(world).iter().filter(|found| found.held.as_ref().is_some_and(|held| held.holder == *holder)).count()
    }

    /// Clients by their ids.
    pub(super) fn ids(&self) -> Vec<usize> {
        let mut ids = BTreeMap::new();
        for client in 0..self.clients.len() {
            ids.entry(self.clients[client].0).or_insert(client);
        }
        ids.into_values().collect()
    }

    /// Whether a client that holds a use can complete its join from here, undisturbed.
    pub(super) fn can_complete(&self, world: &World, client: usize) -> bool {
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

    pub(super) fn has_rivals(&self) -> bool {
        self.ids().len() < self.clients.len()
    }

    pub(super) fn has_joined(world: &World, client: usize) -> bool {
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
