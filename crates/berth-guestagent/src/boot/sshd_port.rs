//! Another port for sshd: where several guests share one network, only one of them can have the usual one.

use berth_link::boot::BootSpec;

use crate::block::{BERTH, Place};
use crate::boot::early_sshd;
use crate::boot::sshd_config::{CONFIG, DROP_IN_DIRECTORY, reload_sshd};
use crate::boot::step::{Done, StepError, Work};
use crate::files::{Attributes, Loss, edit, put, remove};
use crate::guest::{Guest, Init};
use crate::programs::Command;

/// sshd's own idea.
const USUAL: u16 = 22;
const DROP_IN: &str = "/etc/ssh/sshd_config.d/20-berth-port.conf";

/// Another port is asked for, or was.
pub(crate) fn applies(spec: &BootSpec, guest: &Guest) -> bool {
    spec.ssh_port != USUAL || guest.has(DROP_IN)
}

/// Writes it, and has sshd listen there, if it has started already.
pub(crate) async fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let (guest, port) = (work.guest, work.spec.ssh_port);
    let line = format!("Port {port}");
    let drop_in = guest.path(DROP_IN);
    let changed = if port == USUAL {
        remove(&drop_in)?
    } else if guest.has(DROP_IN_DIRECTORY) {
        let root = Attributes::root(0o644);
        put(
            &drop_in,
            format!("{line}\n").as_bytes(),
            root,
            Loss::Matters,
        )?
    } else {
        let lines = [line];
        edit(&guest.path(CONFIG), 0o600, |text| {
            BERTH.set(text, Place::Top, &lines)
        })?
    };
    if changed {
        restart(work).await?;
    }
    Ok(Done::changed(changed))
}

/// A reload would not do: one that found its port taken is not there any more.
async fn restart(work: &Work<'_>) -> Result<(), StepError> {
    if work.guest.init != Init::Systemd {
        reload_sshd(work.guest);
        return Ok(());
    }
    if let Some(socket) = early_sshd::socket(work.guest) {
        // Debian's generator takes the port out of sshd's configuration.
        work.run(Command::new("systemctl").arg("daemon-reload"))
            .await?;
        return work.systemctl_no_wait(&["restart", &socket]).await;
    }
    match early_sshd::unit(work.guest) {
        Some(unit) => work.systemctl_no_wait(&["restart", &unit]).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::boot::testing::Scene;

    const WANTS: &str = "/etc/systemd/system/multi-user.target.wants/ssh.service";

    #[tokio::test(flavor = "current_thread")]
    async fn sshd_moves_once_and_back() {
        let mut scene = Scene::systemd();
        scene.link(WANTS, "/lib/systemd/system/ssh.service");
        fs::create_dir_all(scene.path(DROP_IN_DIRECTORY)).unwrap();
        assert!(!applies(&scene.spec, &scene.guest));
        scene.spec.ssh_port = 23022;
        assert!(applies(&scene.spec, &scene.guest));
        assert_eq!(scene.run(run).await.unwrap(), Done::Changed);
        assert_eq!(scene.read(DROP_IN), "Port 23022\n");
        assert_eq!(scene.ran(), ["systemctl --no-block restart ssh.service"]);
        assert_eq!(scene.run(run).await.unwrap(), Done::Already);
        assert_eq!(scene.ran(), [""; 0]);
        scene.spec.ssh_port = USUAL;
        assert!(applies(&scene.spec, &scene.guest));
        assert_eq!(scene.run(run).await.unwrap(), Done::Changed);
        assert!(!scene.guest.has(DROP_IN));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_socket_in_its_place_moves_too() {
        let mut scene = Scene::systemd();
        let socket = "/etc/systemd/system/sockets.target.wants/ssh.socket";
        scene.link(socket, "/lib/systemd/system/ssh.socket");
        fs::create_dir_all(scene.path(DROP_IN_DIRECTORY)).unwrap();
        scene.spec.ssh_port = 23022;
        scene.run(run).await.unwrap();
        let expected = [
            "systemctl daemon-reload",
            "systemctl --no-block restart ssh.socket",
        ];
        assert_eq!(scene.ran(), expected);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_drop_ins_the_file_itself_is_changed() {
        let mut scene = Scene::new();
        scene.write(CONFIG, "X11Forwarding no\n");
        scene.spec.ssh_port = 23022;
        scene.run_twice(run).await;
        let config = scene.read(CONFIG);
        assert!(config.contains("\nPort 23022\n"), "{config}");
        assert!(config.ends_with("X11Forwarding no\n"), "{config}");
    }
}
