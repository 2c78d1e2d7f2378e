//! Every library crate builds with every combination of its features.

use crate::workspace::{Metadata, Package};
use crate::{Result, process};

/// Above this many features, each one alone and all of them together stand for the combinations.
const POWERSET_LIMIT: usize = 4;

/// Lints each published library with each combination, warnings denied.
pub(crate) fn check(metadata: &Metadata) -> Result<()> {
    for package in metadata.published().filter(|package| package.targets_of("lib").next().is_some()) {
        for features in combinations(package) {
            let mut cargo = process::cargo();
            cargo.args(["clippy", "--locked", "--quiet", "--package", &package.name, "--lib", "--no-default-features"]);
            if !features.is_empty() {
                cargo.args(["--features", &features.join(",")]);
            }
            process::run(cargo.args(["--", "-D", "warnings"]))?;
        }
    }
    Ok(())
}

fn combinations(package: &Package) -> Vec<Vec<&str>> {
    let names: Vec<&str> = package.features.keys().map(String::as_str).filter(|name| *name != "default").collect();
    if names.len() > POWERSET_LIMIT {
        let alone = names.iter().map(|name| vec![*name]);
        return std::iter::once(Vec::new()).chain(alone).chain([names.clone()]).collect();
    }
    names.iter().fold(vec![Vec::new()], |sets, name| {
        let with = sets.iter().map(|set: &Vec<&str>| set.iter().copied().chain([*name]).collect());
        sets.iter().cloned().chain(with).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(features: &[&str]) -> Package {
        let features: serde_json::Map<String, serde_json::Value> =
            features.iter().map(|name| ((*name).to_owned(), serde_json::json!([]))).collect();
        serde_json::from_value(serde_json::json!({
            "id": "", "name": "", "version": "", "rust_version": null, "dependencies": [], "features": features, "targets": [],
            "publish": null,
        }))
        .unwrap()
    }

    #[test]
    fn few_features_give_every_combination() {
        assert_eq!(combinations(&package(&[])), [Vec::<&str>::new()]);
        let some = package(&["a", "b", "default"]);
        assert_eq!(combinations(&some), [vec![], vec!["a"], vec!["b"], vec!["a", "b"]]);
    }

    #[test]
    fn many_features_give_none_each_and_all() {
        assert_eq!(combinations(&package(&["a", "b", "c", "d", "e"])).len(), 7);
    }
}
