//! Whether an audit log is what its writers wrote.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{AuditEntry, AuditEvent, AuditFault, AuditFlaw, AuditHead, AuditLog, FoundEntry, NOTHING};
use crate::time::Timestamp;

/// The name of the event that says that the beginning of a chain was removed.
const PRUNED: &str = "audit.pruned";

/// What an event says of a chain whose beginning is removed: up to which entry, and what its hash was. It is written before the
/// first entry goes, and stands in the chain of whoever removes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose chain.
    pub writer: String,
    /// The last entry that is removed.
    pub through: AuditHead,
}

impl Checkpoint {
    /// As an event.
    pub fn event(&self, at: Timestamp) -> AuditEvent {
        AuditEvent::new(at, PRUNED, &self.writer)
            .with("through", self.through.number.to_string())
            .with("hash", &self.through.hash)
    }

    /// What an event says; `None` for one that is about something else.
    pub fn of(event: &AuditEvent) -> Option<Self> {
        let through = event.details.get("through")?.parse().ok().filter(|_| event.what == PRUNED)?;
        let head = AuditHead { number: through, hash: event.details.get("hash")?.clone() };
        Some(Self { writer: event.subject.clone(), through: head })
    }
}

/// What was found of one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainReport {
    /// Whose it is.
    pub writer: String,
    /// The first entry that is there.
    pub first: u64,
    /// How many are there.
    pub entries: usize,
    /// The last one; `None` where that cannot be read.
    pub head: Option<AuditHead>,
    /// How often other chains name an entry of this one that was found to be the same.
    pub links: usize,
    /// Who has removed what was before the first entry, by a checkpoint that was found to be right: the writer, and when.
    pub pruned_by: Option<(String, Timestamp)>,
}

/// What was found of an audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditReport {
    /// The chains, by writer.
    pub chains: Vec<ChainReport>,
    /// What is wrong, by writer and number.
    pub faults: Vec<AuditFault>,
}

impl AuditReport {
    /// Whether chains name each other's entries; those that no other names can be cut off without that the log shows it.
    pub fn is_linked(&self) -> bool {
        self.chains.iter().any(|chain| chain.links > 0)
    }

    /// The last entries, for the next look, of the chains in which nothing is wrong.
    pub fn sound_heads(&self) -> BTreeMap<String, AuditHead> {
        let is_sound = |chain: &&ChainReport| self.faults.iter().all(|fault| fault.writer != chain.writer);
        self.chains.iter().filter(is_sound).filter_map(|chain| Some((chain.writer.clone(), chain.head.clone()?))).collect()
    }
}

/// A chain's entries by number.
type Chain = BTreeMap<u64, FoundEntry>;

impl AuditLog {
    /// Reads every chain from its first entry on, and what the chains say of each other, and compares the log with the last
    /// entries `seen` at an earlier look. It finds every entry that was changed, taken out, put in or moved; that entries are missing
    /// at the end of a chain it finds where another chain or `seen` names them.
    pub fn verify(&self, seen: &BTreeMap<String, AuditHead>) -> AuditReport {
        let mut report = AuditReport { chains: Vec::new(), faults: self.strays.clone() };
        for (writer, chain) in &self.chains {
            let (pruned_by, faults) = self.check_chain(writer, chain);
            report.faults.extend(faults);
            report.chains.push(ChainReport {
                writer: writer.clone(),
                first: first_of(chain),
                entries: chain.len(),
                head: chain.last_key_value().and_then(|(_, found)| Some(found.as_ref().ok()?.head())),
                links: 0,
                pruned_by,
            });
        }
        self.check_links(&mut report);
        for (writer, head) in seen {
            let (number, flaw) = match self.compare(writer, head) {
                Compared::Beyond { next } => (next, AuditFlaw::SeenMissing { through: head.number }),
                Compared::Other => (head.number, AuditFlaw::SeenDiffers),
                // Whoever vouches for what was removed vouches for what follows, too: here it is not known to be the same chain.
                Compared::Removed { first } => (first, AuditFlaw::SeenRemoved { through: head.number }),
                Compared::Same | Compared::Unknown => continue,
            };
            report.faults.push(AuditFault { writer: writer.clone(), number, flaw });
        }
        report.faults.sort_by(|a, b| (&a.writer, a.number).cmp(&(&b.writer, b.number)));
        report
    }

    /// One chain by itself: dense, each entry bound to the one before, and its beginning.
    fn check_chain(&self, writer: &str, chain: &Chain) -> (Option<(String, Timestamp)>, Vec<AuditFault>) {
        let mut faults = Vec::new();
        let mut fault = |number, flaw| faults.push(AuditFault { writer: writer.to_owned(), number, flaw });
        let first = first_of(chain);
        let mut pruned_by = None;
        if first > 1 {
            match self.check_beginning(writer, first, chain) {
                Ok(by) => pruned_by = by,
                Err(flaw) => fault(first, flaw),
            }
        }
        let mut expected = first;
        let mut previous = (first == 1).then(|| NOTHING.to_owned());
        for (number, found) in chain {
            if *number > expected {
                fault(expected, AuditFlaw::Missing { through: *number - 1 });
                previous = None;
            }
            expected = number.saturating_add(1);
            let entry = match found {
                Ok(entry) => entry,
                Err(flaw) => {
                    fault(*number, flaw.clone());
                    previous = None;
                    continue;
                }
            };
            if entry.number != *number {
                fault(*number, AuditFlaw::Misnumbered { says: entry.number });
            }
            if previous.is_some_and(|previous| previous != entry.previous) {
                fault(*number, AuditFlaw::Unbound);
            }
            previous = Some(entry.hash());
        }
        (pruned_by, faults)
    }

    /// Who has removed what was before `first`. Where the entries that would tell cannot be read, nobody is named.
    fn check_beginning(&self, writer: &str, first: u64, chain: &Chain) -> Result<Option<(String, Timestamp)>, AuditFlaw> {
        let mut flaw = AuditFlaw::NoCheckpoint;
        for (by, entry) in self.readable() {
            let Some(checkpoint) = Checkpoint::of(&entry.event).filter(|it| it.writer == writer) else { continue };
            // One that was removed up to a later entry was being removed when somebody stopped.
            if checkpoint.through.number.saturating_add(1) < first {
                continue;
            }
            match compare(chain, &checkpoint.through) {
                Compared::Same => return Ok(Some((by.to_owned(), entry.event.at))),
                Compared::Unknown | Compared::Removed { .. } => return Ok(None),
                Compared::Other | Compared::Beyond { .. } => {
                    flaw = AuditFlaw::CheckpointDiffers { by: by.to_owned(), at: entry.number };
                }
            }
        }
        Err(flaw)
    }

    /// What the chains say of each other.
    fn check_links(&self, report: &mut AuditReport) {
        // Of a chain that was cut off, what was seen last tells most.
        let mut cut_off: BTreeMap<&str, AuditFault> = BTreeMap::new();
        for (by, entry) in self.readable() {
            for (writer, head) in &entry.heads {
                let flaw = match self.compare(writer, head) {
                    Compared::Same => {
                        if let Some(chain) = report.chains.iter_mut().find(|chain| chain.writer == *writer) {
                            chain.links += 1;
                        }
                        continue;
                    }
                    Compared::Unknown | Compared::Removed { .. } => continue,
                    Compared::Other => AuditFlaw::Differs { by: by.to_owned(), at: entry.number },
                    Compared::Beyond { next } => {
                        let flaw = AuditFlaw::CutOff { through: head.number, by: by.to_owned(), at: entry.number };
                        let before = cut_off.get(writer.as_str()).map(|fault| &fault.flaw);
                        if !matches!(before, Some(AuditFlaw::CutOff { through, .. }) if *through >= head.number) {
                            cut_off.insert(writer, AuditFault { writer: writer.clone(), number: next, flaw });
                        }
                        continue;
                    }
                };
                report.faults.push(AuditFault { writer: writer.clone(), number: head.number, flaw });
            }
        }
        report.faults.extend(cut_off.into_values());
    }

    fn compare(&self, writer: &str, head: &AuditHead) -> Compared {
        self.chains.get(writer).map_or(Compared::Beyond { next: 1 }, |chain| compare(chain, head))
    }

    fn readable(&self) -> impl Iterator<Item = (&str, &AuditEntry)> {
        self.places().filter_map(|(writer, _, found)| Some((writer, found.as_ref().ok()?)))
    }
}

/// What a chain says of an entry that somebody has seen.
enum Compared {
    /// The chain ends before it.
    Beyond { next: u64 },
    /// Another one stands there.
    Other,
    /// It was removed with the beginning, and the first one that is left does not follow on it.
    Removed { first: u64 },
    /// It is the one.
    Same,
    /// The chain does not tell: the entry is missing or cannot be read, which is told elsewhere.
    Unknown,
}

fn compare(chain: &Chain, head: &AuditHead) -> Compared {
    let hash = match chain.get(&head.number) {
        Some(Ok(entry)) => entry.hash(),
        Some(Err(_)) => return Compared::Unknown,
        None => match chain.range((Bound::Excluded(head.number), Bound::Unbounded)).next() {
            Some((next, Ok(entry))) if *next == head.number.saturating_add(1) => entry.previous.clone(),
            Some((next, _)) if head.number < first_of(chain) && *next > head.number.saturating_add(1) => {
                return Compared::Removed { first: *next };
            }
            Some(_) => return Compared::Unknown,
            None => {
                return Compared::Beyond { next: chain.last_key_value().map_or(1, |(last, _)| last.saturating_add(1)) };
            }
        },
    };
    if hash == head.hash { Compared::Same } else { Compared::Other }
}

fn first_of(chain: &Chain) -> u64 {
    chain.first_key_value().map_or(1, |(number, _)| *number)
}
