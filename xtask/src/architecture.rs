//! Arrows between crates only point down, and only the binary's crate names what touches the real world.

use std::collections::{BTreeMap, BTreeSet};

use crate::Result;
use crate::workspace::{Metadata, Package};

/// Each crate with the crates of the project that it may name. A new crate gets its place here.
const LAYERS: &[(&str, &[&str])] = &[
    ("toehold-core", &[]),
    ("toehold-keygen", &["toehold-core"]),
    ("toehold-session", &["toehold-core", "toehold-keygen"]),
    ("toehold-masterkey", &["toehold-core", "toehold-keygen"]),
    ("toehold-joinproto", &["toehold-core"]),
    ("toehold-specsign", &["toehold-core"]),
    ("toehold-podrun", &["toehold-core"]),
    (
        "toehold",
        &[
            "toehold-core",
            "toehold-joinproto",
            "toehold-keygen",
            "toehold-masterkey",
            "toehold-podrun",
            "toehold-session",
            "toehold-specsign",
        ],
    ),
    ("xtask", &[]),
];

/// The crates that touch the real world: allowed here alone.
const INTEGRATION: &str = "toehold";

/// What no other crate may name, nor reach through its dependencies.
const REAL_WORLD: &[&str] =
    &["async-nats", "async-std", "k8s-openapi", "kube", "rusqlite", "russh", "russh-sftp", "smol", "tokio", "tonic"];

/// Checks every crate of the workspace.
pub(crate) fn check(metadata: &Metadata) -> Result<()> {
    let mut faults = Vec::new();
    for package in metadata.members() {
        faults.extend(named(package));
        if package.name != INTEGRATION {
            faults.extend(reached(metadata, package));
        }
    }
    println!("{} crates, arrows point down", metadata.members().count());
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

/// Faults in what a crate's manifest names, optional and development dependencies included.
fn named(package: &Package) -> Vec<String> {
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == package.name) else {
        return vec![format!("{} has no place in the layers of xtask/src/architecture.rs", package.name)];
    };
    let mut faults = Vec::new();
    for dependency in &package.dependencies {
        let name = dependency.name.as_str();
        // A crate names itself to turn its own features on for its tests.
        let own = LAYERS.iter().any(|(layer, _)| *layer == name) && name != package.name;
        if own && !allowed.contains(&name) {
            faults.push(format!("{} names {name}: arrows only point down", package.name));
        }
        if package.name != INTEGRATION && REAL_WORLD.contains(&name) {
            let kind = dependency.kind.as_deref().unwrap_or("normal");
            faults.push(format!("{} names {name} ({kind}): adapters live in {INTEGRATION} alone", package.name));
        }
    }
    faults
}

/// Faults in what a crate's users would compile with it.
fn reached(metadata: &Metadata, package: &Package) -> Vec<String> {
    let Some(resolve) = &metadata.resolve else {
        return vec!["cargo metadata resolved nothing".to_owned()];
    };
    let names: BTreeMap<&str, &str> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
    let mut seen = BTreeSet::new();
    let mut open = vec![package.id.as_str()];
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let dependencies = resolve.nodes.iter().filter(|node| node.id == id).flat_map(|node| &node.deps);
        let normal = dependencies.filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        open.extend(normal.map(|dependency| dependency.pkg.as_str()));
    }
    let reached = seen.iter().filter_map(|id| names.get(id)).filter(|name| REAL_WORLD.contains(name));
    reached.map(|name| format!("{} reaches {name} through its dependencies", package.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependencies: Vec<serde_json::Value> =
            dependencies.iter().map(|name| serde_json::json!({ "name": name, "kind": "dev" })).collect();
        serde_json::from_value(serde_json::json!({
            "id": name, "name": name, "version": "0.1.0", "rust_version": null, "dependencies": dependencies, "features": {},
            "targets": [], "publish": null,
        }))
        .unwrap()
    }

    #[test]
    fn an_arrow_may_point_down_only() {
        assert!(named(&package("toehold-session", &["toehold-core", "toehold-keygen", "serde"])).is_empty());
        assert_eq!(named(&package("toehold-core", &["toehold-keygen"])).len(), 1);
        assert_eq!(named(&package("toehold-session", &["toehold-masterkey"])).len(), 1);
    }

    #[test]
    fn a_job_crate_may_not_name_a_runtime_even_for_its_tests() {
        assert_eq!(named(&package("toehold-keygen", &["tokio", "russh"])).len(), 2);
        assert!(named(&package("toehold", &["tokio", "russh"])).is_empty());
    }

    #[test]
    fn an_unknown_crate_is_a_fault() {
        assert_eq!(named(&package("toehold-extra", &[])).len(), 1);
    }

    #[test]
    fn what_comes_in_through_a_dependency_is_a_fault() {
        let metadata: Metadata = serde_json::from_value(serde_json::json!({
            "packages": [
                { "id": "k", "name": "toehold-keygen", "version": "1.0.0", "rust_version": null, "dependencies": [], "features": {},
                  "targets": [], "publish": null },
                { "id": "m", "name": "middle", "version": "1.0.0", "rust_version": null, "dependencies": [], "features": {},
                  "targets": [], "publish": null },
                { "id": "t", "name": "tokio", "version": "1.0.0", "rust_version": null, "dependencies": [], "features": {},
                  "targets": [], "publish": null },
            ],
            "workspace_members": ["k"],
            "workspace_default_members": ["k"],
            "target_directory": "",
            "resolve": { "nodes": [
                { "id": "k", "deps": [{ "pkg": "m", "dep_kinds": [{ "kind": null }] }] },
                { "id": "m", "deps": [{ "pkg": "t", "dep_kinds": [{ "kind": null }] }] },
                { "id": "t", "deps": [] },
            ] },
        }))
        .unwrap();
        let error = check(&metadata).unwrap_err().to_string();
        assert_eq!(error, "toehold-keygen reaches tokio through its dependencies");
    }
}
