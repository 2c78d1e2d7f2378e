//! Rule O2: the temporary key ends at the instant that we fixed, whatever `date`, time zone and sshd the host has.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::install_support::{Host, SHELLS, fake, needs_root, sshd_here, tool};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::Timestamp;
use toehold_keygen::install::ExpiryForm;
use toehold_keygen::{DEFAULT_LIFETIME, TemporaryKeyPair};

/// Zones and the offset of their standard time in seconds. Wherever and whenever this runs, some are in summer time and
/// some are not; one counts backwards (Dublin's standard time is its summer time), one shifts by half an hour.
const ZONES: [(&str, i64); 11] = [
    ("Etc/UTC", 0),
    ("Europe/Berlin", 3600),
    ("Europe/Dublin", 3600),
    ("America/New_York", -18_000),
    ("America/St_Johns", -12_600),
    ("America/Sao_Paulo", -10_800),
    ("Asia/Kolkata", 19_800),
    ("Africa/Casablanca", 3600),
    ("Australia/Lord_Howe", 37_800),
    ("Australia/Sydney", 36_000),
    ("Pacific/Chatham", 45_900),
];

fn zone(name: &str) -> PathBuf {
    let file = Path::new("/usr/share/zoneinfo").join(name);
    assert!(file.exists(), "{name} is not there: apt-get install tzdata");
    file
}

/// A host whose `ssh` and `sshd` say these versions.
fn with_versions(mut host: Host, ssh: &str, sshd: &str) -> Host {
    let first = host.first_in_path();
    fake(&first, "ssh", &format!("[ \"$1\" = -V ] && echo '{ssh}' >&2"));
    fake(&first, "sshd", &format!("[ \"$1\" = -V ] || exit 1; echo 'unknown option -- V' >&2; echo '{sshd}' >&2; exit 1"));
    host
}

fn expiry(host: &Host) -> String {
    let file = fs::read_to_string(host.file()).unwrap();
    let (_, rest) = file.split_once("expiry-time=\"").unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

#[test]
fn o2_the_form_follows_the_hosts_own_version() {
    let cases = [
        ("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026", "OpenSSH_9.2, OpenSSL 3.0.19", Some("utc")),
        ("OpenSSH_9.1p1", "OpenSSH_9.1p1", Some("utc")),
        ("OpenSSH_9.14p1", "", Some("utc")),
        ("OpenSSH_10.2p1 Debian-1, OpenSSL 3.5.4", "OpenSSH_10.2p1", Some("utc")),
        ("OpenSSH_9.0, LibreSSL 3.5.2", "", Some("local")),
        ("OpenSSH_8.9p1 Ubuntu-3ubuntu0.13, OpenSSL 3.0.2 15 Mar 2022", "OpenSSH_8.9p1", Some("local")),
        ("OpenSSH_7.7p1", "OpenSSH_7.7p1", Some("local")),
        ("OpenSSH_9.9p1", "OpenSSH_8.9p1", Some("local")),
        ("OpenSSH_8.9p1", "OpenSSH_9.9p1", Some("local")),
        ("OpenSSH_7.6p1", "OpenSSH_7.6p1", None),
        ("OpenSSH_9.9p1", "OpenSSH_7.4p1", None),
        ("OpenSSH_6.6.1", "", None),
        ("Dropbear v2022.83", "Dropbear v2022.83", None),
        ("", "", None),
    ];
    // Each case in dash and in one shell more.
    for (n, (ssh, sshd, wanted)) in cases.into_iter().enumerate() {
        for sh in ["dash", SHELLS[n % SHELLS.len()]] {
            let host = with_versions(Host::with_sh(sh), ssh, sshd);
            match wanted {
                None => host.refuses("sshd knows no expiry-time here, use --no-expiry"),
                Some(form) => {
                    host.run().succeeded();
                    // This machine's zone is the host's.
                    assert_eq!(expiry(&host).ends_with('Z'), form == "utc", "{sh}: {ssh} {sshd}");
                    assert!(form == "local" || expiry(&host) == host.end.strftime("%Y%m%d%H%M%SZ"));
                }
            }
        }
    }
}

#[test]
fn o2_a_host_without_any_ssh_is_refused() {
    needs_root();
    let mut host = Host::new();
    host.only_in_path(&[
        "id", "date", "ls", "cut", "uniq", "wc", "tail", "sed", "tr", "cat", "grep", "mkdir", "mv", "rm", "dd", "rmdir",
    ]);
    host.mounts = vec![("/dev/null".into(), tool("sshd"))];
    // unshare and mount are looked up in the same PATH.
    for program in ["mount", "setpriv"] {
        symlink(tool(program), host.path[0].join(program)).unwrap();
    }
    host.refuses("sshd knows no expiry-time here, use --no-expiry");
}

#[test]
fn o2_local_time_is_standard_time_in_every_zone() {
    needs_root();
    // Neither the time zone of the shell nor the flavour of `date` matters.
    let real = tool("date");
    let real = real.display();
    let bsd = format!(
        "u= r=; while getopts ud:r: x; do case $x in u) u=-u;; r) r=$OPTARG;; *) echo 'usage: date' >&2; exit 1; esac; done
        shift $((OPTIND-1)); exec {real} $u ${{r:+-d}} ${{r:+@$r}} \"$@\""
    );
    std::thread::scope(|scope| {
        for (name, offset) in ZONES {
            let bsd = &bsd;
            scope.spawn(move || {
                for (sh, date) in [("dash", "gnu"), ("zsh", "bsd"), ("mksh", "bsd"), ("busybox", "busybox")] {
                    let mut host = with_versions(Host::with_sh(sh), "OpenSSH_8.9p1", "OpenSSH_8.9p1");
                    host.mounts = vec![(zone(name), "/etc/localtime".into())];
                    if date == "bsd" {
                        let first = host.first_in_path();
                        fake(&first, "date", bsd);
                    }
                    host.run_line(&format!("TZ=Asia/Tokyo; export TZ; {}", host.line())).succeeded();
                    let local = Timestamp::from_unix_seconds(host.end.unix_seconds() + offset);
                    assert_eq!(expiry(&host), local.strftime("%Y%m%d%H%M%S"), "{name}, {sh}, {date}");
                }
            });
        }
    });
}

/// The local form, read by the real sshd: accepted until the instant and refused from it on, to within two minutes, in
/// zones with summer time and without.
#[test]
fn o2_sshd_reads_the_local_form_as_the_instant_that_was_meant() {
    needs_root();
    std::thread::scope(|scope| {
        for (name, _) in ZONES {
            scope.spawn(move || {
                let mut host = with_versions(Host::new(), "OpenSSH_8.9p1", "OpenSSH_8.9p1");
                let now = host.end.saturating_sub(Duration::from_mins(30));
                // A host whose clock said an earlier time when the line was pasted.
                let first = host.first_in_path();
                let real = tool("date");
                fake(&first, "date", &format!("[ \"$*\" = +%s ] && exec echo 0; exec {} \"$@\"", real.display()));
                let sshd = sshd_here(&mut host);
                for (end, accepted) in
                    [(now.saturating_sub(Duration::from_mins(2)), false), (now.saturating_add(Duration::from_mins(4)), true)]
                {
                    host.end = end;
                    host.mounts = vec![(zone(name), "/etc/localtime".into())];
                    host.run().succeeded();
                    assert!(!expiry(&host).ends_with('Z'));
                    let login = sshd.sftp(&host, "ls");
                    assert_eq!(login.code == Some(0), accepted, "{name}: {} {login:?}", expiry(&host));
                    host.run_line(&host.removal_line()).succeeded();
                }
            });
        }
    });
}

#[test]
fn without_an_expiry_the_line_runs_the_sftp_server_of_the_host() {
    needs_root();
    for sh in SHELLS {
        let mut host = Host::with_sh(sh);
        let line = |host: &Host| {
            let file = host.host_pub();
            let install = host.install().home(host.home_text()).host_key_file(&file).expiry(ExpiryForm::None);
            install.command_line().unwrap().expose().to_owned()
        };
        let ran = host.run_line(&line(&host));
        assert!(ran.succeeded().out.contains("until you remove it"), "{ran:?}");
        let server = ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server"];
        let found = server.into_iter().find(|path| Path::new(path).exists()).expect("apt-get install openssh-sftp-server");
        assert_eq!(fs::read_to_string(host.file()).unwrap(), host.line_with(&format!("restrict,command=\"{found}\"")));

        host.run_line(&host.removal_line()).succeeded();
        host.mounts = vec![("/dev/null".into(), found.into())];
        host.run_line(&line(&host)).succeeded();
        assert_eq!(fs::read_to_string(host.file()).unwrap(), host.line_with("restrict,command=\"internal-sftp\""));
    }
}

#[test]
fn from_and_utc_stand_in_the_line() {
    for sh in SHELLS {
        let host = Host::with_sh(sh);
        let from = "10.0.0.0/8,!*.example.net,2001:db8::/32".parse().unwrap();
        let file = host.host_pub();
        let install = host.install().home(host.home_text()).host_key_file(&file).expiry(ExpiryForm::Utc).from(&from);
        host.run_line(install.command_line().unwrap().expose()).succeeded();
        let time = host.end.strftime("%Y%m%d%H%M%SZ");
        let options = format!("restrict,command=\"internal-sftp\",expiry-time=\"{time}\",from=\"{from}\"");
        assert_eq!(fs::read_to_string(host.file()).unwrap(), host.line_with(&options));
    }
}

/// Whoever writes the line without a shell, as for a host inside the process, gets the same one.
#[test]
fn the_line_is_the_one_of_the_temporary_key_pair() {
    let mut host = Host::new();
    let created = host.end.saturating_sub(DEFAULT_LIFETIME);
    let pair = TemporaryKeyPair::generate(&mut ChaCha20Rng::from_seed([1; 32]), host.session, created, DEFAULT_LIFETIME).unwrap();
    host.key = pair.public_key().clone();
    let from = "192.0.2.0/24".parse().unwrap();
    let file = host.host_pub();
    let line = host.install().home(host.home_text()).host_key_file(&file).expiry(ExpiryForm::Utc).from(&from).command_line();
    host.run_line(line.unwrap().expose()).succeeded();
    assert_eq!(fs::read_to_string(host.file()).unwrap(), format!("{}\n", pair.authorized_keys_line(Some(&from))));
}
