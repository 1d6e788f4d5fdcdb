//! The user's own provision entries, each a step: data, yq, system and user, in this order; dependencies before packages.

mod data;
mod scripts;

use berth_link::boot::{BootSpec, GuestProvision};

use crate::boot::step::{Step, impossible};

/// The order of the modes, whatever their order in the configuration.
const ORDER: [Mode; 4] = [Mode::Data, Mode::Yq, Mode::System, Mode::User];

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Dependency,
    Data,
    Yq,
    System,
    User,
}

fn mode(entry: &GuestProvision) -> Option<Mode> {
    match entry.mode.as_str() {
        "dependency" => Some(Mode::Dependency),
        "data" => Some(Mode::Data),
        "yq" => Some(Mode::Yq),
        "system" => Some(Mode::System),
        "user" => Some(Mode::User),
        _ => None,
    }
}

fn of_mode(spec: &BootSpec, wanted: Mode) -> impl Iterator<Item = &GuestProvision> {
    let mut entries: Vec<_> = spec
        .provision
        .iter()
        .filter(|entry| mode(entry) == Some(wanted))
        .collect();
    entries.sort_by_key(|entry| entry.index);
    entries.into_iter()
}

/// There are scripts that are run here, not files that are written.
pub(crate) fn has_scripts(spec: &BootSpec) -> bool {
    of_mode(spec, Mode::System)
        .chain(of_mode(spec, Mode::User))
        .next()
        .is_some()
}

/// There are scripts that run as the login user.
pub(crate) fn has_user_scripts(spec: &BootSpec) -> bool {
    of_mode(spec, Mode::User).next().is_some()
}

/// There are scripts that prepare the installation of packages.
pub(crate) fn has_dependencies(spec: &BootSpec) -> bool {
    of_mode(spec, Mode::Dependency).next().is_some()
}

/// The scripts that prepare the installation of packages, one after the other.
pub(crate) fn dependency_steps(spec: &BootSpec, after: &[&str]) -> Vec<Step> {
    chained(of_mode(spec, Mode::Dependency), after, &[])
}

/// All other entries, one after the other: the first after `after`, scripts also after `before_scripts`.
pub(crate) fn steps(spec: &BootSpec, after: &[&str], before_scripts: &[&str]) -> Vec<Step> {
    let entries = ORDER.into_iter().flat_map(|mode| of_mode(spec, mode));
    let mut steps = chained(entries, after, before_scripts);
    // Whoever wrote this mode by hand into boot.json learns that it does nothing.
    steps.extend(
        spec.provision
            .iter()
            .filter(|entry| mode(entry).is_none())
            .map(step),
    );
    steps
}

fn chained<'s>(
    entries: impl Iterator<Item = &'s GuestProvision>,
    after: &[&str],
    before_scripts: &[&str],
) -> Vec<Step> {
    let owned = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let mut last = owned(after);
    let mut steps = Vec::new();
    for entry in entries {
        let mut step = step(entry);
        step.after = std::mem::replace(&mut last, vec![step.name.clone()]);
        if matches!(mode(entry), Some(Mode::System | Mode::User)) {
            step.after.extend(owned(before_scripts));
        }
        steps.push(step);
    }
    steps
}

fn step(entry: &GuestProvision) -> Step {
    let name = entry.file.clone();
    let entry = entry.clone();
    Step {
        name,
        after: Vec::new(),
        applies: |_, _| true,
        run: Box::new(move |work| {
            let entry = entry.clone();
            Box::pin(async move {
                match mode(&entry) {
                    Some(Mode::Data) => data::write(work, &entry),
                    Some(Mode::Dependency | Mode::System) => scripts::as_root(work, &entry).await,
                    Some(Mode::User) => scripts::as_user(work, &entry).await,
                    Some(Mode::Yq) => Err(impossible(
                        "mode yq: this guest agent has no yq engine yet; use mode data or system instead",
                    )),
                    None => Err(impossible(format!(
                        "mode {:?} is not understood",
                        entry.mode
                    ))),
                }
            })
        }),
    }
}

#[cfg(test)]
pub(crate) fn entry(index: u32, mode: &str) -> GuestProvision {
    GuestProvision {
        index,
        mode: mode.to_owned(),
        file: format!("provision.{mode}/{index:08}"),
        path: String::new(),
        owner: String::new(),
        permissions: String::new(),
        overwrite: true,
        format: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::engine;
    use crate::boot::testing::Scene;

    #[test]
    fn entries_run_by_mode_and_then_by_index() {
        let scene = Scene::new();
        let mut spec = scene.spec.clone();
        let modes = [
            "user",
            "system",
            "data",
            "boot?",
            "dependency",
            "yq",
            "system",
        ];
        spec.provision = (0..7)
            .zip(modes)
            .map(|(index, mode)| entry(index, mode))
            .rev()
            .collect();
        let steps = steps(&spec, &["packages"], &["services"]);
        let order: Vec<(&str, Vec<&str>)> = steps
            .iter()
            .map(|step| {
                (
                    step.name.as_str(),
                    step.after.iter().map(String::as_str).collect(),
                )
            })
            .collect();
        assert_eq!(order[0], ("provision.data/00000002", vec!["packages"]));
        assert_eq!(
            order[1],
            ("provision.yq/00000005", vec!["provision.data/00000002"])
        );
        assert_eq!(
            order[2],
            (
                "provision.system/00000001",
                vec!["provision.yq/00000005", "services"]
            )
        );
        assert_eq!(order[3].0, "provision.system/00000006");
        assert_eq!(order[4].0, "provision.user/00000000");
        assert_eq!(
            dependency_steps(&spec, &[])[0].name,
            "provision.dependency/00000004"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_this_agent_cannot_do_fails_with_a_reason() {
        let mut scene = Scene::new();
        scene.spec.provision = vec![entry(0, "yq"), entry(1, "ansible")];
        let list = steps(&scene.spec, &[], &[]);
        engine::run(list, &scene.site(), &scene.progress())
            .await
            .unwrap();
        let mut tails: Vec<_> = scene
            .reports()
            .into_iter()
            .map(|report| report.tail)
            .collect();
        tails.sort();
        assert_eq!(tails[0], "mode \"ansible\" is not understood");
        assert!(tails[1].starts_with("mode yq: this guest agent has no yq engine yet"));
    }
}
