//! Rosetta: the directory with its program, and whoever runs Intel programs with it.

use berth_link::boot::{BootSpec, RosettaSpec};

use crate::boot::step::{Done, StepError, Work};
use crate::files::failed;
use crate::guest::Guest;
use crate::mount_table::is_mounted;
use crate::programs::Command;

/// Where Lima mounts it.
const MOUNT_POINT: &str = "/mnt/lima-rosetta";
/// The kernel's list of interpreters.
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";
const NAME: &str = "rosetta";

/// How 64-bit Intel programs begin, and which bits of that count: the ELF header up to the machine's number, with the ABI's
/// byte and the last bit of the type left out.
const MAGIC: &str = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00";
const MASK: &str =
    r"\xff\xff\xff\xff\xff\xfe\xfe\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
/// The interpreter is opened now, gets the program's rights, and the program itself as an open file.
const FLAGS: &str = "OCF";

/// The host shares it.
pub(crate) fn applies(spec: &BootSpec, _guest: &Guest) -> bool {
    spec.rosetta.is_some()
}

/// Mounts the directory, and registers the program in it.
pub(crate) async fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let Some(RosettaSpec { tag, binfmt }) = &work.spec.rosetta else {
        return Ok(Done::Already);
    };
    let mounted = is_mounted(work.guest, MOUNT_POINT)?;
    if !mounted {
        let point = work.guest.path(MOUNT_POINT);
        std::fs::create_dir_all(&point).map_err(failed("create", &point))?;
        work.run(Command::new("mount").args(["-t", "virtiofs", tag, MOUNT_POINT]))
            .await?;
    }
    let registered = *binfmt && register(work).await?;
    Ok(Done::changed(!mounted || registered))
}

async fn register(work: &Work<'_>) -> Result<bool, StepError> {
    let register = format!("{BINFMT}/register");
    if !work.guest.has(&register) {
        work.run(Command::new("mount").args(["-t", "binfmt_misc", "binfmt_misc", BINFMT]))
            .await?;
    }
    if work.guest.has(&format!("{BINFMT}/{NAME}")) {
        return Ok(false);
    }
    let entry = format!(":{NAME}:M::{MAGIC}:{MASK}:{MOUNT_POINT}/{NAME}:{FLAGS}");
    let register = work.guest.path(&register);
    std::fs::write(&register, entry).map_err(failed("write", &register))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    fn scene(binfmt: bool) -> Scene {
        let mut scene = Scene::new();
        assert!(!applies(&scene.spec, &scene.guest));
        scene.spec.rosetta = Some(RosettaSpec {
            tag: "vz-rosetta".to_owned(),
            binfmt,
        });
        assert!(applies(&scene.spec, &scene.guest));
        scene
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_is_mounted_and_registered() {
        let scene = scene(true);
        scene.write("/proc/sys/fs/binfmt_misc/register", "");
        assert_eq!(scene.run(run).await.unwrap(), Done::Changed);
        let mount = "mount -t virtiofs vz-rosetta /mnt/lima-rosetta";
        assert_eq!(scene.ran(), [mount]);
        let entry = scene.read("/proc/sys/fs/binfmt_misc/register");
        assert!(entry.starts_with(r":rosetta:M::\x7fELF\x02"), "{entry}");
        assert!(entry.ends_with(":/mnt/lima-rosetta/rosetta:OCF"), "{entry}");
        let bytes = |text: &str| text.replace("ELF", r"\x\x\x").matches(r"\x").count();
        assert_eq!((bytes(MAGIC), bytes(MASK)), (20, 20));

        scene.write(
            "/proc/self/mountinfo",
            "1 1 0:1 / /mnt/lima-rosetta rw - virtiofs vz-rosetta rw\n",
        );
        scene.write("/proc/sys/fs/binfmt_misc/rosetta", "enabled\n");
        assert_eq!(scene.run(run).await.unwrap(), Done::Already);
        assert!(scene.ran().is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_binfmt_it_is_only_mounted() {
        let scene = scene(false);
        assert_eq!(scene.run(run).await.unwrap(), Done::Changed);
        assert_eq!(scene.ran().len(), 1);
        assert!(!scene.guest.has("/proc/sys/fs/binfmt_misc/register"));
    }
}
