//! What the install line refuses, in words and before anything is changed, and what it takes back when something fails
//! later. Needs root, for mount namespaces over `/etc` and for other people's files.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::install_support;
use crate::install_support::{HOST_KEY, Host, OTHER_KEY, SHELLS, fake, needs_root, os, tool};
use toehold_core::Account;
use toehold_keygen::install::{ExpiryForm, InstallError, RemovalCommand};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn run(program: &str, words: &[&str], file: &Path) {
    assert!(Command::new(tool(program)).args(words).arg(file).status().unwrap().success(), "{program}");
}

#[test]
fn o3_links_are_refused() {
    for sh in SHELLS {
        let host = Host::with_sh(sh).with_file(b"# mine\n");
        fs::rename(host.ssh(), host.home.join("elsewhere")).unwrap();
        symlink("elsewhere", host.ssh()).unwrap();
        host.refuses(".ssh is a link");
        fs::remove_file(host.ssh()).unwrap();
        symlink("nowhere", host.ssh()).unwrap();
        host.refuses(".ssh is a link");

        for target in ["real", "nowhere"] {
            let host = Host::with_sh(sh).with_file(b"# mine\n");
            fs::rename(host.file(), host.ssh().join("real")).unwrap();
            symlink(target, host.file()).unwrap();
            host.refuses("authorized_keys is a link");
            let removed = host.run_line(&host.removal_line());
            assert!(removed.err.contains("is a link") || removed.code == Some(0), "{removed:?}");
            assert!(host.file().is_symlink());
        }
    }
}

#[test]
fn a_home_that_is_a_link_is_fine() {
    let mut host = Host::new();
    let link = host.directory.path().join("link");
    symlink("home", &link).unwrap();
    host.home = link;
    host.run().succeeded();
    host.run_line(&host.removal_line()).succeeded();
    assert!(!host.ssh().exists());
}

#[test]
fn o3_other_peoples_files_are_refused() {
    needs_root();
    for sh in SHELLS {
        let host = Host::with_sh(sh).with_file(b"# mine\n");
        chown(host.file(), Some(65534), None).unwrap();
        host.refuses("authorized_keys belongs to uid 65534");
        chown(host.file(), Some(0), None).unwrap();
        chown(host.ssh(), Some(65534), None).unwrap();
        host.refuses(".ssh belongs to uid 65534");
        chown(host.ssh(), Some(0), None).unwrap();
        chown(&host.home, Some(65534), None).unwrap();
        host.refuses("home/ belongs to uid 65534");
    }
    // Root may own a home, never what lies in it.
    let mut host = Host::new().with_file(b"");
    host.user = Some(65534);
    host.account = Account::new("nobody", "web1", 22).unwrap();
    host.refuses(".ssh belongs to uid 0");
}

#[test]
fn o6_what_strict_modes_refuses_is_named() {
    for sh in SHELLS {
        for bits in [0o020, 0o002] {
            let host = Host::with_sh(sh).with_file(b"# mine\n");
            for (path, name) in [(host.home.clone(), "home/"), (host.ssh(), ".ssh"), (host.file(), "authorized_keys")] {
                let before = install_support::mode(&path);
                set_mode(&path, before | bits);
                host.refuses(&format!("{name}, use chmod go-w"));
                set_mode(&path, before);
            }
        }
    }
}

#[test]
fn an_acl_or_another_label_would_be_lost_and_is_refused() {
    needs_root();
    let host = Host::new().with_file(b"# mine\n");
    run("setfacl", &["-m", "u:65534:r"], &host.file());
    host.refuses("authorized_keys has an ACL");
    run("setfacl", &["-b"], &host.file());
    // As restorecon, cp -a and mv leave them. The user and the role of a label do not matter.
    run("setfattr", &["-n", "security.selinux", "-v", "system_u:object_r:ssh_home_t:s0"], &host.ssh());
    run("setfattr", &["-n", "security.selinux", "-v", "unconfined_u:object_r:user_home_t:s0"], &host.file());
    host.refuses("authorized_keys lost its SELinux type, use restorecon");
    run("setfattr", &["-n", "security.selinux", "-v", "unconfined_u:object_r:ssh_home_t:s0"], &host.file());
    host.run().succeeded();
}

#[test]
fn what_is_no_file_is_refused() {
    let host = Host::new();
    fs::create_dir_all(host.file()).unwrap();
    host.refuses("authorized_keys is no file");
    let host = Host::new();
    fs::create_dir_all(host.ssh()).unwrap();
    run("mkfifo", &[], &host.file());
    host.refuses("authorized_keys is no file");
    let host = Host::new();
    fs::write(host.ssh(), "").unwrap();
    host.refuses("cannot write");
}

#[test]
fn o3_only_the_accounts_own_user_may_run_it() {
    let mut host = Host::new();
    host.account = Account::new("somebody-else", "web1", 22).unwrap();
    host.refuses("not somebody-else");
    let ran = host.run_line(&host.removal_line());
    assert!(ran.code == Some(1) && ran.err.contains("not somebody-else"), "{ran:?}");
}

/// A host with a user `deploy` of its own.
fn deploy(sh: &'static str) -> Host {
    let mut host = Host::with_home_and_sh("deploy", sh);
    let passwd = host.directory.path().join("passwd");
    fs::write(&passwd, "root:x:0:0:root:/root:/bin/sh\ndeploy:x:4242:4242:,,,:/home/deploy:/bin/sh\n").unwrap();
    host.mounts = vec![(passwd, "/etc/passwd".into()), (host.directory.path().into(), "/home".into())];
    chown(&host.home, Some(4242), Some(4242)).unwrap();
    host.user = Some(4242);
    host.account = Account::new("deploy", "web1", 22).unwrap();
    host
}

#[test]
fn o3_the_home_is_the_one_of_passwd_and_not_of_the_environment() {
    needs_root();
    for sh in SHELLS {
        let host = deploy(sh);
        let file = "/home/host.pub";
        let line = host.install().host_key_file(file).command_line().unwrap().expose().to_owned();
        host.run_line(&line).succeeded();
        assert_eq!(fs::read_to_string(host.file()).unwrap(), host.utc_line(), "{sh}");
        assert_eq!(host.proof().verify(&host.secret, &HOST_KEY.parse().unwrap()), Ok(()));
        let removal = RemovalCommand::new(&host.account, host.session, &host.key).command_line().unwrap();
        host.run_line(&removal).succeeded();
        assert!(!host.ssh().exists(), "{sh}");

        // A directory that the shell would look up in CDPATH or its own table of names is not the home either.
        fs::remove_dir(&host.home).unwrap();
        host.run_line(&line).refused("there is no /home/deploy");
    }
}

#[test]
fn o3_a_user_without_a_home_is_refused() {
    needs_root();
    for sh in SHELLS {
        for home in ["", "relative"] {
            let host = deploy(sh);
            fs::write(&host.mounts[0].0, format!("root:x:0:0::/root:/bin/sh\ndeploy:x:4242:4242::{home}:/bin/sh\n")).unwrap();
            let line = host.install().command_line().unwrap();
            host.run_line(line.expose()).refused("no home");
        }
    }
}

#[test]
fn a_user_whose_home_no_shell_can_look_up_needs_a_told_one() {
    for user in ["$(id)", "a;b", "1000", "+x", "a*b", "d\\u"] {
        let mut host = Host::new();
        host.account = Account::new(user, "web1", 22).unwrap();
        assert_eq!(host.install().command_line().unwrap_err(), InstallError::HomeUnknown(user.to_owned()));
        assert!(host.install().home("/srv/x").command_line().is_ok());
    }
}

#[test]
fn o6_what_the_hosts_sshd_does_is_named_before_anything_is_left() {
    needs_root();
    let cases = [
        ("AuthorizedKeysFile /etc/ssh/keys/%u", "sshd reads /etc/ssh/keys/%u, not /home/deploy/.ssh/authorized_keys"),
        ("authorizedkeysfile=none", "sshd reads none, not"),
        ("AuthorizedKeysFile none\nAuthorizedKeysFile .ssh/authorized_keys", "sshd reads none, not"),
        ("\tChrootDirectory\t/srv/sftp", "sshd has chrootdirectory /srv/sftp"),
        ("ForceCommand /usr/bin/menu", "sshd has forcecommand /usr/bin/menu"),
        ("PubkeyAuthentication no", "sshd has pubkeyauthentication no"),
        ("Include /etc/ssh/sshd_config.d/*.conf\nAuthorizedKeysFile .ssh/authorized_keys", "sshd reads .keys, not"),
        ("AuthorizedKeysFile .ssh/authorized_keys2 %h/.ssh/authorized_keys", ""),
        ("AuthorizedKeysFile \"/home/%u/.ssh/authorized_keys\"", ""),
        ("AuthorizedKeysFile .ssh/authorized_keys\nAuthorizedKeysFile none", ""),
        ("#AuthorizedKeysFile none\n# ForceCommand x\nForceCommand none\nChrootDirectory none\nChrootDirectory /", ""),
        ("ForceCommand internal-sftp -l INFO\nPermitRootLogin no\nGatewayPorts no", ""),
        ("Match User somebody\n  ForceCommand /usr/bin/menu\n  AuthorizedKeysFile none", ""),
        (" \t MATCH User somebody\n  ForceCommand /usr/bin/menu\n  AuthorizedKeysFile none", ""),
    ];
    // Each case in dash and in one shell more.
    for (n, (config, refusal)) in cases.into_iter().enumerate() {
        for sh in ["dash", SHELLS[n % SHELLS.len()]] {
            let mut host = deploy(sh);
            let etc = host.directory.path().join("ssh");
            fs::create_dir_all(etc.join("sshd_config.d")).unwrap();
            fs::write(etc.join("ssh_host_ed25519_key.pub"), HOST_KEY).unwrap();
            fs::write(etc.join("sshd_config"), format!("# mine\n\n{config}\n")).unwrap();
            if config.starts_with("Include") {
                fs::write(etc.join("sshd_config.d/10.conf"), "AuthorizedKeysFile .keys\nMatch all\nForceCommand x\n").unwrap();
            }
            host.mounts.push((etc, "/etc/ssh".into()));
            let line = host.install().command_line().unwrap().expose().to_owned();
            if refusal.is_empty() {
                host.run_line(&line).succeeded();
                assert_eq!(
                    host.proof().verify(&host.secret, &HOST_KEY.parse().unwrap()),
                    Ok(()),
                    "no newline ends the .pub file"
                );
            } else {
                host.refuses_line(&line, refusal);
            }
        }
    }
    for sh in SHELLS {
        let mut host = deploy(sh);
        let etc = host.directory.path().join("ssh");
        fs::create_dir(&etc).unwrap();
        fs::write(etc.join("sshd_config"), "AuthorizedKeysCommand /usr/bin/sss_ssh_authorizedkeys\n").unwrap();
        host.mounts.push((etc, "/etc/ssh".into()));
        let line = host.install().host_key_file("/home/host.pub").command_line().unwrap();
        let ran = host.run_line(line.expose());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(ran.err, "toehold: note: sshd has authorizedkeyscommand /usr/bin/sss_ssh_authorizedkeys\n");
    }
}

/// Root can ask sshd itself, which knows what stands in `Match`.
#[test]
fn o6_root_asks_sshd_about_this_account() {
    needs_root();
    let mut host = Host::new();
    let etc = host.directory.path().join("ssh");
    fs::create_dir(&etc).unwrap();
    let key = etc.join("ssh_host_ed25519_key");
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f"], &key);
    let user = host.account.user().to_owned();
    fs::write(etc.join("sshd_config"), format!("Match User {user}\n  ForceCommand /usr/bin/menu\n")).unwrap();
    host.mounts.push((etc, "/etc/ssh".into()));
    host.refuses("sshd has forcecommand /usr/bin/menu");
    // Where the caller knows the server, the host's sshd has no say.
    let line = host.install().home(host.home_text()).expiry(ExpiryForm::Utc).command_line().unwrap();
    host.run_line(line.expose()).succeeded();
    let public: toehold_core::PublicKey = fs::read_to_string(key.with_extension("pub")).unwrap().parse().unwrap();
    assert_eq!(host.proof().verify(&host.secret, &public), Ok(()));
}

#[test]
fn o5_a_host_whose_keys_cannot_be_seen_is_refused() {
    needs_root();
    for sh in SHELLS {
        let mut host = deploy(sh);
        let empty = host.directory.path().join("ssh");
        fs::create_dir(&empty).unwrap();
        host.mounts.push((empty, "/etc/ssh".into()));
        host.account = Account::new("deploy", "web1", 1).unwrap();
        let first = host.first_in_path();
        fake(&first, "ssh-keyscan", "exit 1");
        let line = host.install().command_line().unwrap().expose().to_owned();
        host.refuses_line(&line, "cannot read a host key");
        let line = host.install().host_key_file("/home/missing.pub").command_line().unwrap().expose().to_owned();
        host.refuses_line(&line, "cannot read /home/missing.pub");
    }
}

#[test]
fn a_read_only_home_is_refused() {
    needs_root();
    for sh in SHELLS {
        for with_file in [false, true] {
            let mut host = Host::with_sh(sh);
            if with_file {
                host = host.with_file(b"# mine");
            }
            let line = host.line();
            let script = format!("mount --bind {0} {0}; mount -o remount,ro,bind {0}; exec sh", host.home_text());
            let before = host.snapshot();
            let unshare = tool("unshare");
            host.run_in(&[unshare.as_os_str(), os("-m"), os("sh"), os("-ec"), os(&script)], &line).refused("cannot");
            assert_eq!(host.snapshot(), before);
        }
    }
}

/// From no free page at all to enough of them: whatever write it is that finds the disk full, nothing is left behind.
#[test]
fn a_full_disk_changes_nothing() {
    needs_root();
    for sh in SHELLS {
        let (mut refused, mut done) = (0, 0);
        for bytes in [3901, 4096] {
            for free in 0..4 {
                let host = Host::with_sh(sh);
                let (home, result) = (host.home_text(), host.directory.path().join("result"));
                let result = result.to_str().unwrap();
                let script = format!(
                    "mount -t tmpfs -o size=64k,mode=755 none {home}; mkdir -m 700 {home}/.ssh; umask 077; cd {home}/.ssh
                    yes key | head -c {bytes} >authorized_keys; cat authorized_keys >{result}.before
                    cat /dev/zero >fill 2>/dev/null || :; /usr/bin/truncate -s -$(({free}*4096)) fill; cd /
                    sh || :; cat {home}/.ssh/authorized_keys >{result}.after; ls -A {home}/.ssh >{result}.names"
                );
                let unshare = tool("unshare");
                let ran = host.run_in(&[unshare.as_os_str(), os("-m"), os("/bin/sh"), os("-ec"), os(&script)], &host.line());
                let read = |name: &str| fs::read(format!("{result}.{name}")).unwrap();
                let (before, after) = (read("before"), read("after"));
                if ran.out.contains("has the temporary key") {
                    done += 1;
                    assert!(
                        after.starts_with(&before) && after.ends_with(host.utc_line().as_bytes()),
                        "{sh} {bytes} {free}: {ran:?}"
                    );
                } else {
                    refused += 1;
                    assert!(ran.err.contains("cannot write"), "{ran:?}");
                    assert_eq!(
                        (before == after, read("names")),
                        (true, b"authorized_keys\nfill\n".to_vec()),
                        "{sh} {bytes} {free}"
                    );
                }
            }
        }
        assert!(refused >= 2 && done >= 2, "{sh}: {refused} refused, {done} done");
    }
}

#[test]
fn a_removal_on_a_full_disk_changes_nothing() {
    needs_root();
    for sh in SHELLS {
        for free in 0..3 {
            let host = Host::with_sh(sh);
            let (home, result) = (host.home_text(), host.directory.path().join("result"));
            let result = result.to_str().unwrap();
            let script = format!(
                "mount -t tmpfs -o size=64k,mode=755 none {home}; mkdir -m 700 {home}/.ssh; umask 077; cd {home}/.ssh
                yes key | head -c 8000 >authorized_keys; printf '\\n%s\\nz' '{}' >>authorized_keys
                cat authorized_keys >{result}.before; cat /dev/zero >fill 2>/dev/null || :
                /usr/bin/truncate -s -$(({free}*4096)) fill; cd /
                sh || :; cat {home}/.ssh/authorized_keys >{result}.after; ls -A {home}/.ssh >{result}.names",
                host.key
            );
            let unshare = tool("unshare");
            let ran = host.run_in(&[unshare.as_os_str(), os("-m"), os("/bin/sh"), os("-ec"), os(&script)], &host.removal_line());
            let read = |name: &str| fs::read(format!("{result}.{name}")).unwrap();
            assert!(Path::new(&format!("{result}.names")).exists(), "{ran:?}");
            assert_eq!(read("names"), b"authorized_keys\nfill\n");
            if free < 2 {
                assert!(ran.err.contains("cannot write"), "{sh} {free}: {ran:?}");
                assert_eq!(read("before"), read("after"), "{sh} {free}");
            } else {
                ran.succeeded();
                assert_eq!(read("after").len(), 8000 + 2, "{sh}");
            }
        }
    }
}

/// A signal in the midst of the work takes back what was done.
#[test]
fn an_interrupted_line_leaves_nothing() {
    for sh in SHELLS {
        let mut host = Host::with_sh(sh);
        let first = host.first_in_path();
        // Called between the proof and the key.
        fake(&first, "mv", "/bin/mv \"$@\"; kill -TERM $PPID");
        host.refuses("nothing was changed");
    }
}

/// Somebody else writes the file between our append and the failure that takes it back.
#[test]
fn foreign_bytes_that_came_meanwhile_are_not_taken_back() {
    const FOREIGN: &str = "# mine\n";
    for sh in SHELLS {
        for end in ["exit 1", "kill -TERM $PPID"] {
            for before in [None, Some(FOREIGN), Some("# no end")] {
                let mut host = match before {
                    Some(content) => Host::with_sh(sh).with_file(content.as_bytes()),
                    None => Host::with_sh(sh),
                };
                let untouched = host.snapshot();
                let first = host.first_in_path();
                let grep = host.path[1].join("grep");
                let grep = if grep.exists() { grep } else { "/bin/grep".into() };
                let late = |what: &str| format!("case $1 in -qxF) {what}; {end};; *) exec {} \"$@\"; esac", grep.display());

                // Nobody else: all of it goes.
                fake(&first, "grep", &late(":"));
                let ran = host.run();
                assert!(ran.code == Some(1) && ran.err.contains("toehold: nothing was changed"), "{sh}: {ran:?}");
                assert_eq!(host.snapshot(), untouched, "{sh}, {before:?}");

                // A line of somebody else's behind ours: both stay, and it is said.
                fake(&first, "grep", &late(&format!("echo '{OTHER_KEY}' >>'{}'", host.file().display())));
                let ran = host.run();
                assert!(ran.code == Some(1) && !ran.err.contains("nothing was changed"), "{sh}: {ran:?}");
                assert!(ran.err.contains("others wrote") && ran.err.contains("the line stays until"), "{sh}: {ran:?}");
                let newline = if before.is_some_and(|before| !before.ends_with('\n')) { "\n" } else { "" };
                let wanted = format!("{}{newline}{}{OTHER_KEY}\n", before.unwrap_or_default(), host.utc_line());
                assert_eq!(fs::read_to_string(host.file()).unwrap(), wanted, "{sh}, {end}, {before:?}");
                assert!(host.proof_path().exists(), "{sh}: a key that is there without its proof");

                // Somebody replaces the file by a shorter one: that is left alone.
                if before == Some(FOREIGN) {
                    fs::remove_file(host.proof_path()).unwrap();
                    fs::write(host.file(), FOREIGN).unwrap();
                    let path = host.file();
                    fake(&first, "grep", &late(&format!("echo x >'{0}.new'; /bin/mv '{0}.new' '{0}'", path.display())));
                    let ran = host.run();
                    assert!(ran.code == Some(1) && ran.err.contains("nothing was changed"), "{sh}: {ran:?}");
                    assert_eq!(fs::read_to_string(host.file()).unwrap(), "x\n", "{sh}, {end}");
                }
            }
        }
    }
}

#[test]
fn values_that_nobody_can_paste_are_refused() {
    let host = Host::new();
    for bad in ["/a\nb", "/a\tb", "/a\rb", "/a\u{1b}b", "/a\u{7f}", "/a\u{85}", "/a\u{2028}b"] {
        let what = "home directory";
        let error = InstallError::NotPastable { what, value: bad.to_owned() };
        assert_eq!(host.install().home(bad).command_line().unwrap_err(), error);
        assert_eq!(RemovalCommand::new(&host.account, host.session, &host.key).home(bad).command_line().unwrap_err(), error);
        let error = InstallError::NotPastable { what: "host key file", value: bad.to_owned() };
        assert_eq!(host.install().host_key_file(bad).command_line().unwrap_err(), error);
    }
    for bad in ["", "relative", "~/x", "-x"] {
        let error = InstallError::NotAbsolute { what: "home directory", value: bad.to_owned() };
        assert_eq!(host.install().home(bad).command_line().unwrap_err(), error);
    }
    let long = format!("/{}", "x".repeat(4000));
    assert!(matches!(host.install().home(&long).command_line().unwrap_err(), InstallError::TooLong { got } if got > 4000));
    // A shell that reads it from a pipe takes any length.
    assert!(host.install().home(&long).script().unwrap().expose().len() > 4000);
}
