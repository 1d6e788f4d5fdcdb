//! Mode `data`: a file with given content, owner and mode.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use berth_link::boot::GuestProvision;

use crate::accounts::Owner;
use crate::boot::step::{Done, StepError, Work, impossible};
use crate::files::{Attributes, FileError, Loss, failed, give, put};
use crate::guest::Guest;

/// Writes the file.
pub(super) fn write(work: &Work<'_>, entry: &GuestProvision) -> Result<Done, StepError> {
    if !Path::new(&entry.path).is_absolute() {
        return Err(impossible(format!("path {:?} is not absolute", entry.path)));
    }
    let path = work.guest.path(&entry.path);
    if path.exists() && !entry.overwrite {
        return Ok(Done::Already);
    }
    let owner = owner(work.guest, &entry.owner)?;
    let mode = u32::from_str_radix(&entry.permissions, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| {
            impossible(format!(
                "permissions {:?} are no octal mode",
                entry.permissions
            ))
        })?;
    let bytes = work.read_volume(&entry.file)?;
    if let Some(parent) = path.parent() {
        make_directories(parent, owner)?;
    }
    // A link is followed: the file it leads to is the one that the path names.
    let path = fs::canonicalize(&path).unwrap_or(path);
    Ok(Done::changed(put(
        &path,
        &bytes,
        Attributes::of(owner, mode),
        Loss::Matters,
    )?))
}

/// `USER:GROUP`, each by name or number; without a group the user's own.
fn owner(guest: &Guest, text: &str) -> Result<Owner, StepError> {
    let unknown = |what: &str, name: &str| {
        impossible(format!("owner {text:?}: the guest has no {what} {name:?}"))
    };
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let account = guest.account(user)?;
    let uid = match (&account, user.parse()) {
        (Some(account), _) => account.owner.uid,
        (None, Ok(uid)) => uid,
        (None, Err(_)) => return Err(unknown("user", user)),
    };
    let gid = match (group, account) {
        ("", Some(account)) => account.owner.gid,
        ("", None) => uid,
        _ => match (guest.group(group)?, group.parse()) {
            (Some(group), _) => group.gid,
            (None, Ok(gid)) => gid,
            (None, Err(_)) => return Err(unknown("group", group)),
        },
    };
    Ok(Owner { uid, gid })
}

/// Makes the missing directories: the owner's where the owner could have made them, else root's.
fn make_directories(path: &Path, owner: Owner) -> Result<(), FileError> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut above = path;
    while !above.exists() {
        missing.push(above.to_path_buf());
        let Some(parent) = above.parent() else { break };
        above = parent;
    }
    let is_owners = fs::metadata(above).map_err(failed("look at", above))?.uid() == owner.uid;
    for directory in missing.iter().rev() {
        fs::create_dir(directory).map_err(failed("create", directory))?;
        if is_owners {
            give(directory, owner)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::provision;
    use crate::boot::testing::{Scene, me};

    fn entry(path: &str) -> GuestProvision {
        let Owner { uid, gid } = me();
        GuestProvision {
            path: path.to_owned(),
            owner: format!("{uid}:{gid}"),
            permissions: "640".to_owned(),
            ..provision::entry(0, "data")
        }
    }

    async fn write_in(scene: &Scene, entry: &GuestProvision) -> Result<Done, StepError> {
        scene.run(async |work: &Work<'_>| write(work, entry)).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_file_is_written_with_its_directories() {
        let scene = Scene::new();
        scene.write_volume("provision.data/00000000", "key: value");
        let config = entry("/home/lima/.config/app/a.yaml");
        assert_eq!(write_in(&scene, &config).await.unwrap(), Done::Changed);
        assert_eq!(write_in(&scene, &config).await.unwrap(), Done::Already);
        assert_eq!(scene.read(&config.path), "key: value");
        assert_eq!(scene.mode(&config.path), 0o640);

        scene.write(&config.path, "the user's");
        let kept = GuestProvision {
            overwrite: false,
            ..config.clone()
        };
        assert_eq!(write_in(&scene, &kept).await.unwrap(), Done::Already);
        assert_eq!(scene.read(&config.path), "the user's");
        assert_eq!(write_in(&scene, &config).await.unwrap(), Done::Changed);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_link_is_followed() {
        let scene = Scene::new();
        scene.write_volume("provision.data/00000000", "new");
        scene.write("/etc/real", "old");
        scene.link("/etc/name", "real");
        write_in(&scene, &entry("/etc/name")).await.unwrap();
        assert_eq!(scene.read("/etc/real"), "new");
        assert!(scene.path("/etc/name").is_symlink());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn owners_are_names_or_numbers() {
        let scene = Scene::new();
        scene.write("/etc/group", "wheel:x:10:\n");
        let owner = |text: &str| owner(&scene.guest, text).map_err(|why| why.to_string());
        assert_eq!(owner("root:wheel").unwrap(), Owner { uid: 0, gid: 10 });
        assert_eq!(owner("lima").unwrap(), me());
        assert_eq!(owner("7:8").unwrap(), Owner { uid: 7, gid: 8 });
        assert_eq!(
            owner("ghost:0").unwrap_err(),
            "owner \"ghost:0\": the guest has no user \"ghost\""
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn bad_input_is_named() {
        let scene = Scene::new();
        let why = |entry: GuestProvision| {
            let scene = &scene;
            async move { write_in(scene, &entry).await.unwrap_err().to_string() }
        };
        assert_eq!(
            why(entry("relative")).await,
            "path \"relative\" is not absolute"
        );
        let mode = GuestProvision {
            permissions: "rw".to_owned(),
            ..entry("/x")
        };
        assert_eq!(why(mode).await, "permissions \"rw\" are no octal mode");
        assert!(
            why(entry("/x")).await.starts_with("could not read "),
            "no such file in the volume"
        );
    }
}
