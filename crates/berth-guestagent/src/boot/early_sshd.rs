//! sshd before its turn, so that a login is under way while the guest still boots.
//!
//! cloud-init holds sshd up until it has made users and keys. On a later boot they are there at once, and on Debian nearly
//! all of the system still waits for cloud-init. Only sshd is started early: `/run/nologin` stays until systemd lets people
//! in, so no session begins before its time. The host knows that, and has its login wait just before the end.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use berth_link::boot::BootSpec;

use crate::boot::running_sshd;
use crate::boot::step::{Done, StepError, Work};
use crate::files::read_text;
use crate::guest::{Guest, Init};
use crate::programs::Command;
use crate::stages::network;
use crate::watch::{Wait, WaitError};

/// Past this nothing is gained any more, and sshd may come in its turn.
const LIMIT: Duration = Duration::from_mins(2);

/// Where the guest's owner and its packages enable units.
const UNITS: [&str; 2] = ["/etc/systemd/system", "/usr/lib/systemd/system"];

/// Only where nothing can depend on sshd's coming late.
pub(crate) fn applies(spec: &BootSpec, guest: &Guest) -> bool {
    spec.early_sshd
        && guest.init == Init::Systemd
        // Without cloud-init nobody holds it up.
        && guest.has("/run/cloud-init/enabled")
        && was_booted(&spec.instance_id, guest)
        && !has_boot_commands(guest)
        && unit(guest).is_some()
}

/// cloud-init has noted that the modules which make users and host keys have run for this instance: it runs them once.
fn was_booted(instance_id: &str, guest: &Guest) -> bool {
    let has_run = |module: &str| {
        let note = format!("/var/lib/cloud/instances/{instance_id}/sem/config_{module}");
        guest.has(&note)
    };
    !instance_id.contains('/') && has_run("users_groups") && has_run("ssh")
}

/// Commands that the image, or the guest's owner, has cloud-init run at each boot before sshd starts.
fn has_boot_commands(guest: &Guest) -> bool {
    let drop_ins = fs::read_dir(guest.path("/etc/cloud/cloud.cfg.d"));
    let mut files: Vec<PathBuf> = drop_ins
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.push(guest.path("/etc/cloud/cloud.cfg"));
    files.iter().any(|file| {
        // What cannot be read may hold anything.
        read_text(file).map_or(true, |text| {
            let text = text.unwrap_or_default();
            text.lines().any(|line| line.starts_with("bootcmd"))
        })
    })
}

/// The service that the boot starts; none where a socket of systemd stands in for it.
pub(crate) fn unit(guest: &Guest) -> Option<String> {
    let unit = enabled(guest, "multi-user", "service")?;
    socket(guest).is_none().then_some(unit)
}

/// The socket of systemd that stands in for the service.
pub(crate) fn socket(guest: &Guest) -> Option<String> {
    enabled(guest, "sockets", "socket")
}

/// sshd's unit of this kind that comes with the target; Debian's name first.
fn enabled(guest: &Guest, target: &str, kind: &str) -> Option<String> {
    let is_enabled = |unit: &String| {
        UNITS.iter().any(|directory| {
            let link = guest.path(&format!("{directory}/{target}.target.wants/{unit}"));
            link.symlink_metadata().is_ok()
        })
    };
    let names = ["ssh", "sshd"].into_iter();
    names.map(|name| format!("{name}.{kind}")).find(is_enabled)
}

/// Starts it. That it cannot be started now is no failure: it comes in its turn.
pub(crate) async fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let Some(unit) = unit(work.guest) else {
        return Ok(Done::Already);
    };
    if let Err(why) = its_time(work).await {
        tracing::info!("sshd is left to its turn: {why}");
        return Ok(Done::Already);
    }
    start(work, &unit).await
}

async fn start(work: &Work<'_>, unit: &str) -> Result<Done, StepError> {
    // Joins the job that the boot has queued, and takes it out of the queue.
    let now = Command::new("systemctl")
        .args(["start", "--job-mode=ignore-dependencies", unit])
        .limit(LIMIT);
    if matches!(work.exit_code(&now).await, Ok(0)) {
        return Ok(Done::Changed);
    }
    // An address to listen on may be missing yet. Its job is used up, so it gets another, which waits for cloud-init.
    work.systemctl_no_wait(&["start", unit]).await?;
    Ok(Done::Already)
}

/// Waits until `/run` is set up (systemd writes `/run/nologin` then) and the host can reach the guest.
async fn its_time(work: &Work<'_>) -> Result<(), WaitError> {
    let paths = ["/run/nologin", "/run/sshd.pid"].map(|path| work.guest.path(path));
    let set_up = Wait {
        what: "systemd to keep people out (/run/nologin), or sshd",
        paths: &paths,
        limit: LIMIT,
        tick: None,
    };
    set_up
        .until(|| (paths[0].exists() || running_sshd(work.guest).is_some()).then_some(()))
        .await?;
    network::up(work.spec.nics.first(), LIMIT).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    const WANTS: &str = "/etc/systemd/system/multi-user.target.wants/ssh.service";

    /// A guest that boots again.
    fn scene() -> Scene {
        let mut scene = Scene::systemd();
        scene.spec.early_sshd = true;
        scene.write("/run/cloud-init/enabled", "");
        for module in ["users_groups", "ssh"] {
            let note = format!("/var/lib/cloud/instances/iid-1700000000/sem/config_{module}");
            scene.write(&note, "once");
        }
        scene.write(
            "/etc/cloud/cloud.cfg",
            "cloud_init_modules:\n - bootcmd\n - ssh\n",
        );
        scene.link(WANTS, "/lib/systemd/system/ssh.service");
        scene
    }

    fn applies_to(scene: &Scene) -> bool {
        applies(&scene.spec, &scene.guest)
    }

    #[test]
    fn a_later_boot_of_an_ordinary_guest_has_it() {
        assert!(applies_to(&scene()));
    }

    #[test]
    fn whatever_may_need_sshd_to_come_late_is_respected() {
        let without = |change: &dyn Fn(&mut Scene)| {
            let mut scene = scene();
            change(&mut scene);
            applies_to(&scene)
        };
        assert!(!without(&|scene| scene.spec.early_sshd = false));
        assert!(
            !without(&|scene| scene.spec.instance_id = "iid-2".to_owned()),
            "a first boot"
        );
        assert!(!without(&|scene| {
            fs::remove_file(scene.path("/run/cloud-init/enabled")).unwrap();
        }));
        assert!(!without(&|scene| {
            scene.write("/etc/cloud/cloud.cfg.d/50-own.cfg", "bootcmd:\n- echo\n");
        }));
        assert!(!without(&|scene| {
            scene.link(
                "/etc/systemd/system/sockets.target.wants/ssh.socket",
                "/lib/systemd/system/ssh.socket",
            );
        }));
        assert!(!without(&|scene| {
            fs::remove_file(scene.path(WANTS)).unwrap();
        }));
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn before_systemd_keeps_people_out_nothing_is_started() {
        let scene = scene();
        assert_eq!(scene.run(run).await.unwrap(), Done::Already);
        assert_eq!(scene.ran(), Vec::<String>::new());
    }

    async fn start_ssh(work: &Work<'_>) -> Result<Done, StepError> {
        start(work, "ssh.service").await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_is_started_whatever_it_comes_after() {
        let scene = scene();
        assert_eq!(scene.run(start_ssh).await.unwrap(), Done::Changed);
        assert_eq!(
            scene.ran(),
            ["systemctl start --job-mode=ignore-dependencies ssh.service"]
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_early_start_that_fails_is_followed_by_one_in_its_turn() {
        let scene = scene();
        scene.answer("systemctl start --job-mode", 1, "");
        assert_eq!(scene.run(start_ssh).await.unwrap(), Done::Already);
        assert_eq!(scene.ran()[1], "systemctl --no-block start ssh.service");
    }
}
