//! The map of the house: who may depend on whom. Arrows lead down only, and the guest's tree stands apart.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::program::Program;
use crate::workspace::Workspace;

/// The host's rooms, from the front door down. A crate may depend on those of later lines.
const HOST: &[&[&str]] = &[
    &["berth"],
    &["berth-hostagent"],
    &["berth-driver", "berth-mount"],
    &[
        "berth-cidata",
        "berth-dns",
        "berth-forward",
        "berth-sftp",
        "berth-ssh",
    ],
    &["berth-image", "berth-instance"],
    &[
        "berth-config",
        "berth-events",
        "berth-guest-api",
        "berth-link",
        "berth-process",
    ],
    &["berth-grpc", "berth-relay"],
];

/// The guest's rooms: the person inside, and what both ends share.
const GUEST: (&str, &[&str]) = ("berth-guestagent", &["berth-link", "berth-relay"]);

/// The workshop depends on nobody in the house.
const WORKSHOP: &[&str] = &["berth-testguest", "xtask"];

/// Checks every arrow of the workspace.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let metadata = Program::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(workspace.root())
        .read()?;
    let metadata = serde_json::from_str(&metadata).context("understand `cargo metadata`")?;
    let wrong: Vec<String> = arrows(&metadata)?
        .into_iter()
        .flat_map(|(from, to)| to.into_iter().filter_map(move |to| fault(&from, &to)))
        .collect();
    if !wrong.is_empty() {
        bail!(
            "the crates' arrows do not lead down (xtask/src/arrows.rs has the map):\n  {}",
            wrong.join("\n  ")
        );
    }
    Ok(())
}

/// Crates of the workspace with those they depend on, tests left out.
fn arrows(metadata: &Value) -> Result<BTreeMap<String, Vec<String>>> {
    let packages = metadata["packages"]
        .as_array()
        .context("`cargo metadata` lists no packages")?;
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let ours: Vec<String> = packages.iter().map(name).collect();
    let dependencies = |package: &Value| -> Vec<String> {
        let all = package["dependencies"].as_array().into_iter().flatten();
        let built = all.filter(|dependency| dependency["kind"] != "dev");
        built.map(name).filter(|name| ours.contains(name)).collect()
    };
    Ok(packages
        .iter()
        .map(|package| (name(package), dependencies(package)))
        .collect())
}

/// What is wrong with an arrow, if anything.
fn fault(from: &str, to: &str) -> Option<String> {
    let floor = |name: &str| HOST.iter().position(|rooms| rooms.contains(&name));
    if WORKSHOP.contains(&from) {
        return Some(format!("{from} -> {to}: the workshop depends on nobody"));
    }
    if from == GUEST.0 {
        let allowed = GUEST.1.contains(&to);
        return (!allowed).then(|| format!("{from} -> {to}: the guest's tree has no such room"));
    }
    match (floor(from), floor(to)) {
        (None, _) => Some(format!("{from} has no place on the map")),
        (_, None) => Some(format!(
            "{from} -> {to}: {to} has no place on the map of the host"
        )),
        (Some(from_floor), Some(to_floor)) => {
            (from_floor >= to_floor).then(|| format!("{from} -> {to}: not downwards"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arrows_lead_down() {
        assert_eq!(fault("berth", "berth-config"), None);
        assert_eq!(fault("berth-guestagent", "berth-link"), None);
        for (from, to) in [
            ("berth-config", "berth"),
            ("berth-ssh", "berth-cidata"),
            ("berth-guestagent", "berth-config"),
            ("berth-hostagent", "berth-guestagent"),
            ("berth-testguest", "berth-link"),
            ("berth-new", "berth-config"),
        ] {
            assert!(fault(from, to).is_some(), "{from} -> {to}");
        }
    }

    #[test]
    fn only_what_is_built_counts() {
        let metadata = json!({ "packages": [
            { "name": "a", "dependencies": [
                { "name": "b", "kind": null }, { "name": "c", "kind": "dev" }, { "name": "serde", "kind": null },
            ] },
            { "name": "b", "dependencies": [] },
            { "name": "c", "dependencies": [] },
        ] });
        let arrows = arrows(&metadata).unwrap();
        assert_eq!(arrows["a"], ["b"]);
        assert!(arrows["b"].is_empty());
    }
}
