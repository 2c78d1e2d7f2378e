//! Owners of local pods: files that a gateway keeps locked for as long as it lives, so that the kernel tells of its death.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
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
}

impl Owners {
    pub(super) fn in_directory(directory: PathBuf) -> Self {
        Self { directory, held: Mutex::default() }
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

    /// Those whose gateway lives, and those whose gateway has died.
    pub(super) fn list(&self) -> io::Result<(Vec<OwnerSnapshot>, Vec<OwnerSnapshot>)> {
        let (mut living, mut dead) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if let Some((snapshot, is_held)) = look(&path)? {
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

    /// Removes one if it still is the one meant.
    pub(super) fn remove(&self, name: OwnerName, uid: &Uid) -> io::Result<bool> {
        let path = self.path(name);
        let is_meant = look(&path)?.is_some_and(|(snapshot, _)| snapshot.uid == *uid);
        if is_meant {
            fs::remove_file(path)?;
        }
        if self.held().get(&name).is_some_and(|(own, _)| own == uid) {
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
