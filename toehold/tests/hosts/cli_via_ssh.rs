//! The line that the documents show for a list of accounts: OpenSSH's own client leads there, whatever the port.

use std::fs;

use crate::support;
use crate::support::{FOREIGN, RealSshd, Toehold};

/// As the README and docs/cli.md have it, behind the words `ssh`.
const DOCUMENTED: &str = "-p {port} {user}@{host} sh";

#[test]
fn a_list_is_brought_in_by_the_documented_line() {
    for document in ["README.md", "docs/cli.md"] {
        let text = fs::read_to_string(format!("{}/../{document}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(text.contains(&format!("ssh {DOCUMENTED}")), "{document}");
    }
    let toehold = Toehold::new();
    let hosts = [RealSshd::builder().own_home().start(), RealSshd::builder().own_home().start()];
    let directory = support::server::directory("admin");
    let admin = directory.path().join("admin");
    let public = support::keys::ssh_keygen(&admin, &["-t", "ed25519"]);
    let file = [FOREIGN, format!("\n{public}\n").as_bytes()].concat();
    let mut list = String::new();
    let mut known = String::new();
    for host in &hosts {
        host.authorize(&file);
        list += &format!("{}\n", host.account());
        known += &format!("[127.0.0.1]:{} {}\n", host.port(), host.host_key());
    }
    let (accounts, known_hosts, config) =
        (directory.path().join("accounts"), directory.path().join("known_hosts"), directory.path().join("config"));
    fs::write(&accounts, list).unwrap();
    fs::write(&known_hosts, known).unwrap();
    let lines = [
        format!("UserKnownHostsFile {}", known_hosts.display()),
        format!("IdentityFile {}", admin.display()),
        "IdentitiesOnly yes".to_owned(),
        "BatchMode yes".to_owned(),
    ];
    fs::write(&config, lines.join("\n") + "\n").unwrap();
    let via = format!("ssh -F {} {DOCUMENTED}", config.display());
    toehold.run(["host", "add", "--file", accounts.to_str().unwrap(), "--via", &via]).ends(0);
    for host in &hosts {
        let now = fs::read(host.authorized_keys()).unwrap();
        assert!(now.starts_with(&file), "foreign_bytes");
        assert_eq!(String::from_utf8_lossy(&now[file.len()..]), format!("{} toehold-master\n", toehold.master_key()));
    }
    toehold.run(["host", "check"]).ends(0);
}
