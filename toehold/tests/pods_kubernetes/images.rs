//! The images that the other tests run hold what they say.

use crate::cluster_support::{Namespace, whole};

#[tokio::test]
async fn an_image_runs_to_completion() {
    let cluster = whole().await;
    let namespace = Namespace::create(&cluster);
    assert_eq!(namespace.run("one", &cluster.images.busybox, &["sh", "-c", "echo done"]).unwrap(), "done\n");
    assert_eq!(namespace.run("two", &cluster.images.busybox, &["sh", "-c", "exit 3"]).unwrap_err()["exitCode"], 3);
}

#[tokio::test]
async fn an_image_has_the_tools_that_are_used_over_ssh() {
    let cluster = whole().await;
    let namespace = Namespace::create(&cluster);
    // Each of them is run; git takes what is pushed and gives it away again; rsync and sftp-server say what they speak.
    let script = r"
        set -e
        [[ $BASH_VERSION ]]
        cd /tmp
        git init --quiet --bare there.git
        git init --quiet here
        cd here
        echo one >file
        git add file
        git -c user.name=a -c user.email=a@example.org commit --quiet --message one
        git push --quiet /tmp/there.git HEAD:refs/heads/main
        git clone --quiet --branch main /tmp/there.git /tmp/again
        cat /tmp/again/file
        mkdir /tmp/copy
        rsync --archive --rsh 'sh -c' /tmp/again/file /tmp/copy/
        cat /tmp/copy/file
        # Where its input ends it may end before it answers.
        coproc /usr/lib/openssh/sftp-server
        printf '\0\0\0\5\1\0\0\0\3' >&${COPROC[1]}
        exec 3<&${COPROC[0]}
        head -c 9 <&3 | tail -c 5 | od -An -tx1
        busybox | head -n 1 | cut -c 1-7
    ";
    let printed = namespace.run("one", &cluster.images.tools, &["bash", "-c", script]).unwrap();
    let lines: Vec<&str> = printed.lines().map(str::trim).collect();
    // SSH_FXP_VERSION 3
    assert_eq!(lines, ["one", "one", "02 00 00 00 03", "BusyBox"]);
}

#[tokio::test]
async fn an_image_without_a_shell_has_none() {
    let cluster = whole().await;
    let namespace = Namespace::create(&cluster);
    assert_eq!(namespace.run("one", &cluster.images.no_shell, &["/bin/echo", "done"]).unwrap(), "done\n");
    let refused = namespace.run("two", &cluster.images.no_shell, &["/bin/sh", "-c", "echo done"]).unwrap_err();
    assert!(refused["message"].as_str().unwrap().contains("/bin/sh"), "{refused}");
}
