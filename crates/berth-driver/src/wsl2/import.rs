//! Making a distribution of the image, all or nothing, and taking it away again.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_instance::dir::InstanceDir;

use crate::error::DriverError;
use crate::files::remove_all;
use crate::wsl2::state::State;
use crate::wsl2::wsl::Wsl;

/// Unpacking a few gigabytes on a slow disk.
const IMPORT: Duration = Duration::from_secs(60 * 60);
/// Removing a disk.
const UNREGISTER: Duration = Duration::from_secs(5 * 60);

/// Where WSL keeps a distribution's file system, in the directory that it was told at the import.
pub(super) fn vhdx(dir: &InstanceDir) -> PathBuf {
    dir.path().join("ext4.vhdx")
}

/// There while an import is under way, or when one was cut off.
fn unfinished(dir: &InstanceDir) -> PathBuf {
    dir.path().join("wsl2.import")
}

/// Makes sure that the distribution is there, whole, and this instance's.
pub(super) async fn ensure(wsl: &Wsl, dir: &InstanceDir) -> Result<(), DriverError> {
    let cut_off = unfinished(dir).exists();
    match wsl.state().await? {
        State::Stopped | State::Running if !cut_off => {
            require_ours(wsl, dir)?;
            // What is left when only the last act of an import was cut off.
            remove_all([dir.image()])
        }
        State::Busy if !cut_off => Err(DriverError::Program {
            program: wsl.distribution().to_owned(),
            why: "the distribution is being installed, removed, converted or exported: wait until that has ended"
                .to_owned(),
        }),
        State::Absent if !cut_off && vhdx(dir).exists() => Err(DriverError::Program {
            program: wsl.distribution().to_owned(),
            why: format!(
                "the distribution is not registered, but its disk is there: `wsl --import-in-place {} \"{}\"` registers it again",
                wsl.distribution(),
                vhdx(dir).display()
            ),
        }),
        state => {
            clear(wsl, dir, state).await?;
            import(wsl, dir).await
        }
    }
}

/// Whether there is a distribution, or the image that it is made of. Half of one does not count.
pub(super) async fn holds_system(wsl: &Wsl, dir: &InstanceDir) -> Result<bool, DriverError> {
    if dir.image().exists() {
        return Ok(true);
    }
    Ok(!unfinished(dir).exists() && (vhdx(dir).exists() || wsl.state().await? != State::Absent))
}

/// Names are the Windows user's, and not `LIMA_HOME`'s.
fn require_ours(wsl: &Wsl, dir: &InstanceDir) -> Result<(), DriverError> {
    if vhdx(dir).exists() {
        return Ok(());
    }
    Err(DriverError::Program {
        program: wsl.distribution().to_owned(),
        why: format!(
            "a distribution of that name is registered, but its disk is not {}: it belongs to another LIMA_HOME, or was moved. Rename the instance, or unregister the other",
            vhdx(dir).display()
        ),
    })
}

async fn import(wsl: &Wsl, dir: &InstanceDir) -> Result<(), DriverError> {
    let image = dir.image();
    require_archive(&image)?;
    let marker = unfinished(dir);
    std::fs::write(&marker, "").map_err(DriverError::io("create", &marker))?;
    let words = [
        OsStr::new("--import"),
        wsl.distribution().as_ref(),
        dir.path().as_os_str(),
        image.as_os_str(),
        "--version".as_ref(),
        "2".as_ref(),
    ];
    let imported = match wsl.order(&words, IMPORT).await {
        Ok(()) => require_imported(wsl, dir).await,
        failed => failed,
    };
    if let Err(why) = imported {
        // The marker stays where this fails, so that the next attempt begins with it.
        if let Err(error) = clear(wsl, dir, State::Busy).await {
            tracing::warn!(%error, "Half an import stays behind; the next start removes it.");
        }
        return Err(why);
    }
    remove_all([marker])?;
    remove_all([image])
}

/// An exit code alone is no distribution.
async fn require_imported(wsl: &Wsl, dir: &InstanceDir) -> Result<(), DriverError> {
    let there = matches!(wsl.state().await?, State::Stopped | State::Running);
    if there && vhdx(dir).exists() {
        return Ok(());
    }
    Err(DriverError::Program {
        program: "wsl.exe --import".to_owned(),
        why: format!(
            "it says that it has imported {}, which is not so",
            wsl.distribution()
        ),
    })
}

/// Removes what a cut-off import has left.
async fn clear(wsl: &Wsl, dir: &InstanceDir, state: State) -> Result<(), DriverError> {
    if state != State::Absent {
        // Somebody may have taken the name while ours was cut off: what has no disk here is not ours to remove.
        require_ours(wsl, dir)?;
        unregister(wsl).await?;
    }
    remove_all([vhdx(dir), unfinished(dir)])
}

/// Removes the distribution, if there is one: registration and disk.
pub(super) async fn unregister(wsl: &Wsl) -> Result<(), DriverError> {
    let name = wsl.distribution();
    if wsl.state().await? == State::Absent {
        return Ok(());
    }
    let plain = wsl.order(&["--unregister", name], UNREGISTER).await;
    if wsl.state().await? == State::Absent {
        return Ok(());
    }
    // Later versions ask, and take it for a no when nobody answers. Earlier ones do not know the option.
    let forced = wsl
        .order(&["--unregister", name, "--force"], UNREGISTER)
        .await;
    if wsl.state().await? == State::Absent {
        return Ok(());
    }
    forced.and(plain)?;
    Err(DriverError::Program {
        program: format!("wsl.exe --unregister {name}"),
        why: "it says that it has removed the distribution, which is not so".to_owned(),
    })
}

/// Refuses what is certainly no archive, whatever its name says: WSL's own words for it are of no help.
fn require_archive(image: &Path) -> Result<(), DriverError> {
    let mut head = Vec::new();
    let file = File::open(image).map_err(DriverError::io("open", image))?;
    file.take(512)
        .read_to_end(&mut head)
        .map_err(DriverError::io("read", image))?;
    let is_tar = head.get(257..262) == Some(b"ustar");
    let what = match head.as_slice() {
        _ if is_tar => return Ok(()),
        [] => "is empty",
        [b'Q', b'F', b'I', 0xfb, ..] => "is a qcow2 disk",
        [b'h', b's', b'q', b's', ..] => "is a SquashFS file system",
        [b'v', b'h', b'd', b'x', b'f', ..] => "is a VHDX disk",
        head if head.get(510..512) == Some(&[0x55, 0xaa]) => "is a raw disk",
        _ => return Ok(()),
    };
    Err(DriverError::refuse(
        "images[].location",
        format!(
            "{} {what}, and WSL imports only tar archives of a root file system: name one, and remove {}",
            image.display(),
            image.display()
        ),
    ))
}
