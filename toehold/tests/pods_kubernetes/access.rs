//! What the gateway must be allowed: all that `pods role` prints, and nothing beyond it. Every other test here runs with no more.

use serde_json::{Value, json};
use toehold::adapters::kube_pods::NEEDED;

use crate::gateway::{Pods, file_of};
use crate::ground::Ground;
use crate::support::{Done, Toehold, eventually};

/// A start that is refused.
fn refused(ground: &Ground, toehold: &Toehold, config: &Value) -> Done {
    let keys = file_of(toehold, "authorized_keys");
    std::fs::write(&keys, "").unwrap();
    let which = ground.options(toehold, config);
    let arguments = ["pods", "serve", "--listen", "127.0.0.1:0", "--authorized-keys", keys.to_str().unwrap()];
    toehold.run(arguments.into_iter().chain(which.iter().map(String::as_str)))
}

#[test]
fn each_verb_that_is_missing_is_named_at_the_start() {
    let (ground, toehold) = (Ground::new(), Toehold::bare());
    let role = ground.namespace().kubectl(["get", "role", "toehold-pods"]).json();
    for need in NEEDED {
        for verb in need.verbs {
            let mut less = role.clone();
            for rule in less["rules"].as_array_mut().unwrap() {
                if rule["resources"] == json!([need.resource]) {
                    rule["verbs"].as_array_mut().unwrap().retain(|has| has != verb);
                }
            }
            less["rules"].as_array_mut().unwrap().retain(|rule| rule["verbs"] != json!([]));
            less["metadata"] = json!({ "name": "toehold-pods" });
            ground.namespace().kubectl(["replace", "-f", "-"]).input(less.to_string()).text();
            // The cluster takes a moment to believe it.
            eventually("the verb missing", || {
                let done = refused(&ground, &toehold, &json!({})).ends(1);
                assert!(done.stderr.contains("toehold pods role --namespace"), "{done:?}");
                done.stderr.contains(&format!("{}: {verb} {}\n", ground.namespace().name(), need.resource))
            });
        }
    }
    // Without any right at all, every one is named.
    ground.namespace().kubectl(["delete", "rolebinding", "toehold-pods"]).text();
    eventually("all verbs missing", || {
        let done = refused(&ground, &toehold, &json!({})).ends(1);
        NEEDED.iter().all(|need| need.verbs.iter().all(|verb| done.stderr.contains(&format!("{verb} {}", need.resource))))
    });
}

#[test]
fn the_configuration_names_the_cluster_as_well() {
    let ground = Ground::new();
    let toehold = Toehold::bare();
    let token = file_of(&toehold, "token");
    let authority = file_of(&toehold, "ca.crt");
    let kubeconfig = ground.kubeconfig();
    std::fs::write(&token, kubeconfig["users"][0]["user"]["token"].as_str().unwrap()).unwrap();
    let pem = kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap();
    let pem = <base64ct::Base64 as base64ct::Encoding>::decode_vec(pem).unwrap();
    std::fs::write(&authority, pem).unwrap();
    let connection = json!({
        "host": kubeconfig["clusters"][0]["cluster"]["server"],
        "cacertFile": authority,
        "bearerTokenFile": token,
        "qps": 200.0,
        "burst": 20,
        "timeout": "20s",
    });
    let pods = Pods::on_ground(ground.clone(), &json!({ "connection": connection }), &[]);
    assert_eq!(pods.run("echo here").ends(0).stdout, "here\n");
    assert_eq!(pods.announced["isolates"], true);
    pods.waits_until_empty();
    drop(pods);
    // Who is not known, and a server that is another.
    std::fs::write(&token, "nobody's").unwrap();
    let done = refused(&ground, &toehold, &json!({ "connection": connection })).ends(1);
    assert!(done.stderr.contains("the cluster does not know the gateway"), "{done:?}");
    let mut elsewhere = connection.clone();
    elsewhere["host"] = json!("127.0.0.1:1");
    let done = refused(&ground, &toehold, &json!({ "connection": elsewhere })).ends(1);
    assert!(done.stderr.contains("no answer from the cluster"), "{done:?}");
    let mut unproven = connection.clone();
    unproven.as_object_mut().unwrap().remove("cacertFile");
    let done = refused(&ground, &toehold, &json!({ "connection": unproven })).ends(1);
    assert!(done.stderr.contains("no answer from the cluster") && done.stderr.contains("certificate"), "{done:?}");
}

#[test]
fn without_a_cluster_it_is_said_where_one_was_looked_for() {
    let toehold = Toehold::bare();
    let keys = file_of(&toehold, "authorized_keys");
    std::fs::write(&keys, "").unwrap();
    let serve = ["pods", "serve", "--authorized-keys", keys.to_str().unwrap()];
    let mut command = toehold.command(serve);
    command.env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST");
    let done = Done::of(command.output().unwrap()).ends(1);
    assert!(done.stderr.contains("there is no kubeconfig") && done.stderr.contains("--kubeconfig"), "{done:?}");
    let done = toehold.run(serve.into_iter().chain(["--kubeconfig", "/nowhere/kubeconfig"])).ends(1);
    assert!(done.stderr.contains("/nowhere/kubeconfig"), "{done:?}");
}
