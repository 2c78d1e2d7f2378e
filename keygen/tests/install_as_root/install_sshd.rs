//! The install line against real servers: what the temporary key opens on OpenSSH and dropbear, until when, and that the
//! proof names the key of the very server that answers.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::install_support::{Host, OTHER_KEY, Ran, fake, needs_root, os, ssh_keygen, sshd_here, temporary_key, tool};
use toehold_core::{Account, PublicKey};
use toehold_keygen::install::{ExpiryForm, ProofFile, RemovalCommand};

/// A server on a loopback port, ended by its process id.
struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Server {
    /// Starts `command`, made for a free port, and waits until it says `ready` on its standard error.
    fn start(command: impl FnOnce(u16) -> Command, ready: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut process = command(port).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        assert!(lines.by_ref().map(Result::unwrap).any(|line| line.contains(ready)), "the server did not start");
        // What else it says is read and dropped, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, port }
    }

    fn client(&self, host: &Host, key: &Path, program: &str, command: &str) -> Ran {
        let client = tool(program);
        let port = format!("Port={}", self.port);
        let target = format!("{}@127.0.0.1", host.account.user());
        let mut words = vec![client.as_os_str()];
        if program == "sftp" {
            words.extend([os("-b"), os("-")]);
        }
        for option in [
            port.as_str(),
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "LogLevel=ERROR",
        ] {
            words.extend([os("-o"), os(option)]);
        }
        words.extend([os("-F"), os("none"), os("-i"), key.as_os_str(), os(&target)]);
        if program == "ssh" {
            words.push(os(command));
            return host.run_with(None, &words, "");
        }
        host.run_with(None, &words, command)
    }
}

fn public_key(file: &Path) -> PublicKey {
    fs::read_to_string(file.with_extension("pub")).unwrap().parse().unwrap()
}

#[test]
fn o5_o6_on_openssh_the_key_opens_sftp_only_and_the_proof_names_the_server() {
    needs_root();
    let mut host = Host::new();
    sshd_here(&mut host);
    let config = host.directory.path().join("sshd_config");
    let server = Server::start(
        |port| {
            let mut sshd = Command::new(tool("sshd"));
            sshd.args(["-D", "-e", "-o", "ListenAddress=127.0.0.1", "-p", &port.to_string(), "-f"]).arg(&config);
            sshd
        },
        "Server listening on",
    );
    let key = host.directory.path().join("temporary_key");
    assert_ne!(server.client(&host, &key, "sftp", "ls").code, Some(0), "nobody has let the key in yet");

    // The key of this server is in no place where sshd_config would point to: ssh-keyscan sees it on the account's port.
    host.account = Account::new(host.account.user(), "127.0.0.1", server.port).unwrap();
    let line = host.install().home(host.home_text()).command_line().unwrap().expose().to_owned();
    host.run_line(&line).succeeded();

    let copy = host.directory.path().join("copy");
    let fetched = server.client(&host, &key, "sftp", &format!("get {} {}", host.proof_path().display(), copy.display()));
    assert_eq!(fetched.code, Some(0), "{fetched:?}");
    let proof = ProofFile::parse(&fs::read(copy).unwrap()).unwrap();
    assert_eq!(proof.verify(&host.secret, &public_key(&host.directory.path().join("ssh_host_key"))), Ok(()));
    assert!(proof.verify(&host.secret, &OTHER_KEY.parse().unwrap()).is_err());

    let shell = server.client(&host, &key, "ssh", "id; echo executed >&2");
    assert!(!shell.out.contains("uid=") && !shell.err.contains("executed"), "{shell:?}");

    host.run_line(&host.removal_line()).succeeded();
    assert_ne!(server.client(&host, &key, "sftp", "ls").code, Some(0), "the key is gone");
}

#[test]
fn o2_openssh_ends_the_key_at_the_instant() {
    needs_root();
    let mut host = Host::new();
    let now = host.end.saturating_sub(Duration::from_mins(30));
    let first = host.first_in_path();
    fake(&first, "date", &format!("[ \"$*\" = +%s ] && exec echo 0; exec {} \"$@\"", tool("date").display()));
    let sshd = sshd_here(&mut host);
    for (end, accepted) in
        [(now.saturating_sub(Duration::from_secs(1)), false), (now.saturating_add(Duration::from_mins(2)), true)]
    {
        host.end = end;
        host.run().succeeded();
        let login = sshd.sftp(&host, "ls");
        assert_eq!(login.code == Some(0), accepted, "{login:?}");
        host.run_line(&host.removal_line()).succeeded();
    }
}

/// `StrictModes` and the home of passwd, with an account that is not root's.
#[test]
fn o3_an_ordinary_account_is_let_in_under_strict_modes() {
    needs_root();
    let mut host = with_user_deploy(Host::with_home("deploy"));
    let sshd = sshd_here(&mut host);
    let config = host.directory.path().join("sshd_config");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("StrictModes no", "StrictModes yes").replace(host.file().to_str().unwrap(), ".ssh/authorized_keys");
    fs::write(&config, text).unwrap();
    let line = host.install().host_key_file("/home/host.pub").command_line().unwrap().expose().to_owned();
    host.run_line(&format!("umask 0;{line}")).succeeded();
    let login = sshd.sftp(&host, "pwd");
    assert!(login.code == Some(0) && login.out.contains("/home/deploy"), "{login:?}");
}

/// A user of its own, `deploy`, whose home is the host's.
fn with_user_deploy(mut host: Host) -> Host {
    let passwd = host.directory.path().join("passwd");
    let mut users = fs::read_to_string("/etc/passwd").unwrap();
    users.push_str("deploy:x:4242:4242:,,,:/home/deploy:/bin/sh\n");
    fs::write(&passwd, users).unwrap();
    host.mounts = vec![(passwd, "/etc/passwd".into()), (host.directory.path().into(), "/home".into())];
    chown(&host.home, Some(4242), Some(4242)).unwrap();
    host.user = Some(4242);
    host.account = Account::new("deploy", "127.0.0.1", 22).unwrap();
    host
}

/// An OpenSSH host key and its twin in dropbear's format.
fn dropbear_key(directory: &Path) -> (PathBuf, PublicKey) {
    let file = directory.join("dropbear_ed25519_host_key");
    assert!(Command::new(tool("dropbearkey")).args(["-t", "ed25519", "-f"]).arg(&file).output().unwrap().status.success());
    let shown = Command::new(tool("dropbearkey")).arg("-y").arg("-f").arg(&file).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let line = shown.lines().find(|line| line.starts_with("ssh-ed25519 ")).unwrap();
    (file, line.parse().unwrap())
}

#[test]
fn o5_o6_on_dropbear_the_key_opens_sftp_only_and_the_proof_names_the_server() {
    needs_root();
    let mut host = with_user_deploy(Host::with_home("deploy"));
    let key = temporary_key(&mut host);
    let (host_key_file, host_key) = dropbear_key(host.directory.path());
    let mounts = host.mounts.clone();
    let server = Server::start(
        |port| {
            let mut dropbear = Command::new(tool("unshare"));
            dropbear.args([
                "-m",
                "sh",
                "-ec",
                "mount --bind \"$1\" /etc/passwd; mount --bind \"$2\" /home; shift 2; exec \"$@\"",
                "sh",
            ]);
            dropbear.args(mounts.iter().map(|(what, _)| what));
            dropbear.arg(tool("dropbear")).args(["-F", "-E", "-p", &format!("127.0.0.1:{port}"), "-r"]).arg(host_key_file);
            dropbear
        },
        "Not backgrounding",
    );
    host.account = Account::new("deploy", "127.0.0.1", server.port).unwrap();
    // Its own .pub files are OpenSSH's and not dropbear's: ssh-keyscan has to see dropbear's key.
    let line = host.install().expiry(ExpiryForm::None).command_line().unwrap().expose().to_owned();
    host.run_line(&line).succeeded();
    assert_eq!(host.proof().verify(&host.secret, &host_key), Ok(()));
    let login = server.client(&host, &key, "sftp", "pwd");
    assert!(login.code == Some(0) && login.out.contains("/home/deploy"), "{login:?}");
    let shell = server.client(&host, &key, "ssh", "id; echo executed >&2");
    assert!(!shell.out.contains("uid=") && !shell.err.contains("executed"), "{shell:?}");
    let removal = RemovalCommand::new(&host.account, host.session, &host.key).command_line().unwrap();
    host.run_line(&removal).succeeded();
    assert_ne!(server.client(&host, &key, "sftp", "ls").code, Some(0), "the key is gone");
}

#[test]
fn o5_root_reads_dropbears_keys_where_nothing_else_shows_them() {
    needs_root();
    let mut host = Host::new();
    for name in ["dropbear", "ssh"] {
        fs::create_dir(host.directory.path().join(name)).unwrap();
    }
    let (_, host_key) = dropbear_key(&host.directory.path().join("dropbear"));
    let first = host.first_in_path();
    fake(&first, "ssh-keyscan", "exit 1");
    // Debian's package of the server has /etc/dropbear; its two programs alone do not.
    let script = "mount -t tmpfs none /etc/ssh; mkdir -p /etc/dropbear; mount --bind \"$1\" /etc/dropbear; exec sh";
    let unshare = tool("unshare");
    let keys = host.directory.path().join("dropbear");
    let line = host.install().home(host.home_text()).expiry(ExpiryForm::None).command_line().unwrap().expose().to_owned();
    let words = [unshare.as_os_str(), os("-m"), os("/bin/sh"), os("-ec"), os(script), os("sh"), keys.as_os_str()];
    host.run_in(&words, &line).succeeded();
    assert_eq!(host.proof().verify(&host.secret, &host_key), Ok(()));
}

/// The host's own OpenSSH keys, named in a configuration that is not the usual one.
#[test]
fn o5_host_keys_are_found_where_sshd_config_says() {
    needs_root();
    let mut host = with_user_deploy(Host::with_home("deploy"));
    let etc = host.directory.path().join("etc");
    fs::create_dir(&etc).unwrap();
    ssh_keygen(&etc.join("my_key"));
    fs::write(etc.join("sshd_config"), "HostKey \"/etc/ssh/my_key\"\nPort 2222\n").unwrap();
    host.mounts.push((etc.clone(), "/etc/ssh".into()));
    host.account = Account::new("deploy", "127.0.0.1", 2222).unwrap();
    let first = host.first_in_path();
    // The port is one of sshd_config's and its keys are known, so nobody is asked over the network.
    fake(&first, "ssh-keyscan", &format!("touch {}/asked", host.home_text()));
    let line = host.install().command_line().unwrap().expose().to_owned();
    host.run_line(&line).succeeded();
    assert_eq!(host.proof().verify(&host.secret, &public_key(&etc.join("my_key"))), Ok(()));
    assert!(!host.home.join("asked").exists());
}
