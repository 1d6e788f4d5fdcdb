//! Points of the guest's own boot that other steps wait for. As steps of their own they show where the time went.

use std::time::Duration;

use crate::boot::step::{Done, StepError, Work};
use crate::guest::Init;
use crate::programs::Command;
use crate::stages::network;
use crate::watch::Wait;

/// How long DHCP may take.
const NETWORK_LIMIT: Duration = Duration::from_mins(3);

/// How long the guest's services may take to start, on an emulated CPU.
const SERVICES_LIMIT: Duration = Duration::from_mins(15);

/// How long the user's own service manager may take to start.
const SESSION_LIMIT: Duration = Duration::from_mins(2);

/// Waits for what the guest itself calls online.
pub(crate) async fn network_online(work: &Work<'_>) -> Result<Done, StepError> {
    if work.guest.init == Init::Systemd {
        // Joins the job that the boot has queued, and ends with it.
        let start = ["start", "network-online.target"];
        work.run(Command::new("systemctl").args(start).limit(NETWORK_LIMIT))
            .await?;
        return Ok(Done::Changed);
    }
    network::up(work.spec.nics.first(), NETWORK_LIMIT).await?;
    Ok(Done::Changed)
}

/// Waits for the guest's services: provision scripts may talk to them.
pub(crate) async fn services(work: &Work<'_>) -> Result<Done, StepError> {
    const TARGET: &str = "multi-user.target";
    if work.guest.init != Init::Systemd {
        // OpenRC tells nobody; what the network and sshd need is up by now.
        return Ok(Done::Already);
    }
    let show = ["show", "--property=ActiveState,Job", "--value", TARGET];
    let state = work.ask(Command::new("systemctl").args(show)).await?.answer;
    let mut state = state.lines().map(str::trim).filter(|line| !line.is_empty());
    // A guest that boots to another target, by its owner's choice, must not be led to this one.
    let is_on_its_way =
        state.any(|value| value == "active" || value.parse::<u32>().is_ok_and(|job| job > 0));
    if !is_on_its_way {
        return Ok(Done::Already);
    }
    work.run(
        Command::new("systemctl")
            .args(["start", TARGET])
            .limit(SERVICES_LIMIT),
    )
    .await?;
    Ok(Done::Changed)
}

/// Starts the user's own service manager, which rootless containers and some scripts talk to.
pub(crate) async fn user_session(work: &Work<'_>) -> Result<Done, StepError> {
    if work.guest.init != Init::Systemd || !work.guest.has_user_sessions() {
        return Ok(Done::Already);
    }
    let uid = work.account()?.owner.uid;
    let socket = work
        .guest
        .path(&format!("{}/systemd/private", runtime_directory(uid)));
    if socket.exists() {
        return Ok(Done::Already);
    }
    let unit = format!("user@{uid}.service");
    work.run(
        Command::new("systemctl")
            .args(["start", &unit])
            .limit(SESSION_LIMIT),
    )
    .await?;
    let paths = [socket];
    let wait = Wait {
        what: "the socket of the user's service manager",
        paths: &paths,
        limit: SESSION_LIMIT,
        tick: None,
    };
    wait.until(|| paths[0].exists().then_some(())).await?;
    Ok(Done::Changed)
}

/// `XDG_RUNTIME_DIR` of a user.
pub(crate) fn runtime_directory(uid: u32) -> String {
    format!("/run/user/{uid}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::{Scene, me};

    #[tokio::test(flavor = "current_thread")]
    async fn services_are_waited_for_only_where_they_are_to_come() {
        for (answer, expected) in [
            ("activating\n\n4711\n", true),
            ("inactive\n123\n", true),
            ("active\n0\n", true),
            ("inactive\n\n", false),
            ("inactive\n0\n", false),
        ] {
            let scene = Scene::systemd();
            scene.answer("systemctl show", 0, answer);
            scene.run(services).await.unwrap();
            let started = scene
                .ran()
                .iter()
                .any(|line| line == "systemctl start multi-user.target");
            assert_eq!(started, expected, "{answer:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_users_manager_is_started_once() {
        let scene = Scene::systemd();
        assert_eq!(
            scene.run(user_session).await.unwrap(),
            Done::Already,
            "no PAM module"
        );
        scene.write("/usr/lib/x86_64-linux-gnu/security/pam_systemd.so", "");
        let uid = me().uid;
        let socket = format!("/run/user/{uid}/systemd/private");
        let appears = async { scene.write(&socket, "") };
        let (done, ()) = tokio::join!(scene.run(user_session), appears);
        assert_eq!(done.unwrap(), Done::Changed);
        assert_eq!(scene.ran(), [format!("systemctl start user@{uid}.service")]);
        assert_eq!(scene.run(user_session).await.unwrap(), Done::Already);
    }
}
