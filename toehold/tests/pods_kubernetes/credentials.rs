//! Who the gateway is to the cluster: by every way that a configuration or a kubeconfig has.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use base64ct::Encoding as _;
use serde_json::{Value, json};

use crate::cluster_support::kubectl;
use crate::gateway::{Pods, file_of, path};
use crate::ground::Ground;
use crate::support::{Done, Toehold, eventually};
use crate::way::Way;

fn cluster(ground: &Ground) -> &Value {
    &ground.kubeconfig()["clusters"][0]["cluster"]
}

fn authority(ground: &Ground) -> String {
    let pem = base64ct::Base64::decode_vec(cluster(ground)["certificate-authority-data"].as_str().unwrap()).unwrap();
    String::from_utf8(pem).unwrap()
}

fn token(ground: &Ground) -> &str {
    ground.kubeconfig()["users"][0]["user"]["token"].as_str().unwrap()
}

/// A gateway that is told so gets a pod for whoever comes.
fn works(ground: &Ground, toehold: Toehold, connection: &Value) {
    let pods = Pods::on(toehold, ground.clone(), &json!({ "connection": connection }), &[]);
    assert_eq!(pods.run("echo here").ends(0).stdout, "here\n");
    pods.waits_until_empty();
}

#[test]
fn a_token_and_a_certificate_may_stand_in_the_configuration() {
    let ground = Ground::new();
    let with = |more: Value| {
        let mut connection = json!({ "host": cluster(&ground)["server"], "cacert": authority(&ground) });
        connection.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        connection
    };
    works(&ground, Pods::prepared(), &with(json!({ "bearerToken": token(&ground) })));
    // The administrator's, whose kubeconfig has one.
    let config = kubectl(ground.cluster(), ["config", "view", "--raw", "--minify", "--flatten"]).json();
    let user = &config["users"][0]["user"];
    let pem = |member: &str| {
        let bytes = base64ct::Base64::decode_vec(user[member].as_str().unwrap()).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let (certificate, key) = (pem("client-certificate-data"), pem("client-key-data"));
    works(&ground, Pods::prepared(), &with(json!({ "cert": certificate, "key": key })));
    let toehold = Pods::prepared();
    let (certificate_file, key_file) = (file_of(&toehold, "client.crt"), file_of(&toehold, "client.key"));
    fs::write(&certificate_file, certificate).unwrap();
    fs::write(&key_file, key).unwrap();
    works(&ground, toehold, &with(json!({ "certFile": certificate_file, "keyFile": key_file })));
}

/// Kubernetes itself knows no passwords any more; what stands before a cluster may.
#[test]
fn a_user_name_and_a_password_are_sent_as_such() {
    let ground = Ground::new();
    let basic = format!("Basic {}", base64ct::Base64::encode_string(b"gateway:it's secret"));
    let way = Way::rewriting(&ground, &[(&basic, &format!("Bearer {}", token(&ground)))]);
    works(&ground, Pods::prepared(), &json!({ "host": way.host(), "username": "gateway", "password": "it's secret" }));
    let done = refused(&ground, &json!({ "host": way.host(), "username": "gateway", "password": "another" }));
    // To Kubernetes itself, which looks at no password, that is nobody.
    assert!(done.stderr.contains("the gateway is not allowed to do this in the cluster"), "{done:?}");
    assert!(done.stderr.contains("system:anonymous") && !done.stderr.contains("another"), "{done:?}");
}

fn refused(ground: &Ground, connection: &Value) -> Done {
    let toehold = Pods::prepared();
    let which = ground.options(&toehold, &json!({ "connection": connection }));
    let keys = path(&file_of(&toehold, "authorized_keys"));
    let arguments = ["pods", "serve", "--listen", "127.0.0.1:0", "--authorized-keys", &keys];
    toehold.run(arguments.into_iter().chain(which.iter().map(String::as_str))).ends(1)
}

/// A kubeconfig for whoever this program says.
fn with_program(ground: &Ground, toehold: &Toehold, script: &str) -> PathBuf {
    let program = file_of(toehold, "credentials");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut config = ground.kubeconfig().clone();
    config["users"][0]["user"] = json!({ "exec": {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": program,
        "args": ["for", "the gateway"],
        "env": [{ "name": "GREETING", "value": "from the kubeconfig" }],
        "interactiveMode": "Never",
    } });
    let file = file_of(toehold, "kubeconfig-with-a-program");
    fs::write(&file, config.to_string()).unwrap();
    file
}

#[test]
fn a_program_of_the_kubeconfig_makes_the_credentials_and_renews_them() {
    let ground = Ground::new();
    let toehold = Pods::prepared();
    let (runs, said) = (file_of(&toehold, "runs"), file_of(&toehold, "said"));
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        // Long over: each call asks for another.
        "status": { "token": token(&ground), "expirationTimestamp": "2020-01-01T00:00:00Z" },
    });
    fs::write(&said, credential.to_string()).unwrap();
    let script = format!("echo \"$*,$GREETING\" >>{}; cat {}", path(&runs), path(&said));
    let kubeconfig = with_program(&ground, &toehold, &script);
    let mut which = ground.options(&toehold, &json!({}));
    *which.last_mut().unwrap() = path(&kubeconfig);
    let keys = path(&file_of(&toehold, "authorized_keys"));
    let pods = Pods::with_options(toehold, ground.clone(), which, &["--authorized-keys", &keys], |command| command);
    assert_eq!(pods.run("echo here").ends(0).stdout, "here\n");
    let asked = fs::read_to_string(&runs).unwrap();
    assert!(asked.lines().count() > 1 && asked.lines().all(|line| line == "for the gateway,from the kubeconfig"), "{asked}");
    // A token that the program no longer gives is not used any more.
    fs::write(&said, credential.to_string().replace(token(&ground), "nobody's")).unwrap();
    let done = pods.run("true").ends(255);
    assert!(done.stderr.contains("the cluster does not know the gateway"), "{done:?}");
    fs::write(&said, credential.to_string()).unwrap();
    pods.run("true").ends(0);
    pods.waits_until_empty();
    drop(pods);
    // One that fails is named at the start.
    let toehold = Pods::prepared();
    let kubeconfig = with_program(&ground, &toehold, "exit 3");
    let keys = path(&file_of(&toehold, "authorized_keys"));
    let arguments = ["pods", "serve", "--listen", "127.0.0.1:0", "--authorized-keys", &keys, "--kubeconfig", &path(&kubeconfig)];
    let done = toehold.run(arguments).ends(1);
    assert!(done.stderr.contains("the client of the cluster cannot be made"), "{done:?}");
}

/// As a pod of the cluster has it: its address in the environment, the rest in files that belong to the service account. They are put where
/// a pod has them in a mount namespace of the gateway's own.
#[test]
fn in_a_cluster_the_service_account_is_found() {
    let ground = Ground::new();
    let toehold = Pods::prepared();
    let account = file_of(&toehold, "account");
    fs::create_dir(&account).unwrap();
    for (name, content) in [("token", token(&ground)), ("ca.crt", &authority(&ground)), ("namespace", ground.namespace().name())]
    {
        fs::write(account.join(name), content).unwrap();
    }
    let server = cluster(&ground)["server"].as_str().unwrap().strip_prefix("https://").unwrap().to_owned();
    let (host, port) = server.rsplit_once(':').unwrap();
    let inside = |gateway: Command| {
        let place = "/var/run/secrets/kubernetes.io/serviceaccount";
        let script = format!("mount -t tmpfs none /run && mkdir -p {place} && cp {}/* {place}/ && exec \"$@\"", path(&account));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["sh", "-c", &script, "sh"]).arg(gateway.get_program()).args(gateway.get_args());
        for (name, value) in gateway.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(directory) = gateway.get_current_dir() {
            command.current_dir(directory);
        }
        command.env_remove("KUBECONFIG").env("KUBERNETES_SERVICE_HOST", host).env("KUBERNETES_SERVICE_PORT", port);
        command
    };
    let mut which = ground.options(&toehold, &json!({}));
    let kubeconfig = which.iter().position(|word| word == "--kubeconfig").unwrap();
    which.truncate(kubeconfig);
    let keys = path(&file_of(&toehold, "authorized_keys"));
    let pods = Pods::with_options(toehold, ground.clone(), which, &["--authorized-keys", &keys], inside);
    assert_eq!(pods.run("echo here").ends(0).stdout, "here\n");
    eventually("the end of its pod", || ground.pods().is_empty());
}
