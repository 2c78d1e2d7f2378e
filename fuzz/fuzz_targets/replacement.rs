//! The replacement of a host's file, against a host that answers anything: no panic, an end, and nothing is replaced but by
//! what was read back, under a lock that was our own, over a file that was still as read.
#![no_main]

use std::convert::Infallible;

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use rand_core::{TryCryptoRng, TryRng};
use toehold_core::{Capabilities, FileError, FileKind, FileStat};
use toehold_keygen::authorized_keys::AuthorizedKeys;
use toehold_keygen::replacement::{Action, Event, IfEmpty, Plan, Replacement};

/// More steps than any replacement takes by itself; each name in a list is one more.
const STEPS: usize = 400;

/// No randomness: the name of the attempt does not matter here.
struct Zeros;

impl TryRng for Zeros {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> core::result::Result<u32, Infallible> {
        Ok(0)
    }

    fn try_next_u64(&mut self) -> core::result::Result<u64, Infallible> {
        Ok(0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> core::result::Result<(), Infallible> {
        bytes.fill(0);
        Ok(())
    }
}

impl TryCryptoRng for Zeros {}

/// What the fuzzer makes up, and a host that answers well where it makes up nothing.
struct Host<'a, 'b> {
    input: &'a mut Unstructured<'b>,
    lock: Vec<u8>,
    file: Vec<u8>,
    staged: Vec<u8>,
}

/// What has been seen; each is the last answer of its kind.
#[derive(Default)]
struct Seen {
    /// What the file held when it was given to be edited.
    edited_from: Option<Vec<u8>>,
    file: Option<Vec<u8>>,
    staged: Vec<u8>,
    staged_read_back: Option<Vec<u8>>,
    lock: Option<Vec<u8>>,
    own_lock: Vec<u8>,
}

impl Host<'_, '_> {
    /// True once in a while: something goes wrong. Not with the zeros that come after the end of the input.
    fn odd(&mut self) -> Result<bool> {
        Ok(u8::arbitrary(self.input)? > 231)
    }

    fn error(&mut self) -> Result<FileError> {
        let path = "/somewhere".to_owned();
        Ok(match u8::arbitrary(self.input)? % 7 {
            0 => FileError::NotFound { path },
            1 => FileError::AlreadyExists { path },
            2 => FileError::Denied { doing: "trying", path },
            3 => FileError::TooLarge { path, limit: 1 },
            4 => FileError::Unsupported { what: "this" },
            5 => FileError::Failed { doing: "trying", path, message: "Failure".to_owned() },
            _ => FileError::Lost { doing: "trying", path, source: "gone".into() },
        })
    }

    fn bytes(&mut self) -> Result<Vec<u8>> {
        let length = usize::from(u8::arbitrary(self.input)? % 32);
        (0..length).map(|_| u8::arbitrary(self.input)).collect()
    }

    fn stat(&mut self, kind: FileKind, mode: u32) -> Result<FileStat> {
        let well = FileStat { kind, size: 0, uid: Some(1000), mode, modified: 1_795_395_600 };
        if !self.odd()? {
            return Ok(well);
        }
        let kinds = [FileKind::Regular, FileKind::Directory, FileKind::Link, FileKind::Other];
        let kind = kinds[usize::from(u8::arbitrary(self.input)? % 4)];
        let (size, uid) = (u64::arbitrary(self.input)?, Option::<u32>::arbitrary(self.input)?);
        Ok(FileStat { kind, size, uid, mode: u32::arbitrary(self.input)?, modified: i64::arbitrary(self.input)? })
    }

    /// An answer of the wrong kind.
    fn wrong(&mut self) -> Result<Event> {
        Ok(match u8::arbitrary(self.input)? % 6 {
            0 => Event::RealPath(Ok("/".to_owned())),
            1 => Event::Stat(Ok(None)),
            2 => Event::Read(Ok(self.bytes()?)),
            3 => Event::Done(Ok(())),
            4 => Event::Listed(Ok(Vec::new())),
            _ => Event::Edited(Ok(())),
        })
    }

    /// Does what is asked, or something else; `None` at the end.
    fn answer(&mut self, action: Action<'_>, seen: &mut Seen) -> Result<Option<Event>> {
        let (odd, failed) = (self.odd()?, self.odd()?);
        // Whatever is answered, this is what was to be there.
        if let Action::Stage { path, content, .. } = &action {
            if path.ends_with("toehold-lock") {
                seen.own_lock = content.to_vec();
            } else {
                seen.staged = content.to_vec();
                seen.staged_read_back = None;
            }
        }
        let event = match action {
            Action::Finish => return Ok(None),
            Action::Read { .. } if odd => Event::Done(Ok(())),
            Action::Read { .. } if failed => Event::Read(Err(self.error()?)),
            Action::Read { path, .. } => Event::Read(Ok(self.read(path, seen)?)),
            Action::Edit { document, .. } => {
                seen.edited_from = Some(document.as_bytes().to_vec());
                *document = AuthorizedKeys::parse(self.bytes()?);
                Event::Edited(if failed { Err("no".into()) } else { Ok(()) })
            }
            _ if odd => self.wrong()?,
            Action::RealPath(_) if failed => Event::RealPath(Err(self.error()?)),
            Action::RealPath(_) => Event::RealPath(Ok("/home/ops".to_owned())),
            Action::Stat(_) if failed => Event::Stat(if self.odd()? { Ok(None) } else { Err(self.error()?) }),
            Action::Stat("/home/ops" | "/home/ops/.ssh") => Event::Stat(Ok(Some(self.stat(FileKind::Directory, 0o700)?))),
            Action::Stat(_) => Event::Stat(Ok(Some(self.stat(FileKind::Regular, 0o600)?))),
            Action::List(_) if failed => Event::Listed(Err(self.error()?)),
            Action::List(_) => {
                let odd = self.odd()?;
                Event::Listed(Ok(if odd { vec!["authorized_keys.toehold-x.1".to_owned(), "..".to_owned()] } else { Vec::new() }))
            }
            Action::Stage { path, content, .. } => {
                let place = if path.ends_with("toehold-lock") { &mut self.lock } else { &mut self.staged };
                *place = content.to_vec();
                Event::Done(if failed { Err(self.error()?) } else { Ok(()) })
            }
            Action::Rename { from, to } => {
                // Below the home that the host has named.
                assert!(from.contains("/.ssh/authorized_keys") && from.contains(".toehold-holder."));
                assert!(to.ends_with("/authorized_keys") || to.ends_with("/authorized_keys2"));
                assert_eq!(seen.staged_read_back.as_ref(), Some(&seen.staged), "what was staged was read back");
                check(seen);
                self.file.clone_from(&self.staged);
                Event::Done(if failed { Err(self.error()?) } else { Ok(()) })
            }
            Action::Remove(path) => {
                if path.ends_with("/authorized_keys") || path.ends_with("/authorized_keys2") {
                    check(seen);
                }
                Event::Done(if failed { Err(self.error()?) } else { Ok(()) })
            }
            Action::Sync(_) => Event::Done(if failed { Err(self.error()?) } else { Ok(()) }),
        };
        Ok(Some(event))
    }

    fn read(&mut self, path: &str, seen: &mut Seen) -> Result<Vec<u8>> {
        let made_up = if self.odd()? { Some(self.bytes()?) } else { None };
        Ok(if path.ends_with("toehold-lock") {
            let lock = made_up.unwrap_or_else(|| self.lock.clone());
            seen.lock.insert(lock).clone()
        } else if path.contains(".toehold-") {
            let staged = made_up.unwrap_or_else(|| self.staged.clone());
            seen.staged_read_back.insert(staged).clone()
        } else {
            let file = made_up.unwrap_or_else(|| self.file.clone());
            seen.file.insert(file).clone()
        })
    }
}

/// What has to be true before a file is replaced or removed.
fn check(seen: &Seen) {
    assert_eq!(seen.lock.as_ref(), Some(&seen.own_lock), "the lock was looked at, and ours");
    let unread = seen.edited_from.as_ref().is_some_and(Vec::is_empty);
    assert!(unread || seen.file == seen.edited_from, "the file was as it had been edited from");
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut plan = Plan::new(&mut Zeros, ".", "holder").expect("a valid name");
    if bool::arbitrary(input)? {
        plan = plan.also_second_file();
    }
    if bool::arbitrary(input)? {
        plan = plan.if_empty(IfEmpty::Remove);
    }
    let capabilities = Capabilities { atomic_rename: u8::arbitrary(input)? != 0, sync: bool::arbitrary(input)? };
    let mut machine = Replacement::new(plan, capabilities);
    let mut seen = Seen::default();
    let mut host = Host { input, lock: Vec::new(), file: b"# foreign\n".to_vec(), staged: Vec::new() };
    for _ in 0..STEPS {
        let Some(event) = host.answer(machine.action(), &mut seen)? else {
            let _ = machine.into_result();
            return Ok(());
        };
        machine.handle(event);
    }
    panic!("no end in sight: {machine:?}");
}

fuzz_target!(|bytes: &[u8]| {
    // Input that ends early ends the replacement there.
    let _ = run(&mut Unstructured::new(bytes));
});
