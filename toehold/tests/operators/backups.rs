//! A store that is put back to an earlier state.

use std::path::Path;
use std::process::Command;

use crate::server::Nats;
use crate::support::Inside;
use crate::{WRITE, founder, has_a_gateway, joins, members, says, sharing};

fn copy(from: &Path, to: &Path) {
    drop(std::fs::remove_dir_all(to));
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn n3_a_restored_backup_is_read_only_until_somebody_accepts_it() {
    let mut nats = Nats::start("");
    let store = nats.address("fleet");
    let host = Inside::start().await;
    let anna = founder(&store);
    host.add(&anna, &[]).ends(0);
    has_a_gateway(&anna);
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    let (data, backup) = (nats.path().join("jetstream"), nats.path().join("backup"));
    nats.kill();
    copy(&data, &backup);
    nats.up();
    anna.run(["key", "rotate", "--grace", "0s"]).ends(0);
    anna.run(["operator", "rm", "ben"]).ends(0);
    nats.kill();
    copy(&backup, &data);
    nats.up();

    // Read, yes; written, no, and nothing is done to a host.
    let listed = anna.run(["host", "ls"]).ends(0);
    says(&listed, "is behind what this machine has seen");
    let refused = anna.run(WRITE).ends(1);
    says(&refused, "store accept-rollback");
    let before = host.ours();
    let rotated = anna.run(["key", "rotate", "--grace", "0s"]);
    assert_ne!(rotated.code, 0);
    assert_eq!(host.ours(), before);
    assert_ne!(anna.run(["operator", "rm", "ben"]).code, 0);
    says(&anna.run(["init"]).ends(3), "accept-rollback");
    let reasons = anna.run(["--json", "store", "accept-rollback"]).ends(0).json()["behind"].to_string();
    for reason in ["generation 0, and 1 was seen", "lists of members", "audit log"] {
        assert!(reasons.contains(reason), "{reasons}");
    }
    anna.run(WRITE).ends(0);
    assert_eq!(members(&anna).len(), 2, "whoever was removed since is back, and seen");
    says(&anna.run(["store", "accept-rollback"]).ends(1), "nothing to accept");
    // He who saw nothing of what is gone has nothing to accept.
    ben.run(["token", "ls"]).ends(0);
    ben.run(WRITE).ends(0);
}
