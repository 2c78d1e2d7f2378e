//! The install and removal lines in every shell, both as the shell that they are pasted into and as the host's `sh`.

use std::ffi::OsStr;
use std::fs;
use std::time::{Duration, SystemTime};

use crate::install_support::{HOST_KEY, Host, OTHER_KEY, SHELLS, bin_with_sh, fake, mode, os, tool};
use toehold_core::PublicKey;
use toehold_keygen::install::MAX_COMMAND_LINE;

/// Files that somebody else's `authorized_keys` may be, which no byte may be changed of.
const FOREIGN: [&[u8]; 9] = [
    b"",
    b"\n",
    b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB4DMtRGQyJlzbHQK3fdZoxHXLYFt6dmvD4Wx7ZkSJ4G a\n",
    b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB4DMtRGQyJlzbHQK3fdZoxHXLYFt6dmvD4Wx7ZkSJ4G no newline",
    b"# windows\r\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB4DMtRGQyJlzbHQK3fdZoxHXLYFt6dmvD4Wx7ZkSJ4G a\r\n",
    b"ends in a carriage return\r",
    b"ends in a NUL byte\0",
    b"\0\0in the\0midst\0\n\0\xff\xfe\n\xc3\x28 \\n \\c %s `x` $(x)\n",
    b"a\n\n\n  \t\nb",
];

#[test]
fn every_shell_takes_the_line_and_every_sh_runs_it() {
    let host_key: &PublicKey = &HOST_KEY.parse().unwrap();
    std::thread::scope(|scope| {
        for sh in SHELLS {
            scope.spawn(move || {
                for pasted in SHELLS {
                    let host = Host::with_sh(sh);
                    let line = host.line();
                    let shell = tool(pasted);
                    let program: &[&OsStr] = match pasted {
                        "busybox" => &[shell.as_os_str(), os("ash")],
                        "bash" => &[shell.as_os_str(), os("--norc")],
                        "zsh" => &[shell.as_os_str(), os("-f")],
                        _ => &[shell.as_os_str()],
                    };
                    let ran = host.run_in(program, &line);
                    ran.succeeded();
                    assert!(ran.out.contains(&host.end.strftime("%Y-%m-%d %H:%M:%S UTC")), "{ran:?}");
                    assert_eq!(fs::read_to_string(host.file()).unwrap(), host.utc_line(), "{pasted}, {sh}");
                    assert_eq!((mode(&host.ssh()), mode(&host.file()), mode(&host.proof_path())), (0o700, 0o600, 0o600));
                    let proof = host.proof();
                    assert_eq!(proof.verify(&host.secret, host_key), Ok(()), "{pasted}, {sh}");
                    assert!(proof.verify(&host.secret, &OTHER_KEY.parse().unwrap()).is_err());
                    assert!(proof.created_directory() && proof.created_file() && !proof.added_newline());

                    host.run_in(program, &host.removal_line()).succeeded();
                    assert!(!host.ssh().exists(), "the host is as it was: {pasted}, {sh}");
                }
            });
        }
    });
}

/// What is typed at a prompt goes through history expansion and the like.
#[test]
fn interactive_shells_take_the_line() {
    for shell in SHELLS {
        let host = Host::with_home_and_sh("it's !! a $HOME", "dash");
        let program = tool(shell);
        let words: &[&OsStr] = match shell {
            "busybox" => &[program.as_os_str(), os("ash"), os("-i")],
            "bash" => &[program.as_os_str(), os("--norc"), os("--noediting"), os("-i"), os("-o"), os("histexpand")],
            "zsh" => &[program.as_os_str(), os("-f"), os("-i")],
            _ => &[program.as_os_str(), os("-i")],
        };
        let ran = host.run_in(words, &host.line());
        assert_eq!(fs::read_to_string(host.file()).ok(), Some(host.utc_line()), "{shell}: {ran:?}");
    }
}

#[test]
fn modes_are_right_whatever_the_umask() {
    for sh in SHELLS {
        for umask in ["000", "022", "077"] {
            let host = Host::with_sh(sh);
            host.run_line(&format!("umask {umask};{}", host.line())).succeeded();
            assert_eq!((mode(&host.ssh()), mode(&host.file()), mode(&host.proof_path())), (0o700, 0o600, 0o600), "{sh} {umask}");
        }
    }
}

#[test]
fn modes_of_what_was_there_stay() {
    let host = Host::new().with_file(b"");
    for (path, bits) in [(host.ssh(), 0o755), (host.file(), 0o644)] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(bits)).unwrap();
    }
    host.run().succeeded();
    assert_eq!((mode(&host.ssh()), mode(&host.file())), (0o755, 0o644));
    host.run_line(&host.removal_line()).succeeded();
    assert_eq!((mode(&host.ssh()), mode(&host.file())), (0o755, 0o644));
}

#[test]
fn pasted_twice_it_adds_nothing() {
    for sh in SHELLS {
        let host = Host::with_sh(sh).with_file(b"# mine");
        host.run().succeeded();
        let before = host.snapshot();
        host.run().succeeded();
        assert_eq!(host.snapshot(), before, "{sh}");
    }
}

#[test]
fn foreign_bytes_survive_and_the_removal_leaves_the_file_as_it_was() {
    std::thread::scope(|scope| {
        for sh in SHELLS {
            scope.spawn(move || {
                for foreign in FOREIGN {
                    let host = Host::with_sh(sh).with_file(foreign);
                    let before = host.snapshot();
                    host.run().succeeded();
                    let mut wanted = foreign.to_vec();
                    let newline_missing = !foreign.is_empty() && !foreign.ends_with(b"\n");
                    if newline_missing {
                        wanted.push(b'\n');
                    }
                    wanted.extend_from_slice(host.utc_line().as_bytes());
                    assert_eq!(fs::read(host.file()).unwrap(), wanted, "{sh}: {}", foreign.escape_ascii());
                    assert_eq!(host.proof().added_newline(), newline_missing);
                    assert!(!host.proof().created_file() && !host.proof().created_directory());

                    host.run_line(&host.removal_line()).succeeded();
                    assert_eq!(host.snapshot(), before, "{sh}: {}", foreign.escape_ascii());
                }
            });
        }
    });
}

#[test]
fn the_removal_takes_every_copy_of_the_line_and_nothing_else() {
    for sh in SHELLS {
        let host = Host::with_sh(sh).with_file(b"");
        let key = host.key.to_string();
        for (file, wanted) in [
            (format!("a\n{key}\nb"), "a\nb"),
            (key.clone(), ""),
            (format!("a\r\n{key} x\r\n\0b\0\nrestrict {key}"), "a\r\n\0b\0\n"),
            (format!("{key}\n{key}\n"), ""),
            ("nothing of ours".to_owned(), "nothing of ours"),
        ] {
            fs::write(host.file(), &file).unwrap();
            host.run_line(&host.removal_line()).succeeded();
            assert_eq!(fs::read_to_string(host.file()).unwrap(), wanted, "{sh}: {file:?}");
            let again = host.run_line(&host.removal_line());
            assert!(again.succeeded().out.contains("has no temporary key"), "{again:?}");
            assert_eq!(fs::read_to_string(host.file()).unwrap(), wanted);
            assert_eq!(host.snapshot().len(), 3, "nothing is left beside the file");
        }
    }
}

/// The `sed` of a BSD ends every line with a newline, of which one is not the file's.
#[test]
fn the_removal_never_adds_a_newline() {
    let mut host = Host::new().with_file(b"");
    let first = host.first_in_path();
    fake(&first, "sed", &format!("{} \"$@\" | awk 1", tool("sed").display()));
    fs::write(host.file(), format!("{}\nforeign", host.key)).unwrap();
    let before = host.snapshot();
    let ran = host.run_line(&host.removal_line());
    assert!(ran.code == Some(1) && ran.err.contains("nothing was changed"), "{ran:?}");
    assert_eq!(host.snapshot(), before);
    fs::write(host.file(), format!("foreign\n{}", host.key)).unwrap();
    host.run_line(&host.removal_line()).succeeded();
    assert_eq!(fs::read(host.file()).unwrap(), b"foreign\n");
}

#[test]
fn the_removal_keeps_what_came_after_the_installation() {
    let host = Host::new();
    host.run().succeeded();
    let line = fs::read_to_string(host.file()).unwrap();
    fs::write(host.file(), format!("{line}{OTHER_KEY}\n")).unwrap();
    host.run_line(&host.removal_line()).succeeded();
    assert_eq!(fs::read_to_string(host.file()).unwrap(), format!("{OTHER_KEY}\n"));
    assert!(!host.proof_path().exists());
}

/// Nobody may ever be able to log in again who would sweep it.
#[test]
fn as_it_was_the_removal_takes_what_an_interrupted_replacement_of_the_session_left() {
    for sh in SHELLS {
        let host = Host::with_sh(sh).with_file(b"foreign\n");
        let staged = |session: &str| host.ssh().join(format!("authorized_keys.toehold-{session}.0123456789abcdef.fence-0"));
        let (own, other) = (host.session.to_string(), "f".repeat(32));
        for session in [&own, &other] {
            fs::write(staged(session), "staged").unwrap();
        }
        let lock = host.ssh().join("authorized_keys.toehold-lock");
        for (holder, goes) in [(&own, true), (&other, false)] {
            fs::write(&lock, format!("{holder} 0123456789abcdef\nToehold is at work.\n")).unwrap();
            host.run_line(&host.removal_line()).succeeded();
            assert_eq!((lock.exists(), staged(&own).exists(), staged(&other).exists()), (!goes, false, true), "{sh}");
        }
        assert_eq!(fs::read(host.file()).unwrap(), b"foreign\n");
    }
}

#[test]
fn the_removal_on_a_host_that_has_nothing_says_so() {
    for sh in SHELLS {
        let host = Host::with_sh(sh);
        let ran = host.run_line(&host.removal_line());
        assert!(ran.succeeded().out.contains("has no temporary key"), "{ran:?}");
        assert_eq!(host.snapshot().len(), 1);
    }
}

#[test]
fn o2_run_again_later_it_grants_nothing() {
    for sh in SHELLS {
        let mut host = Host::with_sh(sh);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        host.end = toehold_core::Timestamp::from_unix_seconds(i64::try_from(now.as_secs()).unwrap());
        host.refuses("this line ended at");
        host.end = host.end.saturating_sub(Duration::from_hours(24 * 365));
        host.refuses("this line ended at");
    }
}

#[test]
fn o4_strace_sees_the_secret_in_no_argument() {
    for sh in SHELLS {
        let host = Host::with_sh(sh);
        let trace = host.directory.path().join("trace");
        let strace = tool("strace");
        let words =
            [strace.as_os_str(), os("-f"), os("-v"), os("-s65536"), os("-etrace=execve"), os("-o"), trace.as_os_str(), os("sh")];
        host.run_in(&words, &host.line()).succeeded();
        let trace = fs::read_to_string(trace).unwrap();
        assert!(
            trace.contains("sha256sum") && trace.contains("TEMPORARY") || trace.contains("toehold-temporary"),
            "{sh}: {trace}"
        );
        assert!(!trace.contains(host.secret.expose()), "{sh}");
    }
}

#[test]
fn o4_all_hash_tools_give_the_same_tags() {
    const PLAIN: [&str; 19] = [
        "id", "date", "ls", "cut", "uniq", "wc", "tail", "sed", "tr", "cat", "grep", "mkdir", "mv", "rm", "dd", "rmdir", "ssh",
        "printf", "env",
    ];
    let host_key: PublicKey = HOST_KEY.parse().unwrap();
    for sh in ["dash", "busybox", "mksh"] {
        for hash in ["sha256sum", "openssl", "sha256"] {
            let mut host = Host::with_sh(sh);
            let only = host.only_in_path(&PLAIN);
            match hash {
                // As the BSDs have it: the digest of standard input alone on a line.
                "sha256" => fake(&only, "sha256", &format!("{} | {{ read -r x y; echo \"$x\"; }}", tool("sha256sum").display())),
                _ => std::os::unix::fs::symlink(tool(hash), only.join(hash)).unwrap(),
            }
            host.run().succeeded();
            assert_eq!(host.proof().verify(&host.secret, &host_key), Ok(()), "{sh}, {hash}");
        }
        let mut host = Host::with_sh(sh);
        host.only_in_path(&PLAIN);
        // busybox has sha256sum inside.
        if sh != "busybox" {
            host.refuses("cannot read a host key");
        }
    }
}

#[test]
fn the_line_is_short_enough_for_a_terminal() {
    let host = Host::new();
    let plain = host.install().command_line().unwrap();
    println!("typical line: {} bytes; its removal: {}", plain.expose().len(), host.removal_line().len());
    // What is left of the 4,000 is for long names, `--from` and paths.
    assert!(plain.expose().len() <= 3800, "{}", plain.expose().len());
    assert!(plain.expose().starts_with(' ') && !plain.expose().contains(['\n', '\t']));
    const { assert!(MAX_COMMAND_LINE < 4095) };
}

#[test]
fn all_shells_stand_ready() {
    for shell in SHELLS {
        assert!(bin_with_sh(shell).join("sh").exists());
    }
}
