//! Owners of local pods: files that a gateway keeps locked for as long as it lives, so that the kernel tells of its death.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use toehold_podrun::backend::OwnerSnapshot;
use toehold_podrun::{OwnerName, Uid};

use super::random_uid;

/// The owners in a directory, and those that this process holds.
#[derive(Debug)]
pub(super) struct Owners {
    directory: PathBuf,
    held: Mutex<HashMap<OwnerName, (Uid, File)>>,
    /// How often they were looked at.
    looks: AtomicU64,
}

impl Owners {
    pub(super) fn in_directory(directory: PathBuf) -> Self {
        Self { directory, held: Mutex::default(), looks: AtomicU64::new(0) }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<OwnerName, (Uid, File)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: OwnerName) -> PathBuf {
        self.directory.join(name.to_string())
    }

    pub(super) fn create(&self, manifest: &Value) -> io::Result<OwnerSnapshot> {
        let mut object = manifest.clone();
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).ok_or(io::ErrorKind::InvalidInput)?;
        metadata.insert("uid".to_owned(), json!(random_uid()?));
        metadata.insert("resourceVersion".to_owned(), json!("1"));
        let snapshot = OwnerSnapshot::from_object(&object).ok_or(io::ErrorKind::InvalidInput)?;
        // Locked before it has its name: nobody sees one that seems to be a dead gateway's.
        let staged = self.directory.join(format!(".new-{}", snapshot.name));
        fs::write(&staged, object.to_string())?;
        let file = File::open(&staged)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        fs::rename(&staged, self.path(snapshot.name))?;
        self.held().insert(snapshot.name, (snapshot.uid.clone(), file));
        Ok(snapshot)
    }

    /// Those whose gateway lives, and those whose gateway has died. A lock that is held is a sign of life: nobody is to take a living
    /// gateway for dead because nothing has been written.
    pub(super) fn list(&self) -> io::Result<(Vec<OwnerSnapshot>, Vec<OwnerSnapshot>)> {
        let (mut living, mut dead) = (Vec::new(), Vec::new());
        let look_number = self.looks.fetch_add(1, Ordering::Relaxed);
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if let Some((mut snapshot, is_held)) = look(&path)? {
                if is_held {
                    snapshot.heartbeat = look_number;
                }
                if is_held { &mut living } else { &mut dead }.push(snapshot);
            }
        }
        Ok((living, dead))
    }

    /// An owner that this process holds.
    pub(super) fn extend(&self, name: OwnerName, uid: &Uid, heartbeat: u64) -> Option<OwnerSnapshot> {
        let is_ours = self.held().get(&name).is_some_and(|(own, _)| own == uid);
        let is_there = is_ours && self.path(name).exists();
        is_there.then(|| OwnerSnapshot {
            name,
            uid: uid.clone(),
            resource_version: heartbeat.saturating_add(1).to_string(),
            heartbeat,
            terminating: false,
        })
    }

    /// Removes one if it still is the one meant, and no other process holds it.
    pub(super) fn remove(&self, name: OwnerName, uid: &Uid) -> io::Result<bool> {
        let path = self.path(name);
        let is_ours = self.held().get(&name).is_some_and(|(own, _)| own == uid);
        let is_meant = look(&path)?.is_some_and(|(snapshot, is_held)| snapshot.uid == *uid && (is_ours || !is_held));
        if is_meant {
            fs::remove_file(path)?;
        }
        if is_ours {
            self.held().remove(&name);
        }
        Ok(is_meant)
    }
}

/// What is in a file, and whether somebody holds it; `None`: it is no owner's (any more).
fn look(path: &Path) -> io::Result<Option<(OwnerSnapshot, bool)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let object = io::read_to_string(&file)?;
    let snapshot = serde_json::from_str(&object).ok().and_then(|object: Value| OwnerSnapshot::from_object(&object));
    let Some(snapshot) = snapshot.filter(|snapshot| path.file_name().is_some_and(|n| *n == *snapshot.name.to_string())) else {
        return Ok(None);
    };
    let is_held = flock(&file, FlockOperation::NonBlockingLockShared).is_err();
    Ok(Some((snapshot, is_held)))
}

#[cfg(test)]
mod tests {
    use toehold_core::Timestamp;
    use toehold_podrun::owner::{INTERVAL, Sightings};
    use toehold_podrun::pod::owner_manifest;

    use super::*;
    use crate::gateway::system_rng;

    /// It was taken for dead after 20 s, since nobody writes to its file.
    #[test]
    fn p5_a_gateway_that_lives_is_never_taken_for_dead_by_another() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (Owners::in_directory(directory.path().into()), Owners::in_directory(directory.path().into()));
        let name = OwnerName::generate(&mut system_rng());
        let made = one.create(&owner_manifest(name, "local", 600, 0)).unwrap();
        let mut sightings = Sightings::new();
        let mut now = Timestamp::from_unix_seconds(1_000);
        for _ in 0..20 {
            let (living, dead) = other.list().unwrap();
            assert_eq!((living.len(), dead.len()), (1, 0));
            assert_eq!(sightings.observe(now, &living, None), []);
            now = now.saturating_add(INTERVAL);
        }
        assert!(!other.remove(name, &made.uid).unwrap(), "whose gateway holds it");
        assert!(one.extend(name, &made.uid, 1).is_some());
        drop(one);
        assert_eq!(other.list().unwrap().1.len(), 1);
        assert!(other.remove(name, &made.uid).unwrap());
    }
}
