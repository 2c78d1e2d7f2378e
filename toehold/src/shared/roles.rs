//! Which member may write what. What NATS lets each of them publish is printed from the same table.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toehold_core::Key;

use crate::adapters::identity::Recipient;

/// What a member of a shared store is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// A person, or the part of a service that rotates: opens the master key, and may write everything.
    Operator,
    /// A gateway: admits agents, and opens what only gateways need.
    Gateway,
    /// A gateway for pods: keeps what pods there are.
    Pods,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Operator, Self::Gateway, Self::Pods];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Operator => "operator",
            Self::Gateway => "gateway",
            Self::Pods => "pods",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|role| role.to_string() == text)
            .ok_or_else(|| format!("\"{text}\" is neither operator nor gateway nor pods"))
    }
}

/// How keys of one form may be changed by others than operators.
struct Rule {
    /// Segments; `*` stands for any one, and `>` at the end for one or more.
    pattern: &'static [&'static str],
    /// Who may write such a record.
    write: &'static [Role],
    /// Who may remove one.
    delete: &'static [Role],
}

/// What others than operators may do. What is not in here is the operators' alone: the master key, hosts and their keys, rotations,
/// sessions, grants, tokens, specifications, keys of people who get pods, and the list of members.
const RULES: &[Rule] = &[
    Rule { pattern: &["agent", "*"], write: &[Role::Gateway], delete: &[Role::Gateway] },
    Rule { pattern: &["agentpins", "*"], write: &[Role::Gateway], delete: &[Role::Gateway] },
    Rule { pattern: &["audit", "*", "*"], write: &[Role::Gateway, Role::Pods], delete: &[] },
    Rule { pattern: &["auditwriter", "*"], write: &[Role::Gateway, Role::Pods], delete: &[] },
    Rule { pattern: &["gateway", "*"], write: &[Role::Gateway], delete: &[] },
    // Which process clears away what gateways for pods have left: a lease saves work, and nothing rests on it.
    Rule { pattern: &["lease", "pods"], write: &[Role::Pods], delete: &[Role::Pods] },
    Rule { pattern: &["pod", "*"], write: &[Role::Pods], delete: &[Role::Pods] },
    Rule { pattern: &["slot", "*", "*"], write: &[Role::Gateway], delete: &[Role::Gateway] },
    // A token itself is an operator's word. Gateways sweep what is long over.
    Rule { pattern: &["token", "*"], write: &[], delete: &[Role::Gateway] },
    Rule { pattern: &["token", "*", "*"], write: &[Role::Gateway], delete: &[Role::Gateway] },
];

fn matches(pattern: &[&str], key: &Key) -> bool {
    let mut segments = key.segments();
    pattern.iter().all(|wanted| segments.next().is_some_and(|segment| *wanted == "*" || *wanted == segment))
        && segments.next().is_none()
}

impl Role {
    /// Whether a member with this role may write a record under this key: what others sign there is refused.
    pub fn may_write(self, key: &Key) -> bool {
        self == Self::Operator || RULES.iter().any(|rule| rule.write.contains(&self) && matches(rule.pattern, key))
    }

    /// Whether a member with this role may remove a record.
    pub fn may_delete(self, key: &Key) -> bool {
        self == Self::Operator || RULES.iter().any(|rule| rule.delete.contains(&self) && matches(rule.pattern, key))
    }
}

/// What a NATS server has to let somebody do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Permissions {
    /// Subjects that may be published to.
    pub publish: Vec<String>,
    /// Subjects that may be subscribed to.
    pub subscribe: Vec<String>,
}

/// What a NATS server has to let a member do that has this role, in the store in `bucket`. Everybody reads all of it: a server of 2.9
/// takes the subject that is asked for out of the question's body, which no permission looks at. What must not be read is sealed.
///
/// With a `writer`, for the member alone who is called that in the audit log: it writes no other chain (N4).
pub fn permissions(role: Role, bucket: &str, writer: Option<&Recipient>) -> Permissions {
    let stream = format!("KV_{bucket}");
    let mut publish = vec![
        format!("$JS.API.STREAM.INFO.{stream}"),
        format!("$JS.API.STREAM.MSG.GET.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
        format!("$JS.API.CONSUMER.INFO.{stream}.*"),
        format!("$JS.API.CONSUMER.DELETE.{stream}.*"),
        format!("$JS.FC.{stream}.>"),
    ];
    if role == Role::Operator {
        // For `init`, which makes the bucket where there is none.
        publish.push(format!("$JS.API.STREAM.CREATE.{stream}"));
        // For `store gc`, which removes what deletions have left.
        publish.push(format!("$JS.API.STREAM.PURGE.{stream}"));
        publish.push(format!("$KV.{bucket}.>"));
    }
    let is_of = |rule: &&Rule| rule.write.contains(&role) || rule.delete.contains(&role);
    let writer = writer.map(Recipient::writer);
    let subject = |rule: &Rule| {
        let mut pattern: Vec<&str> = rule.pattern.to_vec();
        if let (Some(writer), ["audit" | "auditwriter", place, ..]) = (&writer, pattern.as_mut_slice()) {
            *place = writer.as_str();
        }
        format!("$KV.{bucket}.{}", pattern.join("."))
    };
    publish.extend(RULES.iter().filter(is_of).map(subject));
    Permissions { publish, subscribe: vec!["_INBOX.>".to_owned()] }
}

impl fmt::Display for Permissions {
    /// As it stands in a server's configuration, within `permissions { … }`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |subjects: &[String]| {
            let lines: Vec<String> = subjects.iter().map(|subject| format!("    \"{subject}\"")).collect();
            lines.join("\n")
        };
        write!(f, "publish: {{ allow: [\n{}\n  ] }}\n  ", list(&self.publish))?;
        write!(f, "subscribe: {{ allow: [\n{}\n  ] }}", list(&self.subscribe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::parse(text).unwrap()
    }

    #[test]
    fn n2_what_is_not_in_the_table_is_the_operators_alone() {
        for text in [
            "masterkey/current",
            "masterkey/SHA256:x",
            "rotation/1",
            "rotation/1/a@b",
            "host/a@b",
            "knownhost/a",
            "token/1",
            "spec/web",
            "podkey/x",
            "operator/0",
            "session/1",
            "whatever/comes",
            "agent",
            "agent/a/b",
        ] {
            assert!(Role::Operator.may_write(&key(text)) && Role::Operator.may_delete(&key(text)));
            assert!(!Role::Gateway.may_write(&key(text)) && !Role::Pods.may_write(&key(text)), "{text}");
        }
        for text in ["agent/a", "agentpins/a", "audit/w/1", "auditwriter/w", "gateway/current", "slot/g/1", "token/1/0"] {
            assert!(Role::Gateway.may_write(&key(text)), "{text}");
        }
        assert!(Role::Gateway.may_delete(&key("token/1")) && !Role::Gateway.may_delete(&key("audit/w/1")));
        for text in ["pod/c", "pod/c.1", "audit/w/1", "auditwriter/w", "lease/pods"] {
            assert!(Role::Pods.may_write(&key(text)), "{text}");
        }
        assert!(Role::Pods.may_delete(&key("pod/c")) && !Role::Pods.may_delete(&key("audit/w/1")));
        for text in ["agent/a", "gateway/current", "lease/sessions", "token/1/0", "slot/g/1", "pod", "pod/c/1"] {
            assert!(!Role::Pods.may_write(&key(text)) && !Role::Pods.may_delete(&key(text)), "{text}");
        }
    }

    #[test]
    fn permissions_come_from_the_table() {
        let gateway = permissions(Role::Gateway, "fleet", None);
        assert!(gateway.publish.contains(&"$KV.fleet.token.*.*".to_owned()));
        assert!(!gateway.publish.iter().any(|subject| subject == "$KV.fleet.>" || subject.contains("masterkey")));
        assert!(permissions(Role::Operator, "fleet", None).publish.contains(&"$KV.fleet.>".to_owned()));
        for role in Role::ALL {
            let purges = permissions(role, "fleet", None).publish.contains(&"$JS.API.STREAM.PURGE.KV_fleet".to_owned());
            assert_eq!(purges, role == Role::Operator, "{role}");
        }
        assert!(gateway.publish.contains(&"$KV.fleet.audit.*.*".to_owned()));
    }

    #[test]
    fn n4_who_is_named_publishes_to_his_own_chain_of_the_audit_log_alone() {
        let recipient: Recipient = age::x25519::Identity::generate().to_public().into();
        let publish = permissions(Role::Pods, "fleet", Some(&recipient)).publish;
        let audit: Vec<&String> = publish.iter().filter(|subject| subject.contains("audit")).collect();
        assert_eq!(audit, [&format!("$KV.fleet.audit.{recipient}.*"), &format!("$KV.fleet.auditwriter.{recipient}")]);
    }
}
