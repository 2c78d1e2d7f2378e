//! `toehold pods role`: the least that a gateway must be allowed in a cluster.

use serde_json::{Value, json};

use crate::adapters::kube_pods::{NEEDED, Need};
use crate::cli::args::PodsRole;
use crate::cli::{Exit, Failure, Output};

fn rules() -> Value {
    let rule = |need: &Need| json!({ "apiGroups": [need.group], "resources": [need.resource], "verbs": need.verbs });
    NEEDED.iter().map(rule).collect()
}

fn objects(options: &PodsRole) -> Vec<Value> {
    let (namespace, account) = (&options.namespace, &options.service_account);
    let of_account = options.service_account_namespace.as_ref().unwrap_or(namespace);
    let metadata = json!({ "name": "toehold-pods", "namespace": namespace });
    vec![
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": rules(),
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "toehold-pods" },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": of_account }],
        }),
    ]
}

/// Prints it: YAML for `kubectl apply -f -`, or one JSON list.
///
/// # Errors
/// A name that Kubernetes does not take.
pub(super) fn print(options: &PodsRole, output: Output) -> Result<Exit, Failure> {
    let account_namespace = options.service_account_namespace.as_ref();
    for name in [&options.namespace, &options.service_account].into_iter().chain(account_namespace) {
        let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(inside) || name.starts_with('-') || name.ends_with('-') {
            return Err(Failure::usage(format!("\"{name}\" is no name that Kubernetes takes")));
        }
    }
    let objects = objects(options);
    output.document(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }));
    for object in &objects {
        output.text("---");
        output.text(yaml(object, 0).trim_end());
    }
    Ok(Exit::Done)
}

/// The objects above as YAML: their texts are plain, and quoted all the same where they could be read as something else.
fn yaml(value: &Value, depth: usize) -> String {
    let blanks = "  ".repeat(depth);
    match value {
        Value::Object(members) => members.iter().fold(String::new(), |text, (name, member)| match member {
            Value::Object(_) => format!("{text}{blanks}{name}:\n{}", yaml(member, depth + 1)),
            Value::Array(items) if items.iter().all(Value::is_string) => format!("{text}{blanks}{name}: {member}\n"),
            Value::Array(items) => items.iter().fold(format!("{text}{blanks}{name}:\n"), |text, item| {
                let item = yaml(item, depth + 1);
                format!("{text}{blanks}- {}", item.trim_start())
            }),
            member => format!("{text}{blanks}{name}: {member}\n"),
        }),
        other => format!("{blanks}{other}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_the_same_in_both_forms() {
        let options = PodsRole {
            namespace: "guests".to_owned(),
            service_account: "gateway".to_owned(),
            service_account_namespace: Some("operations".to_owned()),
        };
        for object in objects(&options) {
            let text = yaml(&object, 0);
            let read: Value = serde_json::to_value(yaml_rust2_value(&text)).unwrap();
            assert_eq!(read, object, "{text}");
        }
    }

    fn yaml_rust2_value(text: &str) -> Value {
        fn value(yaml: &yaml_rust2::Yaml) -> Value {
            match yaml {
                yaml_rust2::Yaml::String(text) => json!(text),
                yaml_rust2::Yaml::Array(items) => items.iter().map(value).collect(),
                yaml_rust2::Yaml::Hash(members) => {
                    members.iter().map(|(name, member)| (name.as_str().unwrap().to_owned(), value(member))).collect()
                }
                other => panic!("{other:?}"),
            }
        }
        value(&yaml_rust2::YamlLoader::load_from_str(text).unwrap()[0])
    }

    #[test]
    fn nothing_more_is_asked_for_than_is_used() {
        let text = rules().to_string();
        for never in ["*", "secrets", "update", "nodes", "pods/attach", "deletecollection"] {
            assert!(!text.contains(never), "{never}");
        }
    }
}
