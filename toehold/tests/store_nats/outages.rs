//! Servers that go away and come back.

use std::time::Duration;

use toehold::adapters::nats::{NatsOptions, NatsStore};
use toehold_core::{Expect, Store, StoreError, Watch as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::server::Nats;
use crate::support::eventually;
use crate::support::server::PATIENCE;
use crate::{in_words, key};

fn impatient() -> NatsOptions {
    NatsOptions { patience: Duration::from_millis(500), ..NatsOptions::default() }
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_when_the_server_was_away() {
    let mut nats = Nats::start("");
    let store = nats.store().await;
    // One that has reported something, and one that has not.
    let mut used = store.watch(&key("a")).await.unwrap();
    let first = store.put(&key("a/1"), b"one", Expect::Absent).await.unwrap();
    assert_eq!(used.changed().await.unwrap(), key("a/1"));
    let mut fresh = store.watch(&key("a")).await.unwrap();
    nats.kill();
    nats.up();
    // By somebody else, who is there before the watch is again.
    let other = nats.store().await;
    other.put(&key("a/2"), b"two", Expect::Absent).await.unwrap();
    other.put(&key("a/1"), b"more", Expect::Revision(first)).await.unwrap();
    for watch in [&mut used, &mut fresh] {
        let mut seen = Vec::new();
        while !(seen.contains(&key("a/1")) && seen.contains(&key("a/2"))) {
            seen.push(timeout(PATIENCE, watch.changed()).await.expect("the watch goes on").unwrap());
        }
    }
    // And so does everything else.
    assert_eq!(store.get(&key("a/2")).await.unwrap().unwrap().value, b"two");
    assert_eq!(store.list(&key("a")).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_no_answer_and_no_end() {
    let nats = Nats::start("");
    nats.store().await.put(&key("a/1"), b"one", Expect::Absent).await.unwrap();
    let store = NatsStore::open(&nats.address("toehold"), &impatient()).await.unwrap();
    nats.server.as_ref().unwrap().suspend();
    let unanswered = |error: StoreError| {
        let words = in_words(&error);
        assert!(matches!(error, StoreError::Unavailable { .. }), "{words}");
        assert!(words.contains("in the store"), "{words}");
    };
    let in_time = PATIENCE;
    // What was under way when it was stopped may still be answered.
    let mut read = Ok(None);
    for _ in 0..100 {
        read = timeout(in_time, store.get(&key("a/1"))).await.unwrap();
        if read.is_err() {
            break;
        }
    }
    unanswered(read.unwrap_err());
    unanswered(timeout(in_time, store.put(&key("a/2"), b"", Expect::Absent)).await.unwrap().unwrap_err());
    unanswered(timeout(in_time, store.list(&key("a"))).await.unwrap().unwrap_err());
    unanswered(timeout(in_time, store.watch(&key("a"))).await.unwrap().unwrap_err());
    let opened = timeout(in_time, NatsStore::open(&nats.address("toehold"), &impatient())).await.unwrap();
    unanswered(opened.unwrap_err());
    nats.server.as_ref().unwrap().resume();
    assert_eq!(timeout(in_time, store.get(&key("a/1"))).await.unwrap().unwrap().unwrap().value, b"one");
}

/// The server takes what was sent to it while it stood still, and its answers go to nobody any more.
#[tokio::test]
async fn a_write_whose_answer_was_lost_is_sent_again_and_takes_place_once() {
    let nats = Nats::start("");
    let store = nats.store().await;
    let server = nats.server.as_ref().unwrap();
    // Longer than one sending is waited for, of whose end nobody else hears.
    let standstill = async || {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        server.resume();
    };
    server.suspend();
    let (one, two) = (key("a/1"), key("a/2"));
    let (created, ()) = tokio::join!(store.put(&one, b"one", Expect::Absent), standstill());
    let created = created.unwrap();
    server.suspend();
    let (replaced, ()) = tokio::join!(store.put(&one, b"two", Expect::Revision(created)), standstill());
    let replaced = replaced.unwrap();
    assert!(replaced.0 == created.0 + 1, "one message for each: {created:?}, {replaced:?}");
    let entry = store.get(&one).await.unwrap().unwrap();
    assert_eq!((entry.value.as_slice(), entry.revision), (b"two".as_slice(), replaced));
    server.suspend();
    let (deleted, ()) = tokio::join!(store.delete(&one, replaced), standstill());
    deleted.unwrap();
    assert!(store.get(&one).await.unwrap().is_none());
    let next = store.put(&two, b"", Expect::Absent).await.unwrap();
    assert_eq!(next.0, replaced.0 + 2);
    // So is the first one after a deletion, which the server refuses as such: it comes to nobody, and is asked again.
    server.suspend();
    let (anew, ()) = tokio::join!(store.put(&one, b"three", Expect::Absent), standstill());
    anew.unwrap();
    assert_eq!(store.get(&one).await.unwrap().unwrap().value, b"three");
    // What another one has written since is not taken for it.
    server.suspend();
    let (late, refused, ()) =
        tokio::join!(store.put(&two, b"x", Expect::Revision(next)), store.put(&two, b"y", Expect::Revision(next)), standstill());
    assert!(late.is_ok() != refused.is_ok(), "{late:?} {refused:?}");
}

/// Passes on what is said to the server at this port, and its answers; as long as it is told to, none of them. A connection that has lost
/// one ends then.
async fn between(server: u16) -> (u16, watch::Sender<bool>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, loses) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut loses = loses.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let (mut asked, mut told) = near.split();
                let (mut answers, mut passed) = far.split();
                let down = async {
                    let mut some = [0; 4_096];
                    while let Ok(length @ 1..) = answers.read(&mut some).await {
                        if *loses.borrow() {
                            drop(loses.wait_for(|loses| !loses).await);
                            return;
                        }
                        told.write_all(&some[..length]).await.unwrap();
                    }
                };
                tokio::select! { () = down => {}, _ = tokio::io::copy(&mut asked, &mut passed) => {} }
            });
        }
    });
    (port, sender)
}

/// It took place, and its answer was lost; it is not written once more over what came after it.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_has_deleted_does_not_come_back_when_its_write_is_sent_again() {
    let nats = Nats::start("");
    let other = nats.store().await;
    let (port, loses) = between(nats.port).await;
    let through = format!("nats://127.0.0.1:{port}/toehold").parse().unwrap();
    let store = NatsStore::open(&through, &NatsOptions::default()).await.unwrap();
    let one = key("a/1");
    loses.send_replace(true);
    let written = tokio::spawn({
        let (store, one) = (store.clone(), one.clone());
        async move { store.put(&one, b"one", Expect::Absent).await }
    });
    let entry = loop {
        if let Some(entry) = other.get(&one).await.unwrap() {
            break entry;
        }
        tokio::task::yield_now().await;
    };
    let deleted = other.remove(&one, entry.revision).await.unwrap();
    loses.send_replace(false);
    let written = written.await.unwrap();
    assert_eq!((other.get(&one).await.unwrap(), other.last_revision().await.unwrap()), (None, deleted.0), "{written:?}");
    let words = in_words(&written.unwrap_err());
    assert!(words.contains("no answer came"), "{words}");
}

#[tokio::test]
async fn nobody_there_is_said_in_words() {
    let mut nats = Nats::start("");
    nats.kill();
    let error = NatsStore::open(&nats.address("toehold"), &impatient()).await.unwrap_err();
    let words = in_words(&error);
    assert!(words.contains(&format!("no server of nats://127.0.0.1:{}/toehold can be used", nats.port)), "{words}");
}

/// What was on its way meanwhile would be taken by the earlier state, too; also where nothing was written from here before.
#[tokio::test(flavor = "multi_thread")]
async fn n3_a_write_that_waited_for_the_server_is_not_sent_to_an_earlier_state_of_the_store() {
    for is_first in [false, true] {
        let mut nats = Nats::start("");
        nats.store().await.put(&key("a/1"), b"one", Expect::Absent).await.unwrap();
        nats.back_up();
        nats.up();
        let other = nats.store().await;
        let one = other.get(&key("a/1")).await.unwrap().unwrap().revision;
        let patience = Duration::from_secs(8);
        let options = NatsOptions { patience, ..NatsOptions::default() };
        let opened = async || NatsStore::open(&nats.address("toehold"), &options).await.unwrap();
        let (store, two) = if is_first {
            let two = other.put(&key("a/2"), b"two", Expect::Absent).await.unwrap();
            (opened().await, two)
        } else {
            let store = opened().await;
            let two = store.put(&key("a/2"), b"two", Expect::Absent).await.unwrap();
            (store, two)
        };
        nats.kill();
        eventually("the store notices", || !store.is_connected());
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { store.put(&key("a/1"), b"more", Expect::Revision(one)).await }
        });
        nats.restored();
        let words = in_words(&waiting.await.unwrap().unwrap_err());
        assert!(words.contains(&format!("come to revision {}, and {} was written", one.0, two.0)), "{words}");
        assert_eq!(store.last_revision().await.unwrap(), one.0, "it was sent");
        assert!(store.connections() > 1);
    }
}

/// It is put back behind a connection that holds, and a key that was not there before may be written: that is no success.
#[tokio::test]
async fn n3_a_write_that_an_earlier_state_of_the_store_has_taken_is_an_error() {
    let nats = Nats::start("");
    let store = nats.store().await;
    for number in 0..3 {
        store.put(&key(&format!("a/{number}")), b"", Expect::Absent).await.unwrap();
    }
    async_nats::jetstream::new(nats.client().await).delete_stream("KV_toehold").await.unwrap();
    drop(nats.store().await);
    let words = in_words(&store.put(&key("b/1"), b"", Expect::Absent).await.unwrap_err());
    assert!(words.contains("come to revision 1, and 3 was written"), "{words}");
}

/// What an earlier state is given has revisions that were reported long ago.
#[tokio::test(flavor = "multi_thread")]
async fn n3_a_watch_breaks_where_the_store_was_put_back_and_the_next_one_hears_what_comes() {
    let mut nats = Nats::start("");
    let store = nats.store().await;
    let first = store.put(&key("a/0"), b"", Expect::Absent).await.unwrap();
    nats.back_up();
    nats.up();
    // One that has reported something, and one that has not.
    let mut used = store.watch(&key("a")).await.unwrap();
    for number in 1..4 {
        store.put(&key(&format!("a/{number}")), b"", Expect::Absent).await.unwrap();
        assert_eq!(timeout(PATIENCE, used.changed()).await.unwrap().unwrap(), key(&format!("a/{number}")));
    }
    let fresh = store.watch(&key("a")).await.unwrap();
    nats.restored();
    for mut watch in [used, fresh] {
        let told = timeout(PATIENCE, watch.changed()).await.expect("the watch is deaf");
        let words = in_words(&told.unwrap_err());
        assert!(words.contains(&format!("come to revision {}, and {} was written", first.0, first.0 + 3)), "{words}");
    }
    let mut next = store.watch(&key("a")).await.unwrap();
    nats.store().await.put(&key("a/1"), b"anew", Expect::Absent).await.unwrap();
    assert_eq!(timeout(PATIENCE, next.changed()).await.unwrap().unwrap(), key("a/1"));
}

/// It has come as far as the one that was watched when it is looked at; that it is another one is told by when it was made.
#[tokio::test(flavor = "multi_thread")]
async fn n3_a_watch_breaks_where_another_store_was_made_in_its_place_behind_a_connection_that_holds() {
    let nats = Nats::start("");
    let store = nats.store().await;
    store.put(&key("a/0"), b"", Expect::Absent).await.unwrap();
    let mut watch = store.watch(&key("a")).await.unwrap();
    async_nats::jetstream::new(nats.client().await).delete_stream("KV_toehold").await.unwrap();
    let other = nats.store().await;
    for number in 0..4 {
        other.put(&key(&format!("b/{number}")), b"", Expect::Absent).await.unwrap();
    }
    let told = timeout(PATIENCE * 2, watch.changed()).await.expect("the watch is deaf");
    let words = in_words(&told.unwrap_err());
    assert!(words.contains("made anew"), "{words}");
}
