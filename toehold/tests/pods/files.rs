//! Files, by sftp and scp.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use crate::gateway::{Pods, fed, path};
use crate::support::Done;

#[test]
fn sftp_does_what_people_do_with_it() {
    let pods = Pods::start();
    let (here, back) = (pods.file("here"), pods.file("back"));
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).take(3_000_000).collect();
    fs::write(&here, &content).unwrap();
    fs::set_permissions(&here, fs::Permissions::from_mode(0o640)).unwrap();
    let batch = format!(
        "mkdir a\nput -p {0} a/b\nrename a/b a/c\nsymlink a/c link\nln a/c hard\nls -l a\nchmod 600 a/c\n\
         put {0} a/d\nrename a/d a/c\nget -p link {1}\nrm a/c\nrm link\nrm hard\nrmdir a\npwd\nls\n",
        here.display(),
        back.display()
    );
    let mut command = pods.client("sftp");
    command.args(["-b", "-", "anybody@127.0.0.1"]);
    let told = String::from_utf8(fed(command, batch.as_bytes())).unwrap();
    assert!(fs::read(&back).unwrap() == content);
    assert!(told.contains("-rw-r-----") && told.contains("3000000"), "{told}");
    let home = told.lines().find_map(|line| line.strip_prefix("Remote working directory: ")).unwrap();
    assert!(home.ends_with("/home"), "{told}");
    pods.waits_until_empty();
}

#[test]
fn what_sftp_refuses_has_a_reason() {
    let pods = Pods::start();
    for (line, reason) in [
        ("get nothing", "not found"),
        ("rmdir nothing", "No such file"),
        ("mkdir nothing/below", "No such file"),
        ("put /etc/hostname /proc/here", "open"),
    ] {
        let mut command = pods.client("sftp");
        command.args(["-b", "-", "anybody@127.0.0.1"]).stdin(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("{line}\n").as_bytes()).unwrap();
        let done = Done::of(child.wait_with_output().unwrap()).ends(1);
        assert!(done.stderr.contains(reason), "{line}: {done:?}");
    }
}

#[test]
fn scp_copies_both_ways_and_whole_trees() {
    let pods = Pods::start();
    // One connection, so that both copies are in one pod.
    let socket = format!("ControlPath={}", pods.file("mux").display());
    let mut master =
        pods.ssh_with(&["-M", "-o", &socket], "echo begun; cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut begun = [0; 6];
    std::io::Read::read_exact(master.stdout.as_mut().unwrap(), &mut begun).unwrap();
    let tree = pods.file("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/file"), "content").unwrap();
    fs::set_permissions(tree.join("sub/file"), fs::Permissions::from_mode(0o751)).unwrap();
    let scp = |arguments: &[&str]| {
        let mut command = pods.client("scp");
        command.args(["-o", &socket, "-r", "-p"]).args(arguments);
        Done::of(command.output().unwrap()).ends(0)
    };
    scp(&[&path(&tree), "anybody@127.0.0.1:copy"]);
    let back = pods.file("back");
    scp(&["anybody@127.0.0.1:copy", &path(&back)]);
    let (one, two) = (fs::metadata(tree.join("sub/file")).unwrap(), fs::metadata(back.join("sub/file")).unwrap());
    assert_eq!((one.mode(), one.mtime()), (two.mode(), two.mtime()));
    assert_eq!(fs::read(back.join("sub/file")).unwrap(), b"content");
    // The old protocol, which runs the image's own scp.
    let old = pods.file("old");
    scp(&["-O", "anybody@127.0.0.1:copy/sub/file", &path(&old)]);
    assert_eq!(fs::read(old).unwrap(), b"content");
    drop(master.stdin.take());
    assert!(master.wait().unwrap().success());
    pods.waits_until_empty();
}
