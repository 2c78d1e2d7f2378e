//! A node in memory: a root that can lose power at any call, a server of archives, a health command, a clock.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test program uses its part"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use toehold_core::testing::{ManualClock, block_on};
use toehold_specsign::{
    Admission, Attributes, Body, Document, Envelope, FetchError, Fetcher, Governors, Health, KnownFacts, Limits, MachineName,
    MachineRoot, ManagedMachine, NoGovernors, PassError, Place, Reconciler, Report, RootState, Settings, Sha256Digest,
    SignedStatement, SourcePolicy, StateCopy, Statement, Traces, TreeEntry, TreePath, TreeVisitor, UnpackSink, VerifyingKey,
    seal,
};

use crate::envelope_support::{at, key, keys};
use crate::support::{Member, file, gzip, machine_archive, tar};

/// A directory: paths with content and mode; `None` for directories.
pub type Dir = BTreeMap<String, Option<(Vec<u8>, u32)>>;

/// When the power goes in relation to what a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Before,
    After,
    /// A written copy of the state is half there.
    Middle,
}

type Watch = Box<dyn Fn(&BTreeMap<(Place, String), Dir>) + Send>;

#[derive(Default)]
pub struct Disk {
    pub copies: [Option<Vec<u8>>; 2],
    pub journal: Option<Vec<u8>>,
    pub document: Option<Vec<u8>>,
    /// What is kept outside of the root.
    pub floor: Option<Vec<u8>>,
    /// Bytes of state, journal and documents that were written.
    pub written: usize,
    pub places: BTreeMap<(Place, String), Dir>,
    pub trash: Vec<Dir>,
    pub log: Vec<String>,
    cut: Option<(usize, Cut)>,
    pub dead: bool,
    pub broken: BTreeSet<(Place, String)>,
    /// Machines that cannot be moved away from their places.
    pub busy: BTreeSet<String>,
    /// Right after a call, somebody puts a directory into a machine's place.
    pub squatter: Option<(String, String, Dir)>,
    /// Keys that are known, outside of the root, to sign envelopes.
    pub signers: BTreeSet<VerifyingKey>,
    /// Files that belong to somebody else.
    pub foreign: BTreeSet<String>,
    watch: Option<Watch>,
}

#[derive(Clone, Default)]
pub struct SimulatedRoot(pub Arc<Mutex<Disk>>);

impl SimulatedRoot {
    fn step<T>(&self, what: String, effect: impl FnOnce(&mut Disk, bool) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.0.lock().unwrap();
        if disk.dead {
            return Err(io::Error::other("the power is gone"));
        }
        let number = disk.log.len();
        disk.log.push(what);
        let cut = disk.cut.filter(|(at, _)| *at == number).map(|(_, cut)| cut);
        disk.dead = cut.is_some();
        if cut == Some(Cut::Before) {
            return Err(io::Error::other("the power is gone"));
        }
        let result = effect(&mut disk, cut == Some(Cut::Middle));
        if disk.squatter.as_ref().is_some_and(|(call, ..)| disk.log.last() == Some(call))
            && let Some((_, name, dir)) = disk.squatter.take()
        {
            disk.places.insert((Place::Live, name), dir);
        }
        if let Some(watch) = disk.watch.take() {
            watch(&disk.places);
            disk.watch = Some(watch);
        }
        if disk.dead { Err(io::Error::other("the power is gone")) } else { result }
    }

    pub fn calls(&self) -> usize {
        self.0.lock().unwrap().log.len()
    }

    /// The power goes at a call; `None`: it is there, and calls are counted anew.
    pub fn cut_at(&self, cut: Option<(usize, Cut)>) {
        let mut disk = self.0.lock().unwrap();
        (disk.cut, disk.dead) = (cut, false);
        disk.log.clear();
    }

    pub fn live(&self, name: &str) -> Option<Dir> {
        self.0.lock().unwrap().places.get(&(Place::Live, name.to_owned())).cloned()
    }

    pub fn put(&self, place: Place, name: &str, dir: Option<Dir>) {
        let mut disk = self.0.lock().unwrap();
        match dir {
            Some(dir) => _ = disk.places.insert((place, name.to_owned()), dir),
            None => _ = disk.places.remove(&(place, name.to_owned())),
        }
    }

    /// Called after every effect, as somebody who reads all the time would see it.
    pub fn watch(&self, watch: impl Fn(&BTreeMap<(Place, String), Dir>) + Send + 'static) {
        self.0.lock().unwrap().watch = Some(Box::new(watch));
    }

    pub fn state(&self) -> RootState {
        let disk = self.0.lock().unwrap();
        let mut state = RootState::load(disk.copies[0].as_deref(), disk.copies[1].as_deref(), true).unwrap().unwrap().state;
        state.replay(disk.journal.as_deref().unwrap_or_default()).unwrap();
        state
    }

    /// The same disk without what belongs to a run.
    pub fn copy(&self) -> Self {
        let disk = self.0.lock().unwrap();
        let (copies, journal, document) = (disk.copies.clone(), disk.journal.clone(), disk.document.clone());
        let (floor, places) = (disk.floor.clone(), disk.places.clone());
        let signers = disk.signers.clone();
        Self(Arc::new(Mutex::new(Disk { copies, journal, document, floor, places, signers, ..Disk::default() })))
    }
}

fn place_key(place: Place, name: &MachineName) -> (Place, String) {
    (place, name.to_string())
}

fn is_free(disk: &Disk, name: &MachineName, places: &[Place]) -> io::Result<()> {
    let busy = places.contains(&Place::Live) && disk.busy.contains(name.as_str());
    if busy { Err(io::Error::from(io::ErrorKind::ResourceBusy)) } else { Ok(()) }
}

pub struct Stage(SimulatedRoot, String, Option<String>);

impl Stage {
    fn with(&self, what: String, effect: impl FnOnce(&mut Dir) -> io::Result<()>) -> io::Result<()> {
        self.0.step(what, |disk, _| effect(disk.places.get_mut(&(Place::Staged, self.1.clone())).unwrap()))
    }
}

impl UnpackSink for Stage {
    fn directory(&mut self, path: &TreePath) -> io::Result<()> {
        self.with(format!("mkdir {path}"), |dir| {
            dir.insert(path.to_string(), None);
            Ok(())
        })
    }

    fn begin_file(&mut self, path: &TreePath, executable: bool) -> io::Result<()> {
        self.2 = Some(path.to_string());
        self.with(format!("create {path}"), |dir| {
            dir.insert(path.to_string(), Some((Vec::new(), if executable { 0o755 } else { 0o644 })));
            Ok(())
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let path = self.2.clone().unwrap();
        self.with(format!("write {path}"), |dir| {
            dir.get_mut(&path).unwrap().as_mut().unwrap().0.extend_from_slice(bytes);
            Ok(())
        })
    }

    fn end_file(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MachineRoot for SimulatedRoot {
    type Stage = Stage;

    fn traces(&mut self) -> io::Result<Traces> {
        self.step("traces".to_owned(), |disk, _| {
            let own = disk.copies != [None, None] || disk.journal.is_some() || disk.document.is_some();
            if own || disk.places.keys().any(|(place, _)| *place != Place::Live) {
                return Ok(Traces::Own);
            }
            let machines = disk.places.values().any(|dir| dir.contains_key("SHA256SUMS"));
            Ok(if machines { Traces::Machines } else { Traces::None })
        })
    }

    fn read_state(&mut self, copy: StateCopy) -> io::Result<Option<Vec<u8>>> {
        self.step(format!("read {copy:?}"), |disk, _| Ok(disk.copies[usize::from(copy == StateCopy::Second)].clone()))
    }

    fn write_state(&mut self, copy: StateCopy, bytes: &[u8]) -> io::Result<()> {
        self.step(format!("write {copy:?}"), |disk, half| {
            let bytes = if half { &bytes[..bytes.len() / 2] } else { bytes };
            disk.copies[usize::from(copy == StateCopy::Second)] = Some(bytes.to_vec());
            disk.written += bytes.len();
            Ok(())
        })
    }

    fn read_journal(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.step("read the journal".to_owned(), |disk, _| Ok(disk.journal.clone()))
    }

    fn append_journal(&mut self, line: &[u8]) -> io::Result<()> {
        self.step("write the journal".to_owned(), |disk, half| {
            let line = if half { &line[..line.len() / 2] } else { line };
            disk.journal.get_or_insert_default().extend_from_slice(line);
            disk.written += line.len();
            Ok(())
        })
    }

    fn clear_journal(&mut self) -> io::Result<()> {
        self.step("clear the journal".to_owned(), |disk, _| {
            disk.journal = None;
            Ok(())
        })
    }

    fn read_floor(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.step("read the floor".to_owned(), |disk, _| Ok(disk.floor.clone()))
    }

    fn write_floor(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.step("keep the floor".to_owned(), |disk, _| {
            disk.floor = Some(bytes.to_vec());
            Ok(())
        })
    }

    fn note_signers(&mut self, keys: &BTreeSet<VerifyingKey>) -> io::Result<()> {
        if keys.iter().all(|key| self.0.lock().unwrap().signers.contains(key)) {
            return Ok(());
        }
        self.step("note who signed".to_owned(), |disk, _| {
            disk.signers.extend(keys);
            Ok(())
        })
    }

    fn read_document(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.step("read the document".to_owned(), |disk, _| Ok(disk.document.clone()))
    }

    fn write_document(&mut self, bytes: &[u8]) -> io::Result<()> {
        // In one step: half of it is never there.
        self.step("keep the document".to_owned(), |disk, _| {
            disk.document = Some(bytes.to_vec());
            disk.written += bytes.len();
            Ok(())
        })
    }

    fn exists(&mut self, place: Place, name: &MachineName) -> io::Result<bool> {
        self.step(format!("exists {place:?} {name}"), |disk, _| Ok(disk.places.contains_key(&place_key(place, name))))
    }

    fn inspect(&mut self, place: Place, name: &MachineName, visitor: &mut dyn TreeVisitor) -> io::Result<bool> {
        self.step(format!("inspect {place:?} {name}"), |disk, _| {
            if disk.broken.contains(&place_key(place, name)) {
                return Err(io::Error::other("input/output error"));
            }
            let Some(dir) = disk.places.get(&place_key(place, name)) else { return Ok(false) };
            for (path, entry) in dir {
                match entry {
                    None => visitor.entry(path.as_bytes(), TreeEntry::Directory, Attributes::ours(0o755))?,
                    Some((_, 0)) => visitor.entry(path.as_bytes(), TreeEntry::Other, Attributes::ours(0o777))?,
                    Some((content, mode)) => {
                        let attributes = Attributes { mode: *mode, foreign: disk.foreign.contains(path) };
                        visitor.entry(path.as_bytes(), TreeEntry::File(&mut &content[..]), attributes)?;
                    }
                }
            }
            Ok(true)
        })
    }

    fn stage(&mut self, name: &MachineName) -> io::Result<Stage> {
        self.step(format!("stage {name}"), |disk, _| {
            assert!(disk.places.insert(place_key(Place::Staged, name), Dir::new()).is_none(), "something is staged already");
            Ok(())
        })?;
        Ok(Stage(self.clone(), name.to_string(), None))
    }

    fn seal(&mut self, name: &MachineName, _: Stage) -> io::Result<()> {
        self.step(format!("seal {name}"), |_, _| Ok(()))
    }

    fn exchange(&mut self, name: &MachineName, one: Place, other: Place) -> io::Result<()> {
        self.step(format!("exchange {name} {one:?} {other:?}"), |disk, _| {
            is_free(disk, name, &[one, other])?;
            let (a, b) =
                (disk.places.remove(&place_key(one, name)).unwrap(), disk.places.remove(&place_key(other, name)).unwrap());
            disk.places.insert(place_key(one, name), b);
            disk.places.insert(place_key(other, name), a);
            Ok(())
        })
    }

    fn rename(&mut self, name: &MachineName, from: Place, to: Place) -> io::Result<()> {
        self.step(format!("rename {name} {from:?} {to:?}"), |disk, _| {
            is_free(disk, name, &[from, to])?;
            if disk.places.contains_key(&place_key(to, name)) {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            let dir = disk.places.remove(&place_key(from, name)).unwrap();
            disk.places.insert(place_key(to, name), dir);
            Ok(())
        })
    }

    fn discard(&mut self, name: &MachineName, place: Place) -> io::Result<()> {
        self.step(format!("discard {name} {place:?}"), |disk, _| {
            is_free(disk, name, &[place])?;
            let dir = disk.places.remove(&place_key(place, name));
            disk.trash.extend(dir);
            Ok(())
        })
    }

    fn empty_trash(&mut self) -> io::Result<()> {
        self.step("empty the trash".to_owned(), |disk, _| {
            disk.trash.clear();
            Ok(())
        })
    }
}

/// What a server gives for a URL.
#[derive(Clone, Debug)]
pub enum Answer {
    Archive(Vec<u8>),
    /// So many bytes, then the connection breaks.
    Breaks(Vec<u8>),
    Refused,
}

/// Its answers by URL, and what was asked for.
type Served = (BTreeMap<String, Answer>, Vec<String>);

#[derive(Clone, Debug, Default)]
pub struct Server(pub Arc<Mutex<Served>>);

impl Server {
    pub fn serve(&self, url: &str, answer: Answer) {
        self.0.lock().unwrap().0.insert(url.to_owned(), answer);
    }

    /// What was asked for since the last time.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().1)
    }
}

pub struct Pieces(Vec<Vec<u8>>, bool);

impl Body for Pieces {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, FetchError> {
        match self.0.pop() {
            Some(piece) => Ok(Some(piece)),
            None if self.1 => Err(FetchError("the connection broke".to_owned())),
            None => Ok(None),
        }
    }
}

impl Fetcher for Server {
    type Body = Pieces;

    async fn fetch(&self, machine: &ManagedMachine) -> Result<Pieces, FetchError> {
        let mut server = self.0.lock().unwrap();
        server.1.push(machine.source.to_string());
        let pieces = |bytes: &[u8]| bytes.chunks(256).rev().map(<[u8]>::to_vec).collect();
        match server.0.get(machine.source.as_str()) {
            Some(Answer::Archive(bytes)) => Ok(Pieces(pieces(bytes), false)),
            Some(Answer::Breaks(bytes)) => Ok(Pieces(pieces(bytes), true)),
            Some(Answer::Refused) | None => Err(FetchError("status 404".to_owned())),
        }
    }
}

/// Machines of these names do not work, whatever their version.
#[derive(Clone, Debug, Default)]
pub struct Sick(pub Arc<Mutex<BTreeSet<String>>>);

impl Health for Sick {
    async fn check(&self, name: &MachineName) -> Result<(), String> {
        if self.0.lock().unwrap().contains(name.as_str()) { Err("exit status 1".to_owned()) } else { Ok(()) }
    }
}

/// A version of a machine: its entry in the list, and what is to lie in its place.
#[derive(Clone, Debug)]
pub struct Version {
    pub name: String,
    pub url: String,
    pub archive: Vec<u8>,
    pub sums: Sha256Digest,
    pub dir: Dir,
    pub extra: String,
}

pub fn version(name: &str, number: u32) -> Version {
    let (yaml, script) = (format!("name: {name}\nversion: {number}\n"), format!("#!/bin/sh\necho {name} {number}\n"));
    let files: &[(&str, &[u8])] = &[("machine.yaml", yaml.as_bytes()), ("bin/run.sh", script.as_bytes())];
    let (archive, sums) = machine_archive(name, files);
    let mut dir: Dir = files.iter().map(|(path, content)| ((*path).to_owned(), Some((content.to_vec(), 0o644)))).collect();
    dir.insert("bin".to_owned(), None);
    dir.insert("SHA256SUMS".to_owned(), Some((crate::support::sums_of(files), 0o644)));
    Version {
        name: name.to_owned(),
        url: format!("https://files.example.net/{name}-{number}.tgz"),
        archive,
        sums,
        dir,
        extra: String::new(),
    }
}

impl Version {
    pub fn matching(mut self, expression: &str) -> Self {
        self.extra = format!(",\"match\":{}", serde_json::to_string(expression).unwrap());
        self
    }

    /// The same files, of which one is executable: another archive with the same list.
    pub fn with_an_executable(mut self) -> Self {
        let mut members = Vec::new();
        for (path, entry) in &mut self.dir {
            let Some((content, mode)) = entry else { continue };
            let member = file(&format!("{}/{path}", self.name), content);
            let script = path == "bin/run.sh";
            members.push(if script { Member { mode: b"0000755\0".to_vec(), ..member } } else { member });
            *mode = if script { 0o755 } else { *mode };
        }
        self.archive = gzip(&tar(&members));
        self.url = self.url.replace(".tgz", "-x.tgz");
        self
    }

    pub fn governed(mut self, governor: &str) -> Self {
        self.extra = format!(",\"governor\":\"{governor}\"");
        self
    }
}

pub fn list(versions: &[Version]) -> Vec<u8> {
    let entry = |v: &Version| {
        format!(
            "{{\"name\":\"{}\",\"source\":\"{}\",\"checksum\":\"{}\",\"verify_checksum\":\"{}\"{}}}",
            v.name,
            v.url,
            Sha256Digest::of(&v.archive),
            v.sums,
            v.extra
        )
    };
    format!("[{}]", versions.iter().map(entry).collect::<Vec<_>>().join(",")).into_bytes()
}

/// A node with its root, and the fleet's one key.
#[derive(Clone)]
pub struct Node<G = NoGovernors> {
    pub root: SimulatedRoot,
    pub server: Server,
    pub sick: Sick,
    pub clock: ManualClock,
    pub facts: KnownFacts,
    pub settings: Settings,
    pub admission: Admission,
    pub governors: G,
}

impl Default for Node {
    fn default() -> Self {
        let facts = KnownFacts {
            identity: Some("web1.example.net".to_owned()),
            files: Some(BTreeSet::new()),
            directories: Some(BTreeSet::new()),
            commands: Some(BTreeSet::new()),
        };
        Self {
            root: SimulatedRoot::default(),
            server: Server::default(),
            sick: Sick::default(),
            clock: ManualClock::new(at(0)),
            facts,
            settings: Settings { purge: true, guard_percent: 100, ..Settings::default() },
            admission: Admission { trusted: Some(keys(&[1], 1)), ..Admission::default() },
            governors: NoGovernors,
        }
    }
}

/// A document of the fleet that holds for a day, and whatever it says of removals.
pub fn spec(serial: u64, versions: &[Version], removals_meant: bool) -> Vec<u8> {
    let payload = list(versions);
    let mut statement = Statement::new(
        toehold_specsign::Format::Machines,
        "fleet".parse().unwrap(),
        serial,
        at(-3600),
        at(23 * 3600),
        &payload,
        keys(&[1], 1),
    );
    statement.removals_meant = removals_meant;
    let current = SignedStatement::unsigned(statement).unwrap().sign(&key(1));
    let text = seal(&payload, &Envelope { current, key_changes: Vec::new() }, None).unwrap();
    assert!(Document::parse(text.as_bytes()).is_ok());
    text.into_bytes()
}

impl<G: Governors + Clone> Node<G> {
    pub fn reconciler(&self) -> Reconciler<SimulatedRoot, Server, Sick, G, ManualClock> {
        Reconciler {
            root: self.root.clone(),
            fetcher: self.server.clone(),
            health: self.sick.clone(),
            governors: self.governors.clone(),
            clock: self.clock.clone(),
            admission: self.admission.clone(),
            settings: self.settings.clone(),
            sources: SourcePolicy::default(),
            limits: Limits::default(),
        }
    }

    pub fn pass(&self, document: &[u8]) -> Result<Report, PassError> {
        block_on(self.reconciler().pass(document, &self.facts))
    }

    pub fn serve(&self, versions: &[Version]) {
        for version in versions {
            self.server.serve(&version.url, Answer::Archive(version.archive.clone()));
        }
    }

    /// Serves the versions and makes a pass over them.
    pub fn apply(&self, serial: u64, versions: &[Version]) -> Report {
        self.serve(versions);
        self.pass(&spec(serial, versions, false)).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn advance(&self, seconds: u64) {
        self.clock.advance(std::time::Duration::from_secs(seconds));
    }
}
