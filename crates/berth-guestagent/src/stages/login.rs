//! The user is ready when the account, its home directory and all its keys are there, whoever put them there.

use std::path::PathBuf;
use std::time::Duration;

use berth_link::boot::BootSpec;

use crate::boot::{keys_are_in_place, user_is_there};
use crate::guest::Guest;
use crate::watch::{Wait, WaitError};

/// Waits for the user.
pub(crate) async fn ready(
    spec: &BootSpec,
    guest: &Guest,
    limit: Duration,
) -> Result<(), WaitError> {
    // An account that exists with another home is the image's doing; then that one is watched.
    let account = guest.account(&spec.user.name).ok().flatten();
    let home = account.map_or_else(|| spec.user.home.clone(), |account| account.home);
    let paths: [PathBuf; 3] = [
        guest.path("/etc/passwd"),
        guest.path(&home),
        guest.path(&format!("{home}/.ssh/authorized_keys")),
    ];
    let wait = Wait {
        what: &format!("the user {:?} with its keys", spec.user.name),
        paths: &paths,
        limit,
        tick: None,
    };
    let is_ready = || user_is_there(spec, guest) && keys_are_in_place(spec, guest).unwrap_or(false);
    wait.until(|| is_ready().then_some(())).await
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::boot::testing::{Scene, me};
    use crate::stages::STAGE_LIMIT;

    #[tokio::test(flavor = "current_thread")]
    async fn the_last_key_makes_the_user_ready() {
        let mut scene = Scene::new();
        scene.spec.authorized_keys =
            vec!["ssh-ed25519 A a".to_owned(), "ssh-ed25519 B b".to_owned()];
        fs::remove_file(scene.path("/etc/passwd")).unwrap();
        fs::remove_dir(scene.path("/home/lima")).unwrap();
        let cloud_init = async {
            let uid = me().uid;
            scene.write(
                "/etc/passwd",
                &format!("lima:x:{uid}:{uid}::/home/lima:/bin/sh\n"),
            );
            tokio::task::yield_now().await;
            scene.write("/home/lima/.ssh/authorized_keys", "ssh-ed25519 A a\n");
            tokio::task::yield_now().await;
            scene.write(
                "/home/lima/.ssh/authorized_keys",
                "ssh-ed25519 A a\nssh-ed25519 B b\n",
            );
        };
        let (ready, ()) = tokio::join!(ready(&scene.spec, &scene.guest, STAGE_LIMIT), cloud_init);
        ready.unwrap();
    }
}
