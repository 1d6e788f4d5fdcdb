//! The guest's time zone.

use std::path::{Component, Path};

use berth_link::boot::BootSpec;

use crate::boot::step::{Done, StepError, Work, impossible};
use crate::files::{Attributes, Loss, link, put};
use crate::guest::Guest;

/// The host has chosen one.
pub(crate) fn applies(spec: &BootSpec, _guest: &Guest) -> bool {
    !spec.timezone.is_empty()
}

/// Points `/etc/localtime` to it, and names it where Debian's tools look.
pub(crate) fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let zone = &work.spec.timezone;
    let is_name = Path::new(zone)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !is_name {
        return Err(impossible(format!("timezone: {zone:?} is no time zone")));
    }
    let data = format!("/usr/share/zoneinfo/{zone}");
    if !work.guest.path(&data).is_file() {
        return Err(impossible(format!(
            "timezone: the guest has no {data}: install its package tzdata, or correct the name"
        )));
    }
    let mut changed = link(&work.guest.path("/etc/localtime"), Path::new(&data))?;
    let name = work.guest.path("/etc/timezone");
    if name.exists() {
        changed |= put(
            &name,
            format!("{zone}\n").as_bytes(),
            Attributes::root(0o644),
            Loss::Repaired,
        )?;
    }
    Ok(Done::changed(changed))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::boot::testing::Scene;

    fn scene(zone: &str) -> Scene {
        let mut scene = Scene::new();
        scene.write("/usr/share/zoneinfo/Asia/Tokyo", "TZif");
        scene.write("/etc/timezone", "Etc/UTC\n");
        scene.spec.timezone = zone.to_owned();
        scene
    }

    #[test]
    fn the_zone_is_linked_and_named() {
        let scene = scene("Asia/Tokyo");
        scene.now_twice(run);
        let target = fs::read_link(scene.path("/etc/localtime")).unwrap();
        assert_eq!(target, Path::new("/usr/share/zoneinfo/Asia/Tokyo"));
        assert_eq!(scene.read("/etc/timezone"), "Asia/Tokyo\n");
    }

    #[test]
    fn what_is_no_zone_is_refused() {
        for (zone, why) in [
            (
                "Asia/Atlantis",
                "the guest has no /usr/share/zoneinfo/Asia/Atlantis",
            ),
            ("../../../etc/passwd", "is no time zone"),
            ("/etc/passwd", "is no time zone"),
        ] {
            let scene = scene(zone);
            let error = scene.now(run).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert!(!scene.path("/etc/localtime").is_symlink());
        }
    }
}
