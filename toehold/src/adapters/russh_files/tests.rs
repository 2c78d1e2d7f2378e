//! Against servers that lie, break off, or send garbage.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code: a broken assumption is a failed test"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use toehold_core::{FileError, HostFiles as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::RusshFiles;

const LIMIT: Duration = Duration::from_secs(2);

const VERSION: u8 = 2;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn packet(kind: u8, payload: &[u8]) -> Vec<u8> {
    string(&[&[kind], payload].concat())
}

fn answer(kind: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    packet(kind, &[&id.to_be_bytes(), payload].concat())
}

fn status(id: u32, code: u32) -> Vec<u8> {
    answer(STATUS, id, &[&code.to_be_bytes()[..], &string(b"words\x1b[2J"), &string(b"")].concat())
}

fn greeting(extensions: &[&str]) -> Vec<u8> {
    let extensions: Vec<u8> = extensions.iter().flat_map(|name| [string(name.as_bytes()), string(b"1")].concat()).collect();
    packet(VERSION, &[&3_u32.to_be_bytes()[..], &extensions].concat())
}

/// The next request: its kind, number and payload; `None` at the end.
async fn request(stream: &mut DuplexStream) -> Option<(u8, u32, Vec<u8>)> {
    let length = stream.read_u32().await.ok()?;
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut bytes).await.ok()?;
    let id = bytes.get(1..5).map_or(0, |id| u32::from_be_bytes(id.try_into().unwrap()));
    Some((bytes[0], id, bytes.split_off(5.min(bytes.len()))))
}

/// A session with a server that gives each request what `reply` says; `None` hangs.
async fn served(
    first: Vec<u8>,
    mut reply: impl FnMut(u8, u32, &[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> Result<RusshFiles, String> {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        request(&mut theirs).await;
        theirs.write_all(&first).await.ok();
        while let Some((kind, id, payload)) = request(&mut theirs).await {
            match reply(kind, id, &payload) {
                Some(bytes) => drop(theirs.write_all(&bytes).await),
                None => std::future::pending().await,
            }
        }
    });
    tokio::time::timeout(LIMIT, RusshFiles::open(ours, LIMIT)).await.map_err(|_| "time".to_owned())?
}

const OPEN: u8 = 3;
const READ: u8 = 5;
const FSTAT: u8 = 8;

/// A server with one file: it claims a size, and answers a read of so many bytes at some place as `read` says.
async fn with_file(claimed: u64, read: impl Fn(u64, u32) -> Option<Vec<u8>> + Send + 'static) -> RusshFiles {
    served(greeting(&[]), move |kind, id, payload| {
        Some(match kind {
            OPEN => answer(HANDLE, id, &string(b"h")),
            FSTAT => answer(ATTRS, id, &[&1_u32.to_be_bytes()[..], &claimed.to_be_bytes()].concat()),
            READ => {
                let offset = u64::from_be_bytes(payload[5..13].try_into().unwrap());
                let length = u32::from_be_bytes(payload[13..17].try_into().unwrap());
                match read(offset, length) {
                    Some(data) => answer(DATA, id, &string(&data)),
                    None => status(id, 1),
                }
            }
            _ => status(id, 0),
        })
    })
    .await
    .unwrap()
}

/// Where `content` is the file, and at most `most` bytes come at once.
fn from(content: &'static [u8], most: usize) -> impl Fn(u64, u32) -> Option<Vec<u8>> + Send + 'static {
    move |offset, length| {
        let rest = content.get(usize::try_from(offset).unwrap()..).filter(|rest| !rest.is_empty())?;
        Some(rest[..rest.len().min(most).min(usize::try_from(length).unwrap())].to_vec())
    }
}

static CONTENT: [u8; 100_000] = {
    let mut content = [0; 100_000];
    let mut index = 0;
    while index < content.len() {
        content[index] = (index / 7 % 251) as u8;
        index += 1;
    }
    content
};

#[tokio::test]
async fn short_answers_leave_no_gap() {
    for most in [3_000, 32_767, 40_000] {
        for claimed in [0, 3_000, 99_999, 100_000] {
            let mut files = with_file(claimed, from(&CONTENT, most)).await;
            let read = files.read("f", 100_000).await.unwrap();
            // A first answer that is as long as the claimed size counts as the whole file.
            let wanted = if claimed == 3_000 && most == 3_000 { 3_000 } else { 100_000 };
            assert!(read == CONTENT[..wanted], "{most} at once, {claimed} claimed: {} bytes", read.len());
        }
    }
}

#[tokio::test]
async fn a_file_of_crumbs_is_given_up() {
    let mut files = with_file(0, from(&CONTENT, 1)).await;
    assert!(matches!(files.read("f", 100_000).await.unwrap_err(), FileError::Failed { .. }));
}

#[tokio::test]
async fn lies_about_the_size_do_not_pass_the_limit() {
    // Larger than said, without end, and said to be larger than it is.
    let mut files = with_file(10, from(&CONTENT, usize::MAX)).await;
    assert!(matches!(files.read("f", 99_999).await.unwrap_err(), FileError::TooLarge { limit: 99_999, .. }));
    let mut files = with_file(10, |_, length| Some(vec![7; usize::try_from(length).unwrap()])).await;
    assert!(matches!(files.read("f", 500_000).await.unwrap_err(), FileError::TooLarge { limit: 500_000, .. }));
    let mut files = with_file(u64::MAX, from(&CONTENT, usize::MAX)).await;
    assert!(matches!(files.read("f", 1 << 40).await.unwrap_err(), FileError::TooLarge { .. }));
    let mut files = with_file(u64::MAX, from(&CONTENT, usize::MAX)).await;
    assert!(files.read("f", u64::MAX).await.unwrap() == CONTENT);
}

#[tokio::test]
async fn more_or_less_than_was_asked_for_is_refused() {
    let mut files = with_file(10, |_, length| Some(vec![7; usize::try_from(length).unwrap() + 1])).await;
    assert!(matches!(files.read("f", 1000).await.unwrap_err(), FileError::Failed { .. }));
    let mut files = with_file(10, |_, _| Some(Vec::new())).await;
    assert!(matches!(files.read("f", 1000).await.unwrap_err(), FileError::Failed { .. }));
}

#[tokio::test]
async fn words_of_a_server_are_fit_for_a_terminal() {
    let mut files = served(greeting(&[]), |_, id, _| Some(status(id, 4))).await.unwrap();
    match files.remove("f").await.unwrap_err() {
        FileError::Failed { message, .. } => assert_eq!(message, "words\u{fffd}[2J"),
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn statuses_have_their_errors() {
    type Check = fn(&FileError) -> bool;
    let checks: [(u32, Check); 6] = [
        (2, |error| matches!(error, FileError::NotFound { .. })),
        (3, |error| matches!(error, FileError::Denied { .. })),
        (4, |error| matches!(error, FileError::Failed { .. })),
        (8, |error| matches!(error, FileError::Unsupported { .. })),
        // The end of a file is no answer to a removal.
        (1, |error| matches!(error, FileError::Failed { .. })),
        // A code of a later version ends the session, which is the safe side.
        (11, FileError::is_lost),
    ];
    for (code, expected) in checks {
        let mut files = served(greeting(&[]), move |_, id, _| Some(status(id, code))).await.unwrap();
        let error = files.remove("f").await.unwrap_err();
        assert!(expected(&error), "{code}: {error:?}");
    }
}

#[tokio::test]
async fn greetings_that_are_none_are_no_sftp() {
    for first in [
        b"This account is currently not available.\r\n".to_vec(),
        packet(VERSION, &4_u32.to_be_bytes()),
        packet(VERSION, b""),
        packet(STATUS, b""),
        packet(1, &3_u32.to_be_bytes()),
        string(b""),
        vec![0xff; 4],
    ] {
        let opened = served(first.clone(), |_, id, _| Some(answer(STATUS, id, b"?"))).await;
        assert!(opened.is_err(), "{first:?}");
    }
}

#[tokio::test]
async fn a_listing_without_end_is_given_up() {
    let mut files = served(greeting(&[]), |kind, id, _| {
        let file = [string(b"name"), string(b""), 0_u32.to_be_bytes().to_vec()].concat();
        Some(match kind {
            11 => answer(HANDLE, id, &string(b"h")),
            12 => answer(NAME, id, &[&1000_u32.to_be_bytes()[..], &file.repeat(1000)].concat()),
            _ => status(id, 0),
        })
    })
    .await
    .unwrap();
    assert!(matches!(files.list("d").await.unwrap_err(), FileError::Failed { .. }));
}

#[tokio::test]
async fn real_paths_are_one_absolute_path() {
    for names in [vec![], vec!["relative"], vec!["/one", "/two"]] {
        let mut files = served(greeting(&[]), move |_, id, _| {
            let files: Vec<u8> = names
                .iter()
                .flat_map(|name| [string(name.as_bytes()), string(b""), 0_u32.to_be_bytes().to_vec()].concat())
                .collect();
            Some(answer(NAME, id, &[&u32::try_from(names.len()).unwrap().to_be_bytes()[..], &files].concat()))
        })
        .await
        .unwrap();
        assert!(matches!(files.real_path(".").await.unwrap_err(), FileError::Failed { .. }));
    }
}

/// A host that sends a byte now and then is as good as silent: the whole of an operation has a limit too.
#[tokio::test(start_paused = true)]
async fn a_file_in_drops_ends() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        request(&mut theirs).await;
        theirs.write_all(&greeting(&[])).await.unwrap();
        while let Some((kind, id, _)) = request(&mut theirs).await {
            let bytes = match kind {
                OPEN => answer(HANDLE, id, &string(b"h")),
                READ => {
                    tokio::time::sleep(LIMIT * 9 / 10).await;
                    answer(DATA, id, &string(b"."))
                }
                _ => answer(ATTRS, id, &0_u32.to_be_bytes()),
            };
            theirs.write_all(&bytes).await.unwrap();
        }
    });
    let mut files = RusshFiles::open(ours, LIMIT).await.unwrap();
    let begun = tokio::time::Instant::now();
    assert!(files.read("f", 1 << 20).await.unwrap_err().is_lost());
    assert!(begun.elapsed() <= LIMIT * 2, "{:?}", begun.elapsed());
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever comes, every operation ends with an answer, and nothing panics, in our code or in the tasks below it.
    #[test]
    fn garbage_ends_in_errors(
        kinds in prop::collection::vec(prop_oneof![Just(STATUS), Just(HANDLE), Just(DATA), Just(NAME), Just(ATTRS), any::<u8>()], 1..12),
        payloads in prop::collection::vec(prop::collection::vec(prop_oneof![Just(0_u8), Just(1_u8), any::<u8>()], 0..40), 12),
        cut in prop::option::of(0_usize..60),
    ) {
        // A panic in a task ends only that task. The runtime below has this thread alone, other tests have theirs.
        let default = std::panic::take_hook();
        let here = std::thread::current().id();
        std::panic::set_hook(Box::new(move |_| {
            if std::thread::current().id() == here {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
        }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let mut turn = 0;
            let files = served(greeting(&["posix-rename@openssh.com", "fsync@openssh.com"]), move |_, id, _| {
                let kind = kinds[turn % kinds.len()];
                let payload = payloads[turn % payloads.len()].clone();
                turn += 1;
                let mut bytes = answer(kind, id, &payload);
                if let Some(cut) = cut {
                    bytes.truncate(cut);
                }
                Some(bytes)
            })
            .await;
            let Ok(mut files) = files else { return };
            let _ = files.stat("a").await;
            let _ = files.read("a", 100_000).await;
            let _ = files.stage("a", &vec![7; 70_000], 0o600).await;
            let _ = files.sync("a").await;
            let _ = files.rename("a", "b").await;
            let _ = files.list("a").await;
            let _ = files.real_path("a").await;
            let _ = files.remove("a").await;
            let _ = files.remove_directory("a").await;
        });
        std::panic::set_hook(default);
        prop_assert_eq!(PANICS.load(Ordering::SeqCst), 0);
    }
}
