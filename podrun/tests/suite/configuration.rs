//! The seed's configuration, its defaults, and what is refused by the name of its field; kubeconfigs; the pod that we run in.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use toehold_podrun::config::{
    Config, ConfigError, Credentials, Kubeconfig, KubeconfigError, Material, Mode, Settings, in_cluster,
};

const SEED: &str = include_str!("../vectors/config/seed.yaml");
const KUBECONFIG: &str = include_str!("../vectors/config/kubeconfig.yaml");

fn settings(text: &str) -> Settings {
    Config::parse(text).unwrap().validate().unwrap()
}

#[test]
fn nothing_set_means_the_seeds_defaults() {
    for text in ["", "{}", "connection: {}\npod: {}\n"] {
        let settings = settings(text);
        assert_eq!(settings.cluster.server, "https://kubernetes.default.svc");
        assert_eq!(settings.cluster.queries_per_second, None, "not set is no limit of ours");
        assert_eq!(settings.cluster.burst, 10);
        assert_eq!(settings.namespace, "default");
        assert_eq!(settings.container, "shell");
        assert_eq!(settings.spec["containers"][0]["image"], "containerssh/containerssh-guest-image");
        assert_eq!(settings.subsystems["sftp"], "/usr/lib/openssh/sftp-server");
        assert_eq!(settings.idle_command[..2], ["/bin/sh", "-c"]);
        assert_eq!(settings.ready_within, Duration::from_mins(1));
        assert_eq!(settings.mode, Mode::Connection);
        assert!(!settings.split_path_commands);
        assert!(settings.warnings[0].contains("pod.namespace"), "P6: one of its own");
    }
}

#[test]
fn every_field_of_the_seed_is_known() {
    let settings = settings(SEED);
    assert_eq!(settings.cluster.server, "https://api.example.org:6443/k8s");
    assert_eq!(settings.cluster.server_name.as_deref(), Some("kubernetes"));
    assert_eq!(settings.cluster.certificate_authority, Some(Material::File("/etc/ca.pem".to_owned())));
    assert!(matches!(&settings.cluster.credentials, Credentials::TokenFile(path) if path == "/run/token"));
    assert_eq!(settings.cluster.queries_per_second, Some(5.0));
    assert_eq!(settings.cluster.call_timeout, Duration::from_secs(7));
    assert_eq!(settings.container, "second");
    assert_eq!(settings.shell_command.as_deref(), Some(&["/bin/zsh".to_owned()][..]));
    assert_eq!(settings.ready_within, Duration::from_secs(90));
}

#[test]
fn a_fault_names_its_field() {
    for (text, field) in [
        ("connection: {host: 'a b'}", "connection.host"),
        ("connection: {host: 'https://u:p@h'}", "connection.host"),
        ("connection: {path: /v1}", "connection.path"),
        ("connection: {cert: x}", "connection.key"),
        ("connection: {key: x}", "connection.cert"),
        ("connection: {username: x}", "connection.password"),
        ("connection: {bearerToken: x, bearerTokenFile: y}", "connection.bearerToken"),
        ("connection: {cacert: x, cacertFile: y}", "connection.cacertFile"),
        ("connection: {insecure: true, cacert: x}", "connection.insecure"),
        ("connection: {qps: 0}", "connection.qps"),
        ("pod: {namespace: 'A_b'}", "pod.namespace"),
        ("pod: {consoleContainerNumber: 1}", "pod.consoleContainerNumber"),
        ("pod: {podSpec: []}", "pod.podSpec"),
        ("pod: {podSpec: {containers: []}}", "pod.podSpec.containers"),
        ("pod: {podSpec: {containers: [{name: A, image: x}]}}", "pod.podSpec.containers[0].name"),
        ("pod: {podSpec: {containers: [{name: a}]}}", "pod.podSpec.containers[0].image"),
        (
            "pod: {podSpec: {automountServiceAccountToken: true, containers: [{name: a, image: b}]}}",
            "pod.podSpec.automountServiceAccountToken",
        ),
        ("pod: {podSpec: {restartPolicy: Always, containers: [{name: a, image: b}]}}", "pod.podSpec.restartPolicy"),
        ("pod: {podSpec: {activeDeadlineSeconds: 0, containers: [{name: a, image: b}]}}", "pod.podSpec.activeDeadlineSeconds"),
        ("pod: {shellCommand: []}", "pod.shellCommand"),
        ("pod: {idleCommand: ['']}", "pod.idleCommand"),
        ("pod: {subsystems: {sftp: ''}}", "pod.subsystems.sftp"),
        ("pod: {name: a}", "pod.name"),
        ("pod: {createMissingPods: true}", "pod.createMissingPods"),
        ("timeout: 0s", "timeout"),
        ("limits: {idle: 10ms}", "limits.idle"),
    ] {
        let Err(ConfigError::Faults(faults)) = Config::parse(text).unwrap().validate() else { panic!("{text}") };
        assert!(faults.iter().any(|fault| fault.field == field), "{text}: {faults:?}");
    }
}

#[test]
fn an_unknown_or_misspelt_field_is_named_and_no_value_is_quoted() {
    for (text, part) in [
        ("connection: {hots: x}", "hots"),
        (r#"{"pod": {"podspec": {}}}"#, "podspec"),
        ("timeout: soon", "duration"),
        ("pod: {namespace: a, namespace: b}", "duplicate"),
    ] {
        let error = Config::parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    for text in [
        "connection: {burst: hunter2}",
        "connection: {bearerToken: [hunter2]}",
        "{\"connection\": {\"burst\": \"hunter2\"}}",
        "hunter2: [",
    ] {
        let error = format!("{:?}", Config::parse(text).unwrap_err());
        assert!(!error.contains("hunter2") || text.starts_with("hunter2"), "{error}");
    }
    let shown = format!("{:?}", Config::parse("connection: {bearerToken: hunter2, key: hunter2, password: hunter2}").unwrap());
    assert!(!shown.contains("hunter2"));
}

#[test]
fn large_deep_and_self_referring_documents_are_refused() {
    assert!(matches!(Config::parse(&" ".repeat(2_000_000)), Err(ConfigError::TooLarge { .. })));
    assert!(Config::parse(&format!("pod: {{podSpec: {}", "[".repeat(10_000))).is_err());
    assert!(Config::parse(&format!("{{\"pod\": {{\"podSpec\": {}", "[".repeat(10_000))).is_err());
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..9 {
        let before = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(",")));
    }
    bomb.push_str("pod: {podSpec: *a8}\n");
    assert!(Config::parse(&bomb).is_err());
    assert!(Config::parse("{}\n---\n{}\n").is_err(), "two documents");
}

#[test]
fn a_kubeconfig_leads_to_its_cluster() {
    let access = Kubeconfig::parse(KUBECONFIG).unwrap().access(None, Path::new("/home/a/.kube")).unwrap();
    assert_eq!(access.server, "https://127.0.0.1:6443");
    assert_eq!(access.certificate_authority, Some(Material::Data(b"-----BEGIN CERTIFICATE-----\n".to_vec())));
    assert_eq!(access.namespace.as_deref(), Some("gw"));
    let Credentials::Certificate { certificate, key_file, key } = &access.credentials else { panic!() };
    assert_eq!(certificate, &Material::File("/home/a/.kube/client.crt".to_owned()), "beside the kubeconfig");
    assert_eq!((key_file.as_deref(), key.is_none()), (Some("/etc/client.key"), true));

    let other = |name| Kubeconfig::parse(KUBECONFIG).unwrap().access(Some(name), Path::new("/")).unwrap();
    assert!(matches!(&other("token").credentials, Credentials::Token(token) if token.expose() == "t0ken"));
    let plugin = other("plugin");
    let Credentials::Exec(plugin) = &plugin.credentials else { panic!() };
    assert_eq!(
        (plugin.command.as_str(), plugin.arguments.as_slice()),
        ("get-token", &["--cluster".to_owned(), "c".to_owned()][..])
    );
    let names: Vec<String> = Kubeconfig::parse(KUBECONFIG).unwrap().contexts().map(str::to_owned).collect();
    assert_eq!(names, ["main", "token", "plugin", "dangling"]);
}

#[test]
fn a_kubeconfig_that_leads_nowhere_says_why() {
    let access = |text: &str, context| Kubeconfig::parse(text).and_then(|c| c.access(context, Path::new("/")));
    assert_eq!(access(KUBECONFIG, Some("nosuch")).unwrap_err(), KubeconfigError::NoContext("nosuch".to_owned()));
    assert!(matches!(access(KUBECONFIG, Some("dangling")), Err(KubeconfigError::Dangling { kind: "cluster", .. })));
    assert!(matches!(access("", None), Err(KubeconfigError::NoContext(_))));
    assert!(matches!(access("- a\n", None), Err(KubeconfigError::Unreadable(_))));
    let with = |user: &str, cluster: &str| {
        format!(
            "current-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
             clusters: [{{name: a, cluster: {{{cluster}}}}}]\nusers: [{{name: a, user: {{{user}}}}}]\n"
        )
    };
    for (user, cluster, field) in [
        ("", "server: ''", "server"),
        ("", "server: 'https://a', certificate-authority-data: '!'", "certificate-authority-data"),
        ("", "server: 'https://a', insecure-skip-tls-verify: true, certificate-authority: x", "insecure-skip-tls-verify"),
        ("client-certificate: x", "server: 'https://a'", "client-key"),
        ("auth-provider: {name: gcp}", "server: 'https://a'", "auth-provider"),
        ("exec: {args: [a]}", "server: 'https://a'", "exec"),
    ] {
        let error = access(&with(user, cluster), None).unwrap_err();
        assert!(matches!(error, KubeconfigError::Field { field: found, .. } if found == field), "{field}: {error}");
    }
}

#[test]
fn of_two_kubeconfigs_the_first_counts() {
    let second = "current-context: token\nclusters: [{name: c, cluster: {server: 'https://other'}}]\n";
    let merged = Kubeconfig::parse("current-context: ''\n").unwrap().merge(Kubeconfig::parse(KUBECONFIG).unwrap());
    let merged = merged.merge(Kubeconfig::parse(second).unwrap());
    assert_eq!(merged.access(None, Path::new("/")).unwrap().server, "https://127.0.0.1:6443");
}

#[test]
fn inside_of_a_cluster_its_own_variables_lead_there() {
    let environment = |host: &'static str| {
        move |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some(host.to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some("443".to_owned()),
            _ => None,
        }
    };
    let access = in_cluster(environment("10.0.0.1"), Some("gw\n")).unwrap();
    assert_eq!((access.server.as_str(), access.namespace.as_deref()), ("https://10.0.0.1:443", Some("gw")));
    assert_eq!(in_cluster(environment("fd00::1"), None).unwrap().server, "https://[fd00::1]:443");
    assert!(in_cluster(|_| None, None).unwrap_err().to_string().contains("KUBERNETES_SERVICE_HOST"));
    assert!(in_cluster(environment("a b"), None).is_err());
}

proptest! {
    #[test]
    fn any_text_is_answered(text in ".{0,200}") {
        let _ = Config::parse(&text).map(Config::validate);
        let _ = Kubeconfig::parse(&text).map(|config| config.access(None, Path::new("/")));
    }
}
