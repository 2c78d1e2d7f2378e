//! Changes of the members that broke off in the middle.

use toehold::shared::{Member, NewMember, OperatorSet, Role};
use toehold_core::{Expect, Store, Timestamp};

use crate::server::Nats;
use crate::support::Inside;
use crate::{asks_to_be_let_in, by_hand, founder, joins, key, members, says, sharing};

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_is_in_and_opens_nothing_yet_is_told_and_the_same_command_goes_on() {
    let nats = Nats::start("");
    let store = nats.address("toehold");
    let anna = founder(&store);
    let ben = sharing(&store);
    let word = asks_to_be_let_in(&ben);
    // As if `operator add` had died after it wrote the list.
    let (signing, raw, chain) = by_hand(&anna, &nats).await;
    let new: NewMember = word.parse().unwrap();
    let mut next = chain.members().members.clone();
    let (id, recipient, added_at) = (new.id(), new.recipient.to_string(), Timestamp::UNIX_EPOCH);
    next.push(Member { id, name: "ben".to_owned(), role: Role::Operator, recipient, key: new.key, added_at });
    let next = chain.next(next, Timestamp::UNIX_EPOCH);
    raw.put(&OperatorSet::key(next.number).unwrap(), &next.sealed(&signing).unwrap(), Expect::Absent).await.unwrap();

    let told = ben.run(["--json", "init"]).ends(3).json();
    assert!(told["sealed_to_others"][0].as_str().unwrap().starts_with("masterkey/"), "{told}");
    assert!(told["hint"].as_str().unwrap().contains(&word));
    let again = anna.run(["--json", "operator", "add", &word]).ends(0).json();
    assert_eq!((again["added"].as_bool(), again["name"].as_str()), (Some(false), Some("ben")));
    ben.run(["init"]).ends(0);
}

/// Names come from whoever signed the list, and not only through commands that look at them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_is_called_drives_no_terminal() {
    const NAME: &str = "ben\u{1b}[2J\nanna";
    const SHOWN: &str = "ben\u{fffd}[2J\u{fffd}anna";
    let nats = Nats::start("");
    let store = nats.address("toehold");
    let (anna, ben) = (founder(&store), sharing(&store));
    let word = asks_to_be_let_in(&ben);
    let (signing, raw, chain) = by_hand(&anna, &nats).await;
    let new: NewMember = word.parse().unwrap();
    let mut next = chain.members().members.clone();
    let (id, recipient, added_at) = (new.id(), new.recipient.to_string(), Timestamp::UNIX_EPOCH);
    next.push(Member { id: id.clone(), name: NAME.to_owned(), role: Role::Operator, recipient, key: new.key, added_at });
    let next = chain.next(next, Timestamp::UNIX_EPOCH);
    raw.put(&OperatorSet::key(next.number).unwrap(), &next.sealed(&signing).unwrap(), Expect::Absent).await.unwrap();

    let told = [
        sharing(&store).run(["init"]).ends(3),
        anna.run(["operator", "add", &word]).ends(0),
        ben.run(["init"]).ends(0),
        anna.run(["operator", "ls"]).ends(0),
        anna.run(["operator", "rm", id.as_str()]).ends(0),
    ];
    for done in &told {
        assert!(done.stdout.contains(SHOWN) && !done.stdout.contains('\u{1b}'), "{}", done.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n1_a_removal_that_broke_off_is_finished_and_what_came_after_stays_refused() {
    let nats = Nats::start("");
    let store = nats.address("toehold");
    let host = Inside::start().await;
    let anna = founder(&store);
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    host.add(&ben, &[]).ends(0);
    let (_, _, before) = by_hand(&ben, &nats).await;
    let (signing, raw, chain) = by_hand(&anna, &nats).await;
    let gone = chain.members().members[1].clone();
    let rest = chain.members().members[..1].to_vec();
    let next = chain.next(rest, Timestamp::UNIX_EPOCH);
    raw.put(&OperatorSet::key(next.number).unwrap(), &next.sealed(&signing).unwrap(), Expect::Absent).await.unwrap();
    // He goes on with what he has: the key that signs, and the servers' credentials.
    let place = key("host/late@example.net");
    let (late, _, _) = by_hand(&ben, &nats).await;
    let origin = toehold::shared::Origin { signer: gone.id.clone(), set: before.members().number, replaces: None };
    let envelope = toehold::shared::Envelope::seal(&late, chain.store(), &place, origin, b"{}");
    raw.put(&place, &envelope.to_bytes(), Expect::Absent).await.unwrap();

    says(&anna.run(["host", "ls"]).ends(3), "no member of this store any more");
    let done = anna.run(["--json", "operator", "rm", gone.id.as_str()]).ends(0).json();
    assert_eq!((done["removed"].as_bool(), &done["refused"][0]), (Some(false), &"host/late@example.net".into()));
    says(&anna.run(["host", "ls"]).ends(3), "host/late@example.net");
    anna.run(["store", "discard", "host/late@example.net"]).ends(0);
    for command in [&["host", "check"][..], &["store", "check"], &["audit", "verify"]] {
        anna.run(command.iter().copied()).ends(0);
    }
    assert_eq!(members(&anna).len(), 1);
}
