//! Values that a careless script would run: they arrive literally, or are refused before there is a line.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::install_support::{HOST_KEY, Host, SHELLS, fake, os, tool};
use proptest::prelude::*;
use toehold_core::{Account, PublicKey};
use toehold_keygen::install::RemovalCommand;

/// `canary` is a command that leaves a trace.
const FRAGMENTS: [&str; 40] = [
    "'",
    "\"",
    "`canary`",
    "$(canary)",
    ";canary;",
    "&canary&",
    "|canary|",
    "\\",
    "\\'",
    "'\\''",
    "$HOME",
    "${x:-$(canary)}",
    "~",
    "~root",
    "*",
    "?",
    "[a-z]",
    "{a,b}",
    "!",
    "!!",
    "!canary",
    "#",
    "-",
    "-rf",
    "--",
    " ",
    "  ",
    "=",
    "%s",
    "%n",
    "\\n",
    "\\c",
    "é",
    "日本",
    "\u{1f511}",
    "a",
    "b",
    "\\$(canary)",
    "<x>",
    ")",
];

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(FRAGMENTS.as_slice()), 1..7).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_values_arrive_literally_and_run_nothing(
        home in text(), user in text(), key_file in text(), pasted in prop::sample::select(SHELLS.as_slice()),
        sh in prop::sample::select(SHELLS.as_slice()), interactive in any::<bool>(),
    ) {
        let user: String = user.chars().filter(|c| !c.is_whitespace() && !"'\":/".contains(*c)).collect();
        let Ok(account) = Account::new(&user, "web1", 22) else { return Err(TestCaseError::reject("no user")) };
        let mut host = Host::with_home_and_sh(&home, sh);
        host.account = account;
        let first = host.first_in_path();
        let executed = host.directory.path().join("executed");
        fake(&first, "canary", &format!("echo yes >>{}", executed.display()));
        fs::write(first.join("user"), format!("{user}\n")).unwrap();
        fake(&first, "id", &format!("case $1 in -un) exec cat {}/user;; *) exec {} \"$@\"; esac", first.display(), tool("id").display()));
        let key_path = host.directory.path().join(format!("{key_file}.pub"));
        fs::write(&key_path, format!("{HOST_KEY}\n")).unwrap();
        let from = "*,!10.0.0.?".parse().unwrap();

        let line = host.install().home(host.home_text()).host_key_file(key_path.to_str().unwrap()).from(&from).command_line();
        let Ok(line) = line else { return Err(TestCaseError::reject("too long")) };
        let shell = tool(pasted);
        let ran = host.run_in(&program(&shell, pasted, interactive), line.expose());
        prop_assert!(!executed.exists(), "{ran:?}");
        let wanted = host.utc_line().replacen(" ssh-", &format!(",from=\"{from}\" ssh-"), 1);
        prop_assert_eq!(fs::read_to_string(host.file()).ok(), Some(wanted), "{:?}", ran);
        let host_key: PublicKey = HOST_KEY.parse().unwrap();
        prop_assert!(host.proof().verify(&host.secret, &host_key).is_ok());

        let removal = RemovalCommand::new(&host.account, host.session, &host.key).home(host.home_text()).command_line().unwrap();
        let ran = host.run_in(&program(&shell, pasted, interactive), &removal);
        prop_assert!(!executed.exists(), "{ran:?}");
        prop_assert!(!host.ssh().exists(), "{ran:?}");
        let left: Vec<_> = fs::read_dir(host.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        prop_assert_eq!(left.len(), 4, "home, host.pub, the told key file and the fakes: {:?}", left);
    }
}

fn program<'a>(shell: &'a Path, name: &str, interactive: bool) -> Vec<&'a OsStr> {
    let mut words = vec![shell.as_os_str()];
    words.extend(match name {
        "busybox" => vec![os("ash")],
        "bash" => vec![os("--norc")],
        "zsh" => vec![os("-f")],
        _ => vec![],
    });
    if interactive {
        words.push(os("-i"));
    }
    words
}
