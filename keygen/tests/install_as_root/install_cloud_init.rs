//! The install line as cloud-init user data.

use std::fs;
use std::os::unix::fs::chown;

use crate::install_support::{HOST_KEY, Host, needs_root, os, tool};
use toehold_core::Account;
use yaml_rust2::YamlLoader;

/// The one command that cloud-init would write into a script of root's and run with `sh` at the end of the first boot.
fn command(user_data: &str) -> String {
    assert!(user_data.starts_with("#cloud-config\n"));
    let documents = YamlLoader::load_from_str(user_data).unwrap();
    let [document] = documents.as_slice() else { panic!("{user_data}") };
    let commands = document["runcmd"].as_vec().unwrap();
    let [command] = commands.as_slice() else { panic!("{user_data}") };
    command.as_str().unwrap().to_owned()
}

#[test]
fn the_user_data_is_yaml_that_holds_the_line_as_it_is() {
    let host = Host::with_home("it's: a #home");
    let line = host.line();
    let file = host.host_pub();
    let data = host.install().home(host.home_text()).host_key_file(&file).cloud_init().unwrap();
    assert!(command(data.expose()).lines().any(|text| text == line), "{}", data.expose());
    assert_eq!(format!("{data:?}"), "CommandLine([redacted])");
}

#[test]
fn the_user_data_runs_as_the_accounts_user() {
    needs_root();
    for sh in ["dash", "busybox"] {
        let mut host = Host::with_home_and_sh("deploy", sh);
        let directory = host.directory.path();
        for (name, entry) in
            [("passwd", "deploy:x:4242:4242:,,,:/home/deploy:/usr/sbin/nologin"), ("shadow", "deploy:*:20000:0:99999:7:::")]
        {
            let text = fs::read_to_string(format!("/etc/{name}")).unwrap();
            fs::write(directory.join(name), format!("{text}{entry}\n")).unwrap();
        }
        let mounts = ["passwd", "shadow"].map(|name| (directory.join(name), format!("/etc/{name}").into()));
        host.mounts = mounts.into_iter().chain([(directory.to_owned(), "/home".into())]).collect();
        chown(&host.home, Some(4242), Some(4242)).unwrap();
        host.account = Account::new("deploy", "web1", 22).unwrap();
        let data = host.install().host_key_file("/home/host.pub").cloud_init().unwrap();
        let script = command(data.expose());
        tool("su");
        let ran = host.run_in(&[os("sh")], &script);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(fs::read_to_string(host.file()).unwrap(), host.utc_line(), "{sh}: {ran:?}");
        assert_eq!(host.proof().verify(&host.secret, &HOST_KEY.parse().unwrap()), Ok(()));
    }
}
